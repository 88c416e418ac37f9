/* Random legal instructions and programs for the tests of the instruction set. */
#include "legal.h"

#include "test_seed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOT_BYTES = 1 << 20, N_SLOTS = 5, N_BLOCKS = 4, MAX_INSTRS = 4096 };

legal_rng legal_rng_start(void) {
    return (legal_rng){test_seed() * 2654435761u + 88172645463325252ull};
}

uint32_t legal_random(legal_rng *r, uint32_t n) {
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return n ? (uint32_t)((r->state >> 16) % n) : 0;
}

vtrn_chip legal_chip(int gen) {
    vtrn_chip c = {.gen = gen,
                   .n_cores = gen == 2 ? 2 : 8,
                   .is_executable = true,
                   .n_partitions = 128,
                   .sbuf_partition_bytes = gen == 2   ? 192 << 10
                                           : gen == 3 ? 224 << 10
                                                      : 256 << 10,
                   .sbuf_reserved_partition_bytes = 16 << 10,
                   .psum_partition_bytes = 16 << 10,
                   .psum_bank_bytes = 2 << 10,
                   .n_psum_banks = 8,
                   .tensor_max_k = 128,
                   .tensor_max_m = 128,
                   .tensor_max_n = gen == 4 ? 4096 : 512,
                   .n_semaphores = 256,
                   .n_dma_engines = 16,
                   .n_dma_queues = 16};
    snprintf(c.name, sizeof c.name, "trn%d", gen - 1);
    snprintf(c.core_name, sizeof c.core_name, "NeuronCore-v%d", gen);
    return c;
}

static vtrn_dtype pick(legal_rng *r, const vtrn_dtype *of, uint32_t n) {
    return of[legal_random(r, n)];
}

static vtrn_dtype any_dtype(legal_rng *r) {
    static const vtrn_dtype all[] = {VTRN_DTYPE_PRED,    VTRN_DTYPE_INT8,    VTRN_DTYPE_INT16,
                                     VTRN_DTYPE_INT32,   VTRN_DTYPE_UINT8,   VTRN_DTYPE_UINT16,
                                     VTRN_DTYPE_UINT32,  VTRN_DTYPE_FP8E4M3, VTRN_DTYPE_FP8E5M2,
                                     VTRN_DTYPE_FP8E3M4, VTRN_DTYPE_BF16,    VTRN_DTYPE_FP16,
                                     VTRN_DTYPE_TF32,    VTRN_DTYPE_FP32,    VTRN_DTYPE_FP8E4M3FN};
    return pick(r, all, sizeof all / sizeof *all);
}

static vtrn_dtype float_dtype(legal_rng *r) {
    static const vtrn_dtype all[] = {VTRN_DTYPE_BF16, VTRN_DTYPE_FP16, VTRN_DTYPE_FP8E4M3,
                                     VTRN_DTYPE_FP8E5M2};
    return pick(r, all, 4);
}

/* rows x the product of dims; dense with a random gap between the outermost dimension's items. */
static vtrn_ap on_chip(legal_rng *r, vtrn_space space, vtrn_dtype t, unsigned rows, unsigned cols) {
    unsigned grid = rows > 64 ? 128 : rows > 32 ? 64 : 32;
    vtrn_ap ap = {.space = (uint8_t)space,
                  .dtype = (uint8_t)t,
                  .n_partitions = (uint16_t)rows,
                  .partition = (uint16_t)(grid * legal_random(r, 128 / grid)),
                  .partition_step = 1};
    unsigned inner = cols % 2 == 0 && legal_random(r, 2) ? 2 : 1;
    if (cols > 1 || legal_random(r, 2)) {
        if (inner == 2)
            ap.dim[ap.n_dims++] = (vtrn_dim){(int32_t)(cols / 2), 2};
        ap.dim[ap.n_dims++] = (vtrn_dim){1, cols / inner};
    }
    unsigned n_banks = space == VTRN_SPACE_PSUM ? 4 : 16;
    ap.addr = (int64_t)legal_random(r, n_banks) * 2048;
    if (space == VTRN_SPACE_SBUF && cols > 1 && legal_random(r, 4) == 0) { /* backwards */
        vtrn_dim *d = &ap.dim[ap.n_dims - 1];
        ap.addr += (int64_t)(d->num - 1) * 4; /* aligned for every dtype */
        d->step = -1;
    }
    return ap;
}

