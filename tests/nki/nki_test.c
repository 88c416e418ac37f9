/* A kernel through nki.h, without Python: values, checks, places, the program. */
#include "nki/nki.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

enum { ROWS = 128, COLUMNS = 512 };

static float data[ROWS * COLUMNS], result[ROWS * COLUMNS];

static void must(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_error_message(status));
}

static void fails_with(vtrn_status status, const char *text) {
    assert_non_null(status);
    if (!strstr(vtrn_error_message(status), text))
        fail_msg("%s", vtrn_error_message(status));
    vtrn_error_free(status);
}

static nki_view make(nki_session *s, vtrn_space space, nki_storage_kind kind, int64_t columns,
                     const void *bytes) {
    int64_t shape[] = {ROWS, columns};
    nki_tensor_options o = {.space = space,
                            .dtype = VTRN_DTYPE_FP32,
                            .kind = kind,
                            .n_dims = 2,
                            .shape = shape,
                            .data = bytes};
    nki_view view;
    must(vtrn_nki_tensor(s, &o, &view));
    return view;
}

static nki_view tile(nki_session *s) {
    return make(s, VTRN_SPACE_SBUF, NKI_LOCAL, COLUMNS, NULL);
}

static nki_view columns(nki_view view, int64_t first, int64_t n) {
    view.offset += first;
    view.shape[1] = n;
    return view;
}

static vtrn_status dma(nki_session *s, const nki_view *dst, const nki_view *src) {
    nki_call call = {.instr = {.opcode = VTRN_OP_DMA_COPY, .engine = VTRN_ENGINE_SYNC},
                     .view = {dst, src}};
    return vtrn_nki_dma(s, &call);
}

static vtrn_status add(nki_session *s, const nki_view *dst, const nki_view *a, const nki_view *b) {
    nki_call call = {.instr = {.opcode = VTRN_OP_TENSOR_TENSOR,
                               .engine = VTRN_ENGINE_VECTOR,
                               .op0 = VTRN_ALU_ADD},
                     .view = {dst, a, b}};
    return vtrn_nki_issue(s, &call);
}

static nki_session *begin(void) {
    nki_session *s;
    must(vtrn_nki_create("trn2", &s));
    for (int i = 0; i < ROWS * COLUMNS; i++)
        data[i] = (float)(i % 1000);
    return s;
}

static void test_the_program_gives_what_the_kernel_gave(void **state) {
    (void)state;
    nki_session *s = begin();
    nki_view in = make(s, VTRN_SPACE_HBM, NKI_ARGUMENT, COLUMNS, data), x = tile(s), y = tile(s);
    nki_view out = make(s, VTRN_SPACE_HBM, NKI_LOCAL, COLUMNS, NULL);
    must(dma(s, &x, &in));
    must(add(s, &y, &x, &x));
    must(dma(s, &out, &y));
    uint64_t n_unwritten;
    must(vtrn_nki_read(&out, result, &n_unwritten));
    assert_int_equal(n_unwritten, 0);
    for (int i = 0; i < ROWS * COLUMNS; i++)
        assert_true(result[i] == 2 * data[i]);
    nki_storage *outputs[] = {out.storage};
    vtrn_source source = {"nki", "kernel.py:1"};
    nki_finish_options o = {
        .name = "doubled", .outputs = outputs, .n_outputs = 1, .sources = &source, .n_sources = 1};
    vtrn_executable *e;
    must(vtrn_nki_finish(s, &o, &e));
    int dtype, rank;
    int64_t dims[VTRN_MAX_RANK];
    vtrn_executable_input_type(e, 0, &dtype, &rank, dims);
    vtrn_buffer *input, *output;
    must(vtrn_buffer_create(vtrn_nki_device(s), 0, dtype, rank, dims, data, &input));
    must(vtrn_execute(e, 0, &input, 1, NULL, &output, 1));
    static float again[ROWS * COLUMNS];
    must(vtrn_buffer_read(output, again, sizeof again));
    assert_memory_equal(again, result, sizeof again);
    must(vtrn_executable_check(e));
    vtrn_buffer_destroy(input);
    vtrn_buffer_destroy(output);
    vtrn_executable_destroy(e);
    vtrn_nki_destroy(s);
}

