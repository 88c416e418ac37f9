/* Assembly text to program. One function a line kind; the language is in docs/assembly.md. */
#include "isa/asm.h"
#include "isa/asm_lex.h"
#include "isa/asm_names.h"
#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

/* Constants that the text leaves out are zeros: a size alone must not take the host's memory. */
enum { MAX_DATA_BYTES = 1 << 30 };

/* A list that grows; moved to the program's arena at the end. */
typedef struct list {
    void *items;
    uint32_t n, cap;
} list;

typedef struct assembler {
    lexer x;
    vtrn_program *program;
    list slots, sources, customs, blocks, outputs;
    list stream[VTRN_ENGINE_COUNT]; /* of the open block */
    list instrs;
    bool is_block_open, has_head;
    uint32_t n_exchanges; /* of the last collective */
    uint8_t *data;
} assembler;

static void *push(assembler *a, list *l, size_t size) {
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 16;
        void *grown = cap > l->cap ? realloc(l->items, cap * size) : NULL;
        if (!grown) {
            lex_no_memory(&a->x);
            return NULL;
        }
        l->items = grown;
        l->cap = cap;
    }
    return memset((char *)l->items + l->n++ * size, 0, size);
}

static void *keep(assembler *a, const list *l, size_t size) {
    void *copy = arena_alloc(&a->program->arena, l->n, size);
    if (!copy)
        lex_no_memory(&a->x);
    else if (l->n)
        memcpy(copy, l->items, l->n * size);
    return copy;
}

static const char *engine_name(int i) {
    return isa_engine_name((vtrn_engine)i);
}
static const char *op_name(int i) {
    return isa_op_info((vtrn_opcode)i)->mnemonic;
}
static const char *alu_name(int i) {
    return isa_alu_name((vtrn_alu)i);
}
static const char *act_name(int i) {
    return isa_act_name((vtrn_act)i);
}
static const char *type_name(int i) {
    return dtype_name((vtrn_dtype)i);
}
static const char *slot_kind_name(int i) {
    return asm_slot_kinds[i];
}

static uint8_t name(assembler *a, const char *what, const char *(*name_of)(int i), int n) {
    int i = lex_name(&a->x, what, name_of, n);
    return (uint8_t)(i < 0 ? 0 : i);
}

static void parse_dims(assembler *a, vtrn_ap *ap) {
    lexer *x = &a->x;
    if (!lex_accept(x, '('))
        return;
    while (!x->status && !lex_accept(x, ')')) {
        if (ap->n_dims == VTRN_MAX_FREE_DIMS) {
            lex_error(x, x->at, "more than %d free dimensions", VTRN_MAX_FREE_DIMS);
            return;
        }
        vtrn_dim *d = &ap->dim[ap->n_dims++];
        d->step = (int32_t)lex_signed(x, "the step", INT32_MIN, INT32_MAX);
        lex_expect(x, ':');
        d->num = (uint32_t)lex_unsigned(x, "the number of elements", UINT32_MAX);
    }
}

static void parse_type(assembler *a, vtrn_ap *ap) {
    lex_expect(&a->x, ':');
    ap->dtype = name(a, "dtype", type_name, VTRN_DTYPE_COUNT);
}

/* sbuf[0:128, 0x400]:bf16(1:512), sbuf[5:37*0, ...] */
static void parse_on_chip(assembler *a, vtrn_ap *ap) {
    lexer *x = &a->x;
    lex_expect(x, '[');
    ap->partition = (uint16_t)lex_unsigned(x, "the first partition", UINT16_MAX);
    lex_expect(x, ':');
    const char *at = x->at;
    uint64_t end = lex_unsigned(x, "the partition after the last", 2 * UINT16_MAX);
    if (end < ap->partition || end - ap->partition > UINT16_MAX)
        lex_error(x, at, "partitions %u:%llu are no range", ap->partition, (unsigned long long)end);
    ap->n_partitions = (uint16_t)(end - ap->partition);
    ap->partition_step = 1;
    if (lex_accept(x, '*'))
        ap->partition_step = lex_signed(x, "the partition step", INT64_MIN, INT64_MAX);
    lex_expect(x, ',');
    ap->addr = (int64_t)lex_unsigned(x, "the address", UINT64_MAX);
    lex_expect(x, ']');
    parse_type(a, ap);
}

