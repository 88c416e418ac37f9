"""Values of NKI's first generation that are not tiles yet: operands with masks; results of matmuls, and of loads that skip rows, which
become tiles when an instruction reads them; results of loop_reduce, which are computed into the tile that they are stored in."""

import dis
import math
import weakref

from vtrn.nki import dtypes, isa, operators, tensor
from vtrn.nki.beta1 import frames
from vtrn.nki.beta1.tensor import Tensor, assign, binary_free_copy, broadcast_view, like, move
from vtrn.nki.errors import NkiValidationError


class Masked(Tensor):
    """x[mask], an operand of a matmul, as both have rows and columns of their own. Source: "NKI API Masking", operand masking."""

    __slots__ = ("box", "terms")

    def __init__(self, x, box, terms):
        super().__init__(x.base, x.par, x.indirect)
        self.beyond, self.is_dynamic, self.box, self.terms = x.beyond, x.is_dynamic, box, terms

    @classmethod
    def of(cls, x, mask):
        """x[mask]; of x[first][mask] what both leave."""
        if mask is None:
            return x
        box, terms = mask.box(x.shape, x.par or 0), mask.terms
        if isinstance(x, Masked):
            box, terms = [(max(a[0], b[0]), max(a[0], b[0], min(a[1], b[1]))) for a, b in zip(box, x.box)], [*x.terms, *terms]
        return cls(x, box, terms)

    def plain(self):
        found = self.part(self.shape, self.base.strides, self.base.offset, self.par)
        found.beyond = self.beyond
        return found

    def raw_as_it_is(self):
        raise NkiValidationError(tensor._placed(f"a mask as the subscript of {operators.text_of(self)}: operands of nl.matmul and "
                                                "nisa.nc_matmul take one; other instructions have mask="))


class Product(Tensor):
    """What a matmul returns: added to a PSUM tile, it is summed there; else it becomes a tile when it is read. kept: [] where a
    mask of loops' variables leaves it out, a box where masks of operands leave one, whose tile has the whole shape."""

    is_later = True
    __slots__ = ("stationary", "moving", "options", "made", "writes_before", "whole", "__weakref__")

    def __init__(self, stationary, moving, **options):
        self.options, self.made, self.whole = options, None, None
        self.writes_before = None  # to the operands, when it was first summed in PSUM; None: it was not
        self.indirect, self.par, self.beyond, self.kept = None, 0, (), None
        self.is_dynamic = self.is_element = False
        if isinstance(stationary, Masked) or isinstance(moving, Masked):
            stationary, moving = self._masked(stationary, moving)
        self.stationary, self.moving = stationary, moving
        tensor.launch.products.append(weakref.ref(self))

    def _masked(self, stationary, moving):
        """The operands' parts that their masks leave, of the partitions that both leave."""
        operands = stationary, moving
        boxes = [x.box if isinstance(x, Masked) else [(0, n) for n in x.shape] for x in operands]
        rows = max(box[0][0] for box in boxes), min(box[0][1] for box in boxes)
        self.whole = tuple(n for x in operands for n in x.shape[1:])
        kept = tuple(ends for box in boxes for ends in box[1:])
        self.kept = [kept] if all(lo < hi for lo, hi in (rows, *kept)) else []
        plain = [x.plain() if isinstance(x, Masked) else x for x in operands]
        return (x.box_part([rows, *box[1:]]) for x, box in zip(plain, boxes)) if self.kept else plain

    def into(self, target, accumulate):
        if self.kept == []:
            return
        if self.kept:
            if target.shape != self.whole:
                raise operators.refusal(f"a matmul of operands with masks has shape {self.whole}, and is stored in "
                                        f"{operators.text_of(target)}; store it in a tile of its shape")
            target = target.box_part(self.kept[0])
        self.check_operands()
        self.writes_before = self.writes()
        isa.nc_matmul(target.raw_as_it_is(), self.stationary.raw_as_it_is(), self.moving.raw_as_it_is(), accumulate=accumulate,
                      **self.options)

    def stores_itself(self, target):
        return self._goes_to(target, False)

    def adds_itself(self, target):
        return self._goes_to(target, isa._ADDS)

    def _goes_to(self, target, accumulate):
        """Whether the matmul wrote to a tile in PSUM, or had nothing to write."""
        if self.kept != [] and (self.made is not None or not target.base._is_psum):
            return False
        self.into(target, accumulate)
        return True

    def storages(self):
        return self.stationary.base._storage_id, self.moving.base._storage_id

    def writes(self):
        return self.stationary.base._n_writes, self.moving.base._n_writes

    def check_operands(self):
        if self.writes_before not in (None, self.writes()):
            raise NkiValidationError(tensor._placed("a matmul that was summed in PSUM is read once more, and an operand of it was "
                                                    "overwritten in between; copy its result before (nl.copy), and add the copy"))

    @property
    def base(self):
        if self.made is None:
            self.check_operands()
            k, free = self.stationary.raw_as_it_is().shape[0], self.moving.raw_as_it_is().shape[1:]
            m = self.stationary.size // k
            if self.options.get("perf_mode"):  # both operands have two rows a partition
                m, free = m // 2, free[1:]
            made = Tensor(tensor.ndarray(self.whole or (m, *free), dtypes.float32, tensor.psum))
            self.made = made.keep(self.kept)
            self.into(made, False)
        return self.made.base


