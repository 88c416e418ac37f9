"""nki.isa.topk, and the states of random generators, against NumPy."""

import ml_dtypes
import numpy as np
import pytest

import vtrn.nki
from vtrn.nki import isa as nisa, language as nl

rng = np.random.default_rng(3)


@vtrn.nki.jit
def largest(x, n, k):
    src = nl.load(x)
    values, places = nl.ndarray((x.shape[0], k), nl.bfloat16), nl.ndarray((x.shape[0], k), nl.uint32)
    nisa.topk(val_dst=values, idx_dst=places, src=src, n=n)
    out = nl.ndarray(values.shape, values.dtype, buffer=nl.shared_hbm)
    where = nl.ndarray(places.shape, places.dtype, buffer=nl.shared_hbm)
    nl.store(out, values)
    nl.store(where, places)
    return out, where


@pytest.mark.parametrize("rows, n, k", [(16, 42, 8), (128, 8, 1), (32, 100, 100), (48, 1000, 13), (128, 640, 64), (16, 40000, 20)])
def test_topk_finds_the_largest_of_each_16_partitions(rows, n, k):
    columns = -(-n // 16) + 1
    x = rng.standard_normal((rows, columns)).astype(ml_dtypes.bfloat16)  # of n elements many are equal
    x[0, 0], x[3, 0] = -np.inf, np.inf
    values, places = largest(x, n, k)
    for g in range(rows // 16):
        snake = x[16 * g:16 * (g + 1)].T.reshape(-1)[:n].astype(np.float32)
        want = np.argsort(-snake, kind="stable")[:k][::-1]
        for row in range(16 * g, 16 * (g + 1)):
            np.testing.assert_array_equal(places[row], want)
            np.testing.assert_array_equal(values[row].astype(np.float32), snake[want])


def test_topk_leaves_unwritten_elements_behind_n_alone():
    @vtrn.nki.jit
    def kernel(x):
        src = nl.ndarray((16, 3), nl.bfloat16)
        nisa.dma_copy(dst=src[:, 0:2], src=x[:, 0:2])
        nisa.dma_copy(dst=src[0:10, 2:3], src=x[0:10, 2:3])
        values, places = nl.ndarray((16, 8), nl.bfloat16), nl.ndarray((16, 8), nl.uint32)
        nisa.topk(values, places, src, 42)
        out = nl.ndarray(places.shape, places.dtype, buffer=nl.shared_hbm)
        nl.store(out, places)
        return out

    x = np.arange(48).reshape(3, 16).T.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(kernel(x), np.broadcast_to(np.arange(34, 42), (16, 8)))


@pytest.mark.parametrize("shape, n, k, text", [((16, 3), 49, 8, "at most 16 times the columns"), ((16, 3), 7, 1, "n is 8 to"),
                                               ((16, 3), 40, 41, "at most n"), ((24, 3), 40, 8, "a multiple of 16")])
def test_topk_refuses_what_the_page_forbids(shape, n, k, text):
    with pytest.raises(ValueError, match=text):
        largest(np.zeros(shape, ml_dtypes.bfloat16), n, k)
    with pytest.raises(TypeError, match="src is float32"):
        largest(np.zeros((16, 3), np.float32), 40, 8)


def xorwow(words, n):
    """n numbers of generators (Marsaglia 2003) whose states are rows of six words."""
    s, out = [w.copy() for w in words.T], []
    for _ in range(n):
        t = s[0] ^ (s[0] >> np.uint32(2))
        s[:4] = s[1:5]
        s[4] = s[4] ^ (s[4] << np.uint32(4)) ^ t ^ (t << np.uint32(1))
        s[5] = s[5] + np.uint32(362437)
        out.append(s[4] + s[5])
    return np.stack(out, 1), np.stack(s, 1)


def random_kernel(engine):
    @vtrn.nki.jit
    def kernel(seeds):
        words = nl.load(seeds)
        nisa.rand_set_state(words, engine=engine)
        results = []
        for columns in (5, 8):
            bits = nl.ndarray((128, columns), nl.uint32)
            nisa.rng(bits, engine=engine)
            results.append(bits)
        state = nl.ndarray(seeds.shape, nl.uint32)
        nisa.rand_get_state(state, engine=engine)
        results.append(state)
        nisa.rand_set_state(words, engine=engine)
        again = nl.ndarray((128, 5), nl.uint32)
        nisa.rng(again, engine=engine)
        results.append(again)
        out = []
        for tile in results:
            out.append(nl.ndarray(tile.shape, tile.dtype, buffer=nl.shared_hbm))
            nl.store(out[-1], tile)
        return tuple(out)

    return kernel


def test_the_generator_of_gpsimd_follows_its_state():
    seeds = rng.integers(0, 2**32, (128, 6), dtype=np.uint32)
    first, second, state, again = random_kernel(nisa.engine.gpsimd)(seeds)
    want, left = xorwow(seeds, 13)
    np.testing.assert_array_equal(np.concatenate([first, second], 1), want)
    np.testing.assert_array_equal(state, left)
    np.testing.assert_array_equal(again, first)


def test_vector_of_trainium3_has_four_generators(monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    seeds = rng.integers(0, 2**32, (128, 24), dtype=np.uint32)
    first, second, state, again = random_kernel(nisa.engine.vector)(seeds)
    lanes = [xorwow(seeds[:, 6 * g:6 * g + 6], 4)[0] for g in range(4)]
    # Each instruction begins with the first generator: 5 numbers are 2, 1, 1, 1 of the four, 8 are two of each.
    np.testing.assert_array_equal(first, np.stack([lanes[0][:, 0], lanes[1][:, 0], lanes[2][:, 0], lanes[3][:, 0], lanes[0][:, 1]], 1))
    np.testing.assert_array_equal(second, np.stack([lanes[0][:, 2], lanes[1][:, 1], lanes[2][:, 1], lanes[3][:, 1],
                                                    lanes[0][:, 3], lanes[1][:, 2], lanes[2][:, 2], lanes[3][:, 2]], 1))
    want = [xorwow(seeds[:, 6 * g:6 * g + 6], 4 if g == 0 else 3)[1] for g in range(4)]
    np.testing.assert_array_equal(state, np.concatenate(want, 1))
    np.testing.assert_array_equal(again, first)


def test_states_are_refused_where_there_are_none(monkeypatch):
    seeds = np.zeros((128, 24), np.uint32)
    with pytest.raises(vtrn.nki.NkiValidationError, match="Vector has it from NeuronCore-v4"):
        random_kernel(nisa.engine.vector)(seeds)
    with pytest.raises(vtrn.nki.NkiValidationError, match="6"):
        random_kernel(nisa.engine.gpsimd)(seeds)
    with pytest.raises(vtrn.nki.NkiValidationError, match="uint32"):
        random_kernel(nisa.engine.gpsimd)(np.zeros((128, 6), np.int32))
