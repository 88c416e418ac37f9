/* Extensions of the PJRT C ABI 0.114: tables of functions behind PJRT_Api.extension_start. */
#ifndef VTRN_PJRT_PJRT_EXTENSIONS_H
#define VTRN_PJRT_PJRT_EXTENSIONS_H

#include "pjrt/pjrt_args.h"

enum {
    PJRT_Extension_Type_Profiler = 1,
    PJRT_Extension_Type_Layouts = 4,
    PJRT_Extension_Type_CrossHostTransfers = 12,
    PJRT_Extension_Type_Shardings = 19,
};

/* Profiler. Its structs have errors of their own, and `priv` where others have extension_start. */
typedef struct PLUGIN_Profiler PLUGIN_Profiler;
typedef struct PLUGIN_Profiler_Error PLUGIN_Profiler_Error;

typedef struct PLUGIN_Profiler_Error_Destroy_Args {
    size_t struct_size;
    void *priv;
    PLUGIN_Profiler_Error *error;
} PLUGIN_Profiler_Error_Destroy_Args;

typedef struct PLUGIN_Profiler_Error_Message_Args {
    size_t struct_size;
    void *priv;
    const PLUGIN_Profiler_Error *error;
    const char *message;
    size_t message_size;
} PLUGIN_Profiler_Error_Message_Args;

typedef struct PLUGIN_Profiler_Error_GetCode_Args {
    size_t struct_size;
    void *priv;
    const PLUGIN_Profiler_Error *error;
    int code;
} PLUGIN_Profiler_Error_GetCode_Args;

typedef struct PLUGIN_Profiler_Create_Args {
    size_t struct_size;
    const char *options; /* ProfileOptions */
    size_t options_size;
    PLUGIN_Profiler *profiler;
} PLUGIN_Profiler_Create_Args;

/* Destroy, Start and Stop. */
typedef struct PLUGIN_Profiler_Args {
    size_t struct_size;
    PLUGIN_Profiler *profiler;
} PLUGIN_Profiler_Args;

typedef struct PLUGIN_Profiler_CollectData_Args {
    size_t struct_size;
    PLUGIN_Profiler *profiler;
    uint8_t *buffer; /* in: NULL, or room */
    size_t buffer_size_in_bytes;
} PLUGIN_Profiler_CollectData_Args;

typedef struct PLUGIN_Profiler_Api {
    size_t struct_size;
    void *priv;
    void (*error_destroy)(PLUGIN_Profiler_Error_Destroy_Args *args);
    void (*error_message)(PLUGIN_Profiler_Error_Message_Args *args);
    PLUGIN_Profiler_Error *(*error_get_code)(PLUGIN_Profiler_Error_GetCode_Args *args);
    PLUGIN_Profiler_Error *(*create)(PLUGIN_Profiler_Create_Args *args);
    PLUGIN_Profiler_Error *(*destroy)(PLUGIN_Profiler_Args *args);
    PLUGIN_Profiler_Error *(*start)(PLUGIN_Profiler_Args *args);
    PLUGIN_Profiler_Error *(*stop)(PLUGIN_Profiler_Args *args);
    PLUGIN_Profiler_Error *(*collect_data)(PLUGIN_Profiler_CollectData_Args *args);
} PLUGIN_Profiler_Api;

typedef struct PJRT_Profiler_Extension {
    PJRT_Extension_Base base;
    const PLUGIN_Profiler_Api *profiler_api;
    int64_t traceme_context_id;
} PJRT_Profiler_Extension;

/* Layouts: which of a tensor's dimensions is next to which in memory. */
typedef struct PJRT_Layouts_MemoryLayout PJRT_Layouts_MemoryLayout;
typedef struct PJRT_Layouts_SerializedLayout PJRT_Layouts_SerializedLayout;

typedef struct PJRT_Layouts_MemoryLayout_Destroy_Args {
    PJRT_ARGS_HEAD;
    PJRT_Layouts_MemoryLayout *layout;
} PJRT_Layouts_MemoryLayout_Destroy_Args;

typedef struct PJRT_Layouts_MemoryLayout_Serialize_Args {
    PJRT_ARGS_HEAD;
    PJRT_Layouts_MemoryLayout *layout;
    const char *serialized_bytes;
    size_t serialized_bytes_size;
    PJRT_Layouts_SerializedLayout *serialized_layout;
    void (*serialized_layout_deleter)(PJRT_Layouts_SerializedLayout *layout);
} PJRT_Layouts_MemoryLayout_Serialize_Args;

typedef struct PJRT_Layouts_PJRT_Buffer_MemoryLayout_Args {
    PJRT_ARGS_HEAD;
    PJRT_Buffer *buffer;
    PJRT_Layouts_MemoryLayout *layout;
} PJRT_Layouts_PJRT_Buffer_MemoryLayout_Args;

typedef struct PJRT_Layouts_PJRT_Client_GetDefaultLayout_Args {
    PJRT_ARGS_HEAD;
    PJRT_Client *client;
    PJRT_Buffer_Type type;
    const int64_t *dims;
    size_t num_dims;
    PJRT_Layouts_MemoryLayout *layout;
} PJRT_Layouts_PJRT_Client_GetDefaultLayout_Args;

