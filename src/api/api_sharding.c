/* How inputs and outputs are cut over partitions, kept when the graph is gone. */
#include "api/api.h"

#include <stdlib.h>
#include <string.h>

/* The part that the device at a place of the mesh has, counted row by row. */
static int64_t tile_at(const graph_sharding *s, int64_t place) {
    int64_t tile = 0;
    for (int d = 0; d < s->rank; d++)
        for (uint32_t i = s->first[d]; i < s->first[d + 1]; i++)
            tile = tile * s->axes[i].size + place / s->axes[i].stride % s->axes[i].size;
    return tile;
}

/* The same of the parts of a sum. */
static int64_t summand_at(const graph_sharding *s, int64_t place) {
    int64_t summand = 0;
    for (uint32_t i = 0; i < s->n_unreduced; i++)
        summand =
            summand * s->unreduced[i].size + place / s->unreduced[i].stride % s->unreduced[i].size;
    return summand;
}

vtrn_status api_sharding_init(const graph_sharding *s, api_sharding *out) {
    *out = (api_sharding){.rank = 0};
    if (!s)
        return NULL;
    int64_t n = s->mesh->n_devices, n_tiles = 1;
    out->rank = s->rank;
    for (int d = 0; d < s->rank; d++) {
        out->n_parts[d] = 1;
        for (uint32_t i = s->first[d]; i < s->first[d + 1]; i++)
            out->n_parts[d] *= s->axes[i].size;
        n_tiles *= out->n_parts[d];
    }
    out->n_unreduced = 1;
    for (uint32_t i = 0; i < s->n_unreduced; i++)
        out->n_unreduced *= s->unreduced[i].size;
    n_tiles *= out->n_unreduced;
    if (n % n_tiles)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "a sharding and its unreduced axes have %lld parts for %lld devices",
                          (long long)n_tiles, (long long)n);
    out->n_copies = n / n_tiles;
    out->partition = calloc((size_t)n, sizeof *out->partition);
    int64_t *n_placed = calloc((size_t)n_tiles, sizeof *n_placed);
    if (!out->partition || !n_placed) {
        free(n_placed);
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *out->partition);
    }
    for (int64_t place = 0; place < n; place++) {
        int64_t tile = tile_at(s, place) * out->n_unreduced + summand_at(s, place);
        out->partition[tile * out->n_copies + n_placed[tile]++] =
            s->mesh->partition_of ? s->mesh->partition_of[place] : place;
    }
    free(n_placed);
    return NULL;
}
