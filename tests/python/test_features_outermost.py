"""Products whose features are summed over by the next product are made with the features outermost,
so that nothing is transposed in between. Values are those of the program."""

import re
import subprocess

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from chip_run import dump, export, run
from common import SEED
from paths import BUILD

BF16 = ml_dtypes.bfloat16
CHIPS = ["trn1", "trn2", "trn3", "inf2"]


def on_cpu(f, *args):
    with jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(True):
        return [np.asarray(y) for y in jax.jit(f)(*[np.asarray(a, np.float64) for a in args])]


def drawn(*shapes, dtype=np.float32):
    rng = np.random.default_rng(SEED + sum(map(sum, shapes)))
    return [(rng.standard_normal(s) / np.sqrt(s[0] if len(s) == 2 else 1)).astype(dtype) for s in shapes]


def layers(function):
    return lambda x, w, b, u, c: (function(x @ w + b) @ u + c,)


def rows_and_columns(x, w, b, u, c):
    """A factor a token, a bias a feature and numbers, on the way to the next product."""
    h = jnp.maximum((x @ w) * x[:, :1] + b, 0) * 0.5 - 1
    return (h @ u + c,)


def clipped(x, w, b, u, c):
    return (jnp.clip(jnp.where(x @ w > b, x @ w, b), -1, 1) @ u + c,)


FORMS = {
    "relu": layers(lambda h: jnp.maximum(h, 0)),
    "gelu": layers(jax.nn.gelu),
    "exact gelu": layers(lambda h: jax.nn.gelu(h, approximate=False)),
    "silu": layers(jax.nn.silu),
    "rows and columns": rows_and_columns,
    "two readers of one product": clipped,
}


def layer_arguments(rows, inner, depth, cols, dtype=np.float32):
    return drawn((rows, depth), (depth, inner), (inner,), (inner, cols), (cols,), dtype=dtype)


def heads(width, n_heads, batch=2, tokens=128):
    """Scores of attention heads from two products, and their values."""

    def f(x, wq, wk, wv, b):
        split = lambda w: (x @ w + b).reshape(batch, tokens, n_heads, width)  # noqa: E731
        q, k, v = split(wq), split(wk), split(wv)
        p = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * width**-0.5, -1)
        return (jnp.einsum("bhqk,bkhd->bqhd", p, v).reshape(batch * tokens, n_heads * width),)

    return f


def head_arguments(width, n_heads, batch=2, tokens=128, dtype=np.float32):
    size = width * n_heads
    return drawn((batch * tokens, 96), *[(96, size)] * 3, (size,), dtype=dtype)


@pytest.mark.parametrize("rows,inner", [(256, 128), (257, 511), (511, 640), (512, 1000), (1025, 129), (300, 513), (31, 2049)])  # fmt: skip
@pytest.mark.parametrize("name", FORMS)
def test_values_of_two_layers(name, rows, inner):
    args = layer_arguments(rows, inner, 96, 65)
    for got, want in zip(run(FORMS[name], *args), on_cpu(FORMS[name], *args)):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16], ids=["fp32", "bf16", "fp16"])
def test_values_in_each_type_on_each_chip(dtype, chip):
    args = layer_arguments(300, 384, 128, 256, dtype)
    got = [run(FORMS["gelu"], *args, chip=chip, threads=threads)[0] for threads in (1, 2)]
    bound = 1e-3 if dtype == np.float32 else 0.05
    np.testing.assert_allclose(got[0].astype(np.float64), on_cpu(FORMS["gelu"], *args)[0], rtol=bound, atol=bound)
    np.testing.assert_array_equal(got[0].view(np.uint8), got[1].view(np.uint8))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("width,n_heads", [(32, 12), (64, 4), (80, 3), (96, 2), (128, 2), (160, 2)])
def test_heads_begin_on_any_rows_of_the_array(width, n_heads, chip):
    args = head_arguments(width, n_heads)
    got, want = run(heads(width, n_heads), *args, chip=chip)[0], on_cpu(heads(width, n_heads), *args)[0]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chip", CHIPS)
