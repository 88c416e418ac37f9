/* vtrn isa: the instruction set, made from its table; --markdown gives docs/isa.md. */
#include "cli/cli.h"
#include "isa/program.h"

#include <string.h>

static const char *engine_of(char letter) {
    static const char letters[] = "TVSGYC";
    return isa_engine_name((vtrn_engine)(strchr(letters, letter) - letters));
}

static void print_engines(const char *letters, const char *separator) {
    for (const char *c = letters; *c; c++)
        printf("%s%s", c == letters ? "" : separator, engine_of(*c));
}

static const char *role_name(char role) {
    switch (role) {
    case 'W':
        return "written";
    case 'R':
        return "read";
    case 'U':
        return "read and written";
    case 's':
        return "optional scalar";
    case 'p':
        return "pattern";
    default:
        return "-";
    }
}

static void print_markdown(void) {
    printf("# The instruction set\n\nMade from `src/isa/isa.def`, `alu.def` and `act.def` by `vtrn "
           "isa --markdown`.\n\n## Instructions\n\n"
           "| instruction | queues | ap0 | ap1 | ap2 | ap3 | from | what it does |\n"
           "| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (int op = 0; op < VTRN_OP_COUNT; op++) {
        const vtrn_op_info *info = isa_op_info((vtrn_opcode)op);
        printf("| `%s` | ", info->mnemonic);
        print_engines(info->engines, ", ");
        for (int i = 0; i < VTRN_MAX_AP; i++)
            printf(" | %s", role_name(info->roles[i]));
        printf(" | v%d | %s |\n", info->min_gen, info->doc);
    }
    printf("\n## ALU operations\n\nA: arithmetic in fp32; C: comparison or logic, 0 or 1; B: raw "
           "bits.\n\n| operation | class |\n| --- | --- |\n");
    for (int i = 0; i < VTRN_ALU_COUNT; i++)
        printf("| `%s` | %c |\n", isa_alu_name((vtrn_alu)i), isa_alu_class((vtrn_alu)i));
    printf("\n## Activation functions\n\nFunctions of one set share a table load.\n\n"
           "| function | table set |\n| --- | --- |\n");
    for (int i = 0; i < VTRN_ACT_COUNT; i++)
        printf("| `%s` | %d |\n", isa_act_name((vtrn_act)i), isa_act_table_set((vtrn_act)i));
}

static void print_json(void) {
    printf("{\"instructions\": [");
    for (int op = 0; op < VTRN_OP_COUNT; op++) {
        const vtrn_op_info *info = isa_op_info((vtrn_opcode)op);
        printf("%s{\"name\": \"%s\", \"queues\": [\"", op ? ", " : "", info->mnemonic);
        print_engines(info->engines, "\", \"");
        printf("\"], \"roles\": \"%s\", \"min_generation\": %d, \"doc\": ", info->roles,
               info->min_gen);
        cli_json_text(stdout, info->doc);
        printf("}");
    }
    printf("], \"alu\": [");
    for (int i = 0; i < VTRN_ALU_COUNT; i++)
        printf("%s\"%s\"", i ? ", " : "", isa_alu_name((vtrn_alu)i));
    printf("], \"activation\": [");
    for (int i = 0; i < VTRN_ACT_COUNT; i++)
        printf("%s\"%s\"", i ? ", " : "", isa_act_name((vtrn_act)i));
    printf("]}\n");
}

static int print_one(const cli_command *self, const char *name) {
    for (int op = 0; op < VTRN_OP_COUNT; op++) {
        const vtrn_op_info *info = isa_op_info((vtrn_opcode)op);
        if (name && strcmp(name, info->mnemonic) != 0)
            continue;
        printf("%-26s %-6s %s\n", info->mnemonic, info->engines, info->doc);
        if (name)
            return CLI_OK;
    }
    return name ? cli_usage(self, "no instruction %s", name) : CLI_OK;
}

static int run(const cli_command *self, int argc, char **argv) {
    bool is_json = false, is_markdown = false;
    cli_list names = {.n = 0};
    const cli_option options[] = {{"--json", CLI_FLAG, &is_json},
                                  {"--markdown", CLI_FLAG, &is_markdown},
                                  {NULL, CLI_LIST, &names}};
    int code;
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (names.n > 1)
        return cli_usage(self, "one instruction at a time");
    if (is_json)
        print_json();
    else if (is_markdown)
        print_markdown();
    else
        return print_one(self, names.n ? names.items[0] : NULL);
    return CLI_OK;
}

const cli_command cli_isa = {
    .name = "isa",
    .summary = "list the instruction set, or explain an instruction",
    .help = "usage: vtrn isa [INSTRUCTION] [--markdown | --json]\n\n"
            "The letters name the queues that may hold it: T(ensor) V(ector) S(calar) G(psimd)\n"
            "sYnc.\n\n"
            "  --markdown   the whole table as docs/isa.md\n\n"
            "example: vtrn isa tensor_scalar\n",
    .run = run,
};
