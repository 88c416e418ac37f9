"""Kernels: nki.jit, nki.simulate, vtrn.nki.profile."""

import dataclasses
import functools
import inspect
import itertools
import os
import pathlib
import sys
import threading
import traceback
import warnings

import numpy as np

from vtrn.nki import compiler, cores, dtypes, tensor
from vtrn.nki._load import HBM, core
from vtrn.nki.errors import NkiValidationError
from vtrn.nki.tensor import ARGUMENT, ndarray

# Kernels take turns: what runs is known to all of the process.
_turn = threading.RLock()
_owners = frozenset()  # threads of the kernel that runs

core.setup(os.path.dirname(__file__) + os.sep, NkiValidationError, dtypes.by_code, tensor.subscript)

_TARGETS = {"trn1": "trn1", "inf2": "inf2", "gen2": "trn1", "trn2": "trn2", "gen3": "trn2", "trn3": "trn3",
            "gen4": "trn3"}
DEFAULT_CHIP = "trn2"


def _target(name, what):
    try:
        return _TARGETS[name]
    except KeyError:
        raise ValueError(f"{what}={name}: one of {', '.join(_TARGETS)}") from None


def chip_of_target():
    """The chip that NEURON_PLATFORM_TARGET_OVERRIDE names, or None."""
    target = os.environ.get("NEURON_PLATFORM_TARGET_OVERRIDE") or os.environ.get("NKI_NC_VERSION")
    return _target(target, "NEURON_PLATFORM_TARGET_OVERRIDE") if target else None


def chip_name(asked=None):
    """The chip that kernels run on: NEURON_PLATFORM_TARGET_OVERRIDE, else what the kernel's decorator asks for, else
    VTRN_CHIP, else trn2."""
    return chip_of_target() or asked or os.environ.get("VTRN_CHIP") or DEFAULT_CHIP


FILLS = ("error", "nan", "zero")  # as nki_fill in src/nki/nki.h


RACES = ("warn", "error", "ignore")


def fills_unwritten():
    """VTRN_NKI_UNINITIALISED: what an instruction does that reads elements which nothing has written; "error" is the
    default, "nan" and "zero" are what it reads. Its number in FILLS."""
    policy = os.environ.get("VTRN_NKI_UNINITIALISED", "error")
    if policy not in FILLS:
        raise ValueError(f"VTRN_NKI_UNINITIALISED={policy}: {', '.join(FILLS)}")
    return FILLS.index(policy)


@functools.lru_cache
def _idle_session(chip):
    return core.Session(chip)


def idle_session():
    """A session without a kernel, for those who ask about the chip."""
    return _idle_session(chip_name())


def _numpy(value):
    """The array of an argument and what makes a result of its kind of an array; None: no array."""
    if isinstance(value, np.ndarray):
        return value, None
    module = type(value).__module__.partition(".")[0]
    if module == "torch" and hasattr(value, "detach"):
        return _torch_array(value), _to_torch
    if module in ("jax", "jaxlib") and hasattr(value, "__array__") and hasattr(value, "shape"):
        return np.asarray(value), _to_jax
    return None, None


def _torch_array(value):
    import ml_dtypes
    import torch

    value = value.detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _to_torch(array):
    import ml_dtypes
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _to_jax(array):
    import jax.numpy as jnp

    return jnp.asarray(array)


def _check_types(what, value):
    """Raises the error of an array of a type that NKI has not, or without elements."""
    if isinstance(value, (list, tuple)):
        for v in value:
            _check_types(what, v)
    elif isinstance(value, dict):
        for v in value.values():
            _check_types(what, v)
    else:
        if 0 in (getattr(value, "shape", None) or ()):
            raise ValueError(f"{what} has shape {tuple(value.shape)}, which has no elements; leave the call out")
        array, _ = _numpy(value)
        try:
            dtypes.code_of(array.dtype if array is not None else "float32")
        except ValueError as error:
            cast = {"f": "; cast it to float32", "i": "; cast it to int32", "u": "; cast it to uint32"}
            raise ValueError(f"{what}: {error}{cast.get(array.dtype.kind, '')}") from None


