"""nl.ndarray: tensors on the virtual chip, and views of them."""

import enum
import math
import operator
import os
import warnings

import numpy as np

from vtrn.nki import dtypes, operators
from vtrn.nki._load import HBM, PSUM, SBUF, core
from vtrn.nki.errors import UNINITIALISED, UNSUPPORTED, NkiTypeError, NkiValidationError


class MemoryRegion(enum.Enum):
    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"

    def __eq__(self, other):
        return self is other or self.value == other or (other == "hbm" and self.value == "private_hbm")

    __hash__ = enum.Enum.__hash__


sbuf, psum, private_hbm, shared_hbm = MemoryRegion
hbm = private_hbm
for _region, _space in ((sbuf, SBUF), (psum, PSUM), (private_hbm, HBM), (shared_hbm, HBM)):
    _region.space = _space  # an attribute is found sooner than an entry by the hash of an Enum
LOCAL, ARGUMENT, CONSTANT = range(3)


def region_of(buffer):
    if isinstance(buffer, MemoryRegion):
        return buffer
    name = "private_hbm" if buffer == "hbm" else buffer
    try:
        return MemoryRegion(name)
    except ValueError:
        raise ValueError(f"buffer {buffer!r} is none of nl.sbuf, nl.psum, nl.hbm, nl.private_hbm, "
                         "nl.shared_hbm") from None


class Registers:
    """What a launch knows besides the chip: which program of its grid runs, what programs share."""

    def __init__(self, grid=(), program=(), shared=None):
        self.grid, self.program = grid, program
        self.shared, self.n_shared = shared, 0  # tensors of shared_hbm in the order in which a program makes them
        self.turns = None  # cores.Turns, where programs may meet
        self.is_recorded = False  # for a jitted function
        self.seeded = set()  # engines whose random generators the kernel has given a state
        self.begun = {}  # by engine: partitions whose registers of sums the kernel has set, a bit each
        self.has_values = True  # or instructions are recorded, and none runs
        self.identities = {}  # of shared_identity_matrix
        self.ones = {}  # by type: the row that the first generation spreads others with
        self.extremes = {}  # of activate2: the row of largest or smallest values that is kept
        self.prepared = None  # of nki.collectives: what waits for its trigger
        self.products = []  # of the first generation's matmuls, weak references: what has no tile yet
        self.loop_sums = {}  # of the first generation's loop_reduce, by where they are stored


register_loops = True  # `while register:` is of the version that is installed
launch = None  # Registers of the kernel that runs


def set_launch(registers):
    global launch
    before, launch = launch, registers
    return before


def session():
    found = core.current()
    if found is None:
        raise RuntimeError("no kernel is running: call this from a function that nki.jit wraps")
    return found


def blocks(shape, dtype, region, name, n_blocks, is_placed):
    """A tile whose partitions have rows of n_blocks equal parts, each of which may lie elsewhere, as in the first generation.
    is_placed: its place is the kernel's business, so that it stays in its memory."""
    return session().tensor(ndarray, shape, dtypes.code_of(dtype), region.space, LOCAL, None, None, region, name, n_blocks,
                            is_placed)


def _shared(cls, shape, code, name):
    """Programs of a grid make the same tensors of shared_hbm in the same order: they are one."""
    if launch.n_shared == len(launch.shared):
        made = session().tensor(cls, shape, code, HBM, LOCAL, None, None, shared_hbm, name)
        launch.shared.append(made)
    found = launch.shared[launch.n_shared]
    launch.n_shared += 1
    if found.shape != tuple(shape) or found._dtype != code:
        raise ValueError(f"program {launch.program} makes shared_hbm {tuple(shape)} where the first program made "
                         f"{found.shape}: programs of a grid make the same shared tensors in the same order")
    return found


class Outside:
    """What a view's scalar_offset says: a number that the dimension has not."""

    def __init__(self, index, dim, n):
        self.index, self.dim, self.n = index, dim, n

    def __str__(self):
        return f"scalar_offset is {self.index}, and dimension {self.dim} has {self.n}"


