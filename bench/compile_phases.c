/* compile_phases ARTIFACT...: host time of each part between an artifact and its first step, as
 * JSON.
 *
 * A part is the fastest of many rounds: the code's own speed, whatever else the machine does.
 * plugin_us is the median of PJRT_Client_Compile, all of what JAX waits for in the plugin. */
#include "compiler/compile.h"
#include "compiler/vhlo/vhlo.h"
#include "engine/plan.h"
#include "isa/validate.h"
#include "pjrt/pjrt_args.h"
#include "timing/timing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MIN_ROUNDS = 7, MAX_ROUNDS = 200, MAX_BLOCKS = 1 << 16 };
static const double round_seconds = 1.5; /* after which no further round begins */

const PJRT_Api *GetPjrtApi(void);

/* Parts in order, each timed alone. READ is a part of GRAPH. */
typedef enum part {
    PART_READ,     /* VHLO artifact -> module */
    PART_GRAPH,    /* VHLO artifact -> verified graph */
    PART_LOWER,    /* graph -> program in streams with semaphores, scratch addresses */
    PART_VALIDATE, /* every instruction against the chip */
    PART_PLAN1,    /* order of execution for one thread */
    PART_PLAN2,    /* the same with the barriers of two threads */
    PART_PREPARE,  /* the timing model's costs */
    PART_REPLAY,   /* the timing model over every block once */
    N_PARTS
} part;

typedef struct measurement {
    double best_s[N_PARTS];
    uint32_t n_ops, n_instrs, n_barriers;
    double plugin_s[MAX_ROUNDS];
    int n_rounds;
} measurement;

