/* The profiler extension: jax.profiler asks for what the chip did while it listened. */
#include "pjrt/pjrt_extensions.h"
#include "pjrt/plugin.h"

#include <stdlib.h>
#include <string.h>

struct PLUGIN_Profiler {
    api_session *session;
    uint8_t *bytes; /* the XSpace, once it was asked for */
    size_t size;
};

/* PLUGIN_Profiler_Error is a PJRT_Error under another name. */
static PLUGIN_Profiler_Error *as_profiler_error(PJRT_Error *error) {
    return (PLUGIN_Profiler_Error *)error;
}

static PLUGIN_Profiler_Error *error_of(vtrn_status status) {
    return as_profiler_error(plugin_error(status));
}

static void error_destroy(PLUGIN_Profiler_Error_Destroy_Args *args) {
    PJRT_Error_Destroy_Args destroy = {.struct_size = sizeof destroy,
                                       .error = (PJRT_Error *)args->error};
    PJRT_Error_Destroy(&destroy);
}

static void error_message(PLUGIN_Profiler_Error_Message_Args *args) {
    PJRT_Error_Message_Args message = {.struct_size = sizeof message,
                                       .error = (const PJRT_Error *)args->error};
    PJRT_Error_Message(&message);
    args->message = message.message;
    args->message_size = message.message_size;
}

static PLUGIN_Profiler_Error *error_get_code(PLUGIN_Profiler_Error_GetCode_Args *args) {
    args->code = (int)((const PJRT_Error *)args->error)->code;
    return NULL;
}

static PLUGIN_Profiler_Error *create(PLUGIN_Profiler_Create_Args *args) {
    PLUGIN_Profiler *p = calloc(1, sizeof *p);
    if (!p)
        return error_of(VTRN_OUT_OF_MEMORY(sizeof *p));
    vtrn_status status = api_session_create(&p->session);
    if (status) {
        free(p);
        return error_of(status);
    }
    args->profiler = p;
    return NULL;
}

static PLUGIN_Profiler_Error *destroy(PLUGIN_Profiler_Args *args) {
    PLUGIN_Profiler *p = args->profiler;
    if (!p)
        return NULL;
    api_session_destroy(p->session);
    free(p->bytes);
    free(p);
    return NULL;
}

static PLUGIN_Profiler_Error *start(PLUGIN_Profiler_Args *args) {
    api_session_start(args->profiler->session);
    return NULL;
}

static PLUGIN_Profiler_Error *stop(PLUGIN_Profiler_Args *args) {
    api_session_stop(args->profiler->session);
    return NULL;
}

/* Without a buffer: the size, and the trace itself, which the profiler keeps. With one, of that
 * size: a copy. Callers do the one or both. */
static PLUGIN_Profiler_Error *collect_data(PLUGIN_Profiler_CollectData_Args *args) {
    PLUGIN_Profiler *p = args->profiler;
    if (!args->buffer) {
        api_session_stop(p->session);
        free(p->bytes);
        p->bytes = NULL;
        vtrn_status status = api_session_xspace(p->session, &p->bytes, &p->size);
        if (status)
            return error_of(status);
        args->buffer = p->bytes;
        args->buffer_size_in_bytes = p->size;
        return NULL;
    }
    if (args->buffer_size_in_bytes < p->size)
        return as_profiler_error(plugin_error_make(
            PJRT_Error_Code_INVALID_ARGUMENT, "bad argument: room for %zu bytes, the trace has %zu",
            args->buffer_size_in_bytes, p->size));
    if (p->size && args->buffer != p->bytes)
        memcpy(args->buffer, p->bytes, p->size);
    args->buffer_size_in_bytes = p->size;
    return NULL;
}

static const PLUGIN_Profiler_Api profiler_api = {
    .struct_size = sizeof profiler_api,
    .error_destroy = error_destroy,
    .error_message = error_message,
    .error_get_code = error_get_code,
    .create = create,
    .destroy = destroy,
    .start = start,
    .stop = stop,
    .collect_data = collect_data,
};

PJRT_Profiler_Extension plugin_profiler_extension = {
    .base = {.struct_size = sizeof plugin_profiler_extension,
             .type = PJRT_Extension_Type_Profiler,
             .next = &plugin_layouts_extension.base},
    .profiler_api = &profiler_api,
    .traceme_context_id = -1, /* its calls have no event of the host to be linked to */
};
