"""Two programs of a kernel that meet while they run: LNC 2, sendrecv and core_barrier.

Program 0 runs until it waits for program 1; then program 1 runs, in a thread of its own, until it waits or ends, and
so on. One of them runs at any time and the order depends on the kernel alone, so that the values do, too."""

import contextlib
import threading

from vtrn.nki import tensor
from vtrn.nki._load import core
from vtrn.nki.errors import NkiValidationError

N_CORES = 2  # that share HBM. Source: NKI, "Logical NeuronCores"
_DEADLOCK = 6  # category of errors


class _Abandoned(BaseException):
    """Ends the thread of a program whose launch has failed elsewhere."""


class _Wait:
    """What a program waits with: the other's must have the same key."""

    def __init__(self, what, key, data, action, place):
        self.what, self.key, self.data, self.action, self.place = what, key, data, action, place

    def __str__(self):
        return f"{self.what}{self.place}"


class Turns:
    """The programs of a launch grid of two. is_timed: each has a core of its own in any case. body(i) runs program i and gives what it returns."""

    def __init__(self, session, registers, body, is_timed=False):
        self.is_timed = is_timed  # programs that do not meet have a core each then, too
        self.session, self.registers, self.body = session, registers, body
        self.changed = threading.Condition()
        self.turn = 0
        self.waits, self.is_over = [None, None], [False, False]
        self.results, self.error = [None, None], None
        self.thread, self.threads = None, {threading.get_ident()}
        self.has_begun = False  # program 1 runs in that thread
        self.stops = []  # where they wait: _Run.stops

    def run(self):
        """What program 0 returns."""
        try:
            self.session.set_program(0)
            self.results[0] = self.body(0)
            self.is_over[0] = True
            if self.thread is None:  # they never met: one after the other
                tensor.set_launch(self.registers[1])
                self.session.set_program(1)
                if self.is_timed:
                    self.session.set_core(1)
                self.body(1)
                self.session.set_core(0)
            else:
                if self.waits[1]:
                    self._fail(f"core 1 waits in {self.waits[1]}, and core 0 is through")
                self._pass_turn(1)
                self._await(lambda: self.is_over[1])
        except BaseException:
            self._abandon()
            raise
        if self.thread:
            self.thread.join()
            if self.error:
                raise self.error
            self.session.set_core(0)
        return self.results[0]

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
            self._await(lambda: self.waits[me] is None and self.turn == me)
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

    def _pass_turn(self, to):
        with self.changed:
            self.turn = to
            self.changed.notify_all()

    def _run_other(self, other):
        if self.thread is None and other == 1:
            self.thread = threading.Thread(target=self._second, name="program 1", daemon=True)
            self.turn = 1
            self.thread.start()
        else:
            self._pass_turn(other)

    def _await(self, is_true):
        """Until is_true(); raises what ended the launch."""
        with self.changed:
            while not is_true() and self.error is None:
                self.changed.wait()
        if self.error is not None:
            raise self.error if threading.current_thread() is not self.thread else _Abandoned

    def _second(self):
        with self.changed:
            if self.error is not None:  # the launch was over before the thread was there
                return
            self.has_begun = True
        self.threads.add(threading.get_ident())
        try:
            self._resume(1)
            self.results[1] = self.body(1)
            self.is_over[1] = True
            if self.waits[0]:
                self._fail(f"core 0 waits in {self.waits[0]}, and core 1 is through")
        except _Abandoned:
            pass
        except BaseException as error:
            self.error = error
        self.is_over[1] = True
        self._pass_turn(0)

    def _abandon(self):
        """Program 0 has failed, or was interrupted wherever it was: program 1 ends, too."""
        if not self.thread:
            return
        with contextlib.suppress(RuntimeError):  # which says that it is free: an interrupt may have left it taken
            while True:
                self.changed.release()
        with self.changed:
            self.error = self.error or RuntimeError("the other program has failed")
            has_begun = self.has_begun
        if has_begun:
            self._pass_turn(1)
            self.thread.join()


def meet(what, key, data, action):
    turns = tensor.launch.turns
    if turns is None:
        raise NkiValidationError(f"{what}: it needs two programs, of a launch kernel[{N_CORES}]; this launch has "
                                 f"{tensor.launch.grid or 1}", 2)
    turns.meet(what, key, data, action)
