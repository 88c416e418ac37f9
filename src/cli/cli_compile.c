/* vtrn compile: a StableHLO artifact to a program file, with the stages on the way as text. */
#include "cli/cli.h"
#include "cli/cli_program.h"
#include "compiler/cc_flags.h"
#include "compiler/compile.h"
#include "isa/asm.h"
#include "isa/container.h"

#include <stdlib.h>
#include <string.h>

enum { EMIT = COMPILE_STAGE_COUNT, N_STAGES };
static const char *const stage_names[N_STAGES] = {"graph", "form", "tiles", "place", "emit"};

/* "form,place" -> bits; false: names an unknown stage. */
static bool read_stages(const char *list, uint32_t *stages) {
    while (*list) {
        size_t n = strcspn(list, ",");
        int i = 0;
        while (i < N_STAGES &&
               (strlen(stage_names[i]) != n || strncmp(stage_names[i], list, n) != 0))
            i++;
        if (i == N_STAGES)
            return false;
        *stages |= 1u << i;
        list += n + (list[n] == ',');
    }
    return true;
}

/* NULL and "on" leave a decision to the compiler; false: neither these nor "off". */
static bool read_switch(const char *value, bool *is_off) {
    *is_off = value && strcmp(value, "off") == 0;
    return !value || *is_off || strcmp(value, "on") == 0;
}

static vtrn_status print_emitted(const vtrn_program *p) {
    char *text;
    size_t n;
    VTRN_RETURN_IF_ERROR(program_disassemble(p, &text, &n));
    printf("== emit\n%s", text);
    free(text);
    return NULL;
}

static vtrn_status save(const vtrn_program *p, const char *path) {
    void *bytes;
    size_t n;
    VTRN_RETURN_IF_ERROR(program_save(p, &bytes, &n));
    vtrn_status status = cli_write(path, bytes, n);
    free(bytes);
    if (!status && strcmp(path, "-") != 0)
        fprintf(stderr, "%s: %zu bytes, %u instructions, for %s\n", path, n, p->n_instrs, p->chip);
    return status;
}

static vtrn_status compile(const char *path, const char *chip_name, const compile_options *options,
                           vtrn_program **out) {
    uint8_t *bytes;
    size_t size;
    vtrn_chip chip;
    graph *g;
    VTRN_RETURN_IF_ERROR(cli_chip(chip_name, &chip));
    VTRN_RETURN_IF_ERROR(cli_read(path, &bytes, &size));
    vtrn_status status = graph_from_artifact(bytes, size, &g);
    free(bytes);
    if (status)
        return vtrn_status_annotate(status, "%s", path);
    status = cli_check_ranks((uint64_t)(g->n_partitions * g->n_replicas));
    if (!status)
        status = compile_graph(g, &chip, options, out);
    graph_destroy(g);
    return vtrn_status_annotate(status, "%s", path);
}

static void report(const vtrn_program *p) {
    printf("{\"name\": ");
    cli_json_text(stdout, p->name);
    printf(", \"chip\": ");
    cli_json_text(stdout, p->chip);
    printf(", \"instructions\": %u, \"blocks\": %u, \"scratch_bytes\": %llu}\n", p->n_instrs,
           p->n_blocks, (unsigned long long)p->scratch_size);
}

static int run(const cli_command *self, int argc, char **argv) {
    const char *dump = NULL, *output = NULL, *chip = NULL, *fuse = NULL, *resident = NULL;
    const char *pipeline = NULL, *schedule = NULL, *passes = NULL;
    const char *cast = NULL, *cast_type = NULL;
    bool is_json = false;
    cli_list files = {.n = 0};
    int code;
    const cli_option options[] = {{"--dump", CLI_TEXT, &dump},
                                  {"-o", CLI_TEXT, &output},
                                  {"--chip", CLI_TEXT, &chip},
                                  {"--fuse", CLI_TEXT, &fuse},
                                  {"--json", CLI_FLAG, &is_json},
                                  {"--resident", CLI_TEXT, &resident},
                                  {"--pipeline", CLI_TEXT, &pipeline},
                                  {"--schedule", CLI_TEXT, &schedule},
                                  {"--passes", CLI_TEXT, &passes},
                                  {"--auto-cast", CLI_TEXT, &cast},
                                  {"--auto-cast-type", CLI_TEXT, &cast_type},
                                  {NULL, CLI_LIST, &files}};
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (files.n != 1)
        return cli_usage(self, "one file to compile");
    compile_options o = {.dump = stdout};
    if (dump && !read_stages(dump, &o.dump_stages))
        return cli_usage(self, "--dump %s: stages are graph, form, tiles, place and emit", dump);
    if (!read_switch(fuse, &o.has_no_fusion) || !read_switch(resident, &o.has_no_residents) ||
        !read_switch(pipeline, &o.has_no_pipeline) || !read_switch(schedule, &o.has_no_schedule) ||
        !read_switch(passes, &o.has_no_passes))
        return cli_usage(self,
                         "--passes, --fuse, --resident, --pipeline and --schedule are on or off");
    vtrn_program *p = NULL;
    vtrn_status status = cc_flags_parse(getenv("NEURON_CC_FLAGS"), &o);
    if (!status && cast)
        status = cc_flags_set("auto-cast", cast, strlen(cast), &o);
    if (!status && cast_type)
        status = cc_flags_set("auto-cast-type", cast_type, strlen(cast_type), &o);
    if (!status)
        status = compile(files.items[0], chip, &o, &p);
    if (p && o.dump_stages >> EMIT & 1)
        status = print_emitted(p);
    if (p && !status && output)
        status = save(p, output);
    if (p && !status && is_json)
        report(p);
    program_destroy(p);
    return status ? cli_fail(status) : CLI_OK;
}

const cli_command cli_compile = {
    .name = "compile",
    .summary = "compile an artifact, and show the stages on the way",
    .help =
        "usage: vtrn compile FILE [-o OUT] [--dump STAGES] [options] [--json]\n\n"
        "FILE is a StableHLO artifact. Without -o it is only compiled, and checked.\n\n"
        "  -o OUT           the program file; - is standard output\n"
        "  --dump STAGES    a list of graph,form,tiles,place,emit: operations, kernels, their\n"
        "                   tiles, their places in SBUF, instructions\n"
        "  --chip NAME      default VTRN_CHIP, else VTRN_INSTANCE's, else trn1\n"
        "  --passes off     operations as the artifact has them, but for those that are dead\n"
        "  --fuse off       each operation is a kernel of its own\n"
        "  --resident off   every value passes through HBM between kernels\n"
        "  --pipeline off   one tile at a time\n"
        "  --auto-cast none|matmult|all, --auto-cast-type bf16|fp16|tf32|fp8_e4m3    fp32\n"
        "                   operations in a narrower type; default NEURON_CC_FLAGS, else none\n"
        "  --schedule off   instructions stay in the order in which kernels emit them\n"
        "  --json           name, chip and counts\n\n"
        "The five switches find a wrong decision of the compiler: if a result is right without\n"
        "one of them, it is at fault (docs/debugging.md).\n\n"
        "example: vtrn compile step.mlirbc --dump form,place\n",
    .run = run,
};
