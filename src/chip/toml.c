/* The TOML reader: one pass over the lines, no tree. */
#include "chip/toml.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TABLES = 64 };

typedef struct reader {
    const char *p; /* next character */
    toml_item item;
    int n_tables;
    char tables[MAX_TABLES][TOML_NAME_MAX];
} reader;

#define SYNTAX(r, ...) syntax_error((r), __LINE__, __VA_ARGS__)

static vtrn_status syntax_error(const reader *r, int our_line, const char *rule,
                                const char *remedy) {
    int len = (int)strcspn(r->p + (*r->p == '#'), "\n#") + (*r->p == '#'); /* not the comment */
    while (len && r->p[len - 1] == ' ')
        len--;
    return vtrn_status_make(VTRN_BAD_ARGUMENT, __FILE__, our_line, "%s:%d: %s near '%.*s'; %s",
                            r->item.file, r->item.line, rule, len > 40 ? 40 : len, r->p, remedy);
}

const char *toml_kind_name(toml_kind kind) {
    static const char *const names[] = {"a string", "an integer", "a number", "a boolean"};
    return (unsigned)kind < 4 ? names[kind] : "unknown";
}

static void skip_blank(reader *r) {
    while (*r->p == ' ' || *r->p == '\t')
        r->p++;
}

static bool is_bare(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '-';
}

/* A quoted string; the quote is next. */
static vtrn_status read_quoted(reader *r, char *out, size_t size) {
    size_t n = 0;
    for (r->p++; *r->p != '"'; r->p++) {
        char c = *r->p;
        if (c == '\\') {
            c = *++r->p;
            if (c != '"' && c != '\\')
                return SYNTAX(r, "unknown escape", "only \\\" and \\\\ are known");
        }
        if ((unsigned char)c < 0x20)
            return SYNTAX(r, "a string does not end on its line", "close it with \"");
        if (n + 1 >= size)
            return SYNTAX(r, "a string or name is too long", "shorten it");
        out[n++] = c;
    }
    out[n] = 0;
    r->p++;
    return NULL;
}

static vtrn_status read_name(reader *r, char *out) {
    if (*r->p == '"')
        return read_quoted(r, out, TOML_NAME_MAX);
    size_t n = 0;
    for (; is_bare(*r->p); r->p++) {
        if (n + 1 >= TOML_NAME_MAX)
            return SYNTAX(r, "a name is too long", "shorten it");
        out[n++] = *r->p;
    }
    out[n] = 0;
    return n ? NULL : SYNTAX(r, "a name is missing", "names are letters, digits, _ and -");
}

/* Digits and single underscores between them. */
static bool copy_digits(reader *r, char *out, size_t *n) {
    if (!isdigit((unsigned char)*r->p))
        return false;
    for (;; r->p++) {
        if (isdigit((unsigned char)*r->p)) {
            if (*n + 1 >= TOML_TEXT_MAX)
                return false;
            out[(*n)++] = *r->p;
        } else if (!(*r->p == '_' && isdigit((unsigned char)r->p[1]))) {
            return true;
        }
    }
}

static vtrn_status read_number(reader *r) {
    char digits[TOML_TEXT_MAX];
    size_t n = 0;
    const char *start = r->p;
    r->item.kind = TOML_INTEGER;
    if (*r->p == '-' || *r->p == '+')
        digits[n++] = *r->p++;
    if (!copy_digits(r, digits, &n))
        return SYNTAX(r, "no value", "give a number, \"text\", true or false");
    if (*r->p == '.') {
        r->item.kind = TOML_FLOAT;
        digits[n++] = *r->p++;
        if (!copy_digits(r, digits, &n))
            return SYNTAX(r, "no digit after the point", "write 1.0");
    }
    if (*r->p == 'e' || *r->p == 'E') {
        r->item.kind = TOML_FLOAT;
        digits[n++] = *r->p++;
        if (*r->p == '-' || *r->p == '+')
            digits[n++] = *r->p++;
        if (!copy_digits(r, digits, &n))
            return SYNTAX(r, "no digit in the exponent", "write 1e9");
    }
    if (n + 1 >= TOML_TEXT_MAX || (size_t)(r->p - start) + 1 >= TOML_TEXT_MAX)
        return SYNTAX(r, "a number is too long", "shorten it");
    digits[n] = 0;
    r->item.number = strtod(digits, NULL);
    if (!isfinite(r->item.number))
        return SYNTAX(r, "a number is too large", "it must be finite");
    memcpy(r->item.text, start, (size_t)(r->p - start));
    r->item.text[r->p - start] = 0;
    return NULL;
}

