/* What the ranks of a step gave each other: collective by collective, link by link, core by core.
 */
#ifndef VTRN_PROFILE_PROFILE_COMM_H
#define VTRN_PROFILE_PROFILE_COMM_H

#include "collective/collective.h"
#include "profile/profile.h"
#include "profile/profile_buffer.h"

/* A collective of the program, as often as the shown rank ran it. */
typedef struct profile_comm_row {
    uint32_t custom_i;
    const vtrn_source *source; /* NULL: not known */
    uint64_t n, bytes;         /* how often; of a member's larger tensors, once */
    collective_time time;      /* once */
    const char *restriction;   /* the rule by which the vendor's runtime refuses it; NULL: none */
} profile_comm_row;

enum { PROFILE_MOST_SIDES = 64 }; /* of the matrix: of more cores, chips are shown */

typedef struct profile_comm {
    profile_comm_row *rows; /* [n] most time first */
    size_t n;
    int n_links;
    double *link_bytes; /* [n_links] */
    int slowest_link;   /* whose bytes take longest; -1: no link is used */
    double slowest_ns;  /* as long, at its rate */
    bool is_by_chip;    /* sides of the matrix are chips, else ranks */
    uint32_t n_sides;
    int *sides;     /* [n_sides] chips or ranks */
    double *matrix; /* [n_sides][n_sides] bytes from one to another, whatever way they take */
} profile_comm;

/* in->ranks and in->topology are set. RESOURCE: out of memory. */
vtrn_status profile_comm_create(const profile_input *in, profile_comm *out);
void profile_comm_free(profile_comm *comm);

/* "communication": all of it, with the places of chips and the ends of links. */
vtrn_status profile_json_comm(profile_buffer *b, const profile_input *in, const char *between);

#endif
