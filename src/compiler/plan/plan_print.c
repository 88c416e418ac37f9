#include "compiler/plan/plan_print.h"

#include "compiler/plan/map_plan.h"
#include "compiler/plan/resident.h"

static void print_slot(const plan *p, uint32_t slot, FILE *out) {
    static const char kinds[] = {[VTRN_SLOT_ARGUMENT] = 'a',
                                 [VTRN_SLOT_OUTPUT] = 'o',
                                 [VTRN_SLOT_SCRATCH] = 't',
                                 [VTRN_SLOT_CONSTANT] = 'c',
                                 [VTRN_SLOT_RANK] = 'r'};
    fprintf(out, "%c%u", kinds[p->build->slots[slot].slot.kind], slot);
}

/* "t3 + 128 : fp32 [16 x 64, 64 x 1]": tensor, offset, dtype, factors (size x stride). */
static void print_view(const plan *p, const view *v, FILE *out) {
    view c = *v;
    view_coalesce(&c);
    print_slot(p, v->slot, out);
    if (v->offset)
        fprintf(out, " + %lld", (long long)v->offset);
    fprintf(out, " : %s [", dtype_name((vtrn_dtype)v->dtype));
    for (int i = 0; i < c.n; i++)
        fprintf(out, "%s%lld x %lld", i ? ", " : "", (long long)c.f[i].size,
                (long long)c.f[i].stride);
    fputc(']', out);
}

static void print_factors(const char *name, const view_factor *f, int n, FILE *out) {
    int64_t size = 1;
    for (int i = 0; i < n; i++)
        size *= f[i].size;
    fprintf(out, " %s %lld", name, (long long)size);
}

static void print_contraction(const contract_spec *s, FILE *out) {
    print_factors("batch", s->a.batch, s->a.n_batch, out);
    print_factors("m", s->a.x, s->a.n_x, out);
    print_factors("n", s->b.x, s->b.n_x, out);
    print_factors("k", s->a.k, s->a.n_k, out);
    fprintf(out, " in %s", dtype_name(s->compute));
}

/* How a contraction is cut, and what it has of SBUF and PSUM. */
static void print_cut(const contraction *c, FILE *out) {
    const contract_cut *cut = &c->cut;
    fprintf(out, ", cut %lld rows x %lld of %lld columns x %lld of k", (long long)cut->group_rows,
            (long long)cut->block_cols, (long long)cut->turn_cols, (long long)cut->chunk_k);
    if (cut->n_together > 1)
        fprintf(out, ", %d tiles together", cut->n_together);
    fprintf(out, ", slots %d of %lld rows + %d of %lld columns", cut->n_a, (long long)cut->a_span,
            cut->n_b, (long long)cut->b_span);
    if (cut->n_natural)
        fprintf(out, " + %d natural of %lld", cut->n_natural, (long long)cut->natural_cols);
    if (cut->n_sums)
        fputs(", in strips", out);
    fprintf(out, ", banks %d + %d", c->banks.sums, c->banks.turns);
}

static void print_sides(const map_sides *s, FILE *out) {
    const sides_operand *in[] = {&s->a, &s->b};
    fprintf(out, ", %lld batches side by side", (long long)s->n);
    for (int i = 0; i < 2; i++)
        fprintf(out, "%s %s%d loaded", i ? " +" : ", buffers", in[i]->turns ? "natural " : "",
                in[i]->n_loaded);
}

static void print_convolution(const plan *p, const conv_spec *s, FILE *out) {
    const conv_geometry *g = &s->geometry;
    if (s->is_pooling)
        fprintf(out, " (pool) channels %lld", (long long)g->n_out);
    else
        fprintf(out, " channels %lld of %lld", (long long)g->n_out, (long long)g->n_in);
    fprintf(out, ", taps %lld in %s, image ", (long long)g->n_taps, dtype_name(s->compute));
    print_view(p, &s->image, out);
    if (s->is_pooling)
        return;
    fputs(", weights ", out);
    print_view(p, &s->weights, out);
}

static const char *op_name(const fusion_node *node) {
    return node->op == FUSION_LOAD       ? "load"
           : node->op == FUSION_CONTRACT ? "contract"
           : node->op == FUSION_CONV     ? "convolve"
                                         : graph_kind_name((graph_kind)node->op);
}

static void print_input(const fusion_in *in, FILE *out) {
    if (in->node == FUSION_NO_NODE)
        fprintf(out, " %g", in->imm);
    else
        fprintf(out, " %%%d", in->node);
}

static void print_place(const fusion_node *node, FILE *out) {
    if (node->kept)
        fprintf(out, ", stays at %u", node->kept->addr);
    if (node->taken)
        fprintf(out, ", read at %u", node->taken->addr);
}

