/* Errors of the plugin. */
#include "pjrt/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void error_destroy(PJRT_Error *error) {
    if (!error || error->is_static)
        return;
    free(error->text);
    free(error);
}

static void error_message(const PJRT_Error *error, const char **message, size_t *message_size) {
    *message = error->text;
    *message_size = strlen(error->text);
}

static PJRT_Error_Code error_code(const PJRT_Error *error) {
    return error->code;
}

static void error_for_each_payload(const PJRT_Error *error, PJRT_Error_PayloadVisitor visitor,
                                   void *user_arg) {
    (void)error;
    (void)visitor;
    (void)user_arg;
}

static const PJRT_Error_FunctionTable error_table = {
    .struct_size = sizeof error_table,
    .instance_size = sizeof(struct PJRT_Error),
    .destroy = error_destroy,
    .message = error_message,
    .get_code = error_code,
    .for_each_payload = error_for_each_payload,
};

static PJRT_Error out_of_memory = {
    .vtable = &error_table,
    .code = PJRT_Error_Code_RESOURCE_EXHAUSTED,
    .is_static = true,
    .text = (char *)"resource: host memory exhausted",
};

static PJRT_Error *error_new(PJRT_Error_Code code, char *text) {
    PJRT_Error *e = text ? malloc(sizeof *e) : NULL;
    if (!e) {
        free(text);
        return &out_of_memory;
    }
    *e = (PJRT_Error){.vtable = &error_table, .code = code, .text = text};
    return e;
}

static PJRT_Error_Code code_of(vtrn_category category) {
    switch (category) {
    case VTRN_OK:
        return PJRT_Error_Code_OK;
    case VTRN_BAD_ARGUMENT:
        return PJRT_Error_Code_INVALID_ARGUMENT;
    case VTRN_UNDEFINED:
    case VTRN_UNINITIALISED:
    case VTRN_HAZARD:
        return PJRT_Error_Code_FAILED_PRECONDITION;
    case VTRN_CAPACITY:
    case VTRN_RESOURCE:
        return PJRT_Error_Code_RESOURCE_EXHAUSTED;
    case VTRN_INTERRUPTED:
        return PJRT_Error_Code_CANCELLED;
    case VTRN_DEADLOCK:
        return PJRT_Error_Code_ABORTED;
    case VTRN_UNAVAILABLE:
        return PJRT_Error_Code_UNAVAILABLE;
    case VTRN_UNSUPPORTED:
    case VTRN_UNIMPLEMENTED:
    case VTRN_UNSPECIFIED:
        return PJRT_Error_Code_UNIMPLEMENTED;
    case VTRN_INTERNAL:
    case VTRN_CALLBACK:
        return PJRT_Error_Code_INTERNAL;
    }
    return PJRT_Error_Code_UNKNOWN;
}

PJRT_Error *plugin_error(vtrn_status status) {
    if (!status)
        return NULL;
    PJRT_Error *e =
        error_new(code_of(vtrn_status_category(status)), strdup(vtrn_status_text(status)));
    vtrn_status_free(status);
    return e;
}

PJRT_Error *plugin_error_make(PJRT_Error_Code code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    return error_new(code, text);
}

PJRT_Error *plugin_args_too_small(const char *function, size_t given, size_t needed) {
    return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                             "bad argument: %s_Args: struct_size is %zu, at least %zu needed",
                             function, given, needed);
}

PJRT_Error *plugin_unimplemented(const char *slot) {
    return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED, "unimplemented: %s", slot);
}

void PJRT_Error_Destroy(PJRT_Error_Destroy_Args *args) {
    if (ARGS_HAVE(args, error))
        error_destroy(args->error);
}

void PJRT_Error_Message(PJRT_Error_Message_Args *args) {
    if (ARGS_HAVE(args, message_size))
        error_message(args->error, &args->message, &args->message_size);
}

PJRT_Error *PJRT_Error_GetCode(PJRT_Error_GetCode_Args *args) {
    ARGS_REQUIRE(args, code);
    args->code = args->error->code;
    return NULL;
}

/* Never an error: the caller would ask the error for its payloads. */
PJRT_Error *PJRT_Error_ForEachPayload(PJRT_Error_ForEachPayload_Args *args) {
    (void)args;
    return NULL;
}
