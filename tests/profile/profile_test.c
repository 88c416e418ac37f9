/* The profiler against a made-up step: the trace is decoded again, the page is bounded and safe. */
#include "profile/profile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_OPS = 8, N_TILES_MAX = 20000, N_TRACKS_MAX = 1024 };

/* A step of n_tiles tiles: load, weights, matmul, activation, two vector instructions, store. */
typedef struct step {
    vtrn_program program;
    vtrn_chip chip;
    vtrn_instance instance;
    timing_result timing;
    profile_input input;
    char directory[64];
} step;

static vtrn_ap operand(vtrn_space space, vtrn_dtype dtype, int64_t addr, uint32_t n) {
    return (vtrn_ap){.space = space,
                     .dtype = dtype,
                     .n_dims = 1,
                     .n_partitions = 128,
                     .partition_step = space == VTRN_SPACE_HBM ? n : 1,
                     .addr = addr,
                     .dim = {{1, n}}};
}

static vtrn_instr *add_instr(step *s, vtrn_opcode opcode, vtrn_engine engine, uint32_t source) {
    vtrn_instr *i = &s->program.instrs[s->program.n_instrs++];
    *i = (vtrn_instr){.opcode = opcode, .engine = engine, .source = source};
    i->update_semaphore = VTRN_NO_SEMAPHORE;
    return i;
}

static void add_interval(step *s, int lane, double start_ns, double ns, double wait_ns) {
    s->timing.intervals[s->timing.n_intervals++] =
        (timing_interval){.start_ns = start_ns,
                          .end_ns = start_ns + ns,
                          .instr = s->program.n_instrs - 1,
                          .lane = (uint16_t)lane,
                          .wait_ns = (float)wait_ns};
    if (lane < VTRN_ENGINE_COUNT) {
        s->timing.summary.active_ns[lane] += ns;
        s->timing.summary.n_instrs[lane]++;
    } else {
        s->timing.summary.n_dmas++;
        s->timing.summary.dma_active_ns += ns;
    }
    if (start_ns + ns > s->timing.summary.total_ns)
        s->timing.summary.total_ns = start_ns + ns;
}

static void add_tile(step *s, int i, double t) {
    uint32_t source = (uint32_t)(i / 40 % N_OPS);
    int64_t addr = (i % 8) * 4096;
    vtrn_instr *load = add_instr(s, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, source);
    load->queue = (uint8_t)(i % 2);
    load->ap[0] = operand(VTRN_SPACE_SBUF, VTRN_DTYPE_BF16, addr, 512);
    load->ap[1] = operand(VTRN_SPACE_HBM, VTRN_DTYPE_BF16, 0, 512);
    add_interval(s, TIMING_LANE_DMA + i % 2, t, 900, 0);
    vtrn_instr *weights = add_instr(s, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR, source);
    weights->ap[1] = operand(VTRN_SPACE_SBUF, VTRN_DTYPE_BF16, 0, 128);
    add_interval(s, VTRN_ENGINE_TENSOR, t + 1000, 60, 12);
    vtrn_instr *matmul = add_instr(s, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR, source);
    matmul->ap[0] = operand(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, (i % 8) * 2048, 512);
    matmul->ap[1] = operand(VTRN_SPACE_SBUF, VTRN_DTYPE_BF16, addr, 512);
    add_interval(s, VTRN_ENGINE_TENSOR, t + 1060, 320 + 40 * (i % 3), 0);
    vtrn_instr *act = add_instr(s, VTRN_OP_ACTIVATE, VTRN_ENGINE_SCALAR, source);
    act->func = VTRN_ACT_GELU;
    act->ap[0] = operand(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, addr + 32768, 512);
    act->ap[1] = operand(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, (i % 8) * 2048, 512);
    add_interval(s, VTRN_ENGINE_SCALAR, t + 1480, 380, i % 5 ? 0 : 100);
    vtrn_instr *add = add_instr(s, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, source);
    add->ap[0] = operand(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, addr + 65536, 512);
    add->ap[1] = add->ap[2] = act->ap[0];
    add_interval(s, VTRN_ENGINE_VECTOR, t + 1880, 540, 0);
    vtrn_instr *store = add_instr(s, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, source);
    store->queue = 2;
    store->ap[0] = operand(VTRN_SPACE_HBM, VTRN_DTYPE_FP32, 0, 512);
    store->ap[0].slot = 1;
    store->ap[1] = add->ap[0];
    add_interval(s, TIMING_LANE_DMA + 2, t + 2440, 1100, 0);
}

