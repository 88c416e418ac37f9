/* Elementwise instructions of the Vector and GpSimd engines: operands become fp32, the result is
 * converted on the way out. Bit operations see raw bits; on GpSimd, 32-bit integers stay integers.
 * Source: docs/hardware.md. */
#include "base/dtype_kernels.h"
#include "engine/alu_path.h"
#include "engine/lanes.h"

#include <string.h>

#define THE_OP(name)                                                                               \
    vtrn_status engine_op_##name(engine_core *core, const vtrn_instr *instr,                       \
                                 const uint64_t *slot_base, int thread_i)

enum { AP0 = 1, AP1 = 2, AP2 = 4, AP3 = 8 };

static bool is_absent(const vtrn_ap *ap) {
    return ap->space == VTRN_SPACE_NONE;
}

static void put_ints(lanes *l, size_t n, const uint32_t *x) {
    const alu_path *path = l->extra;
    if (path->kind == PATH_INT)
        operand_put_int(&l->op[0], n, x, path->is_unsigned);
    else
        operand_put_bits(&l->op[0], n, x);
}

/* tensor_tensor */

static void tensor_tensor_fp32(lanes *l, size_t n) {
    uint8_t op = l->instr->op0;
    float *d = operand_room_fp32(&l->op[0], n, l->buf[0]);
    if (operand_is_constant(&l->op[2], n)) {
        float y = operand_take_constant_fp32(&l->op[2], n);
        l->alu->ts[op](operand_take_fp32(&l->op[1], n, l->buf[1]), y, d, n);
    } else if (operand_is_constant(&l->op[1], n)) {
        float x = operand_take_constant_fp32(&l->op[1], n);
        l->alu->st[op](operand_take_fp32(&l->op[2], n, l->buf[2]), x, d, n);
    } else {
        const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
        l->alu->tt[op](x, operand_take_fp32(&l->op[2], n, l->buf[2]), d, n);
    }
    operand_put_fp32(&l->op[0], n, d);
}

static void tensor_tensor_row(lanes *l, float *const p[VTRN_MAX_AP], size_t n) {
    l->alu->tt[l->instr->op0](p[1], p[2], p[0], n);
}

static void tensor_tensor_rows(lanes *l, const lanes_rows *b) {
    const int x = b->is_number[1] ? 2 : 1, y = 3 - x;
    const alu_rows r = {b->p[x],    b->p[y],    b->p[0],           b->step[x],
                        b->step[y], b->step[0], (size_t)b->n_rows, b->n};
    (b->is_number[1]   ? l->alu->st_rows
     : b->is_number[2] ? l->alu->ts_rows
                       : l->alu->tt_rows)[l->instr->op0](r);
}

static void tensor_tensor_int(lanes *l, size_t n) {
    const alu_path *path = l->extra;
    uint8_t op = l->instr->op0;
    uint32_t *d = operand_room_bits(&l->op[0], n, (uint32_t *)l->buf[0]);
    const uint32_t *x =
        operand_take_bits(&l->op[1], n, op == VTRN_ALU_SHIFT_RIGHT_ARITH, (uint32_t *)l->buf[1]);
    if (operand_is_constant(&l->op[2], n)) {
        uint32_t y = operand_take_constant_bits(&l->op[2], n, false);
        l->ints->ts[path->is_unsigned][op](x, y, d, n);
    } else {
        const uint32_t *y = operand_take_bits(&l->op[2], n, false, (uint32_t *)l->buf[2]);
        l->ints->tt[path->is_unsigned][op](x, y, d, n);
    }
    put_ints(l, n, d);
}

static bool is_word(const operand *o) {
    return o->dtype == VTRN_DTYPE_INT32 || o->dtype == VTRN_DTYPE_UINT32;
}

/* Where a row of integers is computed: what does not stay an integer of 32 bits is converted then.
 */
static uint32_t *room_of_row(lanes *l, void *dst) {
    const alu_path *path = l->extra;
    return path->kind == PATH_INT && !is_word(&l->op[0]) ? (uint32_t *)l->buf[0] : dst;
}

static void finish_row(lanes *l, const uint32_t *x, void *dst, size_t n) {
    const alu_path *path = l->extra;
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    const bool is_fp32 = l->op[0].dtype == VTRN_DTYPE_FP32;
    if (x == dst)
        return;
    float *as_fp32 = is_fp32 ? dst : l->buf[1];
    kernels->load[path->is_unsigned ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32](x, as_fp32, n);
    if (!is_fp32)
        kernels->store[l->op[0].dtype](as_fp32, dst, n);
}

