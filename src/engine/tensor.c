/* Tensor engine: stationary tile, products with a moving tile into PSUM, transposes.
 *
 * The stationary tile is kept in panels of 8 columns, panel[k][8] in fp32. A moving tile passes in
 * strips of 48 columns, converted to fp32. Both may lie in HBM here: see engine/in_place.h.
 * Source of dtypes and accumulation: docs/hardware.md, "Tensor engine"; a product is rounded once
 * (fused multiply-add), k ascending, which the vendor leaves open. */
#include "engine/tensor.h"
#include "engine/engine.h"
#include "engine/tensor_kernels.h"

#include <string.h>

enum {
    BLOCK = TENSOR_BLOCK_ROWS,
    STRIP = TENSOR_STRIP_COLS,
    CHUNK =
        10 * STRIP, /* columns converted at a time where no inner loop exists: fills the scratch */
    MAX_ELEMENT_BYTES = 16,
    LINE = 64,     /* bytes that a cache takes at once */
    LEAST_RUN = 4, /* elements; of shorter runs the general way is as fast */
    /* Elements of a stationary tile in which ones are looked for, and of a moving tile whose
     * product takes long enough for what is behind it to be asked for. */
    LEAST_SEARCHED = 1024,
    LEAST_ASKING = 2048,
};
_Static_assert(ENGINE_PE_ROWS *CHUNK * sizeof(float) <= ENGINE_SCRATCH_BYTES, "a chunk fits");
_Static_assert(4 * ENGINE_PE_ROWS * STRIP * sizeof(float) <= ENGINE_SCRATCH_BYTES, "an MX strip");
_Static_assert(ENGINE_OWNER_ROWS % BLOCK == 0, "a panel belongs to one thread");

/* tf32 keeps 10 bits of the mantissa, round to nearest even. */
static void round_to_tf32(float *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if ((bits & 0x7f800000) != 0x7f800000)
            bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
        memcpy(&values[i], &bits, sizeof bits);
    }
}

static void load_row(const vtrn_ap *ap, const uint8_t *row, uint64_t from, size_t n, float *out) {
    uint8_t tmp[CHUNK * MAX_ELEMENT_BYTES];
    engine_row_load_fp32(ap, row, from, n, out, tmp);
    if (ap->dtype == VTRN_DTYPE_TF32)
        round_to_tf32(out, n);
}

static bool is_aligned(const vtrn_ap *ap, vtrn_dtype dtype) {
    return ap->dtype == dtype && ap->addr % (int64_t)dtype_size(dtype) == 0;
}

/* An operand that the inner loops can read or write as it lies. */
static bool is_ready(const vtrn_ap *ap, vtrn_dtype dtype) {
    return is_aligned(ap, dtype) && engine_ap_is_dense(ap);
}

/* A moving tile of whole strips as they lie. */
static bool is_strippable(const vtrn_ap *ap) {
    return is_ready(ap, VTRN_DTYPE_FP32) || is_ready(ap, VTRN_DTYPE_BF16);
}

/* The innermost dim that has more than one element; 0 if none has, or there is none. */
static int innermost(const vtrn_ap *ap) {
    int d = ap->n_dims - 1;
    while (d > 0 && ap->dim[d].num == 1)
        d--;
    return d < 0 ? 0 : d;
}

/* Whether the runs of a row are worth being walked one by one. */
static bool has_runs(const vtrn_ap *ap, vtrn_dtype dtype) {
    return is_aligned(ap, dtype) && ap->n_dims > 0 && ap->dim[innermost(ap)].num >= LEAST_RUN;
}

/* Columns [from, from + n) of a row, n at most a strip. */
static void find_runs(const vtrn_ap *ap, uint64_t from, int n, tensor_runs *out) {
    uint64_t place[VTRN_MAX_FREE_DIMS] = {0};
    const int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    const int last = innermost(ap);
    for (int d = ap->n_dims - 1; d >= 0; d--) {
        place[d] = from % ap->dim[d].num;
        from /= ap->dim[d].num;
    }
    out->n_runs = 0;
    out->n_cols = n;
    out->step = ap->dim[last].step;
    for (int at = 0; at < n;) {
        uint64_t left = ap->dim[last].num - place[last];
        int len = n - at < TENSOR_VECTOR_COLS ? n - at : TENSOR_VECTOR_COLS;
        len = left < (uint64_t)len ? (int)left : len;
        int64_t offset = 0;
        for (int d = 0; d <= last; d++)
            offset += (int64_t)place[d] * ap->dim[d].step;
        out->run[out->n_runs++] = (tensor_run){.at = at, .n = len, .byte = offset * size};
        at += len;
        place[last] += (uint64_t)len;
        for (int d = last; d > 0 && place[d] == ap->dim[d].num; d--) {
            place[d] = 0;
            place[d - 1]++;
        }
    }
}

