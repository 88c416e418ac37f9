/* Events, and buffers whose data arrive later. */
#include "pjrt/pjrt_async_args.h"

#include "api/artifact_x_plus_1.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

const PJRT_Api *GetPjrtApi(void);

typedef PJRT_AsyncHostToDeviceTransferManager manager;

static void forget(PJRT_Error *error) {
    PJRT_Error_Destroy_Args args = {.struct_size = sizeof args, .error = error};
    GetPjrtApi()->PJRT_Error_Destroy(&args);
}

static void succeeds(PJRT_Error *error) {
    if (!error)
        return;
    PJRT_Error_Message_Args message = {.struct_size = sizeof message, .error = error};
    GetPjrtApi()->PJRT_Error_Message(&message);
    fail_msg("%s", message.message);
}

static void refused(PJRT_Error *error, PJRT_Error_Code code, const char *text) {
    assert_non_null(error);
    PJRT_Error_GetCode_Args what = {.struct_size = sizeof what, .error = error};
    assert_null(GetPjrtApi()->PJRT_Error_GetCode(&what));
    PJRT_Error_Message_Args message = {.struct_size = sizeof message, .error = error};
    GetPjrtApi()->PJRT_Error_Message(&message);
    if (what.code != code || !strstr(message.message, text))
        fail_msg("code %d with '%s' expected, not %d: %s", code, text, what.code, message.message);
    forget(error);
}

static PJRT_Client *create(void) {
    PJRT_Client_Create_Args args = {.struct_size = sizeof args};
    succeeds(GetPjrtApi()->PJRT_Client_Create(&args));
    return args.client;
}

static void destroy(PJRT_Client *client) {
    PJRT_Client_Destroy_Args args = {.struct_size = sizeof args, .client = client};
    succeeds(GetPjrtApi()->PJRT_Client_Destroy(&args));
}

static const int64_t DIMS[] = {2, 3};
static const float VALUES[6] = {0, 1, 2, 3, 4, -5.5f}, PLUS_1[6] = {1, 2, 3, 4, 5, -4.5f};

/* n buffers of fp32[2,3]. */
static manager *begin(PJRT_Client *client, size_t n) {
    PJRT_ShapeSpec shapes[4];
    for (size_t i = 0; i < n; i++)
        shapes[i] = (PJRT_ShapeSpec){.struct_size = sizeof *shapes,
                                     .dims = DIMS,
                                     .num_dims = 2,
                                     .element_type = PJRT_Buffer_Type_F32};
    PJRT_Client_CreateBuffersForAsyncHostToDevice_Args args = {
        .struct_size = sizeof args, .client = client, .shape_specs = shapes, .num_shape_specs = n};
    succeeds(GetPjrtApi()->PJRT_Client_CreateBuffersForAsyncHostToDevice(&args));
    return args.transfer_manager;
}

static void end(manager *m) {
    PJRT_AsyncHostToDeviceTransferManager_Destroy_Args args = {.struct_size = sizeof args,
                                                               .transfer_manager = m};
    succeeds(GetPjrtApi()->PJRT_AsyncHostToDeviceTransferManager_Destroy(&args));
}

static PJRT_Error *send(manager *m, int i, int64_t offset, int64_t size, bool is_last) {
    PJRT_AsyncHostToDeviceTransferManager_TransferData_Args args = {
        .struct_size = sizeof args,
        .transfer_manager = m,
        .buffer_index = i,
        .data = (const char *)VALUES + (offset < 0 ? 0 : offset),
        .offset = offset,
        .transfer_size = size,
        .is_last_transfer = is_last};
    return GetPjrtApi()->PJRT_AsyncHostToDeviceTransferManager_TransferData(&args);
}

static PJRT_Error *take(manager *m, int i, PJRT_Buffer **out) {
    PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer_Args args = {
        .struct_size = sizeof args, .transfer_manager = m, .buffer_index = i};
    PJRT_Error *error = GetPjrtApi()->PJRT_AsyncHostToDeviceTransferManager_RetrieveBuffer(&args);
    *out = args.buffer_out;
    return error;
}

