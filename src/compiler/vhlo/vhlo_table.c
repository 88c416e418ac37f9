/* The operation table of VHLO and its lookup by name. */
#include "compiler/vhlo/vhlo.h"

#include <stdio.h>
#include <string.h>

static const vhlo_op_info TABLE[] = {
#define V(name, version, since, until, operands, attrs, regions, results)                          \
    {name, version, since, until, operands, attrs, regions, results},
#include "compiler/vhlo/vhlo_ops.def"
};
enum { N_TABLE = sizeof TABLE / sizeof *TABLE };

uint32_t vhlo_op_table_size(void) {
    return N_TABLE;
}

const vhlo_op_info *vhlo_op_table(void) {
    return TABLE;
}

const vhlo_op_info *vhlo_find_op(const char *name, size_t len) {
    int low = 0, high = N_TABLE - 1;
    while (low <= high) {
        int mid = (low + high) / 2;
        char row[64];
        int n = snprintf(row, sizeof row, "%s_v%d", TABLE[mid].name, TABLE[mid].version);
        int order = memcmp(name, row, len < (size_t)n ? len : (size_t)n);
        if (order == 0)
            order = len < (size_t)n ? -1 : len > (size_t)n;
        if (order == 0)
            return &TABLE[mid];
        if (order < 0)
            high = mid - 1;
        else
            low = mid + 1;
    }
    return NULL;
}

bool vhlo_string_equal(vhlo_string s, const char *text) {
    return strlen(text) == s.len && memcmp(s.text, text, s.len) == 0;
}
