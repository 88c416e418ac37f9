/* The vtrn command: finds the subcommand. */
#include "cli/cli.h"
#include "vtrn.h"

#include <string.h>

static const cli_command *const commands[] = {
    &cli_chips, &cli_run,          &cli_profile,      &cli_asm,     &cli_compile,     &cli_disasm,
    &cli_isa,   &cli_doctor,       &cli_time_command, &cli_explain, &cli_collectives, &cli_scale,
    &cli_serve, &cli_serve_replay, &cli_serve_export, &cli_bench};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *f) {
    fprintf(f, "vtrn - a virtual AWS Trainium\n\nusage: vtrn COMMAND [options]\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-11s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(f, "\n`vtrn COMMAND --help` shows options and an example; every command takes --json.\n"
               "Exit codes: 0 ok, 1 the program's fault, 2 usage, 3 unsupported, 4 internal.\n");
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("vtrn %s\n", vtrn_version());
        return CLI_OK;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(argv[1], commands[i]->name) == 0)
            return commands[i]->run(commands[i], argc - 1, argv + 1);
    fprintf(stderr, "vtrn: no command %s\n  `vtrn --help` lists them\n", argv[1]);
    return CLI_USAGE;
}
