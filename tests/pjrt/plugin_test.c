/* The plugin through its function table, as a framework sees it. */
#include "pjrt/pjrt_extensions.h"

#include "api/artifact_x_plus_1.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

const PJRT_Api *GetPjrtApi(void);

static PJRT_Error_Code code_of(PJRT_Error *error) {
    PJRT_Error_GetCode_Args args = {.struct_size = sizeof args, .error = error};
    assert_null(GetPjrtApi()->PJRT_Error_GetCode(&args));
    return args.code;
}

/* Checks text and code, and frees the error. */
static void refused(PJRT_Error *error, PJRT_Error_Code code, const char *text) {
    assert_non_null(error);
    PJRT_Error_Message_Args message = {.struct_size = sizeof message, .error = error};
    GetPjrtApi()->PJRT_Error_Message(&message);
    if (code_of(error) != code || !strstr(message.message, text))
        fail_msg("code %d with '%s' expected, not %d: %s", code, text, code_of(error),
                 message.message);
    assert_int_equal(strlen(message.message), message.message_size);
    PJRT_Error_ForEachPayload_Args payload = {.struct_size = sizeof payload, .error = error};
    assert_null(GetPjrtApi()->PJRT_Error_ForEachPayload(&payload));
    PJRT_Error_Destroy_Args destroy = {.struct_size = sizeof destroy, .error = error};
    GetPjrtApi()->PJRT_Error_Destroy(&destroy);
}

