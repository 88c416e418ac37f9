/* Bytes between the processes that run a program together. What they mean, and every sum over them,
 * is the caller's. */
#ifndef VTRN_TRANSPORT_TRANSPORT_H
#define VTRN_TRANSPORT_TRANSPORT_H

#include "base/status.h"

#include <stdint.h>

typedef struct transport transport;

enum {
    TRANSPORT_MAX_PROCESSES = 512,
    TRANSPORT_WATCHDOG_SECONDS = 120, /* where VTRN_WATCHDOG_SECONDS is not set */
    TRANSPORT_TEXT = 256,             /* of what a process says of itself */
};

/* Where processes leave short texts for each other before they are connected, such as the
 * coordinator of jax.distributed. */
typedef struct transport_store {
    void *ctx;
    vtrn_status (*put)(void *ctx, const char *key, const char *value);
    /* Waits until the key has a value; it ends with a NUL, cut off at size. */
    vtrn_status (*get)(void *ctx, const char *key, int timeout_ms, char *value, size_t size);
} transport_store;

typedef struct transport_options {
    int process_i, n_processes;
    const transport_store *store; /* NULL: processes meet at root */
    const char *root;             /* "host:port", where process 0 listens */
} transport_options;

/* Seconds without a sign of another process after which a wait fails: VTRN_WATCHDOG_SECONDS.
 * BAD_ARGUMENT: it is no number from 1 to 86400. */
vtrn_status transport_watchdog_seconds(int *out);

/* Connects all processes with each other; every one calls it. UNAVAILABLE names the one that does
 * not come. */
vtrn_status transport_open(const transport_options *options, transport **out);
void transport_close(transport *t); /* NULL is fine */

int transport_process_i(const transport *t);
int transport_n_processes(const transport *t);
/* "process 1 (pid 4242 on trainer-7)"; lives as long as the transport. */
const char *transport_name(const transport *t, int process_i);
/* Of the host's processes, this one included. */
int transport_n_on_this_host(const transport *t);

/* A run of bytes for, or from, another process. */
typedef struct transport_message {
    int process_i;
    void *bytes; /* of a message that is sent: only read */
    size_t size;
} transport_message;

/* Sends and receives all messages at the same time; those between two processes are in the order of
 * the lists of both. UNAVAILABLE when a process has ended, gave up, or shows nothing for the
 * watchdog's time: then no later exchange succeeds, and the other processes are told. INTERRUPTED
 * by the user. One thread at a time. */
vtrn_status transport_exchange(transport *t, const transport_message *sends, size_t n_sends,
                               const transport_message *receives, size_t n_receives);
/* Messages that do not wait for their turn: whoever asks for the key gets the bytes, whatever else
 * is exchanged meanwhile. Sends one; it returns when all is on its way, or fails as an exchange. */
vtrn_status transport_send(transport *t, const transport_message *message, uint64_t key);
/* Does not wait. *has_come false: the message of the key has not arrived. BAD_ARGUMENT: it has
 * another size. */
vtrn_status transport_try_receive(transport *t, const transport_message *message, uint64_t key,
                                  bool *has_come);

/* For the end of the process: the others find at once that it exchanges no more. False: there are
 * no others. Thread-safe. */
bool transport_leave_all(void);
/* Whether any transport of this process failed so. */
bool transport_has_lost_processes(void);
/* After an exchange failed: whether it lacked something of the process. */
bool transport_is_missing(const transport *t, int process_i);

#endif
