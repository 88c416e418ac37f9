/* Devices, errors and versions of the public API. */
#include "api/api.h"

#include "base/dtype.h"

#include <stdlib.h>
#include <string.h>

const char *vtrn_error_message(vtrn_status status) {
    return vtrn_status_text(status);
}

int vtrn_error_category(vtrn_status status) {
    return (int)vtrn_status_category(status);
}

void vtrn_error_free(vtrn_status status) {
    vtrn_status_free(status);
}

const char *vtrn_version(void) {
    return VTRN_VERSION;
}

bool vtrn_leave_processes(void) {
    return transport_leave_all();
}

void vtrn_free(void *p) {
    free(p);
}

bool vtrn_dtype_from_name(const char *name, int *out) {
    vtrn_dtype t;
    if (!dtype_from_name(name, &t))
        return false;
    *out = (int)t;
    return true;
}

bool api_is_set(const char *variable) {
    const char *value = getenv(variable);
    return value && *value && strcmp(value, "0") != 0;
}

static const char *or_env(const char *given, const char *variable) {
    return given ? given : getenv(variable);
}

/* Whether a part of the work is done: "off" leaves it out. */
static vtrn_status read_switch(const char *variable, bool *out) {
    const char *value = getenv(variable);
    *out = !value || strcmp(value, "off") != 0;
    if (!value || !*value || !*out || !strcmp(value, "on"))
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: '%s' is neither on nor off", variable, value);
}

/* "4", "0-3", "0,2,8-11": the ranks, ascending, and rank 0. */
static vtrn_status read_ranks(const char *text, runtime_device *rt) {
    enum { MAX_RANKS = 1 << 16 };
    bool *is_listed = calloc(MAX_RANKS, 1);
    rt->value_ranks = calloc(MAX_RANKS, sizeof *rt->value_ranks);
    if (!is_listed || !rt->value_ranks) {
        free(is_listed);
        return VTRN_OUT_OF_MEMORY(MAX_RANKS * sizeof *rt->value_ranks);
    }
    bool is_good = *text != '\0';
    for (const char *at = text; *at && is_good;) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;
        is_good = *at >= '0' && *at <= '9';
        if (is_good && *end == '-') {
            at = end + 1;
            is_good = *at >= '0' && *at <= '9';
            last = strtoul(at, &end, 10);
        }
        is_good =
            is_good && first <= last && last < MAX_RANKS && (!*end || (*end == ',' && end[1]));
        for (unsigned long r = first; is_good && r <= last; r++)
            is_listed[r] = true;
        at = *end ? end + 1 : end;
    }
    for (uint32_t r = 0; r < MAX_RANKS && is_good; r++)
        if (is_listed[r] || r == 0)
            rt->value_ranks[rt->n_value_ranks++] = r;
    free(is_listed);
    return is_good
               ? NULL
               : VTRN_ERROR(VTRN_BAD_ARGUMENT,
                            "VTRN_VALUES: '%s' are no ranks; write ranks:0,4 or ranks:0-3", text);
}

/* VTRN_VALUES: of all ranks, of some, or of none. */
static vtrn_status read_values(runtime_device *rt) {
    static const char prefix[] = "ranks:";
    const char *value = getenv("VTRN_VALUES");
    rt->has_values = true;
    if (!value || !*value || !strcmp(value, "on"))
        return NULL;
    if (!strcmp(value, "one-rank"))
        return read_ranks("0", rt);
    if (!strncmp(value, prefix, sizeof prefix - 1))
        return read_ranks(value + sizeof prefix - 1, rt);
    rt->has_values = strcmp(value, "off") != 0;
    return !rt->has_values
               ? NULL
               : VTRN_ERROR(VTRN_BAD_ARGUMENT,
                            "VTRN_VALUES: '%s' is neither on nor off, nor one-rank, nor ranks:0,4",
                            value);
}

/* VTRN_NAN: whether one that a rank gives to others ends the program. */
static vtrn_status read_nans(bool *out) {
    const char *value = getenv("VTRN_NAN");
    *out = value && !strcmp(value, "refuse");
    if (!value || !*value || *out || !strcmp(value, "ignore"))
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "VTRN_NAN: '%s' is neither refuse nor ignore", value);
}

/* What an execution does: values, times, or both. A checked one needs both. */
static vtrn_status choose_work(vtrn_device *d) {
    runtime_device *rt = d->rt;
    VTRN_RETURN_IF_ERROR(read_switch("VTRN_TIMING", &rt->is_timed));
    VTRN_RETURN_IF_ERROR(read_values(rt));
    if (!rt->is_timed && !rt->has_values)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "VTRN_TIMING and VTRN_VALUES are both off, which "
                                             "leaves nothing to do; switch one on");
    if ((d->is_checking || api_is_set("VTRN_VERIFY")) && !rt->has_values)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s looks at values, and VTRN_VALUES is off; leave one "
                          "of them out",
                          d->is_checking ? "VTRN_CHECK" : "VTRN_VERIFY");
    rt->is_timed |= d->is_checking;
    VTRN_RETURN_IF_ERROR(read_nans(&rt->refuses_nans));
    uint64_t ignored; /* a mistake in it is not to be found when the training is over */
    return api_samples_per_step(&ignored);
}

vtrn_status vtrn_device_open(const vtrn_device_options *options, vtrn_device **out) {
    return api_device_open(options, true, out);
}

vtrn_status api_device_open(const vtrn_device_options *options, bool is_profiled,
                            vtrn_device **out) {
    *out = NULL;
    vtrn_device_options o = {.struct_size = sizeof o};
    if (options)
        memcpy(&o, options, options->struct_size < sizeof o ? options->struct_size : sizeof o);
    if (o.n_threads < 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "n_threads is %d; give 0 (one for each core of the host) or more",
                          o.n_threads);
    vtrn_device *d = calloc(1, sizeof *d);
    if (!d)
        return VTRN_OUT_OF_MEMORY(sizeof *d);
    vtrn_status status = runtime_device_open(
        or_env(o.chip, "VTRN_CHIP"), or_env(o.instance, "VTRN_INSTANCE"), o.n_threads, &d->rt);
    if (status) {
        free(d);
        return status;
    }
    atomic_init(&d->refs, 1);
    d->is_checking = api_is_set("VTRN_CHECK");
    pthread_mutex_init(&d->lock, NULL);
    status = choose_work(d);
    if (!status && is_profiled)
        status = api_profile_register(d);
    if (status) {
        api_device_release(d);
        return status;
    }
    *out = d;
    return NULL;
}

void api_device_retain(vtrn_device *device) {
    atomic_fetch_add_explicit(&device->refs, 1, memory_order_relaxed);
}

void api_device_release(vtrn_device *d) {
    if (atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
        return;
    runtime_device_release(d->rt);
    pthread_mutex_destroy(&d->lock);
    free(d->profile_dir);
    free(d);
}

void vtrn_device_close(vtrn_device *device) {
    if (!device)
        return;
    api_profile_unregister(device);
    api_device_release(device);
}

int vtrn_device_n_cores(const vtrn_device *device) {
    return device->rt->n_cores;
}

const char *vtrn_device_chip_name(const vtrn_device *device) {
    return device->rt->chip.name;
}
