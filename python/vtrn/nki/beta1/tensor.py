"""Tensors of NKI's first generation: block dimensions, index expressions as subscripts, operators. Each is a view of
a tensor of vtrn.nki whose partition dimension may stand anywhere."""

import itertools
import math
import weakref

import numpy as np

from vtrn.nki import dtypes, isa, language as nl, operators, tensor
from vtrn.nki.beta1 import dynamic
from vtrn.nki.beta1.index import Index, Mask, _Grid, broadcast, mask_of
from vtrn.nki.beta1.reach import Reach, beyond_text
from vtrn.nki.errors import NkiValidationError


class par_dim(int):
    """Marks the partition dimension of a shape."""


class Tensor:
    """base: the elements, dimensions in the kernel's order. par: number of its partition dimension; HBM: None.
    indirect: (tile of row numbers, number of rows) where they choose dimension 0. beyond: index expressions that leave
    their dimension, which a mask may bring back before the elements are read. kept: of the result of a masked operation,
    the boxes that it has; stored in a part of a tensor, it leaves the other elements there as they are. None: all. kept_at:
    instructions that wrote to it when it had no others.
    is_dynamic: a number in a tile says where it is. is_element: integers named it, as x[0, 0]."""

    __slots__ = ("base", "par", "indirect", "beyond", "kept", "kept_at", "is_dynamic", "is_element")
    __hash__ = object.__hash__
    __array_ufunc__ = operators.array_ufunc
    is_later = False  # whether it becomes a tile when it is read (later.py)

    def __init__(self, base, par=None, indirect=None):
        self.base, self.indirect, self.beyond, self.kept = base, indirect, (), None
        self.is_dynamic = self.is_element = False
        self.par = par if par is not None or not base._is_on_chip else 0

    shape = property(lambda self: self.base.shape)
    dtype = property(lambda self: self.base.dtype)
    buffer = property(lambda self: self.base.buffer)
    ndim = property(lambda self: self.base.ndim)
    size = property(lambda self: math.prod(self.base.shape))
    itemsize = property(lambda self: dtypes.numpy_of(self.base._dtype).itemsize)

    def raw(self):
        """As instructions take it: partitions first. An instruction may write to it, so products of it become tiles before."""
        if tensor.launch.products:
            finish_products(self.base._storage_id)
        return self.raw_as_it_is()

    def raw_as_it_is(self):
        self.check_inside()
        if self.is_dynamic:
            raise NkiValidationError(tensor._placed(
                "a tile whose subscript has a number from a tile: nisa.tensor_copy_dynamic_src reads such a one and "
                "nisa.tensor_copy_dynamic_dst writes it, other instructions take places that the compiler knows"))
        v, order = self.base, None
        if self.par:
            order = [self.par, *(d for d in range(v.ndim) if d != self.par)]
            v = v._view([v.shape[d] for d in order], [v.strides[d] for d in order], v.offset, v._dtype)
        if v._is_on_chip and v.ndim == 1:
            v = v._view([v.shape[0], 1], [v.strides[0], 1], v.offset, v._dtype)
        if self.indirect is not None:
            v = v._view(v.shape, v.strides, v.offset, v._dtype)
            v._indirect = self.indirect
        return v

    def numpy(self):
        return self.base.numpy()

    def __array__(self, dtype=None, copy=None):
        return self.base.__array__(dtype)

    def __bool__(self):
        return self.base._is_given()

    def __repr__(self):
        return repr(self.base)

    # -- parts

    def check_inside(self):
        """Elements beyond a dimension are those of another row, or none: which nobody meant."""
        for reach in self.beyond:
            raise NkiValidationError(tensor._placed(reach.text()))

    def part(self, shape, strides, offset, par):
        found = Tensor(self.base._view(shape, strides, offset, self.base._dtype), par)
        found.is_dynamic = self.is_dynamic
        return found

    def __getitem__(self, key):
        if key is Ellipsis:
            return Tensor(self.base, self.par).keep(self.kept_now())
        if isinstance(key, (Mask, bool, np.bool_)):  # of loops' variables alone: a truth of Python
            from vtrn.nki.beta1 import later

            return later.Masked.of(self, mask_of(key))
        self.check_inside()
        key = tuple(key) if isinstance(key, (tuple, _Grid)) else (key,)
        n = sum(k is not None for k in key if k is not Ellipsis)
        if any(k is Ellipsis for k in key):
            at = next(i for i, k in enumerate(key) if k is Ellipsis)
            key = (*key[:at], *[slice(None)] * (self.ndim - n), *key[at + 1:])
        else:
            key = (*key, *[slice(None)] * (self.ndim - n))
        if len([k for k in key if k is not None]) != self.ndim:
            raise IndexError(f"{len(key)} subscripts of a tensor of {self.ndim} dimensions")
        if self.par is None:
            return self._of_numbers(key) if any(isinstance(k, Tensor) and k.is_element for k in key) else self._select(key)
        if not any(map(_is_dynamic, key)):
            return self._select(key)
        if _is_dynamic([k for k in key if k is not None][self.par]):
            raise NkiValidationError(tensor._placed(f"a subscript of dimension {self.par}, which counts partitions, has a number from "
                                                    "a tile; dynamic offsets are those of free dimensions"))
        found = self._select(tuple(dynamic.Dynamic(k, 0).subscript() if isinstance(k, Tensor) else k.subscript()
                                   if isinstance(k, dynamic.Dynamic) else k for k in key))
        found.is_dynamic = True
        return found

    def _of_numbers(self, key):
        """A part of a tensor in HBM by elements of tiles, as x[i[0, 0]]: a number, where a tile has rows to gather."""
        if _gathers_a_row(key):
            return self._select(key)
        given, outside, d = [], None, 0
        for k in key:
            if isinstance(k, Tensor) and k.is_element:
                k, n = k.base._index("a subscript", k.base), self.shape[d]
                outside = outside if 0 <= k < n else tensor.Outside(k, d, n)
                k = min(max(k, 0), n - 1)
            given.append(k)
            d += k is not None
        part = self._select(tuple(given))
        part.indirect = part.indirect if outside is None else outside
        return part

    def one_a_partition(self):
        """The first of each partition's elements where all are that one, as those that an index expression over rows and columns
        names, i of nl.mgrid."""
        if self.par is None or any(step and n > 1 for d, (n, step) in enumerate(zip(self.shape, self.base.strides)) if d != self.par):
            return self
        return self.box_part([(0, n if d == self.par else 1) for d, n in enumerate(self.shape)])

    def settled(self):
        """The same place, for an instruction that takes one by a number in a tile."""
        found = self.part(self.shape, self.base.strides, self.base.offset, self.par)
        found.beyond, found.is_dynamic = self.beyond, False
        return found

    def _select(self, key):
        """Integers drop a dimension, slices keep it, index expressions together make dimensions of their own."""
        found = [k for k in key if isinstance(k, Index)]
        sizes = broadcast(*found)[::-1] if found else ()
        shape, strides, offset, d = [], [], self.base.offset, 0
        axes = None  # where the dimensions of index expressions begin
        owner = None  # dimension that counts partitions
        indirect, is_par_dropped, reaches, floors, sliced = None, False, [], {}, []
        n_before = 0  # dimensions that are put in front of those
        for k in key:
            if k is None:
                shape.append(1), strides.append(1)
                continue
            n, s = self.shape[d], self.base.strides[d]
            if isinstance(k, Index):
                if axes is None:
                    axes = len(shape)
                    shape += sizes
                    strides += [0] * len(sizes)
                offset += k.const * s
                if k.floors:
                    self._check_quotients(k, d)
                    for f, factor in k.floors.items():
                        floors[f] = floors.get(f, 0) + factor * s
                else:
                    reaches.append((k, d, n))
                for a, step in k.step.items():
                    strides[axes + len(sizes) - 1 - a] += step * s
                    if d == self.par and step and sizes[len(sizes) - 1 - a] > 1:
                        owner = axes + len(sizes) - 1 - a if owner is None else owner
                is_par_dropped |= d == self.par and owner is None
            elif isinstance(k, slice):
                start, stop, step = self._range(k, n)
                if stop > n:
                    sliced.append((Index(start, {0: step}, ()), len(shape), d, n))
                if d == self.par:
                    owner = len(shape)
                shape.append(len(range(start, stop, step))), strides.append(s * step)
                offset += start * s
            elif isinstance(k, Tensor):
                indirect = (k.one_a_partition().raw() if found else k.raw(), n)
                if self.par is not None or not all(hasattr(before, "__index__") for before in key[:d]):
                    raise NotImplementedError("row numbers from a tile choose a dimension of a tensor in HBM that has integers alone "
                                              "in front of it")
                if axes is None and not found:
                    shape.append(k.shape[0]), strides.append(s)
                else:
                    axes, row_step = len(shape), s
                    shape += sizes
                    strides += [0] * len(sizes)
                    shape[axes], strides[axes] = k.shape[0], row_step
            else:
                i = k.__index__()
                if not -n <= i < n:  # a mask of loops' variables may leave out what names it
                    reaches.append((Index(i, {}, ()), d, n))
                offset += (i + n if i < 0 else i) * s
                is_par_dropped |= d == self.par
            d += 1
        for k in found:
            if any(floors.get(f) for f in k.floors):  # what quotient and remainder add to the address is no number of equal steps
                k.affine()
        if self.par is not None and owner is None:
            is_par_dropped = True
        if is_par_dropped and owner is None:  # one partition: a dimension of 1 counts it
            if shape and shape[0] == 1:
                strides[0], owner = 1, 0
            else:
                shape, strides, owner, n_before = [1, *shape], [1, *strides], 0, 1
                axes = None if axes is None else axes + 1
        if self.par is not None and len(shape) == 1:
            shape, strides = [*shape, 1], [*strides, 1]
        if self.par is None and not shape:
            shape, strides = [1], [1]
        part = self.part(shape, strides, offset, owner)
        part.indirect, part.is_element = indirect, all(hasattr(k, "__index__") for k in key)
        for k, d, n in reaches:
            step = {axes + len(sizes) - 1 - a: s for a, s in k.step.items() if s}
            part.keep_beyond(Reach(k.const, step, shape, (self, d, n)))
        for k, at, d, n in sliced:
            part.keep_beyond(Reach(k.const, {at + n_before: k.step[0]}, shape, (self, d, n)))
        return part

    def _check_quotients(self, k, d):
        """Subscripts by // and % stay in their dimension: masks do not bring them back."""
        low, high = k.bounds()
        if low < 0 or high >= self.shape[d]:
            raise NkiValidationError(tensor._placed(beyond_text(self, d, low, high)))

    def keep_beyond(self, *reaches):
        self.beyond = (*self.beyond, *(r for r in reaches if r.is_beyond()))

    @staticmethod
    def _range(k, n):
        start = 0 if k.start is None else k.start.__index__()
        stop = n if k.stop is None else k.stop.__index__()
        if start < 0 or stop < 0:
            start, stop, _ = slice(start, stop).indices(n)
        return start, stop, k.step or 1

    def keep(self, boxes):
        """Itself, which has the elements of boxes alone; None: all."""
        self.kept = boxes
        if boxes is not None and not self.is_later:
            self.kept_at = self.base._n_writes
        return self

    def kept_now(self):
        """The boxes; None where something has written others since."""
        if self.kept is None or self.is_later or self.kept_at == self.base._n_writes:
            return self.kept
        written = self.base._written() if self.base._n_writes else b""  # None: all
        n = self.size if written is None else sum(written)
        return self.keep(self.kept if n <= sum(math.prod(hi - lo for lo, hi in box) for box in self.kept) else None).kept

    def boxed(self, mask):
        """The part for which the mask holds; None: nowhere."""
        if mask is None:
            return self
        box = mask.box(self.shape, self.par or 0)
        if any(lo >= hi for lo, hi in box):
            return None
        return self.box_part(box)

    def box_part(self, box):
        """The elements of (start, stop) by dimension."""
        has_rows = isinstance(self.indirect, tuple)
        steps = (0, *self.base.strides[1:]) if has_rows else self.base.strides  # rows are where their numbers say
        offset = self.base.offset + sum(lo * s for (lo, _), s in zip(box, steps))
        part = self.part([hi - lo for lo, hi in box], self.base.strides, offset, self.par)
        if has_rows:
            tile, n = self.indirect
            part.indirect = (tile[box[0][0]:box[0][1]], n)
        else:
            part.indirect = self.indirect
        part.keep_beyond(*(r.boxed(box) for r in self.beyond))
        return part

    def __setitem__(self, key, value):
        target = self[key]
        if type(value) is Tensor and value.par == target.par and isa._is_same_view(value.base, target.base):
            return  # of target += ..., which has stored it
        assign(target, value)

    def reshape(self, *sizes, shape=None):
        self.check_inside()
        shape = sizes if shape is None else (shape,)
        shape = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return Tensor(self.base.reshape(shape), self.par)

    def view(self, dtype):
        self.check_inside()
        return Tensor(self.base.view(dtype), self.par)

    def broadcast_to(self, shape):
        return broadcast_view(self, shape)

    def expand_dims(self, axis):
        if isinstance(axis, (list, tuple)):  # places in the result, as of np.expand_dims
            n, found = self.ndim + len(axis), self
            for a in sorted(a + n if a < 0 else a for a in axis):
                found = found.expand_dims(a)
            return found
        shape, strides = list(self.shape), list(self.base.strides)
        axis = axis + len(shape) + 1 if axis < 0 else axis
        shape.insert(axis, 1), strides.insert(axis, 1)
        par = None if self.par is None else self.par + (axis <= self.par)
        part = self.part(shape, strides, self.base.offset, par)
        part.beyond = tuple(r.expanded(axis) for r in self.beyond)
        return part

    def astype(self, dtype):
        return binary_free_copy(self, dtype)

    def stores_itself(self, target):
        """Whether the instruction that makes it wrote to the target; else it is moved there as a tile is."""
        return False

    def adds_itself(self, target):
        """Whether the instruction that makes it added to the target."""
        return False

    # -- operators

    def __iadd__(self, other):
        _check_operand("add", self, other)
        accumulate(self, other)
        return self

    def __neg__(self):
        from vtrn.nki.beta1 import language

        return language.negative(self)

    def __pos__(self):
        return self