static vtrn_status check_operand_type(const vtrn_instr *instr, const vtrn_ap *ap) {
    switch (ap->dtype) {
    case VTRN_DTYPE_C64:
    case VTRN_DTYPE_C128:
    case VTRN_DTYPE_FP64:
    case VTRN_DTYPE_INT64:
    case VTRN_DTYPE_UINT64:
        return VTRN_ERROR(VTRN_UNSUPPORTED, "%s: the PE array does not take %s",
                          isa_op_info((vtrn_opcode)instr->opcode)->mnemonic,
                          dtype_name((vtrn_dtype)ap->dtype));
    default:
        return NULL;
    }
}

/* A column alone in its panel. Products with the columns beside it are not used. */
static void load_column(const uint8_t *src, size_t stride, bool is_bf16, int n_rows, float *panel) {
    for (int k = 0; k < n_rows; k++, src += stride, panel += BLOCK) {
        uint16_t half;
        uint32_t bits;
        if (is_bf16) {
            memcpy(&half, src, sizeof half);
            bits = (uint32_t)half << 16;
        } else {
            memcpy(&bits, src, sizeof bits);
        }
        memcpy(panel, &bits, sizeof bits);
    }
}

/* Columns [first, end) of the stationary tile into its panels; first is a multiple of 8. */
static void load_panels(const engine_core *core, const vtrn_ap *ap, const uint8_t *base, int first,
                        int end, float *tile) {
    const tensor_kernels *kernels = CPU_TABLE(tensor_kernel_table);
    const int n_rows = ap->n_partitions;
    size_t stride = (size_t)engine_row_stride(core, ap);
    bool is_fp32 = is_ready(ap, VTRN_DTYPE_FP32), is_bf16 = is_ready(ap, VTRN_DTYPE_BF16);
    float *panels = tile + (size_t)(first / BLOCK) * TENSOR_PANEL_STRIDE;
    const uint8_t *src = base + (size_t)first * dtype_size((vtrn_dtype)ap->dtype);
    int n = end - first;
    if (n == 1 && (is_fp32 || is_bf16)) {
        load_column(src, stride, is_bf16, n_rows, panels);
        return;
    }
    if (n % BLOCK) /* columns that do not exist weigh nothing */
        memset(panels + (size_t)(n / BLOCK) * TENSOR_PANEL_STRIDE, 0,
               (size_t)n_rows * BLOCK * sizeof *panels);
    if (is_fp32 || is_bf16) {
        (is_fp32 ? kernels->panels_fp32 : kernels->panels_bf16)(src, stride, n_rows, n, panels);
        return;
    }
    for (int k = 0; k < n_rows; k++) {
        float row[ENGINE_PE_ROWS];
        load_row(ap, base + (size_t)k * stride, (uint64_t)first, (size_t)n, row);
        for (int m = 0; m < n; m++)
            panels[(size_t)(m / BLOCK) * TENSOR_PANEL_STRIDE + (size_t)(k * BLOCK + m % BLOCK)] =
                row[m];
    }
}

/* Looks for ones in the panels of columns [first, end). A column alone is no whole panel. */
static void find_ones(engine_core *core, int n_k, int first, int end) {
    const tensor_kernels *kernels = CPU_TABLE(tensor_kernel_table);
    for (int m = first / BLOCK; m * BLOCK < end; m++) {
        tensor_ones *ones = &core->regs->pe_ones[m];
        ones->is_valid = false;
        if (end - first > 1 && n_k * (end - first) >= LEAST_SEARCHED)
            kernels->find_ones(core->regs->pe_weights + (size_t)m * TENSOR_PANEL_STRIDE, n_k, ones);
    }
}

vtrn_status engine_op_LDWEIGHTS(engine_core *core, const vtrn_instr *instr,
                                const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *ap = &instr->ap[1];
    uint64_t n_cols = isa_ap_free_size(ap);
    VTRN_RETURN_IF_ERROR(check_operand_type(instr, ap));
    if (n_cols > ENGINE_PE_ROWS || ap->n_partitions > ENGINE_PE_ROWS)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "ldweights: stationary tile of %d rows and %llu columns; at most %d each",
                          ap->n_partitions, (unsigned long long)n_cols, ENGINE_PE_ROWS);
    core->regs->pe[thread_i].n_rows = ap->n_partitions;
    core->regs->pe[thread_i].n_cols = (int)n_cols;
    core->regs->pe[thread_i].is_mx = false;
    engine_rows columns = engine_rows_at(core, 0, (int)n_cols, thread_i);
    while (engine_rows_next(&columns)) {
        load_panels(core, ap, engine_row(core, ap, slot_base, 0), columns.first, columns.end,
                    core->regs->pe_weights);
        find_ones(core, ap->n_partitions, columns.first, columns.end);
    }
    return NULL;
}

/* One matmul as a thread works on it. */
typedef struct product {
    engine_core *core;
    const vtrn_instr *instr;
    const uint64_t *slot_base;
    const tensor_kernels *kernels;
    int thread_i, n_k;
    const float *panels; /* of the stationary tile, panel_stride floats apart */
    size_t panel_stride;
    int n_blocks;              /* of rows of dst that the thread owns; at least 1 */
    bool is_adding, is_direct; /* dst takes the sums as they are */
    bool is_in_runs;           /* dst takes them a run at a time */
    const tensor_ones *ones;   /* of each panel; NULL: not known, or the thread has none */
} product;

