/* Rows of elementwise instructions in blocks: what is not fp32 is converted for a block at once,
 * and one call of a kernel does all its rows. */
#include "engine/lanes_rows.h"

#include "base/dtype_kernels.h"

#include <string.h>

enum {
    BLOCK_ROWS = 32,
    LONG_FP32_ROW = 128, /* of longer ones a call each costs little, and rows are asked for ahead */
    SHORT_OTHER_ROW = 16, /* of shorter ones many are converted at once when they are joined */
};

static bool is_fp32(const operand *o) {
    return o->dtype == VTRN_DTYPE_FP32;
}

static bool is_number(const operand *o) {
    return o->n_dims == 1 && o->dim[0].step == 0;
}

/* Rows of operand and dst are the same bytes, or have none in common. */
static bool is_same_or_apart(const lanes *l, int ap_i) {
    const vtrn_ap *d = &l->instr->ap[0], *a = &l->instr->ap[ap_i];
    const int64_t n = (int64_t)l->op[0].n;
    if (a->space != d->space || (a->addr == d->addr && l->op[ap_i].size == l->op[0].size))
        return true;
    return a->addr + n * l->op[ap_i].size <= d->addr || d->addr + n * l->op[0].size <= a->addr;
}

static bool is_stream_fit(const lanes *l, const lanes_spec *spec, int i) {
    const operand *o = &l->op[i];
    const bool is_in_place = spec->takes_bits || (is_fp32(o) && is_fp32(&l->op[0]));
    if (is_number(o))
        return spec->numbers >> i & 1;
    return o->n_dims == 1 && o->dim[0].step == 1 &&
           (i == 0 || !is_in_place || is_same_or_apart(l, i));
}

bool lanes_rows_fit(const lanes *l, const lanes_spec *spec) {
    const uint64_t n = l->op[0].n;
    bool has_numbers = false, is_all_fp32 = true, has_other = !is_fp32(&l->op[0]);
    if (!spec->rows || l->instr->flags & VTRN_FLAG_STOCHASTIC || n < 2 || n > OPERAND_CHUNK)
        return false;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const bool is_stream = spec->streams >> i & 1, is_scalar = spec->scalars >> i & 1;
        if ((!is_stream && !is_scalar) || l->instr->ap[i].space == VTRN_SPACE_NONE)
            continue;
        if (!engine_are_rows_apart(l->instr, i) || (is_stream && !is_stream_fit(l, spec, i)))
            return false;
        if (spec->takes_bits && l->op[i].size != sizeof(uint32_t) &&
            !(i == 0 && spec->gives_numbers) && !(spec->of_bytes >> i & 1))
            return false;
        has_numbers = has_numbers || is_scalar || is_number(&l->op[i]);
        if (!is_stream)
            continue;
        is_all_fp32 = is_all_fp32 && is_fp32(&l->op[i]) && !is_number(&l->op[i]);
        has_other = has_other || (!is_fp32(&l->op[i]) && l->op[i].dtype != VTRN_DTYPE_INT32);
    }
    if (is_all_fp32 && !spec->takes_bits)
        return n < LONG_FP32_ROW;
    return has_numbers || (!has_other && !spec->takes_bits) || n >= SHORT_OTHER_ROW;
}

/* The number of each row of the block. */
static void take_numbers(const operand *o, bool takes_bits, int first, int n_rows, float *out) {
    const uint8_t *at = o->row_0 + first * o->row_stride;
    for (int r = 0; r < n_rows; r++, at += o->row_stride) {
        int32_t integer;
        if (takes_bits || is_fp32(o)) {
            memcpy(&out[r], at, sizeof *out);
        } else if (o->dtype == VTRN_DTYPE_INT32) {
            memcpy(&integer, at, sizeof integer);
            out[r] = (float)integer;
        } else {
            dtype_load_fp32(o->dtype, at, &out[r], 1);
        }
    }
}

static void take_rows(lanes *l, bool takes_bits, int i, int first, lanes_rows *block) {
    const operand *o = &l->op[i];
    const bool is_in_place = takes_bits || is_fp32(o);
    const uint8_t *at = o->row_0 + first * o->row_stride;
    block->p[i] = is_in_place ? (float *)at : l->buf[i];
    block->step[i] = is_in_place ? (size_t)o->row_stride / sizeof(float) : block->n;
    if (i == 0 || is_in_place)
        return;
    if (o->dtype == VTRN_DTYPE_INT32) {
        l->alu->int32_rows(at, (size_t)o->row_stride, (size_t)block->n_rows, block->n, l->buf[i]);
        return;
    }
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    for (int r = 0; r < block->n_rows; r++, at += o->row_stride)
        kernels->load[o->dtype](at, l->buf[i] + (size_t)r * block->n, block->n);
}

void lanes_run_rows(lanes *l, const lanes_spec *spec, int first, int end) {
    float numbers[VTRN_MAX_AP][BLOCK_ROWS];
    const operand *d = &l->op[0];
    const bool is_stored = spec->takes_bits || is_fp32(d); /* by the instruction's function */
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    lanes_rows block = {.n = (size_t)d->n};
    int most = (int)(OPERAND_CHUNK / block.n);
    most = most < BLOCK_ROWS ? most : BLOCK_ROWS;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const bool is_immediate = l->instr->ap[i].space == VTRN_SPACE_NONE;
        block.is_number[i] =
            spec->scalars >> i & 1 || (spec->streams >> i & 1 && is_number(&l->op[i]));
        if (!block.is_number[i])
            continue;
        block.p[i] = !is_immediate      ? numbers[i]
                     : spec->takes_bits ? (float *)&l->bits[i]
                                        : &l->s[i];
        block.step[i] = !is_immediate;
    }
    for (; first < end; first += block.n_rows) {
        block.first = first;
        block.n_rows = end - first < most ? end - first : most;
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            if (spec->of_bytes >> i & 1)
                continue;
            if (block.is_number[i] && block.step[i])
                take_numbers(&l->op[i], spec->takes_bits, first, block.n_rows, numbers[i]);
            else if (!block.is_number[i] && spec->streams >> i & 1)
                take_rows(l, spec->takes_bits, i, first, &block);
        }
        spec->rows(l, &block);
        uint8_t *at = d->row_0 + first * d->row_stride;
        for (int r = 0; !is_stored && r < block.n_rows; r++, at += d->row_stride)
            kernels->store[d->dtype](block.p[0] + (size_t)r * block.n, at, block.n);
    }
}