/* hbm[slot, address, rows*step]:fp32(1:512) */
static void parse_hbm(assembler *a, vtrn_ap *ap) {
    lexer *x = &a->x;
    lex_expect(x, '[');
    ap->slot = (uint32_t)lex_unsigned(x, "the slot", UINT32_MAX);
    lex_expect(x, ',');
    ap->addr = (int64_t)lex_unsigned(x, "the address", UINT64_MAX);
    lex_expect(x, ',');
    ap->n_partitions = (uint16_t)lex_unsigned(x, "the number of rows", UINT16_MAX);
    lex_expect(x, '*');
    ap->partition_step = lex_signed(x, "the row step", INT64_MIN, INT64_MAX);
    lex_expect(x, ']');
    parse_type(a, ap);
}

static void parse_ap(assembler *a, vtrn_ap *ap, char role) {
    lexer *x = &a->x;
    lex_blanks(x);
    const char *at = x->at;
    if (lex_accept_word(x, "_"))
        return;
    bool is_pattern = lex_accept_word(x, "pattern");
    if (is_pattern != (role == 'p')) {
        lex_error(x, at, role == 'p' ? "expected pattern(step:number ...)" : "expected memory");
        return;
    }
    if (lex_accept_word(x, "sbuf")) {
        ap->space = VTRN_SPACE_SBUF;
        parse_on_chip(a, ap);
    } else if (lex_accept_word(x, "psum")) {
        ap->space = VTRN_SPACE_PSUM;
        parse_on_chip(a, ap);
    } else if (lex_accept_word(x, "hbm")) {
        ap->space = VTRN_SPACE_HBM;
        parse_hbm(a, ap);
    } else if (!is_pattern) {
        lex_error(x, at, "expected sbuf[...], psum[...], hbm[...] or _");
    }
    parse_dims(a, ap);
    if (is_pattern && !ap->n_dims)
        lex_error(x, at, "a pattern has a dimension at least");
}

static bool is_operand(lexer *x) {
    const char *word;
    size_t n = lex_peek_word(x, &word);
    return (n == 4 && (!memcmp(word, "sbuf", 4) || !memcmp(word, "psum", 4))) ||
           (n == 3 && !memcmp(word, "hbm", 3)) || (n == 7 && !memcmp(word, "pattern", 7)) ||
           (n == 1 && *word == '_');
}

/* Operands by the roles of the opcode; true when a comma followed the last one. */
static bool parse_operands(assembler *a, vtrn_instr *instr) {
    const char *roles = isa_op_info((vtrn_opcode)instr->opcode)->roles;
    bool is_first = true;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (roles[i] == '-')
            continue;
        if (!is_operand(&a->x))
            return !is_first;
        parse_ap(a, &instr->ap[i], roles[i]);
        is_first = false;
        if (!lex_accept(&a->x, ','))
            return false;
    }
    return !is_first;
}

static void parse_wait(assembler *a, vtrn_instr *instr) {
    lexer *x = &a->x;
    if (instr->n_waits == VTRN_MAX_WAITS) {
        lex_error(x, x->at, "more than %d waits; put an event_semaphore in front", VTRN_MAX_WAITS);
        return;
    }
    vtrn_wait *w = &instr->wait[instr->n_waits++];
    lex_expect(x, 's');
    w->semaphore = (uint16_t)lex_unsigned(x, "the semaphore", UINT16_MAX);
    lex_expect(x, '>');
    lex_expect(x, '=');
    w->value = (uint32_t)lex_unsigned(x, "the value", UINT32_MAX);
}

static void parse_inc(assembler *a, vtrn_instr *instr) {
    lexer *x = &a->x;
    lex_expect(x, 's');
    instr->update_semaphore = (uint16_t)lex_unsigned(x, "the semaphore", VTRN_NO_SEMAPHORE - 1);
    instr->update_value = 1;
    if (lex_accept(x, '+'))
        instr->update_value = (uint16_t)lex_unsigned(x, "the increment", UINT16_MAX);
}

