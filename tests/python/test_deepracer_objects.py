"""examples/deepracer: objects on the road, what camera, lidar and reward function see of them, and SAC."""

import json
import os

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")

from deepracer_modules import MODULES, example  # noqa: E402, F401 - the fixture is found by its name

globals().update(MODULES)
SEED = int(os.environ.get("VTRN_TEST_SEED", "1"))
NEURON = jax.devices("neuron")[0]
CONTINUOUS = files.Actions(ranges=((-30.0, 30.0), (0.5, 2.0)))
RACE = objects.Race(number_of_obstacles=3, number_of_bot_cars=2, bot_car_speed=0.7, is_lane_change=True)


def on_neuron(function, *args):
    return jax.tree.map(np.asarray, jax.jit(function)(*jax.device_put(args, NEURON)))


def corners(x, y, heading, length, width):
    """[4, 2] of a rectangle, in order."""
    along, across = np.array([1, 1, -1, -1]) * length / 2, np.array([1, -1, -1, 1]) * width / 2
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], 1)


def touch(a, b):
    """Do two convex polygons overlap? The area that is left of a when each side of b has cut it."""
    for p, q in zip(b, np.roll(b, -1, 0)):
        # The corners run clockwise: inside is to the right of each side.
        side = [(q[1] - p[1]) * (v[0] - p[0]) - (q[0] - p[0]) * (v[1] - p[1]) for v in a]
        kept = []
        for i, v in enumerate(a):
            j = (i + 1) % len(a)
            if side[i] >= 0:
                kept.append(v)
            if side[i] * side[j] < 0:
                kept.append(v + (a[j] - v) * side[i] / (side[i] - side[j]))
        a = kept
        if len(a) < 3:
            return False
    a = np.array(a)
    return abs(np.sum(a[:, 0] * np.roll(a[:, 1], -1) - a[:, 1] * np.roll(a[:, 0], -1))) / 2 > 1e-9


def some_near(n, k, rng, spread=1.0):
    heading = rng.uniform(-np.pi, np.pi, (n, k))
    near = dict(x=rng.normal(0, spread, (n, k)), y=rng.normal(0, spread, (n, k)), cos=np.cos(heading), sin=np.sin(heading))
    return {name: v.astype(np.float32) for name, v in near.items()}


# Where they are


def test_layouts_keep_their_distances_and_alternate_lanes():
    track = tracks.load("bend")
    told = objects.layout(track, RACE, 0)
    np.testing.assert_allclose(told["object_s"][:3], np.linspace(0.02 * track.length, track.length - 1, 3), rtol=1e-6)
    assert told["object_lane"].tolist() == [0, 1, 0, 0, 1]
    chance = objects.Race(number_of_obstacles=5, randomize_obstacle_locations=True, min_distance_between_obstacles=10)
    seen = [objects.layout(track, chance, (SEED, i))["object_s"] for i in range(20)]
    assert all((np.diff(s) > 0.1 * track.length - 1e-4).all() for s in seen) and len({s[1] for s in seen}) == 20
    fixed = objects.Race(object_positions=((0.25, -1), (0.5, 1)))
    told = objects.layout(track, fixed, 0)
    assert told["object_s"].tolist() == [pytest.approx(track.length / 4), pytest.approx(track.length / 2)]
    assert told["object_lane"].tolist() == [1, 0] and fixed.n == 2


@pytest.mark.parametrize("is_backward", [False, True])
def test_bots_drive_along_their_lane_and_change_it(is_backward):
    track = tracks.load("bend")
    layout = objects.layout(track, RACE, 0)
    state = simulator.start(track, [0.0] * 40, np.full(40, is_backward), [layout] * 40)
    frames = np.arange(40) * 15.0
    state["object_frames"] = frames.astype(np.float32)
    told = on_neuron(lambda r, s: simulator.boxes(RACE, r, s), simulator.road(track), state)
    way = -1 if is_backward else 1
    for i in range(40):
        for k in range(RACE.n):
            speed = 0.7 if k >= 3 else 0.0
            s = (layout["object_s"][k] + way * speed * i) % track.length
            lane = float(layout["object_lane"][k])
            if speed:
                period = layout["object_hold"][k] + 1 / 0.7
                n, rest = divmod(i, period)
                part = np.clip((rest - layout["object_hold"][k]) * 0.7, 0, 1)
                part = 1 - part if n % 2 else part
                lane = lane + (1 - 2 * lane) * part
            j = min(np.searchsorted(track.along, s, side="right") - 1, len(track.along) - 2)
            t = (s - track.along[j]) / (track.along[j + 1] - track.along[j])
            at = [((1 - t) * (track.centre[j] + b[j]) + t * (track.centre[j + 1] + b[j + 1])) / 2 for b in (track.inner, track.outer)]
            want = at[0] + lane * (at[1] - at[0])
            np.testing.assert_allclose([told["x"][i, k], told["y"][i, k]], want, atol=2e-3)
            assert told["cos"][i, k] ** 2 + told["sin"][i, k] ** 2 == pytest.approx(1, abs=1e-5)
            ahead = track.at(s)[2] + (np.pi if is_backward else 0)
            assert told["cos"][i, k] * np.cos(ahead) + told["sin"][i, k] * np.sin(ahead) > 0.9


