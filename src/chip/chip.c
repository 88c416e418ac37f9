/* chips/<name>.toml -> vtrn_chip: each key is a row of chip_keys.def, checked against its range. */
#include "chip/chip.h"

#include "chip/chip_file.h"
#include "chip/toml.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum key_kind { TEXT, BOOL, INT, U32, U64, REAL } key_kind;
typedef enum key_when { ALWAYS, RUN, EXCHANGE, OPTIONAL } key_when;

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

enum { N_KEYS = sizeof keys / sizeof keys[0] };

typedef struct reading {
    vtrn_chip *chip;
    chip_sources *sources; /* NULL: the caller reads none */
    int seen_line[N_KEYS]; /* 0: not seen */
} reading;

static const char *const basis_names[] = {"unstated", "documented", "measured", "fitted",
                                          "assumed"};

const char *chip_basis_name(chip_basis basis) {
    return basis_names[basis];
}

const char *chip_key_table(int key) {
    return keys[key].table;
}

const char *chip_key_name(int key) {
    return keys[key].key;
}

const char *chip_key_unit(int key) {
    return keys[key].unit;
}

double *chip_key_real(vtrn_chip *chip, int key) {
    return keys[key].kind == REAL ? (double *)((char *)chip + keys[key].offset) : NULL;
}

/* "measured: 107 ns start to start": the basis, then what supports it. */
static void keep_source(reading *r, int key, const char *comment) {
    for (int b = CHIP_DOCUMENTED; b <= CHIP_ASSUMED; b++) {
        size_t len = strlen(basis_names[b]);
        if (strncmp(comment, basis_names[b], len) == 0 && comment[len] == ':')
            r->chip->basis[key] = (uint8_t)b;
    }
    if (r->sources)
        memcpy(r->sources->text[key], comment, strlen(comment) + 1);
}

static bool is_required(const key_row *row, const vtrn_chip *chip) {
    return row->when == ALWAYS ||
           (chip->is_executable && (row->when == RUN || (row->when == EXCHANGE && chip->gen > 1)));
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
        keep_source(r, i, item->comment);
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
    uint32_t transposed_bytes = (uint32_t)c->n_partitions * (uint32_t)sizeof(float);
    if (c->psum_bank_bytes % sizeof(float) || c->psum_bank_bytes < transposed_bytes)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: memory.psum_bank_bytes = %u, must be a multiple of 4 and at least "
                          "%u: a bank holds a transposed tile, an fp32 for each of %d partitions",
                          file, c->psum_bank_bytes, transposed_bytes, c->n_partitions);
    if (c->sbuf_partition_bytes <
        c->sbuf_reserved_partition_bytes + (uint32_t)CHIP_LEAST_SBUF_BYTES)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: memory.sbuf_partition_bytes = %u, must exceed "
                          "sbuf_reserved_partition_bytes = %u by at least %d: less does not hold "
                          "the least tiles of every kernel",
                          file, c->sbuf_partition_bytes, c->sbuf_reserved_partition_bytes,
                          (int)CHIP_LEAST_SBUF_BYTES);
    if (c->n_hbm_stacks * c->cores_per_stack != c->n_cores)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: memory.hbm_stacks * cores_per_stack = %d * %d, must equal "
                          "chip.cores = %d",
                          file, c->n_hbm_stacks, c->cores_per_stack, c->n_cores);
    return NULL;
}

static vtrn_status parse(const char *text, const char *file_name, vtrn_chip *out,
                         chip_sources *sources) {
    reading r = {.chip = out, .sources = sources};
    memset(out, 0, sizeof *out);
    VTRN_RETURN_IF_ERROR(toml_parse(text, file_name, on_item, NULL, &r));
    for (int i = 0; i < N_KEYS; i++)
        if (!r.seen_line[i] && is_required(&keys[i], out))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "%s: %s is missing in [%s]; add '%s = ...'%s%s%s with its source",
                              file_name, keys[i].key, keys[i].table, keys[i].key,
                              keys[i].unit[0] ? " (" : "", keys[i].unit,
                              keys[i].unit[0] ? ")" : "");
    return check_together(out, file_name);
}

vtrn_status chip_parse(const char *text, const char *file_name, vtrn_chip *out) {
    return parse(text, file_name, out, NULL);
}

/* "trn2@2" asks for version 2 of trn2. */
static vtrn_status check_version(const char *asked, const char *version, const vtrn_chip *chip) {
    char *end;
    long number = strtol(version, &end, 10);
    if (*end || end == version || number != chip->version)
        return VTRN_ERROR(
            VTRN_BAD_ARGUMENT,
            "chip '%s': its file has version %d of %s; ask for %s@%d, or for an older "
            "file by its path",
            asked, chip->version, chip->name, chip->name, chip->version);
    return NULL;
}

static vtrn_status load(const char *name_or_path, vtrn_chip *out, chip_sources *sources) {
    char path[CHIP_PATH_MAX], name[CHIP_PATH_MAX], *text;
    const char *at = strchr(name_or_path, '/') ? NULL : strchr(name_or_path, '@');
    size_t len = at ? (size_t)(at - name_or_path) : strlen(name_or_path);
    if (at && len < sizeof name) {
        memcpy(name, name_or_path, len);
        name[len] = 0;
    }
    VTRN_RETURN_IF_ERROR(
        chip_file_read(at && len < sizeof name ? name : name_or_path, path, &text));
    vtrn_status status = parse(text, path, out, sources);
    free(text);
    return status || !at ? status : check_version(name_or_path, at + 1, out);
}

vtrn_status chip_load(const char *name_or_path, vtrn_chip *out) {
    return load(name_or_path, out, NULL);
}

vtrn_status chip_sources_load(const char *name_or_path, chip_sources *out) {
    vtrn_chip chip;
    memset(out, 0, sizeof *out);
    return load(name_or_path, &chip, out);
}
