/* Collectives: an instruction each, with its groups and exchanges; and the ids of a rank. */
#include "compiler/custom/custom_codec.h"
#include "compiler/lower/lower.h"
#include "compiler/lower/whole.h"

#include <string.h>

/* The processes that run the program: n_replicas by n_partitions, numbered row by row. */
typedef struct grid {
    int64_t n_replicas, n_partitions;
} grid;

static grid grid_of(const graph *g) {
    return (grid){g->n_replicas, g->n_partitions};
}

vtrn_status lower_rank_word(lower *l, const graph_op *op, bool *is_done) {
    uint32_t slot;
    int32_t word = op->kind == GRAPH_PARTITION_ID ? VTRN_RANK_PARTITION : VTRN_RANK_REPLICA;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(l->build, VTRN_SLOT_RANK, VTRN_DTYPE_UINT32, sizeof(uint32_t), word, &slot));
    view v = view_dense(slot, &l->g->types[op->results[0]]);
    lower_set_view(l, op->results[0], &v);
    *is_done = true;
    return NULL;
}

/* --- groups ------------------------------------------------------------------------------------
 */

typedef enum grouping {
    GROUP_REPLICAS,                /* of each partition by itself */
    GROUP_PARTITIONS,              /* of each replica by itself */
    GROUP_REPLICAS_ALL_PARTITIONS, /* the listed replicas with all partitions */
    GROUP_RANKS,
} grouping;

/* Source: StableHLO specification, "Collective ops" and the operations' "process groups". */
static grouping grouping_of(const graph_op *op) {
    bool has_channel = op->attrs.collective.channel_id > 0;
    if (op->kind == GRAPH_ALL_REDUCE || op->kind == GRAPH_ALL_GATHER ||
        op->kind == GRAPH_REDUCE_SCATTER)
        return !has_channel                          ? GROUP_REPLICAS
               : op->attrs.collective.use_global_ids ? GROUP_RANKS
                                                     : GROUP_REPLICAS_ALL_PARTITIONS;
    return has_channel ? GROUP_PARTITIONS : GROUP_REPLICAS;
}

static int64_t n_ids(grouping by, grid size) {
    return by == GROUP_PARTITIONS ? size.n_partitions
           : by == GROUP_RANKS    ? size.n_replicas * size.n_partitions
                                  : size.n_replicas;
}

static const char *id_name(grouping by) {
    return by == GROUP_PARTITIONS ? "partition" : by == GROUP_RANKS ? "device" : "replica";
}

/* Each id at most once in the role (of pairs: source and target), and in range. */
static vtrn_status check_ids(lower *l, const graph_op *op, grouping by, int64_t n) {
    bool is_permute = op->kind == GRAPH_COLLECTIVE_PERMUTE;
    int64_t size = op->attrs.collective.group_size;
    uint8_t *seen = ARENA_NEW(&l->tmp, uint8_t, (size_t)n);
    if (!seen)
        return VTRN_OUT_OF_MEMORY((size_t)n);
    for (int64_t i = 0; i < op->attrs.collective.n_groups * size; i++) {
        int64_t id = op->attrs.collective.groups[i];
        uint8_t role = is_permute && i % 2 ? 2 : 1;
        if (id == -1 && !is_permute && i % size)
            continue;
        if (id < 0 || id >= n)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "%s %lld names %s %lld, and the program runs on %s 0..%lld; correct "
                              "the %s",
                              is_permute ? "pair" : "group", (long long)(i / size), id_name(by),
                              (long long)id, id_name(by), (long long)n - 1,
                              is_permute ? "source_target_pairs" : "replica_groups");
        if (seen[id] & role)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s %lld is %s; let each have one place",
                              id_name(by), (long long)id,
                              !is_permute ? "in the replica_groups twice"
                              : role == 1 ? "the source of two pairs"
                                          : "the target of two pairs");
        seen[id] |= role;
    }
    bool needs_all = !is_permute && op->kind != GRAPH_COLLECTIVE_BROADCAST;
    for (int64_t id = 0; id < n && needs_all; id++)
        if (!seen[id])
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "no group has %s %lld of %lld; put it into one, alone if it exchanges "
                "nothing",
                id_name(by), (long long)id, (long long)n);
    return NULL;
}

/* The rank of an id in copy `copy` of the groups: of the partition or replica that they do not
 * name. */
static int32_t rank_of(grouping by, grid size, int64_t id, int64_t copy) {
    if (id < 0)
        return -1;
    if (by == GROUP_RANKS)
        return (int32_t)id;
    return (int32_t)(by == GROUP_PARTITIONS ? copy * size.n_partitions + id
                                            : id * size.n_partitions + copy);
}

