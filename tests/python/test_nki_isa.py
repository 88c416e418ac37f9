"""Each instruction of vtrn.nki against NumPy, and its program against what it gave while it was written."""

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float32), BF16, np.dtype(np.float16))
SHAPES = ((1, 1), (31, 33), (64, 127), (128, 512), (128, 1000))
rng = np.random.default_rng(7)


def numbers(shape, dtype=np.float32):
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -1000), min(info.max, 1000), shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def f32(a):
    return np.asarray(a).astype(np.float32)


def run(body, inputs, out_shape, out_dtype=np.float32, tmp_path=None):
    """body(dst tile, input tiles...) as a kernel; its program gives the same bits, which profile() checks."""
    def kernel(*arrays):
        out = nl.ndarray(out_shape, out_dtype, buffer=nl.shared_hbm)
        dst = nl.ndarray(out_shape, out_dtype)
        body(dst, *(nl.load(a) for a in arrays))
        nisa.dma_copy(out, dst)
        return out

    if tmp_path is not None:
        return vtrn.nki.profile(kernel, tmp_path)(*inputs).result
    return vtrn.nki.jit(kernel)(*inputs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("op, ref", [(nl.add, np.add), (nl.subtract, np.subtract), (nl.multiply, np.multiply),
                                     (nl.maximum, np.maximum), (nl.minimum, np.minimum), (nl.less, np.less)],
                         ids=lambda x: getattr(x, "__name__", None))
def test_tensor_tensor(op, ref, dtype, shape):
    a, b = numbers(shape, dtype), numbers(shape, dtype)
    got = run(lambda d, x, y: nisa.tensor_tensor(d, x, y, op), (a, b), shape, dtype)
    np.testing.assert_array_equal(got, f32(ref(f32(a), f32(b))).astype(dtype))


def test_tensor_tensor_of_32_bit_integers_is_exact():
    a, b = (rng.integers(-2**30, 2**30, (128, 64), dtype=np.int32) for _ in range(2))
    got = run(lambda d, x, y: nisa.tensor_tensor(d, x, y, nl.add), (a, b), a.shape, np.int32)
    np.testing.assert_array_equal(got, a + b)


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bits(name):
    a, b = (rng.integers(0, 2**31, (64, 40), dtype=np.int32) for _ in range(2))
    op, ref = getattr(nl, name), getattr(np, name)
    got = run(lambda d, x, y: nisa.tensor_tensor(d, x, y, op), (a, b), a.shape, np.int32)
    np.testing.assert_array_equal(got, ref(a, b))
    got = run(lambda d, x: nisa.tensor_scalar(d, x, op, 0xff), (a,), a.shape, np.int32)
    np.testing.assert_array_equal(got, ref(a, 0xff))


def test_shifts():
    a = rng.integers(0, 2**20, (64, 40), dtype=np.uint32)
    got = run(lambda d, x: nisa.tensor_scalar(d, x, nl.left_shift, 4, op1=nl.right_shift, operand1=2), (a,), a.shape,
              np.uint32)
    np.testing.assert_array_equal(got, a << 4 >> 2)


@pytest.mark.parametrize("is_tile", [False, True])
@pytest.mark.parametrize("reverse0", [False, True])
def test_tensor_scalar(is_tile, reverse0):
    a, s = numbers((128, 300)), numbers((128, 1))

    def body(d, x, y):
        nisa.tensor_scalar(d, x, nl.subtract, y if is_tile else 0.5, reverse0, nl.multiply, 3.0)

    s0 = s if is_tile else np.float32(0.5)
    want = (s0 - a if reverse0 else a - s0) * np.float32(3)
    np.testing.assert_array_equal(run(body, (a, s), a.shape), want)


def test_scalar_tensor_tensor():
    a, b, s = numbers((128, 300)), numbers((128, 300)), numbers((128, 1))
    got = run(lambda d, x, y, z: nisa.scalar_tensor_tensor(d, x, nl.multiply, z, nl.add, y), (a, b, s), a.shape)
    np.testing.assert_array_equal(got, a * s + b)


@pytest.mark.parametrize("axes, shape", [((1,), (64, 100)), ((2,), (64, 10, 12)), ((1, 2), (64, 10, 12)),
                                         ((3, 4), (5, 3, 4, 2, 2))])
@pytest.mark.parametrize("op, ref", [(nl.add, np.sum), (nl.maximum, np.max), (nl.minimum, np.min)],
                         ids=["sum", "max", "min"])
def test_tensor_reduce(op, ref, axes, shape):
    a = numbers(shape, np.float32).round(1)
    want = ref(a.astype(np.float64), axis=axes)
    out = want.shape if want.ndim > 1 else (*want.shape, 1)
    got = run(lambda d, x: nisa.tensor_reduce(d, op, x, axes), (a,), out)
    np.testing.assert_allclose(got, want.reshape(out), rtol=1e-5, atol=1e-5)
    negated = run(lambda d, x: nisa.tensor_reduce(d, op, x, axes, negate=True), (a,), out)
    np.testing.assert_array_equal(negated, -got)


@pytest.mark.parametrize("src", FLOATS + (np.dtype(np.int32), np.dtype(np.uint8)), ids=str)
@pytest.mark.parametrize("dst", FLOATS + (np.dtype(np.int32), np.dtype(np.int8)), ids=str)
def test_copies_cast(src, dst):
    a = np.abs(numbers((32, 50), src)) if src == np.uint8 else numbers((32, 50), src)
    if np.issubdtype(dst, np.integer):
        info = np.iinfo(dst)
        want = np.clip(np.rint(f32(a)), info.min, info.max).astype(dst)
    else:
        want = a.astype(dst) if src == dst else f32(a).astype(dst)
    np.testing.assert_array_equal(run(lambda d, x: nisa.tensor_copy(d, x), (a,), a.shape, dst), want)
    np.testing.assert_array_equal(run(lambda d, x: nisa.dma_copy(d, x), (a,), a.shape, dst), want)


FUNCTIONS = [(nl.exp, np.exp), (nl.square, np.square), (nl.tanh, np.tanh), (nl.copy, lambda x: x), (nl.abs, np.abs),
             (nl.relu, lambda x: np.maximum(x, 0)), (nl.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
             (nl.silu, lambda x: x / (1 + np.exp(-x)))]


@pytest.mark.parametrize("op, ref", FUNCTIONS, ids=lambda x: getattr(x, "__name__", None))
def test_activation_with_scale_bias_and_sum(op, ref):
    a, scale, bias = numbers((128, 200)), numbers((128, 1)), numbers((128, 1))
    sums = []

    def body(d, x, s, b):
        total = nl.ndarray((128, 1), nl.float32)
        nisa.activation_reduce(d, op, x, nl.add, total, bias=b, scale=s)
        sums.append(np.asarray(total))

    want = ref(a.astype(np.float64) * scale + bias)
    got = run(body, (a, scale, bias), a.shape)
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=3e-6)
    np.testing.assert_allclose(sums[0], want.sum(1, keepdims=True), rtol=1e-4, atol=1e-4)
    got = run(lambda d, x: nisa.activation(d, op, x, scale=0.5), (a,), a.shape)
    np.testing.assert_allclose(got, ref(a.astype(np.float64) * 0.5), rtol=3e-6, atol=3e-6)


def test_sums_of_several_activations():
    a = numbers((128, 64))

    def body(d, x):
        part = nl.ndarray((128, 32), nl.float32)
        nisa.activation(part, nl.copy, x[:, 0:32], reduce_op=nl.add, reduce_cmd=nisa.reduce_cmd.reset_reduce)
        nisa.activation(part, nl.copy, x[:, 32:64], reduce_op=nl.add, reduce_res=d, reduce_cmd=nisa.reduce_cmd.reduce)

    np.testing.assert_allclose(run(body, (a,), (128, 1)), a.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


def test_sums_of_activations_go_on_after_they_are_read(tmp_path):
    commands = nisa.reduce_cmd

    @vtrn.nki.jit
    def kernel(a):
        out = nl.ndarray((5, 128, 1), nl.float32, buffer=nl.shared_hbm)
        x, copy = nl.load(a), nl.ndarray(a.shape, nl.float32)
        for i, command in enumerate((commands.reduce, commands.reduce, commands.reset_reduce, commands.reset, commands.reduce)):
            total = nl.ndarray((128, 1), nl.float32)
            nisa.activation(copy, nl.copy, x, reduce_op=nl.add, reduce_res=total, reduce_cmd=command)
            nisa.memset(copy, 0.0)
            nisa.dma_copy(out[i], total)
        return out

    a = rng.integers(-9, 9, (128, 64)).astype(np.float32)
    done = vtrn.nki.profile(kernel, str(tmp_path))(a)
    np.testing.assert_array_equal(done.result, np.array([1, 2, 1, 0, 1], np.float32)[:, None, None] * a.sum(1, keepdims=True))


@pytest.mark.parametrize("k, m, n", [(128, 128, 512), (64, 128, 100), (1, 1, 1), (33, 31, 127)])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
def test_nc_matmul_accumulates_until_a_new_tile(dtype, k, m, n):
    a, b = numbers((k, m), dtype), numbers((k, n), dtype)

    def body(d, x, y):
        total = nl.ndarray((m, n), nl.float32, buffer=nl.psum)
        nisa.nc_matmul(total, x, y)
        nisa.nc_matmul(total, x, y)
        other = nl.ndarray((m, n), nl.float32, buffer=nl.psum)
        nisa.nc_matmul(other, x, y)
        nisa.nc_matmul(total, x, y, accumulate=True)
        nisa.nc_matmul(other, x, y, accumulate=False)
        nisa.tensor_copy(d, other)
        nisa.tensor_tensor(d, total, d, nl.subtract)

    want = 2 * (f32(a).astype(np.float64).T @ f32(b))
    np.testing.assert_allclose(run(body, (a, b), (m, n)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(128, 128), (64, 32), (1, 100)])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BF16], ids=str)
