/* What the PJRT handles are made of, and the rules every plugin function follows. */
#ifndef VTRN_PJRT_PLUGIN_H
#define VTRN_PJRT_PLUGIN_H

#include "api/api.h"
#include "pjrt/pjrt_args.h"

/* Every implemented slot. */
#define SLOT(name)      PJRT_Error *name(name##_Args *args);
#define SLOT_VOID(name) void name(name##_Args *args);
#define STUB(name)
#include "pjrt/pjrt_slots.def"
#undef SLOT
#undef SLOT_VOID
#undef STUB

/* True when the caller's struct is new enough to have the field. */
#define ARGS_HAVE(args, field)                                                                     \
    ((args)->struct_size >= offsetof(__typeof__(*(args)), field) + sizeof((args)->field))

/* Refuses a struct that ends before the last field that the function cannot do without. */
#define ARGS_REQUIRE(args, field)                                                                  \
    do {                                                                                           \
        if (!ARGS_HAVE(args, field))                                                               \
            return plugin_args_too_small(__func__, (args)->struct_size,                            \
                                         offsetof(__typeof__(*(args)), field) +                    \
                                             sizeof((args)->field));                               \
    } while (0)

/* Answers with a text that lives as long as the handle: field and field_size. */
#define ARGS_GIVE_TEXT(args, field, text)                                                          \
    do {                                                                                           \
        ARGS_REQUIRE(args, field##_size);                                                          \
        (args)->field = (text);                                                                    \
        (args)->field##_size = strlen((args)->field);                                              \
        return NULL;                                                                               \
    } while (0)

#define PLUGIN_RETURN_IF_ERROR(expr)                                                               \
    do {                                                                                           \
        vtrn_status status_ = (expr);                                                              \
        if (__builtin_expect(status_ != NULL, 0))                                                  \
            return plugin_error(status_);                                                          \
    } while (0)

struct PJRT_Error {
    const PJRT_Error_FunctionTable *vtable;
    PJRT_Error_Code code;
    bool is_static;
    char *text;
};

/* Consumes the status. */
PJRT_Error *plugin_error(vtrn_status status);
PJRT_Error *plugin_error_make(PJRT_Error_Code code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
PJRT_Error *plugin_args_too_small(const char *function, size_t given, size_t needed);
PJRT_Error *plugin_unimplemented(const char *slot);

/* What the plugin is asked for completes, or fails, before its function returns: one event, always
 * ready, serves all of that. Others are of data that arrive later. */
PJRT_Event *plugin_ready_event(void);
vtrn_status plugin_event_create(PJRT_Event **out);
PJRT_Event *plugin_event_retain(PJRT_Event *event);
void plugin_event_release(PJRT_Event *event); /* NULL is fine */
/* Calls those that wait. text is copied. False when it was set before. */
bool plugin_event_set(PJRT_Event *event, PJRT_Error_Code code, const char *text, size_t text_size);
bool plugin_event_is_ready(PJRT_Event *event);
/* The error that it was set with, if any; CANCELLED when the user interrupts the wait. */
PJRT_Error *plugin_event_await(PJRT_Event *event);
/* The callback owns the error that it gets. */
PJRT_Error *plugin_event_on_ready(PJRT_Event *event, PJRT_Event_OnReadyCallback callback,
                                  void *user_arg);

struct PJRT_Memory {
    const PJRT_Memory_FunctionTable *vtable; /* first, by the ABI */
    int id;
    api_place place;
    PJRT_Device *device;
    char text[64];
    struct plugin_user_data *user_data; /* list, under the client's lock */
};

enum { PLUGIN_N_ATTRIBUTES = 4, PLUGIN_N_MEMORIES = 2, PLUGIN_TEXT = 96 };

struct PJRT_DeviceDescription {
    int id, process_i;
    char kind[16], to_string[PLUGIN_TEXT], debug_string[PLUGIN_TEXT];
    PJRT_NamedValue attributes[PLUGIN_N_ATTRIBUTES];
};

struct PJRT_Device {
    PJRT_Client *client;
    int core_i;  /* of the machine; its id counts those that are visible */
    bool is_own; /* this process reaches it */
    PJRT_DeviceDescription description;
    PJRT_Memory memory[PLUGIN_N_MEMORIES]; /* by api_place; the first is the default */
    PJRT_Memory *memories[PLUGIN_N_MEMORIES];
    PJRT_Device *self[1]; /* for calls that want a list of one */
};

struct PJRT_TopologyDescription {
    PJRT_Client *client;
    PJRT_DeviceDescription **descriptions; /* [n_devices] */
    PJRT_NamedValue attributes[2];
};

struct PJRT_Client {
    atomic_uint refs; /* the creator's, and one a buffer and an executable */
    vtrn_device *device;
    pthread_mutex_t lock;      /* user data of memories, cost of executables */
    int n_devices, n_own;      /* of all processes, of this one */
    PJRT_Device *devices;      /* [n_devices] process by process */
    PJRT_Device **device_list; /* [n_devices] */
    PJRT_Device **own_devices; /* [n_own], a part of device_list */
    PJRT_Memory **memory_list; /* [n_own * PLUGIN_N_MEMORIES] */
    PJRT_TopologyDescription topology;
    char platform_version[PLUGIN_TEXT];
};

/* Which machine a client is of. */
typedef struct plugin_machine {
    const char
        *name; /* of an instance, which has a dot, or of a chip; "": by options, environment */
    const PJRT_NamedValue *options;
    size_t n_options;
    bool is_described_only;                /* programs are compiled for it, and do not run on it */
    const PJRT_Client_Create_Args *create; /* NULL: it is no process among others */
} plugin_machine;

PJRT_Error *plugin_client_create(const plugin_machine *machine, PJRT_Client **out);
void plugin_client_retain(PJRT_Client *client);
void plugin_client_release(PJRT_Client *client);
/* pjrt_device.c */
void plugin_device_init(PJRT_Client *client, int id, int core_i, PJRT_Device *out);
void plugin_device_fini(PJRT_Device *device);

struct PJRT_Buffer {
    vtrn_buffer *buffer;
    PJRT_Device *device;                   /* its client is kept alive by the buffer */
    atomic_uint_fast64_t donor;            /* number of the last call that donated it */
    int64_t minor_to_major[VTRN_MAX_RANK]; /* its memory order, from the fastest */
    PJRT_Event *filled; /* when its data have arrived; NULL: they were there from the start */
};

PJRT_Error *plugin_buffer_wrap(PJRT_Device *device, vtrn_buffer *buffer, PJRT_Buffer **out);
/* Waits for data that are on their way. */
PJRT_Error *plugin_buffer_await(const PJRT_Buffer *buffer);

typedef struct plugin_shape {
    PJRT_Buffer_Type type;
    const int64_t *dims;
    size_t n_dims;
    const PJRT_Buffer_MemoryLayout *layout; /* NULL: row-major */
} plugin_shape;

/* pjrt_transfer.c. A buffer of arbitrary contents. */
PJRT_Error *plugin_buffer_make(PJRT_Memory *memory, const plugin_shape *shape, PJRT_Buffer **out);
/* Byte strides of a layout that the caller has; false when it is tiled or no permutation. */
bool plugin_layout_strides(const api_type *type, const PJRT_Buffer_MemoryLayout *layout,
                           int64_t *strides);
/* strides NULL: row-major. dst is in the order of the type. */
vtrn_status plugin_copy_from_host(const api_type *type, const int64_t *strides, char *dst,
                                  const char *src);
PJRT_Buffer_Type plugin_type_of(const api_type *type);
static inline int plugin_rank_of(const api_type *type) { /* as PJRT has it: a token has no dims */
    return type->is_token ? 0 : type->rank;
}
/* UNIMPLEMENTED names the type. */
vtrn_status plugin_dtype_of(PJRT_Buffer_Type type, int *out);
void plugin_named_string(PJRT_NamedValue *out, const char *name, const char *value);
void plugin_named_int(PJRT_NamedValue *out, const char *name, int64_t value);
void plugin_named_float(PJRT_NamedValue *out, const char *name, float value);

typedef struct plugin_text {
    char *bytes;
    size_t size;
} plugin_text;

struct PJRT_Executable {
    atomic_uint refs;
    PJRT_Client *client;
    vtrn_executable *executable;
    PJRT_Device **devices;     /* [n_ranks], replica by replica; the first is the default */
    PJRT_Device **own_devices; /* [n_own] those of this process, in the same order */
    PJRT_LogicalDeviceIds *logical_ids; /* [n_own] */
    size_t n_replicas, n_partitions, n_ranks, n_own;
    char *assignment; /* DeviceAssignmentProto */
    size_t assignment_size;
    char *module; /* artifact */
    size_t module_size;
    _Atomic(plugin_text *) one_device; /* its module, once it was asked for */
    char *options;                     /* CompileOptionsProto as given */
    size_t options_size;
    char fingerprint[17];
    /* answers that must live as long as the executable */
    PJRT_Buffer_Type *output_types;
    int64_t *output_dims;     /* all outputs', one after the other */
    size_t *output_dim_sizes; /* rank of each */
    const char **kinds;       /* of memory: those of the outputs, then of the inputs */
    size_t *kind_sizes;
    struct PJRT_Layouts_MemoryLayout **layouts; /* those of the outputs, then of the inputs */
    struct PJRT_Layouts_MemoryLayout *layout_data;
    char **shardings; /* of outputs, then of parameters; NULL: none are reported */
    size_t *sharding_sizes;
    PJRT_NamedValue cost[2]; /* an entry never changes once n_cost counts it */
    atomic_int n_cost;
};

struct PJRT_LoadedExecutable {
    PJRT_Executable *executable;
    atomic_bool is_deleted;
};

/* pjrt_layouts.c: false when memory is short. */
bool plugin_layouts_describe(PJRT_Executable *executable);
/* pjrt_shardings.c */
vtrn_status plugin_describe_shardings(PJRT_Executable *executable);
void plugin_free_shardings(PJRT_Executable *executable);

void plugin_executable_release(PJRT_Executable *executable);
extern const char *const plugin_memory_kinds[PLUGIN_N_MEMORIES]; /* "device", "pinned_host" */
extern const char plugin_platform_name[];                        /* "neuron" */

#endif
