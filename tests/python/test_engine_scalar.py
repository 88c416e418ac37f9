"""The Scalar engine's activation functions against double precision, every bf16 and fp16 code, and a
dense sweep of fp32."""

import numpy as np
import pytest

import engine_harness as h
from engine_harness import DTYPES, Machine, dense

special = pytest.importorskip("scipy.special")
pytestmark = pytest.mark.skipif(h.lib is None, reason="the C tests are not built")
np.seterr(all="ignore")


def sigmoid(x):
    return special.expit(x)


def normal(x):
    return special.ndtr(x)


def limit(f):
    """f where it is a number; at the infinities its limit."""
    def g(x):
        y = f(np.clip(x, -1e300, 1e300))
        y = np.where(x == -np.inf, f(np.float64(-1e4)), y)
        y = np.where(x == np.inf, np.where(f(np.float64(1e4)) > 10, np.inf, f(np.float64(1e4))), y)
        return np.where(np.isnan(x), np.nan, y)
    return g


def gated(f):
    """The limit of x times a share, but for -inf * 0."""
    return lambda x: np.where(x == -np.inf, np.nan, limit(f)(x))


def sin_as_documented(x):
    d = np.abs(x) - np.pi
    return np.where(np.abs(x) > np.float32(np.pi), np.sign(x) * (-d + d**3 / 6), np.sin(x))


def gelu_apprx_tanh(x):
    return x * sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


def mish(x):
    e = np.exp(np.minimum(x, 100))
    return x * (e * (e + 2)) / (e * (e + 2) + 2)


def sin_error(x):
    """Within the range none; beyond, the cubic's terms cancel near its root."""
    d = np.abs(x) - np.pi
    return np.where(np.abs(x) > np.float32(np.pi), 6e-7 * (np.abs(d) + np.abs(d) ** 3 / 6), 1e-14)


TINY = 2e-43  # a subnormal factor, with few bits, times a large x

# name: reference, ulp of the result that is allowed, absolute error that is allowed
FUNCTIONS = {
    "copy": (lambda x: x, 0, 0),
    "square": (lambda x: x * x, 0.5, 0),
    "abs": (np.abs, 0, 0),
    "sign": (np.sign, 0, 0),
    "relu": (lambda x: np.where(np.isnan(x), x, np.maximum(x, 0)), 0, 0),
    "exp": (np.exp, 2, 0),
    "tanh": (np.tanh, 2, 0),
    "sigmoid": (sigmoid, 2.5, 0),
    "silu": (gated(lambda x: x * sigmoid(x)), 3, TINY),
    "silu_dx": (limit(lambda x: sigmoid(x) * (1 + x * sigmoid(-x))), 4, 2e-7),
    "gelu": (gated(lambda x: x * normal(x)), 6, TINY),
    "gelu_dx": (limit(lambda x: normal(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)), 4, 2e-7),
    "gelu_apprx_tanh": (gated(gelu_apprx_tanh), 4, 3e-7),
    "gelu_apprx_sigmoid": (gated(lambda x: x * sigmoid(1.702 * x)), 4, 3e-7),
    "gelu_apprx_sigmoid_dx": (
        limit(lambda x: sigmoid(1.702 * x) * (1 + 1.702 * x * sigmoid(-1.702 * x))), 4, 3e-7),
    "erf": (special.erf, 2, 0),
    "erf_dx": (lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x), 3, 0),
    "softplus": (lambda x: np.logaddexp(x, 0), 3, 0),
    "mish": (gated(mish), 4, TINY),
    "log": (np.log, 2, 0),
    "sqrt": (np.sqrt, 0.5, 0),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1.5, 0),
    "reciprocal": (lambda x: 1 / x, 0.5, 0),
    "sin": (sin_as_documented, 2, sin_error),
    "arctan": (np.arctan, 2, 0),
}


level = h.each_level()


def sweep():
    """fp32 of every exponent, both signs, and the interesting interval more finely."""
    bits = np.arange(0, 1 << 32, 36_007, dtype=np.uint64).astype(np.uint32).view(np.float32)
    special_ = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-39], np.float32)
    return np.concatenate([special_, np.linspace(-20, 20, 100_001, dtype=np.float32), bits])


