/* Scratch of reference operations that run again and again. */
#ifndef VTRN_COMPILER_REFERENCE_REF_BLOCK_H
#define VTRN_COMPILER_REFERENCE_REF_BLOCK_H

#include <stddef.h>

/* Memory with whatever is in it, 64-byte aligned; NULL when the host has none. From any thread. */
void *ref_block_take(size_t n_bytes);
void ref_block_give(void *block);

#endif
