"""The tables of a run, for a terminal and as docs/accuracy.md with its plot."""

from accuracy import scatter
from accuracy.rows import GROUPS, by_family, by_group, by_instance, far_off

WHAT = {
    "formula": "the documented cost of an instruction in cycles",
    "instruction": "the duration of one instruction",
    "interval": "from the start of one instruction to the start of the next of its kind",
    "dma": "latency and throughput of transfers",
    "trace": "a published timeline of a whole kernel, replayed",
    "kernel": "a published kernel, as the program that it compiles to",
    "collective": "a collective between cores, chips or instances; `bench/accuracy/collectives.csv` says which "
    "published rows do not count and why",
    "compiled": "the function of a published kernel, written in JAX and compiled by vtrn",
    "model": "a whole model, written in JAX and compiled by vtrn",
    "nki": "a published kernel, run from its own source; `bench/accuracy/nki_kernels.csv` says where that is",
}


# Of rows that do not say so themselves.
BOUNDS = {"nki": "what the vendor's compiler changes: \"Kernels from their own source\""}


def percent(share):
    return f"{100 * share:.1f} %"


def number(value):
    return f"{value:.4g}" if value < 1000 else f"{value:,.0f}"


def summary_cells(s):
    return [str(s["rows"]), percent(s["mean_abs_error"]), percent(s["median_abs_error"]),
            percent(s["worst_abs_error"]), f"{s['geomean_ratio']:.3f}"]


SUMMARY_HEAD = ["rows", "mean error", "median", "worst", "ours / published"]


def print_summaries(title, summaries):
    print(f"\n{title:22}" + "".join(f"{head:>18}" for head in SUMMARY_HEAD))
    for name, summary in summaries.items():
        print(f"{name:22}" + "".join(f"{cell:>18}" for cell in summary_cells(summary)))


def print_text(rows, mfu):
    for row in rows:
        print(f"{row.group:11} {row.chip:5} {row.name:66.66} {row.published:12.5g} {row.ours:12.5g} {row.unit:6} "
              f"{100 * row.error:+8.1f} %  {row.half:6} {row.source}")
    if rows:
        print_summaries("group", by_group(rows))
    if by_family(rows):
        print_summaries("family of models", by_family(rows))
    if by_instance(rows):
        print_summaries("collectives of", by_instance(rows))
    if mfu:
        print(f"\n{'MFU':54}{'chip':8}{'published':>10}{'ours':>10}")
    for line in mfu:
        published = f"{line['published']:.2f}" if line["published"] else ""
        print(f"{line['name']:54}{line['chip']:8}{published:>10}{line['mfu']:>10.3f}")


def markdown_table(head, lines):
    """Columns after the first are numbers and stand to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines])


def source_cell(source):
    if not source.startswith("https://"):
        return source
    return f"[{source.split('/')[4]}/{source.rsplit('/', 1)[1]}]({source})"


def rows_table(rows):
    head = ["measurement", "chip", "published", "ours", "unit", "error", "half", "source"]
    lines = [[row.name, row.chip, number(row.published), number(row.ours), row.unit,
              f"{100 * row.error:+.1f} %", row.half, source_cell(row.source)] for row in rows]
    table = markdown_table(head, lines)
    return table.replace("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
                         "| --- | --- | ---: | ---: | --- | ---: | --- | --- |")


def far_section(rows):
    far = sorted(far_off(rows), key=lambda row: row.ratio)
    if not far:
        return "Every row lies within half and twice the published value."
    lines = [[row.name, row.chip, f"{row.ratio:.2f}", row.note or BOUNDS.get(row.group, "the machine model")] for row in far]
    table = markdown_table(["measurement", "chip", "ours / published", "what bounds it"], lines)
    return table.replace("| --- | ---: | ---: | ---: |", "| --- | --- | ---: | --- |")


HEAD = """# Accuracy

How near vtrn's times are to published measurements of the hardware. `bench/run accuracy --write docs`
wrote this page; `bench/README.md` says how a row is made.

