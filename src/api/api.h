/* What the handles of vtrn.h are made of: for the API's own files and the PJRT plugin. */
#ifndef VTRN_API_API_H
#define VTRN_API_API_H

#include "compiler/compile.h"
#include "compiler/graph/graph.h"
#include "runtime/execute.h"
#include "vtrn.h"

struct vtrn_device {
    atomic_uint refs; /* the opener's, and one an executable */
    runtime_device *rt;
    pthread_mutex_t lock;         /* the list below */
    vtrn_executable *executables; /* all that live, or that VTRN_PROFILE still wants */
    char *profile_dir;            /* VTRN_PROFILE, NULL when unset */
    bool is_written;              /* what profile_dir is to hold, at so many executions: */
    uint64_t n_runs_written;
    vtrn_device *next_open; /* devices whose profile is to be written at exit */
    uint64_t n_compiled;
    bool is_checking; /* VTRN_CHECK: every program when loaded, every run when over */
};

/* An environment variable that is neither absent, empty nor "0". */
bool api_is_set(const char *variable);
void api_device_retain(vtrn_device *device);
void api_device_release(vtrn_device *device);

_Static_assert((int)VTRN_MAX_RANK == (int)GRAPH_MAX_RANK, "the public limit is the graph's");

typedef struct api_type {
    int dtype, rank; /* vtrn_dtype */
    int64_t dims[VTRN_MAX_RANK];
    uint8_t order[VTRN_MAX_RANK]; /* dims from the slowest to the fastest in memory */
    uint64_t size_bytes;          /* of a buffer */
    uint64_t host_bytes;          /* at the host, where values of 2 and 4 bits take a byte each */
    bool is_token; /* booleans without an element, of type !stablehlo.token in the artifact */
} api_type;

/* How a tensor is cut over the partitions of a program. */
typedef struct api_sharding {
    int rank;
    int64_t n_parts[VTRN_MAX_RANK]; /* of each dimension */
    int64_t n_copies;               /* of each part, or of each part of its sum */
    int64_t n_unreduced;            /* parts of a sum that a part of the tensor is; 1: the sum */
    /* By part, row by row, part of its sum and copy: the partition that has it. NULL: each has all
     * of it. */
    int64_t *partition;
} api_sharding;

/* s NULL: whole. *out is to be released by free(out->partition), also on error. */
vtrn_status api_sharding_init(const graph_sharding *s, api_sharding *out);

/* Where a tensor is: in HBM, or in memory of the host that programs take copies from. */
typedef enum api_place { API_IN_HBM, API_ON_HOST } api_place;

struct vtrn_executable {
    atomic_uint refs;
    vtrn_device *device;
    runtime_program *loaded;
    char *name;
    uint64_t serial; /* order of compilation on the device */
    int n_inputs, n_outputs;
    api_type *inputs, *outputs;
    int *input_alias;                    /* as vtrn_executable_input_alias() */
    uint8_t *input_place, *output_place; /* api_place that @main asks for */
    api_sharding *shardings; /* of outputs, then of inputs; NULL: the program has one partition */
    uint32_t n_whole_ops;    /* that run on every rank alike: what spmd_localise() counts */
    char *whole_reason;      /* why the host's partitioner left them so; NULL: it did not */
    void *divided;           /* the artifact that it made, until a caller takes it; or NULL */
    size_t divided_size;
    bool has_no_hlo;              /* of its artifact: graph.has_no_hlo */
    bool is_kept_for_profile;     /* one reference belongs to the device */
    bool holds_callbacks;         /* of its program, until it is destroyed */
    vtrn_executable *prev, *next; /* in the device's list */
};

/* Under the device's lock, for one of its list: false when its last reference is gone already. */
bool api_executable_retain_live(vtrn_executable *executable);
/* Room for the types of so many inputs and outputs, all zero, no input aliased; the name. */
vtrn_status api_executable_describe(vtrn_executable *e, const char *name, uint32_t n_inputs,
                                    uint32_t n_outputs);
/* A filled-in executable becomes the device's, with one reference for the caller. */
void api_executable_publish(vtrn_device *device, vtrn_executable *e);
void api_executable_free(vtrn_executable *e); /* one that was not published */
/* api_program.c: an executable of the program, which is taken over, also on error. */
vtrn_status api_program_adopt(vtrn_device *device, vtrn_program *program, vtrn_executable **out);
/* vtrn_compile() with options; VTRN_REFERENCE_ONLY, VTRN_STRICT and VTRN_VERIFY switch on what they
 * leave off. */
