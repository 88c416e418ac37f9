/* The table of op functions, and what an op may rely on: row shapes. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

const engine_fn engine_table[VTRN_OP_COUNT] = {
#define OP(e, name, engines, roles, gen, cost, setup, doc) [VTRN_OP_##e] = engine_op_##e,
#include "isa/isa.def"
#undef OP
};

/* Semaphores are resolved when the plan is made; at run time nothing is left to do. */
vtrn_status engine_op_EVENT_SEMAPHORE(engine_core *core, const vtrn_instr *instr,
                                      const uint64_t *slot_base, int thread_i) {
    (void)core, (void)instr, (void)slot_base, (void)thread_i;
    return NULL;
}

/* Custom ops need the run's callback: exec.c calls it and never comes here. */
vtrn_status engine_op_CUSTOM_OP(engine_core *core, const vtrn_instr *instr,
                                const uint64_t *slot_base, int thread_i) {
    (void)core, (void)instr, (void)slot_base, (void)thread_i;
    return VTRN_ERROR(VTRN_INTERNAL, "invariant broken: custom_op outside of engine_execute");
}

/* Cores exchange when all of a group have come to it: exec.c stops there and never comes here. */
vtrn_status engine_op_COLLECTIVE(engine_core *core, const vtrn_instr *instr,
                                 const uint64_t *slot_base, int thread_i) {
    (void)core, (void)instr, (void)slot_base, (void)thread_i;
    return VTRN_ERROR(VTRN_INTERNAL, "invariant broken: collective outside of engine_walk");
}

int engine_ap_merge(const vtrn_ap *ap, vtrn_dim out[VTRN_MAX_FREE_DIMS]) {
    int n = 0;
    for (int i = 0; i < ap->n_dims; i++) {
        vtrn_dim d = ap->dim[i];
        if (d.num == 1)
            continue;
        if (n && out[n - 1].step == (int64_t)d.step * d.num)
            out[n - 1] = (vtrn_dim){d.step, out[n - 1].num * d.num};
        else
            out[n++] = d;
    }
    if (!n)
        out[n++] = (vtrn_dim){1, 1};
    return n;
}

bool engine_are_rows_apart(const vtrn_instr *instr, int ap_i) {
    const vtrn_ap *d = &instr->ap[0], *a = &instr->ap[ap_i];
    return a->space != d->space || a->partition == d->partition ||
           a->partition + a->n_partitions <= d->partition ||
           d->partition + d->n_partitions <= a->partition;
}

/* Bytes of a row that repeat at every multiple of `period` from `first` on: [first, first + size),
 * if all dims are multiples of it but those of one run of adjacent elements. */
typedef struct comb {
    int64_t first, size;
    uint64_t period; /* 0: there is one run */
} comb;

static uint64_t greatest_divisor(uint64_t a, uint64_t b) {
    while (b) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static comb comb_of(const vtrn_ap *ap) {
    vtrn_dim d[VTRN_MAX_FREE_DIMS];
    int n = engine_ap_merge(ap, d);
    comb c = {.first = ap->addr, .size = (int64_t)dtype_size(ap->dtype)};
    const int64_t element = c.size, last_step = d[n - 1].step;
    if (last_step == 1 || last_step == -1) {
        c.size *= d[--n].num;
        c.first -= last_step < 0 ? c.size - element : 0;
    }
    for (int i = 0; i < n; i++)
        if (d[i].num > 1)
            c.period = greatest_divisor(c.period, (uint64_t)llabs(d[i].step * element));
    return c;
}

/* Whether the two lie side by side in each period, as the even and the odd elements of a row do. */
static bool are_interleaved(const vtrn_ap *a, const vtrn_ap *b) {
    const comb x = comb_of(a), y = comb_of(b);
    const int64_t period = (int64_t)greatest_divisor(x.period, y.period);
    if (period == 0)
        return false;
    int64_t apart = (y.first - x.first) % period;
    apart += apart < 0 ? period : 0;
    return x.size <= apart && apart + y.size <= period;
}

unsigned engine_crossed(const vtrn_instr *instr) {
    const vtrn_ap *to = &instr->ap[0];
    int64_t lo, hi, to_lo, to_hi;
    unsigned crossed = 0;
    isa_ap_extent(to, &to_lo, &to_hi);
    for (int i = 1; i < VTRN_MAX_AP; i++) {
        const vtrn_ap *ap = &instr->ap[i];
        if (ap->space != to->space || isa_ap_is_same(ap, to))
            continue;
        isa_ap_extent(ap, &lo, &hi);
        if (lo < to_hi && to_lo < hi && ap->partition < to->partition + to->n_partitions &&
            to->partition < ap->partition + ap->n_partitions && !are_interleaved(to, ap))
            crossed |= 1u << i;
    }
    return crossed;
}

bool engine_ap_is_dense(const vtrn_ap *ap) {
    vtrn_dim d[VTRN_MAX_FREE_DIMS];
    return engine_ap_merge(ap, d) == 1 && d[0].step == 1;
}

/* Element n counted in row-major order of the dims: a counter with carry, innermost last. */
typedef struct walk {
    vtrn_dim dim[VTRN_MAX_FREE_DIMS];
    uint32_t at[VTRN_MAX_FREE_DIMS];
    int n_dims;
    int64_t offset; /* elements, of the current innermost run's start */
} walk;

static void walk_begin(walk *w, const vtrn_ap *ap, uint64_t from) {
    w->n_dims = engine_ap_merge(ap, w->dim);
    w->offset = 0;
    for (int i = w->n_dims - 1; i >= 0; i--) {
        w->at[i] = (uint32_t)(from % w->dim[i].num);
        from /= w->dim[i].num;
        w->offset += (int64_t)w->at[i] * w->dim[i].step;
    }
}

/* Takes up to n elements of the innermost run; returns how many, moves on. */
static uint64_t walk_run(walk *w, uint64_t n, int64_t *offset) {
    int last = w->n_dims - 1;
    uint64_t left = w->dim[last].num - w->at[last];
    uint64_t take = left < n ? left : n;
    *offset = w->offset;
    w->at[last] += (uint32_t)take;
    w->offset += (int64_t)take * w->dim[last].step;
    for (int i = last; i > 0 && w->at[i] == w->dim[i].num; i--) {
        w->offset += w->dim[i - 1].step - (int64_t)w->dim[i].num * w->dim[i].step;
        w->at[i] = 0;
        w->at[i - 1]++;
    }
    return take;
}

#define STRIDED(type)                                                                              \
    static void copy_##type(const type *src, int64_t src_step, type *dst, int64_t dst_step,        \
                            uint64_t n) {                                                          \
        for (uint64_t i = 0; i < n; i++)                                                           \
            dst[(int64_t)i * dst_step] = src[(int64_t)i * src_step];                               \
    }
