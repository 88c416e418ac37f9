/* Kernel after kernel, block after block. */
#include "compiler/emit/emit_kernels.h"

#include "compiler/emit/psum.h"

static vtrn_status emit_kernel(emitter *e, const kernel *k) {
    static vtrn_status (*const emitters[])(emitter *, const kernel *) = {
#define KERNEL(kind, name, text) [KERNEL_##kind] = emit_##name##_kernel,
#include "compiler/plan/kernels.def"
#undef KERNEL
    };
    e->build->source = k->source;
    e->sbuf_cursor = k->sbuf_addr;
    psum_begin(e);
    emit_lighter_engine(e); /* it weighs what came before */
    e->kernel_vector_ns = e->vector_ns;
    e->kernel_scalar_ns = e->scalar_ns;
    vtrn_status status = emitters[k->kind](e, k);
    if (!status && e->sbuf_cursor <= k->sbuf_addr + sbuf_round(k->demand.sbuf_bytes))
        return NULL;
    if (!status)
        status =
            VTRN_ERROR(VTRN_INTERNAL,
                       "%u bytes of each partition are in use, placement gave %llu; this is a "
                       "bug of the compiler",
                       e->sbuf_cursor - k->sbuf_addr, (unsigned long long)k->demand.sbuf_bytes);
    const vtrn_source *s = &e->build->sources[k->source];
    return vtrn_status_annotate(status, "the %s kernel of %s%s%s", kernel_name(k->kind), s->op,
                                *s->place ? " " : "", s->place);
}

static vtrn_status emit_blocks(emitter *e, const kernel_list *list) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < e->build->n_blocks; b++) {
        e->build->block_i = b;
        e->build->blocks[b].begin = e->build->n_list;
        e->act_table = 0xff;
        for (; n < list->n_kernels && list->kernels[n].block_i == b; n++)
            VTRN_RETURN_IF_ERROR(emit_kernel(e, &list->kernels[n]));
        e->build->blocks[b].end = e->build->n_list;
    }
    VTRN_CHECK(n == list->n_kernels, "blocks hold the kernels in order");
    return NULL;
}

vtrn_status emit_plan(const plan *p) {
    emitter e = {.chip = p->chip, .build = p->build};
    vtrn_status status = emit_blocks(&e, &p->list);
    arena_free(&e.tmp);
    p->build->program->psum_peak_bytes = (uint64_t)e.psum_peak_banks * p->chip->psum_bank_bytes;
    return status;
}
