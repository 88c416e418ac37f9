"""Compiled programs outside of the process that made them: caches, serialisation, export, and what
they say about themselves."""

import os
import pickle
import subprocess
import sys

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import export  # noqa: E402
from jax.experimental import serialize_executable as se  # noqa: E402

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def sines(x):
    return jnp.sin(x) @ x.T


def normal(key):
    return jax.random.normal(key, (5,))


def cases():
    return {"sines": (jax.jit(sines), X), "random": (jax.jit(normal), jax.random.key(7))}


@pytest.mark.parametrize("name", ["sines", "random"])
def test_a_serialised_executable_gives_the_same_bits(name):
    function, x = cases()[name]
    compiled = function.lower(x).compile()
    loaded = se.deserialize_and_load(
        *pickle.loads(pickle.dumps(se.serialize(compiled))), execution_devices=jax.devices()[:1]
    )
    np.testing.assert_array_equal(loaded(x), compiled(x))


@pytest.mark.parametrize("name", ["sines", "random"])
def test_an_exported_function_gives_the_same_bits(name):
    pytest.importorskip("flatbuffers")
    function, x = cases()[name]
    exported = export.deserialize(export.export(function)(x).serialize())
    assert exported.platforms == ("neuron",)
    np.testing.assert_array_equal(exported.call(x), function(x))


def test_an_export_for_several_platforms_or_shapes_runs_here():
    for exported in (
        export.export(jax.jit(sines), platforms=["cpu", "neuron"])(X),
        export.export(jax.jit(sines))(
            jax.ShapeDtypeStruct(export.symbolic_shape("a,b"), jnp.float32)
        ),
    ):
        np.testing.assert_array_equal(exported.call(X), jax.jit(sines)(X))


def test_a_gradient_of_an_exported_function():
    pytest.importorskip("flatbuffers")
    exported = export.export(jax.jit(lambda x: jnp.sum(x**2)))(X).serialize(vjp_order=1)
    np.testing.assert_allclose(jax.grad(export.deserialize(exported).call)(X), 2 * X)


def test_a_program_with_callbacks_is_not_serialised():
    f = jax.jit(lambda x: jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct((), x.dtype), x))
    with pytest.raises(jax.errors.JaxRuntimeError, match="calls functions of this process"):
        f.lower(jnp.int32(1)).compile().runtime_executable().serialize()


def test_a_damaged_executable_is_refused():
    compiled = jax.jit(sines).lower(X).compile()
    client = jax.devices()[0].client
    data = bytearray(compiled.runtime_executable().serialize())
    data[len(data) // 2] ^= 1
    with pytest.raises(Exception, match="not a serialized vtrn executable, or damaged"):
        client.deserialize_executable(bytes(data), jax.devices()[:1])


def test_a_compiled_program_says_what_it_needs():
    compiled = jax.jit(sines).lower(X).compile()
    memory = compiled.memory_analysis()
    assert memory.argument_size_in_bytes == X.nbytes
    assert memory.output_size_in_bytes == 4 * 9
    assert compiled.cost_analysis()["flops"] == 2 * 3 * 3 * 4
    assert "HloModule" in compiled.as_text()
    assert "f32[5]" in jax.jit(normal).lower(jax.random.key(7)).compile().as_text()


CACHED = """
import jax, jax.numpy as jnp
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.split("/")[-1]))
jax.config.update("jax_compilation_cache_dir", {directory!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
print(jax.jit(lambda k: jax.random.normal(k, (3,)))(jax.random.key(1)).tolist())
f = jax.jit(lambda x: jax.pure_callback(lambda v: v, jax.ShapeDtypeStruct((), x.dtype), x) + 1)
print(f(jnp.int32(41)))
print(events.count("cache_hits"), events.count("cache_misses"))
"""


def test_the_persistent_cache_serves_the_next_process(tmp_path):
    """All but the program with a callback, which is another in each process."""
    lines = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", CACHED.format(directory=str(tmp_path))],
            capture_output=True, text=True, env=os.environ, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.splitlines())
    assert lines[0][:2] == lines[1][:2]
    assert lines[0][1] == "42"
    first, second = ([int(n) for n in run[2].split()] for run in lines)
    assert first[0] == 0
    assert second[0] == first[1]


def test_a_program_is_compiled_for_a_machine_that_is_not_there():
    from jax.experimental import topologies

    topology = topologies.get_topology_desc("trn2.48xlarge", "neuron", n_cores="2")
    assert [d.device_kind for d in topology.devices] == ["NC_v3", "NC_v3"]
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[1])
    compiled = jax.jit(sines).lower(jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=sharding)).compile()
    assert compiled.cost_analysis()["flops"] > 0
    assert compiled.memory_analysis().argument_size_in_bytes == X.nbytes


def test_what_was_compiled_for_a_described_machine_runs_here():
    from jax.experimental import topologies

    topology = topologies.get_topology_desc("", "neuron")
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    compiled = jax.jit(sines).lower(jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=sharding)).compile()
    loaded = se.deserialize_and_load(*se.serialize(compiled), execution_devices=jax.devices()[:1])
    np.testing.assert_array_equal(loaded(X), jax.jit(sines)(X))


@pytest.mark.parametrize("name, said", [("trn9", "trn9"), ("trn1.9xlarge", "trn1.9xlarge"), ("x" * 300, "300 bytes")])
def test_a_machine_that_does_not_exist_is_refused(name, said):
    from jax.experimental import topologies

    with pytest.raises(jax.errors.JaxRuntimeError, match=said):
        topologies.get_topology_desc(name, "neuron")
