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
    bool is_json = false;
    const char *output = NULL, *chip_name = NULL;
    cli_list files = {.n = 0};
    const cli_option options[] = {{"--json", CLI_FLAG, &is_json},
                                  {"-o", CLI_TEXT, &output},
                                  {"--chip", CLI_TEXT, &chip_name}};
    int code;
    if (!cli_parse(self, argc, argv, options, 3, &files, &code))
        return code;
    if (files.n != 1)
        return cli_usage(self, "one file to assemble");
    uint8_t *text = NULL;
    void *bytes = NULL;
    size_t n_text, n_bytes = 0;
    char path[4096];
    vtrn_program *p = NULL;
    vtrn_chip chip;
    default_output(path, sizeof path, files.items[0]);
    vtrn_status status = cli_read(files.items[0], &text, &n_text);
    if (!status)
        status = cli_program_from(files.items[0], text, n_text, chip_name, &chip, &p);
    if (!status)
        status = program_save(p, &bytes, &n_bytes);
    if (!status)
        status = cli_write(output ? output : path, bytes, n_bytes);
    if (!status && !(output && strcmp(output, "-") == 0))
        report(output ? output : path, p, n_bytes, is_json);
    free(text);
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
            "  -o OUT       default: FILE with the ending .vtrn; - is standard output\n"
            "  --chip NAME  another chip than the text says\n\n"
            "example: vtrn asm matmul.vasm -o matmul.vtrn\n",
    .run = run,
};