def test_a_car_starts_in_the_lane_that_an_object_leaves_free():
    track = tracks.load("oval")
    fixed = objects.Race(object_positions=((0.1, 1), (0.3, -1)))
    layout = objects.layout(track, fixed, 0)
    s = np.array([0.1 * track.length + 0.5, 0.3 * track.length - 0.5, 0.6 * track.length])
    state = simulator.start(track, s, np.zeros(3, bool), [layout] * 3)
    x, y, _ = track.at(s)
    off = np.hypot(state["x"] - x, state["y"] - y)
    np.testing.assert_allclose(off, [0.95 / 4, 0.95 / 4, 0], atol=5e-3)
    at = np.stack([state["x"], state["y"]], 1)
    far = [np.hypot(*(at[:, None] - line).transpose(2, 0, 1)).min(1) for line in (track.inner, track.outer)]
    assert far[1][0] < far[0][0] and far[0][1] < far[1][1]


# Who touches one


def test_touching_is_the_overlap_of_rectangles():
    rng, n = np.random.default_rng(SEED), 300
    near = some_near(n, RACE.n, rng, 0.8)
    told = on_neuron(lambda b: objects.is_touched(RACE, b), near)
    car = corners(0, 0, 0, *objects.CAR_M)
    sizes = list(zip(RACE.of_each("touch", 0), RACE.of_each("touch", 1)))
    want = [
        any(touch(car, corners(near["x"][i, k], near["y"][i, k], np.arctan2(near["sin"][i, k], near["cos"][i, k]), *sizes[k]))
            for k in range(RACE.n))
        for i in range(n)
    ]  # fmt: skip
    assert told.tolist() == want and 20 < sum(want) < 280


def test_an_episode_that_touches_an_object_has_crashed_and_a_lap_counts_first():
    track = tracks.load("oval")
    race = objects.Race(object_positions=((0.2, 1),))
    layout = objects.layout(track, race, 0)
    state = simulator.start(track, [0.0] * 3, np.zeros(3, bool), [layout] * 3)
    box = on_neuron(lambda r, s: simulator.boxes(race, r, s), simulator.road(track), state)
    new = {k: v.copy() for k, v in state.items()}
    for i in (0, 1):
        new["x"][i], new["y"][i] = box["x"][i, 0], box["y"][i, 0]
    state["progress"][1] = 99.9
    new["x"][2] += 0.05
    _, seen = on_neuron(lambda r, a, b: simulator.judge(r, a, b, race), simulator.road(track), state, new)
    assert [simulator.STATUS[int(s)] for s in seen["status"]] == ["crashed", "lap_complete", "in_progress"]


# What is seen of them


def flown(boxes, sizes, origin, ray):
    """Metres along a ray to the nearest box, by faces in float64; inf if it meets none."""
    best = np.inf
    for (x, y, cos, sin), (a, b, h) in zip(boxes, sizes):
        o = np.array([cos * (origin[0] - x) + sin * (origin[1] - y), cos * (origin[1] - y) - sin * (origin[0] - x), origin[2]])
        d = np.array([cos * ray[0] + sin * ray[1], cos * ray[1] - sin * ray[0], ray[2]])
        low, high = np.array([-a / 2, -b / 2, 0]), np.array([a / 2, b / 2, h])
        for axis in range(3):
            for face in (low, high):
                if abs(d[axis]) < 1e-12:
                    continue
                t = (face[axis] - o[axis]) / d[axis]
                at, others = o + t * d, [k for k in range(3) if k != axis]
                if t > 0 and (at[others] >= low[others]).all() and (at[others] <= high[others]).all():
                    best = min(best, t)
    return best


