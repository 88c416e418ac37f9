#include "profile/profile_comm.h"

#include <stdlib.h>
#include <string.h>

/* --- what ran ----------------------------------------------------------------------------------
 */

static uint64_t bytes_of(const vtrn_program *p, const vtrn_custom *custom) {
    const bool is_gather = custom->collective->kind == VTRN_COLLECTIVE_ALL_GATHER;
    uint64_t n = 0;
    for (uint32_t i = 0; i < custom->n_inputs; i++)
        n += p->slots[custom->slots[i + (is_gather ? custom->n_inputs : 0)]].size_bytes;
    return n;
}

/* How often the shown rank ran each, and where it stands in the source. */
static void count(const profile_input *in, profile_comm_row *rows) {
    for (size_t i = 0; i < in->timing->n_intervals; i++) {
        const timing_interval *v = &in->timing->intervals[i];
        if (v->lane != VTRN_ENGINE_CC || v->instr >= in->program->n_instrs)
            continue;
        const vtrn_instr *instr = &in->program->instrs[v->instr];
        if (instr->opcode != VTRN_OP_COLLECTIVE)
            continue;
        profile_comm_row *row = &rows[instr->arg[0]];
        row->n++;
        if (instr->source < in->program->n_sources)
            row->source = &in->program->sources[instr->source];
    }
}

static int compare_rows(const void *a, const void *b) {
    const profile_comm_row *x = a, *y = b;
    double p = (double)x->n * x->time.duration_ns, q = (double)y->n * y->time.duration_ns;
    if (p != q)
        return p < q ? 1 : -1;
    return (x->custom_i > y->custom_i) - (x->custom_i < y->custom_i);
}

/* --- where bytes go ----------------------------------------------------------------------------
 */

/* Of a member's bytes, what each of the other n - 1 gets. */
static double part_of(const vtrn_collective *c, double bytes, int n) {
    switch (c->kind) {
    case VTRN_COLLECTIVE_ALL_REDUCE: /* parts to who adds them up, and the sums back */
        return 2 * bytes / n;
    case VTRN_COLLECTIVE_PERMUTE:
    case VTRN_COLLECTIVE_BROADCAST:
        return bytes;
    default:
        return bytes / n;
    }
}

static void add_to_matrix(const vtrn_collective *c, double bytes, const uint32_t *side_of,
                          profile_comm *out) {
    for (uint32_t g = 0; g < c->n_groups; g++) {
        const int32_t *members = &c->groups[(size_t)g * c->group_size];
        const bool has_root =
            c->kind == VTRN_COLLECTIVE_PERMUTE || c->kind == VTRN_COLLECTIVE_BROADCAST;
        int n = 0;
        while ((uint32_t)n < c->group_size && members[n] >= 0)
            n++;
        for (int i = 0; i < (has_root ? n > 0 : n); i++)
            for (int k = 0; k < n; k++)
                if (i != k)
                    out->matrix[(size_t)side_of[members[i]] * out->n_sides + side_of[members[k]]] +=
                        part_of(c, bytes, n);
    }
}

/* Ranks, or the chips that they are on. */
static vtrn_status make_sides(const profile_input *in, uint32_t *side_of, profile_comm *out) {
    out->is_by_chip = in->n_ranks > PROFILE_MOST_SIDES;
    out->sides = calloc((size_t)in->n_ranks + 1, sizeof *out->sides);
    if (!out->sides)
        return VTRN_OUT_OF_MEMORY(in->n_ranks * sizeof *out->sides);
    for (uint32_t r = 0; r < in->n_ranks; r++) {
        int side = out->is_by_chip ? in->ranks[r].core_i / in->chip->n_cores : (int)r;
        uint32_t at = 0;
        while (at < out->n_sides && out->sides[at] != side)
            at++;
        if (at == out->n_sides)
            out->sides[out->n_sides++] = side;
        side_of[r] = at;
    }
    out->matrix = calloc((size_t)out->n_sides * out->n_sides + 1, sizeof *out->matrix);
    return out->matrix ? NULL : VTRN_OUT_OF_MEMORY(out->n_sides * sizeof *out->matrix);
}