/* One group of all where the program lists none. */
static vtrn_status list_ids(lower *l, const graph_op *op, int64_t n, graph_op *out) {
    *out = *op;
    bool is_listed = op->attrs.collective.n_groups > 0 && op->attrs.collective.group_size > 0;
    if (op->kind == GRAPH_COLLECTIVE_PERMUTE || is_listed)
        return NULL;
    int64_t *all = ARENA_NEW(&l->tmp, int64_t, (size_t)n);
    if (!all)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *all);
    for (int64_t i = 0; i < n; i++)
        all[i] = i;
    out->attrs.collective.groups = all;
    out->attrs.collective.n_groups = 1;
    out->attrs.collective.group_size = n;
    return NULL;
}

static vtrn_status make_groups(lower *l, const graph_op *given, vtrn_collective *c) {
    const grid size = grid_of(l->g);
    const grouping by = grouping_of(given);
    const int64_t n = n_ids(by, size);
    graph_op op;
    VTRN_RETURN_IF_ERROR(list_ids(l, given, n, &op));
    VTRN_RETURN_IF_ERROR(check_ids(l, &op, by, n));
    int64_t n_groups = op.attrs.collective.n_groups, group_size = op.attrs.collective.group_size;
    const int64_t *ids = op.attrs.collective.groups;
    bool is_crossed = by == GROUP_REPLICAS_ALL_PARTITIONS;
    int64_t n_copies = by == GROUP_RANKS        ? 1
                       : by == GROUP_PARTITIONS ? size.n_replicas
                                                : size.n_partitions;
    int32_t *ranks =
        ARENA_NEW(&l->program->arena, int32_t, (size_t)(n_groups * group_size * n_copies));
    if (!ranks)
        return VTRN_OUT_OF_MEMORY((size_t)(n_groups * group_size * n_copies) * sizeof *ranks);
    size_t at = 0;
    if (is_crossed) /* a short group stays short: its fill comes last */
        for (int64_t g = 0; g < n_groups; g++) {
            size_t begin = at;
            for (int64_t p = 0; p < n_copies; p++)
                for (int64_t i = 0; i < group_size; i++)
                    if (ids[g * group_size + i] >= 0)
                        ranks[at++] = rank_of(by, size, ids[g * group_size + i], p);
            while (at < begin + (size_t)(group_size * n_copies))
                ranks[at++] = -1;
        }
    for (int64_t copy = 0; copy < n_copies && !is_crossed; copy++)
        for (int64_t i = 0; i < n_groups * group_size; i++)
            ranks[at++] = rank_of(by, size, ids[i], copy);
    c->groups = ranks;
    c->n_groups = (uint32_t)(is_crossed ? n_groups : n_groups * n_copies);
    c->group_size = (uint32_t)(is_crossed ? group_size * n_copies : group_size);
    return NULL;
}

/* --- what is exchanged -------------------------------------------------------------------------
 */

static uint64_t product(const graph_type *t, int64_t first, int64_t end) {
    uint64_t n = 1;
    for (int64_t d = first; d < end; d++)
        n *= (uint64_t)t->dims[d];
    return n;
}

static vtrn_exchange exchange_all_to_all(const graph_type *t, int64_t split, int64_t concat,
                                         uint64_t n) {
    vtrn_exchange e = {.dtype = t->dtype};
    uint64_t part = (uint64_t)t->dims[split] / n;
    if (split == concat) {
        uint64_t run = part * product(t, split + 1, t->rank);
        e.n[0] = 1;
        e.n[1] = product(t, 0, split);
        e.run = e.from_place = e.to_place = run;
        e.from_step[1] = e.to_step[1] = n * run;
    } else if (split < concat) {
        e.run = e.to_place = product(t, concat, t->rank);
        e.n[0] = product(t, 0, split);
        e.n[1] = part * product(t, split + 1, concat);
        e.from_place = e.n[1] * e.run;
        e.from_step[0] = n * e.n[1] * e.run;
        e.from_step[1] = e.run;
        e.to_step[0] = n * e.n[1] * e.run;
        e.to_step[1] = n * e.run;
    } else {
        e.run = e.from_place = part * product(t, split + 1, t->rank);
        e.n[0] = product(t, 0, concat);
        e.n[1] = product(t, concat, split);
        e.from_step[0] = n * e.n[1] * e.run;
        e.from_step[1] = n * e.run;
        e.to_place = e.n[1] * e.run;
        e.to_step[0] = n * e.n[1] * e.run;
        e.to_step[1] = e.run;
    }
    return e;
}

