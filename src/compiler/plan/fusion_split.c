/* A fusion that fits in no form, as several kernels: a contraction on its own, or the nodes in two
 * halves. What the later kernel needs of the earlier one goes through HBM. */
#include "compiler/plan/map_plan.h"

#include <stddef.h>

static bool is_op(const fusion_node *node) {
    return node->is_live && node->op != FUSION_LOAD;
}

static vtrn_status scratch_for(plan *p, uint8_t dtype, int64_t n, view *out) {
    graph_type t = {.dtype = dtype, .rank = 1, .dims = {n}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_slot_add(p->build, VTRN_SLOT_SCRATCH, (vtrn_dtype)dtype,
                                        graph_type_bytes(&t), 0, &slot));
    *out = view_dense(slot, &t);
    return NULL;
}

/* A load of a node that another kernel has stored. */
static fusion_node load_of(const fusion_node *node, const view *stored) {
    return (fusion_node){.op = FUSION_LOAD,
                         .dtype = node->dtype,
                         .is_reduced = node->is_reduced,
                         .source_view = *stored,
                         .source = node->source};
}

/* --- contractions -------------------------------------------------------------------------------
 */

/* The contraction that holds most in SBUF; NULL: there is none. */
static fusion_node *largest_contraction(plan *p, fusion *f) {
    fusion_node *largest = NULL;
    uint64_t most = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || node->op != FUSION_CONTRACT)
            continue;
        contraction c;
        contract_start(p, node->spec, &c);
        uint64_t n_bytes = (uint64_t)(c.n_k * c.n_n) * c.element_bytes;
        if (!largest || n_bytes > most) {
            largest = node;
            most = n_bytes;
        }
    }
    return largest;
}

static vtrn_status move_out(plan *p, fusion *f, fusion_node *node, fusion_parts *parts) {
    view out = node->store_view, result = out;
    *parts = (fusion_parts){
        .has_contraction = true, .spec = *node->spec, .source = node->source, .fusion = {NULL, f}};
    bool is_there = node->is_stored && contract_write_at(&parts->spec.out, &out);
    if (!is_there) {
        VTRN_RETURN_IF_ERROR(scratch_for(p, node->dtype, f->n, &out));
        VTRN_CHECK(contract_write_at(&parts->spec.out, &out), "a dense tensor has any dims");
    }
    bool is_copied = node->is_stored && !is_there;
    *node = load_of(node, &out);
    if (is_copied) {
        fusion_in from = {.node = (int16_t)(node - f->nodes)}, to;
        fusion_node copy = {.op = GRAPH_CONVERT, .dtype = node->dtype, .n_in = 1, .in = {from}};
        VTRN_RETURN_IF_ERROR(fusion_add(p->build, f, &copy, &to));
        f->nodes[to.node].is_stored = true;
        f->nodes[to.node].store_view = result;
    }
    if (--f->n_contracts == 0)
        f->row_step = f->batch_rows = 0;
    return NULL;
}

/* --- halves -------------------------------------------------------------------------------------
 */

/* For each node the last node that reads it, or -1. */
static void find_last_readers(const fusion *f, int *last_reader) {
    for (int i = 0; i < f->n_nodes; i++) {
        last_reader[i] = -1;
        for (int k = 0; f->nodes[i].is_live && k < f->nodes[i].n_in; k++)
            if (f->nodes[i].in[k].node >= 0)
                last_reader[f->nodes[i].in[k].node] = i;
    }
}

/* Where to cut: in the middle half of the operations, with the least to carry over. 0: there is one
 * operation. */
static int choose_split(const fusion *f, const int *last_reader) {
    int n_ops = 0, seen = 0, best = 0;
    double least = 0;
    for (int i = 0; i < f->n_nodes; i++)
        n_ops += is_op(&f->nodes[i]);
    for (int at = 1; at < f->n_nodes; at++) {
        seen += is_op(&f->nodes[at - 1]);
        if (seen == 0 || seen == n_ops || 4 * seen < n_ops || 4 * seen > 3 * n_ops + 3)
            continue;
        double carried = 0;
        for (int i = 0; i < at; i++)
            if (last_reader[i] >= at)
                carried += f->nodes[i].is_reduced ? 0.01 : f->nodes[i].op == FUSION_LOAD ? 1 : 2;
        if (best && carried >= least)
            continue;
        best = at;
        least = carried;
    }
    return best;
}

static void copy_node(const fusion_node *from, fusion *to, const int *renamed) {
    fusion_node *node = &to->nodes[to->n_nodes++];
    *node = *from;
    node->is_live = node->is_hoisted = node->is_folded = false;
    node->folds = FUSION_NO_NODE;
    for (int k = 0; k < node->n_in; k++)
        if (node->in[k].node >= 0)
            node->in[k].node = (int16_t)renamed[node->in[k].node];
}

