/* Why each instruction of a step started when it did, and the critical path. */
#include "profile/profile_path.h"

#include "profile/profile_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A change of a semaphore within one run of a block. */
typedef struct post {
    uint16_t semaphore;
    double t_ns;
    uint32_t interval; /* that it completes */
    uint64_t value;    /* from then on */
} post;

typedef struct walk {
    const vtrn_program *program;
    const timing_interval *intervals;
    size_t n;
    profile_link *links;
    post *posts;         /* of the run of a block that is looked at, by semaphore and time */
    uint32_t *transfers; /* intervals of the rings so far */
    size_t n_transfers;
    uint32_t *block_of; /* [n_instrs] */
    /* The shortest time from a trigger's end to its first byte, of loads and of stores. */
    double least_start_ns[VTRN_ENGINE_COUNT][2];
} walk;

static const vtrn_instr *instr_of(const walk *w, size_t i) {
    return &w->program->instrs[w->intervals[i].instr];
}

static bool is_known(const walk *w, size_t i) {
    return w->intervals[i].instr < w->program->n_instrs;
}

static int compare_posts(const void *a, const void *b) {
    const post *x = a, *y = b;
    if (x->semaphore != y->semaphore)
        return x->semaphore < y->semaphore ? -1 : 1;
    if (x->t_ns != y->t_ns)
        return x->t_ns < y->t_ns ? -1 : 1;
    return (x->interval > y->interval) - (x->interval < y->interval);
}

/* The changes of semaphores in intervals [first, end), with their values. A DMA raises its
 * semaphore when its bytes have arrived, not when it was queued. */
static size_t list_posts(const walk *w, size_t first, size_t end) {
    size_t n = 0;
    double done_ns[VTRN_ENGINE_COUNT] = {0};
    for (size_t i = first; i < end; i++) {
        const timing_interval *v = &w->intervals[i];
        if (!is_known(w, i))
            continue;
        const vtrn_instr *instr = instr_of(w, i);
        bool is_transfer = profile_is_dma_lane(v);
        double t_ns = v->end_ns;
        if (!is_transfer && v->lane < VTRN_ENGINE_COUNT) /* a queue completes in order */
            t_ns = done_ns[v->lane] = fmax(done_ns[v->lane], v->end_ns);
        if (instr->update_semaphore == VTRN_NO_SEMAPHORE ||
            is_transfer != isa_is_dma((vtrn_opcode)instr->opcode))
            continue;
        w->posts[n++] = (post){instr->update_semaphore, t_ns, (uint32_t)i, instr->update_value};
    }
    qsort(w->posts, n, sizeof *w->posts, compare_posts);
    for (size_t k = 1; k < n; k++)
        if (w->posts[k].semaphore == w->posts[k - 1].semaphore)
            w->posts[k].value += w->posts[k - 1].value;
    return n;
}

/* The change that brings the semaphore to the value; NULL if none does. */
static const post *find_post(const walk *w, size_t n_posts, const vtrn_wait *wait) {
    size_t lo = 0, hi = n_posts;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const post *p = &w->posts[mid];
        if (p->semaphore < wait->semaphore ||
            (p->semaphore == wait->semaphore && p->value < wait->value))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n_posts && w->posts[lo].semaphore == wait->semaphore ? &w->posts[lo] : NULL;
}

/* The instruction's cause is whatever ended last of what it had to wait for: the one before it on
 * its engine, and the raisers of its semaphores. */
static profile_link link_of_instr(const walk *w, size_t i, size_t n_posts, profile_link before) {
    const timing_interval *v = &w->intervals[i];
    profile_link link = before;
    double reach_ns = 0;
    if (before.interval != PROFILE_NO_INTERVAL)
        reach_ns = fmin(w->intervals[before.interval].end_ns, v->start_ns);
    const vtrn_instr *instr = instr_of(w, i);
    for (int k = 0; k < instr->n_waits && k < VTRN_MAX_WAITS; k++) {
        const post *p = find_post(w, n_posts, &instr->wait[k]);
        if (p && p->interval < i && p->t_ns <= v->start_ns && p->t_ns > reach_ns) {
            reach_ns = p->t_ns;
            link = (profile_link){p->interval, PROFILE_CAUSE_SEMAPHORE, p->semaphore};
        }
    }
    return link;
}

