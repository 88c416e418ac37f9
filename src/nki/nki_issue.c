/* An instruction: checked, run at once, kept. */
#include "nki/nki_session.h"

#include "base/array.h"
#include "engine/engine.h"
#include "isa/access.h"
#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

/* Rings that each engine's queue feeds, as in build/twins.c. */
static const struct {
    uint8_t first, n;
} RINGS[VTRN_ENGINE_COUNT] = {
    [VTRN_ENGINE_SYNC] = {0, 4}, [VTRN_ENGINE_GPSIMD] = {4, 3}, [VTRN_ENGINE_SCALAR] = {8, 2}};

void nki_choose_ring(nki_session *s, vtrn_instr *dma) {
    bool uses_dge = nki_chip(s)->dma.uses_dge;
    int n = uses_dge ? 1 : RINGS[dma->engine].n;
    if (!uses_dge)
        dma->keeps_engine = 0;
    else if (dma->opcode != VTRN_OP_DMA_COPY) /* copies: nki_finish.c */
        dma->keeps_engine = 1;
    dma->queue = (uint8_t)(RINGS[dma->engine].first + (n > 1 ? s->next_ring++ % n : 0));
}

/* An instruction with the views of its operands. */
typedef struct issue {
    nki_session *s;
    vtrn_instr instr;
    const nki_view *view[VTRN_MAX_AP];
    bool is_implied; /* as in nki_call */
} issue;

/* Inside of the tensor, which is more than inside of its memory. */
static vtrn_status check_bounds(const issue *x, int i) {
    const vtrn_ap *ap = &x->instr.ap[i];
    const nki_storage *t = x->view[i]->storage;
    int64_t lo, hi, limit = (int64_t)t->row_bytes, size = nki_element_bytes(x->view[i]);
    isa_ap_rows_extent(ap, access_rows(&x->instr, i), &lo, &hi);
    if (lo < 0 || hi > limit)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s reaches from element %lld to %lld of %s, which has %lld; name less "
                          "of it, or make it larger",
                          nki_operand_name(&x->instr, i), (long long)(lo / size),
                          (long long)(hi / size - 1),
                          t->space == VTRN_SPACE_HBM ? "a tensor in HBM" : "a partition of a tile",
                          (long long)(limit / size));
    int64_t last = ap->partition + ap->partition_step * (ap->n_partitions - 1);
    if (t->space != VTRN_SPACE_HBM && (last < 0 || last >= t->n_partitions))
        return VTRN_ERROR(
            VTRN_UNDEFINED,
            "%s names partitions %u to %lld of a tile of %u; name fewer, or make it larger",
            nki_operand_name(&x->instr, i), ap->partition, (long long)last, t->n_partitions);
    return NULL;
}

/* The rules of the chip, with placed tiles where they lie and others at the start of a bank. */
static vtrn_status check_rules(const issue *x) {
    nki_session *s = x->s;
    const vtrn_instr *checked = &x->instr;
    vtrn_instr placed; /* where an operand has another address */
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!x->view[i] || x->view[i]->storage->space == VTRN_SPACE_HBM)
            continue;
        int64_t offset = nki_placed_offset(nki_record_of(x->view[i]), &x->instr.ap[i]);
        if (offset && checked != &placed) {
            placed = x->instr;
            checked = &placed;
        }
        if (offset)
            placed.ap[i].addr += offset;
    }
    for (int i = 0; i < VTRN_MAX_AP; i++) /* the rules know slots, and kernels tensors */
        if (x->view[i] && x->view[i]->storage->space == VTRN_SPACE_HBM)
            VTRN_RETURN_IF_ERROR(check_bounds(x, i));
    vtrn_program program = {.slots = s->slots,
                            .n_slots = s->n_slots,
                            .n_arguments = s->n_arguments,
                            .gen = (uint8_t)s->machine->roomy.gen};
    VTRN_RETURN_IF_ERROR(nki_name_operands(
        checked, program_validate_lone(&program, nki_chip(s), checked, &s->stationary[s->core])));
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (x->view[i])
            VTRN_RETURN_IF_ERROR(check_bounds(x, i));
    return NULL;
}

