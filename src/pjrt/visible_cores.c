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
    return VTRN_ERROR(
        VTRN_UNSUPPORTED,
        "%s=%s: vtrn has no programs over several processes of PyTorch, and each would "
        "compute as if it were alone; start one process (python script.py, no "
        "torchrun or spawn). JAX's processes call jax.distributed.initialize()",
        name, text);
}

/* Launchers say how many processes there are, and this one did not connect with the others. */
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

/* The process's number of the list in NEURON_PJRT_PROCESSES_NUM_DEVICES, as text. */
static vtrn_status number_of_list(const char *list, const core_request *r, char out[16]) {
    const char *at = list;
    int n = 0;
    for (long number; read_number(&at, &number); at++, n++) {
        if (n == r->process_i)
            snprintf(out, 16, "%ld", number);
        if (*at != ',')
            break;
    }
    if (!*at && n + 1 == r->n_processes)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "NEURON_PJRT_PROCESSES_NUM_DEVICES=%s: there are %d processes; give a number "
                      "of NeuronCores for each, with commas between",
                      list, r->n_processes);
}

/* How many cores, as text, and who says so. Frameworks take more devices as an invitation to spread
 * a program over them, so there is one unless more are asked for, or an instance is, which has
 * them; several processes share it evenly. */
static vtrn_status count_asked_for(const core_request *r, const char **name, char out[16]) {
    const char *list = variable("NEURON_PJRT_PROCESSES_NUM_DEVICES");
    const char *number = variable("NEURON_RT_NUM_CORES");
    *name = "client option n_cores";
    if (r->n_asked_for) {
        snprintf(out, 16, "%d", r->n_asked_for);
    } else if (list && r->n_processes > 1) {
        *name = "NEURON_PJRT_PROCESSES_NUM_DEVICES";
        return number_of_list(list, r, out);
    } else if (number) {
        *name = "NEURON_RT_NUM_CORES";
        snprintf(out, 16, "%s", number);
    } else if (list) {
        *name = "NEURON_PJRT_PROCESSES_NUM_DEVICES";
        snprintf(out, 16, "%s", list);
    } else {
        int share = r->n_cores / r->n_processes;
        snprintf(out, 16, "%d", variable("VTRN_INSTANCE") && share ? share : 1);
    }
    return NULL;
}

static vtrn_status first_cores(const core_request *r, core_choice *out) {
    const char *name;
    char text[16] = "";
    VTRN_RETURN_IF_ERROR(count_asked_for(r, &name, text));
    const char *end = text;
    long n = 0;
    if (!read_number(&end, &n) || *end || n < 1 || n > r->n_cores)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s asks for %s NeuronCores; %s has %d: give a number from 1 to %d, or "
                          "another VTRN_INSTANCE",
                          name, text, r->instance, r->n_cores, r->n_cores);
    for (out->n = 0; out->n < n; out->n++)
        out->cores[out->n] = out->n;
    return NULL;
}

vtrn_status visible_cores(const core_request *r, core_choice *out) {
    *out = (core_choice){.n = 0};
    if (r->n_processes == 1)
        VTRN_RETURN_IF_ERROR(refuse_processes());
    int *cores = calloc((size_t)r->n_cores, sizeof *cores);
    if (!cores)
        return VTRN_OUT_OF_MEMORY((size_t)r->n_cores * sizeof *cores);
    out->cores = cores;
    const char *list = variable("NEURON_RT_VISIBLE_CORES");
    out->is_listed = list && !r->n_asked_for;
    vtrn_status status = out->is_listed
                             ? listed_cores(list, r->n_cores, r->instance, cores, &out->n)
                             : first_cores(r, out);
    if (status) {
        free(cores);
        *out = (core_choice){.n = 0};
    }
    return status;
}
