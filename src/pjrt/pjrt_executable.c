/* Executables of the plugin: compile, describe, serialize. */
#include "api/api_partition.h"
#include "base/hash.h"
#include "pjrt/compile_options.h"
#include "pjrt/pjrt_wire.h"
#include "pjrt/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void executable_free(PJRT_Executable *e) {
    plugin_free_shardings(e);
    vtrn_executable_destroy(e->executable);
    free(e->devices);
    free(e->own_devices);
    free(e->logical_ids);
    free(e->assignment);
    free(e->module);
    plugin_text *text = atomic_load_explicit(&e->one_device, memory_order_relaxed);
    if (text)
        free(text->bytes);
    free(text);
    free(e->options);
    free(e->output_types);
    free(e->output_dims);
    free(e->output_dim_sizes);
    free(e->kinds);
    free(e->kind_sizes);
    free(e->layouts);
    free(e->layout_data);
    free(e);
}

void plugin_executable_release(PJRT_Executable *e) {
    if (!e || atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
        return;
    PJRT_Client *client = e->client;
    executable_free(e);
    plugin_client_release(client);
}

/* Of the program, not of the artifact: that one carries the user's source places. */
static void fingerprint(const vtrn_program *p, char out[17]) {
    uint64_t hash = program_fingerprint(p);
    for (uint32_t i = 0; i < p->n_customs; i++)
        if (program_is_callback(&p->customs[i]))
            hash = hash_bytes(hash, p->customs[i].blob, p->customs[i].blob_size);
    snprintf(out, 17, "%016llx", (unsigned long long)hash);
}

static bool copy_bytes(const void *bytes, size_t size, char **out, size_t *out_size) {
    *out = malloc(size + 1);
    if (!*out)
        return false;
    if (size)
        memcpy(*out, bytes, size);
    *out_size = size;
    return true;
}

static bool describe_outputs(PJRT_Executable *e) {
    const vtrn_executable *x = e->executable;
    size_t n = (size_t)x->n_outputs, n_dims = 0;
    size_t n_kinds = (size_t)x->n_inputs + n;
    for (size_t i = 0; i < n; i++)
        n_dims += (size_t)x->outputs[i].rank;
    e->output_types = calloc(n + 1, sizeof *e->output_types);
    e->output_dims = calloc(n_dims + 1, sizeof *e->output_dims);
    e->output_dim_sizes = calloc(n + 1, sizeof *e->output_dim_sizes);
    e->kinds = calloc(n_kinds + 1, sizeof *e->kinds);
    e->kind_sizes = calloc(n_kinds + 1, sizeof *e->kind_sizes);
    if (!e->output_types || !e->output_dims || !e->output_dim_sizes || !e->kinds || !e->kind_sizes)
        return false;
    int64_t *dims = e->output_dims;
    for (size_t i = 0; i < n; i++) {
        const api_type *t = &x->outputs[i];
        e->output_types[i] = plugin_type_of(t);
        e->output_dim_sizes[i] = (size_t)plugin_rank_of(t);
        memcpy(dims, t->dims, e->output_dim_sizes[i] * sizeof *dims);
        dims += e->output_dim_sizes[i];
    }
    for (size_t i = 0; i < n_kinds; i++) {
        e->kinds[i] = plugin_memory_kinds[i < n ? x->output_place[i] : x->input_place[i - n]];
        e->kind_sizes[i] = strlen(e->kinds[i]);
    }
    return true;
}

typedef struct compile_request {
    const char *module, *options;
    size_t module_size, options_size;
} compile_request;

static vtrn_status check_device(const PJRT_Client *client, int64_t id) {
    return id >= 0 && id < client->n_devices
               ? NULL
               : VTRN_ERROR(VTRN_BAD_ARGUMENT,
                            "compile options: device %lld; the client has devices 0..%d",
                            (long long)id, client->n_devices - 1);
}

/* DeviceAssignmentProto {1: replicas, 2: computations, 3: {1: [device]} a computation}. */
static vtrn_status write_assignment(const int64_t *ids, PJRT_Executable *e) {
    const size_t n_replicas = e->n_replicas, n_partitions = e->n_partitions;
    char *packed = malloc((n_replicas + 1) * PJRT_MAX_VARINT), head[PJRT_MAX_VARINT];
    e->assignment = malloc((n_partitions * (n_replicas + 3) + 4) * PJRT_MAX_VARINT);
    if (!packed || !e->assignment) {
        free(packed);
        return VTRN_OUT_OF_MEMORY(n_partitions * n_replicas * PJRT_MAX_VARINT);
    }
    char *at = e->assignment;
    *at++ = 0x08;
    at += pjrt_write_varint(at, n_replicas);
    *at++ = 0x10;
    at += pjrt_write_varint(at, n_partitions);
    for (size_t p = 0; p < n_partitions; p++) {
        size_t packed_size = 0;
        for (size_t r = 0; r < n_replicas; r++)
            packed_size +=
                pjrt_write_varint(packed + packed_size, (size_t)ids[r * n_partitions + p]);
        size_t head_size = pjrt_write_varint(head, packed_size);
        *at++ = 0x1a;
        at += pjrt_write_varint(at, 1 + head_size + packed_size);
        *at++ = 0x0a;
        memcpy(at, head, head_size);
        memcpy(at + head_size, packed, packed_size);
        at += head_size + packed_size;
    }
    e->assignment_size = (size_t)(at - e->assignment);
    free(packed);
    return NULL;
}

static vtrn_status place_ranks(PJRT_Client *client, const int64_t *ids, PJRT_Executable *e) {
    uint8_t *is_taken = calloc((size_t)client->n_devices, 1);
    if (!is_taken)
        return VTRN_OUT_OF_MEMORY((size_t)client->n_devices);
    vtrn_status status = NULL;
    for (size_t i = 0; i < e->n_ranks && !status; i++) {
        status = check_device(client, ids[i]);
        if (!status && is_taken[ids[i]]++)
            status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "compile options: device %lld is assigned twice",
                                (long long)ids[i]);
        if (status)
            break;
        e->devices[i] = &client->devices[ids[i]];
        if (!e->devices[i]->is_own)
            continue;
        e->own_devices[e->n_own] = e->devices[i];
        e->logical_ids[e->n_own].replica = (int)(i / e->n_partitions);
        e->logical_ids[e->n_own++].partition = (int)(i % e->n_partitions);
    }
    free(is_taken);
    return status;
}