static void tensor_tensor_int_rows(lanes *l, const lanes_rows *b) {
    const alu_path *path = l->extra;
    const int u = path->is_unsigned, op = l->instr->op0;
    for (size_t r = 0; r < (size_t)b->n_rows; r++) {
        const uint32_t *x = (uint32_t *)b->p[1] + r * b->step[1];
        const uint32_t *y = (uint32_t *)b->p[2] + r * b->step[2];
        void *dst = (uint8_t *)b->p[0] + (int64_t)r * l->op[0].row_stride;
        uint32_t *d = room_of_row(l, dst);
        if (b->is_number[1])
            l->ints->st[u][op](y, *x, d, b->n);
        else if (b->is_number[2])
            l->ints->ts[u][op](x, *y, d, b->n);
        else
            l->ints->tt[u][op](x, y, d, b->n);
        finish_row(l, d, dst, b->n);
    }
}

static bool repeats_one(const vtrn_ap *ap) {
    return ap->n_dims == 1 && ap->dim[0].step == 0;
}

THE_OP(TENSOR_TENSOR) {
    alu_path path;
    vtrn_instr one_op = *instr; /* op1 means nothing here */
    one_op.op1 = VTRN_ALU_NONE;
    VTRN_RETURN_IF_ERROR(alu_path_of(&one_op, AP1 | AP2, &path));
    lanes_spec spec = {.chunk = path.kind == PATH_FP32 ? tensor_tensor_fp32 : tensor_tensor_int,
                       .streams = AP0 | AP1 | AP2,
                       .can_join_rows = true};
    if (path.kind == PATH_FP32) {
        spec.dense_row = tensor_tensor_row;
        spec.rows = tensor_tensor_rows;
    } else {
        spec.rows = tensor_tensor_int_rows;
        spec.takes_bits = true;
        spec.gives_numbers = path.kind == PATH_INT;
    }
    spec.numbers = repeats_one(&instr->ap[1]) ? AP1 : AP2; /* one of them has elements */
    return lanes_run(core, instr, slot_base, thread_i, &spec, &path);
}

/* tensor_scalar */

/* The first (0) or the second (1) operation of an instruction. */
static inline uint8_t alu_op(const vtrn_instr *instr, int op_i) {
    return op_i ? instr->op1 : instr->op0;
}

static inline bool is_reversed(const vtrn_instr *instr, int op_i) {
    return instr->flags & (op_i ? VTRN_FLAG_REVERSE1 : VTRN_FLAG_REVERSE0);
}

/* Operation op_i on x and its own scalar operand. */
static inline void scalar_fp32(lanes *l, int op_i, const float *x, float *d, size_t n) {
    const vtrn_instr *instr = l->instr;
    (is_reversed(instr, op_i) ? l->alu->st : l->alu->ts)[alu_op(instr, op_i)](x, l->s[2 + op_i], d,
                                                                              n);
}

static void tensor_scalar_fp32(lanes *l, size_t n) {
    const vtrn_instr *instr = l->instr;
    float *d = operand_room_fp32(&l->op[0], n, l->buf[0]);
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    scalar_fp32(l, 0, x, d, n);
    if (instr->op1 != VTRN_ALU_NONE)
        scalar_fp32(l, 1, d, d, n);
    operand_put_fp32(&l->op[0], n, d);
}

/* Operand i of a column: a stream, or the immediate over and over. */
static const float *take_column(lanes *l, int i, size_t n) {
    if (!is_absent(&l->instr->ap[i]))
        return operand_take_fp32(&l->op[i], n, l->buf[i]);
    for (size_t k = 0; k < n; k++)
        l->buf[i][k] = l->s[i];
    return l->buf[i];
}

static inline void column_fp32(lanes *l, int op_i, const float *x, const float *s, float *d,
                               size_t n) {
    bool swaps = is_reversed(l->instr, op_i);
    l->alu->tt[alu_op(l->instr, op_i)](swaps ? s : x, swaps ? x : s, d, n);
}

