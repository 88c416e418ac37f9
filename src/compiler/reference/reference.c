/* The table of the reference: which routine evaluates which op. */
#include "compiler/reference/reference.h"

#include "compiler/reference/host_callback.h"
#include "compiler/reference/ref_internal.h"
#include "compiler/reference/ref_matrices.h"
#include "isa/program.h"

static vtrn_status token(ref_call *c) {
    (void)c;
    return NULL;
}

bool reference_is_callback(const graph_op *op) {
    return op->kind == GRAPH_CUSTOM_CALL && op->name && !strcmp(op->name, VTRN_CALLBACK_NAME);
}

static vtrn_status callback(ref_call *c) {
    return host_callback_run(c->op, c->in, c->out);
}

static bool fits_always(const graph *g, const graph_op *op) {
    (void)g;
    (void)op;
    return true;
}

/* An annotation's result is its operand. */
static bool is_same(const graph *g, const graph_op *op) {
    if (op->n_operands != 1 || op->n_results != 1)
        return false;
    const graph_type *a = &g->types[op->operands[0]], *b = &g->types[op->results[0]];
    return a->dtype == b->dtype && ref_count(a) == ref_count(b);
}

static const struct {
    const char *target;
    bool (*fits)(const graph *g, const graph_op *op);
    ref_fn run;
} custom_calls[] = {
    {"Sharding", is_same, ref_identity},
    {"SPMDFullToShardShape", is_same, ref_identity},
    {"SPMDShardToFullShape", is_same, ref_identity},
    {"LayoutConstraint", is_same, ref_identity},
    {"annotate_device_placement", is_same, ref_identity},
    {"xla.sdy.FuncResultSharding", is_same, ref_identity},
    {VTRN_CALLBACK_NAME, fits_always, callback},
    {"ApproxTopK", ref_top_k_fits, ref_top_k},
    {"ResizeBilinear", ref_resize_fits, ref_resize},
    {"ResizeBilinearGrad", ref_resize_fits, ref_resize},
    {"ResizeNearest", ref_resize_fits, ref_resize},
    {"ResizeNearestGrad", ref_resize_fits, ref_resize},
};

static ref_fn find_custom_call(const graph *g, const graph_op *op) {
    for (size_t i = 0; i < sizeof custom_calls / sizeof *custom_calls; i++)
        if (op->name && !strcmp(op->name, custom_calls[i].target) && custom_calls[i].fits(g, op))
            return custom_calls[i].run;
    return NULL;
}

static vtrn_status linear_algebra(ref_call *c) {
    return matrices_run(matrices_find(c->op), c);
}

static vtrn_status custom_call(ref_call *c) {
    ref_fn run = find_custom_call(c->g, c->op);
    if (!run && !matrices_find(c->op))
        return ref_unimplemented(c->op, "the reference does not know this custom_call target");
    return run ? run(c) : linear_algebra(c);
}

