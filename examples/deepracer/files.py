"""The user's three files: model_metadata.json, hyperparameters.json and reward_function.py, read and judged."""

import dataclasses
import json
import math
import os

import jax.numpy as jnp
import numpy as np

import lidar
import objects
import policy

MAX_STEERING_DEG, SPEED_MPS = 30.0, (0.1, 4.0)
CAMERAS = ("FRONT_FACING_CAMERA", "LEFT_CAMERA", "STEREO_CAMERAS")


class BadFile(ValueError):
    """A file of the user's breaks a rule: the message names file, rule, value and remedy."""


@dataclasses.dataclass(frozen=True)
class Actions:
    """What the car can do. Discrete: choices, pairs (degrees, m/s). Continuous: ranges of degrees and of m/s."""

    choices: tuple = ()
    ranges: tuple = ()

    @property
    def is_continuous(self) -> bool:
        return not self.choices

    @property
    def n_out(self) -> int:
        return 2 if self.is_continuous else len(self.choices)

    def command(self, action):
        """(degrees [N], m/s [N]) of actions, in JAX: int32 [N], or fp32 [N, 2] that is clipped to -1..1."""
        if self.is_continuous:
            unit = (jnp.clip(action, -1.0, 1.0) + 1.0) * 0.5
            low, high = (np.array([r[k] for r in self.ranges], np.float32) for k in (0, 1))
            both = low + (high - low) * unit
            return both[:, 0], both[:, 1]
        table = np.array(self.choices, np.float32)
        chosen = (jnp.arange(self.n_out, dtype=jnp.int32)[None, :] == action[:, None]).astype(jnp.float32)
        return jnp.sum(chosen * table[:, 0], -1), jnp.sum(chosen * table[:, 1], -1)


@dataclasses.dataclass(frozen=True)
class Metadata:
    actions: Actions
    network: str
    algorithm: str
    version: str
    camera: str = CAMERAS[0]
    scanner: lidar.Lidar | None = None

    @property
    def is_stereo(self) -> bool:
        return self.camera == "STEREO_CAMERAS"

    def net(self, stack: int) -> policy.Network:
        """The network for the last stack images of one camera; two cameras give one pair, as the service does it."""
        n_lidar = self.scanner.n if self.scanner else 0
        return policy.Network(self.network, 2 if self.is_stereo else stack, n_lidar, self.is_stereo)


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    batch_size: int = 64
    num_epochs: int = 5
    lr: float = 0.0003
    beta_entropy: float = 0.01
    discount_factor: float = 0.99
    loss_type: str = "huber"
    num_episodes_between_training: int = 20
    exploration_type: str = "categorical"
    e_greedy_value: float = 0.05
    epsilon_steps: int = 10000
    stack_size: int = 1
    sac_alpha: float = 0.2
    term_cond_max_episodes: int = 1000
    term_cond_avg_score: float = 350.0


# Lowest and highest value of each number.
LIMITS = {
    "batch_size": (1, 8192),
    "num_epochs": (1, 100),
    "lr": (1e-8, 1e-1),
    "beta_entropy": (0, 1),
    "discount_factor": (0, 1),
    "num_episodes_between_training": (1, 1000),
    "e_greedy_value": (0, 1),
    "epsilon_steps": (0, 10**9),
    "stack_size": (1, 16),
    "sac_alpha": (0, 10),
    "term_cond_max_episodes": (1, 10**9),
    "term_cond_avg_score": (0, 10**9),
}
LOSSES = {"huber": True, "mean squared error": False, "mean_squared_error": False}
EXPLORATIONS = ("categorical", "e-greedy")


def _json(path: str) -> dict:
    try:
        with open(path) as f:
            value = json.load(f)
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise BadFile(f"{path}: not JSON: {e}") from e
    if not isinstance(value, dict):
        raise BadFile(f"{path}: the file holds a {type(value).__name__}, not an object {{...}}")
    return value


def _number(path: str, name: str, value, low, high, is_whole=False):
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high or (is_whole and number != int(number)):
        kind = "a whole number" if is_whole else "a number"
        raise BadFile(f"{path}: {name} is {value!r}; it must be {kind} from {low:g} to {high:g}")
    return int(number) if is_whole else number


