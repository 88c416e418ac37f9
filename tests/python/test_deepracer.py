"""examples/deepracer: tracks, camera, car, files, PPO, checkpoints, logs and films, against oracles of NumPy's."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
import zlib

import conftest
import numpy as np
import paths
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")

from deepracer_modules import EXAMPLE, MODULES, example  # noqa: E402, F401 - the fixture is found by its name

globals().update(MODULES)

SEED = int(os.environ.get("VTRN_TEST_SEED", "1"))
COMMAND = paths.BUILD / "src" / "cli" / "vtrn"
DISCRETE = files.Actions(choices=((-30.0, 1.0), (0.0, 1.0), (30.0, 1.0)))
CONTINUOUS = files.Actions(ranges=((-30.0, 30.0), (0.5, 2.0)))
NEURON = jax.devices("neuron")[0]


def on_neuron(function, *args):
    return jax.tree.map(np.asarray, jax.jit(function)(*jax.device_put(args, NEURON)))


# Tracks


@pytest.mark.parametrize("name", tracks.OWN)
def test_our_tracks_close_turn_once_and_have_the_length_that_they_name(name):
    track = tracks.load(name)
    assert track.length == pytest.approx(tracks.OWN[name]["length"], rel=1e-3)
    assert (track.centre[0] == track.centre[-1]).all()
    heading = np.unwrap(track.at((track.along[:-1] + track.along[1:]) / 2)[2])
    assert np.degrees(heading[-1] - heading[0]) == pytest.approx(360, abs=25)
    width = np.hypot(*(track.inner - track.outer).T)
    np.testing.assert_allclose(width, tracks.OWN[name]["width"], rtol=1e-6)
    # Borders do not fold over: each advances with the centre line.
    for border in (track.inner, track.outer):
        assert (np.sum(np.diff(border, axis=0) * np.diff(track.centre, axis=0), 1) > 0).all()


def test_a_route_file_is_read_whether_or_not_it_repeats_its_first_point(tmp_path):
    route = tracks.generate(**tracks.OWN["oval"])
    doubled = np.concatenate([route[:5], route[4:]])
    for name, rows in (("whole", route), ("open", route[:-1]), ("doubled", doubled)):
        np.save(tmp_path / f"{name}.npy", rows)
        track = tracks.load(str(tmp_path / f"{name}.npy"))
        assert track.length == pytest.approx(19.5) and len(track.centre) == len(route) and track.name == name


@pytest.mark.parametrize(
    "route, rule",
    [(np.zeros((9, 5)), "array"), (np.zeros((3, 6)), "N >= 4"), (np.zeros((9, 6)), "narrower"), (np.full((9, 6), np.nan), "finite")],
)
def test_a_route_that_is_none_is_refused(route, rule):
    with pytest.raises(ValueError, match=rule):
        tracks.from_route("mine", route)


def test_an_unknown_track_is_refused_with_the_names_that_there_are():
    with pytest.raises(FileNotFoundError, match=r"oval.*DEEPRACER_TRACKS"):
        tracks.load("nowhere")


# Camera


def is_inside(line, x, y):
    """Even-odd rule, a point at a time."""
    odd = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(line[:-1], line[1:]):
        if ay != by:
            odd ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
    return odd


@pytest.mark.parametrize("name", ["bend", "hairpin"])
def test_the_camera_shows_road_where_the_borders_have_road_between_them(name):
    track = tracks.load(name)
    rng = np.random.default_rng(SEED)
    x, y, heading = track.at(rng.uniform(0, track.length, 5))
    x, y, heading = (np.float32(a) for a in (x + rng.normal(0, 0.1, 5), y, heading + rng.normal(0, 0.3, 5)))
    images = on_neuron(camera.images, camera.scene(track), x, y, heading)
    assert images.shape == (5, camera.HEIGHT, camera.WIDTH) and images.dtype == np.uint8
    # A pinhole camera, ray by ray in float64: x forward, y left, z up.
    u, v = np.meshgrid(np.arange(160) - 79.5, np.arange(120) - 59.5)
    focal = 80 / np.tan(0.565)
    forward = np.cos(0.2618) - v / focal * np.sin(0.2618)
    up = -np.sin(0.2618) - v / focal * np.cos(0.2618)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(up < 0, 0.13 / -up, np.nan)
    gx, gy = 0.145 + t * forward, -t * u / focal
    for i in range(5):
        c, s = np.cos(heading[i]), np.sin(heading[i])
        wx, wy = x[i] + c * gx - s * gy, y[i] + s * gx + c * gy
        is_near = np.isfinite(gx) & (gx < 2.0)
        is_road = is_inside(track.outer, wx, wy) != is_inside(track.inner, wx, wy)
        # Away from the borders, whose white line covers both sides' pixels there.
        gap = np.min(
            [np.hypot(wx[..., None] - b[:, 0], wy[..., None] - b[:, 1]).min(-1) for b in (track.inner, track.outer)], 0
        )
        sure = is_near & (gap > 0.16)
        road, field = images[i][sure & is_road], images[i][sure & ~is_road]
        assert ((road == camera.ROAD) | (road > camera.ROAD + 5)).mean() > 0.99  # asphalt or a dash
        assert (road <= camera.DASH).all()
        if len(field):
            assert (field == camera.FIELD).mean() > 0.97
        assert (images[i][:24] == camera.SKY).all()


@pytest.mark.parametrize("n", [1, 3])
def test_images_are_those_of_jax_on_the_cpu(n):
    track = tracks.load("bend")
    x, y, heading = (np.float32(a) for a in track.at(np.arange(n) * 3.1))
    ours = on_neuron(camera.images, camera.scene(track), x, y, heading).astype(int)
    with jax.default_device(jax.devices("cpu")[0]):
        theirs = np.asarray(jax.jit(camera.images)(camera.scene(track), x, y, heading)).astype(int)
    # A grey that falls on the border between two values may be either.
    assert np.abs(ours - theirs).max() <= 1 and (ours != theirs).mean() < 1e-3


# Car


def driven(steering, speed, n_frames, n=1, track="oval"):
    track = tracks.load(track)
    state = simulator.start(track, np.linspace(0, 5, n), np.zeros(n, bool))
    command = np.full(n, steering, np.float32), np.full(n, speed, np.float32)
    step = jax.jit(simulator.drive)
    states, state, command = [], jax.device_put(state, NEURON), jax.device_put(command, NEURON)
    for _ in range(n_frames):
        state = step(state, *command)
        states.append({k: np.asarray(v) for k, v in state.items()})
    return states


def test_tyres_accelerate_by_what_friction_gives_and_no_more():
    speeds = np.array([s["vx"][0] for s in driven(0, 4.0, 16)])
    gains = np.diff(np.concatenate([[0], speeds])) * 15
    assert gains.max() <= 0.5 * 9.81 * 1.001 and gains[2:10].min() > 4.8
    assert speeds[-1] == pytest.approx(4.0, abs=0.01)


def test_a_slow_car_turns_on_the_circle_that_its_steering_gives():
    state = driven(15, 0.4, 45)[-1]
    radius = np.hypot(state["vx"][0], state["vy"][0]) / state["yaw_rate"][0]
    assert radius == pytest.approx(0.164 / np.tan(np.radians(15)), rel=0.1)


def test_a_fast_car_slides_at_the_limit_of_friction():
    state = driven(15, 3.5, 45)
    for before, after in zip(state[20:], state[21:]):
        moved = [s["vx"] + 1j * s["vy"] for s in (before, after)]
        world_v = [v * np.exp(1j * s["heading"]) for v, s in zip(moved, (before, after))]
        assert np.abs(world_v[1] - world_v[0])[0] * 15 <= 0.5 * 9.81 * 1.01


@pytest.mark.parametrize("n", [1, 31, 33, 127, 129])
def test_cars_do_not_depend_on_how_many_drive(n):
    many, one = driven(-20, 1.5, 4, n), driven(-20, 1.5, 4)
    for a, b in zip(many, one):
        for name in ("vx", "vy", "yaw_rate", "steering"):
            assert (a[name] == b[name][0]).all()


def test_wheels_are_on_the_road_that_the_even_odd_rule_finds():
    track, rng, n = tracks.load("esses"), np.random.default_rng(SEED), 65
    x, y, heading = track.at(rng.uniform(0, track.length, n))
    state = {"x": x + rng.normal(0, 0.4, n), "y": y + rng.normal(0, 0.4, n), "heading": heading + rng.normal(0, 1, n)}
    state = {k: np.float32(v) for k, v in state.items()}
    ours = on_neuron(simulator.wheels_on_road, simulator.road(track), state)
    c, s = np.cos(state["heading"])[:, None], np.sin(state["heading"])[:, None]
    ax, ay = np.array([0.0823, 0.0823, -0.0817, -0.0817]), np.array([0.081, -0.081, 0.081, -0.081])
    wx, wy = state["x"][:, None] + ax * c - ay * s, state["y"][:, None] + ax * s + ay * c
    theirs = is_inside(track.outer, wx, wy) != is_inside(track.inner, wx, wy)
    assert theirs.any() and not theirs.all() and (ours == theirs).mean() > 0.99


def judged(track, cases):
    """Telemetry of pairs (old, new) of changes to a car on the first straight."""
    n = len(cases)
    old = simulator.start(track, np.full(n, 1.0), np.zeros(n, bool))
    new = {k: v.copy() for k, v in old.items()}
    for i, (before, after) in enumerate(cases):
        for state, changes in ((old, before), (new, before | after)):
            for k, v in changes.items():
                state[k][i] = v(state[k][i]) if callable(v) else v
    return on_neuron(simulator.judge, simulator.road(track), old, new)[1]


def test_each_way_to_end_an_episode_has_its_name():
    ahead = {"x": lambda x: x + 0.05}
    seen = judged(
        tracks.load("oval"),
        [
            ({}, ahead),
            ({"progress": 99.9}, ahead),
            ({}, {"y": lambda y: y - 2}),
            ({"still": 14}, {}),
            ({"back": 14}, {"x": lambda x: x - 0.05}),
            ({"steps": 9999}, ahead),
            ({"still": 13}, {}),
            ({"still": 14}, ahead),
        ],
    )
    names = [simulator.STATUS[int(s)] for s in seen["status"]]
    assert names == ["in_progress", "lap_complete", "off_track", "immobilized", "reversed", "time_up", "in_progress", "in_progress"]
    assert seen["progress"][1] == 100 and seen["unbound"][1] == pytest.approx(99.9 + 100 * 0.05 / 19.5, rel=1e-4)


def test_progress_runs_over_the_start_line_both_ways():
    track = tracks.load("oval")
    for is_backward in (False, True):
        s = np.array([19.45 if not is_backward else 0.05])
        old = simulator.start(track, s, np.array([is_backward]))
        old["progress"][:] = 50
        new = dict(old, x=old["x"] + np.float32(0.2 * np.cos(old["heading"])))
        state, seen = on_neuron(simulator.judge, simulator.road(track), old, new)
        assert seen["progress"][0] == pytest.approx(50 + 100 * 0.2 / 19.5, rel=1e-3)


# What reward_function is given

KEYS = {
    "all_wheels_on_track": bool, "x": float, "y": float, "heading": float, "distance_from_center": float,
    "projection_distance": float, "is_left_of_center": bool, "is_reversed": bool, "progress": float, "steps": int,
    "speed": float, "steering_angle": float, "track_width": float, "track_length": float, "waypoints": list,
    "closest_waypoints": list, "is_crashed": bool, "is_offtrack": bool, "sim_time": float, "closest_objects": list,
    "objects_location": list, "objects_distance": list, "objects_distance_from_center": list, "objects_heading": list,
    "objects_speed": list, "objects_left_of_center": list, "object_in_camera": bool,
}  # fmt: skip


@pytest.mark.parametrize("is_backward", [False, True])
def test_params_say_where_the_car_is(is_backward):
    track, rng, n = tracks.load("bend"), np.random.default_rng(SEED), 40
    s = rng.uniform(0, track.length, n)
    x, y, heading = track.at(s)
    side = rng.uniform(-0.3, 0.3, n)  # to the left of the waypoints' order
    seen = dict(
        x=x - side * np.sin(heading), y=y + side * np.cos(heading), heading=heading, wheels=np.full(n, 4.0),
        progress=np.full(n, 12.5), steps=np.full(n, 7.0), status=np.zeros(n), throttle=np.full(n, 1.0),
        steering=np.full(n, -15.0), time=np.full(n, 0.5),
    )  # fmt: skip
    params = world.Observer(track).params(seen, np.full(n, is_backward))
    dense = np.linspace(0, track.length, 40001)
    points = np.stack(track.at(dense)[:2], 1)
    for i, p in enumerate(params):
        assert {k: type(v) for k, v in p.items()} == KEYS
        far = np.hypot(points[:, 0] - p["x"], points[:, 1] - p["y"])
        along = dense[np.argmin(far)]
        along = track.length - along if is_backward else along
        assert p["distance_from_center"] == pytest.approx(far.min(), abs=1e-3)
        assert abs((p["projection_distance"] - along + 1) % track.length - 1) < 0.02
        if abs(side[i]) > 0.01:
            assert p["is_left_of_center"] == ((side[i] > 0) != is_backward)
        assert p["track_width"] == pytest.approx(0.76, abs=0.03) and p["is_reversed"] is is_backward
        behind, ahead = p["closest_waypoints"]
        assert ahead == (behind + 1) % (len(p["waypoints"]) - 1)
    assert params[0]["waypoints"][1] == pytest.approx(tuple(track.centre[-2 if is_backward else 1]))


def test_each_car_has_a_reward_module_of_its_own():
    source = "n = 0\ndef reward_function(params):\n    global n\n    n += 1\n    return n\n"
    a, b = (files.Reward("mine.py", source) for _ in range(2))
    assert [a({}), a({}), b({})] == [1.0, 2.0, 1.0]


@pytest.mark.parametrize("value", ["None", "float('nan')", "'x'"])
def test_a_reward_that_is_no_number_is_refused(value):
    reward = files.Reward("mine.py", f"def reward_function(params):\n    return {value}\n")
    with pytest.raises(files.BadFile, match="finite number"):
        reward({"steps": 3, "progress": 1.0})


# The three files


def written(path, **value):
    path.write_text(json.dumps(value))
    return str(path)


def test_metadata_of_both_kinds_is_read(tmp_path):
    turn = [{"steering_angle": a, "speed": 0.6, "index": i} for i, a in enumerate((-30, 0, 30))]
    told = files.metadata(written(tmp_path / "d", action_space=turn, sensor=["FRONT_FACING_CAMERA"], version="5"))
    assert told.actions.choices == ((-30, 0.6), (0, 0.6), (30, 0.6)) and told.network == policy.DEFAULT
    assert told.net(3) == policy.Network(channels=3)
    space = {"speed": {"low": 0.5, "high": 4}, "steering_angle": {"low": -30, "high": 20}}
    told = files.metadata(written(tmp_path / "c", action_space=space, action_space_type="continuous"))
    steering, speed = on_neuron(told.actions.command, np.float32([[-1, -1], [0, 0], [1, 1], [9, -9]]))
    np.testing.assert_allclose(steering, [-30, -5, 20, 20])
    np.testing.assert_allclose(speed, [0.5, 2.25, 4, 0.5])


@pytest.mark.parametrize(
    "change, rule",
    [
        (dict(action_space=[]), "2 to 30 actions"),
        (dict(action_space=[{"speed": 1}] * 2), r"action_space\[0\] must be"),
        (dict(action_space=[{"speed": 9, "steering_angle": 0}] * 2), r"speed is 9; it must be a number from 0.1 to 4"),
        (dict(action_space=[{"speed": 1, "steering_angle": 31}] * 2), "steering_angle is 31"),
        (dict(sensor=["LIDAR"]), "one camera"),
        (dict(sensor=["LEFT_CAMERA", "STEREO_CAMERAS"]), "one camera"),
        (dict(sensor=["LEFT_CAMERA", "LIDAR", "SECTOR_LIDAR"]), "at most one lidar"),
        (dict(sensor=["SONAR"]), "no sensor"),
        (dict(sensor=["LEFT_CAMERA", "DISCRETIZED_SECTOR_LIDAR"], lidar_config={"num_sectors": 7}), "must divide 64"),
        (dict(neural_network="WIDE"), "neural_network is 'WIDE'"),
        (dict(training_algorithm="dqn"), "training_algorithm is 'dqn'"),
        (dict(training_algorithm="sac"), "sac needs action_space_type continuous"),
        (dict(action_space_type="fuzzy"), "action_space_type"),
    ],
)
def test_metadata_that_breaks_a_rule_is_refused(tmp_path, change, rule):
    good = dict(action_space=[{"steering_angle": 0, "speed": 1}] * 2)
    with pytest.raises(files.BadFile, match=rule):
        files.metadata(written(tmp_path / "m.json", **(good | change)))


def test_hyperparameters_are_read_also_as_text_and_refused_out_of_range(tmp_path):
    told, unknown = files.hyperparameters(
        written(tmp_path / "h.json", batch_size="128", lr="0.001", loss_type="Mean squared error", colour="red")
    )
    assert (told.batch_size, told.lr, told.loss_type, unknown) == (128, 0.001, "mean squared error", ["colour"])
    for change in (dict(lr=2), dict(batch_size=1.5), dict(loss_type="l3"), dict(discount_factor="much"), dict(lr=True)):
        with pytest.raises(files.BadFile, match=next(iter(change))):
            files.hyperparameters(written(tmp_path / "h.json", **change))


@pytest.mark.parametrize(
    "source, rules",
    [
        ("import math\n\n\ndef reward_function(params):\n    return math.sqrt(params['speed'])\n", []),
        ("import os\n\n\ndef reward_function(params):\n    return 1.0\n", ["import"]),
        ("def reward_function(params):\n    import math\n    return math.pi\n", ["import"]),
        ("def reward_function(params):\n    return eval('1')\n", ["call"]),
        ("def reward_function(params):\n    return params['payload']\n", ["word"]),
        ("def reward(params):\n    return 1.0\n", ["function"]),
        ("def reward_function(params)\n    return 1.0\n", ["syntax"]),
        ("def reward_function(params):\n    return params['nothing']\n", ["call"]),
        ("def reward_function(params):\n    return 1.0\n" + "#" * 140_000, ["length"]),
    ],
)
def test_check_finds_what_the_service_refuses(tmp_path, monkeypatch, source, rules):
    monkeypatch.setattr(check, "flake8_findings", lambda path: [])
    path = tmp_path / "reward_function.py"
    path.write_text(source)
    found, values = check.findings(str(path))
    assert [rule for _, rule, _ in found] == rules and (values is None) == bool(rules)


def test_check_ends_a_reward_that_does_not_return(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "MOST_SECONDS", 0.3)
    path = tmp_path / "reward_function.py"
    path.write_text("def reward_function(params):\n    while True:\n        pass\n")
    assert [rule for _, rule, _ in check.findings(str(path))[0]] == ["time"]


# Policy and update


@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_probabilities_are_those_of_the_distributions(actions):
    rng = np.random.default_rng(SEED)
    out = rng.normal(size=(33, actions.n_out)).astype(np.float32)
    params = {"log_std": np.float32([-0.5, 0.2])}
    noise = rng.gumbel(size=out.shape) if actions is DISCRETE else rng.normal(size=out.shape)
    noise = noise.astype(np.float32)
    action = on_neuron(lambda o, n: policy.sample(actions, params, o, n), out, noise)
    log_p, entropy = on_neuron(lambda o, a: policy.log_prob(actions, params, o, a), out, action)
    o = out.astype(np.float64)
    if actions is DISCRETE:
        p = np.exp(o) / np.exp(o).sum(1, keepdims=True)
        assert (action == np.argmax(out + noise, 1)).all()
        want, spread = np.log(p[np.arange(33), action]), -(p * np.log(p)).sum(1)
    else:
        std = np.exp([-0.5, 0.2])
        want = (-0.5 * ((action - np.tanh(o)) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))).sum(1)
        spread = np.full(33, np.sum(np.log(std * np.sqrt(2 * np.pi * np.e))))
    np.testing.assert_allclose(log_p, want, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(entropy, spread, rtol=2e-5)


def test_advantages_are_the_sums_that_define_them():
    rng = np.random.default_rng(SEED)
    steps, cars, discount = 13, 3, 0.9
    rewards, values = rng.normal(size=(steps, cars)), rng.normal(size=(steps + 1, cars))
    is_end = rng.random((steps, cars)) < 0.2
    advantage, target = ppo.advantages(rewards, values, is_end, discount)
    for c in range(cars):
        for t in range(steps):
            want, weight = 0.0, 1.0
            for k in range(t, steps):
                after = 0.0 if is_end[k, c] else values[k + 1, c]
                want += weight * (rewards[k, c] * (1 - discount) + discount * after - values[k, c])
                weight *= discount * ppo.GAE_LAMBDA
                if is_end[k, c]:
                    break
            assert advantage[t, c] == pytest.approx(want, abs=1e-5)
            assert target[t, c] == pytest.approx(want + values[t, c], abs=1e-5)


def minibatch(network, actions, rng, size):
    if actions.is_continuous:
        action = rng.normal(size=(size, 2)).astype(np.float32)
    else:
        action = rng.integers(0, actions.n_out, size).astype(np.int32)
    floats = {k: rng.normal(size=size).astype(np.float32) for k in ("log_p", "advantage", "target")}
    floats["log_p"] = floats["log_p"] * np.float32(0.1) - np.float32(1.1)
    return sensed(network, rng, size) | {"action": action} | floats


def sensed(network, rng, size, prefix=""):
    out = {f"{prefix}image": rng.integers(0, 256, (size, 120, 160, network.channels), dtype=np.uint8)}
    if network.n_lidar:
        out[f"{prefix}lidar"] = rng.random((size, network.n_lidar), np.float32)
    return out


NETS = [policy.Network(name) for name in policy.NETWORKS]
SENSES = [policy.Network(policy.DEFAULT, 2, 0, True), policy.Network("DEEP_CONVOLUTIONAL_NETWORK", 2, 8, True)]


def is_the_update_of_the_cpu(grads, *args):
    ours, theirs = on_neuron(grads, *args), None
    with jax.default_device(jax.devices("cpu")[0]):
        theirs = jax.tree.map(np.asarray, jax.jit(grads)(*args))
    np.testing.assert_allclose(ours[0][1], theirs[0][1], rtol=1e-4, atol=1e-5)
    for name, g in theirs[1].items():
        np.testing.assert_allclose(ours[1][name], g, rtol=1e-3, atol=1e-4 * max(1e-3, np.abs(g).max()), err_msg=name)


@pytest.mark.parametrize(
    "network, actions", [(n, DISCRETE) for n in NETS + SENSES] + [(NETS[0], CONTINUOUS)], ids=lambda v: getattr(v, "name", "")
)
def test_an_update_is_that_of_jax_on_the_cpu(network, actions):
    params = policy.init(network, actions, SEED)
    batch = minibatch(network, actions, np.random.default_rng(SEED), 3)
    loss = ppo.Loss(network, actions, 0.01, True)
    grads = jax.value_and_grad(lambda p, b: loss(p, b, np.float32(0.2)), has_aux=True)
    is_the_update_of_the_cpu(grads, params, batch)


def test_the_shallow_network_has_the_size_of_the_services():
    params = policy.init(policy.Network(), DISCRETE, 0)
    trunk = sum(v.size for k, v in params.items() if k.startswith(("conv", "dense")))
    assert trunk == 2080 + 32832 + 36928 + 5767680
    assert policy.n_macs(policy.Network(), 0) == pytest.approx(22.2e6, rel=0.01)


def test_adam_is_the_textbooks():
    rng = np.random.default_rng(SEED)
    p, m, v = {"w": rng.normal(size=7).astype(np.float32)}, np.zeros(7), np.zeros(7)
    state, want = ppo.init_adam(p), p["w"].astype(np.float64)
    for t in range(1, 4):
        g = rng.normal(size=7).astype(np.float32)
        p, state = on_neuron(lambda p, s, g: ppo.adam(p, s, {"w": g}, 0.01), p, state, g)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.astype(np.float64) ** 2
        want -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-5)
    np.testing.assert_allclose(p["w"], want, rtol=1e-4)


ROAD_WORKS = objects.Race(number_of_obstacles=2, number_of_bot_cars=2, is_lane_change=True)
STEREO_RACE = world.Setup(policy.Network(policy.DEFAULT, 2, 8, True), DISCRETE, ROAD_WORKS, lidar.Lidar("SECTOR_LIDAR"))
SAC_RACE = world.Setup(policy.Network(n_lidar=64), CONTINUOUS, ROAD_WORKS, lidar.Lidar("LIDAR"), True)


@pytest.mark.skipif(not COMMAND.exists(), reason="no vtrn command was built")
@pytest.mark.parametrize(
    "setup",
    [world.Setup(policy.Network(n.name, 2), DISCRETE) for n in NETS]
    + [world.Setup(policy.Network(channels=2), CONTINUOUS), STEREO_RACE, SAC_RACE],
    ids=lambda s: f"{s.network.name}-{'sac' if s.is_sac else 'ppo'}-{s.race.n}-{s.actions.n_out}",
)
def test_no_part_of_the_loop_has_a_reference_op(tmp_path, monkeypatch, setup):
    monkeypatch.setenv("VTRN_COMMAND", str(COMMAND))
    programs = report.programs(setup, tracks.load("bend"), 2, 4)
    times = report.chip_times(programs, "trn1", str(tmp_path))
    assert {k: t["reference_ops"] for k, t in times.items()} == dict.fromkeys(programs, 0)
    cost = report.bill(times, steps=3000, updates=10, n_cars=2, dollars_per_hour=3600.0)
    frames = (cost.dollars[k] for k in ("camera", "policy", "physics and rest"))
    assert sum(frames) == pytest.approx(1500 * times["frame"]["step_ns"] * 1e-9)
    assert cost.service_dollars == pytest.approx(3000 / 15 / 3600 * 3.5)


# A training, its checkpoint and its log


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Arguments of a training of seconds, and its files."""
    directory = tmp_path_factory.mktemp("files")
    turns = [{"steering_angle": a, "speed": 2.0} for a in (-30, 30)]
    written(directory / "m.json", action_space=turns, sensor=["FRONT_FACING_CAMERA"])
    written(directory / "h.json", batch_size=8, num_epochs=1, num_episodes_between_training=100)
    # Waypoints, heading, closest_waypoints and a state that is kept between calls.
    (directory / "r.py").write_text(
        "import math\nlast = {'steps': 0}\n\n\ndef reward_function(params):\n"
        "    a, b = (params['waypoints'][i] for i in params['closest_waypoints'])\n"
        "    way = math.degrees(math.atan2(b[1] - a[1], b[0] - a[0]))\n"
        "    off = abs((way - params['heading'] + 180) % 360 - 180)\n"
        "    assert params['steps'] in (1, last['steps'] + 1)\n"
        "    last['steps'] = params['steps']\n"
        "    print('HEADING', round(off))\n"
        "    return max(1e-3, 1 - off / 90) * params['progress'] / params['steps']\n"
    )
    argv = ["--track", "oval", "--cars", "3", "--max-steps", "60"]
    for name, file in (("reward", "r.py"), ("metadata", "m.json"), ("hyperparameters", "h.json")):
        argv += [f"--{name}", str(directory / file)]
    return argv


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert train.main([*small, "--iterations", "2", "--out", str(out)]) == 0
    return out


