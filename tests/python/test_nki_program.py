"""What a kernel's program is beside its calls: engines that the kernel chose, copies that it does not ask for, tiles that are
placed part by part."""

import gc
import json
import os
import weakref

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402
from vtrn.nki import kernel as kernels  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as old_nki  # noqa: E402
import neuronxcc.nki.isa as old_nisa  # noqa: E402
import neuronxcc.nki.language as old_nl  # noqa: E402
import nki  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402

RNG = np.random.default_rng(0)


def profile(tmp_path, kernel, *arrays):
    """The result, latency, and instructions by operation and by engine."""
    found = vtrn.nki.profile(kernel, str(tmp_path))(*arrays)
    with open(os.path.join(tmp_path, "profile.json")) as f:
        written = json.load(f)
    operations = {}
    for row in written["top_ops"]:
        operations[row["op"]] = operations.get(row["op"], 0) + row["n_instructions"]
    return np.asarray(found.result), found.latency_ns, operations, {e: v["n_instructions"] for e, v in written["engines"].items()}


@pytest.mark.parametrize("engine, name", [(nisa.engine.vector, "Vector"), (nisa.engine.scalar, "Scalar"), (nisa.engine.gpsimd, "GpSimd")])
def test_instructions_stay_on_the_engine_that_the_kernel_chose(tmp_path, engine, name):
    @nki.jit
    def kernel(x):
        out = nl.ndarray((64, 128, 256), nl.bfloat16, buffer=nl.shared_hbm)
        tile = nl.ndarray((128, 256), nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(tile, x)
        for i in range(64):
            copy = nl.ndarray((128, 256), nl.bfloat16, buffer=nl.sbuf)
            nisa.tensor_copy(copy, tile, engine=engine)
            nisa.dma_copy(out[i], copy)
        return out

    x = RNG.standard_normal((128, 256)).astype(np.float32)
    result, _, operations, engines = profile(tmp_path, kernel, x)
    assert (result == result[0]).all() and operations["tensor_copy"] == 64
    of_dma = {"GpSimd": 65}  # which triggers the load and the stores
    busy = {e: n - of_dma.get(e, 0) for e, n in engines.items()}
    assert busy[name] >= 64 and all(n <= 2 for e, n in busy.items() if e != name), engines


def test_queues_of_transfers_are_those_of_the_vendors_compiler(tmp_path, monkeypatch):
    """GpSimd makes the descriptors of arguments and results; Scalar stores and Sync loads what else is in HBM."""
    def make(mode):
        @nki.jit
        def kernel(x):
            out = nl.ndarray((128, 256), nl.float32, buffer=nl.shared_hbm)
            between = nl.ndarray((128, 256), nl.float32, buffer=nl.hbm)
            tile, again = (nl.ndarray((128, 256), nl.float32, buffer=nl.sbuf) for _ in range(2))
            nisa.dma_copy(tile, x, dge_mode=mode)
            nisa.dma_copy(between, tile)
            nisa.dma_copy(again, between)
            nisa.dma_copy(out, again)
            return out
        return kernel

    x = RNG.standard_normal((128, 256)).astype(np.float32)
    of = {nisa.dge_mode.unknown: (2, 1, 1), nisa.dge_mode.swdge: (2, 1, 1), nisa.dge_mode.hwdge: (1, 1, 2)}
    for mode, (gpsimd, scalar, sync) in of.items():
        result, _, _, engines = profile(tmp_path, make(mode), x)
        assert np.array_equal(result, x)
        assert (engines["GpSimd"], engines["Scalar"], engines["Sync"]) == (gpsimd, scalar, sync), (mode, engines)


def test_blocks_of_any_size_are_free_one_by_one(tmp_path, monkeypatch):
    """Rows of 4,000 bytes are no multiple of what tiles begin at: the second block's loads wait for no place of the first's."""
    def make(columns):
        @old_nki.jit
        def kernel(a, b):
            out = old_nl.ndarray((2, 128, columns), a.dtype, buffer=old_nl.shared_hbm)
            rows, others, sums = (old_nl.ndarray((2, old_nl.par_dim(128), columns), a.dtype, buffer=old_nl.sbuf) for _ in range(3))
            for i in old_nl.affine_range(2):
                rows[i], others[i] = old_nl.load(a[i]), old_nl.load(b[i])
                sums[i] = old_nl.add(rows[i], others[i])
                old_nl.store(out[i], sums[i])
            return out
        return kernel

    monkeypatch.setenv("VTRN_CHIP", "trn1")
    times = []
    for columns in (1000, 1008):
        a, b = (RNG.standard_normal((2, 128, columns)).astype(np.float32) for _ in range(2))
        result, ns, _, _ = profile(tmp_path, make(columns), a, b)
        assert np.array_equal(result, a + b)
        times.append(ns)
    assert times[0] < times[1]


def test_what_is_assigned_is_written_where_it_goes(tmp_path):
    @old_nki.jit
    def kernel(a, b):
        out = old_nl.ndarray((128, 512), a.dtype, buffer=old_nl.shared_hbm)
        tiles = old_nl.ndarray((2, old_nl.par_dim(128), 512), a.dtype, buffer=old_nl.sbuf)
        tiles[0] = old_nl.load(a)
        tiles[1] = old_nl.load(b)
        tiles[0] += tiles[1]
        tiles[1] = old_nl.multiply(tiles[1], tiles[0])
        old_nl.store(out, tiles[1])
        return out

    a, b = (RNG.standard_normal((128, 512)).astype(np.float32) for _ in range(2))
    result, _, operations, _ = profile(tmp_path, kernel, a, b)
    assert np.array_equal(result, b * (a + b)) and "tensor_copy" not in operations, operations


def test_copies_stay_that_are_needed(tmp_path):
    @old_nki.jit
    def kernel(a):
        shifted = old_nl.ndarray((128, 512), a.dtype, buffer=old_nl.shared_hbm)
        twice = old_nl.ndarray((128, 512), a.dtype, buffer=old_nl.shared_hbm)
        x = old_nl.ndarray((old_nl.par_dim(128), 512), a.dtype, buffer=old_nl.sbuf)
        y = old_nl.ndarray((old_nl.par_dim(128), 512), a.dtype, buffer=old_nl.sbuf)
        x[...] = old_nl.load(a)
        x[:, 1:512] = old_nl.add(x[:, 0:511], 1.0)  # each column from the old one before
        t = old_nl.exp(x)
        y[...] = t
        x[...] = old_nisa.tensor_copy(y)  # which the kernel asks for
        old_nl.store(shifted, x)
        old_nl.store(twice, old_nl.add(t, y))  # t is read behind its copy
        return shifted, twice

    a = RNG.standard_normal((128, 512)).astype(np.float32)
    want = a.copy()
    want[:, 1:] = a[:, :511] + np.float32(1)
    shifted, twice = kernel(a)
    found, _, operations, _ = profile(tmp_path, kernel, a)
    np.testing.assert_allclose(np.asarray(shifted), np.exp(want), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(twice), 2 * np.exp(want), rtol=1e-5)
    assert operations["tensor_copy"] == 3, operations


def test_parts_of_a_tensor_are_free_one_by_one(tmp_path):
    """Two tensors of 128 KiB a partition do not fit; the next one's tiles have the places of those that are multiplied."""
    def make(n_rounds):
        @nki.jit
        def kernel(x):
            out = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)
            sums = nl.ndarray((128, 512), nl.float32, buffer=nl.sbuf)
            nisa.memset(sums, 0.0)
            for _ in range(n_rounds):
                tiles = nl.ndarray((128, 64, 512), nl.float32, buffer=nl.sbuf)
                for j in range(64):
                    nisa.dma_copy(tiles[:, j], x)
                for j in range(64):
                    nisa.tensor_tensor(sums, sums, tiles[:, j], nl.add)
            nisa.dma_copy(out, sums)
            return out
        return kernel

    x = np.ones((128, 512), np.float32)
    one, one_ns, _, _ = profile(tmp_path, make(1), x)
    three, three_ns, _, _ = profile(tmp_path, make(3), x)
    assert (one == 64).all() and (three == 192).all()
    assert three_ns - one_ns < 2 * (one_ns - 15_000)  # loads of a round while the last one is summed


