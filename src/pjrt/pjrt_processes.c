#include "pjrt/pjrt_processes.h"

#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CORES = 1024, TEXT_BYTES = 512, VERSION_BYTES = 32 };

/* NULL when it is not set or empty. */
static const char *variable(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

static int n_listed(const char *list) {
    int n = 1;
    for (; *list; list++)
        n += *list == ',';
    return n;
}

vtrn_status plugin_processes_find(int node_id, int num_nodes, plugin_processes *out) {
    const char *list = variable("NEURON_PJRT_PROCESSES_NUM_DEVICES");
    const char *index = variable("NEURON_PJRT_PROCESS_INDEX");
    *out = (plugin_processes){.n = 1};
    if (num_nodes >= 1) {
        *out = (plugin_processes){node_id, num_nodes, true};
    } else if (list && index && n_listed(list) > 1 && variable("NEURON_RT_ROOT_COMM_ID") &&
               !variable("VTRN_REFUSE_PROCESSES")) {
        char *end;
        long n = strtol(index, &end, 10);
        *out = (plugin_processes){*end ? -1 : (int)n, n_listed(list), false};
    }
    if (out->self < 0 || out->self >= out->n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "process %s of %d: processes are counted from 0 to %d",
                          index ? index : "-1", out->n, out->n - 1);
    if (out->n > 1 && index && num_nodes >= 1 && atoi(index) != out->self)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "NEURON_PJRT_PROCESS_INDEX=%s, and jax.distributed.initialize() says "
                          "process %d; leave one of them out",
                          index, out->self);
    return NULL;
}

/* --- the framework's store ---------------------------------------------------------------------
 */

static PJRT_Error *make_error(PJRT_Error_Code code, const char *message, size_t size) {
    return plugin_error_make(code, "%.*s", (int)size, message);
}

static vtrn_status status_of(PJRT_Error *error, const char *key) {
    if (!error)
        return NULL;
    vtrn_status status = VTRN_ERROR(VTRN_RESOURCE, "key %s of the framework's store: %s", key,
                                    error->text ? error->text : "");
    PJRT_Error_Destroy_Args destroy = {.struct_size = sizeof destroy, .error = error};
    PJRT_Error_Destroy(&destroy);
    return status;
}

static vtrn_status store_put(void *ctx, const char *key, const char *value) {
    const PJRT_Client_Create_Args *args = ctx;
    PJRT_CallbackError callback_error = make_error;
    PJRT_KeyValuePutCallback_Args put = {
        .struct_size = sizeof put,
        .key = key,
        .key_size = strlen(key),
        .value = value,
        .value_size = strlen(value),
        .callback_error = &callback_error,
        .user_arg = args->kv_put_user_arg,
    };
    return status_of(args->kv_put_callback(&put), key);
}

static vtrn_status store_get(void *ctx, const char *key, int timeout_ms, char *value, size_t size) {
    const PJRT_Client_Create_Args *args = ctx;
    PJRT_CallbackError callback_error = make_error;
    PJRT_KeyValueGetCallback_Args get = {
        .struct_size = sizeof get,
        .key = key,
        .key_size = strlen(key),
        .timeout_in_ms = timeout_ms,
        .callback_error = &callback_error,
        .user_arg = args->kv_get_user_arg,
    };
    VTRN_RETURN_IF_ERROR(status_of(args->kv_get_callback(&get), key));
    size_t n = get.value_size < size - 1 ? get.value_size : size - 1;
    memcpy(value, get.value, n);
    value[n] = 0;
    if (get.value_deleter_callback)
        get.value_deleter_callback(get.value);
    return NULL;
}

vtrn_status plugin_processes_connect(const plugin_processes *p, const PJRT_Client_Create_Args *args,
                                     transport **out) {
    const char *root = variable("NEURON_RT_ROOT_COMM_ID");
    const transport_store store = {(void *)args, store_put, store_get};
    bool has_store = p->has_store && ARGS_HAVE(args, kv_put_user_arg) && args->kv_get_callback &&
                     args->kv_put_callback;
    if (!has_store && !root)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "process %d of %d cannot find the others: call "
                          "jax.distributed.initialize(), or set NEURON_RT_ROOT_COMM_ID=host:port",
                          p->self, p->n);
    return transport_open(&(transport_options){.process_i = p->self,
                                               .n_processes = p->n,
                                               .store = has_store ? &store : NULL,
                                               .root = root},
                          out);
}

/* --- who has which cores -----------------------------------------------------------------------
 */

/* What a process tells the others. */
typedef struct card {
    char version[VERSION_BYTES];
    char instance[CHIP_NAME_MAX], chip[CHIP_NAME_MAX];
    uint64_t numbers; /* a hash of the chip's and the instance's */
    char failure[TEXT_BYTES];
    uint32_t n, is_listed;
    uint16_t cores[MAX_CORES];
} card;

static void fill_card(const runtime_device *d, const core_choice *choice, vtrn_status failure,
                      card *out) {
    snprintf(out->version, sizeof out->version, "%s", vtrn_version());
    snprintf(out->instance, sizeof out->instance, "%s", d->instance.name);
    snprintf(out->chip, sizeof out->chip, "%s", d->chip.name);
    out->numbers = hash_bytes(hash_bytes(HASH_START, &d->chip, sizeof d->chip), &d->instance,
                              sizeof d->instance);
    if (failure)
        snprintf(out->failure, sizeof out->failure, "%s", vtrn_status_message(failure));
    out->n = (uint32_t)choice->n;
    out->is_listed = choice->is_listed;
    for (int i = 0; i < choice->n && i < MAX_CORES; i++)
        out->cores[i] = (uint16_t)choice->cores[i];
}

