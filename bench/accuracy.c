/* accuracy: published measurements of the hardware against the timing model's, a row a line.
 *
 * Each row of accuracy.def becomes a tiny program, timed by the replay; accuracy_kernels.c has
 * whole kernels, accuracy_trace.c whole timelines. It reports and never judges. */
#include "accuracy.h"
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
    DEPENDENT,
    CYCLES,
    DMA_START,
    DMA_DATA,
    DMA_DONE,
    DMA_PACKET,
    DMA_QUEUE,
    DMA_ISSUE,
    DMA_THREE,
    DMA_SHARE,
} metric;

typedef enum rings { STATIC, DGE } rings;

typedef struct operand {
    vtrn_space space;
    vtrn_dtype dtype;
    bool is_scalar; /* [P, 1] */
} operand;

typedef struct row {
    const char *group, *half, *chip, *what;
    vtrn_opcode opcode;
    vtrn_engine engine;
    operand out, in, in2;
    int partitions;
    uint32_t n;
    int op;
    metric metric;
    double published;
    const char *source;
} row;

typedef struct dma_row {
    const char *half, *chip;
    rings rings;
    const char *what;
    vtrn_engine engine;
    bool is_store;
    int partitions;
    uint32_t bytes, n_runs; /* of a partition */
    metric metric;
    double published;
    const char *source;
} dma_row;

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

#define DMA(...)
static const row rows[] = {
#define ROW(group, half, chip, what, opcode, engine, out, in, in2, p, n, op, metric, published,    \
            source)                                                                                \
    {group, half,   chip,      what,  VTRN_OP_##opcode, VTRN_ENGINE_##engine, out, in, in2, p, n,  \
     op,    metric, published, source},
#include "accuracy.def"
#undef ROW
#undef DMA
};

#define ROW(...)
static const dma_row dma_rows[] = {
#define DMA(half, chip, rings, what, engine, is_store, p, bytes, n_runs, metric, published,        \
            source)                                                                                \
    {half,   chip,   rings,     what,  VTRN_ENGINE_##engine, is_store, p, bytes,                   \
     n_runs, metric, published, source},
#include "accuracy.def"
#undef ROW
#undef DMA
};

enum {
    N_ROWS = sizeof rows / sizeof rows[0],
    N_DMA_ROWS = sizeof dma_rows / sizeof dma_rows[0],
    CHAIN = 200,
    DMA_CHAIN = 40,
    SEMAPHORE = 3,
};

static tiny t;

static vtrn_ap make_ap(const row *r, operand o, int64_t addr) {
    if (o.space == VTRN_SPACE_NONE)
        return (vtrn_ap){0};
    return tiny_ap(o.space, o.dtype, r->partitions, o.is_scalar ? 1 : r->n, addr);
}

/* Outputs rotate: only a dependent chain reads what it has just written. */
static void add_instr(const row *r, int i) {
    vtrn_instr *instr = tiny_add(&t, r->opcode, r->engine);
    bool is_dependent = r->metric == DEPENDENT;
    instr->ap[0] = make_ap(r, r->out, is_dependent ? 131072 : i % 8 * 4096);
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
    const double hz[] = {chip->tensor_hz, chip->vector_hz, chip->scalar_hz, chip->gpsimd_hz,
                         chip->sync_hz};
    switch (r->metric) {
    case DURATION:
        return first->end_ns - first->start_ns;
    case LAST_DURATION:
        return last->end_ns - last->start_ns;
    case COLD_INTERVAL:
        return second->start_ns - first->start_ns;
    case CYCLES:
        return (last->start_ns - before->start_ns) * hz[r->engine] / 1e9;
    default:
        return last->start_ns - before->start_ns;
    }
}

static vtrn_status time_row(const row *r, double *ours) {
    vtrn_chip chip;
    timing_result result;
    const uint32_t trace[] = {0};
    VTRN_RETURN_IF_ERROR(chip_load(r->chip, &chip));
    tiny_init(&t);
    for (int i = 0; i < (r->metric == DURATION ? 1 : CHAIN); i++)
        add_instr(r, i);
    VTRN_RETURN_IF_ERROR(timing_replay(&chip, tiny_finish(&t), trace, 1, true, &result));
    *ours = read_metric(r, &chip, &result);
    timing_result_free(&result);
    return NULL;
}

static void add_dma(const dma_row *r, int partitions, uint32_t bytes) {
    vtrn_ap sbuf = tiny_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, partitions, bytes / 4, 0);
    vtrn_ap hbm = tiny_ap(VTRN_SPACE_HBM, VTRN_DTYPE_FP32, partitions, bytes / 4, 0);
    if (r->n_runs > 1) { /* runs a row apart */
        hbm.n_dims = 2;
        hbm.dim[1] = (vtrn_dim){1, bytes / 4 / r->n_runs};
        hbm.dim[0] = (vtrn_dim){(int32_t)(bytes / 4) * partitions, r->n_runs};
    }
    vtrn_instr *dma = tiny_add(&t, VTRN_OP_DMA_COPY, r->engine);
    dma->ap[0] = r->is_store ? hbm : sbuf;
    dma->ap[1] = r->is_store ? sbuf : hbm;
    tiny_signal(dma, SEMAPHORE, 16);
}