static void every_stub_names_itself(void **state) {
    (void)state;
    const PJRT_Api *api = GetPjrtApi();
    size_t args[64] = {sizeof args};
    int n = 0;
#define SLOT(name)
#define SLOT_VOID SLOT
#define STUB(name)                                                                                 \
    n++;                                                                                           \
    refused(api->name((name##_Args *)args), PJRT_Error_Code_UNIMPLEMENTED, #name);
#include "pjrt/pjrt_slots.def"
#undef SLOT
#undef SLOT_VOID
#undef STUB
    assert_int_equal(n, 138 - 117);
}

static void no_slot_is_empty(void **state) {
    (void)state;
    void *const *slots = (void *const *)((const char *)GetPjrtApi() + 40);
    for (int i = 0; i < 138; i++)
        assert_non_null(slots[i]);
    assert_int_equal(GetPjrtApi()->struct_size, 1144);
    assert_int_equal(GetPjrtApi()->pjrt_api_version.major_version, 0);
    assert_int_equal(GetPjrtApi()->pjrt_api_version.minor_version, 114);
}

static PJRT_Client *create(void) {
    PJRT_Client_Create_Args args = {.struct_size = sizeof args};
    PJRT_Error *error = GetPjrtApi()->PJRT_Client_Create(&args);
    if (error)
        refused(error, PJRT_Error_Code_OK, "no error");
    return args.client;
}

static void destroy(PJRT_Client *client) {
    PJRT_Client_Destroy_Args args = {.struct_size = sizeof args, .client = client};
    assert_null(GetPjrtApi()->PJRT_Client_Destroy(&args));
}

static void a_caller_with_older_structs_is_served_or_refused_but_never_overrun(void **state) {
    (void)state;
    const PJRT_Api *api = GetPjrtApi();
    PJRT_Client *client = create();
    /* too old to hold the answer: refused, and nothing written */
    PJRT_Client_Devices_Args devices = {.client = client, .num_devices = 77};
    devices.struct_size = offsetof(PJRT_Client_Devices_Args, num_devices);
    refused(api->PJRT_Client_Devices(&devices), PJRT_Error_Code_INVALID_ARGUMENT,
            "PJRT_Client_Devices_Args: struct_size is 32, at least 40 needed");
    assert_int_equal(devices.num_devices, 77);
    devices.struct_size = sizeof devices;
    assert_null(api->PJRT_Client_Devices(&devices));
    assert_int_equal(devices.num_devices, 1);
    /* knows the first statistics only: the later ones stay as they are */
    PJRT_Device_MemoryStats_Args stats;
    memset(&stats, 0x5a, sizeof stats);
    stats.struct_size = offsetof(PJRT_Device_MemoryStats_Args, num_allocs);
    stats.device = devices.devices[0];
    assert_null(api->PJRT_Device_MemoryStats(&stats));
    assert_true(stats.peak_bytes_in_use_is_set);
    assert_int_equal(stats.num_allocs, 0x5a5a5a5a5a5a5a5a);
    destroy(client);
}

static PJRT_Error *create_with(PJRT_NamedValue option, PJRT_Client **out) {
    option.struct_size = sizeof option;
    option.name_size = strlen(option.name);
    PJRT_Client_Create_Args args = {
        .struct_size = sizeof args, .create_options = &option, .num_options = 1};
    PJRT_Error *error = GetPjrtApi()->PJRT_Client_Create(&args);
    *out = args.client;
    return error;
}

static void unknown_client_options_are_named(void **state) {
    (void)state;
    PJRT_Client *client;
    PJRT_NamedValue option = {
        .name = "colour", .type = PJRT_NamedValue_kString, .string_value = "blue", .value_size = 4};
    refused(create_with(option, &client), PJRT_Error_Code_INVALID_ARGUMENT,
            "no such client option 'colour'");
    option.name = "chip";
    refused(create_with(option, &client), PJRT_Error_Code_INVALID_ARGUMENT, "blue");
}

static void the_number_of_cores_is_what_the_instance_has_at_most(void **state) {
    (void)state;
    PJRT_Client *client;
    PJRT_NamedValue option = {
        .name = "n_cores", .type = PJRT_NamedValue_kInt64, .int64_value = 3, .value_size = 1};
    refused(create_with(option, &client), PJRT_Error_Code_INVALID_ARGUMENT,
            "client option n_cores asks for 3 NeuronCores; trn1.2xlarge has 2");
    option.int64_value = 2;
    assert_null(create_with(option, &client));
    PJRT_Client_Devices_Args devices = {.struct_size = sizeof devices, .client = client};
    assert_null(GetPjrtApi()->PJRT_Client_Devices(&devices));
    assert_int_equal(devices.num_devices, 2);
    destroy(client);
}

static void a_program_that_is_no_artifact_is_refused(void **state) {
    (void)state;
    PJRT_Client *client = create();
    PJRT_Program program = {.struct_size = sizeof program,
                            .code = (char *)"module {}",
                            .code_size = 9,
                            .format = "hlo",
                            .format_size = 3};
    PJRT_Client_Compile_Args args = {
        .struct_size = sizeof args, .client = client, .program = &program, .compile_options = ""};
    refused(GetPjrtApi()->PJRT_Client_Compile(&args), PJRT_Error_Code_UNIMPLEMENTED, "'hlo'");
    program.format = "mlir";
    program.format_size = 4;
    refused(GetPjrtApi()->PJRT_Client_Compile(&args), PJRT_Error_Code_INVALID_ARGUMENT,
            "bad argument");
    destroy(client);
}

static void succeeds(PJRT_Error *error) {
    if (!error)
        return;
    PJRT_Error_Message_Args message = {.struct_size = sizeof message, .error = error};
    GetPjrtApi()->PJRT_Error_Message(&message);
    fail_msg("%s", message.message);
}

static PJRT_Program x_plus_1(void) {
    return (PJRT_Program){.struct_size = sizeof(PJRT_Program),
                          .code = (char *)artifact_x_plus_1,
                          .code_size = sizeof artifact_x_plus_1,
                          .format = "mlir",
                          .format_size = 4};
}

static PJRT_Error *compile_with(PJRT_Client *client, const char *options, size_t options_size,
                                PJRT_LoadedExecutable **out) {
    PJRT_Program program = x_plus_1();
    PJRT_Client_Compile_Args args = {.struct_size = sizeof args,
                                     .client = client,
                                     .program = &program,
                                     .compile_options = options,
                                     .compile_options_size = options_size};
    PJRT_Error *error = GetPjrtApi()->PJRT_Client_Compile(&args);
    *out = args.executable;
    return error;
}

static PJRT_LoadedExecutable *compile_x_plus_1(PJRT_Client *client) {
    PJRT_LoadedExecutable *loaded;
    succeeds(compile_with(client, "", 0, &loaded));
    return loaded;
}

static PJRT_Buffer *make_input(PJRT_Client *client) {
    static const float values[6] = {0, 1, 2, 3, 4, -5.5f};
    static const int64_t dims[] = {2, 3};
    PJRT_Client_BufferFromHostBuffer_Args args = {.struct_size = sizeof args,
                                                  .client = client,
                                                  .data = values,
                                                  .type = PJRT_Buffer_Type_F32,
                                                  .dims = dims,
                                                  .num_dims = 2};
    succeeds(GetPjrtApi()->PJRT_Client_BufferFromHostBuffer(&args));
    return args.buffer;
}

static PJRT_Error *execute(PJRT_LoadedExecutable *executable, PJRT_Device *device,
                           PJRT_Buffer *input, PJRT_Buffer **output) {
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
                                               .output_lists = output_lists,
                                               .execute_device = device};
    return GetPjrtApi()->PJRT_LoadedExecutable_Execute(&args);
}

static void check_and_destroy_output(PJRT_Buffer *output) {
    static const float expected[6] = {1, 2, 3, 4, 5, -4.5f};
    float values[6] = {0};
    PJRT_Buffer_ToHostBuffer_Args read = {
        .struct_size = sizeof read, .src = output, .dst = values, .dst_size = sizeof values};
    succeeds(GetPjrtApi()->PJRT_Buffer_ToHostBuffer(&read));
    assert_memory_equal(values, expected, sizeof values);
    PJRT_Buffer_Destroy_Args destroy = {.struct_size = sizeof destroy, .buffer = output};
    succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&destroy));
}