static void parse_shuffle(assembler *a, vtrn_instr *instr) {
    const char *at = a->x.at;
    size_t n = lex_hex(&a->x, instr->shuffle, sizeof instr->shuffle);
    if (n != sizeof instr->shuffle)
        lex_error(&a->x, at, "a shuffle mask has 32 bytes, not %zu", n);
    if (instr->opcode != VTRN_OP_STREAM_SHUFFLE)
        lex_error(&a->x, at, "only stream_shuffle has a mask");
}

static bool parse_flag(assembler *a, vtrn_instr *instr) {
    for (int i = 0; i < ASM_N_FLAGS; i++)
        if (lex_accept_word(&a->x, asm_flag_names[i])) {
            instr->flags |= 1u << i;
            return true;
        }
    return false;
}

static void parse_attribute(assembler *a, vtrn_instr *instr) {
    lexer *x = &a->x;
    if (parse_flag(a, instr))
        return;
    if (lex_accept(x, '@'))
        instr->source = (uint32_t)lex_unsigned(x, "the source", UINT32_MAX);
    else if (lex_accept_word(x, "wait"))
        parse_wait(a, instr);
    else if (lex_accept_word(x, "inc"))
        parse_inc(a, instr);
    else if (lex_accept_word(x, "ring"))
        instr->queue = (uint8_t)lex_unsigned(x, "the DMA ring", UINT8_MAX);
    else if (lex_accept_word(x, "imm0"))
        instr->imm[0].bits = lex_float_bits(x, "the immediate");
    else if (lex_accept_word(x, "imm1"))
        instr->imm[1].bits = lex_float_bits(x, "the immediate");
    else if (lex_accept_word(x, "arg0"))
        instr->arg[0] = (int32_t)lex_signed(x, "the argument", INT32_MIN, INT32_MAX);
    else if (lex_accept_word(x, "arg1"))
        instr->arg[1] = (int32_t)lex_signed(x, "the argument", INT32_MIN, INT32_MAX);
    else if (lex_accept_word(x, "op0"))
        instr->op0 = name(a, "ALU operation", alu_name, VTRN_ALU_COUNT);
    else if (lex_accept_word(x, "op1"))
        instr->op1 = name(a, "ALU operation", alu_name, VTRN_ALU_COUNT);
    else if (lex_accept_word(x, "func"))
        instr->func = name(a, "activation function", act_name, VTRN_ACT_COUNT);
    else if (lex_accept_word(x, "flags"))
        instr->flags |= (uint32_t)lex_unsigned(x, "the flags", UINT32_MAX);
    else if (lex_accept_word(x, "shuffle"))
        parse_shuffle(a, instr);
    else
        lex_error(x, x->at, "expected an attribute: wait s1>=2, inc s1, ring 3, imm0 1.5, @4, ...");
}

static void parse_suffixes(assembler *a, vtrn_instr *instr) {
    if (!lex_accept(&a->x, '.'))
        return;
    if (instr->opcode == VTRN_OP_ACTIVATE) {
        instr->func = name(a, "activation function", act_name, VTRN_ACT_COUNT);
        return;
    }
    instr->op0 = name(a, "ALU operation", alu_name, VTRN_ALU_COUNT);
    if (lex_accept(&a->x, '.'))
        instr->op1 = name(a, "ALU operation", alu_name, VTRN_ALU_COUNT);
}

static void parse_instr(assembler *a) {
    lexer *x = &a->x;
    const char *at = x->at;
    int engine = lex_name(x, "engine or directive", engine_name, VTRN_ENGINE_COUNT);
    if (engine < 0)
        return;
    if (!a->is_block_open) {
        lex_error(x, at, "an instruction outside a block");
        return;
    }
    vtrn_instr *instr = push(a, &a->stream[engine], sizeof *instr);
    if (!instr)
        return;
    instr->engine = (uint8_t)engine;
    instr->update_semaphore = VTRN_NO_SEMAPHORE;
    int opcode = lex_name(x, "instruction", op_name, VTRN_OP_COUNT);
    if (opcode < 0)
        return;
    instr->opcode = (uint16_t)opcode;
    parse_suffixes(a, instr);
    bool has_comma = parse_operands(a, instr);
    if (!has_comma)
        has_comma = lex_accept(x, ','); /* after a mnemonic without operands */
    if (has_comma)
        do
            parse_attribute(a, instr);
        while (lex_accept(x, ','));
}

