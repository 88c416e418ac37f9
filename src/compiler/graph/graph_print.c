/* Graphs as StableHLO-like text. */
#include "compiler/graph/graph.h"

#include <stdio.h>

enum { MAX_BYTES_SHOWN = 16 };

typedef struct printer {
    const graph *g;
    FILE *out;
    int indent;
} printer;

static void print_type(printer *p, const graph_type *t) {
    static const char *const NAMES[] = {
        "i1",           "i8",           "i16",      "i32",        "i64",        "ui8",
        "ui16",         "ui32",         "ui64",     "f8E4M3",     "f8E4M3FN",   "f8E5M2",
        "f8E3M4",       "bf16",         "f16",      "tf32",       "f32",        "f64",
        "complex<f32>", "complex<f64>", "i2",       "i4",         "ui2",        "ui4",
        "f4E2M1FN",     "f6E2M3FN",     "f6E3M2FN", "f8E4M3FNUZ", "f8E5M2FNUZ", "f8E4M3B11FNUZ",
        "f8E8M0FNU",    "f8E4M3FNx4",   "f8E5M2x4", "f4E2M1FNx4",
    };
    _Static_assert(sizeof NAMES / sizeof *NAMES == VTRN_DTYPE_COUNT, "a name for each type");
    if (t->is_token) {
        fputs("!token", p->out);
        return;
    }
    fputs("tensor<", p->out);
    for (int i = 0; i < t->rank; i++)
        fprintf(p->out, "%lldx", (long long)t->dims[i]);
    fprintf(p->out, "%s>", NAMES[t->dtype]);
}

static void print_ints(printer *p, const char *name, graph_ints ints) {
    fprintf(p->out, " %s=[", name);
    for (int64_t i = 0; i < ints.n; i++)
        fprintf(p->out, "%s%lld", i ? "," : "", (long long)ints.v[i]);
    fputc(']', p->out);
}

static void print_int(printer *p, const char *name, int64_t v) {
    fprintf(p->out, " %s=%lld", name, (long long)v);
}

static void print_constant(printer *p, const graph_op *op) {
    const graph_type *t = &p->g->types[op->results[0]];
    uint64_t bytes = graph_type_bytes(t);
    if (op->attrs.constant.is_splat)
        bytes /= (uint64_t)graph_type_count(t);
    const unsigned char *data = op->attrs.constant.data;
    fprintf(p->out, " %s<0x", op->attrs.constant.is_splat ? "splat" : "dense");
    for (uint64_t i = 0; i < bytes && i < MAX_BYTES_SHOWN; i++)
        fprintf(p->out, "%02x", data[i]);
    fputs(bytes > MAX_BYTES_SHOWN ? "...>" : ">", p->out);
}

static void print_conv(printer *p, const graph_op *op) {
    const graph_attrs *a = &op->attrs;
    print_int(p, "lhs_batch", a->conv.lhs_batch_dim);
    print_int(p, "lhs_feature", a->conv.lhs_feature_dim);
    print_ints(p, "lhs_spatial", a->conv.lhs_spatial);
    print_int(p, "rhs_in", a->conv.rhs_in_dim);
    print_int(p, "rhs_out", a->conv.rhs_out_dim);
    print_ints(p, "rhs_spatial", a->conv.rhs_spatial);
    print_int(p, "out_batch", a->conv.out_batch_dim);
    print_int(p, "out_feature", a->conv.out_feature_dim);
    print_ints(p, "out_spatial", a->conv.out_spatial);
    print_ints(p, "stride", a->conv.stride);
    print_ints(p, "pad_low", a->conv.pad_low);
    print_ints(p, "pad_high", a->conv.pad_high);
    print_ints(p, "lhs_dilation", a->conv.lhs_dilation);
    print_ints(p, "rhs_dilation", a->conv.rhs_dilation);
    print_ints(p, "reversal", a->conv.reversal);
    print_int(p, "feature_groups", a->conv.feature_groups);
    print_int(p, "batch_groups", a->conv.batch_groups);
    print_int(p, "precision", a->conv.precision);
}

static void print_none(printer *p, const graph_op *op) {
    (void)p;
    (void)op;
}

static void print_dims(printer *p, const graph_op *op) {
    print_ints(p, "dims", op->attrs.dims.dims);
}

static void print_compare(printer *p, const graph_op *op) {
    static const char *const DIRECTIONS[] = {"EQ", "NE", "GE", "GT", "LE", "LT"};
    static const char *const TYPES[] = {"NOTYPE", "FLOAT", "TOTALORDER", "SIGNED", "UNSIGNED"};
    fprintf(p->out, " %s %s", DIRECTIONS[op->attrs.compare.direction],
            TYPES[op->attrs.compare.type]);
}

