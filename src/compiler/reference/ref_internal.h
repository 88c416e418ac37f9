/* What the files of the reference share: compute classes, scratch, reducers, strided copies. */
#ifndef VTRN_COMPILER_REFERENCE_REF_INTERNAL_H
#define VTRN_COMPILER_REFERENCE_REF_INTERNAL_H

#include "compiler/graph/graph.h"

#include <complex.h>
#include <stdlib.h>
#include <string.h>

#ifndef CMPLX /* glibc keeps it from clang, which has the builtin */
#define CMPLX(re, im) __builtin_complex((double)(re), (double)(im))
#endif

/* The host type that a data type computes in. Narrow floats compute in float, and C64 in double
 * complex; the result is rounded to the data type after each op. PRED computes in uint64_t. */
typedef enum ref_class {
    REF_F32,  /* float */
    REF_F64,  /* double */
    REF_I64,  /* int64_t */
    REF_U64,  /* uint64_t */
    REF_C128, /* double complex */
} ref_class;

enum { REF_BLOCK = 512, REF_MAX_CLASS_BYTES = 16 };

typedef struct ref_call {
    const graph *g;
    const graph_op *op;
    const void *const *in;
    void *const *out;
    arena scratch; /* freed when the op is done */
    /* Values of enclosing regions, one element each, by value; NULL where not known. NULL in
     * reference_op: then only constants of the graph are known. */
    const void *(*captured)(const void *captured_env, graph_value v);
    const void *captured_env;
} ref_call;

typedef vtrn_status (*ref_fn)(ref_call *c);

static inline const graph_type *ref_in_type(const ref_call *c, uint32_t i) {
    return &c->g->types[c->op->operands[i]];
}

static inline const graph_type *ref_out_type(const ref_call *c, uint32_t i) {
    return &c->g->types[c->op->results[i]];
}

int64_t ref_count(const graph_type *t); /* elements; 0 for a token */
/* Row-major strides in elements. */
void ref_strides(const graph_type *t, int64_t strides[GRAPH_MAX_RANK]);

ref_class ref_class_of(vtrn_dtype t);
size_t ref_class_size(ref_class c); /* bytes */
/* n elements of type t to the class of t, and back: floats round to nearest even, integers wrap,
 * PRED is != 0. */
void ref_load(vtrn_dtype t, const void *src, void *dst, int64_t n);
void ref_store(vtrn_dtype t, const void *src, void *dst, int64_t n);
/* The whole of an operand in class c (any class that can hold it), in scratch. */
vtrn_status ref_load_all(ref_call *c, uint32_t operand_i, ref_class cls, void **out);
/* Element i of an integer buffer; unsigned values above INT64_MAX give INT64_MAX. */
int64_t ref_index_at(vtrn_dtype t, const void *src, int64_t i);

/* Scratch of n elements of size bytes. */
vtrn_status ref_scratch(ref_call *c, int64_t n, size_t size, void **out);
vtrn_status ref_unimplemented(const graph_op *op, const char *why);
vtrn_status ref_malformed(const graph_op *op, const char *rule);

/* One unary or binary op on numbers of type t, in its class. False: the class has no such op. */
bool ref_unary(graph_kind kind, vtrn_dtype t, const void *a, void *out, int64_t n);
bool ref_binary(graph_kind kind, vtrn_dtype t, const void *a, const void *b, void *out, int64_t n);
int ref_width(vtrn_dtype t);                  /* bits of an integer type, 1 for PRED */
graph_kind ref_reducer_kind(graph_reducer r); /* GRAPH_UNKNOWN for GENERIC and REPLACE */

bool ref_float_unary(graph_kind kind, ref_class cls, const void *a, void *out, int64_t n);
bool ref_float_binary(graph_kind kind, ref_class cls, const void *a, const void *b, void *out,
                      int64_t n);
bool ref_complex_unary(graph_kind kind, const double complex *a, double complex *out, int64_t n);
bool ref_complex_binary(graph_kind kind, const double complex *a, const double complex *b,
                        double complex *out, int64_t n);

/* Elementwise ops, compare, select, clamp and convert over n elements. With is_lanes each operand
 * has n elements (a scalar region evaluated for n lanes at once); without, an operand of one
 * element is broadcast. */
bool ref_is_elementwise(graph_kind kind);
vtrn_status ref_elementwise(const graph *g, const graph_op *op, const void *const *in,
                            void *const *out, int64_t n, bool is_lanes);

