/* isa/access.h held to account by execution: random legal instructions change only bytes and state
 * that it calls written, and what they leave there depends only on what it calls read. Everything
 * else is poisoned, and the result compared. */
#include "isa/access.h"

#include "engine/engine.h"
#include "engine/tensor_kernels.h"
#include "isa/legal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the headers above.
#include <cmocka.h>

enum {
    N_PARTITIONS = 128,
    SBUF_BYTES = 36 << 10, /* of a partition: what legal.c uses */
    PSUM_BYTES = 16 << 10,
    N_SLOTS = 5,
    SLOT_BYTES = 128 << 10, /* likewise */
    HBM_BYTES = N_SLOTS * SLOT_BYTES,
    N_WEIGHTS = ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS * TENSOR_PANEL_STRIDE,
    N_OF_EACH = 3,     /* instructions of an opcode and generation */
    MAX_PROGRAMS = 20, /* of a generation, until so many have run */
};

/* The memories as one array of bytes. */
enum {
    SBUF_AT = 0,
    PSUM_AT = SBUF_AT + N_PARTITIONS * SBUF_BYTES,
    HBM_AT = PSUM_AT + N_PARTITIONS * PSUM_BYTES,
    N_BYTES = HBM_AT + HBM_BYTES,
    CHUNK_BYTES = 4 << 10, /* compared at once */
    N_CHUNKS = N_BYTES / CHUNK_BYTES,
};
_Static_assert(N_BYTES % CHUNK_BYTES == 0, "whole chunks");

/* What an instruction may depend on and may change. */
typedef struct machine {
    _Alignas(64) uint8_t bytes[N_BYTES];
    float weights[N_WEIGHTS];
    float reduce_regs[N_PARTITIONS], vector_regs[N_PARTITIONS];
    engine_generator generators[VTRN_ENGINE_COUNT][N_PARTITIONS];
} machine;

static machine start, poison, mixed, end[2];

/* A set of bytes, and which chunks have any. */
typedef struct byte_set {
    bool has[N_BYTES], has_any[N_CHUNKS];
} byte_set;

static byte_set reads, writes;
static engine_core core;
static const uint64_t slot_base[N_SLOTS] = {0, SLOT_BYTES, 2 * SLOT_BYTES, 3 * SLOT_BYTES,
                                            4 * SLOT_BYTES};
/* By opcode and operand: whether poisoning it alone has changed a result. */
static bool is_needed[VTRN_OP_COUNT][VTRN_MAX_AP], is_claimed[VTRN_OP_COUNT][VTRN_MAX_AP];

static engine_generator random_generator(legal_rng *r) {
    engine_generator g = {.state = 1 + (uint64_t)legal_random(r, UINT32_MAX) * 7919};
    for (int i = 0; i < 24; i++)
        g.xorwow[i / 6][i % 6] = legal_random(r, UINT32_MAX);
    return g;
}

static void fill(legal_rng *r, machine *m) {
    for (size_t i = 0; i < N_BYTES; i += 4) {
        uint32_t bits = legal_random(r, UINT32_MAX);
        memcpy(m->bytes + i, &bits, 4);
    }
    for (int i = 0; i < N_WEIGHTS; i++)
        m->weights[i] = (float)legal_random(r, 2000) / 1000 - 1;
    for (int p = 0; p < N_PARTITIONS; p++) {
        m->reduce_regs[p] = (float)legal_random(r, 2000) / 1000 - 1;
        m->vector_regs[p] = (float)legal_random(r, 2000) / 1000 - 1;
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            m->generators[e][p] = random_generator(r);
    }
}

/* Runs it on a copy of `from`. False when the engine refuses it. */
static bool execute(const vtrn_instr *instr, const machine *from, machine *to) {
    memcpy(to, from, sizeof *to);
    core.sbuf.base = to->bytes + SBUF_AT;
    core.sbuf.stride = SBUF_BYTES;
    core.psum.base = to->bytes + PSUM_AT;
    core.psum.stride = PSUM_BYTES;
    core.hbm = to->bytes + HBM_AT;
    engine_registers *regs = core.regs;
    memcpy(regs->pe_weights, to->weights, sizeof to->weights);
    for (int i = 0; i < ENGINE_PE_ROWS / TENSOR_BLOCK_ROWS; i++)
        regs->pe_ones[i].is_valid = false; /* the weights were not loaded */
    memcpy(regs->kept.reduce_regs, to->reduce_regs, sizeof to->reduce_regs);
    memcpy(regs->kept.vector_regs, to->vector_regs, sizeof to->vector_regs);
    memcpy(regs->kept.generator, to->generators, sizeof to->generators);
    regs->pe[0].n_rows = instr->ap[1].n_partitions; /* as a load before it would have left */
    regs->pe[0].n_cols = instr->ap[0].n_partitions;
    vtrn_status status = engine_table[instr->opcode](&core, instr, slot_base, 0);
    memcpy(to->weights, regs->pe_weights, sizeof to->weights);
    memcpy(to->reduce_regs, regs->kept.reduce_regs, sizeof to->reduce_regs);
    memcpy(to->vector_regs, regs->kept.vector_regs, sizeof to->vector_regs);
    memcpy(to->generators, regs->kept.generator, sizeof to->generators);
    vtrn_status_free(status);
    return !status;
}

