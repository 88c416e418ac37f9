/* Slices, updates, gathers and scatters whose place is data: all are windows at addresses. */
#include "compiler/lower/address.h"

#include "base/array.h"
#include "compiler/lower/fusion.h"
#include "compiler/lower/indexed.h"
#include "compiler/lower/movement.h"
#include "compiler/lower/scatter_add.h"
#include "compiler/lower/verify.h"

enum { MAX_BASES = 1 << 20 };

/* --- writing into an operand --------------------------------------------------------------------
 */

static bool region_defines(const graph_region *region, graph_value v) {
    for (uint32_t i = 0; i < region->n_args; i++)
        if (region->args[i] == v)
            return true;
    for (uint32_t i = 0; i < region->n_ops; i++)
        for (uint32_t r = 0; r < region->ops[i].n_results; r++)
            if (region->ops[i].results[r] == v)
                return true;
    return false;
}

/* Another value that is still to be read lies in the slot. */
static bool is_shared(const lower *l, graph_value v, uint32_t slot) {
    for (uint32_t i = 0; i < l->g->n_values; i++) {
        const lower_value *value = &l->values[i];
        if (i == v || !value->uses)
            continue;
        if (value->state == VALUE_VIEW && value->view.slot == slot)
            return true;
        for (int k = 0; value->state == VALUE_PADS && k < value->pads->n; k++)
            if (value->pads->part[k].from.slot == slot)
                return true;
    }
    return false;
}

/* v is all of a tensor in memory, and is not read again once op is lowered. */
static bool is_last_of_tensor(const lower *l, graph_value v) {
    const lower_value *value = &l->values[v];
    return value->state == VALUE_VIEW && value->uses == 1 && !value->view.offset &&
           view_is_dense(&value->view) &&
           l->build->slots[value->view.slot].slot.size_bytes == graph_type_bytes(&l->g->types[v]) &&
           !is_shared(l, v, value->view.slot);
}

/* The operand of an update dies with it and has memory of its own: no copy is needed. What an
 * enclosing region made must survive, for the region may run again. */
static bool is_overwritable(const lower *l, graph_value v) {
    if (!is_last_of_tensor(l, v))
        return false;
    const build_slot *of = &l->build->slots[l->values[v].view.slot];
    return (of->slot.kind == VTRN_SLOT_SCRATCH || of->is_in_place) && l->region &&
           region_defines(l->region, v);
}

/* The output that v becomes by changes of shape and further updates, or -1. Each update of it is
 * then in the output's memory, so what it updates must not be read by anything else. */
static int32_t output_of(const lower *l, graph_value v, bool is_single) {
    const lower_value *value = &l->values[v];
    if (value->output >= 0)
        return value->output;
    is_single = is_single && value->n_uses == 1;
    for (uint32_t i = 0; i < value->n_uses; i++) {
        const graph_op *op = l->ops[l->use_op_i[value->first_use + i]];
        bool is_update = op->kind == GRAPH_DYNAMIC_UPDATE_SLICE || op->kind == GRAPH_SCATTER;
        if ((op->kind != GRAPH_RESHAPE && !(is_update && is_single)) || op->operands[0] != v)
            continue;
        int32_t output = output_of(l, op->results[0], is_single);
        if (output >= 0)
            return output;
    }
    return -1;
}

/* The output that begins as the donated argument v, and of which the update that makes `result`
 * writes parts; -1: there is none, or another block might still read the argument. */
static int32_t output_in_place(const lower *l, graph_value v, graph_value result) {
    if (l->has_control_flow || l->region != &l->g->body || !is_last_of_tensor(l, v))
        return -1;
    const vtrn_slot *slot = &l->build->slots[l->values[v].view.slot].slot;
    if (slot->kind != VTRN_SLOT_ARGUMENT)
        return -1;
    int32_t output = output_of(l, result, true);
    return output >= 0 && l->program->output_alias[output] == slot->index ? output : -1;
}

vtrn_status lower_begin_update(lower *l, const graph_op *op, view *out) {
    graph_value v = op->operands[0];
    if (l->values[v].state == VALUE_SPLAT) {
        view one;
        VTRN_RETURN_IF_ERROR(lower_materialise(l, v, &one));
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], out));
        return movement_fill(l, &one, out);
    }
    view from;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, v, &from));
    const int32_t output = output_in_place(l, v, op->results[0]);
    if (output >= 0 || is_overwritable(l, v)) {
        VTRN_RETURN_IF_ERROR(lower_close_readers(l, from.slot));
        VTRN_RETURN_IF_ERROR(verify_keep(l, from.slot));
        if (output >= 0) {
            from.slot = l->output_slot[output];
            l->build->slots[from.slot].is_in_place = true;
        }
        lower_set_view(l, op->results[0], &from);
        *out = from;
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], out));
    return plan_copy(l->plan, &from, out);
}

