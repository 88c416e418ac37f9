/* Decodes instructions of a few elements, and carries them out. */
#include "engine/small.h"

#include "base/dtype_kernels.h"
#include "engine/act_kernels.h"
#include "engine/alu_kernels.h"
#include "engine/alu_path.h"
#include "engine/engine.h"
#include "engine/int_kernels.h"

#include <string.h>

/* --- at run time --- */

static uint8_t *address(const small_op *op, const small_context *c, int row, int i) {
    return c->base[op->space[i]] + op->at[i] + row * op->pitch[i];
}

static const float *values(const small_op *op, const small_context *c, int row, int i, float *buf) {
    const uint8_t *at = address(op, c, row, i);
    if (!op->load[i])
        return (const float *)at;
    op->load[i](at, buf, op->n);
    return buf;
}

/* The scalar of operand i, 2 or 3. */
static float scalar(const small_op *op, const small_context *c, int row, int i) {
    float x;
    if (op->space[i] == VTRN_SPACE_NONE)
        return op->imm.f[i - 2];
    if (op->load[i])
        op->load[i](address(op, c, row, i), &x, 1);
    else
        memcpy(&x, address(op, c, row, i), sizeof x);
    return x;
}

static uint32_t scalar_bits(const small_op *op, const small_context *c, int row, int i) {
    uint32_t x;
    if (op->space[i] == VTRN_SPACE_NONE)
        return op->imm.bits[i - 2];
    memcpy(&x, address(op, c, row, i), sizeof x);
    return x;
}

static float *room(const small_op *op, const small_context *c, int row, float *buf) {
    return op->store ? buf : (float *)address(op, c, row, 0);
}

static void put(const small_op *op, const small_context *c, int row, const float *x) {
    if (op->store)
        op->store(x, address(op, c, row, 0), op->n);
}

static void run_tensor_tensor(const small_op *op, const small_context *c, int row) {
    float x[SMALL_MAX_ELEMENTS], y[SMALL_MAX_ELEMENTS], z[SMALL_MAX_ELEMENTS];
    float *d = room(op, c, row, z);
    op->kernel[0].tt(values(op, c, row, 1, x), values(op, c, row, 2, y), d, op->n);
    put(op, c, row, d);
}

static void run_tensor_scalar(const small_op *op, const small_context *c, int row) {
    float x[SMALL_MAX_ELEMENTS], z[SMALL_MAX_ELEMENTS], second = scalar(op, c, row, 3);
    float *d = room(op, c, row, z);
    op->kernel[0].ts(values(op, c, row, 1, x), scalar(op, c, row, 2), d, op->n);
    if (op->kernel[1].ts)
        op->kernel[1].ts(d, second, d, op->n);
    put(op, c, row, d);
}

static void run_scalar_tensor_tensor(const small_op *op, const small_context *c, int row) {
    float x[SMALL_MAX_ELEMENTS], y[SMALL_MAX_ELEMENTS], z[SMALL_MAX_ELEMENTS];
    float t[SMALL_MAX_ELEMENTS], *d = room(op, c, row, z);
    const float *with = values(op, c, row, 3, y);
    op->kernel[0].ts(values(op, c, row, 1, x), scalar(op, c, row, 2), t, op->n);
    if (op->flags & VTRN_FLAG_REVERSE1)
        op->kernel[1].tt(with, t, d, op->n);
    else
        op->kernel[1].tt(t, with, d, op->n);
    put(op, c, row, d);
}

static void run_activate(const small_op *op, const small_context *c, int row) {
    float x[SMALL_MAX_ELEMENTS], z[SMALL_MAX_ELEMENTS];
    float *d = room(op, c, row, z);
    op->kernel[0].act(values(op, c, row, 1, x), scalar(op, c, row, 2), scalar(op, c, row, 3),
                      op->slope, d, op->n);
    put(op, c, row, d);
}

static void run_unary(const small_op *op, const small_context *c, int row) {
    float x[SMALL_MAX_ELEMENTS], z[SMALL_MAX_ELEMENTS];
    float *d = room(op, c, row, z);
    op->kernel[0].unary(values(op, c, row, 1, x), d, op->n);
    put(op, c, row, d);
}

