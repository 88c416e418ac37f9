"""Functions of nki.isa that are several instructions here, against NumPy; and views that name dimensions."""

import numpy as np
import pytest

import vtrn.nki
from vtrn.nki import isa as nisa, language as nl

rng = np.random.default_rng(7)
A = rng.standard_normal((128, 48)).astype(np.float32)
S = rng.standard_normal((128, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def on_trn3(monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")


def load(x):
    tile = nl.ndarray(x.shape, x.dtype)
    nisa.dma_copy(dst=tile, src=x)
    return tile


def give(*tiles):
    out = []
    for t in tiles:
        out.append(nl.ndarray(t.shape, t.dtype, buffer=nl.shared_hbm))
        nisa.dma_copy(dst=out[-1], src=t)
    return tuple(out)


@pytest.mark.parametrize("op0, op1, r0, r1, want", [
    (nl.multiply, nl.add, False, False, lambda x, a, b: x * a + b),
    (nl.multiply, nl.add, True, True, lambda x, a, b: x * a + b),
    (nl.multiply, nl.subtract, False, False, lambda x, a, b: x * a - b),
    (nl.multiply, nl.subtract, False, True, lambda x, a, b: b - x * a),
    (nl.multiply, nl.bypass, False, False, lambda x, a, b: x * a),
    (nl.add, nl.bypass, False, False, lambda x, a, b: x + a),
    (nl.subtract, nl.bypass, False, False, lambda x, a, b: x - a),
    (nl.subtract, nl.bypass, True, False, lambda x, a, b: a - x),
    (nl.bypass, nl.bypass, False, False, lambda x, a, b: x),
])
@pytest.mark.parametrize("has_tiles", [False, True])
def test_activate2_scales_and_shifts_in_all_its_ways(op0, op1, r0, r1, want, has_tiles):
    @vtrn.nki.jit
    def kernel(x, s):
        x, s = load(x), load(s)
        a, b = (s, s) if has_tiles else (1.75, -0.5)
        d = nl.ndarray(x.shape, nl.float32)
        nisa.activate2(d, nl.tanh, x, a, b, op0, op1, reverse0=r0, reverse1=r1)
        return give(d)

    a, b = (S, S) if has_tiles else (np.float32(1.75), np.float32(-0.5))
    np.testing.assert_allclose(kernel(A, S)[0], np.tanh(want(A, a, b)), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("op, want", [(nl.add, lambda *x: sum(y.sum(1, keepdims=True) for y in x)),
                                      (nl.maximum, lambda *x: np.maximum(*(y.max(1, keepdims=True) for y in x))),
                                      (nl.minimum, lambda *x: np.minimum(*(y.min(1, keepdims=True) for y in x))),
                                      (nl.abs_max, lambda *x: np.maximum(*(np.abs(y).max(1, keepdims=True) for y in x)))])
def test_activate2_reduces_over_several_calls(op, want):
    @vtrn.nki.jit
    def kernel(x):
        x = load(x)
        d, r = nl.ndarray(x.shape, nl.float32), nl.ndarray((128, 1), nl.float32)
        nisa.activate2(d, nl.copy, x, 2.0, 0.0, nl.multiply, nl.bypass, reduce_op=op,
                       reduce_cmd=nisa.reduce_cmd.reset_reduce)
        nisa.activate2(d, nl.copy, x, 1.0, 0.0, nl.add, nl.bypass, reduce_op=op, reduce_res=r,
                       reduce_cmd=nisa.reduce_cmd.reduce)
        return give(r)

    np.testing.assert_allclose(kernel(A)[0], want(2 * A, A + 1), rtol=1e-5, atol=1e-4)


def test_activate2_refuses_what_the_engine_does_not_do():
    @vtrn.nki.jit
    def kernel(x, **how):
        x = load(x)
        nisa.activate2(x, nl.exp, x, 1.0, 1.0, **how)

    with pytest.raises(ValueError, match="the Scalar engine has multiply with add"):
        kernel(A, op0=nl.add, op1=nl.multiply)
    with pytest.raises(ValueError, match="reverse1 without"):
        kernel(A, op0=nl.add, op1=nl.bypass, reverse1=True)


def test_composed_functions_of_trainium3_are_refused_before_it(monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn2")

    @vtrn.nki.jit
    def kernel():
        nisa.rand2(nl.ndarray((128, 8), nl.float32), 0.0, 1.0)

    with pytest.raises(NotImplementedError, match="one of Trainium3's"):
        kernel()


@pytest.mark.parametrize("has_tiles", [False, True])
def test_rand2_is_uniform_between_its_limits(has_tiles):
    @vtrn.nki.jit
    def kernel(low, high):
        low, high = (load(low), load(high)) if has_tiles else (-2.0, 3.0)
        a, b = nl.ndarray((128, 512), nl.float32), nl.ndarray((128, 512), nl.float32)
        nisa.rand2(a, low, high)
        nisa.rand2(b, low, high)
        return give(a, b)

    limits = np.full((128, 1), -2, np.float32), np.full((128, 1), 3, np.float32)
    a, b = kernel(*limits)
    assert (a >= -2).all() and (a <= 3).all() and (a != b).mean() > 0.99
    counts = np.histogram(a, 10, (-2, 3))[0]
    assert (np.abs(counts - a.size / 10) < 5 * np.sqrt(a.size / 10)).all()


def bounds(ids):
    n = len(ids)
    start, end = np.full(n, n), np.full(n, -1)
    for i in np.flatnonzero(ids):
        start[i] = start[i - 1] if i and ids[i - 1] == ids[i] else i
    for i in np.flatnonzero(ids)[::-1]:
        end[i] = end[i + 1] if i + 1 < n and ids[i + 1] == ids[i] else i + 1
    return np.stack([start, end])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("ids", [[0, 1, 1, 2, 2, 2, 0, 3, 3], [5], [0], [1, 0, 0, 1], [0, 0, 7, 7], None])
def test_sequence_bounds(ids, dtype):
    ids = np.repeat(rng.integers(0, 5, 60), rng.integers(1, 9, 60)) if ids is None else np.array(ids)

    @vtrn.nki.jit
    def kernel(x):
        x = load(x)
        d = nl.ndarray((1, 2, x.shape[1]), x.dtype)
        nisa.sequence_bounds(d, x)
        return give(d)

    got = kernel(ids.astype(dtype)[None])[0]
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[0], bounds(ids))


def test_rearrange_splits_orders_and_merges_dimensions():
    @vtrn.nki.jit
    def kernel(x):
        t = nl.ndarray((128, 4, 6), nl.float32)
        nisa.dma_copy(dst=t, src=x)
        turned = nl.ndarray((128, 6, 4), nl.float32)
        nisa.tensor_copy(turned, t.rearrange(("p", "a", "b"), ("p", "b", "a")))
        split = x.rearrange(("p", ("a", "b")), (("p", "a"), "b"), {"b": 6})
        assert split.shape == (512, 6)
        assert x.rearrange((("q", "r"), "c"), ("q", "r", "c"), {"q": 2}).shape == (2, 64, 24)
        with pytest.raises(ValueError, match="each once"):
            x.rearrange(("p", "a"), ("p", "b"))
        return give(turned)

    x = rng.standard_normal((128, 24)).astype(np.float32)
    np.testing.assert_array_equal(kernel(x)[0], x.reshape(128, 4, 6).transpose(0, 2, 1))


def test_loop_reduce_joins_the_turns_of_a_loop():
    from vtrn.nki.beta1 import isa as old_isa, jit, language as old

    @jit
    def kernel(a, b):
        out = old.ndarray((128, 128), dtype=old.float32, buffer=old.shared_hbm)
        most = old.ndarray((128, 48), dtype=old.float32, buffer=old.shared_hbm)
        total, top = (old.ndarray((128, n), dtype=old.float32, buffer=old.sbuf) for n in (128, 48))
        for k in old.affine_range(3):
            part = old.zeros((128, 128), dtype=old.float32, buffer=old.psum)
            for c in old.affine_range(2):
                rows = slice((2 * k + c) * 128, (2 * k + c + 1) * 128)
                part += old_isa.nc_matmul(old.load(a[rows]), old.load(b[rows]))
            total[...] = old.loop_reduce(part, op=np.add, loop_indices=[k], dtype=old.float32)
            top[:, 0:48] = old.loop_reduce(old.load(a[k * 128:(k + 1) * 128, 0:48]), op=np.maximum, loop_indices=[k])
        old.store(out, total)
        old.store(most, top)
        return out, most

    a, b = (rng.standard_normal((768, 128)).astype(np.float32) for _ in range(2))
    got, most = kernel(a, b)
    np.testing.assert_allclose(got, a.T @ b, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(most, a[:384, :48].reshape(3, 128, 48).max(0))
