/* The module vtrn._nki: sessions, and what Python tells it about itself. */
#include "nki/python/ext.h"

#include <stdlib.h>
#include <string.h>

ext_session *ext_current;
PyObject *ext_error, *ext_dtypes, *ext_index;

void ext_raise(vtrn_status status, const char *op) {
    PyObject *place = op ? ext_place_now() : PyUnicode_FromString("");
    PyObject *text = NULL;
    const char *message = vtrn_error_message(status);
    if (place && PyUnicode_GET_LENGTH(place))
        text = PyUnicode_FromFormat("%s: %s\n  at %U", op, message, place);
    else if (place)
        text = PyUnicode_FromString(message);
    PyObject *error =
        text ? PyObject_CallFunction(ext_error, "Oi", text, vtrn_error_category(status)) : NULL;
    if (error)
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    Py_XDECREF(text);
    Py_XDECREF(place);
    vtrn_error_free(status);
}

ext_session *ext_session_now(void) {
    if (!ext_current)
        PyErr_SetString(PyExc_RuntimeError,
                        "no kernel is running: call this from a function that nki.jit wraps");
    return ext_current;
}

static PyObject *session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    const char *chip = NULL;
    if (!PyArg_ParseTuple(args, "|z", &chip))
        return NULL;
    ext_session *self = (ext_session *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    vtrn_status status = vtrn_nki_create(chip, &self->session);
    if (status) {
        ext_raise(status, NULL);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void session_dealloc(ext_session *self) {
    vtrn_nki_destroy(self->session);
    ext_places_free(&self->places);
    Py_TYPE(self)->tp_free(self);
}

/* tensor(type, shape, dtype, space, kind, data, address, buffer, name[, n_blocks, is_kept_there])
 */
static PyObject *session_tensor(ext_session *self, PyObject *const *args, Py_ssize_t n_args) {
    if (n_args != 9 && n_args != 11)
        return PyErr_Format(PyExc_TypeError, "tensor() takes 9 or 11 arguments, not %zd", n_args);
    PyTypeObject *type = (PyTypeObject *)args[0];
    PyObject *shape = args[1], *data = args[5], *address = args[6], *buffer = args[7],
             *name = args[8];
    int dtype = (int)PyLong_AsLong(args[2]), space = (int)PyLong_AsLong(args[3]);
    int kind = (int)PyLong_AsLong(args[4]);
    unsigned n_blocks = n_args == 11 ? (unsigned)PyLong_AsUnsignedLong(args[9]) : 0;
    int is_kept_there = n_args == 11 ? PyObject_IsTrue(args[10]) : 0;
    if (PyErr_Occurred())
        return NULL;
    int64_t dims[NKI_MAX_DIMS];
    int n = ext_integers(shape, dims, NKI_MAX_DIMS, "shape");
    if (n < 0)
        return NULL;
    nki_tensor_options o = {.space = (vtrn_space)space,
                            .dtype = (vtrn_dtype)dtype,
                            .kind = (nki_storage_kind)kind,
                            .n_dims = n,
                            .shape = dims,
                            .name = PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL,
                            .n_blocks = n_blocks,
                            .is_kept_there = is_kept_there,
                            .is_placed = address != Py_None};
    o.addr = o.is_placed ? PyLong_AsLongLong(address) : 0;
    Py_buffer bytes = {0};
    if (PyErr_Occurred() || (data != Py_None && PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0))
        return NULL;
    o.data = bytes.buf;
    ext_tensor *t = ext_tensor_alloc(type, NULL);
    ext_storage *storage = t ? PyObject_New(ext_storage, &ext_storage_type) : NULL;
    if (!storage) {
        PyBuffer_Release(&bytes);
        Py_XDECREF(t);
        return NULL;
    }
    vtrn_status status = vtrn_nki_tensor(self->session, &o, &t->view);
    storage->lent = (Py_buffer){0};
    if (!status && o.kind == NKI_ARGUMENT)
        storage->lent = bytes;
    else
        PyBuffer_Release(&bytes);
    if (status) {
        PyObject_Free(storage);
        Py_DECREF(t);
        ext_raise(status, "nl.ndarray");
        return NULL;
    }
    Py_INCREF(self);
    storage->session = self;
    storage->storage = t->view.storage;
    t->storage = storage;
    Py_INCREF(buffer);
    Py_INCREF(name);
    t->buffer = buffer;
    t->name = name;
    return (PyObject *)t;
}

/* The kernel's places as sources of a program. texts keeps the strings. */
static vtrn_source *sources_of(const ext_session *self, PyObject **texts) {
    uint32_t n = self->places.n;
    vtrn_source *sources = calloc(n + 1, sizeof *sources);
    *texts = PyList_New(0);
    for (uint32_t i = 0; sources && *texts && i < n; i++) {
        PyObject *text = ext_place_text(&self->places.list[i]);
        if (!text || PyList_Append(*texts, text) < 0) {
            Py_XDECREF(text);
            free(sources);
            return NULL;
        }
        Py_DECREF(text); /* the list has it */
        const char *place = PyUnicode_AsUTF8(text);
        sources[i] = (vtrn_source){self->places.list[i].op, place ? place : ""};
    }
    if (!sources || !*texts)
        PyErr_NoMemory();
    return sources;
}

/* Storages of a list of tensors, malloc. */
static nki_storage **storages_of(PyObject *tensors, uint32_t *n) {
    *n = (uint32_t)PyList_GET_SIZE(tensors);
    nki_storage **out = calloc(*n + 1, sizeof *out);
    for (uint32_t i = 0; out && i < *n; i++) {
        PyObject *t = PyList_GET_ITEM(tensors, i);
        if (!ext_is_tensor(t)) {
            PyErr_SetString(PyExc_TypeError, "outputs are tensors");
            free(out);
            return NULL;
        }
        out[i] = ((ext_tensor *)t)->view.storage;
    }
    return out;
}

/* place(outputs): bytes of a partition of SBUF and of PSUM at the worst moment. */
static PyObject *session_place(ext_session *self, PyObject *args) {
    PyObject *outputs, *texts = NULL, *result = NULL;
    if (!PyArg_ParseTuple(args, "O!", &PyList_Type, &outputs))
        return NULL;
    nki_finish_options o = {.name = "", .n_sources = self->places.n};
    nki_storage **storages = storages_of(outputs, &o.n_outputs);
    vtrn_source *sources = storages ? sources_of(self, &texts) : NULL;
    if (sources) {
        uint64_t sbuf = 0, psum = 0;
        o.outputs = storages;
        o.sources = sources;
        vtrn_status status = vtrn_nki_place(self->session, &o, &sbuf, &psum);
        if (status)
            ext_raise(status, NULL);
        else
            result = Py_BuildValue("KK", (unsigned long long)sbuf, (unsigned long long)psum);
    }
    free(sources);
    free(storages);
    Py_XDECREF(texts);
    return result;
}

static void executable_drop(PyObject *capsule) {
    vtrn_executable_destroy(PyCapsule_GetPointer(capsule, "vtrn_executable"));
}

/* What a method makes of a session's finished program; NULL with Python's error set. */
typedef PyObject *(*ending)(nki_session *session, const nki_finish_options *options);

/* Arguments (name, outputs) as options, which hold as long as make runs. */
static PyObject *end_session(ext_session *self, PyObject *args, ending make) {
    PyObject *outputs, *texts = NULL, *result = NULL;
    nki_finish_options o = {.n_sources = self->places.n};
    if (!PyArg_ParseTuple(args, "sO!|ii", &o.name, &PyList_Type, &outputs, &o.n_cores, &o.core))
        return NULL;
    nki_storage **storages = storages_of(outputs, &o.n_outputs);
    vtrn_source *sources = storages ? sources_of(self, &texts) : NULL;
    if (sources) {
        o.outputs = storages;
        o.sources = sources;
        result = make(self->session, &o);
    }
    free(sources);
    free(storages);
    Py_XDECREF(texts);
    return result;
}

static PyObject *make_executable(nki_session *session, const nki_finish_options *options) {
    vtrn_executable *executable;
    vtrn_status status = vtrn_nki_finish(session, options, &executable);
    if (!status)
        return PyCapsule_New(executable, "vtrn_executable", executable_drop);
    ext_raise(status, NULL);
    return NULL;
}

/* finish(name, outputs): the executable, in a capsule. */
static PyObject *session_finish(ext_session *self, PyObject *args) {
    return end_session(self, args, make_executable);
}

static PyObject *make_times(nki_session *session, const nki_finish_options *options) {
    nki_times t;
    vtrn_status status = vtrn_nki_time_cores(session, options, &t);
    if (!status)
        return ext_figures(&t, vtrn_nki_limits(session).n_partitions, NKI_MAX_CORES);
    ext_raise(status, NULL);
    return NULL;
}

/* time_cores(name, outputs): the figures of profile_of() for two cores, with what they waited for
 * each other. */
static PyObject *session_time_cores(ext_session *self, PyObject *args) {
    return end_session(self, args, make_times);
}

/* walk(name, outputs, n_cores, core): a core of a rank from collective to collective, see
 * ext_walk.c. */
static PyObject *session_walk(ext_session *self, PyObject *args) {
    return end_session(self, args, ext_walk);
}

/* meet(core=-1): the two cores, or the ranks, wait for each other here; or the core for other
 * ranks. */
static PyObject *session_meet(ext_session *self, PyObject *args) {
    int core = -1;
    if (!PyArg_ParseTuple(args, "|i", &core))
        return NULL;
    vtrn_status status = vtrn_nki_meet(self->session, core);
    if (status) {
        ext_raise(status, NULL);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *make_record(nki_session *session, const nki_finish_options *options) {
    void *bytes;
    size_t size;
    vtrn_status status = vtrn_nki_record(session, options, &bytes, &size);
    if (status) {
        ext_raise(status, NULL);
        return NULL;
    }
    PyObject *result = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    free(bytes);
    return result;
}

/* record(name, outputs): the list of instructions as bytes. */
static PyObject *session_record(ext_session *self, PyObject *args) {
    return end_session(self, args, make_record);
}

/* Buffers of one execution. */
typedef struct run {
    vtrn_buffer **inputs, **outputs;
    int n_inputs, n_outputs;
} run;

static vtrn_status run_begin(run *r, nki_session *s, vtrn_executable *e, PyObject *arrays) {
    for (int i = 0; i < r->n_inputs; i++) {
        int dtype, rank;
        int64_t dims[VTRN_MAX_RANK];
        vtrn_executable_input_type(e, i, &dtype, &rank, dims);
        vtrn_status status =
            vtrn_buffer_create(vtrn_nki_device(s), 0, dtype, rank, dims,
                               PyBytes_AS_STRING(PyList_GET_ITEM(arrays, i)), &r->inputs[i]);
        if (status)
            return status;
    }
    return vtrn_nki_execute(s, e, r->inputs, r->n_inputs, r->outputs, r->n_outputs);
}

static PyObject *run_outputs(const run *r) {
    PyObject *list = PyList_New(r->n_outputs);
    for (int i = 0; list && i < r->n_outputs; i++) {
        size_t size = vtrn_buffer_size(r->outputs[i]);
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        vtrn_status status =
            bytes ? vtrn_buffer_read(r->outputs[i], PyBytes_AS_STRING(bytes), size) : NULL;
        if (!bytes || status) {
            if (status)
                ext_raise(status, NULL);
            Py_XDECREF(bytes);
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, bytes);
    }
    return list;
}

static PyObject *profile_of(vtrn_executable *e) {
    vtrn_profile p = {.struct_size = sizeof p};
    vtrn_status status = vtrn_executable_profile(e, &p);
    if (status) {
        ext_raise(status, NULL);
        return NULL;
    }
    return Py_BuildValue(
        "{sdsdsdsdsdsdsdsdsKsKsKsKsKsKsKsK}", "latency_ns", p.step_ns, "tensor_active",
        p.tensor_active, "vector_active", p.vector_active, "scalar_active", p.scalar_active,
        "gpsimd_active", p.gpsimd_active, "sync_active", p.sync_active, "dma_active", p.dma_active,
        "mfu", p.mfu, "flops", p.flops, "hbm_read_bytes", p.hbm_read_bytes, "hbm_write_bytes",
        p.hbm_write_bytes, "spill_save_bytes", p.spill_save_bytes, "spill_reload_bytes",
        p.spill_reload_bytes, "sbuf_peak_bytes", p.sbuf_peak_bytes, "psum_peak_bytes",
        p.psum_peak_bytes, "n_instructions", p.n_instructions);
}

/* execute(executable, inputs, directory): outputs as bytes, and the profile, which is written to
 * the directory when there is one. */
static PyObject *session_execute(ext_session *self, PyObject *args) {
    PyObject *capsule, *arrays, *result = NULL;
    const char *directory;
    if (!PyArg_ParseTuple(args, "OO!z", &capsule, &PyList_Type, &arrays, &directory))
        return NULL;
    vtrn_executable *e = PyCapsule_GetPointer(capsule, "vtrn_executable");
    if (!e)
        return NULL;
    run r = {.n_inputs = vtrn_executable_n_inputs(e), .n_outputs = vtrn_executable_n_outputs(e)};
    if (PyList_GET_SIZE(arrays) != r.n_inputs)
        return PyErr_Format(PyExc_ValueError, "the program takes %d inputs", r.n_inputs);
    r.inputs = calloc((size_t)r.n_inputs + 1, sizeof *r.inputs);
    r.outputs = calloc((size_t)r.n_outputs + 1, sizeof *r.outputs);
    vtrn_status status = NULL;
    if (!r.inputs || !r.outputs)
        PyErr_NoMemory();
    else
        status = run_begin(&r, self->session, e, arrays);
    if (!status && !PyErr_Occurred() && directory)
        status = vtrn_executable_profile_write(e, directory);
    if (status)
        ext_raise(status, NULL);
    PyObject *outputs = PyErr_Occurred() ? NULL : run_outputs(&r);
    PyObject *profile = outputs ? profile_of(e) : NULL;
    if (profile)
        result = Py_BuildValue("OO", outputs, profile);
    Py_XDECREF(outputs);
    Py_XDECREF(profile);
    for (int i = 0; r.inputs && i < r.n_inputs; i++)
        vtrn_buffer_destroy(r.inputs[i]);
    for (int i = 0; r.outputs && i < r.n_outputs; i++)
        vtrn_buffer_destroy(r.outputs[i]);
    free(r.inputs);
    free(r.outputs);
    return result;
}

/* chip(): numbers that kernels ask for. */
static PyObject *session_chip(ext_session *self, PyObject *unused) {
    (void)unused;
    nki_limits l = vtrn_nki_limits(self->session);
    return Py_BuildValue("{sssisIsIsIsisd}", "name", l.name, "gen", l.gen, "sbuf_bytes",
                         l.sbuf_bytes, "psum_bytes", l.psum_bytes, "psum_bank_bytes",
                         l.psum_bank_bytes, "n_partitions", l.n_partitions, "barrier_ns",
                         l.barrier_ns);
}

static PyObject *session_n_instrs(ext_session *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(vtrn_nki_n_instrs(self->session));
}

/* begin(): instructions go to this session from now on; returns the one before. end(other) */
static PyObject *session_begin(ext_session *self, PyObject *unused) {
    (void)unused;
    PyObject *before = ext_current ? (PyObject *)ext_current : Py_None;
    Py_INCREF(self);
    ext_current = self;
    if (before == Py_None)
        Py_INCREF(before);
    return before;
}

static PyObject *session_end(ext_session *self, PyObject *before) {
    vtrn_status status = vtrn_nki_settle(self->session);
    Py_CLEAR(ext_current);
    if (before != Py_None && Py_TYPE(before) == &ext_session_type) {
        Py_INCREF(before);
        ext_current = (ext_session *)before;
    }
    if (status) {
        ext_raise(status, NULL);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* set_core(i): tiles and instructions from now on are of that core. */
static PyObject *session_set_core(ext_session *self, PyObject *number) {
    long core = PyLong_AsLong(number);
    if (core == -1 && PyErr_Occurred())
        return NULL;
    vtrn_status status = vtrn_nki_set_core(self->session, (int)core);
    if (status) {
        ext_raise(status, NULL);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* compute_values(computes) */
static PyObject *session_compute_values(ext_session *self, PyObject *computes) {
    int is_true = PyObject_IsTrue(computes);
    if (is_true < 0)
        return NULL;
    vtrn_nki_compute_values(self->session, is_true);
    Py_RETURN_NONE;
}

/* reuse_loads() */
static PyObject *session_reuse_loads(ext_session *self, PyObject *unused) {
    (void)unused;
    vtrn_nki_reuse_loads(self->session);
    Py_RETURN_NONE;
}

/* mark_turn(loop) */
static PyObject *session_mark_turn(ext_session *self, PyObject *loop) {
    unsigned long number = PyLong_AsUnsignedLong(loop);
    if (PyErr_Occurred())
        return NULL;
    vtrn_status status = vtrn_nki_mark_turn(self->session, (uint32_t)number);
    if (status) {
        ext_raise(status, NULL);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* fill_unwritten(a number of nki_fill) */
static PyObject *session_fill_unwritten(ext_session *self, PyObject *fills) {
    long fill = PyLong_AsLong(fills);
    if (fill == -1 && PyErr_Occurred())
        return NULL;
    vtrn_nki_fill_unwritten(self->session, (nki_fill)fill);
    Py_RETURN_NONE;
}

/* filled(): how many elements, and the first in words. */
static PyObject *session_filled(ext_session *self, PyObject *unused) {
    (void)unused;
    const char *first;
    uint32_t source;
    uint64_t n = vtrn_nki_filled(self->session, &first, &source);
    PyObject *place = first && source < self->places.n ? ext_place_text(&self->places.list[source])
                                                       : PyUnicode_FromString("");
    return place ? Py_BuildValue("KsN", (unsigned long long)n, first ? first : "", place) : NULL;
}

/* set_program(i): which of two programs runs; -1: none of two */
static PyObject *session_set_program(ext_session *self, PyObject *number) {
    long program = PyLong_AsLong(number);
    if (program == -1 && PyErr_Occurred())
        return NULL;
    vtrn_nki_set_program(self->session, (int)program);
    Py_RETURN_NONE;
}

/* races(): how many, the first, its place, and that of the access before it */
static PyObject *session_races(ext_session *self, PyObject *unused) {
    (void)unused;
    const char *first;
    uint32_t source[2];
    uint64_t n = vtrn_nki_races(self->session, &first, source);
    PyObject *place[2];
    for (int i = 0; i < 2; i++) {
        bool is_known = first && source[i] < self->places.n;
        place[i] =
            is_known ? ext_place_text(&self->places.list[source[i]]) : PyUnicode_FromString("");
    }
    if (place[0] && place[1])
        return Py_BuildValue("KsNN", (unsigned long long)n, first ? first : "", place[0], place[1]);
    Py_XDECREF(place[0]);
    Py_XDECREF(place[1]);
    return NULL;
}

/* refuse_spills() */
static PyObject *session_refuse_spills(ext_session *self, PyObject *unused) {
    (void)unused;
    vtrn_nki_refuse_spills(self->session);
    Py_RETURN_NONE;
}

/* spills(): [(place, name, memory, saves, reloads, bytes of a tile, of all saves, of all reloads),
 * ...], of each line of the kernel whose tiles have no room in their memory. */
static PyObject *session_spills(ext_session *self, PyObject *unused) {
    (void)unused;
    uint32_t n;
    const nki_spilled *spills = vtrn_nki_spills(self->session, &n);
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list && i < n; i++) {
        const nki_spilled *t = &spills[i];
        PyObject *place = t->source < self->places.n ? ext_place_text(&self->places.list[t->source])
                                                     : PyUnicode_FromString("");
        PyObject *row =
            place ? Py_BuildValue(
                        "NssIIKKK", place, t->name, t->space == VTRN_SPACE_PSUM ? "PSUM" : "SBUF",
                        t->n_saves, t->n_reloads, (unsigned long long)t->tile_bytes,
                        (unsigned long long)t->save_bytes, (unsigned long long)t->reload_bytes)
                  : NULL;
        if (!row || PyList_Append(list, row))
            Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

/* lines(): [(place, how many instructions it has issued), ...] in the order of the places */
static PyObject *session_lines(ext_session *self, PyObject *unused) {
    (void)unused;
    uint32_t n_places = self->places.n;
    uint64_t *count = PyMem_Calloc((size_t)n_places + 1, sizeof *count);
    if (!count)
        return PyErr_NoMemory();
    PyObject *lines = PyList_New(0);
    for (uint32_t i = 0; lines && i < vtrn_nki_n_instrs(self->session); i++)
        if (vtrn_nki_source(self->session, i) < n_places)
            count[vtrn_nki_source(self->session, i)]++;
    for (uint32_t i = 0; lines && i < n_places; i++) {
        if (!count[i])
            continue;
        PyObject *line = Py_BuildValue("NK", ext_place_text(&self->places.list[i]),
                                       (unsigned long long)count[i]);
        if (!line || PyList_Append(lines, line))
            Py_CLEAR(lines);
        Py_XDECREF(line);
    }
    PyMem_Free(count);
    return lines;
}

static PyMethodDef session_methods[] = {
    {"compute_values", (PyCFunction)session_compute_values, METH_O, "Whether instructions run."},
    {"mark_turn", (PyCFunction)session_mark_turn, METH_O, "A turn of the loop begins."},
    {"reuse_loads", (PyCFunction)session_reuse_loads, METH_NOARGS, "Load once."},
    {"fill_unwritten", (PyCFunction)session_fill_unwritten, METH_O, "What is read there."},
    {"filled", (PyCFunction)session_filled, METH_NOARGS, "How many elements were, and the first."},
    {"refuse_spills", (PyCFunction)session_refuse_spills, METH_NOARGS, "Tiles must fit."},
    {"spills", (PyCFunction)session_spills, METH_NOARGS, "What goes to HBM for lack of SBUF."},
    {"lines", (PyCFunction)session_lines, METH_NOARGS, "Instructions by place in the kernel."},
    {"set_program", (PyCFunction)session_set_program, METH_O, "Which of two programs runs."},
    {"races", (PyCFunction)session_races, METH_NOARGS, "Accesses that nothing orders."},
    {"set_core", (PyCFunction)session_set_core, METH_O, "The core that runs from now on."},
    {"tensor", (PyCFunction)(void (*)(void))session_tensor, METH_FASTCALL, "Make a tensor."},
    {"place", (PyCFunction)session_place, METH_VARARGS, "Find places on the chip for all tiles."},
    {"finish", (PyCFunction)session_finish, METH_VARARGS, "Make the program."},
    {"meet", (PyCFunction)session_meet, METH_VARARGS, "The cores wait for each other."},
    {"time_cores", (PyCFunction)session_time_cores, METH_VARARGS, "What two cores take."},
    {"walk", (PyCFunction)session_walk, METH_VARARGS, "A rank from collective to collective."},
    {"exchanging", (PyCFunction)ext_exchanging, METH_O, "Whether what others sent comes now."},
    {"exchange_time", (PyCFunction)ext_exchange_time, METH_VARARGS, "What a collective takes."},
    {"record", (PyCFunction)session_record, METH_VARARGS, "The instructions as bytes."},
    {"execute", (PyCFunction)session_execute, METH_VARARGS, "Run the program."},
    {"chip", (PyCFunction)session_chip, METH_NOARGS, "Limits of the chip."},
    {"n_instructions", (PyCFunction)session_n_instrs, METH_NOARGS, "How many were issued."},
    {"begin", (PyCFunction)session_begin, METH_NOARGS, "Instructions go here from now on."},
    {"end", (PyCFunction)session_end, METH_O, "Instructions go to the session given."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ext_session_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "vtrn._nki.Session",
    .tp_basicsize = sizeof(ext_session),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = session_new,
    .tp_dealloc = (destructor)session_dealloc,
    .tp_methods = session_methods,
    .tp_doc = "A kernel at work on a virtual NeuronCore.",
};

/* setup(folder, error, dtypes, index) */
static PyObject *setup(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *folder, *error, *dtypes, *index;
    if (!PyArg_ParseTuple(args, "UOO!O", &folder, &error, &PyList_Type, &dtypes, &index))
        return NULL;
    Py_INCREF(error);
    Py_INCREF(dtypes);
    Py_INCREF(index);
    Py_XSETREF(ext_error, error);
    Py_XSETREF(ext_dtypes, dtypes);
    Py_XSETREF(ext_index, index);
    ext_place_set_folder(folder);
    Py_RETURN_NONE;
}

/* current(): the session of the kernel that runs, or None. */
static PyObject *current(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *s = ext_current ? (PyObject *)ext_current : Py_None;
    Py_INCREF(s);
    return s;
}

/* tables(): names of instructions, ALU operations, functions and types, by number. */
static PyObject *tables(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *result = PyDict_New();
    static const char *const keys[] = {"opcodes", "alu", "act", "dtypes"};
    for (int k = 0; result && k < 4; k++) {
        PyObject *names = PyList_New(0);
        const char *name;
        for (int i = 0; names && (name = vtrn_nki_name(k, i)); i++) {
            PyObject *text = PyUnicode_FromString(name);
            if (!text || PyList_Append(names, text) < 0)
                Py_CLEAR(names);
            Py_XDECREF(text);
        }
        if (!names || PyDict_SetItemString(result, keys[k], names) < 0)
            Py_CLEAR(result);
        Py_XDECREF(names);
    }
    return result;
}

/* place(): "kernel.py:42", where the kernel is. */
static PyObject *place(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return ext_place_now();
}

static PyMethodDef module_methods[] = {
    {"place", place, METH_NOARGS, "Where the kernel is."},
    {"setup", setup, METH_VARARGS, "Tell the module about the package."},
    {"current", current, METH_NOARGS, "The session of the kernel that runs."},
    {"tables", tables, METH_NOARGS, "Names by number."},
    {"table_casts", ext_table_casts, METH_VARARGS, "Casts of floats of 8 bits by tables."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_nki", .m_size = -1,
                                    .m_methods = module_methods};

PyMODINIT_FUNC PyInit__nki(void);

PyMODINIT_FUNC PyInit__nki(void) {
    if (PyType_Ready(&ext_session_type) < 0 || PyType_Ready(&ext_storage_type) < 0 ||
        PyType_Ready(&ext_tensor_type) < 0 || PyType_Ready(&ext_memory_type) < 0)
        return NULL;
    PyObject *m = PyModule_Create(&module);
    if (!m || PyModule_AddFunctions(m, ext_call_methods) < 0 ||
        PyModule_AddFunctions(m, ext_walk_methods) < 0 ||
        PyModule_AddObjectRef(m, "Session", (PyObject *)&ext_session_type) < 0 ||
        PyModule_AddObjectRef(m, "Tensor", (PyObject *)&ext_tensor_type) < 0) {
        Py_XDECREF(m);
        return NULL;
    }
    return m;
}