static double now_s(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Notes the time since *start and begins the next part. */
static void note(measurement *m, part p, double *start_s) {
    double end_s = now_s();
    if (end_s - *start_s < m->best_s[p])
        m->best_s[p] = end_s - *start_s;
    *start_s = now_s();
}

static vtrn_status measure_plan(const vtrn_program *program, const vtrn_chip *chip, int n_threads,
                                part p, measurement *m) {
    engine_plan plan;
    double start_s = now_s();
    VTRN_RETURN_IF_ERROR(engine_plan_create(program, chip, n_threads, &plan));
    note(m, p, &start_s);
    m->n_barriers = plan.n_barriers;
    engine_plan_destroy(&plan);
    return NULL;
}

static vtrn_status measure_timing(const vtrn_program *program, const vtrn_chip *chip,
                                  measurement *m) {
    static uint32_t trace[MAX_BLOCKS];
    uint32_t n = program->n_blocks < MAX_BLOCKS ? program->n_blocks : MAX_BLOCKS;
    for (uint32_t i = 0; i < n; i++)
        trace[i] = i;
    timing_model *model;
    timing_result result;
    double start_s = now_s();
    VTRN_RETURN_IF_ERROR(timing_prepare(chip, program, &model));
    note(m, PART_PREPARE, &start_s);
    vtrn_status status = timing_run(model, trace, n, NULL, &result);
    note(m, PART_REPLAY, &start_s);
    timing_model_destroy(model);
    return status;
}

static vtrn_status measure_program(const vtrn_program *program, const vtrn_chip *chip,
                                   measurement *m) {
    double start_s = now_s();
    VTRN_RETURN_IF_ERROR(program_validate(program, chip));
    note(m, PART_VALIDATE, &start_s);
    m->n_instrs = program->n_instrs;
    VTRN_RETURN_IF_ERROR(measure_plan(program, chip, 1, PART_PLAN1, m));
    VTRN_RETURN_IF_ERROR(measure_plan(program, chip, 2, PART_PLAN2, m));
    return measure_timing(program, chip, m);
}

static vtrn_status measure_artifact(const void *bytes, size_t size, const vtrn_chip *chip,
                                    measurement *m) {
    vhlo_module *module;
    graph *g;
    vtrn_program *program;
    double start_s = now_s();
    VTRN_RETURN_IF_ERROR(vhlo_read(bytes, size, &module));
    note(m, PART_READ, &start_s);
    m->n_ops = module->n_ops;
    vhlo_destroy(module);
    start_s = now_s();
    VTRN_RETURN_IF_ERROR(graph_from_artifact(bytes, size, &g));
    note(m, PART_GRAPH, &start_s);
    vtrn_status status = compile_graph(g, chip, NULL, &program);
    note(m, PART_LOWER, &start_s);
    graph_destroy(g);
    if (status)
        return status;
    status = measure_program(program, chip, m);
    program_destroy(program);
    return status;
}

static vtrn_status plugin_error(PJRT_Error *error) {
    if (!error)
        return NULL;
    PJRT_Error_Message_Args message = {.struct_size = sizeof message, .error = error};
    GetPjrtApi()->PJRT_Error_Message(&message);
    return VTRN_ERROR(VTRN_INTERNAL, "plugin: %s", message.message);
}

/* Compiles as JAX does, once a round. */
static vtrn_status measure_plugin(PJRT_Client *client, void *bytes, size_t size, double *seconds) {
    const PJRT_Api *api = GetPjrtApi();
    PJRT_Program program = {.struct_size = sizeof program,
                            .code = bytes,
                            .code_size = size,
                            .format = "mlir",
                            .format_size = 4};
    PJRT_Client_Compile_Args args = {
        .struct_size = sizeof args, .client = client, .program = &program, .compile_options = ""};
    double start_s = now_s();
    VTRN_RETURN_IF_ERROR(plugin_error(api->PJRT_Client_Compile(&args)));
    *seconds = now_s() - start_s;
    PJRT_LoadedExecutable_Destroy_Args done = {.struct_size = sizeof done,
                                               .executable = args.executable};
    return plugin_error(api->PJRT_LoadedExecutable_Destroy(&done));
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    size_t capacity = 1 << 16, n = 0;
    uint8_t *bytes = malloc(capacity);
    while (bytes) {
        n += fread(bytes + n, 1, capacity - n, file);
        if (n < capacity)
            break;
        uint8_t *grown = realloc(bytes, capacity *= 2);
        if (!grown)
            free(bytes);
        bytes = grown;
    }
    fclose(file);
    *size = n;
    return bytes;
}

static void print(const char *path, measurement *m, bool is_first) {
    qsort(m->plugin_s, (size_t)m->n_rounds, sizeof *m->plugin_s, by_value);
    const double *s = m->best_s;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    int len = (int)strcspn(name, ".");
    double per_instr = 1e9 / (m->n_instrs ? m->n_instrs : 1);
    printf("%s  \"%.*s\": {\"n_ops\": %u, \"n_instrs\": %u, \"n_barriers\": %u,\n",
           is_first ? "" : ",\n", len, name, m->n_ops, m->n_instrs, m->n_barriers);
    printf("    \"reader_us\": %.1f, \"graph_us\": %.1f, \"lower_us\": %.1f, "
           "\"validate_us\": %.1f, \"plan1_us\": %.1f, \"plan2_us\": %.1f, "
           "\"prepare_us\": %.1f, \"replay_us\": %.1f, \"plugin_us\": %.1f,\n",
           s[PART_READ] * 1e6, s[PART_GRAPH] * 1e6, s[PART_LOWER] * 1e6, s[PART_VALIDATE] * 1e6,
           s[PART_PLAN1] * 1e6, s[PART_PLAN2] * 1e6, s[PART_PREPARE] * 1e6, s[PART_REPLAY] * 1e6,
           m->plugin_s[m->n_rounds / 2] * 1e6);
    printf("    \"reader_ns_op\": %.0f, \"lower_ns_instr\": %.0f, \"validate_ns_instr\": %.1f, "
           "\"plan1_ns_instr\": %.1f, \"plan2_ns_instr\": %.1f, \"prepare_ns_instr\": %.1f, "
           "\"replay_ns_instr\": %.1f, \"replay_minstr_s\": %.2f}",
           s[PART_READ] * 1e9 / (m->n_ops ? m->n_ops : 1), s[PART_LOWER] * per_instr,
           s[PART_VALIDATE] * per_instr, s[PART_PLAN1] * per_instr, s[PART_PLAN2] * per_instr,
           s[PART_PREPARE] * per_instr, s[PART_REPLAY] * per_instr,
           m->n_instrs / s[PART_REPLAY] * 1e-6);
}

static vtrn_status run(PJRT_Client *client, const char *path, const vtrn_chip *chip,
                       measurement *m) {
    size_t size = 0;
    void *bytes = read_file(path, &size);
    if (!bytes)
        return VTRN_ERROR(VTRN_RESOURCE, "%s: cannot be read", path);
    for (int p = 0; p < N_PARTS; p++)
        m->best_s[p] = 1e9;
    vtrn_status status = NULL;
    double start_s = now_s();
    while (!status && m->n_rounds < MAX_ROUNDS &&
           (m->n_rounds < MIN_ROUNDS || now_s() - start_s < round_seconds)) {
        status = measure_artifact(bytes, size, chip, m);
        if (!status)
            status = measure_plugin(client, bytes, size, &m->plugin_s[m->n_rounds++]);
    }
    free(bytes);
    return status;
}

int main(int argc, char **argv) {
    static measurement m;
    vtrn_chip chip;
    PJRT_Client_Create_Args client = {.struct_size = sizeof client};
    vtrn_status status = chip_load("trn1", &chip);
    if (!status)
        status = plugin_error(GetPjrtApi()->PJRT_Client_Create(&client));
    printf("{");
    for (int i = 1; i < argc && !status; i++) {
        memset(&m, 0, sizeof m);
        status = run(client.client, argv[i], &chip, &m);
        if (!status)
            print(argv[i], &m, i == 1);
    }
    printf("\n}\n");
    if (!status)
        return 0;
    fprintf(stderr, "compile_phases: %s\n", vtrn_status_message(status));
    vtrn_status_free(status);
    return 1;
}
