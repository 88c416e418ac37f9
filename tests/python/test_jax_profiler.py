"""jax.profiler on the virtual chip: its XSpace holds the simulated timeline."""

import gzip
import json
import os
import pathlib
import subprocess
import sys

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

PLANE = "NeuronCore 0"


@jax.jit
def layer(a, b):
    return jnp.tanh(a @ b)


@jax.jit
def loop(n):
    return jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.tanh(c[1])),
                              (jnp.int32(0), jnp.ones((128, 8))))[1]


def trace(path, run):
    with jax.profiler.trace(path):
        run()
    (file,) = pathlib.Path(path).rglob("*.xplane.pb")
    planes = {p.name: p for p in jax.profiler.ProfileData.from_file(str(file)).planes}
    return file, {name: plane for name, plane in planes.items() if PLANE in name}


def lines_of(plane):
    lines = {}
    for line in plane.lines:
        lines.setdefault(line.name, []).extend(line.events)
    return lines


def step_ns(compiled):
    return compiled.cost_analysis()["optimal_seconds"] * 1e9


def test_runs_and_their_instructions_are_events(tmp_path):
    x = jnp.ones((256, 256))
    layer(x, x).block_until_ready()
    file, planes = trace(tmp_path, lambda: [layer(x, x).block_until_ready() for _ in range(3)])
    (plane,) = planes.values()
    lines = lines_of(plane)
    runs = lines["XLA Modules"]
    assert [r.name for r in runs] == ["jit_layer"] * 3
    compiled = layer.lower(x, x).compile()
    compiled(x, x)
    for run in runs:
        assert run.duration_ns == pytest.approx(step_ns(compiled), rel=1e-3)
    for before, after in zip(runs, runs[1:]):
        assert after.start_ns >= before.start_ns + before.duration_ns
    matmuls = [e for e in lines["Tensor"] if e.name == "matmul"]
    assert len(matmuls) % 3 == 0 and matmuls
    assert {dict(e.stats)["tf_op"] for e in matmuls} == {"stablehlo.dot_general"}
    assert all("test_jax_profiler.py" in dict(e.stats)["source"] for e in matmuls)
    assert any(e.name == "activate tanh" for e in lines["Scalar"])
    bytes_in = sum(dict(e.stats)["bytes"] for name, events in lines.items() if name.startswith("DMA")
                   for e in events if dict(e.stats).get("operands", "").startswith("sbuf"))
    assert bytes_in >= 3 * x.nbytes  # both operands are the same array
    for line in plane.lines:
        events = sorted(line.events, key=lambda e: e.start_ns)
        assert all(b.start_ns >= a.start_ns + a.duration_ns - 1 for a, b in zip(events, events[1:]))
    for events in lines.values():  # each instruction is within its run
        for e in events:
            assert any(r.start_ns <= e.start_ns and
                       e.start_ns + e.duration_ns <= r.start_ns + r.duration_ns + 1 for r in runs)


def test_jaxs_own_converter_reads_it(tmp_path):
    x = jnp.ones((64, 64))
    file, _ = trace(tmp_path, lambda: layer(x, x).block_until_ready())
    (page,) = tmp_path.rglob("*.trace.json.gz")
    events = json.load(gzip.open(page))["traceEvents"]
    assert any(PLANE in e["args"]["name"] for e in events if e.get("name") == "process_name")
    assert any(e.get("name") == "matmul" for e in events)


def test_a_loop_is_traced_as_often_as_it_ran(tmp_path):
    loop(2).block_until_ready()

    def run():
        for n in (3, 7, 3):
            loop(n).block_until_ready()

    _, planes = trace(tmp_path, run)
    lines = lines_of(planes.popitem()[1])
    lengths = [r.duration_ns for r in lines["XLA Modules"] if r.name == "jit_loop"]
    assert len(lengths) == 3 and lengths[0] == pytest.approx(lengths[2]) and lengths[1] > lengths[0]
    tanhs = [e for e in lines["Scalar"] if e.name == "activate tanh"]
    assert len(tanhs) == 13


def test_nothing_ran(tmp_path):
    _, planes = trace(tmp_path, lambda: None)
    assert not planes


def test_what_runs_outside_of_a_session_is_not_in_it(tmp_path):
    x = jnp.ones((32, 32))
    layer(x, x).block_until_ready()
    _, first = trace(tmp_path / "a", lambda: layer(x, x).block_until_ready())
    layer(x, x).block_until_ready()
    _, second = trace(tmp_path / "b", lambda: layer(x, x).block_until_ready())
    for planes in (first, second):
        assert len(lines_of(planes.popitem()[1])["XLA Modules"]) == 1


def test_values_are_the_same_under_a_profiler(tmp_path):
    x = np.random.default_rng(0).normal(size=(33, 33)).astype(np.float32)
    alone = np.asarray(layer(x, x))
    seen = []
    trace(tmp_path, lambda: seen.append(np.asarray(layer(x, x))))
    assert seen[0].tobytes() == alone.tobytes()


TWO_CORES = """
import sys, jax, jax.numpy as jnp
f = jax.pmap(lambda v: jax.lax.psum(v * 2, "i"), axis_name="i")
x = jnp.ones((2, 64))
f(x).block_until_ready()
with jax.profiler.trace(sys.argv[1]):
    f(x).block_until_ready()
"""


def test_each_core_of_a_program_has_its_plane(tmp_path):
    done = subprocess.run([sys.executable, "-c", TWO_CORES, tmp_path], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "NEURON_RT_NUM_CORES": "2"})
    if "partition" in done.stderr and done.returncode:
        pytest.skip("this build runs no program on two cores")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("*.xplane.pb")
    planes = [p for p in jax.profiler.ProfileData.from_file(str(file)).planes if "NeuronCore" in p.name]
    assert [p.name.partition(" (")[0] for p in planes] == [f"/device:CUSTOM:NeuronCore {i}" for i in range(2)]
    names = [[r.name for r in lines_of(plane)["XLA Modules"]] for plane in planes]
    (both,) = set(names[0]) & set(names[1])  # others cut the argument on one core
    assert [n.count(both) for n in names] == [1, 1]
