"""What answers say of chip and price, and what the server sums up of it."""

import bisect
import threading
import time

from vtrn.serve.runtime import Profile

US = 1e-3  # of a nanosecond


def dollars_per_million(profile: Profile, n: float, core_ns: float | None = None) -> float | None:
    """Of calls that give n results each and take core_ns of cores (default: the program's time), with these busy and the others
    paid by what runs there; None: no price is published for the instance."""
    if not profile.dollars_per_hour or not n:
        return None
    core_second = profile.dollars_per_hour / 3600 / profile.instance_cores
    return core_second * (profile.step_ns if core_ns is None else core_ns) * 1e-9 / n * 1e6


class Histogram:
    """Cumulative, as Prometheus has it."""

    def __init__(self, bounds: list[float]):
        self.bounds, self.counts, self.total, self.n = bounds, [0] * (len(bounds) + 1), 0.0, 0

    def add(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value
        self.n += 1

    def cumulative(self) -> list[tuple[str, int]]:
        n, rows = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts):
            n += count
            rows.append((bound, n))
        return rows

    def quantile(self, q: float) -> float | None:
        """The upper bound of the bucket that holds it; None: nothing was added."""
        if not self.n:
            return None
        for i, (_, n) in enumerate(self.cumulative()):
            if n >= q * self.n:
                return self.bounds[min(i, len(self.bounds) - 1)]


LATENCIES = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]


class ModelMeters:
    """Of one model, since the server started. Threads add under `lock`."""

    def __init__(self):
        self.lock = threading.Lock()
        self.n_success = self.n_failure = self.n_cancelled = self.n_rejected = 0
        self.n_rows = self.n_padding = self.n_steps = 0
        self.n_prompt_tokens = self.n_new_tokens = self.n_reused_tokens = self.n_guessed = self.n_accepted = 0
        self.chip_ns = self.busy_seconds = self.reference_ns = 0.0
        self.latency, self.queue = Histogram(LATENCIES), Histogram(LATENCIES)
        self.first_token, self.per_token = Histogram(LATENCIES), Histogram(LATENCIES)
        self.by_bucket: dict[str, int] = {}

    def add_step(self, bucket: str, rows: int, bucket_rows: int, profile: Profile, seconds: float) -> None:
        with self.lock:
            self.n_steps += 1
            self.n_rows += rows
            self.n_padding += bucket_rows - rows
            self.chip_ns += profile.step_ns
            self.reference_ns += profile.step_ns * bool(profile.n_reference_ops)
            self.busy_seconds += seconds
            self.by_bucket[bucket] = self.by_bucket.get(bucket, 0) + 1

    def add_answer(self, seconds: float, queued: float) -> None:
        with self.lock:
            self.n_success += 1
            self.latency.add(seconds)
            self.queue.add(queued)

    def add_failure(self, kind: str) -> None:
        """kind: failure, cancelled or rejected."""
        with self.lock:
            setattr(self, f"n_{kind}", getattr(self, f"n_{kind}") + 1)


now = time.monotonic  # of the wall clock; the chip's time is never added to it
