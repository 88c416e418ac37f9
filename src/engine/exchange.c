/* Values of collectives: runs of elements copied between cores, or reduced from the first to the
 * last. */
#include "engine/exchange.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 2048 /* elements reduced at a time */ };

typedef struct range {
    uint64_t first, end;
} range;

static range share(uint64_t n, uint32_t part, uint32_t n_parts) {
    return (range){n / n_parts * part + n % n_parts * part / n_parts,
                   n / n_parts * (part + 1) + n % n_parts * (part + 1) / n_parts};
}

/* One operand of the collective. */
typedef struct tensor {
    const engine_exchange *x;
    const vtrn_collective *c;
    const vtrn_exchange *e;
    uint32_t in_slot, out_slot;
    size_t size; /* of an element, bytes */
} tensor;

static tensor tensor_of(const engine_exchange *x, uint32_t i) {
    const vtrn_custom *custom = &x->program->customs[x->custom_i];
    const vtrn_exchange *e = &custom->collective->exchanges[i];
    return (tensor){x,
                    custom->collective,
                    e,
                    custom->slots[i],
                    custom->slots[custom->n_inputs + i],
                    dtype_size((vtrn_dtype)e->dtype)};
}

/* Element 0 of the operand that the member at a place of the group gives. */
static const uint8_t *operand_of(const tensor *t, uint32_t place) {
    const int32_t *ranks = t->x->sources ? t->x->sources : t->x->ranks;
    const engine_member *m = &t->x->members[ranks[place]];
    return m->hbm + m->slot_base[t->in_slot];
}

/* Element 0 of the result of the member at a place. */
static uint8_t *result_of(const tensor *t, uint32_t place) {
    const engine_member *m = &t->x->members[t->x->ranks[place]];
    return m->hbm + m->slot_base[t->out_slot];
}

/* Whether the member at a place of the group receives in another process. */
static bool is_remote(const tensor *t, uint64_t place) {
    return t->x->members[t->x->ranks[place]].is_remote;
}

/* Run `run_i` of what the sender gives to the receiver, as an element of the sender's operand. */
static uint64_t from_of(const tensor *t, uint32_t receiver, uint64_t run_i) {
    const vtrn_exchange *e = t->e;
    return receiver * e->from_place + run_i / e->n[1] * e->from_step[0] +
           run_i % e->n[1] * e->from_step[1];
}

static uint64_t to_of(const tensor *t, uint32_t sender, uint64_t run_i) {
    const vtrn_exchange *e = t->e;
    return sender * e->to_place + run_i / e->n[1] * e->to_step[0] + run_i % e->n[1] * e->to_step[1];
}

/* --- copies ------------------------------------------------------------------------------------
 */

static void copy_runs(const tensor *t, uint32_t sender, uint32_t receiver, range runs) {
    const uint8_t *from = operand_of(t, sender);
    uint8_t *to = result_of(t, receiver);
    for (uint64_t r = runs.first; r < runs.end; r++)
        memcpy(to + to_of(t, sender, r) * t->size, from + from_of(t, receiver, r) * t->size,
               t->e->run * t->size);
}

/* Every member gets a part of every other: the shares are of receivers and runs. */
static void gather(const tensor *t, uint32_t part, uint32_t n_parts) {
    uint64_t n_runs = t->e->n[0] * t->e->n[1];
    range all = share(n_runs * t->x->n, part, n_parts);
    for (uint64_t u = all.first; u < all.end;) {
        uint32_t receiver = (uint32_t)(u / n_runs);
        range runs = {u % n_runs, n_runs};
        if (all.end - u < runs.end - runs.first)
            runs.end = runs.first + (all.end - u);
        for (uint32_t sender = 0; sender < t->x->n && !is_remote(t, receiver); sender++)
            copy_runs(t, sender, receiver, runs);
        u += runs.end - runs.first;
    }
}

static void broadcast(const tensor *t, uint32_t part, uint32_t n_parts) {
    range receivers = share(t->x->n, part, n_parts);
    for (uint64_t r = receivers.first; r < receivers.end; r++)
        if (!is_remote(t, r))
            copy_runs(t, 0, (uint32_t)r, (range){0, t->e->n[0] * t->e->n[1]});
}