static vtrn_status unwritten(const issue *x, int i, uint64_t n_set, uint64_t first) {
    const nki_view *v = x->view[i];
    char text[200], index[160] = "";
    size_t at = 0;
    uint64_t inner = nki_view_elements(v), size = (uint64_t)nki_element_bytes(v), rest = first;
    uint64_t n = inner - n_set / size;
    for (int d = 0; d < v->n_dims && at < sizeof index; d++) {
        inner /= (uint64_t)v->shape[d];
        at += (size_t)snprintf(index + at, sizeof index - at, d ? ", %llu" : "%llu",
                               (unsigned long long)(rest / inner));
        rest %= inner;
    }
    nki_view_print(v, text, sizeof text);
    return VTRN_ERROR(VTRN_UNINITIALISED,
                      "%s, %s: nothing has written %llu of its elements, first [%s]; write them "
                      "(memset, dma_copy) or read less",
                      nki_operand_name(&x->instr, i), text, (unsigned long long)n, index);
}

enum { GPSIMD_CORE_PARTITIONS = 16, MX_QUADRANT = 32, MX_QUADRANT_SCALES = 4 };

static bool is_mx(int opcode) {
    return opcode == VTRN_OP_LDWEIGHTS_MX || opcode == VTRN_OP_MATMUL_MX ||
           opcode == VTRN_OP_QUANTIZE_MX;
}

/* The elements that the instruction reads or writes in any case: of nonzero_with_count the first
 * partition of each GpSimd core, of MX scales the first of each quadrant. */
static nki_view touched(const issue *x, int i) {
    nki_view v = *x->view[i];
    if (x->instr.opcode == VTRN_OP_NONZERO_WITH_COUNT) {
        v.shape[0] = (v.shape[0] + GPSIMD_CORE_PARTITIONS - 1) / GPSIMD_CORE_PARTITIONS;
        v.step[0] *= GPSIMD_CORE_PARTITIONS;
    }
    if (i == 2 && is_mx(x->instr.opcode) && v.n_dims < NKI_MAX_DIMS) {
        const nki_view *data = x->view[x->instr.opcode == VTRN_OP_QUANTIZE_MX ? 0 : 1];
        memmove(&v.shape[1], &v.shape[0], (size_t)v.n_dims * sizeof *v.shape);
        memmove(&v.step[1], &v.step[0], (size_t)v.n_dims * sizeof *v.step);
        v.n_dims++;
        v.step[0] *= MX_QUADRANT;
        v.shape[0] = data->shape[0] / MX_QUADRANT;
        v.shape[1] = MX_QUADRANT_SCALES;
    }
    return v;
}

/* The error `what` says that the view was not written: it counts, or the view is filled. */
static vtrn_status refuse_or_fill(issue *x, const nki_view *view, vtrn_status what) {
    nki_session *s = x->s;
    if (!s->fill || vtrn_status_category(what) != VTRN_UNINITIALISED)
        return what;
    if (s->first_filled) {
        vtrn_status_free(what);
    } else {
        s->first_filled = what;
        s->first_filled_source = x->instr.source;
    }
    nki_record_of(view)->is_filled = true;
    return nki_view_fill(view, &s->n_filled);
}

/* Calls of for_rows(): the row of operand ap_i that index number r chooses. */
typedef vtrn_status (*row_fn)(issue *x, int ap_i, const nki_view *row);

/* Each row of operand ap_i that the indices of a gather or scatter touch: of the table the rows
 * that they number, of the other operand those whose index is not skipped. */
