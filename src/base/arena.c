/* Bump allocation in geometrically growing chunks. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, FIRST_CHUNK = 16 << 10, LAST_CHUNK = 4 << 20 };

struct arena_chunk {
    arena_chunk *next;
    size_t size;
    _Alignas(ALIGN) unsigned char data[];
};

void *arena_alloc(arena *a, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (bytes == 0)
        bytes = ALIGN;
    if (!a->head || bytes > a->size - a->used) {
        size_t want = a->head ? a->size * 2 : FIRST_CHUNK;
        if (want > LAST_CHUNK)
            want = LAST_CHUNK;
        if (want < bytes)
            want = bytes;
        /* Cleared here, once: no byte is handed out twice, and large chunks come cleared. */
        arena_chunk *chunk = calloc(1, sizeof *chunk + want);
        if (!chunk)
            return NULL;
        chunk->next = a->head;
        chunk->size = want;
        a->head = chunk;
        a->used = 0;
        a->size = want;
        a->total += want;
    }
    void *p = a->head->data + a->used;
    a->used += bytes;
    return p;
}

char *arena_strdup(arena *a, const char *text, size_t len) {
    char *copy = arena_alloc(a, len + 1, 1);
    if (copy && len)
        memcpy(copy, text, len);
    return copy;
}

char *arena_printf(arena *a, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = len < 0 ? NULL : arena_alloc(a, (size_t)len + 1, 1);
    if (text)
        vsnprintf(text, (size_t)len + 1, format, again);
    va_end(again);
    return text;
}

void arena_free(arena *a) {
    for (arena_chunk *chunk = a->head; chunk;) {
        arena_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
    *a = ARENA_EMPTY;
}