def test_the_first_generation_loads_once_what_it_loads_in_each_turn(tmp_path):
    def sums(a, b):
        out = old_nl.ndarray((4, 128, 512), a.dtype, buffer=old_nl.shared_hbm)
        for i in old_nl.affine_range(4):
            for j in old_nl.affine_range(2):
                tile = old_nl.load(a[:, j * 256:(j + 1) * 256])
                old_nl.store(out[i, :, j * 256:(j + 1) * 256], old_nl.add(tile, old_nl.load(b[i, :, j * 256:(j + 1) * 256])))
        return out

    a, b = RNG.standard_normal((128, 512)).astype(np.float32), RNG.standard_normal((4, 128, 512)).astype(np.float32)
    plain = old_nki.compiler.skip_middle_end_transformations(old_nki.jit(sums))
    for kernel, n_loads in ((old_nki.jit(sums), 1 + 4), (plain, 16)):  # two turns' loads are one transfer
        result, _, _, engines = profile(tmp_path, kernel, a, b)
        n_stores = 8 if kernel is plain else 4
        assert np.array_equal(result, a + b) and engines["GpSimd"] == n_loads + n_stores, engines


def test_what_a_kernel_writes_is_loaded_again(tmp_path):
    @old_nki.jit
    def kernel(a):
        first = old_nl.load(a)
        old_nl.store(a, old_nl.add(first, 1.0))
        out = old_nl.ndarray((128, 64), a.dtype, buffer=old_nl.shared_hbm)
        old_nl.store(out, old_nl.add(old_nl.load(a), first))
        return out

    a = RNG.standard_normal((128, 64)).astype(np.float32)
    want = (a + np.float32(1)) + a
    result, _, _, engines = profile(tmp_path, kernel, a.copy())
    assert np.array_equal(result, want) and engines["GpSimd"] == 2 + 2, engines  # loads and stores


