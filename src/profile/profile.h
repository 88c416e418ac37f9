/* What a user sees of a step: summary figures, a Perfetto trace, a self-contained HTML report. */
#ifndef VTRN_PROFILE_PROFILE_H
#define VTRN_PROFILE_PROFILE_H

#include "chip/chip.h"
#include "isa/program.h"
#include "timing/reliance.h"
#include "timing/timing.h"

/* How full the memories are from t_ns until the next sample. */
typedef struct profile_memory_sample {
    double t_ns;
    uint64_t hbm_bytes, sbuf_bytes, psum_bytes;
} profile_memory_sample;

/* What neither the program nor the timing knows. Zero where unknown. */
typedef struct profile_counters {
    double host_seconds, functional_seconds, timing_seconds; /* of the last execution */
    double custom_seconds;   /* host time inside reference custom ops, part of functional_seconds */
    uint64_t n_executions;   /* of this program so far */
    uint64_t hbm_peak_bytes; /* of the core; 0: taken from the memory samples */
    uint64_t samples_per_step; /* training samples a step; 0: no samples/s, no price a sample */
} profile_counters;

/* Whose values the execution computed; times are of all. */
typedef struct profile_values {
    bool are_left_out;     /* of no rank */
    const uint32_t *ranks; /* [n] of these; n 0: of all */
    uint32_t n;
} profile_values;

/* A rank of a program that several cores run together. */
typedef struct profile_rank {
    int core_i;           /* of the machine */
    double step_ns;       /* launch to completion */
    double collective_ns; /* collectives, from the last member's arrival on */
    double skew_ns;       /* before, its collectives waited for others */
    /* Its intervals; ranks that do the same at the same time have the same. NULL: not kept. */
    const timing_result *timing;
    const timing_meeting *meetings; /* [n_meetings] of its collectives, in order */
    size_t n_meetings;
} profile_rank;

/* The profile in sentences, see profile_explain.h. */
typedef struct profile_explanation profile_explanation;

/* Everything is borrowed for the call. */
typedef struct profile_input {
    const char *name; /* of the executable, for display; NULL: the program's */
    const vtrn_program *program;
    const vtrn_chip *chip;
    const vtrn_instance *instance;     /* NULL: no price */
    const timing_result *timing;       /* with intervals; without them the timeline is empty */
    const timing_reliances *reliances; /* NULL: not known */
    /* Over time; NULL: derived from what the program reads and writes (profile_memory). */
    const profile_memory_sample *memory;
    size_t n_memory;
    const profile_explanation
        *explanation; /* NULL: profile_write() makes it, other files omit it */
    profile_counters counters;
    profile_values values;
    const profile_rank *ranks;                  /* [n_ranks] NULL: the program runs on one core */
    uint32_t n_ranks, shown_rank;               /* whose timing this is: the one that ends last */
    double free_step_ns;                        /* its step if collectives took no time */
    const struct collective_topology *topology; /* of the machine; NULL: links are left out */
    uint32_t n_whole_ops;     /* operations that every rank does alike, on whole tensors */
    const char *whole_reason; /* why no partitioner divided them; NULL: none was asked */
} profile_input;

typedef struct profile_summary {
    double step_ns;
    double engine_active[VTRN_ENGINE_COUNT]; /* share of step_ns, 0..1 */
    double dma_active, dma_busy;             /* any ring busy; mean over the DMA engines */
    double mfu;                              /* flops / (step * peak_tensor_flops) */
    uint64_t flops;
    uint64_t n_instrs[VTRN_ENGINE_COUNT], n_dmas;
    uint64_t hbm_read_bytes, hbm_write_bytes;
    uint64_t spill_save_bytes, spill_reload_bytes; /* of them, of what SBUF has no room for */
    uint64_t hbm_peak_bytes;                       /* of the core, as all that follow */
    /* Up to where tiles are placed, in all partitions; 0: the program does not say. */
    uint64_t sbuf_placed_peak_bytes, psum_placed_peak_bytes;
    /* Most bytes that held values still to be read; 0: none did, or the profile has no samples. */
    uint64_t sbuf_live_peak_bytes, psum_live_peak_bytes;
    uint64_t hbm_capacity_bytes, sbuf_capacity_bytes, psum_capacity_bytes; /* of the core */
    double reference_time_share; /* custom_seconds / functional_seconds */
    uint32_t n_reference_ops;    /* custom ops in the program */
    double custom_ns;            /* simulated time in them */
    double host_seconds, functional_seconds, timing_seconds;
    uint64_t n_executions, samples_per_step;
    double samples_per_second;          /* of this core; 0: unknown */
    double dollars_per_hour;            /* of the instance; 0: unknown */
    int instance_cores;                 /* NeuronCores of the instance; 0: unknown */
    double dollars_per_million_samples; /* the whole instance paid for this one core; 0: unknown */
} profile_summary;

/* The queue of collectives is shown where there are some. */
static inline bool profile_shows_engine(const profile_summary *s, int engine) {
    return engine != VTRN_ENGINE_CC || s->n_instrs[engine] > 0;
}

/* What the values of such an execution are not, as a sentence; NULL: they are those of the run. */
const char *profile_values_note(const profile_values *values);

void profile_summarize(const profile_input *input, profile_summary *out);

/* Writes profile.json, profile.pftrace and profile.html into directory, made when absent (its
 * parents too). RESOURCE when a file cannot be written: names it and the reason. */
vtrn_status profile_write(const profile_input *input, const char *directory);

/* One file each, at path. */
vtrn_status profile_write_json(const profile_input *input, const char *path);
vtrn_status profile_write_perfetto(const profile_input *input, const char *path);
vtrn_status profile_write_html(const profile_input *input, const char *path);

/* How full the memories are over the step, from the intervals: bytes of SBUF and PSUM are live from
 * the write of a value to its last read; HBM holds arguments and constants throughout, an output or
 * a scratch tensor from its first write (scratch until its last use). At most max_samples, the
 * highest of each stretch is kept. *out: malloc. */
vtrn_status profile_memory(const vtrn_program *program, const vtrn_chip *chip,
                           const timing_result *timing, size_t max_samples,
                           profile_memory_sample **out, size_t *n_out);

#endif
