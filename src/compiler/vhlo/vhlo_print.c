/* VHLO modules and types as text, for messages, tests and dumps. */
#include "compiler/vhlo/vhlo.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ENTRY_DEPTH = 12, MAX_ITEMS = 32 };

/* Text that grows in memory, or is cut at a limit. */
typedef struct printer {
    vhlo_module *m;
    FILE *out;
    int indent;
} printer;

static void print_type(printer *p, uint32_t type, int depth);

static void print_dims(printer *p, const vhlo_entry *e) {
    for (int64_t i = 1; i <= e->ints[0]; i++) {
        if (e->ints[i] == INT64_MIN)
            fputs("?x", p->out);
        else
            fprintf(p->out, "%lldx", (long long)e->ints[i]);
    }
}

static void print_types(printer *p, const vhlo_entry *e, int64_t first, int64_t n, int depth) {
    fputc('(', p->out);
    for (int64_t i = 0; i < n && i < MAX_ITEMS; i++) {
        if (i)
            fputs(", ", p->out);
        print_type(p, e->refs[first + i], depth + 1);
    }
    if (n > MAX_ITEMS)
        fputs(", ...", p->out);
    fputc(')', p->out);
}

static void print_builtin_type(printer *p, const vhlo_entry *e, int depth) {
    static const char *const NAMES[] = {
        [1] = "index",
        [3] = "bf16",
        [4] = "f16",
        [5] = "f32",
        [6] = "f64",
        [7] = "f80",
        [8] = "f128",
        [22] = "f8E5M2",
        [23] = "f8E4M3",
        [24] = "f8E4M3FN",
        [25] = "f8E5M2FNUZ",
        [26] = "f8E4M3FNUZ",
        [27] = "f8E4M3B11FNUZ",
        [28] = "f8E3M4",
        [29] = "f4E2M1FN",
        [32] = "f8E8M0FNU",
    };
    if (e->code == BUILTIN_TYPE_INTEGER) {
        static const char *const SIGNS[] = {"i", "si", "ui", "?"};
        fprintf(p->out, "%s%lld", SIGNS[e->ints[0] & 3], (long long)(e->ints[0] >> 2));
    } else if (e->code < sizeof NAMES / sizeof *NAMES && NAMES[e->code]) {
        fputs(NAMES[e->code], p->out);
    } else if (e->code == BUILTIN_TYPE_TENSOR || e->code == BUILTIN_TYPE_TENSOR_ENCODED) {
        fputs("tensor<", p->out);
        print_dims(p, e);
        print_type(p, e->type, depth + 1);
        fputc('>', p->out);
    } else if (e->code == BUILTIN_TYPE_COMPLEX) {
        fputs("complex<", p->out);
        print_type(p, e->type, depth + 1);
        fputc('>', p->out);
    } else {
        fprintf(p->out, "builtin.type%d", e->code);
    }
}

static void print_vhlo_type(printer *p, const vhlo_entry *e, int depth) {
    static const char *const NAMES[] = {
        [0] = "i1",
        [2] = "bf16",
        [3] = "f16",
        [4] = "f32",
        [5] = "f64",
        [6] = "f8E4M3FN",
        [7] = "f8E5M2",
        [9] = "index",
        [10] = "i4",
        [11] = "i8",
        [12] = "i16",
        [13] = "i32",
        [14] = "i64",
        [15] = "ui4",
        [16] = "ui8",
        [17] = "ui16",
        [18] = "ui32",
        [19] = "ui64",
        [22] = "token",
        [26] = "witness",
        [27] = "f8E4M3FNUZ",
        [28] = "f8E5M2FNUZ",
        [29] = "f8E4M3B11FNUZ",
        [31] = "i2",
        [32] = "ui2",
        [33] = "none",
        [34] = "tf32",
        [35] = "f8E4M3",
        [36] = "f8E3M4",
        [37] = "f4E2M1FN",
        [38] = "f6E2M3FN",
        [39] = "f6E3M2FN",
        [40] = "f8E8M0FNU",
    };
    if (e->code < sizeof NAMES / sizeof *NAMES && NAMES[e->code]) {
        fputs(NAMES[e->code], p->out);
        return;
    }
    switch (e->code) {
    case VHLO_TYPE_COMPLEX:
        fputs("complex<", p->out);
        print_type(p, e->type, depth + 1);
        break;
    case VHLO_TYPE_FUNCTION: {
        int64_t n_in = e->ints[0];
        print_types(p, e, 0, n_in, depth);
        fputs(" -> ", p->out);
        print_types(p, e, n_in, e->ints[1], depth);
        return;
    }
    case VHLO_TYPE_TENSOR:
    case VHLO_TYPE_TENSOR_ENCODED:
    case 41:
        fputs(e->code == 41 ? "buffer<" : "tensor<", p->out);
        print_dims(p, e);
        print_type(p, e->type, depth + 1);
        break;
    case 23:
    case 42:
        fputs(e->code == 23 ? "tuple<" : "future<", p->out);
        print_types(p, e, 0, e->ints[0], depth);
        break;
    case 24:
    case 30:
        fputs("quant<", p->out);
        print_type(p, e->type, depth + 1);
        break;
    case 25:
        fputs("tensor<*x", p->out);
        print_type(p, e->type, depth + 1);
        break;
    default:
        fprintf(p->out, "vhlo.type%d<", e->code);
    }
    fputc('>', p->out);
}

static void print_type(printer *p, uint32_t type, int depth) {
    const vhlo_entry *e;
    vtrn_status status = vhlo_get_type(p->m, type, &e);
    if (status || depth > MAX_ENTRY_DEPTH || e->is_text) {
        fputs(status ? "<malformed>" : "...", p->out);
        vtrn_status_free(status);
    } else if (e->dialect == VHLO_DIALECT_VHLO) {
        print_vhlo_type(p, e, depth);
    } else {
        print_builtin_type(p, e, depth);
    }
}

