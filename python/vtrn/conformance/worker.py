"""python -m vtrn.conformance.worker SUITE PATH: runs one unit of a suite for the runner.

One line of JSON comes in: {"unit": NAME, "done": [cases not to run again], "fraction": of the cases, "least": as many of
them whatever the fraction, "cases": null, or the only ones that may run}. Lines of JSON go out: {"start": case} before a
case, {"case", "outcome", "reason", "seconds", "cpu_seconds"} after it, {"end": true, "cpu_seconds"} when the unit is through.
A worker that ends without {"end"} has crashed in the case that it started."""

import hashlib
import importlib
import json
import math
import os
import sys
import time
import traceback

SUITES = {"jax": "jax_suite", "harness": "harness_suite", "stablehlo": "stablehlo_suite",
          "processes": "processes_suite", "docs": "docs_suite", "samples": "samples_suite",
          "asst4": "asst4_suite", "nkilib": "nkilib_suite"}


LEAST_CASES = 8  # of a unit, whatever the fraction


def load(suite):
    return importlib.import_module("vtrn.conformance." + SUITES[suite])


class Report:
    """What a suite calls. Skip: raised by a case that does not apply."""

    def __init__(self, stream, done, fraction=1.0, least=LEAST_CASES, cases=None):
        self.stream, self.done, self.fraction, self.least = stream, frozenset(done), fraction, least
        self.cases = cases

    def is_left(self, case):
        return case not in self.done and (self.cases is None or case in self.cases)

    def left(self, cases, name_of):
        """Those of a unit's cases that are to run, in their order. A fraction takes the same cases each time, at
        random, and a larger one takes those of a smaller one and more."""
        n = min(len(cases), max(self.least, math.ceil(len(cases) * self.fraction)))
        names = sorted((name_of(c) for c in cases), key=lambda name: hashlib.sha256(name.encode()).digest())
        taken = {name for name in (names[:n] if self.cases is None else names) if self.is_left(name)}
        return [c for c in cases if name_of(c) in taken]

    def say(self, **message):
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()

    def start(self, case):
        self.say(start=case)
        self.began, self.cpu_began = time.monotonic(), time.process_time()

    def result(self, case, outcome, reason=""):
        self.say(case=case, outcome=outcome, reason=reason[-4000:], seconds=time.monotonic() - self.began,
                 cpu_seconds=time.process_time() - self.cpu_began)

    def run(self, case, function):
        """Runs function() as the case, unless it is done already."""
        if not self.is_left(case):
            return
        self.start(case)
        try:
            said = function()
        except Skip as e:
            self.result(case, "skipped", str(e))
        except Exception:
            self.result(case, "failed", traceback.format_exc())
        else:
            self.result(case, "passed", said if isinstance(said, str) else "")


class Skip(Exception):
    """The case does not apply; the text says why."""


def main():
    # The messages keep stdout to themselves: what tests print goes to stderr.
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    report = Report(stream, request["done"], request.get("fraction", 1.0), request.get("least", LEAST_CASES),
                    request.get("cases"))
    load(sys.argv[1]).run(sys.argv[2], request["unit"], report)
    report.say(end=True, cpu_seconds=time.process_time())


if __name__ == "__main__":
    # Suites raise the Skip of the imported module, not of __main__.
    importlib.import_module("vtrn.conformance.worker").main()
