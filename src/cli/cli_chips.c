/* vtrn chips: lists the chips and instances, shows a chip's numbers. */
#include "chip/chip.h"
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_CHIPS = 64 };

typedef enum key_kind { TEXT, BOOL, INT, U32, U64, REAL } key_kind;

typedef enum key_when { ALWAYS, RUN, EXCHANGE, OPTIONAL } key_when;

typedef struct key {
    const char *table, *name, *unit;
    key_kind kind;
    key_when when;
    size_t offset;
} key;

static const key keys[] = {
#define KEY(table, name, field, kind, unit, min, max, when)                                        \
    {table, name, unit, kind, when, offsetof(vtrn_chip, field)},
#include "chip/chip_keys.def"
#undef KEY
};
enum { N_KEYS = sizeof keys / sizeof *keys };

static double value_of(const vtrn_chip *c, const key *k) {
    const char *at = (const char *)c + k->offset;
    switch (k->kind) {
    case BOOL:
        return *(const bool *)at;
    case INT:
        return *(const int *)at;
    case U32:
        return *(const uint32_t *)at;
    case U64:
        return (double)*(const uint64_t *)at;
    case REAL:
        return *(const double *)at;
    default:
        return 0;
    }
}

/* The file of a chip that cannot be simulated leaves out what nobody published. */
static bool is_published(const vtrn_chip *c, const key *k) {
    return c->is_executable || k->when == ALWAYS || k->kind == TEXT || value_of(c, k) != 0;
}

static void show_text(const vtrn_chip *c) {
    const char *table = "";
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        if (strcmp(table, k->table) != 0)
            printf("%s[%s]\n", i ? "\n" : "", k->table);
        table = k->table;
        if (k->kind == TEXT)
            printf("  %-32s %s\n", k->name, (const char *)c + k->offset);
        else if (!is_published(c, k))
            printf("  %-32s not published\n", k->name);
        else if (k->kind == BOOL)
            printf("  %-32s %s\n", k->name, value_of(c, k) ? "true" : "false");
        else
            printf("  %-32s %.12g%s%s\n", k->name, value_of(c, k), k->unit[0] ? " " : "", k->unit);
    }
}

static void show_json(const vtrn_chip *c) {
    const char *table = "";
    printf("{");
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        bool is_new = strcmp(table, k->table) != 0;
        if (is_new)
            printf("%s\"%s\": {", i ? "}, " : "", k->table);
        printf("%s\"%s\": ", is_new ? "" : ", ", k->name);
        table = k->table;
        if (k->kind == TEXT)
            cli_json_text(stdout, (const char *)c + k->offset);
        else if (!is_published(c, k))
            printf("null");
        else if (k->kind == BOOL)
            printf(value_of(c, k) ? "true" : "false");
        else
            cli_json_number(stdout, value_of(c, k));
    }
    printf("}}\n");
}

/* The numbers that times follow from. */
static bool is_timing(const key *k) {
    static const char *const tables[] = {"clock",  "cost",   "dma",       "control",
                                         "custom", "launch", "collective"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (strcmp(k->table, tables[i]) == 0)
            return true;
    return strcmp(k->name, "hbm_bytes_per_s") == 0;
}

static const char *support_of(const chip_sources *sources, int i) {
    const char *colon = strchr(sources->text[i], ':');
    return colon ? colon + 1 + strspn(colon + 1, " ") : sources->text[i];
}

static void show_timing_text(const vtrn_chip *c, const chip_sources *sources) {
    int count[CHIP_ASSUMED + 1] = {0};
    printf("%s@%d\n", c->name, c->version);
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        if (!is_timing(k))
            continue;
        char name[96], value[96];
        snprintf(name, sizeof name, "%s.%s", k->table, k->name);
        if (k->kind == BOOL)
            snprintf(value, sizeof value, "%s", value_of(c, k) ? "true" : "false");
        else if (k->kind == TEXT)
            snprintf(value, sizeof value, "%s", (const char *)c + k->offset);
        else
            snprintf(value, sizeof value, "%.12g %s", value_of(c, k), k->unit);
        printf("  %-36s %-28s %-10s  %s\n", name, value, chip_basis_name(c->basis[i]),
               support_of(sources, i));
        count[c->basis[i]]++;
    }
    printf("%d documented, %d measured, %d fitted, %d assumed\n", count[CHIP_DOCUMENTED],
           count[CHIP_MEASURED], count[CHIP_FITTED], count[CHIP_ASSUMED]);
}

