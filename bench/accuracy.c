/* accuracy: published costs of single instructions and transfers against the timing model's.
 *
 * Each row of accuracy.def becomes a tiny program, timed by the replay. No bar: it reports. Several
 * chip numbers were fitted to rows of this table (the chip files say which), so the errors show how
 * well the model's form fits, not how well it predicts. */
#include "tiny.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

typedef enum metric {
    DURATION,
    LAST_DURATION,
    INTERVAL,
    COLD_INTERVAL,
    CYCLES,
    DMA_START,
    DMA_DATA,
    DMA_DONE,
} metric;

typedef enum basis { DOCUMENTED, MEASURED, N_BASES } basis;

typedef struct operand {
    vtrn_space space;
    vtrn_dtype dtype;
    bool is_scalar; /* [P, 1] */
} operand;

typedef struct row {
    const char *chip, *what;
    vtrn_opcode opcode;
    vtrn_engine engine;
    operand out, in, in2;
    int partitions;
    uint32_t n;
    int op;
    metric metric;
    double published;
    basis basis;
    const char *source;
} row;

#define NONE                                                                                       \
    { VTRN_SPACE_NONE, VTRN_DTYPE_FP32, false }
#define ONE                                                                                        \
    { VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, true }
#define S32                                                                                        \
    { VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, false }
#define S16                                                                                        \
    { VTRN_SPACE_SBUF, VTRN_DTYPE_BF16, false }
#define S8                                                                                         \
    { VTRN_SPACE_SBUF, VTRN_DTYPE_FP8E4M3, false }
#define P32                                                                                        \
    { VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, false }
#define P16                                                                                        \
    { VTRN_SPACE_PSUM, VTRN_DTYPE_BF16, false }
#define H32                                                                                        \
    { VTRN_SPACE_HBM, VTRN_DTYPE_FP32, false }
#define H16                                                                                        \
    { VTRN_SPACE_HBM, VTRN_DTYPE_BF16, false }

static const row rows[] = {
#define ROW(chip, what, opcode, engine, out, in, in2, p, n, op, metric, published, basis, source)  \
    {chip,                                                                                         \
     what,                                                                                         \
     VTRN_OP_##opcode,                                                                             \
     VTRN_ENGINE_##engine,                                                                         \
     out,                                                                                          \
     in,                                                                                           \
     in2,                                                                                          \
     p,                                                                                            \
     n,                                                                                            \
     op,                                                                                           \
     metric,                                                                                       \
     published,                                                                                    \
     basis,                                                                                        \
     source},
#include "accuracy.def"
#undef ROW
/* The last N_KERNELS rows: see time_kernels. */
#define KERNEL(what, published)                                                                    \
    {                                                                                              \
        "trn2", what, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_SYNC, NONE, NONE, NONE, 0, 0, 0,        \
            DURATION, published, MEASURED, "chenhzhu/asst4-trainium2, vector add profile"          \
    }
    KERNEL("vector add, 1 tile of 2000, DMA span", 12890),
    KERNEL("vector add, 1 tile of 2000, whole launch", 28905),
    KERNEL("vector add, 2 tiles of 1000, DMA span", 10410),
    KERNEL("vector add, 2 tiles of 1000, whole launch", 26417),
};

enum { N_ROWS = sizeof rows / sizeof rows[0], N_KERNELS = 4, CHAIN = 200, SEMAPHORE = 3 };

static tiny t;

static vtrn_ap make_ap(const row *r, operand o, int64_t addr) {
    if (o.space == VTRN_SPACE_NONE)
        return (vtrn_ap){0};
    return tiny_ap(o.space, o.dtype, r->partitions, o.is_scalar ? 1 : r->n, addr);
}

/* Outputs rotate: a chain must not read what it has just written. */
static void add_instr(const row *r, int i) {
    vtrn_instr *instr = tiny_add(&t, r->opcode, r->engine);
    instr->ap[0] = make_ap(r, r->out, i % 8 * 4096);
    instr->ap[1] = make_ap(r, r->in, 131072);
    /* (data op0 s0) op1 tensor has its tensor last. */
    int last = r->opcode == VTRN_OP_SCALAR_TENSOR_TENSOR ? 3 : 2;
    instr->ap[last] = make_ap(r, r->in2, 65536);
    if (last == 3)
        instr->ap[2] = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, r->partitions, 1, 200000);
    if (r->opcode == VTRN_OP_TENSOR_REDUCE)
        instr->ap[0].dim[0].num = 1;
    if (r->opcode == VTRN_OP_ACTIVATE)
        instr->func = (uint8_t)r->op;
    else
        instr->op0 = (uint8_t)r->op;
    if (r->metric == DMA_DONE) {
        tiny_signal(instr, SEMAPHORE, 16);
        tiny_wait(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_VECTOR), SEMAPHORE, 16);
    }
}

