"""JAX's tests of several processes, from a checkout at the tag of the installed version: `jax PATH --processes N`, over
MPI with `--mpi LAUNCHER`. A unit is a file of tests/multiprocess. A worker runs it in N processes; a case is what all
of them make of a test: passed where it passed everywhere, skipped where every process skipped it."""

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
INITIALIZATION_SECONDS, BARRIER_SECONDS, END_SECONDS = 120, 60, 10
LAUNCHER = "VTRN_CONFORMANCE_MPI"
# Open MPI starts no more processes than the host has cores, but where it is told to.
OVERSUBSCRIBED = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}


def n_processes():
    return int(os.environ.get("VTRN_CONFORMANCE_PROCESSES", "2"))


def units(path):
    return sorted(f.name for f in (pathlib.Path(path) / "tests" / FOLDER).glob("*_test.py"))


class Processes:
    """The N of them, each connected with this one by a socket: MPI's launcher joins what they write to stdout. Their lines
    of JSON are put into `messages` with their numbers."""

    def __init__(self, arguments, n, request):
        self.messages = queue.Queue()
        self.server = socket.create_server(("127.0.0.1", 0))
        command = [sys.executable, "-m", "vtrn.conformance.processes_suite", *arguments,
                   str(self.server.getsockname()[1])]  # fmt: skip
        launcher = os.environ.get(LAUNCHER)
        commands = [[launcher, "-n", str(n), *command]] if launcher else [[*command, str(i)] for i in range(n)]
        env = {**OVERSUBSCRIBED, **os.environ}
        self.started = [subprocess.Popen(c, stdin=subprocess.DEVNULL, stdout=2, env=env) for c in commands]
        self.request = request
        threading.Thread(target=self._accept, args=(n,), daemon=True).start()
        for process in self.started:
            threading.Thread(target=self._wait, args=(process,), daemon=True).start()

    def _accept(self, n):
        for _ in range(n):
            try:
                connection, _ = self.server.accept()
            except OSError:  # it is over
                return
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection):
        with connection, connection.makefile("rw") as stream:
            number = int(stream.readline())
            stream.write(self.request)
            stream.flush()
            try:
                for line in stream:
                    self.messages.put((number, json.loads(line)))
            except (OSError, ValueError):  # it was killed while it wrote
                pass
        self.messages.put((number, None))

    def _wait(self, process):
        code = process.wait()
        self.messages.put((None, code))

    def end(self):
        self.server.close()
        for process in self.started:
            process.terminate()  # of a launcher, which ends what it started
        for process in self.started:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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
    processes = Processes([path, unit, str(n), str(free_port())], n, json.dumps(sorted(report.done)) + "\n")
    results, started, ended = {}, None, set()
    try:
        while len(ended) < n:
            number, message = processes.messages.get()
            if number is None:
                if message:  # without an end it has crashed in the case that it started
                    sys.exit(f"one of {n} processes, or their launcher, has ended with code {message}")
            elif message is None and number not in ended:
                sys.exit(f"process {number} of {n} has ended")
            elif message is None:
                continue
            elif "start" in message and started is None:
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
        processes.end()


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


def rank():
    """Of a process that MPI's launcher has started."""
    return next(os.environ[name] for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK") if name in os.environ)


def one_process(path, unit, n, port, parent, number=None):
    end_with_parent()
    number = rank() if number is None else number
    stream = socket.create_connection(("127.0.0.1", int(parent))).makefile("rw")
    stream.write(number + "\n")
    stream.flush()
    report = ToParent(stream, json.loads(stream.readline()))
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
