/* Instructions that reduce each row into a register of the Vector engine besides what they write:
 * one fp32 register a partition, which another instruction reads. Source: nki.isa, "Accumulator
 * behavior" of tensor_scalar_reduce, range_select, select_reduce, tensor_scalar_cumulative and
 * exponential. */
#include "engine/act_kernels.h"
#include "engine/lanes.h"

#include <float.h>
#include <math.h>

enum { AP0 = 1, AP1 = 2, AP2 = 4, AP3 = 8 };

typedef struct accumulation {
    uint8_t op; /* what reduces */
    bool keeps; /* what the register held counts too */
    float reg;  /* of tensor_scalar_cumulative, along the row */
    float lanes[ALU_LANES];
} accumulation;

static void row_begin(lanes *l) {
    accumulation *a = l->extra;
    l->alu->reduce_begin[a->op](a->lanes);
}

static void row_end(lanes *l) {
    accumulation *a = l->extra;
    float *reg = &l->core->regs->kept.vector_regs[l->partition];
    float sum = l->alu->reduce_end[a->op](a->lanes);
    if (a->keeps)
        l->alu->tt[a->op](reg, &sum, reg, 1);
    else
        *reg = sum;
}

static vtrn_status run(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                       int thread_i, lanes_spec spec, vtrn_alu op) {
    accumulation a = {.op = (uint8_t)op, .keeps = instr->flags & VTRN_FLAG_ACCUMULATE};
    if ((unsigned)op >= VTRN_ALU_COUNT || !core || instr->op0 >= VTRN_ALU_COUNT)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: operation number %u is none",
                          isa_ops[instr->opcode].mnemonic, (unsigned)op);
    spec.whole_chunks = true; /* the order of a sum depends on positions only */
    if (!spec.row_begin) {
        spec.row_begin = row_begin;
        spec.row_end = row_end;
    }
    return lanes_run(core, instr, slot_base, thread_i, &spec, &a);
}

static void put(lanes *l, float *x, size_t n) {
    accumulation *a = l->extra;
    l->alu->reduce_add[a->op](a->lanes, x, n);
    operand_put_fp32(&l->op[0], n, x);
}

static void scalar_op(lanes *l, float *d, size_t n) {
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    bool is_reversed = l->instr->flags & VTRN_FLAG_REVERSE0;
    (is_reversed ? l->alu->st : l->alu->ts)[l->instr->op0](x, l->s[2], d, n);
}

static void tensor_scalar_reduce_chunk(lanes *l, size_t n) {
    scalar_op(l, l->buf[0], n);
    put(l, l->buf[0], n);
}

static vtrn_status reduces(const vtrn_instr *instr) {
    switch (instr->op1) {
    case VTRN_ALU_ADD:
    case VTRN_ALU_MULTIPLY:
    case VTRN_ALU_MAX:
    case VTRN_ALU_MIN:
        return NULL;
    default:
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: %s does not reduce here",
                          isa_ops[instr->opcode].mnemonic, isa_alu_name(instr->op1));
    }
}

vtrn_status engine_op_TENSOR_SCALAR_REDUCE(engine_core *core, const vtrn_instr *instr,
                                           const uint64_t *slot_base, int thread_i) {
    VTRN_RETURN_IF_ERROR(reduces(instr));
    lanes_spec spec = {
        .chunk = tensor_scalar_reduce_chunk, .streams = AP0 | AP1, .scalars = AP2, .first_imm = 2};
    return run(core, instr, slot_base, thread_i, spec, instr->op1);
}

static void cumulative_begin(lanes *l) {
    accumulation *a = l->extra;
    static const float identity[VTRN_ALU_COUNT] = {
        [VTRN_ALU_MULTIPLY] = 1.0f, [VTRN_ALU_MAX] = -INFINITY, [VTRN_ALU_MIN] = INFINITY};
    a->reg = a->keeps ? l->core->regs->kept.vector_regs[l->partition] : identity[a->op];
}

static void cumulative_end(lanes *l) {
    const accumulation *a = l->extra;
    l->core->regs->kept.vector_regs[l->partition] = a->reg;
}

static void cumulative_chunk(lanes *l, size_t n) {
    accumulation *a = l->extra;
    float *d = l->buf[0];
    scalar_op(l, d, n);
    for (size_t i = 0; i < n; i++) {
        l->alu->tt[a->op](&d[i], &a->reg, &a->reg, 1);
        d[i] = a->reg;
    }
    operand_put_fp32(&l->op[0], n, d);
}

