/* The Shardings extension: how parameters and outputs are cut, as serialized xla.OpSharding. */
#include "pjrt/pjrt_extensions.h"
#include "pjrt/pjrt_wire.h"
#include "pjrt/plugin.h"

#include <stdlib.h>
#include <string.h>

/* Of OpSharding. Source: xla_data.proto. */
enum {
    TYPE_REPLICATED = 0,
    TYPE_OTHER = 3,
    TYPE_UNREDUCED = 6,
    FIELD_TYPE = 1,
    FIELD_DIMS = 3,
    FIELD_DEVICES = 4,
    FIELD_REPLICATES = 6,
    FIELD_LAST_TYPES = 8,
};

/* A field of packed numbers, or its size alone with out NULL. */
static size_t write_packed(char *out, int field, const int64_t *values, size_t n) {
    char scratch[PJRT_MAX_VARINT];
    size_t size = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        size += pjrt_write_varint(scratch, (uint64_t)values[i]);
    at += pjrt_write_varint(out ? out : scratch, (uint64_t)field << 3 | 2);
    at += pjrt_write_varint(out ? out + at : scratch, size);
    for (size_t i = 0; i < n && out; i++)
        at += pjrt_write_varint(out + at, (uint64_t)values[i]);
    return out ? at : at + size;
}

/* No bytes: replicated, which is the type with number 0. */
static vtrn_status serialize(const api_sharding *s, size_t n_partitions, char **out,
                             size_t *out_size) {
    int64_t dims[VTRN_MAX_RANK + 2], last_types[2];
    size_t n_dims = (size_t)s->rank, n_last = 0;
    bool is_sum = s->partition && s->n_unreduced > 1;
    *out_size = 0;
    memcpy(dims, s->n_parts, n_dims * sizeof *dims);
    if (is_sum) {
        last_types[n_last++] = TYPE_UNREDUCED;
        dims[n_dims++] = s->n_unreduced;
    }
    if (s->partition && s->n_copies > 1) {
        last_types[n_last++] = TYPE_REPLICATED;
        dims[n_dims++] = s->n_copies;
    }
    size_t room = 16;
    if (s->partition)
        room += write_packed(NULL, FIELD_DIMS, dims, n_dims) +
                write_packed(NULL, FIELD_DEVICES, s->partition, n_partitions);
    char *at = *out = malloc(room);
    if (!at)
        return VTRN_OUT_OF_MEMORY(room);
    if (!s->partition)
        return NULL;
    *at++ = FIELD_TYPE << 3;
    if (is_sum && (size_t)s->n_unreduced == n_partitions) {
        *at++ = TYPE_UNREDUCED;
        *out_size = (size_t)(at - *out);
        return NULL;
    }
    *at++ = TYPE_OTHER;
    at += write_packed(at, FIELD_DIMS, dims, n_dims);
    at += write_packed(at, FIELD_DEVICES, s->partition, n_partitions);
    if (is_sum) {
        at += write_packed(at, FIELD_LAST_TYPES, last_types, n_last);
    } else if (s->n_copies > 1) {
        *at++ = FIELD_REPLICATES << 3;
        *at++ = 1;
    }
    *out_size = (size_t)(at - *out);
    return NULL;
}

vtrn_status plugin_describe_shardings(PJRT_Executable *e) {
    const vtrn_executable *x = e->executable;
    size_t n = (size_t)x->n_outputs + (size_t)x->n_inputs;
    if (!x->shardings)
        return NULL;
    e->shardings = calloc(n + 1, sizeof *e->shardings);
    e->sharding_sizes = calloc(n + 1, sizeof *e->sharding_sizes);
    if (!e->shardings || !e->sharding_sizes)
        return VTRN_OUT_OF_MEMORY(n * sizeof *e->shardings);
    for (size_t i = 0; i < n; i++)
        VTRN_RETURN_IF_ERROR(
            serialize(&x->shardings[i], e->n_partitions, &e->shardings[i], &e->sharding_sizes[i]));
    return NULL;
}

void plugin_free_shardings(PJRT_Executable *e) {
    for (int i = 0; e->shardings && i < e->executable->n_outputs + e->executable->n_inputs; i++)
        free(e->shardings[i]);
    free(e->shardings);
    free(e->sharding_sizes);
}

static PJRT_Error *output_shardings(PJRT_Shardings_Args *args) {
    ARGS_REQUIRE(args, sharding_sizes);
    const PJRT_Executable *e = args->executable;
    args->n = (size_t)e->executable->n_outputs;
    args->shardings = (const char *const *)e->shardings;
    args->sharding_sizes = e->sharding_sizes;
    /* To XLA an empty tuple has one sharding. */
    static const char *const whole[] = {""};
    static const size_t whole_size[] = {0};
    if (e->shardings && !args->n) {
        args->n = 1;
        args->shardings = whole;
        args->sharding_sizes = whole_size;
    }
    return NULL;
}

static PJRT_Error *parameter_shardings(PJRT_Shardings_Args *args) {
    ARGS_REQUIRE(args, sharding_sizes);
    const PJRT_Executable *e = args->executable;
    size_t n_outputs = (size_t)e->executable->n_outputs;
    args->n = (size_t)e->executable->n_inputs;
    args->shardings = e->shardings ? (const char *const *)e->shardings + n_outputs : NULL;
    args->sharding_sizes = e->shardings ? e->sharding_sizes + n_outputs : NULL;
    return NULL;
}

PJRT_Shardings_Extension plugin_shardings_extension = {
    .base = {.struct_size = sizeof(PJRT_Shardings_Extension),
             .type = PJRT_Extension_Type_Shardings,
             .next = &plugin_cross_host_extension.base},
    .parameter_shardings = parameter_shardings,
    .output_shardings = output_shardings,
};
