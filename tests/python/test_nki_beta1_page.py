"""What the API pages of NKI's first generation say of reductions over loops, types, masks and axes; the judge is NumPy."""

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402, F401
import neuronxcc.nki.language as nl  # noqa: E402
from vtrn.nki.errors import NkiTypeError  # noqa: E402

rng = np.random.default_rng(29)


def numbers(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def jitted(kernel, *args):
    """What the kernel gives within a jitted JAX function."""
    jax = pytest.importorskip("jax")
    with jax.default_device(jax.devices("neuron")[0]):
        return jax.tree.map(np.asarray, jax.jit(kernel)(*args))


# -- nl.loop_reduce: "the destination tile is also the rhs input to op"


def stored_by_name(sums, x, op, i):
    sums = nl.loop_reduce(x, op=op, loop_indices=i, dtype=nl.float32)
    return sums


def stored_in_a_part(sums, x, op, i):
    sums[...] = nl.loop_reduce(x, op=op, loop_indices=[i], dtype=nl.float32)
    return sums


@pytest.mark.parametrize("store", [stored_by_name, stored_in_a_part])
@pytest.mark.parametrize("op", [np.add, np.maximum, np.minimum, np.multiply], ids=lambda op: op.__name__)
@pytest.mark.parametrize("begin", [None, 0.0, 0.5])
def test_a_reduction_over_a_loop_goes_on_from_its_destination(store, op, begin):
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape[1:], dtype=a.dtype, buffer=nl.shared_hbm)
        sums = nl.ndarray(a.shape[1:], dtype=nl.float32)
        if begin is not None:
            sums[...] = begin
        for i in nl.affine_range(a.shape[0]):
            sums = store(sums, nl.load(a[i]), op, i)
        nl.store(out, sums)
        return out

    a = numbers(5, 64, 33)
    want = op.reduce(a, axis=0)
    np.testing.assert_allclose(kernel(a), want if begin is None else op(want, np.float32(begin)), rtol=1e-5, atol=1e-5)


def test_a_reduction_over_a_loop_is_read_where_it_is_stored():
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape[1:], dtype=a.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(a.shape[0]):
            nl.store(out, nl.loop_reduce(nl.load(a[i]), op=np.add, loop_indices=[i]))
        return out

    with pytest.raises(NkiTypeError, match="would be one turn's operand; store it"):
        kernel(numbers(3, 64, 33))


# -- types: "NKI Type Promotion" and "Weakly Typed Scalar Type Inference"


@pytest.mark.parametrize("kind, number, want", [
    ("int8", 2, "int32"), ("uint8", 300, "int32"), ("int16", 40000, "int32"), ("int32", 0.5, "float32"), ("uint8", -0.5, "float32"),
    ("float16", 1.2, "float32"), ("bfloat16", 1.001, "float32"), ("bfloat16", 2, "bfloat16"), ("float16", np.float16(2), "float16"),
    ("int8", np.int8(2), "int8"), ("float32", 3, "float32"), ("uint32", 5, "float32"), ("uint32", -5, "float32"),
    ("float32", np.float64(2), "float32"), ("int32", True, "int32")])
def test_a_number_counts_as_the_widest_of_its_kind(kind, number, want):
    @nki.jit
    def kernel(a):
        x = nl.copy(nl.load(a), dtype=getattr(nl, kind))
        outs = []
        for made in (nl.add(x, number), nl.subtract(number, x), x * number, nl.maximum(x, number), nl.where(nl.greater(x, 50), x, number)):
            assert made.dtype == want
            outs.append(nl.ndarray(a.shape, dtype=nl.float32, buffer=nl.shared_hbm))
            nl.store(outs[-1], made)
        x += 1  # in its place
        assert x.dtype == kind
        return outs

    a = rng.integers(0, 60, (5, 7)).astype(np.float32)
    n = float(number)
    for got, right in zip(kernel(a), (a + n, n - a, a * n, np.maximum(a, n), np.where(a > 50, a, n))):
        np.testing.assert_allclose(got, right, rtol=2e-2 if "float" not in want or want != "float32" else 1e-6)


def test_bits_beside_a_number_are_the_tiles():
    @nki.jit
    def kernel(a):
        x = nl.load(a)
        for made in (x >> 1, nl.bitwise_and(x, 0xF0), x ^ 3, x << 1):
            assert made.dtype == a.dtype
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.bitwise_and(x >> 1, 0x70))
        return out

    a = rng.integers(0, 200, (5, 7)).astype(np.uint8)
    np.testing.assert_array_equal(kernel(a), (a >> 1) & 0x70)


