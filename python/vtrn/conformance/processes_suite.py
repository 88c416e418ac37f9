"""JAX's tests of several processes, from a checkout at the tag of the installed version: `jax PATH
--processes N`. A unit is a file of tests/multiprocess. A worker runs it in N processes; a case is what all of
them make of a test: passed where it passed everywhere, skipped where every process skipped it."""

import ctypes
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import threading
import unittest

from vtrn.conformance import jax_suite

NEEDS_PATH = True
FOLDER = "multiprocess"
ORDER = ("failed", "passed", "skipped")  # the first that a process reports is the outcome
# How TPUs and GPUs number their devices and profile their programs.
OF_JAXS_PLATFORMS = ("tpu_device_test.py", "pgle_test.py")
INITIALIZATION_SECONDS, BARRIER_SECONDS = 120, 60


def n_processes():
    return int(os.environ.get("VTRN_CONFORMANCE_PROCESSES", "2"))


def units(path):
    return sorted(f.name for f in (pathlib.Path(path) / "tests" / FOLDER).glob("*_test.py"))


class Process:
    """One of the N; its lines of JSON are put into `messages` with its number."""

    def __init__(self, command, number, request, messages):
        self.number = number
        self.process = subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)  # fmt: skip
        self.process.stdin.write(request)
        self.process.stdin.close()
        threading.Thread(target=self._read, args=(messages,), daemon=True).start()

    def _read(self, messages):
        for line in self.process.stdout:
            if line.startswith("{"):
                messages.put((self.number, json.loads(line)))
        messages.put((self.number, None))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def merge(results):
    """(outcome, reason) of a case, of those of its processes."""
    return next((results[number][0], f"process {number}: {results[number][1]}" if results[number][1] else "")
                for outcome in ORDER for number in sorted(results) if results[number][0] == outcome)  # fmt: skip


def run(path, unit, report):
    n = n_processes()
    if unit in OF_JAXS_PLATFORMS:
        report.start("(module)")
        report.result("(module)", "skipped", "of JAX's own platforms only")
        return
    command = [sys.executable, "-m", "vtrn.conformance.processes_suite", path, unit, str(n), str(free_port())]
    messages = queue.Queue()
    processes = [Process(command, i, json.dumps(sorted(report.done)) + "\n", messages) for i in range(n)]
    results, started, ended = {}, None, set()
    try:
        while len(ended) < n:
            number, message = messages.get()
            if message is None and number in ended:
                continue
            if message is None:  # a worker without an end has crashed in the case that it started
                code = processes[number].process.wait()
                sys.exit(f"process {number} of {n} has ended with code {code}")
            if "start" in message and started is None:
                started = message["start"]
                report.start(started)
            elif "end" in message:
                ended.add(number)
            elif "outcome" in message:
                case = results.setdefault(message["case"], {})
                case[number] = message["outcome"], message["reason"]
                if len(case) == n:
                    report.result(message["case"], *merge(case))
                    started = None
    finally:
        for p in processes:
            p.process.kill()
            p.process.wait()


class ToParent:
    """The reports of one process, as lines of JSON."""

    def __init__(self, stream, done):
        self.stream, self.done = stream, frozenset(done)

    def say(self, **message):
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()

    def start(self, case):
        self.say(start=case)

    def result(self, case, outcome, reason=""):
        self.say(case=case, outcome=outcome, reason=reason[-4000:])


def end_with_parent():
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def one_process(path, unit, n, port, number):
    end_with_parent()
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    report = ToParent(stream, json.loads(sys.stdin.readline()))
    arguments = [f"--num_processes={n}", f"--multiprocess_test_worker_id={number}",
                 f"--barrier_timeout={BARRIER_SECONDS}"]  # fmt: skip
    try:
        module = jax_suite.load(path, f"{FOLDER}/{unit}", arguments)
    except unittest.SkipTest as e:
        report.start("(module)")
        report.result("(module)", "skipped", str(e))
        report.say(end=True)
        return
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", int(n), int(number),
                               initialization_timeout=INITIALIZATION_SECONDS)  # fmt: skip
    tests = jax_suite.tests_of(unittest.TestLoader().loadTestsFromModule(module))
    unittest.TestSuite(t for t in tests if jax_suite.name_of(t) not in report.done).run(jax_suite.Streamed(report))
    jax_suite.check_platform(report)
    report.say(end=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    one_process(*sys.argv[1:])
