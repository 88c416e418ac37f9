"""Rows of whole models: built from JAX, compiled, and timed without running them.

models.csv has a published measurement a line. Its columns:
  pass          forward; or the pass over a prompt (prefill), or for one token (decode)
  rows          tokens a row of the batch, or pixels of an image's side; for decode the keys kept
  published     as it was published, in unit
  cores         NeuronCores that worked, each on batches of its own
  milliseconds  one call on one core: 1000 cores batch / (inferences/s), or for MBU, the share of
                410 GB/s at which the core moved the bytes that `of` states, the time that this takes
  half          "unseen": not looked at while the compiler was improved
  of            what the figure belongs to: the release, or the bytes moved
"""

import csv
import functools
import json
import pathlib
import subprocess
import sys
import tempfile

from accuracy.rows import Row

TABLE = pathlib.Path(__file__).with_name("models.csv")


def table(is_quick=False):
    with TABLE.open(newline="") as f:
        lines = list(csv.DictReader(f))
    return [line for line in lines if line["is_quick"] == "1"] if is_quick else lines


@functools.lru_cache(maxsize=4)
def artifact_of(model, which, batch, n_rows):
    """Neighbouring lines of the table are often one model on two chips."""
    from accuracy import artifact, models_decoder, models_encoder, models_vision

    donated = ()
    if which == "prefill":
        function, shapes = models_decoder.build_prefill(model, batch, n_rows)
    elif which == "decode":
        function, shapes = models_decoder.build_decode(model, batch, n_rows)
        donated = (1,)
    elif model in models_encoder.CONFIGS or model in models_encoder.GPT2_CONFIGS:
        function, shapes = models_encoder.build(model, batch, n_rows)
    else:
        function, shapes = models_vision.build(model, batch, image=n_rows)
    return artifact.make(function, shapes, donated)


def time_artifact(build, artifact, chip):
    """What `vtrn time` says of it, as a dict."""
    with tempfile.NamedTemporaryFile(suffix=".vhlo") as f:
        f.write(artifact)
        f.flush()
        argv = [str(build / "src/cli/vtrn"), "time", f.name, "--chip", chip, "--json"]
        done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return json.loads(done.stdout)


def bound_of(timed):
    """What the time went to, for a row that is far off."""
    engine, share = max(timed["active"].items(), key=lambda item: item[1])
    moved = (timed["hbm_read_bytes"] + timed["hbm_write_bytes"]) / 1e9
    return f"{engine} is busy {100 * share:.0f} % of the time; {moved:.2g} GB moved; MFU {timed['mfu']:.2f}"


def name_of(line):
    what = "" if line["pass"] == "forward" else f"{line['pass']} of "
    of_what = {"forward": "rows", "prefill": "tokens", "decode": "keys"}[line["pass"]]
    size = f"{line['rows']}x{line['rows']}" if line["rows"] == "224" else f"{line['rows']} {of_what}"
    return f"{line['model']}, {what}batch {line['batch']}, {size}"


def measure(build, is_quick, family=None):
    """A row for each line of the table; one that does not compile ends the run."""
    rows = []
    lines = [line for line in table(is_quick) if family in (None, line["family"])]
    order = sorted(lines, key=lambda line: (line["model"], line["pass"], int(line["batch"])))
    for i, line in enumerate(order):
        if sys.stderr.isatty():
            print(f"\r{i + 1}/{len(order)} {name_of(line):70}", end="", file=sys.stderr, flush=True)
        artifact = artifact_of(line["model"], line["pass"], int(line["batch"]), int(line["rows"]))
        timed = time_artifact(build, artifact, line["chip"])
        rows.append((lines.index(line), Row(
            "model", name_of(line), line["chip"], line["source"], float(line["milliseconds"]),
            timed["step_ns"] / 1e6, "ms", line["half"], line["family"],
            note=line["note"] or bound_of(timed),
        )))
    if sys.stderr.isatty():
        print("\r" + " " * 90 + "\r", end="", file=sys.stderr)
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]
