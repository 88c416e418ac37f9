"""Judges a reward function before a training does: python examples/deepracer/check.py reward_function.py [--track TRACK].

The service's rules: what flake8 reports (where it is installed), which modules may be imported, which names and words may not
occur, how long the source may be, and one call per way of driving within five seconds."""

import argparse
import ast
import contextlib
import io
import multiprocessing
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE]

import numpy as np

MODULES = ("math", "random", "numpy", "scipy", "shapely")
CALLS = ("open", "exec", "eval", "compile", "input")
WORDS = ("__import__", "load", "fromfile", "genfromtxt", "loadtxt", "tofile", "savez", "save", "savetxt", "memmap")
MOST_CHARACTERS, MOST_SECONDS = 140_000, 5.0


def source_findings(source: str) -> list:
    """(line, rule, what) of each rule that the text breaks."""
    found = []
    if len(source) > MOST_CHARACTERS:
        found.append((1, "length", f"{len(source)} characters, at most {MOST_CHARACTERS} are allowed"))
    try:
        tree = ast.parse(source)
    except SyntaxError as e:
        return [*found, (e.lineno or 1, "syntax", str(e.msg))]
    except ValueError as e:
        return [*found, (1, "syntax", str(e))]
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]
            for name in names:
                if name.split(".")[0] not in MODULES:
                    found.append((node.lineno, "import", f"{name} may not be imported; allowed: {', '.join(MODULES)}"))
            if node not in top:
                found.append((node.lineno, "import", "an import belongs at the top of the file"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append((node.lineno, "call", f"{node.func.id}() may not be called"))
    for i, line in enumerate(source.splitlines(), 1):
        for word in WORDS:
            if word in line:
                found.append((i, "word", f"the text {word!r} may not occur, not even in a name or a comment"))
                break
    if not any(isinstance(n, ast.FunctionDef) and n.name == "reward_function" for n in tree.body):
        found.append((1, "function", "the file defines no function reward_function(params)"))
    return sorted(found)


def flake8_findings(path: str) -> list:
    """What flake8 says by the service's selection; nothing where it is not installed."""
    if not shutil.which("flake8"):
        return []
    command = ["flake8", path, "--format=%(row)d:%(code)s:%(text)s", "--select=E,F", "--ignore=E5,E226,E261"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [(int(row), code, text) for row, code, text in (line.split(":", 2) for line in lines if line.count(":") > 1)]


def samples(track_name: str) -> list:
    """params of cars at eight places, on the road and beside it, driving either way."""
    import simulator
    import tracks
    import world

    track = tracks.load(track_name)
    s = np.arange(8) / 8 * track.length
    x, y, heading = track.at(s)
    seen = dict(
        x=x + 0.1 * np.arange(8) * np.sin(heading), y=y - 0.1 * np.arange(8) * np.cos(heading), heading=heading,
        wheels=np.where(np.arange(8) < 4, 4, 0), progress=100 * s / track.length, steps=1 + 20 * np.arange(8),
        status=np.where(np.arange(8) < 7, simulator.IN_PROGRESS, simulator.OFF_TRACK),
        throttle=np.full(8, 1.0), steering=np.linspace(-30, 30, 8), time=np.arange(8) / 15,
    )  # fmt: skip
    return world.Observer(track).params(seen, np.arange(8) % 2 == 1)


def _call(path, source, all_params, pipe):
    """Runs in a process of its own: an endless loop there is ended, and its prints are kept."""
    import files

    said, reward = io.StringIO(), None
    pipe.send("ready")
    try:
        with contextlib.redirect_stdout(said):
            reward = files.Reward(path, source)
            values = [reward(p) for p in all_params]
        pipe.send((values, said.getvalue(), None))
    except files.BadFile as e:
        pipe.send((None, said.getvalue(), (reward.line_of(e.__cause__) if reward and e.__cause__ else 1, str(e))))
    except BaseException as e:  # whatever the file raises while it is imported is a finding
        pipe.send((None, said.getvalue(), (1, f"{type(e).__name__}: {e}")))


def call_findings(path: str, source: str, track: str):
    """(findings, rewards of the samples or None)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(path, source, samples(track), theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        ours.recv()  # "ready": the time that the interpreter takes is not the function's
        answer = ours.recv() if ours.poll(MOST_SECONDS) else None
    except EOFError:
        answer = (None, "", (1, "the process that called it ended without an answer"))
    if answer is None:
        child.kill()
    child.join()
    if answer is None:
        return [(1, "time", f"eight calls took more than {MOST_SECONDS:g} s")], None
    values, _, error = answer
    return ([(error[0], "call", error[1])] if error else []), values


def findings(path: str, track: str = "bend"):
    """([(line, rule, what)], rewards of the samples or None) of a file."""
    with open(path, encoding="utf-8") as f:
        source = f.read()
    found = source_findings(source) + flake8_findings(path)
    # What breaks a rule is not run.
    if any(rule in ("syntax", "import", "call", "word", "function", "length") for _, rule, _ in found):
        return sorted(set(found)), None
    more, values = call_findings(path, source, track)
    return sorted(set(found + more)), values


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--track", default="bend", help="whose waypoints the function is shown (default bend)")
    args = parser.parse_args(argv)
    try:
        found, values = findings(args.file, args.track)
    except (OSError, ValueError) as e:
        print(f"check: {e}", file=sys.stderr)
        return 2
    for line, rule, what in found:
        print(f"{args.file}:{line}: {rule}: {what}")
    if values is not None:
        print(f"{args.file}: {len(values)} calls gave {min(values):.4g} to {max(values):.4g}")
    if not shutil.which("flake8"):
        print("flake8 is not installed: its rules were not looked at", file=sys.stderr)
    print("accepted" if not found else f"refused: {len(found)} finding{'s' if len(found) > 1 else ''}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