static void clear(byte_set *set) {
    for (int c = 0; c < N_CHUNKS; c++)
        if (set->has_any[c])
            memset(set->has + (size_t)c * CHUNK_BYTES, false, CHUNK_BYTES);
    memset(set->has_any, false, sizeof set->has_any);
}

/* Element number i of a row that begins at byte `at`. */
static void mark_element(const vtrn_ap *ap, uint64_t i, int64_t at, byte_set *set) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    for (int d = ap->n_dims - 1; d >= 0; d--) {
        at += (int64_t)(i % ap->dim[d].num) * ap->dim[d].step * size;
        i /= ap->dim[d].num;
    }
    memset(set->has + at, true, (size_t)size);
    set->has_any[at / CHUNK_BYTES] = set->has_any[(at + size - 1) / CHUNK_BYTES] = true;
}

static void mark(const isa_access *a, byte_set *set) {
    const vtrn_ap *ap = a->ap;
    for (int64_t r = 0; r < a->n_rows; r++) {
        int64_t row_bytes = ap->space == VTRN_SPACE_PSUM ? PSUM_BYTES : SBUF_BYTES;
        int64_t begin = ap->space == VTRN_SPACE_PSUM ? PSUM_AT : SBUF_AT;
        int64_t at = begin + (ap->partition + r * ap->partition_step) * row_bytes;
        if (ap->space == VTRN_SPACE_HBM)
            at = HBM_AT + (int64_t)slot_base[ap->slot] +
                 r * ap->partition_step * (int64_t)dtype_size((vtrn_dtype)ap->dtype);
        for (uint64_t i = 0; i < isa_ap_free_size(ap); i++)
            mark_element(ap, i, at + ap->addr, set);
    }
}

/* Reads but that of operand `without`, and writes. */
static void mark_accesses(const vtrn_instr *instr, int without) {
    clear(&reads);
    clear(&writes);
    isa_access a;
    for (access_walk w = access_begin(instr, NULL, 0); access_next(&w, &a);) {
        if (a.is_read && a.ap_i != without)
            mark(&a, &reads);
        if (a.is_written)
            mark(&a, &writes);
    }
}

/* `start` where it is read, `poison` elsewhere. */
static void mix(const vtrn_instr *instr, access_states states) {
    memcpy(mixed.bytes, poison.bytes, N_BYTES);
    for (int c = 0; c < N_CHUNKS; c++)
        for (int i = c * CHUNK_BYTES; reads.has_any[c] && i < (c + 1) * CHUNK_BYTES; i++)
            if (reads.has[i])
                mixed.bytes[i] = start.bytes[i];
    const machine *weights = states.read & ACCESS_PE_WEIGHTS ? &start : &poison;
    const machine *regs = states.read & ACCESS_REDUCE_REGS ? &start : &poison;
    const machine *vector = states.read & ACCESS_VECTOR_REGS ? &start : &poison;
    memcpy(mixed.vector_regs, vector->vector_regs, sizeof mixed.vector_regs);
    const machine *generator = states.read & ACCESS_GENERATOR ? &start : &poison;
    memcpy(mixed.weights, weights->weights, sizeof mixed.weights);
    memcpy(mixed.reduce_regs, regs->reduce_regs, sizeof mixed.reduce_regs);
    memcpy(mixed.generators, poison.generators, sizeof mixed.generators);
    memcpy(mixed.generators[instr->engine], generator->generators[instr->engine],
           sizeof mixed.generators[0]);
}

static const char *name_of(const vtrn_instr *instr) {
    return isa_op_info((vtrn_opcode)instr->opcode)->mnemonic;
}