static void tensor_scalar_column(lanes *l, size_t n) {
    const vtrn_instr *instr = l->instr;
    float *d = l->buf[0];
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    const float *s = take_column(l, 2, n), *t = take_column(l, 3, n);
    column_fp32(l, 0, x, s, d, n);
    if (instr->op1 != VTRN_ALU_NONE)
        column_fp32(l, 1, d, t, d, n);
    operand_put_fp32(&l->op[0], n, d);
}

static void tensor_scalar_row(lanes *l, float *const p[VTRN_MAX_AP], size_t n) {
    const vtrn_instr *instr = l->instr;
    size_t m = OPERAND_CHUNK; /* the second operation finds the chunk in the cache */
    for (size_t i = 0; i < n; i += m) {
        m = n - i < m ? n - i : m;
        scalar_fp32(l, 0, p[1] + i, p[0] + i, m);
        if (instr->op1 != VTRN_ALU_NONE)
            scalar_fp32(l, 1, p[0] + i, p[0] + i, m);
    }
}

/* Operation op_i on rows and its own scalar operand. */
static void scalar_rows(lanes *l, int op_i, alu_rows r, const lanes_rows *b) {
    const vtrn_instr *instr = l->instr;
    r.y = b->p[2 + op_i];
    r.y_step = b->step[2 + op_i];
    (is_reversed(instr, op_i) ? l->alu->st_rows : l->alu->ts_rows)[alu_op(instr, op_i)](r);
}

static void tensor_scalar_rows(lanes *l, const lanes_rows *b) {
    alu_rows r = {.x = b->p[1],
                  .dst = b->p[0],
                  .x_step = b->step[1],
                  .dst_step = b->step[0],
                  .n_rows = (size_t)b->n_rows,
                  .n = b->n};
    scalar_rows(l, 0, r, b);
    r.x = b->p[0];
    r.x_step = b->step[0];
    if (l->instr->op1 != VTRN_ALU_NONE)
        scalar_rows(l, 1, r, b);
}

/* Between two bit operations a narrow value has only its own bits. */
static void narrow(uint32_t *x, size_t n, unsigned size, bool sign_extend) {
    unsigned drop = size < 4 ? 32 - 8 * size : 0;
    for (size_t i = 0; drop && i < n; i++)
        x[i] = sign_extend ? (uint32_t)((int32_t)(x[i] << drop) >> drop) : x[i] << drop >> drop;
}

static void tensor_scalar_int(lanes *l, size_t n) {
    const alu_path *path = l->extra;
    const vtrn_instr *instr = l->instr;
    uint32_t *d = operand_room_bits(&l->op[0], n, (uint32_t *)l->buf[0]);
    const uint32_t *x = operand_take_bits(&l->op[1], n, instr->op0 == VTRN_ALU_SHIFT_RIGHT_ARITH,
                                          (uint32_t *)l->buf[1]);
    bool r0 = instr->flags & VTRN_FLAG_REVERSE0, r1 = instr->flags & VTRN_FLAG_REVERSE1;
    int u = path->is_unsigned;
    (r0 ? l->ints->st : l->ints->ts)[u][instr->op0](x, l->bits[2], d, n);
    if (instr->op1 != VTRN_ALU_NONE) {
        if (path->kind == PATH_BITS)
            narrow(d, n, l->op[1].size, instr->op1 == VTRN_ALU_SHIFT_RIGHT_ARITH);
        (r1 ? l->ints->st : l->ints->ts)[u][instr->op1](d, l->bits[3], d, n);
    }
    put_ints(l, n, d);
}

static void tensor_scalar_int_rows(lanes *l, const lanes_rows *b) {
    const alu_path *path = l->extra;
    const vtrn_instr *instr = l->instr;
    const int u = path->is_unsigned;
    for (size_t r = 0; r < (size_t)b->n_rows; r++) {
        const uint32_t *s = (uint32_t *)b->p[2] + r * b->step[2];
        const uint32_t *t = (uint32_t *)b->p[3] + r * b->step[3];
        void *dst = (uint8_t *)b->p[0] + (int64_t)r * l->op[0].row_stride;
        uint32_t *d = room_of_row(l, dst);
        (is_reversed(instr, 0) ? l->ints->st : l->ints->ts)[u][instr->op0](
            (uint32_t *)b->p[1] + r * b->step[1], *s, d, b->n);
        if (instr->op1 != VTRN_ALU_NONE)
            (is_reversed(instr, 1) ? l->ints->st : l->ints->ts)[u][instr->op1](d, *t, d, b->n);
        finish_row(l, d, dst, b->n);
    }
}

