/* vtrn run and vtrn profile: execute a program on a virtual chip and say what it did. */
#include "api/api.h"
#include "base/directory.h"
#include "base/dtype.h"
#include "cli/cli.h"
#include "cli/cli_program.h"
#include "cli/npy.h"
#include "vtrn.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    const char *path, *chip, *instance, *out_dir;
    cli_list inputs;
    bool knows_shapes; /* a compiled program has kept sizes alone */
    bool is_json, is_random, is_profile, is_checked, is_verified;
    int64_t seed, repeat, threads;
    vtrn_device *device;
    vtrn_executable *executable;
    vtrn_buffer **in, **out;
    int n_in, n_out;
    vtrn_profile profile;
} job;

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 2685821657736338717ull;
}

/* Floats uniform in [-1, 1), integers 0..15, booleans 0 or 1: values that no op chokes on. */
static void fill_random(vtrn_dtype t, void *bytes, size_t n_bytes, uint64_t *state) {
    size_t size = dtype_size(t), n = size ? n_bytes / size : 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t r = next_random(state) >> 40;
        float f = dtype_is_float(t) ? (float)r * 0x1p-23f - 1.0f
                                    : (float)(r % (t == VTRN_DTYPE_PRED ? 2 : 16));
        if (t < VTRN_DTYPE_C64)
            dtype_convert(VTRN_DTYPE_FP32, &f, t, (char *)bytes + i * size, 1);
    }
}

static size_t n_values(const vtrn_buffer *buffer) {
    const size_t size = dtype_size((vtrn_dtype)buffer->type.dtype);
    return size ? (size_t)buffer->type.host_bytes / size : 0;
}

/* Codes of packed integers become bytes of the same value. */
static void extend_signs(vtrn_dtype t, uint8_t *bytes, size_t n) {
    if (dtype_per_byte(t) == 1 || !dtype_is_signed_int(t))
        return;
    const int half = 1 << (dtype_bits(t) - 1);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)((bytes[i] ^ half) - half);
}

/* n values to or from a buffer, as NumPy has them: a byte each where buffers pack them. */
static vtrn_status move_values(vtrn_buffer *buffer, bool is_write, void *values, size_t n) {
    const vtrn_dtype t = (vtrn_dtype)buffer->type.dtype;
    size_t size = vtrn_buffer_size(buffer);
    void *packed = malloc(size ? size : 1);
    if (!packed)
        return VTRN_OUT_OF_MEMORY(size);
    if (is_write)
        dtype_pack(t, values, packed, n);
    vtrn_status status =
        is_write ? vtrn_buffer_write(buffer, packed, size) : vtrn_buffer_read(buffer, packed, size);
    if (!is_write && !status) {
        dtype_unpack(t, packed, values, n);
        extend_signs(t, values, n);
    }
    free(packed);
    return status;
}

/* Whether the bytes of a file are values of a type that buffers pack. */
static vtrn_status check_file(const char *path, vtrn_dtype t, const void *values, size_t n) {
    if (dtype_per_byte(t) == 1)
        return NULL;
    const int count = 1 << dtype_bits(t), low = dtype_is_signed_int(t) ? -count / 2 : 0;
    for (size_t i = 0; i < n; i++) {
        int value = low ? ((const int8_t *)values)[i] : ((const uint8_t *)values)[i];
        if (value < low || value >= low + count)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "%s: element %zu is %d; %s has %d to %d, a byte each in the file",
                              path, i, value, dtype_name(t), low, low + count - 1);
    }
    return NULL;
}

static vtrn_status make_input(job *j, int i, uint64_t *state) {
    int dtype, rank;
    int64_t dims[VTRN_MAX_RANK];
    vtrn_executable_input_type(j->executable, i, &dtype, &rank, dims);
    VTRN_RETURN_IF_ERROR(vtrn_buffer_create(j->device, 0, dtype, rank, dims, NULL, &j->in[i]));
    size_t size = (size_t)j->in[i]->type.host_bytes;
    void *bytes = NULL;
    if (i < j->inputs.n) {
        VTRN_RETURN_IF_ERROR(npy_read(j->inputs.items[i], (vtrn_dtype)dtype, rank,
                                      j->knows_shapes ? dims : NULL, size, &bytes));
    } else {
        bytes = calloc(size ? size : 1, 1);
        if (!bytes)
            return VTRN_OUT_OF_MEMORY(size);
        if (j->is_random)
            fill_random((vtrn_dtype)dtype, bytes, size, state);
    }
    size_t n = n_values(j->in[i]);
    vtrn_status status =
        i < j->inputs.n ? check_file(j->inputs.items[i], (vtrn_dtype)dtype, bytes, n) : NULL;
    if (!status)
        status = move_values(j->in[i], true, bytes, n);
    free(bytes);
    return status;
}

