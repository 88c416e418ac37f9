"""The simulator as a Gymnasium environment with the id and spaces of `deepracer-v0`.

    import gymnasium, gym_env  # importing it registers the id
    env = gymnasium.make("deepracer-v0", world_name="bend", reward_function=my_function)

The camera sees luminance; its three channels are equal. LIDAR gives metres, sectors what the network would be given."""

import functools
import json
import os
import tempfile

import gymnasium
import jax
import numpy as np

import camera
import files
import lidar
import objects
import simulator
import tracks
import world

HERE = os.path.dirname(os.path.abspath(__file__))
TRACK_KEYS = {"WORLD_NAME": "bend", "CHANGE_START_POSITION": "true", "ALTERNATE_DRIVING_DIRECTION": "false"}


def _is_true(value) -> bool:
    return str(value).lower() in ("true", "1", "yes")


class DeepracerGymEnv(gymnasium.Env):
    """One car. agent_config is a dict or the path of a model_metadata.json, track_config a dict of TRACK_KEYS and of what
    files.race reads; other keys of the container's configuration are refused, since they would change nothing."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self, agent_config=None, track_config=None, reward_function=None, world_name=None, render_mode="rgb_array"
    ):
        path = agent_config or os.path.join(HERE, "model_metadata.json")
        if isinstance(path, dict):
            with tempfile.TemporaryDirectory() as directory:
                path = os.path.join(directory, "agent_config")
                with open(path, "w") as f:
                    json.dump(agent_config, f)
                self.agent = files.metadata(path)
        else:
            self.agent = files.metadata(path)
        given = track_config or {}
        race = files.race("track_config", {k: v for k, v in given.items() if k not in TRACK_KEYS})
        config = TRACK_KEYS | given
        self.track = tracks.load(world_name or config["WORLD_NAME"])
        self.moves_start = _is_true(config["CHANGE_START_POSITION"])
        self.alternates = _is_true(config["ALTERNATE_DRIVING_DIRECTION"])
        if reward_function is None:
            own = os.path.join(HERE, "reward_function.py")
            reward_function = files.Reward(own, files.reward_source(own))
        self.reward_function, self.render_mode = reward_function, render_mode
        self.setup = world.setup(self.agent, 1, race)
        self.observation_space = gymnasium.spaces.Dict(self._spaces())
        if self.agent.actions.is_continuous:
            self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
        else:
            self.action_space = gymnasium.spaces.Discrete(self.agent.actions.n_out)
        self.observer = world.Observer(self.track, race)
        self.place = jax.device_put({"road": simulator.road(self.track), "scene": camera.scene(self.track)})
        self._look = jax.jit(functools.partial(world.sense, self.setup))
        self._act = jax.jit(self._frame)
        self.episode, self.image = -1, None

    def _spaces(self) -> dict:
        rows = 2 if self.agent.is_stereo else 3
        spaces = {self.agent.camera: gymnasium.spaces.Box(0, 255, (rows, camera.HEIGHT, camera.WIDTH), np.uint8)}
        scanner = self.agent.scanner
        if scanner:
            low, high = lidar.CLIP_M if scanner.kind == "LIDAR" else (0.0, 1.0)
            spaces[scanner.kind] = gymnasium.spaces.Box(low, high, (scanner.n,), np.float32)
        return spaces

    def _frame(self, place, state, action, noise):
        steering, throttle = self.agent.actions.command(action)
        driven = simulator.drive(state, steering, throttle)
        state, seen = simulator.judge(place["road"], state, driven, self.setup.race)
        return state, world.sense(self.setup, place, state, noise), seen | dict(steering=steering, throttle=throttle)

    def _noise(self) -> dict:
        return {"lidar": self.np_random.standard_normal((1, lidar.BEAMS)).astype(np.float32)}

    def _observation(self, sensed):
        self.image, scan = np.asarray(sensed[0])[0], sensed[1]
        image = np.moveaxis(self.image, -1, 0)
        seen = {self.agent.camera: image if self.agent.is_stereo else np.repeat(image, 3, 0)}
        return seen if scan is None else seen | {self.agent.scanner.kind: np.asarray(scan)[0]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        # Chance places objects and adds the lidar's noise; a seed begins the round of starts anew.
        self.episode = 0 if seed is not None else self.episode + 1
        self.is_backward = self.alternates and self.episode % 2 == 1
        part = world.START_STEP * self.episode % 1.0 if self.moves_start else 0.0
        chance = int(self.np_random.integers(1 << 31))
        layouts = [objects.layout(self.track, self.setup.race, chance)] if self.setup.race.n else ()
        self.state = simulator.start(self.track, [part * self.track.length], np.array([self.is_backward]), layouts)
        self.time_s, self.is_over = 0.0, False
        return self._observation(self._look(self.place, self.state, self._noise())), {}

    def step(self, action):
        if self.image is None or self.is_over:
            raise RuntimeError("the episode is over, or has not begun: call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in the action space {self.action_space}")
        kind = np.float32 if self.agent.actions.is_continuous else np.int32
        self.state, sensed, seen = self._act(self.place, self.state, np.asarray([action], kind), self._noise())
        self.time_s += simulator.FRAME_S
        seen = {k: np.asarray(v) for k, v in seen.items()} | {"time": np.array([self.time_s])}
        params = self.observer.params(seen, [self.is_backward])[0]
        status = simulator.STATUS[int(seen["status"][0])]
        self.is_over = status != "in_progress"
        truncated = status == "time_up"
        info = {"reward_params": params, "episode_status": status}
        reward = 1e-8 if status == "crashed" else float(self.reward_function(params))
        return self._observation(sensed), reward, self.is_over and not truncated, truncated, info

    def render(self):
        return np.repeat(self.image[..., :1], 3, -1)


if "deepracer-v0" not in gymnasium.registry:
    gymnasium.register(id="deepracer-v0", entry_point="gym_env:DeepracerGymEnv")
