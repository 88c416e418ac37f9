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

/* What a call works on, of one rank; its lists are on the stack for small programs. */
typedef struct call_frame {
    int core_i;
    uint32_t rank;
    runtime_call *call;
    vtrn_buffer *const *inputs; /* the caller's */
    vtrn_buffer **outputs;
    int n_held;                 /* inputs to release */
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
    copy->lacks_values = (*m)->lacks_values;
    if (size && !copy->lacks_values)
        memcpy(copy->host, (*m)->host, size);
    runtime_memory_release(*m);
    *m = copy;
    return NULL;
}

/* Holds every input, those on the host as copies. */
static vtrn_status hold_inputs(const vtrn_executable *e, call_frame *f) {
    vtrn_buffer *const *inputs = f->inputs;
    for (f->n_held = 0; f->n_held < e->n_inputs;) {
        int i = f->n_held;
        VTRN_RETURN_IF_ERROR(check_input(e, i, inputs[i]));
        vtrn_status status = api_buffer_hold(inputs[i], &f->arguments[i]);
        if (!status) {
            f->n_held++;
            if (inputs[i]->place == API_ON_HOST)
                status = move_memory(e, f->core_i, API_IN_HBM, &f->arguments[i]);
        }
        if (status)
            return vtrn_status_annotate(status, "input %d of %s", i, e->name);
    }
    return NULL;
}

/* From here on nobody else can get hold of a donated input. Who has it already, another thread or
 * another argument of this call, keeps what it sees: then the program works on a copy. */
static void take_donated(const vtrn_executable *e, const bool *keep, call_frame *f) {
    vtrn_buffer *const *inputs = f->inputs;
    for (int i = 0; i < e->n_inputs; i++) {
        bool is_donated = e->input_alias[i] != -1 && !(keep && keep[i]), is_alone = false;
        f->is_taken[i] = is_donated && api_buffer_take(inputs[i], f->arguments[i], &is_alone);
        f->may_reuse[i] = is_alone && e->input_alias[i] >= 0;
    }
}

