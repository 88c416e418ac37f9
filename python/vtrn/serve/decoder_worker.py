"""A thread that runs a decoder's steps and tells each request of its tokens as they are made."""

import dataclasses
import threading
import typing

from vtrn.serve.accounting import ModelMeters, now
from vtrn.serve.decoder_engine import DecoderEngine, StepResult
from vtrn.serve.decoder_schedule import Copy, Draft, Prefill, Schedule, Sequence, Step, Verify
from vtrn.serve.draft import Drafter
from vtrn.serve.errors import RequestError
from vtrn.serve.paged_engine import PagedEngine


@dataclasses.dataclass(eq=False)
class Generation:
    """A request's way through the decoder. on_token(token, finish) and on_error(error) run on the worker's thread."""

    sequence: Sequence
    on_token: typing.Callable[[int, str | None], None]
    on_error: typing.Callable[[Exception], None]
    arrival: float = dataclasses.field(default_factory=now)
    started: float | None = None
    token_times: list[float] = dataclasses.field(default_factory=list)
    prefill_ns: float = 0.0  # of the chip, steps that it took part in
    decode_ns: float = 0.0
    draft_ns: float = 0.0  # of decode_ns, the draft network's
    dollars: float | None = 0.0
    n_steps: int = 0
    n_rows: int = 0
    n_bucket_rows: int = 0
    bucket: str = ""
    is_cancelled: bool = False
    n_told: int = 0  # tokens that on_token was called for
    logprobs: list[float] = dataclasses.field(default_factory=list)  # of the tokens, if the choice asks for them

    def parameters(self, core_i: int) -> dict:
        """Chip time beside wall time, as the answer's `metrics`."""
        n = len(self.sequence.tokens)
        start, times = self.started or self.arrival, self.token_times
        wall = {
            "time_to_first_token_ms": 1e3 * (times[0] - self.arrival) if times else None,
            "queue_time_ms": 1e3 * (start - self.arrival),
            "generation_time_ms": 1e3 * (times[-1] - start) if times else None,
            "mean_itl_ms": 1e3 * (times[-1] - times[0]) / (n - 1) if n > 1 else None,
            "tokens_per_second": n / (times[-1] - start) if times and times[-1] > start else None,
        }
        chip = {
            "chip_time_us": (self.prefill_ns + self.decode_ns) / 1e3,
            "chip_time_to_first_token_us": self.prefill_ns / 1e3,
            "chip_time_per_output_token_us": self.decode_ns / 1e3 / (n - 1) if n > 1 else None,
        }
        rounded = {k: round(v, 3) for k, v in {**wall, **chip}.items() if v is not None}
        rounded["batch"] = round(self.n_rows / max(1, self.n_steps), 2)
        rounded["bucket"] = self.bucket
        rounded["padding_percent"] = round(100 * (1 - self.n_rows / max(1, self.n_bucket_rows)), 2)
        rounded["prompt_tokens_reused"] = self.sequence.n_reused
        if self.sequence.n_guessed:
            rounded["tokens_guessed"], rounded["tokens_accepted"] = self.sequence.n_guessed, self.sequence.n_accepted
            if self.draft_ns:
                rounded["chip_time_draft_us"] = round(self.draft_ns / 1e3, 3)
        rounded["core"] = core_i
        if self.dollars is not None and n:
            rounded["dollars_per_million_tokens"] = round(self.dollars / n * 1e6, 6)
        return rounded


