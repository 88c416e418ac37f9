"""nki.collectives: exchanges between the ranks of a launch by vtrn.nki.run_ranks. Source: the API pages of
nki.collectives, NKI 0.6, and of the calls that prepare and trigger, 0.7.

Sums add in fp32 (integers exactly) in the order of the group, and round once."""

import dataclasses
import math

import numpy as np

from vtrn.nki import dtypes, isa, language as nl, ranks, tensor
from vtrn.nki._load import core
from vtrn.nki.errors import UNINITIALISED, NkiValidationError
from vtrn.nki.language import NKIObject
from vtrn.nki.tensor import VirtualRegister, ndarray

_MAX_CHANNELS = 4  # Source: nki.collectives.collective_permute_implicit


class ReplicaGroup(NKIObject):
    """Groups of ranks that take part in a collective operation."""

    def __init__(self, groups):
        super().__init__(groups=[list(group) for group in groups])
        members = [rank for group in self.groups for rank in group]
        if len(set(members)) != len(members):
            raise ValueError(f"ReplicaGroup({groups}): a rank is in one group")

    def of(self, what, rank):
        for group in self.groups:
            if rank in group:
                return tuple(group)
        raise ValueError(f"{what}: rank {rank} is in none of the groups {self.groups}")


# -- operands

def _read(what, tile):
    array, n_unwritten = tile._array()
    if n_unwritten:
        raise NkiValidationError(f"{what}: nothing has written {n_unwritten} of the {tile.size} elements of a source of shape "
                                 f"{tile.shape}; write them before", UNINITIALISED)
    return array


def _write(dst, array):
    running = tensor.session()
    running.exchanging(True)
    try:
        isa.dma_copy(dst, nl.shared_constant(np.ascontiguousarray(array).reshape(dst.shape)))
    finally:
        running.exchanging(False)


def _moves(op, tensors, groups):
    """What a collective moves, for its time. tensors: a member's operands; of all_gather its results."""
    n_bytes = sum(math.prod(t.shape) * dtypes.numpy_of(t._dtype).itemsize for t in tensors)
    groups = getattr(groups, "groups", groups)
    return ranks.Moves(op, n_bytes, tuple(tuple(int(r) for r in group) for group in groups), bool(tensors[0]._is_on_chip))


def _ring(replica_group):
    """Pairs of each rank and its successor."""
    return [(group[i], group[(i + 1) % len(group)]) for group in replica_group.groups for i in range(len(group)) if len(group) > 1]


def _check(what, srcs, dsts, takes_sbuf=True, takes_several=True):
    for role, tensors in (("srcs", srcs), ("dsts", dsts)):
        if not isinstance(tensors, (list, tuple)) or not tensors or not all(isinstance(t, ndarray) for t in tensors):
            raise TypeError(f"{what}: {role} is a list of tensors, not {tensors!r}")
    if len(srcs) != len(dsts):
        raise ValueError(f"{what}: {len(srcs)} sources and {len(dsts)} destinations; as many of both")
    tensors = [*srcs, *dsts]
    on_chip = [t._is_on_chip for t in tensors]
    if any(t._is_psum for t in tensors):
        raise ValueError(f"{what}: a tensor in PSUM; they are in HBM, or all in SBUF")
    if any(on_chip) != all(on_chip):
        raise ValueError(f"{what}: tensors in HBM and in SBUF; all are in one of them")
    if on_chip[0] and not takes_sbuf:
        raise ValueError(f"{what}: tensors in SBUF; it takes HBM alone")
    if len(srcs) > 1 and (on_chip[0] or not takes_several):
        raise ValueError(f"{what}: {len(srcs)} tensors at once; one" + (" in SBUF" if takes_several else ""))
    for s, d in zip(srcs, dsts):
        if s.dtype != d.dtype:
            raise TypeError(f"{what}: from {s.dtype} to {d.dtype}; both have one type")