static vtrn_status read_value(reader *r) {
    if (*r->p == '"') {
        r->item.kind = TOML_STRING;
        return read_quoted(r, r->item.text, TOML_TEXT_MAX);
    }
    for (int value = 0; value < 2; value++) {
        const char *word = value ? "true" : "false";
        size_t len = strlen(word);
        if (strncmp(r->p, word, len) == 0 && !is_bare(r->p[len])) {
            r->item.kind = TOML_BOOL;
            r->item.flag = value;
            memcpy(r->item.text, word, len + 1);
            r->p += len;
            return NULL;
        }
    }
    return read_number(r);
}

static vtrn_status read_table(reader *r) {
    r->p++;
    skip_blank(r);
    VTRN_RETURN_IF_ERROR(read_name(r, r->item.table));
    skip_blank(r);
    if (*r->p != ']')
        return SYNTAX(r, "a table header does not end", "write [name]");
    r->p++;
    for (int i = 0; i < r->n_tables; i++)
        if (strcmp(r->tables[i], r->item.table) == 0)
            return SYNTAX(r, "the table was opened before", "put its keys under one header");
    if (r->n_tables == MAX_TABLES)
        return SYNTAX(r, "too many tables", "at most 64");
    memcpy(r->tables[r->n_tables++], r->item.table, TOML_NAME_MAX);
    return NULL;
}

/* Copies the comment that ends the line, if there is one; reads no further. */
static void peek_comment(reader *r) {
    r->item.comment[0] = 0;
    skip_blank(r);
    if (*r->p != '#')
        return;
    const char *text = r->p + 1 + strspn(r->p + 1, " \t");
    size_t len = strcspn(text, "\r\n");
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        len--;
    if (len >= TOML_COMMENT_MAX)
        len = TOML_COMMENT_MAX - 1;
    memcpy(r->item.comment, text, len);
    r->item.comment[len] = 0;
}

static vtrn_status end_line(reader *r) {
    skip_blank(r);
    if (*r->p == '#')
        r->p += strcspn(r->p, "\n");
    if (*r->p == '\r' && r->p[1] == '\n')
        r->p++;
    if (*r->p && *r->p != '\n')
        return SYNTAX(r, "the line goes on after its value", "one item a line");
    if (*r->p)
        r->p++;
    r->item.line++;
    return NULL;
}

static vtrn_status read_line(reader *r, toml_item_fn on_item, toml_item_fn on_table, void *ctx) {
    skip_blank(r);
    if (*r->p == '[') {
        VTRN_RETURN_IF_ERROR(read_table(r));
        r->item.key[0] = 0;
        if (on_table)
            VTRN_RETURN_IF_ERROR(on_table(ctx, &r->item));
    } else if (is_bare(*r->p) || *r->p == '"') {
        VTRN_RETURN_IF_ERROR(read_name(r, r->item.key));
        skip_blank(r);
        if (*r->p != '=')
            return SYNTAX(r, "no '=' after the key", "write key = value");
        r->p++;
        skip_blank(r);
        VTRN_RETURN_IF_ERROR(read_value(r));
        peek_comment(r);
        VTRN_RETURN_IF_ERROR(on_item(ctx, &r->item));
    }
    return end_line(r);
}

vtrn_status toml_parse(const char *text, const char *file, toml_item_fn on_item,
                       toml_item_fn on_table, void *ctx) {
    reader *r = calloc(1, sizeof *r);
    if (!r)
        return VTRN_OUT_OF_MEMORY(sizeof *r);
    r->p = text;
    r->item.file = file;
    r->item.line = 1;
    vtrn_status status = NULL;
    while (!status && *r->p)
        status = read_line(r, on_item, on_table, ctx);
    free(r);
    return status;
}

int toml_edit_distance(const char *a, const char *b) {
    int row[TOML_NAME_MAX + 1];
    int n_b = (int)strnlen(b, TOML_NAME_MAX);
    for (int j = 0; j <= n_b; j++)
        row[j] = j;
    for (int i = 1; a[i - 1] && i <= TOML_NAME_MAX; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n_b; j++) {
            int replace = diagonal + (a[i - 1] != b[j - 1]);
            int shift = 1 + (row[j - 1] < row[j] ? row[j - 1] : row[j]);
            diagonal = row[j];
            row[j] = replace < shift ? replace : shift;
        }
    }
    return row[n_b];
}
