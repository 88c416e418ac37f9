"""What came with NKI 0.7: scalars, grids of tiles and blocks, configurations of jit."""

import ml_dtypes
import numpy as np
import pytest

import vtrn.nki

vtrn.nki.install(force=True)
import nki  # noqa: E402
import nki.compiler  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402

rng = np.random.default_rng(5)


def scalar_kernel(function, dtype=nl.int32, buffer=nl.sbuf):
    """What function makes of the scalar in an array of one element."""
    @nki.jit
    def kernel(x):
        tile = nl.ndarray((1, 1), dtype, buffer=buffer)
        nisa.dma_copy(dst=tile, src=x)
        result = nl.ndarray((1, 1), dtype, buffer=buffer)
        nisa.scalar_store(result, function(nisa.scalar_load(tile)))
        out = nl.ndarray((1, 1), dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=result)
        return out

    return lambda n: int(kernel(np.array([[n]], str(dtype)))[0, 0])


@pytest.mark.parametrize("buffer", [nl.sbuf, nl.hbm])
@pytest.mark.parametrize("dtype", [nl.int32, nl.int64])
@pytest.mark.parametrize("function", [lambda i: i * 4 + 1, lambda i: 7 - i, lambda i: -(i * i) - 3 * (+i), lambda i: i - 9 + i])
def test_scalars_add_subtract_and_multiply(function, dtype, buffer):
    call = scalar_kernel(function, dtype, buffer)
    for n in (0, 5, -12345):
        assert call(n) == function(n)


def test_scalars_wrap_at_their_width():
    assert scalar_kernel(lambda i: i * i)(100000) == 1410065408
    assert scalar_kernel(lambda i: i + 1)(2**31 - 1) == -(2**31)
    assert scalar_kernel(lambda i: i * i, nl.int64)(100000) == 10**10


@pytest.mark.parametrize("function, dtype, text", [
    (lambda i: i + 1.5, nl.int32, "the other operand is an int"),
    (lambda i: i + nisa.NkiScalar(1, nl.int64), nl.int32, "both are of one width"),
    (lambda i: i if i else i, nl.int32, "has no truth"),
    (lambda i: (i < 3) + 1, nl.int32, "comparison is recorded"),
    (lambda i: i < 3, nl.int64, "comparisons of int64"),
    (lambda i: 3, nl.int32, "nisa.memset a constant"),
    (lambda i: nisa.NkiScalar(3, nl.int64), nl.int32, "both have one width"),
])
def test_scalars_refuse_what_does_not_compile(function, dtype, text):
    with pytest.raises(TypeError, match=text):
        scalar_kernel(function, dtype)(3)


def test_a_scalar_of_nothing_written_is_told():
    @nki.jit
    def kernel(x, load):
        load(nl.ndarray((1, 1), nl.int32))
        return x

    for load in (nisa.scalar_load, lambda t: nisa.register_load(nisa.register_alloc(), t)):
        with pytest.raises(vtrn.nki.NkiValidationError, match="nothing has written.*write it before") as caught:
            kernel(np.ones((1, 1), np.float32), load)
        assert caught.value.category == "uninitialised"
    with pytest.raises(TypeError, match="scalars are int32 or int64"):
        kernel(np.ones((1, 1), np.float32), lambda t: nisa.scalar_load(nl.zeros((1, 1), nl.uint32)))
    with pytest.raises(ValueError, match="a tensor of one element"):
        kernel(np.ones((1, 1), np.float32), lambda t: nisa.scalar_load(nl.zeros((1, 2), nl.int32)))


def test_scalars_address_and_bound_loops():
    data = rng.standard_normal((40, 64)).astype(np.float32)

    @nki.jit
    def kernel(data, count):
        tile = nl.load(count)
        n = nisa.scalar_load(tile[:, 0:1])
        out = nl.ndarray(data.shape, data.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.zeros(data.shape, data.dtype))
        row = nl.ndarray((1, 64), data.dtype)
        kinds = set()

        def body(i):
            kinds.add(type(i))
            nisa.dma_copy(dst=row, src=data.ap([[64, 1], [1, 64]], scalar_offset=i * 2 + 1, indirect_dim=0))
            nisa.dma_copy(dst=out.select(0, i), src=row)

        nl.fori_loop(1, n * 2 - 1, body, step=2)
        assert kinds == {nisa.NkiScalar}
        return out

    got = kernel(data, np.array([[4]], np.int32))
    want = np.zeros_like(data)
    for i in range(1, 7, 2):
        want[i] = data[2 * i + 1]
    np.testing.assert_array_equal(got, want)


def test_loops_take_32_bits_and_whole_steps():
    @nki.jit
    def kernel(x, call):
        call()
        return x

    x = np.ones((1, 1), np.float32)
    with pytest.raises(TypeError, match="a bound has 32 bits"):
        kernel(x, lambda: nl.fori_loop(0, nisa.NkiScalar(3, nl.int64), print))
    with pytest.raises(ValueError, match="a positive int"):
        kernel(x, lambda: nl.fori_loop(0, 3, print, step=0))
    with pytest.raises(TypeError, match="scalar_offset is int64"):
        kernel(x, lambda: nl.zeros((1, 4), nl.float32).ap([[4, 1], [1, 1]], scalar_offset=nisa.NkiScalar(1, nl.int64),
                                                          indirect_dim=1))
    with pytest.raises(vtrn.nki.NkiValidationError, match="no engine computes in int64"):
        kernel(x, lambda: nl.ones((1, 1), nl.int64))


