"""Chips, instances and times, asked of the vtrn command: what is simulated without values or a device."""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import tempfile

import vtrn
from vtrn.serve.runtime import VtrnError


def command_path() -> pathlib.Path:
    """The program beside the library: in a package, or in a build tree."""
    folder = pathlib.Path(vtrn.library_path()).parent
    for path in (folder / "vtrn", folder / "cli" / "vtrn"):
        if path.is_file():
            return path
    raise VtrnError(f"there is no vtrn command in {folder}; build it, or install the package")


def _asked(*arguments: str, environment: dict | None = None):
    done = subprocess.run([command_path(), *arguments, "--json"], capture_output=True, text=True,
                          env={**os.environ, **(environment or {})})  # fmt: skip
    if done.returncode:
        raise VtrnError(done.stderr.strip() or f"vtrn {arguments[0]} failed")
    return json.loads(done.stdout)


@dataclasses.dataclass(frozen=True)
class Instance:
    name: str
    chip: str
    n_cores: int
    dollars_per_hour: float  # 0: not published
    host_call_ns: float
    host_bytes_per_s: float
    peak_flops: float  # of a core
    is_executable: bool
    cores_per_chip: int = 1
    link_bytes_per_s: float = 0.0  # between two chips, one direction; 0: none is published

    def host_ns(self, n_bytes: int) -> float:
        """What a call costs beside the program: the runtime's call, inputs in and outputs out."""
        return self.host_call_ns + n_bytes / self.host_bytes_per_s * 1e9


@functools.cache
def instances() -> dict[str, Instance]:
    known, found = _asked("chips"), {}
    chips = {c["name"]: c for c in known["chips"]}
    for i in known["instances"]:
        chip = chips[i["chip"]]
        host = _asked("chips", i["chip"])["host"]
        found[i["name"]] = Instance(i["name"], i["chip"], i["chips"] * chip["cores"], i["dollars_per_hour"],
                                    host["call_ns"], host["bytes_per_s"], chip["peak_tensor_flops"],
                                    chip["executable"], chip["cores"], i.get("link_bytes_per_s") or 0.0)  # fmt: skip
    return found


def instance(name: str) -> Instance:
    if name not in instances():
        raise VtrnError(f"there is no instance {name!r}; there are {', '.join(instances())}")
    return instances()[name]


@functools.cache
def rests_on(chip: str) -> str | None:
    """What every time on the chip rests on, where hardly anything of it was published: inf1. Others' assumed numbers
    are in their profiles, with what each changes."""
    constants = _asked("chips", chip, "--timing")["constants"]
    assumed = [f"{c['table']}.{c['name']}" for c in constants if c["basis"] == "assumed" and c["value"] != 0]
    if 2 * len(assumed) < len(constants):
        return None
    return (f"{len(assumed)} of {len(constants)} numbers of {chip} are assumed, as {', '.join(assumed[:3])} "
            f"(vtrn chips {chip} --timing); fp32 products are taken in bf16 unless --auto-cast-type says fp16")  # fmt: skip


@functools.cache
def keeps_weights(chip: str) -> bool:
    """Whether weights may stay on the chip between calls: inf1."""
    return _asked("chips", chip)["memory"]["weights_partition_bytes"] > 0


def weights_room(chip: str) -> int:
    """Bytes of a core that weights may take between calls."""
    memory = _asked("chips", chip)["memory"]
    return memory["weights_partition_bytes"] * memory["partitions"]


def time_with_weights(artifact: bytes, chip: str, n_weights: int, flags: str = "") -> dict:
    """The same of a program whose first arguments are weights: those that stay on the chip, where the chip keeps any and
    that is faster (what they take, the work has not), and `weights` says how many bytes do."""
    timed = time_artifact(artifact, chip, flags)
    if n_weights and keeps_weights(chip):
        kept = time_artifact(artifact, chip, f"{flags} --weights-stay={n_weights}")
        if kept["step_ns"] < timed["step_ns"]:
            return kept
    return timed


def time_artifact(artifact: bytes, chip: str, flags: str = "") -> dict:
    """What `vtrn time` says of a program: step_ns, bytes, active shares. No value is computed. flags: as in
    NEURON_CC_FLAGS."""
    with tempfile.NamedTemporaryFile(suffix=".mlirbc") as f:
        f.write(artifact)
        f.flush()
        return _asked("time", f.name, "--chip", chip, environment={"NEURON_CC_FLAGS": flags} if flags else None)
