"""The chars training divided in four ways (programs/parallel.py): how far its losses are from one core's, and whether
its bits depend on the number of processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = ("data", "tensor", "fsdp", "sequence")
ROWS, BIT_STEPS, PROCESSES = 16, 4, (1, 2, 4)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(kind, cores, steps, n_processes=1, rows=ROWS):
    """What programs/parallel.py says; the digests of all processes together."""
    build = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VTRN_", "NEURON_"))}
    env |= {"JAX_PLATFORMS": "neuron,cpu", "VTRN_LIBRARY": str(build / "src/libvtrn.so"), "PYTHONPATH": str(ROOT / "python"),
            "VTRN_INSTANCE": "trn1.32xlarge", "NEURON_RT_NUM_CORES": str(cores // n_processes)}  # fmt: skip
    command = [sys.executable, str(ROOT / "bench/programs/parallel.py"), kind, str(steps), str(rows)]
    port = free_port()
    processes = [subprocess.Popen([*command, str(i), str(n_processes), str(port)], text=True, env=env,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(n_processes)]  # fmt: skip
    out = None
    for process in processes:
        stdout, stderr = process.communicate()
        if process.returncode:
            sys.exit(stderr)
        said = json.loads(stdout.splitlines()[-1])
        out = out or said
        out["digests"] |= said["digests"]
    return out


def figures(cores, steps):
    """loss_rel_max_KIND_CORES and bits_equal_KIND. A batch has as many rows as there are cores, at least ROWS."""
    out, one = {}, {}
    for n in cores:
        rows = max(ROWS, n)
        one[rows] = one.get(rows) or run("data", 1, steps, rows=rows)["losses"]
        for kind in KINDS:
            losses = run(kind, n, steps, rows=rows)["losses"]
            out[f"loss_rel_max_{kind}_{n}"] = max(abs(a - b) / abs(b) for a, b in zip(losses, one[rows], strict=True))
    n = max(c for c in cores if c <= 8 and c % max(PROCESSES) == 0) if max(cores) >= max(PROCESSES) else None
    for kind in KINDS if n else ():
        said = [run(kind, n, BIT_STEPS, of) for of in PROCESSES]
        out[f"bits_equal_{kind}"] = all(s == said[0] for s in said)
    return out
