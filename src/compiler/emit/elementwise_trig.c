/* Sine, cosine and tangent -> engine instructions, exact in the angle for every fp32.
 *
 * |x| is reduced to r = |x| - n pi/2 within pi/4 (within 1 where n is 0), as the sum p + e of two
 * fp32 where e is at most half a unit in the last place of p. Polynomials give sin r and cos r; n
 * says which of the two is the result, and its sign. No engine fuses a product with a sum: where a
 * product must be exact, the significands of its factors have at most 24 bits together, or the
 * factors are 32-bit integers on GpSimd.
 * Source: Payne and Hanek, "Radian reduction for trigonometric functions", SIGNUM Newsletter 1983;
 * Cody and Waite, "Software Manual for the Elementary Functions", 1980. */
#include "compiler/emit/elementwise_parts.h"
#include "compiler/emit/steps.h"

#include <math.h>

/* Bits of an fp32, and of trig.n. */
#define SIGN        0x80000000u
#define SIGNIFICAND 0x007fffffu
#define LEADING_ONE 0x00800000u
#define HEAD        0xfffff000u /* all but the last 12 bits of the significand */
#define IS_ODD      0x40000000u

/* What the parts of this file hand on to each other. All but x are temporaries. */
typedef struct trig {
    steps s;
    graph_kind kind;
    step_tile x;              /* the operand as fp32 */
    step_tile p, e;           /* r */
    step_tile n;              /* its two highest bits: n mod 4; of a cosine, n + 1 mod 4 */
    step_tile a, c, d, g, m;  /* scratch */
    step_tile shift, unshift; /* scratch of reduce_any() */
} trig;

/* The n_bits bits of pi/2 from bit `first` on, where bit 0 weighs 1. */
static float half_pi_bits(int first, int n_bits) {
    static const uint32_t words[] = {0xc90fdaa2, 0x2168c234, 0xc4c6628b};
    double value = 0;
    for (int i = first; i < first + n_bits; i++)
        if (words[i / 32] >> (31 - i % 32) & 1)
            value += ldexp(1, -i);
    return (float)value;
}

/* Bits that n has when |x| <= bound. */
static int quotient_bits(double bound) {
    int n_bits;
    frexp(bound * M_2_PI + 1, &n_bits);
    return n_bits;
}

/* Takes n times the first 24 bits of pi/2 from |x| in parts whose products are exact, as are the
 * differences: no part is finer than the last place of an |x| that has an n. Of what follows, one
 * exact product gives p and its rounding error, and another 24 bits complete e. */
static void reduce_bounded(trig *t, double bound) {
    enum { SIGNIFICAND_BITS = 24 };
    int part_bits = SIGNIFICAND_BITS - quotient_bits(bound);
    int n_parts = (SIGNIFICAND_BITS + part_bits - 1) / part_bits;
    int high_bits = SIGNIFICAND_BITS / n_parts;
    /* Adding this leaves no room for a fraction: an integer is left in the low bits. */
    float round = 0x1.8p23f + (t->kind == GRAPH_COSINE);
    steps *s = &t->s;
    const step_tile *magnitude = &t->a, *n = &t->c, *rest = &t->d, *product = &t->e;
    step_scalar(s, &magnitude->f, &t->x.f, STEP(ABS_MAX, 0), STEP_NONE);
    step_scalar(s, &t->n.f, &magnitude->f, STEP(MULTIPLY, (float)M_2_PI), STEP(ADD, round));
    step_scalar(s, &n->f, &t->n.f, STEP(SUBTRACT, round), STEP_NONE);
    step_scalar(s, &t->n.u, &t->n.u, STEP_BITS(SHIFT_LEFT, 30), STEP_NONE);
    for (int i = 0; i < n_parts; i++)
        step_scalar_tensor(s, &rest->f, &n->f,
                           STEP(MULTIPLY, -half_pi_bits(i * high_bits, high_bits)), VTRN_ALU_ADD,
                           i ? &rest->f : &magnitude->f);
    step_scalar(s, &product->f, &n->f, STEP(MULTIPLY, -half_pi_bits(SIGNIFICAND_BITS, part_bits)),
                STEP_NONE);
    step_tensor(s, &t->p.f, &rest->f, VTRN_ALU_ADD, &product->f);
    step_tensor(s, &rest->f, &t->p.f, VTRN_ALU_SUBTRACT, &rest->f);
    step_tensor(s, &t->e.f, &product->f, VTRN_ALU_SUBTRACT, &rest->f);
    step_scalar_tensor(
        s, &t->e.f, &n->f,
        STEP(MULTIPLY, -half_pi_bits(SIGNIFICAND_BITS + part_bits, SIGNIFICAND_BITS)), VTRN_ALU_ADD,
        &t->e.f);
}

