/* Decodes elementwise instructions for chains, and carries them out on registers. */
#include "engine/chain_op.h"

#include "base/dtype_kernels.h"
#include "engine/act_kernels.h"
#include "engine/alu_kernels.h"
#include "engine/alu_path.h"
#include "engine/engine.h"
#include "engine/int_kernels.h"

#include <string.h>

enum { AP0 = 1, AP1 = 2, AP2 = 4, AP3 = 8 };

/* --- at run time --- */

/* Operand i as fp32: its register, or converted. */
static const float *values(const chain_op *op, const chain_frame *f, int i) {
    const void *x = f->reg[op->reg[i]];
    if (op->dtype[i] == VTRN_DTYPE_FP32)
        return x;
    f->load[op->dtype[i]](x, f->buffer[i], f->n);
    return f->buffer[i];
}

/* Where fp32 results are made. */
static float *room(const chain_op *op, const chain_frame *f) {
    return op->dtype[0] == VTRN_DTYPE_FP32 ? f->reg[op->reg[0]] : f->buffer[0];
}

static void put(const chain_op *op, const chain_frame *f, const float *x) {
    if (op->dtype[0] != VTRN_DTYPE_FP32)
        f->store[op->dtype[0]](x, f->reg[op->reg[0]], f->n);
}

/* The number that operand i, 2 or 3, has for a row. */
static float number(const chain_op *op, const chain_frame *f, int i, size_t row) {
    float x;
    if (op->reg[i] == CHAIN_NONE)
        return op->imm.f[i - 2];
    if (op->dtype[i] == VTRN_DTYPE_FP32)
        return ((const float *)f->reg[op->reg[i]])[row];
    const size_t size = dtype_size((vtrn_dtype)op->dtype[i]);
    f->load[op->dtype[i]]((const uint8_t *)f->reg[op->reg[i]] + row * size, &x, 1);
    return x;
}

static void run_tensor_tensor(const chain_op *op, const chain_frame *f) {
    float *d = room(op, f);
    op->kernel[0].tt(values(op, f, 1), values(op, f, 2), d, f->n);
    put(op, f, d);
}

/* Operation k of an instruction, with its own scalar operand. */
static void scalar_step(const chain_op *op, const chain_frame *f, int k, const float *x, float *d) {
    const int i = 2 + k;
    if (op->reg[i] == CHAIN_NONE) {
        op->kernel[k].ts(x, op->imm.f[k], d, f->n);
        return;
    }
    if (op->has_numbers) {
        for (size_t r = 0; r < f->n_rows; r++)
            op->kernel[k].ts(x + r * f->row_n, number(op, f, i, r), d + r * f->row_n, f->row_n);
        return;
    }
    const float *s = values(op, f, i);
    bool swaps = op->flags & (k ? VTRN_FLAG_REVERSE1 : VTRN_FLAG_REVERSE0);
    op->kernel[k].tt(swaps ? s : x, swaps ? x : s, d, f->n);
}

static void run_tensor_scalar(const chain_op *op, const chain_frame *f) {
    float *d = room(op, f);
    scalar_step(op, f, 0, values(op, f, 1), d);
    put(op, f, d);
}

/* The first result goes not straight into dst, which may be the second scalar. */
static void run_tensor_scalar_twice(const chain_op *op, const chain_frame *f) {
    float *d = room(op, f);
    scalar_step(op, f, 0, values(op, f, 1), f->between);
    scalar_step(op, f, 1, f->between, d);
    put(op, f, d);
}

static void run_scalar_tensor_tensor(const chain_op *op, const chain_frame *f) {
    float *t = f->between, *d = room(op, f); /* dst may be operand 3 */
    const float *with = values(op, f, 3);
    scalar_step(op, f, 0, values(op, f, 1), t);
    if (op->flags & VTRN_FLAG_REVERSE1)
        op->kernel[1].tt(with, t, d, f->n);
    else
        op->kernel[1].tt(t, with, d, f->n);
    put(op, f, d);
}

