"""nki.isa: instructions on MX tiles, narrow floats four to an element with a scale for each 8 partitions."""

from vtrn.nki import dtypes
from vtrn.nki._load import OPCODE, VECTOR, core

_QUANTIZE = OPCODE["quantize_mx"]
doubles_scales = True  # from NKI 0.5 on: a scale is twice that of OCP's sample algorithm


def _scales(what, tile):
    """The bytes of a tile of float8_e8m0fnu or uint8."""
    if tile.dtype == "uint8":
        return tile
    if tile.dtype == "float8_e8m0fnu":
        return tile.view("uint8")
    raise TypeError(f"{what} is {tile.dtype}; scales are float8_e8m0fnu or uint8")


def nc_matmul_mx(dst, stationary, moving, stationary_scale, moving_scale, tile_position=None, tile_size=None,
                 accumulate=None, name=None):
    core.matmul_mx(dst, stationary, moving, _scales("stationary_scale", stationary_scale),
                   _scales("moving_scale", moving_scale), -1 if accumulate is None else int(bool(accumulate)))


def quantize_mx(dst, src, dst_scale, name=None):
    core.issue(_QUANTIZE, VECTOR, 0, 0, 0, 0, dst, src, _scales("dst_scale", dst_scale), None, int(doubles_scales), 0, 0)


def bits(tile):
    """A tile of a packed type, or of scales, as integers of its width."""
    return tile.view(f"uint{8 * dtypes.numpy_of(tile._dtype).itemsize}")
