/* tensor_reduce: rows of the innermost free dimensions become one element each. */
#include "engine/lanes.h"

#include <string.h>

typedef struct reduction {
    uint64_t n_rows, n; /* results a partition, elements a result */
    uint8_t op;
    bool negates, is_bits, is_serial;
} reduction;

/* Short rows: as many as fit a chunk at a time. */
static void reduce_short(lanes *l, const reduction *r) {
    uint64_t per_chunk = OPERAND_CHUNK / r->n;
    for (uint64_t i = 0; i < r->n_rows; i += per_chunk) {
        uint64_t m = r->n_rows - i < per_chunk ? r->n_rows - i : per_chunk;
        const float *x = operand_take_fp32(&l->op[1], (size_t)(m * r->n), l->buf[1]);
        l->alu->reduce_rows[r->op](x, (size_t)m, (size_t)r->n, (size_t)r->n, l->buf[0]);
        if (r->negates)
            l->alu->negate(l->buf[0], l->buf[0], (size_t)m);
        operand_put_fp32(&l->op[0], (size_t)m, l->buf[0]);
    }
}

static void reduce_long(lanes *l, const reduction *r) {
    for (uint64_t i = 0; i < r->n_rows; i++) {
        float lane[ALU_LANES];
        l->alu->reduce_begin[r->op](lane);
        for (uint64_t from = 0; from < r->n; from += OPERAND_CHUNK) {
            size_t m = r->n - from < OPERAND_CHUNK ? (size_t)(r->n - from) : OPERAND_CHUNK;
            l->alu->reduce_add[r->op](lane, operand_take_fp32(&l->op[1], m, l->buf[1]), m);
        }
        float y = l->alu->reduce_end[r->op](lane);
        y = r->negates ? -y : y;
        operand_put_fp32(&l->op[0], 1, &y);
    }
}

/* Bit operations, and subtract, which is first - second - third ...: one after another. */
static void reduce_serial(lanes *l, const reduction *r) {
    for (uint64_t i = 0; i < r->n_rows; i++) {
        uint32_t bits = 0;
        float y = 0.0f;
        for (uint64_t from = 0; from < r->n; from += OPERAND_CHUNK) {
            size_t m = r->n - from < OPERAND_CHUNK ? (size_t)(r->n - from) : OPERAND_CHUNK;
            size_t k = 0;
            if (r->is_bits) {
                const uint32_t *x = operand_take_bits(&l->op[1], m, false, (uint32_t *)l->buf[1]);
                bits = from ? bits : x[k++];
                for (; k < m; k++)
                    bits = r->op == VTRN_ALU_BITWISE_AND  ? bits & x[k]
                           : r->op == VTRN_ALU_BITWISE_OR ? bits | x[k]
                                                          : bits ^ x[k];
            } else {
                const float *x = operand_take_fp32(&l->op[1], m, l->buf[1]);
                y = from ? y : x[k++];
                for (; k < m; k++)
                    y -= x[k];
            }
        }
        y = r->negates ? -y : y;
        if (r->is_bits)
            operand_put_bits(&l->op[0], 1, &bits);
        else
            operand_put_fp32(&l->op[0], 1, &y);
    }
}

/* A partition is one row of adjacent fp32 numbers, and so is the result: no cursor is needed. */
static bool is_plain(const lanes *l, const reduction *r) {
    const operand *d = &l->op[0], *s = &l->op[1];
    const vtrn_ap *ap = l->instr->ap;
    bool is_own_row = ap[0].space != ap[1].space || ap[0].partition == ap[1].partition;
    return is_own_row && r->n_rows == 1 && !r->is_serial && d->dtype == VTRN_DTYPE_FP32 &&
           s->dtype == VTRN_DTYPE_FP32 && s->n_dims == 1 && s->dim[0].step == 1 &&
           s->row_stride % (int64_t)sizeof(float) == 0;
}

