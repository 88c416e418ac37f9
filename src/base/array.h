/* Arrays that grow, and numbers of their sizes. */
#ifndef VTRN_BASE_ARRAY_H
#define VTRN_BASE_ARRAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Makes room for one more element in a malloc'd array of n elements of `size` bytes: its capacity
 * doubles when it is full. False, and the array is as it was: the host is out of memory, or 2^31
 * elements are there. */
static inline bool array_grow(void **array, uint32_t n, uint32_t *cap, size_t size) {
    if (n < *cap)
        return true;
    if (*cap > UINT32_MAX / 2)
        return false;
    uint32_t more = *cap ? *cap * 2 : 64;
    void *grown = realloc(*array, more * size);
    if (!grown)
        return false;
    *array = grown;
    *cap = more;
    return true;
}

/* The greatest number that divides both; the other one where one is 0. */
static inline int64_t common_divisor(int64_t a, int64_t b) {
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

#endif
