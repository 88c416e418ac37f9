"""Sizes that programs of a decoder exist for."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Sizes that programs exist for, each ascending."""

    prompt: tuple[int, ...] = (32, 128, 512)  # tokens of a chunk of a prompt
    batch: tuple[int, ...] = (1, 4, 8)  # sequences of a decode step
    length: tuple[int, ...] = (128, 512, 1024)  # tokens a step looks back at; the last is the capacity of a slot
    draft: int = 0  # tokens that a lone greedy sequence has checked in one step, guessed from its own text

    @property
    def capacity(self) -> int:
        return self.length[-1]

    @property
    def n_slots(self) -> int:
        return self.batch[-1]
