/* Topologies: machines that programs are compiled for, whether or not they are this one. */
#include "base/hash.h"
#include "pjrt/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 256 };

/* A machine to compile for is a client on which nothing runs. */
static PJRT_Error *describe_machine(const plugin_machine *given, PJRT_TopologyDescription **out) {
    plugin_machine machine = *given;
    PJRT_Client *client = NULL;
    machine.is_described_only = true;
    PJRT_Error *error = plugin_client_create(&machine, &client);
    if (!error)
        *out = &client->topology;
    return error;
}

PJRT_Error *PJRT_TopologyDescription_Create(PJRT_TopologyDescription_Create_Args *args) {
    ARGS_REQUIRE(args, topology);
    char name[MAX_NAME];
    if (args->topology_name_size >= sizeof name)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: a topology name of %zu bytes; give an instance "
                                 "like trn2.48xlarge, a chip like trn2, or nothing",
                                 args->topology_name_size);
    snprintf(name, sizeof name, "%.*s", (int)args->topology_name_size,
             args->topology_name_size ? args->topology_name : "");
    const plugin_machine machine = {
        .name = name, .options = args->create_options, .n_options = args->num_options};
    return describe_machine(&machine, &args->topology);
}

PJRT_Error *PJRT_TopologyDescription_Destroy(PJRT_TopologyDescription_Destroy_Args *args) {
    ARGS_REQUIRE(args, topology);
    if (args->topology)
        plugin_client_release(args->topology->client);
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
    snprintf(text, size, "%s;%s;%s;%s;devices=%d;cores=%d;generation=%d", rt->chip.name,
             rt->instance.name, plugin_platform_name, client->platform_version, client->n_devices,
             rt->n_cores, rt->chip.gen);
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

PJRT_Error *PJRT_TopologyDescription_Deserialize(PJRT_TopologyDescription_Deserialize_Args *args) {
    ARGS_REQUIRE(args, topology);
    char text[512], again[512], chip[MAX_NAME], instance[MAX_NAME];
    const char *devices = NULL;
    int n_devices = 0;
    if (args->serialized_topology_size < sizeof text) {
        snprintf(text, sizeof text, "%.*s", (int)args->serialized_topology_size,
                 args->serialized_topology);
        devices = strstr(text, ";devices=");
    }
    if (!devices || sscanf(text, "%255[^;];%255[^;]", chip, instance) != 2 ||
        sscanf(devices, ";devices=%d", &n_devices) != 1)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: not a serialized topology of vtrn");
    PJRT_NamedValue options[3];
    plugin_named_string(&options[0], "chip", chip);
    plugin_named_string(&options[1], "instance", instance);
    plugin_named_int(&options[2], "n_cores", n_devices);
    const plugin_machine machine = {.name = "", .options = options, .n_options = 3};
    PJRT_TopologyDescription *topology = NULL;
    PJRT_Error *error = describe_machine(&machine, &topology);
    if (error)
        return error;
    describe_topology(topology->client, again, sizeof again);
    if (strcmp(text, again) != 0) {
        plugin_client_release(topology->client);
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: a topology '%s'; here that machine is '%s'", text,
                                 again);
    }
    args->topology = topology;
    return NULL;
}

PJRT_Error *PJRT_TopologyDescription_Fingerprint(PJRT_TopologyDescription_Fingerprint_Args *args) {
    ARGS_REQUIRE(args, fingerprint);
    char text[512];
    describe_topology(args->topology->client, text, sizeof text);
    args->fingerprint = hash_bytes(HASH_START, text, strlen(text));
    return NULL;
}
