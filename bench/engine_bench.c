/* How fast the engines work on one core of this host, against what the core can do.
 *
 *   peak    fused multiply-adds from registers at the widest vectors, measured in the same run
 *   tensor  ldweights + matmul of a 128x128x512 tile that lies in SBUF
 *   vector  bytes read and written a second on a 128x512 fp32 tile, against memcpy of one such tile
 *   scalar  elements a second through an activation function, same tile
 *
 * Samples of all figures take turns, so that a change of the clock or of the neighbours' load meets
 * all of them. A figure is the rate that a tenth of its samples reach, the same tenth for the code
 * and for what it is held against: the rest is what neighbours took on a shared host. The medians
 * of the tensor tile stand beside it. Times are CPU time of the thread. */
#include "base/cpu.h"
#include "engine/engine.h"
#include "engine/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    N_SAMPLES = 91,
    ROWS = 128,
    COLS = 512,
    TILE_BYTES = ROWS * COLS * 4,
    N_SUMS = 12, /* enough to cover the latency of two multipliers */
};
static const double sample_s = 6e-3;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile float sink;

/* Each gives the number of floating-point operations done. */
static double peak_plain(int n) {
    float sum[N_SUMS] = {0}, a = 1.0001f, b = 0.5f;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < N_SUMS; k++)
            sum[k] = sum[k] * a + b;
    for (int k = 0; k < N_SUMS; k++)
        sink = sum[k];
    return 2.0 * N_SUMS * n;
}

#if defined(__x86_64__)
#define PEAK(name, isa, vector, width, set, fma, store)                                            \
    __attribute__((target(isa))) static double name(int n) {                                       \
        vector sum[N_SUMS], a = set(1.0001f), b = set(0.5f);                                       \
        float out[width];                                                                          \
        for (int k = 0; k < N_SUMS; k++)                                                           \
            sum[k] = set((float)k);                                                                \
        for (int i = 0; i < n; i++) {                                                              \
            _Pragma("GCC unroll 12") for (int k = 0; k < N_SUMS; k++) sum[k] = fma(sum[k], a, b);  \
        }                                                                                          \
        for (int k = 0; k < N_SUMS; k++) {                                                         \
            store(out, sum[k]);                                                                    \
            sink = out[0];                                                                         \
        }                                                                                          \
        return 2.0 * width * N_SUMS * n;                                                           \
    }
PEAK(peak_avx2, "avx2,fma", __m256, 8, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps)
PEAK(peak_avx512, "avx512f", __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps)
#endif

static double peak(int n) {
#if defined(__x86_64__)
    if (cpu_level_get() == CPU_LEVEL_AVX512)
        return peak_avx512(n);
    if (cpu_level_get() == CPU_LEVEL_AVX2)
        return peak_avx2(n);
#endif
    return peak_plain(n);
}

/* One thing that is timed: up to two instructions, or a plain function. */
typedef struct subject {
    const char *name;
    vtrn_instr instr[2];
    int n_instrs;
    double work; /* a repetition: operations, bytes or elements */
    bool is_missing;
    int n_reps;
    double rate[N_SAMPLES]; /* work a second */
} subject;

static engine_core core;
static uint8_t *copy_from, *copy_to;

static vtrn_status repeat(subject *s, int n) {
    if (!strcmp(s->name, "peak")) {
        s->work = peak(1000 * n) / n;
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        if (!s->n_instrs) {
            memcpy(copy_to, copy_from, TILE_BYTES);
            __asm__ volatile("" ::: "memory");
        }
        for (int k = 0; k < s->n_instrs; k++)
            VTRN_RETURN_IF_ERROR(engine_table[s->instr[k].opcode](&core, &s->instr[k], NULL, 0));
    }
    return NULL;
}

static bool report(vtrn_status status) {
    if (!status)
        return true;
    fprintf(stderr, "%s\n", vtrn_status_message(status));
    vtrn_status_free(status);
    return false;
}

