/* Blocks form a list in address order; the free ones are also a treap ordered by (size, address).
 */
#include "runtime/hbm.h"

#include <stdlib.h>

struct hbm_block {
    uint64_t addr, size;
    uint64_t dirty;         /* free blocks: bytes at the low end that may be resident on the host */
    hbm_block *prev, *next; /* by address */
    hbm_block *left, *right;
    uint32_t priority;
    bool is_free;
};

struct hbm_heap {
    hbm_block *first, *free_root;
    hbm_block *spare; /* unused nodes, linked by next */
    uint64_t base, dirty;
    uint32_t random;
    hbm_stats stats;
};

/* Free memory that stays resident: a training step reuses it at once. Beyond this it goes back. */
static const uint64_t keep_resident_bytes = 32u << 20;
static const uint64_t min_trim_bytes = 256u << 10;

static bool is_before(const hbm_block *a, const hbm_block *b) {
    return a->size != b->size ? a->size < b->size : a->addr < b->addr;
}

/* xorshift32: the shape of the treap is the same in every run. */
static uint32_t next_random(hbm_heap *heap) {
    uint32_t x = heap->random;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return heap->random = x;
}

/* Splits t into what is before key and the rest. */
static void treap_split(hbm_block *t, const hbm_block *key, hbm_block **before, hbm_block **rest) {
    while (t) {
        if (is_before(t, key)) {
            *before = t;
            before = &t->right;
            t = t->right;
        } else {
            *rest = t;
            rest = &t->left;
            t = t->left;
        }
    }
    *before = NULL;
    *rest = NULL;
}

static void treap_insert(hbm_heap *heap, hbm_block *b) {
    b->priority = next_random(heap);
    hbm_block **at = &heap->free_root;
    while (*at && (*at)->priority >= b->priority)
        at = is_before(b, *at) ? &(*at)->left : &(*at)->right;
    hbm_block *below = *at;
    treap_split(below, b, &b->left, &b->right);
    *at = b;
}

static hbm_block *treap_merge(hbm_block *a, hbm_block *b) {
    hbm_block *root = NULL, **at = &root;
    while (a && b) {
        if (a->priority >= b->priority) {
            *at = a;
            at = &a->right;
            a = a->right;
        } else {
            *at = b;
            at = &b->left;
            b = b->left;
        }
    }
    *at = a ? a : b;
    return root;
}

static void treap_remove(hbm_heap *heap, hbm_block *b) {
    hbm_block **at = &heap->free_root;
    while (*at != b)
        at = is_before(b, *at) ? &(*at)->left : &(*at)->right;
    *at = treap_merge(b->left, b->right);
    b->left = b->right = NULL;
}

static hbm_block *best_fit(const hbm_heap *heap, uint64_t size) {
    hbm_block *best = NULL;
    for (hbm_block *t = heap->free_root; t;) {
        if (t->size >= size) {
            best = t;
            t = t->left;
        } else {
            t = t->right;
        }
    }
    return best;
}

static void free_list_add(hbm_heap *heap, hbm_block *b) {
    b->is_free = true;
    heap->dirty += b->dirty;
    treap_insert(heap, b);
}

static void free_list_remove(hbm_heap *heap, hbm_block *b) {
    b->is_free = false;
    heap->dirty -= b->dirty;
    treap_remove(heap, b);
}

static hbm_block *node_new(hbm_heap *heap) {
    hbm_block *b = heap->spare;
    if (b)
        heap->spare = b->next;
    else
        b = malloc(sizeof *b);
    if (b)
        *b = (hbm_block){0};
    return b;
}

static void node_free(hbm_heap *heap, hbm_block *b) {
    b->next = heap->spare;
    heap->spare = b;
}

vtrn_status hbm_heap_create(uint64_t base, uint64_t size_bytes, hbm_heap **out) {
    uint64_t end = (base + size_bytes) & ~(uint64_t)(HBM_ALIGN_BYTES - 1);
    base = (base + HBM_ALIGN_BYTES - 1) & ~(uint64_t)(HBM_ALIGN_BYTES - 1);
    if (end <= base)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "HBM stack: %llu bytes are less than one unit of %d",
                          (unsigned long long)size_bytes, HBM_ALIGN_BYTES);
    hbm_heap *heap = calloc(1, sizeof *heap);
    if (!heap)
        return VTRN_OUT_OF_MEMORY(sizeof *heap);
    heap->random = 0x9e3779b9u;
    heap->base = base;
    heap->stats.capacity_bytes = end - base;
    hbm_block *all = node_new(heap);
    if (!all) {
        free(heap);
        return VTRN_OUT_OF_MEMORY(sizeof *all);
    }
    all->addr = base;
    all->size = end - base;
    heap->first = all;
    free_list_add(heap, all);
    *out = heap;
    return NULL;
}