def _whole(value):
    """The bytes of the tensor in HBM that the view is of."""
    return value._view((value._row_bytes,), (1,), 0, dtypes.code_of("uint8"))


@dataclasses.dataclass(frozen=True)
class Spill:
    """Tiles that one line of a kernel is the first to use, and that are saved elsewhere for a time since their memory has no room
    for them."""

    place: str
    name: str  # of the first of them, where the kernel gives one
    memory: str  # "SBUF": saved to HBM, or "PSUM": saved to SBUF
    n_saves: int
    n_reloads: int
    tile_bytes: int  # of the largest
    spill_save_bytes: int
    spill_reload_bytes: int


def spill_text(spills):
    """What a launch's Spills are, memory by memory."""
    return "; ".join(_spill_text(memory, next_memory, found) for memory, next_memory in (("SBUF", "HBM"), ("PSUM", "SBUF"))
                     if (found := [s for s in spills if s.memory == memory]))


def _spill_text(memory, next_memory, spills):
    saved, reloaded = (sum(getattr(s, f"spill_{what}_bytes") for s in spills) for what in ("save", "reload"))
    most = "; ".join(f"{s.name or 'a tile'} of {s.tile_bytes} bytes first used at {s.place}, saved {s.n_saves} and reloaded "
                     f"{s.n_reloads} times" for s in spills[:3])
    more = f"; and of {len(spills) - 3} lines more" if len(spills) > 3 else ""
    return (f"{memory} has no room for all tiles that live together: {saved} bytes are saved to {next_memory} and {reloaded} reloaded (spill): "
            f"{most}{more}. Smaller tiles, or reads for the last time before, would save this time")


