"""What the examples share: handwritten digits drawn by strokes, text, and a line a step."""

import itertools

import torch

# Rows of 8 pixels, a hexadecimal byte each.
SHAPES = (
    "3c66666e76663c00", "1838181818187e00", "3c66060c30607e00", "3c66061c06663c00", "060e1e667f060600",
    "7e607c0606663c00", "3c60607c66663c00", "7e660c1818181800", "3c66663c66663c00", "3c66663e06663c00",
)  # fmt: skip


def digits(size: int, n_colors: int = 1):
    """Without end: (images [size][n_colors][8][8], labels [size]), the digits shifted, dimmed and noisy."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.tensor([list(bytes.fromhex(shape)) for shape in SHAPES])
    glyphs = ((rows[:, :, None] >> torch.arange(7, -1, -1)) & 1).float()
    while True:
        labels = torch.randint(10, (size,), generator=generator)
        shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
        images = glyphs[labels].roll(shift, (1, 2))[:, None] * (0.5 + torch.rand(size, n_colors, 1, 1, generator=generator) / 2)
        yield images + 0.1 * torch.randn(size, n_colors, 8, 8, generator=generator), labels


def words(size: int, length: int, n_words: int):
    """Without end: sequences [size][length + 1] that count up, each by its own step."""
    generator = torch.Generator().manual_seed(2)
    while True:
        first = torch.randint(n_words, (size, 1), generator=generator)
        step = torch.randint(1, 4, (size, 1), generator=generator)
        yield (first + step * torch.arange(length + 1)) % n_words


def report(losses, n_steps: int = 20) -> None:
    for i, loss in enumerate(itertools.islice(losses, n_steps)):
        print(f"step {i + 1:3}  loss {loss.item():.6f}")
