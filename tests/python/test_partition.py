"""Sharded programs: divided by vtrn.partition and run on eight NeuronCores, they give what JAX's CPU back end
gives on one device. Without a device: which part of a tensor each device has."""

import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import conftest
import numpy as np
import pytest

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)
jax = pytest.importorskip("jax")

import partition_programs as programs  # noqa: E402
from vtrn.partition import shardings  # noqa: E402
from vtrn.partition.rules import groups_of_reshape  # noqa: E402
from vtrn.partition.shardings import Axis, Mesh  # noqa: E402

WORKER = pathlib.Path(__file__).with_name("partition_worker.py")


class Worker:
    """A process of eight devices; this one has fewer."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, str(WORKER)], text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env=os.environ | {"JAX_PLATFORMS": "neuron,cpu"})

    def ask(self, **query):
        self.process.stdin.write(json.dumps(query) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "error" not in answer, answer["error"]
        with np.load(answer["file"]) as file:
            results = [file[name] for name in file.files]
        os.unlink(answer["file"])
        return results, answer


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.process.stdin.close()
    assert worker.process.wait(timeout=60) == 0


@pytest.mark.part(3)
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_a_sharded_program_gives_what_one_device_gives(name, worker):
    _, arguments, _, _, tolerance = programs.PROGRAMS[name]
    wanted = jax.tree.leaves(jax.jit(programs.function_of(name, None))(*arguments))
    results, told = worker.ask(program=name)
    assert told["partition"] == ("manual" if name == "shard_map" else "divided")
    assert len(results) == len(wanted)
    for ours, want in zip(results, map(np.asarray, wanted)):
        assert ours.shape == want.shape and ours.dtype == want.dtype
        bound = tolerance * (1 + np.abs(want.astype(np.float64)).max(initial=0))
        np.testing.assert_allclose(ours.astype(np.float64), want.astype(np.float64), rtol=0, atol=bound)
    # The text is that of one device: its parts of the arguments, and the collectives between them.
    assert "num_partitions=8" in told["text"]
    layout = re.search(r"entry_computation_layout=\{\((.*?)\)->", told["text"]).group(1)
    shapes = [[int(n) for n in dims.split(",") if n] for dims in re.findall(r"\w+\[([\d,]*)\]", layout)]
    assert shapes == told["shapes"]


DIVISIONS = [(), ("d",), ("m",), ("d", "m"), ("m", "d")]
SPECS = [spec for spec in itertools.product(DIVISIONS, repeat=2) if not set(spec[0]) & set(spec[1])]


@pytest.mark.part(16)
@pytest.mark.parametrize("new", SPECS, ids=str)
@pytest.mark.parametrize("old", SPECS, ids=str)
def test_every_sharding_becomes_every_other(old, new, worker):
    results, _ = worker.ask(specs=[old, new])
    np.testing.assert_array_equal(results[0], programs.X)


# Meshes and shardings, without JAX.

DEVICES = [5, 2, 7, 0, 1, 6, 3, 4]


def axes_of(text):
    """"d m1:2": the whole of d, then of m the 2 that follow its first 1."""
    out = []
    for word in text.split():
        pre, _, size = word[1:].partition(":")
        out.append(Axis(word[0], int(pre), int(size)) if size else Axis(word[0], 1, {"d": 4, "m": 2}[word]))
    return tuple(out)


def part_of(mesh, device, sharding, whole):
    """The device's part, by slicing the tensor one axis after the other."""
    for dim, axes in enumerate(sharding):
        for axis in axes:
            place = np.argwhere(np.array(DEVICES).reshape(4, 2) == device)[0][int(axis.name == "m")]
            size = {"d": 4, "m": 2}[axis.name]
            digit = place // (size // (axis.pre * axis.size)) % axis.size
            whole = np.split(whole, axis.size, dim)[digit]
    return whole


@pytest.mark.parametrize("text", ["d", "m", "d m", "m d", "d1:2", "d2:2", "d2:2 m", "d2:2 d1:2", "m d1:2", ""])
def test_an_index_names_the_part_that_splitting_gives(text):
    mesh, axes = Mesh("mesh", {"d": 4, "m": 2}, DEVICES), axes_of(text)
    whole = np.arange(16)
    n = shardings.n_shards(axes)
    for device in range(8):
        at = mesh.index(device, axes)
        np.testing.assert_array_equal(whole.reshape(n, -1)[at], part_of(mesh, device, (axes,), whole))
    for group in mesh.groups(axes):
        assert [mesh.index(device, axes) for device in group] == list(range(n))
    assert sorted(sum(mesh.groups(axes), [])) == list(range(8))