class _Run:
    """One launch of a kernel."""

    is_recorded = False

    def __init__(self, function, grid, chip=None, configs=compiler.Configs()):
        self.function, self.grid = function, grid
        self.session = core.Session(chip or chip_name())
        self.session.fill_unwritten(fills_unwritten())
        if getattr(function, "reuses_loads", False):
            self.session.reuse_loads()
        if configs.refuses_spills:
            self.session.refuse_spills()
        self.has_values = True
        self.is_timed = False  # two programs have a core each, whether they meet or not
        self.stops = []  # of ranks: (core or None, meeting of ranks or None, of cores) in order
        self.arguments = []  # (array, tensor, value given)
        self.make = None  # of results: what kind the arguments are
        self.outputs, self.result = [], None
        self.written = {}  # by number of a result's storage: its bytes, 0 where nothing had written and 0 is now

    def _take(self, value):
        array, make = _numpy(value)
        if array is not None:
            self.make = self.make or make
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            region = tensor.shared_hbm if self.grid else tensor.hbm
            made = self.session.tensor(ndarray, array.shape or (1,), dtypes.code_of(array.dtype), HBM, ARGUMENT, data,
                                       None, region, "")
            self.arguments.append((array, made, value))
            return made
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(self._take(v) for v in value)
        if isinstance(value, dict):
            return {k: self._take(v) for k, v in value.items()}
        return value

    def _named(self, args, kwargs):
        """Pairs of parameter and argument."""
        given = inspect.signature(self.function).bind_partial(*args, **kwargs).arguments
        return list(given.items())

    def _taken(self, args, kwargs):
        try:
            return self._take(tuple(args)), self._take(kwargs)
        except (ValueError, NkiValidationError):
            for name, value in self._named(args, kwargs):
                _check_types(f"{self.function.__name__}: argument {name}", value)
            raise

    def _tell_of_list(self, error, args, kwargs):
        """The error of an attribute of arrays of an argument that is a list."""
        for name, value in self._named(args, kwargs):
            if value is error.obj and isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
                frame = traceback.extract_tb(error.__traceback__)[-1]
                raise TypeError(f"{self.function.__name__}: argument {name} is a {type(value).__name__}, and the kernel takes it "
                                f"as an array (.{error.name}, at {frame.filename}:{frame.lineno}); give it np.asarray({name}) "
                                "of a type that NKI has, such as np.float32") from error

    def _give(self, value):
        if isinstance(value, ndarray):
            if value._is_on_chip:
                raise NkiValidationError(f"{self.function.__name__} returns a tensor in {value.buffer.value}; store it "
                                         "to one in nl.shared_hbm and return that", 2)
            return self._output(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._give(v) for v in value)
        return value

    def _output(self, value):
        is_first = all(value._storage_id != known._storage_id for known in self.outputs)
        memory = value._keep() if is_first else None  # a second result of the same memory is an array of its own
        if memory is not None:
            array, n_unwritten = np.frombuffer(memory, dtypes.numpy_of(value._dtype)).reshape(value.shape), 0
        else:
            array, n_unwritten = value._array()
        if n_unwritten:
            warnings.warn(f"{self.function.__name__}: nothing has written {n_unwritten} of the {value.size} elements of "
                          f"a result of shape {value.shape}; they are 0", stacklevel=5)
            self.written.setdefault(value._storage_id, _whole(value)._written())
            value._zero_unwritten()
            array, _ = value._array()
        if is_first:
            self.outputs.append(value)
        array = array.view(dtypes.result_type(value._dtype))
        return self.make(array) if self.make else array

    def _differs(self, value, data):
        """Whether a program's output has other bytes than the kernel's, where the kernel writes: elsewhere a result has 0, and
        an output what its memory held before. Signs and payloads of NaN do not count (docs/decisions/0012)."""
        whole = _whole(value)
        found = whole._read()[0]
        if found == data:
            return False
        is_other = np.frombuffer(found, np.uint8) != np.frombuffer(data, np.uint8)
        is_other &= ~_are_nan(value, found, data)
        for written in (self.written.get(value._storage_id), whole._written()):
            if written is not None:
                is_other &= np.frombuffer(written, np.uint8) != 0
        return is_other.any()

    def _tell_of_fills(self):
        n, first, place = self.session.filled()
        if n:
            read_as = "zero" if os.environ.get("VTRN_NKI_UNINITIALISED") == "zero" else "NaN (integers as 4)"
            warnings.warn(f"{self.function.__name__}: {n} elements that nothing had written were read as {read_as}; first "
                          f"{first} at {place}", stacklevel=5)

    @property
    def spills(self):
        """The Spills of the launch, those of most bytes first; empty where SBUF has room for all tiles."""
        return sorted((Spill(*row) for row in self.session.spills()), key=lambda s: -(s.spill_save_bytes + s.spill_reload_bytes))

    def _tell_of_spills(self):
        if spills := self.spills:
            warnings.warn(f"{self.function.__name__}: {spill_text(spills)}", stacklevel=5)

    def _tell_of_races(self):
        """Of the two programs of a launch: VTRN_NKI_RACES is "warn", the default, "error" or "ignore"."""
        policy = os.environ.get("VTRN_NKI_RACES", "warn")
        if policy not in RACES:
            raise ValueError(f"VTRN_NKI_RACES={policy}: {', '.join(RACES)}")
        n, first, place, before = self.session.races()
        if not n or policy == "ignore":
            return
        text = (f"{self.function.__name__}: race: {first}; at {place}" + (f", and before at {before}" if before != place else "")
                + (f"; {n} accesses are such" if n > 1 else ""))
        if policy == "error":
            raise NkiValidationError(text, 5)
        warnings.warn(text, stacklevel=5)

    def _update_arguments(self):
        """What the kernel has written to an argument is seen in the caller's array."""
        for array, made, value in self.arguments:
            if made._n_writes and isinstance(value, np.ndarray):
                if not array.flags.writeable:
                    raise NkiValidationError(f"{self.function.__name__} has written to an argument of shape {made.shape}, and "
                                             "the caller's array is read-only; give it a copy", 1)
                if array.flags.c_contiguous:
                    made._read_into(array.reshape(-1).view(np.uint8))
                else:
                    np.copyto(array, made.numpy().reshape(array.shape).view(array.dtype))

    def run(self, args, kwargs):
        global _owners
        with _turn:
            before, _owners = _owners, {threading.get_ident()}
            try:
                return self._run(args, kwargs)
            finally:
                _owners = before

    def _programs(self, args, kwargs):
        """Runs the programs of the grid; what the first returns."""
        global _owners
        shared = []
        programs = [tensor.Registers(self.grid, p, shared) for p in itertools.product(*map(range, self.grid))]
        for registers in programs:
            registers.has_values = self.has_values
            registers.is_recorded = self.is_recorded
        if len(programs) == cores.N_CORES and len(self.grid) == 1:
            def body(i):
                return self.function(*args, **kwargs)

            turns = cores.Turns(self.session, programs, body, self.is_timed)
            self.stops = turns.stops
            for registers in programs:
                registers.turns = turns
            _owners = turns.threads
            tensor.set_launch(programs[0])
            try:
                return turns.run()
            finally:  # no cycle keeps the session, and its memory, until Python looks for cycles
                for registers in programs:
                    registers.turns = None
        results = []
        for registers in programs:
            tensor.set_launch(registers)
            results.append(self.function(*args, **kwargs))
        return results[0]

    def _run(self, args, kwargs):
        before, launch = self.session.begin(), tensor.set_launch(tensor.Registers(self.grid, (), []))
        try:
            args, kwargs = self._taken(args, kwargs)
            try:
                self.result = self._give(self._programs(args, kwargs))
            except AttributeError as error:
                self._tell_of_list(error, args, kwargs)
                raise
        finally:
            tensor.set_launch(launch)
            self.session.end(before)
        self.sbuf_bytes, self.psum_bytes = self.session.place(self.outputs)
        self._tell_of_spills()
        self._tell_of_fills()
        self._tell_of_races()
        self._update_arguments()
        return self.result


