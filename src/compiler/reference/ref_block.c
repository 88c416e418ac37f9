/* Keeps one block of scratch from operation to operation: what the host maps anew costs a fault a
 * page, as much as a factorisation of a few hundred rows. */
#include "compiler/reference/ref_block.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum {
    ALIGN = 64,
    MOST_KEPT = 64 << 20, /* bytes */
};

typedef struct header {
    size_t n_bytes;
} header;

static _Atomic(header *) kept;

void *ref_block_take(size_t n_bytes) {
    header *h = atomic_exchange(&kept, NULL);
    if (h && h->n_bytes < n_bytes) {
        free(h);
        h = NULL;
    }
    if (!h && n_bytes <= SIZE_MAX - 2 * ALIGN) {
        h = aligned_alloc(ALIGN, ALIGN + (n_bytes + ALIGN - 1) / ALIGN * ALIGN);
        if (h)
            h->n_bytes = n_bytes;
    }
    return h ? (char *)h + ALIGN : NULL;
}

void ref_block_give(void *block) {
    header *h = (header *)((char *)block - ALIGN);
    if (h->n_bytes <= MOST_KEPT)
        h = atomic_exchange(&kept, h);
    free(h);
}
