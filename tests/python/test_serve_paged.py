"""A paged cache: blocks taken, shared, copied and given back; tokens are those of the contiguous one."""

import dataclasses
import json
import random
import urllib.request

import numpy as np
import pytest

pytest.importorskip("jax")

import serve_models
from serve_models import BUCKETS, DECODER, engine_of, make_device, text_model
from test_serve_models import PROMPTS, plain_tokens

from vtrn.serve.blocks import ROOT, BlockPool
from vtrn.serve.buckets import Buckets
from vtrn.serve.decoder_engine import Choice
from vtrn.serve.decoder_schedule import Copy, Prefill, Sequence
from vtrn.serve.paged_engine import PagedEngine
from vtrn.serve.paged_schedule import PagedSchedule
from vtrn.serve.programs import Programs

PAGED = dataclasses.replace(BUCKETS, block=16)


@pytest.fixture(scope="module")
def device():
    device = make_device()
    yield device
    device.close()


@pytest.fixture(scope="module")
def programs(device):
    return Programs(device)


def drive(engine, sequences, schedule=None):
    """Runs all to their end; gives steps and results. No block is left over."""
    if not engine.buckets.block:
        return serve_models.drive(engine, sequences, schedule)
    schedule = schedule or PagedSchedule(engine.buckets)
    steps = serve_models.drive(engine, sequences, schedule, look=never_written_twice)
    assert schedule.pool.n_free == schedule.pool.n_blocks
    return steps


