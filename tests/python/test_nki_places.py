"""Tiles that together are more than SBUF: what gives room, and that programs then compute what kernels did."""

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402
from vtrn.nki import compiler, errors, isa as nisa, language as nl  # noqa: E402

ROOM = 212_992  # bytes a partition
rng = np.random.default_rng(23)


def numbers(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def profiled(kernel, *arrays, tmp_path):
    """profile() fails where the program gives other bits than the kernel did."""
    return vtrn.nki.profile(vtrn.nki.jit(kernel), str(tmp_path))(*arrays)


def test_loads_ahead_of_their_use_are_made_when_there_is_room(tmp_path):
    def kernel(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        tiles = [nl.ndarray((128, 10000), x.dtype) for _ in range(x.shape[0])]
        for i, tile in enumerate(tiles):  # 7 times 40,000 bytes
            nisa.memset(tile[:, 9000:], 1.0)
            nisa.dma_copy(tile[:, :9000], x[i, :, :9000])
        for i, tile in enumerate(tiles):
            nisa.tensor_scalar(tile, tile, nl.multiply, 2.0)
            nisa.dma_copy(out[i], tile)
        return out

    x = numbers(7, 128, 10000)
    done = profiled(kernel, x, tmp_path=tmp_path)
    want = x * 2
    want[:, :, 9000:] = 2
    np.testing.assert_array_equal(done.result, want)
    assert done.sbuf_peak_bytes <= 128 * ROOM


def test_a_load_stays_before_what_overwrites_its_source(tmp_path):
    def kernel(x, y):
        out = nl.ndarray((4, *x.shape), x.dtype, buffer=nl.shared_hbm)
        kept = nl.ndarray(x.shape, x.dtype, buffer=nl.private_hbm)
        first, old, *later = (nl.ndarray(x.shape, x.dtype) for _ in range(5))
        nisa.dma_copy(first, x)
        nisa.dma_copy(kept, first)
        nisa.dma_copy(old, kept)  # x, until y is stored there
        for tile in later:  # four of 68,000 bytes live now
            nisa.dma_copy(tile, y)
        nisa.dma_copy(kept, later[0])
        nisa.dma_copy(out[0], old)
        for i, tile in enumerate(later):
            nisa.tensor_scalar(tile, tile, nl.add, float(i))
            nisa.dma_copy(out[1 + i], tile)
        return out

    x, y = numbers(128, 17000), numbers(128, 17000)
    done = profiled(kernel, x, y, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, np.stack([x, y, y + 1, y + 2]))


def test_a_result_takes_the_place_of_an_operand_that_is_read_for_the_last_time(tmp_path):
    """A rotary embedding, whose tiles live as NKI's library has them."""
    def kernel(x, cos, sin):
        n = x.shape[1]
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        whole, c, s, turned = (nl.ndarray((p, n), x.dtype) for p in (128, 64, 64, 128))
        nisa.dma_copy(whole, x)
        nisa.dma_copy(c, cos)
        nisa.dma_copy(s, sin)
        odd, even_cos, odd_cos, even_sin, odd_sin = (nl.ndarray((64, n), x.dtype) for _ in range(5))
        nisa.tensor_copy(odd, whole[64:])
        nisa.tensor_tensor(even_cos, whole[:64], c, nl.multiply)
        nisa.tensor_tensor(odd_cos, odd, c, nl.multiply)
        nisa.tensor_tensor(even_sin, whole[:64], s, nl.multiply)
        nisa.tensor_tensor(odd_sin, odd, s, nl.multiply)
        nisa.tensor_tensor(turned[:64], even_cos, odd_sin, nl.subtract)
        nisa.tensor_tensor(turned[64:], odd_cos, even_sin, nl.add)
        nisa.dma_copy(out, turned)
        return out

    x, cos, sin = numbers(128, 16000), numbers(64, 16000), numbers(64, 16000)
    done = profiled(kernel, x, cos, sin, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, np.concatenate([x[:64] * cos - x[64:] * sin, x[64:] * cos + x[:64] * sin]))
    assert done.sbuf_peak_bytes <= 128 * ROOM


def test_a_result_of_other_elements_has_a_place_of_its_own():
    def kernel(x):
        out = nl.ndarray((128, 30000), x.dtype, buffer=nl.shared_hbm)
        a, b = nl.ndarray((128, 30000), x.dtype), nl.ndarray((128, 30000), x.dtype)
        nisa.dma_copy(a, x)
        nisa.tensor_copy(b, a.ap([[30000, 128], [1, 100], [100, 300]]))  # transposed
        nisa.dma_copy(out, b)
        return out

    with pytest.raises(errors.NkiValidationError, match=r"(?s)out of capacity: .*1 tiles live with it and take 120000.*"
                                                        rf"{__file__}:\d+, where instruction 1 is the first to use it\n"
                                                        rf"\s+1 of 120000 bytes, first used at {__file__}:\d+, last by"):
        vtrn.nki.jit(kernel)(numbers(128, 30000))


def test_what_lives_is_told_by_line_and_size():
    def kernel(x):
        out = nl.ndarray((1, 1), x.dtype, buffer=nl.shared_hbm)
        tiles = [nl.ndarray((128, 20000), x.dtype) for _ in range(3)]
        for tile in tiles:
            nisa.tensor_copy(tile, nl.zeros((128, 1), x.dtype).broadcast(1, 20000))
        for tile in tiles:
            nisa.dma_copy(out, tile[0:1, 0:1])
        return out

    with pytest.raises(errors.NkiValidationError, match=r"(?s)2 of 80000 bytes, first used at .*, last by instruction \d+"):
        vtrn.nki.jit(kernel, compile_config=compiler.CompileConfig(nki_alloc_fallback=False))(numbers(1, 1))


def repeated_loads(sizes, steps):
    """A kernel of loads (which array, how many steps later its row sums are taken) that asks for each load once, and what it
    takes and gives. A column of size 1 is 16,000 bytes a partition."""
    def kernel(*arrays):
        out = nl.ndarray((len(steps), 128, 1), np.float32, buffer=nl.shared_hbm)
        due = {}
        for k in range(len(steps) + 3):
            if k < len(steps):
                which, wait = steps[k]
                tile = nl.ndarray(arrays[which].shape, np.float32)
                nisa.dma_copy(tile, arrays[which])
                due.setdefault(k + wait, []).append((k, tile))
            for step, tile in due.pop(k, ()):
                total = nl.ndarray((128, 1), np.float32)
                nisa.tensor_reduce(total, nl.maximum, tile, axis=1)
                nisa.dma_copy(out[step], total)
        return out

    kernel.reuses_loads = True
    arrays = [numbers(128, 4000 * n) for n in sizes]
    return kernel, arrays, np.stack([arrays[which].max(axis=1, keepdims=True) for which, _ in steps])


@pytest.mark.parametrize("is_in_pieces", [False, True])
def test_loads_are_repeated_where_the_room_to_keep_tiles_is_in_pieces(is_in_pieces, tmp_path):
    sizes, steps = [5, 2, 2], [(2, 1), (1, 1), (1, 0), (0, 2), (0, 2)]
    kernel, arrays, want = repeated_loads(sizes, steps if is_in_pieces else steps[:-1])
    done = profiled(kernel, *arrays, tmp_path=tmp_path)
    np.testing.assert_array_equal(done.result, want)
    every = sum(arrays[which].nbytes for which, _ in steps[:len(want)])
    assert done.hbm_read_bytes == every if is_in_pieces else done.hbm_read_bytes < every
    assert done.sbuf_peak_bytes <= 128 * ROOM


@pytest.mark.filterwarnings("ignore:.*spill")
@pytest.mark.parametrize("what", ["sums of Scalar", "sums of Vector", "random numbers"])
def test_tiles_stay_in_the_lanes_whose_registers_go_on(tmp_path, what):
    commands = nisa.reduce_cmd

    def kernel(x):
        out = nl.ndarray((32, 8), nl.float32, buffer=nl.shared_hbm)
        tiles = [nl.ndarray(x.shape, nl.float32) for _ in range(8)]  # of 44,000 bytes a partition, side by side they fit
        sums = nl.ndarray((32, 8), nl.float32)
        for tile in tiles:
            nisa.dma_copy(tile, x)
        for i, tile in enumerate(tiles):
            total, command = sums[:, i:i + 1], commands.reduce if i else commands.reset_reduce
            if what == "sums of Scalar":
                nisa.activation(tile, nl.square, tile, reduce_op=nl.add, reduce_res=total, reduce_cmd=command)
            elif what == "sums of Vector":
                nisa.tensor_scalar_reduce(tile, tile, nl.add, 1.0, nl.add, total, reduce_cmd=command)
            else:
                nisa.dropout(tile, tile, 0.5)
                nisa.tensor_reduce(total, nl.add, tile, 1)
        for tile in tiles:
            nisa.tensor_tensor(tiles[0], tiles[0], tile, nl.add)
        nisa.tensor_reduce(sums[:, 0:1], nl.add, tiles[0], 1)
        nisa.dma_copy(out, sums)
        return out

    profiled(kernel, numbers(32, 11000), tmp_path=tmp_path)
