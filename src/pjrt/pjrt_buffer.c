/* Buffers of the plugin: shape, place, life and death. */
#include "pjrt/plugin.h"

#include <stdlib.h>
#include <string.h>

typedef struct type_pair {
    PJRT_Buffer_Type pjrt;
    vtrn_dtype dtype;
} type_pair;

static const type_pair type_pairs[] = {
    {PJRT_Buffer_Type_PRED, VTRN_DTYPE_PRED},
    {PJRT_Buffer_Type_S8, VTRN_DTYPE_INT8},
    {PJRT_Buffer_Type_S16, VTRN_DTYPE_INT16},
    {PJRT_Buffer_Type_S32, VTRN_DTYPE_INT32},
    {PJRT_Buffer_Type_S64, VTRN_DTYPE_INT64},
    {PJRT_Buffer_Type_U8, VTRN_DTYPE_UINT8},
    {PJRT_Buffer_Type_U16, VTRN_DTYPE_UINT16},
    {PJRT_Buffer_Type_U32, VTRN_DTYPE_UINT32},
    {PJRT_Buffer_Type_U64, VTRN_DTYPE_UINT64},
    {PJRT_Buffer_Type_F16, VTRN_DTYPE_FP16},
    {PJRT_Buffer_Type_F32, VTRN_DTYPE_FP32},
    {PJRT_Buffer_Type_F64, VTRN_DTYPE_FP64},
    {PJRT_Buffer_Type_BF16, VTRN_DTYPE_BF16},
    {PJRT_Buffer_Type_C64, VTRN_DTYPE_C64},
    {PJRT_Buffer_Type_C128, VTRN_DTYPE_C128},
    {PJRT_Buffer_Type_F8E5M2, VTRN_DTYPE_FP8E5M2},
    {PJRT_Buffer_Type_F8E4M3FN, VTRN_DTYPE_FP8E4M3FN},
    {PJRT_Buffer_Type_F8E4M3, VTRN_DTYPE_FP8E4M3},
    {PJRT_Buffer_Type_F8E3M4, VTRN_DTYPE_FP8E3M4},
    {PJRT_Buffer_Type_S2, VTRN_DTYPE_INT2},
    {PJRT_Buffer_Type_S4, VTRN_DTYPE_INT4},
    {PJRT_Buffer_Type_U2, VTRN_DTYPE_UINT2},
    {PJRT_Buffer_Type_U4, VTRN_DTYPE_UINT4},
    {PJRT_Buffer_Type_F4E2M1FN, VTRN_DTYPE_FP4E2M1FN},
    {PJRT_Buffer_Type_F6E2M3FN, VTRN_DTYPE_FP6E2M3FN},
    {PJRT_Buffer_Type_F6E3M2FN, VTRN_DTYPE_FP6E3M2FN},
    {PJRT_Buffer_Type_F8E4M3FNUZ, VTRN_DTYPE_FP8E4M3FNUZ},
    {PJRT_Buffer_Type_F8E5M2FNUZ, VTRN_DTYPE_FP8E5M2FNUZ},
    {PJRT_Buffer_Type_F8E4M3B11FNUZ, VTRN_DTYPE_FP8E4M3B11FNUZ},
    {PJRT_Buffer_Type_F8E8M0FNU, VTRN_DTYPE_FP8E8M0FNU},
};

static const char *const type_names[] = {
    "INVALID",    "PRED",   "S8",       "S16",           "S32",
    "S64",        "U8",     "U16",      "U32",           "U64",
    "F16",        "F32",    "F64",      "BF16",          "C64",
    "C128",       "F8E5M2", "F8E4M3FN", "F8E4M3B11FNUZ", "F8E5M2FNUZ",
    "F8E4M3FNUZ", "S4",     "U4",       "TOKEN",         "S2",
    "U2",         "F8E4M3", "F8E3M4",   "F8E8M0FNU",     "F4E2M1FN",
    "S1",         "U1",     "F6E2M3FN", "F6E3M2FN",
};

PJRT_Buffer_Type plugin_type_of(const api_type *type) {
    if (type->is_token)
        return PJRT_Buffer_Type_TOKEN;
    for (size_t i = 0; i < sizeof type_pairs / sizeof *type_pairs; i++)
        if ((int)type_pairs[i].dtype == type->dtype)
            return type_pairs[i].pjrt;
    return PJRT_Buffer_Type_INVALID;
}

