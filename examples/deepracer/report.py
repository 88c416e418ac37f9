"""What a training took: python examples/deepracer/report.py DIRECTORY [--export].

The chip's time and price by part (camera, policy, physics, update), the same steps on the service, the learning curve, and
the trained policy at batch 1 on a virtual Inferentia. --export leaves the programs in DIRECTORY/programs."""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE]

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import camera
import evaluate
import files
import policy
import ppo
import sac
import tracks
import world

SERVICE_DOLLARS_PER_HOUR, FRAMES_PER_SECOND = 3.50, 15  # of the console service: one worker, real time
TRAINING, INFERENCE = ("trn1", "trn1.2xlarge"), ("inf2", "inf2.xlarge")


def programs(setup: world.Setup, track, n_cars, batch_size) -> dict:
    """StableHLO artifacts by part; camera and policy are also inside of frame."""
    network, actions = setup.network, setup.actions
    learner = sac if setup.is_sac else policy
    params = learner.init(network, actions, 0)
    driver = sac.part(params, "policy") if setup.is_sac else params
    # A world gives the arguments of a frame as it has them.
    cars = world.World(track, setup, n_cars)
    noise = cars.noise(np.random.default_rng(0), is_greedy=True)
    inputs = {"is_new": cars.is_new, "start": cars.start, "noise": noise}
    place, images = cars.place, cars.stack
    scan = np.zeros((n_cars, network.n_lidar), np.float32) if network.n_lidar else None

    def look(place, state, noise):
        return world.sense(setup, place, state, noise)

    def act(params, images, scan, noise):
        return world.decide(setup, params, images, scan, noise)[0]

    one = [None if a is None else a[:1] for a in (images, scan, noise["action"])]
    update, batch, more = update_call(setup, params, batch_size)
    calls = {
        "camera": (jax.jit(look), (place, cars.start, noise)),
        "policy": (jax.jit(act), (driver, images, scan, noise["action"])),
        "frame": (cars.program, (driver, place, cars.start, images, inputs)),
        "update": (update, (params, ppo.init_adam(sac.trained(params)), batch, np.float32(0), more)),
        "policy_batch1": (jax.jit(act), (driver, *one)),
    }
    return {k: export.export(f, platforms=["neuron"])(*args).mlir_module_serialized for k, (f, args) in calls.items()}


def update_call(setup: world.Setup, params: dict, batch_size: int) -> tuple:
    """(the compiled update, a minibatch, its last argument)."""
    actions, n = setup.actions, batch_size
    seen = {"image": np.zeros((n, camera.HEIGHT, camera.WIDTH, setup.network.channels), np.uint8)}
    if setup.network.n_lidar:
        seen["lidar"] = np.zeros((n, setup.network.n_lidar), np.float32)
    action = np.zeros((n, 2), np.float32) if actions.is_continuous else np.zeros(n, np.int32)

    def floats(*names):
        return {k: np.zeros(n, np.float32) for k in names}

    if setup.is_sac:
        loss = sac.Loss(setup.network, 0.2, 0.99, True)
        batch = seen | {f"next_{k}": v for k, v in seen.items()} | {"action": action} | floats("reward", "goes_on")
        more = np.zeros((n, actions.n_out), np.float32)
    else:
        loss = ppo.Loss(setup.network, actions, 0.01, True)
        batch, more = seen | {"action": action} | floats("log_p", "advantage", "target"), np.float32(0.2)
    update = sac.update if setup.is_sac else ppo.update
    return jax.jit(functools.partial(update, loss), donate_argnums=(0, 1)), batch, more