static vtrn_status share_cards(transport *t, card *cards) {
    const int n = transport_n_processes(t), self = transport_process_i(t);
    transport_message *messages = calloc(2 * (size_t)n, sizeof *messages);
    if (!messages)
        return VTRN_OUT_OF_MEMORY(2 * (size_t)n * sizeof *messages);
    size_t k = 0;
    for (int i = 0; i < n; i++) {
        if (i == self)
            continue;
        messages[k] = (transport_message){i, &cards[self], sizeof *cards};
        messages[(size_t)n + k++] = (transport_message){i, &cards[i], sizeof *cards};
    }
    vtrn_status status = transport_exchange(t, messages, k, messages + n, k);
    free(messages);
    return status;
}

static vtrn_status check_card(const transport *t, const card *first, const card *c, int i) {
    if (c->failure[0])
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: %s", transport_name(t, i), c->failure);
    if (strcmp(c->version, first->version) != 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s has version %s of vtrn, %s has %s; install one",
                          transport_name(t, i), c->version, transport_name(t, 0), first->version);
    if (strcmp(c->instance, first->instance) != 0 || strcmp(c->chip, first->chip) != 0 ||
        c->numbers != first->numbers)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s is on %s (chip %s), %s on %s (chip %s)%s; let VTRN_INSTANCE, "
                          "VTRN_CHIP and the chip files be the same in all processes",
                          transport_name(t, i), c->instance, c->chip, transport_name(t, 0),
                          first->instance, first->chip,
                          strcmp(c->instance, first->instance) != 0 ||
                                  strcmp(c->chip, first->chip) != 0
                              ? ""
                              : " with other numbers");
    return NULL;
}

/* Cores that are listed are taken first; the others get the next free ones, in order. */
static vtrn_status assign(const runtime_device *d, const transport *t, const card *cards,
                          int *owner) {
    const int n = transport_n_processes(t);
    for (int c = 0; c < d->n_cores; c++)
        owner[c] = -1;
    for (int i = 0; i < n; i++)
        for (uint32_t k = 0; cards[i].is_listed && k < cards[i].n; k++) {
            int core = cards[i].cores[k];
            if (owner[core] >= 0)
                return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                  "NEURON_RT_VISIBLE_CORES: NeuronCore %d is listed by %s and by "
                                  "%s; give each process its own",
                                  core, transport_name(t, owner[core]), transport_name(t, i));
            owner[core] = i;
        }
    int next = 0;
    for (int i = 0; i < n; i++)
        for (uint32_t k = 0; !cards[i].is_listed && k < cards[i].n; k++) {
            while (next < d->n_cores && owner[next] >= 0)
                next++;
            if (next == d->n_cores)
                return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                  "%s asks for %u NeuronCores, and %u are left of the %d of %s; "
                                  "ask for fewer (NEURON_RT_NUM_CORES counts those of one "
                                  "process), start fewer than %d processes, or set another "
                                  "VTRN_INSTANCE",
                                  transport_name(t, i), cards[i].n, k, d->n_cores, d->instance.name,
                                  n);
            owner[next] = i;
        }
    return NULL;
}

/* The devices of all processes: process by process, in the order that each lists its cores in. */
static void list_cores(const runtime_device *d, const card *cards, int n_processes,
                       const int *owner, int *cores) {
    int n = 0;
    for (int i = 0; i < n_processes; i++) {
        for (uint32_t k = 0; cards[i].is_listed && k < cards[i].n; k++)
            cores[n++] = cards[i].cores[k];
        for (int c = 0; !cards[i].is_listed && c < d->n_cores; c++)
            if (owner[c] == i)
                cores[n++] = c;
    }
}

static vtrn_status settle(const runtime_device *d, const transport *t, const card *cards,
                          int *owner, int **cores, int *n) {
    const int n_processes = transport_n_processes(t);
    for (int i = 0; i < n_processes; i++)
        VTRN_RETURN_IF_ERROR(check_card(t, &cards[0], &cards[i], i));
    VTRN_RETURN_IF_ERROR(assign(d, t, cards, owner));
    *n = 0;
    for (int c = 0; c < d->n_cores; c++)
        *n += owner[c] >= 0;
    *cores = calloc((size_t)d->n_cores, sizeof **cores);
    if (!*cores)
        return VTRN_OUT_OF_MEMORY((size_t)d->n_cores * sizeof **cores);
    list_cores(d, cards, n_processes, owner, *cores);
    return NULL;
}

vtrn_status plugin_processes_join(runtime_device *device, transport *t, const core_choice *choice,
                                  vtrn_status failure, int **cores, int *n) {
    const size_t n_processes = (size_t)transport_n_processes(t);
    card *cards = calloc(n_processes, sizeof *cards);
    int *owner = calloc((size_t)device->n_cores, sizeof *owner);
    *cores = NULL;
    vtrn_status status = NULL;
    if (!cards || !owner)
        status = VTRN_OUT_OF_MEMORY(n_processes * sizeof *cards);
    if (!status) {
        fill_card(device, choice, failure, &cards[transport_process_i(t)]);
        status = share_cards(t, cards);
    }
    if (!status && !failure)
        status = settle(device, t, cards, owner, cores, n);
    free(cards);
    runtime_device_join(device, t, owner);
    if (!failure)
        return status;
    vtrn_status_free(status);
    return failure;
}
