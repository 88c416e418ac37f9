/* The chip files: every file loads, and a file with any number spoilt is refused with a clear
 * reason.
 */
#include "chip/chip.h"
#include "chip/chip_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_refused(vtrn_status status, const char *part) {
    assert_non_null(status);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    if (!strstr(vtrn_status_message(status), part))
        fail_msg("'%s' does not say '%s'", vtrn_status_message(status), part);
    vtrn_status_free(status);
}

__attribute__((noinline)) static char *read_chip(const char *name) {
    char path[CHIP_PATH_MAX], *text;
    assert_null(chip_file_read(name, path, &text));
    return text;
}

/* text with its line [at, at + len) replaced. */
static char *with_line(const char *text, const char *at, size_t len, const char *line) {
    char *out = malloc(strlen(text) + strlen(line) + 2);
    size_t before = (size_t)(at - text);
    memcpy(out, text, before);
    strcpy(out + before, line);
    strcat(out, at + len);
    return out;
}

static void each_chip_file_loads(void **state) {
    (void)state;
    char names[CHIP_MAX_INSTANCES][CHIP_NAME_MAX];
    int n;
    assert_null(chip_names(names, CHIP_MAX_INSTANCES, &n));
    assert_true(n >= 5);
    for (int i = 0; i < n; i++) {
        vtrn_chip chip;
        assert_null(chip_load(names[i], &chip));
        assert_string_equal(chip.name, names[i]);
        assert_true(chip.is_executable);
        if (chip.is_executable)
            assert_true(chip.peak_tensor_flops == 128.0 * 128 * 2 * chip.tensor_hz);
    }
}

static void the_documented_sizes_of_trn2_arrive_in_their_fields(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_null(chip_load("trn2", &chip));
    assert_string_equal(chip.core_name, "NeuronCore-v3");
    assert_int_equal(chip.gen, 3);
    assert_int_equal(chip.n_cores, 8);
    assert_int_equal(chip.sbuf_partition_bytes, 224 * 1024);
    assert_int_equal(chip.n_psum_banks, 8);
    assert_true(chip.hbm_bytes == 96ull << 30);
    assert_true(chip.vector_hz == 0.96e9);
    assert_false(chip.cost.vector_gpsimd_share_sbuf);
    assert_int_equal(chip.dma.partitions_per_engine, 8);
}

typedef void (*line_check)(const char *text, const char *line, size_t len, const char *key,
                           const char *value);

__attribute__((noinline)) static int for_each_line(const char *text, line_check check) {
    int n_lines = 0;
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        char key[64], value[64];
        if (sscanf(line, "%63[a-z0-9_] = %63[^ #\n]", key, value) != 2)
            continue;
        n_lines++;
        check(text, line, strcspn(line, "\n"), key, value);
    }
    return n_lines;
}

/* Calls check for every `key = value` line of every chip file. */
static void for_each_key_line(line_check check) {
    static const char *const names[] = {"inf1", "inf2", "trn1", "trn2", "trn3"};
    for (int i = 0; i < 5; i++) {
        char *text = read_chip(names[i]);
        assert_true(for_each_line(text, check) > 10);
        free(text);
    }
}

static void check_sourced(const char *text, const char *line, size_t len, const char *key,
                          const char *value) {
    static const char *const words[] = {
        "# documented: ", "# measured: ", "# fitted: ", "# assumed: "};
    (void)text;
    if (value[0] < '0' || value[0] > '9')
        return;
    for (int i = 0; i < 4; i++) {
        const char *found = strstr(line, words[i]);
        if (found && found < line + len)
            return;
    }
    fail_msg("'%s = %s' does not say where it comes from", key, value);
}

static void each_number_says_where_it_comes_from(void **state) {
    (void)state;
    for_each_key_line(check_sourced);
}

static void the_basis_and_the_source_of_a_number_arrive_with_it(void **state) {
    (void)state;
    static vtrn_chip chip;
    static chip_sources sources;
    assert_null(chip_load("trn2", &chip));
    assert_null(chip_sources_load("trn2", &sources));
    int n_of[CHIP_ASSUMED + 1] = {0};
    for (int key = 0; key < CHIP_N_KEYS; key++) {
        n_of[chip.basis[key]]++;
        const char *name = chip_basis_name((chip_basis)chip.basis[key]);
        if (chip.basis[key] == CHIP_UNSTATED) /* names, and whether it can be simulated */
            assert_string_equal(chip_key_table(key), "chip");
        else
            assert_int_equal(strncmp(sources.text[key], name, strlen(name)), 0);
        if (strcmp(chip_key_name(key), "hbm_stacks") == 0)
            assert_string_equal(sources.text[key],
                                "documented: 4 x 24 GiB, trainium2 hardware page");
    }
    for (int b = CHIP_DOCUMENTED; b <= CHIP_ASSUMED; b++)
        assert_true(n_of[b] > 0);
}

