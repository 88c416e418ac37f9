/* Program files of every form: container, assembly text, StableHLO artifact. */
#ifndef VTRN_CLI_CLI_PROGRAM_H
#define VTRN_CLI_CLI_PROGRAM_H

#include "chip/chip.h"
#include "cli/cli.h"
#include "isa/program.h"
#include "timing/timing.h"

#include <stdint.h>

typedef enum cli_form { CLI_CONTAINER, CLI_ASSEMBLY, CLI_ARTIFACT } cli_form;

cli_form cli_form_of(const uint8_t *bytes, size_t size);

/* What the commands that convert a program take: one file, and where the result goes. */
typedef struct cli_conversion {
    const char *path, *output, *chip_name; /* output, chip_name: NULL when not given */
    bool is_json;
} cli_conversion;

/* False: *exit_code says why to stop. */
bool cli_conversion_parse(const cli_command *self, int argc, char **argv, cli_conversion *out,
                          int *exit_code);
/* Reads the file and makes the program of it, as cli_program_from(). */
vtrn_status cli_conversion_open(const cli_conversion *c, vtrn_program **out);

/* The chip that an artifact is compiled for: the name given, else VTRN_CHIP, else that of
 * VTRN_INSTANCE, else trn1. */
vtrn_status cli_chip(const char *name, vtrn_chip *out);

/* UNSUPPORTED where a program is for several cores that exchange data: the command has one. */
vtrn_status cli_check_ranks(uint64_t n_ranks);

/* Loads, assembles or compiles. chip_name NULL: the program's own, for an artifact as cli_chip().
 * The program is validated against the chip. */
vtrn_status cli_program_from(const char *path, const uint8_t *bytes, size_t size,
                             const char *chip_name, vtrn_chip *chip, vtrn_program **out);

/* Times the blocks that runtime_outline() finds; out: timing_result_free(). */
vtrn_status cli_program_time(const vtrn_program *program, const vtrn_chip *chip,
                             bool want_intervals, uint32_t *n_blocks, timing_result *out);

#endif
