"""Programs over 8 NeuronCores, each run on 8 devices of JAX's CPU too. Run by test_jax_many_cores.py in
a process of its own: as many CPU devices must be asked for before JAX starts. Prints a JSON object:
case -> "" or what went wrong."""

import json
import pathlib
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

N = 8
CASES = {}


def case(f):
    CASES[f.__name__] = f
    return f


def devices(platform, n=N):
    return np.array(jax.devices(platform)[:n])


def mesh(platform, shape=(4, 2), names=("x", "y")):
    return Mesh(devices(platform, int(np.prod(shape))).reshape(shape), names)


def compare(make, *args, rtol=1e-6, bits=False):
    """make(platform) gives the function that is to do the same on both."""
    got, want = (jax.tree.leaves(jax.tree.map(np.asarray, make(p)(*args))) for p in ("neuron", "cpu"))
    assert len(got) == len(want)
    for a, b in zip(got, want):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
        if bits or a.dtype.kind in "iub":
            assert a.tobytes() == b.tobytes()
        else:
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol, rtol)
    return got


def mapped(f, ins, outs, shape=(4, 2), names=("x", "y")):
    return lambda p: jax.jit(jax.shard_map(f, mesh=mesh(p, shape, names), in_specs=ins,
                                           out_specs=outs, check_vma=False))  # fmt: skip


def numbers(*shape, dtype=np.float32):
    x = np.random.default_rng(sum(shape)).standard_normal(shape) * 4
    return np.asarray(x).astype(dtype)


@case
def sums_over_either_axis_and_both():
    for n in (1, 31, 33, 127, 129, 513, 1000):
        x = numbers(8, 2 * n)
        compare(mapped(lambda a: lax.psum(a, "x"), P("x", "y"), P(None, "y")), x)
        compare(mapped(lambda a: (lax.psum(a, ("x", "y")), lax.pmean(a, "y")), P("x", "y"),
                       (P(), P("x"))), x)  # fmt: skip


@case
def types():
    for dtype in (jnp.bfloat16, np.float16, np.int8, np.int32, np.uint32, np.int16):
        x = np.round(numbers(8, 65)).astype(dtype)  # sums are exact in any order
        compare(mapped(lambda a: (lax.psum(a, "x"), lax.pmax(a, "x"), lax.pmin(a, "x"),
                                  lax.all_gather(a, "x"), lax.ppermute(a, "x", [(0, 3), (2, 1)])),
                       P("x"), P(), (8,), ("x",)), x, bits=True)  # fmt: skip
    flags = numbers(8, 65) > 0
    compare(mapped(lambda a: (lax.pmax(a, "x"), lax.all_gather(a, "x")), P("x"), P(), (8,), ("x",)),
            flags)  # fmt: skip


@case
def gathers_scatters_and_exchanges_along_any_dimension():
    x = numbers(8, 24, 16)
    for d in range(3):
        spec = P(*["x" if i == d else None for i in range(3)])
        compare(mapped(lambda a: lax.all_gather(a, "x", axis=d, tiled=True), spec, P()), x, bits=True)
        compare(mapped(lambda a: lax.psum_scatter(a, "x", scatter_dimension=d, tiled=True),
                       P(None, None, "y"), P(*["x" if i == d else None for i in range(2)],
                                             ("y", "x") if d == 2 else "y")), x)  # fmt: skip
        for e in range(3):
            compare(mapped(lambda a: lax.all_to_all(a, "x", d, e, tiled=True), P("y"), P("y")), x,
                    bits=True)  # fmt: skip
    compare(mapped(lambda a: lax.all_gather(a, "y"), P("x", "y"), P("x")), x[:, :, 0], bits=True)


