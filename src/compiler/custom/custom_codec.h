/* Reference operations as bytes: what a custom_op instruction carries. */
#ifndef VTRN_COMPILER_CUSTOM_CUSTOM_CODEC_H
#define VTRN_COMPILER_CUSTOM_CUSTOM_CODEC_H

#include "compiler/graph/graph.h"

/* Encodes op with its types, attributes, regions and the constants that these capture; bytes are in
 * `a`. UNIMPLEMENTED when a region captures a computed value. */
vtrn_status custom_encode(const graph *g, const graph_op *op, arena *a, const void **out_bytes,
                          size_t *out_size);

/* A graph whose body holds that op first, then constants that its regions use. Every length is
 * checked: the bytes may come from a file. */
vtrn_status custom_decode(const void *bytes, size_t size, graph **out);

/* The same of a list of ops with what comes in and goes out: it becomes the body of a graph. The
 * regions of its ops use values of the list. */
vtrn_status custom_encode_region(const graph *g, const graph_region *region, arena *a,
                                 const void **out_bytes, size_t *out_size);
vtrn_status custom_decode_region(const void *bytes, size_t size, graph **out);

#endif
