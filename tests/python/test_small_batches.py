"""Products of many small batches, whose tiles have several batches side by side: heads of ten tokens and
the like, with what joins them. Values against NumPy in float64; no batch sees another one's numbers."""

import collections
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from chip_run import dump, run

pytestmark = pytest.mark.part(3)

BF16, FP32 = ml_dtypes.bfloat16, np.float32
TOLERANCE = {FP32: 2**-17, BF16: 2**-6}
CHIPS = ["trn1", "inf2", "trn2"]


def check(f, *args, tolerance, chip="trn1"):
    """The same function of float64 arrays is the oracle."""
    got = run(f, *args, chip=chip)
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        want = jax.tree.leaves(f(*(jnp.asarray(a.astype(np.float64)) for a in args)))
    for g, w in zip(got, want, strict=True):
        w = np.asarray(w)
        np.testing.assert_allclose(g.astype(np.float64), w, 0, tolerance * np.abs(w).max())


def attend(q, k, v, bias=None):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.promote_types(q.dtype, FP32))
    scores = scores * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias, -1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def heads(rng, *shape, dtype=FP32, n=3):
    return [rng.normal(size=shape).astype(dtype) for _ in range(n)]


SIZES = [(100, 10, 8, 64), (5, 50, 12, 64), (7, 13, 3, 20), (3, 33, 5, 128), (64, 3, 2, 7), (9, 64, 4, 64), (11, 1, 8, 32)]  # fmt: skip


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("size", SIZES)
def test_attention(rng, size, dtype, chip):
    check(attend, *heads(rng, *size, dtype=dtype), tolerance=TOLERANCE[dtype], chip=chip)


@pytest.mark.parametrize("where", ["batch", "head", "row", "key", "all"])
def test_what_is_added_is_of_some_dims(rng, where):
    """A bias that is the same for all batches is loaded once; others come with their tiles."""
    sizes = {"batch": (6, 1, 1, 1), "head": (1, 5, 1, 1), "row": (6, 1, 12, 1), "key": (1, 1, 1, 12), "all": (6, 5, 12, 12)}  # fmt: skip
    bias = rng.normal(size=sizes[where]).astype(FP32)
    check(attend, *heads(rng, 6, 12, 5, 16), bias, tolerance=TOLERANCE[FP32])


def test_a_mask_of_infinities(rng):
    mask = np.where(np.tril(np.ones((12, 12))), 0, -np.inf).astype(FP32)
    check(attend, *heads(rng, 6, 12, 5, 16), mask, tolerance=TOLERANCE[FP32])


@pytest.mark.parametrize("where", ["all", "head", "row", "key", "number"])
def test_a_choice_by_a_mask(rng, where):
    """A mask that is a tensor of some dims, or that a comparison makes."""
    sizes = {"all": (6, 5, 12, 12), "head": (1, 5, 1, 1), "row": (6, 1, 12, 1), "key": (1, 1, 1, 12), "number": ()}
    mask = rng.random(sizes[where]).astype(FP32)

    def f(q, k, v, mask):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * 0.25
        scores = jnp.where(mask > 0.4, scores, -1e9)
        weights = jnp.where(scores < -1e8, 0.0, jax.nn.softmax(scores, -1))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    check(f, *heads(rng, 6, 12, 5, 16), mask, tolerance=TOLERANCE[FP32])


def test_a_causal_mask_is_side_by_side_too(rng, tmp_path):
    args = heads(rng, 12, 10, 8, 64)

    def f(q, k, v):
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        weights = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((10, 10), bool)), scores, -1e9), -1)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v)

    check(f, *args, tolerance=TOLERANCE[FP32])
    assert len(re.findall("batches side by side", dump(f, *args, stage="place", tmp_path=tmp_path))) == 2


def test_infinities_and_nan_stay_in_their_batch(rng):
    q, k, v = heads(rng, 7, 13, 3, 20)
    q[1, 4, 2, 0], k[2, 3, 1, 4], v[3, 0, 0, 0], v[5, 2, 1, 7] = np.nan, np.inf, np.nan, -np.inf
    (got,) = run(attend, q, k, v)
    want = np.asarray(jax.device_put(jax.jit(attend)(*jax.device_put((q, k, v), jax.devices("cpu")[0])), jax.devices("cpu")[0]))  # fmt: skip
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(want))
    np.testing.assert_allclose(got[np.isfinite(want)], want[np.isfinite(want)], 1e-5, 1e-5)


def rows_and_columns(a, b, row, col, one):
    """A factor a row, a divisor a column, a number from memory, sums and maxima along the rows, and a
    result that is one value a row."""
    y = jnp.einsum("bmk,bnk->bmn", a, b)
    y = jnp.tanh(y * row[..., None] / col + one)
    top = y.max(-1)
    return y / (1 + top[..., None] ** 2), top * row, (y * y).sum(-1)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("n_batch", [5, 64, 67])
def test_values_of_one_a_row_and_one_a_column(rng, n_batch, chip):
    a, b = rng.normal(size=(n_batch, 9, 17)).astype(FP32), rng.normal(size=(n_batch, 11, 17)).astype(FP32)
    row, col = rng.normal(size=(n_batch, 9)).astype(FP32), 1 + rng.random(11).astype(FP32)
    one = np.float32(0.3).reshape(())
    check(rows_and_columns, a, b, row, col, one, tolerance=2**-16, chip=chip)


def test_gradients(rng):
    q, k, v = heads(rng, 12, 10, 4, 16)
    check(lambda *x: jax.grad(lambda *x: (attend(*x) ** 2).sum(), (0, 1, 2))(*x), q, k, v, tolerance=2**-15)


def test_operands_that_are_views(rng):
    """Heads that a transpose, a reshape or a slice gives."""
    x = rng.normal(size=(2, 9, 3 * 4 * 16)).astype(FP32)

    def f(x):
        q, k, v = (t.reshape(2, 9, 4, 16) for t in jnp.split(x, 3, -1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q[:, ::-1], k)
        return jnp.einsum("bhqk,bkhd->bhdq", jax.nn.softmax(scores, -1), v)

    check(f, x, tolerance=TOLERANCE[FP32])


def test_the_same_bits_for_any_number_of_threads(rng):
    args = heads(rng, 20, 10, 8, 64, dtype=BF16)
    got = [run(attend, *args, threads=n)[0].view(np.uint8) for n in (1, 2, 3)]
    assert (got[0] == got[1]).all() and (got[0] == got[2]).all()


def test_a_tile_has_several_batches(rng, tmp_path):
    """Transposes and matmuls are as many as batches; all else is one instruction for several of them,
    and the weights of the second product never leave SBUF."""
    args = heads(rng, 48, 10, 8, 64, dtype=BF16)
    plan = dump(attend, *args, stage="place", tmp_path=tmp_path)
    assert len(re.findall("48 batches side by side", plan)) == 2, plan
    text = dump(attend, *args, stage="emit", tmp_path=tmp_path)
    n_of = collections.Counter(line.split()[0] for line in text.splitlines() if line)
    assert n_of["Vector"] + n_of["Scalar"] < 384 and n_of["Sync"] < 64, n_of
    assert re.search(r"divide .* stays at", plan)
    wide = dump(attend, *heads(rng, 4, 128, 8, 64, dtype=BF16), stage="place", tmp_path=tmp_path)
    assert "side by side" not in wide