def _gathers_a_row(key):
    """Whether the element of a tile in a subscript is one row number, as in x[i[0, 0], j] of a row j: a row to gather."""
    found = [k for k in key if isinstance(k, Index)]
    first = next(k for k in key if not hasattr(k, "__index__"))
    if not isinstance(first, Tensor) or any(isinstance(k, Tensor) and k is not first for k in key):
        return False
    return bool(found) and first.is_element and (broadcast(*found)[-1] == 1 or max(k.ndim for k in found) < 2)


def _is_dynamic(k):
    return isinstance(k, dynamic.Dynamic) or (isinstance(k, Tensor) and k.size == 1)


def _check_operand(name, x, y):
    """One of the two is a tile, and the other is one, an array or a number."""
    for z in (x, y):
        if isinstance(z, (Tensor, np.ndarray)) or operators.is_number(z):
            continue
        remedy = ("nisa.iota(expression, dtype) gives the numbers of an index expression as a tile" if isinstance(z, Index) else
                  "an operation takes a mask as mask=, and nl.less(x, y) and its like give a tile of answers"
                  if isinstance(z, Mask) else "load what is not yet a tile (nl.load)")
        raise operators.refusal(f"{operators.expression(name, x, y)}: a tile takes a tile or a number; {remedy}")


def _operator(name, swap=False):
    def call(self, other):
        from vtrn.nki.beta1 import language

        if other is None and name in ("eq", "ne"):  # an optional tensor that was given
            return name == "ne"
        if not (swap and name == "sub") and (place := dynamic.of(name, self, other)) is not None:
            return place
        x, y = (other, self) if swap else (self, other)
        _check_operand(name, x, y)
        found = getattr(language, _FUNCTIONS[name])(x, y)
        return Answers(found.base, found.par) if name in _COMPARISONS else found

    return call