/* load[0] makes numbers of integers, for a dst that is not one of 32 bits. */
static void put_bits(const small_op *op, const small_context *c, int row, const uint32_t *x) {
    float f[SMALL_MAX_ELEMENTS];
    if (!op->load[0])
        return;
    op->load[0](x, f, op->n);
    if (op->store)
        op->store(f, address(op, c, row, 0), op->n);
    else
        memcpy(address(op, c, row, 0), f, op->n * sizeof *f);
}

static void run_tensor_tensor_bits(const small_op *op, const small_context *c, int row) {
    uint32_t z[SMALL_MAX_ELEMENTS], *d = op->load[0] ? z : (uint32_t *)address(op, c, row, 0);
    op->kernel[0].itt((const uint32_t *)address(op, c, row, 1),
                      (const uint32_t *)address(op, c, row, 2), d, op->n);
    put_bits(op, c, row, d);
}

static void run_tensor_scalar_bits(const small_op *op, const small_context *c, int row) {
    uint32_t z[SMALL_MAX_ELEMENTS], *d = op->load[0] ? z : (uint32_t *)address(op, c, row, 0);
    uint32_t second = scalar_bits(op, c, row, 3);
    op->kernel[0].its((const uint32_t *)address(op, c, row, 1), scalar_bits(op, c, row, 2), d,
                      op->n);
    if (op->kernel[1].its)
        op->kernel[1].its(d, second, d, op->n);
    put_bits(op, c, row, d);
}

static void run_select(const small_op *op, const small_context *c, int row) {
    op->kernel[0].select(
        (const uint32_t *)address(op, c, row, 2), (op->flags & VTRN_FLAG_REVERSE0) != 0,
        (const uint32_t *)address(op, c, row, 1), (uint32_t *)address(op, c, row, 0), op->n);
}

static void run_select_by8(const small_op *op, const small_context *c, int row) {
    op->kernel[0].select_by8(address(op, c, row, 2), (op->flags & VTRN_FLAG_REVERSE0) != 0,
                             (const uint32_t *)address(op, c, row, 1),
                             (uint32_t *)address(op, c, row, 0), op->n);
}

static void run_fill1(const small_op *op, const small_context *c, int row) {
    memset(address(op, c, row, 0), (int)op->imm.bits[0], op->n);
}

static void run_fill2(const small_op *op, const small_context *c, int row) {
    uint16_t *d = (uint16_t *)address(op, c, row, 0), x = (uint16_t)op->imm.bits[0];
    for (uint32_t i = 0, n = op->n; i < n; i++)
        d[i] = x;
}

static void run_fill4(const small_op *op, const small_context *c, int row) {
    uint32_t *d = (uint32_t *)address(op, c, row, 0), x = op->imm.bits[0];
    for (uint32_t i = 0, n = op->n; i < n; i++)
        d[i] = x;
}

static void run_move(const small_op *op, const small_context *c, int row) {
    memmove(address(op, c, row, 0), address(op, c, row, 1), op->n_bytes);
}

static void run_convert(const small_op *op, const small_context *c, int row) {
    float x[SMALL_MAX_ELEMENTS], *d = (float *)address(op, c, row, 0);
    const float *from = values(op, c, row, 1, x);
    if (from != x)
        memcpy(x, from, op->n * sizeof *x); /* dst may overlap it */
    if (op->store)
        op->store(x, d, op->n);
    else
        memcpy(d, x, op->n * sizeof *x);
}

static uint8_t *dma_address(const small_op *op, const small_context *c, int row, int i) {
    uint8_t *at = address(op, c, row, i);
    return op->space[i] == VTRN_SPACE_HBM ? at + c->slot_base[op->slot[i]] : at;
}

static void run_dma(const small_op *op, const small_context *c, int row) {
    memmove(dma_address(op, c, row, 0), dma_address(op, c, row, 1), op->n_bytes);
}

/* A cast goes through fp32. */
static void run_dma_cast(const small_op *op, const small_context *c, int row) {
    float x[SMALL_MAX_ELEMENTS];
    const uint8_t *from = dma_address(op, c, row, 1);
    uint8_t *to = dma_address(op, c, row, 0);
    if (op->load[1])
        op->load[1](from, x, op->n);
    else
        memcpy(x, from, op->n * sizeof *x);
    if (op->store)
        op->store(x, to, op->n);
    else
        memcpy(to, x, op->n * sizeof *x);
}

