/* The partitioner that the host gave: see vtrn_partitioner in vtrn.h. */
#ifndef VTRN_API_API_PARTITION_H
#define VTRN_API_API_PARTITION_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* The artifact as a manual program for n_partitions devices, 0: as many as it says. *out is
 * malloc'ed, the caller's to free; NULL, *out_size 0: the artifact is one already, or there is no
 * partitioner, which *has_partitioner tells apart. UNSUPPORTED, with the partitioner's own words,
 * when it cannot. Thread-safe. */
vtrn_status api_partition(const void *artifact, size_t size, int n_partitions, void **out,
                          size_t *out_size, bool *has_partitioner);

/* What one device runs of the artifact, without annotations: *out is malloc'ed, the caller's to
 * free. UNSUPPORTED, with the partitioner's own words, when it cannot. Thread-safe. */
vtrn_status api_one_device(const void *artifact, size_t size, void **out, size_t *out_size);

#endif
