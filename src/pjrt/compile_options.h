/* CompileOptionsProto: the few fields that matter here, decoded by hand. */
#ifndef VTRN_PJRT_COMPILE_OPTIONS_H
#define VTRN_PJRT_COMPILE_OPTIONS_H

#include "base/status.h"
#include "compiler/compile.h"

#include <stdint.h>

typedef struct plugin_compile_options {
    int64_t n_replicas, n_partitions; /* 1 when absent */
    int64_t device_id;                /* of the device assignment, else the ordinal, else 0 */
    compile_options compile;          /* from env_option_overrides */
} plugin_compile_options;

/* BAD_ARGUMENT: malformed bytes, or an override that does not exist ("No such compile option").
 * UNSUPPORTED: more than one replica or partition. */
vtrn_status compile_options_decode(const void *bytes, size_t size, plugin_compile_options *out);

#endif
