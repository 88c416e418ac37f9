"""inf1: weights that stay on the chip between calls, and networks dealt out over cores as a pipeline."""

import argparse
import json
import os
import pathlib
import subprocess

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from vtrn.serve import bench, pipeline
from vtrn.serve.machine import command_path, instance, keeps_weights, time_artifact, time_with_weights
from vtrn.serve.programs import artifact_of
from vtrn.serve.runtime import Device, VtrnError


def network(weights, x):
    """Products, a loop, a function that is called twice, a value that is read far behind, an argument that is a result."""
    first = x
    gate = jax.jit(lambda v: jax.nn.gelu(v) * 0.5)
    for i, w in enumerate(weights):
        x = jax.nn.relu(x @ w) + gate(x) + jnp.full(x.shape, float(i))
        x = jax.lax.fori_loop(0, 2, lambda k, c: c * 1.25 + k, x) / jnp.maximum(jnp.abs(x).max(), 1.0)
    return x + first, x.sum(-1), weights[0]


SHAPES = ([jax.ShapeDtypeStruct((96, 96), jnp.float32)] * 5, jax.ShapeDtypeStruct((8, 96), jnp.float32))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_stages_give_what_the_whole_gives(rng, n):
    artifact = artifact_of(network, *SHAPES)
    program, stages, times = pipeline.cut(artifact, n, lambda s: time_artifact(s.artifact, "inf1")["step_ns"])
    assert len(stages) == len(times) == n and stages[0].first == 0 and stages[-1].end == len(program.ops)
    assert all(a.end == b.first for a, b in zip(stages, stages[1:]))
    arguments = [*(rng.standard_normal((96, 96)).astype(np.float32) / 10 for _ in range(5)),
                 rng.standard_normal((8, 96)).astype(np.float32)]  # fmt: skip
    device = Device("inf1.6xlarge", n_threads=2)
    try:
        whole = [b.numpy() for b in device.compile(artifact)([device.put(a) for a in arguments])]
        made = [device.compile(s.artifact) for s in stages]

        def call(i, operands):
            core = i % device.n_cores
            return [b.numpy() for b in made[i]([device.put(o, core) for o in operands], core)]

        got = pipeline.run(program, stages, arguments, call)
    finally:
        device.close()
    want = jax.jit(network)(arguments[:5], arguments[5])
    for a, b, c in zip(got, whole, want):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(a, c, rtol=0.05, atol=0.05)  # products are of bf16


@pytest.mark.parametrize("costs, n, largest", [([1, 2, 3, 4, 5], 3, 6), ([1] * 12, 4, 3), ([9, 1, 1, 1], 2, 9),
                                               ([0, 5, 0, 5, 0], 2, 5), ([3], 1, 3), ([1, 8, 1, 8], 4, 8)])  # fmt: skip
def test_stretches_are_as_even_as_they_can_be(costs, n, largest):
    ends = pipeline.balanced([float(c) for c in costs], n)
    sums = [sum(costs[a:b]) for a, b in zip([0, *ends], ends)]
    assert len(ends) == n and ends[-1] == len(costs) and max(sums) == largest and all(s > 0 for s in sums)


def test_a_pipeline_ends_a_call_whenever_its_slowest_stage_does():
    assert bench.piped([10.0, 30.0, 20.0], 6.0, 1) == (66.0, 66.0)
    latency, between = bench.piped([10.0, 30.0, 20.0], 6.0, 4)
    assert between == 30.0 and latency == 120.0  # four calls are on their way
    assert bench.piped([10.0, 30.0, 20.0], 6.0, 2) == (66.0, 33.0)


def big(n_layers, width):
    def f(weights, x):
        for w in weights:
            x = jax.nn.relu(jnp.matmul(x, w, preferred_element_type=jnp.float32)).astype(jnp.bfloat16)
        return x

    s = jax.ShapeDtypeStruct
    return artifact_of(f, [s((width, width), jnp.bfloat16)] * n_layers, s((4, width), jnp.bfloat16))


