/* Compiling an artifact and asking an executable about itself. */
#include "api/api.h"

#include "api/api_partition.h"
#include "base/float_env.h"
#include "compiler/cc_flags.h"
#include "compiler/passes/spmd.h"
#include "isa/container.h"

#include <stdlib.h>
#include <string.h>

/* order: as graph.arg_order; the type of the value has its dims in that order. */
static vtrn_status copy_type(const graph *g, graph_value value, const uint8_t *order,
                             api_type *out) {
    const graph_type *t = &g->types[value];
    VTRN_RETURN_IF_ERROR(api_type_init(t->dtype, t->rank, t->dims, out));
    out->is_token = t->is_token;
    for (int k = 0; order && k < t->rank; k++) {
        out->order[k] = order[k];
        out->dims[order[k]] = t->dims[k];
    }
    return NULL;
}

vtrn_status api_executable_describe(vtrn_executable *e, const char *name, uint32_t n_inputs,
                                    uint32_t n_outputs) {
    e->n_inputs = (int)n_inputs;
    e->n_outputs = (int)n_outputs;
    e->inputs = calloc((size_t)n_inputs + 1, sizeof *e->inputs);
    e->outputs = calloc((size_t)n_outputs + 1, sizeof *e->outputs);
    e->input_alias = calloc((size_t)n_inputs + 1, sizeof *e->input_alias);
    e->input_place = calloc((size_t)n_inputs + 1, sizeof *e->input_place);
    e->output_place = calloc((size_t)n_outputs + 1, sizeof *e->output_place);
    e->name = strdup(name);
    if (!e->inputs || !e->outputs || !e->input_alias || !e->input_place || !e->output_place ||
        !e->name)
        return VTRN_OUT_OF_MEMORY(sizeof *e->inputs * ((size_t)n_inputs + n_outputs));
    for (uint32_t i = 0; i < n_inputs; i++)
        e->input_alias[i] = -1;
    return NULL;
}

static vtrn_status describe_shardings(const graph *g, vtrn_executable *e) {
    const size_t n = (size_t)e->n_outputs + (size_t)e->n_inputs;
    if (g->n_partitions <= 1)
        return NULL;
    e->shardings = calloc(n + 1, sizeof *e->shardings);
    if (!e->shardings)
        return VTRN_OUT_OF_MEMORY(n * sizeof *e->shardings);
    for (int o = 0; o < e->n_outputs; o++)
        VTRN_RETURN_IF_ERROR(api_sharding_init(g->result_sharding[o], &e->shardings[o]));
    for (int i = 0; i < e->n_inputs; i++)
        VTRN_RETURN_IF_ERROR(
            api_sharding_init(g->arg_sharding[i], &e->shardings[e->n_outputs + i]));
    return NULL;
}

/* Shapes and donation marks of @main, kept when the graph is gone. */
static vtrn_status describe(const graph *g, vtrn_executable *e) {
    VTRN_RETURN_IF_ERROR(api_executable_describe(e, g->name && *g->name ? g->name : "main",
                                                 g->body.n_args, g->body.n_results));
    for (int i = 0; i < e->n_inputs; i++) {
        VTRN_RETURN_IF_ERROR(
            copy_type(g, g->body.args[i], g->arg_order ? g->arg_order[i] : NULL, &e->inputs[i]));
        bool is_donated = (g->arg_is_donated && g->arg_is_donated[i]) ||
                          (g->arg_alias_output && g->arg_alias_output[i] >= 0);
        if (is_donated)
            e->input_alias[i] = -2; /* until the compiler picks an output */
    }
    for (int i = 0; g->arg_is_on_host && i < e->n_inputs; i++)
        e->input_place[i] = g->arg_is_on_host[i] ? API_ON_HOST : API_IN_HBM;
    for (int o = 0; g->result_is_on_host && o < e->n_outputs; o++)
        e->output_place[o] = g->result_is_on_host[o] ? API_ON_HOST : API_IN_HBM;
    VTRN_RETURN_IF_ERROR(describe_shardings(g, e));
    e->has_no_hlo = g->has_no_hlo;
    for (int o = 0; o < e->n_outputs; o++)
        VTRN_RETURN_IF_ERROR(copy_type(
            g, g->body.results[o], g->result_order ? g->result_order[o] : NULL, &e->outputs[o]));
    return NULL;
}

