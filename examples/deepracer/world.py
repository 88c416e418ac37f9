"""Cars on a track, frame by frame: starts, camera, policy and physics as one compiled program, and what the host keeps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import camera
import lidar
import objects
import policy
import sac
import simulator
import tracks

START_STEP = 0.05  # part of the track by which a worker's next episode starts further


@dataclasses.dataclass(frozen=True)
class Setup:
    """What the program of a frame is made for; hashable."""

    network: policy.Network
    actions: object
    race: objects.Race = objects.Race()
    scanner: lidar.Lidar | None = None
    is_sac: bool = False

    @property
    def seen_names(self) -> tuple:
        """What the host reads of a frame, by name."""
        return SEEN + tuple(f"object_{k}{i}" for i in range(self.race.n) for k in ("x", "y", "cos", "sin"))


def setup(metadata, stack: int, race=objects.Race()) -> Setup:
    return Setup(metadata.net(stack), metadata.actions, race, metadata.scanner, metadata.algorithm == "sac")


def sense(setup: Setup, place: dict, state: dict, noise):
    """(images uint8 [N, HEIGHT, WIDTH, cameras], what the network is given of the lidar [N, n_lidar] or None)."""
    pose, boxes, near = (state["x"], state["y"], state["heading"]), None, None
    if setup.race.n:
        near = objects.seen_from(simulator.boxes(setup.race, place["road"], state), *pose)
        boxes = setup.race, near
    asides = camera.STEREO_M if setup.network.is_stereo else (0.0,)
    image = jnp.stack([camera.images(place["scene"], *pose, boxes, aside) for aside in asides], -1)
    if not setup.scanner:
        return image, None
    metres = lidar.scan(setup.race, near, noise["lidar"]) if setup.race.n else lidar.nothing(len(state["x"]))
    return image, lidar.shown(setup.scanner, metres)


def decide(setup: Setup, params: dict, image, scan, noise):
    """(action, its log probability [N], the state's value [N], entropy [N]); SAC has no use for the last three."""
    if setup.is_sac:
        action, log_p = sac.sample(*sac.distribution(setup.network, params, image, scan), noise)
        return action, log_p, jnp.zeros_like(log_p), -log_p
    out, value = policy.apply(setup.network, params, image, scan)
    action = policy.sample(setup.actions, params, out, noise)
    log_p, entropy = policy.log_prob(setup.actions, params, out, action)
    return action, log_p, value, entropy


def frame(setup: Setup, params: dict, place: dict, state: dict, stack, inputs: dict):
    """One frame of all cars: (state, stack, lidar's numbers or None, action, what the host reads). place: road and scene.
    inputs: cars of is_new [N] begin an episode at start, a state; noise: action as policy.sample takes it, lidar [N, BEAMS].
    stack [N, HEIGHT, WIDTH, n] uint8 is the last images, newest last."""
    state = simulator.choose(inputs["is_new"], inputs["start"], state)
    image, scan = sense(setup, place, state, inputs["noise"])
    if stack.shape[-1] == image.shape[-1]:
        stack = image
    else:
        last = jnp.where(inputs["is_new"][:, None, None, None], image, stack[..., 1:])
        stack = jnp.concatenate([last, image], -1)
    action, log_p, value, entropy = decide(setup, params, stack, scan, inputs["noise"]["action"])
    steering, speed = setup.actions.command(action)
    driven = simulator.drive(state, steering, speed)
    state, seen = simulator.judge(place["road"], state, driven, setup.race)
    seen |= dict(steering=steering, throttle=speed, log_p=log_p, value=value, entropy=entropy)
    return state, stack, scan, action, jnp.stack([seen[k] for k in setup.seen_names], 0)


SEEN = ("x", "y", "heading", "s", "progress", "steps", "wheels", "status", "before", "unbound", "speed", "steering", "throttle",
        "log_p", "value", "entropy", "x0", "y0", "heading0")  # fmt: skip


@dataclasses.dataclass
class Frame:
    """What the host keeps of a frame: [N] each, images uint8 [N, HEIGHT, WIDTH, n], lidar [N, n_lidar] or None."""

    images: np.ndarray
    action: np.ndarray
    seen: dict
    episode: np.ndarray
    is_backward: np.ndarray
    time_s: float
    lidar: np.ndarray | None = None


class World:
    """N cars on a track. One call of step() is one frame; a car whose episode has ended begins the next with the frame
    that follows, as the service's workers do: further along the track by START_STEP."""

    def __init__(self, track, setup: Setup, n_cars, device=None, alternate=False, epsilon=None):
        self.track, self.setup, self.n_cars, self.device = track, setup, n_cars, device
        self.alternate, self.epsilon, self.actions = alternate, epsilon, setup.actions
        self.place = jax.device_put({"road": simulator.road(track), "scene": camera.scene(track)}, device)
        self.stack = np.zeros((n_cars, camera.HEIGHT, camera.WIDTH, setup.network.channels), np.uint8)
        self.program = jax.jit(functools.partial(frame, setup))
        self.restart()

    def restart(self):
        self.episode = np.zeros(self.n_cars, np.int64)  # of each car, from 0
        self.is_new = np.ones(self.n_cars, bool)
        self.n_frames = 0
        self.start = self.starts()  # where the cars of is_new begin
        self.state = jax.device_put(self.start, self.device)

    def is_backward(self):
        return (self.episode % 2 == 1) if self.alternate else np.zeros(self.n_cars, bool)

    def start_line(self):
        """Where on the track, in parts of it, each car's episode begins."""
        return (np.arange(self.n_cars) / self.n_cars + START_STEP * self.episode) % 1.0

    def layouts(self):
        """Where the objects of each car's episode begin; chance depends on car and episode alone."""
        if not self.setup.race.n:
            return ()
        return [objects.layout(self.track, self.setup.race, (car, int(e))) for car, e in enumerate(self.episode)]

    def starts(self):
        along = self.start_line() * self.track.length
        return simulator.start(self.track, along, self.is_backward(), self.layouts())

    def noise(self, rng, is_greedy):
        """What chance adds to a frame, float32 arrays by name; the lidar has its noise in a race too, the same each time."""
        shape = self.n_cars, self.actions.n_out
        out = {}
        if self.setup.scanner and self.setup.race.n:
            chance = np.random.default_rng(self.n_frames) if rng is None else rng
            out["lidar"] = chance.standard_normal((self.n_cars, lidar.BEAMS))
        if is_greedy:
            out["action"] = np.zeros(shape)
        elif self.actions.is_continuous:
            out["action"] = rng.standard_normal(shape)
        else:
            out["action"] = rng.gumbel(size=shape)
            if self.epsilon is not None:
                value, n_steps = self.epsilon
                now = max(value, 1 - (1 - value) * self.n_frames * self.n_cars / max(1, n_steps))
                forced = rng.random(self.n_cars) < now
                out["action"][forced, rng.integers(0, shape[1], forced.sum())] += 1e6
        return {k: v.astype(np.float32) for k, v in out.items()}

    def step(self, params, rng=None, is_greedy=False, start=None) -> Frame:
        """Drives one frame; params are on self.device. Cars of is_new begin at start, a state, else where it is their turn."""
        if start or self.is_new.any():
            self.start = start or self.starts()
        inputs = {"is_new": self.is_new, "start": self.start, "noise": self.noise(rng, is_greedy)}
        stack, inputs = jax.device_put((self.stack, inputs), self.device)
        self.state, stack, scan, action, seen = self.program(params, self.place, self.state, stack, inputs)
        self.stack, action, seen = np.asarray(stack), np.asarray(action), np.asarray(seen)
        self.n_frames += 1
        kept = Frame(
            self.stack, action, dict(zip(self.setup.seen_names, seen)), self.episode.copy(), self.is_backward(),
            self.n_frames * simulator.FRAME_S, None if scan is None else np.asarray(scan),
        )  # fmt: skip
        self.is_new = kept.seen["status"] != simulator.IN_PROGRESS
        self.episode[self.is_new] += 1
        return kept


class Observer:
    """Makes the params of reward_function from what the simulator reports; in float64, on the host."""

    def __init__(self, track, race=objects.Race()):
        turned = [np.ascontiguousarray(a[::-1]) for a in (track.centre, track.inner, track.outer)]
        back = tracks.Track(track.name, *turned, track.length - track.along[::-1])
        self.ways = [_Way(track, race), _Way(back, race)]
        self.length = track.length

    def params(self, seen: dict, is_backward) -> list:
        """A dict for each of M steps, seen [M] each; is_backward [M]: the episode drives against the waypoints' order."""
        out = [None] * len(seen["x"])
        for is_back, way in zip((False, True), self.ways):
            i = np.flatnonzero(np.asarray(is_backward) == is_back)
            for k, p in zip(i, way.params({name: v[i] for name, v in seen.items()}, is_back) if len(i) else ()):
                out[k] = p
        return out


NO_OBJECTS = {
    "closest_objects": [0, 0], "objects_location": [], "objects_distance": [], "objects_distance_from_center": [],
    "objects_heading": [], "objects_speed": [], "objects_left_of_center": [], "object_in_camera": False,
}  # fmt: skip


class _Way:
    def __init__(self, track, race):
        self.track, self.race = track, race
        self.waypoints = [(float(x), float(y)) for x, y in track.centre]
        step, b = np.diff(track.centre, axis=0), track.inner[:-1] - track.centre[:-1]
        self.is_inner_left = np.median(step[:, 0] * b[:, 1] - step[:, 1] * b[:, 0]) > 0

    @staticmethod
    def nearest(line, x, y):
        """(segment [M], part of it [M], point [M, 2], distance [M]) of the polyline's point nearest to (x, y)."""
        a, step = line[:-1], np.diff(line, axis=0)
        square = np.maximum((step**2).sum(1), 1e-18)
        dx, dy = x[:, None] - a[:, 0], y[:, None] - a[:, 1]
        t = np.clip((dx * step[:, 0] + dy * step[:, 1]) / square, 0, 1)
        far = (dx - t * step[:, 0]) ** 2 + (dy - t * step[:, 1]) ** 2
        i = np.argmin(far, 1)
        rows = np.arange(len(i))
        t = t[rows, i]
        return i, t, a[i] + t[:, None] * step[i], np.sqrt(far[rows, i])

    def place(self, x, y):
        """(segment, metres along the centre line and from it, width of the road, is it left of the centre?) of points [M]."""
        track = self.track
        i, t, _, far = self.nearest(track.centre, x, y)
        s = track.along[i] + t * (track.along[i + 1] - track.along[i])
        _, _, inner, far_inner = self.nearest(track.inner, x, y)
        _, _, outer, far_outer = self.nearest(track.outer, x, y)
        return i, s, far, np.hypot(*(inner - outer).T), (far_inner < far_outer) == self.is_inner_left

    def objects(self, seen, s):
        """The params of the objects, a dict for each of M steps; s [M]: the car's metres along the centre line."""
        if not self.race.n:
            return [NO_OBJECTS] * len(s)
        at = {k: np.stack([seen[f"object_{k}{i}"] for i in range(self.race.n)], 1).astype(np.float64)
              for k in ("x", "y", "cos", "sin")}  # fmt: skip
        shape = at["x"].shape
        _, along, far, _, left = (v.reshape(shape) for v in self.place(at["x"].ravel(), at["y"].ravel()))
        is_bot = self.race.speeds > 0
        headings = np.where(is_bot, np.arctan2(at["sin"], at["cos"]), 0.0).tolist()
        speeds = self.race.speeds.astype(float).tolist()
        order = np.argsort(along, 1, kind="stable")
        is_seen = self.in_camera(seen, at)
        out = []
        for m in range(shape[0]):
            n = int(np.searchsorted(along[m, order[m]], s[m], side="right"))
            before, ahead = (int(order[m, k % shape[1]]) for k in (n - 1, n))
            out.append({
                "closest_objects": [before, ahead], "objects_location": list(zip(at["x"][m].tolist(), at["y"][m].tolist())),
                "objects_distance": along[m].tolist(), "objects_distance_from_center": far[m].tolist(),
                "objects_heading": headings[m], "objects_speed": list(speeds), "objects_left_of_center": left[m].tolist(),
                "object_in_camera": bool(is_seen[m, ahead]),
            })  # fmt: skip
        return out

    @staticmethod
    def in_camera(seen, at):
        """bool [M, K]: is the middle of an object between the sides of the camera's field of view?"""
        heading = seen["heading"].astype(np.float64)
        beyond = camera.AHEAD_M - simulator.REPORTED_AHEAD_M
        dx = at["x"] - (seen["x"] + beyond * np.cos(heading))[:, None]
        dy = at["y"] - (seen["y"] + beyond * np.sin(heading))[:, None]
        angle = np.arctan2(dy, dx) - heading[:, None]
        return np.abs((angle + np.pi) % (2 * np.pi) - np.pi) < camera.FIELD_OF_VIEW_RAD / 2

    def params(self, seen, is_back):
        track = self.track
        x, y = seen["x"].astype(np.float64), seen["y"].astype(np.float64)
        i, s, far, width, is_left = self.place(x, y)
        heading = np.degrees(seen["heading"].astype(np.float64))
        ahead = (i + 1) % (len(track.centre) - 1)
        status = seen["status"]
        rows = zip(
            (seen["wheels"] > 3.5).tolist(), x.tolist(), y.tolist(), heading.tolist(), far.tolist(), s.tolist(),
            is_left.tolist(), seen["progress"].tolist(), seen["steps"].tolist(), seen["throttle"].tolist(),
            seen["steering"].tolist(), width.tolist(), i.tolist(), ahead.tolist(),
            (status == simulator.CRASHED).tolist(), (status == simulator.OFF_TRACK).tolist(), seen["time"].tolist(),
            self.objects(seen, s),
        )  # fmt: skip
        return [
            {
                "all_wheels_on_track": wheels, "x": px, "y": py, "heading": h, "distance_from_center": d,
                "projection_distance": along, "is_left_of_center": left, "is_reversed": is_back,
                "progress": progress, "steps": int(steps), "speed": speed, "steering_angle": steering,
                "track_width": w, "track_length": track.length, "waypoints": self.waypoints,
                "closest_waypoints": [behind, before], "is_crashed": crashed, "is_offtrack": off, "sim_time": time_s,
            } | {k: v.copy() if isinstance(v, list) else v for k, v in about.items()}
            for wheels, px, py, h, d, along, left, progress, steps, speed, steering, w, behind, before, crashed, off,
            time_s, about in rows
        ]  # fmt: skip
