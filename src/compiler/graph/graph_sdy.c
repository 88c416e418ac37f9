/* Shardy's meshes and shardings: the attributes that say how tensors are cut over devices. */
#include "compiler/graph/graph_build.h"

#include <string.h>

/* A mesh with the names of its axes. */
typedef struct named_mesh {
    uint32_t n_axes;
    vhlo_string *names;
    graph_axis *axes;
    graph_mesh *mesh;
} named_mesh;

static bool is_sdy(const vhlo_entry *e, int code) {
    return vhlo_entry_is(e, VHLO_DIALECT_SDY, code);
}

static vtrn_status malformed(const char *what) {
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "malformed sdy attribute: %s", what);
}

/* Places of the devices that the mesh lists: each partition once. */
static vtrn_status decode_devices(graph_builder *b, const vhlo_entry *e, uint32_t first,
                                  graph_mesh *mesh) {
    int64_t n = (int64_t)e->n_ints - first;
    if (n <= 0)
        return NULL;
    if (n != mesh->n_devices)
        return VTRN_ERROR(
            VTRN_UNSUPPORTED,
            "a mesh of %lld places with %lld devices; a tensor on one device of several "
            "is none of this program's",
            (long long)mesh->n_devices, (long long)n);
    int64_t *ids;
    uint8_t *seen;
    GRAPH_NEW(b, ids, (size_t)n);
    GRAPH_NEW(b, seen, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        ids[i] = e->ints[first + i];
        if (ids[i] < 0 || ids[i] >= n || seen[ids[i]]++)
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "mesh: device %lld is out of range or listed twice; there are 0..%lld",
                (long long)ids[i], (long long)n - 1);
    }
    mesh->partition_of = ids;
    return NULL;
}

static vtrn_status decode_mesh(graph_builder *b, const vhlo_entry *e, named_mesh *out) {
    if (!is_sdy(e, SDY_ATTR_MESH) || e->n_ints < 1 || (uint64_t)e->ints[0] > e->n_refs)
        return malformed("mesh");
    out->n_axes = (uint32_t)e->ints[0];
    GRAPH_NEW(b, out->names, out->n_axes);
    GRAPH_NEW(b, out->axes, out->n_axes);
    GRAPH_NEW(b, out->mesh, 1);
    int64_t n = 1;
    for (uint32_t i = out->n_axes; i-- > 0;) {
        const vhlo_entry *axis;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, e->refs[i], &axis));
        if (!is_sdy(axis, SDY_ATTR_MESH_AXIS) || axis->n_ints != 1 || axis->ints[0] < 1)
            return malformed("axis of a mesh");
        out->names[i] = (vhlo_string){(const char *)axis->data, axis->n_data};
        out->axes[i] = (graph_axis){n, axis->ints[0]};
        if (__builtin_mul_overflow(n, axis->ints[0], &n))
            return malformed("size of a mesh");
    }
    out->mesh->n_devices = n;
    if (n != 1 && n != b->g->n_partitions)
        return VTRN_ERROR(
            VTRN_UNSUPPORTED,
            "a mesh of %lld devices in a program of %lld partitions; make the mesh of "
            "all of them",
            (long long)n, (long long)b->g->n_partitions);
    /* "AZ": the number of axes, that of devices, the devices */
    return decode_devices(b, e, 2, out->mesh);
}

/* The mesh that an attribute is, or that it names. */
static vtrn_status find_mesh(graph_builder *b, const vhlo_entry *e, named_mesh *out) {
    vhlo_string name, candidate;
    if (is_sdy(e, SDY_ATTR_MESH))
        return decode_mesh(b, e, out);
    if (vhlo_entry_is(e, VHLO_DIALECT_BUILTIN, BUILTIN_ATTR_SYMBOL) && e->n_refs)
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, e->refs[0], &e));
    if (!vhlo_entry_string(e, &name))
        return malformed("a sharding names no mesh");
    for (const vhlo_op *v = b->m->root->regions[0].first_op; v; v = v->next) {
        const vhlo_entry *symbol, *mesh;
        if (v->name->dialect_id != VHLO_DIALECT_SDY || !vhlo_string_equal(v->name->name, "mesh"))
            continue;
        VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "sym_name", &symbol));
        VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "mesh", &mesh));
        if (vhlo_entry_string(symbol, &candidate) && candidate.len == name.len &&
            memcmp(candidate.text, name.text, name.len) == 0)
            return decode_mesh(b, mesh, out);
    }
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "no mesh @%.*s", name.len < 200 ? (int)name.len : 200,
                      name.text);
}

