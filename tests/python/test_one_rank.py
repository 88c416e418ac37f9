"""VTRN_VALUES=one-rank and ranks:..., which compute some ranks of a program over several cores and time
all. The oracle is NumPy, on the operands that the executed ranks give for the others."""

import json
import os
import subprocess
import sys

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

SCRIPT = r"""
import json, os, sys
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

N = 8
mode = os.environ.get("VTRN_VALUES", "on")
executed = {"one-rank": [0], "ranks:0-1": [0, 1], "ranks:2": [0, 2], "on": list(range(N))}[mode]
mesh = Mesh(np.array(jax.devices()[:N]), ("x",))
out = {}

def sources():
    others = [r for r in range(N) if r not in executed]
    s = list(range(N))
    for i, r in enumerate(others):
        s[r] = executed[i % len(executed)]
    return s

def parts(a):
    cut = a.reshape(N, -1, *a.shape[1:])
    return [cut[s] for s in sources()]

def run(f, spec, a, want, exact=True):
    got = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("x"), out_specs=spec, check_vma=False))(
        jax.device_put(a, NamedSharding(mesh, P("x"))))
    for shard in got.addressable_shards:
        if shard.device.id not in executed:
            try:
                np.asarray(shard.data)
            except Exception as e:
                assert "has no values: VTRN_VALUES computes those of some ranks alone" in str(e), e
                continue
            raise AssertionError(f"the shard of rank {shard.device.id} was read")
        value, w = np.asarray(shard.data), want(shard.device.id)
        assert value.dtype == w.dtype and value.shape == w.shape, (value.shape, w.shape)
        if exact:
            assert np.array_equal(value, w), (shard.device.id, value, w)
        else:
            np.testing.assert_allclose(value, w, rtol=1e-6)

for dtype in (np.int32, np.float32, np.float16, jnp.bfloat16, np.uint8):
    for n in (1, 31, 33, 129, 4099):
        a = np.round(np.random.default_rng(n).standard_normal((N, n)) * 3).astype(dtype)
        p = parts(a)
        total = np.sum([x.astype(np.float64) for x in p], 0).astype(dtype) if dtype != np.uint8 else np.sum(p, 0, dtype=np.uint8)
        run(lambda t: lax.psum(t, "x"), P("x"), a, lambda r: total)
        run(lambda t: lax.pmax(t, "x"), P("x"), a, lambda r: np.max(p, 0))
        run(lambda t: lax.all_gather(t, "x", tiled=True), P("x"), a, lambda r: np.concatenate(p))
        run(lambda t: lax.ppermute(t, "x", [(i, (i + 1) % N) for i in range(N)]), P("x"), a,
            lambda r: p[(r - 1) % N])
wide = np.arange(N * 16 * 3, dtype=np.float32).reshape(N * 16, 3)
p = parts(wide)
run(lambda t: lax.psum_scatter(t, "x", tiled=True), P("x"), wide, lambda r: np.sum(p, 0)[2 * r:2 * r + 2])
run(lambda t: lax.all_to_all(t, "x", 0, 1, tiled=True), P("x"), wide,
    lambda r: np.concatenate([x[2 * r:2 * r + 2] for x in p], 1))
run(lambda t: lax.psum(t, "x") * 0 + lax.axis_index("x"), P("x"), wide, lambda r: p[0] * 0 + np.float32(r))

# what lacks values passes it on, whatever way it goes
if mode != "on":
    y = jax.jit(jax.shard_map(lambda t: t + 1, mesh=mesh, in_specs=P("x"), out_specs=P("x")))(wide)
    shard = y.addressable_shards[3].data
    for bad in (lambda: shard + 1, lambda: jax.device_put(shard, jax.devices()[5]),
                lambda: jax.device_put(y, NamedSharding(mesh, P())).addressable_shards[5].data,
                lambda: np.asarray(y)):
        try:
            np.asarray(bad())
        except Exception as e:
            assert "has no values" in str(e), e
        else:
            raise AssertionError("it was read")
    assert np.array_equal(np.asarray(y.addressable_shards[0].data), wide[:16] + 1)

# donation
f = jax.jit(jax.shard_map(lambda w, t: w + lax.pmean(t.sum(0), "x"), mesh=mesh, in_specs=(P(), P("x")),
                          out_specs=P(), check_vma=False), donate_argnums=0)
w = jax.device_put(np.zeros(3, np.float32), NamedSharding(mesh, P()))
for _ in range(3):
    w = f(w, wide)
want = 3 * np.mean([x.sum(0) for x in p], 0)
np.testing.assert_allclose(np.asarray(w.addressable_shards[0].data), want, rtol=1e-6)
print("passed")
"""


