/* Buffers of the public API: dense tensors in HBM. */
#include "api/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

vtrn_status api_type_init(int dtype, int rank, const int64_t *dims, api_type *out) {
    if (dtype < 0 || dtype >= VTRN_DTYPE_COUNT)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "tensor: element type %d of 0..%d; take it from vtrn_dtype_from_name()",
                          dtype, VTRN_DTYPE_COUNT - 1);
    if (rank < 0 || rank > GRAPH_MAX_RANK)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "tensor: rank %d of 0..%d; merge dimensions", rank,
                          GRAPH_MAX_RANK);
    *out = (api_type){.dtype = dtype, .rank = rank};
    uint64_t size = dtype_size((vtrn_dtype)dtype); /* of a value at the host */
    bool is_empty = false, overflows = false;
    for (int i = 0; i < rank; i++) {
        if (dims[i] < 0)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "tensor: dim %d is %lld, less than 0; give the number of elements", i,
                              (long long)dims[i]);
        out->dims[i] = dims[i];
        out->order[i] = (uint8_t)i;
        is_empty |= dims[i] == 0;
        overflows |= __builtin_mul_overflow(size, (uint64_t)dims[i], &size);
    }
    if (is_empty)
        size = 0;
    else if (overflows || size > (uint64_t)INT64_MAX)
        return VTRN_ERROR(VTRN_CAPACITY,
                          "tensor: more than 2^63 bytes; use a smaller shape or type");
    out->host_bytes = size;
    out->size_bytes = dtype_packed_size((vtrn_dtype)dtype, size / dtype_size((vtrn_dtype)dtype));
    return NULL;
}

bool api_type_equal(const api_type *a, const api_type *b) {
    return a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims) == 0 &&
           memcmp(a->order, b->order, (size_t)a->rank) == 0;
}

/* Byte strides of the dims at the host; those of empty dims are of no use, and not 0. */
void api_type_strides(const api_type *type, int64_t *strides) {
    int64_t stride = (int64_t)dtype_size((vtrn_dtype)type->dtype);
    for (int k = type->rank - 1; k >= 0; k--) {
        strides[type->order[k]] = stride;
        stride *= type->dims[type->order[k]];
    }
}

