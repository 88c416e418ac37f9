/* The replay: five queues in order, the core in order of time.
 *
 * Blocks follow one another, each from a time when all queues and rings have come to rest, so a
 * block is replayed in ns since its own start, and what it took is added up. That gives the same
 * bits for a block that is replayed and for one whose result is kept (timing/kept_blocks.h).
 *
 * At each step the queue whose head can start first runs it. Whatever happens later happens at a
 * later time, so what that head saw (semaphores, ports, the PE array, the rings) is final. */
#include "timing/kept_blocks.h"
#include "timing/model.h"
#include "timing/pe.h"
#include "timing/rings.h"
#include "timing/semaphore_state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Times are ns since the block began. */
typedef struct queue_state {
    uint32_t next, end; /* of the block's stream: indices into program->instrs */
    double issue_ns;    /* the queue may look at its next instruction */
    double done_ns;     /* its instructions so far have all completed */
    /* of the head: its queue and its own operands are ready; its semaphores are raised */
    double ready_ns, reached_ns[VTRN_MAX_WAITS];
    double start_ns; /* of the head, by what is known; INFINITY while it is blocked */
    double ends_ns[TIMING_MAX_BACK]; /* of its last instructions, by index modulo TIMING_MAX_BACK */
    double active_until_ns;
    double sbuf_free_ns, psum_free_ns; /* its use of shared ports ends */
} queue_state;

typedef struct replay_state {
    const timing_model *model;
    timing_result *out;
    timing_summary block; /* of the block so far */
    double block_ns;      /* since the launch: it began */
    queue_state queues[VTRN_ENGINE_COUNT];
    pe_state pe;
    rings_state rings;
    semaphores semaphores;
    double dma_done_ns;
    bool want_intervals;
    timing_meeting meeting; /* of the collective that runs next */
} replay_state;

struct timing_walk {
    replay_state state;
    timing_result result;
    const uint32_t *trace;
    uint32_t n_trace, at; /* blocks, and that which runs */
    double dma_busy_ns;   /* of the blocks before it, summed over DMA engines */
    kept_blocks *kept;    /* NULL: every block is replayed */
    kept_blocks own;
    bool is_inside, is_met;
};

/* The other engine's use of a port that this chip lets one engine have at a time. */
static double port_free(const replay_state *r, int engine, uint8_t ports) {
    double free_ns = 0;
    if (ports & COST_PORT_SBUF) {
        int other = engine == VTRN_ENGINE_VECTOR ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR;
        free_ns = r->queues[other].sbuf_free_ns;
    }
    if (ports & COST_PORT_PSUM) {
        int other = engine == VTRN_ENGINE_VECTOR ? VTRN_ENGINE_SCALAR : VTRN_ENGINE_VECTOR;
        free_ns = later_ns(free_ns, r->queues[other].psum_free_ns);
    }
    return free_ns;
}

/* An engine waits for its own results as for those of others: by a semaphore. */
static double dependences(const vtrn_chip *chip, const queue_state *q, const timing_instr *timed) {
    double seen_ns = chip->cost.semaphore_post_ns + chip->cost.semaphore_wake_ns, ns = 0;
    for (int back = 1; timed->back_mask >> (back - 1); back++)
        if (timed->back_mask & (1u << (back - 1)))
            ns = later_ns(ns, q->ends_ns[(q->next - (uint32_t)back) % TIMING_MAX_BACK] + seen_ns);
    return ns;
}

/* Earliest start of the head of a queue that has one. */
static double head_start(const replay_state *r, int engine) {
    const queue_state *q = &r->queues[engine];
    const timing_instr *timed = &r->model->instrs[q->next];
    double start_ns = q->ready_ns;
    for (int w = 0; w < timed->n_waits; w++)
        if (q->reached_ns[w] > q->issue_ns) /* the queue slept: it takes time to wake */
            start_ns =
                later_ns(start_ns, q->reached_ns[w] + r->model->chip->cost.semaphore_wake_ns);
    if (timed->cost.ports)
        start_ns = later_ns(start_ns, port_free(r, engine, timed->cost.ports));
    if (timed->cost.kind == COST_KIND_MATMUL || timed->cost.kind == COST_KIND_LDWEIGHTS)
        start_ns = pe_start(&r->pe, &timed->cost, start_ns);
    return start_ns;
}

