/* Timelines of real Trainium2 runs, replayed whole.
 *
 * A timeline is a table of instructions as the vendor's profiler prints them (NAME_instr.csv:
 * engine, opcode, operands, start_ns, dur_ns, ...) and one of DMA packets (NAME_dma.csv). The
 * instructions of the kernel become a program with the semaphores that the operands name; what the
 * runtime executes before and after is left out. The program's time from its first DMA's trigger to
 * the last byte of its last DMA stands beside that of the timeline. */
#include "accuracy.h"
#include "cost/cost.h"
#include "tiny.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    LINE_BYTES = 4096,
    NAME_BYTES = 256,
    MAX_TRACES = 128,
    N_FIELDS = 8,
    PARTITION_STEP = 1 << 18 /* bytes */
};

static const int64_t psum_address = 0x2000000;

static tiny t;
static vtrn_chip chip;
static vtrn_custom waits[VTRN_ENGINE_COUNT]; /* until an engine's kernel begins */

/* Cuts a line at its commas, in place; a quoted field may hold commas. */
static int split_line(char *line, char *fields[N_FIELDS]) {
    int n = 0;
    for (char *at = line; n < N_FIELDS;) {
        bool is_quoted = *at == '"';
        fields[n++] = at += is_quoted;
        at += strcspn(at, is_quoted ? "\"" : ",\r\n");
        char *end = at;
        if (is_quoted && *at)
            at++;
        bool is_last = *at != ',';
        *end = 0;
        if (is_last)
            break;
        at++;
    }
    return n;
}

static int engine_of(const char *name) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        if (strncmp(name, isa_engine_name(e), strlen(isa_engine_name(e))) == 0)
            return e; /* "TensorMatrix" is Tensor's second stream */
    return -1;
}

/* "key=dtype@address[steps][nums]": innermost dimension first. */
static vtrn_ap parse_ap(const char *operands, const char *key) {
    vtrn_ap ap = {.n_partitions = 128, .dtype = VTRN_DTYPE_FP32, .partition_step = 1};
    const char *at = strstr(operands, key);
    if (!at)
        return (vtrn_ap){0};
    at += strlen(key);
    if (strncmp(at, "bf", 2) == 0)
        ap.dtype = VTRN_DTYPE_BF16;
    at += strncmp(at, "0x", 2) == 0 ? 0 : strcspn(at, "@") + 1;
    ap.addr = strtoll(at, NULL, 16);
    ap.space = ap.addr >= psum_address ? VTRN_SPACE_PSUM : VTRN_SPACE_SBUF;
    ap.addr -= ap.space == VTRN_SPACE_PSUM ? psum_address : 0;
    at = strchr(at, '[');
    const char *nums = at ? strchr(at + 1, '[') : NULL;
    if (!nums)
        return ap;
    int32_t steps[VTRN_MAX_FREE_DIMS];
    uint32_t sizes[VTRN_MAX_FREE_DIMS];
    for (int i = 0; i < VTRN_MAX_FREE_DIMS; i++) {
        steps[i] = (int32_t)strtol(at + 1, (char **)&at, 10);
        sizes[i] = (uint32_t)strtol(nums + 1, (char **)&nums, 10);
        if (sizes[i] > 1) {
            memmove(ap.dim + 1, ap.dim, ap.n_dims * sizeof ap.dim[0]);
            ap.dim[0] = (vtrn_dim){steps[i], sizes[i]};
            ap.n_dims++;
        }
        if (*nums != ',')
            break;
    }
    if (!ap.n_dims) {
        ap.dim[0] = (vtrn_dim){1, 1};
        ap.n_dims = 1;
    }
    return ap;
}

/* "[step,step][num,num]" of a DMA in bytes and elements of elem_bytes: its SBUF side is the one
 * with a step from partition to partition. */
static vtrn_ap parse_dma_side(const char *operands, const char *side) {
    char key[32];
    snprintf(key, sizeof key, "%s_elem_size=", side);
    int64_t elem_bytes = strtoll(strstr(operands, key) + strlen(key), NULL, 10);
    snprintf(key, sizeof key, "%s_pattern=[", side);
    char *at = strstr(operands, key) + strlen(key);
    int64_t step[2], num[2];
    step[0] = strtoll(at, &at, 10);
    step[1] = strtoll(at + 1, &at, 10);
    num[0] = strtoll(at + 2, &at, 10);
    num[1] = strtoll(at + 1, &at, 10);
    int rows_i = num[1] == 128 ? 1 : 0;
    vtrn_ap ap = {.dtype = VTRN_DTYPE_FP32, .n_dims = 2, .partition_step = 1};
    if (strstr(operands, "dtype=bf") || elem_bytes == 256)
        ap.dtype = VTRN_DTYPE_BF16;
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap.dtype);
    ap.space = step[rows_i] == PARTITION_STEP ? VTRN_SPACE_SBUF : VTRN_SPACE_HBM;
    ap.n_partitions = (uint16_t)num[rows_i];
    if (ap.space == VTRN_SPACE_HBM)
        ap.partition_step = step[rows_i] / size;
    ap.dim[0] = (vtrn_dim){(int32_t)(step[!rows_i] / size), (uint32_t)num[!rows_i]};
    ap.dim[1] = (vtrn_dim){1, (uint32_t)(elem_bytes / size)};
    return ap;
}

