/* Checks as bytes: what a custom_op instruction that verifies a kernel carries. */
#ifndef VTRN_COMPILER_CUSTOM_VERIFY_BLOB_H
#define VTRN_COMPILER_CUSTOM_VERIFY_BLOB_H

#include "compiler/plan/view.h"

/* The ops of a kernel as the body of a graph, and where its arguments and results are in memory. */
typedef struct verify_check {
    graph *g;
    uint8_t *ran_as_reference; /* by op: it is a reference op of the program, too */
    view *arguments, *results; /* slot: index into the tensors of the custom op */
    const char **op, **source; /* by result: "dot_general", "model.py:42" or "" */
} verify_check;

/* check->g: types and values; the body is `region`. The bytes are in `a`. */
vtrn_status verify_encode(const verify_check *check, const graph_region *region, arena *a,
                          const void **out_bytes, size_t *out_size);
bool verify_is_blob(const void *bytes, size_t size);
/* Every length is checked: the bytes may come from a file. graph_destroy(out->g) releases all. */
vtrn_status verify_decode(const void *bytes, size_t size, verify_check *out);

#endif
