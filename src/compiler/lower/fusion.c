/* Growing fusions: which op joins which, and when a fusion closes. */
#include "compiler/lower/fusion.h"

#include "compiler/lower/narrow.h"
#include "compiler/lower/parts.h"
#include "compiler/lower/verify.h"
#include "compiler/plan/contract.h"
#include "compiler/plan/conv_plan.h"
#include "compiler/plan/elementwise_table.h"
#include "compiler/plan/fusion_sums.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static int64_t count_of(const lower *l, graph_value v) {
    return graph_type_count(&l->g->types[v]);
}

vtrn_status fusion_open(lower *l, int64_t n, fusion **out) {
    fusion *f = malloc(sizeof *f);
    if (!f)
        return VTRN_OUT_OF_MEMORY(sizeof *f);
    memset(f, 0, offsetof(fusion, nodes));
    f->n = n;
    fusion **tail = &l->fusions;
    while (*tail)
        tail = &(*tail)->next;
    *tail = f;
    *out = f;
    return NULL;
}

vtrn_status fusion_name(lower *l, fusion *f, graph_value v, int node, const graph_op *alias_of) {
    if (f->n_values == f->cap_values) {
        int cap = f->cap_values ? f->cap_values * 2 : 32;
        fusion_value *grown = realloc(f->values, (size_t)cap * sizeof *grown);
        if (!grown)
            return VTRN_OUT_OF_MEMORY((size_t)cap * sizeof *grown);
        f->values = grown;
        f->cap_values = cap;
    }
    f->values[f->n_values++] = (fusion_value){.value = v, .alias_of = alias_of};
    l->values[v].state = VALUE_NODE;
    l->values[v].fusion = f;
    l->values[v].node = (uint32_t)node;
    return NULL;
}

static void unlink_fusion(lower *l, fusion *f) {
    fusion **at = &l->fusions;
    while (*at && *at != f)
        at = &(*at)->next;
    if (*at)
        *at = f->next;
}

static void fusion_free(fusion *f) {
    free(f->values);
    free(f);
}

/* A kernel is named after its last operation. */
static vtrn_status blame(const lower *l, const fusion *f, vtrn_status status) {
    if (!status || !f->n_nodes)
        return status;
    const vtrn_source *s = &l->build->sources[f->nodes[f->n_nodes - 1].source];
    return vtrn_status_annotate(status, "the kernel of %s%s%s", s->op, *s->place ? " " : "",
                                s->place);
}

/* Whether a value is a part of another tensor, and the fusion's rows can be written there. Short
 * runs would make tiles narrow that could be of any width. */
static vtrn_status find_part(lower *l, const fusion *f, const fusion_node *node, graph_value v,
                             bool *is_part) {
    enum { MIN_RUN = 256 /* elements: assumed */ };
    int n_outer;
    view out;
    VTRN_RETURN_IF_ERROR(parts_find(l, v, &out, is_part));
    if (*is_part && !view_is_dense(&out)) {
        view at = out;
        view_coalesce(&at);
        int64_t run = at.n > 0 && at.f[at.n - 1].stride == 1 ? at.f[at.n - 1].size : 1;
        int64_t min_run = f->cols && f->cols < MIN_RUN ? f->cols : MIN_RUN;
        *is_part = !node->is_reduced && run >= min_run &&
                   (!f->cols || view_split_at(&at, f->cols, &n_outer));
    }
    return NULL;
}

/* A value's node is to be stored, in the type that it is wanted in. */
static vtrn_status store(lower *l, fusion *f, graph_value v) {
    int at = (int)l->values[v].node;
    view memory;
    vtrn_dtype dtype;
    bool is_part, is_narrow = narrow_node(l, f, at, &dtype);
    VTRN_RETURN_IF_ERROR(find_part(l, f, &f->nodes[at], v, &is_part));
    if (is_narrow) {
        int wide = at;
        VTRN_RETURN_IF_ERROR(narrow_store(l, f, wide, dtype, &at));
        VTRN_RETURN_IF_ERROR(is_part ? parts_result(l, v, &memory)
                                     : narrow_result(l, v, dtype, &memory));
        for (int i = 0; i < f->n_values; i++) /* the same node by another name */
            if ((int)l->values[f->values[i].value].node == wide)
                l->values[f->values[i].value].node = (uint32_t)at;
    } else {
        VTRN_RETURN_IF_ERROR(is_part ? parts_result(l, v, &memory) : lower_result(l, v, &memory));
    }
    f->nodes[at].store_view = memory;
    f->nodes[at].is_stored = true;
    return NULL;
}

