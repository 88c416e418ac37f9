"""Conversions to wider floats stand where they are read: what others read in the narrow type is in memory
once. The loss of logits that a product makes in bf16 and the loss takes in fp32. And products of a scale
that is a power of two, which are folded without another bit."""

import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from chip_run import dump, run

BF16, FP16, FP32 = ml_dtypes.bfloat16, np.float16, np.float32


def loss_of(x, w, targets):
    logits = (x @ w).astype(jnp.float32)
    score = jnp.take_along_axis(logits, targets[:, None], -1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, -1) - score)


def step(x, w, targets):
    return jax.value_and_grad(loss_of, (0, 1))(x, w, targets)


def arguments(rng, rows=130, width=96, n_classes=3001):
    x = rng.normal(size=(rows, width)).astype(BF16)
    w = (rng.normal(size=(width, n_classes)) / width**0.5).astype(BF16)
    return x, w, rng.integers(0, n_classes, rows).astype(np.int32)


def test_the_loss_and_its_gradients(rng):
    args = arguments(rng)
    got = run(step, *args)
    with jax.default_device(jax.devices("cpu")[0]):
        want = jax.tree.leaves(jax.jit(step)(*args))
    for g, w, bound in zip(got, want, (1e-4, 2e-2, 2e-2), strict=True):
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        np.testing.assert_allclose(g, w, 0, bound * np.abs(w).max())


def test_logits_are_in_memory_once_and_narrow(rng, tmp_path):
    plan = dump(step, *arguments(rng), stage="place", tmp_path=tmp_path)
    logits = str(130 * 3001)
    assert not re.findall(rf"-> t\d+ : fp32 \[{logits} x 1\]", plan), plan
    assert len(re.findall(rf"-> t\d+ : bf16 \[{logits} x 1\]", plan)) == 2, plan  # and their gradient


def test_a_conversion_that_is_read_in_a_loop(rng):
    """The loop's body captures the wide value, others read the narrow one."""

    def f(x, y):
        narrow = (x @ y).astype(jnp.bfloat16)
        wide = narrow.astype(jnp.float32)
        other = narrow + narrow
        return jax.lax.fori_loop(0, 3, lambda i, s: s + wide * 0.5, jnp.zeros_like(wide)), other, wide

    args = [rng.integers(-3, 4, (40, 40)).astype(FP32) for _ in range(2)]
    narrow = (args[0] @ args[1]).astype(BF16).astype(FP32)
    for g, w in zip(run(f, *args), (1.5 * narrow, (2 * narrow).astype(BF16), narrow), strict=True):
        np.testing.assert_array_equal(g.astype(FP32), w.astype(FP32))


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("scale", [0.125, 1.0, 0.1, 2.0, 2.0**-20])
def test_a_scale_behind_a_product_of_tensors(rng, dtype, scale):
    """(a * b) * scale, of which no bit depends on which is multiplied first where the scale is a power of 2."""
    a, b = (rng.normal(size=(256, 256)).astype(dtype) for _ in range(2))
    (got,) = run(lambda a, b: (a * b * dtype(scale)).astype(jnp.float32), a, b)
    exact = a.astype(np.float64) * b.astype(np.float64) * float(dtype(scale))
    np.testing.assert_allclose(got, exact, float(ml_dtypes.finfo(dtype).eps), 2.0**-24 if dtype == FP16 else 0)


def test_the_scale_of_attention_weights_is_folded(rng, tmp_path):
    """ds = (dp / n + r) * p * 2^-3: two instructions behind the quotient."""

    def f(d, n, r, p):
        return (d / n[:, None] + r[:, None]) * p * 0.125

    d, p = (rng.normal(size=(256, 256)).astype(FP32) for _ in range(2))
    n, r = 1 + rng.random(256).astype(FP32), rng.normal(size=256).astype(FP32)
    plan = dump(f, d, n, r, p, stage="place", tmp_path=tmp_path)
    assert re.search(r"%(\d+) = add : fp32 %\d+ %\d+, full, folded[^=]*(=[^=]*){1,2}= multiply : fp32 %\1 0.125, full\n", plan), plan
    (got,) = run(f, d, n, r, p)
    np.testing.assert_allclose(got, (d / n[:, None] + r[:, None]) * p * np.float32(0.125), 1e-6, 1e-6)