def test_answers_are_booleans():
    """As predicates, and joined and turned round by Python's operators."""
    @nki.jit
    def kernel(a, b):
        x, y, outs = nl.load(a), nl.load(b), []
        assert nl.greater(x, y).dtype == nl.logical_and(x, y).dtype == nl.all(x, axis=1).dtype == nl.bool_
        assert nl.equal(x, y, dtype=nl.float32).dtype == nl.float32
        copied, selected = nl.copy(y), nl.ndarray(a.shape, a.dtype)
        nisa.tensor_copy_predicated(src=x, dst=copied, predicate=nl.greater(y, 0))
        nisa.select_reduce(dst=selected, predicate=nl.less(x, y), on_true=x, on_false=-1.0)
        for made in (copied, selected, nl.where((x > 0) & (y > 0), x, y), nl.where(~(x > 0), x, y), nl.where(nl.invert(x > y), x, y)):
            outs.append(nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm))
            nl.store(outs[-1], made)
        for made in (nl.sum(nl.greater(x, 0), axis=1, keepdims=True), nisa.tensor_reduce(np.add, nl.greater(x, 0), axis=[1])):
            outs.append(nl.ndarray((5, 1), dtype=nl.int32, buffer=nl.shared_hbm))
            nl.store(outs[-1], made)
        return outs

    a, b = numbers(5, 7), numbers(5, 7)
    n = (a > 0).sum(1, keepdims=True)
    want = (np.where(b > 0, a, b), np.where(a < b, a, -1), np.where((a > 0) & (b > 0), a, b), np.where(a > 0, b, a),
            np.where(a > b, b, a), n, n)
    for got, right in zip(kernel(a, b), want):
        np.testing.assert_array_equal(got, right)


def test_a_mean_of_integers_is_a_float():
    @nki.jit
    def kernel(a):
        out = nl.ndarray((5, 1), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, nl.mean(nl.load(a), axis=1, keepdims=True))
        return out

    a = rng.integers(-9, 9, (5, 7)).astype(np.int32)
    np.testing.assert_allclose(kernel(a), a.mean(1, keepdims=True), rtol=1e-6)


# -- axes and masks


@pytest.mark.parametrize("axis", [2, (2,), -1, (1, 2), [-2, -1]])
def test_a_softmax_takes_the_last_dimensions(axis):
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape, dtype=nl.bfloat16, buffer=nl.shared_hbm)
        nl.store(out, nl.softmax(nl.load(a), axis=axis, compute_dtype=nl.bfloat16))
        return out

    a = numbers(5, 3, 7)
    axis = tuple(axis) if isinstance(axis, list) else axis
    powers = np.exp(a - a.max(axis, keepdims=True))
    np.testing.assert_allclose(kernel(a).astype(np.float32), powers / powers.sum(axis, keepdims=True), rtol=1e-2)


@pytest.mark.parametrize("rows, columns", [((0, 40), (0, 30)), ((32, 64), (7, 33)), ((0, 64), (0, 33)), ((0, 0), (0, 33))])
def test_statistics_are_those_of_what_a_mask_leaves(rows, columns):
    @nki.jit
    def kernel(a, w):
        i, j = nl.mgrid[0:64, 0:33]
        mask = (i >= rows[0]) & (i < rows[1]) & (j >= columns[0]) & (j < columns[1])
        x, outs = nl.load(a), []
        for name in ("mean", "var", "all", "softmax", "rms_norm", "full", "predicated"):
            is_column = name in ("mean", "var", "all")
            tile = nl.zeros((64, 1) if is_column else a.shape, a.dtype)
            out = nl.ndarray(tile.shape, dtype=a.dtype, buffer=nl.shared_hbm)
            if is_column:
                tile[...] = getattr(nl, name)(x, axis=1, keepdims=True, mask=mask)
            elif name == "predicated":
                nisa.tensor_copy_predicated(src=x, dst=tile, predicate=nl.greater(x, 0), mask=mask)
            else:
                tile[i, j] = (nl.softmax(x, axis=1, mask=mask) if name == "softmax" else nl.full(a.shape, 7, a.dtype, mask=mask)
                              if name == "full" else nl.rms_norm(x, nl.load(w), axis=1, n=columns[1] - columns[0], mask=mask))
            nl.store(out, tile)
            outs.append(out)
        return outs

    a, w = numbers(64, 33), numbers(1, 33)
    a[3] = 0
    box = slice(*rows), slice(*columns)
    part = a[box]
    powers = np.exp(part - part.max(1, keepdims=True)) if part.size else part
    found = (part.mean(1, keepdims=True), part.var(1, keepdims=True), part.all(1, keepdims=True),
             powers / powers.sum(1, keepdims=True), part / np.sqrt((part**2).mean(1, keepdims=True) + 1e-6) * w[:, box[1]],
             np.full_like(part, 7), np.where(part > 0, part, 0))
    for got, right in zip(kernel(a, w), found):
        want = np.zeros(got.shape, np.float32)
        want[box if got.shape[1] > 1 else box[0]] = right
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


# -- rows by numbers in a tile, with masks


@pytest.mark.parametrize("rows", [(0, 16), (3, 16), (5, 9)])
@pytest.mark.parametrize("is_grid", [True, False])
def test_masks_leave_the_rows_that_a_tile_names(rows, is_grid):
    """The mask counts rows of the subscript: the numbers in the tile say which those of the tensor are."""
    @nki.jit
    def kernel(table, index, value):
        i, j = nl.mgrid[0:16, 0:12] if is_grid else (nl.arange(16)[:, None], nl.arange(12)[None, :])
        mask = (i >= rows[0]) & (i < rows[1]) & (j >= 2)
        at, found = nl.load(index), nl.zeros((16, 12), table.dtype)
        found[i, j] = nl.load(table[at[i, 0], j], mask=mask)
        outs = [nl.ndarray(shape, dtype=table.dtype, buffer=nl.shared_hbm) for shape in ((16, 12), *[table.shape] * 2)]
        for out, tile in zip(outs, (found, nl.load(table), nl.load(table))):
            nl.store(out, tile)
        nl.store(outs[1][at[i, 0], j], nl.load(value), mask=mask)
        nl.atomic_rmw(outs[2][at[i, 0], j], value=nl.load(value), op=np.add, mask=mask)
        return outs

    table, value, index = numbers(64, 12), numbers(16, 12), rng.permutation(64)[:16].astype(np.int32)
    box = slice(*rows), slice(2, 12)
    want = np.zeros((16, 12), np.float32), table.copy(), table.copy()
    want[0][box] = table[index][box]
    want[1][index[box[0]], 2:] = value[box]
    want[2][index[box[0]], 2:] += value[box]
    for got, right in zip(kernel(table, index[:, None], value), want):
        np.testing.assert_array_equal(got, right)