static bool is_ready(PJRT_Event *event) {
    PJRT_Event_IsReady_Args args = {.struct_size = sizeof args, .event = event};
    succeeds(GetPjrtApi()->PJRT_Event_IsReady(&args));
    return args.is_ready;
}

static PJRT_Error *await(PJRT_Event *event) {
    PJRT_Event_Await_Args args = {.struct_size = sizeof args, .event = event};
    return GetPjrtApi()->PJRT_Event_Await(&args);
}

static void drop_event(PJRT_Event *event) {
    PJRT_Event_Destroy_Args args = {.struct_size = sizeof args, .event = event};
    succeeds(GetPjrtApi()->PJRT_Event_Destroy(&args));
}

static PJRT_Event *ready_event(PJRT_Buffer *buffer) {
    PJRT_Buffer_ReadyEvent_Args args = {.struct_size = sizeof args, .buffer = buffer};
    succeeds(GetPjrtApi()->PJRT_Buffer_ReadyEvent(&args));
    return args.event;
}

static void drop(PJRT_Buffer *buffer) {
    PJRT_Buffer_Destroy_Args args = {.struct_size = sizeof args, .buffer = buffer};
    succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&args));
}

static PJRT_Event *read_into(PJRT_Buffer *buffer, float *values) {
    PJRT_Buffer_ToHostBuffer_Args args = {
        .struct_size = sizeof args, .src = buffer, .dst = values, .dst_size = sizeof VALUES};
    succeeds(GetPjrtApi()->PJRT_Buffer_ToHostBuffer(&args));
    return args.event;
}

static void pieces_in_any_order_make_the_buffer(void **state) {
    (void)state;
    PJRT_Client *client = create();
    manager *m = begin(client, 2);
    PJRT_AsyncHostToDeviceTransferManager_BufferCount_Args n = {.struct_size = sizeof n,
                                                                .transfer_manager = m};
    succeeds(GetPjrtApi()->PJRT_AsyncHostToDeviceTransferManager_BufferCount(&n));
    assert_int_equal(n.buffer_count, 2);
    PJRT_AsyncHostToDeviceTransferManager_BufferSize_Args size = {
        .struct_size = sizeof size, .transfer_manager = m, .buffer_index = 1};
    succeeds(GetPjrtApi()->PJRT_AsyncHostToDeviceTransferManager_BufferSize(&size));
    assert_int_equal(size.buffer_size, 24);
    PJRT_Buffer *buffer, *again;
    succeeds(take(m, 1, &buffer));
    refused(take(m, 1, &again), PJRT_Error_Code_FAILED_PRECONDITION, "retrieved before");
    refused(take(m, 2, &again), PJRT_Error_Code_INVALID_ARGUMENT, "buffer 2 of 2");
    PJRT_Event *event = ready_event(buffer);
    float values[6] = {0};
    PJRT_Event *read = read_into(buffer, values);
    succeeds(send(m, 1, 16, 8, false));
    refused(send(m, 1, 16, 9, false), PJRT_Error_Code_INVALID_ARGUMENT, "9 bytes to offset 16");
    refused(send(m, 1, -1, 4, false), PJRT_Error_Code_INVALID_ARGUMENT, "offset -1");
    assert_false(is_ready(event) || is_ready(read));
    succeeds(send(m, 1, 0, 16, true));
    assert_true(is_ready(event) && is_ready(read));
    succeeds(await(read));
    assert_memory_equal(values, VALUES, sizeof VALUES);
    refused(send(m, 1, 0, 4, true), PJRT_Error_Code_FAILED_PRECONDITION, "last transfer");
    drop_event(event);
    drop_event(read);
    end(m); /* the other one was never retrieved */
    drop(buffer);
    destroy(client);
}

