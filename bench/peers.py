"""Measures large programs against XLA on the host: bench/run peers [--json] [--seconds S]. It never judges.

Each run is a process of its own (bench/programs/peers.py); the two sides take turns, and a ratio is the
median of the turns' ratios. bench/README.md says what each field is. VTRN_BUILD names another build."""

import contextlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

from lib import figures
from train import BUILD, ROOT, environment

PROGRAMS = pathlib.Path(__file__).parent / "programs/peers.py"
NAMES = [f"{name}_{kind}" for name in ("gemm1024", "gemm2048", "bert_layer", "resnet50", "gpt2_step") for kind in ("fp32", "bf16")]
TURNS = 3
CHIP = "trn1"


def run(argv: list, env: dict) -> str:
    done = subprocess.run([str(a) for a in argv], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-12:])
        raise RuntimeError(f"{argv[1]} {argv[2]}: {tail}")
    return done.stdout


def measure(name: str, platform: str, seconds: float, **extra: str) -> float:
    out = run([sys.executable, PROGRAMS, name, seconds], environment(platform, **extra))
    return json.loads(out.splitlines()[-1])["s"]


@contextlib.contextmanager
def artifact(name: str):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "program.mlirbc")
        run([sys.executable, PROGRAMS, name, 0, path], environment("cpu"))
        yield path


def time_command(name: str) -> dict:
    """`vtrn time` of a program, compilation included: what the chip takes, and what that took here."""
    with artifact(name) as path:
        begin = time.perf_counter()
        process = subprocess.Popen([BUILD / "src/cli/vtrn", "time", path, "--chip", CHIP, "--json"], stdout=subprocess.PIPE, text=True)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"vtrn time: {name}: exit code {process.returncode}")
        return {"chip_s": json.loads(out)["step_ns"] * 1e-9, "s": time.perf_counter() - begin, "rss_mb": usage.ru_maxrss / 1024}


def replay(name: str) -> float:
    """Seconds in which the timing model replays the loaded program."""
    with artifact(name) as path:
        out = run([BUILD / "bench/compile_phases", path], os.environ | {"VTRN_CHIP": CHIP})
        return json.loads(out)["program"]["replay_us"] * 1e-6


def peers(seconds: float) -> dict:
    report, ratios = {}, []
    for name in NAMES:
        turns = [(measure(name, "neuron", seconds, VTRN_CHIP=CHIP), measure(name, "cpu", seconds)) for _ in range(TURNS)]
        ours, theirs = (statistics.median(side) for side in zip(*turns))
        ratios.append(statistics.median(a / b for a, b in turns))
        report |= {f"{name}.s": ours, f"{name}.xla_s": theirs, f"{name}.vs_xla": ratios[-1]}
    report["vs_xla_geomean"] = math.prod(ratios) ** (1 / len(ratios))
    report["vs_xla_max"] = max(ratios)
    engine = json.loads(run([BUILD / "bench/engine", "--json"], dict(os.environ)))
    peak = engine["peak_gflops"] * 1e9 * len(os.sched_getaffinity(0))
    report["gemm2048_of_peak"] = 2 * 2048**3 / report["gemm2048_fp32.s"] / peak
    clock_hz = tomllib.loads((ROOT / "chips" / f"{CHIP}.toml").read_text())["clock"]["sync_hz"]
    layer = time_command("bert_layer_bf16")
    cycles = layer["chip_s"] * clock_hz
    report["cycles_per_s"] = cycles / report["bert_layer_bf16.s"]
    report["time_only_cycles_per_s"] = cycles / replay("bert_layer_bf16")
    report["time_command_cycles_per_s"] = cycles / layer["s"]
    llama = time_command("llama7b_step_bf16")
    return report | {"llama7b_time_only_s": llama["s"], "llama7b_rss_mb": llama["rss_mb"], "llama7b_chip_s": llama["chip_s"]}


if __name__ == "__main__":
    figures.main(__doc__, peers, seconds=1.0)
