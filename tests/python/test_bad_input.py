"""Bad input through every front door: JAX, the C API and the vtrn command. Each is refused with a
category, what, where, the rule, the values and the remedy; afterwards a good program still runs."""

import os
import platform
import re
import subprocess
import sys

import capi
import conftest
import numpy as np
import pytest
from paths import BUILD, ROOT

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import export  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402
from jaxlib.mlir import ir  # noqa: E402
from jaxlib.mlir.dialects import stablehlo  # noqa: E402

VTRN = BUILD / "src/cli/vtrn"
X = np.arange(6, dtype=np.float32).reshape(2, 3)
CATEGORIES = ("bad argument|undefined|uninitialised|out of capacity|hazard|deadlock|unsupported|"
              "unimplemented|unspecified|resource")  # not "internal"


def neuron():
    return jax.devices("neuron")[0]


def artifact(f, *specs):
    specs = [jax.ShapeDtypeStruct(*s) for s in specs]
    return bytes(export.export(jax.jit(f), platforms=["cpu"])(*specs).mlir_module_serialized)


GOOD = artifact(lambda x: x * 2 + 1, ((2, 3), np.float32))
PROGRAM = """program "p" chip "trn1" gen 2
arguments 1
outputs _
scratch 0
slot 0 argument fp32 128 bytes number 0
slot 1 output fp32 128 bytes number 0
source 0 "stablehlo.add" "model.py:42"
block 0
Sync dma_copy sbuf[0:32, 0]:fp32(1:1), hbm[0, 0, 32*1]:fp32(1:1), ring 0, inc s0+16
Vector tensor_scalar.add sbuf[0:32, 64]:fp32(1:1), sbuf[0:32, 0]:fp32(1:1), imm0 1.0, @0, wait s0>=16, inc s1
Sync dma_copy hbm[1, 0, 32*1]:fp32(1:1), sbuf[0:32, 64]:fp32(1:1), ring 0, wait s1>=1
stop
"""
BAD_PROGRAMS = {
    "opcode": (("tensor_scalar.add", "tensor_scalr.add"), "bad argument", [
        ':10: no instruction is called "tensor_scalr"', "^"]),
    "engine": (("Vector tensor_scalar", "Tensor tensor_scalar"), "undefined", [
        "tensor_scalar: Tensor does not have this instruction", "stablehlo.add model.py:42"]),
    "partition": (("sbuf[0:32, 64]:fp32(1:1), sbuf[0:32, 0]", "sbuf[8:16, 64]:fp32(1:1), sbuf[0:8, 0]"),
                  "undefined", ["8 partitions may not start at partition 8",
                                "up to 32 start at 0, 32, 64 or 96", "use DMA"]),
    "sbuf overflow": (("sbuf[0:32, 64]:fp32(1:1), sbuf", "sbuf[0:32, 196608]:fp32(1:1), sbuf"),
                      "out of capacity", ["ends at byte 196612; a partition of SBUF has 196608 (trn1)",
                                          "stablehlo.add model.py:42"]),
    "slot overflow": (("hbm[0, 0, 32*1]", "hbm[0, 4, 32*1]"), "undefined", [
        "ends at byte 132 of slot 0, which has 128", "instruction"]),
    "deadlock": (("wait s0>=16", "wait s7>=16"), "deadlock", [
        "waits for semaphore 7 >= 16, which is 0", "nothing left in this block raises semaphore 7",
        "raise the semaphore before the wait", "model.py:42"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def device():
    device = capi.Device("trn1")
    yield device
    device.close()


@pytest.fixture(autouse=True)
def a_good_program_still_runs(device):
    """After each case: in the C API and in JAX."""
    yield
    np.testing.assert_array_equal(device.compile(GOOD)(X)[0], X * 2 + 1)
    y = jax.jit(lambda v: v * 2 + 1)(jax.device_put(X, neuron()))
    np.testing.assert_array_equal(np.asarray(y), X * 2 + 1)


def refused(call, category, *texts):
    with pytest.raises(Exception) as caught:
        call()
    message = str(caught.value)
    for text in (f"{category}: ", *texts):
        assert text in message, message
    return message


def vtrn(*args, code, **env):
    done = subprocess.run([VTRN, *map(str, args)], capture_output=True, timeout=300,
                          env={**os.environ, **env})
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert code == 2 or re.match(f"error: ({CATEGORIES}): ", error), error
    return error


def both_doors(device, tmp_path, data, category, *texts, code=1):
    """The same file through vtrn_compile() and through `vtrn run`, which also names the file."""
    refused(lambda: device.compile(data), category, *texts)
    path = tmp_path / "f.mlirbc"
    path.write_bytes(data)
    error = vtrn("run", path, "--random", "--chip", "trn1", code=code)
    for text in (category, *texts, str(path)):
        assert text in error, error


# --- artifacts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_artifact(device, tmp_path, share):
    both_doors(device, tmp_path, GOOD[: int(len(GOOD) * share)], "bad argument", "VHLO artifact: ",
               "at byte ", "export it again")


def test_mutated_artifacts_are_programs_or_refused_in_words(device):
    rng = np.random.default_rng(4)
    n_refused = 0
    for _ in range(400):
        data = bytearray(GOOD)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            device.compile(data)
        except capi.VtrnError as error:
            assert re.match(f"({CATEGORIES}): .{{20}}", str(error)), error
            if str(error).startswith("bad argument"):
                assert "export it again" in str(error), error
            n_refused += 1
    assert n_refused > 40


@pytest.mark.parametrize("data, text", [
    (b"\x7fELF\x02\x01\x01" + bytes(50), "57 bytes that start with 7f 45 4c 46"),
    (b"PK\x03\x04" + bytes(50), "54 bytes that start with 50 4b 03 04"),
    (b"", "got no bytes"),
])  # fmt: skip
def test_a_foreign_file(device, tmp_path, data, text):
    refused(lambda: device.compile(data), "bad argument", text, "StableHLO portable artifact",
            "jax.export")
    path = tmp_path / "foreign"
    path.write_bytes(data)
    error = vtrn("run", path, "--random", code=1)
    assert "neither assembly text, a program file" in error and str(path) in error, error


def test_an_operation_that_is_not_implemented(device, tmp_path):
    data = artifact(lambda x: jnp.linalg.qr(x)[0], ((4, 4), np.float32))
    both_doors(device, tmp_path, data, "unimplemented", "lapack_sgeqrf_ffi", "neither a lowering",
               "run this part on the CPU", code=3)
    x = jax.device_put(np.eye(4, dtype=np.float32), neuron())
    call = jax.ffi.ffi_call("their_call", jax.ShapeDtypeStruct(x.shape, x.dtype))
    message = refused(lambda: jax.jit(call)(x), "UNIMPLEMENTED: unimplemented",
                      "their_call: this operation has neither a lowering", "run this part on the CPU")
    assert "\n  at their_call" in message


def test_an_element_type_that_there_is_not(device, tmp_path):
    kind = "tensor<2xcomplex<f16>>"
    text = f"module {{ func.func public @main(%a: {kind}) -> {kind} {{ return %a : {kind} }} }}"
    with mlir.make_ir_context(), ir.Location.unknown():
        data = stablehlo.serialize_portable_artifact(ir.Module.parse(text), "1.13.0")
    both_doors(device, tmp_path, data, "unsupported", "type complex<f16>", "vtrn has no such element type",
               "use int8", code=3)


# --- sizes ---------------------------------------------------------------------------------------


def test_a_shape_beyond_the_hbm(device, tmp_path):
    texts = ("HBM: 19600000000 bytes requested for one fp32 tensor",
             "a core of trn1 reaches 17163091968", "use a smaller shape or type")
    shape = (70000, 70000)
    both_doors(device, tmp_path, artifact(lambda: jnp.zeros(shape, np.float32)), "out of capacity",
               *texts, "output 0 of ")
    data = artifact(lambda x: (lambda y: jnp.sum(y @ y))(jnp.broadcast_to(x, shape)),
                    ((1,), np.float32))  # fmt: skip
    refused(lambda: device.compile(data), "out of capacity", *texts, "stablehlo.",
            "test_bad_input.py:")
    with jax.default_device(neuron()):
        refused(lambda: jax.jit(lambda: jnp.zeros(shape, np.float32))(),
                "RESOURCE_EXHAUSTED: out of capacity", *texts)
    refused(lambda: jax.device_put(np.broadcast_to(np.float32(1), shape), neuron()),
            "RESOURCE_EXHAUSTED: out of capacity", "HBM: 19600000000 bytes requested",
            "a buffer of fp32[70000,70000]")


def chip_file(tmp_path, **keys):
    """trn1 with some keys replaced; None takes the key out."""
    with open(os.path.join(ROOT, "chips/trn1.toml")) as f:
        text = f.read()
    for key, value in keys.items():
        text, n = re.subn(rf"(?m)^{key} *= *[^ \n]+", f"{key} = {value}" if value else "", text)
        assert n == 1, key
    path = tmp_path / "odd.toml"
    path.write_text(text)
    return path


def test_a_chip_whose_sbuf_holds_no_kernel(tmp_path):
    path = chip_file(tmp_path, sbuf_partition_bytes="5_119", sbuf_reserved_partition_bytes="1_024")
    rule = "memory.sbuf_partition_bytes = 5119, must exceed"
    refused(lambda: capi.Device(str(path)), "bad argument", "odd.toml", rule, "by at least 4096")
    data = artifact(lambda x, y: x @ y, *[((700, 700), np.float32)] * 2)
    (tmp_path / "f.mlirbc").write_bytes(data)
    assert rule in vtrn("run", tmp_path / "f.mlirbc", "--random", "--chip", path, code=1)


def test_empty_arrays_are_no_error(device):
    f = device.compile(artifact(lambda x: (x + 1, x.sum(0)), ((0, 3), np.float32)))
    empty, zeros = f(np.zeros((0, 3), np.float32))
    assert empty.shape == (0, 3)
    np.testing.assert_array_equal(zeros, np.zeros(3, np.float32))
    y = jax.jit(lambda v: (v * 2, v.sum()))(jax.device_put(np.zeros((5, 0), np.float32), neuron()))
    assert y[0].shape == (5, 0) and float(y[1]) == 0


# --- program files -------------------------------------------------------------------------------


def test_a_program_file_with_a_bad_checksum_or_cut_short(tmp_path):
    (tmp_path / "p.vasm").write_text(PROGRAM)
    path = tmp_path / "p.vtrn"
    subprocess.run([VTRN, "asm", tmp_path / "p.vasm", "-o", path], check=True, timeout=60)
    data = path.read_bytes()
    subprocess.run([VTRN, "run", path, "--random"], check=True, timeout=60, capture_output=True)
    cases = [(data[:-1] + bytes([data[-1] ^ 1]), "program file: byte 16: checksum "),
             (data[:-9], "truncated"), (data[:100], "the header alone has")]  # fmt: skip
    for damaged, text in cases:
        path.write_bytes(damaged)
        for command in (("run", path, "--random"), ("disasm", path)):
            error = vtrn(*command, code=1)
            assert text in error and "write it again" in error and str(path) in error, error


@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_a_program_that_breaks_a_rule(tmp_path, name):
    (old, new), category, texts = BAD_PROGRAMS[name]
    assert PROGRAM.count(old) == 1
    path = tmp_path / "p.vasm"
    path.write_text(PROGRAM.replace(old, new))
    error = vtrn("run", path, "--random", code=1)
    for text in (f"error: {category}: ", *texts, str(path)):
        assert text in error, error


# --- data and buffers ----------------------------------------------------------------------------


def test_nan_in_data_is_data(device):
    x = np.array([[np.nan, -np.nan, np.inf], [-np.inf, 0, 1]], np.float32)
    want = x * 2 + 1
    np.testing.assert_array_equal(device.compile(GOOD)(x)[0], want)
    on_device = jax.device_put(x, neuron())
    np.testing.assert_array_equal(np.asarray(jax.jit(lambda v: v * 2 + 1)(on_device)), want)
    assert np.isnan(float(jax.jit(jnp.sum)(on_device)))
    with jax.debug_nans(True):
        with pytest.raises(FloatingPointError, match="nan"):
            jax.jit(lambda v: jnp.log(v - 2))(jax.device_put(X, neuron()))


def test_inputs_of_the_wrong_type_shape_or_number(device):
    f = device.compile(GOOD)
    refused(lambda: f(X.astype(np.int32)), "bad argument",
            "input 0 is int32[2,3], the program takes fp32[2,3]")
    refused(lambda: f(X.T), "bad argument", "input 0 is fp32[3,2], the program takes fp32[2,3]")
    refused(lambda: f(X[:0]), "bad argument", "input 0 is fp32[0,3]")
    refused(lambda: f(), "bad argument", "0 inputs", "it takes 1 and gives 1")
    refused(lambda: f(X, X), "bad argument", "2 inputs", "it takes 1 and gives 1")
    compiled = jax.jit(lambda v: v + 1).lower(jax.device_put(X, neuron())).compile()
    for wrong in (X.T, X.astype(np.int32)):
        with pytest.raises(TypeError):
            compiled(jax.device_put(wrong, neuron()))


def test_a_sharded_computation_without_shardy_says_what_to_do_instead():
    devices = jax.devices("neuron")
    mesh = jax.sharding.Mesh(np.array(devices[:2]), ("x",))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    x = jax.device_put(np.ones((4, 4), np.float32), spec)
    np.testing.assert_array_equal(np.asarray(jax.jit(lambda v: v + 1)(x)), 2)
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        with pytest.raises(Exception, match="unsupported: argument 0 has a sharding of GSPMD"):
            jax.jit(lambda v: v + 2)(x)
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)


def test_a_donated_array_is_not_used_again():
    f = jax.jit(lambda v: v + 1, donate_argnums=0)
    x = jax.device_put(X, neuron())
    np.testing.assert_array_equal(np.asarray(f(x)), X + 1)
    with pytest.raises(Exception, match="was donated to an execution.*use the output"):
        f(x)


# --- chips ---------------------------------------------------------------------------------------


def jax_start(chip="", **env):
    """What JAX says when it starts on that chip, in a process of its own."""
    code = "import jax; print(jax.devices('neuron'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300,
                          env={**os.environ, "VTRN_CHIP": str(chip), "JAX_PLATFORMS": "neuron", **env})
    assert done.returncode == 1, done.stderr.decode()
    return done.stderr.decode()


def test_an_unknown_chip(tmp_path):
    texts = ("bad argument: no chip 'trn9'; known are inf1, inf2, trn1, trn2, trn3", "VTRN_CHIPS_PATH")
    message = refused(lambda: capi.Device("trn9"), "bad argument", *texts)
    (tmp_path / "p.vasm").write_text(PROGRAM)
    for error in (message, vtrn("chips", "trn9", code=1), jax_start("trn9"),
                  vtrn("run", tmp_path / "p.vasm", "--random", "--chip", "trn9", code=1)):
        assert all(text in error for text in texts), error


def test_a_typo_in_the_chip_the_instance_or_the_profile(tmp_path):
    assert "no chip 'trm1'" in (error := jax_start("trm1")) and "did you mean 'trn1'?" in error
    error = jax_start(VTRN_INSTANCE="trn1.3xlarge")
    assert "no instance 'trn1.3xlarge'" in error and "did you mean 'trn1.2xlarge'?" in error
    error = jax_start("trn2", VTRN_INSTANCE="trn1.2xlarge")
    assert "leave one of VTRN_CHIP and VTRN_INSTANCE out" in error
    (tmp_path / "file").write_text("")
    error = jax_start(VTRN_PROFILE=str(tmp_path / "file" / "profile"))
    assert "resource" in error and str(tmp_path / "file") in error and "VTRN_PROFILE" in error


def test_an_unknown_instruction_set(tmp_path):
    known_sets = {"x86_64": ("sse2", "avx2", "avx512"), "aarch64": ("neon",)}[platform.machine()]
    texts = ("bad argument: VTRN_ISA: there is no instruction set 'avx1024'", *known_sets)
    (tmp_path / "p.vasm").write_text(PROGRAM)
    for error in (vtrn("run", tmp_path / "p.vasm", "--random", code=1, VTRN_ISA="avx1024"),
                  jax_start(VTRN_ISA="avx1024")):
        assert all(text in error for text in texts), error
    for known in ("", *known_sets):
        subprocess.run([VTRN, "run", tmp_path / "p.vasm", "--random"], check=True, timeout=300,
                       env={**os.environ, "VTRN_ISA": known})


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for command in (("run",), ("disasm",), ("asm",), ("profile", "-o", tmp_path / "out")):
        for name, text in (("none", "No such file or directory"), ("", "Is a directory"),
                           ("empty", "0 bytes")):  # fmt: skip
            error = vtrn(*command, tmp_path / name, code=1)
            assert text in error and str(tmp_path / name) in error, error
    assert "no option --nonsense" in vtrn("run", "--nonsense", code=2)
    (tmp_path / "p.vasm").write_text(PROGRAM)
    vtrn("run", tmp_path / "p.vasm", "--random", "--chip", "inf1", code=3)


@pytest.mark.parametrize("value, text", [
    (None, "sbuf_partition_bytes is missing in [memory]; add 'sbuf_partition_bytes = ...' (bytes)"),
    ("-1", "memory.sbuf_partition_bytes = -1: must lie between 1024 and "),
    ("nan", "no value near 'nan'; give a number"),
])  # fmt: skip
def test_a_chip_file_with_a_missing_or_negative_number(tmp_path, value, text):
    path = chip_file(tmp_path, sbuf_partition_bytes=value)
    (tmp_path / "p.vasm").write_text(PROGRAM)
    message = refused(lambda: capi.Device(str(path)), "bad argument", text, str(path))
    errors = [message, vtrn("chips", path, code=1),
              vtrn("run", tmp_path / "p.vasm", "--random", "--chip", path, code=1)]
    if value == "-1":
        errors.append(jax_start(path))
    for error in errors:
        assert f"bad argument: {path}:" in error and text in error, error