static vtrn_ap sbuf(legal_rng *r, vtrn_dtype t, unsigned rows, unsigned cols) {
    return on_chip(r, VTRN_SPACE_SBUF, t, rows, cols);
}

static vtrn_ap in_hbm(legal_rng *r, uint32_t slot, vtrn_dtype t, unsigned rows, unsigned cols) {
    vtrn_ap ap = {.space = VTRN_SPACE_HBM,
                  .dtype = (uint8_t)t,
                  .slot = slot,
                  .n_partitions = (uint16_t)rows,
                  .n_dims = 1,
                  .addr = 64 * (int64_t)legal_random(r, 64),
                  .partition_step = (int64_t)cols + (legal_random(r, 2) ? 3 : 0),
                  .dim = {{1, cols}}};
    return ap;
}

enum { ARGUMENT, OUTPUT, CONSTANT, SCRATCH, TABLE };

/* A Vector or Scalar operand: SBUF or PSUM; GpSimd: SBUF. */
static vtrn_ap operand(legal_rng *r, const vtrn_instr *i, vtrn_dtype t, unsigned rows,
                       unsigned cols) {
    bool may_psum = i->engine != VTRN_ENGINE_GPSIMD;
    return on_chip(r, may_psum && legal_random(r, 4) == 0 ? VTRN_SPACE_PSUM : VTRN_SPACE_SBUF, t,
                   rows, cols);
}

static uint8_t pick_engine(legal_rng *r, const vtrn_op_info *info, int gen, vtrn_opcode op) {
    static const char letters[] = "TVSGYC";
    for (;;) {
        char c = info->engines[legal_random(r, (uint32_t)strlen(info->engines))];
        if (gen == 2 && c == 'S' && (op == VTRN_OP_TENSOR_SCALAR || op == VTRN_OP_TENSOR_COPY))
            continue;
        if (gen == 2 && c == 'G' && op == VTRN_OP_RNG)
            continue;
        if (gen < 4 && c == 'V' && (op == VTRN_OP_RAND_SET_STATE || op == VTRN_OP_RAND_GET_STATE))
            continue;
        return (uint8_t)(strchr(letters, c) - letters);
    }
}

static void fill_tensor(legal_rng *r, vtrn_instr *i, unsigned k, unsigned m, vtrn_dtype t) {
    unsigned n = 1 + legal_random(r, 512);
    switch (i->opcode) {
    case VTRN_OP_LDWEIGHTS:
        i->ap[1] = sbuf(r, t, k, m);
        break;
    case VTRN_OP_LDWEIGHTS_MX:
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP8E4M3FN_X4, k, m);
        i->ap[2] = sbuf(r, VTRN_DTYPE_UINT8, k, m);
        break;
    case VTRN_OP_MATMUL_MX:
        i->ap[0] = on_chip(r, VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, m, n);
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP4E2M1FN_X4, k, n);
        i->ap[2] = sbuf(r, VTRN_DTYPE_UINT8, k, n);
        i->flags = legal_random(r, 2) ? VTRN_FLAG_ACCUMULATE : 0;
        break;
    case VTRN_OP_MATMUL:
        i->ap[0] = on_chip(r, VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, m, n);
        i->ap[1] = sbuf(r, t, k, n);
        i->flags = legal_random(r, 2) ? VTRN_FLAG_ACCUMULATE | VTRN_FLAG_LAST : 0;
        break;
    default:
        i->ap[0] = on_chip(r, VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, m, k);
        i->ap[1] = sbuf(r, t, k, m);
    }
}

