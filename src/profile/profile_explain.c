/* A step's profile in sentences: what its time went to, and on what the busiest engine waits. */
#include "profile/profile_explain.h"

#include "profile/profile_idle.h"
#include "profile/profile_ops.h"

#include <inttypes.h>
#include <stdlib.h>

enum { MAX_LINES = 5, MAX_WAITS = 5 };

/* What the sentences are made of. */
typedef struct story {
    const profile_input *in;
    profile_path path;
    profile_lines lines;
    profile_overlap overlap;
    double worker_ns[PROFILE_N_WORKERS]; /* of the path, at work */
    double gap_ns[PROFILE_CAUSE_COUNT];  /* of the path, between works */
    double *line_ns;                     /* [n lines][PROFILE_N_WORKERS + 1]: at work, and gaps */
} story;

enum { LINE_GAPS = PROFILE_N_WORKERS, LINE_COLUMNS };

static profile_buffer *sentence(profile_section *s) {
    return &s->sentences[s->n < PROFILE_MAX_SENTENCES ? s->n++ : PROFILE_MAX_SENTENCES - 1];
}

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

static void put_scaled(profile_buffer *b, double value, double base, const char *const *units) {
    for (; value >= base && units[1]; units++)
        value /= base;
    profile_printf(b, "%.*f %s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, *units);
}

static void put_time(profile_buffer *b, double ns) {
    static const char *const units[] = {"ns", "us", "ms", "s", NULL};
    put_scaled(b, ns, 1000, units);
}

static void put_bytes(profile_buffer *b, double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", NULL};
    put_scaled(b, bytes, 1024, units);
}

static void put_flops(profile_buffer *b, double flops, const char *suffix) {
    static const char *const units[] = {"", "k", "M", "G", "T", NULL};
    put_scaled(b, flops, 1000, units);
    profile_printf(b, "FLOP%s", suffix);
}

static void put_share(profile_buffer *b, double part, double whole) {
    profile_printf(b, "%.1f %%", 100 * share(part, whole));
}

static double *line_of(story *s, uint32_t interval) {
    const profile_input *in = s->in;
    uint32_t line = profile_line_of(&s->lines, in->program, &in->timing->intervals[interval]);
    return &s->line_ns[(size_t)line * LINE_COLUMNS];
}

/* Where the time of the path went, by worker, by cause and by line. */
static vtrn_status add_up(story *s) {
    const profile_input *in = s->in;
    s->line_ns = calloc((size_t)s->lines.n * LINE_COLUMNS, sizeof *s->line_ns);
    if (!s->line_ns)
        return VTRN_OUT_OF_MEMORY((size_t)s->lines.n * LINE_COLUMNS * sizeof *s->line_ns);
    for (size_t i = 0; i < s->path.n_steps; i++) {
        const profile_step *step = &s->path.steps[i];
        int worker = profile_worker_of(&in->timing->intervals[step->interval]);
        double *line = line_of(s, step->interval);
        s->gap_ns[step->link.cause] += step->gap_ns;
        line[LINE_GAPS] += step->gap_ns;
        if (worker < PROFILE_N_WORKERS) {
            s->worker_ns[worker] += step->work_ns;
            line[worker] += step->work_ns;
        }
    }
    return NULL;
}

static double sum_gaps(const story *s) {
    double ns = 0;
    for (int c = 0; c < PROFILE_CAUSE_COUNT; c++)
        ns += s->gap_ns[c];
    return ns;
}

static int most(const double *values, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (values[i] > values[best])
            best = i;
    return best;
}

/* "Vector 40.1 %, DMA 20.0 %", the largest first; shares below a thousandth are left out. Returns
 * what must stand before the next of the list. */
static const char *put_workers(profile_buffer *b, const double *worker_ns, double whole_ns) {
    bool is_put[PROFILE_N_WORKERS] = {false};
    const char *between = "";
    for (int k = 0; k < PROFILE_N_WORKERS; k++) {
        double left[PROFILE_N_WORKERS];
        for (int i = 0; i < PROFILE_N_WORKERS; i++)
            left[i] = is_put[i] ? -1 : worker_ns[i];
        int worker = most(left, PROFILE_N_WORKERS);
        is_put[worker] = true;
        if (share(left[worker], whole_ns) < 0.001)
            break;
        profile_printf(b, "%s%s ", between, profile_worker_name(worker));
        put_share(b, worker_ns[worker], whole_ns);
        between = ", ";
    }
    return between;
}

static void explain_path(story *s, profile_section *out) {
    static const struct {
        profile_cause cause;
        const char *what;
    } gaps[] = {{PROFILE_CAUSE_SEMAPHORE, "until a semaphore reached the next engine"},
                {PROFILE_CAUSE_TRIGGER, "from a DMA's trigger to its first byte"},
                {PROFILE_CAUSE_TRANSFER, "between transfers"},
                {PROFILE_CAUSE_QUEUE, "between instructions of one engine"},
                {PROFILE_CAUSE_MEETING, "where all engines meet at the end of a block"}};
    const double total_ns = s->in->timing->summary.total_ns;
    profile_buffer *b = sentence(out);
    profile_printf(b,
                   "The longest chain of instructions that each wait for the one before has %zu "
                   "members and takes ",
                   s->path.n_steps);
    put_time(b, s->path.end_ns - s->path.start_ns);
    profile_printf(b, " of the step's ");
    put_time(b, total_ns);
    profile_printf(b, "; the launch takes the rest");
    b = sentence(out);
    profile_printf(b, "Its members' work takes of the step: ");
    put_workers(b, s->worker_ns, total_ns);
    b = sentence(out);
    profile_printf(b, "It waits for ");
    put_share(b, sum_gaps(s), total_ns);
    profile_printf(b, " of the step");
    const char *between = ": ";
    for (size_t i = 0; i < sizeof gaps / sizeof *gaps; i++) {
        if (share(s->gap_ns[gaps[i].cause], total_ns) < 0.001)
            continue;
        profile_printf(b, "%s", between);
        put_share(b, s->gap_ns[gaps[i].cause], total_ns);
        profile_printf(b, " %s", gaps[i].what);
        between = ", ";
    }
}

static double line_sum(const double *line) {
    double ns = 0;
    for (int c = 0; c < LINE_COLUMNS; c++)
        ns += line[c];
    return ns;
}

/* One sentence: the lines on which the path spends the most time. */
static void explain_lines(story *s, profile_section *out) {
    const double total_ns = s->in->timing->summary.total_ns;
    profile_buffer *b = sentence(out);
    profile_printf(b, "By source line it spends ");
    for (int k = 0; k < MAX_LINES; k++) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < s->lines.n; i++)
            if (line_sum(&s->line_ns[(size_t)i * LINE_COLUMNS]) >
                line_sum(&s->line_ns[(size_t)best * LINE_COLUMNS]))
                best = i;
        double *line = &s->line_ns[(size_t)best * LINE_COLUMNS], ns = line_sum(line);
        if (k > 0 && share(ns, total_ns) < 0.001)
            break;
        profile_printf(b, "%s", k ? "; " : "");
        put_share(b, ns, total_ns);
        profile_printf(b, " on %s (", s->lines.names[best]);
        const char *between = put_workers(b, line, total_ns);
        if (share(line[LINE_GAPS], total_ns) >= 0.001) {
            profile_printf(b, "%swaiting ", between);
            put_share(b, line[LINE_GAPS], total_ns);
        }
        profile_printf(b, ")");
        for (int c = 0; c < LINE_COLUMNS; c++)
            line[c] = 0; /* the next round finds the next line */
    }
}