small_context small_context_of(const engine_core *core, const uint64_t *slot_base) {
    return (small_context){.base = {[VTRN_SPACE_SBUF] = core->sbuf.base,
                                    [VTRN_SPACE_PSUM] = core->psum.base,
                                    [VTRN_SPACE_HBM] = core->hbm},
                           .slot_base = slot_base};
}

/* --- decoding --- */

static bool is_int32(const vtrn_ap *ap) {
    return ap->dtype == VTRN_DTYPE_INT32 || ap->dtype == VTRN_DTYPE_UINT32;
}

/* Rows of n adjacent elements of a type that the engines load and store. */
static bool take_operand(const vtrn_chip *chip, const vtrn_instr *instr, int i, uint64_t n,
                         small_op *out) {
    const vtrn_ap *ap = &instr->ap[i];
    bool is_hbm = ap->space == VTRN_SPACE_HBM;
    if (ap->n_partitions != out->n_rows || isa_ap_free_size(ap) != n || !engine_ap_is_dense(ap))
        return false;
    if (ap->space != VTRN_SPACE_SBUF && ap->space != VTRN_SPACE_PSUM && !is_hbm)
        return false;
    size_t size = dtype_size((vtrn_dtype)ap->dtype);
    if (size == 0 || ap->addr % (int64_t)size || (!is_hbm && size > 4))
        return false;
    out->space[i] = ap->space;
    out->at[i] = ap->addr;
    out->pitch[i] = ap->partition_step * (int64_t)size;
    if (is_hbm)
        return true;
    int64_t stride = (int64_t)engine_memory_stride(
        ap->space == VTRN_SPACE_PSUM ? chip->psum_partition_bytes : chip->sbuf_partition_bytes);
    out->at[i] += ap->partition * stride;
    out->pitch[i] = ap->partition_step ? stride : 0;
    return true;
}

static bool take_streams(const vtrn_chip *chip, const vtrn_instr *instr, unsigned streams,
                         small_op *out) {
    out->n = (uint32_t)isa_ap_free_size(&instr->ap[0]);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (streams >> i & 1 &&
            (instr->ap[i].space == VTRN_SPACE_HBM || !take_operand(chip, instr, i, out->n, out)))
            return false;
    return true;
}

/* Operands 2 and 3 of those in the mask: one element, or an immediate. */
static bool take_scalars(const vtrn_chip *chip, const vtrn_instr *instr, unsigned scalars,
                         small_op *out) {
    for (int i = 2; i < VTRN_MAX_AP; i++) {
        if (!(scalars >> i & 1))
            continue;
        out->imm.bits[i - 2] = instr->imm[i - 2].bits;
        if (instr->ap[i].space == VTRN_SPACE_NONE)
            continue;
        if (instr->ap[i].space == VTRN_SPACE_HBM || !take_operand(chip, instr, i, 1, out))
            return false;
    }
    return true;
}

/* Everything is a number: what is not fp32 is converted. */
static bool convert_all(const vtrn_instr *instr, small_op *out) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        uint8_t t = instr->ap[i].dtype;
        if (out->space[i] == VTRN_SPACE_NONE || t == VTRN_DTYPE_FP32)
            continue;
        if (!kernels->load[t] || !kernels->store[t])
            return false;
        out->load[i] = i ? kernels->load[t] : NULL;
        out->store = i ? out->store : kernels->store[t];
    }
    return true;
}

/* Everything is 32 bits, but for a dst of GpSimd's integers, whose numbers it takes. */
static bool convert_bits(const vtrn_instr *instr, const alu_path *path, small_op *out) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    for (int i = 1; i < VTRN_MAX_AP; i++)
        if (out->space[i] != VTRN_SPACE_NONE && dtype_size((vtrn_dtype)instr->ap[i].dtype) != 4)
            return false;
    const vtrn_ap *d = &instr->ap[0];
    if (path->kind == PATH_BITS)
        return dtype_size((vtrn_dtype)d->dtype) == 4;
    if (is_int32(d))
        return true;
    out->load[0] = kernels->load[path->is_unsigned ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32];
    out->store = d->dtype == VTRN_DTYPE_FP32 ? NULL : kernels->store[d->dtype];
    return d->dtype == VTRN_DTYPE_FP32 || out->store;
}

