/* Nodes of fusions, and the types of their tiles. */
#include "compiler/plan/fusion_nodes.h"

#include <string.h>

bool fusion_tile_dtype(vtrn_dtype t, vtrn_dtype *out) {
    *out = t == VTRN_DTYPE_PRED ? VTRN_DTYPE_UINT8 : t;
    switch (t) {
    case VTRN_DTYPE_INT64:
    case VTRN_DTYPE_UINT64:
    case VTRN_DTYPE_FP64:
    case VTRN_DTYPE_C64:
    case VTRN_DTYPE_C128:
        return false;
    default:
        return true;
    }
}

vtrn_status fusion_add(const builder *b, fusion *f, const fusion_node *like, fusion_in *out) {
    VTRN_CHECK(f->n_nodes < FUSION_MAX_NODES, "room for a node");
    *out = (fusion_in){.node = (int16_t)f->n_nodes};
    f->nodes[f->n_nodes] = *like;
    f->nodes[f->n_nodes++].source = b->source;
    return NULL;
}

bool fusion_const_is(const fusion_const *c, double value, uint8_t dtype) {
    uint64_t ours, theirs; /* bits: -0 is another constant than 0, NaN the same as itself */
    memcpy(&ours, &c->value, sizeof ours);
    memcpy(&theirs, &value, sizeof theirs);
    return c->dtype == dtype && ours == theirs;
}

bool fusion_row_is_widened(const tile *row) {
    return dtype_is_float(row->dtype) && row->dtype != VTRN_DTYPE_FP32;
}

tile fusion_variance_row(const tile *row) {
    tile variance = *row;
    variance.addr += sizeof(float);
    return variance;
}

tile fusion_negative_row(const tile *row) {
    enum {
        NEGATIVE_AT = 8 /* bytes: behind the value, before partial sums and the copy in fp32 */
    };
    tile negative = *row;
    negative.addr += NEGATIVE_AT;
    negative.dtype = VTRN_DTYPE_FP32;
    return negative;
}

tile fusion_wide_row(const tile *row) {
    tile wide = *row;
    wide.addr += FUSION_WIDE_ROW_BYTES;
    wide.dtype = VTRN_DTYPE_FP32;
    return wide;
}
