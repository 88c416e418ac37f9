/* Vector instructions that carry something along the row: scans and batch-norm statistics.
 * Source: docs/hardware.md, "Vector engine". */
#include "engine/lanes.h"
#include "engine/search_kernels.h"

enum { AP0 = 1, AP1 = 2, AP2 = 4, AP3 = 8 };

/* tensor_tensor_scan */

static void scan_begin(lanes *l) {
    *(float *)l->extra = l->s[3];
}

static void scan_chunk(lanes *l, size_t n) {
    uint8_t op0 = l->instr->op0, op1 = l->instr->op1;
    float *state = l->extra, last = *state;
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    const float *y = operand_take_fp32(&l->op[2], n, l->buf[2]);
    float *d = l->buf[0];
    /* the two that models use; the order of their operands is of no account */
    if (op0 == VTRN_ALU_MULTIPLY && op1 == VTRN_ALU_ADD) {
        for (size_t i = 0; i < n; i++)
            d[i] = last = x[i] * last + y[i];
    } else if (op0 == VTRN_ALU_NONE && op1 == VTRN_ALU_ADD) {
        for (size_t i = 0; i < n; i++)
            d[i] = x[i] + y[i];
        last = n ? d[n - 1] : last;
    } else {
        bool r0 = l->instr->flags & VTRN_FLAG_REVERSE0, r1 = l->instr->flags & VTRN_FLAG_REVERSE1;
        for (size_t i = 0; i < n; i++) {
            float before = last;
            l->alu->tt[op0](r0 ? &before : x + i, r0 ? x + i : &before, &last, 1);
            before = last;
            l->alu->tt[op1](r1 ? y + i : &before, r1 ? &before : y + i, &last, 1);
            d[i] = last;
        }
    }
    *state = last;
    operand_put_fp32(&l->op[0], n, d);
}

vtrn_status engine_op_TENSOR_TENSOR_SCAN(engine_core *core, const vtrn_instr *instr,
                                         const uint64_t *slot_base, int thread_i) {
    if (instr->op0 >= VTRN_ALU_COUNT || instr->op1 >= VTRN_ALU_COUNT ||
        isa_alu_class(instr->op0) == 'B' || isa_alu_class(instr->op1) == 'B')
        return VTRN_ERROR(VTRN_UNDEFINED, "tensor_tensor_scan: %s, %s; only arithmetic is legal",
                          isa_alu_name(instr->op0), isa_alu_name(instr->op1));
    float state;
    lanes_spec spec = {.chunk = scan_chunk,
                       .streams = AP0 | AP1 | AP2,
                       .scalars = AP3,
                       .first_imm = 3,
                       .row_begin = scan_begin};
    return lanes_run(core, instr, slot_base, thread_i, &spec, &state);
}

/* bn_stats, bn_aggr: one row of the source gives a short row of results. Sums are kept in double,
 * so that the fp32 results do not depend on an order. */

typedef struct row_op {
    operand src;
    int64_t n_src;
} row_op;

enum { BN_MAX_ELEMENTS = 512, BN_STATS = 6, BN_TRIPLE = 3 };

static void bn_stats_row(lanes *l, size_t n_out) {
    row_op *r = l->extra;
    size_t n = (size_t)r->n_src;
    operand_at_row(&r->src, l->row);
    const float *x = operand_take_fp32(&r->src, n, l->buf[1]);
    float out[BN_STATS];
    double mean[2], squares[2];
    CPU_TABLE(search_kernel_table)->moments(x, n, mean, squares);
    for (size_t parity = 0; parity < 2; parity++) {
        size_t count = (n + 1 - parity) / 2;
        out[3 * parity] = (float)count;
        out[3 * parity + 1] = (float)mean[parity];
        out[3 * parity + 2] = (float)squares[parity];
    }
    operand_put_fp32(&l->op[0], n_out, out);
}

static vtrn_status run_row_op(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                              int thread_i, lanes_fn fn) {
    row_op r = {.n_src = (int64_t)isa_ap_free_size(&instr->ap[1])};
    if (instr->ap[1].n_partitions != instr->ap[0].n_partitions)
        return operand_shape_error(instr, 1, "all operands have the same partitions");
    operand_bind(&r.src, core, &instr->ap[1], slot_base);
    lanes_spec spec = {.chunk = fn, .streams = AP0, .whole_chunks = true};
    return lanes_run(core, instr, slot_base, thread_i, &spec, &r);
}

vtrn_status engine_op_BN_STATS(engine_core *core, const vtrn_instr *instr,
                               const uint64_t *slot_base, int thread_i) {
    if (isa_ap_free_size(&instr->ap[0]) != BN_STATS ||
        isa_ap_free_size(&instr->ap[1]) > BN_MAX_ELEMENTS)
        return operand_shape_error(instr, 1, "6 results from at most 512 elements");
    return run_row_op(core, instr, slot_base, thread_i, bn_stats_row);
}

static void bn_aggr_row(lanes *l, size_t n_out) {
    row_op *r = l->extra;
    double count = 0, sum = 0, squares = 0;
    float t[OPERAND_CHUNK];
    size_t chunk = OPERAND_CHUNK / BN_TRIPLE * BN_TRIPLE;
    for (int pass = 0; pass < 2; pass++) {
        double mean = count ? sum / count : 0;
        operand_at_row(&r->src, l->row);
        for (size_t from = 0; from < (size_t)r->n_src; from += chunk) {
            size_t n = (size_t)r->n_src - from < chunk ? (size_t)r->n_src - from : chunk;
            const float *x = operand_take_fp32(&r->src, n, t);
            for (size_t i = 0; i < n; i += BN_TRIPLE) {
                if (pass == 0) {
                    count += x[i];
                    sum += (double)x[i] * x[i + 1];
                } else {
                    double d = x[i + 1] - mean;
                    squares += x[i + 2] + x[i] * d * d;
                }
            }
        }
    }
    float out[2] = {count ? (float)(sum / count) : 0.0f, count ? (float)(squares / count) : 0.0f};
    operand_put_fp32(&l->op[0], n_out, out);
}

vtrn_status engine_op_BN_AGGR(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                              int thread_i) {
    if (isa_ap_free_size(&instr->ap[0]) != 2 || isa_ap_free_size(&instr->ap[1]) % BN_TRIPLE)
        return operand_shape_error(instr, 1, "2 results from a multiple of 3 elements");
    return run_row_op(core, instr, slot_base, thread_i, bn_aggr_row);
}