def test_the_lidar_measures_to_the_nearest_box_behind_and_beside():
    rng, n = np.random.default_rng(SEED), 8
    near = some_near(n, RACE.n, rng, 2.0)
    near["x"] += np.float32(1.0) * np.sign(near["x"])  # none stands on the car
    told = on_neuron(lambda b, z: lidar.scan(RACE, b, z), near, np.zeros((n, 64), np.float32))
    sizes = [[float(v) for v in row] for row in zip(*(RACE.of_each("size", k) for k in range(3)))]
    angle = np.pi + np.linspace(-2.61799, 2.61799, 64)
    n_met = 0
    for i in range(n):
        boxes = [[float(near[k][i, j]) for k in ("x", "y", "cos", "sin")] for j in range(RACE.n)]
        for beam in range(64):
            ray = np.cos(angle[beam]), np.sin(angle[beam]), 0.0
            want = min(12.0, flown(boxes, sizes, (lidar.AHEAD_M, 0.0, lidar.ABOVE_M), ray))
            if abs(told[i, beam] - want) > 1e-3:
                # A beam along an edge: one that is turned by a thousandth of a degree meets what ours met.
                turned = [angle[beam] + e for e in (-2e-5, 2e-5)]
                near_by = [min(12.0, flown(boxes, sizes, (lidar.AHEAD_M, 0.0, lidar.ABOVE_M), (np.cos(a), np.sin(a), 0.0))) for a in turned]
                assert min(abs(told[i, beam] - w) for w in near_by) < 5e-3, (i, beam, told[i, beam], want)
            n_met += want < 12
    assert n_met > 50
    assert (on_neuron(lambda b, z: lidar.scan(RACE, b, z), near, np.ones((n, 64), np.float32))[told == 12] == 12).all()
    ahead = {"x": np.float32([[1.0]]), "y": np.float32([[0.0]]), "cos": np.float32([[1.0]]), "sin": np.float32([[0.0]])}
    one = objects.Race(number_of_obstacles=1)
    assert (on_neuron(lambda b, z: lidar.scan(one, b, z), ahead, np.zeros((1, 64), np.float32)) == 12).all()


def test_sectors_tell_how_near_the_nearest_is():
    metres = np.full((1, 64), 12.0, np.float32)
    metres[0, 3], metres[0, 17], metres[0, 63] = 0.3, 0.7, 1.99
    told = on_neuron(lambda m: [lidar.shown(s, m) for s in (
        lidar.Lidar("LIDAR"), lidar.Lidar("SECTOR_LIDAR"), lidar.Lidar("DISCRETIZED_SECTOR_LIDAR", 4, 4, 2.0))], metres)  # fmt: skip
    assert told[0][0, [3, 17, 63, 0]].tolist() == pytest.approx([0.3, 0.7, 1.0, 1.0])
    assert told[1][0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert told[2][0].reshape(4, 4).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0] * 4, [0, 0, 0, 1]]


def test_the_camera_shows_boxes_where_its_rays_meet_them():
    track, rng, n = tracks.load("bend"), np.random.default_rng(SEED), 4
    near = some_near(n, RACE.n, rng, 0.5)
    near["x"] += 1.2
    pose = [a.astype(np.float32) for a in track.at(np.linspace(0, 12, n))]
    scene = camera.scene(track)
    for aside in (0.0, *camera.STEREO_M):
        with_boxes, without = on_neuron(
            lambda s, x, y, h, b, aside=aside: (camera.images(s, x, y, h, (RACE, b), aside), camera.images(s, x, y, h, None, aside)),
            scene, *pose, near,
        )  # fmt: skip
        sizes = [[float(v) for v in row] for row in zip(*(RACE.of_each("size", k) for k in range(3)))]
        rays = np.stack(camera.rays(), 1).reshape(120, 160, 3)
        shades = {int(v) for s in RACE.of_each("shade") for v in (s, s * camera.SIDE_LIGHT)}
        n_met = 0
        for i in range(n):
            boxes = [[float(near[k][i, j]) for k in ("x", "y", "cos", "sin")] for j in range(RACE.n)]
            for v, u in zip(rng.integers(0, 120, 300), rng.integers(0, 160, 300)):
                # Not at an outline: the pixels around agree.
                met = {flown(boxes, sizes, (0.145, aside, 0.13), rays[v, u] + e) < np.inf for e in (0, (0, 2e-3, 2e-3), (0, -2e-3, -2e-3))}
                if met == {True}:
                    n_met += 1
                    assert int(with_boxes[i, v, u]) in shades
                elif met == {False}:
                    assert with_boxes[i, v, u] == without[i, v, u]
        assert n_met > 20


