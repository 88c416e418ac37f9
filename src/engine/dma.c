/* DMA: copies between HBM and SBUF of any shape, with cast and accumulate; transpose, gather,
 * scatter. Casts go through fp32. Source: docs/hardware.md, "DMA". */
#include "engine/engine.h"
#include "engine/move.h"
#include "engine/plan_parts.h"
#include "engine/sharing.h"
#include "isa/access.h"

#include <stdlib.h>
#include <string.h>

enum {
    CHUNK_ELEMENTS = 4096, /* of a row, when elements are converted */
    MAX_ELEMENT_BYTES = 16,
    CHUNK_BYTES = CHUNK_ELEMENTS * MAX_ELEMENT_BYTES,
};
_Static_assert(2 * CHUNK_BYTES + 2 * CHUNK_ELEMENTS * (int)sizeof(float) <= ENGINE_SCRATCH_BYTES,
               "a chunk's buffers fit the scratch of a thread");

/* Rows [first, end) of the instruction that thread_i does next; start with {0, 0}. */
typedef struct share {
    engine_rows rows;
    bool is_even, is_done;
    int first, end;
} share;

static share share_of(const engine_core *core, const vtrn_instr *instr, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    int n = dst->n_partitions;
    switch (dma_split_of(instr)) {
    case DMA_SPLIT_DST:
        return (share){.rows = engine_rows_of(core, dst, thread_i)};
    case DMA_SPLIT_SRC:
        if (src->partition_step)
            return (share){.rows = engine_rows_of(core, src, thread_i)};
        return (share){.is_even = true,
                       .end =
                           engine_owner(core, src->partition) == thread_i ? src->n_partitions : 0};
    default:
        return (share){.is_even = true,
                       .first = (int)((int64_t)n * thread_i / core->n_threads),
                       .end = (int)((int64_t)n * (thread_i + 1) / core->n_threads)};
    }
}

static bool share_next(share *s) {
    if (s->is_even) {
        bool is_first = !s->is_done && s->first < s->end;
        s->is_done = true;
        return is_first;
    }
    bool has_more = engine_rows_next(&s->rows);
    s->first = s->rows.first;
    s->end = s->rows.end;
    return has_more;
}

/* How elements become other elements. */
typedef enum dma_mode { MODE_RAW, MODE_CAST, MODE_ADD_FP32, MODE_ADD_INT } dma_mode;

static vtrn_status mode_of(const vtrn_instr *instr, dma_mode *out) {
    uint8_t dst = instr->ap[0].dtype, src = instr->ap[1].dtype;
    bool is_adding = instr->flags & VTRN_FLAG_ACCUMULATE;
    if ((dst != src || is_adding) && (dtype_is_complex(dst) || dtype_is_complex(src)))
        return VTRN_ERROR(
            VTRN_UNSUPPORTED, "%s: %s to %s%s: DMA neither casts nor adds complex numbers",
            isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, dtype_name((vtrn_dtype)src),
            dtype_name((vtrn_dtype)dst), is_adding ? " with accumulate" : "");
    bool is_int32 = dst == src && (dst == VTRN_DTYPE_INT32 || dst == VTRN_DTYPE_UINT32);
    *out = is_adding ? is_int32 ? MODE_ADD_INT : MODE_ADD_FP32 : dst == src ? MODE_RAW : MODE_CAST;
    return NULL;
}

static vtrn_status check_equal(const vtrn_instr *instr, const char *what, uint64_t dst,
                               uint64_t src) {
    if (dst == src)
        return NULL;
    return VTRN_ERROR(VTRN_UNDEFINED, "%s: dst has %llu %s, src has %llu; they must be equal",
                      isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, (unsigned long long)dst,
                      what, (unsigned long long)src);
}

/* How rows that go through buffers are moved. */
typedef struct chunked_copy {
    const vtrn_ap *src_ap, *dst_ap; /* of every row */
    dma_mode mode;
    uint8_t *scratch; /* of the thread */
} chunked_copy;

