/* Kernels that were written by hand, as custom calls: the recorded program is their backend_config.
 * A recorded program is a container whose blocks follow each other; it has no semaphores, and the
 * order of its instructions is that of the blocks and, in a block, of the engines. */
#include "compiler/lower/lower.h"
#include "compiler/lower/whole.h"
#include "isa/container.h"
#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

/* Source: NKI, "Using NKI kernels as custom operators in frameworks". */
#define NATIVE_TARGET "AwsNeuronCustomNativeKernel"

bool lower_is_native(const graph_op *op) {
    return op->kind == GRAPH_CUSTOM_CALL && op->name && !strcmp(op->name, NATIVE_TARGET);
}

static int digit_of(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Base64 without line ends -> bytes. False: the text is none. */
static bool decode(const char *text, size_t n, uint8_t *out, size_t *out_size) {
    *out_size = 0;
    if (n % 4)
        return false;
    for (size_t i = 0; i < n; i += 4) {
        int n_pads = i + 4 == n ? (text[i + 3] == '=') + (text[i + 2] == '=') : 0;
        uint32_t bits = 0;
        for (int k = 0; k < 4; k++) {
            int digit = k < 4 - n_pads ? digit_of(text[i + (size_t)k]) : 0;
            if (digit < 0)
                return false;
            bits = bits << 6 | (uint32_t)digit;
        }
        for (int k = 0; k < 3 - n_pads; k++)
            out[(*out_size)++] = (uint8_t)(bits >> (16 - 8 * k));
    }
    return true;
}

static vtrn_status load_body(const graph_op *op, vtrn_program **out) {
    const char *text = op->attrs.custom_call.backend_config;
    size_t n = strlen(text), size;
    uint8_t *bytes = malloc(n / 4 * 3 + 1);
    if (!bytes)
        return VTRN_OUT_OF_MEMORY(n);
    vtrn_status status = NULL;
    if (!decode(text, n, bytes, &size) || !program_is_container(bytes, size))
        status = VTRN_ERROR(VTRN_UNSUPPORTED,
                            "its backend_config is no kernel that vtrn.nki recorded; call the "
                            "kernel through vtrn's nki (vtrn.nki.install())");
    if (!status)
        status = program_load(bytes, size, NULL, out);
    free(bytes);
    return status;
}

static vtrn_status check_chip(const lower *l, const vtrn_program *body) {
    if (!strcmp(body->chip, l->chip->name))
        return program_validate(body, l->chip);
    return VTRN_ERROR(VTRN_UNSUPPORTED,
                      "kernel %s was recorded for %s and the program is for %s; set VTRN_CHIP, or "
                      "NEURON_PLATFORM_TARGET_OVERRIDE where it is set, to the same chip before "
                      "the function is traced",
                      body->name, body->chip, l->chip->name);
}

/* Blocks behind each other, whose instructions neither wait nor name custom ops. */
static vtrn_status check_list(const vtrn_program *body) {
    bool is_list = body->n_customs == 0;
    for (uint32_t b = 0; b < body->n_blocks; b++) {
        const vtrn_block *block = &body->blocks[b];
        bool is_last = b + 1 == body->n_blocks;
        is_list &= block->end == (is_last ? VTRN_END_STOP : VTRN_END_JUMP) &&
                   (is_last || block->next[0] == b + 1);
    }
    for (uint32_t i = 0; i < body->n_instrs; i++)
        is_list &=
            body->instrs[i].n_waits == 0 && body->instrs[i].update_semaphore == VTRN_NO_SEMAPHORE;
    for (uint32_t i = 0; i < body->n_slots; i++)
        is_list &= body->slots[i].kind != VTRN_SLOT_RANK;
    if (is_list)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "kernel %s: a program with semaphores, branches or custom ops is no list of "
                      "instructions; record the kernel by vtrn.nki",
                      body->name);
}

static vtrn_status check_operand(const lower *l, const vtrn_program *body, const vtrn_slot *slot,
                                 graph_value value) {
    const graph_type *t = &l->g->types[value];
    if (slot->size_bytes == graph_type_bytes(t) &&
        dtype_size((vtrn_dtype)slot->dtype) == dtype_size((vtrn_dtype)t->dtype))
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "kernel %s: %s %d has %llu bytes of %s, the custom call's has %llu of %s; "
                      "give both the same type",
                      body->name, slot->kind == VTRN_SLOT_OUTPUT ? "output" : "argument",
                      slot->index, (unsigned long long)slot->size_bytes,
                      dtype_name((vtrn_dtype)slot->dtype), (unsigned long long)graph_type_bytes(t),
                      dtype_name((vtrn_dtype)t->dtype));
}

static vtrn_status check_types(const lower *l, const graph_op *op, const vtrn_program *body) {
    if (body->n_arguments != op->n_operands || body->n_outputs != op->n_results)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "kernel %s has %u arguments and %u outputs, the custom call %u operands "
                          "and %u results",
                          body->name, body->n_arguments, body->n_outputs, op->n_operands,
                          op->n_results);
    for (uint32_t i = 0; i < body->n_slots; i++) {
        const vtrn_slot *s = &body->slots[i];
        if (s->kind == VTRN_SLOT_ARGUMENT)
            VTRN_RETURN_IF_ERROR(check_operand(l, body, s, op->operands[s->index]));
        if (s->kind == VTRN_SLOT_OUTPUT)
            VTRN_RETURN_IF_ERROR(check_operand(l, body, s, op->results[s->index]));
    }
    return NULL;
}

/* The program's tensors for the body's. An argument that the kernel writes is the output that it
 * returns it as, which begins as a copy. */