static vtrn_exchange exchange_of(const graph_op *op, const graph_type *from, const graph_type *to,
                                 uint64_t n) {
    int64_t dim = op->attrs.collective.dim;
    vtrn_exchange e = {.dtype = from->dtype, .n = {1, 1}};
    switch (op->kind) {
    case GRAPH_ALL_GATHER:
        e.n[1] = product(from, 0, dim);
        e.run = e.to_place = e.from_step[1] = product(from, dim, from->rank);
        e.to_step[1] = n * e.run;
        return e;
    case GRAPH_REDUCE_SCATTER:
        e.n[1] = product(to, 0, dim);
        e.run = e.from_place = e.to_step[1] = product(to, dim, to->rank);
        e.from_step[1] = n * e.run;
        return e;
    case GRAPH_ALL_TO_ALL:
        return exchange_all_to_all(from, dim, op->attrs.collective.dim2, n);
    default:
        e.run = product(from, 0, from->rank);
        return e;
    }
}

/* The dim of the operand that the op makes n times larger or smaller, and all others as they are.
 */
static vtrn_status check_shapes(const graph_op *op, const graph_type *from, const graph_type *to,
                                int64_t n) {
    const int64_t dim = op->attrs.collective.dim, dim2 = op->attrs.collective.dim2;
    if (op->kind == GRAPH_ALL_TO_ALL && op->attrs.collective.split_count != n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "split_count %lld for groups of %lld; make them equal",
                          (long long)op->attrs.collective.split_count, (long long)n);
    for (int d = 0; d < from->rank; d++) {
        int64_t want = from->dims[d];
        bool is_scatter = op->kind == GRAPH_REDUCE_SCATTER || op->kind == GRAPH_ALL_TO_ALL;
        if (is_scatter && d == dim && want % n)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "dimension %d has %lld elements, which do not divide among groups of "
                              "%lld; pad it",
                              d, (long long)want, (long long)n);
        if (is_scatter && d == dim)
            want /= n;
        if ((op->kind == GRAPH_ALL_GATHER && d == dim) ||
            (op->kind == GRAPH_ALL_TO_ALL && d == dim2))
            want *= n;
        if (to->dims[d] != want)
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "dimension %d of the result has %lld elements; with groups of %lld it "
                "has %lld",
                d, (long long)to->dims[d], (long long)n, (long long)want);
    }
    return NULL;
}

static uint8_t kind_of(const graph_op *op) {
    static const uint8_t KINDS[] = {
        [0] = VTRN_COLLECTIVE_ALL_REDUCE,
        [GRAPH_ALL_GATHER - GRAPH_ALL_REDUCE] = VTRN_COLLECTIVE_ALL_GATHER,
        [GRAPH_REDUCE_SCATTER - GRAPH_ALL_REDUCE] = VTRN_COLLECTIVE_REDUCE_SCATTER,
        [GRAPH_ALL_TO_ALL - GRAPH_ALL_REDUCE] = VTRN_COLLECTIVE_ALL_TO_ALL,
        [GRAPH_COLLECTIVE_PERMUTE - GRAPH_ALL_REDUCE] = VTRN_COLLECTIVE_PERMUTE,
        [GRAPH_COLLECTIVE_BROADCAST - GRAPH_ALL_REDUCE] = VTRN_COLLECTIVE_BROADCAST,
    };
    return KINDS[op->kind - GRAPH_ALL_REDUCE];
}

static uint8_t reducer_of(const lower *l, const graph_op *op) {
    static const uint8_t REDUCERS[] = {
        [GRAPH_REDUCER_ADD] = VTRN_REDUCER_ADD,
        [GRAPH_REDUCER_MULTIPLY] = VTRN_REDUCER_MULTIPLY,
        [GRAPH_REDUCER_MAXIMUM] = VTRN_REDUCER_MAXIMUM,
        [GRAPH_REDUCER_MINIMUM] = VTRN_REDUCER_MINIMUM,
        [GRAPH_REDUCER_AND] = VTRN_REDUCER_AND,
        [GRAPH_REDUCER_OR] = VTRN_REDUCER_OR,
        [GRAPH_REDUCER_XOR] = VTRN_REDUCER_XOR,
        [GRAPH_REDUCER_REPLACE] = VTRN_REDUCER_NONE,
    };
    if (op->kind != GRAPH_ALL_REDUCE && op->kind != GRAPH_REDUCE_SCATTER)
        return VTRN_REDUCER_NONE;
    uint8_t reducer = op->reducer < sizeof REDUCERS ? REDUCERS[op->reducer] : VTRN_REDUCER_NONE;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!collective_reduces((vtrn_dtype)l->g->types[op->operands[i]].dtype, reducer))
            return VTRN_REDUCER_CUSTOM;
    return reducer;
}

