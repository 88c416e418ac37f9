"""The car and its episodes in JAX: many cars on one track, 60 physics steps a second, 15 frames a second.

State is a dict of arrays, one element a car. A tyre holds its contact point still up to what friction can give: each
axle gets the impulse that would stop its sideways slip and bring its wheels' speed to the road, cut to the friction
circle. The model's origin is the middle between the axles."""

import jax.numpy as jnp
import numpy as np

import objects

FRAME_S, SUBSTEPS = 1 / 15, 4
FRONT_M, REAR_M, HALF_TRACK_M = 0.0823, 0.0817, 0.081
MASS_KG, FRICTION, GRAVITY = 7.54, 0.5, 9.81
# Chassis 0.0587 kg m^2, and wheels and hinges at 0.115 m: 4 x 0.34 + 2 x 0.1 kg.
YAW_INERTIA = 0.0587 + 1.56 * 0.115**2
REPORTED_AHEAD_M = 0.14  # the point of the car that x and y are of
# First-order lags of steering and of wheel speed: assumed, from the controllers' gains at 60 Hz.
STEERING_LAG_S, WHEEL_LAG_S = 0.05, 0.08
REAR_GAIN, FRONT_GAIN = 1.0, 0.5
IMPULSE_ROUNDS = 3

IN_PROGRESS, LAP_COMPLETE, OFF_TRACK, CRASHED, IMMOBILIZED, REVERSED, TIME_UP = range(7)
STATUS = ("in_progress", "lap_complete", "off_track", "crashed", "immobilized", "reversed", "time_up")
STILL_M, STILL_STEPS, BACK_STEPS, MAX_STEPS = 0.0003, 15, 15, 10_000

STATE = ("x", "y", "heading", "vx", "vy", "yaw_rate", "steering", "wheel", "s", "progress", "steps", "still", "back")


def road(track) -> dict:
    """Arrays of a track as the simulator reads them: segments of the centre line, of both borders and of both lanes."""
    start, step = track.centre[:-1], np.diff(track.centre, axis=0)
    borders = np.concatenate(
        [np.concatenate([b[:-1], b[1:]], 1) for b in (track.inner, track.outer)]
    )  # x0 y0 x1 y1
    # A level segment crosses no level line; its height may not divide.
    height = borders[:, 3] - borders[:, 1]
    slope = np.where(height == 0, 0, (borders[:, 2] - borders[:, 0]) / np.where(height == 0, 1, height))
    length = np.hypot(*step.T)
    out = {
        "x": start[:, 0],
        "y": start[:, 1],
        "tx": step[:, 0] / length,
        "ty": step[:, 1] / length,
        "length": length,
        "along": track.along[:-1],
        "edge_x": borders[:, 0],
        "edge_y": borders[:, 1],
        "edge_y1": borders[:, 3],
        "edge_slope": slope,
    }
    out = {k: np.asarray(v, np.float32) for k, v in out.items()}
    return out | objects.lanes(track) | {"lap": np.float32(track.length)}


def start(track, s, is_backward, layouts=()):
    """State [N] of cars that stand on the centre line, s [N] metres from the start line, facing where they are to go; or on
    the other lane than an object that is near. layouts: what objects.layout gives, for each car, where there are objects."""
    s = np.asarray(s, np.float64) % track.length
    x, y, heading = track.at(s)
    if layouts:
        aside = [objects.free_lane(track, at, o["object_s"], o["object_lane"]) for at, o in zip(s, layouts)]
        x, y = x - aside * np.sin(heading), y + aside * np.cos(heading)
    heading = np.where(is_backward, heading + np.pi, heading)
    state = {name: np.zeros(len(s), np.float32) for name in STATE}
    ahead = np.where(is_backward, -REPORTED_AHEAD_M, REPORTED_AHEAD_M)
    state |= {"x": x, "y": y, "heading": heading, "s": (s + ahead) % track.length}
    state["way"] = np.where(is_backward, -1.0, 1.0)
    if layouts:
        state |= {k: np.stack([o[k] for o in layouts]) for k in objects.STATE} | {"object_frames": np.zeros(len(s))}
    return {k: np.asarray(v, np.float32) for k, v in state.items()}


