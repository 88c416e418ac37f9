/* Tensors as Python objects: views of a storage, plain subscripts, attributes. */
#include "nki/python/ext.h"

#include <structmember.h>

static void storage_dealloc(ext_storage *self) {
    if (self->session->session)
        vtrn_nki_release(self->storage);
    PyBuffer_Release(&self->lent);
    Py_DECREF(self->session);
    PyObject_Free(self);
}

PyTypeObject ext_storage_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "vtrn._nki.Storage",
    .tp_basicsize = sizeof(ext_storage),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)storage_dealloc,
    .tp_doc = "Memory of a tensor on the virtual chip.",
};

ext_tensor *ext_tensor_alloc(PyTypeObject *type, const ext_tensor *like) {
    ext_tensor *t = (ext_tensor *)type->tp_alloc(type, 0);
    if (!t || !like)
        return t;
    t->view = like->view;
    t->storage = like->storage;
    t->buffer = like->buffer;
    t->name = like->name;
    Py_XINCREF(t->storage);
    Py_XINCREF(t->buffer);
    Py_XINCREF(t->name);
    return t;
}

static void tensor_dealloc(ext_tensor *self) {
    Py_XDECREF(self->storage);
    Py_XDECREF(self->buffer);
    Py_XDECREF(self->name);
    Py_XDECREF(self->indirect);
    Py_TYPE(self)->tp_free(self);
}

int ext_integers(PyObject *sequence, int64_t *out, int max, const char *what) {
    PyObject *fast = PySequence_Fast(sequence, what);
    if (!fast)
        return -1;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(fast);
    if (n > max) {
        PyErr_Format(PyExc_ValueError, "%s: %zd dimensions > %d; merge some (reshape)", what, n,
                     max);
        n = -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *number = PyNumber_Index(PySequence_Fast_GET_ITEM(fast, i));
        out[i] = number ? PyLong_AsLongLong(number) : -1;
        Py_XDECREF(number);
        if (PyErr_Occurred()) {
            n = -1;
            break;
        }
    }
    Py_DECREF(fast);
    return (int)n;
}

static PyObject *tuple_of(const int64_t *numbers, int n) {
    PyObject *tuple = PyTuple_New(n);
    for (int i = 0; tuple && i < n; i++) {
        PyObject *number = PyLong_FromLongLong(numbers[i]);
        if (!number) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, i, number);
    }
    return tuple;
}

/* A subscript at work: dimensions of the result so far. */
typedef struct subscript {
    const ext_tensor *from;
    nki_view view;
    int dim; /* of `from` that is next */
    bool is_on_chip;
} subscript;

/* An IndexError that names the tensor and the kernel's line. */
static int refuse_subscript(const ext_tensor *t, const char *what, PyObject *item) {
    PyObject *shape = tuple_of(t->view.shape, t->view.n_dims), *place = ext_place_now();
    PyObject *region = t->buffer ? PyObject_GetAttrString(t->buffer, "value") : NULL;
    bool has_name = t->name && PyUnicode_Check(t->name) && PyUnicode_GET_LENGTH(t->name);
    if (shape && place && (region || !t->buffer))
        PyErr_Format(PyExc_IndexError, "subscript %R of a tensor%s%V in %V of shape %R: %s%s%U",
                     item, has_name ? " " : "", has_name ? t->name : NULL, "", region, "memory",
                     shape, what, PyUnicode_GET_LENGTH(place) ? "\n  at " : "", place);
    Py_XDECREF(shape);
    Py_XDECREF(place);
    Py_XDECREF(region);
    return -1;
}

static int out_of_range(const subscript *s, int64_t index, PyObject *item) {
    char what[120];
    snprintf(what, sizeof what, "index %lld of dimension %d, which has %lld elements",
             (long long)index, s->dim, (long long)s->from->view.shape[s->dim]);
    return refuse_subscript(s->from, what, item);
}

static void take_dim(subscript *s, int64_t shape, int64_t step) {
    s->view.shape[s->view.n_dims] = shape;
    s->view.step[s->view.n_dims++] = step;
    s->dim++;
}

static int take_all(subscript *s) {
    take_dim(s, s->from->view.shape[s->dim], s->from->view.step[s->dim]);
    return 0;
}

static int take_index(subscript *s, PyObject *item) {
    int64_t i = PyLong_AsLongLong(item), n = s->from->view.shape[s->dim];
    if (i == -1 && PyErr_Occurred())
        return -1;
    if (i < -n || i >= n)
        return out_of_range(s, i, item);
    int64_t step = s->from->view.step[s->dim];
    s->view.offset += (i < 0 ? i + n : i) * step;
    if (s->dim == 0 && s->is_on_chip)
        take_dim(s, 1, step);
    else
        s->dim++;
    return 0;
}

