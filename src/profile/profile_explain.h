/* A step's profile in sentences: what its time went to, and on what the busiest engine waits. */
#ifndef VTRN_PROFILE_PROFILE_EXPLAIN_H
#define VTRN_PROFILE_PROFILE_EXPLAIN_H

#include "profile/profile.h"
#include "profile/profile_buffer.h"

enum { PROFILE_MAX_SENTENCES = 8 };

typedef struct profile_section {
    const char *title;
    profile_buffer sentences[PROFILE_MAX_SENTENCES]; /* see profile_sentence() */
    int n;
} profile_section;

struct profile_explanation {
    profile_section sections[4];
    int n;
};

/* RESOURCE when the host is out of memory. Without intervals only the roofline is there. */
vtrn_status profile_explain(const profile_input *input, profile_explanation *out);
/* Of the section's n sentences; "" if the host was out of memory. */
const char *profile_sentence(const profile_section *section, int i);
void profile_explanation_free(profile_explanation *explanation);

/* between, then "explanation": [{"title": ..., "sentences": [...]}, ...] */
void profile_json_explanation(profile_buffer *b, const profile_explanation *explanation,
                              const char *between);

#endif
