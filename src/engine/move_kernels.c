/* The inner loops of strided moves at one instruction-set level. */
#include "engine/move_kernels.h"

#include <stdbool.h>
#include <string.h>

enum {
    LONG_RUN_BYTES = 1024, /* from here on the library's copy is as fast */
    TILE = 8,              /* a side of the tile that is transposed in registers */
    LINE_BYTES = 64,
    SAME_SETS_BYTES = 4096, /* lines so far apart share the sets of a first-level cache */
    /* How far ahead of a run the lines of a later one are asked for: rows of partitions lie in
     * pages of their own, where no hardware prefetcher follows. Short runs are more often in the
     * cache than not. */
    AHEAD_BYTES = 2048,
    SHORTEST_ASKED_BYTES = 512,
    MOST_ASKED_BYTES = 4096,
};

/* Elements may lie at any byte, and alias anything. */
typedef uint8_t element1 __attribute__((may_alias));
typedef uint16_t element2 __attribute__((may_alias, aligned(1)));
typedef uint32_t element4 __attribute__((may_alias, aligned(1)));
typedef uint64_t element8 __attribute__((may_alias, aligned(1)));
typedef uint8_t vector16 __attribute__((vector_size(16), may_alias, aligned(1)));
typedef uint8_t vector32 __attribute__((vector_size(32), may_alias, aligned(1)));
typedef uint8_t vector64 __attribute__((vector_size(64), may_alias, aligned(1)));
typedef uint16_t half_row __attribute__((vector_size(16), may_alias, aligned(1)));
typedef uint16_t narrow_row __attribute__((vector_size(32), may_alias, aligned(1)));
typedef uint64_t wide_row __attribute__((vector_size(32), may_alias, aligned(1)));
typedef uint32_t tile_row __attribute__((vector_size(32), may_alias, aligned(1)));

/* A fill of adjacent elements has its own loop, which vectorises; everything else strides. */
#define BOX(bytes)                                                                                 \
    static void box##bytes(const move_box *box, const uint8_t *src, uint8_t *dst) {                \
        int64_t src_step = box->inner_src_step, dst_step = box->inner_dst_step;                    \
        uint64_t n = box->n_inner;                                                                 \
        for (uint64_t o = 0; o < box->n_outer; o++) {                                              \
            if (src_step == 0 && dst_step == bytes) {                                              \
                element##bytes x = *(const element##bytes *)src;                                   \
                for (uint64_t i = 0; i < n; i++)                                                   \
                    ((element##bytes *)dst)[i] = x;                                                \
            } else {                                                                               \
                const uint8_t *s = src;                                                            \
                uint8_t *d = dst;                                                                  \
                for (uint64_t i = 0; i < n; i++, s += src_step, d += dst_step)                     \
                    *(element##bytes *)d = *(const element##bytes *)s;                             \
            }                                                                                      \
            src += box->outer_src_step;                                                            \
            dst += box->outer_dst_step;                                                            \
        }                                                                                          \
    }
BOX(1)
BOX(2)
BOX(4)
BOX(8)

/* n_bytes < 4, or 64 and more from whole vectors and the last one, which may overlap. */
static inline void copy_bytes(uint8_t *d, const uint8_t *s, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i++)
        d[i] = s[i];
}

static inline void copy_vectors(uint8_t *d, const uint8_t *s, size_t n_bytes) {
    size_t i = 0;
    for (; i + 64 < n_bytes; i += 64)
        *(vector64 *)(d + i) = *(const vector64 *)(s + i);
    *(vector64 *)(d + n_bytes - 64) = *(const vector64 *)(s + n_bytes - 64);
}

/* Between one and two elements' bytes: the first and the last, which may overlap. */
#define COPY_ENDS(type)                                                                            \
    static inline void copy_ends_##type(uint8_t *d, const uint8_t *s, size_t n_bytes) {            \
        type first = *(const type *)s, last = *(const type *)(s + n_bytes - sizeof last);          \
        *(type *)d = first;                                                                        \
        *(type *)(d + n_bytes - sizeof last) = last;                                               \
    }
COPY_ENDS(element4)
COPY_ENDS(element8)
COPY_ENDS(vector16)
COPY_ENDS(vector32)
COPY_ENDS(vector64)

static inline void ask_for_run(const uint8_t *s, uint8_t *d, size_t n_bytes) {
    for (size_t line = 0; line < n_bytes; line += LINE_BYTES) {
        __builtin_prefetch(s + line, 0);
        __builtin_prefetch(d + line, 1);
    }
}

