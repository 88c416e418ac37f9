/* Plugin, client and topology: what the machine is. */
#include "base/hash.h"
#include "pjrt/plugin.h"

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
    int n_threads, n_cores;
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
    *out = (client_options){.n_cores = 0};
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

/* NeuronCores that the framework sees: the option, else NEURON_RT_NUM_CORES, else one, since a
 * program runs on one. Frameworks take more devices as an invitation to spread a program over them.
 */
static PJRT_Error *visible_cores(const client_options *o, const vtrn_device *device, int *out) {
    const int n_cores = vtrn_device_n_cores(device);
    const char *text = getenv("NEURON_RT_NUM_CORES");
    char number[16], *end;
    snprintf(number, sizeof number, "%d", o->n_cores ? o->n_cores : 1);
    if (o->n_cores || !text || !*text)
        text = number;
    const long n = strtol(text, &end, 10);
    if (n < 1 || n > n_cores || *end)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %s asks for %s NeuronCores; %s has %d: give a "
                                 "number from 1 to %d, or another VTRN_INSTANCE",
                                 text == number ? "client option n_cores" : "NEURON_RT_NUM_CORES",
                                 text, device->rt->instance.name, n_cores, n_cores);
    *out = (int)n;
    return NULL;
}

static bool client_init(PJRT_Client *client, size_t n) {
    const runtime_device *rt = client->device->rt;
    client->devices = calloc(n, sizeof *client->devices);
    client->device_list = calloc(n, sizeof *client->device_list);
    client->memory_list = calloc(n * PLUGIN_N_MEMORIES, sizeof *client->memory_list);
    client->topology.descriptions = calloc(n, sizeof *client->topology.descriptions);
    if (!client->devices || !client->device_list || !client->memory_list ||
        !client->topology.descriptions)
        return false;
    client->n_devices = (int)n;
    for (int i = 0; i < client->n_devices; i++) {
        plugin_device_init(client, i, &client->devices[i]);
        client->device_list[i] = &client->devices[i];
        for (int k = 0; k < PLUGIN_N_MEMORIES; k++)
            client->memory_list[k * client->n_devices + i] = &client->devices[i].memory[k];
        client->topology.descriptions[i] = &client->devices[i].description;
    }
    client->topology.client = client;
    plugin_named_string(&client->topology.attributes[0], "chip", rt->chip.name);
    plugin_named_string(&client->topology.attributes[1], "instance", rt->instance.name);
    snprintf(client->platform_version, sizeof client->platform_version, "vtrn %s, chip %s",
             vtrn_version(), rt->chip.name);
    return true;
}

PJRT_Error *PJRT_Client_Create(PJRT_Client_Create_Args *args) {
    ARGS_REQUIRE(args, client);
    client_options o;
    PJRT_Error *error = read_options(args->create_options, args->num_options, &o);
    if (error)
        return error;
    vtrn_device_options options = {
        .struct_size = sizeof options,
        .chip = *o.chip ? o.chip : NULL,
        .instance = *o.instance ? o.instance : NULL,
        .n_threads = o.n_threads,
    };
    vtrn_device *device;
    PLUGIN_RETURN_IF_ERROR(vtrn_device_open(&options, &device));
    PJRT_Client *client = calloc(1, sizeof *client);
    if (!client) {
        vtrn_device_close(device);
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof *client));
    }
    atomic_init(&client->refs, 1);
    pthread_mutex_init(&client->lock, NULL);
    client->device = device;
    int n_cores = 1;
    error = visible_cores(&o, device, &n_cores);
    if (error) {
        client_free(client);
        return error;
    }
    if (!client_init(client, (size_t)n_cores)) {
        client_free(client);
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof(PJRT_Device)));
    }
    args->client = client;
    return NULL;
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
    args->process_index = 0;
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
    args->addressable_devices = args->client->device_list;
    args->num_addressable_devices = (size_t)args->client->n_devices;
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
    return lookup(args->client, args->local_hardware_id, &args->addressable_device);
}

PJRT_Error *PJRT_Client_AddressableMemories(PJRT_Client_AddressableMemories_Args *args) {
    ARGS_REQUIRE(args, num_addressable_memories);
    args->addressable_memories = args->client->memory_list;
    args->num_addressable_memories = (size_t)args->client->n_devices * PLUGIN_N_MEMORIES;
    return NULL;
}

/* Row-major [replicas][partitions]: devices in order, from 0. */
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
    for (int i = 0; i < n; i++)
        args->default_assignment[i] = i;
    return NULL;
}

PJRT_Error *PJRT_Client_TopologyDescription(PJRT_Client_TopologyDescription_Args *args) {
    ARGS_REQUIRE(args, topology);
    args->topology = &args->client->topology;
    return NULL;
}

PJRT_Error *
PJRT_TopologyDescription_PlatformName(PJRT_TopologyDescription_PlatformName_Args *args) {
    ARGS_GIVE_TEXT(args, platform_name, plugin_platform_name);
}

PJRT_Error *
PJRT_TopologyDescription_PlatformVersion(PJRT_TopologyDescription_PlatformVersion_Args *args) {
    ARGS_GIVE_TEXT(args, platform_version, args->topology->client->platform_version);
}

PJRT_Error *PJRT_TopologyDescription_GetDeviceDescriptions(
    PJRT_TopologyDescription_GetDeviceDescriptions_Args *args) {
    ARGS_REQUIRE(args, num_descriptions);
    args->descriptions = args->topology->descriptions;
    args->num_descriptions = (size_t)args->topology->client->n_devices;
    return NULL;
}

PJRT_Error *PJRT_TopologyDescription_Attributes(PJRT_TopologyDescription_Attributes_Args *args) {
    ARGS_REQUIRE(args, num_attributes);
    args->attributes = args->topology->attributes;
    args->num_attributes = 2;
    return NULL;
}

struct PJRT_SerializedTopology {
    char text[512];
};

static void serialized_topology_free(PJRT_SerializedTopology *t) {
    free(t);
}

/* What distinguishes machines for a compilation cache. */
static void describe_topology(const PJRT_Client *client, char *text, size_t size) {
    const runtime_device *rt = client->device->rt;
    snprintf(text, size, "%s;%s;%s;cores=%d;generation=%d", plugin_platform_name,
             client->platform_version, rt->instance.name, rt->n_cores, rt->chip.gen);
}

PJRT_Error *PJRT_TopologyDescription_Serialize(PJRT_TopologyDescription_Serialize_Args *args) {
    ARGS_REQUIRE(args, serialized_topology_deleter);
    PJRT_SerializedTopology *t = malloc(sizeof *t);
    if (!t)
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof *t));
    describe_topology(args->topology->client, t->text, sizeof t->text);
    args->serialized_bytes = t->text;
    args->serialized_bytes_size = strlen(t->text);
    args->serialized_topology = t;
    args->serialized_topology_deleter = serialized_topology_free;
    return NULL;
}

PJRT_Error *PJRT_TopologyDescription_Fingerprint(PJRT_TopologyDescription_Fingerprint_Args *args) {
    ARGS_REQUIRE(args, fingerprint);
    char text[512];
    describe_topology(args->topology->client, text, sizeof text);
    args->fingerprint = hash_bytes(HASH_START, text, strlen(text));
    return NULL;
}
