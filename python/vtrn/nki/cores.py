"""Two programs of a kernel that meet while they run: LNC 2, sendrecv and core_barrier.

Program 0 runs until it waits for program 1; then program 1 runs, in a thread of its own, until it waits or ends, and
so on. One of them runs at any time and the order depends on the kernel alone, so that the values do, too."""

import threading

from vtrn.nki import tensor, turns
from vtrn.nki._load import core
from vtrn.nki.errors import NkiValidationError

N_CORES = 2  # that share HBM. Source: NKI, "Logical NeuronCores"
_DEADLOCK = 6  # category of errors


class _Wait:
    """What a program waits with: the other's must have the same key."""

    def __init__(self, what, key, data, action, place):
        self.what, self.key, self.data, self.action, self.place = what, key, data, action, place

    def __str__(self):
        return f"{self.what}{self.place}"


class Turns(turns.Turns):
    """The programs of a launch grid of two, whose turns are their numbers. is_timed: each has a core of its own in any case. body(i)
    runs program i and gives what it returns."""

    def __init__(self, session, registers, body, is_timed=False):
        super().__init__(0)
        self.is_timed = is_timed  # programs that do not meet have a core each then, too
        self.session, self.registers, self.body = session, registers, body
        self.waits, self.is_over = [None, None], [False, False]
        self.has_met = False  # program 1 has a thread
        self.threads = {threading.get_ident()}
        self.stops = []  # where they wait: _Run.stops

    def run(self):
        """What program 0 returns."""
        try:
            self.session.set_program(0)
            result = self.body(0)
            self.is_over[0] = True
            if not self.has_met:  # one after the other
                tensor.set_launch(self.registers[1])
                self.session.set_program(1)
                if self.is_timed:
                    self.session.set_core(1)
                self.body(1)
            else:
                if self.waits[1]:
                    self._fail(f"core 1 waits in {self.waits[1]}, and core 0 is through")
                if not self.is_over[1]:
                    self.pass_turn(1)
                    self.await_turn(0)
                self.join()
        except BaseException as error:
            self.end(error)
            raise
        self.session.set_core(0)
        return result

    def meet(self, what, key, data, action):
        """Waits until the other program meets with the same key; then action(data of 0, data of 1) is done once."""
        place = core.place()
        me = tensor.launch.program[0]
        other = 1 - me
        mine = _Wait(what, key, data, action, f" at {place}" if place else "")
        theirs = self.waits[other]
        if theirs is None:
            if self.is_over[other]:
                self._fail(f"core {me} waits in {mine}, and core {other} is through")
            self.waits[me] = mine
            self._run_other(other)
            self.await_turn(me)
            self._resume(me)
            return
        if theirs.key != key:
            self._fail(f"core {me} waits in {mine}, core {other} in {theirs}: they wait for each other")
        self.session.meet()
        self.stops.append((None, None))
        action(*((data, theirs.data) if me == 0 else (theirs.data, data)))
        self._resume(me)
        self.waits[other] = None

    def _fail(self, text):
        raise NkiValidationError(f"deadlock: {text}; both programs call the same exchanges and barriers in the same order",
                                 _DEADLOCK)

    def _resume(self, me):
        tensor.set_launch(self.registers[me])
        self.session.set_program(me)
        self.session.set_core(me)

    def _run_other(self, other):
        if other == 1 and not self.has_met:
            self.has_met = True
            self.start(1, self._second, "program 1")
        self.pass_turn(other)

    def _second(self):
        self.threads.add(threading.get_ident())
        self._resume(1)
        try:
            self.body(1)
        finally:
            self.is_over[1] = True
        if self.waits[0]:
            self._fail(f"core 0 waits in {self.waits[0]}, and core 1 is through")


def meet(what, key, data, action):
    both = tensor.launch.turns
    if both is None:
        raise NkiValidationError(f"{what}: it needs two programs, of a launch kernel[{N_CORES}]; this launch has "
                                 f"{tensor.launch.grid or 1}", 2)
    both.meet(what, key, data, action)