/* The transfer queued last before this one that still ran when this one was ready, and began before
 * it: the DMA engines take transfers in the order of their triggers. */
static uint32_t transfer_before(const walk *w, const timing_interval *v, double ready_ns) {
    enum { MAX_BACK = 64 };
    for (size_t back = 1; back <= MAX_BACK && back <= w->n_transfers; back++) {
        uint32_t i = w->transfers[w->n_transfers - back];
        if (w->intervals[i].start_ns <= v->start_ns && w->intervals[i].end_ns > ready_ns)
            return i;
    }
    return PROFILE_NO_INTERVAL;
}

static double *least_start(walk *w, const vtrn_instr *instr) {
    return &w->least_start_ns[instr->engine][instr->ap[0].space == VTRN_SPACE_HBM];
}

/* A transfer starts a fixed time after its trigger unless the DMA engines are held by another. */
static profile_link link_of_transfer(walk *w, size_t i, uint32_t trigger) {
    const timing_interval *v = &w->intervals[i];
    if (trigger == PROFILE_NO_INTERVAL)
        return (profile_link){PROFILE_NO_INTERVAL, PROFILE_CAUSE_LAUNCH, 0};
    double ready_ns = w->intervals[trigger].end_ns + *least_start(w, instr_of(w, i));
    if (v->start_ns > ready_ns + 1) {
        uint32_t earlier = transfer_before(w, v, ready_ns);
        if (earlier != PROFILE_NO_INTERVAL)
            return (profile_link){earlier, PROFILE_CAUSE_TRANSFER, 0};
    }
    return (profile_link){trigger, PROFILE_CAUSE_TRIGGER, 0};
}

/* The end of the intervals from `first` on that belong to one run of a block. An instruction runs
 * once in a run, and those of an engine in order. */
static size_t end_of_run(const walk *w, size_t first) {
    uint32_t last[VTRN_ENGINE_COUNT] = {0};
    bool has_run[VTRN_ENGINE_COUNT] = {false};
    size_t i = first;
    if (!is_known(w, first))
        return first + 1;
    for (; i < w->n; i++) {
        const timing_interval *v = &w->intervals[i];
        if (!is_known(w, i) || profile_is_dma_lane(v) || v->lane >= VTRN_ENGINE_COUNT)
            continue;
        if (w->block_of[v->instr] != w->block_of[w->intervals[first].instr])
            break;
        if (has_run[v->lane] && v->instr <= last[v->lane])
            break;
        has_run[v->lane] = true;
        last[v->lane] = v->instr;
    }
    return i;
}

/* Of [first, end), the interval that ends last. */
static uint32_t last_to_end(const walk *w, size_t first, size_t end) {
    size_t best = first;
    for (size_t i = first; i < end; i++)
        if (w->intervals[i].end_ns >= w->intervals[best].end_ns)
            best = i;
    return (uint32_t)best;
}

static void link_run(walk *w, size_t first, size_t end, profile_link start) {
    size_t n_posts = list_posts(w, first, end);
    profile_link before[VTRN_ENGINE_COUNT];
    uint32_t trigger[VTRN_ENGINE_COUNT];
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        before[e] = start;
        trigger[e] = PROFILE_NO_INTERVAL;
    }
    for (size_t i = first; i < end; i++) {
        const timing_interval *v = &w->intervals[i];
        w->links[i] = (profile_link){PROFILE_NO_INTERVAL, PROFILE_CAUSE_LAUNCH, 0};
        if (!is_known(w, i) || instr_of(w, i)->engine >= VTRN_ENGINE_COUNT)
            continue;
        int e = instr_of(w, i)->engine;
        if (profile_is_dma_lane(v)) {
            bool is_own =
                trigger[e] != PROFILE_NO_INTERVAL && w->intervals[trigger[e]].instr == v->instr;
            w->links[i] = link_of_transfer(w, i, is_own ? trigger[e] : PROFILE_NO_INTERVAL);
            w->transfers[w->n_transfers++] = (uint32_t)i;
            continue;
        }
        w->links[i] = link_of_instr(w, i, n_posts, before[e]);
        before[e] = (profile_link){(uint32_t)i, PROFILE_CAUSE_QUEUE, 0};
        trigger[e] = (uint32_t)i;
    }
}