def _in_place(name):
    """x -= y changes x, and what else names it, as NumPy's arrays do."""
    def call(self, other):
        from vtrn.nki.beta1 import language

        _check_operand(name, self, other)
        if isinstance(other, (Tensor, np.ndarray)) and np.broadcast_shapes(self.shape, other.shape) != self.shape:
            raise operators.refusal(f"{operators.text_of(self)} {operators.SIGN_OF[name]}= {operators.text_of(other)}: the "
                                    f"result has shape {np.broadcast_shapes(self.shape, other.shape)}, and is stored in the "
                                    "first; give it a name of its own")
        language.update(_FUNCTIONS[name], self, other)
        return self

    return call


def _unary_operator(name):
    def call(self):
        from vtrn.nki.beta1 import language

        return getattr(language, name)(self)

    return call


_COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal"}
_FUNCTIONS = {**operators.FUNCTION_OF, **_COMPARISONS}


class Answers(Tensor):
    """What a comparison of tiles gives: no condition of Python."""

    __slots__ = ()

    def __bool__(self):
        raise tensor.no_truth()


for _name in _FUNCTIONS:
    setattr(Tensor, f"__{_name}__", _operator(_name))
    if _name not in _COMPARISONS:
        setattr(Tensor, f"__r{_name}__", _operator(_name, True))
        if _name != "add":
            setattr(Tensor, f"__i{_name}__", _in_place(_name))