/* n DMAs, then what waits for the last of them. */
static vtrn_status run_dmas(const dma_row *r, int partitions, uint32_t bytes, int n,
                            timing_result *out) {
    static vtrn_chip chip;
    const uint32_t trace[] = {0};
    VTRN_RETURN_IF_ERROR(chip_load(r->chip, &chip));
    chip.dma.uses_dge = r->rings == DGE;
    tiny_init(&t);
    for (int i = 0; i < n; i++)
        add_dma(r, partitions, bytes);
    tiny_wait(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_VECTOR), SEMAPHORE,
              16 * (uint32_t)n);
    return timing_replay(&chip, tiny_finish(&t), trace, 1, true, out);
}

static vtrn_status phase_ns(const dma_row *r, int partitions, uint32_t bytes, int n, double *out) {
    timing_result result;
    VTRN_RETURN_IF_ERROR(run_dmas(r, partitions, bytes, n, &result));
    *out = nth_of_lane(&result, TIMING_LANE_DMA, n - 1)->end_ns -
           nth_of_lane(&result, TIMING_LANE_DMA, 0)->start_ns;
    timing_result_free(&result);
    return NULL;
}

static vtrn_status queue_ns(const dma_row *r, uint32_t bytes, double *out) {
    double all_ns, fewer_ns;
    VTRN_RETURN_IF_ERROR(phase_ns(r, r->partitions, bytes, DMA_CHAIN, &all_ns));
    VTRN_RETURN_IF_ERROR(phase_ns(r, r->partitions, bytes, DMA_CHAIN - 1, &fewer_ns));
    *out = all_ns - fewer_ns;
    return NULL;
}

static vtrn_status time_dma_row(const dma_row *r, double *ours) {
    enum { PLATEAU_BYTES = 32768 };
    double ns, other_ns;
    timing_result result;
    switch (r->metric) {
    case DMA_DATA:
        return phase_ns(r, r->partitions, r->bytes, 1, ours);
    case DMA_THREE:
        return phase_ns(r, r->partitions, r->bytes, 3, ours);
    case DMA_QUEUE:
        return queue_ns(r, r->bytes, ours);
    case DMA_PACKET:
        VTRN_RETURN_IF_ERROR(phase_ns(r, r->partitions, r->bytes, 1, &ns));
        VTRN_RETURN_IF_ERROR(phase_ns(r, r->partitions - 1, r->bytes, 1, &other_ns));
        *ours = ns - other_ns;
        return NULL;
    case DMA_SHARE:
        VTRN_RETURN_IF_ERROR(queue_ns(r, r->bytes, &ns));
        VTRN_RETURN_IF_ERROR(queue_ns(r, PLATEAU_BYTES, &other_ns));
        *ours = r->bytes / ns / (PLATEAU_BYTES / other_ns);
        return NULL;
    default:
        break;
    }
    VTRN_RETURN_IF_ERROR(run_dmas(r, r->partitions, r->bytes, 2, &result));
    const timing_interval *trigger = nth_of_lane(&result, r->engine, 0);
    const timing_interval *data = nth_of_lane(&result, TIMING_LANE_DMA, 0);
    if (r->metric == DMA_START)
        *ours = data->start_ns - trigger->start_ns;
    else if (r->metric == DMA_ISSUE)
        *ours = nth_of_lane(&result, r->engine, 1)->start_ns - trigger->start_ns;
    else
        *ours = nth_of_lane(&result, VTRN_ENGINE_VECTOR, 0)->start_ns -
                nth_of_lane(&result, TIMING_LANE_DMA, 1)->end_ns;
    timing_result_free(&result);
    return NULL;
}

static bool is_json;

void accuracy_print(const accuracy_row *r) {
    double error = r->ours / r->published - 1;
    if (is_json)
        printf("{\"group\": \"%s\", \"name\": \"%s\", \"chip\": \"%s\", \"source\": \"%s\", "
               "\"published\": %.10g, \"ours\": %.10g, \"unit\": \"%s\", \"half\": \"%s\"}\n",
               r->group, r->name, r->chip, r->source, r->published, r->ours, r->unit, r->half);
    else
        printf("%-11s %-7s %-5s %-47s %10.4g %10.4g %-6s %+7.1f%%  %s\n", r->group, r->half,
               r->chip, r->name, r->published, r->ours, r->unit, 100 * error, r->source);
}

static vtrn_status print_rows(void) {
    for (int i = 0; i < N_ROWS; i++) {
        const row *r = &rows[i];
        accuracy_row out = {r->group, r->what, r->chip, r->source, "ns", r->half, r->published, 0};
        if (r->metric == CYCLES)
            out.unit = "cycles";
        VTRN_RETURN_IF_ERROR(time_row(r, &out.ours));
        accuracy_print(&out);
    }
    for (int i = 0; i < N_DMA_ROWS; i++) {
        const dma_row *r = &dma_rows[i];
        accuracy_row out = {"dma", r->what, r->chip, r->source, "ns", r->half, r->published, 0};
        if (r->metric == DMA_SHARE)
            out.unit = "ratio";
        VTRN_RETURN_IF_ERROR(time_dma_row(r, &out.ours));
        accuracy_print(&out);
    }
    return NULL;
}

int main(int argc, char **argv) {
    const char *traces = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            is_json = true;
        } else if (strcmp(argv[i], "--traces") == 0 && i + 1 < argc) {
            traces = argv[++i];
        } else {
            fprintf(stderr, "usage: accuracy [--json] [--traces DIRECTORY]\n");
            return 2;
        }
    }
    vtrn_status status = print_rows();
    if (!status)
        status = accuracy_kernels();
    if (!status && traces)
        status = accuracy_traces(traces);
    if (!status)
        return 0;
    fprintf(stderr, "%s\n", vtrn_status_message(status));
    vtrn_status_free(status);
    return 1;
}