vtrn_status plugin_dtype_of(PJRT_Buffer_Type type, int *out) {
    for (size_t i = 0; i < sizeof type_pairs / sizeof *type_pairs; i++) {
        if (type_pairs[i].pjrt == type) {
            *out = (int)type_pairs[i].dtype;
            return NULL;
        }
    }
    size_t i = (size_t)type;
    if (i == 0 || i >= sizeof type_names / sizeof *type_names)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "buffer: there is no element type %zu", i);
    return VTRN_ERROR(
        VTRN_UNIMPLEMENTED,
        "buffer: element type %s has no counterpart; use int8, fp8, bf16 or a wider one",
        type_names[i]);
}

/* Takes the vtrn buffer over, also on error. */
PJRT_Error *plugin_buffer_wrap(PJRT_Device *device, vtrn_buffer *buffer, PJRT_Buffer **out) {
    PJRT_Buffer *b = malloc(sizeof *b);
    if (!b) {
        vtrn_buffer_destroy(buffer);
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof *b));
    }
    *b = (PJRT_Buffer){.buffer = buffer, .device = device};
    for (int i = 0; i < buffer->type.rank; i++)
        b->minor_to_major[i] = buffer->type.order[buffer->type.rank - 1 - i];
    plugin_client_retain(device->client);
    *out = b;
    return NULL;
}

PJRT_Error *PJRT_Buffer_Destroy(PJRT_Buffer_Destroy_Args *args) {
    ARGS_REQUIRE(args, buffer);
    PJRT_Buffer *b = args->buffer;
    if (!b)
        return NULL;
    PJRT_Client *client = b->device->client;
    vtrn_buffer_destroy(b->buffer);
    plugin_event_release(b->filled);
    free(b);
    plugin_client_release(client);
    return NULL;
}

PJRT_Error *PJRT_Buffer_ElementType(PJRT_Buffer_ElementType_Args *args) {
    ARGS_REQUIRE(args, type);
    args->type = plugin_type_of(&args->buffer->buffer->type);
    return NULL;
}

PJRT_Error *PJRT_Buffer_Dimensions(PJRT_Buffer_Dimensions_Args *args) {
    ARGS_REQUIRE(args, num_dims);
    args->dims = args->buffer->buffer->type.dims;
    args->num_dims = (size_t)plugin_rank_of(&args->buffer->buffer->type);
    return NULL;
}

PJRT_Error *PJRT_Buffer_UnpaddedDimensions(PJRT_Buffer_UnpaddedDimensions_Args *args) {
    ARGS_REQUIRE(args, num_dims);
    args->unpadded_dims = args->buffer->buffer->type.dims;
    args->num_dims = (size_t)plugin_rank_of(&args->buffer->buffer->type);
    return NULL;
}

PJRT_Error *PJRT_Buffer_DynamicDimensionIndices(PJRT_Buffer_DynamicDimensionIndices_Args *args) {
    ARGS_REQUIRE(args, num_dynamic_dims);
    args->dynamic_dim_indices = NULL;
    args->num_dynamic_dims = 0;
    return NULL;
}

/* The answer lives as long as the buffer. */
PJRT_Error *PJRT_Buffer_GetMemoryLayout(PJRT_Buffer_GetMemoryLayout_Args *args) {
    ARGS_REQUIRE(args, layout);
    size_t rank = (size_t)plugin_rank_of(&args->buffer->buffer->type);
    args->layout = (PJRT_Buffer_MemoryLayout){
        .struct_size = sizeof args->layout,
        .tiled = {.struct_size = sizeof args->layout.tiled,
                  .minor_to_major = args->buffer->minor_to_major,
                  .minor_to_major_size = rank},
        .type = PJRT_Buffer_MemoryLayout_Type_Tiled,
    };
    return NULL;
}

PJRT_Error *PJRT_Buffer_OnDeviceSizeInBytes(PJRT_Buffer_OnDeviceSizeInBytes_Args *args) {
    ARGS_REQUIRE(args, on_device_size_in_bytes);
    args->on_device_size_in_bytes = vtrn_buffer_size(args->buffer->buffer);
    return NULL;
}

PJRT_Error *PJRT_Buffer_Device(PJRT_Buffer_Device_Args *args) {
    ARGS_REQUIRE(args, device);
    args->device = args->buffer->device;
    return NULL;
}

PJRT_Error *PJRT_Buffer_Memory(PJRT_Buffer_Memory_Args *args) {
    ARGS_REQUIRE(args, memory);
    args->memory = &args->buffer->device->memory[args->buffer->buffer->place];
    return NULL;
}

