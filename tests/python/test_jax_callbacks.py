"""Host callbacks on the plugin: what JAX on the CPU does, with its values, order and errors."""

import gc
import json
import os
import subprocess
import sys
import weakref

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax.experimental import io_callback  # noqa: E402
from paths import BUILD  # noqa: E402

VTRN = BUILD / "src/cli/vtrn"
DTYPES = (
    "bool int8 int16 int32 uint8 uint16 uint32 float16 bfloat16 float32 complex64 "
    "float8_e4m3fn float8_e5m2"
).split()


class Log:
    """Collects what a callback is given."""

    def __init__(self):
        self.calls = []

    def __call__(self, *values):
        self.calls.append(tuple(np.asarray(v).tolist() for v in values))


def like(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def host_sine(x):
    return jax.pure_callback(lambda v: np.sin(v), like(x), x, vmap_method="expand_dims")


def test_print_inside_jit(capsys):
    jax.jit(lambda x: jax.debug.print("x = {x}", x=x * 2))(jnp.float32(3))
    jax.effects_barrier()
    assert capsys.readouterr().out == "x = 6.0\n"


def test_a_pure_callback_is_a_value_among_others():
    x = np.linspace(-1, 1, 37, dtype=np.float32)
    y = jax.jit(lambda v: host_sine(v * 2) + 1)(x)
    np.testing.assert_allclose(y, np.sin(x * 2) + 1, rtol=1e-6)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_goes_to_the_host_and_back(name):
    x = jnp.asarray(np.array([[0, 1, 2], [3, 1, 0]]).astype(jnp.dtype(name)))
    seen = []

    def callback(v):
        seen.append(np.asarray(v))
        return np.asarray(v)[::-1]

    y = jax.jit(lambda v: jax.pure_callback(callback, like(v), v))(x)
    assert seen[0].dtype == x.dtype
    assert seen[0].tobytes() == np.asarray(x).tobytes()
    assert np.asarray(y).tobytes() == np.asarray(x)[::-1].tobytes()


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 127, 128, 129, 1025])
def test_several_results_of_any_size(n):
    def callback(v):
        v = np.asarray(v)
        return {"twice": 2 * v, "sum": np.float32(v.sum()), "none": np.zeros((0, 3), np.int32)}

    def f(v):
        result = {"twice": like(v), "sum": jax.ShapeDtypeStruct((), v.dtype)}
        result["none"] = jax.ShapeDtypeStruct((0, 3), jnp.int32)
        return jax.pure_callback(callback, result, v)

    x = np.arange(n, dtype=np.float32)
    y = jax.jit(f)(x)
    np.testing.assert_array_equal(y["twice"], 2 * x)
    assert y["sum"] == x.sum()
    assert y["none"].shape == (0, 3)


def test_a_callback_without_operands_or_results_runs():
    log = []
    jax.jit(lambda: io_callback(lambda: log.append(1), None))()
    jax.effects_barrier()
    assert log == [1]


@pytest.mark.parametrize("is_ordered", [False, True])
def test_effects_happen_though_nothing_reads_their_results(is_ordered):
    log = Log()

    def f(x):
        io_callback(lambda v: log(v) or np.int32(7), jax.ShapeDtypeStruct((), jnp.int32), x)
        io_callback(log, None, x + 1, ordered=is_ordered)
        return x

    f = jax.jit(f)
    for i in range(3):
        assert f(jnp.int32(i)) == i
    jax.effects_barrier()
    assert log.calls == [(0,), (1,), (1,), (2,), (2,), (3,)]


def test_unread_pure_callbacks_do_not_run():
    log = Log()

    def f(x):
        jax.pure_callback(lambda v: log(v) or v, like(x), x)
        return x + 1

    jax.jit(f)(jnp.float32(1))
    assert log.calls == []


def test_ordered_effects_in_loops_keep_their_order():
    log = Log()

    def body(carry, x):
        io_callback(log, None, x, carry, ordered=True)
        return carry + x, carry

    total, _ = jax.jit(lambda xs: jax.lax.scan(body, jnp.int32(0), xs))(jnp.arange(5))
    jax.effects_barrier()
    assert total == 10
    assert log.calls == [(0, 0), (1, 0), (2, 1), (3, 3), (4, 6)]


