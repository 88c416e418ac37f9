/* vtrn scale: data-parallel copies of a program on more and more chips; times only. */
#include "cli/cli.h"
#include "cli/cli_program.h"
#include "collective/collective.h"
#include "runtime/outline.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_COUNTS = 64, MAX_CORES = 1 << 16 };

/* What a run of the command asks for, and what it found out about the program. */
typedef struct query {
    const cli_command *self;
    const char *path, *chip_name, *instance_name, *counts;
    int64_t gradient_bytes; /* -1: not given */
    bool is_json;
    vtrn_chip chip;
    vtrn_instance instance;
    double step_ns; /* of one core while all cores of its chip run */
} query;

/* One line of the table. */
typedef struct point {
    int n_chips, n_cores, n_nodes;
    double all_reduce_ns;
    const char *algorithm; /* of a whole bucket; "" without any */
} point;

/* "1,2,4,...,64": numbers that rise; "..." goes on by the ratio of the two before it. 0: malformed.
 */
static int parse_counts(const char *text, int64_t counts[MAX_COUNTS]) {
    int n = 0;
    bool is_series = false;
    while (n < MAX_COUNTS) {
        if (strncmp(text, "...,", 4) == 0 && n >= 2 && !is_series) {
            is_series = true;
            text += 4;
            continue;
        }
        char *end;
        int64_t value = strtoll(text, &end, 10);
        if (end == text || value < 1 || value > MAX_CORES || (n && value <= counts[n - 1]))
            return 0;
        if (is_series) {
            int64_t ratio = counts[n - 1] / counts[n - 2];
            while (ratio > 1 && n < MAX_COUNTS - 1 && counts[n - 1] * ratio < value) {
                counts[n] = counts[n - 1] * ratio;
                n++;
            }
            is_series = false;
        }
        counts[n++] = value;
        if (!*end)
            return n;
        if (*end != ',')
            return 0;
        text = end + 1;
    }
    return 0;
}

/* Bytes of the arguments that an output replaces in place: what a training step updates. */
static uint64_t updated_bytes(const vtrn_program *program) {
    uint64_t sum = 0;
    for (uint32_t o = 0; o < program->n_outputs; o++)
        for (uint32_t s = 0; s < program->n_slots && program->output_alias[o] >= 0; s++) {
            const vtrn_slot *slot = &program->slots[s];
            if (slot->kind == VTRN_SLOT_ARGUMENT && slot->index == program->output_alias[o])
                sum += slot->size_bytes;
        }
    return sum;
}

static vtrn_status time_program(query *q) {
    uint8_t *bytes;
    size_t size;
    vtrn_program *program = NULL;
    uint32_t *trace = NULL, n_blocks;
    timing_model *model = NULL;
    timing_result timing = {0};
    VTRN_RETURN_IF_ERROR(cli_read(q->path, &bytes, &size));
    vtrn_status status = cli_program_from(q->path, bytes, size, q->chip_name, &q->chip, &program);
    free(bytes);
    if (!status)
        status = runtime_outline(program, &q->chip, &trace, &n_blocks);
    if (!status)
        status = timing_prepare(&q->chip, program, &model);
    const timing_options options = {.active_cores_per_stack = q->chip.cores_per_stack};
    if (!status)
        status = timing_run(model, trace, n_blocks, &options, &timing);
    if (!status) {
        q->step_ns = timing.summary.total_ns;
        if (q->gradient_bytes < 0)
            q->gradient_bytes = (int64_t)updated_bytes(program);
    }
    timing_result_free(&timing);
    timing_model_destroy(model);
    free(trace);
    program_destroy(program);
    return status ? vtrn_status_annotate(status, "%s", q->path) : NULL;
}