/* As many repetitions as fill a sample. */
static void calibrate(subject *s) {
    s->n_reps = 1;
    for (;;) {
        double start_s = now_s();
        vtrn_status status = repeat(s, s->n_reps);
        if (status) {
            s->is_missing = true;
            report(status);
            return;
        }
        if (now_s() - start_s >= sample_s / 2 || s->n_reps > 1 << 24)
            return;
        s->n_reps *= 2;
    }
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The rate that a share of the samples reach. */
static double rate_of(subject *s, double share) {
    if (s->is_missing)
        return NAN;
    qsort(s->rate, N_SAMPLES, sizeof s->rate[0], compare_doubles);
    return s->rate[(int)(N_SAMPLES * (1.0 - share))];
}

static vtrn_ap tile(int space, int dtype, int n_partitions, uint32_t n, int64_t addr) {
    return (vtrn_ap){.space = (uint8_t)space,
                     .dtype = (uint8_t)dtype,
                     .n_dims = 1,
                     .n_partitions = (uint16_t)n_partitions,
                     .partition_step = 1,
                     .addr = addr,
                     .dim = {{1, n}}};
}

static subject tensor_subject(const char *name, int dtype) {
    subject s = {.name = name, .n_instrs = 2, .work = 2.0 * ROWS * ROWS * COLS};
    s.instr[0] = (vtrn_instr){.opcode = VTRN_OP_LDWEIGHTS, .engine = VTRN_ENGINE_TENSOR};
    s.instr[0].ap[1] = tile(VTRN_SPACE_SBUF, dtype, ROWS, ROWS, 0);
    s.instr[1] = (vtrn_instr){.opcode = VTRN_OP_MATMUL, .engine = VTRN_ENGINE_TENSOR};
    s.instr[1].ap[0] = tile(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, ROWS, COLS, 0);
    s.instr[1].ap[1] = tile(VTRN_SPACE_SBUF, dtype, ROWS, COLS, 4096);
    return s;
}

static subject vector_subject(const char *name, int opcode, int alu) {
    int n_inputs = opcode == VTRN_OP_TENSOR_TENSOR ? 2 : 1;
    subject s = {.name = name, .n_instrs = 1, .work = (n_inputs + 1.0) * TILE_BYTES};
    s.instr[0] =
        (vtrn_instr){.opcode = (uint16_t)opcode, .engine = VTRN_ENGINE_VECTOR, .op0 = (uint8_t)alu};
    for (int i = 0; i <= n_inputs; i++)
        s.instr[0].ap[i] = tile(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, ROWS, COLS, 8192 + 4096 * i);
    return s;
}

static subject scalar_subject(const char *name, int func) {
    subject s = {.name = name, .n_instrs = 1, .work = (double)ROWS * COLS};
    s.instr[0] = (vtrn_instr){.opcode = VTRN_OP_ACTIVATE,
                              .engine = VTRN_ENGINE_SCALAR,
                              .func = (uint8_t)func,
                              .imm = {{.f = 1.0f}, {.f = 0.0f}}};
    s.instr[0].ap[0] = tile(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, ROWS, COLS, 8192);
    s.instr[0].ap[1] = tile(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, ROWS, COLS, 12288);
    return s;
}

enum {
    PEAK_FMA,
    TENSOR_FP32,
    TENSOR_BF16,
    MEMCPY,
    VECTOR_COPY,
    VECTOR_ADD,
    VECTOR_MUL,
    VECTOR_MAX,
    SCALAR_EXP,
    SCALAR_TANH,
    SCALAR_GELU,
    N_SUBJECTS
};

/* Numbers of ordinary size everywhere: -2 to 2, also when read as bf16. */
static void fill_memories(void) {
    uint32_t state = 1;
    for (int p = 0; p < core.sbuf.n_partitions; p++)
        for (int i = 0; i < 32768 / 4; i++) {
            state = state * 1664525u + 1013904223u;
            float value = (float)(int32_t)state * 0x1p-30f;
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            bits = (bits & 0xffff0000u) | bits >> 16;
            memcpy(core.sbuf.base + (size_t)p * core.sbuf.stride + 4 * i, &bits, sizeof bits);
        }
}

static void print_number(bool is_json, const char *name, double value, const char *unit,
                         bool is_last) {
    if (!is_json && isnan(value))
        printf("%-28s %9s  %s\n", name, "-", unit);
    else if (!is_json)
        printf("%-28s %9.3f  %s\n", name, value, unit);
    else if (isnan(value))
        printf("  \"%s\": null%s\n", name, is_last ? "" : ",");
    else
        printf("  \"%s\": %.4f%s\n", name, value, is_last ? "" : ",");
}

static double worst(const double *values, int n) {
    double least = values[0];
    for (int i = 1; i < n; i++)
        least = isnan(values[i]) || values[i] < least ? values[i] : least;
    return least;
}

static void print_all(subject *s, bool is_json) {
    double rate[N_SUBJECTS], vector[4], scalar[3];
    for (int i = 0; i < N_SUBJECTS; i++)
        rate[i] = rate_of(&s[i], 0.1);
    for (int i = 0; i < 4; i++)
        vector[i] = rate[VECTOR_COPY + i] / rate[MEMCPY];
    for (int i = 0; i < 3; i++)
        scalar[i] = rate[SCALAR_EXP + i] * 1e-9;
    if (is_json)
        printf("{\n  \"isa\": \"%s\",\n", cpu_level_name(cpu_level_get()));
    else
        printf("one core, %s kernels, best tenth of %d samples\n", cpu_level_name(cpu_level_get()),
               N_SAMPLES);
    print_number(is_json, "peak_gflops", rate[PEAK_FMA] * 1e-9, "GFLOP/s, fused multiply-add",
                 false);
    print_number(is_json, "tensor_fp32_gflops", rate[TENSOR_FP32] * 1e-9, "GFLOP/s", false);
    print_number(is_json, "tensor_bf16_gflops", rate[TENSOR_BF16] * 1e-9, "GFLOP/s", false);
    print_number(is_json, "tensor_fp32_of_peak", rate[TENSOR_FP32] / rate[PEAK_FMA], "", false);
    print_number(is_json, "tensor_bf16_of_peak", rate[TENSOR_BF16] / rate[PEAK_FMA], "", false);
    double median_peak = rate_of(&s[PEAK_FMA], 0.5);
    print_number(is_json, "tensor_fp32_of_peak_median", rate_of(&s[TENSOR_FP32], 0.5) / median_peak,
                 "medians of both", false);
    print_number(is_json, "tensor_bf16_of_peak_median", rate_of(&s[TENSOR_BF16], 0.5) / median_peak,
                 "medians of both", false);
    print_number(is_json, "memcpy_gb_s", rate[MEMCPY] * 1e-9, "GB/s read + written", false);
    print_number(is_json, "vector_of_copy", worst(vector, 4), "worst of the four", false);
    for (int i = 0; i < 4; i++)
        print_number(is_json, s[VECTOR_COPY + i].name, vector[i], "of memcpy's bytes/s", false);
    print_number(is_json, "scalar_gelem_s", worst(scalar, 3), "Gelem/s, worst of the three", false);
    for (int i = 0; i < 3; i++)
        print_number(is_json, s[SCALAR_EXP + i].name, scalar[i], "Gelem/s", i == 2);
    if (is_json)
        printf("}\n");
}

int main(int argc, char **argv) {
    bool is_json = argc > 1 && !strcmp(argv[1], "--json");
    vtrn_chip chip = {0};
    team *threads;
    if (!report(chip_load("trn1", &chip)) || !report(team_create(1, &threads)) ||
        !report(engine_core_create(&chip, NULL, 0, threads, &core)))
        return 3;
    copy_from = aligned_alloc(4096, TILE_BYTES);
    copy_to = aligned_alloc(4096, TILE_BYTES);
    if (!copy_from || !copy_to)
        return 3;
    memset(copy_from, 1, TILE_BYTES);
    fill_memories();
    static subject s[N_SUBJECTS];
    s[PEAK_FMA] = (subject){.name = "peak"};
    s[TENSOR_FP32] = tensor_subject("tensor_fp32", VTRN_DTYPE_FP32);
    s[TENSOR_BF16] = tensor_subject("tensor_bf16", VTRN_DTYPE_BF16);
    s[MEMCPY] = (subject){.name = "memcpy", .work = 2.0 * TILE_BYTES};
    s[VECTOR_COPY] = vector_subject("vector_copy", VTRN_OP_TENSOR_COPY, VTRN_ALU_NONE);
    s[VECTOR_ADD] = vector_subject("vector_add", VTRN_OP_TENSOR_TENSOR, VTRN_ALU_ADD);
    s[VECTOR_MUL] = vector_subject("vector_mul", VTRN_OP_TENSOR_TENSOR, VTRN_ALU_MULTIPLY);
    s[VECTOR_MAX] = vector_subject("vector_max", VTRN_OP_TENSOR_TENSOR, VTRN_ALU_MAX);
    s[SCALAR_EXP] = scalar_subject("scalar_exp", VTRN_ACT_EXP);
    s[SCALAR_TANH] = scalar_subject("scalar_tanh", VTRN_ACT_TANH);
    s[SCALAR_GELU] = scalar_subject("scalar_gelu", VTRN_ACT_GELU);
    for (int i = 0; i < N_SUBJECTS; i++)
        calibrate(&s[i]);
    for (int sample = 0; sample < N_SAMPLES; sample++)
        for (int i = 0; i < N_SUBJECTS; i++) {
            if (s[i].is_missing)
                continue;
            (void)repeat(&s[i], 1); /* what the one before left in the caches is not measured */
            double start_s = now_s();
            (void)repeat(&s[i], s[i].n_reps);
            s[i].rate[sample] = s[i].work * s[i].n_reps / (now_s() - start_s);
        }
    print_all(s, is_json);
    free(copy_from);
    free(copy_to);
    engine_core_destroy(&core);
    team_destroy(threads);
    return 0;
}
