/* Decodes instructions of a few elements, and carries them out. */
#include "engine/small.h"

#include "base/dtype_kernels.h"
#include "engine/act_kernels.h"
#include "engine/alu_kernels.h"
#include "engine/alu_path.h"
#include "engine/engine.h"
#include "engine/int_kernels.h"

#include <string.h>

/* --- at run time --- */

/* Buffers of PACK_MAX_BYTES in the thread's scratch, with which nested calls do not meet. */
enum { X, Y, Z, T, S, F, RAW, N_BUFFERS };
/* Equal elements of two buffers lie in different sets of the first-level cache. */
enum { BUFFER_BYTES = PACK_MAX_BYTES + 320 };
_Static_assert(N_BUFFERS *BUFFER_BYTES <= ENGINE_SCRATCH_BYTES, "buffers fit the scratch");

static void *buffer(const small_context *c, int i) {
    return c->scratch + (size_t)i * BUFFER_BYTES;
}

static uint8_t *address(const small_op *op, const small_context *c, int row, int i) {
    return c->base[op->space[i]] + op->at[i] + row * op->pitch[i];
}

static bool is_packed(const small_op *op, int i) {
    return op->packed >> i & 1;
}

/* Operand i in its own type: its address, or buf once its elements are gathered there. */
static const void *take(const small_op *op, const small_context *c, int row, int i, void *buf) {
    const uint8_t *at = address(op, c, row, i);
    if (!is_packed(op, i))
        return at;
    pack_gather(&op->pack[i], at, buf);
    return buf;
}

static const float *values(const small_op *op, const small_context *c, int row, int i, float *buf) {
    uint32_t *raw = buffer(c, RAW);
    if (!op->load[i])
        return take(op, c, row, i, buf);
    op->load[i](take(op, c, row, i, raw), buf, op->n);
    return buf;
}

/* The scalar of operand i, 2 or 3. */
static float scalar(const small_op *op, const small_context *c, int row, int i) {
    float x;
    if (op->space[i] == VTRN_SPACE_NONE)
        return op->imm.f[i - 2];
    if (op->load[i])
        op->load[i](address(op, c, row, i), &x, 1);
    else
        memcpy(&x, address(op, c, row, i), sizeof x);
    return x;
}

static uint32_t scalar_bits(const small_op *op, const small_context *c, int row, int i) {
    uint32_t x;
    if (op->space[i] == VTRN_SPACE_NONE)
        return op->imm.bits[i - 2];
    memcpy(&x, address(op, c, row, i), sizeof x);
    return x;
}

/* Where a kernel writes its results: dst's own memory, or buf if dst is packed. */
static void *space_for(const small_op *op, const small_context *c, int row, void *buf) {
    return is_packed(op, 0) ? buf : address(op, c, row, 0);
}

/* Scatters the results in x, which space_for() gave, if dst is packed. */
static void leave(const small_op *op, const small_context *c, int row, const void *x) {
    if (is_packed(op, 0))
        pack_scatter(&op->pack[0], address(op, c, row, 0), x);
}

static float *room(const small_op *op, const small_context *c, int row, float *buf) {
    return op->store ? buf : space_for(op, c, row, buf);
}

static void put(const small_op *op, const small_context *c, int row, const float *x) {
    uint32_t *raw = buffer(c, RAW);
    void *d = (void *)(uintptr_t)x;
    if (op->store) {
        d = space_for(op, c, row, raw);
        op->store(x, d, op->n);
    }
    leave(op, c, row, d);
}

static void run_tensor_tensor(const small_op *op, const small_context *c, int row) {
    float *x = buffer(c, X), *y = buffer(c, Y), *z = buffer(c, Z);
    float *d = room(op, c, row, z);
    op->kernel[0].tt(values(op, c, row, 1, x), values(op, c, row, 2, y), d, op->n);
    put(op, c, row, d);
}

