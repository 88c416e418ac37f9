/* The time of ranks: each one's kernel from collective to collective, and what collectives take. */
#include "nki/python/ext.h"

#include <stdlib.h>

static const char *const walk_name = "vtrn_nki_walk";

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

PyObject *ext_figures(const nki_times *t, int n_partitions, int n_cores) {
    double ns = t->latency_ns;
    uint64_t n = (uint64_t)n_partitions;
    return Py_BuildValue(
        "{sdsdsdsdsdsdsdsdsKsKsKsKsKsKsKsK}", "latency_ns", ns, "tensor_active",
        share(t->active_ns[VTRN_ENGINE_TENSOR], ns), "vector_active",
        share(t->active_ns[VTRN_ENGINE_VECTOR], ns), "scalar_active",
        share(t->active_ns[VTRN_ENGINE_SCALAR], ns), "gpsimd_active",
        share(t->active_ns[VTRN_ENGINE_GPSIMD], ns), "sync_active",
        share(t->active_ns[VTRN_ENGINE_SYNC], ns), "dma_active", share(t->dma_active_ns, ns), "mfu",
        share((double)t->flops, n_cores * t->peak_flops * ns * 1e-9), "flops", t->flops,
        "hbm_read_bytes", t->hbm_read_bytes, "hbm_write_bytes", t->hbm_write_bytes,
        "spill_save_bytes", t->spill_save_bytes, "spill_reload_bytes", t->spill_reload_bytes,
        "sbuf_peak_bytes", t->sbuf_bytes * n, "psum_peak_bytes", t->psum_bytes * n,
        "n_instructions", t->n_instrs);
}

static void walk_drop(PyObject *capsule) {
    vtrn_nki_walk_drop(PyCapsule_GetPointer(capsule, walk_name));
}

PyObject *ext_walk(nki_session *session, const nki_finish_options *options) {
    nki_walk *walk;
    vtrn_status status = vtrn_nki_walk_begin(session, options, &walk);
    if (!status)
        return PyCapsule_New(walk, walk_name, walk_drop);
    ext_raise(status, NULL);
    return NULL;
}

/* walk_stop(walk): whether it is over, and when the rank came to the collective where it stands. */
static PyObject *walk_stop(PyObject *module, PyObject *capsule) {
    (void)module;
    const nki_walk *walk = PyCapsule_GetPointer(capsule, walk_name);
    if (!walk)
        return NULL;
    double arrival_ns;
    bool is_over = vtrn_nki_walk_is_over(walk, &arrival_ns);
    return Py_BuildValue("Nd", PyBool_FromLong(is_over), arrival_ns);
}

/* walk_meet(walk, wait_ns, run_ns) */
static PyObject *walk_meet(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *capsule;
    double wait_ns, run_ns;
    if (!PyArg_ParseTuple(args, "Odd", &capsule, &wait_ns, &run_ns))
        return NULL;
    nki_walk *walk = PyCapsule_GetPointer(capsule, walk_name);
    if (!walk)
        return NULL;
    vtrn_status status = vtrn_nki_walk_meet(walk, wait_ns, run_ns);
    if (!status)
        Py_RETURN_NONE;
    ext_raise(status, NULL);
    return NULL;
}

/* walk_take([walk of each core], n_partitions): the rank's figures. */
static PyObject *walk_take(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *capsules;
    int n_partitions;
    if (!PyArg_ParseTuple(args, "O!i", &PyList_Type, &capsules, &n_partitions))
        return NULL;
    nki_walk *walks[NKI_MAX_CORES];
    int n = (int)PyList_GET_SIZE(capsules);
    if (n < 1 || n > NKI_MAX_CORES)
        return PyErr_Format(PyExc_ValueError, "%d walks; a rank has 1 to %d cores", n,
                            NKI_MAX_CORES);
    for (int i = 0; i < n; i++)
        if (!(walks[i] = PyCapsule_GetPointer(PyList_GET_ITEM(capsules, i), walk_name)))
            return NULL;
    nki_times times;
    vtrn_nki_walk_take(walks, n, &times);
    return ext_figures(&times, n_partitions, n);
}

PyObject *ext_exchanging(ext_session *self, PyObject *is_exchanging) {
    int is_so = PyObject_IsTrue(is_exchanging);
    if (is_so < 0)
        return NULL;
    vtrn_nki_exchanging(self->session, is_so);
    Py_RETURN_NONE;
}

/* Groups of ranks as rows of one length, malloc; short ones are filled up with -1. */
static int *devices_of(PyObject *groups, nki_exchange *x) {
    x->n_groups = (int)PyTuple_GET_SIZE(groups);
    for (int i = 0; i < x->n_groups; i++) {
        PyObject *group = PyTuple_GET_ITEM(groups, i);
        if (!PyTuple_Check(group)) {
            PyErr_SetString(PyExc_TypeError, "groups are tuples of tuples");
            return NULL;
        }
        int n = (int)PyTuple_GET_SIZE(group);
        x->group_size = n > x->group_size ? n : x->group_size;
    }
    size_t n = (size_t)x->n_groups * (size_t)x->group_size;
    int *devices = malloc((n + 1) * sizeof *devices);
    if (!devices)
        PyErr_NoMemory();
    for (int i = 0; devices && i < x->n_groups; i++)
        for (int k = 0; k < x->group_size; k++) {
            PyObject *group = PyTuple_GET_ITEM(groups, i);
            devices[i * x->group_size + k] =
                k < PyTuple_GET_SIZE(group) ? (int)PyLong_AsLong(PyTuple_GET_ITEM(group, k)) : -1;
        }
    if (devices && PyErr_Occurred()) {
        free(devices);
        return NULL;
    }
    return devices;
}

/* exchange_time(op, bytes, groups, is_in_sbuf, n_ranks, cores of a rank, instance or None): ns,
 * algorithm, instance. */
PyObject *ext_exchange_time(ext_session *self, PyObject *args) {
    nki_exchange x = {0};
    PyObject *groups;
    unsigned long long n_bytes;
    int is_in_sbuf;
    if (!PyArg_ParseTuple(args, "sKO!piiz", &x.op, &n_bytes, &PyTuple_Type, &groups, &is_in_sbuf,
                          &x.n_ranks, &x.n_rank_cores, &x.instance))
        return NULL;
    int *devices = devices_of(groups, &x);
    if (!devices)
        return NULL;
    x.bytes = n_bytes;
    x.devices = devices;
    x.is_in_sbuf = is_in_sbuf;
    nki_exchange_time time;
    vtrn_status status = vtrn_nki_exchange_time(self->session, &x, &time);
    free(devices);
    if (!status)
        return Py_BuildValue("dss", time.duration_ns, time.algorithm, time.instance);
    ext_raise(status, NULL);
    return NULL;
}

PyMethodDef ext_walk_methods[] = {
    {"walk_stop", walk_stop, METH_O, "Whether a walk is over, and when it came where it stands."},
    {"walk_meet", walk_meet, METH_VARARGS, "Go on behind a collective."},
    {"walk_take", walk_take, METH_VARARGS, "The figures of a walk that is over."},
    {NULL, NULL, 0, NULL},
};
