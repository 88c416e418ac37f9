"""Kernels that chance writes: the program must give the bits that the kernel gave while it was written."""

import random

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as old_nki  # noqa: E402
import neuronxcc.nki.isa as old_nisa  # noqa: E402
import neuronxcc.nki.language as old_nl  # noqa: E402
import nki  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402

# Of 128 partitions: whole tiles below the elements from which on instructions are queued and carried out by threads
# (LEAST_ELEMENTS in src/nki/nki_queue.c), and whole tiles above, parts of which are below.
FEW_COLUMNS, MANY_COLUMNS = 32, 160
N_PRODUCT = 32  # columns of a matmul's operands


def part(r, n_columns):
    """(Partitions, columns) of a tile, and columns as many elsewhere in it."""
    width = r.choice([n_columns, n_columns // 2, n_columns - 1, 5])
    rows = r.choice([slice(0, 128), slice(0, 128), slice(0, 64), slice(64, 128), slice(32, 64)])
    first, other, third = (r.choice([0, r.randint(0, n_columns - width)]) for _ in range(3))
    return [(rows, slice(c, c + width)) for c in (first, other, third)]


def second_generation(r, n_columns):
    @nki.jit
    def kernel(a, b):
        tiles = [nl.ndarray((128, n_columns), kind, buffer=nl.sbuf) for kind in (nl.float32, nl.float32, nl.bfloat16)]
        outs = [nl.ndarray((128, n_columns), nl.float32, buffer=nl.shared_hbm) for _ in range(2)]
        scratch = nl.ndarray((128, n_columns), nl.float32, buffer=nl.private_hbm)
        sums = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
        rows = nl.ndarray((128, 1), nl.int32, buffer=nl.sbuf)
        nisa.iota(rows, [[1, 1]], offset=0, channel_multiplier=1)
        nisa.memset(sums, 0.5)
        nisa.dma_copy(scratch, b)
        for x, source in zip(tiles, (a, b, a)):
            nisa.dma_copy(x, source)
        for call in r.choices(range(11), k=25):
            to, at, by = part(r, n_columns)
            x, y, z = r.choice(tiles), r.choice(tiles), r.choice(tiles)
            if call == 0:
                nisa.dma_copy(x[to], r.choice([a, b, scratch])[at])
            elif call == 1:
                nisa.dma_copy(r.choice([*outs, scratch, a])[to], x[at])
            elif call in (2, 3):
                nisa.tensor_tensor(x[to], y[at], z[by], r.choice([nl.add, nl.maximum]), engine=r.choice([nisa.engine.unknown, nisa.engine.gpsimd]))
            elif call == 4:
                nisa.tensor_copy(x[to], y[at], engine=r.choice([nisa.engine.vector, nisa.engine.scalar]))
            elif call == 5:
                nisa.activation(x[to], nl.tanh, y[at], scale=0.5)
            elif call == 6:
                nisa.memset(x[to], r.choice([0.0, 2.0]))
            elif call == 7:
                nisa.nc_matmul(sums[0:N_PRODUCT, 0:N_PRODUCT], tiles[0][:, 0:N_PRODUCT], tiles[1][:, 0:N_PRODUCT], accumulate=r.choice([None, False]))
            elif call == 8:
                nisa.tensor_copy(x[to], sums[at])
            elif call == 9:
                nisa.dma_copy(x, r.choice([b, scratch]).ap([[n_columns, 128], [1, n_columns]], vector_offset=rows))
            else:
                tiles[0] = nl.ndarray((128, n_columns), nl.float32, buffer=nl.sbuf)
                nisa.dma_copy(tiles[0], a)
        nisa.dma_copy(outs[0], tiles[0])
        nisa.dma_copy(outs[1], tiles[1])
        nisa.dma_copy(outs[1][:, 0:7], tiles[2][:, 9:16])
        return outs[0], outs[1], a

    return kernel


def first_generation(r, n_columns):
    def kernel(a, b):
        blocks = old_nl.ndarray((3, old_nl.par_dim(128), n_columns), old_nl.float32, buffer=old_nl.sbuf)
        tiles = [old_nl.ndarray((old_nl.par_dim(128), n_columns), kind, buffer=old_nl.sbuf)
                 for kind in (old_nl.float32, old_nl.bfloat16, old_nl.uint8)]
        tiles.append(old_nl.zeros((old_nl.par_dim(128), n_columns), old_nl.float32, buffer=old_nl.sbuf))
        outs = [old_nl.ndarray((128, n_columns), old_nl.float32, buffer=old_nl.shared_hbm) for _ in range(2)]
        scratch = old_nl.ndarray((128, n_columns), old_nl.float32, buffer=old_nl.hbm)
        sums = old_nl.zeros((old_nl.par_dim(N_PRODUCT), N_PRODUCT), old_nl.float32, buffer=old_nl.psum)
        blocks[0] = old_nl.load(a)
        kept = [old_nl.load(b)]
        for call in r.choices(range(9), k=25):
            to, at, by = part(r, n_columns)
            x, y, z = (r.choice([*tiles, *(blocks[i] for i in range(3)), *kept]) for _ in range(3))
            mask = r.choice([None, None, old_nl.arange(at[1].stop - at[1].start)[None, :] < 3])
            if call == 0:
                x[to] = old_nl.load(r.choice([a, b, scratch])[at], mask=mask)
            elif call == 1:
                old_nl.store(r.choice([*outs, scratch, a])[to], x[at], mask=mask)
            elif call in (2, 3):
                kept.append(old_nl.add(y[at], z[by], mask=mask))
                x[to] = kept.pop()
            elif call == 4:
                x[to] += y[at]
            elif call == 5:
                x[to] = old_nisa.activation(old_nl.square, y[at], scale=0.5, dtype=r.choice([None, x.dtype]))
            elif call == 6:
                x[to] = y[at]
            elif call == 7:
                sums += old_nl.matmul(blocks[0][:, 0:N_PRODUCT], blocks[1][:, 0:N_PRODUCT], transpose_x=True)
                x[0:N_PRODUCT, 0:N_PRODUCT] = sums
            else:
                kept[0] = old_nl.load(a)
                blocks[r.randrange(3)] = kept[0]
        for i, x in enumerate((blocks[0], tiles[0], blocks[1], tiles[1], tiles[2])):
            old_nl.store(outs[i % 2][:, 0:n_columns - 6 * (i // 2)], x[:, 6 * (i // 2):n_columns])
        return outs[0], outs[1], a

    chosen = old_nki.jit(kernel)
    return old_nki.compiler.skip_middle_end_transformations(chosen) if r.random() < 0.3 else chosen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chip, make", [("trn1", first_generation), ("trn2", first_generation), ("trn2", second_generation),
                                        ("trn3", second_generation)])
def test_programs_give_the_bits_of_their_kernels(tmp_path, monkeypatch, chip, make):
    monkeypatch.setenv("VTRN_CHIP", chip)
    for seed in range(40):
        n_columns = FEW_COLUMNS if seed % 3 else MANY_COLUMNS
        g = np.random.default_rng(seed)
        a, b = (g.standard_normal((128, n_columns)).astype(np.float32) for _ in range(2))
        want = [np.array(v) for v in make(random.Random(seed), n_columns)(a.copy(), b)]
        found = vtrn.nki.profile(make(random.Random(seed), n_columns), str(tmp_path))(a.copy(), b).result  # the program's bits are compared
        assert all(np.array(x).tobytes() == y.tobytes() for x, y in zip(found, want)), seed
