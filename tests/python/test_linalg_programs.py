"""Programs with linear algebra: saved and loaded, mutated, and what they cost on the chip's clock."""

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
import capi
import jax
import jax.numpy as jnp
from jax._src.lax import linalg
from linalg_oracle import rng_of
from test_custom_ops import try_mutants


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=1)
    yield d
    d.close()


CASES = {
    "Qr": linalg.geqrf,
    "ProductOfElementaryHouseholderReflectors": lambda a: linalg.householder_product(a, a[0]),
    "vtrn.eig": lambda a: linalg.eig(a, compute_left_eigenvectors=True),
    "vtrn.eigh": linalg.eigh,
    "vtrn.hessenberg": linalg.hessenberg,
    "vtrn.lu": linalg.lu,
    "vtrn.qr_pivoted": lambda a: linalg.geqp3(a, jnp.zeros(a.shape[-1], jnp.int32)),
    "vtrn.reflections_apply": lambda a: linalg.ormqr(a, a[0], a[:, :4]),
    "vtrn.schur": linalg.schur,
    "vtrn.svd": linalg.svd,
    "vtrn.tridiagonal": linalg.tridiagonal,
    "vtrn.tridiagonal_solve": lambda a: linalg.tridiagonal_solve(a[0], a[1], a[2], a),
    "stablehlo.cholesky": lambda a: linalg.cholesky(a @ a.T),
    "stablehlo.triangular_solve": lambda a: linalg.triangular_solve(a, a, left_side=True),
}


def compile_case(device, f, x):
    exported = jax.export.export(jax.jit(f), platforms=["neuron"])(x)
    return device.compile(exported.mlir_module_serialized)


@pytest.mark.parametrize("name", CASES)
def test_a_saved_program_computes_the_same_and_its_mutants_are_harmless(name, device, tmp_path):
    rng = rng_of(name)
    x = rng.standard_normal((6, 6)).astype(np.float32)
    good = compile_case(device, CASES[name], x)
    results = good(x)
    for a, b in zip(results, device.load(good.program())(x.ravel()), strict=True):
        assert a.tobytes() == b.tobytes()
    n_refused, n_run = try_mutants(device, good, x, rng, tmp_path)
    assert n_refused > 50 and n_run > 5


@pytest.mark.parametrize("name, f", {
    **{name: f for name, f in CASES.items() if name not in ("vtrn.tridiagonal_solve", "vtrn.reflections_apply")},
    "singular values": lambda a: linalg.svd(a, compute_uv=False),
    "thin": lambda a: linalg.svd(a[:, 1:], full_matrices=False),
}.items())  # fmt: skip
def test_exported_with_open_sizes_it_computes_the_same(name, f):
    """One export for all sizes: batches and matrices have theirs when the program is called."""
    over_batch = jax.jit(jax.vmap(f))
    x = jax.device_put(rng_of(name).standard_normal((3, 5, 5)).astype(np.float32), jax.devices("neuron")[0])
    args = jax.export.symbolic_args_specs((jax.ShapeDtypeStruct(x.shape, x.dtype),), ("b, n, n",))
    exported = jax.export.deserialize(jax.export.export(over_batch, platforms=["neuron"])(*args).serialize())
    for got, want in zip(jax.tree.leaves(exported.call(x)), jax.tree.leaves(over_batch(x)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["vtrn.eigh", "vtrn.svd", "vtrn.lu"])
def test_time_grows_as_the_cube_of_the_size(name, device):
    times = []
    for n in (256, 512):
        a = np.eye(n, dtype=np.float32)
        executable = compile_case(device, lambda a, f=CASES[name]: f(a), a)
        executable(a)
        times.append(executable.profile().step_ns)
    assert times[1] > 4 * times[0]


def test_a_program_written_for_jax_on_the_cpu_is_refused_with_the_remedy(device):
    with jax.default_device(jax.devices("cpu")[0]):
        exported = jax.export.export(jax.jit(linalg.eigh), platforms=["cpu"])(np.eye(3, dtype=np.float32))
    with pytest.raises(capi.VtrnError, match="lapack_ssyevd_ffi.*vtrn package installed"):
        device.compile(exported.mlir_module_serialized)
