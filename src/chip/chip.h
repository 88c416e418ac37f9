/* A chip as chips/<name>.toml describes it: validated numbers, no behaviour. */
#ifndef VTRN_CHIP_CHIP_H
#define VTRN_CHIP_CHIP_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum {
#define KEY(table, key, field, kind, unit, min, max, when) +1
    CHIP_N_KEYS = 0
#include "chip/chip_keys.def"
#undef KEY
    ,
    CHIP_SOURCE_MAX = 256,
    CHIP_NAME_MAX = 32,
    CHIP_MAX_INSTANCES = 32,
    /* Usable SBUF of a partition in which the compiler has room for the least tiles of any kernel;
     * tests/python/test_fits_any_sbuf.py runs programs on such a chip. */
    CHIP_LEAST_SBUF_BYTES = 4096,
};

/* What supports a number of a chip file: the first word of the comment on its line. */
typedef enum chip_basis {
    CHIP_UNSTATED,
    CHIP_DOCUMENTED, /* by the vendor */
    CHIP_MEASURED,   /* read off a published measurement */
    CHIP_FITTED,     /* chosen so that published measurements are met; the comment says which */
    CHIP_ASSUMED,    /* nothing is published */
} chip_basis;

typedef struct vtrn_chip {
    char name[CHIP_NAME_MAX];      /* "trn1" */
    int version;                   /* of the chip model; raised when its times change */
    uint8_t basis[CHIP_N_KEYS];    /* chip_basis, in the order of chip_keys.def */
    char core_name[CHIP_NAME_MAX]; /* "NeuronCore-v2" */
    int gen;                       /* NeuronCore generation 1..4 */
    int n_cores;
    bool is_executable; /* false: published numbers are too few to simulate (inf1) */

    /* memories */
    int n_partitions;
    uint32_t sbuf_partition_bytes;          /* physical */
    uint32_t sbuf_reserved_partition_bytes; /* kept by the compiler */
    uint32_t weights_partition_bytes;       /* for weights that stay between calls; 0: none do */
    uint32_t psum_partition_bytes, psum_bank_bytes;
    int n_psum_banks;
    uint64_t hbm_bytes; /* a chip */
    int n_hbm_stacks;
    int cores_per_stack;
    double hbm_bytes_per_s; /* a stack */
    /* kept by firmware at the start of a stack (16 MB on v2, v3); the key is optional, default 0 */
    uint64_t hbm_reserved_stack_bytes;

    /* clocks, Hz */
    double tensor_hz, vector_hz, scalar_hz, gpsimd_hz, sync_hz;
    double peak_tensor_flops; /* a core, bf16 dense: 128*128*2*tensor_hz; base of MFU */

    /* limits */
    int tensor_max_k, tensor_max_m, tensor_max_n;
    int n_semaphores, n_dma_engines, n_dma_queues;

    /* cost model: see cost/cost.h for the formulas */
    struct {
        double min_ii_cycles;        /* minimum initiation interval of Vector and Scalar */
        double tensor_min_ii_cycles; /* and of a matmul */
        double fp32_passes;          /* PE passes of fp32 against bf16 */
        double int8_speedup;         /* of int8 in the PE array against bf16; 0: it takes none */
        double ldweights_cols_per_cycle;
        double tensor_latency_ns; /* beyond the stream and a cycle for each column of the array */
        double vector_latency_ns, scalar_latency_ns, gpsimd_latency_ns;
        double tensor_overhead_ns; /* extra initiation interval of a matmul instruction */
        double vector_overhead_ns; /* extra initiation interval of back-to-back instructions */
        double scalar_overhead_ns;
        double act_table_load_ns;
        double act_read_accumulator_cycles;
        double gpsimd_start_cycles;
        double event_semaphore_ns;
        double semaphore_wake_ns;
        double semaphore_serial_ns;     /* between two updates of one core */
        double vector_bf16_speedup;     /* 1 without perf modes */
        double vector_two_input_factor; /* 2 on v2: both operands in SBUF */
        double vector_reciprocal_factor;
        double tensor_warm_ns; /* window of the dI/dt limit; 0: none */
        double
            tensor_warm_share; /* of a window that the array must be busy to be warm in the next */
        double tensor_cold_factor;
        double tensor_cold_latency_ns;        /* added to a matmul's latency while cold */
        double ldweights_fp32_cols_per_cycle; /* of each fp32 pass */
        double ldweights_latency_ns; /* seen in profiles; a matmul may enter before it is over */
        double fp32_transpose_passes;
        double semaphore_post_ns;            /* end of an instruction to its semaphore's change */
        double vector_sbuf_speedup;          /* one input, SBUF to SBUF, any dtype */
        double vector_tensor_tensor_speedup; /* all operands 16-bit in SBUF */
        double vector_scan_factor;
        double vector_reduce_bf16_speedup; /* add and max, bf16 to bf16 */
        double vector_zero_16bit_speedup;  /* memset of zeros */
        double bn_aggr_cycles;             /* for each of its triples */
        double vector_scalar_operand_ns;   /* latency of a [P,1] scalar operand */
        double vector_scalar_overhead_ns;  /* and its initiation interval */
        double scalar_func_latency_ns;     /* added for functions other than copy and identity */
        double scalar_func_overhead_ns;    /* and to their initiation interval */
        double stride_limit_bytes;         /* innermost stride above which an access slows down */
        double stride_factor;
        bool vector_gpsimd_share_sbuf; /* one at a time */
        bool vector_scalar_share_psum;
    } cost;
    struct {
        /* Descriptors are in HBM before the program runs (static rings), or are generated when the
         * queue instruction runs: by the DGE, by GpSimd for the DMAs that GpSimd triggers. */
        bool uses_dge;
        double trigger_ns;     /* the queue instruction of a static ring */
        double dge_trigger_ns; /* the queue instruction that commands the DGE */
        double dge_gpsimd_ns;  /* GpSimd takes its next DMA so much later, */
        double
            dge_gpsimd_latency_ns;  /* and has generated the descriptors of a DMA after so much, */
        double dge_gpsimd_run_ns;   /* both longer by this for each contiguous run */
        double dge_gpsimd_fetch_ns; /* an engine fetches the first of its descriptors */
        double dge_interval_ns;     /* a DGE generates the descriptors of a DMA */
        double start_ns;            /* end of the queue instruction to a load's first byte */
        double store_start_ns;      /* the same of a store */
        double engine_skew_ns;      /* DMA engine i starts i times that later than engine 0 */
        /* Addresses of the pages of a load are translated one after the other: the last engine
         * starts load_page_ns later for each load_page_bytes. */
        double load_page_ns, load_page_bytes;
        double complete_ns;        /* last byte to semaphore visible */
        double engine_bytes_per_s; /* one DMA engine that reads SBUF */
        double load_bytes_per_s;   /* one DMA engine that reads HBM */
        /* The same of rows whose addresses in HBM differ by a multiple of strided_pitch_bytes: they
         * share banks. A row of strided_row_bytes or more has enough of them for itself. */
        double strided_load_bytes_per_s, strided_pitch_bytes, strided_row_bytes;
        double element_ns;           /* added for each contiguous element (descriptor) */
        double load_element_ns;      /* the same where the engine reads HBM */
        double min_element_ns;       /* the shortest one takes */
        double max_descriptor_bytes; /* a longer run is cut into elements of this size */
        double indirect_start_ns;
        /* of copy throughput; transpose 0: no hardware transpose, one element at a time */
        double transpose_factor, accumulate_factor;
        int partitions_per_engine; /* how a transfer's rows are dealt over the engines */
    } dma;
    struct {
        double branch_ns;          /* a jump, on the slowest engine */
        double compare_branch_ns;  /* a conditional one */
        double condition_load_ns;  /* its operand, HBM to register */
        double semaphore_clear_ns; /* between blocks */
    } control;
    struct {
        double start_ns, flops_per_s, bytes_per_s; /* a core's GpSimd running C code over HBM */
        double callback_ns; /* the program stops, the host runs a function, the program goes on */
    } custom;
    struct {
        double preamble_ns, postamble_ns; /* of a launch on the device */
        /* What a latency of nki.benchmark has instead of preamble_ns, as its clock begins later;
         * no program's time contains it. */
        double benchmark_preamble_ns;
    } launch;
    struct {
        double call_ns;     /* of the runtime on the host, a call */
        double bytes_per_s; /* of a copy to or from the device */
    } host;                 /* for models of serving; no program's time contains them */
    /* What collective/collective.h computes with. */
    struct {
        double start_ns; /* trigger and handshake, whatever the group */
        double peer_ns;  /* and for each member of the group */
        /* One write of no bytes with its semaphore: between cores of a chip, between chips of a
         * node; a hop of a ring; between nodes. */
        double local_step_ns, step_ns, ring_hop_ns, network_step_ns;
        double die_crossing_ns;   /* once, where members of a chip are on two dies */
        int cores_per_die;        /* 0: a chip is one die */
        double pair_bytes_per_s;  /* between two cores that reduce or gather, each direction */
        double core_bytes_per_s;  /* of one physical core with all its peers on the chip */
        double write_bytes_per_s; /* of one core that sends to another on the chip */
        double mesh_efficiency, ring_efficiency, network_efficiency; /* of the published rates */
        /* The most that the compiler makes one all_reduce or reduce_scatter of; 0: each alone. */
        uint64_t bucket_bytes;
        /* The algorithms that the runtime has for an operation, of which the fastest is taken:
         * "mesh,rdh,kangaring". sbuf: where operand and result are in SBUF, every operation. */
        char all_reduce[CHIP_NAME_MAX], all_gather[CHIP_NAME_MAX], reduce_scatter[CHIP_NAME_MAX];
        char broadcast[CHIP_NAME_MAX], sbuf[CHIP_NAME_MAX];
    } collective;
} vtrn_chip;

