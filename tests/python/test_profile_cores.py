"""Profiles of programs over several cores: every core in the trace, who waits, what goes between whom and
over which link; and ranks that give NaN."""

import json
import os
import re
import subprocess
import sys

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

HEAD = r"""
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P
devices = np.array(jax.devices())
N = len(devices)
mesh = Mesh(devices, ("x",))
def mapped(f, outs=P("x"), mesh=mesh, ins=P("x")):
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False))
"""
# Rank i takes i + 1 turns, so all others wait for the last one.
UNEVEN = HEAD + r"""
def f(t):
    t = lax.fori_loop(0, 1 + lax.axis_index("x"), lambda k, c: jnp.tanh(c @ c), t)
    return lax.all_gather(lax.psum(t, "x"), "x", tiled=True)
jax.block_until_ready(mapped(f)(np.ones((N * 64, 64), np.float32)))
"""
EVEN = HEAD + r"""
jax.block_until_ready(mapped(lambda t: lax.ppermute(lax.psum(t @ t, "x"), "x", [(0, N - 1)]))(np.ones((N * 64, 64), np.float32)))
"""


def run(script, tmp_path=None, **env):
    own = {"NEURON_RT_NUM_CORES": "8", "VTRN_INSTANCE": "trn1.32xlarge", **env}
    if tmp_path:
        own["VTRN_PROFILE"] = str(tmp_path)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500,
                          env={**os.environ, **own})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "profile.json").read_text()) if tmp_path else done.stdout


def trace_of(tmp_path):
    pytest.importorskip("perfetto")
    import test_perfetto

    trace = test_perfetto.perfetto.Trace()
    trace.ParseFromString((tmp_path / "profile.pftrace").read_bytes())
    return test_perfetto.Reader(trace), trace


def data_of(tmp_path):
    page = (tmp_path / "profile.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def test_every_core_has_its_tracks_and_shows_whom_it_waits_for(tmp_path):
    profile = run(UNEVEN, tmp_path)
    times = profile["ranks"]["times"]
    waits = [t["waiting_ns"] for t in times]
    assert waits == sorted(waits, reverse=True) and waits[0] > 0 and waits[7] == 0
    reader, trace = trace_of(tmp_path)
    cores = [t for t in reader.tracks.values() if t.HasField("process")]
    assert [c.process.process_name.split(" (")[0] for c in cores] == [f"NeuronCore {i}" for i in range(8)]
    assert [c.process.process_name.split(", ")[1] for c in cores] == [f"rank {i}" for i in range(8)]
    assert len({c.process.pid for c in cores}) == 8
    waited = [s for slices in reader.slices.values() for s in slices if s.name == "waits for other members"]
    assert sum(s.end_ns - s.begin_ns for s in waited) == pytest.approx(sum(waits), abs=16)
    names = {t.uuid: t.name for t in reader.tracks.values()}
    for core in cores:
        lanes = {names[t.uuid] for t in reader.tracks.values() if t.parent_uuid == core.uuid}
        assert {"CC", "Tensor"} <= lanes


def test_the_report_has_a_timeline_of_each_core(tmp_path):
    run(UNEVEN, tmp_path)
    data = data_of(tmp_path)
    lanes = data["rank_lanes"]
    assert len(lanes) == 8 and lanes[data["ranks"]["shown"]] == -1
    assert sorted(k for k in lanes if k >= 0) == list(range(7)) == list(range(len(data["more"])))
    for r, k in enumerate(lanes):
        own = data["lanes"] if k < 0 else data["more"][k]
        ends = [sum(lane["t"]) + sum(lane["d"]) for lane in own]
        assert max(ends) / 10 <= data["ranks"]["times"][r]["step_ns"] + 1
        assert "CC" in [lane["name"] for lane in own]


def test_cores_that_do_the_same_share_a_timeline(tmp_path):
    run(EVEN.replace("lax.ppermute", "(lambda v, *_: v)"), tmp_path)
    data = data_of(tmp_path)
    assert data["rank_lanes"] == [-1] * 8 and data["more"] == []


def test_communication_is_told_by_collective_core_and_link(tmp_path):
    comm = run(EVEN, tmp_path)["communication"]
    by_op = {c["op"]: c for c in comm["collectives"]}
    assert by_op["all_reduce"]["bytes"] == by_op["collective_permute"]["bytes"] == 64 * 64 * 4
    assert by_op["all_reduce"]["first_group"] == list(range(8))
    matrix = comm["matrix"]["bytes"]
    each = 2 * 64 * 64 * 4 / 8
    for i in range(8):
        for k in range(8):
            more = 64 * 64 * 4 if (i, k) == (0, 7) else 0
            assert matrix[i][k] == pytest.approx((i != k) * each + more, abs=1)
    slowest = comm["slowest_link"]
    assert slowest["busy_ns"] == max(link["busy_ns"] for link in comm["links"])
    assert slowest["busy_ns"] == pytest.approx(1e9 * slowest["bytes"] / slowest["bytes_per_s"])
    assert {(link["from"], link["to"]) for link in comm["links"]} <= {
        (a, b) for a in range(16) for b in range(16) if a != b}  # fmt: skip
    assert len(comm["chips"]) == 16


@pytest.mark.parametrize("cores,is_refused", [("3", True), ("8", False)])
def test_groups_that_the_vendors_runtime_refuses_run_and_are_said_to_be(tmp_path, cores, is_refused):
    script = EVEN.replace("lax.ppermute", "(lambda v, *_: v)")
    [row] = run(script, tmp_path, NEURON_RT_NUM_CORES=cores)["communication"]["collectives"]
    said = row["refused_by_the_runtime"]
    assert ("1, 2, 8, 16 or a multiple of 32" in said) if is_refused else said is None


NAN = HEAD + r"""
def f(t):
    bad = jnp.where(lax.axis_index("x") == N - 3, jnp.nan, 1.0).astype(t.dtype)
    return lax.psum(lax.pmax(t, "x") + t.at[3].multiply(bad), "x")
t = jnp.ones((N * 5,), jnp.dtype(DTYPE))
try:
    print(np.asarray(mapped(f)(t)).astype(np.float64).sum())
except Exception as error:
    print(error)
print(np.asarray(mapped(lambda v: lax.psum(v, "x"), P())(np.ones(N * 4, np.int32))).tolist())  # the device goes on
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_rank_that_gives_nan_is_named(dtype):
    said = run(NAN.replace("DTYPE", repr(dtype)), VTRN_NAN="refuse")
    assert "rank 5 (core 5) gives NaN, in element 3 of operand 0" in said
    assert "stablehlo.all_reduce at " in said and said.endswith("[8, 8, 8, 8]\n")
    assert run(NAN.replace("DTYPE", repr(dtype))).startswith("nan")


def test_a_rank_that_is_computed_alone_is_named_too():
    script = NAN.replace("N - 3", "0").replace("DTYPE", "'float32'")
    assert "rank 0 (core 0) gives NaN, in element 3" in run(script, VTRN_NAN="refuse", VTRN_VALUES="one-rank")


def test_what_vtrn_nan_may_say():
    code = "import jax\ntry: jax.devices('neuron')\nexcept Exception as e: print(e)"
    assert "VTRN_NAN: 'yes' is neither refuse nor ignore" in run(code, VTRN_NAN="yes")
