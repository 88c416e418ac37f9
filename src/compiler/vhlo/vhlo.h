/* VHLO artifacts: MLIR bytecode (versions 0 to 6) with the builtin, vhlo and sdy dialects, decoded
 * to a module in memory. Nothing here knows what an operation means. */
#ifndef VTRN_COMPILER_VHLO_VHLO_H
#define VTRN_COMPILER_VHLO_VHLO_H

#include "base/arena.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { VHLO_NONE = 0xffffffffu }; /* no attribute, no type */

typedef enum vhlo_dialect {
    VHLO_DIALECT_OTHER,
    VHLO_DIALECT_BUILTIN,
    VHLO_DIALECT_VHLO,
    VHLO_DIALECT_SDY,
    VHLO_DIALECT_STABLEHLO, /* types of values of sdy operations, which VHLO does not convert */
} vhlo_dialect;

/* NUL-terminated inside the artifact; may hold further NULs before len. */
typedef struct vhlo_string {
    const char *text;
    size_t len;
} vhlo_string;

/* Codes of the attributes and types that a reader of the module looks at. */
enum {
    BUILTIN_ATTR_ARRAY = 0,
    BUILTIN_ATTR_DICTIONARY = 1,
    BUILTIN_ATTR_STRING = 2,
    BUILTIN_ATTR_SYMBOL = 4,
    BUILTIN_ATTR_INTEGER = 8,
    BUILTIN_ATTR_CALL_SITE = 10,
    BUILTIN_ATTR_FILE_LINE_COL = 11,
    BUILTIN_ATTR_FUSED = 12,
    BUILTIN_ATTR_FUSED_METADATA = 13,
    BUILTIN_ATTR_NAME = 14,
    BUILTIN_ATTR_DENSE_ARRAY = 17,
    BUILTIN_ATTR_FILE_LINE_COL_RANGE = 22,
    BUILTIN_TYPE_INTEGER = 0,
    BUILTIN_TYPE_INDEX = 1,
    BUILTIN_TYPE_BF16 = 3,
    BUILTIN_TYPE_F16 = 4,
    BUILTIN_TYPE_F32 = 5,
    BUILTIN_TYPE_F64 = 6,
    BUILTIN_TYPE_COMPLEX = 9,
    BUILTIN_TYPE_TENSOR = 13,
    BUILTIN_TYPE_TENSOR_ENCODED = 14,
    BUILTIN_TYPE_F8E5M2 = 22,
    BUILTIN_TYPE_F8E4M3 = 23,
    BUILTIN_TYPE_F8E4M3FN = 24,
    BUILTIN_TYPE_F8E5M2FNUZ = 25,
    BUILTIN_TYPE_F8E4M3FNUZ = 26,
    BUILTIN_TYPE_F8E4M3B11FNUZ = 27,
    BUILTIN_TYPE_F8E3M4 = 28,
    BUILTIN_TYPE_F4E2M1FN = 29,
    BUILTIN_TYPE_F8E8M0FNU = 32,
    SDY_ATTR_AXES = 0, /* of a manual computation */
    SDY_ATTR_MESH_AXIS = 1,
    SDY_ATTR_MESH = 2,
    SDY_ATTR_SUB_AXIS = 3,
    SDY_ATTR_AXIS = 4,
    SDY_ATTR_DIM = 5,
    SDY_ATTR_SHARDING = 6,
    SDY_ATTR_SHARDINGS = 7, /* by value */
    SDY_ATTR_SHARDING_V2 = 15,
    SDY_ATTR_SHARDINGS_V2 = 16,
    SDY_ATTR_SHARDING_V3 = 17,
    STABLEHLO_TYPE_TOKEN = 0,
    VHLO_ATTR_ARRAY = 1,
    VHLO_ATTR_BOOL = 2,
    VHLO_ATTR_COMPARISON_DIRECTION = 3,
    VHLO_ATTR_COMPARISON_TYPE = 4,
    VHLO_ATTR_DICTIONARY = 6,
    VHLO_ATTR_FFT_TYPE = 7,
    VHLO_ATTR_FLOAT = 8,
    VHLO_ATTR_INTEGER = 9,
    VHLO_ATTR_PRECISION = 11,
    VHLO_ATTR_RNG_ALGORITHM = 12,
    VHLO_ATTR_STRING = 14,
    VHLO_ATTR_TENSOR = 15,
    VHLO_ATTR_TRANSPOSE = 16,
    VHLO_ATTR_TYPE = 17,
    VHLO_TYPE_I1 = 0,
    VHLO_TYPE_COMPLEX = 1,
    VHLO_TYPE_FUNCTION = 8,
    VHLO_TYPE_TENSOR = 20,
    VHLO_TYPE_TENSOR_ENCODED = 21,
    VHLO_TYPE_TOKEN = 22,
    VHLO_TYPE_TUPLE = 23,
    VHLO_TYPE_FUTURE = 42, /* of asynchronous operations: what they give */
};

/* An attribute or a type. `format` says how it was encoded, a letter a field:
 *   s string -> data      t type -> type, then refs    v varint, z svarint -> ints   B byte -> ints
 *   a attribute -> refs   o optional attribute -> refs q flag, then an attribute -> refs
 *   A attributes, T types -> length to ints, items to refs     P pairs of attributes, likewise
 *   Z svarints, V varints, D f64 list -> length to ints, items to ints     S strings (skipped)
 *   b blob -> data        I integer, F float of the type before -> ints    d f64 bits -> ints */
