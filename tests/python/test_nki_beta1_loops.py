"""Loops of NKI's first generation, whose bodies the vendor's compiler traces once."""

import warnings
import weakref

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install()
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402

LOOPS = ["affine_range", "sequential_range"]


def run(kernel, tmp_path, *args):
    """The result, the same of the program."""
    got = np.asarray(nki.jit(kernel)(*args))
    profiled = np.asarray(vtrn.nki.profile(nki.jit(kernel), tmp_path)(*args).result)
    np.testing.assert_array_equal(got, profiled)
    return got


@pytest.mark.parametrize("loop", LOOPS)
def test_a_turn_begins_with_the_index_from_before_the_loop(loop, tmp_path):
    def kernel(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        row, column = nl.arange(128)[:, None], nl.arange(32)[None, :]
        for i in getattr(nl, loop)(3):
            row = row + i * 128
            for j in getattr(nl, loop)(4):
                column = column + j * 32
                nl.store(out[row, column], nl.load(a[row, column]) + 1)
        return out

    a = np.random.default_rng(0).standard_normal((384, 128)).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, tmp_path, a), a + 1)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_mask_that_the_body_narrows_is_that_of_its_turn(loop, tmp_path):
    def kernel(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        row, column = nl.mgrid[0:128, 0:64]
        mask = column < 40
        for i in getattr(nl, loop)(2):
            mask = mask & (i * 128 + row < 200)
            tile = nl.load(a[i * 128 + row, column], mask=mask)
            nl.store(out[i * 128 + row, column], nl.multiply(tile, 2, mask=mask), mask=mask)
        return out

    a = np.random.default_rng(1).standard_normal((200, 40)).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, tmp_path, a), a * 2)


def test_a_static_loop_goes_on_from_the_turn_before(tmp_path):
    def kernel(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        row, column = nl.arange(64)[:, None], nl.arange(16)[None, :]
        for _ in nl.static_range(3):
            nl.store(out[row, column], nl.load(a[row, column]) + 1)
            row = row + 64
        return out

    a = np.random.default_rng(2).standard_normal((192, 16)).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, tmp_path, a), a + 1)


@pytest.mark.filterwarnings("ignore:kernel. n is 0")
def test_names_of_cells_and_of_tuples_are_restored_and_tiles_are_not(tmp_path):
    def kernel(a):
        out = nl.ndarray((128, 16), dtype=a.dtype, buffer=nl.shared_hbm)
        row, column = nl.arange(128)[:, None], nl.arange(16)[None, :]
        total = nl.zeros((128, 16), dtype=a.dtype)
        n = 0

        def load():
            return nl.load(a[row, column])

        for _, i in enumerate(nl.sequential_range(4)):
            row, other = row + i * 128, column
            total = nl.add(total, load())
            n += 1
        assert n == 4 and other is column  # numbers go on
        row = nl.arange(128)[:, None]
        nl.store(out[row, column], total)
        return out

    a = np.random.default_rng(3).integers(0, 9, (512, 16)).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, tmp_path, a), a.reshape(4, 128, 16).sum(0))


@pytest.mark.parametrize("loop, is_told", [("affine_range", True), ("sequential_range", True), ("static_range", False)])
def test_a_number_that_goes_on_from_turn_to_turn_is_told(loop, is_told):
    def kernel(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        first, start = 0, 7
        for i in getattr(nl, loop)(4):
            start = i * 32
            nl.store(out[first:first + 32], nl.load(a[start:start + 32]) + 1)
            first += 32
        return out

    a = np.zeros((128, 16), np.float32)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        nki.jit(kernel)(a)
    told = [w for w in found if "traces the body once" in str(w.message)]
    assert len(told) == is_told
    if is_told:
        assert str(told[0].message).startswith(f"kernel: first is 0 before a loop over nl.{loop} and 32 after a turn; the vendor's")
        assert told[0].filename == __file__


def test_numbers_that_each_turn_binds_first_are_not_told():
    def kernel(a):
        out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(2):
            first = i * 64
            for j in nl.sequential_range(2):
                at = first + j * 32
                nl.store(out[at:at + 32], nl.load(a[at:at + 32]) + 1)
        for i in nl.affine_range(2):
            first = at = i * 64
            nl.store(out[first:at + 1], nl.load(a[first:at + 1]) + 2)
        return out

    a = np.zeros((128, 16), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = np.asarray(nki.jit(kernel)(a))
    np.testing.assert_array_equal(got[:, 0], np.where(np.arange(128) % 64 == 0, 2, 1))


class Held:
    """What a tile would be."""


@pytest.mark.filterwarnings("ignore:outer. n is")
@pytest.mark.parametrize("loop", LOOPS)
def test_loops_that_look_at_names_keep_nothing_alive(loop):
    def outer():
        row, n, gone = nl.arange(128)[:, None], 0, []
        for i in getattr(nl, loop)(3):
            row = row + i
            x = Held()
            gone.append(weakref.ref(x))
            for _ in getattr(nl, loop)(2):
                n, row = n + 1, row + 1
                x = None
                assert [at() for at in gone] == [None] * len(gone)

    outer()