/* An angle without a bound. With |x| = m 2^(k - 23), m of 24 bits and k from 0 to 127, |x| 2/pi is
 * m times F = 2/pi 2^(k - 23). Bits of F that weigh 4 or more do not count: m times them is a
 * multiple of 4. The next 96 bits are the words w0, w1, w2:
 *
 *   - m w0 mod 2^32 is exact on GpSimd;
 *   - m (w1 >> 8) has 48 bits. The low 32 are exact on GpSimd; taken from the rounded fp32 product,
 *     they leave the high ones nearly, so the nearest integer is them;
 *   - m times the rest is small: fp32 is enough.
 *
 * The bits of 2/pi from the one that weighs 2^24 on are a constant string; F begins at bit k of it.
 */

/* Puts w0, w1, w2 into a, p, c: the string is shifted by 64, by 32, and by less. `twice` is 2 |x|,
 * whose exponent field is 128 + k. */
static void take_two_over_pi(trig *t, const step_tile *twice) {
    static const uint32_t string[] = {0x00000051, 0x7cc1b727, 0x220a94fe, 0x13abe8fa,
                                      0x9a6ee06d, 0xb14acc9e, 0x21c820ff};
    enum { N_WORDS = 5 };
    steps *s = &t->s;
    const step_tile *word[N_WORDS] = {&t->a, &t->p, &t->c, &t->d, &t->e};
    const step_tile *is_far = &t->n, *is_odd_word = &t->unshift;
    step_scalar(s, &is_far->u, &twice->u, STEP_BITS(SHIFT_LEFT, 2),
                STEP_BITS(SHIFT_RIGHT_ARITH, 31));
    step_scalar(s, &is_odd_word->u, &twice->u, STEP_BITS(BITWISE_AND, 1u << 28), STEP_NONE);
    for (int i = 0; i < N_WORDS; i++)
        step_scalar(s, &word[i]->u, &is_far->u, STEP_BITS(BITWISE_AND, string[i] ^ string[i + 2]),
                    STEP_BITS(BITWISE_XOR, string[i]));
    for (int i = 0; i + 1 < N_WORDS; i++)
        step_copy_where(s, &word[i]->u, &word[i + 1]->u, &is_odd_word->u);
    const step_tile *low[2] = {&t->n, &t->e};
    step_scalar(s, &t->shift.u, &twice->u, STEP_BITS(SHIFT_RIGHT_LOGICAL, 23),
                STEP_BITS(BITWISE_AND, 31));
    step_scalar(s, &t->unshift.u, &t->shift.u, STEP(MULTIPLY, -1), STEP(ADD, 32));
    step_tensor(s, &low[0]->u, &word[1]->u, VTRN_ALU_SHIFT_RIGHT_LOGICAL, &t->unshift.u);
    for (int i = 0; i < 3; i++) {
        step_tensor(s, &word[i]->u, &word[i]->u, VTRN_ALU_SHIFT_LEFT, &t->shift.u);
        if (i < 2)
            step_tensor(s, &low[(i + 1) % 2]->u, &word[i + 2]->u, VTRN_ALU_SHIFT_RIGHT_LOGICAL,
                        &t->unshift.u);
        step_tensor(s, &word[i]->u, &word[i]->u, VTRN_ALU_BITWISE_OR, &low[i % 2]->u);
    }
}

/* From w0, w1, w2 and m: n, and what is left of m F as the sum of p, an fp32 integer in units of
 * 2^-30, and m, which is small. */
