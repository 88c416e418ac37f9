/* Load: check, plan, bind. Execute: bind arguments and outputs, run, and time what is new. */
#include "runtime/execute.h"

#include "isa/validate.h"
#include "runtime/peers.h"
#include "runtime/ranks.h"
#include "runtime/times.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static vtrn_status bad_slot(const vtrn_program *p, uint32_t slot_i, const char *rule) {
    const vtrn_slot *s = &p->slots[slot_i];
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "program %s: slot %u (kind %d, index %d, offset %llu, %llu bytes): %s",
                      p->name ? p->name : "", slot_i, s->kind, s->index,
                      (unsigned long long)s->offset, (unsigned long long)s->size_bytes, rule);
}

static vtrn_status measure_slot(runtime_program *l, uint32_t slot_i) {
    const vtrn_program *p = l->program;
    const vtrn_slot *s = &p->slots[slot_i];
    bool is_argument = s->kind == VTRN_SLOT_ARGUMENT;
    if (is_argument || s->kind == VTRN_SLOT_OUTPUT) {
        uint32_t n = is_argument ? p->n_arguments : p->n_outputs;
        if (s->index < 0 || (uint32_t)s->index >= n)
            return bad_slot(p, slot_i, "no such argument or output");
        uint64_t *bytes = (is_argument ? l->argument_bytes : l->output_bytes) + s->index;
        *bytes = s->size_bytes > *bytes ? s->size_bytes : *bytes;
        return NULL;
    }
    if (s->kind == VTRN_SLOT_RANK)
        return NULL;
    if (s->kind != VTRN_SLOT_CONSTANT && s->kind != VTRN_SLOT_SCRATCH)
        return bad_slot(p, slot_i, "no such kind");
    uint64_t limit = s->kind == VTRN_SLOT_CONSTANT ? p->data_size : p->scratch_size;
    if (s->offset > limit || s->size_bytes > limit - s->offset)
        return bad_slot(p, slot_i, "reaches beyond its area");
    return NULL;
}

static vtrn_status read_aliases(runtime_program *l) {
    const vtrn_program *p = l->program;
    for (uint32_t a = 0; a < p->n_arguments; a++)
        l->argument_output[a] = -1;
    for (uint32_t o = 0; p->output_alias && o < p->n_outputs; o++) {
        int32_t a = p->output_alias[o];
        if (a < 0)
            continue;
        bool exists = (uint32_t)a < p->n_arguments;
        if (!exists || l->argument_output[a] >= 0)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "program %s: output %u aliases argument %d, %s",
                              p->name ? p->name : "", o, a,
                              exists ? "which another output aliases too" : "which does not exist");
        l->argument_output[a] = (int32_t)o;
    }
    return NULL;
}

static vtrn_status prepare(runtime_program *l) {
    const vtrn_program *p = l->program;
    const vtrn_chip *chip = &l->device->chip;
    if (p->gen != chip->gen)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "program %s is for NeuronCore generation %d (chip %s), the machine's is "
                          "%d (chip %s); compile it again for this chip",
                          p->name ? p->name : "", p->gen, p->chip ? p->chip : "?", chip->gen,
                          chip->name);
    l->argument_bytes = calloc(p->n_arguments + 1, sizeof(uint64_t));
    l->output_bytes = calloc(p->n_outputs + 1, sizeof(uint64_t));
    l->argument_output = calloc(p->n_arguments + 1, sizeof(int32_t));
    l->bindings = calloc((size_t)l->device->n_cores, sizeof *l->bindings);
    if (!l->argument_bytes || !l->output_bytes || !l->argument_output || !l->bindings)
        return VTRN_OUT_OF_MEMORY(sizeof *l->bindings * (size_t)l->device->n_cores);
    for (uint32_t i = 0; i < p->n_slots; i++)
        VTRN_RETURN_IF_ERROR(measure_slot(l, i));
    VTRN_RETURN_IF_ERROR(read_aliases(l));
    VTRN_RETURN_IF_ERROR(program_validate(p, chip));
    VTRN_RETURN_IF_ERROR(ranks_prepare(l));
    return engine_plan_create(p, chip, team_size(l->device->team), &l->plan);
}

