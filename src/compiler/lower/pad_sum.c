/* Pads of zeros stay unwritten until somebody reads them: a sum of pads that do not overlap (the
 * gradient of slicing or unstacking) is then one tensor whose parts are copied into place. */
#include "compiler/lower/movement.h"

#include <string.h>

/* Elements of dim d that the part covers: [low, high). */
static int64_t part_end(const pad_sum *s, int i, int d) {
    int64_t n = s->part[i].type.dims[d];
    return s->part[i].low[d] + (n - 1) * (s->part[i].interior[d] + 1) + 1;
}

static bool overlap(const pad_sum *a, int i, const pad_sum *b, int j) {
    for (int d = 0; d < a->part[i].type.rank; d++)
        if (part_end(a, i, d) <= b->part[j].low[d] || part_end(b, j, d) <= a->part[i].low[d])
            return false;
    return true;
}

/* Room for n parts. */
static vtrn_status reserve(lower *l, pad_sum *s, int n) {
    if (n <= s->cap)
        return NULL;
    int cap = n < 2 * s->cap ? 2 * s->cap : n;
    pad_part *part = ARENA_NEW(&l->tmp, pad_part, (size_t)cap);
    if (!part)
        return VTRN_OUT_OF_MEMORY((size_t)cap * sizeof *part);
    if (s->n)
        memcpy(part, s->part, (size_t)s->n * sizeof *part);
    s->part = part;
    s->cap = cap;
    return NULL;
}

static vtrn_status start(lower *l, const graph_op *op, bool *is_done) {
    const graph_type *t = &l->g->types[op->operands[0]];
    double value;
    bool is_plain = !l->has_control_flow && dtype_is_float((vtrn_dtype)t->dtype) &&
                    dtype_size((vtrn_dtype)t->dtype) <= 4 && graph_type_count(t) > 0 &&
                    lower_splat_float(l, op->operands[1], &value) && value == 0;
    for (int d = 0; d < t->rank && is_plain; d++)
        is_plain = op->attrs.pad.low.v[d] >= 0 && op->attrs.pad.high.v[d] >= 0;
    if (!is_plain || graph_type_equal(t, &l->g->types[op->results[0]]))
        return NULL;
    pad_sum *s = ARENA_NEW(&l->tmp, pad_sum, 1);
    if (!s)
        return VTRN_OUT_OF_MEMORY(sizeof *s);
    VTRN_RETURN_IF_ERROR(reserve(l, s, 1));
    s->n = 1;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &s->part[0].from));
    s->part[0].type = *t;
    for (int d = 0; d < t->rank; d++) {
        s->part[0].low[d] = op->attrs.pad.low.v[d];
        s->part[0].interior[d] = op->attrs.pad.interior.v[d];
    }
    l->values[op->results[0]].state = VALUE_PADS;
    l->values[op->results[0]].pads = s;
    *is_done = true;
    return NULL;
}

static vtrn_status add(lower *l, const graph_op *op, bool *is_done) {
    const lower_value *a = &l->values[op->operands[0]], *b = &l->values[op->operands[1]];
    if (a->state != VALUE_PADS || b->state != VALUE_PADS || a == b || a->uses != 1 ||
        b->uses != 1 || a->pads->n + b->pads->n > PAD_SUM_MAX)
        return NULL;
    for (int i = 0; i < a->pads->n; i++)
        for (int j = 0; j < b->pads->n; j++)
            if (overlap(a->pads, i, b->pads, j))
                return NULL;
    pad_sum *s = a->pads;
    VTRN_RETURN_IF_ERROR(reserve(l, s, s->n + b->pads->n));
    for (int j = 0; j < b->pads->n; j++)
        s->part[s->n++] = b->pads->part[j];
    l->values[op->results[0]].state = VALUE_PADS;
    l->values[op->results[0]].pads = s;
    *is_done = true;
    return NULL;
}

vtrn_status lower_pad_sum(lower *l, const graph_op *op, bool *is_done) {
    return op->kind == GRAPH_PAD ? start(l, op, is_done) : add(l, op, is_done);
}

vtrn_status movement_place_pads(lower *l, graph_value v) {
    const pad_sum *s = l->values[v].pads;
    const graph_type *t = &l->g->types[v];
    view out;
    VTRN_RETURN_IF_ERROR(lower_result(l, v, &out));
    int64_t covered = 0;
    for (int i = 0; i < s->n; i++)
        covered += graph_type_count(&s->part[i].type);
    if (covered < graph_type_count(t)) {
        uint64_t zero = 0;
        uint32_t slot;
        graph_type scalar = {.dtype = t->dtype};
        VTRN_RETURN_IF_ERROR(build_constant_add(l->build, (vtrn_dtype)t->dtype, &zero,
                                                dtype_size((vtrn_dtype)t->dtype), &slot));
        view one = view_dense(slot, &scalar);
        VTRN_RETURN_IF_ERROR(movement_fill(l, &one, &out));
    }
    for (int i = 0; i < s->n; i++)
        VTRN_RETURN_IF_ERROR(movement_place(
            l, &s->part[i].from,
            &(padding){&s->part[i].type, s->part[i].low, s->part[i].interior, t}, &out));
    return NULL;
}