def _check_shape(what, dst, want):
    if tuple(dst.shape) != tuple(want):
        raise ValueError(f"{what}: dst has shape {dst.shape}; the result has {tuple(want)}")


def _check_dim(what, dim, tile, for_sbuf=(0, 1)):
    allowed = for_sbuf if tile._is_on_chip else (0,)
    if dim not in allowed:
        raise ValueError(f"{what}: collective_dim={dim} in {tile.buffer.value}; {' or '.join(map(str, allowed))}")


_REDUCTIONS = {"add": np.add, "maximum": np.maximum, "minimum": np.minimum}


def _reduction(what, op):
    function = _REDUCTIONS.get(getattr(op, "__name__", None))
    if function is None:
        raise ValueError(f"{what}: op={getattr(op, '__name__', op)}; nl.add, nl.maximum or nl.minimum")

    def reduce(arrays):
        kind = np.float32 if arrays[0].dtype.kind not in "iub" else arrays[0].dtype
        total = arrays[0].astype(kind)
        for array in arrays[1:]:
            total = function(total, array.astype(kind))
        return total.astype(arrays[0].dtype)

    return reduce


def _meet(what, group, data, compute, moves):
    """What compute gives for this rank: it is called once, with the data of the group's ranks in its order, and gives a list."""
    return ranks.meet(what, group, data, compute, moves)


def _meet_alike(what, group, data, compute, moves):
    """_meet, where each rank gives a list of arrays of the same shapes and types."""
    def checked(all_data):
        kinds = [[(str(a.dtype), a.shape) for a in arrays] for arrays in all_data]
        if any(kind != kinds[0] for kind in kinds):
            given = "; ".join(f"rank {rank} gives {', '.join(f'{dtype} {shape}' for dtype, shape in kind)}"
                              for rank, kind in zip(group, kinds))
            place = core.place()
            raise NkiValidationError(f"{what}: {given}: the ranks of a group give tensors of the same shapes and types"
                                     + (f"\n  at {place}" if place else ""), 1)
        return compute(all_data)

    return _meet(what, group, data, checked, moves)


# -- operations

def all_reduce(srcs, dsts, replica_group, op, priority=None, name=None):
    _check("all_reduce", srcs, dsts)
    reduce = _reduction("all_reduce", op)
    for s, d in zip(srcs, dsts):
        _check_shape("all_reduce", d, s.shape)
    group = replica_group.of("all_reduce", ranks.rank())
    data = [_read("all_reduce", s) for s in srcs]
    results = _meet_alike("all_reduce", group, data,
                          lambda all_data: [[reduce(list(x)) for x in zip(*all_data)]] * len(all_data),
                          _moves("all_reduce", srcs, replica_group))
    for d, array in zip(dsts, results):
        _write(d, array)


def all_gather(srcs, dsts, replica_group, collective_dim, priority=None, name=None):
    _check("all_gather", srcs, dsts)
    group = replica_group.of("all_gather", ranks.rank())
    for s, d in zip(srcs, dsts):
        _check_dim("all_gather", collective_dim, s)
        want = list(s.shape)
        want[collective_dim] *= len(group)
        _check_shape("all_gather", d, want)
    data = [_read("all_gather", s) for s in srcs]
    results = _meet_alike("all_gather", group, data,
                          lambda all_data: [[np.concatenate(x, collective_dim) for x in zip(*all_data)]] * len(all_data),
                          _moves("all_gather", dsts, replica_group))
    for d, array in zip(dsts, results):
        _write(d, array)


def _divided(what, tile, n):
    if tile.shape[0] % n:
        raise ValueError(f"{what}: dimension 0 of {tile.shape} does not divide by the {n} ranks of the group")
    return tile.shape[0] // n