@case
def permutations_in_loops_and_branches():
    ring = [(i, (i + 1) % 4) for i in range(4)]

    def loop(a):
        return lax.fori_loop(0, 3, lambda i, c: lax.ppermute(c, "x", ring) * 1.5 + i, a)

    compare(mapped(loop, P("x", "y"), P("x", "y")), numbers(8, 16))

    def branch(a):
        return lax.cond(lax.psum(a.sum(), ("x", "y")) > 0, lambda v: lax.psum(v, "x"),
                        lambda v: lax.pmax(v, "x") - 1, a)  # fmt: skip

    for sign in (1, -1):
        compare(mapped(branch, P("x", "y"), P(None, "y")), sign * np.abs(numbers(8, 16)))


@case
def where_a_rank_is():
    compare(mapped(lambda a: a + lax.axis_index("x") * 10 + lax.axis_index("y"), P("x", "y"),
                   P("x", "y")), numbers(8, 16))  # fmt: skip
    compare(mapped(lambda a: lax.dynamic_slice_in_dim(a, lax.axis_index("x") * 3, 3), P(),
                   P(("x", "y"))), numbers(13, 5))  # fmt: skip


@case
def a_train_step_with_gradients():
    def loss(w, x):
        return lax.pmean(jnp.mean(jnp.tanh(x @ w["a"]) @ w["b"]), "x")

    def step(w, x):
        g = jax.grad(loss)(w, x)
        g = jax.tree.map(lambda t: lax.pmean(t, "x"), g)
        return jax.tree.map(lambda p, t: p - 0.1 * t, w, g), loss(w, x)

    w = {"a": numbers(33, 65) * 0.1, "b": numbers(65, 7) * 0.1}
    compare(mapped(step, (P(), P("x")), (P(), P()), (8,), ("x",)), w, numbers(64, 33), rtol=1e-5)


@case
def several_values_in_one_sum():
    compare(mapped(lambda a: lax.psum((a, a * 2, a.sum()), "x"), P("x", "y"),
                   (P(None, "y"), P(None, "y"), P())), numbers(8, 34))  # fmt: skip


@case
def complex_and_wide_types():
    jax.config.update("jax_enable_x64", True)
    try:
        z = (numbers(8, 17) + 1j * numbers(8, 17)).astype(np.complex64)
        compare(mapped(lambda a: lax.psum(a, "x"), P("x"), P(), (8,), ("x",)), z)
        compare(mapped(lambda a: lax.psum(a, "x"), P("x"), P(), (8,), ("x",)),
                numbers(8, 17, dtype=np.float64), rtol=1e-14)  # fmt: skip
        compare(mapped(lambda a: lax.psum(a, "x"), P("x"), P(), (8,), ("x",)),
                np.arange(80, dtype=np.int64).reshape(8, 10) << 40)  # fmt: skip
    finally:
        jax.config.update("jax_enable_x64", False)


@case
def pmap_of_some_devices_and_of_all():
    for n in (1, 2, 3, 8):
        x = np.abs(numbers(n, 5)) + 1
        compare(lambda p: jax.pmap(lambda a: a / lax.psum(a, "i"), axis_name="i",
                                   devices=list(devices(p, n))), x)  # fmt: skip


@case
def part_of_the_devices_in_another_order():
    x = numbers(8, 6)
    compare(lambda p: jax.jit(jax.shard_map(
        lambda a: lax.psum(a * (1 + lax.axis_index("x")), "x"),
        mesh=Mesh(devices(p)[[5, 2, 7, 0]], ("x",)), in_specs=P("x"), out_specs=P())), x)  # fmt: skip


@case
def arrays_keep_their_shards_and_places():
    m = mesh("neuron")
    x = numbers(8, 6)
    y = jax.device_put(x, NamedSharding(m, P("x", "y")))
    assert [s.device.id for s in y.addressable_shards] == list(range(8))
    for s in y.addressable_shards:
        assert np.array_equal(np.asarray(s.data), x[s.index])
    f = jax.jit(jax.shard_map(lambda a: a * 2, mesh=m, in_specs=P("x", "y"), out_specs=P("x", "y")))
    z = f(y)
    assert z.sharding.is_equivalent_to(y.sharding, 2) and np.array_equal(np.asarray(z), x * 2)
    moved = jax.device_put(y, NamedSharding(m, P(None, "x")) if x.shape[1] % 4 == 0
                           else NamedSharding(m, P("y")))  # fmt: skip
    assert np.array_equal(np.asarray(moved), x)
    one = jax.device_put(z, jax.devices("neuron")[5])
    assert one.devices() == {jax.devices("neuron")[5]} and np.array_equal(np.asarray(one), x * 2)


