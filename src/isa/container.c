/* Saves and loads programs as containers; the layout is drawn in container.h. */
#include "isa/container.h"

#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

enum {
    VERSION = 3,
    HEADER_BYTES = 24,
    TABLE_ROW_BYTES = 24,
    SIZE_AT = 8,
    CHECKSUM_AT = 16,
};

typedef enum section_kind {
    SECTION_PROGRAM,
    SECTION_SLOTS,
    SECTION_SOURCES,
    SECTION_CUSTOMS,
    SECTION_BLOCKS,
    SECTION_INSTRS,
    SECTION_DATA,
    SECTION_COUNT
} section_kind;

static const char *const section_names[] = {"program", "slots",        "sources",  "customs",
                                            "blocks",  "instructions", "constants"};

/* Each step maps the state one to one, so that no single changed word goes unseen. */
static uint64_t checksum(const uint8_t *bytes, size_t size) {
    uint64_t h = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = 0;
        for (size_t k = 0; k < 8 && i + k < size; k++)
            if (i != CHECKSUM_AT)
                word |= (uint64_t)bytes[i + k] << (8 * k);
        h = (h ^ word) * 0x2545f4914f6cdd1dull;
        h ^= h >> 29;
    }
    return h ^ size;
}

typedef struct writer {
    uint8_t *bytes;
    size_t n, cap;
    bool is_short; /* of memory */
} writer;

static void put(writer *w, const void *bytes, size_t n) {
    if (w->is_short || n == 0)
        return;
    if (n > w->cap - w->n) {
        size_t want = (w->n + n) * 2;
        uint8_t *grown = realloc(w->bytes, want);
        if (!grown) {
            w->is_short = true;
            return;
        }
        w->bytes = grown;
        w->cap = want;
    }
    memcpy(w->bytes + w->n, bytes, n);
    w->n += n;
}

static void put_number(writer *w, uint64_t value, int n_bytes) {
    uint8_t bytes[8];
    for (int i = 0; i < n_bytes; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    put(w, bytes, (size_t)n_bytes);
}

static void u8(writer *w, uint64_t v) {
    put_number(w, v, 1);
}
static void u16(writer *w, uint64_t v) {
    put_number(w, v, 2);
}
static void u32(writer *w, uint64_t v) {
    put_number(w, v, 4);
}
static void u64(writer *w, uint64_t v) {
    put_number(w, v, 8);
}

static void string(writer *w, const char *text) {
    size_t n = text ? strlen(text) : 0;
    u32(w, n);
    put(w, text, n);
}

static void poke(writer *w, size_t at, uint64_t value, int n_bytes) {
    for (int i = 0; i < n_bytes && !w->is_short; i++)
        w->bytes[at + (size_t)i] = (uint8_t)(value >> (8 * i));
}

static void save_program(writer *w, const vtrn_program *p) {
    string(w, p->name);
    string(w, p->chip);
    u8(w, p->gen);
    u64(w, p->scratch_size);
    u64(w, p->sbuf_peak_bytes);
    u64(w, p->psum_peak_bytes);
    u32(w, p->n_replicas);
    u32(w, p->n_partitions);
    u32(w, p->n_arguments);
    u32(w, p->n_outputs);
    for (uint32_t i = 0; i < p->n_outputs; i++)
        u32(w, p->output_alias ? (uint32_t)p->output_alias[i] : UINT32_MAX);
}

enum { SLOT_STAYS = 0x80 /* of the byte of a slot's kind */ };

static void save_slot(writer *w, const vtrn_slot *s) {
    bool has_index = program_slot_has_index(s);
    u8(w, (uint8_t)(s->kind | (s->stays ? SLOT_STAYS : 0)));
    u8(w, s->dtype);
    u32(w, has_index ? (uint32_t)s->index : 0);
    u64(w, s->size_bytes);
    u64(w, has_index ? 0 : s->offset);
}

static void save_collective(writer *w, const vtrn_collective *c, uint32_t n_operands) {
    u8(w, c->kind);
    u8(w, c->reducer);
    u32(w, c->n_groups);
    u32(w, c->group_size);
    for (size_t i = 0; i < (size_t)c->n_groups * c->group_size; i++)
        u32(w, (uint32_t)c->groups[i]);
    for (uint32_t i = 0; i < n_operands; i++) {
        const vtrn_exchange *x = &c->exchanges[i];
        const uint64_t fields[] = {x->n[0],       x->n[1],         x->run,
                                   x->from_place, x->from_step[0], x->from_step[1],
                                   x->to_place,   x->to_step[0],   x->to_step[1]};
        u8(w, x->dtype);
        for (size_t f = 0; f < sizeof fields / sizeof *fields; f++)
            u64(w, fields[f]);
    }
}

static void save_custom(writer *w, const vtrn_custom *c) {
    string(w, c->name);
    u32(w, c->n_inputs);
    u32(w, c->n_outputs);
    for (uint32_t i = 0; i < c->n_inputs + c->n_outputs; i++)
        u32(w, c->slots[i]);
    u64(w, c->flops);
    u64(w, c->blob_size);
    put(w, c->blob, c->blob_size);
    u8(w, c->collective != NULL);
    if (c->collective)
        save_collective(w, c->collective, c->n_inputs);
}

static void save_block(writer *w, const vtrn_block *b) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        u32(w, b->count[e]);
    u64(w, b->flops);
    u8(w, b->end);
    bool is_conditional = b->end == VTRN_END_BRANCH || b->end == VTRN_END_SWITCH;
    if (is_conditional) {
        u32(w, b->cond_slot);
        u64(w, (uint64_t)b->cond_addr);
    }
    if (b->end == VTRN_END_JUMP || b->end == VTRN_END_BRANCH)
        u32(w, b->next[0]);
    if (b->end == VTRN_END_BRANCH)
        u32(w, b->next[1]);
    if (b->end != VTRN_END_SWITCH)
        return;
    u32(w, b->n_targets);
    for (uint32_t i = 0; i < b->n_targets; i++)
        u32(w, b->targets[i]);
}

