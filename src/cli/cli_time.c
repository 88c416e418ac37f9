/* vtrn time: what a program takes on the chip, from the timing model alone. No values exist. */
#include "cli/cli.h"
#include "cli/cli_program.h"
#include "compiler/cc_flags.h"
#include "profile/profile.h"
#include "runtime/outline.h"

#include <stdlib.h>

/* Everything that the output is made of; owns program and timing. */
typedef struct timed {
    const char *path;
    vtrn_chip chip;
    vtrn_program *program;
    timing_result timing;
    profile_summary summary;
    uint32_t n_blocks; /* that ran */
    uint32_t n_weights, n_stay;
    uint64_t weight_bytes, stay_bytes;
} timed;

/* Weights by what the environment says of them, in bytes as they are stored. */
static vtrn_status count_weights(timed *t) {
    compile_options flags = {0};
    VTRN_RETURN_IF_ERROR(cc_flags_parse(getenv("NEURON_CC_FLAGS"), &flags));
    for (uint32_t i = 0; i < t->program->n_slots; i++) {
        const vtrn_slot *s = &t->program->slots[i];
        if (s->kind != VTRN_SLOT_ARGUMENT || (!s->stays && (uint32_t)s->index >= flags.n_weights))
            continue;
        t->n_weights++;
        t->n_stay += s->stays;
        t->weight_bytes += s->size_bytes;
        t->stay_bytes += s->stays ? s->size_bytes : 0;
    }
    return NULL;
}

/* Of the weights that stay, once, at the rate of a core's part of the memory. */
static double load_ns(const timed *t) {
    return (double)t->stay_bytes / t->chip.hbm_bytes_per_s * 1e9;
}

static vtrn_status time_file(timed *t, const char *chip_name, const char *out_dir) {
    uint8_t *bytes;
    size_t size;
    VTRN_RETURN_IF_ERROR(cli_read(t->path, &bytes, &size));
    vtrn_status status = cli_program_from(t->path, bytes, size, chip_name, &t->chip, &t->program);
    free(bytes);
    if (!status)
        status = cli_program_time(t->program, &t->chip, out_dir != NULL, &t->n_blocks, &t->timing);
    if (status)
        return vtrn_status_annotate(status, "%s", t->path);
    const profile_input input = {.program = t->program, .chip = &t->chip, .timing = &t->timing};
    profile_summarize(&input, &t->summary);
    VTRN_RETURN_IF_ERROR(count_weights(t));
    return out_dir ? profile_write(&input, out_dir) : NULL;
}

static void print_text(const timed *t) {
    const profile_summary *s = &t->summary;
    char step[32], moved_in[32], moved_out[32];
    cli_time(step, sizeof step, s->step_ns);
    cli_bytes(moved_in, sizeof moved_in, (double)s->hbm_read_bytes);
    cli_bytes(moved_out, sizeof moved_out, (double)s->hbm_write_bytes);
    printf("%s on one core of %s: %s simulated\n  active    ", t->path, t->chip.name, step);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        if (profile_shows_engine(s, e))
            printf("%s %.1f %%, ", isa_engine_name((vtrn_engine)e), 100 * s->engine_active[e]);
    printf("any DMA %.1f %%\n", 100 * s->dma_active);
    printf("  MFU       %.3g %%\n  DMA       %.1f %% of the engines' time busy\n", 100 * s->mfu,
           100 * s->dma_busy);
    printf("  HBM       %s read, %s written\n", moved_in, moved_out);
    if (t->n_weights) {
        char all[32], stay[32], load[32];
        cli_bytes(all, sizeof all, (double)t->weight_bytes);
        cli_bytes(stay, sizeof stay, (double)t->stay_bytes);
        cli_time(load, sizeof load, load_ns(t));
        printf("  weights   %u of %u stay on the chip, %s of %s: loaded once, in %s; %s\n",
               t->n_stay, t->n_weights, stay, all, load,
               t->n_stay < t->n_weights ? "the others are read in each call"
                                        : "none is read again");
    }
    if (t->chip.gen == 1)
        printf("  products  fp32 operands as bf16, or as --auto-cast-type says: the array of %s "
               "takes no fp32; most numbers of %s are assumed (vtrn chips %s --timing)\n",
               t->chip.core_name, t->chip.name, t->chip.name);
    if (runtime_has_branches(t->program))
        printf("  branches  %u blocks ran, as loop counters and arguments of zeros decide\n",
               t->n_blocks);
}

