/* The figures of a step, and profile.json. */
#include "profile/profile_summary.h"
#include "profile/profile_comm.h"
#include "profile/profile_explain.h"
#include "profile/profile_ops.h"
#include "profile/profile_overlap.h"

#include <inttypes.h>
#include <stdlib.h>

static double share(double part, double whole) {
    return whole > 0 ? part / whole : 0;
}

static void summarize_memory(const profile_input *in, profile_summary *s) {
    for (size_t i = 0; i < in->n_memory; i++) {
        const profile_memory_sample *m = &in->memory[i];
        s->hbm_peak_bytes = m->hbm_bytes > s->hbm_peak_bytes ? m->hbm_bytes : s->hbm_peak_bytes;
        s->sbuf_live_peak_bytes =
            m->sbuf_bytes > s->sbuf_live_peak_bytes ? m->sbuf_bytes : s->sbuf_live_peak_bytes;
        s->psum_live_peak_bytes =
            m->psum_bytes > s->psum_live_peak_bytes ? m->psum_bytes : s->psum_live_peak_bytes;
    }
    uint64_t n_partitions = (uint64_t)in->chip->n_partitions;
    if (in->counters.hbm_peak_bytes)
        s->hbm_peak_bytes = in->counters.hbm_peak_bytes;
    s->sbuf_placed_peak_bytes = in->program->sbuf_peak_bytes * n_partitions;
    s->psum_placed_peak_bytes = in->program->psum_peak_bytes * n_partitions;
    s->sbuf_capacity_bytes = in->chip->sbuf_partition_bytes * n_partitions;
    s->psum_capacity_bytes = in->chip->psum_partition_bytes * n_partitions;
    if (in->chip->n_cores > 0)
        s->hbm_capacity_bytes = in->chip->hbm_bytes / (uint64_t)in->chip->n_cores;
}

static void summarize_price(const profile_input *in, profile_summary *s) {
    s->samples_per_step = in->counters.samples_per_step;
    if (s->step_ns > 0)
        s->samples_per_second = (double)s->samples_per_step / (s->step_ns * 1e-9);
    if (!in->instance)
        return;
    s->dollars_per_hour = in->instance->dollars_per_hour;
    s->instance_cores = in->instance->n_chips * in->chip->n_cores;
    if (s->samples_per_second > 0)
        s->dollars_per_million_samples = s->dollars_per_hour / 3600 / s->samples_per_second * 1e6;
}

void profile_summarize(const profile_input *in, profile_summary *out) {
    const timing_summary *t = &in->timing->summary;
    *out = (profile_summary){.step_ns = t->total_ns,
                             .flops = t->flops,
                             .n_dmas = t->n_dmas,
                             .hbm_read_bytes = t->hbm_read_bytes,
                             .hbm_write_bytes = t->hbm_write_bytes,
                             .spill_save_bytes = t->spill_save_bytes,
                             .spill_reload_bytes = t->spill_reload_bytes,
                             .n_reference_ops = program_n_reference_ops(in->program),
                             .custom_ns = t->custom_ns,
                             .host_seconds = in->counters.host_seconds,
                             .functional_seconds = in->counters.functional_seconds,
                             .timing_seconds = in->counters.timing_seconds,
                             .n_executions = in->counters.n_executions};
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        out->engine_active[e] = share(t->active_ns[e], t->total_ns);
        out->n_instrs[e] = t->n_instrs[e];
    }
    out->dma_active = share(t->dma_active_ns, t->total_ns);
    out->dma_busy = t->dma_busy_share;
    out->mfu = share((double)out->flops, t->total_ns * 1e-9 * in->chip->peak_tensor_flops);
    out->reference_time_share = share(in->counters.custom_seconds, in->counters.functional_seconds);
    summarize_memory(in, out);
    summarize_price(in, out);
}

static void text(profile_buffer *b, const char *between, const char *key, const char *value) {
    profile_printf(b, "%s\"%s\": ", between, key);
    profile_json_string(b, value);
}

void profile_json_names(profile_buffer *b, const profile_input *in, const char *between) {
    text(b, between, "name", in->name ? in->name : in->program->name);
    text(b, between, "chip", in->chip->name);
    profile_printf(b, "%s\"chip_version\": %d", between, in->chip->version);
    text(b, between, "core", in->chip->core_name);
    text(b, between, "instance", in->instance ? in->instance->name : "");
}

