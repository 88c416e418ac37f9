/* Requires a graph as the artifact has it; gives the graph of one partition. */
#include "compiler/passes/spmd.h"

#include <stdlib.h>
#include <string.h>

/* What a partition has of a value. */
typedef struct held {
    graph_value value;
    const graph_sharding *s; /* NULL: all of it, or of what the manual computation around it sees */
} held;

typedef struct spmd {
    graph *g;
    uint32_t n_held;
    held *held;                  /* by value of the graph that came in */
    const graph_sharding **hint; /* by value: what a constraint asks for */
    graph_type *whole;           /* by value: its type before */
    graph_op *ops;               /* stack: those of the open regions */
    uint32_t n_ops, max_ops;
    const char *place; /* of what is inserted */
    bool is_manual;    /* inside of computations that are manual along all axes */
    int64_t n_manual;  /* partitions along manual axes */
    uint32_t n_whole;
} spmd;

#define NEW(x, out, count)                                                                         \
    do {                                                                                           \
        (out) = arena_alloc(&(x)->g->arena, (count), sizeof *(out));                               \
        if (!(out))                                                                                \
            return VTRN_OUT_OF_MEMORY((size_t)(count) * sizeof *(out));                            \
    } while (0)

static vtrn_status push(spmd *x, const graph_op *op) {
    if (x->n_ops == x->max_ops) {
        uint32_t max = x->max_ops ? 2 * x->max_ops : 256;
        graph_op *ops = realloc(x->ops, max * sizeof *ops);
        if (!ops)
            return VTRN_OUT_OF_MEMORY(max * sizeof *ops);
        x->ops = ops;
        x->max_ops = max;
    }
    x->ops[x->n_ops++] = *op;
    return NULL;
}

/* Appends an operation of one result. */
static vtrn_status append(spmd *x, graph_op op, const graph_value *operands, uint32_t n,
                          const graph_type *type, graph_value *out) {
    NEW(x, op.operands, n);
    NEW(x, op.results, 1);
    if (n)
        memcpy(op.operands, operands, n * sizeof *operands);
    op.n_operands = n;
    op.n_results = 1;
    op.place = x->place;
    op.name = arena_printf(&x->g->arena, "stablehlo.%s", graph_kind_name((graph_kind)op.kind));
    if (!op.name)
        return VTRN_OUT_OF_MEMORY(64);
    VTRN_RETURN_IF_ERROR(graph_reserve_values(x->g, x->g->n_values + 1));
    x->g->types[x->g->n_values] = *type;
    *op.results = *out = x->g->n_values++;
    VTRN_RETURN_IF_ERROR(graph_verify_op(x->g, &op));
    return push(x, &op);
}

/* --- shardings ---------------------------------------------------------------------------------
 */

static uint32_t n_axes_of(const graph_sharding *s, int d) {
    return s ? s->first[d + 1] - s->first[d] : 0;
}

static const graph_axis *axis_of(const graph_sharding *s, int d, uint32_t i) {
    return &s->axes[s->first[d] + i];
}

static bool is_axis_equal(const graph_axis *a, const graph_axis *b) {
    return a->stride == b->stride && a->size == b->size;
}

/* Leading axes of the dimension that both have. */
static uint32_t n_common(const graph_sharding *a, const graph_sharding *b, int d) {
    uint32_t n = 0;
    while (n < n_axes_of(a, d) && n < n_axes_of(b, d) &&
           is_axis_equal(axis_of(a, d, n), axis_of(b, d, n)))
        n++;
    return n;
}

/* Parts that the dimension is cut into by its axes from number `first` on. */
static int64_t n_parts(const graph_sharding *s, int d, uint32_t first) {
    int64_t n = 1;
    for (uint32_t i = first; i < n_axes_of(s, d); i++)
        n *= axis_of(s, d, i)->size;
    return n;
}

static bool is_whole(const graph_sharding *s) {
    for (int d = 0; s && d < s->rank; d++)
        if (n_parts(s, d, 0) > 1)
            return false;
    return true;
}

