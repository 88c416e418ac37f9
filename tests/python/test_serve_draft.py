"""A draft network guesses, the decoder checks: no token changes, whatever the draft says."""

import dataclasses

import pytest

pytest.importorskip("jax")

from serve_models import BUCKETS, DECODER, drive, engine_of, make_device, make_host, text_model
from test_serve_models import plain_tokens

from vtrn.serve.decoder_schedule import Draft, Schedule, Sequence, Verify
from vtrn.serve.draft import Drafter, first_layers
from vtrn.serve.paged_schedule import PagedSchedule
from vtrn.serve.programs import Programs
from vtrn.serve.runtime import VtrnError

DRAFTED = dataclasses.replace(BUCKETS, draft=4)


@pytest.fixture(scope="module")
def device():
    device = make_device()
    yield device
    device.close()


@pytest.mark.parametrize("block", [0, 16])
@pytest.mark.parametrize("draft", ["itself", "first layer", "another"])
def test_a_draft_changes_no_token(device, draft, block):
    """The network as its own draft is always right, its first layer sometimes, one of other weights never or by luck."""
    weights = text_model().weights
    buckets = dataclasses.replace(DRAFTED, block=block)
    programs = Programs(device)
    engine = engine_of(device, programs, buckets)
    config, w = {"itself": (DECODER, weights), "first layer": first_layers(DECODER, weights, 1),
                 "another": (DECODER, text_model(seed=7).weights)}[draft]  # fmt: skip
    drafter = Drafter(device, programs, config, w, "fp32", buckets)
    schedule = (PagedSchedule if block else Schedule)(buckets)
    for prompt, n_new in (([5], 20), (list(range(40, 75)), 20), ([9, 1, 9, 1, 9], 12), ([7] * 100, 28)):
        s = Sequence(prompt, n_new)
        steps = drive(engine, [s], schedule, drafter)
        assert s.tokens == plain_tokens(weights, prompt, n_new)
        checks = [step for step, _ in steps if isinstance(step, Verify)]
        assert checks and s.n_guessed == sum(len(c.tokens) - 1 for c in checks)
        if draft == "itself":
            assert s.n_accepted == s.n_guessed
        drafts = [r for step, r in steps if isinstance(step, Draft)]
        assert len(drafts) == len(checks)
        assert all(r.profile.step_ns > 0 and r.profile.n_reference_ops == 0 for r in drafts)
    pair = [Sequence([3, 1, 2], 8), Sequence([8, 8], 12)]
    drive(engine, pair, schedule, drafter)
    for s in pair:
        assert s.tokens == plain_tokens(weights, s.prompt, s.max_new)


def test_a_server_drafts_and_says_so(device):
    host = make_host(buckets=DRAFTED)
    try:
        host.settings = dataclasses.replace(host.settings, draft_model="layers:1")
        host.add_text("drafted", text_model(), (0,))
        assert "drafted's draft, layers:1: core 0" in host.placement_text()
        import queue

        from vtrn.serve.decoder_worker import Generation

        done = queue.Queue()
        service = host.texts["drafted"]
        generation = Generation(Sequence([4, 5, 6], 10), lambda token, finish: finish and done.put(finish), done.put)
        service.worker.submit(generation)
        assert done.get(timeout=300) == "length"
        said = generation.parameters(0)
        assert said["tokens_guessed"] >= said["tokens_accepted"] and said["chip_time_draft_us"] > 0
        assert service.worker.meters.n_guessed == said["tokens_guessed"]
        with pytest.raises(VtrnError, match="from 1 to 1"):
            host.settings = dataclasses.replace(host.settings, draft_model="layers:2")
            host.add_text("other", text_model(), (0,))
    finally:
        host.close()