class Skipping(Tensor):
    """What a load returns that leaves rows out which its tensor has not: stored in a tile, it leaves those of the tile there;
    else it becomes a tile when it is read. fill(target): loads."""

    is_later = True
    __slots__ = ("source", "own", "fill", "made", "writes_before", "__weakref__")

    def __init__(self, source, shape, dtype, fill):
        self.source, self.own, self.fill = source, (tuple(shape), dtype), fill
        self.made = self.writes_before = None
        self.indirect, self.par, self.beyond, self.kept = None, 0, (), None
        self.is_dynamic = self.is_element = False
        tensor.launch.products.append(weakref.ref(self))

    shape = property(lambda self: self.own[0])
    dtype = property(lambda self: self.own[1])

    def storages(self):
        return self.source.base._storage_id, self.source.indirect[0]._storage_id

    def stores_itself(self, target):
        """By the load, where it can write there: of this shape, without a cast between two others."""
        if self.made is not None or target.buffer is not tensor.sbuf or target.indirect is not None or target.shape != self.shape or \
                self.dtype not in (target.dtype, self.source.dtype):
            return False
        self.into(target)
        return True

    def into(self, target):
        before, self.made = self.made, target  # no other is made while the instruction names what it reads
        self.fill(target)
        self.made = before
        if before is None:  # it may be read once more
            tensor.launch.products.append(weakref.ref(self))

    @property
    def base(self):
        if self.made is None:
            out = like(*self.own)
            if not tensor.launch.has_values:  # which rows are left out is not known: they read as unwritten ones
                assign(out, math.nan if dtypes.IS_FLOAT[out.base._dtype] else 4)
            self.into(out)
            self.made = out
            self.keep(out.kept)
        return self.made.base


class LoopSum(Tensor):
    """What loop_reduce returns, for the part of a tensor that it is stored in: what that part has is the other operand of op,
    as the API page has it; a part that nothing has written takes x of the first turn. Results are kept in fp32 beside what is
    stored. mask: of the part's elements, or of the loops' variables."""

    __slots__ = ("op", "is_first", "mask")

    def __init__(self, x, op, is_first, mask=None):
        super().__init__(x.base, x.par, x.indirect)
        self.op, self.is_first, self.mask, self.beyond = op, is_first, mask, x.beyond

    def raw_as_it_is(self):
        raise operators.refusal("nl.loop_reduce: its result is read where it is not stored yet, and would be one turn's operand; store it in "
                                "a part of a tensor (sums[...] = nl.loop_reduce(...)), or in the variable of a tile, and read that")

    def stores_itself(self, target):
        self.into(target)
        return True

    def into(self, target):
        kept, x = tensor.launch.loop_sums, self.part(self.shape, self.base.strides, self.base.offset, self.par)
        x.beyond = self.beyond
        x, target = broadcast_view(x, target.shape).boxed(self.mask), target.boxed(self.mask)
        if target is None:
            return
        key = target.base._storage_id, target.base.offset, target.shape, target.base._dtype
        if self.is_first:
            kept.pop(key, None)
        if key in kept:
            isa.tensor_tensor(kept[key].raw(), kept[key].raw(), x.raw(), self.op)
        elif _has_elements(target.base):
            kept[key], before = like(target.shape, dtypes.float32, target.par or 0), target
            if before.base._is_psum and x.base._is_psum:
                before = binary_free_copy(before, before.dtype)
            isa.tensor_tensor(kept[key].raw(), before.raw(), x.raw(), self.op)
        else:
            kept[key] = like(target.shape, dtypes.float32, target.par or 0)
            move(kept[key], x)
        move(target, kept[key])


def _has_elements(v):
    """Whether something has written elements of the view."""
    written = v._written() if v._n_writes else b""  # None: all
    return written is None or any(written)


def stored_by_name(found, frame, dtype):
    """Of `sums = nl.loop_reduce(...)`, which the vendor's compiler takes for a store to the tile that the variable names, that
    tile; a variable without one gets one. Anything else: as it is. frame: the caller's."""
    after = next((i for i in dis.get_instructions(frame.f_code) if i.offset > frame.f_lasti and i.opname != "CACHE"), None)
    accesses = frames.accesses(after) if after else []
    if not accesses or accesses[0][0] != "STORE":
        return found
    _, where, name = accesses[0]
    with frames.local_values(frame) as now:
        target = (frame.f_globals if where == "GLOBAL" else now).get(name)
    if not isinstance(target, Tensor) or isinstance(target, LoopSum):
        if found.mask is not None and found.mask.is_nowhere():
            return found
        target = like(found.shape, dtype or found.dtype, found.par or 0)
        target.keep(None if found.mask is None else found.mask.boxes(found.shape, found.par or 0))
    found.into(target)
    return target
