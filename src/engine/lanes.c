/* Operands in chunks: gathering, conversion, and the frame of the elementwise instructions. */
#include "engine/lanes.h"

#include "base/dtype_kernels.h"
#include "engine/lanes_rows.h"
#include "engine/move_short.h"

#include <stdlib.h>
#include <string.h>

void operand_bind_row(operand *o, const vtrn_ap *ap, uint8_t *row) {
    o->row_0 = row;
    o->row_stride = 0;
    o->n = isa_ap_free_size(ap);
    o->dtype = ap->dtype;
    o->size = (uint16_t)dtype_size(ap->dtype);
    o->n_dims = (uint8_t)engine_ap_merge(ap, o->dim);
    o->rng = NULL;
    operand_at_row(o, 0);
}

void operand_bind(operand *o, const engine_core *core, const vtrn_ap *ap,
                  const uint64_t *slot_base) {
    operand_bind_row(o, ap, engine_row(core, ap, slot_base, 0));
    o->row_stride = engine_row_stride(core, ap);
}

size_t operand_chunk(const operand *ops, unsigned mask, uint64_t left) {
    size_t n = left < OPERAND_CHUNK ? (size_t)left : OPERAND_CHUNK;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!(mask >> i & 1) || (uint32_t)operand_step(&ops[i]) > 1)
            continue;
        size_t run = operand_run(&ops[i]);
        if (run >= OPERAND_LONG_RUN && run < n)
            n = run;
    }
    return n;
}

/* Where dimension i is at its end, goes on in the next outer one. */
static inline void carry(operand *o, int i) {
    for (; i > 0 && o->index[i] == o->dim[i].num; i--) {
        o->at += ((int64_t)o->dim[i - 1].step - (int64_t)o->dim[i].num * o->dim[i].step) * o->size;
        o->index[i] = 0;
        o->index[i - 1]++;
    }
}

/* Moves on by n elements of the innermost run. */
static inline void advance(operand *o, size_t n) {
    int last = o->n_dims - 1;
    o->index[last] += (uint32_t)n;
    o->at += (int64_t)n * o->dim[last].step * o->size;
    carry(o, last);
}

static inline bool is_in_place(const operand *o, size_t n) {
    return operand_run(o) >= n && (operand_step(o) == 1 || n == 1);
}

/* Equal runs of the innermost dimension, `pitch` bytes apart. */
typedef struct runs {
    uint8_t *at;
    size_t n, length; /* runs, elements of each */
    int64_t pitch;
} runs;

/* As many elements as form such runs, at most n; moves on. The loops over them keep their state in
 * registers, which they could not with a cursor in memory that their stores may alias. */
static inline runs take_runs(operand *o, size_t n) {
    int last = o->n_dims - 1, outer = last - 1;
    runs r = {o->at, 1, operand_run(o) < n ? operand_run(o) : n, 0};
    if (last == 0 || o->index[last] || n < o->dim[last].num) {
        advance(o, r.length);
        return r;
    }
    size_t left = o->dim[outer].num - o->index[outer];
    r.n = (uint32_t)n / o->dim[last].num;
    r.n = r.n < left ? r.n : left;
    r.pitch = (int64_t)o->dim[outer].step * o->size;
    o->index[outer] += (uint32_t)r.n;
    o->at += (int64_t)r.n * r.pitch;
    carry(o, outer);
    return r;
}