void hbm_heap_destroy(hbm_heap *heap) {
    if (!heap)
        return;
    for (hbm_block *b = heap->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    for (hbm_block *b = heap->spare, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(heap);
}

static uint64_t largest_free(const hbm_heap *heap) {
    const hbm_block *t = heap->free_root;
    while (t && t->right)
        t = t->right;
    return t ? t->size : 0;
}

static vtrn_status no_room(const hbm_heap *heap, uint64_t size_bytes) {
    const hbm_stats *s = &heap->stats;
    return VTRN_ERROR(
        VTRN_CAPACITY,
        "HBM: %llu bytes requested, %llu bytes free, largest free block %llu bytes, "
        "capacity of the stack %llu bytes",
        (unsigned long long)size_bytes, (unsigned long long)(s->capacity_bytes - s->in_use_bytes),
        (unsigned long long)largest_free(heap), (unsigned long long)s->capacity_bytes);
}

/* Cuts b down to size; what is behind becomes a free block. */
static vtrn_status split_tail(hbm_heap *heap, hbm_block *b, uint64_t size) {
    hbm_block *tail = node_new(heap);
    if (!tail)
        return VTRN_OUT_OF_MEMORY(sizeof *tail);
    tail->addr = b->addr + size;
    tail->size = b->size - size;
    tail->dirty = b->dirty > size ? b->dirty - size : 0;
    tail->prev = b;
    tail->next = b->next;
    if (tail->next)
        tail->next->prev = tail;
    b->next = tail;
    b->size = size;
    free_list_add(heap, tail);
    return NULL;
}

vtrn_status hbm_alloc(hbm_heap *heap, uint64_t size_bytes, hbm_block **out) {
    if (size_bytes > heap->stats.capacity_bytes)
        return no_room(heap, size_bytes);
    uint64_t size = size_bytes ? size_bytes : 1;
    size = (size + HBM_ALIGN_BYTES - 1) & ~(uint64_t)(HBM_ALIGN_BYTES - 1);
    hbm_block *b = best_fit(heap, size);
    if (!b)
        return no_room(heap, size_bytes);
    free_list_remove(heap, b);
    if (b->size > size) {
        vtrn_status status = split_tail(heap, b, size);
        if (status) {
            free_list_add(heap, b);
            return status;
        }
    }
    hbm_stats *s = &heap->stats;
    s->in_use_bytes += size;
    s->n_allocations++;
    if (s->in_use_bytes > s->peak_bytes)
        s->peak_bytes = s->in_use_bytes;
    if (size > s->largest_alloc_bytes)
        s->largest_alloc_bytes = size;
    *out = b;
    return NULL;
}

/* Joins b with the free block behind it. */
static void absorb_next(hbm_heap *heap, hbm_block *b) {
    hbm_block *n = b->next;
    b->dirty = n->dirty ? b->size + n->dirty : b->dirty;
    b->size += n->size;
    b->next = n->next;
    if (b->next)
        b->next->prev = b;
    node_free(heap, n);
}

void hbm_free(hbm_heap *heap, hbm_block *block, uint64_t *trim_addr, uint64_t *trim_bytes) {
    heap->stats.in_use_bytes -= block->size;
    heap->stats.n_allocations--;
    block->dirty = block->size;
    if (block->next && block->next->is_free) {
        free_list_remove(heap, block->next);
        absorb_next(heap, block);
    }
    if (block->prev && block->prev->is_free) {
        hbm_block *before = block->prev;
        free_list_remove(heap, before);
        absorb_next(heap, before);
        block = before;
    }
    *trim_addr = block->addr;
    *trim_bytes = 0;
    if (heap->dirty + block->dirty > keep_resident_bytes && block->dirty >= min_trim_bytes) {
        *trim_bytes = block->dirty;
        block->dirty = 0;
    }
    free_list_add(heap, block);
}

uint64_t hbm_block_addr(const hbm_block *block) {
    return block->addr;
}

uint64_t hbm_block_bytes(const hbm_block *block) {
    return block->size;
}

void hbm_heap_stats(const hbm_heap *heap, hbm_stats *out) {
    *out = heap->stats;
    out->largest_free_bytes = largest_free(heap);
}

void hbm_heap_reset_peak(hbm_heap *heap) {
    heap->stats.peak_bytes = heap->stats.in_use_bytes;
}

/* Counts the treap's nodes; -1 when order or priority is broken. */
static int64_t treap_check(const hbm_block *t) {
    if (!t)
        return 0;
    if ((t->left && (!is_before(t->left, t) || t->left->priority > t->priority)) ||
        (t->right && (!is_before(t, t->right) || t->right->priority > t->priority)))
        return -1;
    int64_t l = treap_check(t->left), r = treap_check(t->right);
    return l < 0 || r < 0 ? -1 : l + r + 1;
}

bool hbm_heap_is_sound(const hbm_heap *heap) {
    uint64_t at = heap->base, in_use = 0, dirty = 0, n_live = 0;
    int64_t n_free = 0;
    const hbm_block *prev = NULL;
    for (const hbm_block *b = heap->first; b; prev = b, b = b->next) {
        if (b->addr != at || b->prev != prev || b->size == 0 || b->size % HBM_ALIGN_BYTES)
            return false;
        if (prev && prev->is_free && b->is_free)
            return false; /* neighbours must have merged */
        at += b->size;
        if (b->is_free) {
            n_free++;
            dirty += b->dirty;
            if (b->dirty > b->size)
                return false;
        } else {
            n_live++;
            in_use += b->size;
        }
    }
    return at == heap->base + heap->stats.capacity_bytes && in_use == heap->stats.in_use_bytes &&
           n_live == heap->stats.n_allocations && dirty == heap->dirty &&
           treap_check(heap->free_root) == n_free;
}
