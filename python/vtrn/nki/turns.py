"""Threads that take turns: one of them runs at any time, and the first error ends them all."""

import contextlib
import threading


class Abandoned(BaseException):
    """Ends a thread of turns that an error, elsewhere, has ended."""

    def __init__(self, turns):
        super().__init__()
        self.turns = turns


_NOBODYS = object()


class Turns:
    """The caller's thread is one of them; a turn is whatever is equal to itself."""

    def __init__(self, caller):
        self.changed = threading.Condition()
        self.caller = self.turn = caller
        self.ending = _NOBODYS  # the turn of the thread that is to end now
        self.error = None
        self._begun = {}  # by turn: threads

    def start(self, turn, body, name):
        """A thread for body(), which waits for its turn, and gives it to the caller when it is through."""
        threading.Thread(target=self._run, args=(turn, body), name=name, daemon=True).start()

    def _run(self, turn, body):
        with self.changed:
            if self.error is not None:  # all was over before the thread was there
                return
            self._begun[turn] = threading.current_thread()
        try:
            self.await_turn(turn)
            body()
        except BaseException as error:  # such as one that ends other turns, of which the caller is a thread
            if not isinstance(error, Abandoned) or error.turns is not self:
                self.error = self.error or error
        self.pass_turn(self.caller)

    def pass_turn(self, to):
        with self.changed:
            self.turn = to
            self.changed.notify_all()

    def await_turn(self, turn):
        """Raises what has ended the turns."""
        with self.changed:
            while self.turn != turn and self.ending != turn:
                self.changed.wait()
        if self.error is not None:
            raise self.error if turn == self.caller else Abandoned(self)

    def join(self):
        """When all threads are through."""
        for thread in list(self._begun.values()):
            thread.join()

    def end(self, error):
        """By the caller, which has failed or was interrupted wherever it was: ends the threads, that which runs first."""
        with contextlib.suppress(RuntimeError):  # which says that it is free: an interrupt may have left it taken
            while True:
                self.changed.release()
        with self.changed:
            self.error = self.error or error
            begun = sorted(self._begun.items(), key=lambda x: x[0] != self.turn)
        for turn, thread in begun:
            with self.changed:
                self.ending = turn
                self.changed.notify_all()
            thread.join()