/* The result of the second rank becomes zeros. */
static void zero(const tensor *t, uint32_t part) {
    if (!part && !is_remote(t, 1))
        memset(result_of(t, 1), 0, (size_t)(t->e->n[0] * t->e->n[1] * t->e->run) * t->size);
}

static void permute(const tensor *t, uint32_t part) {
    if (!part && !is_remote(t, 1))
        copy_runs(t, 0, 1, (range){0, t->e->n[0] * t->e->n[1]});
}

/* --- reductions --------------------------------------------------------------------------------
 */

#define IS_NAN(x) ((x) != (x))
/* Whether two zeros are -0 and another one: +0 is above -0, as on the engines. Integers have one.
 */
#define TAKES_ZERO(low, high) ((low) == 0 && (high) == 0 && signbit((double)(low)))

/* acc = acc `reducer` x, elementwise. NaN of either side is the result of maximum and minimum. */
#define LOOP(expr)                                                                                 \
    do {                                                                                           \
        for (size_t i = 0; i < n; i++)                                                             \
            acc[i] = (__typeof__(acc[i]))(expr);                                                   \
    } while (0)

#define ARITHMETIC(type, wide)                                                                     \
    case VTRN_REDUCER_ADD:                                                                         \
        LOOP((wide)acc[i] + (wide)x[i]);                                                           \
        break;                                                                                     \
    case VTRN_REDUCER_MULTIPLY:                                                                    \
        LOOP((wide)acc[i] * (wide)x[i]);                                                           \
        break;                                                                                     \
    case VTRN_REDUCER_MAXIMUM:                                                                     \
        LOOP(x[i] > acc[i] || IS_NAN(x[i]) || TAKES_ZERO(acc[i], x[i]) ? x[i] : acc[i]);           \
        break;                                                                                     \
    case VTRN_REDUCER_MINIMUM:                                                                     \
        LOOP(x[i] < acc[i] || IS_NAN(x[i]) || TAKES_ZERO(x[i], acc[i]) ? x[i] : acc[i]);           \
        break

#define REDUCE_FLOAT(name, type)                                                                   \
    static void reduce_##name(unsigned reducer, void *acc_bytes, const void *x_bytes, size_t n) {  \
        type *acc = acc_bytes;                                                                     \
        const type *x = x_bytes;                                                                   \
        switch (reducer) {                                                                         \
            ARITHMETIC(type, type);                                                                \
        default:                                                                                   \
            break;                                                                                 \
        }                                                                                          \
    }

#define REDUCE_INT(name, type, wide)                                                               \
    static void reduce_##name(unsigned reducer, void *acc_bytes, const void *x_bytes, size_t n) {  \
        type *acc = acc_bytes;                                                                     \
        const type *x = x_bytes;                                                                   \
        switch (reducer) {                                                                         \
            ARITHMETIC(type, wide);                                                                \
        case VTRN_REDUCER_AND:                                                                     \
            LOOP(acc[i] & x[i]);                                                                   \
            break;                                                                                 \
        case VTRN_REDUCER_OR:                                                                      \
            LOOP(acc[i] | x[i]);                                                                   \
            break;                                                                                 \
        case VTRN_REDUCER_XOR:                                                                     \
            LOOP(acc[i] ^ x[i]);                                                                   \
            break;                                                                                 \
        default:                                                                                   \
            break;                                                                                 \
        }                                                                                          \
    }

/* Sums and products of integers wrap, so they are formed unsigned. */
REDUCE_FLOAT(fp32, float)
REDUCE_FLOAT(fp64, double)
REDUCE_INT(int8, int8_t, uint32_t)
REDUCE_INT(int16, int16_t, uint32_t)
REDUCE_INT(int32, int32_t, uint32_t)
REDUCE_INT(int64, int64_t, uint64_t)
REDUCE_INT(uint8, uint8_t, uint32_t)
REDUCE_INT(uint16, uint16_t, uint32_t)
REDUCE_INT(uint32, uint32_t, uint32_t)
REDUCE_INT(uint64, uint64_t, uint64_t)