/* The program of the file, for the job's device. */
static vtrn_status load(job *j, const uint8_t *bytes, size_t size) {
    const compile_options options = {.is_verified = j->is_verified};
    j->knows_shapes = cli_form_of(bytes, size) == CLI_ARTIFACT;
    if (j->knows_shapes)
        return api_compile(j->device, bytes, size, &options, &j->executable);
    if (j->is_verified)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "--verify: a compiled program holds no operations to compare its results "
                          "with; give the StableHLO artifact that it was made from");
    return vtrn_program_load(j->device, bytes, size, &j->executable);
}

/* What the options ask of values must not be answered where none are computed. */
static vtrn_status check_values(const job *j) {
    const char *asks = j->is_verified                 ? "--verify"
                       : j->is_checked                ? "--check"
                       : j->out_dir && !j->is_profile ? "-o"
                                                      : NULL;
    if (j->device->rt->has_values || !asks)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "%s is about values, and VTRN_VALUES is off; leave one of them out", asks);
}

static vtrn_status open_job(job *j) {
    uint8_t *bytes;
    size_t size;
    const vtrn_device_options options = {.struct_size = sizeof options,
                                         .chip = j->chip,
                                         .instance = j->instance,
                                         .n_threads = (int)j->threads};
    VTRN_RETURN_IF_ERROR(cli_read(j->path, &bytes, &size));
    vtrn_status status = vtrn_device_open(&options, &j->device);
    if (!status)
        status = check_values(j);
    if (!status)
        status = load(j, bytes, size);
    free(bytes);
    if (status)
        return vtrn_status_annotate(status, "%s", j->path);
    status = cli_check_ranks(program_n_ranks(j->executable->loaded->program));
    if (status)
        return vtrn_status_annotate(status, "%s", j->path);
    j->n_in = vtrn_executable_n_inputs(j->executable);
    j->n_out = vtrn_executable_n_outputs(j->executable);
    if (j->inputs.n > j->n_in)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: %d inputs given, it takes %d", j->path,
                          j->inputs.n, j->n_in);
    j->in = calloc((size_t)j->n_in + 1, sizeof *j->in);
    j->out = calloc((size_t)j->n_out + 1, sizeof *j->out);
    if (!j->in || !j->out)
        return VTRN_OUT_OF_MEMORY(sizeof *j->in * (size_t)(j->n_in + j->n_out));
    uint64_t state = (uint64_t)j->seed * 0x9e3779b97f4a7c15ull + 88172645463325252ull;
    for (int i = 0; i < j->n_in; i++)
        VTRN_RETURN_IF_ERROR(make_input(j, i, &state));
    return NULL;
}

/* Every repetition starts from the same inputs: none is donated. */
static vtrn_status execute(job *j) {
    bool *keep = malloc((size_t)j->n_in + 1);
    if (!keep)
        return VTRN_OUT_OF_MEMORY((size_t)j->n_in + 1);
    memset(keep, 1, (size_t)j->n_in + 1);
    vtrn_status status = NULL;
    for (int64_t r = 0; r < j->repeat && !status; r++) {
        for (int o = 0; o < j->n_out; o++) {
            vtrn_buffer_destroy(j->out[o]);
            j->out[o] = NULL;
        }
        status = vtrn_execute(j->executable, 0, j->in, j->n_in, keep, j->out, j->n_out);
    }
    free(keep);
    VTRN_RETURN_IF_ERROR(status);
    if (j->is_checked)
        VTRN_RETURN_IF_ERROR(vtrn_executable_check(j->executable));
    j->profile.struct_size = sizeof j->profile;
    if (!j->device->rt->is_timed && !j->is_profile)
        return NULL;
    return vtrn_executable_profile(j->executable, &j->profile);
}

static vtrn_status write_output(const job *j, int o) {
    int dtype, rank;
    int64_t dims[VTRN_MAX_RANK];
    char path[DIRECTORY_PATH_MAX + 32];
    vtrn_executable_output_type(j->executable, o, &dtype, &rank, dims);
    size_t size = (size_t)j->out[o]->type.host_bytes;
    void *bytes = malloc(size ? size : 1);
    if (!bytes)
        return VTRN_OUT_OF_MEMORY(size);
    vtrn_status status = move_values(j->out[o], false, bytes, n_values(j->out[o]));
    snprintf(path, sizeof path, "%s/out%d.npy", j->out_dir, o);
    if (!status)
        status = npy_write(path, (vtrn_dtype)dtype, rank, dims, bytes, size);
    free(bytes);
    return status;
}

