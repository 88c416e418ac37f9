"""vtrn bench: a model's throughput, latency and price over instances, with neuronperf's columns.

The program is compiled for each chip and timed without values. A call is the host's part (the runtime, copies in and
out) and the chip's. One worker a core does one after the other; two workers hide the host's part behind the other's
program, and wait for each other.
"""

import json
import pathlib
import sys

import numpy as np

from vtrn.serve import arguments as read
from vtrn.serve.machine import Instance, instance, keeps_weights, rests_on, time_with_weights
from vtrn.serve.pipeline import cut, n_sent
from vtrn.serve.replay import STYLE, table_html, write_csv
from vtrn.serve.repository import exported_of, n_weights_of, settings_of, weights_path
from vtrn.serve.runtime import VtrnError

SECONDS = 60.0  # of the virtual clock, as neuronperf measures
COLUMNS = [
    "model_name", "n_models", "workers_per_model", "pipeline_size", "batch_size", "throughput_avg", "throughput_peak",
    "latency_ms_p0", "latency_ms_p50", "latency_ms_p90", "latency_ms_p95", "latency_ms_p99", "latency_ms_p100",
    "cpu_avg_percent", "cpu_percent_p50", "mem_avg_percent", "mem_percent_p50", "e2e_avg_ms", "infer_avg_ms",
    "total_infs", "total_s", "performance_level", "model_filename", "device_type", "instance_type", "cost_per_1m_inf",
]  # fmt: skip
MORE_COLUMNS = ["chip_time_ms", "core_busy_percent", "mfu_percent", "hbm_bytes", "reference_ops", "weights_on_chip_mib",
                "weights_mib", "weights_load_ms", "stage_ms", "is_pareto", "rests_on"]  # fmt: skip
PRINTED = ["instance_type", "n_models", "workers_per_model", "batch_size", "throughput_avg", "latency_ms_p50", "latency_ms_p99",
           "chip_time_ms", "core_busy_percent", "mfu_percent", "cost_per_1m_inf", "is_pareto"]  # fmt: skip
OF_PIPELINE = ["pipeline_size", "stage_ms"]


def calls(chip_ns: float, host_ns: float, workers: int) -> tuple[float, float]:
    """(latency of a call, time between two calls' ends on a core) in ns, in the steady state of closed loops."""
    alone = chip_ns + host_ns
    between = max(chip_ns, alone / workers)
    return max(alone, between * workers), between


def piped(stage_ns: list[float], host_ns: float, workers: int) -> tuple[float, float]:
    """The same of a pipeline: a call takes all its stages, and the slowest of them says how often one ends."""
    alone = sum(stage_ns) + host_ns
    between = max(max(stage_ns), alone / workers)
    return max(alone, between * workers), between


def row_of(model: dict, timed: dict, machine: Instance, n_models: int, workers: int) -> dict:
    """timed: what `vtrn time` says, of a pipeline the sums over its stages with stage_ns of each."""
    stage_ns = timed.get("stage_ns", [timed["step_ns"]])
    latency, between = piped(stage_ns, machine.host_ns(model["bytes"]), workers)
    batch = model["batch"]
    throughput = n_models * batch / between * 1e9
    row = dict.fromkeys([*COLUMNS, *MORE_COLUMNS])
    row |= {"model_name": model["name"], "n_models": n_models, "workers_per_model": workers, "pipeline_size": len(stage_ns),
            "batch_size": batch, "throughput_avg": throughput, "throughput_peak": throughput}  # fmt: skip
    row |= {f"latency_ms_p{q}": latency / 1e6 for q in (0, 50, 90, 95, 99, 100)}
    dollars = machine.dollars_per_hour * 1e6 / (3600 * throughput) if machine.dollars_per_hour else None
    row |= {"e2e_avg_ms": latency / 1e6, "infer_avg_ms": timed["step_ns"] / 1e6,
            "total_infs": int(throughput * SECONDS), "total_s": SECONDS, "model_filename": model["file"],
            "device_type": machine.chip, "instance_type": machine.name, "cost_per_1m_inf": dollars}  # fmt: skip
    mfu = timed["flops"] / (between * 1e-9) / machine.peak_flops / len(stage_ns)
    row |= {"chip_time_ms": timed["step_ns"] / 1e6, "core_busy_percent": 100 * timed["step_ns"] / between / len(stage_ns),
            "mfu_percent": 100 * mfu, "hbm_bytes": timed["hbm_read_bytes"] + timed["hbm_write_bytes"],
            "reference_ops": timed["reference_ops"], "is_pareto": False,
            "rests_on": rests_on(machine.chip) or ""}  # fmt: skip
    if len(stage_ns) > 1:
        row["stage_ms"] = " ".join(f"{ns / 1e6:.4g}" for ns in stage_ns)
    if "weights" in timed:
        kept = timed["weights"]
        row["rests_on"] += "; the room for weights that stay is assumed, memory.weights_partition_bytes"
        row |= {"weights_on_chip_mib": kept["stay_bytes"] / 2**20, "weights_mib": model["weight_bytes"] / 2**20,
                "weights_load_ms": kept["load_ns"] / 1e6}  # fmt: skip
    return row


