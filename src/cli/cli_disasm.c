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
           (unsigned long long)p->scratch_size, (unsigned long long)program_flops(p));
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
    cli_conversion c;
    int code;
    if (!cli_conversion_parse(self, argc, argv, &c, &code))
        return code;
    char *text = NULL;
    size_t n_text;
    vtrn_program *p;
    vtrn_status status = cli_conversion_open(&c, &p);
    if (!status && c.is_json) {
        print_counts(p);
    } else if (!status) {
        status = program_disassemble(p, &text, &n_text);
        if (!status)
            status = cli_write(c.output ? c.output : "-", text, n_text);
    }
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
            "  --chip NAME  compile for this chip (default VTRN_CHIP, VTRN_INSTANCE's, trn1)\n"
            "  --json       counts instead of text\n\n"
            "example: vtrn disasm step.vtrn | grep matmul\n",
    .run = run,
};
