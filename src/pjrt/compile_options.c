/* A protobuf wire reader and the three messages it walks. Field numbers are XLA's. */
#include "pjrt/compile_options.h"

#include "compiler/cc_flags.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_RANKS = 1 << 20 };

typedef struct wire {
    const uint8_t *at, *end;
} wire;

typedef struct wire_field {
    uint32_t number;
    uint32_t type;  /* 0 varint, 1 fixed 64, 2 bytes, 5 fixed 32 */
    uint64_t value; /* varint and fixed */
    wire bytes;
} wire_field;

static bool read_varint(wire *w, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        uint8_t byte = *w->at++;
        *out |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static bool read_fixed(wire *w, size_t n, uint64_t *out) {
    if ((size_t)(w->end - w->at) < n)
        return false;
    *out = 0;
    memcpy(out, w->at, n);
    w->at += n;
    return true;
}

static bool read_field(wire *w, wire_field *f) {
    uint64_t tag, size;
    if (!read_varint(w, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return false;
    *f = (wire_field){.number = (uint32_t)(tag >> 3), .type = tag & 7};
    switch (f->type) {
    case 0:
        return read_varint(w, &f->value);
    case 1:
        return read_fixed(w, 8, &f->value);
    case 5:
        return read_fixed(w, 4, &f->value);
    case 2:
        if (!read_varint(w, &size) || size > (uint64_t)(w->end - w->at))
            return false;
        f->bytes = (wire){w->at, w->at + size};
        w->at += size;
        return true;
    default:
        return false;
    }
}

static vtrn_status malformed(const char *message) {
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "compile options: malformed %s", message);
}

/* The elements of a repeated int64, packed or not: the first max go to out, n counts all. */
static bool read_ints(const wire_field *f, int64_t *out, int64_t max, int64_t *n) {
    uint64_t v = f->value;
    if (f->type == 2) {
        for (wire w = f->bytes; w.at < w.end; ++*n) {
            if (!read_varint(&w, &v))
                return false;
            if (*n < max)
                out[*n] = (int64_t)v;
        }
        return true;
    }
    if (*n < max)
        out[*n] = (int64_t)v;
    ++*n;
    return f->type == 0;
}

/* DeviceAssignmentProto: 3 computation_devices { 1 replica_device_ids }. */
static vtrn_status decode_assignment(wire w, int64_t *out_ids, int64_t max, int64_t *out_n) {
    wire_field f;
    *out_n = 0;
    while (w.at < w.end) {
        if (!read_field(&w, &f))
            return malformed("DeviceAssignmentProto");
        if (f.number != 3 || f.type != 2)
            continue;
        wire inner = f.bytes;
        while (inner.at < inner.end)
            if (!read_field(&inner, &f) || (f.number == 1 && !read_ints(&f, out_ids, max, out_n)))
                return malformed("ComputationDevice");
    }
    return NULL;
}

/* The message goes computation by computation, and a computation is a partition. */
vtrn_status compile_options_devices(const plugin_compile_options *o, int64_t *out) {
    int64_t n = o->n_replicas * o->n_partitions, n_read = 0;
    for (int64_t i = 0; i < n; i++)
        out[i] = o->device_id + i;
    if (!o->n_assigned)
        return NULL;
    int64_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *ids);
    const wire w = {o->assignment, o->assignment + o->assignment_size};
    vtrn_status status = decode_assignment(w, ids, n, &n_read);
    if (!status && n_read != n)
        status = VTRN_ERROR(VTRN_BAD_ARGUMENT,
                            "compile options: %lld devices are assigned to %lld ranks",
                            (long long)n_read, (long long)n);
    for (int64_t i = 0; i < n && !status; i++)
        out[i % o->n_replicas * o->n_partitions + i / o->n_replicas] = ids[i];
    free(ids);
    return status;
}

/* ExecutableBuildOptionsProto: 1 device_ordinal, 4 num_replicas, 5 num_partitions,
 * 9 device_assignment. */
static vtrn_status decode_build_options(wire w, plugin_compile_options *out) {
    wire_field f;
    while (w.at < w.end) {
        if (!read_field(&w, &f))
            return malformed("ExecutableBuildOptionsProto");
        if (f.number == 1 && f.type == 0 && !out->assignment && (int64_t)f.value >= 0)
            out->device_id = (int64_t)f.value;
        else if (f.number == 4 && f.type == 0)
            out->n_replicas = (int64_t)f.value;
        else if (f.number == 5 && f.type == 0)
            out->n_partitions = (int64_t)f.value;
        else if (f.number == 9 && f.type == 2) {
            out->assignment = f.bytes.at;
            out->assignment_size = (size_t)(f.bytes.end - f.bytes.at);
            VTRN_RETURN_IF_ERROR(decode_assignment(f.bytes, &out->device_id, 1, &out->n_assigned));
        }
    }
    return NULL;
}

typedef enum option_kind { OPTION_BOOL, OPTION_INT, OPTION_FLOAT, OPTION_STRING } option_kind;

static const struct {
    const char *name;
    option_kind kind;
} XLA_OPTIONS[] = {
#define OPTION(name, kind) {name, OPTION_##kind},
#include "pjrt/xla_options.def"
#undef OPTION
};

/* OptionOverrideProto: 1 string, 2 bool, 3 int, 4 double. */
static bool decode_switch(wire w, bool *out) {
    wire_field f;
    while (w.at < w.end) {
        if (!read_field(&w, &f))
            return false;
        size_t n = (size_t)(f.bytes.end - f.bytes.at);
        if ((f.number == 2 || f.number == 3) && f.type == 0)
            *out = f.value != 0;
        else if (f.number == 1 && f.type == 2 && n == 4 && memcmp(f.bytes.at, "true", 4) == 0)
            *out = true;
        else if (f.number == 1 && f.type == 2 && n == 5 && memcmp(f.bytes.at, "false", 5) == 0)
            *out = false;
        else
            return false;
    }
    return true;
}

static bool is_key(wire key, const char *name) {
    size_t n = (size_t)(key.end - key.at);
    return key.at && n == strlen(name) && memcmp(key.at, name, n) == 0;
}

/* Whether an override suits an option of XLA: of its kind, or as text, where only booleans are
 * read. */
static bool suits(wire value, option_kind kind) {
    wire_field f;
    bool ignored;
    if (kind == OPTION_BOOL)
        return decode_switch(value, &ignored);
    while (value.at < value.end)
        if (!read_field(&value, &f) || f.number > 4 || (f.number == 1) != (f.type == 2) ||
            (kind == OPTION_STRING && f.number != 1))
            return false;
    return true;
}

static vtrn_status check_xla_option(wire key, wire value) {
    static const char *const NAMES[] = {"bool", "int", "float", "string"};
    int n = (int)(key.end - key.at > 200 ? 200 : key.end - key.at);
    const char *text = n ? (const char *)key.at : "";
    for (size_t i = 0; i < sizeof XLA_OPTIONS / sizeof *XLA_OPTIONS; i++) {
        if (!is_key(key, XLA_OPTIONS[i].name))
            continue;
        if (suits(value, XLA_OPTIONS[i].kind))
            return NULL;
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "compile option '%.*s': what is given is not a valid %s value.", n, text,
                          NAMES[XLA_OPTIONS[i].kind]);
    }
    return VTRN_ERROR(
        VTRN_BAD_ARGUMENT,
        "No such compile option: '%.*s'; there are auto_cast, auto_cast_type, "
        "vtrn_reference_only, vtrn_strict and vtrn_verify, and some of XLA's, which change nothing",
        n, text);
}

