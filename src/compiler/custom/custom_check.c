/* Checks the custom ops of a program that came from a file: what the compiler guarantees of its own
 * must be shown of theirs before a reference routine may trust it. */
#include "compiler/custom/custom_check.h"

#include "compiler/custom/custom_codec.h"
#include "compiler/custom/verify_blob.h"
#include "compiler/custom/verify_run.h"
#include "compiler/reference/reference.h"
#include "compiler/vhlo/vhlo.h"

#include <stdio.h>
#include <stdlib.h>

static const char remedy[] = "compile the program again";

#define BROKEN(...)                                                                                \
    do {                                                                                           \
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, __VA_ARGS__);                                         \
    } while (0)

/* A list of vhlo_ops.def: comma separated, x* is variadic. */
static bool is_count(const char *list, uint32_t n) {
    uint32_t n_items = 0, n_variadic = 0;
    for (const char *p = list; *p; p++) {
        n_items += p == list || p[-1] == ',';
        n_variadic += *p == '*';
    }
    return n_variadic ? n >= n_items - n_variadic : n == n_items;
}

/* As many operands, results and regions as the oldest version of the op takes: what the graph
 * holds has no more forms than that. */
static vtrn_status check_counts(const graph_op *op) {
    char name[64];
    const char *kind = graph_kind_name(op->kind);
    bool is_unary = graph_kind_is_composite(op->kind);
    const vhlo_op_info *info = NULL;
    for (int version = 1; version < 8 && !info && !is_unary; version++) {
        int n = snprintf(name, sizeof name, "%s_v%d", kind, version);
        info = vhlo_find_op(name, (size_t)n);
    }
    if (!info && !is_unary)
        BROKEN("%s is no operation of StableHLO; %s", kind, remedy);
    if (!is_count(is_unary ? "x" : info->operands, op->n_operands) ||
        !is_count(is_unary ? "x" : info->results, op->n_results) ||
        !is_count(is_unary ? "" : info->regions, op->n_regions))
        BROKEN("%s: %u operands, %u results and %u regions; it takes others; %s", kind,
               op->n_operands, op->n_results, op->n_regions, remedy);
    return NULL;
}

/* Numbers that index tables, and lists that later checks read without asking how long they are. */
static vtrn_status check_numbers(const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    bool is_good = true;
    switch (op->kind) {
    case GRAPH_COMPARE:
        is_good = at->compare.direction <= GRAPH_LT && at->compare.type <= GRAPH_CMP_UNSIGNED;
        break;
    case GRAPH_REDUCE_PRECISION:
        is_good =
            at->reduce_precision.exponent_bits <= 64 && at->reduce_precision.mantissa_bits <= 64;
        break;
    case GRAPH_IOTA:
    case GRAPH_CONCATENATE:
        is_good = at->dims.dims.n == 1;
        break;
    case GRAPH_DOT_GENERAL:
        is_good = at->dot.precision >= 0 && at->dot.precision <= 2;
        break;
    case GRAPH_RNG_BIT_GENERATOR:
        is_good = at->rng.algorithm >= 0 && at->rng.algorithm <= 2;
        break;
    case GRAPH_FFT:
        is_good = at->fft.type >= 0 && at->fft.type <= 3;
        break;
    case GRAPH_TRIANGULAR_SOLVE:
        is_good = at->triangular.transpose_a >= 1 && at->triangular.transpose_a <= 3;
        break;
    case GRAPH_OPTIMIZATION_BARRIER:
    case GRAPH_CREATE_TOKEN:
    case GRAPH_AFTER_ALL:
        is_good = false; /* no lowering leaves one */
        break;
    default:
        break;
    }
    if (!is_good)
        BROKEN("%s: an attribute is outside its range; %s", graph_kind_name(op->kind), remedy);
    return NULL;
}

static vtrn_status define(uint8_t *is_defined, const graph_value *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (is_defined[values[i]])
            BROKEN("value %u is defined twice; %s", values[i], remedy);
        is_defined[values[i]] = 1;
    }
    return NULL;
}

static vtrn_status check_op(const graph *g, const graph_op *op, uint8_t *is_defined);

/* Regions of reference ops hold scalar code: their values are defined once, before their use. */
static vtrn_status check_region(const graph *g, const graph_region *r, uint8_t *is_defined) {
    VTRN_RETURN_IF_ERROR(define(is_defined, r->args, r->n_args));
    for (uint32_t i = 0; i < r->n_ops; i++)
        VTRN_RETURN_IF_ERROR(check_op(g, &r->ops[i], is_defined));
    for (uint32_t i = 0; i < r->n_results; i++)
        if (!is_defined[r->results[i]])
            BROKEN("a region returns value %u, which nothing defines; %s", r->results[i], remedy);
    return NULL;
}

static vtrn_status check_op(const graph *g, const graph_op *op, uint8_t *is_defined) {
    if (!reference_supports(g, op))
        return VTRN_ERROR(VTRN_UNSUPPORTED, "%s: the reference has no such operation; %s",
                          graph_kind_name(op->kind), remedy);
    if (op->kind != GRAPH_CUSTOM_CALL)
        VTRN_RETURN_IF_ERROR(check_counts(op));
    VTRN_RETURN_IF_ERROR(check_numbers(op));
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!is_defined[op->operands[i]])
            BROKEN("%s: operand %u is value %u, which nothing defines; %s",
                   graph_kind_name(op->kind), i, op->operands[i], remedy);
    for (uint32_t i = 0; i < op->n_regions; i++)
        VTRN_RETURN_IF_ERROR(check_region(g, op->regions[i], is_defined));
    VTRN_RETURN_IF_ERROR(define(is_defined, op->results, op->n_results));
    VTRN_RETURN_IF_ERROR(graph_verify_op(g, op));
    graph_op again = *op;
    graph_recognise_regions(&again);
    if (again.reducer != op->reducer || again.select != op->select)
        BROKEN("%s: its region does not compute what the file says; %s", graph_kind_name(op->kind),
               remedy);
    return NULL;
}

