/* The seed of a random test: a failure must come back, other seeds must be easy to try. */
#ifndef VTRN_TESTS_TEST_SEED_H
#define VTRN_TESTS_TEST_SEED_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* VTRN_TEST_SEED, else the clock; never 0. Printed, so that a log tells how to repeat the run. */
static inline uint64_t test_seed(void) {
    const char *given = getenv("VTRN_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
    seed += !seed;
    printf("VTRN_TEST_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

#endif