def checkpoint(directory):
    with np.load(directory / "checkpoint.npz") as file:
        arrays = {k: file[k] for k in file.files}
    return json.loads(str(arrays.pop("about"))), arrays


def test_a_training_that_goes_on_from_its_checkpoint_has_the_bits_of_one_without_a_stop(small, trained, tmp_path):
    assert train.main([*small, "--iterations", "1", "--out", str(tmp_path)]) == 0
    with open(tmp_path / "training.log", "a") as log:
        log.write("SIM_TRACE_LOG: of an iteration that a kill cut off\n")
    assert train.main([*small, "--iterations", "2", "--out", str(tmp_path), "--resume"]) == 0
    (ours, arrays), (theirs, whole) = checkpoint(tmp_path), checkpoint(trained)
    assert arrays.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    assert ours["rng"] == theirs["rng"] and ours["episodes"] == theirs["episodes"]
    logs = [(d / "training.log").read_text().splitlines() for d in (tmp_path, trained)]
    assert len(logs[0]) == len(logs[1]) and not any("cut off" in line for line in logs[0])
    traces = [sorted((d / "training-simtrace").iterdir()) for d in (tmp_path, trained)]
    for a, b in zip(*traces):
        rows = [[r[:-1] for r in csv.reader(p.open())] for p in (a, b)]  # all but the wall clock
        assert rows[0] == rows[1]


