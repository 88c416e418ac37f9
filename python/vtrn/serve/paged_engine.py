"""A decoder over a paged cache: programs that find past tokens by tables of blocks."""

import jax
import jax.numpy as jnp
import numpy as np

from vtrn.serve.decoder_engine import Choice, DecoderEngine, DecoderShapes, ProgramSpec, StepResult, chosen, floats
from vtrn.serve.decoder_schedule import Copy, Decode, Prefill, Sequence, Verify
from vtrn.serve.models import decoder, sampling
from vtrn.serve.programs import artifact_of, bucket_for


def _ints(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


class PagedShapes(DecoderShapes):
    def _rows(self):
        return self.buckets.n_blocks, self.buckets.block

    def _table(self, length: int) -> int:
        return -(-length // self.buckets.block)

    def decode(self, batch: int, length: int, is_greedy: bool, has_logprobs: bool = False) -> ProgramSpec:
        def step(weights, cache, tokens, positions, rows, tables, *choice):
            logits, cache = decoder.decode_step_paged(
                self.config, length, weights, cache, tokens, positions, rows, tables, self.dtype
            )
            return chosen(logits, choice, is_greedy, has_logprobs), cache

        shapes = (_ints(batch), _ints(batch), _ints(batch), _ints(batch, self._table(length)))
        return self._spec(f"decode_b{batch}_l{length}", step, shapes, batch, is_greedy, has_logprobs)

    def prefill(self, n: int, length: int, is_greedy: bool, has_logprobs: bool = False) -> ProgramSpec:
        """length 0: the first chunk, which attends to itself."""

        def chunk(weights, cache, ids, rows, table, start, n_tokens, *choice):
            logits, cache = decoder.prefill_chunk_paged(
                self.config, length, weights, cache, ids, rows, table, start, n_tokens, self.dtype
            )
            return chosen(logits, choice, is_greedy, has_logprobs), cache

        shapes = (_ints(n), _ints(n), _ints(self._table(length)), _ints(), _ints())
        return self._spec(prefill_name(n, length), chunk, shapes, 1, is_greedy, has_logprobs)

    def verify(self, length: int) -> ProgramSpec:
        def check(weights, cache, ids, rows, table, start):
            logits, cache = decoder.verify_chunk_paged(
                self.config, length, weights, cache, ids, rows, table, start, self.dtype
            )
            return sampling.greedy(logits), cache

        n = self.buckets.draft + 1
        shapes = (_ints(n), _ints(n), _ints(self._table(length)), _ints())
        return self._spec(f"verify_s{n}_l{length}", check, shapes, 1, True)

    def copy(self, length: int) -> ProgramSpec:
        """A block into another; length is a block's."""
        return ProgramSpec("copy_block", lambda: artifact_of(decoder.copy_block, self.cache_shapes, _ints(), _ints(), donated=(0,)))


def prefill_name(n: int, length: int) -> str:
    return f"prefill_s{n}_l{length}" if length else f"prefill_s{n}_first"


def buckets_of(step, buckets) -> tuple[int, int]:
    """(rows, length) of the step's program; length 0: a prompt's first chunk."""
    if isinstance(step, Prefill):
        length = bucket_for(buckets.length, step.start + len(step.tokens)) if step.start else 0
        return bucket_for(buckets.prompt, len(step.tokens)), length
    if isinstance(step, Verify):
        return buckets.draft + 1, bucket_for(buckets.length, step.sequence.n_filled + len(step.tokens))
    if isinstance(step, Copy):
        return buckets.block, buckets.block
    n = len(step.sequences)
    return bucket_for(buckets.batch, n), bucket_for(buckets.length, max(s.n_filled for s in step.sequences) + 1)


class PagedEngine(DecoderEngine):
    """Steps of vtrn.serve.paged_schedule: sequences say which blocks they have."""

    shapes_of = PagedShapes

    def warm_up(self) -> None:
        b = self.buckets
        self.prefill_program(b.prompt[0], 0, True)
        self._warm_up_decoding()

    def run(self, step) -> StepResult:
        if isinstance(step, Copy):
            return self._copy(step)
        if isinstance(step, Verify):
            return self._verify(step)
        return self._prefill(step) if isinstance(step, Prefill) else self._decode(step)

    # --- where tokens are

    def _written(self, s: Sequence, start: int, n_tokens: int, n: int) -> np.ndarray:
        """int32[n]: rows of tokens from start on; beyond the cache where there is no token."""
        size, beyond = self.buckets.block, self.buckets.n_blocks * self.buckets.block
        rows = np.arange(beyond, beyond + n, dtype=np.int32)
        for i in range(n_tokens):
            rows[i] = s.blocks[(start + i) // size] * size + (start + i) % size
        return rows

    def _table(self, s: Sequence, length: int) -> np.ndarray:
        n = -(-length // self.buckets.block)
        table = np.zeros(n, np.int32)
        table[: len(s.blocks)] = s.blocks[:n]
        return table

    # --- steps

    def _prefill(self, step: Prefill) -> StepResult:
        s, n_tokens = step.sequence, len(step.tokens)
        n, length = buckets_of(step, self.buckets)
        is_greedy = s.choice.temperature == 0
        uniform = s.uniform() if step.is_last and not is_greedy else 0.0
        program = self.prefill_program(n, length, is_greedy, s.choice.has_logprob)
        ids = np.zeros(n, np.int32)
        ids[:n_tokens] = step.tokens
        arguments = [ids, self._written(s, step.start, n_tokens, n), self._table(s, length), np.int32(step.start), np.int32(n_tokens)]
        out, profile = self._run(program, arguments, [] if is_greedy else [s.choice], [uniform])
        return StepResult([int(out[0][0])], prefill_name(n, length), n_tokens, n, profile, floats(out[1:], [0]))

    def _verify(self, step: Verify) -> StepResult:
        s, n_tokens = step.sequence, len(step.tokens)
        n, length = buckets_of(step, self.buckets)
        ids = np.zeros(n, np.int32)
        ids[:n_tokens] = step.tokens
        arguments = [ids, self._written(s, s.n_filled, n_tokens, n), self._table(s, length), np.int32(s.n_filled)]
        (out,), profile = self._run(self.verify_program(length), arguments, [], [])
        return StepResult([int(t) for t in out[:n_tokens]], f"verify_s{n}_l{length}", n_tokens, n, profile)

    def _copy(self, step: Copy) -> StepResult:
        program = self._get(self.shapes.copy(self.buckets.block))
        buffers = [self._device.put(np.int32(block), self.core_i) for block in (step.source, step.target)]
        self._cache = program.executable([*self._cache, *buffers], self.core_i)
        n = (step.n - 1) % self.buckets.block + 1
        return StepResult([], "copy_block", n, self.buckets.block, program.executable.profile())

    def _decode(self, step: Decode) -> StepResult:
        running = step.sequences
        batch, length = buckets_of(step, self.buckets)
        is_greedy = all(s.choice.temperature == 0 for s in running)
        program = self.decode_program(batch, length, is_greedy, any(s.choice.has_logprob for s in running))
        tokens, positions = np.zeros(batch, np.int32), np.zeros(batch, np.int32)
        tables = np.zeros((batch, -(-length // self.buckets.block)), np.int32)
        beyond = self.buckets.n_blocks * self.buckets.block
        rows = np.arange(beyond, beyond + batch, dtype=np.int32)
        for i, s in enumerate(running):
            tokens[i], positions[i] = s.tokens[-1], s.n_filled
            rows[i], tables[i] = self._written(s, s.n_filled, 1, 1)[0], self._table(s, length)
        padding = [Choice()] * (batch - len(running))
        uniforms = [s.uniform() if s.choice.temperature else 0.0 for s in running] + [0.0] * len(padding)
        out, profile = self._run(program, [tokens, positions, rows, tables],
                                 [] if is_greedy else [*(s.choice for s in running), *padding], uniforms)  # fmt: skip
        return StepResult([int(t) for t in out[0][: len(running)]], f"decode_b{batch}_l{length}", len(running), batch,
                          profile, floats(out[1:], range(len(running))))  # fmt: skip