#define STRIDED(type)                                                                              \
    static void gather_##type(operand *o, size_t n, type *dst) {                                   \
        int64_t step = operand_step(o);                                                            \
        while (n) {                                                                                \
            runs r = take_runs(o, n);                                                              \
            bool is_block = step == 1 && r.length * sizeof *dst >= 16;                             \
            n -= r.n * r.length;                                                                   \
            for (; r.n; r.n--, r.at += r.pitch, dst += r.length) {                                 \
                if (is_block) {                                                                    \
                    move_short(dst, r.at, r.length * sizeof *dst);                                 \
                } else if (step == 0) {                                                            \
                    type x = *(const type *)r.at;                                                  \
                    for (size_t i = 0; i < r.length; i++)                                          \
                        dst[i] = x;                                                                \
                } else {                                                                           \
                    for (size_t i = 0; i < r.length; i++)                                          \
                        dst[i] = ((const type *)r.at)[(int64_t)i * step];                          \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void scatter_##type(operand *o, size_t n, const type *src) {                            \
        int64_t step = operand_step(o);                                                            \
        while (n) {                                                                                \
            runs r = take_runs(o, n);                                                              \
            bool is_block = step == 1 && r.length * sizeof *src >= 16;                             \
            n -= r.n * r.length;                                                                   \
            for (; r.n; r.n--, r.at += r.pitch, src += r.length) {                                 \
                if (is_block)                                                                      \
                    move_short(r.at, src, r.length * sizeof *src);                                 \
                else                                                                               \
                    for (size_t i = 0; i < r.length; i++)                                          \
                        ((type *)r.at)[(int64_t)i * step] = src[i];                                \
            }                                                                                      \
        }                                                                                          \
    }
STRIDED(uint8_t)
STRIDED(uint16_t)
STRIDED(uint32_t)
STRIDED(uint64_t)

static void gather(operand *o, size_t n, void *dst) {
    switch (o->size) {
    case 1:
        gather_uint8_t(o, n, dst);
        break;
    case 2:
        gather_uint16_t(o, n, dst);
        break;
    case 4:
        gather_uint32_t(o, n, dst);
        break;
    default:
        gather_uint64_t(o, n, dst);
    }
}

static void scatter(operand *o, size_t n, const void *src) {
    switch (o->size) {
    case 1:
        scatter_uint8_t(o, n, src);
        break;
    case 2:
        scatter_uint16_t(o, n, src);
        break;
    case 4:
        scatter_uint32_t(o, n, src);
        break;
    default:
        scatter_uint64_t(o, n, src);
    }
}

const void *operand_take(operand *o, size_t n, void *buf) {
    if (is_in_place(o, n)) {
        const void *p = o->at;
        advance(o, n);
        return p;
    }
    gather(o, n, buf);
    return buf;
}

const float *operand_take_fp32(operand *o, size_t n, float *buf) {
    if (o->dtype == VTRN_DTYPE_FP32)
        return operand_take(o, n, buf);
    if (is_in_place(o, n)) {
        dtype_load_fp32(o->dtype, o->at, buf, n);
        advance(o, n);
        return buf;
    }
    uint64_t raw[OPERAND_CHUNK];
    gather(o, n, raw);
    dtype_load_fp32(o->dtype, raw, buf, n);
    return buf;
}

float operand_take_constant_fp32(operand *o, size_t n) {
    float x;
    dtype_load_fp32(o->dtype, o->at, &x, 1);
    advance(o, n);
    return x;
}

static void widen(const void *raw, size_t n, unsigned size, bool sign_extend, uint32_t *out) {
    if (size == 1)
        for (size_t i = 0; i < n; i++)
            out[i] = sign_extend ? (uint32_t)((const int8_t *)raw)[i] : ((const uint8_t *)raw)[i];
    else if (size == 2)
        for (size_t i = 0; i < n; i++)
            out[i] = sign_extend ? (uint32_t)((const int16_t *)raw)[i] : ((const uint16_t *)raw)[i];
    else if (size == 4)
        memcpy(out, raw, n * sizeof *out);
    else
        for (size_t i = 0; i < n; i++)
            out[i] = (uint32_t)((const uint64_t *)raw)[i];
}

uint32_t operand_take_constant_bits(operand *o, size_t n, bool sign_extend) {
    uint32_t x;
    widen(o->at, 1, o->size, sign_extend, &x);
    advance(o, n);
    return x;
}

const uint32_t *operand_take_bits(operand *o, size_t n, bool sign_extend, uint32_t *buf) {
    if (o->size == 4)
        return operand_take(o, n, buf);
    uint64_t raw[OPERAND_CHUNK];
    widen(operand_take(o, n, raw), n, o->size, sign_extend, buf);
    return buf;
}

float *operand_room_fp32(const operand *o, size_t n, float *buf) {
    return o->dtype == VTRN_DTYPE_FP32 && is_in_place(o, n) ? (float *)o->at : buf;
}

uint32_t *operand_room_bits(const operand *o, size_t n, uint32_t *buf) {
    return (o->dtype == VTRN_DTYPE_INT32 || o->dtype == VTRN_DTYPE_UINT32) && is_in_place(o, n)
               ? (uint32_t *)o->at
               : buf;
}

void operand_put(operand *o, size_t n, const void *x) {
    if (!is_in_place(o, n)) {
        scatter(o, n, x);
        return;
    }
    if (x != o->at)
        memmove(o->at, x, n * o->size);
    advance(o, n);
}

static void store(const operand *o, const float *x, void *dst, size_t n) {
    if (o->rng)
        dtype_store_fp32_stochastic(o->dtype, x, dst, n, o->rng);
    else
        dtype_store_fp32(o->dtype, x, dst, n);
}

void operand_put_fp32(operand *o, size_t n, const float *x) {
    if (o->dtype == VTRN_DTYPE_FP32) {
        operand_put(o, n, x);
        return;
    }
    if (is_in_place(o, n)) {
        store(o, x, o->at, n);
        advance(o, n);
        return;
    }
    uint64_t raw[OPERAND_CHUNK];
    store(o, x, raw, n);
    scatter(o, n, raw);
}

void operand_put_bits(operand *o, size_t n, const uint32_t *x) {
    uint64_t raw[OPERAND_CHUNK];
    if (o->size == 1)
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)raw)[i] = (uint8_t)x[i];
    else if (o->size == 2)
        for (size_t i = 0; i < n; i++)
            ((uint16_t *)raw)[i] = (uint16_t)x[i];
    else if (o->size == 8)
        for (size_t i = 0; i < n; i++)
            raw[i] = x[i];
    operand_put(o, n, o->size == 4 ? (const void *)x : raw);
}

