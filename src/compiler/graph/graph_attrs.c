/* Attributes of VHLO operations as graph_attrs, for every kind that has some. */
#include "compiler/graph/graph_build.h"

#include <string.h>

enum { MAX_SPLAT_INTS = 1 << 12 };

typedef struct attr_reader {
    graph_builder *b;
    const vhlo_op *v;
    const graph_op *op; /* being filled; its operands are there */
    vtrn_status status; /* the first error; later reads give zeros */
} attr_reader;

static const vhlo_entry *find(attr_reader *r, const char *name, bool is_needed) {
    const vhlo_entry *e = NULL;
    if (r->status)
        return NULL;
    r->status = vhlo_op_attr(r->b->m, r->v, name, &e);
    if (!r->status && !e && is_needed)
        r->status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "attribute %s is missing", name);
    return r->status ? NULL : e;
}

static void refuse(attr_reader *r, const char *name, const char *what) {
    if (!r->status)
        r->status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "attribute %s is not %s", name, what);
}

/* Integer list of a 1-D (or row-major 2-D) tensor of i64 or i1; out_shape gets its dims[2]. */
static graph_ints get_tensor(attr_reader *r, const char *name, bool is_needed, int64_t *out_shape) {
    graph_ints none = {0, NULL}, given;
    uint32_t operand;
    out_shape[0] = out_shape[1] = 0;
    if (!r->status && graph_find_shape_operand(r->v, name, &operand)) {
        r->status = graph_shape_operand(r->b, r->op->operands[operand], out_shape, &given);
        return r->status ? none : given;
    }
    const vhlo_entry *e = find(r, name, is_needed);
    if (!e)
        return none;
    const graph_type *t = NULL;
    if (!vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_TENSOR)) {
        refuse(r, name, "a dense tensor");
        return none;
    }
    if ((r->status = graph_convert_type(r->b, e->type, &t)))
        return none;
    int64_t n = graph_type_count(t);
    bool is_wide = t->dtype == VTRN_DTYPE_INT64;
    size_t size = is_wide ? 8 : 1;
    bool is_packed = !is_wide && n != 1 && e->n_data == (uint64_t)(n + 7) / 8 && e->n_data != n;
    bool is_splat = !is_packed && n != 1 && e->n_data == size;
    if (t->is_token || t->rank > 2 || (!is_wide && t->dtype != VTRN_DTYPE_PRED) ||
        (!is_splat && !is_packed && e->n_data != (uint64_t)n * size) ||
        (is_splat && n > MAX_SPLAT_INTS)) {
        refuse(r, name, "a list of integers");
        return none;
    }
    int64_t *v = ARENA_NEW(&r->b->g->arena, int64_t, (size_t)n);
    if (!v) {
        r->status = VTRN_OUT_OF_MEMORY((size_t)n * sizeof *v);
        return none;
    }
    for (int64_t i = 0; i < n; i++)
        if (is_wide)
            memcpy(&v[i], e->data + (is_splat ? 0 : i * 8), 8);
        else
            v[i] = is_packed ? e->data[i / 8] >> (i % 8) & 1 : e->data[is_splat ? 0 : i] != 0;
    out_shape[0] = t->rank > 0 ? t->dims[0] : 1;
    out_shape[1] = t->rank > 1 ? t->dims[1] : 1;
    return (graph_ints){n, v};
}

static graph_ints get_ints(attr_reader *r, const char *name) {
    int64_t shape[2];
    return get_tensor(r, name, true, shape);
}

/* Absent before the version that introduced it: no items. */
static graph_ints get_new_ints(attr_reader *r, const char *name) {
    int64_t shape[2];
    return get_tensor(r, name, false, shape);
}

/* [n][2] pairs as two lists. */
static void get_pairs(attr_reader *r, const char *name, graph_ints *low, graph_ints *high) {
    int64_t shape[2];
    graph_ints all = get_tensor(r, name, true, shape);
    int64_t n = shape[0];
    if (r->status)
        return;
    if (all.n != 2 * n) {
        refuse(r, name, "a list of pairs");
        return;
    }
    int64_t *v = ARENA_NEW(&r->b->g->arena, int64_t, (size_t)n * 2);
    if (!v) {
        r->status = VTRN_OUT_OF_MEMORY((size_t)n * 2 * sizeof *v);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        v[i] = all.v[2 * i];
        v[n + i] = all.v[2 * i + 1];
    }
    *low = (graph_ints){n, v};
    *high = (graph_ints){n, v + n};
}

