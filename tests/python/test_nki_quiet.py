"""Copies out of PSUM that the program gives to the Scalar engine, whose arithmetic quiets a signalling NaN: only of what has none."""

import json

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import nki  # noqa: E402
import nki.isa as nisa  # noqa: E402
import nki.language as nl  # noqa: E402

# A NaN whose quiet bit is 0, an infinity's neighbour: exponent all ones, lowest bit of the fraction 1.
KINDS = {"float32": (np.float32, np.uint32, 0x7F800001), "bfloat16": (ml_dtypes.bfloat16, np.uint16, 0x7F81),
         "float16": (np.float16, np.uint16, 0x7C01)}
FUNCTIONS = ["copy", "exp", "relu", "sigmoid", "tanh", "gelu", "silu", "square", "sqrt", "rsqrt", "log", "abs", "erf", "sign",
             "softplus", "mish", "reciprocal", "sin"]


def signalling(name, shape):
    dtype, bits, nan = KINDS[name]
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape).astype(dtype)
    x.view(bits)[::3, ::5] = nan
    return x


def n_signalling(x, name):
    _, bits, nan = KINDS[name]
    quiet_bit = {"float32": 1 << 22, "bfloat16": 1 << 6, "float16": 1 << 9}[name]
    x = np.ascontiguousarray(x)
    return int((np.isnan(x.astype(np.float64)) & (x.view(bits) & quiet_bit == 0)).sum())


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", KINDS)
def test_activations_quiet_every_nan(name):
    functions = [getattr(nl, f) for f in FUNCTIONS if hasattr(nl, f)]

    @nki.jit
    def kernel(x):
        out = nl.ndarray((len(functions), 128, 32), x.dtype, buffer=nl.shared_hbm)
        tile = nl.ndarray((128, 32), x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(tile, x)
        for i, f in enumerate(functions):
            made = nl.ndarray((128, 32), x.dtype, buffer=nl.sbuf)
            nisa.activation(made, f, tile)
            nisa.dma_copy(out[i], made)
        return out

    x = signalling(name, (128, 32))
    assert n_signalling(x, name) == 43 * 7 and len(functions) >= 15
    assert n_signalling(np.asarray(kernel(x)), name) == 0


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("computes", [True, False])
def test_copies_of_transposes_are_shared_where_the_bits_are_the_same(tmp_path, computes):
    @nki.jit
    def kernel(x):
        out = nl.ndarray((16, 128, 512), nl.bfloat16, buffer=nl.shared_hbm)
        sums = nl.ndarray((128, 64), nl.float32, buffer=nl.shared_hbm)
        tile = nl.ndarray((128, 512), nl.bfloat16, buffer=nl.sbuf)
        of_vector = nl.ndarray((128, 64), nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(tile, x)
        for i in range(16):
            made = nl.ndarray((128, 512), nl.bfloat16, buffer=nl.sbuf)
            nisa.activation(made, nl.square, tile)
            for j in range(4):
                nisa.tensor_reduce(of_vector[:, 4 * i + j : 4 * i + j + 1], nl.maximum, made, axis=1)
            for j in range(4):
                turned = nl.ndarray((128, 128), nl.bfloat16, buffer=nl.psum)
                nisa.nc_transpose(turned, (made if computes else tile)[:, j * 128 : (j + 1) * 128])
                back = nl.ndarray((128, 128), nl.bfloat16, buffer=nl.sbuf)
                nisa.tensor_copy(back, turned)
                nisa.dma_copy(out[i, :, j * 128 : (j + 1) * 128], back)
        nisa.dma_copy(sums, of_vector)
        return out, sums

    x = signalling("bfloat16", (128, 512))
    found = vtrn.nki.profile(kernel, str(tmp_path))(x)
    result, alone = (np.asarray(r[0]) for r in (found.result, kernel(x)))
    assert (result.view(np.uint16) == alone.view(np.uint16)).all()
    with open(tmp_path / "profile.json") as f:
        on_scalar = json.load(f)["engines"]["Scalar"]["n_instructions"] - 16
    assert on_scalar >= 16 if computes else on_scalar == 0
    assert computes or n_signalling(result, "bfloat16") == 16 * 43 * 103
