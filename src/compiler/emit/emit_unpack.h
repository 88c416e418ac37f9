/* Packed integers of 2 and 4 bits from the bytes that were loaded to the tile of a product. */
#ifndef VTRN_COMPILER_EMIT_EMIT_UNPACK_H
#define VTRN_COMPILER_EMIT_EMIT_UNPACK_H

#include "compiler/emit/emitter.h"

typedef struct unpacking {
    vtrn_dtype dtype;    /* of the packed values */
    uint32_t rows, cols; /* of dst; cols are a multiple of the values in a byte */
    tile packed, spare;  /* uint8, cols / values in a byte: both are written */
    tile dst;            /* of a float */
} unpacking;

vtrn_status emit_unpack(emitter *e, const unpacking *u);

#endif
