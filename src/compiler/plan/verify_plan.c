/* Checks of a whole plan. None of them uses what placement computed on its way: only the result. */
#include "compiler/plan/verify_plan.h"

#include "base/array.h"
#include "compiler/plan/map_plan.h"
#include "compiler/plan/resident.h"
#include "compiler/plan/verify_contract.h"
#include "compiler/plan/verify_conv.h"
#include "compiler/plan/verify_failed.h"

#include <stdlib.h>
#include <string.h>

enum { NEVER = UINT32_MAX };

/* --- elements -----------------------------------------------------------------------------------
 */

/* The first and the last element that a view names. */
static void extent_of(const view *v, int64_t *low, int64_t *high) {
    *low = *high = v->offset;
    for (int i = 0; i < v->n; i++) {
        int64_t reach = (v->f[i].size - 1) * v->f[i].stride;
        *(reach < 0 ? low : high) += reach;
    }
}

/* Whether no element is named twice: each stride passes over all that smaller ones reach. */
static bool is_injective(const view *v) {
    view_factor f[VIEW_MAX_FACTORS];
    int n = 0;
    for (int i = 0; i < v->n; i++) {
        view_factor x = v->f[i];
        if (x.size <= 1)
            continue;
        x.stride = x.stride < 0 ? -x.stride : x.stride;
        int at = n++;
        for (; at > 0 && f[at - 1].stride > x.stride; at--)
            f[at] = f[at - 1];
        f[at] = x;
    }
    int64_t reach = 0;
    for (int i = 0; i < n; i++) {
        if (f[i].stride <= reach)
            return false;
        reach += (f[i].size - 1) * f[i].stride;
    }
    return true;
}

/* Elements that a view names, each counted once: exact for an injective one, else at most as many
 * as are between the first and the last. */
static int64_t distinct_of(const view *v) {
    int64_t n = 1, low, high;
    for (int i = 0; i < v->n; i++)
        if (v->f[i].stride || v->f[i].size == 0)
            n *= v->f[i].size;
    extent_of(v, &low, &high);
    return n < high - low + 1 ? n : high - low + 1;
}

static vtrn_status check_access(const plan *p, const kernel *k, const kernel_access *a) {
    const vtrn_slot *slot = &p->build->slots[a->map.slot].slot;
    if (a->map.slot >= p->build->n_slots)
        return verify_failed(p, k, "tensor %u of %u", a->map.slot, p->build->n_slots);
    if (a->is_whole || view_count(&a->map) == 0)
        return NULL;
    int64_t low, high, size = (int64_t)dtype_size((vtrn_dtype)a->map.dtype);
    extent_of(&a->map, &low, &high);
    if (low < 0 || (high + 1) * size > (int64_t)slot->size_bytes)
        return verify_failed(p, k, "elements %lld..%lld of tensor %u, which has %llu bytes of %s",
                             (long long)low, (long long)high, a->map.slot,
                             (unsigned long long)slot->size_bytes,
                             dtype_name((vtrn_dtype)a->map.dtype));
    if (a->is_written && !a->is_accumulated && !is_injective(&a->map))
        return verify_failed(p, k, "an element of tensor %u is written twice", a->map.slot);
    return NULL;
}

/* --- order --------------------------------------------------------------------------------------
 */

/* What is known of the elements of each tensor that were written: how many at least. Whole
 * accesses, at places that data decide, may follow writes of all elements or be the only ones. */
typedef struct written {
    int64_t n_bytes;
    bool is_any; /* at places that data decide */
} written;

static bool starts_written(const build_slot *of) {
    return of->slot.kind == VTRN_SLOT_ARGUMENT || of->slot.kind == VTRN_SLOT_CONSTANT ||
           of->slot.kind == VTRN_SLOT_RANK || of->is_in_place;
}

static vtrn_status check_order(const plan *p, const kernel *k, written *state) {
    if (!k->n_accesses)
        return NULL;
    const kernel_access *accesses = p->list.accesses + k->access_i;
    for (uint32_t i = 0; i < k->n_accesses; i++) {
        const kernel_access *a = &accesses[i];
        const vtrn_slot *slot = &p->build->slots[a->map.slot].slot;
        const written *w = &state[a->map.slot];
        if (a->is_written || starts_written(&p->build->slots[a->map.slot]) || slot->size_bytes == 0)
            continue;
        int64_t need = a->is_whole
                           ? (int64_t)slot->size_bytes
                           : distinct_of(&a->map) * (int64_t)dtype_size((vtrn_dtype)a->map.dtype);
        if (view_count(&a->map) && !w->is_any && w->n_bytes < need)
            return verify_failed(p, k, "%lld bytes of tensor %u are read, %lld were written",
                                 (long long)need, a->map.slot, (long long)w->n_bytes);
    }
    for (uint32_t i = 0; i < k->n_accesses; i++) {
        const kernel_access *a = &accesses[i];
        written *w = &state[a->map.slot];
        if (!a->is_written)
            continue;
        w->is_any |= a->is_whole;
        if (!a->is_whole)
            w->n_bytes += distinct_of(&a->map) * (int64_t)dtype_size((vtrn_dtype)a->map.dtype);
    }
    return NULL;
}