Tensor.__abs__, Tensor.__invert__ = _unary_operator("abs"), _unary_operator("invert")
operators.refuse(Tensor, "NKI has no such operation", operators.OF_TILES)


class Turned(Tensor):
    """What nc_transpose by Tensor returns, in PSUM: no tile that the kernel declared, so that the compiler may copy it."""

    __slots__ = ("copy",)

    def in_sbuf(self):
        if not hasattr(self, "copy"):
            self.copy = binary_free_copy(self, self.dtype)
        return self.copy


def read_by_tensor(what, name, x):
    """The tile as the Tensor engine reads it: in SBUF alone; the vendor's compiler copies what has no place of its own, as its
    flash attention's backward pass has it. Source: neuronxcc.nki.isa.nc_matmul, "must read inputs from SBUF", and its error
    err_unsupported_memory."""
    if isinstance(x, Turned):
        return x.in_sbuf()
    check_read_by_tensor(what, name, x)
    return x


def check_read_by_tensor(what, name, x):
    if isinstance(x, Tensor) and x.buffer is not tensor.sbuf:
        remedy = "copy it there before (nl.copy(x), nisa.tensor_copy(x))" if x.base._is_psum else "load it before (nl.load(x))"
        raise NkiValidationError(tensor._placed(f"{what}: {name} {operators.text_of(x)} is in {x.buffer.value}, and the Tensor engine "
                                                f"reads SBUF; {remedy}"))


