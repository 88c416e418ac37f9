"""What programs of the first generation share and do once: copies of transposes on two engines, and loads of tiles that there is room for."""

import json

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402

SIGNALLING = {ml_dtypes.bfloat16: 0x7F81, np.float16: 0x7C01}  # NaNs whose quiet bit is 0, which arithmetic sets


def profile(tmp_path, kernel, *arrays):
    """The result, as the kernel alone gives it, too, and what the profile has written."""
    found = vtrn.nki.profile(kernel, str(tmp_path))(*arrays)
    result, alone = np.asarray(found.result), np.asarray(kernel(*arrays))
    assert (result.view(np.uint8) == alone.view(np.uint8)).all()
    with open(tmp_path / "profile.json") as f:
        return result, json.load(f)


def signalling(dtype, shape):
    x = (np.arange(np.prod(shape), dtype=np.float32) % 61 - 30).reshape(shape).astype(dtype)
    x.view(np.uint16)[::9, 5] = SIGNALLING[dtype]
    return x


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("dtype", SIGNALLING)
def test_copies_of_transposed_operands_are_shared_by_two_engines(tmp_path, dtype):
    @nki.jit
    def kernel(x, y):
        out = nl.ndarray((8, nl.par_dim(128), 256), dtype=nl.float32, buffer=nl.shared_hbm)
        rows, columns = nl.load(x), nl.load(y)
        for i in nl.affine_range(8):
            sums = nl.zeros((128, 256), dtype=nl.float32, buffer=nl.psum)
            for j in nl.affine_range(8):
                sums += nl.matmul(rows[:, j * 128 : (j + 1) * 128], columns)
            nl.store(out[i], sums)
        return out

    x, y = signalling(dtype, (128, 1024)), signalling(dtype, (128, 256))[::-1].copy()
    result, written = profile(tmp_path, kernel, x, y)
    engines = {name: engine["n_instructions"] for name, engine in written["engines"].items()}
    assert engines["Scalar"] >= 4 and engines["Vector"] >= 4, engines
    with np.errstate(invalid="ignore"):
        want = sum(x[:, j * 128 : (j + 1) * 128].astype(np.float32) @ y.astype(np.float32) for j in range(8))
    np.testing.assert_allclose(result[3], want, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("is_named", [True, False])
def test_transposes_that_the_kernel_copies_or_stores_keep_their_bits(tmp_path, is_named):
    @nki.jit
    def kernel(x):
        out = nl.ndarray((8, nl.par_dim(128), 128), dtype=x.dtype, buffer=nl.shared_hbm)
        rows = nl.load(x)
        for i in nl.affine_range(8):
            part = rows[:, i * 128 : (i + 1) * 128]
            nl.store(out[i], nisa.tensor_copy(nisa.nc_transpose(part)) if is_named else nl.transpose(part))
        return out

    x = signalling(ml_dtypes.bfloat16, (128, 1024))
    result, written = profile(tmp_path, kernel, x)
    assert (result.view(np.uint16) == np.swapaxes(x.reshape(128, 8, 128), 0, 2).swapaxes(0, 1).view(np.uint16)).all()
    assert written["engines"]["Scalar"]["n_instructions"] == 0


@pytest.mark.parametrize("n_blocks, is_kept", [(5, True), (24, False)])
def test_a_loop_keeps_all_that_it_loads_again_or_nothing(tmp_path, n_blocks, is_kept):
    """A block is 16 KB of a partition's 192 KB: 5 are kept from turn to turn, of 24 none; x is, whose 8 KB take part in both."""

    @nki.jit
    def kernel(x, y):
        out = nl.ndarray((3, n_blocks, nl.par_dim(128), 1), dtype=nl.float32, buffer=nl.shared_hbm)
        for i in nl.affine_range(3):
            for j in nl.affine_range(n_blocks):
                rows, block = nl.load(x), nl.load(y[j])
                longest = nisa.tensor_reduce(nl.max, nl.add(block[:, 0:2048], rows), axis=1, keepdims=True)
                nl.store(out[i, j], nl.add(longest, float(i)))
        return out

    x, y = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((128, 2048), (n_blocks, 128, 4096)))
    result, written = profile(tmp_path, kernel, x, y)
    np.testing.assert_array_equal(result[2], (y[:, :, :2048] + x).max(axis=2, keepdims=True) + 2)
    assert written["hbm_read_bytes"] == x.nbytes + y.nbytes * (1 if is_kept else 3)


