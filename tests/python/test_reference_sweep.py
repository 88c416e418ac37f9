"""Sweeps JAX's own operator cases through the reference, and through the compiler and the device, and
compares with JAX on the CPU.

A fixed sample runs by default; VTRN_SWEEP=all (or the mark `slow`) runs every case. Counts per
primitive are printed at the end (pytest -s)."""

import collections
import os
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pytest
import capi
from reference_oracle import Refused, both, compare, evaluate

test_harnesses = pytest.importorskip("jax._src.internal_test_util.test_harnesses")

# The CPU lowering calls a library (LAPACK), or the bits are unspecified.
LIBRARY_CALLS = ("custom_call target", "does not know this custom_call",
                 "neither a lowering onto the engines nor a reference")


def harnesses(keep):
    # The same case has the same name each time, so the sample is the same each time.
    cases = [h for h in test_harnesses.all_harnesses if not h.jax_unimplemented or all(
        not u.filter(device="cpu", dtype=h.dtype) for u in h.jax_unimplemented)]
    return [h for h in cases if zlib.crc32(h.fullname.encode()) % keep == 0]


def on_device(artifact, arrays):
    """What reference_oracle.evaluate does, by the compiler and the engines."""
    device = capi.Device(threads=2)
    try:
        return device.compile(artifact)(*arrays)
    except capi.VtrnError as e:
        raise Refused(str(e)) from e
    finally:
        device.close()


def outcome(harness, run):
    """ "passed", or why not."""
    args = harness.dyn_args_maker(np.random.RandomState(zlib.crc32(harness.fullname.encode())))
    try:
        want, got = both(harness.dyn_fun, *args, run=run)
    except Refused as e:
        if any(s in str(e) for s in LIBRARY_CALLS):
            return "library call"
        return "refused: " + str(e).replace("\n", " ")
    try:
        compare(want, got)
    except AssertionError as e:
        return "wrong: " + " ".join(str(e).split())[:160]
    return "passed"


def sweep(keep, run):
    counts = collections.defaultdict(collections.Counter)
    failures = []
    for h in harnesses(keep):
        try:
            o = outcome(h, run)
        except (ValueError, TypeError, NotImplementedError) as e:
            o = "not exported: " + " ".join(str(e).split())[:120]
        counts[h.group_name][o.split(":")[0]] += 1
        if o.startswith(("refused", "wrong")):
            failures.append(f"{h.fullname}: {o}")
    for group in sorted(counts):
        print(group, dict(counts[group]))
    return counts, failures


def check(keep, run=evaluate):
    counts, failures = sweep(keep, run)
    total = sum((c for c in counts.values()), collections.Counter())
    print(dict(total))
    assert total["passed"] > 0
    assert not failures, "\n".join(failures)


def test_a_fixed_sample_of_the_operator_cases_of_jax_agrees_with_the_cpu():
    check(71)


def test_a_fixed_sample_of_the_operator_cases_of_jax_agrees_when_it_is_compiled():
    check(131, on_device)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("VTRN_SWEEP") != "all", reason="VTRN_SWEEP=all runs every case")
@pytest.mark.parametrize("run", [evaluate, on_device], ids=["reference", "compiled"])
def test_every_operator_case_of_jax_agrees_with_the_cpu(run):
    check(1, run)
