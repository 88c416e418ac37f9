/* rng_bit_generator: Threefry-2x32 and Philox-4x32-10 with the counter layouts of XLA.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and XLA's
 * observable results. */
#include "compiler/reference/ref_internal.h"

static uint32_t rotate_left(uint32_t v, int by) {
    return v << by | v >> (32 - by);
}

static void threefry(const uint32_t key[2], uint32_t x[2]) {
    static const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    const uint32_t ks[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA};
    x[0] += ks[0];
    x[1] += ks[1];
    for (uint32_t round = 0; round < 5; round++) {
        for (int i = 0; i < 4; i++) {
            x[0] += x[1];
            x[1] = rotate_left(x[1], rotations[round % 2][i]) ^ x[0];
        }
        x[0] += ks[(round + 1) % 3];
        x[1] += ks[(round + 2) % 3] + round + 1;
    }
}

static void philox(uint32_t key0, uint32_t key1, uint32_t x[4]) {
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53 * x[0], p1 = (uint64_t)0xCD9E8D57 * x[2];
        const uint32_t y[4] = {(uint32_t)(p1 >> 32) ^ x[1] ^ key0, (uint32_t)p1,
                               (uint32_t)(p0 >> 32) ^ x[3] ^ key1, (uint32_t)p0};
        memcpy(x, y, sizeof(y));
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
}

/* The dimension that Threefry's two output words interleave along: the first even one, else the
 * first longest. */
static int split_dimension(const graph_type *t) {
    int longest = 0;
    for (int d = 0; d < t->rank; d++) {
        if (t->dims[d] % 2 == 0)
            return d;
        if (t->dims[d] > t->dims[longest])
            longest = d;
    }
    return longest;
}

/* 32-bit words for every element of t. Counters run over the shape with the split dimension halved;
 * the words of one counter are neighbours along it. Returns the number of counters. */
static int64_t threefry_words(const graph_type *t, const uint32_t key[2], uint64_t counter,
                              uint32_t *out) {
    const int split = split_dimension(t);
    int64_t inner = 1, n_split = t->rank ? t->dims[split] : 1;
    for (int d = split + 1; d < t->rank; d++)
        inner *= t->dims[d];
    const int64_t half = (n_split + 1) / 2, outer = ref_count(t) / (n_split * inner);
    int64_t i = 0;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t h = 0; h < half; h++)
            for (int64_t k = 0; k < inner; k++, i++) {
                const uint64_t at = counter + (uint64_t)i;
                uint32_t x[2] = {(uint32_t)at, (uint32_t)(at >> 32)};
                threefry(key, x);
                out[(o * n_split + 2 * h) * inner + k] = x[0];
                if (2 * h + 1 < n_split)
                    out[(o * n_split + 2 * h + 1) * inner + k] = x[1];
            }
    return i;
}

static uint64_t join(uint32_t low, uint32_t high) {
    return low | (uint64_t)high << 32;
}

static vtrn_status run_threefry(ref_call *c, const graph_type *t, uint64_t *state) {
    const int64_t n = ref_count(t);
    const uint32_t key[2] = {(uint32_t)state[0], (uint32_t)(state[0] >> 32)};
    if (dtype_size(t->dtype) == 8) {
        for (int64_t i = 0; i < n; i++) {
            const uint64_t at = state[1] + (uint64_t)i;
            uint32_t x[2] = {(uint32_t)at, (uint32_t)(at >> 32)};
            threefry(key, x);
            ((uint64_t *)c->out[1])[i] = join(x[0], x[1]);
        }
        state[1] += (uint64_t)n;
        return NULL;
    }
    void *words;
    VTRN_RETURN_IF_ERROR(ref_scratch(c, n, 4, &words));
    state[1] += n ? (uint64_t)threefry_words(t, key, state[1], words) : 0;
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)c->out[1] + i * dtype_size(t->dtype), (uint32_t *)words + i,
               dtype_size(t->dtype));
    return NULL;
}

/* state: key, then the counter, low word first; n_state words. With 2 the key is the high word. */
static void run_philox(ref_call *c, const graph_type *t, uint64_t *state, int64_t n_state) {
    const int64_t n = ref_count(t), per_counter = dtype_size(t->dtype) == 8 ? 2 : 4;
    const int64_t n_counters = (n + per_counter - 1) / per_counter;
    const size_t size = dtype_size(t->dtype);
    uint64_t low = state[1], high = n_state > 2 ? state[2] : state[0];
    for (int64_t i = 0; i < n_counters; i++) {
        uint32_t x[4] = {(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high,
                         (uint32_t)(high >> 32)};
        philox((uint32_t)state[0], (uint32_t)(state[0] >> 32), x);
        for (int64_t k = 0; k < per_counter && i * per_counter + k < n; k++) {
            const uint64_t v = size == 8 ? join(x[2 * k], x[2 * k + 1]) : x[k];
            memcpy((char *)c->out[1] + (i * per_counter + k) * size, &v, size);
        }
        high += ++low == 0;
    }
    state[1] = low;
    if (n_state > 2)
        state[2] = high;
}

vtrn_status ref_rng_bit_generator(ref_call *c) {
    enum { DEFAULT, THREE_FRY, PHILOX };
    const graph_type *s = ref_in_type(c, 0), *t = ref_out_type(c, 1);
    const size_t n_bytes = (size_t)ref_count(s) * dtype_size(s->dtype);
    uint64_t state[3] = {0};
    if (n_bytes != 16 && n_bytes != 24)
        return ref_malformed(c->op, "the state has 2 or 3 words of 64 bits");
    if (!dtype_is_int(t->dtype))
        return ref_unimplemented(c->op, "bits of a type that is no integer");
    memcpy(state, c->in[0], n_bytes);
    if (c->op->attrs.rng.algorithm == THREE_FRY) {
        if (n_bytes != 16)
            return ref_malformed(c->op, "the state of THREE_FRY has 2 words of 64 bits");
        VTRN_RETURN_IF_ERROR(run_threefry(c, t, state));
    } else {
        run_philox(c, t, state, (int64_t)n_bytes / 8);
    }
    memcpy(c->out[0], state, n_bytes);
    return NULL;
}
