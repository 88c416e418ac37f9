/* Where the time of a step went, by the user's operation; and words for an instruction. */
#include "profile/profile_ops.h"

#include "isa/access.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool profile_is_dma_lane(const timing_interval *interval) {
    return interval->lane >= TIMING_LANE_DMA;
}

bool profile_is_work(const vtrn_instr *instr, const timing_interval *interval) {
    vtrn_opcode opcode = (vtrn_opcode)instr->opcode;
    const vtrn_op_info *info = isa_op_info(opcode);
    return profile_is_dma_lane(interval) || (info && !info->is_setup && !isa_is_dma(opcode));
}

uint64_t profile_dma_bytes(const vtrn_instr *instr) {
    const vtrn_ap *ap = &instr->ap[0];
    return ap->space == VTRN_SPACE_NONE ? 0
                                        : (uint64_t)ap->n_partitions * isa_ap_free_size(ap) *
                                              dtype_size((vtrn_dtype)ap->dtype);
}

static const char *text_of(const char *text) {
    return text ? text : "";
}

typedef struct keyed_source {
    const char *op, *place;
    uint32_t source;
} keyed_source;

static int compare_sources(const void *a, const void *b) {
    const keyed_source *x = a, *y = b;
    int order = strcmp(x->op, y->op);
    if (order == 0)
        order = strcmp(x->place, y->place);
    return order ? order : (x->source > y->source) - (x->source < y->source);
}

static int compare_ops(const void *a, const void *b) {
    const profile_op *x = a, *y = b;
    if (x->engine_ns != y->engine_ns)
        return x->engine_ns < y->engine_ns ? 1 : -1;
    if (x->dma_ns != y->dma_ns)
        return x->dma_ns < y->dma_ns ? 1 : -1;
    int order = strcmp(x->op, y->op);
    return order ? order : strcmp(x->place, y->place);
}

static void add_interval(profile_op *op, const vtrn_instr *instr, const timing_interval *interval) {
    double ns = interval->end_ns - interval->start_ns;
    if (profile_is_dma_lane(interval)) {
        op->n_dmas++;
        op->dma_ns += ns;
        op->dma_bytes += profile_dma_bytes(instr);
        return;
    }
    op->n_instrs++;
    op->wait_ns += interval->wait_ns;
    if (interval->lane < VTRN_ENGINE_COUNT && profile_is_work(instr, interval)) {
        op->ns[interval->lane] += ns;
        op->engine_ns += ns;
    }
}

/* The names of the user's scopes in "train.py:42 in decoder/mlp". */
const char *profile_scope(const char *place) {
    const char *at = strstr(place, " in ");
    return at ? at + 4 : strncmp(place, "in ", 3) == 0 ? place + 3 : "";
}

/* What jax.random writes for one number is a dozen operations: all are one row. */
static keyed_source key_of(const vtrn_source *source, uint32_t i) {
    const char *place = text_of(source->place), *scope = profile_scope(place);
    size_t n = strlen(scope);
    bool is_random = n >= 3 && strcmp(scope + n - 3, "rng") == 0 && (n == 3 || scope[n - 4] == '/');
    return is_random ? (keyed_source){"random numbers", "in rng", i}
                     : (keyed_source){text_of(source->op), place, i};
}

/* Sources of the same op and place share a row: group_of[source] = row. Returns the rows. */
static size_t group_sources(const vtrn_program *program, keyed_source *keys, uint32_t *group_of,
                            profile_op *ops) {
    for (uint32_t i = 0; i < program->n_sources; i++)
        keys[i] = key_of(&program->sources[i], i);
    qsort(keys, program->n_sources, sizeof *keys, compare_sources);
    size_t n = 0;
    for (uint32_t i = 0; i < program->n_sources; i++) {
        if (i == 0 || strcmp(keys[i].op, keys[i - 1].op) != 0 ||
            strcmp(keys[i].place, keys[i - 1].place) != 0) {
            ops[n].op = keys[i].op;
            ops[n++].place = keys[i].place;
        }
        group_of[keys[i].source] = (uint32_t)(n - 1);
    }
    return n;
}

