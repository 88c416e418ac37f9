/* A strict reader of the part of TOML that chips/ uses: tables, strings, numbers, booleans. */
#ifndef VTRN_CHIP_TOML_H
#define VTRN_CHIP_TOML_H

#include "base/status.h"

#include <stdbool.h>

enum { TOML_NAME_MAX = 64, TOML_TEXT_MAX = 128, TOML_COMMENT_MAX = 256 };

typedef enum toml_kind { TOML_STRING, TOML_INTEGER, TOML_FLOAT, TOML_BOOL } toml_kind;

/* One `key = value` line. Names are NUL-terminated. */
typedef struct toml_item {
    const char *file;
    int line;
    char table[TOML_NAME_MAX]; /* "" before the first table */
    char key[TOML_NAME_MAX];
    toml_kind kind;
    char text[TOML_TEXT_MAX]; /* the string, or the value as written */
    double number;
    bool flag;
    char comment[TOML_COMMENT_MAX]; /* of its line, without the '#'; a longer one is cut */
} toml_item;

/* Called for each item in file order; an error stops the reading and is returned. */
typedef vtrn_status (*toml_item_fn)(void *ctx, const toml_item *item);

/* Reads text. `file` is for messages only. Refuses what it does not know (arrays, dates, inline
 * tables, dotted keys), values without digits, names too long, and a table opened twice. A table
 * header is reported to `on_table` when that is not NULL (item.key is ""). */
vtrn_status toml_parse(const char *text, const char *file, toml_item_fn on_item,
                       toml_item_fn on_table, void *ctx);

const char *toml_kind_name(toml_kind kind);

/* Edits that turn a into b (insert, delete, replace), for did-you-mean. */
int toml_edit_distance(const char *a, const char *b);

#endif