static vtrn_status assign_devices(PJRT_Client *client, const plugin_compile_options *o,
                                  PJRT_Executable *e) {
    /* Before anything is as long as the options say. */
    VTRN_RETURN_IF_ERROR(check_device(client, o->device_id));
    if (o->n_replicas * o->n_partitions > client->n_devices)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "compile options: %lld replicas of %lld partitions; the client has %d "
                          "devices, NEURON_RT_NUM_CORES or VTRN_INSTANCE shows more",
                          (long long)o->n_replicas, (long long)o->n_partitions, client->n_devices);
    e->n_replicas = (size_t)o->n_replicas;
    e->n_partitions = (size_t)o->n_partitions;
    e->n_ranks = e->n_replicas * e->n_partitions;
    int64_t *ids = calloc(e->n_ranks, sizeof *ids);
    e->devices = calloc(e->n_ranks, sizeof(PJRT_Device *));
    e->own_devices = calloc(e->n_ranks, sizeof(PJRT_Device *));
    e->logical_ids = calloc(e->n_ranks, sizeof *e->logical_ids);
    if (!ids || !e->devices || !e->own_devices || !e->logical_ids) {
        free(ids);
        return VTRN_OUT_OF_MEMORY(e->n_ranks * sizeof *ids);
    }
    vtrn_status status = compile_options_devices(o, ids);
    if (!status)
        status = place_ranks(client, ids, e);
    if (!status)
        status = write_assignment(ids, e);
    free(ids);
    return status;
}

