/* Buffers whose data arrive later, in pieces, from any thread. */
#include "pjrt/pjrt_async_args.h"
#include "pjrt/plugin.h"

#include <stdlib.h>
#include <string.h>

typedef struct awaited {
    PJRT_Buffer *buffer;    /* NULL once retrieved */
    runtime_memory *memory; /* a reference of its own: the buffer may be gone */
    api_type type;
    PJRT_Event *filled;
    bool is_over; /* the last transfer has been made, or an error set */
} awaited;

struct PJRT_AsyncHostToDeviceTransferManager {
    PJRT_Device *device; /* its client is kept alive */
    pthread_mutex_t lock;
    size_t n;
    awaited items[]; /* [n] */
};

static void drop_item(awaited *a) {
    static const char text[] = "the transfer manager was destroyed before all data had arrived";
    if (a->filled && !a->is_over)
        plugin_event_set(a->filled, PJRT_Error_Code_CANCELLED, text, sizeof text - 1);
    if (a->buffer) {
        PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = a->buffer};
        PJRT_Buffer_Destroy(&drop);
    }
    runtime_memory_release(a->memory);
    plugin_event_release(a->filled);
}

static void manager_free(PJRT_AsyncHostToDeviceTransferManager *m) {
    PJRT_Client *client = m->device->client;
    for (size_t i = 0; i < m->n; i++)
        drop_item(&m->items[i]);
    pthread_mutex_destroy(&m->lock);
    free(m);
    plugin_client_release(client);
}

static PJRT_Error *make_item(PJRT_Memory *memory, const PJRT_ShapeSpec *shape,
                             const PJRT_Buffer_MemoryLayout *layout, awaited *out) {
    const plugin_shape wanted = {shape->element_type, shape->dims, shape->num_dims, layout};
    PJRT_Error *error = plugin_buffer_make(memory, &wanted, &out->buffer);
    if (error)
        return error;
    out->type = out->buffer->buffer->type;
    PLUGIN_RETURN_IF_ERROR(api_buffer_hold(out->buffer->buffer, &out->memory));
    PLUGIN_RETURN_IF_ERROR(plugin_event_create(&out->filled));
    out->buffer->filled = plugin_event_retain(out->filled);
    return NULL;
}

PJRT_Error *PJRT_Client_CreateBuffersForAsyncHostToDevice(
    PJRT_Client_CreateBuffersForAsyncHostToDevice_Args *args) {
    ARGS_REQUIRE(args, transfer_manager);
    size_t n = args->num_shape_specs;
    if (args->device_layouts && args->num_device_layouts && args->num_device_layouts != n)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %zu layouts for %zu shapes",
                                 args->num_device_layouts, n);
    PJRT_Memory *memory =
        args->memory ? args->memory : &args->client->own_devices[0]->memory[API_IN_HBM];
    PJRT_AsyncHostToDeviceTransferManager *m = calloc(1, sizeof *m + n * sizeof *m->items);
    if (!m)
        return plugin_error(VTRN_OUT_OF_MEMORY(n * sizeof *m->items));
    m->device = memory->device;
    m->n = n;
    pthread_mutex_init(&m->lock, NULL);
    plugin_client_retain(m->device->client);
    bool has_layouts = args->device_layouts && args->num_device_layouts;
    for (size_t i = 0; i < n; i++) {
        PJRT_Error *error = make_item(memory, &args->shape_specs[i],
                                      has_layouts ? args->device_layouts[i] : NULL, &m->items[i]);
        if (error) {
            manager_free(m);
            return error;
        }
    }
    args->transfer_manager = m;
    return NULL;
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_Destroy(
    PJRT_AsyncHostToDeviceTransferManager_Destroy_Args *args) {
    ARGS_REQUIRE(args, transfer_manager);
    if (args->transfer_manager)
        manager_free(args->transfer_manager);
    return NULL;
}

/* NULL, and an error, when there is no such buffer. */
static awaited *find(PJRT_AsyncHostToDeviceTransferManager *m, int index, PJRT_Error **error) {
    *error = NULL;
    if (index >= 0 && (size_t)index < m->n)
        return &m->items[index];
    *error = plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT, "bad argument: buffer %d of %zu",
                               index, m->n);
    return NULL;
}

