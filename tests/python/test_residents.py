"""Values that stay in SBUF between kernels: what they save, and that nobody reads one too late."""

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import capi
from common import SEED

pytestmark = pytest.mark.part(2)


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def rand(shape, seed, dtype=np.float32):
    return (np.random.default_rng([SEED, seed]).random(shape) * 2 - 1).astype(dtype)


def run(device, f, *args):
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    got = executable(*[args[i] for i in exported.module_kept_var_idx])
    return got, executable.profile()


def expect(f, *args):
    return [np.asarray(e) for e in jax.tree.leaves(jax.jit(f)(*args))]


def end(value):
    """The same value, behind views of memory: so its kernel ends here."""
    return value[::-1][::-1]


def assert_close(got, expected, rtol=1e-5):
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        scale = np.abs(e.astype(np.float64)).max() + 1e-30
        np.testing.assert_allclose(g.astype(np.float64), e.astype(np.float64), rtol, rtol * scale)


ROWS, COLS = 1024, 128
X, W, V = rand((ROWS, COLS), 1), rand((COLS, COLS), 2), rand((COLS, 256), 3)


CHAINS = {
    "elementwise to elementwise": (lambda x, y: end(jnp.tanh(x)) * y, (X, X + 1)),
    "elementwise to a product": (lambda x, w: end(jnp.tanh(x)) @ w, (X, W)),
    "a product to elementwise": (lambda x, w: jnp.tanh(end(x @ w)), (X, W)),
    "two layers": (lambda x, w, v: jax.nn.relu(x @ w) @ v, (X, W, V)),
    "softmax to a product": (lambda x, w: jax.nn.softmax(x, axis=-1) @ w, (X, W)),
    "both operands, along their rows": (
        lambda x, w: end(jnp.tanh(x)).T @ end(x @ w),
        (X, W),
    ),
    "one row through two layers": (
        lambda x, w, v: jax.nn.silu((x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)) @ w) @ v,
        (rand((1, 576), 4), rand((576, 768), 5), rand((768, 128), 6)),
    ),
    "a few rows of each batch": (
        lambda q, k, v: jnp.einsum("bgl,bld->bgd", jax.nn.softmax(jnp.einsum("bgd,bdl->bgl", q, k), -1), v),
        (rand((4, 3, 64), 7), rand((4, 64, 128), 8), rand((4, 128, 64), 9)),
    ),
    "row by row": (
        lambda x, y: y / end(jnp.sum(x * x, axis=1, keepdims=True)),
        (X, X + 2),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_what_one_kernel_makes_another_takes_from_sbuf(device, name):
    f, args = CHAINS[name]
    got, profile = run(device, f, *args)
    assert_close(got, expect(f, *args))
    inputs = {id(a): a.nbytes for a in args}
    assert profile.hbm_write_bytes == sum(g.nbytes for g in got)
    n_kernels_of_x = 2 if name.startswith("both") else 1
    assert profile.hbm_read_bytes == sum(inputs.values()) + (n_kernels_of_x - 1) * X.nbytes


def peak_of(f, *args):
    device = capi.Device(threads=2)
    _, profile = run(device, f, *args)
    device.close()
    return profile.hbm_peak_bytes


def test_a_tensor_that_is_never_in_hbm_takes_no_memory_there():
    peak = peak_of(lambda x, w, v: jax.nn.relu(x @ w) @ v, X, W, V)
    assert peak < X.nbytes + W.nbytes + V.nbytes + ROWS * 256 * 4 + X.nbytes // 2


def test_a_tensor_larger_than_sbuf_goes_through_hbm(device):
    x, w = rand((1 << 16, COLS), 4), W / 8  # 32 MiB

    def f(x, w):
        return jnp.tanh(x @ w) @ w

    got, profile = run(device, f, x, w)
    assert_close(got, expect(f, x, w))
    assert profile.hbm_write_bytes == 2 * x.nbytes


def test_more_tensors_than_sbuf_holds(device):
    """24 tensors of 1.5 MiB, all made before any is used: the ones that are wanted last make room."""
    x = rand((ROWS * 3, COLS), 5)

    def f(x, w):
        made = [end(x @ (w * (0.1 * (i + 1)))) for i in range(24)]
        total = jnp.zeros_like(x)
        for i in (*range(0, 24, 2), *range(23, 0, -2)):
            total = (total * 0.5 + jnp.tanh(made[i])) @ w
        return total

    got, profile = run(device, f, x, W)
    assert_close(got, expect(f, x, W), rtol=1e-4)
    # x serves 24 kernels; of their results, of which nine fit, the others are stored and loaded again
    assert (24 + 4) * x.nbytes < profile.hbm_read_bytes <= (24 + 20) * x.nbytes


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_column_of_what_lies_in_sbuf_scales_its_rows(device, dtype):
    def f(x, w):
        y = end((x @ w).astype(dtype) * dtype(2))
        return y * y[:, 3:4], y - y[:, 17:18]

    got, _ = run(device, f, X, W)
    assert_close(got, expect(f, X, W), rtol=2e-2 if dtype != np.float32 else 1e-5)


STALE = {
    "a slice written in place": lambda x, i: lax.dynamic_update_slice(
        end(x * 2), jnp.ones((64, COLS)), (i, 0)
    ),
    "rows written in place": lambda x, i: end(x * 2).at[i * 7].set(0.0),
    "rows added in place": lambda x, i: end(x * 2).at[i + jnp.arange(9)].add(x[:9]),
    "made before a loop, changed in it": lambda x, i: lax.fori_loop(
        0, 3 + i, lambda k, v: v * 0.5 + x, end(jnp.tanh(x))
    ),
    "made before a loop, used in it and behind it": lambda x, i: (
        lambda t: lax.fori_loop(0, i + 2, lambda k, v: v + t, x) * t
    )(end(jnp.tanh(x))),
    "made in a branch": lambda x, i: lax.cond(
        i > 3, lambda v: jnp.tanh(v) @ W, lambda v: jnp.tanh(v) * 2, jnp.sin(x)
    ),
}


@pytest.mark.parametrize("index", [2, 5])
@pytest.mark.parametrize("name", STALE)
def test_nobody_reads_what_has_changed_since(device, name, index):
    def f(x, i):
        y = STALE[name](x, i)
        return end(y * 0.5) + y, y @ W

    i = np.int32(index)
    got, _ = run(device, f, X, i)
    assert_close(got, expect(f, X, i), rtol=1e-4)


def test_a_product_that_is_only_wanted_in_bf16_is_stored_so(device):
    x, w = rand((1 << 16, COLS), 8), W / 8  # 32 MiB: it goes through HBM

    def f(x, w):
        y = (x @ w).reshape(1 << 10, 64, COLS)
        return jnp.einsum("bik,bjk->bij", *[y.astype(jnp.bfloat16)] * 2, preferred_element_type=jnp.float32)

    got, profile = run(device, f, x, w)
    assert_close(got, expect(f, x, w), rtol=2e-2)
    assert profile.hbm_write_bytes == got[0].nbytes + x.nbytes // 2


def test_a_bf16_product_that_becomes_fp32_is_not_rounded_between(device):
    x, w = (rand(s, k, ml_dtypes.bfloat16) for s, k in (((256, 512), 6), ((512, 128), 7)))
    got, _ = run(device, lambda x, w: (x @ w).astype(jnp.float32) * 3, x, w)
    exact = x.astype(np.float64) @ w.astype(np.float64) * 3
    assert np.abs(got[0] - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_of_many_kernels(device, seed):
    rng = np.random.default_rng([SEED, 100, seed])
    rows = int(rng.choice([128, 256, 300, 640, 1000]))
    cols = int(rng.choice([32, 64, 96, 128, 200, 512]))
    w = rand((cols, cols), 200 + seed) / cols**0.5
    steps = [
        lambda a, b: jnp.tanh(a) + b * 0.5,
        lambda a, b: a @ w,
        lambda a, b: (a @ w + b) * 0.5,
        lambda a, b: jax.nn.softmax(a, axis=-1) - b,
        lambda a, b: a - jnp.mean(a, axis=0),
        lambda a, b: a * jnp.max(b, axis=-1, keepdims=True),
        lambda a, b: (a.T @ b / rows) @ w.T + a[:cols] if rows >= cols else a,
        lambda a, b: a[::-1] * 0.5 + b,
        lambda a, b: a.reshape(cols, rows).T * 0.5 + b,
        lambda a, b: jnp.concatenate([b[rows // 2 :], a[: rows // 2]]),
    ]
    plan = [(int(rng.integers(len(steps))), int(rng.integers(8)), int(rng.integers(8))) for _ in range(14)]
    print(f"seed {seed}: {rows} x {cols}, plan {plan}")

    def f(x):
        made = [x]
        for step, i, j in plan:
            y = steps[step](made[-1 - i % len(made)], made[-1 - j % len(made)])
            made.append(end(y) if y.shape == x.shape else x * y[0, 0])
        return sum(made), made[-1]

    x = rand((rows, cols), 300 + seed)
    got, _ = run(device, f, x)
    assert_close(got, expect(f, x), rtol=2e-4)