static void run_activate(const chain_op *op, const chain_frame *f) {
    float *d = room(op, f);
    const float *x = values(op, f, 1);
    if (op->has_numbers)
        for (size_t r = 0; r < f->n_rows; r++)
            op->kernel[0].act(x + r * f->row_n, number(op, f, 2, r), number(op, f, 3, r), op->slope,
                              d + r * f->row_n, f->row_n);
    else
        op->kernel[0].act(x, op->imm.f[0], op->imm.f[1], op->slope, d, f->n);
    put(op, f, d);
}

static void run_unary(const chain_op *op, const chain_frame *f) {
    float *d = room(op, f);
    op->kernel[0].unary(values(op, f, 1), d, f->n);
    put(op, f, d);
}

static void run_convert(const chain_op *op, const chain_frame *f) {
    const float *x = values(op, f, 1);
    if (op->dtype[0] == VTRN_DTYPE_FP32)
        memmove(f->reg[op->reg[0]], x, f->n * sizeof *x);
    else
        put(op, f, x);
}

static void run_move(const chain_op *op, const chain_frame *f) {
    memmove(f->reg[op->reg[0]], f->reg[op->reg[1]], f->n * dtype_size((vtrn_dtype)op->dtype[0]));
}

/* Where 32-bit results are made. */
static uint32_t *room_bits(const chain_op *op, const chain_frame *f) {
    return op->numbers ? (uint32_t *)f->between : f->reg[op->reg[0]];
}

static void put_bits(const chain_op *op, const chain_frame *f, const uint32_t *x) {
    if (!op->numbers)
        return;
    float *d = room(op, f);
    op->numbers(x, d, f->n);
    put(op, f, d);
}

static void run_tensor_tensor_bits(const chain_op *op, const chain_frame *f) {
    uint32_t *d = room_bits(op, f);
    op->kernel[0].itt(f->reg[op->reg[1]], f->reg[op->reg[2]], d, f->n);
    put_bits(op, f, d);
}

static void scalar_step_bits(const chain_op *op, const chain_frame *f, int k, const uint32_t *x,
                             uint32_t *d) {
    const int i = 2 + k;
    if (op->reg[i] == CHAIN_NONE) {
        op->kernel[k].its(x, op->imm.bits[k], d, f->n);
        return;
    }
    const uint32_t *s = f->reg[op->reg[i]];
    if (op->has_numbers) {
        for (size_t r = 0; r < f->n_rows; r++)
            op->kernel[k].its(x + r * f->row_n, s[r], d + r * f->row_n, f->row_n);
        return;
    }
    bool swaps = op->flags & (k ? VTRN_FLAG_REVERSE1 : VTRN_FLAG_REVERSE0);
    op->kernel[k].itt(swaps ? s : x, swaps ? x : s, d, f->n);
}

static void run_tensor_scalar_bits(const chain_op *op, const chain_frame *f) {
    uint32_t *d = room_bits(op, f);
    scalar_step_bits(op, f, 0, f->reg[op->reg[1]], d);
    put_bits(op, f, d);
}

static void run_tensor_scalar_bits_twice(const chain_op *op, const chain_frame *f) {
    uint32_t *d = room_bits(op, f), *t = (uint32_t *)f->between;
    scalar_step_bits(op, f, 0, f->reg[op->reg[1]], t);
    scalar_step_bits(op, f, 1, t, d);
    put_bits(op, f, d);
}

static void run_select(const chain_op *op, const chain_frame *f) {
    op->kernel[0].select(f->reg[op->reg[2]], (op->flags & VTRN_FLAG_REVERSE0) != 0,
                         f->reg[op->reg[1]], f->reg[op->reg[0]], f->n);
}

