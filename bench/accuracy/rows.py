"""A published measurement beside ours, and what a group of them amounts to."""

import dataclasses
import math
import statistics

GROUPS = ("formula", "instruction", "interval", "dma", "trace", "kernel", "collective", "compiled", "model", "nki")
HALVES = ("fitted", "unseen")


@dataclasses.dataclass(frozen=True)
class Row:
    group: str
    name: str
    chip: str
    source: str  # where it was published: an address, or the document's name
    published: float
    ours: float
    unit: str
    half: str = "fitted"  # "unseen": no constant and no decision was chosen by looking at it
    family: str = ""  # of a model
    instance: str = ""  # of a collective: "2 x trn1.32xlarge"
    note: str = ""

    @property
    def ratio(self):
        return self.ours / self.published

    @property
    def error(self):
        return self.ratio - 1

    def as_dict(self):
        return {k: v for k, v in dataclasses.asdict(self).items() if v != ""} | {"error": self.error}


def from_dict(entry):
    return Row(**{k: v for k, v in entry.items() if k != "error"})


def summary(rows):
    """Errors are shares of the published value: 0.05 is 5 %."""
    errors = [abs(row.error) for row in rows]
    return {
        "rows": len(rows),
        "mean_abs_error": statistics.fmean(errors),
        "median_abs_error": statistics.median(errors),
        "worst_abs_error": max(errors),
        "geomean_ratio": math.exp(statistics.fmean(math.log(row.ratio) for row in rows)),
    }


def by_group(rows):
    """{"dma": summary, "dma_fitted": ..., "dma_unseen": ...} for the groups that have rows."""
    out = {}
    for group in GROUPS:
        of_group = [row for row in rows if row.group == group]
        parts = {group: of_group}
        parts |= {f"{group}_{half}": [row for row in of_group if row.half == half] for half in HALVES}
        out |= {name: summary(part) for name, part in parts.items() if part}
    return out


def by_family(rows):
    families = dict.fromkeys(row.family for row in rows if row.family)
    return {family: summary([row for row in rows if row.family == family]) for family in families}


def by_instance(rows):
    instances = dict.fromkeys(row.instance for row in rows if row.instance)
    return {instance: summary([row for row in rows if row.instance == instance]) for instance in instances}


def far_off(rows, low=0.5, high=2.0):
    """Rows whose ratio is outside [low, high]."""
    return [row for row in rows if not low <= row.ratio <= high]
