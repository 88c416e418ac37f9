"""StableHLO's own tests with values: stablehlo/testdata (a program with its inputs and its expected
results a file) and stablehlo/tests/interpret (several functions a file). A checkout has both."""

import os
import pathlib
import re

import numpy as np

from vtrn.conformance import compare
from vtrn.conformance.worker import Skip

NEEDS_PATH = SAMPLES = True
FILES_OF_A_UNIT = 60
ULPS = 3  # of expect_close
# What a file can have that this process has no means for.
BEYOND = {"interpreter.run_parallel": "runs functions on several devices, by a dialect of StableHLO's interpreter",
          "interpreter.probe": "writes values aside, by a dialect of StableHLO's interpreter",
          "!quant.": "jaxlib cannot read types of MLIR's dialect quant",
          "f6E": "XLA has no array of 6-bit floats"}
ALMOST = 1e-4  # of expect_almost_eq

# The dialect `check` is not in jaxlib: its ops become the custom calls that testdata uses for them.
CONSTANT_CHECK = re.compile(
    r"check\.(expect_eq|expect_almost_eq)_const\s+(%[\w#]+),\s*(dense<.*?>)\s*(?:\{[^}]*\}\s*)?:\s*"
    r"(tensor<(?:[^<>]|<[^<>]*>)*>)(?:\s*\{(?:\s*tolerance\s*=\s*([\d.e+-]+))?[^}]*\})?", re.S)
PAIR_CHECK = re.compile(
    r"check\.(expect_eq|expect_almost_eq|expect_close)\s+(%[\w#]+),\s*(%[\w#]+)"
    r"(?:,\s*tolerance\s*=\s*([\d.e+-]+))?[^:\n]*(?::\s*f64\s*)?"
    r":\s*(?:\{[^}]*\}\s*)?(tensor<(?:[^<>]|<[^<>]*>)*>)(?:,\s*tensor<(?:[^<>]|<[^<>]*>)*>)?")


def folders(path):
    root = pathlib.Path(path)
    root = root / "stablehlo" if (root / "stablehlo" / "tests").is_dir() else root
    return root / "testdata", root / "tests" / "interpret"