static void reduce_plain(lanes *l, const reduction *r, const engine_rows *rows) {
    float sums[ENGINE_MAX_PARTITIONS];
    size_t n = (size_t)(rows->end - rows->first);
    const operand *d = &l->op[0], *s = &l->op[1];
    l->alu->reduce_rows[r->op]((const float *)(s->row_0 + rows->first * s->row_stride), n,
                               (size_t)s->row_stride / sizeof(float), (size_t)r->n, sums);
    if (r->negates)
        l->alu->negate(sums, sums, n);
    for (size_t i = 0; i < n; i++)
        memcpy(d->row_0 + (rows->first + (int64_t)i) * d->row_stride, &sums[i], sizeof sums[i]);
}

static vtrn_status plan_reduction(const vtrn_instr *instr, reduction *r) {
    const vtrn_ap *src = &instr->ap[1];
    uint64_t n_out = isa_ap_free_size(&instr->ap[0]);
    *r = (reduction){1, 1, instr->op0, instr->flags & VTRN_FLAG_NEGATE, false, false};
    if (instr->arg[0] < 0 || instr->arg[0] > src->n_dims)
        return VTRN_ERROR(VTRN_UNDEFINED, "tensor_reduce: arg0 = %d dimensions of %u",
                          instr->arg[0], src->n_dims);
    for (int i = 0; i < src->n_dims; i++)
        *(i < src->n_dims - instr->arg[0] ? &r->n_rows : &r->n) *= src->dim[i].num;
    if (r->n_rows != n_out || src->n_partitions != instr->ap[0].n_partitions)
        return operand_shape_error(instr, 1, "ap0 has an element for each row that is reduced");
    if (!r->n)
        return operand_shape_error(instr, 1, "a row of no elements has no result");
    r->is_bits = instr->op0 == VTRN_ALU_BITWISE_AND || instr->op0 == VTRN_ALU_BITWISE_OR ||
                 instr->op0 == VTRN_ALU_BITWISE_XOR;
    r->is_serial = r->is_bits || instr->op0 == VTRN_ALU_SUBTRACT;
    if (!r->is_serial &&
        (instr->op0 >= VTRN_ALU_COUNT || !CPU_TABLE(alu_kernel_table)->reduce_rows[instr->op0]))
        return VTRN_ERROR(VTRN_UNDEFINED, "tensor_reduce: %s is not a reduction",
                          isa_alu_name(instr->op0));
    if (dtype_size(src->dtype) > 8 || dtype_size(instr->ap[0].dtype) > 8)
        return VTRN_ERROR(VTRN_UNSUPPORTED, "tensor_reduce: no engine has 128-bit types");
    return NULL;
}

vtrn_status engine_op_TENSOR_REDUCE(engine_core *core, const vtrn_instr *instr,
                                    const uint64_t *slot_base, int thread_i) {
    reduction r;
    VTRN_RETURN_IF_ERROR(plan_reduction(instr, &r));
    lanes l;
    l.core = core;
    l.instr = instr;
    l.alu = CPU_TABLE(alu_kernel_table);
    operand_bind(&l.op[0], core, &instr->ap[0], slot_base);
    operand_bind(&l.op[1], core, &instr->ap[1], slot_base);
    engine_rows rows = engine_rows_of(core, &instr->ap[0], thread_i);
    bool is_easy = is_plain(&l, &r);
    while (engine_rows_next(&rows)) {
        if (is_easy) {
            reduce_plain(&l, &r, &rows);
            continue;
        }
        for (int row = rows.first; row < rows.end; row++) {
            operand_at_row(&l.op[0], row);
            operand_at_row(&l.op[1], row);
            if (instr->flags & VTRN_FLAG_STOCHASTIC)
                l.op[0].rng =
                    &core->regs->kept.generator[instr->engine][instr->ap[0].partition + row].state;
            if (r.is_serial)
                reduce_serial(&l, &r);
            else if (r.n <= OPERAND_CHUNK)
                reduce_short(&l, &r);
            else
                reduce_long(&l, &r);
        }
    }
    return NULL;
}