void operand_put_int(operand *o, size_t n, const uint32_t *x, bool is_unsigned) {
    if (o->dtype == VTRN_DTYPE_INT32 || o->dtype == VTRN_DTYPE_UINT32) {
        operand_put(o, n, x);
        return;
    }
    float f[OPERAND_CHUNK];
    dtype_load_fp32(is_unsigned ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32, x, f, n);
    operand_put_fp32(o, n, f);
}

vtrn_status operand_shape_error(const vtrn_instr *instr, int ap_i, const char *rule) {
    const vtrn_ap *a = &instr->ap[ap_i], *d = &instr->ap[0];
    return VTRN_ERROR(VTRN_UNDEFINED,
                      "%s: operand %d has %u partitions of %llu elements, ap0 %u of %llu: %s",
                      isa_op_info(instr->opcode)->mnemonic, ap_i, a->n_partitions,
                      (unsigned long long)isa_ap_free_size(a), d->n_partitions,
                      (unsigned long long)isa_ap_free_size(d), rule);
}

static vtrn_status check_shapes(const vtrn_instr *instr, const lanes_spec *spec) {
    const vtrn_ap *d = &instr->ap[0];
    uint64_t n = isa_ap_free_size(d);
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const vtrn_ap *a = &instr->ap[i];
        bool is_scalar = spec->scalars >> i & 1, is_stream = spec->streams >> i & 1;
        if (!is_scalar && !is_stream)
            continue;
        if (a->space == VTRN_SPACE_NONE && is_scalar)
            continue;
        if (a->space == VTRN_SPACE_NONE)
            return operand_shape_error(instr, i, "the instruction needs this operand");
        if (dtype_size(a->dtype) == 0 || dtype_size(a->dtype) > 8)
            return operand_shape_error(instr, i, "no engine has 128-bit types");
        if (a->n_partitions != d->n_partitions)
            return operand_shape_error(instr, i, "all operands have the same partitions");
        if (is_stream && isa_ap_free_size(a) != n)
            return operand_shape_error(instr, i, "all tensors have the same number of elements");
        if (is_scalar && isa_ap_free_size(a) != 1)
            return operand_shape_error(instr, i, "a per-partition scalar has one element");
    }
    return NULL;
}