static void worker_active(const profile_input *in, double active_ns[PROFILE_N_WORKERS]) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        active_ns[e] = in->timing->summary.active_ns[e];
    active_ns[PROFILE_WORKER_DMA] = in->timing->summary.dma_active_ns;
}

static void explain_bound(story *s, profile_section *out) {
    const double total_ns = s->in->timing->summary.total_ns;
    double active_ns[PROFILE_N_WORKERS], work_ns = 0;
    worker_active(s->in, active_ns);
    for (int i = 0; i < PROFILE_N_WORKERS; i++)
        work_ns += s->worker_ns[i];
    int first = most(s->worker_ns, PROFILE_N_WORKERS);
    profile_buffer *b = sentence(out);
    if (sum_gaps(s) > work_ns)
        profile_printf(b, "Latency bounds the step: its instructions wait for each other longer "
                          "than they work");
    else if (s->worker_ns[first] > 0.5 * total_ns)
        profile_printf(b,
                       "%s bounds the step: the chain is mostly its work, and what is done "
                       "beside the chain costs nothing",
                       profile_worker_name(first));
    else
        profile_printf(b, "No engine bounds the step alone: the chain passes from one to another");
    b = sentence(out);
    profile_printf(b, "Each engine works this share of the step: ");
    put_workers(b, active_ns, total_ns);
    b = sentence(out);
    double many_ns = 0;
    for (int n = 2; n <= PROFILE_N_WORKERS; n++)
        many_ns += s->overlap.ns[n];
    profile_printf(b, "Just one of them works for ");
    put_share(b, s->overlap.ns[1], total_ns);
    profile_printf(b, " of it, several at once for ");
    put_share(b, many_ns, total_ns);
    profile_printf(b, ", none for ");
    put_share(b, s->overlap.ns[0], total_ns);
}

