"""Sizes at which the hardware changes what it does, and the small ones between them."""

# A row of a matmul tile is 128, a PSUM bank 512 columns, a DVE block 32; a tile of columns up to 2048.
EDGES = (
    1, 2, 3, 7, 12, 16, 31, 32, 33, 64, 127, 128, 129, 255, 256, 257, 511, 512, 513, 640, 768, 1000,
    1023, 1024, 1025, 1536, 2047, 2048, 2049,
)  # fmt: skip
# For families whose work grows with one dimension alone: tables of a vocabulary, and the edge of a
# partition of SBUF, 192 KiB of fp32.
WIDE = (4096, 8193, 49151, 49152, 49153, 50257)
SMALL = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
MIDDLE = (17, 24, 31, 32, 33, 48, 63, 64, 65, 96, 100, 127, 128, 129, 130)

# A program stays well under a second on the host, and so does its float64 twin.
MOST_ELEMENTS = 600_000  # of one value
MOST_INPUT_ELEMENTS = 1_000_000
MOST_WORK = 30_000_000  # multiplications of a forward pass


def rounded_up(n, multiple):
    return -(-n // multiple) * multiple
