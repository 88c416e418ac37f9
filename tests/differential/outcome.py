"""What became of a program."""

import dataclasses
import re

FAILURES = (
    "wrong", "type", "nonfinite", "bits", "crash", "hang", "race", "uninitialised", "deadlock", "internal",
    "refused", "error", "oracle", "invalid",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """name is ok or one of FAILURES. seconds: processor time to trace, on the CPU,
    on the chip, with other threads, to judge."""

    name: str
    text: str = ""
    n_undecided: int = 0
    is_blunt: bool = False
    seconds: tuple = ()

    def signature(self):
        """What two failures of one cause have in common: the outcome, and a message without its numbers."""
        if self.name in ("wrong", "type", "nonfinite", "bits", "oracle", "crash", "hang"):
            return self.name
        return f"{self.name}: {re.sub(r'[0-9]+', '#', self.text.splitlines()[0] if self.text else '')}"