/* --- dynamic_slice, dynamic_update_slice --------------------------------------------------------
 */

static vtrn_status lower_dynamic_slice(lower *l, const graph_op *op, bool *is_done) {
    const graph_type *t = &l->g->types[op->operands[0]], *out_t = &l->g->types[op->results[0]];
    int64_t strides[GRAPH_MAX_RANK], array_stride = 1;
    address_spec s = {.n = 1, .n_window = t->rank};
    VTRN_RETURN_IF_ERROR(address_table(l, op->operands[0], &s.table, strides));
    for (int d = t->rank - 1; d >= 0; d--) {
        int64_t size = out_t->dims[d];
        s.window[d] = (address_factor){size, strides[d], array_stride};
        array_stride *= size;
    }
    for (int d = 0; d < t->rank; d++) {
        bool is_ok;
        VTRN_RETURN_IF_ERROR(address_add_term(l, &s, &(address_index){op->operands[1 + d], 0, 0},
                                              t->dims[d] - out_t->dims[d], strides[d], &is_ok));
        if (!is_ok)
            return NULL;
    }
    if (!address_fits(&s))
        return NULL;
    *is_done = true;
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &s.array));
    if (s.n_terms)
        return address_gather(l, &s);
    view from = s.table; /* every start is known */
    from.n = t->rank;
    for (int d = 0; d < t->rank; d++)
        from.f[d] = (view_factor){s.window[d].size, s.window[d].table};
    return plan_copy(l->plan, &from, &s.array);
}

static vtrn_status lower_dynamic_update(lower *l, const graph_op *op, bool *is_done) {
    const graph_type *t = &l->g->types[op->operands[0]], *update_t = &l->g->types[op->operands[1]];
    int64_t array_strides[GRAPH_MAX_RANK], stride = 1;
    address_spec s = {.n = 1, .n_window = t->rank};
    VTRN_RETURN_IF_ERROR(address_table(l, op->operands[1], &s.array, array_strides));
    for (int d = t->rank - 1; d >= 0; d--) {
        s.window[d] = (address_factor){update_t->dims[d], stride, array_strides[d]};
        stride *= t->dims[d];
    }
    for (int d = 0; d < t->rank; d++) {
        bool is_ok;
        VTRN_RETURN_IF_ERROR(address_add_term(l, &s, &(address_index){op->operands[2 + d], 0, 0},
                                              t->dims[d] - update_t->dims[d], s.window[d].table,
                                              &is_ok));
        if (!is_ok)
            return NULL;
    }
    if (!address_fits(&s))
        return NULL;
    *is_done = true;
    int64_t offset = s.table.offset; /* of the starts that are known */
    VTRN_RETURN_IF_ERROR(lower_begin_update(l, op, &s.table));
    s.table.offset += offset;
    if (s.n_terms)
        return address_scatter(l, &s, VTRN_ALU_NONE);
    view from = s.array, to = s.table;
    from.n = to.n = t->rank;
    for (int d = 0; d < t->rank; d++) {
        from.f[d] = (view_factor){s.window[d].size, s.window[d].array};
        to.f[d] = (view_factor){s.window[d].size, s.window[d].table};
    }
    return plan_copy(l->plan, &from, &to);
}

/* --- gather, scatter ----------------------------------------------------------------------------
 */

/* The attributes that both have, under one name. */
typedef struct indexing {
    const graph_type *table, *indices, *array;
    graph_ints window_dims, skipped, batching, indices_batching, index_map;
    int64_t index_vector_dim;
    int64_t extent[GRAPH_MAX_RANK]; /* of a window, by dim of the table */
    int64_t table_strides[GRAPH_MAX_RANK], array_strides[GRAPH_MAX_RANK]; /* the caller's */
} indexing;

static bool has(graph_ints list, int64_t x) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == x)
            return true;
    return false;
}