static void find_reached(replay_state *r, queue_state *q, int w) {
    const timing_instr *timed = &r->model->instrs[q->next];
    q->reached_ns[w] =
        semaphores_reach(&r->semaphores, timed->wait_semaphore[w], timed->wait_value[w]);
}

/* The queue looks at its next instruction. */
static void take_head(replay_state *r, int engine) {
    queue_state *q = &r->queues[engine];
    q->start_ns = INFINITY;
    if (q->next == q->end)
        return;
    const timing_instr *timed = &r->model->instrs[q->next];
    q->ready_ns = later_ns(q->issue_ns, dependences(r->model->chip, q, timed));
    for (int w = 0; w < timed->n_waits; w++)
        find_reached(r, q, w);
    q->start_ns = head_start(r, engine);
}

static void keep_interval(replay_state *r, uint32_t instr_i, int lane, double start_ns,
                          double end_ns, double wait_ns) {
    if (r->want_intervals)
        r->out->intervals[r->out->n_intervals++] = (timing_interval){
            .start_ns = r->block_ns + start_ns,
            .end_ns = r->block_ns + end_ns,
            .instr = instr_i,
            .lane = (uint16_t)lane,
            .wait_ns = (float)wait_ns,
        };
}

/* A semaphore changed at t_ns: heads that wait for it may start now. Where it is high enough before
 * that, nothing changes. */
static void wake_waiters(replay_state *r, int semaphore, double t_ns) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        queue_state *q = &r->queues[e];
        if (q->next == q->end)
            continue;
        const timing_instr *timed = &r->model->instrs[q->next];
        for (int w = 0; w < timed->n_waits; w++)
            if (timed->wait_semaphore[w] == semaphore && t_ns < q->reached_ns[w]) {
                find_reached(r, q, w);
                q->start_ns = head_start(r, e);
            }
    }
}

static void post(replay_state *r, const timing_instr *timed, double t_ns) {
    if (timed->update_semaphore == VTRN_NO_SEMAPHORE)
        return;
    semaphores_post(&r->semaphores, timed->update_semaphore, t_ns, timed->update_value);
    wake_waiters(r, timed->update_semaphore, t_ns);
}

/* The trigger on the queue, then the transfer. Returns when the semaphore changes. */
static double run_dma(replay_state *r, uint32_t instr_i, int engine, double trigger_end_ns) {
    const vtrn_chip *chip = r->model->chip;
    const transfer_cost *transfer = &r->model->transfers[r->model->instrs[instr_i].dma];
    int ring = r->model->instrs[instr_i].queue;
    rings_times times = rings_run(&r->rings, chip, transfer, engine, ring, trigger_end_ns);
    timing_summary *summary = &r->block;
    summary->n_dmas++;
    summary->hbm_read_bytes += transfer->hbm_read_bytes;
    summary->hbm_write_bytes += transfer->hbm_write_bytes;
    if (r->model->program->instrs[instr_i].flags & VTRN_FLAG_SPILL) {
        summary->spill_save_bytes += transfer->hbm_write_bytes;
        summary->spill_reload_bytes += transfer->hbm_read_bytes;
    }
    r->dma_done_ns = later_ns(r->dma_done_ns, times.semaphore_ns);
    keep_interval(r, instr_i, TIMING_LANE_DMA + ring, times.first_byte_ns, times.last_byte_ns, 0);
    return times.semaphore_ns;
}

static void count(replay_state *r, int engine, const timing_instr *timed, double start_ns,
                  double end_ns) {
    timing_summary *summary = &r->block;
    queue_state *q = &r->queues[engine];
    summary->n_instrs[engine]++;
    if (timed->cost.is_setup || timed->cost.kind == COST_KIND_DMA)
        return; /* the profiler's active time leaves control and triggers out */
    if (end_ns > q->active_until_ns) {
        summary->active_ns[engine] += end_ns - later_ns(start_ns, q->active_until_ns);
        q->active_until_ns = end_ns;
    }
}

static void count_custom(replay_state *r, const vtrn_instr *instr) {
    custom_cost cost = cost_custom(r->model->chip, r->model->program, instr);
    r->block.hbm_read_bytes += cost.read_bytes;
    r->block.hbm_write_bytes += cost.write_bytes;
    r->block.custom_ns += cost.ns;
}

