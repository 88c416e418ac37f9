"""Protocol buffers' wire format, as far as the messages of the Open Inference Protocol need it: a message is fields, each
a number and a value. A field that is not known is passed over, as the format asks for.
"""

import struct

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
Fields = dict[int, list]


def _varint(n: int) -> bytes:
    """Negative numbers as two's complement of 64 bits."""
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number: int, value) -> bytes:
    """A text, bytes, a message's bytes, a truth value, an integer, or a float as a double."""
    if isinstance(value, float):
        return _varint(number << 3 | FIXED64) + struct.pack("<d", value)
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    raw = value.encode() if isinstance(value, str) else bytes(value)
    return _varint(number << 3 | LENGTH) + _varint(len(raw)) + raw


def packed(number: int, integers) -> bytes:
    return field(number, b"".join(_varint(int(i)) for i in integers))


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    n = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("the message breaks off in a number")
        byte = data[at]
        at += 1
        n |= (byte & 0x7F) << shift
        if byte < 0x80:
            return n & (1 << 64) - 1, at
    raise ValueError("a number of the message has more than 64 bits")


def fields(data) -> Fields:
    """By number, in order: integers of varints (unsigned), memoryviews of all else. ValueError: it is no message."""
    data, at, found = memoryview(data), 0, {}
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _read_varint(data, at)
        elif kind in (FIXED64, LENGTH, FIXED32):
            n = 8 if kind == FIXED64 else 4
            if kind == LENGTH:
                n, at = _read_varint(data, at)
            if at + n > len(data):
                raise ValueError("the message breaks off in a field")
            value, at = data[at : at + n], at + n
        else:
            raise ValueError(f"a field of the message has wire type {kind}")
        found.setdefault(key >> 3, []).append(value)
    return found


def text(message: Fields, number: int) -> str:
    """The last one counts; an absent field is empty. ValueError: it is not UTF-8."""
    values = message.get(number)
    return bytes(_bytes(values[-1])).decode("utf-8") if values else ""


def _bytes(value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a field of the message has a number in place of bytes")
    return value


def messages(message: Fields, number: int) -> list[Fields]:
    return [fields(_bytes(v)) for v in message.get(number, [])]


def blobs(message: Fields, number: int) -> list[memoryview]:
    return [_bytes(v) for v in message.get(number, [])]


def integers(message: Fields, number: int, is_signed: bool = True) -> list[int]:
    """A repeated field, packed or not."""
    found = []
    for value in message.get(number, []):
        at = 0
        while not isinstance(value, int) and at < len(value):
            n, at = _read_varint(value, at)
            found.append(n)
        if isinstance(value, int):
            found.append(value)
    return [n - (1 << 64) if is_signed and n >= 1 << 63 else n for n in found]


def floats(message: Fields, number: int, size: int) -> list[float]:
    """A repeated float (size 4) or double (size 8), packed or not."""
    raw = b"".join(bytes(_bytes(v)) for v in message.get(number, []))
    if len(raw) % size:
        raise ValueError("a list of floats of the message breaks off")
    return list(struct.unpack(f"<{len(raw) // size}{'f' if size == 4 else 'd'}", raw))
