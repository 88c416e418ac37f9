"""Programs by bucket: a JAX function is traced once for each bucket of shapes, and compiled for the device."""

import dataclasses
import threading
import time

import jax
from jax import export

from vtrn.serve.runtime import Device, Executable


def artifact_of(function, *shapes, donated=()) -> bytes:
    """StableHLO of a function of these jax.ShapeDtypeStruct; `donated` numbers arguments whose memory results take."""
    jitted = jax.jit(function, donate_argnums=donated, keep_unused=True)
    with jax.default_device(jax.devices("cpu")[0]):
        return export.export(jitted, platforms=["cpu"])(*shapes).mlir_module_serialized


@dataclasses.dataclass
class Program:
    name: str
    executable: Executable
    trace_seconds: float
    compile_seconds: float


class Programs:
    """Those of one device by name, each made when it is first asked for."""

    def __init__(self, device: Device):
        self.device = device
        self.by_name: dict[str, Program] = {}
        self._lock = threading.Lock()

    def get(self, name: str, make_artifact, flags: str = "") -> Program:
        """make_artifact() gives the StableHLO of a program that does not exist yet; flags as in NEURON_CC_FLAGS, behind those."""
        with self._lock:
            if name not in self.by_name:
                start = time.perf_counter()
                artifact = make_artifact()
                traced = time.perf_counter()
                executable = self.device.compile(artifact, flags)
                done = time.perf_counter()
                self.by_name[name] = Program(name, executable, traced - start, done - traced)
            return self.by_name[name]


def bucket_for(buckets: list[int], n: int) -> int | None:
    """The least of ascending buckets that holds n; None: there is none."""
    return next((b for b in buckets if b >= n), None)