def test_two_ordered_effects_each_have_a_token(capsys):
    log = Log()

    def f(x):
        jax.debug.print("first {}", x, ordered=True)
        io_callback(log, None, x, ordered=True)
        jax.debug.print("second {}", x + 1, ordered=True)
        io_callback(log, None, x + 1, ordered=True)

    f = jax.jit(f)
    f(jnp.int32(1))
    f(jnp.int32(3))
    jax.effects_barrier()
    assert capsys.readouterr().out == "first 1\nsecond 2\nfirst 3\nsecond 4\n"
    assert log.calls == [(1,), (2,), (3,), (4,)]


def test_a_while_loop_that_is_run_for_its_effect_alone():
    log = Log()

    def f(n):
        def body(i):
            jax.debug.callback(log, i)
            return i + 1

        jax.lax.while_loop(lambda i: i < n, body, jnp.int32(0))

    jax.jit(f)(jnp.int32(3))
    jax.effects_barrier()
    assert log.calls == [(0,), (1,), (2,)]


def test_a_condition_decides_by_a_callback():
    def f(x):
        def more(v):
            return jax.pure_callback(lambda a: np.bool_(a < 100), jax.ShapeDtypeStruct((), bool), v)

        return jax.lax.while_loop(more, lambda v: v * 3, x)

    assert jax.jit(f)(jnp.int32(2)) == 162


def test_branches_in_loops_call_back_in_the_order_of_the_cpu():
    def f(n, x, log):
        def even(v):
            io_callback(lambda a: log("even", a), None, v.sum(), ordered=True)
            return v * 2

        def odd(v):
            return jax.lax.cond(v.sum() > 20, large, lambda w: w + 1, v)

        def large(v):
            jax.debug.callback(lambda a: log("large", a), v.sum(), ordered=True)
            return v - 1

        def body(carry):
            i, x = carry
            return i + 1, jax.lax.cond(i % 2 == 0, even, odd, x)

        return jax.lax.while_loop(lambda c: c[0] < n, body, (0, x))[1]

    def run():
        log = Log()
        g = jax.jit(lambda n, x: f(n, x, log), donate_argnums=1)
        values = [np.asarray(g(n, jnp.ones(5))).tolist() for n in (0, 1, 2, 7)]
        jax.effects_barrier()
        return values, log.calls

    here = run()
    with jax.default_device(jax.devices("cpu")[0]):
        assert here == run()


def test_views_of_arrays_are_given_dense():
    x = jnp.arange(24, dtype=jnp.float32).reshape(4, 6)

    def callback(part, turned, zeros, three):
        return 2 * np.asarray(part), np.asarray(turned) + np.asarray(zeros).sum() + three

    def f(x):
        shapes = like(x[1:4, 2:4]), like(x.T)
        return jax.pure_callback(callback, shapes, x[1:4, 2:4], x.T, jnp.zeros(2), jnp.float32(3))

    part, turned = jax.jit(f)(x)
    np.testing.assert_array_equal(part, 2 * x[1:4, 2:4])
    np.testing.assert_array_equal(turned, x.T + 3)


@pytest.mark.parametrize("is_taken", [False, True])
def test_only_the_branch_taken_calls_back(is_taken):
    log = Log()

    def f(p, x):
        def yes(v):
            io_callback(lambda a: log("yes", a), None, v, ordered=True)
            return v + 1

        def no(v):
            jax.debug.callback(lambda a: log("no", a), v)
            return v - 1

        return jax.lax.cond(p, yes, no, x)

    assert jax.jit(f)(is_taken, jnp.int32(5)) == (6 if is_taken else 4)
    jax.effects_barrier()
    assert log.calls == [("yes" if is_taken else "no", 5)]


def test_a_branch_without_results_calls_back():
    log = Log()

    def f(x):
        jax.lax.cond(x > 2, lambda: jax.debug.callback(log, x), lambda: None)

    for i in range(5):
        jax.jit(f)(jnp.int32(i))
    jax.effects_barrier()
    assert log.calls == [(3,), (4,)]