def test_a_tile_that_is_overwritten_need_not_wait(tmp_path):
    """One tile for all loads of a loop, as kernels declare it in front."""
    def make(is_declared_inside):
        @nki.jit
        def kernel(x):
            out = nl.ndarray((128, 512), nl.float32, buffer=nl.shared_hbm)
            sums = nl.ndarray((128, 512), nl.float32, buffer=nl.sbuf)
            nisa.memset(sums, 0.0)
            tile = nl.ndarray((128, 512), nl.float32, buffer=nl.sbuf)
            for _ in range(16):
                if is_declared_inside:
                    tile = nl.ndarray((128, 512), nl.float32, buffer=nl.sbuf)
                nisa.dma_copy(tile, x)
                nisa.tensor_tensor(sums, sums, tile, nl.add)
            nisa.dma_copy(out, sums)
            return out
        return kernel

    x = np.ones((128, 512), np.float32)
    (inside, inside_ns, _, _), (front, front_ns, _, _) = (profile(tmp_path, make(k), x) for k in (True, False))
    assert (inside == 16).all() and (front == 16).all() and front_ns == inside_ns


@pytest.mark.filterwarnings("ignore")
def test_scratch_that_is_read_unwritten_is_filled_behind_copies_that_fall_away(tmp_path):
    @old_nki.compiler.skip_middle_end_transformations
    @old_nki.jit
    def kernel(a):
        x = old_nl.ndarray((old_nl.par_dim(128), 64), a.dtype, buffer=old_nl.sbuf)
        y = old_nl.ndarray((old_nl.par_dim(128), 64), a.dtype, buffer=old_nl.sbuf)
        x[...] = old_nl.load(a)
        y[...] = old_nl.add(x, 1.0)
        scratch = old_nl.ndarray((128, 64), a.dtype, buffer=old_nl.hbm)
        old_nl.store(scratch[:, 0:32], y[:, 0:32])
        out = old_nl.ndarray((128, 64), a.dtype, buffer=old_nl.shared_hbm)
        old_nl.store(out, old_nl.load(scratch))
        return out

    result, _, operations, _ = profile(tmp_path, kernel, np.ones((128, 64), np.float32))
    assert (result[:, :32] == 2).all() and np.isnan(result[:, 32:]).all() and "tensor_copy" not in operations


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32"])
@pytest.mark.filterwarnings("ignore")
def test_integers_that_nothing_wrote_are_4_in_programs(tmp_path, dtype):
    @old_nki.jit
    def kernel(a):
        tile = old_nl.ndarray((old_nl.par_dim(128), 64), getattr(old_nl, dtype), buffer=old_nl.sbuf)
        tile[:, 0:32] = old_nl.load(a)
        out = old_nl.ndarray((128, 64), old_nl.float32, buffer=old_nl.shared_hbm)
        old_nl.store(out, tile)
        return out

    result, _, _, _ = profile(tmp_path, kernel, np.ones((128, 32), np.dtype(dtype)))
    assert (result[:, :32] == 1).all() and (result[:, 32:] == 4).all()


