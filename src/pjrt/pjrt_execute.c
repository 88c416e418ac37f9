/* Execute: PJRT's argument lists to the C API and back. */
#include "pjrt/plugin.h"

#include <stdlib.h>
#include <string.h>

/* What the ranks of a call take and give, in the API's handles. */
typedef struct execute_frame {
    vtrn_rank *ranks; /* [n_ranks] those of other processes have no buffers */
    size_t n_ranks;
    PJRT_Device *const *devices; /* [n_ranks] */
    bool *keep;                  /* [n_inputs] */
    void *heap;
} execute_frame;

static bool frame_init(execute_frame *f, size_t n_ranks, size_t n_inputs, size_t n_outputs) {
    size_t n = n_inputs + n_outputs;
    f->heap = calloc(1, n_ranks * (sizeof *f->ranks + n * sizeof(vtrn_buffer *)) + n_inputs + 1);
    if (!f->heap)
        return false;
    f->ranks = f->heap;
    f->n_ranks = n_ranks;
    vtrn_buffer **buffers = (vtrn_buffer **)(f->ranks + n_ranks);
    for (size_t r = 0; r < n_ranks; r++, buffers += n) {
        f->ranks[r].core_i = f->devices[r]->core_i;
        if (!f->devices[r]->is_own)
            continue;
        f->ranks[r].inputs = buffers;
        f->ranks[r].outputs = buffers + n_inputs;
    }
    f->keep = (bool *)buffers;
    return true;
}

static PJRT_Error *check_call(const PJRT_LoadedExecutable_Execute_Args *args) {
    if (atomic_load(&args->executable->is_deleted))
        return plugin_error_make(PJRT_Error_Code_FAILED_PRECONDITION,
                                 "bad argument: the executable has been deleted");
    const size_t n_own = args->executable->executable->n_own;
    if (args->num_devices != n_own && args->num_devices != 1)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: %zu devices in one call; the executable runs on "
                                 "%zu of this process",
                                 args->num_devices, n_own);
    const PJRT_ExecuteOptions *o = args->options;
    if (o && ARGS_HAVE(o, num_recv_ops) && (o->num_send_ops || o->num_recv_ops))
        return plugin_error_make(PJRT_Error_Code_UNIMPLEMENTED,
                                 "unimplemented: send and recv callbacks of Execute");
    size_t n_inputs = (size_t)args->executable->executable->executable->n_inputs;
    if (args->num_args != n_inputs && args->num_devices)
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
static PJRT_Error *check_donated(const PJRT_LoadedExecutable_Execute_Args *args, size_t rank,
                                 const bool *keep) {
    static atomic_uint_fast64_t n_calls;
    const int *alias = args->executable->executable->executable->input_alias;
    PJRT_Buffer *const *inputs = args->argument_lists ? args->argument_lists[rank] : NULL;
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

/* Handles around the outputs of the ranks here. */
static PJRT_Error *give_outputs(PJRT_LoadedExecutable_Execute_Args *args, const execute_frame *f) {
    size_t n = (size_t)args->executable->executable->executable->n_outputs;
    PJRT_Error *error = NULL;
    size_t n_given = 0, own = 0;
    for (size_t r = 0; n && r < f->n_ranks; r++) {
        if (!f->devices[r]->is_own)
            continue;
        PJRT_Buffer **out = args->output_lists[own++];
        if (error)
            for (size_t i = 0; i < n; i++)
                vtrn_buffer_destroy(f->ranks[r].outputs[i]);
        else if (!(error = wrap_outputs(f->devices[r], f->ranks[r].outputs, n, out)))
            n_given++;
    }
    for (size_t r = 0; error && r < n_given; r++)
        destroy_all(args->output_lists[r], n);
    return error;
}

/* A callback that fails is an error of the call, as on XLA's CPU: the program runs in it. */
static PJRT_Error *run(PJRT_LoadedExecutable_Execute_Args *args, execute_frame *f) {
    vtrn_executable *e = args->executable->executable->executable;
    const vtrn_rank *first = &f->ranks[0];
    if (f->n_ranks == 1)
        PLUGIN_RETURN_IF_ERROR(vtrn_execute(e, first->core_i, first->inputs, e->n_inputs, f->keep,
                                            first->outputs, e->n_outputs));
    else
        PLUGIN_RETURN_IF_ERROR(vtrn_execute_ranks(e, f->ranks, (int)f->n_ranks, f->keep));
    PJRT_Error *error = give_outputs(args, f);
    for (size_t r = 0; !error && args->device_complete_events && r < args->num_devices; r++)
        args->device_complete_events[r] = plugin_ready_event();
    return error;
}

static PJRT_Error *fill_frame(const PJRT_LoadedExecutable_Execute_Args *args, execute_frame *f) {
    size_t own = 0;
    read_keep(args->options, args->num_args, f->keep);
    for (size_t r = 0; r < f->n_ranks; r++) {
        if (!f->devices[r]->is_own)
            continue;
        vtrn_buffer **inputs = (vtrn_buffer **)f->ranks[r].inputs; /* the frame's own */
        PJRT_Error *error = NULL;
        for (size_t i = 0; i < args->num_args && !error; i++) {
            inputs[i] = args->argument_lists[own][i]->buffer;
            error = plugin_buffer_await(args->argument_lists[own][i]);
        }
        if (!error)
            error = check_donated(args, own, f->keep);
        if (error)
            return error;
        own++;
    }
    return NULL;
}

PJRT_Error *PJRT_LoadedExecutable_Execute(PJRT_LoadedExecutable_Execute_Args *args) {
    ARGS_REQUIRE(args, device_complete_events);
    PJRT_Error *error = check_call(args);
    if (error || !args->num_devices) /* of a program that runs on other processes' cores alone */
        return error;
    PJRT_Executable *e = args->executable->executable;
    execute_frame f = {.devices = e->devices};
    size_t n_inputs = args->num_args, n_outputs = (size_t)e->executable->n_outputs;
    size_t n_ranks = e->n_ranks;
    if (args->num_devices == 1 && e->n_own != 1) /* one rank of several, where they do not meet */
        n_ranks = 1;
    if (ARGS_HAVE(args, execute_device) && args->execute_device && n_ranks == 1)
        f.devices = &args->execute_device;
    if (f.devices[0]->client != e->client)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: the device belongs to another client than the "
                                 "executable");
    if (n_ranks == 1 && !f.devices[0]->is_own)
        return plugin_error_make(PJRT_Error_Code_INVALID_ARGUMENT,
                                 "bad argument: device %d belongs to process %d, and only that "
                                 "one runs programs on it",
                                 f.devices[0]->description.id, f.devices[0]->description.process_i);
    if (!frame_init(&f, n_ranks, n_inputs, n_outputs))
        return plugin_error(VTRN_OUT_OF_MEMORY((n_inputs + n_outputs) * sizeof(void *)));
    error = fill_frame(args, &f);
    if (!error)
        error = run(args, &f);
    free(f.heap);
    return error;
}