static void add_semaphores(vtrn_instr *instr, const char *operands) {
    for (const char *at = operands; (at = strstr(at, "S[")); at++) {
        int number = atoi(at + 2);
        const char *relation = strchr(at, ')');
        if ((at > operands && at[-1] == '$') || !relation)
            continue;
        if (strncmp(relation, ")>=", 3) == 0)
            tiny_wait(instr, number, (uint32_t)atoi(relation + 3));
        else if (strncmp(relation, ")++", 3) == 0)
            tiny_signal(instr, number, 1);
    }
    const char *raised = strstr(operands, "semaphore=");
    if (raised && strstr(operands, "sem_increment=16"))
        tiny_signal(instr, atoi(raised + 10), 16);
}

/* An fp32 instruction makes two passes: LOW, HIGH, or a transpose. */
static void set_tensor_operands(vtrn_instr *instr, const char *operands, bool is_load) {
    bool is_fp32 = strstr(operands, "fp32_mode") != NULL;
    instr->ap[1] = parse_ap(operands, "src=");
    uint32_t n = (uint32_t)isa_ap_free_size(&instr->ap[1]);
    instr->ap[1].n_dims = 1;
    instr->ap[1].dtype = is_load && is_fp32 ? VTRN_DTYPE_FP32 : VTRN_DTYPE_BF16;
    instr->ap[1].dim[0] = (vtrn_dim){1, is_load ? n : n * (is_fp32 ? 2 : 1)};
    if (is_load && is_fp32) /* of the four passes of a whole fp32 load */
        instr->ap[1].dim[0].num = strstr(operands, "ENABLED") ? n / 4 : n / 2;
    if (!is_load)
        instr->ap[0] = parse_ap(operands, "dst=");
}

/* False: not an instruction of the kernel. */
static bool add_instr(int engine, const char *opcode, const char *operands) {
    static const struct {
        const char *name;
        vtrn_opcode opcode;
    } known[] = {
        {"LDWEIGHTS", VTRN_OP_LDWEIGHTS},
        {"MATMUL", VTRN_OP_MATMUL},
        {"ACTIVATE", VTRN_OP_ACTIVATE},
        {"COPY", VTRN_OP_TENSOR_COPY},
        {"CAST", VTRN_OP_TENSOR_COPY},
        {"TENSOR_REDUCE", VTRN_OP_TENSOR_REDUCE},
        {"TENSOR_SCALAR", VTRN_OP_TENSOR_SCALAR},
        {"RECIPROCAL", VTRN_OP_RECIPROCAL},
        {"DMA_DIRECT2D", VTRN_OP_DMA_COPY},
        {"ACT_TABLE_LOAD", VTRN_OP_ACT_TABLE_LOAD},
        {"EVENT_SEMAPHORE", VTRN_OP_EVENT_SEMAPHORE},
        {"NOP", VTRN_OP_EVENT_SEMAPHORE},
    };
    int i = 0, n = sizeof known / sizeof known[0];
    while (i < n && strcmp(opcode, known[i].name) != 0)
        i++;
    bool is_control = i < n && known[i].opcode == VTRN_OP_EVENT_SEMAPHORE;
    if (i == n || (is_control && (!strstr(operands, ")>=") || operands[0] == '$')))
        return false;
    vtrn_instr *instr = tiny_add(&t, known[i].opcode, (vtrn_engine)engine);
    add_semaphores(instr, operands);
    if (instr->opcode == VTRN_OP_DMA_COPY) {
        instr->ap[0] = parse_dma_side(operands, "dst");
        instr->ap[1] = parse_dma_side(operands, "src");
        instr->queue = (uint8_t)engine;
    } else if (engine == VTRN_ENGINE_TENSOR && !is_control) {
        set_tensor_operands(instr, operands, instr->opcode == VTRN_OP_LDWEIGHTS);
    } else if (!is_control) {
        instr->ap[0] = parse_ap(operands, "dst=");
        instr->ap[1] = parse_ap(operands, "src=");
        instr->func = VTRN_ACT_EXP;
        instr->op0 = strstr(operands, "MAX") ? VTRN_ALU_MAX : VTRN_ALU_ADD;
        if (strstr(operands, "imm_src=PTR"))
            instr->ap[2] = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, 128, 1, 0x30000);
    }
    return true;
}

