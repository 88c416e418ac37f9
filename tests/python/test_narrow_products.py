"""Products in fp32 of operands that are conversions from bf16 or fp16 are made in that type: products of two
such numbers are exact in fp32, so every bit is that of the fp32 product."""

import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from chip_run import dump, run

BF16, FP16, FP32 = ml_dtypes.bfloat16, np.float16, np.float32


def wide(x):
    return x.astype(jnp.float32)


def product(a, b):
    return wide(a) @ wide(b)


def through_views(a, b):
    """Heads that a reshape and a transpose make of what was converted."""
    q, k = (wide(x).reshape(4, 16, 2, 32).transpose(0, 2, 1, 3) for x in (a, b.T))
    return jnp.einsum("bhqd,bhkd->bhqk", q, k)


FORMS = {"product": product, "through views": through_views}


def extremes(rng, shape, dtype):
    """Numbers of every exponent, subnormal ones included."""
    bits = rng.integers(0, 2**16, shape).astype(np.uint16)
    x = bits.view(dtype)
    return np.where(np.isfinite(x.astype(FP32)), x, dtype(1)).astype(dtype)


@pytest.mark.parametrize("chip", ["trn1", "trn2", "inf2"])
@pytest.mark.parametrize("dtype", [BF16, FP16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", FORMS)
def test_every_bit_is_that_of_the_fp32_product(rng, name, dtype, chip):
    f = FORMS[name]
    for a, b in ([rng.normal(size=s).astype(dtype) for s in ((64, 64), (64, 64))],
                 [extremes(rng, (64, 64), dtype), extremes(rng, (64, 64), dtype)]):  # fmt: skip
        (got,) = run(f, a, b, chip=chip)
        (want,) = run(f, a.astype(FP32), b.astype(FP32), chip=chip)
        np.testing.assert_array_equal(got.view(np.uint32)[~np.isnan(want)], want.view(np.uint32)[~np.isnan(want)])
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@pytest.mark.parametrize("name", FORMS)
def test_it_is_made_in_the_narrow_type(rng, name, tmp_path):
    a, b = (rng.normal(size=(64, 64)).astype(BF16) for _ in range(2))
    assert re.search("contract .* in bf16", dump(FORMS[name], a, b, stage="place", tmp_path=tmp_path))


def test_operands_of_other_values_stay_wide(rng, tmp_path):
    a, b, c = rng.normal(size=(64, 64)).astype(BF16), rng.normal(size=(64, 64)).astype(FP16), np.ones((64, 64), FP32)
    for f, args in ((product, (a, b)), (product, (a, c)), (lambda a, b: jnp.tanh(wide(a)) @ wide(b), (a, a))):
        assert re.search("contract .* in fp32", dump(f, *args, stage="place", tmp_path=tmp_path))