static void run_tensor_scalar(const small_op *op, const small_context *c, int row) {
    float *x = buffer(c, X), *z = buffer(c, Z), second = scalar(op, c, row, 3);
    float *d = room(op, c, row, z);
    op->kernel[0].ts(values(op, c, row, 1, x), scalar(op, c, row, 2), d, op->n);
    if (op->kernel[1].ts)
        op->kernel[1].ts(d, second, d, op->n);
    put(op, c, row, d);
}

/* Step k of an instruction, with its own scalar operand, which may be a tensor here. */
static void scalar_step(const small_op *op, const small_context *c, int row, int k, const float *x,
                        float *d) {
    float *buf = buffer(c, S);
    if (!is_packed(op, 2 + k)) {
        op->kernel[k].ts(x, scalar(op, c, row, 2 + k), d, op->n);
        return;
    }
    const float *s = values(op, c, row, 2 + k, buf);
    bool swaps = op->flags & (k ? VTRN_FLAG_REVERSE1 : VTRN_FLAG_REVERSE0);
    op->kernel[k].tt(swaps ? s : x, swaps ? x : s, d, op->n);
}

/* The same where scalars are tensors of one row. */
static void run_tensor_scalar_packed(const small_op *op, const small_context *c, int row) {
    float *x = buffer(c, X), *t = buffer(c, T), *z = buffer(c, Z);
    float *d = room(op, c, row, z);
    if (!op->kernel[1].ts) {
        scalar_step(op, c, row, 0, values(op, c, row, 1, x), d);
    } else { /* not straight into dst, which may be the second scalar */
        scalar_step(op, c, row, 0, values(op, c, row, 1, x), t);
        scalar_step(op, c, row, 1, t, d);
    }
    put(op, c, row, d);
}

static void run_scalar_tensor_tensor(const small_op *op, const small_context *c, int row) {
    float *x = buffer(c, X), *y = buffer(c, Y), *z = buffer(c, Z);
    float *t = buffer(c, T), *d = room(op, c, row, z);
    const float *with = values(op, c, row, 3, y);
    scalar_step(op, c, row, 0, values(op, c, row, 1, x), t);
    if (op->flags & VTRN_FLAG_REVERSE1)
        op->kernel[1].tt(with, t, d, op->n);
    else
        op->kernel[1].tt(t, with, d, op->n);
    put(op, c, row, d);
}

static void run_activate(const small_op *op, const small_context *c, int row) {
    float *x = buffer(c, X), *z = buffer(c, Z);
    float *d = room(op, c, row, z);
    op->kernel[0].act(values(op, c, row, 1, x), scalar(op, c, row, 2), scalar(op, c, row, 3),
                      op->slope, d, op->n);
    put(op, c, row, d);
}

static void run_unary(const small_op *op, const small_context *c, int row) {
    float *x = buffer(c, X), *z = buffer(c, Z);
    float *d = room(op, c, row, z);
    op->kernel[0].unary(values(op, c, row, 1, x), d, op->n);
    put(op, c, row, d);
}

/* Where 32-bit results are made. */
static uint32_t *room_bits(const small_op *op, const small_context *c, int row, uint32_t *buf) {
    return op->load[0] ? buf : space_for(op, c, row, buf);
}

/* load[0] makes numbers of integers, for a dst that is not one of 32 bits. */
static void put_bits(const small_op *op, const small_context *c, int row, const uint32_t *x) {
    float *f = buffer(c, F);
    if (!op->load[0]) {
        leave(op, c, row, x);
        return;
    }
    float *d = room(op, c, row, f);
    op->load[0](x, d, op->n);
    put(op, c, row, d);
}

static void run_tensor_tensor_bits(const small_op *op, const small_context *c, int row) {
    uint32_t *x = buffer(c, X), *y = buffer(c, Y), *z = buffer(c, Z);
    uint32_t *d = room_bits(op, c, row, z);
    const uint32_t *a = take(op, c, row, 1, x);
    op->kernel[0].itt(a, take(op, c, row, 2, y), d, op->n);
    put_bits(op, c, row, d);
}