/* Of truth values, the sum is or and the product is and. Source: StableHLO, "add", "multiply". */
static void reduce_pred(unsigned reducer, void *acc_bytes, const void *x_bytes, size_t n) {
    uint8_t *acc = acc_bytes;
    const uint8_t *x = x_bytes;
    if (reducer == VTRN_REDUCER_XOR)
        LOOP((acc[i] != 0) ^ (x[i] != 0));
    else if (reducer == VTRN_REDUCER_MULTIPLY || reducer == VTRN_REDUCER_MINIMUM ||
             reducer == VTRN_REDUCER_AND)
        LOOP(acc[i] && x[i]);
    else
        LOOP(acc[i] || x[i]);
}

#define REDUCE_COMPLEX(name, type)                                                                 \
    static void reduce_##name(unsigned reducer, void *acc_bytes, const void *x_bytes, size_t n) {  \
        type *acc = acc_bytes;                                                                     \
        const type *x = x_bytes;                                                                   \
        for (size_t i = 0; i < 2 * n; i += 2) {                                                    \
            type re = acc[i], im = acc[i + 1];                                                     \
            bool is_sum = reducer == VTRN_REDUCER_ADD;                                             \
            acc[i] = is_sum ? re + x[i] : re * x[i] - im * x[i + 1];                               \
            acc[i + 1] = is_sum ? im + x[i + 1] : re * x[i + 1] + im * x[i];                       \
        }                                                                                          \
    }
REDUCE_COMPLEX(c64, float)
REDUCE_COMPLEX(c128, double)

typedef void reduce_fn(unsigned reducer, void *acc, const void *x, size_t n);

/* The function that reduces the type as it is; NULL: it goes through fp32. */
static reduce_fn *reduces_directly(vtrn_dtype t) {
    switch (t) {
    case VTRN_DTYPE_PRED:
        return reduce_pred;
    case VTRN_DTYPE_INT8:
        return reduce_int8;
    case VTRN_DTYPE_INT16:
        return reduce_int16;
    case VTRN_DTYPE_INT32:
        return reduce_int32;
    case VTRN_DTYPE_INT64:
        return reduce_int64;
    case VTRN_DTYPE_UINT8:
        return reduce_uint8;
    case VTRN_DTYPE_UINT16:
        return reduce_uint16;
    case VTRN_DTYPE_UINT32:
        return reduce_uint32;
    case VTRN_DTYPE_UINT64:
        return reduce_uint64;
    case VTRN_DTYPE_FP64:
        return reduce_fp64;
    case VTRN_DTYPE_C64:
        return reduce_c64;
    case VTRN_DTYPE_C128:
        return reduce_c128;
    default:
        return NULL;
    }
}

/* How often an operand that counts for so many members is reduced; sums of fp32 multiply it. */
static uint32_t n_turns(const tensor *t, uint32_t times, bool is_direct) {
    unsigned reducer = t->c->reducer;
    bool adds_up = reducer == VTRN_REDUCER_ADD
                       ? is_direct
                       : reducer == VTRN_REDUCER_MULTIPLY || reducer == VTRN_REDUCER_XOR;
    return adds_up || !times ? times : 1;
}

/* n elements from element `at` of the run on, of all members, to `out`. */
static void reduce_chunk(const tensor *t, uint64_t from, size_t n, void *out) {
    vtrn_dtype dtype = (vtrn_dtype)t->e->dtype;
    reduce_fn *direct = reduces_directly(dtype);
    float acc[CHUNK], x[CHUNK];
    bool is_first = true;
    for (uint32_t m = 0; m < t->x->n; m++) {
        const uint8_t *in = operand_of(t, m) + from * t->size;
        const uint32_t times = t->x->times ? t->x->times[m] : 1;
        float *own = is_first ? acc : x;
        if (!direct && times)
            dtype_load_fp32(dtype, in, own, n);
        if (!direct && times > 1 && t->c->reducer == VTRN_REDUCER_ADD)
            for (size_t i = 0; i < n; i++)
                own[i] *= (float)times;
        for (uint32_t turn = n_turns(t, times, direct != NULL); turn-- > 0; is_first = false) {
            if (direct && is_first)
                memcpy(out, in, n * t->size);
            else if (direct)
                direct(t->c->reducer, out, in, n);
            else if (is_first && turn)
                memcpy(x, acc, n * sizeof *x); /* for the turns to come */
            else if (!is_first)
                reduce_fp32(t->c->reducer, acc, x, n);
        }
    }
    if (!direct)
        dtype_store_fp32(dtype, acc, out, n);
}

