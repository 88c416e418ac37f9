#include "base/process.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { ASK_INTERVAL_NS = 20000000 };

static atomic_uint n_forks;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void count_fork(void) {
    atomic_fetch_add(&n_forks, 1);
}

static void watch_forks(void) {
    pthread_atfork(NULL, NULL, count_fork);
}

uint32_t process_n_forks(void) {
    pthread_once(&once, watch_forks);
    return atomic_load(&n_forks);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    bool (*is_asked)(void *ctx);
    void (*has_stopped)(void *ctx);
    void *ctx;
} current;
static _Atomic int64_t next_ask_ns;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void process_set_interrupt(bool (*is_asked)(void *ctx), void (*has_stopped)(void *ctx), void *ctx) {
    pthread_mutex_lock(&lock);
    current.is_asked = is_asked;
    current.has_stopped = has_stopped;
    current.ctx = ctx;
    pthread_mutex_unlock(&lock);
    atomic_store(&next_ask_ns, 0);
}

bool process_is_interrupted(void) {
    int64_t now = now_ns();
    if (now < atomic_load_explicit(&next_ask_ns, memory_order_relaxed))
        return false;
    atomic_store(&next_ask_ns, now + ASK_INTERVAL_NS);
    pthread_mutex_lock(&lock);
    bool (*is_asked)(void *) = current.is_asked;
    void *ctx = current.ctx;
    pthread_mutex_unlock(&lock);
    return is_asked && is_asked(ctx);
}

void process_has_stopped(void) {
    pthread_mutex_lock(&lock);
    void (*has_stopped)(void *) = current.has_stopped;
    void *ctx = current.ctx;
    pthread_mutex_unlock(&lock);
    if (has_stopped)
        has_stopped(ctx);
}
