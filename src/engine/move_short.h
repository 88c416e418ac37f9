/* memmove of a short run without the call. */
#ifndef VTRN_ENGINE_MOVE_SHORT_H
#define VTRN_ENGINE_MOVE_SHORT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t vector16 __attribute__((vector_size(16), may_alias, aligned(1)));

/* n_bytes >= 16. Everything is read before anything is written. */
static inline void move_short(void *dst, const void *src, size_t n_bytes) {
    uint8_t *d = dst;
    const uint8_t *s = src;
    if (n_bytes > 128) {
        memmove(dst, src, n_bytes);
    } else if (n_bytes > 64) {
        const uint8_t *end = s + n_bytes - 64;
        vector16 a = *(const vector16 *)s, b = *(const vector16 *)(s + 16);
        vector16 c = *(const vector16 *)(s + 32), e = *(const vector16 *)(s + 48);
        vector16 f = *(const vector16 *)end, g = *(const vector16 *)(end + 16);
        vector16 h = *(const vector16 *)(end + 32), i = *(const vector16 *)(end + 48);
        *(vector16 *)d = a, *(vector16 *)(d + 16) = b;
        *(vector16 *)(d + 32) = c, *(vector16 *)(d + 48) = e;
        d += n_bytes - 64;
        *(vector16 *)d = f, *(vector16 *)(d + 16) = g;
        *(vector16 *)(d + 32) = h, *(vector16 *)(d + 48) = i;
    } else if (n_bytes > 32) {
        const uint8_t *end = s + n_bytes - 32;
        vector16 a = *(const vector16 *)s, b = *(const vector16 *)(s + 16);
        vector16 c = *(const vector16 *)end, e = *(const vector16 *)(end + 16);
        *(vector16 *)d = a, *(vector16 *)(d + 16) = b;
        d += n_bytes - 32;
        *(vector16 *)d = c, *(vector16 *)(d + 16) = e;
    } else {
        vector16 a = *(const vector16 *)s, b = *(const vector16 *)(s + n_bytes - 16);
        *(vector16 *)d = a, *(vector16 *)(d + n_bytes - 16) = b;
    }
}

#endif