static void scalar_step_bits(const small_op *op, const small_context *c, int row, int k,
                             const uint32_t *x, uint32_t *d) {
    uint32_t *buf = buffer(c, S);
    if (!is_packed(op, 2 + k)) {
        op->kernel[k].its(x, scalar_bits(op, c, row, 2 + k), d, op->n);
        return;
    }
    const uint32_t *s = take(op, c, row, 2 + k, buf);
    bool swaps = op->flags & (k ? VTRN_FLAG_REVERSE1 : VTRN_FLAG_REVERSE0);
    op->kernel[k].itt(swaps ? s : x, swaps ? x : s, d, op->n);
}

static void run_tensor_scalar_bits_packed(const small_op *op, const small_context *c, int row) {
    uint32_t *x = buffer(c, X), *t = buffer(c, T), *z = buffer(c, Z);
    uint32_t *d = room_bits(op, c, row, z);
    if (!op->kernel[1].its) {
        scalar_step_bits(op, c, row, 0, take(op, c, row, 1, x), d);
    } else {
        scalar_step_bits(op, c, row, 0, take(op, c, row, 1, x), t);
        scalar_step_bits(op, c, row, 1, t, d);
    }
    put_bits(op, c, row, d);
}

static void run_tensor_scalar_bits(const small_op *op, const small_context *c, int row) {
    uint32_t *x = buffer(c, X), *z = buffer(c, Z), *d = room_bits(op, c, row, z);
    uint32_t second = scalar_bits(op, c, row, 3);
    op->kernel[0].its(take(op, c, row, 1, x), scalar_bits(op, c, row, 2), d, op->n);
    if (op->kernel[1].its)
        op->kernel[1].its(d, second, d, op->n);
    put_bits(op, c, row, d);
}

/* dst keeps elements: what it has is gathered, too. */
static uint32_t *old_words(const small_op *op, const small_context *c, int row, uint32_t *buf) {
    return (uint32_t *)(uintptr_t)take(op, c, row, 0, buf);
}

static void run_select(const small_op *op, const small_context *c, int row) {
    uint32_t *x = buffer(c, X), *m = buffer(c, Y), *z = buffer(c, Z);
    const uint32_t *mask = take(op, c, row, 2, m), *from = take(op, c, row, 1, x);
    uint32_t *d = old_words(op, c, row, z);
    op->kernel[0].select(mask, (op->flags & VTRN_FLAG_REVERSE0) != 0, from, d, op->n);
    leave(op, c, row, d);
}

static void run_select_by8(const small_op *op, const small_context *c, int row) {
    uint32_t *x = buffer(c, X), *m = buffer(c, Y), *z = buffer(c, Z);
    const uint32_t *from = take(op, c, row, 1, x);
    const uint8_t *mask = take(op, c, row, 2, m);
    uint32_t *d = old_words(op, c, row, z);
    op->kernel[0].select_by8(mask, (op->flags & VTRN_FLAG_REVERSE0) != 0, from, d, op->n);
    leave(op, c, row, d);
}

static void run_fill1(const small_op *op, const small_context *c, int row) {
    uint8_t *z = buffer(c, Z), *d = space_for(op, c, row, z);
    memset(d, (int)op->imm.bits[0], op->n);
    leave(op, c, row, d);
}

static void run_fill2(const small_op *op, const small_context *c, int row) {
    uint16_t *z = buffer(c, Z), *d = space_for(op, c, row, z), x = (uint16_t)op->imm.bits[0];
    for (uint32_t i = 0, n = op->n; i < n; i++)
        d[i] = x;
    leave(op, c, row, d);
}

static void run_fill4(const small_op *op, const small_context *c, int row) {
    uint32_t *z = buffer(c, Z), *d = space_for(op, c, row, z), x = op->imm.bits[0];
    for (uint32_t i = 0, n = op->n; i < n; i++)
        d[i] = x;
    leave(op, c, row, d);
}

static void run_move(const small_op *op, const small_context *c, int row) {
    memmove(address(op, c, row, 0), address(op, c, row, 1), op->n_bytes);
}