static vtrn_status check_outputs(const plan *p, const written *state) {
    for (uint32_t i = 0; i < p->build->n_slots; i++) {
        const vtrn_slot *slot = &p->build->slots[i].slot;
        bool is_donated = slot->kind == VTRN_SLOT_OUTPUT && slot->index >= 0 &&
                          p->build->program->output_alias[slot->index] >= 0;
        if (slot->kind == VTRN_SLOT_OUTPUT && !is_donated && !state[i].is_any &&
            state[i].n_bytes < (int64_t)slot->size_bytes)
            return VTRN_ERROR(VTRN_INTERNAL,
                              "plan: %lld of %llu bytes of output %d are written; this is a bug of "
                              "the compiler, please report the program",
                              (long long)state[i].n_bytes, (unsigned long long)slot->size_bytes,
                              slot->index);
    }
    return NULL;
}

/* --- SBUF ---------------------------------------------------------------------------------------
 */

/* A resident, and the last kernel that reads it. */
typedef struct life {
    const resident *r;
    uint32_t last;
} life;

typedef struct lives {
    life *at;
    uint32_t n, cap;
} lives;

static vtrn_status add_life(lives *x, const resident *r) {
    if (!array_grow((void **)&x->at, x->n, &x->cap, sizeof *x->at))
        return VTRN_OUT_OF_MEMORY(x->n * sizeof *x->at);
    x->at[x->n++] = (life){r, r->maker_i};
    return NULL;
}

static void extend(lives *x, const resident *r, uint32_t kernel_i) {
    for (uint32_t i = x->n; r && i-- > 0;)
        if (x->at[i].r == r) {
            x->at[i].last = kernel_i;
            return;
        }
}

static vtrn_status find_lives(const plan *p, lives *x) {
    for (uint32_t k = 0; k < p->list.n_kernels; k++) {
        const kernel *kernel_k = &p->list.kernels[k];
        const map_plan *m = kernel_k->kind == KERNEL_MAP ? kernel_k->spec : NULL;
        const contraction *c = kernel_k->kind == KERNEL_CONTRACT ? kernel_k->spec : NULL;
        for (int i = 0; m && i < m->f->n_nodes; i++) {
            const fusion_node *node = &m->f->nodes[i];
            if (node->is_live && node->kept)
                VTRN_RETURN_IF_ERROR(add_life(x, node->kept));
            extend(x, node->is_live ? node->taken : NULL, k);
        }
        if (m && m->f->conv)
            extend(x, m->conv.image_from, k);
        if (m)
            c = m->contracts;
        for (int i = 0; i < (m ? m->n_contracts : c ? 1 : 0); i++) {
            extend(x, c[i].a_from, k);
            extend(x, c[i].b_from, k);
        }
    }
    return NULL;
}

/* The resident against the kernels while it lives, and what is written to its tensor. */
static vtrn_status check_life(const plan *p, const life *x) {
    const resident *r = x->r;
    for (uint32_t k = r->maker_i; k <= x->last; k++) {
        const kernel *at = &p->list.kernels[k];
        uint64_t end = at->sbuf_addr + at->demand.sbuf_bytes;
        if (end > r->addr)
            return verify_failed(p, at,
                                 "it takes bytes %u..%llu of each partition, where the "
                                 "resident of tensor %u begins at %u",
                                 at->sbuf_addr, (unsigned long long)end, r->slot, r->addr);
        if (at->block_i != p->list.kernels[r->maker_i].block_i)
            return verify_failed(p, at, "a resident of tensor %u of another block is read",
                                 r->slot);
        const kernel_access *accesses = p->list.accesses + at->access_i;
        for (uint32_t i = 0; k > r->maker_i && k < x->last && i < at->n_accesses; i++)
            if (accesses[i].is_written && accesses[i].map.slot == r->slot)
                return verify_failed(p, at, "it writes tensor %u, whose resident is read later",
                                     r->slot);
    }
    if ((uint64_t)r->addr + r->n_bytes > p->sbuf_limit)
        return verify_failed(p, &p->list.kernels[r->maker_i],
                             "a resident ends at byte %llu of a partition, the limit is %u",
                             (unsigned long long)r->addr + r->n_bytes, p->sbuf_limit);
    return NULL;
}

