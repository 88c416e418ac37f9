"""What takes nki-library's MX tests their time, faster, with the same values: their inputs, and the floats of packed ones.

The library draws one element of each 8 x 4 weights by five calls of Python; a test of a mixture of experts has hundreds of
millions of weights. And many tests of a file have the same weights. Its references unpack each by some twenty passes."""

import functools
import sys

import numpy as np

from vtrn.conformance.nkilib_stubs import static_cast

DRAW, WEIGHTS = "generate_stabilized_mx_data", "gen_moe_mx_weights"
UNPACK = {"unpack_float8_e4m3fn_x4": np.uint32, "unpack_float8_e5m2_x4": np.uint32, "unpack_float4_x4": np.uint16}
ROWS, COLUMNS = 8, 4  # of a block that has a scale
WORDS = 8 / 7 + 4 / 3 + 3  # of 32 bits that a block draws on average


def draw_blocks(n):
    """What the library draws for n blocks one after another, from NumPy's global generator: arrays of rows (0 to 6),
    columns (0 to 2), signs (-1 or 1) and numbers in [0, 1).

    A row is the lowest bits of the first word that are below 7, as RandomState.randint(0, 7) has it, a column of the
    next below 3, a sign the lowest bit of the next, and a number 53 bits of two more."""
    begin = np.random.get_state()
    words, starts = np.empty(0, np.uint32), None
    while starts is None:
        more = int(WORDS * n * 1.01) + 100
        words = np.concatenate([words, np.random.randint(0, 2**32, size=more, dtype=np.uint32)])
        starts = _starts(words, n)
    rows = _next(words, 7, starts[:-1])
    columns = _next(words, 3, rows + 1)
    high, low = words[columns + 2] >> np.uint32(5), words[columns + 3] >> np.uint32(6)
    numbers = (high * 67108864.0 + low) / 9007199254740992.0
    np.random.set_state(begin)
    np.random.randint(0, 2**32, size=starts[-1], dtype=np.uint32)
    return words[rows] & np.uint32(7), words[columns] & np.uint32(3), (words[columns + 1] & np.uint32(1)) * 2.0 - 1, numbers


def _accepted(words, mask):
    """By word: the first at or behind it whose bits of the mask are not all set; beyond the last: the number of words."""
    n = len(words)
    at = np.where((words & np.uint32(mask)) != mask, np.arange(n), n)
    return np.minimum.accumulate(at[::-1])[::-1]


def _next(words, mask, places):
    """The first accepted word at or behind each place."""
    places = places.copy()
    while (left := np.flatnonzero((words[places] & np.uint32(mask)) == mask)).size:
        places[left] += 1
    return places


def _starts(words, n):
    """Where the blocks begin, and where the last one ends; None: there are too few words."""
    n_words = len(words)
    row, column = (np.append(_accepted(words, mask), n_words) for mask in (7, 3))
    end = column[np.minimum(row + 1, n_words)] + 4  # of a block that begins at the word
    end = np.minimum(end, n_words).tolist()
    starts, at = [0] * (n + 1), 0
    for i in range(n):
        starts[i] = at
        at = end[at]
    starts[n] = at
    return np.array(starts) if at < n_words else None


def faster_draw(library, call):
    """The library's function of that name, call, with the same results."""
    is_same = None

    @functools.wraps(call)
    def drawn(mx_dtype, shape, val_range=1.0):
        nonlocal is_same
        if val_range == 0 or shape[0] % ROWS or shape[1] % COLUMNS:
            return call(mx_dtype, shape, val_range)
        if is_same is None:
            is_same = _gives_the_same(library, call, mx_dtype)
        return (_draw(library, mx_dtype, shape, val_range) if is_same else call(mx_dtype, shape, val_range))

    return drawn


def _draw(library, mx_dtype, shape, val_range):
    top, exponent = library.get_mx_fp_max(mx_dtype), library.get_mx_max_exp(mx_dtype)
    values = np.random.random(shape)
    values *= 2
    values -= 1
    values *= top
    by_block = values.reshape(shape[0] // ROWS, ROWS, shape[1] // COLUMNS, COLUMNS)
    rows, columns, signs, numbers = draw_blocks(by_block.shape[0] * by_block.shape[2])
    i, j = np.divmod(np.arange(len(rows)), by_block.shape[2])
    by_block[i, rows, j, columns] = signs * (1 + numbers * 0.5) * 2**exponent
    packed = static_cast(values.astype(np.float32), library.NL_TO_DT_DTYPE.get(mx_dtype, mx_dtype))
    highest = min(255, int(np.log2(val_range / top) + 127))
    scales = np.random.randint(max(0, highest - 10), highest + 1, size=(by_block.shape[0], by_block.shape[2]), dtype=np.uint8)
    return library.dequantize_mx_golden(packed, scales), packed, scales


def _gives_the_same(library, call, mx_dtype):
    """Whether the library's own function gives the same values, and leaves the generator in the same state."""
    begin, found = np.random.get_state(), []
    for draw in (functools.partial(_draw, library), call):
        np.random.set_state(begin)
        found.append((draw(mx_dtype, (16, 256), 1.0), np.random.random()))
    np.random.set_state(begin)
    (mine, after), (theirs, after_theirs) = found
    return after == after_theirs and all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(mine, theirs))


def remembered_weights(call):
    """The library's function of that name, call: what it drew last is given again where the generator is in the same state. The
    arrays are read only."""
    known = {}

    @functools.wraps(call)
    def weights(*args, **kwargs):
        state = np.random.get_state()
        key = (repr((args, sorted(kwargs.items()))), state[1].tobytes(), state[2:])
        if key not in known:
            known.clear()
            drawn = call(*args, **kwargs)
            for array in vars(drawn).values() if hasattr(drawn, "__dict__") else drawn:
                array.flags.writeable = False
            known[key] = drawn, np.random.get_state()
        drawn, end = known[key]
        np.random.set_state(end)
        return drawn

    return weights


def faster_unpack(call, word):
    """The library's function, call, that gives the floats of words by their bytes, from a table that it fills itself."""
    import torch

    codes = np.arange(256, dtype=np.uint8)
    table = call(codes.view(word)[None]).numpy()
    table = np.ascontiguousarray(table.reshape(256, -1))

    @functools.wraps(call)
    def unpacked(packed):
        words = np.ascontiguousarray(packed).view(word)
        values = table[words.view(np.uint8)]
        return torch.from_numpy(values.reshape(*words.shape[:-1], -1))

    return unpacked


def install():
    """Puts them in place of the library's in all of its modules that are loaded."""
    loaded = [m for m in list(sys.modules.values()) if getattr(m, "__name__", "").startswith(("test.", "nkilib"))]
    faster_ones = {DRAW: lambda call: faster_draw(sys.modules[call.__module__], call), WEIGHTS: remembered_weights,
                   **{name: functools.partial(faster_unpack, word=word) for name, word in UNPACK.items()}}
    for name, faster in faster_ones.items():
        made = {}
        for module in loaded:
            if callable(call := getattr(module, name, None)):
                made.setdefault(call, None)
                made[call] = made[call] or faster(call)
                setattr(module, name, made[call])
