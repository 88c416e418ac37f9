/* Plugin and client: what the machine is. */
#include "pjrt/pjrt_processes.h"
#include "pjrt/plugin.h"
#include "pjrt/visible_cores.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const plugin_memory_kinds[PLUGIN_N_MEMORIES] = {"device", "pinned_host"};
const char plugin_platform_name[] = "neuron";

void plugin_named_string(PJRT_NamedValue *out, const char *name, const char *value) {
    *out = (PJRT_NamedValue){
        .struct_size = sizeof *out,
        .name = name,
        .name_size = strlen(name),
        .type = PJRT_NamedValue_kString,
        .string_value = value,
        .value_size = strlen(value),
    };
}

void plugin_named_int(PJRT_NamedValue *out, const char *name, int64_t value) {
    *out = (PJRT_NamedValue){
        .struct_size = sizeof *out,
        .name = name,
        .name_size = strlen(name),
        .type = PJRT_NamedValue_kInt64,
        .int64_value = value,
        .value_size = 1,
    };
}

void plugin_named_float(PJRT_NamedValue *out, const char *name, float value) {
    *out = (PJRT_NamedValue){
        .struct_size = sizeof *out,
        .name = name,
        .name_size = strlen(name),
        .type = PJRT_NamedValue_kFloat,
        .float_value = value,
        .value_size = 1,
    };
}

PJRT_Error *PJRT_Plugin_Initialize(PJRT_Plugin_Initialize_Args *args) {
    (void)args;
    return NULL;
}

/* A fixed StableHLO version: producers downgrade to it, so the wire format stays what we read. */
PJRT_Error *PJRT_Plugin_Attributes(PJRT_Plugin_Attributes_Args *args) {
    static const int64_t current[3] = {1, 15, 0}, minimum[3] = {0, 9, 0};
#define VERSION_LIST(text, list)                                                                   \
    {                                                                                              \
        .struct_size = sizeof(PJRT_NamedValue), .name = text, .name_size = sizeof text - 1,        \
        .type = PJRT_NamedValue_kInt64List, .int64_array_value = list, .value_size = 3             \
    }
    static const PJRT_NamedValue attributes[] = {
        {.struct_size = sizeof(PJRT_NamedValue),
         .name = "xla_version",
         .name_size = sizeof "xla_version" - 1,
         .type = PJRT_NamedValue_kInt64,
         .int64_value = 2,
         .value_size = 1},
        VERSION_LIST("stablehlo_current_version", current),
        VERSION_LIST("stablehlo_minimum_version", minimum),
        {.struct_size = sizeof(PJRT_NamedValue),
         .name = "supports_cross_host_transfers",
         .name_size = sizeof "supports_cross_host_transfers" - 1,
         .type = PJRT_NamedValue_kBool,
         .bool_value = true,
         .value_size = 1},
    };
#undef VERSION_LIST
    ARGS_REQUIRE(args, num_attributes);
    args->attributes = attributes;
    args->num_attributes = sizeof attributes / sizeof *attributes;
    return NULL;
}

void plugin_client_retain(PJRT_Client *client) {
    atomic_fetch_add_explicit(&client->refs, 1, memory_order_relaxed);
}

static void client_free(PJRT_Client *client) {
    for (int i = 0; client->devices && i < client->n_devices; i++)
        plugin_device_fini(&client->devices[i]);
    vtrn_device_close(client->device);
    pthread_mutex_destroy(&client->lock);
    free(client->devices);
    free(client->device_list);
    free(client->own_devices);
    free(client->memory_list);
    free(client->topology.descriptions);
    free(client);
}

void plugin_client_release(PJRT_Client *client) {
    if (atomic_fetch_sub_explicit(&client->refs, 1, memory_order_acq_rel) == 1)
        client_free(client);
}

typedef struct client_options {
    char chip[256], instance[256];
    int n_threads, n_cores, node_id, num_nodes; /* the last two: -1 when not given */
} client_options;

