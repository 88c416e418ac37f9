/* What the library of the reference routines exports, for Python by ctypes. A call that fails puts
 * its message into text[n] and returns its category, which is above 0. */
#ifndef VTRN_TESTS_COMPILER_REFERENCE_HARNESS_H
#define VTRN_TESTS_COMPILER_REFERENCE_HARNESS_H

#include "compiler/graph/graph.h"

#include <stddef.h>

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int reference_open(const void *artifact, size_t size, graph **out, char *text, size_t n);
EXPORTED void reference_close(graph *g);
EXPORTED uint32_t reference_count(const graph *g, int is_result);

/* dims[12]; returns the rank, or -1 for a token. */
EXPORTED int reference_type(const graph *g, int is_result, uint32_t i, int64_t *dims,
                            const char **out_dtype);
EXPORTED int reference_run(const graph *g, const void *const *args, void *const *results,
                           char *text, size_t n);

#endif