static bool choose(const vtrn_instr *instr, unsigned mask, alu_path *path) {
    vtrn_status status = alu_path_of(instr, mask, path);
    vtrn_status_free(status);
    return !status;
}

enum { AP0 = 1, AP1 = 2, AP2 = 4, AP3 = 8 };

static bool decode_tensor_tensor(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    vtrn_instr one_op = *instr; /* op1 means nothing here */
    alu_path path;
    one_op.op1 = VTRN_ALU_NONE;
    if (!take_streams(chip, instr, AP0 | AP1 | AP2, out) || !choose(&one_op, AP1 | AP2, &path))
        return false;
    if (path.kind == PATH_FP32) {
        out->run = run_tensor_tensor;
        out->kernel[0].tt = CPU_TABLE(alu_kernel_table)->tt[instr->op0];
        return out->kernel[0].tt && convert_all(instr, out);
    }
    out->run = run_tensor_tensor_bits;
    out->kernel[0].itt = CPU_TABLE(int_kernel_table)->tt[path.is_unsigned][instr->op0];
    return out->kernel[0].itt && convert_bits(instr, &path, out);
}

static bool decode_tensor_scalar(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    alu_path path;
    if (!take_streams(chip, instr, AP0 | AP1, out) || !take_scalars(chip, instr, AP2 | AP3, out) ||
        !choose(instr, AP1 | AP2 | AP3, &path))
        return false;
    const int is_second = instr->op1 != VTRN_ALU_NONE, u = path.is_unsigned;
    const bool r0 = instr->flags & VTRN_FLAG_REVERSE0, r1 = instr->flags & VTRN_FLAG_REVERSE1;
    if (path.kind == PATH_FP32) {
        const alu_kernels *k = CPU_TABLE(alu_kernel_table);
        out->run = run_tensor_scalar;
        out->kernel[0].ts = (r0 ? k->st : k->ts)[instr->op0];
        if (is_second)
            out->kernel[1].ts = (r1 ? k->st : k->ts)[instr->op1];
        return out->kernel[0].ts && (!is_second || out->kernel[1].ts) && convert_all(instr, out);
    }
    const int_kernels *k = CPU_TABLE(int_kernel_table);
    out->run = run_tensor_scalar_bits;
    out->kernel[0].its = (r0 ? k->st : k->ts)[u][instr->op0];
    if (is_second)
        out->kernel[1].its = (r1 ? k->st : k->ts)[u][instr->op1];
    return out->kernel[0].its && (!is_second || out->kernel[1].its) &&
           convert_bits(instr, &path, out);
}

static bool decode_scalar_tensor_tensor(const vtrn_chip *chip, const vtrn_instr *instr,
                                        small_op *out) {
    alu_path path;
    if (!take_streams(chip, instr, AP0 | AP1 | AP3, out) || !take_scalars(chip, instr, AP2, out) ||
        !choose(instr, AP1 | AP2 | AP3, &path) || path.kind != PATH_FP32)
        return false;
    const alu_kernels *k = CPU_TABLE(alu_kernel_table);
    out->run = run_scalar_tensor_tensor;
    out->kernel[0].ts = (instr->flags & VTRN_FLAG_REVERSE0 ? k->st : k->ts)[instr->op0];
    out->kernel[1].tt = k->tt[instr->op1];
    return out->kernel[0].ts && out->kernel[1].tt && convert_all(instr, out);
}

static bool decode_activate(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    if (instr->func >= VTRN_ACT_COUNT || instr->flags & VTRN_FLAG_ACCUMULATE ||
        !take_streams(chip, instr, AP0 | AP1, out) || !take_scalars(chip, instr, AP2 | AP3, out))
        return false;
    if (instr->ap[0].dtype == VTRN_DTYPE_BF16 && instr->ap[1].dtype == VTRN_DTYPE_BF16)
        return false; /* may be a copy that converts nothing */
    out->run = run_activate;
    out->kernel[0].act = CPU_TABLE(act_kernel_table)->act[instr->func];
    memcpy(&out->slope, &instr->arg[0], sizeof out->slope);
    return out->kernel[0].act && convert_all(instr, out);
}