static void multiply_two_over_pi(trig *t) {
    steps *s = &t->s;
    const step_tile *w0 = &t->a, *w1 = &t->p, *w2 = &t->c, *high = &t->c, *low = &t->shift;
    const step_tile *tail = &t->e;
    step_exact(s, &w0->u, &t->m.u, VTRN_ALU_MULTIPLY, &w0->u);
    step_scalar(s, &t->d.u, &w1->u, STEP_BITS(SHIFT_RIGHT_LOGICAL, 8), STEP_NONE);
    step_exact(s, &low->u, &t->m.u, VTRN_ALU_MULTIPLY, &t->d.u);
    step_scalar(s, &tail->u, &w1->u, STEP_BITS(BITWISE_AND, 0xff), STEP_NONE);
    step_scalar_tensor(s, &tail->f, &tail->u, STEP(MULTIPLY, 0x1p32f), VTRN_ALU_ADD, &w2->u);
    step_tensor(s, &high->f, &t->m.u, VTRN_ALU_MULTIPLY, &t->d.u);
    step_tensor(s, &tail->f, &t->m.u, VTRN_ALU_MULTIPLY, &tail->f);
    step_tensor(s, &high->f, &high->f, VTRN_ALU_SUBTRACT, &low->u);
    step_scalar(s, &t->p.u, &low->u, STEP_BITS(SHIFT_RIGHT_LOGICAL, 24), STEP_NONE);
    step_scalar(s, &high->u, &high->f, STEP(MULTIPLY, 0x1p-32f), STEP_NONE);
    step_scalar(s, &low->u, &low->u, STEP_BITS(BITWISE_AND, 0xffffff), STEP_NONE);
    step_scalar(s, &high->u, &high->u, STEP_BITS(SHIFT_LEFT, 8), STEP_NONE);
    step_tensor(s, &t->p.u, &t->p.u, VTRN_ALU_BITWISE_OR, &high->u);
    step_exact(s, &t->a.u, &t->a.u, VTRN_ALU_ADD, &t->p.u);
    /* a is m F mod 4 in units of 2^-30: n is the nearest integer, 30 bits with a sign are left */
    uint32_t half = t->kind == GRAPH_COSINE ? 0x60000000 : 0x20000000;
    step_exact_scalar(s, &t->n.u, &t->a.u, STEP_BITS(ADD, half));
    step_scalar(s, &t->a.i, &t->a.i, STEP_BITS(SHIFT_LEFT, 2), STEP_BITS(SHIFT_RIGHT_ARITH, 2));
    step_copy(s, &t->p.f, &t->a.i);
    step_copy(s, &t->c.i, &t->p.f);
    step_exact(s, &t->m.f, &t->a.i, VTRN_ALU_SUBTRACT, &t->c.i);
    step_scalar_tensor(s, &t->m.f, &low->u, STEP(MULTIPLY, 0x1p-24f), VTRN_ALU_ADD, &t->m.f);
    step_scalar_tensor(s, &t->m.f, &tail->f, STEP(MULTIPLY, 0x1p-64f), VTRN_ALU_ADD, &t->m.f);
}

/* r = (p + m) pi/2 in units of 2^-30. The sum is taken as its first 12 bits and the rest, whose
 * products with a head of pi/2 and with the rest of pi/2 are exact, or small. */
static void multiply_half_pi(trig *t) {
    static const float factor = 0x1.921fb6p-30f, head = 0x1.92p-30f, rest = 0x1.fb5444p-42f;
    steps *s = &t->s;
    step_tensor(s, &t->d.f, &t->p.f, VTRN_ALU_ADD, &t->m.f);
    step_scalar(s, &t->e.u, &t->d.u, STEP_BITS(BITWISE_AND, HEAD), STEP_NONE);
    step_tensor(s, &t->p.f, &t->p.f, VTRN_ALU_SUBTRACT, &t->e.f);
    step_tensor(s, &t->p.f, &t->p.f, VTRN_ALU_ADD, &t->m.f);
    step_scalar(s, &t->m.f, &t->e.f, STEP(MULTIPLY, rest), STEP_NONE);
    step_scalar_tensor(s, &t->m.f, &t->p.f, STEP(MULTIPLY, factor), VTRN_ALU_ADD, &t->m.f);
    step_scalar_tensor(s, &t->p.f, &t->e.f, STEP(MULTIPLY, head), VTRN_ALU_ADD, &t->m.f);
    step_scalar_tensor(s, &t->e.f, &t->e.f, STEP(MULTIPLY, head), VTRN_ALU_SUBTRACT, &t->p.f);
    step_tensor(s, &t->e.f, &t->e.f, VTRN_ALU_ADD, &t->m.f);
}