/* A loop for each way to copy a run, so that short runs pay for no choice. */
#define RUNS(copy)                                                                                 \
    static void runs_##copy(const move_box *box, size_t n_bytes, const uint8_t *src,               \
                            uint8_t *dst) {                                                        \
        int64_t src_step = box->inner_src_step, dst_step = box->inner_dst_step;                    \
        for (uint64_t o = 0; o < box->n_outer; o++) {                                              \
            const uint8_t *s = src;                                                                \
            uint8_t *d = dst;                                                                      \
            for (uint64_t i = 0; i < box->n_inner; i++, s += src_step, d += dst_step)              \
                copy(d, s, n_bytes);                                                               \
            src += box->outer_src_step;                                                            \
            dst += box->outer_dst_step;                                                            \
        }                                                                                          \
    }
RUNS(copy_bytes)
RUNS(copy_ends_element4)
RUNS(copy_ends_element8)
RUNS(copy_ends_vector16)
RUNS(copy_ends_vector32)
RUNS(copy_ends_vector64)
RUNS(copy_vectors)

/* Long runs ask for later ones. */
static void long_runs(const move_box *box, size_t n_bytes, const uint8_t *src, uint8_t *dst) {
    int64_t n_ahead = 1 + AHEAD_BYTES / (int64_t)n_bytes;
    size_t n_asked = n_bytes < MOST_ASKED_BYTES ? n_bytes : MOST_ASKED_BYTES;
    for (uint64_t o = 0; o < box->n_outer; o++) {
        const uint8_t *s = src;
        uint8_t *d = dst;
        for (uint64_t i = 0; i < box->n_inner; i++) {
            ask_for_run(s + n_ahead * box->inner_src_step, d + n_ahead * box->inner_dst_step,
                        n_asked);
            if (n_bytes >= LONG_RUN_BYTES)
                memcpy(d, s, n_bytes);
            else
                copy_vectors(d, s, n_bytes);
            s += box->inner_src_step;
            d += box->inner_dst_step;
        }
        src += box->outer_src_step;
        dst += box->outer_dst_step;
    }
}

static void runs(const move_box *box, size_t n_bytes, const uint8_t *src, uint8_t *dst) {
    if (n_bytes < 4)
        runs_copy_bytes(box, n_bytes, src, dst);
    else if (n_bytes <= 8)
        runs_copy_ends_element4(box, n_bytes, src, dst);
    else if (n_bytes <= 16)
        runs_copy_ends_element8(box, n_bytes, src, dst);
    else if (n_bytes <= 32)
        runs_copy_ends_vector16(box, n_bytes, src, dst);
    else if (n_bytes <= 64)
        runs_copy_ends_vector32(box, n_bytes, src, dst);
    else if (n_bytes <= 128)
        runs_copy_ends_vector64(box, n_bytes, src, dst);
    else if (n_bytes < SHORTEST_ASKED_BYTES)
        runs_copy_vectors(box, n_bytes, src, dst);
    else
        long_runs(box, n_bytes, src, dst);
}

#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

/* The same place of n rows, which are too far apart for the host to see what comes next. */
static inline void ask_for_lines(const uint8_t *at, int64_t row_bytes, int n) {
    for (int i = 0; i < n; i++)
        __builtin_prefetch(at + i * row_bytes);
}

