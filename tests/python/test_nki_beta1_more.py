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
