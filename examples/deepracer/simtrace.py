"""What a run leaves behind in the service's forms: SIM_TRACE_LOG lines, the same columns as CSV, and metrics."""

import csv
import json
import math
import os

import numpy as np

import simulator

COLUMNS = (
    "episode", "steps", "X", "Y", "yaw", "steer", "throttle", "action", "reward", "done", "all_wheels_on_track",
    "progress", "closest_waypoint", "track_len", "tstamp", "episode_status", "pause_duration",
    "obstacle_crash_counter", "wall_clock",
)  # fmt: skip


def row(params: dict, action, reward: float, status: str, episode: int, waypoint: int, time_s: float, wall_s: float):
    """The fields of one step as text: time_s is the simulator's, wall_s this host's."""
    numbers = [f"{float(a):.6g}" for a in action] if getattr(action, "ndim", 0) else None
    return (
        f"{episode:d}",
        f"{params['steps']:d}",
        f"{params['x']:.4f}",
        f"{params['y']:.4f}",
        f"{params['heading']:.4f}",
        f"{params['steering_angle']:.2f}",
        f"{params['speed']:.2f}",
        f"[{' '.join(numbers)}]" if numbers else f"{int(action):d}",
        f"{reward:.4f}",
        str(status not in ("in_progress", "prepare")),
        str(params["all_wheels_on_track"]),
        f"{params['progress']:.4f}",
        f"{waypoint:d}",
        f"{params['track_length']:.2f}",
        f"{time_s:.6f}",
        status,
        "0.00",
        "0",
        f"{wall_s:.4f}",
    )


def prepare(params: dict, pose, n_actions: int, episode: int, waypoint: int, time_s: float, wall_s: float):
    """The row before the first step: the car stands at pose, (x, y, heading in radians) of its origin."""
    x, y, heading = (float(p) for p in pose)
    at = dict(params, steps=0, progress=0.0, speed=0.0, steering_angle=0.0, all_wheels_on_track=True)
    at |= dict(x=x + simulator.REPORTED_AHEAD_M * math.cos(heading), y=y + simulator.REPORTED_AHEAD_M * math.sin(heading))
    at |= dict(heading=math.degrees(heading))
    action = np.zeros(n_actions) if n_actions else np.int32(0)
    return row(at, action, 0.0, "prepare", episode, waypoint, time_s, wall_s)


def nearer_waypoint(params: dict) -> int:
    behind, ahead = params["closest_waypoints"]
    x, y, points = params["x"], params["y"], params["waypoints"]

    def far(i):
        return (points[i][0] - x) ** 2 + (points[i][1] - y) ** 2

    return ahead if far(ahead) < far(behind) else behind


class Episodes:
    """Collects steps by car, numbers episodes in the order in which they begin, and knows what each came to."""

    def __init__(self):
        self.numbers, self.open, self.done, self.next = {}, {}, [], 0

    def number(self, car: int, episode: int) -> int:
        key = car, episode
        if key not in self.numbers:
            self.numbers = {k: v for k, v in self.numbers.items() if k[0] != car} | {key: self.next}
            self.next += 1
        return self.numbers[key]

    def add(self, number: int, params: dict, reward: float, status: str, before: float, unbound: float):
        """Counts a step, with the progress before and behind it, not cut at 100; the finished episode's summary, or None."""
        now = self.open.setdefault(number, {"episode": number, "reward_score": 0.0, "steps": 0})
        now["reward_score"] += reward
        now["steps"] = params["steps"]
        if status == "in_progress":
            return None
        # A lap ends where the car crosses the line, between two frames.
        part = 1.0
        if status == "lap_complete" and unbound > before:
            part = float((100.0 - before) / (unbound - before))
        now["elapsed_s"] = (params["steps"] - 1 + part) * simulator.FRAME_S
        now |= {"completion_percentage": params["progress"], "episode_status": status}
        return self.open.pop(number)

    def state(self) -> dict:
        numbers = [[*k, v] for k, v in self.numbers.items()]
        return {"numbers": numbers, "open": list(self.open.values()), "next": self.next}

    def restore(self, state: dict):
        self.numbers = {(a, b): n for a, b, n in state["numbers"]}
        self.open = {e["episode"]: e for e in state["open"]}
        self.next = state["next"]


def write_csv(path: str, rows) -> None:
    """Rows of row(), sorted by episode and step."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(COLUMNS)
        writer.writerows(in_order(rows))


def write_log(file, rows) -> None:
    for r in in_order(rows):
        print("SIM_TRACE_LOG:" + ",".join(r), file=file)


def in_order(rows):
    return sorted(rows, key=lambda r: (int(r[0]), int(r[1])))


def write_json(path: str, value) -> None:
    """Writes a file that is whole or the one before."""
    with open(path + ".new", "w") as f:
        json.dump(value, f, indent=1)
    os.replace(path + ".new", path)


def read_csv(path: str) -> list:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))
