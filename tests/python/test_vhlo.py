"""The artifact reader and the graph builder against what jaxlib's own MLIR reads from the same bytes."""

import collections
import glob
import importlib.util
import os
import re
import subprocess

import numpy as np
import pytest
from paths import BUILD

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from jax import export, lax  # noqa: E402
from jax._src.interpreters import mlir as jax_mlir  # noqa: E402
from jaxlib.mlir import ir  # noqa: E402
from jaxlib.mlir.dialects import stablehlo  # noqa: E402
from stablehlo_attrs import printed, wanted  # noqa: E402

HARNESS = BUILD / "tests/compiler/vhlo_harness"
pytestmark = pytest.mark.skipif(not HARNESS.exists(), reason="the C tests are not built")


def run(*args):
    done = subprocess.run([HARNESS, *map(str, args)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def dump(kind, data, tmp_path):
    path = tmp_path / "artifact.bc"
    path.write_bytes(data)
    return run(kind, path).split("\n", 1)[1]


# --- artifacts ---------------------------------------------------------------------------------


def shipped_artifacts():
    """Every artifact in the export tests that the jax wheel ships."""
    import jax._src.internal_test_util.export_back_compat_test_data as package

    found = {}

    def collect(value, name):
        if isinstance(value, dict) and "mlir_module_serialized" in value:
            found[f"{name}-{len(found)}"] = value["mlir_module_serialized"]
        elif isinstance(value, (dict, list, tuple)):
            for item in value.values() if isinstance(value, dict) else value:
                collect(item, name)

    for path in sorted(glob.glob(os.path.dirname(package.__file__) + "/**/*.py", recursive=True)):
        spec = importlib.util.spec_from_file_location("data", path)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except ImportError:
            continue
        for name, value in vars(module).items():
            if not name.startswith("__"):
                collect(value, os.path.basename(path)[:-3])
    return found


def mlp_step(w, x, y):
    def loss(w):
        h = jax.nn.gelu(x @ w[0] + w[1], approximate=False)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(h @ w[2]), y[:, None], 1))

    value, grad = jax.value_and_grad(loss)(w)
    return value, jax.tree.map(lambda a, b: a - 0.1 * b, w, grad)


