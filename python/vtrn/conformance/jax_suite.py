"""JAX's own tests, from a checkout at the tag of the installed version. A unit is a file of tests/, or
every Nth test of a large one."""

import importlib.util
import os
import pathlib
import re
import sys
import traceback
import unittest

NEEDS_PATH = SAMPLES = True
PART_BYTES = 60_000  # of a test file: more of them make another part
# They test how JAX finds platforms, and leave its registry without ours.
LEAVE_OTHER_PLATFORMS = ("xla_bridge_test.py",)
# Files that no device of ours can run, and why.
NOT_FOR_US = {
    "export_harnesses_multi_platform_test.py": "runs on devices of JAX's own platforms only",
    "gpu_memory_flags_test.py": "looks at the pool of XLA's GPU allocator; JAX runs it on GPUs only",
    "local_wheel_smoke_test.py": "looks at the wheels that JAX's own build made",
}


def units(path):
    files = sorted((pathlib.Path(path) / "tests").glob("*_test.py"))
    names = []
    for file in files:
        n = -(-file.stat().st_size // PART_BYTES)
        names += [file.name] if n == 1 else [f"{file.name}#{k}/{n}" for k in range(1, n + 1)]
    return names


def name_of(test):
    """The same in every process: parameters that are functions print their addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", test.id())


class Streamed(unittest.TestResult):
    """Passes each result on as it arrives. A test fails when one of its subtests does."""

    def __init__(self, report):
        super().__init__()
        self.report, self.outcome = report, None

    def startTest(self, test):
        super().startTest(test)
        self.outcome = ("passed", "")
        self.report.start(name_of(test))

    def stopTest(self, test):
        super().stopTest(test)
        self.report.result(name_of(test), *self.outcome)
        self.outcome = None

    def _set(self, test, outcome, reason):
        if self.outcome is None:  # no test runs: it is a fixture of the class or the module
            self.report.start(name_of(test))
            self.report.result(name_of(test), outcome, reason)
        elif self.outcome[0] != "skipped":  # what a test that skips itself leaves behind is no failure
            self.outcome = (outcome, reason)

    def _bad(self, test, error):
        self._set(test, "failed", "".join(traceback.format_exception(*error)))

    def addFailure(self, test, err):
        self._bad(test, err)

    def addError(self, test, err):
        self._bad(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._bad(test, err)

    def addSkip(self, test, reason):
        self._set(test, "skipped", reason)

    def addUnexpectedSuccess(self, test):
        self.outcome = ("failed", "an expected failure passed")


def run_what_runs_everywhere():
    """A test for JAX's three platforms asks for what every one has: it is for ours, too."""
    from jax._src import test_util

    own = test_util.test_device_matches
    test_util.test_device_matches = lambda types: own(types) or {"cpu", "gpu", "tpu"} <= set(types)


def load(path, file, arguments=()):
    # JAX's tests register platforms of their own: it has to choose ours by its priority.
    os.environ.pop("JAX_PLATFORMS", None)
    tests = pathlib.Path(path) / "tests"
    os.chdir(path)
    import jax._src

    # The wheel leaves out modules that only tests need.
    jax._src.__path__.append(str(pathlib.Path(path) / "jax" / "_src"))
    sys.path.insert(0, str((tests / file).parent))
    run_what_runs_everywhere()
    # Flags are JAX's; ours, and the runner's, are not for it.
    sys.argv = [str(tests / file), *arguments]
    spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, tests / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    from absl import flags

    if not flags.FLAGS.is_parsed():  # what absltest.main() would do
        flags.FLAGS(sys.argv)
    return module


def check_platform(report):
    """A failure of its own when the tests ran elsewhere: JAX goes on quietly when a platform is missing."""
    import jax

    platform = jax.default_backend()
    if platform != "neuron":
        report.start("(platform)")
        report.result("(platform)", "failed", f"the tests ran on {platform}, not on neuron")


def tests_of(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_of(item)
        else:
            yield item


def run(path, unit, report):
    file, _, part = unit.partition("#")
    if file in NOT_FOR_US:
        report.start("(module)")
        report.result("(module)", "skipped", NOT_FOR_US[file])
        return
    try:
        module = load(path, file)
    except unittest.SkipTest as e:
        report.start("(module)")
        report.result("(module)", "skipped", str(e))
        return
    except BaseException:
        report.start("(module)")
        report.result("(module)", "failed", traceback.format_exc())
        return
    tests = list(tests_of(unittest.TestLoader().loadTestsFromModule(module)))
    if part:
        k, n = (int(x) for x in part.split("/"))
        tests = tests[k - 1::n]
    unittest.TestSuite(report.left(tests, name_of)).run(Streamed(report))
    if file not in LEAVE_OTHER_PLATFORMS:
        check_platform(report)
