/* One walk over an op that both writes and reads it, so that the two cannot disagree. */
#include "compiler/custom/custom_codec.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 16, MAX_ITEMS = 1 << 24, MAX_CAPTURES = 64 };

typedef struct codec {
    bool is_decode;
    arena *a; /* of what is decoded, or of the bytes */
    uint8_t *bytes;
    size_t n, cap; /* encode: used, capacity; decode: position, size */
    const char *error;
    const graph *from;    /* encode: the graph that op is of */
    graph *to;            /* decode */
    uint32_t *renumbered; /* encode: new value number + 1 by old one */
    uint32_t n_values;
    uint32_t cap_types; /* decode */
} codec;

static const char no_memory[] = "host memory is short";

static void fail(codec *c, const char *why) {
    if (!c->error)
        c->error = why;
}

static void raw(codec *c, void *p, size_t size) {
    if (c->error)
        return;
    if (c->is_decode) {
        if (size > c->cap - c->n) {
            fail(c, "ends early");
            memset(p, 0, size);
            return;
        }
        memcpy(p, c->bytes + c->n, size);
    } else {
        if (size > c->cap - c->n) {
            size_t cap = (c->cap + size) * 2;
            uint8_t *grown = realloc(c->bytes, cap);
            if (!grown) {
                fail(c, no_memory);
                return;
            }
            c->bytes = grown;
            c->cap = cap;
        }
        memcpy(c->bytes + c->n, p, size);
    }
    c->n += size;
}

static void i64(codec *c, int64_t *v) {
    raw(c, v, sizeof *v);
    if (c->error)
        *v = 0;
}

static int64_t value_of(codec *c, int64_t v) {
    i64(c, &v);
    return v;
}

/* A count of things that take at least one byte each. */
static int64_t count_of(codec *c, int64_t n) {
    i64(c, &n);
    if (c->is_decode && (n < 0 || n > MAX_ITEMS || (uint64_t)n > c->cap)) {
        fail(c, "count out of range");
        return 0;
    }
    return n;
}

static void ints(codec *c, graph_ints *list) {
    list->n = count_of(c, list->n);
    int64_t *v = (int64_t *)list->v;
    if (c->is_decode) {
        v = ARENA_NEW(c->a, int64_t, (size_t)list->n);
        if (!v) {
            fail(c, no_memory);
            list->n = 0;
            return;
        }
        list->v = v;
    }
    for (int64_t i = 0; i < list->n; i++)
        i64(c, &v[i]);
}

static void text(codec *c, const char **s) {
    int64_t len = count_of(c, c->is_decode || !*s ? 0 : (int64_t)strlen(*s));
    if (c->is_decode) {
        char *copy = ARENA_NEW(c->a, char, (size_t)len + 1);
        if (!copy) {
            fail(c, no_memory);
            return;
        }
        raw(c, copy, (size_t)len);
        *s = copy;
    } else if (*s) {
        raw(c, (void *)(uintptr_t)*s, (size_t)len);
    }
}

#define FLAG(field) (field) = value_of(c, (field)) != 0
#define INT(field)  (field) = (__typeof__(field))value_of(c, (int64_t)(field))

static void constant(codec *c, graph_attrs *at, const graph_type *type) {
    FLAG(at->constant.is_splat);
    uint64_t bytes = at->constant.is_splat ? dtype_size(type->dtype) : graph_type_bytes(type);
    int64_t n = count_of(c, (int64_t)bytes);
    if (!c->is_decode) {
        raw(c, (void *)(uintptr_t)at->constant.data, bytes);
        return;
    }
    void *data = arena_alloc(c->a, (size_t)n, 1);
    if (!data || (uint64_t)n != bytes) {
        fail(c, data ? "constant size" : no_memory);
        return;
    }
    raw(c, data, (size_t)n);
    at->constant.data = data;
}

/* How the attributes of each kind are laid out: the member of graph_attrs that graph_ops.def names.
 */
