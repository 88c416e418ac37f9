#include "compiler/reference/host_callback.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { MESSAGE_BYTES = 16384 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static host_callbacks current;
static _Thread_local bool is_running;

void host_callbacks_set(const host_callbacks *callbacks) {
    pthread_mutex_lock(&lock);
    current = callbacks ? *callbacks : (host_callbacks){0};
    pthread_mutex_unlock(&lock);
}

/* The copy is called without the lock: a callback may run long, and compile programs. */
static vtrn_status get(const graph_op *op, host_callbacks *out, uint64_t *out_id) {
    pthread_mutex_lock(&lock);
    *out = current;
    pthread_mutex_unlock(&lock);
    if (!out->call || !out->hold)
        return VTRN_ERROR(
            VTRN_UNSUPPORTED,
            "%s: the program calls back into the host, and this process has no function to call; "
            "run it through JAX with the Python package vtrn installed or on PYTHONPATH",
            op->name);
    const char *text = op->attrs.custom_call.backend_config;
    char *end = NULL;
    errno = 0;
    *out_id = text ? strtoull(text, &end, 10) : 0;
    if (!end || end == text || *end || errno)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: backend_config '%.64s' is no number of a callback; export the "
                          "program again",
                          op->name, text ? text : "");
    return NULL;
}

vtrn_status host_callback_hold(const graph_op *op, int change) {
    host_callbacks c;
    uint64_t id;
    VTRN_RETURN_IF_ERROR(get(op, &c, &id));
    if (c.hold(c.ctx, id, change))
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "%s: callback %llu is no function of this process; a program with "
                          "callbacks runs where it was traced: trace it again here",
                          op->name, (unsigned long long)id);
    return NULL;
}

vtrn_status host_callback_run(const graph_op *op, const void *const *inputs, void *const *outputs) {
    host_callbacks c;
    uint64_t id;
    VTRN_RETURN_IF_ERROR(get(op, &c, &id));
    char *message = calloc(MESSAGE_BYTES, 1);
    if (!message)
        return VTRN_OUT_OF_MEMORY(MESSAGE_BYTES);
    is_running = true;
    int failed = c.call(c.ctx, id, inputs, outputs, message, MESSAGE_BYTES);
    is_running = false;
    vtrn_status status = NULL;
    if (failed)
        status = VTRN_ERROR(failed < 0 ? VTRN_INTERRUPTED : VTRN_CALLBACK, "%s", message);
    free(message);
    return status;
}

bool host_callback_is_running(void) {
    return is_running;
}
