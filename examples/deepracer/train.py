"""Trains a car: python examples/deepracer/train.py [--reward FILE] [--metadata FILE] [--hyperparameters FILE] [--track TRACK].

TRACK is a name (oval, bend, esses, hairpin) or a route file of six columns, .npy. JAX_PLATFORMS picks where: neuron,cpu for the
virtual chip, cpu for the host. The run goes on from its last checkpoint with --resume."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE]

import jax
import numpy as np

import files
import learners
import objects
import simulator
import simtrace
import tracks
import world

CHECKPOINT = "checkpoint.npz"
EVALUATION_CARS = 4


class Line:
    """The line that tells how far a training is: redrawn on a terminal, elsewhere one every few seconds."""

    def __init__(self, every_s: float = 5.0):
        self.is_terminal = sys.stderr.isatty()
        self.every_s = 0.2 if self.is_terminal else every_s
        self.last = -1e9

    def show(self, text: str, is_last: bool = False) -> None:
        now = time.monotonic()
        if not is_last and now - self.last < self.every_s:
            return
        self.last = now
        end = "\n" if is_last or not self.is_terminal else ""
        start = "\r\033[K" if self.is_terminal else ""
        print(start + text, end=end, file=sys.stderr, flush=True)


class Trainer:
    """A training: cars, networks, optimiser and what has been seen so far."""

    def __init__(self, args, line):
        self.args, self.line, self.began = args, line, time.monotonic()
        self.device = jax.devices()[0]
        self.track = tracks.load(args.track)
        self.metadata = files.metadata(args.metadata)
        self.hyper, unknown = files.hyperparameters(args.hyperparameters)
        for name in unknown:
            print(f"{args.hyperparameters}: {name} means nothing here", file=sys.stderr)
        source = files.reward_source(args.reward)
        self.rewards = [files.Reward(args.reward, source) for _ in range(args.cars)]
        actions = self.metadata.actions
        greedy = self.hyper.exploration_type == "e-greedy" and not actions.is_continuous
        epsilon = (self.hyper.e_greedy_value, self.hyper.epsilon_steps) if greedy else None
        race = files.race(args.race) if args.race else objects.Race()
        self.setup = world.setup(self.metadata, self.hyper.stack_size, race)
        self.world = world.World(self.track, self.setup, args.cars, self.device, args.alternate, epsilon)
        self.observer = world.Observer(self.track, race)
        learner = learners.Sac if self.setup.is_sac else learners.Ppo
        self.learner = learner(self.setup, self.hyper, self.device, args.seed)
        self.rng = np.random.default_rng(args.seed)
        self.episodes, self.carry = simtrace.Episodes(), []
        # What each car's reward function saw of the episode under way: rows of Setup.seen_names, time, is_backward.
        self.history = [[] for _ in range(args.cars)]
        self.iteration = self.n_steps = 0
        self.seconds_before, self.first_lap, self.curve = 0.0, None, []
        self.log_bytes = 0  # of the training log, at the checkpoint
        self.parts = {"drive": 0.0, "reward": 0.0, "update": 0.0}

    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    def collect(self):
        """Drives until enough episodes have ended: frames, the last one of the iteration before first."""
        frames, ended, n = list(self.carry), 0, 0
        while ended < self.hyper.num_episodes_between_training and n * self.args.cars < self.args.max_steps:
            frames.append(self.world.step(self.learner.driver, self.rng))
            n += 1
            ended += int(self.world.is_new.sum())
            progress = frames[-1].seen["progress"]
            self.line.show(
                f"iteration {self.iteration + 1}: {n * self.args.cars} steps driven, {ended} episodes ended, "
                f"furthest now {progress.max():.0f} %  ({self.seconds():.0f} s)"
            )
        self.n_steps += n * self.args.cars
        return frames

    def judge(self, frames, log):
        """(rewards [T, N] of the frames that are new, rows of the trace, summaries of the episodes that ended)."""
        rewards, rows, ended = np.zeros((len(frames), self.args.cars)), [], []
        with contextlib.redirect_stdout(log):
            for car in range(self.args.cars):
                seen = {k: np.array([f.seen[k][car] for f in frames]) for k in self.setup.seen_names}
                seen["time"] = np.array([f.time_s for f in frames])
                all_params = self.observer.params(seen, [f.is_backward[car] for f in frames])
                for t, (frame, params) in enumerate(zip(frames, all_params)):
                    waypoint = simtrace.nearer_waypoint(params)
                    status = simulator.STATUS[int(seen["status"][t])]
                    reward = 1e-8 if status == "crashed" else self.rewards[car](params)
                    self.history[car].append([*(seen[k][t] for k in self.setup.seen_names), frame.time_s, frame.is_backward[car]])
                    if status != "in_progress":
                        self.history[car] = []
                    number = self.episodes.number(car, int(frame.episode[car]))
                    done = self.episodes.add(number, params, reward, status, seen["before"][t], seen["unbound"][t])
                    if done:
                        ended.append(done)
                    if params["steps"] == 1:
                        pose = (seen[k][t] for k in ("x0", "y0", "heading0"))
                        began = frame.time_s - simulator.FRAME_S
                        n = frame.action[car].size if frame.action.ndim > 1 else 0
                        rows.append(simtrace.prepare(params, pose, n, number, waypoint, began, self.seconds()))
                    rows.append(
                        simtrace.row(
                            params, frame.action[car], reward, status, number, waypoint, frame.time_s, self.seconds()
                        )
                    )
                    rewards[t, car] = reward
            simtrace.write_log(log, rows)
        return rewards, rows, ended

    def show_update(self, text: str) -> None:
        self.line.show(f"iteration {self.iteration + 1}: update, {text}  ({self.seconds():.0f} s)")

    def iterate(self, log):
        """One iteration: drive, judge, learn. Its row of the learning curve."""
        n_carried, starts = len(self.carry), [time.monotonic()]
        frames = self.collect()
        starts.append(time.monotonic())
        rewards, rows, ended = self.judge(frames[n_carried:], log)
        if n_carried:
            rewards = np.concatenate([self.carry_rewards, rewards])
        self.carry_rewards = rewards[-1:]
        starts.append(time.monotonic())
        terms = self.learner.learn(frames, rewards, self.n_steps, self.rng, self.show_update)
        self.carry = frames[-1:] if self.learner.carries else []
        starts.append(time.monotonic())
        for part, a, b in zip(self.parts, starts, starts[1:]):
            self.parts[part] += b - a
        self.iteration += 1
        simtrace.write_csv(os.path.join(self.args.out, "training-simtrace", f"{self.iteration - 1}-iteration.csv"), rows)
        laps = [e["elapsed_s"] for e in ended if e["episode_status"] == "lap_complete"]
        if laps and self.first_lap is None:
            self.first_lap = {"minutes": self.seconds() / 60, "steps": self.n_steps, "episode_s": min(laps)}
        done = [e["completion_percentage"] for e in ended] or [0.0]
        point = {
            "iteration": self.iteration, "seconds": self.seconds(), "steps": self.n_steps, "updates": self.learner.n_updates,
            "episodes": len(ended), "progress_mean": float(np.mean(done)), "progress_max": float(np.max(done)),
            "laps": len(laps), "lap_s": min(laps, default=None), "reward_per_step": float(rewards.mean()),
            "score_mean": float(np.mean([e["reward_score"] for e in ended])) if ended else None, **terms,
        }  # fmt: skip
        self.curve.append(point)
        self.line.show(
            f"iteration {self.iteration}: {self.n_steps} steps, progress mean {point['progress_mean']:.1f} % best "
            f"{point['progress_max']:.1f} %, {len(laps)} laps{f' (best {min(laps):.2f} s)' if laps else ''}, reward "
            f"{point['reward_per_step']:.3f} a step, entropy {terms['entropy']:.2f}  ({self.seconds():.0f} s)",
            is_last=True,
        )
        return point, ended

    def save(self, name: str = CHECKPOINT) -> None:
        """Writes all of the training's state: a file that is whole, or the one before."""
        arrays = self.learner.arrays() | {"is_new": self.world.is_new, "episode": self.world.episode}
        arrays |= {f"state/{k}": v for k, v in self.world.state.items()}
        arrays["stack"] = self.world.stack
        arrays |= {f"history/{car}": np.array(rows) for car, rows in enumerate(self.history) if rows}
        for f in self.carry:
            arrays |= {"carry/images": f.images, "carry/action": f.action, "carry/episode": f.episode}
            arrays |= {"carry/is_backward": f.is_backward, "carry/rewards": self.carry_rewards}
            arrays |= {f"carry/seen/{k}": v for k, v in f.seen.items()} | ({} if f.lidar is None else {"carry/lidar": f.lidar})
        about = {
            "metadata": open(self.args.metadata).read(), "hyperparameters": open(self.args.hyperparameters).read(),
            "reward": open(self.args.reward).read(), "track": self.args.track, "cars": self.args.cars, "iteration": self.iteration, "n_steps": self.n_steps,
            "n_updates": self.learner.n_updates, "n_frames": self.world.n_frames, "seconds": self.seconds(),
            "first_lap": self.first_lap, "curve": self.curve, "parts": self.parts, "episodes": self.episodes.state(),
            "carry_time": self.carry[0].time_s if self.carry else 0.0, "rng": self.rng.bit_generator.state,
            "platform": self.device.platform, "alternate": self.args.alternate, "log_bytes": self.log_bytes,
            "race": dataclasses.asdict(self.setup.race),
        }  # fmt: skip
        path = os.path.join(self.args.out, name)
        with open(path + ".new", "wb") as f:
            np.savez(f, about=json.dumps(about), **{k: np.asarray(v) for k, v in arrays.items()})
        os.replace(path + ".new", path)

    def remember(self, history: dict) -> None:
        """Shows each car's reward function the steps of its episode under way again, for the state that it keeps."""
        for car, rows in history.items():
            columns = dict(zip((*self.setup.seen_names, "time", "is_backward"), rows.T))
            with contextlib.redirect_stdout(None):
                for params in self.observer.params(columns, columns["is_backward"] > 0.5):
                    self.rewards[int(car)](params)
            self.history[int(car)] = rows.tolist()

    def restore(self) -> None:
        """Goes on where save() was; a ValueError if the files are not those of the checkpoint."""
        path = os.path.join(self.args.out, CHECKPOINT)
        if not os.path.exists(path):
            raise ValueError(f"{path}: no checkpoint is there; train without --resume")
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        about = json.loads(str(arrays["about"]))
        for name, mine in (("cars", self.args.cars), ("track", self.args.track), ("alternate", self.args.alternate)):
            if about[name] != mine:
                raise ValueError(f"{path}: the checkpoint was made with {name} {about[name]}, this run has {mine}")
        if about["race"] != json.loads(json.dumps(dataclasses.asdict(self.setup.race))):
            raise ValueError(f"{path}: the checkpoint was made with another race; give the same --race")
        if json.loads(about["metadata"]) != json.load(open(self.args.metadata)):
            raise ValueError(f"{path}: the checkpoint was made with another model_metadata.json; train anew without --resume")

        def part(prefix):
            return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}

        self.learner.restore(part, about)
        self.world.state = jax.device_put(part("state/"), self.device)
        self.world.is_new, self.world.episode = arrays["is_new"], arrays["episode"]
        self.world.n_frames, self.world.stack = about["n_frames"], arrays["stack"]
        if "carry/images" in arrays:
            self.carry = [
                world.Frame(
                    arrays["carry/images"], arrays["carry/action"], part("carry/seen/"), arrays["carry/episode"],
                    arrays["carry/is_backward"], about["carry_time"], arrays.get("carry/lidar"),
                )
            ]  # fmt: skip
            self.carry_rewards = arrays["carry/rewards"]
        self.remember(part("history/"))
        self.episodes.restore(about["episodes"])
        self.rng.bit_generator.state = about["rng"]
        self.iteration, self.n_steps = about["iteration"], about["n_steps"]
        self.seconds_before, self.first_lap, self.curve = about["seconds"], about["first_lap"], about["curve"]
        self.parts, self.log_bytes = about["parts"], about["log_bytes"]


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, file in (
        ("reward", "reward_function.py"), ("metadata", "model_metadata.json"), ("hyperparameters", "hyperparameters.json")
    ):  # fmt: skip
        parser.add_argument(f"--{name}", default=os.path.join(HERE, file), help="default: the one of this directory")
    parser.add_argument("--track", default="bend")
    parser.add_argument("--race", help="JSON file of what stands and drives on the road: NUMBER_OF_OBSTACLES and so on")
    parser.add_argument("--out", default=os.path.join("out", "deepracer"), help="directory of log, traces and checkpoints")
    parser.add_argument("--cars", type=int, default=32, help="cars that drive at once (default 32)")
    parser.add_argument("--max-steps", type=int, default=4096, help="steps of all cars after which an iteration ends "
                        "though fewer episodes have ended (default 4096)")  # fmt: skip
    parser.add_argument("--iterations", type=int, help="stop after this many in all")
    parser.add_argument("--minutes", type=float, help="stop after this many in all")
    parser.add_argument("--laps", type=int, help="stop once so many laps in a row are clean, evaluated without chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alternate", action="store_true", help="every other episode drives the other way round")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args(argv)
    if args.cars < 1 or args.max_steps < args.cars:
        parser.error("--cars must be at least 1, and --max-steps at least as many")
    if args.seed < 0 or (args.iterations is not None and args.iterations < 1):
        parser.error("--seed must be 0 or more, and --iterations 1 or more")
    return args