static void parse_head(assembler *a) {
    lexer *x = &a->x;
    a->program->name = lex_string(x, &a->program->arena);
    lex_expect_word(x, "chip");
    a->program->chip = lex_string(x, &a->program->arena);
    lex_expect_word(x, "gen");
    a->program->gen = (uint8_t)lex_unsigned(x, "the generation", UINT8_MAX);
    a->has_head = true;
}

/* ranks 1 by 8: replicas and partitions */
static void parse_ranks(assembler *a) {
    a->program->n_replicas = (uint32_t)lex_unsigned(&a->x, "the number of replicas", UINT32_MAX);
    lex_expect_word(&a->x, "by");
    a->program->n_partitions =
        (uint32_t)lex_unsigned(&a->x, "the number of partitions", UINT32_MAX);
}

static void parse_outputs(assembler *a) {
    lexer *x = &a->x;
    while (!x->status && !lex_is_end_of_line(x)) {
        int32_t *alias = push(a, &a->outputs, sizeof *alias);
        if (!alias)
            return;
        *alias = lex_accept_word(x, "_")
                     ? -1
                     : (int32_t)lex_unsigned(x, "the argument that the output aliases", INT32_MAX);
    }
}

/* Table items are numbered in the text, in order: a reader sees which slot 7 is. */
static void parse_index(assembler *a, const char *what, uint32_t expected) {
    lex_blanks(&a->x);
    const char *at = a->x.at;
    if (lex_unsigned(&a->x, what, UINT32_MAX) != expected)
        lex_error(&a->x, at, "%s should be %u: they are numbered in order", what, expected);
}

static void parse_slot(assembler *a) {
    lexer *x = &a->x;
    parse_index(a, "the slot's number", a->slots.n);
    vtrn_slot *s = push(a, &a->slots, sizeof *s);
    if (!s)
        return;
    s->kind = name(a, "kind of slot", slot_kind_name, ASM_N_SLOT_KINDS);
    s->dtype = name(a, "dtype", type_name, VTRN_DTYPE_COUNT);
    s->size_bytes = lex_unsigned(x, "the size", UINT64_MAX);
    lex_expect_word(x, "bytes");
    if (program_slot_has_index(s)) {
        lex_expect_word(x, "number");
        s->index = (int32_t)lex_unsigned(x, "the number", UINT32_MAX);
    } else {
        lex_expect_word(x, "at");
        s->offset = lex_unsigned(x, "the offset", UINT64_MAX);
    }
}

static void parse_source(assembler *a) {
    parse_index(a, "the source's number", a->sources.n);
    vtrn_source *s = push(a, &a->sources, sizeof *s);
    if (!s)
        return;
    s->op = lex_string(&a->x, &a->program->arena);
    s->place = lex_string(&a->x, &a->program->arena);
}

static uint32_t parse_numbers(assembler *a, list *into, const char *what) {
    uint32_t before = into->n;
    const char *word;
    while (!a->x.status && lex_peek_word(&a->x, &word) && *word >= '0' && *word <= '9') {
        uint32_t *v = push(a, into, sizeof *v);
        if (v)
            *v = (uint32_t)lex_unsigned(&a->x, what, UINT32_MAX);
    }
    return into->n - before;
}

/* custom 0 "stablehlo.sort" in 0 1 out 3 flops 12 blob 00ff */
static void parse_custom(assembler *a) {
    lexer *x = &a->x;
    parse_index(a, "the custom's number", a->customs.n);
    vtrn_custom *c = push(a, &a->customs, sizeof *c);
    if (!c)
        return;
    list slots = {0};
    c->name = lex_string(x, &a->program->arena);
    lex_expect_word(x, "in");
    c->n_inputs = parse_numbers(a, &slots, "the slot");
    lex_expect_word(x, "out");
    c->n_outputs = parse_numbers(a, &slots, "the slot");
    c->slots = keep(a, &slots, sizeof(uint32_t));
    free(slots.items);
    lex_expect_word(x, "flops");
    c->flops = lex_unsigned(x, "the flops", UINT64_MAX);
    lex_expect_word(x, "blob");
    lex_blanks(x);
    const char *end = x->at;
    while (end < x->end && *end != '\n')
        end++;
    size_t capacity = (size_t)(end - x->at) / 2 + 1;
    uint8_t *blob = arena_alloc(&a->program->arena, capacity, 1);
    if (!blob)
        lex_no_memory(x);
    else
        c->blob_size = lex_hex(x, blob, capacity);
    c->blob = blob;
}