static uint8_t *dma_address(const small_op *op, const small_context *c, int row, int i) {
    uint8_t *at = address(op, c, row, i);
    return op->space[i] == VTRN_SPACE_HBM ? at + c->slot_base[op->slot[i]] : at;
}

static void run_dma(const small_op *op, const small_context *c, int row) {
    memmove(dma_address(op, c, row, 0), dma_address(op, c, row, 1), op->n_bytes);
}

/* A copy with one side packed, or both. The sides may overlap, so all is read before the writes. */
static void run_copy_packed(const small_op *op, const small_context *c, int row) {
    uint64_t *buf = buffer(c, S);
    const void *x = dma_address(op, c, row, 1);
    uint8_t *d = dma_address(op, c, row, 0);
    if (is_packed(op, 1))
        pack_gather(&op->pack[1], x, buf);
    else
        memcpy(buf, x, op->n_bytes);
    if (is_packed(op, 0))
        pack_scatter(&op->pack[0], d, buf);
    else
        memcpy(d, buf, op->n_bytes);
}

/* A conversion goes through fp32. */
static void run_convert(const small_op *op, const small_context *c, int row) {
    float *x = buffer(c, X);
    uint32_t *raw = buffer(c, RAW);
    const void *from = dma_address(op, c, row, 1);
    void *d = dma_address(op, c, row, 0), *to = is_packed(op, 0) ? raw : d;
    if (is_packed(op, 1)) {
        pack_gather(&op->pack[1], from, raw);
        from = raw;
    }
    if (op->load[1])
        op->load[1](from, x, op->n);
    else
        memcpy(x, from, op->n * sizeof *x); /* dst may overlap it */
    if (op->store)
        op->store(x, to, op->n);
    else
        memcpy(to, x, op->n * sizeof *x);
    if (is_packed(op, 0))
        pack_scatter(&op->pack[0], d, to);
}

small_context small_context_of(const engine_core *core, const uint64_t *slot_base) {
    return (small_context){.base = {[VTRN_SPACE_SBUF] = core->sbuf.base,
                                    [VTRN_SPACE_PSUM] = core->psum.base,
                                    [VTRN_SPACE_HBM] = core->hbm},
                           .slot_base = slot_base,
                           .scratch = engine_scratch(core, 0)};
}

/* --- decoding --- */

static bool is_int32(const vtrn_ap *ap) {
    return ap->dtype == VTRN_DTYPE_INT32 || ap->dtype == VTRN_DTYPE_UINT32;
}

enum { DMA_MAX_ROWS = 16 /* of copies that may be large: readers may do without larger ones */ };

/* Instructions are decoded row by row, or as one row that is packed. */
typedef struct decoder {
    const vtrn_chip *chip;
    const vtrn_instr *instr;
    bool is_packing;
    small_op *out;
} decoder;