static const graph_axis *find_axis(const named_mesh *mesh, vhlo_string name) {
    for (uint32_t i = 0; i < mesh->n_axes; i++)
        if (mesh->names[i].len == name.len && !memcmp(mesh->names[i].text, name.text, name.len))
            return &mesh->axes[i];
    return NULL;
}

/* "x", or "x":(2)4, the part of size 4 behind the leading part of size 2. */
static vtrn_status decode_axis(graph_builder *b, const named_mesh *mesh, uint32_t attr,
                               graph_axis *out) {
    const vhlo_entry *e, *sub = NULL;
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, attr, &e));
    if (!is_sdy(e, SDY_ATTR_AXIS))
        return malformed("reference to an axis");
    const graph_axis *axis = find_axis(mesh, (vhlo_string){(const char *)e->data, e->n_data});
    if (!axis)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "no axis \"%.*s\" in the mesh",
                          e->n_data < 200 ? (int)e->n_data : 200, (const char *)e->data);
    *out = *axis;
    if (!e->n_refs || e->refs[0] == VHLO_NONE)
        return NULL;
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, e->refs[0], &sub));
    if (!is_sdy(sub, SDY_ATTR_SUB_AXIS) || sub->n_ints != 2 || sub->ints[0] < 1 ||
        sub->ints[1] < 1 || axis->size % sub->ints[0] || axis->size / sub->ints[0] % sub->ints[1])
        return malformed("part of an axis");
    out->size = sub->ints[1];
    out->stride = axis->stride * (axis->size / (sub->ints[0] * sub->ints[1]));
    return NULL;
}

/* "aAAA": the mesh; the numbers of dimensions, replicated and unreduced axes, and these. */
static vtrn_status decode_unreduced(graph_builder *b, const vhlo_entry *e, const named_mesh *mesh,
                                    graph_sharding *s) {
    graph_axis *axes;
    int64_t n = e->ints[2], first = 1 + e->ints[0] + e->ints[1];
    if (n < 0 || e->ints[1] < 0 || first + n > e->n_refs)
        return malformed("unreduced axes of a sharding");
    GRAPH_NEW(b, axes, (size_t)n);
    for (int64_t i = 0; i < n; i++)
        VTRN_RETURN_IF_ERROR(decode_axis(b, mesh, e->refs[first + i], &axes[i]));
    s->n_unreduced = (uint32_t)n;
    s->unreduced = axes;
    return NULL;
}