static void run_select_by8(const chain_op *op, const chain_frame *f) {
    op->kernel[0].select_by8(f->reg[op->reg[2]], (op->flags & VTRN_FLAG_REVERSE0) != 0,
                             f->reg[op->reg[1]], f->reg[op->reg[0]], f->n);
}

static void run_fill1(const chain_op *op, const chain_frame *f) {
    memset(f->reg[op->reg[0]], (int)op->imm.bits[0], f->n);
}

static void run_fill2(const chain_op *op, const chain_frame *f) {
    uint16_t *d = f->reg[op->reg[0]], x = (uint16_t)op->imm.bits[0];
    for (size_t i = 0, n = f->n; i < n; i++)
        d[i] = x;
}

static void run_fill4(const chain_op *op, const chain_frame *f) {
    uint32_t *d = f->reg[op->reg[0]], x = op->imm.bits[0];
    for (size_t i = 0, n = f->n; i < n; i++)
        d[i] = x;
}

/* --- decoding --- */

/* An instruction that is being decoded, with n elements a row. */
typedef struct decoder {
    const vtrn_instr *instr;
    uint64_t n;
    chain_op *out;
    chain_operands *operands;
} decoder;

static bool is_given(const decoder *d, int i) {
    return d->instr->ap[i].space != VTRN_SPACE_NONE;
}

static vtrn_dtype type_of(const decoder *d, int i) {
    return (vtrn_dtype)d->instr->ap[i].dtype;
}

static bool take(const decoder *d, int i, uint64_t n) {
    const vtrn_ap *ap = &d->instr->ap[i];
    const size_t size = dtype_size(type_of(d, i));
    d->out->dtype[i] = ap->dtype;
    return (ap->space == VTRN_SPACE_SBUF || ap->space == VTRN_SPACE_PSUM) &&
           ap->n_partitions == d->instr->ap[0].n_partitions && isa_ap_free_size(ap) == n &&
           (size == 1 || size == 2 || size == 4) && ap->addr % (int64_t)size == 0 &&
           (i == 0 || engine_are_rows_apart(d->instr, i));
}

static bool take_streams(const decoder *d, unsigned streams) {
    d->operands->streams = streams;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (streams >> i & 1 && !take(d, i, d->n))
            return false;
    return true;
}

/* Operands 2 and 3 of those in the mask: a number a row, or an immediate. */
static bool take_scalars(const decoder *d, unsigned scalars) {
    for (int i = 2; i < VTRN_MAX_AP; i++) {
        if (!(scalars >> i & 1))
            continue;
        d->out->imm.bits[i - 2] = d->instr->imm[i - 2].bits;
        if (!is_given(d, i))
            continue;
        if (!take(d, i, 1))
            return false;
        d->operands->scalars |= 1u << i;
    }
    d->out->has_numbers = d->operands->scalars && d->n >= CHAIN_LEAST_ROW;
    return true;
}

/* Whether all operands can be read as fp32 and the result stored. */
static bool are_numbers(const decoder *d) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    const unsigned all = d->operands->streams | d->operands->scalars;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const vtrn_dtype t = type_of(d, i);
        if (all >> i & 1 && t != VTRN_DTYPE_FP32 && (i ? !kernels->load[t] : !kernels->store[t]))
            return false;
    }
    return true;
}

/* Whether all operands are 32 bits; dst may take integers as numbers of another type. */
static bool are_words(const decoder *d, const alu_path *path) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    const unsigned all = d->operands->streams | d->operands->scalars;
    const vtrn_dtype t = type_of(d, 0);
    for (int i = 1; i < VTRN_MAX_AP; i++)
        if (all >> i & 1 && dtype_size(type_of(d, i)) != sizeof(uint32_t))
            return false;
    if (path->kind == PATH_BITS)
        return dtype_size(t) == sizeof(uint32_t);
    if (t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32)
        return true;
    d->out->numbers = kernels->load[path->is_unsigned ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32];
    return t == VTRN_DTYPE_FP32 || kernels->store[t];
}

