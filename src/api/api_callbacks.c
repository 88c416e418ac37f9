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
    VTRN_RETURN_IF_ERROR(compile_hold_callbacks(e->loaded->program, 1));
    e->holds_callbacks = true;
    return NULL;
}
