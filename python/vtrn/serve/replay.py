"""vtrn serve-replay: a trace of requests through the decoder's schedule on the virtual clock.

Steps take what the timing model says of their programs, and the host's cost of a call; tokens are counted, not
computed. Nothing waits for a clock and nothing is drawn without the seed, so a trace gives the same report every time.
"""

import csv
import dataclasses
import heapq
import html
import json
import pathlib
import random
import sys

from vtrn.serve import arguments as read
from vtrn.serve.buckets import Buckets
from vtrn.serve.decoder_engine import DecoderShapes
from vtrn.serve.decoder_schedule import Copy, Prefill, Schedule, Sequence
from vtrn.serve.errors import RequestError
from vtrn.serve.machine import Instance, instance, rests_on, time_artifact
from vtrn.serve.models.decoder import DecoderConfig
from vtrn.serve.paged_engine import PagedShapes, buckets_of
from vtrn.serve.paged_schedule import PagedSchedule
from vtrn.serve.programs import bucket_for
from vtrn.serve.runtime import VtrnError

# Shapes are enough to time a network.
MODELS = {"smollm2": DecoderConfig(30, 576, 9, 3, 64, 1536, 49152, 8192, 1e5)}
PERCENTILES = (50, 90, 99)


@dataclasses.dataclass(frozen=True)
class Request:
    n_prompt: int
    n_output: int
    arrival_s: float | None
    session: str | None
    n_shared: int  # tokens that requests of the session begin with


def read_trace(path: pathlib.Path) -> list[Request]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise VtrnError(f"{path} is no text in UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); a trace has an object "
                        "of JSON a line") from None  # fmt: skip
    requests = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            r = json.loads(line)
            if not isinstance(r, dict):
                raise ValueError("a line has to be an object")
            n_prompt, n_output = r["prompt_tokens"], r["output_tokens"]
            arrival = r.get("arrival_s")
            if type(n_prompt) is not int or type(n_output) is not int or n_prompt < 1 or n_output < 1:
                raise ValueError("prompt_tokens and output_tokens have to be whole numbers from 1")
            if arrival is not None and not 0 <= arrival < 1e9:
                raise ValueError(f"arrival_s is {arrival}; it has to be seconds from the start")
            requests.append(Request(n_prompt, n_output, arrival, r.get("session"), int(r.get("shared_tokens", 0))))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise VtrnError(f"{path}:{number}: {what}; a line is {{\"prompt_tokens\": 100, \"output_tokens\": 20}}, "
                            "with arrival_s for its own pace") from None  # fmt: skip
    if not requests:
        raise VtrnError(f"{path} has no requests")
    return requests


def arrivals(requests: list[Request], rate: float | None, seed: int) -> list[float]:
    """Seconds. A rate draws gaps of a Poisson process; None takes the trace's own."""
    if rate is None:
        if any(r.arrival_s is None for r in requests):
            raise VtrnError("a request of the trace has no arrival_s; give --rate")
        return [r.arrival_s for r in requests]
    rng, t, times = random.Random(seed), 0.0, []
    for _ in requests:
        t += rng.expovariate(rate)
        times.append(t)
    return times


