/* Sockets between all processes: addresses are left in a store, or told to process 0. */
#include "transport/links.h"

#include "base/process.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { POLL_MS = LINK_POLL_MS, RETRY_US = 20000, SECOND_NS = 1000000000 };

/* What a process says of itself. */
typedef struct record {
    char address[64], host[128];
    int port, pid;
    unsigned long long secret; /* who connects must know it */
} record;

/* The first bytes on a connection. */
typedef struct greeting {
    uint32_t magic;
    int32_t process_i;
    uint64_t secret;
} greeting;

typedef struct bootstrap {
    transport *t;
    const transport_options *o;
    int listener;
    int64_t deadline_ns;
    record own;
    record *records; /* [n] */
} bootstrap;

static vtrn_status system_error(const char *what) {
    return VTRN_ERROR(VTRN_RESOURCE, "connecting processes: %s: %s", what, strerror(errno));
}

static vtrn_status late(const bootstrap *b, const char *who) {
    return VTRN_ERROR(VTRN_UNAVAILABLE,
                      "process %d: %s did not open its NeuronCores within %d s; start all %d "
                      "processes, and look at what that one says. VTRN_WATCHDOG_SECONDS sets the "
                      "time",
                      b->t->process_i, who, b->t->watchdog_seconds, b->t->n);
}

/* False when the time is over or the user asks to stop. */
static bool may_wait(const bootstrap *b) {
    return transport_now_ns() < b->deadline_ns && !process_is_interrupted();
}

/* --- sockets -----------------------------------------------------------------------------------
 */

static vtrn_status listen_at(const char *address, int port, int *out_fd, int *out_port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof at;
    const int one = 1;
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "connecting processes: '%s' is no IPv4 address",
                          address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return system_error("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, size) || listen(fd, TRANSPORT_MAX_PROCESSES) ||
        getsockname(fd, (struct sockaddr *)&at, &size)) {
        vtrn_status status = VTRN_ERROR(VTRN_RESOURCE, "connecting processes: %s port %d: %s",
                                        address, port, strerror(errno));
        close(fd);
        return status;
    }
    *out_fd = fd;
    *out_port = ntohs(at.sin_port);
    return NULL;
}

/* A connection, or -1. */
static int connect_to(const char *address, int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1)
        return -1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    int error = connect(fd, (struct sockaddr *)&at, sizeof at) ? errno : 0;
    if (error == EINPROGRESS) {
        struct pollfd p = {fd, POLLOUT, 0};
        socklen_t size = sizeof error;
        error = ETIMEDOUT;
        if (poll(&p, 1, 1000) == 1)
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (!error)
        return fd;
    close(fd);
    return -1;
}

/* All of the bytes; false: the other side has ended, or the time is over. */
static bool move_all(const bootstrap *b, int fd, void *bytes, size_t size, bool is_sent) {
    for (size_t n = 0; n < size;) {
        char *at = (char *)bytes + n;
        ssize_t got = is_sent ? send(fd, at, size - n, MSG_NOSIGNAL) : recv(fd, at, size - n, 0);
        if (got > 0) {
            n += (size_t)got;
            continue;
        }
        if (got == 0 || (errno != EAGAIN && errno != EINTR) || !may_wait(b))
            return false;
        struct pollfd p = {fd, is_sent ? POLLOUT : POLLIN, 0};
        poll(&p, 1, POLL_MS);
    }
    return true;
}

/* The next connection to the listener, or -1 when the time is over. */
static int accept_next(const bootstrap *b, int listener) {
    while (may_wait(b)) {
        struct pollfd p = {listener, POLLIN, 0};
        if (poll(&p, 1, POLL_MS) != 1)
            continue;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            return fd;
    }
    return -1;
}

static void resolve(const char *host, char out[64]) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found = NULL;
    snprintf(out, 64, "%.63s", host);
    if (getaddrinfo(host, NULL, &hints, &found) || !found)
        return;
    inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)found->ai_addr)->sin_addr, out, 64);
    freeaddrinfo(found);
}

/* --- streams -----------------------------------------------------------------------------------
 */

static int64_t moved(ssize_t n) {
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -1;
}

static int64_t socket_write(peer_link *k, const struct iovec *parts, int n_parts) {
    struct msghdr message = {.msg_iov = (struct iovec *)parts, .msg_iovlen = (size_t)n_parts};
    return moved(sendmsg(k->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT));
}

