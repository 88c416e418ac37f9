"""DeepRacer: time to the first lap, laps that are clean, steps a second beside the same JAX on the CPU.

    bench/run deepracer [--json] [--only speed|train] [--track TRACK]

`speed` takes a minute. `train` trains from nothing until three laps in a row are clean, for at most --minutes (default 40); its
figures need a quiet machine. TRACK is a route file of re:Invent 2018 where there is one (DEEPRACER_TRACKS), else `bend`, our own
track of the same length and width."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "deepracer"
BUILD = Path(os.environ.get("VTRN_BUILD", ROOT / "build"))
CARS = 32

# Frames of all cars and updates of a minibatch, in turns on both platforms, in one process.
SPEED = """
import functools, json, sys, time
sys.path.insert(0, {example!r})
import jax, numpy as np
import files, policy, ppo, tracks, world
track, cars, batch_size = tracks.load({track!r}), {cars}, 64
metadata = files.metadata({example!r} + "/model_metadata.json")
setup = world.setup(metadata, 1)
params = policy.init(setup.network, setup.actions, 0)
loss = ppo.Loss(setup.network, setup.actions, 0.01, True)
rng = np.random.default_rng(0)
batch = dict(
    image=rng.integers(0, 255, (batch_size, 120, 160, 1), dtype=np.uint8),
    action=rng.integers(0, 5, batch_size).astype(np.int32),
    log_p=np.full(batch_size, -1.6, np.float32),
    advantage=rng.standard_normal(batch_size).astype(np.float32),
    target=rng.standard_normal(batch_size).astype(np.float32),
)
sides = {{}}
for name in ("neuron", "cpu"):
    device = jax.devices(name)[0]
    side = sides[name] = dict(world=world.World(track, setup, cars, device), device=device, drive=[], update=[])
    side["params"] = jax.device_put(params, device)
    side["trained"] = jax.device_put((params, ppo.init_adam(params)), device)
    side["batch"] = jax.device_put(batch, device)
    side["step"] = jax.jit(functools.partial(ppo.update, loss), donate_argnums=(0, 1))
    side["rng"] = np.random.default_rng(0)

def drive(side):
    for _ in range(5):
        side["world"].step(side["params"], side["rng"])

def update(side):
    p, a, terms = side["step"](*side["trained"], side["batch"], np.float32(3e-4), np.float32(0.2))
    np.asarray(terms)
    side["trained"] = p, a

for turn in range(8):
    for side in sides.values():
        for name, call in (("drive", drive), ("update", update)):
            start = time.perf_counter()
            call(side)
            if turn:  # the first one compiles
                side[name].append(time.perf_counter() - start)
out = {{k: {{n: float(np.median(s[n])) for n in ("drive", "update")}} for k, s in sides.items()}}
print(json.dumps(out))
"""


def environment() -> dict:
    extra = {"JAX_PLATFORMS": "neuron,cpu", "VTRN_LIBRARY": str(BUILD / "src" / "libvtrn.so")}
    return os.environ | extra | {"PYTHONPATH": str(ROOT / "python")}


def execute(argv: list, **options) -> str:
    return subprocess.run(
        [sys.executable, *argv], env=environment(), check=True, stdout=subprocess.PIPE, text=True, **options
    ).stdout


def measure_speed(numbers: dict, args) -> None:
    code = SPEED.format(example=str(EXAMPLE), track=args.track, cars=CARS)
    sides = json.loads(execute(["-c", code]).splitlines()[-1])
    ours, theirs = sides["neuron"], sides["cpu"]
    numbers["steps_s"] = 5 * CARS / ours["drive"]
    numbers["xla_steps_s"] = 5 * CARS / theirs["drive"]
    numbers["vs_xla"] = theirs["drive"] / ours["drive"]
    numbers["update_ms"], numbers["xla_update_ms"] = ours["update"] * 1e3, theirs["update"] * 1e3
    numbers["update_vs_xla"] = theirs["update"] / ours["update"]
    code = (
        f"import sys, json, tempfile; sys.path.insert(0, {str(EXAMPLE)!r})\n"
        "import files, report, tracks, world\n"
        f"m = files.metadata({str(EXAMPLE / 'model_metadata.json')!r})\n"
        f"p = report.programs(world.setup(m, 1), tracks.load({args.track!r}), {CARS}, 64)\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    t = report.chip_times(p, 'trn1', d)\n"
        "    b = report.chip_times({'policy_batch1': p['policy_batch1']}, 'inf2', d)\n"
        "print(json.dumps({'t': t, 'b': b}))"
    )
    told = json.loads(execute(["-c", code]).splitlines()[-1])
    numbers["reference_ops"] = sum(t["reference_ops"] for t in told["t"].values())
    for name in ("camera", "policy", "frame", "update"):
        numbers[f"chip_{name}_us"] = told["t"][name]["step_ns"] / 1e3
    numbers["inf2_batch1_us"] = told["b"]["policy_batch1"]["step_ns"] / 1e3


def measure_train(numbers: dict, args) -> None:
    with tempfile.TemporaryDirectory() as out:
        start = time.monotonic()
        subprocess.run(
            [sys.executable, str(EXAMPLE / "train.py"), "--track", args.track, "--laps", "3", "--minutes", str(args.minutes),
             "--seed", str(args.seed), "--out", out],
            env=environment() | {"VTRN_TIMING": "off"}, check=True, stdout=sys.stderr,
        )  # fmt: skip
        numbers["train_min"] = (time.monotonic() - start) / 60
        metrics = json.loads(Path(out, "metrics.json").read_text())
        first = metrics["first_lap"]
        numbers["first_lap_min"] = first["minutes"] if first else None
        numbers["first_lap_steps"] = first["steps"] if first else None
        command = [str(EXAMPLE / "evaluate.py"), str(Path(out, "checkpoint.npz")), "--laps", "3", "--json"]
        told = subprocess.run([sys.executable, *command], env=environment(), check=False, stdout=subprocess.PIPE, text=True)
        laps = json.loads(told.stdout)
        numbers["laps_clean"] = sum(lap["faults"] == 0 for lap in laps)
        numbers["lap_s"] = sum(lap["seconds"] for lap in laps) / len(laps) if laps else None
        if args.keep:
            shutil.copytree(out, args.keep, dirs_exist_ok=True)


PARTS = {"speed": measure_speed, "train": measure_train}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part alone")
    parser.add_argument("--track", help="default: reinvent_base where DEEPRACER_TRACKS has it, else bend")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="copy what the training leaves behind there")
    args = parser.parse_args()
    if not args.track:
        places = [d for d in os.environ.get("DEEPRACER_TRACKS", "").split(os.pathsep) if d]
        has_route = any(Path(d, "reinvent_base.npy").exists() for d in places)
        args.track = "reinvent_base" if has_route else "bend"
    numbers = {"track": args.track}
    for name in args.only or PARTS:
        PARTS[name](numbers, args)
    if args.json:
        print(json.dumps(numbers, indent=2))
    else:
        for key, value in numbers.items():
            print(f"{key:20} {value if isinstance(value, str) or value is None else f'{value:.6g}'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
