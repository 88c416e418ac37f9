/* Messages over streams of bytes, without a thread of their own: all that an exchange sends and
 * receives goes on at the same time, so that no two processes wait for each other's buffers. */
#include "transport/transport.h"

#include "base/process.h"
#include "transport/links.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SECOND_NS = 1000000000 };

static atomic_bool has_lost;
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static transport *all_open;

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
    pthread_mutex_lock(&open_lock);
    t->next = all_open;
    all_open = t;
    pthread_mutex_unlock(&open_lock);
    *out = t;
    return NULL;
}

static bool is_connected(const peer_link *k) {
    return k->fd >= 0 || k->mpi;
}

bool transport_leave_all(void) {
    bool is_any = false;
    pthread_mutex_lock(&open_lock);
    for (transport *t = all_open; t; t = t->next)
        for (int i = 0; i < t->n; i++) {
            is_any |= is_connected(&t->links[i]);
            if (t->links[i].fd >= 0) /* the end of MPI's processes is its launcher's to tell */
                t->kind->end(&t->links[i]);
        }
    pthread_mutex_unlock(&open_lock);
    return is_any;
}

void transport_close(transport *t) {
    if (!t)
        return;
    pthread_mutex_lock(&open_lock);
    for (transport **at = &all_open; *at; at = &(*at)->next)
        if (*at == t) {
            *at = t->next;
            break;
        }
    pthread_mutex_unlock(&open_lock);
    for (int i = 0; i < t->n; i++) {
        peer_link *k = &t->links[i];
        if (is_connected(k))
            t->kind->close(k);
        for (link_item *item = k->inbox, *next; item; item = next) {
            next = item->next;
            free(item);
        }
        free(k->item);
    }
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
    uint32_t kind; /* link_message, of what is sent */
    uint64_t key;
} list;

static size_t next_of(list l, size_t from, int process_i) {
    while (from < l.n && l.messages[from].process_i != process_i)
        from++;
    return from;
}

static vtrn_status has_ended(const peer_link *k) {
    return VTRN_ERROR(VTRN_UNAVAILABLE, "%s has ended, or its host cannot be reached", k->name);
}

