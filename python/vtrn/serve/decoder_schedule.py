"""Which step a decoder takes next: continuous batching over slots, prompts in chunks, prefixes reused.

It has no clock, no thread and no device, so the live server and the replay on the virtual clock run the same code.
"""

import collections
import dataclasses
import random

from vtrn.serve.blocks import common
from vtrn.serve.decoder_engine import Buckets, Choice
from vtrn.serve.errors import RequestError, bad_request, overloaded
from vtrn.serve.programs import bucket_for


@dataclasses.dataclass(eq=False)
class Sequence:
    prompt: list[int]
    max_new: int
    choice: Choice = Choice()
    seed: int = 0
    end_ids: frozenset[int] = frozenset()

    slot: int = -1
    blocks: list[int] = dataclasses.field(default_factory=list)  # of a paged cache, in order
    n_filled: int = 0  # tokens whose keys and values are in the cache
    n_to_fill: int = 0  # before the next one can be chosen: the prompt, and after a preemption the tokens made, too
    n_preempted: int = 0  # times that its blocks were taken
    n_reused: int = 0  # of the prompt: the slot had them already
    n_guessed: int = 0  # tokens that steps of several checked
    n_accepted: int = 0  # of these, those that were right
    guesses: list[int] = dataclasses.field(default_factory=list)  # of a draft network, of what follows
    tokens: list[int] = dataclasses.field(default_factory=list)  # new ones
    finish: str | None = None  # "stop", "length", "cancelled"

    def __post_init__(self):
        self._random = random.Random(self.seed)
        self.n_to_fill = len(self.prompt)

    def uniform(self) -> float:
        return self._random.random()

    @property
    def is_prefilling(self) -> bool:
        return self.n_filled < self.n_to_fill

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.tokens


@dataclasses.dataclass(frozen=True)
class Prefill:
    sequence: Sequence
    start: int
    tokens: list[int]
    is_last: bool  # the step's token is the sequence's first

    @property
    def sequences(self) -> list[Sequence]:
        return [self.sequence]


@dataclasses.dataclass(frozen=True)
class Copy:
    """Rows of another slot, whose tokens the sequence's prompt begins with, into its own. Of a paged cache: those of another
    block into the sequence's block `target`."""

    sequence: Sequence
    source: int  # slot, or block
    n: int  # rows of the sequence that are there then
    target: int = -1  # block

    @property
    def sequences(self) -> list[Sequence]:
        return [self.sequence]


@dataclasses.dataclass(frozen=True)
class Decode:
    sequences: list[Sequence]


@dataclasses.dataclass(frozen=True)
class Verify:
    """A decode step of one sequence that checks guesses of what follows."""

    sequence: Sequence
    tokens: list[int]  # the last one made, and the guesses

    @property
    def sequences(self) -> list[Sequence]:
        return [self.sequence]


@dataclasses.dataclass(frozen=True)
class Draft:
    """A draft network is asked for guesses of what follows; the next step of the sequence checks them."""

    sequence: Sequence
    n: int

    @property
    def sequences(self) -> list[Sequence]:
        return [self.sequence]


Step = Prefill | Copy | Decode | Verify | Draft


def guess(ids: list[int], n_most: int) -> list[int]:
    """What followed the last time that the text ended as it does, in its last three tokens or two: prompt lookup. What
    goes round in a circle is guessed to go on so."""
    for n in (3, 2):
        end = ids[-n:]
        for at in range(len(ids) - n - 1, -1, -1):
            if ids[at : at + n] == end:
                period = len(ids) - n - at
                return [ids[at + n + i % period] for i in range(n_most)]
    return []