static void run_head(replay_state *r, int engine) {
    queue_state *q = &r->queues[engine];
    uint32_t instr_i = q->next;
    const timing_instr *timed = &r->model->instrs[instr_i];
    double start_ns = q->start_ns, issue_ns = q->issue_ns;
    double end_ns = start_ns + timed->cost.latency_ns;
    q->issue_ns = start_ns + timed->cost.ii_ns;
    if (timed->cost.kind == COST_KIND_MATMUL || timed->cost.kind == COST_KIND_LDWEIGHTS) {
        end_ns = pe_run(&r->pe, r->model->chip, &timed->cost, start_ns);
        q->issue_ns = start_ns; /* the next may enter beside it: pe_start holds it back */
    }
    if (timed->cost.ports & COST_PORT_SBUF)
        q->sbuf_free_ns = q->issue_ns;
    if (timed->cost.ports & COST_PORT_PSUM)
        q->psum_free_ns = q->issue_ns;
    if (timed->cost.kind == COST_KIND_COLLECTIVE) {
        start_ns += r->meeting.wait_ns;
        end_ns = start_ns + timed->cost.latency_ns + r->meeting.run_ns;
        q->issue_ns = end_ns; /* a stream runs one at a time */
        r->block.n_collectives++;
        r->block.collective_ns += r->meeting.run_ns;
        r->block.skew_ns += r->meeting.wait_ns;
    }
    count(r, engine, timed, start_ns, end_ns);
    keep_interval(r, instr_i, engine, start_ns, end_ns, start_ns - issue_ns);
    q->ends_ns[instr_i % TIMING_MAX_BACK] = end_ns;
    q->done_ns = later_ns(q->done_ns, end_ns); /* a queue completes in order */
    q->next++;
    double signal_ns = q->done_ns + r->model->chip->cost.semaphore_post_ns;
    if (timed->cost.kind == COST_KIND_DMA)
        signal_ns = run_dma(r, instr_i, engine, end_ns);
    else if (timed->cost.kind == COST_KIND_CUSTOM)
        count_custom(r, &r->model->program->instrs[instr_i]);
    take_head(r, engine);
    post(r, timed, signal_ns);
}

/* The queue whose head starts first, or -1 when all heads are blocked or at the block's end. */
static int pick(const replay_state *r) {
    int best = -1;
    double best_ns = INFINITY;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        if (r->queues[e].start_ns < best_ns) {
            best_ns = r->queues[e].start_ns;
            best = e;
        }
    return best;
}

static vtrn_status deadlock(const replay_state *r, uint32_t block_i) {
    char text[600];
    int len = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        const queue_state *q = &r->queues[e];
        if (q->next == q->end || len >= (int)sizeof text)
            continue;
        const vtrn_instr *instr = &r->model->program->instrs[q->next];
        len += snprintf(text + len, sizeof text - (size_t)len, "%s%s at instruction %u",
                        len ? "; " : "", isa_engine_name(e), q->next);
        for (int w = 0; w < instr->n_waits && len < (int)sizeof text; w++)
            len += snprintf(text + len, sizeof text - (size_t)len, ", waits for semaphore %u >= %u",
                            instr->wait[w].semaphore, instr->wait[w].value);
    }
    return VTRN_ERROR(VTRN_DEADLOCK,
                      "block %u: every queue waits for a semaphore that nobody raises: %s", block_i,
                      text);
}

static void begin_block(replay_state *r, uint32_t block_i) {
    const vtrn_block *block = &r->model->program->blocks[block_i];
    semaphores_reset(&r->semaphores, &r->model->blocks[block_i]);
    r->block = (timing_summary){.flops = block->flops};
    r->dma_done_ns = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        queue_state *q = &r->queues[e];
        q->next = block->first[e];
        q->end = block->first[e] + block->count[e];
        q->issue_ns = q->done_ns = q->active_until_ns = q->sbuf_free_ns = q->psum_free_ns = 0;
    }
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        take_head(r, e);
}

/* Runs until no head can start, or in front of a collective unless *is_met, which it clears. True:
 * a collective is next. */
static bool run_heads(replay_state *r, bool *is_met) {
    for (int e; (e = pick(r)) >= 0;) {
        const timing_instr *timed = &r->model->instrs[r->queues[e].next];
        /* Another engine may have taken the port since the head was looked at. */
        double start_ns = timed->cost.ports ? head_start(r, e) : r->queues[e].start_ns;
        if (start_ns > r->queues[e].start_ns) {
            r->queues[e].start_ns = start_ns;
            continue;
        }
        if (timed->cost.kind == COST_KIND_COLLECTIVE && !*is_met)
            return true;
        if (timed->cost.kind == COST_KIND_COLLECTIVE)
            *is_met = false;
        run_head(r, e);
    }
    return false;
}