static void save_ap(writer *w, const vtrn_ap *ap) {
    u8(w, ap->space);
    u8(w, ap->n_dims);
    for (int d = 0; d < ap->n_dims; d++) {
        u32(w, (uint32_t)ap->dim[d].step);
        u32(w, ap->dim[d].num);
    }
    if (ap->space == VTRN_SPACE_NONE)
        return;
    u8(w, ap->dtype);
    u16(w, ap->n_partitions);
    u64(w, (uint64_t)ap->addr);
    u64(w, (uint64_t)ap->partition_step);
    if (ap->space == VTRN_SPACE_HBM)
        u32(w, ap->slot);
    else
        u16(w, ap->partition);
}

static bool is_present(const vtrn_instr *instr, int i) {
    return instr->ap[i].space != VTRN_SPACE_NONE ||
           (isa_op_info(instr->opcode)->roles[i] == 'p' && instr->ap[i].n_dims);
}

static void save_instr(writer *w, const vtrn_instr *instr) {
    u16(w, instr->opcode);
    u8(w, instr->queue);
    u8(w, instr->op0);
    u8(w, instr->op1);
    u8(w, instr->func);
    u32(w, instr->flags);
    u16(w, instr->update_semaphore);
    if (instr->update_semaphore != VTRN_NO_SEMAPHORE)
        u16(w, instr->update_value);
    u8(w, instr->n_waits);
    for (int i = 0; i < instr->n_waits; i++) {
        u16(w, instr->wait[i].semaphore);
        u32(w, instr->wait[i].value);
    }
    for (int i = 0; i < 2; i++) {
        u32(w, instr->imm[i].bits);
        u32(w, (uint32_t)instr->arg[i]);
    }
    u32(w, instr->source);
    unsigned mask = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        mask |= (unsigned)is_present(instr, i) << i;
    u8(w, mask);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (mask >> i & 1)
            save_ap(w, &instr->ap[i]);
    if (instr->opcode == VTRN_OP_STREAM_SHUFFLE)
        put(w, instr->shuffle, sizeof instr->shuffle);
}