/* Chunks of runs; where every member gets the same, it is computed once. */
static void reduce(const tensor *t, uint32_t part, uint32_t n_parts) {
    _Alignas(64) uint8_t out[CHUNK * 16];
    const bool is_same = t->e->from_place == 0;
    const uint64_t n_chunks = (t->e->run + CHUNK - 1) / CHUNK;
    const uint64_t per_receiver = t->e->n[0] * t->e->n[1] * n_chunks;
    const range units = share(per_receiver * (is_same ? 1 : t->x->n), part, n_parts);
    for (uint64_t u = units.first; u < units.end; u++) {
        uint32_t receiver = (uint32_t)(u / per_receiver);
        uint64_t run = u % per_receiver / n_chunks, at = u % n_chunks * CHUNK;
        if (!is_same && is_remote(t, receiver))
            continue;
        size_t n = t->e->run - at < CHUNK ? (size_t)(t->e->run - at) : CHUNK;
        reduce_chunk(t, from_of(t, receiver, run) + at, n, out);
        uint64_t to = to_of(t, 0, run) + at;
        for (uint32_t m = is_same ? 0 : receiver; m < (is_same ? t->x->n : receiver + 1); m++)
            if (!is_remote(t, m))
                memcpy(result_of(t, m) + to * t->size, out, n * t->size);
    }
}

/* --- reductions that the program defines -------------------------------------------------------
 */

static void pack(const tensor *t, uint32_t sender, uint32_t receiver, uint8_t *out) {
    const uint8_t *from = operand_of(t, sender);
    size_t bytes = t->e->run * t->size;
    for (uint64_t r = 0; r < t->e->n[0] * t->e->n[1]; r++)
        memcpy(out + r * bytes, from + from_of(t, receiver, r) * t->size, bytes);
}

static void unpack(const tensor *t, uint32_t receiver, const uint8_t *in) {
    uint8_t *to = result_of(t, receiver);
    size_t bytes = t->e->run * t->size;
    for (uint64_t r = 0; r < t->e->n[0] * t->e->n[1]; r++)
        memcpy(to + to_of(t, 0, r) * t->size, in + r * bytes, bytes);
}

static vtrn_status reduce_for(const tensor *t, uint32_t receiver, uint8_t *const buffers[3],
                              uint8_t **result) {
    uint8_t *acc = buffers[0], *next = buffers[1];
    pack(t, 0, receiver, acc);
    for (uint32_t m = 1; m < t->x->n; m++) {
        pack(t, m, receiver, buffers[2]);
        void *inputs[] = {acc, buffers[2]}, *outputs[] = {next};
        VTRN_RETURN_IF_ERROR(
            t->x->custom(t->x->custom_ctx, t->x->program, t->x->custom_i, inputs, outputs));
        uint8_t *swap = acc;
        acc = next;
        next = swap;
    }
    *result = acc;
    return NULL;
}