static const timing_interval *nth_of_lane(const timing_result *result, int lane, int nth) {
    for (size_t i = 0; i < result->n_intervals; i++)
        if (result->intervals[i].lane == lane && nth-- == 0)
            return &result->intervals[i];
    return NULL;
}

static double read_metric(const row *r, const vtrn_chip *chip, const timing_result *result) {
    const timing_interval *first = nth_of_lane(result, r->engine, 0);
    const timing_interval *second = nth_of_lane(result, r->engine, 1);
    const timing_interval *before = nth_of_lane(result, r->engine, CHAIN - 2);
    const timing_interval *last = nth_of_lane(result, r->engine, CHAIN - 1);
    const timing_interval *data = nth_of_lane(result, TIMING_LANE_DMA, 0);
    const double hz[] = {chip->tensor_hz, chip->vector_hz, chip->scalar_hz, chip->gpsimd_hz,
                         chip->sync_hz};
    switch (r->metric) {
    case DURATION:
        return first->end_ns - first->start_ns;
    case LAST_DURATION:
        return last->end_ns - last->start_ns;
    case INTERVAL:
        return last->start_ns - before->start_ns;
    case COLD_INTERVAL:
        return second->start_ns - first->start_ns;
    case CYCLES:
        return (last->start_ns - before->start_ns) * hz[r->engine] / 1e9;
    case DMA_START:
        return data->start_ns - first->start_ns;
    case DMA_DATA:
        return data->end_ns - data->start_ns;
    default:
        return nth_of_lane(result, VTRN_ENGINE_VECTOR, 0)->start_ns - data->end_ns;
    }
}

static vtrn_status time_row(const row *r, double *ours) {
    vtrn_chip chip;
    timing_result result;
    const uint32_t trace[] = {0};
    VTRN_RETURN_IF_ERROR(chip_load(r->chip, &chip));
    tiny_init(&t);
    bool is_chain = r->metric == LAST_DURATION || r->metric == INTERVAL ||
                    r->metric == COLD_INTERVAL || r->metric == CYCLES;
    for (int i = 0; i < (is_chain ? CHAIN : 1); i++)
        add_instr(r, i);
    VTRN_RETURN_IF_ERROR(timing_replay(&chip, tiny_finish(&t), trace, 1, true, &result));
    *ours = read_metric(r, &chip, &result);
    timing_result_free(&result);
    return NULL;
}

/* The vector add of stanford-cs149/asst4-trainium2 (vector_add_stream, 256,000 fp32 elements):
 * 128 x n tiles, two loads, an add, a store; tiles use buffers of their own. Returns the span from
 * the first byte of a DMA to the last, and the whole launch. */
static vtrn_status time_vector_add(int n_tiles, uint32_t n, double *span_ns, double *total_ns) {
    vtrn_chip chip;
    timing_result result;
    const uint32_t trace[] = {0};
    VTRN_RETURN_IF_ERROR(chip_load("trn2", &chip));
    tiny_init(&t);
    for (int i = 0; i < n_tiles; i++) {
        int64_t at = i * 3 * (int64_t)n * 4;
        vtrn_ap hbm = tiny_ap(VTRN_SPACE_HBM, VTRN_DTYPE_FP32, 128, n, 0);
        vtrn_ap a = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, 128, n, at);
        vtrn_ap b = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, 128, n, at + n * 4);
        vtrn_ap c = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, 128, n, at + n * 8);
        tiny_signal(tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, a, hbm), 0, 16);
        tiny_signal(tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, b, hbm), 0, 16);
        vtrn_instr *add = tiny_add2(&t, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, c, a);
        add->ap[2] = b;
        add->op0 = VTRN_ALU_ADD;
        tiny_wait(add, 0, 32 * (uint32_t)(i + 1));
        tiny_signal(add, 1, 1);
        vtrn_instr *store = tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_GPSIMD, hbm, c);
        tiny_wait(store, 1, (uint32_t)i + 1);
    }
    VTRN_RETURN_IF_ERROR(timing_replay(&chip, tiny_finish(&t), trace, 1, true, &result));
    double first_ns = INFINITY, last_ns = 0;
    for (size_t i = 0; i < result.n_intervals; i++)
        if (result.intervals[i].lane >= TIMING_LANE_DMA) {
            first_ns = fmin(first_ns, result.intervals[i].start_ns);
            last_ns = fmax(last_ns, result.intervals[i].end_ns);
        }
    *span_ns = last_ns - first_ns;
    *total_ns = result.summary.total_ns;
    timing_result_free(&result);
    return NULL;
}