static vtrn_status for_rows(issue *x, int ap_i, row_fn call) {
    const nki_view *index = x->view[2], *v = x->view[ap_i];
    uint64_t n = nki_view_elements(index), n_unwritten;
    bool is_table = access_is_table(&x->instr, ap_i);
    int64_t n_rows = x->instr.arg[1];
    if (n != (uint64_t)x->instr.ap[2].n_partitions || nki_element_bytes(index) != 4)
        return NULL; /* the rules refuse it */
    uint32_t *numbers = malloc((n + 1) * sizeof *numbers);
    if (!numbers)
        return VTRN_OUT_OF_MEMORY(n * sizeof *numbers);
    vtrn_status status = vtrn_nki_read(index, numbers, &n_unwritten);
    for (uint64_t r = 0; !status && r < n; r++) {
        int64_t i = index->dtype == VTRN_DTYPE_INT32 ? (int32_t)numbers[r] : numbers[r];
        nki_view row = *v;
        if (i < 0 || i >= n_rows)
            continue; /* skipped, or an error when it runs */
        row.shape[0] = 1;
        row.offset += row.step[0] * (is_table ? i : (int64_t)r);
        status = call(x, ap_i, &row);
    }
    free(numbers);
    return status;
}

static vtrn_status check_row(issue *x, int i, const nki_view *row) {
    uint64_t first = 0, all = nki_view_elements(row) * (uint64_t)nki_element_bytes(row);
    VTRN_RETURN_IF_ERROR(nki_view_check(row));
    uint64_t n = nki_map_count(&nki_record_of(row)->written, row, &first);
    if (n == all)
        return NULL;
    vtrn_status status = VTRN_ERROR(
        VTRN_UNINITIALISED,
        "%s: nothing has written %llu of the %llu bytes of a row that the indices "
        "select; write it before",
        nki_operand_name(&x->instr, i), (unsigned long long)(all - n), (unsigned long long)all);
    return refuse_or_fill(x, row, status);
}

/* A scatter that adds nothing reads none of its table. */
static vtrn_status check_table(issue *x, int i) {
    const nki_map *written = &nki_record_of(x->view[i])->written;
    bool is_read = x->instr.opcode == VTRN_OP_DMA_GATHER || access_accumulates(&x->instr);
    if (!is_read || written->n_set == written->n_bytes)
        return NULL;
    if (x->s->has_no_values) /* which rows are read is not known */
        return written->n_set ? NULL : unwritten(x, i, 0, 0);
    return for_rows(x, i, check_row);
}

static vtrn_status mark_row(issue *x, int i, const nki_view *row) {
    (void)i, (void)x;
    VTRN_RETURN_IF_ERROR(nki_view_check(row));
    return nki_map_mark(&nki_record_of(row)->written, row);
}

/* A transpose moves bits: what was not written is not written in the result, either. Through the
 * PE array bits pass alone from NeuronCore-v3 on. Source: nki.isa.nc_matmul, "Transpose mode". */
static bool is_transpose(const issue *x) {
    switch (x->instr.opcode) {
    case VTRN_OP_PE_TRANSPOSE:
        return x->s->machine->roomy.gen >= 3;
    case VTRN_OP_TRANSPOSE32:
    case VTRN_OP_DMA_TRANSPOSE:
        return true;
    default:
        return false;
    }
}

/* Reads parts of an operand that nothing wrote without using them. */
static bool may_be_unwritten(const issue *x, int i) {
    return i == 1 && (is_transpose(x) || x->instr.opcode == VTRN_OP_NONZERO_WITH_COUNT);
}

static bool is_written(const nki_view *view) {
    uint64_t first;
    return nki_map_count(&nki_record_of(view)->written, view, &first) ==
           nki_view_elements(view) * (uint64_t)nki_element_bytes(view);
}

static vtrn_status mark_transposed(issue *x) {
    const nki_view *dst = x->view[0], *src = x->view[1];
    uint64_t n = nki_view_elements(src), n_rows = (uint64_t)src->shape[0], n_columns = n / n_rows;
    if (is_written(src))
        return nki_map_mark(&nki_record_of(dst)->written, dst);
    for (uint64_t i = 0; i < n; i++) {
        nki_view from = nki_element_of(src, i);
        nki_view to = nki_element_of(dst, i % n_columns * n_rows + i / n_columns);
        if (is_written(&from))
            VTRN_RETURN_IF_ERROR(nki_map_mark(&nki_record_of(dst)->written, &to));
    }
    return NULL;
}

