/* Reads words, numbers and strings of assembly text; errors show the line and a caret. */
#include "isa/asm_lex.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void lex_error(lexer *x, const char *where, const char *format, ...) {
    if (x->status)
        return;
    char message[256];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    const char *begin = where, *end = where;
    while (begin > x->text && begin[-1] != '\n')
        begin--;
    while (end < x->end && *end != '\n')
        end++;
    unsigned line = 1;
    for (const char *c = x->text; c < begin; c++)
        line += *c == '\n';
    enum { SHOWN = 160, BEFORE = 60 };
    if (where - begin > SHOWN / 2) /* a long line: what is around the fault */
        begin = where - BEFORE;
    int n = (int)(end - begin < SHOWN ? end - begin : SHOWN);
    char shown[SHOWN + 1];
    for (int i = 0; i < n; i++)
        shown[i] = (unsigned char)begin[i] < 0x20 || begin[i] == 0x7f ? ' ' : begin[i];
    shown[n] = 0;
    x->status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s:%u: %s\n    %s\n    %*s^", x->file_name, line,
                           message, shown, (int)(where - begin), "");
    x->at = x->end;
}

void lex_no_memory(lexer *x) {
    if (!x->status)
        x->status = VTRN_ERROR(VTRN_RESOURCE, "%s: host memory is short", x->file_name);
    x->at = x->end;
}

void lex_blanks(lexer *x) {
    while (x->at < x->end && (*x->at == ' ' || *x->at == '\t' || *x->at == '\r'))
        x->at++;
    if (x->at < x->end && *x->at == '#')
        while (x->at < x->end && *x->at != '\n')
            x->at++;
}

bool lex_is_over(lexer *x) {
    for (lex_blanks(x); x->at < x->end && *x->at == '\n'; lex_blanks(x))
        x->at++;
    return x->at >= x->end || x->status;
}

bool lex_is_end_of_line(lexer *x) {
    lex_blanks(x);
    return x->at >= x->end || *x->at == '\n';
}

void lex_end_of_line(lexer *x) {
    if (!lex_is_end_of_line(x))
        lex_error(x, x->at, "expected the end of the line");
}

bool lex_accept(lexer *x, char punctuation) {
    lex_blanks(x);
    if (x->at >= x->end || *x->at != punctuation)
        return false;
    x->at++;
    return true;
}

void lex_expect(lexer *x, char punctuation) {
    if (!lex_accept(x, punctuation))
        lex_error(x, x->at, "expected '%c'", punctuation);
}

static bool is_word_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

size_t lex_peek_word(lexer *x, const char **word) {
    lex_blanks(x);
    const char *c = x->at;
    while (c < x->end && is_word_char(*c))
        c++;
    *word = x->at;
    return (size_t)(c - x->at);
}

size_t lex_word(lexer *x, const char **word) {
    size_t n = lex_peek_word(x, word);
    x->at += n;
    return n;
}

bool lex_accept_word(lexer *x, const char *want) {
    const char *word;
    size_t n = lex_peek_word(x, &word);
    if (n != strlen(want) || memcmp(word, want, n) != 0)
        return false;
    x->at += n;
    return true;
}

void lex_expect_word(lexer *x, const char *word) {
    if (!lex_accept_word(x, word))
        lex_error(x, x->at, "expected \"%s\"", word);
}

