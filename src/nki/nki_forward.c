/* Leaves copies out of an epoch: rows that a load brings to a tile, or a store takes from one, are
 * read and written in HBM by the instructions in between. Each element passes
 * through the same kernels, so bits are the same.
 *
 *     load   HBM a -> tile x                           (left out)
 *     scale  tile y = tile x * 2        becomes        HBM b = HBM a * 2
 *     store  tile y -> HBM b                           (left out)
 *
 * The tile must be dead when the epoch is over: nothing else misses what is not written to it. The
 * rows stay with the threads that have their partitions. */
#include "nki/nki_epoch.h"

#include "engine/plan_parts.h"

/* Operands that may be in HBM: those that the function binds row by row, whatever their space. */
static bool may_read_hbm(const vtrn_instr *instr) {
    switch (instr->opcode) {
    case VTRN_OP_TENSOR_TENSOR:
    case VTRN_OP_TENSOR_SCALAR:
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
    case VTRN_OP_TENSOR_REDUCE:
    case VTRN_OP_ACTIVATE:
    case VTRN_OP_RECIPROCAL:
    case VTRN_OP_BN_STATS:
    case VTRN_OP_MAX8:
    case VTRN_OP_FIND_INDEX8:
        return true;
    default:
        return false;
    }
}

static bool may_write_hbm(const vtrn_instr *instr) {
    switch (instr->opcode) {
    case VTRN_OP_TENSOR_TENSOR:
    case VTRN_OP_TENSOR_SCALAR:
    case VTRN_OP_SCALAR_TENSOR_TENSOR:
    case VTRN_OP_ACTIVATE:
    case VTRN_OP_RECIPROCAL:
        return true;
    default:
        return false;
    }
}

/* A copy whose rows are adjacent elements on both sides, of one type. */
typedef struct copy {
    uint32_t at; /* instruction of the epoch */
    const vtrn_ap *tile, *hbm;
    int64_t lo, hi; /* bytes of the tile's partitions */
} copy;

static bool is_copy(const nki_epoch *e, uint32_t at, bool is_store, copy *out) {
    const vtrn_instr *instr = &e->instr[at];
    const vtrn_ap *tile = &instr->ap[is_store], *hbm = &instr->ap[!is_store];
    if (instr->opcode != VTRN_OP_DMA_COPY || instr->flags || tile->space != VTRN_SPACE_SBUF ||
        hbm->space != VTRN_SPACE_HBM || tile->dtype != hbm->dtype || tile->partition_step != 1 ||
        tile->n_partitions != hbm->n_partitions || !engine_ap_is_dense(tile) ||
        !engine_ap_is_dense(hbm) || isa_ap_free_size(tile) != isa_ap_free_size(hbm))
        return false;
    *out = (copy){.at = at, .tile = tile, .hbm = hbm};
    isa_ap_extent(tile, &out->lo, &out->hi);
    return true;
}

/* Whether nothing reads the tile when the epoch is over. */
static bool is_dead(const nki_epoch *e, const copy *c) {
    for (uint32_t i = 0; i < e->n_dead; i++) {
        const nki_released *d = &e->dead[i];
        if (d->space == VTRN_SPACE_SBUF && d->addr <= c->lo &&
            c->hi <= d->addr + (int64_t)d->n_bytes)
            return true;
    }
    return false;
}

static bool meets(const copy *c, const vtrn_ap *ap) {
    int64_t lo, hi;
    if (ap->space != VTRN_SPACE_SBUF)
        return false;
    isa_ap_extent(ap, &lo, &hi);
    return lo < c->hi && c->lo < hi && ap->partition < c->tile->partition + c->tile->n_partitions &&
           c->tile->partition < ap->partition + ap->n_partitions;
}

/* Whether the operand is inside of what the copy moves; row r of it in partition r behind its
 * first. */
static bool is_inside(const copy *c, const vtrn_ap *ap) {
    int64_t lo, hi;
    isa_ap_extent(ap, &lo, &hi);
    return lo >= c->lo && hi <= c->hi && ap->partition_step == 1 &&
           ap->partition >= c->tile->partition &&
           ap->partition + ap->n_partitions <= c->tile->partition + c->tile->n_partitions;
}

/* Whether it is all of it. */
static bool is_all(const copy *c, const vtrn_ap *ap) {
    return is_inside(c, ap) && ap->n_partitions == c->tile->n_partitions &&
           engine_ap_is_dense(ap) &&
           (int64_t)(isa_ap_free_size(ap) * dtype_size((vtrn_dtype)ap->dtype)) == c->hi - c->lo;
}

static int64_t element_bytes(const vtrn_ap *ap) {
    size_t size = dtype_size((vtrn_dtype)ap->dtype);
    return size ? (int64_t)size : 1; /* every operand has a type */
}

/* The same elements in HBM. Addresses there count from where HBM begins, so that those of two
 * tensors can be compared as those of one memory; `partition` still says whose rows they are. */
