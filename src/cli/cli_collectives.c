/* vtrn collectives: what a collective takes on an instance, size by size. */
#include "cli/cli.h"
#include "collective/collective.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIZES = 512 };

/* What a run of the command asks for. */
typedef struct query {
    const cli_command *self;
    collective_op op;
    const char *instance, *sizes, *algorithm;
    int64_t n_ranks, n_nodes, n_groups, lnc;
    bool is_in_sbuf, is_json;
    vtrn_instance machine;
    vtrn_chip chip;
} query;

/* "8K", "1.5M", "4096": bytes. NULL: no size; else the rest of the text. */
static const char *parse_size(const char *text, double *bytes) {
    static const char units[] = "KMG";
    char *end;
    errno = 0;
    *bytes = strtod(text, &end);
    if (end == text || errno || !(*bytes >= 1 && *bytes <= 1e15))
        return NULL;
    const char *unit = *end ? strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
    if (unit) {
        for (ptrdiff_t i = 0; i <= unit - units; i++)
            *bytes *= 1024;
        end++;
    }
    if (*bytes > 1e15)
        return NULL;
    *bytes = (double)(uint64_t)*bytes;
    return end;
}

/* "8K:1G": each twice the one before; "8K,3M": these. 0: neither. */
static int parse_sizes(const char *text, uint64_t sizes[MAX_SIZES]) {
    double first, last;
    const char *at = parse_size(text, &first);
    if (at && *at == ':') {
        at = parse_size(at + 1, &last);
        if (!at || *at || last < first)
            return 0;
        int n = 0;
        for (double bytes = first; bytes <= last && n < MAX_SIZES; bytes *= 2)
            sizes[n++] = (uint64_t)bytes;
        return n;
    }
    int n = 0;
    for (; at && n < MAX_SIZES; at = parse_size(at + 1, &first)) {
        sizes[n++] = (uint64_t)first;
        if (!*at)
            return n;
        if (*at != ',')
            return 0;
    }
    return 0;
}

/* nccom-test's bus bandwidth over its algorithm bandwidth. */
static double bus_factor(const query *q) {
    double n = (double)q->n_ranks;
    switch (q->op) {
    case COLLECTIVE_ALL_REDUCE:
        return 2 * (n - 1) / n;
    case COLLECTIVE_PERMUTE:
    case COLLECTIVE_BROADCAST:
        return 1;
    default:
        return (n - 1) / n;
    }
}

/* Ranks of group g of a node: consecutive devices. With several nodes each has an equal part of
 * every group. */
static int *make_groups(const query *q, const collective_topology *t, int *n_groups,
                        int *group_size) {
    bool is_permute = q->op == COLLECTIVE_PERMUTE;
    int n = (int)q->n_ranks, per_node = n / (int)q->n_nodes;
    int node_devices = collective_n_devices(t) / (int)q->n_nodes;
    int *ranks = malloc((size_t)n * (size_t)q->n_groups * 2 * sizeof *ranks);
    if (!ranks)
        return NULL;
    *group_size = is_permute ? 2 : n;
    *n_groups = is_permute ? (n > 1 ? n : 1) * (int)q->n_groups : (int)q->n_groups;
    int at = 0;
    for (int g = 0; g < q->n_groups; g++)
        for (int i = 0; i < n; i++) {
            int device = i / per_node * node_devices + g * per_node + i % per_node;
            int j = (i + 1) % n;
            ranks[at++] = device;
            if (is_permute)
                ranks[at++] = j / per_node * node_devices + g * per_node + j % per_node;
        }
    return ranks;
}

static void print_row(const query *q, uint64_t bytes, const collective_time *time, bool is_first) {
    double algbw = (double)bytes / time->duration_ns; /* bytes a ns are GB/s */
    double busbw = algbw * bus_factor(q);
    const char *algorithm = collective_algorithm_name(time->algorithm);
    if (!q->is_json) {
        printf("%14llu %14.2f %12.2f %12.2f  %-13s %6d\n", (unsigned long long)bytes,
               time->duration_ns / 1e3, algbw, busbw, algorithm, time->n_steps);
        return;
    }
    printf("%s{\"bytes\": %llu, \"time_us\": ", is_first ? "" : ", ", (unsigned long long)bytes);
    cli_json_number(stdout, time->duration_ns / 1e3);
    printf(", \"latency_us\": ");
    cli_json_number(stdout, time->latency_ns / 1e3);
    printf(", \"algbw_gb_per_s\": ");
    cli_json_number(stdout, algbw);
    printf(", \"busbw_gb_per_s\": ");
    cli_json_number(stdout, busbw);
    printf(", \"algorithm\": \"%s\", \"steps\": %d, \"busiest_link_bytes\": ", algorithm,
           time->n_steps);
    cli_json_number(stdout, time->busiest_link_bytes);
    printf("}");
}

