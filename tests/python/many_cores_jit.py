"""What jit over 8 NeuronCores does beside computing: calls of the host, functions that divide themselves, memory orders,
donation, sums that stay in parts. Run by test_jax_many_cores.py as many_cores.py is."""

import re

import jax
import jax.numpy as jnp
import many_cores
import numpy as np
from jax import lax
from jax.experimental import io_callback
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.layout import Format, Layout
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from many_cores import mesh, numbers

CASES = {}


def case(f):
    CASES[f.__name__] = f
    return f


def over(platform, *spec):
    return NamedSharding(mesh(platform), P(*spec))


def error_of(function, *args):
    try:
        jax.block_until_ready(function(*args))
    except Exception as error:
        return str(error)
    raise AssertionError("it ran")


# Calls of the host.


def counted(make):
    """make(call) gives a function of an array that calls call(a): on each platform, what it computes and how often and
    with what it called."""
    results = {}
    for platform in ("neuron", "cpu"):
        seen = []
        x = jax.device_put(numbers(8, 16), over(platform, "x", "y"))
        values = jax.jit(make(lambda a, seen=seen: (seen.append(np.array(a)), np.asarray(a) + 1)[1]))(x)
        jax.effects_barrier()
        results[platform] = jax.tree.map(np.asarray, (values, seen))
    (got, called), (want, expected) = results["neuron"], results["cpu"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-5), got, want)
    assert [a.shape for a in called] == [a.shape for a in expected], (called, expected)
    return called


def same(a):
    return jax.ShapeDtypeStruct(a.shape, a.dtype)


@case
def a_callback_in_a_loop_runs_once_a_turn():
    calls = {"pure": lambda call, a: jax.pure_callback(call, same(a), a),
             "io": lambda call, a: io_callback(call, same(a), a),
             "ordered": lambda call, a: io_callback(call, same(a), a, ordered=True)}  # fmt: skip
    for kind, act in calls.items():
        if kind == "ordered":  # JAX refuses ordered effects over several CPU devices
            seen = []
            act_here = lambda a: act(lambda v: (seen.append(1), v + 1)[1], a)  # noqa: E731
            x = jax.device_put(numbers(8, 16), over("neuron", "x", "y"))
            y = jax.jit(lambda a: lax.scan(lambda c, _: (act_here(c), c.sum()), a, None, length=3)[0])(x)
            np.testing.assert_allclose(y, numbers(8, 16) + 3, 1e-5)
            assert len(seen) == 3, seen
            continue
        called = counted(lambda call, act=act: lambda a: lax.scan(lambda c, _: (act(call, c), c.sum()), a, None, length=3))
        assert [a.shape for a in called] == [(8, 16)] * 3, kind
        called = counted(lambda call, act=act: lambda a: lax.while_loop(
            lambda c: c[0, 0] < 40, lambda c: act(call, c) * 2, jnp.abs(a)))  # fmt: skip
        assert len(called) > 2
    is_small = jax.ShapeDtypeStruct((), bool)
    counted(lambda call: lambda a: lax.while_loop(
        lambda c: jax.pure_callback(lambda v: call(v)[0, 0] < 40, is_small, c), lambda c: c * 2, jnp.abs(a)))  # fmt: skip


@case
def ordered_callbacks_keep_their_order_and_run_once():
    seen = []

    def f(a):
        for i in range(4):
            io_callback(lambda v, i=i: seen.append((i, v.shape)), None, a[i], ordered=True)
        return a.sum(0) @ a.T

    jax.jit(f)(jax.device_put(numbers(8, 16), over("neuron", "x", "y")))
    jax.effects_barrier()
    assert seen == [(i, (16,)) for i in range(4)], seen


@case
def ordered_callbacks_in_a_shard_map_run_on_each_core():
    for outside in (lambda a: a, lambda a: jnp.sin(a) @ a.T):  # alone, and beside what is divided
        seen = []

        def local(a, seen=seen):
            return io_callback(lambda v: (seen.append(v.shape), v + 1)[1], same(a), a, ordered=True)

        def f(a, outside=outside, local=local):
            return outside(jax.shard_map(local, mesh=mesh("neuron"), in_specs=P("x", "y"), out_specs=P("x", "y"),
                                         check_vma=False)(a))  # fmt: skip

        x = numbers(8, 16)
        y = jax.jit(f)(jax.device_put(x, over("neuron", "x", "y")))
        np.testing.assert_allclose(y, outside(jnp.asarray(x) + 1), 1e-4, 1e-4)
        assert seen == [(2, 8)] * 8, seen


