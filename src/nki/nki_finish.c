/* From what was issued to an executable: slots, addresses on the chip, semaphores. */
#include "compiler/build/finish.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

/* Where a tensor in HBM goes in the program. */
typedef struct finishing {
    nki_session *s;
    const nki_finish_options *options;
    builder build;
    uint32_t *slot_of; /* [n_records] */
    uint32_t n_outputs;
} finishing;

static bool is_output(const finishing *f, const nki_record *r, uint32_t *out_index) {
    for (uint32_t i = 0; i < f->options->n_outputs; i++)
        if (f->options->outputs[i] == &r->storage) {
            *out_index = i;
            return true;
        }
    return false;
}

/* An argument that is written is an output too, which takes its memory over: all instructions name
 * the output. */
static vtrn_status add_argument(finishing *f, const nki_record *r) {
    vtrn_dtype t = (vtrn_dtype)r->storage.dtype;
    int32_t index = f->s->slots[r->slot].index;
    uint32_t *slot = &f->slot_of[r->storage.id];
    VTRN_RETURN_IF_ERROR(
        build_slot_add(&f->build, VTRN_SLOT_ARGUMENT, t, r->storage.n_bytes, index, slot));
    uint32_t output_i = 0;
    bool is_returned = is_output(f, r, &output_i);
    if (!r->is_stored_to && !is_returned)
        return NULL;
    if (!is_returned)
        output_i = f->n_outputs++;
    f->build.program->output_alias[output_i] = index;
    return build_slot_add(&f->build, VTRN_SLOT_OUTPUT, t, r->storage.n_bytes, (int32_t)output_i,
                          slot);
}

static vtrn_status add_hbm(finishing *f, const nki_record *r) {
    vtrn_dtype t = (vtrn_dtype)r->storage.dtype;
    uint32_t *slot = &f->slot_of[r->storage.id], output_i = 0;
    if (r->kind == NKI_ARGUMENT)
        return add_argument(f, r);
    if (is_output(f, r, &output_i))
        return build_slot_add(&f->build, VTRN_SLOT_OUTPUT, t, r->storage.n_bytes, (int32_t)output_i,
                              slot);
    if (r->kind == NKI_CONSTANT)
        return build_constant_add(&f->build, t, r->memory->host, r->storage.n_bytes, slot);
    return build_slot_add(&f->build, VTRN_SLOT_SCRATCH, t, r->storage.n_bytes, 0, slot);
}

static vtrn_status add_slots(finishing *f) {
    nki_session *s = f->s;
    vtrn_program *p = f->build.program;
    f->n_outputs = f->options->n_outputs;
    f->slot_of = calloc(s->n_records + 1, sizeof *f->slot_of);
    p->output_alias = ARENA_NEW(&p->arena, int32_t, s->n_records + 1);
    if (!f->slot_of || !p->output_alias)
        return VTRN_OUT_OF_MEMORY(s->n_records * sizeof *f->slot_of);
    for (uint32_t i = 0; i < s->n_records + 1; i++)
        p->output_alias[i] = -1;
    for (uint32_t i = 0; i < s->n_records; i++)
        if (s->records[i]->storage.space == VTRN_SPACE_HBM)
            VTRN_RETURN_IF_ERROR(add_hbm(f, s->records[i]));
    p->n_arguments = s->n_arguments;
    p->n_outputs = f->n_outputs;
    return NULL;
}

static vtrn_status add_instrs(finishing *f) {
    nki_session *s = f->s;
    uint32_t block;
    VTRN_RETURN_IF_ERROR(build_block_begin(&f->build, &block));
    for (uint32_t i = 0; i < s->n_list; i++) {
        const nki_issued *from = &s->list[i];
        vtrn_instr *to = build_append(&f->build, from->instr.opcode, from->instr.engine);
        if (!to)
            return VTRN_OUT_OF_MEMORY(sizeof *to);
        *to = from->instr;
        for (int k = 0; k < VTRN_MAX_AP; k++) {
            const nki_record *r = from->operand[k];
            if (r && r->storage.space == VTRN_SPACE_HBM)
                to->ap[k].slot = f->slot_of[r->storage.id];
            if (!r || r->storage.space == VTRN_SPACE_HBM)
                continue;
            to->ap[k].addr += r->chip_addr;
            to->ap[k].partition = (uint16_t)(to->ap[k].partition + r->chip_partition);
        }
    }
    build_block_end(&f->build, block, VTRN_END_STOP, 0, 0, 0);
    return NULL;
}

static vtrn_status add_sources(finishing *f) {
    for (uint32_t i = 0; i < f->options->n_sources; i++)
        VTRN_RETURN_IF_ERROR(
            build_source_set(&f->build, f->options->sources[i].op, f->options->sources[i].place));
    VTRN_CHECK(f->build.n_sources == f->options->n_sources, "places are listed once");
    return NULL;
}

static vtrn_status stages(finishing *f) {
    vtrn_program *p = f->build.program;
    VTRN_RETURN_IF_ERROR(nki_place(f->s, f->options, &p->sbuf_peak_bytes, &p->psum_peak_bytes));
    VTRN_RETURN_IF_ERROR(add_sources(f));
    VTRN_RETURN_IF_ERROR(add_slots(f));
    VTRN_RETURN_IF_ERROR(add_instrs(f));
    build_count_flops(&f->build, f->s->flops);
    return build_finish(&f->build);
}

vtrn_status vtrn_nki_finish(nki_session *s, const nki_finish_options *options,
                            vtrn_executable **out) {
    *out = NULL;
    for (uint32_t i = 0; i < s->n_records; i++)
        if (s->records[i]->core)
            return VTRN_ERROR(VTRN_UNIMPLEMENTED,
                              "%s: its programs exchange data while they run, on two cores, and "
                              "their time is not simulated yet; call the kernel without a profile "
                              "for its values",
                              options->name);
    arena home = ARENA_EMPTY;
    vtrn_program *p = ARENA_NEW(&home, vtrn_program, 1);
    if (!p)
        return VTRN_OUT_OF_MEMORY(sizeof *p);
    p->arena = home;
    const vtrn_chip *chip = nki_chip(s);
    p->name = arena_strdup(&p->arena, options->name, strlen(options->name));
    p->chip = arena_strdup(&p->arena, chip->name, strlen(chip->name));
    p->gen = (uint8_t)chip->gen;
    finishing f = {.s = s, .options = options, .build = {.chip = chip, .program = p}};
    vtrn_status status = p->name && p->chip ? stages(&f) : VTRN_OUT_OF_MEMORY(64);
    build_free(&f.build);
    free(f.slot_of);
    if (status) {
        program_destroy(p);
        return status;
    }
    return api_program_adopt(s->machine->device, p, out);
}
