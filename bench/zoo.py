"""Trains programs of frameworks over JAX, on the chip and on the host: bench/run zoo [NAME...] [--json].

A program is a function of bench/zoo/MODULE.py, named MODULE.FUNCTION; MODULE alone is all of it. It gives
(state, step, batches): 20 times `state, loss = step(state, *batch)`, with the same data and seeds on both
sides. Those that take a dtype compute in it, and are run in fp32 and in bf16.

Each run is a process of its own. A script's time is what comes after the imports: parameters, compilation,
20 steps; a process's has the imports, too. A step's is the median after the first five. The two sides take
turns, and a ratio is the median of the turns' ratios. Frameworks that are not installed are left out, and
said so. VTRN_BUILD names another build directory; the Python that has the frameworks can run this file itself."""

import argparse
import importlib
import importlib.util
import json
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time

from lib import zoo_rows, zoo_torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
ZOO = ROOT / "bench/zoo"
STEPS, WARM_UP = 20, 5
# Linear algebra, which no engine of the chip has, runs on the host: docs/linear-algebra.md.
HOST_OPS = {"Qr", "ProductOfElementaryHouseholderReflectors", "stablehlo.cholesky", "stablehlo.triangular_solve"}

# module: (the packages it needs, programs in fp32 and bf16, programs in fp32 alone)
PROGRAMS = {
    "plain": ("", "mlp lstm gan moe diffusion decode", ""),
    "linen": ("flax optax", "cnn resnet vae transformer seq2seq", ""),
    "nnx": ("flax optax", "cnn vit lora autoencoder", ""),
    "eqx": ("equinox optax", "bert", "gru mixer"),
    "hk": ("haiku optax jmp", "resnet lstm", "vqvae"),
    "transforms": ("optax", "sam", "lbfgs ctc"),
    "ckpt": ("orbax.checkpoint optax", "", "resume"),
    "ode": ("diffrax equinox optax", "", "neural_ode cnf sde"),
    "bayes": ("numpyro", "", "eight_schools svi mixture"),
    "keras3": ("keras", "convnet text recurrent separable", ""),
    "flows": ("distrax optax", "", "spline policy"),
    "solvers": ("optimistix equinox", "", "curve_fit bfgs implicit"),
    "graphs": ("jraph haiku optax", "", "gcn gat molecules"),
    "mcmc": ("blackjax", "", "hmc nuts sgld"),
    "rl": ("rlax optax", "", "ppo dqn vtrace"),
    "evolution": ("evosax optax", "", "open_es sep_cma_es"),
}


def work(name: str, dtype: str, out: str) -> None:
    """Runs one program in this process, and writes what it did to the file out."""
    import jax
    import numpy as np

    sys.path.insert(0, str(ZOO))
    module, function = name.split(".")
    program = getattr(importlib.import_module(module), function)
    device = jax.devices()[0]
    np.asarray(jax.device_put(np.zeros(1, np.float32), device))
    start = time.perf_counter()
    state, step, batches = program(dtype) if dtype else program()
    losses, seconds = [], []
    for _, batch in zip(range(STEPS), batches):
        begin = time.perf_counter()
        state, loss = step(state, *batch)
        losses.append(float(loss))
        seconds.append(time.perf_counter() - begin)
    script_s = time.perf_counter() - start
    with open(out, "w") as f:
        json.dump({"platform": device.platform, "losses": losses, "seconds": seconds, "script_s": script_s}, f)


def run(name: str, dtype: str, platform: str, is_profiled: bool = False, **extra: str) -> dict:
    """What work() wrote, the process's seconds, and the profiles of its programs where asked for."""
    import train

    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "run.json")
        env = train.environment(platform, **extra)
        if is_profiled and platform != "cpu":
            env["VTRN_PROFILE"] = directory
        start = time.perf_counter()
        train.execute([__file__, "--work", name, dtype, out], env)
        process_s = time.perf_counter() - start
        result = json.loads(pathlib.Path(out).read_text()) | {"process_s": process_s}
        paths = pathlib.Path(directory).rglob("profile.json")
        result["profiles"] = [json.loads(path.read_text()) for path in paths]
    if result["platform"] != platform:
        raise RuntimeError(f"{name} ran on {result['platform']} instead of {platform}")
    return result


def programs(names: list[str]) -> list[str]:
    """MODULE.FUNCTION of all that names mean, all programs if there are none."""
    every = [f"{m}.{p}" for m, (_, both, fp32) in PROGRAMS.items() for p in f"{both} {fp32}".split()]
    for name in names:
        if name not in PROGRAMS and name not in every:
            raise SystemExit(f"bench/run zoo: no program '{name}' (modules: {', '.join(PROGRAMS)}; programs: {', '.join(every)})")
    return [p for p in every if not names or p in names or p.split(".")[0] in names]


