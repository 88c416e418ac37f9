/* Running an executable on buffers: types are checked, donated inputs are consumed. */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

enum { N_ON_STACK = 48 };

/* One call's working memory, on the stack for small programs. */
typedef struct call_frame {
    runtime_memory **arguments; /* [n_inputs] held */
    runtime_memory **results;   /* [n_outputs] */
    bool *may_reuse;            /* [n_inputs] */
    runtime_memory *stack_memory[2 * N_ON_STACK];
    bool stack_flags[N_ON_STACK];
    void *heap;
} call_frame;

static vtrn_status frame_init(call_frame *f, int n_inputs, int n_outputs) {
    f->heap = NULL;
    f->arguments = f->stack_memory;
    f->may_reuse = f->stack_flags;
    if (n_inputs > N_ON_STACK || n_outputs > N_ON_STACK) {
        size_t n = (size_t)n_inputs + (size_t)n_outputs;
        f->heap = malloc(n * sizeof *f->arguments + (size_t)n_inputs * sizeof *f->may_reuse);
        if (!f->heap)
            return VTRN_OUT_OF_MEMORY(n * sizeof *f->arguments);
        f->arguments = f->heap;
        f->may_reuse = (bool *)(f->arguments + n);
    }
    f->results = f->arguments + n_inputs;
    return NULL;
}

static vtrn_status check_input(const vtrn_executable *e, int i, const vtrn_buffer *b) {
    if (!b)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: input %d is NULL", e->name, i);
    if (api_type_equal(&b->type, &e->inputs[i]))
        return NULL;
    char given[256], wanted[256];
    api_type_print(&b->type, given, sizeof given);
    api_type_print(&e->inputs[i], wanted, sizeof wanted);
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: input %d is %s, the program takes %s", e->name, i,
                      given, wanted);
}

static bool is_passed_twice(const call_frame *f, int n_inputs, int i) {
    for (int j = 0; j < n_inputs; j++)
        if (j != i && f->arguments[j] == f->arguments[i])
            return true;
    return false;
}

/* Holds every input. *n_held counts those to release, also on error. */
static vtrn_status hold_inputs(const vtrn_executable *e, vtrn_buffer *const *inputs,
                               const bool *keep, call_frame *f, int *n_held) {
    for (*n_held = 0; *n_held < e->n_inputs; ++*n_held) {
        int i = *n_held;
        VTRN_RETURN_IF_ERROR(check_input(e, i, inputs[i]));
        vtrn_status status = api_buffer_hold(inputs[i], &f->arguments[i]);
        if (status)
            return vtrn_status_annotate(status, "input %d of %s", i, e->name);
    }
    for (int i = 0; i < e->n_inputs; i++)
        f->may_reuse[i] = e->input_alias[i] >= 0 && !(keep && keep[i]) &&
                          inputs[i]->n_external == 0 && !is_passed_twice(f, e->n_inputs, i);
    return NULL;
}

static void consume_donated(const vtrn_executable *e, vtrn_buffer *const *inputs, const bool *keep,
                            const call_frame *f, bool has_failed) {
    for (int i = 0; i < e->n_inputs; i++) {
        bool is_donated = e->input_alias[i] != -1 && !(keep && keep[i]);
        if (has_failed ? f->may_reuse[i] : is_donated)
            api_buffer_delete(inputs[i], true);
    }
}

/* Shells for the outputs, made before the run so that nothing can fail after it. */
static vtrn_status make_shells(const vtrn_executable *e, int core_i, vtrn_buffer **outputs) {
    for (int o = 0; o < e->n_outputs; o++)
        outputs[o] = NULL;
    for (int o = 0; o < e->n_outputs; o++)
        VTRN_RETURN_IF_ERROR(
            api_buffer_wrap(e->device->rt, core_i, &e->outputs[o], NULL, &outputs[o]));
    return NULL;
}

static vtrn_status run_held(vtrn_executable *e, int core_i, vtrn_buffer *const *inputs,
                            const bool *keep, call_frame *f, vtrn_buffer **outputs) {
    vtrn_status status = make_shells(e, core_i, outputs);
    runtime_call call = {.core_i = core_i,
                         .arguments = f->arguments,
                         .may_reuse = f->may_reuse,
                         .outputs = f->results};
    if (!status) {
        status = runtime_execute(e->loaded, &call);
        if (call.has_written)
            consume_donated(e, inputs, keep, f, status != NULL);
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
    if (n_inputs != e->n_inputs || n_outputs != e->n_outputs)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: %d inputs and room for %d outputs given, it takes %d and gives %d",
                          e->name, n_inputs, n_outputs, e->n_inputs, e->n_outputs);
    call_frame f;
    VTRN_RETURN_IF_ERROR(frame_init(&f, n_inputs, n_outputs));
    int n_held = 0;
    vtrn_status status = hold_inputs(e, inputs, keep, &f, &n_held);
    if (!status)
        status = run_held(executable, core_i, inputs, keep, &f, outputs);
    for (int i = 0; i < n_held; i++)
        runtime_memory_release(f.arguments[i]);
    free(f.heap);
    return status;
}