/* Records the kernel, with the part of the fusion that is in use. */
static vtrn_status record(lower *l, const fusion *f) {
    bool is_stored = false;
    for (int i = 0; i < f->n_nodes; i++)
        is_stored |= f->nodes[i].is_stored;
    if (!is_stored)
        return NULL;
    size_t n_bytes = offsetof(fusion, nodes) + (size_t)f->n_nodes * sizeof f->nodes[0];
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_MAP, f, n_bytes, (kernel_demand){0}));
    kernel *k = &l->plan->list.kernels[l->plan->list.n_kernels - 1];
    fusion *kept = k->spec;
    k->source = f->nodes[f->n_nodes - 1].source;
    kept->next = NULL;
    kept->values = NULL;
    kept->n_values = kept->cap_values = 0;
    return NULL;
}

/* Stores what is used outside, records the kernel, gives every named value a view. */
vtrn_status fusion_close(lower *l, fusion *f) {
    unlink_fusion(l, f);
    uint32_t saved_source = l->build->source;
    vtrn_status status = NULL;
    for (int i = f->n_values - 1; i >= 0; i--) {
        fusion_value *fv = &f->values[i];
        if (l->values[fv->value].uses)
            fv->is_needed = true;
        if (!fv->is_needed || !fv->alias_of)
            continue;
        for (int j = 0; j < i; j++)
            if (f->values[j].value == fv->alias_of->operands[0])
                f->values[j].is_needed = true;
    }
    for (int i = 0; i < f->n_values && !status; i++) {
        fusion_value *fv = &f->values[i];
        lower_value *value = &l->values[fv->value];
        if (!fv->is_needed || fv->alias_of)
            continue;
        fusion_node *node = &f->nodes[value->node];
        if (!node->is_stored)
            status = store(l, f, fv->value);
        else
            lower_set_view(l, fv->value, &node->store_view);
    }
    if (!status)
        status = record(l, f);
    for (int i = 0; i < f->n_values && !status; i++) {
        fusion_value *fv = &f->values[i];
        if (!fv->is_needed || !fv->alias_of)
            continue;
        view v;
        const lower_value *from = &l->values[fv->alias_of->operands[0]];
        if (from->state != VALUE_VIEW || !view_apply(l->g, fv->alias_of, &from->view, &v))
            status = VTRN_ERROR(VTRN_INTERNAL, "a view of a stored value cannot be expressed");
        else
            lower_set_view(l, fv->value, &v);
    }
    status = blame(l, f, status);
    l->build->source = saved_source;
    fusion_free(f);
    return status;
}

vtrn_status lower_close_value(lower *l, graph_value v) {
    return fusion_close(l, l->values[v].fusion);
}

vtrn_status lower_close_all(lower *l) {
    while (l->fusions)
        VTRN_RETURN_IF_ERROR(fusion_close(l, l->fusions));
    return verify_flush(l);
}

void lower_drop_open(lower *l) {
    for (fusion *f = l->fusions, *next; f; f = next) {
        next = f->next;
        fusion_free(f);
    }
    l->fusions = NULL;
}

vtrn_status fusion_contract(lower *l, const contract_spec *spec, graph_value result,
                            vtrn_dtype dtype, fusion_rows rows) {
    fusion *f = NULL;
    fusion_in made = {.node = FUSION_NO_NODE};
    VTRN_RETURN_IF_ERROR(fusion_open(l, count_of(l, result), &f));
    f->cols = rows.cols;
    f->row_step = rows.step;
    f->batch_rows = rows.batch;
    f->n_contracts = 1;
    fusion_node node = {.op = FUSION_CONTRACT, .dtype = (uint8_t)dtype, .spec = spec};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &made));
    return fusion_name(l, f, result, made.node, NULL);
}

vtrn_status fusion_convolve(lower *l, const conv_spec *spec, graph_value result, vtrn_dtype dtype) {
    fusion *f = NULL;
    fusion_in made = {.node = FUSION_NO_NODE};
    VTRN_RETURN_IF_ERROR(fusion_open(l, count_of(l, result), &f));
    f->cols = spec->geometry.n_out_pixels;
    f->row_step = tile_max_rows(l->chip);
    f->conv = spec;
    fusion_node node = {.op = FUSION_CONV, .dtype = (uint8_t)dtype};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &made));
    return fusion_name(l, f, result, made.node, NULL);
}

