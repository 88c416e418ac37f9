#include "compiler/build/joint_exchange.h"

#include "collective/collective.h"

#include <stdlib.h>
#include <string.h>

/* --- time --------------------------------------------------------------------------------------
 */

uint64_t exchange_bytes(const vtrn_custom *custom, const vtrn_slot *slots) {
    const bool is_gather = custom->collective->kind == VTRN_COLLECTIVE_ALL_GATHER;
    uint64_t n = 0;
    for (uint32_t i = 0; i < custom->n_inputs; i++)
        n += slots[custom->slots[i + (is_gather ? custom->n_inputs : 0)]].size_bytes;
    return n;
}

/* Trigger, handshakes and two steps; the bytes leave the core once each. */
static double bare_ns(const vtrn_chip *chip, const vtrn_collective *c, uint64_t bytes) {
    const double rate = chip->collective.core_bytes_per_s;
    return chip->collective.start_ns + c->group_size * chip->collective.peer_ns +
           2 * chip->collective.step_ns + (rate > 0 ? 2e9 * (double)bytes / rate : 0);
}

double exchange_ns(const collective_topology *t, const vtrn_chip *chip, const vtrn_custom *custom,
                   uint64_t bytes) {
    const vtrn_collective *c = custom->collective;
    if (!t || !c->n_groups)
        return bare_ns(chip, c, bytes);
    collective_time time = {0};
    vtrn_status status =
        collective_estimate(t,
                            &(collective_request){.op = (collective_op)c->kind,
                                                  .bytes = bytes,
                                                  .devices = c->groups,
                                                  .n_groups = (int)c->n_groups,
                                                  .group_size = (int)c->group_size},
                            &time);
    if (!status)
        return time.duration_ns;
    vtrn_status_free(status); /* more ranks than cores: who runs it is told then */
    return bare_ns(chip, c, bytes);
}

/* --- one of several ----------------------------------------------------------------------------
 */

static bool is_sum(const vtrn_collective *c) {
    return c && c->reducer != VTRN_REDUCER_CUSTOM &&
           (c->kind == VTRN_COLLECTIVE_ALL_REDUCE || c->kind == VTRN_COLLECTIVE_REDUCE_SCATTER);
}

bool exchange_can_join(const vtrn_custom *a, const vtrn_custom *b) {
    const vtrn_collective *x = a->collective, *y = b->collective;
    return is_sum(x) && is_sum(y) && x->kind == y->kind && x->reducer == y->reducer &&
           x->n_groups == y->n_groups && x->group_size == y->group_size &&
           !memcmp(x->groups, y->groups, (size_t)x->n_groups * x->group_size * sizeof *x->groups);
}

/* Operands and results of n collectives, which instructions of the list name, as those of one. */
static vtrn_status join(builder *b, const vtrn_instr *list, uint32_t n) {
    arena *a = &b->program->arena;
    vtrn_custom *first = &b->customs[list[0].arg[0]];
    uint32_t n_all = 0, at = 0;
    for (uint32_t i = 0; i < n; i++)
        n_all += b->customs[list[i].arg[0]].n_inputs;
    uint32_t *slots = ARENA_NEW(a, uint32_t, 2 * (size_t)n_all);
    vtrn_exchange *exchanges = ARENA_NEW(a, vtrn_exchange, n_all);
    vtrn_collective *joint = ARENA_NEW(a, vtrn_collective, 1);
    if (!slots || !exchanges || !joint)
        return VTRN_OUT_OF_MEMORY(n_all * sizeof *exchanges);
    for (uint32_t i = 0; i < n; i++) {
        const vtrn_custom *one = &b->customs[list[i].arg[0]];
        memcpy(slots + at, one->slots, one->n_inputs * sizeof *slots);
        memcpy(slots + n_all + at, one->slots + one->n_inputs, one->n_outputs * sizeof *slots);
        memcpy(exchanges + at, one->collective->exchanges, one->n_inputs * sizeof *exchanges);
        at += one->n_inputs;
    }
    *joint = *first->collective;
    joint->exchanges = exchanges;
    first->n_inputs = first->n_outputs = n_all;
    first->slots = slots;
    first->collective = joint;
    return NULL;
}

/* Custom ops that no instruction names any more leave the table. */
static vtrn_status drop_customs(builder *b, const bool *is_dropped) {
    uint32_t *number = calloc((size_t)b->n_customs + 1, sizeof *number), n = 0;
    if (!number)
        return VTRN_OUT_OF_MEMORY(b->n_customs * sizeof *number);
    for (uint32_t i = 0; i < b->n_customs; i++) {
        number[i] = n;
        if (!is_dropped[i])
            b->customs[n++] = b->customs[i];
    }
    b->n_customs = n;
    for (uint32_t i = 0; i < b->n_list; i++) {
        vtrn_instr *instr = &b->list[i];
        if (instr->opcode == VTRN_OP_COLLECTIVE || instr->opcode == VTRN_OP_CUSTOM_OP)
            instr->arg[0] = (int32_t)number[instr->arg[0]];
    }
    free(number);
    return NULL;
}

vtrn_status exchange_join(builder *b, const bool *joins) {
    bool *is_dropped = calloc((size_t)b->n_customs + 1, sizeof *is_dropped);
    if (!is_dropped)
        return VTRN_OUT_OF_MEMORY((size_t)b->n_customs);
    vtrn_status status = NULL;
    uint32_t n_out = 0;
    for (uint32_t k = 0; k < b->n_blocks && !status; k++) {
        build_block *block = &b->blocks[k];
        const uint32_t begin = n_out;
        for (uint32_t i = block->begin, n; i < block->end && !status; i += n) {
            for (n = 1; i + n < block->end && joins[i + n]; n++)
                is_dropped[b->list[i + n].arg[0]] = true;
            if (n > 1)
                status = join(b, &b->list[i], n);
            b->list[n_out++] = b->list[i];
        }
        block->begin = begin;
        block->end = n_out;
    }
    if (!status && n_out != b->n_list) {
        b->n_list = n_out;
        status = drop_customs(b, is_dropped);
    }
    free(is_dropped);
    return status;
}