/* Of nonzero_with_count: the partitions whose data were written. */
static vtrn_status mark_counted(issue *x) {
    nki_view dst = touched(x, 0), src = touched(x, 1);
    int64_t n = dst.shape[0];
    for (int64_t r = 0; r < n; r++) {
        nki_view to = dst, from = src;
        to.shape[0] = from.shape[0] = 1;
        to.offset += r * to.step[0];
        from.offset += r * from.step[0];
        if (is_written(&from))
            VTRN_RETURN_IF_ERROR(nki_map_mark(&nki_record_of(&to)->written, &to));
    }
    return NULL;
}

static vtrn_status check_written(issue *x) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const nki_view *v = x->view[i];
        if (!v || !access_is_read(&x->instr, i) || access_is_kept(&x->instr, i))
            continue;
        if (access_is_table(&x->instr, i)) {
            VTRN_RETURN_IF_ERROR(check_table(x, i));
            continue;
        }
        nki_view read = touched(x, i);
        uint64_t first = 0, all = nki_view_elements(&read) * (uint64_t)nki_element_bytes(v);
        uint64_t n = nki_map_count(&nki_record_of(v)->written, &read, &first);
        if (n < all && !(n && may_be_unwritten(x, i)))
            VTRN_RETURN_IF_ERROR(refuse_or_fill(x, &read, unwritten(x, i, n, first)));
    }
    return NULL;
}

static vtrn_status mark_written(issue *x, int i) {
    nki_record *r = nki_record_of(x->view[i]);
    bool is_indexed =
        x->instr.opcode == VTRN_OP_DMA_GATHER || x->instr.opcode == VTRN_OP_DMA_SCATTER;
    if (r->written.n_set == r->written.n_bytes)
        return NULL;
    if (is_indexed && !x->s->has_no_values) /* else which rows is not known: all may be */
        return for_rows(x, i, mark_row);
    if (is_transpose(x))
        return mark_transposed(x);
    if (x->instr.opcode == VTRN_OP_NONZERO_WITH_COUNT)
        return mark_counted(x);
    nki_view written = touched(x, i);
    return nki_map_mark(&r->written, &written);
}

/* Whether matmuls may begin with what the instruction leaves in PSUM: zeros are as good as none. */
static bool gives_values(const issue *x) {
    return !access_reads_weights(&x->instr) &&
           !(x->instr.opcode == VTRN_OP_MEMSET && x->instr.imm[0].f == 0);
}

/* What a shuffle may keep stays unwritten. */
static vtrn_status mark(issue *x, uint32_t list_i) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!x->view[i])
            continue;
        nki_record *r = nki_record_of(x->view[i]);
        if (r->first == UINT32_MAX)
            r->first = list_i;
        r->last = list_i;
        r->keeps_partition |= nki_binds_partitions(&x->instr, i);
        if (!access_is_written(&x->instr, i))
            continue;
        r->n_writes++;
        if (x->instr.opcode != VTRN_OP_STREAM_SHUFFLE || !access_keeps(&x->instr))
            VTRN_RETURN_IF_ERROR(mark_written(x, i));
        if (access_reads_weights(&x->instr))
            VTRN_RETURN_IF_ERROR(nki_map_mark(&r->summed, x->view[i]));
        else if (r->storage.space == VTRN_SPACE_PSUM && gives_values(x))
            VTRN_RETURN_IF_ERROR(nki_map_mark(&r->valued, x->view[i]));
    }
    return NULL;
}

static vtrn_status keep(issue *x) {
    nki_session *s = x->s;
    if (!array_grow((void **)&s->list, s->n_list, &s->cap_list, sizeof *s->list))
        return VTRN_OUT_OF_MEMORY(s->n_list * sizeof *s->list);
    nki_issued *kept = &s->list[s->n_list];
    kept->instr = x->instr;
    kept->core = (uint8_t)s->core;
    kept->is_exchange = s->is_exchanging;
    kept->is_implied = x->is_implied;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        kept->operand[i] = x->view[i] ? nki_record_of(x->view[i]) : NULL;
    return mark(x, s->n_list++);
}