/* The load of f that brings the same elements, or FUSION_NO_NODE. */
static int same_load(const fusion *f, const fusion_node *load) {
    for (int i = 0; i < f->n_nodes && load->op == FUSION_LOAD; i++) {
        const fusion_node *node = &f->nodes[i];
        if (node->op == FUSION_LOAD && node->is_reduced == load->is_reduced &&
            view_is_same(&node->source_view, &load->source_view))
            return i;
    }
    return FUSION_NO_NODE;
}

/* Two open fusions with equal spaces become one; nodes of b follow those of a, but for loads that a
 * has. */
static vtrn_status merge(lower *l, fusion *a, fusion *b) {
    int16_t now[FUSION_MAX_NODES]; /* by node of b: its number in a */
    for (int i = 0; i < b->n_nodes; i++) {
        now[i] = (int16_t)same_load(a, &b->nodes[i]);
        if (now[i] != FUSION_NO_NODE)
            continue;
        now[i] = (int16_t)a->n_nodes;
        fusion_node *node = &a->nodes[a->n_nodes++];
        *node = b->nodes[i];
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k].node >= 0)
                node->in[k].node = now[node->in[k].node];
    }
    if (!a->cols)
        a->cols = b->cols;
    if (!a->row_step) {
        a->row_step = b->row_step;
        a->batch_rows = b->batch_rows;
    }
    a->n_contracts += b->n_contracts;
    if (!a->conv)
        a->conv = b->conv;
    for (int i = 0; i < b->n_values; i++) {
        const fusion_value *fv = &b->values[i];
        VTRN_RETURN_IF_ERROR(
            fusion_name(l, a, fv->value, now[l->values[fv->value].node], fv->alias_of));
    }
    unlink_fusion(l, b);
    fusion_free(b);
    return NULL;
}

/* --- joining ------------------------------------------------------------------------------------
 */

/* Whether what `rows` does to one value a row of f can be done in f: where the rows are so long
 * that operations on whole columns of tiles would not take less time. */
static bool can_be_rows(const fusion *rows, const fusion *f, int n_new) {
    enum { MIN_COLS = 1024 /* assumed */ };
    if (f->cols < MIN_COLS || rows->n != f->n / f->cols || rows->cols || rows->n_contracts ||
        f->n_nodes + rows->n_nodes + n_new > FUSION_MAX_NODES)
        return false;
    for (int i = 0; i < rows->n_nodes; i++)
        if (rows->nodes[i].op == GRAPH_REDUCE || rows->nodes[i].is_reduced)
            return false;
    return true;
}

/* Whether the tiles of both can have the same rows. */
static bool has_same_rows(const fusion *a, const fusion *b) {
    return !a->row_step || !b->row_step ||
           (a->row_step == b->row_step && a->batch_rows == b->batch_rows);
}

/* The nodes of `rows` become values of one a row in f. */
static vtrn_status merge_rows(lower *l, fusion *f, fusion *rows) {
    for (int i = 0; i < rows->n_nodes; i++)
        rows->nodes[i].is_reduced = true;
    return merge(l, f, rows);
}

/* The open fusion that an op with a result of n elements can join: all its operands that are nodes
 * of open fusions must be there, or their fusion is merged or closed. NULL: none. */
static vtrn_status choose_fusion(lower *l, const graph_op *op, int64_t n, int n_new, fusion **out) {
    fusion *chosen = NULL;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        lower_value *value = &l->values[op->operands[i]];
        if (value->state != VALUE_NODE || value->fusion == chosen)
            continue;
        fusion *f = value->fusion;
        const fusion_node *node = &f->nodes[value->node];
        int64_t count = count_of(l, op->operands[i]);
        /* the operand may be a ROW value that a broadcast already stretched to FULL */
        bool is_usable = !node->is_column && count == n &&
                         (n == f->n || (f->cols && n == f->n / f->cols)) &&
                         f->n_nodes + n_new <= FUSION_MAX_NODES;
        if (is_usable && chosen && can_be_rows(chosen, f, n_new)) {
            VTRN_RETURN_IF_ERROR(merge_rows(l, f, chosen));
            chosen = f;
            continue;
        }
        if (is_usable && chosen && can_be_rows(f, chosen, n_new)) {
            VTRN_RETURN_IF_ERROR(merge_rows(l, chosen, f));
            continue;
        }
        if (is_usable && chosen) {
            is_usable = chosen->n == f->n &&
                        (!chosen->cols || !f->cols || chosen->cols == f->cols) &&
                        chosen->n_nodes + f->n_nodes + n_new <= FUSION_MAX_NODES &&
                        has_same_rows(chosen, f) && fusion_can_merge(l->chip, chosen, f);
            if (is_usable) {
                VTRN_RETURN_IF_ERROR(merge(l, chosen, f));
                continue;
            }
        }
        if (is_usable)
            chosen = f;
        else
            VTRN_RETURN_IF_ERROR(fusion_close(l, f));
    }
    *out = chosen;
    return NULL;
}