enum {
    attr_none,
    attr_compare,
    attr_reduce_precision,
    attr_constant,
    attr_dims,
    attr_slice,
    attr_pad,
    attr_gather,
    attr_scatter,
    attr_dot,
    attr_conv,
    attr_window,
    attr_sort,
    attr_rng,
    attr_fft,
    attr_flag,
    attr_triangular,
    attr_batch_norm,
    attr_custom_call,
    attr_collective,
    attr_shardings
};

static const uint8_t attrs_of[] = {
#define G(e, name, attrs) [GRAPH_##e] = attr_##attrs,
#include "compiler/graph/graph_ops.def"
#undef G
};

static void conv_attrs(codec *c, graph_attrs *at) {
    int64_t *dims[] = {&at->conv.lhs_batch_dim,  &at->conv.lhs_feature_dim,
                       &at->conv.rhs_in_dim,     &at->conv.rhs_out_dim,
                       &at->conv.out_batch_dim,  &at->conv.out_feature_dim,
                       &at->conv.feature_groups, &at->conv.batch_groups};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        i64(c, dims[i]);
    graph_ints *lists[] = {&at->conv.lhs_spatial,  &at->conv.rhs_spatial,  &at->conv.out_spatial,
                           &at->conv.stride,       &at->conv.pad_low,      &at->conv.pad_high,
                           &at->conv.lhs_dilation, &at->conv.rhs_dilation, &at->conv.reversal};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        ints(c, lists[i]);
}

static void list_attrs(codec *c, graph_ints **lists, size_t n) {
    for (size_t i = 0; i < n; i++)
        ints(c, lists[i]);
}

static void visit_attrs(codec *c, graph_op *op, const graph_type *result) {
    graph_attrs *at = &op->attrs;
    switch (attrs_of[op->kind]) {
    case attr_dims:
        ints(c, &at->dims.dims);
        break;
    case attr_compare:
        INT(at->compare.direction);
        INT(at->compare.type);
        break;
    case attr_reduce_precision:
        INT(at->reduce_precision.exponent_bits);
        INT(at->reduce_precision.mantissa_bits);
        break;
    case attr_constant:
        constant(c, at, result);
        break;
    case attr_slice:
        list_attrs(c, (graph_ints *[]){&at->slice.start, &at->slice.limit, &at->slice.stride}, 3);
        break;
    case attr_pad:
        list_attrs(c, (graph_ints *[]){&at->pad.low, &at->pad.high, &at->pad.interior}, 3);
        break;
    case attr_dot:
        list_attrs(c,
                   (graph_ints *[]){&at->dot.lhs_batch, &at->dot.rhs_batch, &at->dot.lhs_contract,
                                    &at->dot.rhs_contract},
                   4);
        INT(at->dot.precision);
        break;
    case attr_conv:
        conv_attrs(c, at);
        break;
    case attr_window:
        list_attrs(c,
                   (graph_ints *[]){&at->window.window, &at->window.stride,
                                    &at->window.base_dilation, &at->window.window_dilation,
                                    &at->window.pad_low, &at->window.pad_high},
                   6);
        break;
    case attr_gather:
        list_attrs(c,
                   (graph_ints *[]){&at->gather.offset_dims, &at->gather.collapsed,
                                    &at->gather.operand_batching, &at->gather.indices_batching,
                                    &at->gather.start_index_map, &at->gather.slice_sizes},
                   6);
        INT(at->gather.index_vector_dim);
        FLAG(at->gather.is_sorted);
        break;
    case attr_scatter:
        list_attrs(c,
                   (graph_ints *[]){&at->scatter.update_window, &at->scatter.inserted_window,
                                    &at->scatter.input_batching, &at->scatter.indices_batching,
                                    &at->scatter.scatter_dims_to_operand},
                   5);
        INT(at->scatter.index_vector_dim);
        FLAG(at->scatter.is_sorted);
        FLAG(at->scatter.is_unique);
        break;
    case attr_sort:
        INT(at->sort.dimension);
        FLAG(at->sort.is_stable);
        break;
    case attr_rng:
        INT(at->rng.algorithm);
        break;
    case attr_fft:
        INT(at->fft.type);
        ints(c, &at->fft.length);
        break;
    case attr_flag:
        FLAG(at->flag.value);
        break;
    case attr_triangular:
        FLAG(at->triangular.left_side);
        FLAG(at->triangular.lower);
        FLAG(at->triangular.unit_diagonal);
        INT(at->triangular.transpose_a);
        break;
    case attr_batch_norm:
        raw(c, &at->batch_norm.epsilon, sizeof at->batch_norm.epsilon);
        INT(at->batch_norm.feature_index);
        break;
    case attr_custom_call:
        text(c, &at->custom_call.backend_config);
        FLAG(at->custom_call.has_side_effect);
        break;
    default:
        break;
    }
}