static void buffers_and_executables_outlive_their_client(void **state) {
    (void)state;
    PJRT_Client *client = create();
    PJRT_LoadedExecutable *executable = compile_x_plus_1(client);
    PJRT_Buffer *input = make_input(client), *output;
    destroy(client);
    succeeds(execute(executable, NULL, input, &output));
    PJRT_Buffer_IsDeleted_Args deleted = {.struct_size = sizeof deleted, .buffer = input};
    succeeds(GetPjrtApi()->PJRT_Buffer_IsDeleted(&deleted));
    assert_true(deleted.is_deleted); /* donated */
    PJRT_LoadedExecutable_Destroy_Args unload = {.struct_size = sizeof unload,
                                                 .executable = executable};
    succeeds(GetPjrtApi()->PJRT_LoadedExecutable_Destroy(&unload));
    PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = input};
    succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&drop));
    check_and_destroy_output(output);
}

static void a_device_of_another_client_is_refused(void **state) {
    (void)state;
    PJRT_Client *client = create(), *other = create();
    PJRT_LoadedExecutable *executable = compile_x_plus_1(client);
    PJRT_Buffer *input = make_input(client), *output;
    PJRT_Client_Devices_Args devices = {.struct_size = sizeof devices, .client = other};
    succeeds(GetPjrtApi()->PJRT_Client_Devices(&devices));
    refused(execute(executable, devices.devices[0], input, &output),
            PJRT_Error_Code_INVALID_ARGUMENT, "another client");
    succeeds(execute(executable, NULL, input, &output));
    check_and_destroy_output(output);
    PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = input};
    succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&drop));
    PJRT_LoadedExecutable_Destroy_Args unload = {.struct_size = sizeof unload,
                                                 .executable = executable};
    succeeds(GetPjrtApi()->PJRT_LoadedExecutable_Destroy(&unload));
    destroy(client);
    destroy(other);
}

static void unload(PJRT_LoadedExecutable *loaded) {
    PJRT_LoadedExecutable_Destroy_Args args = {.struct_size = sizeof args, .executable = loaded};
    succeeds(GetPjrtApi()->PJRT_LoadedExecutable_Destroy(&args));
}

static PJRT_Buffer *make_input_on(PJRT_Client *client, PJRT_Device *device) {
    PJRT_Buffer *input = make_input(client);
    PJRT_Buffer_CopyToDevice_Args copy = {
        .struct_size = sizeof copy, .buffer = input, .dst_device = device};
    succeeds(GetPjrtApi()->PJRT_Buffer_CopyToDevice(&copy));
    PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = input};
    succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&drop));
    return copy.dst_buffer;
}

/* replicas 2, partitions 1, assignment {2, 1, {[1, 0]}} */
static const char TWO_REPLICAS[] =
    "\x1a\x10\x20\x02\x28\x01\x4a\x0a\x08\x02\x10\x01\x1a\x04\x0a\x02\x01\x00";

