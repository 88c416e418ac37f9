/* Fusions whose rows are longer than SBUF: which pass over a row block makes what.
 *
 *     row stage 0   values of one a row that need no reduction
 *     pass 0        over the block's columns: reductions of what pass 0 has, and its results
 *     row stage 1   values of one a row that need the reductions of pass 0
 *     pass 1        ...
 *
 * Full tiles live for one block of columns: a pass computes again what it needs of earlier ones. */
#include "compiler/plan/map_plan.h"

/* Reductions along the rows; those over the rows leave the kernel when it is done. */
static bool is_row_reduction(const fusion_node *node) {
    return node->op == GRAPH_REDUCE && !node->is_column;
}

bool fusion_sums_rows(const fusion *f, const fusion_node *node) {
    return node->is_column && f->nodes[node->in[0].node].shape == NODE_ROW;
}

int fusion_find_stages(fusion *f) {
    int n_passes = 1;
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->stage = 0;
        for (int k = 0; node->is_live && k < node->n_in; k++) {
            if (node->in[k].node < 0)
                continue;
            const fusion_node *in = &f->nodes[node->in[k].node];
            int ready = in->stage + is_row_reduction(in);
            node->stage = ready > node->stage ? ready : node->stage;
        }
        bool is_swept =
            node->shape == NODE_FULL || (node->op == GRAPH_REDUCE && !fusion_sums_rows(f, node));
        if (node->is_live && is_swept && node->stage >= n_passes)
            n_passes = node->stage + 1;
    }
    return n_passes;
}

void fusion_enter_pass(fusion *f, int pass) {
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        bool is_result = node->shape == NODE_FULL
                             ? node->is_stored
                             : node->op == GRAPH_REDUCE && !fusion_sums_rows(f, node);
        node->is_in_pass = node->is_live && is_result && node->stage == pass;
    }
    for (int i = f->n_nodes - 1; i >= 0; i--)
        for (int k = 0; f->nodes[i].is_in_pass && k < f->nodes[i].n_in; k++) {
            fusion_node *in = f->nodes[i].in[k].node < 0 ? NULL : &f->nodes[f->nodes[i].in[k].node];
            if (in && in->shape == NODE_FULL)
                in->is_in_pass = true;
        }
}

int fusion_work_of_passes(fusion *f, int n_passes) {
    int n_ops = 0;
    for (int pass = 0; pass < n_passes; pass++) {
        fusion_enter_pass(f, pass);
        for (int i = 0; i < f->n_nodes; i++)
            n_ops += f->nodes[i].is_in_pass;
    }
    return n_ops;
}
