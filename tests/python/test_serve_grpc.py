"""The Open Inference Protocol over gRPC, by tritonclient, and the wire format against Google's protobuf."""

import struct
import threading

import numpy as np
import pytest

for package in ("jax", "fastapi", "grpc"):
    pytest.importorskip(package, reason="pip install 'vtrn[serve,grpc]'")
triton = pytest.importorskip("tritonclient.grpc")

import grpc
from serve_models import make_host

from vtrn.serve import wire
from vtrn.serve.batcher import BatchLimits
from vtrn.serve.grpc_door import GrpcDoor

pb = triton.service_pb2


@pytest.fixture(scope="module")
def door():
    host = make_host(limits=BatchLimits(max_batch=8, max_delay_us=500, max_queue=16))
    door = GrpcDoor(host, "127.0.0.1", 0, 1 << 20)
    yield host, door
    door.stop()
    host.close()


@pytest.fixture
def client(door):
    with triton.InferenceServerClient(f"127.0.0.1:{door[1].port}") as client:
        yield client


def text_input(texts, name="text"):
    tensor = triton.InferInput(name, [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([t.encode() for t in texts], object))
    return tensor


def wanted(host, texts):
    model = host.batchers["encoder"].model
    return np.stack(model.run(model.tokenize(texts), 0).rows)


def test_tritonclient_finds_the_server_and_its_models(door, client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("encoder")
    assert client.get_server_metadata().name == "vtrn"
    metadata = client.get_model_metadata("encoder")
    assert list(metadata.versions) == ["1"] and metadata.platform == "vtrn_jax"
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("text", "BYTES", [-1])]
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs] == [("embedding", "FP32", [-1, 48])]


def test_tritonclient_gets_the_embeddings_of_http(door, client):
    host, _ = door
    texts = ["a", "bcd", "efghijk", "äß"]
    outputs = [triton.InferRequestedOutput("embedding")]
    for asked in (None, outputs):
        result = client.infer("encoder", [text_input(texts)], outputs=asked, request_id="seven", model_version="1")
        np.testing.assert_allclose(result.as_numpy("embedding"), wanted(host, texts), atol=1e-6)
        response = result.get_response()
        assert response.id == "seven" and response.model_name == "encoder"
        assert response.parameters["chip_time_us"].double_param > 1 and response.parameters["instance"].string_param == "inf2.xlarge"


def test_typed_contents_are_those_of_raw_ones(door):
    host, served = door
    request = pb.ModelInferRequest(model_name="encoder")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([b"a", b"bc"])
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        response = pb.ModelInferResponse.FromString(infer(request.SerializeToString()))
    got = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(tuple(response.outputs[0].shape))
    np.testing.assert_allclose(got, wanted(host, ["a", "bc"]), atol=1e-6)


WRONG = {
    "a name": (lambda c: c.infer("nobody", [text_input(["a"])]), "NOT_FOUND", "no model 'nobody'"),
    "a version": (lambda c: c.get_model_metadata("encoder", "2"), "NOT_FOUND", "no version 2"),
    "an input": (lambda c: c.infer("encoder", [text_input(["a"], "txt")]), "INVALID_ARGUMENT", "no input 'txt'"),
    "an output": (lambda c: c.infer("encoder", [text_input(["a"])], outputs=[triton.InferRequestedOutput("y")]),
                  "INVALID_ARGUMENT", "no output 'y'"),
    "no input": (lambda c: c.infer("encoder", []), "INVALID_ARGUMENT", "`inputs`"),
    "a text beyond the longest bucket": (lambda c: c.infer("encoder", [text_input(["a" * 33])]), "INVALID_ARGUMENT", "33 tokens"),
    "more rows than the queue holds": (lambda c: c.infer("encoder", [text_input(["a"] * 17)]), "RESOURCE_EXHAUSTED", "several requests"),
    "a message that is too large": (lambda c: c.infer("encoder", [text_input(["a" * (1 << 20)])]), "RESOURCE_EXHAUSTED", "larger than max"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_told_what_is_wrong(client, name):
    call, code, text = WRONG[name]
    with pytest.raises(triton.InferenceServerException, match=text) as error:
        call(client)
    assert error.value.status() == f"StatusCode.{code}"


def test_bytes_that_are_no_message_are_refused(door):
    rng = np.random.default_rng(3)
    request = pb.ModelInferRequest(model_name="encoder")
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"abc")
    whole = request.SerializeToString()
    broken = [whole[:n] for n in range(1, len(whole))] + [b"\xff" * 12, b"\x0b", b"\x0a\x7f", b"\x08" + b"\x80" * 11]
    for _ in range(200):
        raw = bytearray(whole)
        raw[rng.integers(len(raw))] = rng.integers(256)
        broken.append(bytes(raw))
    with grpc.insecure_channel(f"127.0.0.1:{door[1].port}") as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for raw in broken:
            try:
                infer(raw)
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), (raw, error.details())
        assert infer(whole)


def test_calls_at_once_share_batches_and_get_their_own_answers(door, client):
    host, _ = door
    before = host.batchers["encoder"].meters.n_steps
    texts = [chr(97 + i) * (i % 7 + 1) for i in range(24)]
    answers, refused = {}, []

    def ask(i):
        try:
            answers[i] = client.infer("encoder", [text_input([texts[i]])]).as_numpy("embedding")[0]
        except triton.InferenceServerException as error:
            refused.append(error)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(e.status() == "StatusCode.UNAVAILABLE" for e in refused)  # 16 rows may wait
    assert len(answers) + len(refused) == 24 and len(answers) >= 8
    assert host.batchers["encoder"].meters.n_steps - before < len(answers)
    for i, got in answers.items():
        np.testing.assert_allclose(got, wanted(host, [texts[i]])[0], atol=1e-6)


def test_messages_are_those_of_protobuf():
    """Both ways, over numbers of every size, and lists that are packed and not."""
    numbers = [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -128, -(2**63)]
    contents = pb.InferTensorContents(int64_contents=numbers, uint64_contents=[0, 2**64 - 1], int_contents=[-5, 5],
                                      fp32_contents=[1.5, -0.0], fp64_contents=[1e300], bytes_contents=[b"", b"\xff\x00"],
                                      bool_contents=[True, False])  # fmt: skip
    read = wire.fields(contents.SerializeToString())
    assert wire.integers(read, 3) == numbers and wire.integers(read, 5, False) == [0, 2**64 - 1]
    assert wire.integers(read, 2) == [-5, 5] and wire.integers(read, 1) == [1, 0]
    assert wire.floats(read, 6, 4) == [1.5, 0.0] and wire.floats(read, 7, 8) == [1e300]
    assert [bytes(b) for b in wire.blobs(read, 8)] == [b"", b"\xff\x00"]
    apart = b"".join(wire.field(3, n) for n in numbers)
    assert wire.integers(wire.fields(apart), 3) == numbers
    assert list(pb.InferTensorContents.FromString(apart).int64_contents) == numbers
    assert list(pb.InferTensorContents.FromString(wire.packed(3, numbers)).int64_contents) == numbers
    for value, name in ((True, "bool_param"), (-7, "int64_param"), ("ä", "string_param"), (0.1, "double_param")):
        kind = pb.InferParameter.DESCRIPTOR.fields_by_name[name].number
        assert getattr(pb.InferParameter.FromString(wire.field(kind, value)), name) == value
    with pytest.raises(ValueError, match="breaks off"):
        wire.floats({6: [memoryview(struct.pack("<f", 1)[:3])]}, 6, 4)