static void replicas_that_exchange_nothing_run_one_at_a_time(void **state) {
    (void)state;
    const PJRT_Api *api = GetPjrtApi();
    setenv("NEURON_RT_NUM_CORES", "2", 1);
    PJRT_Client *client = create();
    unsetenv("NEURON_RT_NUM_CORES");
    PJRT_LoadedExecutable *loaded;
    succeeds(compile_with(client, TWO_REPLICAS, sizeof TWO_REPLICAS - 1, &loaded));
    PJRT_LoadedExecutable_GetExecutable_Args get = {.struct_size = sizeof get,
                                                    .loaded_executable = loaded};
    succeeds(api->PJRT_LoadedExecutable_GetExecutable(&get));
    PJRT_Executable_NumReplicas_Args n = {.struct_size = sizeof n, .executable = get.executable};
    succeeds(api->PJRT_Executable_NumReplicas(&n));
    assert_int_equal(n.num_replicas, 2);
    PJRT_LoadedExecutable_AddressableDeviceLogicalIds_Args ids = {.struct_size = sizeof ids,
                                                                  .executable = loaded};
    succeeds(api->PJRT_LoadedExecutable_AddressableDeviceLogicalIds(&ids));
    assert_int_equal(ids.num_addressable_device_logical_ids, 2);
    assert_int_equal(ids.addressable_device_logical_ids[1].replica, 1);
    assert_int_equal(ids.addressable_device_logical_ids[1].partition, 0);
    PJRT_LoadedExecutable_GetDeviceAssignment_Args assignment = {.struct_size = sizeof assignment,
                                                                 .executable = loaded};
    succeeds(api->PJRT_LoadedExecutable_GetDeviceAssignment(&assignment));
    assert_int_equal(assignment.serialized_bytes_size, 10);
    assert_memory_equal(assignment.serialized_bytes, TWO_REPLICAS + 8, 10);
    PJRT_LoadedExecutable_AddressableDevices_Args devices = {.struct_size = sizeof devices,
                                                             .executable = loaded};
    succeeds(api->PJRT_LoadedExecutable_AddressableDevices(&devices));
    assert_int_equal(devices.num_addressable_devices, 2);
    for (size_t i = 0; i < 2; i++) {
        PJRT_Device *device = devices.addressable_devices[i];
        PJRT_Device_LocalHardwareId_Args core = {.struct_size = sizeof core, .device = device};
        succeeds(api->PJRT_Device_LocalHardwareId(&core));
        assert_int_equal(core.local_hardware_id, 1 - (int)i);
        PJRT_Buffer *input = make_input_on(client, device), *output;
        succeeds(execute(loaded, device, input, &output));
        PJRT_Buffer_Device_Args where = {.struct_size = sizeof where, .buffer = output};
        succeeds(api->PJRT_Buffer_Device(&where));
        assert_ptr_equal(where.device, device);
        check_and_destroy_output(output);
        PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = input};
        succeeds(api->PJRT_Buffer_Destroy(&drop));
    }
    PJRT_Executable_Destroy_Args drop = {.struct_size = sizeof drop, .executable = get.executable};
    succeeds(api->PJRT_Executable_Destroy(&drop));
    unload(loaded);
    destroy(client);
}

static void more_replicas_than_devices_are_refused(void **state) {
    (void)state;
    PJRT_Client *client = create();
    PJRT_LoadedExecutable *loaded;
    refused(compile_with(client, "\x1a\x02\x20\x02", 4, &loaded), PJRT_Error_Code_INVALID_ARGUMENT,
            "2 replicas of 1 partitions; the client has 1 devices");
    destroy(client);
}

/* The NeuronCores of the devices that a client shows with one variable set. */
static int visible_cores_with(const char *name, const char *value, int cores[4]) {
    setenv(name, value, 1);
    PJRT_Client *client = create();
    unsetenv(name);
    PJRT_Client_Devices_Args devices = {.struct_size = sizeof devices, .client = client};
    succeeds(GetPjrtApi()->PJRT_Client_Devices(&devices));
    for (size_t i = 0; i < devices.num_devices; i++) {
        PJRT_Device *device = devices.devices[i];
        PJRT_Device_LocalHardwareId_Args core = {.struct_size = sizeof core, .device = device};
        succeeds(GetPjrtApi()->PJRT_Device_LocalHardwareId(&core));
        cores[i] = core.local_hardware_id;
        PJRT_Client_LookupAddressableDevice_Args lookup = {
            .struct_size = sizeof lookup, .client = client, .local_hardware_id = cores[i]};
        succeeds(GetPjrtApi()->PJRT_Client_LookupAddressableDevice(&lookup));
        assert_ptr_equal(lookup.addressable_device, device);
        PJRT_Buffer *input = make_input_on(client, device), *output;
        PJRT_LoadedExecutable *loaded = compile_x_plus_1(client);
        succeeds(execute(loaded, device, input, &output));
        check_and_destroy_output(output);
        PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = input};
        succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&drop));
        unload(loaded);
    }
    destroy(client);
    return (int)devices.num_devices;
}

