/* Which NeuronCores of the machine a process sees. */
#ifndef VTRN_PJRT_VISIBLE_CORES_H
#define VTRN_PJRT_VISIBLE_CORES_H

#include "base/status.h"

/* Numbers of the visible cores, in the order of the devices that stand for them: n_asked_for when
 * it is not 0, else those that NEURON_RT_VISIBLE_CORES lists ("1", "0-3", "0,2"), else as many as
 * NEURON_RT_NUM_CORES or NEURON_PJRT_PROCESSES_NUM_DEVICES says, else all where VTRN_INSTANCE is
 * set, else core 0. The caller frees *out_cores. UNSUPPORTED when NEURON_PJRT_WORLD_SIZE or
 * NEURON_PJRT_PROCESSES_NUM_DEVICES speaks of more than one process; BAD_ARGUMENT when instance, of
 * n_cores cores, lacks what is asked for. */
vtrn_status visible_cores(int n_asked_for, int n_cores, const char *instance, int **out_cores,
                          int *out_n);

#endif