typedef struct PJRT_Layouts_PJRT_Topology_GetDefaultLayout_Args {
    PJRT_ARGS_HEAD;
    PJRT_TopologyDescription *topology_description;
    PJRT_Buffer_Type type;
    const int64_t *dims;
    size_t num_dims;
    PJRT_Layouts_MemoryLayout *layout;
} PJRT_Layouts_PJRT_Topology_GetDefaultLayout_Args;

typedef struct PJRT_Layouts_PJRT_Executable_GetOutputLayouts_Args {
    PJRT_ARGS_HEAD;
    PJRT_Executable *executable;
    size_t num_outputs;
    PJRT_Layouts_MemoryLayout **layouts;
} PJRT_Layouts_PJRT_Executable_GetOutputLayouts_Args;

typedef struct PJRT_Layouts_PJRT_Executable_GetParameterLayouts_Args {
    PJRT_ARGS_HEAD;
    PJRT_Executable *executable;
    size_t num_parameters;
    PJRT_Layouts_MemoryLayout **layouts;
} PJRT_Layouts_PJRT_Executable_GetParameterLayouts_Args;

typedef struct PJRT_Layouts_Extension {
    PJRT_Extension_Base base;
    PJRT_Error *(*memory_layout_destroy)(PJRT_Layouts_MemoryLayout_Destroy_Args *args);
    PJRT_Error *(*memory_layout_serialize)(PJRT_Layouts_MemoryLayout_Serialize_Args *args);
    PJRT_Error *(*client_default)(PJRT_Layouts_PJRT_Client_GetDefaultLayout_Args *args);
    PJRT_Error *(*of_buffer)(PJRT_Layouts_PJRT_Buffer_MemoryLayout_Args *args);
    PJRT_Error *(*topology_default)(PJRT_Layouts_PJRT_Topology_GetDefaultLayout_Args *args);
    PJRT_Error *(*of_outputs)(PJRT_Layouts_PJRT_Executable_GetOutputLayouts_Args *args);
    PJRT_Error *(*of_parameters)(PJRT_Layouts_PJRT_Executable_GetParameterLayouts_Args *args);
} PJRT_Layouts_Extension;

/* The Shardings extension's two functions take the same. The lists live as long as the executable.
 */
typedef struct PJRT_Shardings_Args {
    PJRT_ARGS_HEAD;
    PJRT_Executable *executable;
    size_t n; /* parameters or outputs */
    const char *const *shardings;
    const size_t *sharding_sizes;
} PJRT_Shardings_Args;

typedef struct PJRT_Shardings_Extension {
    PJRT_Extension_Base base;
    PJRT_Error *(*parameter_shardings)(PJRT_Shardings_Args *args);
    PJRT_Error *(*output_shardings)(PJRT_Shardings_Args *args);
} PJRT_Shardings_Extension;

/* Cross-host transfers. Ids are of the client's devices, keys those that both processes have. */
typedef struct PJRT_CrossHostSend_Args {
    PJRT_ARGS_HEAD;
    PJRT_Client *client;
    size_t num_buffers;
    PJRT_Buffer **buffers;
    const int32_t *dst_global_device_ids;
    const int64_t *transfer_keys;
    PJRT_Event **send_events;
} PJRT_CrossHostSend_Args;

typedef struct PJRT_CrossHostReceive_Args {
    PJRT_ARGS_HEAD;
    PJRT_Client *client;
    size_t num_shapes;
    size_t *shape_num_dims;
    const int64_t **dims;
    PJRT_Buffer_Type *element_types;
    PJRT_Buffer_MemoryLayout **layouts;
    PJRT_Device *device;
    const int32_t *src_global_device_ids;
    const int64_t *transfer_keys;
    PJRT_Buffer **buffers;
} PJRT_CrossHostReceive_Args;

typedef struct PJRT_CopyToRemoteDevice_Args {
    PJRT_ARGS_HEAD;
    PJRT_Buffer *buffer;
    PJRT_Event *event;
    char **serialized_descriptor;
    size_t *serialized_descriptor_size;
    void *user_arg;
    void (*on_done)(PJRT_Error *error, bool sends_were_enqueued, void *user_arg);
} PJRT_CopyToRemoteDevice_Args;

/* The first two are of an older protocol, by descriptors. */
typedef struct PJRT_CrossHost_Extension {
    PJRT_Extension_Base base;
    PJRT_Error *(*make_receive_buffers)(void *args);
    void (*copy_to_remote_device)(PJRT_CopyToRemoteDevice_Args *args);
    PJRT_Error *(*receive_buffers)(PJRT_CrossHostReceive_Args *args);
    PJRT_Error *(*send_buffers)(PJRT_CrossHostSend_Args *args);
} PJRT_CrossHost_Extension;

extern PJRT_Profiler_Extension plugin_profiler_extension; /* the first of the list */
extern PJRT_Layouts_Extension plugin_layouts_extension;
extern PJRT_Shardings_Extension plugin_shardings_extension;
extern PJRT_CrossHost_Extension plugin_cross_host_extension;

#endif
