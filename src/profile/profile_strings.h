/* Texts that are stored once and known by a number. */
#ifndef VTRN_PROFILE_PROFILE_STRINGS_H
#define VTRN_PROFILE_PROFILE_STRINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A hash table with open addressing. Starts zeroed. */
typedef struct profile_strings {
    struct {
        char *text;
        uint64_t hash;
    } * slots;
    uint32_t *iids;
    size_t capacity, n;
    bool is_short; /* the host had no memory for all of them */
} profile_strings;

/* The text's number, from 1; *is_new when it was not there. 0 when memory is short. */
uint32_t profile_intern(profile_strings *t, const char *text, bool *is_new);
void profile_strings_free(profile_strings *t);

#endif