static vtrn_status compile_and_load(vtrn_device *device, const graph *g,
                                    const compile_options *given, vtrn_executable *e) {
    compile_options options = {
        .instance = &device->rt->instance,
        .reference_only = given->reference_only || api_is_set("VTRN_REFERENCE_ONLY"),
        .is_strict = given->is_strict || api_is_set("VTRN_STRICT"),
        .is_verified = given->is_verified || api_is_set("VTRN_VERIFY"),
    };
    VTRN_RETURN_IF_ERROR(cc_flags_parse(getenv("NEURON_CC_FLAGS"), &options));
    VTRN_RETURN_IF_ERROR(cc_flags_parse(given->flags, &options));
    if (given->has_auto_cast)
        options.auto_cast = given->auto_cast;
    if (given->auto_cast_type)
        options.auto_cast_type = given->auto_cast_type;
    vtrn_program *program;
    VTRN_RETURN_IF_ERROR(compile_graph(g, &device->rt->chip, &options, &program));
    VTRN_RETURN_IF_ERROR(runtime_load(device->rt, program, compile_run_custom, NULL, &e->loaded));
    VTRN_CHECK((int)program->n_arguments == e->n_inputs && (int)program->n_outputs == e->n_outputs,
               "the program takes and gives what the module does");
    for (int i = 0; i < e->n_inputs; i++)
        if (e->loaded->argument_output[i] >= 0)
            e->input_alias[i] = e->loaded->argument_output[i];
        else if (g->n_partitions > 1 && e->input_place[i] == API_IN_HBM)
            e->input_alias[i] =
                -1; /* JAX cannot tell which parts fit; XLA keeps those that do not */
    VTRN_RETURN_IF_ERROR(api_hold_callbacks(e));
    return device->is_checking ? api_check_program(e) : NULL;
}

void api_executable_free(vtrn_executable *e) {
    if (e->holds_callbacks)
        vtrn_status_free(compile_hold_callbacks(e->loaded->program, -1));
    runtime_unload(e->loaded);
    for (int i = 0; e->shardings && i < e->n_outputs + e->n_inputs; i++)
        free(e->shardings[i].partition);
    free(e->shardings);
    free(e->inputs);
    free(e->outputs);
    free(e->input_alias);
    free(e->input_place);
    free(e->output_place);
    free(e->name);
    free(e->whole_reason);
    free(e->divided);
    free(e);
}

static void list_add(vtrn_device *device, vtrn_executable *e) {
    pthread_mutex_lock(&device->lock);
    e->serial = device->n_compiled++;
    e->next = device->executables;
    if (e->next)
        e->next->prev = e;
    device->executables = e;
    pthread_mutex_unlock(&device->lock);
}

static void list_remove(vtrn_device *device, vtrn_executable *e) {
    pthread_mutex_lock(&device->lock);
    if (e->prev)
        e->prev->next = e->next;
    else
        device->executables = e->next;
    if (e->next)
        e->next->prev = e->prev;
    pthread_mutex_unlock(&device->lock);
}

void api_executable_publish(vtrn_device *device, vtrn_executable *e) {
    e->is_kept_for_profile = device->profile_dir != NULL;
    atomic_init(&e->refs, e->is_kept_for_profile ? 2 : 1);
    e->device = device;
    api_device_retain(device);
    list_add(device, e);
}

typedef struct source {
    const void *bytes;
    size_t size;
    bool is_fresh; /* as api_partition() takes it */
} source;

/* The program as the host's partitioner divides it, in place of *g, which is NULL where the
 * artifact could not be read before: unread says why. What cannot be divided runs whole on every
 * partition; e keeps the reason. The floating-point environment is the host's meanwhile. */
static vtrn_status divide(graph **g, const source *a, vtrn_status unread, fenv_t *outside,
                          vtrn_executable *e) {
    void *divided;
    size_t divided_size;
    float_env_leave(outside);
    vtrn_status status = api_partition(a->bytes, a->size, *g ? (int)(*g)->n_partitions : 0,
                                       a->is_fresh, &divided, &divided_size);
    float_env_enter(outside);
    if (unread && (status || !divided)) {
        vtrn_status_free(status);
        return unread;
    }
    vtrn_status_free(unread);
    if (vtrn_status_category(status) == VTRN_UNSUPPORTED) {
        e->whole_reason = strdup(vtrn_status_message(status));
        vtrn_status_free(status);
        return e->whole_reason ? NULL : VTRN_OUT_OF_MEMORY(1);
    }
    if (status || !divided)
        return status;
    graph_destroy(*g);
    *g = NULL;
    e->divided = divided;
    e->divided_size = divided_size;
    return graph_from_artifact(divided, divided_size, g);
}