def test_two_cameras_see_what_one_sees_from_either_side():
    track = tracks.load("oval")
    x, y, heading = (a.astype(np.float32) for a in track.at(np.array([1.0, 9.0])))
    scene = camera.scene(track)
    left, right = on_neuron(lambda s, x, y, h: [camera.images(s, x, y, h, None, a) for a in camera.STEREO_M], scene, x, y, heading)
    moved = on_neuron(camera.images, scene, x - np.float32(0.03) * np.sin(heading), y + np.float32(0.03) * np.cos(heading), heading)
    assert np.abs(left.astype(int) - moved.astype(int)).max() <= 2 and (left != right).any()


def test_params_tell_of_objects():
    track = tracks.load("bend")
    layout = objects.layout(track, RACE, 0)
    state = simulator.start(track, [3.0, 17.5], np.zeros(2, bool), [layout] * 2)
    now = on_neuron(lambda r, s: simulator.boxes(RACE, r, s), simulator.road(track), state)
    x, y, heading = track.at(np.array([3.0, 17.5]))
    seen = dict(
        x=x, y=y, heading=heading, wheels=np.full(2, 4.0), progress=np.zeros(2), steps=np.ones(2), status=np.zeros(2),
        throttle=np.ones(2), steering=np.zeros(2), time=np.zeros(2),
    ) | {f"object_{k}{i}": now[k][:, i] for k in now for i in range(RACE.n)}  # fmt: skip
    for p, s in zip(world.Observer(track, RACE).params(seen, np.zeros(2, bool)), (3.0, 17.5)):
        along = np.array(p["objects_distance"])
        np.testing.assert_allclose(along, layout["object_s"], atol=0.05)
        before, ahead = p["closest_objects"]
        assert all((along[ahead] - s) % track.length <= (a - s) % track.length for a in along)
        assert all((s - along[before]) % track.length <= (s - a) % track.length for a in along)
        assert p["objects_speed"] == pytest.approx([0, 0, 0, 0.7, 0.7]) and p["objects_heading"][:3] == [0, 0, 0]
        np.testing.assert_allclose(p["objects_distance_from_center"], 0.76 / 4, atol=0.02)
        inner_is_left = p["objects_left_of_center"][0]
        assert p["objects_left_of_center"] == [inner_is_left, not inner_is_left, inner_is_left, inner_is_left, not inner_is_left]
        assert len(p["objects_location"]) == 5 and isinstance(p["object_in_camera"], bool)


@pytest.mark.parametrize(
    "given, rule",
    [
        ({"NUMBER_OF_OBSTACLES": "many"}, "NUMBER_OF_OBSTACLES is 'many'; it must be a whole number from 0 to 20"),
        ({"NUMBER_OF_DOGS": 1}, "NUMBER_OF_DOGS cannot be simulated"),
        ({"IS_LANE_CHANGE": "perhaps"}, "it must be true or false"),
        ({"OBJECT_POSITIONS": ["0.5"]}, "PART,LANE"),
        ({"OBJECT_POSITIONS": ["0.5,0"]}, "lane 0"),
        ({"LOWER_LANE_CHANGE_TIME": 9}, "above UPPER"),
    ],
)
def test_a_race_that_breaks_a_rule_is_refused(tmp_path, given, rule):
    (tmp_path / "race.json").write_text(json.dumps(given))
    with pytest.raises(files.BadFile, match=rule):
        files.race(str(tmp_path / "race.json"))


def test_a_race_is_read():
    told = files.race("r", {"OBJECT_POSITIONS": ["0.25,-1", [0.5, 1]], "NUMBER_OF_BOT_CARS": "2", "IS_LANE_CHANGE": "True"})
    assert told == objects.Race(object_positions=((0.25, -1), (0.5, 1)), number_of_bot_cars=2, is_lane_change=True)
    assert told.n == 4


@pytest.mark.parametrize("source, said", [("def f(:\n", r"r.py:1: "), ("\nimport nothing_of_the_kind\n", "r.py:2: the file raised ModuleNot")])
def test_a_reward_file_that_cannot_be_read_names_its_line(source, said):
    with pytest.raises(files.BadFile, match=said):
        files.Reward("r.py", source)