/* Rows that need a program of their own. */
static vtrn_status time_kernels(double ours[N_KERNELS]) {
    VTRN_RETURN_IF_ERROR(time_vector_add(1, 2000, &ours[0], &ours[1]));
    return time_vector_add(2, 1000, &ours[2], &ours[3]);
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_json(const double *ours) {
    printf("{\"rows\": [\n");
    for (int i = 0; i < N_ROWS; i++)
        printf(
            "  {\"chip\": \"%s\", \"what\": \"%s\", \"unit\": \"%s\", \"published\": %.10g, "
            "\"ours\": %.10g, \"error_percent\": %.2f, \"basis\": \"%s\", \"source\": \"%s\"}%s\n",
            rows[i].chip, rows[i].what, rows[i].metric == CYCLES ? "cycles" : "ns",
            rows[i].published, ours[i], 100 * (ours[i] / rows[i].published - 1),
            rows[i].basis == DOCUMENTED ? "documented" : "measured", rows[i].source,
            i + 1 < N_ROWS ? "," : "");
    printf("],\n");
}

static void print_table(const double *ours) {
    printf("%-5s %-47s %10s %10s %8s  %s\n", "chip", "what", "published", "ours", "error",
           "source");
    for (int i = 0; i < N_ROWS; i++)
        printf("%-5s %-47s %10.1f %10.1f %+7.1f%%  %s%s\n", rows[i].chip, rows[i].what,
               rows[i].published, ours[i], 100 * (ours[i] / rows[i].published - 1), rows[i].source,
               rows[i].metric == CYCLES ? " (cycles)" : "");
}

static void print_summary(const double *ours, bool is_json) {
    static const char *const names[N_BASES] = {"documented", "measured"};
    for (int b = 0; b < N_BASES; b++) {
        double errors[N_ROWS], worst = 0, sum = 0;
        int n = 0;
        for (int i = 0; i < N_ROWS; i++)
            if (rows[i].basis == (basis)b) {
                errors[n] = fabs(100 * (ours[i] / rows[i].published - 1));
                sum += errors[n];
                worst = fmax(worst, errors[n++]);
            }
        qsort(errors, (size_t)n, sizeof errors[0], compare_doubles);
        double median = n % 2 ? errors[n / 2] : (errors[n / 2 - 1] + errors[n / 2]) / 2;
        printf(is_json ? "\"%s\": {\"rows\": %d, \"median_error_percent\": %.2f, "
                         "\"mean_error_percent\": %.2f, \"worst_error_percent\": %.2f}%s\n"
                       : "%s: %d rows, absolute error: median %.2f %%, mean %.2f %%, worst %.2f "
                         "%%%s\n",
               names[b], n, median, sum / n, worst, is_json ? b + 1 < N_BASES ? "," : "}" : "");
    }
}

int main(int argc, char **argv) {
    bool is_json = argc > 1 && strcmp(argv[1], "--json") == 0;
    if (argc > 1 && !is_json) {
        fprintf(stderr, "usage: accuracy [--json]\n");
        return 2;
    }
    static double ours[N_ROWS];
    for (int i = 0; i <= N_ROWS - N_KERNELS; i++) {
        vtrn_status status =
            i < N_ROWS - N_KERNELS ? time_row(&rows[i], &ours[i]) : time_kernels(&ours[i]);
        if (status) {
            fprintf(stderr, "%s: %s\n", rows[i].what, vtrn_status_message(status));
            vtrn_status_free(status);
            return 1;
        }
    }
    if (is_json)
        print_json(ours);
    else
        print_table(ours);
    print_summary(ours, is_json);
    return 0;
}