def is_running():
    """Whether the caller is part of a kernel."""
    return threading.get_ident() in _owners


def _end_turns_of_others():
    """A fork has the thread alone that forked: kernels of others are not waited for."""
    global _turn, _owners
    if not is_running():
        _turn, _owners = threading.RLock(), frozenset()


os.register_at_fork(after_in_child=_end_turns_of_others)


def _grid(key):
    sizes = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(n, (int, np.integer)) and n > 0 for n in sizes):
        raise TypeError(f"a launch grid is made of positive integers, not {key!r}")
    return tuple(int(n) for n in sizes)


LNC = "NEURON_LOGICAL_NC_CONFIG"


def launch_grid(grid, name):
    """The grid of a launch: what kernel[grid] says, else as many programs as a logical NeuronCore has cores, which the
    environment may say. Source: nki.jit, NKI 0.7."""
    text = os.environ.get(LNC)
    if not text:
        return grid
    if text not in ("1", "2"):
        raise ValueError(f"{LNC}={text}: the NeuronCores of a logical one are 1 or 2")
    lnc = int(text)
    if not grid:
        return (lnc,) if lnc > 1 else ()
    if grid != (lnc,):
        raise NkiValidationError(f"{name}[{', '.join(map(str, grid))}]: LNC mismatch: the launch has "
                                 f"{' x '.join(map(str, grid))} programs and {LNC} is {lnc}, which the vendor's compiler refuses "
                                 f"(NCC_EVRF066); launch {name}[{lnc}], or unset {LNC}", 1)
    return grid


_running = None  # the kernel that was called, others of which may be part of it


def _jax_call():
    from vtrn.nki import jax_call

    return jax_call


class Kernel:
    """A function that executes on the virtual chip. kernel[grid](...) runs it for each program of a grid."""

    fills = False  # elements that nothing has written are read as NaN, whatever the environment says
    has_cores = True  # a grid of two is the cores of an LNC, and no programs of one core

    def __init__(self, function, grid=(), chip=None, configs=compiler.Configs()):
        functools.update_wrapper(self, function)
        self.func, self.grid, self.chip, self.configs = function, grid, chip, configs
        self.__signature__ = inspect.signature(function)

    def __getitem__(self, key):
        return Kernel(self.func, _grid(key), self.chip, self.configs)

    def __call__(self, *args, **kwargs):
        global _running
        if is_running():  # of another kernel: part of it
            if _running is not None:
                _running.configs.check_nested(_running.func.__name__, self.configs, self.func.__name__)
            return self.func(*args, **kwargs)
        before, _running = _running, self
        try:
            grid = launch_grid(self.grid, self.func.__name__)
            if "jax" in sys.modules and (jax_call := _jax_call()).is_traced(args, kwargs):
                return jax_call.call(self.func, grid, args, kwargs, configs=self.configs)
            return _Run(self.func, grid, chip_name(self.chip), self.configs).run(args, kwargs)
        finally:
            _running = before

    def __get__(self, instance, owner=None):
        return self if instance is None else functools.partial(self, instance)


