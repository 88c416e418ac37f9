/* Graph -> program: the order of things. */
#include "compiler/compile.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/lower.h"
#include "compiler/lower/verify.h"
#include "compiler/plan/layout.h"
#include "compiler/plan/place.h"
#include "compiler/plan/plan_print.h"
#include "compiler/plan/verify_plan.h"
#include "compiler/reference/reference.h"

#include <stdlib.h>
#include <string.h>

/* Somebody uses its results. */
static bool is_live_op(const lower *l, const graph_op *op) {
    bool is_live = op->kind == GRAPH_CUSTOM_CALL && op->attrs.custom_call.has_side_effect;
    for (uint32_t r = 0; r < op->n_results; r++)
        is_live |= l->values[op->results[r]].uses > 0;
    return is_live;
}

static void count_uses(lower *l, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_results; i++) {
        l->values[region->results[i]].uses++;
        l->values[region->results[i]].user = NULL;
    }
    for (uint32_t i = region->n_ops; i-- > 0;) {
        const graph_op *op = &region->ops[i];
        if (!is_live_op(l, op))
            continue;
        l->has_control_flow |=
            op->kind == GRAPH_WHILE || op->kind == GRAPH_IF || op->kind == GRAPH_CASE;
        for (uint32_t o = 0; o < op->n_operands; o++) {
            lower_value *value = &l->values[op->operands[o]];
            value->user = value->uses ? NULL : op;
            value->uses++;
        }
        for (uint32_t r = 0; r < op->n_regions; r++)
            count_uses(l, op->regions[r]);
    }
}

/* Finds the values that nothing but contractions reads. */
static void find_contracted(lower *l, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++)
        for (uint32_t r = 0; r < region->ops[i].n_results; r++)
            l->values[region->ops[i].results[r]].is_contracted = true;
    for (uint32_t i = 0; i < region->n_results; i++)
        l->values[region->results[i]].is_contracted = false;
    for (uint32_t i = region->n_ops; i-- > 0;) {
        const graph_op *op = &region->ops[i];
        bool is_contraction =
            op->kind == GRAPH_DOT_GENERAL || op->kind == GRAPH_CONVOLUTION ||
            (view_is_view_kind((graph_kind)op->kind) && op->kind != GRAPH_BITCAST_CONVERT &&
             l->values[op->results[0]].is_contracted);
        for (uint32_t o = 0; o < op->n_operands && !is_contraction; o++)
            l->values[op->operands[o]].is_contracted = false;
        for (uint32_t r = 0; r < op->n_regions; r++)
            find_contracted(l, op->regions[r]);
    }
}

/* Numbers the operations, and counts for each value those that name it; with is_noting writes down
 * which. */
static void find_uses(lower *l, const graph_region *region, bool is_noting, uint32_t *place) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        for (uint32_t o = 0; o < op->n_operands && is_live_op(l, op); o++) {
            lower_value *value = &l->values[op->operands[o]];
            if (is_noting)
                l->places[value->first_use + value->n_uses] = *place;
            value->n_uses++;
        }
        if (is_noting)
            l->ops[*place] = op;
        for (uint32_t r = 0; r < op->n_results; r++)
            l->values[op->results[r]].place = *place;
        ++*place;
        for (uint32_t r = 0; r < op->n_regions; r++)
            find_uses(l, op->regions[r], is_noting, place);
    }
}

static vtrn_status find_places(lower *l) {
    uint32_t n = 0, place = 0;
    find_uses(l, &l->g->body, false, &place);
    for (uint32_t v = 0; v < l->g->n_values; v++) {
        l->values[v].first_use = n;
        n += l->values[v].n_uses;
        l->values[v].n_uses = 0;
    }
    l->places = ARENA_NEW(&l->tmp, uint32_t, n);
    l->ops = ARENA_NEW(&l->tmp, const graph_op *, place);
    if (!l->places || !l->ops)
        return VTRN_OUT_OF_MEMORY(n * sizeof *l->places + place * sizeof *l->ops);
    place = 0;
    find_uses(l, &l->g->body, true, &place);
    return NULL;
}

