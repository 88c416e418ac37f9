"""nl.sin, nl.cos and nl.tan of any angle, in both generations, against an exact reduction by pi of 400 bits."""

import fractions
import warnings

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("vtrn.nki", exc_type=ImportError)
import vtrn.nki  # noqa: E402

vtrn.nki.install(force=True)
import neuronxcc.nki  # noqa: E402
import neuronxcc.nki.language as nl1  # noqa: E402

from vtrn.nki import language as nl  # noqa: E402

rng = np.random.default_rng(23)


def arctan_of_inverse(n, bits):
    """arctan(1 / n), times 2^bits."""
    total, power, k = 0, (1 << bits) // n, 0
    while power:
        total += (-1)**k * (power // (2 * k + 1))
        power //= n * n
        k += 1
    return total


HALF_PI = fractions.Fraction(8 * arctan_of_inverse(5, 500) - 2 * arctan_of_inverse(239, 500), 1 << 500)  # Machin's


def exact(name, x):
    """In float64, of an array of finite floats."""
    out = np.empty(x.size)
    for i, angle in enumerate(x.reshape(-1).astype(np.float64)):
        n = round(fractions.Fraction(angle) / HALF_PI)
        r = float(fractions.Fraction(angle) - n * HALF_PI)
        waves = np.sin(r), np.cos(r), -np.sin(r), -np.cos(r)
        sine, cosine = waves[n % 4], waves[(n + 1) % 4]
        out[i] = {"sin": sine, "cos": cosine, "tan": sine / cosine}[name]
    return out.reshape(x.shape)


def run(function, x):
    @vtrn.nki.jit
    def kernel(source):
        out = nl.ndarray(source.shape, nl.float32, buffer=nl.shared_hbm)
        nl.store(out, function(nl.load(source), nl.float32))
        return out

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return kernel(x)


def run_beta1(name, x):
    @neuronxcc.nki.jit
    def kernel(source):
        out = nl1.ndarray(source.shape, nl1.float32, buffer=nl1.shared_hbm)
        nl1.store(out, getattr(nl1, name)(nl1.load(source), dtype=nl1.float32))
        return out

    return kernel(x)


def any_bits(dtype, shape):
    width = np.dtype(dtype).itemsize
    x = rng.integers(0, 2**(8 * width), shape).astype(f"uint{8 * width}").view(dtype)
    return np.where(np.isfinite(x.astype(np.float64)), x, np.ones(shape, dtype))


ANGLES = {
    "fp32": any_bits(np.float32, (16, 128)),
    "bf16": any_bits(ml_dtypes.bfloat16, (16, 128)),
    "fp16": any_bits(np.float16, (16, 128)),
    "int32": rng.integers(-2**24, 2**24, (16, 64)).astype(np.int32),
    "int16": rng.integers(-2**15, 2**15, (16, 64)).astype(np.int16),
    "some turns": rng.uniform(-100, 100, (16, 128)).astype(np.float32),
    "near multiples": (rng.integers(1, 2**24, (16, 128)) * (np.pi / 2)).astype(np.float32),
    # The last is the fp32 that is nearest to a multiple of pi/2, for its size.
    "known": np.array([[0.0, -0.0, 1e6, 1e8, 1e30, -1e30, 3.4028235e38, 1e-40, np.pi / 2, np.pi, 16367173 * 2.0**72]], np.float32),
}


def n_units(got, want):
    """How far got is from want, in units of the last place of an fp32."""
    assert np.isfinite(got).all()
    return np.abs(got - want) / np.spacing(np.abs(want).astype(np.float32))


@pytest.mark.parametrize("name, most", [("sin", 2.5), ("cos", 2.5), ("tan", 4.5)])
@pytest.mark.parametrize("kind", ANGLES)
def test_waves_are_right_for_any_angle(name, most, kind):
    x = ANGLES[kind]
    got = run(getattr(nl, name), x)
    want = exact(name, x)
    is_normal = np.abs(want) >= 2.0**-126
    assert n_units(got, want)[is_normal].max() < most
    np.testing.assert_allclose(got[~is_normal], want[~is_normal], rtol=0, atol=2e-45)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want) | (want == 0) & np.signbit(x))


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_waves_of_the_first_generation_are_the_same(name):
    x = ANGLES["fp32"]
    np.testing.assert_array_equal(run_beta1(name, x), run(getattr(nl, name), x))


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_infinity_and_nan_have_no_wave(name):
    x = np.array([[np.inf, -np.inf, np.nan, 1.0]], np.float32)
    assert np.isnan(run(getattr(nl, name), x)).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("shape", [(8, 2500), (8, 3, 1500), (8, 1, 1030), (8, 40, 60), (8, 2, 30, 40)])
def test_large_tiles_are_worked_on_in_parts(shape):
    x = rng.uniform(-1e5, 1e5, shape).astype(np.float32)
    np.testing.assert_allclose(run(nl.sin, x), np.sin(x.astype(np.float64)), rtol=0, atol=2e-7)


def test_a_transposed_tile_has_its_sine():
    x = rng.uniform(-1e5, 1e5, (8, 30, 50)).astype(np.float32)
    got = run(lambda t, dtype: nl.sin(t.permute((0, 2, 1)), dtype), np.ascontiguousarray(x.transpose(0, 2, 1)))
    np.testing.assert_allclose(got.reshape(x.shape), np.sin(x.astype(np.float64)), rtol=0, atol=2e-7)


def test_the_price_is_what_the_page_says():
    """docs/nki.md gives these numbers."""
    def n_instructions(function, dtype):
        @vtrn.nki.jit
        def kernel(source):
            out = nl.ndarray(source.shape, nl.float32, buffer=nl.shared_hbm)
            nl.store(out, function(nl.load(source), nl.float32))
            return out

        return vtrn.nki.profile(kernel)(np.ones((128, 64), dtype)).n_instructions - 3  # load, store, the table of the sine

    counts = {name: (n_instructions(getattr(nl, name), np.float32), n_instructions(getattr(nl, name), np.float16))
              for name in ("sin", "cos", "tan")}
    assert counts == {"sin": (58, 18), "cos": (57, 17), "tan": (64, 24)}
