"""Shrinking finds the few lines that fail, and programs keep their meaning under the changes it makes."""

import numpy as np
import pytest

from . import plan
from .program import Function, Input, Let, Program, arguments, compiled, pruned, renumbered, reproducer, source
from .shrink import shrink
from .shrink_text import inlined, untupled

jax = pytest.importorskip("jax")


def types_of(program):
    types = {}

    def note(name, value):
        if hasattr(value, "shape"):
            types[name] = (tuple(value.shape), str(value.dtype))

    jax.eval_shape(compiled(program, note), *arguments(program))
    return types


MOST_LINES = 8  # four of them are a loop that the fault may be in


def fails_where(text):
    """A fault that shows whenever the program traces and has the text."""

    def fails(program):
        try:
            jax.eval_shape(compiled(program), *arguments(program))
        except Exception:
            return False
        return text in source(program)

    return fails


def programs(n, wanted, seed=3):
    """The first programs of the plan that have the text."""
    found, i = [], 0
    while len(found) < n:
        program = pruned(plan.program(plan.case(seed, i)))
        if wanted in source(program):
            found.append(program)
        i += 1
    return found


@pytest.mark.parametrize("text", ["jax.nn.silu(", "conv_general_dilated(", "lax.top_k(", ".at[", "jnp.cumsum("])
def test_a_program_shrinks_to_what_fails(text):
    for program in programs(2, text):
        small = shrink(program, fails_where(text), types_of, seconds=60, most_tries=2000)
        assert text in source(small)
        assert len(source(small).splitlines()) <= MOST_LINES, source(small)
        assert max(small.dims.values(), default=1) <= 7, small.dims


def test_dimensions_shrink_as_far_as_the_fault_goes():
    program = programs(1, "jax.nn.silu(")[0]
    traces = fails_where("jax.nn.silu(")
    name = max(program.dims, key=program.dims.get)
    assert program.dims[name] > 5

    def fails(candidate):
        return traces(candidate) and candidate.dims.get(name, 0) >= 5

    assert shrink(program, fails, types_of, seconds=60, most_tries=2000).dims[name] == 5


def values_of(program):
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return [np.asarray(v) for v in compiled(program)(*arguments(program))]


def nested():
    """Two functions, one inside the other, called as plain functions and with tuples."""
    inner = Function("f5", ("p6",), (Let(("v7",), "p6 * 2 + x2"),), "v7")
    outer = Function("f3", ("p4", "x2"), (inner, Let(("v8",), "f5(p4)"), Let(("v9", "v10"), "v8, v8 + 1", (), True)),
                     "v9, v10")  # fmt: skip
    body = (outer, Let(("v11", "v12"), "f3(x1, x2 * 3)", (), True), Let(("v13",), "v11"))
    inputs = (Input("x1", ("N",), "float32", ("normal",), 1), Input("x2", ("N",), "float32", ("normal",), 2))
    return Program(7, {"N": 5, "M": 9}, inputs, body, ("v12", "v13"))


def test_pruning_and_renumbering_keep_the_values():
    program = nested()
    before = values_of(program)
    for after in (values_of(pruned(program)), values_of(renumbered(pruned(program)))):
        np.testing.assert_array_equal(before, after)
    assert "M" not in pruned(program).dims


def test_inlining_keeps_the_values():
    program, n_steps = nested(), 0
    before = values_of(program)
    while True:
        candidate = next(iter([*inlined(program, None), *untupled(program, None)]), None)
        if candidate is None:
            break
        program, n_steps = pruned(candidate), n_steps + 1
        np.testing.assert_array_equal(before, values_of(program))
    assert n_steps >= 4
    assert "def f" not in source(program)


def test_a_reproducer_runs_alone(tmp_path, capsys):
    program = renumbered(nested())
    text = reproducer(program, "comment").replace('("neuron", "cpu")', '("cpu", "cpu")')
    exec(compile(text, "reproducer.py", "exec"), {})
    assert "output 0: float32(5,), 0 of 5 elements differ" in capsys.readouterr().out


def test_the_plan_is_the_same_every_time():
    for i in range(40):
        assert plan.program(plan.case(9, i)) == plan.program(plan.case(9, i))
