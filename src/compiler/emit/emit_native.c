/* A kernel that was written by hand: its instructions, at the addresses that it gets here. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/psum.h"
#include "compiler/plan/kernel.h"

/* One of the body's instructions with the program's tensors, SBUF and PSUM. */
static void place(const kernel_native *s, uint32_t sbuf_addr, uint32_t source, vtrn_instr *instr) {
    instr->source = source;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (instr->ap[i].space == VTRN_SPACE_HBM)
            instr->ap[i].slot = s->slots[instr->ap[i].slot];
        else if (instr->ap[i].space == VTRN_SPACE_SBUF)
            instr->ap[i].addr += sbuf_addr;
    }
}

static vtrn_status emit_stream(emitter *e, const kernel_native *s, uint32_t first, uint32_t n) {
    const uint32_t sbuf_addr = e->sbuf_cursor;
    for (uint32_t i = first; i < first + n; i++) {
        const vtrn_instr *from = &s->body->instrs[i];
        if (from->source < s->body->n_sources) {
            const vtrn_source *source = &s->sources[from->source];
            VTRN_RETURN_IF_ERROR(build_source_set(e->build, source->op, source->place));
        }
        vtrn_instr *to = emit_append(e, from->opcode, from->engine);
        if (!to)
            return VTRN_OUT_OF_MEMORY(sizeof *to);
        *to = *from;
        place(s, sbuf_addr, e->build->source, to);
    }
    return NULL;
}

vtrn_status emit_native_kernel(emitter *e, const kernel *k) {
    const kernel_native *s = k->spec;
    psum_banks banks;
    e->psum_first = 0; /* its banks are numbered as the kernel numbers them */
    VTRN_RETURN_IF_ERROR(psum_take(e, s->psum_banks, &banks));
    for (int i = 0; i < s->psum_banks; i++)
        psum_tile(e, &banks, i); /* counts it as used */
    for (uint32_t b = 0; b < s->body->n_blocks; b++) {
        const vtrn_block *block = &s->body->blocks[b];
        for (int engine = 0; engine < VTRN_ENGINE_COUNT; engine++)
            VTRN_RETURN_IF_ERROR(emit_stream(e, s, block->first[engine], block->count[engine]));
        build_count_flops(e->build, block->flops);
    }
    e->sbuf_cursor += sbuf_round(k->demand.sbuf_bytes);
    e->act_table = 0xff; /* whichever the kernel has loaded */
    return NULL;
}
