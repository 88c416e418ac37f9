"""VTRN_VERIFY=1: right programs pass, altered ones are reported with op, source line and element."""

import json
import re
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

import capi
import conftest
from common import SEED
from paths import BUILD, ROOT

pytestmark = pytest.mark.part(2)

VTRN = BUILD / "src" / "cli" / "vtrn"
BF16 = ml_dtypes.bfloat16


@pytest.fixture(autouse=True)
def verifying(monkeypatch):
    monkeypatch.setenv("VTRN_VERIFY", "1")


@pytest.fixture(scope="module")
def device():
    d = capi.Device(threads=2)
    yield d
    d.close()


def rand(*shape, dtype=np.float32, seed=[SEED]):
    seed[0] += 1
    return np.random.default_rng(seed[0]).standard_normal(shape).astype(dtype)


def export(f, *args):
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.export.export(f if hasattr(f, "lower") else jax.jit(f), platforms=["cpu"])(*args)


def verify(device, f, *args):
    """Compiles with checks and runs; the profile."""
    exported = export(f, *args)
    executable = device.compile(exported.mlir_module_serialized)
    leaves = jax.tree.leaves(args)
    executable(*[np.asarray(leaves[i]) for i in exported.module_kept_var_idx])
    return executable.profile()


# --- what is right passes -------------------------------------------------------------------------


def layer_norm(x, g, b):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * g + b


def attention(q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), v)


def conv(x, w, stride=1, groups=1):
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", feature_group_count=groups,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip


def total(f):
    """A loss, so that f can be differentiated in all its arguments."""
    return lambda *args: f(*args).astype(jnp.float32).sum()


def grad(f, n):
    return jax.grad(total(f), tuple(range(n)))


def mlp(x, w, b, v):
    return jax.nn.gelu(x @ w + b) @ v


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def recurrent(h, xs, w):
    return lax.scan(lambda h, x: (jnp.tanh(h @ w + x), h.sum(-1)), h, xs)


def embed(table, ids):
    return jnp.tanh(table[ids])


