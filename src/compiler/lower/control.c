/* while, if and case: blocks of the program; carried values live in fixed HBM tensors. */
#include "compiler/lower/lower.h"
#include "compiler/lower/verify.h"

#include <string.h>

static vtrn_status fixed_slots(lower *l, uint32_t n, const graph_value *like, view *out) {
    for (uint32_t i = 0; i < n; i++) {
        const graph_type *t = &l->g->types[like[i]];
        uint32_t slot;
        VTRN_RETURN_IF_ERROR(
            build_slot_add(l->build, VTRN_SLOT_SCRATCH, t->dtype, graph_type_bytes(t), 0, &slot));
        out[i] = view_dense(slot, t);
    }
    return NULL;
}

/* values -> fixed tensors, all at once: a value that lies in another's place goes by a detour. */
static vtrn_status copy_all(lower *l, uint32_t n, const graph_value *values, const view *to) {
    view *from = ARENA_NEW(&l->tmp, view, n);
    if (!from)
        return VTRN_OUT_OF_MEMORY(n * sizeof *from);
    for (uint32_t i = 0; i < n; i++) {
        VTRN_RETURN_IF_ERROR(lower_materialise(l, values[i], &from[i]));
        bool is_at_home = from[i].slot == to[i].slot && view_is_dense(&from[i]);
        bool is_in_the_way = false;
        for (uint32_t j = 0; j < n; j++)
            is_in_the_way |= from[i].slot == to[j].slot;
        if (!is_in_the_way || is_at_home)
            continue;
        view detour;
        VTRN_RETURN_IF_ERROR(fixed_slots(l, 1, &values[i], &detour));
        VTRN_RETURN_IF_ERROR(plan_copy(l->plan, &from[i], &detour));
        VTRN_RETURN_IF_ERROR(verify_copied(l, values[i], &from[i], &detour));
        from[i] = detour;
    }
    VTRN_RETURN_IF_ERROR(verify_flush(l)); /* before the copies overwrite operands */
    for (uint32_t i = 0; i < n; i++) {
        if (from[i].slot == to[i].slot)
            continue;
        VTRN_RETURN_IF_ERROR(plan_copy(l->plan, &from[i], &to[i]));
        VTRN_RETURN_IF_ERROR(verify_copied(l, values[i], &from[i], &to[i]));
    }
    return NULL;
}

/* The int32 that a branch reads: pred or int32 scalar -> fresh slot. */
static vtrn_status branch_word(lower *l, graph_value v, uint32_t *out_slot) {
    view from;
    VTRN_RETURN_IF_ERROR(lower_dense(l, v, &from));
    graph_type word = {.dtype = VTRN_DTYPE_INT32};
    VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, word.dtype, 4, 0, out_slot));
    view to = view_dense(*out_slot, &word);
    VTRN_RETURN_IF_ERROR(plan_copy(l->plan, &from, &to));
    return verify_copied(l, v, &from, &to);
}

static vtrn_status lower_while(lower *l, const graph_op *op) {
    uint32_t n = op->n_operands;
    view *carry = ARENA_NEW(&l->tmp, view, n);
    if (!carry)
        return VTRN_OUT_OF_MEMORY(n * sizeof *carry);
    VTRN_RETURN_IF_ERROR(fixed_slots(l, n, op->operands, carry));
    VTRN_RETURN_IF_ERROR(copy_all(l, n, op->operands, carry));
    VTRN_RETURN_IF_ERROR(lower_close_all(l));
    uint32_t before = l->build->n_blocks - 1, cond, body, after, cond_slot;
    build_block_end(l->build, before, VTRN_END_JUMP, before + 1, 0, 0);

    const graph_region *test = op->regions[0], *step = op->regions[1];
    VTRN_RETURN_IF_ERROR(plan_block_begin(l->plan, &cond));
    for (uint32_t i = 0; i < n; i++)
        lower_set_view(l, test->args[i], &carry[i]);
    VTRN_RETURN_IF_ERROR(lower_region(l, test));
    VTRN_RETURN_IF_ERROR(branch_word(l, test->results[0], &cond_slot));
    VTRN_RETURN_IF_ERROR(lower_close_all(l));
    uint32_t cond_last = l->build->n_blocks - 1; /* the condition may have had blocks of its own */
    build_block_end(l->build, cond_last, VTRN_END_BRANCH, 0, cond_last + 1, cond_slot);

    VTRN_RETURN_IF_ERROR(plan_block_begin(l->plan, &body));
    for (uint32_t i = 0; i < n; i++)
        lower_set_view(l, step->args[i], &carry[i]);
    VTRN_RETURN_IF_ERROR(lower_region(l, step));
    VTRN_RETURN_IF_ERROR(copy_all(l, n, step->results, carry));
    VTRN_RETURN_IF_ERROR(lower_close_all(l));
    build_block_end(l->build, l->build->n_blocks - 1, VTRN_END_JUMP, cond, 0, 0);

    VTRN_RETURN_IF_ERROR(plan_block_begin(l->plan, &after));
    l->build->blocks[cond_last].next[0] = after;
    for (uint32_t i = 0; i < n; i++)
        lower_set_view(l, op->results[i], &carry[i]);
    return NULL;
}

static vtrn_status lower_branches(lower *l, const graph_op *op) {
    uint32_t n = op->n_results;
    view *result = ARENA_NEW(&l->tmp, view, n);
    uint32_t *targets = ARENA_NEW(&l->tmp, uint32_t, op->n_regions);
    uint32_t *ends = ARENA_NEW(&l->tmp, uint32_t, op->n_regions);
    if (!result || !targets || !ends)
        return VTRN_OUT_OF_MEMORY(n * sizeof *result);
    uint32_t word, after;
    VTRN_RETURN_IF_ERROR(fixed_slots(l, n, op->results, result));
    VTRN_RETURN_IF_ERROR(branch_word(l, op->operands[0], &word));
    VTRN_RETURN_IF_ERROR(lower_close_all(l));
    uint32_t before = l->build->n_blocks - 1;
    build_block_end(l->build, before, op->kind == GRAPH_IF ? VTRN_END_BRANCH : VTRN_END_SWITCH, 0,
                    0, word);
    for (uint32_t r = 0; r < op->n_regions; r++) {
        VTRN_RETURN_IF_ERROR(plan_block_begin(l->plan, &targets[r]));
        VTRN_RETURN_IF_ERROR(lower_region(l, op->regions[r]));
        VTRN_RETURN_IF_ERROR(copy_all(l, n, op->regions[r]->results, result));
        VTRN_RETURN_IF_ERROR(lower_close_all(l));
        ends[r] = l->build->n_blocks - 1;
        build_block_end(l->build, ends[r], VTRN_END_JUMP, 0, 0, 0);
    }
    VTRN_RETURN_IF_ERROR(plan_block_begin(l->plan, &after));
    for (uint32_t r = 0; r < op->n_regions; r++)
        l->build->blocks[ends[r]].next[0] = after;
    if (op->kind == GRAPH_IF) {
        l->build->blocks[before].next[1] = targets[0];
        l->build->blocks[before].next[0] = targets[1];
    } else {
        l->build->blocks[before].n_targets = op->n_regions;
        l->build->blocks[before].targets = targets;
    }
    for (uint32_t i = 0; i < n; i++)
        lower_set_view(l, op->results[i], &result[i]);
    return NULL;
}

vtrn_status lower_control(lower *l, const graph_op *op, bool *is_done) {
    *is_done = true;
    return op->kind == GRAPH_WHILE ? lower_while(l, op) : lower_branches(l, op);
}
