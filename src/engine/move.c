/* Strided moves of raw elements: how DMA descriptors, im2col and transposed loads are carried out.
 */
#include "engine/move.h"

#include "base/dtype_kernels.h"
#include "engine/move_kernels.h"

#include <string.h>

/* Tile of the two innermost loops: 64 cache lines of one side, each of which gives 16 elements to
 * the other loop, stay in a first-level cache. */
enum { TILE_INNER = 64, TILE_OUTER = 16, LINE_BYTES = 64 };

enum {
    CAST_AHEAD_BYTES = 1024, /* runs this far ahead, and so much of them, are asked for */
    CAST_SHORTEST = 8,       /* elements for which it pays to call the loop that converts */
};

/* *x /= by where it divides without remainder. Divisions of 64 bits are slow, and seldom needed. */
static bool divide(uint64_t *x, uint64_t by) {
    if (by == 1)
        return true;
    if (*x == by) {
        *x = 1;
        return true;
    }
    if (*x <= UINT32_MAX) {
        uint32_t small = (uint32_t)*x, divisor = (uint32_t)by;
        *x = small / divisor;
        return small % divisor == 0;
    }
    uint64_t rest = *x % by;
    *x /= by;
    return rest == 0;
}

bool move_of_rows(const vtrn_ap *src, const vtrn_ap *dst, move *out) {
    int64_t src_size = (int64_t)dtype_size(src->dtype), dst_size = (int64_t)dtype_size(dst->dtype);
    move_level inner_first[MOVE_MAX_LEVELS];
    int n = 0, s = src->n_dims - 1, d = dst->n_dims - 1;
    uint64_t src_left = s >= 0 ? src->dim[s].num : 1, dst_left = d >= 0 ? dst->dim[d].num : 1;
    int64_t src_step = s >= 0 ? src->dim[s].step * src_size : 0;
    int64_t dst_step = d >= 0 ? dst->dim[d].step * dst_size : 0;
    for (;;) {
        uint64_t take = src_left < dst_left ? src_left : dst_left;
        if (take && (!divide(&src_left, take) || !divide(&dst_left, take)))
            return false;
        if (take > 1)
            inner_first[n++] = (move_level){take, src_step, dst_step};
        src_step *= (int64_t)take;
        dst_step *= (int64_t)take;
        if (src_left == 1 && s > 0) {
            s--;
            src_left = src->dim[s].num;
            src_step = src->dim[s].step * src_size;
        } else if (dst_left == 1 && d > 0) {
            d--;
            dst_left = dst->dim[d].num;
            dst_step = dst->dim[d].step * dst_size;
        } else if (src_left == 1 || dst_left == 1) {
            break;
        }
    }
    if (src_left != dst_left)
        return false;
    out->size = (size_t)src_size;
    out->n_levels = n;
    out->block1 = 0;
    for (int i = 0; i < n; i++)
        out->level[i] = inner_first[n - 1 - i];
    return true;
}

void move_add_outer(move *m, uint64_t n, int64_t src_step, int64_t dst_step) {
    if (n == 1)
        return;
    memmove(m->level + 1, m->level, (size_t)m->n_levels * sizeof m->level[0]);
    m->level[0] = (move_level){n, src_step, dst_step};
    m->n_levels++;
}

static void merge_levels(move *m) {
    int n = 0;
    for (int i = 0; i < m->n_levels; i++) {
        move_level l = m->level[i];
        move_level *outer = n ? &m->level[n - 1] : NULL;
        if (outer && outer->src_step == l.src_step * (int64_t)l.n &&
            outer->dst_step == l.dst_step * (int64_t)l.n)
            *outer = (move_level){outer->n * l.n, l.src_step, l.dst_step};
        else
            m->level[n++] = l;
    }
    m->n_levels = n;
}

static int64_t magnitude(int64_t x) {
    return x < 0 ? -x : x;
}

/* When the innermost loop strides over cache lines on one side and another loop moves within lines
 * there, puts the other loop next to it, to be tiled. */
static void pair_for_cache(move *m) {
    int last = m->n_levels - 1;
    for (int side = 0; side < 2; side++) {
        int64_t inner_step = side ? m->level[last].dst_step : m->level[last].src_step;
        if (magnitude(inner_step) < LINE_BYTES)
            continue;
        for (int i = last - 1; i >= 0; i--) {
            int64_t step = side ? m->level[i].dst_step : m->level[i].src_step;
            if (magnitude(step) >= LINE_BYTES || step == 0)
                continue;
            move_level pair = m->level[i];
            memmove(m->level + i, m->level + i + 1, (size_t)(last - 1 - i) * sizeof pair);
            m->level[last - 1] = pair;
            m->block1 = TILE_OUTER;
            return;
        }
    }
}

void move_prepare(move *m) {
    merge_levels(m);
    m->block1 = 0;
    if (!m->n_levels)
        m->level[m->n_levels++] = (move_level){1, 0, 0};
    move_level *last = &m->level[m->n_levels - 1];
    if (last->src_step == (int64_t)m->size && last->dst_step == (int64_t)m->size) {
        m->size *= last->n;
        if (m->n_levels > 1)
            m->n_levels--;
        else
            *last = (move_level){1, 0, 0};
    }
    pair_for_cache(m);
}

/* Turns the loops around the inner ones: n_outer of them, at[] the turn of each. False: all done.
 */
