/* Adding updates at places that may meet: indirect DMA must not see an address twice, but a matmul
 * sums. The address of an element is (high, low); 128 updates at a time make a one-hot tile of
 * their high parts, stationary, and one of their low parts times their values, moving:
 *
 *     sum[high, low] += hot_high[update, high]^T @ (hot_low * value)[update, low]
 *
 * Integers go in four bytes, whose sums fp32 holds exactly; floats that may not be finite in three
 * parts (see emit/non_finite.h). */
#include "compiler/lower/scatter_add.h"

#include "compiler/lower/movement.h"
#include "compiler/plan/psum_banks.h"
#include "compiler/plan/scatter_sums.h"
#include "compiler/plan/tile.h"

#include <string.h>

enum {
    MAX_ELEMENTS = 1 << 22, /* of the table */
    MAX_STEPS = 1 << 16,    /* tiles of updates: a program's size */
    MAX_FOLDED = 1 << 20,   /* elements whose places are listed one by one */
    CHUNK_COLS = 64,        /* blocks of 128 updates whose addresses are held at a time */
    LEAST_CHUNK_COLS = SBUF_ALIGN / 4,
};

/* Numbers that are held all the time. */
static int64_t n_numbers_of(const kernel_scatter_add *x) {
    return x->n_high > x->low_size && !x->is_tight ? x->n_high : x->low_size;
}

/* What the tiles take of a partition. */
static uint64_t sbuf_bytes(const vtrn_chip *chip, const kernel_scatter_add *x) {
    uint64_t column = sbuf_round((uint64_t)x->chunk_cols * 4);
    uint64_t row = sbuf_round((uint64_t)x->low_size * 4), one = sbuf_round(4);
    uint64_t hot = sbuf_round(tile_max_rows(chip) * 4),
             n_values = MAX_SUM_PARTS - (x->is_int ? 0 : 1);
    return sbuf_round((uint64_t)n_numbers_of(x) * 4) + (x->is_tight ? hot : 0) +
           windows_address_bytes(x->chunk_cols) + (4 + n_values) * column + one + 2 * hot + 7 * row;
}

static int64_t n_blocks_of(const lower *l, int64_t n) {
    return (n + tile_max_rows(l->chip) - 1) / tile_max_rows(l->chip);
}

/* Sizes the sums of x->at; the number of steps, or -1. *is_folded: whether each element of a window
 * is to be a window of its own. */
static int64_t size_sums(const lower *l, kernel_scatter_add *x, bool *is_folded) {
    const address_spec *s = &x->at;
    vtrn_dtype t = (vtrn_dtype)s->table.dtype;
    int64_t bank_cols = psum_cols(l->chip), n = s->n;
    x->is_int = t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32;
    if (!x->is_int && t != VTRN_DTYPE_FP32 && t != VTRN_DTYPE_BF16 && t != VTRN_DTYPE_FP16)
        return -1;
    x->n_parts = x->is_int ? INT_BYTES : x->is_finite ? 1 : FLOAT_PARTS;
    x->n_window = 1;
    for (int i = 0; i < s->n_window; i++)
        x->n_window *= s->window[i].size;
    for (x->low_size = 1; x->low_size * x->low_size < x->n_elements && 2 * x->low_size <= bank_cols;
         x->shift++)
        x->low_size *= 2;
    x->n_high = (x->n_elements + x->low_size - 1) / x->low_size;
    x->chunk_cols = CHUNK_COLS;
    if (sbuf_bytes(l->chip, x) > l->plan->sbuf_limit) {
        x->is_tight = true;
        x->chunk_cols = LEAST_CHUNK_COLS;
    }
    for (; sbuf_bytes(l->chip, x) > l->plan->sbuf_limit && x->low_size > 1; x->shift--) {
        x->low_size /= 2;
        x->n_high = (x->n_elements + x->low_size - 1) / x->low_size;
    }
    x->n_numbers = n_numbers_of(x);
    x->updates = s->array;
    x->updates.n = 1;
    x->updates.f[0] = s->n_batch ? s->batch[0] : (view_factor){1, 0};
    /* few windows would leave partitions without an update */
    *is_folded = n * x->n_window <= MAX_FOLDED &&
                 2 * n_blocks_of(l, n * x->n_window) <= n_blocks_of(l, n) * x->n_window;
    if (*is_folded) {
        n *= x->n_window;
        x->n_window = 1;
    }
    int64_t n_steps = n_blocks_of(l, n) * x->n_window * n_blocks_of(l, x->n_high);
    bool is_supported = x->n_parts <= l->chip->n_psum_banks && x->n_elements <= MAX_ELEMENTS &&
                        x->n_window < MAX_STEPS && n_blocks_of(l, n) < MAX_STEPS &&
                        n_steps * (x->is_int ? INT_BYTES : 1) < MAX_STEPS &&
                        (!x->is_int || n * x->n_window <= INT_BYTES_MAX_SUMMANDS);
    return is_supported ? n_steps : -1;
}

int64_t scatter_add_steps(const lower *l, const address_spec *s, int64_t n_elements) {
    kernel_scatter_add x = {.at = *s, .n_elements = n_elements};
    bool is_folded;
    return size_sums(l, &x, &is_folded);
}

/* Gives the updates one stride, by a copy where they have more. */
static vtrn_status line_up(lower *l, address_spec *s) {
    view all = s->array, list;
    int64_t n_window = 1;
    all.n = s->n_batch;
    memcpy(all.f, s->batch, (size_t)s->n_batch * sizeof *s->batch);
    list = all;
    view_coalesce(&list);
    if (list.n > 1) {
        for (int i = 0; i < s->n_window; i++) {
            all.f[all.n++] = (view_factor){s->window[i].size, s->window[i].array};
            n_window *= s->window[i].size;
        }
        graph_type flat = {.dtype = all.dtype, .rank = 1, .dims = {s->n * n_window}};
        VTRN_RETURN_IF_ERROR(movement_densify(l, &all, &flat));
        s->array = all;
        list.f[0] = (view_factor){s->n, n_window};
        for (int64_t i = s->n_window - 1, step = 1; i >= 0; step *= s->window[i--].size)
            s->window[i].array = step;
    }
    s->n_batch = list.n ? 1 : 0;
    s->batch[0] = list.f[0];
    return NULL;
}

vtrn_status scatter_add(lower *l, address_spec *s, int64_t n_elements, bool is_zero,
                        bool is_finite) {
    kernel_scatter_add x = {
        .at = *s, .n_elements = n_elements, .has_old = !is_zero, .is_finite = is_finite};
    kernel_scatter_add spec = x;
    bool is_folded;
    VTRN_CHECK(size_sums(l, &x, &is_folded) >= 0, "the caller asked scatter_add_steps()");
    if (is_folded)
        VTRN_RETURN_IF_ERROR(address_fold(l, s, s->n_window, 1));
    VTRN_RETURN_IF_ERROR(line_up(l, s));
    spec.at = *s;
    VTRN_CHECK(size_sums(l, &spec, &is_folded) >= 0 && !is_folded, "the windows are folded");
    kernel_demand demand = {.sbuf_bytes = sbuf_bytes(l->chip, &spec), .psum_banks = spec.n_parts};
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_SCATTER_ADD, &spec, sizeof spec, demand));
    VTRN_RETURN_IF_ERROR(windows_accesses(l->plan, s));
    VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, s->array.slot));
    if (!is_zero)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, s->table.slot));
    return plan_writes_whole(l->plan, s->table.slot);
}
