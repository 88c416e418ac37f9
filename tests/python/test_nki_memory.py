"""Kernels and memory: what DMA reaches, what programs fill, a library that is not there."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402
from vtrn.nki import errors, isa as nisa, language as nl  # noqa: E402

@pytest.mark.parametrize("rows", [slice(0, 128, 2), slice(1, 128, 3), slice(5, 70, 7)], ids=str)
def test_dma_moves_partitions_that_are_not_neighbours(rows):
    def kernel(a):
        n, t, u = len(range(*rows.indices(128))), nl.load(a), nl.zeros((128, 8), a.dtype)
        out = [nl.ndarray(shape, a.dtype, buffer=nl.shared_hbm) for shape in ((n, 8), (128, 8), (n, 8))]
        nisa.dma_copy(out[0], t[rows])
        nisa.dma_copy(u[rows], a[0:n])
        nisa.dma_copy(out[1], u)
        dense = nl.ndarray((n, 8), a.dtype)
        nisa.dma_copy(dense, t[rows])
        nisa.dma_copy(out[2], dense)
        return tuple(out)

    x = np.arange(128 * 8, dtype=np.float32).reshape(128, 8)
    first, second, third = vtrn.nki.profile(vtrn.nki.jit(kernel), None)(x).result
    want = np.zeros_like(x)
    want[rows] = x[:len(first)]
    np.testing.assert_array_equal(first, x[rows])
    np.testing.assert_array_equal(second, want)
    np.testing.assert_array_equal(third, x[rows])


def test_partitions_that_are_not_neighbours_are_refused_where_their_rows_do_not_match():
    def reshaped(a):
        out = nl.ndarray((32, 16), a.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(out, nl.load(a)[0:128:2])

    def inside(a):
        t = nl.load(a)
        nisa.dma_copy(t[0:64], t[0:128:2])

    def engine(a):
        nisa.tensor_copy(nl.ndarray((64, 8), a.dtype), nl.load(a)[0:128:2])

    x = np.zeros((128, 8), np.float32)
    for kernel, says in ((reshaped, "as many rows"), (inside, "copy to another tile first"), (engine, "gather them by DMA")):
        with pytest.raises(errors.NkiValidationError, match=f"(?s){says}.*at {__file__}:"):
            vtrn.nki.jit(kernel)(x)


@vtrn.nki.jit
def partly_written(a):
    """Twice a, of which three rows only are in the scratch that is added."""
    out, kept = (nl.ndarray(a.shape, a.dtype, buffer=where) for where in (nl.shared_hbm, nl.private_hbm))
    t = nl.load(a)
    nisa.dma_copy(kept[0:3], t[0:3])
    nl.store(out, nl.add(t, nl.load(kept)))
    return out


@pytest.mark.parametrize("policy, value", [("zero", 0), ("nan", np.nan)])
def test_programs_fill_scratch_in_hbm_of_which_elements_are_read_that_nothing_wrote(monkeypatch, policy, value, tmp_path):
    monkeypatch.setenv("VTRN_NKI_UNINITIALISED", policy)
    x = np.arange(77, dtype=np.float32).reshape(7, 11)
    with pytest.warns(UserWarning, match="44 elements that nothing had written were read"):
        result = vtrn.nki.profile(partly_written, str(tmp_path))(x).result
    np.testing.assert_array_equal(result, np.concatenate([x[:3] * 2, x[3:] + value]))


def test_a_library_that_is_not_there_is_told_with_what_to_do(tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "vtrn").symlink_to(pathlib.Path(vtrn.__file__).parent)
    for value, says in ((None, re.escape("pip install '.[nki]'")), (str(tmp_path / "no.so"), "VTRN_LIBRARY=.*there is no such file")):
        environ.pop("VTRN_LIBRARY", None)
        if value:
            environ["VTRN_LIBRARY"] = value
        done = subprocess.run([sys.executable, "-m", "vtrn.nki", "k.py"], env=environ, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode and re.search(says, done.stderr.splitlines()[-1]), done.stderr


def within_hbm(to, by, rows=256):
    """A kernel that copies one part of a tensor in HBM to another one by one DMA."""
    def kernel(x):
        out = nl.ndarray((rows, 64), nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out, x)
        nisa.dma_copy(to(out), by(out))
        return out

    return vtrn.nki.jit(kernel)


@pytest.mark.parametrize("to, by", [
    (lambda x: x[1:], lambda x: x[:-1]), (lambda x: x[:128], lambda x: x[127:255]), (lambda x: x[:, 1:], lambda x: x[:, :-1]),
    (lambda x: x[:, 0:33], lambda x: x[:, 31:64]), (lambda x: x.ap([[64, 64], [1, 64]]), lambda x: x.ap([[1, 64], [64, 64]]))])
def test_a_dma_that_reads_what_it_writes_is_told(to, by, monkeypatch):
    x = np.arange(256 * 64, dtype=np.float32).reshape(256, 64)
    with pytest.warns(UserWarning, match=r"kernel: race: one dma_copy writes hbm.* and reads hbm.* \d+ bytes of which it writes itself: "
                                         r".*; at .*test_nki_memory.py:\d+$"):
        within_hbm(to, by)(x)
    monkeypatch.setenv("VTRN_NKI_RACES", "error")
    with pytest.raises(vtrn.nki.NkiValidationError, match="race: one dma_copy"):
        within_hbm(to, by)(x)


@pytest.mark.filterwarnings("ignore:.*race")
@pytest.mark.parametrize("to, by", [(slice(1, None), slice(0, -1)), (slice(0, 128), slice(127, 255)),
                                    ((slice(None), slice(1, None)), (slice(None), slice(0, -1)))])
def test_a_dma_that_reads_what_it_writes_reads_first(tmp_path, to, by):
    x = np.arange(256 * 64, dtype=np.float32).reshape(256, 64)
    want = x.copy()
    want[to] = x[by]
    kernel = within_hbm(lambda a: a[to], lambda a: a[by])
    np.testing.assert_array_equal(kernel(x), want)
    np.testing.assert_array_equal(vtrn.nki.profile(kernel, tmp_path)(x).result, want)


@pytest.mark.parametrize("to, by", [
    (lambda x: x[:128], lambda x: x[128:]), (lambda x: x[:, :32], lambda x: x[:, 32:]), (lambda x: x, lambda x: x),
    (lambda x: x.ap([[64, 256], [2, 32]]), lambda x: x.ap([[64, 256], [2, 32]], offset=1))])
def test_a_dma_between_parts_of_a_tensor_is_no_race(to, by, monkeypatch):
    monkeypatch.setenv("VTRN_NKI_RACES", "error")
    x = np.arange(256 * 64, dtype=np.float32).reshape(256, 64)
    within_hbm(to, by)(x)
