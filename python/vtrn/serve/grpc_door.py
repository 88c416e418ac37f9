"""The Open Inference Protocol over gRPC: inference.GRPCInferenceService beside the HTTP routes, for the same models.

Requests are checked as those over HTTP are, and refused with gRPC's codes. Outputs are raw_output_contents.
"""

import concurrent.futures
import threading
import time

import grpc
import numpy as np

import vtrn
from vtrn.serve import oip, wire
from vtrn.serve.batcher import Answer, Batcher
from vtrn.serve.errors import RequestError, bad_request
from vtrn.serve.host import Host
from vtrn.serve.stopping import LAST_SECONDS, TICK_SECONDS, StopLimits

MAX_BODY_BYTES = 32 << 20
N_THREADS = 64  # calls that wait at a time; more wait in gRPC's queue
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND, 413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED, 503: grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip

# InferTensorContents: the field of each datatype's elements. fp16 and bf16 come as raw_input_contents only.
_CONTENTS = {
    "BOOL": 1, "INT8": 2, "INT16": 2, "INT32": 2, "INT64": 3, "UINT8": 4, "UINT16": 4, "UINT32": 4, "UINT64": 5, "FP32": 6,
    "FP64": 7, "BYTES": 8,
}  # fmt: skip


def _elements(contents: wire.Fields, datatype: str) -> list:
    """Of a tensor's typed contents, as JSON would have them."""
    number = _CONTENTS.get(datatype)
    if number is None:
        raise bad_request(f"elements of {datatype} have to be sent as raw_input_contents")
    if datatype == "BYTES":
        return [bytes(b).decode("utf-8") for b in wire.blobs(contents, number)]
    if number in (6, 7):
        return wire.floats(contents, number, 4 if number == 6 else 8)
    values = wire.integers(contents, number, is_signed=number in (2, 3))
    return [bool(v) for v in values] if datatype == "BOOL" else values


def _header_of(request: wire.Fields) -> tuple[dict, memoryview]:
    """A ModelInferRequest as the JSON header and the binary data that HTTP would bring."""
    raws, inputs = wire.blobs(request, 7), []
    tensors = wire.messages(request, 5)
    if raws and len(raws) != len(tensors):
        raise bad_request(f"{len(raws)} raw_input_contents were sent for {len(tensors)} inputs; send one for each, or none")
    for i, tensor in enumerate(tensors):
        datatype = wire.text(tensor, 2)
        described = {"name": wire.text(tensor, 1), "datatype": datatype, "shape": wire.integers(tensor, 3)}
        if raws:
            described["parameters"] = {"binary_data_size": len(raws[i])}
        else:
            contents = wire.messages(tensor, 5)
            described["data"] = _elements(contents[-1] if contents else {}, datatype)
        inputs.append(described)
    outputs = [{"name": wire.text(o, 1)} for o in wire.messages(request, 6)]
    return {"inputs": inputs, "outputs": outputs}, memoryview(b"".join(raws))


def _parameter(name: str, value) -> bytes:
    """An entry of a map of InferParameter."""
    kind = {bool: 1, int: 2, str: 3, float: 4}[type(value)]
    return wire.field(1, name) + wire.field(2, wire.field(kind, value))


def _raw(array: np.ndarray) -> bytes:
    if array.dtype != np.object_:
        return np.ascontiguousarray(array).tobytes()
    texts = [x if isinstance(x, bytes) else str(x).encode() for x in array.reshape(-1)]
    return b"".join(len(t).to_bytes(4, "little") + t for t in texts)


def _answer(batcher: Batcher, request: wire.Fields, header: dict, answer: Answer, about: dict) -> bytes:
    model = batcher.model
    arrays, specs = model.outputs_of(answer.rows), {s.name: s for s in model.outputs}
    parts = [wire.field(1, model.name), wire.field(2, model.version), wire.field(3, wire.text(request, 3))]
    for name, value in {**answer.parameters, **about}.items():
        parts.append(wire.field(4, _parameter(name, value)))
    names = [o["name"] for o in header["outputs"]] or list(specs)
    for name in names:
        parts.append(wire.field(5, wire.field(1, name) + wire.field(2, specs[name].datatype) + wire.packed(3, arrays[name].shape)))
    return b"".join([*parts, *(wire.field(6, _raw(arrays[name])) for name in names)])


