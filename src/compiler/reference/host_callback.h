/* Calls of the host: functions of the process that a program calls while it runs. A custom_call to
 * VTRN_CALLBACK_NAME names one by a number, in decimal, in its backend_config. */
#ifndef VTRN_COMPILER_REFERENCE_HOST_CALLBACK_H
#define VTRN_COMPILER_REFERENCE_HOST_CALLBACK_H

#include "compiler/graph/graph.h"

/* Who runs callbacks: as vtrn_host_callbacks of vtrn.h. */
typedef struct host_callbacks {
    void *ctx;
    int (*call)(void *ctx, uint64_t id, const void *const *inputs, void *const *outputs,
                char *message, size_t message_size);
    int (*hold)(void *ctx, uint64_t id, int change);
} host_callbacks;

/* One set for the process; NULL: callbacks are refused. */
void host_callbacks_set(const host_callbacks *callbacks);

/* Adds `change`, 1 or -1, to the executables that call what the op calls. UNSUPPORTED when the
 * callback is unknown here, or when the process has no callbacks at all. */
vtrn_status host_callback_hold(const graph_op *op, int change);
/* Runs it. CALLBACK with its own message, say an exception's text, when it fails. */
vtrn_status host_callback_run(const graph_op *op, const void *const *inputs, void *const *outputs);
/* Whether this thread runs one. */
bool host_callback_is_running(void);

#endif
