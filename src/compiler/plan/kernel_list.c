/* The list of kernels and what each reads and writes. */
#include "compiler/plan/kernel_list.h"

#include "base/array.h"

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

vtrn_status plan_append(plan *p, const kernel *k) {
    kernel_list *list = &p->list;
    if (!array_grow((void **)&list->kernels, list->n_kernels, &list->cap_kernels,
                    sizeof *list->kernels))
        return VTRN_OUT_OF_MEMORY(sizeof *list->kernels);
    kernel *to = &list->kernels[list->n_kernels++];
    *to = *k;
    to->access_i = list->n_accesses;
    to->n_accesses = 0;
    return NULL;
}

vtrn_status plan_kernel(plan *p, kernel_kind kind, const void *spec, size_t spec_bytes,
                        kernel_demand demand) {
    kernel k = {.kind = (uint8_t)kind,
                .source = p->build->source,
                .block_i = p->block_i,
                .demand = demand,
                .spec = arena_alloc(&p->home, 1, spec_bytes)};
    if (!k.spec)
        return VTRN_OUT_OF_MEMORY(spec_bytes);
    memcpy(k.spec, spec, spec_bytes);
    return plan_append(p, &k);
}

vtrn_status plan_access(plan *p, const kernel_access *access) {
    kernel_list *list = &p->list;
    if (!array_grow((void **)&list->accesses, list->n_accesses, &list->cap_accesses,
                    sizeof *list->accesses))
        return VTRN_OUT_OF_MEMORY(sizeof *list->accesses);
    list->accesses[list->n_accesses++] = *access;
    list->kernels[list->n_kernels - 1].n_accesses++;
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

vtrn_status plan_block_begin(plan *p, uint32_t *out_block) {
    VTRN_RETURN_IF_ERROR(build_block_begin(p->build, out_block));
    p->block_i = *out_block;
    return NULL;
}

int64_t plan_row_cols(const plan *p, uint32_t slot) {
    return slot < p->n_row_cols ? p->row_cols[slot] : 0;
}

vtrn_status plan_row_cols_set(plan *p, uint32_t slot, int64_t cols) {
    if (slot >= p->n_row_cols) {
        uint32_t n = 2 * slot + 64;
        int64_t *grown = realloc(p->row_cols, n * sizeof *grown);
        if (!grown)
            return VTRN_OUT_OF_MEMORY(n * sizeof *grown);
        memset(grown + p->n_row_cols, 0, (n - p->n_row_cols) * sizeof *grown);
        p->row_cols = grown;
        p->n_row_cols = n;
    }
    p->row_cols[slot] = cols;
    return NULL;
}

void kernel_list_free(kernel_list *list) {
    free(list->kernels);
    free(list->accesses);
    *list = (kernel_list){0};
}

void plan_free(plan *p) {
    kernel_list_free(&p->list);
    arena_free(&p->home);
    free(p->row_cols);
    *p = (plan){0};
}
