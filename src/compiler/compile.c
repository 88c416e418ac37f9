/* Graph -> program: the order of things. */
#include "compiler/compile.h"

#include "collective/collective.h"
#include "compiler/build/finish.h"
#include "compiler/build/semaphores.h"
#include "compiler/build/weights_stay.h"
#include "compiler/custom/custom_check.h"
#include "compiler/custom/custom_run.h"
#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/lower.h"
#include "compiler/passes/passes.h"
#include "compiler/plan/contract_memo.h"
#include "compiler/plan/layout.h"
#include "compiler/plan/place.h"
#include "compiler/plan/plan_print.h"
#include "compiler/plan/verify_plan.h"
#include "compiler/reference/host_callback.h"

#include <stdlib.h>

static bool is_dumped(const compile_options *options, compile_stage stage) {
    return options->dump && options->dump_stages >> stage & 1;
}

static vtrn_status dump_graph(const graph *g, const compile_options *options) {
    char *text;
    if (!is_dumped(options, COMPILE_GRAPH))
        return NULL;
    VTRN_RETURN_IF_ERROR(graph_print(g, &text));
    fprintf(options->dump, "== graph\n%s", text);
    free(text);
    return NULL;
}

static void dump_plan(const plan *p, compile_stage stage, plan_stage reached) {
    if (is_dumped(p->options, stage))
        plan_print(p, reached, p->options->dump);
}

/* Where the form stage has a value of the graph; NULL: not in memory. */
static const view *view_of(const void *ctx, graph_value v) {
    const lower_value *value = &((const lower *)ctx)->values[v];
    return value->state == VALUE_VIEW ? &value->view : NULL;
}

static vtrn_status stages(lower *l) {
    plan *p = l->plan;
    VTRN_RETURN_IF_ERROR(dump_graph(l->g, l->options));
    VTRN_RETURN_IF_ERROR(lower_graph(l));
    dump_plan(p, COMPILE_FORM, PLAN_FORMED);
    VTRN_RETURN_IF_ERROR(plan_layout(p));
    dump_plan(p, COMPILE_TILES, PLAN_TILED);
    VTRN_RETURN_IF_ERROR(plan_place(p));
    dump_plan(p, COMPILE_PLACE, PLAN_PLACED);
    VTRN_RETURN_IF_ERROR(verify_plan(p, l->g));
    VTRN_RETURN_IF_ERROR(verify_maps(l->g, view_of, l));
    VTRN_RETURN_IF_ERROR(emit_plan(p));
    l->program->sbuf_peak_bytes = p->sbuf_peak;
    return build_finish(l->build);
}

/* NeuronCore-v1 has no fp32 in its array, and neither tf32 nor fp8: products of fp32 are cast, to
 * bf16 where nothing else is asked for, as the vendor's compiler does by default. */
static vtrn_status suit_chip(const vtrn_chip *chip, compile_options *options) {
    options->takes_int8 = chip->cost.int8_speedup > 0;
    if (chip->gen > 1)
        return NULL;
    if (options->auto_cast == AUTO_CAST_NONE)
        options->auto_cast = AUTO_CAST_MATMULT;
    vtrn_dtype to = options->auto_cast_type;
    if (to && to != VTRN_DTYPE_BF16 && to != VTRN_DTYPE_FP16)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "--auto-cast-type %s: the array of %s takes bf16 and fp16; choose one",
                          dtype_name(to), chip->core_name);
    return NULL;
}

/* NULL where collectives have no times: which ones, the run says. */
static collective_topology *topology_of(const graph *g, const vtrn_chip *chip,
                                        const compile_options *options) {
    collective_topology *t = NULL;
    if (options->instance && g->n_partitions * g->n_replicas > 1)
        vtrn_status_free(collective_topology_create(options->instance, chip, 1, 1, &t));
    return t;
}

/* SBUF of a partition that weights take, 0: none is to stay. Elements of a byte may be widened when
 * they are loaded. */
