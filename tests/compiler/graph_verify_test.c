/* The rules that every operation of a graph keeps, on operations made by hand. */
#include "compiler/graph/graph_build.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
// cmocka needs the headers above.
#include <cmocka.h>

#define LIST(...)                                                                                  \
    ((graph_ints){sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__}})
#define F32(...)                                                                                   \
    ((graph_type){VTRN_DTYPE_FP32,                                                                 \
                  sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t),                              \
                  false,                                                                           \
                  {__VA_ARGS__}})
#define SCALAR ((graph_type){VTRN_DTYPE_FP32, 0, false, {0}})

static graph_value VALUES[] = {0, 1, 2, 3, 4, 5, 6, 7};

/* Operation of n_operands operands and one result, their types in that order. */
static graph_op make(int kind, uint32_t n_operands) {
    return (graph_op){.kind = (uint16_t)kind,
                      .n_operands = n_operands,
                      .n_results = 1,
                      .operands = VALUES,
                      .results = VALUES + n_operands};
}

static void expect(const graph_type *types, const graph_op *op, const char *error) {
    graph g = {.types = (graph_type *)types, .n_values = 8};
    vtrn_status status = graph_verify_op(&g, op);
    if (!error) {
        if (status)
            fail_msg("%s", vtrn_status_message(status));
        return;
    }
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    if (!strstr(vtrn_status_message(status), error))
        fail_msg("'%s' is not in '%s'", error, vtrn_status_message(status));
    if (!strstr(vtrn_status_message(status), "; "))
        fail_msg("no remedy in '%s'", vtrn_status_message(status));
    vtrn_status_free(status);
}

static void an_elementwise_operation_keeps_its_shape(void **state) {
    (void)state;
    graph_op op = make(GRAPH_ADD, 2);
    expect((graph_type[]){F32(2, 3), F32(2, 3), F32(2, 3)}, &op, NULL);
    expect((graph_type[]){F32(2, 3), F32(3, 2), F32(2, 3)}, &op, "operand 1 has another shape");
}

static void a_transpose_takes_a_permutation(void **state) {
    (void)state;
    graph_op op = make(GRAPH_TRANSPOSE, 1);
    op.attrs.dims.dims = LIST(2, 0, 1);
    expect((graph_type[]){F32(2, 3, 4), F32(4, 2, 3)}, &op, NULL);
    op.attrs.dims.dims = LIST(2, 2, 1);
    expect((graph_type[]){F32(2, 3, 4), F32(4, 4, 3)}, &op, "24 elements become 48");
    op.attrs.dims.dims = LIST(0, 3, 1);
    expect((graph_type[]){F32(2, 3, 4), F32(4, 2, 3)}, &op, "dimensions do not suit rank 3");
}

static void a_broadcast_repeats_only_dimensions_of_one(void **state) {
    (void)state;
    graph_op op = make(GRAPH_BROADCAST_IN_DIM, 1);
    op.attrs.dims.dims = LIST(1, 2);
    expect((graph_type[]){F32(3, 1), F32(2, 3, 4)}, &op, NULL);
    expect((graph_type[]){F32(2, 1), F32(2, 3, 4)}, &op, "dimension 0 of 2 does not broadcast");
}

static void a_slice_stays_inside_and_rounds_up(void **state) {
    (void)state;
    graph_op op = make(GRAPH_SLICE, 1);
    op.attrs.slice.start = LIST(1);
    op.attrs.slice.limit = LIST(8);
    op.attrs.slice.stride = LIST(3);
    expect((graph_type[]){F32(8), F32(3)}, &op, NULL);
    expect((graph_type[]){F32(7), F32(3)}, &op, "[1, 8) of 7");
    op.attrs.slice.stride = LIST(0);
    expect((graph_type[]){F32(8), F32(3)}, &op, "do not suit rank 1");
}