/* The instance that was named, else the chip's with most chips; of equal ones, one with a price. */
static vtrn_status find_instance(query *q) {
    if (q->instance_name)
        return chip_instance_load(q->instance_name, &q->instance);
    vtrn_instance all[CHIP_MAX_INSTANCES];
    int n;
    VTRN_RETURN_IF_ERROR(chip_instances(all, CHIP_MAX_INSTANCES, &n));
    for (int i = 0; i < n; i++) {
        bool is_larger = all[i].n_chips > q->instance.n_chips ||
                         (all[i].n_chips == q->instance.n_chips &&
                          all[i].dollars_per_hour > q->instance.dollars_per_hour);
        if (strcmp(all[i].chip, q->chip.name) == 0 && is_larger)
            q->instance = all[i];
    }
    if (!q->instance.n_chips)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "no instance in instances.toml has chips of kind %s",
                          q->chip.name);
    return NULL;
}

/* All cores of the chips add up the gradients: whole buckets, then the rest, one after the other.
 */
static vtrn_status all_reduce(const query *q, point *p) {
    p->all_reduce_ns = 0;
    p->algorithm = "";
    if (p->n_cores == 1 || !q->gradient_bytes)
        return NULL;
    collective_topology *t;
    VTRN_RETURN_IF_ERROR(collective_topology_create(&q->instance, &q->chip, 1, p->n_nodes, &t));
    int *devices = malloc((size_t)p->n_cores * sizeof *devices);
    vtrn_status status = devices ? NULL : VTRN_OUT_OF_MEMORY(p->n_cores);
    for (int i = 0; !status && i < p->n_cores; i++)
        devices[i] = i;
    const int64_t most = q->chip.collective.bucket_bytes ? (int64_t)q->chip.collective.bucket_bytes
                                                         : q->gradient_bytes;
    const int64_t sizes[] = {most, q->gradient_bytes % most};
    const int64_t counts[] = {q->gradient_bytes / most, sizes[1] > 0};
    for (int i = 0; i < 2 && !status; i++) {
        collective_request request = {.op = COLLECTIVE_ALL_REDUCE,
                                      .bytes = (uint64_t)sizes[i],
                                      .devices = devices,
                                      .n_groups = 1,
                                      .group_size = p->n_cores};
        collective_time time = {0};
        if (!counts[i])
            continue;
        status = collective_estimate(t, &request, &time);
        p->all_reduce_ns += (double)counts[i] * time.duration_ns;
        if (!p->algorithm[0])
            p->algorithm = collective_algorithm_name(time.algorithm);
    }
    free(devices);
    collective_topology_destroy(t);
    return status;
}

static void print_point(const query *q, const point *p, bool is_first) {
    double step = q->step_ns + p->all_reduce_ns, efficiency = q->step_ns / step;
    double dollars = q->instance.dollars_per_hour * p->n_nodes * step / 3600e9 * 1e3;
    if (!q->is_json) {
        char step_text[32], reduce_text[32], price[32] = "not published";
        cli_time(step_text, sizeof step_text, step);
        cli_time(reduce_text, sizeof reduce_text, p->all_reduce_ns);
        if (q->instance.dollars_per_hour > 0)
            snprintf(price, sizeof price, "%.4g", dollars);
        printf("%6d %6d %9d %12s %12s %11.1f %% %10.1f %14s  %s\n", p->n_chips, p->n_cores,
               p->n_nodes, step_text, reduce_text, 100 * efficiency, p->n_cores * efficiency, price,
               p->algorithm);
        return;
    }
    printf("%s{\"chips\": %d, \"cores\": %d, \"instances\": %d, \"step_ns\": ",
           is_first ? "" : ", ", p->n_chips, p->n_cores, p->n_nodes);
    cli_json_number(stdout, step);
    printf(", \"all_reduce_ns\": ");
    cli_json_number(stdout, p->all_reduce_ns);
    printf(", \"efficiency\": ");
    cli_json_number(stdout, efficiency);
    printf(", \"speedup\": ");
    cli_json_number(stdout, p->n_cores * efficiency);
    printf(", \"algorithm\": \"%s\", \"dollars_per_1000_steps\": ", p->algorithm);
    if (q->instance.dollars_per_hour > 0)
        cli_json_number(stdout, dollars);
    else
        printf("null");
    printf("}");
}

