"""Scans, statistics, searches, moves and random numbers of the engines, against NumPy."""

import numpy as np
import pytest

import engine_harness as h
from engine_harness import DTYPES, Machine, dense, random_operand
from test_engine_vector import FP32_OPS, f32, level, same, to_dtype, values  # noqa: F401

pytestmark = pytest.mark.skipif(h.lib is None, reason="the C tests are not built")


@pytest.mark.parametrize("op0,op1", [("multiply", "add"), ("add", "max"), ("none", "add"),
                                     ("subtract", "multiply"), ("max", "logical_or")])
@pytest.mark.parametrize("t", ["fp32", "bf16"])
def test_scan_feeds_each_result_to_the_next(op0, op1, t, rng, level):
    m = Machine()
    d, x, y = (random_operand(rng, t, 5, 1500, k * 64 * 1024, k > 0) for k in range(3))
    m.write(x, rng.uniform(-1, 1, (5, 1500)))
    m.write(y, rng.uniform(-1, 1, (5, 1500)))
    a, b = f32(m.read(x)), f32(m.read(y))
    last, want = np.full(5, 0.75, np.float32), np.empty((5, 1500), np.float32)
    for i in range(1500):
        t0 = a[:, i] if op0 == "none" else f32(FP32_OPS[op0](a[:, i], last))
        last = want[:, i] = f32(FP32_OPS[op1](t0, b[:, i]))
    m.run("tensor_tensor_scan", d, x, y, op0=op0, op1=op1, imm=(0.75, 0.0))
    same(m.read(d), to_dtype(want, t))


@pytest.mark.parametrize("size", [1, 2, 77, 512])
def test_bn_stats_then_bn_aggr_give_mean_and_variance(size, rng):
    m = Machine()
    x = random_operand(rng, "bf16", 100, size, 64 * 1024)
    stats, out = dense("fp32", 100, 6), dense("fp32", 100, 2, 4096)
    m.write(x, rng.standard_normal((100, size)) + 3)
    a = m.read(x).astype(np.float64)
    m.run("bn_stats", stats, x)
    got = m.read(stats)
    for k, part in enumerate((a[:, ::2], a[:, 1::2])):
        count = part.shape[1]
        assert (got[:, 3 * k] == count).all()
        if count:
            np.testing.assert_allclose(got[:, 3 * k + 1], part.mean(1), rtol=1e-6)
            np.testing.assert_allclose(got[:, 3 * k + 2], part.var(1) * count, rtol=1e-6,
                                       atol=1e-9)
    m.run("bn_aggr", out, stats)
    np.testing.assert_allclose(m.read(out)[:, 0], a.mean(1), rtol=1e-6)
    np.testing.assert_allclose(m.read(out)[:, 1], a.var(1), rtol=2e-6, atol=1e-9)


def test_bn_aggr_merges_groups_of_any_number(rng):
    m = Machine()
    a = rng.standard_normal((9, 800, 4))
    triples = np.stack([np.full((9, 800), 4.0), a.mean(2), a.var(2) * 4], 2).reshape(9, 2400)
    x, out = dense("fp32", 9, 2400, 64 * 1024), dense("fp32", 9, 2)
    m.write(x, triples)
    m.run("bn_aggr", out, x)
    flat = a.reshape(9, -1)
    np.testing.assert_allclose(m.read(out), np.stack([flat.mean(1), flat.var(1)], 1), rtol=1e-5)


