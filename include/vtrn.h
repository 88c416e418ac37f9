/* vtrn: a virtual Trainium. The C API: open a device, compile a StableHLO artifact, run it, read
 * its profile.
 *
 * A function that can fail returns NULL or a status that the caller frees with vtrn_error_free();
 * then it gives nothing: *out is NULL. All functions may be called from any thread at any time, but
 * for a handle that another thread is closing or destroying. Programs of one device run one after
 * the other. */
#ifndef VTRN_H
#define VTRN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(VTRN_BUILDING)
#define VTRN_API __attribute__((visibility("default")))
#else
#define VTRN_API
#endif

typedef struct vtrn_status_payload *vtrn_status;
typedef struct vtrn_device vtrn_device;
typedef struct vtrn_executable vtrn_executable;
typedef struct vtrn_buffer vtrn_buffer;

/* "out of capacity: ...", what went wrong, where and what to do; lives as long as the status. */
VTRN_API const char *vtrn_error_message(vtrn_status status);
/* 0 ok, 1 bad argument, 2 undefined, 3 uninitialised, 4 out of capacity, 5 hazard, 6 deadlock,
 * 7 unsupported, 8 unimplemented, 9 unspecified, 10 resource, 11 internal, 12 host callback, 13
 * interrupted: a message begins with these words. */
VTRN_API int vtrn_error_category(vtrn_status status);
VTRN_API void vtrn_error_free(vtrn_status status); /* NULL is fine */

typedef struct vtrn_device_options {
    size_t struct_size;   /* sizeof(vtrn_device_options) */
    const char *chip;     /* NULL: VTRN_CHIP, else the instance's chip, else "trn1" */
    const char *instance; /* NULL: VTRN_INSTANCE, else "trn1.2xlarge" (or the chip's smallest) */
    int n_threads;        /* 0: VTRN_THREADS, else all cores of the host */
} vtrn_device_options;

/* options NULL: all defaults. BAD_ARGUMENT: no such chip or instance, or the two contradict each
 * other; UNSUPPORTED: a chip of which too few numbers are published. */
VTRN_API vtrn_status vtrn_device_open(const vtrn_device_options *options, vtrn_device **out);
/* NULL is fine. Buffers and executables of the device may outlive it. */
VTRN_API void vtrn_device_close(vtrn_device *device);
VTRN_API int vtrn_device_n_cores(const vtrn_device *device);
VTRN_API const char *vtrn_device_chip_name(const vtrn_device *device);

/* Element types are numbers; this gives that of "fp32", "bf16", "int32", ... False: no such type.
 */
VTRN_API bool vtrn_dtype_from_name(const char *name, int *out);

enum { VTRN_MAX_RANK = 12 };

/* StableHLO portable artifact (bytecode) -> executable for one core. While VTRN_VERIFY=1 is set,
 * the executable compares what each of its kernels writes with the reference routines:
 * vtrn_execute() is INTERNAL at the first difference and names operation, source line and element.
 */
VTRN_API vtrn_status vtrn_compile(vtrn_device *device, const void *artifact, size_t size,
                                  vtrn_executable **out);
/* The same with flags as NEURON_CC_FLAGS has them, which count after those of the environment;
 * NULL: none. BAD_ARGUMENT: a value that a flag has not. */
VTRN_API vtrn_status vtrn_compile_flags(vtrn_device *device, const void *artifact, size_t size,
                                        const char *flags, vtrn_executable **out);
/* A program container (what vtrn_executable_program gives) or assembly text -> executable. Inputs
 * and outputs are vectors: a program knows sizes, not shapes. Everything in it is checked, the
 * bodies of custom ops too: it may come from anywhere. */
VTRN_API vtrn_status vtrn_program_load(vtrn_device *device, const void *bytes, size_t size,
                                       vtrn_executable **out);
VTRN_API void vtrn_executable_destroy(vtrn_executable *executable); /* NULL is fine */
VTRN_API int vtrn_executable_n_inputs(const vtrn_executable *executable);
VTRN_API int vtrn_executable_n_outputs(const vtrn_executable *executable);
/* i: below the number of inputs or outputs. dims: room for VTRN_MAX_RANK entries. */
VTRN_API void vtrn_executable_input_type(const vtrn_executable *executable, int i, int *dtype,
                                         int *rank, int64_t *dims);
VTRN_API void vtrn_executable_output_type(const vtrn_executable *executable, int i, int *dtype,
                                          int *rank, int64_t *dims);