def test_rows_that_are_not_there_are_skipped_in_each_box_of_a_mask():
    @nki.jit
    def kernel(table, index, value, mode):
        out = nl.ndarray(table.shape, dtype=table.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(table))
        i, j = nl.mgrid[0:16, 0:12]
        nl.store(out[nl.load(index)[i, 0], j], nl.load(value), mask=j <= i, mode=mode)
        found = nl.ndarray((16, 12), dtype=table.dtype, buffer=nl.shared_hbm)
        tile = nl.zeros((16, 12), table.dtype)
        tile[i, j] = nl.load(table[nl.load(index)[i, 0], j], mask=j <= i, mode=mode)
        nl.store(found, tile)
        return out, found

    table, value, index = numbers(64, 12), numbers(16, 12), rng.permutation(64)[:16].astype(np.int32)
    index[[5, 15]] = 64, -1
    low = np.tril(np.ones((16, 12), bool))
    want, there = table.copy(), np.setdiff1d(np.arange(16), [5, 15])
    for row in there:
        want[index[row], low[row]] = value[row, low[row]]
    out, found = kernel(table, index[:, None], value, nisa.oob_mode.skip)
    np.testing.assert_array_equal(out, want)
    is_there = np.isin(np.arange(16), there)[:, None]
    np.testing.assert_array_equal(found, np.where(low & is_there, table[np.clip(index, 0, 63)], 0))
    with pytest.raises(vtrn.nki.NkiValidationError, match="outside of the tensor's 64 rows"):
        kernel(table, index[:, None], value, nisa.oob_mode.error)


def test_a_load_that_skips_rows_gives_the_same_within_a_jitted_function():
    @nki.jit
    def kernel(table, index):
        out = nl.ndarray((16, 12), dtype=table.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(table[nl.load(index), nl.arange(12)[None, :]], mode=nisa.oob_mode.skip))
        return out

    table, index = numbers(64, 12), rng.integers(0, 64, (16, 1)).astype(np.int32)
    index[3] = 77
    with pytest.warns(UserWarning, match="nothing had written"):
        want = kernel(table, index)
    got = jitted(kernel, table, index)
    assert got.tobytes() == want.tobytes() and np.isnan(got[3]).all() and not np.isnan(got[:3]).any()


def test_a_load_that_skips_rows_leaves_those_of_its_destination(tmp_path):
    """As kernels of experts have it: zeros, and rows of tokens over them. What is read elsewhere is as the source was then."""
    @nki.jit
    def kernel(table, index):
        outs = [nl.ndarray((16, 12), dtype=table.dtype, buffer=nl.shared_hbm) for _ in range(3)]
        p, f, at = *nl.mgrid[0:16, 0:12], nl.load(index)
        tile, masked = nl.ndarray((2, nl.par_dim(16), 12), table.dtype), nl.full((16, 12), 7, table.dtype)
        tile[1, p, f] = nisa.memset((16, 12), value=0, dtype=table.dtype)
        rows = nl.load(table[at[nl.arange(16)[:, None], 0], f], mode=nisa.oob_mode.skip)
        tile[1, p, f] = rows
        nl.store(outs[0], tile[1])
        masked[p, f] = nl.load(table[at[p, 0], f], mask=(p >= 3) & (f < 9), mode=nisa.oob_mode.skip)
        nl.store(outs[1], masked)
        tile[1] = 0.0
        at[...] = 0
        nl.store(outs[2], rows)
        return outs

    table, index = numbers(64, 12), rng.integers(0, 64, (16, 1)).astype(np.int32)
    index[[5, 9], 0] = 64, -1
    is_there = ((index >= 0) & (index < 64))
    rows = table[np.clip(index[:, 0], 0, 63)]
    masked = np.full((16, 12), 7, np.float32)
    masked[3:, :9] = np.where(is_there, rows, 7)[3:, :9]
    want = np.where(is_there, rows, 0), masked, np.where(is_there, rows, np.nan).astype(np.float32)
    with pytest.warns(UserWarning, match="nothing had written"):
        direct = kernel(table, index)
        profiled = vtrn.nki.profile(kernel, str(tmp_path / "k"))(table, index).result
    for results in (direct, profiled, jitted(kernel, table, index)):
        for got, right in zip(results, want):
            np.testing.assert_array_equal(got, right)


# -- integers


