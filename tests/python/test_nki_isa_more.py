"""Instructions of vtrn.nki that keep results in registers, gather, sum by DMA or double rows, against NumPy."""

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
from test_nki_isa import f32, numbers, run  # noqa: E402  (installs vtrn.nki)

import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402
import vtrn.nki  # noqa: E402

rng = np.random.default_rng(11)
LEAST = np.float32(np.finfo(np.float32).min)


def two(body, inputs, first, second, tmp_path=None):
    """body(first result, second result, inputs...): both results."""
    def kernel(*arrays):
        outs, tiles = [], []
        for shape, dtype in (first, second):
            outs.append(nl.ndarray(shape, dtype, buffer=nl.shared_hbm))
            tiles.append(nl.ndarray(shape, dtype))
        body(*tiles, *(nl.load(a) for a in arrays))
        for out, tile in zip(outs, tiles):
            nisa.dma_copy(out, tile)
        return tuple(outs)

    if tmp_path is not None:
        return vtrn.nki.profile(kernel, tmp_path)(*inputs).result
    return vtrn.nki.jit(kernel)(*inputs)


@pytest.mark.parametrize("n", [1, 33, 511, 1000])
@pytest.mark.parametrize("op, ref", [(nl.add, np.sum), (nl.maximum, np.max), (nl.minimum, np.min)],
                         ids=["add", "max", "min"])
def test_tensor_scalar_reduce(op, ref, n, tmp_path):
    a, s = numbers((128, n)), numbers((128, 1))
    row, total = two(lambda d, r, x, y: nisa.tensor_scalar_reduce(d, x, nl.multiply, y, op, r), (a, s),
                     (a.shape, np.float32), ((128, 1), np.float32), tmp_path)
    np.testing.assert_array_equal(row, a * s)
    np.testing.assert_allclose(total, ref((a * s).astype(np.float64), axis=1, keepdims=True), rtol=1e-5, atol=1e-4)


def test_row_results_are_continued_loaded_and_negated():
    a, b, init = numbers((64, 40)), numbers((64, 50)), numbers((64, 1))

    def body(d, r, x, y, z):
        half = nl.ndarray((64, 50), np.float32)
        nisa.tensor_scalar_reduce(d, x, nl.add, 0.0, nl.maximum, reduce_cmd=nisa.reduce_cmd.load_reduce,
                                  reduce_init=z)
        nisa.tensor_scalar_reduce(half, y, nl.add, 0.0, nl.maximum, reduce_res=r, reduce_res_negate=True,
                                  reduce_cmd=nisa.reduce_cmd.reduce)

    _, got = two(body, (a, b, init), (a.shape, np.float32), ((64, 1), np.float32))
    np.testing.assert_array_equal(got[:, 0], -np.max(np.hstack([a, b, init]), 1))


@pytest.mark.parametrize("op, ref", [(nl.add, np.cumsum), (nl.maximum, np.maximum.accumulate)], ids=["add", "max"])
def test_tensor_scalar_cumulative(op, ref):
    a = rng.integers(-9, 9, (128, 77)).astype(np.float32)
    got = run(lambda d, x: nisa.tensor_scalar_cumulative(d, x, nl.multiply, op, 2.0), (a,), a.shape)
    np.testing.assert_array_equal(got, ref(a * 2, axis=1))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
def test_range_select(dtype, tmp_path):
    a = numbers((128, 200), dtype)
    lo = rng.integers(0, 100, (128, 1)).astype(np.float32)
    hi = lo + rng.integers(-3, 150, (128, 1)).astype(np.float32)
    index = np.arange(10, 210)[None]
    want = np.where((index >= lo) & (index < hi), f32(a), LEAST)
    got, most = two(lambda d, r, x, y, z: nisa.range_select(d, x, nl.greater_equal, nl.less, y, z, reduce_res=r,
                                                            reduce_op=nl.maximum, range_start=10),
                    (a, lo, hi), (a.shape, np.float32), ((128, 1), np.float32), tmp_path)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(most, want.max(1, keepdims=True))