/* An engine whose first instruction waits for no semaphore starts when the timeline says. */
static bool add_first(int engine, char *f[N_FIELDS], double delay_ns) {
    uint32_t n = t.n_added;
    tiny_add(&t, VTRN_OP_CUSTOM_OP, (vtrn_engine)engine)->arg[0] = engine;
    if (!add_instr(engine, f[1], f[2])) {
        t.n_added = n;
        memset(&t.added[n], 0, sizeof t.added[n]);
        return false;
    }
    /* GpSimd's DMAs appear when their descriptors have been generated. */
    if (engine == VTRN_ENGINE_GPSIMD && t.added[n + 1].opcode == VTRN_OP_DMA_COPY)
        delay_ns = fmax(delay_ns - cost_instr(&chip, &t.added[n + 1]).latency_ns, 0);
    waits[engine].flops = t.added[n + 1].n_waits ? 0 : (uint64_t)delay_ns;
    return true;
}

/* The PE array's dI/dt limit has a clock that no launch resets: a window begins where the array
 * first runs warm. A matmul of n cycles lasts about 160 ns longer than its stream. */
static bool is_warm_matmul(char *f[N_FIELDS]) {
    vtrn_ap src = parse_ap(f[2], "src=");
    double passes = strstr(f[2], "fp32_mode") ? 2 : 1;
    double stream_ns = passes * (double)isa_ap_free_size(&src) / chip.tensor_hz * 1e9;
    return atof(f[4]) < 1.5 * stream_ns + 160;
}

/* What a timeline says; times are its own. */
typedef struct timeline {
    double first_trigger_ns, last_byte_ns;
    double window_ns; /* first warm matmul; INFINITY: none */
    double end_ns[VTRN_ENGINE_COUNT], busy_ns[VTRN_ENGINE_COUNT];
} timeline;

static void read_marks(FILE *file, timeline *out) {
    char line[LINE_BYTES], *f[N_FIELDS];
    while (fgets(line, sizeof line, file)) {
        if (split_line(line, f) < 5)
            continue;
        double start_ns = atof(f[3]);
        if (strcmp(f[1], "DMA_DIRECT2D") == 0)
            out->first_trigger_ns = fmin(out->first_trigger_ns, start_ns);
        if (strcmp(f[1], "MATMUL") == 0 && is_warm_matmul(f))
            out->window_ns = fmin(out->window_ns, start_ns);
    }
}

static void keep_engine_time(timeline *out, int engine, const char *opcode, double start_ns,
                             double end_ns) {
    bool is_control = strcmp(opcode, "EVENT_SEMAPHORE") == 0 || strcmp(opcode, "NOP") == 0 ||
                      strcmp(opcode, "DMA_DIRECT2D") == 0;
    if (!is_control)
        out->busy_ns[engine] += fmax(end_ns - fmax(start_ns, out->end_ns[engine]), 0);
    out->end_ns[engine] = fmax(out->end_ns[engine], end_ns);
}

static vtrn_status read_instrs(const char *path, timeline *out) {
    FILE *file = fopen(path, "r");
    if (!file)
        return VTRN_ERROR(VTRN_RESOURCE, "cannot open '%s'", path);
    char line[LINE_BYTES], *f[N_FIELDS];
    bool has_begun[VTRN_ENGINE_COUNT] = {0};
    read_marks(file, out);
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        int engine = split_line(line, f) < 5 ? -1 : engine_of(f[0]);
        double start_ns = engine < 0 ? 0 : atof(f[3]);
        if (engine < 0 || start_ns < out->first_trigger_ns || t.n_added + 1 >= TINY_MAX)
            continue;
        bool is_kept = has_begun[engine] ? add_instr(engine, f[1], f[2])
                                         : add_first(engine, f, start_ns - out->first_trigger_ns);
        has_begun[engine] |= is_kept;
        if (is_kept)
            keep_engine_time(out, engine, f[1], start_ns, start_ns + atof(f[4]));
    }
    fclose(file);
    return NULL;
}

static vtrn_status read_last_byte(const char *path, timeline *out) {
    FILE *file = fopen(path, "r");
    if (!file)
        return VTRN_ERROR(VTRN_RESOURCE, "cannot open '%s'", path);
    char line[LINE_BYTES], *f[N_FIELDS];
    while (fgets(line, sizeof line, file))
        if (split_line(line, f) >= 6 && strcmp(f[2], "instruction") != 0 && atof(f[3]) > 4)
            out->last_byte_ns = fmax(out->last_byte_ns, atof(f[4]) + atof(f[5]));
    fclose(file);
    return NULL;
}

