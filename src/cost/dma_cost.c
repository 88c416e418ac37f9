/* Cost of a DMA on the engines that carry it. Source: nki-dma-overview and nki-dma-bandwidth-guide:
 * rows are dealt over the engines, 8 partitions to each, a contiguous run is a descriptor or
 * several.
 */
#include "cost/cost.h"

#include <math.h>

/* Elements of the longest contiguous run inside a row, from the innermost dimension outwards. */
static double run_elements(const vtrn_ap *ap) {
    double run = 1;
    for (int i = ap->n_dims - 1; i >= 0; i--) {
        if (ap->dim[i].num == 1)
            continue;
        if ((double)ap->dim[i].step != run)
            break;
        run *= ap->dim[i].num;
    }
    return run;
}

/* All rows are one run: HBM operands only. */
static bool is_one_run(const vtrn_ap *ap) {
    double n = (double)isa_ap_free_size(ap);
    return ap->space == VTRN_SPACE_HBM && run_elements(ap) == n &&
           (ap->n_partitions == 1 || (double)ap->partition_step == n);
}

/* ns in which an engine of that transfer moves n_bytes in runs of run_bytes. */
static double runs_ns(const vtrn_chip *chip, const transfer_cost *transfer, double n_bytes,
                      double run_bytes) {
    double n_descriptors =
        ceil(n_bytes / run_bytes) * ceil(run_bytes / chip->dma.max_descriptor_bytes);
    double each_ns =
        transfer->element_ns + n_bytes / n_descriptors / transfer->engine_bytes_per_s * 1e9;
    return n_descriptors * fmax(each_ns, chip->dma.min_element_ns);
}

double cost_runs_ns(const vtrn_chip *chip, double n_bytes, double run_bytes) {
    transfer_cost load = {.engine_bytes_per_s = chip->dma.load_bytes_per_s,
                          .element_ns = chip->dma.load_element_ns};
    return runs_ns(chip, &load, n_bytes, run_bytes);
}

/* Rows of HBM whose addresses differ by a multiple of strided_pitch_bytes share banks. Adjacent
 * rows use different banks, and a row of strided_row_bytes or more spreads over several by itself.
 */
static bool is_strided(const vtrn_chip *chip, const vtrn_ap *src) {
    double pitch_bytes = fabs((double)src->partition_step) * (double)dtype_size(src->dtype);
    return src->space == VTRN_SPACE_HBM && src->n_partitions > 1 && !is_one_run(src) &&
           run_elements(src) * (double)dtype_size(src->dtype) < chip->dma.strided_row_bytes &&
           pitch_bytes > 0 && fmod(pitch_bytes, chip->dma.strided_pitch_bytes) == 0;
}

/* What happens before the first byte moves, and before the next DMA of the same queue may follow.
 */
static void begin_transfer(const vtrn_chip *chip, int issuer, bool reads_hbm, double bytes,
                           transfer_cost *out) {
    out->start_ns = reads_hbm ? chip->dma.start_ns : chip->dma.store_start_ns;
    out->issue_ns = !chip->dma.uses_dge            ? chip->dma.trigger_ns
                    : issuer == VTRN_ENGINE_GPSIMD ? chip->dma.dge_gpsimd_ns
                                                   : chip->dma.dge_interval_ns;
    out->engine_bytes_per_s = reads_hbm ? chip->dma.load_bytes_per_s : chip->dma.engine_bytes_per_s;
    out->element_ns = reads_hbm ? chip->dma.load_element_ns : chip->dma.element_ns;
    out->skew_ns = chip->dma.engine_skew_ns;
    if (reads_hbm)
        out->skew_ns +=
            bytes / chip->dma.load_page_bytes * chip->dma.load_page_ns / chip->n_dma_engines;
}

static double row_bytes(const vtrn_ap *ap) {
    return (double)isa_ap_free_size(ap) * (double)dtype_size(ap->dtype);
}

/* Of the side in SBUF, if there is one. */
static double moved_rows(const vtrn_instr *instr) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    return dst->space == VTRN_SPACE_SBUF ? dst->n_partitions : src->n_partitions;
}

static bool is_indirect(const vtrn_instr *instr) {
    return isa_op_info(instr->opcode)->cost == COST_DMA_INDIRECT;
}

/* Of the larger side: where DMA casts they differ. A gather moves one row of HBM a row of the other
 * side, not the whole table. */
static double moved_bytes(const vtrn_instr *instr) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    if (is_indirect(instr))
        return fmax(row_bytes(dst), row_bytes(src)) * moved_rows(instr);
    return fmax(row_bytes(dst) * dst->n_partitions, row_bytes(src) * src->n_partitions);
}

/* Bytes of the runs that are contiguous on both sides. */
static double common_run_bytes(const vtrn_instr *instr) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    if (is_one_run(dst) && is_one_run(src) && !is_indirect(instr))
        return moved_bytes(instr);
    return fmin(run_elements(dst) * (double)dtype_size(dst->dtype),
                run_elements(src) * (double)dtype_size(src->dtype));
}

double cost_runs(const vtrn_instr *instr) {
    double bytes = moved_bytes(instr);
    return bytes > 0 ? ceil(bytes / common_run_bytes(instr)) : 0;
}

/* Throughput relative to a copy. 0: each element is moved by itself. */
static double throughput_factor(const vtrn_chip *chip, const vtrn_instr *instr) {
    double factor = 1;
    if (instr->opcode == VTRN_OP_DMA_TRANSPOSE)
        factor *= chip->dma.transpose_factor;
    if (instr->flags & VTRN_FLAG_ACCUMULATE)
        factor *= chip->dma.accumulate_factor;
    return factor;
}