const char *profile_values_note(const profile_values *v) {
    if (v->are_left_out)
        return "times only: no values were computed";
    if (v->n)
        return "not the values of the whole run: in collectives the ranks that were computed gave "
               "for all others";
    return NULL;
}

void profile_json_values(profile_buffer *b, const profile_values *v, const char *between) {
    profile_printf(b, "%s\"values\": {\"of\": \"%s\"", between,
                   v->are_left_out ? "none"
                   : v->n          ? "some"
                                   : "all");
    for (uint32_t i = 0; i < v->n; i++)
        profile_printf(b, "%s%" PRIu32, i ? ", " : ", \"ranks\": [", v->ranks[i]);
    if (v->n)
        profile_printf(b, "]");
    if (profile_values_note(v)) {
        profile_printf(b, ", \"note\": ");
        profile_json_string(b, profile_values_note(v));
    }
    profile_printf(b, "}");
}

void profile_json_figures(profile_buffer *b, const profile_summary *s, const char *between) {
    const struct {
        const char *key;
        double value;
    } figures[] = {
        {"step_ns", s->step_ns},
        {"samples_per_step", (double)s->samples_per_step},
        {"samples_per_second", s->samples_per_second},
        {"mfu", s->mfu},
        {"flops", (double)s->flops},
        {"dma_active", s->dma_active},
        {"dma_busy", s->dma_busy},
        {"n_dmas", (double)s->n_dmas},
        {"hbm_read_bytes", (double)s->hbm_read_bytes},
        {"hbm_write_bytes", (double)s->hbm_write_bytes},
        {"spill_save_bytes", (double)s->spill_save_bytes},
        {"spill_reload_bytes", (double)s->spill_reload_bytes},
        {"hbm_peak_bytes", (double)s->hbm_peak_bytes},
        {"sbuf_placed_peak_bytes", (double)s->sbuf_placed_peak_bytes},
        {"sbuf_live_peak_bytes", (double)s->sbuf_live_peak_bytes},
        {"psum_placed_peak_bytes", (double)s->psum_placed_peak_bytes},
        {"psum_live_peak_bytes", (double)s->psum_live_peak_bytes},
        {"hbm_capacity_bytes", (double)s->hbm_capacity_bytes},
        {"sbuf_capacity_bytes", (double)s->sbuf_capacity_bytes},
        {"psum_capacity_bytes", (double)s->psum_capacity_bytes},
        {"dollars_per_hour", s->dollars_per_hour},
        {"instance_cores", s->instance_cores},
        {"dollars_per_million_samples", s->dollars_per_million_samples},
        {"reference_time_share", s->reference_time_share},
        {"n_reference_ops", s->n_reference_ops},
        {"custom_ns", s->custom_ns},
        {"host_seconds", s->host_seconds},
        {"functional_seconds", s->functional_seconds},
        {"timing_seconds", s->timing_seconds},
        {"n_executions", (double)s->n_executions},
    };
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        profile_printf(b, "%s\"%s\": ", between, figures[i].key);
        profile_json_number(b, figures[i].value);
    }
}

static void json_engines(profile_buffer *b, const profile_summary *s) {
    profile_printf(b, ",\n  \"engines\": {");
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        if (!profile_shows_engine(s, e))
            continue;
        profile_printf(b, "%s\n    \"%s\": {\"active\": ", e ? "," : "",
                       isa_engine_name((vtrn_engine)e));
        profile_json_number(b, s->engine_active[e]);
        profile_printf(b, ", \"n_instructions\": %" PRIu64 "}", s->n_instrs[e]);
    }
    profile_printf(b, "\n  }");
}

static void json_ops(profile_buffer *b, const profile_op_list *list) {
    enum { MAX_OPS = 50 };
    profile_printf(b, ",\n  \"top_ops\": [");
    for (size_t i = 0; i < list->n && i < MAX_OPS; i++) {
        const profile_op *op = &list->ops[i];
        profile_printf(b, "%s\n    {\"op\": ", i ? "," : "");
        profile_json_string(b, op->op);
        profile_printf(b, ", \"place\": ");
        profile_json_string(b, op->place);
        profile_printf(b, ", \"scope\": ");
        profile_json_string(b, profile_scope(op->place));
        profile_printf(b, ", \"engine_ns\": ");
        profile_json_number(b, op->engine_ns);
        profile_printf(b, ", \"dma_ns\": ");
        profile_json_number(b, op->dma_ns);
        profile_printf(b, ", \"dma_bytes\": %" PRIu64 ", \"n_instructions\": %" PRIu64 "}",
                       op->dma_bytes, op->n_instrs);
    }
    profile_printf(b, "\n  ]");
}