static void literals_have_any_layout_and_the_buffers_shape(void **state) {
    (void)state;
    PJRT_Client *client = create();
    manager *m = begin(client, 1);
    static const int64_t swapped[] = {3, 2}, first_is_fastest[] = {0, 1};
    static const float columns[6] = {0, 3, 1, 4, 2, -5.5f};
    PJRT_Buffer_MemoryLayout layout = {
        .struct_size = sizeof layout,
        .tiled = {.minor_to_major = first_is_fastest, .minor_to_major_size = 2}};
    PJRT_AsyncHostToDeviceTransferManager_TransferLiteral_Args args = {.struct_size = sizeof args,
                                                                       .transfer_manager = m,
                                                                       .data = columns,
                                                                       .shape_dims = swapped,
                                                                       .shape_num_dims = 2,
                                                                       .shape_element_type =
                                                                           PJRT_Buffer_Type_F32,
                                                                       .shape_layout = &layout};
    const PJRT_Api *api = GetPjrtApi();
    refused(api->PJRT_AsyncHostToDeviceTransferManager_TransferLiteral(&args),
            PJRT_Error_Code_INVALID_ARGUMENT, "which is fp32[2,3]");
    args.shape_dims = DIMS;
    succeeds(api->PJRT_AsyncHostToDeviceTransferManager_TransferLiteral(&args));
    PJRT_Buffer *buffer;
    succeeds(take(m, 0, &buffer));
    float values[6];
    drop_event(read_into(buffer, values));
    assert_memory_equal(values, VALUES, sizeof VALUES);
    end(m);
    drop(buffer);
    destroy(client);
}

static void *send_soon(void *m) {
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    succeeds(send(m, 0, 0, 24, true));
    return NULL;
}

static PJRT_Error *execute(PJRT_LoadedExecutable *executable, PJRT_Buffer *input,
                           PJRT_Buffer **output) {
    PJRT_Buffer *const inputs[] = {input};
    PJRT_Buffer *const *input_lists[] = {inputs};
    PJRT_Buffer **output_lists[] = {output};
    PJRT_ExecuteOptions options = {.struct_size = sizeof options};
    PJRT_LoadedExecutable_Execute_Args args = {.struct_size = sizeof args,
                                               .executable = executable,
                                               .options = &options,
                                               .argument_lists = input_lists,
                                               .num_devices = 1,
                                               .num_args = 1,
                                               .output_lists = output_lists};
    return GetPjrtApi()->PJRT_LoadedExecutable_Execute(&args);
}

static PJRT_LoadedExecutable *compile(PJRT_Client *client) {
    PJRT_Program program = {.struct_size = sizeof program,
                            .code = (char *)artifact_x_plus_1,
                            .code_size = sizeof artifact_x_plus_1,
                            .format = "mlir",
                            .format_size = 4};
    PJRT_Client_Compile_Args args = {
        .struct_size = sizeof args, .client = client, .program = &program, .compile_options = ""};
    succeeds(GetPjrtApi()->PJRT_Client_Compile(&args));
    return args.executable;
}

static void a_program_waits_for_its_input(void **state) {
    (void)state;
    PJRT_Client *client = create();
    PJRT_LoadedExecutable *executable = compile(client);
    manager *m = begin(client, 2);
    PJRT_Buffer *input, *bad, *output;
    succeeds(take(m, 0, &input));
    succeeds(take(m, 1, &bad));
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_soon, m), 0);
    succeeds(execute(executable, input, &output));
    pthread_join(thread, NULL);
    float values[6];
    drop_event(read_into(output, values));
    assert_memory_equal(values, PLUS_1, sizeof PLUS_1);
    drop(output);
    drop(input);
    PJRT_AsyncHostToDeviceTransferManager_SetBufferError_Args lost = {
        .struct_size = sizeof lost,
        .transfer_manager = m,
        .buffer_index = 1,
        .error_code = PJRT_Error_Code_DATA_LOSS,
        .error_message = "the cable was cut here",
        .error_message_size = 17};
    succeeds(GetPjrtApi()->PJRT_AsyncHostToDeviceTransferManager_SetBufferError(&lost));
    refused(execute(executable, bad, &output), PJRT_Error_Code_DATA_LOSS, "the cable was cut");
    PJRT_Event *read = read_into(bad, values);
    refused(await(read), PJRT_Error_Code_DATA_LOSS, "the cable was cut");
    drop_event(read);
    drop(bad);
    end(m);
    PJRT_LoadedExecutable_Destroy_Args unload = {.struct_size = sizeof unload,
                                                 .executable = executable};
    succeeds(GetPjrtApi()->PJRT_LoadedExecutable_Destroy(&unload));
    destroy(client);
}