static const char *reducer_word(int i) {
    return reducer_name((unsigned)i);
}
static const char *collective_word(int i) {
    return collective_kind_name((unsigned)i);
}

/* collective 0 all_reduce add groups 2 by 2: 0 1 2 3 */
static void parse_collective(assembler *a) {
    lexer *x = &a->x;
    lex_blanks(x);
    const char *at = x->at;
    uint64_t custom_i = lex_unsigned(x, "the custom's number", UINT32_MAX);
    vtrn_custom *custom = a->customs.items;
    if (x->status)
        return;
    if (custom_i + 1 != a->customs.n || custom[custom_i].collective) {
        lex_error(x, at, "a collective follows its custom, once");
        return;
    }
    vtrn_collective *c = ARENA_NEW(&a->program->arena, vtrn_collective, 1);
    vtrn_exchange *exchanges =
        ARENA_NEW(&a->program->arena, vtrn_exchange, custom[custom_i].n_inputs);
    if (!c || !exchanges) {
        lex_no_memory(x);
        return;
    }
    c->kind = name(a, "kind of collective", collective_word, VTRN_COLLECTIVE_KINDS);
    c->reducer = name(a, "reducer", reducer_word, VTRN_REDUCERS);
    lex_expect_word(x, "groups");
    c->n_groups = (uint32_t)lex_unsigned(x, "the number of groups", UINT32_MAX);
    lex_expect_word(x, "by");
    c->group_size = (uint32_t)lex_unsigned(x, "the size of a group", UINT32_MAX);
    lex_expect(x, ':');
    list groups = {0};
    while (!x->status && !lex_is_end_of_line(x)) {
        int32_t *rank = push(a, &groups, sizeof *rank);
        if (rank)
            *rank = lex_accept_word(x, "_") ? -1 : (int32_t)lex_unsigned(x, "a rank", INT32_MAX);
    }
    if (!x->status && groups.n != (uint64_t)c->n_groups * c->group_size)
        lex_error(x, at, "%u ranks for %u groups by %u", groups.n, c->n_groups, c->group_size);
    c->groups = keep(a, &groups, sizeof(int32_t));
    free(groups.items);
    c->exchanges = exchanges;
    a->n_exchanges = 0;
    custom[custom_i].collective = c;
}

/* exchange fp32 1 by 1 of 16 from 0 16 16 to 0 16 16 */
static void parse_exchange(assembler *a) {
    lexer *x = &a->x;
    const vtrn_custom *custom =
        a->customs.n ? (vtrn_custom *)a->customs.items + a->customs.n - 1 : NULL;
    if (!custom || !custom->collective || a->n_exchanges == custom->n_inputs) {
        lex_error(x, x->at, "exchanges follow their collective, one an input");
        return;
    }
    vtrn_exchange *e = (vtrn_exchange *)&custom->collective->exchanges[a->n_exchanges++];
    e->dtype = name(a, "dtype", type_name, VTRN_DTYPE_COUNT);
    uint64_t *const fields[] = {&e->n[0],       &e->n[1],         &e->run,
                                &e->from_place, &e->from_step[0], &e->from_step[1],
                                &e->to_place,   &e->to_step[0],   &e->to_step[1]};
    static const char *const words[] = {NULL, "by", "of", "from", NULL, NULL, "to", NULL, NULL};
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) {
        if (words[f])
            lex_expect_word(x, words[f]);
        *fields[f] = lex_unsigned(x, "a number of elements", UINT64_MAX);
    }
}

static void parse_data(assembler *a) {
    lexer *x = &a->x;
    lex_blanks(x);
    const char *at = x->at;
    uint64_t size = lex_unsigned(x, "the size", MAX_DATA_BYTES);
    if (a->data || size == 0)
        lex_error(x, at, "one data directive, with a size");
    else if (!x->status && !(a->data = calloc(size, 1)))
        lex_no_memory(x);
    a->program->data_size = a->data ? size : 0;
}

