/* vtrn doctor: what this host offers, and whether vtrn works on it. */
#include "api/api.h"
#include "base/cpu.h"
#include "chip/chip.h"
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CHECKS = 12, MAX_CHIPS = 64 };

typedef struct check {
    const char *name;
    bool is_ok, is_needed;
    int exit_code; /* when it is needed and not ok */
    char text[512];
} check;

typedef struct report {
    check checks[MAX_CHECKS];
    int n;
} report;

static check *add(report *r, const char *name, bool is_ok, bool is_needed) {
    check *c = &r->checks[r->n++];
    *c = (check){.name = name, .is_ok = is_ok, .is_needed = is_needed, .exit_code = CLI_INTERNAL};
    return c;
}

/* Frees the status. */
static void fail(check *c, vtrn_status status) {
    c->is_ok = false;
    c->exit_code = cli_exit_code(vtrn_status_category(status));
    snprintf(c->text, sizeof c->text, "%s", vtrn_status_message(status));
    vtrn_status_free(status);
}

static void check_host(report *r) {
    check *c = add(r, "vtrn", true, true);
    snprintf(c->text, sizeof c->text, "%s", vtrn_version());
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    c = add(r, "cores", n > 0, true);
    snprintf(c->text, sizeof c->text, "%ld", n);
    c = add(r, "instruction set", true, true);
    snprintf(c->text, sizeof c->text, "%s", cpu_level_name(cpu_level_get()));
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    c = add(r, "memory", bytes >= (double)(1ull << 30), true);
    cli_bytes(c->text, sizeof c->text, bytes);
}

static void check_chips(report *r) {
    static char names[MAX_CHIPS][CHIP_NAME_MAX];
    int n = 0;
    vtrn_status status = chip_names(names, MAX_CHIPS, &n);
    check *c = add(r, "chips", !status && n > 0, true);
    size_t at = 0;
    for (int i = 0; i < n && !status && at < sizeof c->text; i++) {
        vtrn_chip chip;
        status = chip_load(names[i], &chip);
        at += (size_t)snprintf(c->text + at, sizeof c->text - at, "%s%s", i ? " " : "", names[i]);
    }
    if (status)
        fail(c, status);
}

/* The machine that a program started from here would get. */
static void check_machine(report *r) {
    vtrn_device *device = NULL;
    vtrn_status status = vtrn_device_open(NULL, &device);
    check *c = add(r, "machine", !status, true);
    if (status) {
        fail(c, status);
        return;
    }
    const runtime_device *rt = device->rt;
    snprintf(c->text, sizeof c->text, "%s: %d %s chip%s, %d cores", rt->instance.name, rt->n_chips,
             rt->chip.name, rt->n_chips == 1 ? "" : "s", rt->n_cores);
    vtrn_device_close(device);
}

/* Asks Python, as a user's script would find it: JAX and the plugin's entry point. */
static void check_jax(report *r) {
    const char *python = getenv("VTRN_PYTHON");
    char command[1024];
    snprintf(command, sizeof command,
             "\"%s\" -c \"import importlib.metadata as m\n"
             "e=[p.value for p in m.entry_points(group='jax_plugins') if 'vtrn' in p.value]\n"
             "print('jax', m.version('jax'), 'plugin', e[0] if e else 'missing')\" 2>/dev/null",
             python ? python : "python3");
    char line[256] = "";
    FILE *f = popen(command, "r");
    bool is_found = f && fgets(line, sizeof line, f);
    if (f)
        pclose(f);
    line[strcspn(line, "\n")] = 0;
    check *c = add(r, "JAX", is_found && !strstr(line, "missing"), false);
    snprintf(c->text, sizeof c->text, "%s",
             is_found ? line : "not found by python3 (VTRN_PYTHON names another); the C API works");
}

/* x + 1 and a copy through both engines that touch SBUF, by hand-written assembly. */
static const char self_test_text[] =
    "program \"self test\" chip \"trn1\" gen 2\n"
    "arguments 1\noutputs _\nscratch 0\n"
    "slot 0 argument fp32 65536 bytes number 0\n"
    "slot 1 output fp32 65536 bytes number 0\n"
    "block 0\n"
    "Sync dma_copy sbuf[0:128, 0]:fp32(1:128), hbm[0, 0, 128*128]:fp32(1:128), ring 0, inc s0+16\n"
    "Vector tensor_scalar.add sbuf[0:128, 1024]:fp32(1:128), sbuf[0:128, 0]:fp32(1:128), imm0 1, "
    "wait s0>=16, inc s1\n"
    "Sync dma_copy hbm[1, 0, 128*128]:fp32(1:128), sbuf[0:128, 1024]:fp32(1:128), ring 1, "
    "wait s1>=1\n"
    "stop\n";

