/* vtrn explain: a profile in sentences, from a profile's folder or from a program. */
#include "cli/cli.h"
#include "cli/cli_program.h"
#include "profile/profile_explain.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The explanation of profile.json: what the file says, read in order. */
typedef struct reader {
    const char *at;
    bool is_bad; /* the text is not what profile_json_explanation() writes */
} reader;

static void skip_spaces(reader *r) {
    r->at += strspn(r->at, " \t\r\n");
}

/* Takes the character if it is next. */
static bool accept(reader *r, char c) {
    skip_spaces(r);
    if (*r->at != c)
        return false;
    r->at++;
    return true;
}

static void expect(reader *r, char c) {
    if (!r->is_bad && !accept(r, c))
        r->is_bad = true;
}

/* One character of a string, escaped or not, into text; how many bytes it became. */
static size_t read_char(reader *r, char *text) {
    static const char escapes[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (*r->at != '\\') {
        *text = *r->at++;
        return 1;
    }
    const char *known = r->at[1] ? strchr(escapes, r->at[1]) : NULL;
    if (known) {
        *text = values[known - escapes];
        r->at += 2;
        return 1;
    }
    unsigned code = 0;
    int n = 0;
    if (sscanf(r->at, "\\u%4x%n", &code, &n) != 1 || n != 6) {
        r->is_bad = true;
        return 0;
    }
    r->at += n;
    if (code < 0x80) {
        text[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        text[0] = (char)(0xc0 | code >> 6);
        text[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    text[0] = (char)(0xe0 | code >> 12);
    text[1] = (char)(0x80 | (code >> 6 & 0x3f));
    text[2] = (char)(0x80 | (code & 0x3f));
    return 3;
}

/* A string becomes text in the buffer, which has room for all that is left of the file. */
static void read_string(reader *r, char *text) {
    size_t n = 0;
    expect(r, '"');
    while (!r->is_bad && *r->at && *r->at != '"')
        n += read_char(r, text + n);
    expect(r, '"');
    text[n] = 0;
}

static void read_key(reader *r, const char *key, char *text) {
    read_string(r, text);
    r->is_bad |= strcmp(text, key) != 0;
    expect(r, ':');
}

/* Where the sentences are written: the terminal, or one JSON document. */
typedef struct printer {
    bool is_json;
    int n_sections, n_sentences; /* so far; sentences of the section */
} printer;

static void print_title(printer *p, const char *title) {
    if (p->is_json) {
        printf("%s{\"title\": ", p->n_sections ? "]}, " : "{\"explanation\": [");
        cli_json_text(stdout, title);
        printf(", \"sentences\": [");
    } else {
        printf("%s%s\n", p->n_sections ? "\n" : "", title);
    }
    p->n_sections++;
    p->n_sentences = 0;
}

static void print_sentence(printer *p, const char *text) {
    if (p->is_json) {
        printf("%s", p->n_sentences++ ? ", " : "");
        cli_json_text(stdout, text);
    } else {
        printf("  %s\n", text);
    }
}

static void print_end(const printer *p) {
    if (p->is_json)
        printf("%s]}\n", p->n_sections ? "]}" : "{\"explanation\": [");
}

static void print_sections(reader *r, printer *p, char *text) {
    expect(r, '[');
    if (accept(r, ']'))
        return;
    do {
        expect(r, '{');
        read_key(r, "title", text);
        read_string(r, text);
        if (!r->is_bad)
            print_title(p, text);
        expect(r, ',');
        read_key(r, "sentences", text);
        expect(r, '[');
        while (!r->is_bad && !accept(r, ']')) {
            read_string(r, text);
            if (!r->is_bad)
                print_sentence(p, text);
            accept(r, ',');
        }
        expect(r, '}');
    } while (!r->is_bad && accept(r, ','));
    expect(r, ']');
}

/* Whether all that the text begins is ended: objects, lists, strings. */
static bool is_whole(const char *json) {
    size_t depth = 0;
    bool is_string = false;
    for (const char *at = json; *at; at++) {
        if (is_string && *at == '\\' && at[1])
            at++;
        else if (*at == '"')
            is_string = !is_string;
        else if (!is_string && (*at == '{' || *at == '['))
            depth++;
        else if (!is_string && (*at == '}' || *at == ']') && depth)
            depth--;
    }
    return depth == 0 && !is_string;
}

static vtrn_status explain_json(const char *path, const char *json, printer *p) {
    static const char key[] = "\"explanation\":";
    if (!is_whole(json))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s breaks off after %zu bytes: it was not written to its end; write the "
                          "profile again",
                          path, strlen(json));
    const char *at = strstr(json, key);
    if (!at && !strstr(json, "\"version\": 1"))
        return VTRN_ERROR(
            VTRN_BAD_ARGUMENT,
            "%s is no profile: it has no \"version\": 1; give profile.json or its folder", path);
    if (!at)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s explains nothing: an older vtrn wrote it; write the profile again",
                          path);
    char *text = malloc(strlen(at) + 1);
    if (!text)
        return VTRN_OUT_OF_MEMORY(strlen(at));
    reader r = {.at = at + sizeof key - 1};
    print_sections(&r, p, text);
    free(text);
    if (r.is_bad)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: its explanation is not as vtrn writes it, from \"%.20s\" on; write "
                          "the profile again",
                          path, r.at);
    return NULL;
}

static vtrn_status explain_program(const char *path, const uint8_t *bytes, size_t size,
                                   const char *chip_name, printer *p) {
    vtrn_chip chip;
    vtrn_program *program;
    timing_result timing = {0};
    profile_explanation explanation = {0};
    VTRN_RETURN_IF_ERROR(cli_program_from(path, bytes, size, chip_name, &chip, &program));
    uint32_t n_blocks;
    vtrn_status status = cli_program_time(program, &chip, true, &n_blocks, &timing);
    const profile_input input = {.program = program, .chip = &chip, .timing = &timing};
    if (!status)
        status = profile_explain(&input, &explanation);
    for (int i = 0; i < explanation.n; i++) {
        print_title(p, explanation.sections[i].title);
        for (int k = 0; k < explanation.sections[i].n; k++)
            print_sentence(p, profile_sentence(&explanation.sections[i], k));
    }
    profile_explanation_free(&explanation);
    timing_result_free(&timing);
    program_destroy(program);
    return status;
}

static vtrn_status explain(const char *path, const char *chip_name, printer *p) {
    struct stat what;
    char inside[4096];
    if (stat(path, &what) == 0 && S_ISDIR(what.st_mode)) {
        if (snprintf(inside, sizeof inside, "%s/profile.json", path) >= (int)sizeof inside)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: the path has more than %zu bytes", path,
                              sizeof inside);
        path = inside;
    }
    uint8_t *bytes;
    size_t size;
    VTRN_RETURN_IF_ERROR(cli_read(path, &bytes, &size));
    vtrn_status status;
    if (bytes[strspn((const char *)bytes, " \t\r\n")] == '{')
        status = explain_json(path, (const char *)bytes, p);
    else
        status = explain_program(path, bytes, size, chip_name, p);
    free(bytes);
    return vtrn_status_annotate(status, "%s", path);
}

static int run(const cli_command *self, int argc, char **argv) {
    const char *chip = NULL;
    printer p = {0};
    cli_list files = {.n = 0};
    int code;
    const cli_option options[] = {
        {"--json", CLI_FLAG, &p.is_json}, {"--chip", CLI_TEXT, &chip}, {NULL, CLI_LIST, &files}};
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (files.n != 1)
        return cli_usage(self, "one profile to explain");
    vtrn_status status = explain(files.items[0], chip, &p);
    if (status)
        return cli_fail(status);
    print_end(&p);
    return CLI_OK;
}

const cli_command cli_explain = {
    .name = "explain",
    .summary = "say in sentences what a step's time went to",
    .help = "usage: vtrn explain PROFILE [--chip NAME] [--json]\n\n"
            "PROFILE is a folder with a profile, its profile.json, or a program (StableHLO\n"
            "artifact, program file or assembly text), which is timed without running it. The\n"
            "answer names the critical path, what bounds the step, what the busiest engine waits\n"
            "for, and the place under the roofline, all by source line.\n\n"
            "  --chip NAME      of a program; default: its own, for an artifact VTRN_CHIP, "
            "VTRN_INSTANCE's or trn1\n\n"
            "example: vtrn explain profile\n",
    .run = run,
};