THE_OP(TENSOR_SCALAR) {
    alu_path path;
    VTRN_RETURN_IF_ERROR(alu_path_of(instr, AP1 | AP2 | AP3, &path));
    lanes_spec spec = {.chunk = path.kind == PATH_FP32 ? tensor_scalar_fp32 : tensor_scalar_int,
                       .streams = AP0 | AP1,
                       .scalars = AP2 | AP3,
                       .first_imm = 2,
                       .can_join_rows = true};
    if (path.kind == PATH_FP32) {
        spec.dense_row = tensor_scalar_row;
        spec.rows = tensor_scalar_rows;
        spec.column = tensor_scalar_column;
    } else {
        spec.rows = tensor_scalar_int_rows;
        spec.takes_bits = true;
        spec.gives_numbers = path.kind == PATH_INT;
    }
    return lanes_run(core, instr, slot_base, thread_i, &spec, &path);
}

/* scalar_tensor_tensor */

static void scalar_tensor_tensor_fp32(lanes *l, size_t n) {
    const vtrn_instr *instr = l->instr;
    /* not straight into dst, which may be operand 3 */
    float *t = l->buf[0], *d = operand_room_fp32(&l->op[0], n, t);
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    const float *y = operand_take_fp32(&l->op[3], n, l->buf[3]);
    scalar_fp32(l, 0, x, t, n);
    if (instr->flags & VTRN_FLAG_REVERSE1)
        l->alu->tt[instr->op1](y, t, d, n);
    else
        l->alu->tt[instr->op1](t, y, d, n);
    operand_put_fp32(&l->op[0], n, d);
}

static void scalar_tensor_tensor_row(lanes *l, float *const p[VTRN_MAX_AP], size_t n) {
    const vtrn_instr *instr = l->instr;
    float *t = l->buf[0];
    size_t m = OPERAND_CHUNK;
    for (size_t i = 0; i < n; i += m) {
        m = n - i < m ? n - i : m;
        const float *y = p[3] + i;
        scalar_fp32(l, 0, p[1] + i, t, m);
        if (instr->flags & VTRN_FLAG_REVERSE1)
            l->alu->tt[instr->op1](y, t, p[0] + i, m);
        else
            l->alu->tt[instr->op1](t, y, p[0] + i, m);
    }
}

static void scalar_tensor_tensor_rows(lanes *l, const lanes_rows *b) {
    const vtrn_instr *instr = l->instr;
    float t[OPERAND_CHUNK]; /* dst may be operand 3 */
    const size_t n_rows = (size_t)b->n_rows;
    scalar_rows(l, 0,
                (alu_rows){.x = b->p[1],
                           .dst = t,
                           .x_step = b->step[1],
                           .dst_step = b->n,
                           .n_rows = n_rows,
                           .n = b->n},
                b);
    alu_rows r = {t, b->p[3], b->p[0], b->n, b->step[3], b->step[0], n_rows, b->n};
    if (instr->flags & VTRN_FLAG_REVERSE1)
        r = (alu_rows){b->p[3], t, b->p[0], b->step[3], b->n, b->step[0], n_rows, b->n};
    l->alu->tt_rows[instr->op1](r);
}

static void scalar_tensor_tensor_column(lanes *l, size_t n) {
    float *d = l->buf[0];
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]), *s = take_column(l, 2, n);
    const float *y = operand_take_fp32(&l->op[3], n, l->buf[3]);
    column_fp32(l, 0, x, s, d, n);
    column_fp32(l, 1, d, y, d, n);
    operand_put_fp32(&l->op[0], n, d);
}

THE_OP(SCALAR_TENSOR_TENSOR) {
    alu_path path;
    VTRN_RETURN_IF_ERROR(alu_path_of(instr, AP1 | AP2 | AP3, &path));
    if (path.kind != PATH_FP32)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "scalar_tensor_tensor: bit operation %s; only arithmetic is legal",
                          isa_alu_name(instr->op0));
    lanes_spec spec = {.chunk = scalar_tensor_tensor_fp32,
                       .streams = AP0 | AP1 | AP3,
                       .scalars = AP2,
                       .first_imm = 2,
                       .dense_row = scalar_tensor_tensor_row,
                       .can_join_rows = true,
                       .column = scalar_tensor_tensor_column,
                       .rows = scalar_tensor_tensor_rows};
    return lanes_run(core, instr, slot_base, thread_i, &spec, &path);
}

