"""Lowered programs against JAX on the CPU: one case an op family, random data, stated bounds."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import capi
from common import SEED


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def rand(*shape, dtype=np.float32, lo=-2.0, hi=2.0, seed=[SEED]):
    seed[0] += 1
    rng = np.random.default_rng(seed[0])
    if np.issubdtype(dtype, np.integer):
        return rng.integers(int(lo), int(hi), shape, dtype=dtype)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    return (rng.random(shape) * (hi - lo) + lo).astype(dtype)


def run(device, f, *args):
    """f on the CPU and on the virtual chip -> (expected, got, profile)."""
    with jax.default_device(jax.devices("cpu")[0]):
        jitted = jax.jit(f)
        expected = jax.tree.leaves(jitted(*args))
        exported = jax.export.export(jitted, platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    leaves = jax.tree.leaves(args)
    got = executable(*[np.asarray(leaves[i]) for i in exported.module_kept_var_idx])
    return [np.asarray(e) for e in expected], got, executable.profile()


def check(device, f, *args, rtol=2e-6, atol=2e-6):
    expected, got, profile = run(device, f, *args)
    assert len(expected) == len(got)
    for e, g in zip(expected, got):
        assert e.shape == g.shape and e.dtype == g.dtype
        if e.dtype.kind in "iub":
            np.testing.assert_array_equal(g, e)
        else:
            np.testing.assert_allclose(g.astype(np.float64), e.astype(np.float64), rtol, atol)
    assert profile.n_reference_ops == 0
    return profile


CASES = {
    "x plus one": (lambda x: x + 1, rand(3, 5)),
    "scalar arithmetic": (lambda x: x * 2 - 1, np.float32(3)),
    "odd sizes": (lambda x, y: x * y + x, rand(1237), rand(1237)),
    "large flat": (lambda x, y: x * y - x, rand(300, 1001), rand(300, 1001)),
    "two outputs": (lambda x: (x + 1, (x + 1) * 2), rand(40, 70)),
    "same output twice": (lambda x: (x + 1, x + 1), rand(7)),
    "argument as output": (lambda x, y: (y, x), rand(7), rand(9)),
    "constant output": (lambda x: jnp.full((3, 4), 2.5), rand(2)),
    "divide": (lambda x, y: x / y + 1 / y, rand(50, 60), rand(50, 60, lo=1, hi=3)),
    "divide by scalar": (lambda x: x / 3.0, rand(64)),
    "unary": (
        lambda x: (jnp.exp(x), jnp.tanh(x), jnp.log(x), jnp.sqrt(x), lax.rsqrt(x), -x,
                   jnp.abs(-x), jnp.sign(x), lax.logistic(x)),
        rand(33, 65, lo=0.1, hi=3),
    ),  # fmt: skip
    "maximum minimum clamp": (
        lambda x, y: (jnp.maximum(x, y), jnp.minimum(x, 0.5), jnp.clip(x, -1, 1)),
        rand(100), rand(100),
    ),  # fmt: skip
    "compare select": (
        lambda x, y: (jnp.where(x > y, x, 0.0), jnp.where(x <= 0, 1.0, y), x == y, x != 0),
        rand(17, 130), rand(17, 130),
    ),  # fmt: skip
    "logic": (lambda a, b: (a & b, a | b, a ^ b, ~a), rand(99, dtype=np.bool_),
              rand(99, dtype=np.bool_)),  # fmt: skip
    "int32": (
        lambda a, b: (a + b, a - b, a * b, -a, jnp.maximum(a, b), a < b, a == 7, a + 123456789),
        rand(300, dtype=np.int32, lo=-2**31, hi=2**31 - 1),
        rand(300, dtype=np.int32, lo=-2**31, hi=2**31 - 1),
    ),  # fmt: skip
    "uint32 bits": (
        lambda a, b: (a ^ b, a & b, a | 255, ~a, a << 13, a >> 19, a * b + 1),
        rand(257, dtype=np.uint32, lo=0, hi=2**32 - 1),
        rand(257, dtype=np.uint32, lo=0, hi=2**32 - 1),
    ),  # fmt: skip
    "converts": (
        lambda x, n, p: (n.astype(jnp.float32), p.astype(jnp.float32), x.astype(jnp.bfloat16),
                         p.astype(jnp.int32), n.astype(jnp.uint32), x != 0),
        rand(70), rand(70, dtype=np.int32, lo=-1000, hi=1000), rand(70, dtype=np.bool_),
    ),  # fmt: skip
    "broadcast row and column": (
        lambda x, r, c: x * r[:, None] + c[None, :], rand(200, 96), rand(200), rand(96)),
    "broadcast scalar": (lambda x, s: x * s, rand(20, 30), rand()),
    "transpose add": (lambda x, y: x.T + y, rand(130, 50), rand(50, 130)),
    "transpose": (lambda x: jnp.transpose(x, (2, 0, 1)), rand(5, 6, 7)),
    "slice reverse": (lambda x: x[2:30:3, ::-1] * 2, rand(40, 20)),
    "reshape of transpose": (lambda x: x.T.reshape(-1, 10) + 1, rand(20, 30)),
    "iota": (lambda x: x + jnp.arange(12, dtype=jnp.float32)[None, :], rand(5, 12)),
    "concatenate pad": (
        lambda x, y: (jnp.concatenate([x, y * 2], 1), jnp.pad(x, ((1, 2), (0, 3)))),
        rand(6, 7), rand(6, 9),
    ),  # fmt: skip
    "pad interior and negative": (
        lambda x: (lax.pad(x, 1.5, ((1, 1, 2), (-1, -2, 0))), lax.pad(x, 0.0, ((-1, 2, 1), (0, 0, 0)))),
        rand(6, 7),
    ),  # fmt: skip
    "gradient of unstacking": (
        jax.grad(lambda x: sum((i + 1.0) * (p ** 2).sum() for i, p in enumerate(jnp.moveaxis(x, 1, 0)))),
        rand(6, 3, 50),
    ),  # fmt: skip
    "gradient of overlapping slices": (
        jax.grad(lambda x: (x[:7] ** 2).sum() + (x[3:] ** 3).sum() + (x[::2] * 2).sum()), rand(10, 9)),
    "row sums": (lambda x: (x.sum(1), x.max(1), x.min(-1)), rand(300, 77)),
    "column sums": (lambda x: (x * 2).sum(0), rand(300, 77)),
    "middle sum": (lambda x: x.sum(1), rand(4, 50, 6)),
    "leading sum of long rows": (lambda x: x.sum(0) * 2, rand(16, 40, 128)),
    "full sum": (lambda x: (x.sum(), jnp.mean(x * x)), rand(64, 100)),
    "column max": (lambda x: x.max(0), rand(90, 40)),
    "softmax": (lambda x: jax.nn.softmax(x), rand(200, 96)),
    "log softmax loss": (
        lambda x, y: -jnp.mean(jnp.sum(jax.nn.log_softmax(x) * jax.nn.one_hot(y, 10), -1)),
        rand(50, 10), rand(50, dtype=np.int32, lo=0, hi=10),
    ),  # fmt: skip
    "layer norm": (
        lambda x, g, b: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(
            jnp.var(x, -1, keepdims=True) + 1e-5) * g + b,
        rand(4, 50, 128), rand(128), rand(128),
    ),  # fmt: skip
    "gelu": (lambda x: jax.nn.gelu(x), rand(100, 64)),
    "matmul": (lambda a, b: a @ b, rand(130, 70), rand(70, 90)),
    "matmul long": (lambda a, b: a @ b, rand(20, 5000), rand(5000, 30)),
    "matmul wide": (lambda a, b: a @ b, rand(60, 33), rand(33, 2500)),
    "matmul transposed": (lambda a, b: (a.T @ b, b.T @ a), rand(140, 60), rand(140, 200)),
    "matmul both transposed": (lambda a, b: jnp.einsum("ki,jk->ij", a, b), rand(140, 60),
                               rand(50, 140)),  # fmt: skip
    "vector products": (lambda a, b: (a @ b, jnp.outer(a, b), jnp.dot(a, a)), rand(100), rand(100)),
    "batched": (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), rand(6, 40, 50), rand(6, 50, 30)),
    "matmul in a long wide fusion": (
        lambda a, b, p, m, v: (
            p - 0.1 * (m * 0.9 + a.T @ b) / (jnp.sqrt(v * 0.9 + (a.T @ b) ** 2) + 1e-3),
            m * 0.9 + 0.1 * (a.T @ b), v * 0.9 + 0.1 * (a.T @ b) ** 2),
        rand(100, 130), rand(100, 512), rand(130, 512), rand(130, 512), rand(130, 512, lo=0),
    ),  # fmt: skip
    "matmul transposed afterwards": (
        lambda a, b: ((a @ b).T + 1, jnp.transpose(jnp.einsum("bij,bkj->bik", a[None], b.T[None]),
                                                  (0, 2, 1)) * 2),
        rand(70, 30), rand(30, 520),
    ),  # fmt: skip
    "attention": (
        lambda q, k, v: jnp.einsum(
            "bhts,bshd->bthd", jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k)), v),
        rand(2, 64, 4, 32), rand(2, 64, 4, 32), rand(2, 64, 4, 32),
    ),  # fmt: skip
    "max pool": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        rand(3, 8, 8, 5)),
    "pool padded": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
        rand(3, 9, 9, 5)),
    "max pool grad": (
        jax.grad(lambda x: (lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1),
                                              "VALID") ** 2).sum()),
        rand(3, 8, 8, 5)),
    "max pool grad overlapping": (
        jax.grad(lambda x: (lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1),
                                              "SAME") ** 2).sum()),
        rand(2, 9, 9, 4)),
    "embedding": (lambda t, i: t[i], rand(50, 32), rand(4, 70, dtype=np.int32, lo=0, hi=50)),
    "embedding grad": (
        jax.grad(lambda t, i: (t[i] ** 2).sum()), rand(50, 32),
        rand(4, 70, dtype=np.int32, lo=0, hi=50)),
    "take along axis": (
        lambda x, i: jnp.take_along_axis(x, i[:, None], 1)[:, 0], rand(60, 20),
        rand(60, dtype=np.int32, lo=0, hi=20)),
    "take along axis grad": (
        jax.grad(lambda x, i: (jnp.take_along_axis(x, i[:, None], 1) ** 2).sum()), rand(60, 20),
        rand(60, dtype=np.int32, lo=0, hi=20)),
    "while": (lambda x: lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] * 1.5), (0, x))[1],
              rand(10)),
    "fori with dynamic trip": (lambda x, n: lax.fori_loop(0, n, lambda i, c: c + i, x), rand(10),
                               np.int32(7)),  # fmt: skip
    "cond": (lambda p, x: lax.cond(p, lambda v: v + 1, lambda v: v * 2, x), np.bool_(True), rand(9)),
    "switch": (lambda i, x: lax.switch(i, [lambda v: v + 1, lambda v: v * 2, lambda v: -v], x),
               np.int32(2), rand(9)),
    "a branch gives back what is there": (
        lambda i, x: (lambda y: lax.switch(i, [lambda: y, lambda: y * 2, lambda: x[1]]))(jnp.exp(x[0])), np.int32(0), rand(9)),
    "empty": (lambda x: x + 1, np.zeros((0, 3), np.float32)),
    "sums of pairs": (lambda x: jnp.repeat(x, 2, 1).reshape(9, 7, 2, 90, 4).sum(2), rand(9, 7, 90, 4)),
    "extremes of few": (lambda x: (x.max(1), x.min((1, 2)), (x * 2).prod(2)), rand(40, 3, 2, 70)),
    "sum over few in bf16": (lambda x: x.astype(jnp.bfloat16).sum(1).astype(jnp.float32), np.round(rand(40, 3, 70) * 9)),
    "transposed into a sum": (lambda x, y: x.T * 2 + y, rand(700, 300), rand(300, 700)),
    "transposed in a batch": (lambda x: jnp.tanh(x.transpose(0, 2, 1)) + 1, rand(6, 200, 130)),
    "sum over the middle": (lambda x: (x.sum(1), x.max(1), (x * x).sum((0, 1))), rand(9, 200, 130)),
    "transposed and used twice": (lambda x: (x.T + 1, jnp.tanh(x.T).sum(0)), rand(400, 300)),
}  # fmt: skip

def every_kind_of_float():
    """Ties, neighbours of integers, zeros, subnormals, powers of two to infinity, NaN; both signs."""
    base = np.concatenate([
        np.arange(0, 20, 0.25), np.arange(2**22 - 2, 2**22 + 2, 0.5), np.arange(2**23 - 3, 2**23 + 3, 0.5),
        2.0 ** np.arange(-149, 128), [1e-45, 0.49999997, 0.50000006, 2**31 - 128, 2**31, 2**32 - 256, 2**32,
                                      3e38, np.inf, np.nan],
    ]).astype(np.float32)  # fmt: skip
    near = np.concatenate([base, np.nextafter(base, np.float32(0)), np.nextafter(base, np.float32(np.inf))])
    return np.concatenate([near, -near])


ROUNDINGS = {
    "floor": (jnp.floor, np.floor),
    "ceil": (jnp.ceil, np.ceil),
    "round to even": (lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), np.rint),
    "round away from zero": (
        lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
        lambda x: np.copysign(np.floor(np.abs(x.astype(np.float64)) + 0.5), x),
    ),
}


@pytest.mark.parametrize("name", ROUNDINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_rounding_is_exact_for_every_kind_of_float(device, name, dtype):
    f, oracle = ROUNDINGS[name]
    with np.errstate(over="ignore"):
        x = every_kind_of_float().astype(dtype)
    _, (got,), profile = run(device, f, x)
    with np.errstate(invalid="ignore"):
        expected = oracle(x.astype(np.float32)).astype(dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(got[number], expected[number])
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(x[number]))
    assert profile.n_reference_ops == 0


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int16, np.uint8])
def test_float_to_integer_truncates_and_saturates(device, dtype):
    x = every_kind_of_float()
    _, (got,), profile = run(device, lambda v: lax.convert_element_type(v, dtype), x)
    info = np.iinfo(dtype)
    expected = np.clip(np.trunc(np.nan_to_num(x.astype(np.float64), posinf=1e300, neginf=-1e300)),
                       info.min, info.max).astype(dtype)  # fmt: skip
    np.testing.assert_array_equal(got, expected)
    assert profile.n_reference_ops == 0


@pytest.mark.parametrize("f, oracle", [(jnp.expm1, np.expm1), (jnp.log1p, np.log1p)],
                         ids=["expm1", "log1p"])  # fmt: skip
def test_expm1_and_log1p_are_within_four_ulp(device, f, oracle):
    rng = np.random.default_rng(SEED)
    wide = rng.integers(0, 2**32, 400_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([every_kind_of_float(), wide, rng.uniform(-3, 3, 400_000).astype(np.float32),
                        rng.uniform(-1, -0.99, 1000).astype(np.float32)])  # fmt: skip
    _, (got,), profile = run(device, f, x)
    with np.errstate(all="ignore"):
        exact = oracle(x.astype(np.float64))
        expected = exact.astype(np.float32)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(got), finite)
        np.testing.assert_array_equal(got[np.isinf(expected)], expected[np.isinf(expected)])
        ulps = np.abs(got[finite] - exact[finite]) / np.spacing(np.abs(expected[finite]))
    print(f"largest error {ulps.max():.2f} ulp at {x[finite][ulps.argmax()]!r}")
    assert ulps.max() <= 4, f"{ulps.max()} ulp at {x[finite][ulps.argmax()]!r}"
    zero = x == 0
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(x[zero]))
    assert profile.n_reference_ops == 0


def test_functions_keep_the_sign_of_zero(device):
    x = np.array([0.0, -0.0], np.float32)
    for f in (jnp.tanh, jnp.sqrt, jnp.sign, jnp.expm1, jnp.log1p, lax.erf):
        _, (got,), _ = run(device, f, x)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(x), str(f))


def test_functions_of_constants_run_on_the_engines(device):
    def f(x):
        c = lax.optimization_barrier(jnp.full((3, 5), 1.5))
        return jnp.exp(c) + x, jnp.floor(c) * x, lax.convert_element_type(c, np.int32), -c

    check(device, f, rand(3, 5))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu(device, name):
    f, *args = CASES[name]
    rtol = 3e-5 if any(w in name for w in ("matmul", "sum", "attention", "batched", "products", "grad")) else 4e-6
    check(device, f, *args, rtol=rtol, atol=rtol * 4)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(4096, 16), (300, 7), (1021, 5), (2, 700, 3), (1024, 1, 100), (9, 9, 9, 9, 2), (128, 4)], ids=str)
def test_sums_of_few_columns(device, shape, dtype):
    """Rows of a tile hold several of the tensor's; small integers, so that any order is exact."""
    rng = np.random.default_rng(SEED)
    axes = tuple(range(len(shape) - 1))

    def f(x, y, scale):
        z = x * scale
        return z.sum(axes), (z * y).sum(axes), (z - z.sum(axes)).sum(), z.max(-1), (z + y).sum(axes[:1])

    x, y = (rng.integers(-1, 2, shape).astype(dtype) for _ in range(2))
    scale = rng.integers(0, 2, shape[-1]).astype(dtype)
    rtol = 0.02 if dtype == jnp.bfloat16 else 1e-6
    expected, got, profile = run(device, f, x, y, scale)
    for i, (e, g) in enumerate(zip(expected, got, strict=True)):
        assert e.shape == g.shape and e.dtype == g.dtype
        e, g = e.astype(np.float64), g.astype(np.float64)
        if i == 2 and dtype == jnp.bfloat16:  # a sum of roundings
            continue
        np.testing.assert_allclose(g, e, rtol, 0)
    assert profile.n_reference_ops == 0