static void build_step(step *s, int n_tiles) {
    static vtrn_source sources[N_OPS] = {
        {"stablehlo.dot_general", "model.py:88"},  {"fusion(12)", "model.py:91"},
        {"stablehlo.reduce", "model.py:64"},       {"</script><b>\"bad\\\xff", "<img>:1"},
        {"stablehlo.dot_general", "model.py:102"}, {"fusion(3)", "train.py:41"},
        {"stablehlo.exponential", "model.py:70"},  {"stablehlo.dot_general", "model.py:88"},
    };
    static vtrn_slot slots[2] = {{.kind = VTRN_SLOT_ARGUMENT, .size_bytes = 1 << 20},
                                 {.kind = VTRN_SLOT_OUTPUT, .size_bytes = 1 << 19}};
    static int32_t alias[1] = {-1};
    *s = (step){.chip = {.name = "trn1",
                         .core_name = "NeuronCore-v2",
                         .n_cores = 2,
                         .n_partitions = 128,
                         .sbuf_partition_bytes = 196608,
                         .psum_partition_bytes = 16384,
                         .hbm_bytes = 32ull << 30,
                         .peak_tensor_flops = 91.75e12},
                .instance = {.name = "trn1.2xlarge", .n_chips = 1, .dollars_per_hour = 0.5}};
    s->program = (vtrn_program){.name = "jit_step",
                                .n_slots = 2,
                                .slots = slots,
                                .n_sources = N_OPS,
                                .sources = sources,
                                .n_outputs = 1,
                                .output_alias = alias};
    s->timing.summary.flops = 16777216ull * (uint64_t)n_tiles;
    s->program.instrs = calloc(6 * (size_t)n_tiles, sizeof(vtrn_instr));
    s->timing.intervals = calloc(6 * (size_t)n_tiles, sizeof(timing_interval));
    assert_non_null(s->program.instrs);
    assert_non_null(s->timing.intervals);
    double t = 0;
    for (int i = 0; i < n_tiles; i++) {
        add_tile(s, i, t);
        t += i % 40 == 39 ? 2500 : 640;
    }
    s->timing.summary.hbm_read_bytes = 131072ull * (uint64_t)n_tiles;
    s->timing.summary.hbm_write_bytes = 262144ull * (uint64_t)n_tiles;
    s->input = (profile_input){.program = &s->program,
                               .chip = &s->chip,
                               .instance = &s->instance,
                               .timing = &s->timing,
                               .counters = {.samples_per_step = 16, .host_seconds = 0.031}};
    strcpy(s->directory, "profile_test_XXXXXX");
    assert_non_null(mkdtemp(s->directory));
}

static void free_step(step *s) {
    static const char *const files[] = {"profile.json", "profile.pftrace", "profile.html"};
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", s->directory, files[i]);
        unlink(path);
    }
    rmdir(s->directory);
    free(s->program.instrs);
    free(s->timing.intervals);
}

static uint8_t *read_back(const step *s, const char *file, size_t *size) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", s->directory, file);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, f), *size);
    data[*size] = 0;
    fclose(f);
    return data;
}

/* A protobuf reader of our own: the next field of the message, false at its end. */
typedef struct field {
    int number;
    uint64_t value; /* varint */
    const uint8_t *data;
    size_t size; /* bytes of data, for length-delimited */
} field;

