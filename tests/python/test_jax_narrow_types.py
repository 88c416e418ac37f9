"""Types that no engine has, integers of 2 and 4 bits and floats of 4 to 8, as a JAX program uses them:
moved and converted as written, computed on wider types where an engine can. The oracle computes in float32 with NumPy and
rounds with ml_dtypes: XLA on the CPU aborts on some of these programs, and has others wrong."""

import conftest
import ml_dtypes
import numpy as np
import pytest
from common import SEED

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

INTS = [jnp.int2, jnp.int4, jnp.uint2, jnp.uint4]
FLOATS = [jnp.float8_e4m3b11fnuz, jnp.float8_e4m3fnuz, jnp.float8_e5m2fnuz, jnp.float8_e8m0fnu, jnp.float4_e2m1fn]
each_type = pytest.mark.parametrize("dtype", INTS + FLOATS, ids=lambda t: np.dtype(t).name)
each_int = pytest.mark.parametrize("dtype", INTS, ids=lambda t: np.dtype(t).name)


def rounded(x, dtype):
    """Integers wrap, floats round."""
    if dtype in INTS:
        info = ml_dtypes.iinfo(dtype)
        low, high = int(info.min), int(info.max)
        x = (np.asarray(x).astype(np.int64) - low) % (high - low + 1) + low
    return np.asarray(x).astype(dtype)


def values(dtype, shape=(6, 8), seed=0):
    rng = np.random.default_rng([SEED, seed])
    if dtype in INTS:
        info = ml_dtypes.iinfo(dtype)
        return rng.integers(int(info.min), int(info.max) + 1, shape).astype(dtype)
    return (np.abs(rng.standard_normal(shape)) + 0.1).astype(dtype)


def check(f, args, want):
    placed = jax.device_put(args, jax.devices("neuron")[0])
    for got, expected in zip(jax.tree.leaves(jax.jit(f)(*placed)), want, strict=True):
        assert got.shape == expected.shape and got.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(got).astype(np.float32), expected.astype(np.float32))


@each_type
def test_elements_move(dtype):
    x, i = values(dtype), np.int32(2)
    n = x.astype(np.float32)
    moved = [n, n.T, n[1:3, 2:], n.reshape(-1), n[::-1], np.broadcast_to(n, (3, 6, 8)), np.concatenate([n, n[:2]]),
             n[2], n[2:4], np.where(np.arange(8) > 3, n, n[::-1]), np.pad(n, 1, constant_values=1)]
    check(lambda x, i: [x, x.T, x[1:3, 2:], x.reshape(-1), x[::-1], jnp.broadcast_to(x, (3, 6, 8)),
                        jnp.concatenate([x, x[:2]]), x[i], lax.dynamic_slice(x, (i, 0), (2, 8)),
                        jnp.where(jnp.arange(8) > 3, x, x[::-1]), jnp.pad(x, 1, constant_values=x.dtype.type(1))],
          (x, i), [m.astype(dtype) for m in moved])


@each_type
def test_converting_rounds_wraps_and_widens(dtype):
    x = values(dtype, seed=1)
    n = x.astype(np.float32)
    i = np.arange(-20, 20, dtype=np.int32)
    wide = np.array([0.3, 1.6, -1.6, 2.5, 100, -100, 0.01], np.float32)
    if dtype in INTS:
        info = ml_dtypes.iinfo(dtype)
        narrowed = np.clip(np.trunc(wide), int(info.min), int(info.max)).astype(dtype)
    else:
        narrowed = wide.astype(dtype)
    check(lambda x, i, w: [x.astype(jnp.float32), x.astype(jnp.bfloat16), x.astype(jnp.int32), i.astype(dtype),
                           w.astype(dtype)],
          (x, i, wide), [n, n.astype(jnp.bfloat16), np.trunc(n).astype(np.int32),
                         rounded(i, dtype) if dtype in INTS else i.astype(np.float32).astype(dtype), narrowed])