@pytest.mark.parametrize("kind", [np.int32, np.uint32])
def test_integers_of_32_bits_are_divided_exactly(kind):
    @nki.jit
    def kernel(a, b):
        x, y, outs = nl.load(a), nl.load(b), []
        for made in (nl.divide(x, y), nl.divide(x, 3), nl.divide(1000000007, y), x / y):
            assert made.dtype == a.dtype
            outs.append(nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm))
            nl.store(outs[-1], made)
        return outs

    info = np.iinfo(kind)
    a = rng.integers(info.min, info.max, (64, 33), endpoint=True).astype(kind)
    b = np.where(rng.random((64, 33)) < 0.5, rng.integers(1, 9, (64, 33)), rng.integers(1, info.max, (64, 33))).astype(kind)
    b = np.where(rng.random((64, 33)) < 0.5, -b.astype(np.int64), b).astype(kind) if info.min else b
    a[0, :4], b[0, :4] = (info.max, info.max, info.min, info.min), (1, 2, 1, 2)
    wide, by = a.astype(np.int64), b.astype(np.int64)

    def quotient(x, y):
        return (np.abs(x) // np.abs(y) * np.sign(x) * np.sign(y)).astype(kind)

    want = quotient(wide, by), quotient(wide, np.int64(3)), quotient(np.int64(1000000007), by), quotient(wide, by)
    for got, right in zip(kernel(a, b), want):
        np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("value, kind", [(2**40, np.int32), (-2**33, np.uint32), (float("nan"), np.int32)])
def test_a_number_that_an_integer_does_not_hold_is_refused(value, kind):
    with pytest.raises(ValueError, match="memset: .* which have 32 bits; give"):
        nki.jit(lambda a: nl.full((4, 5), value, kind))(numbers(4, 5))


# -- patterns, rates, modes


def test_transfers_of_many_dimensions_are_several():
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape[:1] + a.shape[:0:-1], dtype=a.dtype, buffer=nl.shared_hbm)
        p, *i = nl.mgrid[0:3, 0:2, 0:3, 0:2, 0:3, 0:2]
        nl.store(out, nl.load(a[p, i[4], i[3], i[2], i[1], i[0]]))
        return out

    a = numbers(3, 2, 3, 2, 3, 2)
    np.testing.assert_array_equal(kernel(a), a.transpose(0, 5, 4, 3, 2, 1))


def test_a_rate_of_dropout_may_be_a_tile_of_one_element():
    @nki.jit
    def kernel(a, rate):
        nl.random_seed(7)
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.dropout(nl.load(a), nl.load(rate)))
        return out

    a = numbers(128, 512)
    got = kernel(a, np.full((1, 1), 0.25, np.float32))
    assert ((got == 0) | (got == a)).all() and abs((got == 0).mean() - 0.25) < 0.01
    np.testing.assert_array_equal(kernel(a, np.full((128, 1), 0.25, np.float32)), got)


def test_jit_takes_modes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def kernel(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(a))
        return out

    a = numbers(4, 5)
    for mode in ("simulation", "baremetal", "auto"):
        np.testing.assert_array_equal(nki.jit(mode=mode)(kernel)(a), a)
    timed = nki.jit(kernel, mode="benchmark")
    timed(a)
    assert timed.benchmark_result.nc_latency.get_latency_percentile(99) > 0


# -- numbers in tiles as subscripts of HBM


_ELEMENTS = {
    "behind an index": ((6, 9), lambda x, n: x[nl.arange(6)[:, None], n[0, 1], 1, nl.arange(9)[None, :]], lambda x: x[:, 2, 1]),
    "two": ((6, 9), lambda x, n: x[nl.arange(6)[:, None], n[0, 1], n[0, 2], nl.arange(9)[None, :]], lambda x: x[:, 2, 5]),
    "in front of rows": ((5, 9), lambda x, n: x[n[0, 0], nl.arange(5)[:, None], 1, nl.arange(9)[None, :]], lambda x: x[3, :, 1]),
    "a row": ((1, 9), lambda x, n: x[1, n[0, 0], 2, nl.arange(9)[None, :]], lambda x: x[1, 3, 2][None]),
    "between slices": ((6, 8), lambda x, n: x[0:6, n[0, 1], 0:8, 0], lambda x: x[:, 2, :, 0])}


@pytest.mark.parametrize("name", _ELEMENTS)
def test_an_element_of_a_tile_is_a_number_in_any_dimension(name):
    shape, of, want = _ELEMENTS[name]

    @nki.jit
    def kernel(x, numbers):
        out = nl.ndarray(shape, dtype=x.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(of(x, nl.load(numbers))))
        return out

    x = numbers(6, 5, 8, 9)
    np.testing.assert_array_equal(kernel(x, np.array([[3, 2, 5]], np.int32)), want(x))


def test_an_operand_of_a_predicated_copy_has_the_shape_of_its_destination():
    @nki.jit
    def kernel(a, predicate, n):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        tile, which = nl.zeros(a.shape, a.dtype), nl.load(predicate)
        nisa.tensor_copy_predicated(src=nl.load(a), dst=tile, predicate=which.expand_dims(n) if n else which)
        nl.store(out, tile)
        return out

    a, which = numbers(128, 8, 4), rng.integers(0, 2, (128, 8)).astype(np.uint8)
    for axes in (2, [2], (-1,)):
        np.testing.assert_array_equal(kernel(a, which, axes), np.where(which[:, :, None], a, 0))
    with pytest.raises(vtrn.nki.NkiValidationError, match=r"predicate of shape \(128, 8\) has 8 elements a partition, and dst .* has 32"):
        kernel(a, which, None)


