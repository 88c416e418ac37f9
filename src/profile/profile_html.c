/* profile.html: the page of report.html with the profile's data put into it. */
#include "profile/profile_buffer.h"
#include "profile/profile_comm.h"
#include "profile/profile_explain.h"
#include "profile/profile_ops.h"
#include "profile/profile_summary.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* report.html, made into an array by embed.py. */
extern const char report_html[];
extern const size_t report_html_size;

enum { MAX_SLICES = 20000, MAX_OPS = 1500, MAX_MORE_SLICES = 40000, MIN_MORE_SLICES = 500 };

/* A bar of the timeline: one interval, or several short neighbours of one lane. */
typedef struct slice {
    double start_ns, end_ns, wait_ns;
    double busy_ns; /* at work: no control, no queueing of DMAs */
    double op_ns;   /* time of the op that takes most of it, as far as known */
    uint32_t op;    /* row of the op list, UINT32_MAX: none */
    uint32_t instr; /* of the single interval */
    uint32_t n;
    uint16_t lane;
} slice;

static int compare_slices(const void *a, const void *b) {
    const slice *x = a, *y = b;
    if (x->lane != y->lane)
        return x->lane < y->lane ? -1 : 1;
    if (x->start_ns != y->start_ns)
        return x->start_ns < y->start_ns ? -1 : 1;
    return (x->instr > y->instr) - (x->instr < y->instr);
}

static slice *slices_create(const profile_input *in, const timing_result *t,
                            const profile_op_list *ops, size_t *n_out) {
    slice *slices = malloc((t->n_intervals + 1) * sizeof *slices);
    size_t n = 0;
    for (size_t i = 0; slices && i < t->n_intervals; i++) {
        const timing_interval *v = &t->intervals[i];
        if (v->instr >= in->program->n_instrs)
            continue;
        uint32_t source = in->program->instrs[v->instr].source;
        double ns = v->end_ns - v->start_ns;
        uint32_t op = source < in->program->n_sources ? ops->of_source[source] : UINT32_MAX;
        slices[n++] =
            (slice){.start_ns = v->start_ns,
                    .end_ns = v->end_ns,
                    .wait_ns = v->wait_ns,
                    .busy_ns = profile_is_work(&in->program->instrs[v->instr], v) ? ns : 0,
                    .op_ns = ns,
                    .op = op,
                    .instr = v->instr,
                    .n = 1,
                    .lane = v->lane};
    }
    if (slices)
        qsort(slices, n, sizeof *slices, compare_slices);
    *n_out = n;
    return slices;
}

static void slice_merge(slice *into, const slice *next) {
    into->end_ns = next->end_ns > into->end_ns ? next->end_ns : into->end_ns;
    into->busy_ns += next->busy_ns;
    into->wait_ns += next->wait_ns;
    into->n += next->n;
    if (next->op == into->op) {
        into->op_ns += next->op_ns;
    } else if (next->op_ns > into->op_ns) {
        into->op = next->op;
        into->op_ns = next->op_ns;
    }
}

/* Neighbours in a lane that fit into width_ns together become one. */
static size_t merge_within(slice *slices, size_t n, double width_ns) {
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        slice *last = out ? &slices[out - 1] : NULL;
        if (last && last->lane == slices[i].lane &&
            (slices[i].end_ns > last->end_ns ? slices[i].end_ns : last->end_ns) - last->start_ns <=
                width_ns)
            slice_merge(last, &slices[i]);
        else
            slices[out++] = slices[i];
    }
    return out;
}

static size_t merge_to_limit(slice *slices, size_t n, double total_ns, size_t most) {
    double width_ns = total_ns / (4 * (double)most);
    for (int round = 0; n > most && round < 64; round++, width_ns *= 1.5)
        n = merge_within(slices, n, width_ns);
    return n;
}

/* Texts that many slices share: "[index] = text" in order of first use. */
typedef struct text_list {
    profile_buffer json; /* the list's elements */
    char **texts;
    size_t n, capacity;
    uint32_t *buckets; /* [n_buckets] index + 1 */
} text_list;

enum { N_BUCKETS = 1 << 14 };

static bool text_list_create(text_list *list) {
    *list = (text_list){0};
    list->buckets = calloc(N_BUCKETS, sizeof *list->buckets);
    return list->buckets != NULL;
}