static void a_name_may_ask_for_the_version_that_the_file_has(void **state) {
    (void)state;
    static vtrn_chip chip;
    assert_null(chip_load("trn2", &chip));
    char name[64];
    snprintf(name, sizeof name, "trn2@%d", chip.version);
    assert_null(chip_load(name, &chip));
    assert_string_equal(chip.name, "trn2");
    snprintf(name, sizeof name, "trn2@%d", chip.version + 1);
    assert_refused(chip_load(name, &chip), "has version");
    assert_refused(chip_load("trn2@", &chip), "has version");
    assert_refused(chip_load("trn2@1x", &chip), "has version");
    assert_refused(chip_load("trn9@1", &chip), "no chip 'trn9'");
}

static void check_missing(const char *text, const char *line, size_t len, const char *key,
                          const char *value) {
    (void)value;
    vtrn_chip chip;
    char *copy = with_line(text, line, len, "");
    vtrn_status status = chip_parse(copy, "copy.toml", &chip);
    if (strcmp(key, "hbm_reserved_stack_bytes") == 0) /* the only optional key */
        assert_null(status);
    else {
        char part[96];
        snprintf(part, sizeof part, "%s is missing in [", key);
        assert_refused(status, part);
    }
    free(copy);
}

static void a_missing_key_is_refused(void **state) {
    (void)state;
    for_each_key_line(check_missing);
}

static void check_negative(const char *text, const char *line, size_t len, const char *key,
                           const char *value) {
    if (value[0] < '0' || value[0] > '9')
        return;
    char spoilt[160];
    vtrn_chip chip;
    snprintf(spoilt, sizeof spoilt, "%s = -%s", key, value[0] == '0' ? "1" : value);
    char *copy = with_line(text, line, len, spoilt);
    assert_refused(chip_parse(copy, "copy.toml", &chip), "must lie between");
    free(copy);
}

static void a_negative_number_is_refused(void **state) {
    (void)state;
    for_each_key_line(check_negative);
}

static void check_renamed(const char *text, const char *line, size_t len, const char *key,
                          const char *value) {
    char spoilt[160], part[160];
    vtrn_chip chip;
    snprintf(spoilt, sizeof spoilt, "%sx = %s", key, value);
    snprintf(part, sizeof part, "did you mean '%s'", key);
    char *copy = with_line(text, line, len, spoilt);
    assert_refused(chip_parse(copy, "copy.toml", &chip), part);
    free(copy);
}

static void a_renamed_key_is_refused_with_its_right_name(void **state) {
    (void)state;
    for_each_key_line(check_renamed);
}

static void check_doubled(const char *text, const char *line, size_t len, const char *key,
                          const char *value) {
    char doubled[320];
    vtrn_chip chip;
    snprintf(doubled, sizeof doubled, "%s = %s\n%s = %s", key, value, key, value);
    char *copy = with_line(text, line, len, doubled);
    if (value[0] != '"')
        assert_refused(chip_parse(copy, "copy.toml", &chip), "was given on line");
    free(copy);
}

static void a_duplicate_key_is_refused_with_both_lines(void **state) {
    (void)state;
    for_each_key_line(check_doubled);
}

static void check_typed(const char *text, const char *line, size_t len, const char *key,
                        const char *value) {
    char spoilt[160];
    vtrn_chip chip;
    snprintf(spoilt, sizeof spoilt, "%s = %s", key, value[0] == '"' ? "1" : "\"many\"");
    char *copy = with_line(text, line, len, spoilt);
    assert_refused(chip_parse(copy, "copy.toml", &chip), "must be ");
    free(copy);
}

static void a_value_of_the_wrong_type_is_refused(void **state) {
    (void)state;
    for_each_key_line(check_typed);
}

static void an_error_names_file_line_key_value_and_rule(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_refused(chip_parse("[chip]\n# note\ncores = -2\n", "my.toml", &chip),
                   "my.toml:3: chip.cores = -2: must lie between 1 and 64 cores");
    assert_refused(chip_parse("[chip]\ncores = 2.5\n", "my.toml", &chip), "an integer");
}

