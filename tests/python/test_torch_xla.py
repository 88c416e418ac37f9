"""Scripts in PyTorch, as Trainium's users write them, on the virtual chip against PyTorch on the host.

Runs with torch 2.9.1 and torch_xla 2.9.0 only, which the project's own environment does not have: make test-torch
makes one that has, or VTRN_BUILD=build PYTHON -m pytest tests/python/test_torch_xla.py with a Python that has them."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import conftest
import pytest
from paths import BUILD, ROOT
from test_profile_dir import check_whole

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
if importlib.util.find_spec("torch_xla") is None:
    pytest.skip("no torch_xla: make test-torch brings it", allow_module_level=True)

sys.path.insert(0, str(ROOT / "bench"))
from lib import zoo_torch  # noqa: E402

ENV = {k: v for k, v in os.environ.items() if not k.startswith(("NEURON_", "PJRT_", "XLA_", "TORCH"))} | {
    "VTRN_LIBRARY": conftest.LIBRARY,
    "PYTHONPATH": str(ROOT / "python"),
}


def execute(arguments, **variables):
    return subprocess.run([sys.executable, *map(str, arguments)], env=ENV | variables, capture_output=True, text=True)


def run(code, **variables):
    """What the last line of a script's output says, as JSON."""
    done = execute(["-c", "import json\nimport torch\nimport torch_xla\n" + code], **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fails(arguments, **variables):
    done = execute(arguments, **variables)
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


# name: a function of x [2][3][8][8] and the symmetric s [5][5], m [5][5]
FUNCTIONS = {
    "matmul": "m @ s + 1",
    "gelu": "F.gelu(x)",
    "erf_and_inverse": "torch.erf(x) + torch.erfc(x) + torch.erfinv(torch.tanh(x) / 2)",
    "softmax_of_log": "F.log_softmax(x, 1)",
    "attention": "F.scaled_dot_product_attention(x, x, x, is_causal=True)",
    "nearest": "F.interpolate(x, scale_factor=2, mode='nearest')",
    "nearest_smaller": "F.interpolate(x, size=(5, 3), mode='nearest')",
    "bilinear": "F.interpolate(x, size=(13, 5), mode='bilinear')",
    "bilinear_corners": "F.interpolate(x, size=(13, 5), mode='bilinear', align_corners=True)",
    "bicubic": "F.interpolate(x, size=(13, 5), mode='bicubic')",
    "inverse": "torch.inverse(s + 9 * torch.eye(5, device=s.device))",
    "slogdet": "torch.linalg.slogdet(s + 9 * torch.eye(5, device=s.device))[1]",
    "qr": "(lambda q, r: q @ r)(*torch.linalg.qr(m))",
    "eigvalsh": "torch.linalg.eigvalsh(s)",
    "eigh": "(lambda w, v: v @ torch.diag(w) @ v.T)(*torch.linalg.eigh(s))",
    "svd": "torch.linalg.svdvals(m)",
    "sort": "torch.sort(x, 2)[0]",
    "topk": "torch.topk(x, 3)[0]",
    "cumsum": "torch.cumsum(x, 1)",
    "rfft": "torch.fft.irfft(torch.fft.rfft(x) * 2)",
    "conv": "F.conv2d(x, x[:, :, :3, :3], padding=1)",
    "nonzero": "torch.nonzero(x > 0).float()",
    "in_place": "(lambda y: y.view(-1)[3:9].add_(2).view_as(y.view(-1)[3:9]))(x.clone())",
}
GRADIENTS = {
    "gelu": "F.gelu(x)",
    "nearest": "F.interpolate(x, size=(13, 5), mode='nearest')",
    "bilinear": "F.interpolate(x, size=(13, 5), mode='bilinear')",
    "bilinear_corners": "F.interpolate(x, size=(3, 3), mode='bilinear', align_corners=True)",
}


def test_functions_and_gradients_are_pytorchs():
    code = f"""
import torch.nn.functional as F
torch.manual_seed(0)
x, m = torch.randn(2, 3, 8, 8), torch.randn(5, 5)
device = torch_xla.device()
inputs = {{"x": x, "m": m, "s": m + m.T}}
errors = {{}}
def compare(name, f):
    here, there = f(inputs), f({{k: v.to(device) for k, v in inputs.items()}})
    torch_xla.sync()
    assert there.device.type == "xla" and here.shape == there.shape and here.dtype == there.dtype
    errors[name] = (here - there.cpu()).abs().max().item()
for name, text in {FUNCTIONS!r}.items():
    compare(name, lambda v: eval(text, globals() | v))
def gradient(text, v):
    x = v["x"].detach().requires_grad_(True)
    y = eval(text, globals() | {{"x": x}})
    (y * y).sum().backward()
    return x.grad
for name, text in {GRADIENTS!r}.items():
    compare("gradient of " + name, lambda v: gradient(text, v))
print(json.dumps(errors))
"""
    errors = run(code)
    assert len(errors) == len(FUNCTIONS) + len(GRADIENTS)
    assert {name: e for name, e in errors.items() if not e <= 1e-5} == {}


def test_scan_and_while_loops():
    code = """
from torch_xla.experimental.scan import scan
def step(carry, x):
    return carry * 0.5 + x, carry + x
device, xs = torch_xla.device(), torch.arange(24.0).reshape(6, 4)
last, all_of_them = scan(step, torch.zeros(4, device=device), xs.to(device))
carry, expected = torch.zeros(4), []
for x in xs:
    carry, y = step(carry, x)
    expected.append(y)
print(json.dumps([torch.equal(last.cpu(), carry), torch.equal(all_of_them.cpu(), torch.stack(expected))]))
"""
    assert run(code) == [True, True]


def test_what_reads_a_tensor_before_it_is_updated_in_place_keeps_its_value():
    code = """
device = torch_xla.device()
w = torch.ones(300, 40, device=device)
torch_xla.sync()
results = []
for i in range(4):
    before = w + 0
    alias = w.view(-1)
    w.mul_(2).add_(1)
    after = w.t() - before.t()
    torch_xla.sync()
    results.append([before[0, 0].item(), w[0, 0].item(), after[0, 0].item(), alias[7].item()])
print(json.dumps(results))
"""
    expected, w = [], 1.0
    for _ in range(4):
        expected.append([w, 2 * w + 1, w + 1, 2 * w + 1])
        w = 2 * w + 1
    assert run(code) == expected


SEEN = """
import torch_xla.core.xla_model as xm
print(json.dumps([xm.get_xla_supported_devices(), (torch.ones(3).to(xm.get_xla_supported_devices()[-1]) * 2).sum().item()]))
"""


@pytest.mark.parametrize("variables,n", [
    ({}, 1), ({"NEURON_RT_NUM_CORES": "2"}, 2), ({"NEURON_RT_VISIBLE_CORES": "1"}, 1),
    ({"NEURON_RT_VISIBLE_CORES": "0-1"}, 2), ({"PJRT_DEVICE": "NEURON"}, 1),
])  # fmt: skip
def test_variables_of_the_neuron_runtime_are_honoured(variables, n):
    assert run(SEEN, **variables) == [[f"xla:{i}" for i in range(n)], 6.0]


def test_two_devices_compute_and_exchange_tensors():
    code = """
a = torch.arange(4.0, device="xla:0")
b = (a * 2).to("xla:1") + torch.ones(4, device="xla:1")
c = torch.nn.functional.gelu(b).to("xla:0") + a
torch_xla.sync()
x = torch.arange(4.0)
print(json.dumps((c.cpu() - torch.nn.functional.gelu(2 * x + 1) - x).abs().max().item()))
"""
    assert run(code, NEURON_RT_NUM_CORES="2") < 1e-6


REDUCE = """
import torch, torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.runtime as xr
def main(index=0):
    print(xr.world_size(), xm.all_reduce("sum", torch.ones(2, device=torch_xla.device())).cpu().tolist(), flush=True)
if __name__ == "__main__":
    import sys
    torch_xla.launch(main) if "launch" in sys.argv else main()
"""


@pytest.mark.parametrize("variables", [{}, {"XLA_USE_SPMD": "1"}])
def test_processes_of_torchrun_are_refused_in_words(tmp_path, variables):
    script = tmp_path / "reduce.py"
    script.write_text(REDUCE)
    said = fails(["-m", "torch.distributed.run", "--nproc_per_node=2", script], **variables)
    assert "NEURON_PJRT_WORLD_SIZE=2: vtrn has no programs over several processes" in said
    assert "[1.0" not in said and "[2.0" not in said


def test_one_process_of_torchrun_runs(tmp_path):
    script = tmp_path / "reduce.py"
    script.write_text(REDUCE)
    done = execute(["-m", "torch.distributed.run", "--nproc_per_node=1", script])
    assert "1 [1.0, 1.0]" in done.stdout, done.stderr


def test_spawned_processes_are_refused_in_words(tmp_path):
    script = tmp_path / "reduce.py"
    script.write_text(REDUCE)
    said = fails([script, "launch"], NEURONCORE_NUM_DEVICES="2")
    assert "NEURON_PJRT_PROCESSES_NUM_DEVICES=1,1" in said and "[1.0" not in said


def test_spmd_is_refused_in_words():
    code = """
import numpy as np, torch_xla.runtime as xr, torch_xla.distributed.spmd as xs
xr.use_spmd()
x = torch.ones(4, 4).to(torch_xla.device())
xs.mark_sharding(x, xs.Mesh(np.array(range(2)), (2, 1), ("x", "y")), ("x", "y"))
print((x + 1).cpu())
"""
    said = fails(["-c", "import torch, torch_xla\n" + code], NEURON_RT_NUM_CORES="2")
    assert "module is for 1 devices" in said and "leave xr.use_spmd() out" in said


STEPS = """
import signal, sys, time, torch, torch_xla
w = torch.ones(64, 64, device=torch_xla.device())
for _ in range(3):
    w = torch.tanh(w @ w)
    torch_xla.sync(wait=True)
if "train" in sys.argv:
    print("running", flush=True)
while "train" in sys.argv:
    w = torch.tanh(w @ w)
    torch_xla.sync()
"""


@pytest.mark.parametrize("what", ["ends", "train"])
def test_the_profile_is_written_at_the_end_and_at_sigterm(tmp_path, what):
    process = subprocess.Popen([sys.executable, "-c", STEPS, what], env=ENV | {"VTRN_PROFILE": str(tmp_path)}, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    if what == "train":
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=600)
    assert process.returncode == (-signal.SIGTERM if what == "train" else 0), error
    programs = check_whole(tmp_path)["executables"]
    assert sum(p["executions"] for p in programs if p["flops"] >= 2 * 64**3) >= 3


def test_other_devices_of_torch_xla_stay_what_they_are():
    code = """
import os, torch_xla.runtime as xr
x = torch.arange(6.0, device=torch_xla.device())
print(json.dumps([xr.device_type(), "XLA_STABLEHLO_COMPILE" in os.environ, torch.nn.functional.gelu(x).sum().item()]))
"""
    device, is_set, total = run(code, PJRT_DEVICE="CPU")
    assert (device, is_set) == ("CPU", False) and abs(total - 14.8) < 0.1


NAMES = {
    "to": 'torch.ones(2).to("neuron")',
    "to a device": 'torch.ones(2).to(torch.device("neuron"))',
    "to its number": 'torch.ones(2).to("neuron:0")',
    "to with a type": 'torch.ones(2).to(device="neuron", dtype=torch.bfloat16)',
    "between": 'torch.ones(2).to("xla").to("neuron")',
    "zeros": 'torch.zeros(2, device="neuron")',
    "randn": 'torch.randn(2, device="neuron")',
    "arange": 'torch.arange(4, device="neuron")',
    "eye": 'torch.eye(4, device="neuron")',
    "tensor": 'torch.tensor([1.0, 2.0], device="neuron")',
    "as_tensor": 'torch.as_tensor([1.0, 2.0], device="neuron")',
    "asarray": 'torch.asarray([1.0, 2.0], device="neuron")',
    "tril_indices": 'torch.tril_indices(3, 3, device="neuron")',
    "zeros_like": 'torch.zeros_like(torch.ones(2), device="neuron")',
    "new_tensor": 'torch.ones(2).new_tensor([1.0], device="neuron")',
    "new_zeros": 'torch.ones(2).new_zeros(3, device="neuron")',
    "module": 'torch.nn.Linear(2, 2).to("neuron").weight',
    "module made there": 'torch.nn.Linear(2, 2, device="neuron").weight',
    "module from nowhere": 'torch.nn.Linear(2, 2, device="meta").to_empty(device="neuron").weight',
}


def test_the_names_of_torch_neuron():
    code = f"""
assert torch.neuron.is_available() and torch.neuron.device_count() == 1 and torch.accelerator.is_available()
import torch_neuronx
devices = {{name: str(eval(text).device) for name, text in {NAMES!r}.items()}}
with torch.device("neuron"):
    devices["with"] = str(torch.ones(2).device)
    devices["with a tensor"] = str(torch.tensor([1.0]).device)
torch.set_default_device("neuron")
devices["default"] = str(torch.nn.Linear(2, 2).weight.device)
devices["default tensor"] = str(torch.tensor([1.0]).device)
torch.set_default_device("cpu")
devices["back"] = "xla:0" if torch.tensor([1.0]).device.type == "cpu" else "stayed"
x = torch.randn(8, 8)
with torch.autocast("neuron", dtype=torch.bfloat16):
    y = x.to("neuron") @ x.to("neuron")
devices["autocast"] = "xla:0" if y.dtype == torch.bfloat16 else str(y.dtype)
f = torch.compile(lambda x: torch.nn.functional.gelu(x) @ x, backend="neuron")
error = (f(x.to("neuron")).cpu() - torch.nn.functional.gelu(x) @ x).abs().max().item()
print(json.dumps([{{k: v for k, v in devices.items() if v != "xla:0"}}, error]))
"""
    others, error = run(code, VTRN_TORCH_NEURON="1")
    assert others == {} and error < 1e-5


def test_without_them_no_device_is_renamed():
    code = """
try:
    torch.device("neuron")
except RuntimeError as error:
    print(json.dumps(str(error)[:20]))
"""
    assert run(code) == "Expected one of cpu,"
    f = 'print(json.dumps(torch.compile(lambda x: x * 2 + 1, backend="neuron")(torch.ones(3, device="xla")).tolist()))'
    assert run(f) == [3.0, 3.0, 3.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_torch.PROGRAMS)
def test_examples_train_as_on_the_host(name, monkeypatch):
    monkeypatch.setenv("VTRN_BUILD", str(BUILD))
    if absent := zoo_torch.missing(name):
        pytest.skip(f"no {', '.join(absent)}: make test-torch brings it")
    row = zoo_torch.measure(name)
    assert row["loss_rel_max_bf16"] <= 2e-2 if name in zoo_torch.BF16 else row["loss_rel_max"] <= 1e-5
    assert row["losses"][1] < row["losses"][0]