vtrn_status profile_op_list_create(const vtrn_program *program, const timing_result *timing,
                                   profile_op_list *out) {
    *out = (profile_op_list){0};
    size_t n_sources = program->n_sources;
    keyed_source *keys = calloc(n_sources + 1, sizeof *keys);
    out->ops = calloc(n_sources + 1, sizeof *out->ops);
    out->of_source = calloc(n_sources + 1, sizeof *out->of_source);
    if (!keys || !out->ops || !out->of_source) {
        free(keys);
        profile_op_list_free(out);
        return VTRN_OUT_OF_MEMORY(n_sources * sizeof *out->ops);
    }
    size_t n = group_sources(program, keys, out->of_source, out->ops);
    for (size_t i = 0; i < timing->n_intervals; i++) {
        const timing_interval *interval = &timing->intervals[i];
        if (interval->instr >= program->n_instrs)
            continue;
        const vtrn_instr *instr = &program->instrs[interval->instr];
        if (instr->source < n_sources)
            add_interval(&out->ops[out->of_source[instr->source]], instr, interval);
    }
    /* After sorting, rows find their sources through op and place, which they own alone. */
    qsort(out->ops, n, sizeof *out->ops, compare_ops);
    while (n > 0 && out->ops[n - 1].n_instrs + out->ops[n - 1].n_dmas == 0 &&
           out->ops[n - 1].engine_ns == 0)
        n--;
    memset(out->of_source, 0xff, n_sources * sizeof *out->of_source);
    for (size_t g = 0; g < n; g++) {
        keyed_source want = {out->ops[g].op, out->ops[g].place, 0};
        size_t lo = 0, hi = n_sources;
        while (lo < hi) {
            size_t mid = (lo + hi) / 2;
            if (compare_sources(&keys[mid], &want) < 0)
                lo = mid + 1;
            else
                hi = mid;
        }
        for (;
             lo < n_sources && !strcmp(keys[lo].op, want.op) && !strcmp(keys[lo].place, want.place);
             lo++)
            out->of_source[keys[lo].source] = (uint32_t)g;
    }
    out->n = n;
    free(keys);
    return NULL;
}

void profile_op_list_free(profile_op_list *list) {
    free(list->ops);
    free(list->of_source);
    *list = (profile_op_list){0};
}

/* Adds to text at *at, never beyond size; always terminated. */
__attribute__((format(printf, 4, 5))) static void add(char *text, size_t size, size_t *at,
                                                      const char *format, ...) {
    if (*at >= size)
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text + *at, size - *at, format, args);
    va_end(args);
    if (n > 0)
        *at += (size_t)n;
}

void profile_instr_title(const vtrn_program *program, const vtrn_instr *instr, char *text,
                         size_t size) {
    const vtrn_op_info *info = isa_op_info((vtrn_opcode)instr->opcode);
    const char *name = info ? info->mnemonic : "unknown";
    size_t at = 0;
    text[0] = 0;
    add(text, size, &at, "%s", name);
    switch (instr->opcode) {
    case VTRN_OP_ACTIVATE:
        add(text, size, &at, " %s", isa_act_name((vtrn_act)instr->func));
        break;
    case VTRN_OP_TENSOR_TENSOR:
    case VTRN_OP_TENSOR_REDUCE:
    case VTRN_OP_PARTITION_REDUCE:
        add(text, size, &at, " %s", isa_alu_name((vtrn_alu)instr->op0));
        break;
    case VTRN_OP_TENSOR_SCALAR:
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
    case VTRN_OP_TENSOR_TENSOR_SCAN:
        add(text, size, &at, " %s", isa_alu_name((vtrn_alu)instr->op0));
        if (instr->op1 != VTRN_ALU_NONE)
            add(text, size, &at, " %s", isa_alu_name((vtrn_alu)instr->op1));
        break;
    case VTRN_OP_CUSTOM_OP:
        if (instr->arg[0] >= 0 && (uint32_t)instr->arg[0] < program->n_customs)
            add(text, size, &at, " %s", text_of(program->customs[instr->arg[0]].name));
        break;
    default:
        break;
    }
}

static void add_operand(char *text, size_t size, size_t *at, const vtrn_ap *ap) {
    static const char *const spaces[] = {"", "sbuf", "psum", "hbm"};
    add(text, size, at, "%s %s[%u", ap->space <= VTRN_SPACE_HBM ? spaces[ap->space] : "?",
        dtype_name((vtrn_dtype)ap->dtype), ap->n_partitions);
    for (int d = 0; d < ap->n_dims && d < VTRN_MAX_FREE_DIMS; d++)
        add(text, size, at, ",%" PRIu32, ap->dim[d].num);
    add(text, size, at, "]");
}

void profile_instr_shapes(const vtrn_instr *instr, char *text, size_t size) {
    size_t at = 0;
    text[0] = 0;
    bool is_written = access_is_written(instr, 0);
    const char *between = "";
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (instr->ap[i].space == VTRN_SPACE_NONE ||
            (!access_is_written(instr, i) && !access_is_read(instr, i)))
            continue;
        add(text, size, &at, "%s", between);
        add_operand(text, size, &at, &instr->ap[i]);
        between = i == 0 && is_written ? " \xe2\x86\x90 " : ", ";
    }
}

void profile_lane_name(const timing_interval *interval, const vtrn_instr *instr, char *text,
                       size_t size) {
    if (profile_is_dma_lane(interval))
        snprintf(text, size, "DMA %s q%u", isa_engine_name((vtrn_engine)instr->engine),
                 instr->queue);
    else
        snprintf(text, size, "%s", isa_engine_name((vtrn_engine)interval->lane));
}