PJRT_Error *PJRT_Buffer_Delete(PJRT_Buffer_Delete_Args *args) {
    ARGS_REQUIRE(args, buffer);
    api_buffer_delete(args->buffer->buffer);
    return NULL;
}

PJRT_Error *PJRT_Buffer_IsDeleted(PJRT_Buffer_IsDeleted_Args *args) {
    ARGS_REQUIRE(args, is_deleted);
    args->is_deleted = api_buffer_is_deleted(args->buffer->buffer);
    return NULL;
}

PJRT_Error *PJRT_Buffer_IsOnCpu(PJRT_Buffer_IsOnCpu_Args *args) {
    ARGS_REQUIRE(args, is_on_cpu);
    args->is_on_cpu = false;
    return NULL;
}

PJRT_Error *PJRT_Buffer_ReadyEvent(PJRT_Buffer_ReadyEvent_Args *args) {
    ARGS_REQUIRE(args, event);
    PJRT_Event *filled = args->buffer->filled;
    args->event = filled ? plugin_event_retain(filled) : plugin_ready_event();
    return NULL;
}

PJRT_Error *plugin_buffer_await(const PJRT_Buffer *buffer) {
    return buffer->filled ? plugin_event_await(buffer->filled) : NULL;
}

static PJRT_Error *copy_to(PJRT_Buffer *buffer, PJRT_Memory *memory, PJRT_Buffer **out) {
    PJRT_Device *to = memory->device;
    if (to->client != buffer->device->client)
        return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                                 "unimplemented: copying a buffer to another client");
    PJRT_Error *error = plugin_buffer_await(buffer);
    if (error)
        return error;
    vtrn_buffer *copy;
    PLUGIN_RETURN_IF_ERROR(api_buffer_copy(buffer->buffer, to->core_i, memory->place, &copy));
    return plugin_buffer_wrap(to, copy, out);
}

PJRT_Error *PJRT_Buffer_CopyToDevice(PJRT_Buffer_CopyToDevice_Args *args) {
    ARGS_REQUIRE(args, dst_buffer);
    return copy_to(args->buffer, &args->dst_device->memory[API_IN_HBM], &args->dst_buffer);
}

PJRT_Error *PJRT_Buffer_CopyToMemory(PJRT_Buffer_CopyToMemory_Args *args) {
    ARGS_REQUIRE(args, dst_buffer);
    return copy_to(args->buffer, args->dst_memory, &args->dst_buffer);
}

/* The address stays valid as long as the buffer has its memory: see the reference count below. */
static vtrn_status host_address(PJRT_Buffer *buffer, void **out) {
    runtime_memory *m;
    VTRN_RETURN_IF_ERROR(api_buffer_hold(buffer->buffer, &m));
    vtrn_status status = api_memory_check(m);
    *out = m->host;
    runtime_memory_release(m);
    return status;
}

PJRT_Error *PJRT_Buffer_UnsafePointer(PJRT_Buffer_UnsafePointer_Args *args) {
    ARGS_REQUIRE(args, buffer_pointer);
    void *p;
    PLUGIN_RETURN_IF_ERROR(host_address(args->buffer, &p));
    args->buffer_pointer = (uintptr_t)p;
    return NULL;
}

PJRT_Error *
PJRT_Buffer_OpaqueDeviceMemoryDataPointer(PJRT_Buffer_OpaqueDeviceMemoryDataPointer_Args *args) {
    ARGS_REQUIRE(args, device_memory_ptr);
    PLUGIN_RETURN_IF_ERROR(host_address(args->buffer, &args->device_memory_ptr));
    return NULL;
}

PJRT_Error *
PJRT_Buffer_IncreaseExternalReferenceCount(PJRT_Buffer_IncreaseExternalReferenceCount_Args *args) {
    ARGS_REQUIRE(args, buffer);
    vtrn_buffer *b = args->buffer->buffer;
    pthread_mutex_lock(&b->lock);
    b->n_external++;
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

PJRT_Error *
PJRT_Buffer_DecreaseExternalReferenceCount(PJRT_Buffer_DecreaseExternalReferenceCount_Args *args) {
    ARGS_REQUIRE(args, buffer);
    vtrn_buffer *b = args->buffer->buffer;
    pthread_mutex_lock(&b->lock);
    bool had_any = b->n_external > 0;
    b->n_external -= had_any;
    pthread_mutex_unlock(&b->lock);
    if (had_any)
        return NULL;
    return plugin_error_make(PJRT_Error_Code_FAILED_PRECONDITION,
                             "bad argument: the buffer's external reference count is 0 already");
}
