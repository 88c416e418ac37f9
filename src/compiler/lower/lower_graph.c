/* Operation after operation, region after region, from the arguments to the outputs. */
#include "compiler/lower/lower.h"
#include "compiler/lower/movement.h"
#include "compiler/lower/verify.h"
#include "compiler/reference/reference.h"

#include <string.h>

/* Whether its results are read, or it is called for its effect. */
static bool is_live_op(const lower *l, const graph_op *op) {
    bool is_live = graph_op_has_effect(op);
    for (uint32_t r = 0; r < op->n_results; r++)
        is_live |= l->values[op->results[r]].uses > 0;
    return is_live;
}

static void count_uses(lower *l, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_results; i++) {
        l->values[region->results[i]].uses++;
        l->values[region->results[i]].user = NULL;
        l->values[region->results[i]].is_result = true;
    }
    for (uint32_t i = region->n_ops; i-- > 0;) {
        const graph_op *op = &region->ops[i];
        if (!is_live_op(l, op))
            continue;
        l->has_control_flow |= op->kind == GRAPH_WHILE || op->kind == GRAPH_IF ||
                               op->kind == GRAPH_CASE || reference_is_callback(op);
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

/* Numbers the operations in order, and counts for each value those that name it; with is_noting
 * writes down which. */
static void find_uses(lower *l, const graph_region *region, bool is_noting, uint32_t *op_i) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        for (uint32_t o = 0; o < op->n_operands && is_live_op(l, op); o++) {
            lower_value *value = &l->values[op->operands[o]];
            if (is_noting)
                l->use_op_i[value->first_use + value->n_uses] = *op_i;
            value->n_uses++;
        }
        if (is_noting)
            l->ops[*op_i] = op;
        for (uint32_t r = 0; r < op->n_results; r++)
            l->values[op->results[r]].op_i = *op_i;
        ++*op_i;
        for (uint32_t r = 0; r < op->n_regions; r++)
            find_uses(l, op->regions[r], is_noting, op_i);
    }
}

static vtrn_status number_ops(lower *l) {
    uint32_t n = 0, op_i = 0;
    find_uses(l, &l->g->body, false, &op_i);
    for (uint32_t v = 0; v < l->g->n_values; v++) {
        l->values[v].first_use = n;
        n += l->values[v].n_uses;
        l->values[v].n_uses = 0;
    }
    l->use_op_i = ARENA_NEW(&l->tmp, uint32_t, n);
    l->ops = ARENA_NEW(&l->tmp, const graph_op *, op_i);
    if (!l->use_op_i || !l->ops)
        return VTRN_OUT_OF_MEMORY(n * sizeof *l->use_op_i + op_i * sizeof *l->ops);
    op_i = 0;
    find_uses(l, &l->g->body, true, &op_i);
    return NULL;
}

static bool is_empty_op(const lower *l, const graph_op *op) {
    if (graph_op_has_effect(op))
        return false;
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
        VTRN_RETURN_IF_ERROR(build_source_set(l->build, op->name, op->place));
        if (op->n_results)
            l->op_i = l->values[op->results[0]].op_i;
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
        VTRN_RETURN_IF_ERROR(lower_close_finished(l));
        if (l->options->has_no_fusion)
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
    p->n_replicas = (uint32_t)g->n_replicas;
    p->n_partitions = (uint32_t)g->n_partitions;
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
    for (uint32_t i = 0; i < g->n_values; i++)
        l->values[i].output = -1;
    VTRN_RETURN_IF_ERROR(check_types(g));
    VTRN_RETURN_IF_ERROR(build_source_set(l->build, "program", ""));
    for (uint32_t i = 0; i < p->n_arguments; i++) {
        const graph_type *t = &g->types[g->body.args[i]];
        VTRN_RETURN_IF_ERROR(
            vtrn_status_annotate(build_slot_add(l->build, VTRN_SLOT_ARGUMENT, t->dtype,
                                                graph_type_bytes(t), (int32_t)i, &arg_slot[i]),
                                 "argument %u of %s", i, g->name));
        view v = view_dense(arg_slot[i], t);
        lower_set_view(l, g->body.args[i], &v);
    }
    for (uint32_t i = 0; i < p->n_outputs; i++) {
        const graph_type *t = &g->types[g->body.results[i]];
        VTRN_RETURN_IF_ERROR(
            vtrn_status_annotate(build_slot_add(l->build, VTRN_SLOT_OUTPUT, t->dtype,
                                                graph_type_bytes(t), (int32_t)i, &output_slot[i]),
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
    return number_ops(l);
}

/* The output is the argument that it was donated, as it is. */
static bool is_in_place(const lower *l, uint32_t output, const view *from) {
    int32_t a = l->program->output_alias[output];
    return a >= 0 && from->slot == l->arg_slot[a] && from->offset == 0 && view_is_dense(from);
}

/* Outputs that are arguments, views or constants, or named twice, are copied. */
static vtrn_status finish_outputs(lower *l) {
    const graph *g = l->g;
    for (uint32_t i = 0; i < g->body.n_results; i++) {
        graph_value v = g->body.results[i];
        view from, to = view_dense(l->output_slot[i], &g->types[v]);
        VTRN_RETURN_IF_ERROR(lower_materialise(l, v, &from));
        if (from.slot == to.slot || is_in_place(l, i, &from))
            continue;
        VTRN_RETURN_IF_ERROR(l->values[v].state == VALUE_SPLAT ? movement_fill(l, &from, &to)
                                                               : plan_copy(l->plan, &from, &to));
        VTRN_RETURN_IF_ERROR(verify_copied(l, v, &from, &to));
    }
    return NULL;
}

vtrn_status lower_graph(lower *l) {
    VTRN_RETURN_IF_ERROR(start(l));
    uint32_t entry;
    VTRN_RETURN_IF_ERROR(plan_block_begin(l->plan, &entry));
    VTRN_RETURN_IF_ERROR(verify_begin(l));
    VTRN_RETURN_IF_ERROR(lower_region(l, &l->g->body));
    VTRN_RETURN_IF_ERROR(lower_close_all(l));
    VTRN_RETURN_IF_ERROR(build_source_set(l->build, "outputs", ""));
    VTRN_RETURN_IF_ERROR(finish_outputs(l));
    build_block_end(l->build, l->build->n_blocks - 1, VTRN_END_STOP, 0, 0, 0);
    return NULL;
}
