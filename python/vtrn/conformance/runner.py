"""Runs the cases of a suite in worker processes and keeps the results in a file."""

import collections
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
import time

from vtrn.conformance.worker import LEAST_CASES

PASSED, FAILED, SKIPPED, CRASHED, HUNG = "passed", "failed", "skipped", "crashed", "hung"
MEMORY_POLL_SECONDS = 1
SPARE_BYTES = 2 << 30  # of a host's free memory, for other programs
LEAST_FREE_BYTES = 1 << 30  # below this the host would soon end programs, other people's too
LOADING_SECONDS = 300  # at least this long may a worker import and prepare: a loaded machine is slow
OUTCOMES = (PASSED, FAILED, SKIPPED, CRASHED, HUNG)


@dataclasses.dataclass
class Result:
    unit: str  # what a worker runs in one go: a file, or a part of one
    case: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of the worker's threads: what a host that does other work does not change


def resident_bytes(pid):
    """Memory that the process has touched; 0 when it is gone or the host does not tell."""
    try:
        with open(f"/proc/{pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def available_bytes():
    """Memory that programs may still use; 0 where the host does not tell."""
    try:
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0


class Worker:
    """A process that runs the cases of one unit after another: worker.py tells its protocol. which: fraction, least, cases."""

    def __init__(self, suite, path, unit, done, max_bytes=None, **which):
        command = [sys.executable, "-m", "vtrn.conformance.worker", suite, path or ""]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True,
                                        env={"PYTHONHASHSEED": "0", **os.environ})  # the same cases each time
        self.process.stdin.write(json.dumps({"unit": unit, "done": sorted(done), **which}) + "\n")
        self.process.stdin.close()
        self.lines = queue.Queue()
        self.errors = collections.deque(maxlen=30)
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()
        self.excess = None  # what is said of a worker that was ended for its memory
        if max_bytes:
            threading.Thread(target=self._watch_memory, args=(max_bytes,), daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line.rstrip())

    def _watch_memory(self, max_bytes):
        while self.process.poll() is None:
            n_bytes = resident_bytes(self.process.pid)
            if n_bytes > max_bytes:
                self.excess = f"used {n_bytes / 1e9:.1f} GB of memory, more than {max_bytes / 1e9:.1f} GB"
            elif 0 < available_bytes() < LEAST_FREE_BYTES and n_bytes > LEAST_FREE_BYTES:
                self.excess = f"used {n_bytes / 1e9:.1f} GB of memory and left the host less than {LEAST_FREE_BYTES / 1e9:.1f} GB"
            if self.excess:
                self.process.kill()
                return
            time.sleep(MEMORY_POLL_SECONDS)

    def message(self, timeout):
        """The next message as a dict; None at the end of the unit. Raises queue.Empty."""
        while (line := self.lines.get(timeout=timeout)) is not None:
            if line.startswith("{"):
                return json.loads(line)
        return None

    def last_words(self):
        if self.excess:
            return self.excess
        return next((line for line in reversed(self.errors) if line.strip()), "no message")


