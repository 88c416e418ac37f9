"""Sums over several cores that become one collective, and when they run: values have the bits of sums by
themselves (NumPy adds in the order of ranks), and most of their time is beside other work."""

import json
import os
import subprocess
import sys

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

HEAD = r"""
import sys, jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P
N = 8
devices = np.array(jax.devices()[:N])
mesh = Mesh(devices, ("x",))
def mapped(f, ins, outs, mesh=mesh):
    return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False))
def draw(*shape, dtype=np.float32):
    x = np.random.default_rng(sum(shape)).standard_normal(shape) * 100
    return x.astype(dtype)
def in_order(a):  # a[ranks, ...]
    wide = np.float32 if a.dtype not in (np.int32, np.uint8) else a.dtype
    total = a[0].astype(wide)
    for part in a[1:]:
        total = total + part.astype(wide)
    return total.astype(a.dtype)
def same(got, want):
    got = np.asarray(got)
    assert got.dtype == want.dtype and got.shape == want.shape, (got.dtype, want.dtype, got.shape, want.shape)
    assert got.tobytes() == want.tobytes(), np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
"""

MANY = HEAD + r"""
sizes = (1, 31, 33, 127, 129, 511, 513, 1000, 4096)
kinds = (np.float32, jnp.bfloat16, np.float16, np.int32, np.uint8)
a = {f"{n} {np.dtype(t)}": draw(N, n, dtype=t) if t not in (np.int32, np.uint8) else
     (np.abs(draw(N, n)) % 100).astype(t) for n in sizes for t in kinds}
got = mapped(lambda t: jax.tree.map(lambda v: lax.psum(v * 2, "x"), t), P("x"), P())(a)
for k in a:
    same(got[k], in_order(a[k] * a[k].dtype.type(2))[None])
"""

GROUPS = HEAD + r"""
two = Mesh(devices.reshape(2, 4), ("a", "b"))
x = [draw(N, n) for n in (33, 129, 500, 1000)]
def f(*t):
    return ([lax.psum(v, "a") for v in t], [lax.psum(v, "b") for v in t], [lax.pmax(v, "b") for v in t],
            [lax.psum_scatter(v[0].reshape(1, -1)[:, :32].reshape(4, 8), "b", tiled=True) for v in t])
over_a, over_b, most, cut = mapped(f, P(("a", "b")), (P("b"), P("a"), P("a"), P(("a", "b"))), two)(*x)
for v, s, r, m, c in zip(x, over_a, over_b, most, cut):
    grid = v.reshape(2, 4, -1)
    same(s, in_order(grid))
    same(r, np.stack([in_order(g) for g in grid]))
    same(m, grid.max(1))
    same(c, np.concatenate([in_order(g[:, :32].reshape(4, 4, 8)) for g in grid]))
"""

LARGE = HEAD + r"""
x = [draw(N, 1300 * 1024) for _ in range(3)]  # 5 MiB of a core each
for got, v in zip(mapped(lambda *t: [lax.psum(v, "x") for v in t], P("x"), P())(*x), x):
    same(got, in_order(v)[None])
"""

STEP = HEAD + r"""
def loss(w, x):
    for layer in w:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return (x * x).mean()
def step(w, x):
    value, grads = lax.pmean(jax.value_and_grad(loss)(w, x), "x")
    return jax.tree.map(lambda p, g: p - 0.1 * g, w, grads), value
w = [{"w": draw(256, 256) * 1e-3, "b": draw(256) * 1e-3} for _ in range(8)]
x = draw(N * 512, 256) * 1e-2
jax.block_until_ready(mapped(step, (P(), P("x")), (P(), P()))(w, x))
"""


def run(script, tmp_path, **env):
    own = {"NEURON_RT_NUM_CORES": "8", "VTRN_INSTANCE": "trn1.32xlarge", "VTRN_PROFILE": str(tmp_path), **env}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=500,
                          env={**os.environ, **own})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "profile.json").read_text())["ranks"]


def test_many_sums_become_few_and_keep_their_bits(tmp_path):
    ranks = run(MANY, tmp_path)
    assert 1 <= ranks["n_collectives"] <= 15  # of 45


def test_sums_of_other_groups_and_kinds_stay_apart(tmp_path):
    ranks = run(GROUPS, tmp_path)
    assert 4 <= ranks["n_collectives"] < 16


def test_one_takes_no_more_than_a_bucket(tmp_path):
    assert run(LARGE, tmp_path)["n_collectives"] == 3


@pytest.mark.parametrize("instance,most_us", [("trn1.32xlarge", 110), ("trn2.48xlarge", 200)])
def test_the_sums_of_a_training_step_run_beside_its_backward_pass(tmp_path, instance, most_us):
    """17 sums at the end, one after the other, would leave 151 and 335 us in which nothing else runs."""
    ranks = run(STEP, tmp_path, VTRN_INSTANCE=instance, VTRN_VALUES="off", VTRN_CHECK="")
    assert ranks["n_collectives"] <= 10
    assert ranks["exposed_ns"] < 1000 * most_us
    slowest = max(t["step_ns"] for t in ranks["times"])
    assert slowest >= ranks["step_ns_without_collectives"]
    assert ranks["hidden_ns"] + ranks["exposed_ns"] >= 0.9 * ranks["times"][0]["collective_ns"]
