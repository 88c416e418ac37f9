/* A contraction names an element of each operand for (batch, k, m) and (batch, k, n), and one of
 * the result for (batch, m, n). The op's own arithmetic must say the same. */
#include "compiler/plan/verify_contract.h"

#include "compiler/plan/verify_failed.h"
#include "compiler/plan/verify_sample.h"

static int64_t count_of(const view_factor *f, int n) {
    int64_t count = 1;
    for (int i = 0; i < n; i++)
        count *= f[i].size;
    return count;
}

static int64_t operand_element(const contract_operand *o, int64_t batch, int64_t k, int64_t x) {
    return o->offset + sample_offset(o->batch, o->n_batch, batch) + sample_offset(o->k, o->n_k, k) +
           sample_offset(o->x, o->n_x, x);
}

static vtrn_status wrong(const plan *p, const kernel *k, const char *operand, int64_t is,
                         int64_t wanted) {
    return verify_failed(p, k, "element %lld of the %s is read where the operation reads %lld",
                         (long long)is, operand, (long long)wanted);
}

/* --- dot_general --------------------------------------------------------------------------------
 */

static bool contains(graph_ints list, int64_t v) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == v)
            return true;
    return false;
}

/* Row-major index over the listed dims -> their parts of `at`. */
static void unravel_dims(const graph_type *t, const int64_t *dims, int64_t n, int64_t linear,
                         int64_t *at) {
    for (int64_t i = n - 1; i >= 0; i--) {
        at[dims[i]] = linear % t->dims[dims[i]];
        linear /= t->dims[dims[i]];
    }
}

static int64_t dot_element(const graph_type *t, const view *v, graph_ints batch_dims,
                           graph_ints contract_dims, const int64_t *index) {
    int64_t at[GRAPH_MAX_RANK] = {0}, rest[GRAPH_MAX_RANK], n_rest = 0;
    for (int64_t d = 0; d < t->rank; d++)
        if (!contains(batch_dims, d) && !contains(contract_dims, d))
            rest[n_rest++] = d;
    unravel_dims(t, batch_dims.v, batch_dims.n, index[0], at);
    unravel_dims(t, contract_dims.v, contract_dims.n, index[1], at);
    unravel_dims(t, rest, n_rest, index[2], at);
    return sample_element(v, sample_ravel(t, at));
}

static vtrn_status check_dot(const plan *p, const graph *g, const kernel *kernel_at,
                             const contract_spec *s, const int64_t *index) {
    const graph_op *op = s->origin.op;
    const graph_attrs *at = &op->attrs;
    const graph_type *lhs = &g->types[op->operands[0]], *rhs = &g->types[op->operands[1]];
    const contract_operand *of_lhs = s->origin.is_lhs_moving ? &s->b : &s->a;
    const contract_operand *of_rhs = s->origin.is_lhs_moving ? &s->a : &s->b;
    int64_t m_of_lhs = s->origin.is_lhs_moving ? index[3] : index[2];
    int64_t n_of_rhs = s->origin.is_lhs_moving ? index[2] : index[3];
    int64_t lhs_index[] = {index[0], index[1], m_of_lhs},
            rhs_index[] = {index[0], index[1], n_of_rhs};
    int64_t is = operand_element(of_lhs, index[0], index[1], m_of_lhs);
    int64_t wanted =
        dot_element(lhs, &s->origin.lhs, at->dot.lhs_batch, at->dot.lhs_contract, lhs_index);
    if (is != wanted)
        return wrong(p, kernel_at, "left operand", is, wanted);
    is = operand_element(of_rhs, index[0], index[1], n_of_rhs);
    wanted = dot_element(rhs, &s->origin.rhs, at->dot.rhs_batch, at->dot.rhs_contract, rhs_index);
    return is == wanted ? NULL : wrong(p, kernel_at, "right operand", is, wanted);
}

/* --- convolution --------------------------------------------------------------------------------
 */

/* Element of a dense tensor -> index. */
static bool unravel_dense(const graph_type *t, int64_t element, int64_t *at) {
    if (element < 0 || element >= graph_type_count(t))
        return false;
    sample_unravel(t, element, at);
    return true;
}

