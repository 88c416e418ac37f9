/* Instructions: arguments of Python to an nki_call. */
#include "nki/python/ext.h"

#include "base/float_env.h"

#include <string.h>

/* Positions of issue(). */
enum {
    ISSUE_OPCODE,
    ISSUE_ENGINE,
    ISSUE_FLAGS,
    ISSUE_OP0,
    ISSUE_OP1,
    ISSUE_FUNC,
    ISSUE_AP0,
    ISSUE_ARG0 = ISSUE_AP0 + VTRN_MAX_AP,
    ISSUE_ARG1,
    ISSUE_N_INNER,
    ISSUE_N_ARGS
};

/* What the number of an engine has besides. isa.py has the same numbers. */
enum {
    ENGINE_NUMBER = 0x3f,
    ENGINE_IS_CHOSEN = 0x80, /* by the kernel: no other engine runs the instruction */
    COPY_IS_IMPLIED = 0x40,  /* the kernel has no call for it */
};

static void set_engine(nki_call *call, int64_t number) {
    call->instr.engine = (uint8_t)(number & ENGINE_NUMBER);
    call->instr.keeps_engine = (number & ENGINE_IS_CHOSEN) != 0;
    call->is_implied = (number & COPY_IS_IMPLIED) != 0;
}

static PyObject *bad(const char *what, PyObject *given) {
    return PyErr_Format(PyExc_TypeError, "%s: %R", what, given);
}

/* The nearest number of fp32, whatever the caller's rounding mode is. */
static float to_fp32(double value) {
    if (float_env_is_default())
        return (float)value;
    fenv_t outside;
    volatile double given = value; /* read, and converted, between the changes of the mode */
    float_env_enter(&outside);
    volatile float nearest = (float)given;
    float_env_leave(&outside);
    return nearest;
}

static bool no_operand(int opcode, int i, PyObject *given, const char *what) {
    PyErr_Format(PyExc_TypeError, "%s: %s is %R, %s; load what is in HBM, or make a tile of it",
                 vtrn_nki_op_info(opcode)->mnemonic, vtrn_nki_operand_name(opcode, i), given, what);
    return false;
}

/* A number where a per-partition scalar could be: a float, or the raw bits of an integer. */
static bool take_number(nki_call *call, int i, PyObject *value) {
    if (i < 2)
        return no_operand(call->instr.opcode, i, value, "no tensor");
    if (PyFloat_Check(value)) {
        call->instr.imm[i - 2].f = to_fp32(PyFloat_AS_DOUBLE(value));
        return true;
    }
    if (PyLong_Check(value)) {
        call->instr.imm[i - 2].bits = (uint32_t)PyLong_AsUnsignedLongLongMask(value);
        return !PyErr_Occurred();
    }
    return no_operand(call->instr.opcode, i, value, "neither a tensor nor a number");
}

/* Pairs of step and number: an operand that is a pattern and no memory. */
static bool take_pattern(vtrn_ap *ap, PyObject *pairs) {
    Py_ssize_t n = PyTuple_GET_SIZE(pairs);
    if (n < 1 || n > VTRN_MAX_FREE_DIMS) {
        PyErr_Format(PyExc_ValueError, "a pattern of %zd dimensions; 1 to %d", n,
                     VTRN_MAX_FREE_DIMS);
        return false;
    }
    ap->n_dims = (uint8_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        int64_t pair[2];
        if (ext_integers(PyTuple_GET_ITEM(pairs, i), pair, 2, "pattern") != 2) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "a pattern is a list of pairs [step, number], "
                                                  "one a free dimension; give each both");
            return false;
        }
        ap->dim[i] = (vtrn_dim){(int32_t)pair[0], (uint32_t)pair[1]};
    }
    return true;
}

static bool take_operand(nki_call *call, int i, PyObject *value) {
    if (value == Py_None)
        return true;
    if (ext_is_tensor(value)) {
        call->view[i] = &((ext_tensor *)value)->view;
        return true;
    }
    if (PyTuple_Check(value))
        return take_pattern(&call->instr.ap[i], value);
    return take_number(call, i, value);
}