static bool read_varint(const uint8_t **at, const uint8_t *end, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static bool next_field(const uint8_t **at, const uint8_t *end, field *f) {
    if (*at == end)
        return false;
    uint64_t tag;
    assert_true(read_varint(at, end, &tag));
    *f = (field){.number = (int)(tag >> 3)};
    assert_true((tag & 7) == 0 || (tag & 7) == 2);
    assert_true(read_varint(at, end, &f->value));
    if ((tag & 7) == 2) {
        f->data = *at;
        f->size = f->value;
        assert_true(f->size <= (size_t)(end - *at));
        *at += f->size;
    }
    return true;
}

typedef struct trace_facts {
    uint64_t n_begin, n_end, n_counter, n_tracks, last_ns;
    uint64_t depth[N_TRACKS_MAX], track_ns[N_TRACKS_MAX]; /* of each track: depth, last time */
} trace_facts;

static void read_event(const field *event, uint64_t t_ns, trace_facts *facts) {
    const uint8_t *at = event->data;
    uint64_t type = 0, track = 0;
    field f;
    while (next_field(&at, event->data + event->size, &f)) {
        type = f.number == 9 ? f.value : type;
        track = f.number == 11 ? f.value : track;
    }
    assert_true(track > 0 && track < N_TRACKS_MAX);
    assert_true(t_ns >= facts->track_ns[track]); /* slices of a track do not overlap */
    facts->track_ns[track] = t_ns;
    if (type == 1) {
        facts->n_begin++;
        assert_int_equal(facts->depth[track]++, 0);
    } else if (type == 2) {
        facts->n_end++;
        assert_int_equal(facts->depth[track]--, 1);
    } else {
        assert_int_equal(type, 4);
        facts->n_counter++;
    }
}

static void read_packet(const field *packet, trace_facts *facts) {
    const uint8_t *at = packet->data;
    field f;
    uint64_t sequence = 0, t_ns = 0;
    while (next_field(&at, packet->data + packet->size, &f)) {
        if (f.number == 8) /* written before the event */
            t_ns = f.value;
        facts->last_ns = t_ns > facts->last_ns ? t_ns : facts->last_ns;
        if (f.number == 10)
            sequence = f.value;
        if (f.number == 11)
            read_event(&f, t_ns, facts);
        if (f.number == 60)
            facts->n_tracks++;
    }
    assert_int_equal(sequence, 1);
}

static void the_trace_decodes_to_every_interval_on_its_track(void **state) {
    (void)state;
    step s;
    build_step(&s, 300);
    assert_null(profile_write(&s.input, s.directory));
    size_t size;
    uint8_t *data = read_back(&s, "profile.pftrace", &size);
    const uint8_t *at = data;
    trace_facts facts = {0};
    field packet;
    while (next_field(&at, data + size, &packet)) {
        assert_int_equal(packet.number, 1);
        read_packet(&packet, &facts);
    }
    assert_int_equal(facts.n_begin, s.timing.n_intervals);
    assert_int_equal(facts.n_end, s.timing.n_intervals);
    /* process, engines, rings, a second row for the stores that overlap, counters */
    assert_int_equal(facts.n_tracks, 1 + 3 + 3 + 1 + 3);
    assert_true(facts.n_counter > 0 && facts.n_counter % 3 == 0);
    assert_int_equal(facts.last_ns, (uint64_t)(s.timing.summary.total_ns + 0.5));
    free(data);
    free_step(&s);
}

static void the_summary_is_plain_arithmetic_on_the_timing(void **state) {
    (void)state;
    step s;
    build_step(&s, 100);
    profile_summary sum;
    profile_summarize(&s.input, &sum);
    double step_s = s.timing.summary.total_ns * 1e-9;
    assert_true(sum.step_ns == s.timing.summary.total_ns);
    assert_float_equal(sum.mfu, 100 * 16777216.0 / (step_s * 91.75e12), 1e-9);
    assert_float_equal(sum.samples_per_second, 16 / step_s, 1e-6);
    assert_float_equal(sum.dollars_per_million_samples, 0.5 / 3600 * 1e6 / 16 * step_s, 1e-12);
    assert_float_equal(sum.engine_active[VTRN_ENGINE_VECTOR], 100 * 540e-9 / step_s, 1e-9);
    assert_int_equal(sum.instance_cores, 2);
    s.input.instance = NULL;
    s.input.counters.samples_per_step = 0;
    profile_summarize(&s.input, &sum);
    assert_true(sum.samples_per_second == 0 && sum.dollars_per_million_samples == 0);
    free_step(&s);
}

static void a_page_of_a_huge_step_is_small_and_self_contained(void **state) {
    (void)state;
    step s;
    build_step(&s, N_TILES_MAX);
    const char *sample = getenv("VTRN_PROFILE_SAMPLE");
    if (sample)
        assert_null(profile_write(&s.input, sample));
    assert_null(profile_write(&s.input, s.directory));
    size_t size;
    char *page = (char *)read_back(&s, "profile.html", &size);
    assert_true(size < 3u << 20);
    assert_null(strstr(page, "http:"));
    assert_null(strstr(page, "https:"));
    assert_null(strstr(page, "@DATA@"));
    int n_ends = 0;
    for (const char *at = page; (at = strstr(at, "</script")) != NULL; at++)
        n_ends++;
    assert_int_equal(n_ends, 2); /* those of the page: op names cannot add one */
    const char *shown = strstr(page, "\"n_shown\":");
    assert_non_null(shown);
    long n_shown = strtol(shown + 10, NULL, 10);
    assert_true(n_shown > 1000 && n_shown <= 20000);
    free(page);
    free_step(&s);
}

static void memory_is_live_from_write_to_last_read(void **state) {
    (void)state;
    step s;
    build_step(&s, 1);
    profile_memory_sample *samples;
    size_t n;
    assert_null(profile_memory(&s.program, &s.chip, &s.timing, 1000, &samples, &n));
    uint64_t sbuf_at_500 = 0, psum_at_1200 = 0, hbm_at_1 = 0, hbm_at_end = 0, psum_at_3000 = 1;
    for (size_t i = 0; i < n; i++) {
        sbuf_at_500 = samples[i].t_ns <= 500 ? samples[i].sbuf_bytes : sbuf_at_500;
        psum_at_1200 = samples[i].t_ns <= 1200 ? samples[i].psum_bytes : psum_at_1200;
        psum_at_3000 = samples[i].t_ns <= 3000 ? samples[i].psum_bytes : psum_at_3000;
        hbm_at_1 = samples[i].t_ns <= 1 ? samples[i].hbm_bytes : hbm_at_1;
        hbm_at_end =
            samples[i].t_ns < s.timing.summary.total_ns ? samples[i].hbm_bytes : hbm_at_end;
    }
    assert_int_equal(sbuf_at_500, 512 * 2 * 128);
    assert_int_equal(psum_at_1200, 512 * 4 * 128);
    assert_int_equal(psum_at_3000, 0);
    assert_int_equal(hbm_at_1, 1 << 20);
    assert_int_equal(hbm_at_end, (1 << 20) + (1 << 19));
    free(samples);
    free_step(&s);
}

static void an_unwritable_directory_is_a_resource_error(void **state) {
    (void)state;
    step s;
    build_step(&s, 1);
    vtrn_status status = profile_write(&s.input, "/proc/vtrn/profile");
    assert_int_equal(vtrn_status_category(status), VTRN_RESOURCE);
    assert_non_null(strstr(vtrn_status_message(status), "/proc/vtrn"));
    vtrn_status_free(status);
    status = profile_write(&s.input, "");
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    vtrn_status_free(status);
    free_step(&s);
}

static void a_step_without_intervals_still_writes_all_files(void **state) {
    (void)state;
    step s;
    build_step(&s, 1);
    s.timing.n_intervals = 0;
    assert_null(profile_write(&s.input, s.directory));
    size_t size;
    char *json = (char *)read_back(&s, "profile.json", &size);
    assert_non_null(strstr(json, "\"top_ops\": [\n  ]"));
    free(json);
    free_step(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_trace_decodes_to_every_interval_on_its_track),
        cmocka_unit_test(the_summary_is_plain_arithmetic_on_the_timing),
        cmocka_unit_test(a_page_of_a_huge_step_is_small_and_self_contained),
        cmocka_unit_test(memory_is_live_from_write_to_last_read),
        cmocka_unit_test(an_unwritable_directory_is_a_resource_error),
        cmocka_unit_test(a_step_without_intervals_still_writes_all_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
