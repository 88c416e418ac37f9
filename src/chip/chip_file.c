/* Where chip files are, and what is in them: the directories in search order, the names, the text.
 */
#include "chip/chip_file.h"

#include "chip/chip.h"
#include "chip/chips_dir.h"
#include "chip/toml.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 1 << 20, MAX_DIRS = 16 };

typedef struct dir_list {
    int n;
    char dir[MAX_DIRS][CHIP_PATH_MAX];
} dir_list;

static void add_dir(dir_list *list, const char *dir, size_t len) {
    if (!len || len >= CHIP_PATH_MAX - CHIP_NAME_MAX - 8 || list->n == MAX_DIRS)
        return;
    memcpy(list->dir[list->n], dir, len);
    list->dir[list->n++][len] = 0;
}

/* chips/ beside the library that this code is in: where a Python package carries them. */
static void add_library_dir(dir_list *list) {
    Dl_info info;
    if (!dladdr((const void *)&chip_load, &info) || !info.dli_fname)
        return;
    const char *slash = strrchr(info.dli_fname, '/');
    char dir[CHIP_PATH_MAX];
    if (!slash)
        return;
    int len =
        snprintf(dir, sizeof dir, "%.*s/chips", (int)(slash - info.dli_fname), info.dli_fname);
    if (len > 0 && len < (int)sizeof dir && access(dir, R_OK | X_OK) == 0)
        add_dir(list, dir, (size_t)len);
}

static void search_dirs(dir_list *list) {
    list->n = 0;
    const char *path = getenv("VTRN_CHIPS_PATH");
    while (path && *path) {
        size_t len = strcspn(path, ":");
        add_dir(list, path, len);
        path += len + (path[len] == ':');
    }
    add_library_dir(list);
    add_dir(list, VTRN_CHIPS_INSTALL_DIR, strlen(VTRN_CHIPS_INSTALL_DIR));
    add_dir(list, VTRN_CHIPS_SOURCE_DIR, strlen(VTRN_CHIPS_SOURCE_DIR));
}

static vtrn_status read_all(const char *path, FILE *file, char **text) {
    char *buffer = malloc(MAX_FILE_BYTES + 1);
    if (!buffer)
        return VTRN_OUT_OF_MEMORY(MAX_FILE_BYTES + 1);
    size_t n = fread(buffer, 1, MAX_FILE_BYTES + 1, file);
    vtrn_status status = NULL;
    if (ferror(file))
        status = VTRN_ERROR(VTRN_RESOURCE, "%s: cannot be read: %s", path, strerror(errno));
    else if (n > MAX_FILE_BYTES)
        status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: longer than %d bytes; not a chip file", path,
                            (int)MAX_FILE_BYTES);
    else if (memchr(buffer, 0, n))
        status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: holds a zero byte; it must be text", path);
    if (status) {
        free(buffer);
        return status;
    }
    buffer[n] = 0;
    *text = buffer;
    return NULL;
}

static vtrn_status unknown_name(const char *name) {
    if (strcmp(name, "instances") == 0)
        return VTRN_ERROR(VTRN_RESOURCE, "no instances.toml where the chip files are; "
                                         "VTRN_CHIPS_PATH adds directories");
    char names[CHIP_MAX_INSTANCES][CHIP_NAME_MAX];
    char list[CHIP_MAX_INSTANCES * (CHIP_NAME_MAX + 2)] = "";
    int n = 0, nearest = 0, n_nearest = 0, least = TOML_NAME_MAX;
    vtrn_status_free(chip_names(names, CHIP_MAX_INSTANCES, &n));
    for (int i = 0, at = 0; i < n; i++) {
        at += snprintf(list + at, sizeof list - (size_t)at, "%s%s", i ? ", " : "", names[i]);
        int distance = toml_edit_distance(name, names[i]);
        n_nearest = distance < least ? 1 : n_nearest + (distance == least);
        nearest = distance < least ? i : nearest;
        least = distance < least ? distance : least;
    }
    bool is_typo = n_nearest == 1 && least <= 2;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "no chip '%s'; known are %s%s%s%s; a path must contain '/', and "
                      "VTRN_CHIPS_PATH adds directories",
                      name, n ? list : "none", is_typo ? "; did you mean '" : "",
                      is_typo ? names[nearest] : "", is_typo ? "'?" : "");
}

vtrn_status chip_file_read(const char *name, char path[CHIP_PATH_MAX], char **text) {
    FILE *file = NULL;
    *text = NULL;
    if (strchr(name, '/')) {
        size_t size = strlen(name) + 1;
        if (size > CHIP_PATH_MAX)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "the path of a chip file is longer than %d bytes",
                              CHIP_PATH_MAX - 1);
        memcpy(path, name, size);
        file = fopen(path, "r");
        if (!file)
            return VTRN_ERROR(VTRN_RESOURCE, "%s: cannot be opened: %s", path, strerror(errno));
    } else {
        dir_list *list = malloc(sizeof *list);
        if (!list)
            return VTRN_OUT_OF_MEMORY(sizeof *list);
        search_dirs(list);
        for (int i = 0; i < list->n && !file && *name && strlen(name) < CHIP_NAME_MAX; i++) {
            if (snprintf(path, CHIP_PATH_MAX, "%s/%s.toml", list->dir[i], name) < CHIP_PATH_MAX)
                file = fopen(path, "r");
        }
        free(list);
        if (!file)
            return unknown_name(name);
    }
    vtrn_status status = read_all(path, file, text);
    fclose(file);
    return status;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(a, b);
}

static void add_name(const char *file, char out[][CHIP_NAME_MAX], int capacity, int *n) {
    size_t len = strlen(file);
    if (len <= 5 || len - 5 >= CHIP_NAME_MAX || strcmp(file + len - 5, ".toml") != 0 ||
        strcmp(file, "instances.toml") == 0 || *n == capacity)
        return;
    for (int i = 0; i < *n; i++)
        if (strlen(out[i]) == len - 5 && memcmp(out[i], file, len - 5) == 0)
            return;
    memcpy(out[*n], file, len - 5);
    out[(*n)++][len - 5] = 0;
}

vtrn_status chip_names(char out[][CHIP_NAME_MAX], int capacity, int *n) {
    dir_list *list = malloc(sizeof *list);
    *n = 0;
    if (!list)
        return VTRN_OUT_OF_MEMORY(sizeof *list);
    search_dirs(list);
    for (int i = 0; i < list->n; i++) {
        DIR *dir = opendir(list->dir[i]);
        for (struct dirent *entry; dir && (entry = readdir(dir));)
            add_name(entry->d_name, out, capacity, n);
        if (dir)
            closedir(dir);
    }
    free(list);
    qsort(out, (size_t)*n, CHIP_NAME_MAX, compare_names);
    return NULL;
}