static vtrn_ap in_hbm(const nki_epoch *e, const copy *c, const vtrn_ap *ap, uint32_t slot) {
    vtrn_ap out = *ap;
    int64_t pitch = c->hbm->partition_step * element_bytes(c->hbm);
    out.space = VTRN_SPACE_HBM;
    out.slot = slot;
    out.partition_step = pitch / element_bytes(ap);
    out.addr = (int64_t)e->base[c->hbm->slot] + c->hbm->addr + (ap->addr - c->lo) +
               (ap->partition - c->tile->partition) * pitch;
    return out;
}

/* Whether rows of the operand's type begin at multiples of its elements there. */
static bool is_aligned(const nki_epoch *e, const copy *c, const vtrn_ap *ap) {
    int64_t pitch = c->hbm->partition_step * element_bytes(c->hbm);
    int64_t start = (int64_t)e->base[c->hbm->slot] + c->hbm->addr;
    return pitch % element_bytes(ap) == 0 && (start - c->lo) % element_bytes(ap) == 0;
}

/* Whether instructions [first, end) touch the memory of the copy's tensor, or only write it. */
static bool touches_tensor(const nki_epoch *e, const copy *c, uint32_t first, uint32_t end,
                           bool only_writes) {
    for (uint32_t k = first; k < end; k++)
        for (int i = 0; i < VTRN_MAX_AP && !e->is_left_out[k]; i++) {
            const vtrn_instr *instr = &e->instr[k];
            if (k == c->at || !access_is_memory(instr, i) || instr->ap[i].space != VTRN_SPACE_HBM)
                continue;
            bool is_same = e->tensor[instr->ap[i].slot] == e->tensor[c->hbm->slot];
            if (is_same && (!only_writes || access_is_written(instr, i)))
                return true;
        }
    return false;
}

/* Whether all that reads what the load brings may read HBM, until an instruction overwrites it or
 * the tile is dead. With a slot they do. */
static bool forward_load(nki_epoch *e, const copy *c, const uint32_t *slot) {
    for (uint32_t k = c->at + 1; k < e->n; k++) {
        vtrn_instr *instr = &e->instr[k];
        bool is_overwritten = false;
        for (int i = VTRN_MAX_AP - 1; i >= 0; i--) {
            vtrn_ap *ap = &instr->ap[i];
            if (e->is_left_out[k] || !access_is_memory(instr, i) || !meets(c, ap))
                continue;
            bool is_written = access_is_written(instr, i);
            bool is_read = access_is_read(instr, i);
            if (is_written && (is_read || !is_all(c, ap)))
                return false;
            is_overwritten |= is_written;
            if (is_written)
                continue;
            if (!may_read_hbm(instr) || !is_inside(c, ap) || !is_aligned(e, c, ap) ||
                share_kind_of(instr, i) != SHARE_OWNER_READ)
                return false;
            if (slot)
                *ap = in_hbm(e, c, ap, *slot);
        }
        if (is_overwritten)
            return true;
    }
    return is_dead(e, c);
}

/* A slot whose addresses count from where HBM begins. */
static uint32_t add_slot(nki_epoch *e, const copy *c) {
    e->base[e->n_bases] = 0;
    e->tensor[e->n_bases] = e->tensor[c->hbm->slot];
    return e->n_bases++;
}

/* The instruction that writes all that the store moves, and nothing else reads: its number, or
 * e->n. */
static uint32_t writer_of(const nki_epoch *e, const copy *c) {
    uint32_t writer = e->n;
    for (uint32_t k = 0; k < e->n; k++) {
        const vtrn_instr *instr = &e->instr[k];
        bool is_writer = false, is_reader = false;
        for (int i = 0; i < VTRN_MAX_AP && !e->is_left_out[k] && k != c->at; i++) {
            if (!access_is_memory(instr, i) || !meets(c, &instr->ap[i]))
                continue;
            is_writer |= access_is_written(instr, i);
            is_reader |= access_is_read(instr, i);
        }
        if (k > c->at && (is_writer || is_reader))
            return e->n;
        if (is_writer)
            writer = k;
        else if (is_reader)
            writer = e->n;
    }
    if (writer == e->n)
        return e->n;
    const vtrn_instr *w = &e->instr[writer];
    bool is_fit = may_write_hbm(w) && is_all(c, &w->ap[0]) && w->ap[0].dtype == c->tile->dtype &&
                  !access_is_read(w, 0) && !touches_tensor(e, c, writer, c->at, false);
    return is_fit ? writer : e->n;
}

void nki_forward(nki_epoch *e) {
    copy c;
    for (uint32_t k = 0; k < e->n; k++) {
        uint32_t writer = is_copy(e, k, true, &c) && is_dead(e, &c) ? writer_of(e, &c) : e->n;
        if (writer == e->n)
            continue;
        e->instr[writer].ap[0] = in_hbm(e, &c, &e->instr[writer].ap[0], add_slot(e, &c));
        e->is_left_out[k] = true;
    }
    for (uint32_t k = 0; k < e->n; k++) {
        if (e->is_left_out[k] || !is_copy(e, k, false, &c) ||
            touches_tensor(e, &c, 0, e->n, true) || !forward_load(e, &c, NULL))
            continue;
        uint32_t slot = add_slot(e, &c);
        forward_load(e, &c, &slot);
        e->is_left_out[k] = true;
    }
}
