/* MPI, found when the process runs and by nobody before: streams of bytes between the processes of
 * its world, no more. Three ABIs: Open MPI's, MPICH's, and that of MPI 5.0. */
#include "transport/links.h"

#include "base/process.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    CHUNK_BYTES = 1 << 18, /* that one message of MPI carries */
    TAG = 4711,
    STATUS_BYTES = 256, /* at least those of MPI_Status in any ABI */
    WAIT_NS = 20000,
    CLOSE_MS = 1000,
};

/* A handle is a pointer, or an int in MPICH's ABI. */
typedef void *handle;
#define AS_INT(h) ((int)(intptr_t)(h))

typedef int (*isend_ptr)(const void *, int, handle, int, int, handle, void *);
typedef int (*isend_int)(const void *, int, int, int, int, int, void *);
typedef int (*recv_ptr)(void *, int, handle, int, int, handle, void *);
typedef int (*recv_int)(void *, int, int, int, int, int, void *);
typedef int (*iprobe_ptr)(int, int, handle, int *, void *);
typedef int (*iprobe_int)(int, int, int, int *, void *);
typedef int (*count_ptr)(const void *, handle, int *);
typedef int (*count_int)(const void *, int, int *);
typedef int (*comm_ptr)(handle, int *);
typedef int (*comm_int)(int, int *);

/* The library, loaded once a process. */
static struct mpi {
    void *library;
    const char *name;
    bool has_int_handles, is_ours; /* we initialised it, so we finalise it */
    handle world, byte;
    int serialized; /* MPI_THREAD_SERIALIZED */
    int (*init_thread)(int *, char ***, int, int *);
    int (*initialized)(int *);
    int (*finalized)(int *);
    int (*query_thread)(int *);
    int (*finalize)(void);
    int (*test)(void *request, int *flag, void *status);
    void *isend, *recv, *iprobe, *get_count, *comm_rank, *comm_size;
} mpi;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* To one process. */
struct mpi_stream {
    int rank;
    bool is_sending;
    void *request; /* as large as a handle of any ABI */
    uint8_t out[CHUNK_BYTES], in[CHUNK_BYTES];
    size_t n_in, at; /* bytes of `in`, and how many were read */
};

/* --- the library -------------------------------------------------------------------------------
 */