static int64_t get_int(attr_reader *r, const char *name) {
    const vhlo_entry *e = find(r, name, true);
    if (!e)
        return 0;
    if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_INTEGER) && e->n_ints == 1)
        return e->ints[0];
    refuse(r, name, "an integer");
    return 0;
}

static graph_ints get_int_list(attr_reader *r, const char *name) {
    int64_t value = get_int(r, name);
    int64_t *v = ARENA_NEW(&r->b->g->arena, int64_t, 1);
    if (!v) {
        r->status = r->status ? r->status : VTRN_OUT_OF_MEMORY(sizeof *v);
        return (graph_ints){0, NULL};
    }
    *v = value;
    return (graph_ints){1, v};
}

static bool get_bool(attr_reader *r, const char *name) {
    const vhlo_entry *e = find(r, name, true);
    if (!e)
        return false;
    if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_BOOL))
        return e->ints[0] != 0;
    refuse(r, name, "a boolean");
    return false;
}

static int get_enum(attr_reader *r, const char *name, int code, int n_values) {
    const vhlo_entry *e = find(r, name, true);
    if (!e)
        return 0;
    if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, code) && e->ints[0] >= 0 && e->ints[0] < n_values)
        return (int)e->ints[0];
    refuse(r, name, "one of its values");
    return 0;
}

static int get_precision(attr_reader *r) {
    const vhlo_entry *e = find(r, "precision_config", true);
    int highest = 0;
    if (!e)
        return 0;
    if (!vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_ARRAY)) {
        refuse(r, "precision_config", "a list");
        return 0;
    }
    for (uint32_t i = 0; i < e->n_refs; i++) {
        const vhlo_entry *p;
        if ((r->status = vhlo_get_attr(r->b->m, e->refs[i], &p)))
            return 0;
        if (!vhlo_entry_is(p, VHLO_DIALECT_VHLO, VHLO_ATTR_PRECISION) || p->ints[0] < 0 ||
            p->ints[0] > 2) {
            refuse(r, "precision_config", "a list of precisions");
            return 0;
        }
        highest = p->ints[0] > highest ? (int)p->ints[0] : highest;
    }
    return highest;
}

static float get_f32(attr_reader *r, const char *name) {
    const vhlo_entry *e = find(r, name, true);
    float value = 0;
    if (!e)
        return 0;
    if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_FLOAT) && e->n_ints == 1) {
        uint32_t bits = (uint32_t)e->ints[0];
        memcpy(&value, &bits, sizeof value);
    } else {
        refuse(r, name, "a float");
    }
    return value;
}

static void get_dot(attr_reader *r, graph_op *op) {
    graph_attrs *a = &op->attrs;
    a->dot.precision = get_precision(r);
    if (strcmp(r->v->name->info->name, "dot") == 0) {
        /* dot is dot_general of the last lhs and the first rhs dimension. */
        static const int64_t DIMS[GRAPH_MAX_RANK] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
        int rank = r->b->g->types[op->operands[0]].rank;
        a->dot.lhs_contract = (graph_ints){1, &DIMS[rank > 0 ? rank - 1 : 0]};
        a->dot.rhs_contract = (graph_ints){1, &DIMS[0]};
        return;
    }
    a->dot.lhs_batch = get_ints(r, "lhs_batching_dimensions");
    a->dot.rhs_batch = get_ints(r, "rhs_batching_dimensions");
    a->dot.lhs_contract = get_ints(r, "lhs_contracting_dimensions");
    a->dot.rhs_contract = get_ints(r, "rhs_contracting_dimensions");
}

