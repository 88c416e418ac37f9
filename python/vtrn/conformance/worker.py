"""python -m vtrn.conformance.worker SUITE PATH: runs one unit of a suite for the runner.

One line of JSON comes in: {"unit": NAME, "done": [cases not to run again]}. Lines of JSON go out:
{"start": case} before a case, {"case", "outcome", "reason", "seconds"} after it, {"end": true} when
the unit is through. A worker that ends without {"end"} has crashed in the case that it started."""

import importlib
import json
import os
import sys
import time
import traceback

SUITES = {"jax": "jax_suite", "harness": "harness_suite", "stablehlo": "stablehlo_suite",
          "docs": "docs_suite", "samples": "samples_suite", "nkilib": "nkilib_suite"}


def load(suite):
    return importlib.import_module("vtrn.conformance." + SUITES[suite])


class Report:
    """What a suite calls. Skip: raised by a case that does not apply."""

    def __init__(self, stream, done):
        self.stream, self.done = stream, frozenset(done)

    def say(self, **message):
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()

    def start(self, case):
        self.say(start=case)
        self.began = time.monotonic()

    def result(self, case, outcome, reason=""):
        self.say(case=case, outcome=outcome, reason=reason[-4000:], seconds=time.monotonic() - self.began)

    def run(self, case, function):
        """Runs function() as the case, unless it is done already."""
        if case in self.done:
            return
        self.start(case)
        try:
            function()
        except Skip as e:
            self.result(case, "skipped", str(e))
        except Exception:
            self.result(case, "failed", traceback.format_exc())
        else:
            self.result(case, "passed")


class Skip(Exception):
    """The case does not apply; the text says why."""


def main():
    # The messages keep stdout to themselves: what tests print goes to stderr.
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    report = Report(stream, request["done"])
    load(sys.argv[1]).run(sys.argv[2], request["unit"], report)
    report.say(end=True)


if __name__ == "__main__":
    # Suites raise the Skip of the imported module, not of __main__.
    importlib.import_module("vtrn.conformance.worker").main()