/* 48 columns of the moving tile (the last strip: fewer) as the blocks of a strip take them. */
typedef struct strip {
    float *b; /* fp32, a multiple of 16 columns, zero beyond n */
    size_t b_stride;
    const uint8_t *raw; /* not NULL: the first block converts these rows into b on its way */
    size_t raw_row_bytes;
    bool is_raw_bf16;
    uint64_t from; /* first column of dst */
    int n;
    bool adds_ones; /* b is finite, so that panels of ones only add its rows */
    tensor_coming coming;
} strip;

/* Rows [first, end) of a strip's block of sums, whose row 0 is row m of dst, the general way. */
static void store_block(const product *p, const strip *s, const float sums[BLOCK][STRIP], int m,
                        int first, int end) {
    const uint64_t from = s->from;
    const int n = s->n;
    const vtrn_ap *dst = &p->instr->ap[0];
    uint8_t tmp[STRIP * MAX_ELEMENT_BYTES];
    for (int r = first; r < end; r++) {
        float values[STRIP];
        uint8_t *row = engine_chip_row(p->core, dst, r);
        memcpy(values, sums[r - m], sizeof values);
        if (p->is_adding) {
            float old[STRIP];
            engine_row_load_fp32(dst, row, from, (uint64_t)n, old, tmp);
            for (int i = 0; i < n; i++)
                values[i] = old[i] + values[i];
        }
        if (dst->dtype != VTRN_DTYPE_BF16 || !(p->instr->flags & VTRN_FLAG_STOCHASTIC)) {
            engine_row_store_fp32(dst, row, from, (uint64_t)n, values, tmp);
            continue;
        }
        dtype_store_fp32_stochastic(
            (vtrn_dtype)dst->dtype, values, tmp, (size_t)n,
            &p->core->regs->kept.generator[VTRN_ENGINE_TENSOR][dst->partition + r].state);
        engine_row_scatter(dst, row, from, (uint64_t)n, tmp);
    }
}

/* The same where dst is fp32 and has runs of adjacent elements. */
static void store_runs(const product *p, const tensor_runs *runs, const float *sums, int first,
                       int end) {
    const vtrn_ap *dst = &p->instr->ap[0];
    tensor_sums to = {.c = (float *)engine_chip_row(p->core, dst, first),
                      .stride = (size_t)engine_row_stride(p->core, dst) / sizeof(float),
                      .is_adding = p->is_adding};
    p->kernels->put_runs(sums, end - first, runs, to);
}

/* Rows [first, end) of dst by panels of ones, or by few columns; c is row `first`. The number of
 * rows done: 0 if there is neither. */
static int multiply_briefly(const product *p, const strip *s, int first, int end, tensor_sums to) {
    const int m = first / BLOCK;
    if (s->adds_ones && p->ones[m].is_valid) {
        int n_rows = end - first < BLOCK ? end - first : BLOCK;
        p->kernels->add_ones(&p->ones[m], n_rows, s->b, s->n, to);
        return n_rows;
    }
    if (s->raw || s->n > TENSOR_NARROW_COLS)
        return 0;
    int n_blocks = (end - first + BLOCK - 1) / BLOCK;
    for (int i = 1; s->adds_ones && i < n_blocks; i++)
        if (p->ones[m + i].is_valid)
            n_blocks = i;
    int n_rows = n_blocks * BLOCK < end - first ? n_blocks * BLOCK : end - first;
    const tensor_stationary a = {p->panels + (size_t)m * p->panel_stride, n_blocks, p->n_k};
    p->kernels->multiply_narrow(a, n_rows, tensor_moving_of(s->b, s->b_stride), s->n, to);
    return n_rows;
}

static void multiply_blocks(const product *p, strip *s, int m, int n_blocks, tensor_sums to) {
    const float *panels = p->panels + (size_t)(m / BLOCK) * p->panel_stride;
    const tensor_stationary a = {panels, n_blocks, p->n_k};
    int width_i = (s->n + TENSOR_VECTOR_COLS - 1) / TENSOR_VECTOR_COLS - 1;
    tensor_moving b = tensor_moving_of(s->b, s->b_stride);
    if (s->raw)
        b = (tensor_moving){.rows = s->raw, .row_bytes = s->raw_row_bytes, .strip = s->b};
    b.coming = s->coming;
    const tensor_multiply *multiply = !s->raw          ? p->kernels->multiply
                                      : s->is_raw_bf16 ? p->kernels->multiply_bf16
                                                       : p->kernels->multiply_fp32;
    multiply[width_i](a, b, to);
    s->raw = NULL;
    s->coming = tensor_coming_behind(s->coming, n_blocks);
}