/* Sends what the stream takes of the messages from k->send_i on. */
static vtrn_status send_some(const transport *t, list l, int process_i) {
    peer_link *k = &t->links[process_i];
    while (k->send_i < l.n) {
        const transport_message *m = &l.messages[k->send_i];
        link_head head = {LINK_MAGIC, l.kind, m->size, l.key};
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
    return VTRN_ERROR(VTRN_UNAVAILABLE, "%s gave up: %s", k->name, text);
}

/* Where the bytes behind a head go; k->body stays NULL while no exchange expects them. */
static vtrn_status accept_head(const transport *t, peer_link *k, const transport_message *m) {
    static char nowhere[1];
    const link_head *h = &k->head;
    const bool is_ours = h->magic == LINK_MAGIC;
    if (is_ours && h->kind == LINK_GOODBYE)
        return read_goodbye(t, k);
    if (is_ours && h->kind == LINK_KEYED) {
        k->item = malloc(sizeof *k->item + h->size);
        if (!k->item)
            return VTRN_OUT_OF_MEMORY(h->size);
        k->item->key = h->key;
        k->item->size = h->size;
        k->body = k->item->bytes;
        return NULL;
    }
    if (is_ours && !m)
        return NULL;
    if (is_ours && m && h->size == m->size) {
        k->body = m->size ? m->bytes : nowhere;
        return NULL;
    }
    return VTRN_ERROR(VTRN_UNAVAILABLE,
                      "%s sent %llu bytes where %zu were expected; let all processes run the same "
                      "programs in the same order, with the same version of vtrn",
                      k->name, (unsigned long long)h->size, m ? m->size : 0);
}

/* A message has arrived. */
static void settle_message(list l, int process_i, peer_link *k) {
    k->n_received = 0;
    k->body = NULL;
    if (k->item) {
        k->item->next = k->inbox;
        k->inbox = k->item;
        k->item = NULL;
    } else {
        k->receive_i = next_of(l, k->receive_i + 1, process_i);
    }
}

/* Reads up to byte `end` of the message, head included. False: that is all for now, or failed. */
static bool read_up_to(const transport *t, peer_link *k, size_t end, vtrn_status *failed) {
    const size_t head_size = sizeof k->head;
    while (k->n_received < end) {
        char *to = end > head_size ? k->body + (k->n_received - head_size)
                                   : (char *)&k->head + k->n_received;
        int64_t n = t->kind->read(k, to, end - k->n_received);
        if (n < 0) {
            k->has_ended = true;
            *failed = has_ended(k);
        }
        if (n <= 0)
            return false;
        k->n_received += (size_t)n;
        k->last_ns = transport_now_ns();
    }
    return true;
}

/* Receives what has arrived of the messages from k->receive_i on, and of keyed ones before them. */
static vtrn_status receive_some(const transport *t, list l, int process_i) {
    peer_link *k = &t->links[process_i];
    vtrn_status failed = NULL;
    while (k->receive_i < l.n || t->is_listening) {
        if (!k->body) {
            if (!read_up_to(t, k, sizeof k->head, &failed))
                return failed;
            VTRN_RETURN_IF_ERROR(
                accept_head(t, k, k->receive_i < l.n ? &l.messages[k->receive_i] : NULL));
            if (!k->body)
                return NULL;
        }
        size_t end = sizeof k->head + k->head.size;
        if (end > sizeof k->head && !read_up_to(t, k, end, &failed))
            return failed;
        settle_message(l, process_i, k);
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
    return VTRN_ERROR(VTRN_UNAVAILABLE,
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
        k->n_sent = 0; /* what is being received goes on */
        k->last_ns = now;
        k->is_missing = false;
    }
}

/* Goes on with every process; *n_polled: those to poll. *is_done: all is sent and received. */
static vtrn_status go_on(transport *t, list sends, list receives, struct pollfd *polled,
                         int *n_polled, bool *is_done) {
    *n_polled = 0;
    *is_done = true;
    for (int i = 0; i < t->n; i++) {
        peer_link *k = &t->links[i];
        if (i == t->process_i)
            continue;
        /* What arrived goes first: it tells why a process that does not take more has ended. */
        vtrn_status status = receive_some(t, receives, i);
        if (status && k->has_ended && k->send_i >= sends.n && k->receive_i >= receives.n) {
            vtrn_status_free(status); /* only listened to: the exchange lacks nothing of it */
            continue;
        }
        if (!status)
            status = send_some(t, sends, i);
        if (status) {
            k->is_missing = true;
            return status;
        }
        bool sends_more = k->send_i < sends.n;
        bool has_head = k->n_received == sizeof k->head && !k->body; /* for an exchange to come */
        bool receives_more = k->receive_i < receives.n || (t->is_listening && !has_head);
        *is_done &= !sends_more && k->receive_i >= receives.n;
        if (sends_more || receives_more)
            polled[(*n_polled)++] = (struct pollfd){
                k->fd, (short)((sends_more ? POLLOUT : 0) | (receives_more ? POLLIN : 0)), 0};
    }
    return NULL;
}

/* Tells the other processes why, as far as their streams take it now, and ends the connections. */
static void give_up(transport *t, vtrn_status status) {
    atomic_store(&has_lost, true);
    t->why_broken = strdup(vtrn_status_message(status));
    const char *why = t->why_broken ? t->why_broken : "";
    link_head head = {LINK_MAGIC, LINK_GOODBYE, strlen(why), 0};
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

static vtrn_status interrupted(void) {
    return VTRN_ERROR(VTRN_INTERRUPTED,
                      "the user stopped the wait for other processes; start all of them again");
}

static vtrn_status exchange(transport *t, list sends, list receives) {
    struct pollfd polled[TRANSPORT_MAX_PROCESSES];
    begin(t, sends, receives);
    for (;;) {
        int n = 0;
        bool is_done;
        VTRN_RETURN_IF_ERROR(go_on(t, sends, receives, polled, &n, &is_done));
        if (is_done)
            return NULL;
        t->kind->wait(polled, n);
        if (process_is_interrupted())
            return interrupted();
        VTRN_RETURN_IF_ERROR(check_watchdog(t, sends, receives));
    }
}

static vtrn_status check_connected(const transport *t) {
    if (!t->why_broken)
        return NULL;
    return VTRN_ERROR(VTRN_UNAVAILABLE,
                      "the processes are no longer connected, since: %s; start all of them again",
                      t->why_broken);
}

vtrn_status transport_exchange(transport *t, const transport_message *sends, size_t n_sends,
                               const transport_message *receives, size_t n_receives) {
    VTRN_RETURN_IF_ERROR(check_connected(t));
    vtrn_status status = exchange(t, (list){.messages = sends, .n = n_sends},
                                  (list){.messages = receives, .n = n_receives});
    if (status)
        give_up(t, status);
    return status;
}

/* --- keyed messages ----------------------------------------------------------------------------
 */

vtrn_status transport_send(transport *t, const transport_message *message, uint64_t key) {
    VTRN_RETURN_IF_ERROR(check_connected(t));
    t->is_listening = true; /* the other one may be sending, too */
    vtrn_status status = exchange(t, (list){message, 1, LINK_KEYED, key}, (list){.n = 0});
    t->is_listening = false;
    if (status)
        give_up(t, status);
    return status;
}

static link_item *take_item(peer_link *k, uint64_t key) {
    link_item **at = &k->inbox;
    while (*at && (*at)->key != key)
        at = &(*at)->next;
    link_item *found = *at;
    if (found)
        *at = found->next;
    return found;
}

static vtrn_status give_item(const peer_link *k, link_item *item, const transport_message *m) {
    bool fits = item->size == m->size;
    size_t size = item->size;
    if (fits && size)
        memcpy(m->bytes, item->bytes, size);
    free(item);
    return fits ? NULL
                : VTRN_ERROR(VTRN_BAD_ARGUMENT,
                             "%s sent an array of %zu bytes, %zu were expected; let the arrays of "
                             "all processes have the same shape and type",
                             k->name, size, m->size);
}

vtrn_status transport_try_receive(transport *t, const transport_message *message, uint64_t key,
                                  bool *has_come) {
    peer_link *k = &t->links[message->process_i];
    *has_come = true;
    link_item *item = take_item(k, key);
    if (!item) {
        VTRN_RETURN_IF_ERROR(check_connected(t));
        t->is_listening = true;
        vtrn_status status = receive_some(t, (list){.n = 0}, message->process_i);
        t->is_listening = false;
        item = take_item(k, key);
        if (status && (!item || !k->has_ended))
            give_up(t, status);
        if (status && !item)
            return status;
        vtrn_status_free(status); /* it ended behind the message */
    }
    *has_come = item != NULL;
    return item ? give_item(k, item, message) : NULL;
}
