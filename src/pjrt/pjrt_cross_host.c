/* The cross-host transfers extension: buffers of one process become buffers of another. */
#include "pjrt/pjrt_extensions.h"
#include "pjrt/plugin.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WAIT_NS = 500000 };

/* Both ends have the key, the source and the destination of a transfer. */
static uint64_t key_of(int64_t transfer_key, int32_t source, int32_t destination) {
    const uint64_t devices = (uint64_t)(uint32_t)source << 32 | (uint32_t)destination;
    return (uint64_t)transfer_key * UINT64_C(0x9e3779b97f4a7c15) + devices;
}

/* NULL when it is this process's, or none. */
static PJRT_Device *device_elsewhere(PJRT_Client *client, int32_t id) {
    return id < 0 || id >= client->n_devices || client->devices[id].is_own ? NULL
                                                                           : &client->devices[id];
}

static PJRT_Error *not_elsewhere(int32_t id) {
    return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                             "bad argument: a transfer with device %d, which is none of another "
                             "process",
                             id);
}

static PJRT_Error *send_one(PJRT_Client *client, PJRT_Buffer *buffer, int32_t destination,
                            int64_t transfer_key) {
    runtime_device *rt = client->device->rt;
    PJRT_Device *to = device_elsewhere(client, destination);
    runtime_memory *m;
    if (!to)
        return not_elsewhere(destination);
    PJRT_Error *error = plugin_buffer_await(buffer);
    if (error)
        return error;
    PLUGIN_RETURN_IF_ERROR(api_buffer_hold(buffer->buffer, &m));
    const transport_message message = {to->description.process_i, m->host,
                                       buffer->buffer->type.size_bytes};
    pthread_mutex_lock(&rt->run_lock); /* the transport is one thread's at a time */
    vtrn_status status = transport_send(
        rt->transport, &message, key_of(transfer_key, buffer->device->description.id, destination));
    pthread_mutex_unlock(&rt->run_lock);
    runtime_memory_release(m);
    return plugin_error(status);
}

static PJRT_Error *send_buffers(PJRT_CrossHostSend_Args *args) {
    ARGS_REQUIRE(args, send_events);
    for (size_t i = 0; i < args->num_buffers; i++) {
        PJRT_Error *error = send_one(args->client, args->buffers[i], args->dst_global_device_ids[i],
                                     args->transfer_keys[i]);
        if (error)
            return error;
    }
    for (size_t i = 0; i < args->num_buffers; i++)
        args->send_events[i] = plugin_ready_event();
    return NULL;
}

/* --- receiving ---------------------------------------------------------------------------------
 */

/* A buffer whose data another process sends. */
typedef struct awaited_buffer {
    runtime_memory *memory; /* a reference of its own: the buffer may be gone */
    PJRT_Event *filled;
    uint64_t key;
    size_t size;
    int process_i;
    bool is_over;
} awaited_buffer;

/* What one call asked for; a thread of its own waits for it, since the sender may wait for what
 * this process sends next. */
typedef struct receipt {
    PJRT_Client *client;
    size_t n;
    awaited_buffer items[];
} receipt;

static void set_event(awaited_buffer *a, vtrn_status status) {
    PJRT_Error_Code code = status ? PJRT_Error_Code_INTERNAL : PJRT_Error_Code_OK;
    const char *text = status ? vtrn_status_text(status) : NULL;
    plugin_event_set(a->filled, code, text, text ? strlen(text) : 0);
    vtrn_status_free(status);
    a->is_over = true;
}

static void receipt_free(receipt *r) {
    for (size_t i = 0; i < r->n; i++) {
        runtime_memory_release(r->items[i].memory);
        plugin_event_release(r->items[i].filled);
    }
    plugin_client_release(r->client);
    free(r);
}

/* False while something has not come. */
static bool look(receipt *r) {
    runtime_device *rt = r->client->device->rt;
    bool is_over = true;
    for (size_t i = 0; i < r->n; i++) {
        awaited_buffer *a = &r->items[i];
        const transport_message message = {a->process_i, a->memory->host, a->size};
        bool has_come = a->is_over;
        if (a->is_over)
            continue;
        pthread_mutex_lock(&rt->run_lock);
        vtrn_status status = transport_try_receive(rt->transport, &message, a->key, &has_come);
        pthread_mutex_unlock(&rt->run_lock);
        if (status || has_come)
            set_event(a, status);
        is_over &= a->is_over;
    }
    return is_over;
}

