"""vtrn bench: a model's throughput, latency and price over instances, with neuronperf's columns.

The program is compiled for each chip and timed without values. A call is the host's part (the runtime, copies in and
out) and the chip's. One worker a core does one after the other; two workers hide the host's part behind the other's
program, and wait for each other.
"""

import json
import pathlib
import sys
import tomllib

import numpy as np

from vtrn.serve import arguments as read
from vtrn.serve.machine import Instance, instance, rests_on, time_artifact
from vtrn.serve.replay import STYLE, table_html, write_csv
from vtrn.serve.runtime import VtrnError

SECONDS = 60.0  # of the virtual clock, as neuronperf measures
COLUMNS = [
    "model_name", "n_models", "workers_per_model", "pipeline_size", "batch_size", "throughput_avg", "throughput_peak",
    "latency_ms_p0", "latency_ms_p50", "latency_ms_p90", "latency_ms_p95", "latency_ms_p99", "latency_ms_p100",
    "cpu_avg_percent", "cpu_percent_p50", "mem_avg_percent", "mem_percent_p50", "e2e_avg_ms", "infer_avg_ms",
    "total_infs", "total_s", "performance_level", "model_filename", "device_type", "instance_type", "cost_per_1m_inf",
]  # fmt: skip
MORE_COLUMNS = ["chip_time_ms", "core_busy_percent", "mfu_percent", "hbm_bytes", "reference_ops", "is_pareto", "rests_on"]
PRINTED = ["instance_type", "n_models", "workers_per_model", "batch_size", "throughput_avg", "latency_ms_p50", "latency_ms_p99",
           "chip_time_ms", "core_busy_percent", "mfu_percent", "cost_per_1m_inf", "is_pareto"]  # fmt: skip


def calls(chip_ns: float, host_ns: float, workers: int) -> tuple[float, float]:
    """(latency of a call, time between two calls' ends on a core) in ns, in the steady state of closed loops."""
    alone = chip_ns + host_ns
    between = max(chip_ns, alone / workers)
    return max(alone, between * workers), between


def row_of(model: dict, timed: dict, machine: Instance, n_models: int, workers: int) -> dict:
    latency, between = calls(timed["step_ns"], machine.host_ns(model["bytes"]), workers)
    batch = model["batch"]
    throughput = n_models * batch / between * 1e9
    row = dict.fromkeys(COLUMNS)
    row |= {"model_name": model["name"], "n_models": n_models, "workers_per_model": workers, "pipeline_size": 1,
            "batch_size": batch, "throughput_avg": throughput, "throughput_peak": throughput}  # fmt: skip
    row |= {f"latency_ms_p{q}": latency / 1e6 for q in (0, 50, 90, 95, 99, 100)}
    dollars = machine.dollars_per_hour * 1e6 / (3600 * throughput) if machine.dollars_per_hour else None
    row |= {"e2e_avg_ms": latency / 1e6, "infer_avg_ms": timed["step_ns"] / 1e6,
            "total_infs": int(throughput * SECONDS), "total_s": SECONDS, "model_filename": model["file"],
            "device_type": machine.chip, "instance_type": machine.name, "cost_per_1m_inf": dollars}  # fmt: skip
    mfu = timed["flops"] / (between * 1e-9) / machine.peak_flops
    row |= {"chip_time_ms": timed["step_ns"] / 1e6, "core_busy_percent": 100 * timed["step_ns"] / between,
            "mfu_percent": 100 * mfu, "hbm_bytes": timed["hbm_read_bytes"] + timed["hbm_write_bytes"],
            "reference_ops": timed["reference_ops"], "is_pareto": False,
            "rests_on": rests_on(machine.chip) or ""}  # fmt: skip
    return row


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
    described = path.with_name("model.toml")
    named = tomllib.loads(described.read_text(encoding="utf-8")).get("weights") if described.is_file() else None
    if named is None:
        return 0
    from safetensors import safe_open

    with safe_open(path.with_name(named), "numpy") as f:
        return len(f.keys())


def read_model(path: pathlib.Path, batch: int | None, n_resident: int | None) -> tuple[dict, bytes]:
    from jax import export

    n_resident = resident_of(path) if n_resident is None else n_resident
    try:
        exported = export.deserialize(bytearray(path.read_bytes()))
    except OSError:
        raise
    except Exception as error:
        raise VtrnError(f"{path} is no function serialised by jax.export: {error}") from None
    inputs = [a for i, a in enumerate(exported.in_avals) if i in exported.module_kept_var_idx and i >= n_resident]
    first = inputs[0].shape if inputs else ()
    if batch is None:
        batch = first[0] if first else 1
    n_bytes = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in [*inputs, *exported.out_avals])
    name = path.stem if path.stem != "model" else path.parent.name or path.stem
    return {"name": name, "file": path.name, "batch": batch, "bytes": n_bytes}, exported.mlir_module_serialized


def run(args) -> list[dict]:
    model, artifact = read_model(args.model, args.batch, args.resident)
    flags = [f"--{k}={v}" for k, v in (("auto-cast", args.auto_cast), ("auto-cast-type", args.auto_cast_type)) if v]
    rows, timed = [], {}
    for name in args.instances.split(","):
        machine = instance(name)
        if machine.chip not in timed:
            timed[machine.chip] = time_artifact(artifact, machine.chip, " ".join(flags))
        for n_models in sorted({1, machine.n_cores}):
            for workers in (1, 2):
                rows.append(row_of(model, timed[machine.chip], machine, n_models, workers))
    mark_pareto(rows)
    for row in rows:
        row["performance_level"] = " ".join(flags)
    return rows


def main(arguments: list[str]) -> int:
    args = read.bench().parse_args(arguments)
    try:
        rows = run(args)
        if args.csv:
            write_csv(args.csv, rows)
        if args.html:
            title = f"{rows[0]['model_name']}: which instance should serve it?"
            args.html.write_text(f"<!doctype html><title>{title}</title>{STYLE}<h1>{title}</h1>"
                                 f"{table_html(rows, [*PRINTED, 'rests_on'])}<p>Times of the virtual clock; Pareto: no other row is both "
                                 "faster and cheaper.</p>", encoding="utf-8")  # fmt: skip
    except (VtrnError, OSError) as error:
        print(f"vtrn bench: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"clock": "virtual", "rows": rows}, indent=1))
        return 0
    widths = [max(len(c), 14 if c == "instance_type" else 0) for c in PRINTED]
    print(" ".join(c.rjust(w) for c, w in zip(PRINTED, widths)))
    for row in rows:
        cells = ["-" if row[c] is None else "yes" if row[c] is True else "" if row[c] is False else
                 f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in PRINTED]  # fmt: skip
        print(" ".join(c.rjust(w) for c, w in zip(cells, widths)))
    for note in sorted({r["rests_on"] for r in rows if r["rests_on"]}):
        print(f"rests on {note}")
    return 0