class StepTimes:
    """Nanoseconds of the decoder's programs on one core, each timed once."""

    def __init__(self, config: DecoderConfig, buckets: Buckets, dtype: str, machine: Instance):
        kind = PagedShapes if buckets.block else DecoderShapes
        self.shapes, self.buckets, self.machine = kind(config, buckets, dtype), buckets, machine
        self._known: dict[str, float] = {}

    def of(self, step) -> tuple[float, str, int]:
        """(ns, bucket, rows of the bucket)"""
        if self.buckets.block:
            rows, length = buckets_of(step, self.buckets)
            table = 4 * -(-length // self.buckets.block)
            moved = 8 * rows + table + 12 if isinstance(step, Prefill) else 8 if isinstance(step, Copy) else rows * (16 + table)
        elif isinstance(step, Prefill):
            rows = bucket_for(list(self.buckets.prompt), len(step.tokens))
            length = rows if step.start == 0 else bucket_for(list(self.buckets.length), step.start + rows)
            moved = 4 * rows + 16
        elif isinstance(step, Copy):
            rows = length = bucket_for(list(self.buckets.length), step.n)
            moved = 8
        else:
            rows = bucket_for(list(self.buckets.batch), max(s.slot for s in step.sequences) + 1)
            length = bucket_for(list(self.buckets.length), max(s.n_filled for s in step.sequences) + 1)
            moved = 12 * rows
        if isinstance(step, Prefill):
            spec = self.shapes.prefill(rows, length, True)
        else:
            spec = self.shapes.copy(length) if isinstance(step, Copy) else self.shapes.decode(rows, length, True)
        if spec.name not in self._known:
            self._known[spec.name] = time_artifact(spec.make_artifact(), self.machine.chip)["step_ns"]
        return self._known[spec.name] + self.machine.host_ns(moved), spec.name, rows


@dataclasses.dataclass
class Served:
    arrival: float
    n_prompt: int
    sequence: Sequence | None = None
    times: list[float] = dataclasses.field(default_factory=list)  # of tokens, seconds
    is_refused: bool = False


def simulate(requests: list[Request], times: list[float], step_times: StepTimes, max_waiting: int) -> tuple[list[Served], dict]:
    """One decoder on one core; requests that the queue or a bucket does not hold are refused, as the server does."""
    schedule = (PagedSchedule if step_times.buckets.block else Schedule)(step_times.buckets, max_waiting)
    order = sorted(range(len(requests)), key=lambda i: (times[i], i))
    served = [Served(times[i], requests[i].n_prompt) for i in range(len(requests))]
    by_sequence: dict[Sequence, Served] = {}
    pending = [(times[i], k, i) for k, i in enumerate(order)]
    heapq.heapify(pending)
    now = busy = 0.0
    use = {"steps": 0, "rows": 0, "bucket_rows": 0}
    while True:
        while pending and pending[0][0] <= now:
            _, _, i = heapq.heappop(pending)
            s = Sequence(_prompt(requests[i], i), requests[i].n_output)
            try:
                schedule.submit(s)
                served[i].sequence = s
                by_sequence[s] = served[i]
            except RequestError:
                served[i].is_refused = True
        step = schedule.next_step()
        if step is None:
            if not pending:
                break
            now = pending[0][0]
            continue
        ns, _, bucket_rows = step_times.of(step)
        now += ns * 1e-9
        busy += ns * 1e-9
        rows = min(_rows_of(step), bucket_rows)
        use = {"steps": use["steps"] + 1, "rows": use["rows"] + rows, "bucket_rows": use["bucket_rows"] + bucket_rows}
        for s in schedule.complete(step, [0] * len(step.sequences)):
            by_sequence[s].times.append(now)
    preemptions = schedule.n_preemptions if isinstance(schedule, PagedSchedule) else 0
    return served, {**use, "busy_s": busy, "end_s": now, "preemptions": preemptions}


def _rows_of(step) -> int:
    return len(step.tokens) if isinstance(step, Prefill) else step.n if isinstance(step, Copy) else len(step.sequences)


def _prompt(request: Request, i: int) -> list[int]:
    """Tokens that only say which prompts begin alike."""
    shared = min(request.n_shared, request.n_prompt) if request.session is not None else 0
    common = _hash_of(request.session) if shared else 0
    return [common + k for k in range(shared)] + [(i + 1) << 32 | k for k in range(shared, request.n_prompt)]


def _hash_of(text) -> int:
    """The same in every process."""
    value = 1469598103934665603
    for byte in str(text).encode():
        value = (value ^ byte) * 1099511628211 % (1 << 61)
    return (value | 1) << 64


def percentile(values: list[float], q: float) -> float | None:
    """By linear interpolation, as NumPy's default."""
    if not values:
        return None
    values = sorted(values)
    at = (len(values) - 1) * q / 100
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def report(served: list[Served], use: dict, rate: float | None, limits: dict[str, float], machine: Instance) -> dict:
    """The names of vLLM's benchmark; times in milliseconds of the virtual clock."""
    done = [s for s in served if s.sequence is not None and s.sequence.finish]
    ttft = [1e3 * (s.times[0] - s.arrival) for s in done]
    e2el = [1e3 * (s.times[-1] - s.arrival) for s in done]
    tpot = [1e3 * (s.times[-1] - s.times[0]) / (len(s.times) - 1) if len(s.times) > 1 else 0.0 for s in done]
    itl = [1e3 * (b - a) for s in done for a, b in zip(s.times, s.times[1:])]
    good = [all({"ttft": a, "tpot": b, "e2el": c}[k] <= limit for k, limit in limits.items())
            for a, b, c in zip(ttft, tpot, e2el)]  # fmt: skip
    start = min((s.arrival for s in served), default=0.0)
    seconds = max(use["end_s"] - start, 1e-12)
    n_in, n_out = sum(s.n_prompt for s in done), sum(len(s.times) for s in done)
    row = {
        "request_rate": rate, "completed": len(done), "failed": sum(s.is_refused for s in served), "duration": seconds,
        "total_input_tokens": n_in, "total_output_tokens": n_out, "request_throughput": len(done) / seconds,
        "request_goodput": sum(good) / seconds if limits else None, "output_throughput": n_out / seconds,
        "total_token_throughput": (n_in + n_out) / seconds,
    }  # fmt: skip
    for name, values in (("ttft", ttft), ("tpot", tpot), ("itl", itl), ("e2el", e2el)):
        mean = sum(values) / len(values) if values else None
        row[f"mean_{name}_ms"] = mean
        row[f"std_{name}_ms"] = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5 if values else None
        row |= {f"p{p}_{name}_ms": percentile(values, p) for p in PERCENTILES}
    row["core_busy_percent"] = 100 * use["busy_s"] / seconds
    row["padding_percent"] = 100 * (1 - use["rows"] / use["bucket_rows"]) if use["bucket_rows"] else None
    row["preemptions"] = use["preemptions"]
    reused = sum(s.sequence.n_reused for s in done)
    row["prefix_reused_percent"] = 100 * reused / n_in if n_in else None
    # One core of the instance works at this; the others are paid by what runs there.
    dollars = machine.dollars_per_hour / 3600 / machine.n_cores * seconds
    row["dollars_per_million_output_tokens"] = dollars / n_out * 1e6 if n_out and dollars else None
    return row


def rates_of(text: str | None) -> list[float | None]:
    if text is None:
        return [None]
    low, _, high = text.partition(":")
    try:
        rate, last = float(low), float(high or low)
    except ValueError:
        raise VtrnError(f"--rate is {text!r}; a number, or LOW:HIGH") from None
    if not 0 < rate <= last < 1e6:
        raise VtrnError(f"--rate is {text!r}; it has to rise from above 0")
    rates = []
    while rate <= last * (1 + 1e-9):
        rates.append(rate)
        rate *= 2
    return rates


def limits_of(texts: list[str]) -> dict[str, float]:
    limits = {}
    for text in texts:
        name, _, value = text.partition(":")
        try:
            limits[name] = float(value)
        except ValueError:
            name = ""
        if name not in ("ttft", "tpot", "e2el"):
            raise VtrnError(f"--goodput is {text!r}; it is ttft:MS, tpot:MS or e2el:MS")
    return limits


def write_csv(path: pathlib.Path, rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _curve(rows: list[dict], key: str, title: str) -> str:
    """Latency over throughput."""
    points = [(r["request_throughput"], r[key]) for r in rows if r[key] is not None]
    if not points:
        return ""
    w, h = 520, 220
    top, right = max(y for _, y in points) or 1, max(x for x, _ in points) or 1
    at = [(50 + (w - 70) * x / right, h - 30 - (h - 50) * y / top) for x, y in points]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    return (f'<figure><figcaption>{title}, over requests a second answered</figcaption><svg viewBox="0 0 {w} {h}">'
            f'<polyline points="{line}"/>{dots}<text x="4" y="20">{top:.4g} ms</text><text x="4" y="{h - 28}">0</text>'
            f'<text x="{w - 60}" y="{h - 8}">{right:.4g}/s</text></svg></figure>')  # fmt: skip


STYLE = """<meta charset="utf-8"><style>body{font:15px system-ui,sans-serif;max-width:75rem;margin:1.5rem auto;padding:0 1rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
figure{display:inline-block;margin:1rem 1rem 1rem 0}svg{width:32rem;max-width:100%}polyline{fill:none;stroke:#2a78d6;stroke-width:2}
circle{fill:#2a78d6}text{font-size:11px;fill:#666}</style>"""


def table_html(rows: list[dict], columns: list[str]) -> str:
    def cell(value):
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return "" if value is None or value is False else "yes" if value is True else html.escape(str(value))

    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell(r.get(c))}</td>" for c in columns) + "</tr>" for r in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


COLUMNS = ["request_rate", "completed", "failed", "request_throughput", "request_goodput", "output_throughput",
           "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms", "p99_e2el_ms", "core_busy_percent",
           "padding_percent", "dollars_per_million_output_tokens"]  # fmt: skip


def run(args) -> dict:
    import os

    machine = instance(args.instance or os.environ.get("VTRN_INSTANCE") or "inf2.xlarge")
    requests, limits = read_trace(args.trace), limits_of(args.goodput)
    buckets = Buckets(args.prompt_buckets, args.batch_buckets, args.length_buckets, 0, args.block_size, args.cache_blocks)
    if (fault := buckets.fault()) is not None:
        raise VtrnError(fault)
    steps = StepTimes(MODELS[args.model], buckets, args.dtype, machine)
    rows = []
    for rate in rates_of(args.rate):
        served, use = simulate(requests, arrivals(requests, rate, args.seed), steps, args.max_waiting)
        rows.append(report(served, use, rate, limits, machine))
    return {"model": args.model, "instance": machine.name, "chip": machine.chip, "dtype": args.dtype, "cores": 1,
            "clock": "virtual", "rests_on": rests_on(machine.chip), "rows": rows}  # fmt: skip


def main(arguments: list[str]) -> int:
    args = read.replay().parse_args(arguments)
    try:
        result = run(args)
        rows = result["rows"]
        if args.csv:
            write_csv(args.csv, rows)
        if args.html:
            title = f"{result['model']} on one core of {result['instance']}, {result['dtype']}, virtual clock"
            curves = _curve(rows, "mean_ttft_ms", "mean TTFT") + _curve(rows, "mean_tpot_ms", "mean TPOT")
            args.html.write_text(f"<!doctype html><title>{title}</title>{STYLE}<h1>{title}</h1>{curves}"
                                 f"{table_html(rows, COLUMNS)}", encoding="utf-8")  # fmt: skip
    except (VtrnError, OSError) as error:
        print(f"vtrn serve-replay: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"{result['model']} on one core of {result['instance']} ({result['dtype']}), milliseconds of the virtual clock")
    print(f"{'rate':>8} {'done':>6} {'refused':>7} {'req/s':>8} {'goodput':>8} {'tok/s':>8} {'TTFT mean':>10} {'p99':>9} "
          f"{'TPOT mean':>10} {'p99':>9} {'busy':>6} {'$/M tokens':>10}")  # fmt: skip
    for r in rows:
        cells = [r["request_rate"], r["completed"], r["failed"], r["request_throughput"], r["request_goodput"],
                 r["output_throughput"], r["mean_ttft_ms"], r["p99_ttft_ms"], r["mean_tpot_ms"], r["p99_tpot_ms"],
                 r["core_busy_percent"], r["dollars_per_million_output_tokens"]]  # fmt: skip
        widths = (8, 6, 7, 8, 8, 8, 10, 9, 10, 9, 6, 10)
        print(" ".join(("-" if c is None else f"{c:.4g}").rjust(w) for c, w in zip(cells, widths)))
    if result["rests_on"]:
        print(f"rests on: {result['rests_on']}")
    return 0
