/* The programs of a run, heaviest first: summary.json for programs, index.html for people. */
#include "profile/profile_index.h"

#include "profile/profile_buffer.h"
#include "profile/profile_summary.h"

#include <inttypes.h>

vtrn_status profile_write_index_json(const profile_index *index, const char *path) {
    profile_buffer b = {0};
    profile_printf(&b, "{\n  \"version\": \"%s\",\n  \"chip\": ", VTRN_VERSION);
    profile_json_string(&b, index->chip->name);
    profile_printf(&b, ",\n  \"instance\": ");
    profile_json_string(&b, index->instance->name);
    profile_printf(&b, ",\n  \"dollars_per_hour\": %.9g,\n  \"instance_cores\": %d",
                   index->instance->dollars_per_hour, index->n_cores);
    profile_json_values(&b, &index->values, ",\n  ");
    profile_printf(&b, ",\n  \"executables\": [");
    for (size_t i = 0; i < index->n; i++) {
        const profile_index_entry *e = &index->entries[i];
        profile_printf(&b, "%s\n    {\"name\": ", i ? "," : "");
        profile_json_string(&b, e->name);
        profile_printf(&b, ", \"n\": %" PRIu64 ", \"executions\": %" PRIu64, e->serial,
                       e->n_executions);
        profile_printf(&b, ", \"step_ns\": %.17g, \"total_simulated_ns\": %.17g", e->step_ns,
                       e->total_simulated_ns);
        profile_printf(&b, ", \"device_ns\": %.17g, \"flops\": %" PRIu64, e->device_ns, e->flops);
        profile_printf(&b, ", \"profile\": ");
        profile_json_string(&b, e->directory);
        profile_printf(&b, "}");
    }
    profile_printf(&b, "\n  ]\n}\n");
    vtrn_status status = profile_buffer_save(&b, path);
    profile_buffer_free(&b);
    return status;
}

/* Text between tags. */
static void escaped(profile_buffer *b, const char *text) {
    for (; *text; text++) {
        const char *as = *text == '<'   ? "&lt;"
                         : *text == '>' ? "&gt;"
                         : *text == '&' ? "&amp;"
                         : *text == '"' ? "&quot;"
                                        : NULL;
        if (as)
            profile_printf(b, "%s", as);
        else
            profile_append(b, text, 1);
    }
}

static void write_time(profile_buffer *b, double ns) {
    static const char *const units[] = {"ns", "&micro;s", "ms", "s"};
    int i = 0;
    for (; i < 3 && ns >= 1000; i++)
        ns /= 1000;
    profile_printf(b, "<td>%.4g %s</td>", ns, units[i]);
}

static void write_row(profile_buffer *b, const profile_index_entry *e, double all_ns) {
    double share = all_ns > 0 ? e->device_ns / all_ns : 0;
    profile_printf(b, "<tr><td class=\"name\">");
    if (e->directory) {
        profile_printf(b, "<a href=\"");
        escaped(b, e->directory);
        profile_printf(b, "/profile.html\">");
    }
    escaped(b, e->name);
    profile_printf(b, "%s</td>", e->directory ? "</a>" : "");
    write_time(b, e->device_ns);
    profile_printf(b, "<td>%.1f %%<div class=\"bar\" style=\"width:%.1f%%\"></div></td>",
                   100 * share, 100 * share);
    profile_printf(b, "<td>%" PRIu64 "</td>", e->n_executions);
    write_time(b, e->step_ns);
    profile_printf(b, "<td>%.4g</td></tr>\n", (double)e->flops);
}

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n<title>vtrn: programs</title>\n"
    "<style>body{font:14px system-ui,sans-serif;margin:2em;max-width:70em}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{text-align:right;padding:.3em .8em;border-bottom:1px solid #ddd}"
    "th:first-child,.name{text-align:left}"
    ".bar{height:4px;background:#36c}</style>\n<h1>Programs of the run</h1>\n";

vtrn_status profile_write_index_html(const profile_index *index, const char *path) {
    profile_buffer b = {0};
    const char *note = profile_values_note(&index->values);
    double all_ns = 0;
    size_t n_written = 0;
    for (size_t i = 0; i < index->n; i++) {
        all_ns += index->entries[i].device_ns;
        n_written += index->entries[i].directory != NULL;
    }
    profile_append(&b, head, sizeof head - 1);
    profile_printf(&b, "<p>%s, ", index->chip->name);
    escaped(&b, index->instance->name);
    profile_printf(
        &b,
        ". The program with the most device time (simulated, without launches) is first, those "
        "that only move data are last. "
        "%zu of %zu have a profile.</p>\n<table>%s%s%s<tr><th>program</th><th>device time</th>"
        "<th>share</th><th>executions</th><th>last execution</th>"
        "<th>FLOP an execution</th></tr>\n",
        n_written, index->n, note ? "<caption>" : "", note ? note : "", note ? "</caption>" : "");
    for (size_t i = 0; i < index->n; i++)
        write_row(&b, &index->entries[i], all_ns);
    profile_printf(&b, "</table></html>\n");
    vtrn_status status = profile_buffer_save(&b, path);
    profile_buffer_free(&b);
    return status;
}