static void *receive_main(void *arg) {
    receipt *r = arg;
    int seconds = 0;
    vtrn_status_free(transport_watchdog_seconds(&seconds));
    struct timespec start, now, pause = {0, WAIT_NS};
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (!look(r)) {
        nanosleep(&pause, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec <= seconds)
            continue;
        for (size_t i = 0; i < r->n; i++)
            if (!r->items[i].is_over)
                set_event(&r->items[i], VTRN_ERROR(VTRN_UNAVAILABLE,
                                                   "%s did not send an array within %d s; "
                                                   "VTRN_WATCHDOG_SECONDS sets the time",
                                                   transport_name(r->client->device->rt->transport,
                                                                  r->items[i].process_i),
                                                   seconds));
    }
    receipt_free(r);
    return NULL;
}

/* Signals belong to the program that uses us. */
static bool start_thread(receipt *r) {
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool has_started = pthread_create(&thread, NULL, receive_main, r) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (has_started)
        pthread_detach(thread);
    return has_started;
}

static PJRT_Error *make_buffer(PJRT_CrossHostReceive_Args *args, size_t i, awaited_buffer *out) {
    PJRT_Device *from = device_elsewhere(args->client, args->src_global_device_ids[i]);
    if (!from)
        return not_elsewhere(args->src_global_device_ids[i]);
    const plugin_shape shape = {args->element_types[i], args->dims[i], args->shape_num_dims[i],
                                args->layouts ? args->layouts[i] : NULL};
    PJRT_Error *error =
        plugin_buffer_make(&args->device->memory[API_IN_HBM], &shape, &args->buffers[i]);
    if (error)
        return error;
    PJRT_Buffer *b = args->buffers[i];
    out->key = key_of(args->transfer_keys[i], args->src_global_device_ids[i],
                      args->device->description.id);
    out->process_i = from->description.process_i;
    out->size = b->buffer->type.size_bytes;
    PLUGIN_RETURN_IF_ERROR(api_buffer_hold(b->buffer, &out->memory));
    PLUGIN_RETURN_IF_ERROR(plugin_event_create(&out->filled));
    b->filled = plugin_event_retain(out->filled);
    return NULL;
}

static PJRT_Error *receive_buffers(PJRT_CrossHostReceive_Args *args) {
    ARGS_REQUIRE(args, buffers);
    receipt *r = calloc(1, sizeof *r + args->num_shapes * sizeof *r->items);
    if (!r)
        return plugin_error(VTRN_OUT_OF_MEMORY(args->num_shapes * sizeof *r->items));
    r->client = args->client;
    plugin_client_retain(args->client);
    memset(args->buffers, 0, args->num_shapes * sizeof(PJRT_Buffer *));
    PJRT_Error *error = NULL;
    for (; r->n < args->num_shapes && !error; r->n++)
        error = make_buffer(args, r->n, &r->items[r->n]);
    if (!error && !start_thread(r))
        error = plugin_error(VTRN_ERROR(VTRN_RESOURCE, "host: cannot start a thread"));
    if (!error)
        return NULL;
    for (size_t i = 0; i < args->num_shapes; i++) {
        PJRT_Buffer_Destroy_Args destroy = {.struct_size = sizeof destroy,
                                            .buffer = args->buffers[i]};
        PJRT_Buffer_Destroy(&destroy);
        args->buffers[i] = NULL;
    }
    receipt_free(r);
    return error;
}

/* --- the protocol by descriptors ---------------------------------------------------------------
 */

static PJRT_Error *make_receive_buffers(void *args) {
    (void)args;
    return plugin_unimplemented("MakeCrossHostReceiveBuffers");
}

static void copy_to_remote_device(PJRT_CopyToRemoteDevice_Args *args) {
    plugin_event_release(args->event);
    args->on_done(plugin_unimplemented("CopyToRemoteDevice"), false, args->user_arg);
}

PJRT_CrossHost_Extension plugin_cross_host_extension = {
    .base = {.struct_size = sizeof(PJRT_CrossHost_Extension),
             .type = PJRT_Extension_Type_CrossHostTransfers},
    .make_receive_buffers = make_receive_buffers,
    .copy_to_remote_device = copy_to_remote_device,
    .receive_buffers = receive_buffers,
    .send_buffers = send_buffers,
};
