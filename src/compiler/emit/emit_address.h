/* Addresses of windows, computed on GpSimd. */
#ifndef VTRN_COMPILER_EMIT_EMIT_ADDRESS_H
#define VTRN_COMPILER_EMIT_EMIT_ADDRESS_H

#include "compiler/emit/emitter.h"
#include "compiler/plan/windows.h"

/* Addresses of up to 128 * cols windows from the first, window w at [w % 128, w / 128]; -1 where
 * one is skipped. */
typedef struct address_tiles {
    tile sum, index, valid, mark;
} address_tiles;
void address_tiles_alloc(emitter *e, int64_t cols, address_tiles *out);
vtrn_status address_compute(emitter *e, const address_spec *s, const address_tiles *t,
                            int64_t first, int64_t n);

#endif
