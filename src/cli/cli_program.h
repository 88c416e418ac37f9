/* Program files of every form: container, assembly text, StableHLO artifact. */
#ifndef VTRN_CLI_CLI_PROGRAM_H
#define VTRN_CLI_CLI_PROGRAM_H

#include "chip/chip.h"
#include "isa/program.h"

#include <stdint.h>

typedef enum cli_form { CLI_CONTAINER, CLI_ASSEMBLY, CLI_ARTIFACT } cli_form;

cli_form cli_form_of(const uint8_t *bytes, size_t size);

/* Loads, assembles or compiles. chip_name NULL: the program's own, for an artifact VTRN_CHIP or
 * trn1. The program is validated against the chip. */
vtrn_status cli_program_from(const char *path, const uint8_t *bytes, size_t size,
                             const char *chip_name, vtrn_chip *chip, vtrn_program **out);

#endif