def test_gradients_flow_around_prints_and_through_custom_rules():
    log = Log()

    @jax.custom_jvp
    def sine(x):
        return host_sine(x)

    @sine.defjvp
    def _(primals, tangents):
        return sine(*primals), jnp.cos(primals[0]) * tangents[0]

    def loss(x):
        jax.debug.callback(log, x)
        return sine(x) ** 2

    x = jnp.float32(0.7)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(x), np.sin(2 * 0.7), rtol=1e-5)
    jax.effects_barrier()
    assert len(log.calls) == 1


@pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all"])
def test_vmap_of_a_callback(method):
    def f(v):
        return jax.pure_callback(lambda a: np.sin(a), like(v), v, vmap_method=method)

    x = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_allclose(jax.jit(jax.vmap(f))(x), np.sin(x), rtol=1e-6)


def test_vmap_of_a_print_prints_each(capsys):
    jax.jit(jax.vmap(lambda v: jax.debug.print("{}", v)))(jnp.arange(3))
    jax.effects_barrier()
    assert sorted(capsys.readouterr().out.split()) == ["0", "1", "2"]


def test_callbacks_between_kernels_see_what_was_computed():
    """Values that kernels keep in SBUF are in memory where a program stops."""
    log = []

    def f(a, b):
        c = jnp.tanh(a @ b)
        jax.debug.callback(lambda v: log.append(np.asarray(v)), c)
        d = jax.nn.softmax(c @ b)
        e = jax.pure_callback(lambda v: np.asarray(v).T.copy(), like(d), d)
        return (e @ b).sum(axis=1) + c[0]

    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((128, 128)).astype(np.float32) for _ in range(2))
    y = jax.jit(f)(a, b)
    with jax.default_device(jax.devices("cpu")[0]):
        expected = jax.jit(f)(a, b)
    jax.effects_barrier()
    np.testing.assert_allclose(log[0], log[1], atol=2e-5)
    np.testing.assert_allclose(y, expected, atol=2e-4)


def test_donation_leaves_callbacks_what_they_read():
    log = Log()

    def f(x):
        y = x * 2
        jax.debug.callback(log, x, ordered=True)
        jax.debug.callback(log, y, ordered=True)
        return y

    assert jax.jit(f, donate_argnums=0)(jnp.arange(3)).tolist() == [0, 2, 4]
    jax.effects_barrier()
    assert log.calls == [([0, 1, 2],), ([0, 2, 4],)]


def test_an_exception_reaches_the_user_and_the_next_run_works():
    def callback(v):
        if v > 1:
            raise ValueError(f"too large by {v - 1}")
        return v

    f = jax.jit(lambda x: jax.pure_callback(callback, like(x), x) + 1)
    assert f(jnp.int32(1)) == 2
    # JAX's second call of a function goes another way, and has another type for the error.
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="ValueError: too large by 6"):
        f(jnp.int32(7))
    jax.effects_barrier()  # the error has been told
    assert f(jnp.int32(0)) == 1


@pytest.mark.parametrize("is_ordered", [False, True])
def test_an_exception_in_an_effect_reaches_the_user(is_ordered):
    def fail(v):
        raise RuntimeError("no such luck")

    def f(x):
        io_callback(fail, None, x, ordered=is_ordered)
        return x

    for g in (f, lambda x: io_callback(fail, None, x, ordered=is_ordered)):
        with pytest.raises(jax.errors.JaxRuntimeError, match="RuntimeError: no such luck"):
            jax.jit(g)(jnp.int32(7))
        jax.effects_barrier()  # the error has been told
    log = Log()
    jax.jit(lambda x: io_callback(log, None, x, ordered=is_ordered))(jnp.int32(7))
    jax.effects_barrier()
    assert log.calls == [(7,)]


