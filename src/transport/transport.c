/* Messages over streams of bytes, without a thread of their own: all that an exchange sends and
 * receives goes on at the same time, so that no two processes wait for each other's buffers. */
#include "transport/transport.h"

#include "base/process.h"
#include "transport/links.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SECOND_NS = 1000000000 };

static atomic_bool has_lost;

bool transport_has_lost_processes(void) {
    return atomic_load(&has_lost);
}

int64_t transport_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

vtrn_status transport_watchdog_seconds(int *out) {
    const char *text = getenv("VTRN_WATCHDOG_SECONDS");
    *out = TRANSPORT_WATCHDOG_SECONDS;
    if (!text || !*text)
        return NULL;
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || n < 1 || n > 86400)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "VTRN_WATCHDOG_SECONDS: '%s' is no number of seconds from 1 to 86400",
                          text);
    *out = (int)n;
    return NULL;
}

static vtrn_status connect_all(transport *t, const transport_options *options) {
    const char *kind = getenv("VTRN_TRANSPORT");
    if (!kind || !*kind || !strcmp(kind, "tcp")) {
        t->kind = &socket_kind;
        return sockets_connect(t, options);
    }
    if (strcmp(kind, "mpi") != 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "VTRN_TRANSPORT: '%s' is neither tcp nor mpi", kind);
    t->kind = &mpi_kind;
    return mpi_connect(t);
}

vtrn_status transport_open(const transport_options *options, transport **out) {
    *out = NULL;
    const int n = options->n_processes;
    if (n < 1 || n > TRANSPORT_MAX_PROCESSES || options->process_i < 0 || options->process_i >= n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "process %d of %d: give a number of processes up to %d, and count them "
                          "from 0",
                          options->process_i, n, TRANSPORT_MAX_PROCESSES);
    transport *t = calloc(1, sizeof *t);
    peer_link *links = calloc((size_t)n, sizeof *links);
    if (!t || !links) {
        free(t);
        free(links);
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *links);
    }
    *t = (transport){.process_i = options->process_i, .n = n, .links = links};
    for (int i = 0; i < n; i++)
        links[i].fd = -1;
    vtrn_status status = transport_watchdog_seconds(&t->watchdog_seconds);
    if (!status)
        status = connect_all(t, options);
    if (status) {
        transport_close(t);
        return status;
    }
    *out = t;
    return NULL;
}

static bool is_connected(const peer_link *k) {
    return k->fd >= 0 || k->mpi;
}

void transport_close(transport *t) {
    if (!t)
        return;
    for (int i = 0; i < t->n; i++)
        if (is_connected(&t->links[i]))
            t->kind->close(&t->links[i]);
    free(t->links);
    free(t->why_broken);
    free(t);
}

int transport_process_i(const transport *t) {
    return t->process_i;
}

int transport_n_processes(const transport *t) {
    return t->n;
}

const char *transport_name(const transport *t, int process_i) {
    return t->links[process_i].name;
}

int transport_n_on_this_host(const transport *t) {
    int n = 0;
    for (int i = 0; i < t->n; i++)
        n += strcmp(t->links[i].host, t->links[t->process_i].host) == 0;
    return n;
}

bool transport_is_missing(const transport *t, int process_i) {
    return t->links[process_i].is_missing;
}

/* --- one message -------------------------------------------------------------------------------
 */

typedef struct list {
    const transport_message *messages;
    size_t n;
} list;

static size_t next_of(list l, size_t from, int process_i) {
    while (from < l.n && l.messages[from].process_i != process_i)
        from++;
    return from;
}

static vtrn_status has_ended(const peer_link *k) {
    return VTRN_ERROR(VTRN_RESOURCE, "%s has ended, or its host cannot be reached", k->name);
}

/* Sends what the stream takes of the messages from k->send_i on. */
static vtrn_status send_some(const transport *t, list l, int process_i) {
    peer_link *k = &t->links[process_i];
    while (k->send_i < l.n) {
        const transport_message *m = &l.messages[k->send_i];
        link_head head = {.magic = LINK_MAGIC, .size = m->size};
        size_t of_body = k->n_sent > sizeof head ? k->n_sent - sizeof head : 0;
        struct iovec parts[2] = {{(char *)&head + k->n_sent, sizeof head - k->n_sent},
                                 {(char *)m->bytes + of_body, m->size - of_body}};
        bool is_body = k->n_sent >= sizeof head;
        int64_t n = t->kind->write(k, &parts[is_body], is_body ? 1 : 2);
        if (n <= 0)
            return n ? has_ended(k) : NULL;
        k->last_ns = transport_now_ns();
        k->n_sent += (size_t)n;
        if (k->n_sent < sizeof head + m->size)
            return NULL;
        k->n_sent = 0;
        k->send_i = next_of(l, k->send_i + 1, process_i);
    }
    return NULL;
}

/* The other process gave up and says why. */
static vtrn_status read_goodbye(const transport *t, peer_link *k) {
    char text[2000] = "";
    size_t n = 0;
    const size_t size = k->head.size < sizeof text - 1 ? (size_t)k->head.size : sizeof text - 1;
    struct timespec pause = {0, 1000000};
    for (int tries = 0; n < size && tries < LINK_POLL_MS; tries++) {
        int64_t got = t->kind->read(k, text + n, size - n);
        if (got < 0)
            break;
        n += (size_t)got;
        if (n < size)
            nanosleep(&pause, NULL);
    }
    text[n] = 0;
    return VTRN_ERROR(VTRN_RESOURCE, "%s gave up: %s", k->name, text);
}