static vtrn_status write_results(const job *j) {
    if (!j->out_dir)
        return NULL;
    if (j->is_profile)
        return vtrn_executable_profile_write(j->executable, j->out_dir);
    VTRN_RETURN_IF_ERROR(directory_make(j->out_dir));
    for (int o = 0; o < j->n_out; o++)
        VTRN_RETURN_IF_ERROR(write_output(j, o));
    return NULL;
}

static const char *const active_names[] = {"tensor", "vector", "scalar", "gpsimd", "sync", "dma"};

static void active_of(const vtrn_profile *p, double out[6]) {
    const double all[] = {p->tensor_active, p->vector_active, p->scalar_active,
                          p->gpsimd_active, p->sync_active,   p->dma_active};
    memcpy(out, all, sizeof all);
}

static void print_outcome(const job *j) {
    if (j->is_checked)
        printf("  checked   no race between engines, no read of what nothing wrote\n");
    if (j->is_verified)
        printf("  verified  the results of every kernel are what the reference gives\n");
    if (j->out_dir && j->is_profile)
        printf("  profile   %s/profile.html, profile.pftrace (Perfetto), profile.json\n",
               j->out_dir);
    else if (j->out_dir)
        printf("  outputs   %s/out0.npy ... (%d)\n", j->out_dir, j->n_out);
}

static void print_text(const job *j) {
    const vtrn_profile *p = &j->profile;
    if (!j->device->rt->is_timed) {
        printf("%s on one core of %s: values alone, VTRN_TIMING is off\n", j->path,
               vtrn_device_chip_name(j->device));
        print_outcome(j);
        return;
    }
    static const char *const flop_units[] = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", NULL};
    char step[32], moved_in[32], moved_out[32], hbm[32], sbuf[32], psum[32], host[32], flops[32];
    double active[6];
    active_of(p, active);
    cli_time(step, sizeof step, p->step_ns);
    cli_time(host, sizeof host, p->host_seconds * 1e9);
    cli_bytes(moved_in, sizeof moved_in, (double)p->hbm_read_bytes);
    cli_bytes(moved_out, sizeof moved_out, (double)p->hbm_write_bytes);
    cli_bytes(hbm, sizeof hbm, (double)p->hbm_peak_bytes);
    cli_bytes(sbuf, sizeof sbuf, (double)p->sbuf_peak_bytes);
    cli_bytes(psum, sizeof psum, (double)p->psum_peak_bytes);
    printf("%s on one core of %s: %s simulated, %s on this host\n", j->path,
           vtrn_device_chip_name(j->device), step, host);
    printf("  active    ");
    for (int i = 0; i < 6; i++)
        printf("%s%s %.1f %%", i ? ", " : "", active_names[i], 100 * active[i]);
    cli_scaled(flops, sizeof flops, (double)p->flops, 1000, flop_units);
    printf("\n  MFU       %.3g %% (%s)\n", 100 * p->mfu, flops);
    printf("  HBM       %s read, %s written, peak %s\n", moved_in, moved_out, hbm);
    if (p->sbuf_peak_bytes || p->psum_peak_bytes) /* assembly text need not state them */
        printf("  on chip   SBUF peak %s, PSUM peak %s\n", sbuf, psum);
    printf("  executed  %llu instructions; %u reference ops, %.1f %% of the host time\n",
           (unsigned long long)p->n_instructions, p->n_reference_ops,
           100 * p->reference_time_share);
    print_outcome(j);
}

static void print_json_profile(const vtrn_profile *p) {
    double active[6];
    active_of(p, active);
    printf(", \"step_ns\": ");
    cli_json_number(stdout, p->step_ns);
    printf(", \"active\": {");
    for (int i = 0; i < 6; i++) {
        printf("%s\"%s\": ", i ? ", " : "", active_names[i]);
        cli_json_number(stdout, active[i]);
    }
    printf("}, \"flops\": %llu, \"mfu\": ", (unsigned long long)p->flops);
    cli_json_number(stdout, p->mfu);
    printf(", \"hbm_read_bytes\": %llu, \"hbm_write_bytes\": %llu, \"hbm_peak_bytes\": %llu, "
           "\"sbuf_peak_bytes\": %llu, \"psum_peak_bytes\": %llu, \"instructions\": %llu, "
           "\"reference_ops\": %u, \"reference_time_share\": ",
           (unsigned long long)p->hbm_read_bytes, (unsigned long long)p->hbm_write_bytes,
           (unsigned long long)p->hbm_peak_bytes, (unsigned long long)p->sbuf_peak_bytes,
           (unsigned long long)p->psum_peak_bytes, (unsigned long long)p->n_instructions,
           p->n_reference_ops);
    cli_json_number(stdout, p->reference_time_share);
    printf(", \"host_seconds\": ");
    cli_json_number(stdout, p->host_seconds);
}

