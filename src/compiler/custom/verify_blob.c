/* magic, size of the region, region (custom_codec.c), a byte an op, views, texts. */
#include "compiler/custom/verify_blob.h"

#include "compiler/custom/custom_codec.h"

#include <stdlib.h>
#include <string.h>

/* No reference op begins so: as a number of values it is out of range. */
static const char magic[8] = {'v', 't', 'r', 'n', 'c', 'h', 'k', '1'};

enum { MAX_TEXT = 1 << 16 };

/* --- writing ------------------------------------------------------------------------------------
 */

typedef struct writer {
    uint8_t *bytes; /* NULL: only counts */
    size_t n;
} writer;

static void put(writer *w, const void *p, size_t size) {
    if (w->bytes && size)
        memcpy(w->bytes + w->n, p, size);
    w->n += size;
}

static void put_int(writer *w, int64_t v) {
    put(w, &v, sizeof v);
}

static void put_view(writer *w, const view *v) {
    put_int(w, v->slot);
    put_int(w, v->dtype);
    put_int(w, v->offset);
    put_int(w, v->n);
    for (int i = 0; i < v->n; i++) {
        put_int(w, v->f[i].size);
        put_int(w, v->f[i].stride);
    }
}

static void put_text(writer *w, const char *text) {
    size_t n = strnlen(text, MAX_TEXT);
    put_int(w, (int64_t)n);
    put(w, text, n);
}

static void put_check(writer *w, const verify_check *check, const graph_region *region,
                      const void *ops, size_t ops_size) {
    put(w, magic, sizeof magic);
    put_int(w, (int64_t)ops_size);
    put(w, ops, ops_size);
    put(w, check->ran_as_reference, region->n_ops);
    for (uint32_t i = 0; i < region->n_args; i++)
        put_view(w, &check->arguments[i]);
    for (uint32_t i = 0; i < region->n_results; i++) {
        put_view(w, &check->results[i]);
        put_text(w, check->op[i]);
        put_text(w, check->source[i]);
    }
}

vtrn_status verify_encode(const verify_check *check, const graph_region *region, arena *a,
                          const void **out_bytes, size_t *out_size) {
    arena tmp = ARENA_EMPTY;
    const void *ops;
    size_t ops_size;
    vtrn_status status = custom_encode_region(check->g, region, &tmp, &ops, &ops_size);
    if (!status) {
        writer w = {.bytes = NULL};
        put_check(&w, check, region, ops, ops_size);
        *out_size = w.n;
        w = (writer){.bytes = arena_alloc(a, w.n, 1)};
        if (w.bytes)
            put_check(&w, check, region, ops, ops_size);
        else
            status = VTRN_OUT_OF_MEMORY(*out_size);
        *out_bytes = w.bytes;
    }
    arena_free(&tmp);
    return status;
}

/* --- reading ------------------------------------------------------------------------------------
 */

typedef struct reader {
    const uint8_t *at, *end;
    bool is_bad;
} reader;

static const void *take(reader *r, size_t size) {
    if (r->is_bad || size > (size_t)(r->end - r->at)) {
        r->is_bad = true;
        return NULL;
    }
    const void *p = r->at;
    r->at += size;
    return p;
}

static int64_t take_int(reader *r) {
    int64_t v = 0;
    const void *p = take(r, sizeof v);
    if (p)
        memcpy(&v, p, sizeof v);
    return v;
}

static void take_view(reader *r, view *v) {
    int64_t slot = take_int(r), dtype = take_int(r);
    *v = (view){.offset = take_int(r)};
    int64_t n = take_int(r);
    r->is_bad |= slot < 0 || slot > INT32_MAX || dtype < 0 || dtype >= VTRN_DTYPE_COUNT || n < 0 ||
                 n > VIEW_MAX_FACTORS;
    if (r->is_bad)
        return;
    v->slot = (uint32_t)slot;
    v->dtype = (uint8_t)dtype;
    for (; v->n < n; v->n++) {
        v->f[v->n].size = take_int(r);
        v->f[v->n].stride = take_int(r);
    }
}

static const char *take_text(reader *r, arena *a) {
    int64_t n = take_int(r);
    r->is_bad |= n < 0 || n > MAX_TEXT;
    const char *p = r->is_bad ? NULL : take(r, (size_t)n);
    return p ? arena_strdup(a, p, (size_t)n) : NULL;
}

bool verify_is_blob(const void *bytes, size_t size) {
    return size >= sizeof magic && memcmp(bytes, magic, sizeof magic) == 0;
}

/* What follows the region. */
static vtrn_status take_places(reader *r, verify_check *out) {
    graph *g = out->g;
    arena *a = &g->arena;
    const void *flags = take(r, g->body.n_ops);
    out->ran_as_reference = ARENA_NEW(a, uint8_t, g->body.n_ops);
    out->arguments = ARENA_NEW(a, view, g->body.n_args);
    out->results = ARENA_NEW(a, view, g->body.n_results);
    out->op = ARENA_NEW(a, const char *, g->body.n_results);
    out->source = ARENA_NEW(a, const char *, g->body.n_results);
    if (!out->ran_as_reference || !out->arguments || !out->results || !out->op || !out->source)
        return VTRN_OUT_OF_MEMORY(g->body.n_args * sizeof(view));
    if (flags && g->body.n_ops)
        memcpy(out->ran_as_reference, flags, g->body.n_ops);
    for (uint32_t i = 0; i < g->body.n_args && !r->is_bad; i++)
        take_view(r, &out->arguments[i]);
    for (uint32_t i = 0; i < g->body.n_results && !r->is_bad; i++) {
        take_view(r, &out->results[i]);
        out->op[i] = take_text(r, a);
        out->source[i] = take_text(r, a);
        r->is_bad |= !out->op[i] || !out->source[i];
    }
    return r->is_bad ? VTRN_ERROR(VTRN_BAD_ARGUMENT, "check: its bytes end early or are out of "
                                                     "range; compile the program again")
                     : NULL;
}

vtrn_status verify_decode(const void *bytes, size_t size, verify_check *out) {
    reader r = {.at = bytes, .end = (const uint8_t *)bytes + size};
    *out = (verify_check){.g = NULL};
    take(&r, sizeof magic);
    int64_t ops_size = take_int(&r);
    const void *ops = ops_size < 0 ? NULL : take(&r, (size_t)ops_size);
    if (!ops)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "check: its bytes end early; compile the program again");
    VTRN_RETURN_IF_ERROR(custom_decode_region(ops, (size_t)ops_size, &out->g));
    vtrn_status status = take_places(&r, out);
    if (status) {
        graph_destroy(out->g);
        out->g = NULL;
    }
    return status;
}