static uint64_t save_section(writer *w, const vtrn_program *p, section_kind kind) {
    uint64_t n = 0;
    switch (kind) {
    case SECTION_PROGRAM:
        save_program(w, p);
        return 1;
    case SECTION_SLOTS:
        for (uint32_t i = 0; i < p->n_slots; i++)
            save_slot(w, &p->slots[i]);
        return p->n_slots;
    case SECTION_SOURCES:
        for (uint32_t i = 0; i < p->n_sources; i++) {
            string(w, p->sources[i].op);
            string(w, p->sources[i].place);
        }
        return p->n_sources;
    case SECTION_CUSTOMS:
        for (uint32_t i = 0; i < p->n_customs; i++)
            save_custom(w, &p->customs[i]);
        return p->n_customs;
    case SECTION_BLOCKS:
        for (uint32_t i = 0; i < p->n_blocks; i++)
            save_block(w, &p->blocks[i]);
        return p->n_blocks;
    case SECTION_INSTRS:
        for (uint32_t b = 0; b < p->n_blocks; b++)
            for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
                for (uint32_t i = 0; i < p->blocks[b].count[e]; i++, n++)
                    save_instr(w, &p->instrs[p->blocks[b].first[e] + i]);
        return n;
    default:
        put(w, p->data, p->data_size);
        return 1;
    }
}

vtrn_status program_save(const vtrn_program *p, void **out_bytes, size_t *out_size) {
    *out_bytes = NULL;
    *out_size = 0;
    VTRN_RETURN_IF_ERROR(program_validate_structure(p));
    writer w = {0};
    put(&w, "VTRN", 4);
    u16(&w, VERSION);
    u16(&w, SECTION_COUNT);
    u64(&w, 0); /* size and checksum are filled in at the end */
    u64(&w, 0);
    for (int i = 0; i < SECTION_COUNT * TABLE_ROW_BYTES / 8; i++)
        u64(&w, 0);
    for (int kind = 0; kind < SECTION_COUNT; kind++) {
        size_t row = HEADER_BYTES + (size_t)kind * TABLE_ROW_BYTES, begin = w.n;
        uint64_t items = save_section(&w, p, (section_kind)kind);
        poke(&w, row, (uint64_t)kind, 4);
        poke(&w, row + 4, items, 4);
        poke(&w, row + 8, begin, 8);
        poke(&w, row + 16, w.n - begin, 8);
    }
    poke(&w, SIZE_AT, w.n, 8);
    if (w.is_short) {
        free(w.bytes);
        return VTRN_OUT_OF_MEMORY(w.n);
    }
    poke(&w, CHECKSUM_AT, checksum(w.bytes, w.n), 8);
    *out_bytes = w.bytes;
    *out_size = w.n;
    return NULL;
}

/* A section under the reader. After the first fault everything reads as 0 and fault says why. */
typedef struct reader {
    const uint8_t *bytes;
    size_t at, end;
    uint32_t items;
    section_kind kind;
    const char *fault;
    bool is_short; /* of memory: no fault of the file */
    vtrn_program *program;
} reader;

static void fail(reader *r, const char *rule) {
    if (!r->fault)
        r->fault = rule;
}

static void fail_short(reader *r) {
    r->is_short |= !r->fault;
    fail(r, "host memory is short");
}

static uint64_t number(reader *r, size_t n_bytes) {
    if (r->fault || n_bytes > r->end - r->at) {
        fail(r, "the section ends inside an item");
        return 0;
    }
    uint64_t v = 0;
    for (size_t i = 0; i < n_bytes; i++)
        v |= (uint64_t)r->bytes[r->at + i] << (8 * i);
    r->at += n_bytes;
    return v;
}

/* A number below limit, else the rule that says so. */
static uint32_t below(reader *r, size_t n_bytes, uint32_t limit, const char *rule) {
    size_t at = r->at;
    uint64_t v = number(r, n_bytes);
    if (v < limit)
        return (uint32_t)v;
    if (!r->fault)
        r->at = at; /* the message names where it stands */
    fail(r, rule);
    return 0;
}