@case
def a_program_that_divides_nothing_calls_once():
    seen, everywhere = [], jax.make_mesh((8,), ("x",), devices=jax.devices("neuron"))

    def f():
        io_callback(lambda v: seen.append(v.shape), None, jnp.ones(3), ordered=False)
        return jnp.arange(8.0)

    y = jax.jit(f, out_shardings=NamedSharding(everywhere, P()))()
    jax.effects_barrier()
    np.testing.assert_array_equal(y, np.arange(8.0))
    with jax.set_mesh(everywhere):
        np.testing.assert_array_equal(jax.jit(lambda: (io_callback(lambda: seen.append(()), None), jnp.ones(4))[1])(), np.ones(4))
    jax.effects_barrier()
    assert seen == [(3,), ()], seen


@case
def a_callback_does_not_see_the_mesh_of_its_caller():
    explicit = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,), devices=jax.devices("neuron"))
    with jax.set_mesh(explicit):
        x = jax.device_put(numbers(8, 16), P("x"))
        y = jax.jit(lambda a: jax.pure_callback(lambda v: jnp.asarray(v) + 1, same(a), a))(x)
        local = jax.shard_map(lambda a: jax.pure_callback(lambda v: v * 2.0, same(a), a), in_specs=P("x"), out_specs=P("x"))
        np.testing.assert_array_equal(local(x), numbers(8, 16) * 2)
    np.testing.assert_array_equal(y, numbers(8, 16) + 1)


# Functions that divide themselves.


@custom_partitioning
def smoothed(x):
    """Over the whole last dimension; its parts need no more than a sum of parts."""
    return x - x.mean(-1, keepdims=True), x.sum(-1)


def partition_smoothed(mesh, arguments, results):
    [x] = [a.sharding for a in arguments]
    rows, columns = (*x.spec, None, None)[:2]

    @jax.jit
    def total(part):
        return lax.psum(part.sum(-1), columns) if columns else part.sum(-1)

    def local(part):
        n = part.shape[-1] * (mesh.shape[columns] if columns else 1)
        return part - total(part)[..., None] / n, total(part)

    return mesh, local, (x, NamedSharding(mesh, P(rows))), (x,)


smoothed.def_partition(partition_smoothed, sharding_rule="i j -> i j, i")


@case
def a_function_with_custom_partitioning_runs_on_parts():
    x = numbers(8, 16)
    for spec in (("x", "y"), ("x",), (None, "y"), (None, "x"), (("x", "y"),), ()):
        f = jax.jit(lambda a: jax.tree.map(lambda b: b * 2, smoothed(a + 1)))
        got = f(jax.device_put(x, over("neuron", *spec)))
        want = jax.tree.map(lambda b: b * 2, ((x + 1) - (x + 1).mean(-1, keepdims=True), (x + 1).sum(-1)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), tuple(got), want)
    text = jax.jit(smoothed).lower(jax.device_put(x, over("neuron", "x", "y"))).compile().as_text()
    assert "all-reduce(" in text and "all-gather(" not in text, text


