"""Divides an artifact in a process of its own: jaxlib's reader trusts its input, and ends the process on some that are
damaged. What JAX hands over to be compiled, jaxlib has just written; a file may be anything."""

import os
import pathlib
import signal
import subprocess
import sys

from vtrn.partition.shardings import Failed, Refused

SECONDS = 600
CHILD = "from vtrn.partition import apart; apart.child()"
DIVIDED, MANUAL, UNDIVIDED, WRONG = range(4)  # how the child's answer begins; the artifact, or what is wrong, follows


def child():
    from vtrn import partition

    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        out = partition.partition(sys.stdin.buffer.read(), int(sys.argv[1]))
        code, answer = (MANUAL, b"") if out is None else (DIVIDED, out)
    except Exception as error:
        code, answer = (WRONG if isinstance(error, Failed) else UNDIVIDED), partition.words_of(error).encode()
    stream.write(bytes([code]) + answer)
    stream.close()


def partition(artifact, n_devices):
    """As vtrn.partition.partition."""
    package = str(pathlib.Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run([sys.executable, "-c", CHILD, str(n_devices)], input=artifact, capture_output=True,
                              timeout=SECONDS, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failed(f"jaxlib has not divided it in {SECONDS} s") from None
    if done.returncode < 0:
        raise Failed(f"jaxlib's reader has ended by {signal.Signals(-done.returncode).name}: the file is damaged or no "
                     "StableHLO artifact; export it again")  # fmt: skip
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Refused(f"the process that divides it has ended with code {done.returncode}: {said[-1] if said else ''}")
    code, answer = done.stdout[0], done.stdout[1:]
    if code in (UNDIVIDED, WRONG):
        raise (Failed if code == WRONG else Refused)(answer.decode(errors="replace"))
    return answer if code == DIVIDED else None
