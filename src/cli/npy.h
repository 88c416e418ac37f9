/* NumPy's .npy files: dense arrays of the element types that vtrn has. */
#ifndef VTRN_CLI_NPY_H
#define VTRN_CLI_NPY_H

#include "base/dtype.h"
#include "base/status.h"

#include <stdint.h>

/* Reads an array of dtype t and dims [rank] in C order, n_bytes of data; bytes: malloc. Dims of 1
 * may be missing or more: they move no element. dims NULL: any shape of so many bytes. NumPy has no
 * names for bf16 and fp8: an array of raw items of the same size (V2, V1) is taken as those. */
vtrn_status npy_read(const char *path, vtrn_dtype t, int rank, const int64_t *dims, size_t n_bytes,
                     void **out_bytes);

vtrn_status npy_write(const char *path, vtrn_dtype t, int rank, const int64_t *dims,
                      const void *bytes, size_t n_bytes);

#endif