typedef struct binding {
    uint32_t *argument, *output; /* slots of the program, by number */
    uint32_t *slots;             /* by slot of the body */
} binding;

static vtrn_status bind_values(lower *l, const graph_op *op, const vtrn_program *body,
                               binding *at) {
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(lower_whole_operand(l, op->operands[i], &at->argument[i]));
    for (uint32_t i = 0; i < op->n_results; i++) {
        view from, to;
        int32_t a = body->output_alias ? body->output_alias[i] : -1;
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[i], &to));
        at->output[i] = to.slot;
        if (a < 0)
            continue;
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[a], &from));
        VTRN_RETURN_IF_ERROR(plan_copy(l->plan, &from, &to));
        at->argument[a] = to.slot;
    }
    return NULL;
}

static vtrn_status bind_slots(lower *l, const vtrn_program *body, const binding *at) {
    for (uint32_t i = 0; i < body->n_slots; i++) {
        const vtrn_slot *s = &body->slots[i];
        if (s->kind == VTRN_SLOT_ARGUMENT)
            at->slots[i] = at->argument[s->index];
        else if (s->kind == VTRN_SLOT_OUTPUT)
            at->slots[i] = at->output[s->index];
        else if (s->kind == VTRN_SLOT_CONSTANT)
            VTRN_RETURN_IF_ERROR(build_constant_add(l->build, (vtrn_dtype)s->dtype,
                                                    body->data + s->offset, s->size_bytes,
                                                    &at->slots[i]));
        else
            VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, (vtrn_dtype)s->dtype,
                                                s->size_bytes, 0, &at->slots[i]));
    }
    return NULL;
}

/* Bytes of a partition up to the end of what the kernel touches. */
static uint64_t extent_of(const vtrn_program *body, vtrn_space space) {
    uint64_t end = 0;
    for (uint32_t i = 0; i < body->n_instrs; i++)
        for (int k = 0; k < VTRN_MAX_AP; k++) {
            int64_t lo, hi;
            if (body->instrs[i].ap[k].space != space)
                continue;
            isa_ap_extent(&body->instrs[i].ap[k], &lo, &hi);
            end = hi > 0 && (uint64_t)hi > end ? (uint64_t)hi : end;
        }
    return end;
}

/* "kernel.py:7 in layer1/rmsnorm": the line of the kernel, the scope of its call and its name. */
static vtrn_status find_sources(lower *l, const graph_op *op, const vtrn_program *body,
                                vtrn_source **out) {
    const char *in = strstr(op->place, " in ");
    const char *scope = in ? in + strlen(" in ") : "";
    *out = ARENA_NEW(&l->tmp, vtrn_source, body->n_sources);
    if (!*out)
        return VTRN_OUT_OF_MEMORY(body->n_sources * sizeof **out);
    for (uint32_t i = 0; i < body->n_sources; i++) {
        const vtrn_source *from = &body->sources[i];
        (*out)[i].op = from->op;
        (*out)[i].place = arena_printf(&l->tmp, "%s in %s%s%s", from->place, scope,
                                       *scope ? "/" : "", body->name);
        if (!(*out)[i].place)
            return VTRN_OUT_OF_MEMORY(strlen(from->place));
    }
    return NULL;
}

static vtrn_status record(lower *l, const graph_op *op, const vtrn_program *body,
                          const binding *at) {
    uint64_t psum_bytes = extent_of(body, VTRN_SPACE_PSUM), bank = l->chip->psum_bank_bytes;
    kernel_native spec = {
        .body = body, .slots = at->slots, .psum_banks = (int)((psum_bytes + bank - 1) / bank)};
    kernel_demand demand = {.sbuf_bytes = extent_of(body, VTRN_SPACE_SBUF),
                            .psum_banks = spec.psum_banks};
    vtrn_source *sources;
    VTRN_RETURN_IF_ERROR(find_sources(l, op, body, &sources));
    spec.sources = sources;
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_NATIVE, &spec, sizeof spec, demand));
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, at->argument[i]));
    for (uint32_t i = 0; i < op->n_results; i++)
        VTRN_RETURN_IF_ERROR(plan_writes_whole(l->plan, at->output[i]));
    return NULL;
}

typedef struct native_body {
    vtrn_program *program;
    struct native_body *next;
} native_body;

void lower_drop_natives(lower *l) {
    for (; l->natives; l->natives = l->natives->next)
        program_destroy(l->natives->program);
}

vtrn_status lower_native(lower *l, const graph_op *op, bool *is_done) {
    *is_done = lower_is_native(op);
    if (!*is_done)
        return NULL;
    native_body *body = ARENA_NEW(&l->tmp, native_body, 1);
    if (!body)
        return VTRN_OUT_OF_MEMORY(sizeof *body);
    VTRN_RETURN_IF_ERROR(load_body(op, &body->program));
    body->next = l->natives;
    l->natives = body;
    VTRN_RETURN_IF_ERROR(check_chip(l, body->program));
    VTRN_RETURN_IF_ERROR(check_list(body->program));
    VTRN_RETURN_IF_ERROR(check_types(l, op, body->program));
    binding at = {.argument = ARENA_NEW(&l->tmp, uint32_t, op->n_operands),
                  .output = ARENA_NEW(&l->tmp, uint32_t, op->n_results),
                  .slots = ARENA_NEW(&l->tmp, uint32_t, body->program->n_slots)};
    if (!at.argument || !at.output || !at.slots)
        return VTRN_OUT_OF_MEMORY(body->program->n_slots * sizeof *at.slots);
    VTRN_RETURN_IF_ERROR(bind_values(l, op, body->program, &at));
    VTRN_RETURN_IF_ERROR(bind_slots(l, body->program, &at));
    return record(l, op, body->program, &at);
}