# -- masks as subscripts of a matmul's operands ("operand masking")


@pytest.mark.parametrize("how", ["nl.matmul", "not transposed", "summed in PSUM", "stored in PSUM"])
@pytest.mark.parametrize("rows, columns, depth", [(64, 256, 128), (100, 300, 128), (33, 300, 64), (0, 10, 128)])
def test_operands_of_a_matmul_take_masks_as_subscripts(how, rows, columns, depth):
    @nki.jit
    def kernel(a, b):
        x, y, found = nl.load(a), nl.load(b), nl.zeros((100, 300), nl.float32)
        p, k, m, n = nl.arange(128)[:, None], nl.arange(128)[None, :], nl.arange(100)[None, :], nl.arange(300)[None, :]
        if how == "not transposed":
            i = nl.arange(100)[:, None]
            found[...] = nl.matmul(x[i, k][(i < rows) & (k < depth)], y[p, n][n < columns])
        elif how == "nl.matmul":
            found[...] = nl.matmul(x[p, m][(m < rows) & (p < depth)], y[p, n][n < columns], transpose_x=True)
        else:
            sums = nl.zeros((100, 300), nl.float32, buffer=nl.psum)
            for _ in nl.affine_range(2):
                product = nisa.nc_matmul(x[p, m][m < rows], y[p, n][(n < columns) & (p < depth)])
                if how == "summed in PSUM":
                    sums[nl.arange(100)[:, None], n] += product
                else:
                    sums[...] = product
            found[...] = nl.copy(sums)
        out = nl.ndarray((100, 300), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, found)
        return out

    a, b = numbers(128, 100), numbers(128, 300)
    want = np.zeros((100, 300), np.float32)
    want[:rows, :columns] = a[:depth, :rows].T @ b[:depth, :columns] * (2 if how == "summed in PSUM" else 1)
    got = kernel(np.ascontiguousarray(a.T) if how == "not transposed" else a, b)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_masks_as_subscripts_may_follow_each_other():
    """Those of loops' variables alone are truths of Python."""
    @nki.jit
    def kernel(a, b):
        x, y, sums = nl.load(a), nl.load(b), nl.zeros((100, 3, 50), nl.float32, buffer=nl.psum)
        p, w, n = nl.arange(128)[:, None, None], nl.arange(3)[None, :, None], nl.arange(50)[None, None, :]
        for i in nl.affine_range(3):
            sums[nl.arange(100)[:, None, None], w, n] += nisa.nc_matmul(x[0:128, 0:100], y[p, w, n][n < 40][i < 2][w < 2])
        out = nl.ndarray((100, 3, 50), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, nl.copy(sums))
        return out

    a, b = numbers(128, 100), numbers(128, 3, 50)
    want = np.zeros((100, 3, 50), np.float32)
    want[:, :2, :40] = 2 * np.einsum("km,kwn->mwn", a, b[:, :2, :40])
    np.testing.assert_allclose(kernel(a, b), want, rtol=1e-3, atol=1e-3)


def test_a_target_that_is_named_several_times_gets_its_value_once():
    @nki.jit
    def kernel(a):
        x, found = nl.load(a), nl.zeros((4, 3, 5), a.dtype)
        p, _, f = nl.mgrid[0:4, 0:7, 0:5]
        for i in nl.affine_range(3):
            found[p, i, f] = x.reshape((4, 1, 5))
        out = nl.ndarray((4, 3, 5), dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, found)
        return out

    a = numbers(4, 5)
    np.testing.assert_array_equal(kernel(a), np.repeat(a[:, None], 3, 1))


def test_other_instructions_take_no_mask_as_a_subscript():
    with pytest.raises(vtrn.nki.NkiValidationError, match="other instructions have mask="):
        nki.jit(lambda a: nl.add(nl.load(a)[nl.arange(4)[:, None] < 3], 1.0))(numbers(4, 5))


# -- masks and tiles of other dimensions


_PLACED = {
    "rows of whole columns": lambda x, r, a, p, f: r.__setitem__((p, slice(None)), nl.load(a[p, :], mask=p < 100)),
    "an axis more": lambda x, r, a, p, f: r.__setitem__(..., nl.copy(x, mask=nl.arange(128)[:, None, None] < 100)),
    "an axis more in both": lambda x, r, a, p, f: r.__setitem__(..., nl.add(x, 0.0, mask=(nl.arange(128)[:, None, None] < 100) & (
        nl.arange(64)[None, None, :] < 64))),
    "an axis less": lambda x, r, a, p, f: r.reshape((128, 4, 16)).__setitem__(..., nl.copy(x.reshape((128, 4, 16)), mask=p < 100))}


@pytest.mark.parametrize("name", _PLACED)
def test_masks_count_partitions_whatever_the_dimensions(name):
    @nki.jit
    def kernel(a):
        out, found = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm), nl.zeros(a.shape, a.dtype)
        _PLACED[name](nl.load(a), found, a, nl.arange(128)[:, None], nl.arange(64)[None, :])
        nl.store(out, found)
        return out

    a = numbers(128, 64)
    np.testing.assert_array_equal(kernel(a), np.where(np.arange(128)[:, None] < 100, a, 0))