typedef struct vhlo_entry {
    bool is_decoded, is_type, is_text; /* is_text: assembly text in data; not interpreted */
    uint8_t dialect;                   /* vhlo_dialect */
    uint8_t code;
    const char *format;
    uint32_t type; /* the first 't' field, or VHLO_NONE */
    uint32_t n_refs, n_ints;
    const uint32_t *refs;
    const int64_t *ints;
    const uint8_t *data; /* in the artifact */
    size_t n_data;
    size_t byte, size; /* where it is in the artifact */
} vhlo_entry;

/* A row of vhlo_ops.def, with what its lists say about counts. */
typedef struct vhlo_op_info {
    const char *name; /* "add" */
    int version;
    const char *since, *until, *operands, *attrs, *regions, *results;
} vhlo_op_info;

typedef struct vhlo_op_name {
    vhlo_string dialect, name; /* "vhlo", "add_v1" */
    const vhlo_op_info *info;  /* NULL outside the vhlo dialect */
    uint8_t dialect_id;        /* vhlo_dialect */
    bool is_registered;
    uint16_t n_attrs;
    uint16_t min_operands, min_results, min_regions;
    bool has_more_operands, has_more_results, has_more_regions;
} vhlo_op_name;

typedef struct vhlo_op {
    struct vhlo_op *next; /* in its block */
    const vhlo_op_name *name;
    uint32_t name_i;
    uint32_t location;   /* attribute */
    uint32_t dictionary; /* attribute, or VHLO_NONE */
    uint32_t n_operands, n_results, n_regions;
    uint32_t first_result;        /* value number in its isolated scope */
    uint32_t scope_size;          /* values in the scope of its regions, when is_isolated */
    bool is_isolated;             /* its regions number their values from 0 */
    const uint32_t *operands;     /* value numbers in the isolated scope */
    const uint32_t *result_types; /* types */
    const uint32_t *props;        /* name->n_attrs attributes, or NULL (not in the table); of sdy
                                     operations, as many as vhlo_sdy_attrs names */
    struct vhlo_region *regions;
    size_t byte;
} vhlo_op;

/* A region with more than one block keeps the first only and says so. */
typedef struct vhlo_region {
    uint32_t n_blocks;
    uint32_t first_value, n_values; /* in the isolated scope */
    uint32_t n_args;                /* of the first block; value numbers start at first_value */
    const uint32_t *arg_types;
    vhlo_op *first_op; /* of the first block */
    uint32_t n_ops;    /* of the first block */
} vhlo_region;

typedef struct vhlo_module {
    arena arena;
    const uint8_t *bytes; /* borrowed */
    size_t size;
    uint32_t version; /* of the bytecode */
    const char *producer;
    uint32_t n_strings, n_dialects, n_names, n_attrs, n_types, n_props, n_ops;
    vhlo_string *strings, *dialects;
    uint8_t *dialect_ids;
    vhlo_op_name *names;
    vhlo_entry *entries; /* attributes first, then types */
    vhlo_string *props;  /* property blobs */
    vhlo_op *root;       /* builtin.module */
    uint32_t name_attr;  /* its name, or VHLO_NONE */
    int64_t *scratch_ints;
    uint32_t *scratch_refs;
    size_t n_scratch_ints, n_scratch_refs; /* capacities */
} vhlo_module;

/* Reads an artifact; `bytes` must outlive the module. Attributes and types are decoded when asked
 * for. BAD_ARGUMENT with byte, section and rule when the artifact is malformed or not an artifact.
 */
vtrn_status vhlo_read(const void *bytes, size_t size, vhlo_module **out);
void vhlo_destroy(vhlo_module *m); /* NULL is fine */

/* Decodes every attribute and type, used or not. */
vtrn_status vhlo_decode_all(vhlo_module *m);

/* Attribute or type i, decoded. */
vtrn_status vhlo_get_attr(vhlo_module *m, uint32_t i, const vhlo_entry **out);
vtrn_status vhlo_get_type(vhlo_module *m, uint32_t i, const vhlo_entry **out);

/* The attribute of an operation by name: from the properties or, before bytecode version 5 and for
 * discardable ones, from the dictionary. NULL in *out when there is none. */
vtrn_status vhlo_op_attr(vhlo_module *m, const vhlo_op *op, const char *name,
                         const vhlo_entry **out);
/* Names of the properties of an sdy operation, in their order, by commas; NULL: none is read. */
const char *vhlo_sdy_attrs(vhlo_string name);
/* The value of `name` in a builtin or vhlo dictionary attribute; NULL in *out when there is none.
 */
vtrn_status vhlo_dictionary_get(vhlo_module *m, const vhlo_entry *dictionary, const char *name,
                                const vhlo_entry **out);
bool vhlo_entry_is(const vhlo_entry *e, vhlo_dialect dialect, int code);
/* The text of a builtin or vhlo string attribute. */
bool vhlo_entry_string(const vhlo_entry *e, vhlo_string *out);
bool vhlo_string_equal(vhlo_string s, const char *text);

/* The table row of "add_v1"; NULL when there is none. */
const vhlo_op_info *vhlo_find_op(const char *name, size_t len);
uint32_t vhlo_op_table_size(void);
const vhlo_op_info *vhlo_op_table(void);

/* Text of a type ("tensor<2x4xf32>") into text[n_text], cut when too long. */
void vhlo_type_text(vhlo_module *m, uint32_t type, char *text, size_t n_text);
/* "file.py:42" of a location attribute, "" when it has none. The first file met going inwards. */
vtrn_status vhlo_location_text(vhlo_module *m, uint32_t location, char *text, size_t n_text);
/* The outermost name of a location, as JAX gives operations: "jit(f)/mlp/dot_general"; it stays as
 * it is where there is none. */
vtrn_status vhlo_location_name(vhlo_module *m, uint32_t location, vhlo_string *out);
/* The whole module as text for tests and dumps; the caller frees *out_text with free(). */
vtrn_status vhlo_print(vhlo_module *m, char **out_text);

#endif