def exported_policy(driver: evaluate.Driver) -> bytes:
    """The trained policy with its weights inside: uint8 images [1, HEIGHT, WIDTH, channels], and the lidar's numbers
    [1, n_lidar] where it has one -> probabilities or means of the actions, and the value but for SAC. A StableHLO artifact,
    as `vtrn run`, `vtrn time` and jax.export take it."""
    setup = driver.setup

    def act(images, scan=None):
        if setup.is_sac:
            return jnp.tanh(sac.distribution(setup.network, driver.params, images, scan)[0])
        out, value = policy.apply(setup.network, driver.params, images, scan)
        return jnp.tanh(out) if setup.actions.is_continuous else jax.nn.softmax(out), value

    seen = [np.zeros((1, camera.HEIGHT, camera.WIDTH, setup.network.channels), np.uint8)]
    if setup.network.n_lidar:
        seen.append(np.zeros((1, setup.network.n_lidar), np.float32))
    return export.export(jax.jit(act), platforms=["neuron"])(*seen).mlir_module_serialized


def vtrn_command() -> str:
    """The vtrn command: VTRN_COMMAND, that of the build that VTRN_LIBRARY is of, the installed one."""
    library = os.environ.get("VTRN_LIBRARY")
    built = os.path.join(os.path.dirname(library), "cli", "vtrn") if library else ""
    for place in (os.environ.get("VTRN_COMMAND"), built, shutil.which("vtrn")):
        if place and os.path.exists(place):
            return place
    raise FileNotFoundError("no command vtrn: install the package, or set VTRN_COMMAND to the program")