static void variables_choose_the_cores(void **state) {
    (void)state;
    int cores[4];
    assert_int_equal(visible_cores_with("NEURON_RT_VISIBLE_CORES", "1", cores), 1);
    assert_int_equal(cores[0], 1);
    assert_int_equal(visible_cores_with("NEURON_RT_VISIBLE_CORES", "0-1", cores), 2);
    assert_int_equal(visible_cores_with("NEURON_RT_VISIBLE_CORES", "1,0", cores), 2);
    assert_int_equal(cores[0], 1);
    assert_int_equal(visible_cores_with("NEURON_PJRT_PROCESSES_NUM_DEVICES", "2", cores), 2);
    assert_int_equal(visible_cores_with("NEURON_PJRT_WORLD_SIZE", "1", cores), 1);
    setenv("NEURON_RT_NUM_CORES", "2", 1); /* the list says more than a number */
    assert_int_equal(visible_cores_with("NEURON_RT_VISIBLE_CORES", "1", cores), 1);
    unsetenv("NEURON_RT_NUM_CORES");
}

static PJRT_Error *create_with_variable(const char *name, const char *value) {
    setenv(name, value, 1);
    PJRT_Client_Create_Args args = {.struct_size = sizeof args};
    PJRT_Error *error = GetPjrtApi()->PJRT_Client_Create(&args);
    unsetenv(name);
    return error;
}

static void cores_that_are_not_there_are_refused(void **state) {
    (void)state;
    static const char *const lists[] = {"2", "0-2", "1-0", "0,0", "0-",    "-1",
                                        "a", "0,",  "0 1", ",",   "0-1-1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        refused(create_with_variable("NEURON_RT_VISIBLE_CORES", lists[i]),
                PJRT_Error_Code_INVALID_ARGUMENT, "trn1.2xlarge has NeuronCores 0 to 1");
    refused(create_with_variable("NEURON_PJRT_PROCESSES_NUM_DEVICES", "3"),
            PJRT_Error_Code_INVALID_ARGUMENT, "NEURON_PJRT_PROCESSES_NUM_DEVICES asks for 3");
}

static void several_processes_are_refused(void **state) {
    (void)state;
    refused(create_with_variable("NEURON_PJRT_WORLD_SIZE", "2"), PJRT_Error_Code_UNIMPLEMENTED,
            "NEURON_PJRT_WORLD_SIZE=2: vtrn has no programs over several processes");
    refused(create_with_variable("NEURON_PJRT_PROCESSES_NUM_DEVICES", "1,1"),
            PJRT_Error_Code_UNIMPLEMENTED, "NEURON_PJRT_PROCESSES_NUM_DEVICES=1,1");
}

typedef struct cost_asker {
    PJRT_Executable *executable;
    PJRT_LoadedExecutable *loaded; /* or NULL: does not run it */
    PJRT_Client *client;
    double flops, seconds; /* sums over the answers */
    int n_without_seconds;
} cost_asker;

static void ask_cost(cost_asker *a) {
    PJRT_Executable_GetCostAnalysis_Args cost = {.struct_size = sizeof cost,
                                                 .executable = a->executable};
    succeeds(GetPjrtApi()->PJRT_Executable_GetCostAnalysis(&cost));
    assert_string_equal(cost.properties[0].name, "flops");
    a->flops += cost.properties[0].float_value;
    if (cost.num_properties == 1) {
        a->n_without_seconds++;
        return;
    }
    assert_int_equal(cost.num_properties, 2);
    assert_string_equal(cost.properties[1].name, "optimal_seconds");
    a->seconds += cost.properties[1].float_value;
}

static void run_once(cost_asker *a) {
    PJRT_Buffer *input = make_input(a->client), *output;
    succeeds(execute(a->loaded, NULL, input, &output));
    PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = input};
    succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&drop));
    check_and_destroy_output(output);
}

static void *ask_and_run(void *arg) {
    cost_asker *a = arg;
    for (int i = 0; i < 20; i++) {
        if (a->loaded && i == 10)
            run_once(a);
        ask_cost(a);
    }
    return NULL;
}