/* at 0x40 00ff10..   or   at 0x40 fp32 1.5 -2 inf */
static void parse_data_row(assembler *a) {
    lexer *x = &a->x;
    lex_blanks(x);
    const char *where = x->at;
    uint64_t at = lex_unsigned(x, "the offset", UINT64_MAX), size = a->program->data_size;
    if (at > size) {
        lex_error(x, where, "beyond the %llu bytes of data", (unsigned long long)size);
        return;
    }
    if (!lex_accept_word(x, "fp32")) {
        lex_hex(x, a->data ? a->data + at : NULL, size - at);
        return;
    }
    while (!x->status && !lex_is_end_of_line(x)) {
        where = x->at;
        uint32_t bits = lex_float_bits(x, "a constant");
        if (size - at < 4) {
            lex_error(x, where, "more than fits the %llu bytes of data", (unsigned long long)size);
            return;
        }
        for (int k = 0; k < 4; k++)
            a->data[at++] = (uint8_t)(bits >> (8 * k));
    }
}

static void parse_block(assembler *a) {
    if (a->is_block_open)
        lex_error(&a->x, a->x.at, "the block before ends with stop, jump, branch or switch");
    parse_index(a, "the block's number", a->blocks.n);
    vtrn_block *block = push(a, &a->blocks, sizeof *block);
    if (!block)
        return;
    a->is_block_open = true;
    if (lex_accept_word(&a->x, "flops"))
        block->flops = lex_unsigned(&a->x, "the flops", UINT64_MAX);
}

static void parse_condition(assembler *a, vtrn_block *b) {
    lexer *x = &a->x;
    lex_expect_word(x, "hbm");
    lex_expect(x, '[');
    b->cond_slot = (uint32_t)lex_unsigned(x, "the slot", UINT32_MAX);
    lex_expect(x, ',');
    b->cond_addr = (int64_t)lex_unsigned(x, "the address", UINT64_MAX);
    lex_expect(x, ']');
}

static void close_block(assembler *a, vtrn_block_end end) {
    lexer *x = &a->x;
    if (!a->is_block_open) {
        lex_error(x, x->at, "no block is open here");
        return;
    }
    vtrn_block *b = (vtrn_block *)a->blocks.items + a->blocks.n - 1;
    b->end = (uint8_t)end;
    a->is_block_open = false;
    if (end == VTRN_END_JUMP) {
        b->next[0] = (uint32_t)lex_unsigned(x, "the block", UINT32_MAX);
    } else if (end == VTRN_END_BRANCH) {
        parse_condition(a, b);
        lex_expect_word(x, "zero");
        b->next[0] = (uint32_t)lex_unsigned(x, "the block", UINT32_MAX);
        lex_expect_word(x, "nonzero");
        b->next[1] = (uint32_t)lex_unsigned(x, "the block", UINT32_MAX);
    } else if (end == VTRN_END_SWITCH) {
        list targets = {0};
        parse_condition(a, b);
        lex_expect_word(x, "to");
        b->n_targets = parse_numbers(a, &targets, "the block");
        b->targets = keep(a, &targets, sizeof(uint32_t));
        free(targets.items);
    }
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        list *s = &a->stream[e];
        b->first[e] = a->instrs.n;
        b->count[e] = s->n;
        for (uint32_t i = 0; i < s->n; i++) {
            vtrn_instr *to = push(a, &a->instrs, sizeof *to);
            if (!to)
                return;
            *to = ((vtrn_instr *)s->items)[i];
        }
        s->n = 0;
    }
}

