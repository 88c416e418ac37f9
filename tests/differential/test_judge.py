"""The judge finds what a broken device would do, and lets rounding pass."""

import numpy as np
import pytest

from . import judge, oracle

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402


def program(x, w):
    return jax.nn.silu(x @ w)


def arguments(dtype):
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((144, 64)), rng.standard_normal((64, 144)) / 8
    return x.astype(dtype), w.astype(dtype)


def parts(dtype):
    """What a right device gives, and the oracle's exact and moved values."""
    args = arguments(dtype)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        traced = jax.jit(program).trace(*args)
        exact = oracle.Evaluation().run(traced.jaxpr, args)
        moved = [oracle.Evaluation(a, s).run(traced.jaxpr, args)
                 for s in range(judge.N_PAIRS_IN_DOUBT) for a in (judge.AMPLITUDE, -judge.AMPLITUDE)]  # fmt: skip
        return [np.asarray(jax.jit(program)(*args))], exact, moved


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def run(request):
    return parts(jnp.dtype(request.param))


def outcome(got, run, margin=judge.MARGIN_IN_DOUBT):
    cpu, exact, moved = run
    return judge.judge([got], cpu, exact, moved, margin).outcome


def test_the_cpu_passes(run):
    assert outcome(run[0][0], run) == "ok"


def test_exact_values_pass(run):
    cpu, exact, _ = run
    assert outcome(exact[0].astype(cpu[0].dtype), run) == "ok"


@pytest.mark.parametrize("at", [(0, 0), (143, 143), (128, 0), (0, 128), (70, 31)])
def test_one_wrong_element_is_found(run, at):
    got = run[0][0].copy()
    got[at] = got[at] + got.std().astype(got.dtype) / 2
    assert outcome(got, run) == "wrong"


def test_two_exchanged_rows_are_found(run):
    got = run[0][0].copy()
    got[[3, 4]] = got[[4, 3]]
    assert outcome(got, run) == "wrong"


def test_a_transposed_result_is_found(run):
    assert outcome(np.ascontiguousarray(run[0][0].T), run) == "wrong"


@pytest.mark.parametrize("rows,columns", [(slice(128, None), slice(None)), (slice(None), slice(128, None))])
@pytest.mark.parametrize("left", [0.0, "the tile before"])
def test_a_dropped_last_tile_is_found(run, rows, columns, left):
    got = run[0][0].copy()
    got[rows, columns] = 0 if left == 0.0 else got[:16, columns] if rows.start else got[rows, :16]
    assert outcome(got, run) == "wrong"


def test_a_missing_term_of_a_sum_is_found(run):
    """A contraction over 63 of 64 rows."""
    x, w = arguments(run[0][0].dtype)
    got = np.asarray(jax.nn.silu(x[:, :63].astype(np.float32) @ w[:63].astype(np.float32)))
    assert outcome(got.astype(run[0][0].dtype), run) == "wrong"


def test_bfloat16_in_place_of_float32_is_found():
    run = parts(np.dtype(np.float32))
    got = run[0][0].astype(jnp.bfloat16).astype(np.float32)
    assert outcome(got, run) == "wrong"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found(run, value):
    got = run[0][0].copy()
    got[7, 7] = value
    assert outcome(got, run) == "nonfinite"


def test_infinities_that_met_on_the_way_may_be_of_any_class_but_finite():
    exact = np.array([3.8e5, 3.8e5, 3.8e5, 1.0, 2.0])  # three are beyond float16
    cpu = np.array([np.nan, np.nan, np.inf, 1.0, np.nan], np.float16)
    right = np.array([-np.inf, np.nan, np.inf, 1.0, np.inf], np.float16)
    moved = [[exact], [exact]]
    assert judge.judge([right], [cpu], [exact], moved).outcome == "ok"
    for at, value in ((0, 7.0), (2, -np.inf), (2, np.nan), (3, np.inf), (4, 7.0)):
        wrong = right.copy()
        wrong[at] = value
        assert judge.judge([wrong], [cpu], [exact], moved).outcome == ("wrong" if at == 4 else "nonfinite")


def test_an_infinity_is_right_where_the_bound_reaches_beyond_the_type():
    exact = np.array([6.2e4, -6.2e4, 3.0e4, 6.7e4, 9.0e4])  # float16 ends at 65504
    moved = [[exact + 2e3], [exact - 2e3]]  # twice as much counts in doubt
    finite = exact.astype(np.float16)
    for at, value, outcome in (
        (0, np.inf, "ok"), (1, -np.inf, "ok"), (0, -np.inf, "nonfinite"), (2, np.inf, "nonfinite"),
        (3, 6.4e4, "ok"), (4, 6.4e4, "nonfinite"),
    ):  # fmt: skip
        got = finite.copy()
        got[at] = value
        assert judge.judge([got], [finite], [exact], moved, margin=2.0).outcome == outcome


def test_another_shape_or_type_is_found(run):
    got = run[0][0]
    assert outcome(got[:, :-1], run) == "type"
    assert outcome(got.astype(np.float64), run) == "type"


def test_missing_outputs_are_found(run):
    cpu, exact, moved = run
    assert judge.judge([], cpu, exact, moved).outcome == "type"


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_integers_must_be_equal(dtype):
    right = (np.arange(300).reshape(3, 100) % 2).astype(dtype)
    wrong = right.copy()
    wrong[2, 99] = 1 - wrong[2, 99]
    assert judge.judge([right], [right], [right], [[right], [right]]).outcome == "ok"
    assert judge.judge([wrong], [right], [right], [[right], [right]]).outcome == "wrong"
    # An element that rounding decides is not judged, the others are.
    verdict = judge.judge([wrong], [right], [right], [[right], [wrong]])
    assert (verdict.outcome, verdict.n_undecided) == ("ok", 1)


def test_an_error_of_the_cpu_is_not_put_on_the_device(run):
    cpu, exact, moved = run
    broken = cpu[0].copy()
    broken[5] += 1
    assert judge.judge(cpu, [broken], exact, moved).outcome == "oracle"


def test_a_result_that_rounds_as_the_cpu_does_step_by_step_passes(run):
    cpu, exact, moved = run
    other = cpu[0].copy()
    other[5, 5] += 1
    assert judge.judge([other], cpu, exact, moved, stepwise=[other]).outcome == "ok"
    other = other.copy()
    other[6, 6] += 1
    assert judge.judge([other], cpu, exact, moved, stepwise=cpu).outcome == "wrong"


def test_two_ways_of_the_cpu_are_believed_against_float64_where_the_chip_agrees(run):
    cpu, exact, moved = run
    tied = cpu[0].copy()
    tied[5] += 1
    assert judge.judge([tied], [tied], exact, moved, stepwise=[tied]).outcome == "ok"
    assert judge.judge(cpu, [tied], exact, moved, stepwise=[tied]).outcome == "oracle"


def test_a_result_that_rounds_as_the_cpu_does_passes(run):
    cpu, exact, moved = run
    other = cpu[0].copy()
    other[5, 5] += 1
    assert judge.judge([other], [other], exact, moved).outcome == "ok"
    assert judge.judge([other], cpu, exact, moved).outcome == "wrong"
