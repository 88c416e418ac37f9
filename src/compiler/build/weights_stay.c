#include "compiler/build/weights_stay.h"

#include "isa/access.h"

#include <stdlib.h>

/* How a program uses a slot. */
typedef struct slot_use {
    uint8_t widest;  /* bytes of an element where a load puts it; 0: none reads it */
    bool is_strange; /* not loads alone */
} slot_use;

static void note(slot_use *use, const vtrn_instr *instr, const isa_access *a) {
    bool is_load = instr->opcode == VTRN_OP_DMA_COPY || instr->opcode == VTRN_OP_DMA_TRANSPOSE;
    if (a->is_written || !is_load || !a->ap || instr->ap[0].space != VTRN_SPACE_SBUF) {
        use->is_strange = true;
        return;
    }
    size_t size = dtype_size((vtrn_dtype)instr->ap[0].dtype);
    use->widest = size > use->widest ? (uint8_t)size : use->widest;
}

static void find_uses(const vtrn_program *p, slot_use *uses) {
    for (uint32_t i = 0; i < p->n_instrs; i++) {
        isa_access a;
        for (access_walk w = access_begin(&p->instrs[i], p->customs, p->n_customs);
             access_next(&w, &a);)
            if (a.space == VTRN_SPACE_HBM && a.slot < p->n_slots)
                note(&uses[a.slot], &p->instrs[i], &a);
    }
}

vtrn_status weights_stay_mark(vtrn_program *program, uint32_t n_weights, uint64_t room_bytes) {
    slot_use *uses = calloc((size_t)program->n_slots + 1, sizeof *uses);
    if (!uses)
        return VTRN_OUT_OF_MEMORY(program->n_slots * sizeof *uses);
    find_uses(program, uses);
    for (uint32_t i = 0; i < program->n_slots; i++) {
        vtrn_slot *s = &program->slots[i];
        if (s->kind != VTRN_SLOT_ARGUMENT || (uint32_t)s->index >= n_weights)
            continue;
        size_t stored = dtype_size((vtrn_dtype)s->dtype);
        if (uses[i].is_strange || !uses[i].widest || !stored)
            continue;
        uint64_t n_bytes = s->size_bytes / stored * uses[i].widest;
        if (n_bytes > room_bytes)
            continue;
        s->stays = true;
        room_bytes -= n_bytes;
    }
    free(uses);
    return NULL;
}