def test_resume_refuses_another_training(small, trained, capsys):
    argv = [*small, "--resume", "--out", str(trained)]
    assert train.main([*argv, "--cars", "4"]) == 2
    assert "was made with cars 3, this run has 4" in capsys.readouterr().err


def test_the_log_is_the_trace_and_holds_what_the_reward_printed(trained):
    text = (trained / "training.log").read_text().splitlines()
    lines = [line.removeprefix("SIM_TRACE_LOG:").split(",") for line in text if line.startswith("SIM_TRACE_LOG:")]
    rows = [r for i in (0, 1) for r in simtrace.read_csv(str(trained / "training-simtrace" / f"{i}-iteration.csv"))]
    assert [list(r.values()) for r in rows] == lines and list(rows[0]) == list(simtrace.COLUMNS)
    steps = [r for r in rows if r["episode_status"] != "prepare"]
    assert len(steps) == 2 * 60 == sum(line.startswith("HEADING") for line in text)
    for number in {r["episode"] for r in rows}:
        mine = [r for r in rows if r["episode"] == number]
        assert mine[0]["episode_status"] == "prepare"
        assert [int(r["steps"]) for r in mine] == list(range(len(mine)))
        np.testing.assert_allclose(np.diff([float(r["tstamp"]) for r in mine]), 1 / 15, atol=2e-6)


