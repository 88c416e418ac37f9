/* Status payloads: category, message, place. */
#include "base/status.h"

#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vtrn_status_payload {
    vtrn_category category;
    bool is_static;
    char *message;
    char *text; /* made by vtrn_status_text() */
};

static struct vtrn_status_payload out_of_memory = {
    .category = VTRN_RESOURCE,
    .is_static = true,
    .message = (char *)"host memory exhausted",
    .text = (char *)"resource: host memory exhausted",
};

static const char *const category_names[] = {
    [VTRN_OK] = "ok",
    [VTRN_BAD_ARGUMENT] = "bad argument",
    [VTRN_UNDEFINED] = "undefined",
    [VTRN_UNINITIALISED] = "uninitialised",
    [VTRN_CAPACITY] = "out of capacity",
    [VTRN_HAZARD] = "hazard",
    [VTRN_DEADLOCK] = "deadlock",
    [VTRN_UNSUPPORTED] = "unsupported",
    [VTRN_UNIMPLEMENTED] = "unimplemented",
    [VTRN_UNSPECIFIED] = "unspecified",
    [VTRN_RESOURCE] = "resource",
    [VTRN_INTERNAL] = "internal",
    [VTRN_CALLBACK] = "host callback",
    [VTRN_INTERRUPTED] = "interrupted",
    [VTRN_UNAVAILABLE] = "unavailable",
};

/* Messages quote names from the user's files. What is no text in UTF-8 becomes '?', so that every
 * reader of a message, a terminal or Python, can show it. */
static void make_printable(char *text) {
    for (unsigned char *s = (unsigned char *)text; *s;) {
        int n = utf8_length(s);
        if (n == 0 || (*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7f) {
            *s = '?';
            n = 1;
        }
        s += n;
    }
}

/* Formats into fresh memory; NULL when memory is short. */
static char *format_alloc(const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    char *text = length < 0 ? NULL : malloc((size_t)length + 1);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    if (text)
        make_printable(text);
    return text;
}

vtrn_status vtrn_status_make(vtrn_category category, const char *file, int line, const char *format,
                             ...) {
    (void)file;
    (void)line;
    va_list args;
    va_start(args, format);
    char *text = format_alloc(format, args);
    va_end(args);
    struct vtrn_status_payload *payload = malloc(sizeof *payload);
    if (!payload || !text) {
        free(payload);
        free(text);
        return &out_of_memory;
    }
    *payload = (struct vtrn_status_payload){.category = category, .message = text};
    if (category == VTRN_INTERNAL) {
        /* Only our own defects carry our own source place: users cannot act on it otherwise. */
        size_t size = strlen(text) + strlen(file) + 32;
        char *placed = malloc(size);
        if (placed) {
            snprintf(placed, size, "%s\n  in %s:%d", text, file, line);
            free(text);
            payload->message = placed;
        }
    }
    return payload;
}

vtrn_status vtrn_status_annotate(vtrn_status status, const char *format, ...) {
    if (!status || status->is_static)
        return status;
    va_list args;
    va_start(args, format);
    char *text = format_alloc(format, args);
    va_end(args);
    if (!text)
        return status;
    const char *joint = text[0] == ' ' ? "\n  " : "\n  at ";
    size_t size = strlen(status->message) + strlen(joint) + strlen(text) + 1;
    char *joined = malloc(size);
    if (joined) {
        snprintf(joined, size, "%s%s%s", status->message, joint, text);
        free(status->message);
        status->message = joined;
        free(status->text);
        status->text = NULL;
    }
    free(text);
    return status;
}

void vtrn_status_free(vtrn_status status) {
    if (!status || status->is_static)
        return;
    free(status->message);
    free(status->text);
    free(status);
}

vtrn_category vtrn_status_category(vtrn_status status) {
    return status ? status->category : VTRN_OK;
}

const char *vtrn_category_name(vtrn_category category) {
    size_t i = (size_t)category;
    return i < sizeof category_names / sizeof *category_names ? category_names[i] : "unknown";
}

const char *vtrn_status_message(vtrn_status status) {
    return status ? status->message : "ok";
}

const char *vtrn_status_text(vtrn_status status) {
    if (!status)
        return "ok";
    if (!status->text) {
        const char *category = vtrn_category_name(status->category);
        size_t size = strlen(category) + strlen(status->message) + sizeof ": ";
        char *text = malloc(size);
        if (!text)
            return status->message;
        snprintf(text, size, "%s: %s", category, status->message);
        status->text = text;
    }
    return status->text;
}
