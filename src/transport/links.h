/* What a transport is made of: connected sockets, one to each other process. Private to the folder.
 */
#ifndef VTRN_TRANSPORT_LINKS_H
#define VTRN_TRANSPORT_LINKS_H

#include "transport/transport.h"

/* Goes before the bytes of every message. */
typedef struct link_head {
    uint32_t magic, is_goodbye; /* a goodbye says why its sender gave up */
    uint64_t size;              /* of the bytes behind it */
} link_head;

enum { LINK_MAGIC = 0x314d5456 /* "VTM1" */ };

typedef struct peer_link {
    int fd; /* -1: this process, or none */
    char name[TRANSPORT_TEXT], host[128];
    size_t send_i, n_sent; /* message of the list, and bytes of it that are sent, head included */
    size_t receive_i, n_received;
    link_head head;  /* of the message that is being received */
    int64_t last_ns; /* when bytes went either way */
    bool is_missing;
} peer_link;

struct transport {
    int process_i, n;
    int watchdog_seconds;
    peer_link *links; /* [n] */
    char *why_broken; /* NULL: it works */
};

int64_t transport_now_ns(void);
/* Fills in t->links, whose entries are unconnected. */
vtrn_status links_connect(transport *t, const transport_options *options);

#endif