static bool decode_reciprocal(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    out->run = run_unary;
    out->kernel[0].unary = CPU_TABLE(alu_kernel_table)->reciprocal;
    return take_streams(chip, instr, AP0 | AP1, out) && convert_all(instr, out);
}

static bool decode_copy(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    if (!take_streams(chip, instr, AP0 | AP1, out))
        return false;
    out->n_bytes = out->n * (uint32_t)dtype_size((vtrn_dtype)instr->ap[0].dtype);
    bool is_same = instr->ap[0].dtype == instr->ap[1].dtype;
    out->run = is_same ? run_move : run_convert;
    return is_same || convert_all(instr, out);
}

static bool decode_memset(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    const vtrn_ap *d = &instr->ap[0];
    if (!take_streams(chip, instr, AP0, out))
        return false;
    size_t size = dtype_size((vtrn_dtype)d->dtype);
    out->run = size == 1 ? run_fill1 : size == 2 ? run_fill2 : run_fill4;
    out->imm.bits[0] = instr->imm[0].bits;
    if (!is_int32(d)) {
        float x = instr->imm[0].f;
        dtype_store_fp32((vtrn_dtype)d->dtype, &x, &out->imm.bits[0], 1);
    }
    return true;
}

static bool decode_select(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    const alu_kernels *k = CPU_TABLE(alu_kernel_table);
    size_t mask_size = dtype_size((vtrn_dtype)instr->ap[2].dtype);
    if (dtype_size((vtrn_dtype)instr->ap[0].dtype) != 4 ||
        dtype_size((vtrn_dtype)instr->ap[1].dtype) != 4 || (mask_size != 1 && mask_size != 4))
        return false;
    out->run = mask_size == 1 ? run_select_by8 : run_select;
    if (mask_size == 1)
        out->kernel[0].select_by8 = k->select32_by8;
    else
        out->kernel[0].select = k->select32;
    return take_streams(chip, instr, AP0 | AP1 | AP2, out);
}

static bool decode_dma(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    const vtrn_ap *d = &instr->ap[0], *s = &instr->ap[1];
    out->n = (uint32_t)isa_ap_free_size(d);
    if (instr->flags & VTRN_FLAG_ACCUMULATE || !take_operand(chip, instr, 0, out->n, out) ||
        !take_operand(chip, instr, 1, out->n, out))
        return false;
    out->n_bytes = out->n * (uint32_t)dtype_size((vtrn_dtype)d->dtype);
    out->slot[0] = d->slot;
    out->slot[1] = s->slot;
    bool is_same = d->dtype == s->dtype;
    out->run = is_same ? run_dma : run_dma_cast;
    return is_same || convert_all(instr, out);
}

bool small_decode(const vtrn_chip *chip, const vtrn_instr *instr, small_op *out) {
    uint64_t n = isa_ap_free_size(&instr->ap[0]);
    int n_rows = instr->ap[0].n_partitions;
    if (n_rows < 1 || n_rows > SMALL_MAX_ROWS || n == 0 || n > SMALL_MAX_ELEMENTS ||
        (n_rows > 1 && n < SMALL_LEAST_ELEMENTS) || instr->flags & VTRN_FLAG_STOCHASTIC)
        return false;
    *out = (small_op){.flags = (uint8_t)instr->flags, .n_rows = (uint8_t)n_rows};
    switch (instr->opcode) {
    case VTRN_OP_TENSOR_TENSOR:
        return decode_tensor_tensor(chip, instr, out);
    case VTRN_OP_TENSOR_SCALAR:
        return decode_tensor_scalar(chip, instr, out);
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
        return decode_scalar_tensor_tensor(chip, instr, out);
    case VTRN_OP_ACTIVATE:
        return decode_activate(chip, instr, out);
    case VTRN_OP_RECIPROCAL:
        return decode_reciprocal(chip, instr, out);
    case VTRN_OP_TENSOR_COPY:
        return decode_copy(chip, instr, out);
    case VTRN_OP_MEMSET:
        return decode_memset(chip, instr, out);
    case VTRN_OP_COPY_PREDICATED:
        return decode_select(chip, instr, out);
    case VTRN_OP_DMA_COPY:
        return decode_dma(chip, instr, out);
    default:
        return false;
    }
}