/* Who got an answer reads it while others ask: the thread sanitizer sees an answer that changes. */
static void threads_that_ask_for_the_cost_at_once_all_get_a_whole_answer(void **state) {
    (void)state;
    enum { N_ASKERS = 4 };
    PJRT_Client *client = create();
    PJRT_LoadedExecutable *loaded = compile_x_plus_1(client);
    PJRT_LoadedExecutable_GetExecutable_Args get = {.struct_size = sizeof get,
                                                    .loaded_executable = loaded};
    succeeds(GetPjrtApi()->PJRT_LoadedExecutable_GetExecutable(&get));
    cost_asker first = {.executable = get.executable, .loaded = loaded, .client = client};
    ask_cost(&first);
    assert_int_equal(first.n_without_seconds, 1);
    pthread_t threads[N_ASKERS];
    cost_asker askers[N_ASKERS];
    for (int i = 0; i < N_ASKERS; i++) {
        askers[i] = (cost_asker){get.executable, i ? NULL : loaded, client, 0, 0, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_and_run, &askers[i]), 0);
    }
    for (int i = 0; i < N_ASKERS; i++)
        pthread_join(threads[i], NULL);
    cost_asker last = {.executable = get.executable};
    ask_cost(&last);
    assert_true(last.seconds > 0);
    for (int i = 0; i < N_ASKERS; i++) {
        assert_true(askers[i].flops == 20 * first.flops);
        double expected = last.seconds * (20 - askers[i].n_without_seconds);
        assert_true(askers[i].seconds >= expected * 0.999999 &&
                    askers[i].seconds <= expected * 1.000001);
    }
    assert_int_equal(askers[0].n_without_seconds, 10);
    PJRT_Executable_Destroy_Args drop = {.struct_size = sizeof drop, .executable = get.executable};
    succeeds(GetPjrtApi()->PJRT_Executable_Destroy(&drop));
    PJRT_LoadedExecutable_Destroy_Args unload = {.struct_size = sizeof unload,
                                                 .executable = loaded};
    succeeds(GetPjrtApi()->PJRT_LoadedExecutable_Destroy(&unload));
    destroy(client);
}

static PJRT_TopologyDescription *describe(const char *name) {
    PJRT_TopologyDescription_Create_Args args = {
        .struct_size = sizeof args, .topology_name = name, .topology_name_size = strlen(name)};
    succeeds(GetPjrtApi()->PJRT_TopologyDescription_Create(&args));
    return args.topology;
}

static void forget(PJRT_TopologyDescription *topology) {
    PJRT_TopologyDescription_Destroy_Args args = {.struct_size = sizeof args, .topology = topology};
    succeeds(GetPjrtApi()->PJRT_TopologyDescription_Destroy(&args));
}

static uint64_t fingerprint(const PJRT_TopologyDescription *topology) {
    PJRT_TopologyDescription_Fingerprint_Args args = {.struct_size = sizeof args,
                                                      .topology = topology};
    succeeds(GetPjrtApi()->PJRT_TopologyDescription_Fingerprint(&args));
    return args.fingerprint;
}

static void a_topology_is_read_back_as_it_was_written(void **state) {
    (void)state;
    PJRT_TopologyDescription *there = describe("trn2.48xlarge"), *here = describe("");
    PJRT_TopologyDescription_Serialize_Args written = {.struct_size = sizeof written,
                                                       .topology = there};
    succeeds(GetPjrtApi()->PJRT_TopologyDescription_Serialize(&written));
    PJRT_TopologyDescription_Deserialize_Args read = {
        .struct_size = sizeof read,
        .serialized_topology = written.serialized_bytes,
        .serialized_topology_size = written.serialized_bytes_size};
    succeeds(GetPjrtApi()->PJRT_TopologyDescription_Deserialize(&read));
    assert_true(fingerprint(read.topology) == fingerprint(there));
    assert_true(fingerprint(here) != fingerprint(there));
    forget(read.topology);
    for (size_t n = 0; n < written.serialized_bytes_size; n++) {
        read.serialized_topology_size = n;
        refused(GetPjrtApi()->PJRT_TopologyDescription_Deserialize(&read),
                PJRT_Error_Code_INVALID_ARGUMENT, "bad argument");
    }
    written.serialized_topology_deleter(written.serialized_topology);
    forget(there);
    forget(here);
}

