/* NumPy's .npy files: dense arrays of the element types that vtrn has. */
#include "cli/npy.h"

#include "cli/cli.h"
#include "vtrn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The descr of a dtype, as numpy.save writes it (with ml_dtypes: raw items). */
static void descr_of(vtrn_dtype t, char out[8]) {
    size_t size = dtype_size(t);
    char kind = 'V';
    if (t == VTRN_DTYPE_PRED)
        kind = 'b';
    else if (dtype_is_signed_int(t))
        kind = 'i';
    else if (dtype_is_unsigned_int(t))
        kind = 'u';
    else if (dtype_is_complex(t))
        kind = 'c';
    else if (t == VTRN_DTYPE_FP16 || t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_TF32 ||
             t == VTRN_DTYPE_FP64)
        kind = 'f';
    snprintf(out, 8, "%c%c%zu", size == 1 ? '|' : '<', kind, size);
}

/* The text after 'key': in the header's dictionary. */
static const char *value_of(const char *header, const char *key) {
    const char *at = strstr(header, key);
    at = at ? strchr(at, ':') : NULL;
    if (!at)
        return "";
    for (at++; *at == ' '; at++)
        continue;
    return at;
}

/* The next dim of "5, 3)" that is not 1, which moves *at behind it; 1: there is none. */
static int64_t next_dim(const char **at) {
    while (**at && **at != ')') {
        char *end;
        long long dim = strtoll(*at, &end, 10);
        if (end == *at)
            break;
        *at = end + strspn(end, ", ");
        if (dim != 1)
            return dim;
    }
    return 1;
}

static vtrn_status check_shape(const char *path, const char *header, int rank,
                               const int64_t *dims) {
    const char *shape = value_of(header, "'shape'");
    const char *at = shape + (*shape == '(');
    bool is_same = *shape == '(';
    for (int d = 0; d < rank; d++)
        is_same = is_same && (dims[d] == 1 || next_dim(&at) == dims[d]);
    if (is_same && next_dim(&at) == 1)
        return NULL;
    char wanted[VTRN_MAX_RANK * 24] = "";
    for (int d = 0, len = 0; d < rank; d++)
        len += snprintf(wanted + len, sizeof wanted - (size_t)len, "%s%lld", d ? ", " : "",
                        (long long)dims[d]);
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: its shape is %.*s, the program takes (%s)", path,
                      (int)strcspn(shape, ")") + 1, shape, wanted);
}

static vtrn_status check_header(const char *path, const char *header, vtrn_dtype t) {
    char want[8];
    const char *descr = value_of(header, "'descr'");
    descr_of(t, want);
    if (*descr != '\'' || strlen(descr) < 5)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: its header has no simple descr", path);
    bool is_same = strncmp(descr + 2, want + 1, strlen(want + 1)) == 0 &&
                   descr[1 + strlen(want)] == '\'' && descr[1] != '>';
    if (!is_same)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: its dtype is %.*s, the program takes %s (%s)",
                          path, (int)strcspn(descr + 1, "'") + 2, descr, dtype_name(t), want);
    if (strncmp(value_of(header, "'fortran_order'"), "False", 5) != 0)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "%s: the array is in Fortran order; save numpy.ascontiguousarray(a)",
                          path);
    return NULL;
}

vtrn_status npy_read(const char *path, vtrn_dtype t, int rank, const int64_t *dims, size_t n_bytes,
                     void **out_bytes) {
    uint8_t *file;
    size_t size;
    VTRN_RETURN_IF_ERROR(cli_read(path, &file, &size));
    vtrn_status status = NULL;
    size_t header_at = size > 6 && file[6] >= 2 ? 12 : 10, n_header = 0;
    if (size < 12 || memcmp(file, "\x93NUMPY", 6) != 0) {
        status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: no .npy file", path);
    } else {
        for (size_t i = 8; i < header_at; i++)
            n_header |= (size_t)file[i] << (8 * (i - 8));
        if (n_header > size - header_at)
            status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: the file ends inside its header", path);
    }
    if (!status) {
        size_t n_data = size - header_at - n_header;
        char *header = calloc(n_header + 1, 1);
        if (!header) {
            status = VTRN_OUT_OF_MEMORY(n_header);
        } else {
            memcpy(header, file + header_at, n_header);
            status = check_header(path, header, t);
            if (!status && dims)
                status = check_shape(path, header, rank, dims);
            free(header);
        }
        if (!status && n_data != n_bytes)
            status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s: %zu bytes of data, the program takes %zu",
                                path, n_data, n_bytes);
    }
    if (status) {
        free(file);
        return status;
    }
    memmove(file, file + header_at + n_header, n_bytes);
    *out_bytes = file;
    return NULL;
}

vtrn_status npy_write(const char *path, vtrn_dtype t, int rank, const int64_t *dims,
                      const void *bytes, size_t n_bytes) {
    enum { HEADER = 512, PREFIX = 10 };
    char descr[8], header[HEADER];
    descr_of(t, descr);
    int n = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (",
                     descr);
    for (int i = 0; i < rank; i++)
        n += snprintf(header + n, sizeof header - (size_t)n, "%lld,", (long long)dims[i]);
    n += snprintf(header + n, sizeof header - (size_t)n, "), }");
    size_t padded = ((size_t)n + 1 + PREFIX + 63) / 64 * 64 - PREFIX;
    uint8_t *file = malloc(PREFIX + padded + n_bytes);
    if (!file)
        return VTRN_OUT_OF_MEMORY(PREFIX + padded + n_bytes);
    memcpy(file, "\x93NUMPY\x01\x00", 8);
    file[8] = (uint8_t)padded;
    file[9] = (uint8_t)(padded >> 8);
    memset(file + PREFIX, ' ', padded);
    memcpy(file + PREFIX, header, (size_t)n);
    file[PREFIX + padded - 1] = '\n';
    memcpy(file + PREFIX + padded, bytes, n_bytes);
    vtrn_status status = cli_write(path, file, PREFIX + padded + n_bytes);
    free(file);
    return status;
}
