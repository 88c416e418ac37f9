"""profile.pftrace read with Perfetto's own message definitions, and held to profile.json."""

import collections
import json
import os
import subprocess
import sys

import conftest
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as perfetto

if not conftest.HAS_PLUGIN:
    pytest.skip("no libvtrn.so was built", allow_module_level=True)

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
CLEARED = perfetto.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
NEEDS_STATE = perfetto.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
BEGIN, END = perfetto.TrackEvent.TYPE_SLICE_BEGIN, perfetto.TrackEvent.TYPE_SLICE_END
COUNTER = perfetto.TrackEvent.TYPE_COUNTER
ENGINES = ["Tensor", "Vector", "Scalar", "GpSimd", "Sync"]

Slice = collections.namedtuple("Slice", "name begin_ns end_ns notes")


def unknown_fields(message):
    n = len(UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type:
            n += sum(map(unknown_fields, value if field.is_repeated else [value]))
    return n


class Reader:
    """Interned state, tracks and slices as the definitions say that a reader keeps them."""

    def __init__(self, trace):
        self.interned = collections.defaultdict(dict)
        self.tracks, self.counters = {}, {}
        self.slices = collections.defaultdict(list)  # by name: rows of one lane share it
        self.ends_ns = {}
        self.samples = collections.defaultdict(list)
        self.open = {}
        for packet in trace.packet:
            self.intern(packet.interned_data)
            if packet.HasField("track_descriptor"):
                self.describe(packet.track_descriptor)
            if packet.HasField("track_event"):
                self.event(packet.timestamp, packet.track_event)
        assert not self.open, "slices that never end"

    def intern(self, data):
        for kind in ("event_names", "debug_annotation_names", "debug_annotation_string_values"):
            for entry in getattr(data, kind):
                text = entry.str.decode() if kind.endswith("values") else entry.name
                assert entry.iid > 0 and entry.iid not in self.interned[kind], (kind, entry.iid)
                self.interned[kind][entry.iid] = text

    def describe(self, track):
        assert track.uuid and track.uuid not in self.tracks
        if track.HasField("process"):
            assert not track.HasField("parent_uuid")
            assert track.child_ordering == perfetto.TrackDescriptor.EXPLICIT
        else:
            # rows that overlap are merged by name, which Perfetto does below processes only
            assert self.tracks[track.parent_uuid].HasField("process") and track.name
        self.tracks[track.uuid] = track

    def notes(self, event):
        """An iid nobody interned raises KeyError."""
        out = {}
        for note in event.debug_annotations:
            name = self.interned["debug_annotation_names"][note.name_iid]
            assert name not in out
            out[name] = note.int_value if note.HasField("int_value") else \
                self.interned["debug_annotation_string_values"][note.string_value_iid]
        return out

    def event(self, t_ns, event):
        track = self.tracks[event.track_uuid]
        if event.type == COUNTER:
            assert track.counter.unit == perfetto.CounterDescriptor.UNIT_SIZE_BYTES
            self.samples[track.name].append((t_ns, event.counter_value))
            return
        uuid = event.track_uuid
        if event.type == BEGIN:
            assert uuid not in self.open and t_ns >= self.ends_ns.get(uuid, 0), "slices overlap"
            self.open[uuid] = (self.interned["event_names"][event.name_iid], t_ns,
                               self.notes(event))
            return
        assert event.type == END
        name, begin_ns, notes = self.open.pop(uuid)
        assert t_ns >= begin_ns
        self.ends_ns[uuid] = t_ns
        self.slices[track.name].append(Slice(name, begin_ns, t_ns, notes))


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """(trace, profile.json) of the training step of examples/digits."""
    out = str(tmp_path_factory.mktemp("profile"))
    environment = dict(os.environ, JAX_PLATFORMS="neuron,cpu", VTRN_PROFILE=out,
                       VTRN_LIBRARY=conftest.LIBRARY, PYTHONPATH=os.path.join(ROOT, "python"),
                       PJRT_NAMES_AND_LIBRARY_PATHS=f"neuron:{conftest.LIBRARY}")
    script = os.path.join(ROOT, "examples/digits/train.py")
    done = subprocess.run([sys.executable, script, "--steps", "2"], env=environment,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    trace = perfetto.Trace()
    with open(os.path.join(out, "profile.pftrace"), "rb") as f:
        trace.ParseFromString(f.read())
    with open(os.path.join(out, "profile.json")) as f:
        return trace, json.load(f)


def test_every_field_of_every_packet_is_known_to_perfetto(profile):
    trace, _ = profile
    assert len(trace.packet) > 1000
    assert unknown_fields(trace) == 0
    contents = {p.WhichOneof("data") for p in trace.packet}
    assert contents == {"track_descriptor", "track_event"}


def test_there_is_one_sequence_whose_state_is_cleared_once_and_first(profile):
    trace, _ = profile
    assert {p.trusted_packet_sequence_id for p in trace.packet} == {1}
    flags = [p.sequence_flags for p in trace.packet]
    assert flags[0] == CLEARED | NEEDS_STATE
    assert set(flags[1:]) == {NEEDS_STATE}
    # The clock is the trace's: no packet names another, so timestamps are ns.
    assert not any(p.HasField("timestamp_clock_id") for p in trace.packet)


def test_a_reader_finds_each_engine_and_each_dma_ring_with_its_instructions(profile):
    trace, figures = profile
    r = Reader(trace)
    process, = [t for t in r.tracks.values() if t.HasField("process")]
    assert process.process.process_name == f"NeuronCore 0 ({figures['chip']})"
    rank = {}
    for t in r.tracks.values():
        if not t.HasField("process"):
            assert rank.setdefault(t.name, t.sibling_order_rank) == t.sibling_order_rank
    assert len(set(rank.values())) == len(rank)
    assert sorted(r.slices, key=rank.get)[:5] == ENGINES
    assert max(rank[name] for name in r.slices) < min(rank[name] for name in r.samples)
    rings = [name for name in r.slices if name.startswith("DMA ")]
    assert rings and set(r.slices) <= set(ENGINES) | set(rings)
    assert {name.split()[1] for name in rings} <= set(ENGINES)
    assert sum(len(r.slices[name]) for name in rings) == figures["n_dmas"]
    for name in ENGINES:
        assert len(r.slices[name]) == figures["engines"][name]["n_instructions"], name
    assert sum(len(r.slices[name]) for name in ENGINES) > 500


def length_of_union(slices):
    total = last = 0
    for s in sorted(slices, key=lambda s: s.begin_ns):
        total += max(0, s.end_ns - max(s.begin_ns, last))
        last = max(last, s.end_ns)
    return total


def test_lanes_are_busy_as_long_as_the_summary_says(profile):
    trace, figures = profile
    r = Reader(trace)
    last_ns = max(s.end_ns for lane in r.slices.values() for s in lane)
    # a step ends when its last DMA is announced, some microseconds after the last byte
    assert figures["step_ns"] - 20e3 < last_ns <= figures["step_ns"] + 1
    for name in ENGINES:
        # an engine at work: not waiting for semaphores, not queueing a DMA; ends rounded to 1 ns
        active = [s for s in r.slices[name] if not s.name.startswith(("event_semaphore", "dma_"))]
        want_ns = figures["engines"][name]["active"] * figures["step_ns"]
        assert abs(length_of_union(active) - want_ns) <= len(active) + 1, name


def test_slices_say_which_operation_of_which_source_line_they_serve(profile):
    trace, figures = profile
    r = Reader(trace)
    source = os.path.join(ROOT, "examples/digits/model.py")
    n_lines = len(open(source).readlines())
    for lane, slices in r.slices.items():
        for s in slices:
            assert s.name and s.notes["op"], (lane, s)
            if "place" in s.notes:
                file, line = s.notes["place"].rsplit(":", 1)
                assert file == "model.py" and 1 <= int(line) <= n_lines
            assert s.notes.get("wait_ns", 0) >= 0
            assert ("bytes" in s.notes) == lane.startswith("DMA ")
    ops = collections.Counter()
    for lane, slices in r.slices.items():
        for s in slices if lane in ENGINES else []:
            if s.name.startswith(("event_semaphore", "dma_")):
                continue
            ops[s.notes["op"], s.notes.get("place", "")] += s.end_ns - s.begin_ns
    top = figures["top_ops"][0]
    assert abs(ops[top["op"], top["place"]] - top["engine_ns"]) < 1e-2 * top["engine_ns"]


def test_three_counters_follow_the_memories_in_bytes(profile):
    trace, figures = profile
    r = Reader(trace)
    assert set(r.samples) == {"HBM bytes", "SBUF bytes", "PSUM bytes"}
    for name, samples in r.samples.items():
        times = [t for t, _ in samples]
        assert len(samples) > 10 and times == sorted(times), name
        assert times[-1] <= figures["step_ns"] + 1
        key = name.split()[0].lower()
        peak = "hbm_peak_bytes" if key == "hbm" else f"{key}_live_peak_bytes"
        top = max(v for _, v in samples)
        assert 0 < top <= figures[peak] <= figures[f"{key}_capacity_bytes"], name
        assert min(v for _, v in samples) >= 0
