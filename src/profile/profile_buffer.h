/* Growing bytes that become a file: text, JSON and binary records. */
#ifndef VTRN_PROFILE_PROFILE_BUFFER_H
#define VTRN_PROFILE_PROFILE_BUFFER_H

#include "base/status.h"

#include <stdint.h>

/* When memory runs short the buffer remembers it, drops what follows, and profile_buffer_save()
 * reports it: callers need not check every append. Starts zeroed. */
typedef struct profile_buffer {
    uint8_t *data;
    size_t size, capacity; /* bytes */
    bool is_short;         /* the host had no memory for all of it */
} profile_buffer;

void profile_append(profile_buffer *b, const void *data, size_t size);
void profile_printf(profile_buffer *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A JSON string with its quotes; safe inside an HTML script element; NULL gives "". Bytes that are
 * not UTF-8 become U+FFFD. */
void profile_json_string(profile_buffer *b, const char *text);
/* A finite JSON number; NaN and infinities become 0. */
void profile_json_number(profile_buffer *b, double value);
/* Written aside and renamed: the file at path is whole, old or new. RESOURCE names file and reason.
 */
vtrn_status profile_buffer_save(const profile_buffer *b, const char *path);
void profile_buffer_free(profile_buffer *b);

#endif
