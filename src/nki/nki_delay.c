/* Moves instructions that only fill a tile, as loads and memsets do, down to where the tile is next
 * named: until then its place is free for others. What they do is the same there, and each engine
 * begins as early as its operands allow, whatever its place in the list. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>

typedef struct delaying {
    nki_session *s;
    vtrn_space space;
    int core;
    uint32_t *anchor; /* [n_list] before which instruction it is moved; itself: it stays */
    bool *may_move;   /* [n_list] */
    /* By record: behind the instruction at hand, the first that names it, and that writes it; and
     * whether one that stays has named it. */
    uint32_t *named, *written;
    bool *is_begun;
} delaying;

/* The tile of the core that the instruction fills from nothing but HBM, or NULL. */
static nki_record *filled_tile(const delaying *d, const nki_issued *issued) {
    access_states states = access_states_of(&issued->instr);
    if (states.read || states.written || issued->is_exchange || issued->core != d->core)
        return NULL;
    nki_record *tile = NULL;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        nki_record *r = issued->operand[i];
        if (!r)
            continue;
        bool is_written = access_is_written(&issued->instr, i);
        if (!is_written && r->storage.space == VTRN_SPACE_HBM)
            continue;
        if (!is_written || tile || access_is_read(&issued->instr, i) ||
            r->storage.space != d->space || r->core != d->core || r->is_placed)
            return NULL;
        tile = r;
    }
    return tile && !access_keeps(&issued->instr) ? tile : NULL;
}

/* Those that may move are the first that name their tile, one after another. */
static void choose(delaying *d) {
    for (uint32_t k = 0; k < d->s->n_list; k++) {
        const nki_issued *issued = &d->s->list[k];
        const nki_record *tile = filled_tile(d, issued);
        d->may_move[k] = tile && !d->is_begun[tile->storage.id];
        for (int i = 0; i < VTRN_MAX_AP && !d->may_move[k]; i++)
            if (issued->operand[i])
                d->is_begun[issued->operand[i]->storage.id] = true;
    }
}

/* The first instruction that the one at k has to precede: it names k's tile or writes what k reads,
 * or a core waits right before it. */
static uint32_t limit_of(const delaying *d, uint32_t k, uint32_t next_meet) {
    const nki_issued *issued = &d->s->list[k];
    uint32_t limit = next_meet;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const nki_record *r = issued->operand[i];
        if (!r)
            continue;
        uint32_t next = r->storage.space == VTRN_SPACE_HBM ? d->written[r->storage.id]
                                                           : d->named[r->storage.id];
        limit = next < limit ? next : limit;
    }
    return limit < d->s->n_list ? limit : k;
}

static void find_anchors(delaying *d) {
    nki_session *s = d->s;
    uint32_t meet = s->n_meets;
    for (uint32_t k = s->n_list; k-- > 0;) {
        while (meet > 0 && s->meets[meet - 1].at > k)
            meet--;
        uint32_t next_meet = meet < s->n_meets ? s->meets[meet].at : UINT32_MAX;
        d->anchor[k] = d->may_move[k] ? limit_of(d, k, next_meet) : k;
        const nki_issued *issued = &s->list[k];
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const nki_record *r = issued->operand[i];
            if (!r)
                continue;
            d->named[r->storage.id] = d->anchor[k];
            if (access_is_written(&issued->instr, i))
                d->written[r->storage.id] = d->anchor[k];
        }
    }
}

/* The list in the new order: before each instruction those that are moved there, as they were. */
static vtrn_status reorder(const delaying *d) {
    nki_session *s = d->s;
    uint32_t n = s->n_list, at = 0;
    nki_issued *list = malloc(((size_t)n + 1) * sizeof *list);
    uint32_t *first = malloc(((size_t)n + 1) * sizeof *first);
    uint32_t *next = malloc(((size_t)n + 1) * sizeof *next);
    if (!list || !first || !next) {
        free(list), free(first), free(next);
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *list);
    }
    for (uint32_t k = 0; k < n; k++)
        first[k] = UINT32_MAX;
    for (uint32_t k = n; k-- > 0;)
        if (d->anchor[k] != k)
            next[k] = first[d->anchor[k]], first[d->anchor[k]] = k;
    for (uint32_t k = 0; k < n; k++) {
        for (uint32_t moved = first[k]; moved != UINT32_MAX; moved = next[moved])
            list[at++] = s->list[moved];
        if (d->anchor[k] == k)
            list[at++] = s->list[k];
    }
    for (uint32_t k = 0; k < at; k++)
        s->list[k] = list[k];
    free(list), free(first), free(next);
    VTRN_CHECK(at == n, "each instruction has one place in the list");
    return NULL;
}

/* When each tile is named first and last. */
void nki_note_uses(nki_session *s) {
    for (uint32_t i = 0; i < s->n_records; i++)
        s->records[i]->first = UINT32_MAX;
    for (uint32_t k = 0; k < s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            nki_record *r = s->list[k].operand[i];
            if (!r)
                continue;
            if (r->first == UINT32_MAX)
                r->first = k;
            r->last = k;
        }
}

vtrn_status nki_delay(nki_session *s, vtrn_space space, int core) {
    size_t n = (size_t)s->n_list + 1, n_records = (size_t)s->n_records + 1;
    delaying d = {.s = s, .space = space, .core = core};
    d.anchor = malloc(n * sizeof *d.anchor);
    d.may_move = calloc(n, sizeof *d.may_move);
    d.named = malloc(n_records * sizeof *d.named);
    d.written = malloc(n_records * sizeof *d.written);
    d.is_begun = calloc(n_records, sizeof *d.is_begun);
    vtrn_status status = NULL;
    if (d.anchor && d.may_move && d.named && d.written && d.is_begun) {
        for (size_t i = 0; i < n_records; i++)
            d.named[i] = d.written[i] = UINT32_MAX;
        choose(&d);
        find_anchors(&d);
        status = reorder(&d);
        if (!status)
            nki_note_uses(s);
    } else {
        status = VTRN_OUT_OF_MEMORY(n * sizeof *d.anchor + n_records * sizeof *d.named);
    }
    free(d.anchor), free(d.may_move), free(d.named), free(d.written), free(d.is_begun);
    return status;
}
