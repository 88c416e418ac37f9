/* Which values are to be checked, and the ops that lead to them. */
#include "compiler/lower/verify.h"

#include "compiler/custom/verify_blob.h"
#include "compiler/lower/parts.h"
#include "compiler/reference/reference.h"

#include <stdlib.h>
#include <string.h>

/* What is known of the graph's values, by value unless said otherwise. */
typedef struct verify {
    const graph_op **maker;    /* NULL: argument of the program or of a region */
    uint32_t *order;           /* of the maker: makers of operands have smaller numbers */
    const view **at;           /* where the value is, once that was checked; NULL: not in memory */
    uint8_t *ran_as_reference; /* its maker is a reference op of the program */
    uint32_t *seen;            /* number of the check that looked at it last */
    uint32_t n_checks;
    graph_value *pending; /* made by lowered ops, not in memory yet: a list */
    uint32_t n_pending;
    graph_value *queue; /* a list of values to look at */
    uint32_t *argument; /* by argument of the program: the tensor that checks read in its place */
} verify;

/* --- the graph, once ----------------------------------------------------------------------------
 */

static void note_makers(verify *v, const graph_region *r, uint32_t *order) {
    for (uint32_t i = 0; i < r->n_ops; i++) {
        const graph_op *op = &r->ops[i];
        ++*order;
        for (uint32_t k = 0; k < op->n_results; k++) {
            v->maker[op->results[k]] = op;
            v->order[op->results[k]] = *order;
        }
        for (uint32_t k = 0; k < op->n_regions; k++)
            note_makers(v, op->regions[k], order);
    }
}

static uint64_t count_mentions(const graph_region *r) {
    uint64_t n = r->n_results;
    for (uint32_t i = 0; i < r->n_ops; i++) {
        n += r->ops[i].n_operands + r->ops[i].n_results;
        for (uint32_t k = 0; k < r->ops[i].n_regions; k++)
            n += count_mentions(r->ops[i].regions[k]);
    }
    return n;
}

/* The tensor that a check reads for a view of the program. */
static uint32_t slot_to_read(const lower *l, uint32_t slot) {
    for (uint32_t i = 0; i < l->program->n_arguments; i++)
        if (l->arg_slot[i] == slot)
            return l->verify->argument[i];
    return slot;
}

static vtrn_status set_known(lower *l, graph_value value, const view *at) {
    view *copy = ARENA_NEW(&l->tmp, view, 1);
    if (!copy)
        return VTRN_OUT_OF_MEMORY(sizeof *copy);
    *copy = *at;
    copy->slot = slot_to_read(l, at->slot);
    l->verify->at[value] = copy;
    return NULL;
}

/* A copy of a whole tensor for the checks that come after it is overwritten. */
static vtrn_status copy_tensor(lower *l, uint32_t slot, uint32_t *out) {
    const vtrn_dtype t = (vtrn_dtype)l->build->slots[slot].slot.dtype;
    const uint64_t size = l->build->slots[slot].slot.size_bytes;
    VTRN_CHECK(dtype_size(t) > 0, "a tensor has a type");
    graph_type all = {.dtype = (uint8_t)t, .rank = 1, .dims = {(int64_t)(size / dtype_size(t))}};
    VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, t, size, 0, out));
    view from = view_dense(slot, &all), to = view_dense(*out, &all);
    return plan_copy(l->plan, &from, &to);
}

/* Whether an output may come to lie in the argument's memory. */
static bool is_offered(const lower *l, uint32_t argument) {
    for (uint32_t o = 0; o < l->program->n_outputs; o++)
        if (l->program->output_alias[o] == (int32_t)argument)
            return true;
    return false;
}

/* Donation stays as it is without checks: they read a copy, made before anything is written. */
static vtrn_status note_arguments(lower *l) {
    for (uint32_t i = 0; i < l->g->body.n_args; i++) {
        const graph_value value = l->g->body.args[i];
        const graph_type *t = &l->g->types[value];
        uint32_t *argument = &l->verify->argument[i];
        *argument = l->arg_slot[i];
        if (is_offered(l, i) && graph_type_count(t) > 0 && dtype_size((vtrn_dtype)t->dtype) <= 4)
            VTRN_RETURN_IF_ERROR(copy_tensor(l, l->arg_slot[i], argument));
        VTRN_RETURN_IF_ERROR(set_known(l, value, &l->values[value].view));
    }
    return NULL;
}

