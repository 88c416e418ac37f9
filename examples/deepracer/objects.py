"""Boxes and bot cars on the road in JAX: where they stand, whether a car touches one, and how far a ray flies to them.

Every car has a road of its own: objects are arrays [cars, K], and cars do not see each other. Boxes stand; bot cars drive
along the middle of a lane. Sizes, lanes and rules are those of the service's simulator (deepracer-simapp, Apache-2.0)."""

import dataclasses

import jax.numpy as jnp
import numpy as np

# Metres along the heading, across it, and above the ground; the rectangle that counts as touched, along and across; the
# luminance of the sides. A bot car's height and both luminances of it are assumed.
BOX = dict(size=(0.4, 0.3, 0.225), touch=(0.5, 0.4), shade=103.0)
BOT = dict(size=(0.32352, 0.1961, 0.2), touch=(0.32352, 0.1961), shade=70.0)
CAR_M = (0.32352, 0.1961)  # of a racing car, around the middle between the axles
GAP_M = 1.0  # a car does not start in the lane of an object that is nearer
LAST_M = 1.0  # the last object stands so far before the start line
FAR_M = 1e6  # how far a ray flies that meets nothing
STATE = ("object_s", "object_lane", "object_hold")


@dataclasses.dataclass(frozen=True)
class Race:
    """What stands and drives on the road, by the names of the service's race configuration. positions: pairs (part of the
    track, lane), lane 1 the inner one and -1 the outer one; they take the place of boxes counted by number."""

    number_of_obstacles: int = 0
    min_distance_between_obstacles: float = 2.0  # per cent of the track
    randomize_obstacle_locations: bool = False
    is_obstacle_bot_car: bool = False
    object_positions: tuple = ()
    number_of_bot_cars: int = 0
    min_distance_between_bot_cars: float = 2.0  # m
    randomize_bot_car_locations: bool = False
    bot_car_speed: float = 0.2  # m/s
    is_lane_change: bool = False
    lower_lane_change_time: float = 3.0  # s
    upper_lane_change_time: float = 5.0  # s
    lane_change_distance: float = 1.0  # m

    @property
    def n_boxes(self) -> int:
        return len(self.object_positions) or self.number_of_obstacles

    @property
    def n(self) -> int:
        return self.n_boxes + self.number_of_bot_cars

    def of_each(self, name: str, part: int = 0):
        """A row of BOX or BOT for each object: fp32 [K]."""
        box = BOT if self.is_obstacle_bot_car else BOX
        rows = [box[name]] * self.n_boxes + [BOT[name]] * self.number_of_bot_cars
        return np.array([r[part] if isinstance(r, tuple) else r for r in rows], np.float32)

    @property
    def speeds(self):
        return np.array([0.0] * self.n_boxes + [self.bot_car_speed] * self.number_of_bot_cars, np.float32)


def _spread(rng, first: float, last: float, n: int, gap: float):
    """n places from first to last, evenly; with rng each is moved as far as its neighbours let it, in a random order."""
    places = np.linspace(first, last, n)
    for i in rng.permutation(n) if rng else ():
        low = first if i == 0 else places[i - 1] + gap
        high = last if i == n - 1 else places[i + 1] - gap
        if low < high:
            places[i] = rng.uniform(low, high)
    return places


def layout(track, race: Race, seed) -> dict:
    """Where an episode's objects begin: metres along the centre line, lane (0 inner, 1 outer) and seconds that a bot car
    keeps its lane, fp32 [K] each. seed: whole numbers that chance is drawn from."""
    rng = np.random.default_rng(seed)
    boxes, bots = race.n_boxes, race.number_of_bot_cars
    if race.object_positions:
        s = [part * track.length for part, _ in race.object_positions]
        lane = [float(side == -1) for _, side in race.object_positions]
    else:
        gap = race.min_distance_between_obstacles / 100 * track.length
        chance = rng if race.randomize_obstacle_locations else None
        s = list(_spread(chance, gap, track.length - LAST_M, boxes, gap))
        lane = list(rng.integers(0, 2, boxes) if chance else np.arange(boxes) % 2)
    gap, chance = race.min_distance_between_bot_cars, rng if race.randomize_bot_car_locations else None
    s += list(_spread(chance, gap, track.length - LAST_M, bots, gap))
    lane += list(rng.integers(0, 2, bots) if chance else np.arange(bots) % 2)
    hold = rng.uniform(race.lower_lane_change_time, race.upper_lane_change_time, boxes + bots)
    return {k: np.asarray(v, np.float32) for k, v in zip(STATE, (s, lane, hold))}


def lanes(track) -> dict:
    """The middles of both lanes as segments, [2, P] each, beside the arrays of simulator.road."""
    lines = np.stack([(track.centre + border) / 2 for border in (track.inner, track.outer)])
    step = np.diff(lines, axis=1)
    ends = np.append(track.along[1:-1], FAR_M)
    out = {"lane_x": lines[:, :-1, 0], "lane_y": lines[:, :-1, 1], "lane_dx": step[..., 0], "lane_dy": step[..., 1], "end": ends}
    return {k: np.asarray(v, np.float32) for k, v in out.items()}


def _lane(race: Race, state: dict, t):
    """Which part of the way from the inner to the outer lane each object is on, after t [N, 1] seconds."""
    first = state["object_lane"]
    if not (race.is_lane_change and race.number_of_bot_cars):
        return first
    takes = race.lane_change_distance / race.bot_car_speed
    period = state["object_hold"] + takes
    n = jnp.floor(t / period)
    part = jnp.clip((t - n * period - state["object_hold"]) / takes, 0.0, 1.0)
    is_odd = n - 2 * jnp.floor(0.5 * n) > 0.5
    changed = first + (1 - 2 * first) * jnp.where(is_odd, 1 - part, part)
    return jnp.where(race.speeds > 0, changed, first)