static void get_conv(attr_reader *r, graph_attrs *a) {
    a->conv.lhs_batch_dim = get_int(r, "input_batch_dimension");
    a->conv.lhs_feature_dim = get_int(r, "input_feature_dimension");
    a->conv.lhs_spatial = get_ints(r, "input_spatial_dimensions");
    a->conv.rhs_in_dim = get_int(r, "kernel_input_feature_dimension");
    a->conv.rhs_out_dim = get_int(r, "kernel_output_feature_dimension");
    a->conv.rhs_spatial = get_ints(r, "kernel_spatial_dimensions");
    a->conv.out_batch_dim = get_int(r, "output_batch_dimension");
    a->conv.out_feature_dim = get_int(r, "output_feature_dimension");
    a->conv.out_spatial = get_ints(r, "output_spatial_dimensions");
    a->conv.stride = get_ints(r, "window_strides");
    a->conv.lhs_dilation = get_ints(r, "lhs_dilation");
    a->conv.rhs_dilation = get_ints(r, "rhs_dilation");
    a->conv.reversal = get_ints(r, "window_reversal");
    get_pairs(r, "padding", &a->conv.pad_low, &a->conv.pad_high);
    a->conv.feature_groups = get_int(r, "feature_group_count");
    a->conv.batch_groups = get_int(r, "batch_group_count");
    a->conv.precision = get_precision(r);
}

static void get_window(attr_reader *r, int kind, graph_attrs *a) {
    a->window.window = get_ints(r, "window_dimensions");
    a->window.stride = get_ints(r, "window_strides");
    get_pairs(r, "padding", &a->window.pad_low, &a->window.pad_high);
    if (kind == GRAPH_REDUCE_WINDOW) {
        a->window.base_dilation = get_ints(r, "base_dilations");
        a->window.window_dilation = get_ints(r, "window_dilations");
        return;
    }
    int64_t *ones = ARENA_NEW(&r->b->g->arena, int64_t, (size_t)a->window.window.n);
    if (!ones) {
        r->status = r->status ? r->status : VTRN_OUT_OF_MEMORY(a->window.window.n * 8);
        return;
    }
    for (int64_t i = 0; i < a->window.window.n; i++)
        ones[i] = 1;
    a->window.base_dilation = a->window.window_dilation = (graph_ints){a->window.window.n, ones};
}

static void get_gather(attr_reader *r, graph_attrs *a) {
    a->gather.offset_dims = get_ints(r, "offset_dims");
    a->gather.collapsed = get_ints(r, "collapsed_slice_dims");
    a->gather.operand_batching = get_new_ints(r, "operand_batching_dims");
    a->gather.indices_batching = get_new_ints(r, "start_indices_batching_dims");
    a->gather.start_index_map = get_ints(r, "start_index_map");
    a->gather.slice_sizes = get_ints(r, "slice_sizes");
    a->gather.index_vector_dim = get_int(r, "index_vector_dim");
    a->gather.is_sorted = get_bool(r, "indices_are_sorted");
}

static void get_scatter(attr_reader *r, graph_attrs *a) {
    a->scatter.update_window = get_ints(r, "update_window_dims");
    a->scatter.inserted_window = get_ints(r, "inserted_window_dims");
    a->scatter.input_batching = get_new_ints(r, "input_batching_dims");
    a->scatter.indices_batching = get_new_ints(r, "scatter_indices_batching_dims");
    a->scatter.scatter_dims_to_operand = get_ints(r, "scatter_dims_to_operand_dims");
    a->scatter.index_vector_dim = get_int(r, "index_vector_dim");
    a->scatter.is_sorted = get_bool(r, "indices_are_sorted");
    a->scatter.is_unique = get_bool(r, "unique_indices");
}

static void get_groups(attr_reader *r, const char *name, graph_attrs *a) {
    int64_t shape[2];
    const vhlo_entry *e = find(r, name, true);
    if (e && !vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_TENSOR)) {
        r->status =
            VTRN_ERROR(VTRN_UNSUPPORTED, "%s as mesh axes; export for StableHLO <= 1.15", name);
        return;
    }
    graph_ints groups = get_tensor(r, name, true, shape);
    a->collective.groups = groups.v;
    a->collective.n_groups = shape[0];
    a->collective.group_size = shape[1];
}

