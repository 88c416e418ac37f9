/* The lowest layer of the artifact reader: varints, counts, sections, and the operation table. */
#include "compiler/vhlo/vhlo_bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
// cmocka needs the headers above.
#include <cmocka.h>

/* PrefixVarInt with n_more bytes after the first; the value must fit. */
static size_t encode(uint64_t value, int n_more, uint8_t *out) {
    if (n_more == 8) {
        out[0] = 0;
        memcpy(out + 1, &value, 8);
        return 9;
    }
    uint64_t bits = (value << 1 | 1) << n_more;
    memcpy(out, &bits, 8);
    return (size_t)n_more + 1;
}

static vhlo_cursor cursor(const uint8_t *bytes, size_t n) {
    return (vhlo_cursor){bytes, 0, n, "test section"};
}

static void expect_error(vtrn_status status, const char *text) {
    assert_non_null(status);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    if (!strstr(vtrn_status_message(status), text))
        fail_msg("'%s' is not in '%s'", text, vtrn_status_message(status));
    vtrn_status_free(status);
}

static void varints_of_every_length_read_back(void **state) {
    (void)state;
    for (int n_more = 0; n_more <= 8; n_more++) {
        uint64_t limit = n_more == 8 ? UINT64_MAX : ((uint64_t)1 << (7 * (n_more + 1))) - 1;
        const uint64_t values[] = {0, 1, limit / 3, limit - 1, limit};
        for (int i = 0; i < 5; i++) {
            uint8_t bytes[16] = {0};
            size_t n = encode(values[i], n_more, bytes);
            vhlo_cursor c = cursor(bytes, n);
            uint64_t got = ~values[i];
            assert_null(cursor_varint(&c, &got));
            assert_true(got == values[i]);
            assert_int_equal(c.pos, n);
        }
    }
}

static void signed_varints_are_zigzag(void **state) {
    (void)state;
    const int64_t values[] = {0, -1, 1, -2, 63, -64, INT64_MAX, INT64_MIN};
    for (int i = 0; i < 8; i++) {
        uint8_t bytes[16] = {0};
        uint64_t zigzag = (uint64_t)values[i] * 2 ^ (values[i] < 0 ? UINT64_MAX : 0);
        size_t n = encode(zigzag, 8, bytes);
        vhlo_cursor c = cursor(bytes, n);
        int64_t got = 7;
        assert_null(cursor_svarint(&c, &got));
        assert_true(got == values[i]);
    }
}

static void a_varint_that_is_cut_is_refused_with_its_byte(void **state) {
    (void)state;
    const uint8_t bytes[] = {0x10, 1, 2};
    vhlo_cursor c = cursor(bytes, sizeof bytes);
    uint64_t v;
    expect_error(cursor_varint(&c, &v), "needs 4 more bytes, 2 left, at byte 1 (test section)");
}

static void an_index_past_its_table_names_both_numbers(void **state) {
    (void)state;
    uint8_t bytes[16];
    size_t n = encode(812, 1, bytes);
    vhlo_cursor c = cursor(bytes, n);
    uint32_t v;
    expect_error(cursor_index(&c, 40, "string", "strings", &v),
                 "string index 812 >= 40 strings, at byte 0");
}

static void a_count_beyond_the_bytes_left_is_refused(void **state) {
    (void)state;
    uint8_t bytes[16] = {0};
    size_t n = encode(1000000, 2, bytes);
    vhlo_cursor c = cursor(bytes, n + 5);
    uint32_t v;
    expect_error(cursor_count(&c, "items", &v), "1000000 items announced, 5 bytes left");
}

static void an_aligned_section_starts_where_it_should(void **state) {
    (void)state;
    /* Section 2, 3 bytes, aligned to 8: padding up to byte 8. */
    const uint8_t bytes[] = {0x82, 3 << 1 | 1, 8 << 1 | 1, 0xcb, 0xcb, 0xcb, 0xcb, 0xcb, 1, 2, 3};
    vhlo_cursor c = cursor(bytes, sizeof bytes), section;
    uint8_t id;
    assert_null(cursor_section(&c, &id, &section));
    assert_int_equal(id, 2);
    assert_int_equal(section.pos, 8);
    assert_int_equal(section.end, 11);
    assert_int_equal(c.pos, 11);
}

static void a_section_with_foreign_padding_is_refused(void **state) {
    (void)state;
    const uint8_t bytes[] = {0x82, 3 << 1 | 1, 4 << 1 | 1, 0x00, 1, 2, 3};
    vhlo_cursor c = cursor(bytes, sizeof bytes), section;
    uint8_t id;
    expect_error(cursor_section(&c, &id, &section), "padding byte 0x00 is not 0xcb");
}

static void every_row_of_the_operation_table_is_found_by_its_name(void **state) {
    (void)state;
    assert_int_equal(vhlo_op_table_size(), 145);
    for (uint32_t i = 0; i < vhlo_op_table_size(); i++) {
        const vhlo_op_info *row = &vhlo_op_table()[i];
        char name[64];
        int n = snprintf(name, sizeof name, "%s_v%d", row->name, row->version);
        assert_ptr_equal(vhlo_find_op(name, (size_t)n), row);
    }
    assert_null(vhlo_find_op("add_v2", 6));
    assert_null(vhlo_find_op("add", 3));
    assert_null(vhlo_find_op("", 0));
}

static void attributes_of_every_row_are_in_alphabetical_order(void **state) {
    (void)state;
    for (uint32_t i = 0; i < vhlo_op_table_size(); i++) {
        char list[512], *rest = list, *name, *last = NULL;
        snprintf(list, sizeof list, "%s", vhlo_op_table()[i].attrs);
        while ((name = strsep(&rest, ","))) {
            if (last)
                assert_true(strcmp(last, name) < 0);
            last = name;
        }
    }
}

static void text_is_refused_as_text(void **state) {
    (void)state;
    vhlo_module *m;
    expect_error(vhlo_read("module {}", 9, &m), "got MLIR text");
    assert_null(m);
    expect_error(vhlo_read("", 0, &m), "got no bytes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(varints_of_every_length_read_back),
        cmocka_unit_test(signed_varints_are_zigzag),
        cmocka_unit_test(a_varint_that_is_cut_is_refused_with_its_byte),
        cmocka_unit_test(an_index_past_its_table_names_both_numbers),
        cmocka_unit_test(a_count_beyond_the_bytes_left_is_refused),
        cmocka_unit_test(an_aligned_section_starts_where_it_should),
        cmocka_unit_test(a_section_with_foreign_padding_is_refused),
        cmocka_unit_test(every_row_of_the_operation_table_is_found_by_its_name),
        cmocka_unit_test(attributes_of_every_row_are_in_alphabetical_order),
        cmocka_unit_test(text_is_refused_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
