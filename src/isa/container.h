/* The container: a program as bytes, the same on every host. */
#ifndef VTRN_ISA_CONTAINER_H
#define VTRN_ISA_CONTAINER_H

#include "chip/chip.h"
#include "isa/program.h"

#include <stddef.h>

/* Layout, all numbers little-endian:
 *
 *   0   "VTRN"
 *   4   u16 version (3), u16 number of sections (7)
 *   8   u64 size of the whole file, bytes
 *   16  u64 checksum of the whole file with this field 0
 *   24  section table: {u32 kind, u32 items, u64 offset, u64 size} each, in the order of kinds
 *
 * Sections follow each other without a gap: program, slots, sources, customs, blocks, instructions,
 * constants. Streams are laid out block after block, engine after engine; an instruction in no
 * stream is not saved, fields that its opcode or memory has no use for neither. So equal programs
 * give equal bytes. */

/* Program -> bytes, which the caller frees with free(). BAD_ARGUMENT for a program whose structure
 * is wrong (program_validate_structure), RESOURCE when memory is short. */
vtrn_status program_save(const vtrn_program *program, void **out_bytes, size_t *out_size);

/* Bytes -> program. Every length and index is checked against the file; then, when chip is given,
 * program_validate. BAD_ARGUMENT names the byte offset, the section and the rule. On error *out is
 * NULL. */
vtrn_status program_load(const void *bytes, size_t size, const vtrn_chip *chip, vtrn_program **out);

/* Whether the bytes begin as a container does. */
bool program_is_container(const void *bytes, size_t size);

#endif
