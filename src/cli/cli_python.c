/* vtrn serve, serve-replay, serve-export and bench: the package's Python does them; here are their
 * names and help. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool asks_for_help(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* Becomes `python -m vtrn.serve NAME ...`, whose exit code is then this program's. */
static int run(const cli_command *self, int argc, char **argv) {
    if (asks_for_help(argc, argv)) {
        fputs(self->help, stdout);
        return CLI_OK;
    }
    const char *python = getenv("VTRN_PYTHON");
    if (!python || !*python)
        python = "python3";
    char **args = calloc((size_t)argc + 4, sizeof *args);
    if (!args)
        return cli_fail(VTRN_OUT_OF_MEMORY((size_t)argc * sizeof *args));
    const char *const start[] = {python, "-m", "vtrn.serve", self->name};
    for (int i = 0; i < 4; i++)
        args[i] = (char *)(uintptr_t)start[i];
    for (int i = 1; i < argc; i++)
        args[3 + i] = argv[i];
    execvp(python, args);
    int reason = errno;
    free(args);
    return cli_fail(VTRN_ERROR(VTRN_RESOURCE,
                               "%s cannot be started: %s; VTRN_PYTHON names a Python that has vtrn",
                               python, strerror(reason)));
}

const cli_command cli_serve = {
    .name = "serve",
    .summary = "serve pretrained networks over HTTP",
    .help =
        "usage: vtrn serve [MODEL ...] [options]\n\n"
        "MODEL is minilm (sentence embeddings), smollm2 (chat), both by default, or a folder of "
        "the\n"
        "model repository. /v1 answers OpenAI's clients, /v2 those of the Open Inference "
        "Protocol,\n"
        "each answer with the chip's time, batch, padding and price; / is a live page, /metrics "
        "is\n"
        "for Prometheus. Ctrl-C or SIGTERM: what was taken is answered, then the end.\n\n"
        "  --instance NAME        the machine; default VTRN_INSTANCE, else inf2.xlarge\n"
        "  --repository DIR       folders with model.export (jax.export) and model.toml\n"
        "  --cores MODEL=0,1      where a model runs; repeat it\n"
        "  --pipeline-cores MODEL=N    inf1: a model of the repository dealt out over N cores\n"
        "  --host A, --port N     default 127.0.0.1 and 8000; 0.0.0.0 is open to the network\n"
        "  --grpc-port N          the Open Inference Protocol over gRPC, too (pip install "
        "'vtrn[grpc]')\n"
        "  --dtype T              bf16, fp16 or fp32\n"
        "  --weights T            int8 or fp8: dense layers kept in a byte an element\n"
        "  --cache fp8            keys and values in a byte an element\n"
        "  --draft N              tokens that a lone greedy text guesses ahead (0: none)\n"
        "  --draft-model FILE     a GGUF file whose network guesses, or layers:N of the model's "
        "own\n"
        "  --block-size N         a paged cache, of blocks of N tokens, and --cache-blocks N of "
        "them\n"
        "  --max-batch N          rows that share a call (32)\n"
        "  --stop-seconds N       after SIGTERM: for answers under way (60); "
        "--stop-client-seconds N: for\n"
        "                         clients that hold a request back, or do not read (5)\n"
        "  --max-delay-us N       how long the first of them waits for others (2000)\n"
        "  --max-queue N          rows that may wait (1024); --max-waiting N: generations (128)\n"
        "  --prompt-buckets L, --batch-buckets L, --length-buckets L    as 32,128,512\n"
        "  --json                 one object when the server is ready\n\n"
        "example: vtrn serve smollm2 --instance trn1.2xlarge --port 8001\n",
    .run = run,
};

const cli_command cli_serve_replay = {
    .name = "serve-replay",
    .summary = "replay requests on the virtual clock: TTFT, TPOT, goodput",
    .help =
        "usage: vtrn serve-replay TRACE.jsonl --model smollm2 [--rate LOW:HIGH] [options]\n\n"
        "A line of the trace is an object: prompt_tokens, output_tokens and, for its own pace,\n"
        "arrival_s; session makes requests share a prefix of shared_tokens. Nothing waits for a\n"
        "clock, and the result is the same every time.\n\n"
        "  --rate R, LOW:HIGH     requests a second; HIGH doubles up from LOW. Default: the "
        "trace's\n"
        "  --instance NAME        default VTRN_INSTANCE, else inf2.xlarge\n"
        "  --goodput ttft:MS --goodput tpot:MS    limits of a good request\n"
        "  --seed N               of arrivals at a rate (1)\n"
        "  --html FILE, --csv FILE, --json        reports\n\n"
        "example: vtrn serve-replay trace.jsonl --model smollm2 --rate 1:64 --html curves.html\n",
    .run = run,
};

const cli_command cli_serve_export = {
    .name = "serve-export",
    .summary = "write networks that come with vtrn into a model repository",
    .help =
        "usage: vtrn serve-export MODEL ... [--repository DIR] [options]\n\n"
        "MODEL is resnet50, vit_b16 (random weights: their shapes and times) or silero_vad (the\n"
        "weights of the Python package). Each becomes a folder, which vtrn serve --repository\n"
        "serves, and whose model.export vtrn bench takes.\n\n"
        "  --repository DIR       default models\n"
        "  --batch N              rows of a call (1)\n"
        "  --dtype T              bf16, fp16 or fp32, of matrices and products\n"
        "  --pipeline-cores N     inf1: vtrn serve deals it out over N cores\n"
        "  --weights-stay true|false    inf1: all of them stay on the chip between calls, or "
        "none\n\n"
        "example: vtrn serve-export resnet50 --batch 8 && vtrn bench "
        "models/resnet50/model.export\n",
    .run = run,
};

const cli_command cli_bench = {
    .name = "bench",
    .summary = "throughput, latency and price of a model over instances",
    .help =
        "usage: vtrn bench MODEL.export [--instances A,B,...] [options]\n\n"
        "MODEL.export is a function serialised by jax.export. It is compiled for each instance "
        "and\n"
        "timed on the virtual clock, with one core and all, one worker a core and two.\n\n"
        "  --instances A,B,...    default inf1.xlarge,inf2.xlarge,trn1.2xlarge,trn2.3xlarge\n"
        "  --pipeline-cores N     layers dealt out over N cores of inf1, each with its weights\n"
        "  --auto-cast none|matmult|all --auto-cast-type bf16|fp16|tf32|fp8_e4m3\n"
        "  --csv FILE, --html FILE, --json        reports, with neuronperf's columns\n\n"
        "example: vtrn bench model.export --instances inf1.xlarge,inf2.xlarge,trn1.2xlarge\n",
    .run = run,
};