vtrn_status verify_begin(lower *l) {
    if (!l->options->is_verified)
        return NULL;
    const graph *g = l->g;
    const size_t n = g->n_values, n_queue = (size_t)count_mentions(&g->body) + n;
    verify *v = ARENA_NEW(&l->tmp, verify, 1);
    if (!v)
        return VTRN_OUT_OF_MEMORY(sizeof *v);
    v->maker = ARENA_NEW(&l->tmp, const graph_op *, n);
    v->order = ARENA_NEW(&l->tmp, uint32_t, n);
    v->at = ARENA_NEW(&l->tmp, const view *, n);
    v->ran_as_reference = ARENA_NEW(&l->tmp, uint8_t, n);
    v->seen = ARENA_NEW(&l->tmp, uint32_t, n);
    v->pending = ARENA_NEW(&l->tmp, graph_value, n);
    v->queue = ARENA_NEW(&l->tmp, graph_value, n_queue);
    v->argument = ARENA_NEW(&l->tmp, uint32_t, g->body.n_args);
    if (!v->maker || !v->order || !v->at || !v->ran_as_reference || !v->seen || !v->pending ||
        !v->queue || !v->argument)
        return VTRN_OUT_OF_MEMORY((n + n_queue) * sizeof *v->queue);
    l->verify = v;
    uint32_t order = 0;
    note_makers(v, &g->body, &order);
    return note_arguments(l);
}

/* --- one check ----------------------------------------------------------------------------------
 */

/* The check being put together. */
typedef struct draft {
    lower *l;
    graph_region region;
    verify_check check;
    uint32_t *slots; /* of the arguments, then of the results */
} draft;

/* The value is an operand of the kernel. Of an op with several results all must be, for an op that
 * is evaluated again defines them all. */
static bool is_operand(const draft *d, graph_value value) {
    const verify *v = d->l->verify;
    const graph_op *op = v->maker[value];
    if (!v->at[value])
        return false;
    for (uint32_t k = 0; op && k < op->n_results; k++)
        if (!v->at[op->results[k]])
            return false;
    return true;
}

static bool is_constant(const lower *l, graph_value value) {
    return l->values[value].state == VALUE_SPLAT;
}

static void add_argument(draft *d, graph_value value) {
    d->region.args[d->region.n_args++] = value;
}

static vtrn_status add_constant(draft *d, graph_value value) {
    arena *tmp = &d->l->tmp;
    graph_op *op = &d->region.ops[d->region.n_ops++];
    graph_value *result = ARENA_NEW(tmp, graph_value, 1);
    uint64_t *bits = ARENA_NEW(tmp, uint64_t, 1);
    if (!result || !bits)
        return VTRN_OUT_OF_MEMORY(sizeof *bits);
    *result = value;
    *bits = d->l->values[value].splat_bits;
    *op = (graph_op){.kind = GRAPH_CONSTANT,
                     .n_results = 1,
                     .results = result,
                     .attrs.constant = {.data = bits, .is_splat = true},
                     .name = "constant",
                     .place = ""};
    return NULL;
}

/* A barrier is as many identities, which the reference knows by another name. */
static vtrn_status add_identities(draft *d, const graph_op *op) {
    for (uint32_t i = 0; i < op->n_results; i++) {
        graph_op *identity = &d->region.ops[d->region.n_ops++];
        *identity = *op;
        identity->kind = GRAPH_RESHAPE;
        identity->n_operands = identity->n_results = 1;
        identity->operands = op->operands + i;
        identity->results = op->results + i;
    }
    return NULL;
}

static void enqueue(verify *v, uint32_t *n, const graph_value *values, uint32_t n_values) {
    for (uint32_t i = 0; i < n_values; i++)
        v->queue[(*n)++] = values[i];
}

/* Values of regions are not among those that makers are known for outside: only captures are looked
 * at, for what a region makes itself has been marked as seen. */
static void enqueue_captures(verify *v, uint32_t *n, const graph_region *r) {
    for (uint32_t i = 0; i < r->n_args; i++)
        v->seen[r->args[i]] = v->n_checks;
    for (uint32_t i = 0; i < r->n_ops; i++)
        for (uint32_t k = 0; k < r->ops[i].n_results; k++)
            v->seen[r->ops[i].results[k]] = v->n_checks;
    for (uint32_t i = 0; i < r->n_ops; i++) {
        for (uint32_t k = 0; k < r->ops[i].n_regions; k++)
            enqueue_captures(v, n, r->ops[i].regions[k]);
        enqueue(v, n, r->ops[i].operands, r->ops[i].n_operands);
    }
    enqueue(v, n, r->results, r->n_results);
}