def choose(is_new, new: dict, old: dict) -> dict:
    """The state with the cars of is_new [N] replaced."""
    return {k: jnp.where(is_new.reshape(-1, *[1] * (old[k].ndim - 1)), new[k], old[k]) for k in old}


def _friction(vx, vy, yaw, along, across, arm, gain):
    """(vx, vy, yaw) after one axle's impulse; along: the wheels' direction and speed, across: its normal."""
    (ax, ay, speed, limit, used_x, used_y), (nx, ny) = along, across
    at_y = vy + arm * yaw
    want_along = gain * (speed - (vx * ax + at_y * ay)) * (MASS_KG / 2)
    free = 1 / (1 / MASS_KG + arm * arm / YAW_INERTIA)
    want_across = -(vx * nx + at_y * ny) * free
    jx, jy = used_x + want_along * ax + want_across * nx, used_y + want_along * ay + want_across * ny
    size = jnp.sqrt(jx * jx + jy * jy + 1e-12)
    cut = jnp.minimum(1.0, limit / size)
    jx, jy = jx * cut, jy * cut
    dx, dy = jx - used_x, jy - used_y
    return vx + dx / MASS_KG, vy + dy / MASS_KG, yaw + arm * dy / YAW_INERTIA, jx, jy


def drive(state: dict, steering_deg, speed) -> dict:
    """The car's state after one frame of a command: degrees, m/s."""
    dt = FRAME_S / SUBSTEPS
    target = steering_deg * (np.pi / 180)
    x, y, heading, vx, vy, yaw = (state[k] for k in ("x", "y", "heading", "vx", "vy", "yaw_rate"))
    steering, wheel = state["steering"], state["wheel"]
    limit = FRICTION * MASS_KG * GRAVITY / 2 * dt
    for _ in range(SUBSTEPS):
        steering = steering + (target - steering) * (dt / STEERING_LAG_S)
        wheel = wheel + (speed - wheel) * (dt / WHEEL_LAG_S)
        cos, sin = jnp.cos(steering), jnp.sin(steering)
        used = [jnp.zeros_like(vx)] * 4
        for _ in range(IMPULSE_ROUNDS):
            front = cos, sin, wheel, limit, used[0], used[1]
            vx, vy, yaw, used[0], used[1] = _friction(vx, vy, yaw, front, (-sin, cos), FRONT_M, FRONT_GAIN)
            rear = 1.0, 0.0, wheel, limit, used[2], used[3]
            vx, vy, yaw, used[2], used[3] = _friction(vx, vy, yaw, rear, (0.0, 1.0), -REAR_M, REAR_GAIN)
        turn = yaw * dt
        middle = heading + 0.5 * turn
        cos, sin = jnp.cos(middle), jnp.sin(middle)
        x, y = x + (vx * cos - vy * sin) * dt, y + (vx * sin + vy * cos) * dt
        heading = heading + turn
        # The velocity keeps its direction in the world while the car turns under it.
        cos, sin = jnp.cos(turn), jnp.sin(turn)
        vx, vy = vx * cos + vy * sin, vy * cos - vx * sin
    heading = heading - 2 * np.pi * jnp.round(heading / (2 * np.pi))
    new = dict(x=x, y=y, heading=heading, vx=vx, vy=vy, yaw_rate=yaw, steering=steering, wheel=wheel)
    return state | new