/* To stderr: where each engine is at the end of the kernel, and how long it worked. */
static void print_engines(const timing_result *result, const timeline *real) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        double last_ns = 0;
        for (size_t i = 0; i < result->n_intervals; i++)
            if (result->intervals[i].lane == e)
                last_ns = fmax(last_ns, result->intervals[i].end_ns - chip.launch.preamble_ns);
        if (real->end_ns[e] > 0)
            fprintf(stderr,
                    "  %-6s  ends at %8.0f ns, published %8.0f;  active %8.0f, published %8.0f\n",
                    isa_engine_name(e), last_ns, real->end_ns[e] - real->first_trigger_ns,
                    result->summary.active_ns[e], real->busy_ns[e]);
    }
}

static vtrn_status time_trace(const timeline *real, double *ours_ns) {
    timing_result result;
    timing_model *model;
    const uint32_t block_trace[] = {0};
    timing_options options = {.want_intervals = true};
    if (isfinite(real->window_ns))
        options.pe_window_ns = chip.launch.preamble_ns + real->window_ns - real->first_trigger_ns;
    tiny_finish(&t);
    t.program.customs = waits;
    t.program.n_customs = VTRN_ENGINE_COUNT;
    VTRN_RETURN_IF_ERROR(timing_prepare(&chip, &t.program, &model));
    vtrn_status status = timing_run(model, block_trace, 1, &options, &result);
    timing_model_destroy(model);
    VTRN_RETURN_IF_ERROR(status);
    double last_ns = 0;
    for (size_t i = 0; i < result.n_intervals; i++)
        if (result.intervals[i].lane >= TIMING_LANE_DMA)
            last_ns = fmax(last_ns, result.intervals[i].end_ns);
    *ours_ns = last_ns - chip.launch.preamble_ns;
    print_engines(&result, real);
    timing_result_free(&result);
    return NULL;
}

/* The PE array's threshold was chosen by these. */
static const char *half_of(const char *name) {
    return strstr(name, "fused") ? "fitted" : "unseen";
}

static vtrn_status print_trace(const char *directory, const char *name) {
    char path[LINE_BYTES];
    timeline real = {.first_trigger_ns = INFINITY, .window_ns = INFINITY};
    tiny_init(&t);
    memset(waits, 0, sizeof waits);
    snprintf(path, sizeof path, "%s/%s_instr.csv", directory, name);
    VTRN_RETURN_IF_ERROR(read_instrs(path, &real));
    if (!isfinite(real.first_trigger_ns))
        return NULL; /* a timeline without opcodes cannot be replayed */
    snprintf(path, sizeof path, "%s/%s_dma.csv", directory, name);
    VTRN_RETURN_IF_ERROR(read_last_byte(path, &real));
    accuracy_row row = {.group = "trace",
                        .name = name,
                        .chip = "trn2",
                        .source = "allenkchau/trainium-kernel-fusion, profile",
                        .unit = "ns",
                        .half = half_of(name),
                        .published = real.last_byte_ns - real.first_trigger_ns};
    VTRN_RETURN_IF_ERROR(time_trace(&real, &row.ours));
    accuracy_print(&row);
    return NULL;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

vtrn_status accuracy_traces(const char *directory) {
    static char names[MAX_TRACES][NAME_BYTES];
    static const char suffix[] = "_instr.csv";
    size_t n = 0;
    DIR *dir = opendir(directory);
    if (!dir)
        return VTRN_ERROR(VTRN_RESOURCE, "cannot open the directory '%s'", directory);
    for (struct dirent *entry; (entry = readdir(dir)) && n < MAX_TRACES;) {
        size_t len = strlen(entry->d_name), cut = sizeof suffix - 1;
        if (len <= cut || len - cut >= NAME_BYTES || strcmp(entry->d_name + len - cut, suffix) != 0)
            continue;
        memcpy(names[n], entry->d_name, len - cut);
        names[n++][len - cut] = 0;
    }
    closedir(dir);
    qsort(names, n, sizeof names[0], compare_names);
    VTRN_RETURN_IF_ERROR(chip_load("trn2", &chip));
    chip.custom.start_ns = 0;
    chip.custom.flops_per_s = 1e9; /* so that "flops" are ns */
    for (size_t i = 0; i < n; i++)
        VTRN_RETURN_IF_ERROR(print_trace(directory, names[i]));
    return NULL;
}