static bool has_unreduced(const graph_sharding *s) {
    return s && s->n_unreduced;
}

static bool is_mesh_equal(const graph_sharding *a, const graph_sharding *b) {
    const int64_t *p = a->mesh->partition_of, *q = b->mesh->partition_of;
    for (int64_t i = 0; i < a->mesh->n_devices; i++)
        if ((p ? p[i] : i) != (q ? q[i] : i))
            return false;
    return true;
}

static bool is_equal(const graph_sharding *a, const graph_sharding *b) {
    if (!a || !b || is_whole(a) || is_whole(b))
        return is_whole(a) && is_whole(b);
    for (int d = 0; d < a->rank; d++)
        if (n_common(a, b, d) != n_axes_of(a, d) || n_axes_of(a, d) != n_axes_of(b, d))
            return false;
    return is_mesh_equal(a, b);
}

/* Part `t` of n along the axes from number `first` on: the place of its device behind that of part
 * 0. */
static int64_t offset_of(const graph_sharding *s, int d, uint32_t first, int64_t t) {
    int64_t offset = 0;
    for (uint32_t i = n_axes_of(s, d); i-- > first;) {
        offset += t % axis_of(s, d, i)->size * axis_of(s, d, i)->stride;
        t /= axis_of(s, d, i)->size;
    }
    return offset;
}

/* Which part the device at a place has. */
static int64_t part_of(const graph_sharding *s, int d, uint32_t first, int64_t place) {
    int64_t t = 0;
    for (uint32_t i = first; i < n_axes_of(s, d); i++)
        t = t * axis_of(s, d, i)->size + place / axis_of(s, d, i)->stride % axis_of(s, d, i)->size;
    return t;
}

static int64_t partition_at(const graph_mesh *mesh, int64_t place) {
    return mesh->partition_of ? mesh->partition_of[place] : place;
}

static vtrn_status cut_type(const graph_type *whole, const graph_sharding *s, graph_type *out) {
    *out = *whole;
    for (int d = 0; s && d < s->rank; d++) {
        int64_t n = n_parts(s, d, 0);
        if (out->dims[d] % n)
            return VTRN_ERROR(
                VTRN_UNSUPPORTED,
                "dimension %d of %lld elements does not divide into %lld parts; pad it "
                "to a multiple",
                d, (long long)out->dims[d], (long long)n);
        out->dims[d] /= n;
    }
    return NULL;
}

/* --- exchanges ---------------------------------------------------------------------------------
 */

/* Joins the parts of dimension d along its axes from number `first` on. */
static vtrn_status gather(spmd *x, const graph_sharding *s, int d, uint32_t first, graph_value *v) {
    const int64_t n = n_parts(s, d, first), n_places = s->mesh->n_devices;
    const int64_t n_groups = n_places / n * x->g->n_replicas;
    graph_type type = x->g->types[*v];
    int64_t *groups, at = 0;
    if (n == 1)
        return NULL;
    NEW(x, groups, (size_t)(n_groups * n));
    for (int64_t r = 0; r < x->g->n_replicas; r++)
        for (int64_t place = 0; place < n_places; place++)
            for (int64_t t = 0; t < n && part_of(s, d, first, place) == 0; t++)
                groups[at++] = r * x->g->n_partitions +
                               partition_at(s->mesh, place + offset_of(s, d, first, t));
    VTRN_CHECK(at == n_groups * n, "every device is in one group");
    graph_op op = {.kind = GRAPH_ALL_GATHER};
    op.attrs.collective.channel_id = 1;
    op.attrs.collective.use_global_ids = true;
    op.attrs.collective.dim = d;
    op.attrs.collective.groups = groups;
    op.attrs.collective.n_groups = n_groups;
    op.attrs.collective.group_size = n;
    type.dims[d] *= n;
    return append(x, op, v, 1, &type, v);
}