/* Types travel with the first mention of a value; a later mention is its number alone. */
static void visit_value(codec *c, graph_value *v) {
    if (!c->is_decode) {
        int64_t number = c->renumbered[*v];
        i64(c, &number);
        if (number)
            return;
        c->renumbered[*v] = ++c->n_values;
        graph_type t = c->from->types[*v];
        int64_t head = (int64_t)t.dtype | (int64_t)t.rank << 8 | (int64_t)t.is_token << 16;
        i64(c, &head);
        for (int d = 0; d < t.rank; d++)
            i64(c, &t.dims[d]);
        return;
    }
    int64_t number = value_of(c, 0);
    if (number) {
        if (number < 0 || number > c->to->n_values) {
            fail(c, "value number out of range");
            number = 1;
        }
        *v = (graph_value)(number - 1);
        return;
    }
    if (c->to->n_values == c->cap_types) {
        fail(c, "more values than declared");
        *v = 0;
        return;
    }
    graph_type t = {0};
    int64_t head = value_of(c, 0);
    t.dtype = (uint8_t)head;
    t.rank = (uint8_t)(head >> 8);
    t.is_token = (head >> 16) & 1;
    if (t.dtype >= VTRN_DTYPE_COUNT || t.rank > GRAPH_MAX_RANK) {
        fail(c, "type out of range");
        t.dtype = t.rank = 0;
    }
    uint64_t bytes = dtype_size(t.dtype);
    for (int d = 0; d < t.rank; d++) {
        i64(c, &t.dims[d]);
        if (t.dims[d] < 0 || __builtin_mul_overflow(bytes, (uint64_t)t.dims[d], &bytes) ||
            bytes > INT64_MAX)
            fail(c, "shape out of range");
    }
    if (t.is_token && !graph_type_equal(&t, &GRAPH_TOKEN_TYPE))
        fail(c, "a token with elements");
    *v = c->to->n_values;
    c->to->types[c->to->n_values++] = t;
}

static void visit_values(codec *c, uint32_t *n, graph_value **list) {
    *n = (uint32_t)count_of(c, *n);
    if (c->is_decode) {
        *list = ARENA_NEW(c->a, graph_value, *n);
        if (!*list) {
            fail(c, no_memory);
            *n = 0;
        }
    }
    for (uint32_t i = 0; i < *n && !c->error; i++)
        visit_value(c, &(*list)[i]);
}

static void visit_op(codec *c, graph_op *op, int depth);

static void visit_region(codec *c, graph_region *r, int depth) {
    visit_values(c, &r->n_args, &r->args);
    r->n_ops = (uint32_t)count_of(c, r->n_ops);
    if (c->is_decode) {
        r->ops = ARENA_NEW(c->a, graph_op, r->n_ops);
        if (!r->ops) {
            fail(c, no_memory);
            r->n_ops = 0;
        }
    }
    for (uint32_t i = 0; i < r->n_ops && !c->error; i++)
        visit_op(c, &r->ops[i], depth);
    visit_values(c, &r->n_results, &r->results);
}