/* From the elements of result and weights, the element of the padded left operand. */
static int64_t conv_lhs_element(const contract_spec *s, const graph_type *rhs,
                                const graph_type *out, const int64_t *out_at,
                                const int64_t *rhs_at) {
    const graph_attrs *c = &s->origin.op->attrs;
    const graph_type *lhs = &s->origin.lhs_type;
    int64_t at[GRAPH_MAX_RANK] = {0};
    int64_t feature = out_at[c->conv.out_feature_dim];
    int64_t n_features = out->dims[c->conv.out_feature_dim];
    int64_t group = feature / (n_features / c->conv.feature_groups);
    int64_t batch_group = feature / (n_features / c->conv.batch_groups);
    int64_t batch = lhs->dims[c->conv.lhs_batch_dim] / c->conv.batch_groups;
    at[c->conv.lhs_batch_dim] = batch_group * batch + out_at[c->conv.out_batch_dim];
    at[c->conv.lhs_feature_dim] =
        group * rhs->dims[c->conv.rhs_in_dim] + rhs_at[c->conv.rhs_in_dim];
    for (int64_t i = 0; i < c->conv.lhs_spatial.n; i++) {
        int64_t rd = c->conv.rhs_spatial.v[i], tap = rhs_at[rd];
        if (c->conv.reversal.n > i && c->conv.reversal.v[i])
            tap = rhs->dims[rd] - 1 - tap;
        at[c->conv.lhs_spatial.v[i]] = out_at[c->conv.out_spatial.v[i]] * c->conv.stride.v[i] +
                                       tap * c->conv.rhs_dilation.v[i];
    }
    return sample_element(&s->origin.lhs, sample_ravel(lhs, at));
}

static vtrn_status check_conv(const plan *p, const graph *g, const kernel *kernel_at,
                              const contract_spec *s, const int64_t *index) {
    const graph_op *op = s->origin.op;
    const graph_type *rhs = &g->types[op->operands[1]], *out = &g->types[op->results[0]];
    const contract_operand *patches = s->origin.is_lhs_moving ? &s->b : &s->a;
    const contract_operand *weights = s->origin.is_lhs_moving ? &s->a : &s->b;
    int64_t position = s->origin.is_lhs_moving ? index[3] : index[2];
    int64_t feature = s->origin.is_lhs_moving ? index[2] : index[3];
    int64_t out_at[GRAPH_MAX_RANK], rhs_at[GRAPH_MAX_RANK];
    const contract_output *result = &s->origin.result;
    int64_t out_element = result->offset + sample_offset(result->batch, result->n_batch, index[0]) +
                          sample_offset(result->m, result->n_m, index[2]) +
                          sample_offset(result->n, result->n_n, index[3]);
    int64_t rhs_element = operand_element(weights, index[0], index[1], feature);
    if (!unravel_dense(out, out_element, out_at) ||
        !unravel_dense(rhs, rhs_element - s->origin.rhs.offset, rhs_at))
        return wrong(p, kernel_at, "weights", rhs_element, s->origin.rhs.offset);
    if (rhs_at[op->attrs.conv.rhs_out_dim] != out_at[op->attrs.conv.out_feature_dim])
        return wrong(p, kernel_at, "weights", rhs_at[op->attrs.conv.rhs_out_dim],
                     out_at[op->attrs.conv.out_feature_dim]);
    int64_t is = operand_element(patches, index[0], index[1], position);
    int64_t wanted = conv_lhs_element(s, rhs, out, out_at, rhs_at);
    return is == wanted ? NULL : wrong(p, kernel_at, "left operand", is, wanted);
}

vtrn_status verify_contraction(const plan *p, const graph *g, const kernel *k,
                               const contract_spec *s) {
    if (!s->origin.op) /* products that no single operation asks for */
        return NULL;
    int64_t n_batch = count_of(s->a.batch, s->a.n_batch), n_k = count_of(s->a.k, s->a.n_k);
    int64_t n_m = count_of(s->a.x, s->a.n_x), n_n = count_of(s->b.x, s->b.n_x);
    if (count_of(s->b.batch, s->b.n_batch) != n_batch || count_of(s->b.k, s->b.n_k) != n_k)
        return verify_failed(p, k, "its operands have %lld and %lld elements to contract",
                             (long long)n_k, (long long)count_of(s->b.k, s->b.n_k));
    for (int i = 0; i < SAMPLE_COUNT; i++) {
        int64_t linear = sample_index(n_batch * n_k, i);
        int64_t index[] = {linear / n_k, linear % n_k, sample_index(n_m, (i * 7 + 1) % 31),
                           sample_index(n_n, (i * 5 + 1) % 29)};
        VTRN_RETURN_IF_ERROR(s->origin.op->kind == GRAPH_DOT_GENERAL
                                 ? check_dot(p, g, k, s, index)
                                 : check_conv(p, g, k, s, index));
    }
    return NULL;
}
