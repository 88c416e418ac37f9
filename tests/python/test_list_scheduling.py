"""The order in which a block's instructions run, and the engines that they run on, change no bit."""

import json
import subprocess

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from paths import BUILD

VTRN = BUILD / "src" / "cli" / "vtrn"
INSTANCES = {"trn1": "trn1.2xlarge", "trn2": "trn2.3xlarge", "trn3": "trn3-gen1-ultraserver"}


def shape(*sizes, dtype=np.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def attention(q, k, v):
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) * 0.125) @ v


def mlp_gradient(w, v, x):
    return jax.grad(lambda w, v: (jax.nn.gelu(x @ w) @ v).sum(), argnums=(0, 1))(w, v)


def norm(x, g):
    m = x.mean(-1, keepdims=True)
    return (x - m) * lax.rsqrt(((x - m) ** 2).mean(-1, keepdims=True) + 1e-5) * g


def recurrent(x, w):
    return lax.scan(lambda h, row: (jnp.tanh(h @ w + row),) * 2, x[0], x)


def updated(x, u, i):
    return jnp.concatenate([x, x]), x.at[i].add(u)


def convolved(x, w):
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return lax.reduce_window(jax.nn.relu(y), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def mixed(x, y):
    short = (x.astype(jnp.bfloat16) * 2 + 1).astype(jnp.float32) + y * 3
    return short, jnp.sort(x, -1), (x > y).sum(0), x.astype(jnp.int32) + 7


BF16 = jnp.bfloat16
PROGRAMS = {
    "attention": (attention, [shape(4, 129, 64)] * 3),
    "attention_bf16": (attention, [shape(2, 200, 64, dtype=BF16)] * 3),
    "mlp_gradient": (mlp_gradient, [shape(96, 640), shape(640, 33), shape(257, 96)]),
    "mlp_gradient_bf16": (mlp_gradient, [shape(*s, dtype=BF16) for s in ((128, 513), (513, 127), (300, 128))]),
    "norm": (norm, [shape(400, 1000), shape(1000)]),
    "recurrent": (recurrent, [shape(12, 3, 65), shape(65, 65)]),
    "updated": (updated, [shape(256, 250), shape(40, 250), shape(40, dtype=np.int32)]),
    "convolved": (convolved, [shape(2, 14, 14, 16), shape(3, 3, 16, 33)]),
    "mixed": (mixed, [shape(130, 70), shape(130, 70)]),
}


def vtrn(*arguments):
    return subprocess.run([VTRN, *arguments], check=True, capture_output=True, text=True).stdout


def artifact_of(name, tmp_path):
    f, args = PROGRAMS[name]
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(jax.export.export(jax.jit(f), platforms=["cpu"])(*args).mlir_module_serialized)
    return artifact


def outputs(artifact, tmp_path, chip, schedule, *options):
    program, results = tmp_path / f"{schedule}.vtrn", tmp_path / schedule
    vtrn("compile", artifact, "--chip", chip, "--schedule", schedule, "-o", program)
    vtrn("run", program, "--random", "--instance", INSTANCES[chip], "-o", results, *options)
    return [f.read_bytes() for f in sorted(results.iterdir())]


@pytest.mark.parametrize("chip", INSTANCES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_scheduled_program_gives_the_same_bits(name, chip, tmp_path):
    artifact = artifact_of(name, tmp_path)
    expected = outputs(artifact, tmp_path, chip, "off", "--threads", "1")
    assert expected and outputs(artifact, tmp_path, chip, "on", "--threads", "2", "--check") == expected


def test_scheduled_programs_take_less_time(tmp_path):
    """With the launch, which no order shortens; the scheduler's model of the core is not the timing model."""
    ratios = []
    for name in PROGRAMS:
        artifact, ns = artifact_of(name, tmp_path), {}
        for schedule in ("on", "off"):
            program = tmp_path / f"{schedule}.vtrn"
            vtrn("compile", artifact, "--schedule", schedule, "-o", program)
            ns[schedule] = json.loads(vtrn("run", program, "--random", "--json"))["step_ns"]
        ratios.append(ns["on"] / ns["off"])
    assert np.mean(ratios) < 0.95 and max(ratios) < 1.05, ratios