static void load_scalars(lanes *l, const lanes_spec *spec, int row) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const operand *o = &l->op[i];
        if (!(spec->scalars >> i & 1) || l->instr->ap[i].space == VTRN_SPACE_NONE)
            continue;
        const uint8_t *at = o->row_0 + row * o->row_stride;
        if (o->dtype == VTRN_DTYPE_FP32) {
            memcpy(&l->s[i], at, sizeof l->s[i]);
            memcpy(&l->bits[i], at, sizeof l->bits[i]);
            continue;
        }
        dtype_load_fp32(o->dtype, at, &l->s[i], 1);
        widen(at, 1, o->size, spec->sign_extend, &l->bits[i]);
    }
}

static void bind_all(lanes *l, const lanes_spec *spec, const uint64_t *slot_base) {
    const vtrn_instr *instr = l->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        bool is_scalar = spec->scalars >> i & 1;
        if (!is_scalar && !(spec->streams >> i & 1))
            continue;
        int imm_i = i - spec->first_imm;
        if (is_scalar && imm_i >= 0 && imm_i < 2) {
            l->s[i] = instr->imm[imm_i].f;
            l->bits[i] = instr->imm[imm_i].bits;
        }
        if (instr->ap[i].space != VTRN_SPACE_NONE)
            operand_bind(&l->op[i], l->core, &instr->ap[i], slot_base);
    }
}

/* How the rows of an instruction lie, for dense_row. */
typedef enum row_kind { ROWS_ANY, ROWS_DENSE, ROWS_DENSE_FP32 } row_kind;

static row_kind row_kind_of(const lanes *l, const lanes_spec *spec) {
    row_kind kind = spec->dense_row ? ROWS_DENSE_FP32 : ROWS_DENSE;
    if (!spec->dense_row && !spec->raw_row)
        return ROWS_ANY;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const operand *o = &l->op[i];
        if (!(spec->streams >> i & 1))
            continue;
        if (o->n_dims != 1 || (o->dim[0].step != 1 && o->n > 1))
            return ROWS_ANY;
        if (o->dtype != VTRN_DTYPE_FP32)
            kind = ROWS_DENSE;
    }
    return kind == ROWS_DENSE && l->instr->flags & VTRN_FLAG_STOCHASTIC ? ROWS_ANY : kind;
}

/* The streams of dense rows, and how their elements become fp32. */
typedef struct dense_streams {
    int n, ap[VTRN_MAX_AP];
    void (*load[VTRN_MAX_AP])(const void *src, float *dst,
                              size_t n); /* by operand; NULL: is fp32 */
    void (*store)(const float *src, void *dst, size_t n);
} dense_streams;

static void choose_conversions(const lanes *l, const lanes_spec *spec, dense_streams *out) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    out->n = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!(spec->streams >> i & 1))
            continue;
        out->ap[out->n++] = i;
        out->load[i] = l->op[i].dtype == VTRN_DTYPE_FP32 ? NULL : kernels->load[l->op[i].dtype];
    }
    out->store = kernels->store[l->op[0].dtype];
}

/* Rows are a partition apart, too far for the host to see the next one coming. */
static void prefetch_row(const lanes *l, const dense_streams *streams, int ahead, size_t n) {
    enum { LINE_BYTES = 64, MAX_BYTES = 1024 };
    for (int k = 0; k < streams->n; k++) {
        const operand *o = &l->op[streams->ap[k]];
        const uint8_t *at = o->row_0 + (l->row + ahead) * o->row_stride;
        size_t n_bytes = n * o->size < MAX_BYTES ? n * o->size : MAX_BYTES;
        for (size_t i = 0; i < n_bytes; i += LINE_BYTES)
            __builtin_prefetch(at + i, 0, 2);
    }
}