static void put_instr(profile_buffer *b, const story *s, uint32_t interval) {
    const profile_input *in = s->in;
    const timing_interval *v = &in->timing->intervals[interval];
    char title[96] = "?";
    if (v->instr < in->program->n_instrs)
        profile_instr_title(in->program, &in->program->instrs[v->instr], title, sizeof title);
    profile_printf(b, "%s of %s", title,
                   s->lines.names[profile_line_of(&s->lines, in->program, v)]);
}

static void explain_wait(const story *s, const profile_wait *wait, profile_section *out) {
    profile_buffer *b = sentence(out);
    put_time(b, wait->ns);
    profile_printf(b, " in %" PRIu32 " gap%s before ", wait->n, wait->n == 1 ? "" : "s");
    put_instr(b, s, wait->interval);
    if (wait->cause == PROFILE_CAUSE_SEMAPHORE) {
        profile_printf(b, ", which waits until %s has done ", profile_worker_name(wait->worker));
        put_instr(b, s, wait->cause_interval);
        profile_printf(b, " (semaphore %d, at most ", wait->semaphore);
        put_time(b, wait->longest_ns);
        profile_printf(b, ")");
    } else if (wait->cause == PROFILE_CAUSE_QUEUE) {
        profile_printf(b, ", which waits for no semaphore: the engine runs its own control, or "
                          "fills and drains its pipeline");
    } else {
        profile_printf(b, ", the first of its block: all engines start together");
    }
}

static vtrn_status explain_idle(const story *s, profile_section *out) {
    const profile_input *in = s->in;
    const double total_ns = in->timing->summary.total_ns;
    int engine = most(in->timing->summary.active_ns, VTRN_ENGINE_COUNT);
    profile_idle idle;
    VTRN_RETURN_IF_ERROR(
        profile_idle_create(in->program, in->timing, &s->path, &s->lines, engine, &idle));
    profile_buffer *b = sentence(out);
    profile_printf(b, "%s, the busiest engine, is idle for ", isa_engine_name((vtrn_engine)engine));
    put_time(b, idle.idle_ns);
    profile_printf(b, ", ");
    put_share(b, idle.idle_ns, total_ns);
    profile_printf(b, " of the step: in %" PRIu32 " gap%s before its instructions, and ",
                   idle.n_gaps, idle.n_gaps == 1 ? "" : "s");
    put_time(b, idle.after_ns);
    profile_printf(b, " behind the last of them");
    for (size_t i = 0; i < idle.n_waits && i < MAX_WAITS; i++)
        explain_wait(s, &idle.waits[i], out);
    profile_idle_free(&idle);
    return NULL;
}

