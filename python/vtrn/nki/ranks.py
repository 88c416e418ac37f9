"""Several ranks that run one kernel and exchange by nki.collectives: run_ranks, and profile_ranks with their time.

One rank runs at any time: the lowest that does not wait. What ranks compute depends on the kernel alone."""

import dataclasses
import os
import threading

from vtrn.nki import kernel as kernels, tensor
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


class _Abandoned(BaseException):
    """Ends the thread of a rank whose launch has failed elsewhere."""


class _Meeting:
    """What ranks of a group come to: their data, and when all are there what each gets."""

    def __init__(self, what, group, place, moves):
        self.what, self.group, self.place, self.moves = what, group, place, moves
        self.data, self.results = {}, None


class _Ranks:
    def __init__(self, kernel, inputs):
        self.kernel, self.inputs, self.n = kernel, inputs, len(inputs)
        self.changed = threading.Condition()
        self.turn = None
        self.rank = 0  # that runs
        self.waits = [None] * self.n  # (group, meeting, place) of each
        self.is_over = [False] * self.n
        self.results, self.error = [None] * self.n, None
        self.runs = [None] * self.n  # kernels._Run of each
        self.met = [[] for _ in inputs]  # meetings of each, in order
        self.meetings = {}  # group, program of the rank, number of the call -> _Meeting
        self.n_calls = {}
        self.is_abandoned = False

    # -- one rank's side

    def _run(self, rank):
        try:
            self._await_turn(rank)
            args, kwargs = self.inputs[rank]
            kernels._owners = {threading.get_ident()}
            grid = kernels.launch_grid(self.kernel.grid, self.kernel.func.__name__)
            run = kernels._Run(self.kernel.func, grid, kernels.chip_name(self.kernel.chip))
            self.runs[rank] = run
            self.results[rank] = run._run(args, kwargs)
        except _Abandoned:
            pass
        except BaseException as error:
            self.error = self.error or error
        with self.changed:
            self.is_over[rank] = True
            self.turn = None
            self.changed.notify_all()

    def _await_turn(self, rank):
        with self.changed:
            while self.turn != rank:
                self.changed.wait()
        self.rank = rank
        if self.is_abandoned:
            raise _Abandoned

    def meet(self, what, group, data, compute, moves):
        rank, place = self.rank, core.place()
        where = f" at {place}" if place else ""
        for member in group:
            if not 0 <= member < self.n:
                raise ValueError(f"{what}: the group {group} has rank {member}, and the launch {self.n} ranks")
        key = group, tensor.launch.program
        number = self.n_calls[rank, key] = self.n_calls.get((rank, key), -1) + 1
        meeting = self.meetings.setdefault((*key, number), _Meeting(what, group, f"{what} of rank {rank}{where}", moves))
        if meeting.what != what:
            raise NkiValidationError(f"{what} of rank {rank}{where} meets {meeting.place}: the ranks of a group call the same "
                                     "collectives in the same order", _DEADLOCK)
        meeting.data[rank] = data
        if tensor.launch.turns is None:  # the cores of kernel[2] are not timed with ranks
            tensor.session().meet()
            self.met[rank].append(meeting)
        if len(meeting.data) == len(group):
            meeting.results = dict(zip(group, compute([meeting.data[m] for m in group])))
            del self.meetings[(*key, number)]
        else:
            self._wait(rank, group, meeting, f"{what}{where}")
        return meeting.results[rank]

    def _wait(self, rank, group, meeting, place):
        session, launch, owners = core.current(), tensor.launch, kernels._owners
        with self.changed:
            self.waits[rank] = group, meeting, place
            self.turn = None
            self.changed.notify_all()
        self._await_turn(rank)
        self.waits[rank] = None
        kernels._owners = owners
        tensor.set_launch(launch)
        session.begin()

    # -- the launch's

    def _ready(self):
        for rank in range(self.n):
            wait = self.waits[rank]
            if not self.is_over[rank] and (wait is None or wait[1].results is not None):
                return rank
        return None

    def _give_turn(self, rank):
        with self.changed:
            self.turn = rank
            self.changed.notify_all()
            while self.turn is not None:
                self.changed.wait()

    def run(self):
        threads = [threading.Thread(target=self._run, args=(r,), name=f"rank {r}", daemon=True) for r in range(self.n)]
        for thread in threads:
            thread.start()
        while not all(self.is_over) and self.error is None:
            rank = self._ready()
            if rank is None:
                self.error = NkiValidationError(self._deadlock(), _DEADLOCK)
                break
            self._give_turn(rank)
        self.is_abandoned = True
        for rank in range(self.n):
            if not self.is_over[rank]:
                self._give_turn(rank)
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error
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