static vtrn_status execute(const issue *x) {
    nki_session *s = x->s;
    vtrn_instr instr = x->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (x->view[i] && access_is_written(&instr, i))
            VTRN_RETURN_IF_ERROR(nki_own(s, nki_record_of(x->view[i])));
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (x->view[i] && x->view[i]->storage->space != VTRN_SPACE_HBM)
            instr.ap[i].addr += x->view[i]->storage->addr;
    nki_work work = {.instr = &instr, .slot_base = s->slot_base};
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (x->view[i])
            work.epoch_of[i] = &nki_record_of(x->view[i])->epoch;
    return nki_name_operands(&instr, nki_queue_issue(s->machine->queue, &work));
}

static vtrn_status run(issue *x) {
    x->instr.update_semaphore = VTRN_NO_SEMAPHORE;
    VTRN_RETURN_IF_ERROR(check_rules(x));
    VTRN_RETURN_IF_ERROR(check_written(x));
    VTRN_RETURN_IF_ERROR(nki_race_with_itself(x->s, &x->instr, x->view));
    if (x->s->has_no_values)
        return keep(x);
    void *before = NULL;
    vtrn_status status = nki_race_begin(x->s, &x->instr, x->view, &before);
    if (!status)
        status = execute(x);
    if (!status)
        status = keep(x);
    if (!status)
        status = nki_race_end(x->s, &x->instr, x->view, before);
    if (!status && x->s->program >= 0) /* the other program sees what this one wrote */
        status = nki_settle(x->s);
    free(before);
    return status;
}

/* The function's table is there before the activation. */
static vtrn_status load_table(nki_session *s, const nki_call *call) {
    int set = isa_act_table_set(call->instr.func);
    if (call->instr.opcode != VTRN_OP_ACTIVATE || set == 0 || set == s->act_set[s->core])
        return NULL;
    issue x = {.s = s,
               .instr = {.opcode = VTRN_OP_ACT_TABLE_LOAD,
                         .engine = VTRN_ENGINE_SCALAR,
                         .source = call->source,
                         .arg = {set}}};
    s->act_set[s->core] = set;
    return run(&x);
}

static vtrn_status check_kernel(const issue *x, int i) {
    if (x->view[i]->storage->session == x->s && !nki_record_of(x->view[i])->is_released)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "%s is a tensor of a kernel that is over; give the kernel that runs an "
                      "array, such as that one's result",
                      nki_operand_name(&x->instr, i));
}

static vtrn_status operands(issue *x, const nki_call *call) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        int n_inner = i == 1 ? call->n_inner : 0, merged = 0;
        x->view[i] = call->view[i];
        if (!x->view[i])
            continue;
        VTRN_RETURN_IF_ERROR(check_kernel(x, i));
        VTRN_RETURN_IF_ERROR(nki_operand(x->view[i], n_inner, &merged, &x->instr.ap[i]));
        if (n_inner)
            x->instr.arg[0] = merged;
    }
    return NULL;
}

vtrn_status vtrn_nki_issue(nki_session *s, const nki_call *call) {
    issue x = {.s = s, .instr = call->instr, .is_implied = call->is_implied};
    x.instr.source = call->source;
    if (isa_is_dma(x.instr.opcode)) /* gathers, scatters and transposes */
        nki_choose_ring(s, &x.instr);
    VTRN_RETURN_IF_ERROR(operands(&x, call));
    VTRN_RETURN_IF_ERROR(load_table(s, call));
    return run(&x);
}

/* Whether the operand on chip names partitions that are not neighbours; a source may repeat one. */
static bool skips_partitions(const vtrn_ap *ap, bool is_source) {
    return ap->space != VTRN_SPACE_HBM && ap->partition_step != 1 &&
           !(is_source && ap->partition_step == 0);
}

/* One transfer a partition: an operand on chip names neighbouring ones. */
static vtrn_status copy_by_partition(nki_session *s, const nki_call *call) {
    const nki_view *dst = call->view[0], *src = call->view[1];
    char to[200], from[200];
    nki_view_print(dst, to, sizeof to);
    nki_view_print(src, from, sizeof from);
    if (dst->shape[0] != src->shape[0])
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "dst %s and src %s: one names partitions that are not neighbours, each "
                          "of which is a transfer of its own; give both as many rows (reshape)",
                          to, from);
    if (dst->storage == src->storage)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "dst %s and src %s are of one tile, and partitions that are not "
                          "neighbours are moved one after another; copy to another tile first",
                          to, from);
    for (int64_t r = 0; r < dst->shape[0]; r++) {
        nki_view row[2] = {*dst, *src};
        nki_call part = *call;
        for (int i = 0; i < 2; i++) {
            row[i].offset += r * row[i].step[0];
            row[i].shape[0] = 1;
            part.view[i] = &row[i];
        }
        VTRN_RETURN_IF_ERROR(vtrn_nki_dma(s, &part));
    }
    return NULL;
}

