/* Growing fusions: which op joins which, and when a fusion closes. */
#include "compiler/lower/fusion.h"

#include "compiler/lower/narrow.h"
#include "compiler/lower/parts.h"
#include "compiler/lower/verify.h"
#include "compiler/plan/contract.h"
#include "compiler/plan/conv_plan.h"
#include "compiler/plan/elementwise_table.h"
#include "compiler/plan/fusion_sums.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* A reduction over more columns than this is done in two steps, unless there are rows for all
     * partitions: a row is then taken block by block (fusion_passes.c). */
    MAX_REDUCE_COLS = 4096,
};

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
                            vtrn_dtype dtype, int64_t cols, int64_t row_step) {
    fusion *f = NULL;
    fusion_in made = {.node = FUSION_NO_NODE};
    VTRN_RETURN_IF_ERROR(fusion_open(l, count_of(l, result), &f));
    f->cols = cols;
    f->row_step = row_step;
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
    if (!a->row_step)
        a->row_step = b->row_step;
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
                        (!chosen->row_step || !f->row_step || chosen->row_step == f->row_step) &&
                        fusion_can_merge(l->chip, chosen, f);
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

/* An operand for a node in f: a node of f, a new load, or an immediate. */
static vtrn_status operand(lower *l, fusion *f, graph_value v, int64_t n, fusion_in *out) {
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
        VTRN_RETURN_IF_ERROR(operand(l, f, op->operands[i], n, &node.in[i]));
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
static vtrn_status join_alias(lower *l, const graph_op *op, bool *is_done) {
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

static bool is_exact_int(vtrn_dtype t) {
    return t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32;
}

/* Whether the engines reduce this way on this type. */
static bool reducer_is_native(const graph_op *op, vtrn_dtype t) {
    switch ((graph_reducer)op->reducer) {
    case GRAPH_REDUCER_ADD:
    case GRAPH_REDUCER_MULTIPLY:
        return dtype_is_float(t) || is_exact_int(t);
    case GRAPH_REDUCER_MAXIMUM:
    case GRAPH_REDUCER_MINIMUM:
        return dtype_size(t) <= 4; /* narrow integers are exact in fp32 */
    case GRAPH_REDUCER_AND:
    case GRAPH_REDUCER_OR:
        return t == VTRN_DTYPE_PRED || is_exact_int(t);
    case GRAPH_REDUCER_XOR:
        return is_exact_int(t);
    default:
        return false;
    }
}

/* The smallest or greatest value of a type. */
static double extreme(vtrn_dtype t, bool is_greatest) {
    if (dtype_is_float(t))
        return is_greatest ? INFINITY : -INFINITY;
    if (t == VTRN_DTYPE_PRED)
        return is_greatest;
    int bits = 8 * (int)dtype_size(t);
    if (dtype_is_signed_int(t))
        return is_greatest ? ldexp(1, bits - 1) - 1 : -ldexp(1, bits - 1);
    return is_greatest ? ldexp(1, bits) - 1 : 0;
}

bool fusion_is_identity(graph_reducer r, vtrn_dtype t, double init) {
    switch (r) {
    case GRAPH_REDUCER_ADD:
    case GRAPH_REDUCER_OR:
    case GRAPH_REDUCER_XOR:
        return init == 0;
    case GRAPH_REDUCER_MULTIPLY:
        return init == 1;
    case GRAPH_REDUCER_MAXIMUM:
        return init == extreme(t, false);
    case GRAPH_REDUCER_MINIMUM:
        return init == extreme(t, true);
    case GRAPH_REDUCER_AND:
        return t == VTRN_DTYPE_PRED ? init != 0
                                    : init == (dtype_is_signed_int(t) ? -1 : 4294967295.0);
    default:
        return false;
    }
}

typedef enum { SHAPE_TRAILING, SHAPE_LEADING, SHAPE_MIXED } reduce_shape;

static reduce_shape shape_of(const graph_op *op, const graph_type *in, int64_t *n_reduced) {
    bool is_reduced[GRAPH_MAX_RANK] = {false};
    *n_reduced = 1;
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++) {
        is_reduced[op->attrs.dims.dims.v[i]] = true;
        *n_reduced *= in->dims[op->attrs.dims.dims.v[i]];
    }
    bool is_trailing = true, is_leading = true, seen_kept = false, seen_reduced = false;
    for (int d = 0; d < in->rank; d++) {
        if (in->dims[d] == 1)
            continue;
        if (is_reduced[d]) {
            seen_reduced = true;
            is_leading = is_leading && !seen_kept;
        } else {
            seen_kept = true;
            is_trailing = is_trailing && !seen_reduced;
        }
    }
    return is_trailing ? SHAPE_TRAILING : is_leading ? SHAPE_LEADING : SHAPE_MIXED;
}

static vtrn_status add_reduce(lower *l, fusion *f, const graph_op *op, fusion_in in, bool is_column,
                              vtrn_dtype dtype, int *out_node) {
    VTRN_CHECK(f->n_nodes < FUSION_MAX_NODES, "room for a reduction");
    *out_node = f->n_nodes;
    f->nodes[f->n_nodes++] = (fusion_node){.op = GRAPH_REDUCE,
                                           .shape = NODE_ROW,
                                           .dtype = (uint8_t)dtype,
                                           .reducer = op->reducer,
                                           .is_column = is_column,
                                           .is_reduced = true,
                                           .n_in = 1,
                                           .in = {in},
                                           .source = l->build->source};
    return NULL;
}

/* The operand's view with the reduced dims before the kept ones, or behind them. */
static bool move_reduced(const lower *l, const graph_op *op, const view *operand, bool is_first,
                         view *out) {
    const graph_type *in = &l->g->types[op->operands[0]];
    int first[GRAPH_MAX_RANK + 1];
    view v = *operand;
    if (!view_split_dims(&v, in->dims, in->rank, first))
        return false;
    *out = v;
    out->n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int d = 0; d < in->rank; d++) {
            bool is_reduced = false;
            for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
                is_reduced |= op->attrs.dims.dims.v[i] == d;
            if (is_reduced == ((pass == 0) == is_first))
                for (int k = first[d]; k < first[d + 1]; k++)
                    out->f[out->n++] = v.f[k];
        }
    return true;
}

bool fusion_reduced_last(const lower *l, const graph_op *op, const view *operand, view *out) {
    return move_reduced(l, op, operand, false, out);
}

/* Smallest share of `cols` that fills partitions and fits a tile; 1: no need. */
int64_t fusion_first_share(const lower *l, int64_t rows, int64_t cols) {
    if ((cols <= MAX_REDUCE_COLS && (rows >= 16 || cols < 512)) || rows >= tile_max_rows(l->chip))
        return 1;
    int64_t best = 1;
    for (int64_t k = 2; k <= cols / 16; k++) {
        if (cols % k)
            continue;
        best = k;
        if (cols / k <= MAX_REDUCE_COLS && rows * k >= tile_max_rows(l->chip))
            break;
    }
    return best;
}

static vtrn_status scratch_view(lower *l, vtrn_dtype dtype, int64_t n, view *out) {
    graph_type t = {.dtype = (uint8_t)dtype, .rank = 1, .dims = {n}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(l->build, VTRN_SLOT_SCRATCH, dtype, graph_type_bytes(&t), 0, &slot));
    *out = view_dense(slot, &t);
    return NULL;
}

/* Reduction over the trailing n_reduced elements of a view, in one or two steps, into `result`. */
static vtrn_status reduce_view(lower *l, const graph_op *op, const view *from, int64_t n_reduced) {
    graph_value result = op->results[0];
    int64_t n = view_count(from), rows = n / n_reduced;
    int64_t share = fusion_first_share(l, rows, n_reduced);
    view v = *from;
    vtrn_dtype dtype;
    fusion_tile_dtype(v.dtype, &dtype);
    fusion *f = NULL;
    int node = 0;
    if (share > 1) {
        VTRN_RETURN_IF_ERROR(fusion_open(l, n, &f));
        f->cols = n_reduced / share;
        f->nodes[f->n_nodes++] = (fusion_node){.op = FUSION_LOAD,
                                               .dtype = (uint8_t)dtype,
                                               .source_view = v,
                                               .source = l->build->source};
        VTRN_RETURN_IF_ERROR(add_reduce(l, f, op, (fusion_in){.node = 0}, false,
                                        dtype_is_float(dtype) ? VTRN_DTYPE_FP32 : dtype, &node));
        VTRN_RETURN_IF_ERROR(
            scratch_view(l, dtype_is_float(dtype) ? VTRN_DTYPE_FP32 : dtype, rows * share, &v));
        f->nodes[node].is_stored = true;
        f->nodes[node].store_view = v;
        VTRN_RETURN_IF_ERROR(fusion_close(l, f));
        return reduce_view(l, op, &v, share);
    }
    VTRN_RETURN_IF_ERROR(fusion_open(l, n, &f));
    f->cols = n_reduced;
    vtrn_dtype load_dtype;
    fusion_tile_dtype(v.dtype, &load_dtype);
    f->nodes[f->n_nodes++] = (fusion_node){.op = FUSION_LOAD,
                                           .dtype = (uint8_t)load_dtype,
                                           .source_view = v,
                                           .source = l->build->source};
    vtrn_dtype out_dtype;
    fusion_tile_dtype(l->g->types[result].dtype, &out_dtype);
    VTRN_RETURN_IF_ERROR(add_reduce(l, f, op, (fusion_in){.node = 0}, false, out_dtype, &node));
    return fusion_name(l, f, result, node, NULL);
}

/* Whether the last dim is kept: then shifted views have runs. */
static bool keeps_last(const graph_op *op, const graph_type *in) {
    int last = in->rank - 1;
    while (last > 0 && in->dims[last] == 1)
        last--;
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
        if (op->attrs.dims.dims.v[i] == last)
            return false;
    return true;
}

/* A reduction over a few leading indices of a long row: as many shifted views, added up
 * elementwise.
 */
static vtrn_status reduce_taps(lower *l, const graph_op *op, const view *from, int64_t n_taps,
                               bool *is_done) {
    enum { MAX_TAPS = 64, MIN_COLS = 2048 };
    int64_t cols = view_count(from) / n_taps;
    vtrn_dtype dtype;
    fusion_tile_dtype(from->dtype, &dtype);
    graph_kind kind;
    vtrn_alu alu;
    view v = *from;
    int n_outer;
    if (n_taps < 2 || n_taps > MAX_TAPS || cols < MIN_COLS ||
        !lower_reducer((graph_reducer)op->reducer, &kind, &alu) || !dtype_is_float(dtype) ||
        !view_split_at(&v, cols, &n_outer))
        return NULL;
    *is_done = true;
    fusion *f = NULL;
    VTRN_RETURN_IF_ERROR(fusion_open(l, cols, &f));
    fusion_in total = {.node = FUSION_NO_NODE}, next = total;
    for (int64_t tap = 0; tap < n_taps; tap++) {
        view row = {.slot = v.slot, .dtype = v.dtype, .offset = v.offset, .n = v.n - n_outer};
        memcpy(row.f, v.f + n_outer, (size_t)row.n * sizeof *row.f);
        int64_t index = tap;
        for (int i = n_outer - 1; i >= 0; i--) {
            row.offset += index % v.f[i].size * v.f[i].stride;
            index /= v.f[i].size;
        }
        VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &row, false, &next));
        if (tap == 0) {
            total = next;
            continue;
        }
        fusion_node node = {.op = (uint16_t)kind,
                            /* partial sums keep fp32, the result has its own type */
                            .dtype = tap + 1 < n_taps ? VTRN_DTYPE_FP32 : (uint8_t)dtype,
                            .n_in = 2,
                            .in = {total, next}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &total));
    }
    return fusion_name(l, f, op->results[0], total.node, NULL);
}

