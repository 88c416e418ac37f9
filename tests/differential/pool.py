"""Worker processes from the outside: start, ask, wait no longer than a limit, start again."""

import os
import pathlib
import pickle
import select
import signal
import subprocess
import sys
import tempfile

from . import shrink
from .outcome import Outcome

TESTS = pathlib.Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()
START_SECONDS = 120
PROGRAM_SECONDS = 120  # a hundred times what a program takes on an idle host


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


class Worker:
    """One process of one configuration. ask() never raises for what the program does."""

    def __init__(self, config, seconds=PROGRAM_SECONDS):
        self.config, self.seconds = config, seconds
        self.process = None

    def start(self):
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "differential.worker"], env=environment(self.config), bufsize=0,
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
            ready, _, _ = select.select([self.process.stdout], [], [], limit)
            if not ready:
                self.stop()
                return Outcome("hang", f"no result after {limit} s")
            return pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            return self.crashed()

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
