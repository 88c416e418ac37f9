"""A process that judges programs: requests are pickled on stdin, answers on stdout."""

import os
import pickle
import sys
import traceback


def main():
    requests = sys.stdin.buffer
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from .execute import Machine, types_of
    from .outcome import Outcome

    machine = Machine()
    while True:
        try:
            request, program = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = types_of(program) if request == "types" else machine.judge(program)
        except Exception:
            answer = Outcome("invalid", traceback.format_exc(limit=-6))
        pickle.dump(answer, answers)
        answers.flush()


main()
