/* Ranks that are executed stand for the others in turn, so that each counts for as many as the
 * next: in a collective those that are its members, and else all of them. */
#include "runtime/stand_ins.h"

#include "runtime/outline.h"
#include "runtime/ranks.h"

#include <stdlib.h>

static bool reads_rank(const vtrn_program *p) {
    for (uint32_t i = 0; i < p->n_slots; i++)
        if (p->slots[i].kind == VTRN_SLOT_RANK)
            return true;
    return false;
}

static bool is_chosen(const runtime_device *d, uint32_t rank) {
    for (uint32_t i = 0; i < d->n_value_ranks; i++)
        if (d->value_ranks[i] == rank)
            return true;
    return rank == 0; /* where nothing is computed, it shows the way */
}

vtrn_status stand_ins_choose(runtime_program *l) {
    const vtrn_program *p = l->program;
    const runtime_device *d = l->device;
    const uint32_t n = (uint32_t)program_n_ranks(p);
    const bool goes_one_way = !d->has_values && !(runtime_has_branches(p) && reads_rank(p));
    l->n_executed = n;
    if (n == 1 || d->transport || (d->has_values ? !d->n_value_ranks : !goes_one_way))
        return NULL;
    l->stand_in = calloc(n, sizeof *l->stand_in);
    if (!l->stand_in)
        return VTRN_OUT_OF_MEMORY(n * sizeof *l->stand_in);
    l->n_executed = 0;
    for (uint32_t r = 0; r < n; r++)
        if (is_chosen(d, r)) {
            l->stand_in[r] = r;
            l->n_executed++;
        }
    uint32_t next = 0;
    for (uint32_t r = 0; r < n; r++) {
        if (l->stand_in[r] == r)
            continue;
        while (!is_chosen(d, next))
            next = (next + 1) % n;
        l->stand_in[r] = next;
        next = (next + 1) % n;
    }
    return NULL;
}

/* Of a group's members, those that are executed for those that are not. */
static void share_out(const runtime_program *l, const int32_t *members, uint32_t n,
                      int32_t *sources, uint32_t *times) {
    uint32_t next = 0;
    for (uint32_t i = 0; i < n; i++) {
        sources[i] = members[i];
        times[i] = members[i] >= 0 && ranks_is_executed(l, (uint32_t)members[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (members[i] < 0 || ranks_is_executed(l, (uint32_t)members[i]))
            continue;
        uint32_t tries = 0;
        while (tries++ < n && !times[next % n])
            next++;
        if (!times[next % n])
            return; /* no member is executed, and the group does not meet */
        sources[i] = members[next % n];
        times[next++ % n]++;
    }
}

static void share_out_pair(const runtime_program *l, const int32_t *pair, int32_t *sources,
                           uint32_t *times) {
    for (int i = 0; i < 2; i++) {
        sources[i] = i ? pair[i] : (int32_t)l->stand_in[pair[i]];
        times[i] = 1;
    }
}

/* The first collective in which it meets one that is executed decides for a rank. */
static void follow(runtime_program *l, const vtrn_collective *c, const runtime_groups *g,
                   bool *is_decided) {
    for (size_t i = 0; i < (size_t)c->n_groups * c->group_size; i++) {
        const int32_t rank = c->groups[i], source = g->sources[i];
        if (rank < 0 || source == rank || is_decided[rank])
            continue;
        l->stand_in[rank] = (uint32_t)source;
        is_decided[rank] = true;
    }
}

vtrn_status stand_ins_find_sources(runtime_program *l) {
    const vtrn_program *p = l->program;
    if (!l->stand_in || !l->groups)
        return NULL;
    bool *is_decided = calloc((size_t)program_n_ranks(p), sizeof *is_decided);
    if (!is_decided)
        return VTRN_OUT_OF_MEMORY((size_t)program_n_ranks(p));
    vtrn_status status = NULL;
    for (uint32_t i = 0; i < p->n_customs && !status; i++) {
        const vtrn_collective *c = p->customs[i].collective;
        runtime_groups *g = &l->groups[i];
        if (!c)
            continue;
        const size_t n = (size_t)c->n_groups * c->group_size;
        const bool is_permute = c->kind == VTRN_COLLECTIVE_PERMUTE;
        g->sources = calloc(n + 1, sizeof *g->sources);
        g->times = calloc(n + 1, sizeof *g->times);
        if (!g->sources || !g->times) {
            status = VTRN_OUT_OF_MEMORY(n * sizeof *g->sources);
            continue;
        }
        for (size_t at = 0; at < n; at += c->group_size)
            if (is_permute)
                share_out_pair(l, &c->groups[at], &g->sources[at], &g->times[at]);
            else
                share_out(l, &c->groups[at], c->group_size, &g->sources[at], &g->times[at]);
        if (!is_permute)
            follow(l, c, g, is_decided);
    }
    free(is_decided);
    return status;
}
