/* What the subcommands of `vtrn` share: options, files, errors, JSON. */
#ifndef VTRN_CLI_CLI_H
#define VTRN_CLI_CLI_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes of every subcommand. */
enum { CLI_OK = 0, CLI_PROGRAM = 1, CLI_USAGE = 2, CLI_UNSUPPORTED = 3, CLI_INTERNAL = 4 };

typedef struct cli_command {
    const char *name;
    const char *summary; /* one line */
    const char *help;    /* usage, options, an example */
    int (*run)(const struct cli_command *self, int argc, char **argv); /* argv[0]: its name */
} cli_command;

extern const cli_command cli_chips, cli_run, cli_asm, cli_compile, cli_disasm, cli_isa, cli_profile,
    cli_doctor, cli_time_command, cli_explain, cli_collectives, cli_scale, cli_serve,
    cli_serve_replay, cli_serve_export, cli_bench;

/* Options. */

enum { CLI_MAX_ARGS = 256 };

typedef enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_NUMBER, CLI_LIST } cli_kind;

/* A repeated text option, or the positional arguments. */
typedef struct cli_list {
    const char *items[CLI_MAX_ARGS];
    int n;
} cli_list;

typedef struct cli_option {
    const char *name; /* "--json"; "-o"; NULL: positional arguments */
    cli_kind kind;
    void *out; /* bool, const char *, int64_t, cli_list */
} cli_option;

/* Sorts argv[1..] into options. The last of these is a list without a name, which takes the
 * positional arguments. False: *exit_code says why to stop (--help was printed, or a usage error
 * was). `--name value` and `--name=value` both work. */
bool cli_parse(const cli_command *self, int argc, char **argv, const cli_option *options,
               int *exit_code);
/* Prints "vtrn NAME: message" and how to get help; CLI_USAGE. */
int cli_usage(const cli_command *self, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Errors and files. */

/* Prints the status to stderr in one block, frees it, and gives the exit code of its category. */
int cli_fail(vtrn_status status);
int cli_exit_code(vtrn_category category);

/* A whole file; malloc, NUL after the end. "-" reads standard input. */
vtrn_status cli_read(const char *path, uint8_t **out_bytes, size_t *out_size);
vtrn_status cli_write(const char *path, const void *bytes, size_t size); /* "-": standard output */

/* JSON. */

void cli_json_text(FILE *f, const char *text); /* quoted and escaped */
void cli_json_number(FILE *f, double value);   /* null when not finite */

/* Four digits for people: value in the largest unit of a NULL-ended list, each base times the one
 * before. "1.5 MiB", "2.3 us". */
void cli_scaled(char *out, size_t size, double value, double base, const char *const *units);
void cli_bytes(char *out, size_t size, double bytes);
void cli_time(char *out, size_t size, double ns);

#endif