/* tensor_copy, memset, reciprocal */

static void copy_bits(lanes *l, size_t n) {
    uint64_t raw[OPERAND_CHUNK];
    operand_put(&l->op[0], n, operand_take(&l->op[1], n, raw));
}

static void copy_fp32(lanes *l, size_t n) {
    float *d = operand_room_fp32(&l->op[0], n, l->buf[0]);
    operand_put_fp32(&l->op[0], n, operand_take_fp32(&l->op[1], n, d));
}

static void copy_row(lanes *l, float *const p[VTRN_MAX_AP], size_t n) {
    (void)l;
    size_t m = OPERAND_CHUNK;
    for (size_t i = 0; i < n; i += m) {
        m = n - i < m ? n - i : m;
        memmove(p[0] + i, p[1] + i, m * sizeof *p[0]);
    }
}

/* One type to another without a buffer where one of them is fp32. */
static void copy_raw_row(lanes *l, uint8_t *const p[VTRN_MAX_AP], size_t n) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    const operand *d = &l->op[0], *s = &l->op[1];
    uint8_t before[OPERAND_CHUNK * sizeof(double)];
    bool overlaps = p[0] < p[1] + n * s->size && p[1] < p[0] + n * d->size;
    for (size_t m, i = 0; i < n; i += m) {
        uint8_t *dst = p[0] + i * d->size;
        const uint8_t *src = p[1] + i * s->size;
        m = n - i < OPERAND_CHUNK ? n - i : OPERAND_CHUNK;
        if (overlaps && d->dtype != s->dtype)
            src = memcpy(before, src, m * s->size);
        if (d->dtype == s->dtype) {
            memmove(dst, src, m * d->size);
        } else if (d->dtype == VTRN_DTYPE_FP32) {
            kernels->load[s->dtype](src, (float *)dst, m);
        } else if (s->dtype == VTRN_DTYPE_FP32) {
            kernels->store[d->dtype]((const float *)src, dst, m);
        } else {
            kernels->load[s->dtype](src, l->buf[1], m);
            kernels->store[d->dtype](l->buf[1], dst, m);
        }
    }
}

THE_OP(TENSOR_COPY) {
    bool same = instr->ap[0].dtype == instr->ap[1].dtype;
    lanes_spec spec = {.chunk = same ? copy_bits : copy_fp32,
                       .streams = AP0 | AP1,
                       .dense_row = copy_row,
                       .raw_row = copy_raw_row,
                       .can_join_rows = true};
    return lanes_run(core, instr, slot_base, thread_i, &spec, NULL);
}

static void memset_chunk(lanes *l, size_t n) {
    operand_put(&l->op[0], n, l->buf[1]);
}

/* The filler is converted once, or once a row where each row has its own random numbers. */
static void memset_row(lanes *l) {
    vtrn_dtype t = l->op[0].dtype;
    uint64_t *n_filled = l->extra;
    if (*n_filled >= l->op[0].n && !l->op[0].rng)
        return;
    *n_filled = l->op[0].n;
    size_t n = l->op[0].n < OPERAND_CHUNK ? (size_t)l->op[0].n : OPERAND_CHUNK;
    bool is_raw = t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32;
    for (size_t i = 0; i < n; i++)
        l->buf[0][i] = l->instr->imm[0].f;
    if (is_raw)
        memcpy(l->buf[1], l->buf[0], n * sizeof l->buf[0][0]);
    else if (l->op[0].rng)
        dtype_store_fp32_stochastic(t, l->buf[0], l->buf[1], n, l->op[0].rng);
    else
        dtype_store_fp32(t, l->buf[0], l->buf[1], n);
}

THE_OP(MEMSET) {
    lanes_spec spec = {
        .chunk = memset_chunk, .streams = AP0, .row_begin = memset_row, .can_join_rows = true};
    uint64_t n_filled = 0;
    if (dtype_size(instr->ap[0].dtype) > 4)
        return VTRN_ERROR(VTRN_UNSUPPORTED, "memset: no engine has the type %s",
                          dtype_name(instr->ap[0].dtype));
    return lanes_run(core, instr, slot_base, thread_i, &spec, &n_filled);
}