static indexing indexing_of(const graph *g, const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    indexing x = {.table = &g->types[op->operands[0]], .indices = &g->types[op->operands[1]]};
    if (op->kind == GRAPH_GATHER) {
        x.array = &g->types[op->results[0]];
        x.window_dims = at->gather.offset_dims;
        x.skipped = at->gather.collapsed;
        x.batching = at->gather.operand_batching;
        x.indices_batching = at->gather.indices_batching;
        x.index_map = at->gather.start_index_map;
        x.index_vector_dim = at->gather.index_vector_dim;
        for (int d = 0; d < x.table->rank; d++)
            x.extent[d] = at->gather.slice_sizes.v[d];
        return x;
    }
    x.array = &g->types[op->operands[2]];
    x.window_dims = at->scatter.update_window;
    x.skipped = at->scatter.inserted_window;
    x.batching = at->scatter.input_batching;
    x.indices_batching = at->scatter.indices_batching;
    x.index_map = at->scatter.scatter_dims_to_operand;
    x.index_vector_dim = at->scatter.index_vector_dim;
    for (int d = 0, k = 0; d < x.table->rank; d++)
        x.extent[d] =
            has(x.skipped, d) || has(x.batching, d) ? 1 : x.array->dims[x.window_dims.v[k++]];
    return x;
}

/* Offsets of the windows that lie in batching dimensions. */
static vtrn_status batch_offsets(lower *l, const indexing *x, address_spec *s) {
    int32_t *offset = ARENA_NEW(&l->tmp, int32_t, (size_t)s->n);
    if (!offset)
        return VTRN_OUT_OF_MEMORY((size_t)s->n * 4);
    for (int64_t i = 0; i < s->n; i++) {
        int64_t left = i, sum = 0;
        for (int d = x->indices->rank - 1; d >= 0; d--) {
            if (d == x->index_vector_dim)
                continue;
            int64_t at = left % x->indices->dims[d];
            left /= x->indices->dims[d];
            for (int64_t k = 0; k < x->batching.n; k++)
                if (x->indices_batching.v[k] == d && at) {
                    sum += at * x->table_strides[x->batching.v[k]];
                    s->base_unit = common_divisor(s->base_unit, x->table_strides[x->batching.v[k]]);
                }
        }
        offset[i] = (int32_t)sum;
        s->base_limit = sum > s->base_limit ? sum : s->base_limit;
    }
    s->has_base = true;
    s->base = (view){.dtype = VTRN_DTYPE_INT32, .n = 1, .f = {{s->n, 1}}};
    return build_constant_add(l->build, VTRN_DTYPE_INT32, offset, (uint64_t)s->n * 4,
                              &s->base.slot);
}

/* Windows, terms and batch positions; table and array are the caller's. */
static vtrn_status describe(lower *l, const graph_op *op, const indexing *x, address_spec *s,
                            bool *is_ok) {
    int64_t n_components = x->index_map.n;
    *is_ok =
        dtype_size((vtrn_dtype)x->table->dtype) <= 4 && x->index_vector_dim >= x->indices->rank - 1;
    for (int d = 0, k = 0; d < x->table->rank; d++)
        if (!has(x->skipped, d) && !has(x->batching, d))
            s->window[s->n_window++] = (address_factor){x->extent[d], x->table_strides[d],
                                                        x->array_strides[x->window_dims.v[k++]]};
    s->n = 1;
    for (int d = 0; d < x->array->rank; d++) {
        if (has(x->window_dims, d))
            continue;
        s->batch[s->n_batch++] = (view_factor){x->array->dims[d], x->array_strides[d]};
        s->n *= x->array->dims[d];
    }
    for (int64_t k = 0; *is_ok && k < n_components; k++) {
        int64_t d = x->index_map.v[k];
        VTRN_RETURN_IF_ERROR(
            address_add_term(l, s, &(address_index){op->operands[1], k, n_components},
                             x->table->dims[d] - x->extent[d], x->table_strides[d], is_ok));
    }
    if (!*is_ok || (x->batching.n && s->n > MAX_BASES)) {
        *is_ok = false;
        return NULL;
    }
    if (x->batching.n)
        VTRN_RETURN_IF_ERROR(batch_offsets(l, x, s));
    *is_ok = address_fits(s);
    return NULL;
}

static void dense_strides(const graph_type *t, int64_t *strides) {
    int64_t stride = 1;
    for (int d = t->rank - 1; d >= 0; d--) {
        strides[d] = stride;
        stride *= t->dims[d];
    }
}

static vtrn_status lower_any_gather(lower *l, const graph_op *op, bool *is_done) {
    indexing x = indexing_of(l->g, op);
    address_spec s = {0};
    if (graph_type_count(x.table) == 0)
        return NULL;
    VTRN_RETURN_IF_ERROR(address_table(l, op->operands[0], &s.table, x.table_strides));
    dense_strides(x.array, x.array_strides);
    VTRN_RETURN_IF_ERROR(describe(l, op, &x, &s, is_done));
    if (!*is_done)
        return NULL;
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &s.array));
    return address_gather(l, &s);
}

static bool combine_of(const graph_op *op, vtrn_dtype t, vtrn_alu *out) {
    graph_kind kind;
    if (lower_reducer((graph_reducer)op->reducer, &kind, out))
        return dtype_is_float(t) || t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32;
    return op->reducer == GRAPH_REDUCER_REPLACE;
}

