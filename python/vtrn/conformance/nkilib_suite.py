"""nki-library's own tests in simulation mode: PATH is a checkout at tag 2.29. A unit is every Nth test of a file."""

import os
import pathlib
import sys
import tempfile

import pytest

from vtrn.conformance import nkilib_stubs

NEEDS_PATH = True
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
    return names


class Plugin:
    """Runs the chosen tests and passes each result on."""

    def __init__(self, report, part):
        self.report, self.part, self.outcome = report, part, None

    def pytest_collection_finish(self, session):
        from test.utils.test_orchestrator import Orchestrator

        Orchestrator._compiled_kernel = None  # what the tag asks for after a simulation and never sets
        items = session.items
        if self.part:
            k, n = self.part
            items = items[k - 1::n]
        session.items[:] = [i for i in items if i.nodeid.partition("::")[2] not in self.report.done]
        for item in session.items:
            if item.get_closest_marker("trace_only"):
                item.add_marker(pytest.mark.skip(reason="needs the vendor's compiler (trace_only)"))
            elif "/collectives/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="runs on several chips, which the simulation mode has not"))

    def pytest_collectreport(self, report):
        if report.failed:
            self.report.start(f"(loading) {report.nodeid}")
            self.report.result(f"(loading) {report.nodeid}", "failed", str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid, location):
        self.name = nodeid.partition("::")[2]
        self.outcome = ("passed", "")
        self.report.start(self.name)

    def pytest_runtest_logreport(self, report):
        if report.skipped and self.outcome[0] == "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.outcome = ("skipped", getattr(report, "wasxfail", "") or reason)
        elif report.failed:
            self.outcome = ("failed", report.longreprtext)

    def pytest_runtest_logfinish(self, nodeid, location):
        self.report.result(self.name, *self.outcome)


def run(path, unit, report):
    name, _, part = unit.partition("#")
    path = str(pathlib.Path(path).resolve())
    os.chdir(path)
    sys.path[:0] = [path, os.path.join(path, "src"), os.path.join(path, "src", "nkilib_src")]
    sys.dont_write_bytecode = True  # the checkout stays as it is
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Its kernels compute on padding that nothing wrote, and leave the results out.
    os.environ["VTRN_NKI_UNINITIALISED"] = "nan"
    nkilib_stubs.install(path)

    with tempfile.TemporaryDirectory() as out:
        code = pytest.main(["-c", "test/pytest.ini", "--rootdir", path, f"{TESTS}/{name}", "-q", "--tb=short", "-p", "no:cacheprovider",
                     "-o", "log_level=ERROR", "-p", "no:warnings", "--test-mode", "simulation", "--platform-target", platform(),
                     "--output-directory", out, "-o", f"artifacts_dir={out}", "--force-local-cleanup"],
                    plugins=[Plugin(report, tuple(int(x) for x in part.split("/")) if part else None)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        report.start("(pytest)")
        report.result("(pytest)", "failed", f"pytest ended with {code!r}")