![Ours over published, a dot a measurement](accuracy.svg)

An error is ours / published - 1. The mean, the median and the worst are of its absolute value; ours /
published is a geometric mean, below 1 where vtrn is too fast. Each measurement belongs to one of two
halves: constants and decisions were chosen by looking at the fitted half alone, so the unseen half says
what to expect of a program of your own. (Families of models with two or three rows are an exception:
all their rows were in view. So were all kernels of the group `nki` when it was decided what of the vendor's
compiler vtrn does; they count as fitted.)
"""

# Found with `vtrn explain` of the models; a change of the compiler or of a chip may make it untrue.
OUTLIERS = """
What families that are off by more than 30 % have in common:

- EXAONE's prompt: the published program reads 3.7 times its weights.
- ResNet: at batch 1 vtrn is faster by 0.36 to 0.37 ms whichever of the three networks it is (0.23, 0.36 and
  0.45 ms where 0.60, 0.72 and 0.82 were published), so the networks differ from each other as published, and what is
  missing is the same for all: the host's part of a call, which vtrn does not model. Two thirds of it are in other
  families as well: BERT-base has six layers more than DistilBERT and takes 0.37 ms more at batch 1, which leaves
  0.23 ms of DistilBERT's 0.60 for no layer. The rest, 0.14 ms, would be an image in fp32, 0.6 MB, at 4 GB/s. At
  batch 8 ResNet-18 and 34 are faster by 1.2 and 1.6 ms, ResNet-50 by 0.8; copies of 4.8 MB of images explain
  about the one millisecond, not why the deepest network lacks least.
"""

# Of the same measurements as the group's rows.
SOURCES = """
## Kernels from their own source

The vendor's compiler decides much about a kernel of the first generation (`neuronxcc.nki`) that its source leaves open, and more from one
release to the next. What vtrn does is in `docs/nki.md`, "How it works". What its rows do not have, as far as published timelines tell:

- Timelines of small fused kernels merge turns of outer loops, too: a row's maxima and reciprocals of several tiles in one instruction; here turns of
  innermost loops are. Kernels whose authors used nki.benchmark are timed from 3.3 (Trainium1) and 5.7 us (Trainium2) later on than a launch takes here
  (`docs/hardware.md`); their lines name the key.
- The vendor's tutorial measured its own tiled GEMM on Trainium1 at 51.8 ms; the tuner's log, of a later release, measures the same code at 20.99.
  Both cannot hold: loads of rows far apart go at 107 GB/s in one and 200 in the other. The constants follow the tutorial, as the published models do
  (with 214 GB/s their mean error is two points higher); the tuner's lines name the rate of their release.
- Vector additions of tiles of one column on Trainium1 (CS149-001, 002) were measured at 1.6 to 2 times the time here: 1.07 us a turn of three DMAs where a tile has one row,
  0.96 where it has 128, of which the semaphores' updates explain 0.55. Tiles of two columns (CS149-003) took 0.39, so no fixed time of a DMA on static rings explains
  all three, and the matmuls of the tutorial leave 0.29 us a DMA at most. On Trainium2, without the middle end, the same kernels are within 4 %.
- What a loop loads again in each turn is loaded once where all of it has room in SBUF, and each time where it has not: so published times of matmuls have it whose
  weights do not fit (AKC-044 to 046, 0.84 to 1.03 of their time here), and those of the tuner's GEMMs.
- Taylor GELUs (AKC-022, 028, 031, 037, 043, 046) were measured 1.8 to 3.5 us a tile above the same kernel with the table's GELU; here the arithmetic is hidden
  behind the products, and they are 3 to 23 % too fast.
- Rows of B and C are spread over the partitions by Tensor in `mamba_v1` to `v3`, and Vector reads them in PSUM where that is a bank, else in SBUF, where
  Scalar copies them to. `mamba_v2` of 6,144 steps has less room for that here than there, and takes 1.19 of its time.
