"""Continuous batching over a paged cache: a sequence has the blocks that its tokens need, shares those of a common beginning,
and gives them all back when others that came before it need them."""

from vtrn.serve.blocks import ROOT, BlockPool, common
from vtrn.serve.buckets import Buckets
from vtrn.serve.decoder_schedule import Copy, Draft, Prefill, Schedule, Sequence, Verify
from vtrn.serve.programs import bucket_for


class PagedSchedule(Schedule):
    def __init__(self, buckets: Buckets, max_waiting: int = 128, name: str = "the decoder"):
        super().__init__(buckets, max_waiting, name)
        self.pool = BlockPool(buckets.n_blocks, buckets.block)
        self.n_preemptions = 0
        self._sequences: list[Sequence] = []  # that run, in the order in which they were admitted
        self._texts: dict[Sequence, list[int]] = {}  # of those: what each full block ends, in BlockPool's numbers
        self._sources: dict[Sequence, tuple[int, int]] = {}  # a block to copy, and how many of its rows count

    def _running(self) -> list[Sequence]:
        return self._sequences

    @property
    def cache_use(self) -> float:
        """Of all blocks, those of sequences that run."""
        return self.pool.n_used / self.pool.n_blocks

    # --- admission

    def _admit(self) -> None:
        while self.waiting and len(self._sequences) < self.buckets.n_slots and self._place(self.waiting[0]):
            self._sequences.append(self.waiting.popleft())

    def _place(self, s: Sequence) -> bool:
        """Blocks for the sequence's tokens and one more, if there are as many."""
        self._texts[s] = []
        self._share(s)
        if self._grow(s, len(s.ids) + 1):
            s.n_to_fill = len(s.ids)
            return True
        self._drop(s)
        return False

    def _share(self, s: Sequence) -> None:
        """Takes over the full blocks of others that hold what the sequence begins with, in place of those it has for that. The
        last token is computed in any case: its logits are asked for."""
        size, ids, texts = self.pool.size, s.ids, self._texts[s]
        for k in range(len(texts), (len(ids) - 1) // size):
            found = self.pool.find(texts[-1] if texts else ROOT, tuple(ids[k * size : (k + 1) * size]))
            if found is None:
                break
            text, block = found
            self.pool.share(block)
            if k < len(s.blocks):
                self.pool.release([s.blocks[k]])
                s.blocks[k] = block
            else:
                s.blocks.append(block)
            texts.append(text)
            s.n_reused += 0 if s.tokens else size
        s.n_filled = size * len(texts)

    def _grow(self, s: Sequence, n_tokens: int) -> bool:
        """Blocks for so many tokens; False: there are too few, and nothing is taken."""
        n = -(-n_tokens // self.pool.size) - len(s.blocks)
        if n > self.pool.n_free:
            return False
        s.blocks += [self.pool.take() for _ in range(n)]
        return True

    # --- prompts

    def _copied(self, s: Sequence) -> Copy | None:
        """Before a prompt's first chunk: what is known by this time is taken over, and the beginning of a block that goes on
        otherwise is copied, if that leaves a smaller chunk to compute. What is shared is never written."""
        size, texts = self.pool.size, self._texts[s]
        if s.n_filled != size * len(texts):  # a chunk or a copy of its own ends within a block
            return None
        self._share(s)
        at = s.n_filled
        rest = s.ids[at : min(at + size, s.n_to_fill - 1)]
        n, source = self._likest(s, rest)
        if n == 0 or bucket_for(self.buckets.prompt, min(s.n_to_fill - at - n, self.buckets.prompt[-1])) == bucket_for(
            self.buckets.prompt, min(s.n_to_fill - at, self.buckets.prompt[-1])
        ):  # fmt: skip
            return None
        self.pool.share(source)
        self._sources[s] = (source, at + n)
        return Copy(s, source, at + n, s.blocks[at // size])

    def _likest(self, s: Sequence, rest: list[int]) -> tuple[int, int]:
        """The block behind the text that the sequence has so far that begins most as `rest` does, full ones or the last ones
        of others that run: (rows alike, block)."""
        size, texts = self.pool.size, self._texts[s]
        best = self.pool.likest(texts[-1] if texts else ROOT, rest)
        for other in self._sequences:
            if other is s or self._texts[other] != texts:
                continue
            at = len(texts) * size
            n = common(other.ids[at : other.n_filled], rest)
            if n > best[0]:
                best = (n, other.blocks[len(texts)])
        return best

    def _chunk(self, s: Sequence) -> Prefill:
        n = min(s.n_to_fill - s.n_filled, self.buckets.prompt[-1])
        end = s.n_filled + n
        return Prefill(s, s.n_filled, s.ids[s.n_filled : end], end == s.n_to_fill)

    # --- tokens

    def _checked(self, s: Sequence) -> Verify | Draft | None:
        step = super()._checked(s)
        n = self.buckets.draft + 1
        return step if step and self._grow(s, s.n_filled + n) else None

    def _fitted(self, decoding: list[Sequence]) -> list[Sequence]:
        """Those that have a block for the next token. Where there is none, the sequence that was admitted last waits again."""
        fitted = []
        for s in decoding:
            while s in self._sequences and not self._grow(s, s.n_filled + 1):
                self._preempt(self._sequences[-1])
            if s in self._sequences:
                fitted.append(s)
        return fitted

    def _preempt(self, s: Sequence) -> None:
        """Its tokens are kept, their rows computed again when it is admitted once more, before all that wait."""
        self._release(s)
        s.n_filled = 0
        s.n_preempted += 1
        self.n_preemptions += 1
        self.waiting.appendleft(s)

    def complete(self, step, tokens: list[int]) -> list[Sequence]:
        if isinstance(step, Copy):
            source, _ = self._sources.pop(step.sequence)
            self.pool.release([source])
        return super().complete(step, tokens)

    def _written(self, s: Sequence) -> None:
        size, texts, ids = self.pool.size, self._texts[s], s.ids
        while len(texts) < s.n_filled // size:
            k = len(texts)
            tokens = tuple(ids[k * size : (k + 1) * size])
            texts.append(self.pool.know(texts[-1] if texts else ROOT, tokens, s.blocks[k]))

    def _release(self, s: Sequence) -> None:
        self._sequences.remove(s)
        self._drop(s)

    def _drop(self, s: Sequence) -> None:
        if s in self._sources:
            self.pool.release([self._sources.pop(s)[0]])
        self.pool.release(s.blocks)
        s.blocks = []
        del self._texts[s]
