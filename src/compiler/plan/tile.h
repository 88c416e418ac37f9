/* Tiles in SBUF and PSUM. */
#ifndef VTRN_COMPILER_PLAN_TILE_H
#define VTRN_COMPILER_PLAN_TILE_H

#include "chip/chip.h"
#include "isa/isa.h"

#include <stdint.h>

/* A tile in SBUF or PSUM: rows are partitions, columns the free axis, dense. */
typedef struct tile {
    uint8_t space, dtype;
    uint16_t partition;
    uint32_t addr;
} tile;

enum { SBUF_ALIGN = 64 };

uint32_t sbuf_round(uint64_t n_bytes); /* up to SBUF_ALIGN */

/* Partitions of SBUF and PSUM: the rows of a full tile. */
static inline int tile_max_rows(const vtrn_chip *chip) {
    return chip->n_partitions > 0 ? chip->n_partitions : 1; /* a chip file with fewer is refused */
}

vtrn_ap tile_ap(const tile *t, uint32_t n_rows, uint32_t n_cols);
/* columns [col, col+n) of it */
vtrn_ap tile_ap_cols(const tile *t, uint32_t n_rows, uint32_t col, uint32_t n_cols);

#endif
