/* VTRN_PROFILE=dir: at close or at exit, the profile of the heaviest executable goes to dir, those
 * of the next ones to dir/<name>-<n>/, and one line for each to summary.json and index.html. */
#include "api/api.h"

#include "base/directory.h"
#include "base/process.h"
#include "profile/profile_index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROFILES = 16 };

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static vtrn_device *open_devices;

/* An executable that ran, retained, with its figures at one moment. */
typedef struct entry {
    vtrn_executable *executable;
    uint64_t n_executions;
    uint64_t flops;
    double step_ns, total_simulated_ns;
    double device_ns; /* total_simulated_ns without the launches */
    bool computes;    /* an engine was active in the last execution */
} entry;

/* By what they did between launch and completion; programs in which no engine computes, such as
 * those that fill or copy one array, come last. */
static int by_device_time(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->computes != y->computes)
        return x->computes ? -1 : 1;
    if (x->device_ns != y->device_ns)
        return x->device_ns < y->device_ns ? 1 : -1;
    if (x->total_simulated_ns != y->total_simulated_ns)
        return x->total_simulated_ns < y->total_simulated_ns ? 1 : -1;
    uint64_t m = x->executable->serial, n = y->executable->serial;
    return (m > n) - (m < n);
}

/* All executables of the device, each retained; *n of them. NULL when memory is short. */
static entry *retain_all(vtrn_device *device, size_t *n) {
    pthread_mutex_lock(&device->lock);
    size_t capacity = 0;
    for (vtrn_executable *e = device->executables; e; e = e->next)
        capacity++;
    entry *all = calloc(capacity + 1, sizeof *all);
    *n = 0;
    for (vtrn_executable *e = device->executables; all && e; e = e->next)
        if (api_executable_retain_live(e))
            all[(*n)++].executable = e;
    pthread_mutex_unlock(&device->lock);
    return all;
}

/* The executables that ran, heaviest first. */
static entry *collect(vtrn_device *device, size_t *n) {
    size_t n_all, n_ran = 0;
    entry *all = retain_all(device, &n_all);
    *n = 0;
    if (!all)
        return NULL;
    const vtrn_chip *chip = &device->rt->chip;
    double launch_ns = chip->launch.preamble_ns + chip->launch.postamble_ns;
    pthread_mutex_lock(&device->rt->run_lock); /* other threads may be executing */
    for (size_t i = 0; i < n_all; i++) {
        const runtime_program *l = all[i].executable->loaded;
        all[i].n_executions = l->n_executions;
        all[i].total_simulated_ns = l->total_simulated_ns;
        double device_ns = l->total_simulated_ns - (double)l->n_executions * launch_ns;
        all[i].device_ns = device_ns > 0 ? device_ns : 0;
        if (l->last_timing < 0)
            continue;
        const timing_summary *last = &l->timings[l->last_timing].summary;
        all[i].step_ns = last->total_ns;
        all[i].flops = last->flops;
        for (int k = 0; k < VTRN_ENGINE_COUNT; k++)
            all[i].computes |= last->active_ns[k] > 0;
    }
    pthread_mutex_unlock(&device->rt->run_lock);
    for (size_t i = 0; i < n_all; i++) {
        if (all[i].n_executions)
            all[n_ran++] = all[i];
        else
            vtrn_executable_destroy(all[i].executable);
    }
    qsort(all, n_ran, sizeof *all, by_device_time);
    *n = n_ran;
    return all;
}

static void safe_name(const char *name, char *out, size_t size) {
    size_t n = 0;
    for (; name[n] && n + 1 < size; n++) {
        char c = name[n];
        bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                        (c >= '0' && c <= '9') || c == '-' || c == '_' || (c == '.' && n > 0);
        out[n] = is_plain ? c : '_';
    }
    out[n] = '\0';
}

/* "<name>-<n>" */
static void directory_name(const vtrn_executable *e, char *out, size_t size) {
    char name[128];
    safe_name(e->name, name, sizeof name);
    snprintf(out, size, "%s-%llu", name, (unsigned long long)e->serial);
}

/* A failure is also written beside the profile: at the end of a process no caller gets it. */
static vtrn_status write_one(const vtrn_executable *e, const char *directory) {
    vtrn_status status = vtrn_executable_profile_write(e, directory);
    if (!status)
        return NULL;
    char path[2 * DIRECTORY_PATH_MAX];
    snprintf(path, sizeof path, "%s/error.txt", directory);
    FILE *f = fopen(path, "w");
    if (f) {
        fprintf(f, "%s\n", vtrn_status_text(status));
        fclose(f);
    }
    return status;
}

/* Keeps the first failure. */
static void keep_first(vtrn_status *first, vtrn_status status) {
    if (*first)
        vtrn_status_free(status);
    else
        *first = status;
}

enum { DIRECTORY_NAME_MAX = 256 };