static vtrn_status reduce_by_region(const tensor *t, uint32_t part) {
    if (part)
        return NULL;
    if (!t->x->custom)
        return VTRN_ERROR(VTRN_UNIMPLEMENTED, "%s: this execution has no reference operations",
                          t->x->program->customs[t->x->custom_i].name);
    const size_t align = 64;
    size_t bytes =
        ((size_t)(t->e->n[0] * t->e->n[1] * t->e->run) * t->size + align) / align * align;
    uint8_t *memory = malloc(3 * bytes);
    if (!memory)
        return VTRN_OUT_OF_MEMORY(3 * bytes);
    uint8_t *const buffers[3] = {memory, memory + bytes, memory + 2 * bytes};
    vtrn_status status = NULL;
    const bool is_same = t->e->from_place == 0;
    for (uint32_t receiver = 0; receiver < (is_same ? 1 : t->x->n) && !status; receiver++) {
        uint8_t *result = NULL;
        if (!is_same && is_remote(t, receiver))
            continue;
        status = reduce_for(t, receiver, buffers, &result);
        for (uint32_t m = is_same ? 0 : receiver; !status && m < (is_same ? t->x->n : receiver + 1);
             m++)
            if (!is_remote(t, m))
                unpack(t, m, result);
    }
    free(memory);
    return status;
}

/* --- NaN ---------------------------------------------------------------------------------------
 */

/* The first NaN of n elements; n: there is none. */
static uint64_t find_nan(vtrn_dtype dtype, const uint8_t *in, uint64_t n) {
    float x[CHUNK];
    double wide;
    const size_t size = dtype_size(dtype);
    for (uint64_t at = 0; at < n;) {
        size_t k = n - at < CHUNK ? (size_t)(n - at) : CHUNK, i = 0;
        if (dtype == VTRN_DTYPE_FP64)
            for (; i < k; i++) {
                memcpy(&wide, in + (at + i) * size, sizeof wide);
                if (isnan(wide))
                    return at + i;
            }
        else
            dtype_load_fp32(dtype, in + at * size, x, k);
        for (; i < k; i++)
            if (isnan(x[i]))
                return at + i;
        at += k;
    }
    return n;
}

bool engine_exchange_find_nan(const engine_exchange *x, engine_nan *out) {
    const vtrn_custom *custom = &x->program->customs[x->custom_i];
    for (uint32_t m = 0; m < x->n; m++)
        for (uint32_t i = 0; i < custom->n_inputs; i++) {
            const tensor t = tensor_of(x, i);
            const vtrn_dtype dtype = (vtrn_dtype)t.e->dtype;
            bool has_nans = dtype_is_float(dtype) && t.size > 0;
            if (!has_nans || x->ranks[m] < 0 || x->members[x->ranks[m]].is_remote)
                continue;
            const uint64_t n = x->program->slots[t.in_slot].size_bytes / t.size;
            const engine_member *member = &x->members[x->ranks[m]];
            uint64_t at = find_nan(dtype, member->hbm + member->slot_base[t.in_slot], n);
            if (at == n)
                continue;
            *out = (engine_nan){x->ranks[m], i, at};
            return true;
        }
    return false;
}

/* Whether a member of the group receives here. */
static bool has_receivers(const engine_exchange *x) {
    for (uint32_t m = 0; m < x->n; m++)
        if (x->ranks[m] >= 0 && !x->members[x->ranks[m]].is_remote)
            return true;
    return false;
}

vtrn_status engine_exchange_run(const engine_exchange *x, uint32_t part, uint32_t n_parts) {
    const vtrn_custom *custom = &x->program->customs[x->custom_i];
    if (!has_receivers(x))
        return NULL;
    for (uint32_t i = 0; i < custom->n_inputs; i++) {
        const tensor t = tensor_of(x, i);
        if (t.e->n[0] * t.e->n[1] * t.e->run == 0)
            continue;
        if (x->ranks[0] < 0) {
            zero(&t, part);
            continue;
        }
        switch (t.c->kind) {
        case VTRN_COLLECTIVE_ALL_REDUCE:
        case VTRN_COLLECTIVE_REDUCE_SCATTER:
            if (t.c->reducer == VTRN_REDUCER_CUSTOM)
                VTRN_RETURN_IF_ERROR(reduce_by_region(&t, part));
            else
                reduce(&t, part, n_parts);
            break;
        case VTRN_COLLECTIVE_PERMUTE:
            permute(&t, part);
            break;
        case VTRN_COLLECTIVE_BROADCAST:
            broadcast(&t, part, n_parts);
            break;
        default:
            gather(&t, part, n_parts);
        }
    }
    return NULL;
}