/* A count of things of at least item_bytes each: what is left of the section bounds it. */
static uint32_t count_of(reader *r, size_t item_bytes) {
    uint64_t n = number(r, 4);
    if (n > (r->end - r->at) / item_bytes) {
        fail(r, "a count exceeds the section");
        return 0;
    }
    return (uint32_t)n;
}

static void *alloc(reader *r, size_t n, size_t size) {
    void *p = arena_alloc(&r->program->arena, n, size);
    if (!p)
        fail_short(r);
    return p;
}

static const char *text(reader *r) {
    uint32_t n = count_of(r, 1);
    if (r->fault)
        return "";
    if (memchr(r->bytes + r->at, 0, n)) {
        fail(r, "a string contains a zero byte");
        return "";
    }
    const char *s = arena_strdup(&r->program->arena, (const char *)r->bytes + r->at, n);
    if (!s)
        fail_short(r);
    r->at += n;
    return s ? s : "";
}

static uint32_t *numbers(reader *r, uint64_t n) {
    if (n > (r->end - r->at) / 4)
        fail(r, "a count exceeds the section");
    uint32_t *out = r->fault ? NULL : alloc(r, n, sizeof *out);
    for (uint64_t i = 0; i < n && !r->fault; i++)
        out[i] = (uint32_t)number(r, 4);
    return out;
}

static void load_program(reader *r) {
    vtrn_program *p = r->program;
    p->name = text(r);
    p->chip = text(r);
    p->gen = (uint8_t)number(r, 1);
    p->scratch_size = number(r, 8);
    p->sbuf_peak_bytes = number(r, 8);
    p->psum_peak_bytes = number(r, 8);
    p->n_replicas = (uint32_t)number(r, 4);
    p->n_partitions = (uint32_t)number(r, 4);
    p->n_arguments = (uint32_t)number(r, 4);
    p->n_outputs = count_of(r, 4);
    p->output_alias = (int32_t *)numbers(r, p->n_outputs);
}

static void load_slot(reader *r, vtrn_slot *s) {
    size_t at = r->at;
    uint64_t kind = number(r, 1);
    s->stays = kind == (SLOT_STAYS | VTRN_SLOT_ARGUMENT);
    if (kind > VTRN_SLOT_RANK && !s->stays) {
        r->at = at; /* the message names where it stands */
        fail(r, "no such kind of slot");
    }
    s->kind = r->fault ? 0 : (uint8_t)(kind & (SLOT_STAYS - 1));
    s->dtype = (uint8_t)below(r, 1, VTRN_DTYPE_COUNT, "no such dtype");
    s->index = (int32_t)number(r, 4);
    s->size_bytes = number(r, 8);
    s->offset = number(r, 8);
}

static void load_source(reader *r, vtrn_source *s) {
    s->op = text(r);
    s->place = text(r);
}

static void load_exchange(reader *r, vtrn_exchange *x) {
    uint64_t *const fields[] = {&x->n[0],       &x->n[1],         &x->run,
                                &x->from_place, &x->from_step[0], &x->from_step[1],
                                &x->to_place,   &x->to_step[0],   &x->to_step[1]};
    x->dtype = (uint8_t)below(r, 1, VTRN_DTYPE_COUNT, "no such dtype");
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++)
        *fields[f] = number(r, 8);
}

static void load_collective(reader *r, vtrn_custom *custom) {
    enum { EXCHANGE_BYTES = 1 + 9 * 8 };
    vtrn_collective *c = alloc(r, 1, sizeof *c);
    if (!c)
        return;
    c->kind = (uint8_t)below(r, 1, VTRN_COLLECTIVE_KINDS, "no such collective");
    c->reducer = (uint8_t)below(r, 1, VTRN_REDUCERS, "no such reducer");
    c->n_groups = (uint32_t)number(r, 4);
    c->group_size = (uint32_t)number(r, 4);
    c->groups = (int32_t *)numbers(r, (uint64_t)c->n_groups * c->group_size);
    if (custom->n_inputs > (r->end - r->at) / EXCHANGE_BYTES)
        fail(r, "a count exceeds the section");
    vtrn_exchange *x = r->fault ? NULL : alloc(r, custom->n_inputs, sizeof *x);
    for (uint32_t i = 0; x && i < custom->n_inputs; i++)
        load_exchange(r, &x[i]);
    c->exchanges = x;
    custom->collective = c;
}

