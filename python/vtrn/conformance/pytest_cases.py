"""Tests of pytest as cases of a unit."""


class Cases:
    """A plugin of pytest that passes each test's result on to a worker's Report."""

    def __init__(self, report):
        self.report, self.name, self.outcome, self.internal_error = report, "", None, ""

    @staticmethod
    def name_of(item):
        return item.nodeid.partition("::")[2]

    def pytest_collectreport(self, report):
        if report.failed:
            self.report.start(f"(loading) {report.nodeid}")
            self.report.result(f"(loading) {report.nodeid}", "failed", str(report.longrepr))

    def pytest_internalerror(self, excrepr):
        self.internal_error = str(excrepr).strip().rpartition("\n")[2]

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

    def check_end(self, code):
        """Tells of an end of pytest itself, by its exit code: internal errors, wrong usage, interrupts."""
        if int(code) not in (0, 1, 5):  # all passed, some failed, there were none
            self.report.start("(pytest)")
            self.report.result("(pytest)", "failed", f"pytest ended with {code!r}: {self.internal_error or 'see its output'}")


class Chosen(Cases):
    """Of the tests that are collected, those of a fraction that are not done yet."""

    def pytest_collection_finish(self, session):
        session.items[:] = self.report.left(session.items, self.name_of)