static bool next_turn(const move *m, int n_outer, uint64_t at[MOVE_MAX_LEVELS], const uint8_t **src,
                      uint8_t **dst) {
    for (int i = n_outer - 1; i >= 0; i--) {
        const move_level *l = &m->level[i];
        *src += l->src_step;
        *dst += l->dst_step;
        if (++at[i] < l->n)
            return true;
        *src -= l->src_step * (int64_t)l->n;
        *dst -= l->dst_step * (int64_t)l->n;
        at[i] = 0;
    }
    return false;
}

bool move_prepare_cast(move *m, vtrn_dtype src_type, vtrn_dtype dst_type) {
    merge_levels(m);
    m->block1 = 0;
    if (!m->n_levels || (src_type != VTRN_DTYPE_FP32 && dst_type != VTRN_DTYPE_FP32))
        return false;
    const move_level *last = &m->level[m->n_levels - 1];
    return last->n >= CAST_SHORTEST && last->src_step == (int64_t)dtype_size(src_type) &&
           last->dst_step == (int64_t)dtype_size(dst_type);
}

void move_run_cast(const move *m, vtrn_dtype src_type, vtrn_dtype dst_type, const uint8_t *src,
                   uint8_t *dst) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    static const move_level once = {1, 0, 0};
    int n_outer = m->n_levels > 2 ? m->n_levels - 2 : 0;
    const move_level *runs = m->n_levels > 1 ? &m->level[n_outer] : &once;
    size_t n = (size_t)m->level[m->n_levels - 1].n, run_bytes = n * m->size;
    size_t ahead_bytes = run_bytes < CAST_AHEAD_BYTES ? run_bytes : CAST_AHEAD_BYTES;
    int64_t ahead = (1 + CAST_AHEAD_BYTES / (int64_t)run_bytes) * runs->src_step;
    uint64_t at[MOVE_MAX_LEVELS] = {0};
    do {
        const uint8_t *s = src;
        uint8_t *d = dst;
        for (uint64_t i = 0; i < runs->n; i++, s += runs->src_step, d += runs->dst_step) {
            for (size_t line = 0; line < ahead_bytes; line += LINE_BYTES)
                __builtin_prefetch(s + ahead + line);
            if (src_type == VTRN_DTYPE_FP32)
                kernels->store[dst_type]((const float *)s, d, n);
            else
                kernels->load[src_type](s, (float *)d, n);
        }
    } while (next_turn(m, n_outer, at, &src, &dst));
}

/* The two innermost loops; the outer one with n turns. */
static void two_levels(const move *m, const move_level *outer, const uint8_t *src, uint8_t *dst) {
    const move_level *inner = &m->level[m->n_levels - 1];
    const move_kernels *kernels = CPU_TABLE(move_kernel_table);
    move_box box = {outer->n,        inner->n,        outer->src_step,
                    outer->dst_step, inner->src_step, inner->dst_step};
    switch (m->size) {
    case 1:
        kernels->box1(&box, src, dst);
        return;
    case 2:
        kernels->box2(&box, src, dst);
        return;
    case 4:
        kernels->box4(&box, src, dst);
        return;
    case 8:
        kernels->box8(&box, src, dst);
        return;
    default:
        kernels->runs(&box, m->size, src, dst);
    }
}

/* The two innermost loops, tile by tile. */
static void two_levels_tiled(const move *m, const uint8_t *src, uint8_t *dst) {
    const move_level *outer = &m->level[m->n_levels - 2], *inner = outer + 1;
    if (m->size == 4 || m->size == 2) {
        const move_kernels *kernels = CPU_TABLE(move_kernel_table);
        int64_t size = (int64_t)m->size;
        bool is_down = outer->src_step == size && inner->dst_step == size;
        if (is_down || (inner->src_step == size && outer->dst_step == size)) {
            const move_level *rows = is_down ? inner : outer, *cols = is_down ? outer : inner;
            (size == 4 ? kernels->transpose4 : kernels->transpose2)(
                src, rows->src_step, dst, cols->dst_step, rows->n, cols->n);
            return;
        }
    }
    move part = {.n_levels = 1, .size = m->size};
    for (uint64_t o = 0; o < outer->n; o += TILE_OUTER)
        for (uint64_t i = 0; i < inner->n; i += TILE_INNER) {
            move_level some = *outer;
            some.n = outer->n - o < TILE_OUTER ? outer->n - o : TILE_OUTER;
            part.level[0] = *inner;
            part.level[0].n = inner->n - i < TILE_INNER ? inner->n - i : TILE_INNER;
            two_levels(&part, &some,
                       src + (int64_t)o * outer->src_step + (int64_t)i * inner->src_step,
                       dst + (int64_t)o * outer->dst_step + (int64_t)i * inner->dst_step);
        }
}

void move_run(const move *m, const uint8_t *src, uint8_t *dst) {
    static const move_level once = {1, 0, 0};
    int n_outer = m->n_levels > 2 ? m->n_levels - 2 : 0;
    const move_level *outer = m->n_levels > 1 ? &m->level[n_outer] : &once;
    uint64_t at[MOVE_MAX_LEVELS] = {0};
    do {
        if (m->block1)
            two_levels_tiled(m, src, dst);
        else
            two_levels(m, outer, src, dst);
    } while (next_turn(m, n_outer, at, &src, &dst));
}