/* Elements [from, from + n) of one row, n <= CHUNK_ELEMENTS. */
static void move_chunk(const chunked_copy *c, const uint8_t *src, uint8_t *dst, uint64_t from,
                       uint64_t n) {
    const vtrn_ap *src_ap = c->src_ap, *dst_ap = c->dst_ap;
    uint8_t *src_tmp = c->scratch, *dst_tmp = src_tmp + CHUNK_BYTES;
    float *values = (float *)(dst_tmp + CHUNK_BYTES);
    float *old = values + CHUNK_ELEMENTS;
    switch (c->mode) {
    case MODE_RAW:
        engine_row_gather(src_ap, src, from, n, src_tmp);
        engine_row_scatter(dst_ap, dst, from, n, src_tmp);
        return;
    case MODE_ADD_INT: {
        uint32_t *sum = (uint32_t *)dst_tmp;
        const uint32_t *addend = (const uint32_t *)src_tmp;
        engine_row_gather(src_ap, src, from, n, src_tmp);
        engine_row_gather(dst_ap, dst, from, n, dst_tmp);
        for (uint64_t i = 0; i < n; i++)
            sum[i] += addend[i];
        engine_row_scatter(dst_ap, dst, from, n, dst_tmp);
        return;
    }
    case MODE_ADD_FP32:
        engine_row_load_fp32(src_ap, src, from, n, values, src_tmp);
        engine_row_load_fp32(dst_ap, dst, from, n, old, dst_tmp);
        for (uint64_t i = 0; i < n; i++)
            values[i] = old[i] + values[i];
        engine_row_store_fp32(dst_ap, dst, from, n, values, dst_tmp);
        return;
    case MODE_CAST:
        engine_row_load_fp32(src_ap, src, from, n, values, src_tmp);
        engine_row_store_fp32(dst_ap, dst, from, n, values, dst_tmp);
        return;
    }
}

static void move_row_chunks(const chunked_copy *c, const uint8_t *src, uint8_t *dst, uint64_t from,
                            uint64_t end) {
    while (from < end) {
        uint64_t n = end - from < CHUNK_ELEMENTS ? end - from : CHUNK_ELEMENTS;
        move_chunk(c, src, dst, from, n);
        from += n;
    }
}

/* The loops of a row where elements go straight from one memory to the other, moved or converted.
 */
static bool is_straight(const vtrn_ap *src, const vtrn_ap *dst, dma_mode mode, move *row_move) {
    bool may = mode == MODE_RAW || (mode == MODE_CAST && src->space != dst->space);
    return may && move_of_rows(src, dst, row_move);
}

/* False: this cast needs buffers. */
static bool prepare_straight(move *m, const vtrn_instr *instr, dma_mode mode) {
    if (mode == MODE_CAST)
        return move_prepare_cast(m, instr->ap[1].dtype, instr->ap[0].dtype);
    move_prepare(m);
    return true;
}

static void run_straight(const move *m, const vtrn_instr *instr, dma_mode mode, const uint8_t *src,
                         uint8_t *dst) {
    if (mode == MODE_CAST)
        move_run_cast(m, instr->ap[1].dtype, instr->ap[0].dtype, src, dst);
    else
        move_run(m, src, dst);
}

/* Bytes from row 0 to what partition row `r` gets of an operand whose first n_row_dims dims count
 * rows, per_row of them in a row of its own. */
static int64_t folded_offset(const vtrn_ap *hbm, int n_row_dims, int per_row, int r) {
    int64_t offset = r / per_row * hbm->partition_step;
    int rest = r % per_row;
    for (int d = n_row_dims - 1; d >= 0; d--) {
        offset += rest % (int)hbm->dim[d].num * (int64_t)hbm->dim[d].step;
        rest /= (int)hbm->dim[d].num;
    }
    return offset * (int64_t)dtype_size(hbm->dtype);
}

/* A row in HBM that serves several partitions: stretches of rows at an even distance, one by one.
 */