static void json_customs(profile_buffer *b, const vtrn_program *p) {
    profile_printf(b, ",\n  \"reference_ops\": [");
    const char *separator = "";
    for (uint32_t i = 0; i < p->n_customs; i++) {
        if (!program_is_reference_op(&p->customs[i]))
            continue;
        profile_printf(b, "%s", separator);
        profile_json_string(b, p->customs[i].name);
        separator = ", ";
    }
    profile_printf(b, "]");
}

/* The assumed constants that the times rest on. */
static void json_assumed(profile_buffer *b, const timing_reliances *r) {
    profile_printf(b,
                   ",\n  \"assumed\": {\"n_constants\": %d, \"ten_percent_more\": ", r->n_assumed);
    profile_json_number(b, r->together);
    profile_printf(b, ", \"constants\": [");
    for (int i = 0; i < r->n; i++) {
        profile_printf(b, "%s\n    {\"name\": \"%s.%s\", \"ten_percent_more\": ", i ? "," : "",
                       chip_key_table(r->of[i].key), chip_key_name(r->of[i].key));
        profile_json_number(b, r->of[i].change);
        profile_printf(b, "}");
    }
    profile_printf(b, "]}");
}

/* The other figures are those of the rank that is shown. */
vtrn_status profile_json_ranks(profile_buffer *b, const profile_input *in, const char *between) {
    double exposed_ns, hidden_ns;
    VTRN_RETURN_IF_ERROR(profile_exposed_ns(in->program, in->timing, &exposed_ns, &hidden_ns));
    profile_printf(b,
                   "%s\"ranks\": {\"n\": %" PRIu32 ", \"shown\": %" PRIu32
                   ", \"whole_ops_on_every_rank\": %" PRIu32 ", \"undivided_because\": ",
                   between, in->n_ranks, in->shown_rank, in->n_whole_ops);
    if (in->whole_reason)
        profile_json_string(b, in->whole_reason);
    else
        profile_printf(b, "null");
    profile_printf(
        b, ", \"n_collectives\": %" PRIu64 ", \"exposed_ns\": ", in->timing->summary.n_collectives);
    profile_json_number(b, exposed_ns);
    profile_printf(b, ", \"hidden_ns\": ");
    profile_json_number(b, hidden_ns);
    profile_printf(b, ", \"step_ns_without_collectives\": ");
    profile_json_number(b, in->free_step_ns);
    profile_printf(b, ", \"times\": [");
    for (uint32_t r = 0; r < in->n_ranks; r++) {
        const profile_rank *rank = &in->ranks[r];
        profile_printf(b, "%s\n    {\"core\": %d, \"step_ns\": ", r ? "," : "", rank->core_i);
        profile_json_number(b, rank->step_ns);
        profile_printf(b, ", \"collective_ns\": ");
        profile_json_number(b, rank->collective_ns);
        profile_printf(b, ", \"waiting_ns\": ");
        profile_json_number(b, rank->skew_ns);
        profile_printf(b, "}");
    }
    profile_printf(b, "]}");
    return NULL;
}

vtrn_status profile_write_json(const profile_input *in, const char *path) {
    profile_summary s;
    profile_summarize(in, &s);
    profile_op_list list;
    VTRN_RETURN_IF_ERROR(profile_op_list_create(in->program, in->timing, &list));
    profile_buffer b = {0};
    profile_printf(&b, "{\n  \"version\": 1");
    profile_json_names(&b, in, ",\n  ");
    profile_json_values(&b, &in->values, ",\n  ");
    profile_json_figures(&b, &s, ",\n  ");
    json_engines(&b, &s);
    json_ops(&b, &list);
    json_customs(&b, in->program);
    vtrn_status status = in->ranks ? profile_json_ranks(&b, in, ",\n  ") : NULL;
    if (!status && in->ranks && in->topology)
        status = profile_json_comm(&b, in, ",\n  ");
    if (in->explanation)
        profile_json_explanation(&b, in->explanation, ",\n  ");
    if (in->reliances)
        json_assumed(&b, in->reliances);
    profile_printf(&b, "\n}\n");
    if (!status)
        status = profile_buffer_save(&b, path);
    profile_buffer_free(&b);
    profile_op_list_free(&list);
    return status;
}
