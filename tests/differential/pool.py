"""Worker processes from the outside: start, ask, wait no longer than a limit, start again."""

import os
import pathlib
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time

from . import shrink
from .outcome import Outcome

TESTS = pathlib.Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()
# Processor time, for other work on the host must not look like a hang: a program takes about a second.
PROGRAM_SECONDS = 90
START_SECONDS = 30
IDLE_SECONDS = 180  # without any progress of the process


def environment(config):
    library = os.path.abspath(os.environ.get("VTRN_LIBRARY") or BUILD / "src" / "libvtrn.so")
    path = [str(TESTS), str(TESTS / "python"), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "JAX_PLATFORMS": "neuron,cpu",
        "PJRT_NAMES_AND_LIBRARY_PATHS": f"neuron:{library}",
        "VTRN_LIBRARY": library,
        "VTRN_CHIP": config.chip,
        "VTRN_THREADS": str(config.threads),
        "VTRN_CHECK": "1" if config.is_checked else "0",
        "PYTHONPATH": os.pathsep.join(p for p in path if p),
        # Workers run side by side, so each keeps to one core.
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "OMP_NUM_THREADS": "1",
    }


def processor_seconds(pid):
    """User and system time of a process so far; fields 14 and 15 of its stat file are in ticks."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """One process of one configuration. ask() never raises for what the program does."""

    def __init__(self, config, seconds=PROGRAM_SECONDS):
        self.config, self.seconds = config, seconds
        self.process = None

    def command(self):
        return [sys.executable, "-m", "differential.worker"]

    def start(self):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command(), env=environment(self.config), bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        self.is_new = True

    def judge(self, program):
        return self.ask("judge", program)

    def types(self, program):
        """Of a program that has run already; no types if it cannot be traced."""
        answer = self.ask("types", program)
        return {} if isinstance(answer, Outcome) else answer

    def ask(self, request, program):
        if self.process is None:
            self.start()
        limit = self.seconds + (START_SECONDS if self.is_new else 0)
        self.is_new = False
        try:
            self.process.stdin.write(pickle.dumps((request, program)))
            late = self.wait(limit)
            if late:
                self.stop()
                return Outcome("hang", late)
            return pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return self.crashed()

    def wait(self, limit):
        """Until there is an answer or the process has ended -> "", or why it is given up."""
        start = used = processor_seconds(self.process.pid)
        moved = time.monotonic()
        while True:
            ready, _, _ = select.select([self.process.stdout], [], [], 5)
            if ready:
                return ""
            now = processor_seconds(self.process.pid)
            if now > used:
                used, moved = now, time.monotonic()
            if used - start > limit:
                return f"no result after {limit} s of processor time"
            if time.monotonic() - moved > IDLE_SECONDS:
                return f"no result, and no processor time used for {IDLE_SECONDS} s"

    def crashed(self):
        code = self.process.wait()
        self.errors.seek(0)
        text = self.errors.read().decode(errors="replace")[-2000:]
        self.process = None
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Outcome("crash", f"the worker ended with {how}\n{text}")

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def shrunk(program, outcome, worker, seconds):
    """The smallest program found that fails as the given one did, and its outcome."""
    found = [outcome]

    def fails(candidate):
        result = worker.judge(candidate)
        if result.signature() != outcome.signature():
            return False
        found.append(result)
        return True

    small = shrink.shrink(program, fails, worker.types, seconds)
    return small, found[-1]
