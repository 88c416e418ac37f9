"""Cases of engine_cases for MX instructions: narrow floats four to an element, a scale for each 8 partitions."""

import ml_dtypes
import numpy as np

import engine_harness as h
from engine_cases import PSUM, SBUF, case, f32, to_dtype

ELEMENTS = {"fp8e4m3fn_x4": ml_dtypes.float8_e4m3fn, "fp8e5m2_x4": ml_dtypes.float8_e5m2,
            "fp4e2m1fn_x4": ml_dtypes.float4_e2m1fn}
PACKED = tuple(ELEMENTS)
FP8 = PACKED[:2]


def values_of(words, name):
    """[P, F] words -> float64 [P, F, 4]."""
    bits = 4 if name.startswith("fp4") else 8
    codes = np.stack([words >> bits * i & (1 << bits) - 1 for i in range(4)], -1).astype(np.uint8)
    return codes.view(ELEMENTS[name]).astype(np.float64)


def words_of(values, name):
    codes = values.astype(ELEMENTS[name]).view(np.uint8).astype(np.uint32)
    return codes[..., 0] | codes[..., 1] << 8 | codes[..., 2] << 16 | codes[..., 3] << 24


def scale_rows(p):
    """The partition of the scales that counts for each of p partitions."""
    i = np.arange(p)
    return i // 32 * 32 + i % 32 // 8


def operand(t, name, p, f):
    """A packed tile of finite numbers with its scales, and float64 values [P, F, 4]."""
    x = t.operand(name, p, f, partition=0)
    s = t.operand("uint8", p if p > 32 else t.pick("rows of scales", (4, 32)), f, partition=0)
    top = {"fp8e4m3fn_x4": 440, "fp8e5m2_x4": 1000, "fp4e2m1fn_x4": 6}[name]
    words = words_of(t.rng.uniform(-top, top, (p, f, 4)), name)
    if name.startswith("fp4"):
        words = words & 15 | words >> 4 & 0xf0 | words >> 8 & 0xf00 | words >> 12 & 0xf000
    words = t.fill(x, words.astype(x.dtype))
    scales = t.fill(s, t.rng.integers(120, 134, (s.n, f)).astype(np.uint8))
    factors = 2.0 ** (scales[scale_rows(p)].astype(np.float64) - 127)
    return x, s, values_of(words, name) * factors[:, :, None]


def product(t, weights_type, moving_type):
    k, m, n = 32 * t.integer(1, 5), 2 * t.integer(1, 65), t.size(1, 16, 48, 130)
    w, ws, a = operand(t, weights_type, k, m)
    x, xs, b = operand(t, moving_type, k, n)
    out_type = t.pick("dst", ("bf16", "fp32", "fp32"))
    out = t.operand(out_type, m, n, False, space=PSUM)
    is_adding = t.flag("adding")
    old = f32(t.fill(out, t.rng.integers(-50, 50, (m, n)).astype(np.float32)))
    t.m.run("ldweights_mx", None, w, ws, engine="T", n_threads=t.threads)
    t.m.run("matmul_mx", out, x, xs, engine="T", n_threads=t.threads, flags=h.ACCUMULATE if is_adding else 0)
    want = np.einsum("kie,kje->ij", a, b) + (old if is_adding else 0)
    bound = (4 * k + 2) * 2.0**-24 * (np.einsum("kie,kje->ij", np.abs(a), np.abs(b)) + np.abs(old))
    bound += np.abs(want) * 2.0**-8 if out_type == "bf16" else 0
    assert (np.abs(f32(t.m.read(out)) - want) <= bound).all()


@case("ldweights_mx", None, PACKED, ["uint8"])
def ldweights_mx(t):
    product(t, t.pick("weights", PACKED), t.pick("moving", PACKED))


@case("matmul_mx", ["fp32", "bf16"], PACKED, ["uint8"])
def matmul_mx(t):
    product(t, t.pick("weights", PACKED), t.pick("moving", PACKED))


@case("quantize_mx", FP8, ["bf16", "fp16"], ["uint8"])
def quantize_mx(t):
    p, f, kind, source = 32 * t.integer(1, 5), t.size(1, 5, 24, 90), t.pick("dst", FP8), t.pick("src", ("bf16", "fp16"))
    d, x = t.operand(kind, p, f, False, partition=0), t.operand(source, p, 4 * f, partition=0)
    s = t.operand("uint8", p if p > 32 else t.pick("rows of scales", (4, 32)), f, False, partition=0)
    a = f32(t.fill(x, to_dtype(t.rng.standard_normal((p, 4 * f)) * 2.0 ** t.rng.integers(-9, 9, (p, 1)), source)))
    before, is_double = t.fill(s, t.rng.integers(0, 256, (s.n, f)).astype(np.uint8)), t.flag("double")
    t.run(d, x, s, arg=(int(is_double), 0))
    groups = a.reshape(p // 8, 8, f, 4)
    exponents = np.frexp(np.abs(groups).max(axis=(1, 3)))[1] - 1 - ({"fp8e4m3fn_x4": 8, "fp8e5m2_x4": 15}[kind] - is_double)
    scales = np.maximum(exponents + 127, 0).astype(np.uint8)
    top = {"fp8e4m3fn_x4": 448.0, "fp8e5m2_x4": 57344.0}[kind]
    divided = np.clip(groups / 2.0 ** (scales.astype(np.float64) - 127)[:, None, :, None], -top, top)
    assert np.array_equal(t.m.read(d), words_of(divided.reshape(p, f, 4).astype(np.float32), kind))
    want = before.copy()
    want[scale_rows(p)[::8]] = scales
    assert np.array_equal(t.m.read(s), want)