static vtrn_status join_reduce(lower *l, const graph_op *op, bool *is_done) {
    if (op->n_operands != 2)
        return NULL;
    const graph_type *in = &l->g->types[op->operands[0]];
    double init;
    vtrn_dtype dtype;
    if (!reducer_is_native(op, in->dtype) || !fusion_tile_dtype(in->dtype, &dtype) ||
        !lower_splat_float(l, op->operands[1], &init) ||
        !fusion_is_identity(op->reducer, in->dtype, init))
        return NULL;
    int64_t n_reduced, n = graph_type_count(in);
    reduce_shape shape = shape_of(op, in, &n_reduced);
    if (n == 0 || n_reduced == 0)
        return NULL;
    *is_done = true;
    lower_value *value = &l->values[op->operands[0]];
    int node = 0;
    if (n_reduced == 1) { /* nothing to add up: a reshape */
        bool is_joined = false;
        VTRN_RETURN_IF_ERROR(join_alias(l, op, &is_joined));
        if (is_joined)
            return NULL;
        view whole;
        VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &whole));
        lower_set_view(l, op->results[0], &whole);
        return NULL;
    }
    if (value->state == VALUE_NODE) {
        fusion *f = value->fusion;
        const fusion_node *from = &f->nodes[value->node];
        int64_t cols = shape == SHAPE_TRAILING ? n_reduced : n / n_reduced;
        if (shape == SHAPE_LEADING && f->cols != cols)
            cols = fusion_sum_cols(l->chip, n_reduced, cols);
        bool is_open = n == f->n && !f->conv && !from->is_column && (!f->cols || f->cols == cols) &&
                       f->n_nodes + 1 < FUSION_MAX_NODES;
        fusion_in operand = {.node = (int16_t)value->node};
        if (is_open && shape == SHAPE_TRAILING && !fusion_has_wide_sums(f) &&
            fusion_first_share(l, n / n_reduced, n_reduced) == 1) {
            f->cols = cols;
            VTRN_RETURN_IF_ERROR(add_reduce(l, f, op, operand, false, dtype, &node));
            return fusion_name(l, f, op->results[0], node, NULL);
        }
        bool is_row_total = f->cols && from->is_reduced && n == f->n / f->cols && n_reduced == n &&
                            !from->is_column && op->reducer == GRAPH_REDUCER_ADD &&
                            dtype == VTRN_DTYPE_FP32 && fusion_can_sum(l->chip, f, n, 1) &&
                            f->n_nodes + 1 < FUSION_MAX_NODES;
        if (is_row_total) { /* a loss: the sum of a ROW value over all rows */
            VTRN_RETURN_IF_ERROR(add_reduce(l, f, op, operand, true, dtype, &node));
            f->nodes[node].is_total = true;
            return fusion_name(l, f, op->results[0], node, NULL);
        }
        bool is_sum = op->reducer == GRAPH_REDUCER_ADD &&
                      fusion_can_sum(l->chip, f, n / cols, cols) &&
                      (dtype == VTRN_DTYPE_FP32 || dtype == VTRN_DTYPE_BF16);
        if (is_open && shape == SHAPE_LEADING && is_sum) {
            f->cols = cols;
            VTRN_RETURN_IF_ERROR(add_reduce(l, f, op, operand, true, dtype, &node));
            return fusion_name(l, f, op->results[0], node, NULL);
        }
    }
    view from, permuted;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &from));
    bool is_column = shape == SHAPE_LEADING && op->reducer == GRAPH_REDUCER_ADD &&
                     fusion_can_sum(l->chip, NULL, n_reduced, n / n_reduced) && n / n_reduced > 1 &&
                     (dtype == VTRN_DTYPE_FP32 || dtype == VTRN_DTYPE_BF16);
    bool is_wide = is_column && n / n_reduced > FUSION_MAX_WHOLE_SUM_COLS;
    if (!is_wide && keeps_last(op, in) && move_reduced(l, op, &from, true, &permuted)) {
        bool is_summed = false;
        VTRN_RETURN_IF_ERROR(reduce_taps(l, op, &permuted, n_reduced, &is_summed));
        if (is_summed)
            return NULL;
    }
    if (is_column) {
        fusion *f = NULL;
        VTRN_RETURN_IF_ERROR(fusion_open(l, n, &f));
        f->cols = fusion_sum_cols(l->chip, n_reduced, n / n_reduced);
        fusion_in operand_in;
        VTRN_RETURN_IF_ERROR(operand(l, f, op->operands[0], n, &operand_in));
        if (operand_in.node != FUSION_NO_NODE) {
            VTRN_RETURN_IF_ERROR(add_reduce(l, f, op, operand_in, true, dtype, &node));
            return fusion_name(l, f, op->results[0], node, NULL);
        }
        VTRN_RETURN_IF_ERROR(fusion_close(l, f));
    }
    if (!fusion_reduced_last(l, op, &from, &permuted)) {
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &from));
        VTRN_CHECK(fusion_reduced_last(l, op, &from, &permuted), "a dense view can be permuted");
    }
    return reduce_view(l, op, &permuted, n_reduced);
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
        return join_reduce(l, op, is_done);
    if (op->kind == GRAPH_RESHAPE || op->kind == GRAPH_BROADCAST_IN_DIM)
        return join_alias(l, op, is_done);
    if (op->kind == GRAPH_CONVERT)
        VTRN_RETURN_IF_ERROR(join_same_type(l, op, is_done));
    if (*is_done || !elementwise_supports(l->g, op))
        return NULL;
    *is_done = true;
    return join_elementwise(l, op);
}