static bool is_named(const PJRT_NamedValue *v, const char *name) {
    return v->name_size == strlen(name) && memcmp(v->name, name, v->name_size) == 0;
}

static bool take_text(const PJRT_NamedValue *v, char *out, size_t size) {
    if (v->type != PJRT_NamedValue_kString || v->value_size >= size)
        return false;
    memcpy(out, v->string_value, v->value_size);
    out[v->value_size] = '\0';
    return true;
}

/* Users' options arrive as text, the framework's own with their type. */
static bool take_count(const PJRT_NamedValue *v, int *out) {
    char text[32], *end;
    int64_t n = v->int64_value;
    if (v->type == PJRT_NamedValue_kString) {
        if (!take_text(v, text, sizeof text))
            return false;
        n = strtoll(text, &end, 10);
        if (*end || end == text)
            return false;
    } else if (v->type != PJRT_NamedValue_kInt64) {
        return false;
    }
    *out = (int)n;
    return n >= 0 && n <= 4096;
}

static PJRT_Error *read_options(const PJRT_NamedValue *values, size_t n, client_options *out) {
    int ignored;
    *out = (client_options){.node_id = -1, .num_nodes = -1};
    for (size_t i = 0; i < n; i++) {
        const PJRT_NamedValue *v = &values[i];
        bool is_good = true;
        if (is_named(v, "chip"))
            is_good = take_text(v, out->chip, sizeof out->chip);
        else if (is_named(v, "instance"))
            is_good = take_text(v, out->instance, sizeof out->instance);
        else if (is_named(v, "n_threads"))
            is_good = take_count(v, &out->n_threads);
        else if (is_named(v, "n_cores"))
            is_good = take_count(v, &out->n_cores);
        else if (is_named(v, "node_id"))
            is_good = take_count(v, &out->node_id);
        else if (is_named(v, "num_nodes"))
            is_good = take_count(v, &out->num_nodes);
        else if (is_named(v, "partition_index")) /* of JAX's slices, of which a machine is one */
            is_good = take_count(v, &ignored);
        else if (v->name_size < 13 || memcmp(v->name, "ml_framework_", 13) != 0)
            return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                     "bad argument: no such client option '%.*s'; there are chip, "
                                     "instance, n_cores and n_threads",
                                     (int)v->name_size, v->name);
        if (!is_good)
            return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                     "bad argument: client option '%.*s' has a value of the wrong "
                                     "type or range",
                                     (int)v->name_size, v->name);
    }
    return NULL;
}

static bool client_init(PJRT_Client *client, const int *cores, size_t n) {
    const runtime_device *rt = client->device->rt;
    client->devices = calloc(n, sizeof *client->devices);
    client->device_list = calloc(n, sizeof *client->device_list);
    client->own_devices = calloc(n, sizeof *client->own_devices);
    client->memory_list = calloc(n * PLUGIN_N_MEMORIES, sizeof *client->memory_list);
    client->topology.descriptions = calloc(n, sizeof *client->topology.descriptions);
    if (!client->devices || !client->device_list || !client->own_devices || !client->memory_list ||
        !client->topology.descriptions)
        return false;
    client->n_devices = (int)n;
    for (int i = 0; i < client->n_devices; i++) {
        PJRT_Device *d = &client->devices[i];
        plugin_device_init(client, i, cores[i], d);
        client->device_list[i] = d;
        if (d->is_own)
            client->own_devices[client->n_own++] = d;
        client->topology.descriptions[i] = &d->description;
    }
    for (int i = 0; i < client->n_own; i++)
        for (int k = 0; k < PLUGIN_N_MEMORIES; k++)
            client->memory_list[k * client->n_own + i] = &client->own_devices[i]->memory[k];
    client->topology.client = client;
    plugin_named_string(&client->topology.attributes[0], "chip", rt->chip.name);
    plugin_named_string(&client->topology.attributes[1], "instance", rt->instance.name);
    snprintf(client->platform_version, sizeof client->platform_version, "vtrn %s, chip %s",
             vtrn_version(), rt->chip.name);
    return true;
}