static void print_node(const plan *p, const kernel *k, int i, plan_stage stage, FILE *out) {
    static const char *const shapes[] = {"full", "row", "column"};
    const map_plan *m = stage > PLAN_FORMED ? k->spec : NULL;
    const fusion_node *node = &(m ? m->f : (const fusion *)k->spec)->nodes[i];
    if (stage > PLAN_FORMED && !node->is_live)
        return;
    fprintf(out, "    %%%d = %s%s : %s", i, op_name(node), node->is_column ? " over rows" : "",
            dtype_name((vtrn_dtype)node->dtype));
    for (int in = 0; in < node->n_in; in++)
        print_input(&node->in[in], out);
    if (node->op == FUSION_LOAD) {
        fputc(' ', out);
        print_view(p, &node->source_view, out);
    }
    if (node->op == FUSION_CONTRACT)
        print_contraction(node->spec, out);
    if (node->op == FUSION_CONV)
        print_convolution(p, (m ? m->f : (const fusion *)k->spec)->conv, out);
    if (node->op == FUSION_CONTRACT && m)
        m->f->n_side ? print_sides(&m->sides, out) : print_cut(&m->contracts[node->contract], out);
    if (stage > PLAN_FORMED)
        fprintf(out, ", %s%s%s", shapes[node->shape], node->is_hoisted ? ", once" : "",
                node->is_folded    ? (node->op == FUSION_CONTRACT ? ", read in PSUM" : ", folded")
                : node->is_exit    ? ", out of PSUM"
                : node->is_moments ? ", with the variance"
                : node->is_summed  ? ", with its operand"
                : node->is_square  ? ", as a square"
                                   : "");
    if (node->is_stored) {
        fputs(node->is_accumulated ? " += " : " -> ", out);
        print_view(p, &node->store_view, out);
    }
    if (stage == PLAN_PLACED)
        print_place(node, out);
    fputc('\n', out);
}

static void print_tiles(const map_plan *m, FILE *out) {
    const fusion_tiling *t = &m->size;
    fprintf(out, " %s of %lld columns, tiles of %lld, %d abreast, %d buffers",
            m->is_flat ? "flat rows" : "rows", (long long)fusion_turn_cols(m),
            (long long)t->tile_cols, t->n_abreast, t->n_buffers);
    if (m->f->conv)
        fprintf(out, ", bands of %lld pixels x %d, weights %s", (long long)m->conv.band_pixels,
                m->conv.n_bands, m->conv.are_weights_whole ? "whole" : "by tile");
}

static void print_map(const plan *p, const kernel *k, plan_stage stage, FILE *out) {
    bool is_tiled = stage > PLAN_FORMED;
    const fusion *f = is_tiled ? ((const map_plan *)k->spec)->f : (const fusion *)k->spec;
    fprintf(out, " %lld elements", (long long)f->n);
    if (is_tiled)
        print_tiles(k->spec, out);
    else if (f->cols)
        fprintf(out, " rows of %lld", (long long)f->cols);
    fputc('\n', out);
    for (int i = 0; i < f->n_nodes; i++)
        print_node(p, k, i, stage, out);
}

static void print_accesses(const plan *p, const kernel *k, FILE *out) {
    for (uint32_t i = 0; i < k->n_accesses; i++) {
        const kernel_access *a = &p->list.accesses[k->access_i + i];
        fputs(a->is_written ? "    writes " : "    reads ", out);
        if (a->is_whole)
            print_slot(p, a->map.slot, out);
        else
            print_view(p, &a->map, out);
        fputc('\n', out);
    }
}

static void print_kernel(const plan *p, const kernel *k, plan_stage stage, FILE *out) {
    const vtrn_source *s = &p->build->sources[k->source];
    fprintf(out, "  %s", kernel_name((kernel_kind)k->kind));
    if (stage == PLAN_PLACED && k->demand.sbuf_bytes)
        fprintf(out, " @%u..%llu", k->sbuf_addr,
                (unsigned long long)k->sbuf_addr + k->demand.sbuf_bytes);
    fprintf(out, " \"%s%s%s\"", s->op, *s->place ? " " : "", s->place);
    if (k->kind == KERNEL_MAP) {
        print_map(p, k, stage, out);
        return;
    }
    if (k->kind == KERNEL_CONTRACT) {
        bool is_cut = stage > PLAN_FORMED;
        print_contraction(is_cut ? ((const contraction *)k->spec)->spec : k->spec, out);
        if (is_cut)
            print_cut(k->spec, out);
    }
    fputc('\n', out);
    print_accesses(p, k, out);
}

void plan_print(const plan *p, plan_stage stage, FILE *out) {
    static const char *const names[] = {"form", "tiles", "place"};
    uint32_t block_i = UINT32_MAX;
    fprintf(out, "== %s\n", names[stage]);
    for (uint32_t i = 0; i < p->list.n_kernels; i++) {
        const kernel *k = &p->list.kernels[i];
        if (k->block_i != block_i)
            fprintf(out, "block %u\n", block_i = k->block_i);
        print_kernel(p, k, stage, out);
    }
}