def conv_grad(k, x):
    def loss(k):
        y = lax.conv_general_dilated(x, k, (2, 1), ((1, 2), (0, 1)), rhs_dilation=(1, 2),
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"))

    return jax.grad(loss)(k)


def control_flow(x, n):
    def step(c, a):
        return lax.cond(c[0] > 1, lambda v: v * 2, lambda v: v + x[0], c), a.sum()

    c, s = lax.scan(step, x[0], x)
    return lax.while_loop(lambda v: v[1] < n, lambda v: (jnp.sin(v[0]), v[1] + 1), (c, 0)), s, \
        lax.switch(n, [jnp.exp, jnp.cos, jnp.abs], x)


F32, BF16, I32, U32 = jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint32
PROGRAMS = {
    "mlp_step": (mlp_step, ([((8, 16), F32), ((16,), F32), ((16, 4), F32)], ((5, 8), F32),
                            ((5,), I32))),
    "conv_grad": (conv_grad, (((3, 2, 4, 5), F32), ((2, 9, 8, 4), F32))),
    "control_flow": (control_flow, (((6, 3), F32), ((), I32))),
    "sort": (lambda x, y: (lax.sort((x, y), num_keys=1), lax.top_k(x, 2), jnp.median(x)),
             (((4, 7), F32), ((4, 7), I32))),
    "gather": (lambda x, i: (x[i], x[:, i], x.at[i].get(mode="fill")), (((5, 6), F32), ((3,), I32))),
    "scatter": (lambda x, i, u: (x.at[i].set(u), x.at[i].add(u), x.at[i].max(u)),
                (((5, 6), F32), ((3,), I32), ((3, 6), F32))),
    "normal": (lambda k: jax.random.normal(jax.random.wrap_key_data(k), (4, 5)), (((2,), U32),)),
    "bf16": (lambda x, y: (jnp.dot(x, y, precision="highest"), jnp.pad(x, ((1, 2), (0, 3))),
                           x[::-1, 1:3], jnp.transpose(y), jnp.cumsum(x, 1)),
             (((4, 4), BF16), ((4, 3), BF16))),
    "bools": (lambda x: (jnp.array([True, False, True] * 7) ^ x, jnp.any(x), jnp.all(x)),
              (((21,), jnp.bool_),)),
    "linalg": (lambda x: (jnp.fft.rfft(x), lax.reduce_precision(x, 5, 3),
                          lax.dynamic_update_slice(x, x[:2, :2], (1, x[0, 0].astype(I32)))),
               (((6, 6), F32),)),
    "einsum": (lambda x, y: jnp.einsum("bij,bkj->bik", x, y), (((2, 3, 4), F32), ((2, 5, 4), F32))),
    "empty": (lambda x: (x + 1, jnp.concatenate([x, x]), x.sum(0)), (((0, 3), F32),)),
}


def is_spec(s):
    return isinstance(s, tuple) and len(s) == 2 and isinstance(s[0], tuple) and \
        all(isinstance(d, int) for d in s[0])


def artifact(name):
    f, specs = PROGRAMS[name]
    args = jax.tree.map(lambda s: jax.ShapeDtypeStruct(*s), specs, is_leaf=is_spec)
    return export.export(jax.jit(f), platforms=["cpu"])(*args).mlir_module_serialized


# --- the oracle: jaxlib's reader -----------------------------------------------------------------


def parse(data):
    context = jax_mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    return context, stablehlo.deserialize_portable_artifact(context, data)


def walk(op):
    for region in op.regions:
        for block in region.blocks:
            for child in block.operations:
                yield child.operation
                yield from walk(child.operation)


def text_of(kind):
    return str(kind).replace("!stablehlo.token", "token").replace("!vhlo.token", "token")


DROPPED = {"stablehlo.return", "func.return", "stablehlo.optimization_barrier", "sdy.return",
           "builtin.unrealized_conversion_cast", "sdy.sharding_constraint", "sdy.mesh",
           "stablehlo.tuple", "stablehlo.get_tuple_element"}


def is_identity(op):
    target = ir.StringAttr(op.attributes["call_target_name"]).value
    return target in ("Sharding", "annotate_device_placement", "SPMDFullToShardShape",
                      "SPMDShardToFullShape") and op.operands[0].type == op.results[0].type


def inlined_ops(module):
    """(name, result types, attributes) of every operation with calls and composites inlined."""
    functions = {}
    for op in module.body.operations:
        if op.operation.name == "func.func":
            functions[ir.StringAttr(op.attributes["sym_name"]).value] = op.operation
    counter = collections.Counter()

    def visit(parent):
        for region in parent.regions:
            for block in region.blocks:
                for child in block.operations:
                    op = child.operation
                    types = ", ".join(text_of(r.type) for r in op.results)
                    types = re.sub(r"^tuple<(.*)>$", r"\1", types)  # what is in it
                    if op.name == "func.call":
                        visit(functions[ir.FlatSymbolRefAttr(op.attributes["callee"]).value])
                    elif op.name == "stablehlo.composite":
                        if ir.StringAttr(op.attributes["name"]).value == "chlo.erf":
                            counter["stablehlo.erf", types, ()] += 1
                        else:
                            visit(functions[
                                ir.FlatSymbolRefAttr(op.attributes["decomposition"]).value])
                    elif op.name == "stablehlo.custom_call" and is_identity(op):
                        pass
                    elif op.name not in DROPPED:
                        counter[op.name, types, wanted(op)] += 1
                        visit(op)

    visit(functions["main"])
    return counter


def graph_ops(text):
    """The same of graph_print's text."""
    counter = collections.Counter()
    for line in text.splitlines():
        line = re.sub(r" // .*", "", line.strip())
        found = re.match(r"(?:(?:%\d+(?:, )?)+ = )?((?:stablehlo|sdy)\.[\w.-]+)(.*?)(?: : (.*))?$",
                         line)
        if found:
            name, middle, types = found.group(1), found.group(2), found.group(3) or ""
            if name == "sdy.sharding_constraint":  # left out on jaxlib's side
                continue
            if name == "sdy.manual_computation":
                middle = ""
            counter[name, types.replace("!token", "token"), printed(middle)] += 1
    return counter


def check_graph(data, text):
    context, module = parse(data)
    with context:
        want = inlined_ops(module)
    got = graph_ops(text)
    assert got == want, f"missing {want - got}, too many {got - want}"
    return sum(want.values())


# --- tests ---------------------------------------------------------------------------------------

SHIPPED = shipped_artifacts()
REFUSED = ("dynamic dimension", "manual computation over")


def test_the_wheel_ships_artifacts():
    assert len(SHIPPED) >= 100


BRIDGES = {"builtin.module", "builtin.unrealized_conversion_cast"}  # jaxlib folds casts away


def one_type(types):
    """The number of results, and the type where there is one that both sides write alike."""
    return len(types), types[0] if len(types) == 1 and "tuple" not in types[0] else ""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_operation_of_a_shipped_artifact_is_read(name, tmp_path):
    text = dump("vhlo", SHIPPED[name], tmp_path)
    assert not text.startswith("ERROR") and "malformed" not in text, text[:300]
    context, module = parse(SHIPPED[name])
    with context:
        want = collections.Counter(
            one_type([text_of(r.type) for r in op.results]) for op in walk(module.operation)
            if op.name not in BRIDGES and not op.name.startswith("sdy."))
    got = collections.Counter()
    for line in text.splitlines():
        found = re.match(r" *(?:(%[\d, %]+) = )?vhlo\.([\w-]+)\(", line)
        if found:
            n = (found.group(1) or "").count("%")
            got[one_type([line.rsplit(" : ", 1)[1]] + [""] * (n - 1) if n else [])] += 1
    assert got == want


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_artifact_becomes_the_graph_that_jaxlib_reads_or_is_refused_by_name(name,
                                                                                      tmp_path):
    text = dump("graph", SHIPPED[name], tmp_path)
    if text.startswith("ERROR"):
        assert any(reason in text for reason in REFUSED), text
        assert "\n  at " in text, text
        return
    assert check_graph(SHIPPED[name], text) > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_becomes_the_graph_that_jaxlib_reads(name, tmp_path):
    data = artifact(name)
    text = dump("graph", data, tmp_path)
    assert not text.startswith("ERROR"), text
    assert check_graph(data, text) > 0


def test_an_operation_knows_its_source_line(tmp_path):
    text = dump("graph", artifact("einsum"), tmp_path)
    assert re.search(r"dot_general .*// test_vhlo\.py:\d+", text), text


def test_the_body_of_a_called_function_has_the_source_line_of_its_call(tmp_path):
    """jax.nn.relu becomes a function of its own, whose operations have names but no file."""
    def relu_of_sum(x):
        return jax.nn.relu(x + 1)

    data = export.export(jax.jit(relu_of_sum), platforms=["cpu"])(
        jax.ShapeDtypeStruct((3,), F32)).mlir_module_serialized
    line = relu_of_sum.__code__.co_firstlineno + 1
    text = dump("graph", data, tmp_path)
    assert re.search(rf"stablehlo\.maximum .*// test_vhlo\.py:{line}\n", text), text


def test_reducers_are_recognised(tmp_path):
    text = dump("graph", artifact("scatter"), tmp_path)
    assert re.findall(r"stablehlo\.scatter .*reducer=(\w+)", text) == ["replace", "add", "maximum"]
    text = dump("graph", artifact("bools"), tmp_path)
    assert re.findall(r"stablehlo\.reduce .*reducer=(\w+)", text) == ["or", "and"]


def test_donated_parameters_name_their_output(tmp_path):
    def step(a, b, c):
        return b.sum(), a + 1, c.astype(BF16)

    shapes = [jax.ShapeDtypeStruct(s, F32) for s in ((3, 4), (5,), (7,))]
    lowered = jax.jit(step, donate_argnums=(0, 2)).lower(*shapes)
    context, module = jax_mlir.make_ir_context(), str(lowered.compiler_ir())
    with context:
        data = stablehlo.serialize_portable_artifact_str(module, "1.13.0")
    wanted = re.findall(r"%arg(\d+): [^%]*?tf\.aliasing_output = (\d+)", module)
    text = dump("graph", data, tmp_path)
    assert wanted == [("0", "1")]
    assert re.findall(r"parameter (\d+) aliases output (\d+)", text) == wanted


def test_constants_keep_their_bytes(tmp_path):
    values = jnp.arange(3, dtype=F32) * 1.5
    data = export.export(jax.jit(lambda x: x + values), platforms=["cpu"])(
        jax.ShapeDtypeStruct((3,), F32)).mlir_module_serialized
    assert "dense<0x" + values.tobytes().hex() + ">" in dump("graph", data, tmp_path)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16",
                                   "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3",
                                   "float8_e3m4", "bfloat16", "float16", "float32", "float64",
                                   "complex64", "complex128"])