def clean_laps(trainer) -> list:
    """Times of laps in a row that one evaluation of few cars finished, the most probable action each time."""
    cars = world.World(trainer.track, trainer.setup, EVALUATION_CARS, trainer.device)
    cars.program = trainer.evaluation
    laps, running = [], np.ones(EVALUATION_CARS, bool)
    while running.any() and cars.n_frames < simulator.MAX_STEPS:
        frame = cars.step(trainer.learner.driver, is_greedy=True)
        status, seen = frame.seen["status"], frame.seen
        for car in np.flatnonzero(running & (status != simulator.IN_PROGRESS)):
            running[car] = False
            if status[car] == simulator.LAP_COMPLETE:
                part = (100 - seen["before"][car]) / (seen["unbound"][car] - seen["before"][car])
                laps.append(float((seen["steps"][car] - 1 + part) * simulator.FRAME_S))
        trainer.line.show(f"evaluation: {frame.time_s:.0f} s driven, furthest {seen['progress'].max():.0f} %")
    return laps


def main(argv=None) -> int:
    args = arguments(argv)
    line = Line()
    line.show(f"deepracer: {args.track}, {args.cars} cars on {jax.devices()[0].platform}; compiling", is_last=True)
    os.makedirs(args.out, exist_ok=True)
    try:
        trainer = Trainer(args, line)
        if args.resume:
            trainer.restore()
    except (files.BadFile, FileNotFoundError, ValueError) as e:
        print(f"deepracer: {e}", file=sys.stderr)
        return 2
    trainer.evaluation = world.World(trainer.track, trainer.setup, EVALUATION_CARS, trainer.device).program
    clean = []
    with open_log(os.path.join(args.out, "training.log"), trainer.log_bytes) as log:
        try:
            while (
                (not args.iterations or trainer.iteration < args.iterations)
                and (not args.minutes or trainer.seconds() < 60 * args.minutes)
                and trainer.episodes.next < trainer.hyper.term_cond_max_episodes
            ):
                point, ended = trainer.iterate(log)
                log.flush()
                trainer.log_bytes = log.tell()
                if args.laps and point["laps"] * 4 >= max(1, point["episodes"]):
                    clean = clean_laps(trainer)
                    point["evaluated_laps"] = clean
                    line.show(f"evaluation: {len(clean)} clean laps of {EVALUATION_CARS}: {clean}", is_last=True)
                trainer.save()
                write_metrics(trainer)
                if args.laps and len(clean) >= min(args.laps, EVALUATION_CARS):
                    break
                scores = [e["reward_score"] for e in ended]
                if scores and np.mean(scores) >= trainer.hyper.term_cond_avg_score:
                    line.show(f"the mean score is {np.mean(scores):.1f}, term_cond_avg_score is reached", is_last=True)
                    break
        except (files.BadFile, FloatingPointError) as e:
            print(f"deepracer: iteration {trainer.iteration + 1}: {e}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            done = f"--resume goes on behind iteration {trainer.iteration}" if trainer.iteration else "before the first checkpoint"
            line.show(f"stopped; {done}", is_last=True)
            return 130
    summary(trainer)
    return 0


def open_log(path: str, n_bytes: int):
    """The log, cut to n_bytes: an iteration that was interrupted is done again, and written again."""
    log = open(path, "r+" if n_bytes and os.path.exists(path) else "w")
    log.truncate(n_bytes)
    log.seek(0, os.SEEK_END)
    return log


def write_metrics(trainer) -> None:
    """metrics.json: what the report reads."""
    about = {
        "track": trainer.track.name, "length_m": trainer.track.length, "cars": trainer.args.cars,
        "platform": trainer.device.platform, "network": trainer.metadata.network, "steps": trainer.n_steps,
        "updates": trainer.learner.n_updates, "batch_size": trainer.hyper.batch_size, "seconds": trainer.seconds(),
        "host_seconds": trainer.parts, "first_lap": trainer.first_lap, "curve": trainer.curve,
    }  # fmt: skip
    simtrace.write_json(os.path.join(trainer.args.out, "metrics.json"), about)


def summary(trainer) -> None:
    parts = ", ".join(f"{k} {v:.0f} s" for k, v in trainer.parts.items())
    print(f"deepracer on {trainer.device.platform}: {trainer.n_steps} steps in {trainer.seconds():.0f} s ({parts})")
    lap = trainer.first_lap
    print(f"  first lap after {lap['minutes']:.1f} min, {lap['steps']} steps" if lap else "  no lap yet")
    print(f"  {trainer.args.out}: {CHECKPOINT}, metrics.json, training.log, training-simtrace/")


if __name__ == "__main__":
    sys.exit(main())
