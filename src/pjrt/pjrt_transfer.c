/* Between host arrays and buffers: any strides on the host; on the device dense, in the order of
 * the type, and packed where values have less than a byte. */
#include "pjrt/plugin.h"

#include <stdlib.h>
#include <string.h>

/* A walk over a tensor with byte strides on both sides. */
typedef struct strided_copy {
    int rank;
    size_t element_bytes;
    const int64_t *dims;
    int64_t dst_strides[GRAPH_MAX_RANK], src_strides[GRAPH_MAX_RANK];
} strided_copy;

static void copy_row(char *dst, int64_t dst_stride, const char *src, int64_t src_stride, int64_t n,
                     size_t element_bytes) {
    if (dst_stride == (int64_t)element_bytes && src_stride == (int64_t)element_bytes) {
        memcpy(dst, src, (size_t)n * element_bytes);
        return;
    }
    for (int64_t i = 0; i < n; i++, dst += dst_stride, src += src_stride)
        memcpy(dst, src, element_bytes);
}

/* Rows of the last dim, the outer dims counted like an odometer. No dim is 0. */
static void copy_strided(const strided_copy *c, char *dst, const char *src) {
    if (c->rank == 0) {
        memcpy(dst, src, c->element_bytes);
        return;
    }
    int last = c->rank - 1;
    int64_t index[GRAPH_MAX_RANK] = {0};
    for (;;) {
        copy_row(dst, c->dst_strides[last], src, c->src_strides[last], c->dims[last],
                 c->element_bytes);
        int d = last - 1;
        for (; d >= 0; d--) {
            dst += c->dst_strides[d];
            src += c->src_strides[d];
            if (++index[d] < c->dims[d])
                break;
            dst -= c->dst_strides[d] * c->dims[d];
            src -= c->src_strides[d] * c->dims[d];
            index[d] = 0;
        }
        if (d < 0)
            return;
    }
}

/* Byte strides of row-major memory, whatever the order of the type. */
static void row_major_strides(const api_type *type, int64_t *strides) {
    api_type plain = *type;
    for (int i = 0; i < plain.rank; i++)
        plain.order[i] = (uint8_t)i;
    api_type_strides(&plain, strides);
}

/* Whether a tensor with these strides is in memory as the type has it. */
static bool is_dense(const api_type *type, const int64_t *strides) {
    int64_t dense[GRAPH_MAX_RANK];
    api_type_strides(type, dense);
    for (int i = 0; i < type->rank; i++)
        if (type->dims[i] != 1 && strides[i] != dense[i])
            return false;
    return true;
}

/* From dst's strides to src's: one side is the host, the other is in the order of the type. */
static void copy_reordered(const api_type *type, char *dst, const int64_t *dst_strides,
                           const char *src, const int64_t *src_strides) {
    strided_copy c = {.rank = type->rank,
                      .element_bytes = dtype_size((vtrn_dtype)type->dtype),
                      .dims = type->dims};
    memcpy(c.dst_strides, dst_strides, (size_t)type->rank * sizeof *dst_strides);
    memcpy(c.src_strides, src_strides, (size_t)type->rank * sizeof *src_strides);
    copy_strided(&c, dst, src);
}

/* The values of an array in the order of the type, a byte each where a buffer packs them; the
 * caller frees *out. */
static vtrn_status make_unpacked(const api_type *type, char **out) {
    *out = malloc((size_t)type->host_bytes);
    return *out ? NULL : VTRN_OUT_OF_MEMORY((size_t)type->host_bytes);
}

static bool is_packed(const api_type *type) {
    return dtype_per_byte((vtrn_dtype)type->dtype) > 1;
}

static size_t n_values(const api_type *type) {
    const size_t size = dtype_size((vtrn_dtype)type->dtype);
    return size ? (size_t)type->host_bytes / size : 0;
}

vtrn_status plugin_copy_from_host(const api_type *type, const int64_t *strides, char *dst,
                                  const char *src) {
    int64_t row_major[GRAPH_MAX_RANK], dense[GRAPH_MAX_RANK];
    if (type->size_bytes == 0)
        return NULL;
    row_major_strides(type, row_major);
    strides = strides ? strides : row_major;
    const size_t n = n_values(type);
    if (is_dense(type, strides)) {
        dtype_pack((vtrn_dtype)type->dtype, src, dst, n);
        return NULL;
    }
    char *values = dst;
    if (is_packed(type))
        VTRN_RETURN_IF_ERROR(make_unpacked(type, &values));
    api_type_strides(type, dense);
    copy_reordered(type, values, dense, src, strides);
    if (values != dst) {
        dtype_pack((vtrn_dtype)type->dtype, values, dst, n);
        free(values);
    }
    return NULL;
}

