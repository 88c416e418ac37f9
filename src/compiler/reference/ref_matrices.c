/* The loop over the matrices of operands, and the signatures of what works on them. */
#include "compiler/reference/ref_matrices.h"

#include "compiler/reference/ref_block.h"

#include <math.h>

enum { N_LETTERS = 'z' - 'a' + 1 };

static vtrn_dtype real_of(vtrn_dtype t) {
    return t == VTRN_DTYPE_C64 ? VTRN_DTYPE_FP32 : t == VTRN_DTYPE_C128 ? VTRN_DTYPE_FP64 : t;
}

static vtrn_dtype complex_of(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP64 || t == VTRN_DTYPE_C128 ? VTRN_DTYPE_C128 : VTRN_DTYPE_C64;
}

static bool is_complex(vtrn_dtype t) {
    return t == VTRN_DTYPE_C64 || t == VTRN_DTYPE_C128;
}

static vtrn_dtype dtype_of_letter(char letter, vtrn_dtype scalar) {
    switch (letter) {
    case 'r':
        return real_of(scalar);
    case 'c':
        return complex_of(scalar);
    case 'i':
        return VTRN_DTYPE_INT32;
    default:
        return scalar;
    }
}

/* The next word of a signature without its type; *type is '>' for the arrow, 0 at the end. */
static const char *next_word(const char *at, char *type, int *rank) {
    while (*at == ' ')
        at++;
    *rank = 0;
    *type = *at ? *at : 0;
    if (*type == '-')
        *type = '>';
    if (!*at)
        return at;
    const char *letters = at + 1;
    while (letters[*rank] && letters[*rank] != ' ')
        ++*rank;
    return letters;
}

/* An operation as its signature reads it. */
typedef struct shape {
    int n_batch_dims;
    int64_t n_matrices;
    char types[MATRICES_MAX_VALUES * 2]; /* operands, then results */
    int64_t rows[MATRICES_MAX_VALUES * 2], columns[MATRICES_MAX_VALUES * 2];
} shape;

static bool bind_sizes(const graph_type *t, const char *letters, int rank, int64_t *size) {
    for (int d = 0; d < rank; d++) {
        int64_t *s = &size[letters[d] - 'a'], n = t->dims[t->rank - rank + d];
        if (*s >= 0 && *s != n)
            return false;
        *s = n;
    }
    return true;
}

static bool match(const matrices_routine *r, const graph *g, const graph_op *op, shape *out,
                  int64_t size[N_LETTERS]) {
    const graph_type *first = op->n_operands ? &g->types[op->operands[0]] : NULL;
    if (!first || op->n_operands > MATRICES_MAX_VALUES || op->n_results > MATRICES_MAX_VALUES ||
        !op->n_results || dtype_is_int(first->dtype) || first->dtype == VTRN_DTYPE_PRED)
        return false;
    for (int i = 0; i < N_LETTERS; i++)
        size[i] = -1;
    const char *at = r->signature;
    uint32_t value_i = 0, n_values = op->n_operands + op->n_results;
    bool is_result = false;
    for (char type; value_i < n_values;) {
        int rank;
        const char *letters = next_word(at, &type, &rank);
        at = letters + rank;
        if (type == '>' && value_i == op->n_operands && !is_result) {
            is_result = true;
            continue;
        }
        if (!type || type == '>' || (value_i >= op->n_operands) != is_result)
            return false;
        const graph_type *t =
            &g->types[is_result ? op->results[value_i - op->n_operands] : op->operands[value_i]];
        if (!value_i)
            out->n_batch_dims = t->rank - rank;
        if (out->n_batch_dims < 0 || t->rank != out->n_batch_dims + rank || t->is_token ||
            t->dtype != dtype_of_letter(type, first->dtype) || !bind_sizes(t, letters, rank, size))
            return false;
        for (int d = 0; d < out->n_batch_dims; d++)
            if (t->dims[d] != first->dims[d])
                return false;
        out->types[value_i] = type;
        out->rows[value_i] = rank ? t->dims[t->rank - rank] : 1;
        out->columns[value_i] = rank > 1 ? t->dims[t->rank - 1] : 1;
        value_i++;
    }
    char rest;
    int rank;
    next_word(at, &rest, &rank);
    if (rest && !r->has_optional_results)
        return false;
    out->n_matrices = 1;
    for (int d = 0; d < out->n_batch_dims; d++)
        out->n_matrices *= first->dims[d];
    return true;
}

