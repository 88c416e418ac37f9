"""Arrays that pass between the device and other libraries."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "complex64", "float16", "uint32"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (5, 1, 4)])
def test_an_array_of_the_device_reaches_numpy_through_dlpack(dtype, shape):
    want = (np.arange(np.prod(shape)).reshape(shape) % 3).astype(dtype)
    x = jax.device_put(want)
    assert x.devices() == {jax.devices()[0]}
    got = np.from_dlpack(x)
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_what_another_library_got_stays_when_the_array_is_gone():
    x = jnp.arange(1000.0)
    got = np.from_dlpack(x)
    x.delete()
    np.testing.assert_array_equal(got, np.arange(1000.0))


def test_an_array_of_numpy_reaches_the_device_and_comes_back():
    want = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = jax.device_put(jnp.from_dlpack(want), jax.devices()[0])
    np.testing.assert_array_equal(np.from_dlpack(x + 1), want + 1)


def test_a_copy_that_is_forbidden_is_refused():
    with pytest.raises(BufferError, match="copied to the host"):
        jnp.ones(3).__dlpack__(copy=False)


def test_arrays_of_the_cpu_go_their_own_way():
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        x = jnp.arange(3)
    assert np.from_dlpack(x).tolist() == [0, 1, 2]
