"""Runs a program on the virtual chip and on the CPU and judges it. Only workers import this."""

import os
import time

import capi
import jax
import numpy as np
from jax._src.lib import _jax
from jax._src.lib.mlir.dialects import hlo

from . import judge, oracle
from .outcome import Outcome
from .program import arguments, compiled

# Outcomes that a message of the library names, in the order in which they are looked for.
REFUSALS = (
    ("race", "hazard"), ("uninitialised", "uninitialised"), ("internal", "internal error"),
    ("internal", "invariant broken"), ("deadlock", "deadlock"), ("refused", "out of capacity"),
    ("refused", "unimplemented"), ("refused", "unsupported"), ("refused", "unspecified"),
)  # fmt: skip


# The values are XLA's; a program runs once, so its code need not be fast.
CPU_OPTIONS = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


class Machine:
    """Both devices of this process; VTRN_CHIP, VTRN_THREADS and VTRN_CHECK chose the virtual one."""

    def __init__(self):
        self.neuron = jax.local_devices(backend="neuron")[0]
        self.cpu = jax.local_devices(backend="cpu")[0]
        threads = int(os.environ["VTRN_THREADS"])
        self.other = capi.Device(chip=os.environ["VTRN_CHIP"], threads=3 - threads)

    def judge(self, program):
        """-> Outcome. Errors of JAX's own tracing are raised: then the program is wrong."""
        clock = [time.process_time()]

        def lap():
            clock.append(time.process_time())

        jax.clear_caches()
        args = arguments(program)
        donated = tuple(i for i, x in enumerate(program.inputs) if x.name in program.donated)
        jitted = jax.jit(compiled(program), donate_argnums=donated)
        placed = jax.device_put(args, self.neuron)
        traced = jitted.trace(*placed)
        lowered = traced.lower()
        lap()
        on_cpu = jax.device_put(args, self.cpu)
        with jax.default_device(self.cpu):  # programs may use none of their arguments
            cpu = to_host(jitted.trace(*on_cpu).lower().compile(compiler_options=CPU_OPTIONS)(*on_cpu))
        lap()
        try:
            got = to_host(lowered.compile()(*placed))
            lap()
            others = self.run_other(lowered, args)
            lap()
        except Exception as error:
            return refusal(error)
        verdict = self.verdict(program, traced.jaxpr, args, got, cpu)
        lap()
        seconds = tuple(round(b - a, 3) for a, b in zip(clock, clock[1:]))
        text = differing_bits(got, others)
        if verdict.outcome == "ok" and text:
            return Outcome("bits", text)
        return Outcome(verdict.outcome, verdict.text, verdict.n_undecided, verdict.is_blunt, seconds)

    def run_other(self, lowered, args):
        """The same program with another number of threads, through the C interface."""
        version = hlo.get_version_from_compatibility_requirement(hlo.StablehloCompatibilityRequirement.WEEK_4)
        artifact = _jax.mlir.serialize_portable_artifact(lowered.compiler_ir("stablehlo"), version, False)
        executable = self.other.compile(artifact)
        try:
            kept = sorted(lowered._lowering.compile_args["kept_var_idx"])
            return executable(*[args[i] for i in kept])
        finally:
            executable.destroy()

    def stepwise(self, program, args):
        """The CPU's results when each operation is a program of its own; None: it cannot run so."""
        try:
            with jax.default_device(self.cpu), jax.disable_jit():
                return to_host(compiled(program)(*jax.device_put(args, self.cpu)))
        except Exception:
            return None

    def verdict(self, program, jaxpr, args, got, cpu):
        with jax.default_device(self.cpu):
            exact, moved = oracle.Evaluation().run(jaxpr, args), []
            for n_pairs, margin in judge.ROUNDS:
                for salt in range(len(moved) // 2, n_pairs):
                    for amplitude in (judge.AMPLITUDE, -judge.AMPLITUDE):
                        moved.append(oracle.Evaluation(amplitude, salt).run(jaxpr, args))
                verdict = judge.judge(got, cpu, exact, moved, margin)
                if verdict.outcome == "ok":
                    return verdict
        stepwise = self.stepwise(program, args)
        return judge.judge(got, cpu, exact, moved, margin, stepwise) if stepwise else verdict


def types_of(program):
    """{name: (shape, dtype)} of all arrays in the program, those inside functions too."""
    types = {}

    def note(name, value):
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            types[name] = (tuple(value.shape), str(value.dtype))

    jax.eval_shape(compiled(program, note), *arguments(program))
    types.update((x.name, (a.shape, str(a.dtype))) for x, a in zip(program.inputs, arguments(program)))
    return types


def to_host(results):
    return [np.asarray(r) for r in jax.block_until_ready(results)]


def refusal(error):
    text = str(error)
    for outcome, word in REFUSALS:
        if word in text.lower():
            return Outcome(outcome, text)
    return Outcome("error", f"{type(error).__name__}: {text}")


def differing_bits(ours, theirs):
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if a.tobytes() != b.tobytes():
            differing = (a.view(np.uint8) != b.view(np.uint8)).sum() if a.ndim else 1
            return f"output {i}: {differing} bytes depend on the number of threads or on the interface"
    return ""