static void reciprocal_chunk(lanes *l, size_t n) {
    float *d = operand_room_fp32(&l->op[0], n, l->buf[0]);
    l->alu->reciprocal(operand_take_fp32(&l->op[1], n, l->buf[1]), d, n);
    operand_put_fp32(&l->op[0], n, d);
}

THE_OP(RECIPROCAL) {
    lanes_spec spec = {.chunk = reciprocal_chunk, .streams = AP0 | AP1, .can_join_rows = true};
    return lanes_run(core, instr, slot_base, thread_i, &spec, NULL);
}

/* tensor_copy_predicated */

static void copy_predicated(lanes *l, size_t n) {
    int inverse = (l->instr->flags & VTRN_FLAG_REVERSE0) != 0;
    const uint32_t *mask = operand_take_bits(&l->op[2], n, false, (uint32_t *)l->buf[2]);
    const void *x = operand_take(&l->op[1], n, l->buf[1]);
    operand old = l->op[0]; /* a second cursor: dst is read, then written */
    const void *d = operand_take(&old, n, l->buf[0]);
    void *out = l->buf[0];
    if (d == l->op[0].at)
        out = l->op[0].at;
    if (l->op[0].size == 4)
        l->alu->select32(mask, inverse, x, out, n);
    else if (l->op[0].size == 2)
        l->alu->select16(mask, inverse, x, out, n);
    else
        l->alu->select8(mask, inverse, x, out, n);
    operand_put(&l->op[0], n, out);
}

/* The mask as comparisons leave it, a byte an element. */
static void copy_predicated_row(lanes *l, uint8_t *const p[VTRN_MAX_AP], size_t n) {
    int inverse = (l->instr->flags & VTRN_FLAG_REVERSE0) != 0;
    l->alu->select32_by8(p[2], inverse, (const uint32_t *)p[1], (uint32_t *)p[0], n);
}

/* Words by a mask of words or bytes; what is copied, or the mask, may be one element over and over.
 */
static void copy_predicated_rows(lanes *l, const lanes_rows *b) {
    const int inverse = (l->instr->flags & VTRN_FLAG_REVERSE0) != 0;
    const bool by8 = l->op[2].size == 1;
    const uint8_t *mask = l->op[2].row_0 + b->first * l->op[2].row_stride;
    for (size_t r = 0; r < (size_t)b->n_rows; r++, mask += l->op[2].row_stride) {
        const uint32_t *x = (uint32_t *)b->p[1] + r * b->step[1];
        uint32_t *d = (uint32_t *)b->p[0] + r * b->step[0];
        if (b->is_number[2]) {
            uint32_t bits = 0;
            memcpy(&bits, mask, l->op[2].size);
            if ((bits != 0) == inverse)
                continue;
            for (size_t i = 0; i < b->n; i++)
                d[i] = x[b->is_number[1] ? 0 : i];
        } else if (b->is_number[1] && by8) {
            l->alu->select32_one_by8(mask, inverse, *x, d, b->n);
        } else if (b->is_number[1]) {
            l->alu->select32_one((const uint32_t *)mask, inverse, *x, d, b->n);
        } else if (by8) {
            l->alu->select32_by8(mask, inverse, x, d, b->n);
        } else {
            l->alu->select32((const uint32_t *)mask, inverse, x, d, b->n);
        }
    }
}

THE_OP(COPY_PREDICATED) {
    size_t size = dtype_size(instr->ap[0].dtype);
    if (size > 4 || dtype_size(instr->ap[1].dtype) != size)
        return VTRN_ERROR(
            VTRN_UNDEFINED,
            "tensor_copy_predicated: from %s to %s; the types must be the same, of at "
            "most 4 bytes",
            dtype_name(instr->ap[1].dtype), dtype_name(instr->ap[0].dtype));
    lanes_spec spec = {.chunk = copy_predicated, .streams = AP0 | AP1 | AP2, .can_join_rows = true};
    const size_t mask_size = dtype_size(instr->ap[2].dtype);
    if (size == 4 && mask_size == 1)
        spec.raw_row = copy_predicated_row;
    if (size == 4 && (mask_size == 1 || mask_size == 4)) {
        spec.rows = copy_predicated_rows;
        spec.numbers = AP1 | AP2;
        spec.takes_bits = true;
        spec.of_bytes = mask_size == 1 ? AP2 : 0;
    }
    return lanes_run(core, instr, slot_base, thread_i, &spec, NULL);
}
