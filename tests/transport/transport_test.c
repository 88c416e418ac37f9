/* Processes that exchange bytes; here each is a thread with a transport of its own. */
#include "transport/transport.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 3, BIG = 8 << 20, N_SMALL = 500, KEY_BYTES = 64 };

/* A store like that of jax.distributed. */
typedef struct store {
    pthread_mutex_t lock;
    char keys[N][KEY_BYTES], values[N][TRANSPORT_TEXT];
    int n;
} store;

static vtrn_status put(void *ctx, const char *key, const char *value) {
    store *s = ctx;
    pthread_mutex_lock(&s->lock);
    snprintf(s->keys[s->n], KEY_BYTES, "%s", key);
    snprintf(s->values[s->n++], TRANSPORT_TEXT, "%s", value);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Keys of different threads count separately: the last number tells the process. */
static vtrn_status get(void *ctx, const char *key, int timeout_ms, char *value, size_t size) {
    store *s = ctx;
    struct timespec pause = {0, 1000000};
    for (int i = 0; i < timeout_ms; i++) {
        pthread_mutex_lock(&s->lock);
        bool found = false;
        for (int k = 0; k < s->n && !found; k++) {
            found = !strcmp(strrchr(s->keys[k], '/'), strrchr(key, '/'));
            if (found)
                snprintf(value, size, "%s", s->values[k]);
        }
        pthread_mutex_unlock(&s->lock);
        if (found)
            return NULL;
        nanosleep(&pause, NULL);
    }
    return VTRN_ERROR(VTRN_RESOURCE, "no key %s", key);
}

typedef struct process {
    int self, n;
    store *store;
    void (*body)(struct process *);
    transport *t;
    vtrn_status status;
} process;

static void *process_main(void *arg) {
    process *p = arg;
    transport_store through = {p->store, put, get};
    p->status = transport_open(
        &(transport_options){.process_i = p->self, .n_processes = p->n, .store = &through}, &p->t);
    if (!p->status)
        p->body(p);
    transport_close(p->t);
    return NULL;
}

/* Runs the body in n processes, of which the last n_absent do not come. */
static void run(process *all, int n, int n_absent, void (*body)(process *)) {
    store s = {.n = 0};
    pthread_t threads[N];
    pthread_mutex_init(&s.lock, NULL);
    for (int i = 0; i < n - n_absent; i++) {
        all[i] = (process){.self = i, .n = n, .store = &s, .body = body};
        assert_int_equal(pthread_create(&threads[i], NULL, process_main, &all[i]), 0);
    }
    for (int i = 0; i < n - n_absent; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&s.lock);
}

static void ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_status_text(status));
}

static void fails(process *p, const char *text) {
    if (!p->status || !strstr(vtrn_status_text(p->status), text))
        fail_msg("process %d: %s; not: %s", p->self, vtrn_status_text(p->status), text);
    vtrn_status_free(p->status);
}

/* All to all, far more than sockets buffer, in both directions at once. */
static void send_much(process *p) {
    unsigned char *out = malloc(BIG), *in = malloc((size_t)N * BIG);
    transport_message sends[N * N_SMALL], receives[N * N_SMALL];
    for (int round = 0; round < 2 && !p->status; round++) {
        size_t n = 0;
        memset(out, 10 * p->self + round, BIG);
        for (int i = 0; i < N; i++)
            if (i != p->self) {
                sends[n] = (transport_message){i, out, BIG};
                receives[n++] = (transport_message){i, in + (size_t)i * BIG, BIG};
            }
        p->status = transport_exchange(p->t, sends, n, receives, n);
        for (int i = 0; i < N && !p->status; i++)
            for (size_t k = 0; k < BIG && i != p->self; k += 4099)
                if (in[(size_t)i * BIG + k] != 10 * i + round)
                    p->status = VTRN_ERROR(VTRN_INTERNAL, "byte %zu of process %d", k, i);
    }
    /* Messages of one pair keep their order, empty ones among them. */
    size_t n = 0;
    for (int k = 0; k < N_SMALL; k++)
        for (int i = 0; i < N; i++)
            if (i != p->self) {
                sends[n] = (transport_message){i, out + k, (size_t)(k % 3)};
                receives[n++] =
                    (transport_message){i, in + (size_t)i * BIG + 2 * k, (size_t)(k % 3)};
            }
    for (int k = 0; k < N_SMALL; k++)
        out[k] = (unsigned char)k;
    if (!p->status)
        p->status = transport_exchange(p->t, sends, n, receives, n);
    for (int i = 0; i < N && !p->status; i++)
        for (int k = 0; k < N_SMALL && i != p->self; k++)
            if (k % 3 && in[(size_t)i * BIG + 2 * k] != (unsigned char)k)
                p->status = VTRN_ERROR(VTRN_INTERNAL, "message %d of process %d", k, i);
    free(out);
    free(in);
}

