/* Callbacks: functions of the host that programs call. */
#include "api/api.h"

#include "compiler/reference/host_callback.h"

void vtrn_host_callbacks_set(const vtrn_host_callbacks *callbacks) {
    host_callbacks own = {0};
    if (callbacks)
        own = (host_callbacks){
            .ctx = callbacks->ctx, .call = callbacks->call, .hold = callbacks->hold};
    compile_set_callbacks(callbacks ? &own : NULL);
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