class Schedule:
    def __init__(self, buckets: Buckets, max_waiting: int = 128, name: str = "the decoder"):
        self.buckets, self.max_waiting, self.name = buckets, max_waiting, name
        self.waiting: collections.deque[Sequence] = collections.deque()
        self.slots: list[Sequence | None] = [None] * buckets.n_slots
        self._held: list[list[int]] = [[] for _ in self.slots]  # tokens whose rows a slot has
        self._was_prefill = False
        self.has_drafter = False  # a draft network makes the guesses, in place of the text itself

    @property
    def n_running(self) -> int:
        return len(self._running())

    def _running(self) -> list[Sequence]:
        return [s for s in self.slots if s]

    @property
    def cache_use(self) -> float:
        """Of all rows, those of sequences that run."""
        return sum(s.n_filled for s in self.slots if s) / (self.buckets.n_slots * self.buckets.capacity)

    def check(self, n_prompt: int, max_new: int) -> None:
        if n_prompt == 0:
            raise bad_request("the prompt has no tokens; send some text", "prompt")
        if max_new < 1:
            raise bad_request(f"max_tokens is {max_new}; ask for at least one", "max_tokens")
        if n_prompt + max_new > self.buckets.capacity:
            raise bad_request(f"the prompt has {n_prompt} tokens and {max_new} more are asked for: {self.name} holds "
                              f"{self.buckets.capacity} together, its longest bucket; shorten either", "prompt")  # fmt: skip

    def submit(self, sequence: Sequence) -> None:
        self.check(len(sequence.prompt), sequence.max_new)
        if len(self.waiting) >= self.max_waiting:
            raise overloaded(self.name, len(self.waiting), self.max_waiting)
        self.waiting.append(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """The slot is free at once; no step may be under way."""
        sequence.finish = sequence.finish or "cancelled"
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        elif sequence in self._running():
            self._release(sequence)

    def next_step(self) -> Step | None:
        """None: there is nothing to do. A prompt's chunks and steps of decoding take turns."""
        self._admit()
        running = self._running()
        prefilling = [s for s in running if s.is_prefilling]
        decoding = [s for s in running if not s.is_prefilling]
        if prefilling and not (decoding and self._was_prefill):
            self._was_prefill = True
            return self._copied(prefilling[0]) or self._chunk(prefilling[0])
        self._was_prefill = False
        if len(decoding) == 1 and (step := self._checked(decoding[0])):
            return step
        fitted = self._fitted(decoding)
        if decoding and not fitted:  # all of them wait again
            return self.next_step()
        return Decode(fitted) if fitted else None

    def _checked(self, s: Sequence) -> Verify | Draft | None:
        """Guesses for a lone greedy sequence, if there are any: a step of several tokens takes the chip hardly longer,
        as both load all weights. The tokens are those of single steps."""
        n = self.buckets.draft
        if not n or s.choice.temperature or s.choice.has_logprob or s.n_filled + n + 1 > self.buckets.capacity:
            return None
        n = min(n, s.max_new - len(s.tokens) - 1)
        if self.has_drafter and n > 0 and not s.guesses:
            return Draft(s, n)
        guesses = s.guesses if self.has_drafter else guess(s.ids, n)
        return Verify(s, [s.tokens[-1], *guesses]) if guesses else None

    def _admit(self) -> None:
        while self.waiting and None in self.slots:
            sequence = self.waiting.popleft()
            free = [i for i, s in enumerate(self.slots) if s is None]
            shared = {i: common(self._held[i], sequence.prompt) for i in free}
            slot = max(free, key=lambda i: (shared[i], -i))
            # The last token is computed in any case: its logits are asked for. A short prefix is not worth a slot
            # that makes decoding take a larger batch.
            least = self.buckets.prompt[0]
            if shared[slot] < least:
                slot = free[0]
            sequence.slot = slot
            sequence.n_filled = sequence.n_reused = (
                min(shared[slot], len(sequence.prompt) - 1) if shared[slot] >= least else 0
            )
            del self._held[slot][sequence.n_filled :]
            self.slots[slot] = sequence

    def _copied(self, sequence: Sequence) -> Copy | None:
        """What a slot in use has of the prompt's beginning, if that is worth a step: it cannot be taken over. The last
        token is computed in any case."""
        shared = [common(held, sequence.prompt) for held in self._held]
        source = max(range(len(shared)), key=lambda i: (shared[i], -i))
        n = min(shared[source], len(sequence.prompt) - 1)
        return Copy(sequence, source, n) if n - sequence.n_filled >= self.buckets.prompt[0] else None

    def _chunk(self, sequence: Sequence) -> Prefill:
        start = sequence.n_filled
        left = len(sequence.prompt) - start
        n = min(left, self.buckets.prompt[-1])
        bucket = bucket_for(list(self.buckets.prompt), n)
        if start + bucket > self.buckets.capacity:  # rows of padding must fit, too: some tokens are computed again
            start = self.buckets.capacity - bucket
            n = min(len(sequence.prompt) - start, bucket)
        return Prefill(sequence, start, sequence.prompt[start : start + n], start + n == len(sequence.prompt))

    def complete(self, step: Step, tokens: list[int]) -> list[Sequence]:
        """Takes the step's tokens in; gives the sequences that have a new one, once for each."""
        if isinstance(step, Prefill):
            sequence = step.sequence
            sequence.n_filled = step.start + len(step.tokens)
            self._written(sequence)
            if not step.is_last:
                return []
            self._append(sequence, tokens[0])
            return [sequence]
        if isinstance(step, Verify):
            return self._accept(step, tokens)
        if isinstance(step, Draft):
            step.sequence.guesses = tokens
            return []
        if isinstance(step, Copy):
            step.sequence.n_reused += step.n - step.sequence.n_filled
            step.sequence.n_filled = step.n
            self._written(step.sequence)
            return []
        for sequence, token in zip(step.sequences, tokens):
            self._advance(sequence, token)
        return step.sequences

    def _advance(self, sequence: Sequence, token: int) -> None:
        sequence.n_filled += 1
        sequence.guesses = []
        self._written(sequence)
        self._append(sequence, token)

    def _accept(self, step: Verify, tokens: list[int]) -> list[Sequence]:
        """Guesses count up to the first that is not what the step says follows."""
        s = step.sequence
        s.n_guessed += len(step.tokens) - 1
        changed = []
        for i, token in enumerate(tokens):
            self._advance(s, token)
            changed.append(s)
            if s.finish or i + 1 == len(tokens) or step.tokens[i + 1] != token:
                break
            s.n_accepted += 1
        return changed

    def _append(self, sequence: Sequence, token: int) -> None:
        sequence.tokens.append(token)
        if token in sequence.end_ids:
            sequence.finish = "stop"
        elif len(sequence.tokens) >= sequence.max_new:
            sequence.finish = "length"
        if sequence.finish:
            self._release(sequence)

    # --- the cache: a slot a sequence. vtrn.serve.paged_schedule has blocks.

    def _fitted(self, decoding: list[Sequence]) -> list[Sequence]:
        """Of these, those that have room for a token: all."""
        return decoding

    def _written(self, sequence: Sequence) -> None:
        """The cache has rows of the sequence's first n_filled tokens."""
        held = self._held[sequence.slot]
        del held[sequence.n_filled :]
        held += sequence.ids[len(held) : sequence.n_filled]

    def _release(self, sequence: Sequence) -> None:
        self.slots[sequence.slot] = None


__all__ = ["Copy", "Decode", "Draft", "Prefill", "RequestError", "Schedule", "Sequence", "Step", "Verify"]
