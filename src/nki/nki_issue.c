/* An instruction: checked, run at once, kept. */
#include "nki/nki_session.h"

#include "base/array.h"
#include "engine/engine.h"
#include "isa/access.h"
#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

enum { N_LOAD_RINGS = 4, FIRST_STORE_RING = 4, N_STORE_RINGS = 3 };

/* An instruction with the views of its operands. */
typedef struct issue {
    nki_session *s;
    vtrn_instr instr;
    const nki_view *view[VTRN_MAX_AP];
} issue;

static const char *const operand_names[VTRN_OP_COUNT][VTRN_MAX_AP] = {
    [VTRN_OP_LDWEIGHTS] = {NULL, "stationary"},
    [VTRN_OP_MATMUL] = {"dst", "moving"},
    [VTRN_OP_PE_TRANSPOSE] = {"dst", "data"},
    [VTRN_OP_TENSOR_TENSOR] = {"dst", "data1", "data2"},
    [VTRN_OP_TENSOR_SCALAR] = {"dst", "data", "operand0", "operand1"},
    [VTRN_OP_SCALAR_TENSOR_TENSOR] = {"dst", "data", "operand0", "operand1"},
    [VTRN_OP_ACTIVATE] = {"dst", "data", "scale", "bias"},
    [VTRN_OP_TENSOR_TENSOR_SCAN] = {"dst", "data0", "data1"},
    [VTRN_OP_COPY_PREDICATED] = {"dst", "src", "predicate"},
    [VTRN_OP_AFFINE_SELECT] = {"dst", "on_true_tile"},
    [VTRN_OP_FIND_INDEX8] = {"dst", "data", "vals"},
    [VTRN_OP_MATCH_REPLACE8] = {"dst", "data", "vals"},
};

static const char *operand_name(const vtrn_instr *instr, int i) {
    const char *name = operand_names[instr->opcode][i];
    return name ? name : i == 0 ? "dst" : i == 1 ? "src" : "operand";
}

/* Inside of the tensor, which is more than inside of its memory. */
static vtrn_status check_bounds(const issue *x, int i) {
    const vtrn_ap *ap = &x->instr.ap[i];
    const nki_storage *t = x->view[i]->storage;
    int64_t lo, hi, limit = (int64_t)t->row_bytes, size = nki_element_bytes(x->view[i]);
    isa_ap_rows_extent(ap, access_rows(&x->instr, i), &lo, &hi);
    if (lo < 0 || hi > limit)
        return VTRN_ERROR(
            VTRN_UNDEFINED, "%s reaches from element %lld to %lld of %s, which has %lld",
            operand_name(&x->instr, i), (long long)(lo / size), (long long)(hi / size - 1),
            t->space == VTRN_SPACE_HBM ? "a tensor in HBM" : "a partition of a tile",
            (long long)(limit / size));
    int64_t last = ap->partition + ap->partition_step * (ap->n_partitions - 1);
    if (t->space != VTRN_SPACE_HBM && (last < 0 || last >= t->n_partitions))
        return VTRN_ERROR(VTRN_UNDEFINED, "%s names partitions %u to %lld of a tile of %u",
                          operand_name(&x->instr, i), ap->partition, (long long)last,
                          t->n_partitions);
    return NULL;
}

/* The rules of the chip, with placed tiles where they lie and others at the start of a bank. */
static vtrn_status check_rules(const issue *x) {
    nki_session *s = x->s;
    vtrn_instr placed = x->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (x->view[i] && x->view[i]->storage->space != VTRN_SPACE_HBM)
            placed.ap[i].addr += nki_record_of(x->view[i])->placed_addr;
    vtrn_program program = {.slots = s->slots,
                            .n_slots = s->n_slots,
                            .n_arguments = s->n_arguments,
                            .gen = (uint8_t)s->machine->roomy.gen};
    VTRN_RETURN_IF_ERROR(program_validate_lone(&program, nki_chip(s), &placed));
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
                      operand_name(&x->instr, i), text, (unsigned long long)n, index);
}