@pytest.mark.parametrize("old, new", [(("d", "m"), ("m d1:2", "d2:2")), (("d", ""), ("m d1:2", "")), (("m", ""), ("d1:2", "")),
                                      (("d m", ""), ("m d", "")), (("d2:2", "m"), ("d1:2", "d2:2"))])  # fmt: skip
def test_moves_bring_each_device_its_part_once(old, new):
    mesh = Mesh("mesh", {"d": 4, "m": 2}, DEVICES)
    old, new = ([axes_of(text) for text in of] for of in (old, new))
    whole = np.arange(64).reshape(8, 8)
    pairs = mesh.moves(old, new)
    assert sorted(source for source, _ in pairs) == sorted(target for _, target in pairs) == list(range(8))
    for source, target in pairs:
        np.testing.assert_array_equal(part_of(mesh, source, old, whole), part_of(mesh, target, new, whole))


def test_axes_merge_and_come_apart():
    assert shardings.normalized(axes_of("d1:2 d2:2 m")) == axes_of("d m")
    assert shardings.normalized(axes_of("d2:2 d1:2")) == axes_of("d2:2 d1:2")
    assert shardings.common_prefix(axes_of("d m"), axes_of("d1:2")) == axes_of("d1:2")
    assert shardings.without_prefix(axes_of("d m"), axes_of("d1:2")) == axes_of("d2:2 m")
    assert shardings.fitted((axes_of("d m"), axes_of("m")), (4, 3)) == (axes_of("d"), ())
    assert shardings.split_prefix(axes_of("d m"), 3) is None


def test_a_mesh_of_other_devices_is_refused():
    with pytest.raises(shardings.Refused, match="devices"):
        Mesh("mesh", {"d": 2}, [0, 2])


@pytest.mark.parametrize("a, b, n", [
    ((8, 16), (128,), 1), ((8, 16), (8, 4, 4), 2), ((6, 4), (3, 8), 1), ((1, 8), (8, 1), 2), ((), (1, 1), 1),
    ((2, 3, 1, 5), (6, 5), 2), ((8, 1, 16, 1), (1, 8, 16), 2), ((4, 6, 5, 7), (24, 35), 2), ((), (), 0),
])  # fmt: skip
def test_a_reshape_falls_into_groups_of_as_many_elements(a, b, n):
    groups = groups_of_reshape(a, b)
    assert len(groups) == n
    at = (0, 0)
    for (a0, a1), (b0, b1) in groups:
        assert (a0, b0) == at and np.prod(a[a0:a1]) == np.prod(b[b0:b1])
        at = (a1, b1)
    assert at == (len(a), len(b))


def exported(tmp_path):
    """An artifact with shardings, as a plugin gets it."""
    from jax._src.interpreters import mlir as jax_mlir
    from jaxlib import _jax
    from jaxlib.mlir import ir

    text = """module @m attributes {mhlo.num_partitions = 8 : i32, mhlo.num_replicas = 1 : i32} {
      sdy.mesh @mesh = <["d"=4, "m"=2]>
      func.func public @main(%a: tensor<8x16xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"d"}, {"m"}]>},
                             %b: tensor<16x8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"m"}, {}]>}) -> tensor<8x8xf32> {
        %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<8x16xf32>, tensor<16x8xf32>) -> tensor<8x8xf32>
        return %0 : tensor<8x8xf32> } }"""
    with jax_mlir.make_ir_context():
        artifact = _jax.mlir.serialize_portable_artifact(ir.Module.parse(text), "1.15.0", True)
    path = tmp_path / "program.mlirbc"
    path.write_bytes(artifact)
    return path


def run_command(*args):
    return subprocess.run([sys.executable, "-m", "vtrn.partition", *map(str, args)], capture_output=True, text=True)


