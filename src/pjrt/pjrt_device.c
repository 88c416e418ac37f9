/* Devices, their descriptions and their memories: one memory a NeuronCore. */
#include "pjrt/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plugin_user_data {
    const void *key;
    void *data;
    void (*dtor)(void *);
    struct plugin_user_data *next;
};

static void *memory_get_user_data(PJRT_Memory *memory, const void *key) {
    pthread_mutex_t *lock = &memory->device->client->lock;
    void *data = NULL;
    pthread_mutex_lock(lock);
    for (struct plugin_user_data *u = memory->user_data; u; u = u->next)
        if (u->key == key)
            data = u->data;
    pthread_mutex_unlock(lock);
    return data;
}

static void memory_set_user_data(PJRT_Memory *memory, const void *key, void *data,
                                 void (*dtor)(void *)) {
    pthread_mutex_t *lock = &memory->device->client->lock;
    pthread_mutex_lock(lock);
    struct plugin_user_data *u = memory->user_data;
    while (u && u->key != key)
        u = u->next;
    struct plugin_user_data old = {0};
    if (u) {
        old = *u;
    } else if ((u = calloc(1, sizeof *u))) {
        u->key = key;
        u->next = memory->user_data;
        memory->user_data = u;
    }
    if (u) {
        u->data = data;
        u->dtor = dtor;
    }
    pthread_mutex_unlock(lock);
    if (old.dtor)
        old.dtor(old.data);
}

static const PJRT_Memory_FunctionTable memory_table = {
    .struct_size = sizeof memory_table,
    .instance_struct_size = sizeof(struct PJRT_Memory),
    .get_user_data = memory_get_user_data,
    .set_user_data = memory_set_user_data,
};

static void describe(const runtime_device *rt, int id, int core_i, PJRT_DeviceDescription *out) {
    const runtime_core *core = &rt->cores[core_i];
    out->id = id;
    snprintf(out->kind, sizeof out->kind, "NC_v%d", rt->chip.gen);
    snprintf(out->to_string, sizeof out->to_string, "NeuronDevice(id=%d, chip=%d, core=%d)", id,
             core->chip_i, core->core_in_chip);
    snprintf(out->debug_string, sizeof out->debug_string, "neuron:%d (%s of %s)", id,
             rt->chip.core_name, rt->instance.name);
    plugin_named_int(&out->attributes[0], "chip", core->chip_i);
    plugin_named_int(&out->attributes[1], "core", core->core_in_chip);
    plugin_named_string(&out->attributes[2], "chip_name", rt->chip.name);
    plugin_named_string(&out->attributes[3], "instance", rt->instance.name);
}

void plugin_device_init(PJRT_Client *client, int id, int core_i, PJRT_Device *out) {
    const runtime_device *rt = client->device->rt;
    out->client = client;
    out->core_i = core_i;
    out->is_own = !runtime_core_is_remote(rt, core_i);
    out->description.process_i = rt->transport ? rt->core_process[core_i] : 0;
    describe(client->device->rt, id, core_i, &out->description);
    for (int k = 0; k < PLUGIN_N_MEMORIES; k++) {
        PJRT_Memory *m = &out->memory[k];
        m->vtable = &memory_table;
        m->id = k * vtrn_device_n_cores(client->device) + id;
        m->place = (api_place)k;
        m->device = out;
        snprintf(m->text, sizeof m->text, "%s(neuron:%d)", k == API_IN_HBM ? "HBM" : "host memory",
                 id);
        out->memories[k] = m;
    }
    out->self[0] = out;
}

void plugin_device_fini(PJRT_Device *device) {
    for (int k = 0; k < PLUGIN_N_MEMORIES; k++)
        for (struct plugin_user_data *u = device->memory[k].user_data, *next; u; u = next) {
            next = u->next;
            if (u->dtor)
                u->dtor(u->data);
            free(u);
        }
}

PJRT_Error *PJRT_DeviceDescription_Id(PJRT_DeviceDescription_Id_Args *args) {
    ARGS_REQUIRE(args, id);
    args->id = args->device_description->id;
    return NULL;
}

PJRT_Error *PJRT_DeviceDescription_ProcessIndex(PJRT_DeviceDescription_ProcessIndex_Args *args) {
    ARGS_REQUIRE(args, process_index);
    args->process_index = args->device_description->process_i;
    return NULL;
}

PJRT_Error *PJRT_DeviceDescription_Attributes(PJRT_DeviceDescription_Attributes_Args *args) {
    ARGS_REQUIRE(args, attributes);
    args->attributes = args->device_description->attributes;
    args->num_attributes = PLUGIN_N_ATTRIBUTES;
    return NULL;
}

PJRT_Error *PJRT_DeviceDescription_Kind(PJRT_DeviceDescription_Kind_Args *args) {
    ARGS_GIVE_TEXT(args, device_kind, args->device_description->kind);
}

PJRT_Error *PJRT_DeviceDescription_DebugString(PJRT_DeviceDescription_DebugString_Args *args) {
    ARGS_GIVE_TEXT(args, debug_string, args->device_description->debug_string);
}