vtrn_status runtime_load(runtime_device *device, vtrn_program *program, engine_custom_fn custom,
                         void *custom_ctx, runtime_program **out) {
    runtime_program *l = calloc(1, sizeof *l);
    if (!l) {
        program_destroy(program);
        return VTRN_OUT_OF_MEMORY(sizeof *l);
    }
    runtime_device_retain(device);
    l->device = device;
    l->program = program;
    l->custom = custom;
    l->custom_ctx = custom_ctx;
    l->last_timing = -1;
    vtrn_status status = prepare(l);
    if (status) {
        runtime_unload(l);
        return status;
    }
    *out = l;
    return NULL;
}

void runtime_unload(runtime_program *l) {
    if (!l)
        return;
    runtime_device *device = l->device;
    for (int i = 0; l->bindings && i < device->n_cores; i++) {
        runtime_memory_release(l->bindings[i].constants);
        runtime_memory_release(l->bindings[i].rank_words);
        free(l->bindings[i].slot_base);
    }
    for (int i = 0; i < l->n_timings; i++)
        times_free(&l->timings[i]);
    free(l->run.block_trace);
    ranks_release(l);
    free(l->collective_ns);
    free(l->estimated_cores);
    free(l->bindings);
    free(l->argument_bytes);
    free(l->output_bytes);
    free(l->argument_output);
    engine_plan_destroy(&l->plan);
    kept_blocks_free(&l->kept_blocks);
    timing_model_destroy(l->model);
    program_destroy(l->program);
    free(l);
    runtime_device_release(device);
}

/* Constants into HBM: each core has room for them, and those whose address space begins below the
 * first copy read that one. */
static vtrn_status bind_constants(runtime_program *l, int core_i) {
    runtime_binding *b = &l->bindings[core_i];
    const vtrn_program *p = l->program;
    if (!p->data_size)
        return NULL;
    if (!b->constants)
        VTRN_RETURN_IF_ERROR(runtime_memory_create(l->device, core_i, p->data_size, &b->constants));
    uint8_t *hbm;
    VTRN_RETURN_IF_ERROR(runtime_hbm(l->device, core_i, &hbm));
    const bool is_shared = l->constants && l->constants->host >= hbm;
    const uint8_t *host = is_shared ? l->constants->host : b->constants->host;
    if (!is_shared) {
        memcpy(b->constants->host, p->data, p->data_size);
        l->constants = b->constants;
    }
    for (uint32_t i = 0; i < p->n_slots; i++)
        if (p->slots[i].kind == VTRN_SLOT_CONSTANT)
            b->slot_base[i] = (uint64_t)(host - hbm) + p->slots[i].offset;
    return NULL;
}

static vtrn_status bind_core(runtime_program *l, int core_i) {
    runtime_binding *b = &l->bindings[core_i];
    const vtrn_program *p = l->program;
    if (b->is_bound)
        return NULL;
    if (!b->slot_base) {
        b->slot_base = calloc(p->n_slots + 1, sizeof(uint64_t));
        if (!b->slot_base)
            return VTRN_OUT_OF_MEMORY(p->n_slots * sizeof(uint64_t));
    }
    VTRN_RETURN_IF_ERROR(bind_constants(l, core_i));
    for (uint32_t i = 0; i < p->n_slots; i++) {
        if (p->slots[i].kind == VTRN_SLOT_RANK && !b->rank_words)
            VTRN_RETURN_IF_ERROR(runtime_memory_create(
                l->device, core_i, VTRN_RANK_WORDS * sizeof(uint32_t), &b->rank_words));
    }
    b->is_bound = true;
    return NULL;
}

static vtrn_status bind_scratch(runtime_program *l, int core_i) {
    const vtrn_program *p = l->program;
    if (p->scratch_size == 0)
        return NULL;
    runtime_core *core = &l->device->cores[core_i];
    runtime_binding *b = &l->bindings[core_i];
    VTRN_RETURN_IF_ERROR(runtime_core_scratch(l->device, core_i, p->scratch_size));
    if (b->scratch_generation == core->scratch_generation)
        return NULL;
    for (uint32_t i = 0; i < p->n_slots; i++)
        if (p->slots[i].kind == VTRN_SLOT_SCRATCH)
            b->slot_base[i] = core->scratch->addr + p->slots[i].offset;
    b->scratch_generation = core->scratch_generation;
    return NULL;
}

