/* profile.pftrace: a Perfetto trace, its protobuf encoded by hand.
 *
 * Message and field numbers are those of perfetto/trace/trace_packet.proto and the files it
 * imports. A trace is a run of TracePacket records (field 1 of Trace). Event names and names of
 * annotations are interned, so that a hundred thousand slices stay small. */
#include "base/hash.h"
#include "profile/profile_buffer.h"
#include "profile/profile_ops.h"

#include <stdlib.h>
#include <string.h>

enum {
    WIRE_VARINT = 0,
    WIRE_BYTES = 2,

    TRACE_PACKET = 1,

    PACKET_TIMESTAMP = 8,
    PACKET_SEQUENCE_ID = 10,
    PACKET_TRACK_EVENT = 11,
    PACKET_INTERNED_DATA = 12,
    PACKET_SEQUENCE_FLAGS = 13,
    PACKET_TRACK_DESCRIPTOR = 60,

    TRACK_UUID = 1,
    TRACK_NAME = 2,
    TRACK_PROCESS = 3,
    TRACK_PARENT = 5,
    TRACK_COUNTER = 8,
    TRACK_CHILD_ORDERING = 11,
    TRACK_SIBLING_RANK = 12,
    CHILD_ORDERING_EXPLICIT = 3,
    PROCESS_PID = 1,
    PROCESS_NAME = 6,
    COUNTER_UNIT = 3,
    COUNTER_UNIT_BYTES = 3,

    EVENT_ANNOTATION = 4,
    EVENT_TYPE = 9,
    EVENT_NAME_IID = 10,
    EVENT_TRACK = 11,
    EVENT_COUNTER_VALUE = 30,
    EVENT_BEGIN = 1,
    EVENT_END = 2,
    EVENT_COUNTER = 4,

    ANNOTATION_NAME_IID = 1,
    ANNOTATION_INT = 4,
    ANNOTATION_STRING_IID = 17,

    INTERNED_EVENT_NAMES = 2,
    INTERNED_ANNOTATION_NAMES = 3,
    INTERNED_ANNOTATION_STRINGS = 29,
    INTERNED_IID = 1,
    INTERNED_TEXT = 2,

    SEQUENCE_ID = 1,
    SEQUENCE_CLEARED = 1,
    SEQUENCE_NEEDS_STATE = 2,

    UUID_PROCESS = 1,
    UUID_COUNTER = 2, /* three of them */
    UUID_LANE = 16,
    CORE_PID = 1,
    MAX_ROWS = 16,
    RANK_COUNTER = 1 << 20, /* below all lanes */
};

/* Names of annotations, in iid order from 1. */
static const char *const annotation_names[] = {"op", "place", "operands", "wait_ns", "bytes"};
enum { NOTE_OP = 1, NOTE_PLACE, NOTE_OPERANDS, NOTE_WAIT, NOTE_BYTES, N_NOTES = 5 };

static void varint(profile_buffer *b, uint64_t value) {
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n] = (uint8_t)(value & 0x7f);
        value >>= 7;
        bytes[n++] |= value ? 0x80 : 0;
    } while (value);
    profile_append(b, bytes, n);
}

static void field_varint(profile_buffer *b, int field, uint64_t value) {
    varint(b, (uint64_t)field << 3 | WIRE_VARINT);
    varint(b, value);
}

static void field_bytes(profile_buffer *b, int field, const void *data, size_t size) {
    varint(b, (uint64_t)field << 3 | WIRE_BYTES);
    varint(b, size);
    profile_append(b, data, size);
}

static void field_text(profile_buffer *b, int field, const char *text) {
    field_bytes(b, field, text ? text : "", text ? strlen(text) : 0);
}

static void field_message(profile_buffer *b, int field, profile_buffer *message) {
    field_bytes(b, field, message->data, message->size);
    b->is_short |= message->is_short;
    message->size = 0;
}

/* Strings that were given a number; the number is new or old. Open addressing. */
typedef struct string_table {
    struct {
        char *text;
        uint64_t hash;
    } * slots;
    uint32_t *iids;
    size_t capacity, n;
    bool is_short;
} string_table;

