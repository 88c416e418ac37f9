/* vtrn asm: assembly text to a program container. */
#include "cli/cli.h"
#include "cli/cli_program.h"
#include "isa/container.h"

#include <stdlib.h>
#include <string.h>

/* step.vasm -> step.vtrn */
static void default_output(char *out, size_t size, const char *path) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    int len = dot && (!slash || dot > slash) ? (int)(dot - path) : (int)strlen(path);
    snprintf(out, size, "%.*s.vtrn", len, path);
}

static void report(const char *path, const vtrn_program *p, size_t size, bool is_json) {
    if (is_json) {
        printf("{\"output\": ");
        cli_json_text(stdout, path);
        printf(", \"name\": ");
        cli_json_text(stdout, p->name);
        printf(", \"chip\": ");
        cli_json_text(stdout, p->chip);
        printf(", \"bytes\": %zu, \"instructions\": %u, \"blocks\": %u}\n", size, p->n_instrs,
               p->n_blocks);
    } else {
        printf("%s: %zu bytes, %u instructions in %u block%s, for %s\n", path, size, p->n_instrs,
               p->n_blocks, p->n_blocks == 1 ? "" : "s", p->chip);
    }
}

static int run(const cli_command *self, int argc, char **argv) {
    cli_conversion c;
    int code;
    if (!cli_conversion_parse(self, argc, argv, &c, &code))
        return code;
    char path[4096];
    default_output(path, sizeof path, c.path);
    const char *output = c.output ? c.output : strcmp(c.path, "-") == 0 ? "-" : path;
    vtrn_program *p;
    void *bytes = NULL;
    size_t n_bytes = 0;
    vtrn_status status = cli_conversion_open(&c, &p);
    if (!status)
        status = program_save(p, &bytes, &n_bytes);
    if (!status)
        status = cli_write(output, bytes, n_bytes);
    if (!status && strcmp(output, "-") != 0)
        report(output, p, n_bytes, c.is_json);
    free(bytes);
    program_destroy(p);
    return status ? cli_fail(status) : CLI_OK;
}

const cli_command cli_asm = {
    .name = "asm",
    .summary = "assemble text into a program file",
    .help = "usage: vtrn asm FILE [-o OUT] [--chip NAME] [--json]\n\n"
            "Reads assembly text (docs/assembly.md), checks it against its chip, writes a program\n"
            "file. A StableHLO artifact works too: it is compiled. FILE - is standard input.\n\n"
            "  -o OUT       default: FILE with the ending .vtrn; - (also of FILE -) is standard "
            "output\n"
            "  --chip NAME  another chip than the text says\n\n"
            "example: vtrn asm matmul.vasm -o matmul.vtrn\n",
    .run = run,
};