typedef struct vtrn_instance {
    char name[CHIP_NAME_MAX]; /* "trn1.2xlarge" */
    char chip[CHIP_NAME_MAX];
    int n_chips, n_vcpus;
    double host_gib;
    double dollars_per_hour;      /* 0: not published */
    char topology[CHIP_NAME_MAX]; /* "single", "torus-4x4", "ring-12", ... */
    /* In each direction: of a link in X or Y (of a chip's port where there is a switch), of a link
     * in Z. 0: not published, or there is none. */
    double link_bytes_per_s, z_link_bytes_per_s;
    int n_nics; /* adapters of the network between instances; 0: none */
    double nic_bytes_per_s;
} vtrn_instance;

/* Reads chips/<name>.toml. The name may end with "@version", which the file must then have. Search
 * order: path when it contains '/', else each directory of VTRN_CHIPS_PATH, else chips/ beside the
 * library, else the installed directory, else the source tree's (set at build). Errors name file,
 * line, key, value and rule; an unknown name lists the known ones. */
vtrn_status chip_load(const char *name_or_path, vtrn_chip *out);
vtrn_status chip_parse(const char *text, const char *file_name, vtrn_chip *out);

/* The numbers of a chip by their place in chip_keys.def, 0 <= key < CHIP_N_KEYS. */
const char *chip_key_table(int key);
const char *chip_key_name(int key);
const char *chip_key_unit(int key);
double *chip_key_real(vtrn_chip *chip, int key); /* NULL unless it is a real number */
const char *chip_basis_name(chip_basis basis);

/* The comment on the line of each key, "" where there is none. */
typedef struct chip_sources {
    char text[CHIP_N_KEYS][CHIP_SOURCE_MAX];
} chip_sources;
vtrn_status chip_sources_load(const char *name_or_path, chip_sources *out);

/* Reads chips/instances.toml. */
vtrn_status chip_instance_load(const char *name, vtrn_instance *out);
vtrn_status chip_instances(vtrn_instance *out, int capacity, int *n);
/* What naming a chip alone stands for: its instance with the fewest chips, of equal ones the
 * cheapest whose price is published. NULL when there is none. */
const vtrn_instance *chip_smallest_instance(const vtrn_instance *all, int n, const char *chip);

/* Names of the chips that chip_load finds, in a static order. */
vtrn_status chip_names(char out[][CHIP_NAME_MAX], int capacity, int *n);

#endif
