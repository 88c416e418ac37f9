"""Judges many programs side by side; `make fuzz-programs COUNT=5000 SEED=1 JOBS=2` calls it.

Results go to out/fuzz-programs/results.jsonl one by one, so a run that was interrupted goes on where
it stopped, unless the library or the generator has changed since. Failures are shrunk and written to
failures/ as scripts that run alone.
"""

import argparse
import collections
import hashlib
import itertools
import json
import pathlib
import sys
import threading
import time

from . import plan
from .outcome import FAILURES
from .pool import BUILD, ROOT, Worker, shrunk
from .program import pruned, reproducer

PER_WORKER = 40  # programs before a process starts afresh: JAX keeps some memory of each
MOST_SHRUNK_ALIKE = 2  # failures of one family and signature
OUT = ROOT / "out" / "fuzz-programs"


def fingerprint():
    """Of whatever results depend on: library, chip files, generator."""
    digest = hashlib.sha256()
    files = [BUILD / "src" / "libvtrn.so", *sorted((ROOT / "chips").glob("*.toml")),
             *sorted(pathlib.Path(__file__).parent.rglob("*.py"))]  # fmt: skip
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Run:
    def __init__(self, args):
        self.args = args
        self.out = pathlib.Path(args.out)
        self.failures = self.out / "failures"
        self.failures.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "results.jsonl"
        self.lock = threading.Lock()
        every = itertools.count()
        if args.family:
            every = (i for i in every if plan.case(args.seed, i).family in args.family.split(","))
        self.indices = list(itertools.islice(every, args.count))
        self.results = self.load()
        self.alike = collections.Counter()
        self.started, self.n_done = time.monotonic(), 0

    def load(self):
        """Results of an earlier run of the same seed, library and generator."""
        head = {"seed": self.args.seed, "family": self.args.family, "fingerprint": fingerprint()}
        results = {}
        if self.path.exists():
            rows = []
            for line in self.path.read_text().splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:  # the interrupt cut it
                    continue
            if rows and rows[0] == head:
                results = {r["index"]: r for r in rows[1:] if r["index"] <= self.indices[-1]}
                print(f"{len(results)} of {self.args.count} programs are judged already")
        if not results:
            for old in self.failures.glob("*.py"):
                old.unlink()
        lines = [head, *results.values()]
        self.path.write_text("".join(json.dumps(r) + "\n" for r in lines))
        return results

    def batches(self):
        """Indices that are left, by machine configuration, a worker's life long each."""
        window = PER_WORKER * len(plan.CONFIGS)
        for start in range(0, self.args.count, window):
            by_config = collections.defaultdict(list)
            for i in self.indices[start : start + window]:
                if i not in self.results:
                    by_config[plan.case(self.args.seed, i).config].append(i)
            yield from by_config.items()

    def work(self, batches):
        while True:
            with self.lock:
                batch = next(batches, None)
            if batch is None:
                return
            config, indices = batch
            worker = Worker(config)
            try:
                for i in indices:
                    self.one(worker, i)
            finally:
                worker.stop()

    def one(self, worker, index):
        case = plan.case(self.args.seed, index)
        program = pruned(plan.program(case))
        start = time.monotonic()
        outcome = worker.judge(program)
        row = {"index": index, "family": case.family, "wrapper": case.wrapper, "dtype": case.dtype,
               "edge": case.edge, "outcome": outcome.name, "text": outcome.text[:400],
               "undecided": outcome.n_undecided, "blunt": outcome.is_blunt,
               "seconds": round(time.monotonic() - start, 2), "phases": outcome.seconds}  # fmt: skip
        if outcome.name != "ok":
            row["file"] = str(self.record(worker, index, case, program, outcome))
        with self.lock:
            self.results[index] = row
            self.n_done += 1
            with self.path.open("a") as f:
                f.write(json.dumps(row) + "\n")
            self.progress(row)

    def record(self, worker, index, case, program, outcome):
        """Writes the failure as a script, shrunk unless there are enough of its like."""
        with self.lock:
            key = (case.family, outcome.signature())
            self.alike[key] += 1
            is_new = self.alike[key] <= MOST_SHRUNK_ALIKE and outcome.name not in ("invalid", "oracle")
        small, last = program, outcome
        if is_new and self.args.shrink_seconds:
            small, last = shrunk(program, outcome, worker, self.args.shrink_seconds)
        config = case.config
        comment = (f"SEED={self.args.seed}, program {index}: {program.label}\n"
                   f"VTRN_CHIP={config.chip} VTRN_THREADS={config.threads} VTRN_CHECK={int(config.is_checked)}\n"
                   f"{last.name}: {last.text}")  # fmt: skip
        if small is not program:
            comment += f"\nShrunk; the whole program: {outcome.name}: {outcome.text}"
        path = self.failures / f"{index:06d}-{case.family}-{outcome.name}.py"
        path.write_text(reproducer(small, comment))
        return path

    def progress(self, row):
        rate = self.n_done / (time.monotonic() - self.started) * 60
        if row["outcome"] != "ok":
            print(f"{row['outcome']}: {row['family']}, {row['wrapper']}, {row['dtype']}, size {row['edge']}: "
                  f"{row['file']}")  # fmt: skip
            print("    " + row["text"].replace("\n", "\n    "))
        if self.n_done % 20 == 0 or row["outcome"] != "ok":
            bad = sum(r["outcome"] != "ok" for r in self.results.values())
            print(f"{len(self.results)} of {self.args.count}, {bad} failed, {rate:.0f} a minute", flush=True)

    def summary(self):
        rows = list(self.results.values())
        names = ["ok", *(n for n in FAILURES if any(r["outcome"] == n for r in rows))]
        table = collections.Counter((r["family"], r["outcome"]) for r in rows)
        text = [" ".join(["family".ljust(20), *(n.rjust(13) for n in [*names, "blunt", "undecided"])])]
        families = sorted({r["family"] for r in rows})
        for family in [*families, "all"]:
            mine = [r for r in rows if family in (r["family"], "all")]
            counts = [sum(table[f, n] for f in families if family in (f, "all")) for n in names]
            counts += [sum(r["blunt"] for r in mine), sum(r["undecided"] > 0 for r in mine)]
            text.append(" ".join([family.ljust(20), *(str(c or "-").rjust(13) for c in counts)]))
        text.append("\nblunt: values whose error bound is above a fifth of them; "
                    "undecided: integers, and NaN or not, that rounding decides")  # fmt: skip
        return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--family", default="", help="only these, by name, with commas between")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", default=str(OUT))
    parser.add_argument("--shrink-seconds", type=float, default=60)
    run = Run(parser.parse_args())
    batches = iter(run.batches())
    threads = [threading.Thread(target=run.work, args=(batches,), daemon=True) for _ in range(run.args.jobs)]
    for t in threads:
        t.start()
    try:
        for t in threads:
            t.join()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here")
    text = run.summary()
    (run.out / "summary.txt").write_text(text + "\n")
    print(text)
    sys.exit(any(r["outcome"] != "ok" for r in run.results.values()) or len(run.results) < run.args.count)


if __name__ == "__main__":
    main()