/* All rows of dst that the thread owns, the columns of one strip. */
static void multiply_strip(const product *p, strip *s) {
    const vtrn_ap *dst = &p->instr->ap[0];
    bool is_direct = p->is_direct && s->n % TENSOR_VECTOR_COLS == 0;
    tensor_runs runs;
    if (p->is_in_runs)
        find_runs(dst, s->from, s->n, &runs);
    size_t stride = (size_t)engine_row_stride(p->core, dst) / sizeof(float);
    engine_rows rows = engine_rows_of(p->core, dst, p->thread_i);
    while (engine_rows_next(&rows))
        for (int r = rows.first; r < rows.end;) {
            int n_blocks = (rows.end - r) / BLOCK;
            if (p->is_direct && r % BLOCK == 0) {
                float *c = (float *)engine_chip_row(p->core, dst, r) + s->from;
                int n_done =
                    multiply_briefly(p, s, r, rows.end, (tensor_sums){c, stride, p->is_adding});
                r += n_done;
                if (n_done)
                    continue;
            }
            for (int i = 1; s->adds_ones && i < n_blocks; i++)
                if (p->ones[r / BLOCK + i].is_valid)
                    n_blocks = i;
            if (is_direct && r % BLOCK == 0 && n_blocks) {
                float *c = (float *)engine_chip_row(p->core, dst, r) + s->from;
                multiply_blocks(p, s, r, n_blocks, (tensor_sums){c, stride, p->is_adding});
                r += n_blocks * BLOCK;
                continue;
            }
            float sums[BLOCK][STRIP];
            int m = r / BLOCK * BLOCK, end = m + BLOCK < rows.end ? m + BLOCK : rows.end;
            multiply_blocks(p, s, m, 1, (tensor_sums){sums[0], STRIP, false});
            if (p->is_in_runs)
                store_runs(p, &runs, sums[r - m], r, end);
            else
                store_block(p, s, sums, m, r, end);
            r = end;
        }
}

/* Columns [from, from + n) of a dense tile. */
static tensor_ahead ahead_of(const product *p, const vtrn_ap *tile, uint64_t from, uint64_t n) {
    const size_t size = dtype_size((vtrn_dtype)tile->dtype);
    const uintptr_t rows = (uintptr_t)engine_row(p->core, tile, p->slot_base, 0) + from * size;
    return (tensor_ahead){
        .rows = rows,
        .row_bytes = (size_t)engine_row_stride(p->core, tile),
        .n_rows = tile->n_partitions,
        .n_lines = (int)((rows % LINE + n * size + LINE - 1) / LINE),
        .n_rows_each = (tile->n_partitions + p->n_blocks - 1) / p->n_blocks,
    };
}

/* What the instructions behind the matmul read first: weights, the first strip of a moving tile. */
static tensor_coming coming_of(const product *p) {
    const vtrn_instr *const *coming = p->core->regs->pe[p->thread_i].coming;
    tensor_coming out = {.moving.n_rows = 0};
    if (p->n_k * isa_ap_free_size(&p->instr->ap[1]) < LEAST_ASKING)
        return out;
    for (int i = 0; i < ENGINE_COMING && coming[i]; i++) {
        const vtrn_ap *tile = &coming[i]->ap[1];
        bool is_weights = coming[i]->opcode == VTRN_OP_LDWEIGHTS;
        if ((!is_weights && coming[i]->opcode != VTRN_OP_MATMUL) || !is_strippable(tile))
            break;
        if (!is_weights) {
            out.moving = ahead_of(p, tile, 0, STRIP);
            break;
        }
        out.weights = ahead_of(p, tile, 0, isa_ap_free_size(tile));
    }
    return out;
}

/* Columns [first, n_cols), dense fp32 or bf16. The first block of a strip leaves it behind as fp32:
 * 128 rows lie in 128 pages, and reading them in place for each of 16 blocks would miss the
 * first-level TLB each time.
 */
static void multiply_dense(const product *p, uint64_t first, uint64_t n_cols) {
    const vtrn_ap *moving = &p->instr->ap[1];
    bool is_bf16 = moving->dtype == VTRN_DTYPE_BF16;
    const uint8_t *base = engine_row(p->core, moving, p->slot_base, 0);
    size_t stride = (size_t)engine_row_stride(p->core, moving);
    float *buffer = engine_scratch(p->core, p->thread_i);
    for (uint64_t from = first, n; from < n_cols; from += n) {
        n = n_cols - from < STRIP ? n_cols - from : STRIP;
        if (n > TENSOR_VECTOR_COLS && !p->ones)
            n -= n % TENSOR_VECTOR_COLS; /* whole vectors as they lie, then the others */
        strip s = {
            .b = buffer,
            .b_stride = STRIP,
            .raw = base + from * dtype_size((vtrn_dtype)moving->dtype),
            .raw_row_bytes = stride,
            .is_raw_bf16 = is_bf16,
            .from = from,
            .n = (int)n,
        };
        if (from + n >= n_cols)
            s.coming = coming_of(p);
        else
            s.coming.moving = ahead_of(p, moving, from + n, STRIP);
        if (p->ones || s.n % TENSOR_VECTOR_COLS) {
            (is_bf16 ? p->kernels->strip_bf16 : p->kernels->strip_fp32)(s.raw, stride, p->n_k, s.n,
                                                                        buffer);
            s.raw = NULL;
            s.adds_ones = p->ones && p->kernels->is_finite(buffer, p->n_k, s.n);
        }
        multiply_strip(p, &s);
    }
}