static void print_reduce_precision(printer *p, const graph_op *op) {
    print_int(p, "exponent_bits", op->attrs.reduce_precision.exponent_bits);
    print_int(p, "mantissa_bits", op->attrs.reduce_precision.mantissa_bits);
}

static void print_slice(printer *p, const graph_op *op) {
    print_ints(p, "start", op->attrs.slice.start);
    print_ints(p, "limit", op->attrs.slice.limit);
    print_ints(p, "stride", op->attrs.slice.stride);
}

static void print_pad(printer *p, const graph_op *op) {
    print_ints(p, "low", op->attrs.pad.low);
    print_ints(p, "high", op->attrs.pad.high);
    print_ints(p, "interior", op->attrs.pad.interior);
}

static void print_dot(printer *p, const graph_op *op) {
    print_ints(p, "lhs_batch", op->attrs.dot.lhs_batch);
    print_ints(p, "rhs_batch", op->attrs.dot.rhs_batch);
    print_ints(p, "lhs_contract", op->attrs.dot.lhs_contract);
    print_ints(p, "rhs_contract", op->attrs.dot.rhs_contract);
    print_int(p, "precision", op->attrs.dot.precision);
}

static void print_window(printer *p, const graph_op *op) {
    print_ints(p, "window", op->attrs.window.window);
    print_ints(p, "stride", op->attrs.window.stride);
    print_ints(p, "base_dilation", op->attrs.window.base_dilation);
    print_ints(p, "window_dilation", op->attrs.window.window_dilation);
    print_ints(p, "pad_low", op->attrs.window.pad_low);
    print_ints(p, "pad_high", op->attrs.window.pad_high);
    if (op->kind == GRAPH_SELECT_AND_SCATTER)
        print_int(p, "select", op->select);
}

static void print_gather(printer *p, const graph_op *op) {
    print_ints(p, "offset_dims", op->attrs.gather.offset_dims);
    print_ints(p, "collapsed", op->attrs.gather.collapsed);
    print_ints(p, "operand_batching", op->attrs.gather.operand_batching);
    print_ints(p, "indices_batching", op->attrs.gather.indices_batching);
    print_ints(p, "start_index_map", op->attrs.gather.start_index_map);
    print_ints(p, "slice_sizes", op->attrs.gather.slice_sizes);
    print_int(p, "index_vector_dim", op->attrs.gather.index_vector_dim);
    print_int(p, "is_sorted", op->attrs.gather.is_sorted);
}

static void print_scatter(printer *p, const graph_op *op) {
    print_ints(p, "update_window", op->attrs.scatter.update_window);
    print_ints(p, "inserted_window", op->attrs.scatter.inserted_window);
    print_ints(p, "input_batching", op->attrs.scatter.input_batching);
    print_ints(p, "indices_batching", op->attrs.scatter.indices_batching);
    print_ints(p, "scatter_dims_to_operand", op->attrs.scatter.scatter_dims_to_operand);
    print_int(p, "index_vector_dim", op->attrs.scatter.index_vector_dim);
    print_int(p, "is_sorted", op->attrs.scatter.is_sorted);
    print_int(p, "is_unique", op->attrs.scatter.is_unique);
}

static void print_sort(printer *p, const graph_op *op) {
    print_int(p, "dimension", op->attrs.sort.dimension);
    print_int(p, "is_stable", op->attrs.sort.is_stable);
}

static void print_rng(printer *p, const graph_op *op) {
    print_int(p, "algorithm", op->attrs.rng.algorithm);
}

static void print_fft(printer *p, const graph_op *op) {
    print_int(p, "type", op->attrs.fft.type);
    print_ints(p, "length", op->attrs.fft.length);
}

static void print_flag(printer *p, const graph_op *op) {
    print_int(p, "flag", op->attrs.flag.value);
}

static void print_triangular(printer *p, const graph_op *op) {
    print_int(p, "left_side", op->attrs.triangular.left_side);
    print_int(p, "lower", op->attrs.triangular.lower);
    print_int(p, "unit_diagonal", op->attrs.triangular.unit_diagonal);
    print_int(p, "transpose_a", op->attrs.triangular.transpose_a);
}

static void print_batch_norm(printer *p, const graph_op *op) {
    fprintf(p->out, " epsilon=%g", (double)op->attrs.batch_norm.epsilon);
    print_int(p, "feature_index", op->attrs.batch_norm.feature_index);
}

static void print_custom_call(printer *p, const graph_op *op) {
    fprintf(p->out, " @%s", op->name);
    print_int(p, "has_side_effect", op->attrs.custom_call.has_side_effect);
}