def test_what_is_kept_in_vain_binds_no_tile_to_its_partitions(tmp_path):
    """320 KB of a partition's 192 KB fit as tiles of 32 rows lie beside each other. Were the second loads dropped, the first ones'
    tiles would have to lie where the PE array reads them, which is tried and given up."""
    n = 20

    @nki.jit
    def kernel(x):
        out = nl.ndarray((n, nl.par_dim(32), 4096), dtype=nl.float32, buffer=nl.shared_hbm)
        sums = nl.ndarray((n, nl.par_dim(32), 32), dtype=nl.float32, buffer=nl.shared_hbm)
        tiles = []
        for i in nl.affine_range(n):
            tiles.append(nl.load(x[i]))
            again = nl.load(x[i])
            nl.store(sums[i], nl.copy(nisa.nc_matmul(again[:, 0:32], again[:, 0:32])))
        for i in nl.affine_range(n):
            nl.store(out[i], tiles[i])
        return out, sums

    x = np.random.default_rng(0).standard_normal((n, 32, 4096)).astype(np.float32)
    found = vtrn.nki.profile(kernel, str(tmp_path))(x)
    np.testing.assert_array_equal(found.result[0], x)
    np.testing.assert_allclose(found.result[1], x[:, :, :32].swapaxes(1, 2) @ x[:, :, :32], rtol=1e-4, atol=1e-4)
    assert not found.spill_save_bytes


@pytest.mark.parametrize("columns, is_reversed", [(8, False), (128, False), (128, True), (200, False)])
def test_loads_are_kept_where_turns_have_their_tiles_together(tmp_path, columns, is_reversed):
    """An addition takes several turns of the inner loop, and so do loads, or fewer, or one: of short runs, of places in falling
    order, and of 800 bytes a partition, 5 by 5, where an addition takes 2 by 2."""
    n = 8

    @nki.jit
    def kernel(x):
        out = nl.ndarray((3, n, nl.par_dim(128), columns), dtype=nl.float32, buffer=nl.shared_hbm)
        for i in nl.affine_range(3):
            for j in nl.affine_range(n):
                nl.store(out[i, j], nl.add(nl.load(x[n - 1 - j if is_reversed else j]), float(i)))
        return out

    x = np.random.default_rng(0).standard_normal((n, 128, columns)).astype(np.float32)
    result, written = profile(tmp_path, kernel, x)
    np.testing.assert_array_equal(result[2], (x[::-1] if is_reversed else x) + 2)
    assert written["hbm_read_bytes"] == x.nbytes


def test_tiles_that_parts_of_other_values_fill_are_not_one(tmp_path):
    """Each turn of the outer loop has the first blocks of the one before, and other ones behind them."""
    n = 8

    @nki.jit
    def kernel(x):
        out = nl.ndarray((3, n, nl.par_dim(128), 8), dtype=nl.float32, buffer=nl.shared_hbm)
        for i in nl.affine_range(3):
            for j in nl.affine_range(n):
                nl.store(out[i, j], nl.add(nl.load(x[j if j < 6 else j + i]), 1.0))
        return out

    x = np.random.default_rng(0).standard_normal((n + 2, 128, 8)).astype(np.float32)
    result, _ = profile(tmp_path, kernel, x)
    for i in range(3):
        np.testing.assert_array_equal(result[i], x[[*range(6), 6 + i, 7 + i]] + 1)