def missing(name: str) -> list[str]:
    """The packages that a program needs and this Python does not have."""
    return [p for p in PROGRAMS[name.split(".")[0]][0].split() if importlib.util.find_spec(p.split(".")[0]) is None]


def dtypes(name: str) -> tuple:
    """What a program's function is called with; it takes nothing where it is written in fp32."""
    module, function = name.split(".")
    return ("float32", "bfloat16") if function in PROGRAMS[module][1].split() else ("",)


def loss_rel_max(ours: dict, theirs: dict) -> float:
    """inf where one of them is not a number."""
    pairs = zip(ours["losses"], theirs["losses"], strict=True)
    return max(abs(a - b) / abs(b) if math.isfinite(a) and b else float(a != b) * math.inf for a, b in pairs)


def step_seconds(result: dict) -> float:
    return statistics.median(result["seconds"][WARM_UP:])


def is_on_host(op: str) -> bool:
    return op in HOST_OPS or op.startswith("vtrn.")


def reference_ops(result: dict) -> tuple[list[str], float]:
    """Reference ops outside linear algebra, and the largest share of its host time that one of the programs
    which have any spent in reference ops. Callbacks are not reference ops."""
    by_program = [(p, {op for op in p["reference_ops"] if not is_on_host(op)}) for p in result["profiles"]]
    shares = [p["reference_time_share"] for p, ops in by_program if ops]
    return sorted(set().union(*(ops for _, ops in by_program))), max(shares, default=0.0)


def measure(name: str, platform: str, turns: int) -> dict:
    """The row of one program: losses in each dtype; times, in fp32, of both sides by turns."""
    row = {"program": name, "reference_ops": [], "reference_time_share": 0.0}
    pairs = []
    for dtype in reversed(dtypes(name)):
        theirs, ours = run(name, dtype, "cpu"), run(name, dtype, platform, is_profiled=True)
        key = "bf16" if dtype == "bfloat16" else "fp32"
        row[f"loss_rel_max_{key}"] = loss_rel_max(ours, theirs)
        ops, share = reference_ops(ours)
        row["reference_ops"] = sorted({*row["reference_ops"], *ops})
        row["reference_time_share"] = max(row["reference_time_share"], share)
        pairs = [(ours, theirs)]
    for _ in range(turns - 1):
        theirs = run(name, dtypes(name)[0], "cpu")
        pairs.append((run(name, dtypes(name)[0], platform), theirs))
    for key, of in (("step", step_seconds), ("script", lambda r: r["script_s"]), ("process", lambda r: r["process_s"])):
        row[f"{key}_ms"] = statistics.median(of(ours) for ours, _ in pairs) * 1e3
        row[f"xla_{key}_ms"] = statistics.median(of(theirs) for _, theirs in pairs) * 1e3
        row[f"{key}_vs_xla"] = statistics.median(of(ours) / of(theirs) for ours, theirs in pairs)
    return row


def summary(rows: list[dict]) -> dict:
    """The numbers of all programs, from the rows of those that ran."""
    numbers = {"programs": len(rows), "frameworks": len({row["program"].split(".")[0] for row in rows})}
    for key in ("loss_rel_max_fp32", "loss_rel_max_bf16"):
        numbers[key] = max((row[key] for row in rows if key in row), default=None)
    numbers["reference_time_share_max"] = max((row["reference_time_share"] for row in rows), default=None)
    for key in ("script", "step", "process"):
        ratios = [row[f"{key}_vs_xla"] for row in rows if f"{key}_vs_xla" in row]
        numbers[f"{key}_vs_xla_geomean"] = statistics.geometric_mean(ratios) if ratios else None
    return numbers


def line(row: dict) -> str:
    def of(key, form):
        return format(row[key], form) if key in row else "-"

    return (
        f"{row['program']:20} {of('loss_rel_max_fp32', '.1e'):>8} {of('loss_rel_max_bf16', '.1e'):>8} "
        f"{of('script_vs_xla', '.2f'):>7} {of('step_vs_xla', '.2f'):>7}  {' '.join(row['reference_ops'])}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="MODULE or MODULE.FUNCTION; all, if none is given")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--turns", type=int, default=3, help="runs of each side in fp32 (default 3)")
    parser.add_argument("--platform", default="neuron", help="cpu compares JAX with itself")
    parser.add_argument("--torch", action="store_true", help="the programs in PyTorch instead")
    args = parser.parse_args()
    if args.torch:
        return zoo_torch.main(args)
    print(f"{'program':20} {'fp32':>8} {'bf16':>8} {'script':>7} {'step':>7}  reference ops", file=sys.stderr)
    rows, failed = zoo_rows.measure_each(
        programs(args.names), missing, lambda name: measure(name, args.platform, args.turns), line
    )
    zoo_rows.show(summary(rows), {"failed": failed, "table": rows}, args.json)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:5])
    else:
        sys.exit(main())