static uint8_t arithmetic(legal_rng *r) {
    static const uint8_t ops[] = {VTRN_ALU_ADD, VTRN_ALU_MULTIPLY, VTRN_ALU_MAX, VTRN_ALU_IS_GE};
    return ops[legal_random(r, 4)];
}

static void fill_vector(legal_rng *r, vtrn_instr *i, unsigned p, unsigned f) {
    vtrn_dtype t = any_dtype(r);
    i->ap[0] = operand(r, i, t, p, f);
    i->ap[1] = operand(r, i, any_dtype(r), p, f);
    switch ((vtrn_opcode)i->opcode) {
    case VTRN_OP_TENSOR_TENSOR:
        if (legal_random(r, 2)) {
            i->op0 = VTRN_ALU_BITWISE_XOR;
            i->ap[0].dtype = i->ap[1].dtype = VTRN_DTYPE_UINT16;
            i->ap[2] = sbuf(r, VTRN_DTYPE_INT16, p, f);
        } else {
            i->op0 = arithmetic(r);
            i->ap[2] = sbuf(r, any_dtype(r), p, f);
        }
        break;
    case VTRN_OP_TENSOR_SCALAR:
        i->op0 = VTRN_ALU_MULTIPLY;
        i->op1 = legal_random(r, 2) ? VTRN_ALU_ADD : VTRN_ALU_NONE;
        i->imm[0].bits = legal_random(r, UINT32_MAX);
        if (legal_random(r, 2))
            i->ap[3] = operand(r, i, VTRN_DTYPE_FP32, p, 1);
        break;
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
        i->op0 = arithmetic(r);
        i->op1 = arithmetic(r);
        i->imm[0].f = -2.5f;
        i->ap[3] = sbuf(r, any_dtype(r), p, f);
        i->flags = VTRN_FLAG_REVERSE0;
        break;
    case VTRN_OP_TENSOR_REDUCE:
        i->op0 = VTRN_ALU_ADD;
        i->ap[1] = sbuf(r, VTRN_DTYPE_BF16, p, f);
        i->ap[1].n_dims = 2;
        i->ap[1].dim[0] = (vtrn_dim){16, f};
        i->ap[1].dim[1] = (vtrn_dim){1, 7};
        i->ap[1].addr = 4096;
        i->arg[0] = 1;
        i->flags = VTRN_FLAG_NEGATE;
        break;
    case VTRN_OP_COPY_PREDICATED:
        i->ap[1].dtype = i->ap[0].dtype = VTRN_DTYPE_BF16;
        i->ap[2] = sbuf(r, VTRN_DTYPE_UINT8, p, f);
        break;
    case VTRN_OP_TENSOR_TENSOR_SCAN:
        i->op0 = i->op1 = VTRN_ALU_ADD;
        i->ap[2] = sbuf(r, VTRN_DTYPE_FP32, p, f);
        break;
    case VTRN_OP_STREAM_SHUFFLE:
        i->ap[0].dtype = i->ap[1].dtype = VTRN_DTYPE_FP16;
        for (int k = 0; k < 32; k++)
            i->shuffle[k] =
                legal_random(r, 8) ? (uint8_t)legal_random(r, p % 32 ? p % 32 : 32) : 255;
        break;
    case VTRN_OP_BN_STATS:
        i->ap[0] = sbuf(r, VTRN_DTYPE_FP32, p, 6);
        break;
    case VTRN_OP_BN_AGGR:
        i->ap[0] = sbuf(r, VTRN_DTYPE_FP32, p, 2);
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP32, p, 3 * (1 + legal_random(r, 20)));
        break;
    case VTRN_OP_MAX8:
        i->ap[0] = sbuf(r, VTRN_DTYPE_FP32, p, 8);
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP32, p, 8 + f);
        break;
    case VTRN_OP_FIND_INDEX8:
        i->ap[0] = sbuf(r, VTRN_DTYPE_UINT32, p, 8);
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP32, p, 8 + f);
        i->ap[2] = sbuf(r, VTRN_DTYPE_FP32, p, 8);
        break;
    case VTRN_OP_TENSOR_SCALAR_REDUCE:
    case VTRN_OP_TENSOR_SCALAR_CUMULATIVE:
        i->op0 = arithmetic(r);
        i->op1 = VTRN_ALU_MAX;
        i->ap[2] = operand(r, i, VTRN_DTYPE_FP32, p, 1);
        i->flags = VTRN_FLAG_ACCUMULATE;
        break;
    case VTRN_OP_RANGE_SELECT:
        i->op0 = VTRN_ALU_IS_GE;
        i->op1 = VTRN_ALU_IS_LT;
        i->ap[1] = operand(r, i, VTRN_DTYPE_FP32, p, f);
        i->ap[2] = operand(r, i, VTRN_DTYPE_FP32, p, 1);
        i->arg[0] = -5;
        break;
    case VTRN_OP_SELECT_REDUCE:
        i->ap[2] = sbuf(r, VTRN_DTYPE_UINT16, p, f);
        i->imm[0].f = 3.0f;
        i->flags = VTRN_FLAG_REVERSE0;
        break;
    case VTRN_OP_EXPONENTIAL:
        i->ap[2] = operand(r, i, VTRN_DTYPE_FP32, p, 1);
        break;
    case VTRN_OP_MATCH_REPLACE8:
        i->ap[2] = sbuf(r, VTRN_DTYPE_FP32, p, 8);
        i->imm[0].bits = 0x7fc00001; /* a NaN with a payload */
        break;
    case VTRN_OP_DROPOUT:
        i->ap[2] = operand(r, i, VTRN_DTYPE_FP32, p, 1);
        break;
    case VTRN_OP_ACTIVATE:
        i->func = (uint8_t)legal_random(r, VTRN_ACT_COUNT);
        i->imm[0].f = 0.125f;
        i->ap[3] = operand(r, i, VTRN_DTYPE_BF16, p, 1);
        i->flags = VTRN_FLAG_STOCHASTIC | VTRN_FLAG_ACCUMULATE;
        break;
    default:
        break; /* tensor_copy, reciprocal */
    }
}

