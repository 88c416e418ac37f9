/* Executions as an XSpace, its protobuf encoded by hand.
 *
 * Message and field numbers are those of tsl/profiler/protobuf/xplane.proto. Names and texts are
 * metadata of their plane, which events refer to by number. */
#include "profile/profile_xspace.h"

#include "profile/profile_ops.h"
#include "profile/profile_proto.h"
#include "profile/profile_rows.h"
#include "profile/profile_strings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPACE_PLANE = 1,
    SPACE_WARNING = 3,

    PLANE_ID = 1,
    PLANE_NAME = 2,
    PLANE_LINE = 3,
    PLANE_EVENT_METADATA = 4,
    PLANE_STAT_METADATA = 5,

    LINE_ID = 1,
    LINE_NAME = 2,
    LINE_START_NS = 3,
    LINE_EVENT = 4,

    EVENT_METADATA_ID = 1,
    EVENT_OFFSET_PS = 2,
    EVENT_DURATION_PS = 3,
    EVENT_STAT = 4,

    STAT_METADATA_ID = 1,
    STAT_UINT = 3,
    STAT_REF = 7,

    ENTRY_KEY = 1,
    ENTRY_VALUE = 2,
    METADATA_ID = 1,
    METADATA_NAME = 2,

    MAX_EVENTS = 2000000,
    PROGRAM_LANE = -1, /* the line of whole programs */
};

/* Names of statistics, in the order of their numbers from 1. */
static const char *const stat_names[] = {"hlo_module", "tf_op",   "source",
                                         "operands",   "wait_ns", "bytes"};
enum { STAT_MODULE = 1, STAT_OP, STAT_SOURCE, STAT_OPERANDS, STAT_WAIT, STAT_BYTES, N_STATS = 6 };

typedef struct line {
    int lane, row;
    char name[64];
    profile_buffer events;
} line;

/* One core's plane while it is written. */
typedef struct plane {
    const profile_session *session;
    line *lines;
    size_t n_lines, line_capacity;
    profile_strings names, texts;
    profile_buffer event_metadata, stat_metadata, event, scratch;
    size_t n_events; /* of the whole space */
    bool is_short, is_cut;
} plane;

/* {key, {id, name}}, an entry of a plane's map. */
static void write_metadata(plane *p, profile_buffer *to, int field, uint32_t id, const char *name) {
    profile_buffer entry = {0};
    profile_proto_varint(&p->scratch, METADATA_ID, id);
    profile_proto_text(&p->scratch, METADATA_NAME, name);
    profile_proto_varint(&entry, ENTRY_KEY, id);
    profile_proto_message(&entry, ENTRY_VALUE, &p->scratch);
    profile_proto_message(to, field, &entry);
    profile_buffer_free(&entry);
}

static uint32_t name_id(plane *p, const char *name) {
    bool is_new;
    uint32_t id = profile_intern(&p->names, name, &is_new);
    if (is_new)
        write_metadata(p, &p->event_metadata, PLANE_EVENT_METADATA, id, name);
    return id;
}

/* Texts share their numbers with the names of statistics, which are the first. */
static uint32_t text_id(plane *p, const char *text) {
    bool is_new;
    uint32_t id = profile_intern(&p->texts, text, &is_new);
    if (is_new)
        write_metadata(p, &p->stat_metadata, PLANE_STAT_METADATA, id, text);
    return id;
}

static void stat_text(plane *p, int stat, const char *text) {
    if (!text || !text[0])
        return;
    uint32_t id = text_id(p, text);
    profile_proto_varint(&p->scratch, STAT_METADATA_ID, (uint64_t)stat);
    profile_proto_varint(&p->scratch, STAT_REF, id);
    profile_proto_message(&p->event, EVENT_STAT, &p->scratch);
}

static void stat_uint(plane *p, int stat, uint64_t value) {
    profile_proto_varint(&p->scratch, STAT_METADATA_ID, (uint64_t)stat);
    profile_proto_varint(&p->scratch, STAT_UINT, value);
    profile_proto_message(&p->event, EVENT_STAT, &p->scratch);
}