def test_deepracer_utils_reads_the_log(trained, monkeypatch):
    monkeypatch.delitem(sys.modules, "deepracer", raising=False)  # the benchmark of that name
    logs = pytest.importorskip("deepracer.logs", reason="deepracer-utils is not installed")
    data = logs.SimulationLogsIO.load_data(str(trained / "training.log"))
    frame = logs.SimulationLogsIO.convert_to_pandas(data)
    told = logs.AnalysisUtils.simulation_agg(frame)
    rows = [r for i in (0, 1) for r in simtrace.read_csv(str(trained / "training-simtrace" / f"{i}-iteration.csv"))]
    for _, episode in told.iterrows():
        mine = [r for r in rows if int(r["episode"]) == episode["episode"]]
        n = len(mine) - 1
        if n == episode["steps"]:  # episodes that two iterations share are cut there
            assert abs(episode["time"] - n / 15) < 1 / 15
            assert episode["progress"] == pytest.approx(float(mine[-1]["progress"]))


def test_a_reward_that_raises_ends_the_run_with_its_line(small, tmp_path, capsys):
    (tmp_path / "r.py").write_text("def reward_function(params):\n    return params['nothing']\n")
    assert train.main([*small, "--reward", str(tmp_path / "r.py"), "--out", str(tmp_path)]) == 2
    assert "r.py:2: reward_function raised KeyError: 'nothing'; at step 1" in capsys.readouterr().err


