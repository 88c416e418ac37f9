"""What the first generation's later releases have: copies at places that a tile says, sums into rows in HBM, statistics."""

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402
import neuronxcc.nki.typing as nt  # noqa: E402

rng = np.random.default_rng(17)


def numbers(*shape):
    return rng.standard_normal(shape).astype(np.float32)


@nki.jit
def gather_columns(a, offsets):
    """By an index expression on either side of the number, and by the number alone, as a subscript of a dimension of its own."""
    out = nl.ndarray((128, 3, 4), dtype=a.dtype, buffer=nl.shared_hbm)
    x, at = nl.load(a), nl.load(offsets)
    found = nl.ndarray((128, 3, 4), dtype=a.dtype)
    p, i = nl.mgrid[0:128, 0:4]
    found[p, 0, i] = nisa.tensor_copy_dynamic_src(x[p, at[0, 0] + i])
    found[p, 1, i] = nisa.tensor_copy_dynamic_src(x[p, 2 * i + at[0, 1]])
    wide = x.reshape((128, 16, 4))
    p, _, i = nl.mgrid[0:128, 0:1, 0:4]
    found[p, 2, i] = nisa.tensor_copy_dynamic_src(wide[p, at[0, 2], i], dtype=nl.float32)
    nl.store(out, found)
    return out


@pytest.mark.parametrize("offsets", [[0, 0, 0], [60, 57, 15], [3, 40, 7]])
def test_copies_from_where_a_tile_says(offsets):
    a = numbers(128, 64)
    got = gather_columns(a, np.array([offsets], np.int32))
    i = np.arange(4)
    want = [a[:, offsets[0] + i], a[:, offsets[1] + 2 * i], a.reshape(128, 16, 4)[:, offsets[2]]]
    np.testing.assert_array_equal(got, np.stack(want, 1))


@nki.jit
def scatter_columns(a, offsets):
    out = nl.ndarray((64, 32), dtype=a.dtype, buffer=nl.shared_hbm)
    x, at = nl.load(a), nl.load(offsets)
    found = nl.zeros((64, 32), a.dtype)
    p, i = nl.mgrid[0:64, 0:8]
    for turn in nl.affine_range(2):
        nisa.tensor_copy_dynamic_dst(dst=found[p, at[0, turn] + i], src=x[p, turn * 8 + i])
    nl.store(out, found)
    return out


def test_copies_to_where_a_tile_says():
    a, want = numbers(64, 16), np.zeros((64, 32), np.float32)
    want[:, 20:28], want[:, 3:11] = a[:, :8], a[:, 8:]
    np.testing.assert_array_equal(scatter_columns(a, np.array([[20, 3]], np.int32)), want)


@pytest.mark.parametrize("offsets", [[61, 0, 0], [-1, 0, 0], [0, 58, 0], [0, 0, 16]])
def test_numbers_in_a_tile_stay_in_their_dimension(offsets):
    with pytest.raises((vtrn.nki.NkiValidationError, IndexError), match="elements"):
        gather_columns(numbers(128, 64), np.array([offsets], np.int32))


def test_other_instructions_and_partitions_take_no_number_from_a_tile():
    @nki.jit
    def reads(a, offsets, which):
        x, at = nl.load(a), nl.load(offsets)
        p, i = nl.mgrid[0:128, 0:4]
        if which == "add":
            nl.add(x[p, at[0, 0] + i], 1.0)
        elif which == "store":
            x[p, at[0, 0] + i] = 0.0
        else:
            nisa.tensor_copy_dynamic_src(x[p + at[0, 0], i])

    a, offsets = numbers(128, 64), np.zeros((1, 1), np.int32)
    for which, says in (("add", "tensor_copy_dynamic_src reads"), ("store", "tensor_copy_dynamic_dst writes"), ("rows", "free dimensions")):
        with pytest.raises(vtrn.nki.NkiValidationError, match=says):
            reads(a, offsets, which)


def test_rows_that_a_tile_names_get_sums():
    @nki.jit
    def add_rows(table, index, value):
        out = nl.ndarray(table.shape, dtype=table.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(table))
        rows, j = nl.load(index), nl.arange(40)[None, :]
        nl.atomic_rmw(out[rows, j], value=nl.load(value), op=np.add)
        nl.atomic_rmw(out[rows, j], value=2.0, op=nl.add)
        return out

    table, value = numbers(100, 40), numbers(16, 40)
    index = np.array([3, 99, 3, 0, 7, 7, 7, 50, 1, 2, 4, 5, 6, 8, 9, 10], np.int32)[:, None]
    want = table.copy()
    for addend in (value, np.full_like(value, 2)):
        np.add.at(want, index[:, 0], addend)
    np.testing.assert_allclose(add_rows(table, index, value), want, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="it is np.add"):
        nki.jit(lambda t: nl.atomic_rmw(t[nl.load(t)[:, 0:1], nl.arange(4)[None, :]], value=1.0, op=np.maximum))(table)