static void print_json(const job *j) {
    printf("{\"program\": ");
    cli_json_text(stdout, j->path);
    printf(", \"chip\": ");
    cli_json_text(stdout, vtrn_device_chip_name(j->device));
    if (j->device->rt->is_timed)
        print_json_profile(&j->profile);
    printf(", \"outputs\": %d, \"is_checked\": %s, \"is_verified\": %s}\n", j->n_out,
           j->is_checked ? "true" : "false", j->is_verified ? "true" : "false");
}

static void close_job(job *j) {
    for (int i = 0; i < j->n_in && j->in; i++)
        vtrn_buffer_destroy(j->in[i]);
    for (int o = 0; o < j->n_out && j->out; o++)
        vtrn_buffer_destroy(j->out[o]);
    free(j->in);
    free(j->out);
    vtrn_executable_destroy(j->executable);
    vtrn_device_close(j->device);
}

static int run(const cli_command *self, int argc, char **argv) {
    job j = {.repeat = 1, .seed = 1, .is_profile = self == &cli_profile};
    bool is_zeros = false;
    cli_list files = {.n = 0};
    const cli_option options[] = {{"--json", CLI_FLAG, &j.is_json},
                                  {"--random", CLI_FLAG, &j.is_random},
                                  {"--zeros", CLI_FLAG, &is_zeros},
                                  {"--seed", CLI_NUMBER, &j.seed},
                                  {"--input", CLI_LIST, &j.inputs},
                                  {"-o", CLI_TEXT, &j.out_dir},
                                  {"--chip", CLI_TEXT, &j.chip},
                                  {"--instance", CLI_TEXT, &j.instance},
                                  {"--threads", CLI_NUMBER, &j.threads},
                                  {"--repeat", CLI_NUMBER, &j.repeat},
                                  {"--check", CLI_FLAG, &j.is_checked},
                                  {"--verify", CLI_FLAG, &j.is_verified},
                                  {NULL, CLI_LIST, &files}};
    int code;
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (files.n != 1)
        return cli_usage(self, "one program to run");
    if (j.is_profile && !j.out_dir)
        return cli_usage(self, "-o DIR says where the profile goes");
    if (j.is_random && is_zeros)
        return cli_usage(self, "--random or --zeros, not both");
    if (j.repeat < 1 || j.threads < 0 || j.threads > INT_MAX)
        return cli_usage(self, "--repeat is 1 or more, --threads 0 (the default) or more");
    j.path = files.items[0];
    vtrn_status status = open_job(&j);
    if (!status && j.inputs.n < j.n_in && !j.is_random && !is_zeros)
        status = VTRN_ERROR(VTRN_BAD_ARGUMENT,
                            "%s takes %d inputs, %d given; give --input FILE.npy for each, or "
                            "--random or --zeros for the rest",
                            j.path, j.n_in, j.inputs.n);
    if (!status)
        status = execute(&j);
    if (!status)
        status = write_results(&j);
    if (!status)
        (j.is_json ? print_json : print_text)(&j);
    close_job(&j);
    return status ? cli_fail(status) : CLI_OK;
}

#define OPTIONS                                                                                    \
    "FILE is a StableHLO artifact, a program file or assembly text.\n\n"                           \
    "  --input F.npy    one for each input, in order\n"                                            \
    "  --random         the rest: floats in [-1, 1), integers 0..15; --seed N chooses\n"           \
    "  --zeros          the rest: zeros\n"                                                         \
    "  --chip NAME      default VTRN_CHIP, else the instance's\n"                                  \
    "  --instance NAME  default VTRN_INSTANCE, else trn1.2xlarge\n"                                \
    "  --threads N      host threads; default VTRN_THREADS, else all cores\n"                      \
    "  --repeat N       run N times from the same inputs\n"                                        \
    "  --check          refuse races between engines and reads of what nothing wrote\n"            \
    "  --verify         compare each kernel's results with the reference routines\n"

const cli_command cli_run = {
    .name = "run",
    .summary = "run a program and say what the chip would have done",
    .help = "usage: vtrn run FILE [options] [--json]\n\n" OPTIONS
            "  -o DIR           write the outputs as DIR/out0.npy, DIR/out1.npy, ...\n\n"
            "example: vtrn run step.mlirbc --random -o results\n",
    .run = run,
};

const cli_command cli_profile = {
    .name = "profile",
    .summary = "run a program and write its profile",
    .help = "usage: vtrn profile FILE -o DIR [options] [--json]\n\n" OPTIONS
            "  -o DIR           write profile.html, profile.pftrace and profile.json there\n\n"
            "example: vtrn profile step.mlirbc --random -o profile\n",
    .run = run,
};
