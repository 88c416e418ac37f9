/* Growing bytes that become a file: text, JSON and binary records. */
#include "profile/profile_buffer.h"

#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Room for size more bytes, or false for good. */
static bool reserve(profile_buffer *b, size_t size) {
    if (b->is_short)
        return false;
    if (size <= b->capacity - b->size)
        return true;
    size_t want = b->capacity ? b->capacity * 2 : 4096;
    if (want < b->size + size)
        want = b->size + size;
    uint8_t *data = realloc(b->data, want);
    if (!data) {
        b->is_short = true;
        return false;
    }
    b->data = data;
    b->capacity = want;
    return true;
}

void profile_append(profile_buffer *b, const void *data, size_t size) {
    if (size == 0 || !reserve(b, size))
        return;
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

void profile_printf(profile_buffer *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n >= 0 && reserve(b, (size_t)n + 1)) {
        vsnprintf((char *)b->data + b->size, (size_t)n + 1, format, again);
        b->size += (size_t)n;
    }
    va_end(again);
}

void profile_json_string(profile_buffer *b, const char *text) {
    profile_append(b, "\"", 1);
    const unsigned char *s = (const unsigned char *)(text ? text : "");
    while (*s) {
        int n = utf8_length(s);
        if (n == 0) {
            profile_append(b, "\\ufffd", 6);
            s++;
        } else if (n == 1 && (*s < 0x20 || strchr("\"\\<>&", *s))) {
            /* < > & escaped too: the text cannot end a script element */
            profile_printf(b, "\\u%04x", *s);
            s++;
        } else {
            profile_append(b, s, (size_t)n);
            s += n;
        }
    }
    profile_append(b, "\"", 1);
}

void profile_json_number(profile_buffer *b, double value) {
    if (!isfinite(value))
        value = 0;
    if (value == floor(value) && fabs(value) < 1e15)
        profile_printf(b, "%.0f", value);
    else
        profile_printf(b, "%.9g", value);
}

static vtrn_status write_whole(const profile_buffer *b, const char *path) {
    FILE *f = fopen(path, "wb");
    if (!f)
        return VTRN_ERROR(VTRN_RESOURCE, "profile: cannot write %s: %s", path, strerror(errno));
    bool is_written = fwrite(b->data, 1, b->size, f) == b->size;
    int error = errno;
    if (fclose(f) != 0 && is_written) {
        is_written = false;
        error = errno;
    }
    if (is_written)
        return NULL;
    unlink(path);
    return VTRN_ERROR(VTRN_RESOURCE, "profile: cannot write %zu bytes to %s: %s", b->size, path,
                      strerror(error));
}

vtrn_status profile_buffer_save(const profile_buffer *b, const char *path) {
    if (b->is_short)
        return VTRN_OUT_OF_MEMORY(b->size);
    const size_t size = strlen(path) + 32;
    char *aside = malloc(size);
    if (!aside)
        return VTRN_OUT_OF_MEMORY(size);
    snprintf(aside, size, "%s.%ld.part", path, (long)getpid());
    vtrn_status status = write_whole(b, aside);
    if (!status && rename(aside, path) != 0) {
        status = VTRN_ERROR(VTRN_RESOURCE, "profile: cannot rename %s to %s: %s", aside, path,
                            strerror(errno));
        unlink(aside);
    }
    free(aside);
    return status;
}

void profile_buffer_free(profile_buffer *b) {
    free(b->data);
    *b = (profile_buffer){0};
}