def test_a_mask_of_more_dimensions_than_the_tile_is_refused():
    p, b, _ = nl.mgrid[0:128, 0:4, 0:16]
    with pytest.raises(NkiTypeError, match=r"index expressions over \(128, 4, 16\) and a tile of shape \(128, 64\)"):
        nki.jit(lambda a: nl.add(nl.load(a), 0.0, mask=(p < 100) & (b < 2)))(numbers(128, 64))


@pytest.mark.parametrize("shape, of, want", [
    ((128, 64), lambda: nl.arange(128)[:, None, None] >= nl.arange(64)[None, None, :], lambda p, f: p >= f),
    ((128, 4, 16), lambda: nl.arange(128)[:, None] >= 100, lambda p, f: p >= 100),
    ((128, 4, 16), lambda: nl.arange(128)[:, None] >= 16 * nl.arange(4)[None, :], lambda p, f: p >= f // 16 * 16)])
def test_affine_select_counts_partitions_whatever_the_dimensions(shape, of, want):
    @nki.jit
    def kernel(a):
        out = nl.ndarray(shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nisa.affine_select(pred=of(), on_true_tile=nl.load(a).reshape(shape), on_false_value=-1.0))
        return out

    a = numbers(128, 64)
    np.testing.assert_array_equal(kernel(a).reshape(128, 64), np.where(want(*np.mgrid[0:128, 0:64]), a, -1).astype(np.float32))


def test_a_matmul_takes_masks_that_its_operands_have_or_that_leave_all():
    @nki.jit
    def kernel(a, b, form):
        p, f, x = nl.arange(128)[:, None], nl.arange(64)[None, :], nl.load(a)
        sums = nl.zeros((64, 300), nl.float32, buffer=nl.psum)
        sums += (nl.matmul(x, nl.load(b), transpose_x=True, mask=f < 64) if form == "all" else
                 nisa.nc_matmul(x[p, f][f < 50], nl.load(b), mask=f < 50) if form == "operand" else nl.matmul(x, x, mask=f < 50))
        out = nl.ndarray((64, 300), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, nl.copy(sums))
        return out

    a, b = numbers(128, 64), numbers(128, 300)
    want = a.T @ b
    np.testing.assert_allclose(kernel(a, b, "all"), want, rtol=1e-3, atol=1e-3)
    want[50:] = 0
    np.testing.assert_allclose(kernel(a, b, "operand"), want, rtol=1e-3, atol=1e-3)
    with pytest.raises(NotImplementedError, match=r"nl.matmul: a mask of elements[^\0]*\n  at .*test_nki_beta1_page.py"):
        kernel(a, b, "other")


@pytest.mark.parametrize("number", [2, 6, -1])
def test_a_number_that_a_dimension_has_not_is_skipped_with_masks(number):
    @nki.jit
    def kernel(table, at):
        found, out = nl.full((128, 9), 7, table.dtype), nl.ndarray((128, 9), dtype=table.dtype, buffer=nl.shared_hbm)
        p, f = nl.mgrid[0:128, 0:9]
        found[p, f] = nl.load(table[nl.load(at)[0, 0], p, f], mask=(p < 100) & (f <= p), mode=nisa.oob_mode.skip)
        nl.store(out, found)
        return out

    table, (p, f) = numbers(6, 128, 9), np.mgrid[0:128, 0:9]
    want = np.where((p < 100) & (f <= p) & (0 <= number < 6), table[min(max(number, 0), 5)], 7)
    np.testing.assert_array_equal(kernel(table, np.array([[number]], np.int32)), want.astype(np.float32))


# -- programs, and turns that a mask leaves out


@pytest.mark.parametrize("op, want", [(np.add, np.add), (np.max, np.maximum), (np.minimum, np.minimum), (nl.multiply, np.multiply)])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_the_two_programs_of_a_launch_reduce_their_tiles(op, want, kind, tmp_path):
    @nki.jit
    def kernel(a):
        i, (p, f) = nl.program_id(0), nl.mgrid[0:100, 0:33]
        out = nl.ndarray((2, 2, 100, 33), dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out[0, i], nl.all_reduce(nl.load(a[i]), op=op, program_axes=[0]))
        part = nl.zeros((100, 33), a.dtype)
        part[p, f] = nl.all_reduce(nl.load(a[i]), op, i, mask=(p < 50) & (f > 3))
        nl.store(out[1, i], part)
        return out

    a = rng.integers(-9, 9, (2, 100, 33)).astype(kind)
    both = want(a[0], a[1])
    part = np.zeros_like(both)
    part[:50, 4:] = both[:50, 4:]
    right = np.stack([both, both, part, part]).reshape(2, 2, 100, 33)
    np.testing.assert_array_equal(kernel[2](a), right)
    done = vtrn.nki.profile(kernel[2], str(tmp_path / "k"))(a)
    np.testing.assert_array_equal(done.result, right)
    assert done.latency_ns > 0


def test_other_launches_have_no_reduction_over_programs():
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.all_reduce(nl.load(a), op=np.add, program_axes=0))
        return out

    a = numbers(4, 5)
    np.testing.assert_array_equal(kernel(a), a)
    with pytest.raises(NotImplementedError, match=r"launch grid \(4,\); the two programs of kernel\[2\] have it"):
        kernel[4](a)


def test_a_mask_leaves_turns_out_whose_subscripts_are_beyond():
    @nki.jit
    def kernel(a, is_masked):
        sums, found = nl.zeros((2, nl.par_dim(64), 33), nl.float32, buffer=nl.psum), nl.zeros((2, nl.par_dim(64), 33), nl.float32)
        out = nl.ndarray((2, 64, 33), dtype=a.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(4):
            mask = i < 2 if is_masked else None
            sums[i] += nisa.nc_matmul(nl.load(a[i, :, 0:64], mask=mask), nl.load(a[i, :, 64:97], mask=mask), mask=mask)
        for i in nl.affine_range(4):
            found[i] = nl.copy(sums[i], mask=mask if i >= 2 else None)
            nl.store(out[i], found[i], mask=i < 2)
        return out

    a = numbers(2, 128, 97)
    np.testing.assert_allclose(kernel(a, True), np.einsum("bkm,bkn->bmn", a[:, :, :64], a[:, :, 64:]), rtol=1e-3, atol=1e-3)
    with pytest.raises(vtrn.nki.NkiValidationError, match="goes from 2 to 2, and the dimension has 2 elements; mask what is beyond"):
        kernel(a, False)


def test_a_number_in_a_tile_has_no_value_while_jax_traces():
    @nki.jit
    def kernel(a, at):
        out = nl.ndarray((4, 3), dtype=a.dtype, buffer=nl.shared_hbm)
        p, f = nl.mgrid[0:4, 0:3]
        nl.store(out, nisa.tensor_copy_dynamic_src(nl.load(a)[p, nl.load(at)[0, 0] + f]))
        return out

    a, at = numbers(4, 9), np.array([[5]], np.int32)
    np.testing.assert_array_equal(kernel(a, at), a[:, 5:8])
    with pytest.raises(vtrn.nki.NkiValidationError, match=r"_src or _dst: a value is looked at .* give it to the kernel[^\0]*page.py:") as e:
        jitted(kernel, a, at)
    assert e.value.category == "unsupported"


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.int16, np.bool_])
@pytest.mark.parametrize("turn", [nl.transpose, nisa.nc_transpose], ids=["nl", "nisa"])
def test_small_tiles_of_integers_are_transposed(turn, kind):
    """By the Vector engine, which the instruction chooses by the shape."""
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape[::-1], dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, turn(nl.load(a)))
        return out

    a = rng.integers(0, 2 if kind is np.bool_ else 100, (31, 7)).astype(kind)
    np.testing.assert_array_equal(kernel(a), a.T)


