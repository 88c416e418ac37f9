/* The figures of a step as members of a JSON object, which profile.json and profile.html share. */
#ifndef VTRN_PROFILE_PROFILE_SUMMARY_H
#define VTRN_PROFILE_PROFILE_SUMMARY_H

#include "profile/profile.h"
#include "profile/profile_buffer.h"

/* `between` comes before each member: ",", or ",\n  " for people. */
void profile_json_names(profile_buffer *b, const profile_input *in, const char *between);
/* "values": whose were computed. */
void profile_json_values(profile_buffer *b, const profile_values *values, const char *between);
/* "ranks": of a program over several cores, how long each took. RESOURCE: out of memory. */
vtrn_status profile_json_ranks(profile_buffer *b, const profile_input *in, const char *between);
void profile_json_figures(profile_buffer *b, const profile_summary *s, const char *between);

#endif