static vtrn_status add_op(draft *d, const graph_op *op, uint32_t *n_queued) {
    verify *v = d->l->verify;
    for (uint32_t k = 0; k < op->n_results; k++)
        v->seen[op->results[k]] = v->n_checks;
    if (op->kind == GRAPH_OPTIMIZATION_BARRIER)
        VTRN_RETURN_IF_ERROR(add_identities(d, op));
    else
        d->region.ops[d->region.n_ops++] = *op;
    enqueue(v, n_queued, op->operands, op->n_operands);
    for (uint32_t k = 0; k < op->n_regions; k++)
        enqueue_captures(v, n_queued, op->regions[k]);
    return NULL;
}

/* Every op that leads from operands to the results. */
static vtrn_status collect(draft *d) {
    lower *l = d->l;
    verify *v = l->verify;
    uint32_t n = 0;
    v->n_checks++;
    enqueue(v, &n, d->region.results, d->region.n_results);
    while (n) {
        const graph_value value = v->queue[--n];
        if (v->seen[value] == v->n_checks)
            continue;
        v->seen[value] = v->n_checks;
        if (is_operand(d, value)) {
            add_argument(d, value);
        } else if (is_constant(l, value)) {
            VTRN_RETURN_IF_ERROR(add_constant(d, value));
        } else if (v->maker[value]) {
            VTRN_RETURN_IF_ERROR(add_op(d, v->maker[value], &n));
        } else { /* of a region: in memory from its beginning */
            VTRN_CHECK(l->values[value].state == VALUE_VIEW, "a region's argument is in memory");
            VTRN_RETURN_IF_ERROR(set_known(l, value, &l->values[value].view));
            add_argument(d, value);
        }
    }
    return NULL;
}

/* Room for all that a check can name. */
static vtrn_status open_draft(draft *d, lower *l, const graph_value *results, uint32_t n_results) {
    const uint32_t n_values = l->g->n_values;
    *d = (draft){.l = l};
    d->region.results = (graph_value *)(uintptr_t)results;
    d->region.n_results = n_results;
    d->region.args = malloc((n_values + 1) * sizeof *d->region.args);
    d->region.ops = malloc((n_values + 1) * sizeof *d->region.ops);
    if (d->region.args && d->region.ops)
        return NULL;
    free(d->region.args);
    free(d->region.ops);
    return VTRN_OUT_OF_MEMORY(n_values * sizeof(graph_op));
}

static void close_draft(draft *d) {
    free(d->region.args);
    free(d->region.ops);
    free(d->check.ran_as_reference);
    free(d->check.arguments);
    free(d->check.results);
    free(d->check.op);
    free(d->check.source);
}

typedef struct ordered {
    uint32_t order, op_i;
} ordered;

static int by_order(const void *a, const void *b) {
    const ordered *x = a, *y = b;
    return x->order != y->order ? (x->order < y->order ? -1 : 1)
                                : (x->op_i < y->op_i ? -1 : x->op_i > y->op_i);
}

/* Puts the ops into the order of the program; constants come first. */
static vtrn_status sort_ops(draft *d) {
    const uint32_t n = d->region.n_ops;
    ordered *keys = malloc((n + 1) * sizeof *keys);
    graph_op *sorted = malloc((n + 1) * sizeof *sorted);
    vtrn_status status = keys && sorted ? NULL : VTRN_OUT_OF_MEMORY(n * sizeof *sorted);
    for (uint32_t i = 0; i < n && keys && !status; i++) {
        const graph_op *op = &d->region.ops[i];
        keys[i].order =
            op->n_operands || op->kind != GRAPH_CONSTANT ? d->l->verify->order[op->results[0]] : 0;
        keys[i].op_i = i;
    }
    if (!status && keys && sorted) {
        qsort(keys, n, sizeof *keys, by_order);
        for (uint32_t i = 0; i < n; i++)
            sorted[i] = d->region.ops[keys[i].op_i];
        free(d->region.ops);
        d->region.ops = sorted;
        sorted = NULL;
    }
    free(keys);
    free(sorted);
    return status;
}