/* The numbers of the arguments. */
static void print_staying(const timed *t) {
    const char *comma = "";
    for (uint32_t i = 0; i < t->program->n_slots; i++)
        if (t->program->slots[i].stays) {
            printf("%s%d", comma, t->program->slots[i].index);
            comma = ", ";
        }
}

static void print_json(const timed *t) {
    const profile_summary *s = &t->summary;
    printf("{\"program\": ");
    cli_json_text(stdout, t->path);
    printf(", \"chip\": ");
    cli_json_text(stdout, t->chip.name);
    printf(", \"step_ns\": ");
    cli_json_number(stdout, s->step_ns);
    printf(", \"active\": {");
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
        if (!profile_shows_engine(s, e))
            continue;
        cli_json_text(stdout, isa_engine_name((vtrn_engine)e));
        printf(": ");
        cli_json_number(stdout, s->engine_active[e]);
        printf(", ");
    }
    printf("\"DMA\": ");
    cli_json_number(stdout, s->dma_active);
    printf("}, \"dma_busy\": ");
    cli_json_number(stdout, s->dma_busy);
    printf(", \"mfu\": ");
    cli_json_number(stdout, s->mfu);
    printf(", \"flops\": %llu, \"instructions\": %u, \"blocks_run\": %u, \"dmas\": %llu, "
           "\"hbm_read_bytes\": %llu, "
           "\"hbm_write_bytes\": %llu, \"reference_ops\": %u, \"reference_ns\": ",
           (unsigned long long)s->flops, t->program->n_instrs, t->n_blocks,
           (unsigned long long)s->n_dmas, (unsigned long long)s->hbm_read_bytes,
           (unsigned long long)s->hbm_write_bytes, s->n_reference_ops);
    cli_json_number(stdout, s->custom_ns);
    if (t->n_weights) {
        printf(", \"weights\": {\"given\": %u, \"bytes\": %llu, \"stay_bytes\": %llu, "
               "\"load_ns\": ",
               t->n_weights, (unsigned long long)t->weight_bytes,
               (unsigned long long)t->stay_bytes);
        cli_json_number(stdout, load_ns(t));
        printf(", \"stay\": [");
        print_staying(t);
        printf("]}");
    }
    printf("}\n");
}

static int run(const cli_command *self, int argc, char **argv) {
    const char *chip = NULL, *out_dir = NULL;
    bool is_json = false;
    cli_list files = {.n = 0};
    int code;
    const cli_option options[] = {{"--json", CLI_FLAG, &is_json},
                                  {"--chip", CLI_TEXT, &chip},
                                  {"-o", CLI_TEXT, &out_dir},
                                  {NULL, CLI_LIST, &files}};
    if (!cli_parse(self, argc, argv, options, &code))
        return code;
    if (files.n != 1)
        return cli_usage(self, "one program to time");
    timed t = {.path = files.items[0]};
    vtrn_status status = time_file(&t, chip, out_dir);
    if (!status)
        (is_json ? print_json : print_text)(&t);
    timing_result_free(&t.timing);
    program_destroy(t.program);
    return status ? cli_fail(status) : CLI_OK;
}

const cli_command cli_time_command = {
    .name = "time",
    .summary = "say what a program would take, without running it",
    .help =
        "usage: vtrn time FILE [--chip NAME] [-o DIR] [--json]\n\n"
        "FILE is a StableHLO artifact, a program file or assembly text. No value is computed,\n"
        "so large models take no memory. Loops that count are followed; a branch on other values\n"
        "goes where arguments of zeros lead, and the output says so.\n\n"
        "  --chip NAME      default: the program's own; for an artifact VTRN_CHIP, VTRN_INSTANCE's "
        "or trn1\n"
        "  -o DIR           write profile.html, profile.pftrace and profile.json there\n\n"
        "example: vtrn time step.mlirbc --chip trn2\n",
    .run = run,
};
