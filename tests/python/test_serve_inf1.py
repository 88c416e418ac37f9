"""Stored models on instances of inf1: weights that stay on the chip between calls, and pipelines over cores, in a live server."""

import json

import numpy as np
import pytest

for package in ("jax", "fastapi", "uvicorn", "safetensors"):
    pytest.importorskip(package, reason="pip install 'vtrn[serve]'")

import jax
import jax.numpy as jnp
from jax import export
from safetensors.numpy import save_file
from serve_models import running
from test_serve_http import infer, send

from vtrn.serve import arguments, bench, metrics, store
from vtrn.serve.batcher import BatchLimits
from vtrn.serve.host import Host, Settings
from vtrn.serve.machine import instance, weights_room
from vtrn.serve.runtime import VtrnError

WIDTH, ROWS, MIB = 512, 4, 2**20


def stored(repository, name, n_layers, width=WIDTH, toml=""):
    """A chain of layers of width x width in fp32; its weights, and the function in NumPy."""
    rng = np.random.default_rng(n_layers)
    weights = {f"w{i}": (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32) for i in range(n_layers)}

    def f(w, x):
        for k in sorted(w):
            x = jax.nn.relu(x @ w[k]) + 0.5 * x
        return x, x.sum(-1)

    folder = repository / name
    folder.mkdir(parents=True)
    with jax.default_device(jax.devices("cpu")[0]):
        made = export.export(jax.jit(f), platforms=["cpu"])(weights, jax.ShapeDtypeStruct((ROWS, width), jnp.float32))
    (folder / "model.export").write_bytes(made.serialize())
    (folder / "model.toml").write_text(f'inputs = ["x"]\noutputs = ["y", "sum"]\nweights = "w.safetensors"\n{toml}')
    save_file(weights, folder / "w.safetensors")
    return weights, f


def host_of(repository, *models, instance="inf1.xlarge", **more):
    return Host(Settings(models=models, instance=instance, repository=repository, limits=BatchLimits(max_delay_us=500), **more))


def ask(port, x, model):
    status, _, answer = infer(port, x.ravel().tolist(), list(x.shape), "x", "FP32", model)
    assert status == 200, answer
    return {o["name"]: np.array(o["data"], np.float32).reshape(o["shape"]) for o in answer["outputs"]}, answer["parameters"]


def timed_by_bench(path, name, cores=0):
    args = arguments.bench().parse_args([str(path), "--instances", name, *(["--pipeline-cores", str(cores)] if cores else [])])
    return bench.run(args)


def test_weights_stay_on_the_chip_between_calls_and_answers_say_so(tmp_path):
    weights, f = stored(tmp_path, "stays", 3)
    stored(tmp_path, "reads", 3, toml="weights_stay = false\n")
    host = host_of(tmp_path, "stays", "reads")
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    with running(host) as port:
        (got, said), (other, of_other) = ask(port, x, "stays"), ask(port, x, "reads")
        place, place_of_other = send(port, "GET", "/state")[2]["placements"]
        np.testing.assert_array_equal(got["y"], other["y"])  # where weights are changes no value
        np.testing.assert_allclose(got["y"], f(weights, x)[0], atol=0.05)  # products are of bf16
        assert said["weights_on_chip_bytes"] == place["weights_on_chip_bytes"] == 3 * MIB
        assert "weights_on_chip_bytes" not in of_other and place_of_other["weights_on_chip_bytes"] == 0
        assert said["chip_time_us"] < of_other["chip_time_us"] and said["core"] == 0 and of_other["core"] == 1
        row = timed_by_bench(tmp_path / "stays" / "model.export", "inf1.xlarge")[0]
        assert said["chip_time_us"] == pytest.approx(row["chip_time_ms"] * 1e3, rel=1e-3)
        assert place["weights_load_us"] == pytest.approx(row["weights_load_ms"] * 1e3, rel=1e-3)
        assert "3.0 of them on the chip between calls, loaded once in" in host.placement_text()
        assert "weights_on_chip_bytes" in send(port, "GET", "/")[2]


@pytest.mark.parametrize("n, name, cores", [(2, "inf1.xlarge", (0, 1)), (3, "inf1.xlarge", (3, 0, 2)), (2, "inf1.xlarge", (0, 1, 2, 3)),
                                            (6, "inf1.6xlarge", None)])  # fmt: skip