/* Indices choose the rows of a table: all of it counts as read. A scatter that adds nothing reads
 * none. */
static vtrn_status check_table(const issue *x, int i) {
    const nki_map *written = &nki_record_of(x->view[i])->written;
    bool is_read = x->instr.opcode == VTRN_OP_DMA_GATHER || access_accumulates(&x->instr);
    if (!is_read || written->n_set == written->n_bytes)
        return NULL;
    return VTRN_ERROR(VTRN_UNINITIALISED,
                      "%s: nothing has written %llu of the %llu bytes of the table that indices "
                      "select from; write all of it before",
                      operand_name(&x->instr, i),
                      (unsigned long long)(written->n_bytes - written->n_set),
                      (unsigned long long)written->n_bytes);
}

static vtrn_status check_written(const issue *x) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const nki_view *v = x->view[i];
        if (!v || !access_is_read(&x->instr, i) || access_is_kept(&x->instr, i))
            continue;
        if (access_is_table(&x->instr, i)) {
            VTRN_RETURN_IF_ERROR(check_table(x, i));
            continue;
        }
        uint64_t first = 0, all = nki_view_elements(v) * (uint64_t)nki_element_bytes(v);
        uint64_t n = nki_map_count(&nki_record_of(v)->written, v, &first);
        if (n < all)
            return unwritten(x, i, n, first);
    }
    return NULL;
}

/* What an instruction that may keep parts of its result leaves unknown stays unwritten. */
static vtrn_status mark(issue *x, uint32_t list_i) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!x->view[i])
            continue;
        nki_record *r = nki_record_of(x->view[i]);
        if (r->first == UINT32_MAX)
            r->first = list_i;
        r->last = list_i;
        if (!access_is_written(&x->instr, i))
            continue;
        r->is_stored_to = true;
        if (!access_is_kept(&x->instr, i) && !access_is_table(&x->instr, i))
            VTRN_RETURN_IF_ERROR(nki_map_mark(&r->written, x->view[i]));
        if (x->instr.opcode == VTRN_OP_MATMUL)
            VTRN_RETURN_IF_ERROR(nki_map_mark(&r->summed, x->view[i]));
    }
    return NULL;
}

static vtrn_status keep(issue *x) {
    nki_session *s = x->s;
    if (!array_grow((void **)&s->list, s->n_list, &s->cap_list, sizeof *s->list))
        return VTRN_OUT_OF_MEMORY(s->n_list * sizeof *s->list);
    nki_issued *kept = &s->list[s->n_list];
    kept->instr = x->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        kept->operand[i] = x->view[i] ? nki_record_of(x->view[i]) : NULL;
    return mark(x, s->n_list++);
}

static vtrn_status execute(const issue *x) {
    nki_session *s = x->s;
    vtrn_instr instr = x->instr;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (x->view[i] && x->view[i]->storage->space != VTRN_SPACE_HBM)
            instr.ap[i].addr += x->view[i]->storage->addr;
    return engine_table[instr.opcode](&s->machine->core, &instr, s->slot_base, 0);
}

static vtrn_status run(issue *x) {
    x->instr.update_semaphore = VTRN_NO_SEMAPHORE;
    VTRN_RETURN_IF_ERROR(check_rules(x));
    VTRN_RETURN_IF_ERROR(check_written(x));
    VTRN_RETURN_IF_ERROR(execute(x));
    return keep(x);
}

/* The function's table is there before the activation. */
static vtrn_status load_table(nki_session *s, const nki_call *call) {
    int set = isa_act_table_set(call->instr.func);
    if (call->instr.opcode != VTRN_OP_ACTIVATE || set == 0 || set == s->act_set)
        return NULL;
    issue x = {.s = s,
               .instr = {.opcode = VTRN_OP_ACT_TABLE_LOAD,
                         .engine = VTRN_ENGINE_SCALAR,
                         .source = call->source,
                         .arg = {set}}};
    s->act_set = set;
    return run(&x);
}

