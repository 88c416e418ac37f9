"""Products with weights of a byte an element: converted on the way from HBM, exact, and read once."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import capi
from chip_run import export

pytestmark = pytest.mark.part(4)

KINDS = [np.int8, np.uint8, ml_dtypes.float8_e4m3, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
SIZES = [(1, 1, 1), (1, 576, 192), (31, 33, 127), (129, 128, 513), (4, 1000, 511)]


def stored(rng, kind, shape):
    if np.dtype(kind).kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max + 1, shape).astype(kind)
    return rng.standard_normal(shape).astype(kind)


@pytest.mark.parametrize("chip", ["inf2", "trn2", "trn3"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_a_product_reads_narrow_weights_as_they_are(rng, chip, kind, size):
    m, k, n = size
    device = capi.Device(chip=chip, threads=2)
    for dtype, largest in ((jnp.bfloat16, 1e-2), (jnp.float32, 2e-6)):
        x = rng.standard_normal((m, k)).astype(dtype)
        for is_turned in (False, True):
            w = stored(rng, kind, (n, k) if is_turned else (k, n))

            def f(x, w):
                wide = w.astype(dtype)
                return jnp.matmul(x, wide.T if is_turned else wide, preferred_element_type=jnp.float32)

            executable = device.compile(export(f, x, w))
            got = executable(x, w)[0]
            wide = np.float64(w.T if is_turned else w)
            want, terms = np.float64(x) @ wide, np.abs(np.float64(x)) @ np.abs(wide)
            assert (np.abs(got - want) <= largest * terms + 1e-30).all()
            profile = executable.profile()
            assert profile.n_reference_ops == 0
            if m <= 128:
                least = x.nbytes + w.nbytes
                assert profile.hbm_read_bytes <= 1.05 * least + 4096
        executable.destroy()
    device.close()


def test_weights_that_others_read_too_are_converted_for_them(rng):
    x, w = rng.standard_normal((5, 40)).astype(np.float32), stored(rng, np.int8, (40, 30))

    def f(x, w):
        wide = w.astype(jnp.float32)
        return x @ wide, jnp.tanh(wide * 0.01)

    device = capi.Device(chip="inf2", threads=2)
    product, other = device.compile(export(f, x, w))(x, w)
    np.testing.assert_allclose(product, x @ w.astype(np.float32), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(other, np.tanh(w * 0.01), atol=1e-5)
    device.close()
