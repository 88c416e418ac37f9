"""Sizes that programs of a decoder exist for."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Sizes that programs exist for, each ascending."""

    prompt: tuple[int, ...] = (32, 128, 512)  # tokens of a chunk of a prompt
    batch: tuple[int, ...] = (1, 4, 8)  # sequences of a decode step
    length: tuple[int, ...] = (128, 512, 1024)  # tokens a step looks back at; the last is the capacity of a slot
    draft: int = 0  # tokens that a lone greedy sequence has checked in one step, guessed from its own text

    block: int = 0  # tokens of a block of a paged cache; 0: a slot is a stretch of capacity tokens
    n_cache_blocks: int = 0  # 0: as many as hold n_slots sequences of capacity

    @property
    def n_blocks(self) -> int:
        return self.n_cache_blocks or self.n_slots * self.capacity // self.block

    @property
    def capacity(self) -> int:
        return self.length[-1]

    @property
    def n_slots(self) -> int:
        return self.batch[-1]

    def fault(self) -> str | None:
        """What is wrong with the blocks."""
        if not self.block:
            return "--cache-blocks needs --block-size" if self.n_cache_blocks else None
        odd = [n for n in self.length if n % self.block]
        if self.block < 0 or odd:
            return f"--block-size is {self.block}; it has to divide the length buckets, {', '.join(map(str, odd or self.length))}"
        if self.n_blocks * self.block < self.capacity:
            return (f"{self.n_blocks} blocks of {self.block} tokens hold fewer than the longest bucket, {self.capacity}; "
                    f"--cache-blocks has to be at least {self.capacity // self.block}")  # fmt: skip
        return None
