"""Devices, transfers, donation and errors of the JAX plugin."""

import os
import subprocess
import sys

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402


@pytest.fixture(autouse=True)
def sixty_four_bits():
    """Only here: the other tests want JAX's own defaults."""
    with jax.enable_x64(True):
        yield

DTYPES = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 bfloat16 float32 float64 "
    "complex64 complex128 float8_e4m3fn float8_e5m2 float8_e4m3 float8_e3m4 int2 int4 uint2 uint4 "
    "float8_e4m3fnuz float8_e5m2fnuz float8_e4m3b11fnuz float8_e8m0fnu float4_e2m1fn"
).split()


def neuron(i=0):
    return jax.devices("neuron")[i]


def test_trn1_2xlarge_has_two_neuron_cores():
    devices = jax.devices("neuron")
    assert len(devices) == 2
    assert [d.id for d in devices] == [0, 1]
    assert devices[0].platform == "neuron"
    assert devices[0].device_kind == "NC_v2"
    assert [m.kind for m in devices[0].addressable_memories()] == ["device", "pinned_host"]


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back_bit_for_bit(name):
    values = np.array([[0, 1, 1], [2, 3, 3]] if "int2" in name else [[0, 1, 2], [3, 4, 5]]).astype(jnp.dtype(name))
    back = np.asarray(jax.device_put(values, neuron()))
    assert back.dtype == values.dtype
    assert back.tobytes() == values.tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_any_strides_on_the_host_are_read(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, size=rng.integers(1, 5)))
    view = rng.standard_normal(shape).astype(np.float32)
    view = view[tuple(slice(None, None, int(rng.choice([-2, -1, 1, 2]))) for _ in shape)]
    view = view.transpose(rng.permutation(view.ndim))
    if seed % 2:
        view = np.broadcast_to(view, (3, *view.shape))
    np.testing.assert_array_equal(np.asarray(jax.device_put(view, neuron())), view)


def test_empty_arrays_keep_their_shape():
    back = np.asarray(jax.device_put(np.zeros((0, 3), np.float32), neuron()))
    assert back.shape == (0, 3)


def test_x_plus_1():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = jax.jit(lambda v: v + 1)(jax.device_put(x, neuron()))
    assert y.devices() == {neuron()}
    np.testing.assert_array_equal(np.asarray(y), x + 1)


def devices_of_a_new_process(n_cores):
    code = "import jax; print(len(jax.devices()))"
    env = {k: v for k, v in os.environ.items() if k != "NEURON_RT_NUM_CORES"}
    env |= {"NEURON_RT_NUM_CORES": n_cores} if n_cores else {}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_one_core_is_shown_unless_more_are_asked_for():
    assert devices_of_a_new_process(None) == "1"
    said = devices_of_a_new_process("5")
    assert "NEURON_RT_NUM_CORES asks for 5 NeuronCores; trn1.2xlarge has 2" in said


def test_a_computation_runs_where_its_data_is():
    x = jax.device_put(np.ones(5, np.float32), neuron(0))
    moved = jax.device_put(x, neuron(1))
    y = jax.jit(lambda v: v * 3)(moved)
    assert moved.devices() == y.devices() == {neuron(1)}
    np.testing.assert_array_equal(np.asarray(y), np.full(5, 3, np.float32))
    np.testing.assert_array_equal(np.asarray(x), np.ones(5, np.float32))


def test_a_donated_argument_is_deleted_and_its_memory_freed():
    f = jax.jit(lambda v: v * 2, donate_argnums=0)
    x = jax.device_put(np.ones(1000, np.float32), neuron())
    before = neuron().memory_stats()["bytes_in_use"]
    y = f(x)
    assert x.is_deleted()
    assert neuron().memory_stats()["bytes_in_use"] <= before + 1024  # scratch of the core
    np.testing.assert_array_equal(np.asarray(y), np.full(1000, 2, np.float32))
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(x)


@pytest.mark.parametrize("donated", [(0,), (0, 1)])
def test_what_a_call_donates_it_takes_once(donated):
    f = jax.jit(lambda x, y: x + y, donate_argnums=donated)
    x = jnp.ones(10)
    with pytest.raises(jax.errors.JaxRuntimeError, match="argument 1 is a buffer that another argument"):
        f(x, x)
    np.testing.assert_array_equal(f(x, x + 1), np.full(10, 3))  # it has not been consumed


def test_an_argument_that_is_not_donated_survives():
    x = jax.device_put(np.ones(7, np.float32), neuron())
    y = jax.jit(lambda v: v)(x)
    y.delete()
    np.testing.assert_array_equal(np.asarray(x), np.ones(7, np.float32))


def test_more_than_the_hbm_is_out_of_capacity_and_the_device_goes_on():
    with pytest.raises(Exception, match="out of capacity: HBM: 34359738368 bytes requested"):
        jax.jit(lambda: jnp.zeros((1 << 20, 1 << 13), jnp.float32))()
    test_x_plus_1()


def test_an_unknown_compile_option_is_named():
    x = jax.device_put(np.ones(2, np.float32), neuron())
    with pytest.raises(Exception, match="No such compile option: 'frobnicate'"):
        jax.jit(lambda v: v + 2, compiler_options={"frobnicate": True})(x)
    test_x_plus_1()


def test_options_that_tell_xla_how_to_work_are_accepted():
    x = jax.device_put(np.ones(2, np.float32), neuron())
    options = {"xla_embed_ir_in_executable": True, "xla_dump_max_hlo_modules": 200, "xla_dump_to": "/nowhere",
               "xla_gpu_auto_spmd_partitioning_memory_budget_ratio": 0.5}  # fmt: skip
    np.testing.assert_array_equal(jax.jit(lambda v: v + 3, compiler_options=options)(x), [4, 4])
    for name, value, kind in (("xla_embed_ir_in_executable", "perhaps", "bool"), ("xla_dump_to", 1, "string")):
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"'{name}': .* is not a valid {kind} value."):
            jax.jit(lambda v: v + 4, compiler_options={name: value})(x)


def test_memory_comes_back_when_arrays_die():
    device = neuron()
    before = device.memory_stats()["bytes_in_use"]
    x = jax.device_put(np.zeros(1 << 20, np.float32), device)
    assert device.memory_stats()["bytes_in_use"] >= before + (4 << 20)
    x.delete()
    assert device.memory_stats()["bytes_in_use"] <= before + 4096
    assert device.memory_stats()["peak_bytes_in_use"] >= before + (4 << 20)


def test_a_failing_program_leaves_nothing_behind():
    x = jax.device_put(np.ones((4, 4), np.float32), neuron())
    before = neuron().memory_stats()["bytes_in_use"]
    for _ in range(5):
        with pytest.raises(Exception):
            jax.jit(lambda v: v + 3, compiler_options={"nope": 1})(x)
    assert neuron().memory_stats()["bytes_in_use"] == before


def test_an_operation_may_run_as_its_reference():
    x = jax.device_put(np.linspace(-2, 2, 64, dtype=np.float32), neuron())
    options = {"vtrn_reference_only": True}
    y = jax.jit(lambda v: jnp.exp(v) + 1, compiler_options=options)(x)
    np.testing.assert_allclose(np.asarray(y), np.exp(np.asarray(x)) + 1, rtol=1e-6)


def test_tokens_are_arrays_of_no_kind():
    token = jax.jit(jax.lax.create_token)(1.0)
    y, after = jax.jit(lambda x, t: (x + 1, jax.lax.after_all(t)))(np.float32(1), token)
    assert y == 2 and type(after) is type(token)
    with pytest.raises(RuntimeError, match="token-shape"):
        np.asarray(after._buf)
