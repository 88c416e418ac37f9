/* What an instruction and a DMA take, from their operands and the chip alone: no state of an
 * engine, no other instruction, no values. The timing model replays these numbers, and the compiler
 * chooses by them.
 *
 * Times are ns, sizes bytes. Every number is the chip file's, where its source stands beside it.
 * The formulas are those of AWS's public NKI documentation: "Estimated instruction cost" of the
 * nki.isa reference for the engines, trainium_inferentia2_arch and trainium2_arch for ports and
 * modes, nki-dma-overview for how a transfer is dealt over the DMA engines. */
#ifndef VTRN_COST_COST_H
#define VTRN_COST_COST_H

#include "chip/chip.h"
#include "isa/program.h"

typedef enum cost_kind {
    COST_KIND_ENGINE,     /* streams through one engine */
    COST_KIND_MATMUL,     /* streams through the PE array: needs weights */
    COST_KIND_LDWEIGHTS,  /* loads weights in the background of a running matmul */
    COST_KIND_DMA,        /* the trigger on the queue: what it moves is cost_transfer's */
    COST_KIND_CUSTOM,     /* a reference operation: cost_custom's */
    COST_KIND_COLLECTIVE, /* the trigger; how long it takes depends on the instance and the others
                           */
} cost_kind;

enum {
    COST_PORT_SBUF = 1, /* Vector and GpSimd: SBUF ports that v2 shares */
    COST_PORT_PSUM = 2, /* Vector and Scalar: PSUM ports that v2 shares */
};

/* The initiation interval is how long the engine takes nothing else; the latency is how long until
 * the result is there. For a matmul both are those of the warm PE array; of the latency, the
 * weights are no part. */
typedef struct instr_cost {
    double ii_ns, latency_ns;
    double weights_ns; /* pe_transpose: loading the data as its own weights; else 0 */
    uint8_t kind;      /* cost_kind */
    uint8_t ports;     /* COST_PORT_ bits that the chip makes exclusive */
    bool is_setup;     /* control: the profiler's active time leaves it out */
} instr_cost;

/* Both times of a COST_KIND_CUSTOM are 0. */
instr_cost cost_instr(const vtrn_chip *chip, const vtrn_instr *instr);

/* A DMA: rows dealt over engines first_engine, first_engine+1, ... (modulo the core's engines). */
typedef struct transfer_cost {
    double engine_ns; /* on each engine but the last */
    double last_ns;   /* on the last engine */
    double start_ns;  /* from the end of the queue instruction to the first byte */
    double issue_ns;  /* descriptors of the next DMA from the same queue are ready so much later */
    double skew_ns;   /* each engine starts so much after the one before it */
    double engine_bytes_per_s, element_ns; /* of one engine: its rate, and for each descriptor */
    uint64_t hbm_read_bytes, hbm_write_bytes;
    uint8_t first_engine, n_engines;
} transfer_cost;

transfer_cost cost_transfer(const vtrn_chip *chip, const vtrn_instr *instr);

/* Runs of a DMA that are contiguous on both sides: so many descriptors are generated. */
double cost_runs(const vtrn_instr *instr);

/* The same as cost_transfer() for a copy between HBM and n_rows partitions from 0 on: row_bytes
 * each, which lie in HBM in runs of run_bytes. All > 0. */
transfer_cost cost_tile_transfer(const vtrn_chip *chip, bool is_store, double n_rows,
                                 double row_bytes, double run_bytes);

/* ns that each of many such transfers takes one behind the other, on the same engines: of the
 * busiest engine, of the HBM, of the queue that issues them, or of the semaphore updates, which
 * reach the core one by one. n_parts: into how many instructions each is cut on average. */
double cost_transfer_interval_ns(const vtrn_chip *chip, const transfer_cost *transfer,
                                 double n_parts);

/* ns in which one DMA engine moves n_bytes from HBM in runs of run_bytes, each run cut
 * into descriptors. run_bytes > 0. */
double cost_runs_ns(const vtrn_chip *chip, double n_bytes, double run_bytes);

/* A reference operation, which GpSimd runs as a program over HBM. */
typedef struct custom_cost {
    double ns;
    uint64_t read_bytes, write_bytes; /* of HBM */
} custom_cost;

/* 0 for a number that the program has no custom op for. */
custom_cost cost_custom(const vtrn_chip *chip, const vtrn_program *program,
                        const vtrn_instr *instr);

/* ns that a block's end takes after all engines have met. end: vtrn_block_end. Semaphores are
 * cleared between blocks. */
double cost_block_end_ns(const vtrn_chip *chip, uint8_t end);

#endif