def test_range_select_has_one_filler():
    a = numbers((4, 4))
    with pytest.raises(ValueError, match="on_false_value=0"):
        run(lambda d, x: nisa.range_select(d, x, nl.less, nl.less, x[:, :1], x[:, :1], on_false_value=0.0), (a,), a.shape)


@pytest.mark.parametrize("reverse", [False, True])
def test_select_reduce(reverse):
    a, p = numbers((128, 90)), rng.integers(0, 2, (128, 90)).astype(np.uint8)
    want = np.where((p != 0) != reverse, a, np.float32(-7))
    got, most = two(lambda d, r, x, y: nisa.select_reduce(d, y, x, -7.0, r, nisa.reduce_cmd.reset_reduce, nl.maximum,
                                                          reverse), (a, p), (a.shape, np.float32), ((128, 1), np.float32))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(most, want.max(1, keepdims=True))


def test_exponential_is_of_the_newest_generation(monkeypatch):
    a, m = numbers((64, 300)), numbers((64, 1))

    def body(d, r, x, y):
        nisa.exponential(d, x, y, r, nisa.reduce_cmd.reset_reduce)

    with pytest.raises(vtrn.nki.NkiValidationError, match="NeuronCore-v4|newer chip"):
        two(body, (a, m), (a.shape, np.float32), ((64, 1), np.float32))
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    got, total = two(body, (a, m), (a.shape, np.float32), ((64, 1), np.float32))
    np.testing.assert_allclose(got, np.exp(a - m), rtol=1e-5)
    np.testing.assert_allclose(total, got.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.int8], ids=str)
def test_nc_n_gather(dtype):
    a, i = numbers((128, 70), dtype), rng.integers(0, 70, (128, 33)).astype(np.uint32)
    got = run(lambda d, x, y: nisa.nc_n_gather(d, x, y), (a, i), (128, 33), dtype)
    np.testing.assert_array_equal(f32(got), np.take_along_axis(f32(a), i.astype(np.int64), 1))


def test_a_gather_beyond_its_data_is_an_error():
    a, i = numbers((4, 7)), np.full((4, 2), 7, np.uint32)
    with pytest.raises(vtrn.nki.NkiValidationError, match="index 7 for partition 0; a partition of the data has 7"):
        run(lambda d, x, y: nisa.nc_n_gather(d, x, y), (a, i), (4, 2))