class DecoderWorker:
    def __init__(self, name: str, engine: DecoderEngine, schedule: Schedule, drafter: Drafter | None = None):
        self.name, self.engine, self.schedule, self.meters = name, engine, schedule, ModelMeters()
        self.drafter, schedule.has_drafter = drafter, drafter is not None
        self._generations: dict[Sequence, Generation] = {}
        self._lock = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name=f"{name}@{engine.core_i}")
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        return len(self.schedule.waiting)

    @property
    def n_running(self) -> int:
        return self.schedule.n_running

    def submit(self, generation: Generation) -> None:
        with self._lock:
            if self._is_closed:
                raise RequestError(503, f"{self.name} is shutting down; send the request to another server")
            try:
                self.schedule.submit(generation.sequence)
            except RequestError as error:
                if error.status == 503:
                    self.meters.add_failure("rejected")
                raise
            self._generations[generation.sequence] = generation
            self._lock.notify()

    def cancel(self, generation: Generation) -> None:
        """Its client is gone: it leaves its slot after the step under way."""
        with self._lock:
            generation.is_cancelled = True
            self._lock.notify()

    def abandon(self, error: Exception) -> None:
        """Those that wait and run are told the error, nothing more is taken. The step under way ends."""
        with self._lock:
            self._is_closed = True
            generations = [g for g in self._generations.values() if not g.is_cancelled]
            for g in generations:
                g.is_cancelled = True
            self._lock.notify()
        for g in generations:
            g.on_error(error)

    def close(self) -> None:
        """What waits and runs is finished first."""
        with self._lock:
            self._is_closed = True
            self._lock.notify()
        self._thread.join()

    def _drop_cancelled(self) -> None:
        for sequence, generation in list(self._generations.items()):
            if generation.is_cancelled:
                self.schedule.cancel(sequence)
                del self._generations[sequence]
                self.meters.add_failure("cancelled")

    def _next(self) -> Step | None:
        with self._lock:
            while True:
                self._drop_cancelled()
                step = self.schedule.next_step()
                if step or (self._is_closed and not self._generations):
                    return step
                self._lock.wait()

    def _serve(self) -> None:
        while (step := self._next()) is not None:
            generations = [self._generations[s] for s in step.sequences]
            start = now()
            for g in generations:
                g.started = g.started or start
            try:
                result = run_step(self.engine, step, self.drafter)
            except Exception as error:  # the server goes on with the others
                self._fail(generations, error)
                continue
            self._account(step, generations, result, start)
            with self._lock:
                before = (generations[0].sequence.n_guessed, generations[0].sequence.n_accepted)
                changed = self.schedule.complete(step, result.tokens)
            for s, logprob in zip(changed, result.logprobs or []):
                self._generations[s].logprobs.append(logprob)
            if isinstance(step, Verify):
                with self.meters.lock:
                    self.meters.n_guessed += step.sequence.n_guessed - before[0]
                    self.meters.n_accepted += step.sequence.n_accepted - before[1]
            for g in [self._generations[s] for s in changed]:
                self._tell(g)

    def _fail(self, generations: list[Generation], error: Exception) -> None:
        with self._lock:
            for g in generations:
                self.schedule.cancel(g.sequence)
                del self._generations[g.sequence]
        for g in generations:
            self.meters.add_failure("failure")
            g.on_error(error)

    def _account(self, step, generations: list[Generation], result: StepResult, start: float) -> None:
        profile = result.profile
        self.meters.add_step(result.bucket, result.rows, result.bucket_rows, profile, now() - start)
        price = profile.dollars_per_hour / 3600 / profile.instance_cores * profile.step_ns * 1e-9 / len(generations)
        is_prefill = isinstance(step, Prefill | Copy)
        for g in generations:
            g.prefill_ns += profile.step_ns if is_prefill else 0
            g.decode_ns += 0 if is_prefill else profile.step_ns
            g.draft_ns += profile.step_ns if isinstance(step, Draft) else 0
            g.dollars = g.dollars + price if price else None
            g.bucket = result.bucket
            if not is_prefill and not isinstance(step, Draft):
                g.n_steps += 1
                g.n_rows += 1 if isinstance(step, Verify) else result.rows
                g.n_bucket_rows += 1 if isinstance(step, Verify) else result.bucket_rows
        if isinstance(step, Prefill):
            with self.meters.lock:
                self.meters.n_prompt_tokens += len(step.tokens)

    def _tell(self, g: Generation) -> None:
        sequence, time = g.sequence, now()
        with self.meters.lock:
            self.meters.n_new_tokens += 1
            if g.token_times:
                self.meters.per_token.add(time - g.token_times[-1])
            else:
                self.meters.first_token.add(time - g.arrival)
                self.meters.n_reused_tokens += sequence.n_reused
        g.token_times.append(time)
        token, g.n_told = sequence.tokens[g.n_told], g.n_told + 1
        finish = sequence.finish if g.n_told == len(sequence.tokens) else None
        if finish:
            with self._lock:
                self._generations.pop(sequence, None)
            self.meters.add_answer(time - g.arrival, (g.started or g.arrival) - g.arrival)
        g.on_token(token, finish)


def run_step(engine: DecoderEngine, step: Step, drafter: Drafter | None = None) -> StepResult:
    if isinstance(step, Draft):
        return drafter.propose(step.sequence.ids, step.n)
    if isinstance(engine, PagedEngine):
        return engine.run(step)
    if isinstance(step, Copy):
        return engine.copy(step.source, step.sequence.slot, step.n)
    if isinstance(step, Verify):
        return engine.verify(step.sequence.slot, step.sequence.n_filled, step.tokens)
    if isinstance(step, Prefill):
        s = step.sequence
        uniform = s.uniform() if step.is_last and s.choice.temperature else 0.0
        return engine.prefill(s.slot, step.start, step.tokens, s.choice, uniform)
    running = step.sequences
    return engine.decode(
        {s.slot: s.tokens[-1] for s in running}, {s.slot: s.n_filled for s in running},
        {s.slot: s.choice for s in running}, {s.slot: s.uniform() if s.choice.temperature else 0.0 for s in running},
    )  # fmt: skip