vtrn_status vtrn_nki_dma(nki_session *s, const nki_call *call) {
    const nki_view *dst = call->view[0], *src = call->view[1];
    issue x = {.s = s, .instr = call->instr, .view = {dst, src}};
    x.instr.source = call->source;
    for (int i = 0; i < 2; i++)
        VTRN_RETURN_IF_ERROR(check_kernel(&x, i));
    if (nki_view_elements(dst) != nki_view_elements(src)) {
        char to[200], from[200];
        nki_view_print(dst, to, sizeof to);
        nki_view_print(src, from, sizeof from);
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "dst %s has %llu elements, src %s has %llu; give both as many", to,
                          (unsigned long long)nki_view_elements(dst), from,
                          (unsigned long long)nki_view_elements(src));
    }
    nki_choose_ring(s, &x.instr);
    VTRN_RETURN_IF_ERROR(nki_dma_operands(dst, src, &x.instr.ap[0], &x.instr.ap[1]));
    /* A step of 0 in what is written names elements twice, which the rules refuse. */
    if (x.instr.ap[0].partition_step &&
        (skips_partitions(&x.instr.ap[0], false) || skips_partitions(&x.instr.ap[1], true)))
        return copy_by_partition(s, call);
    return run(&x);
}

static vtrn_status check_matmul_shapes(const nki_call *call) {
    const nki_view *dst = call->view[0], *stationary = call->view[1], *moving = call->view[2];
    int64_t k = stationary->shape[0], m = (int64_t)nki_view_elements(stationary) / (k ? k : 1);
    char a[200], b[200], c[200];
    if (k == moving->shape[0] && m == dst->shape[0])
        return NULL;
    nki_view_print(stationary, a, sizeof a);
    nki_view_print(moving, b, sizeof b);
    nki_view_print(dst, c, sizeof c);
    if (k != moving->shape[0])
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "the stationary %s contracts over %lld partitions, the moving %s over "
                          "%lld; give both as many",
                          a, (long long)k, b, (long long)moving->shape[0]);
    return VTRN_ERROR(VTRN_UNDEFINED,
                      "dst %s has %lld partitions, the stationary %s has %lld columns; give the "
                      "result a partition for each",
                      c, (long long)dst->shape[0], a, (long long)m);
}

/* One matmul: flags are of both instructions, accumulate is decided. */
static vtrn_status multiply(nki_session *s, const nki_call *call, bool accumulate) {
    const nki_view *dst = call->view[0], *stationary = call->view[1], *moving = call->view[2];
    const bool is_scaled = call->scale[0] != NULL;
    nki_call load = {.instr = {.opcode = is_scaled ? VTRN_OP_LDWEIGHTS_MX : VTRN_OP_LDWEIGHTS,
                               .engine = VTRN_ENGINE_TENSOR,
                               .flags = call->instr.flags},
                     .view = {NULL, stationary, call->scale[0]},
                     .source = call->source};
    VTRN_RETURN_IF_ERROR(vtrn_nki_issue(s, &load));
    nki_call product = {
        .instr = {.opcode = is_scaled ? VTRN_OP_MATMUL_MX : VTRN_OP_MATMUL,
                  .engine = VTRN_ENGINE_TENSOR,
                  .flags = call->instr.flags | (accumulate ? VTRN_FLAG_ACCUMULATE : 0)},
        .view = {dst, moving, call->scale[1]},
        .source = call->source};
    VTRN_RETURN_IF_ERROR(vtrn_nki_issue(s, &product));
    s->flops += (is_scaled ? 8 : 2) * nki_view_elements(stationary) *
                (nki_view_elements(moving) / (uint64_t)moving->shape[0]);
    return NULL;
}