/* Processes of one host share its cores, unless the user says how many threads each has. */
static int threads_of(const client_options *o, const transport *t) {
    const char *wanted = getenv("VTRN_THREADS");
    if (o->n_threads || !t || (wanted && *wanted))
        return o->n_threads;
    int n = team_usable_cores() / transport_n_on_this_host(t);
    return n > 1 ? n : 1;
}

/* Opens the machine; with a transport, which it takes over, also on error, as one process of it.
 * *cores: those that devices stand for, [*n] made by malloc. */
static vtrn_status open_machine(const client_options *o, const plugin_machine *machine,
                                transport *t, vtrn_device **device, int **cores, int *n) {
    vtrn_device_options options = {
        .struct_size = sizeof options,
        .chip = *o->chip ? o->chip : NULL,
        .instance = *o->instance ? o->instance : NULL,
        .n_threads = machine->is_described_only ? 1 : threads_of(o, t),
    };
    vtrn_status status = api_device_open(&options, false, device);
    if (status) {
        transport_close(t);
        return status;
    }
    runtime_device *rt = (*device)->rt;
    core_choice choice;
    status = visible_cores(&(core_request){.n_asked_for = o->n_cores,
                                           .n_cores = rt->n_cores,
                                           .instance = rt->instance.name,
                                           .process_i = t ? transport_process_i(t) : 0,
                                           .n_processes = t ? transport_n_processes(t) : 1},
                           &choice);
    *cores = choice.cores;
    *n = choice.n;
    if (t) {
        status = plugin_processes_join(rt, t, &choice, status, cores, n);
        free(choice.cores);
    }
    if (!status && !machine->is_described_only)
        status = api_profile_register(*device);
    return status;
}

PJRT_Error *plugin_client_create(const plugin_machine *machine, PJRT_Client **out) {
    client_options o;
    PJRT_Error *error = read_options(machine->options, machine->n_options, &o);
    if (error)
        return error;
    const char *name = machine->name;
    char *from_name = strchr(name, '.') ? o.instance : o.chip; /* trn2.48xlarge, trn2 */
    if (!*from_name)
        snprintf(from_name, sizeof o.chip, "%s", name);
    plugin_processes processes = {.n = 1};
    transport *t = NULL;
    if (machine->create)
        PLUGIN_RETURN_IF_ERROR(plugin_processes_find(o.node_id, o.num_nodes, &processes));
    if (processes.n > 1)
        PLUGIN_RETURN_IF_ERROR(plugin_processes_connect(&processes, machine->create, &t));
    PJRT_Client *client = calloc(1, sizeof *client);
    if (!client) {
        transport_close(t);
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof *client));
    }
    atomic_init(&client->refs, 1);
    pthread_mutex_init(&client->lock, NULL);
    int *cores = NULL, n = 0;
    vtrn_status status = open_machine(&o, machine, t, &client->device, &cores, &n);
    if (!status && !client_init(client, cores, (size_t)n))
        status = VTRN_OUT_OF_MEMORY(sizeof(PJRT_Device));
    free(cores);
    if (status) {
        client_free(client);
        return plugin_error(status);
    }
    *out = client;
    return NULL;
}

PJRT_Error *PJRT_Client_Create(PJRT_Client_Create_Args *args) {
    ARGS_REQUIRE(args, client);
    const plugin_machine machine = {.name = "",
                                    .options = args->create_options,
                                    .n_options = args->num_options,
                                    .create = args};
    return plugin_client_create(&machine, &args->client);
}

PJRT_Error *PJRT_Client_Destroy(PJRT_Client_Destroy_Args *args) {
    ARGS_REQUIRE(args, client);
    if (!args->client)
        return NULL;
    api_profile_unregister(args->client->device); /* now: buffers may outlive the client */
    plugin_client_release(args->client);
    return NULL;
}

PJRT_Error *PJRT_Client_PlatformName(PJRT_Client_PlatformName_Args *args) {
    ARGS_GIVE_TEXT(args, platform_name, plugin_platform_name);
}

