/* The Python extension vtrn._nki: tensors as objects, and calls of nki/nki.h. What its files share.
 * Names and arguments of NKI's functions are the business of python/vtrn/nki/. */
#ifndef VTRN_NKI_PYTHON_EXT_H
#define VTRN_NKI_PYTHON_EXT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "nki/nki.h"

/* Places of a kernel that issued something: resolved to file and line when asked for. */
typedef struct ext_place {
    PyCodeObject *code;
    int lasti; /* byte offset in it */
    const char *op;
} ext_place;

typedef struct ext_places {
    ext_place *list;
    uint32_t n, cap;
    uint32_t *table; /* open addressing: number + 1, 0 empty */
    uint32_t n_table;
} ext_places;

typedef struct ext_session {
    PyObject_HEAD nki_session *session;
    ext_places places;
} ext_session;

/* Memory of a tensor: lives while a view does. */
typedef struct ext_storage {
    PyObject_HEAD ext_session *session;
    nki_storage *storage;
    Py_buffer lent; /* the caller's bytes of an argument, held while it lives */
} ext_storage;

typedef struct ext_tensor {
    PyObject_HEAD nki_view view;
    ext_storage *storage;
    PyObject *buffer, *name;
    PyObject *indirect; /* what the view's address depends on, Python's business; or NULL */
} ext_tensor;

/* Bytes of a result, for as long as an array uses them. */
typedef struct ext_memory {
    PyObject_HEAD nki_memory *memory;
    void *bytes;
    Py_ssize_t n_bytes;
} ext_memory;

extern PyTypeObject ext_session_type, ext_storage_type, ext_tensor_type, ext_memory_type;
extern ext_session *ext_current; /* of the kernel that runs; NULL: none does */
extern PyObject *ext_error;      /* class of errors, called with message and category */
extern PyObject *ext_dtypes;     /* list by vtrn_dtype */
extern PyObject *ext_index;      /* called with a tensor and a subscript that is not a plain one */

/* Sets the exception and frees the status. op: what was called, NULL outside of a kernel. */
void ext_raise(vtrn_status status, const char *op);

/* The session of the kernel that runs, or NULL with an exception. */
ext_session *ext_session_now(void);

/* ext_place.c */
/* The number of the kernel's line that called; op lives as long as the process. -1: exception. */
int64_t ext_place_note(ext_places *places, const char *op);
/* "kernel.py:42" of the place; "" when unknown. New reference or NULL with an exception. */
PyObject *ext_place_text(const ext_place *place);
/* The same of the kernel's line that runs. */
PyObject *ext_place_now(void);
void ext_places_free(ext_places *places);
/* Folder whose functions are not the kernel's. */
int ext_place_set_folder(PyObject *folder);

/* ext_casts.c */
/* Addresses of three functions as NumPy registers them: fp32 and fp64 to a float of 8 bits, and
 * that to fp32. Of buffers: the code of each fp32 by its upper 16 bits, of which the last one also
 * says that a lower one is set; and the fp32 of each code. NULL with an exception. */
PyObject *ext_table_casts(PyObject *module, PyObject *args);

/* ext_tensor.c */
ext_tensor *ext_tensor_alloc(PyTypeObject *type, const ext_tensor *like);
static inline bool ext_is_tensor(PyObject *o) {
    return PyObject_TypeCheck(o, &ext_tensor_type);
}
/* Integers of a tuple or list, at most max. -1: exception. */
int ext_integers(PyObject *sequence, int64_t *out, int max, const char *what);

/* ext_walk.c */
/* The figures of a profile: of one core, or the mean of several. */
PyObject *ext_figures(const nki_times *times, int n_partitions, int n_cores);
/* A walk of the session's kernel, in a capsule. */
PyObject *ext_walk(nki_session *session, const nki_finish_options *options);
PyObject *ext_exchanging(ext_session *self, PyObject *is_exchanging);
PyObject *ext_exchange_time(ext_session *self, PyObject *args);
extern PyMethodDef ext_walk_methods[];

/* ext_call.c */
extern PyMethodDef ext_call_methods[];

#endif