static void test_reads_are_checked_to_the_element(void **state) {
    (void)state;
    nki_session *s = begin();
    nki_view in = make(s, VTRN_SPACE_HBM, NKI_ARGUMENT, COLUMNS, data), x = tile(s), y = tile(s);
    nki_view left = columns(x, 0, 100), left_in = columns(in, 0, 100), left_y = columns(y, 0, 100);
    must(dma(s, &left, &left_in));
    must(add(s, &left_y, &left, &left));
    nki_view more = columns(x, 0, 101), more_y = columns(y, 0, 101);
    fails_with(add(s, &more_y, &more, &more),
               "nothing has written 128 of its elements, first [0, 100]");
    nki_view beyond = columns(x, 500, 100);
    fails_with(add(s, &left_y, &beyond, &left), "from element 500 to 599");
    uint64_t n_unwritten;
    must(vtrn_nki_read(&more, result, &n_unwritten));
    assert_int_equal(n_unwritten, ROWS);
    nki_view outside = x;
    outside.offset = 1 << 20;
    fails_with(vtrn_nki_read(&outside, result, &n_unwritten), "a view reaches");
    vtrn_nki_destroy(s);
}

static void test_memory_that_is_given_back_is_used_again_and_unwritten(void **state) {
    (void)state;
    nki_session *s = begin();
    nki_view in = make(s, VTRN_SPACE_HBM, NKI_ARGUMENT, COLUMNS, data), y = tile(s);
    for (int i = 0; i < 2000; i++) { /* 500 times the SBUF */
        nki_view x = tile(s);
        fails_with(add(s, &y, &x, &x), "nothing has written");
        vtrn_nki_release(x.storage);
    }
    nki_view x = tile(s);
    must(dma(s, &x, &in));
    vtrn_nki_release(x.storage);
    fails_with(add(s, &y, &x, &x), "a kernel that is over");
    vtrn_nki_destroy(s);
}

static void test_tiles_that_python_still_holds_cost_no_capacity(void **state) {
    (void)state;
    nki_session *s = begin();
    nki_view in = make(s, VTRN_SPACE_HBM, NKI_ARGUMENT, COLUMNS, data), first = tile(s), x = first;
    must(dma(s, &first, &in));
    for (int i = 0; i < 1000; i++) { /* 10 times the SBUF, of which two tiles are in use */
        nki_view y = tile(s);
        must(add(s, &y, &x, &x));
        x = y;
        must(dma(s, &x, &in));
    }
    uint64_t n_unwritten, sbuf, psum;
    must(vtrn_nki_read(&first, result, &n_unwritten));
    assert_int_equal(n_unwritten, 0);
    assert_memory_equal(result, data, sizeof data);
    must(vtrn_nki_read(&x, result, &n_unwritten));
    assert_memory_equal(result, data, sizeof data);
    nki_finish_options o = {.name = "held"};
    must(vtrn_nki_place(s, &o, &sbuf, &psum));
    assert_int_equal(sbuf, 2 * COLUMNS * sizeof(float));
    vtrn_nki_destroy(s);
}

static nki_view filled_tile(nki_session *s, int columns) {
    nki_view tile = make(s, VTRN_SPACE_SBUF, NKI_LOCAL, columns, NULL);
    nki_call call = {.instr = {.opcode = VTRN_OP_MEMSET, .engine = VTRN_ENGINE_VECTOR},
                     .view = {&tile}};
    must(vtrn_nki_issue(s, &call));
    return tile;
}

/* Six tiles are filled, then used, in between which the cores may meet. */
static nki_session *filled_tiles(bool meets) {
    enum { N = 6, WIDE = 12000 };
    nki_session *s = begin();
    nki_view tiles[N];
    for (int i = 0; i < N; i++) {
        tiles[i] = filled_tile(s, WIDE);
    }
    if (meets)
        must(vtrn_nki_meet(s, -1));
    for (int i = 0; i < N; i++)
        must(add(s, &tiles[i], &tiles[i], &tiles[i]));
    return s;
}

