"""What the first generation's programs leave out and put in another order: they must give the bits that the kernel gave."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402

BANK = 512  # columns of fp32


def profiled(tmp_path, kernel, *arrays):
    """The profile, whose program must give the kernel's bits, and its instructions by operation."""
    found = vtrn.nki.profile(kernel, str(tmp_path))(*(a.copy() for a in arrays))
    operations = {}
    for row in json.loads((tmp_path / "profile.json").read_text())["top_ops"]:
        operations[row["op"]] = operations.get(row["op"], 0) + row["n_instructions"]
    return found, operations


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n_summed, n_memsets", [(4, 0), (3, 1)])
def test_zeros_that_sums_overwrite_are_left_out(tmp_path, n_summed, n_memsets):
    @nki.jit
    def kernel(a):
        out = nl.ndarray((128, BANK), nl.float32, buffer=nl.shared_hbm)
        tile = nl.load(a)
        sums = nl.zeros((128, BANK), nl.float32, buffer=nl.psum)
        for _ in range(2):
            for i in range(n_summed):
                columns = slice(i * 128, (i + 1) * 128)
                sums[:, columns] += nisa.nc_matmul(stationary=tile, moving=tile)
        nl.store(out, nl.copy(sums))
        return out

    a = numbers(1, 128, 128)
    found, operations = profiled(tmp_path, kernel, a)
    want = np.zeros((128, BANK), np.float32)
    want[:, :n_summed * 128] = np.tile(2 * (a.T @ a), n_summed)
    np.testing.assert_allclose(found.result, want, rtol=1e-3, atol=1e-3)
    assert operations.get("memset", 0) == n_memsets


def test_zeros_that_are_read_first_stay(tmp_path):
    @nki.jit
    def kernel(a):
        out = nl.ndarray((2, 128, BANK), nl.float32, buffer=nl.shared_hbm)
        tile = nl.zeros((128, BANK), nl.float32)
        nl.store(out[0], nl.add(tile, 1.0))
        tile[...] = nl.load(a)
        nl.store(out[1], tile)
        return out

    a = numbers(2, 128, BANK)
    found, operations = profiled(tmp_path, kernel, a)
    np.testing.assert_array_equal(found.result, np.stack([np.ones_like(a), a]))
    assert operations["memset"] == 1


def test_loops_over_blocks_beyond_psum_are_as_one(tmp_path, monkeypatch):
    """Sums, their maxima and differences of 32 blocks, of which PSUM holds 8."""
    monkeypatch.setenv("VTRN_CHIP", "trn1")

    @nki.jit
    def kernel(a):
        out = nl.ndarray((32, 128, BANK), nl.float32, buffer=nl.shared_hbm)
        tile = nl.load(a)
        sums = nl.ndarray((32, nl.par_dim(128), BANK), nl.float32, buffer=nl.psum)
        most = nl.ndarray((nl.par_dim(128), 32), nl.float32)
        for i in nl.affine_range(32):
            sums[i] = nisa.nc_matmul(stationary=tile[:, i * 128:(i + 1) * 128], moving=tile[:, 0:BANK])
        for i in nl.affine_range(32):
            most[:, i:i + 1] = nisa.tensor_reduce(nl.max, sums[i], axis=1)
        for i in nl.affine_range(32):
            nl.store(out[i], nisa.tensor_scalar(sums[i], nl.subtract, most[:, i:i + 1]))
        return out

    a = numbers(3, 128, 32 * 128)
    found, operations = profiled(tmp_path, kernel, a)
    want = np.stack([a[:, i * 128:(i + 1) * 128].T @ a[:, :BANK] for i in range(32)])
    np.testing.assert_allclose(found.result, want - want.max(axis=2, keepdims=True), rtol=1e-3, atol=1e-2)
    assert found.spill_save_bytes == 0 and "spill_save" not in operations