static void print_head(const query *q, const char *restriction) {
    if (q->is_json) {
        printf("{\"op\": \"%s\", \"instance\": ", collective_op_name(q->op));
        cli_json_text(stdout, q->instance);
        printf(", \"nodes\": %lld, \"ranks\": %lld, \"groups\": %lld, \"lnc\": %lld, "
               "\"restriction\": ",
               (long long)q->n_nodes, (long long)q->n_ranks, (long long)q->n_groups,
               (long long)q->lnc);
        if (restriction)
            cli_json_text(stdout, restriction);
        else
            printf("null");
        printf(", \"rows\": [");
        return;
    }
    printf("# %s, %lld x %s, LNC %lld, %lld ranks", collective_op_name(q->op),
           (long long)q->n_nodes, q->instance, (long long)q->lnc, (long long)q->n_ranks);
    if (q->n_groups > 1)
        printf(" in each of %lld groups at once", (long long)q->n_groups);
    printf("\n");
    if (restriction)
        printf("# not on the real chip: %s\n", restriction);
    printf("%14s %14s %12s %12s  %-13s %6s\n", "size (B)", "time (us)", "algbw (GB/s)",
           "busbw (GB/s)", "algorithm", "steps");
}

static vtrn_status print_rows(const query *q, const collective_topology *t,
                              collective_request *request, const uint64_t *sizes, int n_sizes) {
    /* The first estimate finds what is wrong with the request, before anything is printed. */
    collective_time time;
    request->bytes = sizes[0];
    VTRN_RETURN_IF_ERROR(collective_estimate(t, request, &time));
    collective_request of_ranks = *request;
    of_ranks.group_size = q->op == COLLECTIVE_PERMUTE ? 2 : (int)q->n_ranks;
    print_head(q, collective_restriction(t, &of_ranks));
    for (int i = 0; i < n_sizes; i++) {
        request->bytes = sizes[i];
        VTRN_RETURN_IF_ERROR(collective_estimate(t, request, &time));
        print_row(q, sizes[i], &time, i == 0);
    }
    if (q->is_json)
        printf("]}\n");
    return NULL;
}

/* Fills in what was not given, and checks the numbers. CLI_OK or the exit code. */
static int complete(query *q, int n_devices) {
    if (!q->n_ranks)
        q->n_ranks = n_devices / q->n_groups / q->n_nodes * q->n_nodes;
    if (q->n_ranks < 1 || q->n_ranks > n_devices)
        return cli_usage(q->self, "--ranks %lld: %lld x %s at LNC %lld has %d NeuronCores",
                         (long long)q->n_ranks, (long long)q->n_nodes, q->instance,
                         (long long)q->lnc, n_devices);
    if (q->n_ranks % q->n_nodes)
        return cli_usage(q->self, "--ranks %lld cannot be dealt over %lld nodes evenly",
                         (long long)q->n_ranks, (long long)q->n_nodes);
    if (q->n_groups < 1 || q->n_groups > n_devices / q->n_ranks)
        return cli_usage(q->self, "--groups %lld of %lld ranks: there are %d NeuronCores",
                         (long long)q->n_groups, (long long)q->n_ranks, n_devices);
    return CLI_OK;
}

static int print_table(query *q, const uint64_t *sizes, int n_sizes) {
    vtrn_status status = chip_instance_load(q->instance, &q->machine);
    if (!status)
        status = chip_load(q->machine.chip, &q->chip);
    if (status)
        return cli_fail(status);
    if (!q->lnc)
        q->lnc = q->chip.gen >= 3 ? 2 : 1;
    collective_topology *t;
    status = collective_topology_create(&q->machine, &q->chip, (int)q->lnc, (int)q->n_nodes, &t);
    if (status)
        return cli_fail(status);
    int code = complete(q, collective_n_devices(t));
    if (code != CLI_OK) {
        collective_topology_destroy(t);
        return code;
    }
    collective_request request = {.op = q->op, .is_in_sbuf = q->is_in_sbuf};
    while (q->algorithm && strcmp(collective_algorithm_name(request.algorithm), q->algorithm) != 0)
        request.algorithm++;
    int *ranks = make_groups(q, t, &request.n_groups, &request.group_size);
    request.devices = ranks;
    status = ranks ? print_rows(q, t, &request, sizes, n_sizes) : VTRN_OUT_OF_MEMORY(q->n_ranks);
    free(ranks);
    collective_topology_destroy(t);
    return status ? cli_fail(status) : CLI_OK;
}

