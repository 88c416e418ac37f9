/* The inner loops of the tensor engine at one instruction-set level. */
#include "engine/tensor_kernels.h"

#include <math.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

enum {
    ROWS = TENSOR_BLOCK_ROWS,
    /* rows of the moving tile asked for ahead of their use: rows lie a partition apart, which no
     * hardware prefetcher follows */
    ROWS_AHEAD = 8,
    K_GROUP = 8, /* rows of both tiles between two requests to the caches */
/* Unrolled so that the branch history holds a whole block, and its end is foreseen. With the
 * sanitizers' checks in it that would compile for a minute. Of the narrower vectors
 * four rows are enough: eight are 4 % slower on a Zen 3. */
#if defined(VTRN_SANITIZED)
    K_UNROLL = 1,
#elif defined(__AVX512F__)
    K_UNROLL = K_GROUP,
#else
    K_UNROLL = K_GROUP / 2,
#endif
};

/* What is left of the stationary tile behind its first block, and where its sums go. */
static inline tensor_stationary next_block(tensor_stationary a) {
    return (tensor_stationary){a.panels + TENSOR_PANEL_STRIDE, a.n_blocks - 1, a.n_k};
}

/* The moving tile for the blocks behind the first, which left it in the strip. */
static inline tensor_moving behind_first(tensor_moving b) {
    tensor_moving rest = tensor_moving_of(b.strip, TENSOR_STRIP_COLS);
    rest.coming = b.coming;
    return rest;
}

static inline tensor_sums next_rows(tensor_sums to) {
    return (tensor_sums){to.c + ROWS * to.stride, to.stride, to.is_adding};
}

/* Vectors of the widest kind of the level. A part of a product has PART_ROWS rows and up to 3
 * vectors of columns, so that its sums stay in registers. */
#if defined(__AVX512F__)
enum { LANES = 16, PART_ROWS = 8 };
typedef __m512 lanes;
#define LANES_ZERO           _mm512_setzero_ps()
#define LANES_SET(x)         _mm512_set1_ps(x)
#define LANES_FMA(a, b, sum) _mm512_fmadd_ps(a, b, sum)
#define LANES_ADD(a, b)      _mm512_add_ps(a, b)
#define LANES_LOAD(at)       _mm512_loadu_ps(at)
#define LANES_STORE(at, x)   _mm512_storeu_ps(at, x)
#elif defined(__AVX2__)
enum { LANES = 8, PART_ROWS = 4 };
typedef __m256 lanes;
#define LANES_ZERO           _mm256_setzero_ps()
#define LANES_SET(x)         _mm256_set1_ps(x)
#define LANES_FMA(a, b, sum) _mm256_fmadd_ps(a, b, sum)
#define LANES_ADD(a, b)      _mm256_add_ps(a, b)
#define LANES_LOAD(at)       _mm256_loadu_ps(at)
#define LANES_STORE(at, x)   _mm256_storeu_ps(at, x)
#else
enum { LANES = 1 };
typedef float lanes;
#define LANES_ZERO           0.0f
#define LANES_SET(x)         (x)
#define LANES_FMA(a, b, sum) fmaf(a, b, sum)
#define LANES_ADD(a, b)      ((a) + (b))
#define LANES_LOAD(at)       (*(at))
#define LANES_STORE(at, x)   (*(at) = (x))
#endif

#if defined(__AVX512F__)

static inline __attribute__((always_inline)) lanes load_wide(const uint8_t *b) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)b));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* a * b + sum. As assembly, because a sum that may change its register (the compiler knows three
 * forms of the instruction) is copied to and fro where all registers are in use. */
static inline __attribute__((always_inline)) lanes multiply_add(lanes a, lanes b, lanes sum) {
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

/* Loads of the next row stay behind this, as no register is free for them. */
#define HOLD_LOADS() __asm__ volatile("" ::: "memory")

#elif defined(__AVX2__)

static inline __attribute__((always_inline)) lanes load_wide(const uint8_t *b) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)b));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline __attribute__((always_inline)) lanes multiply_add(lanes a, lanes b, lanes sum) {
    return LANES_FMA(a, b, sum);
}

#define HOLD_LOADS() (void)0

