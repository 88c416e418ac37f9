"""Races a trained car: python examples/deepracer/evaluate.py CHECKPOINT [--laps 3] [--film film.html] [--gif lap.gif].

A time trial by the service's rules: one car, the laps without a stop; whoever leaves the road is put back one metre and
pays a penalty, as does who touches an object. Laps are timed at the line, between two frames."""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE]

import jax
import numpy as np

import files
import film
import objects
import sac
import simulator
import simtrace
import tracks
import world

BACK_M, MOST_FAULTS = 1.0, 30


@dataclasses.dataclass
class Driver:
    """What a checkpoint holds of the car: networks, and the files that it was trained with."""

    params: dict
    metadata: files.Metadata
    stack: int
    track: str
    reward: files.Reward
    race: objects.Race = objects.Race()

    @property
    def setup(self) -> world.Setup:
        return world.setup(self.metadata, self.stack, self.race)


def read(path: str) -> Driver:
    """The driver of a checkpoint; errors name the file."""
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise ValueError(f"{path}: not a checkpoint of train.py, or a damaged one: {e}") from e
    if not isinstance(file, np.lib.npyio.NpzFile) or "about" not in file.files:
        raise ValueError(f"{path}: not a checkpoint of train.py: it has no entry 'about'")
    with file:
        about = json.loads(str(file["about"]))
        params = {k[len("params/") :]: file[k] for k in file.files if k.startswith("params/")}
    with tempfile.TemporaryDirectory() as directory:
        for name in ("metadata", "hyperparameters"):
            with open(os.path.join(directory, name), "w") as f:
                f.write(about[name])
        metadata = files.metadata(os.path.join(directory, "metadata"))
        hyper, _ = files.hyperparameters(os.path.join(directory, "hyperparameters"))
    if metadata.algorithm == "sac":
        params = sac.part(params, "policy")
    reward = files.Reward("reward_function.py", about["reward"])
    given = about["race"]
    race = objects.Race(**given | {"object_positions": tuple(tuple(p) for p in given["object_positions"])})
    return Driver(params, metadata, hyper.stack_size, about["track"], reward, race)


@dataclasses.dataclass
class Race:
    laps: list  # [{"lap", "seconds", "faults", "penalty_s"}], of the laps that were finished
    rows: list  # of simtrace.row
    frames: list  # of the film: dicts
    images: list  # uint8 [HEIGHT, WIDTH]


def race(driver: Driver, track, n_laps: int, penalty_s: float, device) -> Race:
    """n_laps laps, or as many as the car gets round in before MOST_FAULTS faults."""
    car = world.World(track, driver.setup, 1, device)
    observer, params = world.Observer(track, driver.race), jax.device_put(driver.params, device)
    result, layouts = Race([], [], [], []), car.layouts()
    start = simulator.start(track, [0.0], np.array([False]), layouts)
    paid = lap_start = lap_paid = 0.0
    lap_faults = faults = lap_steps = 0
    while len(result.laps) < n_laps and faults < MOST_FAULTS:
        frame = car.step(params, is_greedy=True, start=start)
        seen = frame.seen
        now, lap_steps = frame.time_s + paid, lap_steps + 1
        status = int(seen["status"][0])
        told = observer.params(seen | {"steps": np.array([lap_steps]), "time": np.array([now])}, [False])[0]
        reward = 1e-8 if status == simulator.CRASHED else driver.reward(told)
        waypoint = simtrace.nearer_waypoint(told)
        if lap_steps == 1:
            pose = (seen[k][0] for k in ("x0", "y0", "heading0"))
            n = frame.action.size if frame.action.ndim > 1 else 0
            result.rows.append(simtrace.prepare(told, pose, n, len(result.laps), waypoint, lap_start, lap_start))
        result.rows.append(
            simtrace.row(told, frame.action[0], reward, simulator.STATUS[status], len(result.laps), waypoint, now, now)
        )
        result.images.append(frame.images[0, :, :, -1])
        result.frames.append(
            dict(
                x=told["x"], y=told["y"], heading=told["heading"], steer=told["steering_angle"], speed=float(seen["speed"][0]),
                throttle=told["speed"], reward=reward, progress=told["progress"], lap=len(result.laps), time=now,
                status=simulator.STATUS[status], objects=boxes_of(driver.race, seen),
            )
        )  # fmt: skip
        car.is_new[:] = False
        if status == simulator.LAP_COMPLETE:
            over = seen["unbound"][0] - 100.0
            part = 1 - over / max(1e-9, seen["unbound"][0] - seen["before"][0])
            line = now - (1 - part) * simulator.FRAME_S
            result.laps.append(
                {"lap": len(result.laps) + 1, "seconds": float(line - lap_start), "faults": lap_faults, "penalty_s": lap_paid}
            )
            lap_start, lap_faults, lap_paid, lap_steps = line, 0, 0.0, 0
            zero = np.zeros(1, np.float32)
            car.state |= jax.device_put({"progress": zero + np.float32(over), "steps": zero}, device)
        elif status != simulator.IN_PROGRESS:
            faults, lap_faults, paid, lap_paid = faults + 1, lap_faults + 1, paid + penalty_s, lap_paid + penalty_s
            car.is_new[:] = True
            back = simulator.REPORTED_AHEAD_M + BACK_M
            now_at = [o | placed(track, driver.race, seen) for o in layouts]
            start = simulator.start(track, [float(seen["s"][0]) - back], np.array([False]), now_at)
            if layouts:  # what drives has driven on
                start |= {k: np.asarray(car.state[k]) for k in (*objects.STATE, "object_frames")}
            progress = seen["progress"][0] - 100 * BACK_M / track.length
            start["progress"] = np.array([progress], np.float32)
    return result


