/* Casts of fp32 and fp64 to floats of 8 bits, and back to fp32, by tables, as NumPy's arrays of
 * another package call them: that package's own take some 6 ns an element, and the references of
 * third-party tests cast billions. The tables are the caller's, made of that package's values. */
#include "ext.h"

enum { N_TYPES = 8, N_ROUNDED = 1 << 16, N_CODES = 1 << 8 };

/* Of a type: the code of each fp32 whose lower 16 bits are one sticky bit, at the end of the upper
 * ones, and the fp32 of each code. */
static struct {
    uint8_t narrow[N_ROUNDED];
    uint32_t wide[N_CODES];
} tables[N_TYPES];

/* What NumPy's API calls a PyArray_VectorUnaryFunc: n aligned elements, and the two arrays. */
typedef void cast_function(void *from, void *to, Py_ssize_t n, void *from_array, void *to_array);

static inline void narrow(const uint8_t *table, const uint32_t *from, uint8_t *to, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++)
        to[i] = table[from[i] >> 16 | ((from[i] & 0xffff) != 0)];
}

/* Of fp64, which the package rounds to fp32 first. */
static inline void narrow_double(const uint8_t *table, const double *from, uint8_t *to,
                                 Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++) {
        const float nearest = (float)from[i];
        uint32_t bits;
        memcpy(&bits, &nearest, sizeof bits);
        to[i] = table[bits >> 16 | ((bits & 0xffff) != 0)];
    }
}

static inline void widen(const uint32_t *table, const uint8_t *from, uint32_t *to, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++)
        to[i] = table[from[i]];
}

#define CASTS_OF(i)                                                                                \
    static void narrow_##i(void *from, void *to, Py_ssize_t n, void *from_array, void *to_array) { \
        (void)from_array, (void)to_array;                                                          \
        narrow(tables[i].narrow, from, to, n);                                                     \
    }                                                                                              \
    static void narrow_double_##i(void *from, void *to, Py_ssize_t n, void *from_array,            \
                                  void *to_array) {                                                \
        (void)from_array, (void)to_array;                                                          \
        narrow_double(tables[i].narrow, from, to, n);                                              \
    }                                                                                              \
    static void widen_##i(void *from, void *to, Py_ssize_t n, void *from_array, void *to_array) {  \
        (void)from_array, (void)to_array;                                                          \
        widen(tables[i].wide, from, to, n);                                                        \
    }
CASTS_OF(0)
CASTS_OF(1)
CASTS_OF(2)
CASTS_OF(3)
CASTS_OF(4)
CASTS_OF(5)
CASTS_OF(6)
CASTS_OF(7)
#define ALL(i)                                                                                     \
    { narrow_##i, narrow_double_##i, widen_##i }
static cast_function *const functions[N_TYPES][3] = {ALL(0), ALL(1), ALL(2), ALL(3),
                                                     ALL(4), ALL(5), ALL(6), ALL(7)};

PyObject *ext_table_casts(PyObject *module, PyObject *args) {
    static int n_types;
    Py_buffer codes, values;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*", &codes, &values))
        return NULL;
    PyObject *addresses = NULL;
    if (codes.len != sizeof tables->narrow || values.len != sizeof tables->wide)
        PyErr_Format(PyExc_ValueError,
                     "a table of %d codes and one of %d fp32 are asked for; got %zd and %zd bytes",
                     N_ROUNDED, N_CODES, codes.len, values.len);
    else if (n_types == N_TYPES)
        PyErr_Format(PyExc_ValueError,
                     "there are tables of %d types already, which is as many as there can be",
                     N_TYPES);
    else {
        memcpy(tables[n_types].narrow, codes.buf, sizeof tables->narrow);
        memcpy(tables[n_types].wide, values.buf, sizeof tables->wide);
        addresses = Py_BuildValue("NNN", PyLong_FromVoidPtr((void *)functions[n_types][0]),
                                  PyLong_FromVoidPtr((void *)functions[n_types][1]),
                                  PyLong_FromVoidPtr((void *)functions[n_types][2]));
        n_types++;
    }
    PyBuffer_Release(&codes);
    PyBuffer_Release(&values);
    return addresses;
}