def run(values, script=SCRIPT, **env):
    own = {"NEURON_RT_NUM_CORES": "8", "VTRN_INSTANCE": "trn2.48xlarge", "VTRN_VALUES": values,
           **({"VTRN_CHECK": ""} if values == "off" else {}), **env}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          env={**os.environ, **own}, timeout=500)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("values", ["on", "one-rank", "ranks:0-1", "ranks:2"])
def test_executed_ranks_get_what_executed_ranks_give(values):
    assert "passed" in run(values)


GROUPS = r"""
import jax, numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("data", "model"))
a = np.random.default_rng(0).standard_normal((8, 33)).astype(np.float32)
f = jax.jit(jax.shard_map(lambda t: lax.pmean(lax.psum(t, "model"), "data"), mesh=mesh,
                          in_specs=P(("data", "model")), out_specs=P(), check_vma=False))
got = np.asarray(f(a))
want = a[:4].sum(0, keepdims=True)
np.testing.assert_allclose(got, want, rtol=1e-6)
print("passed")
"""


def test_groups_that_are_executed_whole_exchange_what_is_theirs():
    assert "passed" in run("ranks:0-3", GROUPS)


STEP = r"""
import json, sys, jax, numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()), ("x",))
f = jax.jit(jax.shard_map(lambda t: lax.psum(t @ t, "x"), mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=False))
jax.block_until_ready(f(np.ones((8 * 64, 64), np.float32)))
"""


@pytest.mark.parametrize("values,mode,ranks", [("on", "all", 8), ("one-rank", "some", 1), ("off", "none", 0)])
def test_the_profile_says_whose_values_were_computed_and_times_all(tmp_path, values, mode, ranks):
    run(values, STEP, VTRN_PROFILE=str(tmp_path))
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["values"]["of"] == mode
    assert len(profile["values"].get("ranks", range(8 if mode == "all" else 0))) == ranks
    if mode == "some":
        assert "not the values of the whole run" in profile["values"]["note"]
    assert len(profile["ranks"]["times"]) == 8
    assert len({t["step_ns"] for t in profile["ranks"]["times"]}) == 1
    html = (tmp_path / "profile.html").read_text()
    assert ("not the values of the whole run" in html) == (mode == "some")


def test_all_modes_give_the_same_time(tmp_path):
    times = set()
    for values in ("on", "one-rank", "off"):
        run(values, STEP, VTRN_PROFILE=str(tmp_path / values))
        times.add(json.loads((tmp_path / values / "profile.json").read_text())["step_ns"])
    assert len(times) == 1


def test_ranks_that_a_program_does_not_have_are_refused():
    tried = STEP.replace("jax.block", "try: jax.block") + "except Exception as error: print(error)"
    said = run("ranks:99", tried)
    assert "VTRN_VALUES: rank 99: program" in said and "has 8 ranks, 0 to 7" in said
    assert "VTRN_VALUES: rank 8: program" in run("ranks:1-8", tried) and not run("ranks:7", tried)


@pytest.mark.parametrize("values", ["ranks:", "ranks:a", "ranks:3-1", "ranks:1,", "ranks:-1", "one", "ranks:99999999"])
def test_what_names_no_ranks_is_refused(values):
    code = "import jax\ntry: jax.devices('neuron')\nexcept Exception as e: print(e)"
    assert "VTRN_VALUES" in run(values, code)
