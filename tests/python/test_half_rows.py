"""Values of 16 bits that vary by row only, or not at all: engines take them as fp32 scalars."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import capi
from reference_oracle import compare
from test_lowering import run

pytestmark = pytest.mark.part(2)


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


CASES = {
    "a sum": lambda x, r, s: (x + r, r + x, x + s, s + s),
    "a difference, both ways": lambda x, r, s: (x - r, r - x, s - x, x - s, s - s),
    "a product": lambda x, r, s: (x * r, s * x, s * s),
    "a quotient": lambda x, r, s: (x / r, s / x),
    "extremes": lambda x, r, s: (jnp.maximum(x, r), jnp.minimum(s, x)),
    "comparisons": lambda x, r, s: (x < r, r <= x, s > x, x == r, s != s, s >= s),
    "a clamp": lambda x, r, s: lax.clamp(-s, x, s),
    "a selection": lambda x, r, s: jnp.where(x > r, r, jnp.where(r > s, s, x)),
    "a chain that folds": lambda x, r, s: ((x * r) + r, (x - s) * r, (r - x) * x),
    "a row made by a reduction": lambda x, r, s: (x - jnp.max(x, 1, keepdims=True),
                                                  x * jnp.min(x, 1, keepdims=True)),
    "a row made of rows": lambda x, r, s: (x + (r * s + r), x * jnp.abs(r - s)),
    "a row that is stored and used": lambda x, r, s: (r + s, x + (r + s)),
    "a softmax": lambda x, r, s: jax.nn.softmax(x, axis=1),
    "a layer norm": lambda x, r, s: (x - x.mean(1, keepdims=True)) * lax.rsqrt(
        x.var(1, keepdims=True) + 1e-3),
}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("shape", [(1, 1), (300, 40)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_half_precision_row_takes_part_in(name, shape, dtype, device):
    rng = np.random.default_rng(len(name))
    x = rng.standard_normal(shape).astype(dtype)
    r = (rng.random((shape[0], 1)) + 0.5).astype(dtype)
    want, got, profile = run(device, CASES[name], x, r, np.array(0.75, dtype))
    compare(want, got)
    assert profile.n_reference_ops == 0
