"""The simulator as a Gymnasium environment with the id and spaces of `deepracer-v0`.

    import gymnasium, gym_env  # importing it registers the id
    env = gymnasium.make("deepracer-v0", world_name="bend", reward_function=my_function)

The camera sees luminance; its three channels are equal. STEREO_CAMERAS and LIDAR are not simulated."""

import json
import os
import tempfile

import gymnasium
import jax
import numpy as np

import camera
import files
import simulator
import tracks
import world

HERE = os.path.dirname(os.path.abspath(__file__))
TRACK_KEYS = {"WORLD_NAME": "bend", "CHANGE_START_POSITION": "true", "ALTERNATE_DRIVING_DIRECTION": "false"}


def _is_true(value) -> bool:
    return str(value).lower() in ("true", "1", "yes")


class DeepracerGymEnv(gymnasium.Env):
    """One car. agent_config is a dict or the path of a model_metadata.json, track_config a dict of TRACK_KEYS; other keys
    of the container's configuration are refused, since they would change nothing."""

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
        unknown = set(track_config or {}) - set(TRACK_KEYS)
        if unknown:
            raise ValueError(f"track_config: {', '.join(sorted(unknown))} cannot be simulated; known: {', '.join(TRACK_KEYS)}")
        config = TRACK_KEYS | (track_config or {})
        self.track = tracks.load(world_name or config["WORLD_NAME"])
        self.moves_start = _is_true(config["CHANGE_START_POSITION"])
        self.alternates = _is_true(config["ALTERNATE_DRIVING_DIRECTION"])
        if reward_function is None:
            own = os.path.join(HERE, "reward_function.py")
            reward_function = files.Reward(own, files.reward_source(own))
        self.reward_function, self.render_mode = reward_function, render_mode
        box = gymnasium.spaces.Box(0, 255, (3, camera.HEIGHT, camera.WIDTH), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"FRONT_FACING_CAMERA": box})
        if self.agent.actions.is_continuous:
            self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float64)
        else:
            self.action_space = gymnasium.spaces.Discrete(self.agent.actions.n_out)
        self.observer = world.Observer(self.track)
        self.road, self.scene = jax.device_put((simulator.road(self.track), camera.scene(self.track)))
        self._look = jax.jit(lambda scene, s: camera.images(scene, s["x"], s["y"], s["heading"]))
        self._act = jax.jit(self._frame)
        self.episode, self.image = -1, None

    def _frame(self, road, scene, state, action):
        steering, throttle = self.agent.actions.command(action)
        state, seen = simulator.judge(road, state, simulator.drive(state, steering, throttle))
        image = camera.images(scene, state["x"], state["y"], state["heading"])
        return state, image, seen | dict(steering=steering, throttle=throttle)

    def _observation(self, image):
        self.image = np.asarray(image)[0]
        return {"FRONT_FACING_CAMERA": np.repeat(self.image[None], 3, 0)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        # Chance has no part in an episode but for where it begins: a seed begins the round of starts anew.
        self.episode = 0 if seed is not None else self.episode + 1
        self.is_backward = self.alternates and self.episode % 2 == 1
        part = world.START_STEP * self.episode % 1.0 if self.moves_start else 0.0
        self.state = simulator.start(self.track, [part * self.track.length], np.array([self.is_backward]))
        self.time_s, self.is_over = 0.0, False
        return self._observation(self._look(self.scene, self.state)), {}

    def step(self, action):
        if self.image is None or self.is_over:
            raise RuntimeError("the episode is over, or has not begun: call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in the action space {self.action_space}")
        kind = np.float32 if self.agent.actions.is_continuous else np.int32
        self.state, image, seen = self._act(self.road, self.scene, self.state, np.asarray([action], kind))
        self.time_s += simulator.FRAME_S
        seen = {k: np.asarray(v) for k, v in seen.items()} | {"time": np.array([self.time_s])}
        params = self.observer.params(seen, [self.is_backward])[0]
        status = simulator.STATUS[int(seen["status"][0])]
        self.is_over = status != "in_progress"
        truncated = status == "time_up"
        info = {"reward_params": params, "episode_status": status}
        return self._observation(image), float(self.reward_function(params)), self.is_over and not truncated, truncated, info

    def render(self):
        return np.repeat(self.image[..., None], 3, -1)


if "deepracer-v0" not in gymnasium.registry:
    gymnasium.register(id="deepracer-v0", entry_point="gym_env:DeepracerGymEnv")