/* An |x| below 1 is left as it is: m is 0 then, and p becomes |x| at the end. The same sum makes
 * a NaN of infinity and NaN. */
static void reduce_any(trig *t) {
    steps *s = &t->s;
    const step_tile *twice = &t->g, *small = &t->g;
    step_scalar(s, &twice->f, &t->x.f, STEP(ABS_MAX, 0), STEP(MULTIPLY, 2));
    step_scalar(s, &t->m.u, &t->x.u, STEP_BITS(BITWISE_AND, SIGNIFICAND),
                STEP_BITS(BITWISE_OR, LEADING_ONE));
    step_scalar_tensor(s, &t->m.u, &twice->f, STEP(IS_GE, 2), VTRN_ALU_MULTIPLY, &t->m.u);
    take_two_over_pi(t, twice);
    step_scalar_tensor(s, &small->f, &twice->f, STEP(IS_LT, 2), VTRN_ALU_MULTIPLY, &t->x.f);
    multiply_two_over_pi(t);
    multiply_half_pi(t);
    step_scalar_tensor(s, &t->p.f, &small->f, STEP(ABS_MAX, 0), VTRN_ALU_ADD, &t->p.f);
}

/* z = r^2 of a tangent, and 1 - z/2 = g + m. The square of p is not exact: that of its first 12
 * bits is, and the rest of r goes with the sum of both. e is multiplied by the cosine. */
static void square_exactly(trig *t) {
    steps *s = &t->s;
    const step_tile *head = &t->g, *rest = &t->d, *square = &t->c, *change = &t->a;
    step_scalar(s, &head->u, &t->p.u, STEP_BITS(BITWISE_AND, HEAD), STEP_NONE);
    step_tensor(s, &rest->f, &t->p.f, VTRN_ALU_SUBTRACT, &head->f);
    step_tensor(s, &square->f, &head->f, VTRN_ALU_MULTIPLY, &head->f);
    step_tensor(s, &rest->f, &rest->f, VTRN_ALU_ADD, &t->e.f);
    step_scalar_tensor(s, &change->f, &head->f, STEP(MULTIPLY, 2), VTRN_ALU_ADD, &rest->f);
    step_scalar(s, &t->g.f, &square->f, STEP(MULTIPLY, -0.5f), STEP(ADD, 1));
    step_tensor(s, &change->f, &change->f, VTRN_ALU_MULTIPLY, &rest->f);
    step_scalar(s, &t->m.f, &t->g.f, STEP(MULTIPLY, -1), STEP(ADD, 1));
    step_tensor(s, &t->e.f, &t->e.f, VTRN_ALU_MULTIPLY, &t->g.f);
    step_scalar_tensor(s, &t->m.f, &square->f, STEP(MULTIPLY, -0.5f), VTRN_ALU_ADD, &t->m.f);
    step_tensor(s, &t->c.f, &square->f, VTRN_ALU_ADD, &change->f);
    step_scalar_tensor(s, &t->m.f, &change->f, STEP(MULTIPLY, -0.5f), VTRN_ALU_ADD, &t->m.f);
}

/* z = p^2, and 1 - z/2 - p e = g + m. */
static void square(trig *t) {
    steps *s = &t->s;
    step_tensor(s, &t->c.f, &t->p.f, VTRN_ALU_MULTIPLY, &t->p.f);
    step_tensor(s, &t->a.f, &t->p.f, VTRN_ALU_MULTIPLY, &t->e.f);
    step_scalar(s, &t->g.f, &t->c.f, STEP(MULTIPLY, -0.5f), STEP(ADD, 1));
    step_scalar(s, &t->m.f, &t->g.f, STEP(MULTIPLY, -1), STEP(ADD, 1));
    step_scalar_tensor(s, &t->m.f, &t->c.f, STEP(MULTIPLY, -0.5f), VTRN_ALU_ADD, &t->m.f);
    step_tensor(s, &t->m.f, &t->m.f, VTRN_ALU_SUBTRACT, &t->a.f);
}