_NO_TRUTH = ("nl.equal(tile, 0) and its like give a tile of the answers, `tile is None` asks whether there is one; what a "
             "kernel branches on is a Python number or a register (nisa.register_load)")


def no_truth():
    """What a tile is refused with as a condition of Python."""
    return NkiTypeError(_placed(f"a tile has no truth for `if`, `while`, `and`, `or` and `not`: {_NO_TRUTH}"))


def _placed(text):
    place = core.place()
    return f"{text}\n  at {place}" if place else text


_code_of_known = dtypes.codes
_NUMBERS = int, float, complex, np.generic, np.ndarray


class ndarray(core.Tensor):
    """A tensor in SBUF, PSUM or HBM. nl.ndarray(...) makes one whose elements are undefined."""

    __slots__ = ()

    def __new__(cls, shape, dtype, buffer=sbuf, name="", address=None):
        region = buffer if type(buffer) is MemoryRegion else region_of(buffer)
        try:
            code = _code_of_known[dtype]
        except (KeyError, TypeError):
            code = dtypes.code_of(dtype)
        if region is shared_hbm and launch is not None:
            return _shared(cls, shape, code, name)
        if region is sbuf or region is psum:
            if len(shape) < 2:
                raise ValueError(f"shape {tuple(shape)}: a tile has a partition and a free dimension at least")
            if address is not None:
                if address[0]:
                    raise NotImplementedError(f"address={address}: tiles begin at partition 0")
                address = address[1]
        return (core.current() or session()).tensor(cls, shape, code, region.space, LOCAL, None, address, region, name)

    @property
    def data(self):
        """Itself, as the data of a grid of tiles is the tensor to compute with."""
        return self

    @property
    def _first_partition(self):
        """Of a view on chip, counted from its tile's first."""
        return self.offset * dtypes.numpy_of(self._dtype).itemsize // self._row_bytes

    # -- values

    @property
    def size(self):
        return math.prod(self.shape)

    def numpy(self):
        """The elements now; what nothing has written is arbitrary."""
        return self._array()[0]

    def _array(self):
        """The elements as an array, and how many of them nothing has written."""
        array = np.empty(self.shape, dtypes.numpy_of(self._dtype))
        return array, self._read_into(array.reshape(-1).view(np.uint8))

    def __array__(self, dtype=None, copy=None):
        a = self.numpy()
        return a if dtype is None else a.astype(dtype)

    def _compare(self, _):
        raise NkiTypeError(_placed(
            "a tile is not compared by Python: nl.greater(tile, 3) and its like give a tile of the answers; what a "
            "kernel branches on is a Python number, or a register (nisa.register_load)"))

    __array_ufunc__ = operators.array_ufunc
    __lt__ = __le__ = __gt__ = __ge__ = _compare
    __hash__ = core.Tensor.__hash__

    def __eq__(self, other):
        """Whether it is the same object, as `tensor == None` and `tensor in list` ask; its elements are not compared."""
        if isinstance(other, _NUMBERS) or hasattr(other, "is_comparison") or isinstance(other, VirtualRegister):
            raise NkiTypeError(_placed(
                f"a tile is not compared with {type(other).__name__} by Python, which would find it different whatever its "
                "elements are: nl.equal(tile, 0) and nl.not_equal give a tile of the answers; what a kernel branches on is "
                "a Python number or a register (nisa.register_load)"))
        if self._is_on_chip and isinstance(other, core.Tensor) and self is not other:
            warnings.warn("two tiles are compared by Python, which asks whether they are one object and not what they hold: "
                          "nl.equal(tile, other) gives a tile of the answers", stacklevel=2)
        return NotImplemented

    def __ne__(self, other):
        return NotImplemented if self.__eq__(other) is NotImplemented else True

    def __bool__(self):
        return self._is_given()

    def _is_given(self):
        """An optional tensor that was given is true, as nki-library's kernels ask. One element is more likely a value."""
        if self._is_on_chip:
            if self.size == 1:
                raise no_truth()
            warnings.warn(f"a tile as a condition is true, whatever its elements: {_NO_TRUTH}", stacklevel=3)
        return True

    def __repr__(self):
        head = f"{self.buffer.value}{list(self.shape)} {self.dtype}" + (f" {self.name!r}" if self.name else "")
        if launch is not None and not launch.has_values:
            return f"<{head}: no values, as JAX traces the kernel or only its time is computed>"
        try:
            data, n_unwritten = self._read()
        except RuntimeError:
            return f"<{head}: its kernel is over>"
        if n_unwritten:
            head += f", {n_unwritten} of {self.size} elements unwritten"
        if n_unwritten == self.size:
            return f"<{head}>"
        return f"<{head}>\n{np.frombuffer(data, dtypes.numpy_of(self._dtype)).reshape(self.shape)}"

    # -- views

    def is_contiguous(self):
        want = 1
        for n, step in list(zip(self.shape, self.strides))[:0 if self._is_on_chip else None:-1]:
            if n != 1 and step != want:
                return False
            want *= n
        return True

    def get_pattern(self):
        return [list(pair) for pair in zip(self.strides, self.shape)]

    def is_indirect(self):
        return self._indirect is not None

    def _derived(self, shape, strides, offset=None):
        out = self._view(shape, strides, self.offset if offset is None else offset, self._dtype)
        out._indirect = self._indirect
        return out

    def _keep_partitions(self, dim, what):
        if self._is_on_chip and dim == 0:
            raise ValueError(f"{what}: dimension 0 of a tile counts partitions and stays as it is")

    def permute(self, dims):
        dims = tuple(dims)
        if sorted(dims) != list(range(self.ndim)):
            raise ValueError(f"permute{dims}: not a permutation of {self.ndim} dimensions")
        if dims[0] != 0:
            self._keep_partitions(0, "permute")
        return self._derived([self.shape[d] for d in dims], [self.strides[d] for d in dims])

    def broadcast(self, dim, size):
        self._keep_partitions(dim, "broadcast")
        shape, strides = list(self.shape), list(self.strides)
        if shape[dim] != 1:
            raise ValueError(f"broadcast: dimension {dim} has {shape[dim]} elements, not 1")
        shape[dim], strides[dim] = size, 0
        return self._derived(shape, strides)

    def expand_dim(self, dim):
        self._keep_partitions(dim, "expand_dim")
        shape, strides = list(self.shape), list(self.strides)
        shape.insert(dim, 1)
        strides.insert(dim, 1)
        return self._derived(shape, strides)

    def squeeze_dim(self, dim):
        self._keep_partitions(dim, "squeeze_dim")
        shape, strides = list(self.shape), list(self.strides)
        if shape.pop(dim) != 1:
            raise ValueError(f"squeeze_dim: dimension {dim} has {self.shape[dim]} elements, not 1")
        strides.pop(dim)
        return self._derived(shape, strides)

    def reshape_dim(self, dim, shape):
        parts = list(shape)
        if -1 in parts:
            known = -math.prod(parts)
            parts[parts.index(-1)] = self.shape[dim] // known if known else 0
        if math.prod(parts) != self.shape[dim]:
            raise ValueError(f"reshape_dim: {tuple(shape)} for a dimension of {self.shape[dim]} elements")
        if len(parts) > 1:
            self._keep_partitions(dim, "reshape_dim")
        steps, step = [], self.strides[dim]
        for n in reversed(parts):
            steps.insert(0, step)
            step *= n
        return self._derived([*self.shape[:dim], *parts, *self.shape[dim + 1:]],
                             [*self.strides[:dim], *steps, *self.strides[dim + 1:]])

    def flatten_dims(self, start_dim, end_dim):
        self._keep_partitions(start_dim, "flatten_dims")
        for d in range(start_dim, end_dim):
            if self.strides[d] != self.strides[d + 1] * self.shape[d + 1]:
                raise ValueError(f"flatten_dims: dimensions {d} and {d + 1} are not contiguous")
        return self._derived([*self.shape[:start_dim], math.prod(self.shape[start_dim:end_dim + 1]),
                              *self.shape[end_dim + 1:]],
                             [*self.strides[:start_dim], self.strides[end_dim], *self.strides[end_dim + 1:]])

    def reshape(self, *shape):
        shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if -1 in shape:
            known = -math.prod(shape)
            shape = tuple(self.size // known if n == -1 else n for n in shape)
        if math.prod(shape) != self.size:
            raise ValueError(f"reshape: {shape} for {self.shape}, which has {self.size} elements")
        if self._is_on_chip and shape[0] != self.shape[0]:
            raise ValueError(f"reshape: {shape} for {self.shape}: a tile keeps its partitions")
        return self._derived(shape, _reshaped_steps(self.shape, self.strides, shape))

    def rearrange(self, pattern, **sizes):
        raise NotImplementedError("rearrange: use reshape_dim and permute")

    def slice(self, dim, start, end, step=1):
        return self[(slice(None),) * dim + (slice(start, end, step),)]

    def select(self, dim, index):
        self._keep_partitions(dim, "select")
        i = self._index("select: index", index)
        if not 0 <= i < self.shape[dim]:
            raise IndexError(_placed(f"select: index {i} of dimension {dim} of a tensor in {self.buffer.value} of shape "
                                     f"{self.shape}, which has {self.shape[dim]} elements there"))
        return self._derived([*self.shape[:dim], *self.shape[dim + 1:]], [*self.strides[:dim], *self.strides[dim + 1:]],
                             self.offset + i * self.strides[dim])

    def _index(self, what, index):
        """The int that a number, a register, a scalar or a tensor of one element is."""
        if isinstance(index, ndarray):
            return read_number(what, index)
        if getattr(index, "dtype", None) == "int64" and self._is_on_chip and not isinstance(index, np.integer):
            raise TypeError(f"{what} is int64; in SBUF and PSUM it has 32 bits")
        return index.value if hasattr(index, "is_comparison") else int(index)

    def vector_select(self, dim, vector_offset):
        if dim != 0 or self._is_on_chip or self._indirect is not None:
            raise ValueError("vector_select: dimension 0 of a plain tensor in HBM")
        out = self._derived([vector_offset.shape[0], *self.shape[1:]], self.strides)
        out._indirect = (vector_offset, self.shape[0])
        return out

    def ap(self, pattern, offset=None, scalar_offset=None, vector_offset=None, indirect_dim=0, dtype=None):
        """A pattern of [step, number] pairs, in elements of dtype, outermost first."""
        code = self._dtype if dtype is None else dtypes.code_of(dtype)
        ratio = dtypes.numpy_of(self._dtype).itemsize / dtypes.numpy_of(code).itemsize
        at = int(self.offset * ratio) + (offset or 0)
        shape, strides = [n for _, n in pattern], [step for step, _ in pattern]
        if self._is_on_chip and strides[0] == math.prod(self.shape[1:]) * ratio and strides[0] != self.strides[0] * ratio:
            # The pattern of someone who takes a view for a dense tile, as nki-library does: the next partition is meant.
            if strides[0] * dtypes.numpy_of(code).itemsize % self._row_bytes:
                strides[0] = int(self.strides[0] * ratio)
        outside = None
        if scalar_offset is not None:
            if vector_offset is not None:
                raise ValueError("ap: scalar_offset and vector_offset exclude each other")
            index = self._index("scalar_offset", scalar_offset)
            at += index * math.prod(self.shape[indirect_dim + 1:])
            if not 0 <= index < self.shape[indirect_dim] and not self._is_on_chip:
                outside = Outside(index, indirect_dim, self.shape[indirect_dim])
        if vector_offset is not None:
            if indirect_dim != 0 or self._is_on_chip:
                raise ValueError("ap: vector_offset is for dimension 0 of a tensor in HBM")
            strides[0] = math.prod(self.shape[1:])
        out = self._view(shape, strides, at, code)
        if vector_offset is not None:  # rows that are left from the offset on
            out._indirect = (vector_offset, self.shape[0] - (offset or 0) // max(1, strides[0]))
        elif outside and not out._is_inside():
            out._indirect = outside
        return out

    def _is_inside(self):
        """Whether all elements are of the tensor, which is in HBM."""
        reach = [(n - 1) * step for n, step in zip(self.shape, self.strides)]
        low, high = (self.offset + sum(r for r in reach if sign * r > 0) for sign in (-1, 1))
        return low >= 0 and high < self._row_bytes // self.dtype.itemsize

    def view(self, dtype):
        code = dtypes.code_of(dtype)
        old, new = dtypes.numpy_of(self._dtype).itemsize, dtypes.numpy_of(code).itemsize
        if self.strides[-1] != 1 and self.shape[-1] != 1 and old != new:
            raise ValueError("view: the last dimension is not contiguous")
        if self.shape[-1] * old % new or any(s * old % new for s in self.strides[:-1]) or self.offset * old % new:
            raise ValueError(f"view: {self.shape} {self.dtype} does not divide into {dtype}")
        shape = [*self.shape[:-1], self.shape[-1] * old // new]
        strides = [*(s * old // new for s in self.strides[:-1]), 1 if old != new else self.strides[-1]]
        return self._view(shape, strides, self.offset * old // new, code)

    reinterpret_cast = view

    def rearrange(self, src_pattern, dst_pattern, fixed_sizes=None):
        """Splits, orders and merges dimensions by name: (("b", ("h", "w")), ("b", "w", "h"), {"h": 4})."""
        sizes = dict(fixed_sizes or {})
        if len(src_pattern) != self.ndim:
            raise ValueError(f"rearrange: {src_pattern} for a tensor of {self.ndim} dimensions")
        found = self
        for d in reversed(range(self.ndim)):
            names = src_pattern[d]
            if isinstance(names, str):
                sizes.setdefault(names, self.shape[d])
                if sizes[names] != self.shape[d]:
                    raise ValueError(f"rearrange: {names} is {sizes[names]}, and dimension {d} has {self.shape[d]} elements")
            else:
                found = found.reshape_dim(d, [sizes.get(n, -1) for n in names])
        names = [n for group in src_pattern for n in ((group,) if isinstance(group, str) else group)]
        wanted = [n for group in dst_pattern for n in ((group,) if isinstance(group, str) else group)]
        if sorted(names) != sorted(wanted) or len(set(names)) != len(names):
            raise ValueError(f"rearrange: {src_pattern} and {dst_pattern} name the same dimensions, each once")
        found = found.permute([names.index(n) for n in wanted])
        at = 0
        for group in dst_pattern:
            if not isinstance(group, str):
                found = found.flatten_dims(at, at + len(group) - 1)
            at += 1
        return found

    def indirect(self, index, num_elem=None):
        gen = session().chip()["gen"]
        has = "is NeuronCore-v4's" if gen < 4 else "of NeuronCore-v4 is not there yet"
        raise NotImplementedError(_placed(f"indirect: tensor indirection {has}{f', and this is v{gen}' if gen < 4 else ''}; "
                                          "nisa.local_gather and nc_n_gather gather by free-dimension offsets, and what they "
                                          "gave is an operand"))


operators.refuse(ndarray, "the tensors of NKI from 0.2 on have no operators of Python", operators.OF_TILES)


def _reshaped_steps(old_shape, old_steps, shape):
    """Steps of the new shape over the same elements; ValueError when no steps give them."""
    runs = []  # merged dimensions of the old shape: [number, step]
    for n, step in zip(old_shape, old_steps):
        if n == 1:
            continue
        if runs and runs[-1][1] == step * n:
            runs[-1] = [runs[-1][0] * n, step]
        else:
            runs.append([n, step])
    steps, i, done = [], len(runs) - 1, 1  # from the inside: `done` elements of run i are used
    for n in reversed(shape):
        if n == 1:
            steps.append(1)
            continue
        if i >= 0 and done == runs[i][0]:
            i, done = i - 1, 1
        if i < 0 or runs[i][0] % (done * n):
            raise ValueError(f"reshape: no view of {tuple(old_shape)} with steps {tuple(old_steps)} has shape {shape}")
        steps.append(runs[i][1] * done)
        done *= n
    return steps[::-1]


def spread(x, shape):
    """A view of x whose free dimensions of 1 are repeated."""
    for d, n in enumerate(shape):
        if d and x.shape[d] == 1 and n != 1:
            x = x.broadcast(d, n)
    return x


def common_shape(what, *tiles):
    """The shape to which the tiles' free dimensions of 1 are repeated."""
    shape = tuple(max(x.shape[d] for x in tiles) for d in range(tiles[0].ndim)) if len({x.ndim for x in tiles}) == 1 else ()
    if any(n not in (m, 1 if d else m) for x in tiles for d, (n, m) in enumerate(zip(x.shape, shape))) or not shape:
        raise NkiValidationError(_placed(
            f"{what}: tiles of shapes {' and '.join(str(x.shape) for x in tiles)}: they have as many dimensions and partitions, and "
            "a free dimension of 1, as of a column [P, 1], is repeated; nl.broadcast_to copies one to others' partitions"))
    return shape


def axes_of(what, x, axis):
    """The axes of a reduction, counted from 0, ascending."""
    n = len(x.shape)
    try:
        axes = [operator.index(axis)] if not isinstance(axis, (list, tuple)) else [operator.index(a) for a in axis]
    except TypeError:
        raise TypeError(f"{what}: axis={axis!r}; it is an integer or several") from None
    found = sorted(a + n if a < 0 else a for a in axes)
    if not found or found[0] < 0 or found[-1] >= n or len(set(found)) < len(found):
        raise ValueError(f"{what}: axis={axis} of a tile of shape {tuple(x.shape)}; its axes are 0 to {n - 1}, each at most once")
    return found


def read_number(what, tile):
    """The int in a tensor of one element, by which a kernel loops or addresses."""
    if launch is not None and not launch.has_values:
        raise NkiValidationError(_placed(
            f"{what}: a value is looked at where there is none: JAX traces the kernel, or only its time is computed, and the number in "
            f"{operators.text_of(tile)} says what is done; give it to the kernel as a number of Python, or call the kernel by itself"), UNSUPPORTED)
    array, n_unwritten = tile._array()
    if array.size != 1:
        raise ValueError(f"{what} has shape {tile.shape}; it is one element")
    if n_unwritten:
        policy = os.environ.get("VTRN_NKI_UNINITIALISED", "error")
        if policy == "error":
            raise NkiValidationError(f"{what}: nothing has written {tile!r}, and its value decides what is done; write it "
                                     "before", UNINITIALISED)
        return 0 if policy == "zero" else 4
    return int(array.reshape(()))


class VirtualRegister:
    """A register of an engine: its value is known at once, as the kernel executes while it is written."""

    def __init__(self, value=0):
        self.value = int(value)

    def __index__(self):
        return self.value

    def __int__(self):
        return self.value

    def __bool__(self):
        if not register_loops:
            raise TypeError("a register has no truth while a kernel is traced, from NKI 0.7 on: use nl.while_loop")
        return self.value != 0

    def __repr__(self):
        return f"<register {self.value}>"


def subscript(tensor, key):
    """A subscript that is not made of integers, slices and ... alone: called by the extension."""
    if tensor._indirect is not None:
        raise IndexError("a view with indirect addressing is not indexed further; index first")
    items, plain = key if isinstance(key, tuple) else (key,), []
    for item in items:
        if isinstance(item, (slice, int)) or item is Ellipsis:
            plain.append(item)
        elif hasattr(item, "__index__"):
            plain.append(item.__index__())
        else:
            raise TypeError(f"subscript {item!r} of a tensor: integers, slices, nl.ds and ... are taken")
    return tensor[tuple(plain)]
