/* The GpSimd engine's own instructions: index patterns and reductions over partitions.
 * Source: docs/hardware.md, "GpSimd". */
#include "engine/lanes.h"

#include <string.h>

enum { AP0 = 1, AP1 = 2 };

/* Values arg0 + partition*arg1 + sum(index_i * step_i) of consecutive elements, wrapping int32. */
typedef struct index_walk {
    const vtrn_ap *pattern;
    uint32_t start; /* of the row */
    uint32_t index[VTRN_MAX_FREE_DIMS];
} index_walk;

static void index_row_begin(lanes *l) {
    index_walk *w = l->extra;
    w->start = (uint32_t)l->instr->arg[0] + (uint32_t)l->row * (uint32_t)l->instr->arg[1];
    memset(w->index, 0, sizeof w->index);
}

static void index_take(index_walk *w, size_t n, int32_t *out) {
    const vtrn_ap *p = w->pattern;
    int last = p->n_dims - 1;
    while (n) {
        uint32_t value = w->start;
        for (int i = 0; i <= last; i++)
            value += w->index[i] * (uint32_t)p->dim[i].step;
        uint32_t left = last < 0 ? 1 : p->dim[last].num - w->index[last];
        uint32_t step = last < 0 ? 0 : (uint32_t)p->dim[last].step;
        uint32_t run = left < n ? left : (uint32_t)n;
        for (uint32_t i = 0; i < run; i++)
            out[i] = (int32_t)(value + i * step);
        out += run;
        n -= run;
        if (last >= 0)
            w->index[last] += run;
        for (int i = last; i > 0 && w->index[i] == p->dim[i].num; i--) {
            w->index[i] = 0;
            w->index[i - 1]++;
        }
    }
}

static vtrn_status check_pattern(const vtrn_instr *instr) {
    if (instr->ap[3].n_dims > VTRN_MAX_FREE_DIMS ||
        isa_ap_free_size(&instr->ap[3]) != isa_ap_free_size(&instr->ap[0]))
        return operand_shape_error(instr, 3, "the index pattern has as many elements as ap0");
    return NULL;
}

static void iota_chunk(lanes *l, size_t n) {
    index_take(l->extra, n, (int32_t *)l->buf[1]);
    operand_put_int(&l->op[0], n, (const uint32_t *)l->buf[1], false);
}

vtrn_status engine_op_IOTA(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                           int thread_i) {
    VTRN_RETURN_IF_ERROR(check_pattern(instr));
    index_walk w = {.pattern = &instr->ap[3]};
    lanes_spec spec = {.chunk = iota_chunk, .streams = AP0, .row_begin = index_row_begin};
    return lanes_run(core, instr, slot_base, thread_i, &spec, &w);
}

static void affine_select_chunk(lanes *l, size_t n) {
    uint32_t *mask = (uint32_t *)l->buf[2];
    index_take(l->extra, n, (int32_t *)mask);
    l->ints->ts[0][l->instr->op0](mask, 0, mask, n);
    const void *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    for (size_t i = 0; i < n; i++)
        l->buf[0][i] = l->instr->imm[0].f;
    l->alu->select32(mask, 0, x, (uint32_t *)l->buf[0], n);
    operand_put_fp32(&l->op[0], n, l->buf[0]);
}

vtrn_status engine_op_AFFINE_SELECT(engine_core *core, const vtrn_instr *instr,
                                    const uint64_t *slot_base, int thread_i) {
    VTRN_RETURN_IF_ERROR(check_pattern(instr));
    if (instr->op0 < VTRN_ALU_IS_EQUAL || instr->op0 > VTRN_ALU_IS_LT)
        return VTRN_ERROR(VTRN_UNDEFINED, "affine_select: %s does not compare",
                          isa_alu_name(instr->op0));
    index_walk w = {.pattern = &instr->ap[3]};
    lanes_spec spec = {
        .chunk = affine_select_chunk, .streams = AP0 | AP1, .row_begin = index_row_begin};
    return lanes_run(core, instr, slot_base, thread_i, &spec, &w);
}

/* One row comes out, so its owner does all the work: partition after partition, in order. */
typedef struct partition_reduction {
    operand src;
    bool is_int, is_bits, is_unsigned;
} partition_reduction;

static void reduce_partitions(lanes *l, size_t n) {
    partition_reduction *r = l->extra;
    const vtrn_instr *instr = l->instr;
    uint8_t op = instr->op0;
    uint32_t *acc = (uint32_t *)l->buf[0];
    for (int p = 0; p < instr->ap[1].n_partitions; p++) {
        operand at = r->src;
        at.at += p * at.row_stride;
        if (r->is_int || r->is_bits) {
            const uint32_t *x = operand_take_bits(&at, n, false, (uint32_t *)l->buf[1]);
            if (p == 0)
                memcpy(acc, x, n * sizeof *acc);
            else
                l->ints->tt[r->is_unsigned][op](acc, x, acc, n);
        } else {
            const float *x = operand_take_fp32(&at, n, l->buf[1]);
            if (p == 0)
                memcpy(acc, x, n * sizeof *acc);
            else
                l->alu->tt[op](l->buf[0], x, l->buf[0], n);
        }
        if (p == instr->ap[1].n_partitions - 1) {
            at.at -= p * at.row_stride;
            r->src = at;
        }
    }
    if (r->is_bits)
        operand_put_bits(&l->op[0], n, acc);
    else if (r->is_int)
        operand_put_int(&l->op[0], n, acc, r->is_unsigned);
    else
        operand_put_fp32(&l->op[0], n, l->buf[0]);
}

vtrn_status engine_op_PARTITION_REDUCE(engine_core *core, const vtrn_instr *instr,
                                       const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *src = &instr->ap[1];
    if (instr->ap[0].n_partitions != 1 || src->n_partitions == 0 ||
        isa_ap_free_size(src) != isa_ap_free_size(&instr->ap[0]))
        return operand_shape_error(instr, 1, "ap0 is one partition of as many elements as ap1");
    if (instr->op0 == VTRN_ALU_NONE || instr->op0 >= VTRN_ALU_COUNT || dtype_size(src->dtype) > 8)
        return VTRN_ERROR(VTRN_UNDEFINED, "tensor_partition_reduce: operation %s on %s",
                          isa_alu_name(instr->op0), dtype_name(src->dtype));
    partition_reduction r = {.is_int =
                                 src->dtype == VTRN_DTYPE_INT32 || src->dtype == VTRN_DTYPE_UINT32,
                             .is_bits = isa_alu_class(instr->op0) == 'B',
                             .is_unsigned = src->dtype == VTRN_DTYPE_UINT32};
    operand_bind(&r.src, core, src, slot_base);
    lanes_spec spec = {.chunk = reduce_partitions, .streams = AP0, .whole_chunks = true};
    return lanes_run(core, instr, slot_base, thread_i, &spec, &r);
}
