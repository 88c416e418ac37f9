/* The stages in order, and the tables of the finished program. */
#include "compiler/build/finish.h"

#include "compiler/build/dead_stores.h"
#include "compiler/build/donate.h"
#include "compiler/build/joint_exchange.h"
#include "compiler/build/reorder.h"
#include "compiler/build/scratch.h"
#include "compiler/build/semaphores.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

/* Which instructions name each scratch slot. */
static void find_lifetimes(builder *b) {
    for (uint32_t i = 0; i < b->n_slots; i++) {
        b->slots[i].first = UINT32_MAX;
        b->slots[i].last = 0;
    }
    for (uint32_t i = 0; i < b->n_list; i++) {
        isa_access a;
        for (access_walk w = access_begin(&b->list[i], b->customs, b->n_customs);
             access_next(&w, &a);) {
            if (a.space != VTRN_SPACE_HBM)
                continue;
            build_slot *s = &b->slots[a.slot];
            if (s->first == UINT32_MAX)
                s->first = i;
            s->last = i;
        }
    }
}

static vtrn_status copy_strings(const builder *b, vtrn_program *p) {
    p->sources = ARENA_NEW(&p->arena, vtrn_source, b->n_sources);
    if (!p->sources)
        return VTRN_OUT_OF_MEMORY(b->n_sources * sizeof *p->sources);
    const char *last_op = NULL, *last_op_copy = NULL;
    for (uint32_t i = 0; i < b->n_sources; i++) {
        const vtrn_source *s = &b->sources[i];
        if (s->op != last_op) {
            last_op = s->op;
            last_op_copy = arena_strdup(&p->arena, s->op, strlen(s->op));
        }
        p->sources[i].op = last_op_copy;
        p->sources[i].place = arena_strdup(&p->arena, s->place, strlen(s->place));
        if (!p->sources[i].op || !p->sources[i].place)
            return VTRN_OUT_OF_MEMORY(strlen(s->place));
    }
    p->n_sources = b->n_sources;
    return NULL;
}

static vtrn_status block_end(vtrn_program *p, const build_block *from, vtrn_block *to) {
    to->end = (uint8_t)from->kind;
    to->next[0] = from->next[0];
    to->next[1] = from->next[1];
    to->cond_slot = from->cond_slot;
    to->flops = from->flops;
    to->n_targets = from->n_targets;
    if (!from->n_targets)
        return NULL;
    uint32_t *targets = ARENA_NEW(&p->arena, uint32_t, from->n_targets);
    if (!targets)
        return VTRN_OUT_OF_MEMORY(from->n_targets * sizeof *targets);
    memcpy(targets, from->targets, from->n_targets * sizeof *targets);
    to->targets = targets;
    return NULL;
}

/* NULL in a program without instructions: C does not define an offset from NULL. */
static vtrn_instr *instrs_of(const builder *b, uint32_t block_i) {
    return b->list ? b->list + b->blocks[block_i].begin : NULL;
}

/* The streams of every block, one behind the other. */
static vtrn_status emit_blocks(const builder *b, arena *tmp) {
    vtrn_program *p = b->program;
    schedule_input *in = ARENA_NEW(tmp, schedule_input, b->n_blocks);
    schedule **schedules = ARENA_NEW(tmp, schedule *, b->n_blocks);
    uint32_t *n_out = ARENA_NEW(tmp, uint32_t, b->n_blocks), n = 0;
    p->blocks = ARENA_NEW(&p->arena, vtrn_block, b->n_blocks);
    if (!in || !schedules || !n_out || !p->blocks)
        return VTRN_OUT_OF_MEMORY(b->n_blocks * sizeof *p->blocks);
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        in[i] = (schedule_input){.chip = b->chip,
                                 .slots = p->slots,
                                 .n_slots = p->n_slots,
                                 .customs = b->customs,
                                 .n_customs = b->n_customs,
                                 .output_alias = p->output_alias,
                                 .has_addresses = true,
                                 .list = instrs_of(b, i),
                                 .n = b->blocks[i].end - b->blocks[i].begin};
        VTRN_RETURN_IF_ERROR(schedule_analyse(&in[i], tmp, &schedules[i], &n_out[i]));
        n += n_out[i];
    }
    p->instrs = ARENA_NEW(&p->arena, vtrn_instr, n);
    if (!p->instrs)
        return VTRN_OUT_OF_MEMORY(n * sizeof(vtrn_instr));
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        vtrn_block *to = &p->blocks[i];
        schedule_emit(schedules[i], p->instrs + p->n_instrs, to->first, to->count);
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            to->first[e] += p->n_instrs;
        p->n_instrs += n_out[i];
        VTRN_RETURN_IF_ERROR(block_end(p, &b->blocks[i], to));
    }
    p->n_blocks = b->n_blocks;
    return NULL;
}

