/* The partitioner that the host gave: see vtrn_partitioner in vtrn.h. */
#ifndef VTRN_API_API_PARTITION_H
#define VTRN_API_API_PARTITION_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* The artifact as a manual program for n_partitions devices, 0: as many as it says. is_fresh: who
 * calls has just written it. *out is malloc'ed, the caller's to free; NULL, *out_size 0: the
 * artifact is one already, or there is no partitioner. UNSUPPORTED, with the partitioner's own
 * words, when it cannot; BAD_ARGUMENT when it says that the program is wrong. Thread-safe. */
vtrn_status api_partition(const void *artifact, size_t size, int n_partitions, bool is_fresh,
                          void **out, size_t *out_size);

/* What one device runs of the artifact, without annotations: *out is malloc'ed, the caller's to
 * free. UNSUPPORTED, with the partitioner's own words, when it cannot. Thread-safe. */
vtrn_status api_one_device(const void *artifact, size_t size, void **out, size_t *out_size);

#endif