static bool choose(const vtrn_instr *instr, unsigned mask, alu_path *path) {
    vtrn_status status = alu_path_of(instr, mask, path);
    vtrn_status_free(status);
    return !status;
}

static bool decode_tensor_tensor(const decoder *d) {
    vtrn_instr one_op = *d->instr; /* op1 means nothing here */
    const uint8_t op = one_op.op0;
    alu_path path;
    one_op.op1 = VTRN_ALU_NONE;
    if (!take_streams(d, AP0 | AP1 | AP2) || !choose(&one_op, AP1 | AP2, &path))
        return false;
    if (path.kind == PATH_FP32) {
        d->out->run = run_tensor_tensor;
        d->out->kernel[0].tt = CPU_TABLE(alu_kernel_table)->tt[op];
        return d->out->kernel[0].tt && are_numbers(d);
    }
    d->out->run = run_tensor_tensor_bits;
    d->out->kernel[0].itt = CPU_TABLE(int_kernel_table)->tt[path.is_unsigned][op];
    return d->out->kernel[0].itt && are_words(d, &path);
}

/* The kernel of operation k, for a number or, where rows have their own and are short, a tensor. */
static bool take_kernel(const decoder *d, int k, const alu_path *path) {
    const alu_kernels *alu = CPU_TABLE(alu_kernel_table);
    const int_kernels *ints = CPU_TABLE(int_kernel_table);
    const uint8_t op = k ? d->instr->op1 : d->instr->op0;
    const bool is_reversed = d->instr->flags & (k ? VTRN_FLAG_REVERSE1 : VTRN_FLAG_REVERSE0);
    const bool is_tensor = d->operands->scalars >> (2 + k) & 1 && !d->out->has_numbers;
    small_kernel *kernel = &d->out->kernel[k];
    if (path->kind == PATH_FP32 && is_tensor)
        return (kernel->tt = alu->tt[op]) != NULL;
    if (path->kind == PATH_FP32)
        return (kernel->ts = (is_reversed ? alu->st : alu->ts)[op]) != NULL;
    if (is_tensor)
        return (kernel->itt = ints->tt[path->is_unsigned][op]) != NULL;
    return (kernel->its = (is_reversed ? ints->st : ints->ts)[path->is_unsigned][op]) != NULL;
}

static bool decode_tensor_scalar(const decoder *d) {
    alu_path path;
    if (!take_streams(d, AP0 | AP1) || !take_scalars(d, AP2 | AP3) ||
        !choose(d->instr, AP1 | AP2 | AP3, &path))
        return false;
    const bool is_twice = d->instr->op1 != VTRN_ALU_NONE, is_fp32 = path.kind == PATH_FP32;
    if (!take_kernel(d, 0, &path) || (is_twice && !take_kernel(d, 1, &path)))
        return false;
    if (is_fp32)
        d->out->run = is_twice ? run_tensor_scalar_twice : run_tensor_scalar;
    else
        d->out->run = is_twice ? run_tensor_scalar_bits_twice : run_tensor_scalar_bits;
    return is_fp32 ? are_numbers(d) : are_words(d, &path);
}

static bool decode_scalar_tensor_tensor(const decoder *d) {
    alu_path path;
    if (!take_streams(d, AP0 | AP1 | AP3) || !take_scalars(d, AP2) ||
        !choose(d->instr, AP1 | AP2 | AP3, &path) || path.kind != PATH_FP32)
        return false;
    d->out->run = run_scalar_tensor_tensor;
    d->out->kernel[1].tt = CPU_TABLE(alu_kernel_table)->tt[d->instr->op1];
    return take_kernel(d, 0, &path) && d->out->kernel[1].tt && are_numbers(d);
}