/* fp32 or bf16 in runs, as the windows of a convolution have. The runs of a strip are the same in
 * each row. */
static void multiply_runs(const product *p, uint64_t n_cols) {
    const vtrn_ap *moving = &p->instr->ap[1];
    bool is_bf16 = moving->dtype == VTRN_DTYPE_BF16;
    const uint8_t *base = engine_row(p->core, moving, p->slot_base, 0);
    size_t stride = (size_t)engine_row_stride(p->core, moving);
    float *buffer = engine_scratch(p->core, p->thread_i);
    for (uint64_t from = 0; from < n_cols; from += STRIP) {
        tensor_runs runs;
        strip s = {.b = buffer,
                   .b_stride = STRIP,
                   .from = from,
                   .n = n_cols - from < STRIP ? (int)(n_cols - from) : STRIP};
        find_runs(moving, from, s.n, &runs);
        if (from + STRIP >= n_cols)
            s.coming = coming_of(p);
        (is_bf16 ? p->kernels->runs_bf16 : p->kernels->runs_fp32)(base, stride, p->n_k, &runs,
                                                                  buffer);
        s.adds_ones = p->ones && p->kernels->is_finite(buffer, p->n_k, s.n);
        multiply_strip(p, &s);
    }
}

/* One row of dst: an element of the moving tile is multiplied by one weight and not used again, so
 * the tile is read as it lies. */
static void multiply_one_row(const product *p, uint64_t first, uint64_t n_cols) {
    const vtrn_ap *moving = &p->instr->ap[1];
    const size_t first_byte = first * dtype_size((vtrn_dtype)moving->dtype);
    tensor_multiply_row multiply = moving->dtype == VTRN_DTYPE_BF16 ? p->kernels->multiply_row_bf16
                                                                    : p->kernels->multiply_row_fp32;
    tensor_moving b = {.rows = engine_row(p->core, moving, p->slot_base, 0) + first_byte,
                       .row_bytes = (size_t)engine_row_stride(p->core, moving)};
    float *c = (float *)engine_chip_row(p->core, &p->instr->ap[0], 0) + first;
    multiply(p->panels, p->n_k, b, (int)(n_cols - first), (tensor_sums){c, 0, p->is_adding});
}

/* Any type and pattern: rows are converted a chunk at a time. */
static void multiply_any(const product *p, uint64_t n_cols) {
    const vtrn_ap *moving = &p->instr->ap[1];
    float *chunk = engine_scratch(p->core, p->thread_i);
    for (uint64_t from = 0; from < n_cols; from += CHUNK) {
        size_t n = n_cols - from < CHUNK ? (size_t)(n_cols - from) : CHUNK;
        for (int k = 0; k < p->n_k; k++) {
            float *row = chunk + (size_t)k * CHUNK;
            load_row(moving, engine_row(p->core, moving, p->slot_base, k), from, n, row);
            for (size_t i = n; i < CHUNK && i % TENSOR_VECTOR_COLS; i++)
                row[i] = 0;
        }
        for (size_t i = 0; i < n; i += STRIP) {
            strip s = {.b = chunk + i,
                       .b_stride = CHUNK,
                       .from = from + i,
                       .n = n - i < STRIP ? (int)(n - i) : STRIP};
            multiply_strip(p, &s);
        }
    }
}

static int count_blocks(const engine_core *core, const vtrn_ap *dst, int thread_i) {
    int n_blocks = 0;
    engine_rows rows = engine_rows_of(core, dst, thread_i);
    while (engine_rows_next(&rows))
        n_blocks += (rows.end + BLOCK - 1) / BLOCK - rows.first / BLOCK;
    return n_blocks;
}

/* Some panel of the thread's rows has only ones. Of others' panels it must not know: those threads
 * may be ahead. */
static bool has_ones(const engine_core *core, const vtrn_ap *dst, int thread_i) {
    bool is_any = false;
    engine_rows rows = engine_rows_of(core, dst, thread_i);
    while (engine_rows_next(&rows))
        for (int m = rows.first / BLOCK; m * BLOCK < rows.end; m++)
            is_any = is_any || core->regs->pe_ones[m].is_valid;
    return is_any;
}