def reduce_scatter(srcs, dsts, replica_group, collective_dim, op, priority=None, name=None):
    _check("reduce_scatter", srcs, dsts)
    reduce = _reduction("reduce_scatter", op)
    group = replica_group.of("reduce_scatter", ranks.rank())
    for s, d in zip(srcs, dsts):
        _check_dim("reduce_scatter", collective_dim, s, (0,))
        _check_shape("reduce_scatter", d, (_divided("reduce_scatter", s, len(group)), *s.shape[1:]))

    def compute(all_data):
        sums = [np.split(reduce(list(x)), len(group)) for x in zip(*all_data)]
        return [[parts[i] for parts in sums] for i in range(len(group))]

    results = _meet_alike("reduce_scatter", group, [_read("reduce_scatter", s) for s in srcs], compute,
                          _moves("reduce_scatter", srcs, replica_group))
    for d, array in zip(dsts, results):
        _write(d, array)


def all_to_all(srcs, dsts, replica_group, collective_dim, priority=None, name=None):
    _check("all_to_all", srcs, dsts, takes_sbuf=False)
    group = replica_group.of("all_to_all", ranks.rank())
    for s, d in zip(srcs, dsts):
        _check_dim("all_to_all", collective_dim, s)
        _divided("all_to_all", s, len(group))
        _check_shape("all_to_all", d, s.shape)

    def compute(all_data):
        parts = [[np.split(x, len(group)) for x in data] for data in all_data]
        return [[np.concatenate([parts[j][k][i] for j in range(len(group))]) for k in range(len(srcs))]
                for i in range(len(group))]

    results = _meet_alike("all_to_all", group, [_read("all_to_all", s) for s in srcs], compute,
                          _moves("all_to_all", srcs, replica_group))
    for d, array in zip(dsts, results):
        _write(d, array)


def collective_permute(srcs, dsts, source_target_pairs, priority=None, name=None):
    _check("collective_permute", srcs, dsts, takes_sbuf=False, takes_several=False)
    _check_shape("collective_permute", dsts[0], srcs[0].shape)
    pairs = [(int(a), int(b)) for a, b in source_target_pairs]
    for role, numbers in (("source", [a for a, _ in pairs]), ("target", [b for _, b in pairs])):
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"collective_permute: source_target_pairs={pairs}; a rank is a {role} once")
    members = tuple(sorted({rank for pair in pairs for rank in pair}))
    me = ranks.rank()
    if me not in members:
        return
    is_source = any(a == me for a, _ in pairs)
    source_of = {b: a for a, b in pairs}

    def compute(all_data):
        return [all_data[members.index(source_of[m])] if m in source_of else None for m in members]

    result = _meet("collective_permute", members, _read("collective_permute", srcs[0]) if is_source else None, compute,
                   _moves("permute", srcs, pairs))
    if result is None:
        return
    if (result.dtype, result.shape) != (dtypes.numpy_of(dsts[0]._dtype), tuple(dsts[0].shape)):
        raise NkiValidationError(f"collective_permute: rank {source_of[me]} sends {result.dtype} {result.shape}, and dsts of rank "
                                 f"{me} is {dsts[0].dtype} {tuple(dsts[0].shape)}; both have one shape and type", 1)
    _write(dsts[0], result)


# -- rings

def _check_channels(what, by_channel, channel_ids):
    n = len(by_channel[0])
    if any(len(x) != n for x in by_channel) or list(channel_ids) != list(range(n)) or not 1 <= n <= _MAX_CHANNELS:
        raise ValueError(f"{what}: tensors of {', '.join(str(len(x)) for x in by_channel)} channels, channel_ids={channel_ids}; as "
                         f"many of each, counted from 0, and {_MAX_CHANNELS} at most")
    for tensors in by_channel:
        if any(len(x) != 1 for x in tensors):
            raise ValueError(f"{what}: a list of one tensor for each channel")


def _pass_on(what, replica_group, arrays, dsts):
    """Each rank's arrays go to its successor."""
    group = replica_group.of(what, ranks.rank())
    results = _meet_alike(what, group, arrays, lambda all_data: [all_data[i - 1] for i in range(len(group))],
                          _moves("permute", [d for d, in dsts], _ring(replica_group)))
    for (d,), array in zip(dsts, results):
        _write(d, array)