static vtrn_status operands(issue *x, const nki_call *call) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        int n_inner = i == 1 ? call->n_inner : 0, merged = 0;
        x->view[i] = call->view[i];
        if (!x->view[i])
            continue;
        if (x->view[i]->storage->session != x->s || nki_record_of(x->view[i])->is_released)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s is a tensor of a kernel that is over",
                              operand_name(&x->instr, i));
        VTRN_RETURN_IF_ERROR(nki_operand(x->view[i], n_inner, &merged, &x->instr.ap[i]));
        if (n_inner)
            x->instr.arg[0] = merged;
    }
    return NULL;
}

vtrn_status vtrn_nki_issue(nki_session *s, const nki_call *call) {
    issue x = {.s = s, .instr = call->instr};
    x.instr.source = call->source;
    VTRN_RETURN_IF_ERROR(operands(&x, call));
    VTRN_RETURN_IF_ERROR(load_table(s, call));
    return run(&x);
}

vtrn_status vtrn_nki_dma(nki_session *s, const nki_call *call) {
    const nki_view *dst = call->view[0], *src = call->view[1];
    issue x = {.s = s, .instr = call->instr, .view = {dst, src}};
    x.instr.source = call->source;
    if (nki_view_elements(dst) != nki_view_elements(src)) {
        char to[200], from[200];
        nki_view_print(dst, to, sizeof to);
        nki_view_print(src, from, sizeof from);
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "dst %s has %llu elements, src %s has %llu; give both as many", to,
                          (unsigned long long)nki_view_elements(dst), from,
                          (unsigned long long)nki_view_elements(src));
    }
    bool is_store = dst->storage->space == VTRN_SPACE_HBM;
    int first = is_store ? FIRST_STORE_RING : 0, n = is_store ? N_STORE_RINGS : N_LOAD_RINGS;
    x.instr.queue = (uint8_t)(first + s->next_ring++ % n);
    VTRN_RETURN_IF_ERROR(nki_dma_operands(dst, src, &x.instr.ap[0], &x.instr.ap[1]));
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

vtrn_status vtrn_nki_matmul(nki_session *s, const nki_call *call, int accumulate) {
    const nki_view *dst = call->view[0], *stationary = call->view[1], *moving = call->view[2];
    VTRN_RETURN_IF_ERROR(check_matmul_shapes(call));
    VTRN_RETURN_IF_ERROR(nki_view_check(dst));
    nki_record *r = nki_record_of(dst);
    if (accumulate < 0) {
        uint64_t first = 0, all = nki_view_elements(dst) * (uint64_t)nki_element_bytes(dst);
        uint64_t n = nki_map_count(&r->summed, dst, &first);
        if (n && n < all)
            return VTRN_ERROR(VTRN_UNIMPLEMENTED,
                              "earlier matmuls wrote a part of dst and this one writes more; pass "
                              "accumulate=True or False, or write the parts separately");
        accumulate = n != 0;
    }
    nki_call load = {.instr = {.opcode = VTRN_OP_LDWEIGHTS, .engine = VTRN_ENGINE_TENSOR},
                     .view = {NULL, stationary},
                     .source = call->source};
    VTRN_RETURN_IF_ERROR(vtrn_nki_issue(s, &load));
    nki_call multiply = {.instr = {.opcode = VTRN_OP_MATMUL,
                                   .engine = VTRN_ENGINE_TENSOR,
                                   .flags = accumulate ? VTRN_FLAG_ACCUMULATE : 0},
                         .view = {dst, moving},
                         .source = call->source};
    VTRN_RETURN_IF_ERROR(vtrn_nki_issue(s, &multiply));
    s->flops += 2 * nki_view_elements(stationary) *
                (nki_view_elements(moving) / (uint64_t)moving->shape[0]);
    return NULL;
}