/* "dot_general"; a custom call has the name of its target. */
static const char *name_of(const graph_op *op) {
    return op->kind == GRAPH_CUSTOM_CALL || op->kind == GRAPH_UNKNOWN
               ? op->name
               : graph_kind_name((graph_kind)op->kind);
}

static vtrn_status describe(draft *d) {
    const lower *l = d->l;
    const graph_region *r = &d->region;
    verify_check *c = &d->check;
    c->g = (graph *)(uintptr_t)l->g;
    c->ran_as_reference = calloc(r->n_ops + 1, 1);
    c->arguments = calloc(r->n_args + 1, sizeof *c->arguments);
    c->results = calloc(r->n_results + 1, sizeof *c->results);
    c->op = calloc(r->n_results + 1, sizeof *c->op);
    c->source = calloc(r->n_results + 1, sizeof *c->source);
    d->slots = ARENA_NEW(&l->program->arena, uint32_t, r->n_args + r->n_results);
    if (!c->ran_as_reference || !c->arguments || !c->results || !c->op || !c->source || !d->slots)
        return VTRN_OUT_OF_MEMORY((r->n_args + r->n_results) * sizeof *c->results);
    for (uint32_t i = 0; i < r->n_ops; i++)
        c->ran_as_reference[i] = l->verify->ran_as_reference[r->ops[i].results[0]];
    for (uint32_t i = 0; i < r->n_args; i++) {
        c->arguments[i] = *l->verify->at[r->args[i]];
        d->slots[i] = c->arguments[i].slot;
        c->arguments[i].slot = i;
    }
    for (uint32_t i = 0; i < r->n_results; i++) {
        const graph_op *op = l->verify->maker[r->results[i]];
        c->results[i] = l->values[r->results[i]].view;
        d->slots[r->n_args + i] = slot_to_read(l, c->results[i].slot);
        c->results[i].slot = r->n_args + i;
        c->op[i] = op ? name_of(op) : "";
        c->source[i] = op ? op->place : "";
    }
    return NULL;
}

/* Appends the custom op. */
static vtrn_status append(draft *d) {
    lower *l = d->l;
    vtrn_custom custom = {
        .name = "check", .n_inputs = d->region.n_args + d->region.n_results, .slots = d->slots};
    size_t size;
    VTRN_RETURN_IF_ERROR(
        verify_encode(&d->check, &d->region, &l->program->arena, &custom.blob, &size));
    custom.blob_size = size;
    return lower_custom_append(l, &custom);
}

static vtrn_status draft_check(draft *d) {
    VTRN_RETURN_IF_ERROR(collect(d));
    VTRN_RETURN_IF_ERROR(sort_ops(d));
    VTRN_RETURN_IF_ERROR(describe(d));
    return append(d);
}

/* Checks values that are in memory, together: the ops that lead to one lead to others. */
static vtrn_status check_values(lower *l, const graph_value *values, uint32_t n) {
    if (n == 0)
        return NULL;
    draft d;
    const uint32_t source = l->build->source;
    const graph_op *op = l->verify->maker[values[0]];
    vtrn_status status = op ? build_source_set(l->build, op->name, op->place) : NULL;
    if (!status)
        status = open_draft(&d, l, values, n);
    if (!status) {
        status = draft_check(&d);
        close_draft(&d);
    }
    l->build->source = source;
    for (uint32_t i = 0; i < n && !status; i++)
        status = set_known(l, values[i], &l->values[values[i]].view);
    return status;
}

/* --- when ---------------------------------------------------------------------------------------
 */

static bool has_elements(const lower *l, graph_value value) {
    const graph_type *t = &l->g->types[value];
    return !t->is_token && graph_type_count(t) > 0;
}

/* Whether the value may still come into memory. */
static bool is_awaited(const lower *l, graph_value value) {
    const uint8_t state = l->values[value].state;
    return state == VALUE_NODE || state == VALUE_PADS || state == VALUE_AFFINE;
}

