"""bench/run accuracy --nki-sources: kernels are found in files, logs and texts, and timed."""

import csv
import pathlib
import tomllib
import sys

import pytest
from paths import BUILD, ROOT

pytest.importorskip("vtrn.nki", exc_type=ImportError)
sys.path.insert(0, str(ROOT / "bench"))

from accuracy import nki_sources  # noqa: E402

KERNEL = """@nki.jit
def doubled(a, factor=COLUMNS):
    out = nl.ndarray(a.shape, a.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.multiply(nl.load(a), factor))
    return out
"""
IMPORTS = "import neuronxcc.nki as nki\nimport neuronxcc.nki.language as nl\nCOLUMNS = 2\n"
FIELDS = "id name repository commit file kernel arguments replace chip published unit half note".split()


def table(tmp_path, monkeypatch, *lines):
    """nki_kernels.csv of lines that differ from an ordinary one, and a checkout of their files."""
    root, path = tmp_path / "sources", tmp_path / "table.csv"
    (root / "somebody/kernels").mkdir(parents=True)
    (root / "somebody/kernels/plain.py").write_text(IMPORTS + KERNEL)
    code = KERNEL.replace("COLUMNS", "3")
    (root / "somebody/kernels/log.py").write_text(
        f"CodeCandidate(parent=CodeCandidate(parent=None, code={KERNEL!r}, score=5.5), code={code!r}, score=2.25)\n")
    indented = "\n".join("   " + line for line in code.splitlines())
    (root / "somebody/kernels/page.rst").write_text(f"Text.\n\n.. code-block:: python\n\n   x = 1\n\nMore.\n\n"
                                                    f".. code-block:: python\n   :linenos:\n\n{indented}\n\nEnd.\n")
    ordinary = dict.fromkeys(FIELDS, "") | dict(
        name="doubled", repository="somebody/kernels", commit="abc", file="plain.py", kernel="doubled", arguments="fp32[128,256]",
        chip="trn2", published="20", unit="us", half="unseen")
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, FIELDS)
        writer.writeheader()
        writer.writerows(ordinary | {"id": f"L-{i}"} | line for i, line in enumerate(lines))
    monkeypatch.setattr(nki_sources, "TABLE", path)
    monkeypatch.setattr(nki_sources, "__file__", str(copy_of_module(tmp_path, path)))
    return root


def copy_of_module(tmp_path, path):
    """What runs in a process of its own, with the table at path."""
    module = tmp_path / "bench/accuracy/nki_sources.py"
    module.parent.mkdir(parents=True)
    text = (ROOT / "bench/accuracy/nki_sources.py").read_text()
    module.write_text(text.replace('pathlib.Path(__file__).with_name("nki_kernels.csv")', f"pathlib.Path({str(path)!r})"))
    (tmp_path / "chips").symlink_to(ROOT / "chips")
    (tmp_path / "python").symlink_to(ROOT / "python")
    return module


def test_kernels_are_found_where_they_are_and_timed(tmp_path, monkeypatch):
    root = table(tmp_path, monkeypatch, {}, {"kernel": "doubled + doubled", "arguments": "fp32[128,256] + fp32[128,256]"},
                 {"kernel": "score=2.25", "file": "log.py"}, {"kernel": "block 1", "file": "page.rst"},
                 {"replace": "COLUMNS = 2 => COLUMNS = 5", "arguments": "bf16[128,256] factor=2.0", "chip": "trn1"},
                 {"chip": "trn2 --disable-dge", "half": "fitted"},
                 {"repository": "somebody/else"}, {"kernel": "score=1.5", "file": "log.py"}, {"replace": "ROWS => 1"},
                 {"arguments": "fp32[129,256]"}, {"chip": "trn2 nki.benchmark"}, {"chip": "trn2 preamble_ns=benchmark_preamble_ns"})
    rows, missing = nki_sources.measure(pathlib.Path(BUILD), root)
    times = {row.name.split()[0]: row.ours for row in rows}
    assert times.keys() == {f"L-{i}" for i in (*range(6), 10, 11)}
    assert times["L-1"] == pytest.approx(2 * times["L-0"]) and times["L-2"] == times["L-3"] == times["L-0"]
    assert 10 < times["L-0"] < 40 and times["L-5"] < times["L-0"]  # the DGE takes its time
    launch = tomllib.loads((ROOT / "chips/trn2.toml").read_text())["launch"]
    later_us = (launch["preamble_ns"] - launch["benchmark_preamble_ns"]) / 1000
    assert times["L-0"] - times["L-10"] == pytest.approx(later_us) and times["L-10"] == times["L-11"]
    assert [row.half for row in rows].count("fitted") == 1 and {row.chip for row in rows} == {"trn1", "trn2"}
    assert "has to be below" in missing["L-6"] and "no candidate has the score 1.5" in missing["L-7"]
    assert "'ROWS'" in missing["L-8"] and "partitions" in missing["L-9"]


def test_the_table_names_files_at_commits():
    lines = nki_sources.lines()
    assert len(lines) > 100 and len({line["id"] for line in lines}) == len(lines)
    for line in lines:
        assert float(line["published"]) > 0 and line["unit"] in ("us", "ms") and line["half"] in ("fitted", "unseen"), line
        assert line["repository"].count("/") == 1 and line["commit"] and line["chip"].split()[0] in ("trn1", "trn2"), line
        for given in line["arguments"].split(" + "):
            assert all(len(word) for word in given.split()), line