/* The options and the module count partitions by themselves. */
static vtrn_status check_partitions(const PJRT_Executable *e) {
    int n_ranks = vtrn_executable_n_ranks(e->executable);
    if ((size_t)n_ranks == e->n_ranks)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "%s: its module is for %d devices, the compile options are for %zu; let "
                      "num_replicas and num_partitions of both agree (PyTorch: SPMD over several "
                      "devices is not there; leave xr.use_spmd() out)",
                      e->executable->name, n_ranks, e->n_ranks);
}

/* What was divided is kept so: to divide again would call the program's own functions again, or in
 * another process not find them. */
static bool keep_module(const compile_request *r, PJRT_Executable *e) {
    vtrn_executable *x = e->executable;
    if (!x->divided)
        return copy_bytes(r->module, r->module_size, &e->module, &e->module_size);
    e->module = x->divided;
    e->module_size = x->divided_size;
    x->divided = NULL;
    return true;
}

static vtrn_status compile_into(PJRT_Client *client, const compile_request *r, PJRT_Executable *e) {
    plugin_compile_options o;
    VTRN_RETURN_IF_ERROR(compile_options_decode(r->options, r->options_size, &o));
    VTRN_RETURN_IF_ERROR(assign_devices(client, &o, e));
    o.compile.is_fresh = true; /* or was stored with a checksum */
    VTRN_RETURN_IF_ERROR(
        api_compile(client->device, r->module, r->module_size, &o.compile, &e->executable));
    VTRN_RETURN_IF_ERROR(check_partitions(e));
    fingerprint(e->executable->loaded->program, e->fingerprint);
    plugin_named_float(&e->cost[0], "flops", (float)program_flops(e->executable->loaded->program));
    atomic_init(&e->n_cost, 1);
    if (!keep_module(r, e) ||
        !copy_bytes(r->options, r->options_size, &e->options, &e->options_size) ||
        !describe_outputs(e) || !plugin_layouts_describe(e))
        return VTRN_OUT_OF_MEMORY(r->module_size);
    return plugin_describe_shardings(e);
}

static PJRT_Error *compile(PJRT_Client *client, const compile_request *r, PJRT_Executable **out) {
    PJRT_Executable *e = calloc(1, sizeof *e);
    vtrn_status status = e ? compile_into(client, r, e) : VTRN_OUT_OF_MEMORY(sizeof *e);
    if (status) {
        if (e)
            executable_free(e);
        return plugin_error(status);
    }
    atomic_init(&e->refs, 1);
    e->client = client;
    plugin_client_retain(client);
    *out = e;
    return NULL;
}

static PJRT_Error *compile_and_load(PJRT_Client *client, const compile_request *r,
                                    PJRT_LoadedExecutable **out) {
    PJRT_LoadedExecutable *l = calloc(1, sizeof *l);
    if (!l)
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof *l));
    PJRT_Error *error = compile(client, r, &l->executable);
    if (error) {
        free(l);
        return error;
    }
    atomic_init(&l->is_deleted, false);
    *out = l;
    return NULL;
}

static PJRT_Error *check_format(const PJRT_Program *p) {
    if (p->format_size == 4 && memcmp(p->format, "mlir", 4) == 0)
        return NULL;
    return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                             "unimplemented: program format '%.*s'; a StableHLO portable "
                             "artifact (mlir) is expected",
                             (int)p->format_size, p->format);
}

PJRT_Error *PJRT_Client_Compile(PJRT_Client_Compile_Args *args) {
    ARGS_REQUIRE(args, executable);
    const PJRT_Program *p = args->program;
    PJRT_Error *error = check_format(p);
    compile_request r = {p->code, args->compile_options, p->code_size, args->compile_options_size};
    return error ? error : compile_and_load(args->client, &r, &args->executable);
}

PJRT_Error *PJRT_Compile(PJRT_Compile_Args *args) {
    ARGS_REQUIRE(args, executable);
    const PJRT_Program *p = args->program;
    PJRT_Error *error = check_format(p);
    compile_request r = {p->code, args->compile_options, p->code_size, args->compile_options_size};
    return error ? error : compile(args->topology->client, &r, &args->executable);
}