/* The vendor's two flags, as text. */
static vtrn_status decode_cast(wire key, wire value, plugin_compile_options *out) {
    wire_field f;
    const char *name = is_key(key, "auto_cast") ? "auto-cast" : "auto-cast-type";
    while (value.at < value.end)
        if (!read_field(&value, &f) || f.number != 1 || f.type != 2)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "compile option %s: text expected", name);
        else
            VTRN_RETURN_IF_ERROR(cc_flags_set(name, (const char *)f.bytes.at,
                                              (size_t)(f.bytes.end - f.bytes.at), &out->compile));
    return NULL;
}

/* A map entry: 1 key, 2 value. */
static vtrn_status decode_override(wire w, plugin_compile_options *out) {
    wire_field f;
    wire key = {0}, value = {0};
    while (w.at < w.end) {
        if (!read_field(&w, &f))
            return malformed("env_option_overrides");
        if (f.number == 1 && f.type == 2)
            key = f.bytes;
        else if (f.number == 2 && f.type == 2)
            value = f.bytes;
    }
    if (is_key(key, "auto_cast") || is_key(key, "auto_cast_type"))
        return decode_cast(key, value, out);
    bool *flag = is_key(key, "vtrn_reference_only") ? &out->compile.reference_only
                 : is_key(key, "vtrn_strict")       ? &out->compile.is_strict
                 : is_key(key, "vtrn_verify")       ? &out->compile.is_verified
                                                    : NULL;
    int n = (int)(key.end - key.at > 200 ? 200 : key.end - key.at);
    if (!flag)
        return check_xla_option(key, value);
    if (!decode_switch(value, flag))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "compile option '%.*s': true or false expected", n,
                          (const char *)key.at);
    return NULL;
}

/* CompileOptionsProto: 3 executable_build_options, 7 env_option_overrides. */
vtrn_status compile_options_decode(const void *bytes, size_t size, plugin_compile_options *out) {
    *out = (plugin_compile_options){.n_replicas = 1, .n_partitions = 1};
    wire w = {bytes, (const uint8_t *)bytes + size};
    wire_field f;
    while (w.at < w.end) {
        if (!read_field(&w, &f))
            return malformed("CompileOptionsProto");
        if (f.number == 3 && f.type == 2)
            VTRN_RETURN_IF_ERROR(decode_build_options(f.bytes, out));
        else if (f.number == 7 && f.type == 2)
            VTRN_RETURN_IF_ERROR(decode_override(f.bytes, out));
    }
    if (out->n_replicas < 1 || out->n_partitions < 1 || out->n_replicas > MAX_RANKS ||
        out->n_partitions > MAX_RANKS ||
        (out->n_assigned && out->n_assigned != out->n_replicas * out->n_partitions))
        return VTRN_ERROR(
            VTRN_BAD_ARGUMENT,
            "compile options: %lld replicas of %lld partitions on %lld assigned devices; "
            "give one device for each",
            (long long)out->n_replicas, (long long)out->n_partitions, (long long)out->n_assigned);
    out->compile.n_replicas = out->n_replicas;
    return NULL;
}
