"""Products that are read in another order of their dims than they are written in: the scores of groups
of heads that share a key head, with their softmax and the product behind it. Values against NumPy in
float64, and the bytes that go through HBM."""

import capi
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from test_training_movement import device, run  # noqa: F401

pytestmark = pytest.mark.part(2)

BF16, FP32 = ml_dtypes.bfloat16, np.float32


def scores(q, k):
    return jnp.einsum("brhgw,bhkw->bhgrk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5


def attend(q, k, v):
    return jnp.einsum("bhgrk,bhkw->brhgw", jax.nn.softmax(scores(q, k), -1).astype(v.dtype), v)


def attend_64(q, k, v):
    s = np.einsum("brhgw,bhkw->bhgrk", q, k) * q.shape[-1] ** -0.5
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("bhgrk,bhkw->brhgw", p / p.sum(-1, keepdims=True), v)


def heads(rng, dtype, batch, rows, n_heads, n_groups, n_keys, width):
    """Queries, keys and values, in which no two heads or rows are alike."""
    shapes = (batch, rows, n_heads, n_groups, width), (batch, n_heads, n_keys, width), (batch, n_heads, n_keys, width)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


SIZES = [
    (1, 1, 1, 1, 1, 1),
    (1, 1, 2, 4, 33, 16),
    (2, 31, 2, 3, 32, 8),
    (1, 128, 2, 1, 127, 64),
    (1, 129, 3, 2, 129, 40),
    (2, 32, 2, 8, 64, 96),
    (1, 256, 1, 2, 512, 128),
    (1, 100, 2, 2, 1000, 24),
]


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("size", SIZES)
def test_groups_of_heads_share_keys(device, rng, dtype, size):  # noqa: F811
    q, k, v = heads(rng, dtype, *size)
    (got,), _ = run(device, attend, q, k, v)
    want = attend_64(*(x.astype(np.float64) for x in (q, k, v)))
    ulp = {FP32: 2**-18, BF16: 2**-6}[dtype]
    np.testing.assert_allclose(np.asarray(got).astype(np.float64), want, ulp, ulp * np.abs(want).max())


@pytest.mark.parametrize(
    "spec",
    ["abk,ck->cba", "abk,cdk->dcba", "abk,cdk->dcab", "kab,kcd->dcba", "nabk,nck->ncba", "akb,ck->cba", "nkab,nck->ncba"],
)
def test_any_order_of_dims(device, rng, spec):  # noqa: F811
    """Dims of both operands change places, contiguous or not, with batch dims or without."""
    size = dict(zip("nabcdk", (3, 5, 7, 11, 2, 13), strict=True))
    ins = spec.split("->")[0].split(",")
    x, y = (rng.integers(-4, 5, [size[d] for d in dims]).astype(FP32) for dims in ins)
    (got,), _ = run(device, lambda x, y: jnp.einsum(spec, x, y), x, y)
    np.testing.assert_array_equal(got, np.einsum(spec, x, y))
    (got,), _ = run(device, lambda x, y: jnp.einsum(spec, x, y) * 2 + 1, x, y)
    np.testing.assert_array_equal(got, np.einsum(spec, x, y) * 2 + 1)


@pytest.mark.parametrize("chip", ["trn1", "trn2"])
def test_scores_stay_on_the_chip(rng, chip):
    """Nothing but operands and the result, whose dims are put in order, passes through HBM; the scores
    in fp32 would be 1 MiB."""
    q, k, v = heads(rng, BF16, 1, 256, 2, 2, 256, 64)
    fresh = capi.Device(chip, threads=2)
    _, profile = run(fresh, attend, q, k, v)
    fresh.close()
    assert profile.hbm_read_bytes + profile.hbm_write_bytes <= 2 * (q.size + k.size + v.size + 3 * q.size)