static vtrn_status copy_folded(engine_core *core, const vtrn_instr *instr,
                               const uint64_t *slot_base, int thread_i) {
    bool is_store = instr->ap[0].space == VTRN_SPACE_HBM;
    const vtrn_ap *hbm = &instr->ap[!is_store], *sbuf = &instr->ap[is_store];
    int n_row_dims = isa_ap_row_dims(hbm, sbuf->n_partitions);
    if (hbm->space != VTRN_SPACE_HBM || sbuf->space != VTRN_SPACE_SBUF || n_row_dims < 1)
        return check_equal(instr, "rows", instr->ap[0].n_partitions, instr->ap[1].n_partitions);
    int per_row = sbuf->n_partitions / hbm->n_partitions,
        stretch = (int)hbm->dim[n_row_dims - 1].num;
    int64_t step = hbm->dim[n_row_dims - 1].step * (int64_t)dtype_size(hbm->dtype);
    vtrn_ap row = *hbm; /* of one partition */
    row.n_dims = (uint8_t)(hbm->n_dims - n_row_dims);
    memmove(row.dim, row.dim + n_row_dims, row.n_dims * sizeof row.dim[0]);
    const vtrn_ap *dst = is_store ? &row : sbuf, *src = is_store ? sbuf : &row;
    uint64_t n = isa_ap_free_size(dst);
    dma_mode mode;
    VTRN_RETURN_IF_ERROR(check_equal(instr, "elements a row", n, isa_ap_free_size(src)));
    VTRN_RETURN_IF_ERROR(mode_of(instr, &mode));
    const chunked_copy copy = {src, dst, mode, engine_scratch(core, thread_i)};
    move row_move, m = {0};
    bool is_plain = is_straight(src, dst, mode, &row_move);
    int64_t sbuf_step = engine_row_stride(core, sbuf);
    uint8_t *hbm_base = engine_row(core, hbm, slot_base, 0);
    share s = share_of(core, instr, thread_i);
    int prepared = 0, n_rows;
    while (share_next(&s))
        for (int r = s.first; r < s.end; r += n_rows) {
            n_rows = stretch - r % stretch;
            n_rows = n_rows < s.end - r ? n_rows : s.end - r;
            if (is_plain && prepared != n_rows) {
                m = row_move;
                move_add_outer(&m, (uint64_t)n_rows, is_store ? sbuf_step : step,
                               is_store ? step : sbuf_step);
                is_plain = prepare_straight(&m, instr, mode);
                prepared = n_rows;
            }
            n_rows = is_plain ? n_rows : 1;
            uint8_t *far = hbm_base + folded_offset(hbm, n_row_dims, per_row, r);
            uint8_t *near = engine_row(core, sbuf, slot_base, r);
            if (!is_plain) {
                move_row_chunks(&copy, is_store ? near : far, is_store ? far : near, 0, n);
                continue;
            }
            run_straight(&m, instr, mode, is_store ? near : far, is_store ? far : near);
        }
    return NULL;
}

/* A bit for each operand whose bytes the instruction also writes, for another row or element. Of
 * tensors in HBM their addresses decide, by the rule of the plan and of a kernel's queue. */
static unsigned crossed_of(const vtrn_instr *instr, const uint64_t *slot_base) {
    const vtrn_ap *dst = &instr->ap[0];
    if (dst->space != VTRN_SPACE_HBM)
        return engine_crossed(instr);
    unsigned crossed = 0;
    const share_hbm to = share_hbm_of(instr, 0, (int64_t)slot_base[dst->slot]);
    for (int i = 1; i < VTRN_MAX_AP; i++) {
        if (instr->ap[i].space != VTRN_SPACE_HBM)
            continue;
        const share_hbm from = share_hbm_of(instr, i, (int64_t)slot_base[instr->ap[i].slot]);
        crossed |= share_hbm_races(&to, &from) ? 1u << i : 0;
    }
    return crossed;
}

/* The access pattern of a copy of the operand in a host buffer, which stands for HBM: row after
 * row, without gaps. */
static vtrn_ap dense_of(const vtrn_ap *ap, int slot) {
    vtrn_ap dense = *ap;
    dense.space = VTRN_SPACE_HBM;
    dense.slot = (uint32_t)slot;
    dense.partition = 0;
    dense.addr = 0;
    dense.partition_step = 1;
    for (int d = ap->n_dims - 1; d >= 0; d--) {
        dense.dim[d].step = (int32_t)dense.partition_step;
        dense.partition_step *= ap->dim[d].num;
    }
    return dense;
}

/* Copies the rows of an operand that the thread reads into a buffer with room for all rows: all of
 * them where an index chooses rows, and for a transpose. The caller frees *out. */