/* What the block took, to when the next one may start. */
static vtrn_status end_block(replay_state *r, uint32_t block_i, kept_block *out) {
    double meet_ns = r->dma_done_ns;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        const queue_state *q = &r->queues[e];
        if (q->next != q->end)
            return deadlock(r, block_i);
        meet_ns = later_ns(meet_ns, later_ns(q->done_ns, q->issue_ns));
    }
    *out = (kept_block){.summary = r->block, .dma_busy_ns = r->rings.busy_ns};
    out->summary.dma_active_ns = r->rings.active_ns;
    out->summary.total_ns =
        meet_ns + cost_block_end_ns(r->model->chip, r->model->program->blocks[block_i].end);
    pe_shift(&r->pe, out->summary.total_ns);
    rings_shift(&r->rings, out->summary.total_ns);
    return NULL;
}

static void add_block(timing_walk *w, const kept_block *x) {
    timing_summary *sum = &w->result.summary;
    const timing_summary *s = &x->summary;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        sum->active_ns[e] += s->active_ns[e];
        sum->n_instrs[e] += s->n_instrs[e];
    }
    sum->n_dmas += s->n_dmas;
    sum->hbm_read_bytes += s->hbm_read_bytes;
    sum->hbm_write_bytes += s->hbm_write_bytes;
    sum->spill_save_bytes += s->spill_save_bytes;
    sum->spill_reload_bytes += s->spill_reload_bytes;
    sum->custom_ns += s->custom_ns;
    sum->n_collectives += s->n_collectives;
    sum->collective_ns += s->collective_ns;
    sum->skew_ns += s->skew_ns;
    sum->flops += s->flops;
    sum->dma_active_ns += s->dma_active_ns;
    w->dma_busy_ns += x->dma_busy_ns;
    w->state.block_ns += s->total_ns;
}

static void end_trace(timing_walk *w) {
    const vtrn_chip *chip = w->state.model->chip;
    timing_summary *summary = &w->result.summary;
    summary->total_ns = w->state.block_ns + chip->launch.postamble_ns;
    summary->dma_busy_share = w->dma_busy_ns / (summary->total_ns * chip->n_dma_engines);
}

/* Whether nothing of the blocks before changes what the next one takes, if it uses all that there
 * is. */
static bool is_at_rest(const replay_state *r) {
    return pe_is_at_rest(&r->pe) && rings_are_at_rest(&r->rings);
}

/* Runs the rest of the block at which the walk is, or to its next collective, which leaves
 * is_inside set. */
static vtrn_status run_block(timing_walk *w, bool may_keep) {
    replay_state *r = &w->state;
    const uint32_t block_i = w->trace[w->at];
    kept_block done = {.is_there = false};
    if (!w->is_inside)
        begin_block(r, block_i);
    w->is_inside = run_heads(r, &w->is_met);
    if (w->is_inside)
        return NULL;
    VTRN_RETURN_IF_ERROR(end_block(r, block_i, &done));
    add_block(w, &done);
    if (may_keep && is_at_rest(r))
        VTRN_RETURN_IF_ERROR(kept_blocks_add(w->kept, r->model->program->n_blocks, block_i, &done));
    return NULL;
}

vtrn_status timing_walk_next(timing_walk *w, timing_stop *out) {
    replay_state *r = &w->state;
    const vtrn_program *program = r->model->program;
    for (; w->at < w->n_trace; w->at++) {
        const bool may_keep =
            w->kept && !w->is_inside && r->model->blocks[w->trace[w->at]].is_alike && is_at_rest(r);
        const kept_block *kept = may_keep ? kept_blocks_find(w->kept, w->trace[w->at]) : NULL;
        if (kept) {
            add_block(w, kept);
            pe_shift(&r->pe, kept->summary.total_ns);
            continue;
        }
        VTRN_RETURN_IF_ERROR(run_block(w, may_keep));
        if (w->is_inside) {
            int e = pick(r);
            *out = (timing_stop){.custom_i = program->instrs[r->queues[e].next].arg[0],
                                 .arrival_ns = r->block_ns + r->queues[e].start_ns};
            return NULL;
        }
    }
    end_trace(w);
    *out = (timing_stop){.is_over = true};
    return NULL;
}