def test_a_pipeline_gives_what_one_core_gives_and_its_figures(tmp_path, n, name, cores):
    weights, f = stored(tmp_path, "deep", 6)
    rng = np.random.default_rng(2)
    host = host_of(tmp_path, "deep", instance=name, cores={"deep": cores} if cores else {}, pipelines={"deep": n})
    cores = cores or tuple(range(n))
    n_pipelines = len(cores) // n
    with running(host) as port:
        model = host.batchers["deep"].model
        assert sorted(model.lanes) == sorted([*range(n_pipelines)] * n)
        x = rng.standard_normal((7, WIDTH)).astype(np.float32)  # two calls
        got, said = ask(port, x, "deep")
        np.testing.assert_allclose(got["y"], f(weights, x)[0], atol=0.05)
        place = send(port, "GET", "/state")[2]["placements"][0]
        stages = place["stage_us"]
        assert place["pipeline_cores"] == n == len(stages) and tuple(place["cores"]) == cores
        assert place["weights_on_chip_bytes"] == said["weights_on_chip_bytes"] == 6 * MIB == place["weight_bytes"]
        assert said["calls"] == 2 and said["chip_time_us"] == pytest.approx(2 * sum(stages), rel=1e-3)
        assert said["pipeline_interval_us"] == pytest.approx(max(stages), rel=1e-3)
        lanes = [",".join(map(str, cores[i : i + n])) for i in range(0, len(cores), n)]
        assert said["cores"] in lanes and "core" not in said
        # The price is that of cores which all wait for the slowest stage.
        machine = instance(name)
        core_second = machine.dollars_per_hour / 3600 / machine.n_cores
        answer = ask(port, x[:4], "deep")[1]
        assert answer["dollars_per_million"] == pytest.approx(core_second * n * max(stages) * 1e-6 / 4 * 1e6, rel=1e-2)
        used = metrics.core_use(host)
        assert sum(used) == pytest.approx(host.batchers["deep"].meters.chip_ns * 1e-9)
        assert all((u > 0) == (c in cores) for c, u in enumerate(used))
        if cores == tuple(range(n)):
            row = timed_by_bench(tmp_path / "deep" / "model.export", name, n)[0]
            assert [float(f"{t / 1e3:.4g}") for t in stages] == pytest.approx([float(t) for t in row["stage_ms"].split()], rel=2e-3)
        assert f"dealt out over {n} cores" in host.placement_text()


def test_calls_of_a_pipeline_get_their_own_answers(tmp_path):
    """As many as there are stages are on their way at a time."""
    import concurrent.futures

    weights, f = stored(tmp_path, "deep", 4, 128, "pipeline_cores = 4\n")
    xs = np.random.default_rng(3).standard_normal((40, 2, 128)).astype(np.float32)
    with running(host_of(tmp_path, "deep")) as port, concurrent.futures.ThreadPoolExecutor(8) as pool:
        for x, (got, _) in zip(xs, pool.map(lambda x: ask(port, x, "deep"), xs)):
            np.testing.assert_allclose(got["y"], f(weights, x)[0], atol=0.05)


def test_models_that_share_a_core_keep_nothing_there(tmp_path):
    stored(tmp_path, "a", 2)
    stored(tmp_path, "b", 3)
    host = host_of(tmp_path, "a", "b", cores={"b": (0, 1)})
    try:
        assert [p.stay_bytes for p in host.placements] == [0, 0]
    finally:
        host.close()


