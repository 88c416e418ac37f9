"""Plans of a dozen small programs, as text that a person can review: what joins which kernel, in what
tiles, where in SBUF. VTRN_UPDATE_GOLDEN=1 writes the files anew; read what changed before you commit."""

import os
import pathlib
import re
import subprocess

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from paths import BUILD

GOLDEN = pathlib.Path(__file__).parent / "golden_plans"


def f32(*shape):
    return np.zeros(shape, np.float32)


def bf16(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def i32(*shape):
    return np.zeros(shape, np.int32)


def gated(x, a, b):
    return jax.nn.silu(x @ a) * (x @ b)


def norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    return centred * lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * scale + shift


def attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", q, k) / 8)
    return jnp.einsum("bqk,bkd->bqd", weights, v)


def convolution(x, w, b):
    y = lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(y + b)


def embedding_gradient(table, index):
    return jax.grad(lambda t: (t[index] ** 2).sum())(table)


def update(params, grads):
    return params - 0.1 * grads


def cross_entropy(z, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], -1).mean()


def stacked_update(w, x):
    def loss(w):
        return ((x @ w[0] @ w[1]) ** 2).sum()

    return w - 0.1 * jax.grad(loss)(w)


def heads_joined(q, k, a):
    dq, dk = jnp.einsum("hqk,khd->qhd", a, k), jnp.einsum("hqk,qhd->khd", a, q)
    return jnp.concatenate([dq.reshape(128, 256), dk.reshape(128, 256)], 1)


PROGRAMS = {
    "elementwise": (lambda x, y: jnp.tanh(x) * y + 1, (f32(1000, 640), f32(640))),
    "softmax": (lambda x: jax.nn.softmax(x), (f32(128, 1000),)),
    "long_softmax": (lambda x: jax.nn.softmax(x), (f32(8, 50021),)),
    "wide_bias": (lambda x, b: jnp.tanh(x + b) * b, (f32(300, 50021), f32(50021))),
    "wide_gated": (gated, (f32(256, 2048), f32(2048, 1024), f32(2048, 1024))),
    "blocked": (lambda a, b: a @ b, (bf16(4096, 4096), bf16(4096, 4096))),
    "long_k": (lambda a, b: a.T @ b, (bf16(32768, 1024), bf16(32768, 1024))),
    "wide_layer": (lambda x, w, b: jnp.tanh(x @ w + b), (bf16(1024, 1024), bf16(1024, 4096), bf16(4096))),
    "norm": (norm, (f32(256, 768), f32(768), f32(768))),
    "gated": (gated, (f32(256, 256), f32(256, 640), f32(256, 640))),
    "two_layers": (lambda x, a, b: jax.nn.relu(x @ a) @ b, (f32(256, 128), f32(128, 512), f32(512, 128))),
    "attention": (attention, (f32(4, 128, 64), f32(4, 128, 64), f32(4, 128, 64))),
    "convolution": (convolution, (f32(2, 16, 16, 32), f32(3, 3, 32, 64), f32(64))),
    "transpose": (lambda x: x.T + 1, (f32(1000, 640),)),
    "column_sum": (lambda x: (x * x).sum(0), (f32(1000, 96),)),
    "embedding_gradient": (embedding_gradient, (f32(1000, 64), i32(256))),
    "embedding_gradient_bf16": (embedding_gradient, (f32(5000, 64).astype(jnp.bfloat16), i32(256))),
    "cross_entropy": (jax.value_and_grad(cross_entropy), (f32(256, 5000), i32(256))),
    "stacked_update": (stacked_update, (f32(2, 256, 256), f32(64, 256))),
    "heads_joined": (heads_joined, (f32(128, 4, 64), f32(128, 4, 64), f32(4, 128, 128))),
    "scan": (lambda x, w: lax.scan(lambda c, w: (jnp.tanh(c @ w), ()), x, w)[0], (f32(16, 64), f32(5, 64, 64))),
    "sort": (lambda x: jnp.sort(x), (f32(64, 100),)),
    "concatenate": (lambda x, y: jnp.concatenate([x, y[:, ::-1]], 1), (f32(64, 100), f32(64, 28))),
    "bf16": (
        lambda x, w: jnp.dot(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)).astype(jnp.float32) * 2,
        (f32(256, 256), f32(256, 128)),
    ),
}


def without_places(text):
    """Source lines are those of this file: they move."""
    return re.sub(r' "([\w.]*)[^"]*"', r" \1", text)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_plan_is_the_one_that_was_reviewed(name, tmp_path):
    f, args = PROGRAMS[name]
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(exported.mlir_module_serialized)
    command = [BUILD / "src/cli/vtrn", "compile", artifact, "--dump", "form,place", "--chip", "trn1"]
    text = without_places(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("VTRN_UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


def gelu_gradient(x, c):
    return jax.vjp(jax.nn.gelu, x)[1](c)[0]


def flax_norm(x, gain, shift):
    mean, square = x.mean(-1, keepdims=True), lax.square(x).mean(-1, keepdims=True)
    return (x - mean) * (lax.rsqrt(jnp.maximum(0, square - lax.square(mean)) + 1e-5) * gain) + shift


# What the passes make of graphs.
GRAPHS = {
    "graph_silu": (lambda x, c: jax.vjp(jax.nn.silu, x)[1](c)[0], (f32(64, 128), f32(64, 128))),
    "graph_gelu_gradient": (gelu_gradient, (f32(64, 128), f32(64, 128))),
    "graph_exact_gelu": (lambda x: jax.nn.gelu(x, approximate=False), (f32(64, 128),)),
    "graph_softmax": (lambda x: jax.nn.softmax(x), (f32(64, 128),)),
    "graph_cross_entropy": (jax.value_and_grad(cross_entropy), (f32(256, 5000), i32(256))),
    "graph_stacked_update": (stacked_update, (f32(2, 256, 256), f32(64, 256))),
    "graph_flax_norm": (flax_norm, (f32(64, 128), f32(128), f32(128))),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_is_the_one_that_was_reviewed(name, tmp_path):
    f, args = GRAPHS[name]
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(jax.export.export(jax.jit(f), platforms=["cpu"])(*args).mlir_module_serialized)
    command = [BUILD / "src/cli/vtrn", "compile", artifact, "--dump", "graph"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = re.sub(r" // .*", "", text)
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("VTRN_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


SWITCHED = {"--passes": "gated", "--fuse": "two_layers", "--resident": "two_layers", "--pipeline": "two_layers",
            "--schedule": "attention"}  # fmt: skip


@pytest.mark.parametrize("switch,name", SWITCHED.items())
def test_each_decision_can_be_switched_off(switch, name, tmp_path):
    f, args = PROGRAMS[name]
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    artifact = tmp_path / "program.mlirbc"
    artifact.write_bytes(exported.mlir_module_serialized)

    def dump(*options):
        command = [BUILD / "src/cli/vtrn", "compile", artifact, "--dump", "place,emit", *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert dump() == dump(switch, "on") != dump(switch, "off")
