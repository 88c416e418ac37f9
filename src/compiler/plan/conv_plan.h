/* How a convolution with its channels on the partitions is cut:
 *
 *     out[channel][pixel] = sum over taps and k of weights[k][tap][channel] * image[k][input of
 * pixel]
 *
 * The weights of a tap are stationary; what moves is an access pattern over the image in SBUF,
 * which is laid out there as in memory: [input channel % 128][input channel / 128][pixel]. No
 * padding is stored: a tap adds to those pixels of PSUM whose input is inside. */
#ifndef VTRN_COMPILER_PLAN_CONV_PLAN_H
#define VTRN_COMPILER_PLAN_CONV_PLAN_H

#include "compiler/graph/conv_geometry.h"
#include "compiler/plan/kernel_list.h"
#include "compiler/plan/tile.h"

struct resident;

/* Where a pixel has few channels, they and the taps along the width and some along the height share
 * the partitions: a convolution of one tap over patches. The operand is loaded in the order of
 * memory, a partition a row of outputs, and transposed on the PE array. What a row of outputs reads
 * are lines: each is a row of the operand with its padding, with all channels side by side in each
 * pixel or with one. */
typedef struct conv_patches {
    conv_geometry of;        /* of the operation */
    bool has_inner_channels; /* a line has all channels */
    int64_t n_lines;         /* taps along the height, for each channel or for all */
    int64_t run;             /* elements of a patch in a line */
    int64_t step;            /* elements from one patch to the next */
    int64_t line_cols;       /* elements of a line, zeros at both ends included */
    int64_t zeros;           /* of them before the operand's */
} conv_patches;

/* What is convolved. */
typedef struct conv_spec {
    conv_geometry geometry;
    vtrn_dtype compute; /* both operands are cast to it while loading */
    view image;         /* factors: input channel, then each axis */
    view weights;       /* factors: input channel, then the taps of each spatial axis, channel */
    bool is_patched;    /* few channels: `patches` says how the image is made of the operand */
    conv_patches patches;
    bool is_pooling;    /* no weights: the elements of a window are combined by alu, by channel */
    vtrn_alu alu;       /* add, max or min */
    const graph_op *op; /* the operation, for plan/verify_conv.h */
    view lhs, rhs;      /* its operands */
} conv_spec;

enum { CONV_MAX_BANDS = 3, CONV_MAX_WEIGHT_BUFFERS = 2, CONV_LINE_BUFFERS = 2 };

/* A box of pixels, [begin, end) along each axis. */
typedef struct conv_box {
    int64_t begin[CONV_MAX_AXES], end[CONV_MAX_AXES];
} conv_box;

/* Pixels in row-major order are cut behind one axis: into chunks of that axis, each with all that
 * is inside it. */
typedef struct conv_cut {
    int axis;
    int64_t chunk;
    int64_t inner; /* pixels of one index of the axis */
} conv_cut;

typedef struct conv_plan {
    const vtrn_chip *chip;
    const conv_spec *spec;
    int64_t max_cols;        /* of a tile */
    conv_cut tile;           /* what a matmul makes: one PSUM bank at most */
    conv_cut band;           /* whose input is in SBUF at a time: whole tiles */
    int64_t band_pixels;     /* of the input, at most */
    int64_t k_rows, k_tiles; /* input channels of a stationary tile, tiles */
    bool are_weights_whole;  /* all are in SBUF; else those of 128 channels, for each tile */
    bool has_zeros;          /* some pixels are no first tap's: they are set to zero by a matmul */
    int n_bands, n_weight_buffers;
    uint32_t band_bytes, weight_bytes, zero_bytes;
    uint32_t line_bytes;               /* of the lines that are transposed at a time: is_patched */
    const struct resident *image_from; /* where the image is already in SBUF, or NULL */
} conv_plan;

/* Patches for the image of op, given the strides of channels and columns in memory; false where
 * they would not help. */
bool conv_find_patches(const vtrn_chip *chip, const conv_geometry *g, const view *image,
                       conv_patches *out);
/* One tap over them. */
conv_geometry conv_geometry_of_patches(const conv_patches *p);
/* Whether its least form leaves half of SBUF to what uses it. */
bool conv_fits(const plan *p, const conv_spec *spec);
/* Sizes it: as large as is of use. */
void conv_start(const vtrn_chip *chip, const conv_spec *spec, conv_plan *c);
/* One step towards the least form; false when it is reached. */
bool conv_shrink(conv_plan *c);
/* Tiles of at most max_cols pixels. */
void conv_cut_tiles(conv_plan *c, int64_t max_cols);
uint64_t conv_bytes(const conv_plan *c); /* SBUF of a partition */
/* Pixels of the tile that begins at pixel c: none crosses the end of its axis. */
int64_t conv_tile_cols(const conv_plan *c, int64_t pixel);
/* Whether the image can be read from the resident as it is; conv_take reads it there (NULL: loads
 * it). */
bool conv_takes(const conv_plan *c, const struct resident *r);
void conv_take(conv_plan *c, const struct resident *r);

/* The outputs of the cut's part that begins at pixel c and ends before pixel `end`. */
conv_box conv_box_of(const conv_geometry *g, const conv_cut *cut, int64_t pixel, int64_t end);
/* The inputs of a box of outputs. */
conv_box conv_inputs_of(const conv_geometry *g, const conv_box *out);
int64_t conv_box_pixels(const conv_box *box, int n_axes);
/* First pixel of the band that the tile at `pixel` belongs to, and of the next band. */
int64_t conv_band_begin(const conv_plan *c, int64_t pixel);
int64_t conv_band_end(const conv_plan *c, int64_t begin);

/* Whether the first matmuls of some taps set every pixel of the box once. is_first[tap]: which. */
bool conv_first_taps(const conv_geometry *g, const conv_box *out, bool *is_first);

/* Tells the plan what the convolution reads. */
vtrn_status conv_accesses(plan *p, const conv_spec *spec);

#endif