def finish_products(storage_id):
    """Makes a tile of each matmul and load of the storage that is neither a tile yet nor stored: an instruction is about to name
    the storage, and may write to it."""
    waiting = [p for p in (ref() for ref in tensor.launch.products) if p is not None and p.made is None and p.writes_before is None]
    for product in waiting:
        if storage_id in product.storages():
            product.base  # noqa: B018
    tensor.launch.products = [weakref.ref(p) for p in waiting if p.made is None]


def like(shape, dtype, par=0, buffer=tensor.sbuf):
    """A new tile of that shape."""
    return make(tuple(par_dim(n) if d == par else n for d, n in enumerate(shape)), dtype, buffer)


_BANK_BYTES = 2048


def make(shape, dtype, buffer, name="", is_placed=False):
    """is_placed: the kernel gives its place by hand."""
    marked = [d for d, n in enumerate(shape) if isinstance(n, par_dim)]
    shape = tuple(int(n) for n in shape)
    region = tensor.region_of(buffer)
    if region not in (tensor.sbuf, tensor.psum):
        return Tensor(tensor.ndarray(shape, dtype, region, name))
    par = marked[0] if marked else 0
    blocks, free = shape[:par], shape[par + 1:] or (1,)
    row = math.prod(free)
    size = dtypes.numpy_of(dtypes.code_of(dtype)).itemsize
    if region is tensor.psum and blocks:  # each block from the start of a bank
        row = -(-row * size // _BANK_BYTES) * _BANK_BYTES // size
    base = tensor.blocks((shape[par], math.prod(blocks) * row), dtype, region, name, math.prod(blocks), is_placed)
    strides, step = [], 1
    for n in reversed(free):
        strides.insert(0, step)
        step *= n
    strides.insert(0, base.strides[0])
    step = row
    for n in reversed(blocks):
        strides.insert(0, step)
        step *= n
    return Tensor(base._view((*shape[:par + 1], *free), strides, base.offset, base._dtype), par)


def broadcast_view(x, shape):
    """Dimensions of 1 grow with step 0; where partitions grow the row is spread over them."""
    shape, given = tuple(int(n) for n in shape), x.shape
    while x.ndim < len(shape):
        x = x.expand_dims(0) if x.par is None else x.expand_dims(x.par + 1)
    if x.shape == shape:
        return x
    if x.ndim != len(shape) or any(n not in (1, m) for n, m in zip(x.shape, shape)):
        raise NkiValidationError(tensor._placed(
            f"a tile of shape {tuple(given)} where one of shape {shape} is wanted: dimensions of 1 are repeated, and those that it lacks "
            "are behind its partitions; reshape it, or give a part of the other"))
    strides = [0 if n != m else s for n, m, s in zip(x.shape, shape, x.base.strides)]
    if x.par is not None and x.shape[x.par] != shape[x.par]:
        source = x if not x.base._is_psum else binary_free_copy(x, x.dtype)
        spread = like(shape, x.dtype, x.par)
        if _is_row_for_tensor(source, shape):
            x.check_inside()
            _spread_by_tensor(spread.raw(), source.raw())
            return spread
        view = source.base._view(shape, strides, source.base.offset, source.base._dtype)
        x.check_inside()
        isa.dma_copy(spread.raw(), Tensor(view, x.par).raw())
        return spread
    part = x.part(shape, strides, x.base.offset, x.par)
    part.beyond = x.beyond
    return part


_SPREAD_EXACTLY = {dtypes.code_of(np.float32), dtypes.code_of(np.float16), dtypes.code_of(dtypes.bfloat16)}


def _is_row_for_tensor(x, shape):
    return (x.par == 0 and x.ndim == 2 and x.shape[1] == shape[1] and x.base._dtype in _SPREAD_EXACTLY
            and _starts_where_engines_do(x.raw()))


def _spread_by_tensor(to, row):
    """A row over partitions: a matmul by ones, a bank of PSUM at a time. Source: the mamba tutorial, "a partition-dim broadcast
    often requires a separate instruction on TensorE", and its timelines."""
    ones = tensor.launch.ones.get(row._dtype)
    if ones is None:
        ones = tensor.launch.ones[row._dtype] = tensor.ndarray((1, nl.tile_size.pmax), row.dtype)
        isa.memset(ones, 1.0)
    bank, n = nl.tile_size.psum_fmax, row.shape[1]
    for first in range(0, n, bank):
        part = slice(first, min(first + bank, n))
        sums = tensor.ndarray((to.shape[0], part.stop - first), dtypes.by_code[dtypes.code_of(np.float32)], buffer=tensor.psum)
        isa.spread_row(sums, ones[:, 0:to.shape[0]], row[:, part])
        isa.implied_copy(to[:, part], sums)


def binary_free_copy(x, dtype):
    out = like(x.shape, dtype, x.par or 0)
    move(out, x)
    return out


def move(target, source, mode=isa.oob_mode.error):
    """Whatever memories they are in. mode: of rows that their tensor has not."""
    to, by = target.raw(), source.raw()
    if not to._is_on_chip and by._is_psum:
        staged = tensor.ndarray(by.shape, by.dtype)
        isa.tensor_copy(staged, by)
        by = staged
    if to._is_on_chip and by._is_on_chip and target.indirect is None and source.indirect is None:
        in_patterns(isa.implied_copy, to, by)
    elif target.indirect is None and source.indirect is None:
        in_patterns(isa.dma_copy, to, by)
    else:
        isa.dma_copy(to, by, oob_mode=mode)


_FREE_DIMENSIONS = 4  # of an access pattern


def _n_free(v):
    """Free dimensions of a view that do not merge into one."""
    kept = [(n, step) for n, step in zip(v.shape[1:], v.strides[1:]) if n != 1]
    return sum(outer is None or outer[1] != n * step for outer, (n, step) in zip([None, *kept], kept))


def in_patterns(f, *parts):
    """f of views, one element of each giving one of the first: where a pattern has too many dimensions, an instruction for each
    number of the outermost one, as the vendor's compiler has; not where one might overwrite what the next reads."""
    is_apart = all(v._storage_id != parts[0]._storage_id for v in parts[1:])
    if is_apart and any(_n_free(v) > _FREE_DIMENSIONS for v in parts) and all(v.shape == parts[0].shape for v in parts):
        for i in range(parts[0].shape[1]):
            in_patterns(f, *(v[:, i] for v in parts))
    else:
        f(*parts)


def _starts_where_engines_do(v):
    """Engines begin at partitions 0, 32, 64 and 96, or 0 and 64, as their operand has up to 32 or 64; DMA anywhere."""
    n = v.shape[0]
    return v._first_partition % (128 if n > 64 else 64 if n > 32 else 32) == 0


def transfer(target, source, mode=isa.oob_mode.error):
    """By DMA, which begins at any partition. mode: of rows that their tensor has not."""
    to, by = target.raw(), source.raw()
    if by._is_psum or to._is_psum:
        raise NotImplementedError("a mask over several dimensions of a tile in PSUM; copy it to SBUF before")
    isa.dma_copy(to, by, oob_mode=mode)


def _named_once(target, value):
    """A target that an index expression names several times, in a dimension that the value does not have: one of them."""
    shape = getattr(value, "shape", ())
    shape = (1,) * (target.ndim - len(shape)) + tuple(shape)
    box = [(0, 1) if n > 1 and s == 0 and m == 1 else (0, n) for n, s, m in zip(target.shape, target.base.strides, shape)]
    return target if all(end == n for (_, end), n in zip(box, target.shape)) else target.box_part(box)


def assign(target, value):
    if len(getattr(value, "shape", ())) <= target.ndim:
        target = _named_once(target, value)
    if isinstance(value, Tensor):
        if value.stores_itself(target):
            return
        if value.kept_now() is not None:
            for to, by in _kept_parts(target, value):
                is_dma = any(x.base._is_on_chip and not _starts_where_engines_do(x.raw()) for x in (to, by))
                (transfer if is_dma else move)(to, by)
            return
        if value.shape != target.shape and value.size != target.size:
            value = broadcast_view(value, target.shape)
        move(target, value)
    elif target.base._is_on_chip and _starts_where_engines_do(target.raw()):
        for part in _parts_that_fit(target):
            isa.memset(part.raw(), value)
    else:
        constant = np.full(target.shape, value, dtypes.numpy_of(target.base._dtype))
        isa.dma_copy(target.raw(), nl.shared_constant(constant))


def _parts_that_fit(x):
    """Itself, or its blocks where a partition has no room for all of them, which would be one tile."""
    blocks = x.shape[:x.par]
    chip = tensor.session().chip()
    room = chip["psum_bytes" if x.base._is_psum else "sbuf_bytes"]
    if not blocks or math.prod(x.shape) // x.shape[x.par] * dtypes.numpy_of(x.base._dtype).itemsize <= room:
        return [x]
    return [x[block] for block in itertools.product(*map(range, blocks))]


def _kept_parts(target, value):
    """The parts of both that the masked result has."""
    sizes = [n for n in value.shape if n != 1]
    for box in value.kept:
        if len(value.shape) == len(target.shape):
            to = [(0, n) if m == 1 and ends == (0, 1) else ends for n, m, ends in zip(target.shape, value.shape, box)]
        elif sizes == [n for n in target.shape if n != 1]:
            rest = iter([ends for n, ends in zip(value.shape, box) if n != 1])
            to = [(0, 1) if n == 1 else next(rest) for n in target.shape]
        else:
            raise operators.refusal(f"the result of a masked operation, {operators.text_of(value)}, does not fit in "
                                    f"{operators.text_of(target)}; store it in a tensor of its shape")
        if all(low < high for low, high in box):
            part = target.box_part(to)
            yield part, broadcast_view(value.box_part(box), part.shape) if len(to) == len(box) else value.box_part(box)


def accumulate(target, value):
    if isinstance(value, Tensor) and value.adds_itself(target):
        return
    if isinstance(value, Tensor) and value.kept_now() is not None:
        for to, by in _kept_parts(target, value):
            accumulate(to, by)
        return
    if not isinstance(value, Tensor):
        isa.tensor_scalar(target.raw(), target.raw(), nl.add, value)
        return
    if target.base._is_psum and value.base._is_psum:
        value = binary_free_copy(value, value.dtype)
    isa.tensor_tensor(target.raw(), target.raw(), broadcast_view(value, target.shape).raw(), nl.add)