static void text_list_free(text_list *list) {
    for (size_t i = 0; i < list->n; i++)
        free(list->texts[i]);
    free(list->texts);
    free(list->buckets);
    profile_buffer_free(&list->json);
}

/* Index of the text, -1 for "" or when the list is full. */
static int text_list_add(text_list *list, const char *text) {
    if (!text[0])
        return -1;
    uint32_t h = 2166136261u;
    for (const char *c = text; *c; c++)
        h = (h ^ (uint8_t)*c) * 16777619u;
    size_t at = h % N_BUCKETS;
    for (; list->buckets[at]; at = (at + 1) % N_BUCKETS)
        if (!strcmp(list->texts[list->buckets[at] - 1], text))
            return (int)list->buckets[at] - 1;
    if (list->n >= N_BUCKETS / 2)
        return -1;
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        char **grown = realloc(list->texts, capacity * sizeof *grown);
        if (!grown)
            return -1; /* the slice goes without its text */
        list->texts = grown;
        list->capacity = capacity;
    }
    list->texts[list->n] = strdup(text);
    if (!list->texts[list->n])
        return -1;
    profile_printf(&list->json, "%s", list->n ? "," : "");
    profile_json_string(&list->json, text);
    list->buckets[at] = (uint32_t)++list->n;
    return (int)list->n - 1;
}

typedef struct page {
    const profile_input *in;
    profile_buffer *out;
    text_list titles, shapes;
} page;

static int64_t tenths(double ns) {
    return (int64_t)(ns * 10 + 0.5);
}

/* ,"key":[...] over the slices, one value each from `value`. */
static void column(page *p, const char *key, const slice *s, size_t n,
                   int64_t (*value)(page *p, const slice *s)) {
    profile_printf(p->out, ",\"%s\":[", key);
    for (size_t i = 0; i < n; i++)
        profile_printf(p->out, "%s%" PRId64, i ? "," : "", value(p, &s[i]));
    profile_printf(p->out, "]");
}

static int64_t duration_of(page *p, const slice *s) {
    (void)p;
    return tenths(s->end_ns) - tenths(s->start_ns);
}

static int64_t busy_of(page *p, const slice *s) {
    (void)p;
    return tenths(s->busy_ns);
}

static int64_t wait_of(page *p, const slice *s) {
    (void)p;
    return (int64_t)(s->wait_ns + 0.5);
}

static int64_t count_of(page *p, const slice *s) {
    (void)p;
    return s->n;
}

static int64_t op_of(page *p, const slice *s) {
    (void)p;
    return s->op == UINT32_MAX ? -1 : (int64_t)s->op;
}

static int64_t title_of(page *p, const slice *s) {
    if (s->n > 1)
        return -1;
    char text[256];
    profile_instr_title(p->in->program, &p->in->program->instrs[s->instr], text, sizeof text);
    return text_list_add(&p->titles, text);
}

static int64_t shapes_of(page *p, const slice *s) {
    if (s->n > 1)
        return -1;
    char text[256];
    profile_instr_shapes(&p->in->program->instrs[s->instr], text, sizeof text);
    return text_list_add(&p->shapes, text);
}

static void write_lane(page *p, const slice *s, size_t n) {
    char name[64];
    timing_interval where = {.lane = s->lane};
    profile_lane_name(&where, &p->in->program->instrs[s->instr], name, sizeof name);
    profile_printf(p->out, "{\"name\":");
    profile_json_string(p->out, name);
    profile_printf(p->out, ",\"e\":%d,\"t\":[", s->lane < TIMING_LANE_DMA ? s->lane : -1);
    int64_t end = 0; /* starts are relative to the end before */
    for (size_t i = 0; i < n; i++) {
        profile_printf(p->out, "%s%" PRId64, i ? "," : "", tenths(s[i].start_ns) - end);
        end = tenths(s[i].end_ns);
    }
    profile_printf(p->out, "]");
    column(p, "d", s, n, duration_of);
    column(p, "busy", s, n, busy_of);
    column(p, "w", s, n, wait_of);
    column(p, "n", s, n, count_of);
    column(p, "s", s, n, op_of);
    column(p, "i", s, n, title_of);
    column(p, "x", s, n, shapes_of);
    profile_printf(p->out, "}");
}

