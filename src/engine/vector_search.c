/* The search instructions of the Vector engine: the eight largest, and where values are.
 * Source: docs/hardware.md, "Vector engine". */
#include "engine/lanes.h"
#include "engine/search_kernels.h"

#include <string.h>

enum {
    AP0 = 1,
    SEARCH_MAX_ELEMENTS = ENGINE_SCRATCH_BYTES / 4 /* fp32 rows in a thread's scratch */
};

typedef struct search {
    operand data, values;
    uint64_t n;
    float *row; /* the data of the row as fp32 */
} search;

static void load_row(lanes *l, search *s) {
    operand_at_row(&s->data, l->row);
    for (uint64_t from = 0; from < s->n; from += OPERAND_CHUNK) {
        size_t n = s->n - from < OPERAND_CHUNK ? (size_t)(s->n - from) : OPERAND_CHUNK;
        const float *x = operand_take_fp32(&s->data, n, s->row + from);
        if (x != s->row + from)
            memcpy(s->row + from, x, n * sizeof *x);
    }
}

/* found[j] = index of values[j]: the first that no equal value before it took, or -1. */
static void find_all(const search *s, const float values[SEARCH_N], int64_t found[SEARCH_N]) {
    size_t (*find_equal)(const float *, size_t, size_t, float) =
        CPU_TABLE(search_kernel_table)->find_equal;
    for (int j = 0; j < SEARCH_N; j++) {
        uint64_t from = 0;
        found[j] = -1;
        for (int k = 0; k < j; k++)
            if (values[k] == values[j])
                from = found[k] < 0 ? s->n : (uint64_t)found[k] + 1;
        uint64_t at = find_equal(s->row, from, s->n, values[j]);
        if (at < s->n)
            found[j] = (int64_t)at;
    }
}

static void max8_row(lanes *l, size_t n_out) {
    search *s = l->extra;
    load_row(l, s);
    float best[SEARCH_N];
    CPU_TABLE(search_kernel_table)->largest(s->row, s->n, best);
    operand_put_fp32(&l->op[0], n_out, best);
}

/* The first of equal values takes the last place instead, and so on: how nc_match_replace8 numbers
 * them. */
static void reverse_equals(const float values[SEARCH_N], int64_t found[SEARCH_N]) {
    for (int j = 0; j < SEARCH_N; j++) {
        int equal[SEARCH_N], n = 0;
        for (int k = 0; k < SEARCH_N; k++)
            if (values[k] == values[j])
                equal[n++] = k;
        if (n == 0 || equal[0] != j)
            continue;
        for (int k = 0; k < n / 2; k++) {
            int64_t first = found[equal[k]];
            found[equal[k]] = found[equal[n - 1 - k]];
            found[equal[n - 1 - k]] = first;
        }
    }
}

static void find_index8_row(lanes *l, size_t n_out) {
    search *s = l->extra;
    load_row(l, s);
    int64_t found[SEARCH_N];
    float buf[SEARCH_N];
    operand_at_row(&s->values, l->row);
    const float *values = operand_take_fp32(&s->values, SEARCH_N, buf);
    find_all(s, values, found);
    if (l->instr->flags & VTRN_FLAG_REVERSE0)
        reverse_equals(values, found);
    uint32_t out[SEARCH_N];
    for (int j = 0; j < SEARCH_N; j++)
        out[j] = (uint32_t)found[j]; /* missing: all ones */
    operand_put_bits(&l->op[0], n_out, out);
}

/* The whole row at its first chunk; the others copy. */
static void match_replace8_chunk(lanes *l, size_t n) {
    search *s = l->extra;
    if (l->from == 0) {
        load_row(l, s);
        int64_t found[SEARCH_N];
        float buf[SEARCH_N];
        operand_at_row(&s->values, l->row);
        find_all(s, operand_take_fp32(&s->values, SEARCH_N, buf), found);
        for (int j = 0; j < SEARCH_N; j++)
            if (found[j] >= 0)
                s->row[found[j]] = l->instr->imm[0].f;
    }
    operand_put_fp32(&l->op[0], n, s->row + l->from);
}

static vtrn_status run_search(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                              int thread_i, lanes_fn fn, bool has_values) {
    search s = {.n = isa_ap_free_size(&instr->ap[1]), .row = engine_scratch(core, thread_i)};
    if (instr->ap[1].n_partitions != instr->ap[0].n_partitions)
        return operand_shape_error(instr, 1, "all operands have the same partitions");
    if (s.n < SEARCH_N || s.n > SEARCH_MAX_ELEMENTS)
        return operand_shape_error(instr, 1, "from 8 to 65536 elements are searched");
    if (has_values && (isa_ap_free_size(&instr->ap[2]) != SEARCH_N ||
                       instr->ap[2].n_partitions != instr->ap[0].n_partitions))
        return operand_shape_error(instr, 2, "eight values a partition are looked for");
    operand_bind(&s.data, core, &instr->ap[1], slot_base);
    if (has_values)
        operand_bind(&s.values, core, &instr->ap[2], slot_base);
    lanes_spec spec = {.chunk = fn, .streams = AP0, .whole_chunks = true};
    return lanes_run(core, instr, slot_base, thread_i, &spec, &s);
}

static vtrn_status check_eight(const vtrn_instr *instr) {
    if (isa_ap_free_size(&instr->ap[0]) != SEARCH_N)
        return operand_shape_error(instr, 0, "eight results a partition");
    return NULL;
}

vtrn_status engine_op_MAX8(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                           int thread_i) {
    VTRN_RETURN_IF_ERROR(check_eight(instr));
    return run_search(core, instr, slot_base, thread_i, max8_row, false);
}

vtrn_status engine_op_FIND_INDEX8(engine_core *core, const vtrn_instr *instr,
                                  const uint64_t *slot_base, int thread_i) {
    VTRN_RETURN_IF_ERROR(check_eight(instr));
    return run_search(core, instr, slot_base, thread_i, find_index8_row, true);
}

vtrn_status engine_op_MATCH_REPLACE8(engine_core *core, const vtrn_instr *instr,
                                     const uint64_t *slot_base, int thread_i) {
    if (isa_ap_free_size(&instr->ap[0]) != isa_ap_free_size(&instr->ap[1]))
        return operand_shape_error(instr, 1, "all tensors have the same number of elements");
    return run_search(core, instr, slot_base, thread_i, match_replace8_chunk, true);
}