static void place_of(int i, char text[64]) {
    if (i >= HBM_AT)
        snprintf(text, 64, "HBM byte %d", i - HBM_AT);
    else if (i >= PSUM_AT)
        snprintf(text, 64, "PSUM partition %d byte %d", (i - PSUM_AT) / PSUM_BYTES,
                 (i - PSUM_AT) % PSUM_BYTES);
    else
        snprintf(text, 64, "SBUF partition %d byte %d", i / SBUF_BYTES, i % SBUF_BYTES);
}

/* The first byte that differs and is written, or is not; -1: none. */
static int find_difference(const machine *a, const machine *b, bool is_in_writes) {
    for (int c = 0; c < N_CHUNKS; c++) {
        const uint8_t *x = a->bytes + (size_t)c * CHUNK_BYTES;
        const uint8_t *y = b->bytes + (size_t)c * CHUNK_BYTES;
        if ((is_in_writes && !writes.has_any[c]) || !memcmp(x, y, CHUNK_BYTES))
            continue;
        for (int i = 0; i < CHUNK_BYTES; i++)
            if (x[i] != y[i] && writes.has[c * CHUNK_BYTES + i] == is_in_writes)
                return c * CHUNK_BYTES + i;
    }
    return -1;
}

static void assert_rest_is_untouched(const vtrn_instr *instr, const machine *before,
                                     const machine *after) {
    char place[64];
    int i = find_difference(before, after, false);
    if (i < 0)
        return;
    place_of(i, place);
    fail_msg("%s (flags 0x%x) changes %s, which it does not write", name_of(instr), instr->flags,
             place);
}

static void assert_results_are_equal(const vtrn_instr *instr) {
    char place[64];
    int i = find_difference(&end[0], &end[1], true);
    if (i < 0)
        return;
    place_of(i, place);
    fail_msg("%s (flags 0x%x): %s depends on more than it reads, or is not written whole",
             name_of(instr), instr->flags, place);
}

/* State that is not written is as it was; what is written depends on nothing that is not read. */
static void assert_states_hold(const vtrn_instr *instr, access_states states) {
    const machine *before[] = {&start, &mixed};
    for (int run = 0; run < 2; run++) {
        const machine *was = before[run], *is = &end[run];
        if (!(states.written & ACCESS_PE_WEIGHTS))
            assert_memory_equal(was->weights, is->weights, sizeof was->weights);
        if (!(states.written & ACCESS_REDUCE_REGS))
            assert_memory_equal(was->reduce_regs, is->reduce_regs, sizeof was->reduce_regs);
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            if (e != instr->engine || !(states.written & ACCESS_GENERATOR))
                assert_memory_equal(was->generators[e], is->generators[e],
                                    sizeof was->generators[e]);
    }
    if (states.written & ACCESS_REDUCE_REGS)
        assert_memory_equal(end[0].reduce_regs, end[1].reduce_regs, sizeof end[0].reduce_regs);
    if (states.written & ACCESS_VECTOR_REGS)
        assert_memory_equal(end[0].vector_regs, end[1].vector_regs, sizeof end[0].vector_regs);
    if (states.written & ACCESS_GENERATOR)
        assert_memory_equal(end[0].generators[instr->engine], end[1].generators[instr->engine],
                            sizeof end[0].generators[0]);
    if (instr->opcode != VTRN_OP_LDWEIGHTS)
        return;
    for (int m = 0; m < (int)isa_ap_free_size(&instr->ap[1]); m++)
        for (int k = 0; k < instr->ap[1].n_partitions; k++) {
            size_t at = (size_t)(m / TENSOR_BLOCK_ROWS) * TENSOR_PANEL_STRIDE +
                        (size_t)(k * TENSOR_BLOCK_ROWS + m % TENSOR_BLOCK_ROWS);
            assert_memory_equal(&end[0].weights[at], &end[1].weights[at], sizeof(float));
        }
}

static bool is_result_equal(const vtrn_instr *instr) {
    return find_difference(&end[0], &end[1], true) < 0 &&
           !memcmp(end[0].reduce_regs, end[1].reduce_regs, sizeof end[0].reduce_regs) &&
           !memcmp(end[0].vector_regs, end[1].vector_regs, sizeof end[0].vector_regs) &&
           (!(access_states_of(instr).written & ACCESS_GENERATOR) ||
            !memcmp(end[0].generators[instr->engine], end[1].generators[instr->engine],
                    sizeof end[0].generators[0])) &&
           (instr->opcode != VTRN_OP_LDWEIGHTS ||
            !memcmp(end[0].weights, end[1].weights, sizeof end[0].weights));
}

