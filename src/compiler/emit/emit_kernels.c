/* Kernel after kernel, block after block. */
#include "compiler/emit/emit_kernels.h"

#include "compiler/lower/psum.h"

static vtrn_status emit_kernel(lower *l, const kernel *k) {
    static vtrn_status (*const emitters[])(lower *, const kernel *) = {
#define KERNEL(kind, name, text) [KERNEL_##kind] = emit_##name##_kernel,
#include "compiler/plan/kernels.def"
#undef KERNEL
    };
    l->build.source = k->source;
    l->sbuf_cursor = k->sbuf_addr;
    psum_begin(l);
    vtrn_status status = emitters[k->kind](l, k);
    if (!status && l->sbuf_cursor <= k->sbuf_addr + lower_sbuf_round(k->sbuf_bytes))
        return NULL;
    if (!status)
        status = VTRN_ERROR(VTRN_INTERNAL,
                            "%u bytes of each partition are in use, placement gave %llu; this is a "
                            "bug of the compiler",
                            l->sbuf_cursor - k->sbuf_addr, (unsigned long long)k->sbuf_bytes);
    const vtrn_source *s = &l->build.sources[k->source];
    return vtrn_status_annotate(status, "the %s kernel of %s%s%s", kernel_name(k->kind), s->op,
                                *s->place ? " " : "", s->place);
}

vtrn_status emit_plan(lower *l) {
    uint32_t n = 0;
    for (uint32_t b = 0; b < l->build.n_blocks; b++) {
        l->build.blocks[b].begin = l->build.n_list;
        l->act_table = 0xff;
        for (; n < l->plan.n_kernels && l->plan.kernels[n].block_i == b; n++)
            VTRN_RETURN_IF_ERROR(emit_kernel(l, &l->plan.kernels[n]));
        l->build.blocks[b].end = l->build.n_list;
    }
    VTRN_CHECK(n == l->plan.n_kernels, "blocks hold the kernels in order");
    return NULL;
}
