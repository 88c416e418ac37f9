/* Running an executable on buffers: types are checked, donated inputs are consumed. */
#include "api/api.h"

#include "base/float_env.h"
#include "base/process.h"

#include <stdlib.h>
#include <string.h>

enum { N_ON_STACK = 48 };

static _Thread_local bool is_executing;

bool api_is_executing(void) {
    return is_executing;
}

/* One call's working memory, on the stack for small programs. */
typedef struct call_frame {
    runtime_memory **arguments; /* [n_inputs] held */
    runtime_memory **results;   /* [n_outputs] */
    bool *is_taken;             /* [n_inputs] donated: the buffer's own reference is here */
    bool *may_reuse;            /* [n_inputs] taken, and nobody else has it */
    runtime_memory *stack_memory[2 * N_ON_STACK];
    bool stack_flags[2 * N_ON_STACK];
    void *heap;
} call_frame;

static vtrn_status frame_init(call_frame *f, int n_inputs, int n_outputs) {
    f->heap = NULL;
    f->arguments = f->stack_memory;
    f->is_taken = f->stack_flags;
    if (n_inputs > N_ON_STACK || n_outputs > N_ON_STACK) {
        size_t n = (size_t)n_inputs + (size_t)n_outputs;
        f->heap = malloc(n * sizeof *f->arguments + 2 * (size_t)n_inputs * sizeof *f->is_taken);
        if (!f->heap)
            return VTRN_OUT_OF_MEMORY(n * sizeof *f->arguments);
        f->arguments = f->heap;
        f->is_taken = (bool *)(f->arguments + n);
    }
    f->may_reuse = f->is_taken + n_inputs;
    f->results = f->arguments + n_inputs;
    return NULL;
}

static vtrn_status check_input(const vtrn_executable *e, int i, const vtrn_buffer *b) {
    if (!b)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: input %d is NULL; create a buffer for it",
                          e->name, i);
    if (api_type_equal(&b->type, &e->inputs[i]))
        return NULL;
    char given[256], wanted[256];
    api_type_print(&b->type, given, sizeof given);
    api_type_print(&e->inputs[i], wanted, sizeof wanted);
    return VTRN_ERROR(
        VTRN_BAD_ARGUMENT,
        "%s: input %d is %s, the program takes %s; convert or reshape it, or compile for that type",
        e->name, i, given, wanted);
}

/* Puts a copy in the other memory in the place of *m, whose reference it takes. */
static vtrn_status move_memory(const vtrn_executable *e, int core_i, api_place to,
                               runtime_memory **m) {
    runtime_memory *copy = NULL;
    uint64_t size = (*m)->size_bytes;
    VTRN_RETURN_IF_ERROR(to == API_ON_HOST
                             ? runtime_host_memory_create(e->device->rt, core_i, size, &copy)
                             : runtime_memory_create(e->device->rt, core_i, size, &copy));
    if (size)
        memcpy(copy->host, (*m)->host, size);
    runtime_memory_release(*m);
    *m = copy;
    return NULL;
}

/* Holds every input, those on the host as copies. *n_held counts those to release, also on error.
 */
static vtrn_status hold_inputs(const vtrn_executable *e, int core_i, vtrn_buffer *const *inputs,
                               call_frame *f, int *n_held) {
    for (*n_held = 0; *n_held < e->n_inputs;) {
        int i = *n_held;
        VTRN_RETURN_IF_ERROR(check_input(e, i, inputs[i]));
        vtrn_status status = api_buffer_hold(inputs[i], &f->arguments[i]);
        if (!status) {
            ++*n_held;
            if (inputs[i]->place == API_ON_HOST)
                status = move_memory(e, core_i, API_IN_HBM, &f->arguments[i]);
        }
        if (status)
            return vtrn_status_annotate(status, "input %d of %s", i, e->name);
    }
    return NULL;
}

/* From here on nobody else can get hold of a donated input. Who has it already, another thread or
 * another argument of this call, keeps what it sees: then the program works on a copy. */
static void take_donated(const vtrn_executable *e, vtrn_buffer *const *inputs, const bool *keep,
                         call_frame *f) {
    for (int i = 0; i < e->n_inputs; i++) {
        bool is_donated = e->input_alias[i] != -1 && !(keep && keep[i]), is_alone = false;
        f->is_taken[i] = is_donated && api_buffer_take(inputs[i], f->arguments[i], &is_alone);
        f->may_reuse[i] = is_alone && e->input_alias[i] >= 0;
    }
}

/* Consumes what was taken; after a failure only what the program may have written to. */
static void settle_donated(const vtrn_executable *e, vtrn_buffer *const *inputs,
                           const call_frame *f, bool has_failed, bool has_written) {
    for (int i = 0; i < e->n_inputs; i++) {
        if (!f->is_taken[i])
            continue;
        if (has_failed && !(has_written && f->may_reuse[i]))
            api_buffer_give_back(inputs[i], f->arguments[i]);
        else
            runtime_memory_release(f->arguments[i]);
    }
}

