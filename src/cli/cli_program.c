/* Program files of every form: container, assembly text, StableHLO artifact. */
#include "cli/cli_program.h"

#include "compiler/cc_flags.h"
#include "compiler/compile.h"
#include "isa/asm.h"
#include "isa/container.h"
#include "isa/validate.h"
#include "runtime/outline.h"

#include <stdlib.h>
#include <string.h>

/* An artifact is MLIR bytecode: "ML\xefR". The rest is text. */
cli_form cli_form_of(const uint8_t *bytes, size_t size) {
    if (program_is_container(bytes, size))
        return CLI_CONTAINER;
    return size >= 4 && memcmp(bytes, "ML\xefR", 4) == 0 ? CLI_ARTIFACT : CLI_ASSEMBLY;
}

vtrn_status cli_check_ranks(uint64_t n_ranks) {
    if (n_ranks <= 1)
        return NULL;
    return VTRN_ERROR(VTRN_UNSUPPORTED,
                      "the program is for %llu NeuronCores that exchange data, and the command has "
                      "one; run it from JAX, with VTRN_PROFILE for its times, or give the program "
                      "of one core: `vtrn scale` says what copies of it take",
                      (unsigned long long)n_ranks);
}

static vtrn_status from_artifact(const uint8_t *bytes, size_t size, const vtrn_chip *chip,
                                 vtrn_program **out) {
    graph *g = NULL;
    compile_options options = {0};
    VTRN_RETURN_IF_ERROR(cc_flags_parse(getenv("NEURON_CC_FLAGS"), &options));
    VTRN_RETURN_IF_ERROR(graph_from_artifact(bytes, size, &g));
    vtrn_status status = cli_check_ranks((uint64_t)(g->n_partitions * g->n_replicas));
    if (!status)
        status = compile_graph(g, chip, &options, out);
    graph_destroy(g);
    return status;
}

bool cli_conversion_parse(const cli_command *self, int argc, char **argv, cli_conversion *out,
                          int *exit_code) {
    *out = (cli_conversion){0};
    cli_list files = {.n = 0};
    const cli_option options[] = {{"--json", CLI_FLAG, &out->is_json},
                                  {"-o", CLI_TEXT, &out->output},
                                  {"--chip", CLI_TEXT, &out->chip_name},
                                  {NULL, CLI_LIST, &files}};
    if (!cli_parse(self, argc, argv, options, exit_code))
        return false;
    if (files.n != 1) {
        *exit_code = cli_usage(self, "one file to %s", self->name);
        return false;
    }
    out->path = files.items[0];
    return true;
}

vtrn_status cli_conversion_open(const cli_conversion *c, vtrn_program **out) {
    uint8_t *bytes;
    size_t size;
    vtrn_chip chip;
    *out = NULL;
    VTRN_RETURN_IF_ERROR(cli_read(c->path, &bytes, &size));
    vtrn_status status = cli_program_from(c->path, bytes, size, c->chip_name, &chip, out);
    if (cli_form_of(bytes, size) != CLI_ASSEMBLY) /* the assembler names file and line itself */
        status = vtrn_status_annotate(status, "%s", c->path);
    free(bytes);
    return status;
}

vtrn_status cli_chip(const char *name, vtrn_chip *out) {
    const char *chip = getenv("VTRN_CHIP"), *instance_name = getenv("VTRN_INSTANCE");
    vtrn_instance instance;
    if (!name)
        name = chip && *chip ? chip : NULL;
    if (!name && instance_name && *instance_name) {
        VTRN_RETURN_IF_ERROR(chip_instance_load(instance_name, &instance));
        name = instance.chip;
    }
    return chip_load(name ? name : "trn1", out);
}

vtrn_status cli_program_from(const char *path, const uint8_t *bytes, size_t size,
                             const char *chip_name, vtrn_chip *chip, vtrn_program **out) {
    cli_form form = cli_form_of(bytes, size);
    *out = NULL;
    if (form == CLI_ARTIFACT) {
        VTRN_RETURN_IF_ERROR(cli_chip(chip_name, chip));
        VTRN_RETURN_IF_ERROR(from_artifact(bytes, size, chip, out));
    } else if (form == CLI_CONTAINER) {
        VTRN_RETURN_IF_ERROR(program_load(bytes, size, NULL, out));
    } else {
        VTRN_RETURN_IF_ERROR(program_assemble((const char *)bytes, size, path, out));
    }
    vtrn_status status = NULL;
    if (form != CLI_ARTIFACT)
        status = chip_load(chip_name ? chip_name : (*out)->chip, chip);
    if (!status)
        status = program_validate(*out, chip);
    if (status) {
        program_destroy(*out);
        *out = NULL;
    }
    return status;
}

vtrn_status cli_program_time(const vtrn_program *program, const vtrn_chip *chip,
                             bool want_intervals, uint32_t *n_blocks, timing_result *out) {
    uint32_t *trace;
    VTRN_RETURN_IF_ERROR(cli_check_ranks(program_n_ranks(program)));
    VTRN_RETURN_IF_ERROR(runtime_outline(program, chip, &trace, n_blocks));
    vtrn_status status = timing_replay(chip, program, trace, *n_blocks, want_intervals, out);
    free(trace);
    return status;
}