def test_a_broken_file_ends_the_run_with_one_line(small, tmp_path, capsys):
    bad = tmp_path / "m.json"
    bad.write_text("{")
    assert train.main([*small, "--metadata", str(bad), "--out", str(tmp_path)]) == 2
    assert "m.json: not JSON" in capsys.readouterr().err


# Races and films


class Scripted(world.World):
    """A car that steers for the centre line, whatever the networks say: a race's rules need no trained one."""

    def step(self, params, rng=None, is_greedy=False, start=None):
        state = {k: np.asarray(v) for k, v in (start if self.is_new[0] else self.state).items()}
        point = self.track.at(state["s"].astype(np.float64) + 0.35)
        ahead = simulator.REPORTED_AHEAD_M
        x, y = state["x"] + ahead * np.cos(state["heading"]), state["y"] + ahead * np.sin(state["heading"])
        off = np.arctan2(point[1] - y, point[0] - x) - state["heading"]
        off = (off + np.pi) % (2 * np.pi) - np.pi
        params = params | {"action_bias": np.float32([np.clip(off[0] * 3, -1, 1), self.throttle])}
        return super().step(jax.device_put(params, self.device), rng, is_greedy, start)


def a_race(monkeypatch, throttle, n_laps, track="oval"):
    space = files.Actions(ranges=((-30.0, 30.0), (0.5, 4.0)))
    params = policy.init(policy.Network(), space, 0)
    params["action"] = np.zeros_like(params["action"])
    monkeypatch.setattr(Scripted, "throttle", throttle, raising=False)
    monkeypatch.setattr(world, "World", Scripted)
    reward = files.Reward("r.py", "def reward_function(params):\n    return params['speed']\n")
    driver = evaluate.Driver(params, files.Metadata(space, policy.DEFAULT, "clipped_ppo", "5"), 1, track, reward)
    return evaluate.race(driver, tracks.load(track), n_laps, 5.0, NEURON)