static bool bound_of(PyObject *bound, int64_t *out) {
    if (bound == Py_None)
        return true;
    PyObject *number = PyNumber_Index(bound);
    *out = number ? PyLong_AsLongLong(number) : -1;
    Py_XDECREF(number);
    return !PyErr_Occurred();
}

/* Unlike Python's, a slice that ends beyond the tensor is an error: chips do not clamp. */
static int take_slice(subscript *s, PyObject *item) {
    PySliceObject *slice = (PySliceObject *)item;
    int64_t n = s->from->view.shape[s->dim], step = 1;
    if (!bound_of(slice->step, &step))
        return -1;
    if (step == 0) {
        PyErr_SetString(
            PyExc_ValueError,
            "a slice with step 0; a step is positive or negative, and 1 where none is given");
        return -1;
    }
    int64_t start = step > 0 ? 0 : n - 1, stop = step > 0 ? n : -1;
    if (!bound_of(slice->start, &start) || !bound_of(slice->stop, &stop))
        return -1;
    start += start < 0 && slice->start != Py_None ? n : 0;
    stop += stop < 0 && slice->stop != Py_None ? n : 0;
    int64_t count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
    if (start < 0 || start > n || stop > n || stop < -1)
        return out_of_range(s, start < 0 || start > n ? start : stop - 1, item);
    count = count < 0 ? 0 : count; /* an empty view, which no instruction takes */
    int64_t old = s->from->view.step[s->dim];
    s->view.offset += start * old;
    take_dim(s, count, step * old);
    return 0;
}

/* On chip a view has a partition and a free dimension at least, in HBM one. */
static void pad_dims(subscript *s) {
    int least = s->is_on_chip ? 2 : 1;
    while (s->view.n_dims < least) {
        s->view.shape[s->view.n_dims] = 1;
        s->view.step[s->view.n_dims++] = 1;
    }
}

/* 1: not a plain subscript. */
static int take_item(subscript *s, PyObject *item) {
    if (s->dim >= s->from->view.n_dims) {
        return refuse_subscript(s->from, "there are more of them than dimensions", item);
    }
    if (PySlice_Check(item))
        return take_slice(s, item);
    if (PyLong_Check(item))
        return take_index(s, item);
    return 1;
}

static PyObject *tensor_subscript(ext_tensor *self, PyObject *key) {
    bool is_tuple = PyTuple_Check(key);
    Py_ssize_t n = is_tuple ? PyTuple_GET_SIZE(key) : 1;
    subscript s = {.from = self,
                   .view = {.storage = self->view.storage,
                            .dtype = self->view.dtype,
                            .offset = self->view.offset},
                   .is_on_chip = self->view.storage->space != VTRN_SPACE_HBM};
    int result = self->indirect && self->indirect != Py_None ? 1 : 0;
    for (Py_ssize_t i = 0; i < n && result == 0; i++) {
        PyObject *item = is_tuple ? PyTuple_GET_ITEM(key, i) : key;
        if (item == Py_Ellipsis)
            while (s.dim < self->view.n_dims - (int)(n - i - 1))
                take_all(&s);
        else
            result = take_item(&s, item);
    }
    if (result > 0)
        return PyObject_CallFunctionObjArgs(ext_index, (PyObject *)self, key, NULL);
    if (result < 0)
        return NULL;
    while (s.dim < self->view.n_dims)
        take_all(&s);
    pad_dims(&s);
    ext_tensor *out = ext_tensor_alloc(Py_TYPE(self), self);
    if (out)
        out->view = s.view;
    return (PyObject *)out;
}

static Py_ssize_t tensor_length(ext_tensor *self) {
    return (Py_ssize_t)self->view.shape[0];
}

static PyObject *get_shape(ext_tensor *self, void *unused) {
    (void)unused;
    return tuple_of(self->view.shape, self->view.n_dims);
}

static PyObject *get_strides(ext_tensor *self, void *unused) {
    (void)unused;
    return tuple_of(self->view.step, self->view.n_dims);
}

static PyObject *get_offset(ext_tensor *self, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(self->view.offset);
}

static PyObject *get_ndim(ext_tensor *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(self->view.n_dims);
}

static PyObject *get_dtype(ext_tensor *self, void *unused) {
    (void)unused;
    PyObject *dtype = PyList_GetItem(ext_dtypes, self->view.dtype);
    Py_XINCREF(dtype);
    return dtype;
}

static PyObject *get_dtype_number(ext_tensor *self, void *unused) {
    (void)unused;
    return PyLong_FromLong(self->view.dtype);
}

