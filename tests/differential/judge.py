"""Whether a device's results are right, given exact values, moved values and the CPU's results."""

import dataclasses

import ml_dtypes
import numpy as np

AMPLITUDE = 4.0  # of the noise: each operation of a moved value may err four times as much as on a device
# Moved values come in pairs of opposite noise. More of them only widen the bounds, so as few are made
# as let a result pass. Before an element counts as wrong, the largest of many moves counts twice: a
# device's error is one more draw, which may exceed all that were seen.
N_PAIRS_IN_DOUBT = 16
MARGIN_IN_DOUBT = 2.0
ROUNDS = ((1, 1.0), (2, 1.0), (4, 1.0), (N_PAIRS_IN_DOUBT, MARGIN_IN_DOUBT))


@dataclasses.dataclass
class Verdict:
    """outcome is ok, wrong, type, nonfinite; the CPU's own error makes it oracle."""

    outcome: str
    text: str = ""
    n_undecided: int = 0
    is_blunt: bool = False  # the bound is so wide that it says little


def bound_of(exact, moved, margin, dtype):
    """The error that each element may have.

    The largest move of the element itself. Moves are random, so an element may by luck have moved
    too little: along one of its lines through the array (the one that moved least), the root mean
    square of the moves is a bound too. The result is rounded to its type, and numbers that are not
    normal may be flushed to zero.
    """
    info = ml_dtypes.finfo(dtype)
    rounding = np.abs(exact) * float(info.eps) / 2 + float(info.smallest_normal)
    moves = np.zeros(exact.shape)
    for m in moved:
        with np.errstate(invalid="ignore"):
            moves = np.fmax(moves, np.where(np.isfinite(m) & np.isfinite(exact), np.abs(m - exact), 0))
    lines = [np.sqrt(np.mean(moves**2, axis=d, keepdims=True)) for d in range(moves.ndim) if moves.shape[d] > 1]
    for line in lines[1:]:
        lines[0] = np.minimum(lines[0], line)
    return margin * np.maximum(moves, lines[0] if lines else 0) + rounding


def class_of(x):
    """0 for finite values, else which of NaN and the infinities it is."""
    return np.where(np.isnan(x), 3, np.where(np.isposinf(x), 2, np.where(np.isneginf(x), 1, 0)))


def compare_floats(got, cpu, exact, moved, dtype, margin):
    """-> masks of wrong elements, of NaN and infinities misplaced, of those that rounding decides, of
    elements at which the CPU is beyond the bound; and the bound.

    An element is right within the bound of the exact value or of the CPU's: in a short type a step
    that decides by comparison goes now and then another way than all moves did, and then it goes so
    on the CPU too.
    """
    info = ml_dtypes.finfo(dtype)
    bound = bound_of(exact, moved, margin, dtype)
    rounded = np.where(np.abs(exact) > float(info.max), np.copysign(np.inf, exact), exact)
    ours, theirs, true = class_of(got), class_of(cpu), class_of(rounded)
    # Where the CPU overflows on the way and float64 does not, either class is right; so is any where
    # rounding decides, as whether a difference is negative under a root. Where the CPU's infinities
    # have met on the way, any class but finite is right as well.
    undecided = np.zeros(exact.shape, bool)
    for m in moved:
        undecided |= class_of(m) != class_of(exact)
    met = ((true != 0) & (theirs != 0) & (theirs != true)) | ((true == 0) & (theirs == 3))
    # An infinity stands for what is beyond the type: it is right where the bound reaches there, and a
    # finite value where the bound reaches back.
    reaches = ((ours == 2) & (exact + bound > float(info.max))) | ((ours == 1) & (exact - bound < -float(info.max)))
    with np.errstate(invalid="ignore"):
        reaches |= (ours == 0) & (np.abs(got - exact) <= bound)
    misplaced = (ours != theirs) & (ours != true) & ~undecided & ~(met & (ours != 0)) & ~reaches
    is_judged = (true == 0) & ~undecided
    with np.errstate(invalid="ignore"):
        wrong = is_judged & (ours == 0) & (np.abs(got - exact) > bound) & ~(np.abs(got - cpu) <= bound)
        cpu_off = is_judged & (theirs == 0) & (np.abs(cpu - exact) > bound)
    return wrong, misplaced, undecided, cpu_off, bound