def never_written_twice(schedule, step):
    """What a step writes belongs to one sequence alone."""
    size = schedule.pool.size
    if isinstance(step, Copy):
        assert schedule.pool.users(step.target) == 1 and schedule.pool.users(step.source) >= 1
        return
    for s in step.sequences:
        n = len(step.tokens) if hasattr(step, "tokens") else 1
        for position in range(s.n_filled, s.n_filled + n):
            assert schedule.pool.users(s.blocks[position // size]) == 1


def test_a_pool_gives_each_block_once_and_the_longest_unused_first():
    pool = BlockPool(4, 2)
    a, b = pool.take(), pool.take()
    text = pool.know(ROOT, (1, 2), a)
    assert pool.find(ROOT, (1, 2)) == (text, a) and pool.find(text, (1, 2)) is None
    pool.share(a)
    pool.release([a, b])
    assert pool.users(a) == 1 and pool.n_used == 1 and pool.n_cached == 0
    pool.release([a])
    assert pool.n_cached == 1
    taken = [pool.take() for _ in range(4)]
    assert sorted(taken) == [0, 1, 2, 3] and taken[-1] == a  # what holds a text goes last
    assert pool.find(ROOT, (1, 2)) is None and pool.take() is None


@pytest.mark.parametrize("dtype, cache", [("fp32", None), ("bf16", None), ("bf16", "fp8")])
@pytest.mark.parametrize("block", [16, 32])
def test_tokens_are_those_of_the_contiguous_cache(device, dtype, cache, block):
    made = []
    for buckets in (BUCKETS, dataclasses.replace(BUCKETS, block=block)):
        engine = engine_of(device, Programs(device), buckets, dtype, cache)
        sequences = [Sequence(p, 6 + i) for i, p in enumerate(PROMPTS)]
        steps = drive(engine, sequences)
        made.append([s.tokens for s in sequences])
        assert all(r.profile.n_reference_ops == 0 for _, r in steps)
    assert made[0] == made[1]
    if dtype == "fp32":
        assert made[0] == [plain_tokens(text_model().weights, p, 6 + i) for i, p in enumerate(PROMPTS)]


def test_prompts_that_begin_alike_share_blocks(device, programs):
    """Whole blocks are shared while both run and after the first has ended; a beginning within a block is copied."""
    weights = text_model().weights
    engine = engine_of(device, programs, PAGED)
    schedule = PagedSchedule(PAGED)
    begin = list(range(60, 108))  # three blocks
    first, second = Sequence([*begin, 1, 2, 3], 12), Sequence([*begin, 9, 8], 12)
    drive(engine, [first, second], schedule)
    assert first.n_reused == 0 and second.n_reused == 48
    later = Sequence([*begin, 1, 2, 3], 5)
    drive(engine, [later], schedule)
    assert later.n_reused == 48 and later.tokens == first.tokens[:5]
    twin = [Sequence(list(range(150, 180)), 6, seed=i) for i in range(3)]  # 30 tokens: a block, and 14 of the next
    steps = drive(engine, twin, schedule)
    copies = [step for step, _ in steps if isinstance(step, Copy)]
    assert len(copies) == 2 and [s.n_reused for s in twin] == [0, 29, 29]
    for s in (first, second, *twin):
        assert s.tokens == plain_tokens(weights, s.prompt, s.max_new)


def test_a_full_pool_preempts_the_last_and_no_token_changes(device, programs):
    weights = text_model().weights
    buckets = dataclasses.replace(PAGED, n_cache_blocks=9)  # of 32 that four sequences may need
    engine = engine_of(device, Programs(device), buckets)
    schedule = PagedSchedule(buckets)
    sequences = [Sequence(list(range(10 * i, 10 * i + 30)), 60) for i in range(4)]
    sequences.append(Sequence(list(range(200, 220)), 40, Choice(temperature=0.9), seed=5))
    drive(engine, sequences, schedule)
    assert schedule.n_preemptions > 0 and schedule.n_preemptions == sum(s.n_preempted for s in sequences)
    assert sequences[0].n_preempted == 0
    for s in sequences[:4]:
        assert s.tokens == plain_tokens(weights, s.prompt, 60) and s.finish == "length"
    alone = Sequence(list(range(200, 220)), 40, Choice(temperature=0.9), seed=5)
    drive(engine_of(device, Programs(device), PAGED), [alone])
    assert sequences[4].tokens == alone.tokens


def test_guesses_change_no_token_of_a_paged_cache(device):
    buckets = dataclasses.replace(PAGED, draft=4)
    weights = {n: w * (0.45 if n.endswith(("o.weight", "down.weight")) else 1) for n, w in text_model().weights.items()}
    engine = PagedEngine(device, Programs(device), DECODER, weights, "fp32", buckets)
    for prompt in ([3, 4, 5, 6] * 8, [7] * 40, [int(i) for i in np.arange(120) % 7]):
        s = Sequence(prompt, min(30, 128 - len(prompt)))
        drive(engine, [s])
        assert s.tokens == plain_tokens(weights, prompt, s.max_new)
        assert s.n_guessed > 0


def test_random_loads_leave_no_block_and_share_no_writer():
    """The schedule alone, with cancellations: blocks are taken, shared, preempted and all come back."""
    rng = random.Random(4)
    for n_blocks in (8, 11, 32):
        buckets = Buckets((8, 32), (1, 2, 4), (32, 128), 0, 16, n_blocks)
        schedule, alive = PagedSchedule(buckets, 1000), []
        for turn in range(1500):
            if turn < 1000 and rng.random() < 0.2:
                common = list(range(rng.choice((0, 10, 16, 40))))
                prompt = common + [rng.randrange(3) for _ in range(rng.randrange(1, 40))]
                s = Sequence(prompt, rng.randrange(1, 128 - len(prompt)))
                schedule.submit(s)
                alive.append(s)
            if alive and rng.random() < 0.02:
                schedule.cancel(alive.pop(rng.randrange(len(alive))))
            step = schedule.next_step()
            if step is None:
                continue
            never_written_twice(schedule, step)
            if isinstance(step, Prefill):
                assert step.tokens == step.sequence.ids[step.start : step.start + len(step.tokens)]
            schedule.complete(step, [rng.randrange(3) for _ in step.sequences])
        while (step := schedule.next_step()) is not None:
            schedule.complete(step, [0 for _ in step.sequences])
        assert schedule.pool.n_free == n_blocks and all(s.finish for s in alive)
        assert not any(schedule.pool.users(b) for b in range(n_blocks))


@pytest.mark.parametrize("block, n, words", [(48, 0, "divide"), (-1, 0, "divide"), (16, 7, "at least 8"), (0, 9, "needs --block-size")])  # fmt: skip
def test_block_sizes_that_do_not_fit_are_refused(block, n, words):
    assert words in dataclasses.replace(BUCKETS, block=block, n_cache_blocks=n).fault()
    assert PAGED.fault() is None and BUCKETS.fault() is None


def test_a_server_with_blocks_answers_and_counts_them():
    """Through HTTP, with openai's client: the text of the contiguous server, and the blocks in /metrics."""
    openai = pytest.importorskip("openai")
    pytest.importorskip("fastapi")
    from serve_models import make_host, running

    texts = []
    for buckets in (BUCKETS, dataclasses.replace(BUCKETS, block=16, n_cache_blocks=12)):
        with running(make_host(buckets=buckets)) as port:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300)
            ask = lambda seed: client.completions.create(model="text", prompt="abc" * 12, max_tokens=20, temperature=0, seed=seed)  # noqa: E731
            texts.append([ask(i).choices[0].text for i in range(2)])
            metrics, state = (urllib.request.urlopen(f"http://127.0.0.1:{port}{p}").read() for p in ("/metrics", "/state"))
    metrics, state = metrics.decode(), json.loads(state)
    assert texts[0] == texts[1] and texts[1][0] == texts[1][1]
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert lines['vllm:cache_config_info{model_name="text",block_size="16",num_gpu_blocks="12"}'] == "1"
    blocks = {k: int(lines[f'vtrn:kv_cache_blocks{{model_name="text",state="{k}"}}']) for k in ("used", "cached", "free")}
    assert blocks["used"] == 0 and sum(blocks.values()) == 12 and blocks["cached"] == 3  # 55 tokens of both
    assert lines['vllm:num_preemptions_total{model_name="text"}'] == "0"
    assert lines['vllm:prefix_cache_hits_total{model_name="text"}'] == "32"
    assert next(m for m in state["models"] if m["name"] == "text")["cache"] == 0.0