def along_centre(road: dict, x, y):
    """Metres along the centre line [N] of the point on it that is nearest to (x, y)."""
    dx, dy = x[:, None] - road["x"], y[:, None] - road["y"]
    t = jnp.clip(dx * road["tx"] + dy * road["ty"], 0.0, road["length"])
    far = (dx - t * road["tx"]) ** 2 + (dy - t * road["ty"]) ** 2
    nearest = jnp.min(far, -1, keepdims=True)
    # At a corner two segments are equally near, in the same point: the first that is found counts.
    return jnp.min(jnp.where(far <= nearest, road["along"] + t, 1e9), -1)


def wheels_on_road(road: dict, state: dict):
    """bool [N, 4]: is each wheel between the borders? Even-odd rule over the segments of both."""
    cos, sin = jnp.cos(state["heading"])[:, None], jnp.sin(state["heading"])[:, None]
    ax = np.array([FRONT_M, FRONT_M, -REAR_M, -REAR_M], np.float32)
    ay = np.array([1, -1, 1, -1], np.float32) * HALF_TRACK_M
    x, y = state["x"][:, None] + ax * cos - ay * sin, state["y"][:, None] + ax * sin + ay * cos
    x, y = x[..., None], y[..., None]
    is_between = (road["edge_y"] > y) != (road["edge_y1"] > y)
    is_right = road["edge_x"] + (y - road["edge_y"]) * road["edge_slope"] > x
    crossings = jnp.sum(jnp.where(is_between & is_right, 1.0, 0.0), -1)
    return crossings - 2 * jnp.floor(crossings * 0.5) > 0.5


def boxes(race, road: dict, state: dict) -> dict:
    """The poses of the race's objects now: objects.poses."""
    return objects.poses(race, road, state, state["object_frames"] * FRAME_S)


def judge(road: dict, old: dict, new: dict, race=objects.Race()):
    """(state with progress and counters, telemetry): old and new are before and after a frame."""
    x = new["x"] + REPORTED_AHEAD_M * jnp.cos(new["heading"])
    y = new["y"] + REPORTED_AHEAD_M * jnp.sin(new["heading"])
    s = along_centre(road, x, y)
    moved = s - old["s"]
    moved = (moved - road["lap"] * jnp.round(moved / road["lap"])) * old["way"]
    gained = 100.0 * moved / road["lap"]
    unbound = old["progress"] + gained
    progress = jnp.minimum(unbound, 100.0)
    steps = old["steps"] + 1
    is_still = jnp.square(new["x"] - old["x"]) + jnp.square(new["y"] - old["y"]) <= STILL_M**2
    still = jnp.where(is_still, old["still"] + 1, 0.0)
    back = jnp.where(gained < 0, old["back"] + 1, 0.0)
    wheels = jnp.sum(wheels_on_road(road, new).astype(jnp.float32), -1)
    status = jnp.where(steps >= MAX_STEPS, float(TIME_UP), float(IN_PROGRESS))
    status = jnp.where(back >= BACK_STEPS, float(REVERSED), status)
    status = jnp.where(still >= STILL_STEPS, float(IMMOBILIZED), status)
    status = jnp.where(wheels < 0.5, float(OFF_TRACK), status)
    told = {}
    if race.n:
        new = new | {"object_frames": old["object_frames"] + 1}
        now = boxes(race, road, new)
        near = objects.seen_from(now, new["x"], new["y"], new["heading"])
        status = jnp.where(objects.is_touched(race, near), float(CRASHED), status)
        told = {f"object_{k}{i}": now[k][:, i] for i in range(race.n) for k in ("x", "y", "cos", "sin")}
    status = jnp.where(progress >= 100.0, float(LAP_COMPLETE), status)
    state = new | dict(s=s, progress=progress, steps=steps, still=still, back=back)
    seen = dict(
        x=x, y=y, heading=new["heading"], s=s, progress=progress, steps=steps, wheels=wheels, status=status,
        before=old["progress"], unbound=unbound, speed=new["vx"], x0=old["x"], y0=old["y"], heading0=old["heading"],
    )  # fmt: skip
    return state, seen | told
