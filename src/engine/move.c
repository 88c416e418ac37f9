/* Strided moves of raw elements: how DMA descriptors, im2col and transposed loads are carried out.
 */
#include "engine/move.h"

#include <string.h>

/* Tile of the two innermost loops: 64 cache lines of one side, each of which gives 16 elements to
 * the other loop, stay in a first-level cache. */
enum { TILE_INNER = 64, TILE_OUTER = 16, LINE_BYTES = 64 };

bool move_of_rows(const vtrn_ap *src, const vtrn_ap *dst, move *out) {
    int64_t size = (int64_t)dtype_size(src->dtype);
    move_level inner_first[MOVE_MAX_LEVELS];
    int n = 0, s = src->n_dims - 1, d = dst->n_dims - 1;
    uint64_t src_left = s >= 0 ? src->dim[s].num : 1, dst_left = d >= 0 ? dst->dim[d].num : 1;
    int64_t src_step = s >= 0 ? src->dim[s].step * size : 0;
    int64_t dst_step = d >= 0 ? dst->dim[d].step * size : 0;
    for (;;) {
        uint64_t take = src_left < dst_left ? src_left : dst_left;
        if (take && (src_left % take || dst_left % take))
            return false;
        if (take > 1)
            inner_first[n++] = (move_level){take, src_step, dst_step};
        src_left /= take;
        dst_left /= take;
        src_step *= (int64_t)take;
        dst_step *= (int64_t)take;
        if (src_left == 1 && s > 0) {
            s--;
            src_left = src->dim[s].num;
            src_step = src->dim[s].step * size;
        } else if (dst_left == 1 && d > 0) {
            d--;
            dst_left = dst->dim[d].num;
            dst_step = dst->dim[d].step * size;
        } else if (src_left == 1 || dst_left == 1) {
            break;
        }
    }
    if (src_left != dst_left)
        return false;
    out->size = (size_t)size;
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

/* Elements may lie at any byte, and alias anything. */
typedef uint8_t element1 __attribute__((may_alias));
typedef uint16_t element2 __attribute__((may_alias, aligned(1)));
typedef uint32_t element4 __attribute__((may_alias, aligned(1)));
typedef uint64_t element8 __attribute__((may_alias, aligned(1)));

#define ONE_LEVEL(bytes)                                                                           \
    static void one_level_##bytes(const uint8_t *src, uint8_t *dst, uint64_t n, int64_t src_step,  \
                                  int64_t dst_step) {                                              \
        if (dst_step == bytes) {                                                                   \
            for (uint64_t i = 0; i < n; i++)                                                       \
                ((element##bytes *)dst)[i] =                                                       \
                    *(const element##bytes *)(src + (int64_t)i * src_step);                        \
            return;                                                                                \
        }                                                                                          \
        for (uint64_t i = 0; i < n; i++)                                                           \
            *(element##bytes *)(dst + (int64_t)i * dst_step) =                                     \
                *(const element##bytes *)(src + (int64_t)i * src_step);                            \
    }
ONE_LEVEL(1)
ONE_LEVEL(2)
ONE_LEVEL(4)
ONE_LEVEL(8)

static void one_level(const move *m, const uint8_t *src, uint8_t *dst, uint64_t n) {
    const move_level *l = &m->level[m->n_levels - 1];
    switch (m->size) {
    case 1:
        one_level_1(src, dst, n, l->src_step, l->dst_step);
        return;
    case 2:
        one_level_2(src, dst, n, l->src_step, l->dst_step);
        return;
    case 4:
        one_level_4(src, dst, n, l->src_step, l->dst_step);
        return;
    case 8:
        one_level_8(src, dst, n, l->src_step, l->dst_step);
        return;
    default:
        for (uint64_t i = 0; i < n; i++)
            memcpy(dst + (int64_t)i * l->dst_step, src + (int64_t)i * l->src_step, m->size);
    }
}

/* The two innermost loops, tile by tile. */
static void two_levels_tiled(const move *m, const uint8_t *src, uint8_t *dst) {
    const move_level *outer = &m->level[m->n_levels - 2], *inner = outer + 1;
    for (uint64_t o = 0; o < outer->n; o += TILE_OUTER)
        for (uint64_t i = 0; i < inner->n; i += TILE_INNER) {
            uint64_t n_outer = outer->n - o < TILE_OUTER ? outer->n - o : TILE_OUTER;
            uint64_t n_inner = inner->n - i < TILE_INNER ? inner->n - i : TILE_INNER;
            for (uint64_t k = o; k < o + n_outer; k++)
                one_level(m, src + (int64_t)k * outer->src_step + (int64_t)i * inner->src_step,
                          dst + (int64_t)k * outer->dst_step + (int64_t)i * inner->dst_step,
                          n_inner);
        }
}

void move_run(const move *m, const uint8_t *src, uint8_t *dst) {
    int n_outer = m->n_levels - (m->block1 ? 2 : 1);
    uint64_t at[MOVE_MAX_LEVELS] = {0};
    for (;;) {
        if (m->block1)
            two_levels_tiled(m, src, dst);
        else
            one_level(m, src, dst, m->level[n_outer].n);
        int i = n_outer - 1;
        for (; i >= 0; i--) {
            src += m->level[i].src_step;
            dst += m->level[i].dst_step;
            if (++at[i] < m->level[i].n)
                break;
            src -= m->level[i].src_step * (int64_t)m->level[i].n;
            dst -= m->level[i].dst_step * (int64_t)m->level[i].n;
            at[i] = 0;
        }
        if (i < 0)
            return;
    }
}