static int64_t socket_read(peer_link *k, void *to, size_t room) {
    ssize_t n = recv(k->fd, to, room, MSG_DONTWAIT);
    return n ? moved(n) : -1;
}

static void socket_wait(struct pollfd *polled, int n) {
    poll(polled, (nfds_t)n, LINK_POLL_MS);
}

static void socket_end(peer_link *k) {
    shutdown(k->fd, SHUT_WR);
}

static void socket_close(peer_link *k) {
    close(k->fd);
}

const link_kind socket_kind = {socket_write, socket_read, socket_wait, socket_end, socket_close};

/* --- what all say of themselves ------------------------------------------------------------------
 */

/* Clients are opened in the same order in all processes. */
static void key_of(int process_i, unsigned generation, char out[64]) {
    snprintf(out, 64, "vtrn/transport/%u/%d", generation, process_i);
}

static vtrn_status gather_by_store(bootstrap *b) {
    static _Atomic unsigned n_generations;
    const transport_store *s = b->o->store;
    const unsigned generation = n_generations++;
    char key[64], text[TRANSPORT_TEXT];
    key_of(b->t->process_i, generation, key);
    const record *own = &b->own;
    snprintf(text, sizeof text, "%s %d %llu %d %s", own->address, own->port, own->secret, own->pid,
             own->host);
    VTRN_RETURN_IF_ERROR(s->put(s->ctx, key, text));
    for (int i = 0; i < b->t->n; i++) {
        int64_t left_ms = (b->deadline_ns - transport_now_ns()) / 1000000;
        char who[32];
        snprintf(who, sizeof who, "process %d", i);
        key_of(i, generation, key);
        vtrn_status status = s->get(s->ctx, key, left_ms > 1 ? (int)left_ms : 1, text, sizeof text);
        if (status) {
            vtrn_status_free(status);
            return late(b, who);
        }
        record *r = &b->records[i];
        if (sscanf(text, "%63s %d %llu %d %127s", r->address, &r->port, &r->secret, &r->pid,
                   r->host) != 5)
            return VTRN_ERROR(VTRN_RESOURCE,
                              "%s left '%s', which is no address; run the same "
                              "version of vtrn in all processes",
                              who, text);
    }
    return NULL;
}

static vtrn_status split_root(const char *root, char address[64], int *port) {
    char host[128];
    const char *colon = strrchr(root, ':');
    if (!colon || colon == root || (size_t)(colon - root) >= sizeof host ||
        sscanf(colon + 1, "%d", port) != 1 || *port < 1 || *port > 65535)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "NEURON_RT_ROOT_COMM_ID=%s: give host:port, where process 0 listens, as "
                          "in 10.0.0.1:62182",
                          root);
    snprintf(host, sizeof host, "%.*s", (int)(colon - root), root);
    resolve(host, address);
    return NULL;
}

/* Process 0 hears all the others, then tells each one of all. */
static vtrn_status serve_root(bootstrap *b, const char *address, int port) {
    int listener = -1;
    const int n = b->t->n;
    int *fds = malloc((size_t)n * sizeof *fds);
    if (!fds)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *fds);
    vtrn_status status = listen_at(address, port, &listener, &port);
    int n_heard = 1;
    for (int i = 0; i < n; i++)
        fds[i] = -1;
    b->records[0] = b->own;
    while (!status && n_heard < n) {
        int fd = accept_next(b, listener);
        greeting hello;
        if (fd < 0) {
            char who[64];
            int missing = 1;
            while (fds[missing] >= 0)
                missing++;
            snprintf(who, sizeof who, "process %d", missing);
            status = late(b, who);
        } else if (!move_all(b, fd, &hello, sizeof hello, false) || hello.magic != LINK_MAGIC ||
                   hello.process_i < 1 || hello.process_i >= n || fds[hello.process_i] >= 0 ||
                   !move_all(b, fd, &b->records[hello.process_i], sizeof(record), false)) {
            close(fd);
        } else {
            fds[hello.process_i] = fd;
            n_heard++;
        }
    }
    for (int i = 1; i < n; i++) {
        if (!status)
            move_all(b, fds[i], b->records, (size_t)n * sizeof *b->records, true);
        if (fds[i] >= 0)
            close(fds[i]);
    }
    if (listener >= 0)
        close(listener);
    free(fds);
    return status;
}

