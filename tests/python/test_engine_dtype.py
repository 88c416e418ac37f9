"""Conversions of base/dtype.c against NumPy and ml_dtypes, exhaustive where the space is small."""

import ctypes
import warnings

import ml_dtypes
import numpy as np
import pytest
from common import SHORT_FLOATS
from engine_harness import each_level, lib

warnings.simplefilter("ignore", RuntimeWarning)
pytestmark = pytest.mark.skipif(lib is None, reason="the C tests are not built")

INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
# Without a format of the hardware: reference ops alone have them.
NARROW_FLOATS = {
    "fp4e2m1fn": ml_dtypes.float4_e2m1fn, "fp6e2m3fn": ml_dtypes.float6_e2m3fn,
    "fp6e3m2fn": ml_dtypes.float6_e3m2fn, "fp8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "fp8e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "fp8e4m3b11fnuz": ml_dtypes.float8_e4m3b11fnuz,
    "fp8e8m0fnu": ml_dtypes.float8_e8m0fnu,
}
NARROW_INTS = {"int2": ml_dtypes.int2, "int4": ml_dtypes.int4, "uint2": ml_dtypes.uint2, "uint4": ml_dtypes.uint4}
FLOATS = {**SHORT_FLOATS, **NARROW_FLOATS}
NUMPY = {**FLOATS, **NARROW_INTS, **{i: np.dtype(i).type for i in INTS}, "fp32": np.float32, "fp64": np.float64}


level = each_level(autouse=True)


def pointer(a):
    return a.ctypes.data_as(ctypes.c_void_p)


def code_of(name):
    code = lib.harness_dtype(name.encode())
    assert code >= 0
    return code


def load(name, a):
    out = np.empty(a.size, np.float32)
    lib.harness_load(code_of(name), pointer(a), pointer(out), ctypes.c_size_t(a.size))
    return out


def store(name, x):
    out = np.empty(x.size, NUMPY[name])
    lib.harness_store(code_of(name), pointer(x), pointer(out), ctypes.c_size_t(x.size))
    return out


def convert(a_name, a, b_name):
    out = np.empty(a.size, NUMPY[b_name])
    lib.harness_convert(code_of(a_name), pointer(a), code_of(b_name), pointer(out),
                        ctypes.c_size_t(a.size))
    return out


def bits(a):
    return np.ascontiguousarray(a).view(f"uint{8 * a.dtype.itemsize}")


def all_codes(dtype):
    n_bits = 8 * np.dtype(dtype).itemsize
    is_narrow_int = dtype in NARROW_INTS.values()
    bits_of_a_value = (ml_dtypes.iinfo if is_narrow_int else ml_dtypes.finfo)(dtype).bits
    if bits_of_a_value < 8:
        return np.arange(1 << bits_of_a_value, dtype=np.uint8).view(dtype)
    return np.arange(1 << n_bits, dtype=f"uint{n_bits}").view(dtype)


def awkward_floats():
    """Each finite code of each small format, every midpoint between neighbours, their fp32
    neighbours, and random bit patterns."""
    parts = [np.array([0, -0.0, np.inf, -np.inf, np.nan, -np.nan], np.float32)]
    for dtype in FLOATS.values():
        v = all_codes(dtype).astype(np.float32)
        v = np.unique(v[np.isfinite(v)])
        mid = ((v[1:].astype(np.float64) + v[:-1]) / 2).astype(np.float32)
        top = v[-1:] + (v[-1:] - v[-2:-1]) * np.array([0.25, 0.5, 0.75, 1, 2], np.float32)
        for p in (v, mid, top, -top):
            parts += [p, np.nextafter(p, np.float32(np.inf)), np.nextafter(p, np.float32(-np.inf))]
    rng = np.random.default_rng(7)
    parts.append(rng.integers(0, 1 << 32, 200_000, dtype=np.uint32).view(np.float32))
    parts.append((rng.standard_normal(20_000) * 300).astype(np.float32))
    parts.append(np.arange(-70000, 70000, dtype=np.float32) / 2)
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("name", [*FLOATS, *NARROW_INTS])
def test_every_code_loads_as_in_ml_dtypes(name):
    codes = all_codes(NUMPY[name])
    got, want = load(name, codes), codes.astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    ok = ~np.isnan(want)
    assert np.array_equal(bits(got)[ok], bits(want)[ok])


@pytest.mark.parametrize("name", FLOATS)
def test_stores_round_to_nearest_even_as_in_ml_dtypes(name):
    x = awkward_floats()
    if name == "fp8e8m0fnu":  # ml_dtypes rounds what is between 2^-127 and 2^-126 up
        np.testing.assert_array_equal(bits(store(name, np.array([2**-127, 1.4 * 2**-127, 1.6 * 2**-127], np.float32))),
                                      [0, 0, 1])
        x = x[(x <= 2.0**-127) | (x >= 2.0**-126)]
    got, want = bits(store(name, x)), bits(x.astype(FLOATS[name]))
    nan = np.isnan(x)
    if name == "fp16":  # the payload of a NaN is not ours to keep
        assert np.isnan(store(name, x)[nan]).all()
        got, want = got[~nan], want[~nan]
    wrong = np.flatnonzero(got != want)
    assert wrong.size == 0, (x[wrong[:5]], got[wrong[:5]], want[wrong[:5]])


