/* Events: one that is always ready serves what the plugin does at once; others wait for data. */
#include "base/process.h"
#include "pjrt/pjrt_async_args.h"
#include "pjrt/plugin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct waiter {
    PJRT_Event_OnReadyCallback callback;
    void *user_arg;
    struct waiter *next;
} waiter;

struct PJRT_Event {
    bool is_static; /* ready, and never freed */
    atomic_uint refs;
    pthread_mutex_t lock;
    pthread_cond_t set;
    bool is_ready;
    PJRT_Error_Code code;
    char *text;      /* NULL without an error */
    waiter *waiters; /* newest first */
};

PJRT_Event *plugin_ready_event(void) {
    static PJRT_Event ready = {.is_static = true, .is_ready = true};
    return &ready;
}

vtrn_status plugin_event_create(PJRT_Event **out) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return VTRN_OUT_OF_MEMORY(sizeof **out);
    atomic_init(&(*out)->refs, 1);
    pthread_mutex_init(&(*out)->lock, NULL);
    pthread_cond_init(&(*out)->set, NULL);
    return NULL;
}

PJRT_Event *plugin_event_retain(PJRT_Event *e) {
    if (!e->is_static)
        atomic_fetch_add_explicit(&e->refs, 1, memory_order_relaxed);
    return e;
}

void plugin_event_release(PJRT_Event *e) {
    if (!e || e->is_static || atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
        return;
    while (e->waiters) {
        waiter *w = e->waiters;
        e->waiters = w->next;
        free(w);
    }
    pthread_cond_destroy(&e->set);
    pthread_mutex_destroy(&e->lock);
    free(e->text);
    free(e);
}

/* A fresh error, or NULL, of an event that is ready. */
static PJRT_Error *error_of(const PJRT_Event *e) {
    return e->code == PJRT_Error_Code_OK
               ? NULL
               : plugin_error_make(e->code, "%s", e->text ? e->text : "an error without a text");
}

bool plugin_event_set(PJRT_Event *e, PJRT_Error_Code code, const char *text, size_t text_size) {
    if (e->is_static)
        return false;
    plugin_event_retain(e); /* a callback may give up the last reference */
    pthread_mutex_lock(&e->lock);
    bool is_first = !e->is_ready;
    waiter *waiters = NULL;
    if (is_first) {
        e->is_ready = true;
        e->code = code;
        e->text = code == PJRT_Error_Code_OK ? NULL : strndup(text ? text : "", text_size);
        waiters = e->waiters;
        e->waiters = NULL;
        pthread_cond_broadcast(&e->set);
    }
    pthread_mutex_unlock(&e->lock);
    while (waiters) {
        waiter *w = waiters;
        waiters = w->next;
        w->callback(error_of(e), w->user_arg);
        free(w);
    }
    plugin_event_release(e);
    return is_first;
}

bool plugin_event_is_ready(PJRT_Event *e) {
    if (e->is_static)
        return true;
    pthread_mutex_lock(&e->lock);
    bool is_ready = e->is_ready;
    pthread_mutex_unlock(&e->lock);
    return is_ready;
}

PJRT_Error *plugin_event_on_ready(PJRT_Event *e, PJRT_Event_OnReadyCallback callback,
                                  void *user_arg) {
    waiter *w = e->is_static ? NULL : malloc(sizeof *w);
    if (!w && !e->is_static)
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof *w));
    bool is_ready = true;
    if (w) {
        pthread_mutex_lock(&e->lock);
        is_ready = e->is_ready;
        *w = (waiter){callback, user_arg, e->waiters};
        if (!is_ready)
            e->waiters = w;
        pthread_mutex_unlock(&e->lock);
    }
    if (is_ready) {
        free(w);
        callback(error_of(e), user_arg);
    }
    return NULL;
}

PJRT_Error *plugin_event_await(PJRT_Event *e) {
    enum { ASK_NS = 50000000 };
    if (e->is_static)
        return NULL;
    bool is_interrupted = false;
    pthread_mutex_lock(&e->lock);
    while (!e->is_ready && !is_interrupted) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += ASK_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&e->set, &e->lock, &until) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&e->lock);
        is_interrupted = process_is_interrupted();
        pthread_mutex_lock(&e->lock);
    }
    is_interrupted &= !e->is_ready;
    PJRT_Error *error = is_interrupted ? NULL : error_of(e);
    pthread_mutex_unlock(&e->lock);
    if (!is_interrupted)
        return error;
    process_has_stopped();
    return plugin_error_make(PJRT_Error_Code_CANCELLED,
                             "interrupted while data from the host were waited for");
}

PJRT_Error *PJRT_Event_Destroy(PJRT_Event_Destroy_Args *args) {
    ARGS_REQUIRE(args, event);
    plugin_event_release(args->event);
    return NULL;
}

PJRT_Error *PJRT_Event_IsReady(PJRT_Event_IsReady_Args *args) {
    ARGS_REQUIRE(args, is_ready);
    args->is_ready = plugin_event_is_ready(args->event);
    return NULL;
}

PJRT_Error *PJRT_Event_Error(PJRT_Event_Error_Args *args) {
    ARGS_REQUIRE(args, event);
    return plugin_event_is_ready(args->event) ? error_of(args->event) : NULL;
}

PJRT_Error *PJRT_Event_Await(PJRT_Event_Await_Args *args) {
    ARGS_REQUIRE(args, event);
    return plugin_event_await(args->event);
}

PJRT_Error *PJRT_Event_OnReady(PJRT_Event_OnReady_Args *args) {
    ARGS_REQUIRE(args, user_arg);
    return plugin_event_on_ready(args->event, args->callback, args->user_arg);
}

PJRT_Error *PJRT_Event_Create(PJRT_Event_Create_Args *args) {
    ARGS_REQUIRE(args, event);
    PLUGIN_RETURN_IF_ERROR(plugin_event_create(&args->event));
    return NULL;
}

PJRT_Error *PJRT_Event_Set(PJRT_Event_Set_Args *args) {
    ARGS_REQUIRE(args, error_message_size);
    if (plugin_event_set(args->event, args->error_code, args->error_message,
                         args->error_message_size))
        return NULL;
    return plugin_error_make(PJRT_Error_Code_FAILED_PRECONDITION,
                             "bad argument: the event is set already");
}
