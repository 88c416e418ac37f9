"""nl.tiles, nl.blocks and what they give: a tensor seen as a grid of tiles, or of blocks of tiles. Source: API pages of
NKI 0.7. Making and indexing a grid moves nothing; .data is the tensor that an instruction takes."""

import math

from vtrn.nki import tensor
from vtrn.nki.tensor import ndarray


def _check_shape(what, shape, least=1):
    if not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise TypeError(f"{what}={shape!r}: a tuple of Python ints")
    if len(shape) < least or any(n < 1 for n in shape):
        raise ValueError(f"{what}={shape}: at least {least} numbers, each 1 or more")


class _Axis:
    """One tiled dimension of a selection: elements [first, first + size) of the source; cells counts tiles or blocks."""

    def __init__(self, first, size, cell, is_kept=True):
        self.first, self.size, self.cell = first, size, cell
        self.is_kept = is_kept  # or an integer has consumed its coordinate

    @property
    def cells(self):
        return -(-self.size // self.cell)

    def at(self, key, name):
        if isinstance(key, slice):
            if key.step not in (None, 1):
                raise IndexError(f"{name}: a step of {key.step}; neighbouring cells are selected")
            start = 0 if key.start is None else key.start
            stop = self.cells if key.stop is None else key.stop
            if not 0 <= start < stop <= self.cells:
                raise IndexError(f"{name}: cells {start}:{stop} of {self.cells}")
            return _Axis(self.first + start * self.cell, min(stop * self.cell, self.size) - start * self.cell, self.cell)
        i = key.__index__()
        i = i + self.cells if i < 0 else i
        if not 0 <= i < self.cells:
            raise IndexError(f"{name}: cell {key} of {self.cells}")
        return _Axis(self.first + i * self.cell, min(self.cell, self.size - i * self.cell), self.cell, False)


class _Source:
    """The elements behind a grid: a tensor, or tiles of SBUF or PSUM side by side in the partitions."""

    def __init__(self, backing, element_shape=None, tile_shape=None):
        self.backing = backing
        self.packed_tile = tile_shape  # of tiles that lie side by side; None: the tensor is as it is
        self.shape = backing.shape if element_shape is None else element_shape

    def view(self, prefix, axes):
        """The tensor of a selection, or None where no one access pattern names it."""
        if self.packed_tile is None:
            key = tuple(prefix) + tuple(slice(a.first, a.first + a.size) for a in axes)
            return self.backing[key]
        rows, columns = axes
        height, width = self.packed_tile
        first_row, first_column = rows.first // height, columns.first // width
        if rows.first + rows.size > (first_row + 1) * height:
            return None  # tiles above each other lie side by side
        per_row = -(-self.shape[1] // width)
        at = (first_row * per_row + first_column) * width
        top = rows.first - first_row * height
        return self.backing[top:top + rows.size, at:at + columns.first - first_column * width + columns.size]


class NkiGrid:
    """What tile and block grids have in common."""

    def __init__(self, source, prefix, axes, tile_shape):
        self._source, self._prefix, self._axes = source, prefix, axes
        self.tile_shape = tile_shape

    @property
    def buffer(self):
        return self._source.backing.buffer

    @property
    def dtype(self):
        return self._source.backing.dtype

    @property
    def shape(self):
        """Slabs of the untiled dimensions and cells of the tiled ones that no integer has consumed."""
        slabs = tuple(k.stop - k.start for k in self._prefix if isinstance(k, slice))
        return slabs + tuple(a.cells for a in self._axes if a.is_kept)

    @property
    def element_shape(self):
        slabs = tuple(k.stop - k.start for k in self._prefix if isinstance(k, slice))
        return slabs + tuple(a.size for a in self._axes)

    @property
    def index_step_elements(self):
        slabs = tuple(1 for k in self._prefix if isinstance(k, slice))
        return slabs + tuple(a.cell for a in self._axes if a.is_kept)

    @property
    def is_remainder(self):
        """Whether the selection is cut off at the end of the source: some cell of it is not whole."""
        return any(a.size % a.cell for a in self._axes)

    def _view(self):
        if any(isinstance(k, slice) for k in self._prefix):
            return None
        return self._source.view(self._prefix, self._axes)

    @property
    def is_data_representable(self):
        return self._view() is not None

    @property
    def data(self):
        """The tensor of the selection, for an instruction."""
        view = self._view()
        if view is not None:
            return view
        if any(isinstance(k, slice) for k in self._prefix):
            raise AssertionError(f"grid.data: {self._source.shape} has untiled dimensions before its tiles; choose one slab "
                                 "of each by an integer first")
        raise AssertionError(f"grid.data: tiles above each other lie side by side in {self.buffer.value}, and no access pattern "
                             f"names {self.element_shape} elements at once; take one row of tiles")

    def __getitem__(self, key):
        keys = list(key) if isinstance(key, tuple) else [key]
        n = len(self.shape)
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at:at + 1] = [slice(None)] * (n - len(keys) + 1)
        if len(keys) > n:
            raise IndexError(f"{len(keys)} subscripts for a grid of shape {self.shape}")
        keys += [slice(None)] * (n - len(keys))
        prefix = list(self._prefix)
        for d, k in enumerate(prefix):
            if isinstance(k, slice):
                prefix[d] = self._slab(k, keys.pop(0), d)
        axes = [a.at(keys.pop(0), f"dimension {d} of a grid") if a.is_kept else a for d, a in enumerate(self._axes)]
        return self._like(tuple(prefix), axes)

    @staticmethod
    def _slab(of, key, d):
        n = of.stop - of.start
        if isinstance(key, slice):
            if key == slice(None):
                return of
            raise IndexError(f"dimension {d} of a grid is not tiled: one slab is chosen by an integer")
        i = key.__index__()
        i = i + n if i < 0 else i
        if not 0 <= i < n:
            raise IndexError(f"dimension {d} of a grid: slab {key} of {n}")
        return of.start + i

    def __len__(self):
        if not self.shape:
            raise TypeError("a grid of one cell has no length")
        return self.shape[0]

    def __repr__(self):
        return (f"<{type(self).__name__} {self.shape} of {self.element_shape} {self.dtype} elements in {self.buffer.value}, "
                f"tiles of {self.tile_shape}>")


class NkiTileGrid(NkiGrid):
    """A grid whose cells are tiles."""

    def _like(self, prefix, axes):
        return NkiTileGrid(self._source, prefix, axes, self.tile_shape)


class NkiBlockGrid(NkiGrid):
    """A grid whose cells are blocks of block_shape tiles."""

    def __init__(self, source, prefix, axes, tile_shape, block_shape):
        super().__init__(source, prefix, axes, tile_shape)
        self.block_shape = block_shape

    def _like(self, prefix, axes):
        return NkiBlockGrid(self._source, prefix, axes, self.tile_shape, self.block_shape)


def _geometry(what, source, tile_shape):
    """Source, prefix, axes in tiles, and the tiles' shape."""
    if isinstance(source, NkiGrid):
        if tile_shape is not None and tile_shape != source.tile_shape:
            raise ValueError(f"{what}: tile_shape={tile_shape} of a grid whose tiles are {source.tile_shape}; leave it out")
        tile_shape = source.tile_shape
        return source._source, source._prefix, [_Axis(a.first, a.size, n) for a, n in zip(source._axes, tile_shape)], tile_shape
    if not isinstance(source, ndarray):
        raise TypeError(f"{what}: source is a {type(source).__name__}; it is a tensor or a grid")
    if tile_shape is None:
        raise TypeError(f"{what}: tile_shape is needed for a tensor")
    _check_shape(f"{what}: tile_shape", tile_shape, 2)
    n = source.ndim - len(tile_shape)
    if n < 0:
        raise ValueError(f"{what}: tile_shape={tile_shape} has more dimensions than the tensor, {source.shape}")
    if n and source._is_on_chip:
        raise ValueError(f"{what}: tile_shape={tile_shape} for {source.shape} in {source.buffer.value}; untiled dimensions are "
                         "for tensors in HBM")
    prefix = tuple(slice(0, m) for m in source.shape[:n])
    return _Source(source), prefix, [_Axis(0, m, t) for m, t in zip(source.shape[n:], tile_shape)], tile_shape


def tiles(source, *, tile_shape=None):
    """The tensor, or the blocks of a selection, as a grid of tiles. The last tiles are cut off at the tensor's end."""
    return NkiTileGrid(*_geometry("nl.tiles", source, tile_shape))


def blocks(source, *, tile_shape=None, block_shape):
    """The tensor as a grid of blocks, each of block_shape tiles."""
    _check_shape("nl.blocks: block_shape", block_shape)
    at, prefix, axes, tile_shape = _geometry("nl.blocks", source, tile_shape)
    if len(block_shape) != len(tile_shape):
        raise ValueError(f"nl.blocks: block_shape={block_shape} for tiles of {tile_shape}; both have as many dimensions")
    axes = [_Axis(a.first, a.size, a.cell * n) for a, n in zip(axes, block_shape)]
    return NkiBlockGrid(at, prefix, axes, tile_shape, block_shape)


def alloc_tiles(*, tile_shape, element_shape, buffer, dtype, address=None, name=""):
    """A grid of tiles with memory of its own. In SBUF and PSUM whole tiles lie side by side in the partitions."""
    _check_shape("alloc_tiles: tile_shape", tile_shape, 2)
    _check_shape("alloc_tiles: element_shape", element_shape)
    if not isinstance(buffer, tensor.MemoryRegion):
        raise TypeError(f"alloc_tiles: buffer={buffer!r}; it is nl.sbuf, nl.psum or one of HBM")
    if len(tile_shape) > len(element_shape):
        raise ValueError(f"alloc_tiles: tile_shape={tile_shape} has more dimensions than element_shape={element_shape}")
    if buffer in (tensor.private_hbm, tensor.shared_hbm):
        return tiles(ndarray(element_shape, dtype, buffer, name, address), tile_shape=tile_shape)
    if len(element_shape) != len(tile_shape) or len(tile_shape) != 2:
        raise ValueError(f"alloc_tiles: element_shape={element_shape}, tile_shape={tile_shape} in {buffer.value}; both have two "
                         "dimensions there")
    n = math.prod(-(-m // t) for m, t in zip(element_shape, tile_shape))
    backing = ndarray((min(tile_shape[0], element_shape[0]), n * tile_shape[1]), dtype, buffer, name, address)
    axes = [_Axis(0, m, t) for m, t in zip(element_shape, tile_shape)]
    return NkiTileGrid(_Source(backing, element_shape, tile_shape), (), axes, tile_shape)


def alloc_blocks(*, tile_shape, block_shape, element_shape, buffer, dtype, address=None, name=""):
    """As alloc_tiles, seen in blocks."""
    made = alloc_tiles(tile_shape=tile_shape, element_shape=element_shape, buffer=buffer, dtype=dtype, address=address, name=name)
    return blocks(made, block_shape=block_shape)
