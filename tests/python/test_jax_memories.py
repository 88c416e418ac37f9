"""Memory kinds: HBM and the memory of the host."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax.ad_checkpoint import checkpoint_name  # noqa: E402

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def place(kind):
    return jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind=kind)


def bytes_in_use():
    return jax.devices()[0].memory_stats()["bytes_in_use"]


def test_each_core_has_hbm_and_memory_of_the_host():
    device = jax.devices()[0]
    assert [m.kind for m in device.addressable_memories()] == ["device", "pinned_host"]
    assert device.default_memory().kind == "device"


@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (33, 1025)])
@pytest.mark.parametrize("name", ["bool", "int8", "bfloat16", "float32"])
def test_arrays_go_to_the_host_and_back_bit_for_bit(shape, name):
    values = np.random.default_rng(3).integers(0, 2, shape).astype(jnp.dtype(name))
    before = bytes_in_use()
    there = jax.device_put(values, place("pinned_host"))
    assert there.sharding.memory_kind == "pinned_host"
    assert bytes_in_use() == before
    assert np.asarray(there).tobytes() == values.tobytes()
    back = jax.device_put(there, place("device"))
    assert back.sharding.memory_kind == "device"
    assert np.asarray(back).tobytes() == values.tobytes()
    assert np.asarray(jax.device_put(back, place("pinned_host"))).tobytes() == values.tobytes()


def test_a_program_takes_arguments_from_the_host_and_gives_results_there():
    @jax.jit
    def f(x):
        y = jax.device_put(x, place("device")) * 2
        return y, jax.device_put(y + 1, place("pinned_host"))

    x = jax.device_put(X, place("pinned_host"))
    before = bytes_in_use()
    for _ in range(3):
        y, z = f(x)
        assert (y.sharding.memory_kind, z.sharding.memory_kind) == ("device", "pinned_host")
        np.testing.assert_array_equal(y, X * 2)
        np.testing.assert_array_equal(z, X * 2 + 1)
    np.testing.assert_array_equal(x, X)
    assert bytes_in_use() <= before + 4096  # y, and the core's scratch


def test_outputs_can_be_asked_for_on_the_host():
    y = jax.jit(lambda x: x + 1, out_shardings=place("pinned_host"))(X)
    assert y.sharding.memory_kind == "pinned_host"
    np.testing.assert_array_equal(y, X + 1)


def test_what_is_donated_on_the_host_is_gone():
    f = jax.jit(lambda x: x + 1, donate_argnums=0, out_shardings=place("pinned_host"))
    x = jax.device_put(X, place("pinned_host"))
    y = f(x)
    assert x.is_deleted()
    np.testing.assert_array_equal(y, X + 1)


def test_optimizer_state_lives_on_the_host():
    """Its moments are on the host between steps, as in ZeRO-Offload."""

    @jax.jit
    def step(w, m, x):
        m_here = jax.device_put(m, place("device"))
        g = jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w)
        m_here = 0.9 * m_here + g
        return w - 0.01 * m_here, jax.device_put(m_here, place("pinned_host"))

    w = jnp.ones((4, 2))
    m = jax.device_put(jnp.zeros((4, 2)), place("pinned_host"))
    w_host, m_host = np.ones((4, 2), np.float32), np.zeros((4, 2), np.float32)
    for _ in range(3):
        w, m = step(w, m, X / 10)
        m_host = np.float32(0.9) * m_host + 2 * (X.T / 10) @ (X / 10 @ w_host)
        w_host = w_host - np.float32(0.01) * m_host
    assert m.sharding.memory_kind == "pinned_host"
    np.testing.assert_allclose(w, w_host, rtol=1e-5)
    np.testing.assert_allclose(m, m_host, rtol=1e-5)


def test_residuals_may_be_offloaded():
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["h"],
        offload_src="device",
        offload_dst="pinned_host",
    )

    def layer(x):
        return jnp.sin(checkpoint_name(jnp.tanh(x), "h"))

    f = jax.jit(jax.grad(lambda x: jax.checkpoint(layer, policy=policy)(x).sum()))
    np.testing.assert_allclose(f(X), jax.jit(jax.grad(lambda x: layer(x).sum()))(X), rtol=1e-6)


def test_a_compiled_program_counts_both_memories():
    f = jax.jit(lambda x: x + 1, in_shardings=place("pinned_host"), out_shardings=place("device"))
    memory = f.lower(X).compile().memory_analysis()
    assert (memory.host_argument_size_in_bytes, memory.argument_size_in_bytes) == (X.nbytes, 0)
    assert (memory.host_output_size_in_bytes, memory.output_size_in_bytes) == (0, X.nbytes)