@case
def a_function_that_divides_itself_wrongly_is_an_error():
    def refused(partition):
        f = custom_partitioning(lambda x: x)
        f.def_partition(partition, sharding_rule="i j -> i j")
        return error_of(jax.jit(lambda x: f(x) + 1), jax.device_put(numbers(8, 16), over("neuron", "x", "y")))

    assert "Mismatch in result shapes" in refused(lambda mesh, a, r: (mesh, lambda x: x[:1], r.sharding, (a[0].sharding,)))
    assert "ZeroDivisionError" in refused(lambda mesh, a, r: 1 // 0)


@case
def a_program_is_told_how_its_values_are_divided():
    told = []

    def f(a):
        b = jnp.sin(a) @ a.T
        jax.debug.inspect_array_sharding(b, callback=told.append)
        return b

    x = jax.device_put(numbers(8, 16), over("neuron", "x", "y"))
    compiled = jax.jit(f).lower(x).compile()
    compiled(x)
    compiled.as_text()
    assert [s.spec for s in told] == [P("x")], told
    told.clear()
    jax.jit(jax.shard_map(f, mesh=mesh("neuron"), in_specs=P("x", "y"), out_specs=P("x", "y")))(x)
    assert len(told) == 1

    def fails(sharding):
        raise KeyError("of the user's")

    def g(a):
        jax.debug.inspect_array_sharding(a, callback=fails)
        return a * 2

    assert "of the user's" in error_of(jax.jit(g), x)


# Memory.


def order_of(a):
    return a.format.layout.major_to_minor


@case
def arrays_over_several_cores_have_any_order_in_memory():
    x = numbers(8, 16, 4)
    spec = ("x", None, "y")
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        a = jax.device_put(x, Format(Layout(order), over("neuron", *spec)))
        assert order_of(a) == order
        np.testing.assert_array_equal(a, x)
        back = order[::-1]
        f = jax.jit(lambda v: (v * 2, v.sum(1), jnp.transpose(v, (2, 0, 1))), out_shardings=(
            Format(Layout(back), over("neuron", *spec)), over("neuron", "x", "y"), Format(Layout.AUTO)))  # fmt: skip
        doubled, total, turned = f(a)
        assert order_of(doubled) == back and doubled.sharding.spec == P(*spec)
        np.testing.assert_array_equal(doubled, x * 2)
        np.testing.assert_allclose(total, x.sum(1), 1e-5, 1e-5)
        np.testing.assert_array_equal(turned, x.transpose(2, 0, 1))


@case
def an_order_left_to_the_compiler_spares_a_transpose():
    for sharding in (over("neuron", "x", "y"), jax.sharding.SingleDeviceSharding(jax.devices("neuron")[0])):
        x = jax.device_put(numbers(8, 16), sharding)
        y = jax.jit(lambda a: a.T, out_shardings=Format(Layout.AUTO)).lower(x).compile()(x)
        assert order_of(y) == (1, 0)
        np.testing.assert_array_equal(y, numbers(8, 16).T)
        z = jax.jit(lambda a: a * 2, out_shardings=Format(Layout.AUTO)).lower(x).compile()(x)
        assert order_of(z) == (0, 1)


@case
def donated_parts_become_outputs_of_their_size():
    for function, spec, out, is_deleted in [
            (lambda a: a + 1, ("x", "y"), None, True), (lambda a: a + 1, ("x", "y"), ("y", "x"), True),
            (lambda a: a * 2, ("x", "y"), ("x",), False), (lambda a: a @ a.T, ("x",), None, True),
            (lambda a: a[:, :2] @ a[:, :2].T, ("x", "y"), ("x",), False)]:  # fmt: skip
        x = numbers(8, 8)
        a = jax.device_put(x, over("neuron", *spec))
        shardings = {} if out is None else {"out_shardings": over("neuron", *out)}
        y = jax.jit(function, donate_argnums=0, **shardings)(a)
        assert a.is_deleted() == is_deleted, (spec, out)
        np.testing.assert_allclose(y, function(x), 1e-5, 1e-5)


# Sums that stay in parts.


@case
def gradients_of_small_batches_are_summed_once():
    def model(ws, x):
        for w in ws:
            x = jnp.tanh(jnp.dot(x, w))
        return jnp.sum(x)

    def step(ws, xs):
        parts = jax.tree.map(lambda w: jax.reshard(jnp.zeros_like(w), P(unreduced={"x"})), ws)
        parts, _ = lax.scan(lambda sums, x: (jax.tree.map(jnp.add, sums, jax.grad(model)(ws, x)), None), parts, xs)
        whole = jax.tree.map(lambda g: jax.reshard(g, P()), parts)
        return jax.tree.map(lambda w, g: jax.reshard(w, P()) - 0.1 * g, ws, whole)

    ws, xs = [numbers(4, 4) / 8, numbers(4, 5) / 8], numbers(3, 8, 4)
    explicit = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,), devices=jax.devices("neuron")[:4])
    with jax.set_mesh(explicit):
        compiled = jax.jit(step).lower([jax.device_put(w, P(reduced={"x"})) for w in ws],
                                       jax.device_put(xs, P(None, "x"))).compile()  # fmt: skip
        got = compiled([jax.device_put(w, P(reduced={"x"})) for w in ws], jax.device_put(xs, P(None, "x")))
    reference = jax.tree.map(lambda w, g: w - 0.1 * g, ws, jax.grad(lambda ws: sum(model(ws, x) for x in xs))(
        [jax.device_put(w, jax.devices("cpu")[0]) for w in ws]))  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), list(got), reference)
    text = compiled.as_text()
    entry = text[text.index("\nENTRY"):]
    assert len(re.findall(r"all-reduce\(", text)) == len(re.findall(r"all-reduce\(", entry)) == 2, text


@case
def parts_of_sums_pass_functions_and_reshapes():
    explicit = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices("neuron")[:4])
    with jax.set_mesh(explicit):
        x = jax.device_put(np.arange(4.0), P(None, reduced={"x"}))
        split = jax.jit(lambda a: jax.reshard(a, P("x")))
        gradient = jax.jit(jax.grad(lambda a: jax.jit(lambda b: split(b).sum())(a)))(x)
        assert [s.data.tolist() for s in gradient.addressable_shards] == [[1, 1, 0, 0]] * 2 + [[0, 0, 1, 1]] * 2


if __name__ == "__main__":
    many_cores.main(CASES)
