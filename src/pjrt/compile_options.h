/* CompileOptionsProto: the few fields that matter here, decoded by hand. */
#ifndef VTRN_PJRT_COMPILE_OPTIONS_H
#define VTRN_PJRT_COMPILE_OPTIONS_H

#include "base/status.h"
#include "compiler/compile.h"

#include <stdint.h>

typedef struct plugin_compile_options {
    int64_t n_replicas, n_partitions; /* 1 when absent */
    int64_t device_id;                /* of rank 0: of the device assignment, else the ordinal,
                                       * else 0 */
    const uint8_t *assignment;        /* DeviceAssignmentProto, in the bytes decoded; or NULL */
    size_t assignment_size;
    int64_t n_assigned;      /* devices that it names */
    compile_options compile; /* from env_option_overrides; n_replicas too */
} plugin_compile_options;

/* BAD_ARGUMENT: malformed bytes, a device assignment for another number of replicas and partitions,
 * or an override that does not exist ("No such compile option"). */
vtrn_status compile_options_decode(const void *bytes, size_t size, plugin_compile_options *out);

/* The device of each rank, replica by replica: as assigned, or counted from device_id.
 * out[n_replicas * n_partitions] */
vtrn_status compile_options_devices(const plugin_compile_options *o, int64_t *out);

#endif