class GrpcDoor:
    """Serves from its construction to stop(). port 0: any that is free, `port` says which."""

    def __init__(self, host: Host, address: str, port: int, max_body_bytes: int = MAX_BODY_BYTES):
        self._host = host
        self._lock, self._n_under_way = threading.Lock(), 0  # calls whose messages are complete
        methods = {"ServerLive": self._live, "ServerReady": self._ready, "ModelReady": self._model_ready,
                   "ServerMetadata": self._server, "ModelMetadata": self._metadata, "ModelInfer": self._infer}  # fmt: skip
        handlers = {n: grpc.unary_unary_rpc_method_handler(self._guarded(m)) for n, m in methods.items()}
        self._rpc = grpc.server(
            concurrent.futures.ThreadPoolExecutor(N_THREADS, thread_name_prefix="grpc"),
            options=[("grpc.max_receive_message_length", max_body_bytes), ("grpc.max_send_message_length", -1),
                     ("grpc.so_reuseport", 0)],
        )  # fmt: skip
        self._rpc.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),)
        )
        self.port = self._rpc.add_insecure_port(f"{address}:{port}")
        self._rpc.start()

    def stop(self, limits: StopLimits = StopLimits()) -> None:
        """No new calls; those under way have the time to be answered, and clients that of limits to complete a message."""
        start, is_over = time.monotonic(), self._rpc.stop(limits.total_seconds + LAST_SECONDS)
        while not is_over.wait(TICK_SECONDS):
            if time.monotonic() - start >= limits.client_seconds and not self._n_under_way:
                self._rpc.stop(0).wait()

    def _guarded(self, method):
        """What a method refuses or fails with becomes the call's status."""

        def call(raw: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                self._n_under_way += 1
            if not context.add_callback(self._ended):  # the client is gone already
                self._ended()
            try:
                return method(wire.fields(raw), context)
            except RequestError as error:
                code, message = CODES.get(error.status, grpc.StatusCode.INTERNAL), error.message
            except ValueError as error:  # of the wire format, and of text that is not UTF-8
                code, message = grpc.StatusCode.INVALID_ARGUMENT, f"the message is none of the protocol's: {error}"
            except Exception as error:
                code, message = grpc.StatusCode.INTERNAL, f"the call failed: {error}"
            context.abort(code, message)

        return call

    def _ended(self) -> None:
        with self._lock:
            self._n_under_way -= 1

    def _batcher(self, request: wire.Fields) -> Batcher:
        return oip.batcher_of(self._host, wire.text(request, 1), wire.text(request, 2) or None)

    def _live(self, request, context) -> bytes:
        return wire.field(1, True)

    def _ready(self, request, context) -> bytes:
        return wire.field(1, not self._host.is_closing)

    def _model_ready(self, request, context) -> bytes:
        self._batcher(request)
        return wire.field(1, not self._host.is_closing)

    def _server(self, request, context) -> bytes:
        return wire.field(1, "vtrn") + wire.field(2, vtrn.__version__)

    def _metadata(self, request, context) -> bytes:
        model = self._batcher(request).model
        parts = [wire.field(1, model.name), wire.field(2, model.version), wire.field(3, model.platform)]
        for number, specs in ((4, model.inputs), (5, model.outputs)):
            for s in specs:
                parts.append(wire.field(number, wire.field(1, s.name) + wire.field(2, s.datatype) + wire.packed(3, s.shape)))
        return b"".join(parts)

    def _infer(self, request: wire.Fields, context: grpc.ServicerContext) -> bytes:
        batcher = self._batcher(request)
        header, binary = _header_of(request)
        oip.check_outputs(batcher, header)
        rows = batcher.model.rows_of(oip.parse_inputs(header, binary))
        is_over, result = threading.Event(), []

        def done(answer: Answer | None, error: Exception | None) -> None:
            result.append((answer, error))
            is_over.set()

        cancel = batcher.submit(rows, done)
        if not context.add_callback(is_over.set):  # the client is gone already
            is_over.set()
        is_over.wait()
        if not result:
            cancel()
            raise RequestError(499, "the client hung up")
        answer, error = result[0]
        if error:
            raise error
        return _answer(batcher, request, header, answer, self._host.about)
