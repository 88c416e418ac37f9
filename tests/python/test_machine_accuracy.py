"""The machine model against published measurements: bounds on each group's errors, and a timeline."""

import json
import statistics
import subprocess

import pytest
from paths import BUILD

# group: mean and worst error, of the published value
BOUNDS = {
    "formula": (0, 0),
    "instruction": (0.03, 0.10),
    "interval": (0.03, 0.10),
    "dma": (0.08, 0.20),
    "kernel": (0.10, 0.25),
}


def accuracy(*args):
    done = subprocess.run([BUILD / "bench/accuracy", "--json", *map(str, args)], capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().splitlines()], done.stderr.decode()


@pytest.fixture(scope="module")
def rows():
    return accuracy()[0]


def error(row):
    return abs(row["ours"] / row["published"] - 1)


@pytest.mark.parametrize("group", BOUNDS)
def test_errors_of_a_group_stay_within_their_bounds(rows, group):
    errors = [error(row) for row in rows if row["group"] == group]
    mean, worst = BOUNDS[group]
    assert len(errors) >= 20
    assert statistics.fmean(errors) <= mean + 1e-6
    assert max(errors) <= worst + 1e-6


@pytest.mark.parametrize("group", [group for group in BOUNDS if group != "formula"])
def test_rows_that_no_constant_was_chosen_by_fit_nearly_as_well(rows, group):
    of_half = {half: statistics.fmean(error(r) for r in rows if r["group"] == group and r["half"] == half)
               for half in ("fitted", "unseen")}
    assert of_half["unseen"] <= 1.5 * of_half["fitted"]


def test_each_row_says_what_it_is(rows):
    keys = {"group", "name", "chip", "source", "published", "ours", "unit", "half"}
    for row in rows:
        assert row.keys() == keys
        assert row["published"] > 0 and row["ours"] > 0 and row["source"]
    assert len({(r["group"], r["chip"], r["name"]) for r in rows}) == len(rows)


INSTRS = """engine,opcode,operands,start_ns,dur_ns,evt_wait_ns,pc
Vector,TENSOR_LOAD,"addr=uint32@0x8005c035e000[0,0][1,1] data=$R[0]",10,500,0,1
Sync,DMA_DIRECT2D,"semaphore=8 sem_increment=16  src_elem_size=512 dst_elem_size=512 src_pattern=[512,1][128,1] \
dst_pattern=[262144,1][128,1] src_addr_imm=0x8005c03b0000 src_shape_reg=0 dst_addr_imm=0x802000036500",1000,541,0,2
Vector,COPY,"S[8] (qSyncDynamicHW)>=16 S[6] (Vector)++@complete src=fp32@0x4000[1,1,1,1][1000,1,1,1] \
dst=fp32@0x8000[1,1,1,1][1000,1,1,1] channels=128",3200,680,0,3
Vector,EVENT_SEMAPHORE,setter=0 $S[2]==5 $S[2]++@complete,3900,50,0,4
Scalar,DMA_DIRECT2D,"S[6] (Vector)>=1 semaphore=9 sem_increment=16  src_elem_size=512 dst_elem_size=512 \
src_pattern=[262144,1][128,1] dst_pattern=[512,1][128,1] src_addr_imm=0x802000008000 src_shape_reg=0",3910,541,0,5
"""

PACKETS = """dma_engine,queue,queue_type,bytes,start_ns,dur_ns,variable
64,14,instruction,16384,9000,1883,unknown
64,1,hardware_dynamic,512,2330,27,unknown
79,2,hardware_dynamic,512,5400,100,unknown
79,2,hardware_dynamic,4,5520,9,unknown
"""


def test_a_timeline_is_replayed_with_the_semaphores_that_its_operands_name(tmp_path):
    (tmp_path / "a_instr.csv").write_text(INSTRS)
    (tmp_path / "a_dma.csv").write_text(PACKETS)
    (tmp_path / "b_instr.csv").write_text("engine,pc,type,start_ns,dur_ns\nSP,00fc18,,-15802.9,17.5\n")
    rows, text = accuracy("--traces", tmp_path)
    (trace,) = [row for row in rows if row["group"] == "trace"]
    assert (trace["name"], trace["published"]) == ("a", 4500)  # from the first trigger to the last byte
    # load 541 + 786 + 490, 355 to complete, 19 to wake; the copy 680; store 541 + 666 + 390
    assert trace["ours"] == pytest.approx(4500, rel=0.06)
    assert "Vector" in text and "Tensor" not in text


def test_a_missing_directory_of_timelines_is_an_error(tmp_path):
    done = subprocess.run([BUILD / "bench/accuracy", "--traces", tmp_path / "none"], capture_output=True)
    assert done.returncode == 1 and "cannot open the directory" in done.stderr.decode()