@pytest.mark.parametrize("batch,m,k,n", [(2, 8, 8, 8), (3, 5, 3, 3), (4, 16, 32, 8), (2, 1, 4, 33),
                                         (5, 31, 7, 2), (2, 129, 16, 16)])  # fmt: skip
def test_a_batch_of_products_scaled_by_one_number_of_the_program(device, batch, m, k, n):
    """The number's tile is as tall as the tallest of the tiles, which end with the matrices."""
    scale, bias = rand(1, seed=[1])[0], rand(1, seed=[2])[0]
    check(device, lambda x, y, a, b: a * jnp.matmul(x, y) + b, rand(batch, m, k), rand(batch, k, n),
          scale, bias, atol=2e-5)  # fmt: skip


CONVS = [
    # lhs shape, rhs shape, strides, padding, lhs dilation, rhs dilation, groups, dimension numbers
    ((4, 8, 8, 3), (3, 3, 3, 16), (1, 1), "SAME", None, None, 1, ("NHWC", "HWIO", "NHWC")),
    ((2, 9, 7, 5), (3, 2, 5, 6), (2, 1), "VALID", None, None, 1, ("NHWC", "HWIO", "NHWC")),
    ((2, 5, 9, 7), (6, 5, 3, 2), (1, 2), "SAME", None, (2, 1), 1, ("NCHW", "OIHW", "NCHW")),
    ((2, 5, 6, 4), (3, 3, 4, 8), (1, 1), ((2, 1), (1, 2)), (2, 3), None, 1, ("NHWC", "HWIO", "NHWC")),
    ((2, 6, 6, 4), (3, 3, 2, 8), (1, 1), "SAME", None, None, 2, ("NHWC", "HWIO", "NHWC")),
    ((2, 6, 6, 4), (3, 3, 1, 4), (1, 1), "SAME", None, None, 4, ("NHWC", "HWIO", "NHWC")),
    ((3, 30, 4), (5, 4, 7), (2,), "SAME", None, None, 1, ("NWC", "WIO", "NWC")),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CONVS)))
@pytest.mark.parametrize("direction", ["forward", "lhs gradient", "rhs gradient"])
def test_convolution_equals_the_cpu(device, case, direction):
    lhs, rhs, strides, padding, lhs_dilation, rhs_dilation, groups, numbers = CONVS[case]

    def conv(x, w):
        return lax.conv_general_dilated(x, w, strides, padding, lhs_dilation, rhs_dilation,
                                        dimension_numbers=numbers, feature_group_count=groups)  # fmt: skip

    f = conv
    if direction != "forward":
        f = jax.grad(lambda x, w: (conv(x, w) ** 2).sum(), argnums=int(direction.startswith("rhs")))
    check(device, f, rand(*lhs), rand(*rhs), rtol=1e-4, atol=2e-4)
