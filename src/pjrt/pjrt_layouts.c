/* The layouts extension: in which order the dimensions of tensors are in memory. */
#include "pjrt/pjrt_extensions.h"
#include "pjrt/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As XLA prints it: "{0,1}" names the dimensions from the fastest to the slowest. */
struct PJRT_Layouts_MemoryLayout {
    bool is_executables; /* part of an executable, and freed with it */
    char text[64];
};

_Static_assert(VTRN_MAX_RANK * 3 + 2 <= sizeof((PJRT_Layouts_MemoryLayout *)NULL)->text,
               "two digits and a comma for each dimension");

static void print_layout(const uint8_t *order, int rank, PJRT_Layouts_MemoryLayout *out) {
    size_t n = (size_t)snprintf(out->text, sizeof out->text, "{");
    for (int i = rank - 1; i >= 0; i--)
        n += (size_t)snprintf(out->text + n, sizeof out->text - n, "%d%s", order[i], i ? "," : "");
    snprintf(out->text + n, sizeof out->text - n, "}");
}

static PJRT_Error *make_layout(const api_type *type, PJRT_Layouts_MemoryLayout **out) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return plugin_error(VTRN_OUT_OF_MEMORY(sizeof **out));
    print_layout(type->order, plugin_rank_of(type), *out);
    return NULL;
}

static PJRT_Error *make_default(PJRT_Buffer_Type type, const int64_t *dims, size_t n_dims,
                                PJRT_Layouts_MemoryLayout **out) {
    int dtype;
    api_type full;
    PLUGIN_RETURN_IF_ERROR(plugin_dtype_of(type, &dtype));
    PLUGIN_RETURN_IF_ERROR(api_type_init(
        dtype, n_dims > VTRN_MAX_RANK ? VTRN_MAX_RANK + 1 : (int)n_dims, dims, &full));
    return make_layout(&full, out);
}

static PJRT_Error *destroy(PJRT_Layouts_MemoryLayout_Destroy_Args *args) {
    ARGS_REQUIRE(args, layout);
    if (args->layout && !args->layout->is_executables)
        free(args->layout);
    return NULL;
}

static void keep_text(PJRT_Layouts_SerializedLayout *layout) {
    (void)layout; /* it is the layout's own */
}

static PJRT_Error *serialize(PJRT_Layouts_MemoryLayout_Serialize_Args *args) {
    ARGS_REQUIRE(args, serialized_layout_deleter);
    args->serialized_bytes = args->layout->text;
    args->serialized_bytes_size = strlen(args->layout->text);
    args->serialized_layout = (PJRT_Layouts_SerializedLayout *)args->layout;
    args->serialized_layout_deleter = keep_text;
    return NULL;
}

static PJRT_Error *client_default(PJRT_Layouts_PJRT_Client_GetDefaultLayout_Args *args) {
    ARGS_REQUIRE(args, layout);
    return make_default(args->type, args->dims, args->num_dims, &args->layout);
}

static PJRT_Error *topology_default(PJRT_Layouts_PJRT_Topology_GetDefaultLayout_Args *args) {
    ARGS_REQUIRE(args, layout);
    return make_default(args->type, args->dims, args->num_dims, &args->layout);
}

static PJRT_Error *of_buffer(PJRT_Layouts_PJRT_Buffer_MemoryLayout_Args *args) {
    ARGS_REQUIRE(args, layout);
    return make_layout(&args->buffer->buffer->type, &args->layout);
}

bool plugin_layouts_describe(PJRT_Executable *e) {
    const vtrn_executable *x = e->executable;
    size_t n_outputs = (size_t)x->n_outputs, n = n_outputs + (size_t)x->n_inputs;
    e->layouts = calloc(n + 1, sizeof *e->layouts);
    e->layout_data = calloc(n + 1, sizeof *e->layout_data);
    if (!e->layouts || !e->layout_data)
        return false;
    for (size_t i = 0; i < n; i++) {
        const api_type *type = i < n_outputs ? &x->outputs[i] : &x->inputs[i - n_outputs];
        e->layouts[i] = &e->layout_data[i];
        e->layouts[i]->is_executables = true;
        print_layout(type->order, plugin_rank_of(type), e->layouts[i]);
    }
    return true;
}

static PJRT_Error *of_outputs(PJRT_Layouts_PJRT_Executable_GetOutputLayouts_Args *args) {
    ARGS_REQUIRE(args, layouts);
    args->num_outputs = (size_t)args->executable->executable->n_outputs;
    args->layouts = args->executable->layouts;
    return NULL;
}

static PJRT_Error *of_parameters(PJRT_Layouts_PJRT_Executable_GetParameterLayouts_Args *args) {
    ARGS_REQUIRE(args, layouts);
    args->num_parameters = (size_t)args->executable->executable->n_inputs;
    args->layouts = args->executable->layouts + args->executable->executable->n_outputs;
    return NULL;
}

PJRT_Layouts_Extension plugin_layouts_extension = {
    .base = {.struct_size = sizeof plugin_layouts_extension,
             .type = PJRT_Extension_Type_Layouts,
             .next = &plugin_shardings_extension.base},
    .memory_layout_destroy = destroy,
    .memory_layout_serialize = serialize,
    .client_default = client_default,
    .of_buffer = of_buffer,
    .topology_default = topology_default,
    .of_outputs = of_outputs,
    .of_parameters = of_parameters,
};
