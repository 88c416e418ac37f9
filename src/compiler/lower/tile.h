/* Tiles in SBUF and PSUM. */
#ifndef VTRN_COMPILER_LOWER_TILE_H
#define VTRN_COMPILER_LOWER_TILE_H

#include <stdint.h>

/* A tile in SBUF or PSUM: rows are partitions, columns the free axis, dense. */
typedef struct tile {
    uint8_t space, dtype;
    uint16_t partition;
    uint32_t addr;
} tile;

enum { LOWER_SBUF_ALIGN = 64 };

uint32_t lower_sbuf_round(uint64_t n_bytes); /* up to LOWER_SBUF_ALIGN */

#endif
