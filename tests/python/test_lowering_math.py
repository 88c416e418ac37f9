"""Integer arithmetic to the bit, and functions beyond the activation tables with stated errors."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from common import SEED

pytestmark = pytest.mark.part(2)


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def run(device, f, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*args)
    assert executable.profile().n_reference_ops == 0
    return got


def on_cpu(f, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        return [np.asarray(e) for e in jax.tree.leaves(jax.jit(f)(*args))]


def integers(rng, dtype, n=20_000):
    """Every size of number, and the neighbours of powers of two."""
    info = np.iinfo(dtype)
    bits = info.bits
    wide = rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    small = wide >> rng.integers(0, bits, n).astype(dtype)
    edges = np.array([0, 1, 2, 3, 5, 7, 10, info.max, info.max - 1, info.min, info.min + 1]
                     + [(1 << k) + d for k in range(bits - 1) for d in (-1, 0, 1)])  # fmt: skip
    edges = np.clip(edges, info.min, info.max).astype(dtype)
    edges = np.concatenate([edges, (0 - edges.astype(np.int64)).astype(dtype)])
    return np.concatenate([wide, small, rng.permutation(edges)])


INTS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32]


@pytest.mark.parametrize("dtype", INTS)
def test_division_is_exact_for_integers_of_every_size(device, dtype):
    rng = np.random.default_rng(SEED)
    a, b = integers(rng, dtype), rng.permutation(integers(rng, dtype))
    info = np.iinfo(dtype)
    q, r = run(device, lambda a, b: (lax.div(a, b), lax.rem(a, b)), a, b)
    wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
    safe = np.where(b == 0, 1, wide_b)
    quotient = np.abs(wide_a) // np.abs(safe) * np.sign(wide_a) * np.sign(safe)
    rest = wide_a - quotient * safe
    zero = b == 0
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(q[~zero], quotient.astype(dtype)[~zero])
    np.testing.assert_array_equal(r[~zero], rest.astype(dtype)[~zero])
    assert zero.any() and info.min in a
    np.testing.assert_array_equal(q[zero], np.full(zero.sum(), -1).astype(dtype))
    np.testing.assert_array_equal(r[zero], a[zero])
    for d in (1, 2, 3, 7, 100, info.max, info.min or 5):
        d = dtype(d)
        (q,) = run(device, lambda a, d=d: lax.div(a, d), a)
        wide_d = int(d)
        want = np.abs(wide_a) // abs(wide_d) * np.sign(wide_a) * np.sign(wide_d)
        np.testing.assert_array_equal(q, want.astype(dtype))


@pytest.mark.parametrize("dtype", INTS)
def test_integer_arithmetic_wraps(device, dtype):
    rng = np.random.default_rng(SEED)
    a, b = integers(rng, dtype), rng.permutation(integers(rng, dtype))
    s = rng.integers(0, np.iinfo(dtype).bits, a.size).astype(dtype)

    def f(a, b, s):
        return (a + b, a - b, a * b, -a, ~a, a & b, a | b, a ^ b, lax.max(a, b), lax.min(a, b),
                a < b, a >= b, a == b, lax.shift_left(a, s), lax.shift_right_logical(a, s),
                lax.shift_right_arithmetic(a, s), lax.population_count(a), lax.clz(a), a + 3, a * 7,
                lax.clamp(dtype(3), a, dtype(100)), lax.sign(a), jnp.abs(a))  # fmt: skip

    for i, (g, e) in enumerate(zip(run(device, f, a, b, s), on_cpu(f, a, b, s), strict=True)):
        np.testing.assert_array_equal(g, e, f"result {i}")


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("to", INTS)
def test_integers_convert_to_integers_by_their_low_bits(device, dtype, to):
    a = integers(np.random.default_rng(SEED), dtype, 1000)
    (got,) = run(device, lambda a: lax.convert_element_type(a, to), a)
    np.testing.assert_array_equal(got, a.astype(to))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_zeros_are_ordered_by_their_sign(dtype, device):
    """maximum and minimum, their reductions and clamp, as XLA has them on the CPU."""
    zeros = np.array([0.0, -0.0], dtype)
    a, b = (v.ravel().repeat(20) for v in np.meshgrid(zeros, zeros))
    pairs = np.stack([a, b], 1)

    def f(a, b, pairs):
        constants = [dtype(0.0), dtype(-0.0)]
        return ([g(x, y) for g in (lax.max, lax.min) for x, y in ((a, b), *((a, c) for c in constants))]
                + [g(pairs, (axis,)) for g in (lax.reduce_max, lax.reduce_min) for axis in (0, 1)]
                + [lax.clamp(constants[0], a, dtype(1)), lax.clamp(dtype(-1), a, constants[1])])  # fmt: skip

    args = a, b, pairs
    for i, (g, e) in enumerate(zip(run(device, f, *args), on_cpu(f, *args), strict=True)):
        np.testing.assert_array_equal(np.signbit(g), np.signbit(e), f"result {i}")


def of_every_exponent(rng, n, low=-126, high=128):
    return (rng.choice([-1, 1], n) * np.exp2(rng.uniform(low, high, n))).astype(np.float32)


def in_ulps(got, exact):
    ulp = np.exp2(np.maximum(np.floor(np.log2(np.abs(exact))), -126) - 23)
    return np.abs(got.astype(np.float64) - exact) / ulp


def test_quotients_of_fp32_tensors_are_rounded_once(device):
    rng = np.random.default_rng(SEED)
    a, b = of_every_exponent(rng, 100_000, -110, 127), of_every_exponent(rng, 100_000, -126, 127.9)
    with np.errstate(over="ignore"):
        exact = a.astype(np.float64) / b
        is_normal = (np.abs(exact) >= 2.0**-116) & np.isfinite(exact.astype(np.float32))
    got, one = run(device, lambda a, b: (a / b, b / b), a, b)
    assert in_ulps(got, exact)[is_normal].max() < 0.51
    np.testing.assert_array_equal(one, 1)
    # numerators and divisors of all magnitudes, subnormal ones and those with a subnormal reciprocal
    a, b = of_every_exponent(rng, 200_000, -149, 128), of_every_exponent(rng, 200_000, -149, 128)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        exact = a.astype(np.float64) / b
        rounded = exact.astype(np.float32)
    (got,) = run(device, lambda a, b: a / b, a, b)
    is_normal = (np.abs(exact) >= 2.0**-116) & (np.abs(exact) < 2.0**127)
    assert is_normal.sum() > 100_000 and in_ulps(got, exact)[is_normal].max() < 0.51
    is_small = np.abs(exact) < 2.0**-116
    assert in_ulps(got, exact)[is_small].max() <= 1.5
    is_beyond = np.abs(exact) > 2.0**128
    np.testing.assert_array_equal(got[is_beyond], rounded[is_beyond])


def test_quotients_of_what_is_no_number_are_those_of_ieee(device):
    some = np.float32([0, -0.0, 1, -3, 3.4e38, -3.4e38, 2e-38, np.inf, -np.inf, np.nan])
    a, b = (np.tile(v.ravel(), 3) for v in np.meshgrid(some, some))
    with np.errstate(all="ignore"):
        want = a / b
    (got,) = run(device, lambda a, b: a / b, a, b)
    np.testing.assert_array_max_ulp(got[np.isfinite(want)], want[np.isfinite(want)], 1)
    np.testing.assert_array_equal(got[~np.isfinite(want)], want[~np.isfinite(want)])
    np.testing.assert_array_equal(np.signbit(got[want == 0]), np.signbit(want[want == 0]))


def test_angles_beyond_an_eighth_of_a_circle_are_within_an_ulp(device):
    rng = np.random.default_rng(SEED)
    x = np.concatenate([rng.uniform(1.5, 4, 100_000), np.exp2(rng.uniform(-20, 100, 100_000))]).astype(np.float32)
    y = np.exp2(rng.uniform(-20, 20, x.size)).astype(np.float32) * rng.choice([-1, 1], x.size).astype(np.float32)
    one, two = run(device, lambda x, y: (jnp.arctan(x), jnp.arctan2(y, x - 3)), x, y)
    assert in_ulps(one, np.arctan(x.astype(np.float64))).max() <= 1
    assert in_ulps(two, np.arctan2(y.astype(np.float64), (x - np.float32(3)).astype(np.float64))).max() <= 1.5


def test_log1p_and_atan_at_their_edges(device):
    x = np.float32([0, -0.0, 1e-30, -1e-30, 2.0**-24, -(2.0**-24), 1, -1, -1.5, 3.4e38, np.inf, -np.inf, np.nan])
    log1p, atan = run(device, lambda x: (jnp.log1p(x), jnp.arctan(x)), x)
    with np.errstate(all="ignore"):
        want = np.log1p(x.astype(np.float64)), np.arctan(x.astype(np.float64))
    for got, exact in zip((log1p, atan), want):
        np.testing.assert_array_max_ulp(got, exact.astype(np.float32), 2)
        np.testing.assert_array_equal(np.signbit(got[:6]), np.signbit(exact[:6]))
    x = np.concatenate([of_every_exponent(np.random.default_rng(SEED), 50_000, -120, 120),
                        np.linspace(-2, 2, 20_001, dtype=np.float32)])
    (got,) = run(device, jnp.arctan, x)
    assert in_ulps(got[x != 0], np.arctan(x[x != 0].astype(np.float64))).max() < 1.3


def test_atan2_knows_every_octant(device):
    rng = np.random.default_rng(SEED)
    special = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, 1e-30, -1e30, np.nan, 3], np.float32)
    y, x = (v.ravel() for v in np.meshgrid(special, special))
    y = np.concatenate([y, rng.standard_normal(50_000)]).astype(np.float32)
    x = np.concatenate([x, rng.standard_normal(50_000)]).astype(np.float32)
    (got,) = run(device, lambda y, x: lax.atan2(y, x), y, x)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    number = ~np.isnan(exact)
    error = np.abs(got - exact)[number]
    print(f"largest error {error.max():.3g}")
    assert error.max() <= 5e-7
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(exact[number]))


def test_atan2_holds_over_all_magnitudes(device):
    """Within two and a half ulp from subnormal numbers to the largest, in every pairing."""
    rng = np.random.default_rng(SEED)
    edges = [1e-45, -3e-39, 1.2e-38, 1e-30, -1e20, 1e30, 2e38, 3.4e38, -np.inf, np.inf, 1.0]
    y, x = (v.ravel() for v in np.meshgrid(edges, edges))
    bits = rng.integers(0, 2**32, (2, 100_000), np.uint32).view(np.float32)
    bits = bits[:, np.isfinite(bits).all(0)]
    y, x = np.concatenate([y, bits[0]]).astype(np.float32), np.concatenate([x, bits[1]]).astype(np.float32)
    (got,) = run(device, lambda y, x: lax.atan2(y, x), y, x)
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    ulp = np.spacing(np.maximum(np.abs(exact), 2.0**-126).astype(np.float32))
    assert (np.abs(got - exact) / ulp).max() <= 2.5


def test_cube_root_is_within_an_ulp_over_all_of_fp32(device):
    rng = np.random.default_rng(SEED)
    x = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    (got,) = run(device, jnp.cbrt, np.concatenate([x, np.float32([0, -0.0, np.inf, -np.inf, np.nan])]))
    exact = np.cbrt(x.astype(np.float64))
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(got[:-5] - exact) / ulp).max() <= 1.05
    np.testing.assert_array_equal(got[-5:], [0, 0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(np.signbit(got[-5:-1]), [False, True, False, True])


def floats(rng):
    base = np.concatenate([2.0 ** np.arange(-149, 128), [65504, 65519, 65520, 65536, 3.4e38, np.inf]])
    base = base.astype(np.float32)
    near = [base, np.nextafter(base, np.float32(0)), np.nextafter(base, np.float32(np.inf))]
    wide = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([*near, wide, np.float32([0, np.nan])])
    return np.concatenate([x, -x])


@pytest.mark.parametrize("bits", [(8, 7), (5, 10), (8, 10), (5, 2), (4, 3), (8, 23), (6, 12)])
def test_reduce_precision_is_exact(device, bits):
    x = floats(np.random.default_rng(SEED))
    f = lambda x: lax.reduce_precision(x, *bits)  # noqa: E731
    (got,), (expected,) = run(device, f, x), on_cpu(f, x)
    if bits == (8, 7):
        np.testing.assert_array_equal(got, x.astype(ml_dtypes.bfloat16).astype(np.float32))
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    flushed = (np.abs(x) < 2.0**-126) & (expected == 0)  # XLA's CPU may flush subnormal operands
    assert (same | flushed).all(), x[~(same | flushed)][:5]
    np.testing.assert_array_equal(np.signbit(got[~np.isnan(x)]), np.signbit(x[~np.isnan(x)]))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_cube_roots_of_narrow_floats_round_once(device, dtype):
    x = np.random.default_rng(SEED).uniform(-9, 9, 5000).astype(dtype)
    (got,) = run(device, jnp.cbrt, x)
    exact = np.cbrt(x.astype(np.float64))
    assert np.abs(got.astype(np.float64) - exact).max() <= float(ml_dtypes.finfo(dtype).eps) * 1.6


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.uint8, np.int8, np.bool_])
@pytest.mark.parametrize("seed", range(2))
def test_arg_reductions_take_the_first_of_equals_and_nan_before_all(device, dtype, seed):
    rng = np.random.default_rng(SEED + seed)
    shape = tuple(int(d) for d in rng.integers(1, 30, 3))
    x = rng.integers(-3 if dtype != np.uint8 else 0, 4, shape).astype(dtype)
    if dtype == np.int32 and seed:
        x = rng.integers(-(2**31), 2**31 - 1, shape, dtype=np.int32)
    if dtype == np.float32:
        odd = rng.random(shape)
        x[odd < 0.03] = np.nan
        x[odd > 0.97] = -np.inf
        x[0, 0] = -np.inf
    print(f"seed {SEED + seed}: {shape}")

    def f(x):
        return [g(x, axis) for axis in (0, 1, 2, None) for g in (jnp.argmax, jnp.argmin)]

    for g, e in zip(run(device, f, x), on_cpu(f, x), strict=True):
        np.testing.assert_array_equal(g, e)


@pytest.mark.parametrize("shape", [(3, 40000), (1, 100000), (200, 5000), (1, 1)])
def test_arg_reductions_of_long_rows(device, shape):
    x = np.random.default_rng(SEED).integers(0, 60000, shape).astype(np.float32)
    f = lambda x: (jnp.argmax(x, 1), jnp.argmin(x, 1), x.max(1))  # noqa: E731
    for g, e in zip(run(device, f, x), on_cpu(f, x), strict=True):
        np.testing.assert_array_equal(g, e)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
@pytest.mark.parametrize("seed", range(3))
def test_integer_reductions_are_exact_and_wrap(device, dtype, seed):
    rng = np.random.default_rng(SEED + seed)
    shape = tuple(int(d) for d in rng.integers(1, 40, 3)) if seed else (3, 9001, 2)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    print(f"seed {SEED + seed}: {shape}")

    def f(x):
        return [reduce(x + 1, axes) for axes in ((0,), (1,), (2,), (0, 2), (0, 1, 2))
                for reduce in (lax.reduce_sum, lax.reduce_prod, lax.reduce_max, lax.reduce_min,
                               lax.reduce_and, lax.reduce_or, lax.reduce_xor)]  # fmt: skip

    for i, (got, expected) in enumerate(zip(run(device, f, x), on_cpu(f, x), strict=True)):
        np.testing.assert_array_equal(got, expected, f"result {i}")


@pytest.mark.parametrize("shape", [(5,), (33, 7), (3, 5, 77), (129, 300), (2, 1, 4, 3), (70001,)])
def test_random_bits_are_those_of_the_cpu(device, shape):
    key = np.array([17, 4000000000], np.uint32)
    f = lambda k: jax.random.bits(k, shape)  # noqa: E731
    (got,), (expected,) = run(device, f, key), on_cpu(f, key)
    np.testing.assert_array_equal(got, expected)


def test_counters_of_64_bits_wrap_into_words(device):
    def f(x):
        i = lax.iota(jnp.uint64, 300) * jnp.uint64(7) + jnp.uint64(2**32 - 50)
        return lax.convert_element_type(i, jnp.uint32) + x

    with jax.enable_x64(True):
        (got,) = run(device, f, np.uint32(1))
    np.testing.assert_array_equal(got, ((np.arange(300) * 7 + 2**32 - 50) % 2**32).astype(np.uint32) + 1)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, np.float16])
@pytest.mark.parametrize("seed", range(2))
def test_cumulative_reductions_run_along_any_dimension(device, dtype, seed):
    rng = np.random.default_rng(SEED + seed)
    shape = tuple(int(d) for d in rng.integers(1, 50, 3))
    x = rng.integers(0, 3, shape).astype(dtype)
    if dtype == np.int32:
        x = rng.integers(-(2**31), 2**31 - 1, shape, dtype=np.int32)
    print(f"seed {SEED + seed}: {shape}")

    def f(x):
        return [g(x, axis, reverse=r) for axis in (0, 1, 2) for r in (False, True)
                for g in (lax.cumsum, lax.cummax, lax.cummin)
                + ((lax.cumprod,) if dtype != np.float16 else ())]  # fmt: skip

    with np.errstate(over="ignore"):
        for i, (got, expected) in enumerate(zip(run(device, f, x), on_cpu(f, x), strict=True)):
            np.testing.assert_array_equal(got, expected, f"result {i}")


def test_the_total_order_of_floats_puts_nan_outside_of_infinity(device):
    nan = np.float32(np.nan)
    values = np.array([-nan, -np.inf, -1, -1e-45, -0.0, 0.0, 1e-45, 1, np.inf, nan], np.float32)
    a, b = (v.ravel() for v in np.meshgrid(values, values))
    rank_a, rank_b = (v.ravel() for v in np.meshgrid(np.arange(10), np.arange(10)))
    (less,) = run(device, lambda a, b: lax.lt_to_p.bind(a, b), a, b)
    np.testing.assert_array_equal(less, rank_a < rank_b)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, jnp.bfloat16, np.uint8])
def test_sorting_is_stable_and_puts_nan_last(device, dtype):
    rng = np.random.default_rng(SEED)
    x = rng.integers(0 if np.dtype(dtype).kind == "u" else -9, 9, (5, 3, 37)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        odd = rng.random(x.shape)
        x[odd < 0.05], x[odd > 0.95], x[(odd > 0.5) & (x == 0)] = np.nan, -np.inf, -0.0
    if dtype in (np.int32, np.uint32):
        x[0] = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, x[0].shape, dtype=dtype, endpoint=True)

    def f(x):
        return [g(x, axis) for axis in (0, 2) for g in (jnp.sort, jnp.argsort)] + list(
            lax.sort((x, x * 2, lax.iota(jnp.int32, x.size).reshape(x.shape)), num_keys=1))

    for i, (got, expected) in enumerate(zip(run(device, f, x), on_cpu(f, x), strict=True)):
        np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64), f"result {i}")


@pytest.mark.parametrize("shape, k", [((60, 20), 3), ((1, 1000), 40), ((200, 130), 130)])
def test_the_largest_come_first_and_equal_ones_in_order(device, shape, k):
    x = np.random.default_rng(SEED).integers(-30, 30, shape).astype(np.float32)
    f = lambda x: lax.top_k(x, k)  # noqa: E731
    for got, expected in zip(run(device, f, x), on_cpu(f, x), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("f, oracle", [(jnp.expm1, np.expm1), (jnp.log1p, np.log1p)],
                         ids=["expm1", "log1p"])  # fmt: skip
def test_expm1_and_log1p_of_16_bits_are_rounded_once(device, f, oracle, dtype):
    """Every number of the type: the nearest to the exact result, or the other one of a tie's two."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    (got,) = run(device, f, every)
    with np.errstate(all="ignore"):
        exact = oracle(every.astype(np.float64))
        spread = np.abs(exact) * 2.0**-20
        low, high = ((exact + d).astype(dtype).astype(np.float64) for d in (-spread, spread))
    zero = every.view(np.uint16) << 1 == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(every[zero]))
    got = got.astype(np.float64)
    wrong = ~((got >= low) & (got <= high) | (got == exact) | (np.isnan(got) & np.isnan(exact)))
    assert not wrong.any(), [(float(every[i]), got[i], exact[i]) for i in np.flatnonzero(wrong)[:5]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("n", [1, 31, 33, 127, 129, 513, 1023])
def test_elu_of_16_bits_trains_on_the_engines(device, dtype, n):
    rng = np.random.default_rng(SEED)
    x, w = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((7, n), (n, 5)))

    def f(x, w):
        return jax.value_and_grad(lambda w: jnp.mean(jax.nn.elu(x @ w).astype(jnp.float32) ** 2))(w)

    got, want = run(device, f, np.asarray(x), np.asarray(w)), on_cpu(f, x, w)
    for g, w in zip(got, want):
        np.testing.assert_allclose(np.float32(g), np.float32(w), rtol=0.02, atol=0.02)
