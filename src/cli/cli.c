/* Options, files, errors and JSON for the subcommands of `vtrn`. */
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int cli_usage(const cli_command *self, const char *format, ...) {
    va_list args;
    fprintf(stderr, "vtrn %s: ", self->name);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n  `vtrn %s --help` shows its options and an example\n", self->name);
    return CLI_USAGE;
}

static bool set_option(const cli_command *self, const cli_option *o, const char *value,
                       int *exit_code) {
    char *end;
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->out = true;
        return true;
    case CLI_TEXT:
        *(const char **)o->out = value;
        return true;
    case CLI_NUMBER:
        errno = 0;
        *(int64_t *)o->out = strtoll(value, &end, 0);
        if (!*value || *end || errno) {
            *exit_code = cli_usage(self, "%s %s: not an integer", o->name, value);
            return false;
        }
        return true;
    default: {
        cli_list *list = o->out;
        if (list->n == CLI_MAX_ARGS) {
            *exit_code = cli_usage(self, "%s more than %d times", o->name, CLI_MAX_ARGS);
            return false;
        }
        list->items[list->n++] = value;
        return true;
    }
    }
}

/* The option of the name arg[len]; where none has it, the last, which has no name. */
static const cli_option *find(const cli_option *options, const char *arg, size_t len) {
    while (options->name && (strlen(options->name) != len || memcmp(options->name, arg, len) != 0))
        options++;
    return options;
}

bool cli_parse(const cli_command *self, int argc, char **argv, const cli_option *options,
               int *exit_code) {
    const cli_option rest = {"arguments", CLI_LIST, find(options, "", 0)->out};
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *equals = strchr(arg, '=');
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            printf("%s - %s\n\n%s", self->name, self->summary, self->help);
            *exit_code = CLI_OK;
            return false;
        }
        if (arg[0] != '-' || !arg[1]) {
            if (!set_option(self, &rest, arg, exit_code))
                return false;
            continue;
        }
        size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
        const cli_option *o = find(options, arg, len);
        if (!o->name || (o->kind == CLI_FLAG && equals)) {
            *exit_code = cli_usage(self, "no option %s", arg);
            return false;
        }
        const char *value = equals ? equals + 1 : NULL;
        if (o->kind != CLI_FLAG && !value && ++i < argc)
            value = argv[i];
        if (o->kind != CLI_FLAG && !value) {
            *exit_code = cli_usage(self, "%s needs a value", arg);
            return false;
        }
        if (!set_option(self, o, value, exit_code))
            return false;
    }
    return true;
}

int cli_exit_code(vtrn_category category) {
    switch (category) {
    case VTRN_OK:
        return CLI_OK;
    case VTRN_UNSUPPORTED:
    case VTRN_UNIMPLEMENTED:
    case VTRN_UNSPECIFIED:
        return CLI_UNSUPPORTED;
    case VTRN_INTERNAL:
        return CLI_INTERNAL;
    default:
        return CLI_PROGRAM;
    }
}

int cli_fail(vtrn_status status) {
    int code = cli_exit_code(vtrn_status_category(status));
    fflush(stdout);
    fprintf(stderr, "error: %s: %s\n", vtrn_category_name(vtrn_status_category(status)),
            vtrn_status_message(status));
    vtrn_status_free(status);
    return code;
}

vtrn_status cli_read(const char *path, uint8_t **out_bytes, size_t *out_size) {
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    if (!f)
        return VTRN_ERROR(VTRN_RESOURCE, "%s: %s", path, strerror(errno));
    uint8_t *bytes = NULL;
    size_t n = 0, cap = 0, got;
    errno = 0;
    do {
        if (cap - n < 65536) {
            cap = cap * 2 + 131072;
            uint8_t *grown = realloc(bytes, cap);
            if (!grown) {
                free(bytes);
                if (!is_stdin)
                    fclose(f);
                return VTRN_OUT_OF_MEMORY(cap);
            }
            bytes = grown;
        }
        got = fread(bytes + n, 1, cap - n - 1, f);
        n += got;
    } while (got);
    bool is_bad = ferror(f);
    int why = errno;
    if (!is_stdin)
        fclose(f);
    if (is_bad) {
        free(bytes);
        return VTRN_ERROR(VTRN_RESOURCE, "%s: %s", path, strerror(why));
    }
    size_t length = strlen(path);
    const char *end = path + (length < 5 ? 0 : length - 5);
    if (!(n >= 4 && memcmp(bytes, "ML\xefR", 4) == 0) &&
        (strcmp(end, ".mlir") == 0 || strcmp(end, ".onnx") == 0)) {
        free(bytes);
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "%s: the command of the Python package makes an artifact of such files; "
                          "`pip install 'vtrn[onnx]'` brings it, or export one with "
                          "`python -m vtrn.models %s`",
                          path, path);
    }
    bytes[n] = 0;
    *out_bytes = bytes;
    *out_size = n;
    return NULL;
}

vtrn_status cli_write(const char *path, const void *bytes, size_t size) {
    bool is_stdout = strcmp(path, "-") == 0;
    FILE *f = is_stdout ? stdout : fopen(path, "wb");
    if (!f)
        return VTRN_ERROR(VTRN_RESOURCE, "%s: %s", path, strerror(errno));
    bool is_ok = fwrite(bytes, 1, size, f) == size;
    is_ok = (is_stdout ? fflush(f) : fclose(f)) == 0 && is_ok;
    if (!is_ok)
        return VTRN_ERROR(VTRN_RESOURCE, "%s: writing %zu bytes: %s", path, size, strerror(errno));
    return NULL;
}

void cli_json_text(FILE *f, const char *text) {
    fputc('"', f);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++)
        if (*c == '"' || *c == '\\')
            fprintf(f, "\\%c", *c);
        else if (*c < 0x20)
            fprintf(f, "\\u%04x", *c);
        else
            fputc(*c, f);
    fputc('"', f);
}

void cli_json_number(FILE *f, double value) {
    if (isfinite(value))
        fprintf(f, "%.17g", value);
    else
        fprintf(f, "null");
}

void cli_scaled(char *out, size_t size, double value, double base, const char *const *units) {
    for (; value >= base && units[1]; units++)
        value /= base;
    /* four digits, but never an exponent */
    int decimals = value < 10 ? 3 : value < 100 ? 2 : value < 1000 ? 1 : 0;
    int n = snprintf(out, size, "%.*f", decimals, value);
    while (decimals && n > 0 && out[n - 1] == '0' && decimals--)
        n--;
    if (n > 0 && out[n - 1] == '.')
        n--;
    snprintf(out + n, size - (size_t)n, " %s", *units);
}

void cli_bytes(char *out, size_t size, double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", NULL};
    cli_scaled(out, size, bytes, 1024, units);
}

void cli_time(char *out, size_t size, double ns) {
    static const char *const units[] = {"ns", "us", "ms", "s", NULL};
    cli_scaled(out, size, ns, 1000, units);
}