def time_pipeline(artifact: bytes, n_weights: int, machine: Instance, n: int, flags: str) -> dict:
    """Of a pipeline over n cores of the instance, chip after chip: sums, and each stage's time with what it sends to the next
    chip."""
    if not keeps_weights(machine.chip):
        raise VtrnError(f"--pipeline-cores: {machine.chip} has no NeuronCore pipeline, its cores share products instead; "
                        "give an instance of inf1")  # fmt: skip
    if not 1 <= n <= machine.n_cores:
        raise VtrnError(f"--pipeline-cores is {n}; {machine.name} has {machine.n_cores} cores")

    known: dict[tuple[int, int], dict] = {}

    def time_of(stage) -> float:
        weights = sum(v.op_i < 0 and v.i < n_weights for v in stage.takes)
        known[stage.first, stage.end] = time_with_weights(stage.artifact, machine.chip, weights, flags)
        return known[stage.first, stage.end]["step_ns"]

    program, stages, stage_ns = cut(artifact, n, time_of)
    timed = [known[s.first, s.end] for s in stages]
    # From a stage's last operation to the next chip; on one chip, results are in its memory already.
    for i in range(len(stages) - 1):
        if (i + 1) % machine.cores_per_chip == 0:
            stage_ns[i] += n_sent(program, stages, i) / machine.link_bytes_per_s * 1e9
    sums = ("step_ns", "flops", "hbm_read_bytes", "hbm_write_bytes", "reference_ops")
    out = {name: sum(t[name] for t in timed) for name in sums} | {"stage_ns": stage_ns, "step_ns": sum(stage_ns)}
    kept = [t["weights"] for t in timed if "weights" in t]
    if kept:
        out["weights"] = {name: sum(k[name] for k in kept) for name in ("bytes", "stay_bytes", "load_ns")}
    return out


def mark_pareto(rows: list[dict]) -> None:
    """A row that no other beats in latency and in price."""
    priced = [r for r in rows if r["cost_per_1m_inf"] is not None]
    for r in priced:
        here = (r["latency_ms_p50"], r["cost_per_1m_inf"])
        r["is_pareto"] = not any(
            o is not r and o["latency_ms_p50"] <= here[0] and o["cost_per_1m_inf"] <= here[1]
            and (o["latency_ms_p50"], o["cost_per_1m_inf"]) != here
            for o in priced
        )  # fmt: skip


def resident_of(path: pathlib.Path) -> int:
    """How many arguments are weights, by model.toml beside the function."""
    named = weights_path(path.parent, settings_of(path.parent))
    return 0 if named is None else n_weights_of(named)


def read_model(path: pathlib.Path, batch: int | None, n_resident: int | None) -> tuple[dict, bytes]:
    named = "weights of model.toml" if n_resident is None else "--resident"
    n_resident = resident_of(path) if n_resident is None else n_resident
    exported = exported_of(path)
    n_arguments = len(exported.in_avals)
    has = f"the function of {path} has {n_arguments} argument{'s' * (n_arguments != 1)}"
    if not 0 <= n_resident <= n_arguments:
        raise VtrnError(f"{named}: {n_resident} arguments are to stay on the device; {has}")
    if batch is None and n_resident and n_resident == n_arguments:
        raise VtrnError(f"{named}: {n_resident} leaves no input that tells the batch, {has}; leave one, or give --batch")
    inputs = [a for i, a in enumerate(exported.in_avals) if i in exported.module_kept_var_idx and i >= n_resident]
    first = inputs[0].shape if inputs else ()
    if batch is None:
        batch = first[0] if first else 1
    n_bytes = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in [*inputs, *exported.out_avals])
    name = path.stem if path.stem != "model" else path.parent.name or path.stem
    weights = [a for i, a in enumerate(exported.in_avals) if i in exported.module_kept_var_idx and i < n_resident]
    weight_bytes = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in weights)
    return {"name": name, "file": path.name, "batch": batch, "bytes": n_bytes, "weights": len(weights),
            "weight_bytes": weight_bytes}, exported.mlir_module_serialized


