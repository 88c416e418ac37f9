/* Scalar regions (reducers, comparators, map bodies) evaluated for many lanes at once. */
#include "compiler/reference/ref_internal.h"
#include "compiler/reference/reference.h"

enum { MAX_CAPTURES = 64 };

struct ref_region {
    const graph *g;
    const graph_op *op;
    const graph_region *region;
    graph_value first; /* slots are for values first, first + 1, ... */
    uint32_t n_slots;
    void **slot;                       /* [n_slots][max_lanes]; NULL until made */
    graph_value capture[MAX_CAPTURES]; /* values of enclosing regions */
    void *capture_slot[MAX_CAPTURES];  /* [n_captures][max_lanes] */
    uint32_t n_captures;
    int64_t max_lanes;
};

static void value_range(const graph_region *r, graph_value *lo, graph_value *hi) {
    for (uint32_t i = 0; i < r->n_args + r->n_ops; i++) {
        const graph_op *op = i < r->n_args ? NULL : &r->ops[i - r->n_args];
        const uint32_t n = op ? op->n_results : 1;
        for (uint32_t k = 0; k < n; k++) {
            const graph_value v = op ? op->results[k] : r->args[i];
            *lo = v < *lo ? v : *lo;
            *hi = v > *hi ? v : *hi;
        }
    }
}

/* The data of a constant anywhere in a region; NULL when v is no constant. */
static const void *find_constant(const graph_region *r, graph_value v) {
    for (uint32_t i = 0; i < r->n_ops; i++) {
        const graph_op *op = &r->ops[i];
        if (op->kind == GRAPH_CONSTANT && op->results[0] == v)
            return op->attrs.constant.data;
        for (uint32_t k = 0; k < op->n_regions; k++) {
            const void *data = find_constant(op->regions[k], v);
            if (data)
                return data;
        }
    }
    return NULL;
}

/* The lanes of a value that an op or the end of the region uses. */
static void **slot_of(ref_region *r, graph_value v) {
    if (v >= r->first && v - r->first < r->n_slots && r->slot[v - r->first])
        return &r->slot[v - r->first];
    for (uint32_t i = 0; i < r->n_captures; i++)
        if (r->capture[i] == v)
            return &r->capture_slot[i];
    return NULL;
}

/* Makes the lanes of a value of an enclosing region. */
static vtrn_status capture(ref_call *c, ref_region *r, graph_value v) {
    const void *data = c->captured ? c->captured(c->captured_env, v) : NULL;
    if (!data)
        data = find_constant(&c->g->body, v);
    if (!data)
        return ref_unimplemented(c->op, "its region uses a computed value of an enclosing region");
    if (r->n_captures == MAX_CAPTURES)
        return ref_unimplemented(c->op, "its region uses more than 64 values of enclosing regions");
    const size_t size = dtype_size(c->g->types[v].dtype);
    VTRN_RETURN_IF_ERROR(ref_scratch(c, r->max_lanes, size, &r->capture_slot[r->n_captures]));
    ref_fill(r->capture_slot[r->n_captures], data, r->max_lanes, size);
    r->capture[r->n_captures++] = v;
    return NULL;
}

/* Checks that operands are known scalars, and gives the results of op i their memory. */
static vtrn_status prepare_op(ref_call *c, ref_region *r, const graph_op *op) {
    for (uint32_t k = 0; k < op->n_operands; k++) {
        const graph_value v = op->operands[k];
        if (ref_count(&c->g->types[v]) != 1)
            return ref_unimplemented(c->op, "its region computes on arrays");
        if (!slot_of(r, v))
            VTRN_RETURN_IF_ERROR(capture(c, r, v));
    }
    if (op->n_regions)
        return ref_unimplemented(c->op, "its region contains regions");
    for (uint32_t k = 0; k < op->n_results; k++) {
        const graph_type *t = &c->g->types[op->results[k]];
        if (ref_count(t) != 1)
            return ref_unimplemented(c->op, "its region computes on arrays");
        VTRN_RETURN_IF_ERROR(ref_scratch(c, r->max_lanes, dtype_size(t->dtype),
                                         &r->slot[op->results[k] - r->first]));
    }
    if (op->kind == GRAPH_CONSTANT)
        ref_fill(r->slot[op->results[0] - r->first], op->attrs.constant.data, r->max_lanes,
                 dtype_size(c->g->types[op->results[0]].dtype));
    return NULL;
}

vtrn_status ref_region_open(ref_call *c, uint32_t region_i, int64_t max_lanes, ref_region **out) {
    if (region_i >= c->op->n_regions)
        return ref_malformed(c->op, "a region is missing");
    const graph_region *region = c->op->regions[region_i];
    void *p;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, 1, sizeof(ref_region), &p));
    ref_region *r = *out = p;
    graph_value lo = GRAPH_NO_VALUE, hi = 0;
    value_range(region, &lo, &hi);
    *r = (ref_region){.g = c->g,
                      .op = c->op,
                      .region = region,
                      .first = lo,
                      .n_slots = lo <= hi ? hi - lo + 1 : 0,
                      .max_lanes = max_lanes};
    VTRN_RETURN_IF_ERROR(ref_scratch(c, r->n_slots, sizeof(void *), &p));
    r->slot = p;
    static char known;
    for (uint32_t i = 0; i < region->n_args; i++) {
        if (ref_count(&c->g->types[region->args[i]]) != 1)
            return ref_unimplemented(c->op, "its region takes arrays");
        r->slot[region->args[i] - lo] = &known; /* replaced at each evaluation */
    }
    for (uint32_t i = 0; i < region->n_ops; i++)
        VTRN_RETURN_IF_ERROR(prepare_op(c, r, &region->ops[i]));
    for (uint32_t i = 0; i < region->n_results; i++) {
        if (!slot_of(r, region->results[i]))
            VTRN_RETURN_IF_ERROR(capture(c, r, region->results[i]));
    }
    return NULL;
}