static bool fit(const matrices_routine *r, const graph *g, const graph_op *op, shape *s,
                matrices_call *c) {
    *c = (matrices_call){.op = op, .n_results = op->n_results};
    if (!match(r, g, op, s, c->size))
        return false;
    c->is_complex = is_complex(g->types[op->operands[0]].dtype);
    c->la = c->is_complex ? CPU_TABLE(linalg_complex) : CPU_TABLE(linalg_real);
    return !r->fits || r->fits(c);
}

bool matrices_fit(const matrices_routine *r, const graph *g, const graph_op *op) {
    shape s;
    matrices_call c;
    return fit(r, g, op, &s, &c);
}

static uint64_t largest_operand(const shape *s, const graph_op *op) {
    uint64_t largest = 0;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        uint64_t n = (uint64_t)s->rows[i] * (uint64_t)s->columns[i];
        largest = n > largest ? n : largest;
    }
    return largest;
}

uint64_t matrices_flops(const matrices_routine *r, const graph *g, const graph_op *op) {
    shape s;
    matrices_call c;
    if (!fit(r, g, op, &s, &c))
        return 0;
    int64_t n = s.rows[0] < s.columns[0] ? s.rows[0] : s.columns[0];
    double flops = r->flops * (double)s.n_matrices * (double)largest_operand(&s, op) * (double)n;
    return (uint64_t)(c.is_complex ? 4 * flops : flops);
}

static size_t element_size(const matrices_call *c, char type) {
    return type == 's' ? c->la->scalar_size : type == 'c' ? sizeof(double complex) : 8;
}

enum { TILE = 16 }; /* rows and columns that are moved together, while their lines are cached */

/* Defines a function that moves src[rows][columns] to dst[columns][rows]. */
#define DEFINE_TURN(name, from_type, to_type)                                                      \
    static void name(const from_type *src, int64_t rows, int64_t columns, to_type *dst) {          \
        for (int64_t i0 = 0; i0 < rows; i0 += TILE)                                                \
            for (int64_t j0 = 0; j0 < columns; j0 += TILE)                                         \
                for (int64_t j = j0; j < columns && j < j0 + TILE; j++)                            \
                    for (int64_t i = i0; i < rows && i < i0 + TILE; i++)                           \
                        dst[j * rows + i] = (to_type)src[i * columns + j];                         \
    }
DEFINE_TURN(turn_widening, float, double)
DEFINE_TURN(turn_narrowing, double, float)
DEFINE_TURN(turn_64, uint64_t, uint64_t)
DEFINE_TURN(turn_complex, double complex, double complex)

/* Whether elements lie in memory as those of their class do. */
static bool is_of_class(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_FP64 || t == VTRN_DTYPE_C128;
}

/* Row-major elements of a data type to column-major ones; tmp holds as many. */
static void load_matrix(vtrn_dtype t, const void *src, int64_t rows, int64_t columns, void *tmp,
                        void *dst) {
    const ref_class cls = ref_class_of(t);
    if (!is_of_class(t)) {
        ref_load(t, src, tmp, rows * columns);
        src = tmp;
    }
    if (cls == REF_C128)
        turn_complex(src, rows, columns, dst);
    else if (cls == REF_F32)
        turn_widening(src, rows, columns, dst);
    else
        turn_64(src, rows, columns, dst);
}

static void store_matrix(vtrn_dtype t, const void *src, int64_t rows, int64_t columns, void *tmp,
                         void *dst) {
    const ref_class cls = ref_class_of(t);
    void *to = is_of_class(t) ? dst : tmp;
    if (cls == REF_C128)
        turn_complex(src, columns, rows, to);
    else if (cls == REF_F32)
        turn_narrowing(src, columns, rows, to);
    else
        turn_64(src, columns, rows, to);
    if (to == tmp)
        ref_store(t, tmp, dst, rows * columns);
}