static vtrn_status lower_constant(lower *l, const graph_op *op) {
    const graph_type *type = &l->g->types[op->results[0]];
    lower_value *value = &l->values[op->results[0]];
    size_t size = dtype_size(type->dtype);
    if ((op->attrs.constant.is_splat || graph_type_count(type) == 1) && size <= 8) {
        value->state = VALUE_SPLAT;
        memcpy(&value->splat_bits, op->attrs.constant.data, size);
        return NULL;
    }
    uint32_t slot;
    if (op->attrs.constant.is_splat) {
        VTRN_RETURN_IF_ERROR(
            lower_constant_add(l, type->dtype, op->attrs.constant.data, size, &slot));
        view v = view_dense(slot, type);
        for (int i = 0; i < v.n; i++)
            v.f[i].stride = 0;
        lower_set_view(l, op->results[0], &v);
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(
        lower_constant_add(l, type->dtype, op->attrs.constant.data, graph_type_bytes(type), &slot));
    view v = view_dense(slot, type);
    lower_set_view(l, op->results[0], &v);
    return NULL;
}

vtrn_status lower_view_op(lower *l, const graph_op *op, bool *is_done) {
    if (op->kind == GRAPH_OPTIMIZATION_BARRIER && op->n_operands != 1)
        return NULL;
    lower_value *from = &l->values[op->operands[0]], *to = &l->values[op->results[0]];
    if (from->state == VALUE_SPLAT && op->kind != GRAPH_BITCAST_CONVERT) {
        to->state = VALUE_SPLAT;
        to->splat_bits = from->splat_bits;
        *is_done = true;
        return NULL;
    }
    view operand, result;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &operand));
    if (!view_apply(l->g, op, &operand, &result)) {
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &operand));
        if (!view_apply(l->g, op, &operand, &result))
            return NULL;
    }
    lower_set_view(l, op->results[0], &result);
    *is_done = true;
    return NULL;
}

/* An elementwise op on splats is a splat: evaluated here, once. */
static vtrn_status fold_splats(lower *l, const graph_op *op, bool *is_done) {
    enum { MAX_OPERANDS = 3 };
    if (op->kind > GRAPH_REDUCE_PRECISION || op->n_results != 1 || op->n_operands == 0 ||
        op->n_operands > MAX_OPERANDS || op->kind == GRAPH_BITCAST_CONVERT)
        return NULL;
    graph_type types[MAX_OPERANDS + 1];
    graph_value numbers[MAX_OPERANDS + 1];
    const void *inputs[MAX_OPERANDS];
    for (uint32_t i = 0; i <= op->n_operands; i++) {
        graph_value v = i < op->n_operands ? op->operands[i] : op->results[0];
        types[i] = (graph_type){.dtype = l->g->types[v].dtype};
        numbers[i] = i;
        if (dtype_size(types[i].dtype) > 8)
            return NULL;
        if (i == op->n_operands)
            break;
        if (l->values[v].state != VALUE_SPLAT)
            return NULL;
        inputs[i] = &l->values[v].splat_bits;
    }
    graph scalar = {.types = types, .n_values = op->n_operands + 1};
    graph_op on_scalars = *op;
    on_scalars.operands = numbers;
    on_scalars.results = numbers + op->n_operands;
    if (!reference_supports(&scalar, &on_scalars))
        return NULL;
    lower_value *result = &l->values[op->results[0]];
    result->splat_bits = 0;
    void *outputs[] = {&result->splat_bits};
    VTRN_RETURN_IF_ERROR(reference_op(&scalar, &on_scalars, inputs, outputs));
    result->state = VALUE_SPLAT;
    *is_done = true;
    return NULL;
}

static vtrn_status lower_op(lower *l, const graph_op *op, bool *is_reference) {
    *is_reference = false;
    if (op->kind == GRAPH_CONSTANT)
        return lower_constant(l, op);
    static lower_fn *const families[] = {
        lower_control,     fold_splats,      lower_affine,     lower_cast,
        lower_pad_sum,     lower_fused,      lower_view_op,    lower_dot,
        lower_convolution, lower_cumulative, lower_window,     lower_movement,
        lower_indexed,     lower_dynamic,    lower_arg_reduce, lower_sort};
    bool is_control = op->kind == GRAPH_WHILE || op->kind == GRAPH_IF || op->kind == GRAPH_CASE;
    bool is_done = false;
    for (size_t i = 0; i < sizeof families / sizeof *families && !is_done; i++) {
        bool is_skipped = families[i] == lower_view_op ? !view_is_view_kind(op->kind)
                                                       : l->options.reference_only && !is_control;
        if (!is_skipped)
            VTRN_RETURN_IF_ERROR(families[i](l, op, &is_done));
    }
    *is_reference = !is_done;
    return is_done ? NULL : lower_custom(l, op);
}

static bool is_empty_op(const lower *l, const graph_op *op) {
    for (uint32_t r = 0; r < op->n_results; r++)
        if (graph_type_count(&l->g->types[op->results[r]]) != 0)
            return false;
    return op->n_results > 0;
}

/* Values without elements need memory of no bytes and no work. */
static vtrn_status lower_empty(lower *l, const graph_op *op) {
    for (uint32_t r = 0; r < op->n_results; r++) {
        view v;
        VTRN_RETURN_IF_ERROR(lower_result(l, op->results[r], &v));
    }
    return NULL;
}