static vtrn_status eval_op(ref_region *r, const graph_op *op, int64_t n) {
    const void *in[8];
    void *out[8];
    if (op->kind == GRAPH_CONSTANT)
        return NULL;
    if (op->n_operands > 8 || op->n_results > 8)
        return ref_unimplemented(r->op, "its region has an op of more than 8 operands or results");
    for (uint32_t k = 0; k < op->n_operands; k++)
        in[k] = *slot_of(r, op->operands[k]);
    for (uint32_t k = 0; k < op->n_results; k++)
        out[k] = r->slot[op->results[k] - r->first];
    if (ref_is_elementwise(op->kind))
        return ref_elementwise(r->g, op, in, out, n, true);
    for (int64_t lane = 0; lane < n; lane++) {
        const void *in1[8];
        void *out1[8];
        for (uint32_t k = 0; k < op->n_operands; k++)
            in1[k] = (const char *)in[k] + lane * dtype_size(r->g->types[op->operands[k]].dtype);
        for (uint32_t k = 0; k < op->n_results; k++)
            out1[k] = (char *)out[k] + lane * dtype_size(r->g->types[op->results[k]].dtype);
        VTRN_RETURN_IF_ERROR(reference_op(r->g, op, in1, out1));
    }
    return NULL;
}

vtrn_status ref_region_eval(ref_region *r, const void *const *args, void *const *results,
                            int64_t n) {
    const graph_region *region = r->region;
    for (uint32_t i = 0; i < region->n_args; i++)
        r->slot[region->args[i] - r->first] = (void *)args[i];
    for (uint32_t i = 0; i < region->n_ops; i++)
        VTRN_RETURN_IF_ERROR(eval_op(r, &region->ops[i], n));
    for (uint32_t i = 0; i < region->n_results; i++) {
        const graph_value v = region->results[i];
        memcpy(results[i], *slot_of(r, v), (size_t)n * dtype_size(r->g->types[v].dtype));
    }
    return NULL;
}

vtrn_status ref_reducer_open(ref_call *c, uint32_t region_i, uint32_t n_inputs, vtrn_dtype dtype,
                             int64_t max_lanes, ref_reducer *out) {
    memset(out, 0, sizeof(*out));
    out->n_inputs = n_inputs;
    out->dtype = dtype;
    out->kind = n_inputs == 1 ? ref_reducer_kind(c->op->reducer) : GRAPH_UNKNOWN;
    if (n_inputs == 0 || n_inputs > 64)
        return ref_unimplemented(c->op, "more than 64 reductions at once");
    if (out->kind == GRAPH_UNKNOWN) {
        VTRN_RETURN_IF_ERROR(ref_region_open(c, region_i, max_lanes, &out->region));
        const graph_region *r = c->op->regions[region_i];
        if (r->n_args != 2 * n_inputs || r->n_results != n_inputs)
            return ref_malformed(c->op, "its region takes two values and gives one, each input");
    }
    for (uint32_t i = 0; i < n_inputs; i++) {
        const vtrn_dtype t =
            out->region ? (vtrn_dtype)c->g->types[out->region->region->results[i]].dtype : dtype;
        out->size[i] = dtype_size(t);
        VTRN_RETURN_IF_ERROR(ref_scratch(c, max_lanes, out->size[i], &out->tmp[i]));
    }
    return NULL;
}

vtrn_status ref_reducer_apply(ref_reducer *r, void *const *acc, const void *const *x, int64_t n) {
    if (!r->region) {
        double complex a[REF_BLOCK], b[REF_BLOCK];
        for (int64_t i = 0; i < n; i += REF_BLOCK) {
            const int64_t m = n - i < REF_BLOCK ? n - i : REF_BLOCK;
            void *at = (char *)acc[0] + i * r->size[0];
            ref_load(r->dtype, at, a, m);
            ref_load(r->dtype, (const char *)x[0] + i * r->size[0], b, m);
            if (!ref_binary(r->kind, r->dtype, a, b, a, m))
                return VTRN_ERROR(VTRN_UNIMPLEMENTED, "reduction of %s", dtype_name(r->dtype));
            ref_store(r->dtype, a, at, m);
        }
        return NULL;
    }
    const void *args[128] = {NULL};
    for (uint32_t i = 0; i < r->n_inputs; i++) {
        args[i] = acc[i];
        args[r->n_inputs + i] = x[i];
    }
    VTRN_RETURN_IF_ERROR(ref_region_eval(r->region, args, r->tmp, n));
    for (uint32_t i = 0; i < r->n_inputs; i++)
        memcpy(acc[i], r->tmp[i], (size_t)n * r->size[i]);
    return NULL;
}