@nki.jit
def statistics(a, w):
    outs = [nl.ndarray(shape, dtype=a.dtype, buffer=nl.shared_hbm) for shape in ((64, 1), (64, 1), (64, 50), (64, 50), (64, 50), (64, 50))]
    x = nl.load(a)
    zeros = nl.where(nl.greater(x, 0), x, 0.0)
    for out, found in zip(outs, (nl.var(x, axis=1, keepdims=True), nl.all(nl.add(zeros, 0.0), axis=1, keepdims=True),
                                 nl.rms_norm(x, nl.load(w), axis=1, n=50), nl.logical_not(zeros), nl.erf_dx(x),
                                 nl.gelu_apprx_sigmoid(x))):
        nl.store(out, found)
    return outs


def test_statistics_and_functions():
    a, w = numbers(64, 50), numbers(1, 50)
    a[3] = np.abs(a[3]) + 0.1
    var, every, norm, negated, erf_dx, gelu = statistics(a, w)
    np.testing.assert_allclose(var[:, 0], a.var(1), rtol=1e-4)
    np.testing.assert_array_equal(every[:, 0], (a > 0).all(1))
    np.testing.assert_allclose(norm, a / np.sqrt((a * a).mean(1, keepdims=True) + 1e-6) * w, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(negated, a <= 0)
    np.testing.assert_allclose(erf_dx, 2 / np.sqrt(np.pi) * np.exp(-a * a), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(gelu, a / (1 + np.exp(-1.702 * a)), rtol=1e-2, atol=1e-3)


def test_a_seed_gives_the_same_numbers():
    @nki.jit
    def draws(a, seed):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.random_seed(seed)
        nl.store(out, nl.dropout(nl.load(a), 0.25))
        return out

    a = np.ones((128, 400), np.float32)
    first, again, other = (draws(a, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and abs(first.mean() - 0.75) < 0.01 and set(np.unique(first)) == {0.0, 1.0}


def test_shapes_alone_are_timed_and_profiled(tmp_path):
    def double(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.load(a) * 2.0)
        return out

    timed = nki.benchmark(warmup=1, iters=2)(double)
    assert timed(nt.tensor[[128, 512], nl.bfloat16]) is None
    by_shape = timed.benchmark_result.nc_latency.get_latency_percentile(50)
    timed = nki.benchmark(double)
    timed(np.zeros((128, 512), np.float16))
    assert by_shape == timed.benchmark_result.nc_latency.get_latency_percentile(50) > 1
    got = nki.profile(working_directory=tmp_path, profile_nth=2)(double)(nt.tensor[[128, 512], nl.float32])
    assert (got == 0).all() and (tmp_path / "profile.html").exists()


def attention_backward(q, k, causal):
    """What the backward pass of a flash attention does: loops' variables make masks, transposes feed matmuls, sums over turns."""
    out = nl.ndarray((2, 128, 64), dtype=np.float32, buffer=nl.shared_hbm)
    for i in nl.affine_range(2):
        total = nl.ndarray((nl.par_dim(128), 64), dtype=np.float32)
        total[...] = 0.0
        rows = nl.load(q[i])
        for j in nl.affine_range(2):
            mask = i >= j if causal else None
            score = nl.zeros((nl.par_dim(128), 128), dtype=np.float32, buffer=nl.psum)
            columns = nl.load(k[j])
            turned, back = nisa.nc_transpose(rows, mask=mask), nisa.nc_transpose(columns, mask=mask)
            score[:, :] += nisa.nc_matmul(turned, back, mask=mask)
            product = nl.zeros((nl.par_dim(128), 64), dtype=np.float32, buffer=nl.psum)
            product[:, :] += nisa.nc_matmul(nisa.nc_transpose(nl.copy(score)), columns, mask=mask)
            total[:, :] = nl.loop_reduce(nl.copy(product, mask=mask), op=np.add, loop_indices=(j,), mask=mask)
        p, f = nl.mgrid[0:128, 0:64]
        nl.store(out[i, p, f], total, mask=(f < 64) & (i < 2))
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_masks_of_loops_variables_leave_turns_out(causal):
    q, k = numbers(2, 128, 64), numbers(2, 128, 64)
    got = nki.jit(attention_backward)(q, k, causal)
    want = np.stack([sum(q[i] @ k[j].T @ k[j] for j in range(2) if i >= j or not causal) for i in range(2)])
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-2)


def test_a_matmul_with_a_mask_of_elements_is_refused():
    @nki.jit
    def kernel(a):
        x = nl.load(a)
        nisa.nc_matmul(x, x, mask=nl.arange(64)[None, :] < 60)

    with pytest.raises(NotImplementedError, match="a mask of elements"):
        kernel(numbers(64, 64))


@nki.jit
def many_dimensions(a, b):
    """Six free dimensions that do not merge: corners of cells, as an interpolation has them."""
    out = nl.ndarray((16, 2, 2, 2, 3, 4, 5), dtype=a.dtype, buffer=nl.shared_hbm)
    x, y = nl.load(a), nl.load(b)
    found = nl.ndarray((16, 2, 2, 2, 3, 4, 5), dtype=a.dtype)
    p, u, v, w, i, j, k = nl.mgrid[0:16, 0:2, 0:2, 0:2, 0:3, 0:4, 0:5]
    found[p, u, v, w, i, j, k] = 2.0 * x[p, i + u, j + v, k + w] + y[p, i + 1 - u, j + v, k + w]
    nl.store(out, nl.exp(found))
    return out


def test_a_tile_that_is_copied_to_itself_takes_one_instruction():
    @nki.jit
    def kernel(a):
        x = nl.load(a)
        p, u, v, w, i, j = nl.mgrid[0:16, 0:2, 0:2, 0:2, 0:2, 0:2]
        x[p, 32 * u + 16 * v + 8 * w + 4 * i + 2 * j] = x[p, 1 + 2 * u + 4 * v + 8 * w + 16 * i + 32 * j]

    with pytest.raises(vtrn.nki.NkiValidationError, match="5 free dimensions"):
        kernel(numbers(16, 64))


def test_patterns_of_many_dimensions_are_several_instructions():
    a, b = numbers(16, 4, 5, 6), numbers(16, 4, 5, 6)
    u, v, w, i, j, k = np.ogrid[0:2, 0:2, 0:2, 0:3, 0:4, 0:5]
    want = np.exp(2 * a[:, i + u, j + v, k + w] + b[:, i + 1 - u, j + v, k + w])
    np.testing.assert_allclose(many_dimensions(a, b), want, rtol=2e-5)


@nki.jit
def gathered_rows(a, index):
    out = nl.ndarray((3, 16, 40), dtype=a.dtype, buffer=nl.shared_hbm)
    rows, j = nl.load(index), nl.arange(40)[None, :]
    for b in nl.affine_range(3):
        nl.store(out[b], nl.load(a.reshape(shape=(3, 50, 40))[b, rows, j]))
    return out


def test_rows_of_a_tile_behind_an_integer():
    a, index = numbers(3, 2000), rng.permutation(50)[:16].astype(np.int32)[:, None]
    np.testing.assert_array_equal(gathered_rows(a, index), a.reshape(3, 50, 40)[:, index[:, 0]])
    with pytest.raises(vtrn.nki.NkiValidationError, match="50 rows"):
        gathered_rows(a, np.full((16, 1), 50, np.int32))


@nki.jit
def ragged_rows(a):
    """Slices that end beyond a dimension, which a mask brings back."""
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    sums = nl.ndarray((a.shape[0], 1), dtype=a.dtype, buffer=nl.shared_hbm)
    for t in nl.affine_range(3):
        p = nl.arange(64)[:, None, None] + 64 * t
        tile = nl.zeros((64, 5, 6), a.dtype)
        nisa.dma_copy(dst=tile, src=a[64 * t:64 * t + 64, :, :], mask=p < a.shape[0])
        nl.store(out[64 * t:64 * t + 64], tile, mask=p < a.shape[0])
        total = nl.sum(tile, axis=[-2, -1])
        nl.store(sums[64 * t:64 * t + 64, :], total + nl.zeros((64, 1), a.dtype), mask=nl.arange(64)[:, None] + 64 * t < a.shape[0])
    return out, sums


def test_slices_beyond_a_dimension_are_masked():
    a = numbers(150, 5, 6)
    out, sums = ragged_rows(a)
    np.testing.assert_array_equal(out, a)
    np.testing.assert_allclose(sums[:, 0], a.sum((1, 2)), rtol=1e-4, atol=1e-4)
    with pytest.raises(vtrn.nki.NkiValidationError, match="from 100 to 227"):
        nki.jit(lambda a: nl.load(a[100:228]))(a)


@nki.jit
def placed_by_name(a):
    def place(bank_map, idx, pdim_size, fdim_size):
        return bank_map[idx], 0, 0

    import functools

    import neuronxcc.nki.compiler as ncc

    out = nl.ndarray((2, 128, 128), dtype=np.float32, buffer=nl.shared_hbm)
    sums = nl.ndarray((2, nl.par_dim(128), 128), dtype=np.float32,
                      buffer=ncc.psum.alloc(functools.partial(place, bank_map={(0,): 1, (1,): 5})))
    x = nl.load(a)
    p, f = nl.mgrid[0:128, 0:128]
    for i in nl.affine_range(2):
        sums[i] = nisa.nc_matmul(x, x)
        nl.store(out[i], nisa.affine_select(pred=(p >= f + i), on_true_tile=sums[i], on_false_value=nl.finfo(np.float32).min))
    return out


def test_allocations_by_name_and_selections_of_sums():
    a = numbers(128, 128)
    p, f = np.mgrid[0:128, 0:128]
    want = np.stack([np.where(p >= f + i, a.T @ a, np.finfo(np.float32).min) for i in range(2)])
    np.testing.assert_allclose(placed_by_name(a), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("y", [1, 3, 38, 41, 97])
def test_integers_are_divided_exactly(y):
    @nki.jit
    def kernel(a, b):
        outs = [nl.ndarray(a.shape, dtype=dtype, buffer=nl.shared_hbm) for dtype in (np.int32, np.int32, np.float32)]
        x = nl.load(a)
        nl.store(outs[0], nl.floor(x / y, dtype=nl.int32))
        nl.store(outs[1], nl.divide(x, nl.load(b)))
        nl.store(outs[2], nl.divide(x, y, dtype=np.float32))
        return outs

    a = np.arange(128 * 400, dtype=np.int32).reshape(128, 400)
    whole, by_tile, exact = kernel(a, np.full_like(a, y))
    np.testing.assert_array_equal(whole, a // y)
    np.testing.assert_array_equal(by_tile, a // y)
    np.testing.assert_allclose(exact, a / y, rtol=2e-7)


def test_a_number_in_a_tile_bounds_a_loop():
    @nki.jit
    def kernel(a, n):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        x = nl.load(a)
        for _ in range(nt.scalar(nl.load(n))):
            x = nl.add(x, 1.0)
        nl.store(out, x)
        return out

    a = numbers(8, 8)
    np.testing.assert_allclose(kernel(a, np.array([[3]], np.int32)), a + 3, rtol=1e-6)


@pytest.mark.parametrize("kernel, arguments", [
    (nki.jit(attention_backward), lambda: (numbers(2, 128, 64), numbers(2, 128, 64), True)),
    (many_dimensions, lambda: (numbers(16, 4, 5, 6), numbers(16, 4, 5, 6))), (ragged_rows, lambda: (numbers(150, 5, 6),)),
    (placed_by_name, lambda: (numbers(128, 128),)), (gathered_rows, lambda: (numbers(3, 2000), np.arange(16, dtype=np.int32)[:, None])),
    (gather_columns, lambda: (numbers(128, 64), np.array([[3, 40, 7]], np.int32))),
    (scatter_columns, lambda: (numbers(64, 16), np.array([[20, 3]], np.int32))),
    (statistics, lambda: (numbers(64, 50), numbers(1, 50)))])
def test_programs_give_what_the_kernels_give(kernel, arguments, tmp_path):
    given = arguments()
    done = vtrn.nki.profile(kernel, str(tmp_path))(*given)
    want = kernel(*given)
    for got, expected in zip(*((x,) if isinstance(x, np.ndarray) else x for x in (done.result, want)), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert done.latency_ns > 1000


@nki.jit
def turns_by_a_counter(a, skipped):
    """A loop's number in a tile chooses what is loaded; numbers that the tensor has not leave what was there."""
    out = nl.ndarray((4, 16, 8), dtype=a.dtype, buffer=nl.shared_hbm)
    counter, held = nl.zeros((1, 1), nl.int32), nl.zeros((16, 8), a.dtype)
    for turn in range(4):
        held[...] = nl.load(a[counter[0, 0]], mode=nisa.oob_mode.skip if skipped else nisa.oob_mode.error)
        nl.store(out[turn], held)
        counter[...] = nl.add(counter[...], 1)
    return out


def test_numbers_in_tiles_choose_what_is_loaded():
    a = numbers(3, 16, 8)
    np.testing.assert_array_equal(turns_by_a_counter(a, True), np.concatenate([a, a[2:]]))
    np.testing.assert_array_equal(turns_by_a_counter(numbers(4, 16, 8), False).shape, (4, 16, 8))
    with pytest.raises(IndexError, match="3, and dimension 0 has 3"):
        turns_by_a_counter(a, False)


def test_predicates_of_columns_are_those_of_their_rows():
    @nki.jit
    def kernel(a, b, predicate):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        x, y = nl.load(a), nl.load(b)
        assert x.itemsize == 4
        nisa.tensor_copy_predicated(src=y, dst=x, predicate=nl.load(predicate))
        nl.store(out, x)
        return out

    a, b, predicate = numbers(32, 40), numbers(32, 40), (np.arange(32) % 3 == 0).astype(np.uint8)[:, None]
    np.testing.assert_array_equal(kernel(a, b, predicate), np.where(predicate, b, a))


def test_arguments_have_the_names_and_the_meaning_of_the_page(capsys):
    @nki.jit
    def kernel(a, b):
        out, whole, least = (nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm) for _ in range(3))
        x = nl.load(a)
        nl.store(out, nl.softmax(x, axis=[1]))
        nl.store(whole, nl.floor(x=nl.mod(x=nl.add(x, 9.0), y=4.0)))
        nl.device_print("tile of", x, mask=nl.program_id(0) == 0)
        nl.device_print(prefix="nothing of", x=x, mask=nl.program_id(0) == 1)
        filled = nl.full(x.shape, 3.0, x.dtype, mask=nl.arange(40)[None, :] < 10)
        nl.store(least[:, 0:10], filled[:, 0:10])
        nl.store(least[:, 10:40], nl.zeros_like(a=x)[:, 10:40])
        return out, whole, least

    a = numbers(32, 40)
    out, whole, least = kernel(a, a)
    np.testing.assert_allclose(out, np.exp(a) / np.exp(a).sum(1, keepdims=True), rtol=1e-4)
    np.testing.assert_array_equal(whole, np.floor((a + np.float32(9)) % 4))
    np.testing.assert_array_equal(least, np.where(np.arange(40) < 10, 3.0, 0.0) * np.ones((32, 1)))
    said = capsys.readouterr().out
    assert "tile of" in said and "nothing of" not in said


@pytest.mark.parametrize("call, says", [
    (lambda x: nl.softmax(x, axis=0), "nl.softmax: axis="), (lambda x: nisa.dma_transpose(x, axes=(0, 1)), "change places"),
    (lambda x: nisa.range_select(on_true_tile=x, comp_op0=np.greater, comp_op1=np.less, bound0=x[:, 0:1], bound1=x[:, 1:2],
                                 on_false_value=0.0), "on_false_value"),
    (lambda x: nisa.range_select(on_true_tile=x, comp_op0=np.greater, comp_op1=np.less, bound0=x[:, 0:1], bound1=x[:, 1:2],
                                 reduce_op=np.add), "reduce_op")])
def test_arguments_that_the_chip_has_not_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        nki.jit(lambda a: call(nl.load(a)))(numbers(32, 40))


def test_a_tile_of_one_row_number_gathers_a_row():
    @nki.jit
    def kernel(table, index):
        out = nl.ndarray((1, 40), dtype=table.dtype, buffer=nl.shared_hbm)
        found = nl.load(table[nl.load(index), :])
        assert found.shape == (1, 40)
        nl.store(out, found)
        return out

    table = numbers(50, 40)
    np.testing.assert_array_equal(kernel(table, np.array([[7]], np.int32)), table[7:8])


def test_a_seed_takes_masks_of_loops_alone():
    @nki.jit
    def draws(a, mask):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        nl.random_seed(7)
        nl.random_seed(8, mask=mask)
        nl.store(out, nl.dropout(nl.load(a), 0.5))
        return out

    a = np.ones((128, 100), np.float32)
    left_out, taken, plain = draws(a, False), draws(a, True), draws(a, None)
    np.testing.assert_array_equal(taken, plain)
    assert (left_out != taken).any()
    with pytest.raises(ValueError, match="a seed is one number"):
        draws(a, nl.arange(10)[None, :] < 5)