static void find_least_starts(walk *w) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        w->least_start_ns[e][0] = w->least_start_ns[e][1] = INFINITY;
    for (size_t i = 1; i < w->n; i++) {
        const timing_interval *v = &w->intervals[i], *trigger = v - 1;
        if (profile_is_dma_lane(v) && is_known(w, i) && trigger->instr == v->instr &&
            instr_of(w, i)->engine < VTRN_ENGINE_COUNT) {
            double *least_ns = least_start(w, instr_of(w, i));
            *least_ns = fmin(*least_ns, v->start_ns - trigger->end_ns);
        }
    }
}

static void list_blocks(walk *w) {
    for (uint32_t b = 0; b < w->program->n_blocks; b++)
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
            const vtrn_block *block = &w->program->blocks[b];
            for (uint32_t k = 0; k < block->count[e]; k++)
                if (block->first[e] + k < w->program->n_instrs)
                    w->block_of[block->first[e] + k] = b;
        }
}

static void link_all(walk *w) {
    find_least_starts(w);
    list_blocks(w);
    profile_link start = {PROFILE_NO_INTERVAL, PROFILE_CAUSE_LAUNCH, 0};
    for (size_t first = 0; first < w->n;) {
        size_t end = end_of_run(w, first);
        link_run(w, first, end, start);
        start = (profile_link){last_to_end(w, first, end), PROFILE_CAUSE_MEETING, 0};
        first = end;
    }
}

/* From the interval that ends last back to the launch. Causes have lower numbers than what they
 * cause, so the walk ends. */
static void walk_back(const walk *w, profile_path *out) {
    uint32_t at = last_to_end(w, 0, w->n);
    double next_ns = w->intervals[at].end_ns;
    out->end_ns = next_ns;
    size_t n = 0;
    for (;;) {
        const timing_interval *v = &w->intervals[at];
        profile_link link = w->links[at];
        bool is_first = link.interval == PROFILE_NO_INTERVAL;
        double cause_ns = v->start_ns;
        if (!is_first)
            cause_ns = fmin(w->intervals[link.interval].end_ns, v->start_ns);
        double end_ns = fmin(v->end_ns, next_ns);
        out->steps[n++] = (profile_step){.interval = at,
                                         .link = link,
                                         .gap_ns = v->start_ns - cause_ns,
                                         .work_ns = fmax(0, end_ns - v->start_ns)};
        if (is_first)
            break;
        next_ns = v->start_ns;
        at = link.interval;
    }
    out->start_ns = w->intervals[at].start_ns;
    out->n_steps = n;
    for (size_t i = 0; i < n / 2; i++) {
        profile_step swap = out->steps[i];
        out->steps[i] = out->steps[n - 1 - i];
        out->steps[n - 1 - i] = swap;
    }
}

vtrn_status profile_path_create(const vtrn_program *program, const timing_result *timing,
                                profile_path *out) {
    size_t n = timing->n_intervals;
    *out = (profile_path){.links = calloc(n + 1, sizeof *out->links),
                          .steps = calloc(n + 1, sizeof *out->steps)};
    walk w = {.program = program,
              .intervals = timing->intervals,
              .n = n,
              .links = out->links,
              .posts = calloc(n + 1, sizeof *w.posts),
              .transfers = calloc(n + 1, sizeof *w.transfers),
              .block_of = calloc((size_t)program->n_instrs + 1, sizeof *w.block_of)};
    bool has_room = out->links && out->steps && w.posts && w.transfers && w.block_of;
    if (has_room && n > 0) {
        link_all(&w);
        walk_back(&w, out);
    }
    free(w.posts);
    free(w.transfers);
    free(w.block_of);
    if (has_room)
        return NULL;
    profile_path_free(out);
    return VTRN_OUT_OF_MEMORY((n + 1) * sizeof *out->steps);
}

void profile_path_free(profile_path *path) {
    free(path->links);
    free(path->steps);
    *path = (profile_path){0};
}
