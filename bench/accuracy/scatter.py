"""The accuracy plot: a dot a measurement, its time to the right, ours over published upwards."""

import html
import math

from accuracy.rows import GROUPS, by_group

WIDTH, HEIGHT = 860, 540
LEFT, RIGHT, TOP, BOTTOM = 74, 28, 76, 62
RATIOS = (0.25, 0.5, 0.7, 1, 1.4, 2, 4, 8, 16, 32)
# A colour and a shape each, so that groups differ without colour too. Both are legible on white and
# on a dark page's own background, which the plot does not use: it brings a white one.
MARKS = {
    "formula": ("#666666", "circle"),
    "instruction": ("#0072b2", "circle"),
    "interval": ("#56b4e9", "diamond"),
    "dma": ("#e69f00", "square"),
    "trace": ("#009e73", "triangle"),
    "kernel": ("#cc79a7", "triangle-down"),
    "collective": ("#7a5195", "square"),
    "compiled": ("#8a6d00", "plus"),
    "model": ("#d55e00", "cross"),
    "nki": ("#117733", "diamond"),
}
UNIT_NS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
STYLE = """text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #222 }
.small { font-size: 12px; fill: #555 } .title { font-size: 16px; font-weight: 600 }
.grid { stroke: #e4e4e4 } .one { stroke: #222; stroke-width: 1.5 } .axis { stroke: #888 }
.band { fill: #eef3ee }"""


def nanoseconds(row):
    """The published time, or None for a row that is no time (cycles, bytes a second)."""
    return row.published * UNIT_NS[row.unit] if row.unit in UNIT_NS else None


def mark(shape, x, y, size, colour, title):
    s = size
    paths = {
        "square": f"M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z",
        "diamond": f"M{x:.1f} {y - 1.3 * s:.1f}l{1.3 * s} {1.3 * s}l{-1.3 * s} {1.3 * s}l{-1.3 * s} {-1.3 * s}z",
        "triangle": f"M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s} {2.2 * s}h{-2.4 * s}z",
        "triangle-down": f"M{x:.1f} {y + 1.2 * s:.1f}l{1.2 * s} {-2.2 * s}h{-2.4 * s}z",
        "cross": f"M{x - s:.1f} {y - s:.1f}l{2 * s} {2 * s}m0 {-2 * s}l{-2 * s} {2 * s}",
        "plus": f"M{x - 1.2 * s:.1f} {y:.1f}h{2.4 * s}m{-1.2 * s} {-1.2 * s}v{2.4 * s}",
        "circle": f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
    }
    paint = f'fill="none" stroke="{colour}" stroke-width="1.8"' if shape in ("cross", "plus") else (
        f'fill="{colour}" fill-opacity="0.75"')
    tip = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<path d="{paths[shape]}" {paint}>{tip}</path>'


class Plane:
    """Logarithmic axes: x of a time, y of a ratio."""

    def __init__(self, times, ratios):
        self.x_from = math.floor(math.log10(min(times)))
        self.x_to = max(math.ceil(math.log10(max(times))), self.x_from + 1)
        self.y_from = math.log(min(0.5, min(ratios)) / 1.1)
        self.y_to = math.log(max(2.0, max(ratios)) * 1.1)

    def x(self, ns):
        share = (math.log10(ns) - self.x_from) / (self.x_to - self.x_from)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, ratio):
        share = (math.log(ratio) - self.y_from) / (self.y_to - self.y_from)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def time_label(exponent):
    unit, base = (("ns", 0), ("\N{MICRO SIGN}s", 3), ("ms", 6), ("s", 9))[min(max(exponent, 0) // 3, 3)]
    return f"{10 ** (exponent - base):g} {unit}"


def grid(plane):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [f'<rect class="band" x="{LEFT}" width="{right - LEFT}" y="{plane.y(1.1):.1f}" '
           f'height="{plane.y(1 / 1.1) - plane.y(1.1):.1f}"/>']
    for exponent in range(plane.x_from, plane.x_to + 1):
        x = plane.x(10.0**exponent)
        out.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{time_label(exponent)}</text>')
    for ratio in RATIOS:
        if plane.y_from <= math.log(ratio) <= plane.y_to:
            y = plane.y(ratio)
            out.append(f'<path class="{"one" if ratio == 1 else "grid"}" d="M{LEFT} {y:.1f}H{right}"/>')
            out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{ratio:g}</text>')
    out.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    middle = (TOP + bottom) / 2
    turn = f"translate(20 {middle:.0f}) rotate(-90)"
    out.append(f'<text transform="{turn}" text-anchor="middle">ours / published</text>')
    out.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">published time</text>')
    return out


def legend(rows):
    """The mark, the name and the mean error of each group that has dots, four a line."""
    out, summaries = [], by_group(rows)
    shown = {row.group for row in rows if nanoseconds(row)}
    for i, group in enumerate(group for group in GROUPS if group in shown):
        x, y = LEFT + i % 4 * (WIDTH - LEFT) / 4, 42 + 20 * (i // 4)
        text = f"{group} {100 * summaries[group]['mean_abs_error']:.3g} %"
        out += [mark(MARKS[group][1], x + 6, y - 4, 4.5, MARKS[group][0], "")]
        out += [f'<text x="{x + 17:.1f}" y="{y}">{text}</text>']
    return out


def draw(rows):
    """The SVG's text. Rows that are no time are left out; they are in the tables."""
    dots = [(nanoseconds(row), row) for row in rows if nanoseconds(row)]
    plane = Plane([ns for ns, _ in dots] or [1, 10], [row.ratio for _, row in dots] or [1])
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           'aria-label="vtrn\'s times over published times, for each measurement">',
           f"<style>{STYLE}</style>", f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           f'<text class="title" x="{LEFT}" y="22">vtrn against published times, and each group\'s mean error</text>']
    out += grid(plane) + legend(rows)
    for ns, row in sorted(dots, key=lambda dot: GROUPS.index(dot[1].group)):
        colour, shape = MARKS[row.group]
        tip = f"{row.name}, {row.chip}: {row.ours:.4g} {row.unit}, published {row.published:.4g}"
        out.append(mark(shape, plane.x(ns), plane.y(row.ratio), 4, colour, tip))
    above = plane.y(1.1) - 4
    out.append(f'<text class="small" x="{WIDTH - RIGHT}" y="{above:.1f}" text-anchor="end">within 10 %</text>')
    return "\n".join(out + ["</svg>", ""])