void timing_walk_meet(timing_walk *w, timing_meeting meeting) {
    w->state.meeting = meeting;
    w->is_met = true;
}

static vtrn_status check_trace(const timing_model *model, const uint32_t *block_trace,
                               uint32_t n_block_trace, size_t *n_intervals) {
    const vtrn_program *program = model->program;
    *n_intervals = 0;
    for (uint32_t i = 0; i < n_block_trace; i++) {
        if (block_trace[i] >= program->n_blocks)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "block_trace[%u] = %u, must be below %u", i,
                              block_trace[i], program->n_blocks);
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            *n_intervals += program->blocks[block_trace[i]].count[e];
        *n_intervals += model->blocks[block_trace[i]].n_dmas;
    }
    return NULL;
}

vtrn_status timing_walk_begin(const timing_model *model, const uint32_t *block_trace,
                              uint32_t n_block_trace, const timing_options *options,
                              timing_walk **out) {
    static const timing_options defaults = {0};
    *out = NULL;
    if (!options)
        options = &defaults;
    size_t n_intervals;
    VTRN_RETURN_IF_ERROR(check_trace(model, block_trace, n_block_trace, &n_intervals));
    timing_walk *w = calloc(1, sizeof *w);
    if (!w)
        return VTRN_OUT_OF_MEMORY(sizeof *w);
    replay_state *r = &w->state;
    r->semaphores.updates = calloc((size_t)model->max_updates + 1, sizeof(semaphore_update));
    if (options->want_intervals)
        w->result.intervals = malloc((n_intervals + 1) * sizeof *w->result.intervals);
    if (!r->semaphores.updates || (options->want_intervals && !w->result.intervals)) {
        timing_walk_destroy(w);
        return VTRN_OUT_OF_MEMORY((n_intervals + 1) * sizeof *w->result.intervals);
    }
    r->model = model;
    r->out = &w->result;
    r->want_intervals = options->want_intervals;
    rings_reset(&r->rings, model->chip, options->active_cores_per_stack);
    if (model->chip->cost.tensor_warm_ns > 0)
        r->pe.first_window_ns = fmod(options->pe_window_ns, model->chip->cost.tensor_warm_ns) -
                                model->chip->cost.tensor_warm_ns;
    pe_shift(&r->pe, model->chip->launch.preamble_ns);
    w->trace = block_trace;
    w->n_trace = n_block_trace;
    w->kept = options->kept;
    if (!w->kept && !options->want_intervals)
        w->kept = &w->own;
    r->block_ns = model->chip->launch.preamble_ns;
    *out = w;
    return NULL;
}

void timing_walk_take(timing_walk *w, timing_result *out) {
    *out = w->result;
    w->result = (timing_result){.intervals = NULL};
}

void timing_walk_destroy(timing_walk *w) {
    if (!w)
        return;
    kept_blocks_free(&w->own);
    free(w->state.semaphores.updates);
    free(w->result.intervals);
    free(w);
}

vtrn_status timing_run(const timing_model *model, const uint32_t *block_trace,
                       uint32_t n_block_trace, const timing_options *options, timing_result *out) {
    timing_walk *w;
    memset(out, 0, sizeof *out);
    VTRN_RETURN_IF_ERROR(timing_walk_begin(model, block_trace, n_block_trace, options, &w));
    timing_stop stop;
    vtrn_status status;
    for (size_t k = 0; !(status = timing_walk_next(w, &stop)) && !stop.is_over; k++) {
        bool is_known = options && k < options->n_meetings;
        timing_walk_meet(w, is_known ? options->meetings[k] : (timing_meeting){0, 0});
    }
    if (!status)
        timing_walk_take(w, out);
    timing_walk_destroy(w);
    return status;
}

vtrn_status timing_replay(const vtrn_chip *chip, const vtrn_program *program,
                          const uint32_t *block_trace, uint32_t n_block_trace, bool want_intervals,
                          timing_result *out) {
    timing_model *model;
    memset(out, 0, sizeof *out);
    VTRN_RETURN_IF_ERROR(timing_prepare(chip, program, &model));
    timing_options options = {.want_intervals = want_intervals};
    vtrn_status status = timing_run(model, block_trace, n_block_trace, &options, out);
    timing_model_destroy(model);
    return status;
}

void timing_result_free(timing_result *result) {
    free(result->intervals);
    memset(result, 0, sizeof *result);
}