static void all_exchange_at_once_and_in_order(void **state) {
    (void)state;
    process all[N];
    run(all, N, 0, send_much);
    for (int i = 0; i < N; i++)
        ok(all[i].status);
}

/* Both send more than sockets buffer before either asks for anything; then an exchange, then keys
 * in another order than they were sent in. */
static void send_by_key(process *p) {
    const int other = 1 - p->self;
    char *out = malloc(BIG), *in = malloc(BIG), small = (char)(5 + p->self), got = 0;
    bool has_come = true;
    memset(out, 60 + p->self, BIG);
    transport_message big = {other, out, BIG}, one = {other, &small, 1}, back = {other, &got, 1};
    transport_message take_big = {other, in, BIG};
    p->status = transport_try_receive(p->t, &take_big, 9, &has_come);
    if (!p->status && has_come)
        p->status = VTRN_ERROR(VTRN_INTERNAL, "no key 9 was sent");
    if (!p->status)
        p->status = transport_send(p->t, &big, 7);
    if (!p->status)
        p->status = transport_send(p->t, &one, 8);
    if (!p->status)
        p->status = transport_exchange(p->t, &one, 1, &back, 1);
    if (!p->status && got != 5 + other)
        p->status = VTRN_ERROR(VTRN_INTERNAL, "the exchange gave %d", got);
    for (uint64_t key = 8; key >= 7 && !p->status; key--)
        do {
            p->status = transport_try_receive(p->t, key == 8 ? &back : &take_big, key, &has_come);
        } while (!p->status && !has_come);
    if (!p->status && (got != 5 + other || in[0] != 60 + other || in[BIG - 1] != 60 + other))
        p->status = VTRN_ERROR(VTRN_INTERNAL, "other bytes than were sent");
    free(out);
    free(in);
}

static void keyed_messages_wait_until_they_are_asked_for(void **state) {
    (void)state;
    process all[2];
    run(all, 2, 0, send_by_key);
    ok(all[0].status);
    ok(all[1].status);
}

/* Process 1 ends; the others wait for it, then try again. */
/* The last process sends and ends; the first one looks only later, and the second exchanges with
 * the first meanwhile, which needs nothing of the last. */
static void send_and_end(process *p) {
    struct timespec later = {0, 100000000};
    int number = 7, got = 0;
    bool has_come = false;
    if (p->self == N - 1) {
        p->status = transport_send(p->t, &(transport_message){0, &number, sizeof number}, 5);
        return;
    }
    nanosleep(&later, NULL);
    if (p->self == 1)
        p->status = transport_send(p->t, &(transport_message){0, &number, sizeof number}, 6);
    for (uint64_t key = 6; p->self == 0 && key >= 5 && !p->status; key--) {
        transport_message m = {key == 5 ? N - 1 : 1, &got, sizeof got};
        do
            p->status = transport_try_receive(p->t, &m, key, &has_come);
        while (!p->status && !has_come);
        if (!p->status && got != number)
            p->status = VTRN_ERROR(VTRN_INTERNAL, "%d came, not %d", got, number);
        got = 0;
    }
    if (!p->status && p->self == 0) { /* it has ended, and that is told now */
        transport_message m = {N - 1, &got, sizeof got};
        p->status = transport_try_receive(p->t, &m, 9, &has_come);
        if (!p->status || vtrn_status_category(p->status) != VTRN_UNAVAILABLE)
            p->status = VTRN_ERROR(VTRN_INTERNAL, "an ended process was not told");
        else {
            vtrn_status_free(p->status);
            p->status = NULL;
        }
    }
}

static void a_message_arrives_though_its_sender_has_ended(void **state) {
    (void)state;
    process all[N];
    run(all, N, 0, send_and_end);
    for (int i = 0; i < N; i++)
        ok(all[i].status);
}

