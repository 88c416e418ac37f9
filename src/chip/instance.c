/* chips/instances.toml -> vtrn_instance: one table an instance type. */
#include "chip/chip.h"
#include "chip/chip_file.h"
#include "chip/toml.h"

#include <stdlib.h>
#include <string.h>

typedef enum field {
    CHIP,
    N_CHIPS,
    N_VCPUS,
    HOST_GIB,
    DOLLARS,
    TOPOLOGY,
    N_REQUIRED,
    LINK = N_REQUIRED,
    Z_LINK,
    N_NICS,
    NIC,
    N_FIELDS,
} field;

static const struct {
    const char *key;
    bool is_text, is_integer;
    double min, max;
} fields[N_FIELDS] = {
    [CHIP] = {"chip", true, false, 0, 0},
    [N_CHIPS] = {"chips", false, true, 1, 4096},
    [N_VCPUS] = {"vcpus", false, true, 1, 1e6},
    [HOST_GIB] = {"host_gib", false, false, 1, 1e7},
    [DOLLARS] = {"dollars_per_hour", false, false, 0, 1e6}, /* 0: not published */
    [TOPOLOGY] = {"topology", true, false, 0, 0},
    [LINK] = {"link_bytes_per_s", false, false, 1e6, 1e15},
    [Z_LINK] = {"z_link_bytes_per_s", false, false, 1e6, 1e15},
    [N_NICS] = {"nics", false, true, 1, 4096},
    [NIC] = {"nic_bytes_per_s", false, false, 1e6, 1e15},
};

typedef struct reading {
    const char *file;
    vtrn_instance *out;
    int capacity, n;
    unsigned seen; /* fields of the open table */
} reading;

static vtrn_status close_table(const reading *r) {
    if (!r->n)
        return NULL;
    for (int i = 0; i < N_REQUIRED; i++)
        if (!(r->seen & (1u << i)))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: %s is missing in [\"%s\"]; add it", r->file,
                              fields[i].key, r->out[r->n - 1].name);
    return NULL;
}

static vtrn_status on_table(void *ctx, const toml_item *item) {
    reading *r = ctx;
    VTRN_RETURN_IF_ERROR(close_table(r));
    if (r->n == r->capacity)
        return VTRN_ERROR(VTRN_CAPACITY, "%s:%d: more than %d instances", r->file, item->line,
                          r->capacity);
    if (strlen(item->table) >= CHIP_NAME_MAX)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: name '%s' is longer than %d characters",
                          r->file, item->line, item->table, CHIP_NAME_MAX - 1);
    r->out[r->n] = (vtrn_instance){0};
    memcpy(r->out[r->n++].name, item->table, strlen(item->table) + 1);
    r->seen = 0;
    return NULL;
}

static vtrn_status check(const toml_item *item, field f) {
    bool is_number = item->kind == TOML_INTEGER || item->kind == TOML_FLOAT;
    if (fields[f].is_text ? item->kind != TOML_STRING
                          : !is_number || (fields[f].is_integer && item->kind != TOML_INTEGER))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: %s.%s = %s: it is %s, must be %s", item->file,
                          item->line, item->table, item->key, item->text,
                          toml_kind_name(item->kind),
                          fields[f].is_text      ? "a string in double quotes"
                          : fields[f].is_integer ? "an integer"
                                                 : "a number");
    if (fields[f].is_text && (!item->text[0] || strlen(item->text) >= CHIP_NAME_MAX))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: %s.%s = \"%s\": must have 1 to %d characters",
                          item->file, item->line, item->table, item->key, item->text,
                          CHIP_NAME_MAX - 1);
    if (!fields[f].is_text && !(item->number >= fields[f].min && item->number <= fields[f].max))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: %s.%s = %s: must lie between %g and %g",
                          item->file, item->line, item->table, item->key, item->text, fields[f].min,
                          fields[f].max);
    return NULL;
}

static void store(const toml_item *item, field f, vtrn_instance *out) {
    switch (f) {
    case CHIP:
        memcpy(out->chip, item->text, strlen(item->text) + 1);
        break;
    case N_CHIPS:
        out->n_chips = (int)item->number;
        break;
    case N_VCPUS:
        out->n_vcpus = (int)item->number;
        break;
    case HOST_GIB:
        out->host_gib = item->number;
        break;
    case DOLLARS:
        out->dollars_per_hour = item->number;
        break;
    case LINK:
        out->link_bytes_per_s = item->number;
        break;
    case Z_LINK:
        out->z_link_bytes_per_s = item->number;
        break;
    case N_NICS:
        out->n_nics = (int)item->number;
        break;
    case NIC:
        out->nic_bytes_per_s = item->number;
        break;
    default:
        memcpy(out->topology, item->text, strlen(item->text) + 1);
        break;
    }
}

static vtrn_status on_item(void *ctx, const toml_item *item) {
    reading *r = ctx;
    if (!r->n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s:%d: '%s' stands before any instance; write "
                          "[\"name\"] first",
                          item->file, item->line, item->key);
    int best = 0;
    for (int i = 0; i < N_FIELDS; i++) {
        if (toml_edit_distance(item->key, fields[i].key) <
            toml_edit_distance(item->key, fields[best].key))
            best = i;
    }
    if (strcmp(item->key, fields[best].key) != 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s:%d: unknown key '%s' in [\"%s\"]; did you mean "
                          "'%s'?",
                          item->file, item->line, item->key, item->table, fields[best].key);
    if (r->seen & (1u << best))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%d: %s is given twice in [\"%s\"]; keep one",
                          item->file, item->line, item->key, item->table);
    r->seen |= 1u << best;
    VTRN_RETURN_IF_ERROR(check(item, best));
    store(item, best, &r->out[r->n - 1]);
    return NULL;
}

vtrn_status chip_instances(vtrn_instance *out, int capacity, int *n) {
    char path[CHIP_PATH_MAX], *text;
    *n = 0;
    VTRN_RETURN_IF_ERROR(chip_file_read("instances", path, &text));
    reading r = {.file = path, .out = out, .capacity = capacity};
    vtrn_status status = toml_parse(text, path, on_item, on_table, &r);
    if (!status)
        status = close_table(&r);
    free(text);
    if (!status)
        *n = r.n;
    return status;
}

vtrn_status chip_instance_load(const char *name, vtrn_instance *out) {
    vtrn_instance all[CHIP_MAX_INSTANCES];
    int n;
    VTRN_RETURN_IF_ERROR(chip_instances(all, CHIP_MAX_INSTANCES, &n));
    int best = -1;
    for (int i = 0; i < n; i++) {
        if (strcmp(all[i].name, name) == 0) {
            *out = all[i];
            return NULL;
        }
        if (best < 0 ||
            toml_edit_distance(name, all[i].name) < toml_edit_distance(name, all[best].name))
            best = i;
    }
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "no instance '%s' in instances.toml; did you mean '%s'?",
                      name, best >= 0 ? all[best].name : "");
}

static bool is_smaller(const vtrn_instance *a, const vtrn_instance *b) {
    if (a->n_chips != b->n_chips)
        return a->n_chips < b->n_chips;
    return a->dollars_per_hour > 0 &&
           (b->dollars_per_hour == 0 || a->dollars_per_hour < b->dollars_per_hour);
}

const vtrn_instance *chip_smallest_instance(const vtrn_instance *all, int n, const char *chip) {
    const vtrn_instance *best = NULL;
    for (int i = 0; i < n; i++)
        if (strcmp(all[i].chip, chip) == 0 && (!best || is_smaller(&all[i], best)))
            best = &all[i];
    return best;
}