static void test_tiles_are_not_filled_behind_a_meeting_of_the_cores(void **state) {
    (void)state;
    nki_session *s = filled_tiles(true);
    nki_finish_options o = {.name = "met"};
    uint64_t sbuf, psum;
    vtrn_nki_refuse_spills(s);
    fails_with(vtrn_nki_place(s, &o, &sbuf, &psum), "4 tiles live with it");
    vtrn_nki_destroy(s);
}

static void test_tiles_without_room_are_spilled_on_either_side_of_a_meeting(void **state) {
    (void)state;
    enum { TILE_BYTES = ROWS * 12000 * 4 };
    nki_session *s = filled_tiles(true);
    nki_finish_options o = {.name = "spilled"};
    uint64_t sbuf, psum;
    uint32_t n, n_instrs = vtrn_nki_n_instrs(s);
    must(vtrn_nki_place(s, &o, &sbuf, &psum));
    const nki_spilled *spills = vtrn_nki_spills(s, &n);
    assert_int_equal(n, 1); /* all tiles are of one line */
    assert_int_equal(spills->n_saves, spills->n_reloads);
    assert_in_range(spills->n_saves, 2, 3); /* of six tiles four fit */
    assert_int_equal(spills->save_bytes, spills->n_saves * TILE_BYTES);
    assert_int_equal(spills->tile_bytes, TILE_BYTES);
    assert_int_equal(vtrn_nki_n_instrs(s), n_instrs + 2 * spills->n_saves);
    must(vtrn_nki_place(s, &o, &sbuf, &psum)); /* of the list with the spills */
    assert_int_equal(vtrn_nki_n_instrs(s), n_instrs + 2 * spills->n_saves);
    assert_in_range(sbuf, 4 * 48000, 212992);
    vtrn_nki_destroy(s);
}

static void test_tiles_are_filled_when_there_is_room(void **state) {
    (void)state;
    enum { WIDE = 12000 };
    nki_session *s = filled_tiles(false);
    nki_finish_options o = {.name = "filled"};
    uint64_t sbuf, psum;
    must(vtrn_nki_place(s, &o, &sbuf, &psum));
    assert_int_equal(sbuf, WIDE * 4);
    must(vtrn_nki_place(s, &o, &sbuf, &psum)); /* of the list in its new order */
    assert_int_equal(sbuf, WIDE * 4);
    vtrn_nki_destroy(s);
}

static void test_capacity_counts_tiles_that_are_used_together(void **state) {
    (void)state;
    enum { N = 6, WIDE = 12000 }; /* 48,000 bytes a partition each */
    for (int together = 0; together < 2; together++) {
        nki_session *s = begin();
        nki_view tiles[N];
        for (int i = 0; i < N; i++) {
            tiles[i] = filled_tile(s, WIDE);
            must(
                add(s, &tiles[i], &tiles[i], &tiles[i])); /* a value, which no later memset gives */
        }
        for (int i = 0; together && i < N; i++)
            must(add(s, &tiles[i], &tiles[i], &tiles[i]));
        nki_finish_options o = {.name = "wide"};
        uint64_t sbuf, psum;
        vtrn_nki_refuse_spills(s);
        vtrn_status status = vtrn_nki_place(s, &o, &sbuf, &psum);
        if (together) {
            fails_with(status, "4 tiles live with it");
        } else {
            must(status);
            assert_int_equal(sbuf, WIDE * 4);
        }
        vtrn_nki_destroy(s);
    }
}

/* Turns that load, transpose, multiply and store; each gives the next its tiles' memory. looks:
 * what was issued is carried out after each instruction. */
