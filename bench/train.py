"""Measures both trainings against JAX on the CPU: bench/run train [--json]. It never judges.

Each run is a process of its own. Loss curves: 100 steps, same seed, largest relative difference.
Times: median over the steps after the first five, of the same script on both sides. The two sides
take turns, and a ratio is the median of the turns' ratios: a neighbour on the same host slows runs
down for seconds at a time. VTRN_BUILD names another build directory."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import compile as compile_bench

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()
STEPS, TIMED_STEPS, WARM_UP, TURNS = 100, 25, 5, 5

BASELINE = """
import sys; sys.path.insert(0, sys.argv[1])
import jax, model
jax.devices(); model.load_data()
"""

TINY = """
import json, statistics, sys, time, jax, numpy as np
x = jax.device_put(np.arange(16, dtype=np.float32), jax.devices()[0])
def compile_one(i):
    begin = time.perf_counter()
    lowered = jax.jit(lambda x: x + (1.0 + i)).lower(x)
    start = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return end - begin, end - start, compiled
assert x.devices().pop().platform == sys.argv[1]
jit_s, compile_s, compiled = zip(*[compile_one(i) for i in range(20)])
def execute_one():
    start = time.perf_counter()
    compiled[0](x).block_until_ready()
    return time.perf_counter() - start
execute_s = [execute_one() for _ in range(1000)]
times_s = {"jit_ms": jit_s, "jit_compile_ms": compile_s, "execute_us": execute_s}
unit = {"ms": 1e3, "us": 1e6}
print(json.dumps({k: statistics.median(v) * unit[k[-2:]] for k, v in times_s.items()}))
"""


def environment(platform: str, **extra: str) -> dict:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VTRN_", "PJRT_NAMES"))}
    env["JAX_PLATFORMS"] = platform
    if platform != "cpu":
        library = str(BUILD / "src/libvtrn.so")
        env |= {
            "JAX_PLATFORMS": f"{platform},cpu",
            "PJRT_NAMES_AND_LIBRARY_PATHS": f"{platform}:{library}",
            "VTRN_LIBRARY": library,
            "PYTHONPATH": str(ROOT / "python"),
        }
    return env | extra


def execute(arguments: list, env: dict) -> tuple[str, float]:
    """(standard output, peak resident MB); a failure shows the end of the error output."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, *arguments], env=env, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            tail = "\n".join(err.read().splitlines()[-12:])
            raise RuntimeError(f"{' '.join(map(str, arguments[:2]))}: {tail}")
        return out.read(), usage.ru_maxrss / 1024


def train(name: str, platform: str, steps: int, *flags: str, **extra: str) -> dict:
    """losses, seconds of each step, rss_mb, and the profile where there is one."""
    with tempfile.TemporaryDirectory() as directory:
        losses = os.path.join(directory, "losses.json")
        env = environment(platform, **extra)
        if platform != "cpu":
            env["VTRN_PROFILE"] = directory
        script = str(ROOT / "examples" / name / "train.py")
        _, rss_mb = execute([script, "--steps", str(steps), "--losses", losses, *flags], env)
        with open(losses) as f:
            result = json.load(f) | {"rss_mb": rss_mb}
        path = os.path.join(directory, "profile.json")
        if os.path.exists(path):
            with open(path) as f:
                result["profile"] = json.load(f)
        result["profiles"] = [
            json.loads(path.read_text()) for path in pathlib.Path(directory).glob("*/profile.json")
        ]
    return result


def loss_rel_max(ours: dict, theirs: dict) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours["losses"], theirs["losses"], strict=True))


def step_seconds(result: dict) -> float:
    return statistics.median(result["seconds"][WARM_UP:])


def ratio(times_s: list, others_s: list) -> float:
    return statistics.median(a / b for a, b in zip(times_s, others_s, strict=True))


