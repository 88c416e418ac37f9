"""Dynamic batching of a model whose rows are independent: those that wait share a call, up to a number of rows and a
delay. One thread serves each core that has the model, or each stage of a pipeline."""

import collections
import dataclasses
import threading
import typing

from vtrn.serve.accounting import ModelMeters, dollars_per_million, now
from vtrn.serve.errors import RequestError, overloaded
from vtrn.serve.runtime import Profile


@dataclasses.dataclass(frozen=True)
class BatchResult:
    rows: list  # a result for each row
    bucket: str
    bucket_rows: int
    padding_percent: float  # of the elements that the program computed, those that no row asked for
    profile: Profile
    core_ns: float | None = None  # that the call takes of cores, if not the program's time
    about: dict = dataclasses.field(default_factory=dict)  # of the answer


class BatchModel(typing.Protocol):
    name: str
    max_rows: int

    def run(self, rows: list, core_i: int) -> BatchResult: ...


@dataclasses.dataclass
class Answer:
    """Of one request: its rows' results, and what `parameters` say."""

    rows: list
    parameters: dict


@dataclasses.dataclass(eq=False)
class _Job:
    rows: list
    done: typing.Callable[[Answer | None, Exception | None], None]
    arrival: float
    is_cancelled: bool = False


@dataclasses.dataclass(frozen=True)
class BatchLimits:
    max_batch: int = 32
    max_delay_us: int = 2000
    max_queue: int = 1024  # rows that wait


class Batcher:
    def __init__(self, model: BatchModel, cores: list[int], limits: BatchLimits = BatchLimits()):
        self.model, self.limits, self.meters = model, limits, ModelMeters()
        self._max_rows = min(limits.max_batch, model.max_rows)
        self._jobs: collections.deque[_Job] = collections.deque()
        self._n_rows = 0  # that wait
        self._running: set[_Job] = set()
        self._lock = threading.Condition()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._serve, args=(c,), name=f"{model.name}@{c}") for c in cores]
        for thread in self._threads:
            thread.start()

    @property
    def n_waiting(self) -> int:
        return self._n_rows

    @property
    def n_running(self) -> int:
        return sum(len(job.rows) for job in tuple(self._running))

    def submit(self, rows: list, done) -> typing.Callable[[], None]:
        """done(answer, error) is called on a thread of the batcher. Gives a function that withdraws the request."""
        parts = [rows[i : i + self._max_rows] for i in range(0, len(rows), self._max_rows)]
        collect = done if len(parts) == 1 else _collector(len(parts), done)
        jobs = [_Job(p, collect(i) if len(parts) > 1 else done, now()) for i, p in enumerate(parts)]
        with self._lock:
            if self._is_closed:
                raise RequestError(503, f"{self.model.name} is shutting down; send the request to another server")
            if self._n_rows and self._n_rows + len(rows) > self.limits.max_queue:
                self.meters.add_failure("rejected")
                raise overloaded(self.model.name, self._n_rows, self.limits.max_queue)
            if len(rows) > self.limits.max_queue:
                self.meters.add_failure("rejected")
                raise RequestError(413, f"{len(rows)} rows are more than the queue of {self.model.name} holds, "
                                        f"{self.limits.max_queue}; send them in several requests")  # fmt: skip
            self._jobs.extend(jobs)
            self._n_rows += len(rows)
            self._lock.notify()

        def cancel():
            for job in jobs:
                job.is_cancelled = True

        return cancel

    def abandon(self, error: Exception) -> None:
        """Those that wait and run are told the error, nothing more is taken. The call under way ends; its answers are dropped."""
        with self._lock:
            self._is_closed = True
            jobs = [job for job in (*self._jobs, *self._running) if not job.is_cancelled]
            for job in jobs:
                job.is_cancelled = True
            self._lock.notify_all()
        for job in jobs:
            job.done(None, error)

    def close(self) -> None:
        """What waits is served first."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self) -> list[_Job] | None:
        """The jobs of the next call; None: closed, and nothing is left."""
        with self._lock:
            while not self._jobs:
                if self._is_closed:
                    return None
                self._lock.wait()
            deadline = self._jobs[0].arrival + self.limits.max_delay_us * 1e-6
            while self._n_rows < self._max_rows and not self._is_closed and (left := deadline - now()) > 0:
                self._lock.wait(left)
                if not self._jobs:  # another core took them
                    return []
            taken, n = [], 0
            while self._jobs and n + len(self._jobs[0].rows) <= self._max_rows:
                job = self._jobs.popleft()
                self._n_rows -= len(job.rows)
                if job.is_cancelled:
                    self.meters.add_failure("cancelled")
                    continue
                taken.append(job)
                n += len(job.rows)
            self._running.update(taken)
            return taken

    def _serve(self, core_i: int) -> None:
        while (jobs := self._take()) is not None:
            if jobs:
                try:
                    self._run(jobs, core_i)
                finally:
                    self._running.difference_update(jobs)

    def _run(self, jobs: list[_Job], core_i: int) -> None:
        start = now()
        rows = [row for job in jobs for row in job.rows]
        try:
            result = self.model.run(rows, core_i)
        except Exception as error:  # the server goes on, each request is told
            for job in jobs:
                self.meters.add_failure("failure")
                job.done(None, error)
            return
        end = now()
        self.meters.add_step(result.bucket, len(rows), result.bucket_rows, result.profile, end - start)
        at = 0
        for job in jobs:
            parameters = {
                "chip_time_us": round(result.profile.step_ns / 1e3, 3),
                "queue_time_us": round((start - job.arrival) * 1e6, 1),
                "wall_time_us": round((end - start) * 1e6, 1),
                "batch": len(rows), "bucket": result.bucket, "padding_percent": round(result.padding_percent, 2),
                **(result.about or {"core": core_i}),
            }  # fmt: skip
            price = dollars_per_million(result.profile, len(rows), result.core_ns)
            if price is not None:
                parameters["dollars_per_million"] = round(price, 6)
            if not job.is_cancelled:
                self.meters.add_answer(end - job.arrival, start - job.arrival)
                job.done(Answer(result.rows[at : at + len(job.rows)], parameters), None)
            at += len(job.rows)


def _collector(n: int, done):
    """For a request in n parts: `done` is called once, with all rows; times are the largest, the price the mean."""
    answers: list[Answer | None] = [None] * n
    lock, state = threading.Lock(), {"left": n, "failed": False}

    def part(i: int):
        def part_done(answer, error):
            with lock:
                if state["failed"]:
                    return
                state["failed"] = error is not None
                answers[i] = answer
                state["left"] -= 1
                if state["left"] and not error:
                    return
            if error:
                return done(None, error)
            merged = dict(answers[0].parameters)
            merged["chip_time_us"] = round(sum(a.parameters["chip_time_us"] for a in answers), 3)
            merged["calls"] = n
            for key in ("queue_time_us", "wall_time_us", "padding_percent"):
                merged[key] = max(a.parameters[key] for a in answers)
            done(Answer([row for a in answers for row in a.rows], merged), None)

        return part_done

    return part