static void run_row_dense(lanes *l, const lanes_spec *spec, const dense_streams *streams,
                          size_t n) {
    float *p[VTRN_MAX_AP];
    for (int k = 0; k < streams->n; k++) {
        const operand *o = &l->op[streams->ap[k]];
        p[streams->ap[k]] = (float *)(o->row_0 + l->row * o->row_stride);
    }
    spec->dense_row(l, p, n);
}

static void run_row_raw(lanes *l, const lanes_spec *spec, const dense_streams *streams, size_t n) {
    uint8_t *p[VTRN_MAX_AP];
    for (int k = 0; k < streams->n; k++) {
        const operand *o = &l->op[streams->ap[k]];
        p[streams->ap[k]] = o->row_0 + l->row * o->row_stride;
    }
    spec->raw_row(l, p, n);
}

/* A row of which some operands are not fp32: these are converted a chunk at a time. */
static void run_row_converting(lanes *l, const lanes_spec *spec, const dense_streams *streams,
                               size_t n) {
    for (size_t from = 0; from < n; from += OPERAND_CHUNK) {
        float *p[VTRN_MAX_AP];
        size_t m = n - from < OPERAND_CHUNK ? n - from : OPERAND_CHUNK;
        for (int k = 0; k < streams->n; k++) {
            int i = streams->ap[k];
            const operand *o = &l->op[i];
            uint8_t *at = o->row_0 + l->row * o->row_stride + from * o->size;
            p[i] = streams->load[i] ? l->buf[i] : (float *)at;
            if (i && streams->load[i])
                streams->load[i](at, p[i], m);
        }
        spec->dense_row(l, p, m);
        if (streams->load[0])
            streams->store(p[0],
                           l->op[0].row_0 + l->row * l->op[0].row_stride + from * l->op[0].size, m);
    }
}

static void run_row_in_chunks(lanes *l, const lanes_spec *spec, uint64_t n) {
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (spec->streams >> i & 1)
            operand_at_row(&l->op[i], l->row);
    if (l->instr->flags & VTRN_FLAG_STOCHASTIC)
        l->op[0].rng = &l->core->regs->kept.generator[l->instr->engine][l->partition].state;
    if (spec->row_begin)
        spec->row_begin(l);
    for (l->from = 0; l->from < n;) {
        uint64_t left = n - l->from;
        size_t m = spec->whole_chunks ? (size_t)(left < OPERAND_CHUNK ? left : OPERAND_CHUNK)
                                      : operand_chunk(l->op, spec->streams, left);
        spec->chunk(l, m);
        l->from += m;
    }
    if (spec->row_end)
        spec->row_end(l);
}

/* Rows that are equal runs of adjacent numbers in all streams, as halves of heads are: a call of a
 * kernel does the runs of a row. False: they are not. */
static bool find_runs(const lanes *l, const lanes_spec *spec, lanes_rows *out) {
    if (!spec->rows || spec->takes_bits || !spec->can_join_rows ||
        l->instr->flags & VTRN_FLAG_STOCHASTIC)
        return false;
    *out = (lanes_rows){.n_rows = 0};
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const operand *o = &l->op[i];
        if (!(spec->streams >> i & 1) || o->n_dims != 2)
            continue;
        out->n_rows = (int)o->dim[0].num;
        out->n = o->dim[1].num;
    }
    if (!out->n_rows || out->n < OPERAND_SHORT_DENSE_ROW || out->n > OPERAND_CHUNK)
        return false;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const operand *o = &l->op[i];
        if (!(spec->streams >> i & 1))
            continue;
        bool is_dense = o->n_dims == 1;
        if (o->dtype != VTRN_DTYPE_FP32 || o->n_dims > 2 || o->dim[o->n_dims - 1].step != 1 ||
            o->n != out->n * (uint64_t)out->n_rows || o->dim[0].step < 0 ||
            (!is_dense && o->dim[1].num != out->n))
            return false;
        out->step[i] = is_dense ? out->n : (size_t)o->dim[0].step;
    }
    return true;
}

