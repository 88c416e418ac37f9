"""vtrn.nki.tune: times of variants without their values are the times with them."""

import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import nki  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402


@nki.jit
def scale(a, columns, engine="vector", factor=2.0):
    """Doubles a in tiles of so many columns."""
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    assert a.shape[1] % columns == 0, "columns do not divide"
    for i in range(a.shape[1] // columns):
        tile = nl.load(a[:, nl.ds(i * columns, columns)])
        nisa.tensor_scalar(tile, tile, nl.multiply, factor, engine=getattr(nisa.engine, engine))
        nl.store(out[:, nl.ds(i * columns, columns)], tile)
    return out


A = np.random.default_rng(1).standard_normal((128, 4096)).astype(np.float32)


@pytest.mark.parametrize("jobs", [1, 2])
def test_variants_are_timed_as_profile_times_them(jobs, tmp_path):
    tuned = vtrn.nki.tune(scale, {"columns": [64, 512, 1000, 4096], "engine": ["vector", "gpsimd"]}, jobs=jobs)(A)
    np.testing.assert_array_equal(tuned.result, A * 2)
    assert [v.latency_ns is None for v in tuned.variants] == [p["columns"] == 1000 for p in
                                                              (v.parameters for v in tuned.variants)]
    assert "columns do not divide" in tuned.variants[4].error
    for v in tuned.variants:
        if v.latency_ns is None:
            continue
        done = vtrn.nki.profile(scale, tmp_path)(A, **v.parameters)
        assert (v.latency_ns, v.sbuf_peak_bytes, v.n_instructions) == (done.latency_ns, done.sbuf_peak_bytes,
                                                                      done.n_instructions), v
    assert tuned.best.latency_ns == min(v.latency_ns for v in tuned.variants if v.latency_ns)
    assert tuned.pareto[0] == tuned.best
    assert all(a.latency_ns < b.latency_ns and a.sbuf_peak_bytes > b.sbuf_peak_bytes
               for a, b in zip(tuned.pareto, tuned.pareto[1:]))
    assert tuned.table().count("\n") == 8


def test_a_variant_that_does_not_fit_is_told():
    big = np.zeros((128, 60000), np.float32)
    tuned = vtrn.nki.tune(scale, {"columns": [60000, 6000]})(big)
    assert tuned.best.parameters == {"columns": 6000}
    assert "out of capacity" in tuned.variants[0].error


def test_a_variant_that_raises_is_told_whatever_it_raises():
    def kernel(a, factor):
        return scale(a, 512, factor=float({"two": 2.0}[factor]))

    tuned = vtrn.nki.tune(kernel, {"factor": ["two", "three"]})(A)
    assert tuned.best.parameters == {"factor": "two"} and tuned.variants[1].error == "KeyError: 'three'"


def test_a_parameter_that_changes_the_result_is_an_error():
    def kernel(a, columns):
        return scale(a, columns, factor=float(columns))

    with pytest.raises(ValueError, match="gives another result"):
        vtrn.nki.tune(kernel, {"columns": [64, 4096]})(A)


def test_a_kernel_whose_loops_depend_on_data_is_timed_with_values():
    @nki.jit
    def kernel(a, n, columns):
        out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
        count = nisa.register_alloc(0)
        nisa.register_load(count, nl.load(n))
        tile = nl.load(a)
        for _ in nl.dynamic_range(count):
            nisa.tensor_scalar(tile[:, :columns], tile[:, :columns], nl.add, 0.0)
        nl.store(out, tile)
        return out

    found = [vtrn.nki.tune(kernel, {"columns": [512]})(A[:, :512].copy(), np.array([[n]], np.int32)).best
             for n in (1, 9)]
    assert found[1].n_instructions > found[0].n_instructions + 7


def test_a_space_without_a_legal_point_says_why():
    with pytest.raises(ValueError, match="no variant is legal.*columns do not divide"):
        vtrn.nki.tune(scale, {"columns": [1000]})(A)


def test_no_processes_are_refused():
    with pytest.raises(ValueError, match="tune: jobs=0; at least one process"):
        vtrn.nki.tune(lambda x, n: x, {"n": [1]}, jobs=0)