#endif

#if defined(__AVX2__)

/* Where the moving vectors come from. */
enum { FROM_STRIP, FROM_FP32, FROM_BF16 };

/* One of the rows that are needed next enters the second-level cache. */
static inline void ask_for_row(tensor_ahead *a) {
    for (int line = 0; line < a->n_lines; line++)
        __builtin_prefetch((const void *)(a->rows + 64 * (size_t)line), 0, 2);
    a->rows += a->row_bytes;
}

/* n sums, wherever in a line they begin. */
static inline __attribute__((always_inline)) void ask_for_sums(const float *c, const int n) {
#pragma GCC unroll 4
    for (int i = 0; i < n; i += 15)
        __builtin_prefetch(c + i, 1);
}

/* The next row of the stationary and of the moving tile enters the sums. */
static inline __attribute__((always_inline)) void
add_products(lanes sum[PART_ROWS][3], tensor_stationary *a, tensor_moving *b, const int n_vectors,
             const int from) {
    const int size = from == FROM_BF16 ? 2 : 4;
    lanes moving[3];
#pragma GCC unroll 3
    for (int v = 0; v < n_vectors; v++) {
        const uint8_t *at = b->rows + v * LANES * size;
        moving[v] = from == FROM_BF16 ? load_wide(at) : LANES_LOAD((const float *)at);
        if (from != FROM_STRIP)
            LANES_STORE(b->strip + LANES * v, moving[v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < PART_ROWS; r++) {
        lanes weight = LANES_SET(a->panels[r]);
#pragma GCC unroll 3
        for (int v = 0; v < n_vectors; v++)
            sum[r][v] = multiply_add(weight, moving[v], sum[r][v]);
    }
    HOLD_LOADS();
    a->panels += ROWS;
    b->rows += b->row_bytes;
    if (from != FROM_STRIP)
        b->strip += TENSOR_STRIP_COLS;
}

/* With AVX-512, 8 rows by 3 vectors: 24 sums, 3 vectors of b and a broadcast in 32 registers; 11
 * loads feed 24 multiply-adds, so the two multipliers and not the two load ports set the pace. With
 * AVX2, 4 rows by 2 or 3 vectors: at most 12 sums in 16 registers. Columns of dst are asked for in
 * time, and what is asked for ahead is spread over the groups of k: a burst would hold up the loads
 * behind it. */
static inline __attribute__((always_inline)) void multiply_part(tensor_stationary a,
                                                                tensor_moving b, tensor_sums to,
                                                                const int n_vectors,
                                                                const int from) {
    lanes sum[PART_ROWS][3];
    const int n_moving = tensor_ahead_now(&b.coming.moving);
    const int n_weights = tensor_ahead_now(&b.coming.weights);
#pragma GCC unroll 8
    for (int r = 0; r < PART_ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < n_vectors; v++)
            sum[r][v] = LANES_ZERO;
    int k = 0;
    for (int group = 0; k + K_GROUP <= a.n_k; k += K_GROUP, group++) {
        if (group < PART_ROWS)
            ask_for_sums(to.c + (size_t)group * to.stride, n_vectors * LANES);
        if (group < n_moving)
            ask_for_row(&b.coming.moving);
        if (group < n_weights)
            ask_for_row(&b.coming.weights);
#pragma GCC unroll K_UNROLL
        for (int i = 0; i < K_GROUP; i++)
            add_products(sum, &a, &b, n_vectors, from);
    }
    for (; k < a.n_k; k++)
        add_products(sum, &a, &b, n_vectors, from);
#pragma GCC unroll 8
    for (int r = 0; r < PART_ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < n_vectors; v++) {
            float *c = to.c + (size_t)r * to.stride + LANES * v;
            lanes value = sum[r][v];
            LANES_STORE(c, to.is_adding ? LANES_ADD(LANES_LOAD(c), value) : value);
        }
}

/* A block is 1, 2 or 4 parts, which share what is asked for. The upper rows convert the moving
 * columns on their way, lower ones find them in the strip. */
static inline __attribute__((always_inline)) void multiply_block(tensor_stationary a,
                                                                 tensor_moving b, tensor_sums to,
                                                                 const int n_cols, const int from) {
    const int n_vectors = n_cols / LANES <= 3 ? n_cols / LANES : n_cols / LANES % 3 == 0 ? 3 : 2;
    const int part_cols = n_vectors * LANES, size = from == FROM_BF16 ? 2 : 4;
    const int n_parts = ROWS / PART_ROWS * n_cols / part_cols;
    tensor_coming coming = n_parts > 1 ? tensor_coming_split(b.coming, n_parts) : b.coming;
    for (int first = 0; first < n_cols; first += part_cols) {
        tensor_moving part = {.rows = b.rows + first * size, .row_bytes = b.row_bytes};
        if (from != FROM_STRIP)
            part.strip = b.strip + first;
        part.coming = coming;
        multiply_part(a, part, (tensor_sums){to.c + first, to.stride, to.is_adding}, n_vectors,
                      from);
        if (from != FROM_STRIP)
            part = tensor_moving_of(b.strip + first, TENSOR_STRIP_COLS);
        coming = tensor_coming_behind(coming, 1);
        for (int r = PART_ROWS; r < ROWS; r += PART_ROWS) {
            part.coming = coming;
            multiply_part((tensor_stationary){a.panels + r, 1, a.n_k}, part,
                          (tensor_sums){to.c + r * to.stride + first, to.stride, to.is_adding},
                          n_vectors, FROM_STRIP);
            coming = tensor_coming_behind(coming, 1);
        }
    }
}

#define MULTIPLY_FROM(n_cols, type, from)                                                          \
    static void multiply_##type##_##n_cols(tensor_stationary a, tensor_moving b, tensor_sums to) { \
        multiply_block(a, b, to, n_cols, from);                                                    \
        b.coming = tensor_coming_behind(b.coming, 1);                                              \
        if (a.n_blocks > 1)                                                                        \
            multiply_##n_cols(next_block(a), behind_first(b), next_rows(to));                      \
    }
#define MULTIPLY(n_cols)                                                                           \
    static void multiply_##n_cols(tensor_stationary a, tensor_moving b, tensor_sums to) {          \
        for (; a.n_blocks; a = next_block(a), to = next_rows(to)) {                                \
            multiply_block(a, b, to, n_cols, FROM_STRIP);                                          \
            b.coming = tensor_coming_behind(b.coming, 1);                                          \
        }                                                                                          \
    }                                                                                              \
    MULTIPLY_FROM(n_cols, fp32, FROM_FP32)                                                         \
    MULTIPLY_FROM(n_cols, bf16, FROM_BF16)
