/* Values of 2 and 4 bits as buffers hold them: packed, the first in the lowest bits. */
#include "base/dtype.h"

#include <string.h>

int dtype_per_byte(vtrn_dtype t) {
    int bits = dtype_bits(t);
    return bits == 2 || bits == 4 ? 8 / bits : 1;
}

uint64_t dtype_packed_size(vtrn_dtype t, uint64_t n) {
    uint64_t per = (uint64_t)dtype_per_byte(t);
    return per == 1 ? n * dtype_size(t) : n / per + (n % per != 0);
}

/* False: values of the type share bytes. */
static bool copy_unpacked(vtrn_dtype t, const void *src, void *dst, size_t n) {
    if (dtype_per_byte(t) != 1)
        return false;
    if (n)
        memcpy(dst, src, n * dtype_size(t));
    return true;
}

void dtype_pack(vtrn_dtype t, const void *src, void *dst, size_t n) {
    const uint8_t *from = src;
    uint8_t *to = dst;
    const size_t per = (size_t)dtype_per_byte(t), bits = 8 / per;
    if (copy_unpacked(t, src, dst, n))
        return;
    const unsigned mask = (1u << bits) - 1;
    for (size_t i = 0; i < n; i += per) {
        unsigned byte = 0;
        for (size_t k = 0; k < per && i + k < n; k++)
            byte |= (from[i + k] & mask) << (k * bits);
        to[i / per] = (uint8_t)byte;
    }
}

void dtype_unpack(vtrn_dtype t, const void *src, void *dst, size_t n) {
    const uint8_t *from = src;
    uint8_t *to = dst;
    const size_t per = (size_t)dtype_per_byte(t), bits = 8 / per;
    if (copy_unpacked(t, src, dst, n))
        return;
    const unsigned mask = (1u << bits) - 1;
    for (size_t i = 0; i < n; i++)
        to[i] = (uint8_t)(from[i / per] >> (i % per * bits) & mask);
}