/* Lives are in the order of their makers: those that meet the one at hand come soon after it. */
static vtrn_status check_meeting(const plan *p, const lives *x, uint32_t i) {
    const life *a = &x->at[i];
    for (uint32_t j = i + 1; j < x->n && x->at[j].r->maker_i <= a->last; j++) {
        const resident *r = a->r, *q = x->at[j].r;
        if (r->addr < q->addr + q->n_bytes && q->addr < r->addr + r->n_bytes)
            return verify_failed(p, &p->list.kernels[q->maker_i],
                                 "residents of tensors %u and %u share bytes %u.. of a partition",
                                 r->slot, q->slot, r->addr > q->addr ? r->addr : q->addr);
    }
    return NULL;
}

static vtrn_status check_sbuf(const plan *p, lives *x) {
    VTRN_RETURN_IF_ERROR(find_lives(p, x));
    for (uint32_t k = 0; k < p->list.n_kernels; k++) {
        const kernel *at = &p->list.kernels[k];
        if (at->sbuf_addr + at->demand.sbuf_bytes > p->sbuf_limit)
            return verify_failed(p, at, "it ends at byte %llu of a partition, the limit is %u",
                                 (unsigned long long)at->sbuf_addr + at->demand.sbuf_bytes,
                                 p->sbuf_limit);
    }
    for (uint32_t i = 0; i < x->n; i++) {
        VTRN_RETURN_IF_ERROR(check_life(p, &x->at[i]));
        VTRN_RETURN_IF_ERROR(check_meeting(p, x, i));
    }
    return NULL;
}

/* --- PSUM ---------------------------------------------------------------------------------------
 */

static vtrn_status check_psum(const plan *p, const kernel *k) {
    if (k->demand.psum_banks > p->chip->n_psum_banks)
        return verify_failed(p, k, "it needs %d PSUM banks, %s has %d", k->demand.psum_banks,
                             p->chip->name, p->chip->n_psum_banks);
    return NULL;
}

/* --- all ----------------------------------------------------------------------------------------
 */

static vtrn_status check_contraction(const plan *p, const graph *g, const kernel *k,
                                     const contraction *c) {
    VTRN_RETURN_IF_ERROR(verify_cut(p, k, c));
    return verify_contraction(p, g, k, c->spec);
}

static vtrn_status check_contractions(const plan *p, const graph *g, const kernel *k) {
    const map_plan *m = k->kind == KERNEL_MAP ? k->spec : NULL;
    if (m && m->f->n_side) {
        VTRN_RETURN_IF_ERROR(verify_sides(p, k, m->contracts, &m->sides));
        return verify_contraction(p, g, k, m->contracts[0].spec);
    }
    for (int i = 0; m && i < m->n_contracts; i++)
        VTRN_RETURN_IF_ERROR(check_contraction(p, g, k, &m->contracts[i]));
    if (m && m->f->conv)
        return verify_convolution(p, g, k, &m->conv);
    return k->kind == KERNEL_CONTRACT ? check_contraction(p, g, k, k->spec) : NULL;
}

static vtrn_status check_kernels(const plan *p, const graph *g, written *state) {
    for (uint32_t k = 0; k < p->list.n_kernels; k++) {
        const kernel *at = &p->list.kernels[k];
        for (uint32_t i = 0; i < at->n_accesses; i++)
            VTRN_RETURN_IF_ERROR(check_access(p, at, &p->list.accesses[at->access_i + i]));
        VTRN_RETURN_IF_ERROR(check_order(p, at, state));
        VTRN_RETURN_IF_ERROR(check_psum(p, at));
        if (at->kind == KERNEL_MAP)
            VTRN_RETURN_IF_ERROR(verify_map_tiles(p, at));
        VTRN_RETURN_IF_ERROR(check_contractions(p, g, at));
    }
    return check_outputs(p, state);
}

vtrn_status verify_plan(const plan *p, const graph *g) {
    written *state = calloc((size_t)p->build->n_slots + 1, sizeof *state);
    lives x = {0};
    vtrn_status status = state ? check_kernels(p, g, state) : VTRN_OUT_OF_MEMORY(sizeof *state);
    if (!status)
        status = check_sbuf(p, &x);
    free(state);
    free(x.at);
    return status;
}
