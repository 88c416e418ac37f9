/* Random numbers: a generator a partition and engine, so that the numbers do not depend on the
 * number of threads. The vendor documents neither polynomial nor seeding (docs/hardware.md, "Random
 * numbers"): ours is xorshift64 (Marsaglia 2003; 13, 7, 17), seeded through splitmix64. */
#include "engine/lanes.h"

enum { AP0 = 1, AP1 = 2, AP2 = 4 };

static uint32_t next_random(uint64_t *state) {
    uint64_t s = *state;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    *state = s;
    return (uint32_t)(s >> 32);
}

static uint64_t splitmix64(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void rng_chunk(lanes *l, size_t n) {
    uint64_t *state = &l->core->regs->kept.rng_state[l->instr->engine][l->partition];
    uint32_t *x = (uint32_t *)l->buf[0];
    for (size_t i = 0; i < n; i++)
        x[i] = next_random(state);
    operand_put_bits(&l->op[0], n, x);
}

vtrn_status engine_op_RNG(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                          int thread_i) {
    lanes_spec spec = {.chunk = rng_chunk, .streams = AP0};
    return lanes_run(core, instr, slot_base, thread_i, &spec, NULL);
}

/* Each thread seeds the generators of its own partitions. */
vtrn_status engine_op_SET_RNG_SEED(engine_core *core, const vtrn_instr *instr,
                                   const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *s = &instr->ap[1];
    if (s->n_partitions != 1 || isa_ap_free_size(s) != 1 || dtype_size(s->dtype) != 4)
        return operand_shape_error(instr, 1, "the seed is one 32-bit element");
    uint32_t seed;
    engine_row_gather(s, engine_row(core, s, slot_base, 0), 0, 1, &seed);
    for (int p = 0; p < ENGINE_MAX_PARTITIONS; p++) {
        if (engine_owner(core, p) != thread_i)
            continue;
        uint64_t state = splitmix64((uint64_t)seed << 32 | (uint64_t)p);
        core->regs->kept.rng_state[instr->engine][p] = state ? state : 1;
    }
    return NULL;
}

static void dropout_chunk(lanes *l, size_t n) {
    uint64_t *state = &l->core->regs->kept.rng_state[l->instr->engine][l->partition];
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    for (size_t i = 0; i < n; i++) {
        float uniform = (float)(next_random(state) >> 8) * 0x1p-24f;
        l->buf[0][i] = uniform < l->s[2] ? 0.0f : x[i];
    }
    operand_put_fp32(&l->op[0], n, l->buf[0]);
}

vtrn_status engine_op_DROPOUT(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                              int thread_i) {
    lanes_spec spec = {
        .chunk = dropout_chunk, .streams = AP0 | AP1, .scalars = AP2, .first_imm = 2};
    return lanes_run(core, instr, slot_base, thread_i, &spec, NULL);
}