static bool table_grow(string_table *t) {
    string_table bigger = {.capacity = t->capacity ? t->capacity * 2 : 256};
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    bigger.iids = calloc(bigger.capacity, sizeof *bigger.iids);
    if (!bigger.slots || !bigger.iids) {
        free(bigger.slots);
        free(bigger.iids);
        t->is_short = true;
        return false;
    }
    for (size_t i = 0; i < t->capacity; i++) {
        if (!t->slots[i].text)
            continue;
        size_t at = t->slots[i].hash % bigger.capacity;
        while (bigger.slots[at].text)
            at = (at + 1) % bigger.capacity;
        bigger.slots[at] = t->slots[i];
        bigger.iids[at] = t->iids[i];
    }
    free(t->slots);
    free(t->iids);
    t->slots = bigger.slots;
    t->iids = bigger.iids;
    t->capacity = bigger.capacity;
    return true;
}

/* 1-based number of the text; *is_new when it was not there. 0 when memory is short. */
static uint32_t table_intern(string_table *t, const char *text, bool *is_new) {
    *is_new = false;
    if (t->is_short || (t->n * 2 >= t->capacity && !table_grow(t)))
        return 0;
    uint64_t hash = hash_bytes(HASH_START, text, strlen(text));
    size_t at = hash % t->capacity;
    for (; t->slots[at].text; at = (at + 1) % t->capacity)
        if (t->slots[at].hash == hash && !strcmp(t->slots[at].text, text))
            return t->iids[at];
    t->slots[at].text = strdup(text);
    if (!t->slots[at].text) {
        t->is_short = true;
        return 0;
    }
    t->slots[at].hash = hash;
    t->iids[at] = (uint32_t)++t->n;
    *is_new = true;
    return t->iids[at];
}

static void table_free(string_table *t) {
    for (size_t i = 0; i < t->capacity; i++)
        free(t->slots[i].text);
    free(t->slots);
    free(t->iids);
}

typedef struct writer {
    profile_buffer out, packet, message, inner, interned;
    string_table names, strings;
} writer;

/* Ends the packet being built. */
static void emit(writer *w, bool is_first) {
    field_varint(&w->packet, PACKET_SEQUENCE_ID, SEQUENCE_ID);
    if (w->interned.size)
        field_message(&w->packet, PACKET_INTERNED_DATA, &w->interned);
    field_varint(&w->packet, PACKET_SEQUENCE_FLAGS,
                 is_first ? SEQUENCE_CLEARED | SEQUENCE_NEEDS_STATE : SEQUENCE_NEEDS_STATE);
    field_message(&w->out, TRACE_PACKET, &w->packet);
}

static void intern_record(writer *w, int kind, uint64_t iid, const char *text) {
    profile_buffer *m = &w->inner;
    field_varint(m, INTERNED_IID, iid);
    field_text(m, INTERNED_TEXT, text);
    field_message(&w->interned, kind, m);
}

static uint32_t intern(writer *w, string_table *table, int kind, const char *text) {
    bool is_new;
    uint32_t iid = table_intern(table, text, &is_new);
    if (is_new)
        intern_record(w, kind, iid, text);
    return iid;
}

static void describe_process(writer *w, const profile_input *in) {
    for (int i = 0; i < N_NOTES; i++)
        intern_record(w, INTERNED_ANNOTATION_NAMES, (uint64_t)i + 1, annotation_names[i]);
    field_varint(&w->inner, PROCESS_PID, CORE_PID);
    profile_buffer name = {0};
    profile_printf(&name, "NeuronCore 0 (%s)", in->chip->name);
    field_bytes(&w->inner, PROCESS_NAME, name.data, name.size);
    profile_buffer_free(&name);
    field_varint(&w->message, TRACK_UUID, UUID_PROCESS);
    field_message(&w->message, TRACK_PROCESS, &w->inner);
    field_varint(&w->message, TRACK_CHILD_ORDERING, CHILD_ORDERING_EXPLICIT);
    field_message(&w->packet, PACKET_TRACK_DESCRIPTOR, &w->message);
    emit(w, true);
}

static uint64_t row_uuid(int lane, int row) {
    return UUID_LANE + (uint64_t)lane * MAX_ROWS + (uint64_t)row;
}

/* Instructions of an engine overlap (weights load behind a running matmul, a pipeline drains while
 * the next fills), slices of a track must not. A lane therefore has rows: tracks of one name and
 * parent, which Perfetto draws as one. Threads would not do: their tracks are never merged. */