@pytest.mark.parametrize("size", [8, 9, 1000, 16384])
@pytest.mark.parametrize("distinct", [3, 100000])
def test_searches_follow_the_tie_rules(size, distinct, rng):
    m = Machine()
    t = "fp32"
    x = random_operand(rng, t, 6, size, 64 * 1024) if size < 5000 else dense(t, 6, size, 64 * 1024)
    m.write(x, rng.integers(0, distinct, (6, size)))
    a = m.read(x)
    top, index = dense(t, 6, 8), dense("uint16", 6, 8, 512)
    m.run("max8", top, x)
    best = np.sort(a, axis=1)[:, ::-1][:, :8]
    same(m.read(top), best)
    looked = best.copy()
    looked[:, 5] = -1  # is nowhere
    m.write(top, looked)
    m.run("find_index8", index, x, top)
    want, replaced = np.empty((6, 8), np.uint16), a.copy()
    for r in range(6):
        taken = set()
        for j in range(8):
            hits = [i for i in np.flatnonzero(a[r] == looked[r, j]) if i not in taken]
            want[r, j] = hits[0] if hits else 0xFFFF
            if hits:
                taken.add(hits[0])
                replaced[r, hits[0]] = -9.5
    same(m.read(index), want)
    d = dense(t, 6, size, 128 * 1024) if size < 5000 else x
    m.run("match_replace8", d, x, top, imm=(-9.5, 0.0))
    same(m.read(d), replaced)


@pytest.mark.parametrize("t", ["fp32", "bf16", "uint8"])
@pytest.mark.parametrize("shape", [(32, 32), (7, 20), (1, 32)])
def test_transpose32_turns_rows_into_columns(t, shape, rng):
    m = Machine()
    p, f = shape
    x = random_operand(rng, t, p, f, 64 * 1024, partition=32)
    d = random_operand(rng, t, f, p, 0, is_source=False, partition=96)
    m.write(x, values(rng, t, shape))
    want = m.read(x).T
    m.run("transpose32", d, x, n_threads=2)
    assert m.read(d).tobytes() == np.ascontiguousarray(want).tobytes()
    if p == f:
        square = dense(t, 32, 32, 1024)
        m.write(square, values(rng, t, shape))
        want = m.read(square).T
        m.run("transpose32", square, square)
        assert m.read(square).tobytes() == np.ascontiguousarray(want).tobytes()


