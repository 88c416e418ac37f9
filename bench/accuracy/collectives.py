"""Rows of the group "collective": published times of collectives beside those of vtrn collectives.

collectives.csv has every row that was found; the column `excluded` says why one does not count. What a
row's time is beside the collective:

- device: nccom-test's device time. With a fixed cost in `dispatch_us` (a runtime of 2023), as kernel.
- kernel: one launch whose fixed cost is known from messages of a few bytes. That and the collective's own
  latency cannot be told apart, so both are subtracted: published minus dispatch, beside ours minus what
  ours takes for 4 bytes.
- framework: the same, and the framework copies the larger of operand and result once through HBM for
  all_gather, reduce_scatter and broadcast, at half the stack's rate (a copy reads and writes); its
  broadcast takes what its all_reduce takes.

Rows whose dispatch is more than a fifth of the time do not count.
"""

import csv
import json
import pathlib
import subprocess
import sys

from accuracy.rows import Row

TABLE = pathlib.Path(__file__).with_name("collectives.csv")
COPIED = ("all_gather", "reduce_scatter", "broadcast")


def run(build, *args):
    argv = [str(build / "src/cli/vtrn"), *args, "--json"]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def series_of(row):
    return tuple(row[key] for key in ("instance", "nodes", "ranks", "lnc", "op", "across_dies"))


def times_of_series(build, key, sizes):
    """{bytes: us} of one instance, group and operation."""
    instance, nodes, ranks, lnc, op, across_dies = key
    if across_dies == "1":
        return times_across_dies(build, instance, sizes)
    table = run(build, "collectives", op, "--instance", instance, "--nodes", nodes, "--ranks", ranks,
                "--lnc", lnc, "--sizes", ",".join(map(str, sizes)))
    return {row["bytes"]: row["time_us"] for row in table["rows"]}


def times_across_dies(build, instance, sizes):
    """A permutation round a chip at LNC 1 is as slow as its pairs on two dies."""
    table = run(build, "collectives", "permute", "--instance", instance, "--lnc", "1", "--ranks", "8",
                "--sizes", ",".join(map(str, sizes)))
    return {row["bytes"]: row["time_us"] for row in table["rows"]}


def copy_us(chip, lnc, n_bytes):
    memory = chip["memory"]
    rate = memory["hbm_bytes_per_s"] * lnc / memory["cores_per_stack"]
    return 2 * n_bytes / rate * 1e6


def read_rows():
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(build):
    counted = [row for row in read_rows() if not row["excluded"]]
    sizes, out, chips = {}, [], {}
    for row in counted:
        sizes.setdefault(series_of(row), {4}).add(int(row["bytes"]))
    ours = {key: times_of_series(build, key, sorted(of)) for key, of in sizes.items()}
    for row in counted:
        chip = row["instance"].split(".")[0]
        if chip not in chips:
            chips[chip] = run(build, "chips", chip)
        us = ours[series_of(row)][int(row["bytes"])]
        dispatch = float(row["dispatch_us"])
        if dispatch:
            us -= ours[series_of(row)][4]
        if row["level"] == "framework" and row["op"] in COPIED:
            us += copy_us(chips[chip], int(row["lnc"]), int(row["bytes"]))
        nodes = f"{row['nodes']} x " if row["nodes"] != "1" else ""
        name = f"{row['op']} {int(row['bytes']):,} B, {row['ranks']} ranks"
        out.append(Row("collective", name, chip, row["source"], float(row["us"]) - dispatch, us, "us",
                       row["half"], instance=f"{nodes}{row['instance']}", note=row["level"]))
    return out