def apply(func, x, dst="fp32", scale=1.0, bias=0.0):
    """x of any dtype, 1-D, through as many partitions and calls as it takes."""
    m = Machine()
    width = 4096
    name = h.NAMES[x.dtype]
    out = []
    for start in range(0, x.size, 128 * width):
        part = x[start:start + 128 * width]
        rows = -(-part.size // width)
        padded = np.zeros(rows * width, x.dtype)
        padded[:part.size] = part
        src, d = dense(name, rows, width, 64 * 1024), dense(dst, rows, width)
        m.write(src, padded.reshape(rows, width))
        m.run("activate", d, src, func=func, engine="S", imm=(scale, bias))
        out.append(m.read(d).reshape(-1)[:part.size])
    return np.concatenate(out)


def check(func, x, got):
    reference, max_ulp, max_error = FUNCTIONS[func]
    want = np.broadcast_to(reference(x.astype(np.float64)), x.shape)
    as_fp32 = want.astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(want)), x[np.isnan(got) != np.isnan(want)][:5]
    ok = np.isfinite(as_fp32) & np.isfinite(got)
    over = ~ok & ~np.isnan(want) & (got != as_fp32)
    assert (np.abs(want[over]) > 3.4e38).all(), (x[over][:5], got[over][:5])
    ulp = np.spacing(np.abs(as_fp32[ok])).astype(np.float64)
    error = np.abs(got[ok].astype(np.float64) - want[ok])
    if callable(max_error):
        max_error = max_error(x[ok].astype(np.float64))
    bad = np.flatnonzero(error > np.maximum(max_ulp * ulp, max_error))
    worst = np.argmax(error / ulp)
    print(f"{func}: {error[worst] / ulp[worst]:.2f} ulp at {x[ok][worst]!r}")
    assert bad.size == 0, (bad.size, x[ok][bad[:5]], got[ok][bad[:5]], want[ok][bad[:5]])


@pytest.mark.parametrize("func", FUNCTIONS)
def test_fp32_stays_within_a_few_ulp(func):
    x = sweep()
    check(func, x, apply(func, x))


@pytest.mark.parametrize("func", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_every_half_precision_code_is_right(func, dtype):
    x = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    check(func, x.astype(np.float32), apply(func, x))


@pytest.mark.parametrize("bias", [0.0, -0.0])
def test_a_copy_of_bf16_gives_the_bits_of_the_arithmetic(level, bias):
    x = np.arange(1 << 16, dtype=np.uint16).view(DTYPES["bf16"])
    want = (x.astype(np.float32) * np.float32(1) + np.float32(bias)).astype(DTYPES["bf16"])
    want = np.where(np.isnan(x), x.view(np.uint16) & 0x8000 | 0x7fc0, want.view(np.uint16))
    assert want[0x8000] == (0x8000 if np.signbit(bias) else 0)
    assert np.array_equal(apply("copy", x, dst="bf16", bias=bias).view(np.uint16), want)


@pytest.mark.parametrize("func", FUNCTIONS)
def test_all_levels_give_the_same_bits(func):
    x = np.concatenate([sweep()[::5], np.random.default_rng(2).standard_normal(4096)
                        .astype(np.float32)])
    results = []
    for level_ in h.LEVELS:
        h.lib.harness_set_level(level_)
        y = apply(func, x, scale=1.25, bias=-0.5)
        results.append(np.where(np.isnan(y), np.float32(np.nan), y).tobytes())
    assert len(set(results)) == 1


def test_scale_and_bias_may_be_given_by_partition(level):
    m = Machine()
    rng = np.random.default_rng(4)
    x, d = dense("bf16", 128, 700, 64 * 1024), dense("bf16", 128, 700)
    scale, bias = dense("fp32", 128, 1, 128 * 1024), dense("bf16", 128, 1, 130 * 1024)
    m.write(x, rng.standard_normal((128, 700)))
    m.write(scale, rng.standard_normal((128, 1)))
    m.write(bias, rng.standard_normal((128, 1)))
    m.run("activate", d, x, scale, bias, func="relu", engine="S", n_threads=3)
    v = m.read(x).astype(np.float32) * m.read(scale) + m.read(bias).astype(np.float32)
    assert m.read(d).tobytes() == np.maximum(v, 0).astype(DTYPES["bf16"]).tobytes()


def test_accumulate_adds_row_sums_until_they_are_reset(level):
    m = Machine()
    rng = np.random.default_rng(5)
    x, d = dense("fp32", 100, 3001, 64 * 1024), dense("bf16", 100, 3001)
    total = dense("fp32", 100, 1, 128 * 1024)
    m.write(x, rng.standard_normal((100, 3001)))
    want = 2 * np.exp(m.read(x).astype(np.float64)).sum(1)
    for flags in (h.ACCUMULATE | h.RESET, h.ACCUMULATE):
        m.run("activate", d, x, func="exp", engine="S", flags=flags, imm=(1.0, 0.0))
    m.run("act_table_load", engine="S", arg=(1, 0))
    m.run("act_read_accumulator", total, engine="S", n_threads=2)
    np.testing.assert_allclose(m.read(total)[:, 0], want, rtol=2e-6)
    m.run("activate", d, x, func="exp", engine="S", flags=h.RESET, imm=(1.0, 0.0))
    m.run("act_read_accumulator", total, engine="S")
    assert (m.read(total) == 0).all()
