#include "runtime/peers.h"
#include "base/array.h"

#include "base/hash.h"
#include "runtime/ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 64, MAX_TEXT_BYTES = 1 << 16 };

typedef struct messages {
    transport_message *list;
    uint32_t n, max;
} messages;

/* The operands of a rank elsewhere. */
typedef struct copy {
    uint8_t *bytes;
    size_t size;
    uint64_t *slot_base; /* [n_slots] */
} copy;

struct runtime_peers {
    runtime_program *l;
    const runtime_call *calls;
    transport *t;
    uint32_t n; /* ranks */
    int self, n_processes;
    int *process_of;   /* [n] */
    uint32_t *n_ranks; /* [n_processes] of the execution; 0: the process has no part in it */
    uint8_t *receives; /* [n_processes] scratch */
    copy *copies;      /* [n] */
    messages out, in;
};

/* --- messages ----------------------------------------------------------------------------------
 */

static vtrn_status add(messages *m, int process_i, void *bytes, size_t size) {
    if (!array_grow((void **)&m->list, m->n, &m->max, sizeof *m->list))
        return VTRN_OUT_OF_MEMORY((m->n + 1) * sizeof *m->list);
    m->list[m->n++] = (transport_message){process_i, bytes, size};
    return NULL;
}

static bool is_peer(const runtime_peers *p, int process_i) {
    return process_i != p->self && p->n_ranks[process_i] > 0;
}

static vtrn_status deliver(runtime_peers *p) {
    vtrn_status status = transport_exchange(p->t, p->out.list, p->out.n, p->in.list, p->in.n);
    p->out.n = p->in.n = 0;
    return status;
}

/* The same number of bytes from and to each; all[n_processes][size], of which this process has
 * filled in its own. */
static vtrn_status share(runtime_peers *p, void *all, size_t size) {
    char *bytes = all;
    for (int i = 0; i < p->n_processes; i++) {
        if (!is_peer(p, i))
            continue;
        VTRN_RETURN_IF_ERROR(add(&p->out, i, bytes + (size_t)p->self * size, size));
        VTRN_RETURN_IF_ERROR(add(&p->in, i, bytes + (size_t)i * size, size));
    }
    return deliver(p);
}

/* What went wrong in a process: a text follows. */
typedef struct failure {
    uint32_t category, rank, size; /* of the text; size 0: nothing went wrong */
} failure;

static failure failure_of(vtrn_status status, uint32_t rank) {
    size_t size = status ? strlen(vtrn_status_message(status)) : 0;
    return (failure){(uint32_t)vtrn_status_category(status), rank,
                     (uint32_t)(size < MAX_TEXT_BYTES ? size : MAX_TEXT_BYTES)};
}

static vtrn_status make_failure(const runtime_peers *p, int process_i, failure f,
                                const char *text) {
    vtrn_category category = (vtrn_category)f.category;
    if (category == VTRN_INTERRUPTED) /* of that process; this one has had no signal */
        category = VTRN_UNAVAILABLE;
    return vtrn_status_annotate(VTRN_ERROR(category, "%.*s", (int)f.size, text), "%s",
                                transport_name(p->t, process_i));
}

/* The failure of the lowest rank, in all processes; own is consumed. all[n_processes]. */
static vtrn_status agree(runtime_peers *p, const failure *all, vtrn_status own) {
    char **texts = calloc((size_t)p->n_processes, sizeof *texts);
    vtrn_status status = texts ? NULL : VTRN_OUT_OF_MEMORY((size_t)p->n_processes * sizeof *texts);
    int first = -1;
    for (int i = 0; i < p->n_processes && !status; i++) {
        const failure *f = &all[i];
        bool takes_part = i == p->self || is_peer(p, i);
        if (!takes_part || !f->size)
            continue;
        if (first < 0 || f->rank < all[first].rank)
            first = i;
        for (int k = 0; i == p->self && k < p->n_processes && !status; k++)
            if (is_peer(p, k))
                status = add(&p->out, k, (char *)vtrn_status_message(own), f->size);
        if (i == p->self)
            continue;
        texts[i] = calloc((size_t)f->size + 1, 1);
        status = texts[i] ? add(&p->in, i, texts[i], f->size) : VTRN_OUT_OF_MEMORY(f->size);
    }
    if (!status && first >= 0)
        status = deliver(p);
    if (!status && first >= 0 && first != p->self)
        status = make_failure(p, first, all[first], texts[first]);
    for (int i = 0; texts && i < p->n_processes; i++)
        free(texts[i]);
    free(texts);
    if (!status)
        return own;
    vtrn_status_free(own);
    return status;
}