static void show_timing_json(const vtrn_chip *c, const chip_sources *sources) {
    printf("{\"chip\": ");
    cli_json_text(stdout, c->name);
    printf(", \"version\": %d, \"constants\": [", c->version);
    const char *separator = "";
    for (int i = 0; i < N_KEYS; i++) {
        const key *k = &keys[i];
        if (!is_timing(k))
            continue;
        printf("%s{\"table\": \"%s\", \"name\": \"%s\", \"unit\": \"%s\", \"value\": ", separator,
               k->table, k->name, k->unit);
        separator = ", ";
        if (k->kind == BOOL)
            printf(value_of(c, k) ? "true" : "false");
        else if (k->kind == TEXT)
            cli_json_text(stdout, (const char *)c + k->offset);
        else
            cli_json_number(stdout, value_of(c, k));
        printf(", \"basis\": \"%s\", \"source\": ", chip_basis_name(c->basis[i]));
        cli_json_text(stdout, support_of(sources, i));
        printf("}");
    }
    printf("]}\n");
}

static int show_timing(const char *name, bool is_json) {
    static vtrn_chip chip;
    static chip_sources sources;
    vtrn_status status = chip_load(name, &chip);
    if (!status)
        status = chip_sources_load(name, &sources);
    if (status)
        return cli_fail(status);
    (is_json ? show_timing_json : show_timing_text)(&chip, &sources);
    return CLI_OK;
}

static void list_text(const vtrn_chip *chips, int n_chips, const vtrn_instance *instances, int n) {
    printf("%-8s %-14s %5s %8s %9s %13s %13s\n", "chip", "core", "cores", "HBM", "HBM GB/s",
           "SBUF/core", "TFLOP/s/core");
    for (int i = 0; i < n_chips; i++) {
        const vtrn_chip *c = &chips[i];
        char hbm[24], sbuf[24];
        cli_bytes(hbm, sizeof hbm, (double)c->hbm_bytes);
        cli_bytes(sbuf, sizeof sbuf, (double)c->sbuf_partition_bytes * c->n_partitions);
        if (!c->sbuf_partition_bytes)
            snprintf(sbuf, sizeof sbuf, "not published");
        printf("%-8s %-14s %5d %8s %9.0f %13s %13.2f%s\n", c->name, c->core_name, c->n_cores, hbm,
               c->hbm_bytes_per_s * c->n_hbm_stacks / 1e9, sbuf, c->peak_tensor_flops / 1e12,
               c->is_executable ? "" : "  (cannot be simulated)");
    }
    printf("\n%-22s %-5s %5s %6s %9s %13s  %s\n", "instance", "chip", "chips", "vCPUs", "host GiB",
           "$/hour", "topology");
    for (int i = 0; i < n; i++) {
        const vtrn_instance *s = &instances[i];
        char price[24] = "not published";
        if (s->dollars_per_hour > 0)
            snprintf(price, sizeof price, "%.3f", s->dollars_per_hour);
        bool is_taken = chip_smallest_instance(instances, n, s->chip) == s;
        printf("%-22s %-5s %5d %6d %9.0f %13s  %s%s\n", s->name, s->chip, s->n_chips, s->n_vcpus,
               s->host_gib, price, s->topology, is_taken ? " *" : "");
    }
    printf("\n* what VTRN_CHIP alone takes: the smallest published instance of the chip\n");
}