- Two kernels take more of SBUF than there is, which the vendor's compiler and vtrn spill to HBM, not the same tiles: the blocked matmul of the
  optimisation guide takes 1.03 of its time here, `mamba_v2` of 8,192 steps 1.10.
- Depthwise convolutions of the tuner's log (ACOMP-033 to 038) slide over rows. Of those in SBUF alone each of 131,072 instructions took 61 ns, which is
  its least interval; those that have the filter or the sums in PSUM took less than one interval for each of theirs, and do so here.
- The convolution of CS149-022 in fp32 takes 1.22 of its time here, which is the tensor engine's at its documented rate; in fp16 0.93 (CS149-023). A third author's in
  fp32 has a timeline whose products start 351 ns apart, as here. What the other waits for is not known. The one of Trainium1 (CS149-009, 010) turns its weights anew for
  each row, by the times of both: without this they would take 0.71 and 0.95 of what was measured, with it 1.10 and 1.00."""

CONVERSIONS = """## How a model becomes a row

- The model is written in JAX in `bench/accuracy/models_*.py` with the published configuration, lowered
  from shapes alone and compiled by vtrn as any program is. Nothing in the compiler knows a model's name.
- The vendor's default precision for an fp32 model is kept: operands of matrix products in bf16, all else
  in fp32. Language models that write tokens are in bf16, as published.
- A published throughput is of several cores that each work on batches of their own: one call takes
  1000 cores batch / throughput milliseconds. It contains the copies between host and device and the
  host's program, which vtrn does not model; it contains vtrn's fixed time of a launch.
- Prompt passes and token passes were published as the bytes that a core moved and the share of 410 GB/s
  at which it moved them: the time is the quotient, good to 1 to 3 %, as the share has two digits.
- Only what runs on one core is here. Rows whose model is split over cores contain collectives.
- Of a configuration that several releases published, the newest counts. Between releases the same
  configuration moves by 12 % in the median, so no model row is known better than to some 15 %.
"""


def group_sections(rows):
    parts = []
    for group in GROUPS:
        of_group = [row for row in rows if row.group == group]
        if of_group:
            parts.append(f"### {group}\n\n{WHAT[group].capitalize()}.\n\n{rows_table(of_group)}\n")
    return "\n".join(parts)


def mfu_section(mfu):
    lines = [[line["name"], line["chip"], f"{line['published']:.2f}" if line["published"] else "",
              f"{line['mfu']:.3f}", number(line["ms"])] for line in mfu]
    return markdown_table(["program", "chip", "published", "ours", "ms"], lines)


def markdown(rows, mfu):
    summaries = [[name.replace("_", ", ")] + summary_cells(s) for name, s in by_group(rows).items()]
    families = [[name] + summary_cells(s) for name, s in by_family(rows).items()]
    instances = [[name] + summary_cells(s) for name, s in by_instance(rows).items()]
    parts = [HEAD, "## Groups\n", markdown_table(["group"] + SUMMARY_HEAD, summaries), ""]
    if instances:
        parts += ["## Collectives by instance\n", markdown_table(["instance"] + SUMMARY_HEAD, instances), ""]
    if families:
        parts += ["## Families of models\n", markdown_table(["family"] + SUMMARY_HEAD, families), ""]
    if families:
        parts += [OUTLIERS]
    if any(row.group == "nki" for row in rows):
        parts += [SOURCES]
    parts += ["## Rows outside half and twice\n", far_section(rows), ""]
    if mfu:
        parts += ["## MFU\n", "Useful operations of the program over what the tensor engine could do in its time.\n",
                  mfu_section(mfu), ""]
    parts += [CONVERSIONS, "## Every row\n", group_sections(rows)]
    return "\n".join(parts)


def write(directory, rows, mfu):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "accuracy.md").write_text(markdown(rows, mfu))
    (directory / "accuracy.svg").write_text(scatter.draw(rows))
