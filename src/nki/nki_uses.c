/* Which instructions of the list name each record. */
#include "nki/nki_session.h"

#include <stdlib.h>

static bool is_named_before(const nki_issued *issued, int i) {
    for (int k = 0; k < i; k++)
        if (issued->operand[k] == issued->operand[i])
            return true;
    return false;
}

/* Adds the list's instructions to the uses of their records; at: where to keep them, NULL: they are
 * counted alone. Returns how many there are in all. */
static uint32_t add_uses(const nki_session *s, nki_uses *of, uint32_t *at) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n_list; k++)
        for (int i = 0; i < VTRN_MAX_AP; i++) {
            const nki_issued *issued = &s->list[k];
            if (!issued->operand[i] || is_named_before(issued, i))
                continue;
            nki_uses *uses = &of[issued->operand[i]->storage.id];
            if (at)
                at[uses->first + uses->n] = k;
            uses->n++;
            n++;
        }
    return n;
}

vtrn_status nki_find_uses(const nki_session *s, nki_uses *of, uint32_t **out_at) {
    const uint32_t n = add_uses(s, of, NULL);
    *out_at = malloc(((size_t)n + 1) * sizeof **out_at);
    if (!*out_at)
        return VTRN_OUT_OF_MEMORY(n * sizeof **out_at);
    for (uint32_t i = 0, first = 0; i < s->n_records; i++) {
        of[i].first = first;
        first += of[i].n;
        of[i].n = 0;
    }
    add_uses(s, of, *out_at);
    return NULL;
}
