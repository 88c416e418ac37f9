/* Execute: PJRT's argument lists to the C API and back. */
#include "pjrt/plugin.h"

#include <stdlib.h>
#include <string.h>

enum { N_ON_STACK = 96 };

typedef struct execute_frame {
    vtrn_buffer **inputs, **outputs;
    bool *keep;
    vtrn_buffer *stack_buffers[2 * N_ON_STACK];
    bool stack_keep[N_ON_STACK];
    void *heap;
} execute_frame;

static bool frame_init(execute_frame *f, size_t n_inputs, size_t n_outputs) {
    f->heap = NULL;
    f->inputs = f->stack_buffers;
    f->keep = f->stack_keep;
    if (n_inputs > N_ON_STACK || n_outputs > N_ON_STACK) {
        f->heap = malloc((n_inputs + n_outputs) * sizeof *f->inputs + n_inputs);
        if (!f->heap)
            return false;
        f->inputs = f->heap;
        f->keep = (bool *)(f->inputs + n_inputs + n_outputs);
    }
    f->outputs = f->inputs + n_inputs;
    memset(f->keep, 0, n_inputs * sizeof *f->keep);
    return true;
}

static PJRT_Error *check_call(const PJRT_LoadedExecutable_Execute_Args *args) {
    if (atomic_load(&args->executable->is_deleted))
        return plugin_error_make(PJRT_Error_Code_FAILED_PRECONDITION,
                                 "bad argument: the executable has been deleted");
    if (args->num_devices != 1)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %zu devices in one call; an executable runs on one "
                                 "at a time: call it for each of them",
                                 args->num_devices);
    const PJRT_ExecuteOptions *o = args->options;
    if (o && ARGS_HAVE(o, num_recv_ops) && (o->num_send_ops || o->num_recv_ops))
        return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                                 "unimplemented: send and recv callbacks of Execute");
    size_t n_inputs = (size_t)args->executable->executable->executable->n_inputs;
    if (args->num_args != n_inputs)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %zu arguments, the executable takes %zu",
                                 args->num_args, n_inputs);
    return NULL;
}

static void read_keep(const PJRT_ExecuteOptions *o, size_t n_inputs, bool *keep) {
    if (!o || !ARGS_HAVE(o, num_non_donatable_input_indices))
        return;
    for (size_t i = 0; i < o->num_non_donatable_input_indices; i++) {
        int64_t index = o->non_donatable_input_indices[i];
        if (index >= 0 && (size_t)index < n_inputs)
            keep[index] = true;
    }
}

/* Refuses a buffer that the call donates and takes once more, as XLA does: one of the two would see
 * what the program made of it. Each donated buffer remembers the number of the call. */
static PJRT_Error *check_donated(const PJRT_LoadedExecutable_Execute_Args *args, const bool *keep) {
    static atomic_uint_fast64_t n_calls;
    const int *alias = args->executable->executable->executable->input_alias;
    PJRT_Buffer *const *inputs = args->argument_lists ? args->argument_lists[0] : NULL;
    uint64_t call = atomic_fetch_add_explicit(&n_calls, 1, memory_order_relaxed) + 1;
    bool is_twice = false;
    size_t at = 0, n_donated = 0;
    for (size_t i = 0; i < args->num_args && !is_twice; i++) {
        if (alias[i] == -1 || keep[i])
            continue;
        at = i;
        n_donated++;
        is_twice = atomic_exchange_explicit(&inputs[i]->donor, call, memory_order_relaxed) == call;
    }
    for (size_t i = 0; n_donated && i < args->num_args && !is_twice; i++) {
        if (alias[i] != -1 && !keep[i])
            continue;
        at = i;
        is_twice = atomic_load_explicit(&inputs[i]->donor, memory_order_relaxed) == call;
    }
    if (!is_twice)
        return NULL;
    return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                             "bad argument: argument %zu is a buffer that another argument of the "
                             "same call donates; pass a copy, or do not donate it",
                             at);
}

static void destroy_all(PJRT_Buffer **buffers, size_t n) {
    for (size_t i = 0; i < n; i++) {
        PJRT_Buffer_Destroy_Args destroy = {.struct_size = sizeof destroy, .buffer = buffers[i]};
        PJRT_Buffer_Destroy(&destroy);
        buffers[i] = NULL;
    }
}

/* Handles around the outputs; when one cannot be had, none is given. */
static PJRT_Error *wrap_outputs(PJRT_Device *device, vtrn_buffer **buffers, size_t n,
                                PJRT_Buffer **out) {
    PJRT_Error *error = NULL;
    for (size_t i = 0; i < n; i++) {
        out[i] = NULL;
        if (error)
            vtrn_buffer_destroy(buffers[i]);
        else
            error = plugin_buffer_wrap(device, buffers[i], &out[i]);
    }
    if (error)
        destroy_all(out, n);
    return error;
}

/* A callback that fails is an error of the call, as on XLA's CPU: the program runs in it. */
static PJRT_Error *run(PJRT_LoadedExecutable_Execute_Args *args, PJRT_Device *device,
                       execute_frame *f) {
    vtrn_executable *e = args->executable->executable->executable;
    PLUGIN_RETURN_IF_ERROR(
        vtrn_execute(e, device->core_i, f->inputs, e->n_inputs, f->keep, f->outputs, e->n_outputs));
    if (e->n_outputs) {
        PJRT_Error *error =
            wrap_outputs(device, f->outputs, (size_t)e->n_outputs, args->output_lists[0]);
        if (error)
            return error;
    }
    if (args->device_complete_events)
        args->device_complete_events[0] = plugin_ready_event();
    return NULL;
}

PJRT_Error *PJRT_LoadedExecutable_Execute(PJRT_LoadedExecutable_Execute_Args *args) {
    ARGS_REQUIRE(args, device_complete_events);
    PJRT_Error *error = check_call(args);
    if (error)
        return error;
    PJRT_Executable *e = args->executable->executable;
    PJRT_Device *device = e->devices[0];
    if (ARGS_HAVE(args, execute_device) && args->execute_device)
        device = args->execute_device;
    if (device->client != e->client)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: the device belongs to another client than the "
                                 "executable");
    size_t n_inputs = args->num_args, n_outputs = (size_t)e->executable->n_outputs;
    execute_frame f;
    if (!frame_init(&f, n_inputs, n_outputs))
        return plugin_error(VTRN_OUT_OF_MEMORY((n_inputs + n_outputs) * sizeof(void *)));
    for (size_t i = 0; i < n_inputs; i++)
        f.inputs[i] = args->argument_lists[0][i]->buffer;
    read_keep(args->options, n_inputs, f.keep);
    error = check_donated(args, f.keep);
    if (!error)
        error = run(args, device, &f);
    free(f.heap);
    return error;
}