static void fill_special(legal_rng *r, vtrn_instr *i, unsigned p, unsigned f) {
    unsigned a = 1 + legal_random(r, 32), b = 1 + legal_random(r, 32);
    switch ((vtrn_opcode)i->opcode) {
    case VTRN_OP_MEMSET:
        i->ap[0] = operand(r, i, any_dtype(r), p, f);
        i->imm[0].f = -0.0f;
        break;
    case VTRN_OP_RNG:
        i->ap[0] = operand(r, i, VTRN_DTYPE_UINT8, p, f);
        break;
    case VTRN_OP_TRANSPOSE32:
        i->ap[0] = operand(r, i, VTRN_DTYPE_BF16, a, b);
        i->ap[1] = operand(r, i, VTRN_DTYPE_BF16, b, a);
        break;
    case VTRN_OP_QUANTIZE_MX:
        i->ap[0] = sbuf(r, VTRN_DTYPE_FP8E5M2_X4, 64, f);
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP16, 64, 4 * f);
        i->ap[2] = sbuf(r, VTRN_DTYPE_UINT8, 64, f);
        i->arg[0] = legal_random(r, 2);
        break;
    case VTRN_OP_SET_RNG_SEED:
        i->ap[1] = operand(r, i, VTRN_DTYPE_INT32, 1, 1);
        break;
    case VTRN_OP_RAND_SET_STATE:
        i->ap[1] = sbuf(r, VTRN_DTYPE_UINT32, p, i->engine == VTRN_ENGINE_VECTOR ? 24 : 6);
        break;
    case VTRN_OP_RAND_GET_STATE:
        i->ap[0] = sbuf(r, VTRN_DTYPE_UINT32, p, i->engine == VTRN_ENGINE_VECTOR ? 24 : 6);
        break;
    case VTRN_OP_VECTOR_LOAD_ACCUMULATOR:
        i->ap[1] = operand(r, i, VTRN_DTYPE_BF16, p, 1);
        break;
    case VTRN_OP_N_GATHER:
        i->ap[0] = sbuf(r, VTRN_DTYPE_BF16, p, f);
        i->ap[1] = sbuf(r, VTRN_DTYPE_BF16, p, 1 + legal_random(r, 200));
        i->ap[2] = sbuf(r, VTRN_DTYPE_UINT32, p, f);
        break;
    case VTRN_OP_LOCAL_GATHER:
        i->ap[0] = sbuf(r, VTRN_DTYPE_FP16, 64, 2 * 20);
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP16, 64, 2 + f);
        i->ap[2] = sbuf(r, VTRN_DTYPE_UINT16, 64, 2);
        i->arg[0] = 2;
        i->arg[1] = 20;
        break;
    case VTRN_OP_NONZERO_WITH_COUNT:
        i->ap[0] = sbuf(r, VTRN_DTYPE_INT32, p, f + 1);
        i->ap[1] = sbuf(r, VTRN_DTYPE_FP32, p, f);
        i->arg[0] = 7;
        i->arg[1] = -1;
        break;
    case VTRN_OP_VECTOR_READ_ACCUMULATOR:
    case VTRN_OP_ACT_READ_ACCUMULATOR:
        i->ap[0] = operand(r, i, VTRN_DTYPE_FP32, p, 1);
        break;
    case VTRN_OP_ACT_TABLE_LOAD:
        i->arg[0] = (int32_t)legal_random(r, 7);
        break;
    case VTRN_OP_AFFINE_SELECT:
        i->op0 = VTRN_ALU_IS_GE;
        i->ap[1] = operand(r, i, any_dtype(r), p, f);
        i->imm[0].f = -INFINITY;
        __attribute__((fallthrough));
    case VTRN_OP_IOTA:
        i->ap[0] = operand(r, i, VTRN_DTYPE_INT32, p, f);
        i->ap[3] = (vtrn_ap){.n_dims = 1, .dim = {{-100000, f}}};
        i->arg[0] = -7;
        i->arg[1] = 1 << 20;
        break;
    case VTRN_OP_PARTITION_REDUCE:
        i->op0 = VTRN_ALU_MAX;
        i->ap[0] = sbuf(r, VTRN_DTYPE_FP32, 1, f);
        i->ap[1] = sbuf(r, VTRN_DTYPE_BF16, p, f);
        break;
    default:
        break; /* custom_op 0, event_semaphore */
    }
}

