"""Measures what lies between a JAX function and its first step: bench/run compile [--json].

Artifacts of x + 1 and of both training steps go through build/bench/compile_phases, which times the
reader, the graph, the lowering, the validator, the plan and the timing model each alone. Beside it
stand JAX's own tracing and XLA's compilation of the same functions for the host. bench/README.md
says what each field is. VTRN_BUILD names another build directory."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()

# Writes artifacts to a directory and prints {name: {trace_ms, xla_compile_ms}}, medians.
EXPORT = """
import functools, importlib.util, json, os, statistics, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax import export
root, out, names = sys.argv[1], sys.argv[2], sys.argv[3:]

def load(name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(root, "examples", name, "model.py"))
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    return model

def digits():
    model = load("digits")
    params = model.init_params()
    images = np.zeros((model.BATCH, 8, 8, 1), np.float32)
    labels = np.zeros(model.BATCH, np.int32)
    velocity = jax.tree.map(np.zeros_like, params)
    return model.train_step, (params, velocity, images, labels), (0, 1)

def chars(dtype):
    model = load("chars")
    params = model.init_params()
    tokens = np.zeros((model.BATCH, model.CONTEXT), np.int32)
    step = functools.partial(model.train_step, dtype=dtype)
    return step, (params, model.init_moments(params), tokens, tokens), (0, 1)

makers = {
    "x_plus_1": lambda: (lambda x: x + 1, (np.arange(16, dtype=np.float32),), ()),
    "digits": digits,
    "chars_fp32": lambda: chars(jnp.float32),
    "chars_bf16": lambda: chars(jnp.bfloat16),
}

def measure(name):
    step, args, donated = makers[name]()
    traces, compiles = [], []
    for i in range(5):
        fresh = jax.jit(lambda *a: step(*a), donate_argnums=donated)
        start = time.perf_counter()
        lowered = fresh.lower(*args)
        traces.append(time.perf_counter() - start)
        start = time.perf_counter()
        lowered.compile()
        compiles.append(time.perf_counter() - start)
    artifact = export.export(jax.jit(step, donate_argnums=donated))(*args)
    with open(os.path.join(out, name + ".vhlo"), "wb") as f:
        f.write(artifact.mlir_module_serialized)
    return {
        "trace_ms": statistics.median(traces) * 1e3,
        "xla_compile_ms": statistics.median(compiles) * 1e3,
    }

print(json.dumps({name: measure(name) for name in names}))
"""


# Writes a chain of about N operations: calls, which compilers inline, of one function of 500.
CHAIN = """
import sys
import jax, jax.numpy as jnp
from jax import export
path, n = sys.argv[1], int(sys.argv[2])

@jax.jit
def part(x, y):
    for i in range(125):
        x = jnp.tanh(jnp.sin(x) * y + (1.0 + i * 1e-3))
    return x

def chain(x, y):
    for _ in range(n // 500):
        x = part(x, y)
    return x

shape = jax.ShapeDtypeStruct((64, 64), jnp.float32)
with open(path, "wb") as f:
    f.write(export.export(jax.jit(chain))(shape, shape).mlir_module_serialized)
"""
CHAINS = (500, 5_000, 50_000)


def environment() -> dict:
    """JAX on the host: no plugin, no cache of compiled programs."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VTRN_", "PJRT_NAMES"))}
    return env | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}


def execute(argv: list) -> str:
    result = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
    if result.returncode:
        tail = "\n".join(result.stderr.splitlines()[-12:])
        raise RuntimeError(f"{' '.join(map(str, argv[:1]))}: {tail}")
    return result.stdout


def measure(names: list) -> dict:
    """{name: {field: figure}} for artifacts of EXPORT."""
    with tempfile.TemporaryDirectory() as directory:
        host = execute([sys.executable, "-c", EXPORT, str(ROOT), directory, *names])
        paths = [os.path.join(directory, f"{name}.vhlo") for name in names]
        ours = json.loads(execute([str(BUILD / "bench/compile_phases"), *paths]))
    for name, figures in json.loads(host.splitlines()[-1]).items():
        ours[name] |= figures
        ours[name]["compile_vs_xla"] = ours[name]["plugin_us"] / 1e3 / figures["xla_compile_ms"]
    return ours


def measure_chains() -> dict:
    """Seconds and megabytes of `vtrn compile` for chains of operations."""
    figures = {}
    with tempfile.TemporaryDirectory() as directory:
        path, out = os.path.join(directory, "chain.vhlo"), os.path.join(directory, "chain.vtrn")
        for n in CHAINS:
            execute([sys.executable, "-c", CHAIN, path, str(n)])
            begin = time.perf_counter()
            process = subprocess.Popen([BUILD / "src/cli/vtrn", "compile", path, "-o", out], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"vtrn compile: a chain of {n} operations: exit code {process.returncode}")
            figures[f"chain{n}.compile_s"] = time.perf_counter() - begin
            figures[f"chain{n}.cpu_s"] = usage.ru_utime + usage.ru_stime
            figures[f"chain{n}.rss_mb"] = usage.ru_maxrss / 1024
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    try:
        figures = measure(["x_plus_1", "digits", "chars_fp32", "chars_bf16"])
        chains = measure_chains()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    flat = {f"{name}.{key}": value for name, f in figures.items() for key, value in f.items()} | chains
    if args.json:
        print(json.dumps(flat, indent=2))
    else:
        for key, value in flat.items():
            print(f"{key:32} {value:.6g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