static vtrn_status lower_ops(lower *l, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        bool is_lowered = op->n_results == 1 && op->kind == GRAPH_TRANSPOSE &&
                          l->values[op->results[0]].state != VALUE_UNSET; /* with its operand */
        if (!is_live_op(l, op))
            continue;
        if (is_lowered) {
            VTRN_RETURN_IF_ERROR(verify_lowered(l, op, false));
            continue;
        }
        VTRN_RETURN_IF_ERROR(lower_source_set(l, op->name, op->place));
        if (op->n_results)
            l->place = l->values[op->results[0]].place;
        bool is_reference = false;
        vtrn_status status =
            is_empty_op(l, op) ? lower_empty(l, op) : lower_op(l, op, &is_reference);
        if (!status)
            status = verify_lowered(l, op, is_reference);
        if (status)
            return vtrn_status_annotate(status, "%s%s%s", op->name, *op->place ? " " : "",
                                        op->place);
        for (uint32_t o = 0; o < op->n_operands; o++)
            lower_used(l, op->operands[o]);
        if (l->options.has_no_fusion)
            VTRN_RETURN_IF_ERROR(lower_close_all(l));
    }
    return NULL;
}

vtrn_status lower_region(lower *l, const graph_region *region) {
    const graph_region *outer = l->region;
    l->region = region;
    vtrn_status status = lower_ops(l, region);
    l->region = outer;
    return status;
}

static vtrn_status check_types(const graph *g) {
    for (uint32_t i = 0; i < g->n_values; i++) {
        const graph_type *t = &g->types[i];
        uint64_t bytes = dtype_size(t->dtype);
        for (int d = 0; d < t->rank; d++)
            if (t->dims[d] < 0 || __builtin_mul_overflow(bytes, (uint64_t)t->dims[d], &bytes) ||
                bytes > INT64_MAX)
                return VTRN_ERROR(VTRN_CAPACITY,
                                  "tensor shape: value %u has more bytes than an "
                                  "address can name",
                                  i);
    }
    return NULL;
}

static vtrn_status start(lower *l) {
    const graph *g = l->g;
    vtrn_program *p = l->program;
    p->gen = (uint8_t)l->chip->gen;
    p->chip = arena_strdup(&p->arena, l->chip->name, strlen(l->chip->name));
    p->name =
        arena_strdup(&p->arena, g->name ? g->name : "main", strlen(g->name ? g->name : "main"));
    p->n_arguments = g->body.n_args;
    p->n_outputs = g->body.n_results;
    p->output_alias = ARENA_NEW(&p->arena, int32_t, p->n_outputs);
    l->values = ARENA_NEW(&l->tmp, lower_value, g->n_values);
    uint32_t *arg_slot = ARENA_NEW(&l->tmp, uint32_t, p->n_arguments);
    uint32_t *output_slot = ARENA_NEW(&l->tmp, uint32_t, p->n_outputs);
    if (!p->chip || !p->name || !p->output_alias || !l->values || !arg_slot || !output_slot)
        return VTRN_OUT_OF_MEMORY(g->n_values * sizeof *l->values);
    l->arg_slot = arg_slot;
    l->output_slot = output_slot;
    l->sbuf_limit = l->chip->sbuf_partition_bytes - l->chip->sbuf_reserved_partition_bytes;
    for (uint32_t i = 0; i < g->n_values; i++)
        l->values[i].output = -1;
    VTRN_RETURN_IF_ERROR(check_types(g));
    VTRN_RETURN_IF_ERROR(lower_source_set(l, "program", ""));
    for (uint32_t i = 0; i < p->n_arguments; i++) {
        const graph_type *t = &g->types[g->body.args[i]];
        VTRN_RETURN_IF_ERROR(
            vtrn_status_annotate(lower_slot_add(l, VTRN_SLOT_ARGUMENT, t->dtype,
                                                graph_type_bytes(t), (int32_t)i, &arg_slot[i]),
                                 "argument %u of %s", i, g->name));
        view v = view_dense(arg_slot[i], t);
        lower_set_view(l, g->body.args[i], &v);
    }
    for (uint32_t i = 0; i < p->n_outputs; i++) {
        const graph_type *t = &g->types[g->body.results[i]];
        VTRN_RETURN_IF_ERROR(
            vtrn_status_annotate(lower_slot_add(l, VTRN_SLOT_OUTPUT, t->dtype, graph_type_bytes(t),
                                                (int32_t)i, &output_slot[i]),
                                 "output %u of %s", i, g->name));
        p->output_alias[i] = -1;
        lower_value *value = &l->values[g->body.results[i]];
        if (value->output < 0 && value->state == VALUE_UNSET)
            value->output = (int32_t)i;
    }
    for (uint32_t a = 0; a < p->n_arguments; a++) {
        int32_t o = g->arg_alias_output ? g->arg_alias_output[a] : -1;
        if (o >= 0 && (uint32_t)o < p->n_outputs)
            p->output_alias[o] = (int32_t)a;
    }
    count_uses(l, &g->body);
    find_contracted(l, &g->body);
    return find_places(l);
}