static void run_row_of_runs(lanes *l, const lanes_spec *spec, const lanes_rows *all) {
    const int most = (int)(OPERAND_CHUNK / all->n);
    lanes_rows some = *all;
    for (int first = 0; first < all->n_rows; first += some.n_rows) {
        some.n_rows = all->n_rows - first < most ? all->n_rows - first : most;
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const operand *o = &l->op[i];
            if (spec->scalars >> i & 1) {
                some.is_number[i] = true;
                some.p[i] = &l->s[i];
            } else if (spec->streams >> i & 1) {
                some.p[i] =
                    (float *)(o->row_0 + l->row * o->row_stride) + (size_t)first * some.step[i];
            }
        }
        spec->rows(l, &some);
    }
}

/* The streams of joined rows: scalar operands too where a column is worked on. Bit i is operand i;
 * 0: rows stay apart. */
static unsigned joined_streams(const lanes *l, const lanes_spec *spec, uint64_t n, bool is_dense) {
    unsigned streams = spec->streams;
    if (!spec->can_join_rows || l->instr->ap[0].n_partitions < 2 ||
        n >= (is_dense ? OPERAND_SHORT_DENSE_ROW : OPERAND_SHORT_ROW) ||
        l->instr->flags & VTRN_FLAG_STOCHASTIC)
        return 0;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (spec->scalars >> i & 1 && l->instr->ap[i].space != VTRN_SPACE_NONE) {
            if (n != 1 || !spec->column)
                return 0;
            streams |= 1u << i;
        }
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (streams >> i & 1 &&
            (!engine_are_rows_apart(l->instr, i) || l->op[i].row_stride % l->op[i].size ||
             l->op[i].row_stride / l->op[i].size > INT32_MAX))
            return 0;
    return streams;
}

/* Rows [first, end) of the operand as one row. */
static operand join_rows(const operand *o, int first, int end) {
    operand joined = *o;
    vtrn_dim rows = {(int32_t)(o->row_stride / o->size), (uint32_t)(end - first)};
    joined.row_0 += first * o->row_stride;
    joined.n *= rows.num;
    joined.dim[0] = rows;
    if (o->n > 1) {
        memcpy(joined.dim + 1, o->dim, o->n_dims * sizeof o->dim[0]);
        joined.n_dims++;
    }
    operand_at_row(&joined, 0);
    return joined;
}

static void run_joined_rows(lanes *l, const lanes_spec *spec, unsigned streams,
                            const engine_rows *rows) {
    lanes_fn chunk = streams != spec->streams ? spec->column : spec->chunk;
    operand apart[VTRN_MAX_AP];
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (streams >> i & 1) {
            apart[i] = l->op[i];
            l->op[i] = join_rows(&apart[i], rows->first, rows->end);
        }
    if (spec->row_begin)
        spec->row_begin(l);
    for (uint64_t left = l->op[0].n; left;) {
        size_t m = left < OPERAND_CHUNK ? (size_t)left : OPERAND_CHUNK;
        chunk(l, m);
        left -= m;
    }
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (streams >> i & 1)
            l->op[i] = apart[i];
}

/* Rows of which the result goes across operands: these are copied before each row, so that the
 * instruction reads all of a row before it writes. */