enum { SELF_TEST_N = 128 * 128 };

static vtrn_status execute_self_test(vtrn_device *device, float *values, double *step_ns) {
    vtrn_executable *e = NULL;
    vtrn_buffer *in = NULL, *out = NULL;
    const int64_t n = SELF_TEST_N;
    int fp32;
    vtrn_dtype_from_name("fp32", &fp32);
    vtrn_profile profile = {.struct_size = sizeof profile};
    vtrn_status status = vtrn_program_load(device, self_test_text, strlen(self_test_text), &e);
    if (!status)
        status = vtrn_buffer_create(device, 0, fp32, 1, &n, values, &in);
    if (!status)
        status = vtrn_execute(e, 0, &in, 1, NULL, &out, 1);
    if (!status)
        status = vtrn_buffer_read(out, values, sizeof(float) * SELF_TEST_N);
    if (!status)
        status = vtrn_executable_profile(e, &profile);
    *step_ns = profile.step_ns;
    vtrn_buffer_destroy(in);
    vtrn_buffer_destroy(out);
    vtrn_executable_destroy(e);
    return status;
}

static void check_self(report *r) {
    static float values[SELF_TEST_N];
    for (int i = 0; i < SELF_TEST_N; i++)
        values[i] = (float)i;
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    const vtrn_device_options options = {
        .struct_size = sizeof options, .chip = "trn1", .instance = "trn1.2xlarge"};
    vtrn_device *device = NULL;
    double step_ns = 0;
    vtrn_status status = vtrn_device_open(&options, &device);
    if (!status)
        status = execute_self_test(device, values, &step_ns);
    vtrn_device_close(device);
    clock_gettime(CLOCK_MONOTONIC, &b);
    int n_wrong = 0;
    for (int i = 0; i < SELF_TEST_N; i++)
        n_wrong += values[i] != (float)i + 1;
    double ms = (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) * 1e-6;
    check *c = add(r, "self test", !status && n_wrong == 0, true);
    if (status)
        fail(c, status);
    else
        snprintf(c->text, sizeof c->text,
                 "x + 1 on trn1: %d of %d wrong, %.1f us simulated, %.1f ms here", n_wrong,
                 SELF_TEST_N, step_ns * 1e-3, ms);
}

static void print(const report *r, bool is_json) {
    if (is_json)
        printf("{\"checks\": [");
    for (int i = 0; i < r->n; i++) {
        const check *c = &r->checks[i];
        if (!is_json) {
            printf("%-4s %-16s %s\n",
                   c->is_ok       ? "ok"
                   : c->is_needed ? "BAD"
                                  : "-",
                   c->name, c->text);
            continue;
        }
        printf("%s{\"name\": ", i ? ", " : "");
        cli_json_text(stdout, c->name);
        printf(", \"ok\": %s, \"needed\": %s, \"text\": ", c->is_ok ? "true" : "false",
               c->is_needed ? "true" : "false");
        cli_json_text(stdout, c->text);
        printf("}");
    }
    if (is_json)
        printf("]}\n");
}

static int run(const cli_command *self, int argc, char **argv) {
    bool is_json = false;
    cli_list rest = {.n = 0};
    const cli_option options[] = {{"--json", CLI_FLAG, &is_json}, {NULL, CLI_LIST, &rest}};
    int code;
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (rest.n)
        return cli_usage(self, "no arguments");
    static report r;
    check_host(&r);
    check_chips(&r);
    check_machine(&r);
    check_jax(&r);
    check_self(&r);
    print(&r, is_json);
    for (int i = 0; i < r.n; i++)
        if (r.checks[i].is_needed && !r.checks[i].is_ok)
            return r.checks[i].exit_code;
    return CLI_OK;
}

const cli_command cli_doctor = {
    .name = "doctor",
    .summary = "check this host and the installation",
    .help =
        "usage: vtrn doctor [--json]\n\n"
        "Cores, instruction set, memory, chip files, the machine that VTRN_CHIP and VTRN_INSTANCE\n"
        "give, JAX and its plugin (VTRN_PYTHON names the Python to ask, default python3), and a\n"
        "self test that adds 1 to 16384 numbers.\n"
        "Exit code 0 when everything that vtrn itself needs is in order.\n\n"
        "example: vtrn doctor\n",
    .run = run,
};