# -- grids

TILES = [((512, 1024), (128, 256)), ((300, 500), (128, 200)), ((128, 64), (128, 64)), ((5, 7), (2, 3))]


@pytest.mark.parametrize("shape, tile_shape", TILES)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_grid_of_tiles_covers_its_tensor(shape, tile_shape, dtype):
    @nki.jit
    def kernel(x):
        source = nl.tiles(x, tile_shape=tile_shape)
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        to = nl.tiles(out, tile_shape=tile_shape)
        assert source.shape == tuple(-(-n // t) for n, t in zip(shape, tile_shape)) and isinstance(source, nl.NkiGrid)
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                cell = source[i, j]
                assert cell.shape == () and cell.element_shape == tuple(min(t, n - k * t) for k, t, n in
                                                                        zip((i, j), tile_shape, shape))
                assert cell.is_remainder == (cell.element_shape != tile_shape)
                tile = nl.ndarray(cell.element_shape, x.dtype)
                nisa.dma_copy(dst=tile.data, src=cell.data)
                nisa.dma_copy(dst=to[i, j].data, src=tile.data)
        return out

    x = rng.standard_normal(shape).astype(dtype)
    np.testing.assert_array_equal(kernel(x), x)


def test_grids_are_sliced_and_keep_their_geometry():
    @nki.jit
    def kernel(x):
        grid = nl.tiles(x, tile_shape=(100, 200))
        assert grid.shape == (2, 3, 3) and grid.element_shape == (2, 300, 500) and grid.index_step_elements == (1, 100, 200)
        assert not grid.is_data_representable and grid.dtype == "float32" and nl.is_hbm(grid.buffer)
        with pytest.raises(AssertionError, match="choose one slab"):
            grid.data
        row, column = grid[1, 2], grid[1, :, -1]
        assert (row.shape, row.element_shape) == ((3,), (100, 500)) and (column.shape, column.element_shape) == ((3,), (300, 100))
        assert grid[0, 1:3, 0:2].data.shape == (200, 400) and grid[0, ..., 0].shape == (3,)
        for key, text in ((9, "slab 9 of 2"), ((0, 3), "cell 3 of 3"), ((0, slice(0, 4)), "cells 0:4 of 3"),
                          ((0, 0, 0, 0), "4 subscripts"), (slice(0, 1), "not tiled"), ((0, slice(0, 3, 2)), "a step of 2")):
            with pytest.raises(IndexError, match=text):
                grid[key]
        out = nl.ndarray((100, 500), x.dtype, buffer=nl.shared_hbm)
        tile = nl.ndarray((100, 500), x.dtype)
        nisa.dma_copy(dst=tile, src=row.data)
        nisa.dma_copy(dst=out, src=tile)
        return out

    x = rng.standard_normal((2, 300, 500)).astype(np.float32)
    np.testing.assert_array_equal(kernel(x), x[1, 200:300])


@pytest.mark.parametrize("shape", [(512, 1024), (300, 700)])
def test_blocks_are_made_of_tiles(shape):
    @nki.jit
    def kernel(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        source, to = (nl.blocks(t, tile_shape=(64, 128), block_shape=(2, 2)) for t in (x, out))
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                block = nl.blocks(nl.ndarray(source[i, j].element_shape, x.dtype), tile_shape=(64, 128), block_shape=(2, 2))
                nisa.dma_copy(dst=block.data, src=source[i, j].data)
                inside = nl.tiles(block)
                for a in range(inside.shape[0]):
                    for b in range(inside.shape[1]):
                        nisa.tensor_scalar(inside[a, b].data, inside[a, b].data, nl.multiply, 2.0)
                nisa.dma_copy(dst=to[i, j].data, src=block.data)
        return out

    x = rng.standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(kernel(x), 2 * x)


@pytest.mark.parametrize("buffer", [nl.sbuf, nl.hbm])
@pytest.mark.parametrize("shape", [(300, 500), (256, 256)])
def test_allocated_grids_have_memory_of_their_own(buffer, shape):
    @nki.jit
    def kernel(x):
        grid = nl.alloc_tiles(tile_shape=(128, 128), element_shape=shape, buffer=buffer, dtype=x.dtype)
        blocks = nl.alloc_blocks(tile_shape=(128, 128), block_shape=(1, 2), element_shape=shape, buffer=buffer, dtype=x.dtype)
        source = nl.tiles(x, tile_shape=(128, 128))
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                nisa.dma_copy(dst=grid[i, j].data, src=source[i, j].data)
        assert grid.is_data_representable == (buffer is nl.hbm)
        for i in range(blocks.shape[0]):
            nisa.dma_copy(dst=blocks[i].data, src=grid[i].data)
            nisa.dma_copy(dst=nl.tiles(out, tile_shape=(128, 128))[i].data, src=blocks[i].data)
        if buffer is nl.sbuf:
            with pytest.raises(AssertionError, match="take one row of tiles"):
                grid.data
        return out

    x = rng.standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(kernel(x), x)


def test_grids_refuse_shapes_that_are_none():
    @nki.jit
    def kernel(x, error, text, call):
        with pytest.raises(error, match=text):
            call(x)
        return x

    x = np.ones((4, 4, 4), np.float32)
    for error, text, call in (
        (TypeError, "a tuple of Python ints", lambda x: nl.tiles(x, tile_shape=[2, 2])),
        (TypeError, "tile_shape is needed", lambda x: nl.tiles(x)),
        (ValueError, "at least 2 numbers", lambda x: nl.tiles(x, tile_shape=(2,))),
        (ValueError, "each 1 or more", lambda x: nl.tiles(x, tile_shape=(2, 0))),
        (ValueError, "more dimensions than the tensor", lambda x: nl.tiles(x, tile_shape=(1, 2, 2, 2))),
        (ValueError, "are for tensors in HBM", lambda x: nl.tiles(nl.load(x), tile_shape=(2, 2))),
        (ValueError, "both have as many", lambda x: nl.blocks(x, tile_shape=(2, 2), block_shape=(1, 2, 2))),
        (TypeError, "nl.sbuf, nl.psum or", lambda x: nl.alloc_tiles(tile_shape=(2, 2), element_shape=(4, 4), buffer="sbuf",
                                                                    dtype=nl.float32)),
    ):
        kernel(x, error, text, call)


# -- configurations

def add_one(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    tile = nl.load(x)
    nisa.tensor_scalar(tile, tile, nl.add, 1.0 + nl.program_id(0))
    if nl.program_id(0) == nl.num_programs() - 1:
        nl.store(out, tile)
    return out


def test_jit_takes_configurations():
    config = nki.compiler.CompileConfig(non_ssa_legalization=True, address_rotation=nki.compiler.AddressRotation.DISABLE)
    x = np.zeros((2, 3), np.float32)
    assert nki.jit(compile_config=config)(add_one)(x).max() == 1
    assert nki.jit(add_one, compile_config=config, specialization_config=nki.compiler.SpecializationConfig())(x).max() == 1
    with pytest.raises(TypeError, match="is a nki.compiler.CompileConfig"):
        nki.jit(compile_config={"prefetch_auto": True})(add_one)
    with pytest.raises(TypeError, match="prefetch_auto=1; it is True or False"):
        nki.compiler.CompileConfig(prefetch_auto=1)


def test_a_kernel_within_another_has_its_configuration():
    Config, Special = nki.compiler.CompileConfig, nki.compiler.SpecializationConfig
    inner = nki.jit(add_one, compile_config=Config(dead_code_elim=True))
    x = np.zeros((2, 3), np.float32)

    def outer(x):
        return inner(x)

    assert nki.jit(outer, compile_config=Config(dead_code_elim=True))(x).max() == 1
    with pytest.raises(ValueError, match="add_one is part of outer.*dead_code_elim=True in False; give both the same"):
        nki.jit(outer)(x)
    with pytest.warns(UserWarning, match="outer's is taken"):
        assert nki.jit(outer, specialization_config=Special(allow_nested_config_override=True))(x).max() == 1
    plain = nki.jit(add_one)
    assert nki.jit(lambda x: plain(x), compile_config=Config(dead_code_elim=True))(x).max() == 1


def test_the_environment_says_how_many_cores_a_launch_has(monkeypatch):
    kernel, x = nki.jit(add_one), np.zeros((2, 3), np.float32)
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "2")
    assert kernel(x).max() == 2 and kernel[2](x).max() == 2
    assert vtrn.nki.profile(kernel)(x).result.max() == 2
    with pytest.raises(vtrn.nki.NkiValidationError, match=r"add_one\[1\]: LNC mismatch.*launch add_one\[2\]"):
        kernel[1](x)
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "1")
    assert kernel(x).max() == 1
    with pytest.raises(vtrn.nki.NkiValidationError, match="NCC_EVRF066"):
        kernel[2](x)
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "3")
    with pytest.raises(ValueError, match="are 1 or 2"):
        kernel(x)


@pytest.mark.parametrize("bounds, said", [
    ((0, "3"), "fori_loop: upper is '3'; a bound is an int, a register or an NkiScalar"),
    ((0, 3.7), "fori_loop: upper is 3.7"),
    ((0, None), "fori_loop: upper is None"),
    ((np.float32(1), 3), "fori_loop: lower is .*1.0"),
])
def test_bounds_of_loops_are_integers(bounds, said):
    @nki.jit
    def kernel(x):
        nl.fori_loop(*bounds, lambda i: None)
        return x

    with pytest.raises(TypeError, match=said):
        kernel(np.zeros((1, 1), np.int32))


def test_numpys_integers_bound_loops():
    rounds = []

    @nki.jit
    def kernel(x):
        nl.fori_loop(np.int64(1), np.int8(3), rounds.append)
        return x

    kernel(np.zeros((1, 1), np.int32))
    assert len(rounds) == 2