PJRT_Error *PJRT_DeviceDescription_ToString(PJRT_DeviceDescription_ToString_Args *args) {
    ARGS_GIVE_TEXT(args, to_string, args->device_description->to_string);
}

PJRT_Error *PJRT_Device_GetDescription(PJRT_Device_GetDescription_Args *args) {
    ARGS_REQUIRE(args, device_description);
    args->device_description = &args->device->description;
    return NULL;
}

PJRT_Error *PJRT_Device_IsAddressable(PJRT_Device_IsAddressable_Args *args) {
    ARGS_REQUIRE(args, is_addressable);
    args->is_addressable = args->device->is_own;
    return NULL;
}

PJRT_Error *PJRT_Device_LocalHardwareId(PJRT_Device_LocalHardwareId_Args *args) {
    ARGS_REQUIRE(args, local_hardware_id);
    args->local_hardware_id = args->device->core_i;
    return NULL;
}

static void keep_attributes(PJRT_Device_Attributes *attributes) {
    (void)attributes; /* they are the device's own */
}

PJRT_Error *PJRT_Device_GetAttributes(PJRT_Device_GetAttributes_Args *args) {
    ARGS_REQUIRE(args, attributes_deleter);
    args->attributes = args->device->description.attributes;
    args->num_attributes = PLUGIN_N_ATTRIBUTES;
    args->device_attributes = (PJRT_Device_Attributes *)&args->device->description;
    args->attributes_deleter = keep_attributes;
    return NULL;
}

PJRT_Error *PJRT_Device_AddressableMemories(PJRT_Device_AddressableMemories_Args *args) {
    ARGS_REQUIRE(args, num_memories);
    args->memories = args->device->memories;
    args->num_memories = args->device->is_own ? PLUGIN_N_MEMORIES : 0;
    return NULL;
}

PJRT_Error *PJRT_Device_DefaultMemory(PJRT_Device_DefaultMemory_Args *args) {
    ARGS_REQUIRE(args, memory);
    args->memory = &args->device->memory[API_IN_HBM];
    return NULL;
}

#define SET_STAT(field, value)                                                                     \
    do {                                                                                           \
        if (ARGS_HAVE(args, field##_is_set)) {                                                     \
            args->field = (int64_t)(value);                                                        \
            args->field##_is_set = true;                                                           \
        }                                                                                          \
    } while (0)

PJRT_Error *PJRT_Device_MemoryStats(PJRT_Device_MemoryStats_Args *args) {
    ARGS_REQUIRE(args, bytes_in_use);
    runtime_device *rt = args->device->client->device->rt;
    hbm_stats stats;
    runtime_memory_stats(rt, args->device->core_i, &stats);
    size_t head = offsetof(PJRT_Device_MemoryStats_Args, bytes_in_use);
    size_t known = args->struct_size < sizeof *args ? args->struct_size : sizeof *args;
    memset((char *)args + head, 0, known - head);
    args->bytes_in_use = (int64_t)stats.in_use_bytes;
    SET_STAT(peak_bytes_in_use, stats.peak_bytes);
    SET_STAT(num_allocs, stats.n_allocations);
    SET_STAT(largest_alloc_size, stats.largest_alloc_bytes);
    SET_STAT(bytes_limit, stats.capacity_bytes);
    SET_STAT(bytes_reservable_limit, stats.capacity_bytes);
    SET_STAT(bytes_reserved, rt->chip.hbm_reserved_stack_bytes);
    SET_STAT(largest_free_block_bytes, stats.largest_free_bytes);
    return NULL;
}

PJRT_Error *PJRT_Device_ClearMemoryStats(PJRT_Device_ClearMemoryStats_Args *args) {
    ARGS_REQUIRE(args, device);
    runtime_memory_reset_peak(args->device->client->device->rt, args->device->core_i);
    return NULL;
}

PJRT_Error *PJRT_Memory_Id(PJRT_Memory_Id_Args *args) {
    ARGS_REQUIRE(args, id);
    args->id = args->memory->id;
    return NULL;
}

PJRT_Error *PJRT_Memory_Kind(PJRT_Memory_Kind_Args *args) {
    ARGS_GIVE_TEXT(args, kind, plugin_memory_kinds[args->memory->place]);
}

PJRT_Error *PJRT_Memory_Kind_Id(PJRT_Memory_Kind_Id_Args *args) {
    ARGS_REQUIRE(args, kind_id);
    args->kind_id = (int)args->memory->place;
    return NULL;
}

PJRT_Error *PJRT_Memory_DebugString(PJRT_Memory_DebugString_Args *args) {
    ARGS_GIVE_TEXT(args, debug_string, args->memory->text);
}

PJRT_Error *PJRT_Memory_ToString(PJRT_Memory_ToString_Args *args) {
    ARGS_GIVE_TEXT(args, to_string, args->memory->text);
}

PJRT_Error *PJRT_Memory_AddressableByDevices(PJRT_Memory_AddressableByDevices_Args *args) {
    ARGS_REQUIRE(args, num_devices);
    args->devices = args->memory->device->self;
    args->num_devices = 1;
    return NULL;
}
