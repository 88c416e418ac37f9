/* Instructions of convolutions and poolings that a map kernel uses tile by tile. */
#ifndef VTRN_COMPILER_EMIT_EMIT_CONV_H
#define VTRN_COMPILER_EMIT_EMIT_CONV_H

#include "compiler/emit/psum.h"
#include "compiler/plan/conv_plan.h"

/* One that is being emitted: where its operands are, and which are next. */
typedef struct conv_work {
    emitter *e;
    const conv_plan *c;
    tile bands[CONV_MAX_BANDS], weights[CONV_MAX_WEIGHT_BUFFERS], zeros;
    tile lines[CONV_LINE_BUFFERS];
    psum_banks sums, turns;
    int64_t band_at[CONV_MAX_BANDS]; /* first pixel of the band that each buffer holds, or -1 */
    int64_t next_band;               /* first pixel of the band to be loaded next */
    int flip_band, flip_weights;
    int64_t lines_at[CONV_LINE_BUFFERS]; /* first pixel of the band whose lines are there, or -1 */
    int n_lines_loaded;
    int64_t patches_at; /* first pixel of the band whose patches are being made, or -1 */
    int64_t n_turned;   /* groups of its columns that are made */
} conv_work;

/* The image in SBUF, where the inputs of a tile are. */
typedef struct conv_image {
    tile at;
    conv_box in;     /* the inputs that it holds */
    int64_t k_pitch; /* elements from 128 channels to the next */
} conv_image;

/* A part of the result: channels [row, row + n_rows) of n_cols pixels that make one tile. */
typedef struct conv_part {
    int64_t row, pixel;
    uint32_t n_rows, n_cols;
} conv_part;

/* What happens to a tile on its way out of PSUM: relu(sum * scale + other + bias). Absent patterns
 * have no space. */
typedef struct conv_leave {
    vtrn_ap scale, bias, other; /* scale and bias: of one fp32 a row */
    float scale_imm;            /* where there is no scale */
    bool is_relu;
    uint32_t source; /* of the matmuls */
} conv_leave;

/* Takes SBUF and PSUM of the kernel that is being emitted. */
vtrn_status conv_work_begin(emitter *e, const conv_plan *c, conv_work *w);
/* What does not change from tile to tile: weights, zeros. */
vtrn_status conv_work_load(conv_work *w);
/* The part into dst. Callers pass the parts in the order of their pixels. */
vtrn_status conv_work_tile(conv_work *w, const conv_part *part, const conv_leave *how,
                           const tile *dst);
/* The same of a pooling (emit_pool.c). */
vtrn_status conv_work_pool(conv_work *w, const conv_part *part, const tile *dst);

/* The image of the tile that begins at a pixel; loads what is missing. */
vtrn_status conv_work_image(conv_work *w, int64_t pixel, conv_image *out);
/* The patches of a band of outputs, or those of them that are missing (emit_patches.c). */
vtrn_status conv_work_patches(conv_work *w, int64_t begin, const tile *to);
/* A tile's share of the patches of the next band, so that its transposes are between matmuls. */
vtrn_status conv_work_next_patches(conv_work *w);
/* An access pattern of n dims, at most four of them of more than one element; `first` elements from
 * the tile's begin. */
vtrn_ap conv_pattern(const tile *t, uint32_t n_rows, int64_t first, const vtrn_dim *dims, int n);

#endif
