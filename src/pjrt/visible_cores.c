/* The variables of the Neuron runtime and of its PJRT plugin that choose NeuronCores. */
#include "pjrt/visible_cores.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NULL when it is not set or empty. */
static const char *variable(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

static bool read_number(const char **at, long *out) {
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    *out = strtol(*at, &end, 10);
    *at = end;
    return true;
}

static vtrn_status several_processes(const char *name, const char *text) {
    return VTRN_ERROR(VTRN_UNSUPPORTED,
                      "%s=%s: vtrn has no programs over several processes, and each would compute "
                      "as if it were alone; start one process (python script.py, no torchrun or "
                      "spawn)",
                      name, text);
}

/* Launchers say how many processes there are. */
static vtrn_status refuse_processes(void) {
    const char *world = variable("NEURON_PJRT_WORLD_SIZE");
    const char *devices = variable("NEURON_PJRT_PROCESSES_NUM_DEVICES");
    if (world && strcmp(world, "1") != 0)
        return several_processes("NEURON_PJRT_WORLD_SIZE", world);
    if (devices && strchr(devices, ','))
        return several_processes("NEURON_PJRT_PROCESSES_NUM_DEVICES", devices);
    return NULL;
}

/* Items between commas: a number, or first-last. False: malformed, beyond n_cores or twice. */
static bool read_list(const char *text, int n_cores, int *cores, int *out_n) {
    long first, last;
    for (const char *at = text;; at++) {
        if (!read_number(&at, &first))
            return false;
        last = first;
        if (*at == '-' && (at++, !read_number(&at, &last)))
            return false;
        if (last < first || last >= n_cores)
            return false;
        for (long core = first; core <= last; core++) {
            for (int i = 0; i < *out_n; i++)
                if (cores[i] == core)
                    return false;
            cores[(*out_n)++] = (int)core;
        }
        if (*at != ',')
            return !*at;
    }
}

static vtrn_status listed_cores(const char *text, int n_cores, const char *instance, int *cores,
                                int *out_n) {
    *out_n = 0;
    if (read_list(text, n_cores, cores, out_n))
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "NEURON_RT_VISIBLE_CORES=%s: %s has NeuronCores 0 to %d; list some of them "
                      "once each, as in 0, 0-%d or 0,%d",
                      text, instance, n_cores - 1, n_cores - 1, n_cores - 1);
}

/* Frameworks take more devices as an invitation to spread a program over them, so there is one
 * unless more are asked for, or an instance is, which has them. */
static vtrn_status first_cores(int n_asked_for, int n_cores, const char *instance, int *cores,
                               int *out_n) {
    static const char *const NAMES[] = {"NEURON_RT_NUM_CORES", "NEURON_PJRT_PROCESSES_NUM_DEVICES"};
    const char *name = "client option n_cores", *text = NULL;
    char number[16];
    long n = 0;
    snprintf(number, sizeof number, "%d",
             n_asked_for                 ? n_asked_for
             : variable("VTRN_INSTANCE") ? n_cores
                                         : 1);
    for (int i = 0; !n_asked_for && !text && i < 2; i++)
        if ((text = variable(NAMES[i])))
            name = NAMES[i];
    text = text ? text : number;
    const char *end = text;
    if (!read_number(&end, &n) || *end || n < 1 || n > n_cores)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s asks for %s NeuronCores; %s has %d: give a number from 1 to %d, or "
                          "another VTRN_INSTANCE",
                          name, text, instance, n_cores, n_cores);
    for (*out_n = 0; *out_n < n; ++*out_n)
        cores[*out_n] = *out_n;
    return NULL;
}

vtrn_status visible_cores(int n_asked_for, int n_cores, const char *instance, int **out_cores,
                          int *out_n) {
    *out_cores = NULL;
    VTRN_RETURN_IF_ERROR(refuse_processes());
    int *cores = calloc((size_t)n_cores, sizeof *cores);
    if (!cores)
        return VTRN_OUT_OF_MEMORY((size_t)n_cores * sizeof *cores);
    const char *list = variable("NEURON_RT_VISIBLE_CORES");
    vtrn_status status = list && !n_asked_for
                             ? listed_cores(list, n_cores, instance, cores, out_n)
                             : first_cores(n_asked_for, n_cores, instance, cores, out_n);
    if (status) {
        free(cores);
        return status;
    }
    *out_cores = cores;
    return NULL;
}
