"""Operations are shown by the user's names of scopes and modules, and what jax.random writes as one row."""

import json
import subprocess
import sys
import os

import conftest
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
pytest.importorskip("jax")

STEP = """
import jax, jax.numpy as jnp

def mlp(p, x):
    with jax.named_scope("mlp"):
        return jax.nn.relu(x @ p)

def loss(p, x, key):
    with jax.named_scope("layer1"):
        k1, k2 = jax.random.split(key)
        x = jnp.where(jax.random.bernoulli(k1, 0.5, x.shape), mlp(p, x), 0)
    with jax.named_scope("layer2"):
        x = jax.lax.fori_loop(0, 2, lambda i, v: mlp(p, v), x)
    return (jnp.tanh(x) + jax.random.normal(k2, x.shape)).sum()

x = jnp.ones((64, 64))
jax.jit(jax.grad(loss))(x, x, jax.random.key(0)).block_until_ready()
jax.jit(jax.vmap(jax.grad(lambda v: mlp(x, jnp.sin(v)).sum())))(jnp.ones((3, 64))).block_until_ready()
"""

FLAX = """
import jax, jax.numpy as jnp
from flax import linen as nn

class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, name="out")(nn.tanh(nn.Dense(33, name="hidden")(x)))

x = jnp.ones((4, 16))
net = Net()
p = net.init(jax.random.key(0), x)
jax.jit(net.apply)(p, x).block_until_ready()
"""


def programs(code, directory):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "VTRN_PROFILE": str(directory)})
    assert done.returncode == 0, done.stderr
    return [json.loads(f.read_text()) for f in sorted(directory.glob("*/profile.json"))]


def test_rows_have_the_scopes_of_the_user(tmp_path):
    found = programs(STEP, tmp_path)
    (step,) = (p for p in found if p["name"] == "jit_loss")
    rows = step["top_ops"]
    scopes = {(r["op"].removeprefix("stablehlo."), r["scope"]) for r in rows}
    assert ("dot_general", "layer1/mlp") in scopes
    assert ("dot_general", "layer1/mlp, backward") in scopes
    assert any(op == "dot_general" and scope.startswith("layer2/mlp") for op, scope in scopes)
    names = {part for _, scope in scopes for part in scope.replace(", backward", "").split("/")}
    assert names <= {"layer1", "layer2", "mlp", "rng", ""}, names
    for row in rows:  # the line, as ever
        assert row["scope"] == "rng" or row["place"].startswith("<string>:") or not row["scope"]
    (vmapped,) = (p for p in found if p["name"] == "jit__lambda")
    assert {"mlp", "mlp, backward"} & {r["scope"] for r in vmapped["top_ops"]}


def test_random_numbers_are_one_row(tmp_path):
    (step,) = (p for p in programs(STEP, tmp_path) if p["name"] == "jit_loss")
    rows = [r for r in step["top_ops"] if r["scope"].endswith("rng")]
    (row,) = rows
    assert row["op"] == "random numbers" and row["engine_ns"] > 0
    assert not any("xor" in r["op"] or "shift" in r["op"] for r in step["top_ops"])


def test_modules_of_flax_are_scopes(tmp_path):
    pytest.importorskip("flax")
    (net,) = (p for p in programs(FLAX, tmp_path) if p["name"] in ("jit_apply", "jit_Net"))
    scopes = {r["scope"] for r in net["top_ops"] if "dot" in r["op"]}
    assert any(s.endswith("hidden") for s in scopes) and any(s.endswith("out") for s in scopes)
