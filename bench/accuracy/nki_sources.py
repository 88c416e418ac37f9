"""Rows of published kernels, run from their own source beside the latency that their authors measured.

nki_kernels.csv has a line a measurement. PATH of --nki-sources has a checkout of each repository as OWNER/NAME, or as
OWNER/NAME@COMMIT where the file is not at the head any more; lines whose file is not there are left out, and said so.

kernel: a function of the file; `a + b`: two launches, whose times add up; `score=6.96`: the candidate of a tuner's log with that
score; `block 3`: the third code block of a text that defines a function with NKI's decorator.
chip: its name, then what the measurement had otherwise than the chip file: `--disable-dge`, as the vendor's flag, `nki.benchmark`, whose
clock begins later than a profile's, or `KEY=VALUE`.
arguments: `bf16[128,512]` an array, `fp32[8,8]?` one of zeros that the kernel writes, `name=VALUE`, else a Python literal;
` + ` between those of two launches. replace: `OLD => NEW`, a line of the source that the measurement had otherwise.
Only the time is simulated. Each line is a process of its own, since these files have names and sizes of their own."""

import ast
import concurrent.futures
import csv
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

TABLE = pathlib.Path(__file__).with_name("nki_kernels.csv")
TIMEOUT_S = 600
OPTIONS = {"--disable-dge": "uses_dge=false", "nki.benchmark": "preamble_ns=benchmark_preamble_ns"}
PREAMBLE = """import math
import numpy as np
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import neuronxcc.nki.typing as nt
from neuronxcc.nki.language import par_dim
"""


def lines():
    with TABLE.open(newline="") as f:
        return list(csv.DictReader(f))


def source_file(root, line):
    """The file of a line below root, None where it is not there."""
    for folder in (f"{line['repository']}@{line['commit']}", line["repository"]):
        if (path := pathlib.Path(root, folder, line["file"])).is_file():
            return path
    return None


# --- in the process of a line ------------------------------------------------------------------------


def candidate(text, score):
    """The code of the first candidate of a log with that score: calls `CodeCandidate(code=..., score=...)`, nested."""
    for node in ast.walk(ast.parse(text)):
        given = {k.arg: k.value for k in node.keywords} if isinstance(node, ast.Call) else {}
        if {"code", "score"} <= given.keys() and isinstance(given["score"], ast.Constant) and given["score"].value == score:
            return textwrap.dedent(ast.literal_eval(given["code"]))
    raise LookupError(f"no candidate has the score {score}")


def blocks(text):
    """The code blocks of a reStructuredText file that define a kernel, without their indentation."""
    found = []
    for block in re.findall(r"code-block:: python\n(?:[ ]+:.*\n)*\n((?:[ ]+.*\n|\n)+)", text):
        width = min(len(line) - len(line.lstrip()) for line in block.splitlines() if line.strip())
        code = "\n".join(line[width:] for line in block.splitlines()) + "\n"
        if "@nki.jit" in code:
            found.append(code)
    return found


def kernels(path, line):
    """The functions that a line launches."""
    text, names = path.read_text(), line["kernel"].split(" + ")
    kind, _, which = line["kernel"].replace("=", " ").partition(" ")
    if kind in ("score", "block"):
        text = PREAMBLE + (candidate(text, float(which)) if kind == "score" else blocks(text)[int(which) - 1])
        names = re.findall(r"^@nki\.jit.*\n(?:@.*\n)*def (\w+)", text, re.MULTILINE)[-1:]
    for edit in filter(None, line["replace"].split(" ; ")):
        old, new = edit.split(" => ")
        if old not in text:
            raise LookupError(f"{path} has no {old!r}")
        text = text.replace(old, new)
    module = {"__name__": path.stem, "__file__": str(path)}
    sys.path.insert(0, str(path.parent))
    exec(compile(text, str(path), "exec"), module)
    return [decorated(module[name], text) for name in names]


def decorated(function, text):
    """The function as a kernel; some files leave this to their callers."""
    import neuronxcc.nki
    import nki

    if not inspect.isfunction(function):
        return function
    return neuronxcc.nki.jit(function) if "neuronxcc" in text else nki.jit(function)


