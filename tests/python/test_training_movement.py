"""What a training step moves besides its operands: losses over many classes, gradients of embeddings
and of stacked parameters, updates of weights. Values against JAX on the CPU and against NumPy, and the
bytes that go through HBM."""

import capi
import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax
from test_views_of_operands import check, whole

pytestmark = pytest.mark.part(4)

BF16, FP16, FP32 = ml_dtypes.bfloat16, np.float16, np.float32


@pytest.fixture(scope="module", params=["trn1", "trn2"])
def device(request):
    d = capi.Device(request.param, threads=2)
    yield d
    d.close()


def run(device, f, *args, donate=()):
    """Results and profile; arguments are donated on request."""
    with jax.default_device(jax.devices("cpu")[0]):
        exported = jax.export.export(jax.jit(f, donate_argnums=donate), platforms=["cpu"])(*args)
    executable = device.compile(exported.mlir_module_serialized)
    leaves = jax.tree.leaves(args)
    results = executable(*[np.asarray(leaves[i]) for i in exported.module_kept_var_idx])
    return results, executable.profile()


def on_cpu(f, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        return [np.asarray(r) for r in jax.tree.leaves(jax.jit(f)(*args))]


def as_float(x):
    return np.asarray(x).astype(np.float64)


# --- losses over many classes


def cross_entropy(z, labels):
    z = z.astype(jnp.float32)
    return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[..., None], -1).mean()


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize(
    "shape", [(1, 1023), (3, 1024), (31, 1025), (2, 64, 2047), (129, 2049), (4, 33, 4097), (128, 5003)]
)
def test_a_loss_and_its_gradient(device, rng, dtype, shape):
    """Labels at both ends, beyond them (XLA: NaN and no update) and equal in several rows."""
    z = (rng.normal(size=shape) * 3).astype(dtype)
    labels = rng.integers(0, shape[-1], shape[:-1], np.int32)
    labels.flat[0], labels.flat[-1] = 0, shape[-1] - 1
    got, _ = run(device, jax.value_and_grad(cross_entropy), z, labels)
    want = on_cpu(jax.value_and_grad(cross_entropy), z, labels)
    np.testing.assert_allclose(got[0], want[0], 3e-6)
    ulp = {FP32: 3e-6, BF16: 2**-7, FP16: 2**-10}[dtype]  # of the last place where fp32 rounds either way
    smallest = 2.0**-24 if dtype == FP16 else 1e-9
    np.testing.assert_allclose(as_float(got[1]), as_float(want[1]), ulp, smallest)
    assert not np.isnan(as_float(got[1])).any()


@pytest.mark.parametrize("label", [-1, -1500, -1501, 1499, 1500, 2**31 - 1])
def test_labels_outside_the_classes(device, rng, label):
    z, labels = rng.normal(size=(5, 1500)).astype(FP32), np.full(5, 7, np.int32)
    labels[2] = label
    got, _ = run(device, jax.value_and_grad(cross_entropy), z, labels)
    want = on_cpu(jax.value_and_grad(cross_entropy), z, labels)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, 1e-5, 1e-8)


def test_a_gradient_where_the_right_class_is_nearly_certain(device):
    """softmax - 1 is computed before it is rounded to bf16: 1 - 2^-9 is 1 in bf16."""
    z = np.zeros((4, 2048), BF16)
    z[:, 5] = 16
    labels = np.full(4, 5, np.int32)
    (_, got), _ = run(device, jax.value_and_grad(cross_entropy), z, labels)
    (_, want) = on_cpu(jax.value_and_grad(cross_entropy), z.astype(FP32), labels)
    np.testing.assert_allclose(as_float(got), want, 2**-8)
    assert (as_float(got)[:, 5] < 0).all()