@case
def donated_shards_give_their_memory_away():
    m = mesh("neuron", (8,), ("x",))
    x = jax.device_put(numbers(16, 128), NamedSharding(m, P("x")))
    want = numbers(16, 128) + 1
    in_use = [d.memory_stats()["bytes_in_use"] for d in devices("neuron")]
    f = jax.jit(jax.shard_map(lambda a: a + 1, mesh=m, in_specs=P("x"), out_specs=P("x")),
                donate_argnums=0)  # fmt: skip
    y = f(x)
    jax.block_until_ready(y)
    assert x.is_deleted()
    assert [d.memory_stats()["bytes_in_use"] for d in devices("neuron")] == in_use
    assert np.array_equal(np.asarray(y), want)


@case
def executables_say_where_they_run():
    m = Mesh(devices("neuron")[[3, 1]], ("x",))
    f = jax.jit(jax.shard_map(lambda a: lax.psum(a, "x"), mesh=m, in_specs=P("x"), out_specs=P()))
    c = f.lower(numbers(4, 3)).compile()
    [arg], _ = c.input_shardings
    assert arg.is_equivalent_to(NamedSharding(m, P("x")), 2)
    assert c.output_shardings.is_equivalent_to(NamedSharding(m, P()), 2)
    runtime = c.runtime_executable()
    assert [d.id for d in runtime.local_devices()] == [3, 1]
    assert c.memory_analysis().output_size_in_bytes == 2 * 3 * 4
    prints = [mapped(lambda a: lax.psum(a, axis), P(("x", "y")), P(), (2, 2))("neuron").lower(
        numbers(4, 3)).compile().runtime_executable().fingerprint for axis in ("x", "y")]
    assert prints[0] != prints[1]  # the groups alone differ
    np.testing.assert_array_equal(np.asarray(c(numbers(4, 3))), numbers(4, 3).reshape(2, 2, 3).sum(0))


@case
def callbacks_outside_of_shard_map_run_once():
    from jax.experimental import io_callback

    seen = []

    def note(a):
        seen.append(np.asarray(a))
        return np.asarray(a) * 2

    x = numbers(8, 6)
    y = jax.device_put(x, NamedSharding(mesh("neuron"), P("x", "y")))
    kind = jax.ShapeDtypeStruct(x.shape, x.dtype)

    def told(a):
        jax.debug.callback(note, a + 1)
        return a

    for f, want, told_of in (
        (lambda a: io_callback(note, kind, a) + 1, x * 2 + 1, x),
        (lambda a: jax.pure_callback(note, kind, a * 3) + 1, x * 6 + 1, x * 3),
        (told, x, x + 1),
        (lambda a: io_callback(lambda t: seen.append(t) or t > 0, jax.ShapeDtypeStruct(x.shape, np.bool_), a), x > 0, x),
    ):  # fmt: skip
        seen.clear()
        out = jax.jit(f)(y)
        jax.effects_barrier()
        np.testing.assert_allclose(np.asarray(out), want, rtol=1e-6)
        assert len(seen) == 1, len(seen)
        np.testing.assert_allclose(seen[0], told_of, rtol=1e-6)