static vtrn_status weights_room(const vtrn_chip *chip, const graph *g,
                                const compile_options *options, uint32_t *out) {
    uint64_t n_bytes = 0;
    *out = 0;
    if (!options->n_weights)
        return NULL;
    if (!chip->weights_partition_bytes)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "--weights-stay: %s reads weights from HBM in every call; leave it out",
                          chip->core_name);
    if (options->n_weights > g->body.n_args)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "--weights-stay is %u; the program has %u arguments",
                          options->n_weights, g->body.n_args);
    for (uint32_t i = 0; i < options->n_weights; i++) {
        const graph_type *t = &g->types[g->body.args[i]];
        size_t size = dtype_size((vtrn_dtype)t->dtype);
        n_bytes += (uint64_t)graph_type_count(t) * (size == 1 ? 2 : size);
    }
    uint64_t rows = (uint64_t)chip->n_partitions, each = (n_bytes + rows - 1) / rows;
    *out = each < chip->weights_partition_bytes ? (uint32_t)((each + 63) / 64 * 64)
                                                : chip->weights_partition_bytes;
    return NULL;
}

vtrn_status compile_graph(const graph *g, const vtrn_chip *chip, const compile_options *options,
                          vtrn_program **out) {
    static const compile_options none = {0};
    *out = NULL;
    if (!chip->is_executable)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "chip %s: too few numbers are published to run programs on it; choose "
                          "trn1, inf2, trn2 or trn3",
                          chip->name);
    VTRN_RETURN_IF_ERROR(schedule_supports(chip));
    compile_options own = options ? *options : none;
    options = &own;
    VTRN_RETURN_IF_ERROR(suit_chip(chip, &own));
    arena home = ARENA_EMPTY;
    vtrn_program *program = ARENA_NEW(&home, vtrn_program, 1);
    if (!program)
        return VTRN_OUT_OF_MEMORY(sizeof *program);
    program->arena = home;
    uint32_t stay_bytes = 0;
    vtrn_status refused = weights_room(chip, g, options, &stay_bytes);
    if (refused) {
        program_destroy(program);
        return refused;
    }
    collective_topology *topology = topology_of(g, chip, options);
    builder build = {.chip = chip,
                     .program = program,
                     .topology = topology,
                     .keeps_order = options->has_no_schedule};
    contract_memo cuts = {0};
    plan p = {.chip = chip,
              .cuts = &cuts,
              .options = options,
              .build = &build,
              .sbuf_limit =
                  chip->sbuf_partition_bytes - chip->sbuf_reserved_partition_bytes - stay_bytes};
    lower l = {
        .g = g, .chip = chip, .options = options, .program = program, .build = &build, .plan = &p};
    graph *passed = NULL;
    vtrn_status status = passes_run(g, options, &passed);
    l.g = passed;
    if (!status)
        status = stages(&l);
    if (!status && stay_bytes)
        status = weights_stay_mark(program, options->n_weights,
                                   (uint64_t)stay_bytes * (uint64_t)chip->n_partitions);
    lower_drop_open(&l); /* there are some after an error only */
    build_free(&build);
    collective_topology_destroy(topology);
    plan_free(&p);
    lower_drop_natives(&l);
    arena_free(&l.tmp);
    graph_destroy(passed);
    if (status)
        program_destroy(program);
    else
        *out = program;
    return status;
}

vtrn_status compile_run_custom(void *ctx, const vtrn_program *program, uint32_t custom_i,
                               void *const *inputs, void *const *outputs) {
    (void)ctx;
    return custom_run(program, custom_i, inputs, outputs);
}

void compile_set_callbacks(const host_callbacks *callbacks) {
    host_callbacks_set(callbacks);
}

vtrn_status compile_hold_callbacks(const vtrn_program *program, int change) {
    return custom_hold_callbacks(program, change);
}

bool compile_is_in_callback(void) {
    return host_callback_is_running();
}

vtrn_status compile_check_customs(const vtrn_program *program) {
    return custom_check(program);
}