vtrn_status vtrn_compile(vtrn_device *device, const void *artifact, size_t size,
                         vtrn_executable **out) {
    return vtrn_compile_flags(device, artifact, size, NULL, out);
}

vtrn_status vtrn_compile_flags(vtrn_device *device, const void *artifact, size_t size,
                               const char *flags, vtrn_executable **out) {
    compile_options options = {.flags = flags};
    VTRN_RETURN_IF_ERROR(api_compile(device, artifact, size, &options, out));
    free((*out)->divided);
    (*out)->divided = NULL;
    return NULL;
}

vtrn_status api_compile(vtrn_device *device, const void *bytes, size_t size,
                        const compile_options *options, vtrn_executable **out) {
    *out = NULL;
    vtrn_executable *e = calloc(1, sizeof *e);
    if (!e)
        return VTRN_OUT_OF_MEMORY(sizeof *e);
    graph *g = NULL;
    fenv_t outside;
    float_env_enter(&outside); /* constants are computed here */
    vtrn_status status = runtime_device_check_process(device->rt);
    if (!status)
        status = graph_from_artifact(bytes, size, &g);
    /* Programs of one device skip the partitioner, whose reader of artifacts trusts its input. */
    bool is_for_several = g ? g->n_partitions > 1
                            : vtrn_status_category(status) == VTRN_UNSUPPORTED &&
                                  graph_n_partitions_of(bytes, size) > 1;
    if (is_for_several)
        status = divide(&g, &(source){bytes, size, options->is_fresh}, status, &outside, e);
    if (!status && !g)
        status = VTRN_ERROR(VTRN_INTERNAL, "the partitioner left no program");
    if (!status && options->n_replicas > g->n_replicas)
        g->n_replicas = options->n_replicas;
    if (!status)
        status = spmd_localise(g, &e->n_whole_ops);
    if (!status)
        status = describe(g, e);
    if (!status)
        status = compile_and_load(device, g, options, e);
    graph_destroy(g);
    float_env_leave(&outside);
    if (status) {
        api_executable_free(e);
        return status;
    }
    api_executable_publish(device, e);
    *out = e;
    return NULL;
}

bool api_executable_retain_live(vtrn_executable *executable) {
    unsigned refs = atomic_load(&executable->refs);
    while (refs)
        if (atomic_compare_exchange_weak(&executable->refs, &refs, refs + 1))
            return true;
    return false;
}

void vtrn_executable_destroy(vtrn_executable *e) {
    if (!e || atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
        return;
    vtrn_device *device = e->device;
    list_remove(device, e);
    api_executable_free(e);
    api_device_release(device);
}

int vtrn_executable_n_inputs(const vtrn_executable *executable) {
    return executable->n_inputs;
}

int vtrn_executable_n_outputs(const vtrn_executable *executable) {
    return executable->n_outputs;
}

static void give_type(const api_type *type, int *dtype, int *rank, int64_t *dims) {
    *dtype = type->dtype;
    *rank = type->rank;
    memcpy(dims, type->dims, (size_t)type->rank * sizeof *dims);
}

void vtrn_executable_input_type(const vtrn_executable *executable, int i, int *dtype, int *rank,
                                int64_t *dims) {
    give_type(&executable->inputs[i], dtype, rank, dims);
}

void vtrn_executable_output_type(const vtrn_executable *executable, int i, int *dtype, int *rank,
                                 int64_t *dims) {
    give_type(&executable->outputs[i], dtype, rank, dims);
}

int vtrn_executable_input_alias(const vtrn_executable *executable, int i) {
    return executable->input_alias[i];
}

vtrn_status vtrn_executable_program(const vtrn_executable *executable, void **bytes, size_t *size) {
    return program_save(executable->loaded->program, bytes, size);
}