#define HAS_FUSED_LOAD 1

#else

/* fmaf is exact here as everywhere, if slow: without the instruction it is a library call. */
static void multiply_block(tensor_stationary a, tensor_moving b, tensor_sums to, int n_cols) {
    float sum[ROWS][TENSOR_STRIP_COLS] = {0};
    for (int k = 0; k < a.n_k; k++) {
        const float *row = (const float *)(b.rows + (size_t)k * b.row_bytes);
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < n_cols; i++)
                sum[r][i] = fmaf(a.panels[k * ROWS + r], row[i], sum[r][i]);
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < n_cols; i++) {
            float *c = to.c + (size_t)r * to.stride + i;
            *c = to.is_adding ? *c + sum[r][i] : sum[r][i];
        }
}

#endif

static inline __attribute__((always_inline)) void load_bf16(const uint8_t *restrict src,
                                                            float *restrict out, const int n) {
    for (int i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, src + 2 * i, sizeof half);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

static inline __attribute__((always_inline)) void load_fp32(const uint8_t *restrict src,
                                                            float *restrict out, const int n) {
    for (int i = 0; i < n; i++) /* a memcpy of 192 bytes becomes a slow string instruction */
        memcpy(out + i, src + 4 * i, sizeof *out);
}

/* The full widths have their own loops, of a length that the compiler knows. */
#define LOADERS(type, size)                                                                        \
    static void strip_##type(const uint8_t *src, size_t row_bytes, int n_rows, int n,              \
                             float *out) {                                                         \
        for (int k = 0; k < n_rows; k++, src += row_bytes, out += TENSOR_STRIP_COLS) {             \
            int i = 0;                                                                             \
            __builtin_prefetch(src + ROWS_AHEAD * row_bytes);                                      \
            __builtin_prefetch(src + ROWS_AHEAD * row_bytes + n * size - 1);                       \
            for (; i + TENSOR_VECTOR_COLS <= n; i += TENSOR_VECTOR_COLS)                           \
                load_##type(src + i * size, out + i, TENSOR_VECTOR_COLS);                          \
            if (i == n)                                                                            \
                continue;                                                                          \
            memset(out + i, 0, TENSOR_VECTOR_COLS * sizeof *out);                                  \
            load_##type(src + i * size, out + i, n - i);                                           \
        }                                                                                          \
    }                                                                                              \
    static void panels_##type(const uint8_t *src, size_t row_bytes, int n_rows, int n,             \
                              float *out) {                                                        \
        for (int k = 0; k < n_rows; k++, src += row_bytes, out += ROWS) {                          \
            float *panel = out;                                                                    \
            int m = 0;                                                                             \
            for (int i = 0; i < n * size; i += 64)                                                 \
                __builtin_prefetch(src + ROWS_AHEAD * row_bytes + i);                              \
            for (; m + ROWS <= n; m += ROWS, panel += TENSOR_PANEL_STRIDE)                         \
                load_##type(src + m * size, panel, ROWS);                                          \
            if (m < n)                                                                             \
                load_##type(src + m * size, panel, n - m);                                         \
        }                                                                                          \
    }

