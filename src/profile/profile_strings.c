/* Texts that are stored once and known by a number. */
#include "profile/profile_strings.h"

#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

static bool grow(profile_strings *t) {
    profile_strings bigger = {.capacity = t->capacity ? t->capacity * 2 : 256};
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    bigger.iids = calloc(bigger.capacity, sizeof *bigger.iids);
    if (!bigger.slots || !bigger.iids) {
        free(bigger.slots);
        free(bigger.iids);
        t->is_short = true;
        return false;
    }
    for (size_t i = 0; i < t->capacity; i++) {
        if (!t->slots[i].text)
            continue;
        size_t at = t->slots[i].hash % bigger.capacity;
        while (bigger.slots[at].text)
            at = (at + 1) % bigger.capacity;
        bigger.slots[at] = t->slots[i];
        bigger.iids[at] = t->iids[i];
    }
    free(t->slots);
    free(t->iids);
    t->slots = bigger.slots;
    t->iids = bigger.iids;
    t->capacity = bigger.capacity;
    return true;
}

uint32_t profile_intern(profile_strings *t, const char *text, bool *is_new) {
    *is_new = false;
    if (t->is_short || (t->n * 2 >= t->capacity && !grow(t)))
        return 0;
    uint64_t hash = hash_bytes(HASH_START, text, strlen(text));
    size_t at = hash % t->capacity;
    for (; t->slots[at].text; at = (at + 1) % t->capacity)
        if (t->slots[at].hash == hash && !strcmp(t->slots[at].text, text))
            return t->iids[at];
    t->slots[at].text = strdup(text);
    if (!t->slots[at].text) {
        t->is_short = true;
        return 0;
    }
    t->slots[at].hash = hash;
    t->iids[at] = (uint32_t)++t->n;
    *is_new = true;
    return t->iids[at];
}

void profile_strings_free(profile_strings *t) {
    for (size_t i = 0; i < t->capacity; i++)
        free(t->slots[i].text);
    free(t->slots);
    free(t->iids);
}
