/* profile.pftrace: a Perfetto trace, its protobuf encoded by hand.
 *
 * Message and field numbers are those of perfetto/trace/trace_packet.proto and the files it
 * imports. A trace is a run of TracePacket records (field 1 of Trace). Event names and names of
 * annotations are interned, so that a hundred thousand slices stay small. */
#include "profile/profile_ops.h"
#include "profile/profile_proto.h"
#include "profile/profile_rows.h"
#include "profile/profile_strings.h"

#include <stdlib.h>
#include <string.h>

enum {
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
    UUID_CORE_SHIFT = 20, /* more than the lanes of a core take */
    CORE_PID = 1,
    MAX_INTERVALS = 400000, /* of all cores; of those behind, collectives alone */
    RANK_COUNTER = 1 << 20, /* below all lanes */
};

/* Names of annotations, in iid order from 1. */
static const char *const annotation_names[] = {"op", "place", "operands", "wait_ns", "bytes"};
enum { NOTE_OP = 1, NOTE_PLACE, NOTE_OPERANDS, NOTE_WAIT, NOTE_BYTES, N_NOTES = 5 };

typedef struct writer {
    profile_buffer out, packet, message, inner, interned;
    profile_strings names, strings;
    uint64_t core_uuid; /* added to those of the core at hand */
    bool has_begun;
} writer;

/* Ends the packet being built. */
static void emit(writer *w) {
    const bool is_first = !w->has_begun;
    w->has_begun = true;
    profile_proto_varint(&w->packet, PACKET_SEQUENCE_ID, SEQUENCE_ID);
    if (w->interned.size)
        profile_proto_message(&w->packet, PACKET_INTERNED_DATA, &w->interned);
    profile_proto_varint(&w->packet, PACKET_SEQUENCE_FLAGS,
                         is_first ? SEQUENCE_CLEARED | SEQUENCE_NEEDS_STATE : SEQUENCE_NEEDS_STATE);
    profile_proto_message(&w->out, TRACE_PACKET, &w->packet);
}

static void intern_record(writer *w, int kind, uint64_t iid, const char *text) {
    profile_buffer *m = &w->inner;
    profile_proto_varint(m, INTERNED_IID, iid);
    profile_proto_text(m, INTERNED_TEXT, text);
    profile_proto_message(&w->interned, kind, m);
}

static uint32_t intern(writer *w, profile_strings *table, int kind, const char *text) {
    bool is_new;
    uint32_t iid = profile_intern(table, text, &is_new);
    if (is_new)
        intern_record(w, kind, iid, text);
    return iid;
}

/* A core's group of tracks: of a program on one core, core_i is 0. */
static void describe_core(writer *w, const profile_input *in, const profile_rank *rank) {
    const int core_i = rank ? rank->core_i : 0;
    for (int i = 0; i < N_NOTES && !w->has_begun; i++)
        intern_record(w, INTERNED_ANNOTATION_NAMES, (uint64_t)i + 1, annotation_names[i]);
    w->core_uuid = (uint64_t)core_i << UUID_CORE_SHIFT;
    profile_proto_varint(&w->inner, PROCESS_PID, (uint64_t)CORE_PID + (uint64_t)core_i);
    profile_buffer name = {0};
    profile_printf(&name, "NeuronCore %d (%s)", core_i, in->chip->name);
    if (rank)
        profile_printf(&name, ", rank %d", (int)(rank - in->ranks));
    if (profile_values_note(&in->values))
        profile_printf(&name, ", %s", profile_values_note(&in->values));
    profile_proto_bytes(&w->inner, PROCESS_NAME, name.data, name.size);
    profile_buffer_free(&name);
    profile_proto_varint(&w->message, TRACK_UUID, w->core_uuid + UUID_PROCESS);
    profile_proto_message(&w->message, TRACK_PROCESS, &w->inner);
    profile_proto_varint(&w->message, TRACK_CHILD_ORDERING, CHILD_ORDERING_EXPLICIT);
    profile_proto_message(&w->packet, PACKET_TRACK_DESCRIPTOR, &w->message);
    emit(w);
}

static uint64_t row_uuid(const writer *w, int lane, int row) {
    return w->core_uuid + UUID_LANE + (uint64_t)lane * PROFILE_MAX_ROWS + (uint64_t)row;
}

/* Instructions of an engine overlap (weights load behind a running matmul, a pipeline drains while
 * the next fills), slices of a track must not. A lane therefore has rows: tracks of one name and
 * parent, which Perfetto draws as one. Threads would not do: their tracks are never merged. */