static int digit_of(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

uint64_t lex_unsigned(lexer *x, const char *what, uint64_t hi) {
    lex_blanks(x);
    const char *begin = x->at;
    uint64_t v = 0, base = 10;
    bool is_huge = false;
    if (x->end - x->at > 2 && x->at[0] == '0' && x->at[1] == 'x') {
        base = 16;
        x->at += 2;
    }
    const char *digits = x->at;
    for (; x->at < x->end && (uint64_t)digit_of(*x->at) < base; x->at++)
        is_huge |= __builtin_mul_overflow(v, base, &v) ||
                   __builtin_add_overflow(v, (uint64_t)digit_of(*x->at), &v);
    if (x->at == digits)
        lex_error(x, begin, "expected a number: %s", what);
    else if (is_huge || v > hi)
        lex_error(x, begin, "%s is more than %llu", what, (unsigned long long)hi);
    return x->status ? 0 : v;
}

int64_t lex_signed(lexer *x, const char *what, int64_t lo, int64_t hi) {
    lex_blanks(x);
    const char *begin = x->at;
    bool is_negative = lo < 0 && lex_accept(x, '-');
    uint64_t limit = is_negative ? (uint64_t)0 - (uint64_t)lo : (uint64_t)hi;
    uint64_t v = lex_unsigned(x, what, UINT64_MAX);
    if (v > limit) {
        lex_error(x, begin, "%s is outside %lld..%lld", what, (long long)lo, (long long)hi);
        return 0;
    }
    return (int64_t)(is_negative ? 0 - v : v);
}

uint32_t lex_float_bits(lexer *x, const char *what) {
    lex_blanks(x);
    if (x->end - x->at > 2 && x->at[0] == '0' && x->at[1] == 'x')
        return (uint32_t)lex_unsigned(x, what, UINT32_MAX);
    char number[64];
    size_t n = 0;
    const char *c = x->at;
    while (c < x->end && n < sizeof number - 1 &&
           (is_word_char(*c) || *c == '.' || *c == '-' || *c == '+'))
        number[n++] = *c++;
    number[n] = 0;
    char *stop;
    float f = strtof(number, &stop);
    if (n == 0 || *stop) {
        lex_error(x, x->at, "expected a float or its bits: %s", what);
        return 0;
    }
    x->at = c;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* The character after a backslash; false when it is no escape. */
static bool unescape(lexer *x, char *out) {
    char c = x->at < x->end ? *x->at++ : 0;
    if (c == 'x' && x->end - x->at >= 2 && digit_of(x->at[0]) < 16 && digit_of(x->at[1]) < 16) {
        *out = (char)(digit_of(x->at[0]) * 16 + digit_of(x->at[1]));
        x->at += 2;
        return *out != 0;
    }
    *out = c == 'n' ? '\n' : c == 't' ? '\t' : c;
    return c == 'n' || c == 't' || c == '"' || c == '\\';
}

const char *lex_string(lexer *x, arena *a) {
    lex_blanks(x);
    const char *begin = x->at;
    if (x->at >= x->end || *x->at != '"') {
        lex_error(x, x->at, "expected a string in quotes");
        return "";
    }
    const char *close = x->at + 1;
    while (close < x->end && *close != '"' && *close != '\n' && *close != 0)
        close += *close == '\\' && close + 1 < x->end ? 2 : 1;
    if (close >= x->end || *close != '"') {
        lex_error(x, begin, "the string does not end");
        return "";
    }
    char *text = arena_alloc(a, (size_t)(close - begin), 1);
    if (!text) {
        lex_no_memory(x);
        return "";
    }
    size_t n = 0;
    for (x->at++; x->at < close;) {
        char c = *x->at++;
        if (c == '\\' && !unescape(x, &c)) {
            lex_error(x, x->at - 1, "no such escape in a string");
            return "";
        }
        text[n++] = c;
    }
    x->at = close + 1;
    return text;
}

size_t lex_hex(lexer *x, uint8_t *out, size_t capacity) {
    lex_blanks(x);
    size_t n = 0;
    for (; x->at < x->end && digit_of(*x->at) < 16; x->at += 2, n++) {
        if (x->end - x->at < 2 || digit_of(x->at[1]) > 15) {
            lex_error(x, x->at, "hex digits come in pairs");
            return 0;
        }
        if (n >= capacity) {
            lex_error(x, x->at, "more than the %zu bytes that fit", capacity);
            return 0;
        }
        out[n] = (uint8_t)(digit_of(x->at[0]) * 16 + digit_of(x->at[1]));
    }
    return n;
}

int lex_name(lexer *x, const char *what, const char *(*name_of)(int i), int n) {
    const char *word;
    size_t len = lex_word(x, &word);
    for (int i = 0; i < n; i++)
        if (strlen(name_of(i)) == len && memcmp(name_of(i), word, len) == 0)
            return i;
    lex_error(x, word, "no %s is called \"%.*s\"", what, (int)(len < 40 ? len : 40), word);
    return -1;
}