@case
def programs_of_meshes_of_other_shapes():
    """Each axis of a mesh may be a part of an axis of another."""
    one, two, three = (mesh("neuron", shape, names) for shape, names in (
        ((4, 2), ("x", "y")), ((2, 4), ("x", "y")), ((8,), ("z",))))  # fmt: skip
    x = numbers(16, 8)
    for m, spec in ((two, P("y")), (two, P("x", "y")), (two, P(None, "x")), (three, P("z")), (three, P(None, "z"))):
        want = NamedSharding(m, spec)
        y = jax.jit(lambda a: a * 2 + 1, out_shardings=want)(jax.device_put(x, NamedSharding(one, P("x", "y"))))
        assert y.sharding.is_equivalent_to(want, 2)
        for shard in y.addressable_shards:
            assert np.array_equal(np.asarray(shard.data), (x * 2 + 1)[shard.index])
    sums = jax.jit(lambda a, b: (a @ b, (a * a).sum(0)), out_shardings=(NamedSharding(two, P("y", "x")), None))
    got = sums(jax.device_put(x, NamedSharding(one, P(None, "x"))), jax.device_put(x.T.copy(), NamedSharding(three, P())))
    for a, b in zip(got, (x @ x.T, (x * x).sum(0))):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-4, atol=1e-4)


@case
def operations_outside_of_manual_regions():
    def outer(p):
        inner = jax.shard_map(lambda t: lax.psum(t, "x"), mesh=mesh(p), in_specs=P("x"), out_specs=P())
        return jax.jit(lambda a, b: (inner(a * 2 + b).sum(0) + 1, (a @ b.T)[:3]))

    compare(outer, numbers(8, 5), numbers(8, 5), rtol=1e-5)

    def sharded(p):
        return jax.jit(lambda a: jnp.sort(a, 0) @ a.T, in_shardings=NamedSharding(mesh(p), P("x")),
                       out_shardings=NamedSharding(mesh(p), P("y", "x")))  # fmt: skip

    compare(sharded, numbers(8, 5), rtol=1e-5)


@case
def manual_along_one_axis_alone():
    def outer(p):
        return jax.jit(jax.shard_map(lambda t: lax.psum(jnp.sin(t), "x") + 1, mesh=mesh(p),
                                     in_specs=P("x"), out_specs=P(), axis_names={"x"}))  # fmt: skip

    compare(outer, numbers(8, 6), rtol=1e-5)


@case
def ranks_that_wait_for_each_other_in_vain_are_named():
    def f(a):
        return lax.cond(a[0, 0] > 0, lambda v: lax.psum(v, "x"), lambda v: v * 2.0, a)

    x = np.ones((8, 3), np.float32)
    x[5] = -1
    try:
        np.asarray(mapped(f, P("x"), P("x"), (8,), ("x",))("neuron")(x))
    except Exception as error:
        text = str(error)
        assert "stablehlo.all_reduce at many_cores.py:" in text and "execution 1" in text, text
        assert "ranks 0, 1, 2, 3, 4, 6, 7 wait" in text and "rank 5 (core 5) has ended" in text, text
    else:
        raise AssertionError("it ran")
    compare(mapped(lambda a: lax.psum(a, "x"), P("x"), P(), (8,), ("x",)), x)  # the device goes on


@case
def the_chars_step_learns_on_two_and_eight_cores_what_it_does_on_one():
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples" / "chars"))
    import model

    data, _ = model.load_text()
    curves = []
    for n in (1, 2, 8):
        step = model.data_parallel_step(Mesh(devices("neuron", n), ("d",)), jnp.float32)
        params = model.init_params()
        moments, losses = model.init_moments(params), []
        for tokens, targets in model.batches(data, 4):
            params, moments, loss = step(params, moments, tokens.astype(np.int32),
                                         targets.astype(np.int32))  # fmt: skip
            losses.append(float(loss))
        curves.append(losses)
    np.testing.assert_allclose(curves[1:], [curves[0]] * 2, rtol=1e-5)


def main(cases):
    results = {}
    for name in sys.argv[1:] or cases:
        try:
            cases[name]()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()[-3000:]
    print(json.dumps(results))


if __name__ == "__main__":
    main(CASES)