static void load_custom(reader *r, vtrn_custom *c) {
    c->name = text(r);
    c->n_inputs = (uint32_t)number(r, 4);
    c->n_outputs = (uint32_t)number(r, 4);
    c->slots = numbers(r, (uint64_t)c->n_inputs + c->n_outputs);
    c->flops = number(r, 8);
    c->blob_size = number(r, 8);
    if (c->blob_size > r->end - r->at)
        fail(r, "a blob exceeds the section");
    void *blob = r->fault ? NULL : alloc(r, c->blob_size, 1);
    if (!blob)
        return;
    memcpy(blob, r->bytes + r->at, c->blob_size);
    r->at += c->blob_size;
    c->blob = blob;
    if (below(r, 1, 2, "a flag is 0 or 1"))
        load_collective(r, c);
}

static void load_block(reader *r, vtrn_block *b, uint64_t *n_instrs) {
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        b->count[e] = (uint32_t)number(r, 4);
        b->first[e] = (uint32_t)*n_instrs;
        *n_instrs += b->count[e];
        if (*n_instrs > UINT32_MAX)
            fail(r, "streams hold more than 2^32-1 instructions");
    }
    b->flops = number(r, 8);
    b->end = (uint8_t)below(r, 1, VTRN_END_SWITCH + 1, "no such end of a block");
    if (b->end == VTRN_END_BRANCH || b->end == VTRN_END_SWITCH) {
        b->cond_slot = (uint32_t)number(r, 4);
        b->cond_addr = (int64_t)number(r, 8);
    }
    if (b->end == VTRN_END_JUMP || b->end == VTRN_END_BRANCH)
        b->next[0] = (uint32_t)number(r, 4);
    if (b->end == VTRN_END_BRANCH)
        b->next[1] = (uint32_t)number(r, 4);
    if (b->end != VTRN_END_SWITCH)
        return;
    b->n_targets = count_of(r, 4);
    b->targets = numbers(r, b->n_targets);
}

static void load_ap(reader *r, vtrn_ap *ap, char role) {
    ap->space = (uint8_t)below(r, 1, VTRN_SPACE_HBM + 1, "no such memory");
    ap->n_dims = (uint8_t)below(r, 1, VTRN_MAX_FREE_DIMS + 1, "more than 4 free dimensions");
    for (int d = 0; d < ap->n_dims; d++) {
        ap->dim[d].step = (int32_t)number(r, 4);
        ap->dim[d].num = (uint32_t)number(r, 4);
    }
    bool is_pattern = ap->space == VTRN_SPACE_NONE;
    if (role == '-' || is_pattern != (role == 'p') || (is_pattern && !ap->n_dims))
        fail(r, "an operand that the instruction does not take");
    if (is_pattern)
        return;
    ap->dtype = (uint8_t)below(r, 1, VTRN_DTYPE_COUNT, "no such dtype");
    ap->n_partitions = (uint16_t)number(r, 2);
    ap->addr = (int64_t)number(r, 8);
    ap->partition_step = (int64_t)number(r, 8);
    if (ap->space == VTRN_SPACE_HBM)
        ap->slot = (uint32_t)number(r, 4);
    else
        ap->partition = (uint16_t)number(r, 2);
}

