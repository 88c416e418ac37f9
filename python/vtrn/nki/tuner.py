"""vtrn.nki.tune: variants of a kernel by the latency that the chip would have. The values are computed once for the
first variant and once for the best; the others are timed alone."""

import dataclasses
import itertools
import multiprocessing
import os

import numpy as np

from vtrn.nki import cores, kernel as kernels
from vtrn.nki.errors import NkiValidationError


@dataclasses.dataclass(frozen=True)
class Variant:
    """parameters: by name. latency_ns is None where the variant breaks a rule, which error tells."""

    parameters: dict
    latency_ns: float | None
    sbuf_peak_bytes: int = 0
    psum_peak_bytes: int = 0
    n_instructions: int = 0
    error: str = ""
    spill_save_bytes: int = 0
    spill_reload_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Tuned:
    """variants: in the order of the space. result: what the best one returns."""

    best: Variant
    result: object
    variants: list

    @property
    def pareto(self):
        """Variants that no other beats in both latency and SBUF, the fastest first."""
        front, least = [], float("inf")
        for v in sorted((v for v in self.variants if v.latency_ns is not None),
                        key=lambda v: (v.latency_ns, v.sbuf_peak_bytes)):
            if v.sbuf_peak_bytes < least:
                front.append(v)
                least = v.sbuf_peak_bytes
        return front

    def table(self):
        """The variants as text, the fastest first."""
        rows = sorted(self.variants, key=lambda v: (v.latency_ns is None, v.latency_ns or 0))
        lines = [f"{'latency us':>12} {'SBUF KiB':>9} {'PSUM KiB':>9} {'instrs':>8}  parameters"]
        for v in rows:
            text = ", ".join(f"{k}={x}" for k, x in v.parameters.items())
            if v.latency_ns is None:
                lines.append(f"{'-':>12} {'-':>9} {'-':>9} {'-':>8}  {text}: {v.error.splitlines()[0]}")
            else:
                n_spilled = v.spill_save_bytes + v.spill_reload_bytes
                spilled = f" (spills {n_spilled / 1024:.1f} KiB)" if n_spilled else ""
                lines.append(f"{v.latency_ns / 1000:12.3f} {v.sbuf_peak_bytes / 1024:9.1f} {v.psum_peak_bytes / 1024:9.1f} "
                             f"{v.n_instructions:8}  {text}{spilled}")
        return "\n".join(lines)


class _TimedRun(kernels._Run):
    """A launch of which only the time is simulated."""

    def __init__(self, kernel, has_values):
        grid = kernels.launch_grid(kernel.grid, kernel.func.__name__) if kernel.has_cores else kernel.grid
        super().__init__(kernel.func, grid, kernels.chip_name(kernel.chip), kernel.configs)
        if kernel.fills:
            self.session.fill_unwritten(True)
        self.session.compute_values(has_values)
        self.has_values = has_values
        self.is_timed = kernel.has_cores and grid == (cores.N_CORES,)
        self.inputs = []

    def _take(self, value):
        made = super()._take(value)
        array, _ = kernels._numpy(value)
        if array is not None:
            self.inputs.append(np.ascontiguousarray(array).tobytes())
        return made

    def _output(self, value):
        if all(value._storage_id != known._storage_id for known in self.outputs):
            self.outputs.append(value)

    def _update_arguments(self):
        pass

    def _tell_of_spills(self):
        pass  # the figures say it


def _time(kernel, parameters, args, kwargs, has_values=False):
    run = _TimedRun(kernel, has_values)
    try:
        run.run(args, {**kwargs, **parameters})
        name = kernel.func.__name__
        if run.is_timed:
            figures = run.session.time_cores(name, run.outputs)
        else:
            executable = run.session.finish(name, run.outputs)
            _, figures = run.session.execute(executable, run.inputs, None)
    except NkiValidationError as e:
        if e.category == "unsupported" and "a value is looked at" in str(e) and not has_values:
            return _time(kernel, parameters, args, kwargs, True)  # its instructions depend on data
        return Variant(parameters, None, error=str(e))
    except Exception as e:  # of the kernel: not for these parameters
        return Variant(parameters, None, error=f"{type(e).__name__}: {e}")
    return Variant(parameters, figures["latency_ns"], figures["sbuf_peak_bytes"], figures["psum_peak_bytes"],
                   figures["n_instructions"], "", figures["spill_save_bytes"], figures["spill_reload_bytes"])


def _work(kernel, points, args, kwargs, pipe):
    os.environ["VTRN_THREADS"] = "1"  # the processes have all cores
    try:
        pipe.send([_time(kernel, p, args, kwargs) for p in points])
    except BaseException as e:
        pipe.send(e)


def _time_all(kernel, points, args, kwargs, jobs):
    if jobs == 1:
        return [_time(kernel, p, args, kwargs) for p in points]
    context = multiprocessing.get_context("fork")
    workers = []
    for j in range(jobs):
        mine, theirs = context.Pipe(False)
        process = context.Process(target=_work, args=(kernel, points[j::jobs], args, kwargs, theirs), daemon=True)
        process.start()
        theirs.close()
        workers.append((process, mine))
    found = [None] * len(points)
    for j, (process, pipe) in enumerate(workers):
        try:
            part = pipe.recv()
        except EOFError:
            raise RuntimeError(f"a process of the tuner ended early, with code {process.exitcode}") from None
        if isinstance(part, BaseException):
            raise part
        found[j::jobs] = part
        process.join()
    return found


def _arrays(result):
    return [np.asarray(r, np.float64) for r in (result if isinstance(result, (list, tuple)) else [result])]


def tune(kernel, space, jobs=1, rtol=2e-2):
    """space: values by name of a parameter of the kernel; every combination is a variant. The call takes the kernel's
    other arguments and returns a Tuned. The best variant's result must equal the first one's within rtol of its largest
    element, or ValueError tells. jobs: processes, made by fork."""
    kernel = kernels.jit(kernel)
    names = list(space)
    points = [dict(zip(names, values)) for values in itertools.product(*space.values())]
    if not points:
        raise ValueError("tune: the space has no point")
    if jobs is not None and jobs < 1:
        raise ValueError(f"tune: jobs={jobs}; at least one process, or None for all cores of the host")
    jobs = min(len(points), os.cpu_count() if jobs is None else jobs)

    def call(*args, **kwargs):
        variants = _time_all(kernel, points, args, kwargs, jobs)
        legal = [v for v in variants if v.latency_ns is not None]
        if not legal:
            raise ValueError(f"tune: no variant is legal; the first: {variants[0].error}")
        best = min(legal, key=lambda v: v.latency_ns)
        result = kernel(*args, **kwargs, **best.parameters)
        for got, want in zip(_arrays(result), _arrays(kernel(*args, **kwargs, **legal[0].parameters))):
            largest = np.abs(want).max(initial=0)
            if got.shape != want.shape or not np.allclose(got, want, rtol=0, atol=rtol * largest, equal_nan=True):
                raise ValueError(f"tune: {best.parameters} is the fastest and gives another result than "
                                 f"{legal[0].parameters}: a parameter changes what the kernel computes")
        return Tuned(best, result, variants)

    return call