MLP = lambda t: (rand(33, 65, dtype=t), rand(65, 129, dtype=t), rand(129, dtype=t), rand(129, 31, dtype=t))  # noqa: E731
QKV = lambda t: [rand(2, 33, 2, 16, dtype=t) for _ in range(3)]  # noqa: E731
LAYERS = {
    "mlp": lambda t: (mlp, *MLP(t)),
    "mlp grad": lambda t: (grad(mlp, 4), *MLP(t)),
    "layer norm": lambda t: (layer_norm, rand(129, 64, dtype=t), rand(64, dtype=t), rand(64, dtype=t)),
    "layer norm grad": lambda t: (grad(layer_norm, 3), rand(40, 48, dtype=t), rand(48, dtype=t), rand(48, dtype=t)),
    "attention": lambda t: (attention, *QKV(t)),
    "attention grad": lambda t: (grad(attention, 3), *QKV(t)),
    "convolution": lambda t: (conv, rand(2, 9, 9, 3, dtype=t), rand(3, 3, 3, 33, dtype=t)),
    "convolution grad": lambda t: (grad(conv, 2), rand(2, 9, 9, 8, dtype=t), rand(3, 3, 8, 16, dtype=t)),
    "depthwise": lambda t: (lambda x, w: conv(x, w, 2, 16), rand(1, 9, 9, 16, dtype=t), rand(3, 3, 1, 16, dtype=t)),
    "pool grad": lambda t: (grad(lambda x: pool(x) ** 2, 1), rand(2, 8, 8, 5, dtype=t)),
    "overlapping pool grad": lambda t: (grad(lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") ** 2, 1), rand(2, 5, 6, 33, dtype=t)),
    "recurrent": lambda t: (recurrent, rand(8, 33, dtype=t), rand(5, 8, 33, dtype=t), rand(33, 33, dtype=t)),
    "recurrent grad": lambda t: (grad(lambda *a: recurrent(*a)[1], 3), rand(8, 33, dtype=t), rand(5, 8, 33, dtype=t),
                                 rand(33, 33, dtype=t)),
    "embedding grad": lambda t: (lambda e, i: grad(lambda e: embed(e, i), 1)(e), rand(300, 24, dtype=t),
                                 np.arange(90, dtype=np.int32) * 7 % 300),
    "reductions": lambda t: (lambda x: (x.sum(0), x.mean(1), x.max(), x.min(0), jnp.cumsum(x, 1), jnp.argmax(x, 1)),
                             rand(129, 70, dtype=t)),
    "functions": lambda t: (lambda x, y: (jnp.exp(x) / (1 + y * y), jnp.sin(x), jnp.arctan2(x, y), lax.erf(x),
                                          jnp.sqrt(jnp.abs(x)), jnp.floor(3 * y), jnp.expm1(x), lax.cbrt(y),
                                          jnp.abs(x) ** y), rand(67, 9, dtype=t), rand(67, 9, dtype=t)),
    "movement": lambda t: (lambda x: (x.T * 2, x[::-1, 1::2], jnp.pad(x, ((1, 2), (0, 3))), jnp.concatenate([x, -x]),
                                      lax.dynamic_slice(x, (3, 2), (5, 5)), jnp.sort(x, 0)), rand(40, 11, dtype=t)),
    "places": lambda t: (lambda x, i: (x[i], x.at[i].add(1), x.at[i].set(0), jnp.take(x, i, 1, mode="clip")),
                         rand(50, 30, dtype=t), np.array([3, 49, 3, 0, 60, 7], np.int32)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_pass(device, name, dtype):
    f, *args = LAYERS[name](dtype)
    verify(device, f, *args)


def step(params, x, y):
    """A training step with donated parameters."""
    value, grads = jax.value_and_grad(lambda p: ((mlp(x, *p) - y) ** 2).mean())(params)
    return [p - 0.1 * g for p, g in zip(params, grads)], value


OTHERS = {
    "nested loops": (lambda x: lax.fori_loop(0, 3, lambda i, c: lax.fori_loop(
        0, 2, lambda j, d: jnp.sin(d) + i * j, c * 2), x), rand(5, 7)),
    "a carry that is swapped": (lambda x: lax.fori_loop(0, 5, lambda i, c: (c[1], c[0] + i), (x, -x)), rand(9)),
    "a carry that is updated in place": (lambda x: lax.fori_loop(
        0, 6, lambda i, c: c.at[i].set(c[i] * 2).at[i + 1].add(1), x), rand(8, 70)),
    "a branch": (lambda x: lax.cond(x.sum() > 0, lambda x: jnp.tanh(x), lambda x: x[::-1] * 2, x), rand(33, 5)),
    "three branches": (lambda i, x: lax.switch(i, [jnp.sin, lambda x: x * 2, lambda x: x + x.sum()], x),
                       np.int32(1), rand(6, 6)),
    "donation": (jax.jit(step, donate_argnums=0), list(MLP(np.float32)[1:]), rand(33, 65), rand(33, 31)),
    "integers": (lambda x, y: (x + y, x * y, x // y, x % y, x & y, x << (y % 5), -x, x.sum(0), x > y, jnp.sort(x, 0)),
                 np.arange(99, dtype=np.int32).reshape(33, 3), np.arange(1, 100, dtype=np.int32).reshape(33, 3)),
    "truth values": (lambda x, y: (x & y, x | y, ~x, x ^ y, x.any(0), x.all(1), jnp.where(x, 1, 0)),
                     rand(17, 9) > 0, rand(17, 9) > 0),
    "random numbers": (lambda k: (jax.random.normal(k, (40, 9)), jax.random.permutation(k, 33)),
                       np.array([1, 2], np.uint32)),
    "fp8": (lambda x, w: (x.astype(jnp.float8_e5m2) * 2, lax.dot(x.astype(jnp.float8_e4m3), w.astype(jnp.float8_e4m3),
                                                                 preferred_element_type=jnp.float32)),
            rand(33, 32), rand(32, 40)),
    "a narrower stored value": (lambda x, w: jnp.tanh(x).astype(BF16) @ w, rand(40, 64), rand(64, 33, dtype=BF16)),
    "infinities and no numbers": (lambda x: (jnp.log(x), x / 0, jnp.sqrt(x) + 1, jnp.exp(x * 100), jnp.isnan(x / x)),
                                  np.array([[-1, 0, 1, np.inf, np.nan, 3e38]], np.float32)),
    "nothing": (lambda x: ((x + 1).sum(0), x.T, jnp.concatenate([x, x])), rand(0, 7)),
    "a scalar": (lambda x: jnp.tanh(x) * 2 + 1, np.float32(0.3)),
    "constants": (lambda x: (jnp.eye(5) + x, jnp.full((3,), 2.0), jnp.arange(40)), rand(5, 5)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_programs_pass(device, name):
    f, *args = OTHERS[name]
    verify(device, f, *args)


def test_reference_ops_pass(device):
    """Their operands are compared too: what runs as its reference has the same bits."""
    f = lambda x: (jnp.abs(jnp.fft.rfft(x * 2)) + 1, jnp.fft.fft2(x.T).real, jnp.bitwise_count(x.astype(np.int32)))  # noqa: E731
    profile = verify(device, f, rand(8, 8))
    assert profile.n_reference_ops > 0


def test_all_reference_ops_pass(device, monkeypatch):
    monkeypatch.setenv("VTRN_REFERENCE_ONLY", "1")
    verify(device, grad(mlp, 4), *MLP(np.float32))


@pytest.mark.parametrize("chip", ["trn2", "trn3", "inf2"])
def test_other_chips_pass(chip):
    d = capi.Device(chip=chip, threads=1)
    for name in ("mlp grad", "attention", "convolution grad", "recurrent"):
        f, *args = LAYERS[name](np.float32)
        verify(d, f, *args)
    d.close()


def test_checks_are_no_work_of_the_chip(device, monkeypatch):
    args = MLP(np.float32)
    checked = verify(device, mlp, *args)
    monkeypatch.delenv("VTRN_VERIFY")
    plain = verify(device, mlp, *args)
    assert checked.step_ns < 1.2 * plain.step_ns
    assert (checked.n_reference_ops, checked.reference_time_share) == (0, 0)


# --- what is wrong is reported --------------------------------------------------------------------


def altered(device, tmp_path, edit, f, *args):
    """The error of a program that was compiled with checks, and whose text edit() changed then."""
    exported = export(f, *args)
    (tmp_path / "p.vtrn").write_bytes(device.compile(exported.mlir_module_serialized).program())
    text = subprocess.run([VTRN, "disasm", tmp_path / "p.vtrn"], capture_output=True, text=True, check=True).stdout
    arrays = [np.asarray(a).ravel() for a in args]
    device.load(text.encode())(*arrays)  # as it is, it passes
    changed = edit(text)
    assert changed != text
    fresh = capi.Device(threads=2)  # its memory does not hold the results of the first run
    with pytest.raises(capi.VtrnError) as error:
        fresh.load(changed.encode())(*arrays)
    fresh.close()
    print(error.value)
    return str(error.value)


def line_of(f, text):
    """Where in this file the line of f's source that contains `text` is."""
    lines = (ROOT / "tests" / "python" / "test_verify.py").read_text().splitlines()
    start = f.__code__.co_firstlineno
    return next(i for i, line in enumerate(lines[start - 1 :], start) if text in line)


def parse(message):
    m = re.search(r"verify: (\S+) \(test_verify.py:(\d+)\) element \[([\d,]*)\] is (\S+), the reference gives (\S+)"
                  r"(?: \(within \S+\))?; ([\d,]+) of ([\d,]+) elements differ \(first at \[([\d,]*)\], "
                  r"largest difference (\S+) at \[([\d,]*)\]\)", message)  # fmt: skip
    assert m, message
    assert m[3] == m[8]
    index = tuple(int(i) for i in m[3].split(","))
    n, of = (int(m[i].replace(",", "")) for i in (6, 7))
    return m[1], int(m[2]), index, float(m[4]), float(m[5]), n, of


def gated(x, a, b):
    gate = jnp.tanh(x @ a)
    value = x @ b
    return gate * value


def test_an_altered_operation_is_named_with_its_values(device, tmp_path):
    args = rand(40, 64), rand(64, 96), rand(64, 96)
    edit = lambda text: re.sub(r"tensor_tensor\.multiply", "tensor_tensor.add", text, count=1)  # noqa: E731
    message = altered(device, tmp_path, edit, gated, *args)
    op, line, index, got, want, n, of = parse(message)
    x, a, b = args
    gate, value = np.tanh(x @ a), x @ b
    assert (op, line, of) == ("multiply", line_of(gated, "return"), 40 * 96)
    np.testing.assert_allclose([got, want], [(gate + value)[index], (gate * value)[index]], rtol=1e-4)
    differ = np.abs((gate + value) - gate * value) > 1e-4
    assert index == tuple(np.argwhere(differ)[0]) and abs(n - differ.sum()) < 3
    assert "in one kernel of" in message and f"dot_general test_verify.py:{line_of(gated, 'gate =')}" in message


def two_kernels(x, w, v):
    first = jnp.exp(x @ w)
    return jnp.sqrt(first @ v)


def test_only_the_kernel_at_fault_is_named(device, tmp_path):
    """What reads its results is compared on these: it is right."""
    args = rand(200, 64) * 0.1, rand(64, 96), np.abs(rand(96, 33))
    for old, new, op, source in [("exp", "sigmoid", "exponential", "first ="), ("sqrt", "tanh", "sqrt", "return")]:
        edit = lambda text: text.replace(f"activate.{old}", f"activate.{new}", 1)  # noqa: B023, E731
        found, line, *_ = parse(altered(device, tmp_path, edit, two_kernels, *args))
        assert (found, line) == (op, line_of(two_kernels, source))


def last_column(text, op, size):
    """The stores of an op to HBM end one column early; and the elements that are not written then."""
    sources = {f"@{n}" for n in re.findall(rf'source (\d+) "stablehlo\.{op}"', text)}
    lines, left_out = text.splitlines(), []
    for i, line in enumerate(lines):
        m = re.search(r"dma_copy hbm\[\d+, (\w+), (\d+)\*(\d+)\]:\w+\(1:(\d+)\), sbuf", line)
        if not m or line.split()[-1] not in sources:
            continue
        rows, step, cols = int(m[2]), int(m[3]), int(m[4])
        lines[i] = line.replace(f"(1:{cols})", f"(1:{cols - 1})")
        left_out += [int(m[1], 16) // size + row * step + cols - 1 for row in range(rows)]
    return "\n".join(lines) + "\n", sorted(left_out)


def scaled(x):
    return jnp.tanh(x) * 3


@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=["fp32", "bf16"])
def test_elements_that_were_not_written_are_counted(device, tmp_path, dtype):
    x = (np.abs(rand(50, 40)) + 1).astype(dtype)
    left_out = []

    def edit(text):
        changed, missing = last_column(text, "multiply", x.itemsize)
        left_out.extend(missing)
        return changed

    op, line, index, got, want, n, of = parse(altered(device, tmp_path, edit, scaled, x))
    assert (op, line, got, n, of) == ("multiply", line_of(scaled, "return"), 0, len(left_out), 50 * 40)
    assert index == np.unravel_index(left_out[0], x.shape)
    np.testing.assert_allclose(want, 3 * np.tanh(x[index].astype(np.float32)), rtol=0.01)


def looped(x, w):
    def body(i, c):
        return jnp.tanh(c @ w) + i

    return lax.fori_loop(0, 4, body, x)


def test_a_kernel_in_a_loop_is_named(device, tmp_path):
    edit = lambda text: text.replace("activate.tanh", "activate.erf", 1)  # noqa: E731
    op, line, *_ = parse(altered(device, tmp_path, edit, looped, rand(9, 9), rand(9, 9)))
    assert line == line_of(looped, "tanh") and op in ("tanh", "add")


def counted(x):
    return x * 3 + 1


def test_integers_are_exact(device, tmp_path):
    x = np.arange(500, dtype=np.int32).reshape(20, 25)
    edit = lambda text: re.sub(r"tensor_tensor\.add|tensor_scalar\.add", lambda m: m[0].replace("add", "max"),  # noqa: E731
                               text, count=1)  # fmt: skip
    op, line, index, got, want, n, of = parse(altered(device, tmp_path, edit, counted, x))
    assert (op, line, index, got, want, of) == ("add", line_of(counted, "return"), (0, 0), 1, 1, 500) or want == got + 1


# --- doors ----------------------------------------------------------------------------------------


def run_cli(*args, env=None):
    return subprocess.run([VTRN, *map(str, args)], capture_output=True, text=True, env=env)


def test_the_command_verifies(device, tmp_path, monkeypatch):
    monkeypatch.delenv("VTRN_VERIFY")
    exported = export(gated, rand(40, 64), rand(64, 96), rand(64, 96))
    artifact = tmp_path / "gated.vhlo"
    artifact.write_bytes(exported.mlir_module_serialized)
    done = run_cli("run", artifact, "--random", "--verify")
    assert done.returncode == 0 and "verified" in done.stdout, done.stderr
    assert json.loads(run_cli("run", artifact, "--random", "--verify", "--json").stdout)["is_verified"]
    plain = json.loads(run_cli("run", artifact, "--random", "--json").stdout)
    assert not plain["is_verified"]
    (tmp_path / "gated.vtrn").write_bytes(device.compile(exported.mlir_module_serialized).program())
    refused = run_cli("run", tmp_path / "gated.vtrn", "--random", "--verify")
    assert refused.returncode != 0 and "give the StableHLO artifact" in refused.stderr


def test_the_command_fails_where_values_are_wrong(device, tmp_path):
    """A program with its checks, altered: they run wherever it runs."""
    exported = export(gated, rand(40, 64), rand(64, 96), rand(64, 96))
    (tmp_path / "p.vtrn").write_bytes(device.compile(exported.mlir_module_serialized).program())
    text = run_cli("disasm", tmp_path / "p.vtrn").stdout
    (tmp_path / "p.vasm").write_text(text.replace("tensor_tensor.multiply", "tensor_tensor.add", 1))
    done = run_cli("run", tmp_path / "p.vasm", "--random")
    assert done.returncode == 4 and "verify: multiply (test_verify.py:" in done.stderr


@pytest.mark.skipif(not conftest.HAS_PLUGIN, reason="no libvtrn.so was built")
@pytest.mark.parametrize("example, steps", [("digits", 3), ("chars", 1)])
def test_the_examples_train_under_verification(example, steps):
    """Every kernel of both models, forward, backward and optimiser, with what it is given in training."""
    script = ROOT / "examples" / example / "train.py"
    done = subprocess.run([sys.executable, script, "--steps", str(steps)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{example} on neuron" in done.stdout