/* Where the partition's part begins: a table's entry for it. */
static vtrn_status part_start(spmd *x, const graph_sharding *s, int d, uint32_t first, int64_t size,
                              graph_value *out) {
    const int64_t n = x->g->n_partitions;
    int32_t *table;
    int64_t *one;
    NEW(x, table, (size_t)n);
    NEW(x, one, 1);
    for (int64_t place = 0; place < s->mesh->n_devices; place++)
        table[partition_at(s->mesh, place)] = (int32_t)(part_of(s, d, first, place) * size);
    graph_type type = {.dtype = VTRN_DTYPE_INT32, .rank = 1, .dims = {n}};
    graph_op constant = {.kind = GRAPH_CONSTANT}, id = {.kind = GRAPH_PARTITION_ID};
    graph_op entry = {.kind = GRAPH_DYNAMIC_SLICE}, scalar = {.kind = GRAPH_RESHAPE};
    constant.attrs.constant.data = table;
    *one = 1;
    entry.attrs.dims.dims = (graph_ints){1, one};
    graph_value operands[2];
    VTRN_RETURN_IF_ERROR(append(x, constant, NULL, 0, &type, &operands[0]));
    VTRN_RETURN_IF_ERROR(
        append(x, id, NULL, 0, &(graph_type){.dtype = VTRN_DTYPE_UINT32}, &operands[1]));
    type.dims[0] = 1;
    VTRN_RETURN_IF_ERROR(append(x, entry, operands, 2, &type, out));
    return append(x, scalar, out, 1, &(graph_type){.dtype = VTRN_DTYPE_INT32}, out);
}

/* Takes the partition's part of each dimension along the axes of `s` from number first[d] on. */
static vtrn_status cut(spmd *x, const graph_sharding *s, const uint32_t *first, graph_value *v) {
    graph_type type = x->g->types[*v];
    graph_value operands[1 + GRAPH_MAX_RANK] = {*v}, zero = GRAPH_NO_VALUE;
    int64_t *sizes, n_all = 1;
    NEW(x, sizes, type.rank);
    for (int d = 0; d < type.rank; d++) {
        int64_t n = n_parts(s, d, first[d]);
        n_all *= n;
        type.dims[d] /= n;
        sizes[d] = type.dims[d];
        if (n > 1) {
            VTRN_RETURN_IF_ERROR(part_start(x, s, d, first[d], sizes[d], &operands[1 + d]));
            continue;
        }
        if (zero == GRAPH_NO_VALUE) {
            graph_op op = {.kind = GRAPH_CONSTANT};
            int32_t *data;
            NEW(x, data, 1);
            op.attrs.constant.data = data;
            op.attrs.constant.is_splat = true;
            VTRN_RETURN_IF_ERROR(
                append(x, op, NULL, 0, &(graph_type){.dtype = VTRN_DTYPE_INT32}, &zero));
        }
        operands[1 + d] = zero;
    }
    if (n_all == 1)
        return NULL;
    graph_op op = {.kind = GRAPH_DYNAMIC_SLICE};
    op.attrs.dims.dims = (graph_ints){type.rank, sizes};
    return append(x, op, operands, 1 + type.rank, &type, v);
}

/* The value in another sharding: each dimension is joined as far as its axes differ, then cut. */
static vtrn_status reshard(spmd *x, held from, const graph_sharding *to, graph_value *out) {
    *out = from.value;
    if (is_equal(from.s, to))
        return NULL;
    const int rank = x->g->types[from.value].rank;
    const bool is_one_mesh = !from.s || !to || is_mesh_equal(from.s, to);
    uint32_t first[GRAPH_MAX_RANK] = {0};
    for (int d = 0; d < rank; d++) {
        first[d] = is_one_mesh && from.s && to ? n_common(from.s, to, d) : 0;
        if (from.s)
            VTRN_RETURN_IF_ERROR(gather(x, from.s, d, first[d], out));
    }
    return to ? cut(x, to, first, out) : NULL;
}