static int64_t partition_bytes(const decoder *d, const vtrn_ap *ap) {
    if (ap->space == VTRN_SPACE_HBM)
        return ap->partition_step * (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    const vtrn_chip *chip = d->chip;
    return !ap->partition_step ? 0
                               : (int64_t)engine_memory_stride(ap->space == VTRN_SPACE_PSUM
                                                                   ? chip->psum_partition_bytes
                                                                   : chip->sbuf_partition_bytes);
}

/* A type that the engines load and store, in a memory. */
static bool take_place(const decoder *d, int i) {
    const vtrn_ap *ap = &d->instr->ap[i];
    small_op *out = d->out;
    bool is_hbm = ap->space == VTRN_SPACE_HBM;
    size_t size = dtype_size((vtrn_dtype)ap->dtype);
    if (ap->space != VTRN_SPACE_SBUF && ap->space != VTRN_SPACE_PSUM && !is_hbm)
        return false;
    if (size == 0 || ap->addr % (int64_t)size || (!is_hbm && size > 4))
        return false;
    vtrn_ap neighbour = *ap; /* a partition further, whatever the operand's step */
    neighbour.partition_step = 1;
    out->space[i] = ap->space;
    out->pitch[i] = partition_bytes(d, ap);
    out->at[i] = ap->addr + (is_hbm ? 0 : ap->partition * partition_bytes(d, &neighbour));
    return true;
}

static bool take_packed(const decoder *d, int i) {
    const vtrn_ap *ap = &d->instr->ap[i];
    small_op *out = d->out;
    if (!take_place(d, i) || !pack_of(ap, partition_bytes(d, ap), &out->pack[i]))
        return false;
    if (!pack_is_dense(&out->pack[i]))
        out->packed |= (uint8_t)(1 << i);
    return true;
}

/* Rows of n elements: adjacent ones, or packed. */
static bool take_operand(const decoder *d, int i, uint64_t n) {
    const vtrn_ap *ap = &d->instr->ap[i];
    if (ap->n_partitions != d->instr->ap[0].n_partitions || isa_ap_free_size(ap) != n)
        return false;
    if (d->is_packing)
        return engine_are_rows_apart(d->instr, i) && take_packed(d, i);
    return engine_ap_is_dense(ap) && take_place(d, i);
}

static bool take_streams(const decoder *d, unsigned streams) {
    const vtrn_instr *instr = d->instr;
    uint64_t n = isa_ap_free_size(&instr->ap[0]);
    d->out->n = (uint32_t)n * (d->is_packing ? instr->ap[0].n_partitions : 1);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (streams >> i & 1 && (instr->ap[i].space == VTRN_SPACE_HBM || !take_operand(d, i, n)))
            return false;
    return true;
}

/* Operands 2 and 3 of those in the mask: one element, or an immediate. One element of each of
 * several rows that are packed is a tensor. */
static bool take_scalars(const decoder *d, unsigned scalars) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    bool has_rows = d->is_packing && instr->ap[0].n_partitions > 1;
    for (int i = 2; i < VTRN_MAX_AP; i++) {
        if (!(scalars >> i & 1))
            continue;
        const vtrn_ap *ap = &instr->ap[i];
        out->imm.bits[i - 2] = instr->imm[i - 2].bits;
        if (ap->space == VTRN_SPACE_NONE)
            continue;
        if (ap->space == VTRN_SPACE_HBM || !take_operand(d, i, 1))
            return false;
        out->packed &= (uint8_t) ~(1 << i);
        if (!has_rows)
            continue;
        out->pack[i] =
            pack_of_scalars(ap, partition_bytes(d, ap), (uint32_t)isa_ap_free_size(&instr->ap[0]));
        out->packed |= (uint8_t)(1 << i);
    }
    return true;
}

/* Everything is a number: what is not fp32 is converted. */
static bool convert_all(const vtrn_instr *instr, small_op *out) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        uint8_t t = instr->ap[i].dtype;
        if (out->space[i] == VTRN_SPACE_NONE || t == VTRN_DTYPE_FP32)
            continue;
        if (!kernels->load[t] || !kernels->store[t])
            return false;
        out->load[i] = i ? kernels->load[t] : NULL;
        out->store = i ? out->store : kernels->store[t];
    }
    return true;
}

/* Everything is 32 bits, but for a dst of GpSimd's integers, whose numbers it takes. */
static bool convert_bits(const vtrn_instr *instr, const alu_path *path, small_op *out) {
    const dtype_kernels *kernels = CPU_TABLE(dtype_kernel_table);
    for (int i = 1; i < VTRN_MAX_AP; i++)
        if (out->space[i] != VTRN_SPACE_NONE && dtype_size((vtrn_dtype)instr->ap[i].dtype) != 4)
            return false;
    const vtrn_ap *d = &instr->ap[0];
    if (path->kind == PATH_BITS)
        return dtype_size((vtrn_dtype)d->dtype) == 4;
    if (is_int32(d))
        return true;
    out->load[0] = kernels->load[path->is_unsigned ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32];
    out->store = d->dtype == VTRN_DTYPE_FP32 ? NULL : kernels->store[d->dtype];
    return d->dtype == VTRN_DTYPE_FP32 || out->store;
}

