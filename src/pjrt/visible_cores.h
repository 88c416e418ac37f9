/* Which NeuronCores of the machine a process sees. */
#ifndef VTRN_PJRT_VISIBLE_CORES_H
#define VTRN_PJRT_VISIBLE_CORES_H

#include "base/status.h"

typedef struct core_request {
    int n_asked_for; /* by an option of the client; 0: it does not say */
    int n_cores;     /* of the machine */
    const char *instance;
    int process_i, n_processes;
} core_request;

typedef struct core_choice {
    int *cores; /* [n] in the order of the devices that stand for them; made by malloc */
    int n;
    bool is_listed; /* these very cores; else as many, counted from 0 */
} core_choice;

/* n_asked_for when it is not 0, else those that NEURON_RT_VISIBLE_CORES lists ("1", "0-3", "0,2"),
 * else as many as the process's number in NEURON_PJRT_PROCESSES_NUM_DEVICES or NEURON_RT_NUM_CORES
 * says, else an even share of all where VTRN_INSTANCE is set, else one. UNSUPPORTED for one process
 * when NEURON_PJRT_WORLD_SIZE or NEURON_PJRT_PROCESSES_NUM_DEVICES speaks of more; BAD_ARGUMENT
 * when the instance lacks what is asked for. */
vtrn_status visible_cores(const core_request *request, core_choice *out);

#endif