STRIDED(uint8_t)
STRIDED(uint16_t)
STRIDED(uint32_t)
STRIDED(uint64_t)

static void copy_strided(const uint8_t *src, int64_t src_step, uint8_t *dst, int64_t dst_step,
                         uint64_t n, size_t size) {
    if (src_step == 1 && dst_step == 1)
        memcpy(dst, src, n * size);
    else if (size == 4)
        copy_uint32_t((const uint32_t *)src, src_step, (uint32_t *)dst, dst_step, n);
    else if (size == 2)
        copy_uint16_t((const uint16_t *)src, src_step, (uint16_t *)dst, dst_step, n);
    else if (size == 1)
        copy_uint8_t(src, src_step, dst, dst_step, n);
    else if (size == 8)
        copy_uint64_t((const uint64_t *)src, src_step, (uint64_t *)dst, dst_step, n);
    else
        for (uint64_t i = 0; i < n; i++)
            memcpy(dst + (int64_t)i * dst_step * (int64_t)size,
                   src + (int64_t)i * src_step * (int64_t)size, size);
}

void engine_row_gather(const vtrn_ap *ap, const uint8_t *row, uint64_t from, uint64_t n,
                       void *out) {
    int64_t size = (int64_t)dtype_size(ap->dtype);
    uint8_t *dst = out;
    walk w;
    walk_begin(&w, ap, from);
    while (n) {
        int64_t offset, step = w.dim[w.n_dims - 1].step;
        uint64_t took = walk_run(&w, n, &offset);
        copy_strided(row + offset * size, step, dst, 1, took, (size_t)size);
        dst += took * (uint64_t)size;
        n -= took;
    }
}

void engine_row_scatter(const vtrn_ap *ap, uint8_t *row, uint64_t from, uint64_t n,
                        const void *in) {
    int64_t size = (int64_t)dtype_size(ap->dtype);
    const uint8_t *src = in;
    walk w;
    walk_begin(&w, ap, from);
    while (n) {
        int64_t offset, step = w.dim[w.n_dims - 1].step;
        uint64_t took = walk_run(&w, n, &offset);
        copy_strided(src, 1, row + offset * size, step, took, (size_t)size);
        src += took * (uint64_t)size;
        n -= took;
    }
}

void engine_row_load_fp32(const vtrn_ap *ap, const uint8_t *row, uint64_t from, uint64_t n,
                          float *out, void *tmp) {
    if (engine_ap_is_dense(ap)) {
        dtype_load_fp32(ap->dtype, row + from * dtype_size(ap->dtype), out, n);
        return;
    }
    if (ap->dtype == VTRN_DTYPE_FP32) {
        engine_row_gather(ap, row, from, n, out);
        return;
    }
    engine_row_gather(ap, row, from, n, tmp);
    dtype_load_fp32(ap->dtype, tmp, out, n);
}

void engine_row_store_fp32(const vtrn_ap *ap, uint8_t *row, uint64_t from, uint64_t n,
                           const float *in, void *tmp) {
    if (engine_ap_is_dense(ap)) {
        dtype_store_fp32(ap->dtype, in, row + from * dtype_size(ap->dtype), n);
        return;
    }
    if (ap->dtype == VTRN_DTYPE_FP32) {
        engine_row_scatter(ap, row, from, n, in);
        return;
    }
    dtype_store_fp32(ap->dtype, in, tmp, n);
    engine_row_scatter(ap, row, from, n, tmp);
}