LOADERS(bf16, 2)
LOADERS(fp32, 4)

#ifndef HAS_FUSED_LOAD
#define MULTIPLY_FROM(n_cols, type)                                                                \
    static void multiply_##type##_##n_cols(tensor_stationary a, tensor_moving b, tensor_sums to) { \
        strip_##type(b.rows, b.row_bytes, a.n_k, n_cols, b.strip);                                 \
        multiply_##n_cols(a, behind_first(b), to);                                                 \
    }
#define MULTIPLY(n_cols)                                                                           \
    static void multiply_##n_cols(tensor_stationary a, tensor_moving b, tensor_sums to) {          \
        for (; a.n_blocks; a = next_block(a), to = next_rows(to)) {                                \
            multiply_block(a, b, to, n_cols);                                                      \
            b.coming = tensor_coming_behind(b.coming, 1);                                          \
        }                                                                                          \
    }                                                                                              \
    MULTIPLY_FROM(n_cols, fp32)                                                                    \
    MULTIPLY_FROM(n_cols, bf16)
#endif

#if defined(__AVX512F__)

static inline __attribute__((always_inline)) __m512 run_fp32(const uint8_t *src, __mmask16 mask,
                                                             int step) {
    if (step == 1)
        return _mm512_maskz_loadu_ps(mask, src);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask,
                                    _mm512_mullo_epi32(lane, _mm512_set1_epi32(step)), src, 4);
}

static inline __attribute__((always_inline)) __m512 run_bf16(const uint8_t *src, __mmask16 mask,
                                                             int step) {
    if (step == 1)
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, src)), 16));
    uint16_t half[16] = {0};
    for (int i = 0; mask >> i; i++)
        memcpy(&half[i], src + 2 * (int64_t)step * i, sizeof half[i]);
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)half)), 16));
}

static inline __mmask16 mask_of(const tensor_run *run) {
    return (__mmask16)((1u << run->n) - 1);
}

