/* What a transport is made of: a stream of bytes to each other process, over sockets or MPI.
 * Private to the folder. */
#ifndef VTRN_TRANSPORT_LINKS_H
#define VTRN_TRANSPORT_LINKS_H

#include "transport/transport.h"

#include <poll.h>
#include <sys/uio.h>

typedef enum link_message {
    LINK_IN_ORDER, /* the next one of an exchange */
    LINK_GOODBYE,  /* why its sender gave up */
    LINK_KEYED,    /* kept until somebody asks for its key */
} link_message;

/* Goes before the bytes of every message. */
typedef struct link_head {
    uint32_t magic, kind; /* link_message */
    uint64_t size, key;   /* of the bytes behind it; of a keyed one */
} link_head;

/* A keyed message that has arrived. */
typedef struct link_item {
    struct link_item *next;
    uint64_t key;
    size_t size;
    char bytes[];
} link_item;

enum { LINK_MAGIC = 0x314d5456 /* "VTM1" */, LINK_POLL_MS = 20 };

typedef struct peer_link {
    int fd;                 /* of a socket; -1: this process, or none */
    struct mpi_stream *mpi; /* NULL: it is a socket */
    char name[TRANSPORT_TEXT], host[128];
    size_t send_i, n_sent; /* message of the list, and bytes of it that are sent, head included */
    size_t receive_i, n_received;
    link_head head;   /* of the message that is being received */
    char *body;       /* where the bytes behind it go; NULL: not known yet */
    link_item *item;  /* whose bytes they are; NULL: an exchange's */
    link_item *inbox; /* in any order */
    int64_t last_ns;  /* when bytes went either way */
    bool is_missing;
    bool has_ended; /* it sends no more */
} peer_link;

/* How bytes move; nothing here waits but `wait`. */
typedef struct link_kind {
    /* Bytes taken; 0: none now; -1: the process has ended. n_parts is 1 or 2. */
    int64_t (*write)(peer_link *k, const struct iovec *parts, int n_parts);
    int64_t (*read)(peer_link *k, void *to, size_t room); /* likewise */
    /* For a moment, until something moves: polled[n] as poll() has it, of sockets. */
    void (*wait)(struct pollfd *polled, int n);
    void (*end)(peer_link *k);   /* what is written arrives; nothing more is */
    void (*close)(peer_link *k); /* frees it */
} link_kind;

struct transport {
    int process_i, n;
    int watchdog_seconds;
    const link_kind *kind;
    peer_link *links;       /* [n] */
    char *why_broken;       /* NULL: it works */
    bool is_listening;      /* keyed messages are taken, also where nothing is expected */
    struct transport *next; /* of all that are open */
};

extern const link_kind socket_kind, mpi_kind;

int64_t transport_now_ns(void);
/* Fill in t->links, whose entries are unconnected. */
vtrn_status sockets_connect(transport *t, const transport_options *options);
vtrn_status mpi_connect(transport *t);

#endif
