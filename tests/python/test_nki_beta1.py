"""Kernels of NKI's first generation, neuronxcc.nki: tiles returned, masks, index expressions, block dimensions."""

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402
from neuronxcc.nki.typing import tensor  # noqa: E402, F401

from vtrn.nki.beta1.index import Index, Mask  # noqa: E402

rng = np.random.default_rng(5)


def numbers(*shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


# -- index expressions, against NumPy's integers


def evaluate(index):
    grid = np.indices(index.shape)
    return index.const + sum(step * grid[index.ndim - 1 - a] for a, step in index.step.items())


def test_index_expressions_are_those_of_numpy():
    i, j = nl.arange(7)[:, None], nl.arange(2, 11, 3)[None, :]
    a, b = np.arange(7)[:, None], np.arange(2, 11, 3)[None, :]
    for got, want in ((i + j, a + b), (3 * i - j + 4, 3 * a - b + 4), (10 - i, 10 - a), (-j, -b),
                      (i[:, :, None] + j[None], a[:, :, None] + b[None])):
        np.testing.assert_array_equal(np.broadcast_to(evaluate(got), want.shape), want)
    p, x, y = nl.mgrid[0:2, 3:5, 0:4]
    for got, want in zip((p, x, y), np.mgrid[0:2, 3:5, 0:4]):
        np.testing.assert_array_equal(evaluate(got), want)


@pytest.mark.parametrize("term", [lambda i: i < 5, lambda i: i >= 3, lambda i: 2 * i + 1 <= 7, lambda i: 9 - i > 4,
                                  lambda i: i + 4 == 7, lambda i: i < 99, lambda i: i > 99, lambda i: 3 * i > 4])
def test_masks_are_boxes(term):
    i = nl.arange(10)[:, None]
    (lo, hi), _ = term(i).box((10, 4))
    np.testing.assert_array_equal(np.arange(lo, hi), np.flatnonzero(term(np.arange(10))))


def test_a_mask_that_is_no_box_and_its_truth_are_errors():
    i, j = nl.mgrid[0:8, 0:8]
    with pytest.raises(NotImplementedError, match="affine_select"):
        (i < j).box((8, 8))
    with pytest.raises(TypeError, match="write &"):
        bool(i < 4 and j < 4)
    assert isinstance(i, Index) and isinstance((i < 4) & (j < 2), Mask)


# -- kernels


@nki.jit
def add_tiles(a, b):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    n, m = a.shape
    for k in nl.affine_range((n + 127) // 128):
        i, j = k * 128 + nl.arange(128)[:, None], nl.arange(m)[None, :]
        mask = i < n
        total = nl.load(a[i, j], mask=mask) + nl.load(b[i, j], mask=mask) * 2.0
        nl.store(out[i, j], value=total, mask=mask)
    return out


@pytest.mark.filterwarnings("ignore:.*nothing had written")
@pytest.mark.parametrize("n", [1, 31, 128, 129, 300])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=str)
def test_masked_tiles(n, dtype):
    a, b = numbers(n, 65, dtype=dtype), numbers(n, 65, dtype=dtype)
    want = (a.astype(np.float32) + (b.astype(np.float32) * 2).astype(dtype).astype(np.float32)).astype(dtype)
    np.testing.assert_array_equal(add_tiles(a, b).astype(np.float32), want.astype(np.float32))


@nki.jit
def matmul(a_t, b):
    """Block dimensions, PSUM sums by +=, operands of index expressions."""
    k, m = a_t.shape
    _, n = b.shape
    out = nl.ndarray((m, n), dtype=nl.float32, buffer=nl.shared_hbm)
    lhs = nl.ndarray((k // 128, nl.par_dim(128), m), dtype=a_t.dtype, buffer=nl.sbuf)
    i_p, i_m = nl.mgrid[0:128, 0:m]
    for t in nl.affine_range(k // 128):
        lhs[t, i_p, i_m] = nl.load(a_t[t * 128 + i_p, i_m])
    for c in nl.affine_range(n // 64):
        total = nl.zeros((nl.par_dim(m), 64), dtype=nl.float32, buffer=nl.psum)
        for t in nl.affine_range(k // 128):
            total += nisa.nc_matmul(lhs[t], nl.load(b[nl.ds(t * 128, 128), nl.ds(c * 64, 64)]))
        nl.store(out[:, nl.ds(c * 64, 64)], total)
    return out


def test_matmul_sums_in_psum():
    a, b = numbers(384, 100), numbers(384, 128)
    np.testing.assert_allclose(matmul(a, b), a.T @ b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("begin", ["full", "copy", "part", "zeros again"])
def test_matmuls_are_added_to_what_others_wrote(begin):
    @nki.jit
    def kernel(a):
        out = nl.ndarray((64, 64), nl.float32, buffer=nl.shared_hbm)
        x = nl.load(a)
        sums = nl.full((64, 64), 3.0 if begin == "full" else 0.0, nl.float32, buffer=nl.psum)
        if begin in ("copy", "zeros again"):
            sums[...] = nl.copy(x)
        if begin == "part":
            sums[:, 16:32] = nl.copy(x[:, 16:32])
        if begin == "zeros again":
            sums[...] = nl.zeros((64, 64), nl.float32)
        for _ in nl.affine_range(2):
            sums += nl.matmul(x, x, transpose_x=True)
        nl.store(out, sums)
        return out

    a = rng.integers(-2, 3, (64, 64)).astype(np.float32)
    first = {"full": np.full_like(a, 3), "copy": a, "part": np.zeros_like(a), "zeros again": np.zeros_like(a)}[begin].copy()
    if begin == "part":
        first[:, 16:32] = a[:, 16:32]
    np.testing.assert_array_equal(kernel(a), first + 2 * (a.T @ a))
    np.testing.assert_array_equal(vtrn.nki.profile(kernel)(a).result, first + 2 * (a.T @ a))


@pytest.mark.parametrize("change", ["assign", "load", "in place", "add", "predicated", "reduction"])
@pytest.mark.parametrize("reads", ["sum", "assign", "store", "again"])
def test_a_matmul_has_the_operands_that_it_was_given(change, reads):
    @nki.jit
    def kernel(a, b):
        out = nl.ndarray((64, 64), nl.float32, buffer=nl.shared_hbm)
        x, y = nl.ndarray((64, 64), nl.float32), nl.load(b)
        x[...] = nl.load(a)
        product = nisa.nc_matmul(x[:, 0:64], y)
        again = nl.zeros((64, 64), nl.float32, buffer=nl.psum)
        if reads == "again":
            again += product
        if change == "assign":
            x[...] = nl.zeros((64, 64), nl.float32)
        elif change == "load":
            x[0:32, :] = nl.load(b[32:64])
        elif change == "in place":
            x *= 2.0
        elif change == "add":
            x += y
        elif change == "reduction":
            nisa.activation_reduce(op=nl.copy, data=y, reduce_op=nl.add, reduce_res=x[:, 0:1])
        else:
            nisa.tensor_copy_predicated(src=y, dst=x, predicate=nl.equal(y, y, dtype=nl.uint8))
        sums = nl.zeros((64, 64), nl.float32, buffer=nl.psum)
        if reads == "sum":
            sums += product
        elif reads == "assign":
            sums[...] = product
        nl.store(out, sums if reads in ("sum", "assign") else product)
        return out

    a, b = (rng.integers(-2, 3, (64, 64)).astype(np.float32) for _ in range(2))
    if reads == "again":
        with pytest.raises(vtrn.nki.NkiValidationError, match="summed in PSUM is read once more.*nl.copy"):
            kernel(a, b)
    else:
        np.testing.assert_array_equal(kernel(a, b), a.T @ b)


@nki.jit
def softmax(a):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    x = nl.load(a)
    x = nl.exp(x - nl.max(x, axis=[1], keepdims=True))
    nl.store(out, x / nl.sum(x, axis=[1], keepdims=True))
    return out


def test_operators_broadcast_columns():
    a = numbers(100, 333)
    e = np.exp(a - a.max(1, keepdims=True))
    np.testing.assert_allclose(softmax(a), e / e.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape_a, shape_b", [((64, 33), (1, 33)), ((64, 33), (64, 1)), ((1, 33), (64, 1)),
                                              ((64, 33), (1, 1))])
def test_tiles_broadcast(shape_a, shape_b):
    @nki.jit
    def kernel(a, b):
        out = nl.ndarray((64, 33), dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.add(nl.load(a), nl.load(b)))
        return out

    a, b = numbers(*shape_a), numbers(*shape_b)
    np.testing.assert_array_equal(kernel(a, b), a + b)


def test_affine_select_iota_and_transposes():
    @nki.jit
    def kernel(a):
        i, j = nl.mgrid[0:128, 0:128]
        x = nl.load(a[i, j])
        lower = nisa.affine_select(pred=(j <= i), on_true_tile=x[i, j], on_false_value=-1.0)
        numbered = nisa.iota(3 * nl.arange(128)[:, None] + nl.arange(128)[None, :], dtype=nl.int32)
        outs = [nl.ndarray((128, 128), dtype=d, buffer=nl.shared_hbm) for d in (nl.float32, nl.int32, nl.float32)]
        for out, value in zip(outs, (lower, numbered, nisa.nc_transpose(x))):
            nl.store(out, value)
        return tuple(outs)

    a = numbers(128, 128)
    lower, numbered, turned = kernel(a)
    np.testing.assert_array_equal(lower, np.where(np.tri(128, dtype=bool), a, -1))
    np.testing.assert_array_equal(numbered, 3 * np.arange(128)[:, None] + np.arange(128))
    np.testing.assert_array_equal(turned, a.T)


def test_row_numbers_from_a_tile_gather_and_scatter():
    @nki.jit
    def kernel(data, numbers_of_rows):
        i, j = nl.arange(16)[:, None], nl.arange(40)[None, :]
        index = nl.load(numbers_of_rows[i, nl.arange(1)[None, :]])
        rows = nl.load(data[index, j])
        out = nl.ndarray((16, 40), dtype=data.dtype, buffer=nl.shared_hbm)
        nl.store(out, rows)
        nl.store(data[index, j], value=rows * 2.0)
        return out

    data, index = numbers(50, 40), rng.permutation(50)[:16].astype(np.int32)[:, None]
    want = data[index[:, 0]].copy()
    np.testing.assert_array_equal(kernel(data, index), want)
    np.testing.assert_array_equal(data[index[:, 0]], want * 2)


def test_a_grid_and_a_kernel_that_writes_to_its_argument():
    def kernel(a, out):
        i = nl.program_id(0) * 32 + nl.arange(32)[:, None]
        j = nl.program_id(1) * 50 + nl.arange(50)[None, :]
        nl.store(out[i, j], nl.load(a[i, j]) + 1.0)

    a, out = numbers(64, 100), np.zeros((64, 100), np.float32)
    nki.simulate_kernel(nki.trace(kernel)[2, 2], a, out)
    np.testing.assert_array_equal(out, a + 1)


def test_benchmark_tells_a_latency(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench = nki.benchmark(warmup=1, iters=2)(softmax)
    a = numbers(64, 100)
    np.testing.assert_array_equal(bench(a), softmax(a))
    assert 1 < bench.benchmark_result.nc_latency.get_latency_percentile(99) < 1000


def test_decorators_of_the_generation_are_there():
    for decorated in (nki.jit(mode="simulation"), nki.baremetal, nki.trace, nki.jit):
        kernel = decorated(add_tiles.function)
        a = numbers(5, 7)
        np.testing.assert_array_equal(kernel(a, a), a + a * 2)


def test_a_name_that_is_missing_says_so():
    with pytest.raises(NotImplementedError, match="neuronxcc.nki.language.swap"):
        nl.swap


A = np.random.default_rng(11).standard_normal((128, 512)).astype(np.float32)


def test_masks_are_joined_by_and_too():
    np.testing.assert_array_equal(masked_by_and(A[:128, :64]), np.pad(A[:100, :40], ((0, 28), (0, 24))))


@nki.jit
def masked_by_and(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.zeros(x.shape, x.dtype))
    i, j = nl.mgrid[0:128, 0:64]
    tile = nl.load(x[i, j], mask=(i < 100 and j < 40))
    my_mask = i < 100 and j < 40
    nl.store(out[i, j], tile, mask=my_mask)
    return out


@pytest.mark.parametrize("name, holds", [
    ("tail", lambda i, j: i * 64 + j < 5000), ("lower", lambda i, j: i >= j), ("upper", lambda i, j: j >= i),
    ("steep", lambda i, j: 3 * i + 2 * j < 200), ("box too", lambda i, j: (i - j < 20) & (j < 50) & (i >= 3))])
def test_masks_over_two_dimensions_are_cut_into_boxes(name, holds):
    @nki.jit
    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.zeros(x.shape, x.dtype))
        i, j = nl.mgrid[0:128, 0:64]
        tile = nl.load(x[i, j], mask=holds(i, j))
        nl.store(out[i, j], tile, mask=holds(i, j))
        return out

    i, j = np.mgrid[0:128, 0:64]
    x = A[:128, :64]
    np.testing.assert_array_equal(kernel(x), np.where(holds(i, j), x, 0))


def test_single_elements_anywhere_are_set():
    @nki.jit
    def kernel():
        t = nl.zeros((32, 10), dtype=nl.uint32)
        for i in nl.static_range(32):
            t[i, i % 10] = i
        out = nl.ndarray((32, 10), dtype=nl.uint32, buffer=nl.shared_hbm)
        nl.store(out, t)
        return out

    want = np.zeros((32, 10), np.uint32)
    want[np.arange(32), np.arange(32) % 10] = np.arange(32)
    np.testing.assert_array_equal(kernel(), want)


def test_searches_take_masks():
    @nki.jit
    def kernel(x):
        i, j = nl.mgrid[0:128, 0:512]
        t = nl.load(x)
        top = nisa.max8(src=t[i, j], mask=(i < 64) & (j < 256))
        place = nisa.nc_find_index8(data=t[i, j], vals=top, mask=(i < 64) & (j < 256))
        new = nisa.nc_match_replace8(data=t[i, j], vals=top, imm=-9.0, mask=(i < 64) & (j < 256))
        out = [nl.ndarray((64, n), dtype=d, buffer=nl.shared_hbm) for n, d in ((8, nl.float32), (8, nl.uint32), (256, nl.float32))]
        for o, v in zip(out, (top[0:64], place[0:64], new[0:64, 0:256])):
            nl.store(o, v)
        return tuple(out)

    x = A[:64, :256]
    top, place, new = kernel(A)
    want = np.argsort(-x, axis=1)[:, :8]
    np.testing.assert_array_equal(place, want)
    np.testing.assert_array_equal(top, np.take_along_axis(x, want, 1))
    replaced = x.copy()
    np.put_along_axis(replaced, want, -9, 1)
    np.testing.assert_array_equal(new, replaced)


@pytest.mark.parametrize("call", [
    lambda t, m: nisa.tensor_partition_reduce(np.add, t, mask=m), lambda t, m: nl.transpose(t[:, 0:128], mask=m),
    lambda t, m: nisa.nc_stream_shuffle(t, t, [0] * 32, mask=m), lambda t, m: nl.matmul(t, t, mask=m)])
def test_masks_that_would_not_count_are_refused(call):
    @nki.jit
    def kernel(x):
        i, j = nl.mgrid[0:128, 0:512]
        call(nl.load(x), i < 100)

    with pytest.raises(NotImplementedError, match="mask"):
        kernel(A)


@pytest.mark.parametrize("ask", [lambda tile: 1 if tile[0:1, 0:1] else 2, lambda tile: 1 if tile == 0 else 2,
                                 lambda tile: 1 if tile > 0 else 2, lambda tile: 1 if np.float32(0) > tile else 2])
def test_a_tile_is_no_condition(ask):
    @nki.jit
    def kernel(x):
        ask(nl.load(x))
        return x

    with pytest.raises(vtrn.nki.NkiValidationError, match=r"a tile has no truth for `if`(.|\n)*test_nki_beta1\.py:[0-9]+"):
        kernel(numbers(128, 8))


def test_conditions_on_loop_indices_and_registers_are_python():
    @nki.jit
    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(4):
            tile = nl.load(x[32 * i:32 * i + 32])
            if i > 0 and i != 3 and not i == 2:
                tile = tile * 2
            nl.store(out[32 * i:32 * i + 32], tile)
        assert tile != None and not tile == None  # noqa: E711
        return out

    x = numbers(128, 8)
    want = x.copy()
    want[32:64] *= 2
    np.testing.assert_array_equal(kernel(x), want)


def test_numpys_numbers_leave_operators_to_the_tile():
    @nki.jit
    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nl.store(out, np.float32(2) * nl.load(x) + np.float32(1))
        return out

    x = numbers(128, 8)
    np.testing.assert_array_equal(kernel(x), x * 2 + 1)


@pytest.mark.parametrize("rows", [100, 128])
def test_index_expressions_stay_within_their_dimension(rows):
    """Elements beyond a row are those of the next one, where there is one."""
    def run(use):
        @nki.jit
        def kernel(x):
            i, j = nl.arange(rows)[:, None], nl.arange(64)[None, :]
            use(x, i, j)
            return x

        return kernel(numbers(128, 64))

    said = r"a subscript of dimension 1 of a tensor in (private_hbm|sbuf) of shape \(128, 64\) goes from (1|-1) to (64|62)(.|\n)*at .*py"
    for use in (lambda x, i, j: nl.load(x[i, j + 1]), lambda x, i, j: nl.store(x[i, j + 1], 0.0),
                lambda x, i, j: nl.load(x[i, j - 1]), lambda x, i, j: nl.copy(nl.load(x)[i, j + 1]),
                lambda x, i, j: nl.sum(nl.load(x)[i, j + 1], axis=1), lambda x, i, j: nl.load(x[i, j + 1], mask=j < 64)):
        with pytest.raises(vtrn.nki.NkiValidationError, match=said):
            run(use)
    run(lambda x, i, j: nl.load(x[i, j + 1], mask=j + 1 < 64))
    run(lambda x, i, j: nl.load(x[i, j - 1], mask=j >= 1))
    run(lambda x, i, j: nl.add(nl.load(x)[i, j + 1], 1.0, mask=j < 63))
    run(lambda x, i, j: nl.load(x[1, j + 1], mask=j < 63))


def test_an_axis_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="axis=5 of a tile of shape"):
        nki.jit(lambda x: nl.sum(nl.load(x), axis=5))(numbers(128, 8))


def test_kernels_are_profiled_estimated_and_tuned(tmp_path):
    from vtrn.nki import estimate

    @nki.jit
    def kernel(x, columns=64):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        for c in nl.affine_range(x.shape[1] // columns):
            i, j = nl.arange(128)[:, None], nl.arange(columns)[None, :]
            tile = nl.load(x[i, j + c * columns], mask=i < 100)
            nl.store(out[i, j + c * columns], nl.exp(tile))
        return out

    x = numbers(128, 512)
    done = vtrn.nki.profile(kernel, tmp_path)(x)
    assert (done.n_instructions, done.latency_ns > 1000) == (33, True)  # load, activation, store and fill each turn, and the table of exp
    assert (tmp_path / "profile.html").exists()
    np.testing.assert_allclose(done.result[:100], np.exp(x[:100]), rtol=2e-6)
    assert estimate.estimate(kernel, x).latency_ns == done.latency_ns
    tuned = vtrn.nki.tune(kernel, {"columns": [64, 256]})(x)
    assert tuned.best.parameters == {"columns": 256}
    assert vtrn.nki.profile(kernel[2])(x).result.shape == x.shape


def test_what_is_stored_already_is_not_copied_to_itself():
    @nki.jit
    def kernel(a, b):
        out = nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.shared_hbm)
        p = nl.zeros((128, 64), nl.float32, buffer=nl.psum)
        for _ in nl.affine_range(3):
            p[...] += nl.matmul(nl.load(a), nl.load(b), transpose_x=True)
        s = nl.zeros((128, 64), nl.float32)
        s[0:128, 0:64] += nl.copy(p)
        nl.store(out, s)
        return out

    from vtrn.nki import estimate

    a, b = numbers(128, 128), numbers(128, 64)
    np.testing.assert_allclose(kernel(a, b), 3 * a.T @ b, rtol=1e-4, atol=1e-4)
    # zeros of s, two loads for all turns, in each turn weights, matmul; addition, which reads p where it is, store
    assert estimate.estimate(kernel, a, b).n_instructions == 1 + 2 + 3 * 2 + 2


@pytest.mark.parametrize("buffer", ["sbuf", "psum"])
def test_blocks_whose_places_are_taken_in_turn(buffer):
    """64 blocks of half of a memory: two live at a time, or banks that a function names."""
    import neuronxcc.nki.compiler as ncc

    columns = 20000 if buffer == "sbuf" else 512
    place = ncc.sbuf.mod_alloc(base_addr=0, num_free_tiles=(2, 1)) if buffer == "sbuf" else \
        ncc.psum.alloc(lambda block, partitions, n_bytes: (block[0] % 2, 0, 0))

    @nki.jit
    def kernel(x):
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        t = nl.ndarray((32, 2, nl.par_dim(128), columns), dtype=nl.float32, buffer=place)
        i, j = nl.mgrid[0:128, 0:columns]
        for n in nl.affine_range(32):
            for m in range(2):
                t[n, m, i, j] = nl.copy(nl.load(x[n, m, i, j]))
                nl.store(out[n, m, i, j], nl.copy(t[n, m, i, j]))
        with pytest.raises(NotImplementedError, match="blocks have places in turn: integers in the first 2 dimensions"):
            t[0:2]
        with pytest.raises(IndexError, match="index 32 of dimension 0, which has 32"):
            t[32, 0]
        return out

    x = np.broadcast_to(rng.standard_normal((32, 2, 128, 1)), (32, 2, 128, columns)).astype(np.float32)
    np.testing.assert_array_equal(kernel(x), x)


def test_numpys_functions_name_operations():
    @nki.jit
    def kernel(x):
        out = nl.ndarray((128, 1), dtype=x.dtype, buffer=nl.shared_hbm)
        nl.store(out, nisa.tensor_reduce(np.max, nisa.activation(np.copy, nl.load(x), scale=2.0), axis=1))
        return out

    x = numbers(128, 8)
    np.testing.assert_array_equal(kernel(x), 2 * x.max(1, keepdims=True))


@pytest.mark.parametrize("name", ["floor", "ceil", "trunc", "mod", "fmod"])
def test_whole_numbers_and_remainders_take_masks_and_numbers(name):
    is_remainder = name.endswith("mod")
    x, y = numbers(128, 40) * 100, np.abs(numbers(128, 40)) + np.float32(0.5)

    @nki.jit
    def kernel(x, y):
        out = nl.zeros(x.shape, x.dtype, buffer=nl.shared_hbm)
        i, j = nl.mgrid[0:128, 0:40]
        a, b = nl.load(x), nl.load(y)
        f = getattr(nl, name)
        nl.store(out[i, j], f(a, b, mask=j < 30) if is_remainder else f(a, mask=j < 30), mask=j < 30)
        numbered = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nl.store(numbered, f(a, 7.0) if is_remainder else f(a))
        return out, numbered

    got, numbered = kernel(x, y)
    f = getattr(np, name)
    np.testing.assert_array_equal(got[:, :30], (f(x, y) if is_remainder else f(x))[:, :30])
    assert not got[:, 30:].any()
    np.testing.assert_array_equal(numbered, f(x, np.float32(7)) if is_remainder else f(x))


# -- quotients and remainders of index expressions


def evaluate_quotients(index):
    grid = np.indices(index.shape)
    along = {a: grid[index.ndim - 1 - a] for a in range(index.ndim)}
    found = index.const + sum(step * along[a] for a, step in index.step.items())
    for (const, steps, n), factor in index.floors.items():
        found = found + factor * ((const + sum(s * along[a] for a, s in steps)) // n)
    return found + np.zeros(index.shape, int)


@pytest.mark.parametrize("text", ["i // 4", "i % 4", "(4 * i + j) // 4", "(4 * i + j) % 4", "(8 * i + j) // 4", "(3 * i + j) % 5 + 2 * i",
                                  "(i - 9) // 4", "(i - 9) % 4", "i // 2 // 3", "(i // 2 + 7) // 3", "2 * (i // 3) - i % 3", "i[:, :, None] // 3"])
def test_quotients_and_remainders_are_those_of_numpy(text):
    numbers = {"i": nl.arange(32)[:, None], "j": nl.arange(4)[None, :]}
    arrays = {"i": np.arange(32)[:, None], "j": np.arange(4)[None, :]}
    found, want = eval(text, numbers), eval(text, arrays)
    np.testing.assert_array_equal(np.broadcast_to(evaluate_quotients(found), want.shape), want)
    assert found.bounds() == (want.min(), want.max())


def test_quotients_that_are_affine_are_known_as_such():
    i, j = nl.arange(32)[:, None], nl.arange(4)[None, :]
    for index in ((4 * i + j) // 4, (4 * i + j) % 4, j // 4, j % 4, i // 4 * 4 + i % 4):
        assert not index.floors


@pytest.mark.parametrize("term", [lambda i: i // 4 < 3, lambda i: i // 4 >= 2, lambda i: 3 > i // 4, lambda i: i // 4 == 1,
                                  lambda i: (i + 2) // 5 <= 1, lambda i: i // 4 + 1 > 2])
def test_masks_by_a_quotient_are_boxes(term):
    i = nl.arange(20)[:, None]
    (lo, hi), _ = term(i).box((20, 4))
    np.testing.assert_array_equal(np.arange(lo, hi), np.flatnonzero(term(np.arange(20))))


def test_a_number_of_all_elements_becomes_subscripts_by_quotient_and_remainder():
    @nki.jit
    def kernel(x):
        out = nl.ndarray((4, 8, 6, 5), dtype=x.dtype, buffer=nl.shared_hbm)
        p, f = nl.arange(8)[:, None], nl.arange(30)[None, :]
        for n in nl.affine_range(4):
            tile = nl.load(x[n, p, f])
            nl.store(out[n, p, f // 5, f % 5], tile)
        return out

    x = numbers(4, 8, 30)
    np.testing.assert_array_equal(kernel(x), x.reshape(4, 8, 6, 5))


def test_subscripts_by_a_quotient_stay_in_their_dimension():
    @nki.jit
    def kernel(x):
        p, f = nl.arange(8)[:, None], nl.arange(30)[None, :]
        return nl.load(x[p, f // 5, f % 5])

    with pytest.raises(vtrn.nki.NkiValidationError, match="dimension 1 of a tensor .* goes from 0 to 5, and the dimension has 4 elements"):
        kernel(numbers(8, 4, 5))


@pytest.mark.parametrize("call, says", [
    (lambda s, x: nisa.nc_matmul(s, x), r"nc_matmul: stationary psum\[128, 128\] float32 is in psum.*nl.copy"),
    (lambda s, x: nisa.nc_matmul(x, s), "nc_matmul: moving psum"), (lambda s, x: nl.matmul(s, x), "nl.matmul: x psum"),
    (lambda s, x: nl.matmul(x, s, transpose_x=True), "nl.matmul: y psum"), (lambda s, x: nisa.nc_transpose(s), "nc_transpose: data psum")])
def test_what_the_tensor_engine_reads_is_in_sbuf(call, says):
    @nki.jit
    def kernel(a, copies):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        x = nl.load(a)
        first = nisa.nc_matmul(x, x)
        nl.store(out, nl.copy(call(nl.copy(first) if copies else first, x)))
        return out

    a = rng.integers(-2, 3, (128, 128)).astype(np.float32)
    assert kernel(a, True).shape == (128, 128)
    with pytest.raises(vtrn.nki.NkiValidationError, match=f"(?s){says}.*test_nki_beta1.py:"):
        kernel(a, False)