def collective_permute_implicit(srcs_by_channel, dsts_by_channel, replica_group, channel_ids=(0,), priority=None, name=None):
    what = "collective_permute_implicit"
    _check_channels(what, (srcs_by_channel, dsts_by_channel), channel_ids)
    for srcs, dsts in zip(srcs_by_channel, dsts_by_channel):
        _check(what, srcs, dsts)
        _check_shape(what, dsts[0], srcs[0].shape)
    _pass_on(what, replica_group, [_read(what, s) for (s,) in srcs_by_channel], dsts_by_channel)


def collective_permute_implicit_reduce(srcs0_by_channel, srcs1_by_channel, dsts_by_channel, replica_group, op, channel_ids=(0,),
                                       priority=None, name=None):
    what = "collective_permute_implicit_reduce"
    reduce = _reduction(what, op)
    _check_channels(what, (srcs0_by_channel, srcs1_by_channel, dsts_by_channel), channel_ids)
    for a, b, dsts in zip(srcs0_by_channel, srcs1_by_channel, dsts_by_channel):
        for srcs in (a, b):
            _check(what, srcs, dsts)
            _check_shape(what, dsts[0], srcs[0].shape)
    replica_group.of(what, ranks.rank())
    sums = [reduce([_read(what, a), _read(what, b)]) for (a,), (b,) in zip(srcs0_by_channel, srcs1_by_channel)]
    _pass_on(what, replica_group, sums, dsts_by_channel)


def collective_permute_implicit_current_processing_rank_id(iteration_id, replica_group, channel_id=0, name=None):
    what = "collective_permute_implicit_current_processing_rank_id"
    if not 0 <= int(channel_id) < _MAX_CHANNELS:
        raise ValueError(f"{what}: channel_id={channel_id}; 0 to {_MAX_CHANNELS - 1}")
    group = replica_group.of(what, ranks.rank())
    return VirtualRegister(group[(group.index(ranks.rank()) - int(iteration_id)) % len(group)])


def rank_id(name=None):
    return VirtualRegister(ranks.rank())


# -- counts that data say

@dataclasses.dataclass
class _Counted:
    """One rank's side of an exchange of runs whose lengths are in its metadata."""

    what: str
    src: ndarray
    dst: ndarray
    metadata: ndarray
    replica_group: ReplicaGroup
    group: tuple
    counts_known: bool
    has_rdispls: bool
    is_gather: bool

    def data(self):
        rows = _read(self.what, self._rows(0, 2))
        displs = _read(self.what, self._rows(3, 4))[0] if self.has_rdispls else None
        return _read(self.what, self.src).reshape(-1), rows[0], rows[1], displs

    def _rows(self, first, end):
        """Rows of the metadata as a tensor of two dimensions."""
        if self.metadata._is_on_chip:
            return _Rows(self.metadata, first, end, len(self.group))
        return self.metadata[first:end]

    def exchange(self):
        me, n = self.group.index(ranks.rank()), len(self.group)
        src, counts, displs, mine = self.data()
        sent = []
        for i in range(n):
            count, at = (int(x[0 if self.is_gather else i]) for x in (counts, displs))
            if at + count > src.size:
                raise IndexError(f"{self.what}: rank {self.group[me]} sends elements {at} to {at + count} of {src.size}")
            sent.append(src[at:at + count])
        moves = _moves("all_gather", [self.dst], self.replica_group) if self.is_gather else \
            _moves("all_to_all", [self.src], self.replica_group)
        received = _meet(self.what, self.group, sent, lambda everything: [[s[i] for s in everything] for i in range(n)], moves)
        slot = self.dst.size // n
        flat = self.dst.reshape((self.dst.size,))
        for i, run in enumerate(received):
            at = int(mine[i]) if mine is not None else slot * i
            end = self.dst.size if mine is not None else slot * (i + 1)
            if at + run.size > end:
                raise IndexError(f"{self.what}: rank {self.group[me]} gets {run.size} elements from rank {self.group[i]} at {at}; "
                                 f"there is room to {end}")
            if run.size:
                _write(flat[at:at + run.size], run)
        if not self.counts_known:
            sizes = np.array([[run.size for run in received]], np.uint32)
            to = self.metadata[2:3] if not self.metadata._is_on_chip else self.metadata[0:1, 2]
            _write(to, sizes)