static void write_lanes(page *p, const slice *slices, size_t n) {
    profile_printf(p->out, "[");
    for (size_t first = 0; first < n;) {
        size_t end = first;
        while (end < n && slices[end].lane == slices[first].lane)
            end++;
        profile_printf(p->out, "%s", first ? "," : "");
        write_lane(p, slices + first, end - first);
        first = end;
    }
    profile_printf(p->out, "]");
}

/* Behind all lanes. */
static void write_texts(page *p) {
    profile_printf(p->out, ",\"titles\":[");
    profile_append(p->out, p->titles.json.data, p->titles.json.size);
    profile_printf(p->out, "],\"shapes\":[");
    profile_append(p->out, p->shapes.json.data, p->shapes.json.size);
    profile_printf(p->out, "]");
}

/* Whether a rank before this one has the same timeline; the shown one's is written already. */
static bool is_written(const profile_input *in, uint32_t rank) {
    const timing_result *t = in->ranks[rank].timing;
    if (!t || t == in->timing)
        return true;
    for (uint32_t r = 0; r < rank; r++)
        if (in->ranks[r].timing == t)
            return true;
    return false;
}

/* "more": timelines of the other ranks, of fewer slices; "rank_lanes": which of them is a rank's,
 * -1: that of the shown one, -2: none. */
static vtrn_status write_more_lanes(page *p, const profile_op_list *ops) {
    const profile_input *in = p->in;
    size_t n_more = 0;
    for (uint32_t r = 0; r < in->n_ranks; r++)
        n_more += !is_written(in, r);
    size_t most = n_more ? MAX_MORE_SLICES / n_more : 0;
    most = most < MIN_MORE_SLICES ? MIN_MORE_SLICES : most;
    profile_printf(p->out, ",\"more\":[");
    const char *separator = "";
    for (uint32_t r = 0; r < in->n_ranks; r++) {
        size_t n = 0;
        if (is_written(in, r))
            continue;
        slice *slices = slices_create(in, in->ranks[r].timing, ops, &n);
        if (!slices)
            return VTRN_OUT_OF_MEMORY(in->ranks[r].timing->n_intervals * sizeof *slices);
        n = merge_to_limit(slices, n, in->ranks[r].step_ns, most);
        profile_printf(p->out, "%s", separator);
        write_lanes(p, slices, n);
        separator = ",";
        free(slices);
    }
    profile_printf(p->out, "],\"rank_lanes\":[");
    int n_lists = 0;
    for (uint32_t r = 0; r < in->n_ranks; r++) {
        const timing_result *t = in->ranks[r].timing;
        const bool is_own = !is_written(in, r);
        int at = !t ? -2 : t == in->timing ? -1 : n_lists, before = 0;
        for (uint32_t k = 0; k < r && t && t != in->timing && !is_own; k++) {
            if (in->ranks[k].timing == t) {
                at = before;
                break;
            }
            before += !is_written(in, k);
        }
        n_lists += is_own;
        profile_printf(p->out, "%s%d", r ? "," : "", at);
    }
    profile_printf(p->out, "]");
    return NULL;
}

static void write_engines(profile_buffer *b, const profile_summary *s) {
    profile_printf(b, ",\"engines\":[");
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        if (!profile_shows_engine(s, e))
            continue;
        profile_printf(b, "%s{\"name\":\"%s\",", e ? "," : "", isa_engine_name((vtrn_engine)e));
        profile_printf(b, "\"active\":");
        profile_json_number(b, s->engine_active[e]);
        profile_printf(b, ",\"n\":%" PRIu64 "}", s->n_instrs[e]);
    }
    profile_printf(b, "]");
}

static void write_ops(profile_buffer *b, const profile_op_list *list) {
    profile_printf(b, ",\"ops\":[");
    for (size_t i = 0; i < list->n && i < MAX_OPS; i++) {
        const profile_op *op = &list->ops[i];
        profile_printf(b, "%s{\"op\":", i ? "," : "");
        profile_json_string(b, op->op);
        profile_printf(b, ",\"place\":");
        profile_json_string(b, op->place);
        profile_printf(b, ",\"ns\":[");
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            profile_printf(b, "%s%.1f", e ? "," : "", op->ns[e]);
        profile_printf(b, "],\"dma_ns\":%.1f,\"wait\":%.1f", op->dma_ns, op->wait_ns);
        profile_printf(b, ",\"dma_bytes\":%" PRIu64 ",\"n\":%" PRIu64 "}", op->dma_bytes,
                       op->n_instrs);
    }
    profile_printf(b, "]");
}