def units(path):
    testdata, interpret = folders(path)
    n = len(list(testdata.glob("*.mlir")))
    return [f"testdata#{k}" for k in range(-(-n // FILES_OF_A_UNIT))] + \
        [f"interpret/{f.relative_to(interpret)}" for f in sorted(interpret.rglob("*.mlir"))]


def with_custom_checks(text):
    number = 0

    def target(name, tolerance):
        return f'@"check.{name} {tolerance}"' if tolerance else f"@check.{name}"

    def constant(match):
        nonlocal number
        number += 1
        name, value, dense, kind, tolerance = match.groups()
        return (f"%vtrn_check{number} = stablehlo.constant {dense} : {kind}\n"
                f"stablehlo.custom_call {target(name, tolerance)}({value}, %vtrn_check{number}) "
                f"{{has_side_effect = true}} : ({kind}, {kind}) -> ()")

    def pair(match):
        name, a, b, tolerance, kind = match.groups()
        return (f"stablehlo.custom_call {target(name, tolerance)}({a}, {b}) {{has_side_effect = true}} : "
                f"({kind}, {kind}) -> ()")

    return PAIR_CHECK.sub(pair, CONSTANT_CHECK.sub(constant, text))


def returning_checked(module, ir, name):
    """Makes function name the public main, whose results are what its checks compare, pair by pair."""
    checks = []
    function = next(op for op in module.body.operations
                    if "sym_name" in op.attributes and ir.StringAttr(op.attributes["sym_name"]).value == name)
    block = function.regions[0].blocks[0]
    values = []
    for op in list(block.operations):
        if op.operation.name == "stablehlo.custom_call":
            target = ir.StringAttr(op.attributes["call_target_name"]).value
            if target.startswith("check."):
                checks.append(target.removeprefix("check.").removeprefix("expect_"))
                values += list(op.operands)
                op.operation.erase()
    last = list(block.operations)[-1]
    with ir.InsertionPoint(last):
        from jaxlib.mlir.dialects import func

        func.ReturnOp(values)
    last.operation.erase()
    inputs = ir.FunctionType(ir.TypeAttr(function.attributes["function_type"]).value).inputs
    function.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get(inputs, [v.type for v in values]))
    if "res_attrs" in function.attributes:
        del function.attributes["res_attrs"]
    for op in module.body.operations:
        if "sym_name" not in op.attributes:
            continue
        if ir.StringAttr(op.attributes["sym_name"]).value == "main" and op != function:
            op.attributes["sym_name"] = ir.StringAttr.get("vtrn_other_main")
        op.attributes["sym_visibility"] = ir.StringAttr.get("public" if op == function else "private")
    function.attributes["sym_name"] = ir.StringAttr.get("main")
    return checks


def ulps_between(a, b):
    """Representable values between two arrays of one float type; 0 for two NaN."""
    bits = np.dtype(f"i{a.dtype.itemsize}")
    order = [np.where(i < 0, np.iinfo(bits).min - i.astype(object), i.astype(object))
             for i in (np.asarray(x).view(bits) for x in (a, b))]
    n = np.abs(order[0] - order[1])
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0, n)


def compare_checked(check, got, want, i):
    """check: what the name of the op says behind expect_, and a tolerance if the op gives one."""
    got, want = np.asarray(got), np.asarray(want)
    check, _, tolerance = check.partition(" ")
    if check == "eq":
        np.testing.assert_array_equal(got, want, f"check {i}")
    elif check == "almost_eq":
        allowed = float(tolerance or ALMOST)
        np.testing.assert_allclose(got, want, rtol=allowed, atol=allowed, err_msg=f"check {i}")
    else:
        parts = [(got.real, want.real), (got.imag, want.imag)] if np.iscomplexobj(want) else [(got, want)]
        if not all((ulps_between(np.ascontiguousarray(a), np.ascontiguousarray(b)) <= ULPS).all()
                   for a, b in parts):
            compare.check_same(got, want, f"check {i}")


def run_module(text, name):
    for word, why in BEYOND.items():
        if word in text:
            raise Skip(why)
    from jax._src import compiler, xla_bridge
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jaxlib.mlir import ir

    with mlir.make_ir_context() as context, ir.Location.unknown():
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(text)
        checks = returning_checked(module, ir, name)
        if not checks:
            raise Skip("the file checks no value")
        if "sym_name" not in module.operation.attributes:
            module.operation.attributes["sym_name"] = ir.StringAttr.get("main")
        backend = xla_bridge.get_backend("neuron")
        devices = xla_client.DeviceList((backend.local_devices()[0],))
        options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
        executable = compiler.backend_compile_and_load(backend, module, devices, options, [])
    results = executable.execute_sharded([]).disassemble_into_single_device_arrays()
    values = [np.asarray(r[0]) for r in results]
    for i, check in enumerate(checks):
        compare_checked(check, values[2 * i], values[2 * i + 1], i)


def run(path, unit, report):
    os.environ.setdefault("JAX_PLATFORMS", "neuron,cpu")
    import jax

    jax.config.update("jax_enable_x64", True)
    testdata, interpret = folders(path)
    if unit.startswith("testdata#"):
        k = int(unit.partition("#")[2])
        files = sorted(testdata.glob("*.mlir"))[k * FILES_OF_A_UNIT:(k + 1) * FILES_OF_A_UNIT]
        for file in report.left(files, lambda f: f.name):
            report.run(file.name, lambda: run_module(file.read_text(), "main"))
        return
    text = with_custom_checks((interpret / unit.removeprefix("interpret/")).read_text())
    for part in re.split(r"^// -----.*$", text, flags=re.M):
        names = re.findall(r"func\.func(?:\s+\w+)?\s+@([\w.$]+)\s*\(\s*\)", part)
        checked = [n for n in names if re.search(r"@" + re.escape(n) + r'\s*\(\s*\).*?@"?check\.', part, re.S)]
        for name in checked[-1:]:
            report.run(name, lambda: run_module(part, name))