static void list_json(const vtrn_chip *chips, int n_chips, const vtrn_instance *instances, int n) {
    printf("{\"chips\": [");
    for (int i = 0; i < n_chips; i++) {
        const vtrn_chip *c = &chips[i];
        printf("%s{\"name\": ", i ? ", " : "");
        cli_json_text(stdout, c->name);
        printf(", \"core\": ");
        cli_json_text(stdout, c->core_name);
        printf(", \"cores\": %d, \"executable\": %s, \"hbm_bytes\": %llu, \"hbm_bytes_per_s\": ",
               c->n_cores, c->is_executable ? "true" : "false", (unsigned long long)c->hbm_bytes);
        cli_json_number(stdout, c->hbm_bytes_per_s * c->n_hbm_stacks);
        printf(", \"peak_tensor_flops\": ");
        cli_json_number(stdout, c->peak_tensor_flops);
        const vtrn_instance *smallest = chip_smallest_instance(instances, n, c->name);
        printf(", \"instance\": ");
        if (smallest)
            cli_json_text(stdout, smallest->name);
        else
            printf("null");
        printf("}");
    }
    printf("], \"instances\": [");
    for (int i = 0; i < n; i++) {
        const vtrn_instance *s = &instances[i];
        printf("%s{\"name\": ", i ? ", " : "");
        cli_json_text(stdout, s->name);
        printf(", \"chip\": ");
        cli_json_text(stdout, s->chip);
        printf(", \"chips\": %d, \"vcpus\": %d, \"host_gib\": %.17g, \"dollars_per_hour\": %.17g, "
               "\"topology\": ",
               s->n_chips, s->n_vcpus, s->host_gib, s->dollars_per_hour);
        cli_json_text(stdout, s->topology);
        printf(", \"link_bytes_per_s\": %.17g}", s->link_bytes_per_s);
    }
    printf("]}\n");
}

static int list_all(bool is_json) {
    static char names[MAX_CHIPS][CHIP_NAME_MAX];
    static vtrn_chip chips[MAX_CHIPS];
    static vtrn_instance instances[CHIP_MAX_INSTANCES];
    int n_chips = 0, n_instances = 0;
    vtrn_status status = chip_names(names, MAX_CHIPS, &n_chips);
    for (int i = 0; i < n_chips && !status; i++)
        status = chip_load(names[i], &chips[i]);
    if (!status)
        status = chip_instances(instances, CHIP_MAX_INSTANCES, &n_instances);
    if (status)
        return cli_fail(status);
    (is_json ? list_json : list_text)(chips, n_chips, instances, n_instances);
    return CLI_OK;
}

static int run(const cli_command *self, int argc, char **argv) {
    bool is_json = false, is_timing_wanted = false;
    cli_list names = {.n = 0};
    const cli_option options[] = {{"--json", CLI_FLAG, &is_json},
                                  {"--timing", CLI_FLAG, &is_timing_wanted},
                                  {NULL, CLI_LIST, &names}};
    int code;
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (names.n > 1)
        return cli_usage(self, "one chip at a time");
    if (names.n == 0 && is_timing_wanted)
        return cli_usage(self, "--timing needs the name of a chip");
    if (names.n == 0)
        return list_all(is_json);
    if (is_timing_wanted)
        return show_timing(names.items[0], is_json);
    vtrn_chip chip;
    vtrn_status status = chip_load(names.items[0], &chip);
    if (status)
        return cli_fail(status);
    (is_json ? show_json : show_text)(&chip);
    return CLI_OK;
}

const cli_command cli_chips = {
    .name = "chips",
    .summary = "list the chips and instances, or show a chip's numbers",
    .help = "usage: vtrn chips [NAME | FILE] [--timing] [--json]\n\n"
            "NAME is a chip of the list, which NAME@VERSION pins; FILE a chip description of your\n"
            "own (with a '/').\n"
            "  --timing  what times follow from: each number with its unit and its source,\n"
            "            documented, measured, fitted or assumed\n"
            "A star marks the instance that VTRN_CHIP=NAME alone stands for.\n"
            "Where each number comes from stands beside it in chips/NAME.toml.\n\n"
            "example: vtrn chips trn2\n",
    .run = run,
};
