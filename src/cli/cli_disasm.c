/* vtrn disasm: a program file, or a compiled artifact, as assembly text. */
#include "cli/cli.h"
#include "cli/cli_program.h"
#include "isa/asm.h"

#include <stdlib.h>
#include <string.h>

static void print_counts(const vtrn_program *p) {
    uint32_t n_op[VTRN_OP_COUNT] = {0};
    for (uint32_t i = 0; i < p->n_instrs; i++)
        n_op[p->instrs[i].opcode]++;
    printf("{\"name\": ");
    cli_json_text(stdout, p->name);
    printf(", \"chip\": ");
    cli_json_text(stdout, p->chip);
    printf(", \"instructions\": %u, \"blocks\": %u, \"slots\": %u, \"customs\": %u, "
           "\"constant_bytes\": %llu, \"scratch_bytes\": %llu, \"flops\": %llu, \"opcodes\": {",
           p->n_instrs, p->n_blocks, p->n_slots, p->n_customs, (unsigned long long)p->data_size,
           (unsigned long long)p->scratch_size, (unsigned long long)p->flops);
    bool is_first = true;
    for (int op = 0; op < VTRN_OP_COUNT; op++)
        if (n_op[op]) {
            printf("%s\"%s\": %u", is_first ? "" : ", ", isa_op_info((vtrn_opcode)op)->mnemonic,
                   n_op[op]);
            is_first = false;
        }
    printf("}}\n");
}

static int run(const cli_command *self, int argc, char **argv) {
    bool is_json = false;
    const char *output = "-", *chip_name = NULL;
    cli_list files = {.n = 0};
    const cli_option options[] = {{"--json", CLI_FLAG, &is_json},
                                  {"-o", CLI_TEXT, &output},
                                  {"--chip", CLI_TEXT, &chip_name}};
    int code;
    if (!cli_parse(self, argc, argv, options, 3, &files, &code))
        return code;
    if (files.n != 1)
        return cli_usage(self, "one file to disassemble");
    uint8_t *bytes = NULL;
    char *text = NULL;
    size_t n_bytes, n_text;
    vtrn_program *p = NULL;
    vtrn_chip chip;
    vtrn_status status = cli_read(files.items[0], &bytes, &n_bytes);
    if (!status)
        status = vtrn_status_annotate(
            cli_program_from(files.items[0], bytes, n_bytes, chip_name, &chip, &p), "%s",
            files.items[0]);
    if (!status && is_json) {
        print_counts(p);
    } else if (!status) {
        status = program_disassemble(p, &text, &n_text);
        if (!status)
            status = cli_write(output, text, n_text);
    }
    free(bytes);
    free(text);
    program_destroy(p);
    return status ? cli_fail(status) : CLI_OK;
}

const cli_command cli_disasm = {
    .name = "disasm",
    .summary = "show a program file or a compiled artifact as text",
    .help = "usage: vtrn disasm FILE [-o OUT] [--chip NAME] [--json]\n\n"
            "FILE is a program file or a StableHLO artifact, which is compiled first. The text\n"
            "assembles to the same program byte for byte.\n\n"
            "  -o OUT       default: standard output\n"
            "  --chip NAME  compile for this chip (default VTRN_CHIP, else trn1)\n"
            "  --json       counts instead of text\n\n"
            "example: vtrn disasm step.vtrn | grep matmul\n",
    .run = run,
};
