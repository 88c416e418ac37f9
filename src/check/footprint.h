/* The exact bytes that an operand touches. */
#ifndef VTRN_CHECK_FOOTPRINT_H
#define VTRN_CHECK_FOOTPRINT_H

#include "isa/access.h"

enum { FOOTPRINT_DIMS = 1 + VTRN_MAX_FREE_DIMS /* HBM: rows are a dimension too */ };

/* Runs of `unit` bytes: run (i0, i1, ...) begins at lo of the pattern's origin. */
typedef struct footprint {
    uint8_t space; /* vtrn_space */
    bool is_write;
    uint32_t memory;             /* HBM: which (footprint_slot_memory); else 0 */
    uint32_t first_row, end_row; /* partitions [first, end); HBM: 0, 1 */
    int64_t lo, hi;              /* bytes [lo, hi) of a partition or of the HBM memory */
    int64_t origin, unit;        /* bytes */
    int n_dims;                  /* 0: one run */
    struct {
        int64_t step; /* bytes */
        uint32_t num;
    } dim[FOOTPRINT_DIMS]; /* outermost first */
} footprint;

/* Slots that share memory give the same number, and *base is where the slot begins in it. An
 * output that aliases an argument is the argument's memory. */
uint32_t footprint_slot_memory(const vtrn_program *program, uint32_t slot_i, int64_t *base);

/* The bytes of an access, as a read or as a write: of a table, all from the first to the last that
 * an index can name. */
footprint footprint_of(const vtrn_program *program, const isa_access *a, bool is_write);

/* Whether they have a byte in common. */
bool footprint_overlap(const footprint *a, const footprint *b);

/* Calls visit for each run of bytes [lo, hi) of a partition (HBM: of the memory); stops when it
 * returns false. Returns whether all were visited. */
typedef bool (*footprint_visit)(void *ctx, int64_t lo, int64_t hi);
bool footprint_runs(const footprint *f, footprint_visit visit, void *ctx);

/* "SBUF partitions 0-127, bytes 4096-6143" */
void footprint_print(const footprint *f, char *text, size_t size);

#endif
