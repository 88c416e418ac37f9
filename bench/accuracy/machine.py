"""Rows of the machine model alone: instructions, transfers, timelines and kernels.

A C program of the build replays them and prints a row a line: an object with group, name, chip,
source, published, ours, unit and half.
"""

import json
import subprocess
import sys

from accuracy.rows import GROUPS, Row

PROGRAM = "bench/accuracy"
MACHINE_GROUPS = [group for group in GROUPS if group not in ("collective", "compiled", "model", "nki")]


def row_of(line):
    fields = ("group", "name", "chip", "source", "published", "ours", "unit", "half")
    return Row(**{field: line[field] for field in fields if field in line})


def parse(text):
    return [row_of(json.loads(line)) for line in text.splitlines()]


def measure(build, groups, traces=None):
    """Rows of the groups; traces is the folder of published timelines, without which there is no
    group "trace"."""
    if not set(groups) & set(MACHINE_GROUPS):
        return []
    argv = [str(build / PROGRAM), "--json"] + (["--traces", str(traces)] if traces else [])
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{argv[0]} failed:\n{done.stderr}")
    return [row for row in parse(done.stdout) if row.group in groups]
