/* A virtual machine: the NeuronCores of an instance, their HBM, and the thread team that runs them.
 */
#ifndef VTRN_RUNTIME_DEVICE_H
#define VTRN_RUNTIME_DEVICE_H

#include "base/team.h"
#include "chip/chip.h"
#include "engine/core.h"
#include "runtime/hbm.h"
#include "transport/transport.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct runtime_device runtime_device;

/* A range of HBM, or of the host's own memory, shared by reference count. */
typedef struct runtime_memory {
    atomic_uint refs;
    int core_i; /* of the device */
    runtime_device *device;
    hbm_block *block;    /* NULL: the host's memory, which no program reaches */
    uint64_t addr;       /* in the address space of the core's chip, bytes */
    uint64_t size_bytes; /* as asked for */
    uint8_t *host;       /* where it lies on the host */
    bool lacks_values;   /* it is of a rank that was timed and not computed */
} runtime_memory;

typedef struct runtime_core {
    int chip_i;       /* chip of the instance */
    int core_in_chip; /* core of that chip */
    int stack_i;      /* of the device */
    bool is_ready;    /* engine exists: made by the first execution */
    engine_core engine;
    runtime_memory *scratch;           /* shared by all programs of the core, grown on demand */
    uint64_t scratch_generation;       /* counts its moves */
    uint64_t in_use_bytes, peak_bytes; /* HBM that this core's allocations take */
} runtime_core;

struct runtime_device {
    atomic_uint refs;
    vtrn_chip chip;
    vtrn_instance instance;
    int n_chips, n_cores, n_stacks; /* of the whole instance */
    int n_ready;                    /* cores that have executed something */
    team *team;
    bool refuses_nans;         /* that a rank gives to a collective */
    bool is_timed, has_values; /* true but where the user leaves one out */
    /* Ranks whose values are computed, ascending, 0 among them; n_value_ranks 0: all of them. */
    uint32_t *value_ranks, n_value_ranks;
    uint8_t **chip_hbm; /* [n_chips] host address of the chip's HBM; NULL: see runtime_hbm() */
    hbm_heap **stacks;  /* [n_stacks] */
    runtime_core *cores;
    transport
        *transport;    /* to other processes, which have some of the cores; NULL: there are none */
    int *core_process; /* [n_cores] with a transport: who has the core, or -1 */
    struct collective_topology *topology; /* made when first needed, under run_lock */
    uint32_t n_forks;                     /* of the process that opened it: process_n_forks() */
    pthread_mutex_t run_lock;             /* one program runs at a time, on the whole team */
    pthread_mutex_t memory_lock;          /* stacks and the cores' byte counts */
};

/* chip NULL: the instance's. instance NULL: the default when its chip fits, else the chip's
 * smallest instance, else one chip alone. A chip given as a file (with a '/') may sit in any
 * instance: that is how one asks "what if". n_threads 0: VTRN_THREADS, else all cores of the host.
 * BAD_ARGUMENT when chip and instance contradict each other or VTRN_ISA names no level, UNSUPPORTED
 * for a chip whose published numbers are too few. */
vtrn_status runtime_device_open(const char *chip, const char *instance, int n_threads,
                                runtime_device **out);
/* *out: where the HBM of the core's chip begins on the host, reserved when it is first asked for,
 * by an allocation or here. RESOURCE where the process has no address space left. */
vtrn_status runtime_hbm(runtime_device *device, int core_i, uint8_t **out);
void runtime_device_retain(runtime_device *device);
void runtime_device_release(runtime_device *device); /* the last one frees everything */

/* Makes the machine one of several processes, before anything is on it: takes over the transport
 * and core_process[n_cores], which malloc() made. */
void runtime_device_join(runtime_device *device, transport *t, int *core_process);
/* Whether another process has the core. */
static inline bool runtime_core_is_remote(const runtime_device *device, int core_i) {
    return device->transport &&
           device->core_process[core_i] != transport_process_i(device->transport);
}

/* HBM on the core's stack, one reference. Contents undefined. CAPACITY as hbm_alloc(). */
vtrn_status runtime_memory_create(runtime_device *device, int core_i, uint64_t size_bytes,
                                  runtime_memory **out);
/* Memory of the host that belongs to a core; it takes no HBM. */
vtrn_status runtime_host_memory_create(runtime_device *device, int core_i, uint64_t size_bytes,
                                       runtime_memory **out);
static inline void runtime_memory_retain(runtime_memory *m) {
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
}
static inline unsigned runtime_memory_refs(const runtime_memory *m) {
    return atomic_load_explicit(&m->refs, memory_order_acquire);
}
void runtime_memory_release(runtime_memory *m); /* NULL is fine */

/* Of the core's stack; in_use and peak are the core's own. */
void runtime_memory_stats(runtime_device *device, int core_i, hbm_stats *out);
void runtime_memory_reset_peak(runtime_device *device, int core_i);

/* UNSUPPORTED in a fork of the process that opened the device: it has none of its threads. */
vtrn_status runtime_device_check_process(const runtime_device *device);
/* Under run_lock: the core's engines, made when first needed. */
vtrn_status runtime_core_ready(runtime_device *device, int core_i);
/* Under run_lock: at least size_bytes of scratch on the core. */
vtrn_status runtime_core_scratch(runtime_device *device, int core_i, uint64_t size_bytes);

#endif