def test_transposes_move_bits(shape, dtype):
    a = numbers(shape, dtype)

    def on_tensor(d, x):
        turned = nl.ndarray(shape[::-1], dtype, buffer=nl.psum)
        nisa.nc_transpose(turned, x)
        nisa.tensor_copy(d, turned)

    np.testing.assert_array_equal(run(on_tensor, (a,), shape[::-1], dtype), a.T)
    np.testing.assert_array_equal(vtrn.nki.jit(_transposes)(a), a.T)


def _transposes(a):
    out = nl.ndarray(a.shape[::-1], a.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.load_transpose2d(a))
    return out


@pytest.mark.parametrize("chip", ["trn1", "trn2"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int32])
@pytest.mark.parametrize("shape", [(128, 64), (129, 127), (1030, 3), (1, 1)])
def test_transposed_loads(monkeypatch, chip, dtype, shape):
    """Tensor turns blocks of rows where no DMA engine does; a NaN, an infinity and integers keep their bits."""
    monkeypatch.setenv("VTRN_CHIP", chip)
    a = (rng.standard_normal(shape) * 100).astype(dtype)
    if dtype is np.float32:
        a.flat[0], a.flat[-1] = np.nan, np.inf
    got = vtrn.nki.jit(_transposes)(a)
    np.testing.assert_array_equal(got.view(np.uint8), np.ascontiguousarray(a.T).view(np.uint8))