static bool choose(const vtrn_instr *instr, unsigned mask, alu_path *path) {
    vtrn_status status = alu_path_of(instr, mask, path);
    vtrn_status_free(status);
    return !status;
}

enum { AP0 = 1, AP1 = 2, AP2 = 4, AP3 = 8 };

static bool decode_tensor_tensor(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    vtrn_instr one_op = *instr; /* op1 means nothing here */
    alu_path path;
    one_op.op1 = VTRN_ALU_NONE;
    if (!take_streams(d, AP0 | AP1 | AP2) || !choose(&one_op, AP1 | AP2, &path))
        return false;
    if (path.kind == PATH_FP32) {
        out->run = run_tensor_tensor;
        out->kernel[0].tt = CPU_TABLE(alu_kernel_table)->tt[instr->op0];
        return out->kernel[0].tt && convert_all(instr, out);
    }
    out->run = run_tensor_tensor_bits;
    out->kernel[0].itt = CPU_TABLE(int_kernel_table)->tt[path.is_unsigned][instr->op0];
    return out->kernel[0].itt && convert_bits(instr, &path, out);
}

/* The kernel of step k with its scalar, which is a tensor where it is packed. */
static bool take_scalar_kernel(small_op *out, int k, uint8_t op, bool is_reversed) {
    const alu_kernels *kernels = CPU_TABLE(alu_kernel_table);
    if (is_packed(out, 2 + k))
        out->kernel[k].tt = kernels->tt[op];
    else
        out->kernel[k].ts = (is_reversed ? kernels->st : kernels->ts)[op];
    return is_packed(out, 2 + k) ? out->kernel[k].tt != NULL : out->kernel[k].ts != NULL;
}

static bool take_scalar_kernel_bits(small_op *out, int k, bool is_unsigned, uint8_t op,
                                    bool is_reversed) {
    const int_kernels *kernels = CPU_TABLE(int_kernel_table);
    if (is_packed(out, 2 + k))
        out->kernel[k].itt = kernels->tt[is_unsigned][op];
    else
        out->kernel[k].its = (is_reversed ? kernels->st : kernels->ts)[is_unsigned][op];
    return is_packed(out, 2 + k) ? out->kernel[k].itt != NULL : out->kernel[k].its != NULL;
}

static bool decode_tensor_scalar(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    alu_path path;
    if (!take_streams(d, AP0 | AP1) || !take_scalars(d, AP2 | AP3) ||
        !choose(instr, AP1 | AP2 | AP3, &path))
        return false;
    const bool is_second = instr->op1 != VTRN_ALU_NONE;
    const bool has_tensors = is_packed(out, 2) || is_packed(out, 3);
    const bool r0 = instr->flags & VTRN_FLAG_REVERSE0, r1 = instr->flags & VTRN_FLAG_REVERSE1;
    if (path.kind == PATH_FP32) {
        bool has_all = take_scalar_kernel(out, 0, instr->op0, r0);
        if (is_second)
            has_all &= take_scalar_kernel(out, 1, instr->op1, r1);
        out->run = has_tensors ? run_tensor_scalar_packed : run_tensor_scalar;
        return has_all && convert_all(instr, out);
    }
    bool has_all = take_scalar_kernel_bits(out, 0, path.is_unsigned, instr->op0, r0);
    if (is_second)
        has_all &= take_scalar_kernel_bits(out, 1, path.is_unsigned, instr->op1, r1);
    out->run = has_tensors ? run_tensor_scalar_bits_packed : run_tensor_scalar_bits;
    return has_all && convert_bits(instr, &path, out);
}

static bool decode_scalar_tensor_tensor(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    alu_path path;
    if (!take_streams(d, AP0 | AP1 | AP3) || !take_scalars(d, AP2) ||
        !choose(instr, AP1 | AP2 | AP3, &path) || path.kind != PATH_FP32)
        return false;
    out->run = run_scalar_tensor_tensor;
    out->kernel[1].tt = CPU_TABLE(alu_kernel_table)->tt[instr->op1];
    return take_scalar_kernel(out, 0, instr->op0, instr->flags & VTRN_FLAG_REVERSE0) &&
           out->kernel[1].tt && convert_all(instr, out);
}

