/* libFuzzer target: any bytes through the VHLO reader, its text dump and the graph builder. */
#include "compiler/graph/graph.h"
#include "compiler/vhlo/vhlo.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    vhlo_module *m = NULL;
    vtrn_status status = vhlo_read(bytes, size, &m);
    if (!status) {
        char *text = NULL;
        vtrn_status_free(vhlo_decode_all(m));
        vtrn_status_free(vhlo_print(m, &text));
        free(text);
    }
    vtrn_status_free(status);
    vhlo_destroy(m);
    graph *g = NULL;
    status = graph_from_artifact(bytes, size, &g);
    if (!status) {
        char *text = NULL;
        vtrn_status_free(graph_print(g, &text));
        free(text);
    }
    vtrn_status_free(status);
    graph_destroy(g);
    return 0;
}
