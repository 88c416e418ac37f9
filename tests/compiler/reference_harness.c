/* A shared library for the Python tests: artifact in, arrays in, arrays out of the reference. */
#include "reference_harness.h"

#include "compiler/reference/reference.h"

#include <stdio.h>

/* Puts the message of status into text[n] and frees it; 0 when it was OK, else its category. */
static int finish(vtrn_status status, char *text, size_t n) {
    if (!status)
        return 0;
    const int category = (int)vtrn_status_category(status);
    snprintf(text, n, "%s", vtrn_status_message(status));
    vtrn_status_free(status);
    return category;
}

int reference_open(const void *artifact, size_t size, graph **out, char *text, size_t n) {
    return finish(graph_from_artifact(artifact, size, out), text, n);
}

void reference_close(graph *g) {
    graph_destroy(g);
}

uint32_t reference_count(const graph *g, int is_result) {
    return is_result ? g->body.n_results : g->body.n_args;
}

int reference_type(const graph *g, int is_result, uint32_t i, int64_t *dims,
                   const char **out_dtype) {
    const graph_type *t = &g->types[is_result ? g->body.results[i] : g->body.args[i]];
    for (int d = 0; d < t->rank; d++)
        dims[d] = t->dims[d];
    *out_dtype = dtype_name(t->dtype);
    return t->is_token ? -1 : t->rank;
}

int reference_run(const graph *g, const void *const *args, void *const *results, char *text,
                  size_t n) {
    return finish(reference_graph(g, args, results), text, n);
}
