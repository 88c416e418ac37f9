"""Turns of loops that become one instruction: the program must give the bits that the kernel gave turn by turn."""

import random

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402
import neuronxcc.nki.language as nl  # noqa: E402

WIDTH = 32  # columns of a turn


def profiled(tmp_path, kernel, *arrays):
    """What the kernel gives while it is written and what its program gives, as bits, and the program's instructions."""
    eager = [np.asarray(a) for a in kernel(*(a.copy() for a in arrays))]
    found = vtrn.nki.profile(kernel, str(tmp_path))(*(a.copy() for a in arrays))
    for a, b in zip(eager, found.result):
        np.testing.assert_array_equal(a.view(np.uint32), np.asarray(b).view(np.uint32))
    return found.n_instructions


def random_kernel(r, n_turns):
    """A loop whose turns name tiles of their own, parts of shared ones that follow each other, and parts that overlap the
    next turn's, so that some may run side by side and others may not."""
    steps = [(r.randrange(9), r.randrange(3), r.randrange(3), r.choice([WIDTH, WIDTH, WIDTH, WIDTH // 2, 1, 0]), r.randrange(2))
             for _ in range(r.randint(3, 8))]

    @nki.jit
    def kernel(a, b):
        outs = [nl.ndarray((128, (n_turns + 2) * WIDTH), nl.float32, buffer=nl.shared_hbm) for _ in range(2)]
        shared = [nl.zeros((128, (n_turns + 2) * WIDTH), nl.float32) for _ in range(2)]
        columns = nl.zeros((128, n_turns + 2), nl.float32)
        for out in outs:
            nl.store(out, shared[0])
        for i in nl.affine_range(n_turns):
            tiles = [nl.load(a[:, i * WIDTH:(i + 1) * WIDTH]), nl.load(b[i * 128:(i + 1) * 128, :]), nl.load(b[0:128, :])]
            for kind, x, y, pitch, which in steps:
                at = slice(i * pitch, i * pitch + WIDTH)
                if kind == 0:
                    tiles[x] = nl.add(tiles[x], tiles[y])
                elif kind == 1:
                    shared[which][:, at] = nl.multiply(tiles[x], 0.5)
                elif kind == 2:
                    tiles[x] = nl.add(tiles[y], shared[which][:, at])
                elif kind == 3:
                    columns[:, i:i + 1] = nisa.tensor_reduce(nl.max, tiles[x], axis=1)
                elif kind == 4:
                    tiles[x] = nl.maximum(tiles[y], columns[:, i + which:i + which + 1])
                elif kind == 5:
                    nl.store(outs[which][:, at], tiles[x])
                elif kind == 6:
                    shared[which][:, at] += tiles[x]
                elif kind == 7:
                    product = nl.matmul(tiles[x], tiles[y], transpose_x=True)
                    shared[which][0:WIDTH, at] = nl.copy(product)
                else:
                    tiles[x] = nisa.activation(nl.tanh, tiles[y], bias=columns[:, i:i + 1])
        nl.store(outs[0][:, 0:n_turns + 2], columns)
        last = nl.ndarray((128, (n_turns + 2) * WIDTH), nl.float32, buffer=nl.shared_hbm)
        nl.store(last, nl.add(shared[0], shared[1]))
        return outs[0], outs[1], last

    return kernel


@pytest.mark.parametrize("seed", range(60))
def test_random_loops(tmp_path, monkeypatch, seed):
    r = random.Random(seed)
    monkeypatch.setenv("VTRN_CHIP", r.choice(["trn1", "trn2"]))
    n_turns = r.choice([2, 3, 7, 8, 9, 17])
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((128, n_turns * WIDTH)).astype(np.float32)
    b = rng.standard_normal((n_turns * 128, WIDTH)).astype(np.float32)
    profiled(tmp_path, random_kernel(r, n_turns), a, b)


def test_loads_copies_and_reductions_of_turns_are_one(tmp_path):
    def make(turns):
        @nki.jit
        def kernel(a):
            out = nl.ndarray((128, 1024), nl.float32, buffer=nl.shared_hbm)
            most = nl.ndarray((128, 8), nl.float32, buffer=nl.shared_hbm)
            turned, peaks = nl.ndarray((128, 1024), nl.float32), nl.ndarray((128, 8), nl.float32)
            for i in turns(8):
                tile = nl.load(a[:, i * 128:(i + 1) * 128])
                turned[:, i * 128:(i + 1) * 128] = nisa.tensor_copy(nisa.nc_transpose(tile, engine=nisa.tensor_engine))
                peaks[:, i:i + 1] = nisa.tensor_reduce(nl.max, turned[:, i * 128:(i + 1) * 128], axis=1)
            nl.store(out, turned)
            nl.store(most, peaks)
            return out, most
        return kernel

    a = np.random.default_rng(1).standard_normal((128, 1024)).astype(np.float32)
    apart = profiled(tmp_path, make(nl.sequential_range), a)
    merged = profiled(tmp_path, make(nl.affine_range), a)
    assert apart - merged == 3 * (8 - 2)  # by fours, of which a bank of PSUM has the transposes


@pytest.mark.parametrize("columns, is_merged", [(1, False), (15, False), (16, True)])
def test_transfers_of_short_runs_stay_apart(tmp_path, columns, is_merged):
    def make(turns):
        @nki.jit
        def kernel(a):
            out = nl.ndarray(a.shape, nl.float32, buffer=nl.shared_hbm)
            for i in turns(8):
                nl.store(out[i], nl.load(a[i]))
            return out
        return kernel

    a = np.random.default_rng(2).standard_normal((8, 128, columns)).astype(np.float32)
    apart = profiled(tmp_path, make(nl.sequential_range), a)
    merged = profiled(tmp_path, make(nl.affine_range), a)
    assert (apart, merged) == (16, 2 if is_merged else 16)


def test_turns_that_do_not_fit_side_by_side_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.setenv("VTRN_CHIP", "trn1")

    @nki.jit
    def kernel(a):
        out = nl.ndarray((128, 8 * 16384), nl.float32, buffer=nl.shared_hbm)
        for i in nl.affine_range(8):
            tile = nl.load(a[:, i * 16384:(i + 1) * 16384])
            nl.store(out[:, i * 16384:(i + 1) * 16384], nl.add(tile, 1.0))
        return (out,)

    profiled(tmp_path, kernel, np.ones((128, 8 * 16384), np.float32))


def test_a_loop_may_be_left_and_zipped():
    @nki.jit
    def kernel(a):
        out = nl.ndarray((128, 256), nl.float32, buffer=nl.shared_hbm)
        for i, j in zip(nl.affine_range(8), nl.affine_range(8)):
            nl.store(out[:, i * 32:(i + 1) * 32], nl.add(nl.load(a[:, j * 32:(j + 1) * 32]), 1.0))
            if i == 5:
                break
        for i in nl.affine_range(6, 8):
            nl.store(out[:, i * 32:(i + 1) * 32], nl.load(a[:, i * 32:(i + 1) * 32]))
        return out

    a = np.random.default_rng(2).standard_normal((128, 256)).astype(np.float32)
    want = a + np.float32(1)
    want[:, 192:] = a[:, 192:]
    np.testing.assert_array_equal(kernel(a), want)
    np.testing.assert_array_equal(vtrn.nki.profile(kernel)(a).result, want)


def test_turns_of_a_sliding_window_stay_apart(tmp_path):
    def make(turns):
        @nki.jit
        def kernel(a):
            out = nl.ndarray((128, 64), nl.float32, buffer=nl.shared_hbm)
            row, sums = nl.load(a), nl.ndarray((128, 64), nl.float32)
            for i in turns(64):
                product = nisa.tensor_tensor(row[:, i:i + 3], row[:, 64:67], nl.multiply)
                sums[:, i:i + 1] = nisa.tensor_reduce(nl.add, product, axis=1)
            nl.store(out, sums)
            return (out,)
        return kernel

    a = np.random.default_rng(3).standard_normal((128, 67)).astype(np.float32)
    assert profiled(tmp_path, make(nl.sequential_range), a) == profiled(tmp_path, make(nl.affine_range), a)