def _launch(what, kernel, inputs):
    global current
    kernel = kernels.jit(kernel)
    calls = [((), dict(x)) if isinstance(x, dict) else (tuple(x) if isinstance(x, (tuple, list)) else (x,), {}) for x in inputs]
    if not calls:
        raise ValueError(f"{what}: inputs is empty; an item a rank")
    if kernels.is_running():
        raise RuntimeError(f"{what}: a kernel is running; ranks are launched from outside of kernels")
    with kernels._turn:
        owners, launch, session = kernels._owners, tensor.launch, core.current()
        launched = current = _Ranks(kernel, calls)
        try:
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
    chip that has as many; VTRN_INSTANCE names another."""
    grid = kernels.launch_grid(kernels.jit(kernel).grid, kernels.jit(kernel).func.__name__)
    if grid not in ((), (1,)):
        raise NotImplementedError(f"profile_ranks: a launch of {grid}: the time of ranks is there for kernels of one program; "
                                  "vtrn.nki.run_ranks has their values, and vtrn.nki.profile the time of a rank of two cores alone")
    launched = _launch("profile_ranks", kernel, inputs)
    return _timed(launched, instance or os.environ.get("VTRN_INSTANCE"))


def _timed(launched, instance):
    """Each rank goes on by itself until it comes to a collective, which begins when the last of its group is there."""
    sessions, n = [run.session for run in launched.runs], launched.n
    name = launched.kernel.func.__name__
    walks = [run.session.walk(name, run.outputs, n) for run in launched.runs]
    n_over, exchanges, machine = [0] * n, [], instance or ""  # collectives that a rank has behind it
    while True:
        stops = [core.walk_stop(walk) for walk in walks]
        if all(is_over for is_over, _ in stops):
            break
        here = [None if is_over else launched.met[rank][n_over[rank]] for rank, (is_over, _) in enumerate(stops)]
        meeting = next(m for m in here if m is not None and all(here[r] is m for r in m.group))
        moves, begins = meeting.moves, max(stops[r][1] for r in meeting.group)
        duration, algorithm = 0.0, "local"
        if any(len(group) > 1 for group in moves.groups):
            duration, algorithm, machine = sessions[0].exchange_time(moves.op, moves.n_bytes, moves.groups, moves.is_in_sbuf, n,
                                                                     instance)
        for rank in meeting.group:
            core.walk_meet(walks[rank], begins - stops[rank][1], duration)
            n_over[rank] += 1
        exchanges.append(Exchange(meeting.what, meeting.place.partition(" at ")[2], meeting.group, moves.n_bytes, algorithm, begins,
                                  duration, tuple(begins - stops[r][1] for r in meeting.group)))
    figures, waits = zip(*(core.walk_take(walk, session.chip()["n_partitions"]) for walk, session in zip(walks, sessions)))
    profiles = tuple(kernels.Profile(result=result, directory="", **f) for result, f in zip(launched.results, figures))
    return RanksProfile(launched.results, max(p.latency_ns for p in profiles), machine, profiles, waits,
                        tuple(sorted(exchanges, key=lambda e: e.begins_ns)))
