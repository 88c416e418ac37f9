"""Includes point down only: base < chip < isa < engine < timing < runtime < api < pjrt, cli."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

# What each layer may include besides itself.
ALLOWED = {
    "base": set(),
    "chip": {"base"},
    "isa": {"base", "chip"},
    "engine": {"base", "chip", "isa"},
    "timing": {"base", "chip", "isa", "engine"},
    "check": {"base", "chip", "isa", "engine", "timing"},
    "compiler": {"base", "chip", "isa", "engine"},
    "profile": {"base", "chip", "isa", "engine", "timing"},
    "runtime": {"base", "chip", "isa", "engine", "timing"},
    "api": {"base", "chip", "isa", "engine", "timing", "runtime", "compiler", "profile", "check"},
    "pjrt": {"base", "chip", "isa", "engine", "timing", "runtime", "compiler", "profile", "api"},
    "cli": {"base", "chip", "isa", "engine", "timing", "runtime", "compiler", "profile", "api"}
    | {"check"},
}
# The compiler takes the plan's declarations from engine/, not how instructions execute.
COMPILER_ENGINE_HEADERS = {"engine/plan.h", "engine/core.h"}

FILES = sorted(p for p in SRC.rglob("*") if p.suffix in (".c", ".h", ".def") and p.parent != SRC)


def includes_of(path):
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), flags=re.M)


def test_there_are_files_to_check():
    assert len(FILES) > 30


def test_every_layer_is_known():
    assert {p.relative_to(SRC).parts[0] for p in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_includes_point_down_only(path):
    layer = path.relative_to(SRC).parts[0]
    for include in includes_of(path):
        target = include.split("/")[0] if "/" in include else None
        if target is None or target == layer:
            continue
        assert target in ALLOWED[layer], f"{path.relative_to(ROOT)} includes {include}"
        if layer == "compiler" and target == "engine":
            assert include in COMPILER_ENGINE_HEADERS, f"{path.relative_to(ROOT)}: {include}"


def test_the_rules_have_no_cycle():
    done = set()
    while len(done) < len(ALLOWED):
        ready = {k for k, v in ALLOWED.items() if k not in done and v <= done}
        assert ready, f"cycle among {set(ALLOWED) - done}"
        done |= ready