def test_other_uses_of_what_a_row_element_comes_from(device, rng):
    """The gathered tensor, the scattered one and their sums are results too."""
    z, i = whole(rng, (6, 1200)), rng.integers(0, 1200, (6, 1), np.int32)
    u = whole(rng, (6, 1))

    def f(z, i, u):
        y = jnp.tanh(z) * 2 + z.sum(-1, keepdims=True)
        rows = jnp.arange(6)[:, None]
        scattered = jnp.zeros_like(z).at[rows, i].add(u)
        return (jnp.take_along_axis(y, i, -1), y.max(-1), scattered.sum(-1), -scattered.sum(), scattered,
                scattered + z, (scattered + z * 3).astype(jnp.bfloat16))  # fmt: skip

    check(device, f, z, i, u, rtol=1e-6)


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_a_loss_passes_over_its_logits_few_times(device, dtype):
    """Logits are read for the maximum, for the sum and for the gradient, which is written, and copied
    as a result of the program: not a tensor of fp32 for each operation."""
    rows, classes = 256, 8000
    z, labels = np.zeros((rows, classes), dtype), np.zeros(rows, np.int32)
    _, profile = run(device, jax.value_and_grad(cross_entropy), z, labels)
    logits = z.nbytes
    assert profile.hbm_read_bytes < 4.2 * logits
    assert profile.hbm_write_bytes < 2.1 * logits


