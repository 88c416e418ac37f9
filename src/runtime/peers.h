/* The other processes that have ranks of an execution. Private to this folder.
 *
 * All of them are told the same, in the same order: that they run the same program; in each round,
 * where every rank is; the operands of collectives; in the end, the blocks that every rank ran. So
 * each finds the same groups complete, the same failures, and the same times. */
#ifndef VTRN_RUNTIME_PEERS_H
#define VTRN_RUNTIME_PEERS_H

#include "engine/exchange.h"
#include "runtime/execute.h"

typedef struct runtime_peers runtime_peers;

/* Whether ranks of other processes take part, and data go between them. */
bool peers_are_needed(const runtime_program *loaded, const runtime_call *calls, uint32_t n);

/* calls[n], by rank. own: what went wrong here before the program could run; it is consumed. Fails
 * in all processes alike: BAD_ARGUMENT where their programs differ. */
vtrn_status peers_begin(runtime_program *loaded, const runtime_call *calls, uint32_t n,
                        vtrn_status own, runtime_peers **out);
void peers_end(runtime_peers *peers); /* NULL is fine */

/* Where the ranks are: at the instruction of a collective, or at their ends. */
enum { PEERS_AT_END = UINT32_MAX };

/* places[n ranks]: those of this process are read, the others are filled in. own: the failure of a
 * rank here, which is consumed; all processes get that of the lowest rank that failed. */
vtrn_status peers_share_places(runtime_peers *peers, uint32_t *places, vtrn_status own,
                               uint32_t own_rank);

/* Brings the operands of the exchanges here, and sends them where they are received; members[n
 * ranks] of other processes then have them. */
vtrn_status peers_share_operands(runtime_peers *peers, const engine_exchange *exchanges, uint32_t n,
                                 engine_member *members);

/* Fills in the block traces of the ranks elsewhere. */
vtrn_status peers_share_traces(runtime_peers *peers);

/* After a failure of the connection: whether something of the rank's process was waited for. */
bool peers_lack(const runtime_peers *peers, uint32_t rank);
const char *peers_process_of(const runtime_peers *peers, uint32_t rank); /* its name */

#endif