def test_the_command_writes_a_manual_program(tmp_path):
    from vtrn import partition

    source, out = exported(tmp_path), tmp_path / "divided.mlirbc"
    done = run_command(source, "-o", out, "--devices", 8)
    assert done.returncode == 0, done.stderr
    assert partition.partition(out.read_bytes(), 8) is None  # it is one already
    done = run_command(source, "-o", out, "--devices", 4)
    assert done.returncode == 1 and "mesh mesh has 8 devices, the program 4" in done.stderr
    for read, written in ((tmp_path / "nofile", out), (tmp_path, out), (source, tmp_path / "no" / "folder")):
        done = run_command(read, "-o", written, "--devices", 8)
        named = written if read == source else read
        assert done.returncode == 1 and done.stderr.startswith(f"python -m vtrn.partition: {named}: ") and "Traceback" not in done.stderr
    source.write_bytes(b"nonsense")
    done = run_command(source, "-o", out, "--devices", 8)
    assert done.returncode == 1 and "is no StableHLO artifact" in done.stderr


KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
COMPILED = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import capi
from vtrn import partition
from vtrn.partition import apart
device = capi.Device(instance="trn2.3xlarge")
partition.connect(device.lib)
artifact = pathlib.Path(sys.argv[1]).read_bytes()
device.compile(artifact)
apart.CHILD = {killed!r}
try:
    device.compile(artifact)
except capi.VtrnError as error:
    print(error)
"""


def test_a_file_on_which_jaxlibs_reader_crashes_is_an_error(tmp_path, monkeypatch):
    from vtrn.partition import apart

    source = exported(tmp_path)
    script = COMPILED.format(tests=str(WORKER.parent), killed=KILLED)
    done = subprocess.run([sys.executable, "-c", script, source], capture_output=True, text=True)
    assert "bad argument: while the program was divided: jaxlib's reader has ended by SIGSEGV" in done.stdout, done.stderr
    monkeypatch.setattr(apart, "CHILD", KILLED)
    with pytest.raises(shardings.Failed, match="the file is damaged"):
        apart.partition(source.read_bytes(), 8)
    monkeypatch.setattr(apart, "CHILD", "raise SystemExit('it has no memory')")
    with pytest.raises(shardings.Refused, match="code 1: it has no memory"):
        apart.partition(source.read_bytes(), 8)


def test_damaged_files_end_in_errors(tmp_path):
    source, out = exported(tmp_path), tmp_path / "divided.mlirbc"
    whole = source.read_bytes()
    for at in range(len(whole) // 3, len(whole), len(whole) // 5):
        source.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:])
        done = run_command(source, "-o", out, "--devices", 8)
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("text, own", [("a", "d1:2"), ("b", "d2:2"), ("c", "m"), ("a1:2", "d1:2")])
def test_axes_of_another_mesh_are_parts_of_ones_own(text, own):
    mesh, other = Mesh("mesh", {"d": 4, "m": 2}), Mesh("other", {"a": 2, "b": 2, "c": 2})
    axis = Axis(text[0], 1, 2)
    found = mesh.own_axes(other, axis)
    assert shardings.normalized(found) == axes_of(own)
    assert mesh.indices(found) == other.indices([axis])
    wide = Mesh("wide", {"e": 8})
    for axis in (Axis("e", 1, 8), Axis("e", 2, 2), Axis("e", 1, 4)):
        assert mesh.indices(mesh.own_axes(wide, axis)) == wide.indices([axis])
    assert Mesh("three", {"t": 3, "u": 4}).own_axes(Mesh("four", {"v": 4, "w": 3}), Axis("v", 1, 4)) is None


UNDIVIDED = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from vtrn import partition
def refuse(artifact, n_devices):
    raise {error}
partition.partition = refuse
mesh = Mesh(np.array(jax.devices("neuron")), ("d",))
x = np.arange(32, dtype=np.float32).reshape(8, 4)
f = jax.jit(lambda x: x @ x.T, in_shardings=NamedSharding(mesh, P("d")), out_shardings=NamedSharding(mesh, P(None, "d")))
np.testing.assert_array_equal(np.asarray(f(x)), x @ x.T)
"""


@pytest.mark.parametrize("error, reason", [
    ('partition.Refused("the rule for this is missing", "model.py:7")', "the rule for this is missing at model.py:7"),
    ('KeyError("axis")', "KeyError: 'axis'"),
])  # fmt: skip
def test_what_cannot_be_divided_runs_whole_and_the_profile_says_why(error, reason, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "neuron,cpu", "NEURON_RT_NUM_CORES": "8", "VTRN_INSTANCE": "trn2.3xlarge",
                                "VTRN_PROFILE": str(tmp_path)}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", UNDIVIDED.format(error=error)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads(path.read_text()).get("ranks") for path in tmp_path.rglob("profile.json")]
    assert any(of and of["whole_ops_on_every_rank"] > 0 and reason in of["undivided_because"] for of in ranks)