static void explain_roofline(const profile_input *in, profile_section *out) {
    const timing_summary *t = &in->timing->summary;
    double bytes = (double)t->hbm_read_bytes + (double)t->hbm_write_bytes;
    double flops = (double)t->flops, step_s = t->total_ns * 1e-9;
    double peak = in->chip->peak_tensor_flops, bandwidth = in->chip->hbm_bytes_per_s;
    double bytes_s = share(bytes, bandwidth), flops_s = share(flops, peak);
    profile_buffer *b = sentence(out);
    profile_printf(b, "The matrix products need ");
    put_flops(b, flops, "");
    profile_printf(b, ", ");
    put_time(b, flops_s * 1e9);
    profile_printf(b, " at the tensor engine's bf16 peak; ");
    put_bytes(b, bytes);
    profile_printf(b, " pass between HBM and the core, ");
    put_time(b, bytes_s * 1e9);
    profile_printf(b, " at the HBM's rate");
    b = sentence(out);
    if (bytes > 0 && bandwidth > 0)
        profile_printf(b, "That is %.1f FLOP a byte, where the roof bends at %.1f: ", flops / bytes,
                       peak / bandwidth);
    bool is_memory = bytes_s > flops_s;
    profile_printf(b, "the step lies under the %s roof, and reaches ",
                   is_memory ? "HBM's" : "tensor engine's");
    put_share(b, is_memory ? bytes_s : flops_s, step_s);
    profile_printf(b, " of it");
}

static vtrn_status explain_intervals(story *s, profile_explanation *out) {
    const profile_input *in = s->in;
    VTRN_RETURN_IF_ERROR(profile_path_create(in->program, in->timing, &s->path));
    VTRN_RETURN_IF_ERROR(profile_lines_create(in->program, &s->lines));
    VTRN_RETURN_IF_ERROR(profile_overlap_measure(in->program, in->timing, &s->overlap));
    VTRN_RETURN_IF_ERROR(add_up(s));
    out->sections[0].title = "Critical path";
    explain_path(s, &out->sections[0]);
    explain_lines(s, &out->sections[0]);
    out->sections[1].title = "What bounds the step";
    explain_bound(s, &out->sections[1]);
    out->sections[2].title = "Gaps of the busiest engine";
    out->n = 3;
    return explain_idle(s, &out->sections[2]);
}

vtrn_status profile_explain(const profile_input *input, profile_explanation *out) {
    *out = (profile_explanation){0};
    story s = {.in = input};
    vtrn_status status = NULL;
    if (input->timing->n_intervals > 0)
        status = explain_intervals(&s, out);
    free(s.line_ns);
    profile_lines_free(&s.lines);
    profile_path_free(&s.path);
    if (status) {
        profile_explanation_free(out);
        return status;
    }
    profile_section *roofline = &out->sections[out->n++];
    roofline->title = "Roofline";
    explain_roofline(input, roofline);
    for (int i = 0; i < out->n; i++)
        for (int k = 0; k < out->sections[i].n; k++)
            profile_append(&out->sections[i].sentences[k], ".", sizeof "."); /* and its end */
    return NULL;
}

const char *profile_sentence(const profile_section *section, int i) {
    const profile_buffer *b = &section->sentences[i];
    return b->data && !b->is_short ? (const char *)b->data : "";
}

void profile_explanation_free(profile_explanation *explanation) {
    for (size_t i = 0; i < sizeof explanation->sections / sizeof *explanation->sections; i++)
        for (int k = 0; k < explanation->sections[i].n; k++)
            profile_buffer_free(&explanation->sections[i].sentences[k]);
    *explanation = (profile_explanation){0};
}

void profile_json_explanation(profile_buffer *b, const profile_explanation *explanation,
                              const char *between) {
    profile_printf(b, "%s\"explanation\": [", between);
    for (int i = 0; i < explanation->n; i++) {
        const profile_section *s = &explanation->sections[i];
        profile_printf(b, "%s{\"title\": ", i ? ", " : "");
        profile_json_string(b, s->title);
        profile_printf(b, ", \"sentences\": [");
        for (int k = 0; k < s->n; k++) {
            profile_printf(b, "%s", k ? ", " : "");
            profile_json_string(b, profile_sentence(s, k));
        }
        profile_printf(b, "]}");
    }
    profile_printf(b, "]");
}
