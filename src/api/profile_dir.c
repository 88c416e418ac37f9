/* VTRN_PROFILE=dir: at close or at exit, the profile of the heaviest executable goes to dir, those
 * of the next ones to dir/<name>-<n>/, and one line for each to dir/summary.json. */
#include "api/api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_PROFILES = 16, PATH_MAX_BYTES = 4096 };

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static vtrn_device *open_devices;

/* Makes the directory and its parents. */
static vtrn_status make_directory(const char *path) {
    char partial[PATH_MAX_BYTES];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof partial)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "VTRN_PROFILE: a path of 1..%d bytes, not %zu",
                          PATH_MAX_BYTES - 1, len);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(partial, path, i);
        partial[i] = '\0';
        if (mkdir(partial, 0777) != 0 && errno != EEXIST && i == len)
            return VTRN_ERROR(VTRN_RESOURCE, "VTRN_PROFILE: cannot make directory %s: %s", partial,
                              strerror(errno));
    }
    return NULL;
}

static int by_simulated_time(const void *a, const void *b) {
    const vtrn_executable *x = *(vtrn_executable *const *)a, *y = *(vtrn_executable *const *)b;
    double tx = x->loaded->total_simulated_ns, ty = y->loaded->total_simulated_ns;
    if (tx != ty)
        return tx < ty ? 1 : -1;
    return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* The executables that ran, heaviest first, each retained; *n of them. NULL when there are none. */
static vtrn_executable **collect(vtrn_device *device, size_t *n) {
    pthread_mutex_lock(&device->lock);
    size_t capacity = 0;
    for (vtrn_executable *e = device->executables; e; e = e->next)
        capacity++;
    vtrn_executable **all = calloc(capacity + 1, sizeof(vtrn_executable *));
    *n = 0;
    for (vtrn_executable *e = device->executables; all && e; e = e->next) {
        if (e->loaded->n_executions == 0)
            continue;
        api_executable_retain(e);
        all[(*n)++] = e;
    }
    pthread_mutex_unlock(&device->lock);
    if (all)
        qsort(all, *n, sizeof(vtrn_executable *), by_simulated_time);
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

static void write_summary(const vtrn_device *device, vtrn_executable *const *all, size_t n) {
    char path[PATH_MAX_BYTES + 32];
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
        const runtime_program *l = all[i]->loaded;
        char name[128];
        safe_name(all[i]->name, name, sizeof name);
        double step_ns = l->last_timing < 0 ? 0 : l->timings[l->last_timing].summary.total_ns;
        fprintf(f,
                "%s\n    {\"name\": \"%s\", \"n\": %llu, \"executions\": %llu, \"step_ns\": %.17g, "
                "\"total_simulated_ns\": %.17g}",
                i ? "," : "", name, (unsigned long long)all[i]->serial,
                (unsigned long long)l->n_executions, step_ns, l->total_simulated_ns);
    }
    fprintf(f, "\n  ]\n}\n");
    fclose(f);
}

/* Failures here cannot be returned to anyone: they are written beside the profile. */
static void write_one(const vtrn_executable *e, const char *directory) {
    vtrn_status status = make_directory(directory);
    if (!status)
        status = vtrn_executable_profile_write(e, directory);
    if (!status)
        return;
    char path[2 * PATH_MAX_BYTES];
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
    vtrn_executable **all = collect(device, &n);
    if (!all)
        return;
    write_summary(device, all, n);
    for (size_t i = 0; i < n && i < MAX_PROFILES; i++) {
        char name[128], path[PATH_MAX_BYTES + 256];
        safe_name(all[i]->name, name, sizeof name);
        snprintf(path, sizeof path, "%s/%s-%llu", device->profile_dir, name,
                 (unsigned long long)all[i]->serial);
        if (i == 0)
            write_one(all[i], device->profile_dir);
        write_one(all[i], path);
    }
    for (size_t i = 0; i < n; i++)
        vtrn_executable_destroy(all[i]);
    free(all);
}

void vtrn_profile_flush(void) {
    pthread_mutex_lock(&open_lock);
    for (vtrn_device *d = open_devices; d; d = d->next_open)
        write_device(d);
    pthread_mutex_unlock(&open_lock);
}

/* A device that nobody closed: plugins are often not asked to. */
static void write_at_exit(void) {
    pthread_mutex_lock(&open_lock);
    vtrn_device *devices = open_devices;
    open_devices = NULL;
    pthread_mutex_unlock(&open_lock);
    for (vtrn_device *d = devices; d; d = d->next_open)
        write_device(d);
}

vtrn_status api_profile_register(vtrn_device *device) {
    static bool has_handler;
    const char *directory = getenv("VTRN_PROFILE");
    if (!directory || !*directory)
        return NULL;
    VTRN_RETURN_IF_ERROR(make_directory(directory));
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