/* --- begin and end -----------------------------------------------------------------------------
 */

bool peers_are_needed(const runtime_program *l, const runtime_call *calls, uint32_t n) {
    if (!l->device->transport || !l->groups)
        return false;
    for (uint32_t r = 0; r < n; r++)
        if (runtime_core_is_remote(l->device, calls[r].core_i))
            return true;
    return false;
}

/* What must be the same in all processes. */
typedef struct hello {
    uint64_t fingerprint, cores;
    uint32_t n_ranks, is_timed, has_values;
    failure own;
    char name[NAME_BYTES];
} hello;

static hello hello_of(const runtime_peers *p, vtrn_status own) {
    const runtime_device *d = p->l->device;
    hello h = {.fingerprint = program_fingerprint(p->l->program),
               .cores = HASH_START,
               .n_ranks = p->n,
               .is_timed = d->is_timed,
               .has_values = d->has_values};
    uint32_t first = 0;
    for (uint32_t r = 0; r < p->n; r++)
        h.cores = hash_bytes(h.cores, &p->calls[r].core_i, sizeof p->calls[r].core_i);
    while (p->process_of[first] != p->self)
        first++;
    h.own = failure_of(own, first);
    snprintf(h.name, sizeof h.name, "%s", p->l->program->name ? p->l->program->name : "");
    return h;
}

static const char *on_or_off(uint32_t is_on) {
    return is_on ? "on" : "off";
}

static vtrn_status compare(const runtime_peers *p, const hello *all, int i) {
    const hello *a = &all[p->self], *b = &all[i];
    const char *who = transport_name(p->t, i), *self = transport_name(p->t, p->self);
    if (a->fingerprint != b->fingerprint || a->n_ranks != b->n_ranks)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "the programs of processes differ: %s runs %s (%016llx), %s runs %.63s "
                          "(%016llx); let all run the same programs in the same order, traced "
                          "with the same shapes and constants",
                          self, a->name, (unsigned long long)a->fingerprint, who, b->name,
                          (unsigned long long)b->fingerprint);
    if (a->cores != b->cores)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "%s: %s and %s place its ranks on other NeuronCores; let the order of "
                          "devices in the mesh be the same",
                          a->name, self, who);
    if (a->is_timed != b->is_timed || a->has_values != b->has_values)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "VTRN_TIMING is %s and VTRN_VALUES %s in %s, %s and %s in %s; let them "
                          "be the same",
                          on_or_off(a->is_timed), on_or_off(a->has_values), self,
                          on_or_off(b->is_timed), on_or_off(b->has_values), who);
    return NULL;
}

static vtrn_status greet(runtime_peers *p, vtrn_status own) {
    hello *all = calloc((size_t)p->n_processes, sizeof *all);
    failure *failures = calloc((size_t)p->n_processes, sizeof *failures);
    vtrn_status status = NULL;
    if (!all || !failures) {
        status = VTRN_OUT_OF_MEMORY((size_t)p->n_processes * sizeof *all);
    } else {
        all[p->self] = hello_of(p, own);
        status = share(p, all, sizeof *all);
    }
    for (int i = 0; i < p->n_processes && !status; i++)
        failures[i] = all[i].own;
    if (status)
        vtrn_status_free(own);
    else
        status = agree(p, failures, own);
    for (int i = 0; i < p->n_processes && !status; i++)
        if (is_peer(p, i))
            status = compare(p, all, i);
    free(all);
    free(failures);
    return status;
}

static vtrn_status describe(runtime_peers *p) {
    const runtime_device *d = p->l->device;
    p->process_of = calloc(p->n, sizeof *p->process_of);
    p->n_ranks = calloc((size_t)p->n_processes, sizeof *p->n_ranks);
    p->receives = calloc((size_t)p->n_processes, 1);
    p->copies = calloc(p->n, sizeof *p->copies);
    if (!p->process_of || !p->n_ranks || !p->receives || !p->copies)
        return VTRN_OUT_OF_MEMORY(p->n * sizeof *p->copies);
    for (uint32_t r = 0; r < p->n; r++) {
        int owner = d->core_process[p->calls[r].core_i];
        if (owner < 0)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "rank %u: core %d belongs to no process", r,
                              p->calls[r].core_i);
        p->process_of[r] = owner;
        p->n_ranks[owner]++;
    }
    if (!p->n_ranks[p->self])
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "program %s runs on NeuronCores of other processes alone",
                          p->l->program->name);
    return NULL;
}