/* Two partitions to a row in HBM: the same elements, the rows counted by a dimension more. */
static void fold_rows(vtrn_ap *ap) {
    if (ap->n_partitions % 2 || ap->n_dims == VTRN_MAX_FREE_DIMS || ap->partition_step > 1000)
        return;
    for (int d = ap->n_dims++; d > 0; d--)
        ap->dim[d] = ap->dim[d - 1];
    ap->dim[0] = (vtrn_dim){(int32_t)ap->partition_step, 2};
    ap->partition_step *= 2;
    ap->n_partitions /= 2;
}

static void fill_dma(legal_rng *r, vtrn_instr *i, unsigned p, unsigned f) {
    vtrn_ap onchip = sbuf(r, any_dtype(r), p, f);
    bool is_load = legal_random(r, 2);
    unsigned a = 1 + legal_random(r, 100), b = 1 + legal_random(r, 100);
    i->queue = (uint8_t)legal_random(r, 16);
    onchip.partition = (uint16_t)legal_random(r, 129 - p); /* anywhere */
    switch ((vtrn_opcode)i->opcode) {
    case VTRN_OP_DMA_COPY:
        i->ap[is_load ? 0 : 1] = onchip;
        i->ap[is_load ? 1 : 0] = in_hbm(r, is_load ? CONSTANT : SCRATCH,
                                        legal_random(r, 2) ? onchip.dtype : VTRN_DTYPE_FP32, p, f);
        if (legal_random(r, 4) == 0)
            fold_rows(&i->ap[is_load ? 1 : 0]);
        if (legal_random(r, 4) == 0) { /* one element for everybody */
            i->ap[0] = onchip;
            i->ap[1] = in_hbm(r, ARGUMENT, VTRN_DTYPE_FP32, p, f);
            i->ap[1].partition_step = 0;
            i->ap[1].dim[0].step = 0;
        }
        if (!is_load)
            i->flags = VTRN_FLAG_ACCUMULATE;
        break;
    case VTRN_OP_DMA_TRANSPOSE:
        i->ap[0] = sbuf(r, VTRN_DTYPE_BF16, a, b);
        i->ap[1] = in_hbm(r, ARGUMENT, VTRN_DTYPE_BF16, b, a);
        break;
    default: {
        vtrn_ap table = in_hbm(r, TABLE, float_dtype(r), 1, f);
        vtrn_ap indices = sbuf(r, VTRN_DTYPE_UINT32, p, 1);
        bool is_gather = i->opcode == VTRN_OP_DMA_GATHER;
        i->ap[0] = is_gather ? onchip : table;
        i->ap[1] = is_gather ? table : onchip;
        i->ap[2] = indices;
        i->arg[1] = 100;
        i->flags = legal_random(r, 2) ? VTRN_FLAG_OOB_SKIP : VTRN_FLAG_CLAMP_INDEX;
    }
    }
}