/* What was compiled for a machine is compiled again for that of the client. */
PJRT_Error *PJRT_Client_Load(PJRT_Client_Load_Args *args) {
    ARGS_REQUIRE(args, loaded_executable);
    const PJRT_Executable *e = args->executable;
    compile_request r = {e->module, e->options, e->module_size, e->options_size};
    if (args->compile_options_size) {
        r.options = args->compile_options;
        r.options_size = args->compile_options_size;
    }
    return compile_and_load(args->client, &r, &args->loaded_executable);
}

PJRT_Error *PJRT_Executable_Destroy(PJRT_Executable_Destroy_Args *args) {
    ARGS_REQUIRE(args, executable);
    plugin_executable_release(args->executable);
    return NULL;
}

PJRT_Error *PJRT_LoadedExecutable_Destroy(PJRT_LoadedExecutable_Destroy_Args *args) {
    ARGS_REQUIRE(args, executable);
    if (!args->executable)
        return NULL;
    plugin_executable_release(args->executable->executable);
    free(args->executable);
    return NULL;
}

PJRT_Error *PJRT_LoadedExecutable_GetExecutable(PJRT_LoadedExecutable_GetExecutable_Args *args) {
    ARGS_REQUIRE(args, executable);
    PJRT_Executable *e = args->loaded_executable->executable;
    atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
    args->executable = e;
    return NULL;
}

PJRT_Error *PJRT_Executable_Name(PJRT_Executable_Name_Args *args) {
    ARGS_GIVE_TEXT(args, executable_name, args->executable->executable->name);
}

PJRT_Error *PJRT_Executable_NumReplicas(PJRT_Executable_NumReplicas_Args *args) {
    ARGS_REQUIRE(args, num_replicas);
    args->num_replicas = args->executable->n_replicas;
    return NULL;
}

PJRT_Error *PJRT_Executable_NumPartitions(PJRT_Executable_NumPartitions_Args *args) {
    ARGS_REQUIRE(args, num_partitions);
    args->num_partitions = args->executable->n_partitions;
    return NULL;
}

PJRT_Error *PJRT_Executable_NumOutputs(PJRT_Executable_NumOutputs_Args *args) {
    ARGS_REQUIRE(args, num_outputs);
    args->num_outputs = (size_t)args->executable->executable->n_outputs;
    return NULL;
}

static int64_t code_bytes(const PJRT_Executable *e) {
    const vtrn_program *p = e->executable->loaded->program;
    return (int64_t)(p->n_instrs * sizeof *p->instrs);
}

PJRT_Error *
PJRT_Executable_SizeOfGeneratedCodeInBytes(PJRT_Executable_SizeOfGeneratedCodeInBytes_Args *args) {
    ARGS_REQUIRE(args, size_in_bytes);
    args->size_in_bytes = code_bytes(args->executable);
    return NULL;
}

PJRT_Error *PJRT_Executable_Fingerprint(PJRT_Executable_Fingerprint_Args *args) {
    ARGS_GIVE_TEXT(args, executable_fingerprint, args->executable->fingerprint);
}

PJRT_Error *PJRT_LoadedExecutable_Fingerprint(PJRT_LoadedExecutable_Fingerprint_Args *args) {
    ARGS_GIVE_TEXT(args, executable_fingerprint, args->executable->executable->fingerprint);
}

PJRT_Error *PJRT_Executable_OutputElementTypes(PJRT_Executable_OutputElementTypes_Args *args) {
    ARGS_REQUIRE(args, num_output_types);
    args->output_types = args->executable->output_types;
    args->num_output_types = (size_t)args->executable->executable->n_outputs;
    return NULL;
}

PJRT_Error *PJRT_Executable_OutputDimensions(PJRT_Executable_OutputDimensions_Args *args) {
    ARGS_REQUIRE(args, dim_sizes);
    args->num_outputs = (size_t)args->executable->executable->n_outputs;
    args->dims = args->executable->output_dims;
    args->dim_sizes = args->executable->output_dim_sizes;
    return NULL;
}