class Run:
    """The results of a suite so far, in OUT/SUITE.jsonl; one line a case."""

    def __init__(self, suite, path, out, timeout=300, fraction=1.0, max_bytes=None):
        self.max_bytes = max_bytes  # of a worker; what needs more runs again, alone
        self.least = LEAST_CASES  # cases of a unit that run, whatever the fraction
        self.suite, self.path, self.timeout, self.fraction = suite, path, timeout, fraction
        out.mkdir(parents=True, exist_ok=True)
        self.file = out / f"{suite}.jsonl"
        self.results = {}
        self.deferred = {}  # (unit, case) to what is said of its memory: not run to its end beside others
        self.fraction_run = {}  # of a unit's cases, for each unit that was run to its end
        self.lock = threading.Lock()
        self.started = time.monotonic()
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                self._take(json.loads(line))

    def _take(self, record):
        if "finished" in record:
            unit = record["finished"]
            self.fraction_run[unit] = max(self.fraction_run.get(unit, 0), record.get("fraction", 1.0))
        elif "again" in record:
            self.fraction_run.pop(record["again"], None)
            for key in self._failures_of(record["again"]):
                del self.results[key]
        elif "deferred" in record:
            self.deferred[record["unit"], record["deferred"]] = record["reason"]
        else:
            result = Result(**record)
            self.results[result.unit, result.case] = result
            self.deferred.pop((result.unit, result.case), None)

    def _write(self, record):
        with self.lock, self.file.open("a") as f:
            f.write(json.dumps(record) + "\n")
            self._take(record)

    def _finish(self, unit, cpu_seconds=0.0):
        """cpu_seconds: of the unit's last worker."""
        self._write({"finished": unit, "fraction": self.fraction, "cpu_seconds": cpu_seconds})

    def is_finished(self, unit):
        return self.fraction_run.get(unit, 0) >= self.fraction

    def _failures_of(self, unit):
        return [key for key, r in self.results.items() if r.unit == unit and r.outcome not in (PASSED, SKIPPED)]

    def forget_failures(self, units):
        """What failed in these units is to run again, whatever was finished."""
        for unit in units:
            if self._failures_of(unit):
                self._write({"again": unit})

    def add(self, result):
        self._write(dataclasses.asdict(result))

    def run(self, units, jobs, progress):
        """Runs what is not finished. progress(run, units) is called after each result."""
        waiting = queue.Queue()
        for unit in units:
            if not self.is_finished(unit):
                waiting.put(unit)

        def work():
            while True:
                try:
                    unit = waiting.get_nowait()
                except queue.Empty:
                    return
                while not self._run_unit(unit, lambda: progress(self, units)):
                    pass

        threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without end would not see ctrl-C
                thread.join(0.5)
        for unit in units:
            while cases := [case for u, case in self.deferred if u == unit]:
                self._run_unit(unit, lambda: progress(self, units), cases)
                for case in self._untold(unit, cases):
                    self.add(Result(unit, case, CRASHED, "it was not run again: its unit has it no more"))

    def _untold(self, unit, cases):
        """Those of the cases of which nothing was told, where the first of them was not reached."""
        return cases if all((unit, case) in self.deferred for case in cases) else []

    def _run_unit(self, unit, progress, cases=None):
        """True when the unit is finished; False when its worker ended early and another must go on. cases: those that run
        now, with all memory that the host has."""
        done = {case for u, case in self.results if u == unit}
        if cases is None:
            done |= {case for u, case in self.deferred if u == unit}
        max_bytes = self.max_bytes if cases is None else max(self.max_bytes or 0, available_bytes() - SPARE_BYTES)
        worker = Worker(self.suite, self.path, unit, done, max_bytes, fraction=self.fraction, least=self.least, cases=cases)
        current = None
        try:
            while True:
                timeout = self.timeout if current else max(self.timeout, LOADING_SECONDS)
                try:
                    message = worker.message(timeout)
                except queue.Empty:
                    self.add(Result(unit, current or "(loading)", HUNG, f"no result in {timeout} s", timeout))
                    if current is None:
                        self._finish(unit)
                    return current is None
                if message is None:
                    break
                if "start" in message:
                    current = message["start"]
                elif "end" in message:
                    if cases is None:
                        self._finish(unit, message.get("cpu_seconds", 0.0))
                    return True
                else:
                    self.add(Result(unit, **message))
                    current = None
                progress()
        finally:
            worker.process.kill()
            code = worker.process.wait()
        if worker.excess and current and cases is None:
            self._write({"deferred": current, "unit": unit, "reason": worker.excess})
            return False
        self.add(Result(unit, current or "(loading)", CRASHED, f"exit {code}: {worker.last_words()}"))
        if current is None:
            self._finish(unit)
        return current is None

    def counts(self):
        return collections.Counter(r.outcome for r in self.results.values())


def summary(run):
    """What a run amounts to, as a dict: counts, the share that passed, failures by unit."""
    counts = run.counts()
    n_executed = sum(counts[o] for o in OUTCOMES if o != SKIPPED)
    units = collections.defaultdict(collections.Counter)
    for result in run.results.values():
        units[result.unit.split("#")[0]][result.outcome] += 1
    skips = collections.Counter(r.reason.splitlines()[0][:120] if r.reason else "no reason given"
                                for r in run.results.values() if r.outcome == SKIPPED)
    return {
        "suite": run.suite, "executed": n_executed, **{o: counts[o] for o in OUTCOMES},
        "passed_share": counts[PASSED] / n_executed if n_executed else None,
        "cpu_seconds": sum(r.cpu_seconds for r in run.results.values()),
        "units": {unit: dict(c) for unit, c in sorted(units.items())},
        "skips": dict(skips.most_common()),
        "notes": [(r.unit, r.case, r.reason) for r in run.results.values() if r.outcome == "passed" and r.reason],
        "failures": [dataclasses.asdict(r) for r in run.results.values()
                     if r.outcome not in (PASSED, SKIPPED)],
    }


def table(document):
    """summary() as text for a person."""
    width = max([len(u) for u in document["units"]] + [4])
    lines = [f"{'unit':{width}} {'passed':>7} {'failed':>7} {'skipped':>8}"]
    for unit, c in document["units"].items():
        n_failed = sum(c.get(o, 0) for o in (FAILED, CRASHED, HUNG))
        lines.append(f"{unit:{width}} {c.get(PASSED, 0):7} {n_failed:7} {c.get(SKIPPED, 0):8}")
    if document["failures"]:
        lines += ["", "failures:"]
    for r in document["failures"]:
        reason = r["reason"].strip().splitlines()
        lines.append(f"  {r['unit'].split('#')[0]} {r['case']}: {r['outcome']}: {reason[-1][:200] if reason else ''}")
    if document["notes"]:
        lines += ["", "passed cases say:"]
        lines += [f"  {unit.split('#')[0]} {case}: {note}" for unit, case, note in document["notes"]]
    if document["skips"]:
        lines += ["", "skipped because:"]
        lines += [f"  {n:6} {reason}" for reason, n in document["skips"].items()]
    share = document["passed_share"]
    lines += ["", f"{document['suite']}: {document['executed']} executed, {document['passed']} passed"
              + (f" ({100 * share:.2f} %)" if share is not None else "")
              + f", {document['failed']} failed, {document['crashed']} crashed, {document['hung']} hung, "
              f"{document['skipped']} skipped; {document['cpu_seconds']:.0f} s of CPU time"]
    return "\n".join(lines)
