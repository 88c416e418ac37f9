"""What both trainings share: a progress bar, and the report of what the chip would have done."""

import os
import sys
import time


class Progress:
    """A line that redraws itself on a terminal, and a line every tenth part elsewhere."""

    def __init__(self, title: str, n_steps: int):
        self.title, self.n_steps = title, n_steps
        self.start = time.monotonic()
        self.shown = -1.0
        self.is_terminal = sys.stderr.isatty()

    def show(self, step: int, loss: float) -> None:
        now = time.monotonic() - self.start
        is_last = step == self.n_steps
        if self.is_terminal:
            if not is_last and now - self.shown < 0.1:
                return
        elif not is_last and step * 10 // self.n_steps == (step - 1) * 10 // self.n_steps:
            return
        self.shown = now
        done = 24 * step // self.n_steps
        left = now / step * (self.n_steps - step)
        line = (
            f"{self.title} [{'#' * done}{'.' * (24 - done)}] {step}/{self.n_steps}"
            f"  loss {loss:.4f}  {now:.0f} s, {left:.0f} s left"
        )
        end = "\n" if is_last or not self.is_terminal else ""
        print(("\r" if self.is_terminal else "") + line, end=end, file=sys.stderr, flush=True)


def chip_report(platform: str, seconds_per_step: float) -> None:
    """Prints the profile that VTRN_PROFILE asks for; on a platform other than neuron, nothing."""
    directory = os.environ.get("VTRN_PROFILE")
    if platform != "neuron" or not directory:
        return
    import vtrn.profile

    vtrn.profile.flush()
    print(vtrn.profile.text(vtrn.profile.load(directory), seconds_per_step))
    print(f"  {directory}/profile.html, {directory}/profile.pftrace (ui.perfetto.dev)")