static void what_is_compiled_for_a_topology_loads_in_a_client(void **state) {
    (void)state;
    PJRT_TopologyDescription *topology = describe("trn2.48xlarge");
    PJRT_Program program = x_plus_1();
    PJRT_Compile_Args compile = {.struct_size = sizeof compile,
                                 .topology = topology,
                                 .program = &program,
                                 .compile_options = ""};
    succeeds(GetPjrtApi()->PJRT_Compile(&compile));
    forget(topology); /* the executable outlives it */
    PJRT_Client *client = create();
    PJRT_Client_Load_Args load = {
        .struct_size = sizeof load, .client = client, .executable = compile.executable};
    succeeds(GetPjrtApi()->PJRT_Client_Load(&load));
    PJRT_Executable_Destroy_Args drop = {.struct_size = sizeof drop,
                                         .executable = compile.executable};
    succeeds(GetPjrtApi()->PJRT_Executable_Destroy(&drop));
    cost_asker runner = {.loaded = load.loaded_executable, .client = client};
    run_once(&runner);
    PJRT_LoadedExecutable_Destroy_Args unload = {.struct_size = sizeof unload,
                                                 .executable = load.loaded_executable};
    succeeds(GetPjrtApi()->PJRT_LoadedExecutable_Destroy(&unload));
    destroy(client);
    program.format_size = 3;
    compile.topology = describe("");
    refused(GetPjrtApi()->PJRT_Compile(&compile), PJRT_Error_Code_UNIMPLEMENTED, "'mli'");
    forget((PJRT_TopologyDescription *)compile.topology);
}

static const void *extension(int type) {
    const PJRT_Extension_Base *e = GetPjrtApi()->extension_start;
    while (e && e->type != type)
        e = e->next;
    assert_non_null(e);
    return e;
}

static void extensions_have_the_size_and_the_functions_of_the_abi(void **state) {
    (void)state;
    const PJRT_Layouts_Extension *layouts = extension(PJRT_Extension_Type_Layouts);
    assert_int_equal(layouts->base.struct_size, 80);
    const PJRT_Profiler_Extension *profiler = extension(PJRT_Extension_Type_Profiler);
    assert_int_equal(profiler->base.struct_size, 40);
    assert_int_equal(profiler->profiler_api->struct_size, 80);
    void *const *slots = (void *const *)((const char *)profiler->profiler_api + 16);
    for (int i = 0; i < 8; i++)
        assert_non_null(slots[i]);
    slots = (void *const *)((const char *)layouts + sizeof layouts->base);
    for (int i = 0; i < 7; i++)
        assert_non_null(slots[i]);
    const PJRT_CrossHost_Extension *cross_host = extension(PJRT_Extension_Type_CrossHostTransfers);
    assert_int_equal(cross_host->base.struct_size, 56);
    slots = (void *const *)((const char *)cross_host + sizeof cross_host->base);
    for (int i = 0; i < 4; i++)
        assert_non_null(slots[i]);
}