/* Consumes what was taken; after a failure only what the program may have written to. */
static void settle_donated(const vtrn_executable *e, const call_frame *f, bool has_failed,
                           bool has_written) {
    vtrn_buffer *const *inputs = f->inputs;
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
static void delete_donated_on_host(const vtrn_executable *e, const bool *keep,
                                   const call_frame *f) {
    vtrn_buffer *const *inputs = f->inputs;
    for (int i = 0; i < e->n_inputs; i++)
        if (inputs[i]->place == API_ON_HOST && e->input_alias[i] != -1 && !(keep && keep[i]))
            api_buffer_delete(inputs[i]);
}

/* Outputs that belong on the host. */
static vtrn_status move_outputs(const vtrn_executable *e, call_frame *f) {
    for (int o = 0; o < e->n_outputs; o++) {
        if (e->output_place[o] == API_IN_HBM)
            continue;
        VTRN_RETURN_IF_ERROR(move_memory(e, f->core_i, API_ON_HOST, &f->results[o]));
        f->outputs[o]->place = API_ON_HOST;
    }
    return NULL;
}

/* Shells for the outputs, made before the run so that nothing can fail after it. */
static vtrn_status make_shells(const vtrn_executable *e, call_frame *f) {
    for (int o = 0; o < e->n_outputs; o++)
        VTRN_RETURN_IF_ERROR(
            api_buffer_wrap(e->device->rt, f->core_i, &e->outputs[o], NULL, &f->outputs[o]));
    return NULL;
}

/* The outputs get what the run gave, or are none. */
static void settle_outputs(const vtrn_executable *e, call_frame *f, bool has_results,
                           bool has_failed) {
    for (int o = 0; o < e->n_outputs; o++) {
        if (!has_failed) {
            f->outputs[o]->memory = f->results[o];
            continue;
        }
        if (has_results)
            runtime_memory_release(f->results[o]);
        vtrn_buffer_destroy(f->outputs[o]);
        f->outputs[o] = NULL;
    }
}

static vtrn_status execute_calls(vtrn_executable *e, runtime_call *calls, int n) {
    fenv_t outside;
    float_env_enter(&outside);
    vtrn_status status = n == 1 ? runtime_execute(e->loaded, calls)
                                : runtime_execute_ranks(e->loaded, calls, (uint32_t)n);
    float_env_leave(&outside);
    return status;
}

/* What a call takes of its frame. */
static void fill_call(const call_frame *f) {
    *f->call = (runtime_call){.core_i = f->core_i,
                              .rank = f->rank,
                              .arguments = f->arguments,
                              .may_reuse = f->may_reuse,
                              .outputs = f->results};
}

/* The calls of all ranks, and the frames of those that run in this process. */
typedef struct call_list {
    call_frame *frames;
    runtime_call *calls;
    int n_frames, n_calls;
} call_list;

/* What the run gave is not given out when it read what nothing wrote. */
static vtrn_status run_held(vtrn_executable *e, const call_list *l, const bool *keep) {
    call_frame *frames = l->frames;
    const int n = l->n_frames;
    vtrn_status status = NULL;
    for (int r = 0; r < n && !status; r++)
        status = make_shells(e, &frames[r]);
    bool has_results = false, is_ready = !status;
    for (int r = 0; r < n && is_ready; r++) {
        take_donated(e, keep, &frames[r]);
        fill_call(&frames[r]);
    }
    if (is_ready) {
        uint64_t start_ns = api_session_is_listening() ? api_session_now_ns() : 0;
        status = execute_calls(e, l->calls, l->n_calls);
        has_results = !status;
        for (int r = 0; r < n && !status && start_ns; r++)
            api_session_note(e, frames[r].core_i, start_ns, frames[r].call->timing_i);
        if (!status && e->device->is_checking)
            status = api_check_last_run(e);
    }
    for (int r = 0; r < n && is_ready; r++) {
        settle_donated(e, &frames[r], status != NULL, frames[r].call->has_written);
        if (status)
            continue;
        delete_donated_on_host(e, keep, &frames[r]);
        status = move_outputs(e, &frames[r]);
    }
    for (int r = 0; r < n; r++)
        settle_outputs(e, &frames[r], has_results, status != NULL);
    return status;
}

static vtrn_status check_execute(const vtrn_executable *e, int n_inputs, int n_outputs) {
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
    return NULL;
}

/* Frames: core, rank, call, inputs and outputs are set. */
static vtrn_status execute_frames(vtrn_executable *e, const call_list *l, const bool *keep) {
    vtrn_status status = NULL;
    int n_ready = 0;
    for (; n_ready < l->n_frames && !status; n_ready++)
        status = frame_init(&l->frames[n_ready], e->n_inputs, e->n_outputs);
    n_ready -= status != NULL;
    for (int r = 0; r < l->n_frames && !status; r++)
        status = hold_inputs(e, &l->frames[r]);
    is_executing = true;
    if (!status)
        status = run_held(e, l, keep);
    is_executing = false;
    for (int r = 0; r < n_ready; r++) {
        for (int i = 0; i < l->frames[r].n_held; i++)
            runtime_memory_release(l->frames[r].arguments[i]);
        free(l->frames[r].heap);
    }
    if (vtrn_status_category(status) == VTRN_INTERRUPTED)
        process_has_stopped();
    return status;
}

vtrn_status vtrn_execute(vtrn_executable *executable, int core_i, vtrn_buffer *const *inputs,
                         int n_inputs, const bool *keep, vtrn_buffer **outputs, int n_outputs) {
    for (int o = 0; o < n_outputs; o++)
        outputs[o] = NULL;
    VTRN_RETURN_IF_ERROR(check_execute(executable, n_inputs, n_outputs));
    call_frame frame;
    runtime_call call;
    frame.core_i = core_i;
    frame.rank = 0;
    frame.call = &call;
    frame.inputs = inputs;
    frame.outputs = outputs;
    frame.n_held = 0;
    return execute_frames(executable, &(call_list){&frame, &call, 1, 1}, keep);
}

int vtrn_executable_n_ranks(const vtrn_executable *executable) {
    return (int)program_n_ranks(executable->loaded->program);
}

/* Frames of the ranks that have inputs here. */
static vtrn_status fill_list(const vtrn_executable *e, const vtrn_rank *ranks, call_list *l) {
    const runtime_device *rt = e->device->rt;
    for (int r = 0; r < l->n_calls; r++) {
        const int core_i = ranks[r].core_i;
        l->calls[r] = (runtime_call){.core_i = core_i, .rank = (uint32_t)r, .timing_i = -1};
        bool is_elsewhere =
            core_i >= 0 && core_i < rt->n_cores && runtime_core_is_remote(rt, core_i);
        if (is_elsewhere != !ranks[r].outputs)
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "%s: rank %d, on core %d of %s, has %s outputs; a rank has inputs and "
                "outputs in the process of its core alone",
                e->name, r, core_i, is_elsewhere ? "another process" : "this process",
                is_elsewhere ? "" : "no");
        if (is_elsewhere)
            continue;
        call_frame *f = &l->frames[l->n_frames++];
        f->core_i = core_i;
        f->rank = (uint32_t)r;
        f->call = &l->calls[r];
        f->inputs = ranks[r].inputs;
        f->outputs = ranks[r].outputs;
    }
    return NULL;
}

vtrn_status vtrn_execute_ranks(vtrn_executable *executable, const vtrn_rank *ranks, int n_ranks,
                               const bool *keep) {
    const vtrn_executable *e = executable;
    for (int r = 0; r < n_ranks; r++)
        if (ranks[r].outputs)
            memset(ranks[r].outputs, 0, (size_t)e->n_outputs * sizeof(vtrn_buffer *));
    VTRN_RETURN_IF_ERROR(check_execute(e, e->n_inputs, e->n_outputs));
    if (n_ranks < 1)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: %d ranks; it has %d", e->name, n_ranks,
                          vtrn_executable_n_ranks(e));
    call_list l = {.frames = calloc((size_t)n_ranks, sizeof *l.frames),
                   .calls = calloc((size_t)n_ranks, sizeof *l.calls),
                   .n_calls = n_ranks};
    vtrn_status status = NULL;
    if (!l.frames || !l.calls)
        status = VTRN_OUT_OF_MEMORY((size_t)n_ranks * sizeof *l.frames);
    if (!status)
        status = fill_list(e, ranks, &l);
    if (!status)
        status = execute_frames(executable, &l, keep);
    free(l.frames);
    free(l.calls);
    return status;
}