def boxes_of(race: objects.Race, seen: dict) -> list:
    """[x, y, heading in degrees, length, width] in metres of each object in a frame."""
    at = [[float(seen[f"object_{k}{i}"][0]) for k in ("x", "y", "cos", "sin")] for i in range(race.n)]
    sizes = zip(race.of_each("size", 0).tolist(), race.of_each("size", 1).tolist())
    return [[x, y, float(np.degrees(np.arctan2(sin, cos))), *size] for (x, y, cos, sin), size in zip(at, sizes)]


def placed(track, race: objects.Race, seen: dict) -> dict:
    """What objects.free_lane asks of the objects in a frame, by objects.STATE: metres along the centre line of the nearest
    waypoint, and whether the outer border is nearer than the inner one."""
    at = np.array([[seen[f"object_{k}{i}"][0] for k in ("x", "y")] for i in range(race.n)], np.float64)

    def nearest(line):
        return np.hypot(*(at[:, None] - line[:-1]).transpose(2, 0, 1))

    is_outer = nearest(track.outer).min(1) < nearest(track.inner).min(1)
    return {"object_s": track.along[np.argmin(nearest(track.centre), 1)], "object_lane": is_outer.astype(np.float32)}


def table(result: Race, n_laps: int) -> str:
    lines = ["lap   seconds  faults  of it penalty"]
    lines += [f"{r['lap']:3d}  {r['seconds']:8.3f}  {r['faults']:6d}  {r['penalty_s']:8.1f} s" for r in result.laps]
    if len(result.laps) < n_laps:
        lines.append(f"not finished: {len(result.laps)} of {n_laps} laps before {MOST_FAULTS} faults")
    elif result.laps:
        seconds = [r["seconds"] for r in result.laps]
        lines.append(f"mean {np.mean(seconds):.3f} s, best {min(seconds):.3f} s, total {sum(seconds):.3f} s")
    return "\n".join(lines)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--track", help="another track than it was trained on")
    parser.add_argument("--race", help="JSON file of another race than it was trained in: NUMBER_OF_OBSTACLES and so on")
    parser.add_argument("--laps", type=int, default=3)
    parser.add_argument("--penalty", type=float, default=5.0, help="seconds for leaving the road, and for touching "
                        "an object (default 5)")  # fmt: skip
    parser.add_argument("--film", help="write the race as one HTML file")
    parser.add_argument("--gif", help="write it as a GIF, every third frame")
    parser.add_argument("--trace", help="write its steps as CSV (default: evaluation-simtrace/ beside the checkpoint)")
    parser.add_argument("--json", action="store_true", help="print the laps as JSON")
    args = parser.parse_args(argv)
    if args.laps < 1:
        parser.error("--laps must be at least 1")
    for path in filter(None, (args.film, args.gif)):
        if not os.path.isdir(os.path.dirname(path) or "."):
            parser.error(f"{path}: there is no such directory")
    try:
        driver = read(args.checkpoint)
        track = tracks.load(args.track or driver.track)
        if args.race:
            driver = dataclasses.replace(driver, race=files.race(args.race))
    except (OSError, ValueError) as e:
        print(f"evaluate: {e}", file=sys.stderr)
        return 2
    result = race(driver, track, args.laps, args.penalty, jax.devices()[0])
    beside = os.path.join(os.path.dirname(args.checkpoint) or ".", "evaluation-simtrace", "0-iteration.csv")
    simtrace.write_csv(args.trace or beside, result.rows)
    print(json.dumps(result.laps) if args.json else table(result, args.laps))
    if args.film:
        film.write_html(args.film, track, result)
        print(f"  {args.film}", file=sys.stderr)
    if args.gif:
        film.write_gif(args.gif, track, result)
        print(f"  {args.gif}", file=sys.stderr)
    return 0 if len(result.laps) == args.laps else 1


if __name__ == "__main__":
    sys.exit(main())