static bool is_finite(const void *numbers, size_t n_bytes) {
    const double *x = numbers;
    for (size_t i = 0; i < n_bytes / sizeof *x; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static void fill_nan(void *numbers, size_t n_bytes) {
    double *x = numbers;
    for (size_t i = 0; i < n_bytes / sizeof *x; i++)
        x[i] = NAN;
}

/* The next n_bytes of a block, or NULL for no block. *at: how many it has so far. */
static void *part_of(char *block, size_t *at, size_t n_bytes) {
    void *part = block ? block + *at : NULL;
    *at += (n_bytes + 63) / 64 * 64;
    return part;
}

/* Gives matrices and scratch their places in the block. Returns the block's bytes. */
static size_t place(const matrices_routine *r, const shape *s, char *block, matrices_call *c,
                    void **tmp) {
    const uint32_t n_values = c->op->n_operands + c->op->n_results;
    const int64_t m = s->rows[0], n = s->columns[0];
    size_t at = 0, largest = 0;
    for (uint32_t i = 0; i < n_values; i++) {
        const size_t count = (size_t)(s->rows[i] * s->columns[i]);
        void **p = i < c->op->n_operands ? &c->in[i] : &c->out[i - c->op->n_operands];
        *p = part_of(block, &at, count * element_size(c, s->types[i]));
        largest = count > largest ? count : largest;
    }
    *tmp = part_of(block, &at, largest * REF_MAX_CLASS_BYTES);
    c->work = part_of(block, &at, (size_t)linalg_work(m, n) * c->la->scalar_size);
    c->work_matrices =
        part_of(block, &at, (size_t)(r->n_work_matrices * m * n) * c->la->scalar_size);
    return at;
}

static void run_one(const matrices_routine *r, const ref_call *ref, const shape *s,
                    int64_t matrix_i, matrices_call *c, void *tmp) {
    bool is_good = true;
    for (uint32_t i = 0; i < c->op->n_operands; i++) {
        const vtrn_dtype t = ref_in_type(ref, i)->dtype;
        const int64_t n = s->rows[i] * s->columns[i];
        const char *src = (const char *)ref->in[i] + matrix_i * n * (int64_t)dtype_size(t);
        load_matrix(t, src, s->rows[i], s->columns[i], tmp, c->in[i]);
        if (!r->takes_any && s->types[i] != 'i')
            is_good &= is_finite(c->in[i], (size_t)n * element_size(c, s->types[i]));
    }
    for (uint32_t i = 0; i < c->n_results; i++) {
        const uint32_t k = c->op->n_operands + i;
        memset(c->out[i], 0, (size_t)(s->rows[k] * s->columns[k]) * element_size(c, s->types[k]));
    }
    is_good = is_good && r->run(c);
    for (uint32_t i = 0; i < c->n_results; i++) {
        const uint32_t k = c->op->n_operands + i;
        const vtrn_dtype t = ref_out_type(ref, i)->dtype;
        const int64_t n = s->rows[k] * s->columns[k];
        if (!is_good && s->types[k] != 'i')
            fill_nan(c->out[i], (size_t)n * element_size(c, s->types[k]));
        store_matrix(t, c->out[i], s->rows[k], s->columns[k], tmp,
                     (char *)ref->out[i] + matrix_i * n * (int64_t)dtype_size(t));
    }
}

vtrn_status matrices_run(const matrices_routine *r, ref_call *ref) {
    shape s;
    matrices_call c;
    void *tmp;
    if (!fit(r, ref->g, ref->op, &s, &c))
        return ref_malformed(ref->op, "its types or attributes are not those of the operation");
    const size_t n_bytes = place(r, &s, NULL, &c, &tmp);
    char *block = ref_block_take(n_bytes);
    if (!block)
        return VTRN_OUT_OF_MEMORY(n_bytes);
    place(r, &s, block, &c, &tmp);
    memset(c.work, 0, (size_t)(block + n_bytes - (char *)c.work));
    for (int64_t i = 0; i < s.n_matrices; i++)
        run_one(r, ref, &s, i, &c, tmp);
    ref_block_give(block);
    return NULL;
}

int64_t matrices_attr(const graph_op *op, const char *name, int64_t otherwise) {
    const size_t len = strlen(name);
    const char *config = op->attrs.custom_call.backend_config;
    for (const char *at = config; at && *at; at++) {
        bool is_start = at == config || at[-1] == ' ';
        if (is_start && !strncmp(at, name, len) && at[len] == '=')
            return strtoll(at + len + 1, NULL, 10);
    }
    return otherwise;
}
