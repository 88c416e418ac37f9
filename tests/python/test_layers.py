"""The tree keeps its shape: includes point down only (base < chip < isa < cost, engine < timing <
runtime < api < pjrt, cli), headers compile alone, file names are unique, files stay small."""

import collections
import pathlib
import re
import shutil
import subprocess
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

# What each layer may include besides itself.
ALLOWED = {
    "base": set(),
    "chip": {"base"},
    "isa": {"base", "chip"},
    "cost": {"base", "chip", "isa"},
    "engine": {"base", "chip", "isa"},
    "timing": {"base", "chip", "isa", "cost"},
    "collective": {"base", "chip"},
    "transport": {"base"},
    "check": {"base", "chip", "isa", "engine", "timing"},
    "compiler": {"base", "chip", "isa", "cost", "engine", "collective"},
    "profile": {"base", "chip", "isa", "engine", "timing", "collective"},
    "runtime": {"base", "chip", "isa", "engine", "timing", "collective", "transport"},
    "api": {"base", "chip", "isa", "engine", "timing", "collective", "transport", "runtime", "compiler", "profile", "check"},
    "pjrt": {"base", "chip", "isa", "engine", "timing", "runtime", "compiler", "profile", "api", "transport"},
    "cli": {"base", "chip", "isa", "engine", "timing", "runtime", "compiler", "profile", "api"}
    | {"check", "collective"},
    "nki": {"base", "chip", "isa", "engine", "timing", "runtime", "compiler", "collective", "api"},
}
# Of the compiler, a kernel that is written by hand knows the back end.
NKI_COMPILER_STAGE = "build"
# The compiler takes the plan's declarations from engine/, not how instructions execute.
COMPILER_ENGINE_HEADERS = {"engine/plan.h", "engine/core.h"}
# What each stage of the compiler may include of the others; options.h is of all of them. Kernels are
# planned before an instruction exists, emission knows no open fusion, and instructions become a
# program without a graph.
COMPILER_STAGES = {
    "vhlo": set(),
    "graph": {"vhlo"},
    "linalg": set(),
    "reference": {"graph", "linalg"},
    "passes": {"graph", "reference"},
    "build": set(),
    "plan": {"graph", "build"},
    "emit": {"plan", "build"},
    "custom": {"vhlo", "graph", "reference", "plan"},
    "lower": {"graph", "reference", "build", "plan", "custom"},
}

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
        if layer == "nki" and target == "compiler":
            assert include.split("/")[1] == NKI_COMPILER_STAGE, f"{path.relative_to(ROOT)}: {include}"


def test_stages_of_the_compiler_include_what_they_may():
    seen = set()
    for path in FILES:
        parts = path.relative_to(SRC).parts
        allowed = COMPILER_STAGES.get(parts[1]) if parts[0] == "compiler" else None
        if allowed is None:
            continue
        seen.add(parts[1])
        for include in includes_of(path):
            layer, _, rest = include.partition("/")
            stage = rest.split("/")[0]
            if layer == "compiler" and stage != parts[1]:
                assert stage in allowed | {"options.h"}, f"{path.relative_to(ROOT)} includes {include}"
            assert layer != "engine", f"{path.relative_to(ROOT)} includes {include}"
    assert seen == set(COMPILER_STAGES)


def test_the_rules_have_no_cycle():
    done = set()
    while len(done) < len(ALLOWED):
        ready = {k for k, v in ALLOWED.items() if k not in done and v <= done}
        assert ready, f"cycle among {set(ALLOWED) - done}"
        done |= ready


def circles_of_files():
    """Sets of files of the compiler that include each other. a.c and a.h are one file: what the
    implementation includes, the interface needs too."""
    def unit(path):
        return str(path.relative_to(SRC / "compiler").with_suffix(""))

    graph = collections.defaultdict(set)
    for path in FILES:
        if path.is_relative_to(SRC / "compiler"):
            targets = [SRC / include for include in includes_of(path)]
            graph[unit(path)] |= {unit(t) for t in targets if t.is_relative_to(SRC / "compiler")}

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    reach = {name: reached(name) - {name} for name in list(graph)}
    circles = {frozenset([a, *(b for b in reach[a] if a in reach.get(b, ()))]) for a in reach}
    return {circle for circle in circles if len(circle) > 1}


def test_no_files_of_the_compiler_include_each_other_in_a_circle():
    """Where two files need each other, what both need is a third."""
    assert not sorted(map(sorted, circles_of_files()))


HEADERS = [p for p in FILES if p.suffix == ".h"] + [ROOT / "include" / "vtrn.h"]
MAX_LINES = 900
OURS = [p for top in ("src", "include", "tests", "bench", "fuzz", "examples")
        for p in sorted((ROOT / top).rglob("*")) if p.suffix in (".c", ".h", ".inc", ".def", ".py")]  # fmt: skip


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_every_header_compiles_alone():
    python = sysconfig.get_paths()["include"]
    has_python = (pathlib.Path(python) / "Python.h").exists()
    broken = []
    for path in HEADERS:
        if "python" in path.parts and not has_python:
            continue
        command = ["cc", "-std=c17", "-D_GNU_SOURCE", "-DVTRN_LEVEL=base", f"-I{SRC}", f"-I{ROOT / 'include'}", f"-I{python}",
                   "-fsyntax-only", "-xc", "-"]  # fmt: skip
        done = subprocess.run(command, input=f'#include "{path}"\n', capture_output=True, text=True)
        if done.returncode:
            broken.append(f"{path.relative_to(ROOT)}: {done.stderr.splitlines()[0]}")
    assert not broken


def test_names_of_c_files_are_unique():
    places = collections.defaultdict(list)
    for path in OURS:
        if path.suffix in (".c", ".h"):
            places[path.name].append(str(path.relative_to(ROOT)))
    assert not {name: at for name, at in places.items() if len(at) > 1}


def test_no_file_is_too_long_to_read():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in OURS}
    assert not {p: n for p, n in lines.items() if n > MAX_LINES}


def test_no_file_names_a_machine():
    home = re.compile(r"""["' =:](/root|/home/\w+|/work)/""")
    assert not [str(p.relative_to(ROOT)) for p in OURS if home.search(p.read_text())]


def test_the_package_that_is_installed_has_every_module():
    listed = set(re.findall(r"'(vtrn/.*)'", (ROOT / "python/meson.build").read_text()))
    there = {str(p.relative_to(ROOT / "python")) for p in (ROOT / "python/vtrn").rglob("*.py")}
    assert there <= listed, there - listed