/* sin r = p + d and cos r = g + a, with d and a small. Minimax polynomials on [-1, 1] in z, written
 * as multiples of their last coefficient so that a step is one instruction. */
static void expand(trig *t) {
    static const float sin_last = 2.69531265e-06f, cos_last = 2.42154665e-05f;
    steps *s = &t->s;
    const vtrn_ap *z = &t->c.f, *sine = &t->d.f, *cosine = &t->a.f;
    if (t->kind == GRAPH_TAN)
        square_exactly(t);
    else
        square(t);
    step_scalar_tensor(s, sine, z, STEP(ADD, -73.5952148f), VTRN_ALU_MULTIPLY, z);
    step_scalar_tensor(s, cosine, z, STEP(ADD, -57.3390312f), VTRN_ALU_MULTIPLY, z);
    step_scalar_tensor(s, sine, sine, STEP(ADD, 3091.78101f), VTRN_ALU_MULTIPLY, z);
    step_scalar_tensor(s, cosine, cosine, STEP(ADD, 1720.65991f), VTRN_ALU_MULTIPLY, z);
    step_scalar_tensor(s, sine, sine, STEP(ADD, -61835.7461f), VTRN_ALU_MULTIPLY, z);
    step_tensor(s, cosine, cosine, VTRN_ALU_MULTIPLY, z);
    step_scalar_tensor(s, sine, sine, STEP(MULTIPLY, sin_last), VTRN_ALU_MULTIPLY, &t->p.f);
    step_scalar_tensor(s, cosine, cosine, STEP(MULTIPLY, cos_last), VTRN_ALU_ADD, &t->m.f);
    step_tensor(s, sine, sine, VTRN_ALU_ADD, &t->e.f);
}

static void choose_wave(trig *t) {
    steps *s = &t->s;
    step_tensor(s, &t->d.f, &t->d.f, VTRN_ALU_ADD, &t->p.f);
    step_tensor(s, &t->a.f, &t->a.f, VTRN_ALU_ADD, &t->g.f);
    step_scalar(s, &t->c.u, &t->n.u, STEP_BITS(BITWISE_AND, IS_ODD), STEP_NONE);
    step_copy_where(s, &t->d.f, &t->a.f, &t->c.u);
    if (t->kind == GRAPH_SINE)
        step_tensor(s, &t->n.u, &t->n.u, VTRN_ALU_BITWISE_XOR, &t->x.u);
}

/* a = b and b = a where mask is not 0 */
static void swap_where(trig *t, const step_tile *a, const step_tile *b, const step_tile *mask) {
    step_copy(&t->s, &t->e.f, &a->f);
    step_copy_where(&t->s, &a->f, &b->f, &mask->u);
    step_copy_where(&t->s, &b->f, &t->e.f, &mask->u);
}

/* d = (p + d) / (g + a), or minus the inverse where n is odd. A first quotient q of 12 bits has an
 * exact product with the first 12 bits of the divisor, so what it leaves of the dividend is known
 * well, and divided once more. */
