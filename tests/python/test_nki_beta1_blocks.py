"""Arrays of blocks of NKI's first generation that are larger than the memory they are in: each block lies where there is room when
it is in use, and blocks that are in use together and have no room go to the next memory."""

import warnings

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.compiler as ncc  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402

rng = np.random.default_rng(31)


def numbers(*shape):
    return rng.integers(-4, 5, shape).astype(np.float32)  # sums of products are exact


def profiled(kernel, *arrays, tmp_path, told=None):
    """profile() fails where the program gives other bits than the kernel did. told: what a warning says; None: nothing warns."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        done = vtrn.nki.profile(nki.jit(kernel), str(tmp_path))(*arrays)
    texts = [str(w.message) for w in found]
    assert (not texts) if told is None else any(told in t for t in texts), texts
    return done


def test_blocks_that_are_used_one_after_another_fit_in_any_number(tmp_path):
    def kernel(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        blocks = nl.ndarray((x.shape[0], nl.par_dim(128), 8000), x.dtype, buffer=nl.sbuf)  # 12 of 32,000 bytes
        for i in nl.affine_range(x.shape[0]):
            blocks[i] = nl.load(x[i])
            blocks[i] = nl.multiply(blocks[i], 2.0)
            nl.store(out[i], blocks[i])
        return out

    x = numbers(12, 128, 8000)
    done = profiled(kernel, x, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, 2 * x)
    assert done.spill_save_bytes == 0


def test_blocks_of_psum_that_are_used_one_after_another_fit_in_any_number(tmp_path):
    def kernel(a, b):
        out = nl.ndarray((20, 128, 512), a.dtype, buffer=nl.shared_hbm)
        sums = nl.ndarray((4, 5, nl.par_dim(128), 512), nl.float32, buffer=nl.psum)  # 20 banks of 8
        left, right = nl.load(a), nl.load(b)
        for i in nl.affine_range(4):
            for j in nl.affine_range(5):
                sums[i, j] = nisa.nc_matmul(left, right)
                nl.store(out[5 * i + j], nl.add(sums[i, j], float(5 * i + j)))
        return out

    a, b = numbers(128, 128), numbers(128, 512)
    done = profiled(kernel, a, b, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, a.T @ b + np.arange(20, dtype=np.float32)[:, None, None])


def test_blocks_of_psum_that_live_together_are_saved_to_sbuf(tmp_path):
    def kernel(a, b):
        out = nl.ndarray((12, 128, 512), a.dtype, buffer=nl.shared_hbm)
        sums = nl.ndarray((12, nl.par_dim(128), 512), nl.float32, buffer=nl.psum)
        left, right = nl.load(a), nl.load(b)
        for i in nl.affine_range(12):
            sums[i] = nisa.nc_matmul(left, right)
        largest = nl.zeros((nl.par_dim(128), 12), nl.float32, buffer=nl.sbuf)
        for i in nl.affine_range(12):
            largest[:, i:i + 1] = nisa.tensor_reduce(nl.max, sums[i], axis=[1])
        most = nisa.tensor_reduce(nl.max, largest, axis=[1])  # of all blocks: none is over before
        for i in nl.affine_range(12):
            nl.store(out[i], nisa.tensor_scalar(sums[i], nl.subtract, most))
        return out

    a, b = numbers(128, 128), numbers(128, 512)
    done = profiled(kernel, a, b, tmp_path=tmp_path, told="PSUM has no room for all tiles that live together")
    want = a.T @ b
    np.testing.assert_array_equal(done.result, np.broadcast_to(want - want.max(axis=1, keepdims=True), (12, 128, 512)))
    assert done.psum_peak_bytes <= 8 * 2048 * 128 and done.spill_save_bytes == 0  # all of it has room in SBUF


def test_blocks_of_psum_are_summed_on_behind_a_save(tmp_path):
    def kernel(a, b):
        out = nl.ndarray((12, 128, 512), a.dtype, buffer=nl.shared_hbm)
        sums = nl.zeros((12, nl.par_dim(128), 512), nl.float32, buffer=nl.psum)
        left, right = nl.load(a), nl.load(b)
        largest = nl.zeros((nl.par_dim(128), 12), nl.float32, buffer=nl.sbuf)
        for _ in nl.sequential_range(3):
            for i in nl.affine_range(12):
                sums[i] += nisa.nc_matmul(left, right)
            for i in nl.affine_range(12):
                largest[:, i:i + 1] = nisa.tensor_reduce(nl.max, sums[i], axis=[1])
            right = nl.add(right, nl.multiply(nisa.tensor_reduce(nl.max, largest, axis=[1]), 0.0))  # behind all sums
        for i in nl.affine_range(12):
            nl.store(out[i], nl.copy(sums[i]))
        return out

    a, b = numbers(128, 128), numbers(128, 512)
    done = profiled(kernel, a, b, tmp_path=tmp_path, told="PSUM has no room for all tiles that live together")
    np.testing.assert_array_equal(done.result, np.broadcast_to(3 * (a.T @ b), (12, 128, 512)))


def test_zeros_of_more_blocks_than_fit_are_made_block_by_block(tmp_path):
    def kernel(x):
        out = nl.ndarray((x.shape[0], 128, 8000), x.dtype, buffer=nl.shared_hbm)
        blocks = nl.zeros((x.shape[0], nl.par_dim(128), 8000), x.dtype, buffer=nl.sbuf)
        for i in nl.affine_range(x.shape[0]):
            blocks[i, :, 1:7999] = nl.load(x[i])
            nl.store(out[i], blocks[i])
        return out

    x = numbers(12, 128, 7998)
    done = profiled(kernel, x, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, np.pad(x, ((0, 0), (0, 0), (1, 1))))


def test_blocks_that_live_together_go_to_hbm_one_by_one(tmp_path):
    def kernel(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        blocks = nl.ndarray((x.shape[0], nl.par_dim(128), 8000), x.dtype, buffer=nl.sbuf, name="kept")
        most = nl.zeros((nl.par_dim(128), x.shape[0]), x.dtype)
        for i in nl.affine_range(x.shape[0]):
            blocks[i] = nl.multiply(nl.load(x[i]), 2.0)
            most[:, i:i + 1] = nisa.tensor_reduce(nl.max, blocks[i], axis=[1])
        largest = nisa.tensor_reduce(nl.max, most, axis=[1])  # of all blocks: none is over before
        for i in nl.affine_range(x.shape[0]):
            nl.store(out[i], nisa.tensor_scalar(blocks[i], nl.minimum, largest))
        return out

    x = numbers(12, 128, 8000)
    done = profiled(kernel, x, tmp_path=tmp_path, told="kept of 4096000 bytes")
    np.testing.assert_array_equal(done.result, 2 * x)
    assert 0 < done.spill_save_bytes < x.nbytes and done.spill_reload_bytes == done.spill_save_bytes


def test_one_instruction_on_more_blocks_than_fit_is_an_error():
    def kernel(x):
        out = nl.ndarray((128, 1), x.dtype, buffer=nl.shared_hbm)
        blocks = nl.zeros((12, nl.par_dim(128), 5000), x.dtype, buffer=nl.sbuf)
        nl.store(out, nisa.tensor_reduce(nl.add, blocks, axis=[0, 2]))
        return out

    with pytest.raises(vtrn.nki.NkiValidationError, match="out of capacity: tensor_reduce: data: ends at byte 240000; a partition of"):
        nki.jit(kernel)(numbers(1, 1))


def test_a_block_that_is_larger_than_the_memory_is_an_error():
    def kernel(x):
        nl.ndarray((2, nl.par_dim(128), 60000), x.dtype, buffer=nl.sbuf)
        return x

    with pytest.raises(vtrn.nki.NkiValidationError, match="a block of 240000 bytes a partition; SBUF of trn2 has 212992"):
        nki.jit(kernel)(numbers(1, 1))


def test_tiles_that_the_kernel_allocates_are_not_spilled():
    def kernel(x, buffer):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        tiles = [nl.ndarray((nl.par_dim(128), 20000), x.dtype, buffer=buffer) for _ in range(3)]
        for i, tile in enumerate(tiles):
            tile[...] = nl.multiply(nl.load(x), float(i))
        for _ in range(2):  # all of them live until the second turn
            total = nl.zeros((nl.par_dim(128), 1), x.dtype)
            for tile in tiles:
                total += nisa.tensor_reduce(nl.add, tile, axis=[1])
            nl.store(out[:, 0:1], total)
            for tile in tiles:
                tile[:, 0:1] = total
        return out

    x = numbers(128, 20000)
    with pytest.warns(UserWarning, match="SBUF has no room"):
        nki.jit(kernel)(x, ncc.sbuf.auto_alloc())
    with pytest.raises(vtrn.nki.NkiValidationError, match="a tile of 80000 bytes a partition does not fit"):
        nki.jit(kernel)(x, ncc.sbuf.mod_alloc(base_addr=0))


def test_a_transpose_of_no_identity_is_a_matmul_on_trainium1(monkeypatch):
    def kernel(a, b):
        out = nl.ndarray((128, b.shape[1]), a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.copy(nisa.nc_matmul(nl.load(a), nl.load(b), is_transpose=True)))
        return out

    monkeypatch.setenv("VTRN_CHIP", "trn1")
    a, b = numbers(128, 128), numbers(128, 512)
    np.testing.assert_array_equal(nki.jit(kernel)(a, b), a.T @ b)
    np.testing.assert_array_equal(nki.jit(kernel)(a, np.eye(128, dtype=np.float32)), a.T)
