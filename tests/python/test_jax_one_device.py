"""What devices exchange, on one device: pmap, shard_map and their collectives give what they take."""

import capi
import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402
from jax._src.interpreters import mlir as jax_mlir  # noqa: E402
from jax.sharding import Mesh, PartitionSpec as P  # noqa: E402
from jaxlib.mlir import ir  # noqa: E402
from jaxlib.mlir.dialects import stablehlo  # noqa: E402

X = np.arange(12, dtype=np.float32).reshape(4, 3)

COLLECTIVES = {
    "psum": lambda x: lax.psum(x, "i"),
    "psum of several": lambda x: sum(lax.psum((x, 2 * x), "i")),
    "pmean": lambda x: lax.pmean(x, "i"),
    "pmax": lambda x: lax.pmax(x, "i"),
    "all_gather": lambda x: lax.all_gather(x, "i", tiled=True),
    "psum_scatter": lambda x: lax.psum_scatter(x, "i", tiled=True),
    "all_to_all": lambda x: lax.all_to_all(x, "i", 0, 1, tiled=True),
    "ppermute": lambda x: lax.ppermute(x, "i", [(0, 0)]),
    "ppermute from nowhere": lambda x: lax.ppermute(x, "i", []),
    "axis_index": lambda x: x + lax.axis_index("i"),
    "in a loop": lambda x: lax.fori_loop(0, 3, lambda k, v: lax.psum(v, "i") + k, x),
    "gradient": jax.grad(lambda x: (lax.psum(x, "i") ** 2).sum()),
}
WANT = {"psum of several": 3 * X, "ppermute from nowhere": 0 * X, "in a loop": X + 3, "gradient": 2 * X}


@pytest.mark.parametrize("is_reference", [False, True])
@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_of_one_device_gives_what_it_takes(name, is_reference):
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
    options = {"vtrn_reference_only": True} if is_reference else {}
    f = jax.shard_map(COLLECTIVES[name], mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=False)
    np.testing.assert_array_equal(jax.jit(f, compiler_options=options)(X), WANT.get(name, X))


def test_pmap_over_one_device_trains():
    @lambda step: jax.pmap(step, axis_name="i")
    def step(w, x):
        loss, g = jax.value_and_grad(lambda w: jnp.mean((x @ w) ** 2))(w)
        return w - 0.01 * lax.pmean(g, "i"), lax.pmean(loss, "i")

    w, losses = jnp.ones((1, 3, 2)), []
    for _ in range(3):
        w, loss = step(w, X[None])
        losses.append(float(loss[0]))
    assert losses[0] > losses[1] > losses[2]


PROGRAM = """func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = "stablehlo.collective_permute"(%x) {source_target_pairs = dense<PAIRS> : tensor<2x2xi64>,
    channel_handle = #stablehlo.channel_handle<handle = 0, type = 0>} : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32> }"""


def test_an_exchange_among_several_devices_is_refused():
    with jax_mlir.make_ir_context():
        module = str(ir.Module.parse(PROGRAM.replace("PAIRS", "[[0, 1], [1, 0]]")))
        artifact = stablehlo.serialize_portable_artifact_str(module, "1.15.0")
    device = capi.Device("trn1")
    with pytest.raises(capi.VtrnError, match="collective_permute.* among 2 devices: the program runs on one"):
        device.compile(artifact)
    device.close()


@pytest.mark.parametrize("start", ["psum_start", "all_gather_start", "ppermute_start", "psum_scatter_start"])
def test_asynchronous_collectives_give_what_they_are_waited_for(start):
    parallel = pytest.importorskip("jax._src.lax.parallel")
    if not hasattr(parallel, start) or jax.__version_info__ >= (0, 11):
        pytest.skip(f"this JAX has no {start}, or another one")
    more = {"ppermute_start": {"perm": [(0, 0)]}, "psum_scatter_start": {"tiled": True}}.get(start, {})
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = np.arange(33.0, dtype=np.float32)

    @jax.jit
    @jax.shard_map(out_specs=(jax.P("i"), jax.P("i")), check_vma=False)
    def f(v):
        future = getattr(parallel, start)(v, "i", **more)
        busy = v * 2 + 1
        return future.done().reshape(33), busy

    with jax.set_mesh(mesh):
        put = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P("i")))
        assert f.lower(put).compile().as_text() is None  # XLA's text has no such operations
        got, busy = f(put)
    np.testing.assert_array_equal(got, x)
    np.testing.assert_array_equal(busy, x * 2 + 1)


def test_what_is_kept_for_a_sink_is_in_the_compiled_text_and_changes_no_value():
    if not hasattr(jax.lax, "dce_sink"):
        pytest.skip("this JAX has no dce_sink")

    def f(v):
        jax.lax.dce_sink(v + 1, prevent_mlir_dce=True)
        return v * 2

    x = np.arange(5, dtype=np.float32)
    compiled = jax.jit(f).lower(x).compile()
    assert "dce_sink" in compiled.as_text() and "add" in compiled.as_text()
    np.testing.assert_array_equal(compiled(x), x * 2)