/* Rows 0..7 of 8 become columns: pairs, then fours, then halves change places. */
static inline void transpose_tile(const uint8_t *src, int64_t src_row, uint8_t *dst,
                                  int64_t dst_row) {
    tile_row r[TILE], p[TILE], q[TILE];
#pragma GCC unroll 8
    for (int i = 0; i < TILE; i++)
        r[i] = *(const tile_row *)(src + i * src_row);
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i += 2) {
        p[i] = PICK(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        p[i + 1] = PICK(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < TILE; i += 4) {
        q[i] = PICK(p[i], p[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        q[i + 1] = PICK(p[i], p[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        q[i + 2] = PICK(p[i + 1], p[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        q[i + 3] = PICK(p[i + 1], p[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < TILE / 2; i++) {
        *(tile_row *)(dst + i * dst_row) = PICK(q[i], q[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        *(tile_row *)(dst + (i + 4) * dst_row) = PICK(q[i], q[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* Whether a transpose goes by rows of src, a tile's height at a time: it reads memory in order
 * then, and writes lines of as many rows of dst as src has columns, which stay in the first-level
 * cache unless they all fall into the same sets of it. */
static inline bool is_by_rows(int64_t dst_row) {
    return dst_row % SAME_SETS_BYTES != 0;
}

static void transpose4(const uint8_t *src, int64_t src_row, uint8_t *dst, int64_t dst_row,
                       uint64_t n_rows, uint64_t n_cols) {
    const uint64_t full_rows = n_rows / TILE * TILE, full_cols = n_cols / TILE * TILE;
    const uint64_t per_line = LINE_BYTES / 4;
    if (is_by_rows(dst_row))
        for (uint64_t r = 0; r < full_rows; r += TILE)
            for (uint64_t c = 0; c < full_cols; c += TILE) {
                const uint8_t *at = src + (int64_t)r * src_row + (int64_t)c * 4;
                if (c % per_line == 0)
                    ask_for_lines(at + TILE * src_row, src_row, TILE);
                transpose_tile(at, src_row, dst + (int64_t)c * dst_row + (int64_t)r * 4, dst_row);
            }
    else
        for (uint64_t c = 0; c < full_cols; c += TILE)
            for (uint64_t r = 0; r < full_rows; r += TILE) {
                const uint8_t *at = src + (int64_t)r * src_row + (int64_t)c * 4;
                if (c % per_line == 0)
                    ask_for_lines(at + LINE_BYTES, src_row, TILE);
                transpose_tile(at, src_row, dst + (int64_t)c * dst_row + (int64_t)r * 4, dst_row);
            }
    for (uint64_t c = 0; c < n_cols; c++)
        for (uint64_t r = c < full_cols ? full_rows : 0; r < n_rows; r++)
            *(element4 *)(dst + (int64_t)c * dst_row + (int64_t)r * 4) =
                *(const element4 *)(src + (int64_t)r * src_row + (int64_t)c * 4);
}

/* Rows 0..15 of 8 numbers of 2 bytes become 8 rows of 16. Lane by lane of 16 bytes: the lower lanes
 * hold rows 0..7, the upper ones rows 8..15. */
static inline void transpose_tile2(const uint8_t *src, int64_t src_row, uint8_t *dst,
                                   int64_t dst_row) {
    narrow_row r[TILE], p[TILE], q[TILE];
#pragma GCC unroll 8
    for (int i = 0; i < TILE; i++) {
        half_row low = *(const half_row *)(src + i * src_row);
        half_row high = *(const half_row *)(src + (i + TILE) * src_row);
        r[i] = PICK(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < TILE; i += 2) {
        p[i] = PICK(r[i], r[i + 1], 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27);
        p[i + 1] = PICK(r[i], r[i + 1], 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31);
    }
#pragma GCC unroll 2
    for (int i = 0; i < TILE; i += 4) {
        tile_row a = (tile_row)p[i], b = (tile_row)p[i + 1];
        tile_row c = (tile_row)p[i + 2], d = (tile_row)p[i + 3];
        q[i] = (narrow_row)PICK(a, c, 0, 8, 1, 9, 4, 12, 5, 13);
        q[i + 1] = (narrow_row)PICK(a, c, 2, 10, 3, 11, 6, 14, 7, 15);
        q[i + 2] = (narrow_row)PICK(b, d, 0, 8, 1, 9, 4, 12, 5, 13);
        q[i + 3] = (narrow_row)PICK(b, d, 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < TILE / 2; i++) {
        wide_row a = (wide_row)q[i], b = (wide_row)q[i + 4];
        *(wide_row *)(dst + 2 * i * dst_row) = PICK(a, b, 0, 4, 2, 6);
        *(wide_row *)(dst + (2 * i + 1) * dst_row) = PICK(a, b, 1, 5, 3, 7);
    }
}

static void transpose2(const uint8_t *src, int64_t src_row, uint8_t *dst, int64_t dst_row,
                       uint64_t n_rows, uint64_t n_cols) {
    const uint64_t height = 2 * TILE, per_line = LINE_BYTES / 2;
    const uint64_t full_rows = n_rows / height * height, full_cols = n_cols / TILE * TILE;
    if (is_by_rows(dst_row))
        for (uint64_t r = 0; r < full_rows; r += height)
            for (uint64_t c = 0; c < full_cols; c += TILE) {
                const uint8_t *at = src + (int64_t)r * src_row + (int64_t)c * 2;
                if (c % per_line == 0)
                    ask_for_lines(at + (int64_t)height * src_row, src_row, (int)height);
                transpose_tile2(at, src_row, dst + (int64_t)c * dst_row + (int64_t)r * 2, dst_row);
            }
    else
        for (uint64_t c = 0; c < full_cols; c += TILE)
            for (uint64_t r = 0; r < full_rows; r += height) {
                const uint8_t *at = src + (int64_t)r * src_row + (int64_t)c * 2;
                if (c % per_line == 0)
                    ask_for_lines(at + LINE_BYTES, src_row, (int)height);
                transpose_tile2(at, src_row, dst + (int64_t)c * dst_row + (int64_t)r * 2, dst_row);
            }
    for (uint64_t c = 0; c < n_cols; c++)
        for (uint64_t r = c < full_cols ? full_rows : 0; r < n_rows; r++)
            *(element2 *)(dst + (int64_t)c * dst_row + (int64_t)r * 2) =
                *(const element2 *)(src + (int64_t)r * src_row + (int64_t)c * 2);
}

const move_kernels VTRN_AT_LEVEL(move_kernel_table) = {
    .box1 = box1,
    .box2 = box2,
    .box4 = box4,
    .box8 = box8,
    .runs = runs,
    .transpose2 = transpose2,
    .transpose4 = transpose4,
};