/* The elements that a copy is of. */
typedef struct ref_box {
    const int64_t *dims;
    int rank;
    size_t size; /* bytes an element */
} ref_box;

static inline ref_box ref_box_of(const graph_type *t) {
    return (ref_box){t->dims, t->rank, dtype_size(t->dtype)};
}

/* dst[i...] = src[i...] for i in box; strides in bytes, any sign, src strides may be 0. */
void ref_copy(void *dst, const int64_t *dst_stride, const void *src, const int64_t *src_stride,
              ref_box box);
void ref_fill(void *dst, const void *element, int64_t n, size_t size);

/* A scalar region made ready to be evaluated for many lanes at once. */
typedef struct ref_region ref_region;
vtrn_status ref_region_open(ref_call *c, uint32_t region_i, int64_t max_lanes, ref_region **out);
/* args[n_args][n], results[n_results][n] in the types of the region; no overlap; n <= max_lanes. */
vtrn_status ref_region_eval(ref_region *r, const void *const *args, void *const *results,
                            int64_t n);

/* A reduction region on n_inputs accumulators: one recognised binary op, or any scalar region. */
typedef struct ref_reducer {
    ref_region *region; /* NULL when recognised */
    graph_kind kind;
    vtrn_dtype dtype; /* of the accumulators, when recognised */
    uint32_t n_inputs;
    void *tmp[64]; /* [n_inputs][max_lanes] */
    size_t size[64];
} ref_reducer;
/* dtype: type of the accumulators of a recognised reducer. REPLACE is not for this. */
vtrn_status ref_reducer_open(ref_call *c, uint32_t region_i, uint32_t n_inputs, vtrn_dtype dtype,
                             int64_t max_lanes, ref_reducer *out);
/* acc[i][lane] = f(acc, x)[i][lane] */
vtrn_status ref_reducer_apply(ref_reducer *r, void *const *acc, const void *const *x, int64_t n);

/* Steps idx through dims[rank] in row-major order; false after the last. */
static inline bool ref_next(int64_t *idx, const int64_t *dims, int rank) {
    for (int d = rank - 1; d >= 0; d--) {
        if (++idx[d] < dims[d])
            return true;
        idx[d] = 0;
    }
    return false;
}

/* reference_op with captures; takes c->scratch and frees it. */
vtrn_status ref_run(ref_call *c);

/* The ops, one function each; see reference.c for the table. */
vtrn_status ref_bitcast_convert(ref_call *c);
vtrn_status ref_unpack(ref_call *c);
vtrn_status ref_pack(ref_call *c);
vtrn_status ref_constant(ref_call *c);
vtrn_status ref_iota(ref_call *c);
vtrn_status ref_broadcast_in_dim(ref_call *c);
vtrn_status ref_identity(ref_call *c);
vtrn_status ref_transpose(ref_call *c);
vtrn_status ref_reverse(ref_call *c);
vtrn_status ref_slice(ref_call *c);
vtrn_status ref_dynamic_slice(ref_call *c);
vtrn_status ref_dynamic_update_slice(ref_call *c);
vtrn_status ref_pad(ref_call *c);
vtrn_status ref_concatenate(ref_call *c);
vtrn_status ref_gather(ref_call *c);
vtrn_status ref_scatter(ref_call *c);
vtrn_status ref_dot_general(ref_call *c);
vtrn_status ref_convolution(ref_call *c);
vtrn_status ref_reduce(ref_call *c);
vtrn_status ref_reduce_window(ref_call *c);
vtrn_status ref_select_and_scatter(ref_call *c);
vtrn_status ref_map(ref_call *c);
vtrn_status ref_sort(ref_call *c);
vtrn_status ref_rng_bit_generator(ref_call *c);
vtrn_status ref_fft(ref_call *c);
bool ref_top_k_fits(const graph *g, const graph_op *op); /* whether the types are ApproxTopK's */
vtrn_status ref_top_k(ref_call *c);
bool ref_resize_fits(const graph *g, const graph_op *op);
vtrn_status ref_resize(ref_call *c);
vtrn_status ref_batch_norm_training(ref_call *c);
vtrn_status ref_batch_norm_inference(ref_call *c);
vtrn_status ref_batch_norm_grad(ref_call *c);

/* dynamic_update_slice when the result already holds the operand. */
vtrn_status ref_update_in_place(ref_call *c);

#endif