static vtrn_status ask_root(bootstrap *b, const char *address, int port) {
    int fd = -1;
    while ((fd = connect_to(address, port)) < 0 && may_wait(b))
        usleep(RETRY_US);
    if (fd < 0)
        return late(b, "process 0");
    greeting hello = {LINK_MAGIC, b->t->process_i, 0};
    bool is_good = move_all(b, fd, &hello, sizeof hello, true) &&
                   move_all(b, fd, &b->own, sizeof b->own, true) &&
                   move_all(b, fd, b->records, (size_t)b->t->n * sizeof *b->records, false);
    close(fd);
    return is_good ? NULL : late(b, "process 0, or another one,");
}

static vtrn_status gather_by_root(bootstrap *b) {
    char address[64];
    int port;
    VTRN_RETURN_IF_ERROR(split_root(b->o->root, address, &port));
    return b->t->process_i ? ask_root(b, address, port) : serve_root(b, address, port);
}

/* --- connections -------------------------------------------------------------------------------
 */

static void keep_link(transport *t, int process_i, int fd) {
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    t->links[process_i].fd = fd;
}

/* Each process connects to those before it; the listeners of all were there before their records.
 */
static vtrn_status connect_down(bootstrap *b) {
    for (int i = 0; i < b->t->process_i; i++) {
        const record *r = &b->records[i];
        greeting hello = {LINK_MAGIC, b->t->process_i, r->secret};
        int fd = connect_to(r->address, r->port);
        if (fd >= 0)
            keep_link(b->t, i, fd);
        if (fd < 0 || !move_all(b, fd, &hello, sizeof hello, true))
            return VTRN_ERROR(VTRN_RESOURCE,
                              "connecting processes: %s cannot be reached at %s port %d; "
                              "VTRN_TRANSPORT_HOST gives an address of its host that others reach",
                              b->t->links[i].name, r->address, r->port);
    }
    return NULL;
}

static vtrn_status accept_up(bootstrap *b) {
    transport *t = b->t;
    for (int n = t->process_i + 1; n < t->n;) {
        int fd = accept_next(b, b->listener);
        greeting hello;
        if (fd < 0) {
            int missing = t->process_i + 1;
            while (t->links[missing].fd >= 0)
                missing++;
            return late(b, t->links[missing].name);
        }
        if (!move_all(b, fd, &hello, sizeof hello, false) || hello.magic != LINK_MAGIC ||
            hello.secret != b->own.secret || hello.process_i <= t->process_i ||
            hello.process_i >= t->n || t->links[hello.process_i].fd >= 0) {
            close(fd);
            continue;
        }
        keep_link(t, hello.process_i, fd);
        n++;
    }
    return NULL;
}

static void name_links(bootstrap *b) {
    for (int i = 0; i < b->t->n; i++) {
        peer_link *k = &b->t->links[i];
        const record *r = &b->records[i];
        snprintf(k->name, sizeof k->name, "process %d (pid %d on %.100s)", i, r->pid, r->host);
        snprintf(k->host, sizeof k->host, "%s", r->host);
    }
}

static vtrn_status describe_self(bootstrap *b) {
    record *own = &b->own;
    const char *given = getenv("VTRN_TRANSPORT_HOST");
    resolve(given && *given ? given : "127.0.0.1", own->address);
    own->pid = (int)getpid();
    if (gethostname(own->host, sizeof own->host - 1) || !own->host[0])
        snprintf(own->host, sizeof own->host, "localhost");
    if (getrandom(&own->secret, sizeof own->secret, 0) != sizeof own->secret)
        return system_error("getrandom");
    return listen_at(own->address, 0, &b->listener, &own->port);
}

vtrn_status sockets_connect(transport *t, const transport_options *options) {
    bootstrap b = {.t = t, .o = options, .listener = -1};
    b.deadline_ns = transport_now_ns() + (int64_t)t->watchdog_seconds * SECOND_NS;
    b.records = calloc((size_t)t->n, sizeof *b.records);
    if (!b.records)
        return VTRN_OUT_OF_MEMORY((size_t)t->n * sizeof *b.records);
    vtrn_status status = describe_self(&b);
    if (!status)
        status = options->store ? gather_by_store(&b) : gather_by_root(&b);
    if (!status) {
        name_links(&b);
        status = connect_down(&b);
    }
    if (!status)
        status = accept_up(&b);
    if (b.listener >= 0)
        close(b.listener);
    free(b.records);
    return status;
}
