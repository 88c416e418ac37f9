"""Cars on a track, frame by frame: starts, camera, policy and physics as one compiled program, and what the host keeps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import camera
import policy
import simulator
import tracks

START_STEP = 0.05  # part of the track by which a worker's next episode starts further


def frame(network, actions, params, road, scene, state, stack, is_new, start, noise):
    """One frame of all cars: (state, stack, what the host reads). Cars of is_new begin an episode at start; noise is as
    policy.sample takes it. stack [N, HEIGHT, WIDTH, n] uint8 is the last images, newest last."""
    state = simulator.choose(is_new, start, state)
    image = camera.images(scene, state["x"], state["y"], state["heading"])[..., None]
    if stack.shape[-1] == 1:
        stack = image
    else:
        last = jnp.where(is_new[:, None, None, None], image, stack[..., 1:])
        stack = jnp.concatenate([last, image], -1)
    out, value = policy.apply(network, params, stack)
    action = policy.sample(actions, params, out, noise)
    log_p, entropy = policy.log_prob(actions, params, out, action)
    steering, speed = actions.command(action)
    state, seen = simulator.judge(road, state, simulator.drive(state, steering, speed))
    seen |= dict(steering=steering, throttle=speed, log_p=log_p, value=value, entropy=entropy)
    return state, stack, action, jnp.stack([seen[k] for k in SEEN], 0)


SEEN = ("x", "y", "heading", "s", "progress", "steps", "wheels", "status", "before", "unbound", "speed", "steering", "throttle",
        "log_p", "value", "entropy", "x0", "y0", "heading0")  # fmt: skip


@dataclasses.dataclass
class Frame:
    """What the host keeps of a frame: [N] each, images uint8 [N, HEIGHT, WIDTH, n]."""

    images: np.ndarray
    action: np.ndarray
    seen: dict
    episode: np.ndarray
    is_backward: np.ndarray
    time_s: float


class World:
    """N cars on a track. One call of step() is one frame; a car whose episode has ended begins the next with the frame
    that follows, as the service's workers do: further along the track by START_STEP."""

    def __init__(self, track, metadata, n_cars, stack=1, device=None, alternate=False, epsilon=None):
        self.track, self.n_cars, self.alternate, self.device = track, n_cars, alternate, device
        self.network, self.actions, self.epsilon = metadata.network, metadata.actions, epsilon
        self.road = jax.device_put(simulator.road(track), device)
        self.scene = jax.device_put(camera.scene(track), device)
        self.stack = np.zeros((n_cars, camera.HEIGHT, camera.WIDTH, stack), np.uint8)
        self.program = jax.jit(functools.partial(frame, self.network, self.actions))
        self.restart()

    def restart(self):
        self.episode = np.zeros(self.n_cars, np.int64)  # of each car, from 0
        self.is_new = np.ones(self.n_cars, bool)
        self.n_frames = 0
        self.state = jax.device_put(self.starts(), self.device)

    def is_backward(self):
        return (self.episode % 2 == 1) if self.alternate else np.zeros(self.n_cars, bool)

    def start_line(self):
        """Where on the track, in parts of it, each car's episode begins."""
        return (np.arange(self.n_cars) / self.n_cars + START_STEP * self.episode) % 1.0

    def starts(self):
        return simulator.start(self.track, self.start_line() * self.track.length, self.is_backward())

    def noise(self, rng, is_greedy):
        shape = self.n_cars, self.actions.n_out
        if is_greedy:
            return np.zeros(shape, np.float32)
        if self.actions.is_continuous:
            return rng.standard_normal(shape).astype(np.float32)
        noise = rng.gumbel(size=shape)
        if self.epsilon is not None:
            value, n_steps = self.epsilon
            now = max(value, 1 - (1 - value) * self.n_frames * self.n_cars / max(1, n_steps))
            forced = rng.random(self.n_cars) < now
            noise[forced, rng.integers(0, shape[1], forced.sum())] += 1e6
        return noise.astype(np.float32)

    def step(self, params, rng=None, is_greedy=False, start=None) -> Frame:
        """Drives one frame; params are on self.device. Cars of is_new begin at start, a state, else where it is their turn."""
        start = start or self.starts()
        inputs = jax.device_put((self.stack, self.is_new, start, self.noise(rng, is_greedy)), self.device)
        stack, is_new, start, noise = inputs
        self.state, stack, action, seen = self.program(
            params, self.road, self.scene, self.state, stack, is_new, start, noise
        )
        self.stack, action, seen = np.asarray(stack), np.asarray(action), np.asarray(seen)
        self.n_frames += 1
        kept = Frame(
            self.stack, action, dict(zip(SEEN, seen)), self.episode.copy(), self.is_backward(),
            self.n_frames * simulator.FRAME_S,
        )  # fmt: skip
        self.is_new = kept.seen["status"] != simulator.IN_PROGRESS
        self.episode[self.is_new] += 1
        return kept