static void broken_text_is_refused_and_never_crashes(void **state) {
    (void)state;
    static const char *const texts[] = {
        "[",       "[chip",     "[chip]\n[chip]\n", "=",        "cores",   "cores =",
        "cores 2", "a = \"x",   "a = 1 2",          "a = 1e",   "a = 1.",  "a = --1",
        "a = [1]", "a = {b=1}", "a = \"\\n\"",      "a = 1__0", "a.b = 1", "a = 1e999",
        "a = +",   "\xff\xfe",  "a = truely",       "a = 0x10", "\"a = 1", "[\"chip]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        vtrn_chip chip;
        vtrn_status status = chip_parse(texts[i], "bad.toml", &chip);
        assert_non_null(status);
        vtrn_status_free(status);
    }
    char *text = read_chip("trn2");
    for (size_t len = strlen(text) - 200; len > 0; len -= len < 61 ? len : 61) {
        vtrn_chip chip;
        text[len] = 0;
        vtrn_status status = chip_parse(text, "cut.toml", &chip);
        assert_non_null(status);
        vtrn_status_free(status);
    }
    free(text);
}

static void numbers_that_contradict_each_other_are_refused(void **state) {
    (void)state;
    vtrn_chip chip;
    char *text = read_chip("trn2");
    char *line = strstr(text, "psum_banks = 8");
    char *copy = with_line(text, line, strlen("psum_banks = 8"), "psum_banks = 4");
    assert_refused(chip_parse(copy, "copy.toml", &chip), "must equal psum_partition_bytes");
    free(copy);
    free(text);
}

/* trn2 with other PSUM banks. */
static vtrn_status parse_banks(int n_banks, int bank_bytes, vtrn_chip *chip) {
    const char *const keys[] = {"psum_partition_bytes = 16_384", "psum_bank_bytes = 2_048",
                                "psum_banks = 8"};
    const int values[] = {n_banks * bank_bytes, bank_bytes, n_banks};
    char *text = read_chip("trn2"), line[64];
    for (int i = 0; i < 3; i++) {
        snprintf(line, sizeof line, "%.*s= %d", (int)strcspn(keys[i], "="), keys[i], values[i]);
        char *copy = with_line(text, strstr(text, keys[i]), strlen(keys[i]), line);
        free(text);
        text = copy;
    }
    vtrn_status status = chip_parse(text, "banks.toml", chip);
    free(text);
    return status;
}

static void psum_needs_two_banks_that_hold_a_transposed_tile(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_null(parse_banks(2, 512, &chip));
    assert_int_equal(chip.n_psum_banks, 2);
    assert_null(parse_banks(3, 1540, &chip));
    assert_int_equal(chip.psum_bank_bytes, 1540);
    assert_refused(parse_banks(1, 2048, &chip), "must lie between 2 and 64 banks");
    assert_refused(parse_banks(8, 256, &chip), "psum_bank_bytes = 256, must be a multiple of 4");
    assert_refused(parse_banks(8, 514, &chip), "at least 512");
}

/* trn2 with other bytes of SBUF. */
static vtrn_status parse_sbuf(int partition_bytes, int reserved_bytes, vtrn_chip *chip) {
    char *text = read_chip("trn2"), line[64];
    const char *const keys[] = {"sbuf_partition_bytes = 229_376",
                                "sbuf_reserved_partition_bytes = 16_384"};
    const int values[] = {partition_bytes, reserved_bytes};
    for (int i = 0; i < 2; i++) {
        snprintf(line, sizeof line, "%.*s= %d", (int)strcspn(keys[i], "="), keys[i], values[i]);
        char *copy = with_line(text, strstr(text, keys[i]), strlen(keys[i]), line);
        free(text);
        text = copy;
    }
    vtrn_status status = chip_parse(text, "sbuf.toml", chip);
    free(text);
    return status;
}

static void sbuf_holds_the_least_tiles_of_every_kernel(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_null(parse_sbuf(4096, 0, &chip));
    assert_null(parse_sbuf(5000, 904, &chip));
    assert_refused(parse_sbuf(4095, 0, &chip), "= 4095, must exceed");
    assert_refused(parse_sbuf(5000, 905, &chip), "= 905 by at least 4096");
    assert_refused(parse_sbuf(5000, 6000, &chip), "= 6000 by at least 4096");
}

static void an_unknown_chip_lists_the_known_ones(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_refused(chip_load("trn9", &chip), "known are inf1, inf2, trn1, trn2, trn3");
    assert_refused(chip_load("", &chip), "known are");
}

static void a_path_with_a_slash_is_read_as_a_file(void **state) {
    (void)state;
    vtrn_chip chip;
    vtrn_status status = chip_load("./no-such-chip.toml", &chip);
    assert_int_equal(vtrn_status_category(status), VTRN_RESOURCE);
    vtrn_status_free(status);
}