void api_type_print(const api_type *type, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "%s[", dtype_name((vtrn_dtype)type->dtype));
    for (int i = 0; i < type->rank && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%lld", i ? "," : "", (long long)type->dims[i]);
    if (n < size)
        n += (size_t)snprintf(text + n, size - n, "]");
    bool is_plain = true;
    for (int i = 0; i < type->rank; i++)
        is_plain &= type->order[i] == i;
    for (int i = 0; !is_plain && i < type->rank && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%d%s", i ? "," : " in memory order {",
                              type->order[i], i + 1 < type->rank ? "" : "}");
}

vtrn_status api_buffer_wrap(runtime_device *rt, int core_i, const api_type *type,
                            runtime_memory *memory, vtrn_buffer **out) {
    vtrn_buffer *b = malloc(sizeof *b);
    if (!b)
        return VTRN_OUT_OF_MEMORY(sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    runtime_device_retain(rt);
    b->rt = rt;
    b->memory = memory;
    b->core_i = core_i;
    b->place = memory && !memory->block ? API_ON_HOST : API_IN_HBM;
    b->was_donated = false;
    b->n_external = 0;
    b->type = *type;
    *out = b;
    return NULL;
}

vtrn_status api_buffer_create(runtime_device *rt, int core_i, const api_type *type, api_place place,
                              vtrn_buffer **out) {
    *out = NULL;
    runtime_memory *memory = NULL;
    vtrn_status status = place == API_ON_HOST
                             ? runtime_host_memory_create(rt, core_i, type->size_bytes, &memory)
                             : runtime_memory_create(rt, core_i, type->size_bytes, &memory);
    if (!status && (status = api_buffer_wrap(rt, core_i, type, memory, out)))
        runtime_memory_release(memory);
    if (!status)
        return NULL;
    char text[256];
    api_type_print(type, text, sizeof text);
    return vtrn_status_not_ok(vtrn_status_annotate(status, "a buffer of %s", text));
}

vtrn_status vtrn_buffer_create(vtrn_device *device, int core_i, int dtype, int rank,
                               const int64_t *dims, const void *data, vtrn_buffer **out) {
    *out = NULL;
    api_type type;
    VTRN_RETURN_IF_ERROR(api_type_init(dtype, rank, dims, &type));
    VTRN_RETURN_IF_ERROR(api_buffer_create(device->rt, core_i, &type, API_IN_HBM, out));
    if (data && type.size_bytes)
        memcpy((*out)->memory->host, data, type.size_bytes);
    return NULL;
}

void vtrn_buffer_destroy(vtrn_buffer *buffer) {
    if (!buffer)
        return;
    runtime_memory_release(buffer->memory);
    runtime_device_release(buffer->rt);
    pthread_mutex_destroy(&buffer->lock);
    free(buffer);
}

size_t vtrn_buffer_size(const vtrn_buffer *buffer) {
    return buffer->type.size_bytes;
}

vtrn_status api_buffer_hold(vtrn_buffer *buffer, runtime_memory **out) {
    pthread_mutex_lock(&buffer->lock);
    runtime_memory *m = buffer->memory;
    if (m)
        runtime_memory_retain(m);
    bool was_donated = buffer->was_donated;
    pthread_mutex_unlock(&buffer->lock);
    *out = m;
    if (m)
        return NULL;
    char text[256];
    api_type_print(&buffer->type, text, sizeof text);
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "buffer %s %s", text,
                      was_donated ? "was donated to an execution: its memory is an output's now; "
                                    "use the output, or pass a copy"
                                  : "has been deleted; create it again");
}

bool api_buffer_take(vtrn_buffer *buffer, runtime_memory *held, bool *is_alone) {
    pthread_mutex_lock(&buffer->lock);
    bool is_there = buffer->memory == held;
    if (is_there) {
        /* its own reference and the caller's; no new one can appear once the buffer is empty */
        *is_alone = runtime_memory_refs(held) == 2 && buffer->n_external == 0;
        buffer->memory = NULL;
        buffer->was_donated = true;
    }
    pthread_mutex_unlock(&buffer->lock);
    return is_there;
}

void api_buffer_give_back(vtrn_buffer *buffer, runtime_memory *memory) {
    pthread_mutex_lock(&buffer->lock);
    buffer->memory = memory;
    buffer->was_donated = false;
    pthread_mutex_unlock(&buffer->lock);
}

void api_buffer_delete(vtrn_buffer *buffer) {
    pthread_mutex_lock(&buffer->lock);
    runtime_memory *m = buffer->memory;
    buffer->memory = NULL;
    pthread_mutex_unlock(&buffer->lock);
    runtime_memory_release(m);
}

bool api_buffer_is_deleted(vtrn_buffer *buffer) {
    pthread_mutex_lock(&buffer->lock);
    bool is_deleted = !buffer->memory;
    pthread_mutex_unlock(&buffer->lock);
    return is_deleted;
}

static vtrn_status check_size(const vtrn_buffer *buffer, size_t size) {
    if (size == buffer->type.size_bytes)
        return NULL;
    char text[256];
    api_type_print(&buffer->type, text, sizeof text);
    return VTRN_ERROR(
        VTRN_BAD_ARGUMENT,
        "buffer %s has %llu bytes: %zu bytes given; it is read and written whole; give that many",
        text, (unsigned long long)buffer->type.size_bytes, size);
}

vtrn_status api_memory_check(const runtime_memory *memory) {
    if (!memory->lacks_values)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "an array on core %d has no values: VTRN_VALUES computes those of some ranks "
                      "alone, and this is of another one; read the shard of rank 0 "
                      "(addressable_shards[0].data), or compute all with VTRN_VALUES=on",
                      memory->core_i);
}

vtrn_status vtrn_buffer_read(const vtrn_buffer *buffer, void *dst, size_t size) {
    VTRN_RETURN_IF_ERROR(check_size(buffer, size));
    runtime_memory *m;
    VTRN_RETURN_IF_ERROR(api_buffer_hold((vtrn_buffer *)buffer, &m));
    vtrn_status status = api_memory_check(m);
    if (size && !status)
        memcpy(dst, m->host, size);
    runtime_memory_release(m);
    return status;
}

vtrn_status vtrn_buffer_write(vtrn_buffer *buffer, const void *src, size_t size) {
    VTRN_RETURN_IF_ERROR(check_size(buffer, size));
    runtime_memory *m;
    VTRN_RETURN_IF_ERROR(api_buffer_hold(buffer, &m));
    if (size)
        memcpy(m->host, src, size);
    m->lacks_values = false;
    runtime_memory_release(m);
    return NULL;
}

vtrn_status api_buffer_copy(vtrn_buffer *buffer, int core_i, api_place place, vtrn_buffer **out) {
    *out = NULL;
    runtime_memory *from;
    VTRN_RETURN_IF_ERROR(api_buffer_hold(buffer, &from));
    vtrn_status status = api_buffer_create(buffer->rt, core_i, &buffer->type, place, out);
    if (!status)
        (*out)->memory->lacks_values = from->lacks_values;
    if (!status && buffer->type.size_bytes && !from->lacks_values)
        memcpy((*out)->memory->host, from->host, buffer->type.size_bytes);
    runtime_memory_release(from);
    return status;
}