static bool is_algorithm(const char *name) {
    for (int a = COLLECTIVE_MESH; a < COLLECTIVE_N_ALGORITHMS; a++)
        if (strcmp(collective_algorithm_name((collective_algorithm)a), name) == 0)
            return true;
    return false;
}

static int run(const cli_command *self, int argc, char **argv) {
    query q = {.self = self, .n_nodes = 1, .n_groups = 1};
    cli_list ops = {.n = 0};
    const cli_option options[] = {
        {"--instance", CLI_TEXT, &q.instance},   {"--sizes", CLI_TEXT, &q.sizes},
        {"--ranks", CLI_NUMBER, &q.n_ranks},     {"--nodes", CLI_NUMBER, &q.n_nodes},
        {"--groups", CLI_NUMBER, &q.n_groups},   {"--lnc", CLI_NUMBER, &q.lnc},
        {"--algorithm", CLI_TEXT, &q.algorithm}, {"--sbuf", CLI_FLAG, &q.is_in_sbuf},
        {"--json", CLI_FLAG, &q.is_json},        {NULL, CLI_LIST, &ops}};
    int code;
    uint64_t sizes[MAX_SIZES];
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (ops.n != 1)
        return cli_usage(self, "one operation at a time");
    while (q.op < COLLECTIVE_N_OPS && strcmp(collective_op_name(q.op), ops.items[0]) != 0)
        q.op++;
    if (q.op == COLLECTIVE_N_OPS)
        return cli_usage(self, "no operation '%s'", ops.items[0]);
    if (!q.instance)
        return cli_usage(self, "--instance is missing");
    int n_sizes = parse_sizes(q.sizes ? q.sizes : "1K:1G", sizes);
    if (!n_sizes)
        return cli_usage(
            self, "--sizes %s: write FIRST:LAST or A,B,C, as 8K:1G, of 1 to 1e15 bytes", q.sizes);
    if (q.algorithm && !is_algorithm(q.algorithm))
        return cli_usage(self, "no algorithm '%s'", q.algorithm);
    if (q.n_nodes < 1 || q.n_nodes > 1024 || q.lnc < 0 || q.lnc > 64)
        return cli_usage(self, "--nodes is 1 to 1024, --lnc 1 or 2");
    if (q.n_groups < 1)
        return cli_usage(self, "--groups is 1 or more");
    return print_table(&q, sizes, n_sizes);
}

const cli_command cli_collectives = {
    .name = "collectives",
    .summary = "what a collective takes on an instance, size by size",
    .help =
        "usage: vtrn collectives OP --instance NAME [options]\n\n"
        "OP: all_reduce, all_gather, reduce_scatter, all_to_all, permute (round the ranks),\n"
        "broadcast. The columns are those of nccom-test: a size is a rank's buffer, for "
        "all_gather\n"
        "what it ends with; GB/s are decimal.\n"
        "  --ranks N        NeuronCores of a group, from the first on; default: all there are\n"
        "  --nodes N        instances joined by their network, each with an equal part; default 1\n"
        "  --groups N       so many groups at once, on consecutive cores; default 1\n"
        "  --lnc N          physical cores of a NeuronCore; default 2 from Trainium2 on, else 1\n"
        "  --sizes A:B      each size twice the one before, or A,B,C; K, M, G; default 1K:1G\n"
        "  --algorithm A    mesh, rdh, ring, kangaring, hierarchical; default: the fastest of "
        "those\n"
        "                   that chips/CHIP.toml lists for the operation\n"
        "  --sbuf           operand and result are in SBUF\n"
        "  --json           one JSON document\n\n"
        "example: vtrn collectives all_reduce --instance trn2.48xlarge --ranks 64 --sizes 8K:1G\n",
    .run = run,
};
