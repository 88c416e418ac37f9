/* The programs of a run, heaviest first: summary.json for programs, index.html for people. */
#ifndef VTRN_PROFILE_PROFILE_INDEX_H
#define VTRN_PROFILE_PROFILE_INDEX_H

#include "profile/profile.h"

typedef struct profile_index_entry {
    const char *name;      /* of the executable */
    const char *directory; /* of its profile, below that of the run; NULL: it was not written */
    uint64_t serial, n_executions;
    uint64_t flops; /* of one execution */
    double step_ns, total_simulated_ns;
    double device_ns; /* total_simulated_ns without the launches */
} profile_index_entry;

typedef struct profile_index {
    const vtrn_chip *chip;
    const vtrn_instance *instance;
    int n_cores;
    profile_values values;
    const profile_index_entry *entries; /* [n] in the order in which they are shown */
    size_t n;
} profile_index;

/* One file each, at path. RESOURCE when it cannot be written. */
vtrn_status profile_write_index_json(const profile_index *index, const char *path);
vtrn_status profile_write_index_html(const profile_index *index, const char *path);

#endif