def test_files_that_are_none_are_refused_by_name(tmp_path, capsys):
    (tmp_path / "text.npy").write_text("0 1 2 3 4 5")
    with pytest.raises(ValueError, match="text.npy: no array of numbers"):
        tracks.load(str(tmp_path / "text.npy"))
    np.save(tmp_path / "words.npy", np.array([["a"] * 6] * 5))
    with pytest.raises(ValueError, match="real numbers"):
        tracks.load(str(tmp_path / "words.npy"))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("cut.npz", "words.npy", "text.npy"):
        assert evaluate.main([str(tmp_path / name)]) == 2
        assert f"{name}: not a checkpoint of train.py" in capsys.readouterr().err
    for argv in (["--laps", "0"], ["--film", str(tmp_path / "none" / "f.html")]):
        with pytest.raises(SystemExit):
            evaluate.main([str(tmp_path / "cut.npz"), *argv])
    for argv in (["--iterations", "0"], ["--seed", "-1"]):
        with pytest.raises(SystemExit):
            train.arguments(argv)


# SAC


@pytest.fixture
def tiny(monkeypatch):
    """The trunk is that of PPO, whose tests have it in full; here it is small."""
    monkeypatch.setitem(policy.NETWORKS, policy.DEFAULT, dict(conv=[(4, 8, 8), (8, 3, 2)], dense=[32], is_tanh=False))
    monkeypatch.setattr(policy, "LIDAR_DENSE", (16, 8))
    monkeypatch.setattr(sac, "HEAD", 16)
    monkeypatch.setattr(sac, "Q_LAYERS", (16, 24))


def test_squashed_actions_have_the_density_that_they_are_drawn_from():
    rng = np.random.default_rng(SEED)
    mean, log_std, noise = (rng.normal(size=(64, 2)).astype(np.float32) * 0.5 for _ in range(3))
    action, log_p = on_neuron(sac.sample, mean, log_std, noise)
    m, s, e = (a.astype(np.float64) for a in (mean, log_std, noise))
    raw = m + np.exp(s) * e
    np.testing.assert_allclose(action, np.tanh(raw), atol=1e-6)
    want = -0.5 * e**2 - s - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(raw) ** 2)
    np.testing.assert_allclose(log_p, want.sum(1), rtol=1e-3, atol=1e-3)


def a_batch(network, rng, n):
    out = {"action": rng.uniform(-1, 1, (n, 2)).astype(np.float32), "reward": rng.random(n, np.float32)}
    out["goes_on"] = (np.arange(n) % 3 > 0).astype(np.float32)
    for prefix in ("", "next_"):
        out[f"{prefix}image"] = rng.integers(0, 256, (n, 120, 160, network.channels), dtype=np.uint8)
        if network.n_lidar:
            out[f"{prefix}lidar"] = rng.random((n, network.n_lidar), np.float32)
    return out


@pytest.mark.parametrize("network", [policy.Network(), policy.Network(policy.DEFAULT, 2, 64, True)], ids=["plain", "stereo-lidar"])
def test_an_update_of_sac_is_that_of_jax_on_the_cpu(tiny, network):
    rng = np.random.default_rng(SEED)
    params, batch = sac.init(network, CONTINUOUS, SEED), a_batch(network, rng, 4)
    noise = rng.normal(size=(4, 2)).astype(np.float32)
    loss = sac.Loss(network, 0.2, 0.9, False)
    fast = sac.trained(params)
    slow = {k: v for k, v in params.items() if k not in fast}
    grads = jax.value_and_grad(lambda f, s, b, z: loss(f | s, b, z), has_aux=True)
    (_, ours), our_grads = on_neuron(grads, fast, slow, batch, noise)
    with jax.default_device(jax.devices("cpu")[0]):
        (_, theirs), their_grads = jax.tree.map(np.asarray, jax.jit(grads)(fast, slow, batch, noise))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for name, g in their_grads.items():
        np.testing.assert_allclose(our_grads[name], g, rtol=1e-3, atol=1e-4 * max(1e-3, np.abs(g).max()), err_msg=name)
    # Each loss moves its own network alone, and the terms are what their definitions say.
    alone = {"policy": 0, "v": 1, "q": 2}
    for net, term in alone.items():
        g = on_neuron(jax.grad(lambda f, s, b, z, term=term: loss(f | s, b, z)[1][term]), fast, slow, batch, noise)
        for name, value in g.items():
            want = their_grads[name] if name.startswith(net + "/") else 0 * value
            np.testing.assert_allclose(value, want, rtol=1e-3, atol=1e-4 * max(1e-3, np.abs(their_grads[name]).max()), err_msg=name)


