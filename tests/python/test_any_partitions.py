"""Programs on chips with fewer partitions than any that exists: what-if chip files."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import capi
from paths import ROOT


@pytest.fixture(scope="module", params=[7, 32, 64, 65, 100, 127])
def device(request, tmp_path_factory):
    text = (ROOT / "chips" / "trn1.toml").read_text()
    changed = text.replace("\npartitions = 128", f"\npartitions = {request.param}")
    assert changed != text
    path = tmp_path_factory.mktemp("chips") / f"partitions_{request.param}.toml"
    path.write_text(changed)
    d = capi.Device(str(path), threads=2)
    yield d
    d.close()


def rand(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def index(n, size):
    return np.random.default_rng(size).integers(0, size, n).astype(np.int32)


def conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


PROGRAMS = {
    "matmul": (lambda x, a, b: jax.nn.relu(x @ a) @ b, (rand(200, 130), rand(130, 513), rand(513, 65))),
    "long contraction": (lambda a, b: a @ b, (rand(17, 2000), rand(2000, 33))),
    "longer contraction": (lambda a, b: a.T @ b, (rand(4001, 130), rand(4001, 513))),
    "gradient": (jax.grad(lambda w, x: (jnp.tanh(x @ w) ** 2).sum()), (rand(130, 70), rand(200, 130))),
    "convolution": (conv, (rand(2, 9, 9, 20), rand(3, 3, 20, 33))),
    "softmax": (lambda x: jax.nn.softmax(x), (rand(133, 257),)),
    "column sums": (lambda x: (x * x).sum(0), (rand(1000, 96),)),
    "broadcasts": (lambda x, p: x + p, (rand(4, 64, 100), rand(64, 100))),
    "transpose": (lambda x: x.T + 1, (rand(300, 140),)),
    "sort": (lambda x: jnp.sort(x), (rand(130, 65),)),
    "scan": (lambda x: jnp.cumsum(x, -1), (rand(130, 65),)),
    "rows of a table": (lambda t, i: t[i], (rand(500, 33), index(201, 500))),
    "embedding gradient": (jax.grad(lambda t, i: (t[i] ** 2).sum()), (rand(500, 33), index(201, 500))),
    "updates that meet": (lambda v, i, j, u: v.at[i, j].add(u), (rand(33, 7, 20), index(48, 33), index(48, 7), rand(48, 20))),
    "a window at a place": (lambda x, i: lax.dynamic_slice(x, (i, 0), (5, 20)), (rand(300, 20), np.int32(123))),
    "fill": (lambda x: jnp.concatenate([x, jnp.ones((300, 20))]), (rand(7, 20),)),
    "a loop": (lambda x: lax.fori_loop(0, 3, lambda i, v: jnp.tanh(v @ v.T) @ v, x), (rand(40, 30),)),
    "random numbers": (lambda k: jax.random.uniform(k, (300,)), (np.array([1, 2], np.uint32),)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_number_of_partitions_computes_the_same(device, name):
    f, args = PROGRAMS[name]
    exported = jax.export.export(jax.jit(f), platforms=["cpu"])(*args)
    got = device.compile(exported.mlir_module_serialized)(*args)[0]
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        want = np.asarray(jax.jit(f)(*args))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("key,least", [("dma_queues", 8), ("semaphores", 16)])
def test_a_chip_with_too_few_of_what_programs_take_is_refused_in_plain_words(tmp_path, key, least):
    f, args = PROGRAMS["fill"]
    artifact = jax.export.export(jax.jit(f), platforms=["cpu"])(*args).mlir_module_serialized
    text = (ROOT / "chips" / "trn1.toml").read_text()
    for n in (least - 1, least):
        path = tmp_path / f"{key}_{n}.toml"
        path.write_text(re.sub(rf"(?m)^{key} = \d+", f"{key} = {n}", text))
        d = capi.Device(str(path))
        if n == least:
            d.compile(artifact)
        else:
            with pytest.raises(Exception, match=f"programs take {least} .*it has {n}; raise {key}"):
                d.compile(artifact)
        d.close()