static vtrn_status check_arguments(const runtime_program *l, const runtime_call *call) {
    const runtime_device *d = l->device;
    for (uint32_t i = 0; i < l->program->n_arguments; i++) {
        const runtime_memory *m = call->arguments[i];
        if (m->device != d || d->cores[m->core_i].chip_i != d->cores[call->core_i].chip_i)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "argument %u lies on core %d of %s, the program runs on core %d of "
                              "%s: copy it there first",
                              i, m->core_i, m->device == d ? "another chip" : "another machine",
                              call->core_i, d->instance.name);
        if (m->size_bytes < l->argument_bytes[i])
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "argument %u has %llu bytes, %s needs %llu", i,
                              (unsigned long long)m->size_bytes, l->program->name,
                              (unsigned long long)l->argument_bytes[i]);
    }
    return NULL;
}

static int32_t alias_of(const vtrn_program *p, uint32_t output_i) {
    return p->output_alias ? p->output_alias[output_i] : -1;
}

/* Memory of every output. outputs[] entries are NULL or owned references when this fails. */
static vtrn_status make_outputs(const runtime_program *l, const runtime_call *call, bool executes) {
    const vtrn_program *p = l->program;
    for (uint32_t o = 0; o < p->n_outputs; o++) {
        int32_t a = alias_of(p, o);
        runtime_memory *argument = a < 0 ? NULL : call->arguments[a];
        bool fits = argument && argument->size_bytes >= l->output_bytes[o];
        if (fits && call->may_reuse && call->may_reuse[a] && argument->core_i == call->core_i) {
            runtime_memory_retain(argument);
            call->outputs[o] = argument;
            continue;
        }
        uint64_t size = l->output_bytes[o];
        if (argument && argument->size_bytes > size)
            size = argument->size_bytes;
        VTRN_RETURN_IF_ERROR(
            runtime_memory_create(l->device, call->core_i, size, &call->outputs[o]));
        /* The program works in place: give it a copy to work on, and keep the argument. */
        if (argument && executes)
            memcpy(call->outputs[o]->host, argument->host, argument->size_bytes);
    }
    return NULL;
}

static void bind_call(runtime_program *l, const runtime_call *call) {
    const vtrn_program *p = l->program;
    const runtime_binding *b = &l->bindings[call->core_i];
    const uint32_t n_partitions = p->n_partitions ? p->n_partitions : 1;
    const uint32_t words[VTRN_RANK_WORDS] = {call->rank % n_partitions, call->rank / n_partitions};
    if (b->rank_words)
        memcpy(b->rank_words->host, words, sizeof words);
    uint64_t *slot_base = l->bindings[call->core_i].slot_base;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        const vtrn_slot *s = &p->slots[i];
        if (s->kind == VTRN_SLOT_OUTPUT)
            slot_base[i] = call->outputs[s->index]->addr;
        if (s->kind == VTRN_SLOT_RANK && b->rank_words)
            slot_base[i] = b->rank_words->addr + (uint64_t)s->index * sizeof *words;
        if (s->kind != VTRN_SLOT_ARGUMENT)
            continue;
        /* An aliased argument and its output are one place, whether reused or copied. */
        int32_t o = l->argument_output[s->index];
        slot_base[i] = o >= 0 ? call->outputs[o]->addr : call->arguments[s->index]->addr;
    }
}

static void set_up_run(runtime_program *l, const runtime_call *call, engine_run *run) {
    run->program = l->program;
    run->plan = &l->plan;
    run->slot_base = l->bindings[call->core_i].slot_base;
    run->custom = l->custom;
    run->custom_ctx = l->custom_ctx;
    run->is_outline = !l->device->has_values;
    run->is_stopped = NULL;
    run->max_blocks = run->is_outline ? RUNTIME_OUTLINE_BLOCKS : 0;
    run->n_block_trace = 0;
    run->custom_seconds = 0;
}

/* Of the n ranks of a call; one that runs by itself is. */
static bool is_executed(const runtime_program *l, uint32_t n, uint32_t rank) {
    return n == 1 || ranks_is_executed(l, rank);
}