static vtrn_status write_index(const vtrn_device *device, const entry *all, size_t n) {
    profile_index_entry *entries = calloc(n + 1, sizeof *entries);
    char(*names)[DIRECTORY_NAME_MAX] = calloc(n + 1, sizeof *names);
    vtrn_status status = entries && names ? NULL : VTRN_OUT_OF_MEMORY(n * sizeof *entries);
    for (size_t i = 0; i < n && !status; i++) {
        bool has_profile = i < MAX_PROFILES && all[i].step_ns > 0;
        directory_name(all[i].executable, names[i], sizeof names[i]);
        entries[i] = (profile_index_entry){
            .name = all[i].executable->name,
            .directory = has_profile ? names[i] : NULL,
            .serial = all[i].executable->serial,
            .n_executions = all[i].n_executions,
            .flops = all[i].flops,
            .step_ns = all[i].step_ns,
            .total_simulated_ns = all[i].total_simulated_ns,
            .device_ns = all[i].device_ns,
        };
    }
    if (!status) {
        const runtime_device *rt = device->rt;
        const profile_index index = {
            .chip = &rt->chip,
            .instance = &rt->instance,
            .n_cores = rt->n_cores,
            .values = {!rt->has_values, rt->value_ranks, rt->n_value_ranks},
            .entries = entries,
            .n = n};
        char path[DIRECTORY_PATH_MAX + 32];
        snprintf(path, sizeof path, "%s/summary.json", device->profile_dir);
        keep_first(&status, profile_write_index_json(&index, path));
        snprintf(path, sizeof path, "%s/index.html", device->profile_dir);
        keep_first(&status, profile_write_index_html(&index, path));
    }
    free(names);
    free(entries);
    return status;
}

/* Under open_lock. What is written already, with nothing run since, is not written again. */
static vtrn_status write_device(vtrn_device *device) {
    size_t n;
    uint64_t n_runs = 0;
    entry *all = collect(device, &n);
    if (!all)
        return VTRN_OUT_OF_MEMORY(sizeof *all);
    for (size_t i = 0; i < n; i++)
        n_runs += all[i].n_executions;
    vtrn_status status = NULL;
    if (!device->is_written || n_runs != device->n_runs_written) {
        status = write_index(device, all, n);
        for (size_t i = 0; i < n && i < MAX_PROFILES && all[i].step_ns > 0; i++) {
            const vtrn_executable *e = all[i].executable;
            char name[DIRECTORY_NAME_MAX], path[DIRECTORY_PATH_MAX + DIRECTORY_NAME_MAX];
            directory_name(e, name, sizeof name);
            snprintf(path, sizeof path, "%s/%s", device->profile_dir, name);
            if (i == 0)
                keep_first(&status, write_one(e, device->profile_dir));
            keep_first(&status, write_one(e, path));
        }
        device->is_written = status == NULL;
        device->n_runs_written = n_runs;
    }
    for (size_t i = 0; i < n; i++)
        vtrn_executable_destroy(all[i].executable);
    free(all);
    return status;
}

bool vtrn_profile_is_running(void) {
    return api_is_executing();
}

vtrn_status vtrn_profile_flush(void) {
    if (api_is_executing())
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "a profile cannot be written on the thread whose program is running; "
                          "write it when the program has returned");
    vtrn_status status = NULL;
    pthread_mutex_lock(&open_lock);
    for (vtrn_device *d = open_devices; d; d = d->next_open)
        if (d->rt->n_forks == process_n_forks()) /* a fork did not run what it has */
            keep_first(&status, write_device(d));
    pthread_mutex_unlock(&open_lock);
    return status;
}

/* Devices that nobody closed: plugins are often not asked to. Who closes one now waits for the
 * lock, finds it written, and only then lets it go. */
static void write_at_exit(void) {
    pthread_mutex_lock(&open_lock);
    for (vtrn_device *d = open_devices; d; d = d->next_open)
        vtrn_status_free(write_device(d));
    open_devices = NULL;
    pthread_mutex_unlock(&open_lock);
}

vtrn_status api_profile_register(vtrn_device *device) {
    static bool has_handler;
    const char *directory = getenv("VTRN_PROFILE");
    if (!directory || !*directory)
        return NULL;
    char path[DIRECTORY_PATH_MAX];
    const transport *t = device->rt->transport; /* each process writes its own profile */
    int n = t ? snprintf(path, sizeof path, "%s/process-%d", directory, transport_process_i(t))
              : snprintf(path, sizeof path, "%s", directory);
    if (n >= (int)sizeof path)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "VTRN_PROFILE: a path of more than %zu bytes",
                          sizeof path - 1);
    if (t)
        VTRN_RETURN_IF_ERROR(vtrn_status_annotate(directory_make(directory), "VTRN_PROFILE"));
    VTRN_RETURN_IF_ERROR(vtrn_status_annotate(directory_make(path), "VTRN_PROFILE"));
    device->profile_dir = strdup(path);
    if (!device->profile_dir)
        return VTRN_OUT_OF_MEMORY(strlen(directory));
    pthread_mutex_lock(&open_lock);
    device->next_open = open_devices;
    open_devices = device;
    if (!has_handler)
        has_handler = atexit(write_at_exit) == 0;
    pthread_mutex_unlock(&open_lock);
    return NULL;
}

/* Takes the device off the list; false when the exit handler was faster. */
static bool take_open(vtrn_device *device) {
    pthread_mutex_lock(&open_lock);
    vtrn_device **at = &open_devices;
    while (*at && *at != device)
        at = &(*at)->next_open;
    bool found = *at != NULL;
    if (found)
        *at = device->next_open;
    pthread_mutex_unlock(&open_lock);
    return found;
}

void api_profile_unregister(vtrn_device *device) {
    if (!device->profile_dir || !take_open(device))
        return;
    vtrn_status_free(write_device(device));
    /* The references that kept executables for the profile: see vtrn_compile(). */
    for (;;) {
        pthread_mutex_lock(&device->lock);
        vtrn_executable *e = device->executables;
        while (e && !e->is_kept_for_profile)
            e = e->next;
        if (e)
            e->is_kept_for_profile = false;
        pthread_mutex_unlock(&device->lock);
        if (!e)
            break;
        vtrn_executable_destroy(e);
    }
}