/* Whether the buffer still waits for data; with is_last, it does not from now on. */
static PJRT_Error *begin(PJRT_AsyncHostToDeviceTransferManager *m, awaited *a, bool is_last) {
    pthread_mutex_lock(&m->lock);
    bool was_over = a->is_over;
    a->is_over |= is_last;
    pthread_mutex_unlock(&m->lock);
    return was_over ? plugin_error_make(PJRT_Error_Code_FAILED_PRECONDITION,
                                        "bad argument: the buffer has had its last transfer, or an "
                                        "error")
                    : NULL;
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_TransferData(
    PJRT_AsyncHostToDeviceTransferManager_TransferData_Args *args) {
    ARGS_REQUIRE(args, done_with_h2d_transfer);
    PJRT_Error *error;
    awaited *a = find(args->transfer_manager, args->buffer_index, &error);
    if (!a)
        return error;
    uint64_t size = a->type.size_bytes;
    if (args->offset < 0 || args->transfer_size < 0 || (uint64_t)args->offset > size ||
        (uint64_t)args->transfer_size > size - (uint64_t)args->offset)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %lld bytes to offset %lld of a buffer of %llu",
                                 (long long)args->transfer_size, (long long)args->offset,
                                 (unsigned long long)size);
    error = begin(args->transfer_manager, a, args->is_last_transfer);
    if (error)
        return error;
    if (args->transfer_size)
        memcpy(a->memory->host + args->offset, args->data, (size_t)args->transfer_size);
    if (args->is_last_transfer)
        plugin_event_set(a->filled, PJRT_Error_Code_OK, NULL, 0);
    args->done_with_h2d_transfer = plugin_ready_event();
    return NULL;
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_TransferLiteral(
    PJRT_AsyncHostToDeviceTransferManager_TransferLiteral_Args *args) {
    ARGS_REQUIRE(args, done_with_h2d_transfer);
    PJRT_Error *error;
    awaited *a = find(args->transfer_manager, args->buffer_index, &error);
    if (!a)
        return error;
    bool is_same = plugin_type_of(&a->type) == args->shape_element_type &&
                   (size_t)a->type.rank == args->shape_num_dims;
    for (int i = 0; is_same && i < a->type.rank; i++)
        is_same = a->type.dims[i] == args->shape_dims[i];
    char text[256];
    api_type_print(&a->type, text, sizeof text);
    if (!is_same)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: a literal of another shape or type than buffer %d, "
                                 "which is %s",
                                 args->buffer_index, text);
    int64_t strides[VTRN_MAX_RANK];
    if (!plugin_layout_strides(&a->type, args->shape_layout, strides))
        return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                                 "unimplemented: a tiled layout on the host");
    error = begin(args->transfer_manager, a, true);
    if (error)
        return error;
    vtrn_status status =
        plugin_copy_from_host(&a->type, strides, (char *)a->memory->host, args->data);
    if (status) {
        const char *why = vtrn_status_message(status);
        plugin_event_set(a->filled, PJRT_Error_Code_RESOURCE_EXHAUSTED, why, strlen(why));
        return plugin_error(status);
    }
    plugin_event_set(a->filled, PJRT_Error_Code_OK, NULL, 0);
    args->done_with_h2d_transfer = plugin_ready_event();
    return NULL;
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer(
    PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer_Args *args) {
    ARGS_REQUIRE(args, buffer_out);
    PJRT_AsyncHostToDeviceTransferManager *m = args->transfer_manager;
    PJRT_Error *error;
    awaited *a = find(m, args->buffer_index, &error);
    if (!a)
        return error;
    pthread_mutex_lock(&m->lock);
    args->buffer_out = a->buffer;
    a->buffer = NULL;
    pthread_mutex_unlock(&m->lock);
    return args->buffer_out ? NULL
                            : plugin_error_make(PJRT_Error_Code_FAILED_PRECONDITION,
                                                "bad argument: buffer %d was retrieved before",
                                                args->buffer_index);
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_Device(
    PJRT_AsyncHostToDeviceTransferManager_Device_Args *args) {
    ARGS_REQUIRE(args, device_out);
    args->device_out = args->transfer_manager->device;
    return NULL;
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_BufferCount(
    PJRT_AsyncHostToDeviceTransferManager_BufferCount_Args *args) {
    ARGS_REQUIRE(args, buffer_count);
    args->buffer_count = args->transfer_manager->n;
    return NULL;
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_BufferSize(
    PJRT_AsyncHostToDeviceTransferManager_BufferSize_Args *args) {
    ARGS_REQUIRE(args, buffer_size);
    PJRT_Error *error;
    const awaited *a = find(args->transfer_manager, args->buffer_index, &error);
    if (a)
        args->buffer_size = a->type.size_bytes;
    return error;
}

PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_SetBufferError(
    PJRT_AsyncHostToDeviceTransferManager_SetBufferError_Args *args) {
    ARGS_REQUIRE(args, error_message_size);
    PJRT_Error *error;
    awaited *a = find(args->transfer_manager, args->buffer_index, &error);
    if (!a)
        return error;
    error = begin(args->transfer_manager, a, true);
    if (!error)
        plugin_event_set(a->filled, args->error_code, args->error_message,
                         args->error_message_size);
    return error;
}

/* Of the transfer, for the plugin's own records: there are none. */
PJRT_Error *PJRT_AsyncHostToDeviceTransferManager_AddMetadata(
    PJRT_AsyncHostToDeviceTransferManager_AddMetadata_Args *args) {
    ARGS_REQUIRE(args, transfer_manager);
    return NULL;
}