static void get_collective(attr_reader *r, int kind, graph_attrs *a) {
    a->collective.channel_id = get_int(r, "channel_id");
    get_groups(r, kind == GRAPH_COLLECTIVE_PERMUTE ? "source_target_pairs" : "replica_groups", a);
    if (kind == GRAPH_ALL_REDUCE || kind == GRAPH_ALL_GATHER || kind == GRAPH_REDUCE_SCATTER)
        a->collective.use_global_ids = get_bool(r, "use_global_device_ids");
    if (kind == GRAPH_ALL_GATHER)
        a->collective.dim = get_int(r, "all_gather_dim");
    if (kind == GRAPH_REDUCE_SCATTER)
        a->collective.dim = get_int(r, "scatter_dimension");
    if (kind == GRAPH_ALL_TO_ALL) {
        a->collective.dim = get_int(r, "split_dimension");
        a->collective.dim2 = get_int(r, "concat_dimension");
        a->collective.split_count = get_int(r, "split_count");
    }
}

/* ApproxTopK says in a dictionary along which dimension it works; the shapes say the rest. */
static void get_approx_top_k(attr_reader *r, graph_op *op) {
    const vhlo_entry *dictionary = find(r, "mhlo.backend_config", true), *e = NULL;
    if (!r->status)
        r->status = vhlo_dictionary_get(r->b->m, dictionary, "reduction_dim", &e);
    if (r->status)
        return;
    if (!e || !vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_INTEGER) || e->n_ints != 1) {
        refuse(r, "mhlo.backend_config", "a dictionary with an integer reduction_dim");
        return;
    }
    op->attrs.custom_call.backend_config =
        arena_printf(&r->b->g->arena, "dim=%lld", (long long)e->ints[0]);
}

static void get_custom_call(attr_reader *r, graph_op *op) {
    vhlo_string s;
    const vhlo_entry *target = find(r, "call_target_name", true);
    const vhlo_entry *config = find(r, "backend_config", false);
    op->attrs.custom_call.has_side_effect = get_bool(r, "has_side_effect");
    op->attrs.custom_call.backend_config = "";
    if (r->status)
        return;
    if (vhlo_entry_string(target, &s))
        op->name = arena_strdup(&r->b->g->arena, s.text, s.len);
    if (vhlo_entry_string(config, &s))
        op->attrs.custom_call.backend_config = arena_strdup(&r->b->g->arena, s.text, s.len);
    if (op->name && !strcmp(op->name, "ApproxTopK"))
        get_approx_top_k(r, op);
    if (!op->name || !op->attrs.custom_call.backend_config)
        r->status = VTRN_OUT_OF_MEMORY(s.len);
}

static void get_constant(attr_reader *r, graph_op *op) {
    graph_constant c = {0};
    uint32_t attr = VHLO_NONE;
    if (op->n_operands == 1) { /* get_dimension_size */
        int64_t dim = get_int(r, "dimension");
        if (!r->status)
            r->status = graph_dimension_size(r->b, op, dim, &op->attrs.constant.data);
        return;
    }
    const vhlo_entry *e = find(r, "value", true);
    if (!e)
        return;
    attr = (uint32_t)(e - r->b->m->entries);
    r->status = graph_decode_constant(r->b, attr, &r->b->g->types[op->results[0]], &c);
    op->attrs.constant.data = c.data;
    op->attrs.constant.is_splat = c.is_splat;
}

/* Of broadcast, which adds dimensions in front: where those of the operand are. */
static graph_ints last_dims(attr_reader *r, const graph_op *op) {
    int rank = r->b->g->types[op->operands[0]].rank;
    int n_added = r->b->g->types[op->results[0]].rank - rank;
    int64_t *v = ARENA_NEW(&r->b->g->arena, int64_t, (size_t)rank);
    if (!v) {
        r->status = VTRN_OUT_OF_MEMORY((size_t)rank * sizeof *v);
        return (graph_ints){0, NULL};
    }
    for (int i = 0; i < rank; i++)
        v[i] = n_added + i; /* negative where the result has fewer: refused with the shapes */
    return (graph_ints){rank, v};
}