static void lose_one(process *p) {
    char byte = 0;
    transport_message m = {1, &byte, 1};
    if (p->self == 1)
        return;
    p->status = transport_exchange(p->t, NULL, 0, &m, 1);
    if (!transport_is_missing(p->t, 1) || transport_is_missing(p->t, p->self))
        fail_msg("process 1 is missing");
    m.process_i = p->self ? 0 : 2;
    vtrn_status again = transport_exchange(p->t, &m, 1, NULL, 0);
    if (!again || !strstr(vtrn_status_text(again), "no longer connected"))
        fail_msg("%s", vtrn_status_text(again));
    vtrn_status_free(again);
}

static void one_that_has_ended_is_named(void **state) {
    (void)state;
    process all[N];
    run(all, N, 0, lose_one);
    ok(all[1].status);
    for (int i = 0; i < N; i += 2)
        fails(&all[i], "process 1 (pid ");
    assert_true(transport_has_lost_processes());
}

/* Process 0 waits for 1, which waits for 2, which sends nothing: 0 learns why 1 gave up, if 1 was
 * sooner. */
static void wait_in_a_row(process *p) {
    char byte = 0;
    transport_message m = {p->self + 1, &byte, 1};
    struct timespec longer = {3, 0};
    if (p->self + 1 < p->n)
        p->status = transport_exchange(p->t, NULL, 0, &m, 1);
    else
        nanosleep(&longer, NULL);
}

static void one_that_shows_nothing_is_named(void **state) {
    (void)state;
    process all[N];
    setenv("VTRN_WATCHDOG_SECONDS", "1", 1);
    run(all, N, 0, wait_in_a_row);
    fails(&all[1], "process 2 (pid ");
    fails(&all[0], "1 (pid ");
    ok(all[2].status);
    unsetenv("VTRN_WATCHDOG_SECONDS");
}

/* What one sends is longer than what the other takes. */
static void differ(process *p) {
    char bytes[8] = {0};
    transport_message m = {1 - p->self, bytes, p->self ? 8 : 4};
    p->status = transport_exchange(p->t, &m, 1, &m, 1);
}

static void messages_of_other_sizes_are_refused(void **state) {
    (void)state;
    process all[2];
    run(all, 2, 0, differ);
    fails(&all[0], "process 1 (pid ");
    fails(&all[1], "process 0 (pid ");
}

static void one_that_does_not_come_is_named(void **state) {
    (void)state;
    process all[N];
    setenv("VTRN_WATCHDOG_SECONDS", "1", 1);
    run(all, N, 1, send_much);
    for (int i = 0; i < N - 1; i++)
        fails(&all[i], "process 2 did not open its NeuronCores within 1 s");
    unsetenv("VTRN_WATCHDOG_SECONDS");
}

static void bad_options_are_refused(void **state) {
    (void)state;
    static const char *const roots[] = {"here", ":1", "localhost:0", "localhost:70000"};
    transport *t;
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++) {
        process p = {
            .status = transport_open(
                &(transport_options){.process_i = 1, .n_processes = 2, .root = roots[i]}, &t)};
        fails(&p, "NEURON_RT_ROOT_COMM_ID");
    }
    process p = {.status =
                     transport_open(&(transport_options){.process_i = 2, .n_processes = 2}, &t)};
    fails(&p, "process 2 of 2");
    setenv("VTRN_WATCHDOG_SECONDS", "soon", 1);
    p.status = transport_open(&(transport_options){.n_processes = 2, .root = "localhost:1"}, &t);
    fails(&p, "VTRN_WATCHDOG_SECONDS: 'soon'");
    unsetenv("VTRN_WATCHDOG_SECONDS");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_exchange_at_once_and_in_order),
        cmocka_unit_test(keyed_messages_wait_until_they_are_asked_for),
        cmocka_unit_test(a_message_arrives_though_its_sender_has_ended),
        cmocka_unit_test(one_that_has_ended_is_named),
        cmocka_unit_test(one_that_shows_nothing_is_named),
        cmocka_unit_test(messages_of_other_sizes_are_refused),
        cmocka_unit_test(one_that_does_not_come_is_named),
        cmocka_unit_test(bad_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