/* Whether each operand that is called read is: poisoned by itself, it changes something. */
static void try_without(const vtrn_instr *instr, access_states states) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!access_is_read(instr, i) || is_needed[instr->opcode][i])
            continue;
        is_claimed[instr->opcode][i] = true;
        mark_accesses(instr, i);
        mix(instr, states);
        /* all the rest is known not to matter, so that only this operand can be the reason */
        is_needed[instr->opcode][i] = !execute(instr, &mixed, &end[1]) || !is_result_equal(instr);
    }
}

/* Indices of a gather that are elements of its data; they differ between machines. */
static void make_indices_legal(const vtrn_instr *instr, machine *m, uint32_t seed) {
    const vtrn_ap *index = &instr->ap[2];
    uint32_t n = (uint32_t)isa_ap_free_size(&instr->ap[1]);
    uint32_t run = instr->opcode == VTRN_OP_LOCAL_GATHER ? (uint32_t)instr->arg[0] : 1;
    size_t size = dtype_size((vtrn_dtype)index->dtype);
    for (int p = 0; p < index->n_partitions; p++)
        for (uint64_t i = 0; i < isa_ap_free_size(index); i++) {
            int64_t at = 0;
            uint64_t rest = i;
            for (int d = index->n_dims - 1; d >= 0; d--) {
                at += (int64_t)(rest % index->dim[d].num) * index->dim[d].step;
                rest /= index->dim[d].num;
            }
            seed = seed * 1664525 + 1013904223;
            uint32_t value = (seed >> 8) % (n - run + 1);
            memcpy(m->bytes + (size_t)(index->partition + p) * SBUF_BYTES + index->addr +
                       at * (int64_t)size,
                   &value, size);
        }
}

/* False when the engine refuses the instruction. */
static bool try_instr(const vtrn_instr *instr) {
    if (instr->opcode == VTRN_OP_N_GATHER || instr->opcode == VTRN_OP_LOCAL_GATHER) {
        make_indices_legal(instr, &start, 1);
        make_indices_legal(instr, &poison, 2);
    }
    access_states states = access_states_of(instr);
    mark_accesses(instr, -1);
    mix(instr, states);
    if (!execute(instr, &start, &end[0]))
        return false;
    assert_true(execute(instr, &mixed, &end[1]));
    assert_rest_is_untouched(instr, &start, &end[0]);
    assert_rest_is_untouched(instr, &mixed, &end[1]);
    assert_results_are_equal(instr);
    assert_states_hold(instr, states);
    try_without(instr, states);
    return true;
}

static int n_tried[VTRN_OP_COUNT];

/* Of programs of a generation, until each opcode has run n times in all. */
static void try_generation(legal_rng *r, int gen, int n) {
    vtrn_chip chip = legal_chip(gen);
    team *alone;
    assert_null(team_create(1, &alone));
    assert_null(engine_core_create(&chip, NULL, 0, alone, &core));
    bool is_done = false;
    for (int k = 0; k < MAX_PROGRAMS && !is_done; k++) {
        vtrn_program *p = legal_program(r, gen);
        for (uint32_t i = 0; i < p->n_instrs; i++)
            if (n_tried[p->instrs[i].opcode] < n)
                n_tried[p->instrs[i].opcode] += try_instr(&p->instrs[i]);
        program_destroy(p);
        is_done = true;
        for (int op = 0; op < VTRN_OP_COUNT; op++)
            is_done &= n_tried[op] >= n || op == VTRN_OP_CUSTOM_OP || op == VTRN_OP_COLLECTIVE;
    }
    engine_core_destroy(&core);
    team_destroy(alone);
}

static void instructions_touch_what_they_are_said_to(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    fill(&r, &start);
    fill(&r, &poison);
    for (int gen = 2; gen <= 4; gen++)
        try_generation(&r, gen, N_OF_EACH * (gen - 1));
    for (int op = 0; op < VTRN_OP_COUNT; op++) {
        if (!n_tried[op] && op != VTRN_OP_CUSTOM_OP && /* the run's callback does that */
            op != VTRN_OP_COLLECTIVE)                  /* and the exchange this */
            fail_msg("%s never ran", isa_op_info((vtrn_opcode)op)->mnemonic);
        for (int i = 0; i < VTRN_MAX_AP; i++)
            if (is_claimed[op][i] && !is_needed[op][i])
                fail_msg("%s is said to read ap%d, on which nothing depends",
                         isa_op_info((vtrn_opcode)op)->mnemonic, i);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instructions_touch_what_they_are_said_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