static vtrn_status check_slot(const vtrn_program *p, const vtrn_custom *custom, uint32_t i,
                              const graph_type *t) {
    const vtrn_slot *slot = &p->slots[custom->slots[i]];
    uint64_t size = graph_type_bytes(t);
    if (size > slot->size_bytes)
        BROKEN("%s %u has %llu bytes, slot %u has %llu; %s",
               i < custom->n_inputs ? "operand" : "result",
               i < custom->n_inputs ? i : i - custom->n_inputs, (unsigned long long)size,
               custom->slots[i], (unsigned long long)slot->size_bytes, remedy);
    return NULL;
}

/* The region of a collective: a map of two tensors, as large as a rank's part, to one. */
static vtrn_status check_reducer(const vtrn_custom *custom, const graph *g) {
    const graph_op *op = &g->body.ops[0];
    const vtrn_exchange *x = &custom->collective->exchanges[0];
    if (op->kind != GRAPH_MAP || op->n_operands != 2 || op->n_results != 1)
        BROKEN("the reducer of a collective is no map of two tensors to one; %s", remedy);
    for (uint32_t i = 0; i < 3; i++) {
        const graph_type *t = &g->types[i < 2 ? op->operands[i] : op->results[0]];
        if (t->dtype != x->dtype || (uint64_t)graph_type_count(t) != x->n[0] * x->n[1] * x->run)
            BROKEN("tensor %u of the reducer differs from what a rank reduces; %s", i, remedy);
    }
    return NULL;
}

static vtrn_status check_decoded(const vtrn_program *p, const vtrn_custom *custom, const graph *g,
                                 uint8_t *is_defined) {
    const graph_op *op = &g->body.ops[0];
    if (custom->collective)
        VTRN_RETURN_IF_ERROR(check_reducer(custom, g));
    else if (op->n_operands != custom->n_inputs || op->n_results != custom->n_outputs)
        BROKEN("%u operands and %u results for %u and %u slots; %s", op->n_operands, op->n_results,
               custom->n_inputs, custom->n_outputs, remedy);
    if (program_is_callback(custom) != reference_is_callback(op))
        BROKEN("a callback's name or operation, and not both: the operation is %s; %s",
               op->name ? op->name : "unnamed", remedy);
    for (uint32_t i = 0; i < op->n_operands; i++)
        is_defined[op->operands[i]] = 1;
    for (uint32_t i = 1; i < g->body.n_ops; i++) {
        graph_value *constant = g->body.ops[i].results;
        is_defined[*constant] = 0; /* what a region captures may be an operand too */
        VTRN_RETURN_IF_ERROR(check_op(g, &g->body.ops[i], is_defined));
    }
    VTRN_RETURN_IF_ERROR(check_op(g, op, is_defined));
    for (uint32_t i = 0; i < op->n_operands && !custom->collective; i++)
        VTRN_RETURN_IF_ERROR(check_slot(p, custom, i, &g->types[op->operands[i]]));
    for (uint32_t i = 0; i < op->n_results && !custom->collective; i++)
        VTRN_RETURN_IF_ERROR(
            check_slot(p, custom, custom->n_inputs + i, &g->types[op->results[i]]));
    return NULL;
}

static vtrn_status check_reference_op(const vtrn_program *p, const vtrn_custom *custom) {
    graph *g = NULL;
    VTRN_RETURN_IF_ERROR(custom_decode(custom->blob, custom->blob_size, &g));
    uint8_t *is_defined = calloc((size_t)g->n_values + 1, 1);
    vtrn_status status = is_defined ? check_decoded(p, custom, g, is_defined)
                                    : VTRN_OUT_OF_MEMORY((size_t)g->n_values + 1);
    free(is_defined);
    graph_destroy(g);
    return status;
}

static vtrn_status check_verification(const vtrn_program *p, const vtrn_custom *custom) {
    verify_check check;
    VTRN_RETURN_IF_ERROR(verify_decode(custom->blob, custom->blob_size, &check));
    uint8_t *is_defined = calloc((size_t)check.g->n_values + 1, 1);
    vtrn_status status = is_defined ? check_region(check.g, &check.g->body, is_defined)
                                    : VTRN_OUT_OF_MEMORY((size_t)check.g->n_values + 1);
    if (!status)
        status = verify_check_places(p, custom, &check);
    free(is_defined);
    graph_destroy(check.g);
    return status;
}

vtrn_status custom_check(const vtrn_program *p) {
    for (uint32_t i = 0; i < p->n_customs; i++) {
        const vtrn_custom *custom = &p->customs[i];
        if (custom->collective && custom->collective->reducer != VTRN_REDUCER_CUSTOM)
            continue;
        bool is_check =
            verify_is_blob(custom->blob, custom->blob_size) && !program_is_callback(custom);
        vtrn_status status =
            is_check ? check_verification(p, custom) : check_reference_op(p, custom);
        if (status)
            return vtrn_status_annotate(status, "custom %u (%s) of the program", i,
                                        custom->name ? custom->name : "");
    }
    return NULL;
}
