/* The operation table of VHLO and its lookup by name. */
#include "compiler/vhlo/vhlo.h"

#include <string.h>

static const vhlo_op_info TABLE[] = {
#define V(name, version, since, until, operands, attrs, regions, results)                          \
    {name, version, since, until, operands, attrs, regions, results},
#include "compiler/vhlo/vhlo_ops.def"
};
enum { N_TABLE = sizeof TABLE / sizeof *TABLE };

/* As the bytecode spells them: "add_v1", in the order of TABLE. */
static const vhlo_string NAMES[] = {
#define V(name, version, since, until, operands, attrs, regions, results)                          \
    {name "_v" #version, sizeof name "_v" #version - 1},
#include "compiler/vhlo/vhlo_ops.def"
};

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
        size_t n = NAMES[mid].len;
        int order = memcmp(name, NAMES[mid].text, len < n ? len : n);
        if (order == 0)
            order = len < n ? -1 : len > n;
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