def compare(numbers: dict, name: str, platform: str, key: str, *flags: str) -> dict:
    theirs = train(name, "cpu", STEPS, *flags)
    ours = train(name, platform, STEPS, *flags)
    numbers[f"{key}.loss_rel_max"] = loss_rel_max(ours, theirs)
    ours_s, theirs_s = [step_seconds(ours)], [step_seconds(theirs)]
    for _ in range(TURNS - 1):
        theirs_s.append(step_seconds(train(name, "cpu", TIMED_STEPS, *flags)))
        ours_s.append(step_seconds(train(name, platform, TIMED_STEPS, *flags)))
    numbers[f"{key}.step_vs_xla"] = ratio(ours_s, theirs_s)
    numbers[f"{key}.step_ms"] = statistics.median(ours_s) * 1e3
    numbers[f"{key}.xla_step_ms"] = statistics.median(theirs_s) * 1e3
    if "profile" in ours:
        numbers[f"{key}.chip_step_us"] = ours["profile"]["step_ns"] / 1e3
        numbers[f"{key}.reference_time_share"] = ours["profile"]["reference_time_share"]
        numbers[f"{key}.n_reference_ops"] = ours["profile"]["n_reference_ops"]
    return ours


def measure_digits(numbers: dict, platform: str) -> None:
    ours = compare(numbers, "digits", platform, "digits")
    _, baseline_mb = execute(["-c", BASELINE, str(ROOT / "examples/digits")], environment("cpu"))
    numbers["digits.rss_extra_mb"] = ours["rss_mb"] - baseline_mb


def measure_chars(numbers: dict, platform: str) -> None:
    compare(numbers, "chars", platform, "chars_fp32", "--fp32")
    compare(numbers, "chars", platform, "chars_bf16")


def measure_threads(numbers: dict, platform: str) -> None:
    for name, key in (("chars", "thread_speedup"), ("digits", "digits.thread_speedup")):
        times_s = {"1": [], "2": []}
        for _ in range(TURNS):
            for n, of_n in times_s.items():
                of_n.append(step_seconds(train(name, platform, TIMED_STEPS, VTRN_THREADS=n)))
        numbers[key] = ratio(times_s["1"], times_s["2"])


def measure_replay(numbers: dict, platform: str) -> None:
    """The share is that of a program's first execution, the dearest: costs are worked out, every
    block is replayed. The rate is that of the replay alone, which a new block trace takes."""
    once = [p for p in train("chars", platform, 1)["profiles"] if p["n_executions"] == 1]
    if once:
        p = max(once, key=lambda p: p["step_ns"])
        numbers["timing_share"] = p["timing_seconds"] / p["functional_seconds"]
    step = compile_bench.measure(["chars_bf16"])["chars_bf16"]
    numbers["replay_minstr_s"] = step["replay_minstr_s"]
    numbers["replay_ms"] = step["replay_us"] / 1e3
    numbers["timing_prepare_ms"] = step["prepare_us"] / 1e3


def measure_tiny(numbers: dict, platform: str) -> None:
    numbers["tiny_compile_ms"] = compile_bench.measure(["x_plus_1"])["x_plus_1"]["plugin_us"] / 1e3
    for prefix, where in (("", platform), ("xla_", "cpu")):
        out, _ = execute(["-c", TINY, where], environment(where))
        for key, value in json.loads(out.splitlines()[-1]).items():
            numbers[f"{prefix}tiny_{key}"] = value


PARTS = {
    "tiny": measure_tiny,
    "digits": measure_digits,
    "chars": measure_chars,
    "threads": measure_threads,
    "replay": measure_replay,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part alone")
    parser.add_argument("--platform", default="neuron", help="cpu compares JAX with itself")
    args = parser.parse_args()
    numbers, failed = {}, False
    for name in args.only or PARTS:
        start = time.monotonic()
        try:
            PARTS[name](numbers, args.platform)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    shares = [v for k, v in numbers.items() if k.endswith(".reference_time_share")]
    if shares:
        numbers["reference_time_share"] = max(shares)
    if args.json:
        print(json.dumps(numbers, indent=2))
    else:
        for key, value in numbers.items():
            print(f"{key:32} {value:.6g}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