/* Masks keep from touching what other threads may write behind a run. */
#define RUNS(type)                                                                                 \
    static void runs_##type(const uint8_t *src, size_t row_bytes, int n_rows,                      \
                            const tensor_runs *runs, float *out) {                                 \
        const int n_whole = runs->n_cols / 16 * 16;                                                \
        for (int k = 0; k < n_rows; k++, src += row_bytes, out += TENSOR_STRIP_COLS) {             \
            if (n_whole < runs->n_cols)                                                            \
                _mm512_storeu_ps(out + n_whole, _mm512_setzero_ps());                              \
            for (int i = 0; i < runs->n_runs; i++) {                                               \
                const tensor_run *run = &runs->run[i];                                             \
                _mm512_mask_storeu_ps(out + run->at, mask_of(run),                                 \
                                      run_##type(src + run->byte, mask_of(run), runs->step));      \
            }                                                                                      \
        }                                                                                          \
    }

static void put_runs(const float *sums, int n_rows, const tensor_runs *runs, tensor_sums to) {
    for (int r = 0; r < n_rows; r++, sums += TENSOR_STRIP_COLS, to.c += to.stride)
        for (int i = 0; i < runs->n_runs; i++) {
            const tensor_run *run = &runs->run[i];
            float *c = to.c + run->byte / (int64_t)sizeof *c;
            __mmask16 mask = mask_of(run);
            __m512 value = _mm512_maskz_loadu_ps(mask, sums + run->at);
            if (to.is_adding)
                value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), value);
            _mm512_mask_storeu_ps(c, mask, value);
        }
}

#else

#define RUNS(type)                                                                                 \
    static void runs_##type(const uint8_t *src, size_t row_bytes, int n_rows,                      \
                            const tensor_runs *runs, float *out) {                                 \
        for (int k = 0; k < n_rows; k++, src += row_bytes, out += TENSOR_STRIP_COLS) {             \
            for (int i = runs->n_cols; i % TENSOR_VECTOR_COLS; i++)                                \
                out[i] = 0;                                                                        \
            for (int i = 0; i < runs->n_runs; i++) {                                               \
                const tensor_run *run = &runs->run[i];                                             \
                run_##type(src + run->byte, runs->step, run->n, out + run->at);                    \
            }                                                                                      \
        }                                                                                          \
    }

static inline void run_fp32(const uint8_t *src, int step, int n, float *out) {
    for (int i = 0; i < n; i++, src += (int64_t)step * 4)
        memcpy(out + i, src, sizeof *out);
}

static inline void run_bf16(const uint8_t *src, int step, int n, float *out) {
    for (int i = 0; i < n; i++, src += (int64_t)step * 2)
        load_bf16(src, out + i, 1);
}

static void put_runs(const float *sums, int n_rows, const tensor_runs *runs, tensor_sums to) {
    for (int r = 0; r < n_rows; r++, sums += TENSOR_STRIP_COLS, to.c += to.stride)
        for (int i = 0; i < runs->n_runs; i++) {
            const tensor_run *run = &runs->run[i];
            float *c = to.c + run->byte / (int64_t)sizeof *c;
            const float *value = sums + run->at;
            for (int j = 0; j < run->n; j++)
                c[j] = to.is_adding ? c[j] + value[j] : value[j];
        }
}

#endif

/* n_vectors vectors of columns: they lie side by side, and their sums in registers, so that a row
 * is read at once. */
#define MULTIPLY_ROW(type, size)                                                                   \
    static inline __attribute__((always_inline)) void multiply_vectors_of_row_##type(              \
        const float *panel, int n_k, tensor_moving b, tensor_sums to, const int n_vectors) {       \
        lanes sum[16];                                                                             \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[v] = LANES_ZERO;          \
        for (int k = 0; k < n_k; k++, b.rows += b.row_bytes, panel += ROWS) {                      \
            lanes weight = LANES_SET(*panel);                                                      \
            for (int byte = 0; byte < n_vectors * LANES * size; byte += 64)                        \
                __builtin_prefetch(b.rows + ROWS_AHEAD * b.row_bytes + byte);                      \
            _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) {                         \
                float row[LANES];                                                                  \
                load_##type(b.rows + v * LANES * size, row, LANES);                                \
                sum[v] = LANES_FMA(weight, LANES_LOAD(row), sum[v]);                               \
            }                                                                                      \
        }                                                                                          \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) {                             \
            float *c = to.c + v * LANES;                                                           \
            LANES_STORE(c, to.is_adding ? LANES_ADD(LANES_LOAD(c), sum[v]) : sum[v]);              \
        }                                                                                          \
    }                                                                                              \
    static void multiply_row_##type(const float *panel, int n_k, tensor_moving b, int n,           \
                                    tensor_sums to) {                                              \
        int done = 0;                                                                              \
        for (; n - done >= 8 * LANES; done += 8 * LANES)                                           \
            multiply_vectors_of_row_##type(panel, n_k, columns_of(b, done *size),                  \
                                           sums_of(to, done), 8);                                  \
        for (; n - done >= 4 * LANES; done += 4 * LANES)                                           \
            multiply_vectors_of_row_##type(panel, n_k, columns_of(b, done *size),                  \
                                           sums_of(to, done), 4);                                  \
        for (; n - done >= LANES; done += LANES)                                                   \
            multiply_vectors_of_row_##type(panel, n_k, columns_of(b, done *size),                  \
                                           sums_of(to, done), 1);                                  \
        for (; done < n; done++) {                                                                 \
            float sum = 0, x;                                                                      \
            const uint8_t *at = b.rows + (ptrdiff_t)done * size;                                   \
            for (int k = 0; k < n_k; k++, at += b.row_bytes) {                                     \
                load_##type(at, &x, 1);                                                            \
                sum = fmaf(panel[k * ROWS], x, sum);                                               \
            }                                                                                      \
            to.c[done] = to.is_adding ? to.c[done] + sum : sum;                                    \
        }                                                                                          \
    }

