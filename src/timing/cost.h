/* What one instruction costs, from its operands and the chip alone. */
#ifndef VTRN_TIMING_COST_H
#define VTRN_TIMING_COST_H

#include "chip/chip.h"
#include "isa/program.h"

typedef enum cost_kind {
    COST_KIND_ENGINE,    /* streams through one engine */
    COST_KIND_MATMUL,    /* streams through the PE array: needs weights */
    COST_KIND_LDWEIGHTS, /* loads weights in the background of a running matmul */
    COST_KIND_DMA,       /* busies its queue for the trigger only */
} cost_kind;

enum {
    COST_PORT_SBUF = 1, /* Vector and GpSimd: SBUF ports that v2 shares */
    COST_PORT_PSUM = 2, /* Vector and Scalar: PSUM ports that v2 shares */
    COST_MAX_BACK = 4,  /* how far back a dependence within one queue is looked for */
};

/* The later of two times. Inlined, which fmax is not: NaN would have to be minded. */
static inline double later_ns(double a_ns, double b_ns) {
    return a_ns > b_ns ? a_ns : b_ns;
}

/* All that a replay needs of an instruction: it reads this array in order and nothing else.
 *
 * The initiation interval is how long the stream is taken; the latency is how long until the result
 * is there. For a matmul the interval is that of the warm PE array. */
typedef struct timing_cost {
    double ii_ns, latency_ns;
    double weights_ns; /* matmul that loads its own weights (pe_transpose): the load */
    uint32_t dma;      /* COST_KIND_DMA: index into the model's transfers */
    uint8_t kind;      /* cost_kind */
    uint8_t ports;     /* COST_PORT_ bits that the chip makes exclusive */
    uint8_t back_mask; /* bit i: needs the result of the (i+1)-th instruction before it */
    bool is_setup;
    bool is_custom;
    uint8_t n_waits;
    uint8_t queue;             /* COST_KIND_DMA: its ring */
    uint16_t update_semaphore; /* VTRN_NO_SEMAPHORE: none */
    uint16_t update_value;
    uint16_t wait_semaphore[VTRN_MAX_WAITS];
    uint32_t wait_value[VTRN_MAX_WAITS];
} timing_cost;

/* A DMA: rows dealt over engines first_engine, first_engine+1, ... (modulo the core's engines). */
typedef struct timing_transfer {
    double queue_ns;  /* on the triggering queue */
    double engine_ns; /* on each engine but the last */
    double last_ns;   /* on the last engine */
    uint64_t hbm_read_bytes, hbm_write_bytes;
    uint8_t first_engine, n_engines;
} timing_transfer;

/* Sources of the formulas: hardware facts 3.1 to 3.7; their numbers are the chip file's. The DMA
 * parts of the cost (queue time) come from cost_transfer. */
void cost_instr(const vtrn_chip *chip, const vtrn_program *program, const vtrn_instr *instr,
                timing_cost *out);
void cost_transfer(const vtrn_chip *chip, const vtrn_instr *instr, timing_transfer *out);

/* HBM traffic of an instruction that is not a DMA (custom_op). */
void cost_custom_bytes(const vtrn_program *program, const vtrn_instr *instr, uint64_t *read_bytes,
                       uint64_t *write_bytes);

/* True when `later` reads or writes SBUF or PSUM that `earlier` wrote. */
bool cost_depends(const vtrn_instr *earlier, const vtrn_instr *later);

#endif
