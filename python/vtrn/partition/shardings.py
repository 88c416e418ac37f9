"""Meshes and shardings as plain values: which device has which part of a tensor.

A sharding is a tuple of axes for each dimension, the first axis the most significant. An axis may be a part
of a mesh axis: the `size` digits that follow the `pre` more significant ones.
"""

import itertools
import math
from typing import NamedTuple


class Refused(Exception):
    """The program cannot be divided; the message says why."""


class Failed(Exception):
    """A function of the user's, called while the program is divided, has failed: the program is wrong."""


class Axis(NamedTuple):
    name: str
    pre: int
    size: int


def normalized(axes):
    """Without axes of size one, and with neighbouring parts of a mesh axis as one part."""
    out = []
    for axis in axes:
        last = out[-1] if out else None
        if last and last.name == axis.name and axis.pre == last.pre * last.size:
            out[-1] = Axis(axis.name, last.pre, last.size * axis.size)
        elif axis.size > 1:
            out.append(axis)
    return tuple(out)


def n_shards(axes):
    return math.prod(axis.size for axis in axes)


def names_of(sharding):
    return {axis.name for axes in sharding for axis in axes}


def replicated(rank):
    return ((),) * rank


def split_prefix(axes, count):
    """Axes whose product is `count` and the rest, taking a mesh axis apart where it must be; None if no
    part has that product."""
    head, rest = [], list(axes)
    while count > 1:
        if not rest:
            return None
        axis = rest.pop(0)
        if count % axis.size == 0:
            head.append(axis)
            count //= axis.size
        elif axis.size % count == 0:
            head.append(Axis(axis.name, axis.pre, count))
            rest.insert(0, Axis(axis.name, axis.pre * count, axis.size // count))
            count = 1
        else:
            return None
    return tuple(head), tuple(rest)


def common_prefix(a, b):
    """The most significant axes that both have."""
    out = []
    a, b = list(a), list(b)
    while a and b and a[0].name == b[0].name and a[0].pre == b[0].pre:
        size = math.gcd(a[0].size, b[0].size)
        if size not in (a[0].size, b[0].size):
            break
        out.append(Axis(a[0].name, a[0].pre, size))
        for rest in (a, b):
            first = rest.pop(0)
            if first.size != size:
                rest.insert(0, Axis(first.name, first.pre * size, first.size // size))
    return normalized(out)


def without_prefix(axes, prefix):
    return normalized(split_prefix(axes, n_shards(prefix))[1])


def fitted(sharding, shape):
    """Without the least significant axes that a dimension's size is no multiple of."""
    out = []
    for axes, size in zip(sharding, shape):
        axes = list(normalized(axes))
        while axes and size % n_shards(axes):
            axes.pop()
        out.append(tuple(axes))
    return tuple(out)


def whole_axes(mesh, axes):
    """Of a dimension's axes those in front that are whole axes of the mesh: a manual computation's arguments are divided
    over no others."""
    return tuple(itertools.takewhile(lambda axis: axis.size == mesh.sizes[axis.name], axes))


class Mesh:
    """Axes by name, and the device of each position, row-major."""

    def __init__(self, name, sizes, devices=()):
        self.name, self.sizes = name, dict(sizes)
        self.by_name = {}  # this mesh and others of the same devices, whose axes are taken for parts of its own
        self.n_devices = math.prod(self.sizes.values())
        positions = itertools.product(*(range(size) for size in self.sizes.values()))
        ids = list(devices) or range(self.n_devices)
        if sorted(ids) != list(range(self.n_devices)):
            raise Refused(f"mesh {name} has the devices {list(ids)}, not 0 to {self.n_devices - 1}")
        self._places = {device: dict(zip(self.sizes, at)) for device, at in zip(ids, positions)}

    def own_axes(self, other, axis):
        """An axis of another mesh of the same devices in the same order, as axes of this one; None: it has
        no such."""
        low = math.prod(list(other.sizes.values())[list(other.sizes).index(axis.name) + 1:])
        low *= other.sizes[axis.name] // (axis.pre * axis.size)
        high, out, stride = low * axis.size, [], self.n_devices
        for name, size in self.sizes.items():
            top, stride = stride, stride // size
            first, last = max(low, stride), min(high, top)
            if first >= last:
                continue
            if top % last or last % first or first % stride:
                return None
            out.append(Axis(name, top // last, last // first))
        return out if math.prod(part.size for part in out) == axis.size else None

    def _stride(self, axis):
        return self.sizes[axis.name] // (axis.pre * axis.size)

    def _digit(self, device, axis):
        return self._places[device][axis.name] // self._stride(axis) % axis.size

    def index(self, device, axes):
        """Which part along a dimension of these axes the device has."""
        out = 0
        for axis in axes:
            out = out * axis.size + self._digit(device, axis)
        return out

    def indices(self, axes):
        """The same for each device, by its number."""
        return [self.index(device, axes) for device in range(self.n_devices)]

    def groups(self, axes):
        """Devices that differ along the axes alone, each group in the order of the parts."""
        groups = {}
        for device in range(self.n_devices):
            place = dict(self._places[device])
            for axis in axes:
                place[axis.name] -= self._digit(device, axis) * self._stride(axis)
            groups.setdefault(tuple(place.values()), []).append(device)
        return [sorted(group, key=lambda device: self.index(device, axes)) for group in groups.values()]

    def moves(self, old, new):
        """(source, target) of every device where a tensor's sharding changes from old to new, and every
        dimension has as many parts as before."""
        holders = {}
        for device in range(self.n_devices):
            holders.setdefault(tuple(self.index(device, axes) for axes in old), []).append(device)
        wanted = {device: tuple(self.index(device, axes) for axes in new) for device in range(self.n_devices)}
        stay = {device for device, part in wanted.items() if device in holders[part]}
        for device in stay:
            holders[wanted[device]].remove(device)
        # Further copies of a part go to the devices that need it in order.
        return [(device if device in stay else holders[part].pop(0), device) for device, part in wanted.items()]
