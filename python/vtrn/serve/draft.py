"""Guesses of a smaller network: greedy tokens that a decoder of the same vocabulary checks in one step."""

import dataclasses

from vtrn.serve.blocks import common
from vtrn.serve.buckets import Buckets
from vtrn.serve.decoder_engine import Choice, DecoderEngine, StepResult
from vtrn.serve.models.decoder import DecoderConfig
from vtrn.serve.programs import Programs
from vtrn.serve.runtime import Device, Profile, VtrnError

FEW = 3  # tokens that are fed one by one: a chunk of a prompt takes longer


def first_layers(config: DecoderConfig, weights: dict, n: int) -> tuple[DecoderConfig, dict]:
    """The network without its layers from n on: a draft that needs no file."""
    if not 0 < n < config.n_layers:
        raise VtrnError(f"--draft-model is layers:{n}; the model has {config.n_layers}, give a number from 1 to {config.n_layers - 1}")
    kept = {k: w for k, w in weights.items() if not k.split(".")[0].isdigit() or int(k.split(".")[0]) < n}
    return dataclasses.replace(config, n_layers=n), kept


class Drafter:
    """A draft network on the decoder's core, with a cache of one sequence: the one that runs alone."""

    def __init__(self, device: Device, programs: Programs, config: DecoderConfig, weights, dtype: str, buckets: Buckets,
                 core_i: int = 0, kept: str | None = None):  # fmt: skip
        own = Buckets(buckets.prompt, (1,), buckets.length)
        self.engine = DecoderEngine(device, programs, config, weights, dtype, own, core_i, kept)
        self._held: list[int] = []  # tokens whose rows the cache has

    def warm_up(self) -> None:
        self.engine.warm_up()

    def propose(self, ids: list[int], n: int) -> StepResult:
        """The n tokens that the network would say behind ids; the result's times are of all its calls."""
        del self._held[min(common(self._held, ids), len(ids) - 1) :]
        profiles, tokens = [], []
        while len(self._held) < len(ids) - FEW:
            self._prefill(ids, profiles)
        for token in ids[len(self._held) :]:
            made = self._step(token, profiles)
        while True:
            tokens.append(made)
            if len(tokens) == n:
                break
            made = self._step(made, profiles)
        return StepResult(tokens, f"draft_n{n}", n, n, _sum(profiles))

    def _prefill(self, ids: list[int], profiles: list[Profile]) -> None:
        b = self.engine.buckets
        start = len(self._held)
        chunk = ids[start : min(start + b.prompt[-1], len(ids) - 1)]
        bucket = next(x for x in b.prompt if x >= len(chunk))
        if start + bucket > b.capacity:  # rows of padding fit, too
            start = b.capacity - bucket
            chunk = ids[start : min(start + bucket, len(ids) - 1)]
        profiles.append(self.engine.prefill(0, start, chunk, Choice(), 0.0).profile)
        self._held = ids[: start + len(chunk)]

    def _step(self, token: int, profiles: list[Profile]) -> int:
        result = self.engine.decode({0: token}, {0: len(self._held)}, {0: Choice()}, {})
        profiles.append(result.profile)
        self._held.append(token)
        return result.tokens[0]


def _sum(profiles: list[Profile]) -> Profile:
    """Times and bytes of calls one after the other; shares are those of the last."""
    added = ("step_ns", "flops", "hbm_read_bytes", "hbm_write_bytes", "n_reference_ops", "n_instructions", "host_seconds")
    return dataclasses.replace(profiles[-1], **{name: sum(getattr(p, name) for p in profiles) for name in added})