static void padding_may_be_negative(void **state) {
    (void)state;
    graph_op op = make(GRAPH_PAD, 2);
    op.attrs.pad.low = LIST(-1);
    op.attrs.pad.high = LIST(2);
    op.attrs.pad.interior = LIST(1);
    /* 5 elements and 4 gaps, one off and two on. */
    expect((graph_type[]){F32(5), SCALAR, F32(10)}, &op, NULL);
    expect((graph_type[]){F32(5), SCALAR, F32(11)}, &op, "padding gives 10");
    op.attrs.pad.interior = LIST((int64_t)1 << 45);
    expect((graph_type[]){F32(5), SCALAR, F32(10)}, &op, "pad less");
    op.attrs.pad.low = LIST(-100);
    op.attrs.pad.interior = LIST(0);
    expect((graph_type[]){F32(5), SCALAR, F32(10)}, &op, "pad less");
}

static void a_dot_puts_batch_then_lhs_then_rhs(void **state) {
    (void)state;
    graph_op op = make(GRAPH_DOT_GENERAL, 2);
    op.attrs.dot.lhs_batch = op.attrs.dot.rhs_batch = LIST(0);
    op.attrs.dot.lhs_contract = LIST(2);
    op.attrs.dot.rhs_contract = LIST(1);
    expect((graph_type[]){F32(7, 2, 3), F32(7, 3, 5), F32(7, 2, 5)}, &op, NULL);
    expect((graph_type[]){F32(7, 2, 3), F32(7, 3, 5), F32(7, 5, 2)}, &op, "shape of the result");
    expect((graph_type[]){F32(7, 2, 4), F32(7, 3, 5), F32(7, 2, 5)}, &op, "contracting");
}

static void a_convolution_has_the_size_its_window_gives(void **state) {
    (void)state;
    graph_op op = make(GRAPH_CONVOLUTION, 2);
    op.attrs.conv.lhs_feature_dim = 2;
    op.attrs.conv.lhs_spatial = LIST(1);
    op.attrs.conv.rhs_in_dim = 1;
    op.attrs.conv.rhs_out_dim = 2;
    op.attrs.conv.rhs_spatial = LIST(0);
    op.attrs.conv.out_feature_dim = 2;
    op.attrs.conv.out_spatial = LIST(1);
    op.attrs.conv.stride = LIST(2);
    op.attrs.conv.lhs_dilation = op.attrs.conv.rhs_dilation = LIST(1);
    op.attrs.conv.pad_low = op.attrs.conv.pad_high = LIST(1);
    op.attrs.conv.reversal = LIST(0);
    op.attrs.conv.feature_groups = op.attrs.conv.batch_groups = 1;
    /* (9 + 2 - 3) / 2 + 1 = 5 places. */
    expect((graph_type[]){F32(4, 9, 6), F32(3, 6, 8), F32(4, 5, 8)}, &op, NULL);
    expect((graph_type[]){F32(4, 9, 6), F32(3, 6, 8), F32(4, 6, 8)}, &op, "the window gives 5");
    expect((graph_type[]){F32(4, 9, 6), F32(3, 5, 8), F32(4, 5, 8)}, &op, "a group has 6");
}

static void a_gather_has_offset_dimensions_in_place(void **state) {
    (void)state;
    graph_op op = make(GRAPH_GATHER, 2);
    graph_type indices = {VTRN_DTYPE_INT32, 2, false, {3, 1}};
    op.attrs.gather.offset_dims = LIST(1);
    op.attrs.gather.collapsed = LIST(0);
    op.attrs.gather.start_index_map = LIST(0);
    op.attrs.gather.slice_sizes = LIST(1, 6);
    op.attrs.gather.index_vector_dim = 1;
    expect((graph_type[]){F32(5, 6), indices, F32(3, 6)}, &op, NULL);
    expect((graph_type[]){F32(5, 6), indices, F32(6, 3)}, &op, "the slices give 3");
    op.attrs.gather.slice_sizes = LIST(1, 7);
    expect((graph_type[]){F32(5, 6), indices, F32(3, 7)}, &op, "slice size 7 of dimension 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_elementwise_operation_keeps_its_shape),
        cmocka_unit_test(a_transpose_takes_a_permutation),
        cmocka_unit_test(a_broadcast_repeats_only_dimensions_of_one),
        cmocka_unit_test(a_slice_stays_inside_and_rounds_up),
        cmocka_unit_test(padding_may_be_negative),
        cmocka_unit_test(a_dot_puts_batch_then_lhs_then_rhs),
        cmocka_unit_test(a_convolution_has_the_size_its_window_gives),
        cmocka_unit_test(a_gather_has_offset_dimensions_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
