"""Scripts and unit tests with NKI kernels: docs PATH (a checkout of the Neuron SDK's documentation) and samples PATH
(nki-samples). A unit is a file; the case is the script, which compares with its own reference, or each unit test."""

import ast
import builtins
import contextlib
import functools
import io
import os
import pathlib
import runpy
import sys
import types
import unittest

from vtrn.conformance import pytest_cases
from vtrn.conformance.worker import Skip

NEEDS_PATH = SAMPLES = True


def folders(path, suite):
    root = pathlib.Path(path)
    parts = ("src", "contributed", "test/unit") if suite == "samples" else (
        "nki/examples", "nki/deep-dives/src", "nki/test", "general/nki/examples", "general/nki/test")  # those of the first generation
    return [root / part for part in parts if (root / part).is_dir()]


def files(path, suite):
    found = [p for folder in folders(path, suite) for p in sorted(folder.rglob("*.py")) if p.name != "conftest.py"]
    return [str(p.relative_to(path)) for p in found]


def replace_module(name, **names):
    module = types.ModuleType(name)
    module.__dict__.update(names)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def replace_torch_xla():
    """The device of torch_xla is the host's memory: kernels take tensors from there."""
    try:
        import torch
    except ModuleNotFoundError:
        raise Skip("PyTorch is not installed") from None

    def device(*unused):
        return torch.device("cpu")

    replace_module("torch_neuronx")  # imported for its effect on a device
    replace_module("torch_xla", device=device, sync=lambda: None)
    replace_module("torch_xla.core")
    replace_module("torch_xla.core.xla_model", xla_device=device, mark_step=lambda: None)


def imports(tree):
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def is_main(node):
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)


def name_documentation(root):
    """Makes packages of the folders of examples, which scripts of the first generation import so."""
    for name, folders_of_it in (("docs", ["general/nki"]), ("docs.examples", ["general/nki/examples", "src/nki_samples/tutorials"])):
        sys.modules["neuronxcc.nki." + name] = package = types.ModuleType("neuronxcc.nki." + name)
        package.__path__ = [str(root / folder) for folder in folders_of_it]


def prepare(path, unit):
    """The file's tree, with everything that it imports in place."""
    import vtrn.nki

    file = pathlib.Path(path) / unit
    try:
        tree = ast.parse(file.read_text())
    except SyntaxError as e:
        raise Skip(f"is no Python: {e.msg}") from None
    vtrn.nki.install(force=True)
    sys.path[:0] = [str(file.parent), str(pathlib.Path(path) / "src")]
    name_documentation(pathlib.Path(path))
    if {"torch", "torch_xla"} & imports(tree):
        replace_torch_xla()
    return file, tree


def only_defines(node):
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign))


def run_script(path, unit):
    file, tree = prepare(path, unit)
    known = DRIVERS.get(file.name)
    has_main = any(is_main(node) for node in tree.body)
    if not known and all(only_defines(node) for node in tree.body):
        raise Skip("kernels without a caller")
    if file.name in BREAKS_A_RULE:
        return expect_refusal(file)
    sys.argv = [str(file)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        names = runpy.run_path(str(file), run_name="__main__")
        if known and not has_main:
            known(names)
    text = said.getvalue()
    assert "differ" not in text and "matches? False" not in text, text[-2000:]


# Examples of what the documentation says is an error.
BREAKS_A_RULE = {"layout-violation.py"}


def expect_refusal(file):
    import vtrn.nki

    try:
        runpy.run_path(str(file), run_name="__main__")
    except vtrn.nki.NkiValidationError:
        return
    raise AssertionError("the documentation calls it an error, and nothing refused it")


def drive_matmuls(names):
    """The matmul tutorial's kernels, whose script needs a device: against NumPy, within its tolerance."""
    import ml_dtypes
    import numpy as np

    rng = np.random.default_rng(0)
    for name, (k, m, n) in {"nki_matmul_basic_": (128, 64, 512), "nki_matmul_tiled_": (256, 256, 1024),
                            "nki_matmul_hoist_load_": (256, 256, 1024),
                            "nki_matmul_block_free_dimension_": (256, 512, 2048),
                            "nki_matmul_fully_optimized_": (1024, 4096, 2048)}.items():
        lhs_t, rhs = (rng.random(s).astype(ml_dtypes.bfloat16) for s in ((k, m), (k, n)))
        want = lhs_t.astype(np.float32).T @ rhs.astype(np.float32)
        got = names[name](lhs_t, rhs).astype(np.float32)
        assert np.allclose(got, want, atol=1e-4, rtol=1e-2), name


def drive_addition(names):
    import numpy as np

    a, b = (np.random.default_rng(i).random((256, 1024)).astype(np.float16) for i in range(2))
    assert np.array_equal(names["nki_tensor_add"](a, b), a + b)


DRIVERS = {"matrix_multiplication_nki_kernels.py": drive_matmuls, "tensor_addition_nki_kernels.py": drive_addition}


def skip(reason):
    raise Skip(reason)


def unit_tests(path, unit, report):
    """Each test method as a case; a file that does not load is one failed case."""
    loaded = []

    def load():
        file, _ = prepare(path, unit)
        names = runpy.run_path(str(file), run_name="conformance")
        loaded.extend(c for c in names.values() if isinstance(c, type) and issubclass(c, unittest.TestCase))

    def run_one(case):
        outcome = unittest.TestResult()
        case.run(outcome)
        for _, reason in outcome.skipped:
            raise Skip(reason)
        for _, text in outcome.errors + outcome.failures:
            raise AssertionError(text)

    try:
        load()
    except ModuleNotFoundError as e:
        if e.name.startswith("nki_samples"):  # the checkout has no reference kernels
            report.run("(loading)", lambda name=e.name: skip(f"the checkout lacks {name}"))
        else:
            report.run("(loading)", load)
        return
    except Exception:
        report.run("(loading)", load)
        return
    for cls in loaded:
        for name in unittest.TestLoader().getTestCaseNames(cls):
            report.run(f"{cls.__name__}.{name}", lambda cls=cls, name=name: run_one(cls(name)))


PRODUCT_NAME = "/sys/devices/virtual/dmi/id/product_name"  # by which tests ask for the instance that they run on


def open_here(open, file, *args, **kwargs):
    if file == PRODUCT_NAME:
        return io.StringIO((os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or "trn2") + ".48xlarge\n")
    return open(file, *args, **kwargs)


def is_pytests(text):
    return "import pytest" in text and "unittest.TestCase" not in text


def pytest_tests(path, unit, report):
    """The tests of a file that pytest runs; where a checkout marks them, those that need no device."""
    try:
        import pytest
    except ModuleNotFoundError:
        report.run("(loading)", lambda: skip("pytest is not installed"))
        return
    file, _ = prepare(path, unit)
    builtins.open = functools.partial(open_here, builtins.open)
    plugin = pytest_cases.Chosen(report)
    options = ["--simulation-only"] if "pytest.mark.simulation" in file.read_text() else []
    plugin.check_end(pytest.main([str(file), "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:warnings", "--rootdir", str(path),
                                  *options], plugins=[plugin]))


def run_unit(path, unit, report):
    if pathlib.Path(unit).name.startswith("test_") and is_pytests((pathlib.Path(path) / unit).read_text()):
        pytest_tests(path, unit, report)
    elif pathlib.Path(unit).name.startswith("test_"):
        unit_tests(path, unit, report)
    else:
        report.run("script", lambda: run_script(path, unit))
