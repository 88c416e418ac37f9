"""The film of a race: one HTML file that needs nothing beside it, and a GIF."""

import base64
import json
import os
import struct
import zlib

import numpy as np

import camera

TEMPLATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "film.html")


def png(grey: np.ndarray) -> bytes:
    """A PNG file of a uint8 image [rows, columns]."""
    lines = b"".join(b"\0" + row.tobytes() for row in grey)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")


def write_html(path: str, track, result) -> None:
    data = {
        "track": track.name,
        "length": track.length,
        "inner": np.round(track.inner, 3).tolist(),
        "outer": np.round(track.outer, 3).tolist(),
        "centre": np.round(track.centre, 3).tolist(),
        "laps": result.laps,
        "frames": [{k: round(v, 4) if isinstance(v, float) else v for k, v in f.items()} for f in result.frames],
        "images": [base64.b64encode(png(i)).decode() for i in result.images],
    }
    with open(TEMPLATE, encoding="utf-8") as f:
        page = f.read()
    # "</" would end the script element that holds the data.
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    with open(path, "w", encoding="utf-8") as f:
        f.write(page.replace("/*DATA*/null", text))


# Colours of the GIF beside 0..239, which are greys.
CAR, TRAIL, ROAD, BORDER, FIELD = range(250, 255)
COLOURS = {CAR: (230, 60, 50), TRAIL: (240, 200, 60), ROAD: (60, 62, 66), BORDER: (240, 240, 240), FIELD: (62, 110, 70)}
SCALE, EVERY = 2, 3


def _lzw(pixels: bytes) -> bytes:
    """GIF's compression of pixels of 8 bits, least significant bit first."""
    clear, end = 256, 257
    codes = {bytes([i]): i for i in range(256)}
    out, held, n_held, width = bytearray(), clear, 9, 9
    word = b""
    for value in pixels:
        longer = word + bytes((value,))
        if longer in codes:
            word = longer
            continue
        held |= codes[word] << n_held
        n_held += width
        codes[longer] = len(codes) + 2
        word = longer[-1:]
        if len(codes) + 2 > (1 << width):
            width += 1
        if len(codes) + 2 > 4095:
            held |= clear << n_held
            n_held += min(width, 12)
            codes, width = {bytes([i]): i for i in range(256)}, 9
        while n_held >= 8:
            out.append(held & 255)
            held >>= 8
            n_held -= 8
    for code in ([codes[word]] if word else []) + [end]:
        held |= code << n_held
        n_held += width
    while n_held > 0:
        out.append(held & 255)
        held >>= 8
        n_held -= 8
    return bytes(out)


def gif(frames, delay_s: float) -> bytes:
    """An endless GIF of uint8 images [rows, columns], in the palette of COLOURS."""
    rows, columns = frames[0].shape
    palette = bytearray(v for g in range(256) for v in (g, g, g))
    for i, colour in COLOURS.items():
        palette[3 * i : 3 * i + 3] = bytes(colour)
    out = b"GIF89a" + struct.pack("<HHBBB", columns, rows, 0xF7, 0, 0) + bytes(palette)
    out += b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    for image in frames:
        out += b"\x21\xf9\x04\0" + struct.pack("<H", round(100 * delay_s)) + b"\0\0"
        out += b"\x2c" + struct.pack("<HHHHB", 0, 0, columns, rows, 0) + b"\x08"
        data = _lzw(image.tobytes())
        out += b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255)) + b"\0"
    return out + b"\x3b"


def _is_inside(line, x, y):
    """Even-odd rule for points [P] and a closed polyline."""
    a, b = line[:-1], line[1:]
    rise = b[:, 1] - a[:, 1]
    slope = np.where(rise == 0, 0, (b[:, 0] - a[:, 0]) / np.where(rise == 0, 1, rise))
    is_between = (a[:, 1] > y[:, None]) != (b[:, 1] > y[:, None])
    return (np.sum(is_between & (a[:, 0] + (y[:, None] - a[:, 1]) * slope > x[:, None]), 1) % 2).astype(bool)


class TopView:
    """The track from above, as an image of rows x columns."""

    def __init__(self, track, rows: int, columns: int):
        points = np.concatenate([track.inner, track.outer])
        low, high = points.min(0) - 0.2, points.max(0) + 0.2
        self.scale = float(min(columns / (high[0] - low[0]), rows / (high[1] - low[1])))
        self.middle, self.shape = (low + high) / 2, (rows, columns)
        v, u = np.mgrid[0:rows, 0:columns]
        x = (u.reshape(-1) + 0.5 - columns / 2) / self.scale + self.middle[0]
        y = (rows / 2 - v.reshape(-1) - 0.5) / self.scale + self.middle[1]
        is_road = _is_inside(track.outer, x, y) != _is_inside(track.inner, x, y)
        self.image = np.where(is_road, ROAD, FIELD).astype(np.uint8).reshape(rows, columns)
        for line in (track.inner, track.outer):
            dense = np.concatenate([line[:-1] + t * np.diff(line, axis=0) for t in np.linspace(0, 1, 24)])
            self.image[self.pixel(*dense.T)] = BORDER

    def pixel(self, x, y):
        u = np.floor((np.asarray(x) - self.middle[0]) * self.scale + self.shape[1] / 2).astype(int)
        v = np.floor(self.shape[0] / 2 - (np.asarray(y) - self.middle[1]) * self.scale).astype(int)
        return np.clip(v, 0, self.shape[0] - 1), np.clip(u, 0, self.shape[1] - 1)


def write_gif(path: str, track, result) -> None:
    """The race from above, and what the camera sees, side by side; every third frame."""
    top, images = TopView(track, SCALE * camera.HEIGHT, SCALE * camera.WIDTH), []
    view = top.image.copy()
    for i, (frame, image) in enumerate(zip(result.frames, result.images)):
        view[top.pixel(frame["x"], frame["y"])] = TRAIL
        if i % EVERY:
            continue
        now = view.copy()
        v, u = top.pixel(frame["x"], frame["y"])
        now[max(0, v - 3) : v + 4, max(0, u - 3) : u + 4] = CAR
        seen = np.minimum(image, 239).repeat(SCALE, 0).repeat(SCALE, 1)
        images.append(np.concatenate([now, seen], 1))
    with open(path, "wb") as f:
        f.write(gif(images, EVERY / 15))
