"""The primitive harnesses that come with JAX: each primitive over its types and shapes, the chip
against JAX on the CPU. A unit is a group of them, most often one primitive."""

import os

import numpy as np

from vtrn.conformance import compare
from vtrn.conformance.worker import Skip

NEEDS_PATH = False


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
FACTORS = {"eigh", "svd", "eig", "schur", "qr"}


def run_one(harness):
    import jax

    if not harness.filter("cpu"):
        raise Skip("JAX has it not on the CPU either")
    args = harness.dyn_args_maker(np.random.RandomState(0))
    results = []
    for platform in ("cpu", "neuron"):
        with jax.default_device(jax.local_devices(backend=platform)[0]):
            placed = jax.device_put(args, jax.local_devices(backend=platform)[0])
            results.append(jax.tree.leaves(jax.jit(harness.dyn_fun)(*placed)))
    assert len(results[0]) == len(results[1])
    is_factor = harness.group_name in FACTORS
    for i, (want, got) in enumerate(zip(*results)):
        if jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key):
            want, got = jax.random.key_data(want), jax.random.key_data(got)
        if is_factor:
            want, got = canonical_columns(want), canonical_columns(got)
        compare.check_same(got, want, f"result {i}", factor=100 if is_factor else 1)


def run(path, unit, report):
    for harness in load():
        if harness.group_name == unit:
            report.run(harness.name, lambda: run_one(harness))