/* The line of that lane and row, made when it is new. NULL when memory is short. */
static line *find_line(plane *p, int lane, int row, const char *name) {
    for (size_t i = 0; i < p->n_lines; i++)
        if (p->lines[i].lane == lane && p->lines[i].row == row)
            return &p->lines[i];
    if (p->n_lines == p->line_capacity) {
        size_t capacity = p->line_capacity ? 2 * p->line_capacity : 32;
        line *grown = realloc(p->lines, capacity * sizeof *grown);
        if (!grown) {
            p->is_short = true;
            return NULL;
        }
        p->lines = grown;
        p->line_capacity = capacity;
    }
    line *l = &p->lines[p->n_lines++];
    *l = (line){.lane = lane, .row = row};
    snprintf(l->name, sizeof l->name, "%s", name);
    return l;
}

/* p->event holds the statistics: its head is written here, behind them. */
static void add_event(plane *p, line *l, uint32_t metadata_id, uint64_t offset_ps,
                      uint64_t duration_ps) {
    profile_proto_varint(&p->event, EVENT_METADATA_ID, metadata_id);
    profile_proto_varint(&p->event, EVENT_OFFSET_PS, offset_ps);
    profile_proto_varint(&p->event, EVENT_DURATION_PS, duration_ps);
    if (l)
        profile_proto_message(&l->events, LINE_EVENT, &p->event);
    p->event.size = 0;
    p->n_events++;
}

static uint64_t whole_ps(double ns) {
    return ns > 0 ? (uint64_t)(ns * 1000 + 0.5) : 0;
}

static void add_interval(plane *p, const profile_traced *traced, const timing_interval *t,
                         profile_rows *rows, uint64_t run_ps) {
    const vtrn_program *program = traced->program;
    const vtrn_instr *instr = &program->instrs[t->instr];
    if (t->lane != rows->lane)
        *rows = (profile_rows){.lane = t->lane};
    uint64_t start_ps = whole_ps(t->start_ns), end_ps = whole_ps(t->end_ns);
    int row = profile_free_row(rows, start_ps);
    rows->n += row == rows->n;
    rows->end_ns[row] = end_ps > rows->end_ns[row] ? end_ps : rows->end_ns[row];
    char text[256];
    profile_lane_name(t, instr, text, sizeof text);
    line *l = find_line(p, t->lane, row, text);
    profile_instr_title(program, instr, text, sizeof text);
    uint32_t id = name_id(p, text);
    if (instr->source < program->n_sources) {
        stat_text(p, STAT_OP, program->sources[instr->source].op);
        stat_text(p, STAT_SOURCE, program->sources[instr->source].place);
    }
    profile_instr_shapes(instr, text, sizeof text);
    stat_text(p, STAT_OPERANDS, text);
    if (t->wait_ns > 0)
        stat_uint(p, STAT_WAIT, (uint64_t)(t->wait_ns + 0.5));
    if (profile_is_dma_lane(t))
        stat_uint(p, STAT_BYTES, profile_dma_bytes(instr));
    add_event(p, l, id, run_ps + start_ps, end_ps - start_ps);
}

/* The run and, while there is room, its instructions. order: by profile_sort_lanes(). */
static void add_run(plane *p, const profile_run *run, const timing_interval *const *order,
                    uint64_t run_ps) {
    const profile_traced *traced = &p->session->traced[run->traced_i];
    line *l = find_line(p, PROGRAM_LANE, 0, "XLA Modules");
    stat_text(p, STAT_MODULE, traced->name);
    add_event(p, l, name_id(p, traced->name), run_ps, whole_ps(run->simulated_ns));
    size_t n = traced->timing ? traced->timing->n_intervals : 0;
    if (p->n_events + n > MAX_EVENTS) {
        p->is_cut = true;
        return;
    }
    profile_rows rows = {.lane = -1};
    for (size_t i = 0; i < n; i++)
        if (order[i]->instr < traced->program->n_instrs)
            add_interval(p, traced, order[i], &rows, run_ps);
}

static int compare_lines(const void *a, const void *b) {
    const line *x = a, *y = b;
    return x->lane != y->lane ? (x->lane < y->lane ? -1 : 1) : x->row - y->row;
}