def laps_by_deepracer_utils(path, monkeypatch):
    """Seconds of each lap as deepracer-utils counts them; None where it is not installed."""
    monkeypatch.delitem(sys.modules, "deepracer", raising=False)
    if not importlib.util.find_spec("deepracer"):
        return None
    logs = importlib.import_module("deepracer.logs")
    frame = logs.SimulationLogsIO.convert_to_pandas(logs.SimulationLogsIO.load_data(path))
    told = logs.AnalysisUtils.simulation_agg(frame, is_eval=True).sort_values("episode")
    assert (told["complete"] == 1).all()
    return told["time"].tolist()


def test_laps_are_timed_at_the_line_and_agree_with_the_log(monkeypatch, tmp_path):
    result = a_race(monkeypatch, -0.3, 2)  # tanh(-0.3) of 0.5..4: 1.74 m/s
    if any(lap["faults"] for lap in result.laps):
        pytest.fail(f"the scripted car left the road: {result.laps}")
    simtrace.write_csv(str(tmp_path / "t" / "0.csv"), result.rows)
    rows = simtrace.read_csv(str(tmp_path / "t" / "0.csv"))
    for lap in result.laps:
        stamps = [float(r["tstamp"]) for r in rows if int(r["episode"]) == lap["lap"] - 1]
        assert 0 <= max(stamps) - min(stamps) - lap["seconds"] <= 1 / 15 + 1e-6
    with open(tmp_path / "evaluation.log", "w") as log:
        simtrace.write_log(log, result.rows)
    told = laps_by_deepracer_utils(str(tmp_path / "evaluation.log"), monkeypatch)
    for lap, seconds in zip(result.laps, told or []):
        assert abs(seconds - lap["seconds"]) < 1 / 15
    total = sum(lap["seconds"] for lap in result.laps)
    assert 0 <= result.frames[-1]["time"] - total <= 1 / 15
    assert [r["episode_status"] for r in rows].count("lap_complete") == 2


