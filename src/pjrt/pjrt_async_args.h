/* The argument structs of events and of asynchronous transfers from the host, as of ABI 0.114. */
#ifndef VTRN_PJRT_PJRT_ASYNC_ARGS_H
#define VTRN_PJRT_PJRT_ASYNC_ARGS_H

#include "pjrt/pjrt_args.h"

typedef struct PJRT_AsyncHostToDeviceTransferManager PJRT_AsyncHostToDeviceTransferManager;

typedef struct PJRT_ShapeSpec {
    PJRT_ARGS_HEAD;
    const int64_t *dims;
    size_t num_dims;
    PJRT_Buffer_Type element_type;
} PJRT_ShapeSpec;

struct PJRT_Client_CreateBuffersForAsyncHostToDevice_Args {
    PJRT_ARGS_HEAD;
    PJRT_Client *client;
    PJRT_ShapeSpec *shape_specs;
    size_t num_shape_specs;
    PJRT_Buffer_MemoryLayout **device_layouts; /* NULL, or one a shape */
    size_t num_device_layouts;
    PJRT_Memory *memory;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
};

struct PJRT_AsyncHostToDeviceTransferManager_Destroy_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
};

struct PJRT_AsyncHostToDeviceTransferManager_TransferData_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    int buffer_index;
    const void *data;
    int64_t offset, transfer_size; /* bytes */
    bool is_last_transfer;
    PJRT_Event *done_with_h2d_transfer;
};

struct PJRT_AsyncHostToDeviceTransferManager_TransferLiteral_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    int buffer_index;
    const void *data;
    const int64_t *shape_dims;
    size_t shape_num_dims;
    PJRT_Buffer_Type shape_element_type;
    PJRT_Buffer_MemoryLayout *shape_layout;
    PJRT_Event *done_with_h2d_transfer;
};

struct PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    int buffer_index;
    PJRT_Buffer *buffer_out;
};

struct PJRT_AsyncHostToDeviceTransferManager_Device_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    PJRT_Device *device_out;
};

struct PJRT_AsyncHostToDeviceTransferManager_BufferCount_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    size_t buffer_count;
};

struct PJRT_AsyncHostToDeviceTransferManager_BufferSize_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    int buffer_index;
    size_t buffer_size;
};

struct PJRT_AsyncHostToDeviceTransferManager_SetBufferError_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    int buffer_index;
    PJRT_Error_Code error_code;
    const char *error_message;
    size_t error_message_size;
};

struct PJRT_AsyncHostToDeviceTransferManager_AddMetadata_Args {
    PJRT_ARGS_HEAD;
    PJRT_AsyncHostToDeviceTransferManager *transfer_manager;
    const PJRT_NamedValue *transfer_metadata;
    size_t num_metadata;
};

struct PJRT_Event_Create_Args {
    PJRT_ARGS_HEAD;
    PJRT_Event *event;
};

struct PJRT_Event_Set_Args {
    PJRT_ARGS_HEAD;
    PJRT_Event *event;
    PJRT_Error_Code error_code; /* OK: what is waited for is there */
    const char *error_message;
    size_t error_message_size;
};

#endif
