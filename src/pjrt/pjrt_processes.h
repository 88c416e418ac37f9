/* A client that is one of several processes: which one, how they meet, who has which NeuronCores.
 */
#ifndef VTRN_PJRT_PJRT_PROCESSES_H
#define VTRN_PJRT_PJRT_PROCESSES_H

#include "pjrt/plugin.h"
#include "pjrt/visible_cores.h"

/* Which process the client is. */
typedef struct plugin_processes {
    int self, n;    /* 0 of 1: it is alone */
    bool has_store; /* the framework connected them: its callbacks can be called */
} plugin_processes;

/* By what the framework says (node_id and num_nodes; -1: nothing), else by
 * NEURON_PJRT_PROCESS_INDEX and NEURON_PJRT_PROCESSES_NUM_DEVICES. BAD_ARGUMENT where the two
 * contradict each other. */
vtrn_status plugin_processes_find(int node_id, int num_nodes, plugin_processes *out);

/* Connects with the others: through the store of the framework in args, else at
 * NEURON_RT_ROOT_COMM_ID. */
vtrn_status plugin_processes_connect(const plugin_processes *p, const PJRT_Client_Create_Args *args,
                                     transport **out);

/* Tells all processes which cores each asked for, and hands the machine the transport, also where
 * that fails. choice: of this process, with failure, which is consumed, saying why it has none.
 * *cores: those of all processes, in their order, [*n] made by malloc. BAD_ARGUMENT, in all of
 * them: a core is asked for twice, or there are too few, or their machines differ. */
vtrn_status plugin_processes_join(runtime_device *device, transport *t, const core_choice *choice,
                                  vtrn_status failure, int **cores, int *n);

#endif
