"""The served networks: values against plain JAX on the CPU, caches, batches, the choice of tokens, what a step moves."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from serve_models import BUCKETS, DECODER, ENCODER, ByteTokenizer, drive, make_device, random_weights, text_model

from vtrn.serve import quantise
from vtrn.serve.decoder_engine import FLOATS, Buckets, Choice, DecoderEngine, DecoderShapes
from vtrn.serve.decoder_schedule import Schedule, Sequence, guess
from vtrn.serve.decoder_worker import run_step
from vtrn.serve.models import decoder, encoder, sampling
from vtrn.serve.programs import Programs, artifact_of
from vtrn.serve.runtime import Device, VtrnError
from vtrn.serve.tensor_models import EncoderModel


@pytest.fixture(scope="module")
def device():
    device = make_device()
    yield device
    device.close()


def plain_logits(weights, ids, cached=lambda x: x):
    """The whole sequence at once, without cache, buckets or rotated halves' tricks: complex numbers rotate."""
    c = DECODER
    n = len(ids)
    norm = lambda x, s: x / np.sqrt((x * x).mean(-1, keepdims=True) + c.epsilon) * s  # noqa: E731
    w = {k: np.asarray(v, np.float64) for k, v in weights.items()}
    x = w["tokens"][ids]
    turns = np.exp(1j * np.arange(n)[:, None] * c.rope_base ** (-np.arange(c.head // 2) / (c.head // 2)))
    for i in range(c.n_layers):
        h = norm(x, w[f"{i}.attention_norm.scale"])
        q, k, v = (np.reshape(h @ w[f"{i}.{m}.weight"], (n, -1, c.head)) for m in "qkv")
        pairs = [(t[..., : c.head // 2] + 1j * t[..., c.head // 2 :]) * turns[:, None] for t in (q, k)]
        q, k = (np.concatenate([t.real, t.imag], -1) for t in pairs)
        k, v = (np.repeat(cached(t), c.n_heads // c.n_kv_heads, 1) for t in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(c.head)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", shares, v).reshape(n, -1) @ w[f"{i}.o.weight"]
        h = norm(x, w[f"{i}.mlp_norm.scale"])
        gate = h @ w[f"{i}.gate.weight"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w[f"{i}.up.weight"])) @ w[f"{i}.down.weight"]
    return norm(x, w["norm.scale"]) @ w["tokens"].T


def plain_tokens(weights, prompt, n):
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(plain_logits(weights, ids)[-1].argmax()))
    return ids[len(prompt) :]


def run_all(engine, sequences):
    return [result for _, result in drive(engine, sequences)]


PROMPTS = [[5], list(range(40, 47)), list(range(100, 108)), [7] * 9, list(range(31)), list(range(32)), list(range(33)),
           list(range(200, 270)), [int(i) for i in np.random.default_rng(3).integers(0, 384, 100)]]  # fmt: skip


def test_tokens_are_those_of_the_whole_sequence_at_once(device):
    """Prompts around the buckets' edges, in chunks, together in a batch that changes: continuous batching."""
    model = text_model()
    engine = DecoderEngine(device, Programs(device), DECODER, model.weights, "fp32", buckets=BUCKETS)
    sequences = [Sequence(p, 6 + i) for i, p in enumerate(PROMPTS)]
    steps = run_all(engine, sequences)
    for s in sequences:
        assert s.tokens == plain_tokens(model.weights, s.prompt, s.max_new), s.prompt
        assert s.finish == "length"
    assert {r.bucket for r in steps} >= {"prefill_s8_l8", "prefill_s32_l32", "prefill_s32_l128", "decode_b4_l128"}
    assert all(r.profile.n_reference_ops == 0 for r in steps)


def test_guesses_change_no_token(device):
    """A lone greedy sequence has guesses from its own text checked, several in a step. Prompts that repeat themselves, to
    the end of a slot and of what was asked for; beside another sequence, single steps."""
    # The last token says most of what follows, so texts end in circles.
    weights = {n: w * (0.45 if n.endswith(("o.weight", "down.weight")) else 1) for n, w in text_model().weights.items()}
    buckets = dataclasses.replace(BUCKETS, draft=4)
    engine = DecoderEngine(device, Programs(device), DECODER, weights, "fp32", buckets=buckets)
    repeated = [[3, 4, 5, 6] * 8, [9, 1, 9, 1, 9], [7] * 40, PROMPTS[7], [int(i) for i in np.arange(120) % 7]]
    made = []
    for prompt in repeated:
        n_new = min(30, 128 - len(prompt))
        made.append(s := Sequence(prompt, n_new))
        steps = run_all(engine, [s])
        assert s.tokens == plain_tokens(weights, prompt, n_new)
        n_prefills = sum(r.bucket.startswith("prefill") for r in steps)
        assert len(steps) - n_prefills == n_new - 1 - s.n_accepted and s.n_accepted <= s.n_guessed
    s = Sequence(repeated[0], 30)
    assert any(r.bucket.startswith("verify_s5") for r in run_all(engine, [s]))
    assert s.n_accepted > 10 and sum(s.n_accepted for s in made) < sum(s.n_guessed for s in made)
    end = Sequence(repeated[0], 30, end_ids=frozenset([s.tokens[12]]))
    run_all(engine, [end])
    assert end.tokens == s.tokens[: s.tokens.index(s.tokens[12]) + 1] and end.finish == "stop"
    pair = [Sequence(repeated[0], 8), Sequence(repeated[1], 8)]
    assert not any(r.bucket.startswith("verify") for r in run_all(engine, pair)[:6])
    for s in pair:
        assert s.tokens == plain_tokens(weights, s.prompt, 8)
    random = Sequence(repeated[0], 8, Choice(temperature=1.0))
    assert not any(r.bucket.startswith("verify") for r in run_all(engine, [random]))


def test_guesses_are_what_followed_the_same_end_last():
    assert guess([1, 2, 3, 9, 1, 2, 3, 8, 7, 1, 2, 3], 2) == [8, 7]
    assert guess([5, 1, 2, 6, 1, 2], 3) == [6, 1, 2]
    assert guess([1, 2, 3, 4], 3) == [] and guess([1], 3) == [] and guess([], 3) == []
    assert guess([7, 7, 7, 7], 3) == [7, 7, 7] and guess([8, 1, 2, 3, 1, 2, 3], 4) == [1, 2, 3, 1]


def test_a_prefix_that_a_slot_has_is_not_computed_again(device):
    model = text_model()
    engine = DecoderEngine(device, Programs(device), DECODER, model.weights, "fp32", buckets=BUCKETS)
    schedule = Schedule(BUCKETS)
    prompt = list(range(60))
    for more, n_reused in (([], 0), ([9, 9, 9], 60), ([9, 9, 9], 62), (list(range(50)), 60)):
        s = Sequence(prompt + more, 4)
        schedule.submit(s)
        while (step := schedule.next_step()) is not None:
            schedule.complete(step, run_step(engine, step).tokens)
        assert s.n_reused == n_reused
        assert s.tokens == plain_tokens(model.weights, s.prompt, 4)


def test_a_prefix_of_a_sequence_that_runs_is_copied(device):
    """Prompts that begin alike, at once: the rows of the first are copied to the slots of the others. One begins as a text
    that was made a moment ago, too."""
    model = text_model()
    engine = DecoderEngine(device, Programs(device), DECODER, model.weights, "fp32", buckets=BUCKETS)
    prompt = list(range(60))
    sequences = [Sequence(prompt + more, 6) for more in ([], [9, 9, 9], [8])] + [Sequence([3] * 20, 3), Sequence(prompt, 4)]
    steps = run_all(engine, sequences)
    assert [s.n_reused for s in sequences] == [0, 60, 60, 0, 59]
    for s in sequences:
        assert s.tokens == plain_tokens(model.weights, s.prompt, s.max_new), s.prompt
    copies = [r for r in steps if r.bucket.startswith("copy")]
    assert [r.bucket for r in copies] == ["copy_l128"] * 2
    assert all(r.profile.n_reference_ops == 0 and r.profile.step_ns < steps[0].profile.step_ns for r in copies)
    first, again = Sequence(prompt, 20), Sequence(prompt + sequences[0].tokens[:3] + [1], 3)
    run_all(engine, [first, again])
    assert again.tokens == plain_tokens(model.weights, again.prompt, 3)


@pytest.mark.parametrize("dtype,kept,largest", [("fp32", None, 1e-4), ("bf16", None, 0.08), ("fp16", None, 0.02), ("fp32", "fp8", 0.01)])
def test_logits_are_near_those_in_float64(device, dtype, kept, largest):
    """What a step leaves out is the choice: the program without it."""
    model = text_model()
    kind = {"fp32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}[dtype]
    laid_out = decoder.lay_out(DECODER, model.weights, 32)
    weights = {n: jnp.asarray(w, kind) if quantise.is_matrix(n) else w for n, w in laid_out.items()}
    cache = decoder.empty_cache(DECODER, 1, 32, FLOATS[kept or dtype])
    ids = np.array(PROMPTS[4] + [0], np.int32)
    args = (weights, cache, ids, np.int32(0), np.int32(0), np.int32(31))
    f = lambda *a: decoder.prefill_chunk(DECODER, 32, *a, kind)  # noqa: E731
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), args)
    executable = device.compile(artifact_of(f, *shapes, donated=(1,)))
    got = executable([device.put(np.asarray(x)) for x in jax.tree.leaves(args)])[0].numpy()[0]
    rounded = (lambda x: np.float64(x.astype(FLOATS[kept]))) if kept else (lambda x: x)
    want = plain_logits(model.weights, PROMPTS[4], rounded)[-1]
    assert np.abs(got - want).max() / np.abs(want).max() < largest
    assert executable.profile().n_reference_ops == 0


def test_a_decode_step_moves_weights_and_the_rows_that_it_reads(device):
    """The donated cache is not copied, whatever its capacity, nor are tables read whole: 1.05 of the bytes that must
    move."""
    config = decoder.DecoderConfig(2, 512, 8, 4, 64, 1024, 4096, 4096)
    weights = random_weights(decoder.weight_shapes(config), 4)
    moved = {}
    for capacity in (512, 4096):
        buckets = Buckets((32,), (1,), (256, capacity))
        engine = DecoderEngine(device, Programs(device), config, weights, "bf16", buckets=buckets)
        profile = engine.decode({0: 3}, {0: 100}, {0: Choice()}, {}).profile
        moved[capacity] = profile.hbm_read_bytes + profile.hbm_write_bytes
        needed = engine.shapes.step_bytes + 256 * config.cache_bytes_per_token(2)
        assert moved[capacity] <= 1.05 * needed
    assert abs(moved[4096] - moved[512]) < 0.001 * moved[512]


def choices(logits, temperature, top_k, top_p, uniform):
    """Tokens that may be chosen: sums of floats put the boundaries between tokens a little elsewhere."""
    z = logits.astype(np.float64)
    if temperature == 0:
        return {int(z.argmax())}
    p = np.exp((z - z.max()) / temperature)
    order = np.argsort(-p, kind="stable")
    p[order[top_k or len(p) :]] = 0
    n = int((np.cumsum(p[order]) < top_p * p.sum() * (1 - 1e-6)).sum()) + 1
    p[order[n:]] = 0
    ends = np.cumsum(p) / p.sum()
    return set(range(int((ends <= uniform - 1e-5).sum()), int((ends <= uniform + 1e-5).sum()) + 1))


@pytest.mark.parametrize("vocabulary", [5, 127, 128, 1000, 49152])
def test_sampled_tokens_are_those_of_sorted_probabilities(device, vocabulary):
    b, rng = 4, np.random.default_rng([7, vocabulary])
    floats = jax.ShapeDtypeStruct((b,), jnp.float32)
    artifact = artifact_of(lambda *a: (sampling.sample(*a),), jax.ShapeDtypeStruct((b, vocabulary), jnp.float32), *[floats] * 4)  # fmt: skip
    executable = device.compile(artifact)
    for _ in range(12):
        logits = (rng.standard_normal((b, vocabulary)) * 3).astype(np.float32)
        columns = [rng.choice(c, b) for c in ([0, 0.3, 1, 1.7], [0, 1, 3, 40], [0.05, 0.5, 0.95, 1])] + [rng.random(b)]
        columns = [c.astype(np.float32) for c in columns]
        got = executable([device.put(x) for x in (logits, *columns)])[0].numpy()
        for i in range(b):
            t, k, p, u = (float(c[i]) for c in columns)
            assert int(got[i]) in choices(logits[i], t, int(k), p, u), (t, k, p, u)
    assert executable.profile().n_reference_ops == 0


def log_softmax(logits):
    z = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def test_log_probabilities_are_those_of_the_logits(device):
    """Of rows of any vocabulary with a peak or without; of sequences, before temperature and top-p, greedy and not."""
    rng = np.random.default_rng(11)
    for vocabulary in (5, 128, 1000):
        logits = (rng.standard_normal((4, vocabulary)) * [[1], [30], [0.01], [5]]).astype(np.float32)
        tokens = rng.integers(0, vocabulary, 4).astype(np.int32)
        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (logits, tokens)]
        executable = device.compile(artifact_of(lambda *a: (sampling.log_probability(*a),), *shapes))
        got = executable([device.put(a) for a in (logits, tokens)])[0].numpy()
        np.testing.assert_allclose(got, log_softmax(logits)[np.arange(4), tokens], rtol=2e-6, atol=2e-6)
        assert executable.profile().n_reference_ops == 0
    model = text_model()
    engine = DecoderEngine(device, Programs(device), DECODER, model.weights, "fp32", buckets=BUCKETS)
    kinds = [Choice(has_logprob=True), Choice(1.5, 5, 0.9, has_logprob=True), Choice()]
    sequences = [Sequence([3, 4, 5], 6, c, seed=2) for c in kinds]
    schedule, logprobs = Schedule(BUCKETS), {s: [] for s in sequences}
    for s in sequences:
        schedule.submit(s)
    while (step := schedule.next_step()) is not None:
        result = run_step(engine, step)
        for s, logprob in zip(schedule.complete(step, result.tokens), result.logprobs or []):
            logprobs[s].append(logprob)
    for s in sequences[:2]:
        rows = plain_logits(model.weights, s.prompt + s.tokens)[2:-1]
        np.testing.assert_allclose(logprobs[s], log_softmax(rows)[np.arange(6), s.tokens], atol=2e-4)
    assert sequences[2].tokens == sequences[0].tokens


def test_a_seed_gives_the_same_text_whatever_runs_beside_it(device):
    model = text_model()
    engine = DecoderEngine(device, Programs(device), DECODER, model.weights, "fp32", buckets=BUCKETS)
    choice = Choice(temperature=1.0, top_p=0.9)
    alone = Sequence([3, 4, 5], 10, choice, seed=11)
    run_all(engine, [alone])
    other = [Sequence([9, 8], 12, choice, seed=1), Sequence([3, 4, 5], 10, choice, seed=12), Sequence([1], 4)]
    again = Sequence([3, 4, 5], 10, choice, seed=11)
    run_all(engine, [other[0], again, *other[1:]])
    assert again.tokens == alone.tokens
    assert other[1].tokens != alone.tokens


@pytest.mark.parametrize("dtype,least", [("fp32", 0.999999), ("bf16", 0.999), ("fp16", 0.9999)])
def test_embeddings_are_those_of_each_sentence_alone(device, dtype, least):
    weights = random_weights(encoder.weight_shapes(ENCODER), 2)
    model = EncoderModel("encoder", device, Programs(device), ENCODER, weights, ByteTokenizer(), dtype, (0,), (1, 4), (8, 32))
    rows = [[1], [2, 3, 4], list(range(8)), list(range(100, 109)), list(range(32))]
    for batch in (rows[:1], rows[1:4], rows[1:]):
        result = model.run(batch, 0)
        assert result.profile.n_reference_ops == 0
        for row, got in zip(batch, result.rows):
            ids = np.array([row], np.int32)
            want = np.asarray(encoder.encode(ENCODER, weights, ids, np.ones_like(ids)))[0]
            assert float(got @ want) >= least


@pytest.mark.parametrize("kept", ["int8", "fp8"])
def test_quantised_weights_give_the_tokens_of_what_they_stand_for(device, kept):
    model = text_model()
    engine = DecoderEngine(device, Programs(device), DECODER, model.weights, "fp32", BUCKETS, kept=kept)
    assert engine.shapes.step_bytes < DecoderShapes(DECODER, BUCKETS, "fp32").step_bytes / 3
    stand_for = {}
    for name, w in model.weights.items():
        stand_for[name] = w
        if quantise.is_matrix(name):
            axis = quantise.scale_axis(name)
            stored, scale = quantise.quantised(w, kept, axis)
            stand_for[name] = np.float32(stored) * np.expand_dims(scale, 1 - axis)
            assert np.abs(stand_for[name] - w).max() <= np.abs(w).max() * (0.004 if kept == "int8" else 0.04)
    sequences = [Sequence(p, 8) for p in PROMPTS[2:7]]
    steps = run_all(engine, sequences)
    for s in sequences:
        assert s.tokens == plain_tokens(stand_for, s.prompt, 8)
    assert all(r.profile.n_reference_ops == 0 for r in steps)


def test_an_fp8_cache_halves_what_a_step_reads_of_it(device):
    model = text_model()
    engines = [DecoderEngine(device, Programs(device), DECODER, model.weights, "bf16", BUCKETS, cache=c) for c in (None, "fp8")]
    assert engines[0].cache_bytes == 2 * engines[1].cache_bytes
    read = []
    for engine in engines:
        profile = engine.decode({0: 1, 3: 2}, {0: 100, 3: 90}, {0: Choice(), 3: Choice()}, {}).profile
        assert profile.n_reference_ops == 0
        read.append(profile.hbm_read_bytes)
    rows = 4 * 128 * DECODER.cache_bytes_per_token(1)
    assert rows * 0.8 < read[0] - read[1] < rows * 1.2


def test_prompts_that_no_bucket_holds_are_refused(device):
    model = text_model()
    engine = DecoderEngine(device, Programs(device), DECODER, model.weights, "fp32", buckets=BUCKETS)
    with pytest.raises(ValueError, match="no bucket holds 33 tokens"):
        engine.prefill(0, 0, list(range(33)), Choice(), 0.0)
    with pytest.raises(ValueError, match="no bucket holds 8 tokens at position 125"):
        engine.prefill(0, 125, list(range(8)), Choice(), 0.0)


def test_the_library_says_what_is_wrong(device):
    with pytest.raises(VtrnError, match="no_such"):
        Device("no_such.xlarge")
    with pytest.raises(VtrnError, match="no chip has elements of complex256|convert the array"):
        device.put(np.zeros(3, np.longdouble))
    buffer = device.put(np.zeros((2, 3), np.float32))
    with pytest.raises(VtrnError, match="does not fit"):
        buffer.write(np.zeros((3, 2), np.float32))