class Observer:
    """Makes the params of reward_function from what the simulator reports; in float64, on the host."""

    def __init__(self, track):
        turned = [np.ascontiguousarray(a[::-1]) for a in (track.centre, track.inner, track.outer)]
        back = tracks.Track(track.name, *turned, track.length - track.along[::-1])
        self.ways = [_Way(track), _Way(back)]
        self.length = track.length

    def params(self, seen: dict, is_backward) -> list:
        """A dict for each of M steps, seen [M] each; is_backward [M]: the episode drives against the waypoints' order."""
        out = [None] * len(seen["x"])
        for is_back, way in zip((False, True), self.ways):
            i = np.flatnonzero(np.asarray(is_backward) == is_back)
            for k, p in zip(i, way.params({name: v[i] for name, v in seen.items()}, is_back) if len(i) else ()):
                out[k] = p
        return out


class _Way:
    def __init__(self, track):
        self.track = track
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

    def params(self, seen, is_back):
        track = self.track
        x, y = seen["x"].astype(np.float64), seen["y"].astype(np.float64)
        i, t, _, far = self.nearest(track.centre, x, y)
        s = track.along[i] + t * (track.along[i + 1] - track.along[i])
        _, _, inner, far_inner = self.nearest(track.inner, x, y)
        _, _, outer, far_outer = self.nearest(track.outer, x, y)
        width = np.hypot(*(inner - outer).T)
        is_left = (far_inner < far_outer) == self.is_inner_left
        heading = np.degrees(seen["heading"].astype(np.float64))
        ahead = (i + 1) % (len(track.centre) - 1)
        status = seen["status"]
        rows = zip(
            (seen["wheels"] > 3.5).tolist(), x.tolist(), y.tolist(), heading.tolist(), far.tolist(), s.tolist(),
            is_left.tolist(), seen["progress"].tolist(), seen["steps"].tolist(), seen["throttle"].tolist(),
            seen["steering"].tolist(), width.tolist(), i.tolist(), ahead.tolist(),
            (status == simulator.CRASHED).tolist(), (status == simulator.OFF_TRACK).tolist(), seen["time"].tolist(),
        )  # fmt: skip
        return [
            {
                "all_wheels_on_track": wheels, "x": px, "y": py, "heading": h, "distance_from_center": d,
                "projection_distance": along, "is_left_of_center": left, "is_reversed": is_back,
                "progress": progress, "steps": int(steps), "speed": speed, "steering_angle": steering,
                "track_width": w, "track_length": track.length, "waypoints": self.waypoints,
                "closest_waypoints": [behind, before], "is_crashed": crashed, "is_offtrack": off, "sim_time": time_s,
                "closest_objects": [0, 0], "objects_location": [], "objects_distance": [],
                "objects_distance_from_center": [], "objects_heading": [], "objects_speed": [],
                "objects_left_of_center": [], "object_in_camera": False,
            }
            for wheels, px, py, h, d, along, left, progress, steps, speed, steering, w, behind, before, crashed, off,
            time_s in rows
        ]  # fmt: skip