static void load_instr(reader *r, vtrn_instr *instr) {
    instr->opcode = (uint16_t)below(r, 2, VTRN_OP_COUNT, "no such opcode");
    instr->queue = (uint8_t)number(r, 1);
    instr->op0 = (uint8_t)below(r, 1, VTRN_ALU_COUNT, "no such ALU operation");
    instr->op1 = (uint8_t)below(r, 1, VTRN_ALU_COUNT, "no such ALU operation");
    instr->func = (uint8_t)below(r, 1, VTRN_ACT_COUNT, "no such activation function");
    instr->flags = (uint32_t)number(r, 4);
    instr->update_semaphore = (uint16_t)number(r, 2);
    if (instr->update_semaphore != VTRN_NO_SEMAPHORE)
        instr->update_value = (uint16_t)number(r, 2);
    instr->n_waits = (uint8_t)below(r, 1, VTRN_MAX_WAITS + 1, "more than 2 waits");
    for (int i = 0; i < instr->n_waits; i++) {
        instr->wait[i].semaphore = (uint16_t)number(r, 2);
        instr->wait[i].value = (uint32_t)number(r, 4);
    }
    for (int i = 0; i < 2; i++) {
        instr->imm[i].bits = (uint32_t)number(r, 4);
        instr->arg[i] = (int32_t)number(r, 4);
    }
    instr->source = (uint32_t)number(r, 4);
    uint32_t mask = below(r, 1, 1 << VTRN_MAX_AP, "more than 4 operands");
    for (int i = 0; i < VTRN_MAX_AP && !r->fault; i++)
        if (mask >> i & 1)
            load_ap(r, &instr->ap[i], isa_op_info(instr->opcode)->roles[i]);
    if (instr->opcode == VTRN_OP_STREAM_SHUFFLE)
        for (int i = 0; i < 32; i++)
            instr->shuffle[i] = (uint8_t)number(r, 1);
}

/* The array of a section's items; at least item_bytes stand in the file for each. */
static void *items(reader *r, size_t item_bytes, size_t size, uint32_t *n) {
    if (r->items > (r->end - r->at) / item_bytes) {
        fail(r, "its items exceed the section");
        return NULL;
    }
    void *out = alloc(r, r->items, size);
    *n = out ? r->items : 0;
    return out;
}

static void load_instrs(reader *r) {
    vtrn_program *p = r->program;
    p->instrs = items(r, 34, sizeof *p->instrs, &p->n_instrs);
    for (uint32_t i = 0; i < p->n_instrs && !r->fault; i++)
        load_instr(r, &p->instrs[i]);
    uint64_t total = 0;
    for (uint32_t b = 0; b < p->n_blocks; b++)
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
            total += p->blocks[b].count[e];
            for (uint32_t i = 0; i < p->blocks[b].count[e] && total <= p->n_instrs; i++)
                p->instrs[p->blocks[b].first[e] + i].engine = (uint8_t)e;
        }
    if (total != p->n_instrs)
        fail(r, "the blocks' streams do not add up to the instructions");
}

static void load_blocks(reader *r) {
    vtrn_program *p = r->program;
    uint64_t n_instrs = 0;
    p->blocks = items(r, 33, sizeof *p->blocks, &p->n_blocks);
    for (uint32_t i = 0; i < p->n_blocks && !r->fault; i++)
        load_block(r, &p->blocks[i], &n_instrs);
}

static void load_section(reader *r) {
    vtrn_program *p = r->program;
    switch (r->kind) {
    case SECTION_PROGRAM:
        load_program(r);
        break;
    case SECTION_SLOTS:
        p->slots = items(r, 22, sizeof *p->slots, &p->n_slots);
        for (uint32_t i = 0; i < p->n_slots && !r->fault; i++)
            load_slot(r, &p->slots[i]);
        break;
    case SECTION_SOURCES:
        p->sources = items(r, 8, sizeof *p->sources, &p->n_sources);
        for (uint32_t i = 0; i < p->n_sources && !r->fault; i++)
            load_source(r, &p->sources[i]);
        break;
    case SECTION_CUSTOMS:
        p->customs = items(r, 29, sizeof *p->customs, &p->n_customs);
        for (uint32_t i = 0; i < p->n_customs && !r->fault; i++)
            load_custom(r, &p->customs[i]);
        break;
    case SECTION_BLOCKS:
        load_blocks(r);
        break;
    case SECTION_INSTRS:
        load_instrs(r);
        break;
    default: {
        uint8_t *data = alloc(r, r->end - r->at, 1);
        if (!data)
            return;
        memcpy(data, r->bytes + r->at, r->end - r->at);
        p->data = data;
        p->data_size = r->end - r->at;
        r->at = r->end;
    }
    }
    if (!r->fault && r->at != r->end)
        fail(r, "bytes are left over");
}

