"""What the bytecode of a kernel says of its local names, and the values that its frame has for them."""

import contextlib
import ctypes
import inspect
import re
import sys

_ACCESS = re.compile("(LOAD|STORE)_(FAST|DEREF|NAME|GLOBAL)")
_WRITES_THROUGH = sys.version_info >= (3, 13)  # whether f_locals of a function is a view of its locals, not a copy


def accesses(instruction):
    """(LOAD or STORE, where: FAST, DEREF, NAME or GLOBAL, name) of each name that it reads or binds: up to two from Python 3.13 on."""
    if instruction.opname.endswith("AND_CLEAR"):  # saves the name that a comprehension's variable has outside
        return []
    names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    return [(*access, name) for access, name in zip(_ACCESS.findall(instruction.opname), names)]


@contextlib.contextmanager
def local_values(frame):
    """The locals of a frame by name, as a mapping; the frame takes over what the caller sets in it. Before Python 3.13 it is a copy,
    which is emptied in the end: the frame would keep it, and with it tiles that the kernel has no more, in SBUF."""
    found = frame.f_locals
    try:
        yield found
    finally:
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED and not _WRITES_THROUGH:
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
            found.clear()