/* Dims of the layout from the slowest to the fastest; false when it is no permutation of them. */
static bool read_order(const PJRT_Buffer_MemoryLayout_Tiled *t, int rank, uint8_t *order) {
    uint32_t seen = 0;
    if (t->num_tiles != 0 || t->minor_to_major_size != (size_t)rank)
        return false;
    for (int i = 0; i < rank; i++) {
        int64_t d = t->minor_to_major[i];
        if (d < 0 || d >= rank || (seen >> d & 1))
            return false;
        seen |= 1u << d;
        order[rank - 1 - i] = (uint8_t)d;
    }
    return true;
}

bool plugin_layout_strides(const api_type *type, const PJRT_Buffer_MemoryLayout *layout,
                           int64_t *strides) {
    if (!layout) {
        row_major_strides(type, strides);
        return true;
    }
    if (layout->type == PJRT_Buffer_MemoryLayout_Type_Strides) {
        if (layout->strides.num_byte_strides != (size_t)type->rank)
            return false;
        memcpy(strides, layout->strides.byte_strides, (size_t)type->rank * sizeof *strides);
        return true;
    }
    api_type wanted = *type;
    if (!read_order(&layout->tiled, type->rank, wanted.order))
        return false;
    api_type_strides(&wanted, strides);
    return true;
}

/* The memory order in which a buffer is to be made. layout NULL: row-major. */
static PJRT_Error *take_layout(const PJRT_Buffer_MemoryLayout *layout, api_type *type) {
    int64_t row_major[GRAPH_MAX_RANK];
    if (!layout)
        return NULL;
    if (layout->type == PJRT_Buffer_MemoryLayout_Type_Tiled &&
        read_order(&layout->tiled, type->rank, type->order))
        return NULL;
    row_major_strides(type, row_major);
    if (layout->type == PJRT_Buffer_MemoryLayout_Type_Strides &&
        layout->strides.num_byte_strides == (size_t)type->rank &&
        memcmp(layout->strides.byte_strides, row_major, (size_t)type->rank * sizeof *row_major) ==
            0)
        return NULL;
    return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                             "unimplemented: a layout with tiles or strides on the device; there "
                             "are orders of all dimensions");
}

/* The memory the caller means: one wins over a device, none means the first device's. */
static PJRT_Memory *choose_memory(PJRT_Client *client, PJRT_Device *device, PJRT_Memory *memory) {
    if (memory)
        return memory;
    return &(device ? device : client->own_devices[0])->memory[API_IN_HBM];
}

PJRT_Error *plugin_buffer_make(PJRT_Memory *memory, const plugin_shape *shape, PJRT_Buffer **out) {
    static const int64_t none = 0;
    bool is_token = shape->type == PJRT_Buffer_Type_TOKEN;
    int dtype = VTRN_DTYPE_PRED;
    if (!is_token)
        PLUGIN_RETURN_IF_ERROR(plugin_dtype_of(shape->type, &dtype));
    api_type full;
    int rank = shape->n_dims > GRAPH_MAX_RANK ? GRAPH_MAX_RANK + 1 : (int)shape->n_dims;
    PLUGIN_RETURN_IF_ERROR(is_token ? api_type_init(dtype, 1, &none, &full)
                                    : api_type_init(dtype, rank, shape->dims, &full));
    full.is_token = is_token;
    PJRT_Error *error = is_token ? NULL : take_layout(shape->layout, &full);
    if (error)
        return error;
    PJRT_Device *device = memory->device;
    vtrn_buffer *buffer;
    PLUGIN_RETURN_IF_ERROR(api_buffer_create(device->client->device->rt, device->core_i, &full,
                                             memory->place, &buffer));
    return plugin_buffer_wrap(device, buffer, out);
}

PJRT_Error *PJRT_Client_BufferFromHostBuffer(PJRT_Client_BufferFromHostBuffer_Args *args) {
    ARGS_REQUIRE(args, buffer);
    PJRT_Memory *memory = choose_memory(args->client, args->device, args->memory);
    bool has_strides = args->byte_strides && args->num_byte_strides > 0;
    if (has_strides && args->num_byte_strides != args->num_dims)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %zu byte strides for %zu dims",
                                 args->num_byte_strides, args->num_dims);
    const plugin_shape shape = {args->type, args->dims, args->num_dims, args->device_layout};
    PJRT_Buffer *b = NULL;
    PJRT_Error *error = plugin_buffer_make(memory, &shape, &b);
    if (!b) /* and error says why */
        return error;
    vtrn_status status =
        plugin_copy_from_host(&b->buffer->type, has_strides ? args->byte_strides : NULL,
                              (char *)b->buffer->memory->host, args->data);
    if (status) {
        PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = b};
        PJRT_Buffer_Destroy(&drop);
        return plugin_error(status);
    }
    args->done_with_host_buffer = plugin_ready_event();
    args->buffer = b;
    return NULL;
}

PJRT_Error *
PJRT_Client_CreateUninitializedBuffer(PJRT_Client_CreateUninitializedBuffer_Args *args) {
    ARGS_REQUIRE(args, buffer);
    PJRT_Memory *memory = choose_memory(args->client, args->device, args->memory);
    const plugin_shape shape = {args->shape_element_type, args->shape_dims, args->shape_num_dims,
                                args->shape_layout};
    return plugin_buffer_make(memory, &shape, &args->buffer);
}