def test_a_row_is_spread_over_partitions_by_tensor(tmp_path):
    """Values that a sum of products could change stay what they are; the only reader reads PSUM, two a copy."""
    def make(n_readers):
        @nki.jit
        def kernel(a, b):
            outs = [nl.ndarray((128, BANK), nl.float32, buffer=nl.shared_hbm) for _ in range(2)]
            row = nl.broadcast_to(nl.load(b), shape=(128, BANK))
            for out in outs[:n_readers]:
                nl.store(out, nl.maximum(nl.load(a), row))
            return tuple(outs[:n_readers])
        return kernel

    a, b = numbers(4, 128, BANK), numbers(5, 1, BANK)
    b[0, :6] = np.inf, -np.inf, 1e-42, -1e-42, 3.4e38, 0.0
    for n_readers in (1, 2):
        found, operations = profiled(tmp_path, make(n_readers), a, b)
        for result in found.result:
            np.testing.assert_array_equal(result, np.maximum(a, b))
        assert operations.get("tensor_copy", 0) + operations.get("activate", 0) == n_readers - 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
def test_rows_of_any_type_and_place_are_spread(dtype):
    import ml_dtypes

    @nki.jit
    def kernel(a):
        out = nl.ndarray((3, 64, 1300), a.dtype, buffer=nl.shared_hbm)
        tile = nl.load(a)
        for i, at in enumerate((0, 3, 32)):
            nl.store(out[i], nl.broadcast_to(tile[at:at + 1, :], shape=(64, 1300)))
        return out

    a = (100 * numbers(6, 64, 1300)).astype(getattr(ml_dtypes, dtype, dtype))
    want = np.stack([np.broadcast_to(a[at], (64, 1300)) for at in (0, 3, 32)])
    np.testing.assert_array_equal(kernel(a.copy()), want)
    np.testing.assert_array_equal(vtrn.nki.profile(kernel)(a.copy()).result, want)


def test_copies_of_sums_are_shared_by_vector_and_scalar(tmp_path):
    @nki.jit
    def kernel(a):
        out = nl.ndarray((8, 128, BANK), nl.float32, buffer=nl.shared_hbm)
        tile = nl.load(a)
        for i in nl.affine_range(8):
            sums = nisa.nc_matmul(stationary=tile[:, 0:128], moving=tile[:, i:i + BANK])
            kept = nisa.tensor_copy(sums)
            nl.store(out[i], nl.add(kept, nl.multiply(kept, 0.5)))
        return out

    a = numbers(7, 128, BANK + 8)
    found, _ = profiled(tmp_path, kernel, a)
    want = np.stack([1.5 * (a[:, :128].T @ a[:, i:i + BANK]) for i in range(8)])
    np.testing.assert_allclose(found.result, want, rtol=1e-3, atol=1e-3)
    engines = json.loads((tmp_path / "profile.json").read_text())["engines"]
    assert engines["Scalar"]["n_instructions"] > 1 and engines["Vector"]["n_instructions"] >= 8  # additions are Vector's


def test_a_transpose_that_each_turn_repeats_is_done_once(tmp_path):
    @nki.jit
    def kernel(a, b):
        out = nl.ndarray((8, 128, 128), nl.float32, buffer=nl.shared_hbm)
        tile = nl.load(a)
        for i in nl.affine_range(8):
            nl.store(out[i], nl.matmul(tile, nl.load(b[:, i * 128:(i + 1) * 128])))
        return out

    a, b = numbers(8, 128, 128), numbers(9, 128, 8 * 128)
    found, operations = profiled(tmp_path, kernel, a, b)
    want = np.stack([a @ b[:, i * 128:(i + 1) * 128] for i in range(8)])
    np.testing.assert_allclose(found.result, want, rtol=1e-3, atol=1e-3)
    assert operations["pe_transpose"] == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_integers_that_another_engine_rounds_are_not_taken_from_it(tmp_path, order):
    @nki.jit
    def kernel(a, b):
        outs = [nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm) for _ in range(2)]
        x, y = nl.load(a), nl.load(b)
        for i in order:
            nl.store(outs[i], nisa.tensor_tensor(x, y, op=nl.add, **({"engine": nisa.vector_engine} if i else {})))
        return outs[0], outs[1]

    rng = np.random.default_rng(1)
    a, b = (rng.integers(2**28, 2**29, (128, 64)).astype(np.int32) for _ in range(2))
    found, _ = profiled(tmp_path, kernel, a, b)
    np.testing.assert_array_equal(found.result[0], a + b)
    assert (found.result[1] != a + b).any()  # Vector adds in fp32


