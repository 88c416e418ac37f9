"""Blocks of a paged cache: which are free, who shares which, and which texts' beginnings they hold.

A block holds the rows of `size` tokens. A full block is known by all tokens up to its end, so a prompt that begins alike
takes it over; a block that nobody uses keeps its content until it is needed for something else, the longest unused first.
"""

import collections
import itertools

ROOT = 0  # the text before the first block


class BlockPool:
    def __init__(self, n_blocks: int, size: int):
        self.n_blocks, self.size = n_blocks, size
        self._free = collections.OrderedDict((b, None) for b in range(n_blocks))  # next to be taken first
        self._users = [0] * n_blocks
        self._known: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}  # (text before, tokens) -> (text, block)
        self._key: list[tuple[int, tuple[int, ...]] | None] = [None] * n_blocks  # of what a block is known for
        self._texts = itertools.count(ROOT + 1)

    @property
    def n_free(self) -> int:
        return len(self._free)

    @property
    def n_used(self) -> int:
        return self.n_blocks - len(self._free)

    @property
    def n_cached(self) -> int:
        """Free ones that hold the beginning of a text."""
        return sum(self._key[b] is not None for b in self._free)

    def users(self, block: int) -> int:
        return self._users[block]

    def take(self) -> int | None:
        """A block of one user, its content forgotten; None: there is none."""
        if not self._free:
            return None
        block, _ = self._free.popitem(last=False)
        self._forget(block)
        self._users[block] = 1
        return block

    def share(self, block: int) -> None:
        self._free.pop(block, None)
        self._users[block] += 1

    def release(self, blocks: list[int]) -> None:
        """Of a text, in order: its end is taken by others first."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                self._free[block] = None
                if self._key[block] is None:
                    self._free.move_to_end(block, last=False)

    def know(self, text: int, tokens: tuple[int, ...], block: int) -> int:
        """`block` is full of `tokens`, behind `text`. Gives the text that ends with it."""
        key = (text, tokens)
        if key not in self._known:
            self._known[key] = (next(self._texts), block)
            self._key[block] = key
        return self._known[key][0]

    def find(self, text: int, tokens: tuple[int, ...]) -> tuple[int, int] | None:
        """The text that `tokens` behind `text` make, and the block that holds them."""
        return self._known.get((text, tokens))

    def likest(self, text: int, tokens: list[int]) -> tuple[int, int]:
        """Of the full blocks behind `text`, that which begins most as `tokens` do: (tokens alike, block); (0, -1): none."""
        best = (0, -1)
        for (before, held), (_, block) in self._known.items():
            if before == text and (n := common(list(held), tokens)) > best[0]:
                best = (n, block)
        return best

    def _forget(self, block: int) -> None:
        if self._key[block] is not None:
            del self._known[self._key[block]]
            self._key[block] = None


def common(a: list[int], b: list[int]) -> int:
    """How many tokens two texts begin with."""
    n = 0
    for x, y in zip(a, b):
        if x != y:
            break
        n += 1
    return n
