"""The runner keeps results, goes on after an interrupt, writes failures down, and sees workers die."""

import json
import os
import sys

import pytest

from . import fuzz, plan
from .outcome import Outcome
from .pool import Worker
from .program import pruned, source


class FakeWorker:
    """Fails every program that has a softmax, and dies at the index given."""

    judged = []
    dies_at = None

    def __init__(self, config):
        self.config = config

    def judge(self, program):
        if len(FakeWorker.judged) == FakeWorker.dies_at:
            raise KeyboardInterrupt
        FakeWorker.judged.append(program)
        return Outcome("wrong", "output 0") if "softmax" in source(program) else Outcome("ok")

    def types(self, program):
        return {}

    def stop(self):
        pass


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(fuzz, "Worker", FakeWorker)
    monkeypatch.setattr(fuzz, "fingerprint", lambda: "same")
    monkeypatch.setattr(FakeWorker, "judged", [])
    monkeypatch.setattr(FakeWorker, "dies_at", None)

    def start(*options):
        arguments = ["fuzz", "--count", "40", "--jobs", "1", "--shrink-seconds", "0", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [*arguments, *options])
        with pytest.raises(SystemExit) as stopped:
            fuzz.main()
        return stopped.value.code

    start.path = tmp_path
    return start


def rows(path):
    return [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()[1:]]


def test_failures_are_written_and_counted(run):
    assert run() == 1
    results = rows(run.path)
    assert sorted(r["index"] for r in results) == list(range(40))
    failed = [r for r in results if r["outcome"] == "wrong"]
    assert failed and len(failed) < 40
    for r in failed:
        text = open(r["file"]).read()
        assert "softmax" in text and "SEED=1" in text and f"program {r['index']}:" in text
        compile(text, r["file"], "exec")
    assert "wrong" in (run.path / "summary.txt").read_text()


def test_an_interrupted_run_goes_on(run, monkeypatch):
    monkeypatch.setattr(FakeWorker, "dies_at", 15)
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    assert run() == 1
    assert len(rows(run.path)) == 15
    monkeypatch.setattr(FakeWorker, "dies_at", None)
    run()
    assert len(FakeWorker.judged) == 40
    assert sorted(r["index"] for r in rows(run.path)) == list(range(40))


def test_another_library_starts_afresh(run, monkeypatch):
    run()
    monkeypatch.setattr(fuzz, "fingerprint", lambda: "another")
    run()
    assert len(FakeWorker.judged) == 80


def test_families_can_be_chosen(run):
    run("--family", "gru,lstm", "--count", "6")
    assert {r["family"] for r in rows(run.path)} == {"gru", "lstm"}


CONFIG = plan.Config("trn1", 1, False)


class Process(Worker):
    """A worker that runs a line of Python in place of worker.py."""

    def __init__(self, line, seconds=1.0):
        super().__init__(CONFIG, seconds)
        self.line = line

    def command(self):
        return [sys.executable, "-c", self.line]


@pytest.fixture
def program():
    return pruned(plan.program(plan.case(1, 0)))


def test_a_crash_is_seen_and_the_next_program_gets_a_new_process(program):
    worker = Process("import os, sys; print('last words', file=sys.stderr); os.abort()")
    for _ in range(2):
        outcome = worker.judge(program)
        assert outcome.name == "crash"
        assert "SIGABRT" in outcome.text and "last words" in outcome.text


def test_a_hang_is_seen(program, monkeypatch):
    monkeypatch.setattr("differential.pool.START_SECONDS", 0)
    worker = Process("while True: pass", seconds=0.5)
    assert worker.judge(program).name == "hang"
    assert worker.process is None


def test_a_deadlock_is_seen(program, monkeypatch):
    monkeypatch.setattr("differential.pool.IDLE_SECONDS", 1)
    worker = Process("import threading; threading.Lock().acquire(); threading.Event().wait()")
    assert worker.judge(program).name == "hang"
    assert os.path.exists("/proc/self/stat")