def run(args) -> list[dict]:
    model, artifact = read_model(args.model, args.batch, args.resident)
    flags = [f"--{k}={v}" for k, v in (("auto-cast", args.auto_cast), ("auto-cast-type", args.auto_cast_type)) if v]
    rows, timed = [], {}
    for name in args.instances.split(","):
        machine = instance(name)
        n = args.pipeline_cores
        if n and name not in timed:
            timed[name] = time_pipeline(artifact, model["weights"], machine, n, " ".join(flags))
        elif machine.chip not in timed:
            timed[machine.chip] = time_with_weights(artifact, machine.chip, model["weights"], " ".join(flags))
        for n_models in sorted({1, machine.n_cores // (n or 1)}):
            for workers in (1, (n or 1) + 1):
                rows.append(row_of(model, timed[name if n else machine.chip], machine, n_models, workers))
    mark_pareto(rows)
    for row in rows:
        row["performance_level"] = " ".join(flags)
    return rows


COLOURS = ["#2a78d6", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0e7490"]


def curves_html(rows: list[dict]) -> str:
    """Latency over throughput, a line an instance."""
    w, h, names = 640, 260, list(dict.fromkeys(r["instance_type"] for r in rows))
    top, right = max(r["latency_ms_p50"] for r in rows), max(r["throughput_avg"] for r in rows)
    lines = []
    for k, name in enumerate(names):
        points = sorted((r["throughput_avg"], r["latency_ms_p50"]) for r in rows if r["instance_type"] == name)
        at = [(55 + (w - 200) * x / right, h - 30 - (h - 50) * y / top) for x, y in points]
        colour = COLOURS[k % len(COLOURS)]
        lines.append(f'<polyline style="stroke:{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}"/>')
        lines += [f'<circle style="fill:{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in at]
        lines.append(f'<text style="fill:{colour}" x="{w - 130}" y="{24 + 16 * k}">{name}</text>')
    return (f'<figure><figcaption>latency over results a second</figcaption><svg viewBox="0 0 {w} {h}" style="width:40rem">'
            f'{"".join(lines)}<text x="4" y="20">{top:.3g} ms</text><text x="4" y="{h - 28}">0</text>'
            f'<text x="{w - 190}" y="{h - 8}">{right:,.0f}/s</text></svg></figure>')  # fmt: skip


def page_html(title: str, rows: list[dict]) -> str:
    columns = [*PRINTED, *(c for c in (*OF_PIPELINE, "weights_on_chip_mib", "weights_mib") if any(r[c] not in (None, 1) for r in rows))]
    notes = "".join(f"<p>{n} rests on {t}</p>" for n, t in dict.fromkeys((r["instance_type"], r["rests_on"]) for r in rows) if t)
    return (f"<!doctype html><title>{title}</title>{STYLE}<style>body{{max-width:none}}th{{font-size:12px}}</style><h1>{title}</h1>"
            f"{curves_html(rows)}{table_html(rows, columns)}{notes}<p>Times of the virtual clock; Pareto: no other row is both "
            "faster and cheaper.</p>")  # fmt: skip


def main(arguments: list[str]) -> int:
    args = read.bench().parse_args(arguments)
    try:
        rows = run(args)
        if args.csv:
            write_csv(args.csv, rows)
        if args.html:
            title = f"{rows[0]['model_name']}: which instance should serve it?"
            args.html.write_text(page_html(title, rows), encoding="utf-8")
    except (VtrnError, OSError) as error:
        print(f"vtrn bench: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"clock": "virtual", "rows": rows}, indent=1))
        return 0
    printed = [*PRINTED, *(c for c in (*OF_PIPELINE, "weights_on_chip_mib", "weights_load_ms") if any(r[c] not in (None, 1) for r in rows))]
    widths = [max(len(c), 14 if c == "instance_type" else 0, *(len(r[c] or "") for r in rows if c == "stage_ms")) for c in printed]
    print(" ".join(c.rjust(w) for c, w in zip(printed, widths)))
    for row in rows:
        cells = ["-" if row[c] is None else "yes" if row[c] is True else "" if row[c] is False else
                 f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in printed]  # fmt: skip
        print(" ".join(c.rjust(w) for c, w in zip(cells, widths)))
    for name in sorted({r["instance_type"] for r in rows if r["weights_on_chip_mib"] is not None}):
        row = next(r for r in rows if r["instance_type"] == name)
        if row["weights_on_chip_mib"] < row["weights_mib"]:
            print(f"{name}: {row['weights_on_chip_mib']:.1f} of {row['weights_mib']:.1f} MiB of weights stay on the chip, there is no "
                  "room for the others: they are read in each call")  # fmt: skip
    for note in sorted({r["rests_on"] for r in rows if r["rests_on"]}):
        print(f"rests on {note}")
    return 0
