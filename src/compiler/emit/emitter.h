/* The state of emission beside the kernel at hand: the chip, the list of instructions, and how far
 * the kernel has used its memories. It has no graph and no open fusion. */
#ifndef VTRN_COMPILER_EMIT_EMITTER_H
#define VTRN_COMPILER_EMIT_EMITTER_H

#include "compiler/build/builder.h"
#include "compiler/plan/tile.h"

typedef struct emitter {
    const vtrn_chip *chip;
    builder *build; /* what instructions are appended to, and the tensors that they name */
    arena tmp;      /* dies with the emission */

    uint32_t sbuf_cursor; /* next byte of a partition that the kernel at hand has */
    int psum_first;       /* bank of the kernel at hand, and how many it has (psum.h) */
    int n_psum_taken;
    uint32_t psum_peak_banks;
    uint32_t load_ring, store_ring; /* of the next transfers */
    double vector_ns, scalar_ns;    /* work of the two engines in the first n_weighed of the list */
    uint32_t n_weighed;
    double kernel_vector_ns, kernel_scalar_ns; /* the same before the kernel at hand */
    uint8_t act_table;                         /* loaded activation table set; 0xff: unknown */
} emitter;

static inline vtrn_instr *emit_append(emitter *e, vtrn_opcode opcode, vtrn_engine engine) {
    return build_append(e->build, opcode, engine);
}

#define EMIT(var, e, opcode, engine)                                                               \
    vtrn_instr *var = emit_append((e), VTRN_OP_##opcode, VTRN_ENGINE_##engine);                    \
    if (!var)                                                                                      \
    return VTRN_OUT_OF_MEMORY(sizeof(vtrn_instr))

/* The next part of what placement gave to the kernel that is being emitted; psum_take hands out its
 * banks. Rounded to SBUF_ALIGN. */
uint32_t emit_sbuf_alloc(emitter *e, uint64_t n_bytes);

/* An ALU operation with its immediate. */
typedef struct step_op {
    vtrn_alu alu;
    union {
        float f;
        uint32_t bits;
    } operand;
} step_op;

/* STEP(MULTIPLY, 0.5f) for arithmetic, STEP_BITS(SHIFT_LEFT, 3) for raw bits and exact integers. */
#define STEP(op, x)      ((step_op){.alu = VTRN_ALU_##op, .operand = {.f = (x)}})
#define STEP_BITS(op, x) ((step_op){.alu = VTRN_ALU_##op, .operand = {.bits = (x)}})
#define STEP_NONE        ((step_op){.alu = VTRN_ALU_NONE})

/* dst = a op b */
vtrn_status emit_tensor_tensor(emitter *e, vtrn_engine engine, vtrn_alu op, const vtrn_ap *dst,
                               const vtrn_ap *a, const vtrn_ap *b);
/* dst = (a first) second */
vtrn_status emit_scalars(emitter *e, vtrn_engine engine, const vtrn_ap *dst, const vtrn_ap *a,
                         step_op first, step_op second);
/* dst = src, converted, on the Vector engine */
vtrn_status emit_copy(emitter *e, const vtrn_ap *dst, const vtrn_ap *src);
/* Of Vector and Scalar the one that has had less to do: for what both can do. */
vtrn_engine emit_lighter_engine(emitter *e);
/* Whether Scalar has had less to do than Vector in the kernel at hand: for what either can do, but
 * list scheduling does not move, for its values depend on the engine. */
bool emit_scalar_is_lighter(emitter *e);
/* build_alternate() */
vtrn_status emit_alternate(emitter *e, const uint32_t *begin, int n);
/* dst = src * factor, or * row (a column of fp32), converted, on the lighter engine: floats */
vtrn_status emit_scaled(emitter *e, const vtrn_ap *dst, const vtrn_ap *src, float factor,
                        const vtrn_ap *row);

#endif