static void visit_op(codec *c, graph_op *op, int depth) {
    if (depth > MAX_DEPTH) {
        fail(c, "regions nest too deep");
        return;
    }
    INT(op->kind);
    if (op->kind >= GRAPH_KIND_COUNT) {
        fail(c, "unknown op");
        return;
    }
    INT(op->reducer);
    INT(op->select);
    text(c, &op->name);
    text(c, &op->place);
    visit_values(c, &op->n_operands, &op->operands);
    visit_values(c, &op->n_results, &op->results);
    if (c->error)
        return;
    static const graph_type none;
    const graph_type *types = c->is_decode ? c->to->types : c->from->types;
    visit_attrs(c, op, op->n_results ? &types[op->results[0]] : &none);
    op->n_regions = (uint32_t)count_of(c, op->n_regions);
    if (c->is_decode)
        op->regions = ARENA_NEW(c->a, graph_region *, op->n_regions);
    for (uint32_t i = 0; i < op->n_regions && !c->error; i++) {
        if (c->is_decode && op->regions)
            op->regions[i] = ARENA_NEW(c->a, graph_region, 1);
        if (!op->regions || !op->regions[i])
            fail(c, no_memory);
        else
            visit_region(c, op->regions[i], depth + 1);
    }
}

/* Constants of the graph that the regions of an op use: they travel with it. */
typedef struct captures {
    const graph_op *ops[MAX_CAPTURES];
    uint32_t n;
} captures;

static bool is_in(const graph_value *values, uint32_t n, graph_value v) {
    for (uint32_t i = 0; i < n; i++)
        if (values[i] == v)
            return true;
    return false;
}

static bool is_made_in(const graph_op *op, graph_value v) {
    for (uint32_t k = 0; k < op->n_regions; k++) {
        const graph_region *r = op->regions[k];
        if (is_in(r->args, r->n_args, v))
            return true;
        for (uint32_t i = 0; i < r->n_ops; i++)
            if (is_in(r->ops[i].results, r->ops[i].n_results, v) || is_made_in(&r->ops[i], v))
                return true;
    }
    return false;
}

static const graph_op *constant_of(const graph_region *r, graph_value v) {
    for (uint32_t i = 0; i < r->n_ops; i++) {
        const graph_op *op = &r->ops[i], *found = NULL;
        if (op->kind == GRAPH_CONSTANT && op->results[0] == v)
            return op;
        for (uint32_t k = 0; k < op->n_regions && !found; k++)
            found = constant_of(op->regions[k], v);
        if (found)
            return found;
    }
    return NULL;
}

static vtrn_status capture(const graph *g, const graph_op *outer, const graph_value *values,
                           uint32_t n, captures *out) {
    for (uint32_t i = 0; i < n; i++) {
        if (is_made_in(outer, values[i]))
            continue;
        const graph_op *op = constant_of(&g->body, values[i]);
        bool is_known = false;
        for (uint32_t k = 0; k < out->n; k++)
            is_known |= out->ops[k] == op;
        if (op && is_known)
            continue;
        if (!op || out->n == MAX_CAPTURES)
            return VTRN_ERROR(
                VTRN_UNIMPLEMENTED,
                "%s: its region uses %s of an enclosing region; pass it as an operand", outer->name,
                op ? "more than 64 constants" : "a computed value");
        out->ops[out->n++] = op;
    }
    return NULL;
}

static vtrn_status capture_all(const graph *g, const graph_op *outer, const graph_op *op,
                               captures *out) {
    for (uint32_t k = 0; k < op->n_regions; k++) {
        const graph_region *r = op->regions[k];
        for (uint32_t i = 0; i < r->n_ops; i++) {
            VTRN_RETURN_IF_ERROR(capture(g, outer, r->ops[i].operands, r->ops[i].n_operands, out));
            VTRN_RETURN_IF_ERROR(capture_all(g, outer, &r->ops[i], out));
        }
        VTRN_RETURN_IF_ERROR(capture(g, outer, r->results, r->n_results, out));
    }
    return NULL;
}

/* Hands the bytes of an encoding to the arena. */
static vtrn_status finish_encoding(codec *c, arena *a, const void **out_bytes, size_t *out_size) {
    free(c->renumbered);
    /* the number of values comes first, so that a reader can size its table */
    if (!c->error)
        memcpy(c->bytes, &(int64_t){c->n_values}, sizeof(int64_t));
    void *bytes = c->error ? NULL : arena_alloc(a, c->n, 1);
    if (bytes)
        memcpy(bytes, c->bytes, c->n);
    free(c->bytes);
    if (!bytes)
        return VTRN_OUT_OF_MEMORY(c->n);
    *out_bytes = bytes;
    *out_size = c->n;
    return NULL;
}