def test_leaving_the_road_costs_the_penalty_and_a_metre(monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_FAULTS", 2)
    result = a_race(monkeypatch, 3.0, 1)  # as fast as it goes: it slides off in the first bend
    off = [f for f in result.frames if f["status"] != "in_progress"]
    assert len(off) == 2 and result.laps == []
    i = result.frames.index(off[0])
    assert result.frames[i + 1]["time"] - off[0]["time"] == pytest.approx(5 + 1 / 15)
    assert off[0]["progress"] - result.frames[i + 1]["progress"] == pytest.approx(100 / 19.5, abs=0.5)


def test_the_film_is_one_file_with_every_frame(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "MOST_FAULTS", 1)
    result = a_race(monkeypatch, 3.0, 1)
    film.write_html(str(tmp_path / "film.html"), tracks.load("oval"), result)
    page = (tmp_path / "film.html").read_text()
    assert "http" not in page.replace("data:image", "") and "/*DATA*/" not in page
    data = json.loads(page.split("const data = ", 1)[1].split(";\n", 1)[0].replace("<\\/", "</"))
    assert len(data["frames"]) == len(data["images"]) == len(result.frames)


def gif_pixels(data):
    """The frames of a GIF of one palette: a decoder of its own."""
    assert data[:6] == b"GIF89a"
    columns, rows = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    at, frames = 13 + 768, []
    while data[at] != 0x3B:
        if data[at] == 0x21:
            at += 2
        else:
            at += 11
        blocks = []
        while data[at]:
            blocks.append(data[at + 1 : at + 1 + data[at]])
            at += 1 + data[at]
        at += 1
        if data[at - 1 - sum(len(b) + 1 for b in blocks) - 1] == 8 and len(blocks) and len(b"".join(blocks)) > 16:
            frames.append(lzw(b"".join(blocks))[: columns * rows])
    return frames, rows, columns


def lzw(data):
    bits, n_bits, at, width, out = 0, 0, 0, 9, bytearray()
    table, last = [bytes([i]) for i in range(256)] + [b"", b""], None
    while True:
        while n_bits < width:
            bits |= data[at] << n_bits
            n_bits, at = n_bits + 8, at + 1
        code, bits, n_bits = bits & ((1 << width) - 1), bits >> width, n_bits - width
        if code == 256:
            table, last, width = table[:258], None, 9
        elif code == 257:
            return bytes(out)
        else:
            word = table[code] if code < len(table) else last + last[:1]
            if last is not None:
                table.append(last + word[:1])
            out += word
            last = word
            if len(table) == 1 << width and width < 12:
                width += 1


@pytest.mark.parametrize("kind", ["flat", "noise"])
def test_a_gif_decodes_to_its_images(kind):
    rng = np.random.default_rng(SEED)
    images = [np.full((40, 97), 7, np.uint8) if kind == "flat" else rng.integers(0, 256, (40, 97), dtype=np.uint8)]
    frames, rows, columns = gif_pixels(film.gif(images * 2, 0.2))
    assert (rows, columns) == (40, 97) and len(frames) == 2
    assert all(f == images[0].tobytes() for f in frames)


def test_a_png_decodes_to_its_image():
    image = np.random.default_rng(SEED).integers(0, 256, (31, 33), dtype=np.uint8)
    data = film.png(image)
    start = data.index(b"IDAT") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    lines = np.frombuffer(zlib.decompress(data[start : start + size]), np.uint8).reshape(31, 34)
    assert (lines[:, 1:] == image).all() and (lines[:, 0] == 0).all()


def test_a_checkpoint_races_and_reports(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "MOST_FAULTS", 1)
    argv = [str(trained / "checkpoint.npz"), "--laps", "1", "--film", str(tmp_path / "f.html"), "--gif", str(tmp_path / "f.gif")]
    assert evaluate.main(argv) == 1  # it has learnt nothing in two iterations
    assert "not finished: 0 of 1 laps" in capsys.readouterr().out
    assert (trained / "evaluation-simtrace" / "0-iteration.csv").exists() and (tmp_path / "f.gif").stat().st_size > 1000


@pytest.mark.skipif(not COMMAND.exists(), reason="no vtrn command was built")
def test_the_report_has_every_part_and_the_exported_policy_answers_as_the_checkpoint(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("VTRN_COMMAND", str(COMMAND))
    assert report.main([str(trained), "--export"]) == 0
    said = capsys.readouterr().out
    for part in ("camera", "policy", "update", "the DeepRacer service", "batch 1 on inf2", "reference ops"):
        assert part in said
    driver = evaluate.read(str(trained / "checkpoint.npz"))
    image = np.random.default_rng(SEED).integers(0, 256, (1, 120, 160, 1), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    artifact = str(trained / "programs" / "trained_policy.vhlo")
    command = [str(COMMAND), "run", artifact, "--input", str(tmp_path / "image.npy"), "--chip", "inf2", "-o", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    with jax.default_device(jax.devices("cpu")[0]):
        out, value = (np.asarray(a, np.float64) for a in policy.apply(driver.setup.network, driver.params, image))
    want = np.exp(out) / np.exp(out).sum()
    np.testing.assert_allclose(np.load(tmp_path / "out0.npy"), want, rtol=1e-4)
    np.testing.assert_allclose(np.load(tmp_path / "out1.npy"), value, rtol=1e-3, atol=1e-4)


def test_gymnasium_has_the_spaces_of_deepracer_v0():
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    import gym_env  # noqa: F401
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("deepracer-v0", world_name="oval", reward_function=lambda params: params["progress"])
    check_env(env.unwrapped)
    env.reset(seed=0)
    over = False
    while not over:
        observation, reward, over, _, info = env.step(0)
    assert info["episode_status"] == "off_track" and reward == info["reward_params"]["progress"]
    assert env.observation_space.contains(observation)