PJRT_Error *PJRT_Client_PlatformVersion(PJRT_Client_PlatformVersion_Args *args) {
    ARGS_GIVE_TEXT(args, platform_version, args->client->platform_version);
}

PJRT_Error *PJRT_Client_ProcessIndex(PJRT_Client_ProcessIndex_Args *args) {
    ARGS_REQUIRE(args, process_index);
    const transport *t = args->client->device->rt->transport;
    args->process_index = t ? transport_process_i(t) : 0;
    return NULL;
}

/* What the framework knows of other processes: their connections tell sooner. */
PJRT_Error *PJRT_Client_UpdateGlobalProcessInfo(PJRT_Client_UpdateGlobalProcessInfo_Args *args) {
    (void)args;
    return NULL;
}

PJRT_Error *PJRT_Client_Devices(PJRT_Client_Devices_Args *args) {
    ARGS_REQUIRE(args, num_devices);
    args->devices = args->client->device_list;
    args->num_devices = (size_t)args->client->n_devices;
    return NULL;
}

PJRT_Error *PJRT_Client_AddressableDevices(PJRT_Client_AddressableDevices_Args *args) {
    ARGS_REQUIRE(args, num_addressable_devices);
    args->addressable_devices = args->client->own_devices;
    args->num_addressable_devices = (size_t)args->client->n_own;
    return NULL;
}

static PJRT_Error *lookup(PJRT_Client *client, int id, PJRT_Device **out) {
    if (id < 0 || id >= client->n_devices)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: device %d: the client has devices 0..%d", id,
                                 client->n_devices - 1);
    *out = &client->devices[id];
    return NULL;
}

PJRT_Error *PJRT_Client_LookupDevice(PJRT_Client_LookupDevice_Args *args) {
    ARGS_REQUIRE(args, device);
    return lookup(args->client, args->id, &args->device);
}

PJRT_Error *PJRT_Client_LookupAddressableDevice(PJRT_Client_LookupAddressableDevice_Args *args) {
    ARGS_REQUIRE(args, addressable_device);
    for (int i = 0; i < args->client->n_own; i++) {
        args->addressable_device = args->client->own_devices[i];
        if (args->addressable_device->core_i == args->local_hardware_id)
            return NULL;
    }
    args->addressable_device = NULL;
    return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                             "bad argument: NeuronCore %d is none of the client's %d; "
                             "NEURON_RT_VISIBLE_CORES lists them",
                             args->local_hardware_id, args->client->n_own);
}

PJRT_Error *PJRT_Client_AddressableMemories(PJRT_Client_AddressableMemories_Args *args) {
    ARGS_REQUIRE(args, num_addressable_memories);
    args->addressable_memories = args->client->memory_list;
    args->num_addressable_memories = (size_t)args->client->n_own * PLUGIN_N_MEMORIES;
    return NULL;
}

/* Row-major [replicas][partitions]: devices in order, those of this process where they suffice. */
PJRT_Error *PJRT_Client_DefaultDeviceAssignment(PJRT_Client_DefaultDeviceAssignment_Args *args) {
    ARGS_REQUIRE(args, default_assignment);
    int64_t n = (int64_t)args->num_replicas * args->num_partitions;
    if (args->num_replicas < 1 || args->num_partitions < 1 || n > args->client->n_devices ||
        (uint64_t)n > args->default_assignment_size)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %d replicas of %d partitions on %d devices, room "
                                 "for %zu entries",
                                 args->num_replicas, args->num_partitions, args->client->n_devices,
                                 args->default_assignment_size);
    const PJRT_Client *client = args->client;
    PJRT_Device *const *devices = n <= client->n_own ? client->own_devices : client->device_list;
    for (int i = 0; i < n; i++)
        args->default_assignment[i] = devices[i]->description.id;
    return NULL;
}

PJRT_Error *PJRT_Client_TopologyDescription(PJRT_Client_TopologyDescription_Args *args) {
    ARGS_REQUIRE(args, topology);
    args->topology = &args->client->topology;
    return NULL;
}