def jit(fn=None, platform_target=None, compile_config=None, specialization_config=None, **kwargs):
    """Makes a kernel of a function, for the chip of a target where one is named and the environment names none. Options
    of other back ends are accepted and mean nothing here."""
    configs = compiler.Configs(compile_config, specialization_config)
    chip = _target(platform_target, "platform_target") if platform_target else None

    def made(f):
        return f if isinstance(f, Kernel) else Kernel(f, (), chip, configs)

    return made if fn is None else made(fn)


def simulate(kernel):
    """A kernel that runs on the virtual chip, as kernels do anyway."""
    return jit(kernel)


@dataclasses.dataclass(frozen=True)
class Profile:
    """What the chip would have done. Shares are of the latency, 0 to 1; of kernel[2] the mean of the cores, whose memory
    peaks are those of the fuller one."""

    result: object
    latency_ns: float
    tensor_active: float
    vector_active: float
    scalar_active: float
    gpsimd_active: float
    sync_active: float
    dma_active: float
    mfu: float
    flops: int
    hbm_read_bytes: int
    hbm_write_bytes: int
    sbuf_peak_bytes: int
    psum_peak_bytes: int
    n_instructions: int
    directory: str  # of profile.html, profile.pftrace, profile.json; of two cores there are none: ""
    spill_save_bytes: int = 0  # of hbm_write_bytes: tiles that SBUF has no room for
    spill_reload_bytes: int = 0  # of hbm_read_bytes: the same


class _Profiled:
    def __init__(self, kernel, directory):
        self.kernel, self.directory = kernel, directory
        self.fills, self.has_cores = kernel.fills, kernel.has_cores

    def __getitem__(self, key):
        return _Profiled(self.kernel[key], self.directory)

    def __call__(self, *args, **kwargs):
        name = self.kernel.func.__name__
        grid = launch_grid(self.kernel.grid, name) if self.has_cores else self.kernel.grid
        run = _Run(self.kernel.func, grid, chip_name(self.kernel.chip), self.kernel.configs)
        if self.fills:
            run.session.fill_unwritten(True)
        inputs = []
        take = run._take

        def copied(value):  # the program starts from what the arguments were before the kernel
            made = take(value)
            if isinstance(made, ndarray):
                inputs.append(made._read()[0])
            return made

        run._take = copied
        run.is_timed = self.has_cores and run.grid == (cores.N_CORES,)
        try:
            run.run(args, kwargs)
        finally:  # no cycle keeps the session, and its memory, until Python looks for cycles
            del run._take
        if run.is_timed or (run.stops and run.grid == (cores.N_CORES,)):  # programs that met have a core each
            return Profile(result=run.result, directory="", **run.session.time_cores(name, run.outputs))
        directory = pathlib.Path(self.directory or pathlib.Path("out") / "nki" / name)
        executable = run.session.finish(name, run.outputs)
        outputs, figures = run.session.execute(executable, inputs, str(directory))
        for value, data in zip(run.outputs, outputs):
            if run._differs(value, data):
                raise NkiValidationError(f"{name}: the program gives another result than the kernel did when it was "
                                         "written; this is an error of vtrn", 11)
        return Profile(result=run.result, directory=str(directory), **figures)


def _are_nan(value, a, b):
    """By byte of a and b, two contents of the memory of value: whether it is of an element that is NaN in both. False where its
    type has none."""
    dtype = dtypes.numpy_of(value._dtype)
    try:
        is_nan = np.isnan(np.frombuffer(a, dtype)) & np.isnan(np.frombuffer(b, dtype))
    except (TypeError, ValueError):  # no floats, or a view whose elements the memory is no multiple of
        return np.zeros(len(a), bool)
    return np.repeat(is_nan, dtype.itemsize)


def profile(kernel, directory=None):
    """A kernel whose call returns a Profile: result, latency, utilisation. It writes profile.html, a Perfetto trace
    and profile.json to directory (out/nki/NAME)."""
    return _Profiled(jit(kernel), directory)