static void fill(legal_rng *r, vtrn_instr *i) {
    unsigned p = 1 + legal_random(r, 128), f = 1 + legal_random(r, 200);
    switch ((vtrn_opcode)i->opcode) {
    case VTRN_OP_DMA_COPY:
    case VTRN_OP_DMA_TRANSPOSE:
    case VTRN_OP_DMA_GATHER:
    case VTRN_OP_DMA_SCATTER:
        fill_dma(r, i, p, f);
        break;
    case VTRN_OP_MEMSET:
    case VTRN_OP_RNG:
    case VTRN_OP_TRANSPOSE32:
    case VTRN_OP_SET_RNG_SEED:
    case VTRN_OP_RAND_SET_STATE:
    case VTRN_OP_RAND_GET_STATE:
    case VTRN_OP_ACT_READ_ACCUMULATOR:
    case VTRN_OP_VECTOR_READ_ACCUMULATOR:
    case VTRN_OP_VECTOR_LOAD_ACCUMULATOR:
    case VTRN_OP_N_GATHER:
    case VTRN_OP_LOCAL_GATHER:
    case VTRN_OP_NONZERO_WITH_COUNT:
    case VTRN_OP_QUANTIZE_MX:
    case VTRN_OP_ACT_TABLE_LOAD:
    case VTRN_OP_AFFINE_SELECT:
    case VTRN_OP_IOTA:
    case VTRN_OP_PARTITION_REDUCE:
    case VTRN_OP_CUSTOM_OP:
    case VTRN_OP_EVENT_SEMAPHORE:
        fill_special(r, i, p, f);
        break;
    case VTRN_OP_COLLECTIVE:
        i->arg[0] = 1;
        break;
    default:
        fill_vector(r, i, p, f);
    }
}

/* Waits, update and source: each legal in itself, none that anything depends on. */
static void fill_common(legal_rng *r, vtrn_instr *i) {
    i->n_waits = (uint8_t)legal_random(r, 3);
    for (int w = 0; w < i->n_waits; w++)
        i->wait[w] = (vtrn_wait){.semaphore = (uint16_t)legal_random(r, 256),
                                 .value = legal_random(r, UINT32_MAX)};
    i->update_semaphore = legal_random(r, 2) ? (uint16_t)legal_random(r, 256) : VTRN_NO_SEMAPHORE;
    if (i->update_semaphore != VTRN_NO_SEMAPHORE)
        i->update_value = (uint16_t)legal_random(r, 65536);
    i->source = legal_random(r, 3);
}

