/* Arena: memory that lives and dies together (a decoded module, a compilation). Not thread-safe. */
#ifndef VTRN_BASE_ARENA_H
#define VTRN_BASE_ARENA_H

#include <stddef.h>

typedef struct arena_chunk arena_chunk;
typedef struct arena {
    arena_chunk *head;
    size_t used, size; /* of the head chunk, bytes */
    size_t total;      /* bytes obtained from the host */
} arena;

#define ARENA_EMPTY ((arena){0})

/* Zeroed memory, 16-byte aligned. NULL when the host is out of memory; size 0 gives a valid
 * pointer. count * size is checked for overflow (NULL). */
void *arena_alloc(arena *a, size_t count, size_t size);
char *arena_strdup(arena *a, const char *text, size_t len); /* NUL-terminated copy of len bytes */
char *arena_printf(arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
void arena_free(arena *a); /* releases everything; the arena is empty and usable again */

#define ARENA_NEW(a, type, count) ((type *)arena_alloc((a), (count), sizeof(type)))

#endif