/* A copy to the host that is made when the data are there. */
typedef struct host_read {
    api_type type;
    int64_t strides[GRAPH_MAX_RANK]; /* on the host */
    void *dst;
    runtime_memory *memory; /* a reference */
    PJRT_Event *done;       /* a reference */
} host_read;

static vtrn_status read_now(const host_read *r) {
    const api_type *type = &r->type;
    const char *src = (const char *)r->memory->host;
    int64_t dense[GRAPH_MAX_RANK];
    VTRN_RETURN_IF_ERROR(api_memory_check(r->memory));
    if (type->size_bytes == 0)
        return NULL;
    const size_t n = n_values(type);
    if (is_dense(type, r->strides)) {
        dtype_unpack((vtrn_dtype)type->dtype, src, r->dst, n);
        return NULL;
    }
    char *values = NULL;
    if (is_packed(type)) {
        VTRN_RETURN_IF_ERROR(make_unpacked(type, &values));
        dtype_unpack((vtrn_dtype)type->dtype, src, values, n);
    }
    api_type_strides(type, dense);
    copy_reordered(type, r->dst, r->strides, values ? values : src, dense);
    free(values);
    return NULL;
}

static void finish_read(PJRT_Error *error, void *user_arg) {
    host_read *r = user_arg;
    if (!error)
        error = plugin_error(read_now(r));
    plugin_event_set(r->done, error ? error->code : PJRT_Error_Code_OK, error ? error->text : NULL,
                     error ? strlen(error->text) : 0);
    PJRT_Error_Destroy_Args destroy = {.struct_size = sizeof destroy, .error = error};
    PJRT_Error_Destroy(&destroy);
    runtime_memory_release(r->memory);
    plugin_event_release(r->done);
    free(r);
}

/* Takes the memory of *r over. *done: one reference for the caller. */
static PJRT_Error *read_later(const host_read *now, PJRT_Event *filled, PJRT_Event **done) {
    host_read *r = malloc(sizeof *r);
    vtrn_status status = r ? plugin_event_create(done) : VTRN_OUT_OF_MEMORY(sizeof *r);
    PJRT_Error *error = NULL;
    if (!status) {
        *r = *now;
        r->done = plugin_event_retain(*done);
        error = plugin_event_on_ready(filled, finish_read, r);
        if (!error)
            return NULL;
        plugin_event_release(r->done);
        plugin_event_release(*done);
    }
    free(r);
    runtime_memory_release(now->memory);
    return status ? plugin_error(status) : error;
}

PJRT_Error *PJRT_Buffer_ToHostBuffer(PJRT_Buffer_ToHostBuffer_Args *args) {
    ARGS_REQUIRE(args, event);
    host_read r = {.type = args->src->buffer->type, .dst = args->dst};
    if (!args->dst) {
        args->dst_size = r.type.host_bytes;
        return NULL;
    }
    if (args->dst_size < r.type.host_bytes)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: room for %zu bytes, the array has %llu",
                                 args->dst_size, (unsigned long long)r.type.host_bytes);
    if (!plugin_layout_strides(&r.type, args->host_layout, r.strides))
        return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                                 "unimplemented: a tiled layout on the host");
    PLUGIN_RETURN_IF_ERROR(api_buffer_hold(args->src->buffer, &r.memory));
    if (args->src->filled)
        return read_later(&r, args->src->filled, &args->event);
    vtrn_status status = read_now(&r);
    runtime_memory_release(r.memory);
    PLUGIN_RETURN_IF_ERROR(status);
    args->event = plugin_ready_event();
    return NULL;
}

PJRT_Error *PJRT_Buffer_CopyRawToHost(PJRT_Buffer_CopyRawToHost_Args *args) {
    ARGS_REQUIRE(args, event);
    uint64_t size = args->buffer->buffer->type.size_bytes;
    if (args->offset < 0 || args->transfer_size < 0 || (uint64_t)args->offset > size ||
        (uint64_t)args->transfer_size > size - (uint64_t)args->offset)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %lld bytes from offset %lld of a buffer of %llu",
                                 (long long)args->transfer_size, (long long)args->offset,
                                 (unsigned long long)size);
    PJRT_Error *error = plugin_buffer_await(args->buffer);
    if (error)
        return error;
    runtime_memory *m;
    PLUGIN_RETURN_IF_ERROR(api_buffer_hold(args->buffer->buffer, &m));
    vtrn_status status = api_memory_check(m);
    if (args->transfer_size && !status)
        memcpy(args->dst, m->host + args->offset, (size_t)args->transfer_size);
    runtime_memory_release(m);
    PLUGIN_RETURN_IF_ERROR(status);
    args->event = plugin_ready_event();
    return NULL;
}
