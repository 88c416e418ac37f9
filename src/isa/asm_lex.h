/* Inside the assembler: reading words, numbers and strings, and saying where they are wrong. */
#ifndef VTRN_ISA_ASM_LEX_H
#define VTRN_ISA_ASM_LEX_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A cursor over the text. After the first error every read fails at once and gives 0. */
typedef struct lexer {
    const char *file_name, *text, *at, *end;
    vtrn_status status; /* the first error; the caller takes it */
} lexer;

/* Records "file:line: message", the line and a caret under `where`. */
void lex_error(lexer *x, const char *where, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Records that the host is out of memory: no fault of the text. */
void lex_no_memory(lexer *x);

/* Skips blanks and a comment, not the end of the line. */
void lex_blanks(lexer *x);
/* Skips blank lines; true when the text is over (or broken). */
bool lex_is_over(lexer *x);
void lex_end_of_line(lexer *x); /* blanks, then the end of the line, or an error */
bool lex_is_end_of_line(lexer *x);

/* Consumes the punctuation, the word or nothing. A word is letters, digits, underscores. */
bool lex_accept(lexer *x, char punctuation);
bool lex_accept_word(lexer *x, const char *word);
void lex_expect(lexer *x, char punctuation);
void lex_expect_word(lexer *x, const char *word);

/* The word at the cursor; length 0 when none. Consumed by the second form. */
size_t lex_peek_word(lexer *x, const char **word);
size_t lex_word(lexer *x, const char **word);

/* Decimal or 0x; a minus sign where lo < 0. An error when outside [lo, hi]; what is named in it. */
int64_t lex_signed(lexer *x, const char *what, int64_t lo, int64_t hi);
uint64_t lex_unsigned(lexer *x, const char *what, uint64_t hi);
/* 0x and the bits, or a decimal float, inf, -inf. */
uint32_t lex_float_bits(lexer *x, const char *what);
/* "text" with \" \\ \n \t \xNN; copied to the arena. */
const char *lex_string(lexer *x, arena *a);
/* Pairs of hex digits up to the next blank; at most capacity bytes go to out. Returns how many. */
size_t lex_hex(lexer *x, uint8_t *out, size_t capacity);

/* Index of the word among the names, or -1 and an error. */
int lex_name(lexer *x, const char *what, const char *(*name_of)(int i), int n);

#endif