/* Of two of bf16 it may be a copy that converts nothing. */
static bool decode_activate(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    if (instr->func >= VTRN_ACT_COUNT || instr->flags & (VTRN_FLAG_ACCUMULATE | VTRN_FLAG_RESET) ||
        (type_of(d, 0) == VTRN_DTYPE_BF16 && type_of(d, 1) == VTRN_DTYPE_BF16) ||
        !take_streams(d, AP0 | AP1) || !take_scalars(d, AP2 | AP3))
        return false;
    d->out->has_numbers = d->operands->scalars; /* the kernel takes one scale and bias */
    d->out->run = run_activate;
    d->out->kernel[0].act = CPU_TABLE(act_kernel_table)->act[instr->func];
    memcpy(&d->out->slope, &instr->arg[0], sizeof d->out->slope);
    return d->out->kernel[0].act && are_numbers(d);
}

static bool decode_reciprocal(const decoder *d) {
    d->out->run = run_unary;
    d->out->kernel[0].unary = CPU_TABLE(alu_kernel_table)->reciprocal;
    return take_streams(d, AP0 | AP1) && are_numbers(d);
}

static bool decode_copy(const decoder *d) {
    const bool is_same = type_of(d, 0) == type_of(d, 1);
    d->out->run = is_same ? run_move : run_convert;
    return take_streams(d, AP0 | AP1) && (is_same || are_numbers(d));
}

static bool decode_memset(const decoder *d) {
    const vtrn_dtype t = type_of(d, 0);
    if (!take_streams(d, AP0))
        return false;
    const size_t size = dtype_size(t);
    d->out->run = size == 1 ? run_fill1 : size == 2 ? run_fill2 : run_fill4;
    d->out->imm.bits[0] = d->instr->imm[0].bits;
    if (t != VTRN_DTYPE_INT32 && t != VTRN_DTYPE_UINT32) {
        float x = d->instr->imm[0].f;
        dtype_store_fp32(t, &x, &d->out->imm.bits[0], 1);
    }
    return true;
}

static bool decode_select(const decoder *d) {
    const alu_kernels *k = CPU_TABLE(alu_kernel_table);
    if (!take_streams(d, AP0 | AP1 | AP2))
        return false;
    const size_t mask_size = dtype_size(type_of(d, 2));
    if (dtype_size(type_of(d, 0)) != 4 || dtype_size(type_of(d, 1)) != 4 ||
        (mask_size != 1 && mask_size != 4))
        return false;
    d->out->run = mask_size == 1 ? run_select_by8 : run_select;
    if (mask_size == 1)
        d->out->kernel[0].select_by8 = k->select32_by8;
    else
        d->out->kernel[0].select = k->select32;
    return true;
}

static bool decode(const decoder *d) {
    switch (d->instr->opcode) {
    case VTRN_OP_TENSOR_TENSOR:
        return decode_tensor_tensor(d);
    case VTRN_OP_TENSOR_SCALAR:
        return decode_tensor_scalar(d);
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
        return decode_scalar_tensor_tensor(d);
    case VTRN_OP_ACTIVATE:
        return decode_activate(d);
    case VTRN_OP_RECIPROCAL:
        return decode_reciprocal(d);
    case VTRN_OP_TENSOR_COPY:
        return decode_copy(d);
    case VTRN_OP_MEMSET:
        return decode_memset(d);
    case VTRN_OP_COPY_PREDICATED:
        return decode_select(d);
    default:
        return false;
    }
}

bool chain_decode(const vtrn_instr *instr, chain_op *out, chain_operands *operands) {
    decoder d = {
        .instr = instr, .n = isa_ap_free_size(&instr->ap[0]), .out = out, .operands = operands};
    *out = (chain_op){.flags = (uint8_t)instr->flags};
    *operands = (chain_operands){0, 0};
    memset(out->reg, CHAIN_NONE, sizeof out->reg);
    return d.n && instr->ap[0].n_partitions && !(instr->flags & VTRN_FLAG_STOCHASTIC) &&
           !engine_crossed(instr) && decode(&d);
}
