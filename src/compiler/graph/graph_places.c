/* Where operations come from: "train.py:42 in decoder/mlp", of the locations that JAX writes. */
#include "compiler/graph/graph_build.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SCOPE = 160 };

/* Components of JAX's names that no user chose: control flow and calls. */
static const char *const STRUCTURE[] = {
    "",
    "while",
    "body",
    "cond",
    "checkpoint",
    "remat",
    "remat2",
    "closed_call",
    "core_call",
    "rematted_computation",
    "pjit",
    "jit",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "scan",
    "eval_jaxpr",
    "main",
    "shard_map",
    "shmap_body",
    "custom_lin",
};

/* Functions of jax.random that are called from a program. */
static const char *const RANDOM[] = {
    "threefry", "_threefry", "_uniform",   "_normal",      "_bernoulli",        "_randint",
    "_gumbel",  "_gamma",    "_shuffle",   "_categorical", "_truncated_normal", "_exponential",
    "_laplace", "_poisson",  "_dirichlet", "_rbg",         "_choice",           "_permutation"};

bool graph_is_random(vhlo_string function) {
    for (size_t i = 0; i < sizeof RANDOM / sizeof *RANDOM; i++) {
        size_t n = strlen(RANDOM[i]);
        if (function.len >= n && memcmp(function.text, RANDOM[i], n) == 0)
            return true;
    }
    return false;
}

static bool is_structure(const char *text, size_t n) {
    for (size_t i = 0; i < sizeof STRUCTURE / sizeof *STRUCTURE; i++)
        if (n == strlen(STRUCTURE[i]) && memcmp(text, STRUCTURE[i], n) == 0)
            return true;
    return n > 7 && memcmp(text, "branch_", 7) == 0;
}

/* The name within jvp(...), transpose(jvp(...)) and vmap(...); nothing of jit(...). */
static void unwrap(const char **text, size_t *n, bool *is_backward) {
    for (;;) {
        const char *open = memchr(*text, '(', *n);
        if (!open || (*text)[*n - 1] != ')')
            return;
        size_t n_head = (size_t)(open - *text);
        *is_backward |= n_head == 9 && memcmp(*text, "transpose", 9) == 0;
        bool is_transform = (n_head == 3 && memcmp(*text, "jvp", 3) == 0) ||
                            (n_head == 4 && memcmp(*text, "vmap", 4) == 0) ||
                            (n_head == 9 && memcmp(*text, "transpose", 9) == 0);
        *n = is_transform ? *n - n_head - 2 : 0;
        *text = open + 1;
    }
}

/* Names of jax.named_scope in "jit(f)/transpose(jvp(layer1))/mlp/dot_general": "layer1/mlp,
 * backward". */
static void scope_of(vhlo_string name, char *out, size_t size) {
    const char *at = name.text, *end = name.text + name.len;
    bool is_backward = false;
    size_t n = 0;
    out[0] = 0;
    for (const char *slash; (slash = memchr(at, '/', (size_t)(end - at))); at = slash + 1) {
        const char *part = at;
        size_t n_part = (size_t)(slash - at);
        unwrap(&part, &n_part, &is_backward);
        if (is_structure(part, n_part) || n + n_part + 2 > size)
            continue;
        n += (size_t)snprintf(out + n, size - n, "%s%.*s", n ? "/" : "", (int)n_part, part);
    }
    if (n && is_backward)
        snprintf(out + n, size - n, ", backward");
}

static vtrn_status keep(graph_builder *b, const char *text, const char **out) {
    *out = text[0] ? arena_strdup(&b->g->arena, text, strlen(text)) : "";
    return *out ? NULL : VTRN_OUT_OF_MEMORY(strlen(text));
}

static vtrn_status read_location(graph_builder *b, uint32_t location, graph_place *p) {
    char file[256], scope[MAX_SCOPE];
    vhlo_string name = {"", 0};
    VTRN_RETURN_IF_ERROR(vhlo_location_text(b->m, location, file, sizeof file));
    VTRN_RETURN_IF_ERROR(vhlo_location_name(b->m, location, &name));
    scope_of(name, scope, sizeof scope - sizeof ", backward");
    VTRN_RETURN_IF_ERROR(keep(b, file, &p->file));
    return keep(b, scope, &p->scope);
}

/* Whether the last names of the outer scope are those of the inner one, which JAX repeats for what
 * is in a function of its own. */
static bool ends_with(const char *outer, const char *inner) {
    size_t n = strlen(outer), n_inner = strlen(inner);
    return n >= n_inner && strcmp(outer + n - n_inner, inner) == 0 &&
           (n == n_inner || outer[n - n_inner - 1] == '/');
}

/* JAX puts the body of jax.nn.relu and its like into functions that only their call places. */
vtrn_status graph_get_place(graph_builder *b, uint32_t location, graph_place *out) {
    graph_place *own = &b->places[location];
    if (!own->file)
        VTRN_RETURN_IF_ERROR(read_location(b, location, own));
    *out = *own;
    if (!*out->file && b->call_place.file)
        out->file = b->call_place.file;
    const char *outer = b->call_place.scope;
    if (!outer || !*outer)
        return NULL;
    if (!*out->scope || b->is_random || ends_with(outer, out->scope)) {
        out->scope = outer;
        return NULL;
    }
    char scope[2 * MAX_SCOPE];
    snprintf(scope, sizeof scope, "%s/%s", outer, out->scope);
    return keep(b, scope, &out->scope);
}

/* Neighbours mostly have one place, and then share the text. */
vtrn_status graph_place_text(graph_builder *b, uint32_t location, const char **out) {
    graph_place p;
    VTRN_RETURN_IF_ERROR(graph_get_place(b, location, &p));
    const char *tail = b->is_random ? *p.scope ? "/rng" : "rng" : "";
    if (!*p.scope && !*tail) {
        *out = p.file;
        return NULL;
    }
    char text[256 + 2 * MAX_SCOPE + 16];
    snprintf(text, sizeof text, "%s%s%s%s", p.file, *p.file ? " in " : "in ", p.scope, tail);
    if (!b->last_place || strcmp(text, b->last_place) != 0)
        VTRN_RETURN_IF_ERROR(keep(b, text, &b->last_place));
    *out = b->last_place;
    return NULL;
}
