/* fft: radix 2 for powers of two, Bluestein's chirp for the rest, in double precision. */
#include "compiler/reference/ref_internal.h"

#include <math.h>

/* In place, n a power of two; sign -1 forward, +1 inverse; not scaled. */
static void fft_power_of_two(double complex *x, int64_t n, int sign) {
    for (int64_t i = 1, j = 0; i < n; i++) {
        int64_t bit = n >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            const double complex t = x[i];
            x[i] = x[j];
            x[j] = t;
        }
    }
    for (int64_t len = 2; len <= n; len *= 2)
        for (int64_t k = 0; k < len / 2; k++) {
            const double angle = sign * 2 * M_PI * (double)k / (double)len;
            const double complex w = CMPLX(cos(angle), sin(angle));
            for (int64_t i = k; i < n; i += len) {
                const double complex u = x[i], v = x[i + len / 2] * w;
                x[i] = u + v;
                x[i + len / 2] = u - v;
            }
        }
}

/* exp(sign i pi k^2 / n): the square is reduced modulo 2n so that the angle stays exact. */
static double complex chirp(int64_t k, int64_t n, int sign) {
    const int64_t square = (int64_t)((__int128)k * k % ((__int128)2 * n));
    const double angle = sign * M_PI * (double)square / (double)n;
    return CMPLX(cos(angle), sin(angle));
}

/* work[2][m], m a power of two >= 2n - 1 */
static void fft_bluestein(double complex *x, int64_t n, int sign, double complex *work, int64_t m) {
    double complex *a = work, *b = work + m;
    memset(work, 0, (size_t)m * 2 * sizeof(*work));
    for (int64_t k = 0; k < n; k++) {
        a[k] = x[k] * chirp(k, n, sign);
        b[k] = conj(chirp(k, n, sign));
        if (k)
            b[m - k] = b[k];
    }
    fft_power_of_two(a, m, -1);
    fft_power_of_two(b, m, -1);
    for (int64_t i = 0; i < m; i++)
        a[i] *= b[i];
    fft_power_of_two(a, m, 1);
    for (int64_t k = 0; k < n; k++)
        x[k] = a[k] / (double)m * chirp(k, n, sign);
}

/* Transforms dimension d of a (dims[rank], row-major), in place. */
static vtrn_status transform_dim(ref_call *c, double complex *a, const int64_t *dims, int rank,
                                 int d, bool is_inverse) {
    const int64_t n = dims[d];
    int64_t step = 1, total = 1, m = 1;
    for (int k = rank - 1; k >= 0; k--) {
        step *= k > d ? dims[k] : 1;
        total *= dims[k];
    }
    if (total == 0)
        return NULL;
    while (m < 2 * n - 1)
        m *= 2;
    void *row, *work;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, sizeof(double complex), &row));
    VTRN_RETURN_IF_ERROR(ref_scratch(c, 2 * m, sizeof(double complex), &work));
    double complex *x = row;
    for (int64_t r = 0; r < total / n; r++) {
        double complex *base = a + r / step * step * n + r % step;
        for (int64_t k = 0; k < n; k++)
            x[k] = base[k * step];
        if ((n & (n - 1)) == 0)
            fft_power_of_two(x, n, is_inverse ? 1 : -1);
        else
            fft_bluestein(x, n, is_inverse ? 1 : -1, work, m);
        for (int64_t k = 0; k < n; k++)
            base[k * step] = is_inverse ? x[k] / (double)n : x[k];
    }
    return NULL;
}

/* Fills the last dimension, n_half = n / 2 + 1 of it given, from the symmetry of a real signal
 * along that dimension (the others are already transformed back). */
static void extend_hermitian(const double complex *half, int64_t n_half, double complex *full,
                             int64_t n, int64_t n_rows) {
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t k = 0; k < n; k++)
            full[r * n + k] = k < n_half ? half[r * n_half + k] : conj(half[r * n_half + (n - k)]);
}

static vtrn_status store_real(ref_call *c, const double complex *v) {
    const graph_type *t = ref_out_type(c, 0);
    const int64_t n = ref_count(t);
    void *p;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, 8, &p));
    for (int64_t i = 0; i < n; i++) {
        if (ref_class_of(t->dtype) == REF_F64)
            ((double *)p)[i] = creal(v[i]);
        else
            ((float *)p)[i] = (float)creal(v[i]);
    }
    ref_store(t->dtype, p, c->out[0], n);
    return NULL;
}

vtrn_status ref_fft(ref_call *c) {
    enum { FFT, IFFT, RFFT, IRFFT };
    const graph_type *f = ref_in_type(c, 0), *t = ref_out_type(c, 0);
    const int type = c->op->attrs.fft.type, rank = f->rank;
    const int n_dims = (int)c->op->attrs.fft.length.n;
    if (n_dims < 1 || n_dims > rank)
        return ref_malformed(c->op, "1 to rank transformed dimensions");
    void *p, *full;
    VTRN_RETURN_IF_ERROR(ref_load_all(c, 0, REF_C128, &p));
    double complex *a = p;
    if (type == FFT || type == IFFT) {
        for (int d = rank - n_dims; d < rank; d++)
            VTRN_RETURN_IF_ERROR(transform_dim(c, a, f->dims, rank, d, type == IFFT));
        ref_store(t->dtype, a, c->out[0], ref_count(t));
        return NULL;
    }
    if (ref_count(t) == 0)
        return NULL;
    const int64_t n_in = f->dims[rank - 1], n_out = t->dims[rank - 1];
    const int64_t n_rows = ref_count(t) / n_out;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, ref_count(t), sizeof(double complex), &full));
    double complex *o = full;
    if (type == RFFT) {
        VTRN_RETURN_IF_ERROR(transform_dim(c, a, f->dims, rank, rank - 1, false));
        for (int64_t r = 0; r < n_rows; r++)
            memcpy(o + r * n_out, a + r * n_in, (size_t)n_out * sizeof(*o));
        for (int d = rank - n_dims; d < rank - 1; d++)
            VTRN_RETURN_IF_ERROR(transform_dim(c, o, t->dims, rank, d, false));
        ref_store(t->dtype, o, c->out[0], ref_count(t));
        return NULL;
    }
    for (int d = rank - n_dims; d < rank - 1; d++)
        VTRN_RETURN_IF_ERROR(transform_dim(c, a, f->dims, rank, d, true));
    extend_hermitian(a, n_in, o, n_out, n_rows);
    VTRN_RETURN_IF_ERROR(transform_dim(c, o, t->dims, rank, rank - 1, true));
    return store_real(c, o);
}