static void print_head(const query *q) {
    if (q->is_json) {
        printf("{\"program\": ");
        cli_json_text(stdout, q->path);
        printf(", \"chip\": \"%s\", \"instance\": ", q->chip.name);
        cli_json_text(stdout, q->instance.name);
        printf(", \"core_step_ns\": ");
        cli_json_number(stdout, q->step_ns);
        printf(", \"gradient_bytes\": %lld, \"points\": [", (long long)q->gradient_bytes);
        return;
    }
    char step[32], bytes[32];
    cli_time(step, sizeof step, q->step_ns);
    cli_bytes(bytes, sizeof bytes, (double)q->gradient_bytes);
    printf("%s: %s on one core of %s, %s of gradients added up after it, on %s\n", q->path, step,
           q->chip.name, bytes, q->instance.name);
    printf("%6s %6s %9s %12s %12s %13s %10s %14s  %s\n", "chips", "cores", "instances", "step",
           "all_reduce", "efficiency", "speedup", "$/1000 steps", "algorithm");
}

static vtrn_status print_table(query *q, const int64_t *counts, int n) {
    point points[MAX_COUNTS];
    VTRN_RETURN_IF_ERROR(time_program(q));
    VTRN_RETURN_IF_ERROR(find_instance(q));
    if (!q->gradient_bytes)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s updates no argument in place, so its gradients are not known; give "
                          "--gradient-bytes, or donate the parameters (donate_argnums in JAX)",
                          q->path);
    for (int i = 0; i < n; i++) {
        int n_chips = (int)counts[i], of_instance = q->instance.n_chips;
        points[i] = (point){.n_chips = n_chips,
                            .n_cores = n_chips * q->chip.n_cores,
                            .n_nodes = (n_chips + of_instance - 1) / of_instance};
        VTRN_RETURN_IF_ERROR(all_reduce(q, &points[i]));
    }
    print_head(q);
    for (int i = 0; i < n; i++)
        print_point(q, &points[i], i == 0);
    if (q->is_json)
        printf("]}\n");
    return NULL;
}

static int run(const cli_command *self, int argc, char **argv) {
    query q = {.self = self, .gradient_bytes = -1};
    cli_list files = {.n = 0};
    int64_t counts[MAX_COUNTS];
    int code;
    const cli_option options[] = {{"--chips", CLI_TEXT, &q.counts},
                                  {"--chip", CLI_TEXT, &q.chip_name},
                                  {"--instance", CLI_TEXT, &q.instance_name},
                                  {"--gradient-bytes", CLI_NUMBER, &q.gradient_bytes},
                                  {"--json", CLI_FLAG, &q.is_json},
                                  {NULL, CLI_LIST, &files}};
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (files.n != 1)
        return cli_usage(self, "one program to scale");
    q.path = files.items[0];
    int n = parse_counts(q.counts ? q.counts : "1,2,4,...,64", counts);
    if (!n)
        return cli_usage(self,
                         "--chips %s: at most %d rising numbers from 1 to %d, as 1,2,4,...,64",
                         q.counts, MAX_COUNTS, MAX_CORES);
    vtrn_status status = print_table(&q, counts, n);
    return status ? cli_fail(status) : CLI_OK;
}

const cli_command cli_scale = {
    .name = "scale",
    .summary = "what copies of a training step would take on more chips",
    .help =
        "usage: vtrn scale FILE [--chips LIST] [options]\n\n"
        "Every core of the chips runs FILE, one core's training step on a batch of its own; then\n"
        "all cores add up the gradients, in pieces of 8 MiB, one after the other. Nothing of that\n"
        "overlaps the step, so a real step that hides communication is faster. Times only: no\n"
        "value is computed, and the program itself has no collectives.\n"
        "  --chips LIST          default 1,2,4,...,64; beyond one instance they are joined by "
        "their\n"
        "                        network\n"
        "  --gradient-bytes N    default: the arguments that FILE updates in place; with an\n"
        "                        optimiser's state among them that is too many\n"
        "  --instance NAME       default: the chip's largest\n"
        "  --chip NAME           default: the program's own; for an artifact VTRN_CHIP, else trn1\n"
        "  --json                one JSON document\n"
        "Efficiency is one core's step over the step; speedup is cores times efficiency. The "
        "price\n"
        "is of whole instances.\n\n"
        "example: vtrn scale step.mlirbc --chip trn2 --chips 1,2,4,...,64\n",
    .run = run,
};
