"""What the API pages of NKI's first generation say of reductions over loops, types, masks and axes; the judge is NumPy."""

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki as nki  # noqa: E402
import neuronxcc.nki.isa as nisa  # noqa: E402, F401
import neuronxcc.nki.language as nl  # noqa: E402
from vtrn.nki.errors import NkiTypeError  # noqa: E402

rng = np.random.default_rng(29)


def numbers(*shape):
    return rng.standard_normal(shape).astype(np.float32)


# -- nl.loop_reduce: "the destination tile is also the rhs input to op"


def stored_by_name(sums, x, op, i):
    sums = nl.loop_reduce(x, op=op, loop_indices=i, dtype=nl.float32)
    return sums


def stored_in_a_part(sums, x, op, i):
    sums[...] = nl.loop_reduce(x, op=op, loop_indices=[i], dtype=nl.float32)
    return sums


@pytest.mark.parametrize("store", [stored_by_name, stored_in_a_part])
@pytest.mark.parametrize("op", [np.add, np.maximum, np.minimum, np.multiply], ids=lambda op: op.__name__)
@pytest.mark.parametrize("begin", [None, 0.0, 0.5])
def test_a_reduction_over_a_loop_goes_on_from_its_destination(store, op, begin):
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape[1:], dtype=a.dtype, buffer=nl.shared_hbm)
        sums = nl.ndarray(a.shape[1:], dtype=nl.float32)
        if begin is not None:
            sums[...] = begin
        for i in nl.affine_range(a.shape[0]):
            sums = store(sums, nl.load(a[i]), op, i)
        nl.store(out, sums)
        return out

    a = numbers(5, 64, 33)
    want = op.reduce(a, axis=0)
    np.testing.assert_allclose(kernel(a), want if begin is None else op(want, np.float32(begin)), rtol=1e-5, atol=1e-5)


def test_a_reduction_over_a_loop_is_read_where_it_is_stored():
    @nki.jit
    def kernel(a):
        out = nl.ndarray(a.shape[1:], dtype=a.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(a.shape[0]):
            nl.store(out, nl.loop_reduce(nl.load(a[i]), op=np.add, loop_indices=[i]))
        return out

    with pytest.raises(NkiTypeError, match="would be one turn's operand; store it"):
        kernel(numbers(3, 64, 33))