static uint64_t peek(const uint8_t *bytes, size_t at, int n_bytes) {
    uint64_t v = 0;
    for (int i = 0; i < n_bytes; i++)
        v |= (uint64_t)bytes[at + (size_t)i] << (8 * i);
    return v;
}

static vtrn_status check_header(const uint8_t *bytes, size_t size) {
    if (!program_is_container(bytes, size))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "program file: byte 0: it does not begin with \"VTRN\"");
    if (size < HEADER_BYTES + SECTION_COUNT * TABLE_ROW_BYTES)
        return VTRN_ERROR(
            VTRN_BAD_ARGUMENT,
            "program file: %zu bytes; the header alone has %d: it is truncated; write "
            "it again",
            size, HEADER_BYTES + SECTION_COUNT * TABLE_ROW_BYTES);
    if (peek(bytes, 4, 2) != VERSION || peek(bytes, 6, 2) != SECTION_COUNT)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "program file: byte 4: version %u with %u sections; this vtrn reads "
                          "version %d with %d",
                          (unsigned)peek(bytes, 4, 2), (unsigned)peek(bytes, 6, 2), VERSION,
                          SECTION_COUNT);
    if (peek(bytes, SIZE_AT, 8) != size)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "program file: byte %d: it should have %llu bytes and has %zu: truncated "
                          "or extended; write it again",
                          SIZE_AT, (unsigned long long)peek(bytes, SIZE_AT, 8), size);
    uint64_t want = peek(bytes, CHECKSUM_AT, 8), have = checksum(bytes, size);
    if (want != have)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "program file: byte %d: checksum %016llx, the bytes give %016llx: the "
                          "file is damaged; write it again",
                          CHECKSUM_AT, (unsigned long long)want, (unsigned long long)have);
    return NULL;
}

static vtrn_status load_sections(const uint8_t *bytes, size_t size, vtrn_program *p) {
    size_t at = HEADER_BYTES + SECTION_COUNT * TABLE_ROW_BYTES;
    for (int kind = 0; kind < SECTION_COUNT; kind++) {
        size_t row = HEADER_BYTES + (size_t)kind * TABLE_ROW_BYTES;
        uint64_t offset = peek(bytes, row + 8, 8), n = peek(bytes, row + 16, 8);
        if (peek(bytes, row, 4) != (uint64_t)kind || offset != at || n > size - at)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "program file: byte %zu: section %s: %llu bytes at %llu, expected at "
                              "%zu of %zu",
                              row, section_names[kind], (unsigned long long)n,
                              (unsigned long long)offset, at, size);
        reader r = {.bytes = bytes,
                    .at = at,
                    .end = at + n,
                    .items = (uint32_t)peek(bytes, row + 4, 4),
                    .kind = (section_kind)kind,
                    .program = p};
        load_section(&r);
        if (r.fault)
            return VTRN_ERROR(r.is_short ? VTRN_RESOURCE : VTRN_BAD_ARGUMENT,
                              "program file: byte %zu: section %s: %s", r.at, section_names[kind],
                              r.fault);
        at += n;
    }
    if (at != size)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "program file: byte %zu: %zu bytes after the last "
                          "section",
                          at, size - at);
    return NULL;
}

vtrn_status program_load(const void *bytes, size_t size, const vtrn_chip *chip,
                         vtrn_program **out) {
    *out = NULL;
    VTRN_RETURN_IF_ERROR(check_header(bytes, size));
    arena a = ARENA_EMPTY;
    vtrn_program *p = ARENA_NEW(&a, vtrn_program, 1);
    if (!p)
        return VTRN_OUT_OF_MEMORY(sizeof *p);
    p->arena = a;
    vtrn_status status = load_sections(bytes, size, p);
    if (!status)
        status = chip ? program_validate(p, chip) : program_validate_structure(p);
    if (status) {
        program_destroy(p);
        return status;
    }
    *out = p;
    return NULL;
}

bool program_is_container(const void *bytes, size_t size) {
    return size >= 4 && memcmp(bytes, "VTRN", 4) == 0;
}