/* What was donated on the host is given up: the program worked on a copy. */
static void delete_donated_on_host(const vtrn_executable *e, vtrn_buffer *const *inputs,
                                   const bool *keep) {
    for (int i = 0; i < e->n_inputs; i++)
        if (inputs[i]->place == API_ON_HOST && e->input_alias[i] != -1 && !(keep && keep[i]))
            api_buffer_delete(inputs[i]);
}

/* Outputs that belong on the host; on error, no output has memory. */
static vtrn_status move_outputs(const vtrn_executable *e, int core_i, call_frame *f,
                                vtrn_buffer **outputs) {
    vtrn_status status = NULL;
    for (int o = 0; o < e->n_outputs && !status; o++) {
        if (e->output_place[o] == API_IN_HBM)
            continue;
        status = move_memory(e, core_i, API_ON_HOST, &f->results[o]);
        outputs[o]->place = API_ON_HOST;
    }
    for (int o = 0; status && o < e->n_outputs; o++)
        runtime_memory_release(f->results[o]);
    return status;
}

/* Shells for the outputs, made before the run so that nothing can fail after it. */
static vtrn_status make_shells(const vtrn_executable *e, int core_i, vtrn_buffer **outputs) {
    for (int o = 0; o < e->n_outputs; o++)
        VTRN_RETURN_IF_ERROR(
            api_buffer_wrap(e->device->rt, core_i, &e->outputs[o], NULL, &outputs[o]));
    return NULL;
}

/* What the run gave is not given out when it read what nothing wrote. */
static vtrn_status check_run(const vtrn_executable *e, const call_frame *f) {
    vtrn_status status = api_check_last_run(e);
    for (int o = 0; status && o < e->n_outputs; o++)
        runtime_memory_release(f->results[o]);
    return status;
}

static vtrn_status run_held(vtrn_executable *e, int core_i, vtrn_buffer *const *inputs,
                            const bool *keep, call_frame *f, vtrn_buffer **outputs) {
    vtrn_status status = make_shells(e, core_i, outputs);
    runtime_call call = {.core_i = core_i,
                         .arguments = f->arguments,
                         .may_reuse = f->may_reuse,
                         .outputs = f->results};
    if (!status) {
        take_donated(e, inputs, keep, f);
        uint64_t start_ns = api_session_is_listening() ? api_session_now_ns() : 0;
        fenv_t outside;
        float_env_enter(&outside);
        status = runtime_execute(e->loaded, &call);
        float_env_leave(&outside);
        if (!status && start_ns)
            api_session_note(e, core_i, start_ns, call.timing_i);
        if (!status && e->device->is_checking)
            status = check_run(e, f);
        settle_donated(e, inputs, f, status != NULL, call.has_written);
        if (!status) {
            delete_donated_on_host(e, inputs, keep);
            status = move_outputs(e, core_i, f, outputs);
        }
    }
    for (int o = 0; o < e->n_outputs; o++) {
        if (!status) {
            outputs[o]->memory = f->results[o];
        } else {
            vtrn_buffer_destroy(outputs[o]);
            outputs[o] = NULL;
        }
    }
    return status;
}

vtrn_status vtrn_execute(vtrn_executable *executable, int core_i, vtrn_buffer *const *inputs,
                         int n_inputs, const bool *keep, vtrn_buffer **outputs, int n_outputs) {
    const vtrn_executable *e = executable;
    for (int o = 0; o < n_outputs; o++)
        outputs[o] = NULL;
    VTRN_RETURN_IF_ERROR(runtime_device_check_process(e->device->rt));
    if (compile_is_in_callback())
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "%s: a callback cannot run a program on a device, while the program that "
                          "calls it stands still; compute on the host, with NumPy or under "
                          "jax.default_device(jax.devices(\"cpu\")[0])",
                          e->name);
    if (n_inputs != e->n_inputs || n_outputs != e->n_outputs)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: %d inputs and room for %d outputs given, it takes %d and gives %d; "
                          "pass arrays of these lengths",
                          e->name, n_inputs, n_outputs, e->n_inputs, e->n_outputs);
    call_frame f;
    VTRN_RETURN_IF_ERROR(frame_init(&f, n_inputs, n_outputs));
    int n_held = 0;
    vtrn_status status = hold_inputs(e, core_i, inputs, &f, &n_held);
    is_executing = true;
    if (!status)
        status = run_held(executable, core_i, inputs, keep, &f, outputs);
    is_executing = false;
    for (int i = 0; i < n_held; i++)
        runtime_memory_release(f.arguments[i]);
    free(f.heap);
    if (vtrn_status_category(status) == VTRN_INTERRUPTED)
        process_has_stopped();
    return status;
}