static vtrn_status start_encoding(codec *c, const graph *g) {
    *c = (codec){.from = g};
    c->renumbered = calloc(g->n_values ? g->n_values : 1, sizeof *c->renumbered);
    if (!c->renumbered)
        return VTRN_OUT_OF_MEMORY(g->n_values * sizeof *c->renumbered);
    int64_t n_values = 0;
    i64(c, &n_values);
    return NULL;
}

vtrn_status custom_encode(const graph *g, const graph_op *op, arena *a, const void **out_bytes,
                          size_t *out_size) {
    captures constants = {.n = 0};
    VTRN_RETURN_IF_ERROR(capture_all(g, op, op, &constants));
    codec c;
    VTRN_RETURN_IF_ERROR(start_encoding(&c, g));
    graph_op copy = *op;
    count_of(&c, constants.n);
    visit_op(&c, &copy, 0);
    for (uint32_t i = 0; i < constants.n; i++) {
        copy = *constants.ops[i];
        visit_op(&c, &copy, 0);
    }
    return finish_encoding(&c, a, out_bytes, out_size);
}

vtrn_status custom_encode_region(const graph *g, const graph_region *region, arena *a,
                                 const void **out_bytes, size_t *out_size) {
    codec c;
    VTRN_RETURN_IF_ERROR(start_encoding(&c, g));
    graph_region copy = *region;
    visit_region(&c, &copy, 0);
    return finish_encoding(&c, a, out_bytes, out_size);
}

/* A graph without ops, and a codec that reads its types; the memory of both is in *home. */
static vtrn_status start_decoding(codec *c, const void *bytes, size_t size, arena *home,
                                  graph **out) {
    graph *g = calloc(1, sizeof *g); /* as graph_destroy() expects: only the rest is in the arena */
    if (!g)
        return VTRN_OUT_OF_MEMORY(sizeof *g);
    *c = (codec){
        .is_decode = true, .a = home, .bytes = (uint8_t *)(uintptr_t)bytes, .cap = size, .to = g};
    int64_t n_values = count_of(c, 0);
    c->cap_types = (uint32_t)n_values;
    g->types = ARENA_NEW(home, graph_type, (size_t)n_values);
    if (!g->types)
        fail(c, no_memory);
    g->name = "custom_op";
    *out = g;
    return NULL;
}

static vtrn_status finish_decoding(const codec *c, arena *home, graph **out) {
    graph *g = c->to;
    if (c->error) {
        vtrn_status status =
            VTRN_ERROR(c->error == no_memory ? VTRN_RESOURCE : VTRN_BAD_ARGUMENT,
                       "custom op: %s, at byte %zu of %zu", c->error, c->n, c->cap);
        arena_free(home);
        free(g);
        *out = NULL;
        return status;
    }
    g->arena = *home;
    *out = g;
    return NULL;
}

vtrn_status custom_decode(const void *bytes, size_t size, graph **out) {
    arena home = ARENA_EMPTY;
    codec c;
    graph *g;
    VTRN_RETURN_IF_ERROR(start_decoding(&c, bytes, size, &home, &g));
    int64_t n_constants = count_of(&c, 0);
    g->body.ops = ARENA_NEW(&home, graph_op, (size_t)n_constants + 1);
    if (!g->body.ops)
        fail(&c, no_memory);
    if (!c.error)
        visit_op(&c, g->body.ops, 0);
    for (int64_t i = 1; i <= n_constants && !c.error; i++) {
        visit_op(&c, &g->body.ops[i], 0);
        if (g->body.ops[i].kind != GRAPH_CONSTANT || g->body.ops[i].n_results != 1)
            fail(&c, "a captured value that is no constant");
    }
    g->body.n_ops = 1 + (uint32_t)n_constants;
    return finish_decoding(&c, &home, out);
}

vtrn_status custom_decode_region(const void *bytes, size_t size, graph **out) {
    arena home = ARENA_EMPTY;
    codec c;
    graph *g;
    VTRN_RETURN_IF_ERROR(start_decoding(&c, bytes, size, &home, &g));
    if (!c.error)
        visit_region(&c, &g->body, 0);
    return finish_decoding(&c, &home, out);
}