def test_tensor_copy_predicated():
    a, b, mask = numbers((64, 50)), numbers((64, 50)), rng.integers(0, 2, (64, 50)).astype(np.uint8)

    def body(d, x, y, p):
        nisa.tensor_copy(d, y)
        nisa.tensor_copy_predicated(d, x, p)

    np.testing.assert_array_equal(run(body, (a, b, mask), a.shape), np.where(mask, a, b))


def test_memset_iota_and_affine_select():
    def body(d):
        nisa.memset(d, 3)
        nisa.iota(d[:, 8:32], [[10, 4], [1, 6]], offset=5, channel_multiplier=100)

    got = run(body, (), (128, 32), np.int32)
    want = np.full((128, 32), 3)
    want[:, 8:] = 5 + np.arange(128)[:, None] * 100 + (np.arange(4)[:, None] * 10 + np.arange(6)).reshape(-1)
    np.testing.assert_array_equal(got, want)
    a = numbers((128, 128))
    got = run(lambda d, x: nisa.affine_select(d, [[-1, 128]], 1, x, -9.0, nl.greater_equal), (a,), a.shape)
    np.testing.assert_array_equal(got, np.where(np.tri(128, dtype=bool), a, np.float32(-9)))


@pytest.mark.parametrize("is_tile", [False, True])
def test_tensor_tensor_scan(is_tile):
    a, b, first = numbers((64, 40)), numbers((64, 40)), numbers((64, 1))

    def body(d, x, y, z):
        nisa.tensor_tensor_scan(d, x, y, z if is_tile else 0.25, nl.multiply, nl.add)

    last, want = first[:, 0] if is_tile else np.float32(0.25), np.empty_like(a)
    for i in range(40):
        want[:, i] = last = a[:, i] * last + b[:, i]
    np.testing.assert_array_equal(run(body, (a, b, first), a.shape), want)