/* Whether the outline went on until its limit. */
static bool is_endless_outline(runtime_program *l, uint32_t n) {
    for (uint32_t r = 0; r < n; r++) {
        const engine_run *run = ranks_run_of(l, r);
        if (run->is_outline && run->n_block_trace == run->max_blocks)
            return true;
    }
    return false;
}

static bool is_remote(const runtime_program *l, const runtime_call *call) {
    return runtime_core_is_remote(l->device, call->core_i);
}

static vtrn_status run_bound(runtime_program *l, const runtime_call *calls, uint32_t n,
                             runtime_peers *peers) {
    for (uint32_t r = 0; r < n; r++)
        if (is_executed(l, n, r))
            set_up_run(l, &calls[r], ranks_run_of(l, r));
    double start = now_seconds();
    vtrn_status status =
        ranks_is_alone(l, n) ? ranks_run_alone(l, calls, n) : ranks_run(l, calls, n, peers);
    if (status && is_endless_outline(l, n))
        return vtrn_status_annotate(status,
                                    "VTRN_VALUES=off computes no values but loop counters; a loop "
                                    "that other values end needs VTRN_VALUES=on");
    VTRN_RETURN_IF_ERROR(status);
    l->functional_seconds = now_seconds() - start;
    l->custom_seconds = 0;
    for (uint32_t r = 0; r < n; r++)
        if (is_executed(l, n, r))
            l->custom_seconds += ranks_run_of(l, r)->custom_seconds;
    l->n_executions++;
    uint32_t first = 0;
    while (is_remote(l, &calls[first]))
        first++;
    l->last_core = calls[first].core_i;
    if (!l->device->is_timed)
        return NULL;
    if (peers)
        VTRN_RETURN_IF_ERROR(peers_share_traces(peers));
    return times_run(l, calls, n);
}

/* All that can fail before the program runs. */
static vtrn_status bind_all(runtime_program *l, runtime_call *calls, uint32_t n) {
    for (uint32_t r = 0; r < n; r++) {
        if (is_remote(l, &calls[r]))
            continue;
        VTRN_RETURN_IF_ERROR(check_arguments(l, &calls[r]));
        const bool executes = is_executed(l, n, r);
        if (executes)
            VTRN_RETURN_IF_ERROR(runtime_core_ready(l->device, calls[r].core_i));
        VTRN_RETURN_IF_ERROR(bind_core(l, calls[r].core_i));
        VTRN_RETURN_IF_ERROR(bind_scratch(l, calls[r].core_i));
        VTRN_RETURN_IF_ERROR(make_outputs(l, &calls[r], executes));
    }
    return NULL;
}

/* The outputs of a rank here are given, or are none. */
static void settle_call(runtime_program *l, const runtime_call *call, bool has_failed) {
    for (uint32_t o = 0; has_failed && o < l->program->n_outputs; o++) {
        runtime_memory_release(call->outputs[o]);
        call->outputs[o] = NULL;
    }
    hbm_stats memory;
    runtime_memory_stats(l->device, call->core_i, &memory);
    if (!has_failed && memory.peak_bytes > l->hbm_peak_bytes)
        l->hbm_peak_bytes = memory.peak_bytes;
}

/* Outputs of a rank that was not computed have no values, nor has what comes of such. */
static void mark_outputs(const runtime_program *l, const runtime_call *call, bool is_computed) {
    bool lacks_values = !is_computed;
    for (uint32_t i = 0; i < l->program->n_arguments; i++)
        lacks_values |= call->arguments[i]->lacks_values;
    for (uint32_t o = 0; o < l->program->n_outputs; o++)
        call->outputs[o]->lacks_values = lacks_values;
}

