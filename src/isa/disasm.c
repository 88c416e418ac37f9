/* Program to assembly text. Whatever the container keeps is printed; the assembler reads it back.
 */
#include "isa/asm.h"
#include "isa/asm_names.h"
#include "isa/validate.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct printer {
    char *text;
    size_t n, cap;
    bool is_fixed; /* the caller's buffer: cut, do not grow */
    bool is_short; /* of memory */
} printer;

static bool reserve(printer *p, size_t n) {
    if (p->is_fixed || p->n + n < p->cap)
        return true;
    size_t want = (p->n + n + 256) * 2;
    char *grown = realloc(p->text, want);
    if (!grown) {
        p->is_short = true;
        return false;
    }
    p->text = grown;
    p->cap = want;
    return true;
}

static void out(printer *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void out(printer *p, const char *format, ...) {
    char small[256];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (len < 0 || p->is_short)
        return;
    size_t n = (size_t)len < sizeof small ? (size_t)len : sizeof small - 1;
    if (!reserve(p, n))
        return;
    if (p->n < p->cap) {
        size_t room = p->cap - p->n - 1, fits = n < room ? n : room;
        memcpy(p->text + p->n, small, fits);
        p->text[p->n + fits] = 0;
    }
    p->n += n;
}

static void quoted(printer *p, const char *text) {
    out(p, "\"");
    for (const unsigned char *c = (const unsigned char *)(text ? text : ""); *c; c++)
        if (*c == '"' || *c == '\\')
            out(p, "\\%c", *c);
        else if (*c < 0x20 || *c == 0x7f)
            out(p, "\\x%02x", *c);
        else
            out(p, "%c", *c);
    out(p, "\"");
}

static void hex(printer *p, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        out(p, "%02x", bytes[i]);
}

/* Address space, rows and pattern: sbuf[0:128, 0x400]:bf16(1:512) */
static void print_ap(printer *p, const vtrn_ap *ap) {
    if (ap->space == VTRN_SPACE_HBM) {
        out(p, "hbm[%u, 0x%" PRIx64 ", %u*%" PRId64 "]:%s", ap->slot, (uint64_t)ap->addr,
            ap->n_partitions, ap->partition_step, dtype_name(ap->dtype));
    } else if (ap->space == VTRN_SPACE_NONE) {
        out(p, "pattern");
    } else {
        out(p, "%s[%u:%u", ap->space == VTRN_SPACE_SBUF ? "sbuf" : "psum", ap->partition,
            ap->partition + ap->n_partitions);
        if (ap->partition_step != 1)
            out(p, "*%" PRId64, ap->partition_step);
        out(p, ", 0x%" PRIx64 "]:%s", (uint64_t)ap->addr, dtype_name(ap->dtype));
    }
    for (int d = 0; d < ap->n_dims; d++)
        out(p, "%s%d:%u", d ? " " : "(", ap->dim[d].step, ap->dim[d].num);
    if (ap->n_dims)
        out(p, ")");
}

/* A number that reads back to the same bits. */
static void print_imm(printer *p, int i, uint32_t bits) {
    float f;
    char text[40];
    memcpy(&f, &bits, sizeof f);
    snprintf(text, sizeof text, "%.9g", (double)f);
    float back = strtof(text, NULL);
    uint32_t back_bits;
    memcpy(&back_bits, &back, sizeof back_bits);
    bool is_plain = back_bits == bits && f == f;
    if (is_plain)
        out(p, ", imm%d %s", i, text);
    else
        out(p, ", imm%d 0x%08x", i, bits);
}

static bool is_present(const vtrn_instr *instr, int i, char role) {
    return instr->ap[i].space != VTRN_SPACE_NONE || (role == 'p' && instr->ap[i].n_dims);
}

static void print_operands(printer *p, const vtrn_instr *instr, const char *roles) {
    int last = -1;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (is_present(instr, i, roles[i]))
            last = i;
    bool is_first = true;
    for (int i = 0; i <= last; i++) {
        if (roles[i] == '-')
            continue;
        out(p, "%s", is_first ? " " : ", ");
        is_first = false;
        if (is_present(instr, i, roles[i]))
            print_ap(p, &instr->ap[i]);
        else
            out(p, "_");
    }
}

static void print_mnemonic(printer *p, const vtrn_instr *instr) {
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    out(p, "%-6s %s", isa_engine_name(instr->engine), info->mnemonic);
    if (instr->opcode == VTRN_OP_ACTIVATE) {
        out(p, ".%s", isa_act_name(instr->func));
        return;
    }
    if (instr->op0 || instr->op1)
        out(p, ".%s", isa_alu_name(instr->op0));
    if (instr->op1)
        out(p, ".%s", isa_alu_name(instr->op1));
}

static void print_flags(printer *p, uint32_t flags) {
    for (int i = 0; i < ASM_N_FLAGS; i++)
        if (flags >> i & 1)
            out(p, ", %s", asm_flag_names[i]);
    if (flags >> ASM_N_FLAGS)
        out(p, ", flags 0x%x", flags >> ASM_N_FLAGS << ASM_N_FLAGS);
}

static void print_attributes(printer *p, const vtrn_instr *instr) {
    if (instr->opcode == VTRN_OP_ACTIVATE) {
        if (instr->op0)
            out(p, ", op0 %s", isa_alu_name(instr->op0));
        if (instr->op1)
            out(p, ", op1 %s", isa_alu_name(instr->op1));
    } else if (instr->func) {
        out(p, ", func %s", isa_act_name(instr->func));
    }
    for (int i = 0; i < 2; i++)
        if (instr->imm[i].bits)
            print_imm(p, i, instr->imm[i].bits);
    for (int i = 0; i < 2; i++)
        if (instr->arg[i])
            out(p, ", arg%d %d", i, instr->arg[i]);
    print_flags(p, instr->flags);
    if (isa_is_dma(instr->opcode) || instr->queue)
        out(p, ", ring %u", instr->queue);
    if (instr->opcode == VTRN_OP_STREAM_SHUFFLE) {
        out(p, ", shuffle ");
        hex(p, instr->shuffle, sizeof instr->shuffle);
    }
    for (int i = 0; i < instr->n_waits; i++)
        out(p, ", wait s%u>=%u", instr->wait[i].semaphore, instr->wait[i].value);
    if (instr->update_semaphore != VTRN_NO_SEMAPHORE)
        out(p, ", inc s%u+%u", instr->update_semaphore, instr->update_value);
    if (instr->source)
        out(p, ", @%u", instr->source);
}

static void print_instr(printer *p, const vtrn_instr *instr) {
    print_mnemonic(p, instr);
    print_operands(p, instr, isa_op_info(instr->opcode)->roles);
    print_attributes(p, instr);
}

size_t program_disassemble_instr(const vtrn_instr *instr, char *text, size_t capacity) {
    printer p = {.text = text, .cap = capacity, .is_fixed = true};
    if (capacity)
        text[0] = 0;
    if (isa_op_info(instr->opcode) && instr->n_waits <= VTRN_MAX_WAITS)
        print_instr(&p, instr);
    else
        out(&p, "unknown opcode %u", instr->opcode);
    return p.n;
}

static void print_head(printer *p, const vtrn_program *program) {
    out(p, "program ");
    quoted(p, program->name);
    out(p, " chip ");
    quoted(p, program->chip);
    out(p, " gen %u\narguments %u\noutputs", program->gen, program->n_arguments);
    for (uint32_t i = 0; i < program->n_outputs; i++)
        if (!program->output_alias || program->output_alias[i] < 0)
            out(p, " _");
        else
            out(p, " %d", program->output_alias[i]);
    out(p, "\nscratch %" PRIu64 "\n", program->scratch_size);
    if (program->n_replicas || program->n_partitions)
        out(p, "ranks %u by %u\n", program->n_replicas, program->n_partitions);
    if (program->sbuf_peak_bytes)
        out(p, "sbuf_peak %" PRIu64 "\n", program->sbuf_peak_bytes);
    if (program->psum_peak_bytes)
        out(p, "psum_peak %" PRIu64 "\n", program->psum_peak_bytes);
}

static void print_collective(printer *p, uint32_t custom_i, const vtrn_custom *custom) {
    const vtrn_collective *c = custom->collective;
    out(p, "collective %u %s %s groups %u by %u:", custom_i, collective_kind_name(c->kind),
        reducer_name(c->reducer), c->n_groups, c->group_size);
    for (size_t i = 0; i < (size_t)c->n_groups * c->group_size; i++)
        if (c->groups[i] < 0)
            out(p, " _");
        else
            out(p, " %d", c->groups[i]);
    out(p, "\n");
    for (uint32_t i = 0; i < custom->n_inputs; i++) {
        const vtrn_exchange *x = &c->exchanges[i];
        out(p,
            "exchange %s %" PRIu64 " by %" PRIu64 " of %" PRIu64 " from %" PRIu64 " %" PRIu64
            " %" PRIu64 " to %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
            dtype_name(x->dtype), x->n[0], x->n[1], x->run, x->from_place, x->from_step[0],
            x->from_step[1], x->to_place, x->to_step[0], x->to_step[1]);
    }
}

static void print_tables(printer *p, const vtrn_program *program) {
    if (program->n_slots)
        out(p, "\n");
    for (uint32_t i = 0; i < program->n_slots; i++) {
        const vtrn_slot *s = &program->slots[i];
        bool has_index = program_slot_has_index(s);
        out(p, "slot %u %s %s %" PRIu64 " bytes %s %" PRIu64 "\n", i, asm_slot_kinds[s->kind],
            dtype_name(s->dtype), s->size_bytes, has_index ? "number" : "at",
            has_index ? (uint64_t)s->index : s->offset);
    }
    if (program->n_sources)
        out(p, "\n");
    for (uint32_t i = 0; i < program->n_sources; i++) {
        out(p, "source %u ", i);
        quoted(p, program->sources[i].op);
        out(p, " ");
        quoted(p, program->sources[i].place);
        out(p, "\n");
    }
    for (uint32_t i = 0; i < program->n_customs; i++) {
        const vtrn_custom *c = &program->customs[i];
        out(p, "\ncustom %u ", i);
        quoted(p, c->name);
        out(p, " in");
        for (uint32_t k = 0; k < c->n_inputs + c->n_outputs; k++)
            out(p, "%s %u", k == c->n_inputs ? " out" : "", c->slots[k]);
        out(p, "%s flops %" PRIu64 " blob ", c->n_outputs ? "" : " out", c->flops);
        hex(p, c->blob, c->blob_size);
        out(p, "\n");
        if (c->collective)
            print_collective(p, i, c);
    }
}

/* Constants in rows of 32 bytes; a row of zeros is not printed. */
static void print_data(printer *p, const vtrn_program *program) {
    enum { ROW = 32 };
    static const uint8_t zeros[ROW];
    if (!program->data_size)
        return;
    out(p, "\ndata %" PRIu64 "\n", program->data_size);
    for (uint64_t at = 0; at < program->data_size; at += ROW) {
        uint64_t left = program->data_size - at, n = left < ROW ? left : ROW;
        if (memcmp(program->data + at, zeros, n) == 0)
            continue;
        out(p, "at 0x%" PRIx64 " ", at);
        hex(p, program->data + at, n);
        out(p, "\n");
    }
}

static void print_block_end(printer *p, const vtrn_block *b) {
    switch ((vtrn_block_end)b->end) {
    case VTRN_END_STOP:
        out(p, "stop\n");
        break;
    case VTRN_END_JUMP:
        out(p, "jump %u\n", b->next[0]);
        break;
    case VTRN_END_BRANCH:
        out(p, "branch hbm[%u, 0x%" PRIx64 "] zero %u nonzero %u\n", b->cond_slot,
            (uint64_t)b->cond_addr, b->next[0], b->next[1]);
        break;
    default:
        out(p, "switch hbm[%u, 0x%" PRIx64 "] to", b->cond_slot, (uint64_t)b->cond_addr);
        for (uint32_t i = 0; i < b->n_targets; i++)
            out(p, " %u", b->targets[i]);
        out(p, "\n");
    }
}

/* Who asked for the instruction, as a comment where it changes. */
static void print_source_comment(printer *p, const vtrn_program *program, uint32_t source) {
    if (source >= program->n_sources)
        return;
    out(p, "    # ");
    const char *texts[] = {program->sources[source].op, " ", program->sources[source].place};
    for (int k = 0; k < 3; k++)
        for (const char *c = texts[k] ? texts[k] : ""; *c; c++)
            out(p, "%c", (unsigned char)*c < 0x20 ? ' ' : *c);
    out(p, "\n");
}

static void print_blocks(printer *p, const vtrn_program *program) {
    for (uint32_t b = 0; b < program->n_blocks; b++) {
        const vtrn_block *block = &program->blocks[b];
        uint32_t source = UINT32_MAX;
        out(p, "\nblock %u", b);
        if (block->flops)
            out(p, " flops %" PRIu64, block->flops);
        out(p, "\n");
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            for (uint32_t i = 0; i < block->count[e]; i++) {
                const vtrn_instr *instr = &program->instrs[block->first[e] + i];
                if (instr->source != source)
                    print_source_comment(p, program, instr->source);
                source = instr->source;
                out(p, "    ");
                print_instr(p, instr);
                out(p, "\n");
            }
        print_block_end(p, block);
    }
}

vtrn_status program_disassemble(const vtrn_program *program, char **out_text, size_t *out_size) {
    *out_text = NULL;
    *out_size = 0;
    VTRN_RETURN_IF_ERROR(program_validate_structure(program));
    printer p = {0};
    print_head(&p, program);
    print_tables(&p, program);
    print_data(&p, program);
    print_blocks(&p, program);
    if (p.is_short) {
        free(p.text);
        return VTRN_OUT_OF_MEMORY(p.n);
    }
    *out_text = p.text;
    *out_size = p.n;
    return NULL;
}
