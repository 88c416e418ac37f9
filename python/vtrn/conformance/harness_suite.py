"""The primitive harnesses that come with JAX: each primitive over its types and shapes, the chip
against JAX on the CPU. A unit is a group of them, most often one primitive."""

import hashlib
import os

import numpy as np

from vtrn.conformance import compare
from vtrn.conformance.worker import Skip

NEEDS_PATH, SAMPLES = False, True
LEAST, SHARE = 3, 24  # cases of a primitive in sample()


def load():
    os.environ.setdefault("JAX_PLATFORMS", "neuron,cpu")
    import jax

    jax.config.update("jax_enable_x64", True)
    from jax._src.internal_test_util import test_harnesses

    return test_harnesses.all_harnesses


def units(path):
    return list(dict.fromkeys(h.group_name for h in load()))


def canonical_columns(vectors):
    """Columns of a factor are known but for a phase: that of the largest element becomes 1."""
    vectors = np.asarray(vectors)
    if vectors.ndim < 2 or not vectors.size:
        return vectors
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(-2)[..., None, :], -2)
    size = np.abs(largest)
    return (vectors * np.where(size > 0, np.conj(largest) / np.where(size > 0, size, 1), 1)).astype(vectors.dtype)


# Where a result is known but for the sign or phase of its columns, and the error grows with the matrix.
FACTORS = {"eigh", "svd", "schur", "qr"}
FACTOR = 100  # more error than elsewhere is allowed


def check_factors_of_svd(a, s, u, vh):
    """Vectors of singular values have phases in common, and those of none are any basis: what they are for."""
    k = s.shape[-1]
    compare.check_same((u[..., :k] * s[..., None, :].astype(u.dtype)) @ vh[..., :k, :], a, "u s vh", FACTOR)
    for what, rows in (("u", np.swapaxes(u.conj(), -1, -2)), ("vh", vh)):
        gram = rows @ np.swapaxes(rows.conj(), -1, -2)
        one = np.broadcast_to(np.eye(rows.shape[-2], dtype=gram.dtype), gram.shape)
        compare.check_same(gram, one, f"{what} times its adjoint", FACTOR)


def in_order_of(got, want):
    """Eigenvalues come in any order: each of got where the nearest of want is."""
    ordered = np.empty_like(got)
    for row in np.ndindex(got.shape[:-1]):
        left = got[row]
        for i, target in enumerate(want[row]):
            nearest = np.abs(left - target).argmin()
            ordered[row][i], left = left[nearest], np.delete(left, nearest)
    return ordered


def check_eigenvectors(a, w, vectors, params):
    """What makes them eigenvectors of a: left ones are right ones of its adjoint."""
    kinds = [is_left for is_left in (True, False)
             if params["compute_left_eigenvectors" if is_left else "compute_right_eigenvectors"]]  # fmt: skip
    for is_left, v in zip(kinds, vectors, strict=True):
        of, values = (np.swapaxes(a.conj(), -1, -2), w.conj()) if is_left else (a, w)
        compare.check_same((of @ v).astype(v.dtype), v * values[..., None, :], "a v", FACTOR)
        size = np.linalg.norm(v, axis=-2)
        compare.check_same(size, np.ones_like(size), "length of an eigenvector", FACTOR)


def with_equals_in_order(operands, params):
    """What a sort that need not be stable gives, with the operands of equal keys in an order of their own."""
    order = np.lexsort(operands[::-1], axis=params["dimension"])
    return [*operands[: params["num_keys"]],
            *(np.take_along_axis(o, order, params["dimension"]) for o in operands[params["num_keys"] :])]


def for_the_cpu(args, params):
    """XLA's CPU multiplies in the operands' type where a wider one is asked for: give it operands of that."""
    wide = params.get("preferred_element_type")
    if wide is None or np.dtype(wide).kind not in "fc":
        return args
    is_narrow = [np.asarray(a).dtype.kind == np.dtype(wide).kind and np.asarray(a).dtype.itemsize < np.dtype(wide).itemsize for a in args]
    return [np.asarray(a).astype(wide) if narrow else a for a, narrow in zip(args, is_narrow)]


def run_one(harness):
    import jax

    if not harness.filter("cpu"):
        raise Skip("JAX has it not on the CPU either")
    args = harness.dyn_args_maker(np.random.RandomState(0))
    results = []
    for platform in ("cpu", "neuron"):
        with jax.default_device(jax.local_devices(backend=platform)[0]):
            own = for_the_cpu(args, harness.params) if platform == "cpu" else args
            placed = jax.device_put(own, jax.local_devices(backend=platform)[0])
            results.append(jax.tree.leaves(jax.jit(harness.dyn_fun)(*placed)))
    assert len(results[0]) == len(results[1])
    if harness.group_name == "svd" and len(results[0]) == 3:
        check_factors_of_svd(np.asarray(args[0]), *(np.asarray(r) for r in results[1]))
        results = [r[:1] for r in results]
    if harness.group_name == "eig":
        w = np.asarray(results[1][0])
        check_eigenvectors(np.asarray(args[0]), w, [np.asarray(r) for r in results[1][1:]], harness.params)
        want = np.asarray(results[0][0])
        compare.check_same(in_order_of(w, want), want, "eigenvalues", FACTOR)
        return
    if harness.group_name == "approx_top_k":  # of equal values, any may be taken
        values, places = (np.asarray(r) for r in results[1])
        np.testing.assert_array_equal(np.take_along_axis(np.asarray(args[0]), places, -1), values)
        assert all(len(set(row)) == len(row) for row in places.reshape(-1, places.shape[-1]))
        results = [r[:1] for r in results]
    if harness.group_name == "sort" and not harness.params["is_stable"] and len(results[0]) > 1:
        results = [with_equals_in_order([np.asarray(o) for o in r], harness.params) for r in results]
    is_factor = harness.group_name in FACTORS
    for i, (want, got) in enumerate(zip(*results)):
        if jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key):
            want, got = jax.random.key_data(want), jax.random.key_data(got)
        if is_factor:
            want, got = canonical_columns(want), canonical_columns(got)
        if harness.group_name == "cholesky":  # above the diagonal JAX's CPU has what LAPACK leaves there
            want, got = np.tril(want), np.tril(got)
        compare.check_same(got, want, f"result {i}", factor=FACTOR if is_factor else 1)


def sample():
    """Of each primitive LEAST cases, or all it has, and one in SHARE of a primitive that has many: the scatters alone
    are more than half of all. The same ones each time, wherever they stand in JAX's list."""
    of = {}
    for harness in load():
        of.setdefault(harness.group_name, []).append(harness)
    for cases in of.values():
        cases.sort(key=lambda h: hashlib.sha256(h.name.encode()).digest())
    return [h for cases in of.values() for h in cases[: max(LEAST, len(cases) // SHARE)]]


def harnesses_of(unit):
    """Of a primitive; or "#k/n": every nth of all, from the kth (1..n); or "sample k/n": every nth of the sample."""
    if unit.startswith("sample "):
        k, n = (int(x) for x in unit.removeprefix("sample ").split("/"))
        return sample()[k - 1::n]
    if not unit.startswith("#"):
        return [h for h in load() if h.group_name == unit]
    k, n = (int(x) for x in unit[1:].split("/"))
    return load()[k - 1::n]


def run(path, unit, report):
    for harness in report.left(harnesses_of(unit), lambda h: h.name):
        report.run(harness.name, lambda: run_one(harness))