static PyObject *finish(vtrn_status status, const char *op) {
    if (status) {
        ext_raise(status, op);
        return NULL;
    }
    Py_RETURN_NONE;
}

static bool begin(nki_call *call, const char *op, ext_session **out) {
    *out = ext_session_now();
    int64_t place = *out ? ext_place_note(&(*out)->places, op) : -1;
    call->source = (uint32_t)place;
    return place >= 0;
}

/* immediate: what operands do not say; NULL: nothing. */
static PyObject *issue_args(PyObject *immediate, PyObject *const *args, Py_ssize_t n) {
    nki_call call = {0};
    int64_t number[ISSUE_N_ARGS];
    if (n != ISSUE_N_ARGS)
        return PyErr_Format(PyExc_TypeError, "issue() takes %d arguments", ISSUE_N_ARGS);
    for (int i = 0; i < ISSUE_N_ARGS; i++) {
        if (i >= ISSUE_AP0 && i < ISSUE_ARG0)
            continue;
        number[i] = PyLong_AsLongLong(args[i]);
        if (number[i] == -1 && PyErr_Occurred())
            return NULL;
    }
    const vtrn_op_info *info = vtrn_nki_op_info((int)number[ISSUE_OPCODE]);
    if (!info)
        return bad("no such instruction", args[ISSUE_OPCODE]);
    call.instr.opcode = (uint16_t)number[ISSUE_OPCODE];
    if (immediate && !take_number(&call, 2, immediate))
        return NULL;
    set_engine(&call, number[ISSUE_ENGINE]);
    call.instr.flags = (uint32_t)number[ISSUE_FLAGS];
    call.instr.op0 = (uint8_t)number[ISSUE_OP0];
    call.instr.op1 = (uint8_t)number[ISSUE_OP1];
    call.instr.func = (uint8_t)number[ISSUE_FUNC];
    call.instr.arg[0] = (int32_t)number[ISSUE_ARG0];
    call.instr.arg[1] = (int32_t)number[ISSUE_ARG1];
    call.n_inner = (int)number[ISSUE_N_INNER];
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (!take_operand(&call, i, args[ISSUE_AP0 + i]))
            return NULL;
    ext_session *s;
    if (!begin(&call, info->mnemonic, &s))
        return NULL;
    return finish(vtrn_nki_issue(s->session, &call), info->mnemonic);
}

/* issue(opcode, engine, flags, op0, op1, func, ap0, ap1, ap2, ap3, arg0, arg1, n_inner) */
static PyObject *issue(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    return issue_args(NULL, args, n);
}

/* issue_with(immediate, ...): the same with the first immediate */
static PyObject *issue_with(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    return issue_args(n ? args[0] : NULL, args + 1, n - 1);
}

/* memset(dst, engine, bits) */
static PyObject *fill(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    static const char op[] = "memset";
    if (n != 3 || !ext_is_tensor(args[0]))
        return PyErr_Format(PyExc_TypeError, "memset(dst, engine, value): dst is a tensor");
    nki_call call = {.instr = {.opcode = VTRN_OP_MEMSET}, .view = {&((ext_tensor *)args[0])->view}};
    set_engine(&call, PyLong_AsLong(args[1]));
    if (!take_number(&call, 2, args[2]))
        return NULL;
    ext_session *s;
    if (!begin(&call, op, &s))
        return NULL;
    return finish(vtrn_nki_issue(s->session, &call), op);
}

static bool tensors(nki_call *call, PyObject *const *args, int n, const char *op) {
    for (int i = 0; i < n; i++) {
        if (!ext_is_tensor(args[i])) {
            PyErr_Format(PyExc_TypeError,
                         "%s: argument %d is %R, no tensor; load it, or make a tile of it", op, i,
                         args[i]);
            return false;
        }
        call->view[i] = &((ext_tensor *)args[i])->view;
    }
    return true;
}