static bool decode_activate(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    if (instr->func >= VTRN_ACT_COUNT || instr->flags & (VTRN_FLAG_ACCUMULATE | VTRN_FLAG_RESET) ||
        !take_streams(d, AP0 | AP1) || !take_scalars(d, AP2 | AP3))
        return false;
    if (is_packed(out, 2) || is_packed(out, 3))
        return false; /* the kernel takes one scale and bias */
    if (instr->ap[0].dtype == VTRN_DTYPE_BF16 && instr->ap[1].dtype == VTRN_DTYPE_BF16)
        return false; /* may be a copy that converts nothing */
    out->run = run_activate;
    out->kernel[0].act = CPU_TABLE(act_kernel_table)->act[instr->func];
    memcpy(&out->slope, &instr->arg[0], sizeof out->slope);
    return out->kernel[0].act && convert_all(instr, out);
}

static bool decode_reciprocal(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    out->run = run_unary;
    out->kernel[0].unary = CPU_TABLE(alu_kernel_table)->reciprocal;
    return take_streams(d, AP0 | AP1) && convert_all(instr, out);
}

static bool decode_copy(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    if (!take_streams(d, AP0 | AP1))
        return false;
    out->n_bytes = out->n * (uint32_t)dtype_size((vtrn_dtype)instr->ap[0].dtype);
    bool is_same = instr->ap[0].dtype == instr->ap[1].dtype;
    out->run = !is_same ? run_convert : out->packed ? run_copy_packed : run_move;
    return is_same || convert_all(instr, out);
}

static bool decode_memset(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    const vtrn_ap *dst = &instr->ap[0];
    if (!take_streams(d, AP0))
        return false;
    size_t size = dtype_size((vtrn_dtype)dst->dtype);
    out->run = size == 1 ? run_fill1 : size == 2 ? run_fill2 : run_fill4;
    out->imm.bits[0] = instr->imm[0].bits;
    if (!is_int32(dst)) {
        float x = instr->imm[0].f;
        dtype_store_fp32((vtrn_dtype)dst->dtype, &x, &out->imm.bits[0], 1);
    }
    return true;
}

static bool decode_select(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    const alu_kernels *k = CPU_TABLE(alu_kernel_table);
    size_t mask_size = dtype_size((vtrn_dtype)instr->ap[2].dtype);
    if (dtype_size((vtrn_dtype)instr->ap[0].dtype) != 4 ||
        dtype_size((vtrn_dtype)instr->ap[1].dtype) != 4 || (mask_size != 1 && mask_size != 4))
        return false;
    out->run = mask_size == 1 ? run_select_by8 : run_select;
    if (mask_size == 1)
        out->kernel[0].select_by8 = k->select32_by8;
    else
        out->kernel[0].select = k->select32;
    return take_streams(d, AP0 | AP1 | AP2);
}

/* A row in HBM may serve several partitions, whose elements follow each other as those of the
 * partitions do. */
static bool is_legal_dma(const vtrn_instr *instr) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    if (dst->n_partitions == src->n_partitions)
        return isa_ap_free_size(dst) == isa_ap_free_size(src);
    bool is_store = dst->space == VTRN_SPACE_HBM;
    const vtrn_ap *hbm = is_store ? dst : src, *sbuf = is_store ? src : dst;
    return hbm->space == VTRN_SPACE_HBM && sbuf->space == VTRN_SPACE_SBUF &&
           isa_ap_row_dims(hbm, sbuf->n_partitions) >= 1 &&
           isa_ap_free_size(dst) * dst->n_partitions == isa_ap_free_size(src) * src->n_partitions;
}