static vtrn_status whole_of(spmd *x, graph_value v, graph_value *out) {
    return reshard(x, x->held[v], NULL, out);
}

/* --- operations --------------------------------------------------------------------------------
 */

static bool is_within(const graph_axis *part, const graph_axis *all) {
    return part->stride >= all->stride && part->stride * part->size <= all->stride * all->size;
}

/* The sharding along manual axes alone. */
static vtrn_status restrict_to(spmd *x, const graph_sharding *s, const graph_op *op,
                               const graph_sharding **out) {
    graph_sharding *r;
    graph_axis *axes;
    NEW(x, r, 1);
    NEW(x, axes, s->first[s->rank]);
    *r = *s;
    r->axes = axes;
    uint32_t n = 0;
    for (int d = 0; d < s->rank; d++) {
        for (uint32_t i = 0; i < n_axes_of(s, d); i++)
            for (uint32_t k = 0; k < op->attrs.shardings.n_axes; k++)
                if (is_within(axis_of(s, d, i), &op->attrs.shardings.axes[k])) {
                    axes[n++] = *axis_of(s, d, i);
                    break;
                }
        r->first[d + 1] = n;
    }
    *out = r;
    return NULL;
}

static vtrn_status run_ops(spmd *x, const graph_region *r);

static vtrn_status run_manual(spmd *x, const graph_op *op) {
    const graph_region *body = op->regions[0];
    if (body->n_args != op->n_operands || body->n_results != op->n_results)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%u operands and %u results for a body of %u and %u",
                          op->n_operands, op->n_results, body->n_args, body->n_results);
    const bool was_manual = x->is_manual;
    const int64_t n_manual_before = x->n_manual;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        const graph_sharding *s;
        graph_value part;
        graph_type type;
        VTRN_RETURN_IF_ERROR(restrict_to(x, op->attrs.shardings.in[i], op, &s));
        VTRN_RETURN_IF_ERROR(cut_type(&x->whole[op->operands[i]], s, &type));
        if (!graph_type_equal(&type, &x->g->types[body->args[i]]))
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "argument %u of the body has another type than its part of the operand", i);
        VTRN_RETURN_IF_ERROR(reshard(x, x->held[op->operands[i]], s, &part));
        x->held[body->args[i]] = (held){part, NULL};
    }
    for (uint32_t k = 0; k < op->attrs.shardings.n_axes; k++)
        x->n_manual *= op->attrs.shardings.axes[k].size;
    x->is_manual = x->n_manual == x->g->n_partitions;
    VTRN_RETURN_IF_ERROR(run_ops(x, body));
    for (uint32_t i = 0; i < op->n_results; i++) {
        held *h = &x->held[op->results[i]];
        graph_type type;
        VTRN_RETURN_IF_ERROR(whole_of(x, body->results[i], &h->value));
        VTRN_RETURN_IF_ERROR(restrict_to(x, op->attrs.shardings.out[i], op, &h->s));
        VTRN_RETURN_IF_ERROR(cut_type(&x->whole[op->results[i]], h->s, &type));
        if (!graph_type_equal(&type, &x->g->types[h->value]))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "result %u of the body has another type than its part of the result",
                              i);
    }
    x->is_manual = was_manual;
    x->n_manual = n_manual_before;
    return NULL;
}

static vtrn_status run_region(spmd *x, const graph_region *r, graph_region **out) {
    uint32_t mark = x->n_ops;
    graph_region *made;
    NEW(x, made, 1);
    *made = *r;
    VTRN_RETURN_IF_ERROR(run_ops(x, r));
    NEW(x, made->results, r->n_results);
    for (uint32_t i = 0; i < r->n_results; i++)
        VTRN_RETURN_IF_ERROR(whole_of(x, r->results[i], &made->results[i]));
    made->n_ops = x->n_ops - mark;
    NEW(x, made->ops, made->n_ops);
    if (made->n_ops)
        memcpy(made->ops, x->ops + mark, made->n_ops * sizeof *made->ops);
    x->n_ops = mark;
    *out = made;
    return NULL;
}