static void buffers_whose_manager_goes_before_their_data_have_an_error(void **state) {
    (void)state;
    PJRT_Client *client = create();
    manager *m = begin(client, 1);
    PJRT_Buffer *buffer;
    succeeds(take(m, 0, &buffer));
    PJRT_Event *event = ready_event(buffer);
    float values[6];
    PJRT_Event *read = read_into(buffer, values);
    end(m);
    refused(await(event), PJRT_Error_Code_CANCELLED, "before all data had arrived");
    refused(await(read), PJRT_Error_Code_CANCELLED, "before all data had arrived");
    drop_event(event);
    drop_event(read);
    drop(buffer);
    destroy(client);
}

static void count(PJRT_Error *error, void *n) {
    ++*(int *)n;
    if (error) {
        *(int *)n += 100;
        forget(error);
    }
}

static void on_ready(PJRT_Event *event, int *n) {
    PJRT_Event_OnReady_Args args = {
        .struct_size = sizeof args, .event = event, .callback = count, .user_arg = n};
    succeeds(GetPjrtApi()->PJRT_Event_OnReady(&args));
}

static void an_event_calls_each_waiter_once_and_is_set_once(void **state) {
    (void)state;
    for (int has_error = 0; has_error < 2; has_error++) {
        PJRT_Event_Create_Args made = {.struct_size = sizeof made};
        succeeds(GetPjrtApi()->PJRT_Event_Create(&made));
        int n = 0;
        on_ready(made.event, &n);
        on_ready(made.event, &n);
        assert_int_equal(n, 0);
        assert_false(is_ready(made.event));
        PJRT_Event_Set_Args set = {.struct_size = sizeof set,
                                   .event = made.event,
                                   .error_code = has_error ? PJRT_Error_Code_ABORTED : 0,
                                   .error_message = "enough",
                                   .error_message_size = 6};
        succeeds(GetPjrtApi()->PJRT_Event_Set(&set));
        refused(GetPjrtApi()->PJRT_Event_Set(&set), PJRT_Error_Code_FAILED_PRECONDITION,
                "set already");
        on_ready(made.event, &n);
        assert_int_equal(n, has_error ? 303 : 3);
        PJRT_Event_Error_Args error = {.struct_size = sizeof error, .event = made.event};
        if (has_error) {
            refused(GetPjrtApi()->PJRT_Event_Error(&error), PJRT_Error_Code_ABORTED, "enough");
            refused(await(made.event), PJRT_Error_Code_ABORTED, "enough");
        } else {
            succeeds(GetPjrtApi()->PJRT_Event_Error(&error));
            succeeds(await(made.event));
        }
        drop_event(made.event);
    }
}

int main(void) {
    setenv("VTRN_INSTANCE", "trn1.2xlarge", 1);
    unsetenv("VTRN_CHIP");
    unsetenv("VTRN_PROFILE");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_in_any_order_make_the_buffer),
        cmocka_unit_test(literals_have_any_layout_and_the_buffers_shape),
        cmocka_unit_test(a_program_waits_for_its_input),
        cmocka_unit_test(buffers_whose_manager_goes_before_their_data_have_an_error),
        cmocka_unit_test(an_event_calls_each_waiter_once_and_is_set_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