ROOM = f"{weights_room('inf1') / MIB:.1f}"
REFUSED = {
    "weights that have no room": ("weights_stay = true\n", {"layers": 24}, "inf1.xlarge",  # products take them in 2 of their 4 bytes
                                  f"of 24.0 MiB of weights on a core 19.0 MiB have room there, which is {ROOM} MiB in the type"),
    "a stage without room": ("weights_stay = true\npipeline_cores = 2\n", {"layers": 44}, "inf1.xlarge", "of 2[0-9].0 MiB of weights on a core"),
    "another chip": ("weights_stay = true\n", {}, "inf2.xlarge", "weights_stay is true, and inf2 reads weights from HBM"),
    "a pipeline of another chip": ("pipeline_cores = 2\n", {}, "inf2.xlarge", "inf2 has no NeuronCore pipeline"),
    "more cores than there are": ("pipeline_cores = 5\n", {}, "inf1.xlarge", "pipeline_cores is 5; inf1.xlarge has 4 cores"),
    "cores that make no pipeline": ("pipeline_cores = 2\n", {"cores": {"m": (0, 1, 2)}}, "inf1.xlarge", "dealt out over 2 cores, and --cores names 0, 1, 2"),
    "a core twice": ("pipeline_cores = 2\n", {"cores": {"m": (1, 1)}}, "inf1.xlarge", "each once"),
    "more cores than operations": ("pipeline_cores = 4\n", {"layers": 1, "width": 8, "bare": True}, "inf1.xlarge", "has . operations; give as many cores"),
    "a shared core": ("weights_stay = true\n", {"cores": {"m": (0,), "other": (0,)}, "other": True}, "inf1.xlarge", "another model runs on its cores"),
    "no number": ('pipeline_cores = "2"\n', {}, "inf1.xlarge", "pipeline_cores of .* is '2'; it has to be a whole number from 1"),
    "no truth": ("weights_stay = 1\n", {}, "inf1.xlarge", "weights_stay of .* is 1; it has to be true or false"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_numbers(tmp_path, name):
    toml, given, on, words = REFUSED[name]
    stored(tmp_path, "m", given.get("layers", 2), given.get("width", WIDTH), toml)
    models = ["m"]
    if given.get("bare"):
        with jax.default_device(jax.devices("cpu")[0]):
            made = export.export(jax.jit(lambda w, x: x * w["w0"]), platforms=["cpu"])(
                {"w0": jax.ShapeDtypeStruct((ROWS, 8), jnp.float32)}, jax.ShapeDtypeStruct((ROWS, 8), jnp.float32))  # fmt: skip
        (tmp_path / "m" / "model.export").write_bytes(made.serialize())
        (tmp_path / "m" / "model.toml").write_text('weights = "w.safetensors"\n' + toml)
        save_file({"w0": np.ones((ROWS, 8), np.float32)}, tmp_path / "m" / "w.safetensors")
    if given.get("other"):
        stored(tmp_path, "other", 1)
        models.append("other")
    with pytest.raises((VtrnError, ValueError), match=words):
        host_of(tmp_path, *models, instance=on, cores=given.get("cores", {})).close()


def test_options_go_before_model_toml_and_built_in_models_are_not_dealt_out(tmp_path, capsys):
    stored(tmp_path, "m", 2, 128, "pipeline_cores = 2\n")
    host = host_of(tmp_path, "m", instance="inf2.xlarge", pipelines={"m": 1})
    try:
        assert host.placements[0].n_stages == 1
    finally:
        host.close()
    with pytest.raises(VtrnError, match="--pipeline-cores minilm=2: only folders of --repository"):
        host_of(tmp_path, "minilm", pipelines={"minilm": 2})
    for text, words in (("m", "MODEL=N"), ("m=0", "MODEL=N"), ("x=2", "x, which is not served")):
        with pytest.raises(SystemExit):
            arguments.serve().parse_args(["m", "--pipeline-cores", text])
        assert words in capsys.readouterr().err


def test_serve_export_writes_what_serve_reads(tmp_path, monkeypatch):
    entry = store.ENTRIES["silero_vad"]
    weights = store.random_weights(store.vad.weight_shapes())
    monkeypatch.setitem(store.ENTRIES, "silero_vad", store.dataclasses.replace(entry, weights=lambda: (weights, "a test")))
    assert store.main(["silero_vad", "--repository", str(tmp_path), "--batch", "2", "--pipeline-cores", "2", "--weights-stay", "true"]) == 0
    assert "pipeline_cores = 2\nweights_stay = true\n" in (tmp_path / "silero_vad" / "model.toml").read_text()
    host = host_of(tmp_path, "silero_vad")
    try:
        p = host.placements[0]
        assert p.n_stages == 2 and 0 < p.stay_bytes <= p.weight_bytes and "a test" in json.dumps(p.about)
        one = host.batchers["silero_vad"].model.run([(np.zeros(576, np.float32), np.zeros((2, 128), np.float32))], 0)
        assert len(one.rows) == 1 and one.about["cores"] == "0,1"
    finally:
        host.close()