vtrn_status fusion_add_load(lower *l, fusion *f, const view *v, bool is_reduced, fusion_in *out) {
    vtrn_dtype dtype;
    fusion_tile_dtype(v->dtype, &dtype);
    fusion_node load = {
        .op = FUSION_LOAD, .dtype = (uint8_t)dtype, .is_reduced = is_reduced, .source_view = *v};
    return fusion_add(l->build, f, &load, out);
}

static bool is_row_space(const fusion *f, int64_t n) {
    return f->cols && n != f->n;
}

vtrn_status fusion_operand(lower *l, fusion *f, graph_value v, int64_t n, fusion_in *out) {
    lower_value *value = &l->values[v];
    out->node = FUSION_NO_NODE;
    if (lower_splat_float(l, v, &out->imm))
        return NULL;
    if (value->state == VALUE_NODE && value->fusion == f) {
        out->node = (int16_t)value->node;
        return NULL;
    }
    view from;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, v, &from));
    if (view_count(&from) == 1 && n != 1) { /* scalar bounds of clamp, scalar pred of select */
        from.n = 1;
        from.f[0] = (view_factor){n, 0};
    }
    bool is_reduced = is_row_space(f, n);
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (node->op == FUSION_LOAD && node->is_reduced == is_reduced &&
            view_is_same(&node->source_view, &from)) {
            out->node = (int16_t)i;
            return NULL;
        }
    }
    return fusion_add_load(l, f, &from, is_reduced, out);
}

static vtrn_status join_elementwise(lower *l, const graph_op *op) {
    graph_value result = op->results[0];
    int64_t n = count_of(l, result);
    fusion *f = NULL;
    VTRN_RETURN_IF_ERROR(choose_fusion(l, op, n, 5, &f));
    if (!f)
        VTRN_RETURN_IF_ERROR(fusion_open(l, n, &f));
    fusion_node node = {
        .op = op->kind, .n_in = (uint8_t)op->n_operands, .source = l->build->source};
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(fusion_operand(l, f, op->operands[i], n, &node.in[i]));
    vtrn_dtype dtype;
    fusion_tile_dtype(l->g->types[result].dtype, &dtype);
    node.dtype = (uint8_t)dtype;
    node.is_reduced = is_row_space(f, n);
    const graph_type *type = &l->g->types[result];
    if (!f->first_op_cols && type->rank > 1)
        f->first_op_cols = type->dims[type->rank - 1];
    if (op->kind == GRAPH_COMPARE) {
        node.direction = (uint8_t)op->attrs.compare.direction;
        node.is_total_order = op->attrs.compare.type == GRAPH_CMP_TOTALORDER;
    }
    if (op->kind == GRAPH_REDUCE_PRECISION) {
        node.direction = (uint8_t)op->attrs.reduce_precision.exponent_bits;
        node.reducer = (uint8_t)op->attrs.reduce_precision.mantissa_bits;
    }
    node.is_truth = l->g->types[op->operands[op->kind == GRAPH_SELECT]].dtype == VTRN_DTYPE_PRED;
    graph_direction direction;
    if (elementwise_tests_zero(l->g, op, &direction)) {
        node.op = GRAPH_COMPARE;
        node.direction = (uint8_t)direction;
        node.in[node.n_in++] = (fusion_in){.node = FUSION_NO_NODE, .imm = 0};
    }
    VTRN_CHECK(f->n_nodes < FUSION_MAX_NODES, "room for a node");
    f->nodes[f->n_nodes] = node;
    return fusion_name(l, f, result, f->n_nodes++, NULL);
}

/* A view change that keeps the linear index (reshape), or stretches a ROW value over its columns.
 */