/* The part of view that begins at element `from` of its last dimension and has n there. */
static nki_view columns(const nki_view *view, int64_t from, int64_t n) {
    nki_view part = *view;
    part.offset += from * part.step[part.n_dims - 1];
    part.shape[part.n_dims - 1] = n;
    return part;
}

/* A run of columns that all were summed to, or none: how many from `from` on; 0: partitions differ.
 */
static int64_t run_of(const nki_view *dst, int64_t from, bool *was_summed) {
    const nki_map *summed = &nki_record_of(dst)->summed;
    int64_t end = dst->shape[dst->n_dims - 1], i = from;
    for (; i < end; i++) {
        nki_view column = columns(dst, i, 1);
        uint64_t first = 0;
        uint64_t all = nki_view_elements(&column) * (uint64_t)nki_element_bytes(&column);
        uint64_t n = nki_map_count(summed, &column, &first);
        if (n && n < all)
            return 0;
        if (i == from)
            *was_summed = n != 0;
        else if (*was_summed != (n != 0))
            break;
    }
    return i - from;
}

/* Earlier matmuls wrote a part of dst: runs of columns that add, and such that overwrite, apart. */
static vtrn_status multiply_parts(nki_session *s, const nki_call *call) {
    const nki_view *dst = call->view[0], *moving = call->view[2];
    bool is_alike = dst->n_dims == moving->n_dims && dst->n_dims > 1;
    for (int i = 1; is_alike && i < dst->n_dims; i++)
        is_alike = dst->shape[i] == moving->shape[i];
    if (!is_alike || call->scale[0])
        return VTRN_ERROR(VTRN_UNIMPLEMENTED,
                          "earlier matmuls wrote a part of dst and this one writes more; give dst "
                          "and moving the same free dimensions, or pass accumulate=True or False");
    if (dst->n_dims > 2) { /* one index of the outermost free dimension after another */
        for (int64_t k = 0; k < dst->shape[1]; k++) {
            nki_view part[2] = {*dst, *moving};
            for (int v = 0; v < 2; v++) {
                part[v].offset += k * part[v].step[1];
                part[v].n_dims--;
                for (int i = 1; i < part[v].n_dims; i++) {
                    part[v].shape[i] = part[v].shape[i + 1];
                    part[v].step[i] = part[v].step[i + 1];
                }
            }
            nki_call row = *call;
            row.view[0] = &part[0];
            row.view[2] = &part[1];
            VTRN_RETURN_IF_ERROR(multiply_parts(s, &row));
        }
        return NULL;
    }
    for (int64_t from = 0, n; from < dst->shape[1]; from += n) {
        bool was_summed = false;
        n = run_of(dst, from, &was_summed);
        if (n == 0)
            return VTRN_ERROR(VTRN_UNIMPLEMENTED,
                              "earlier matmuls wrote some partitions of dst and this one writes "
                              "more; pass accumulate=True or False");
        nki_view to = columns(dst, from, n), by = columns(moving, from, n);
        nki_call part = *call;
        part.view[0] = &to;
        part.view[2] = &by;
        VTRN_RETURN_IF_ERROR(multiply(s, &part, was_summed));
    }
    return NULL;
}

vtrn_status vtrn_nki_matmul(nki_session *s, const nki_call *call, int accumulate) {
    const nki_view *dst = call->view[0];
    VTRN_RETURN_IF_ERROR(check_matmul_shapes(call));
    VTRN_RETURN_IF_ERROR(nki_view_check(dst));
    if (accumulate >= 0)
        return multiply(s, call, accumulate);
    uint64_t first = 0, all = nki_view_elements(dst) * (uint64_t)nki_element_bytes(dst);
    if (accumulate == NKI_ADDS && nki_map_count(&nki_record_of(dst)->valued, dst, &first) > 0)
        return multiply(s, call, true);
    uint64_t n = nki_map_count(&nki_record_of(dst)->summed, dst, &first);
    return n == 0 || n == all ? multiply(s, call, n != 0) : multiply_parts(s, call);
}