static inline tensor_moving columns_of(tensor_moving b, int first_byte) {
    b.rows += first_byte;
    return b;
}

static inline tensor_sums sums_of(tensor_sums to, int first) {
    to.c += first;
    return to;
}

/* --- few columns, and few ones ---
 *
 * Of few moving columns the rows of a panel make the vectors. */

#if defined(__AVX2__)

static inline void put_sums(const float *sums, int n_rows, int n, tensor_sums to) {
    for (int i = 0; i < n; i++, sums += ROWS)
        for (int r = 0; r < n_rows; r++) {
            float *c = to.c + (size_t)r * to.stride + i;
            *c = to.is_adding ? *c + sums[r] : sums[r];
        }
}

/* n_blocks * n sums of 8 rows. */
static inline __attribute__((always_inline)) void multiply_columns_of(const int n_blocks,
                                                                      tensor_stationary a,
                                                                      int n_rows, tensor_moving b,
                                                                      const int n, tensor_sums to) {
    __m256 sum[4][TENSOR_NARROW_COLS];
    _Pragma("GCC unroll 4") for (int i = 0; i < n_blocks; i++)
        _Pragma("GCC unroll 8") for (int j = 0; j < n; j++) sum[i][j] = _mm256_setzero_ps();
    for (int k = 0; k < a.n_k; k++, a.panels += ROWS, b.rows += b.row_bytes)
        _Pragma("GCC unroll 4") for (int i = 0; i < n_blocks; i++) {
            __m256 weight = _mm256_loadu_ps(a.panels + i * TENSOR_PANEL_STRIDE);
            _Pragma("GCC unroll 8") for (int j = 0; j < n; j++) sum[i][j] =
                _mm256_fmadd_ps(weight, _mm256_set1_ps(((const float *)b.rows)[j]), sum[i][j]);
        }
    _Pragma("GCC unroll 4") for (int i = 0; i < n_blocks; i++, n_rows -= ROWS) {
        float sums[TENSOR_NARROW_COLS][ROWS];
        _Pragma("GCC unroll 8") for (int j = 0; j < n; j++) _mm256_storeu_ps(sums[j], sum[i][j]);
        put_sums(sums[0], n_rows < ROWS ? n_rows : ROWS, n, to);
        to = next_rows(to);
    }
}

/* As many blocks at once as cover the latency of a multiply-add. */
static inline __attribute__((always_inline)) void
multiply_columns(tensor_stationary a, int n_rows, tensor_moving b, const int n, tensor_sums to) {
    const int n_at_once = n <= 2 ? 4 : n <= 4 ? 2 : 1;
    for (; a.n_blocks >= n_at_once; a.n_blocks -= n_at_once) {
        multiply_columns_of(n_at_once, a, n_rows, b, n, to);
        a.panels += n_at_once * TENSOR_PANEL_STRIDE;
        to.c += (size_t)(n_at_once * ROWS) * to.stride;
        n_rows -= n_at_once * ROWS;
    }
    for (; n_at_once > 1 && a.n_blocks; a = next_block(a), to = next_rows(to), n_rows -= ROWS)
        multiply_columns_of(1, a, n_rows, b, n, to);
}

