"""Tiles that live together and have no room in SBUF: saved to HBM, reloaded, with the same values, and told."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402
from test_nki_places import ROOM, numbers, profiled as profiled_quietly  # noqa: E402
from vtrn.nki import compiler, errors, estimate, isa as nisa, language as nl  # noqa: E402


def profiled(kernel, *arrays, tmp_path):
    with pytest.warns(UserWarning, match="SBUF has no room for all tiles that live together"):
        return profiled_quietly(kernel, *arrays, tmp_path=tmp_path)


def sums(x):
    """Makes as many tiles as x has, and then reads all of them."""
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    tiles = [nl.ndarray((128, x.shape[2]), x.dtype, name=f"part{i}") for i in range(x.shape[0])]
    for i, tile in enumerate(tiles):
        nisa.dma_copy(tile, x[i])
        nisa.tensor_scalar(tile, tile, nl.multiply, 2.0)
    for i, tile in enumerate(tiles):
        nisa.tensor_tensor(tile, tile, tiles[(i + 1) % len(tiles)], nl.add)
        nisa.dma_copy(out[i], tile)
    return out


def sums_of(x):
    want = 2 * x
    for i in range(len(x)):
        want[i] += want[(i + 1) % len(x)]
    return want


def test_tiles_beyond_sbuf_are_saved_and_reloaded(tmp_path):
    x = numbers(7, 128, 10000)  # 40,000 bytes each, of which five fit
    done = profiled(sums, x, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, sums_of(x))
    size = 128 * 40000
    assert done.sbuf_peak_bytes <= 128 * ROOM
    assert done.spill_save_bytes >= 2 * size and done.spill_save_bytes % size == 0
    assert done.spill_reload_bytes >= 2 * size and done.spill_reload_bytes % size == 0
    assert done.hbm_write_bytes == x.nbytes + done.spill_save_bytes
    assert done.hbm_read_bytes == x.nbytes + done.spill_reload_bytes
    written = json.loads((tmp_path / "profile.json").read_text())
    assert written["spill_save_bytes"] == done.spill_save_bytes and written["spill_reload_bytes"] == done.spill_reload_bytes


def test_the_warning_names_tile_line_and_bytes():
    with pytest.warns(UserWarning, match=rf"sums: SBUF has no room .*: \d+ bytes are saved to HBM and \d+ reloaded \(spill\): "
                                         rf"part\d of 5120000 bytes first used at {__file__}:\d+, saved \d+ and reloaded \d+ times"):
        vtrn.nki.jit(sums)(numbers(7, 128, 10000))


def test_an_estimate_has_the_spills():
    found = estimate.estimate(vtrn.nki.jit(sums), numbers(7, 128, 10000))
    assert not found.error and found.spill_save_bytes and found.spill_reload_bytes
    assert "saved to HBM" in found.warnings[0]
    fits = estimate.estimate(vtrn.nki.jit(sums), numbers(4, 128, 10000))
    assert not fits.spill_save_bytes and not fits.warnings


def test_tiles_that_fit_are_not_saved():
    x = numbers(5, 128, 10000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(vtrn.nki.jit(sums)(x), sums_of(x))


def test_an_unchanged_tile_is_saved_once(tmp_path):
    def kernel(x):
        out = nl.ndarray((3, *x.shape), x.dtype, buffer=nl.shared_hbm)
        kept = nl.ndarray((128, 20000), x.dtype)  # 80,000 bytes, of which two fit
        nisa.dma_copy(kept, x)
        for i in range(3):
            a, b = nl.ndarray((128, 20000), x.dtype), nl.ndarray((128, 20000), x.dtype)
            nisa.memset(a, float(i))
            nisa.memset(b, 1.0)
            nisa.tensor_tensor(a, a, b, nl.add)
            nisa.tensor_tensor(b, a, b, nl.add)
            nisa.tensor_tensor(a, kept, b, nl.add)
            nisa.dma_copy(out[i], a)
        return out

    x = numbers(128, 20000)
    done = profiled(kernel, x, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, np.stack([x + (i + 2) for i in range(3)]))
    assert done.spill_save_bytes == x.nbytes and done.spill_reload_bytes == 2 * x.nbytes  # the first use is right behind the load


def test_what_is_written_between_is_saved_again(tmp_path):
    def kernel(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        total = nl.ndarray((128, 20000), x.dtype)
        nisa.memset(total, 0.0)
        for i in range(3):
            a, b, c = (nl.ndarray((128, 20000), x.dtype) for _ in range(3))
            nisa.dma_copy(a, x)
            nisa.tensor_scalar(b, a, nl.multiply, float(i))
            nisa.tensor_tensor(c, a, b, nl.add)  # all that fit
            nisa.tensor_tensor(total, total, c, nl.add)
        nisa.dma_copy(out, total)
        return out

    x = numbers(128, 20000)
    done = profiled(kernel, x, tmp_path=tmp_path)
    want = np.zeros_like(x)
    for i in range(3):
        want += x + x * np.float32(i)
    np.testing.assert_array_equal(done.result, want)
    assert done.spill_save_bytes >= 2 * x.nbytes


def test_a_tile_that_is_written_in_part_is_saved_too(tmp_path, monkeypatch):
    monkeypatch.setenv("VTRN_CHECK", "1")  # the save reads all of the tile

    def kernel(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        a, b, c, kept = (nl.ndarray((128, 15000), x.dtype) for _ in range(4))  # three fit
        nisa.dma_copy(a, x)
        nisa.tensor_copy(kept[:, :5000], a[:, :5000])
        nisa.tensor_tensor(b, a, a, nl.add)
        nisa.tensor_tensor(c, a, b, nl.add)
        for tile in (b, c):
            nisa.tensor_tensor(a, a, tile, nl.add)
        nisa.tensor_copy(kept[:, 5000:], c[:, 5000:])
        nisa.tensor_tensor(a, a, kept, nl.add)
        nisa.dma_copy(out, a)
        return out

    x = numbers(128, 15000)
    done = profiled(kernel, x, tmp_path=tmp_path)
    b, c = x + x, x + (x + x)
    want = x + b + c
    want[:, :5000] += x[:, :5000]
    want[:, 5000:] += c[:, 5000:]
    np.testing.assert_array_equal(done.result, want)


def test_without_the_fallback_what_does_not_fit_is_an_error():
    kernel = vtrn.nki.jit(sums, compile_config=compiler.CompileConfig(nki_alloc_fallback=False))
    with pytest.raises(errors.NkiValidationError, match="out of capacity: SBUF: a tile of 40000 bytes a partition does not fit"):
        kernel(numbers(7, 128, 10000))


def test_tiles_placed_by_hand_stay_where_they_are(tmp_path):
    def kernel(x):
        out = nl.ndarray((2, *x.shape), x.dtype, buffer=nl.shared_hbm)
        placed = nl.ndarray((128, 20000), x.dtype, address=(0, 64))
        kept = nl.ndarray((128, 20000), x.dtype)
        nisa.dma_copy(placed, x)
        nisa.tensor_scalar(kept, placed, nl.add, 1.0)
        a = nl.ndarray((128, 20000), x.dtype)
        nisa.tensor_tensor(a, placed, placed, nl.add)
        nisa.dma_copy(out[0], a)
        nisa.tensor_tensor(placed, kept, placed, nl.add)
        nisa.dma_copy(out[1], placed)
        return out

    x = numbers(128, 20000)
    done = profiled(kernel, x, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, np.stack([x + x, (x + 1) + x]))
    assert done.spill_save_bytes == x.nbytes  # of the one that has no place of its own


def test_what_one_instruction_names_has_to_fit():
    def kernel(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        a, b, c = (nl.ndarray((128, 20000), x.dtype) for _ in range(3))
        nisa.dma_copy(a, x)
        nisa.tensor_copy(b, a)
        nisa.tensor_tensor(c, a, b, nl.add)
        for tile in (a, b, c):
            nisa.dma_copy(out, tile)
        return out

    with pytest.raises(errors.NkiValidationError, match="out of capacity: SBUF: a tile of 80000 bytes"):
        vtrn.nki.jit(kernel)(numbers(128, 20000))


def test_two_cores_spill_each_by_itself():
    def kernel(x):
        out = nl.ndarray((2, *x.shape), x.dtype, buffer=nl.shared_hbm)
        tiles = [nl.ndarray((128, x.shape[2]), x.dtype) for _ in range(x.shape[0])]
        for i, tile in enumerate(tiles):
            nisa.dma_copy(tile, x[i])
            nisa.tensor_scalar(tile, tile, nl.multiply, 2.0)
        nisa.core_barrier(out, (0, 1))
        for i, tile in enumerate(tiles):
            nisa.dma_copy(out[nl.program_id(0), i], tile)
        return out

    x = numbers(7, 128, 10000)
    with pytest.warns(UserWarning, match="SBUF has no room"):
        done = vtrn.nki.profile(vtrn.nki.jit(kernel)[2])(x)
    np.testing.assert_array_equal(done.result, np.stack([2 * x, 2 * x]))
    assert done.spill_save_bytes == done.spill_reload_bytes == 4 * 128 * 40000


def test_a_kernel_in_a_jitted_function_spills_too():
    jax = pytest.importorskip("jax")
    x = numbers(6, 128, 10000)
    kernel = vtrn.nki.jit(sums)
    with jax.default_device(jax.devices("neuron")[0]), pytest.warns(UserWarning, match="SBUF has no room"):
        got = jax.jit(lambda x: kernel(x) + 1)(x)
    np.testing.assert_array_equal(np.asarray(got), sums_of(x) + 1)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_give_what_their_kernels_gave(seed, tmp_path):
    """Tiles of several sizes and rows, written whole and in part, by DMA and by engines."""
    draw = np.random.default_rng(seed)
    n_tiles = 11
    shapes = [(int(draw.choice([128, 128, 64, 32])), int(draw.integers(4, 15)) * 1000) for _ in range(n_tiles)]
    steps = [(draw.choice(["load", "add", "part", "double"]), *map(int, draw.integers(0, n_tiles, 2))) for _ in range(45)]

    def kernel(x):
        out = nl.ndarray((n_tiles, 128, 1), x.dtype, buffer=nl.shared_hbm)
        tiles = [nl.ndarray(shape, x.dtype) for shape in shapes]
        for i, tile in enumerate(tiles):
            nisa.memset(tile, float(i))
            nisa.tensor_scalar(tile, tile, nl.add, 0.5)
        for what, i, j in steps:
            a, b = tiles[i], tiles[j]
            rows, n = min(a.shape[0], b.shape[0]), min(a.shape[1], b.shape[1])
            if what == "load":
                nisa.dma_copy(a, x[:a.shape[0], :a.shape[1]])
            elif what == "double":
                nisa.tensor_scalar(a, a, nl.multiply, 2.0)
            elif what == "add" and i != j:
                nisa.tensor_tensor(a[:rows, :n], a[:rows, :n], b[:rows, :n], nl.subtract)
            elif i != j:
                nisa.tensor_copy(a[:rows, n // 2:n], b[:rows, :n - n // 2])
        for i, tile in enumerate(tiles):
            total = nl.ndarray((128, 1), x.dtype)
            nisa.memset(total, 0.0)
            nisa.tensor_reduce(total[:tile.shape[0]], nl.add, tile, axis=1)
            nisa.dma_copy(out[i], total)
        return out

    done = profiled(kernel, numbers(128, 15000), tmp_path=tmp_path)
    assert done.spill_reload_bytes > 0 and done.sbuf_peak_bytes <= 128 * ROOM


@pytest.mark.parametrize("seed", [2, 4, 7])
def test_a_place_in_hbm_is_taken_again_when_its_last_reload_is_over(seed, tmp_path):
    """Tiles that are written once and read in any order: what is saved first may be over last."""
    draw = np.random.default_rng(seed)
    reads = [int(i) for i in draw.integers(0, 9, 40)]

    def kernel(x):
        out = nl.ndarray((len(reads), 128, 1), x.dtype, buffer=nl.shared_hbm)
        tiles = [nl.ndarray((128, 10000), x.dtype) for _ in range(9)]
        for i, tile in enumerate(tiles):
            nisa.dma_copy(tile, x[i])
            nisa.tensor_scalar(tile, tile, nl.multiply, 2.0)
        for k, i in enumerate(reads):
            most = nl.ndarray((128, 1), x.dtype)
            nisa.tensor_reduce(most, nl.max, tiles[i], axis=1)
            nisa.dma_copy(out[k], most)
        return out

    x = numbers(9, 128, 10000)
    done = profiled(kernel, x, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, np.stack([2 * x[i].max(axis=1, keepdims=True) for i in reads]))


@pytest.mark.parametrize("seed", [0, 7])
def test_a_save_leaves_what_another_tile_is_still_reloaded_from(seed, tmp_path):
    """Tiles of one size take each other's places in HBM. That of a tile whose last reload comes behind the save, which stands
    where the saved tile was written, is not free."""
    draw = np.random.default_rng(seed)
    n_tiles, columns = 12, 8000
    steps = [(draw.choice(["add", "fill", "subtract", "maximum"]), *map(int, draw.integers(0, n_tiles, 2))) for _ in range(40)]

    def kernel():
        out = nl.ndarray((n_tiles, 128, 1), np.float32, buffer=nl.shared_hbm)
        tiles = [nl.ndarray((128, columns), np.float32) for _ in range(n_tiles)]
        for i, tile in enumerate(tiles):
            nisa.memset(tile, float(i))
        for number, (what, i, j) in enumerate(steps):
            if what in ("add", "fill"):  # the tile that was there is over
                before, tiles[i] = tiles[i], nl.ndarray((128, columns), np.float32)
                if what == "fill":
                    nisa.memset(tiles[i], float(number))
                else:
                    nisa.tensor_scalar(tiles[i], before, nl.add, float(number))
            elif i != j:
                nisa.tensor_tensor(tiles[i], tiles[i], tiles[j], nl.subtract if what == "subtract" else nl.maximum)
        for i, tile in enumerate(tiles):
            total = nl.ndarray((128, 1), np.float32)
            nisa.tensor_reduce(total, nl.add, tile, axis=1)
            nisa.dma_copy(out[i], total)
        return out

    assert profiled(kernel, tmp_path=tmp_path).spill_reload_bytes > 0