PJRT_Error *PJRT_Executable_OutputMemoryKinds(PJRT_Executable_OutputMemoryKinds_Args *args) {
    ARGS_REQUIRE(args, memory_kind_sizes);
    args->num_outputs = (size_t)args->executable->executable->n_outputs;
    args->memory_kinds = args->executable->kinds;
    args->memory_kind_sizes = args->executable->kind_sizes;
    return NULL;
}

PJRT_Error *PJRT_Executable_ParameterMemoryKinds(PJRT_Executable_ParameterMemoryKinds_Args *args) {
    ARGS_REQUIRE(args, memory_kind_sizes);
    size_t n_outputs = (size_t)args->executable->executable->n_outputs;
    args->num_parameters = (size_t)args->executable->executable->n_inputs;
    args->memory_kinds = args->executable->kinds + n_outputs;
    args->memory_kind_sizes = args->executable->kind_sizes + n_outputs;
    return NULL;
}

/* The simulated seconds are an answer once the program has run. Callers read what they got while
 * others ask, so the first figure stays, also where data decide how long a run takes. */
static int settle_cost(PJRT_Executable *e) {
    int n = atomic_load_explicit(&e->n_cost, memory_order_acquire);
    if (n == 2)
        return n;
    vtrn_profile profile = {.struct_size = sizeof profile};
    vtrn_status status = vtrn_executable_profile(e->executable, &profile);
    if (status) {
        vtrn_status_free(status);
        return n;
    }
    pthread_mutex_lock(&e->client->lock);
    if (atomic_load_explicit(&e->n_cost, memory_order_relaxed) == 1) {
        plugin_named_float(&e->cost[1], "optimal_seconds", (float)(profile.step_ns * 1e-9));
        atomic_store_explicit(&e->n_cost, 2, memory_order_release);
    }
    pthread_mutex_unlock(&e->client->lock);
    return 2;
}

/* Useful FLOPs as the user wrote them, and the simulated seconds once it has run. */
PJRT_Error *PJRT_Executable_GetCostAnalysis(PJRT_Executable_GetCostAnalysis_Args *args) {
    ARGS_REQUIRE(args, properties);
    args->num_properties = (size_t)settle_cost(args->executable);
    args->properties = args->executable->cost;
    return NULL;
}

PJRT_Error *
PJRT_Executable_GetCompiledMemoryStats(PJRT_Executable_GetCompiledMemoryStats_Args *args) {
    ARGS_REQUIRE(args, host_temp_size_in_bytes);
    const vtrn_executable *x = args->executable->executable;
    size_t head =
        offsetof(PJRT_Executable_GetCompiledMemoryStats_Args, executable) + sizeof(void *);
    size_t known = args->struct_size < sizeof *args ? args->struct_size : sizeof *args;
    memset((char *)args + head, 0, known - head);
    args->generated_code_size_in_bytes = code_bytes(args->executable);
    int64_t in_hbm = 0; /* also copies of what is on the host */
    for (int i = 0; i < x->n_inputs; i++) {
        int64_t size = (int64_t)x->inputs[i].size_bytes;
        in_hbm += size;
        *(x->input_place[i] == API_ON_HOST ? &args->host_argument_size_in_bytes
                                           : &args->argument_size_in_bytes) += size;
        if (x->input_alias[i] >= 0)
            args->alias_size_in_bytes += size;
    }
    for (int i = 0; i < x->n_outputs; i++) {
        int64_t size = (int64_t)x->outputs[i].size_bytes;
        in_hbm += size;
        *(x->output_place[i] == API_ON_HOST ? &args->host_output_size_in_bytes
                                            : &args->output_size_in_bytes) += size;
    }
    const vtrn_program *p = x->loaded->program;
    args->temp_size_in_bytes = (int64_t)(p->scratch_size + p->data_size);
    if (ARGS_HAVE(args, peak_memory_in_bytes))
        args->peak_memory_in_bytes = in_hbm - args->alias_size_in_bytes + args->temp_size_in_bytes;
    return NULL;
}

