/* Calls the host's partitioner on an artifact. */
#include "api/api_partition.h"

#include "api/api.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PARTITIONER_SAYS_WRONG = 3 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static vtrn_partitioner current;

void vtrn_partitioner_set(const vtrn_partitioner *partitioner) {
    vtrn_partitioner given = {0};
    if (partitioner) /* a caller that was built earlier knows fewer of its members */
        memcpy(&given, partitioner,
               partitioner->struct_size < sizeof given ? partitioner->struct_size : sizeof given);
    pthread_mutex_lock(&lock);
    current = given;
    pthread_mutex_unlock(&lock);
}

typedef struct sink {
    void *bytes;
    size_t size;
    bool is_out_of_memory;
} sink;

static void keep(void *to, const void *bytes, size_t size) {
    sink *s = to;
    free(s->bytes);
    s->size = size;
    s->bytes = malloc(size ? size : 1);
    s->is_out_of_memory = !s->bytes;
    if (s->bytes)
        memcpy(s->bytes, bytes, size);
}

static vtrn_partitioner partitioner_now(void) {
    pthread_mutex_lock(&lock);
    vtrn_partitioner partitioner = current;
    pthread_mutex_unlock(&lock);
    return partitioner;
}

/* What a call that returned code left in s, as *out; failed is its error where it could not. */
static vtrn_status take(sink *s, int code, vtrn_status failed, void **out, size_t *out_size) {
    vtrn_status status = NULL;
    if (s->is_out_of_memory)
        status = VTRN_OUT_OF_MEMORY(s->size);
    else if (code == 0 && !s->bytes)
        status = VTRN_ERROR(VTRN_INTERNAL, "the partitioner gave no program");
    if (!status) {
        status = failed;
        failed = NULL;
    }
    vtrn_status_free(failed);
    if (status || code != 0) {
        free(s->bytes);
        return status;
    }
    *out = s->bytes;
    *out_size = s->size;
    return NULL;
}

vtrn_status api_partition(const void *artifact, size_t size, int n_partitions, bool is_fresh,
                          void **out, size_t *out_size) {
    char message[1024] = "it does not say why";
    sink s = {0};
    vtrn_status failed = NULL;
    *out = NULL;
    *out_size = 0;
    vtrn_partitioner partitioner = partitioner_now();
    if (!partitioner.partition)
        return NULL;
    if (!is_fresh && partitioner.partition_file)
        partitioner.partition = partitioner.partition_file;
    int code = partitioner.partition(partitioner.ctx, artifact, size, n_partitions, keep, &s,
                                     message, sizeof message);
    message[sizeof message - 1] = 0;
    if (code == PARTITIONER_SAYS_WRONG)
        failed = VTRN_ERROR(VTRN_BAD_ARGUMENT, "while the program was divided: %s", message);
    else if (code != 0 && code != 1)
        failed = VTRN_ERROR(VTRN_UNSUPPORTED,
                            "the program cannot be divided over %d devices: %s; shard_map divides "
                            "it as you write",
                            n_partitions, message);
    return take(&s, code, failed, out, out_size);
}

vtrn_status api_one_device(const void *artifact, size_t size, void **out, size_t *out_size) {
    char message[1024] = "it does not say why";
    sink s = {0};
    *out = NULL;
    *out_size = 0;
    vtrn_partitioner partitioner = partitioner_now();
    if (!partitioner.one_device)
        return VTRN_ERROR(VTRN_UNSUPPORTED, "there is no partitioner; Python's vtrn sets one");
    int code =
        partitioner.one_device(partitioner.ctx, artifact, size, keep, &s, message, sizeof message);
    message[sizeof message - 1] = 0;
    vtrn_status failed =
        code ? VTRN_ERROR(VTRN_UNSUPPORTED, "what one device runs: %s", message) : NULL;
    return take(&s, code, failed, out, out_size);
}