def test_constants_of_every_type_keep_their_bytes(dtype, tmp_path):
    rng = np.random.default_rng(5)
    for n in (1, 2, 5, 16, 17):
        values = (rng.integers(0, 2, n) if dtype == "bool" else
                  rng.standard_normal(n) * 50 if "int" not in dtype else
                  rng.integers(0, 100, n)).astype(np.dtype(dtype))
        kind = "splat" if (values == values[0]).all() else "dense"
        raw = values.tobytes() if kind == "dense" else values[:1].tobytes()
        shown = raw.hex() if len(raw) <= 16 else raw[:16].hex() + "..."
        with jax.enable_x64(True):
            data = export.export(jax.jit(lambda: lax.optimization_barrier(values)),
                                 platforms=["cpu"])().mlir_module_serialized
        assert f"{kind}<0x{shown}>" in dump("graph", data, tmp_path)


@pytest.mark.parametrize("name", ["i2", "i4", "ui2", "ui4", "f4E2M1FN", "f6E2M3FN", "f6E3M2FN", "f8E4M3FNUZ",
                                  "f8E5M2FNUZ", "f8E4M3B11FNUZ", "f8E8M0FNU", "f8E3M4", "complex<f64>"])  # fmt: skip
def test_every_type_is_printed_by_its_name(name, tmp_path):
    text = f"""func.func @main(%x: tensor<2x3x{name}>) -> tensor<6x{name}> {{
                 %0 = stablehlo.reshape %x : (tensor<2x3x{name}>) -> tensor<6x{name}>
                 return %0 : tensor<6x{name}> }}"""
    with jax_mlir.make_ir_context():
        data = stablehlo.serialize_portable_artifact_str(text, stablehlo.get_current_version())
    assert check_graph(data, dump("graph", data, tmp_path)) == 1