/* The attribute that is the kind's one integer or list of integers. */
static void get_dims(attr_reader *r, graph_op *op) {
    graph_attrs *a = &op->attrs;
    switch (op->kind) {
    case GRAPH_IOTA:
        a->dims.dims = get_int_list(r, "iota_dimension");
        break;
    case GRAPH_CONCATENATE:
        a->dims.dims = get_int_list(r, "dimension");
        break;
    case GRAPH_BROADCAST_IN_DIM:
        a->dims.dims = strcmp(r->v->name->info->name, "broadcast") == 0
                           ? last_dims(r, op)
                           : get_ints(r, "broadcast_dimensions");
        break;
    case GRAPH_TRANSPOSE:
        a->dims.dims = get_ints(r, "permutation");
        break;
    case GRAPH_DYNAMIC_SLICE:
        a->dims.dims = get_ints(r, "slice_sizes");
        break;
    default: /* reverse, reduce, map */
        a->dims.dims = get_ints(r, "dimensions");
        break;
    }
}

static void get_elementwise(attr_reader *r, graph_op *op) {
    graph_attrs *a = &op->attrs;
    if (op->kind == GRAPH_COMPARE) {
        a->compare.direction =
            get_enum(r, "comparison_direction", VHLO_ATTR_COMPARISON_DIRECTION, 6);
        a->compare.type = get_enum(r, "compare_type", VHLO_ATTR_COMPARISON_TYPE, 5);
    } else if (op->kind == GRAPH_REDUCE_PRECISION) {
        a->reduce_precision.exponent_bits = (int)get_int(r, "exponent_bits");
        a->reduce_precision.mantissa_bits = (int)get_int(r, "mantissa_bits");
    }
}

static void get_linalg(attr_reader *r, graph_op *op) {
    graph_attrs *a = &op->attrs;
    if (op->kind == GRAPH_CHOLESKY) {
        a->flag.value = get_bool(r, "lower");
    } else if (op->kind == GRAPH_TRIANGULAR_SOLVE) {
        a->triangular.left_side = get_bool(r, "left_side");
        a->triangular.lower = get_bool(r, "lower");
        a->triangular.unit_diagonal = get_bool(r, "unit_diagonal");
        a->triangular.transpose_a = get_enum(r, "transpose_a", VHLO_ATTR_TRANSPOSE, 4);
    } else {
        a->fft.type = get_enum(r, "fft_type", VHLO_ATTR_FFT_TYPE, 4);
        a->fft.length = get_ints(r, "fft_length");
    }
}

static void get_move(attr_reader *r, graph_op *op) {
    graph_attrs *a = &op->attrs;
    if (op->kind == GRAPH_SLICE) {
        a->slice.start = get_ints(r, "start_indices");
        a->slice.limit = get_ints(r, "limit_indices");
        a->slice.stride = get_ints(r, "strides");
    } else {
        a->pad.low = get_ints(r, "edge_padding_low");
        a->pad.high = get_ints(r, "edge_padding_high");
        a->pad.interior = get_ints(r, "interior_padding");
    }
}

vtrn_status graph_decode_attrs(graph_builder *b, const vhlo_op *v, graph_op *op) {
    attr_reader r = {b, v, op, NULL};
    graph_attrs *a = &op->attrs;
    switch (op->kind) {
    case GRAPH_COMPARE:
    case GRAPH_REDUCE_PRECISION:
        get_elementwise(&r, op);
        break;
    case GRAPH_CONSTANT:
        get_constant(&r, op);
        break;
    case GRAPH_IOTA:
    case GRAPH_CONCATENATE:
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_TRANSPOSE:
    case GRAPH_DYNAMIC_SLICE:
    case GRAPH_REVERSE:
    case GRAPH_REDUCE:
    case GRAPH_MAP:
        get_dims(&r, op);
        break;
    case GRAPH_SLICE:
    case GRAPH_PAD:
        get_move(&r, op);
        break;
    case GRAPH_DOT_GENERAL:
        get_dot(&r, op);
        break;
    case GRAPH_CONVOLUTION:
        get_conv(&r, a);
        break;
    case GRAPH_REDUCE_WINDOW:
    case GRAPH_SELECT_AND_SCATTER:
        get_window(&r, op->kind, a);
        break;
    case GRAPH_GATHER:
        get_gather(&r, a);
        break;
    case GRAPH_SCATTER:
        get_scatter(&r, a);
        break;
    case GRAPH_SORT:
        a->sort.dimension = get_int(&r, "dimension");
        a->sort.is_stable = get_bool(&r, "is_stable");
        break;
    case GRAPH_RNG_BIT_GENERATOR:
        a->rng.algorithm = get_enum(&r, "rng_algorithm", VHLO_ATTR_RNG_ALGORITHM, 3);
        break;
    case GRAPH_FFT:
    case GRAPH_CHOLESKY:
    case GRAPH_TRIANGULAR_SOLVE:
        get_linalg(&r, op);
        break;
    case GRAPH_BATCH_NORM_TRAINING:
    case GRAPH_BATCH_NORM_INFERENCE:
    case GRAPH_BATCH_NORM_GRAD:
        a->batch_norm.epsilon = get_f32(&r, "epsilon");
        a->batch_norm.feature_index = get_int(&r, "feature_index");
        break;
    case GRAPH_CUSTOM_CALL:
        get_custom_call(&r, op);
        break;
    case GRAPH_ALL_REDUCE:
    case GRAPH_ALL_GATHER:
    case GRAPH_REDUCE_SCATTER:
    case GRAPH_ALL_TO_ALL:
    case GRAPH_COLLECTIVE_PERMUTE:
    case GRAPH_COLLECTIVE_BROADCAST:
        get_collective(&r, op->kind, a);
        break;
    default:
        break;
    }
    return r.status;
}