static vtrn_status execute_locked(runtime_program *l, runtime_call *calls, uint32_t n) {
    double start = now_seconds();
    for (uint32_t r = 0; r < n; r++)
        if (!is_remote(l, &calls[r]))
            memset(calls[r].outputs, 0, l->program->n_outputs * sizeof *calls[r].outputs);
    vtrn_status status = bind_all(l, calls, n);
    runtime_peers *peers = NULL;
    if (peers_are_needed(l, calls, n))
        status = peers_begin(l, calls, n, status, &peers);
    for (uint32_t r = 0; r < n && !status; r++) {
        if (is_remote(l, &calls[r]))
            continue;
        if (is_executed(l, n, r))
            bind_call(l, &calls[r]);
        calls[r].has_written = true;
    }
    if (!status)
        status = run_bound(l, calls, n, peers);
    peers_end(peers);
    for (uint32_t r = 0; r < n && !status && l->device->is_timed; r++)
        calls[r].timing_i = l->last_timing;
    for (uint32_t r = 0; r < n; r++) {
        if (is_remote(l, &calls[r]))
            continue;
        settle_call(l, &calls[r], status != NULL);
        if (!status && l->device->has_values)
            mark_outputs(l, &calls[r], is_executed(l, n, r));
    }
    if (!status)
        l->host_seconds = now_seconds() - start;
    return status;
}

static vtrn_status check_cores(const runtime_program *l, const runtime_call *calls, uint32_t n) {
    const runtime_device *d = l->device;
    const uint64_t n_ranks = program_n_ranks(l->program);
    if (program_has_collectives(l->program) ? n != n_ranks : n != 1 && n != n_ranks)
        return VTRN_ERROR(
            VTRN_BAD_ARGUMENT,
            "program %s is for %llu NeuronCores that exchange data, and was given %u; "
            "start it on all of them in one call",
            l->program->name, (unsigned long long)n_ranks, n);
    for (uint32_t r = 0; r < n; r++) {
        if (calls[r].core_i < 0 || calls[r].core_i >= d->n_cores)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "core %d: %s has cores 0..%d", calls[r].core_i,
                              d->instance.name, d->n_cores - 1);
        for (uint32_t k = 0; k < r; k++)
            if (calls[k].core_i == calls[r].core_i)
                return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                  "ranks %u and %u are both on core %d; give each one of its own",
                                  k, r, calls[r].core_i);
    }
    return NULL;
}

/* Ranks that exchange nothing are timed and run without those of other processes. */
static vtrn_status execute_own(runtime_program *l, runtime_call *calls, uint32_t n) {
    runtime_call *own = calloc(n, sizeof *own);
    if (!own)
        return VTRN_OUT_OF_MEMORY(n * sizeof *own);
    uint32_t n_own = 0;
    for (uint32_t r = 0; r < n; r++)
        if (!is_remote(l, &calls[r]))
            own[n_own++] = calls[r];
    vtrn_status status = n_own
                             ? execute_locked(l, own, n_own)
                             : VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                          "program %s runs on NeuronCores of other processes alone",
                                          l->program->name);
    for (uint32_t r = n; r-- > 0;)
        if (!is_remote(l, &calls[r]) && n_own)
            calls[r] = own[--n_own];
    free(own);
    return status;
}

vtrn_status runtime_execute_ranks(runtime_program *loaded, runtime_call *calls, uint32_t n) {
    runtime_device *d = loaded->device;
    for (uint32_t r = 0; r < n; r++) {
        calls[r].has_written = false;
        calls[r].timing_i = -1;
    }
    VTRN_RETURN_IF_ERROR(check_cores(loaded, calls, n));
    if (d->transport && d->n_value_ranks)
        return VTRN_ERROR(
            VTRN_UNSUPPORTED,
            "VTRN_VALUES: the values of some ranks alone are computed in one process, "
            "and the NeuronCores are those of several; leave it out, or run one "
            "process");
    const uint32_t last_rank = d->n_value_ranks ? d->value_ranks[d->n_value_ranks - 1] : 0;
    if (n > 1 && last_rank >= n) /* a program on one core is always computed */
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "VTRN_VALUES: rank %u: program %s has %u ranks, 0 to %u; name ranks that "
                          "each program on several NeuronCores has",
                          last_rank, loaded->program->name, n, n - 1);
    pthread_mutex_lock(&d->run_lock);
    vtrn_status status = d->transport && !program_has_collectives(loaded->program)
                             ? execute_own(loaded, calls, n)
                             : execute_locked(loaded, calls, n);
    pthread_mutex_unlock(&d->run_lock);
    return status;
}

vtrn_status runtime_execute(runtime_program *loaded, runtime_call *call) {
    return runtime_execute_ranks(loaded, call, 1);
}
