/* From what was issued to an executable: slots, addresses on the chip, semaphores. */
#include "compiler/build/finish.h"
#include "isa/container.h"
#include "nki/nki_session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where a tensor in HBM goes in the program. */
typedef struct finishing {
    nki_session *s;
    const nki_finish_options *options;
    builder build;
    uint32_t *slot_of; /* [n_records] */
    uint32_t n_outputs;
    int core;   /* whose instructions are taken; -1: all */
    bool fills; /* tiles of which elements are read that nothing has written */
    bool is_rank;
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
    if (!r->n_writes && !is_returned)
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
        return build_constant_add(&f->build, t, r->host, r->storage.n_bytes, slot);
    if (f->core >= 0 && !r->is_spill) /* the other core may read it */
        return build_slot_add(&f->build, VTRN_SLOT_OUTPUT, t, r->storage.n_bytes,
                              (int32_t)f->n_outputs++, slot);
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

/* A tensor in HBM is filled from a row that a constant holds. */
static vtrn_status add_hbm_fill(finishing *f, const nki_record *r, uint32_t source) {
    enum { MAX_ROW_BYTES = 4096 };
    uint8_t row[MAX_ROW_BYTES] = {0};
    vtrn_dtype type = (vtrn_dtype)r->storage.dtype;
    const uint64_t size = dtype_size(type), n = r->storage.n_bytes / size;
    uint64_t n_columns = MAX_ROW_BYTES / size;
    while (n_columns > 1 && n % n_columns)
        n_columns--;
    if (n / n_columns > UINT16_MAX)
        return vtrn_status_annotate(
            VTRN_ERROR(VTRN_UNINITIALISED,
                       "%s reads elements of a tensor of %llu bytes in HBM that nothing has "
                       "written, which is no whole number of rows that a constant fills; write "
                       "them before",
                       f->options->name, (unsigned long long)r->storage.n_bytes),
            "%s, where it is first used",
            source < f->options->n_sources ? f->options->sources[source].place : "");
    const float nan = NAN;
    for (uint64_t k = 0; k < n_columns && f->s->fill != NKI_FILL_ZERO; k++) {
        if (dtype_is_float(type))
            dtype_store_fp32(type, &nan, row + k * size, 1);
        else
            row[k * size] = 4;
    }
    uint32_t constant;
    VTRN_RETURN_IF_ERROR(build_constant_add(&f->build, type, row, n_columns * size, &constant));
    vtrn_instr *fill = build_append(&f->build, VTRN_OP_DMA_COPY, VTRN_ENGINE_GPSIMD);
    if (!fill)
        return VTRN_OUT_OF_MEMORY(sizeof *fill);
    fill->source = source;
    fill->keeps_engine = 1;
    nki_choose_ring(f->s, fill);
    for (int k = 0; k < 2; k++) {
        fill->ap[k] = (vtrn_ap){.space = VTRN_SPACE_HBM,
                                .dtype = r->storage.dtype,
                                .n_dims = 1,
                                .n_partitions = (uint16_t)(n / n_columns),
                                .slot = k ? constant : f->slot_of[r->storage.id],
                                .partition_step = k ? 0 : (int64_t)n_columns};
        fill->ap[k].dim[0] = (vtrn_dim){1, (uint32_t)n_columns};
    }
    return NULL;
}

/* The tensor holds NaN, or 4 in integers, or zeros, wherever the kernel reads what nothing has
 * written. */
static vtrn_status add_fill(finishing *f, const nki_record *r, uint32_t source) {
    const nki_storage *t = &r->storage;
    const uint64_t element_bytes = dtype_size((vtrn_dtype)t->dtype);
    if (!element_bytes)
        return VTRN_ERROR(VTRN_INTERNAL, "%s has a tensor without a type", f->options->name);
    if (t->space == VTRN_SPACE_HBM)
        return add_hbm_fill(f, r, source);
    vtrn_instr *fill = build_append(&f->build, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR);
    if (!fill)
        return VTRN_OUT_OF_MEMORY(sizeof *fill);
    fill->source = source;
    bool is_zero = f->s->fill == NKI_FILL_ZERO;
    if (dtype_is_int((vtrn_dtype)t->dtype) && element_bytes == 4)
        fill->imm[0].bits = is_zero ? 0 : 4;
    else if (is_zero)
        fill->imm[0].f = 0.0f;
    else /* narrower integers are converted from fp32 */
        fill->imm[0].f = dtype_is_float((vtrn_dtype)t->dtype) ? NAN : 4.0f;
    fill->ap[0] = (vtrn_ap){.space = t->space,
                            .dtype = t->dtype,
                            .n_dims = 1,
                            .partition = (uint16_t)r->chip_partition,
                            .n_partitions = (uint16_t)t->n_partitions,
                            .addr = r->chip_addr,
                            .partition_step = 1};
    fill->ap[0].dim[0] = (vtrn_dim){1, (uint32_t)(t->row_bytes / element_bytes)};
    return NULL;
}

static vtrn_status add_fills(finishing *f, uint32_t i) {
    const nki_issued *issued = &f->s->list[i];
    for (int k = 0; k < VTRN_MAX_AP; k++) {
        const nki_record *r = issued->operand[k];
        bool is_known = false;
        for (int j = 0; j < k; j++)
            is_known |= issued->operand[j] == r;
        if (r && r->is_filled && r->first == i && !is_known)
            VTRN_RETURN_IF_ERROR(add_fill(f, r, issued->instr.source));
    }
    return NULL;
}

/* The queue of a copy for which the kernel names none, where descriptors are generated. As the
 * vendor's compiler has it in timelines of Trainium2 and in the profiles of its tutorial
 * (docs/hardware.md, "Dynamic DMA"): GpSimd makes the descriptors of what moves arguments and
 * results; of other tensors in HBM Scalar triggers the stores, and Sync the loads. */
static void choose_queue(finishing *f, vtrn_instr *copy) {
    bool is_outside = false;
    for (int k = 0; k < 2; k++) {
        const vtrn_ap *ap = &copy->ap[k];
        uint8_t kind = ap->space == VTRN_SPACE_HBM ? f->build.slots[ap->slot].slot.kind : 0;
        is_outside |=
            ap->space == VTRN_SPACE_HBM && (kind == VTRN_SLOT_ARGUMENT || kind == VTRN_SLOT_OUTPUT);
    }
    copy->engine = is_outside                            ? VTRN_ENGINE_GPSIMD
                   : copy->ap[0].space == VTRN_SPACE_HBM ? VTRN_ENGINE_SCALAR
                                                         : VTRN_ENGINE_SYNC;
    copy->keeps_engine = 1;
    nki_choose_ring(f->s, copy);
}

static vtrn_status add_instr(finishing *f, const nki_issued *from) {
    vtrn_instr *to = build_append(&f->build, from->instr.opcode, from->instr.engine);
    if (!to)
        return VTRN_OUT_OF_MEMORY(sizeof *to);
    *to = from->instr;
    if (to->source >= NKI_SPILL_SOURCE) /* behind the kernel's, see add_sources() */
        to->source = f->options->n_sources + (to->source - NKI_SPILL_SOURCE);
    for (int k = 0; k < VTRN_MAX_AP; k++) {
        const nki_record *r = from->operand[k];
        if (r && r->storage.space == VTRN_SPACE_HBM)
            to->ap[k].slot = f->slot_of[r->storage.id];
        if (!r || r->storage.space == VTRN_SPACE_HBM)
            continue;
        to->ap[k].addr += r->chip_addr;
        to->ap[k].partition = (uint16_t)(to->ap[k].partition + r->chip_partition);
    }
    if (to->opcode == VTRN_OP_DMA_COPY && !to->keeps_engine && f->build.chip->dma.uses_dge)
        choose_queue(f, to);
    return NULL;
}

/* Ends the block at hand, and begins one more: the next. */
static vtrn_status next_block(finishing *f) {
    uint32_t last = f->build.n_blocks - 1, next;
    build_block_end(&f->build, last, VTRN_END_JUMP, last + 1, 0, 0);
    return build_block_begin(&f->build, &next);
}

/* A block in which the core waits for the other. */
static vtrn_status add_meeting(finishing *f) {
    static const vtrn_collective meeting = {.kind = VTRN_COLLECTIVE_ALL_REDUCE};
    uint32_t custom_i;
    VTRN_RETURN_IF_ERROR(next_block(f));
    VTRN_RETURN_IF_ERROR(build_custom_add(
        &f->build, &(vtrn_custom){.name = "core_barrier", .collective = &meeting}, &custom_i));
    vtrn_instr *wait = build_append(&f->build, VTRN_OP_COLLECTIVE, VTRN_ENGINE_CC);
    if (!wait)
        return VTRN_OUT_OF_MEMORY(sizeof *wait);
    wait->arg[0] = (int32_t)custom_i;
    return next_block(f);
}

static bool waits_there(const finishing *f, const nki_meeting *meeting) {
    return f->core >= 0 && (meeting->core < 0 || meeting->core == f->core);
}

static vtrn_status add_instrs(finishing *f) {
    nki_session *s = f->s;
    uint32_t block, meet = 0;
    VTRN_RETURN_IF_ERROR(build_block_begin(&f->build, &block));
    for (uint32_t i = 0; i < s->n_list; i++) {
        for (; meet < s->n_meets && s->meets[meet].at == i; meet++)
            if (waits_there(f, &s->meets[meet]))
                VTRN_RETURN_IF_ERROR(add_meeting(f));
        if (f->core >= 0 && s->list[i].core != f->core)
            continue;
        if (f->is_rank && s->list[i].is_exchange)
            continue;
        if (f->fills)
            VTRN_RETURN_IF_ERROR(add_fills(f, i));
        VTRN_RETURN_IF_ERROR(add_instr(f, &s->list[i]));
    }
    for (; meet < s->n_meets; meet++)
        if (waits_there(f, &s->meets[meet]))
            VTRN_RETURN_IF_ERROR(add_meeting(f));
    build_block_end(&f->build, f->build.n_blocks - 1, VTRN_END_STOP, 0, 0, 0);
    return NULL;
}

static vtrn_status add_sources(finishing *f) {
    for (uint32_t i = 0; i < f->options->n_sources; i++)
        VTRN_RETURN_IF_ERROR(
            build_source_set(&f->build, f->options->sources[i].op, f->options->sources[i].place));
    for (uint32_t i = 0; i < f->s->n_spills; i++) {
        uint32_t source = f->s->spills[i].source;
        const char *place = source < f->options->n_sources ? f->options->sources[source].place : "";
        VTRN_RETURN_IF_ERROR(build_source_set(&f->build, "spill_save", place));
        VTRN_RETURN_IF_ERROR(build_source_set(&f->build, "spill_reload", place));
    }
    VTRN_CHECK(f->build.n_sources == f->options->n_sources + 2 * f->s->n_spills,
               "places are listed once");
    return NULL;
}

static vtrn_status make_list(finishing *f) {
    vtrn_program *p = f->build.program;
    VTRN_RETURN_IF_ERROR(nki_place(f->s, f->options, &p->sbuf_peak_bytes, &p->psum_peak_bytes));
    VTRN_RETURN_IF_ERROR(add_sources(f));
    VTRN_RETURN_IF_ERROR(add_slots(f));
    VTRN_RETURN_IF_ERROR(add_instrs(f));
    if (f->core <= 0)
        build_count_flops(&f->build, f->s->flops);
    return NULL;
}

static vtrn_status schedule(finishing *f) {
    VTRN_RETURN_IF_ERROR(make_list(f));
    return build_finish(&f->build);
}

static vtrn_status record_slots(finishing *f) {
    builder *b = &f->build;
    vtrn_program *p = b->program;
    p->slots = ARENA_NEW(&p->arena, vtrn_slot, b->n_slots);
    if (!p->slots)
        return VTRN_OUT_OF_MEMORY(b->n_slots * sizeof *p->slots);
    p->n_slots = b->n_slots;
    for (uint32_t i = 0; i < b->n_slots; i++) {
        vtrn_slot *slot = &p->slots[i];
        *slot = b->slots[i].slot;
        if (slot->kind != VTRN_SLOT_SCRATCH)
            continue;
        slot->offset = p->scratch_size;
        p->scratch_size = (p->scratch_size + slot->size_bytes + 63) & ~UINT64_C(63);
    }
    return NULL;
}

/* A block ends before an instruction of an engine that comes before the last one's. */
static vtrn_status record_blocks(finishing *f) {
    const builder *b = &f->build;
    vtrn_program *p = b->program;
    p->blocks = ARENA_NEW(&p->arena, vtrn_block, b->n_list + 1);
    if (!p->blocks)
        return VTRN_OUT_OF_MEMORY(b->n_list * sizeof *p->blocks);
    vtrn_block *block = p->blocks;
    for (uint32_t i = 0; i < b->n_list; i++) {
        uint8_t engine = b->list[i].engine;
        if (i && engine < b->list[i - 1].engine) {
            block->end = VTRN_END_JUMP;
            block->next[0] = (uint32_t)(block + 1 - p->blocks);
            block++;
        }
        if (!block->count[engine]++)
            block->first[engine] = i;
    }
    block->end = VTRN_END_STOP;
    p->blocks[0].flops = b->blocks[0].flops;
    p->n_blocks = (uint32_t)(block + 1 - p->blocks);
    return NULL;
}

/* The builder lends its tables to the program. */
static vtrn_status record(finishing *f, void **out, size_t *out_size) {
    builder *b = &f->build;
    vtrn_program *p = b->program;
    VTRN_RETURN_IF_ERROR(make_list(f));
    VTRN_RETURN_IF_ERROR(record_slots(f));
    VTRN_RETURN_IF_ERROR(record_blocks(f));
    for (uint32_t i = 0; i < b->n_list; i++)
        b->list[i].keeps_engine = 0;
    p->instrs = b->list;
    p->n_instrs = b->n_list;
    p->sources = b->sources;
    p->n_sources = b->n_sources;
    p->data = b->data;
    p->data_size = b->n_data;
    return program_save(p, out, out_size);
}

/* An empty program of the session's chip, with room for the options' name. */
static vtrn_status begin(const nki_session *s, const nki_finish_options *options,
                         vtrn_program **out) {
    arena home = ARENA_EMPTY;
    vtrn_program *p = ARENA_NEW(&home, vtrn_program, 1);
    if (!p)
        return VTRN_OUT_OF_MEMORY(sizeof *p);
    p->arena = home;
    const vtrn_chip *chip = nki_chip(s);
    p->name = arena_strdup(&p->arena, options->name, strlen(options->name));
    p->chip = arena_strdup(&p->arena, chip->name, strlen(chip->name));
    p->gen = (uint8_t)chip->gen;
    *out = p;
    if (p->name && p->chip)
        return NULL;
    program_destroy(p);
    return VTRN_OUT_OF_MEMORY(strlen(options->name));
}

static vtrn_status refuse_two_cores(const nki_session *s, const nki_finish_options *options) {
    for (uint32_t i = 0; i < s->n_records; i++)
        if (s->records[i]->core)
            return VTRN_ERROR(VTRN_UNSUPPORTED,
                              "%s: its programs exchange data while they run, on two cores, and "
                              "this is a program of one; launch it outside of a jitted function, "
                              "or with one program",
                              options->name);
    return NULL;
}

static void end(finishing *f) {
    build_free(&f->build);
    free(f->slot_of);
}

/* The scheduled program of a core, or of the one that there is (-1). */
static vtrn_status finish(nki_session *s, const nki_finish_options *options, int core, bool is_rank,
                          vtrn_program **out) {
    VTRN_RETURN_IF_ERROR(begin(s, options, out));
    finishing f = {.s = s,
                   .options = options,
                   .core = core,
                   .is_rank = is_rank,
                   .fills = core < 0, /* the two cores of a launch compute no values here */
                   .build = {.chip = nki_chip(s), .program = *out, .is_plain = true}};
    vtrn_status status = schedule(&f);
    end(&f);
    if (status)
        program_destroy(*out);
    return status;
}

vtrn_status nki_core_program(nki_session *s, const nki_finish_options *options, int core,
                             bool is_rank, vtrn_program **out) {
    return finish(s, options, core, is_rank, out);
}

vtrn_status vtrn_nki_finish(nki_session *s, const nki_finish_options *options,
                            vtrn_executable **out) {
    *out = NULL;
    vtrn_program *p;
    VTRN_RETURN_IF_ERROR(refuse_two_cores(s, options));
    VTRN_RETURN_IF_ERROR(finish(s, options, -1, false, &p));
    return api_program_adopt(s->machine->device, p, out);
}

vtrn_status vtrn_nki_record(nki_session *s, const nki_finish_options *options, void **out,
                            size_t *out_size) {
    *out = NULL;
    vtrn_program *p;
    VTRN_RETURN_IF_ERROR(refuse_two_cores(s, options));
    VTRN_RETURN_IF_ERROR(begin(s, options, &p));
    finishing f = {.s = s,
                   .options = options,
                   .core = -1,
                   .fills = true,
                   .build = {.chip = nki_chip(s), .program = p}};
    vtrn_status status = record(&f, out, out_size);
    program_destroy(p);
    end(&f);
    return status;
}