static void describe_row(writer *w, int lane, int row, const char *name) {
    profile_proto_varint(&w->message, TRACK_UUID, row_uuid(w, lane, row));
    profile_proto_text(&w->message, TRACK_NAME, name);
    profile_proto_varint(&w->message, TRACK_PARENT, w->core_uuid + UUID_PROCESS);
    profile_proto_varint(&w->message, TRACK_SIBLING_RANK, (uint64_t)lane);
    profile_proto_message(&w->packet, PACKET_TRACK_DESCRIPTOR, &w->message);
    emit(w);
}

static void describe_counter(writer *w, int i, const char *name) {
    profile_proto_varint(&w->inner, COUNTER_UNIT, COUNTER_UNIT_BYTES);
    profile_proto_varint(&w->message, TRACK_UUID, w->core_uuid + UUID_COUNTER + (uint64_t)i);
    profile_proto_text(&w->message, TRACK_NAME, name);
    profile_proto_varint(&w->message, TRACK_PARENT, w->core_uuid + UUID_PROCESS);
    profile_proto_message(&w->message, TRACK_COUNTER, &w->inner);
    profile_proto_varint(&w->message, TRACK_SIBLING_RANK, RANK_COUNTER + (uint64_t)i);
    profile_proto_message(&w->packet, PACKET_TRACK_DESCRIPTOR, &w->message);
    emit(w);
}

static uint64_t whole_ns(double ns) {
    return ns > 0 ? (uint64_t)(ns + 0.5) : 0;
}

static void note_text(writer *w, int note, const char *text) {
    uint32_t iid = intern(w, &w->strings, INTERNED_ANNOTATION_STRINGS, text);
    profile_buffer m = {0};
    profile_proto_varint(&m, ANNOTATION_NAME_IID, (uint64_t)note);
    profile_proto_varint(&m, ANNOTATION_STRING_IID, iid);
    profile_proto_message(&w->message, EVENT_ANNOTATION, &m);
    profile_buffer_free(&m);
}

static void note_int(writer *w, int note, uint64_t value) {
    profile_buffer m = {0};
    profile_proto_varint(&m, ANNOTATION_NAME_IID, (uint64_t)note);
    profile_proto_varint(&m, ANNOTATION_INT, value);
    profile_proto_message(&w->message, EVENT_ANNOTATION, &m);
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
    profile_proto_varint(&w->message, EVENT_TYPE, EVENT_BEGIN);
    profile_proto_varint(&w->message, EVENT_NAME_IID, name);
    profile_proto_varint(&w->message, EVENT_TRACK, track);
    profile_proto_varint(&w->packet, PACKET_TIMESTAMP, start_ns);
    profile_proto_message(&w->packet, PACKET_TRACK_EVENT, &w->message);
    emit(w);
}

static void slice_end(writer *w, uint64_t track, uint64_t end_ns) {
    profile_proto_varint(&w->message, EVENT_TYPE, EVENT_END);
    profile_proto_varint(&w->message, EVENT_TRACK, track);
    profile_proto_varint(&w->packet, PACKET_TIMESTAMP, end_ns);
    profile_proto_message(&w->packet, PACKET_TRACK_EVENT, &w->message);
    emit(w);
}

static void counter(writer *w, int i, double t_ns, uint64_t value) {
    profile_proto_varint(&w->message, EVENT_TYPE, EVENT_COUNTER);
    profile_proto_varint(&w->message, EVENT_TRACK, w->core_uuid + UUID_COUNTER + (uint64_t)i);
    profile_proto_varint(&w->message, EVENT_COUNTER_VALUE, value);
    profile_proto_varint(&w->packet, PACKET_TIMESTAMP, whole_ns(t_ns));
    profile_proto_message(&w->packet, PACKET_TRACK_EVENT, &w->message);
    emit(w);
}

/* In the row of its stream, before the collective begins. */
static void write_waiting(writer *w, uint64_t track, uint64_t start_ns, uint64_t end_ns) {
    uint32_t name = intern(w, &w->names, INTERNED_EVENT_NAMES, "waits for other members");
    profile_proto_varint(&w->message, EVENT_TYPE, EVENT_BEGIN);
    profile_proto_varint(&w->message, EVENT_NAME_IID, name);
    profile_proto_varint(&w->message, EVENT_TRACK, track);
    profile_proto_varint(&w->packet, PACKET_TIMESTAMP, start_ns);
    profile_proto_message(&w->packet, PACKET_TRACK_EVENT, &w->message);
    emit(w);
    slice_end(w, track, end_ns);
}

