"""Products of 8-bit integers with 32-bit sums run on the PE array, exactly, whatever the chip takes."""

import jax.numpy as jnp
import numpy as np
import pytest

import capi
from chip_run import export

SIZES = [(1, 1, 1), (3, 31, 5), (31, 127, 33), (8, 1023, 17), (2, 1024, 129), (1, 1025, 3), (130, 3000, 33)]


def extremes(rng, shape, dtype):
    """Random, with rows and columns of the largest magnitude, so that sums are as large as they get."""
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    values[..., 0] = values[0] = info.min or info.max
    return values


def run(chip, f, *args):
    device = capi.Device(chip=chip, threads=2)
    try:
        executable = device.compile(export(f, *args))
        got = executable(*args)[0]
        profile = executable.profile()
        executable.destroy()
        return got, profile
    finally:
        device.close()


@pytest.mark.parametrize("chip", ["inf1", "trn1", "trn3"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("types", [(np.int8, np.int8), (np.uint8, np.int8), (np.uint8, np.uint8)])
def test_sums_are_exact_and_no_reference_op_is_left(rng, monkeypatch, chip, size, types):
    m, k, n = size
    monkeypatch.setenv("VTRN_VERIFY", "1")
    x, w = extremes(rng, (m, k), types[0]), extremes(rng, (k, n), types[1])
    want = x.astype(np.int64) @ w.astype(np.int64)
    forms = [lambda x, w: jnp.matmul(x.astype(jnp.int32), w.astype(jnp.int32))]
    if types[0] == types[1]:
        forms.append(lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.int32))
    for f in forms:
        got, profile = run(chip, f, x, w)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == np.int32
    monkeypatch.delenv("VTRN_VERIFY")
    assert run(chip, forms[0], x, w)[1].n_reference_ops == 0


def test_batches_and_several_contracted_dims(rng):
    a, b = extremes(rng, (3, 40, 7, 50), np.int8), extremes(rng, (3, 50, 9, 40), np.int8)
    f = lambda a, b: jnp.einsum("xkml,xlnk->xmn", a, b, preferred_element_type=jnp.int32)  # noqa: E731
    for chip in ("inf1", "inf2"):
        got, profile = run(chip, f, a, b)
        np.testing.assert_array_equal(got, np.einsum("xkml,xlnk->xmn", a.astype(np.int64), b.astype(np.int64)))
        assert profile.n_reference_ops == 0


def test_int8_takes_half_the_array_of_bf16_on_inf1(rng):
    """Products long enough that the array is what they wait for; operands that are there anyway."""
    import ml_dtypes

    x, w = (rng.integers(-9, 10, (1024, 1024)).astype(np.int8) for _ in range(2))
    narrow = run("inf1", lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.int32), x, w)[1]
    x, w = x.astype(ml_dtypes.bfloat16), w.astype(ml_dtypes.bfloat16)
    wide = run("inf1", lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32), x, w)[1]
    ratio = narrow.tensor_active * narrow.step_ns / (wide.tensor_active * wide.step_ns)
    assert 0.4 < ratio < 0.65, ratio


def test_a_product_that_may_overflow_int32_wraps_as_xla_does(rng):
    """Products of int32 are the reference's: 4 * 2^60 is 0."""
    x = np.full((2, 4), 2**30, np.int32)
    got, _ = run("inf2", lambda x: jnp.matmul(x, x.T), x)
    np.testing.assert_array_equal(got, np.full((2, 2), 0, np.int32))
