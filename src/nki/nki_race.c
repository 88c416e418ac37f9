/* Accesses of HBM that nothing orders: what the two programs of a launch do to the same bytes
 * between two points where they meet, so that what one reads depends on who comes first; and what
 * one DMA reads where it writes. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

/* Larger tensors are not followed: a map of them has a byte for each. */
enum { MAX_FOLLOWED_BYTES = 16 << 20 };

/* What each program has done to a tensor since the programs met last. */
struct nki_sharing {
    nki_map written[NKI_MAX_CORES], read[NKI_MAX_CORES];
    uint32_t writer[NKI_MAX_CORES], reader[NKI_MAX_CORES]; /* sources of the last */
    uint32_t n_barriers;
};

static void clear(nki_map *map, uint64_t n_bytes) {
    free(map->bytes);
    *map = (nki_map){.n_bytes = n_bytes};
}

void nki_sharing_free(struct nki_sharing *sharing) {
    for (int p = 0; sharing && p < NKI_MAX_CORES; p++) {
        free(sharing->written[p].bytes);
        free(sharing->read[p].bytes);
    }
    free(sharing);
}

static bool is_followed(const nki_session *s, const vtrn_instr *instr, const nki_view *view,
                        int i) {
    if (s->program < 0 || s->has_no_values || !view || view->storage->space != VTRN_SPACE_HBM ||
        view->storage->n_bytes > MAX_FOLLOWED_BYTES || access_is_table(instr, i))
        return false;
    return nki_record_of(view)->kind != NKI_CONSTANT;
}

static vtrn_status sharing_of(nki_session *s, const nki_view *view, struct nki_sharing **out) {
    nki_record *r = nki_record_of(view);
    if (!r->sharing)
        r->sharing = calloc(1, sizeof *r->sharing);
    if (!r->sharing)
        return VTRN_OUT_OF_MEMORY(sizeof *r->sharing);
    if (r->sharing->n_barriers != s->n_barriers || !r->sharing->written[0].n_bytes)
        for (int p = 0; p < NKI_MAX_CORES; p++) {
            clear(&r->sharing->written[p], r->storage.n_bytes);
            clear(&r->sharing->read[p], r->storage.n_bytes);
        }
    r->sharing->n_barriers = s->n_barriers;
    *out = r->sharing;
    return NULL;
}

static uint64_t common(const nki_map *map, const nki_view *view) {
    uint64_t first;
    return map->n_set ? nki_map_count(map, view, &first) : 0;
}

/* found: what the program does now, and did before. */
typedef struct race {
    const char *now, *before;
    uint64_t n_bytes;
    uint32_t source, other_source;
} race;

static void tell(nki_session *s, const nki_view *view, const race *found) {
    s->n_races++;
    if (s->first_race)
        return;
    char text[200];
    nki_view_print(view, text, sizeof text);
    s->first_race =
        VTRN_ERROR(VTRN_HAZARD,
                   "core %d %s %llu bytes of %s that core %d %s, and nothing orders the two; put "
                   "nisa.core_barrier between them",
                   s->program, found->now, (unsigned long long)found->n_bytes, text, 1 - s->program,
                   found->before);
    s->race_source[0] = found->source;
    s->race_source[1] = found->other_source;
}

vtrn_status nki_race_begin(nki_session *s, const vtrn_instr *instr, const nki_view *const *view,
                           void **out_before) {
    *out_before = NULL;
    const nki_view *dst = view[0];
    if (!is_followed(s, instr, dst, 0) || !access_is_written(instr, 0))
        return NULL;
    struct nki_sharing *h;
    VTRN_RETURN_IF_ERROR(sharing_of(s, dst, &h));
    int other = 1 - s->program;
    if (!common(&h->written[other], dst) && !common(&h->read[other], dst))
        return NULL;
    uint64_t n_unwritten;
    *out_before = malloc((size_t)vtrn_nki_view_bytes(dst));
    if (!*out_before)
        return VTRN_OUT_OF_MEMORY((size_t)vtrn_nki_view_bytes(dst));
    return vtrn_nki_read(dst, *out_before, &n_unwritten);
}