static bool is_mx_product(vtrn_opcode op) {
    return op == VTRN_OP_LDWEIGHTS_MX || op == VTRN_OP_MATMUL_MX;
}

static bool is_tensor_op(vtrn_opcode op) {
    return op == VTRN_OP_LDWEIGHTS || op == VTRN_OP_MATMUL || op == VTRN_OP_PE_TRANSPOSE ||
           is_mx_product(op);
}

/* The list of a block in no order; layout() sorts it into streams. */
static uint32_t make_list(legal_rng *r, int gen, vtrn_instr *list) {
    uint32_t n = 0;
    for (int op = 0; op < VTRN_OP_COUNT; op++)
        for (uint32_t copy = 0; copy <= legal_random(r, 3); copy++) {
            vtrn_instr i = {.opcode = (uint16_t)op, .update_semaphore = VTRN_NO_SEMAPHORE};
            const vtrn_op_info *info = isa_op_info((vtrn_opcode)op);
            if (info->min_gen > gen)
                continue;
            i.engine = pick_engine(r, info, gen, (vtrn_opcode)op);
            unsigned k = 1 + legal_random(r, 128), m = 1 + legal_random(r, 128);
            vtrn_dtype t = float_dtype(r);
            if (is_mx_product((vtrn_opcode)op)) {
                k = 32 * (1 + legal_random(r, 4));
                m += m % 2;
            }
            if (op == VTRN_OP_MATMUL || op == VTRN_OP_MATMUL_MX) { /* weights right before it */
                vtrn_instr w = i;
                w.opcode = op == VTRN_OP_MATMUL ? VTRN_OP_LDWEIGHTS : VTRN_OP_LDWEIGHTS_MX;
                fill_tensor(r, &w, k, m, t);
                fill_common(r, &w);
                list[n++] = w;
            }
            if (is_tensor_op((vtrn_opcode)op))
                fill_tensor(r, &i, k, m, t);
            else
                fill(r, &i);
            fill_common(r, &i);
            list[n++] = i;
        }
    return n;
}

static void fill_tables(legal_rng *r, vtrn_program *p) {
    p->n_slots = N_SLOTS;
    p->slots = ARENA_NEW(&p->arena, vtrn_slot, N_SLOTS);
    for (uint32_t s = 0; s < N_SLOTS; s++)
        p->slots[s].size_bytes = SLOT_BYTES;
    p->slots[ARGUMENT] = (vtrn_slot){VTRN_SLOT_ARGUMENT, VTRN_DTYPE_FP32, 0, 1, SLOT_BYTES, 0};
    p->slots[OUTPUT] = (vtrn_slot){VTRN_SLOT_OUTPUT, VTRN_DTYPE_BF16, 0, 0, SLOT_BYTES, 0};
    p->slots[CONSTANT] = (vtrn_slot){VTRN_SLOT_CONSTANT, VTRN_DTYPE_FP32, 0, 0, SLOT_BYTES, 64};
    p->slots[SCRATCH] = (vtrn_slot){VTRN_SLOT_SCRATCH, VTRN_DTYPE_INT8, 0, 0, SLOT_BYTES, 0};
    p->slots[TABLE] = (vtrn_slot){VTRN_SLOT_ARGUMENT, VTRN_DTYPE_FP32, 0, 0, SLOT_BYTES, 0};
    p->n_arguments = 2;
    p->n_outputs = 2;
    p->output_alias = ARENA_NEW(&p->arena, int32_t, 2);
    p->output_alias[0] = 0; /* so that TABLE may be scattered into */
    p->output_alias[1] = -1;
    p->scratch_size = SLOT_BYTES;
    p->data_size = SLOT_BYTES + 128;
    uint8_t *data = arena_alloc(&p->arena, p->data_size, 1);
    for (int k = 0; k < 1000; k++)
        data[legal_random(r, (uint32_t)p->data_size)] = (uint8_t)legal_random(r, 256);
    p->data = data;
    p->n_sources = 3;
    p->sources = ARENA_NEW(&p->arena, vtrn_source, 3);
    p->sources[0] = (vtrn_source){"stablehlo.dot_general", "model.py:42"};
    p->sources[1] = (vtrn_source){"fusion(12) \"quoted\\\"", ""};
    p->sources[2] = (vtrn_source){"", "a\nb\t\xc3\xa9"};
    p->n_customs = 2;
    p->customs = ARENA_NEW(&p->arena, vtrn_custom, 2);
    p->n_replicas = 1;
    p->n_partitions = 4;
    static const uint32_t slots[] = {ARGUMENT, SCRATCH};
    static const uint8_t blob[] = {0, 1, 2, 253, 254, 255};
    p->customs[0] =
        (vtrn_custom){"stablehlo.sort", 1, 1, slots, sizeof blob, blob, 12345678901ull, NULL};
    static const int32_t groups[] = {0, 2, 3, 1};
    static const vtrn_exchange exchange = {.dtype = VTRN_DTYPE_BF16,
                                           .n = {2, SLOT_BYTES / 32},
                                           .run = 4,
                                           .from_place = SLOT_BYTES / 4,
                                           .from_step = {SLOT_BYTES / 8, 4},
                                           .to_place = 4,
                                           .to_step = {SLOT_BYTES / 4, 8}};
    static const vtrn_collective all_to_all = {.kind = VTRN_COLLECTIVE_ALL_TO_ALL,
                                               .n_groups = 2,
                                               .group_size = 2,
                                               .groups = groups,
                                               .exchanges = &exchange};
    p->customs[1] = (vtrn_custom){"stablehlo.all_to_all", 1, 1, slots, 0, blob, 0, &all_to_all};
}