/* Where the second half finds node i of the first. */
static vtrn_status carry_over(plan *p, fusion *first, int i, view *out) {
    fusion_node *node = &first->nodes[i];
    vtrn_dtype in_memory;
    fusion_tile_dtype((vtrn_dtype)node->store_view.dtype, &in_memory);
    if (node->is_stored && !node->is_accumulated && in_memory == node->dtype) {
        *out = node->store_view;
        return NULL;
    }
    fusion_in stored = {.node = (int16_t)i};
    if (node->is_stored) { /* where it goes it is rounded, or added to something */
        fusion_node copy = {.op = GRAPH_CONVERT, .dtype = node->dtype, .n_in = 1, .in = {stored}};
        VTRN_RETURN_IF_ERROR(fusion_add(p->build, first, &copy, &stored));
        node = &first->nodes[stored.node];
    }
    int64_t n = node->is_reduced ? first->n / first->cols : first->n;
    VTRN_RETURN_IF_ERROR(scratch_for(p, node->dtype, n, out));
    node->is_stored = true;
    node->store_view = *out;
    return NULL;
}

/* Room for n nodes. */
static vtrn_status new_part(plan *p, const fusion *like, int n, fusion **out) {
    fusion *f = arena_alloc(&p->home, 1, offsetof(fusion, nodes) + (size_t)n * sizeof f->nodes[0]);
    if (!f)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof f->nodes[0]);
    f->n = like->n;
    f->cols = like->cols;
    f->first_op_cols = like->first_op_cols;
    *out = f;
    return NULL;
}

static vtrn_status cut_in_two(plan *p, const fusion *f, fusion **parts) {
    int last_reader[FUSION_MAX_NODES] = {0}, renamed[FUSION_MAX_NODES], n_carried = 0;
    find_last_readers(f, last_reader);
    int at = choose_split(f, last_reader);
    if (at == 0)
        return VTRN_ERROR(VTRN_CAPACITY,
                          "SBUF: one operation needs more than the %u bytes of each partition that "
                          "%s has; choose a chip with more SBUF",
                          p->sbuf_limit, p->chip->name);
    for (int i = 0; i < at; i++)
        n_carried += last_reader[i] >= at;
    VTRN_RETURN_IF_ERROR(new_part(p, f, at + n_carried, &parts[0]));
    VTRN_RETURN_IF_ERROR(new_part(p, f, n_carried + f->n_nodes - at, &parts[1]));
    for (int i = 0; i < f->n_nodes; i++)
        renamed[i] = i;
    for (int i = 0; i < at; i++)
        copy_node(&f->nodes[i], parts[0], renamed);
    for (int i = 0; i < at; i++) {
        if (last_reader[i] < at)
            continue;
        renamed[i] = parts[1]->n_nodes;
        if (f->nodes[i].op == FUSION_LOAD) {
            copy_node(&f->nodes[i], parts[1], renamed);
            continue;
        }
        view stored;
        VTRN_RETURN_IF_ERROR(carry_over(p, parts[0], i, &stored));
        parts[1]->nodes[parts[1]->n_nodes++] = load_of(&f->nodes[i], &stored);
    }
    for (int i = at; i < f->n_nodes; i++) {
        if (!f->nodes[i].is_live)
            continue;
        renamed[i] = parts[1]->n_nodes;
        copy_node(&f->nodes[i], parts[1], renamed);
    }
    return NULL;
}

/* A convolution on its own, and the nodes that use it. */
static vtrn_status move_out_conv(plan *p, fusion *f, fusion **parts) {
    int at = 0;
    while (!f->nodes[at].is_live || f->nodes[at].op != FUSION_CONV)
        at++;
    fusion_node *node = &f->nodes[at];
    const int none[FUSION_MAX_NODES] = {0};
    VTRN_RETURN_IF_ERROR(new_part(p, f, 1, &parts[0]));
    parts[0]->conv = f->conv;
    parts[0]->row_step = f->row_step;
    copy_node(node, parts[0], none);
    if (!node->is_stored) {
        VTRN_RETURN_IF_ERROR(scratch_for(p, node->dtype, f->n, &parts[0]->nodes[0].store_view));
        parts[0]->nodes[0].is_stored = true;
    }
    *node = load_of(node, &parts[0]->nodes[0].store_view);
    f->conv = NULL;
    f->row_step = 0;
    parts[1] = f;
    return NULL;
}

static int count_ops(const fusion *f) {
    int n = 0;
    for (int i = 0; i < f->n_nodes; i++)
        n += is_op(&f->nodes[i]);
    return n;
}

vtrn_status fusion_split(plan *p, fusion *f, fusion_parts *out) {
    fusion_node *largest = largest_contraction(p, f);
    if (largest)
        return move_out(p, f, largest, out);
    *out = (fusion_parts){0};
    if (f->conv && count_ops(f) > 1)
        return move_out_conv(p, f, out->fusion);
    return cut_in_two(p, f, out->fusion);
}