def hyperparameters(path: str) -> tuple:
    """(Hyperparameters, names in the file that mean nothing here)."""
    given, unknown = {}, []
    fields = {f.name: f for f in dataclasses.fields(Hyperparameters)}
    for name, value in _json(path).items():
        if name not in fields:
            unknown.append(name)
        elif name == "loss_type":
            if str(value).lower() not in LOSSES:
                raise BadFile(f"{path}: loss_type is {value!r}; it must be one of {', '.join(LOSSES)}")
            given[name] = str(value).lower()
        elif name == "exploration_type":
            if str(value).lower() not in EXPLORATIONS:
                raise BadFile(f"{path}: exploration_type is {value!r}; it must be one of {', '.join(EXPLORATIONS)}")
            given[name] = str(value).lower()
        else:
            given[name] = _number(path, name, value, *LIMITS[name], is_whole=fields[name].type in (int, "int"))
    return Hyperparameters(**given), unknown


def metadata(path: str) -> Metadata:
    given = _json(path)
    kind = given.get("action_space_type", "discrete")
    space = given.get("action_space")
    steering, speed = (-MAX_STEERING_DEG, MAX_STEERING_DEG), SPEED_MPS
    if kind == "discrete":
        if not isinstance(space, list) or not 2 <= len(space) <= 30:
            raise BadFile(f"{path}: action_space must be a list of 2 to 30 actions for action_space_type discrete")
        choices = []
        for i, action in enumerate(space):
            if not isinstance(action, dict) or not {"steering_angle", "speed"} <= set(action):
                raise BadFile(f"{path}: action_space[{i}] must be an object with steering_angle and speed")
            choices.append(
                (
                    _number(path, f"action_space[{i}].steering_angle", action["steering_angle"], *steering),
                    _number(path, f"action_space[{i}].speed", action["speed"], *speed),
                )
            )
        actions = Actions(choices=tuple(choices))
    elif kind == "continuous":
        ranges = []
        for name, limits in (("steering_angle", steering), ("speed", speed)):
            part = space.get(name) if isinstance(space, dict) else None
            if not isinstance(part, dict) or not {"low", "high"} <= set(part):
                raise BadFile(f"{path}: action_space.{name} must be an object with low and high")
            low, high = (_number(path, f"action_space.{name}.{k}", part[k], *limits) for k in ("low", "high"))
            if low >= high:
                raise BadFile(f"{path}: action_space.{name}.low is {low:g}, not below high, {high:g}")
            ranges.append((low, high))
        actions = Actions(ranges=tuple(ranges))
    else:
        raise BadFile(f"{path}: action_space_type is {kind!r}; it must be discrete or continuous")
    sees, scans = _sensors(path, given)
    network = given.get("neural_network", policy.DEFAULT)
    if network not in policy.NETWORKS:
        raise BadFile(f"{path}: neural_network is {network!r}; it must be one of {', '.join(policy.NETWORKS)}")
    algorithm = given.get("training_algorithm", "clipped_ppo")
    if algorithm not in ("clipped_ppo", "sac"):
        raise BadFile(f"{path}: training_algorithm is {algorithm!r}; it must be clipped_ppo or sac")
    if algorithm == "sac" and not actions.is_continuous:
        raise BadFile(f"{path}: training_algorithm sac needs action_space_type continuous")
    return Metadata(actions, network, algorithm, str(given.get("version", "5")), sees, scans)


def _sensors(path: str, given: dict):
    """(camera, lidar.Lidar or None) of a model_metadata.json."""
    sensors = given.get("sensor", [CAMERAS[0]])
    sensors = sensors if isinstance(sensors, list) else [sensors]
    for sensor in sensors:
        if sensor not in CAMERAS + lidar.KINDS:
            raise BadFile(f"{path}: no sensor {sensor!r}; use {', '.join(CAMERAS + lidar.KINDS)}")
    cameras, lidars = ([s for s in sensors if s in kinds] for kinds in (CAMERAS, lidar.KINDS))
    if len(cameras) != 1 or len(lidars) > 1:
        raise BadFile(f"{path}: sensor is {sensors}; it must have one camera of {', '.join(CAMERAS)} and at most one lidar")
    if not lidars or lidars[0] != "DISCRETIZED_SECTOR_LIDAR":
        return cameras[0], lidar.Lidar(lidars[0]) if lidars else None
    config = given.get("lidar_config", {})
    if not isinstance(config, dict):
        raise BadFile(f"{path}: lidar_config must be an object")
    sectors = _number(path, "lidar_config.num_sectors", config.get("num_sectors", 8), 1, lidar.BEAMS, is_whole=True)
    if lidar.BEAMS % sectors:
        raise BadFile(f"{path}: lidar_config.num_sectors is {sectors}; it must divide {lidar.BEAMS}, the number of beams")
    values = _number(path, "lidar_config.num_values_per_sector", config.get("num_values_per_sector", 4), 1, 64, is_whole=True)
    reach = lidar.NEAR_M, lidar.FAR_M
    clip = _number(path, "lidar_config.clipping_dist", config.get("clipping_dist", 2.0), *reach)
    return cameras[0], lidar.Lidar(lidars[0], sectors, values, clip)


