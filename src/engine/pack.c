/* Gathers and scatters of few elements, by loops of which the innermost is known. */
#include "engine/pack.h"

#include "engine/move_short.h"

enum { MAX_LOOPS = VTRN_MAX_FREE_DIMS + 1, KEPT_LOOPS = 3 };

/* A loop of num turns, step bytes from one to the next. */
typedef struct loop {
    int64_t step;
    uint32_t num;
} loop;

/* Loops, outermost first, of which neighbours are one where they go on evenly. */
static int loops_of(const vtrn_ap *ap, int64_t partition_bytes, loop out[MAX_LOOPS]) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    int n = 0;
    for (int i = -1; i < ap->n_dims; i++) {
        loop l = i < 0 ? (loop){partition_bytes, ap->n_partitions}
                       : (loop){ap->dim[i].step * size, ap->dim[i].num};
        if (l.num == 1)
            continue;
        if (n && out[n - 1].step == l.step * (int64_t)l.num)
            out[n - 1] = (loop){l.step, out[n - 1].num * l.num};
        else
            out[n++] = l;
    }
    return n;
}

static bool has_room(uint64_t n, size_t size) {
    bool is_size = size == 1 || size == 2 || size == 4 || size == 8;
    return is_size && n && n <= PACK_MAX_ELEMENTS && n * size <= PACK_MAX_BYTES;
}

static void set_run_bytes(packing *p) {
    p->run_bytes = p->n == 1 || p->step == p->size ? p->n * p->size : 0;
}

bool pack_of(const vtrn_ap *ap, int64_t partition_bytes, packing *out) {
    loop l[MAX_LOOPS];
    size_t size = dtype_size((vtrn_dtype)ap->dtype);
    if (!has_room(isa_ap_free_size(ap) * ap->n_partitions, size))
        return false;
    int n = loops_of(ap, partition_bytes, l);
    if (n > KEPT_LOOPS)
        return false;
    *out =
        (packing){.n_blocks = 1, .n_runs = 1, .n = 1, .step = (int64_t)size, .size = (uint8_t)size};
    if (n) {
        out->n = l[n - 1].num;
        out->step = l[n - 1].step;
        n--;
    }
    if (n) {
        out->n_runs = l[n - 1].num;
        out->run_step = l[n - 1].step;
        n--;
    }
    if (n) {
        out->n_blocks = l[0].num;
        out->block_step = l[0].step;
    }
    set_run_bytes(out);
    return true;
}

bool pack_is_dense(const packing *p) {
    return p->n_blocks == 1 && p->n_runs == 1 && p->run_bytes;
}

packing pack_of_scalars(const vtrn_ap *ap, int64_t partition_bytes, uint32_t n) {
    packing p = {.n_blocks = 1,
                 .n_runs = ap->n_partitions,
                 .n = n,
                 .run_step = partition_bytes,
                 .size = (uint8_t)dtype_size((vtrn_dtype)ap->dtype)};
    set_run_bytes(&p);
    return p;
}

/* Elements that are apart. */
#define STRIDED(type)                                                                              \
    static void gather_##type(const packing *p, const uint8_t *src, void *to) {                    \
        const uint32_t n_runs = p->n_runs, n = p->n;                                               \
        const int64_t step = p->step, run_step = p->run_step;                                      \
        type *dst = to;                                                                            \
        for (uint32_t r = 0; r < n_runs; r++, src += run_step, dst += n) {                         \
            if (step == 0) {                                                                       \
                const type x = *(const type *)src;                                                 \
                for (uint32_t i = 0; i < n; i++)                                                   \
                    dst[i] = x;                                                                    \
                continue;                                                                          \
            }                                                                                      \
            const uint8_t *at = src;                                                               \
            for (uint32_t i = 0; i < n; i++, at += step)                                           \
                dst[i] = *(const type *)at;                                                        \
        }                                                                                          \
    }                                                                                              \
    static void scatter_##type(const packing *p, uint8_t *dst, const void *from) {                 \
        const uint32_t n_runs = p->n_runs, n = p->n;                                               \
        const int64_t step = p->step, run_step = p->run_step;                                      \
        const type *src = from;                                                                    \
        for (uint32_t r = 0; r < n_runs; r++, dst += run_step, src += n) {                         \
            uint8_t *at = dst;                                                                     \
            for (uint32_t i = 0; i < n; i++, at += step)                                           \
                *(type *)at = src[i];                                                              \
        }                                                                                          \
    }
STRIDED(uint8_t)
STRIDED(uint16_t)
STRIDED(uint32_t)
STRIDED(uint64_t)

/* Runs of adjacent elements, from one even distance to another. */
static void move_runs(uint32_t n_runs, size_t n_bytes, const uint8_t *src, int64_t src_step,
                      uint8_t *dst, int64_t dst_step) {
#define EACH_RUN for (uint32_t r = 0; r < n_runs; r++, src += src_step, dst += dst_step)
    switch (n_bytes) {
    case 4:
        EACH_RUN memcpy(dst, src, 4);
        return;
    case 8:
        EACH_RUN memcpy(dst, src, 8);
        return;
    case 12:
        EACH_RUN {
            memcpy(dst, src, 8);
            memcpy(dst + 8, src + 8, 4);
        }
        return;
    case 1:
        EACH_RUN *dst = *src;
        return;
    case 2:
        EACH_RUN memcpy(dst, src, 2);
        return;
    default:
        break;
    }
    if (n_bytes >= 16)
        EACH_RUN move_short(dst, src, n_bytes);
    else
        EACH_RUN for (size_t i = 0; i < n_bytes; i++) dst[i] = src[i];
#undef EACH_RUN
}

static void gather_block(const packing *p, const uint8_t *src, uint8_t *dst) {
    if (p->run_bytes) {
        move_runs(p->n_runs, p->run_bytes, src, p->run_step, dst, p->run_bytes);
        return;
    }
    switch (p->size) {
    case 1:
        gather_uint8_t(p, src, dst);
        return;
    case 2:
        gather_uint16_t(p, src, dst);
        return;
    case 4:
        gather_uint32_t(p, src, dst);
        return;
    default:
        gather_uint64_t(p, src, dst);
    }
}

static void scatter_block(const packing *p, uint8_t *dst, const uint8_t *src) {
    if (p->run_bytes) {
        move_runs(p->n_runs, p->run_bytes, src, p->run_bytes, dst, p->run_step);
        return;
    }
    switch (p->size) {
    case 1:
        scatter_uint8_t(p, dst, src);
        return;
    case 2:
        scatter_uint16_t(p, dst, src);
        return;
    case 4:
        scatter_uint32_t(p, dst, src);
        return;
    default:
        scatter_uint64_t(p, dst, src);
    }
}

void pack_gather(const packing *p, const uint8_t *src, void *dst) {
    uint8_t *to = dst;
    size_t block_bytes = (size_t)p->n_runs * p->n * p->size;
    for (uint32_t b = 0; b < p->n_blocks; b++, src += p->block_step, to += block_bytes)
        gather_block(p, src, to);
}

void pack_scatter(const packing *p, uint8_t *dst, const void *src) {
    const uint8_t *from = src;
    size_t block_bytes = (size_t)p->n_runs * p->n * p->size;
    for (uint32_t b = 0; b < p->n_blocks; b++, dst += p->block_step, from += block_bytes)
        scatter_block(p, dst, from);
}