def test_the_kernels_agree_with_the_reference_without_races(chip, tmp_path):
    for i, (f, args) in enumerate([(heads(64, 4), head_arguments(64, 4, dtype=BF16)),
                                   (FORMS["gelu"], layer_arguments(256, 640, 128, 256, BF16))]):  # fmt: skip
        artifact = tmp_path / f"program{i}.mlirbc"
        artifact.write_bytes(export(f, *args))
        command = [BUILD / "src/cli/vtrn", "run", artifact, "--random", "--verify", "--check", "--chip", chip]
        subprocess.run(command, check=True, capture_output=True)


def n_transposes(text):
    return len(re.findall("pe_transpose", text))


def test_the_second_layer_transposes_nothing(tmp_path):
    args = layer_arguments(512, 640, 128, 256)
    text = dump(FORMS["relu"], *args, stage="emit", tmp_path=tmp_path)
    assert n_transposes(text) == 4  # of the first layer's input: 512 rows


def test_neighbouring_heads_are_read_where_their_product_left_them(tmp_path):
    """Two heads of 64 share the partitions of a tile: the second one's begin at 64."""
    args = head_arguments(64, 2)
    text = dump(heads(64, 2), *args, stage="emit", tmp_path=tmp_path)
    starts = re.findall(r"ldweights sbuf\[(\d+):(\d+)", text)
    assert ("0", "64") in starts and ("64", "128") in starts


def test_a_value_that_others_read_keeps_its_features_innermost(tmp_path):
    args = layer_arguments(512, 640, 128, 256)

    def shown(x, w, b, u, c):
        h = jnp.maximum(x @ w + b, 0)
        return h @ u + c, h

    def trained(x, w, b, u, c):
        return jax.grad(lambda w, b, u: (jnp.maximum(x @ w + b, 0) @ u + c).sum(), argnums=(0, 1, 2))(w, b, u)

    for f in (shown, trained):
        text = dump(f, *args, stage="graph", tmp_path=tmp_path)
        products = re.findall(r"dot_general %(\d+), %(\d+)", text)
        assert ("0", "1") in products, text
    text = dump(FORMS["relu"], *args, stage="graph", tmp_path=tmp_path)
    assert ("1", "0") in re.findall(r"dot_general %(\d+), %(\d+)", text), text


def narrow_heads(batch, tokens, n_heads=4, width=64):
    """Scores of heads whose products are in bf16 and all else in fp32."""

    def f(x, wq, wk, b):
        split = lambda w: (jnp.dot(x, w, preferred_element_type=jnp.float32) + b).reshape(batch, tokens, n_heads, width)  # noqa: E731
        q, k = split(wq).astype(jnp.bfloat16), split(wk).astype(jnp.bfloat16)
        return (jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32),)

    size = n_heads * width
    x, wq, wk = drawn((batch * tokens, 96), (96, size), (96, size), dtype=BF16)
    return f, (x, wq, wk, *drawn((size,)))


@pytest.mark.parametrize("batch, tokens, is_turned", [(2, 128, True), (3, 200, True), (30, 10, False), (6, 50, False)])
def test_a_conversion_before_the_scores_changes_nothing(batch, tokens, is_turned, tmp_path):
    """Heads of few tokens stay as they are: their columns would be short transfers."""
    f, args = narrow_heads(batch, tokens)
    text = dump(f, *args, stage="graph", tmp_path=tmp_path)
    assert (("1", "0") in re.findall(r"dot_general %(\d+), %(\d+)", text)) == is_turned, text
    got, want = run(f, *args)[0], on_cpu(f, *args)[0]
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=np.abs(want).max() / 100)


def test_few_tokens_stay_as_they_are(tmp_path):
    for rows in (8, 128, 255):
        text = dump(FORMS["relu"], *layer_arguments(rows, 640, 128, 256), stage="graph", tmp_path=tmp_path)
        assert ("0", "1") in re.findall(r"dot_general %(\d+), %(\d+)", text), text
