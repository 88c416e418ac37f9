/* The ABI header against the published offsets of PJRT 0.114, field by field and slot by slot. */
#include "pjrt/pjrt_args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef struct field_row {
    const char *name;
    size_t ours, published;
} field_row;

static void every_field_lies_where_the_abi_says(void **state) {
    (void)state;
    static const field_row rows[] = {
#define FIELD(type, field, offset) {#type "." #field, offsetof(type, field), offset},
#include "pjrt_layout.def"
#undef FIELD
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].ours != rows[i].published)
            fail_msg("%s lies at %zu, the ABI says %zu", rows[i].name, rows[i].ours,
                     rows[i].published);
}

static void every_function_has_its_slot(void **state) {
    (void)state;
    static const field_row rows[] = {
#define SLOT(name) {#name, offsetof(PJRT_Api, name), 0},
#define SLOT_VOID  SLOT
#define STUB       SLOT
#include "pjrt/pjrt_slots.def"
#undef SLOT
#undef SLOT_VOID
#undef STUB
    };
    assert_int_equal(sizeof rows / sizeof *rows, 138);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(rows[i].ours, 40 + 8 * i);
    assert_int_equal(sizeof(PJRT_Api), 1144);
    /* a few by name: order, not only count */
    assert_int_equal(offsetof(PJRT_Api, PJRT_Client_Create), 120);
    assert_int_equal(offsetof(PJRT_Api, PJRT_LoadedExecutable_Execute), 480);
    assert_int_equal(offsetof(PJRT_Api, PJRT_Buffer_ToHostBuffer), 600);
    assert_int_equal(offsetof(PJRT_Api, PJRT_Device_GetAttributes), 1064);
    assert_int_equal(offsetof(PJRT_Api, PJRT_TopologyDescription_GetMemorySpaceKindIds), 1136);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_lies_where_the_abi_says),
        cmocka_unit_test(every_function_has_its_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