static bool is_integer(const vhlo_entry *e) {
    return (vhlo_entry_is(e, VHLO_DIALECT_BUILTIN, BUILTIN_ATTR_INTEGER) ||
            vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_INTEGER)) &&
           e->n_ints == 1;
}

static vtrn_status module_int(graph_builder *b, const char *name, int64_t *out) {
    const vhlo_entry *e;
    *out = 1;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, b->m->root, name, &e));
    if (!e)
        return NULL;
    if (!is_integer(e) || e->ints[0] < 1)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "module attribute %s is not a positive integer", name);
    *out = e->ints[0];
    return NULL;
}

int64_t graph_n_partitions_of(const void *bytes, size_t size) {
    graph_builder b = {0};
    int64_t n = 1;
    vtrn_status status = vhlo_read(bytes, size, &b.m);
    if (!status)
        status = module_int(&b, "mhlo.num_partitions", &n);
    vtrn_status_free(status);
    vhlo_destroy(b.m);
    return n;
}

static vtrn_status main_arg_attrs(graph_builder *b, const vhlo_entry *arg_attrs) {
    for (uint32_t i = 0; i < arg_attrs->n_refs && i < b->g->body.n_args; i++) {
        const vhlo_entry *dictionary, *alias, *donor;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, arg_attrs->refs[i], &dictionary));
        VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, dictionary, "tf.aliasing_output", &alias));
        VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, dictionary, "jax.buffer_donor", &donor));
        if (vhlo_entry_is(alias, VHLO_DIALECT_VHLO, VHLO_ATTR_INTEGER) && alias->n_ints == 1) {
            if (alias->ints[0] < 0 || alias->ints[0] >= b->g->body.n_results)
                return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                  "parameter %u: tf.aliasing_output %lld, there are %u outputs", i,
                                  (long long)alias->ints[0], b->g->body.n_results);
            b->g->arg_alias_output[i] = (int32_t)alias->ints[0];
        }
        b->g->arg_is_donated[i] =
            vhlo_entry_is(donor, VHLO_DIALECT_VHLO, VHLO_ATTR_BOOL) && donor->ints[0];
    }
    return NULL;
}

/* An index into the shape of all outputs: [i] is output i, [] the only one; -1: neither. */
static int64_t output_index(const vhlo_entry *e) {
    int64_t index = 0;
    if (!vhlo_entry_is(e, VHLO_DIALECT_BUILTIN, BUILTIN_ATTR_DENSE_ARRAY) ||
        (e->n_data && e->n_data != sizeof index))
        return -1;
    if (e->n_data)
        memcpy(&index, e->data, sizeof index);
    return index;
}

/* An entry of mhlo.input_output_alias: {output_index, alias = {parameter_number, parameter_index,
 * alias_kind}}. An alias of a part of a parameter is passed over: it only says what may be reused.
 */