vtrn_status peers_begin(runtime_program *l, const runtime_call *calls, uint32_t n, vtrn_status own,
                        runtime_peers **out) {
    *out = NULL;
    runtime_peers *p = calloc(1, sizeof *p);
    if (!p) {
        vtrn_status_free(own);
        return VTRN_OUT_OF_MEMORY(sizeof *p);
    }
    *p = (runtime_peers){.l = l,
                         .calls = calls,
                         .n = n,
                         .t = l->device->transport,
                         .self = transport_process_i(l->device->transport),
                         .n_processes = transport_n_processes(l->device->transport)};
    vtrn_status status = describe(p);
    if (status)
        vtrn_status_free(own);
    else
        status = greet(p, own);
    if (status) {
        status = vtrn_status_annotate(status, "the start of %s", l->program->name);
        peers_end(p);
        return status;
    }
    *out = p;
    return NULL;
}

void peers_end(runtime_peers *p) {
    if (!p)
        return;
    for (uint32_t r = 0; p->copies && r < p->n; r++) {
        free(p->copies[r].bytes);
        free(p->copies[r].slot_base);
    }
    free(p->copies);
    free(p->process_of);
    free(p->n_ranks);
    free(p->receives);
    free(p->out.list);
    free(p->in.list);
    free(p);
}

bool peers_lack(const runtime_peers *p, uint32_t rank) {
    int i = p->process_of[rank];
    return i != p->self && transport_is_missing(p->t, i);
}

const char *peers_process_of(const runtime_peers *p, uint32_t rank) {
    return transport_name(p->t, p->process_of[rank]);
}

/* --- rounds ------------------------------------------------------------------------------------
 */

vtrn_status peers_share_places(runtime_peers *p, uint32_t *places, vtrn_status own,
                               uint32_t own_rank) {
    const size_t size = sizeof(failure) / sizeof(uint32_t) + p->n;
    uint32_t *all = calloc((size_t)p->n_processes * size, sizeof *all);
    failure *failures = calloc((size_t)p->n_processes, sizeof *failures);
    vtrn_status status = NULL;
    if (!all || !failures)
        status = VTRN_OUT_OF_MEMORY((size_t)p->n_processes * size * sizeof *all);
    if (!status) {
        failures[p->self] = failure_of(own, own_rank);
        memcpy(all + (size_t)p->self * size, &failures[p->self], sizeof(failure));
        memcpy(all + (size_t)p->self * size + (size - p->n), places, p->n * sizeof *places);
        status = share(p, all, size * sizeof *all);
    }
    for (int i = 0; i < p->n_processes && !status; i++)
        memcpy(&failures[i], all + (size_t)i * size, sizeof(failure));
    for (uint32_t r = 0; r < p->n && !status; r++)
        places[r] = all[(size_t)p->process_of[r] * size + (size - p->n) + r];
    if (status)
        vtrn_status_free(own);
    else
        status = agree(p, failures, own);
    free(all);
    free(failures);
    return status;
}