def argument(text):
    import ml_dtypes
    import numpy as np

    dtypes = {"fp32": np.float32, "bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp8": ml_dtypes.float8_e4m3}
    if array := re.fullmatch(r"(\w+)\[([\d,]+)\]", text):
        return np.zeros([int(n) for n in array[2].split(",")], dtypes[array[1]])
    return dtypes[text] if text in dtypes else ast.literal_eval(text)


def arguments(text):
    """Of one launch: by position and by name."""
    words = [word.partition("=") for word in text.split()]
    return [argument(name) for name, equals, _ in words if not equals], {n: argument(v) for n, equals, v in words if equals}


def work(root, name):
    """Prints the time of a line's launches, in nanoseconds."""
    import vtrn.nki
    from vtrn.nki import estimate

    line = next(line for line in lines() if line["id"] == name)
    vtrn.nki.install(force=True)
    total = 0.0
    functions = kernels(source_file(root, line), line)
    for function, given in zip(functions, line["arguments"].split(" + "), strict=True):
        positional, named = arguments(given)
        launch = estimate.estimate(function, *positional, **named)
        if launch.error:
            raise RuntimeError(launch.error)
        total += launch.latency_ns
    print(json.dumps({"ns": total}))


# --- all of them -------------------------------------------------------------------------------------


def chip_file(line, folder):
    """The chip of a line: its name, or where that has options, the path of a chip file with other numbers."""
    name, *options = line["chip"].split()
    if not options:
        return name
    text = (pathlib.Path(__file__).parents[2] / f"chips/{name}.toml").read_text()
    for option in options:
        key, _, value = OPTIONS.get(option, option).partition("=")
        if other := re.search(rf"^{re.escape(value)} = ([^ ]+)", text, re.MULTILINE):  # as that key of the file says
            value = other[1]
        text, n = re.subn(rf"^{re.escape(key)} = [^ ]+", f"{key} = {value}", text, flags=re.MULTILINE)
        if n != 1 or not value:
            raise ValueError(f"{line['id']}: chips/{name}.toml has no {key!r} for {option!r}")
    path = pathlib.Path(folder, f"{line['id']}.toml")
    path.write_text(text)
    return str(path)


def time(root, line, python_path, folder):
    """(nanoseconds, ""), or (None, why there is none)."""
    env = os.environ | {"VTRN_CHIP": chip_file(line, folder), "PYTHONPATH": python_path}
    env.pop("NEURON_PLATFORM_TARGET_OVERRIDE", None)
    try:
        done = subprocess.run([sys.executable, __file__, str(root), line["id"]], capture_output=True, text=True, env=env,
                              timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None, f"took longer than {TIMEOUT_S} s"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return None, said[-1] if said else f"exit {done.returncode}: {done.stderr.strip()[-200:]}"
    return json.loads(done.stdout.splitlines()[-1])["ns"], ""


def measure(build, root):
    """The rows, and {id: why} of the lines that have none."""
    from accuracy.rows import Row

    here, missing = [], {}
    for line in lines():
        if source_file(root, line):
            here.append(line)
        else:
            missing[line["id"]] = f"{line['repository']} at {line['commit']} has to be below {root}"
    python_path = os.pathsep.join([str(pathlib.Path(__file__).parents[2] / "python"), *filter(None, sys.path)])
    os.environ.setdefault("VTRN_LIBRARY", str(build / "src/libvtrn.so"))
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        times = list(pool.map(lambda line: time(root, line, python_path, folder), here))
    rows = []
    for line, (ns, why) in zip(here, times):
        if why:
            missing[line["id"]] = why
            continue
        source = f"https://github.com/{line['repository']}/blob/{line['commit']}/{line['file']}"
        rows.append(Row("nki", f"{line['id']} {line['name']}", line["chip"].split()[0], source, float(line["published"]),
                        ns / {"us": 1e3, "ms": 1e6}[line["unit"]], line["unit"], line["half"], note=line["note"]))
    return rows, missing


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2])