/* On whole tensors, by every partition; in a manual computation, as it is. */
static vtrn_status run_whole(spmd *x, const graph_op *op) {
    graph_op made = *op;
    if (!x->is_manual && op->kind == GRAPH_CUSTOM_CALL && op->attrs.custom_call.has_side_effect)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "a callback outside of shard_map would run on each of %lld NeuronCores; "
                          "call it inside of shard_map, or from a program on one",
                          (long long)x->g->n_partitions);
    x->n_whole += !x->is_manual && op->kind != GRAPH_CONSTANT;
    NEW(x, made.operands, op->n_operands);
    NEW(x, made.regions, op->n_regions);
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(whole_of(x, op->operands[i], &made.operands[i]));
    for (uint32_t i = 0; i < op->n_regions; i++)
        VTRN_RETURN_IF_ERROR(run_region(x, op->regions[i], &made.regions[i]));
    return push(x, &made);
}

static vtrn_status run_op(spmd *x, const graph_op *op) {
    x->place = op->place;
    if (op->kind == GRAPH_MANUAL_COMPUTATION)
        return run_manual(x, op);
    if (op->kind != GRAPH_SHARDING_CONSTRAINT)
        return run_whole(x, op);
    x->held[op->results[0]] = x->held[op->operands[0]];
    x->hint[op->results[0]] = op->attrs.shardings.out[0];
    return NULL;
}

static vtrn_status run_ops(spmd *x, const graph_region *r) {
    for (uint32_t i = 0; i < r->n_ops; i++) {
        const graph_op *op = &r->ops[i];
        vtrn_status status = run_op(x, op);
        if (status)
            return vtrn_status_annotate(status, "%s%s%s", op->name, *op->place ? " at " : "",
                                        op->place);
    }
    return NULL;
}

/* --- @main -------------------------------------------------------------------------------------
 */

/* What the manual computations that take the argument agree on; NULL where they differ, or others
 * take it too. */
static vtrn_status choose_sharding(spmd *x, graph_value arg, const graph_sharding **out) {
    const graph_region *body = &x->g->body;
    *out = NULL;
    for (uint32_t i = 0; i < body->n_ops; i++)
        for (uint32_t k = 0; k < body->ops[i].n_operands; k++) {
            const graph_sharding *s = NULL;
            if (body->ops[i].operands[k] != arg)
                continue;
            if (body->ops[i].kind == GRAPH_MANUAL_COMPUTATION)
                VTRN_RETURN_IF_ERROR(
                    restrict_to(x, body->ops[i].attrs.shardings.in[k], &body->ops[i], &s));
            if (!s || (*out && !is_equal(*out, s))) {
                *out = NULL;
                return NULL;
            }
            *out = s;
        }
    return NULL;
}

static vtrn_status cut_arguments(spmd *x) {
    graph *g = x->g;
    for (uint32_t i = 0; i < g->body.n_args; i++) {
        graph_value arg = g->body.args[i];
        if (!g->arg_sharding[i])
            VTRN_RETURN_IF_ERROR(choose_sharding(x, arg, &g->arg_sharding[i]));
        if (is_whole(g->arg_sharding[i]) && !has_unreduced(g->arg_sharding[i]))
            g->arg_sharding[i] = NULL;
        VTRN_RETURN_IF_ERROR(vtrn_status_annotate(
            cut_type(&x->whole[arg], g->arg_sharding[i], &g->types[arg]), "argument %u", i));
        x->held[arg].s = g->arg_sharding[i];
    }
    return NULL;
}