/* The region as a map of two vectors, which a reference routine evaluates. */
static vtrn_status encode_reducer(lower *l, const graph_op *op, const graph_type *part,
                                  vtrn_custom *custom) {
    graph extended = *l->g;
    const uint32_t n = extended.n_values;
    extended.types = ARENA_NEW(&l->tmp, graph_type, (size_t)n + 3);
    graph_value *values = ARENA_NEW(&l->tmp, graph_value, 3);
    int64_t *dim = ARENA_NEW(&l->tmp, int64_t, 1);
    if (!extended.types || !values || !dim)
        return VTRN_OUT_OF_MEMORY((n + 3) * sizeof(graph_type));
    memcpy(extended.types, l->g->types, n * sizeof(graph_type));
    for (uint32_t i = 0; i < 3; i++) {
        extended.types[n + i] = (graph_type){.dtype = part->dtype, .rank = 1};
        extended.types[n + i].dims[0] = graph_type_count(part);
        values[i] = n + i;
    }
    extended.n_values += 3;
    graph_op map = {.kind = GRAPH_MAP,
                    .reducer = op->reducer,
                    .n_operands = 2,
                    .n_results = 1,
                    .n_regions = 1,
                    .operands = values,
                    .results = values + 2,
                    .regions = op->regions,
                    .name = "stablehlo.map",
                    .place = op->place};
    map.attrs.dims.dims = (graph_ints){1, dim};
    size_t size;
    const void *blob;
    VTRN_RETURN_IF_ERROR(custom_encode(&extended, &map, &l->program->arena, &blob, &size));
    custom->blob = blob;
    custom->blob_size = size;
    return NULL;
}

/* Operands [first, first + n) of the op as one collective. */
static vtrn_status append(lower *l, const graph_op *op, vtrn_collective c, uint32_t first,
                          uint32_t n) {
    arena *a = &l->program->arena;
    uint32_t *slots = ARENA_NEW(a, uint32_t, 2 * (size_t)n);
    vtrn_exchange *exchanges = ARENA_NEW(a, vtrn_exchange, n);
    vtrn_collective *kept = ARENA_NEW(a, vtrn_collective, 1);
    vtrn_custom custom = {.name = arena_strdup(a, op->name, strlen(op->name)),
                          .n_inputs = n,
                          .n_outputs = n,
                          .slots = slots,
                          .collective = kept};
    if (!slots || !exchanges || !kept || !custom.name)
        return VTRN_OUT_OF_MEMORY(n * sizeof *exchanges);
    for (uint32_t i = 0; i < n; i++) {
        graph_value operand = op->operands[first + i], result = op->results[first + i];
        const graph_type *from = &l->g->types[operand], *to = &l->g->types[result];
        if (c.kind != VTRN_COLLECTIVE_PERMUTE && c.kind != VTRN_COLLECTIVE_BROADCAST)
            VTRN_RETURN_IF_ERROR(check_shapes(op, from, to, c.group_size));
        exchanges[i] = exchange_of(op, from, to, c.group_size);
        VTRN_RETURN_IF_ERROR(lower_whole_operand(l, operand, &slots[i]));
        if (c.reducer == VTRN_REDUCER_CUSTOM)
            VTRN_RETURN_IF_ERROR(encode_reducer(l, op, to, &custom));
    }
    for (uint32_t i = 0; i < n; i++) {
        view v;
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[first + i], &v));
        slots[n + i] = v.slot;
    }
    c.exchanges = exchanges;
    *kept = c;
    return lower_custom_append(l, &custom);
}

vtrn_status lower_collective(lower *l, const graph_op *op, bool *is_done) {
    vtrn_collective c = {.kind = kind_of(op), .reducer = reducer_of(l, op)};
    *is_done = true;
    VTRN_RETURN_IF_ERROR(make_groups(l, op, &c));
    bool needs_full = c.kind != VTRN_COLLECTIVE_ALL_REDUCE && c.kind != VTRN_COLLECTIVE_BROADCAST;
    for (size_t i = 0; i < (size_t)c.n_groups * c.group_size && needs_full; i++)
        if (c.groups[i] < 0)
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "group %zu has fewer members than %u, and what it gives depends on their "
                "number; make groups of one size",
                i / c.group_size, c.group_size);
    if (c.reducer != VTRN_REDUCER_CUSTOM)
        return append(l, op, c, 0, op->n_operands);
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(append(l, op, c, i, 1));
    return NULL;
}