vtrn_status fusion_alias(lower *l, const graph_op *op, bool *is_done) {
    lower_value *value = &l->values[op->operands[0]];
    if (value->state != VALUE_NODE)
        return NULL;
    fusion *f = value->fusion;
    const fusion_node *node = &f->nodes[value->node];
    const graph_type *in = &l->g->types[op->operands[0]], *out = &l->g->types[op->results[0]];
    int64_t n_in = graph_type_count(in), n_out = graph_type_count(out);
    bool is_alias = op->kind == GRAPH_RESHAPE || op->kind == GRAPH_REDUCE ||
                    (op->kind == GRAPH_BROADCAST_IN_DIM && n_in == n_out);
    if (op->kind == GRAPH_BROADCAST_IN_DIM && is_alias)
        for (int64_t i = 1; i < op->attrs.dims.dims.n; i++)
            is_alias = is_alias && op->attrs.dims.dims.v[i] > op->attrs.dims.dims.v[i - 1];
    if (op->kind == GRAPH_BROADCAST_IN_DIM && !is_alias && f->cols && n_out == f->n &&
        n_in == f->n / f->cols && !node->is_column) {
        /* rows first, in order, and everything behind them new (or of size 1 before) */
        int64_t rows = 1, at = -1;
        bool is_prefix = true;
        for (int64_t i = 0; i < op->attrs.dims.dims.n; i++) {
            int64_t d = op->attrs.dims.dims.v[i];
            if (in->dims[i] == 1)
                continue;
            is_prefix = is_prefix && d > at && in->dims[i] == out->dims[d];
            at = d;
        }
        for (int64_t d = 0; is_prefix && d <= at; d++)
            rows *= out->dims[d];
        is_alias = is_prefix && rows == n_in;
    }
    if (!is_alias || node->is_column)
        return NULL;
    *is_done = true;
    return fusion_name(l, f, op->results[0], (int)value->node, op);
}

/* A conversion to the type that the tile has anyway. */
static vtrn_status join_same_type(lower *l, const graph_op *op, bool *is_done) {
    const lower_value *value = &l->values[op->operands[0]];
    if (value->state != VALUE_NODE)
        return NULL;
    const fusion_node *node = &value->fusion->nodes[value->node];
    vtrn_dtype to = (vtrn_dtype)l->g->types[op->results[0]].dtype;
    if (!dtype_is_float(to) || node->dtype != to || node->is_column)
        return NULL;
    *is_done = true;
    return fusion_name(l, value->fusion, op->results[0], (int)value->node, NULL);
}

static vtrn_status lower_iota(lower *l, const graph_op *op, bool *is_done) {
    const graph_type *t = &l->g->types[op->results[0]];
    int64_t d = op->attrs.dims.dims.v[0], n = t->dims[d];
    vtrn_dtype unused;
    enum { MAX_IOTA = 1 << 20 };
    if (n > MAX_IOTA || !fusion_tile_dtype(t->dtype, &unused))
        return NULL;
    size_t size = dtype_size(t->dtype);
    int32_t *numbers = ARENA_NEW(&l->tmp, int32_t, (size_t)n);
    uint8_t *bytes = arena_alloc(&l->tmp, (size_t)n, size);
    if (!numbers || !bytes)
        return VTRN_OUT_OF_MEMORY((size_t)n * size);
    for (int64_t i = 0; i < n; i++)
        numbers[i] = (int32_t)i;
    dtype_convert(VTRN_DTYPE_INT32, numbers, t->dtype, bytes, (size_t)n);
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_constant_add(l->build, t->dtype, bytes, (uint64_t)n * size, &slot));
    view v = view_dense(slot, t);
    for (int i = 0; i < v.n; i++)
        v.f[i].stride = i == d;
    lower_set_view(l, op->results[0], &v);
    *is_done = true;
    return NULL;
}

vtrn_status lower_fused(lower *l, const graph_op *op, bool *is_done) {
    if (op->kind == GRAPH_IOTA)
        return lower_iota(l, op, is_done);
    if (op->kind == GRAPH_REDUCE)
        return fusion_reduce(l, op, is_done);
    if (op->kind == GRAPH_RESHAPE || op->kind == GRAPH_BROADCAST_IN_DIM)
        return fusion_alias(l, op, is_done);
    if (op->kind == GRAPH_CONVERT)
        VTRN_RETURN_IF_ERROR(join_same_type(l, op, is_done));
    if (*is_done || !elementwise_supports(l->g, op))
        return NULL;
    *is_done = true;
    return join_elementwise(l, op);
}