static void print_collective(printer *p, const graph_op *op) {
    print_int(p, "channel_id", op->attrs.collective.channel_id);
    print_int(p, "dim", op->attrs.collective.dim);
    print_int(p, "concat_dim", op->attrs.collective.dim2);
    print_int(p, "split_count", op->attrs.collective.split_count);
    print_int(p, "use_global_ids", op->attrs.collective.use_global_ids);
    int64_t n = op->attrs.collective.n_groups * op->attrs.collective.group_size;
    print_int(p, "n_groups", op->attrs.collective.n_groups);
    print_ints(p, "groups", (graph_ints){n, op->attrs.collective.groups});
}

/* "[4*2+1*2, ]": of each dimension the axes that cut it, as stride*size. */
static void print_sharding(printer *p, const graph_sharding *s) {
    fputc('[', p->out);
    for (int d = 0; d < s->rank; d++) {
        fputs(d ? ", " : "", p->out);
        for (uint32_t i = s->first[d]; i < s->first[d + 1]; i++)
            fprintf(p->out, "%s%lld*%lld", i > s->first[d] ? "+" : "", (long long)s->axes[i].stride,
                    (long long)s->axes[i].size);
    }
    fputc(']', p->out);
}

static void print_shardings(printer *p, const graph_op *op) {
    for (uint32_t i = 0; op->attrs.shardings.in && i < op->n_operands; i++) {
        fputs(i ? " " : " in=", p->out);
        print_sharding(p, op->attrs.shardings.in[i]);
    }
    for (uint32_t i = 0; i < op->n_results; i++) {
        fputs(i ? " " : " out=", p->out);
        print_sharding(p, op->attrs.shardings.out[i]);
    }
}

/* The printer of each kind, by the member of graph_attrs it uses. */
static void (*const PRINTERS[])(printer *, const graph_op *) = {
#define G(e, name, attrs) print_##attrs,
#include "compiler/graph/graph_ops.def"
#undef G
};

static void print_region(printer *p, const graph_region *r);

static void print_op(printer *p, const graph_op *op) {
    static const char *const REDUCERS[] = {"generic", "add", "multiply", "maximum", "minimum",
                                           "and",     "or",  "xor",      "replace"};
    fprintf(p->out, "%*s", p->indent * 2, "");
    for (uint32_t i = 0; i < op->n_results; i++)
        fprintf(p->out, "%s%%%u", i ? ", " : "", op->results[i]);
    fprintf(p->out, "%s%s", op->n_results ? " = " : "",
            op->kind == GRAPH_CUSTOM_CALL ? "stablehlo.custom_call" : op->name);
    for (uint32_t i = 0; i < op->n_operands; i++)
        fprintf(p->out, "%s%%%u", i ? ", " : " ", op->operands[i]);
    PRINTERS[op->kind](p, op);
    if (op->reducer)
        fprintf(p->out, " reducer=%s", REDUCERS[op->reducer]);
    for (uint32_t i = 0; i < op->n_results; i++) {
        fputs(i ? ", " : " : ", p->out);
        print_type(p, &p->g->types[op->results[i]]);
    }
    if (op->place[0])
        fprintf(p->out, " // %s", op->place);
    fputc('\n', p->out);
    for (uint32_t i = 0; i < op->n_regions; i++)
        print_region(p, op->regions[i]);
}

static void print_region(printer *p, const graph_region *r) {
    p->indent++;
    fprintf(p->out, "%*s^(", p->indent * 2, "");
    for (uint32_t i = 0; i < r->n_args; i++) {
        fprintf(p->out, "%s%%%u: ", i ? ", " : "", r->args[i]);
        print_type(p, &p->g->types[r->args[i]]);
    }
    fputs(")\n", p->out);
    for (uint32_t i = 0; i < r->n_ops; i++)
        print_op(p, &r->ops[i]);
    fprintf(p->out, "%*sreturn", p->indent * 2, "");
    for (uint32_t i = 0; i < r->n_results; i++)
        fprintf(p->out, "%s%%%u", i ? ", " : " ", r->results[i]);
    fputc('\n', p->out);
    p->indent--;
}

vtrn_status graph_print(const graph *g, char **out_text) {
    size_t size = 0;
    *out_text = NULL;
    printer p = {g, open_memstream(out_text, &size), 0};
    if (!p.out)
        return VTRN_OUT_OF_MEMORY(size);
    fprintf(p.out, "graph @%s partitions=%lld replicas=%lld\n", g->name, (long long)g->n_partitions,
            (long long)g->n_replicas);
    for (uint32_t i = 0; i < g->body.n_args; i++) {
        if (g->arg_alias_output[i] >= 0)
            fprintf(p.out, "  parameter %u aliases output %d\n", i, g->arg_alias_output[i]);
        if (g->arg_is_donated[i])
            fprintf(p.out, "  parameter %u is donated\n", i);
    }
    print_region(&p, &g->body);
    return fclose(p.out) == 0 ? NULL : VTRN_OUT_OF_MEMORY(size);
}