@pytest.mark.parametrize("holds", [lambda p, f: (f >= p) & (f < p + 10), lambda p, f: (p * 4 + f < 100) & (p * 4 + f + 100 < 190),
                                   lambda p, f: (f <= p) & (f >= p - 5) & (f + p < 60) & (p >= 3)])
def test_masks_of_several_terms_over_two_dimensions_are_cut_into_boxes(holds):
    """As a search for the largest numbers has them, which folds rows that do not divide."""
    @nki.jit
    def kernel(a):
        outs = [nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm) for _ in range(2)]
        (p, f), found = nl.mgrid[0:64, 0:65], nl.zeros(a.shape, a.dtype)
        found[p, f] = nl.load(a[p, f], mask=holds(p, f))
        nl.store(outs[0], found)
        nl.store(outs[1], nl.zeros(a.shape, a.dtype))
        nl.store(outs[1][p, f], nl.load(a), mask=holds(p, f))
        return outs

    a = numbers(64, 65)
    want = np.where(holds(*np.mgrid[0:64, 0:65]), a, 0)
    for got in kernel(a):
        np.testing.assert_array_equal(got, want)


def test_terms_over_other_dimensions_are_told():
    p, f, g = nl.mgrid[0:8, 0:5, 0:6]
    with pytest.raises(NotImplementedError, match=r"over dimensions \(0, 1\), \(1, 2\) of a tile together[^\0]*page.py:"):
        nki.jit(lambda a: nl.load(a, mask=(p < f) & (f < g)))(numbers(8, 5, 6))


@pytest.mark.parametrize("begin", [None, 1.0])
def test_a_reduction_over_a_loop_takes_masks(begin):
    @nki.jit
    def kernel(a):
        out, sums = nl.ndarray((64, 33), dtype=a.dtype, buffer=nl.shared_hbm), nl.ndarray((64, 33), nl.float32)
        (p, f), rest = nl.mgrid[0:64, 0:33], nl.zeros((64, 33), nl.float32)
        if begin is not None:
            sums[...] = begin
        for i in nl.affine_range(5):
            sums[p, f] = nl.loop_reduce(nl.load(a[i]), op=np.add, loop_indices=[i], mask=(p < 50) & (f >= 3) & (i < 4))
        rest[p, f] = nl.copy(sums, mask=(p < 50) & (f >= 3))
        nl.store(out, rest)
        return out

    a, want = numbers(5, 64, 33), np.zeros((64, 33), np.float32)
    want[:50, 3:] = a[:4, :50, 3:].sum(0) + (begin or 0)
    np.testing.assert_allclose(kernel(a), want, rtol=1e-5, atol=1e-5)


def test_an_annotation_knows_tensors():
    import neuronxcc.nki.typing as nt

    @nki.jit
    def kernel(a, n):
        assert isinstance(a, nt.tensor) and not isinstance(n, nt.tensor)
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(a))
        return out

    a = numbers(4, 5)
    np.testing.assert_array_equal(kernel(a, 3), a)


