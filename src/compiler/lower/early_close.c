/* Fusions that close before an operation asks for their values: those that have nothing left to do,
 * and those that read what is about to be overwritten. */
#include "compiler/lower/fusion.h"
#include "compiler/lower/verify.h"
#include "compiler/plan/contract.h"

/* Whether all that is left to do with v is to join it with other parts of a tensor. */
static bool is_only_joined(const lower *l, graph_value v) {
    const lower_value *value = &l->values[v];
    uint32_t n = 0;
    for (uint32_t i = 0; i < value->n_uses; i++) {
        uint32_t op_i = l->use_op_i[value->first_use + i];
        n += op_i > l->op_i && l->ops[op_i]->kind == GRAPH_CONCATENATE;
    }
    return n == value->uses;
}

/* Elements of a tensor from the first one read to the last. */
typedef struct extent {
    uint32_t slot;
    int64_t first, last;
} extent;

static void stretch(extent *e, const view_factor *f, int n) {
    for (int i = 0; i < n; i++)
        *(f[i].stride < 0 ? &e->first : &e->last) += (f[i].size - 1) * f[i].stride;
}

static extent operand_extent(const contract_operand *o) {
    extent e = {o->slot, o->offset, o->offset};
    stretch(&e, o->batch, o->n_batch);
    stretch(&e, o->k, o->n_k);
    stretch(&e, o->x, o->n_x);
    return e;
}

/* What a node reads in memory: up to two tensors. */
static int extents_of(const fusion_node *node, extent *out) {
    if (node->op == FUSION_CONTRACT) {
        out[0] = operand_extent(&node->spec->a);
        out[1] = operand_extent(&node->spec->b);
        return 2;
    }
    if (node->op != FUSION_LOAD)
        return 0;
    const view *v = &node->source_view;
    out[0] = (extent){v->slot, v->offset, v->offset};
    stretch(&out[0], v->f, v->n);
    return 1;
}

static bool reads_of(const fusion *f, const extent *e) {
    extent read[2];
    for (int i = 0; i < f->n_nodes; i++)
        for (int k = extents_of(&f->nodes[i], read); k-- > 0;)
            if (read[k].slot == e->slot && read[k].first <= e->last && e->first <= read[k].last)
                return true;
    return false;
}

/* Whether another open fusion has yet to read elements of arguments that f reads too, and that its
 * results may overwrite. */
static bool has_to_wait(const lower *l, const fusion *f) {
    extent read[2];
    for (int i = 0; i < f->n_nodes; i++)
        for (int k = extents_of(&f->nodes[i], read); k-- > 0;) {
            if (l->build->slots[read[k].slot].slot.kind != VTRN_SLOT_ARGUMENT)
                continue;
            for (const fusion *other = l->fusions; other; other = other->next)
                if (other != f && reads_of(other, &read[k]))
                    return true;
        }
    return false;
}

static bool is_finished(const lower *l, const fusion *f) {
    bool is_awaited = false;
    for (int i = 0; i < f->n_values; i++) {
        graph_value v = f->values[i].value;
        if (l->values[v].uses && !is_only_joined(l, v))
            return false;
        is_awaited |= l->values[v].uses > 0;
    }
    return is_awaited;
}

vtrn_status lower_close_finished(lower *l) {
    for (fusion *f = l->fusions; f;) {
        bool is_closed = is_finished(l, f) && !has_to_wait(l, f);
        if (is_closed)
            VTRN_RETURN_IF_ERROR(fusion_close(l, f));
        f = is_closed ? l->fusions : f->next; /* others may have waited for it */
    }
    return NULL;
}

static bool reads(const fusion *f, uint32_t slot) {
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        if (node->op == FUSION_LOAD && node->source_view.slot == slot)
            return true;
        if (node->op == FUSION_CONTRACT &&
            (node->spec->a.slot == slot || node->spec->b.slot == slot))
            return true;
    }
    return false;
}

vtrn_status lower_close_readers(lower *l, uint32_t slot) {
    for (fusion *f = l->fusions; f;) {
        bool is_reader = reads(f, slot);
        if (is_reader)
            VTRN_RETURN_IF_ERROR(fusion_close(l, f));
        f = is_reader ? l->fusions : f->next; /* closing one takes it out of the list */
    }
    return verify_flush(l);
}