def chip_times(artifacts: dict, chip: str, directory: str) -> dict:
    """What `vtrn time` says of each program on a chip."""
    out = {}
    for name, artifact in artifacts.items():
        path = os.path.join(directory, f"{name}.vhlo")
        with open(path, "wb") as f:
            f.write(artifact)
        command = [vtrn_command(), "time", path, "--chip", chip, "--json"]
        out[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return out


def price_per_core_hour(instance: str) -> float:
    chips = subprocess.run([vtrn_command(), "chips", "--json"], check=True, capture_output=True, text=True).stdout
    tables = json.loads(chips)
    cores = {chip["name"]: chip["cores"] for chip in tables["chips"]}
    for row in tables["instances"]:
        if row["name"] == instance:
            return row["dollars_per_hour"] / (row["chips"] * cores[row["chip"]])
    raise ValueError(f"vtrn chips knows no instance {instance}")


@dataclasses.dataclass
class Bill:
    """Chip seconds and dollars by part for what a training did, and the service's for the same steps."""

    seconds: dict
    dollars: dict
    service_hours: float
    service_dollars: float


def bill(times: dict, steps: int, updates: int, n_cars: int, dollars_per_hour: float) -> Bill:
    """From the time of each program and how often the training ran it."""
    frames = steps / n_cars
    ns = {k: times[k]["step_ns"] for k in ("camera", "policy", "frame", "update")}
    seconds = {
        "camera": frames * ns["camera"] * 1e-9,
        "policy": frames * ns["policy"] * 1e-9,
        "physics and rest": frames * max(0.0, ns["frame"] - ns["camera"] - ns["policy"]) * 1e-9,
        "update": updates * ns["update"] * 1e-9,
    }
    service_hours = steps / FRAMES_PER_SECOND / 3600
    dollars = {k: s / 3600 * dollars_per_hour for k, s in seconds.items()}
    return Bill(seconds, dollars, service_hours, service_hours * SERVICE_DOLLARS_PER_HOUR)


def curve_text(curve, width: int = 48) -> list:
    """The learning curve as lines of text: mean progress of the episodes that ended, by iteration."""
    if not curve:
        return []
    picked = curve if len(curve) <= 24 else [curve[round(i)] for i in np.linspace(0, len(curve) - 1, 24)]
    lines = ["iteration   steps  minutes  laps  mean progress"]
    for p in picked:
        bar = "#" * round(p["progress_mean"] / 100 * width)
        lines.append(
            f"{p['iteration']:9d}  {p['steps']:6d}  {p['seconds'] / 60:7.1f}  {p['laps']:4d}  {p['progress_mean']:5.1f} % {bar}"
        )
    return lines


def report(directory: str, export_to: str | None = None) -> dict:
    """All figures of a training's directory, as train.py left it."""
    with open(os.path.join(directory, "metrics.json")) as f:
        metrics = json.load(f)
    driver = evaluate.read(os.path.join(directory, "checkpoint.npz"))
    track = tracks.load(driver.track)
    artifacts = programs(driver.setup, track, metrics["cars"], metrics["batch_size"])
    del artifacts["policy_batch1"]
    with tempfile.TemporaryDirectory() as scratch:
        place = export_to or scratch
        os.makedirs(place, exist_ok=True)
        times = chip_times(artifacts, TRAINING[0], place)
        inference = chip_times({"trained_policy": exported_policy(driver)}, INFERENCE[0], place)["trained_policy"]
    hourly = price_per_core_hour(TRAINING[1])
    cost = bill(times, metrics["steps"], metrics["updates"], metrics["cars"], hourly)
    return {
        "track": metrics["track"],
        "steps": metrics["steps"],
        "updates": metrics["updates"],
        "host_seconds": metrics["seconds"],
        "first_lap": metrics["first_lap"],
        "chip_us": {k: t["step_ns"] / 1e3 for k, t in times.items()},
        "reference_ops": {k: t["reference_ops"] for k, t in times.items()},
        "mfu": {k: t["mfu"] for k, t in times.items()},
        "dma_busy": {k: t["dma_busy"] for k, t in times.items()},
        "chip_seconds": cost.seconds,
        "chip_dollars": cost.dollars,
        "core_dollars_per_hour": hourly,
        "service_hours": cost.service_hours,
        "service_dollars": cost.service_dollars,
        "inference_us": inference["step_ns"] / 1e3,
        "curve": metrics["curve"],
    }


def text(r: dict, cars: int, batch_size: int) -> str:
    lines = [f"{r['track']}: {r['steps']} steps, {r['updates']} updates, {r['host_seconds'] / 60:.1f} min on this host", ""]
    lines += curve_text(r["curve"]) + [""]
    lines.append(f"a NeuronCore of {TRAINING[1]}       time of one   MFU     DMA    reference ops")
    for name, what in (
        ("camera", f"{cars} images"), ("policy", f"{cars} images"), ("frame", "both and physics"), ("update", f"{batch_size} images")
    ):  # fmt: skip
        lines.append(
            f"  {name:8s} {what:18s} {r['chip_us'][name] / 1e3:9.3f} ms  {r['mfu'][name]:6.2%}  {r['dma_busy'][name]:5.1%}  "
            f"{r['reference_ops'][name]:6d}"
        )
    lines += ["", "the whole training             chip time       price"]
    for name, seconds in r["chip_seconds"].items():
        lines.append(f"  {name:22s} {seconds:13.1f} s  ${r['chip_dollars'][name]:10.5f}")
    total, dollars = sum(r["chip_seconds"].values()), sum(r["chip_dollars"].values())
    lines.append(f"  {'together':22s} {total:13.1f} s  ${dollars:10.5f}  (${r['core_dollars_per_hour']:.3f} a core and hour)")
    lines.append(
        f"  {'the DeepRacer service':22s} {r['service_hours'] * 3600:13.1f} s  ${r['service_dollars']:10.5f}  "
        f"(one worker at {FRAMES_PER_SECOND} steps/s, ${SERVICE_DOLLARS_PER_HOUR:.2f} an hour)"
    )
    frame_us = 1e6 / FRAMES_PER_SECOND
    lines += ["", f"the policy at batch 1 on {INFERENCE[1]}: {r['inference_us']:.0f} us; a frame of the camera lasts {frame_us:.0f} us"]
    return "\n".join(lines)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--export", action="store_true", help="leave the programs in DIRECTORY/programs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        r = report(args.directory, os.path.join(args.directory, "programs") if args.export else None)
        with open(os.path.join(args.directory, "metrics.json")) as f:
            metrics = json.load(f)
    except (OSError, ValueError, files.BadFile) as e:
        print(f"report: {e}", file=sys.stderr)
        return 2
    print(json.dumps(r) if args.json else text(r, metrics["cars"], metrics["batch_size"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
