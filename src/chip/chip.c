/* chips/<name>.toml -> vtrn_chip: each key is a row of chip_keys.def, checked against its range. */
#include "chip/chip.h"

#include "chip/chip_file.h"
#include "chip/chips_dir.h"
#include "chip/toml.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum key_kind { TEXT, BOOL, INT, U32, U64, REAL } key_kind;
typedef enum key_when { ALWAYS, RUN, OPTIONAL } key_when;

typedef struct key_row {
    const char *table, *key;
    size_t offset;
    key_kind kind;
    const char *unit;
    double min, max;
    key_when when;
} key_row;

static const key_row keys[] = {
#define KEY(table, key, field, kind, unit, min, max, when)                                         \
    {table, key, offsetof(vtrn_chip, field), kind, unit, min, max, when},
#include "chip/chip_keys.def"
#undef KEY
};

enum { N_KEYS = sizeof keys / sizeof keys[0], MAX_FILE_BYTES = 1 << 20, MAX_DIRS = 16 };

typedef struct reading {
    vtrn_chip *chip;
    int seen_line[N_KEYS]; /* 0: not seen */
} reading;

/* Unlike chip_names(), any number of directories may hold the same name: the first wins. */
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
    char names[CHIP_MAX_INSTANCES][CHIP_NAME_MAX];
    char list[CHIP_MAX_INSTANCES * (CHIP_NAME_MAX + 2)] = "";
    int n = 0;
    vtrn_status_free(chip_names(names, CHIP_MAX_INSTANCES, &n));
    for (int i = 0, at = 0; i < n; i++)
        at += snprintf(list + at, sizeof list - (size_t)at, "%s%s", i ? ", " : "", names[i]);
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "no chip '%s'; known are %s; a path must contain '/', and VTRN_CHIPS_PATH "
                      "adds directories",
                      name, n ? list : "none");
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
            snprintf(path, CHIP_PATH_MAX, "%s/%s.toml", list->dir[i], name);
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

static bool is_missing(const key_row *row, const vtrn_chip *chip) {
    return row->when == ALWAYS || (row->when == RUN && chip->is_executable);
}

static vtrn_status unknown_key(const toml_item *item) {
    const key_row *best = NULL;
    int best_distance = 1 << 30;
    for (int i = 0; i < N_KEYS; i++) {
        int distance = toml_edit_distance(item->key, keys[i].key) +
                       toml_edit_distance(item->table, keys[i].table);
        if (distance < best_distance) {
            best_distance = distance;
            best = &keys[i];
        }
    }
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "%s:%d: unknown key '%s' in [%s]; did you mean '%s' in [%s]?", item->file,
                      item->line, item->key, item->table, best->key, best->table);
}

static vtrn_status wrong_type(const toml_item *item, const char *wanted) {
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: %s.%s = %s: it is %s, must be %s", item->file,
                      item->line, item->table, item->key, item->text, toml_kind_name(item->kind),
                      wanted);
}

static vtrn_status store_text(const toml_item *item, char *out) {
    if (item->kind != TOML_STRING)
        return wrong_type(item, "a string in double quotes");
    if (!item->text[0] || strlen(item->text) >= CHIP_NAME_MAX)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: %s.%s = \"%s\": must have 1 to %d characters",
                          item->file, item->line, item->table, item->key, item->text,
                          CHIP_NAME_MAX - 1);
    memcpy(out, item->text, strlen(item->text) + 1);
    return NULL;
}

static vtrn_status store(const key_row *row, const toml_item *item, vtrn_chip *chip) {
    char *field = (char *)chip + row->offset;
    if (row->kind == TEXT)
        return store_text(item, field);
    if (row->kind == BOOL) {
        if (item->kind != TOML_BOOL)
            return wrong_type(item, "true or false");
        memcpy(field, &item->flag, sizeof(bool));
        return NULL;
    }
    if (item->kind != TOML_INTEGER && !(item->kind == TOML_FLOAT && row->kind == REAL))
        return wrong_type(item, row->kind == REAL ? "a number" : "an integer");
    double value = item->number;
    if (!(value >= row->min && value <= row->max))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: %s.%s = %s: must lie between %g and %g%s%s",
                          item->file, item->line, item->table, item->key, item->text, row->min,
                          row->max, row->unit[0] ? " " : "", row->unit);
    if (row->kind == INT)
        *(int *)field = (int)value;
    else if (row->kind == U32)
        *(uint32_t *)field = (uint32_t)value;
    else if (row->kind == U64)
        *(uint64_t *)field = (uint64_t)value;
    else
        *(double *)field = value;
    return NULL;
}

static vtrn_status on_item(void *ctx, const toml_item *item) {
    reading *r = ctx;
    for (int i = 0; i < N_KEYS; i++) {
        if (strcmp(keys[i].key, item->key) != 0 || strcmp(keys[i].table, item->table) != 0)
            continue;
        if (r->seen_line[i])
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT, "%s:%d: %s.%s = %s: the key was given on line %d; keep one",
                item->file, item->line, item->table, item->key, item->text, r->seen_line[i]);
        r->seen_line[i] = item->line;
        return store(&keys[i], item, r->chip);
    }
    return unknown_key(item);
}

static vtrn_status check_together(const vtrn_chip *c, const char *file) {
    if (!c->is_executable)
        return NULL;
    if ((uint64_t)c->n_psum_banks * c->psum_bank_bytes != c->psum_partition_bytes)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: memory.psum_banks * psum_bank_bytes = %d * %u, must equal "
                          "psum_partition_bytes = %u",
                          file, c->n_psum_banks, c->psum_bank_bytes, c->psum_partition_bytes);
    if (c->sbuf_reserved_partition_bytes >= c->sbuf_partition_bytes)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: memory.sbuf_reserved_partition_bytes = %u, must be less than "
                          "sbuf_partition_bytes = %u",
                          file, c->sbuf_reserved_partition_bytes, c->sbuf_partition_bytes);
    if (c->n_hbm_stacks * c->cores_per_stack != c->n_cores)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: memory.hbm_stacks * cores_per_stack = %d * %d, must equal "
                          "chip.cores = %d",
                          file, c->n_hbm_stacks, c->cores_per_stack, c->n_cores);
    return NULL;
}

vtrn_status chip_parse(const char *text, const char *file_name, vtrn_chip *out) {
    reading r = {.chip = out};
    memset(out, 0, sizeof *out);
    VTRN_RETURN_IF_ERROR(toml_parse(text, file_name, on_item, NULL, &r));
    for (int i = 0; i < N_KEYS; i++)
        if (!r.seen_line[i] && is_missing(&keys[i], out))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "%s: %s is missing in [%s]; add '%s = ...'%s%s%s with its source",
                              file_name, keys[i].key, keys[i].table, keys[i].key,
                              keys[i].unit[0] ? " (" : "", keys[i].unit,
                              keys[i].unit[0] ? ")" : "");
    return check_together(out, file_name);
}

vtrn_status chip_load(const char *name_or_path, vtrn_chip *out) {
    char path[CHIP_PATH_MAX], *text;
    VTRN_RETURN_IF_ERROR(chip_file_read(name_or_path, path, &text));
    vtrn_status status = chip_parse(text, path, out);
    free(text);
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