static vtrn_status check_product(const engine_core *core, const vtrn_instr *instr, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *moving = &instr->ap[1];
    int n_rows = core->regs->pe[thread_i].n_rows, n_cols = core->regs->pe[thread_i].n_cols;
    bool is_mx = instr->opcode == VTRN_OP_MATMUL_MX;
    VTRN_RETURN_IF_ERROR(check_operand_type(instr, moving));
    if (is_mx != core->regs->pe[thread_i].is_mx)
        return VTRN_ERROR(VTRN_UNDEFINED, "%s: the stationary tile %s",
                          is_mx ? "matmul_mx" : "matmul",
                          is_mx ? "was not loaded by ldweights_mx" : "is an MX tile");
    if (moving->n_partitions != n_rows || dst->n_partitions != n_cols)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "matmul: moving tile of %d rows into %d rows of dst; the stationary tile "
                          "has %d rows and %d columns",
                          moving->n_partitions, dst->n_partitions, n_rows, n_cols);
    if (isa_ap_free_size(moving) != isa_ap_free_size(dst))
        return VTRN_ERROR(VTRN_UNDEFINED, "matmul: moving tile of %llu columns into %llu of dst",
                          (unsigned long long)isa_ap_free_size(moving),
                          (unsigned long long)isa_ap_free_size(dst));
    if (dst->dtype == VTRN_DTYPE_FP32 || dst->dtype == VTRN_DTYPE_BF16)
        return NULL;
    return VTRN_ERROR(VTRN_UNSUPPORTED, "matmul: dst is %s; PSUM takes sums as fp32 (or bf16)",
                      dtype_name((vtrn_dtype)dst->dtype));
}

vtrn_status engine_op_MATMUL(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                             int thread_i) {
    VTRN_RETURN_IF_ERROR(check_product(core, instr, thread_i));
    product p = {
        .core = core,
        .instr = instr,
        .slot_base = slot_base,
        .kernels = CPU_TABLE(tensor_kernel_table),
        .thread_i = thread_i,
        .n_k = core->regs->pe[thread_i].n_rows,
        .panels = core->regs->pe_weights,
        .panel_stride = TENSOR_PANEL_STRIDE,
        .n_blocks = count_blocks(core, &instr->ap[0], thread_i),
        .is_adding = instr->flags & VTRN_FLAG_ACCUMULATE,
        .is_direct = is_ready(&instr->ap[0], VTRN_DTYPE_FP32),
        .is_in_runs = has_runs(&instr->ap[0], VTRN_DTYPE_FP32) &&
                      instr->ap[0].dim[innermost(&instr->ap[0])].step == 1,
    };
    const vtrn_ap *moving = &instr->ap[1];
    uint64_t n_cols = isa_ap_free_size(moving);
    if (!p.n_blocks)
        return NULL;
    if (has_ones(core, &instr->ap[0], thread_i))
        p.ones = core->regs->pe_ones;
    if (is_strippable(moving) && p.is_direct && instr->ap[0].n_partitions == 1)
        multiply_one_row(&p, 0, n_cols);
    else if (is_strippable(moving))
        multiply_dense(&p, 0, n_cols);
    else if (has_runs(moving, VTRN_DTYPE_FP32) || has_runs(moving, VTRN_DTYPE_BF16))
        multiply_runs(&p, n_cols);
    else
        multiply_any(&p, n_cols);
    return NULL;
}

/* --- parts of the columns --- */

enum { PART_PANELS = 128 * 1024 }; /* bytes of scratch before the stationary tile of a part */
_Static_assert(PART_PANELS >= ENGINE_PE_ROWS * STRIP * sizeof(float), "behind a strip");
_Static_assert(PART_PANELS + ENGINE_PE_ROWS / BLOCK * TENSOR_PANEL_STRIDE * sizeof(float) <=
                   ENGINE_SCRATCH_BYTES,
               "a part's stationary tile fits");

bool tensor_is_divisible_load(const vtrn_instr *instr) {
    const vtrn_ap *ap = &instr->ap[1];
    return instr->opcode == VTRN_OP_LDWEIGHTS && is_strippable(ap) &&
           ap->space != VTRN_SPACE_PSUM && isa_ap_free_size(ap) <= ENGINE_PE_ROWS &&
           ap->n_partitions <= ENGINE_PE_ROWS;
}

bool tensor_is_divisible(const vtrn_instr *load, const vtrn_instr *instr) {
    const vtrn_ap *dst = &instr->ap[0], *moving = &instr->ap[1];
    return instr->opcode == VTRN_OP_MATMUL && is_strippable(moving) &&
           moving->space != VTRN_SPACE_PSUM && is_ready(dst, VTRN_DTYPE_FP32) &&
           dst->space == VTRN_SPACE_PSUM && moving->n_partitions == load->ap[1].n_partitions &&
           dst->n_partitions == isa_ap_free_size(&load->ap[1]) &&
           isa_ap_free_size(moving) == isa_ap_free_size(dst);
}

static void load_part(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                      tensor_part *part, float *panels) {
    const vtrn_ap *ap = &instr->ap[1];
    const int n_cols = (int)isa_ap_free_size(ap);
    part->n_k = ap->n_partitions;
    load_panels(core, ap, engine_row(core, ap, slot_base, 0), 0, n_cols, panels);
    if (part->thread_i)
        return;
    find_ones(core, part->n_k, 0, n_cols);
    core->regs->pe[0].n_rows = part->n_k;
    core->regs->pe[0].n_cols = n_cols;
    core->regs->pe[0].is_mx = false;
}