/* Room for the operands of a rank elsewhere. */
static vtrn_status make_copy(runtime_peers *p, const vtrn_custom *custom, copy *c) {
    const vtrn_program *program = p->l->program;
    enum { ALIGN = 64 };
    size_t size = 0;
    if (!c->slot_base)
        c->slot_base = calloc((size_t)program->n_slots + 1, sizeof *c->slot_base);
    if (!c->slot_base)
        return VTRN_OUT_OF_MEMORY(program->n_slots * sizeof *c->slot_base);
    for (uint32_t i = 0; i < custom->n_inputs; i++) {
        c->slot_base[custom->slots[i]] = size;
        size += (program->slots[custom->slots[i]].size_bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    if (size <= c->size)
        return NULL;
    free(c->bytes);
    c->size = 0;
    c->bytes = malloc(size + 1);
    if (!c->bytes)
        return VTRN_OUT_OF_MEMORY(size);
    c->size = size;
    return NULL;
}

/* What the rank sends in the exchange, to every process that receives. */
static vtrn_status list_operands(runtime_peers *p, const engine_exchange *x, uint32_t rank,
                                 engine_member *members) {
    const vtrn_custom *custom = &x->program->customs[x->custom_i];
    const int owner = p->process_of[rank];
    engine_member *m = &members[rank];
    if (owner != p->self && p->receives[p->self]) {
        VTRN_RETURN_IF_ERROR(make_copy(p, custom, &p->copies[rank]));
        m->hbm = p->copies[rank].bytes;
        m->slot_base = p->copies[rank].slot_base;
    }
    for (uint32_t i = 0; i < custom->n_inputs; i++) {
        uint32_t slot = custom->slots[i];
        size_t size = x->program->slots[slot].size_bytes;
        if (owner != p->self && p->receives[p->self])
            VTRN_RETURN_IF_ERROR(add(&p->in, owner, m->hbm + m->slot_base[slot], size));
        for (int k = 0; owner == p->self && k < p->n_processes; k++)
            if (k != p->self && p->receives[k])
                VTRN_RETURN_IF_ERROR(add(&p->out, k, m->hbm + m->slot_base[slot], size));
    }
    return NULL;
}

vtrn_status peers_share_operands(runtime_peers *p, const engine_exchange *exchanges, uint32_t n,
                                 engine_member *members) {
    for (uint32_t e = 0; e < n; e++) {
        const engine_exchange *x = &exchanges[e];
        const unsigned kind = x->program->customs[x->custom_i].collective->kind;
        const bool has_one_sender =
            kind == VTRN_COLLECTIVE_PERMUTE || kind == VTRN_COLLECTIVE_BROADCAST;
        if (x->ranks[0] < 0)
            continue;
        memset(p->receives, 0, (size_t)p->n_processes);
        for (uint32_t m = kind == VTRN_COLLECTIVE_PERMUTE; m < x->n; m++)
            p->receives[p->process_of[x->ranks[m]]] = 1;
        for (uint32_t m = 0; m < (has_one_sender ? 1 : x->n); m++)
            VTRN_RETURN_IF_ERROR(list_operands(p, x, (uint32_t)x->ranks[m], members));
    }
    return deliver(p);
}

/* --- traces ------------------------------------------------------------------------------------
 */

typedef struct trace_mark {
    uint64_t hash;
    uint64_t n; /* blocks */
} trace_mark;

static trace_mark mark_of(const engine_run *run) {
    return (trace_mark){
        hash_bytes(HASH_START, run->block_trace, run->n_block_trace * sizeof *run->block_trace),
        run->n_block_trace};
}

static bool is_equal(const trace_mark *a, const trace_mark *b) {
    return a->hash == b->hash && a->n == b->n;
}

static vtrn_status make_room(engine_run *run, uint64_t n) {
    if (n > run->cap_block_trace) {
        uint32_t *grown = realloc(run->block_trace, n * sizeof *grown);
        if (!grown)
            return VTRN_OUT_OF_MEMORY(n * sizeof *grown);
        run->block_trace = grown;
        run->cap_block_trace = (uint32_t)n;
    }
    run->n_block_trace = (uint32_t)n;
    return NULL;
}

/* The lowest rank of the process that ran what the rank did; -1: none. */
static int64_t like(const runtime_peers *p, const trace_mark *marks, uint32_t rank, int process_i) {
    for (uint32_t r = 0; r < p->n; r++)
        if (p->process_of[r] == process_i && is_equal(&marks[r], &marks[rank]))
            return r;
    return -1;
}

/* A trace goes to the processes of which no rank ran the same. */
static vtrn_status list_traces(runtime_peers *p, const trace_mark *marks) {
    for (uint32_t r = 0; r < p->n; r++) {
        engine_run *run = ranks_run_of(p->l, r);
        size_t size = marks[r].n * sizeof *run->block_trace;
        for (int k = 0; p->process_of[r] == p->self && k < p->n_processes; k++)
            if (is_peer(p, k) && like(p, marks, r, k) < 0)
                VTRN_RETURN_IF_ERROR(add(&p->out, k, run->block_trace, size));
        if (p->process_of[r] == p->self)
            continue;
        VTRN_RETURN_IF_ERROR(make_room(run, marks[r].n));
        int64_t same = like(p, marks, r, p->self);
        if (same < 0)
            VTRN_RETURN_IF_ERROR(add(&p->in, p->process_of[r], run->block_trace, size));
        else if (size)
            memcpy(run->block_trace, ranks_run_of(p->l, (uint32_t)same)->block_trace, size);
    }
    return deliver(p);
}

vtrn_status peers_share_traces(runtime_peers *p) {
    trace_mark *all = calloc((size_t)p->n_processes * p->n, sizeof *all);
    trace_mark *marks = calloc(p->n, sizeof *marks);
    vtrn_status status = NULL;
    if (!all || !marks)
        status = VTRN_OUT_OF_MEMORY((size_t)p->n_processes * p->n * sizeof *all);
    for (uint32_t r = 0; r < p->n && !status; r++)
        if (p->process_of[r] == p->self)
            all[(size_t)p->self * p->n + r] = mark_of(ranks_run_of(p->l, r));
    if (!status)
        status = share(p, all, p->n * sizeof *all);
    for (uint32_t r = 0; r < p->n && !status; r++)
        marks[r] = all[(size_t)p->process_of[r] * p->n + r];
    if (!status)
        status = list_traces(p, marks);
    free(all);
    free(marks);
    return status;
}