def test_gathers_have_a_ring_of_their_engine(tmp_path):
    """A ring that two engines feed ends transfers in another order than their semaphores count them in."""
    @nki.jit
    def kernel(a, b):
        out = nl.ndarray((4, 128, 64), nl.float32, buffer=nl.shared_hbm)
        rows = nl.ndarray((128, 1), nl.int32, buffer=nl.sbuf)
        nisa.iota(rows, [[1, 1]], offset=0, channel_multiplier=1)
        for i in range(4):
            x = nl.ndarray((128, 64), nl.float32, buffer=nl.sbuf)
            y = nl.ndarray((128, 64), nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(x, a[i])
            nisa.dma_copy(y, b.ap([[64, 128], [1, 64]], vector_offset=rows))
            nisa.dma_copy(x[:, 1:64], a[i, :, 0:63])
            nisa.tensor_tensor(x, x, y, nl.add)
            nisa.dma_copy(out[i], x)
        return out

    a, b = RNG.standard_normal((4, 128, 64)).astype(np.float32), RNG.standard_normal((128, 64)).astype(np.float32)
    shifted = a.copy()
    shifted[:, :, 1:] = a[:, :, :63]
    result, _, _, _ = profile(tmp_path, kernel, a, b)
    assert np.array_equal(result, shifted + b)


@pytest.mark.filterwarnings("ignore")
def test_what_a_result_has_where_nothing_wrote_is_not_compared(tmp_path):
    @nki.jit
    def kernel(a):
        out = nl.ndarray((128, 64), nl.float32, buffer=nl.shared_hbm)
        tile = nl.ndarray((128, 32), nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(tile, a)
        nisa.dma_copy(out[:, 0:32], tile)
        return out

    @nki.jit
    def whole(a):
        out = nl.ndarray((128, 64), nl.float32, buffer=nl.shared_hbm)
        tile = nl.ndarray((128, 64), nl.float32, buffer=nl.sbuf)
        nisa.memset(tile, 7.0)
        nisa.dma_copy(out, tile)
        return out

    a = RNG.standard_normal((128, 32)).astype(np.float32)
    for _ in range(4):
        profile(tmp_path, whole, a)  # whose memory the next program's result has
        result, _, _, _ = profile(tmp_path, kernel, a)
        assert np.array_equal(result[:, :32], a) and not result[:, 32:].any()


def test_a_profile_that_is_over_keeps_no_memory_of_the_chip(tmp_path, monkeypatch):
    """Each session has address space for the whole instance's HBM: some fourteen of Trainium3 are what a process has."""
    @nki.jit
    def kernel(a):
        out = nl.ndarray((128, 32), nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(out, a)
        return out

    runs, begin = [], kernels._Run.__init__

    def noted(self, *args):
        runs.append(weakref.ref(self))
        begin(self, *args)

    monkeypatch.setattr(kernels._Run, "__init__", noted)
    gc.disable()
    try:
        profile(tmp_path, kernel, np.ones((128, 32), np.float32))
        assert len(runs) == 1 and runs[0]() is None
    finally:
        gc.enable()


def test_programs_begin_with_the_generators_of_their_kernel(tmp_path):
    @nki.jit
    def kernel():
        out = nl.ndarray((128, 32), nl.uint32, buffer=nl.shared_hbm)
        tile = nl.ndarray((128, 32), nl.uint32, buffer=nl.sbuf)
        nisa.rng(tile)
        nisa.dma_copy(out, tile)
        return out

    first, second = (profile(tmp_path, kernel)[0] for _ in range(2))
    assert np.array_equal(first, second)


def _crossing(name, dst, src, other):
    if name == "tensor_tensor":
        nisa.tensor_tensor(dst, src, other, nl.add)
    elif name == "second":
        nisa.tensor_tensor(dst, other, src, nl.subtract)
    elif name == "tensor_scalar":
        nisa.tensor_scalar(dst, src, nl.multiply, 3, op1=nl.add, operand1=1)
    elif name == "activation":
        nisa.activation(dst, nl.copy, src, scale=2.0)
    elif name == "tensor_copy":
        nisa.tensor_copy(dst, src)
    elif name == "gpsimd":
        nisa.tensor_tensor(dst, src, other, nl.add, engine=nisa.engine.gpsimd)
    elif name == "scan":
        nisa.tensor_tensor_scan(dst, src, other, 0.0, nl.multiply, nl.add)
    elif name == "dma":
        nisa.dma_copy(dst, src)
    else:
        nisa.scalar_tensor_tensor(dst, src, nl.multiply, 2, nl.add, other)


@pytest.mark.parametrize("shift", [1, -1, 7])
@pytest.mark.parametrize("dtype", [np.float32, nl.bfloat16, np.int32])
@pytest.mark.parametrize("name", ["tensor_tensor", "second", "tensor_scalar", "activation", "tensor_copy", "gpsimd", "scan", "dma", "both"])
def test_a_result_that_goes_across_an_operand_is_that_of_operands_read_first(tmp_path, name, dtype, shift):
    def make(n, is_apart):
        @nki.jit
        def kernel(a, b):
            out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
            x, y, old = (nl.ndarray(a.shape, a.dtype, buffer=nl.sbuf) for _ in range(3))
            nisa.dma_copy(x, a)
            nisa.dma_copy(y, b)
            nisa.dma_copy(old, a)
            low, high = slice(0, n - abs(shift)), slice(abs(shift), n)
            to, by = (high, low) if shift > 0 else (low, high)
            _crossing(name, x[:, to], (old if is_apart else x)[:, by], y[:, to])
            nisa.dma_copy(out, x)
            return out
        return kernel

    for n in (16, 512, 2048):
        a, b = (RNG.integers(-9, 9, (128, n)).astype(np.int32 if dtype is np.int32 else np.float32) for _ in range(2))
        if dtype is nl.bfloat16:
            import ml_dtypes
            a, b = a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)
        apart, across = make(n, True)(a, b), make(n, False)(a, b)
        assert np.array_equal(np.asarray(apart), np.asarray(across), equal_nan=dtype is not np.int32), n
        profile(tmp_path, make(n, False), a, b)  # the program gives the same, or this is an error


@pytest.mark.parametrize("columns", [2, 512])
def test_signs_of_nan_are_no_difference(columns, tmp_path):
    """Which of two NaN stays is the host's (docs/decisions/0012); numbers beside them are compared all the same."""
    @nki.jit
    def kernel(a, b):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        nl.store(out, nl.multiply(nl.load(a), nl.load(b)))
        return out

    a, b = np.ones((128, columns), np.float32), np.ones((128, 1), np.float32)
    a.reshape(-1)[::3], a.reshape(-1)[1::5] = np.nan, -np.nan
    b[::2], b[1::2] = np.nan, -np.nan
    assert np.isnan(vtrn.nki.profile(kernel, tmp_path)(a, b).result).all()