static const char *variable(const char *name) {
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

/* Under Open MPI's launcher only its own library knows the other processes; so for the others.
 * libmpich.so.12 is Debian's name of MPICH's. */
static vtrn_status load(void) {
    static const char *const abi[] = {"libmpi_abi.so.1", "libmpi_abi.so.0", "libmpi.so.12",
                                      "libmpich.so.12",  "libmpi.so.40",    NULL},
                             *const open_mpi[] = {"libmpi.so.40", NULL};
    const char *given[] = {variable("VTRN_MPI_LIBRARY"), NULL};
    const char *const *names = given[0] ? given : variable("OMPI_COMM_WORLD_SIZE") ? open_mpi : abi;
    for (; *names && !mpi.library; names++) {
        mpi.library = dlopen(*names, RTLD_NOW | RTLD_GLOBAL);
        mpi.name = *names;
    }
    if (mpi.library)
        return NULL;
    return VTRN_ERROR(VTRN_RESOURCE,
                      "VTRN_TRANSPORT=mpi: %s; install MPI (Open MPI, MPICH), give its library in "
                      "VTRN_MPI_LIBRARY, or leave VTRN_TRANSPORT out: sockets need none",
                      dlerror());
}

static vtrn_status find(const char *name, void *to) {
    void *symbol = dlsym(mpi.library, name);
    memcpy(to, &symbol, sizeof symbol);
    return symbol
               ? NULL
               : VTRN_ERROR(VTRN_RESOURCE, "%s has no %s; give MPI's library in VTRN_MPI_LIBRARY",
                            mpi.name, name);
}

static vtrn_status find_all(void) {
    const struct {
        const char *name;
        void *to;
    } all[] = {{"MPI_Init_thread", &mpi.init_thread},
               {"MPI_Initialized", &mpi.initialized},
               {"MPI_Finalized", &mpi.finalized},
               {"MPI_Query_thread", &mpi.query_thread},
               {"MPI_Finalize", &mpi.finalize},
               {"MPI_Test", &mpi.test},
               {"MPI_Isend", &mpi.isend},
               {"MPI_Recv", &mpi.recv},
               {"MPI_Iprobe", &mpi.iprobe},
               {"MPI_Get_count", &mpi.get_count},
               {"MPI_Comm_rank", &mpi.comm_rank},
               {"MPI_Comm_size", &mpi.comm_size}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        VTRN_RETURN_IF_ERROR(find(all[i].name, all[i].to));
    return NULL;
}

/* Handles and thread levels. Sources: mpi.h of Open MPI and of MPICH; MPI 5.0, "Application Binary
 * Interface". */
static void choose_abi(void) {
    enum { MPICH_WORLD = 0x44000000, MPICH_BYTE = 0x4c00010d, ABI_WORLD = 0x101, ABI_BYTE = 0x247 };
    mpi.world = dlsym(mpi.library, "ompi_mpi_comm_world");
    mpi.byte = dlsym(mpi.library, "ompi_mpi_byte");
    mpi.serialized = 2;
    if (mpi.world && mpi.byte)
        return;
    mpi.has_int_handles = !strstr(mpi.name, "mpi_abi");
    mpi.world = (handle)(intptr_t)(mpi.has_int_handles ? MPICH_WORLD : ABI_WORLD);
    mpi.byte = (handle)(intptr_t)(mpi.has_int_handles ? MPICH_BYTE : ABI_BYTE);
    if (!mpi.has_int_handles)
        mpi.serialized = 2048;
}

/* At the end of the process. With lost processes MPI would wait for them: its launcher ends all. */
static void finalise(void) {
    int is_over = 1;
    if (!transport_has_lost_processes() && !mpi.finalized(&is_over) && !is_over)
        mpi.finalize();
}

static vtrn_status initialise(void) {
    int is_there = 0, level = 0;
    mpi.initialized(&is_there);
    if (is_there) {
        mpi.query_thread(&level);
    } else {
        if (mpi.init_thread(NULL, NULL, mpi.serialized, &level))
            return VTRN_ERROR(VTRN_RESOURCE,
                              "%s: MPI_Init_thread failed; start all processes with "
                              "its mpirun",
                              mpi.name);
        mpi.is_ours = true;
        atexit(finalise);
    }
    if (level >= mpi.serialized)
        return NULL;
    return VTRN_ERROR(
        VTRN_UNSUPPORTED,
        "%s allows calls from its first thread only, and programs run on any: have it "
        "initialised with MPI_THREAD_SERIALIZED, or leave VTRN_TRANSPORT=mpi out",
        mpi.name);
}

static vtrn_status open_library(void) {
    if (mpi.init_thread)
        return NULL;
    VTRN_RETURN_IF_ERROR(load());
    vtrn_status status = find_all();
    if (status) {
        dlclose(mpi.library);
        mpi = (struct mpi){0};
        return status;
    }
    choose_abi();
    return initialise();
}

/* --- streams -----------------------------------------------------------------------------------
 */

static int comm_number(void *function) {
    int n = -1;
    if (mpi.has_int_handles)
        ((comm_int)function)(AS_INT(mpi.world), &n);
    else
        ((comm_ptr)function)(mpi.world, &n);
    return n;
}

static bool is_sending(struct mpi_stream *s) {
    uint8_t status[STATUS_BYTES];
    int is_done = 0;
    if (s->is_sending && !mpi.test(&s->request, &is_done, status) && is_done)
        s->is_sending = false;
    return s->is_sending;
}

static int64_t mpi_write(peer_link *k, const struct iovec *parts, int n_parts) {
    struct mpi_stream *s = k->mpi;
    size_t n = 0;
    if (is_sending(s))
        return 0;
    for (int i = 0; i < n_parts; i++) {
        size_t room = CHUNK_BYTES - n, size = parts[i].iov_len;
        size = size < room ? size : room;
        if (size)
            memcpy(s->out + n, parts[i].iov_base, size);
        n += size;
    }
    if (!n) /* an empty body needs no message */
        return 0;
    int failed = mpi.has_int_handles
                     ? ((isend_int)mpi.isend)(s->out, (int)n, AS_INT(mpi.byte), s->rank, TAG,
                                              AS_INT(mpi.world), &s->request)
                     : ((isend_ptr)mpi.isend)(s->out, (int)n, mpi.byte, s->rank, TAG, mpi.world,
                                              &s->request);
    s->is_sending = !failed;
    return failed ? -1 : (int64_t)n;
}

/* The next chunk, if one has arrived. */
static bool take_chunk(struct mpi_stream *s) {
    uint8_t status[STATUS_BYTES] = {0};
    int is_there = 0, n = 0;
    handle w = mpi.world, b = mpi.byte;
    if (mpi.has_int_handles ? ((iprobe_int)mpi.iprobe)(s->rank, TAG, AS_INT(w), &is_there, status)
                            : ((iprobe_ptr)mpi.iprobe)(s->rank, TAG, w, &is_there, status))
        return false;
    s->n_in = s->at = 0;
    if (!is_there)
        return true;
    int failed = mpi.has_int_handles
                     ? ((recv_int)mpi.recv)(s->in, CHUNK_BYTES, AS_INT(b), s->rank, TAG, AS_INT(w),
                                            status) ||
                           ((count_int)mpi.get_count)(status, AS_INT(b), &n)
                     : ((recv_ptr)mpi.recv)(s->in, CHUNK_BYTES, b, s->rank, TAG, w, status) ||
                           ((count_ptr)mpi.get_count)(status, b, &n);
    s->n_in = failed || n < 0 ? 0 : (size_t)n;
    return !failed;
}

static int64_t mpi_read(peer_link *k, void *to, size_t room) {
    struct mpi_stream *s = k->mpi;
    is_sending(s); /* goes on with what is sent */
    if (s->at == s->n_in && !take_chunk(s))
        return -1;
    size_t n = s->n_in - s->at < room ? s->n_in - s->at : room;
    memcpy(to, s->in + s->at, n);
    s->at += n;
    return (int64_t)n;
}

static void mpi_wait(struct pollfd *polled, int n) {
    struct timespec moment = {0, WAIT_NS};
    (void)polled;
    (void)n;
    nanosleep(&moment, NULL);
}

static void mpi_end(peer_link *k) {
    is_sending(k->mpi);
}

static void mpi_close(peer_link *k) {
    struct timespec pause = {0, 1000000};
    int is_over = 0;
    mpi.finalized(&is_over);
    for (int i = 0; i < CLOSE_MS && !is_over && is_sending(k->mpi); i++)
        nanosleep(&pause, NULL);
    if (is_over || !k->mpi->is_sending) /* else MPI still reads it */
        free(k->mpi);
}

const link_kind mpi_kind = {mpi_write, mpi_read, mpi_wait, mpi_end, mpi_close};

/* --- connections -------------------------------------------------------------------------------
 */

/* What processes tell each other first. */
typedef struct mpi_card {
    char name[TRANSPORT_TEXT], host[128];
} mpi_card;

static vtrn_status make_streams(transport *t) {
    for (int i = 0; i < t->n; i++) {
        snprintf(t->links[i].name, sizeof t->links[i].name, "process %d", i);
        if (i == t->process_i)
            continue;
        t->links[i].mpi = calloc(1, sizeof *t->links[i].mpi);
        if (!t->links[i].mpi)
            return VTRN_OUT_OF_MEMORY(sizeof *t->links[i].mpi);
        t->links[i].mpi->rank = i;
    }
    return NULL;
}

static vtrn_status share_names(transport *t) {
    const size_t n = (size_t)t->n;
    mpi_card *cards = calloc(n, sizeof *cards);
    transport_message *messages = calloc(2 * n, sizeof *messages);
    vtrn_status status =
        cards && messages ? NULL : VTRN_OUT_OF_MEMORY(n * (sizeof *cards + sizeof *messages));
    if (!status) {
        mpi_card *own = &cards[t->process_i];
        if (gethostname(own->host, sizeof own->host - 1) || !own->host[0])
            snprintf(own->host, sizeof own->host, "localhost");
        snprintf(own->name, sizeof own->name, "process %d (pid %d on %.100s)", t->process_i,
                 (int)getpid(), own->host);
        size_t k = 0;
        for (int i = 0; i < t->n; i++) {
            if (i == t->process_i)
                continue;
            messages[k] = (transport_message){i, own, sizeof *own};
            messages[n + k++] = (transport_message){i, &cards[i], sizeof *cards};
        }
        status = transport_exchange(t, messages, k, messages + n, k);
    }
    for (int i = 0; i < t->n && !status; i++) {
        memcpy(t->links[i].name, cards[i].name, sizeof cards[i].name - 1);
        memcpy(t->links[i].host, cards[i].host, sizeof cards[i].host - 1);
    }
    free(cards);
    free(messages);
    return status;
}

vtrn_status mpi_connect(transport *t) {
    pthread_mutex_lock(&lock);
    vtrn_status status = open_library();
    pthread_mutex_unlock(&lock);
    VTRN_RETURN_IF_ERROR(status);
    int rank = comm_number(mpi.comm_rank), size = comm_number(mpi.comm_size);
    if (rank != t->process_i || size != t->n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "process %d of %d is rank %d of %d of MPI (%s): start as many processes "
                          "with its mpirun, and number them alike",
                          t->process_i, t->n, rank, size, mpi.name);
    VTRN_RETURN_IF_ERROR(make_streams(t));
    return share_names(t);
}
