/* Orders the list by demand: each instruction is moved down to the first that needs what it makes,
 * with all that it needs itself, so that fewer tiles are in use at once. A kernel that computes one
 * array of tiles in a loop and the next array from it in another one then has each tile of both in
 * turn, as if the loops were one. The vendor's compiler orders instructions before it gives tiles
 * places, too. Source: ACOMP-015 and 016 of bench/accuracy/nki_kernels.csv, whose scores take 32
 * times PSUM, in the time that their own loads and stores take. */
#include "isa/access.h"
#include "nki/nki_session.h"

#include <stdlib.h>

enum {
    N_STATES = 8,     /* bits of access_states */
    MAX_PENDING = 512 /* uses of a record that are looked through; beyond, all count as conflicts */
};

/* Instructions that stay together: a stationary tile and the matmuls that use it, or one. */
typedef struct unit {
    uint32_t at, n;
    bool is_listed;
} unit;

/* Units that name a record or a state, ascending. */
typedef struct uses {
    uint32_t first, n;
    uint32_t done; /* those before are listed */
} uses;

/* A unit whose needs are being listed. */
typedef struct frame {
    uint32_t unit, i, k; /* instruction of the unit, operand or behind them state */
    uint32_t next, seen; /* use that is looked at next, how many are pending before it */
} frame;

typedef struct demand {
    nki_session *s;
    bool delays_loads;
    unit *units;
    uint32_t n_units;
    uint32_t *unit_of; /* [n_list] */
    uses *of;          /* [n_records, then for each core its states] */
    uint32_t *use;
    frame *stack;
    uint32_t n_stack;
    nki_issued *out;
    uint32_t n_out;
} demand;

enum { N_KEYS = VTRN_MAX_AP + N_STATES }; /* what an instruction may name */

/* The states that order the list. That of the PE array does not: units are whole. */
static access_states states_of(const nki_issued *issued) {
    access_states states = access_states_of(&issued->instr);
    states.read &= (uint8_t)~ACCESS_PE_WEIGHTS;
    states.written &= (uint8_t)~ACCESS_PE_WEIGHTS;
    return states;
}

/* What key k of the instruction names, NULL: nothing, or what another key names as well. */
static uses *uses_of(const demand *d, const nki_issued *issued, uint32_t k) {
    if (k >= VTRN_MAX_AP) {
        access_states states = states_of(issued);
        uint32_t bit = k - VTRN_MAX_AP;
        bool is_named = (states.read | states.written) >> bit & 1;
        return is_named ? &d->of[d->s->n_records + issued->core * N_STATES + bit] : NULL;
    }
    for (uint32_t j = 0; j < k; j++)
        if (issued->operand[j] == issued->operand[k])
            return NULL;
    return issued->operand[k] ? &d->of[issued->operand[k]->storage.id] : NULL;
}

/* Whether the order of two instructions matters. */
static bool conflicts(const nki_issued *a, const nki_issued *b) {
    access_states x = states_of(a), y = states_of(b);
    if (a->core == b->core && ((x.written & (y.read | y.written)) || (x.read & y.written)))
        return true;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        for (int k = 0; k < VTRN_MAX_AP; k++) {
            const vtrn_ap *p = &a->instr.ap[i], *q = &b->instr.ap[k];
            if (!a->operand[i] || a->operand[i] != b->operand[k] ||
                (!access_is_written(&a->instr, i) && !access_is_written(&b->instr, k)))
                continue;
            bool has_no_row =
                p->space != VTRN_SPACE_HBM && (p->partition + p->n_partitions <= q->partition ||
                                               q->partition + q->n_partitions <= p->partition);
            if (access_is_table(&a->instr, i) || access_is_table(&b->instr, k) ||
                (!has_no_row && isa_ap_meet(p, q)))
                return true;
        }
    return false;
}

static bool needs(const demand *d, const unit *later, const unit *earlier) {
    for (uint32_t i = 0; i < later->n; i++)
        for (uint32_t k = 0; k < earlier->n; k++)
            if (conflicts(&d->s->list[earlier->at + k], &d->s->list[later->at + i]))
                return true;
    return false;
}

/* Whether the instruction stays where it is: it writes HBM, or nothing in memory. */
static bool is_demanded(const demand *d, const nki_issued *issued) {
    bool writes = false, loads = false;
    if (issued->is_exchange)
        return true;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (!issued->operand[i])
            continue;
        bool is_hbm = issued->operand[i]->storage.space == VTRN_SPACE_HBM;
        bool is_written = access_is_written(&issued->instr, i);
        if (is_hbm && is_written)
            return true;
        loads |= is_hbm;
        writes |= is_written;
    }
    return (loads && !d->delays_loads) ||
           (!writes && issued->instr.opcode != VTRN_OP_LDWEIGHTS && !states_of(issued).written);
}