static vtrn_status read_rows(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                             int thread_i, int ap_i, uint8_t **out) {
    const vtrn_ap *ap = &instr->ap[ap_i];
    const int64_t n_rows = access_rows(instr, ap_i);
    const uint64_t n = isa_ap_free_size(ap), row_bytes = n * dtype_size((vtrn_dtype)ap->dtype);
    uint8_t *rows = *out = malloc((size_t)n_rows * row_bytes + 1);
    if (!rows)
        return VTRN_OUT_OF_MEMORY((size_t)n_rows * row_bytes);
    bool is_all = instr->opcode == VTRN_OP_DMA_TRANSPOSE || n_rows != instr->ap[0].n_partitions ||
                  access_is_table(instr, ap_i) || instr->opcode == VTRN_OP_DMA_SCATTER;
    share s =
        is_all ? (share){.is_even = true, .end = (int)n_rows} : share_of(core, instr, thread_i);
    while (share_next(&s))
        for (int r = s.first; r < s.end; r++)
            engine_row_gather(ap, engine_row(core, ap, slot_base, r), 0, n,
                              rows + (uint64_t)r * row_bytes);
    return NULL;
}

/* Executes the instruction with copies of the operands that it crosses. The plan gives all rows of
 * such an instruction to one thread, but where each row stays in its partition. */
static vtrn_status move_across(engine_core *core, const vtrn_instr *instr,
                               const uint64_t *slot_base, int thread_i, unsigned crossed) {
    vtrn_instr moved = *instr;
    uint64_t base[VTRN_MAX_AP] = {0};
    uint8_t *rows[VTRN_MAX_AP] = {NULL};
    vtrn_status status = NULL;
    for (int i = 0; i < VTRN_MAX_AP && !status; i++) {
        if (instr->ap[i].space == VTRN_SPACE_HBM) {
            base[i] = slot_base[instr->ap[i].slot];
            moved.ap[i].slot = (uint32_t)i;
        }
        if (!(crossed >> i & 1))
            continue;
        status = read_rows(core, instr, slot_base, thread_i, i, &rows[i]);
        base[i] = (uint64_t)((uintptr_t)rows[i] - (uintptr_t)core->hbm);
        moved.ap[i] = dense_of(&instr->ap[i], i);
    }
    if (!status)
        status = engine_table[instr->opcode](core, &moved, base, thread_i);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        free(rows[i]);
    return status;
}

/* A copy onto itself that changes nothing. */
static bool is_in_place(const vtrn_instr *instr, const uint64_t *slot_base, dma_mode mode) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    return mode == MODE_RAW && isa_ap_is_same(dst, src) &&
           (dst->space != VTRN_SPACE_HBM || slot_base[dst->slot] == slot_base[src->slot]);
}

vtrn_status engine_op_DMA_COPY(engine_core *core, const vtrn_instr *instr,
                               const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    if (dst->n_partitions != src->n_partitions)
        return copy_folded(core, instr, slot_base, thread_i);
    uint64_t n = isa_ap_free_size(dst);
    dma_mode mode;
    VTRN_RETURN_IF_ERROR(check_equal(instr, "elements a row", n, isa_ap_free_size(src)));
    VTRN_RETURN_IF_ERROR(mode_of(instr, &mode));
    const unsigned crossed = dst->space == src->space ? crossed_of(instr, slot_base) : 0;
    if (crossed)
        return move_across(core, instr, slot_base, thread_i, crossed);
    if (is_in_place(instr, slot_base, mode))
        return NULL;
    const chunked_copy copy = {src, dst, mode, engine_scratch(core, thread_i)};
    move row_move;
    bool is_plain = is_straight(src, dst, mode, &row_move);
    share s = share_of(core, instr, thread_i);
    while (share_next(&s)) {
        if (is_plain) {
            move m = row_move;
            move_add_outer(&m, (uint64_t)(s.end - s.first), engine_row_stride(core, src),
                           engine_row_stride(core, dst));
            is_plain = prepare_straight(&m, instr, mode);
            if (is_plain) {
                run_straight(&m, instr, mode, engine_row(core, src, slot_base, s.first),
                             engine_row(core, dst, slot_base, s.first));
                continue;
            }
        }
        for (int r = s.first; r < s.end; r++)
            move_row_chunks(&copy, engine_row(core, src, slot_base, r),
                            engine_row(core, dst, slot_base, r), 0, n);
    }
    return NULL;
}

/* Bytes from element 0 to element i of a row. */
static int64_t element_offset(const vtrn_ap *ap, uint64_t i) {
    int64_t offset = 0;
    for (int d = ap->n_dims - 1; d >= 0; d--) {
        offset += (int64_t)(i % ap->dim[d].num) * ap->dim[d].step;
        i /= ap->dim[d].num;
    }
    return offset * (int64_t)dtype_size(ap->dtype);
}