def test_weights_that_stay_are_read_once(tmp_path):
    """As many as there is room for, 10 MB a core; the others are read in each call, and bytes that move say which."""
    each = 2 * 1024 * 1024
    for n, n_stay in ((3, 3), (7, 4)):
        artifact = big(n, 1024)
        every, kept = time_artifact(artifact, "inf1"), time_artifact(artifact, "inf1", f"--weights-stay={n}")
        said = kept["weights"]
        assert said["given"] == n and said["bytes"] == n * each and said["stay_bytes"] == n_stay * each
        assert said["stay"] == list(range(n_stay)) and said["load_ns"] == pytest.approx(n_stay * each / 26.84, rel=0.01)
        moved = every["hbm_read_bytes"] - kept["hbm_read_bytes"]
        assert moved == pytest.approx(n_stay * each, rel=0.02)
        assert kept["step_ns"] < every["step_ns"]
    assert time_with_weights(artifact, "inf1", 7)["step_ns"] == min(kept["step_ns"], every["step_ns"])
    assert "weights" not in time_with_weights(artifact, "inf2", 7)
    assert keeps_weights("inf1") and not keeps_weights("inf2")

    path, program = tmp_path / "f.mlirbc", tmp_path / "f.vtrn"
    path.write_bytes(big(3, 1024))
    flags = {**os.environ, "NEURON_CC_FLAGS": "--weights-stay 3"}
    subprocess.run([command_path(), "compile", path, "--chip", "inf1", "-o", program], env=flags, check=True)
    stored = json.loads(subprocess.run([command_path(), "time", program, "--json"], capture_output=True, check=True).stdout)
    assert stored["weights"]["stay_bytes"] == 3 * each
    text = subprocess.run([command_path(), "time", path, "--chip", "inf1"], env=flags, capture_output=True, text=True).stdout
    assert "3 of 3 stay on the chip, 6 MiB of 6 MiB: loaded once" in text.replace("6.000", "6")


def test_weights_that_stay_change_no_value(rng, monkeypatch):
    artifact = big(3, 256)
    arguments = [rng.standard_normal(s).astype(jnp.bfloat16) for s in ((256, 256),) * 3 + ((4, 256),)]
    results = []
    for flags in ("", "--weights-stay=3"):
        monkeypatch.setenv("NEURON_CC_FLAGS", flags)
        device = Device("inf1.xlarge", n_threads=2)
        try:
            executable = device.compile(artifact)
            for scale in (1, 2):  # other weights in the second call
                buffers = [device.put((a * scale).astype(a.dtype)) for a in arguments]
                results.append(executable(buffers)[0].numpy().view(np.uint16))
        finally:
            device.close()
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[3])


def test_tables_and_written_arguments_do_not_stay():
    """Of what data choose, and of a cache that is written, nothing stays."""
    def f(table, cache, w, ids, x):
        return table[ids] @ w, cache.at[0].set(x)

    s = jax.ShapeDtypeStruct
    artifact = artifact_of(f, s((300, 128), jnp.float32), s((16, 128), jnp.float32), s((128, 128), jnp.float32),
                           s((4,), jnp.int32), s((128,), jnp.float32), donated=(1,))  # fmt: skip
    assert time_artifact(artifact, "inf1", "--weights-stay=3")["weights"]["stay"] == [2]


@pytest.mark.parametrize("flags, chip, words", [
    ("--weights-stay=2", "inf2", "reads weights from HBM in every call"), ("--weights-stay=x", "inf1", "how many of the first"),
    ("--weights-stay=9", "inf1", "the program has 4 arguments"), ("--weights-stay=99999999999", "inf1", "how many of the first"),
])  # fmt: skip
def test_what_cannot_stay_is_said(flags, chip, words):
    with pytest.raises(VtrnError, match=words):
        time_artifact(big(3, 128), chip, flags)


def bench_args(path: pathlib.Path, **given):
    default = dict(model=path, batch=None, resident=None, auto_cast=None, auto_cast_type=None, instances="inf1.6xlarge", pipeline_cores=0)
    return argparse.Namespace(**{**default, **given})


def test_bench_deals_a_network_out_over_cores_and_chips(tmp_path):
    shapes = [jax.ShapeDtypeStruct((1024, 1024), jnp.float32)] * 6, jax.ShapeDtypeStruct((4, 1024), jnp.float32)

    def f(weights, x):
        for w in weights:
            x = jax.nn.relu(x @ w)
        return x

    path = tmp_path / "mlp.export"
    path.write_bytes(export.export(jax.jit(f), platforms=["cpu"])(*shapes).serialize())
    rows = bench.run(bench_args(path, resident=6, pipeline_cores=6))
    assert {r["pipeline_size"] for r in rows} == {6} and {r["n_models"] for r in rows} == {1, 2}
    one = bench.run(bench_args(path, resident=6))
    assert rows[1]["weights_on_chip_mib"] == rows[1]["weights_mib"] == 24 > one[0].get("weights_on_chip_mib", 0)
    assert rows[1]["throughput_avg"] > 2 * one[1]["throughput_avg"]
    slowest = max(map(float, rows[1]["stage_ms"].split()))
    assert rows[1]["throughput_avg"] == pytest.approx(4 / slowest * 1e3, rel=1e-3)
    assert all("are assumed" in r["rests_on"] and "weights_partition_bytes" in r["rests_on"] for r in rows)
    assert instance("inf1.6xlarge").link_bytes_per_s == 8.6e9
    for words, given in (("has no NeuronCore pipeline", {"instances": "inf2.xlarge"}), ("has 4 cores", {"instances": "inf1.xlarge", "pipeline_cores": 5})):
        with pytest.raises(VtrnError, match=words):
            bench.run(bench_args(path, **{"resident": 6, "pipeline_cores": 2, **given}))
