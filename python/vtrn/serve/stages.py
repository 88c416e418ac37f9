"""How a stored model lies on cores: a program on each of them, or a pipeline of programs, a core each. On inf1 weights stay on
the chip between calls where that is faster, or model.toml asks for it.
"""

import dataclasses
import os

import numpy as np

from vtrn.serve import machine, pipeline
from vtrn.serve.programs import Program, Programs
from vtrn.serve.runtime import Buffer, Device, Profile, VtrnError

MIB = 2.0**20
_SUMS = ("step_ns", "flops", "hbm_read_bytes", "hbm_write_bytes", "n_reference_ops", "n_instructions", "host_seconds")
_SHARES = ("tensor_active", "vector_active", "scalar_active", "gpsimd_active", "dma_active", "mfu", "reference_time_share")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What model.toml and options say of a stored model."""

    pipeline_cores: int = 1
    weights_stay: bool | None = None  # None: where it is faster
    is_alone: bool = True  # no other model runs on its cores: another's program overwrites what stays


@dataclasses.dataclass(frozen=True)
class Kept:
    """Of weights on one core, or summed over those of a pipeline."""

    stay_bytes: int = 0
    load_ns: float = 0.0  # once


@dataclasses.dataclass(frozen=True)
class Result:
    outputs: list[np.ndarray]
    profile: Profile
    core_ns: float  # that a call takes of cores when every one is busy: in a pipeline all wait for the slowest
    about: dict  # of the answer


def timed(name: str, artifact: bytes, chip: str, n_weights: int, wanted: Wanted) -> dict:
    """What `vtrn time` says of the program, with `weights` if any are to stay."""
    flags = os.environ.get("NEURON_CC_FLAGS", "")
    if not n_weights or wanted.weights_stay is False or not (wanted.is_alone or wanted.weights_stay):
        return machine.time_artifact(artifact, chip, flags)
    if not wanted.weights_stay:
        return machine.time_with_weights(artifact, chip, n_weights, flags)
    if not machine.keeps_weights(chip):
        raise VtrnError(f"model {name}: weights_stay is true, and {chip} reads weights from HBM in every call; set it to false")
    if not wanted.is_alone:
        raise VtrnError(f"model {name}: weights_stay is true, and another model runs on its cores, whose programs overwrite what stays; "
                        "give each cores of its own by --cores")  # fmt: skip
    kept = machine.time_artifact(artifact, chip, f"{flags} --weights-stay={n_weights}")
    said = kept["weights"]
    if said["stay_bytes"] < said["bytes"]:
        raise VtrnError(f"model {name}: weights_stay is true, and of {said['bytes'] / MIB:.1f} MiB of weights on a core "
                        f"{said['stay_bytes'] / MIB:.1f} MiB have room there, which is {machine.weights_room(chip) / MIB:.1f} MiB in the type that "
                        "products take; deal them out over more cores with pipeline_cores, or leave weights_stay out: then those stay that have room")  # fmt: skip
    return kept


def _program(programs: Programs, name: str, artifact: bytes, said: dict) -> tuple[Program, Kept]:
    kept = said.get("weights")
    flags = f"--weights-stay={kept['given']}" if kept else ""
    return programs.get(name, lambda: artifact, flags), Kept(kept["stay_bytes"], kept["load_ns"]) if kept else Kept()


class Whole:
    """A program, and its weights on each core."""

    def __init__(self, device: Device, programs: Programs, name: str, bucket: str, artifact: bytes, weights: list[np.ndarray], cores, wanted: Wanted):  # fmt: skip
        self._device, self.lanes = device, list(cores)
        said = {}
        if weights and (machine.keeps_weights(device.chip) or wanted.weights_stay):
            said = timed(name, artifact, device.chip, len(weights), wanted)
        self.program, self.kept = _program(programs, f"{name}/{bucket}", artifact, said)
        self._weights = {c: [device.put(w, c) for w in weights] for c in self.lanes}
        self.stage_ns = lambda: []

    def run(self, inputs: list[np.ndarray], core_i: int) -> Result:
        buffers = [self._device.put(a, core_i) for a in inputs]
        out = [b.numpy() for b in self.program.executable([*self._weights[core_i], *buffers], core_i)]
        profile = self.program.executable.profile()
        return Result(out, profile, profile.step_ns, {"core": core_i, **_said(self.kept)})


def _said(kept: Kept) -> dict:
    return {"weights_on_chip_bytes": kept.stay_bytes} if kept.stay_bytes else {}


class Pipeline:
    """Stages, a core each, chip after chip; several of them where there are cores for it. A lane is one of them."""

    def __init__(self, device: Device, programs: Programs, name: str, bucket: str, artifact: bytes, weights: list[np.ndarray], cores, wanted: Wanted):  # fmt: skip
        n, cores = wanted.pipeline_cores, list(cores)
        if not machine.keeps_weights(device.chip):
            raise VtrnError(f"model {name}: pipeline_cores is {n}, and {device.chip} has no NeuronCore pipeline, its cores share products "
                            f"instead; serve it on an instance of inf1, or give --pipeline-cores {name}=1")  # fmt: skip
        self._device, self._weights, self._n_weights = device, weights, len(weights)
        known: dict[tuple[int, int], dict] = {}

        def time_of(stage: pipeline.Stage) -> float:
            n_taken = sum(self._is_weight(v) for v in stage.takes)
            known[stage.first, stage.end] = said = timed(name, stage.artifact, device.chip, n_taken,
                                                         dataclasses.replace(wanted, weights_stay=wanted.weights_stay and None))  # fmt: skip
            return said["step_ns"]

        self._whole, self._stages, _ = pipeline.cut(artifact, n, time_of)
        if wanted.weights_stay:  # of the cut that was chosen; another may have too much on a core
            for stage in self._stages:
                known[stage.first, stage.end] = timed(name, stage.artifact, device.chip, sum(map(self._is_weight, stage.takes)), wanted)
        made = [_program(programs, f"{name}/{bucket}/stage{i}", s.artifact, known[s.first, s.end]) for i, s in enumerate(self._stages)]
        self._programs = [program for program, _ in made]
        self.kept = Kept(sum(k.stay_bytes for _, k in made), sum(k.load_ns for _, k in made))
        self._cores = [cores[i : i + n] for i in range(0, len(cores), n)]
        self.lanes = [k for k in range(len(self._cores)) for _ in range(n)]  # as many calls are on their way as there are stages
        self._buffers = [[{v: device.put(weights[v.i], core) for v in stage.takes if self._is_weight(v)}
                          for stage, core in zip(self._stages, lane)] for lane in self._cores]  # fmt: skip
        self._sent_ns = [[self._link_ns(i, lane) for i in range(n)] for lane in self._cores]

    def _is_weight(self, v: pipeline.Value) -> bool:
        return v.op_i < 0 and v.i < self._n_weights

    def _link_ns(self, i: int, lane: list[int]) -> float:
        """What passes from stage i to another chip. On one chip, it is in its memory already."""
        known = machine.instances().get(self._device.instance_name)
        if known is None or not known.link_bytes_per_s or i + 1 == len(lane):
            return 0.0
        if lane[i] // known.cores_per_chip == lane[i + 1] // known.cores_per_chip:
            return 0.0
        return pipeline.n_sent(self._whole, self._stages, i) / known.link_bytes_per_s * 1e9

    def stage_ns(self, lane: int = 0) -> list[float]:
        """Of programs that ran; [] before the first call."""
        profiles = [p.executable.known_profile() for p in self._programs]
        return [p.step_ns + sent for p, sent in zip(profiles, self._sent_ns[lane])] if all(profiles) else []

    @property
    def cores(self) -> list[list[int]]:
        return self._cores

    def run(self, inputs: list[np.ndarray], lane: int) -> Result:
        cores, buffers = self._cores[lane], self._buffers[lane]

        def call(i: int, operands: list) -> list[np.ndarray]:
            taken: list[Buffer] = [buffers[i].get(v) or self._device.put(a, cores[i]) for v, a in zip(self._stages[i].takes, operands)]
            return [b.numpy() for b in self._programs[i].executable(taken, cores[i])]

        out = pipeline.run(self._whole, self._stages, [*self._weights, *inputs], call)
        profiles, times = [p.executable.profile() for p in self._programs], self.stage_ns(lane)
        total = sum(p.step_ns for p in profiles)
        profile = dataclasses.replace(
            profiles[0], **{name: sum(getattr(p, name) for p in profiles) for name in _SUMS},
            **{name: sum(getattr(p, name) * p.step_ns for p in profiles) / total for name in _SHARES},
            hbm_peak_bytes=max(p.hbm_peak_bytes for p in profiles))  # fmt: skip
        profile = dataclasses.replace(profile, step_ns=sum(times))
        return Result(out, profile, max(times) * len(cores), {
            "cores": ",".join(map(str, cores)), "pipeline_interval_us": round(max(times) / 1e3, 3), **_said(self.kept)})  # fmt: skip
