/* Random numbers: generators a partition and engine, so that the numbers do not depend on the
 * number of threads. The vendor documents neither polynomial nor seeding of Vector's generator
 * before NeuronCore-v4 (docs/hardware.md, "Random numbers"): ours is xorshift64 (Marsaglia 2003;
 * 13, 7, 17), seeded through splitmix64. GpSimd's, and Vector's from v4 on, are XORWOW (the same
 * paper). */
#include "engine/lanes.h"

#include <string.h>

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

void engine_seed_xorwow(engine_generator *generator, int engine, int partition, uint32_t seed) {
    uint64_t at = (uint64_t)seed << 32 | (uint64_t)engine << 16 | (uint64_t)partition << 8;
    for (uint64_t i = 0; i < 24; i++)
        generator->xorwow[i / 6][i % 6] = (uint32_t)splitmix64(at + i);
}

static uint32_t next_xorwow(uint32_t *s) {
    uint32_t t = s[0] ^ s[0] >> 2;
    memmove(s, s + 1, 4 * sizeof *s);
    s[4] = s[4] ^ s[4] << 4 ^ t ^ t << 1;
    s[5] += 362437;
    return s[4] + s[5];
}

/* Vector's four generators take turns, from the first element of a row on. */
static void random_bits(lanes *l, size_t n, uint32_t *out) {
    engine_generator *g = &l->core->regs->kept.generator[l->instr->engine][l->partition];
    bool is_gpsimd = l->instr->engine == VTRN_ENGINE_GPSIMD;
    if (!is_gpsimd && !l->instr->arg[0]) {
        for (size_t i = 0; i < n; i++)
            out[i] = next_random(&g->state);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = next_xorwow(g->xorwow[is_gpsimd ? 0 : (l->from + i) % 4]);
}

static void rng_chunk(lanes *l, size_t n) {
    uint32_t *x = (uint32_t *)l->buf[0];
    random_bits(l, n, x);
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
        engine_generator *g = &core->regs->kept.generator[instr->engine][p];
        uint64_t state = splitmix64((uint64_t)seed << 32 | (uint64_t)p);
        g->state = state ? state : 1;
        engine_seed_xorwow(g, instr->engine, p, seed);
    }
    return NULL;
}

static vtrn_status check_state_size(const vtrn_instr *instr, int i) {
    uint64_t n = instr->engine == VTRN_ENGINE_GPSIMD ? 6 : 24;
    if (isa_ap_free_size(&instr->ap[i]) != n || instr->ap[i].dtype != VTRN_DTYPE_UINT32)
        return operand_shape_error(instr, i, "a state is 6 words of uint32, of Vector 24");
    return NULL;
}

vtrn_status engine_op_RAND_SET_STATE(engine_core *core, const vtrn_instr *instr,
                                     const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *s = &instr->ap[1];
    VTRN_RETURN_IF_ERROR(check_state_size(instr, 1));
    engine_rows rows = engine_rows_of(core, s, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end; r++)
            engine_row_gather(s, engine_row(core, s, slot_base, r), 0, isa_ap_free_size(s),
                              core->regs->kept.generator[instr->engine][s->partition + r].xorwow);
    return NULL;
}

vtrn_status engine_op_RAND_GET_STATE(engine_core *core, const vtrn_instr *instr,
                                     const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *d = &instr->ap[0];
    VTRN_RETURN_IF_ERROR(check_state_size(instr, 0));
    engine_rows rows = engine_rows_of(core, d, thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end; r++)
            engine_row_scatter(d, engine_row(core, d, slot_base, r), 0, isa_ap_free_size(d),
                               core->regs->kept.generator[instr->engine][d->partition + r].xorwow);
    return NULL;
}

static void dropout_chunk(lanes *l, size_t n) {
    const float *x = operand_take_fp32(&l->op[1], n, l->buf[1]);
    uint32_t *bits = (uint32_t *)l->buf[2];
    random_bits(l, n, bits);
    for (size_t i = 0; i < n; i++) {
        float uniform = (float)(bits[i] >> 8) * 0x1p-24f;
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