static vtrn_status decode_sharding(graph_builder *b, const vhlo_entry *e, bool takes_unreduced,
                                   const graph_sharding **out) {
    *out = NULL;
    bool is_later = is_sdy(e, SDY_ATTR_SHARDING_V2) || is_sdy(e, SDY_ATTR_SHARDING_V3);
    if ((!is_sdy(e, SDY_ATTR_SHARDING) && !is_later) || e->n_ints < 2 || e->n_refs < 1)
        return malformed("sharding");
    bool has_unreduced = is_later && e->n_ints > 2 && e->ints[2] > 0;
    if (has_unreduced && (!takes_unreduced || is_sdy(e, SDY_ATTR_SHARDING_V3)))
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "a sharding with unreduced axes; reduce the value with psum first");
    int64_t n_dims = e->ints[0];
    if (n_dims < 0 || n_dims > GRAPH_MAX_RANK || n_dims + 1 > e->n_refs)
        return malformed("dimensions of a sharding");
    const vhlo_entry *mesh_entry, *dims[GRAPH_MAX_RANK];
    named_mesh mesh = {0};
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, e->refs[0], &mesh_entry));
    VTRN_RETURN_IF_ERROR(find_mesh(b, mesh_entry, &mesh));
    graph_sharding *s;
    graph_axis *axes;
    uint32_t n_axes = 0;
    for (int64_t d = 0; d < n_dims; d++) {
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, e->refs[1 + d], &dims[d]));
        if (!is_sdy(dims[d], SDY_ATTR_DIM) || dims[d]->n_ints < 1 || dims[d]->ints[0] < 0 ||
            dims[d]->ints[0] > dims[d]->n_refs)
            return malformed("dimension of a sharding");
        n_axes += (uint32_t)dims[d]->ints[0];
    }
    GRAPH_NEW(b, s, 1);
    GRAPH_NEW(b, axes, n_axes);
    s->mesh = mesh.mesh;
    s->rank = (int)n_dims;
    s->axes = axes;
    for (int64_t d = 0; d < n_dims; d++) {
        s->first[d + 1] = s->first[d];
        for (int64_t i = 0; i < dims[d]->ints[0]; i++)
            VTRN_RETURN_IF_ERROR(decode_axis(b, &mesh, dims[d]->refs[i], &axes[s->first[d + 1]++]));
    }
    if (has_unreduced)
        VTRN_RETURN_IF_ERROR(decode_unreduced(b, e, &mesh, s));
    *out = s;
    return NULL;
}

vtrn_status graph_sdy_sharding(graph_builder *b, const vhlo_entry *e, const graph_sharding **out) {
    return decode_sharding(b, e, false, out);
}

/* A list of n shardings, one a value. */
static vtrn_status decode_list(graph_builder *b, const vhlo_entry *e, uint32_t n,
                               const graph_sharding *const **out) {
    const graph_sharding **list;
    if ((!is_sdy(e, SDY_ATTR_SHARDINGS) && !is_sdy(e, SDY_ATTR_SHARDINGS_V2)) || e->n_refs != n)
        return malformed("shardings of values");
    GRAPH_NEW(b, list, n);
    for (uint32_t i = 0; i < n; i++) {
        const vhlo_entry *item;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, e->refs[i], &item));
        VTRN_RETURN_IF_ERROR(graph_sdy_sharding(b, item, &list[i]));
    }
    *out = list;
    return NULL;
}

/* To Shardy a token has no dimensions. */
static vtrn_status check_ranks(graph_builder *b, const graph_sharding *const *shardings,
                               const graph_value *values, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const graph_type *type = &b->g->types[values[i]];
        int rank = type->is_token ? 0 : type->rank;
        if (shardings[i]->rank != rank)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a sharding of rank %d for value %u of rank %d",
                              shardings[i]->rank, i, rank);
    }
    return NULL;
}

/* The manual axes are named alone: their mesh is that of a sharding. A computation of no values has
 * no mesh and needs none. */
static vtrn_status decode_manual_axes(graph_builder *b, const vhlo_op *v, graph_op *op) {
    const vhlo_entry *axes, *shardings = NULL, *first, *mesh_entry;
    named_mesh mesh = {0};
    graph_axis *list;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "manual_axes", &axes));
    VTRN_RETURN_IF_ERROR(
        vhlo_op_attr(b->m, v, op->n_operands ? "in_shardings" : "out_shardings", &shardings));
    if (!is_sdy(axes, SDY_ATTR_AXES))
        return malformed("manual axes");
    if (!shardings || !shardings->n_refs)
        return NULL;
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, shardings->refs[0], &first));
    if (!first || !first->n_refs)
        return malformed("sharding");
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, first->refs[0], &mesh_entry));
    VTRN_RETURN_IF_ERROR(find_mesh(b, mesh_entry, &mesh));
    GRAPH_NEW(b, list, axes->n_refs);
    for (uint32_t i = 0; i < axes->n_refs; i++) {
        const vhlo_entry *name_entry;
        vhlo_string name;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, axes->refs[i], &name_entry));
        const graph_axis *axis =
            vhlo_entry_string(name_entry, &name) ? find_axis(&mesh, name) : NULL;
        if (!axis)
            return malformed("a manual axis is none of the mesh");
        list[i] = *axis;
    }
    op->attrs.shardings.axes = list;
    op->attrs.shardings.n_axes = axes->n_refs;
    return NULL;
}