def test_the_slow_copy_follows_by_its_rate(tiny):
    network, rng = policy.Network(), np.random.default_rng(SEED)
    params = sac.init(network, CONTINUOUS, SEED)
    update = lambda p, a, b, z: sac.update(sac.Loss(network, 0.2, 0.9, True), p, a, b, np.float32(1e-2), z)  # noqa: E731
    new, _, terms = on_neuron(update, params, sac.ppo.init_adam(sac.trained(params)), a_batch(network, rng, 2), np.zeros((2, 2), np.float32))
    assert new.keys() == params.keys() and np.isfinite(terms).all()
    for name, old in params.items():
        if name.startswith("v_slow/"):
            moved = new["v/" + name[len("v_slow/") :]].astype(np.float64)
            np.testing.assert_allclose(new[name], old + sac.TARGET_RATE * (moved - old), rtol=1e-5, atol=1e-7)


def test_a_replay_draws_steps_with_the_frame_that_followed():
    replay, rng = sac.Replay(5), np.random.default_rng(SEED)
    for t in range(8):
        number = np.arange(3) + 10 * t
        replay.add({"image": number.astype(np.uint8), "action": number.astype(np.float32), "reward": number.astype(np.float32)})
    assert replay.n_steps == 12
    drawn = replay.draw(rng, 400)
    assert (drawn["next_image"].astype(int) - drawn["image"] == 10).all()
    assert set(drawn["reward"].astype(int)) == {c + 10 * t for c in range(3) for t in (3, 4, 5, 6)}


@pytest.fixture(scope="module")
def sac_files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sac")
    space = {"speed": {"low": 0.5, "high": 2}, "steering_angle": {"low": -30, "high": 30}}
    metadata = dict(
        action_space=space, action_space_type="continuous", training_algorithm="sac", sensor=["LEFT_CAMERA", "LIDAR"]
    )
    (directory / "m.json").write_text(json.dumps(metadata))
    (directory / "h.json").write_text(json.dumps(dict(batch_size=4, num_episodes_between_training=100)))
    (directory / "race.json").write_text(json.dumps({"NUMBER_OF_OBSTACLES": 2, "RANDOMIZE_OBSTACLE_LOCATIONS": True}))
    argv = ["--track", "oval", "--cars", "2", "--max-steps", "40"]
    for name, file in (("metadata", "m.json"), ("hyperparameters", "h.json"), ("race", "race.json")):
        argv += [f"--{name}", str(directory / file)]
    return argv


def test_sac_among_boxes_goes_on_from_its_checkpoint_with_the_same_bits(tiny, sac_files, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train.main([*sac_files, "--iterations", "2", "--out", str(whole)]) == 0
    assert train.main([*sac_files, "--iterations", "1", "--out", str(cut)]) == 0
    assert train.main([*sac_files, "--iterations", "2", "--out", str(cut), "--resume"]) == 0
    with np.load(whole / "checkpoint.npz") as a, np.load(cut / "checkpoint.npz") as b:
        assert set(a.files) == set(b.files) and "replay/lidar" in a.files
        for name in set(a.files) - {"about"}:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    argv = [*sac_files, "--iterations", "3", "--out", str(cut), "--resume"]
    argv[argv.index("--race") : argv.index("--race") + 2] = []
    assert train.main(argv) == 2 and "another race" in capsys.readouterr().err
    monkeypatch.setattr(evaluate, "MOST_FAULTS", 1)
    assert evaluate.main([str(whole / "checkpoint.npz"), "--laps", "1", "--film", str(tmp_path / "f.html")]) == 1
    assert '"objects":[[' in (tmp_path / "f.html").read_text()


def test_gymnasium_shows_boxes_to_lidar_and_reward():
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    import gym_env  # noqa: F401
    from gymnasium.utils.env_checker import check_env

    agent = dict(action_space=[{"steering_angle": a, "speed": 1} for a in (-30, 30)], sensor=["STEREO_CAMERAS", "LIDAR"])
    config = {"NUMBER_OF_OBSTACLES": 3, "RANDOMIZE_OBSTACLE_LOCATIONS": True}
    env = gymnasium.make(
        "deepracer-v0", world_name="oval", agent_config=agent, track_config=config, reward_function=lambda p: len(p["objects_location"])
    )
    check_env(env.unwrapped)
    observation, _ = env.reset(seed=0)
    assert observation["STEREO_CAMERAS"].shape == (2, 120, 160) and observation["LIDAR"].shape == (64,)
    assert env.step(0)[1] == 3
