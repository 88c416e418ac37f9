"""The chars training, data parallel over several NeuronCores: bench/run scale [--json]. It never judges.

Loss curves of 50 steps in fp32 against one core; whether threads change a bit; what two host threads
gain with two cores over one thread, in turns; a step over 256 cores of an UltraServer against one
core's, in both modes that compute fewer values. VTRN_BUILD names another build directory."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from lib import parallel

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()
STEPS, TIMED_STEPS, TURNS = 50, 12, 5
ULTRASERVER, MODES = "trn2-ultraserver", ("off", "one-rank")


def run(cores, steps=STEPS, *args, **extra):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VTRN_", "NEURON_"))}
    env |= {"JAX_PLATFORMS": "neuron,cpu", "VTRN_LIBRARY": str(BUILD / "src/libvtrn.so"),
            "PYTHONPATH": str(ROOT / "python"), "VTRN_INSTANCE": "trn1.32xlarge",
            "NEURON_RT_NUM_CORES": str(cores), **extra}  # fmt: skip
    script = ROOT / "bench" / "programs" / "scale.py"
    done = subprocess.run([sys.executable, script, str(steps), "float32", *args], capture_output=True,
                          text=True, env=env)  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def simulated(cores, directory):
    run(cores, 3, VTRN_PROFILE=str(directory))
    profiles = [json.loads(p.read_text()) for p in directory.glob("*/profile.json")]
    return next(p for p in profiles if p["name"] == "jit_step")


def ultraserver():
    """Four cores of each of 64 chips, a batch each. Processor time is what counts where other processes
    have the host's cores."""
    visible = ",".join(f"{8 * chip}-{8 * chip + 3}" for chip in range(64))
    out, ratios, cpu = {}, {m: [] for m in MODES}, {m: [] for m in MODES}
    for _ in range(3):
        one = run(1, TIMED_STEPS, "each", VTRN_INSTANCE=ULTRASERVER)
        for mode in MODES:
            many = run(256, TIMED_STEPS, "each", VTRN_INSTANCE=ULTRASERVER, VTRN_VALUES=mode,
                       NEURON_RT_VISIBLE_CORES=visible)  # fmt: skip
            ratios[mode].append(many["step_s"] / one["step_s"])
            cpu[mode].append(many["step_cpu_s"] / one["step_cpu_s"])
            out["rss_gb"] = max(many["rss_gb"], out.get("rss_gb", 0))
            if mode == "one-rank":
                out["ultraserver_losses_equal"] = many["losses"] == one["losses"]
    for mode in MODES:
        name = mode.replace("-", "_") if mode != "off" else "time_only"
        out[f"ultraserver_step_vs_one_{name}"] = statistics.median(ratios[mode])
        out[f"ultraserver_cpu_vs_one_{name}"] = statistics.median(cpu[mode])
    out["ultraserver_step_vs_one"] = max(statistics.median(r) for r in ratios.values())
    return out


def training(cores):
    one = run(1)
    out = {}
    for n in cores:
        many = run(n)
        out[f"loss_rel_max_{n}"] = max(abs(a - b) / abs(b) for a, b in zip(many["losses"], one["losses"], strict=True))
        out[f"rss_gb_{n}"] = many["rss_gb"]
        with tempfile.TemporaryDirectory() as directory:
            profile = simulated(n, pathlib.Path(directory))
        out[f"chip_step_us_{n}"] = profile["step_ns"] / 1000
        out[f"collective_us_{n}"] = profile["ranks"]["times"][0]["collective_ns"] / 1000
    with tempfile.TemporaryDirectory() as directory:
        out["chip_step_us_1"] = simulated(1, pathlib.Path(directory))["step_ns"] / 1000
    out["bits_equal_threads"] = len({run(cores[0], 10, VTRN_THREADS=str(t))["digest"] for t in (1, 2, 3)}) == 1
    ratios, shares = [], []
    for _ in range(TURNS):
        alone, both = (run(2, TIMED_STEPS, VTRN_THREADS=t) for t in ("1", "2"))
        ratios.append(alone["step_s"] / both["step_s"])
        shares.append(alone["busiest_thread_s"] / both["busiest_thread_s"])
    out["rank_parallel_speedup"] = statistics.median(ratios)
    out["rank_parallel_work_split"] = statistics.median(shares)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["ultraserver", "parallel"], help="this part alone")
    parser.add_argument("--cores", default="2,8", help="numbers of cores that are compared with one")
    args = parser.parse_args()
    cores = [int(n) for n in args.cores.split(",")]
    out = {}
    if args.only != "parallel":
        out |= ultraserver()
    if not args.only:
        out |= training(cores)
    if args.only != "ultraserver":
        out |= parallel.figures(cores, STEPS)
        out["loss_rel_max"] = max(value for key, value in out.items() if key.startswith("loss_rel_max_"))
        out["bits_equal"] = all(value for key, value in out.items() if key.startswith("bits_equal_"))
    if args.json:
        print(json.dumps(out))
        return
    for key, value in out.items():
        print(f"{key:36} {value if isinstance(value, bool) else format(value, '.4g')}")


main()