def test_reciprocal_max8_find_index8_match_replace8_bn_stats():
    a = rng.permutation(64 * 100).reshape(64, 100).astype(np.float32) + 1
    np.testing.assert_array_equal(run(lambda d, x: nisa.reciprocal(d, x), (a,), a.shape), 1 / a)
    largest = np.sort(a)[:, :-9:-1]
    np.testing.assert_array_equal(run(lambda d, x: nisa.max8(d, x), (a,), (64, 8)), largest)
    got = run(lambda d, x, v: nisa.nc_find_index8(d, x, v), (a, largest), (64, 8), np.uint32)
    np.testing.assert_array_equal(got, np.argsort(-a)[:, :8])
    got = run(lambda d, x, v: nisa.nc_match_replace8(d, x, v, -1.0), (a, largest), a.shape)
    np.testing.assert_array_equal(got, np.where(a >= largest[:, -1:], -1, a))

    def mean_and_variance(d, x):
        stats = nl.ndarray((64, 6), nl.float32)
        nisa.bn_stats(stats, x)
        nisa.bn_aggr(d, stats)

    got = run(mean_and_variance, (a,), (64, 2))
    np.testing.assert_allclose(got, np.stack([a.mean(1), a.astype(np.float64).var(1)], 1), rtol=1e-5)


def test_stream_shuffle_and_partition_reduce():
    a = numbers((32, 20)).round(2)
    mask = [31 - i for i in range(32)]
    np.testing.assert_array_equal(run(lambda d, x: nisa.nc_stream_shuffle(d, x, mask), (a,), a.shape), a[::-1])
    got = run(lambda d, x: nisa.tensor_partition_reduce(d, nl.add, x), (a,), (1, 20))
    np.testing.assert_allclose(got, a.astype(np.float64).sum(0, keepdims=True), rtol=1e-4, atol=1e-5)


def test_gather_and_scatter_of_rows():
    table, index = numbers((300, 40)), rng.permutation(300)[:64].astype(np.int32).reshape(64, 1)

    def kernel(t, i):
        out = nl.ndarray((300, 40), nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out, t)
        rows, at = nl.ndarray((64, 40), nl.float32), nl.load(i)
        nisa.dma_copy(rows, t.ap([[40, 64], [1, 40]], vector_offset=at))
        nisa.tensor_scalar(rows, rows, nl.multiply, 2.0)
        nisa.dma_copy(out.ap([[40, 64], [1, 40]], vector_offset=at), rows)
        return out

    want = table.copy()
    want[index[:, 0]] *= 2
    np.testing.assert_array_equal(vtrn.nki.jit(kernel)(table, index), want)
    with pytest.raises(vtrn.nki.NkiValidationError, match="300"):
        vtrn.nki.jit(kernel)(table, index + 300)


@pytest.mark.parametrize("seed", range(20))
def test_random_views_move_what_numpy_says(seed, tmp_path):
    """Slices, permutations, reshapes and steps of a tile, copied by an engine and by DMA."""
    draw = np.random.default_rng(seed)
    shape = (int(draw.integers(1, 129)), *(int(n) for n in draw.integers(1, 9, 3)))
    a = numbers(shape, FLOATS[seed % 3])

    def view(t):
        lo = draw_slices[0]
        t = t[:, lo[0]:lo[1]:lo[2], :, draw_slices[1][0]:draw_slices[1][1]]
        return t

    draw_slices = []
    for n in (shape[1], shape[3]):
        start = int(draw.integers(0, n))
        draw_slices.append((start, int(draw.integers(start + 1, n + 1)), int(draw.integers(1, 3))))
    order = (0, *(1 + draw.permutation(3)))
    want = np.transpose(view(a), order)
    for copy in (nisa.tensor_copy, nisa.dma_copy):
        got = run(lambda d, x: copy(d, view(x).permute(order)), (a,), want.shape, a.dtype, tmp_path)
        np.testing.assert_array_equal(got, want)