@pytest.mark.parametrize("name", INTS)
def test_integer_stores_round_to_even_and_saturate(name):
    x = awkward_floats()[::11].copy()
    info = np.iinfo(name)
    want = [0 if np.isnan(v) else int(min(max(np.rint(float(v)), info.min), info.max))
            for v in x]
    assert np.array_equal(store(name, x), np.array(want, name))


def test_integers_load_by_value():
    rng = np.random.default_rng(11)
    for name in INTS:
        a = rng.integers(0, 256, 8 * 4001, dtype=np.uint8).view(name)
        assert np.array_equal(load(name, a), a.astype(np.float32)), name


def test_tf32_keeps_ten_bits_of_mantissa():
    x = awkward_floats()
    x = x[np.isfinite(x)]
    out = np.empty(x.size, np.float32)
    lib.harness_store(code_of("tf32"), pointer(x), pointer(out), ctypes.c_size_t(x.size))
    b = bits(x).astype(np.uint64)
    want = ((b + 0xFFF + ((b >> 13) & 1)) & ~np.uint64(0x1FFF)).astype(np.uint32)
    assert np.array_equal(bits(out), want)


@pytest.mark.parametrize("to", INTS)
@pytest.mark.parametrize("start", ["fp32", "bf16", "fp16", "fp64", "fp8e5m2"])
def test_convert_to_integers_truncates_and_saturates(start, to):
    a = awkward_floats()[::41].astype(NUMPY[start])
    info = np.iinfo(to)
    want = [0 if np.isnan(v) else
            info.max if v > info.max else info.min if v < info.min else int(v)
            for v in a.astype(np.float64).tolist()]
    assert np.array_equal(convert(start, a, to), np.array(want, to))


@pytest.mark.parametrize("name", NARROW_INTS)
def test_narrow_integers_saturate_or_wrap(name):
    x = awkward_floats()[::11].copy()
    info = ml_dtypes.iinfo(NARROW_INTS[name])
    low, high = int(info.min), int(info.max)
    want = [0 if np.isnan(v) else int(min(max(np.rint(float(v)), low), high)) for v in x]
    np.testing.assert_array_equal(store(name, x).astype(np.int32), want)
    truncated = [0 if np.isnan(v) else int(min(max(np.trunc(float(v)), low), high)) for v in x]
    np.testing.assert_array_equal(convert("fp32", x, name).astype(np.int32), truncated)
    a = np.arange(-300, 300, dtype=np.int32)
    wrapped = (a - low) % (high - low + 1) + low
    np.testing.assert_array_equal(convert("int32", a, name).astype(np.int32), wrapped)
    np.testing.assert_array_equal(convert(name, convert("int32", a, name), "int64"), wrapped)


@pytest.mark.parametrize("to", INTS)
@pytest.mark.parametrize("start", INTS)
def test_convert_between_integers_wraps(start, to):
    a = np.random.default_rng(5).integers(0, 256, 8 * 997, dtype=np.uint8).view(start)
    assert np.array_equal(convert(start, a, to), a.astype(to))


def rounded_to_odd(a):
    """fp32 for fp64: the value itself where fp32 has it, else the neighbour whose last bit is 1. Rounded on to a narrower type, it gives
    what one rounding of the fp64 gives."""
    near = a.astype(np.float32)
    beside = (near.view(np.int32) - (np.abs(near) > np.abs(a))) | 1
    return np.where(np.isfinite(a) & (near != a), beside, near.view(np.int32)).astype(np.int32).view(np.float32)


@pytest.mark.parametrize("to", [*SHORT_FLOATS, "fp32"])
@pytest.mark.parametrize("start", ["fp64", "fp32", "int32", "int64", "bf16", "fp16"])
def test_fp64_rounds_once_and_other_types_by_way_of_fp32(start, to):
    """ml_dtypes is no reference for fp64: its releases before 0.7 round it twice."""
    rng = np.random.default_rng(3)
    a = awkward_floats()[::5]
    a = a[~np.isnan(a)]
    if start.startswith("int"):
        a = rng.integers(-(2**31), 2**31, 20_000).astype(start)
        a >>= rng.integers(0, 31, a.size).astype(start)
        want = a.astype(np.float32).astype(NUMPY[to])
    else:
        a = a.astype(NUMPY[start])
        if start == "fp64":  # beyond fp32, to tell one rounding from two
            a = a * (1 + rng.choice([-1, 0, 1], a.size) * 2.0**-40)
        want = (rounded_to_odd(a) if start == "fp64" and to != "fp32" else a).astype(NUMPY[to])
    got = convert(start, a, to)
    nan = np.isnan(want.astype(np.float32))
    assert np.array_equal(nan, np.isnan(got.astype(np.float32)))
    wrong = np.flatnonzero((bits(got) != bits(want)) & ~nan)
    assert wrong.size == 0, (a[wrong[:5]], got[wrong[:5]], want[wrong[:5]])