static void chips_path_directories_come_first(void **state) {
    (void)state;
    char dir[] = "chipsXXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/trn2.toml", dir);
    char *text = read_chip("trn2");
    char *at = strstr(text, "cores = 8");
    char *copy =
        with_line(text, strstr(text, "hbm_stacks = 4"), strlen("hbm_stacks = 4"), "hbm_stacks = 8");
    assert_non_null(at);
    char *both = with_line(copy, strstr(copy, "cores_per_stack = 2"), strlen("cores_per_stack = 2"),
                           "cores_per_stack = 1");
    FILE *file = fopen(path, "w");
    fputs(both, file);
    fclose(file);
    setenv("VTRN_CHIPS_PATH", dir, 1);
    vtrn_chip chip;
    vtrn_status status = chip_load("trn2", &chip);
    unsetenv("VTRN_CHIPS_PATH");
    remove(path);
    remove(dir);
    assert_null(status);
    assert_int_equal(chip.n_hbm_stacks, 8);
    free(both);
    free(copy);
    free(text);
}

static void each_instance_names_a_known_chip_and_fits_it(void **state) {
    (void)state;
    vtrn_instance all[CHIP_MAX_INSTANCES];
    int n;
    assert_null(chip_instances(all, CHIP_MAX_INSTANCES, &n));
    assert_int_equal(n, 17);
    for (int i = 0; i < n; i++) {
        vtrn_chip chip;
        vtrn_instance one;
        assert_null(chip_load(all[i].chip, &chip));
        assert_null(chip_instance_load(all[i].name, &one));
        assert_memory_equal(&one, &all[i], sizeof one);
    }
    vtrn_instance big;
    assert_null(chip_instance_load("trn1.32xlarge", &big));
    assert_int_equal(big.n_chips, 16);
    assert_true(big.dollars_per_hour == 8.197);
    assert_string_equal(big.topology, "torus-4x4");
}

static void an_unknown_instance_is_refused_with_the_nearest(void **state) {
    (void)state;
    vtrn_instance one;
    assert_refused(chip_instance_load("trn1.2xlarg", &one), "did you mean 'trn1.2xlarge'");
}

static void a_chip_alone_stands_for_its_smallest_instance(void **state) {
    (void)state;
    static const char *const expected[][2] = {{"inf1", "inf1.xlarge"},
                                              {"inf2", "inf2.xlarge"},
                                              {"trn1", "trn1.2xlarge"},
                                              {"trn2", "trn2.3xlarge"},
                                              {"trn3", "trn3-gen1-ultraserver"}};
    vtrn_instance all[CHIP_MAX_INSTANCES];
    int n;
    assert_null(chip_instances(all, CHIP_MAX_INSTANCES, &n));
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_string_equal(chip_smallest_instance(all, n, expected[i][0])->name, expected[i][1]);
    assert_null(chip_smallest_instance(all, n, "trn9"));
}

static void an_unpublished_price_is_not_the_lowest(void **state) {
    (void)state;
    const vtrn_instance all[] = {
        {.name = "big", .chip = "x", .n_chips = 2, .dollars_per_hour = 0.1},
        {.name = "unknown", .chip = "x", .n_chips = 1},
        {.name = "dear", .chip = "x", .n_chips = 1, .dollars_per_hour = 3},
        {.name = "cheap", .chip = "x", .n_chips = 1, .dollars_per_hour = 2},
    };
    assert_string_equal(chip_smallest_instance(all, 4, "x")->name, "cheap");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_chip_file_loads),
        cmocka_unit_test(the_documented_sizes_of_trn2_arrive_in_their_fields),
        cmocka_unit_test(each_number_says_where_it_comes_from),
        cmocka_unit_test(the_basis_and_the_source_of_a_number_arrive_with_it),
        cmocka_unit_test(a_name_may_ask_for_the_version_that_the_file_has),
        cmocka_unit_test(a_missing_key_is_refused),
        cmocka_unit_test(a_negative_number_is_refused),
        cmocka_unit_test(a_renamed_key_is_refused_with_its_right_name),
        cmocka_unit_test(a_duplicate_key_is_refused_with_both_lines),
        cmocka_unit_test(a_value_of_the_wrong_type_is_refused),
        cmocka_unit_test(an_error_names_file_line_key_value_and_rule),
        cmocka_unit_test(broken_text_is_refused_and_never_crashes),
        cmocka_unit_test(numbers_that_contradict_each_other_are_refused),
        cmocka_unit_test(psum_needs_two_banks_that_hold_a_transposed_tile),
        cmocka_unit_test(sbuf_holds_the_least_tiles_of_every_kernel),
        cmocka_unit_test(an_unknown_chip_lists_the_known_ones),
        cmocka_unit_test(a_path_with_a_slash_is_read_as_a_file),
        cmocka_unit_test(chips_path_directories_come_first),
        cmocka_unit_test(each_instance_names_a_known_chip_and_fits_it),
        cmocka_unit_test(a_chip_alone_stands_for_its_smallest_instance),
        cmocka_unit_test(an_unpublished_price_is_not_the_lowest),
        cmocka_unit_test(an_unknown_instance_is_refused_with_the_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
