/* What the host does while a program runs: callbacks, and the question whether to stop. */
#include "api/api.h"

#include "base/process.h"
#include "compiler/reference/host_callback.h"

void vtrn_host_callbacks_set(const vtrn_host_callbacks *callbacks) {
    host_callbacks own = {0};
    if (callbacks)
        own = (host_callbacks){
            .ctx = callbacks->ctx, .call = callbacks->call, .hold = callbacks->hold};
    compile_set_callbacks(callbacks ? &own : NULL);
}

void vtrn_interrupt_set(bool (*is_asked)(void *ctx), void (*has_stopped)(void *ctx), void *ctx) {
    process_set_interrupt(is_asked, has_stopped, ctx);
}

vtrn_status api_hold_callbacks(vtrn_executable *e) {
    const vtrn_program *p = e->loaded->program;
    bool has_any = false;
    for (uint32_t i = 0; i < p->n_customs && !has_any; i++)
        has_any = program_is_callback(&p->customs[i]);
    if (has_any)
        VTRN_RETURN_IF_ERROR(compile_hold_callbacks(p, 1));
    e->holds_callbacks = has_any;
    return NULL;
}
