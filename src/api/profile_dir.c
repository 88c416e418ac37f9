/* VTRN_PROFILE=dir: at close or at exit, the profile of the heaviest executable goes to dir, those
 * of the next ones to dir/<name>-<n>/, and one line for each to dir/summary.json. */
#include "api/api.h"

#include "base/directory.h"
#include "base/process.h"

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
    double step_ns, total_simulated_ns;
} entry;

static int by_simulated_time(const void *a, const void *b) {
    const entry *x = a, *y = b;
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
    pthread_mutex_lock(&device->rt->run_lock); /* other threads may be executing */
    for (size_t i = 0; i < n_all; i++) {
        const runtime_program *l = all[i].executable->loaded;
        all[i].n_executions = l->n_executions;
        all[i].total_simulated_ns = l->total_simulated_ns;
        if (l->last_timing >= 0)
            all[i].step_ns = l->timings[l->last_timing].summary.total_ns;
    }
    pthread_mutex_unlock(&device->rt->run_lock);
    for (size_t i = 0; i < n_all; i++) {
        if (all[i].n_executions)
            all[n_ran++] = all[i];
        else
            vtrn_executable_destroy(all[i].executable);
    }
    qsort(all, n_ran, sizeof *all, by_simulated_time);
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

static void write_summary(const vtrn_device *device, const entry *all, size_t n) {
    char path[DIRECTORY_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/summary.json", device->profile_dir);
    FILE *f = fopen(path, "w");
    if (!f)
        return;
    const runtime_device *rt = device->rt;
    fprintf(f, "{\n  \"version\": \"%s\",\n  \"chip\": \"%s\",\n  \"instance\": \"%s\",\n",
            vtrn_version(), rt->chip.name, rt->instance.name);
    fprintf(f, "  \"dollars_per_hour\": %.9g,\n  \"instance_cores\": %d,\n  \"executables\": [",
            rt->instance.dollars_per_hour, rt->n_cores);
    for (size_t i = 0; i < n; i++) {
        char name[128];
        safe_name(all[i].executable->name, name, sizeof name);
        fprintf(f,
                "%s\n    {\"name\": \"%s\", \"n\": %llu, \"executions\": %llu, \"step_ns\": %.17g, "
                "\"total_simulated_ns\": %.17g}",
                i ? "," : "", name, (unsigned long long)all[i].executable->serial,
                (unsigned long long)all[i].n_executions, all[i].step_ns, all[i].total_simulated_ns);
    }
    fprintf(f, "\n  ]\n}\n");
    fclose(f);
}

/* Failures here cannot be returned to anyone: they are written beside the profile. */
static void write_one(const vtrn_executable *e, const char *directory) {
    vtrn_status status = vtrn_executable_profile_write(e, directory);
    if (!status)
        return;
    char path[2 * DIRECTORY_PATH_MAX];
    snprintf(path, sizeof path, "%s/error.txt", directory);
    FILE *f = fopen(path, "w");
    if (f) {
        fprintf(f, "%s\n", vtrn_status_text(status));
        fclose(f);
    }
    vtrn_status_free(status);
}

static void write_device(vtrn_device *device) {
    size_t n;
    entry *all = collect(device, &n);
    if (!all)
        return;
    write_summary(device, all, n);
    for (size_t i = 0; i < n && i < MAX_PROFILES; i++) {
        const vtrn_executable *e = all[i].executable;
        char name[128], path[DIRECTORY_PATH_MAX + 256];
        safe_name(e->name, name, sizeof name);
        snprintf(path, sizeof path, "%s/%s-%llu", device->profile_dir, name,
                 (unsigned long long)e->serial);
        if (i == 0)
            write_one(e, device->profile_dir);
        write_one(e, path);
    }
    for (size_t i = 0; i < n; i++)
        vtrn_executable_destroy(all[i].executable);
    free(all);
}

void vtrn_profile_flush(void) {
    pthread_mutex_lock(&open_lock);
    for (vtrn_device *d = open_devices; d; d = d->next_open)
        if (d->rt->n_forks == process_n_forks()) /* a fork did not run what it has */
            write_device(d);
    pthread_mutex_unlock(&open_lock);
}

/* Devices that nobody closed: plugins are often not asked to. Who closes one now waits for the
 * lock, finds it written, and only then lets it go. */
static void write_at_exit(void) {
    pthread_mutex_lock(&open_lock);
    for (vtrn_device *d = open_devices; d; d = d->next_open)
        write_device(d);
    open_devices = NULL;
    pthread_mutex_unlock(&open_lock);
}

vtrn_status api_profile_register(vtrn_device *device) {
    static bool has_handler;
    const char *directory = getenv("VTRN_PROFILE");
    if (!directory || !*directory)
        return NULL;
    VTRN_RETURN_IF_ERROR(vtrn_status_annotate(directory_make(directory), "VTRN_PROFILE"));
    device->profile_dir = strdup(directory);
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
    write_device(device);
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