vtrn_status verify_flush(lower *l) {
    verify *v = l->verify;
    if (!v)
        return NULL;
    uint32_t n = 0, n_left = 0;
    graph_value *ready = malloc((v->n_pending + 1) * sizeof *ready);
    if (!ready)
        return VTRN_OUT_OF_MEMORY(v->n_pending * sizeof *ready);
    for (uint32_t i = 0; i < v->n_pending; i++) {
        const graph_value value = v->pending[i];
        bool is_there = l->values[value].state == VALUE_VIEW;
        bool is_part = is_there && parts_are_missing(l, l->values[value].view.slot);
        if (is_there && !is_part)
            ready[n++] = value;
        else if (is_part || is_awaited(l, value))
            v->pending[n_left++] = value;
    }
    v->n_pending = n_left;
    vtrn_status status = check_values(l, ready, n);
    free(ready);
    return status;
}

/* Control flow makes its results by copies that were checked, a constant is as it is, a callback
 * runs once, what other ranks send is not known here, and a kernel written by hand has no
 * reference. */
static bool is_checked_already(const graph_op *op) {
    return op->kind == GRAPH_WHILE || op->kind == GRAPH_IF || op->kind == GRAPH_CASE ||
           op->kind == GRAPH_CONSTANT || op->kind == GRAPH_PARTITION_ID ||
           op->kind == GRAPH_REPLICA_ID || graph_kind_is_collective(op->kind) ||
           reference_is_callback(op) || lower_is_native(op);
}

vtrn_status verify_lowered(lower *l, const graph_op *op, bool is_reference) {
    verify *v = l->verify;
    if (!v)
        return NULL;
    VTRN_RETURN_IF_ERROR(verify_flush(l));
    for (uint32_t i = 0; i < op->n_results; i++) {
        const graph_value value = op->results[i];
        v->ran_as_reference[value] = is_reference;
        if (l->values[value].state == VALUE_VIEW &&
            dtype_per_byte((vtrn_dtype)l->values[value].view.dtype) > 1)
            continue; /* its readers are checked, from the packed bytes on */
        if (is_checked_already(op) || !has_elements(l, value)) {
            if (l->values[value].state == VALUE_VIEW)
                VTRN_RETURN_IF_ERROR(set_known(l, value, &l->values[value].view));
        } else {
            v->pending[v->n_pending++] = value;
        }
    }
    return verify_flush(l);
}

vtrn_status verify_copied(lower *l, graph_value value, const view *from, const view *to) {
    if (!l->verify || !has_elements(l, value))
        return NULL;
    const vtrn_source *source = &l->build->sources[l->build->source];
    const char *op = source->op, *place = source->place;
    uint32_t *slots = ARENA_NEW(&l->program->arena, uint32_t, 2);
    if (!slots)
        return VTRN_OUT_OF_MEMORY(2 * sizeof *slots);
    slots[0] = slot_to_read(l, from->slot);
    slots[1] = to->slot;
    view argument = *from, result = *to;
    argument.slot = 0;
    result.slot = 1;
    const graph_region region = {.n_args = 1, .args = &value, .n_results = 1, .results = &value};
    uint8_t none = 0;
    const verify_check check = {.g = (graph *)(uintptr_t)l->g,
                                .ran_as_reference = &none,
                                .arguments = &argument,
                                .results = &result,
                                .op = &op,
                                .source = &place};
    vtrn_custom custom = {.name = "check", .n_inputs = 2, .slots = slots};
    size_t size;
    VTRN_RETURN_IF_ERROR(verify_encode(&check, &region, &l->program->arena, &custom.blob, &size));
    custom.blob_size = size;
    return lower_custom_append(l, &custom);
}

vtrn_status verify_keep(lower *l, uint32_t slot) {
    verify *v = l->verify;
    if (!v)
        return NULL;
    VTRN_RETURN_IF_ERROR(verify_flush(l));
    uint32_t kept = UINT32_MAX;
    for (uint32_t i = 0; i < l->g->n_values; i++) {
        const lower_value *value = &l->values[i];
        if (!v->maker[i] && !v->at[i] && value->state == VALUE_VIEW) /* no check has met it */
            VTRN_RETURN_IF_ERROR(set_known(l, i, &value->view));
        if (!v->at[i] || v->at[i]->slot != slot)
            continue;
        if (kept == UINT32_MAX)
            VTRN_RETURN_IF_ERROR(copy_tensor(l, slot, &kept));
        view moved = *v->at[i];
        moved.slot = kept;
        VTRN_RETURN_IF_ERROR(set_known(l, i, &moved));
    }
    return NULL;
}
