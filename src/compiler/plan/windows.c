/* How windows are cut into transfers, and the tiles that these take. */
#include "compiler/plan/windows.h"

#include "compiler/plan/tile.h"

#include <string.h>

enum {
    SHORT_ROW_BYTES = 512,   /* a longer run may be cut to occupy more partitions */
    LEAST_PIECE_BYTES = 256, /* shorter ones take longer to start than to move: assumed */
};

int64_t windows_reach(const address_spec *s) {
    int64_t reach = s->has_base ? s->base_limit : 0;
    for (int i = 0; i < s->n_terms; i++)
        reach += s->term[i].limit * s->term[i].stride;
    return reach;
}

uint64_t windows_address_bytes(int64_t cols) {
    return 4ull * sbuf_round((uint64_t)cols * 4);
}

/* Largest divisor of n that is at most `most`. */
static int64_t divisor(int64_t n, int64_t most) {
    for (int64_t d = n < most ? n : most; d > 1; d--)
        if (n % d == 0)
            return d;
    return 1;
}

window_cut windows_cut(const vtrn_chip *chip, const address_spec *s, int64_t max_row_bytes) {
    window_cut c = {0};
    int64_t element_bytes = (int64_t)dtype_size((vtrn_dtype)s->table.dtype);
    address_factor f[GRAPH_MAX_RANK + 2];
    int n = s->n_window;
    int64_t outer = 1;
    memcpy(f, s->window, (size_t)n * sizeof *f);
    for (int i = 0; i < n - 1; i++)
        outer *= f[i].size;
    address_factor *run = &f[n - 1];
    if (s->n == 1 && outer < tile_max_rows(chip) && run->size * element_bytes > SHORT_ROW_BYTES) {
        int64_t partitions = tile_max_rows(chip) / outer;
        int64_t worth_it = run->size * element_bytes / LEAST_PIECE_BYTES;
        int64_t pieces = divisor(run->size, worth_it < partitions ? worth_it : partitions);
        int64_t size = run->size / pieces;
        if (pieces > 1) {
            f[n] = (address_factor){size, run->table, run->array};
            *run = (address_factor){pieces, size * run->table, size * run->array};
            n++;
        }
    }
    int64_t most = s->n == 1 && SHORT_ROW_BYTES < max_row_bytes ? SHORT_ROW_BYTES : max_row_bytes;
    int begin = n - 1;
    int64_t cols = f[begin].size;
    while (begin > 0 && n - begin < VTRN_MAX_FREE_DIMS &&
           cols * f[begin - 1].size * element_bytes <= most)
        cols *= f[--begin].size;
    c.n_rows = 1;
    c.cols = cols;
    for (int i = 0; i < n; i++) {
        if (i < begin) {
            c.outer[c.n_outer++] = f[i];
            c.n_rows *= f[i].size;
        } else {
            c.inner[c.n_inner++] = f[i];
        }
    }
    return c;
}

int64_t windows_offset(const address_factor *f, int n, int64_t i) {
    int64_t offset = 0;
    for (int k = n - 1; k >= 0; k--) {
        offset += i % f[k].size * f[k].table;
        i /= f[k].size;
    }
    return offset;
}

window_tiles windows_size(const vtrn_chip *chip, const kernel_windows *k, const window_cut *c) {
    size_t element_bytes = dtype_size((vtrn_dtype)k->at.table.dtype);
    int64_t size = element_bytes ? (int64_t)element_bytes : 1;
    int64_t n = k->at.n == 1 ? c->n_rows : k->at.n;
    window_tiles t = {.n_row_tiles = k->combine == VTRN_ALU_NONE ? 2 : 4};
    t.chunk =
        c->cols * size <= k->max_row_bytes || c->n_inner > 1 ? c->cols : k->max_row_bytes / size;
    t.address_cols = (n + tile_max_rows(chip) - 1) / tile_max_rows(chip);
    t.address_cols = t.address_cols < k->max_address_cols ? t.address_cols : k->max_address_cols;
    t.row_bytes = sbuf_round((uint64_t)(t.chunk * size));
    t.n_bytes = windows_address_bytes(t.address_cols) + (uint64_t)t.n_row_tiles * t.row_bytes;
    return t;
}

vtrn_status windows_accesses(plan *p, const address_spec *s) {
    if (s->has_base)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(p, s->base.slot));
    for (int i = 0; i < s->n_terms; i++)
        VTRN_RETURN_IF_ERROR(plan_reads(p, &s->term[i].index));
    return NULL;
}