void engine_transpose_rows(const engine_core *core, const vtrn_instr *instr,
                           const uint64_t *slot_base, bool is_split_by_src, int first, int end) {
    const vtrn_ap *src = &instr->ap[1], *dst = &instr->ap[0];
    const vtrn_ap *rows = is_split_by_src ? src : dst, *columns = is_split_by_src ? dst : src;
    vtrn_dim merged[VTRN_MAX_FREE_DIMS];
    bool is_regular = engine_ap_merge(columns, merged) == 1;
    int64_t size = (int64_t)dtype_size(src->dtype);
    int n_together = is_regular ? end - first : 1;
    move m = {.size = (size_t)size};
    for (int d = rows->n_dims - 1; d >= 0; d--) {
        int64_t step = rows->dim[d].step * size, inner = 1;
        for (int k = d + 1; k < rows->n_dims; k++)
            inner *= rows->dim[k].num;
        int64_t across = engine_row_stride(core, columns) * inner;
        move_add_outer(&m, rows->dim[d].num, is_split_by_src ? step : across,
                       is_split_by_src ? across : step);
    }
    int64_t down = engine_row_stride(core, rows), across = merged[0].step * size;
    move_add_outer(&m, (uint64_t)n_together, is_split_by_src ? down : across,
                   is_split_by_src ? across : down);
    move_prepare(&m);
    for (int r = first; r < end; r += n_together) {
        uint8_t *row_base = engine_row(core, rows, slot_base, r);
        uint8_t *column_base =
            engine_row(core, columns, slot_base, 0) + element_offset(columns, (uint64_t)r);
        move_run(&m, is_split_by_src ? row_base : column_base,
                 is_split_by_src ? column_base : row_base);
    }
}

vtrn_status engine_op_DMA_TRANSPOSE(engine_core *core, const vtrn_instr *instr,
                                    const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    VTRN_RETURN_IF_ERROR(check_equal(instr, "rows against elements a row", dst->n_partitions,
                                     isa_ap_free_size(src)));
    VTRN_RETURN_IF_ERROR(check_equal(instr, "elements a row against rows", isa_ap_free_size(dst),
                                     src->n_partitions));
    size_t size = dtype_size(dst->dtype);
    if (dst->dtype != src->dtype || (size != 2 && size != 4))
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "dma_transpose: %s to %s; both sides have the same 2- or 4-byte type",
                          dtype_name((vtrn_dtype)src->dtype), dtype_name((vtrn_dtype)dst->dtype));
    const unsigned crossed = dst->space == src->space ? crossed_of(instr, slot_base) : 0;
    if (crossed)
        return move_across(core, instr, slot_base, thread_i, crossed);
    bool is_split_by_src = dma_split_of(instr) == DMA_SPLIT_SRC;
    share s = share_of(core, instr, thread_i);
    while (share_next(&s))
        engine_transpose_rows(core, instr, slot_base, is_split_by_src, s.first, s.end);
    return NULL;
}

static vtrn_status check_indices(const vtrn_instr *instr, int n_rows) {
    const vtrn_ap *index = &instr->ap[2];
    if (index->dtype != VTRN_DTYPE_INT32 && index->dtype != VTRN_DTYPE_UINT32)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: indices are %s; they must be int32 or uint32",
                          isa_op_info((vtrn_opcode)instr->opcode)->mnemonic,
                          dtype_name((vtrn_dtype)index->dtype));
    if (index->n_partitions >= n_rows)
        return NULL;
    return VTRN_ERROR(VTRN_UNDEFINED, "%s: %d rows but %d indices",
                      isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, n_rows,
                      index->n_partitions);
}

/* The row that entry r names: *out -1 when it is to be left out. */
static vtrn_status indexed_row(const engine_core *core, const vtrn_instr *instr,
                               const uint64_t *slot_base, int r, int64_t *out) {
    const vtrn_ap *ap = &instr->ap[2];
    int32_t raw;
    memcpy(&raw, engine_row(core, ap, slot_base, r), sizeof raw);
    int64_t i = ap->dtype == VTRN_DTYPE_UINT32 ? (int64_t)(uint32_t)raw : raw;
    int64_t n = instr->arg[1];
    *out = i;
    if (i >= 0 && i < n)
        return NULL;
    if (instr->flags & VTRN_FLAG_OOB_SKIP) {
        *out = -1;
        return NULL;
    }
    if (instr->flags & VTRN_FLAG_CLAMP_INDEX) {
        *out = i < 0 ? 0 : n - 1;
        return NULL;
    }
    return VTRN_ERROR(
        VTRN_UNDEFINED,
        "%s: index %lld of row %d is outside of the tensor's %lld rows; skip or clamp "
        "such indices",
        isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, (long long)i, r, (long long)n);
}