static void parse_line(assembler *a) {
    lexer *x = &a->x;
    vtrn_program *p = a->program;
    if (lex_accept_word(x, "program"))
        parse_head(a);
    else if (lex_accept_word(x, "arguments"))
        p->n_arguments = (uint32_t)lex_unsigned(x, "the number of arguments", UINT32_MAX);
    else if (lex_accept_word(x, "outputs"))
        parse_outputs(a);
    else if (lex_accept_word(x, "scratch"))
        p->scratch_size = lex_unsigned(x, "the scratch size", UINT64_MAX);
    else if (lex_accept_word(x, "sbuf_peak"))
        p->sbuf_peak_bytes = lex_unsigned(x, "the peak", UINT64_MAX);
    else if (lex_accept_word(x, "psum_peak"))
        p->psum_peak_bytes = lex_unsigned(x, "the peak", UINT64_MAX);
    else if (lex_accept_word(x, "ranks"))
        parse_ranks(a);
    else if (lex_accept_word(x, "slot"))
        parse_slot(a);
    else if (lex_accept_word(x, "source"))
        parse_source(a);
    else if (lex_accept_word(x, "custom"))
        parse_custom(a);
    else if (lex_accept_word(x, "collective"))
        parse_collective(a);
    else if (lex_accept_word(x, "exchange"))
        parse_exchange(a);
    else if (lex_accept_word(x, "data"))
        parse_data(a);
    else if (lex_accept_word(x, "at"))
        parse_data_row(a);
    else if (lex_accept_word(x, "block"))
        parse_block(a);
    else if (lex_accept_word(x, "stop"))
        close_block(a, VTRN_END_STOP);
    else if (lex_accept_word(x, "jump"))
        close_block(a, VTRN_END_JUMP);
    else if (lex_accept_word(x, "branch"))
        close_block(a, VTRN_END_BRANCH);
    else if (lex_accept_word(x, "switch"))
        close_block(a, VTRN_END_SWITCH);
    else
        parse_instr(a);
    lex_end_of_line(x);
}

/* Lists to the program's arrays. */
static vtrn_status finish(assembler *a) {
    vtrn_program *p = a->program;
    lexer *x = &a->x;
    if (!a->has_head)
        lex_error(x, x->text, "no line says program \"name\" chip \"trn1\" gen 2");
    if (a->is_block_open)
        lex_error(x, x->end, "the last block ends with stop, jump, branch or switch");
    p->slots = keep(a, &a->slots, sizeof *p->slots);
    p->n_slots = a->slots.n;
    p->sources = keep(a, &a->sources, sizeof *p->sources);
    p->n_sources = a->sources.n;
    p->customs = keep(a, &a->customs, sizeof *p->customs);
    p->n_customs = a->customs.n;
    p->blocks = keep(a, &a->blocks, sizeof *p->blocks);
    p->n_blocks = a->blocks.n;
    p->instrs = keep(a, &a->instrs, sizeof *p->instrs);
    p->n_instrs = a->instrs.n;
    p->output_alias = keep(a, &a->outputs, sizeof *p->output_alias);
    p->n_outputs = a->outputs.n;
    uint8_t *data = arena_alloc(&p->arena, p->data_size, 1);
    if (!data)
        lex_no_memory(x);
    else if (p->data_size)
        memcpy(data, a->data, p->data_size);
    p->data = data;
    if (x->status)
        return x->status;
    vtrn_status status = program_validate_structure(p);
    return status ? vtrn_status_annotate(status, "%s", x->file_name) : NULL;
}

static void release(assembler *a) {
    free(a->slots.items);
    free(a->sources.items);
    free(a->customs.items);
    free(a->blocks.items);
    free(a->outputs.items);
    free(a->instrs.items);
    free(a->data);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        free(a->stream[e].items);
}

/* Text has no zero bytes; without any there is nothing to point a caret at. */
static vtrn_status refuse_foreign(const char *text, size_t size, const char *file_name) {
    if (size && !memchr(text, 0, size))
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "%s: %s: neither assembly text, a program file (\"VTRN\") nor a StableHLO "
                      "artifact (\"ML\\xefR\")",
                      file_name, size ? "binary data" : "0 bytes");
}

vtrn_status program_assemble(const char *text, size_t size, const char *file_name,
                             vtrn_program **out) {
    *out = NULL;
    VTRN_RETURN_IF_ERROR(refuse_foreign(text, size, file_name ? file_name : "text"));
    arena memory = ARENA_EMPTY;
    vtrn_program *p = ARENA_NEW(&memory, vtrn_program, 1);
    if (!p)
        return VTRN_OUT_OF_MEMORY(sizeof *p);
    p->arena = memory;
    p->name = p->chip = "";
    assembler a = {.x = {.file_name = file_name ? file_name : "text",
                         .text = text,
                         .at = text,
                         .end = text + size},
                   .program = p};
    while (!lex_is_over(&a.x))
        parse_line(&a);
    vtrn_status status = a.x.status ? a.x.status : finish(&a);
    release(&a);
    if (status) {
        program_destroy(p);
        return status;
    }
    *out = p;
    return NULL;
}