static const ref_fn functions[GRAPH_KIND_COUNT] = {
    [GRAPH_BITCAST_CONVERT] = ref_bitcast_convert,
    [GRAPH_CONSTANT] = ref_constant,
    [GRAPH_IOTA] = ref_iota,
    [GRAPH_BROADCAST_IN_DIM] = ref_broadcast_in_dim,
    [GRAPH_RESHAPE] = ref_identity,
    [GRAPH_TRANSPOSE] = ref_transpose,
    [GRAPH_REVERSE] = ref_reverse,
    [GRAPH_SLICE] = ref_slice,
    [GRAPH_DYNAMIC_SLICE] = ref_dynamic_slice,
    [GRAPH_DYNAMIC_UPDATE_SLICE] = ref_dynamic_update_slice,
    [GRAPH_PAD] = ref_pad,
    [GRAPH_CONCATENATE] = ref_concatenate,
    [GRAPH_GATHER] = ref_gather,
    [GRAPH_SCATTER] = ref_scatter,
    [GRAPH_DOT_GENERAL] = ref_dot_general,
    [GRAPH_CONVOLUTION] = ref_convolution,
    [GRAPH_REDUCE] = ref_reduce,
    [GRAPH_REDUCE_WINDOW] = ref_reduce_window,
    [GRAPH_SELECT_AND_SCATTER] = ref_select_and_scatter,
    [GRAPH_SORT] = ref_sort,
    [GRAPH_RNG_BIT_GENERATOR] = ref_rng_bit_generator,
    [GRAPH_FFT] = ref_fft,
    [GRAPH_CHOLESKY] = linear_algebra,
    [GRAPH_TRIANGULAR_SOLVE] = linear_algebra,
    [GRAPH_MAP] = ref_map,
    [GRAPH_BATCH_NORM_TRAINING] = ref_batch_norm_training,
    [GRAPH_BATCH_NORM_INFERENCE] = ref_batch_norm_inference,
    [GRAPH_BATCH_NORM_GRAD] = ref_batch_norm_grad,
    [GRAPH_OPTIMIZATION_BARRIER] = ref_identity,
    [GRAPH_CREATE_TOKEN] = token,
    [GRAPH_AFTER_ALL] = token,
    [GRAPH_CUSTOM_CALL] = custom_call,
    [GRAPH_UNPACK] = ref_unpack,
    [GRAPH_PACK] = ref_pack,
};

bool reference_supports(const graph *g, const graph_op *op) {
    if (op->kind >= GRAPH_KIND_COUNT)
        return false;
    if (op->kind == GRAPH_CUSTOM_CALL) {
        const matrices_routine *routine = matrices_find(op);
        return find_custom_call(g, op) || (routine && matrices_fit(routine, g, op));
    }
    return ref_is_elementwise(op->kind) || functions[op->kind];
}

vtrn_status ref_run(ref_call *c) {
    const graph_op *op = c->op;
    if (ref_is_elementwise(op->kind))
        return ref_elementwise(c->g, op, c->in, c->out, ref_count(ref_out_type(c, 0)), false);
    if (op->kind >= GRAPH_KIND_COUNT || !functions[op->kind])
        return ref_unimplemented(op, "the reference does not evaluate this op");
    vtrn_status status = functions[op->kind](c);
    arena_free(&c->scratch);
    return status;
}

vtrn_status reference_op(const graph *g, const graph_op *op, const void *const *inputs,
                         void *const *outputs) {
    ref_call c = {.g = g, .op = op, .in = inputs, .out = outputs};
    return ref_run(&c);
}

uint64_t reference_flops(const graph *g, const graph_op *op) {
    const matrices_routine *routine = matrices_find(op);
    uint64_t n = routine ? matrices_flops(routine, g, op) : 0;
    for (uint32_t i = 0; i < op->n_operands; i++)
        n += (uint64_t)ref_count(&g->types[op->operands[i]]);
    for (uint32_t i = 0; i < op->n_results; i++)
        n += (uint64_t)ref_count(&g->types[op->results[i]]);
    return n;
}

vtrn_status reference_elements(const graph *g, const graph_op *op, const void *const *inputs,
                               void *output, bool *is_known) {
    graph_type types[REFERENCE_MAX_ELEMENTS + 1];
    graph_value numbers[REFERENCE_MAX_ELEMENTS + 1];
    *is_known = op->n_results == 1 && op->n_operands <= REFERENCE_MAX_ELEMENTS;
    if (!*is_known)
        return NULL;
    for (uint32_t i = 0; i <= op->n_operands; i++) {
        graph_value v = i < op->n_operands ? op->operands[i] : op->results[0];
        types[i] = (graph_type){.dtype = g->types[v].dtype};
        numbers[i] = i;
    }
    graph scalar = {.types = types, .n_values = op->n_operands + 1};
    graph_op on_scalars = *op;
    on_scalars.operands = numbers;
    on_scalars.results = numbers + op->n_operands;
    *is_known = reference_supports(&scalar, &on_scalars);
    return *is_known ? reference_op(&scalar, &on_scalars, inputs, &output) : NULL;
}