static PyObject *get_is_on_chip(ext_tensor *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->view.storage->space != VTRN_SPACE_HBM);
}

static PyObject *get_is_psum(ext_tensor *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->view.storage->space == VTRN_SPACE_PSUM);
}

static PyObject *get_row_elements(ext_tensor *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(self->view.storage->row_bytes);
}

static PyObject *get_storage_id(ext_tensor *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(self->view.storage->id);
}

static PyObject *get_n_writes(ext_tensor *self, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(vtrn_nki_n_writes(self->view.storage));
}

static PyGetSetDef tensor_getset[] = {
    {"_n_writes", (getter)get_n_writes, NULL, "Instructions that wrote to the memory.", NULL},
    {"shape", (getter)get_shape, NULL, "Elements by dimension.", NULL},
    {"strides", (getter)get_strides, NULL, "Steps by dimension, in elements.", NULL},
    {"offset", (getter)get_offset, NULL, "Of the first element, in elements.", NULL},
    {"ndim", (getter)get_ndim, NULL, "Number of dimensions.", NULL},
    {"dtype", (getter)get_dtype, NULL, "Data type.", NULL},
    {"_dtype", (getter)get_dtype_number, NULL, "Number of the data type.", NULL},
    {"_is_on_chip", (getter)get_is_on_chip, NULL, "In SBUF or PSUM.", NULL},
    {"_is_psum", (getter)get_is_psum, NULL, "In PSUM.", NULL},
    {"_row_bytes", (getter)get_row_elements, NULL, "Bytes of a partition of the tensor.", NULL},
    {"_storage_id", (getter)get_storage_id, NULL, "Number of the memory.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef tensor_members[] = {
    {"buffer", T_OBJECT, offsetof(ext_tensor, buffer), READONLY, "Where it lies."},
    {"name", T_OBJECT, offsetof(ext_tensor, name), READONLY, "Name, or ''."},
    {"_indirect", T_OBJECT, offsetof(ext_tensor, indirect), 0, "What the address depends on."},
    {NULL, 0, 0, 0, NULL},
};

/* _view(shape, strides, offset, dtype): another view of the same memory. */
static PyObject *tensor_view(ext_tensor *self, PyObject *args) {
    PyObject *shape, *strides;
    long long offset;
    int dtype;
    if (!PyArg_ParseTuple(args, "OOLi", &shape, &strides, &offset, &dtype))
        return NULL;
    nki_view view = {.storage = self->view.storage, .dtype = (uint8_t)dtype, .offset = offset};
    int n = ext_integers(shape, view.shape, NKI_MAX_DIMS, "shape");
    if (n < 0 || ext_integers(strides, view.step, NKI_MAX_DIMS, "strides") != n) {
        if (!PyErr_Occurred())
            PyErr_SetString(
                PyExc_ValueError,
                "a view has a stride for each dimension; give as many strides as sizes");
        return NULL;
    }
    for (int i = 0; i < n; i++)
        if (view.shape[i] < 1)
            return PyErr_Format(PyExc_ValueError,
                                "dimension %d of a view has %lld elements; it has one at least", i,
                                (long long)view.shape[i]);
    view.n_dims = (uint8_t)n;
    ext_tensor *out = ext_tensor_alloc(Py_TYPE(self), self);
    if (out)
        out->view = view;
    return (PyObject *)out;
}

/* Bytes of the view; -1: its kernel is over. */
static int64_t bytes_of(const ext_tensor *self) {
    bool is_alive = self->view.storage->session && self->storage->session->session;
    if (is_alive)
        return vtrn_nki_view_bytes(&self->view);
    PyErr_SetString(
        PyExc_RuntimeError,
        "the kernel of this tensor is over; look at it while the kernel runs, or return it");
    return -1;
}

/* _read(): the elements as bytes, and how many of them nothing has written. */
static PyObject *tensor_read(ext_tensor *self, PyObject *unused) {
    (void)unused;
    int64_t n = bytes_of(self);
    PyObject *bytes = n < 0 ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (!bytes)
        return NULL;
    uint64_t n_unwritten = 0;
    vtrn_status status = vtrn_nki_read(&self->view, PyBytes_AS_STRING(bytes), &n_unwritten);
    if (status) {
        Py_DECREF(bytes);
        ext_raise(status, "read");
        return NULL;
    }
    return Py_BuildValue("NK", bytes, (unsigned long long)n_unwritten);
}

/* _written(): None where all elements are written, or may be; else a byte an element, 0 where none
 * is. */
static PyObject *tensor_written(ext_tensor *self, PyObject *unused) {
    (void)unused;
    int64_t n = 1;
    for (int i = 0; i < self->view.n_dims; i++)
        n *= self->view.shape[i];
    PyObject *bytes = bytes_of(self) < 0 ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);
    if (!bytes)
        return NULL;
    uint64_t n_unwritten = 0;
    vtrn_status status =
        vtrn_nki_written(&self->view, (uint8_t *)PyBytes_AS_STRING(bytes), &n_unwritten);
    if (!status && n_unwritten)
        return bytes;
    Py_DECREF(bytes);
    if (!status)
        Py_RETURN_NONE;
    ext_raise(status, "read");
    return NULL;
}