vtrn_status engine_op_TENSOR_SCALAR_CUMULATIVE(engine_core *core, const vtrn_instr *instr,
                                               const uint64_t *slot_base, int thread_i) {
    if (instr->op1 != VTRN_ALU_SUBTRACT)
        VTRN_RETURN_IF_ERROR(reduces(instr));
    lanes_spec spec = {.chunk = cumulative_chunk,
                       .streams = AP0 | AP1,
                       .scalars = AP2,
                       .first_imm = 2,
                       .row_begin = cumulative_begin,
                       .row_end = cumulative_end};
    return run(core, instr, slot_base, thread_i, spec, instr->op1);
}

/* Numbers of elements are compared as fp32. */
static void range_select_chunk(lanes *l, size_t n) {
    float *d = l->buf[0], *low = l->buf[2], *high = l->buf[3];
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    for (size_t i = 0; i < n; i++)
        d[i] = (float)(l->instr->arg[0] + (int64_t)(l->from + i));
    l->alu->ts[l->instr->op0](d, l->s[2], low, n);
    l->alu->ts[l->instr->op1](d, l->s[3], high, n);
    for (size_t i = 0; i < n; i++)
        d[i] = low[i] != 0 && high[i] != 0 ? x[i] : -FLT_MAX;
    put(l, d, n);
}

vtrn_status engine_op_RANGE_SELECT(engine_core *core, const vtrn_instr *instr,
                                   const uint64_t *slot_base, int thread_i) {
    if (instr->op0 < VTRN_ALU_IS_EQUAL || instr->op0 > VTRN_ALU_IS_LT ||
        instr->op1 < VTRN_ALU_IS_EQUAL || instr->op1 > VTRN_ALU_IS_LT)
        return VTRN_ERROR(VTRN_UNDEFINED, "range_select: %s and %s: both compare",
                          isa_alu_name(instr->op0), isa_alu_name(instr->op1));
    lanes_spec spec = {
        .chunk = range_select_chunk, .streams = AP0 | AP1, .scalars = AP2 | AP3, .first_imm = 2};
    return run(core, instr, slot_base, thread_i, spec, VTRN_ALU_MAX);
}

static void select_reduce_chunk(lanes *l, size_t n) {
    float *d = l->buf[0];
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    const uint32_t *p = operand_take_bits(&l->op[2], n, false, (uint32_t *)l->buf[2]);
    bool is_reversed = l->instr->flags & VTRN_FLAG_REVERSE0;
    for (size_t i = 0; i < n; i++)
        d[i] = (p[i] != 0) != is_reversed ? x[i] : l->s[3];
    put(l, d, n);
}

vtrn_status engine_op_SELECT_REDUCE(engine_core *core, const vtrn_instr *instr,
                                    const uint64_t *slot_base, int thread_i) {
    lanes_spec spec = {
        .chunk = select_reduce_chunk, .streams = AP0 | AP1 | AP2, .scalars = AP3, .first_imm = 3};
    return run(core, instr, slot_base, thread_i, spec, VTRN_ALU_MAX);
}

static void exponential_chunk(lanes *l, size_t n) {
    float *d = l->buf[0];
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    CPU_TABLE(act_kernel_table)->act[VTRN_ACT_EXP](x, 1.0f, -l->s[2], 0.0f, d, n);
    put(l, d, n);
}

vtrn_status engine_op_EXPONENTIAL(engine_core *core, const vtrn_instr *instr,
                                  const uint64_t *slot_base, int thread_i) {
    lanes_spec spec = {
        .chunk = exponential_chunk, .streams = AP0 | AP1, .scalars = AP2, .first_imm = 2};
    return run(core, instr, slot_base, thread_i, spec, VTRN_ALU_ADD);
}

static void read_chunk(lanes *l, size_t n) {
    float x = l->core->regs->kept.vector_regs[l->partition];
    x = l->instr->flags & VTRN_FLAG_NEGATE ? -x : x;
    operand_put_fp32(&l->op[0], n, &x);
}

vtrn_status engine_op_VECTOR_READ_ACCUMULATOR(engine_core *core, const vtrn_instr *instr,
                                              const uint64_t *slot_base, int thread_i) {
    if (isa_ap_free_size(&instr->ap[0]) != 1)
        return operand_shape_error(instr, 0, "one number a partition comes out");
    lanes_spec spec = {.chunk = read_chunk, .streams = AP0};
    return lanes_run(core, instr, slot_base, thread_i, &spec, NULL);
}

/* Each thread loads the registers of its own partitions, which hold their numbers. */
vtrn_status engine_op_VECTOR_LOAD_ACCUMULATOR(engine_core *core, const vtrn_instr *instr,
                                              const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *from = &instr->ap[1];
    if (isa_ap_free_size(from) != 1)
        return operand_shape_error(instr, 1, "one number a partition is loaded");
    engine_rows rows = engine_rows_of(core, from, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end; r++) {
            uint8_t tmp[8];
            engine_row_load_fp32(from, engine_row(core, from, slot_base, r), 0, 1,
                                 &core->regs->kept.vector_regs[from->partition + r], tmp);
        }
    return NULL;
}