def poses(race: Race, road: dict, state: dict, t) -> dict:
    """x, y, cos and sin of the heading [N, K] after t [N] seconds of the episode."""
    t, way = t[:, None], state["way"][:, None]
    s = state["object_s"] + way * race.speeds * t
    s = s - road["lap"] * jnp.floor(s / road["lap"])
    s, side = s[..., None], _lane(race, state, t)
    on = jnp.where((s >= road["along"]) & (s < road["end"]), 1.0, 0.0)
    part = on * (s - road["along"]) / road["length"]

    def at(start, step):
        inner, outer = (jnp.sum(on * road[start][i] + part * road[step][i], -1) for i in (0, 1))
        return inner + side * (outer - inner)

    def along(step):
        inner, outer = (jnp.sum(on * road[step][i], -1) for i in (0, 1))
        return (inner + side * (outer - inner)) * way

    dx, dy = along("lane_dx"), along("lane_dy")
    scale = 1 / jnp.sqrt(dx * dx + dy * dy)
    return {"x": at("lane_x", "lane_dx"), "y": at("lane_y", "lane_dy"), "cos": dx * scale, "sin": dy * scale}


def seen_from(boxes: dict, x, y, heading) -> dict:
    """The poses [N, K] in the frames of cars at (x, y), heading [N]."""
    cos, sin = jnp.cos(heading)[:, None], jnp.sin(heading)[:, None]
    dx, dy = boxes["x"] - x[:, None], boxes["y"] - y[:, None]
    return {
        "x": cos * dx + sin * dy, "y": cos * dy - sin * dx,
        "cos": cos * boxes["cos"] + sin * boxes["sin"], "sin": cos * boxes["sin"] - sin * boxes["cos"],
    }  # fmt: skip


def is_touched(race: Race, near: dict):
    """bool [N]: does the rectangle of a car overlap that of an object? near: poses in the car's frame. Two rectangles are
    apart where one of their four axes has their shadows apart."""
    a, b = race.of_each("touch", 0) / 2, race.of_each("touch", 1) / 2
    length, width = CAR_M[0] / 2, CAR_M[1] / 2
    cos, sin = jnp.abs(near["cos"]), jnp.abs(near["sin"])
    along = near["x"] * near["cos"] + near["y"] * near["sin"]
    across = near["y"] * near["cos"] - near["x"] * near["sin"]
    is_near = (jnp.abs(near["x"]) < length + a * cos + b * sin) & (jnp.abs(near["y"]) < width + a * sin + b * cos)
    is_near &= (jnp.abs(along) < a + length * cos + width * sin) & (jnp.abs(across) < b + length * sin + width * cos)
    return jnp.sum(jnp.where(is_near, 1.0, 0.0), -1) > 0.5


def _slab(at, step, half):
    """(in, out): where a ray at + t * step is between -half and half."""
    step = jnp.where(jnp.abs(step) < 1e-6, 1e-6, step)
    one, two = (-half - at) / step, (half - at) / step
    return jnp.minimum(one, two), jnp.maximum(one, two)


def flights(race: Race, near: dict, origin, rays):
    """(t [N, K, R], is_side bool [N, K, R]): how far rays fly from origin (x, y, z) until they meet each object, FAR_M where
    they do not, and whether they meet one of its long sides. rays: (dx, dy, dz) [R] in the car's frame, constants."""
    a, b, height = (race.of_each("size", k)[:, None] for k in range(3))
    cos, sin = near["cos"][..., None], near["sin"][..., None]
    rx, ry = origin[0] - near["x"][..., None], origin[1] - near["y"][..., None]
    dx, dy, dz = (np.asarray(d, np.float32) for d in rays)
    in_x, out_x = _slab(cos * rx + sin * ry, cos * dx + sin * dy, a / 2)
    in_y, out_y = _slab(cos * ry - sin * rx, cos * dy - sin * dx, b / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        top, ground = (height - origin[2]) / dz, (0.0 - origin[2]) / dz
    is_level = np.broadcast_to(dz == 0, top.shape)
    in_z = np.where(is_level, np.where(height > origin[2], -FAR_M, FAR_M), np.minimum(top, ground)).astype(np.float32)
    out_z = np.where(is_level, FAR_M, np.maximum(top, ground)).astype(np.float32)
    enters = jnp.maximum(jnp.maximum(in_x, in_y), in_z)
    leaves = jnp.minimum(jnp.minimum(out_x, out_y), out_z)
    is_met = (enters <= leaves) & (leaves > 0)
    return jnp.where(is_met, jnp.maximum(enters, 0.0), FAR_M), in_y > in_x


def free_lane(track, s: float, places, sides) -> float:
    """Metres to the left of the centre line at which a car starts at s: 0, or the lane that the nearest object leaves free.
    places: metres along the centre line of the objects, sides: 0 on the inner lane, 1 on the outer one."""
    if not len(places):
        return 0.0
    gaps = np.abs((np.asarray(places) - s + track.length / 2) % track.length - track.length / 2)
    i = int(np.argmin(gaps))
    if gaps[i] >= GAP_M:
        return 0.0
    k = int(np.argmin(np.abs(track.along[:-1] - s % track.length)))
    border = track.inner[k] if sides[i] > 0.5 else track.outer[k]
    x, y, heading = track.at(s)
    return float((border[1] - y) * np.cos(heading) - (border[0] - x) * np.sin(heading)) / 2