static void multiply_narrow(tensor_stationary a, int n_rows, tensor_moving b, int n,
                            tensor_sums to) {
    switch (n) {
#define COLUMNS(n)                                                                                 \
    case n:                                                                                        \
        multiply_columns(a, n_rows, b, n, to);                                                     \
        break;
        COLUMNS(1)
        COLUMNS(2)
        COLUMNS(3)
        COLUMNS(4)
        COLUMNS(5)
        COLUMNS(6)
        COLUMNS(7)
    default:
        multiply_columns(a, n_rows, b, TENSOR_NARROW_COLS, to);
    }
}

/* First which elements of each row are 1, then the rows that have some: those are few, and a branch
 * on each row would be foreseen badly. */
static void find_ones(const float *panel, int n_k, tensor_ones *out) {
    enum { GROUP = 8 };
    const __m256 one = _mm256_set1_ps(1.0f);
    _Alignas(8) uint8_t masks[TENSOR_MAX_ROWS];
    int n_ones = 0, k = 0;
    out->is_valid = false;
    while (k < n_k) {
        __m256i is_known = _mm256_set1_epi32(-1);
        for (int end = k + GROUP < n_k ? k + GROUP : n_k; k < end; k++, panel += ROWS) {
            __m256 x = _mm256_loadu_ps(panel);
            __m256i is_zero = _mm256_cmpeq_epi32(_mm256_castps_si256(x), _mm256_setzero_si256());
            __m256 is_one = _mm256_cmp_ps(x, one, _CMP_EQ_OQ);
            is_known =
                _mm256_and_si256(is_known, _mm256_or_si256(is_zero, _mm256_castps_si256(is_one)));
            masks[k] = (uint8_t)_mm256_movemask_ps(is_one);
        }
        if (_mm256_movemask_ps(_mm256_castsi256_ps(is_known)) != 0xff)
            return;
    }
    for (; k % GROUP; k++)
        masks[k] = 0;
    memset(out->n, 0, sizeof out->n);
    for (int first = 0; first < n_k; first += GROUP) {
        uint64_t ones;
        memcpy(&ones, masks + first, sizeof ones);
        for (; ones; ones &= ones - 1) {
            int at = __builtin_ctzll(ones), m = at % ROWS;
            if (++n_ones > n_k)
                return;
            out->row[m][out->n[m]++] = (uint8_t)(first + at / ROWS);
        }
    }
    out->is_valid = true;
}

/* One row of sums, n_vectors of 8 columns. */
static inline __attribute__((always_inline)) void
add_rows(const uint8_t *row, int n_ones, const float *strip, const int n_vectors, float *out) {
    __m256 sum[TENSOR_STRIP_COLS / 8];
    _Pragma("GCC unroll 6") for (int v = 0; v < n_vectors; v++) sum[v] = _mm256_setzero_ps();
    for (int i = 0; i < n_ones; i++) {
        const float *at = strip + (size_t)row[i] * TENSOR_STRIP_COLS;
        _Pragma("GCC unroll 6") for (int v = 0; v < n_vectors; v++) sum[v] =
            _mm256_add_ps(_mm256_loadu_ps(at + 8 * v), sum[v]);
    }
    _Pragma("GCC unroll 6") for (int v = 0; v < n_vectors; v++)
        _mm256_storeu_ps(out + 8 * v, sum[v]);
}

static void add_ones(const tensor_ones *a, int n_rows, const float *strip, int n, tensor_sums to) {
    float sums[TENSOR_STRIP_COLS];
    for (int r = 0; r < n_rows; r++, to.c += to.stride) {
        bool is_straight = !to.is_adding && n % 8 == 0;
        float *out = is_straight ? to.c : sums;
        if (n <= 8)
            add_rows(a->row[r], a->n[r], strip, 1, out);
        else if (n <= 16)
            add_rows(a->row[r], a->n[r], strip, 2, out);
        else if (n <= 24)
            add_rows(a->row[r], a->n[r], strip, 3, out);
        else if (n <= 32)
            add_rows(a->row[r], a->n[r], strip, 4, out);
        else
            add_rows(a->row[r], a->n[r], strip, 6, out);
        for (int i = 0; !is_straight && i < n; i++)
            to.c[i] = to.is_adding ? to.c[i] + sums[i] : sums[i];
    }
}