@pytest.mark.parametrize(
    "value, message",
    [
        (np.zeros(3, np.float32), r"Incorrect output shape.*\(2,\).*\(3,\)"),
        (np.zeros(2, np.int32), "Incorrect output dtype.*float32.*int32"),
    ],
)
def test_results_of_another_type_are_refused(value, message):
    f = jax.jit(lambda: jax.pure_callback(lambda: value, jax.ShapeDtypeStruct((2,), jnp.float32)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        f()


def test_arrays_that_a_callback_keeps_stay_as_they_were():
    kept = []
    f = jax.jit(lambda x: io_callback(lambda v: kept.append(v), None, x))
    for i in range(3):
        f(jnp.full(1000, i, jnp.int32))
    jax.effects_barrier()
    assert [np.unique(v).tolist() for v in kept] == [[0], [1], [2]]


def test_callbacks_die_with_their_programs():
    class Captured:
        value = 3

    captured = Captured()
    gone = weakref.ref(captured)

    def run(captured):
        def callback(v):
            return v + np.int32(captured.value)

        return jax.jit(lambda x: jax.pure_callback(callback, like(x), x))(jnp.int32(1))

    assert run(captured) == 4
    del captured
    gc.collect()
    jax.clear_caches()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", ["float32", "int8", "bfloat16"])
def test_buffer_callbacks_work_in_place(name):
    from jax.experimental import buffer_callback as bc

    def callback(ctx, out, x, y):
        assert ctx.stage == bc.ExecutionStage.EXECUTE
        assert out.writeable and not x.writeable
        assert x.shape == out.shape == (2, 3) and x.dtype == out.dtype == jnp.dtype(name)
        out = np.asarray(out)
        np.testing.assert_array_equal(out, np.asarray(x))  # they share memory
        out += np.asarray(y)

    x = jnp.arange(6).reshape(2, 3).astype(name)
    call = bc.buffer_callback(callback, like(x), input_output_aliases={0: 0})
    y = jax.jit(lambda v: call(v, v + 1))(x)
    np.testing.assert_array_equal(np.asarray(y), np.asarray(2 * x + 1))


def test_a_callback_may_use_jax():
    f = jax.jit(lambda x: jax.pure_callback(lambda v: jnp.sin(v) * 2, like(x), x))
    np.testing.assert_allclose(f(jnp.float32(0.5)), 2 * np.sin(0.5), rtol=1e-6)


def test_a_callback_that_runs_a_program_on_the_device_is_refused():
    def callback(v):
        return np.asarray(jax.device_put(v, jax.devices()[0]) + 1)

    f = jax.jit(lambda x: jax.pure_callback(callback, like(x), x))
    with pytest.raises(jax.errors.JaxRuntimeError, match="callback cannot run a program on a dev"):
        f(jnp.int32(1)).block_until_ready()


def test_an_interrupt_inside_a_callback_stops_the_program(recwarn):
    def callback(v):
        raise KeyboardInterrupt

    f = jax.jit(lambda x: jax.pure_callback(callback, like(x), x))
    with pytest.raises(KeyboardInterrupt):
        try:
            f(jnp.int32(1)).block_until_ready()
        except jax.errors.JaxRuntimeError:
            sum(range(10))  # the interrupt comes with the next instructions


def test_checkify_errors_that_are_thrown_on_the_host():
    from jax.experimental import checkify

    jax.config.update("jax_experimental_unsafe_xla_runtime_errors", True)
    try:
        f = jax.jit(lambda x: (checkify.check(x < 3, "{x} is no digit of base 3", x=x), x)[1])
        assert f(jnp.int32(2)) == 2
        with pytest.raises(jax.errors.JaxRuntimeError, match="5 is no digit of base 3"):
            f(jnp.int32(5)).block_until_ready()
    finally:
        jax.config.update("jax_experimental_unsafe_xla_runtime_errors", False)


def run_three_times_two(log):
    def callback(v):
        log(v)
        return np.asarray(v) + 1

    x = jnp.ones(3, jnp.float32)
    return jax.jit(lambda x: jax.pure_callback(callback, like(x), x * 2) * 3)(x).tolist()


@pytest.mark.parametrize("variable", ["VTRN_VERIFY", "VTRN_REFERENCE_ONLY", "VTRN_STRICT"])
def test_a_callback_runs_once_in_every_mode(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    log = Log()
    assert run_three_times_two(log) == [9, 9, 9]
    assert log.calls == [([2, 2, 2],)]


SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
like = jax.ShapeDtypeStruct((3,), jnp.float32)
f = jax.jit(lambda x: jax.pure_callback(lambda v: np.asarray(v) + 1, like, x * 2) * 3)
print(np.asarray(f(jnp.ones(3))).tolist())
"""


def test_the_profile_shows_the_stop_and_its_cost(tmp_path):
    env = {**os.environ, "VTRN_PROFILE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=env, timeout=600
    )
    assert done.stdout == "[9.0, 9.0, 9.0]\n", done.stderr
    rows = [
        (profile, row)
        for profile in (json.loads(p.read_text()) for p in tmp_path.glob("*/profile.json"))
        for row in profile["top_ops"]
        if row["op"] == "vtrn_host_callback"
    ]
    ((profile, row),) = rows
    assert row["engine_ns"] >= 100_000
    assert profile["step_ns"] > row["engine_ns"]
    assert profile["reference_ops"] == []


@pytest.mark.parametrize("is_ordered", [False, True])
def test_a_callback_says_on_which_device_of_a_mesh_it_is_called(is_ordered):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), "x")
    there = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    log = Log()

    def f(x):
        y = io_callback(lambda v: log(v) or v, like(x), x, ordered=is_ordered)
        return y + 1

    f = jax.jit(f, in_shardings=there, out_shardings=there)
    x = jnp.arange(2)
    assert "sdy.sharding = #sdy.sharding_per_value<[<@maximal_mesh_0, []>" in f.lower(x).as_text()
    assert f(x).tolist() == [1, 2]
    assert log.calls == [([0, 1],)]


def artifact_of(text):
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    with mlir.make_ir_context():
        return stablehlo.serialize_portable_artifact_str(str(ir.Module.parse(text)), "1.15.0")


CALLS_THE_HOST = """
func.func public @main(%x: tensor<3xf32>) -> tensor<3xf32> {
  %y = stablehlo.add %x, %x : tensor<3xf32>
  %z = stablehlo.custom_call @vtrn_host_callback(%y) {backend_config = "12", api_version = 2 : i32}
    : (tensor<3xf32>) -> tensor<3xf32>
  return %z : tensor<3xf32>
}
"""


def test_a_process_without_python_refuses_in_words(tmp_path):
    path, program = tmp_path / "calls.mlirbc", tmp_path / "calls.vasm"
    path.write_bytes(artifact_of(CALLS_THE_HOST))
    disasm = subprocess.run([VTRN, "disasm", path], capture_output=True, text=True, timeout=60)
    assert "vtrn_host_callback" in disasm.stdout, disasm.stderr
    program.write_text(disasm.stdout)
    for file in (path, program):
        done = subprocess.run([VTRN, "run", file, "--random"], capture_output=True, text=True)
        assert done.returncode != 0
        assert "calls back into the host" in done.stderr
        assert "run it through JAX with the Python package vtrn" in done.stderr


def test_a_program_whose_callback_is_another_operation_is_refused(tmp_path):
    roots = """
    func.func public @main(%x: tensor<3xf64>) -> tensor<3xf64> {
      %y = stablehlo.sqrt %x : tensor<3xf64>
      return %y : tensor<3xf64>
    }
    """
    path = tmp_path / "other.mlirbc"
    path.write_bytes(artifact_of(roots))
    disasm = subprocess.run([VTRN, "disasm", path], capture_output=True, text=True, timeout=60)
    assert "custom 0 \"stablehlo.sqrt\"" in disasm.stdout
    named = disasm.stdout.replace("custom 0 \"stablehlo.sqrt\"", "custom 0 \"vtrn_host_callback\"")
    (tmp_path / "other.vasm").write_text(named)
    args = [VTRN, "run", tmp_path / "other.vasm", "--random"]
    done = subprocess.run(args, capture_output=True, text=True, timeout=60)
    assert done.returncode > 0
    assert "a callback's name or operation, and not both" in done.stderr


def test_versions_of_jax_without_some_primitives_have_rules_for_the_others(monkeypatch):
    from jax._src import debugging
    from vtrn import callbacks

    n = len(list(callbacks._rules()))
    monkeypatch.delattr(debugging, "debug_print_p")
    monkeypatch.delattr("jax._src.buffer_callback")
    monkeypatch.setitem(sys.modules, "jax._src.buffer_callback", None)
    assert len(list(callbacks._rules())) == n - 2
