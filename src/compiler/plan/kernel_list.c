/* The list of kernels and what each reads and writes. */
#include "compiler/plan/kernel_list.h"

#include <stdlib.h>
#include <string.h>

const char *kernel_name(kernel_kind kind) {
    static const char *const names[] = {
#define KERNEL(kind, name, text) [KERNEL_##kind] = #name,
#include "compiler/plan/kernels.def"
#undef KERNEL
    };
    return names[kind];
}

/* Makes room for one more element in a malloc'd array. */
static bool grow(void **array, uint32_t n, uint32_t *cap, size_t size) {
    if (n < *cap)
        return true;
    uint32_t more = *cap ? *cap * 2 : 64;
    void *grown = realloc(*array, more * size);
    if (!grown)
        return false;
    *array = grown;
    *cap = more;
    return true;
}

vtrn_status plan_append(plan *p, const kernel *k) {
    if (!grow((void **)&p->kernels, p->n_kernels, &p->cap_kernels, sizeof *p->kernels))
        return VTRN_OUT_OF_MEMORY(sizeof *p->kernels);
    kernel *to = &p->kernels[p->n_kernels++];
    *to = *k;
    to->access_i = p->n_accesses;
    to->n_accesses = 0;
    return NULL;
}

kernel *plan_add(plan *p, kernel_kind kind, const void *spec, size_t spec_bytes) {
    kernel k = {.kind = (uint8_t)kind, .spec = arena_alloc(&p->home, 1, spec_bytes)};
    if (!k.spec)
        return NULL;
    memcpy(k.spec, spec, spec_bytes);
    vtrn_status status = plan_append(p, &k);
    if (!status)
        return &p->kernels[p->n_kernels - 1];
    vtrn_status_free(status);
    return NULL;
}

vtrn_status plan_access(plan *p, const kernel_access *access) {
    if (!grow((void **)&p->accesses, p->n_accesses, &p->cap_accesses, sizeof *p->accesses))
        return VTRN_OUT_OF_MEMORY(sizeof *p->accesses);
    p->accesses[p->n_accesses++] = *access;
    p->kernels[p->n_kernels - 1].n_accesses++;
    return NULL;
}

static vtrn_status add_access(plan *p, const view *map, bool is_written, bool is_whole) {
    kernel_access a = {.map = *map, .is_written = is_written, .is_whole = is_whole};
    return plan_access(p, &a);
}

vtrn_status plan_reads(plan *p, const view *map) {
    return add_access(p, map, false, false);
}

vtrn_status plan_writes(plan *p, const view *map) {
    return add_access(p, map, true, false);
}

vtrn_status plan_reads_whole(plan *p, uint32_t slot) {
    view v = {.slot = slot};
    return add_access(p, &v, false, true);
}

vtrn_status plan_writes_whole(plan *p, uint32_t slot) {
    view v = {.slot = slot};
    return add_access(p, &v, true, true);
}

void plan_free(plan *p) {
    arena_free(&p->home);
    free(p->kernels);
    free(p->accesses);
    *p = (plan){0};
}