@pytest.mark.parametrize("run_length, n_valid", [(1, 64), (2, 61), (8, 16)])
def test_local_gather(run_length, n_valid):
    a, index = numbers((128, 100)), rng.integers(0, 100 - run_length, (128, 4)).astype(np.uint16)
    got = run(lambda d, x, y: nisa.local_gather(d, x, y, run_length, n_valid), (a, index), (128, n_valid * run_length))
    for r in range(128):
        flat = index[r // 16 * 16:r // 16 * 16 + 16].T.reshape(-1)[:n_valid].astype(np.int64)
        np.testing.assert_array_equal(got[r], a[r][(flat[:, None] + np.arange(run_length)).reshape(-1)])


def test_nonzero_with_count():
    a = (rng.random((128, 50)) < 0.3).astype(np.float32)

    def body(d, x):
        nisa.memset(d, 0)
        nisa.nonzero_with_count(d, x, 16, -1)

    got = run(body, (a,), (128, 51), np.int32)
    for r in range(128):
        found = np.flatnonzero(a[r]) + 16
        want = [*found, *[-1] * (50 - found.size), found.size] if r % 16 == 0 else [0] * 51
        np.testing.assert_array_equal(got[r], want)


def test_nc_match_replace8_gives_places():
    a = np.tile(np.array([1, 2, 3, 4, 8, 8, 8, 8, 8, 8, 8], np.float32), (4, 1))
    v = np.tile(np.array([3, 8, 8, 8, 8, 8, 8, 8], np.float32), (4, 1))
    got, places = two(lambda d, i, x, y: nisa.nc_match_replace8(d, x, y, 0.0, i), (a, v), (a.shape, np.float32),
                      ((4, 8), np.uint32))
    assert places.tolist() == [[2, 10, 9, 8, 7, 6, 5, 4]] * 4  # the example of the documentation
    np.testing.assert_array_equal(got, np.tile(np.array([1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0], np.float32), (4, 1)))


@pytest.mark.parametrize("shape", [(128, 2, 512), (64, 2, 33), (1, 2, 1)])
def test_matmul_of_double_rows(shape, tmp_path):
    k, _, n = shape
    m = min(n, 100)
    a, b = (numbers((k, 2, c), ml_dtypes.float8_e4m3) for c in (m, n))

    def body(d, x, y):
        product = nl.ndarray((m, n), np.float32, buffer=nl.psum)
        nisa.nc_matmul(product, x, y, perf_mode=nisa.matmul_perf_mode.double_row)
        nisa.tensor_copy(d, product)

    got = run(body, (a, b), (m, n), tmp_path=tmp_path)
    want = np.einsum("krm,krn->mn", f32(a).astype(np.float64), f32(b).astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_double_rows_take_the_time_of_one(tmp_path):
    a, b = (numbers((128, 2, c), ml_dtypes.float8_e4m3) for c in (128, 512))

    def time_of(name, mode, halves):
        def kernel(x, y):
            x, y = nl.load(x), nl.load(y)
            product = nl.ndarray((128, 512), np.float32, buffer=nl.psum)
            for _ in range(50):
                for h in halves:
                    nisa.nc_matmul(product, x[:, h], y[:, h], perf_mode=mode)
            out = nl.ndarray((128, 512), np.float32, buffer=nl.shared_hbm)
            nl.store(out, product)
            return out

        return vtrn.nki.profile(kernel, tmp_path / name)(a, b).latency_ns

    alone = time_of("plain", nisa.matmul_perf_mode.none, (0, 1))
    assert time_of("double", nisa.matmul_perf_mode.double_row, (slice(0, 2),)) < 0.8 * alone


def test_a_matmul_over_written_and_new_elements_adds_to_the_written_ones():
    a, b = numbers((64, 32)), numbers((64, 100))

    def body(d, x, y):
        product = nl.ndarray((32, 100), np.float32, buffer=nl.psum)
        nisa.nc_matmul(product[:, 20:60], x, y[:, 20:60])
        nisa.nc_matmul(product, x, y)
        nisa.tensor_copy(d, product)

    want = a.T @ b
    want[:, 20:60] *= 2
    np.testing.assert_allclose(run(body, (a, b), (32, 100)), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_sources", [2, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
def test_dma_compute_sums_in_fp32(n_sources, dtype):
    arrays = [numbers((100, 60), dtype) for _ in range(n_sources)]

    def kernel(*sources):
        out = nl.ndarray((100, 60), dtype, buffer=nl.shared_hbm)
        nisa.dma_compute(out, list(sources), nl.add)
        return out

    want = sum((f32(a) for a in arrays[1:]), f32(arrays[0])).astype(dtype)
    np.testing.assert_array_equal(f32(vtrn.nki.jit(kernel)(*arrays)), f32(want))


def test_dma_compute_adds_to_what_indices_select():
    table, add, index = numbers((50, 33)), numbers((8, 33)), np.arange(3, 43, 5).astype(np.int32).reshape(8, 1)

    def kernel(t, a, i):
        rows = t.ap([[33, 8], [1, 33]], vector_offset=nl.load(i))
        nisa.dma_compute(rows, [nl.load(a), rows], nl.add)
        gathered = nl.load(a)
        nisa.dma_compute(gathered, [rows, gathered], nl.add)
        out = nl.ndarray((8, 33), np.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out, gathered)
        return out

    want = table.copy()
    want[index[:, 0]] += add
    mine = table.copy()
    got = vtrn.nki.jit(kernel)(mine, add, index)
    np.testing.assert_array_equal(mine, want)
    np.testing.assert_array_equal(got, want[index[:, 0]] + add)


def test_rows_that_a_scatter_wrote_are_written_and_skipped_ones_not():
    a = numbers((4, 16))
    index = np.array([[2], [99], [0], [99]], np.int32)

    def kernel(x, i, row):
        table = nl.ndarray((5, 16), np.float32, buffer=nl.hbm)
        nisa.dma_copy(table.ap([[16, 4], [1, 16]], vector_offset=nl.load(i)), nl.load(x), oob_mode=nisa.oob_mode.skip)
        out = nl.ndarray((1, 16), np.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out, table[row:row + 1])
        return out

    np.testing.assert_array_equal(vtrn.nki.jit(kernel)(a, index, 2), a[:1])
    np.testing.assert_array_equal(vtrn.nki.jit(kernel)(a, index, 0), a[2:3])
    with pytest.raises(vtrn.nki.NkiValidationError, match="nothing has written"):
        vtrn.nki.jit(kernel)(a, index, 1)


def test_a_shuffle_may_spread_one_partition():
    a = numbers((1, 40))
    got = run(lambda d, x: nisa.nc_stream_shuffle(d, x, [0] * 32), (a,), (4, 40))
    np.testing.assert_array_equal(got, np.tile(a, (4, 1)))


def test_unwritten_elements_are_nan_or_zero_where_asked(monkeypatch):
    def kernel(a):
        x = nl.ndarray((4, 8), np.float32)
        nisa.dma_copy(x[:, :4], a)
        nisa.tensor_scalar(x, x, nl.add, 1.0)
        out = nl.ndarray((4, 8), np.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out, x)
        return out

    a = numbers((4, 4))
    with pytest.raises(vtrn.nki.NkiValidationError, match="nothing has written 16"):
        vtrn.nki.jit(kernel)(a)
    monkeypatch.setenv("VTRN_NKI_UNINITIALISED", "nan")
    with pytest.warns(UserWarning, match="16 elements that nothing had written were read as NaN"):
        got = vtrn.nki.jit(kernel)(a)
    np.testing.assert_array_equal(got[:, :4], a + 1)
    assert np.isnan(got[:, 4:]).all()
    monkeypatch.setenv("VTRN_NKI_UNINITIALISED", "zero")
    with pytest.warns(UserWarning, match="16 elements that nothing had written were read as zero"):
        got = vtrn.nki.jit(kernel)(a)
    np.testing.assert_array_equal(got, np.pad(a, ((0, 0), (0, 4))) + 1)


def test_tiles_of_few_partitions_share_bytes_where_room_is_short():
    """Six tiles of 60 KiB live at once: four of them have half the partitions."""
    def kernel(a):
        out = nl.ndarray(a.shape, np.float32, buffer=nl.shared_hbm)
        wide = nl.load(a)
        halves = [nl.ndarray((64, a.shape[1]), np.float32) for _ in range(4)]
        for h in halves:
            nisa.tensor_copy(h, wide[:64])
        for h in halves[1:]:
            nisa.tensor_tensor(halves[0], halves[0], h, nl.add)
        nisa.tensor_copy(wide[64:], halves[0])
        nisa.dma_copy(out, wide)
        return out

    a = numbers((128, 60 * 256))
    got = vtrn.nki.jit(kernel)(a)
    np.testing.assert_array_equal(got[64:], a[:64] + a[:64] + a[:64] + a[:64])


@pytest.mark.parametrize("op, ref", [(nl.abs, np.abs), (nl.relu, lambda a: np.maximum(a, 0))], ids=["abs", "relu"])
def test_operations_of_one_operand(op, ref):
    a = numbers((128, 300))
    got, most = two(lambda d, r, x: nisa.tensor_scalar_reduce(d, x, op, 0.0, nl.maximum, r), (a,),
                    (a.shape, np.float32), ((128, 1), np.float32))
    np.testing.assert_array_equal(got, ref(a))
    np.testing.assert_array_equal(most, ref(a).max(1, keepdims=True))
    got = run(lambda d, x: nisa.tensor_scalar(d, x, nl.multiply, -2.0, op1=op), (a,), a.shape)
    np.testing.assert_array_equal(got, ref(a * -2))


def test_a_tile_of_psum_may_be_read_more_often_than_it_has_room():
    a, b = numbers((64, 1)), numbers((64, 10000))

    def body(d, x, y):
        tile = nl.ndarray((64, 1), np.float32, buffer=nl.psum)
        nisa.tensor_copy(tile, x)
        nisa.tensor_tensor(d, y, tile.broadcast(1, 10000), nl.add)

    np.testing.assert_array_equal(run(body, (a, b), b.shape), a + b)


@pytest.mark.parametrize("n", [1, 33, 1025, 5000])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
def test_a_row_whose_sum_counts_may_be_dropped_into_one_element(n, dtype, tmp_path):
    a = numbers((128, n))

    def body(d, r, x):
        sink = nl.ndarray((128, 1), dtype)
        nisa.activation_reduce(sink.ap([[1, 128], [0, n]]), nl.square, x, nl.add, r)
        nisa.tensor_copy(d, sink)

    last, total = two(body, (a,), ((128, 1), np.float32), ((128, 1), np.float32), tmp_path)
    np.testing.assert_array_equal(last, f32((a[:, -1:] * a[:, -1:]).astype(dtype)))
    np.testing.assert_allclose(total[:, 0], (a.astype(np.float64)**2).sum(1), rtol=1e-5)
    with pytest.raises(vtrn.nki.NkiValidationError, match="more than once"):
        two(lambda d, r, x: nisa.activation(d.ap([[1, 128], [0, 2]]), nl.square, x[:, :1].broadcast(1, 2)), (a,),
            ((128, 1), np.float32), ((128, 1), np.float32))


@pytest.mark.parametrize("n", (8, 63, 64, 65, 200, 1000))
def test_searches_of_long_rows_find_each_place(n):
    values = rng.permutation(np.arange(n)).astype(np.float32)
    rows = np.stack([np.roll(values, r) for r in range(32)])
    rows[5, n // 2] = np.nan
    ties = np.repeat(rng.integers(0, 5, (32, -(-n // 4))), 4, axis=1)[:, :n].astype(np.float32)
    for a in (rows, ties, -np.sort(-rows), np.sort(rows), np.full((32, n), -np.inf, np.float32)):
        largest = run(lambda d, x: nisa.max8(d, x), (a,), (32, 8))
        want = -np.sort(-np.where(np.isnan(a), -np.inf, a))[:, :8]
        if not np.isnan(a).any():
            assert np.array_equal(largest, want)
        found = run(lambda d, x, v: nisa.nc_find_index8(d, x, v), (a, want), (32, 8), np.uint32)
        for r in range(32):
            taken = set()
            for j in range(8):
                places = [i for i in np.flatnonzero(a[r] == want[r, j]) if i not in taken]
                assert found[r, j] == (places[0] if places else 2**32 - 1)
                taken |= set(places[:1])


def test_results_of_rows_that_are_continued_first_begin_new(tmp_path):
    x = -1 - np.abs(numbers((128, 40)))

    def kernel(a):
        out = nl.ndarray((2, 128, 1), nl.float32, buffer=nl.shared_hbm)
        tile, most = nl.load(a), nl.ndarray((128, 1), nl.float32)
        for i in range(2):
            nisa.tensor_scalar_reduce(tile, tile, nl.add, float(i), nl.maximum, most, reduce_cmd=nisa.reduce_cmd.reduce)
            nisa.dma_copy(out[i], most)
        return out

    most = x.max(1, keepdims=True)
    np.testing.assert_array_equal(vtrn.nki.profile(kernel, tmp_path)(x).result, [most, most + 1])


def test_sums_that_go_on_where_the_kernel_has_not_begun_are_told():
    @vtrn.nki.jit
    def kernel(a):
        out = nl.ndarray((128, 1), nl.float32, buffer=nl.shared_hbm)
        tile, total = nl.load(a), nl.ndarray((128, 1), nl.float32)
        nisa.activation(tile[0:64], nl.copy, tile[0:64], reduce_op=nl.add, reduce_cmd=nisa.reduce_cmd.reset_reduce)
        nisa.activation(tile, nl.copy, tile, reduce_op=nl.add, reduce_res=total, reduce_cmd=nisa.reduce_cmd.reduce)
        nisa.dma_copy(out, total)
        return out

    with pytest.warns(UserWarning, match=r"activation at .*test_nki_isa_more.py:\d+: reduce_cmd.reduce goes on in 64 partitions, from number 64"):
        kernel(numbers((128, 8)))