/* The output is the argument that it was donated, as it is. */
static bool is_in_place(const lower *l, uint32_t output, const view *from) {
    int32_t a = l->program->output_alias[output];
    return a >= 0 && from->slot == l->arg_slot[a] && from->offset == 0 && view_is_dense(from);
}

/* Outputs that are arguments, views or constants, or wanted twice, are copied. */
static vtrn_status finish_outputs(lower *l) {
    const graph *g = l->g;
    for (uint32_t i = 0; i < g->body.n_results; i++) {
        graph_value v = g->body.results[i];
        view from, to = view_dense(l->output_slot[i], &g->types[v]);
        VTRN_RETURN_IF_ERROR(lower_materialise(l, v, &from));
        if (from.slot == to.slot || is_in_place(l, i, &from))
            continue;
        VTRN_RETURN_IF_ERROR(lower_copy(l, &from, &to));
        VTRN_RETURN_IF_ERROR(verify_copied(l, v, &from, &to));
    }
    return NULL;
}

static vtrn_status run(lower *l) {
    VTRN_RETURN_IF_ERROR(start(l));
    uint32_t entry;
    VTRN_RETURN_IF_ERROR(lower_block_begin(l, &entry));
    VTRN_RETURN_IF_ERROR(verify_begin(l));
    VTRN_RETURN_IF_ERROR(lower_region(l, &l->g->body));
    VTRN_RETURN_IF_ERROR(lower_close_all(l));
    VTRN_RETURN_IF_ERROR(lower_source_set(l, "outputs", ""));
    VTRN_RETURN_IF_ERROR(finish_outputs(l));
    lower_block_end(l, l->n_blocks - 1, VTRN_END_STOP, 0, 0, 0);
    return NULL;
}

static bool is_dumped(const lower *l, compile_stage stage) {
    return l->options.dump && l->options.dump_stages >> stage & 1;
}

static vtrn_status dump_graph(const lower *l) {
    char *text;
    if (!is_dumped(l, COMPILE_GRAPH))
        return NULL;
    VTRN_RETURN_IF_ERROR(graph_print(l->g, &text));
    fprintf(l->options.dump, "== graph\n%s", text);
    free(text);
    return NULL;
}

static void dump_plan(const lower *l, compile_stage stage, plan_stage reached) {
    if (is_dumped(l, stage))
        plan_print(l, reached, l->options.dump);
}

static vtrn_status stages(lower *l) {
    VTRN_RETURN_IF_ERROR(dump_graph(l));
    VTRN_RETURN_IF_ERROR(run(l));
    dump_plan(l, COMPILE_FORM, PLAN_FORMED);
    VTRN_RETURN_IF_ERROR(plan_layout(l));
    dump_plan(l, COMPILE_TILES, PLAN_TILED);
    VTRN_RETURN_IF_ERROR(plan_place(l));
    dump_plan(l, COMPILE_PLACE, PLAN_PLACED);
    VTRN_RETURN_IF_ERROR(verify_plan(l));
    VTRN_RETURN_IF_ERROR(verify_maps(l));
    VTRN_RETURN_IF_ERROR(emit_plan(l));
    return lower_finish(l);
}

vtrn_status compile_graph(const graph *g, const vtrn_chip *chip, const compile_options *options,
                          vtrn_program **out) {
    *out = NULL;
    if (!chip->is_executable)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "chip %s: too few numbers are published to run programs on it; choose "
                          "trn1, inf2, trn2 or trn3",
                          chip->name);
    arena home = ARENA_EMPTY;
    vtrn_program *program = ARENA_NEW(&home, vtrn_program, 1);
    if (!program)
        return VTRN_OUT_OF_MEMORY(sizeof *program);
    program->arena = home;
    lower l = {.g = g, .chip = chip, .program = program};
    if (options)
        l.options = *options;
    vtrn_status status = stages(&l);
    lower_drop_open(&l); /* there are some after an error only */
    free(l.list);
    free(l.blocks);
    free(l.slots);
    free(l.sources);
    free(l.customs);
    free(l.data);
    plan_free(&l.plan);
    arena_free(&l.tmp);
    if (status)
        program_destroy(program);
    else
        *out = program;
    return status;
}