static vtrn_status module_alias(graph_builder *b, const vhlo_entry *entry) {
    const vhlo_entry *output, *alias, *parameter, *part;
    VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, entry, "output_index", &output));
    VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, entry, "alias", &alias));
    VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, alias, "parameter_number", &parameter));
    VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, alias, "parameter_index", &part));
    bool is_whole =
        vhlo_entry_is(part, VHLO_DIALECT_BUILTIN, BUILTIN_ATTR_DENSE_ARRAY) && !part->n_data;
    int64_t o = output_index(output);
    if (!is_integer(parameter) || !is_whole || o < 0)
        return NULL;
    int64_t i = parameter->ints[0];
    if (i < 0 || i >= b->g->body.n_args || o >= b->g->body.n_results)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "mhlo.input_output_alias: parameter %lld and output %lld, there are %u "
                          "and %u",
                          (long long)i, (long long)o, b->g->body.n_args, b->g->body.n_results);
    const graph_type *from = &b->g->types[b->g->body.args[i]];
    if (graph_type_equal(from, &b->g->types[b->g->body.results[o]]))
        b->g->arg_alias_output[i] = (int32_t)o;
    return NULL;
}

/* How XLA writes donation where JAX marks the parameters. */
static vtrn_status module_aliases(graph_builder *b) {
    const vhlo_entry *all, *entry;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, b->m->root, "mhlo.input_output_alias", &all));
    if (!vhlo_entry_is(all, VHLO_DIALECT_BUILTIN, BUILTIN_ATTR_ARRAY))
        return NULL;
    for (uint32_t k = 0; k < all->n_refs; k++) {
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, all->refs[k], &entry));
        VTRN_RETURN_IF_ERROR(module_alias(b, entry));
    }
    return NULL;
}

/* Parameters or results that are to be in the host's memory. */
static vtrn_status main_memory_kinds(graph_builder *b, const vhlo_op *main, const char *attrs_name,
                                     uint32_t n, uint8_t *is_on_host) {
    const vhlo_entry *attrs, *dictionary, *kind;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, main, attrs_name, &attrs));
    if (!vhlo_entry_is(attrs, VHLO_DIALECT_VHLO, VHLO_ATTR_ARRAY))
        return NULL;
    for (uint32_t i = 0; i < attrs->n_refs && i < n; i++) {
        vhlo_string text;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, attrs->refs[i], &dictionary));
        VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, dictionary, "mhlo.memory_kind", &kind));
        is_on_host[i] =
            kind && vhlo_entry_string(kind, &text) && vhlo_string_equal(text, "pinned_host");
    }
    return NULL;
}

vtrn_status graph_decode_module_attrs(graph_builder *b, const vhlo_op *main) {
    VTRN_RETURN_IF_ERROR(module_int(b, "mhlo.num_partitions", &b->g->n_partitions));
    VTRN_RETURN_IF_ERROR(module_int(b, "mhlo.num_replicas", &b->g->n_replicas));
    if (!main)
        return NULL;
    GRAPH_NEW(b, b->g->arg_is_donated, b->g->body.n_args);
    GRAPH_NEW(b, b->g->arg_alias_output, b->g->body.n_args);
    for (uint32_t i = 0; i < b->g->body.n_args; i++)
        b->g->arg_alias_output[i] = -1;
    GRAPH_NEW(b, b->g->arg_is_on_host, b->g->body.n_args);
    GRAPH_NEW(b, b->g->result_is_on_host, b->g->body.n_results);
    VTRN_RETURN_IF_ERROR(
        main_memory_kinds(b, main, "arg_attrs", b->g->body.n_args, b->g->arg_is_on_host));
    VTRN_RETURN_IF_ERROR(
        main_memory_kinds(b, main, "res_attrs", b->g->body.n_results, b->g->result_is_on_host));
    VTRN_RETURN_IF_ERROR(module_aliases(b));
    VTRN_RETURN_IF_ERROR(graph_sdy_main(b, main));
    const vhlo_entry *arg_attrs;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, main, "arg_attrs", &arg_attrs));
    if (!vhlo_entry_is(arg_attrs, VHLO_DIALECT_VHLO, VHLO_ATTR_ARRAY))
        return NULL;
    return main_arg_attrs(b, arg_attrs);
}