static void a_default_layout_is_row_major_and_written_as_xla_prints_it(void **state) {
    (void)state;
    const PJRT_Layouts_Extension *layouts = extension(PJRT_Extension_Type_Layouts);
    PJRT_Client *client = create();
    static const int64_t dims[12] = {2, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const char *const texts[] = {
        [0] = "{}", [1] = "{0}", [3] = "{2,1,0}", [12] = "{11,10,9,8,7,6,5,4,3,2,1,0}"};
    for (size_t rank = 0; rank <= 12; rank++) {
        PJRT_Layouts_PJRT_Client_GetDefaultLayout_Args args = {.struct_size = sizeof args,
                                                               .client = client,
                                                               .type = PJRT_Buffer_Type_BF16,
                                                               .dims = dims,
                                                               .num_dims = rank};
        succeeds(layouts->client_default(&args));
        PJRT_Layouts_MemoryLayout_Serialize_Args text = {.struct_size = sizeof text,
                                                         .layout = args.layout};
        succeeds(layouts->memory_layout_serialize(&text));
        if (texts[rank])
            assert_string_equal(text.serialized_bytes, texts[rank]);
        assert_int_equal(text.serialized_bytes_size, strlen(text.serialized_bytes));
        text.serialized_layout_deleter(text.serialized_layout);
        PJRT_Layouts_MemoryLayout_Destroy_Args drop = {.struct_size = sizeof drop,
                                                       .layout = args.layout};
        succeeds(layouts->memory_layout_destroy(&drop));
    }
    PJRT_Layouts_PJRT_Client_GetDefaultLayout_Args args = {.struct_size = sizeof args,
                                                           .client = client,
                                                           .type = PJRT_Buffer_Type_BF16,
                                                           .dims = dims,
                                                           .num_dims = 13};
    refused(layouts->client_default(&args), PJRT_Error_Code_INVALID_ARGUMENT, "rank 13 of 0..12");
    destroy(client);
}

/* Both ways of reading a trace: in the profiler's memory, and into the caller's. */
static void a_profiler_gives_its_trace_in_either_memory(void **state) {
    (void)state;
    const PJRT_Profiler_Extension *extension_ = extension(PJRT_Extension_Type_Profiler);
    const PLUGIN_Profiler_Api *profiler = extension_->profiler_api;
    PJRT_Client *client = create();
    PJRT_LoadedExecutable *loaded = compile_x_plus_1(client);
    PLUGIN_Profiler_Create_Args made = {.struct_size = sizeof made};
    assert_null(profiler->create(&made));
    PLUGIN_Profiler_Args args = {.struct_size = sizeof args, .profiler = made.profiler};
    assert_null(profiler->start(&args));
    PJRT_Buffer *input = make_input(client), *output;
    succeeds(execute(loaded, NULL, input, &output));
    check_and_destroy_output(output);
    unload(loaded); /* the session keeps what it needs */
    PJRT_Buffer_Destroy_Args drop = {.struct_size = sizeof drop, .buffer = input};
    succeeds(GetPjrtApi()->PJRT_Buffer_Destroy(&drop));
    assert_null(profiler->stop(&args));
    PLUGIN_Profiler_CollectData_Args data = {.struct_size = sizeof data, .profiler = made.profiler};
    assert_null(profiler->collect_data(&data));
    assert_non_null(memmem(data.buffer, data.buffer_size_in_bytes, "NeuronCore 0", 12));
    uint8_t *copy = malloc(data.buffer_size_in_bytes + 1);
    PLUGIN_Profiler_CollectData_Args again = data;
    again.buffer = copy;
    assert_null(profiler->collect_data(&again));
    assert_memory_equal(copy, data.buffer, data.buffer_size_in_bytes);
    again.buffer_size_in_bytes--;
    PLUGIN_Profiler_Error *error = profiler->collect_data(&again);
    PLUGIN_Profiler_Error_GetCode_Args code = {.struct_size = sizeof code, .error = error};
    assert_null(profiler->error_get_code(&code));
    assert_int_equal(code.code, PJRT_Error_Code_INVALID_ARGUMENT);
    PLUGIN_Profiler_Error_Message_Args message = {.struct_size = sizeof message, .error = error};
    profiler->error_message(&message);
    assert_non_null(strstr(message.message, "room for"));
    PLUGIN_Profiler_Error_Destroy_Args forget_error = {.struct_size = sizeof forget_error,
                                                       .error = error};
    profiler->error_destroy(&forget_error);
    free(copy);
    assert_null(profiler->destroy(&args));
    destroy(client);
}

int main(void) {
    setenv("VTRN_CHIP", "trn1", 1); /* its smallest instance, whose cores no variable asks for */
    unsetenv("VTRN_INSTANCE");
    unsetenv("VTRN_CHIP");
    unsetenv("VTRN_PROFILE");
    unsetenv("NEURON_RT_NUM_CORES");
    unsetenv("NEURON_RT_VISIBLE_CORES");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_stub_names_itself),
        cmocka_unit_test(no_slot_is_empty),
        cmocka_unit_test(a_caller_with_older_structs_is_served_or_refused_but_never_overrun),
        cmocka_unit_test(unknown_client_options_are_named),
        cmocka_unit_test(the_number_of_cores_is_what_the_instance_has_at_most),
        cmocka_unit_test(a_program_that_is_no_artifact_is_refused),
        cmocka_unit_test(buffers_and_executables_outlive_their_client),
        cmocka_unit_test(a_device_of_another_client_is_refused),
        cmocka_unit_test(replicas_that_exchange_nothing_run_one_at_a_time),
        cmocka_unit_test(more_replicas_than_devices_are_refused),
        cmocka_unit_test(variables_choose_the_cores),
        cmocka_unit_test(cores_that_are_not_there_are_refused),
        cmocka_unit_test(several_processes_are_refused),
        cmocka_unit_test(threads_that_ask_for_the_cost_at_once_all_get_a_whole_answer),
        cmocka_unit_test(a_topology_is_read_back_as_it_was_written),
        cmocka_unit_test(what_is_compiled_for_a_topology_loads_in_a_client),
        cmocka_unit_test(extensions_have_the_size_and_the_functions_of_the_abi),
        cmocka_unit_test(a_default_layout_is_row_major_and_written_as_xla_prints_it),
        cmocka_unit_test(a_profiler_gives_its_trace_in_either_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