def random_kernel(r, n_blocks):
    """Loops, each of which makes or changes the blocks of an array from those of others."""
    n_arrays = 5
    in_psum = [r.random() < 0.5 for _ in range(n_arrays)]
    turns = r.choice([[0], [0], [0, 0, 0, 1, n_blocks // 2]])
    kinds = ["matmul", "add", "sum", "sum", "exp", "exp", "store", "reload", "clear", "part", "part", "turned", "row"]
    steps = [(r.choice(kinds), r.randrange(n_arrays),
              r.randrange(n_arrays), r.choice(turns)) for _ in range(r.randint(3, 18))]

    @nki.jit
    def kernel(a):
        out = nl.ndarray((n_blocks, 128, BANK), nl.float32, buffer=nl.shared_hbm)
        kept = nl.ndarray((n_blocks, 128, BANK), nl.float32, buffer=nl.shared_hbm)
        sides = nl.ndarray((128, n_blocks), nl.float32, buffer=nl.shared_hbm)
        tile = nl.load(a)
        columns = nl.zeros((128, n_blocks), nl.float32)
        arrays = [nl.ndarray((n_blocks, nl.par_dim(128), BANK), nl.float32, buffer=nl.psum if p else nl.sbuf) for p in in_psum]
        for array in arrays:
            for i in nl.affine_range(n_blocks):
                array[i] = nl.multiply(tile[:, 0:BANK], 0.5 + i)
        for i in nl.affine_range(n_blocks):
            nl.store(out[i], tile[:, 0:BANK])
        for kind, x, y, turn in steps:
            for i in nl.affine_range(n_blocks):
                to, by = arrays[x], arrays[y]
                j = (i + turn) % n_blocks
                if kind == "matmul" and in_psum[x]:
                    product = nisa.nc_matmul(stationary=tile[:, 0:128], moving=tile[:, i:i + BANK])
                    if y % 2:
                        to[i] += product
                    else:
                        to[i] = product
                elif kind == "add":
                    to[i] = nl.add(nl.copy(to[i]), by[j])
                elif kind == "sum":
                    columns[:, i:i + 1] = nisa.tensor_reduce(nl.max, by[j], axis=1)
                elif kind == "exp":
                    to[i] = nisa.activation(nl.tanh, by[j], bias=columns[:, j:j + 1])
                elif kind == "store":
                    nl.store(out[i], nl.copy(by[j]))
                elif kind == "reload" and not in_psum[x]:
                    to[i] = nl.load(out[j])
                elif kind == "turned":  # the same transpose in each turn
                    to[i, :, 0:128] = nl.matmul(tile[:, turn:turn + 128], nl.copy(by[j, :, 0:128]))
                elif kind == "row":
                    row = nl.load(a[i:i + 1, 0:BANK])
                    to[i] = nl.add(nl.copy(by[j]), nl.broadcast_to(row, shape=(128, BANK)))
                elif kind == "part":
                    to[i, :, 0:BANK // 2] = nl.copy(by[j, :, BANK // 2:BANK])
                elif kind == "clear":
                    to[i] = nl.zeros((128, BANK), nl.float32, buffer=nl.psum if in_psum[x] else nl.sbuf)
        for i in nl.affine_range(n_blocks):
            total = nl.copy(arrays[0][i])
            for array in arrays[1:]:
                total = nl.add(total, array[i])
            nl.store(kept[i], total)
        nl.store(sides, columns)
        return out, kept, sides

    return kernel


@pytest.mark.filterwarnings("ignore:.*has no room")
@pytest.mark.parametrize("seed", range(40))
def test_random_loops_over_blocks(tmp_path, monkeypatch, seed):
    r = random.Random(seed)
    monkeypatch.setenv("VTRN_CHIP", r.choice(["trn1", "trn2"]))
    n_blocks = r.choice([3, 6, 12, 24])
    kernel, a = random_kernel(r, n_blocks), numbers(seed, 128, BANK + 32)
    eager = [np.asarray(x) for x in kernel(a.copy())]
    for x, y in zip(eager, vtrn.nki.profile(kernel, str(tmp_path))(a.copy()).result):
        np.testing.assert_array_equal(x.view(np.uint32), np.asarray(y).view(np.uint32))