static vtrn_status run_crossed_rows(lanes *l, const lanes_spec *spec, unsigned crossed,
                                    engine_rows *rows) {
    uint64_t n = isa_ap_free_size(&l->instr->ap[0]);
    struct {
        uint8_t *copy, *row_0;
        int64_t stride, before; /* bytes that lie before the first element */
        size_t size;
    } of[VTRN_MAX_AP] = {0};
    size_t n_bytes = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        int64_t lo, hi;
        if (!(crossed >> i & 1))
            continue;
        isa_ap_extent(&l->instr->ap[i], &lo, &hi);
        of[i].before = l->instr->ap[i].addr - lo;
        of[i].size = (size_t)(hi - lo);
        n_bytes += of[i].size + sizeof(float);
    }
    uint8_t *copies = malloc(n_bytes), *next = copies;
    if (!copies)
        return VTRN_OUT_OF_MEMORY(n_bytes);
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!(crossed >> i & 1))
            continue;
        of[i].copy = next;
        next += (of[i].size + sizeof(float) - 1) / sizeof(float) * sizeof(float);
        of[i].row_0 = l->op[i].row_0 - of[i].before;
        of[i].stride = l->op[i].row_stride;
        l->op[i].row_0 = of[i].copy + of[i].before;
        l->op[i].row_stride = 0;
    }
    while (engine_rows_next(rows))
        for (l->row = rows->first; l->row < rows->end; l->row++) {
            l->partition = l->instr->ap[0].partition + l->row;
            for (int i = 0; i < VTRN_MAX_AP; i++)
                if (of[i].copy)
                    memcpy(of[i].copy, of[i].row_0 + l->row * of[i].stride, of[i].size);
            if (spec->scalars)
                load_scalars(l, spec, l->row);
            run_row_in_chunks(l, spec, n);
        }
    free(copies);
    return NULL;
}

vtrn_status lanes_run(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                      int thread_i, const lanes_spec *spec, void *extra) {
    VTRN_RETURN_IF_ERROR(check_shapes(instr, spec));
    lanes l; /* large: fields are set one by one */
    l.core = core;
    l.instr = instr;
    l.alu = CPU_TABLE(alu_kernel_table);
    l.ints = CPU_TABLE(int_kernel_table);
    l.extra = extra;
    bind_all(&l, spec, slot_base);
    uint64_t n = isa_ap_free_size(&instr->ap[0]);
    engine_rows rows = engine_rows_of(core, &instr->ap[0], thread_i);
    unsigned crossed = engine_crossed(instr) & spec->streams;
    if (crossed)
        return run_crossed_rows(&l, spec, crossed, &rows);
    if (lanes_rows_fit(&l, spec)) {
        while (engine_rows_next(&rows))
            lanes_run_rows(&l, spec, rows.first, rows.end);
        return NULL;
    }
    row_kind kind = row_kind_of(&l, spec);
    unsigned joined = joined_streams(&l, spec, n, kind == ROWS_DENSE_FP32);
    dense_streams streams = {0};
    if (kind != ROWS_ANY)
        choose_conversions(&l, spec, &streams);
    lanes_rows row_runs;
    bool is_in_runs = kind == ROWS_ANY && !joined && find_runs(&l, spec, &row_runs);
    while (engine_rows_next(&rows)) {
        if (joined) {
            run_joined_rows(&l, spec, joined, &rows);
            continue;
        }
        for (l.row = rows.first; l.row < rows.end; l.row++) {
            l.partition = instr->ap[0].partition + l.row;
            if (spec->scalars)
                load_scalars(&l, spec, l.row);
            if (kind != ROWS_ANY)
                prefetch_row(&l, &streams, 4, (size_t)n);
            if (kind == ROWS_DENSE_FP32)
                run_row_dense(&l, spec, &streams, (size_t)n);
            else if (kind == ROWS_DENSE && spec->raw_row)
                run_row_raw(&l, spec, &streams, (size_t)n);
            else if (kind == ROWS_DENSE)
                run_row_converting(&l, spec, &streams, (size_t)n);
            else if (is_in_runs)
                run_row_of_runs(&l, spec, &row_runs);
            else
                run_row_in_chunks(&l, spec, n);
        }
    }
    return NULL;
}
