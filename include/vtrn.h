/* vtrn: a virtual Trainium. The C API: open a device, compile a StableHLO artifact, run it, read
 * its profile. Every function returns NULL on success or a status that the caller frees.
 *
 * Handles are not locked by the caller: all functions may be called from any thread. */
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

/* "out of capacity: ..."; lives as long as the status. */
VTRN_API const char *vtrn_error_message(vtrn_status status);
/* Category number (base/status.h order) and exit code of the vtrn command: 1, 3 or 4. */
VTRN_API int vtrn_error_category(vtrn_status status);
VTRN_API void vtrn_error_free(vtrn_status status);

typedef struct vtrn_device_options {
    size_t struct_size;   /* sizeof(vtrn_device_options) */
    const char *chip;     /* NULL: VTRN_CHIP, else the instance's chip, else "trn1" */
    const char *instance; /* NULL: VTRN_INSTANCE, else "trn1.2xlarge" (or the chip's smallest) */
    int n_threads;        /* 0: VTRN_THREADS, else all cores of the host */
} vtrn_device_options;

VTRN_API vtrn_status vtrn_device_open(const vtrn_device_options *options, vtrn_device **out);
VTRN_API void vtrn_device_close(vtrn_device *device);
VTRN_API int vtrn_device_n_cores(const vtrn_device *device);
VTRN_API const char *vtrn_device_chip_name(const vtrn_device *device);

/* Element types: numbering of vtrn_dtype in base/dtype.h, names "fp32", "bf16", "int32", ... */
VTRN_API bool vtrn_dtype_from_name(const char *name, int *out);

/* StableHLO portable artifact (bytecode) -> executable for one core. */
VTRN_API vtrn_status vtrn_compile(vtrn_device *device, const void *artifact, size_t size,
                                  vtrn_executable **out);
/* A program container (what vtrn_executable_program gives) or assembly text -> executable. Inputs
 * and outputs are vectors: a program knows sizes, not shapes. Only load containers with custom ops
 * that you trust: their bodies are the compiler's. */
VTRN_API vtrn_status vtrn_program_load(vtrn_device *device, const void *bytes, size_t size,
                                       vtrn_executable **out);
VTRN_API void vtrn_executable_destroy(vtrn_executable *executable);
VTRN_API int vtrn_executable_n_inputs(const vtrn_executable *executable);
VTRN_API int vtrn_executable_n_outputs(const vtrn_executable *executable);
/* dims: at least 12 entries */
VTRN_API void vtrn_executable_input_type(const vtrn_executable *executable, int i, int *dtype,
                                         int *rank, int64_t *dims);
VTRN_API void vtrn_executable_output_type(const vtrn_executable *executable, int i, int *dtype,
                                          int *rank, int64_t *dims);
/* The output whose memory input i becomes after execution, or -1. -2: donated, any output. */
VTRN_API int vtrn_executable_input_alias(const vtrn_executable *executable, int i);

/* A dense row-major tensor in a core's HBM. data NULL: contents undefined. Copies at once. */
VTRN_API vtrn_status vtrn_buffer_create(vtrn_device *device, int core_i, int dtype, int rank,
                                        const int64_t *dims, const void *data, vtrn_buffer **out);
VTRN_API void vtrn_buffer_destroy(vtrn_buffer *buffer);
VTRN_API size_t vtrn_buffer_size(const vtrn_buffer *buffer); /* bytes */
VTRN_API vtrn_status vtrn_buffer_read(const vtrn_buffer *buffer, void *dst, size_t size);
VTRN_API vtrn_status vtrn_buffer_write(vtrn_buffer *buffer, const void *src, size_t size);

/* Runs on core core_i. outputs[i] are new buffers. Inputs that the executable donates are consumed:
 * reading them afterwards is an error, destroying them is still the caller's duty. keep: NULL, or
 * n_inputs flags; a set flag protects the input from donation. */
VTRN_API vtrn_status vtrn_execute(vtrn_executable *executable, int core_i,
                                  vtrn_buffer *const *inputs, int n_inputs, const bool *keep,
                                  vtrn_buffer **outputs, int n_outputs);

/* What the chip would have done in the last execution. */
typedef struct vtrn_profile {
    size_t struct_size;
    double step_ns; /* simulated, launch to completion */
    double tensor_active, vector_active, scalar_active, gpsimd_active, sync_active, dma_active;
    double mfu; /* useful FLOPs / (step time * the core's bf16 peak) */
    uint64_t flops;
    uint64_t hbm_read_bytes, hbm_write_bytes;
    uint64_t hbm_peak_bytes, sbuf_peak_bytes, psum_peak_bytes; /* of the core */
    double reference_time_share; /* of the host time: work done by reference custom ops */
    uint32_t n_reference_ops;
    uint64_t n_instructions;
    double host_seconds, functional_seconds, timing_seconds; /* of the last execution */
    double dollars_per_hour; /* the instance; 0 when not published */
    int instance_cores;
} vtrn_profile;

VTRN_API vtrn_status vtrn_executable_profile(const vtrn_executable *executable, vtrn_profile *out);
/* Writes profile.json, profile.pftrace and profile.html into directory (made when absent). */
VTRN_API vtrn_status vtrn_executable_profile_write(const vtrn_executable *executable,
                                                   const char *directory);

/* Writes now what VTRN_PROFILE makes every open device write at its end. */
VTRN_API void vtrn_profile_flush(void);

/* The executable's program in the container format of `vtrn asm`; free with vtrn_free. */
VTRN_API vtrn_status vtrn_executable_program(const vtrn_executable *executable, void **bytes,
                                             size_t *size);
VTRN_API void vtrn_free(void *p);
VTRN_API const char *vtrn_version(void);

#ifdef __cplusplus
}
#endif
#endif