vtrn_status engine_op_DMA_GATHER(engine_core *core, const vtrn_instr *instr,
                                 const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    uint64_t n = isa_ap_free_size(dst);
    dma_mode mode;
    VTRN_RETURN_IF_ERROR(check_equal(instr, "elements a row", n, isa_ap_free_size(src)));
    VTRN_RETURN_IF_ERROR(check_indices(instr, dst->n_partitions));
    VTRN_RETURN_IF_ERROR(mode_of(instr, &mode));
    const unsigned crossed = crossed_of(instr, slot_base);
    if (crossed)
        return move_across(core, instr, slot_base, thread_i, crossed);
    const chunked_copy copy = {src, dst, mode, engine_scratch(core, thread_i)};
    move m;
    bool is_plain = mode == MODE_RAW && move_of_rows(src, dst, &m);
    if (is_plain)
        move_prepare(&m);
    const bool is_run = is_plain && m.n_levels == 1 && m.level[0].n == 1;
    const uint8_t *table = engine_row(core, src, slot_base, 0);
    int64_t pitch = engine_row_stride(core, src);
    share s = share_of(core, instr, thread_i);
    while (share_next(&s))
        for (int r = s.first; r < s.end; r++) {
            int64_t i;
            VTRN_RETURN_IF_ERROR(indexed_row(core, instr, slot_base, r, &i));
            if (i < 0)
                continue;
            const uint8_t *from = table + i * pitch;
            uint8_t *to = engine_row(core, dst, slot_base, r);
            if (is_run && m.size == sizeof(uint32_t))
                memcpy(to, from, sizeof(uint32_t));
            else if (is_run)
                memcpy(to, from, m.size);
            else if (is_plain)
                move_run(&m, from, to);
            else
                move_row_chunks(&copy, from, to, 0, n);
        }
    return NULL;
}

/* Rows meet each other in HBM when an index occurs twice, so each thread takes a part of the
 * columns and does all rows of it in ascending order. */
vtrn_status engine_op_DMA_SCATTER(engine_core *core, const vtrn_instr *instr,
                                  const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    uint64_t n = isa_ap_free_size(src);
    dma_mode mode;
    VTRN_RETURN_IF_ERROR(check_equal(instr, "elements a row", isa_ap_free_size(dst), n));
    VTRN_RETURN_IF_ERROR(check_indices(instr, src->n_partitions));
    VTRN_RETURN_IF_ERROR(mode_of(instr, &mode));
    const unsigned crossed = crossed_of(instr, slot_base);
    if (crossed)
        return move_across(core, instr, slot_base, thread_i, crossed);
    uint64_t first = n * (uint64_t)thread_i / (uint64_t)core->n_threads;
    uint64_t end = n * (uint64_t)(thread_i + 1) / (uint64_t)core->n_threads;
    int64_t pitch = engine_row_stride(core, dst), i;
    const chunked_copy copy = {src, dst, mode, engine_scratch(core, thread_i)};
    move m;
    bool is_plain = core->n_threads == 1 && mode == MODE_RAW && move_of_rows(src, dst, &m);
    if (is_plain)
        move_prepare(&m);
    for (int r = 0; r < src->n_partitions; r++) /* before anything is written */
        VTRN_RETURN_IF_ERROR(indexed_row(core, instr, slot_base, r, &i));
    for (int r = 0; r < src->n_partitions; r++) {
        VTRN_RETURN_IF_ERROR(indexed_row(core, instr, slot_base, r, &i));
        if (i < 0)
            continue;
        const uint8_t *from = engine_row(core, src, slot_base, r);
        uint8_t *to = engine_row(core, dst, slot_base, 0) + i * pitch;
        if (is_plain)
            move_run(&m, from, to);
        else
            move_row_chunks(&copy, from, to, first, end);
    }
    return NULL;
}