#else

static void multiply_narrow(tensor_stationary a, int n_rows, tensor_moving b, int n,
                            tensor_sums to) {
    for (; a.n_blocks; a = next_block(a), to = next_rows(to), n_rows -= ROWS)
        for (int r = 0; r < ROWS && r < n_rows; r++)
            for (int i = 0; i < n; i++) {
                const uint8_t *at = b.rows + (size_t)i * sizeof(float);
                float *c = to.c + (size_t)r * to.stride + i, sum = 0, x;
                for (int k = 0; k < a.n_k; k++, at += b.row_bytes) {
                    memcpy(&x, at, sizeof x);
                    sum = fmaf(a.panels[k * ROWS + r], x, sum);
                }
                *c = to.is_adding ? *c + sum : sum;
            }
}

static void find_ones(const float *panel, int n_k, tensor_ones *out) {
    int n_ones = 0;
    out->is_valid = false;
    memset(out->n, 0, sizeof out->n);
    for (int k = 0; k < n_k; k++)
        for (int m = 0; m < ROWS; m++) {
            uint32_t bits;
            memcpy(&bits, panel + k * ROWS + m, sizeof bits);
            if (!bits)
                continue;
            if (bits != 0x3f800000 || ++n_ones > n_k)
                return;
            out->row[m][out->n[m]++] = (uint8_t)k;
        }
    out->is_valid = true;
}

static void add_ones(const tensor_ones *a, int n_rows, const float *strip, int n, tensor_sums to) {
    for (int r = 0; r < n_rows; r++, to.c += to.stride) {
        float sum[TENSOR_STRIP_COLS] = {0};
        for (int one = 0; one < a->n[r]; one++)
            for (int i = 0; i < n; i++)
                sum[i] += strip[(size_t)a->row[r][one] * TENSOR_STRIP_COLS + (size_t)i];
        for (int i = 0; i < n; i++)
            to.c[i] = to.is_adding ? to.c[i] + sum[i] : sum[i];
    }
}

#endif

static bool is_finite(const float *strip, int n_rows, int n) {
    uint32_t greatest[TENSOR_VECTOR_COLS] = {0};
    for (int k = 0; k < n_rows; k++, strip += TENSOR_STRIP_COLS)
        for (int i = 0; i < n; i += TENSOR_VECTOR_COLS)
            for (int j = 0; j < TENSOR_VECTOR_COLS; j++) {
                uint32_t bits;
                memcpy(&bits, strip + i + j, sizeof bits);
                bits &= 0x7fffffff;
                greatest[j] = bits > greatest[j] ? bits : greatest[j];
            }
    uint32_t all = 0;
    for (int j = 0; j < TENSOR_VECTOR_COLS; j++)
        all = greatest[j] > all ? greatest[j] : all;
    return all < 0x7f800000;
}

MULTIPLY_ROW(fp32, 4)
MULTIPLY_ROW(bf16, 2)

RUNS(fp32)
RUNS(bf16)

MULTIPLY(16)
MULTIPLY(32)
MULTIPLY(48)

const tensor_kernels VTRN_AT_LEVEL(tensor_kernel_table) = {
    .multiply = {multiply_16, multiply_32, multiply_48},
    .multiply_fp32 = {multiply_fp32_16, multiply_fp32_32, multiply_fp32_48},
    .multiply_bf16 = {multiply_bf16_16, multiply_bf16_32, multiply_bf16_48},
    .multiply_row_fp32 = multiply_row_fp32,
    .multiply_row_bf16 = multiply_row_bf16,
    .multiply_narrow = multiply_narrow,
    .find_ones = find_ones,
    .add_ones = add_ones,
    .is_finite = is_finite,
    .strip_bf16 = strip_bf16,
    .strip_fp32 = strip_fp32,
    .runs_bf16 = runs_bf16,
    .runs_fp32 = runs_fp32,
    .put_runs = put_runs,
    .panels_bf16 = panels_bf16,
    .panels_fp32 = panels_fp32,
};