/* What XLA's converter to HLO reads: the module as it came, or, where that has sharding
 * annotations, what one device runs of it. That is made when it is first asked for, by code of the
 * host's that may wait for other threads, so no lock is held. */
static vtrn_status readable_module(PJRT_Executable *e, const char **out, size_t *size) {
    *out = e->module;
    *size = e->module_size;
    if (!e->executable->has_no_hlo)
        return NULL;
    plugin_text *known = atomic_load_explicit(&e->one_device, memory_order_acquire);
    if (!known) {
        void *bytes;
        size_t n;
        VTRN_RETURN_IF_ERROR(api_one_device(e->module, e->module_size, &bytes, &n));
        plugin_text *made = malloc(sizeof *made);
        if (!made) {
            free(bytes);
            return VTRN_OUT_OF_MEMORY(sizeof *made);
        }
        *made = (plugin_text){bytes, n};
        if (atomic_compare_exchange_strong(&e->one_device, &known, made)) {
            known = made;
        } else {
            free(made->bytes);
            free(made);
        }
    }
    *out = known->bytes;
    *size = known->size;
    return NULL;
}

/* Asked twice: first for the size, then with room for the code. */
PJRT_Error *PJRT_Executable_OptimizedProgram(PJRT_Executable_OptimizedProgram_Args *args) {
    ARGS_REQUIRE(args, program);
    PJRT_Program *p = args->program;
    const char *module;
    size_t size;
    vtrn_status status = readable_module(args->executable, &module, &size);
    if (status) { /* jaxlib reads UNIMPLEMENTED as "there is no text" and goes on */
        PJRT_Error *error = plugin_error_make(
            PJRT_Error_Code_UNIMPLEMENTED,
            "unimplemented: the optimized program of this module: %s", vtrn_status_message(status));
        vtrn_status_free(status);
        return error;
    }
    if (p->code && p->code_size < size)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: room for %zu bytes, the module has %zu",
                                 p->code_size, size);
    if (p->code)
        memcpy(p->code, module, size);
    p->code_size = size;
    p->format = "mlir";
    p->format_size = 4;
    return NULL;
}

PJRT_Error *
PJRT_LoadedExecutable_AddressableDevices(PJRT_LoadedExecutable_AddressableDevices_Args *args) {
    ARGS_REQUIRE(args, num_addressable_devices);
    const PJRT_Executable *e = args->executable->executable;
    args->addressable_devices = e->own_devices;
    args->num_addressable_devices = e->n_own;
    return NULL;
}

PJRT_Error *PJRT_LoadedExecutable_AddressableDeviceLogicalIds(
    PJRT_LoadedExecutable_AddressableDeviceLogicalIds_Args *args) {
    ARGS_REQUIRE(args, num_addressable_device_logical_ids);
    args->addressable_device_logical_ids = args->executable->executable->logical_ids;
    args->num_addressable_device_logical_ids = args->executable->executable->n_own;
    return NULL;
}

static void keep_assignment(PJRT_DeviceAssignmentSerialized *assignment) {
    (void)assignment; /* it is the executable's own */
}

PJRT_Error *
PJRT_LoadedExecutable_GetDeviceAssignment(PJRT_LoadedExecutable_GetDeviceAssignment_Args *args) {
    ARGS_REQUIRE(args, serialized_device_assignment_deleter);
    PJRT_Executable *e = args->executable->executable;
    args->serialized_bytes = e->assignment;
    args->serialized_bytes_size = e->assignment_size;
    args->serialized_device_assignment = (PJRT_DeviceAssignmentSerialized *)e->assignment;
    args->serialized_device_assignment_deleter = keep_assignment;
    return NULL;
}

PJRT_Error *PJRT_LoadedExecutable_Delete(PJRT_LoadedExecutable_Delete_Args *args) {
    ARGS_REQUIRE(args, executable);
    atomic_store(&args->executable->is_deleted, true);
    return NULL;
}

PJRT_Error *PJRT_LoadedExecutable_IsDeleted(PJRT_LoadedExecutable_IsDeleted_Args *args) {
    ARGS_REQUIRE(args, is_deleted);
    args->is_deleted = atomic_load(&args->executable->is_deleted);
    return NULL;
}

