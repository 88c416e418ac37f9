/* The Scalar engine: out = func(in * scale + bias) in fp32, with an optional sum of each row.
 * Source: docs/hardware.md, "Scalar engine". */
#include "engine/act_kernels.h"
#include "engine/lanes.h"

#include <string.h>

enum { AP0 = 1, AP1 = 2, AP2 = 4, AP3 = 8 };

typedef struct activation {
    void (*fn)(const float *x, float scale, float bias, float slope, float *dst, size_t n);
    float slope;
    bool accumulates, resets;
    float lanes[ALU_LANES];
} activation;

static void activate_row_begin(lanes *l) {
    activation *a = l->extra;
    l->alu->reduce_begin[VTRN_ALU_ADD](a->lanes);
}

static void activate_row_end(lanes *l) {
    activation *a = l->extra;
    float *sum = &l->core->regs->kept.reduce_regs[l->partition];
    if (a->resets)
        *sum = 0.0f;
    if (a->accumulates)
        *sum += l->alu->reduce_end[VTRN_ALU_ADD](a->lanes);
}

static void activate_chunk(lanes *l, size_t n) {
    activation *a = l->extra;
    float *d = operand_room_fp32(&l->op[0], n, l->buf[0]);
    a->fn(operand_take_fp32(&l->op[1], n, l->buf[1]), l->s[2], l->s[3], a->slope, d, n);
    if (a->accumulates)
        l->alu->reduce_add[VTRN_ALU_ADD](a->lanes, d, n);
    operand_put_fp32(&l->op[0], n, d);
}

static void activate_row(lanes *l, float *const p[VTRN_MAX_AP], size_t n) {
    activation *a = l->extra;
    a->fn(p[1], l->s[2], l->s[3], a->slope, p[0], n);
}

static void activate_rows(lanes *l, const lanes_rows *b) {
    activation *a = l->extra;
    for (size_t r = 0; r < (size_t)b->n_rows; r++)
        a->fn(b->p[1] + r * b->step[1], b->p[2][r * b->step[2]], b->p[3][r * b->step[3]], a->slope,
              b->p[0] + r * b->step[0], b->n);
}

static void activate_sum_rows(lanes *l, const lanes_rows *b) {
    const activation *a = l->extra;
    float sum[ENGINE_MAX_PARTITIONS];
    const int partition = l->instr->ap[0].partition + b->first;
    activate_rows(l, b);
    l->alu->reduce_rows[VTRN_ALU_ADD](b->p[0], (size_t)b->n_rows, b->step[0], b->n, sum);
    for (int r = 0; r < b->n_rows; r++) {
        float *to = &l->core->regs->kept.reduce_regs[partition + r];
        *to = (a->resets ? 0.0f : *to) + sum[r];
    }
}

/* What a copy of a tile from PSUM is: no conversion is needed. A bias of -0 changes nothing; one of
 * 0 would make 0 of -0. */
static bool is_copy_of_bf16(const vtrn_instr *instr) {
    const float bias = instr->imm[1].f;
    return instr->func == VTRN_ACT_COPY &&
           !(instr->flags & (VTRN_FLAG_ACCUMULATE | VTRN_FLAG_RESET)) &&
           instr->ap[0].dtype == VTRN_DTYPE_BF16 && instr->ap[1].dtype == VTRN_DTYPE_BF16 &&
           instr->ap[2].space == VTRN_SPACE_NONE && instr->ap[3].space == VTRN_SPACE_NONE &&
           instr->imm[0].f == 1.0f && bias == 0 && signbit(bias);
}

static void copy_bf16_row(lanes *l, uint8_t *const p[VTRN_MAX_AP], size_t n) {
    (void)l;
    CPU_TABLE(act_kernel_table)->copy_bf16((const uint16_t *)p[1], (uint16_t *)p[0], n);
}

vtrn_status engine_op_ACTIVATE(engine_core *core, const vtrn_instr *instr,
                               const uint64_t *slot_base, int thread_i) {
    if (instr->func >= VTRN_ACT_COUNT)
        return VTRN_ERROR(VTRN_UNDEFINED, "activate: function number %u is none", instr->func);
    activation a = {.fn = CPU_TABLE(act_kernel_table)->act[instr->func],
                    .accumulates = instr->flags & VTRN_FLAG_ACCUMULATE,
                    .resets = instr->flags & VTRN_FLAG_RESET};
    bool has_sums = a.accumulates || a.resets;
    memcpy(&a.slope, &instr->arg[0], sizeof a.slope);
    lanes_spec spec = {.chunk = activate_chunk,
                       .streams = AP0 | AP1,
                       .scalars = AP2 | AP3,
                       .first_imm = 2,
                       .dense_row = has_sums ? NULL : activate_row,
                       .can_join_rows = !has_sums,
                       .rows = a.accumulates ? activate_sum_rows
                               : a.resets    ? NULL
                                             : activate_rows};
    if (is_copy_of_bf16(instr))
        spec.raw_row = copy_bf16_row;
    if (has_sums) {
        spec.whole_chunks = true; /* the order of the sum depends on positions only */
        spec.row_begin = activate_row_begin;
        spec.row_end = activate_row_end;
    }
    return lanes_run(core, instr, slot_base, thread_i, &spec, &a);
}

static void read_accumulator(lanes *l, size_t n) {
    operand_put_fp32(&l->op[0], n, &l->core->regs->kept.reduce_regs[l->partition]);
}

vtrn_status engine_op_ACT_READ_ACCUMULATOR(engine_core *core, const vtrn_instr *instr,
                                           const uint64_t *slot_base, int thread_i) {
    if (isa_ap_free_size(&instr->ap[0]) != 1)
        return operand_shape_error(instr, 0, "one sum a partition comes out");
    if (instr->ap[0].dtype == VTRN_DTYPE_FP32 && instr->ap[0].space != VTRN_SPACE_HBM) {
        float *sums = core->regs->kept.reduce_regs + instr->ap[0].partition;
        engine_rows rows = engine_rows_of(core, &instr->ap[0], thread_i);
        while (engine_rows_next(&rows))
            for (int r = rows.first; r < rows.end; r++)
                memcpy(engine_chip_row(core, &instr->ap[0], r), &sums[r], sizeof *sums);
        return NULL;
    }
    lanes_spec spec = {.chunk = read_accumulator, .streams = AP0};
    return lanes_run(core, instr, slot_base, thread_i, &spec, NULL);
}

/* Tables cost time, not values. */
vtrn_status engine_op_ACT_TABLE_LOAD(engine_core *core, const vtrn_instr *instr,
                                     const uint64_t *slot_base, int thread_i) {
    (void)core, (void)instr, (void)slot_base, (void)thread_i;
    return NULL;
}