# --- embeddings


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize(
    "rows, width, n",
    [(300, 513, 300), (3000, 768, 1), (700, 2049, 31), (4000, 1000, 1000), (50257, 64, 2000), (3001, 1024, 129),
     (9000, 33, 127), (257, 1, 640), (2000, 3000, 257), (1000, 4097, 500), (1025, 31, 1023)],
)  # fmt: skip
def test_rows_of_16_bits_are_added_in_one_rounding(device, rng, dtype, rows, width, n):
    """Rows that meet within 128 updates and across them, outside the table, not finite."""
    table, u = rng.normal(size=(rows, width)).astype(dtype), rng.normal(size=(n, width)).astype(dtype)
    i = rng.integers(0, rows + 1, n).astype(np.int32)  # one beyond: left out
    i[: n // 3] = i[0]
    i[n // 2 : n // 2 + 5] = i[-1]
    if n == 1000:
        u[5, 3], u[7, 3], u[900, 17], u[950, 18] = np.inf, -np.inf, np.nan, np.inf
    got = as_float(run(device, lambda t, i, u: t.at[i].add(u, mode="drop"), table, i, u)[0][0])
    exact, reach = as_float(table).copy(), np.abs(as_float(table))
    kept = i < rows
    with np.errstate(invalid="ignore"):
        np.add.at(exact, i[kept], as_float(u)[kept])
        np.add.at(reach, i[kept], np.abs(as_float(u)[kept]))
        finite = np.isfinite(exact)
        np.testing.assert_array_equal(got[~finite], exact[~finite])
        half_ulp = {BF16: 2**-8, FP16: 2**-11}[dtype]
        bound = np.maximum(half_ulp * np.abs(exact), 2.0**-25) * 1.001 + reach * 2e-6
        assert (np.abs(got - exact) <= bound)[finite].all()


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("rows, width", [(400, 32), (1500, 64), (5001, 40)])
def test_the_gradient_of_an_embedding(device, rng, dtype, is_tied, rows, width):
    """Tied: the rows are added to the product that the output matrix gets."""
    tokens = rng.integers(0, rows, (2, 70), np.int32)
    tokens[0, :9] = [3, 3, 3, rows - 1, 0, 3, 0, rows - 1, 3]
    table = (rng.integers(-4, 5, (rows, width)) / 8).astype(dtype)
    head = table if is_tied else (rng.integers(-4, 5, (rows, width)) / 8).astype(dtype)

    def loss(p, tokens):
        x = p["table"][tokens]
        out = p["table"] if is_tied else p["head"]
        return ((x @ out.T).astype(jnp.float32) ** 2).sum() / 64

    p = {"table": table} if is_tied else {"head": head, "table": table}
    got, _ = run(device, jax.grad(loss), p, tokens)
    want = on_cpu(jax.grad(loss), jax.tree.map(lambda x: x.astype(FP32), p), tokens)
    coarse = on_cpu(jax.grad(loss), p, tokens)
    for g, w, c in zip(got, want, coarse, strict=True):
        off, largest = np.abs(as_float(g) - w).max(), np.abs(w).max()
        assert off <= 1.5 * np.abs(as_float(c) - w).max() + 1e-6 * largest


def test_an_embedding_is_not_copied_for_its_gradient(device):
    """A table of zeros is filled and its rows are added to: no table of fp32 and back."""
    table, tokens = np.ones((20000, 256), BF16), np.arange(128, dtype=np.int32)
    gradient = jax.grad(lambda t, i: (t[i].astype(jnp.float32) ** 2).sum())
    _, profile = run(device, gradient, table, tokens)
    assert profile.hbm_write_bytes < 1.1 * table.nbytes
    assert profile.hbm_read_bytes < 0.2 * table.nbytes


# --- stacked parameters


def layers(p, x, n):
    for i in range(n):
        x = jnp.tanh(x @ p["w"][i] + p["b"][i])
    return x


def sgd(p, x, n):
    g = jax.grad(lambda p: (layers(p, x, n) ** 2).sum())(p)
    return jax.tree.map(lambda p, g: p - 0.125 * g.astype(p.dtype), p, g)


def adam(p, m, v, x, n):
    g = jax.grad(lambda p: (layers(p, x, n) ** 2).sum())(p)
    m = jax.tree.map(lambda m, g: 0.75 * m + 0.25 * g, m, g)
    v = jax.tree.map(lambda v, g: 0.5 * v + 0.5 * g * g, v, g)
    return jax.tree.map(lambda p, m, v: p - 0.01 * m / (jnp.sqrt(v) + 1e-3), p, m, v), m, v


def stacked(rng, n, width, dtype=FP32):
    return {"b": (rng.normal(size=(n, width)) / 8).astype(dtype),
            "w": (rng.normal(size=(n, width, width)) / np.sqrt(width)).astype(dtype)}  # fmt: skip


@pytest.mark.parametrize("donate", [(), (0,)])
@pytest.mark.parametrize("n, width", [(1, 192), (2, 192), (9, 129), (13, 200), (3, 640)])
def test_stacked_weights_are_updated(device, rng, n, width, donate):
    p, x = stacked(rng, n, width), rng.normal(size=(64, width)).astype(FP32)
    got, _ = run(device, lambda p, x: sgd(p, x, n), p, x, donate=donate)
    for g, w in zip(got, on_cpu(lambda p, x: sgd(p, x, n), p, x), strict=True):
        np.testing.assert_allclose(g, w, 2e-5, 2e-5)


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_stacked_weights_of_16_bits_are_updated(device, rng, dtype):
    p, x = stacked(rng, 5, 256, dtype), rng.normal(size=(96, 256)).astype(dtype)
    got, _ = run(device, lambda p, x: sgd(p, x, 5), p, x, donate=(0,))
    wide = on_cpu(lambda p, x: sgd(p, x, 5), jax.tree.map(lambda a: a.astype(FP32), p), x.astype(FP32))
    coarse = on_cpu(lambda p, x: sgd(p, x, 5), p, x)
    for g, w, c in zip(got, wide, coarse, strict=True):
        assert np.abs(as_float(g) - w).max() <= 2 * np.abs(as_float(c) - w).max()


@pytest.mark.parametrize("n, width", [(2, 192), (11, 256)])
def test_three_states_of_stacked_weights_are_updated(device, rng, n, width):
    p, m, v = (stacked(rng, n, width) for _ in range(3))
    v = jax.tree.map(np.abs, v)
    x = rng.normal(size=(64, width)).astype(FP32)
    got, _ = run(device, lambda *a: adam(*a, n), p, m, v, x, donate=(0, 1, 2))
    for g, w in zip(got, on_cpu(lambda *a: adam(*a, n), p, m, v, x), strict=True):
        np.testing.assert_allclose(g, w, 1e-4, 2e-5)


def test_updates_come_behind_the_last_reader_of_what_they_overwrite(device):
    """Then the outputs have the memory of the donated weights, for one state and for three."""
    n, width = 6, 256
    p = {"b": np.zeros((n, width), FP32), "w": np.zeros((n, width, width), FP32)}
    x = np.zeros((64, width), FP32)
    for f, args in ((lambda p, x: sgd(p, x, n), (p, x)), (lambda *a: adam(*a, n), (p, p, p, x))):
        jitted = jax.jit(f, donate_argnums=range(len(args) - 1))
        with jax.default_device(jax.devices("cpu")[0]):
            exported = jax.export.export(jitted, platforms=["cpu"])(*args)
        executable = device.compile(exported.mlir_module_serialized)
        n_donated = 2 * (len(args) - 1)
        aliases = [device.lib.vtrn_executable_input_alias(executable.handle, i) for i in range(n_donated)]
        assert aliases == list(range(n_donated))


def test_donated_weights_that_are_read_later(device, rng):
    """Before the step, behind it and in between: as they were."""
    p, x = stacked(rng, 4, 192), rng.normal(size=(32, 192)).astype(FP32)

    def f(p, x):
        new = sgd(p, x, 4)
        late = (p["w"][1] * 3).sum(), p["w"][::-1].max(0), (new["w"] @ p["w"][2]).sum(1)
        return new, late

    got, _ = run(device, f, p, x, donate=(0,))
    for g, w in zip(got, on_cpu(f, p, x), strict=True):
        np.testing.assert_allclose(g, w, 2e-5, 2e-4)


def test_weights_are_updated_in_place(device):
    """Each is read for the layer, for the gradient behind it and for the update, and written once."""
    n, width = 8, 512
    p = {"b": np.zeros((n, width), BF16), "w": np.zeros((n, width, width), BF16)}
    weights = p["w"].nbytes
    _, profile = run(device, lambda p, x: sgd(p, x, n), p, np.zeros((64, width), BF16), donate=(0,))
    assert profile.hbm_write_bytes < 1.25 * weights
    assert profile.hbm_read_bytes < 3.5 * weights


@pytest.mark.parametrize("n", [1, 2, 8, 9, 40])
def test_sums_of_slices_that_were_padded(device, rng, n):
    """Side by side, with gaps, overlapping, along other dims."""
    parts = [whole(rng, (3, 20)) for _ in range(n)]

    def padded(x, low, length, dim):
        pads = [(0, 0, 0), (0, 0, 0)]
        pads[dim] = (low, length - low - x.shape[dim], 0)
        return lax.pad(x, jnp.float32(0), pads)

    def f(parts):
        side_by_side = sum(padded(x, 3 * i, 3 * n, 0) for i, x in enumerate(parts))
        gaps = sum(padded(x, 5 * i + 1, 5 * n + 2, 0) for i, x in enumerate(parts[::-1]))
        overlapping = sum(padded(x, 2 * i, 3 * n + 1, 0) for i, x in enumerate(parts))
        columns = sum(padded(x, 20 * i, 20 * n, 1) for i, x in enumerate(parts))
        mixed = padded(parts[0], 0, 6, 0) + padded(parts[-1], 0, 40, 1).reshape(6, 20)
        return side_by_side, gaps, overlapping, columns, mixed

    check(device, f, parts)


# --- parts of concatenations


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("heads, depth", [(1, 64), (3, 32), (4, 31), (2, 128), (2, 513)])
def test_products_are_written_into_a_concatenation(device, rng, dtype, heads, depth):
    """Of gradients of queries, keys and values: transposed ones, and more than one reader."""
    n = 48
    q, k, v = (whole(rng, (2, n, heads, depth), dtype) for _ in range(3))
    a = whole(rng, (2, heads, n, n), dtype)

    def f(q, k, v, a):
        dq = jnp.einsum("bhqk,bkhd->bqhd", a, k).reshape(2, n, -1)
        dk = jnp.einsum("bhqk,bqhd->bkhd", a, q).reshape(2, n, -1)
        dv = jnp.einsum("bqhd,bhqk->bhdk", v, a).transpose(0, 3, 1, 2).reshape(2, n, -1)
        joined = jnp.concatenate([dq, dk, dv], -1)
        again = jnp.concatenate([jnp.abs(dk), dq + dv], 0)
        return joined, again, joined.astype(jnp.float32).sum((0, 1))

    check(device, f, q, k, v, a)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [FP32, BF16, np.int32, np.int8, bool])
def test_parts_of_many_kinds(device, rng, axis, dtype):
    """Elementwise results, views, constants, arguments, the same twice, in nested concatenations."""
    x, y = whole(rng, (4, 6, 300)).astype(dtype), whole(rng, (4, 6, 300)).astype(dtype)

    def f(x, y):
        z = x if dtype == bool else x + y
        inner = jnp.concatenate([z, y, jnp.zeros_like(x)], axis)
        both = jnp.concatenate([inner, jnp.ones_like(x), z[:, ::-1], inner], axis)
        turned = jnp.concatenate([z.transpose(1, 0, 2), (y & y if dtype == bool else y * y).transpose(1, 0, 2)], axis)
        return inner, both, turned, z

    check(device, f, x, y)


def test_parts_inside_a_loop(device, rng):
    """What the loop captures is made once, its own parts each time; in-place updates change neither."""
    x, w = whole(rng, (8, 96)), whole(rng, (96, 96)) / 8

    def f(x, w):
        outside = x * 2

        def step(carry, i):
            joined = jnp.concatenate([outside, carry @ w, jnp.tanh(carry)], 0)
            joined = joined.at[i].set(7.0)
            return joined[8:16] * 0.5, joined.sum(0)

        return lax.scan(step, x, jnp.arange(3))

    check(device, f, x, w, rtol=1e-5)


# --- transposes and fills


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("rows, cols", [(1, 129), (31, 33), (127, 128), (129, 512), (513, 640), (1000, 1025)])
def test_transposed_copies_keep_every_bit(device, rng, dtype, rows, cols):
    """Infinities, NaN, zeros with a sign and subnormals pass as they are."""
    bits = np.uint32 if dtype == FP32 else np.uint16
    x = rng.integers(0, np.iinfo(bits).max, (rows, cols), bits, endpoint=True).view(dtype)
    (got,), _ = run(device, lambda x: x.T, x)
    np.testing.assert_array_equal(got.view(bits), x.T.view(bits))


def test_a_transpose_of_16_bits_is_not_copied_element_by_element(device):
    x = np.zeros((1024, 1024), BF16)
    _, profile = run(device, lambda x: x.T, x)
    assert profile.step_ns < 400e3


def test_transposes_of_transposes(device, rng):
    x = whole(rng, (3, 40, 50))

    def f(x):
        y = jnp.tanh(x).transpose(2, 0, 1)
        turned = (y.transpose(1, 2, 0), y.transpose(1, 0, 2), y.transpose(2, 1, 0).transpose(0, 2, 1))
        back = y.astype(jnp.bfloat16).transpose(1, 2, 0), y.transpose(0, 2, 1).astype(jnp.bfloat16).transpose(0, 2, 1)
        return *turned, *back, (x @ x.transpose(0, 2, 1)).transpose(0, 2, 1).transpose(0, 2, 1)

    check(device, f, x, rtol=1e-2)


@pytest.mark.parametrize("dtype", [FP32, BF16, np.int32, np.int8, bool])
@pytest.mark.parametrize("n", [1, 127, 128, 129, 2049, 128 * 2048 + 1])
def test_results_of_one_value(device, dtype, n):
    x = np.ones(3, FP32)
    (zeros, ones, twice), profile = run(
        device, lambda x: (jnp.zeros(n, dtype), jnp.ones((n, 1), dtype), x * 2), x
    )
    assert not zeros.any() and (ones == np.ones((n, 1), dtype)).all() and (twice == 2).all()
    assert profile.step_ns < 40e3 + n * np.dtype(dtype).itemsize / 50


@pytest.mark.parametrize("shape", [(3, 15, 64, 8), (2, 32, 32, 16)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_gradients_of_stacked_convolution_weights(device, rng, shape, kernel):
    x, w = whole(rng, shape) / 8, whole(rng, (2, *kernel, shape[-1], shape[-1])) / 8

    def conv(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    check(device, jax.grad(lambda w, x: (conv(jnp.tanh(conv(x, w[0])), w[1]) ** 2).sum()), w, x, rtol=1e-3)


def test_what_moves_early_stays_before_its_readers(device, rng):
    x = whole(rng, (9, 5))
    check(device, lambda x, i: (jnp.roll(x, 3, 0), jnp.roll(x, i, 1)), x, np.int32(2), rtol=0)
    check(device, lambda x: (jnp.roll(x, 2, 0), x[1:4] * 2, jnp.concatenate([x[2:], x[:2]])), x, rtol=0)


@pytest.mark.parametrize("chip", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("n", [513, 1989])
def test_a_convolution_too_large_for_its_kernel_writes_its_part(chip, n, rng):
    """The contraction leaves the kernel of its readers; its result is still 12 of n + 15 columns."""
    x1, x2 = whole(rng, (2, 4, 4, n)).astype(FP16), whole(rng, (2, 4, 4, 3)).astype(FP16)
    w1, w2 = (whole(rng, s).astype(FP16) / 64 for s in ((1, 1, n, 12), (3, 1, n + 15, 1)))

    def conv(x, w, step):
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", rhs_dilation=(step, step), dimension_numbers=dims)

    def loss(w2, x1, x2, w1):
        joined = jnp.concatenate([conv(x1, w1, 1), x2, x1], -1)
        return (conv(joined, w2, 2).astype(FP32) ** 2).mean()

    d = capi.Device(chip, threads=2)
    check(d, jax.value_and_grad(loss), w2, x1, x2, w1, rtol=2e-2)
    d.close()
