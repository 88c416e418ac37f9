"""nki-library's own tests in simulation mode: PATH is a checkout at tag 2.29. A unit is every Nth test of a file."""

import contextlib
import fcntl
import functools
import gc
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile

import numpy as np
import pytest

import vtrn.nki
from vtrn.conformance import float8_casts, nkilib_compare, nkilib_inputs, nkilib_stubs, pytest_cases

NEEDS_PATH = SAMPLES = True
SLOW = "NKILIB_SIMULATION_RUN_ALL"  # 1: what the simulation mode leaves out as too slow is run, here without the rest
FAST = "VTRN_CONFORMANCE_FAST"  # 1: what nki-library marks as fast, without the rest
TESTS = "test/integration/nkilib"
PART_BYTES = 12_000  # of a test file: more of them make another part


def platform():
    """The chip that the tests are for."""
    return os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or "trn2"


def units(path):
    root = pathlib.Path(path)
    names = []
    for file in sorted((root / TESTS).rglob("test_*.py")):
        name = str(file.relative_to(root / TESTS))
        if "def test_" not in file.read_text():
            continue  # a helper of others
        n = -(-file.stat().st_size // PART_BYTES)
        names += [name] if n == 1 else [f"{name}#{k}/{n}" for k in range(1, n + 1)]
    return [f"{kind}/{name}" for name in names] if (kind := kind_of_run()) else names


def kind_of_run():
    return "slow" if runs_slow() else "fast" if os.environ.get(FAST) == "1" else ""


def runs_slow():
    return os.environ.get(SLOW) == "1"


def is_slow(item):
    from test.utils import simulation_setup

    return bool(item.get_closest_marker("slow_simulation")) or any(
        text in item.name for text in simulation_setup._LARGE_SHAPE_PATTERNS)


def _arguments(kernel, rank):
    """A rank's arguments by name, as the kernel has them."""
    given = kernel.kernel_input or {}
    given = given if hasattr(given, "items") else given.for_rank(rank)
    return {name.removesuffix(".must_alias_input"): value for name, value in given.items()}


def run_several_ranks(orchestrator):
    """The simulation mode runs one rank, and fails where tests have inputs for each of several: these run by run_ranks, and
    their results lie where those of a device would."""
    from test.utils import common_dataclasses, test_orchestrator

    simulate = orchestrator._run_simulator_inference
    if hasattr(simulate, "__wrapped__"):
        return

    @functools.wraps(simulate)
    def inference(self, kernel):
        n_ranks = kernel.inference_args.collective_ranks
        if n_ranks <= 1 and hasattr(kernel.kernel_input or {}, "items"):
            return simulate(self, kernel)
        os.environ["NKI_NC_VERSION"] = kernel.compiler_input.platform_target.get_nc_gen()
        lnc = kernel.compiler_input.logical_nc_config
        results = vtrn.nki.run_ranks(vtrn.nki.jit(kernel.kernel_func)[lnc], [_arguments(kernel, r) for r in range(n_ranks)])
        folder = os.path.join(self.fs_config.artifacts_output_directory_path, test_orchestrator.INF_ARTIFACT_DIR_NAME)
        for rank, result in enumerate(results):
            golden = common_dataclasses.normalize_golden_output(kernel.validation_args.golden_output, rank)
            given = list(result) if isinstance(result, (list, tuple)) else [] if result is None else [result]
            if len(given) != len(golden):
                raise RuntimeError(f"rank {rank}: the kernel gives {len(given)} results, the test expects {', '.join(golden)}")
            arrays = {name: np.asarray(array, getattr(want, "dtype", None)) for array, (name, want) in zip(given, golden.items())}
            to = os.path.join(folder, f"output_worker_{rank}") if n_ranks > 1 else folder
            self.__dump_tensors__(to, arrays, lambda name: name)
        return folder

    orchestrator._run_simulator_inference = inference


def leave_inputs_out(orchestrator):
    """A test writes its inputs to files, for another machine: gigabytes that a simulation does not read."""
    orchestrator.__dump_kernel_inputs__ = lambda self, target_directory, kernel_under_test: {}


@contextlib.contextmanager
def output_folder(unit):
    """An empty folder. What workers that were ended left is gone, too: of this unit, and of runs that are over."""
    name = f"out-{os.getppid()}-{hashlib.sha256(unit.encode()).hexdigest()[:16]}"
    folder = os.path.join(sys.pycache_prefix, name)
    for old in pathlib.Path(sys.pycache_prefix).glob("out-*-*"):
        run = old.name.split("-")[1]
        if old.name == name or (os.path.isdir("/proc") and not os.path.isdir(f"/proc/{run}")):
            shutil.rmtree(old, ignore_errors=True)
    os.makedirs(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seed_generators():
    """Inputs that a test draws without a seed are the same in each run, whatever ran before."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


class _XdistHooks:
    """What nki-library's conftest implements of pytest-xdist's hooks, which pytest refuses where nobody specifies them."""

    def pytest_configure_node(self, node):
        pass


class Plugin(pytest_cases.Cases):
    """Runs the chosen tests and passes each result on."""

    def __init__(self, report, part, out):
        super().__init__(report)
        self.part, self.out = part, out

    def pytest_addhooks(self, pluginmanager):
        if importlib.util.find_spec("xdist") is None:
            pluginmanager.add_hookspecs(_XdistHooks)

    def pytest_collection_finish(self, session):
        from test.utils.test_orchestrator import Orchestrator

        leave_inputs_out(Orchestrator)
        Orchestrator._compiled_kernel = None  # what the tag asks for after a simulation and never sets
        nkilib_stubs.take_numpy_types()
        nkilib_inputs.install()
        nkilib_compare.install()
        items = session.items if not runs_slow() else [i for i in session.items if is_slow(i)]
        if kind_of_run() == "fast":
            items = [i for i in items if i.get_closest_marker("fast") and not is_slow(i)]
        if self.part:
            k, n = self.part
            items = items[k - 1::n]
        if self.report.fraction < 1:  # of what runs
            items = [i for i in items if not i.get_closest_marker("skip")]
        gc.collect()
        gc.freeze()  # thousands of tests, which no collection looks through again
        session.items[:] = self.report.left(items, self.name_of)
        for item in session.items:
            if item.get_closest_marker("trace_only"):
                item.add_marker(pytest.mark.skip(reason="needs the vendor's compiler (trace_only)"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        from test.utils.test_orchestrator import Orchestrator

        run_several_ranks(Orchestrator)
        seed_generators()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item):
        nkilib_compare.forget()
        for value in (getattr(item, "funcargs", None) or {}).values():  # an Orchestrator among them
            folder = getattr(getattr(value, "fs_config", None), "artifacts_output_directory_path", None)
            if folder and pathlib.Path(self.out) in pathlib.Path(folder).parents:
                shutil.rmtree(folder, ignore_errors=True)


def remember_pairs(name, folder):
    """Drawing the shapes of a file's tests, so that all pairs of values are there, takes a minute of some files: the
    parts of a file share what the first has drawn, in a file of folder."""
    from test.utils import coverage_parametrized_tests as drawing

    draw, n_drawn = drawing._create_all_pairs, 0

    def remembered(values, filter_func=None):
        nonlocal n_drawn
        n_drawn += 1
        key = hashlib.sha256(f"{name} {n_drawn} {values!r}".encode()).hexdigest()
        with open(os.path.join(folder, f"pairs-{key}"), "a+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)  # another part may be drawing the same
            f.seek(0)
            known = f.read()
            if known:
                return [[column[i] for column, i in zip(values, row)] for row in json.loads(known)]
            rows = [list(row) for row in draw(values, filter_func)]
            f.write(json.dumps([[next(i for i, w in enumerate(column) if w is v) for column, v in zip(values, row)]
                                for row in rows]))
        return rows

    drawing._create_all_pairs = remembered


def remember_marks(folder):
    """Each pytest reads all test files for their marks, some seconds long: the first one's answer is kept in folder."""
    from test.utils import pytest_test_metadata

    discover = pytest_test_metadata.discover_pytest_test_metadata_marks

    def remembered(root):
        file = pathlib.Path(folder, "marks-" + hashlib.sha256(str(root).encode()).hexdigest())
        if file.exists():
            return json.loads(file.read_text())
        marks = discover(root)
        part = file.with_suffix(f".{os.getpid()}")  # renamed when it is whole
        part.write_text(json.dumps(marks))
        part.rename(file)
        return marks

    pytest_test_metadata.discover_pytest_test_metadata_marks = remembered


def run(path, unit, report):
    name, _, part = unit.removeprefix("slow/").removeprefix("fast/").partition("#")
    path = str(pathlib.Path(path).resolve())
    os.chdir(path)
    sys.path[:0] = [path, os.path.join(path, "src"), os.path.join(path, "src", "nkilib_src")]
    # The checkout stays as it is, and yet is not compiled again by every worker.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.path.join(tempfile.gettempdir(), f"vtrn-conformance-{os.getuid()}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NEURON_PYTHONHASHSEED", "0")  # by which it draws shapes: parts of a file must agree on them
    # Its kernels compute on padding that nothing wrote, and leave the results out.
    # Those with MX tiles contract it, and its scales' is compared, both as zeros.
    os.environ["VTRN_NKI_UNINITIALISED"] = "zero" if platform() == "trn3" else "nan"
    float8_casts.install()
    nkilib_stubs.install(path)
    os.makedirs(sys.pycache_prefix, exist_ok=True)
    remember_pairs(name, sys.pycache_prefix)
    remember_marks(sys.pycache_prefix)

    with output_folder(unit) as out:
        plugin = Plugin(report, tuple(int(x) for x in part.split("/")) if part else None, out)
        code = pytest.main(["-c", "test/pytest.ini", "--rootdir", path, f"{TESTS}/{name}", "-q", "--tb=short", "-p", "no:cacheprovider",
                     "-o", "log_level=ERROR", "-p", "no:warnings", "--test-mode", "simulation", "--platform-target", platform(),
                     "--output-directory", out, "-o", f"artifacts_dir={out}", "--force-local-cleanup"],
                    plugins=[plugin])
    plugin.check_end(code)
