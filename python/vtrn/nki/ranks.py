"""Several ranks that run one kernel and exchange by nki.collectives: run_ranks, and profile_ranks with their time.

One rank runs at any time: the lowest that does not wait. What ranks compute depends on the kernel alone."""

import dataclasses
import functools
import os
import threading

from vtrn.nki import cores, kernel as kernels, tensor, turns
from vtrn.nki._load import core
from vtrn.nki.errors import NkiValidationError

_DEADLOCK = 6  # category of errors
current = None  # _Ranks of the launch that runs


@dataclasses.dataclass(frozen=True)
class Moves:
    """What a collective moves: operation, bytes of a member (of all_gather of its result), the groups that move at the same
    time, of permute pairs of source and target."""

    op: str
    n_bytes: int
    groups: tuple
    is_in_sbuf: bool


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A collective of one group in time: begins_ns is the last member's arrival, wait_ns each member's before that."""

    name: str
    place: str  # in the kernel, of the group's first rank to come
    group: tuple
    n_bytes: int
    algorithm: str
    begins_ns: float
    duration_ns: float
    wait_ns: tuple


@dataclasses.dataclass(frozen=True)
class RanksProfile:
    """What the chips would have done: results and figures of each rank, as kernel.Profile has them; the time of the last one."""

    results: list
    latency_ns: float
    instance: str  # whose NeuronCore i has rank i
    ranks: tuple
    wait_ns: tuple  # of each rank for others
    exchanges: tuple


class _Meeting:
    """What ranks of a group come to: their data, and when all are there what each gets."""

    def __init__(self, what, group, place, moves, core):
        self.what, self.group, self.place, self.moves, self.core = what, group, place, moves, core
        self.data, self.results = {}, None


class _Ranks(turns.Turns):
    """Threads of ranks, whose turns are their numbers; the launch has it where a rank waits or is through."""

    def __init__(self, kernel, inputs, is_timed):
        super().__init__(None)
        self.kernel, self.inputs, self.n, self.is_timed = kernel, inputs, len(inputs), is_timed
        self.rank = 0  # that runs
        self.waits = [None] * self.n  # (group, meeting, place) of each
        self.is_over = [False] * self.n
        self.results = [None] * self.n
        self.runs = [None] * self.n  # kernels._Run of each
        self.meetings = {}  # group, program of the rank, number of the call -> _Meeting
        self.n_calls = {}

    # -- one rank's side

    def _launch_rank(self, rank):
        args, kwargs = self.inputs[rank]
        self.rank, kernels._owners = rank, {threading.get_ident()}
        grid = kernels.launch_grid(self.kernel.grid, self.kernel.func.__name__)
        run = kernels._Run(self.kernel.func, grid, kernels.chip_name(self.kernel.chip), self.kernel.configs)
        self.runs[rank] = run
        run.is_timed = self.is_timed and grid == (cores.N_CORES,)
        self.results[rank] = run._run(args, kwargs)
        self.is_over[rank] = True

    def meet(self, what, group, data, compute, moves):
        rank, place = self.rank, core.place()
        where = f" at {place}" if place else ""
        for member in group:
            if not 0 <= member < self.n:
                raise ValueError(f"{what}: the group {group} has rank {member}, and the launch {self.n} ranks")
        key = group, tensor.launch.program
        number = self.n_calls[rank, key] = self.n_calls.get((rank, key), -1) + 1
        both = tensor.launch.turns
        own_core = None if both is None else tensor.launch.program[0]  # None: the only one
        meeting = self.meetings.setdefault((*key, number), _Meeting(what, group, f"{what} of rank {rank}{where}", moves, own_core or 0))
        if meeting.what != what:
            raise NkiValidationError(f"{what} of rank {rank}{where} meets {meeting.place}: the ranks of a group call the same "
                                     "collectives in the same order", _DEADLOCK)
        meeting.data[rank] = data
        tensor.session().meet(-1 if own_core is None else own_core)
        (self.runs[rank].stops if both is None else both.stops).append((own_core, meeting))
        if len(meeting.data) == len(group):
            meeting.results = dict(zip(group, compute([meeting.data[m] for m in group])))
            del self.meetings[(*key, number)]
        else:
            self._wait(rank, group, meeting, f"{what}{where}")
        return meeting.results[rank]

    def _wait(self, rank, group, meeting, place):
        session, launch, owners = core.current(), tensor.launch, kernels._owners
        self.waits[rank] = group, meeting, place
        self.pass_turn(self.caller)
        self.await_turn(rank)
        self.waits[rank] = None
        self.rank, kernels._owners = rank, owners
        tensor.set_launch(launch)
        session.begin()

    # -- the launch's

    def _ready(self):
        for rank in range(self.n):
            wait = self.waits[rank]
            if not self.is_over[rank] and (wait is None or wait[1].results is not None):
                return rank
        return None

    def run(self):
        try:
            for rank in range(self.n):
                self.start(rank, functools.partial(self._launch_rank, rank), f"rank {rank}")
            while not all(self.is_over):
                rank = self._ready()
                if rank is None:
                    raise NkiValidationError(self._deadlock(), _DEADLOCK)
                self.pass_turn(rank)
                self.await_turn(self.caller)
            self.join()
        except BaseException as error:
            self.end(error)
            raise
        return self.results

    def _deadlock(self):
        lines = []
        for rank, wait in enumerate(self.waits):
            if wait is None:
                lines.append(f"rank {rank} is through")
                continue
            group, meeting, place = wait
            missing = ", ".join(str(m) for m in group if m not in meeting.data)
            lines.append(f"rank {rank} waits in {place} for rank {missing}")
        return "deadlock: " + "; ".join(lines) + "; all ranks of a group call the same collectives in the same order"


def rank():
    """The rank that runs; of a launch without ranks 0."""
    return current.rank if current is not None else 0


def meet(what, group, data, compute, moves):
    if current is not None:
        return current.meet(what, group, data, compute, moves)
    if group != (0,):
        raise NkiValidationError(f"{what}: the group {list(group)} has several ranks and this launch one; launch the kernel by "
                                 "vtrn.nki.run_ranks(kernel, inputs), an item of inputs a rank", 2)
    return compute([data])[0]


def run_ranks(kernel, inputs):
    """The results of each rank, a list. kernel: as launched, kernel[2] too; inputs: for each rank a tuple of its arguments or a
    dict of them by name."""
    return _launch("run_ranks", kernel, inputs).results


def _launch(what, kernel, inputs, is_timed=False):
    global current
    kernel = kernels.jit(kernel)
    calls = [((), dict(x)) if isinstance(x, dict) else (tuple(x) if isinstance(x, (tuple, list)) else (x,), {}) for x in inputs]
    if not calls:
        raise ValueError(f"{what}: inputs is empty; an item a rank")
    if kernels.is_running():
        raise RuntimeError(f"{what}: a kernel is running; ranks are launched from outside of kernels")
    with kernels._turn:
        owners, launch, session = kernels._owners, tensor.launch, core.current()
        launched = _Ranks(kernel, calls, is_timed)
        try:
            current = launched
            launched.run()
            return launched
        finally:
            current, kernels._owners = None, owners
            tensor.set_launch(launch)
            kernels.idle_session().begin()
            kernels.idle_session().end(session)


# -- time

def profile_ranks(kernel, inputs, instance=None):
    """The RanksProfile of a launch by run_ranks. instance: whose NeuronCores the ranks run on, by default the smallest one of the
    chip that has as many; VTRN_INSTANCE names another. A rank of kernel[2] has two."""
    grid = kernels.launch_grid(kernels.jit(kernel).grid, kernels.jit(kernel).func.__name__)
    if grid not in ((), (1,), (cores.N_CORES,)):
        raise NotImplementedError(f"profile_ranks: a launch of {grid}: a rank's programs have a core each, and these are one or "
                                  f"{cores.N_CORES}; vtrn.nki.run_ranks has the values of others")
    launched = _launch("profile_ranks", kernel, inputs, is_timed=True)
    return _Timing(launched, instance or os.environ.get("VTRN_INSTANCE"), *(grid or (1,))).run()


class _Timing:
    """Each core of each rank goes on by itself until it comes to a collective, which begins when the last of its group is there,
    or to a barrier of the rank's two cores."""

    def __init__(self, launched, instance, n_cores):
        self.launched, self.n_cores, self.instance, self.machine = launched, n_cores, instance, instance or ""
        self.runs, self.exchanges = launched.runs, []
        name, n = launched.kernel.func.__name__, launched.n
        self.walks = {(rank, core): run.session.walk(name, run.outputs, n * n_cores, core)
                      for rank, run in enumerate(self.runs) for core in range(n_cores)}
        self.left = {(rank, core): [meeting for at, meeting in run.stops if at in (None, core)]
                     for rank, run in enumerate(self.runs) for core in range(n_cores)}
        self.waits = [0.0] * n  # of each rank for others, the mean of its cores

    def run(self):
        while self._go_on():
            pass
        sessions = [run.session for run in self.runs]
        figures = [core.walk_take([self.walks[rank, c] for c in range(self.n_cores)], session.chip()["n_partitions"])
                   for rank, session in enumerate(sessions)]
        profiles = tuple(kernels.Profile(result=result, directory="", **f) for result, f in zip(self.launched.results, figures))
        return RanksProfile(self.launched.results, max(p.latency_ns for p in profiles), self.machine, profiles, tuple(self.waits),
                            tuple(sorted(self.exchanges, key=lambda e: e.begins_ns)))

    def _go_on(self):
        """One exchange or barrier more; False: all are through."""
        arrivals = {k: ns for k, (is_over, ns) in ((k, core.walk_stop(w)) for k, w in self.walks.items()) if not is_over}
        if not arrivals:
            return False
        here = {k: self.left[k][0] for k in arrivals}
        for rank in range(self.launched.n):
            both = [(rank, c) for c in range(self.n_cores)]
            if all(k in here and here[k] is None for k in both):
                last = max(arrivals[k] for k in both)
                self._pass(both, arrivals, last, self.runs[rank].session.chip()["barrier_ns"])
                return True
        meeting = next(m for m in here.values() if m is not None and all(here.get((r, m.core)) is m for r in m.group))
        members = [(r, meeting.core) for r in meeting.group]
        begins = max(arrivals[k] for k in members)
        duration, algorithm = self._duration(meeting.moves)
        self._pass(members, arrivals, begins, duration)
        waits = tuple(begins - arrivals[k] for k in members)
        for rank, ns in zip(meeting.group, waits):
            self.waits[rank] += ns / self.n_cores
        self.exchanges.append(Exchange(meeting.what, meeting.place.partition(" at ")[2], meeting.group, meeting.moves.n_bytes,
                                       algorithm, begins, duration, waits))
        return True

    def _pass(self, members, arrivals, begins, duration):
        for k in members:
            core.walk_meet(self.walks[k], begins - arrivals[k], duration)
            self.left[k].pop(0)

    def _duration(self, moves):
        if all(len(group) < 2 for group in moves.groups):
            return 0.0, "local"
        duration, algorithm, self.machine = self.runs[0].session.exchange_time(
            moves.op, moves.n_bytes, moves.groups, moves.is_in_sbuf, self.launched.n, self.n_cores, self.instance)
        return duration, algorithm