class _Rows:
    """Rows of metadata in SBUF, which lie in one partition."""

    def __init__(self, metadata, first, end, n):
        self.metadata, self.first, self.end, self.n = metadata, first, end, n
        self.size, self.shape = (end - first) * n, (end - first, n)

    def _array(self):
        array, n_unwritten = self.metadata[0:1, self.first:self.end]._array()
        return array.reshape(self.shape), n_unwritten


def _counted(what, srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls):
    if len(srcs) != 1 or len(dsts) != 1 or any(t._is_on_chip for t in (*srcs, *dsts)):
        raise ValueError(f"{what}: one source and one destination, both in HBM")
    if srcs[0].dtype != dsts[0].dtype:
        raise TypeError(f"{what}: from {srcs[0].dtype} to {dsts[0].dtype}; both have one type")
    is_gather = what.startswith("all_gather")
    if is_gather and has_rdispls:
        raise NotImplementedError(f"{what}: has_rdispls=True is not supported, as the API page says")
    group = replica_group.of(what, ranks.rank())
    rows = 4 if has_rdispls else 3
    want = (1, rows, len(group)) if metadata_tensor._is_on_chip else (rows, len(group))
    if metadata_tensor.dtype != dtypes.uint32 or tuple(metadata_tensor.shape) != want:
        raise ValueError(f"{what}: metadata_tensor is {metadata_tensor.dtype} {metadata_tensor.shape}; it is uint32 {want}")
    return _Counted(what, srcs[0], dsts[0], metadata_tensor, replica_group, group, recv_counts_known, has_rdispls, is_gather)


def all_gather_v(srcs, dsts, replica_group, metadata_tensor, recv_counts_known=False, has_rdispls=False, priority=None, name=None):
    _counted("all_gather_v", srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls).exchange()


def all_to_all_v(srcs, dsts, replica_group, metadata_tensor, recv_counts_known=False, has_rdispls=False, priority=None, name=None):
    _counted("all_to_all_v", srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls).exchange()


def _prepare(what, *args):
    """There is one slot of what is prepared: from a prepare to its trigger no other may be."""
    if tensor.launch.prepared is not None:
        raise NkiValidationError(f"{what}_prepare: {tensor.launch.prepared.what}_prepare has not been triggered, and there is one "
                                 f"slot; call {tensor.launch.prepared.what}_trigger first", 2)
    tensor.launch.prepared = _counted(what, *args)
    return tensor.launch.prepared


def _trigger(what, prepare_instr):
    if not isinstance(prepare_instr, _Counted) or tensor.launch.prepared is not prepare_instr or prepare_instr.what != what:
        raise NkiValidationError(f"{what}_trigger: it takes what the last {what}_prepare gave, once", 2)
    tensor.launch.prepared = None
    prepare_instr.exchange()


def all_gather_v_prepare(srcs, dsts, replica_group, metadata_tensor, recv_counts_known=False, has_rdispls=False, priority=None,
                         name=None):
    return _prepare("all_gather_v", srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls)


def all_gather_v_trigger(prepare_instr, name=None):
    _trigger("all_gather_v", prepare_instr)


def all_to_all_v_prepare(srcs, dsts, replica_group, metadata_tensor, recv_counts_known=False, has_rdispls=False, priority=None,
                         name=None):
    return _prepare("all_to_all_v", srcs, dsts, replica_group, metadata_tensor, recv_counts_known, has_rdispls)


def all_to_all_v_trigger(prepare_instr, name=None):
    _trigger("all_to_all_v", prepare_instr)