@each_type
def test_arithmetic_rounds_or_wraps_each_result(dtype):
    x, y = values(dtype, seed=2), values(dtype, seed=3)
    a, b = x.astype(np.float32), y.astype(np.float32)
    check(lambda x, y: [x + y, x * y, jnp.maximum(x, y), x < y, x == y], (x, y),
          [rounded(a + b, dtype), rounded(a * b, dtype), np.maximum(a, b).astype(dtype), a < b, a == b])
    if dtype != jnp.float8_e8m0fnu:  # JAX's initial value is -inf, which only that type cannot bound
        check(lambda x: [x.max(0)], (x,), [a.max(0).astype(dtype)])


@each_type
def test_values_pass_through_loops_updates_and_constants(dtype):
    x = values(dtype, seed=4)
    n, constant = x.astype(np.float32), values(dtype, (8,), seed=5)
    updated = n.copy()
    updated[3] = constant.astype(np.float32)

    def f(x):
        last, seen = lax.scan(lambda c, a: (jnp.where(a > c, a, c), c), x[0], x)
        return [last, seen, x.at[3].set(constant), x * jnp.asarray(constant)]

    running = np.maximum.accumulate(np.concatenate([n[:1], n]), 0)
    check(f, (x,), [running[-1].astype(dtype), running[:-1].astype(dtype), updated.astype(dtype),
                    rounded(n * constant.astype(np.float32), dtype)])


@pytest.mark.parametrize("dtype", [*FLOATS, jnp.float8_e4m3fn, jnp.float8_e5m2], ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("method, ufunc", [("max", np.maximum), ("min", np.minimum), ("multiply", np.multiply)])
def test_scatters_combine_where_a_type_has_no_infinity(dtype, method, ufunc):
    """Places met by none, one and two updates; a block of places without any needs what changes nothing."""
    x, updates = values(dtype), values(dtype, (3, 8), 1)
    if method == "multiply":  # exactly, in whatever order
        updates = np.where(updates > dtype(1), 2, 1).astype(dtype)
    at, want = np.array([1, 1, 4]), x.copy()
    for i, row in zip(at, updates):
        want[i] = ufunc(want[i].astype(np.float32), row.astype(np.float32)).astype(dtype)
    check(lambda x, u: getattr(x.at[at], method)(u), (x, updates), [want])


@each_int
def test_weights_of_few_bits_multiply_activations(dtype):
    w, x = values(dtype, (96, 40), seed=6), np.random.default_rng(SEED).standard_normal((16, 96)).astype(np.float32)
    scale = np.linspace(0.5, 2, 40).astype(np.float32)
    placed = jax.device_put((x, w, scale), jax.devices("neuron")[0])
    got = jax.jit(lambda x, w, s: x @ (w.astype(jnp.float32) * s))(*placed)
    np.testing.assert_allclose(got, x @ (w.astype(np.float32) * scale), rtol=1e-5, atol=1e-4)


@each_int
def test_bits_are_packed_lowest_first(dtype):
    per_byte = 4 if "2" in np.dtype(dtype).name else 2
    x = values(dtype, (5, per_byte), seed=7)
    width = 8 // per_byte
    codes = x.astype(np.int32) & ((1 << width) - 1)
    packed = (codes << (np.arange(per_byte) * width)).sum(1).astype(np.uint8)
    check(lambda x, p: [lax.bitcast_convert_type(x, jnp.uint8), lax.bitcast_convert_type(p, dtype)], (x, packed),
          [packed, x])


@each_int
def test_sorting_and_products_of_integers(dtype):
    x = values(dtype, seed=8)
    n = x.astype(np.int64)
    check(lambda x: [jnp.sort(x, 1), lax.dot_general(x, x, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32)],
          (x,), [np.sort(n, 1).astype(dtype), (n @ n.T).astype(np.int32)])