static void divide_waves(trig *t) {
    steps *s = &t->s;
    const step_tile *dividend = &t->p, *divisor = &t->g, *tail = &t->d, *divisor_tail = &t->a;
    const step_tile *q = &t->c, *inverse = &t->e;
    step_scalar(s, &q->u, &t->n.u, STEP_BITS(BITWISE_AND, IS_ODD), STEP_NONE);
    swap_where(t, dividend, divisor, q);
    swap_where(t, tail, divisor_tail, q);
    /* dividend + tail with the tail rounded off, divisor as its first 12 bits and the rest */
    step_tensor(s, &q->f, &dividend->f, VTRN_ALU_ADD, &tail->f);
    step_tensor(s, &dividend->f, &q->f, VTRN_ALU_SUBTRACT, &dividend->f);
    step_tensor(s, &tail->f, &tail->f, VTRN_ALU_SUBTRACT, &dividend->f);
    step_copy(s, &dividend->f, &q->f);
    step_tensor(s, &inverse->f, &divisor->f, VTRN_ALU_ADD, &divisor_tail->f);
    step_scalar(s, &q->u, &inverse->u, STEP_BITS(BITWISE_AND, HEAD), STEP_NONE);
    step_tensor(s, &divisor->f, &divisor->f, VTRN_ALU_SUBTRACT, &q->f);
    step_tensor(s, &divisor_tail->f, &divisor->f, VTRN_ALU_ADD, &divisor_tail->f);
    step_copy(s, &divisor->f, &q->f);
    step_reciprocal(s, &inverse->f, &inverse->f);
    step_tensor(s, &q->f, &dividend->f, VTRN_ALU_MULTIPLY, &inverse->f);
    step_scalar(s, &q->u, &q->u, STEP_BITS(BITWISE_AND, HEAD), STEP_NONE);
    step_tensor(s, &divisor->f, &q->f, VTRN_ALU_MULTIPLY, &divisor->f);
    step_tensor(s, &divisor_tail->f, &q->f, VTRN_ALU_MULTIPLY, &divisor_tail->f);
    step_tensor(s, &dividend->f, &dividend->f, VTRN_ALU_SUBTRACT, &divisor->f);
    step_tensor(s, &dividend->f, &dividend->f, VTRN_ALU_SUBTRACT, &divisor_tail->f);
    step_tensor(s, &dividend->f, &dividend->f, VTRN_ALU_ADD, &tail->f);
    step_tensor(s, &dividend->f, &dividend->f, VTRN_ALU_MULTIPLY, &inverse->f);
    step_tensor(s, &t->d.f, &q->f, VTRN_ALU_ADD, &dividend->f);
    step_scalar(s, &t->n.u, &t->n.u, STEP_BITS(SHIFT_LEFT, 1), STEP_NONE);
    step_tensor(s, &t->n.u, &t->n.u, VTRN_ALU_BITWISE_XOR, &t->x.u);
}

/* The largest finite magnitude of the operand's type; infinite where no bound helps. */
static double angle_bound(uint8_t dtype) {
    const double fp16_max = 65504; /* and more than any 8-bit float */
    return dtype == VTRN_DTYPE_FP32 || dtype == VTRN_DTYPE_BF16 ? INFINITY : fp16_max;
}

vtrn_status elementwise_wave(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    vtrn_ap dst = elementwise_dst_ap(env, node), x;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &x));
    trig t = {.s = {.e = env->e}, .kind = (graph_kind)node->op, .x = step_tile_of(&x)};
    double bound = angle_bound(x.dtype);
    step_tile *temps[] = {&t.p, &t.e, &t.n, &t.a, &t.c, &t.d, &t.g, &t.m, &t.shift, &t.unshift};
    bool is_narrow = x.dtype != VTRN_DTYPE_FP32;
    int n_temps = op->n_temps - is_narrow;
    for (int i = 0; i < n_temps; i++) {
        vtrn_ap ap = elementwise_temp_ap(env, node, i, VTRN_DTYPE_FP32);
        *temps[i] = step_tile_of(&ap);
    }
    if (is_narrow) {
        vtrn_ap wide = elementwise_temp_ap(env, node, n_temps, VTRN_DTYPE_FP32);
        t.x = step_tile_of(&wide);
        step_copy(&t.s, &t.x.f, &x);
    }
    if (isfinite(bound))
        reduce_bounded(&t, bound);
    else
        reduce_any(&t);
    expand(&t);
    if (node->op == GRAPH_TAN)
        divide_waves(&t);
    else
        choose_wave(&t);
    step_scalar(&t.s, &t.n.u, &t.n.u, STEP_BITS(BITWISE_AND, SIGN), STEP_NONE);
    step_tile result = dst.dtype == VTRN_DTYPE_FP32 ? step_tile_of(&dst) : t.d;
    step_tensor(&t.s, &result.u, &t.d.u, VTRN_ALU_BITWISE_XOR, &t.n.u);
    if (dst.dtype != VTRN_DTYPE_FP32)
        step_copy(&t.s, &dst, &t.d.f);
    return t.s.status;
}