static void run_turns(bool looks, float *out_values) {
    nki_session *s = begin();
    nki_view in = make(s, VTRN_SPACE_HBM, NKI_ARGUMENT, COLUMNS, data);
    nki_view out = make(s, VTRN_SPACE_HBM, NKI_LOCAL, COLUMNS, NULL);
    for (int turn = 0; turn < 40; turn++) {
        nki_view x = tile(s), y = tile(s),
                 sums = make(s, VTRN_SPACE_PSUM, NKI_LOCAL, COLUMNS, NULL);
        nki_view turned = make(s, VTRN_SPACE_PSUM, NKI_LOCAL, ROWS, NULL),
                 left = columns(x, 0, ROWS);
        nki_call transpose = {
            .instr = {.opcode = VTRN_OP_PE_TRANSPOSE, .engine = VTRN_ENGINE_TENSOR},
            .view = {&turned, &left}};
        nki_call multiply = {.view = {&sums, &left, &y}};
        for (int step = 0; step < 6; step++) {
            if (step == 0)
                must(dma(s, &x, &in));
            else if (step == 1)
                must(add(s, &y, &x, &x));
            else if (step == 2)
                must(vtrn_nki_issue(s, &transpose));
            else if (step == 3)
                must(add(s, &left, &left, &turned));
            else if (step == 4)
                must(vtrn_nki_matmul(s, &multiply, 0));
            else
                must(add(s, &x, &y, &sums));
            if (looks)
                must(vtrn_nki_settle(s));
        }
        must(dma(s, &out, &x));
        vtrn_nki_release(turned.storage);
        vtrn_nki_release(sums.storage);
        vtrn_nki_release(y.storage);
        vtrn_nki_release(x.storage);
    }
    uint64_t n_unwritten;
    must(vtrn_nki_read(&out, out_values, &n_unwritten));
    vtrn_nki_destroy(s);
}

static void test_what_is_issued_together_gives_what_it_gives_one_by_one(void **state) {
    (void)state;
    static float one_by_one[ROWS * COLUMNS];
    run_turns(true, one_by_one);
    run_turns(false, result);
    assert_memory_equal(result, one_by_one, sizeof result);
}

static void test_a_matmul_overwrites_first_and_adds_then(void **state) {
    (void)state;
    nki_session *s = begin();
    nki_view in = make(s, VTRN_SPACE_HBM, NKI_ARGUMENT, COLUMNS, data), x = tile(s);
    nki_view sum = make(s, VTRN_SPACE_PSUM, NKI_LOCAL, COLUMNS, NULL), w = columns(x, 0, ROWS);
    must(dma(s, &x, &in));
    static float once[ROWS * COLUMNS];
    nki_call call = {.view = {&sum, &w, &x}};
    uint64_t n_unwritten;
    must(vtrn_nki_matmul(s, &call, -1));
    must(vtrn_nki_read(&sum, once, &n_unwritten));
    must(vtrn_nki_matmul(s, &call, -1));
    must(vtrn_nki_read(&sum, result, &n_unwritten));
    for (int i = 0; i < ROWS * COLUMNS; i++)
        assert_true(result[i] == once[i] + once[i]);
    must(vtrn_nki_matmul(s, &call, 0));
    must(vtrn_nki_read(&sum, result, &n_unwritten));
    assert_memory_equal(result, once, sizeof once);
    nki_view narrow = columns(sum, 0, 64);
    call.view[0] = &narrow;
    fails_with(vtrn_nki_matmul(s, &call, -1), "elements");
    vtrn_nki_destroy(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_issued_together_gives_what_it_gives_one_by_one),
        cmocka_unit_test(test_the_program_gives_what_the_kernel_gave),
        cmocka_unit_test(test_reads_are_checked_to_the_element),
        cmocka_unit_test(test_memory_that_is_given_back_is_used_again_and_unwritten),
        cmocka_unit_test(test_tiles_that_python_still_holds_cost_no_capacity),
        cmocka_unit_test(test_tiles_are_filled_when_there_is_room),
        cmocka_unit_test(test_tiles_are_not_filled_behind_a_meeting_of_the_cores),
        cmocka_unit_test(test_tiles_without_room_are_spilled_on_either_side_of_a_meeting),
        cmocka_unit_test(test_capacity_counts_tiles_that_are_used_together),
        cmocka_unit_test(test_a_matmul_overwrites_first_and_adds_then),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
