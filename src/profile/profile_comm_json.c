/* Communication as JSON, for programs and for the page. */
#include "profile/profile_comm.h"

#include <inttypes.h>

static void write_row(profile_buffer *b, const profile_input *in, const profile_comm_row *row) {
    const vtrn_custom *custom = &in->program->customs[row->custom_i];
    const vtrn_collective *c = custom->collective;
    profile_printf(b, "{\"op\":");
    profile_json_string(b, collective_kind_name(c->kind));
    profile_printf(b, ",\"place\":");
    profile_json_string(b, row->source && row->source->place ? row->source->place : "");
    profile_printf(b, ",\"n\":%" PRIu64 ",\"tensors\":%" PRIu32 ",\"bytes\":%" PRIu64, row->n,
                   custom->n_inputs, row->bytes);
    profile_printf(b, ",\"groups\":%" PRIu32 ",\"members\":%" PRIu32 ",\"first_group\":[",
                   c->n_groups, c->group_size);
    for (uint32_t i = 0; i < c->group_size && c->n_groups && c->groups[i] >= 0; i++)
        profile_printf(b, "%s%" PRId32, i ? "," : "", c->groups[i]);
    profile_printf(
        b, "],\"algorithm\":\"%s\",\"run_ns\":", collective_algorithm_name(row->time.algorithm));
    profile_json_number(b, row->time.duration_ns);
    profile_printf(b, ",\"latency_ns\":");
    profile_json_number(b, row->time.latency_ns);
    profile_printf(b, ",\"refused_by_the_runtime\":");
    if (row->restriction)
        profile_json_string(b, row->restriction);
    else
        profile_printf(b, "null");
    profile_printf(b, "}");
}

static void write_link(profile_buffer *b, const profile_input *in, const profile_comm *comm,
                       int link) {
    const collective_link l = collective_link_at(in->topology, link);
    const double ns = 1e9 * comm->link_bytes[link] / l.bytes_per_s;
    profile_printf(b, "{\"from\":%d,\"to\":%d,\"bytes\":", l.from, l.to);
    profile_json_number(b, comm->link_bytes[link]);
    profile_printf(b, ",\"bytes_per_s\":");
    profile_json_number(b, l.bytes_per_s);
    profile_printf(b, ",\"busy_ns\":");
    profile_json_number(b, ns);
    profile_printf(b, "}");
}

/* Chip by chip: where it is. */
static void write_chips(profile_buffer *b, const profile_input *in) {
    const int per_chip = in->chip->n_cores, n = collective_n_devices(in->topology) / per_chip;
    profile_printf(b, ",\"chips\":[");
    for (int i = 0; i < n; i++) {
        const collective_place p = collective_place_of(in->topology, i * per_chip);
        profile_printf(b, "%s[%d,%d,%d]", i ? "," : "", p.xyz[0], p.xyz[1], p.xyz[2]);
    }
    profile_printf(b, "]");
}

static void write_matrix(profile_buffer *b, const profile_comm *comm) {
    const size_t n = comm->n_sides;
    profile_printf(b, ",\"matrix\":{\"of\":\"%s\",\"sides\":[",
                   comm->is_by_chip ? "chips" : "ranks");
    for (size_t i = 0; i < n; i++)
        profile_printf(b, "%s%d", i ? "," : "", comm->sides[i]);
    profile_printf(b, "],\"bytes\":[");
    for (size_t i = 0; i < n; i++) {
        profile_printf(b, "%s[", i ? "," : "");
        for (size_t k = 0; k < n; k++)
            profile_printf(b, "%s%.0f", k ? "," : "", comm->matrix[i * n + k]);
        profile_printf(b, "]");
    }
    profile_printf(b, "]}");
}

vtrn_status profile_json_comm(profile_buffer *b, const profile_input *in, const char *between) {
    profile_comm comm;
    VTRN_RETURN_IF_ERROR(profile_comm_create(in, &comm));
    profile_printf(b, "%s\"communication\":{\"collectives\":[", between);
    for (size_t i = 0; i < comm.n; i++) {
        profile_printf(b, "%s", i ? "," : "");
        write_row(b, in, &comm.rows[i]);
    }
    profile_printf(b, "],\"cores_per_chip\":%d,\"topology\":", in->chip->n_cores);
    profile_json_string(b, in->instance ? in->instance->topology : "");
    profile_printf(b, ",\"slowest_link\":");
    if (comm.slowest_link >= 0)
        write_link(b, in, &comm, comm.slowest_link);
    else
        profile_printf(b, "null");
    profile_printf(b, ",\"links\":[");
    const char *separator = "";
    for (int i = 0; i < comm.n_links; i++) {
        if (comm.link_bytes[i] <= 0)
            continue;
        profile_printf(b, "%s", separator);
        write_link(b, in, &comm, i);
        separator = ",";
    }
    profile_printf(b, "]");
    write_chips(b, in);
    write_matrix(b, &comm);
    profile_printf(b, "}");
    profile_comm_free(&comm);
    return NULL;
}
