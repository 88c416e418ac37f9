"""Operations that few models use, as users meet them, against JAX on the CPU. Those without a lowering
are custom ops of the program, run by their reference. (test_reference.py evaluates it alone.)"""

import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import capi
from common import SEED
from reference_oracle import compare
from paths import BUILD
from test_lowering import run


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def first_half(x):
    return x[..., :x.shape[-1] // 2]


CASES = {
    "a sort of floats, whose comparator uses constants of the program": jnp.sort,
    "a sort along another axis": lambda x: jnp.sort(x, axis=0),
    "sorting indices": jnp.argsort,
    "a sort of pairs by the first and the second": lambda x: lax.sort((x, -x, x * 2), num_keys=2),
    "the largest few": lambda x: lax.top_k(x, 3),
    "the least few, approximately": lambda x: lax.approx_min_k(x, 3, reduction_dimension=0),
    "where the largest is": lambda x: (jnp.argmax(x, 1), jnp.argmin(x, 0)),
    "a median": lambda x: jnp.median(x, axis=1),
    "the number of distinct values": lambda x: jnp.unique(jnp.round(x), size=20),
    "a sort inside a loop": lambda x: lax.fori_loop(0, 3, lambda i, a: jnp.sort(a, 0) * 0.5, x),
    "a sort in one branch": lambda x: lax.cond(x[0, 0] > 0, jnp.sort, lambda a: -jnp.sort(-a), x),
    "two sorts that share constants": lambda x: (jnp.sort(x), jnp.sort(-x)),
    "a cumulative maximum": lambda x: lax.cummax(x, 1),
    "a cumulative log of sums": lambda x: [lax.cumlogsumexp(x, axis, reverse=r)
                                           for axis in (0, 1) for r in (False, True)],
    "windows over everything before, of pairs": lambda x: lax.reduce_window(
        (x, x * 2), (1.0, 0.0), lambda a, b: (a[0] * b[0], a[1] + b[1]), (1, 12), (1, 1), ((0, 0), (11, 0))),
    "a reduction of pairs": lambda x: lax.reduce(
        (x, x * 0.5), (1.0, 1.0), lambda a, b: (a[0] * 0.5 + b[0] * 0.25, a[1] * b[1]), (1,)),
    "a reduction with constants in its region": lambda x: lax.reduce(
        x, 0.0, lambda a, b: jnp.maximum(a * 1.0, b) + 0.0, (0,)),
    "a window of products": lambda x: lax.reduce_window(
        x, 1.0, lax.mul, (2, 3), (1, 2), "SAME"),
    "a Fourier transform": lambda x: (jnp.fft.rfft(x), jnp.fft.irfft(jnp.fft.rfft(x))),
    "a dynamic slice": lambda x: lax.dynamic_slice(x, (jnp.int32(2) + x.astype(jnp.int32)[0, 0], 1),
                                                   (3, 4)),
    "a dynamic update": lambda x: lax.dynamic_update_slice(x, first_half(x), (0, x.shape[1] // 3)),
    "complex numbers": lambda x: jnp.abs(lax.complex(x, -x) * lax.complex(x, x)),
    "sines": lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x), jnp.arctan2(x, x + 1)),
    "integer division": lambda x: ((x * 50).astype(jnp.int32) // 7, (x * 50).astype(jnp.int32) % 7),
    "integer powers": lambda x: (x * 4).astype(jnp.int32) ** 3,
    "bit counts": lambda x: lax.population_count(lax.bitcast_convert_type(x, jnp.uint32)),
    "a gather of windows": lambda x: lax.gather(
        x, jnp.array([[0, 1], [5, 2]]), lax.GatherDimensionNumbers((1, 2), (), (0, 1)), (2, 3)),
    "a scatter of minima": lambda x: x.at[jnp.array([1, 1, 4]), 2:5].min(0.1),
    "a reduced precision": lambda x: lax.reduce_precision(x, 5, 3),
}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_long_cumulative_reduction_takes_one_application_an_element(device, reverse):
    x = np.random.default_rng(SEED).standard_normal(50257).astype(np.float32)
    _, (got,), _ = run(device, lambda x: lax.cumlogsumexp(x, reverse=reverse), x)  # minutes, by windows
    direction = -1 if reverse else 1
    want = np.logaddexp.accumulate(x[::direction].astype(np.float64))[::direction]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_operations_off_the_beaten_path_equal_the_cpu(name, device):
    x = np.random.default_rng([SEED, len(name)]).standard_normal((8, 12)).astype(np.float32)
    want, got, _ = run(device, CASES[name], x)
    compare(want, got)


def test_a_sort_by_two_keys_is_still_a_custom_op(device):
    """Its comparator uses constants of the program: when it gets a lowering, the cases of custom ops
    need another such operation."""
    f = CASES["a sort of pairs by the first and the second"]
    _, _, profile = run(device, f, np.ones((3, 4), np.float32))
    assert profile.n_reference_ops == 1


def disassemble(program, tmp_path):
    path = tmp_path / "p.vtrn"
    path.write_bytes(program)
    return subprocess.run([BUILD / "src/cli/vtrn", "disasm", path], check=True, timeout=60,
                          capture_output=True).stdout.decode()  # fmt: skip


def compile_case(device, f, x):
    artifact = jax.export.export(jax.jit(f), platforms=["cpu"])(x).mlir_module_serialized
    return device.compile(artifact)


@pytest.mark.parametrize("name", CASES)
def test_a_saved_program_loads_again_and_computes_the_same(name, device):
    x = np.random.default_rng([SEED, len(name)]).standard_normal((8, 12)).astype(np.float32)
    executable = compile_case(device, CASES[name], x)
    again = device.load(executable.program())
    for a, b in zip(executable(x), again(x.ravel()), strict=True):
        assert a.tobytes() == b.tobytes()


def blobs_of(text):
    return list(re.finditer(r"(?m)^custom \d+ .* blob ([0-9a-f]+)$", text))


def try_mutants(device, good, x, rng, tmp_path):
    """Custom ops as an enemy writes them: one changed number, checksum and all else in order. Each is
    refused, with a reason and a place, or harmless. -> how many were refused, how many ran"""
    text = disassemble(good.program(), tmp_path)
    blobs = blobs_of(text)
    assert blobs
    n_refused = n_run = 0
    for _ in range(300):
        match = blobs[rng.integers(len(blobs))]
        blob = bytearray.fromhex(match.group(1))
        at = int(rng.integers(len(blob)))
        blob[at] = rng.choice([blob[at] ^ 1 << rng.integers(8), 0, 1, 0x7F, 0xFF])
        try:
            mutant = device.load((text[: match.start(1)] + blob.hex() + text[match.end(1):]).encode())
        except capi.VtrnError as error:
            message = str(error)
            assert "internal" not in message, message
            assert re.search(r"\n  at custom \d+ \(", message), message
            n_refused += 1
            continue
        try:
            mutant(x.ravel())
        except capi.VtrnError as error:
            assert re.match("unimplemented|bad argument", str(error)), error
        mutant.destroy()
        n_run += 1
    return n_refused, n_run


@pytest.mark.parametrize("name", ["a reduction of pairs", "a Fourier transform",
                                  "a sort of pairs by the first and the second",
                                  "a scatter of minima", "the least few, approximately"])  # fmt: skip
def test_a_mutated_custom_op_is_refused_or_harmless(name, device, tmp_path):
    rng = np.random.default_rng([SEED, len(name)])
    x = rng.standard_normal((8, 12)).astype(np.float32)
    n_refused, n_run = try_mutants(device, compile_case(device, CASES[name], x), x, rng, tmp_path)
    assert n_refused > 50 and n_run > 5
    want, got, _ = run(device, CASES[name], x)
    compare(want, got)
