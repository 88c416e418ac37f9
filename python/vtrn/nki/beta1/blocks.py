"""Tensors whose allocation gives blocks their places in turn."""

import inspect
import itertools
import math

from vtrn.nki import dtypes, tensor
from vtrn.nki.beta1.index import Index, _Grid
from vtrn.nki.beta1.tensor import make, par_dim


class Blocks:
    """A tensor whose allocation gives blocks their places in turn: slot(block, partitions, bytes of one) names the place of
    a block, which others have before and after it. Subscripts are integers in the block dimensions."""

    def __init__(self, shape, dtype, region, slot, name=""):
        par = next(d for d, n in enumerate(shape) if isinstance(n, par_dim))
        self.shape, self.dtype, self.buffer = tuple(int(n) for n in shape), dtypes.by_code[dtypes.code_of(dtype)], region
        self.name = name
        self.n_blocks, self.block, self.slot, self.tiles = self.shape[:par], shape[par:], slot, {}

    ndim = property(lambda self: len(self.shape))

    def _of(self, key):
        """The tile of the block that a subscript names, and the rest of the subscript."""
        key = tuple(key) if isinstance(key, (tuple, _Grid)) else (key,)
        index, rest, n = key[:len(self.n_blocks)], key[len(self.n_blocks):], len(self.n_blocks)
        if len(index) < n or any(isinstance(i, Index) or not hasattr(i, "__index__") for i in index):
            raise NotImplementedError(f"a subscript of a tensor of shape {self.shape}, whose {math.prod(self.n_blocks)} blocks have "
                                      f"places in turn: integers in the first {n} dimensions")
        index = tuple(i.__index__() for i in index)
        for d, (i, size) in enumerate(zip(index, self.n_blocks)):
            if not 0 <= i < size:
                raise IndexError(f"index {i} of dimension {d}, which has {size} elements")
        n_bytes = math.prod(self.block[1:]) * dtypes.numpy_of(dtypes.code_of(self.dtype)).itemsize
        place = _place_of(self.slot, index, int(self.block[0]), n_bytes)
        held, tile = self.tiles.get(place, (None, None))
        if held != index:  # what the place held is over
            tile = make(self.block, self.dtype, self.buffer, self.name, True)
            self.tiles[place] = index, tile
        return tile, rest or (Ellipsis,)

    def __getitem__(self, key):
        tile, rest = self._of(key)
        return tile[rest]

    def __setitem__(self, key, value):
        tile, rest = self._of(key)
        tile[rest] = value


def _place_of(slot, block, n_partitions, n_bytes):
    """What a kernel's allocation says of a block. Source: its guide calls the arguments idx, pdim_size and fdim_size; kernels bind
    others before them by name."""
    try:
        inspect.signature(slot).bind(idx=block, pdim_size=n_partitions, fdim_size=n_bytes)
    except TypeError:
        return slot(block, n_partitions, n_bytes)
    return slot(idx=block, pdim_size=n_partitions, fdim_size=n_bytes)


def make_blocks(shape, dtype, buffer, slot, name=""):
    """As make(), of blocks in turn where they have fewer places than there are blocks."""
    par = next((d for d, n in enumerate(shape) if isinstance(n, par_dim)), 0)
    n_bytes = math.prod(int(n) for n in shape[par + 1:]) * dtypes.numpy_of(dtypes.code_of(dtype)).itemsize
    blocks = list(itertools.product(*(range(int(n)) for n in shape[:par])))
    if par and len({_place_of(slot, block, int(shape[par]), n_bytes) for block in blocks}) < len(blocks):
        return Blocks(shape, dtype, tensor.region_of(buffer), slot, name)
    return make(shape, dtype, buffer, name, True)