static vtrn_status cut_results(spmd *x) {
    graph *g = x->g;
    x->place = "";
    for (uint32_t i = 0; i < g->body.n_results; i++) {
        graph_value v = g->body.results[i];
        graph_type part;
        const graph_sharding **s = &g->result_sharding[i];
        if (!*s)
            *s = x->hint[v] ? x->hint[v] : x->held[v].s;
        if (is_whole(*s) && !has_unreduced(*s))
            *s = NULL;
        VTRN_RETURN_IF_ERROR(
            vtrn_status_annotate(cut_type(&x->whole[v], *s, &part), "result %u", i));
        VTRN_RETURN_IF_ERROR(reshard(x, x->held[v], *s, &g->body.results[i]));
    }
    return NULL;
}

/* A parameter whose part has another size than that of its output gives its memory to another. */
static void loosen_aliases(graph *g) {
    for (uint32_t i = 0; i < g->body.n_args; i++) {
        int32_t o = g->arg_alias_output[i];
        if (o < 0 || graph_type_equal(&g->types[g->body.args[i]], &g->types[g->body.results[o]]))
            continue;
        g->arg_alias_output[i] = -1;
        g->arg_is_donated[i] = true;
    }
}

static bool is_set(const uint8_t *flags, uint32_t i) {
    return flags && flags[i];
}

static bool may_share(const graph *g, uint32_t arg, uint32_t result, bool is_loose) {
    const graph_type *a = &g->types[g->body.args[arg]], *r = &g->types[g->body.results[result]];
    return is_set(g->arg_is_on_host, arg) == is_set(g->result_is_on_host, result) &&
           (is_loose ? graph_type_bytes(a) == graph_type_bytes(r) : graph_type_equal(a, r));
}

/* Which parts have one size is known here, and was not where the program was written: a donated
 * parameter gives its memory to an output that no other gives it to, of its type or else of its
 * size. */
static vtrn_status pair_donated(graph *g) {
    bool *is_taken = arena_alloc(&g->arena, g->body.n_results, sizeof *is_taken);
    if (!is_taken)
        return VTRN_OUT_OF_MEMORY(g->body.n_results);
    for (uint32_t i = 0; i < g->body.n_args; i++)
        if (g->arg_alias_output[i] >= 0)
            is_taken[g->arg_alias_output[i]] = true;
    for (int is_loose = 0; is_loose < 2; is_loose++)
        for (uint32_t i = 0; i < g->body.n_args; i++)
            for (uint32_t o = 0;
                 o < g->body.n_results && g->arg_is_donated[i] && g->arg_alias_output[i] < 0; o++)
                if (!is_taken[o] && may_share(g, i, o, is_loose)) {
                    is_taken[o] = true;
                    g->arg_alias_output[i] = (int32_t)o;
                }
    return NULL;
}

static vtrn_status localise(spmd *x) {
    graph *g = x->g;
    NEW(x, x->held, g->n_values);
    NEW(x, x->hint, g->n_values);
    NEW(x, x->whole, g->n_values);
    x->n_held = g->n_values;
    memcpy(x->whole, g->types, g->n_values * sizeof *x->whole);
    for (uint32_t v = 0; v < g->n_values; v++)
        x->held[v].value = v;
    VTRN_RETURN_IF_ERROR(cut_arguments(x));
    VTRN_RETURN_IF_ERROR(run_ops(x, &g->body));
    VTRN_RETURN_IF_ERROR(cut_results(x));
    NEW(x, g->body.ops, x->n_ops);
    if (x->n_ops)
        memcpy(g->body.ops, x->ops, x->n_ops * sizeof *x->ops);
    g->body.n_ops = x->n_ops;
    loosen_aliases(g);
    VTRN_RETURN_IF_ERROR(graph_apply_layouts(g));
    return pair_donated(g);
}

vtrn_status spmd_localise(graph *g, uint32_t *n_whole) {
    *n_whole = 0;
    if (g->n_partitions <= 1)
        return NULL;
    spmd x = {.g = g, .place = "", .n_manual = 1};
    vtrn_status status = localise(&x);
    free(x.ops);
    *n_whole = x.n_whole;
    return status;
}