/* False: a matmul does not follow its stationary tile at once. */
static bool find_units(demand *d) {
    for (uint32_t k = 0; k < d->s->n_list; k++) {
        const vtrn_instr *instr = &d->s->list[k].instr;
        bool joins = access_reads_weights(instr);
        if (joins && (!d->n_units || !access_writes_weights(&d->s->list[k - 1].instr)) &&
            (k == 0 || !access_reads_weights(&d->s->list[k - 1].instr)))
            return false;
        if (!joins)
            d->units[d->n_units++] = (unit){.at = k};
        d->units[d->n_units - 1].n++;
        d->unit_of[k] = d->n_units - 1;
    }
    return true;
}

static vtrn_status find_uses(demand *d) {
    size_t n_of = (size_t)d->s->n_records + NKI_MAX_CORES * N_STATES;
    uint32_t n = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t k = 0; k < d->s->n_list; k++)
            for (uint32_t key = 0; key < N_KEYS; key++) {
                uses *of = uses_of(d, &d->s->list[k], key);
                if (!of || (pass && of->n && d->use[of->first + of->n - 1] == d->unit_of[k]))
                    continue;
                if (pass)
                    d->use[of->first + of->n] = d->unit_of[k];
                of->n++;
                n += !pass;
            }
        if (pass)
            break;
        d->use = malloc(((size_t)n + 1) * sizeof *d->use);
        if (!d->use)
            return VTRN_OUT_OF_MEMORY(n * sizeof *d->use);
        uint32_t first = 0;
        for (size_t i = 0; i < n_of; i++) {
            d->of[i].first = first;
            first += d->of[i].n;
            d->of[i].n = 0;
        }
    }
    return NULL;
}

/* The next unit that has to be listed before the frame's, and is not; false: there is none. */
static bool next_need(const demand *d, frame *f, uint32_t *out) {
    const unit *later = &d->units[f->unit];
    for (; f->i < later->n; f->i++, f->k = 0)
        for (; f->k < N_KEYS; f->k++, f->next = 0, f->seen = 0) {
            uses *of = uses_of(d, &d->s->list[later->at + f->i], f->k);
            if (!of)
                continue;
            while (of->done < of->n && d->units[d->use[of->first + of->done]].is_listed)
                of->done++;
            for (f->next = f->next < of->done ? of->done : f->next;
                 f->next < of->n && d->use[of->first + f->next] < f->unit; f->next++) {
                uint32_t earlier = d->use[of->first + f->next];
                if (d->units[earlier].is_listed)
                    continue;
                if (f->seen++ < MAX_PENDING && !needs(d, later, &d->units[earlier]))
                    continue;
                *out = earlier;
                return true;
            }
        }
    return false;
}

/* Lists the unit behind all that it needs. */
static void list_unit(demand *d, uint32_t u) {
    d->stack[d->n_stack++] = (frame){.unit = u};
    while (d->n_stack) {
        frame *f = &d->stack[d->n_stack - 1];
        uint32_t need;
        if (next_need(d, f, &need)) {
            d->stack[d->n_stack++] = (frame){.unit = need};
            continue;
        }
        unit *done = &d->units[f->unit];
        done->is_listed = true;
        for (uint32_t i = 0; i < done->n; i++)
            d->out[d->n_out++] = d->s->list[done->at + i];
        d->n_stack--;
    }
}

static void list_all(demand *d) {
    const nki_session *s = d->s;
    uint32_t meet = 0, waiting = 0; /* units before are listed */
    for (uint32_t u = 0; u <= d->n_units; u++) {
        uint32_t at = u < d->n_units ? d->units[u].at : s->n_list;
        bool is_met = u == d->n_units;
        for (; meet < s->n_meets && s->meets[meet].at <= at; meet++)
            is_met = true;
        for (; waiting < u && (is_met || d->units[waiting].is_listed); waiting++)
            if (!d->units[waiting].is_listed)
                list_unit(d, waiting);
        for (uint32_t i = 0; u < d->n_units && i < d->units[u].n; i++)
            if (!d->units[u].is_listed && is_demanded(d, &s->list[at + i]))
                list_unit(d, u);
    }
}

vtrn_status nki_demand(nki_session *s, bool delays_loads) {
    size_t n = (size_t)s->n_list + 1;
    demand d = {.s = s, .delays_loads = delays_loads};
    d.units = calloc(n, sizeof *d.units);
    d.unit_of = malloc(n * sizeof *d.unit_of);
    d.of = calloc((size_t)s->n_records + NKI_MAX_CORES * N_STATES, sizeof *d.of);
    d.stack = malloc(n * sizeof *d.stack);
    d.out = malloc(n * sizeof *d.out);
    vtrn_status status = NULL;
    if (!d.units || !d.unit_of || !d.of || !d.stack || !d.out)
        status = VTRN_OUT_OF_MEMORY(n * sizeof *d.out);
    if (!status && find_units(&d)) {
        status = find_uses(&d);
        if (!status) {
            list_all(&d);
            for (uint32_t k = 0; k < d.n_out; k++)
                s->list[k] = d.out[k];
            nki_note_uses(s);
        }
    }
    free(d.units), free(d.unit_of), free(d.of), free(d.use), free(d.stack), free(d.out);
    return status;
}