def test_a_dma_copies_one_row_to_all_partitions():
    @nki.jit
    def kernel(a):
        p, f = nl.arange(128)[:, None], nl.arange(40)[None, :]
        out, rows, row = nl.ndarray((128, 40), dtype=a.dtype, buffer=nl.shared_hbm), nl.ndarray((128, 40), a.dtype), nl.load(a[3:4, :])
        nisa.dma_copy(dst=rows[p, f], src=row[p * 0, f])
        nl.store(out, rows)
        return out

    a = numbers(5, 40)
    np.testing.assert_array_equal(kernel(a), np.repeat(a[3:4], 128, 0))


# -- what masked results have, and what is made of them


@pytest.mark.parametrize("make", [
    lambda x, a, p, f: nl.load(a[p, f], mask=(p < 96) & (f < 20)) * 0.5, lambda x, a, p, f: 0.5 * nl.copy(x, mask=(p < 96) & (f < 20)),
    lambda x, a, p, f: nl.multiply(nl.copy(nl.load(a[p, f], mask=(p < 96) & (f < 20))), nl.add(nl.multiply(x[:, 0:1], 0.0), 0.5)),
    lambda x, a, p, f: nl.minimum(nl.maximum(x * 0.5, -9.0), nl.add(x, 99.0, mask=(p < 96) & (f < 20))),
    lambda x, a, p, f: nisa.activation(nl.copy, nl.load(a[p, f], mask=(p < 96) & (f < 20)), scale=0.5)])
def test_what_is_made_of_a_masked_result_has_its_elements(make):
    """Stored in a part of a tensor it leaves the others there, as a backward pass of attention has it for narrow heads."""
    @nki.jit
    def kernel(a):
        (p, f), found = nl.mgrid[0:128, 0:33], nl.full((128, 33), 7.0, a.dtype)
        found[p, f] = make(nl.load(a), a, p, f)
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, found)
        return out

    a, want = numbers(128, 33), np.full((128, 33), 7, np.float32)
    want[:96, :20] = a[:96, :20] * 0.5
    np.testing.assert_allclose(kernel(a), want, rtol=1e-6)


def test_a_masked_result_that_is_filled_up_has_all_elements():
    @nki.jit
    def kernel(a):
        (p, f), outs = nl.mgrid[0:128, 0:33], [nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm) for _ in range(2)]
        for out, tile in zip(outs, (nl.load(a[p, f], mask=(p < 96) & (f < 20)), nl.add(nl.load(a), 0.0, mask=(p < 96) & (f < 20)))):
            found = nl.zeros(a.shape, a.dtype)
            tile[96:128, :] = 5.0
            tile[:, 20:33] = 6.0
            found[p, f] = tile
            found += tile
            nl.store(out, found)
        return outs

    a = numbers(128, 33)
    want = 2 * a
    want[96:], want[:, 20:] = 10, 12
    for got in kernel(a):
        np.testing.assert_array_equal(got, want)


def test_what_is_made_of_a_triangle_has_its_elements():
    @nki.jit
    def kernel(a):
        (p, f), found = nl.mgrid[0:64, 0:33], nl.full((64, 33), 7.0, a.dtype)
        found[p, f] = nl.exp(nl.load(a[p, f], mask=f <= p)) * 2.0
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, found)
        return out

    a = numbers(64, 33)
    np.testing.assert_allclose(kernel(a), np.where(np.tri(64, 33, dtype=bool), 2 * np.exp(a), 7), rtol=1e-4)


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.int16])
@pytest.mark.parametrize("shape", [(128, 64), (33, 97), (64, 32), (32, 33), (128, 128)])
def test_vector_transposes_larger_tiles_in_blocks(shape, kind, tmp_path):
    def kernel(a):
        out = nl.ndarray(a.shape[::-1], dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nisa.nc_transpose(nl.load(a), engine=nisa.vector_engine))
        return out

    a = np.random.default_rng(0).integers(-30000, 30000, shape).astype(kind)
    np.testing.assert_array_equal(nki.jit(kernel)(a), a.T)
    np.testing.assert_array_equal(vtrn.nki.profile(nki.jit(kernel), tmp_path)(a).result, a.T)


def test_vector_transposes_several_free_dimensions_in_blocks():
    @nki.jit
    def kernel(a):
        out = nl.ndarray((96, 70), dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nisa.nc_transpose(nl.load(a), engine=nisa.vector_engine))
        return out

    a = np.random.default_rng(0).standard_normal((70, 4, 24)).astype(np.float32)
    np.testing.assert_array_equal(kernel(a), a.reshape(70, 96).T)


def test_vector_transposes_a_masked_part_in_blocks():
    @nki.jit
    def kernel(a):
        out = nl.ndarray((64, 128), dtype=a.dtype, buffer=nl.shared_hbm)
        (p, f), turned = nl.mgrid[0:128, 0:64], nl.zeros((64, 128), a.dtype)
        turned[...] = nisa.nc_transpose(nl.load(a), mask=(p < 70) & (f < 40), engine=nisa.vector_engine)
        nl.store(out, turned)
        return out

    a = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    want = np.zeros((64, 128), np.float32)
    want[:40, :70] = a.T[:40, :70]
    np.testing.assert_array_equal(kernel(a), want)