static void describe_row(writer *w, int lane, int row, const char *name) {
    field_varint(&w->message, TRACK_UUID, row_uuid(lane, row));
    field_text(&w->message, TRACK_NAME, name);
    field_varint(&w->message, TRACK_PARENT, UUID_PROCESS);
    field_varint(&w->message, TRACK_SIBLING_RANK, (uint64_t)lane);
    field_message(&w->packet, PACKET_TRACK_DESCRIPTOR, &w->message);
    emit(w, false);
}

static void describe_counter(writer *w, int i, const char *name) {
    field_varint(&w->inner, COUNTER_UNIT, COUNTER_UNIT_BYTES);
    field_varint(&w->message, TRACK_UUID, UUID_COUNTER + (uint64_t)i);
    field_text(&w->message, TRACK_NAME, name);
    field_varint(&w->message, TRACK_PARENT, UUID_PROCESS);
    field_message(&w->message, TRACK_COUNTER, &w->inner);
    field_varint(&w->message, TRACK_SIBLING_RANK, RANK_COUNTER + (uint64_t)i);
    field_message(&w->packet, PACKET_TRACK_DESCRIPTOR, &w->message);
    emit(w, false);
}

static uint64_t whole_ns(double ns) {
    return ns > 0 ? (uint64_t)(ns + 0.5) : 0;
}

static void note_text(writer *w, int note, const char *text) {
    uint32_t iid = intern(w, &w->strings, INTERNED_ANNOTATION_STRINGS, text);
    profile_buffer m = {0};
    field_varint(&m, ANNOTATION_NAME_IID, (uint64_t)note);
    field_varint(&m, ANNOTATION_STRING_IID, iid);
    field_message(&w->message, EVENT_ANNOTATION, &m);
    profile_buffer_free(&m);
}

static void note_int(writer *w, int note, uint64_t value) {
    profile_buffer m = {0};
    field_varint(&m, ANNOTATION_NAME_IID, (uint64_t)note);
    field_varint(&m, ANNOTATION_INT, value);
    field_message(&w->message, EVENT_ANNOTATION, &m);
    profile_buffer_free(&m);
}

static void slice_begin(writer *w, const profile_input *in, const timing_interval *t,
                        uint64_t track, uint64_t start_ns) {
    const vtrn_instr *instr = &in->program->instrs[t->instr];
    char text[256];
    profile_instr_title(in->program, instr, text, sizeof text);
    uint32_t name = intern(w, &w->names, INTERNED_EVENT_NAMES, text);
    if (instr->source < in->program->n_sources) {
        const vtrn_source *source = &in->program->sources[instr->source];
        note_text(w, NOTE_OP, source->op ? source->op : "");
        if (source->place && source->place[0])
            note_text(w, NOTE_PLACE, source->place);
    }
    profile_instr_shapes(instr, text, sizeof text);
    if (text[0])
        note_text(w, NOTE_OPERANDS, text);
    if (t->wait_ns > 0)
        note_int(w, NOTE_WAIT, whole_ns(t->wait_ns));
    if (profile_is_dma_lane(t))
        note_int(w, NOTE_BYTES, profile_dma_bytes(instr));
    field_varint(&w->message, EVENT_TYPE, EVENT_BEGIN);
    field_varint(&w->message, EVENT_NAME_IID, name);
    field_varint(&w->message, EVENT_TRACK, track);
    field_varint(&w->packet, PACKET_TIMESTAMP, start_ns);
    field_message(&w->packet, PACKET_TRACK_EVENT, &w->message);
    emit(w, false);
}

static void slice_end(writer *w, uint64_t track, uint64_t end_ns) {
    field_varint(&w->message, EVENT_TYPE, EVENT_END);
    field_varint(&w->message, EVENT_TRACK, track);
    field_varint(&w->packet, PACKET_TIMESTAMP, end_ns);
    field_message(&w->packet, PACKET_TRACK_EVENT, &w->message);
    emit(w, false);
}

static void counter(writer *w, int i, double t_ns, uint64_t value) {
    field_varint(&w->message, EVENT_TYPE, EVENT_COUNTER);
    field_varint(&w->message, EVENT_TRACK, UUID_COUNTER + (uint64_t)i);
    field_varint(&w->message, EVENT_COUNTER_VALUE, value);
    field_varint(&w->packet, PACKET_TIMESTAMP, whole_ns(t_ns));
    field_message(&w->packet, PACKET_TRACK_EVENT, &w->message);
    emit(w, false);
}

