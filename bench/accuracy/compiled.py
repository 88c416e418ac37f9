"""Rows of functions for which a hand-written kernel was published: written in JAX, compiled by vtrn,
beside the fastest kernel. kernels.csv has a line a measurement; size is what the function takes."""

import csv
import pathlib

import jax
import jax.numpy as jnp

from accuracy.layers import shape
from accuracy.models import bound_of, time_artifact
from accuracy.rows import Row

TABLE = pathlib.Path(__file__).with_name("kernels.csv")
DTYPES = {"bf16": jnp.bfloat16, "fp16": jnp.float16, "fp32": jnp.float32}


def matmul(dtype, m, k, n):
    """The left operand is transposed in memory, as the published kernels take it."""
    return (lambda a, b: a.T @ b), (shape(k, m, dtype=dtype), shape(k, n, dtype=dtype))


def gemm_gelu(dtype, m, k, n):
    shapes = (shape(m, k, dtype=dtype), shape(k, n, dtype=dtype), shape(n, dtype=dtype))
    return (lambda x, w, b: jax.nn.gelu(x @ w + b)), shapes


def attention(dtype, n_rows, width):
    def function(q, k, v):
        scores = jnp.einsum("rw,kw->rk", q, k, preferred_element_type=jnp.float32) * width**-0.5
        return jax.nn.softmax(scores, axis=-1).astype(dtype) @ v

    return function, (shape(n_rows, width, dtype=dtype),) * 3


def conv3x3(dtype, n_in, n_out, size):
    """One image, channels first, no padding, as the published kernels take it."""

    def function(x, w, b):
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        return y + b[:, None, None]

    image = shape(1, n_in, size, size, dtype=dtype)
    return function, (image, shape(n_out, n_in, 3, 3, dtype=dtype), shape(n_out, dtype=dtype))


def transpose(dtype, n):
    return (lambda x: x.T), (shape(n, n, dtype=dtype),)


def vector_add(dtype, n):
    return (lambda a, b: a + b), (shape(n, dtype=dtype),) * 2


FUNCTIONS = {f.__name__: f for f in (matmul, gemm_gelu, attention, conv3x3, transpose, vector_add)}


def measure(build):
    from accuracy import artifact

    rows = []
    with TABLE.open(newline="") as f:
        lines = list(csv.DictReader(f))
    for line in lines:
        function, shapes = FUNCTIONS[line["function"]](DTYPES[line["dtype"]], *map(int, line["size"].split()))
        timed = time_artifact(build, artifact.make(function, shapes), line["chip"])
        name = f"{line['function']} {line['size'].replace(' ', 'x')}, {line['dtype']}"
        ns_per_unit = {"us": 1e3, "ms": 1e6}[line["unit"]]
        rows.append(Row("compiled", name, line["chip"], line["source"], float(line["published"]),
                        timed["step_ns"] / ns_per_unit, line["unit"], line["half"], note=bound_of(timed)))
    return rows