static void count_hbm_bytes(const vtrn_instr *instr, transfer_cost *out) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    /* A gather touches one HBM row a partition of the other side, not the whole table. */
    double rows = dst->n_partitions < src->n_partitions ? dst->n_partitions : src->n_partitions;
    bool by_index = is_indirect(instr);
    if (src->space == VTRN_SPACE_HBM)
        out->hbm_read_bytes += (uint64_t)(row_bytes(src) * (by_index ? rows : src->n_partitions));
    if (dst->space == VTRN_SPACE_HBM) {
        double written = row_bytes(dst) * (by_index ? rows : dst->n_partitions);
        out->hbm_write_bytes += (uint64_t)written;
        if (instr->flags & VTRN_FLAG_ACCUMULATE)
            out->hbm_read_bytes += (uint64_t)written;
    }
}

/* No side is in SBUF: nothing ties a row to an engine, so whole pieces are dealt evenly. */
static void deal_evenly(const vtrn_chip *chip, double bytes, double run_bytes, double slow_down,
                        transfer_cost *out) {
    double piece_bytes = fmin(bytes, fmin(run_bytes, chip->dma.max_descriptor_bytes));
    double n_pieces = ceil(bytes / piece_bytes);
    double engine_bytes = ceil(n_pieces / chip->n_dma_engines) * piece_bytes;
    double n_full = ceil(bytes / engine_bytes) - 1, last_bytes = bytes - n_full * engine_bytes;
    out->n_engines = (uint8_t)(n_full + 1);
    out->engine_ns = runs_ns(chip, out, engine_bytes, piece_bytes) * slow_down;
    out->last_ns = runs_ns(chip, out, last_bytes, fmin(piece_bytes, last_bytes)) * slow_down;
}

static int rows_per_engine(const vtrn_chip *chip, double n_rows) {
    return (int)fmax(chip->dma.partitions_per_engine, ceil(n_rows / chip->n_dma_engines));
}

static void deal_rows(const vtrn_chip *chip, double n_rows, double bytes, double run_bytes,
                      transfer_cost *out) {
    int per_engine = rows_per_engine(chip, n_rows);
    int n_engines = (int)ceil(n_rows / per_engine);
    double last_rows = n_rows - (double)(n_engines - 1) * per_engine;
    double row_ns = runs_ns(chip, out, bytes, run_bytes);
    out->n_engines = (uint8_t)n_engines;
    out->engine_ns = row_ns * per_engine;
    out->last_ns = row_ns * last_rows;
}

transfer_cost cost_transfer(const vtrn_chip *chip, const vtrn_instr *instr) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    transfer_cost out = {0};
    double n_rows = moved_rows(instr), bytes = moved_bytes(instr);
    count_hbm_bytes(instr, &out);
    begin_transfer(chip, instr->engine, src->space == VTRN_SPACE_HBM, bytes, &out);
    if (is_strided(chip, src))
        out.engine_bytes_per_s = chip->dma.strided_load_bytes_per_s;
    if (!(bytes > 0) || !(n_rows > 0)) {
        out.n_engines = 1;
        return out;
    }
    double factor = throughput_factor(chip, instr), slow_down = factor > 0 ? 1 / factor : 1;
    double run_bytes = common_run_bytes(instr);
    if (instr->opcode == VTRN_OP_DMA_TRANSPOSE) /* the hardware mode works on whole tiles */
        run_bytes = factor > 0 ? bytes / n_rows : (double)dtype_size(dst->dtype);
    const vtrn_ap *sbuf = dst->space == VTRN_SPACE_SBUF ? dst : src;
    if (sbuf->space != VTRN_SPACE_SBUF) {
        deal_evenly(chip, bytes, run_bytes, slow_down, &out);
        return out;
    }
    deal_rows(chip, n_rows, bytes / n_rows, fmin(run_bytes, bytes / n_rows), &out);
    out.first_engine =
        (uint8_t)(sbuf->partition / rows_per_engine(chip, n_rows) % chip->n_dma_engines);
    double fetch_ns = chip->dma.uses_dge && instr->engine == VTRN_ENGINE_GPSIMD
                          ? chip->dma.dge_gpsimd_fetch_ns
                          : 0;
    out.engine_ns = out.engine_ns * slow_down + fetch_ns;
    out.last_ns = out.last_ns * slow_down + fetch_ns;
    return out;
}

transfer_cost cost_tile_transfer(const vtrn_chip *chip, bool is_store, double n_rows,
                                 double row_bytes, double run_bytes) {
    transfer_cost out = {0};
    begin_transfer(chip, VTRN_ENGINE_SYNC, !is_store, n_rows * row_bytes, &out);
    *(is_store ? &out.hbm_write_bytes : &out.hbm_read_bytes) = (uint64_t)(n_rows * row_bytes);
    deal_rows(chip, n_rows, row_bytes, fmin(run_bytes, row_bytes), &out);
    return out;
}

double cost_transfer_interval_ns(const vtrn_chip *chip, const transfer_cost *transfer,
                                 double n_parts) {
    double engine_ns =
        transfer->n_engines > 1 ? fmax(transfer->engine_ns, transfer->last_ns) : transfer->last_ns;
    double bytes = (double)(transfer->hbm_read_bytes + transfer->hbm_write_bytes);
    double update_ns = chip->n_dma_engines * chip->cost.semaphore_serial_ns;
    return fmax(fmax(engine_ns, bytes / chip->hbm_bytes_per_s * 1e9),
                n_parts * fmax(update_ns, transfer->issue_ns));
}