/* By lane, then start, then end. */
static int compare_lanes(const void *a, const void *b) {
    const timing_interval *x = *(timing_interval *const *)a, *y = *(timing_interval *const *)b;
    if (x->lane != y->lane)
        return x->lane < y->lane ? -1 : 1;
    if (x->start_ns != y->start_ns)
        return x->start_ns < y->start_ns ? -1 : 1;
    if (x->end_ns != y->end_ns)
        return x->end_ns < y->end_ns ? -1 : 1;
    return (x > y) - (x < y);
}

/* The rows of the lane that is being written. */
typedef struct lane_rows {
    uint64_t end_ns[MAX_ROWS]; /* of each row's last slice */
    int lane, n;
} lane_rows;

/* First row that is free at start_ns, else the one that is free first. */
static int free_row(const lane_rows *rows, uint64_t start_ns) {
    int first = 0;
    for (int i = 0; i < rows->n; i++) {
        if (rows->end_ns[i] <= start_ns)
            return i;
        if (rows->end_ns[i] < rows->end_ns[first])
            first = i;
    }
    return rows->n < MAX_ROWS ? rows->n : first;
}

static void write_slice(writer *w, const profile_input *in, const timing_interval *t,
                        lane_rows *rows) {
    if (t->lane != rows->lane)
        *rows = (lane_rows){.lane = t->lane};
    uint64_t start_ns = whole_ns(t->start_ns), end_ns = whole_ns(t->end_ns);
    int row = free_row(rows, start_ns);
    if (row == rows->n) {
        char name[64];
        profile_lane_name(t, &in->program->instrs[t->instr], name, sizeof name);
        describe_row(w, t->lane, row, name);
        rows->n++;
    }
    if (start_ns < rows->end_ns[row]) /* all rows taken: more than any engine overlaps */
        start_ns = rows->end_ns[row];
    end_ns = end_ns > start_ns ? end_ns : start_ns;
    rows->end_ns[row] = end_ns;
    slice_begin(w, in, t, row_uuid(t->lane, row), start_ns);
    slice_end(w, row_uuid(t->lane, row), end_ns);
}

static void write_slices(writer *w, const profile_input *in, const timing_interval **order,
                         size_t n) {
    lane_rows rows = {.lane = -1};
    for (size_t i = 0; i < n; i++)
        if (order[i]->instr < in->program->n_instrs)
            write_slice(w, in, order[i], &rows);
}

static void write_counters(writer *w, const profile_input *in) {
    static const char *const names[] = {"HBM bytes", "SBUF bytes", "PSUM bytes"};
    for (int i = 0; i < 3; i++)
        describe_counter(w, i, names[i]);
    for (size_t i = 0; i < in->n_memory; i++) {
        const profile_memory_sample *m = &in->memory[i];
        counter(w, 0, m->t_ns, m->hbm_bytes);
        counter(w, 1, m->t_ns, m->sbuf_bytes);
        counter(w, 2, m->t_ns, m->psum_bytes);
    }
}

vtrn_status profile_write_perfetto(const profile_input *in, const char *path) {
    size_t n = in->timing->n_intervals;
    const timing_interval **order = malloc((n + 1) * sizeof *order);
    if (!order)
        return VTRN_OUT_OF_MEMORY(n * sizeof *order);
    for (size_t i = 0; i < n; i++)
        order[i] = &in->timing->intervals[i];
    qsort(order, n, sizeof *order, compare_lanes);
    writer w = {0};
    describe_process(&w, in);
    write_slices(&w, in, order, n);
    write_counters(&w, in);
    w.out.is_short |= w.names.is_short | w.strings.is_short | w.packet.is_short |
                      w.message.is_short | w.inner.is_short | w.interned.is_short;
    vtrn_status status = profile_buffer_save(&w.out, path);
    profile_buffer_free(&w.out);
    profile_buffer_free(&w.packet);
    profile_buffer_free(&w.message);
    profile_buffer_free(&w.inner);
    profile_buffer_free(&w.interned);
    table_free(&w.names);
    table_free(&w.strings);
    free(order);
    return status;
}