void tensor_do_part(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                    tensor_part *part) {
    float *panels = core->regs->pe_weights;
    if (part->thread_i)
        panels = (float *)((uint8_t *)engine_scratch(core, part->thread_i) + PART_PANELS);
    if (instr->opcode == VTRN_OP_LDWEIGHTS) {
        load_part(core, instr, slot_base, part, panels);
        return;
    }
    const vtrn_ap *dst = &instr->ap[0];
    const uint64_t n_cols = isa_ap_free_size(dst);
    const uint64_t n_units = (n_cols + TENSOR_VECTOR_COLS - 1) / TENSOR_VECTOR_COLS;
    const uint64_t n_parts = (uint64_t)part->n_parts, part_i = (uint64_t)part->part_i;
    uint64_t first = n_units * part_i / n_parts * TENSOR_VECTOR_COLS;
    uint64_t end = n_units * (part_i + 1) / n_parts * TENSOR_VECTOR_COLS;
    end = end < n_cols ? end : n_cols;
    product p = {
        .core = core,
        .instr = instr,
        .slot_base = slot_base,
        .kernels = CPU_TABLE(tensor_kernel_table),
        .thread_i = part->thread_i,
        .n_k = part->n_k,
        .panels = panels,
        .panel_stride = TENSOR_PANEL_STRIDE,
        .n_blocks = (dst->n_partitions + BLOCK - 1) / BLOCK,
        .is_adding = instr->flags & VTRN_FLAG_ACCUMULATE,
        .is_direct = true,
    };
    if (first >= end)
        return;
    if (dst->n_partitions == 1)
        multiply_one_row(&p, first, end);
    else
        multiply_dense(&p, first, end);
}

/* --- MX -----------------------------------------------------------------------------------------
 *
 * Row 4p + e of an MX tile are values e of partition p's elements, times their scales. */

enum {
    MX_VALUES = 4,
    MX_GROUP = 8 /* partitions with one scale */,
    MX_QUADRANT = 32,
    MX_BIAS = 127
};

/* 2^(byte - 127); 255 is NaN. Source: OCP Microscaling Formats, E8M0 */
static float scale_of(uint8_t byte) {
    float scale;
    dtype_load_fp32(VTRN_DTYPE_FP8E8M0FNU, &byte, &scale, 1);
    return scale;
}

/* The partition of the scales' operand that has those of partition p. */
static int scale_row(int p) {
    return p / MX_QUADRANT * MX_QUADRANT + p % MX_QUADRANT / MX_GROUP;
}

/* Packed elements [from, from + n) of partition p. */
typedef struct mx_part {
    int p;
    uint64_t from;
    size_t n;
} mx_part;

/* Their values, scaled: out[4][stride]. */
static void load_mx_row(const engine_core *core, const vtrn_instr *instr, mx_part at, float *out,
                        size_t stride) {
    const vtrn_ap *data = &instr->ap[1], *scales = &instr->ap[2];
    uint8_t packed[STRIP * MX_VALUES], codes[STRIP * MX_VALUES], exponents[STRIP];
    float values[STRIP * MX_VALUES];
    engine_row_gather(data, engine_chip_row(core, data, at.p), at.from, at.n, packed);
    engine_row_gather(scales, engine_chip_row(core, scales, scale_row(at.p)), at.from, at.n,
                      exponents);
    bool is_fp4 = data->dtype == VTRN_DTYPE_FP4E2M1FN_X4;
    for (size_t i = 0; is_fp4 && i < at.n * MX_VALUES; i++)
        codes[i] = packed[i / 2] >> (i % 2 ? 4 : 0) & 0xf;
    dtype_load_fp32(dtype_of_packed((vtrn_dtype)data->dtype), is_fp4 ? codes : packed, values,
                    at.n * MX_VALUES);
    for (size_t i = 0; i < at.n; i++) {
        float scale = scale_of(exponents[i]);
        for (size_t e = 0; e < MX_VALUES; e++)
            out[e * stride + i] = values[i * MX_VALUES + e] * scale;
    }
}

static vtrn_status check_mx(const vtrn_instr *instr, int data_i) {
    const vtrn_ap *data = &instr->ap[data_i], *scales = &instr->ap[2];
    if (dtype_of_packed((vtrn_dtype)data->dtype) != data->dtype && data->n_partitions > 0 &&
        data->n_partitions % MX_QUADRANT == 0 && data->n_partitions <= ENGINE_PE_ROWS &&
        scales->dtype == VTRN_DTYPE_UINT8 &&
        scales->n_partitions > scale_row(data->n_partitions - 1) &&
        isa_ap_free_size(scales) >= isa_ap_free_size(data))
        return NULL;
    return VTRN_ERROR(
        VTRN_UNDEFINED,
        "%s: packed data of %d partitions of %llu with scales of %d of %llu; MX takes "
        "whole quadrants of 32, with 4 partitions of scales in each",
        isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, data->n_partitions,
        (unsigned long long)isa_ap_free_size(data), scales->n_partitions,
        (unsigned long long)isa_ap_free_size(scales));
}