/* One window after the other: those that meet are added to in order. */
static vtrn_status add_in_turn(lower *l, const address_spec *s) {
    for (int64_t i = 0; i < s->n; i++) {
        address_spec window = *s;
        window.n = 1;
        window.n_batch = 0;
        int64_t left = i;
        for (int d = s->n_batch - 1; d >= 0; d--) {
            window.array.offset += left % s->batch[d].size * s->batch[d].stride;
            left /= s->batch[d].size;
        }
        window.has_base = false;
        window.table.offset += address_base(l, s, i);
        for (int t = 0; t < s->n_terms; t++) {
            view *index = &window.term[t].index;
            index->offset += i * index->f[0].stride;
            index->f[0].size = 1;
        }
        VTRN_RETURN_IF_ERROR(address_scatter(l, &window, VTRN_ALU_ADD));
    }
    return NULL;
}

/* Adds updates that may meet, in the way that takes least time. */
static vtrn_status add_windows(lower *l, const graph_op *op, address_spec *s, int64_t n_elements,
                               bool *is_done) {
    enum { ROW_US = 5, ADD_US = 2, TURN_US = 5 }; /* of a step, roughly, by the timing model */
    enum { MAX_TURNS = 2048 };                    /* for a program's size */
    int64_t rows = row_scatter_steps(l, s, n_elements), adds = scatter_add_steps(l, s, n_elements);
    bool is_row = rows >= 0 && (adds < 0 || rows * ROW_US <= adds * ADD_US);
    int64_t us = is_row ? rows * ROW_US : adds * ADD_US;
    bool is_turn = s->n <= MAX_TURNS && (us < 0 || s->n * TURN_US < us);
    *is_done = is_turn || us >= 0;
    if (!*is_done)
        return NULL;
    if (is_turn) {
        VTRN_RETURN_IF_ERROR(lower_begin_update(l, op, &s->table));
        return add_in_turn(l, s);
    }
    if (is_row)
        return row_scatter_windows(l, op, s);
    double base;
    bool is_zero = lower_splat_float(l, op->operands[0], &base) && base == 0;
    VTRN_RETURN_IF_ERROR(is_zero ? lower_result(l, op->results[0], &s->table)
                                 : lower_begin_update(l, op, &s->table));
    return scatter_add(l, s, n_elements, is_zero, !indexed_may_be_non_finite(l, op->operands[2]));
}

static vtrn_status lower_any_scatter(lower *l, const graph_op *op, bool *is_done) {
    vtrn_alu combine;
    if (op->n_results != 1 || op->n_operands != 3 ||
        !combine_of(op, (vtrn_dtype)l->g->types[op->operands[0]].dtype, &combine))
        return NULL;
    indexing x = indexing_of(l->g, op);
    address_spec s = {.is_skipped = true};
    if (graph_type_count(x.table) == 0 || graph_type_count(x.array) == 0)
        return NULL;
    dense_strides(x.table, x.table_strides);
    VTRN_RETURN_IF_ERROR(address_table(l, op->operands[2], &s.array, x.array_strides));
    VTRN_RETURN_IF_ERROR(describe(l, op, &x, &s, is_done));
    if (!*is_done)
        return NULL;
    /* what is read, combined and written back must not be met twice on the way */
    bool is_distinct = combine == VTRN_ALU_NONE || s.n == 1 || op->attrs.scatter.is_unique;
    int64_t n_elements = graph_type_count(x.table);
    s.table.dtype = x.table->dtype;
    if (!is_distinct) {
        *is_done = combine == VTRN_ALU_ADD;
        return *is_done ? add_windows(l, op, &s, n_elements, is_done) : NULL;
    }
    VTRN_RETURN_IF_ERROR(lower_begin_update(l, op, &s.table));
    return address_scatter(l, &s, combine);
}

vtrn_status lower_dynamic(lower *l, const graph_op *op, bool *is_done) {
    if (op->n_results != 1 || dtype_size((vtrn_dtype)l->g->types[op->results[0]].dtype) > 4)
        return NULL;
    switch ((graph_kind)op->kind) {
    case GRAPH_DYNAMIC_SLICE:
        return lower_dynamic_slice(l, op, is_done);
    case GRAPH_DYNAMIC_UPDATE_SLICE:
        return lower_dynamic_update(l, op, is_done);
    case GRAPH_GATHER:
        return lower_any_gather(l, op, is_done);
    case GRAPH_SCATTER:
        return lower_any_scatter(l, op, is_done);
    default:
        return NULL;
    }
}