/* Whether every block but the last goes on to the next. */
static bool is_straight(const builder *b) {
    for (uint32_t i = 0; i + 1 < b->n_blocks; i++)
        if (b->blocks[i].end != VTRN_END_JUMP || b->blocks[i].next[0] != i + 1)
            return false;
    return true;
}

/* In an order that keeps the engines busy. */
static vtrn_status reorder_blocks(builder *b) {
    vtrn_slot *slots = malloc((b->n_slots + 1) * sizeof *slots);
    bool *joins = calloc((size_t)b->n_list + 1, sizeof *joins);
    if (!slots || !joins) {
        free(slots);
        free(joins);
        return VTRN_OUT_OF_MEMORY(b->n_slots * sizeof *slots);
    }
    for (uint32_t i = 0; i < b->n_slots; i++)
        slots[i] = b->slots[i].slot;
    vtrn_status status = NULL;
    for (uint32_t i = 0; i < b->n_blocks && !status; i++) {
        vtrn_instr *list = instrs_of(b, i);
        granules_input in = {.chip = b->chip,
                             .slots = slots,
                             .n_slots = b->n_slots,
                             .customs = b->customs,
                             .n_customs = b->n_customs,
                             .output_alias = b->program->output_alias,
                             .list = list,
                             .n = b->blocks[i].end - b->blocks[i].begin,
                             .is_plain = b->is_plain};
        status = reorder_block(&in, b->topology, list, joins + b->blocks[i].begin);
    }
    if (!status)
        status = exchange_join(b, joins);
    free(joins);
    free(slots);
    return status;
}

/* Slots, custom ops, constants. */
static vtrn_status copy_tables(const builder *b) {
    vtrn_program *p = b->program;
    p->slots = ARENA_NEW(&p->arena, vtrn_slot, b->n_slots);
    p->customs = ARENA_NEW(&p->arena, vtrn_custom, b->n_customs);
    uint8_t *data = ARENA_NEW(&p->arena, uint8_t, b->n_data);
    if (!p->slots || !p->customs || !data)
        return VTRN_OUT_OF_MEMORY(b->n_data);
    for (uint32_t i = 0; i < b->n_slots; i++)
        p->slots[i] = b->slots[i].slot;
    p->n_slots = b->n_slots;
    if (b->n_customs)
        memcpy(p->customs, b->customs, b->n_customs * sizeof *p->customs);
    p->n_customs = b->n_customs;
    if (b->n_data)
        memcpy(data, b->data, b->n_data);
    p->data = data;
    p->data_size = b->n_data;
    return NULL;
}

vtrn_status build_finish(builder *b) {
    vtrn_program *p = b->program;
    VTRN_RETURN_IF_ERROR(dead_stores_drop(b));
    VTRN_RETURN_IF_ERROR(donate_settle(b, p->output_alias));
    if (!b->keeps_order)
        VTRN_RETURN_IF_ERROR(reorder_blocks(b));
    find_lifetimes(b);
    VTRN_RETURN_IF_ERROR(scratch_assign(b->slots, b->n_slots, !is_straight(b), &p->scratch_size));
    VTRN_RETURN_IF_ERROR(copy_tables(b));
    VTRN_RETURN_IF_ERROR(copy_strings(b, p));
    arena tmp = ARENA_EMPTY;
    vtrn_status status = emit_blocks(b, &tmp);
    arena_free(&tmp);
    return status;
}