@pytest.mark.parametrize("data, message", [
    (b"module @m {}", "got MLIR text"), (b"", "got no bytes"), (b"\x7fELF\x02", "7f 45 4c 46"),
    (b"HloModule m", "got HLO text"), (b"ML\xefR\x13x\x00", "bytecode version 9 > 6"),
])
def test_what_is_no_artifact_is_refused_with_what_it_is(data, message, tmp_path):
    text = dump("graph", data, tmp_path)
    assert text.startswith("ERROR") and message in text, text


def test_a_cut_artifact_names_byte_and_section(tmp_path):
    data = artifact("einsum")
    text = dump("graph", data[:len(data) // 2], tmp_path)
    assert re.search(r"at byte \d+ \(", text), text


@pytest.mark.parametrize("seed", range(4))
def test_damaged_artifacts_give_a_status_and_never_crash(seed, tmp_path):
    paths = []
    for name in ["mlp_step", "control_flow", "scatter", "bools"]:
        paths.append(tmp_path / name)
        paths[-1].write_bytes(artifact(name))
    for i, data in enumerate(list(SHIPPED.values())[seed::20]):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(data)
    out = run("mutate", seed + 1, 300, *paths)
    assert out.count("\n") == len(paths) and "internal" not in out, out


@pytest.mark.skipif("VTRN_STABLEHLO_DIR" not in os.environ, reason="no StableHLO checkout")
def test_the_compatibility_artifacts_of_stablehlo_are_read():
    paths = glob.glob(os.environ["VTRN_STABLEHLO_DIR"] + "/**/*.bc", recursive=True)
    assert paths
    out = run("vhlo", *paths)
    assert out.count("FILE ") == len(paths) and "\nERROR" not in out
