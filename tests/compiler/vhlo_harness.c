/* Reads VHLO artifacts for the Python tests:
 *   vhlo_harness vhlo|graph FILE...     the text of each, or its error
 *   vhlo_harness mutate SEED COUNT FILE...   COUNT damaged copies of each; counts of the outcomes
 *   vhlo_harness time COUNT FILE...     microseconds for reader + graph, best of COUNT */
#include "compiler/graph/graph.h"
#include "compiler/vhlo/vhlo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static unsigned char *read_file(const char *path, size_t *out_size) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *out_size = (size_t)ftell(f);
    rewind(f);
    unsigned char *bytes = malloc(*out_size + 1);
    if (bytes && fread(bytes, 1, *out_size, f) != *out_size)
        *out_size = 0;
    fclose(f);
    return bytes;
}

static vtrn_status read_vhlo(const void *bytes, size_t size, char **out_text) {
    vhlo_module *m;
    VTRN_RETURN_IF_ERROR(vhlo_read(bytes, size, &m));
    vtrn_status status = vhlo_decode_all(m);
    if (!status)
        status = vhlo_print(m, out_text);
    vhlo_destroy(m);
    return status;
}

static vtrn_status read_graph(const void *bytes, size_t size, char **out_text) {
    graph *g;
    VTRN_RETURN_IF_ERROR(graph_from_artifact(bytes, size, &g));
    vtrn_status status = graph_print(g, out_text);
    graph_destroy(g);
    return status;
}

static void report(vtrn_status status, char *text) {
    if (status)
        printf("ERROR %s\n", vtrn_status_message(status));
    else
        fputs(text, stdout);
    vtrn_status_free(status);
    free(text);
}

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Flips up to 8 bytes, or cuts the end off. Returns the new size. */
static size_t damage(unsigned char *bytes, size_t size, uint64_t *random) {
    if (size == 0 || next_random(random) % 8 == 0)
        return size ? next_random(random) % size : 0;
    for (uint64_t n = 1 + next_random(random) % 8; n; n--)
        bytes[next_random(random) % size] = (unsigned char)(next_random(random) >> 20);
    return size;
}

static void mutate(const char *path, uint64_t seed, int count) {
    size_t size = 0;
    unsigned char *bytes = read_file(path, &size);
    if (!bytes)
        return;
    uint64_t random = seed * 0x9e3779b97f4a7c15u + 1;
    int n_ok = 0, by_category[16] = {0};
    for (int i = 0; i < count; i++) {
        unsigned char *copy = malloc(size + 1);
        if (!copy)
            break;
        memcpy(copy, bytes, size);
        size_t cut = damage(copy, size, &random);
        unsigned char *exact = realloc(copy, cut ? cut : 1); /* so that ASan sees its end */
        char *text = NULL;
        vtrn_status status = read_graph(exact ? exact : copy, cut, &text);
        n_ok += status == NULL;
        by_category[vtrn_status_category(status) & 15]++;
        vtrn_status_free(status);
        free(text);
        text = NULL;
        vtrn_status_free(read_vhlo(exact ? exact : copy, cut, &text));
        free(text);
        free(exact ? exact : copy);
    }
    printf("ok %d", n_ok);
    for (int c = 1; c < 16; c++)
        if (by_category[c])
            printf(", %s %d", vtrn_category_name((vtrn_category)c), by_category[c]);
    printf("\n");
    free(bytes);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void measure(const char *path, int count) {
    size_t size = 0;
    unsigned char *bytes = read_file(path, &size);
    double best[2] = {1e30, 1e30};
    for (int i = 0; bytes && i < count; i++) {
        vhlo_module *m = NULL;
        graph *g = NULL;
        double start = now_us();
        vtrn_status_free(vhlo_read(bytes, size, &m));
        double middle = now_us();
        vtrn_status_free(graph_from_artifact(bytes, size, &g));
        double end = now_us();
        best[0] = middle - start < best[0] ? middle - start : best[0];
        best[1] = end - middle < best[1] ? end - middle : best[1];
        vhlo_destroy(m);
        graph_destroy(g);
    }
    printf("%s: %zu bytes, reader %.1f us, reader and graph %.1f us\n", path, size, best[0],
           best[1]);
    free(bytes);
}

int main(int argc, char **argv) {
    if (argc >= 5 && strcmp(argv[1], "mutate") == 0) {
        for (int i = 4; i < argc; i++)
            mutate(argv[i], strtoull(argv[2], NULL, 10) + (uint64_t)i, atoi(argv[3]));
        return 0;
    }
    if (argc >= 4 && strcmp(argv[1], "time") == 0) {
        for (int i = 3; i < argc; i++)
            measure(argv[i], atoi(argv[2]));
        return 0;
    }
    for (int i = 2; i < argc; i++) {
        size_t size = 0;
        char *text = NULL;
        unsigned char *bytes = read_file(argv[i], &size);
        printf("FILE %s\n", argv[i]);
        bool is_graph = strcmp(argv[1], "graph") == 0;
        vtrn_status status =
            is_graph ? read_graph(bytes, size, &text) : read_vhlo(bytes, size, &text);
        report(status, text);
        free(bytes);
    }
    return argc < 3;
}