/* _zero_unwritten(): elements that nothing has written become 0. */
static PyObject *tensor_zero_unwritten(ext_tensor *self, PyObject *unused) {
    (void)unused;
    vtrn_status status = vtrn_nki_zero_unwritten(&self->view);
    if (!status)
        Py_RETURN_NONE;
    ext_raise(status, "read");
    return NULL;
}

/* _read_into(buffer): the elements into bytes of Python's; how many of them nothing has written. */
static PyObject *tensor_read_into(ext_tensor *self, PyObject *to) {
    int64_t n = bytes_of(self);
    Py_buffer buffer;
    if (n < 0 || PyObject_GetBuffer(to, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    uint64_t n_unwritten = 0;
    vtrn_status status = NULL;
    if (buffer.len == n)
        status = vtrn_nki_read(&self->view, buffer.buf, &n_unwritten);
    else
        PyErr_Format(PyExc_ValueError, "%zd bytes for %lld", buffer.len, (long long)n);
    PyBuffer_Release(&buffer);
    if (status)
        ext_raise(status, "read");
    return PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(n_unwritten);
}

static void memory_dealloc(ext_memory *self) {
    vtrn_nki_memory_release(self->memory);
    PyObject_Free(self);
}

static int memory_buffer(PyObject *self, Py_buffer *buffer, int flags) {
    ext_memory *m = (ext_memory *)self;
    return PyBuffer_FillInfo(buffer, self, m->bytes, m->n_bytes, 0, flags);
}

static PyBufferProcs memory_as_buffer = {.bf_getbuffer = memory_buffer};

PyTypeObject ext_memory_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "vtrn._nki.Memory",
    .tp_basicsize = sizeof(ext_memory),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_dealloc = (destructor)memory_dealloc,
    .tp_as_buffer = &memory_as_buffer,
    .tp_doc = "Memory of a result.",
};

/* _keep(): the bytes of the elements in place, or None: a copy is needed. */
static PyObject *tensor_keep(ext_tensor *self, PyObject *unused) {
    (void)unused;
    int64_t n = bytes_of(self);
    nki_memory *memory;
    void *bytes;
    if (n < 0)
        return NULL;
    vtrn_status status = vtrn_nki_keep(&self->view, &memory, &bytes);
    if (status) {
        ext_raise(status, "read");
        return NULL;
    }
    if (!memory)
        Py_RETURN_NONE;
    ext_memory *m = PyObject_New(ext_memory, &ext_memory_type);
    if (!m) {
        vtrn_nki_memory_release(memory);
        return NULL;
    }
    m->memory = memory;
    m->bytes = bytes;
    m->n_bytes = (Py_ssize_t)n;
    return (PyObject *)m;
}

static PyMethodDef tensor_methods[] = {
    {"_keep", (PyCFunction)tensor_keep, METH_NOARGS, "The elements in place, or None."},
    {"_view", (PyCFunction)tensor_view, METH_VARARGS, "Another view of the same memory."},
    {"_read", (PyCFunction)tensor_read, METH_NOARGS, "Elements, and how many are unwritten."},
    {"_read_into", (PyCFunction)tensor_read_into, METH_O, "The same into a buffer."},
    {"_written", (PyCFunction)tensor_written, METH_NOARGS, "Which elements something has written."},
    {"_zero_unwritten", (PyCFunction)tensor_zero_unwritten, METH_NOARGS,
     "Zeros where nothing wrote."},
    {NULL, NULL, 0, NULL},
};

static PyMappingMethods tensor_mapping = {
    .mp_length = (lenfunc)tensor_length,
    .mp_subscript = (binaryfunc)tensor_subscript,
};

PyTypeObject ext_tensor_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "vtrn._nki.Tensor",
    .tp_basicsize = sizeof(ext_tensor),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_dealloc = (destructor)tensor_dealloc,
    .tp_as_mapping = &tensor_mapping,
    .tp_getset = tensor_getset,
    .tp_members = tensor_members,
    .tp_methods = tensor_methods,
    .tp_doc = "A view of a tensor on the virtual chip.",
};