vtrn_status api_compile(vtrn_device *device, const void *bytes, size_t size,
                        const compile_options *options, vtrn_executable **out);

struct vtrn_buffer {
    pthread_mutex_t lock;
    runtime_device *rt;     /* kept alive by the buffer */
    runtime_memory *memory; /* NULL once deleted or donated */
    int core_i;
    api_place place;
    bool was_donated;
    int n_external; /* holders of the raw address: donation must not take the memory */
    api_type type;
};

/* size_bytes from dtype and dims. BAD_ARGUMENT: bad dtype, rank, a negative dim; CAPACITY: more
 * bytes than any address space. */
vtrn_status api_type_init(int dtype, int rank, const int64_t *dims, api_type *out);
bool api_type_equal(const api_type *a, const api_type *b);
void api_type_strides(const api_type *type, int64_t *strides); /* [rank] bytes */
/* "fp32[2,3]"; with the memory order where it is not row-major. */
void api_type_print(const api_type *type, char *text, size_t size);

/* A buffer around memory (one reference moves in) or, with memory NULL, an empty shell. */
vtrn_status api_buffer_wrap(runtime_device *rt, int core_i, const api_type *type,
                            runtime_memory *memory, vtrn_buffer **out);
/* The memory with a reference of its own. BAD_ARGUMENT when deleted or donated. */
vtrn_status api_buffer_hold(vtrn_buffer *buffer, runtime_memory **out);
/* Moves the buffer's own reference to `held`, which the caller holds too, out of the buffer: from
 * then on it counts as donated. False when it was deleted or donated meanwhile. *is_alone: nobody
 * but the caller has the memory any more, so that it may be written. */
bool api_buffer_take(vtrn_buffer *buffer, runtime_memory *held, bool *is_alone);
/* Undoes api_buffer_take(). */
void api_buffer_give_back(vtrn_buffer *buffer, runtime_memory *memory);
/* Gives the memory up; the handle stays valid. */
void api_buffer_delete(vtrn_buffer *buffer);
bool api_buffer_is_deleted(vtrn_buffer *buffer);
/* A buffer whose contents are arbitrary. */
vtrn_status api_buffer_create(runtime_device *rt, int core_i, const api_type *type, api_place place,
                              vtrn_buffer **out);
/* BAD_ARGUMENT where the memory is an output of a rank that was not computed. */
vtrn_status api_memory_check(const runtime_memory *memory);
/* A copy, perhaps on another core of the machine or in the other memory. */
vtrn_status api_buffer_copy(vtrn_buffer *buffer, int core_i, api_place place, vtrn_buffer **out);

/* api_callbacks.c: for a loaded executable. UNSUPPORTED when its program calls functions of the
 * host that this process does not have. */
vtrn_status api_hold_callbacks(vtrn_executable *e);

/* api_check.c: HAZARD, and UNINITIALISED in the last run's blocks. */
vtrn_status api_check_program(const vtrn_executable *e);
vtrn_status api_check_last_run(const vtrn_executable *e);

/* api_session.c: what runs while a profiler listens; several may. */
typedef struct api_session api_session;
vtrn_status api_session_create(api_session **out);
void api_session_start(api_session *session);
void api_session_stop(api_session *session);    /* from then on it notes nothing */
void api_session_destroy(api_session *session); /* NULL is fine */
/* The XSpace of a stopped session, see profile_xspace(); free *bytes with free(). RESOURCE when
 * memory is short, now or while it listened. */
vtrn_status api_session_xspace(const api_session *session, uint8_t **bytes, size_t *size);
bool api_session_is_listening(void);
uint64_t api_session_now_ns(void); /* since the epoch */
/* The executable ran on the core; timing_i as in runtime_call. */
void api_session_note(vtrn_executable *e, int core_i, uint64_t host_ns, int timing_i);

/* is_profiled false: VTRN_PROFILE asks nothing of this device, on which no program runs. */
vtrn_status api_device_open(const vtrn_device_options *options, bool is_profiled,
                            vtrn_device **out);
bool api_is_executing(void); /* whether this thread is inside vtrn_execute() */
/* VTRN_SAMPLES_PER_STEP: training samples that one execution works on, for prices and rates; 0: it
 * is not set. */
vtrn_status api_samples_per_step(uint64_t *out);
/* profile_dir.c: what VTRN_PROFILE asks for. */
vtrn_status api_profile_register(vtrn_device *device); /* at open */
void api_profile_unregister(vtrn_device *device);      /* at close: writes */

#endif