static vtrn_status check_head(const transport *t, peer_link *k, const transport_message *m) {
    if (k->head.magic == LINK_MAGIC && k->head.is_goodbye)
        return read_goodbye(t, k);
    if (k->head.magic == LINK_MAGIC && k->head.size == m->size)
        return NULL;
    return VTRN_ERROR(VTRN_RESOURCE,
                      "%s sent %llu bytes where %zu were expected; let all processes run the same "
                      "programs in the same order, with the same version of vtrn",
                      k->name, (unsigned long long)k->head.size, m->size);
}

/* Receives what has arrived of the messages from k->receive_i on. */
static vtrn_status receive_some(const transport *t, list l, int process_i) {
    peer_link *k = &t->links[process_i];
    while (k->receive_i < l.n) {
        const transport_message *m = &l.messages[k->receive_i];
        const size_t head_size = sizeof k->head;
        bool is_body = k->n_received >= head_size;
        size_t at = is_body ? k->n_received - head_size : k->n_received;
        char *to = is_body ? m->bytes : (char *)&k->head;
        size_t room = (is_body ? m->size : head_size) - at;
        int64_t n = room ? t->kind->read(k, to + at, room) : 0;
        if (n < 0)
            return has_ended(k);
        if (n == 0 && room)
            return NULL;
        k->n_received += (size_t)n;
        k->last_ns = transport_now_ns();
        if (k->n_received == head_size)
            VTRN_RETURN_IF_ERROR(check_head(t, k, m));
        if (k->n_received < head_size + m->size)
            continue;
        k->n_received = 0;
        k->receive_i = next_of(l, k->receive_i + 1, process_i);
    }
    return NULL;
}

/* --- an exchange -------------------------------------------------------------------------------
 */

static vtrn_status check_watchdog(transport *t, list sends, list receives) {
    char names[400] = "";
    int64_t limit_ns = (int64_t)t->watchdog_seconds * SECOND_NS, now = transport_now_ns();
    int n = 0, len = 0;
    for (int i = 0; i < t->n; i++) {
        peer_link *k = &t->links[i];
        bool waits = i != t->process_i && (k->send_i < sends.n || k->receive_i < receives.n);
        k->is_missing = waits && now - k->last_ns > limit_ns;
        if (k->is_missing && len < (int)sizeof names - TRANSPORT_TEXT)
            len +=
                snprintf(names + len, sizeof names - (size_t)len, "%s%s", n ? ", " : "", k->name);
        n += k->is_missing;
    }
    if (!n)
        return NULL;
    return VTRN_ERROR(VTRN_RESOURCE,
                      "%s showed nothing for %d s: it hangs, computes for longer, or does not run "
                      "the same programs; VTRN_WATCHDOG_SECONDS sets the time",
                      names, t->watchdog_seconds);
}

static void begin(transport *t, list sends, list receives) {
    int64_t now = transport_now_ns();
    for (int i = 0; i < t->n; i++) {
        peer_link *k = &t->links[i];
        k->send_i = next_of(sends, 0, i);
        k->receive_i = next_of(receives, 0, i);
        k->n_sent = k->n_received = 0;
        k->last_ns = now;
        k->is_missing = false;
    }
}

/* Goes on with every process; *n_waits: with how many more is to be done. */
static vtrn_status go_on(transport *t, list sends, list receives, struct pollfd *polled,
                         int *n_waits) {
    *n_waits = 0;
    for (int i = 0; i < t->n; i++) {
        peer_link *k = &t->links[i];
        if (i == t->process_i)
            continue;
        /* What arrived goes first: it tells why a process that does not take more has ended. */
        vtrn_status status = receive_some(t, receives, i);
        if (!status)
            status = send_some(t, sends, i);
        if (status) {
            k->is_missing = true;
            return status;
        }
        bool sends_more = k->send_i < sends.n, receives_more = k->receive_i < receives.n;
        if (sends_more || receives_more)
            polled[(*n_waits)++] = (struct pollfd){
                k->fd, (short)((sends_more ? POLLOUT : 0) | (receives_more ? POLLIN : 0)), 0};
    }
    return NULL;
}

/* Tells the other processes why, as far as their streams take it now, and ends the connections. */
static void give_up(transport *t, vtrn_status status) {
    atomic_store(&has_lost, true);
    t->why_broken = strdup(vtrn_status_message(status));
    const char *why = t->why_broken ? t->why_broken : "";
    link_head head = {LINK_MAGIC, true, strlen(why)};
    for (int i = 0; i < t->n; i++) {
        peer_link *k = &t->links[i];
        if (!is_connected(k))
            continue;
        struct iovec parts[2] = {{&head, sizeof head}, {(char *)why, strlen(why)}};
        if (!k->n_sent && t->kind->write(k, parts, 2) < 0)
            k->is_missing = true;
        t->kind->end(k);
    }
}

static vtrn_status exchange(transport *t, list sends, list receives) {
    struct pollfd polled[TRANSPORT_MAX_PROCESSES];
    begin(t, sends, receives);
    for (;;) {
        int n = 0;
        VTRN_RETURN_IF_ERROR(go_on(t, sends, receives, polled, &n));
        if (!n)
            return NULL;
        t->kind->wait(polled, n);
        if (process_is_interrupted())
            return VTRN_ERROR(VTRN_INTERRUPTED,
                              "the user stopped the wait for other processes; start all of them "
                              "again");
        VTRN_RETURN_IF_ERROR(check_watchdog(t, sends, receives));
    }
}

vtrn_status transport_exchange(transport *t, const transport_message *sends, size_t n_sends,
                               const transport_message *receives, size_t n_receives) {
    if (t->why_broken)
        return VTRN_ERROR(VTRN_RESOURCE,
                          "the processes are no longer connected, since: %s; start all of them "
                          "again",
                          t->why_broken);
    vtrn_status status = exchange(t, (list){sends, n_sends}, (list){receives, n_receives});
    if (status)
        give_up(t, status);
    return status;
}