static void keep_options(PJRT_SerializedCompileOptions *options) {
    (void)options; /* they are the executable's own */
}

PJRT_Error *PJRT_Executable_GetCompileOptions(PJRT_Executable_GetCompileOptions_Args *args) {
    ARGS_REQUIRE(args, serialized_compile_options_deleter);
    PJRT_Executable *e = args->executable;
    args->serialized_bytes = e->options;
    args->serialized_bytes_size = e->options_size;
    args->serialized_compile_options = (PJRT_SerializedCompileOptions *)e->options;
    args->serialized_compile_options_deleter = keep_options;
    return NULL;
}

/* magic, then sizes of options and module, then both, then FNV-1a of all before. Loading compiles
 * again: that takes about as long as checking a stored program would. */
static const char serial_magic[8] = "VTRNEXE1";
enum { SERIAL_HEAD = 24, SERIAL_TAIL = 8 };

static void serialized_free(PJRT_SerializedExecutable *serialized) {
    free(serialized);
}

PJRT_Error *PJRT_Executable_Serialize(PJRT_Executable_Serialize_Args *args) {
    ARGS_REQUIRE(args, serialized_executable_deleter);
    const PJRT_Executable *e = args->executable;
    if (e->executable->holds_callbacks)
        return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                                 "unsupported: %s calls functions of this process, which no file "
                                 "can hold; take jax.debug.print and callbacks out to store it",
                                 e->executable->name);
    size_t size = SERIAL_HEAD + e->options_size + e->module_size + SERIAL_TAIL;
    char *bytes = malloc(size);
    if (!bytes)
        return plugin_error(VTRN_OUT_OF_MEMORY(size));
    uint64_t sizes[2] = {e->options_size, e->module_size};
    memcpy(bytes, serial_magic, 8);
    memcpy(bytes + 8, sizes, sizeof sizes);
    memcpy(bytes + SERIAL_HEAD, e->options, e->options_size);
    memcpy(bytes + SERIAL_HEAD + e->options_size, e->module, e->module_size);
    uint64_t hash = hash_bytes(HASH_START, bytes, size - SERIAL_TAIL);
    memcpy(bytes + size - SERIAL_TAIL, &hash, SERIAL_TAIL);
    args->serialized_bytes = bytes;
    args->serialized_bytes_size = size;
    args->serialized_executable = (PJRT_SerializedExecutable *)bytes;
    args->serialized_executable_deleter = serialized_free;
    return NULL;
}

static bool read_serialized(const char *bytes, size_t size, compile_request *out) {
    uint64_t sizes[2], hash;
    if (size < SERIAL_HEAD + SERIAL_TAIL || memcmp(bytes, serial_magic, 8) != 0)
        return false;
    memcpy(sizes, bytes + 8, sizeof sizes);
    memcpy(&hash, bytes + size - SERIAL_TAIL, SERIAL_TAIL);
    size_t room = size - SERIAL_HEAD - SERIAL_TAIL;
    if (sizes[0] > room || sizes[1] != room - sizes[0] ||
        hash != hash_bytes(HASH_START, bytes, size - SERIAL_TAIL))
        return false;
    *out =
        (compile_request){bytes + SERIAL_HEAD + sizes[0], bytes + SERIAL_HEAD, sizes[1], sizes[0]};
    return true;
}

PJRT_Error *PJRT_Executable_DeserializeAndLoad(PJRT_Executable_DeserializeAndLoad_Args *args) {
    ARGS_REQUIRE(args, loaded_executable);
    compile_request r;
    if (!read_serialized(args->serialized_executable, args->serialized_executable_size, &r))
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: not a serialized vtrn executable, or damaged");
    if (ARGS_HAVE(args, overridden_serialized_compile_options_size) &&
        args->overridden_serialized_compile_options) {
        r.options = args->overridden_serialized_compile_options;
        r.options_size = args->overridden_serialized_compile_options_size;
    }
    return compile_and_load(args->client, &r, &args->loaded_executable);
}