/* The output whose memory input i becomes after execution, or -1. -2: donated, any output. */
VTRN_API int vtrn_executable_input_alias(const vtrn_executable *executable, int i);

/* A dense row-major tensor in a core's HBM. data NULL: contents undefined. Copies at once. Values
 * of 2 and 4 bits are packed, in data too: the first in the lowest bits of the first byte. */
VTRN_API vtrn_status vtrn_buffer_create(vtrn_device *device, int core_i, int dtype, int rank,
                                        const int64_t *dims, const void *data, vtrn_buffer **out);
VTRN_API void vtrn_buffer_destroy(vtrn_buffer *buffer);      /* NULL is fine */
VTRN_API size_t vtrn_buffer_size(const vtrn_buffer *buffer); /* bytes */
/* The whole buffer: size is vtrn_buffer_size(). BAD_ARGUMENT when it was donated. */
VTRN_API vtrn_status vtrn_buffer_read(const vtrn_buffer *buffer, void *dst, size_t size);
VTRN_API vtrn_status vtrn_buffer_write(vtrn_buffer *buffer, const void *src, size_t size);

/* Runs on core core_i. outputs[i] are new buffers, all NULL on error. Inputs that the executable
 * donates are consumed: reading them afterwards is an error, destroying them is still the caller's
 * duty. Who reads one meanwhile on another thread gets its old contents or that error. keep: NULL,
 * or n_inputs flags; a set flag protects the input from donation. */
VTRN_API vtrn_status vtrn_execute(vtrn_executable *executable, int core_i,
                                  vtrn_buffer *const *inputs, int n_inputs, const bool *keep,
                                  vtrn_buffer **outputs, int n_outputs);

/* Ranks that run the program together: replicas by partitions, 1 for most. */
VTRN_API int vtrn_executable_n_ranks(const vtrn_executable *executable);

/* One rank of an execution; types are those of a part where the program is one of several
 * partitions. */
typedef struct vtrn_rank {
    int core_i;
    vtrn_buffer *const *inputs; /* as many as the executable has */
    vtrn_buffer **outputs; /* as vtrn_execute() gives them; NULL: the core is another process's */
} vtrn_rank;

/* Runs all ranks of the executable together, in order of rank, each on a core of its own: they meet
 * in collectives. DEADLOCK: ranks wait for others that wait elsewhere or have ended. keep as in
 * vtrn_execute(), for all ranks. On error no rank has outputs. */
VTRN_API vtrn_status vtrn_execute_ranks(vtrn_executable *executable, const vtrn_rank *ranks,
                                        int n_ranks, const bool *keep);

/* For the end of the process: the others learn at once that it runs no more programs with them,
 * instead of by the watchdog. Where MPI moves the bytes, its launcher tells them. False: there are
 * no others. */
VTRN_API bool vtrn_leave_processes(void);

/* Functions of the host that a program calls: a custom_call to "vtrn_host_callback" names one by a
 * number, in decimal, in its backend_config. While it runs, the program stands still. */
typedef struct vtrn_host_callbacks {
    size_t struct_size; /* sizeof(vtrn_host_callbacks) */
    void *ctx;
    /* Runs function `id` on the thread that executes the program. inputs and outputs: operands and
     * results of the custom_call in order, dense and row-major; tokens have no bytes. Nonzero: it
     * failed, negative: its user interrupted it, and message, of message_size bytes, says why, with
     * a NUL at its end. It cannot execute programs. */
    int (*call)(void *ctx, uint64_t id, const void *const *inputs, void *const *outputs,
                char *message, size_t message_size);
    /* An executable that calls function `id` was made (change 1) or destroyed (-1). Nonzero: there
     * is no such function; the program is refused. */
    int (*hold)(void *ctx, uint64_t id, int change);
} vtrn_host_callbacks;

/* For all devices of the process; callbacks is copied. NULL: programs that call the host are
 * refused, as before the first call. */
VTRN_API void vtrn_host_callbacks_set(const vtrn_host_callbacks *callbacks);

/* Divides a program over partitions; Python's `vtrn` sets one that runs the passes of Shardy in
 * jaxlib. */