vtrn_status engine_op_LDWEIGHTS_MX(engine_core *core, const vtrn_instr *instr,
                                   const uint64_t *slot_base, int thread_i) {
    (void)slot_base;
    const vtrn_ap *data = &instr->ap[1];
    uint64_t n_cols = isa_ap_free_size(data);
    VTRN_RETURN_IF_ERROR(check_mx(instr, 1));
    if (n_cols > ENGINE_PE_ROWS)
        return VTRN_ERROR(VTRN_UNDEFINED, "ldweights_mx: %llu columns; at most %d",
                          (unsigned long long)n_cols, ENGINE_PE_ROWS);
    core->regs->pe[thread_i].n_rows = data->n_partitions;
    core->regs->pe[thread_i].n_cols = (int)n_cols;
    core->regs->pe[thread_i].is_mx = true;
    engine_rows columns = engine_rows_at(core, 0, (int)n_cols, thread_i);
    while (engine_rows_next(&columns))
        for (int m = columns.first; m < columns.end; m += BLOCK) {
            float *panel = core->regs->pe_mx_weights + (size_t)(m / BLOCK) * TENSOR_MX_PANEL_STRIDE;
            size_t n = (size_t)(columns.end - m < BLOCK ? columns.end - m : BLOCK);
            for (int p = 0; p < data->n_partitions; p++, panel += MX_VALUES * BLOCK) {
                memset(panel, 0, MX_VALUES * BLOCK * sizeof *panel);
                load_mx_row(core, instr, (mx_part){p, (uint64_t)m, n}, panel, BLOCK);
            }
        }
    return NULL;
}

vtrn_status engine_op_MATMUL_MX(engine_core *core, const vtrn_instr *instr,
                                const uint64_t *slot_base, int thread_i) {
    (void)slot_base;
    const vtrn_ap *moving = &instr->ap[1];
    VTRN_RETURN_IF_ERROR(check_mx(instr, 1));
    VTRN_RETURN_IF_ERROR(check_product(core, instr, thread_i));
    product p = {
        .core = core,
        .instr = instr,
        .kernels = CPU_TABLE(tensor_kernel_table),
        .thread_i = thread_i,
        .n_k = MX_VALUES * moving->n_partitions,
        .panels = core->regs->pe_mx_weights,
        .panel_stride = TENSOR_MX_PANEL_STRIDE,
        .is_adding = instr->flags & VTRN_FLAG_ACCUMULATE,
    };
    float *buffer = engine_scratch(core, thread_i);
    uint64_t n_cols = isa_ap_free_size(moving);
    for (uint64_t from = 0; from < n_cols; from += STRIP) {
        size_t n = n_cols - from < STRIP ? (size_t)(n_cols - from) : STRIP;
        if (n < STRIP)
            memset(buffer, 0, (size_t)p.n_k * STRIP * sizeof *buffer);
        for (int r = 0; r < moving->n_partitions; r++)
            load_mx_row(core, instr, (mx_part){r, from, n}, buffer + (size_t)r * MX_VALUES * STRIP,
                        STRIP);
        strip s = {.b = buffer, .b_stride = STRIP, .from = from, .n = (int)n};
        multiply_strip(&p, &s);
    }
    return NULL;
}

/* One dst row of a transpose that converts: element f of each source row. */
static void transpose_row_converting(engine_core *core, const vtrn_instr *instr,
                                     const uint64_t *slot_base, int f) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    float values[ENGINE_PE_ROWS];
    uint8_t tmp[ENGINE_PE_ROWS * MAX_ELEMENT_BYTES];
    for (int p = 0; p < src->n_partitions; p++)
        load_row(src, engine_row(core, src, slot_base, p), (uint64_t)f, 1, &values[p]);
    engine_row_store_fp32(dst, engine_chip_row(core, dst, f), 0, src->n_partitions, values, tmp);
}

vtrn_status engine_op_PE_TRANSPOSE(engine_core *core, const vtrn_instr *instr,
                                   const uint64_t *slot_base, int thread_i) {
    const vtrn_ap *dst = &instr->ap[0], *src = &instr->ap[1];
    VTRN_RETURN_IF_ERROR(check_operand_type(instr, src));
    VTRN_RETURN_IF_ERROR(check_operand_type(instr, dst));
    uint64_t n = isa_ap_free_size(src);
    if (n > ENGINE_PE_ROWS || src->n_partitions > ENGINE_PE_ROWS || dst->n_partitions != n ||
        isa_ap_free_size(dst) != src->n_partitions)
        return VTRN_ERROR(
            VTRN_UNDEFINED,
            "pe_transpose: [%d, %llu] into [%d, %llu]; dst is the transpose, and both "
            "sides are at most %d",
            src->n_partitions, (unsigned long long)n, dst->n_partitions,
            (unsigned long long)isa_ap_free_size(dst), ENGINE_PE_ROWS);
    engine_rows rows = engine_rows_of(core, dst, thread_i);
    while (engine_rows_next(&rows)) {
        if (dst->dtype == src->dtype) {
            engine_transpose_rows(core, instr, slot_base, false, rows.first, rows.end);
            continue;
        }
        for (int f = rows.first; f < rows.end; f++)
            transpose_row_converting(core, instr, slot_base, f);
    }
    return NULL;
}