# Lowest and highest value of each number of a race.
RACE_LIMITS = {
    "number_of_obstacles": (0, 20),
    "number_of_bot_cars": (0, 20),
    "min_distance_between_obstacles": (0, 50),
    "min_distance_between_bot_cars": (0, 100),
    "bot_car_speed": (0.01, 4),
    "lower_lane_change_time": (0.1, 1000),
    "upper_lane_change_time": (0.1, 1000),
    "lane_change_distance": (0.1, 100),
}


def race(path: str, given: dict | None = None) -> objects.Race:
    """The race configuration in the JSON file at path, or in given: NUMBER_OF_OBSTACLES and the other fields of
    objects.Race in capitals, as the service's worlds have them."""
    given = _json(path) if given is None else given
    fields, out = {f.name.upper(): f for f in dataclasses.fields(objects.Race)}, {}
    for key, value in given.items():
        if key not in fields:
            raise BadFile(f"{path}: {key} cannot be simulated; known: {', '.join(fields)}")
        name = fields[key].name
        if name in RACE_LIMITS:
            is_whole = name.startswith("number")
            out[name] = _number(path, key, value, *RACE_LIMITS[name], is_whole=is_whole)
        elif name == "object_positions":
            out[name] = _positions(path, value)
        elif str(value).lower() in ("true", "1", "yes", "false", "0", "no"):
            out[name] = str(value).lower() in ("true", "1", "yes")
        else:
            raise BadFile(f"{path}: {key} is {value!r}; it must be true or false")
    made = objects.Race(**out)
    if made.lower_lane_change_time > made.upper_lane_change_time:
        raise BadFile(f"{path}: LOWER_LANE_CHANGE_TIME is above UPPER_LANE_CHANGE_TIME")
    return made


def _positions(path: str, value) -> tuple:
    """Pairs (part of the track, lane) of OBJECT_POSITIONS: texts "0.25,-1", or pairs of numbers."""
    out = []
    for i, one in enumerate(value if isinstance(value, list) else [None]):
        one = one.split(",") if isinstance(one, str) else one
        if not isinstance(one, (list, tuple)) or len(one) != 2:
            raise BadFile(f'{path}: OBJECT_POSITIONS must be a list of texts "PART,LANE", lane 1 or -1')
        side = _number(path, f"OBJECT_POSITIONS[{i}], the lane,", one[1], -1, 1, is_whole=True)
        if side == 0:
            raise BadFile(f"{path}: OBJECT_POSITIONS[{i}] has lane 0; it must be 1, the inner lane, or -1, the outer one")
        out.append((_number(path, f"OBJECT_POSITIONS[{i}], the part of the track,", one[0], 0, 1), side))
    return tuple(out)


def reward_source(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except UnicodeDecodeError as e:
        raise BadFile(f"{path}: not UTF-8 text: {e}") from e


class Reward:
    """A worker's own copy of the user's module, with its own globals. Cars do not see each other's state, as workers of the
    service do not."""

    def __init__(self, path: str, source: str):
        self.path = path
        self.globals = {"__name__": "reward_function", "__file__": os.path.abspath(path)}
        try:
            exec(compile(source, path, "exec"), self.globals)
        except SyntaxError as e:
            raise BadFile(f"{path}:{e.lineno or 1}: {e.msg}") from e
        except Exception as e:
            raise BadFile(f"{path}:{self.line_of(e)}: the file raised {type(e).__name__}: {e}") from e
        self.function = self.globals.get("reward_function")
        if not callable(self.function):
            raise BadFile(f"{path}: the file defines no function reward_function(params)")

    def line_of(self, error: BaseException) -> int:
        """The last line of the user's file that an exception passed through; 1 if none."""
        line, frame = 1, error.__traceback__
        while frame:
            if frame.tb_frame.f_code.co_filename == self.path:
                line = frame.tb_lineno
            frame = frame.tb_next
        return line

    def __call__(self, params: dict) -> float:
        try:
            value = self.function(params)
        except Exception as e:
            raise BadFile(
                f"{self.path}:{self.line_of(e)}: reward_function raised {type(e).__name__}: {e}; at step "
                f"{params['steps']}, progress {params['progress']:.2f}"
            ) from e
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise BadFile(
                f"{self.path}: reward_function returned {value!r} at step {params['steps']}, progress "
                f"{params['progress']:.2f}; it must return a finite number"
            )
        return number