vtrn_program *legal_program(legal_rng *r, int gen) {
    arena a = ARENA_EMPTY;
    vtrn_program *p = ARENA_NEW(&a, vtrn_program, 1);
    p->arena = a;
    p->name = "jit_step";
    p->gen = (uint8_t)gen;
    p->chip = gen == 2 ? "trn1" : gen == 3 ? "trn2" : "trn3";
    p->sbuf_peak_bytes = 65536;
    p->psum_peak_bytes = 16384;
    fill_tables(r, p);
    p->n_blocks = N_BLOCKS;
    p->blocks = ARENA_NEW(&p->arena, vtrn_block, N_BLOCKS);
    p->instrs = ARENA_NEW(&p->arena, vtrn_instr, MAX_INSTRS);
    static vtrn_instr list[MAX_INSTRS];
    static const uint32_t targets[] = {0, 3, 3};
    for (int b = 0; b < N_BLOCKS; b++) {
        vtrn_block *block = &p->blocks[b];
        block->flops = (uint64_t)b << 40;
        uint32_t n = b == 3 ? 0 : make_list(r, gen, list); /* one block is empty */
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
            block->first[e] = p->n_instrs;
            for (uint32_t i = 0; i < n; i++)
                if (list[i].engine == e)
                    p->instrs[p->n_instrs++] = list[i];
            block->count[e] = p->n_instrs - block->first[e];
        }
        block->end = (uint8_t)b == 0 ? VTRN_END_JUMP
                     : b == 1        ? VTRN_END_BRANCH
                     : b == 2        ? VTRN_END_SWITCH
                                     : VTRN_END_STOP;
        block->next[0] = b == 0 ? 1 : b == 1 ? 2 : 0;
        block->next[1] = b == 1 ? 0 : 0;
        if (b == 1 || b == 2) {
            block->cond_slot = SCRATCH;
            block->cond_addr = 64;
        }
        if (b == 2) {
            block->targets = targets;
            block->n_targets = 3;
        }
    }
    return p;
}

uint32_t legal_find(const vtrn_program *p, vtrn_opcode opcode) {
    for (uint32_t i = 0; i < p->n_instrs; i++)
        if (p->instrs[i].opcode == opcode)
            return i;
    return UINT32_MAX;
}
