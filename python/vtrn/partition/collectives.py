"""Collectives and slices that change how a tensor is divided, as JAX's shard_map writes them."""

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from vtrn.partition.shardings import common_prefix, n_shards, normalized, without_prefix


def tensor(shape, like):
    return ir.RankedTensorType.get(list(shape), ir.RankedTensorType(like.type).element_type)


def shape_of(value):
    return tuple(ir.RankedTensorType(value.type).shape)


class Collectives:
    """Operations are added at the current insertion point."""

    def __init__(self, mesh):
        self.mesh = mesh

    def _channel(self):
        return hlo.ChannelHandle.get(1, 1)

    def _groups(self, axes):
        return ir.DenseIntElementsAttr.get(np.array(self.mesh.groups(axes), np.int64))

    def broadcast(self, value):
        """The first device's."""
        groups = ir.DenseIntElementsAttr.get(np.arange(self.mesh.n_devices, dtype=np.int64)[None])
        return hlo.collective_broadcast(value, groups, channel_handle=self._channel())

    def scalar(self, number):
        return hlo.constant(ir.DenseElementsAttr.get(np.array(number, np.int32)))

    def offset(self, axes, step):
        """Of the device's part along a dimension: i32, its index along the axes times step."""
        table = ir.DenseElementsAttr.get(np.array(self.mesh.indices(axes), np.int32) * np.int32(step))
        i32 = ir.IntegerType.get_signless(32)
        device = hlo.convert(ir.RankedTensorType.get([], i32), hlo.partition_id())
        one = hlo.dynamic_slice(hlo.constant(table), [device], [1])
        return hlo.reshape(ir.RankedTensorType.get([], i32), one)

    def slice(self, value, dim_axes):
        """Of the device's own part along each dimension of dim_axes: {dim: axes}."""
        shape = list(shape_of(value))
        starts = [self.scalar(0)] * len(shape)
        for dim, axes in dim_axes.items():
            shape[dim] //= n_shards(axes)
            starts[dim] = self.offset(axes, shape[dim])
        return hlo.dynamic_slice(value, starts, shape)

    def all_gather(self, value, dim, axes):
        shape = list(shape_of(value))
        shape[dim] *= n_shards(axes)
        return hlo.AllGatherOp([tensor(shape, value)], [value], dim, self._groups(axes),
                               channel_handle=self._channel(), use_global_device_ids=True).results[0]

    def all_to_all(self, value, axes, split_dim, concat_dim):
        n, shape = n_shards(axes), list(shape_of(value))
        shape[split_dim] //= n
        shape[concat_dim] *= n
        return hlo.AllToAllOp([value], split_dim, concat_dim, n, self._groups(axes), channel_handle=self._channel(),
                              results=[tensor(shape, value)]).results[0]

    def permute(self, value, pairs):
        return hlo.collective_permute(value, ir.DenseIntElementsAttr.get(np.array(pairs, np.int64)),
                                      channel_handle=self._channel())

    def _reducer(self, op, value, kind):
        scalar = tensor((), value)
        block = op.regions[0].blocks.append(scalar, scalar)
        with ir.InsertionPoint(block):
            hlo.ReturnOp([ir.Operation.create(kind, [scalar], list(block.arguments)).result])

    def all_reduce(self, value, axes, kind):
        op = hlo.AllReduceOp([value.type], [value], self._groups(axes), channel_handle=self._channel(),
                             use_global_device_ids=True)
        self._reducer(op, value, kind)
        return op.results[0]

    def reduce_scatter(self, value, dim, axes, kind):
        shape = list(shape_of(value))
        shape[dim] //= n_shards(axes)
        op = hlo.ReduceScatterOp(tensor(shape, value), value, dim, self._groups(axes),
                                 channel_handle=self._channel(), use_global_device_ids=True)
        self._reducer(op, value, kind)
        return op.result

    def reshard(self, value, old, new):
        """The part that `new` gives the device, of a tensor of which it has what `old` gives."""
        if old == new:
            return value
        moved = self._move_axes(value, old, new)
        if moved is not None:
            return moved
        if all(n_shards(a) == n_shards(b) for a, b in zip(old, new)):
            return self.permute(value, self.mesh.moves(old, new))
        kept = [common_prefix(a, b) for a, b in zip(old, new)]
        for dim, (axes, prefix) in enumerate(zip(old, kept)):
            if axes != prefix:
                value = self.all_gather(value, dim, without_prefix(axes, prefix))
        cut = {dim: without_prefix(axes, prefix) for dim, (axes, prefix) in enumerate(zip(new, kept)) if axes != prefix}
        return self.slice(value, cut) if cut else value

    def _move_axes(self, value, old, new):
        """By all_to_all, where the least significant axes of one dimension become those of another."""
        changed = [dim for dim in range(len(old)) if old[dim] != new[dim]]
        if len(changed) != 2:
            return None
        for give, take in (changed, changed[::-1]):
            prefix = common_prefix(old[give], new[give])
            if prefix != new[give] or common_prefix(old[take], new[take]) != old[take]:
                continue
            axes = without_prefix(old[give], prefix)
            if axes == normalized(without_prefix(new[take], old[take])):
                return self.all_to_all(value, axes, take, give)
        return None