static vtrn_status add_row(const profile_input *in, profile_comm_row *row, double *scratch,
                           profile_comm *out) {
    const vtrn_collective *c = in->program->customs[row->custom_i].collective;
    const size_t n = (size_t)c->n_groups * c->group_size;
    int *devices = malloc((n + 1) * sizeof *devices);
    if (!devices)
        return VTRN_OUT_OF_MEMORY(n * sizeof *devices);
    for (size_t i = 0; i < n; i++)
        devices[i] = c->groups[i] < 0 ? -1 : in->ranks[c->groups[i]].core_i;
    const collective_request request = {.op = (collective_op)c->kind,
                                        .bytes = row->bytes,
                                        .devices = devices,
                                        .n_groups = (int)c->n_groups,
                                        .group_size = (int)c->group_size};
    memset(scratch, 0, (size_t)out->n_links * sizeof *scratch);
    vtrn_status status = NULL;
    if (n) {
        status = collective_estimate(in->topology, &request, &row->time);
        if (!status)
            status = collective_link_bytes(in->topology, &request, scratch);
        row->restriction = collective_restriction(in->topology, &request);
    }
    for (int i = 0; i < out->n_links; i++)
        out->link_bytes[i] += (double)row->n * scratch[i];
    free(devices);
    return status;
}

static void find_slowest(const collective_topology *t, profile_comm *out) {
    out->slowest_link = -1;
    for (int i = 0; i < out->n_links; i++) {
        double ns = 1e9 * out->link_bytes[i] / collective_link_at(t, i).bytes_per_s;
        if (ns > out->slowest_ns) {
            out->slowest_ns = ns;
            out->slowest_link = i;
        }
    }
}

static vtrn_status fill(const profile_input *in, double *scratch, uint32_t *side_of,
                        profile_comm *out) {
    VTRN_RETURN_IF_ERROR(make_sides(in, side_of, out));
    count(in, out->rows);
    for (uint32_t i = 0; i < in->program->n_customs; i++) {
        profile_comm_row *row = &out->rows[i];
        const vtrn_custom *custom = &in->program->customs[i];
        if (!custom->collective || !row->n)
            continue;
        profile_comm_row own = *row;
        own.custom_i = i;
        own.bytes = bytes_of(in->program, custom);
        VTRN_RETURN_IF_ERROR(add_row(in, &own, scratch, out));
        add_to_matrix(custom->collective, (double)own.n * (double)own.bytes, side_of, out);
        out->rows[out->n++] = own; /* at or before its own place */
    }
    qsort(out->rows, out->n, sizeof *out->rows, compare_rows);
    find_slowest(in->topology, out);
    return NULL;
}

vtrn_status profile_comm_create(const profile_input *in, profile_comm *out) {
    *out = (profile_comm){.n_links = collective_n_links(in->topology)};
    const size_t n_links = (size_t)out->n_links + 1;
    out->rows = calloc((size_t)in->program->n_customs + 1, sizeof *out->rows);
    out->link_bytes = calloc(n_links, sizeof *out->link_bytes);
    double *scratch = calloc(n_links, sizeof *scratch);
    uint32_t *side_of = calloc((size_t)in->n_ranks + 1, sizeof *side_of);
    vtrn_status status = out->rows && out->link_bytes && scratch && side_of
                             ? fill(in, scratch, side_of, out)
                             : VTRN_OUT_OF_MEMORY(n_links * sizeof *scratch);
    free(scratch);
    free(side_of);
    if (status)
        profile_comm_free(out);
    return status;
}

void profile_comm_free(profile_comm *comm) {
    free(comm->rows);
    free(comm->link_bytes);
    free(comm->sides);
    free(comm->matrix);
    *comm = (profile_comm){.slowest_link = -1};
}
