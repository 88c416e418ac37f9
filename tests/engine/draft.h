/* Instructions in program order, before they are dealt over the engines' queues. */
#ifndef VTRN_TESTS_ENGINE_DRAFT_H
#define VTRN_TESTS_ENGINE_DRAFT_H

#include "rig.h"

enum { MAX_DRAFT = 256 };

typedef struct draft {
    vtrn_instr instr[MAX_DRAFT];
    int n;
} draft;

static inline vtrn_instr *draft_add(draft *d, vtrn_opcode opcode, vtrn_engine engine) {
    assert_true(d->n < MAX_DRAFT);
    vtrn_instr *in = &d->instr[d->n++];
    *in = (vtrn_instr){.opcode = (uint16_t)opcode, .engine = (uint8_t)engine};
    return in;
}

/* Each instruction waits for the one before it. */
static inline void draft_deal(const draft *d, rig *r) {
    rig_clear(r);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        for (int i = 0; i < d->n; i++) {
            if (d->instr[i].engine != e)
                continue;
            vtrn_instr *in = rig_add(r, (vtrn_opcode)d->instr[i].opcode, (vtrn_engine)e);
            *in = d->instr[i];
            in->n_waits = i > 0;
            in->wait[0] = (vtrn_wait){0, 0, (uint32_t)i};
            in->update_semaphore = 0;
            in->update_value = 1;
        }
}

#endif
