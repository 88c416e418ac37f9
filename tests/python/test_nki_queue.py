"""Instructions that are carried out later and together give what they give one by one, for any number of threads."""

import ctypes
import hashlib
import os
import platform
import signal
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

import vtrn.nki
import vtrn.nki.isa as nisa
import vtrn.nki.language as nl

ROWS, COLUMNS = 128, 256
UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}  # FE_UPWARD
DOWNWARD = {"x86_64": 0x400, "aarch64": 0x800000}  # FE_DOWNWARD


def pick(rng, options):
    return options[rng.integers(len(options))]


STARTS = {32: (0, 32, 64, 96), 64: (0, 64), 128: (0,)}  # where so many partitions may begin


def part(rng, tile):
    """Some neighbouring partitions and columns of a tile, or all of it."""
    n = int(pick(rng, (ROWS, ROWS, 64, 32)))
    first = int(pick(rng, STARTS[n]))
    width = int(pick(rng, (COLUMNS, COLUMNS // 2, 32)))
    at = int(rng.integers(0, COLUMNS - width + 1))
    return tile[first:first + n, at:at + width]


def like(rng, view, tile):
    """A part of a tile of the view's shape: of the same partitions, or of others."""
    n, width = view.shape
    first = int(pick(rng, STARTS[n]))
    at = int(rng.integers(0, COLUMNS - width + 1))
    return tile[first:first + n, at:at + width]


def rows_through(rng, tiles, sums, a, out):
    """Loads rows to a tile, computes, stores them, and lets go of the tile: copies that may be left out."""
    n = int(pick(rng, (ROWS, 64)))
    first, at = int(pick(rng, (0, 64, 128))), int(rng.integers(0, 512 - COLUMNS))
    fresh = nl.load(a[first:first + n, at:at + COLUMNS])
    made = nl.ndarray((n, COLUMNS), pick(rng, (nl.float32, nl.float32, nl.bfloat16)))
    source = pick(rng, (fresh, fresh, tiles[0][:n]))
    if rng.integers(2):  # a part is overwritten
        width = int(pick(rng, (32, COLUMNS)))
        nisa.tensor_scalar(fresh[:, :width], tiles[1][:n, :width], nl.add, 0.5)
    how = rng.integers(4)
    if how == 0:
        nisa.activation(made, nl.sigmoid, source, scale=0.5)
    elif how == 1:
        nisa.tensor_tensor(made, source, tiles[2][:n], nl.subtract)
    elif how == 2:
        nisa.tensor_tensor(made[:, :128], fresh[:, 128:], source[:, :128], nl.multiply)
        nisa.tensor_scalar(made[:, 128:], fresh[:, :128], nl.minimum, 0.25)
    else:
        nisa.tensor_scalar(fresh, source, nl.multiply, sums[:n])
        made = fresh
    to = int(pick(rng, (0, 64, 128)))
    nisa.dma_copy(dst=out[to:to + n, :COLUMNS], src=made)
    if rng.integers(2):
        nisa.tensor_copy(tiles[3][:n], made)


def step(rng, tiles, sums, a, out):
    """Issues one instruction, chosen and formed at random."""
    x = pick(rng, tiles)
    kind = rng.integers(11)
    dst = part(rng, x)
    if kind == 0:
        nisa.tensor_tensor(dst, like(rng, dst, pick(rng, tiles)), like(rng, dst, pick(rng, tiles)), nl.add)
    elif kind == 1:
        nisa.tensor_scalar(dst, like(rng, dst, pick(rng, tiles)), nl.multiply, 0.5, op1=nl.subtract, operand1=0.25)
    elif kind == 2:
        nisa.activation_reduce(x, nl.sigmoid, pick(rng, tiles), nl.add, sums)
    elif kind == 3:
        nisa.tensor_scalar(x, pick(rng, tiles), nl.minimum, sums)
    elif kind == 4:
        first = int(pick(rng, (0, 128)))
        nisa.dma_copy(dst=dst, src=a[first:first + dst.shape[0], :dst.shape[1]])
    elif kind == 5:
        first, at = int(pick(rng, (0, 64, 128))), int(pick(rng, (0, 100)))
        nisa.dma_copy(dst=out[first:first + dst.shape[0], at:at + dst.shape[1]], src=dst)
    elif kind == 6:
        nisa.dma_copy(dst=dst, src=out[:dst.shape[0], :dst.shape[1]])
    elif kind == 7:
        product = nl.ndarray((ROWS, COLUMNS), nl.float32, buffer=nl.psum)
        nisa.nc_matmul(product, pick(rng, tiles)[:, 64:64 + ROWS], pick(rng, tiles))
        nisa.tensor_scalar(x, product, nl.multiply, 1 / 64)
    elif kind >= 9:
        rows_through(rng, tiles, sums, a, out)
    else:
        turned = nl.ndarray((ROWS, ROWS), nl.float32, buffer=nl.psum)
        at = int(pick(rng, (0, 64, 128)))
        nisa.nc_transpose(turned, x[:, at:at + ROWS])
        fresh = nl.ndarray((ROWS, COLUMNS), nl.float32)
        nisa.memset(fresh, 0.75)
        nisa.tensor_copy(fresh[:, :ROWS], turned)
        tiles[int(rng.integers(len(tiles)))] = fresh


def random_kernel(seed, looks):
    @vtrn.nki.jit
    def kernel(a):
        rng = np.random.default_rng(seed)
        out = nl.ndarray((256, 512), nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out[:, :], src=a)
        tiles = [nl.load(a[:ROWS, i * 64:i * 64 + COLUMNS]) for i in range(4)]
        sums = nl.ndarray((ROWS, 1), nl.float32)
        nisa.memset(sums, 1.0)
        for _ in range(120):
            step(rng, tiles, sums, a, out)
            if looks:  # which carries out all that was issued
                np.asarray(sums)
        for i, tile in enumerate(tiles[:2]):
            nl.store(out[i * ROWS:(i + 1) * ROWS, :COLUMNS], tile)
        return out

    return kernel


A = np.random.default_rng(1).standard_normal((256, 512)).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_instructions_together_give_what_they_give_one_by_one(seed):
    got, want = random_kernel(seed, False)(A), random_kernel(seed, True)(A)
    assert got.tobytes() == want.tobytes()


PROGRAM = """
import hashlib, sys
sys.path[:0] = [{here!r}]
import test_nki_queue as t
print(hashlib.sha256(b"".join(t.random_kernel(seed, False)(t.A).tobytes() for seed in range(12))).hexdigest())
"""


@pytest.mark.parametrize("n_threads", ["1", "3", "8"])
def test_bits_are_the_same_for_any_number_of_threads(n_threads):
    here = hashlib.sha256(b"".join(random_kernel(seed, False)(A).tobytes() for seed in range(12))).hexdigest()
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(here=os.path.dirname(__file__))], capture_output=True, text=True,
                          env={**os.environ, "VTRN_THREADS": n_threads})
    assert done.stdout.strip() == here, done.stderr


@pytest.mark.skipif(platform.machine() not in UPWARD, reason="the number of the rounding mode is the host's")
@pytest.mark.parametrize("rows", [1, ROWS])  # done at once by the caller, or by the team
@pytest.mark.parametrize("mode", [UPWARD, DOWNWARD])  # the nearest of 1 / 3 is above it, of 0.7 below
def test_the_callers_rounding_mode_changes_no_bits(rows, mode):
    @vtrn.nki.jit
    def kernel(a):
        x = nl.load(a)
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        nisa.tensor_scalar(x, x, nl.multiply, 1 / 3, op1=nl.add, operand1=0.7)
        nl.store(out, x)
        return out

    libm = ctypes.CDLL("libm.so.6")
    want = kernel(A[:rows])
    try:
        assert libm.fesetround(mode[platform.machine()]) == 0
        got = kernel(A[:rows])
    finally:
        libm.fesetround(0)
    assert got.tobytes() == want.tobytes()


def test_an_error_is_told_at_its_instruction_and_what_was_issued_before_is_done():
    @vtrn.nki.jit
    def kernel(a):
        x = nl.load(a[:ROWS, :COLUMNS])
        out = nl.ndarray((ROWS, COLUMNS), nl.float32, buffer=nl.shared_hbm)
        nisa.tensor_scalar(x, x, nl.multiply, 2.0)
        with pytest.raises(Exception, match=r"(?s)tensor_tensor: .*\n  at .*test_nki_queue.py"):
            nisa.tensor_tensor(x, x, x[:, :5], nl.add)
        nl.store(out, x)
        return out

    np.testing.assert_array_equal(kernel(A), 2 * A[:ROWS, :COLUMNS])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_within_a_kernel_is_told_and_the_kernel_goes_on():
    """Threads of the parent alone end what they had begun."""
    pids = []

    @vtrn.nki.jit
    def kernel(a):
        x, product = nl.load(a[:ROWS]), nl.ndarray((ROWS, 512), nl.float32, buffer=nl.psum)
        out = nl.ndarray((ROWS, 512), nl.float32, buffer=nl.shared_hbm)
        for _ in range(40):
            nisa.activation(x, nl.gelu, x)
        for _ in range(3):  # the first epoch is carried out, others gather
            nisa.nc_matmul(product, x[:, :ROWS], x, accumulate=False)
            nisa.tensor_scalar(x, product, nl.multiply, 1 / 64)
        pids.append(os.fork())
        nl.store(out, x)
        return out

    try:
        got = kernel(A)
    except BaseException as error:
        if pids and not pids[0]:
            os._exit(7 if "is a fork of the one that began the kernel" in str(error) else 8)
        raise
    if not pids[0]:
        os._exit(7 if os.environ.get("VTRN_THREADS") == "1" or len(os.sched_getaffinity(0)) == 1 else 9)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 7
    assert np.isfinite(got).all()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_wait_for_a_kernel_of_another_thread():
    is_inside, may_end = threading.Event(), threading.Event()

    @vtrn.nki.jit
    def kernel(a, waits=False):
        x, out = nl.load(a[:ROWS]), nl.ndarray((ROWS, 512), nl.float32, buffer=nl.shared_hbm)
        nisa.tensor_scalar(x, x, nl.multiply, 2.0)
        if waits:
            is_inside.set()
            may_end.wait(60)
        nl.store(out, x)
        return out

    got = []
    other = threading.Thread(target=lambda: got.append(kernel(A, True)))
    other.start()
    is_inside.wait(60)
    pid = os.fork()
    if not pid:
        signal.alarm(60)  # ends a child that waits
        os._exit(7 if (kernel(A) == 2 * A[:ROWS]).all() else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    may_end.set()
    other.join()
    np.testing.assert_array_equal(got[0], 2 * A[:ROWS])


def test_tensors_of_another_kernel_are_refused():
    """Of which a place, or a number, would be that of a tensor of this kernel."""
    others = []

    @vtrn.nki.jit
    def first(a):
        out, x = nl.ndarray((ROWS, COLUMNS), nl.float32, buffer=nl.shared_hbm), nl.load(a[:ROWS, :COLUMNS])
        nl.store(out, x)
        others.extend((a[:ROWS, :COLUMNS], x, out))
        return out

    @vtrn.nki.jit
    def second(a):
        x = nl.load(a[:ROWS, :COLUMNS])
        for other in others:
            for copy in (nisa.dma_copy, nisa.tensor_copy):
                with pytest.raises(Exception, match=r"src is a tensor of a kernel that is over; give .*\n  at .*test_nki_queue.py"):
                    copy(x, other)
        with pytest.raises(Exception, match="dst is a tensor of a kernel that is over"):
            nisa.dma_copy(others[0], x)
        return a

    first(A)
    np.testing.assert_array_equal(second(A), A)


def test_values_are_there_when_they_are_looked_at():
    @vtrn.nki.jit
    def kernel(a):
        x = nl.load(a[:ROWS])
        for i in range(5):
            nisa.tensor_scalar(x, x, nl.add, 1.0)
            np.testing.assert_allclose(np.asarray(x), A[:ROWS] + i + 1, rtol=1e-5)
        assert f"{np.asarray(x)[0, 0]:.4f}"[:5] in repr(x)
        return a

    kernel(A)


def test_tiles_that_are_released_keep_their_values_until_they_were_read():
    """A new tile may have the place of an old one that instructions still read."""
    @vtrn.nki.jit
    def kernel(a):
        out = nl.ndarray((64, ROWS, COLUMNS), nl.float32, buffer=nl.shared_hbm)
        for i in range(64):
            x = nl.load(a[:ROWS, :COLUMNS])
            y = nl.ndarray((ROWS, COLUMNS), nl.float32)
            nisa.tensor_scalar(y, x, nl.add, float(i))
            nl.store(out[i], y)
        return out

    want = A[None, :ROWS, :COLUMNS] + np.arange(64, dtype=np.float32)[:, None, None]
    np.testing.assert_array_equal(kernel(A), want)


def test_a_load_into_another_part_leaves_a_tile_to_the_epoch_that_reads_it():
    """The matmul is in a later epoch than the last load, which nothing reads; the first load has what it reads."""
    @vtrn.nki.jit
    def kernel(a, b):
        out = nl.ndarray((ROWS, 256), nl.float32, buffer=nl.shared_hbm)
        left, right = nl.load(b), nl.ndarray((ROWS, 512), nl.float32)
        scaled, product = nl.ndarray((ROWS, 256), nl.float32), nl.ndarray((ROWS, 256), nl.float32, buffer=nl.psum)
        nisa.dma_copy(right[:, :256], a[:ROWS, :256])
        nisa.tensor_scalar(scaled, right[:, :256], nl.multiply, 2.0)
        nisa.nc_matmul(product, left, right[:, :256])
        nisa.dma_copy(right[:, 256:], a[:ROWS, 256:])
        del right
        nl.store(out, nl.copy(product, nl.float32))
        return out

    np.testing.assert_array_equal(kernel(A, np.eye(ROWS, dtype=np.float32)), A[:ROWS, :256])


def test_what_is_written_to_an_argument_has_its_array_whatever_its_layout():
    @vtrn.nki.jit
    def kernel(a):
        nl.store(a[:ROWS], nl.add(nl.load(a[:ROWS]), 1.0))
        return a

    fixed = A.copy()
    fixed.flags.writeable = False
    for array in (A.copy(), np.asfortranarray(A), np.repeat(A, 2, axis=1)[:, ::2], A.copy()[::-1]):
        want = array.copy()
        want[:ROWS] += np.float32(1)
        np.testing.assert_array_equal(kernel(array), want)
        np.testing.assert_array_equal(array, want)
    with pytest.raises(Exception, match=r"kernel has written to an argument of shape \(256, 512\), .* is read-only; give it a copy"):
        kernel(fixed)
    np.testing.assert_array_equal(fixed, A)


def test_a_result_keeps_its_memory_and_is_its_own():
    """The array of a large result is the memory that the kernel wrote."""
    @vtrn.nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        for i in range(2):
            nl.store(out[i * ROWS:(i + 1) * ROWS], nl.load(a[i * ROWS:(i + 1) * ROWS]))
        return out, out, out[ROWS:], a

    first = kernel(A)
    first[0][:] = 7  # the others are arrays of their own, and so is the caller's
    assert all(not (array == 7).any() for array in first[1:])
    later = [kernel(A + i)[0] for i in range(4)]
    assert (first[0] == 7).all()
    for i, array in enumerate(later):
        np.testing.assert_array_equal(array, A + i)
        assert array.flags.writeable


def test_elements_that_nothing_wrote_are_found_in_parts_of_rows():
    """Of a tile that was written in the same columns of all partitions, and of some partitions then."""
    @vtrn.nki.jit
    def kernel(a):
        x = nl.ndarray((ROWS, 16, 2, 8), nl.float32)
        y = nl.ndarray((ROWS, 16, 8), nl.float32)
        nisa.memset(x[:, :, 0], 1.0)
        nisa.tensor_copy(y, x[:, :, 0])
        with pytest.raises(Exception, match=r"nothing has written 16384 of its elements, first \[0, 0, 0\]"):
            nisa.tensor_copy(y, x[:, :, 1])
        with pytest.raises(Exception, match=r"nothing has written 256 of its elements, first \[0, 1, 0\]"):
            nisa.tensor_copy(y[32:64, 0:2], x[32:64, 3])
        nisa.memset(x[32:64, 3, 1], 2.0)
        nisa.tensor_copy(y[32:64, 0:2], x[32:64, 3])
        with pytest.raises(Exception, match=r"nothing has written 768 of its elements, first \[0, 1, 0\]"):
            nisa.tensor_copy(y[:, 0:2], x[:, 3])
        nisa.memset(x[:, :, 1], 3.0)
        nisa.tensor_copy(y, x[:, :, 1])
        assert (np.asarray(y) == 3).all()
        return a

    kernel(A)


def test_statistics_and_the_largest_are_right_for_rows_of_any_length():
    for n in (8, 9, 15, 16, 17, 31, 64, 100, 511, 512):
        a = np.random.default_rng(n).integers(-50, 50, (ROWS, n)).astype(np.float32)
        a[3, 2], a[4, :9] = np.nan, np.inf

        @vtrn.nki.jit
        def kernel(a):
            x = nl.load(a)
            out = [nl.ndarray((ROWS, k), nl.float32, buffer=nl.shared_hbm) for k in (6, 8)]
            stats, most = nl.ndarray((ROWS, 6), nl.float32), nl.ndarray((ROWS, 8), nl.float32)
            nisa.bn_stats(stats, x)
            nisa.max8(most, x)
            nl.store(out[0], stats)
            nl.store(out[1], most)
            return tuple(out)

        stats, most = kernel(a)
        rows = [r for r in range(ROWS) if r not in (3, 4)]
        for p in range(2):
            half = a[rows, p::2].astype(np.float64)
            assert (stats[rows, 3 * p] == half.shape[1]).all()
            np.testing.assert_allclose(stats[rows, 3 * p + 1], half.mean(1), rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(stats[rows, 3 * p + 2], half.var(1) * half.shape[1], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(most[rows], -np.sort(-a[rows], 1)[:, :8])
        assert np.isinf(most[4]).sum() == min(8, n)


def test_a_product_goes_across_partitions_of_what_was_just_written():
    @vtrn.nki.jit
    def kernel(a, b):
        out = nl.ndarray((ROWS, 512), nl.float32, buffer=nl.shared_hbm)
        total = nl.ndarray((ROWS, 512), nl.float32, buffer=nl.psum)
        for c in range(16):
            left, right = nl.ndarray((ROWS, ROWS), nl.bfloat16), nl.ndarray((ROWS, 512), nl.bfloat16)
            nisa.tensor_scalar(left, nl.load(a), nl.multiply, float(c))
            nisa.tensor_copy(right, nl.load(b))
            nisa.nc_matmul(total, left, right)
        nl.store(out, nl.copy(total, nl.float32))
        return out

    rng = np.random.default_rng(3)
    a, b = (rng.integers(-4, 5, (ROWS, n)).astype(ml_dtypes.bfloat16) for n in (ROWS, 512))
    want = sum(float(c) * (a.astype(np.float32).T @ b.astype(np.float32)) for c in range(16))
    np.testing.assert_array_equal(kernel(a, b), want)