/* dma(dst, src, engine, flags) */
static PyObject *dma(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    static const char op[] = "dma_copy";
    nki_call call = {.instr = {.opcode = VTRN_OP_DMA_COPY}};
    if (n != 4)
        return PyErr_Format(PyExc_TypeError, "dma(dst, src, engine, flags)");
    if (!tensors(&call, args, 2, op))
        return NULL;
    set_engine(&call, PyLong_AsLong(args[2]));
    call.instr.flags = (uint32_t)PyLong_AsLong(args[3]);
    ext_session *s;
    if (PyErr_Occurred() || !begin(&call, op, &s))
        return NULL;
    return finish(vtrn_nki_dma(s->session, &call), op);
}

/* matmul(dst, stationary, moving, accumulate, flags) */
static PyObject *matmul(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    static const char op[] = "nc_matmul";
    nki_call call = {0};
    if (n != 5)
        return PyErr_Format(PyExc_TypeError, "matmul(dst, stationary, moving, accumulate, flags)");
    if (!tensors(&call, args, 3, op))
        return NULL;
    int accumulate = (int)PyLong_AsLong(args[3]);
    call.instr.flags = (uint32_t)PyLong_AsLong(args[4]);
    ext_session *s;
    if (PyErr_Occurred() || !begin(&call, op, &s))
        return NULL;
    return finish(vtrn_nki_matmul(s->session, &call, accumulate), op);
}

/* matmul_mx(dst, stationary, moving, stationary_scale, moving_scale, accumulate) */
static PyObject *matmul_mx(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    static const char op[] = "nc_matmul_mx";
    nki_call call = {0};
    if (n != 6)
        return PyErr_Format(PyExc_TypeError, "matmul_mx takes 6 arguments");
    if (!tensors(&call, args, 3, op))
        return NULL;
    for (int i = 0; i < 2; i++) {
        if (!ext_is_tensor(args[3 + i]))
            return bad("scales are a tensor, not", args[3 + i]);
        call.scale[i] = &((ext_tensor *)args[3 + i])->view;
    }
    int accumulate = (int)PyLong_AsLong(args[5]);
    ext_session *s;
    if (PyErr_Occurred() || !begin(&call, op, &s))
        return NULL;
    return finish(vtrn_nki_matmul(s->session, &call, accumulate), op);
}

/* shuffle(dst, src, mask): mask is bytes of 32. */
static PyObject *shuffle(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    (void)self;
    static const char op[] = "nc_stream_shuffle";
    nki_call call = {.instr = {.opcode = VTRN_OP_STREAM_SHUFFLE, .engine = VTRN_ENGINE_VECTOR}};
    if (n != 3 || !PyBytes_Check(args[2]) ||
        PyBytes_GET_SIZE(args[2]) != (Py_ssize_t)sizeof call.instr.shuffle)
        return PyErr_Format(PyExc_TypeError, "shuffle(dst, src, mask): mask has 32 bytes");
    if (!tensors(&call, args, 2, op))
        return NULL;
    memcpy(call.instr.shuffle, PyBytes_AS_STRING(args[2]), sizeof call.instr.shuffle);
    ext_session *s;
    if (!begin(&call, op, &s))
        return NULL;
    return finish(vtrn_nki_issue(s->session, &call), op);
}

PyMethodDef ext_call_methods[] = {
    {"issue", (PyCFunction)(void (*)(void))issue, METH_FASTCALL, "Issue an instruction."},
    {"issue_with", (PyCFunction)(void (*)(void))issue_with, METH_FASTCALL, "With an immediate."},
    {"memset", (PyCFunction)(void (*)(void))fill, METH_FASTCALL, "Issue a memset."},
    {"dma", (PyCFunction)(void (*)(void))dma, METH_FASTCALL, "Issue a dma_copy."},
    {"matmul", (PyCFunction)(void (*)(void))matmul, METH_FASTCALL, "Issue a matmul."},
    {"matmul_mx", (PyCFunction)(void (*)(void))matmul_mx, METH_FASTCALL, "Issue an MX matmul."},
    {"shuffle", (PyCFunction)(void (*)(void))shuffle, METH_FASTCALL, "Issue a stream_shuffle."},
    {NULL, NULL, 0, NULL},
};