static void write_plane(plane *p, int core_i, profile_buffer *out) {
    profile_buffer b = {0}, l = {0};
    char name[64];
    snprintf(name, sizeof name, "/device:CUSTOM:NeuronCore %d (%s, simulated time)", core_i,
             p->session->chip_name);
    profile_proto_varint(&b, PLANE_ID, (uint64_t)core_i + 1);
    profile_proto_text(&b, PLANE_NAME, name);
    qsort(p->lines, p->n_lines, sizeof *p->lines, compare_lines);
    for (size_t i = 0; i < p->n_lines; i++) {
        profile_proto_varint(&l, LINE_ID, i + 1);
        profile_proto_text(&l, LINE_NAME, p->lines[i].name);
        profile_proto_varint(&l, LINE_START_NS, p->session->start_ns);
        profile_append(&l, p->lines[i].events.data, p->lines[i].events.size);
        l.is_short |= p->lines[i].events.is_short;
        profile_proto_message(&b, PLANE_LINE, &l);
    }
    profile_append(&b, p->event_metadata.data, p->event_metadata.size);
    profile_append(&b, p->stat_metadata.data, p->stat_metadata.size);
    profile_proto_message(out, SPACE_PLANE, &b);
    profile_buffer_free(&b);
    profile_buffer_free(&l);
}

static void plane_free(plane *p) {
    for (size_t i = 0; i < p->n_lines; i++)
        profile_buffer_free(&p->lines[i].events);
    free(p->lines);
    profile_strings_free(&p->names);
    profile_strings_free(&p->texts);
    profile_buffer_free(&p->event_metadata);
    profile_buffer_free(&p->stat_metadata);
    profile_buffer_free(&p->event);
    profile_buffer_free(&p->scratch);
}

/* orders: for each of session->traced, its intervals by lane. *n_events goes on counting. */
static void add_core(const profile_session *s, const timing_interval ***orders, int core_i,
                     size_t *n_events, profile_buffer *out) {
    plane p = {.session = s, .n_events = *n_events};
    for (int i = 0; i < N_STATS; i++)
        text_id(&p, stat_names[i]);
    uint64_t free_ps = 0; /* when the core's last run was over, since the session's start */
    for (size_t i = 0; i < s->n_runs; i++) {
        const profile_run *run = &s->runs[i];
        if (run->core_i != core_i)
            continue;
        uint64_t run_ps = run->host_ns > s->start_ns ? (run->host_ns - s->start_ns) * 1000 : 0;
        run_ps = run_ps > free_ps ? run_ps : free_ps;
        add_run(&p, run, orders[run->traced_i], run_ps);
        free_ps = run_ps + whole_ps(run->simulated_ns);
    }
    if (p.n_lines)
        write_plane(&p, core_i, out);
    if (p.is_cut)
        profile_proto_text(out, SPACE_WARNING,
                           "more instructions ran than a trace holds: the later runs are shown "
                           "without them; trace fewer steps");
    out->is_short |= p.is_short | p.names.is_short | p.texts.is_short | p.event.is_short |
                     p.scratch.is_short | p.event_metadata.is_short | p.stat_metadata.is_short;
    *n_events = p.n_events;
    plane_free(&p);
}

vtrn_status profile_xspace(const profile_session *s, profile_buffer *out) {
    const timing_interval ***orders = calloc(s->n_traced + 1, sizeof *orders);
    if (!orders)
        return VTRN_OUT_OF_MEMORY(s->n_traced * sizeof *orders);
    for (size_t i = 0; i < s->n_traced; i++) {
        if (!s->traced[i].timing)
            continue;
        orders[i] = profile_sort_lanes(s->traced[i].timing);
        out->is_short |= !orders[i];
    }
    size_t n_events = 0;
    for (int core_i = 0; core_i < s->n_cores && !out->is_short; core_i++)
        add_core(s, orders, core_i, &n_events, out);
    for (size_t i = 0; i < s->n_traced; i++)
        free(orders[i]);
    free(orders);
    return out->is_short ? VTRN_OUT_OF_MEMORY(out->size) : NULL;
}