static void write_memory(profile_buffer *b, const profile_input *in) {
    static const char *const keys[] = {"t", "hbm", "sbuf", "psum"};
    profile_printf(b, ",\"memory\":{");
    for (int k = 0; k < 4; k++) {
        profile_printf(b, "%s\"%s\":[", k ? "," : "", keys[k]);
        for (size_t i = 0; i < in->n_memory; i++) {
            const profile_memory_sample *m = &in->memory[i];
            if (i)
                profile_printf(b, ",");
            profile_json_number(b, k == 0   ? m->t_ns
                                   : k == 1 ? (double)m->hbm_bytes
                                   : k == 2 ? (double)m->sbuf_bytes
                                            : (double)m->psum_bytes);
        }
        profile_printf(b, "]");
    }
    profile_printf(b, "}");
}

static vtrn_status write_data(page *p, const profile_op_list *ops, const slice *slices, size_t n) {
    const profile_input *in = p->in;
    profile_buffer *b = p->out;
    profile_summary s;
    profile_summarize(in, &s);
    uint64_t n_instructions = 0;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        n_instructions += s.n_instrs[e];
    profile_printf(b, "{\"version\":\"%s\"", VTRN_VERSION);
    profile_json_names(b, in, ",");
    profile_json_values(b, &in->values, ",");
    profile_printf(b, ",\"n_instructions\":%" PRIu64 ",\"n_intervals\":%zu,\"n_shown\":%zu",
                   n_instructions, in->timing->n_intervals, n);
    profile_json_figures(b, &s, ",");
    write_engines(b, &s);
    profile_printf(b, ",\"lanes\":");
    write_lanes(p, slices, n);
    if (in->ranks) {
        VTRN_RETURN_IF_ERROR(write_more_lanes(p, ops));
        VTRN_RETURN_IF_ERROR(profile_json_ranks(b, in, ","));
        if (in->topology)
            VTRN_RETURN_IF_ERROR(profile_json_comm(b, in, ","));
    }
    write_texts(p);
    write_ops(b, ops);
    write_memory(b, in);
    if (in->explanation)
        profile_json_explanation(b, in->explanation, ",");
    profile_printf(b, "}");
    return NULL;
}

/* The page up to the marker, the data, the rest. */
static vtrn_status write_page(page *p, const profile_op_list *ops, const slice *slices, size_t n) {
    static const char marker[] = "@DATA@";
    const char *at = memmem(report_html, report_html_size, marker, sizeof marker - 1);
    VTRN_CHECK(at != NULL, "report.html has the marker");
    profile_append(p->out, report_html, (size_t)(at - report_html));
    VTRN_RETURN_IF_ERROR(write_data(p, ops, slices, n));
    at += sizeof marker - 1;
    profile_append(p->out, at, report_html_size - (size_t)(at - report_html));
    return NULL;
}

vtrn_status profile_write_html(const profile_input *in, const char *path) {
    profile_op_list ops;
    VTRN_RETURN_IF_ERROR(profile_op_list_create(in->program, in->timing, &ops));
    profile_buffer out = {0};
    page p = {.in = in, .out = &out};
    size_t n = 0;
    slice *slices = slices_create(in, in->timing, &ops, &n);
    bool has_titles = text_list_create(&p.titles);
    bool has_shapes = text_list_create(&p.shapes);
    vtrn_status status = NULL;
    if (!slices || !has_titles || !has_shapes) {
        status = VTRN_OUT_OF_MEMORY(in->timing->n_intervals * sizeof *slices);
    } else {
        n = merge_to_limit(slices, n, in->timing->summary.total_ns, MAX_SLICES);
        status = write_page(&p, &ops, slices, n);
        out.is_short |= p.titles.json.is_short | p.shapes.json.is_short;
        if (!status)
            status = profile_buffer_save(&out, path);
    }
    text_list_free(&p.titles);
    text_list_free(&p.shapes);
    free(slices);
    profile_buffer_free(&out);
    profile_op_list_free(&ops);
    return status;
}
