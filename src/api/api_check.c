/* The checker behind the API: on request, and for everything while VTRN_CHECK is set. */
#include "api/api.h"
#include "check/check.h"

vtrn_status api_check_program(const vtrn_executable *e) {
    return check_hazards(e->loaded->program, &e->loaded->plan);
}

vtrn_status api_check_last_run(const vtrn_executable *e) {
    runtime_program *l = e->loaded;
    pthread_mutex_lock(&l->device->run_lock);
    runtime_timing *run = l->last_timing < 0 ? NULL : &l->timings[l->last_timing];
    vtrn_status status = NULL;
    if (run && !run->is_checked)
        status = check_reads(l->program, &l->device->chip, &l->plan, run->trace, run->n);
    if (run && !status)
        run->is_checked = true;
    pthread_mutex_unlock(&l->device->run_lock);
    return status;
}

vtrn_status vtrn_executable_check(const vtrn_executable *executable) {
    VTRN_RETURN_IF_ERROR(api_check_program(executable));
    return api_check_last_run(executable);
}