typedef struct vtrn_partitioner {
    size_t struct_size; /* sizeof(vtrn_partitioner) */
    void *ctx;
    /* artifact: a StableHLO artifact with sharding annotations, for n_partitions devices; 0: for as
     * many as it says, where the library could not read it. What it returns, 0: the
     * divided program, a manual computation over all axes, was given to emit in one call. 1: the
     * artifact is such a program already. 3: the program is wrong, and is refused. Other: it could
     * not be divided, and runs whole. Message, of message_size bytes, says why, with a NUL at its
     * end. Called on the thread that compiles. */
    int (*partition)(void *ctx, const void *artifact, size_t size, int n_partitions,
                     void (*emit)(void *sink, const void *bytes, size_t size), void *sink,
                     char *message, size_t message_size);
    /* The artifact of what one device runs of such a program, with the shapes of its parts and
     * without annotations; as partition. NULL: none is made. */
    int (*one_device)(void *ctx, const void *artifact, size_t size,
                      void (*emit)(void *sink, const void *bytes, size_t size), void *sink,
                      char *message, size_t message_size);
    /* As partition, of an artifact that vtrn_compile() was given: it may come from a file, and be
     * damaged, where what a PJRT client compiles was written just before. NULL: partition. */
    int (*partition_file)(void *ctx, const void *artifact, size_t size, int n_partitions,
                          void (*emit)(void *sink, const void *bytes, size_t size), void *sink,
                          char *message, size_t message_size);
} vtrn_partitioner;

/* For all devices of the process; partitioner is copied. NULL: there is none. */
VTRN_API void vtrn_partitioner_set(const vtrn_partitioner *partitioner);

/* is_asked is called now and then while a program runs, on the thread that executes it; true stops
 * the program: vtrn_execute() calls has_stopped, if there is one, and fails as interrupted. NULL:
 * programs run to their end. */
VTRN_API void vtrn_interrupt_set(bool (*is_asked)(void *ctx), void (*has_stopped)(void *ctx),
                                 void *ctx);

/* Debugging, for programs written by hand above all; VTRN_CHECK=1 does it for every program and
 * every run. HAZARD: two instructions touch the same bytes, one of them writes, and neither queue
 * nor semaphore orders them. UNINITIALISED: the last execution read bytes of SBUF, PSUM, scratch or
 * an output that it had not written. NULL: neither; before the first execution only the former. */
VTRN_API vtrn_status vtrn_executable_check(const vtrn_executable *executable);

/* What the chip would have done in the last execution. */
typedef struct vtrn_profile {
    size_t struct_size;
    double step_ns; /* simulated, launch to completion */
    double tensor_active, vector_active, scalar_active, gpsimd_active, sync_active, dma_active;
    double mfu; /* useful FLOPs / (step time * the core's bf16 peak) */
    uint64_t flops;
    uint64_t hbm_read_bytes, hbm_write_bytes;
    /* Of the core; of SBUF and PSUM up to where tiles are placed (profile.json's
     * *_placed_peak_bytes). */
    uint64_t hbm_peak_bytes, sbuf_peak_bytes, psum_peak_bytes;
    double reference_time_share; /* of the host time: work done by reference custom ops */
    uint32_t n_reference_ops;
    uint64_t n_instructions;
    double host_seconds, functional_seconds, timing_seconds; /* of the last execution */
    double dollars_per_hour; /* the instance; 0 when not published */
    int instance_cores;
    uint64_t spill_save_bytes, spill_reload_bytes; /* of HBM's, of what SBUF has no room for */
} vtrn_profile;

VTRN_API vtrn_status vtrn_executable_profile(const vtrn_executable *executable, vtrn_profile *out);
/* Writes profile.json, profile.pftrace and profile.html into directory (made when absent). */
VTRN_API vtrn_status vtrn_executable_profile_write(const vtrn_executable *executable,
                                                   const char *directory);

/* Writes now what VTRN_PROFILE makes every open device write at its end, where a failure cannot be
 * returned. RESOURCE names the file and the reason: every file is whole, or as it was. UNSUPPORTED
 * from within a program: a callback, or a function of vtrn_interrupt_set(). */
VTRN_API vtrn_status vtrn_profile_flush(void);
/* Whether this thread is within a program, where vtrn_profile_flush() is refused. */
VTRN_API bool vtrn_profile_is_running(void);

/* The executable's program in the container format of `vtrn asm`; free with vtrn_free. */
VTRN_API vtrn_status vtrn_executable_program(const vtrn_executable *executable, void **bytes,
                                             size_t *size);
VTRN_API void vtrn_free(void *p);
VTRN_API const char *vtrn_version(void);

#ifdef __cplusplus
}
#endif
#endif
