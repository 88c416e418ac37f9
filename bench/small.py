"""Measures programs of many small operations: bench/run small [--json] [--seconds S]. It never judges.

Each run is a process of its own (bench/programs/small.py). vtrn and JAX's CPU back end take turns, and
a ratio is the median of the turns' ratios: a neighbour on the same host slows runs down for seconds
at a time. bench/README.md says what each field is. VTRN_BUILD names another build directory."""

import json
import math
import pathlib
import statistics
import subprocess
import sys

from lib import figures
from train import environment

PROGRAMS = pathlib.Path(__file__).parent / "programs/small.py"
LOOPS = ("neural_ode", "ppo", "lstm", "seq2seq")
N_INSTRUCTIONS = 32 * 4 * 1_000  # of the program `instructions`: memset, compare, select, subtract
TURNS = 5


def start(name: str, platform: str, seconds: float, **extra: str) -> subprocess.Popen:
    env = environment(platform, **extra)
    return subprocess.Popen([sys.executable, PROGRAMS, name, str(seconds)], env=env, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> dict:
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, process.args[1:3]))}: exit code {process.returncode}")
    return json.loads(out.splitlines()[-1])


def measure(name: str, platform: str, seconds: float, **extra: str) -> dict:
    return finish(start(name, platform, seconds, **extra))


def against_xla(name: str, seconds: float) -> dict:
    """Seconds of a call on both sides, and their ratio in wall and in processor time."""
    ours, theirs = [], []
    for _ in range(TURNS):
        ours.append(measure(name, "neuron", seconds))
        theirs.append(measure(name, "cpu", seconds))
    return {
        "s": statistics.median(r["s"] for r in ours),
        "xla_s": statistics.median(r["s"] for r in theirs),
        "vs_xla": statistics.median(a["s"] / b["s"] for a, b in zip(ours, theirs)),
        "cpu_vs_xla": statistics.median(a["cpu_s"] / b["cpu_s"] for a, b in zip(ours, theirs)),
    }


def throughput(n_processes: int, seconds: float) -> float:
    """Calls of `mixed` a second, of so many processes together: the sum of what each did. Runs are long,
    so that start-ups, which are not at the same moment, count little."""
    processes = [start("mixed", "neuron", seconds) for _ in range(n_processes)]
    return sum(1 / finish(p)["s"] for p in processes)


def small(seconds: float) -> dict:
    alone = {name: measure(name, "neuron", seconds, VTRN_THREADS="1") for name in ("scalar", "cartpole1", "matmul8", "instructions")}
    report = {
        "small_instr_ns": alone["instructions"]["s"] / N_INSTRUCTIONS * 1e9,
        "scalar_step_us": alone["scalar"]["s"] / 100_000 * 1e6,
        "cartpole_step_us": alone["cartpole1"]["s"] / 1_000 * 1e6,
        "matmul8_step_us": alone["matmul8"]["s"] / 10_000 * 1e6,
    }
    for name in ("scalar", "cartpole1", "cartpole64", "matmul8", "mixed", *LOOPS):
        report |= {f"{name}.{key}": value for key, value in against_xla(name, seconds).items()}
    ratios = [report[f"{name}.vs_xla"] for name in LOOPS]
    report["loops_vs_xla_geomean"] = math.prod(ratios) ** (1 / len(ratios))
    report["loops_vs_xla_max"] = max(ratios)
    turns = [(measure("mixed", "neuron", seconds, VTRN_THREADS="2"), measure("mixed", "neuron", seconds, VTRN_THREADS="1")) for _ in range(TURNS)]
    report["mixed_threads_ratio"] = statistics.median(two["s"] / one["s"] for two, one in turns)
    report["oversubscribed"] = statistics.median(throughput(4, 4 * seconds) / throughput(1, 4 * seconds) for _ in range(TURNS))
    return report


if __name__ == "__main__":
    figures.main(__doc__, small, seconds=0.5)
