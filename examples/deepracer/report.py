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
import simulator
import tracks
import world

SERVICE_DOLLARS_PER_HOUR, FRAMES_PER_SECOND = 3.50, 15  # of the console service: one worker, real time
TRAINING, INFERENCE = ("trn1", "trn1.2xlarge"), ("inf2", "inf2.xlarge")


def programs(network, actions, track, n_cars, stack, batch_size) -> dict:
    """StableHLO artifacts by part; camera and policy are also inside of frame."""
    params = policy.init(network, actions, stack, 0)
    road, scene = simulator.road(track), camera.scene(track)
    state = simulator.start(track, np.arange(n_cars) / n_cars * track.length, np.zeros(n_cars, bool))
    images = np.zeros((n_cars, camera.HEIGHT, camera.WIDTH, stack), np.uint8)
    noise = np.zeros((n_cars, actions.n_out), np.float32)
    act_shape = (batch_size, 2) if actions.is_continuous else (batch_size,)
    batch = {
        "image": np.zeros((batch_size, *images.shape[1:]), np.uint8),
        "action": np.zeros(act_shape, np.float32 if actions.is_continuous else np.int32),
        **{k: np.zeros(batch_size, np.float32) for k in ("log_p", "advantage", "target")},
    }
    pose = state["x"], state["y"], state["heading"]
    loss = ppo.Loss(network, actions, 0.01, True)
    apply = functools.partial(policy.apply, network)
    is_new = np.zeros(n_cars, bool)
    calls = {
        "camera": (jax.jit(camera.images), (scene, *pose)),
        "policy": (jax.jit(apply), (params, images)),
        "frame": (
            jax.jit(functools.partial(world.frame, network, actions)),
            (params, road, scene, state, images, is_new, state, noise),
        ),
        "update": (
            jax.jit(functools.partial(ppo.update, loss), donate_argnums=(0, 1)),
            (params, ppo.init_adam(params), batch, np.float32(0), np.float32(0.2)),
        ),
        "policy_batch1": (jax.jit(apply), (params, images[:1])),
    }
    return {k: export.export(f, platforms=["neuron"])(*args).mlir_module_serialized for k, (f, args) in calls.items()}


def exported_policy(driver: evaluate.Driver) -> bytes:
    """The trained policy with its weights inside: uint8 images [1, HEIGHT, WIDTH, stack] -> (probabilities or means of the
    actions, value). A StableHLO artifact, as `vtrn run`, `vtrn time` and jax.export take it."""

    def act(images):
        out, value = policy.apply(driver.metadata.network, driver.params, images)
        return jnp.tanh(out) if driver.metadata.actions.is_continuous else jax.nn.softmax(out), value

    images = np.zeros((1, camera.HEIGHT, camera.WIDTH, driver.stack), np.uint8)
    return export.export(jax.jit(act), platforms=["neuron"])(images).mlir_module_serialized


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
    artifacts = programs(
        driver.metadata.network, driver.metadata.actions, track, metrics["cars"], driver.stack, metrics["batch_size"]
    )
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