/* The other program's bytes have become others. */
static vtrn_status check_change(nki_session *s, const vtrn_instr *instr, const nki_view *dst,
                                const void *before) {
    size_t size = (size_t)vtrn_nki_view_bytes(dst);
    uint64_t n_unwritten;
    void *after = malloc(size);
    if (!after)
        return VTRN_OUT_OF_MEMORY(size);
    vtrn_status status = vtrn_nki_read(dst, after, &n_unwritten);
    struct nki_sharing *h = nki_record_of(dst)->sharing;
    int other = 1 - s->program;
    if (!status && memcmp(before, after, size) != 0) {
        uint64_t n = common(&h->written[other], dst);
        race found = {.now = "overwrites", .before = "wrote", .source = instr->source};
        found.n_bytes = n ? n : common(&h->read[other], dst);
        found.before = n ? "wrote" : "reads";
        found.other_source = n ? h->writer[other] : h->reader[other];
        tell(s, dst, &found);
    }
    free(after);
    return status;
}

vtrn_status nki_race_end(nki_session *s, const vtrn_instr *instr, const nki_view *const *view,
                         const void *before) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!is_followed(s, instr, view[i], i))
            continue;
        struct nki_sharing *h;
        VTRN_RETURN_IF_ERROR(sharing_of(s, view[i], &h));
        int me = s->program, other = 1 - me;
        if (access_is_read(instr, i)) {
            race found = {.now = "reads",
                          .before = "wrote",
                          .n_bytes = common(&h->written[other], view[i]),
                          .source = instr->source,
                          .other_source = h->writer[other]};
            /* What both have written is alike, or was told when it became other. */
            bool is_mine =
                common(&h->written[me], view[i]) == (uint64_t)vtrn_nki_view_bytes(view[i]);
            if (found.n_bytes && !is_mine)
                tell(s, view[i], &found);
            h->reader[me] = instr->source;
            VTRN_RETURN_IF_ERROR(nki_map_mark(&h->read[me], view[i]));
        }
        if (access_is_written(instr, i)) {
            if (before && i == 0)
                VTRN_RETURN_IF_ERROR(check_change(s, instr, view[i], before));
            h->writer[me] = instr->source;
            VTRN_RETURN_IF_ERROR(nki_map_mark(&h->written[me], view[i]));
        }
    }
    return NULL;
}

static bool is_same_view(const nki_view *a, const nki_view *b) {
    bool is_same = a->n_dims == b->n_dims && a->offset == b->offset && a->dtype == b->dtype;
    for (int i = 0; i < a->n_dims && is_same; i++)
        is_same = a->shape[i] == b->shape[i] && (a->shape[i] == 1 || a->step[i] == b->step[i]);
    return is_same;
}

vtrn_status nki_race_with_itself(nki_session *s, const vtrn_instr *instr,
                                 const nki_view *const *view) {
    const nki_view *dst = view[0], *src = view[1];
    if (!isa_is_dma(instr->opcode) || !dst || !src || dst->storage != src->storage ||
        dst->storage->space != VTRN_SPACE_HBM || dst->storage->n_bytes > MAX_FOLLOWED_BYTES ||
        access_is_table(instr, 0) || access_is_table(instr, 1))
        return NULL;
    /* Each element onto itself. */
    if (instr->opcode == VTRN_OP_DMA_COPY && is_same_view(dst, src))
        return NULL;
    nki_map written = {.n_bytes = dst->storage->n_bytes};
    VTRN_RETURN_IF_ERROR(nki_view_check(dst));
    VTRN_RETURN_IF_ERROR(nki_view_check(src));
    vtrn_status status = nki_map_mark(&written, dst);
    uint64_t n = status ? 0 : common(&written, src);
    free(written.bytes);
    if (!n)
        return status;
    s->n_races++;
    if (s->first_race)
        return NULL;
    char to[200], from[200];
    nki_view_print(dst, to, sizeof to);
    nki_view_print(src, from, sizeof from);
    s->first_race = VTRN_ERROR(
        VTRN_HAZARD,
        "one %s writes %s and reads %s of the same tensor, %llu bytes of which it writes "
        "itself: its descriptors run in no defined order; copy to another tensor first, "
        "or by way of a tile in SBUF",
        isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, to, from, (unsigned long long)n);
    s->race_source[0] = s->race_source[1] = instr->source;
    return NULL;
}

void vtrn_nki_set_program(nki_session *s, int program) {
    s->program = program;
}

uint64_t vtrn_nki_races(const nki_session *s, const char **first, uint32_t source[2]) {
    *first = s->first_race ? vtrn_status_message(s->first_race) : NULL;
    memcpy(source, s->race_source, sizeof s->race_source);
    return s->n_races;
}