def compare_exact(got, cpu, exact, moved):
    """Integers and truth values must be equal -> masks as of compare_floats()."""
    undecided = np.zeros(exact.shape, bool)
    for m in moved:
        undecided |= m != exact
    return (got != exact) & (got != cpu) & ~undecided, undecided, (cpu != exact) & ~undecided


def is_too_many(mask):
    """Of elements at which the CPU is off; one in a thousand may be."""
    return mask.sum() > 1 + mask.size // 1000


def first_difference(mask, got, cpu, exact, bound):
    at = tuple(int(i) for i in np.argwhere(mask)[0]) if mask.ndim else ()
    text = f"{int(mask.sum())} of {mask.size} elements, first at {at}: neuron {got[at]!s}, cpu {cpu[at]!s}"
    if bound is None:
        return text
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        worst = np.nanmax(np.where(np.isfinite(got) & np.isfinite(exact), np.abs(got - exact) / bound, 0))
    return f"{text}, float64 {exact[at]:.9g}, bound {bound[at]:.2g}; at worst {worst:.3g} bounds"


def judge_output(i, got, cpus, exact, moved, margin):
    """One output: got and each of cpus in the program's type, exact and each of moved in float64 or exact.

    The CPU is held to the same bound: where it fails, the bound is not to be believed. Of several results
    of the CPU one is enough, for an element to be right and for the bound to be believed.
    """
    cpu = cpus[0]
    if got.shape != cpu.shape or got.dtype != cpu.dtype:
        return Verdict("type", f"output {i}: neuron {got.dtype}{got.shape}, cpu {cpu.dtype}{cpu.shape}")
    dtype, bound, misplaced = got.dtype, None, None
    if dtype.kind in "iub":
        exact, moved = exact.astype(dtype), [m.astype(dtype) for m in moved]
        masks = [compare_exact(got, c, exact, moved) for c in cpus]
        wrong, undecided, cpu_off = (np.logical_and.reduce(m) for m in zip(*masks))
    else:
        got, cpus = got.astype(np.float64), [c.astype(np.float64) for c in cpus]
        compared = [compare_floats(got, c, exact, moved, dtype, margin) for c in cpus]
        wrong, misplaced, undecided, cpu_off = (np.logical_and.reduce(m) for m in zip(*(c[:4] for c in compared)))
        bound = compared[0][4]
        if len(cpus) > 1:
            # Both ways of the CPU and the chip agree: a tie of rounded values went another way in float64.
            with np.errstate(invalid="ignore"):
                cpu_off &= ~((np.abs(cpus[0] - cpus[1]) <= bound) & (np.abs(got - cpus[0]) <= bound))
    for outcome, mask in (("oracle", cpu_off if is_too_many(cpu_off) else None), ("nonfinite", misplaced), ("wrong", wrong)):
        if mask is not None and mask.any():
            return Verdict(outcome, f"output {i}: " + first_difference(mask, got, cpu, exact, bound))
    is_blunt = False
    if bound is not None:
        finite = np.isfinite(exact)
        is_blunt = bool(exact[finite].any() and np.median(bound[finite]) > 0.2 * rms(exact[finite]))
    return Verdict("ok", n_undecided=int((undecided | cpu_off).sum()), is_blunt=is_blunt)


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def judge(got, cpu, exact, moved, margin=1.0, stepwise=None):
    """All outputs -> the first that is not ok, or what the good ones have in common.

    stepwise: the CPU's results when it runs operation by operation, rounding each. A compiled program
    keeps short types wide between operations, so what rounds them all alike may be far from it.
    """
    if len(got) != len(cpu):
        return Verdict("type", f"neuron has {len(got)} outputs, cpu {len(cpu)}")
    cpus = list(zip(cpu, stepwise)) if stepwise else [(c,) for c in cpu]
    verdicts = [judge_output(i, *each, margin) for i, each in enumerate(zip(got, cpus, exact, zip(*moved)))]
    for outcome in ("type", "wrong", "nonfinite", "oracle"):
        for verdict in verdicts:
            if verdict.outcome == outcome:
                return verdict
    return Verdict("ok", "", sum(v.n_undecided for v in verdicts), any(v.is_blunt for v in verdicts))