static bool take_dma(const decoder *d) {
    const vtrn_ap *dst = &d->instr->ap[0], *src = &d->instr->ap[1];
    uint64_t n = isa_ap_free_size(dst);
    if (d->is_packing) {
        d->out->n = (uint32_t)n * dst->n_partitions;
        return is_legal_dma(d->instr) && take_packed(d, 0) && take_packed(d, 1);
    }
    d->out->n = (uint32_t)n;
    bool is_large = dst->n_partitions > DMA_MAX_ROWS && n * dst->n_partitions > PACK_MAX_ELEMENTS;
    return !is_large && src->n_partitions == dst->n_partitions && take_operand(d, 0, n) &&
           take_operand(d, 1, n);
}

static bool decode_dma(const decoder *d) {
    const vtrn_instr *instr = d->instr;
    small_op *out = d->out;
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    if (instr->flags & VTRN_FLAG_ACCUMULATE || !take_dma(d))
        return false;
    out->n_bytes = out->n * (uint32_t)dtype_size((vtrn_dtype)dst->dtype);
    out->slot[0] = dst->slot;
    out->slot[1] = src->slot;
    bool is_same = dst->dtype == src->dtype;
    out->run = !is_same ? run_convert : out->packed ? run_copy_packed : run_dma;
    return is_same || convert_all(instr, out);
}

static bool decode(const decoder *d) {
    switch (d->instr->opcode) {
    case VTRN_OP_TENSOR_TENSOR:
        return decode_tensor_tensor(d);
    case VTRN_OP_TENSOR_SCALAR:
        return decode_tensor_scalar(d);
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
        return decode_scalar_tensor_tensor(d);
    case VTRN_OP_ACTIVATE:
        return decode_activate(d);
    case VTRN_OP_RECIPROCAL:
        return decode_reciprocal(d);
    case VTRN_OP_TENSOR_COPY:
        return decode_copy(d);
    case VTRN_OP_MEMSET:
        return decode_memset(d);
    case VTRN_OP_COPY_PREDICATED:
        return decode_select(d);
    case VTRN_OP_DMA_COPY:
        return decode_dma(d);
    default:
        return false;
    }
}

/* Row by row each row is a call: of short rows that is too many, unless each has its own scale. */
static bool may_go_by_rows(const vtrn_instr *instr, uint64_t n, int n_rows) {
    bool has_scalars =
        instr->opcode == VTRN_OP_ACTIVATE &&
        (instr->ap[2].space != VTRN_SPACE_NONE || instr->ap[3].space != VTRN_SPACE_NONE);
    return n <= SMALL_MAX_ELEMENTS && n * (uint64_t)n_rows <= SMALL_MAX_ALL &&
           (n_rows == 1 || n >= SMALL_LEAST_ELEMENTS || has_scalars);
}

bool small_decode(const vtrn_chip *chip, const vtrn_instr *instr, bool may_cross, small_op *out) {
    const bool is_copy = instr->opcode == VTRN_OP_TENSOR_COPY || instr->opcode == VTRN_OP_DMA_COPY;
    const bool is_crossed = may_cross || engine_crossed(instr);
    uint64_t n = isa_ap_free_size(&instr->ap[0]);
    int n_rows = instr->ap[0].n_partitions;
    if (n_rows < 1 || n_rows > UINT8_MAX || n == 0 || instr->flags & VTRN_FLAG_STOCHASTIC ||
        (is_crossed && !is_copy))
        return false;
    decoder d = {.chip = chip, .instr = instr, .out = out};
    *out = (small_op){.flags = (uint8_t)instr->flags, .n_rows = (uint8_t)n_rows};
    bool are_rows_apart = n_rows == 1 || !is_crossed; /* no row reads what another has written */
    if (are_rows_apart && may_go_by_rows(instr, n, n_rows) && decode(&d))
        return true;
    if (n * (uint64_t)n_rows > PACK_MAX_ELEMENTS)
        return false;
    *out = (small_op){.flags = (uint8_t)instr->flags, .n_rows = 1};
    d.is_packing = true;
    return decode(&d);
}