def test_stream_shuffle_permutes_each_quadrant_and_keeps_255(rng):
    m = Machine()
    mask = rng.integers(0, 32, 32)
    mask[[3, 17]] = 255
    x = random_operand(rng, "bf16", 128, 3000, 64 * 1024)
    d = random_operand(rng, "bf16", 128, 3000, 0, is_source=False)
    for src, dst in ((x, d), (d, d)):
        m.write(src, values(rng, "bf16", (128, 3000)))
        a, want = m.read(src), m.read(dst)
        for r in range(128):
            if mask[r % 32] != 255:
                want[r] = a[r // 32 * 32 + mask[r % 32]]
        m.run("stream_shuffle", dst, src, shuffle=[int(v) for v in mask])
        assert m.read(dst).tobytes() == want.tobytes()


def xorshift(state):
    mask = (1 << 64) - 1
    state ^= state << 13 & mask
    state ^= state >> 7
    state ^= state << 17 & mask
    return state


def splitmix(x):
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def test_random_bits_follow_the_seed_and_not_the_threads(rng):
    m = Machine()
    seed, d = dense("uint32", 1, 1, 4096), dense("uint32", 128, 50)
    m.write(seed, [[1234]])
    results = []
    for n_threads in (1, 4):
        m.run("set_rng_seed", None, seed, n_threads=n_threads)
        m.run("rng", d, n_threads=n_threads)
        results.append(m.read(d))
    assert np.array_equal(*results)
    for p in (0, 77):
        state = splitmix(1234 << 32 | p)
        for i in range(50):
            state = xorshift(state)
            assert results[0][p, i] == state >> 32
    narrow = dense("uint8", 128, 50)
    m.run("set_rng_seed", None, seed)
    m.run("rng", narrow)
    assert np.array_equal(m.read(narrow), results[0].astype(np.uint8))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_zeroes_that_share(p, rng):
    m = Machine()
    x, d = dense("bf16", 128, 1000, 64 * 1024), dense("bf16", 128, 1000)
    m.write(x, rng.uniform(1, 2, (128, 1000)))
    m.run("dropout", d, x, imm=(p, 0.0), n_threads=2)
    y, a = f32(m.read(d)), f32(m.read(x))
    assert ((y == 0) | (y == a)).all()
    assert abs((y == 0).mean() - p) < 6 * np.sqrt(p * (1 - p) / y.size) + 1e-12


def test_stochastic_rounding_has_the_right_mean(rng):
    m = Machine()
    x, d = dense("fp32", 128, 1000, 64 * 1024), dense("bf16", 128, 1000)
    m.write(x, np.full((128, 1000), 1 + 0.25 / 128))
    m.run("tensor_copy", d, x, flags=h.STOCHASTIC)
    y = f32(m.read(d))
    assert set(np.unique(y)) == {1.0, 1 + 1 / 128}
    assert abs((y > 1).mean() - 0.25) < 0.01


def test_bad_shapes_are_refused():
    m = Machine()
    f = lambda n, s, a=0: dense("fp32", n, s, a)  # noqa: E731
    cases = [
        ("bn_stats", (f(4, 6), f(4, 513, 64)), {}),
        ("bn_aggr", (f(4, 2), f(4, 7, 64)), {}),
        ("max8", (f(4, 8), f(4, 7, 64)), {}),
        ("find_index8", (f(4, 8), f(4, 70, 64), f(4, 9, 9000)), {}),
        ("transpose32", (f(4, 33), f(33, 4, 4096)), {}),
        ("stream_shuffle", (f(32, 4), f(32, 4, 64)), {"shuffle": [32] * 32}),
        ("set_rng_seed", (None, f(2, 1)), {}),
        ("tensor_tensor_scan", (f(4, 4), f(4, 4), f(4, 4)), {"op0": "bitwise_and"}),
    ]
    for name, operands, kw in cases:
        with pytest.raises(RuntimeError):
            m.run(name, *operands, **kw)


@pytest.mark.parametrize("runs,length", [(16, 64), (20, 96), (3, 1000), (5, 33)])
def test_rows_of_runs_are_as_rows_that_are_dense(runs, length, rng, level):
    """Halves of heads: each row has runs at a distance, one operand repeats its run, another is dense, one is the result."""
    m = Machine()
    n = runs * length
    x = h.Operand("fp32", 40, [(2 * length, runs), (1, length)], addr=4 * length)
    y = h.Operand("fp32", 40, [(0, runs), (1, length)], addr=64 * 1024)
    d, z, s = x, dense("fp32", 40, n, 96 * 1024), dense("fp32", 40, 1, 128 * 1024)

    def fill():
        for o, size in ((x, n), (z, n), (s, 1)):
            m.write(o, f32(rng.standard_normal((40, size))))
        m.write(y, np.tile(f32(rng.standard_normal((40, length))), runs))
        return [m.read(o) for o in (x, y, z, s)]

    for n_threads in (1, 2):
        a, b, c, number = fill()
        m.run("tensor_tensor", d, x, y, op0="multiply", n_threads=n_threads)
        same(m.read(d), a * b)
        m.run("tensor_tensor", z, d, z, op0="subtract", n_threads=n_threads)
        same(m.read(z), a * b - c)
        a, b, c, number = fill()
        m.run("tensor_scalar", d, x, s, op0="subtract", op1="multiply", imm=(0.0, 0.5), n_threads=n_threads)
        same(m.read(d), f32(a - number) * np.float32(0.5))
        a, b, c, number = fill()
        m.run("scalar_tensor_tensor", d, z, s, x, op0="multiply", op1="add", n_threads=n_threads)
        same(m.read(d), f32(c * number) + a)
        a, b, c, number = fill()
        m.run("activate", d, y, s, engine="S", func="copy", imm=(0.0, 0.25), n_threads=n_threads)
        same(m.read(d), f32(b * number) + np.float32(0.25))