vtrn_status graph_sdy_manual(graph_builder *b, const vhlo_op *v, graph_op *op) {
    const vhlo_entry *in, *out;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "in_shardings", &in));
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "out_shardings", &out));
    VTRN_RETURN_IF_ERROR(decode_list(b, in, op->n_operands, &op->attrs.shardings.in));
    VTRN_RETURN_IF_ERROR(decode_list(b, out, op->n_results, &op->attrs.shardings.out));
    VTRN_RETURN_IF_ERROR(check_ranks(b, op->attrs.shardings.in, op->operands, op->n_operands));
    VTRN_RETURN_IF_ERROR(check_ranks(b, op->attrs.shardings.out, op->results, op->n_results));
    return decode_manual_axes(b, v, op);
}

vtrn_status graph_sdy_constraint(graph_builder *b, const vhlo_op *v, graph_op *op) {
    const vhlo_entry *e;
    const graph_sharding **out;
    GRAPH_NEW(b, out, 1);
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "sharding", &e));
    VTRN_RETURN_IF_ERROR(graph_sdy_sharding(b, e, out));
    op->attrs.shardings.out = out;
    return check_ranks(b, op->attrs.shardings.out, op->results, 1);
}

/* The shardings of @main's parameters or results, as far as the program gives them. */
static vtrn_status main_shardings(graph_builder *b, const vhlo_op *main, const char *attrs_name,
                                  const graph_value *values, uint32_t n,
                                  const graph_sharding ***out) {
    const vhlo_entry *attrs, *dictionary, *e, *other, *takes_unreduced;
    GRAPH_NEW(b, *out, n);
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, main, attrs_name, &attrs));
    if (!vhlo_entry_is(attrs, VHLO_DIALECT_VHLO, VHLO_ATTR_ARRAY))
        return NULL;
    for (uint32_t i = 0; i < attrs->n_refs && i < n; i++) {
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(b->m, attrs->refs[i], &dictionary));
        VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, dictionary, "sdy.sharding", &e));
        VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, dictionary, "mhlo.sharding", &other));
        if (!e && other)
            return VTRN_ERROR(VTRN_UNSUPPORTED,
                              "%s %u has a sharding of GSPMD (mhlo.sharding); let JAX use Shardy, "
                              "jax.config.update(\"jax_use_shardy_partitioner\", True), and with "
                              "PyTorch no xr.use_spmd()",
                              attrs_name[0] == 'a' ? "argument" : "result", i);
        if (!e)
            continue;
        /* The partitioner's mark: the program knows that it takes or gives parts of a sum. */
        VTRN_RETURN_IF_ERROR(
            vhlo_dictionary_get(b->m, dictionary, "vtrn.unreduced", &takes_unreduced));
        VTRN_RETURN_IF_ERROR(decode_sharding(b, e, takes_unreduced != NULL, &(*out)[i]));
        VTRN_RETURN_IF_ERROR(check_ranks(b, &(*out)[i], &values[i], 1));
    }
    return NULL;
}

vtrn_status graph_sdy_main(graph_builder *b, const vhlo_op *main) {
    graph *g = b->g;
    if (g->n_partitions <= 1)
        return NULL;
    VTRN_RETURN_IF_ERROR(
        main_shardings(b, main, "arg_attrs", g->body.args, g->body.n_args, &g->arg_sharding));
    return main_shardings(b, main, "res_attrs", g->body.results, g->body.n_results,
                          &g->result_sharding);
}
