/* Which input elements a convolution reads for an output: along each axis alone, for each tap. */
#ifndef VTRN_COMPILER_GRAPH_CONV_GEOMETRY_H
#define VTRN_COMPILER_GRAPH_CONV_GEOMETRY_H

#include "compiler/graph/graph.h"

enum {
    CONV_MAX_AXES = 4, /* batch and three spatial ones: what an access pattern has room for */
    CONV_MAX_TAPS = 128,
};

/* Output o reads input (o * stride + tap * tap_dilation - pad) / in_dilation where that is whole
 * and inside; stride or in_dilation is 1. The batch is an axis of one tap. */
typedef struct conv_axis {
    int64_t n_in, n_out, n_taps;
    int64_t stride, pad, in_dilation, tap_dilation;
    bool is_reversed; /* of the weights: the last is the first tap */
} conv_axis;

typedef struct conv_geometry {
    int n_axes; /* the batch first */
    conv_axis axis[CONV_MAX_AXES];
    int64_t n_in, n_out; /* channels */
    int64_t n_taps, n_in_pixels, n_out_pixels;
} conv_geometry;

/* Whether every output is a sum over few taps and all input channels, in types that the tensor
 * engine multiplies. Weight gradients, whose taps are the pixels of an image, are not. */
bool conv_has_geometry(const graph *g, const graph_op *op);
/* Of an operation that has one. */
conv_geometry conv_geometry_of(const graph *g, const graph_op *op);
/* Of a reduce_window whose dims before first_axis are channels: windows of one element each. */
bool conv_has_pooling(const graph *g, const graph_op *op, int first_axis);
conv_geometry conv_pooling_of(const graph *g, const graph_op *op, int first_axis);

/* The outputs in [begin, end) that a tap serves: n of them, out_step apart, from inputs in_step
 * apart.
 */
typedef struct conv_range {
    int64_t out, n, out_step;
    int64_t in, in_step;
} conv_range;
conv_range conv_axis_range(const conv_axis *a, int64_t tap, int64_t begin, int64_t end);

/* The taps [begin, end) of output o whose inputs are inside; in_dilation is 1. */
void conv_axis_taps(const conv_axis *a, int64_t o, int64_t *begin, int64_t *end);

/* Inputs [begin, end) that all taps together read for outputs [begin, end); an empty range is
 * [0, 0). */
typedef struct conv_span {
    int64_t begin, end;
} conv_span;
conv_span conv_axis_span(const conv_axis *a, int64_t begin, int64_t end);
/* The most inputs that any n outputs side by side read. */
int64_t conv_axis_reach(const conv_axis *a, int64_t n);

/* Tap number `tap` of all -> its number along each axis. */
void conv_tap_at(const conv_geometry *g, int64_t tap, int64_t *at);
/* Which weight it multiplies: number along each axis. */
void conv_weight_at(const conv_geometry *g, const int64_t *tap_at, int64_t *at);

#endif