/* waited_ns: of a collective, for other members. */
static void write_slice(writer *w, const profile_input *in, const timing_interval *t,
                        double waited_ns, profile_rows *rows) {
    if (t->lane != rows->lane)
        *rows = (profile_rows){.lane = t->lane};
    uint64_t start_ns = whole_ns(t->start_ns), end_ns = whole_ns(t->end_ns);
    int row = profile_free_row(rows, start_ns);
    if (row == rows->n) {
        char name[64];
        profile_lane_name(t, &in->program->instrs[t->instr], name, sizeof name);
        describe_row(w, t->lane, row, name);
        rows->n++;
    }
    if (waited_ns > 0 && whole_ns(t->start_ns - waited_ns) >= rows->end_ns[row])
        write_waiting(w, row_uuid(w, t->lane, row), whole_ns(t->start_ns - waited_ns), start_ns);
    if (start_ns < rows->end_ns[row]) /* all rows taken: more than any engine overlaps */
        start_ns = rows->end_ns[row];
    end_ns = end_ns > start_ns ? end_ns : start_ns;
    rows->end_ns[row] = end_ns;
    slice_begin(w, in, t, row_uuid(w, t->lane, row), start_ns);
    slice_end(w, row_uuid(w, t->lane, row), end_ns);
}

/* A core's slices; of a rank that is_brief the collectives alone. */
static void write_slices(writer *w, const profile_input *in, const timing_result *timing,
                         const timing_interval **order, const profile_rank *rank, bool is_brief) {
    profile_rows rows = {.lane = -1};
    size_t k = 0; /* collectives so far */
    for (size_t i = 0; i < timing->n_intervals; i++) {
        const timing_interval *t = order[i];
        if (t->instr >= in->program->n_instrs || (is_brief && t->lane != VTRN_ENGINE_CC))
            continue;
        const bool is_collective =
            in->program->instrs[t->instr].opcode == VTRN_OP_COLLECTIVE && t->lane == VTRN_ENGINE_CC;
        const bool has_waited = is_collective && rank && k < rank->n_meetings;
        write_slice(w, in, t, has_waited ? rank->meetings[k].wait_ns : 0, &rows);
        k += is_collective;
    }
}

/* Each core of the run, in order of rank; those that do the same have the same order of slices. */
static vtrn_status write_cores(writer *w, const profile_input *in) {
    const timing_interval **order = NULL;
    const timing_result *sorted = NULL;
    size_t n_intervals = 0;
    for (uint32_t r = 0; r < in->n_ranks; r++) {
        const profile_rank *rank = &in->ranks[r];
        if (!rank->timing)
            continue;
        if (rank->timing != sorted) {
            free(order);
            sorted = rank->timing;
            order = profile_sort_lanes(sorted);
            if (!order)
                return VTRN_OUT_OF_MEMORY(sorted->n_intervals * sizeof *order);
        }
        bool is_brief = r != in->shown_rank && n_intervals + sorted->n_intervals > MAX_INTERVALS;
        n_intervals += is_brief ? 0 : sorted->n_intervals;
        describe_core(w, in, rank);
        write_slices(w, in, sorted, order, rank, is_brief);
    }
    free(order);
    return NULL;
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
    const timing_interval **order = profile_sort_lanes(in->timing);
    if (!order)
        return VTRN_OUT_OF_MEMORY(n * sizeof *order);
    writer w = {0};
    vtrn_status status = NULL;
    if (in->n_ranks) {
        status = write_cores(&w, in);
        w.core_uuid = (uint64_t)in->ranks[in->shown_rank].core_i << UUID_CORE_SHIFT;
    } else {
        describe_core(&w, in, NULL);
        write_slices(&w, in, in->timing, order, NULL, false);
    }
    write_counters(&w, in);
    w.out.is_short |= w.names.is_short | w.strings.is_short | w.packet.is_short |
                      w.message.is_short | w.inner.is_short | w.interned.is_short;
    if (!status)
        status = profile_buffer_save(&w.out, path);
    profile_buffer_free(&w.out);
    profile_buffer_free(&w.packet);
    profile_buffer_free(&w.message);
    profile_buffer_free(&w.inner);
    profile_buffer_free(&w.interned);
    profile_strings_free(&w.names);
    profile_strings_free(&w.strings);
    free(order);
    return status;
}
