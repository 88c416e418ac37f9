#include "compiler/passes/subexpressions.h"

#include "compiler/passes/rewrite.h"
#include "compiler/passes/same.h"

#include <stdlib.h>

typedef struct entry {
    const graph_op *op;
    uint64_t hash;
    uint32_t region; /* serial number of the one that makes it */
    uint32_t stretch;
    uint32_t next; /* with the same hash, or NO_ENTRY */
} entry;

enum { NO_ENTRY = UINT32_MAX };

typedef struct table {
    entry *entries;
    uint32_t n_entries, max_entries, n_buckets;
    uint32_t *buckets;
    uint32_t stretch; /* how many earlier operations there are that no kernel has beside elementwise
                         ones */
} table;

static bool is_elementwise(const graph_op *op) {
    return op->kind <= GRAPH_CONVERT || op->kind == GRAPH_REDUCE_PRECISION ||
           graph_kind_is_composite(op->kind);
}

/* Operations that may share a kernel with elementwise ones. */
static bool joins_kernels(const graph_op *op) {
    switch (op->kind) {
    case GRAPH_CONSTANT:
    case GRAPH_IOTA:
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_RESHAPE:
    case GRAPH_TRANSPOSE:
    case GRAPH_REVERSE:
    case GRAPH_SLICE:
    case GRAPH_REDUCE:
        return true;
    default:
        return is_elementwise(op);
    }
}

static void link_entry(table *t, uint32_t i) {
    uint32_t *bucket = &t->buckets[t->entries[i].hash % t->n_buckets];
    t->entries[i].next = *bucket;
    *bucket = i;
}

static vtrn_status grow(table *t) {
    if (t->n_entries < t->max_entries)
        return NULL;
    uint32_t max = t->max_entries * 2 + 512;
    entry *entries = realloc(t->entries, max * sizeof *entries);
    t->entries = entries ? entries : t->entries;
    uint32_t *buckets = realloc(t->buckets, 2 * max * sizeof *buckets);
    t->buckets = buckets ? buckets : t->buckets;
    if (!entries || !buckets)
        return VTRN_OUT_OF_MEMORY(max * sizeof *entries);
    t->max_entries = max;
    t->n_buckets = 2 * max;
    for (uint32_t i = 0; i < t->n_buckets; i++)
        buckets[i] = NO_ENTRY;
    for (uint32_t i = 0; i < t->n_entries; i++)
        link_entry(t, i);
    return NULL;
}

static vtrn_status merge(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    table *t = ctx;
    t->stretch += !joins_kernels(op);
    if (!same_is_pure(op))
        return NULL;
    VTRN_RETURN_IF_ERROR(grow(t));
    uint64_t hash = same_hash(r->g, op);
    for (uint32_t i = t->buckets[hash % t->n_buckets]; i != NO_ENTRY; i = t->entries[i].next) {
        const entry *e = &t->entries[i];
        bool is_near = !is_elementwise(op) || e->stretch == t->stretch;
        if (e->hash != hash || !is_near || !rewrite_is_open(r, e->region) ||
            !same_op(r->g, e->op, op))
            continue;
        rewrite_replace(r, op->results[0], e->op->results[0]);
        *is_dropped = true;
        return NULL;
    }
    t->entries[t->n_entries] =
        (entry){.op = op, .hash = hash, .region = r->open[r->depth - 1], .stretch = t->stretch};
    link_entry(t, t->n_entries++);
    return NULL;
}

vtrn_status subexpressions_merge(graph *g) {
    table t = {0};
    vtrn_status status = rewrite_graph(g, merge, &t);
    free(t.entries);
    free(t.buckets);
    return status;
}