static void print_text(printer *p, const uint8_t *text, size_t n) {
    fputc('"', p->out);
    for (size_t i = 0; i < n; i++)
        if (text[i] < 0x20 || text[i] > 0x7e || text[i] == '"' || text[i] == '\\')
            fprintf(p->out, "\\%02X", text[i]);
        else
            fputc(text[i], p->out);
    fputc('"', p->out);
}

static void print_attr(printer *p, uint32_t attr, int depth);

static void print_blob(printer *p, const vhlo_entry *e) {
    fputs("dense<0x", p->out);
    for (size_t i = 0; i < e->n_data && i < MAX_ITEMS; i++)
        fprintf(p->out, "%02X", e->data[i]);
    fputs(e->n_data > MAX_ITEMS ? "...>" : ">", p->out);
}

/* Numbers and attributes in the order of the fields; enough to compare and to read. */
static void print_fields(printer *p, const vhlo_entry *e, int depth) {
    fprintf(p->out, "#%d.%d<", e->dialect, e->code);
    for (uint32_t i = 0; i < e->n_ints && i < MAX_ITEMS; i++)
        fprintf(p->out, "%s%lld", i ? " " : "", (long long)e->ints[i]);
    for (uint32_t i = 0; i < e->n_refs && i < MAX_ITEMS; i++) {
        fputc(i ? ' ' : ';', p->out);
        print_attr(p, e->refs[i], depth + 1);
    }
    fputc('>', p->out);
}

static void print_attr(printer *p, uint32_t attr, int depth) {
    const vhlo_entry *e;
    vtrn_status status = vhlo_get_attr(p->m, attr, &e);
    vhlo_string text;
    if (status || depth > MAX_ENTRY_DEPTH) {
        fputs(status ? "<malformed>" : "...", p->out);
        vtrn_status_free(status);
        return;
    }
    if (e->is_text || vhlo_entry_string(e, &text)) {
        print_text(p, e->data, e->n_data);
    } else if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_TYPE)) {
        print_type(p, e->type, depth + 1);
    } else if (strchr(e->format, 'b')) {
        print_blob(p, e);
        fputs(" : ", p->out);
        print_type(p, e->type, depth + 1);
    } else if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_INTEGER) && e->n_ints == 1) {
        fprintf(p->out, "%lld", (long long)e->ints[0]);
    } else if (vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_BOOL)) {
        fputs(e->ints[0] ? "true" : "false", p->out);
    } else {
        print_fields(p, e, depth);
    }
}

static void print_props(printer *p, const vhlo_op *op) {
    if (!op->props || !op->name->n_attrs)
        return;
    const char *name = op->name->info->attrs;
    fputs(" <", p->out);
    for (uint32_t i = 0; i < op->name->n_attrs; i++) {
        int len = (int)strcspn(name, ",");
        fprintf(p->out, "%s%.*s = ", i ? ", " : "", len, name);
        print_attr(p, op->props[i], 0);
        name += len + (name[len] == ',');
    }
    fputc('>', p->out);
}

static void print_block(printer *p, const vhlo_region *region);

static void print_op(printer *p, const vhlo_op *op) {
    fprintf(p->out, "%*s", p->indent * 2, "");
    for (uint32_t i = 0; i < op->n_results; i++)
        fprintf(p->out, "%s%%%u", i ? ", " : "", op->first_result + i);
    fprintf(p->out, "%s%s.%s(", op->n_results ? " = " : "", op->name->dialect.text,
            op->name->name.text);
    for (uint32_t i = 0; i < op->n_operands; i++)
        fprintf(p->out, "%s%%%u", i ? ", " : "", op->operands[i]);
    fputc(')', p->out);
    print_props(p, op);
    if (op->dictionary != VHLO_NONE) {
        fputc(' ', p->out);
        print_attr(p, op->dictionary, 0);
    }
    for (uint32_t i = 0; i < op->n_results; i++) {
        fputs(i ? ", " : " : ", p->out);
        print_type(p, op->result_types[i], 0);
    }
    fputc('\n', p->out);
    for (uint32_t i = 0; i < op->n_regions; i++)
        print_block(p, &op->regions[i]);
}

static void print_block(printer *p, const vhlo_region *region) {
    p->indent++;
    fprintf(p->out, "%*s^(", p->indent * 2, "");
    for (uint32_t i = 0; i < region->n_args; i++) {
        fprintf(p->out, "%s%%%u: ", i ? ", " : "", region->first_value + i);
        print_type(p, region->arg_types[i], 0);
    }
    fputs(")\n", p->out);
    for (const vhlo_op *op = region->first_op; op; op = op->next)
        print_op(p, op);
    p->indent--;
}

void vhlo_type_text(vhlo_module *m, uint32_t type, char *text, size_t n_text) {
    text[0] = 0;
    printer p = {m, fmemopen(text, n_text, "w"), 0};
    if (!p.out)
        return;
    print_type(&p, type, 0);
    fclose(p.out);
    text[n_text - 1] = 0;
}

vtrn_status vhlo_print(vhlo_module *m, char **out_text) {
    size_t size = 0;
    *out_text = NULL;
    printer p = {m, open_memstream(out_text, &size), 0};
    if (!p.out)
        return VTRN_OUT_OF_MEMORY(size);
    fprintf(p.out, "// %s, bytecode %u\n", m->producer, m->version);
    print_op(&p, m->root);
    return fclose(p.out) == 0 ? NULL : VTRN_OUT_OF_MEMORY(size);
}
