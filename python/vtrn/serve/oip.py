"""The Open Inference Protocol over HTTP (/v2), with the binary tensors of Triton's extension.

Requests are checked here for their form; for what a model takes, in tensor_models.py.
"""

import asyncio
import json

import ml_dtypes
import numpy as np
from fastapi import APIRouter, Request, Response

import vtrn
from vtrn.serve.batcher import Answer, Batcher
from vtrn.serve.errors import RequestError, bad_request
from vtrn.serve.host import Host
from vtrn.serve.tensor_models import DATATYPES

HEADER_LENGTH = "inference-header-content-length"


def json_response(value, status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


def parsed_json(body: bytes) -> dict:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_request("the body has to be a JSON object")
    return value


def _parameters(of: dict) -> dict:
    value = of.get("parameters")
    if value is not None and not isinstance(value, dict):
        raise bad_request("parameters has to be an object", "parameters")
    return value or {}


def _flat(data, name: str) -> list:
    """Nested lists, as the protocol allows them, in order."""
    if not isinstance(data, list):
        raise bad_request(f"the data of input {name!r} has to be a list", name)
    while data and isinstance(data[0], list):
        if not all(isinstance(x, list) for x in data):
            raise bad_request(f"the data of input {name!r} mixes lists and elements", name)
        data = [x for part in data for x in part]
    return data


def _count(shape: list[int]) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


def _array_of_json(data, datatype: str, shape: list[int], name: str) -> np.ndarray:
    data = _flat(data, name)
    if len(data) != _count(shape):
        raise bad_request(f"input {name!r} has shape {shape}, {_count(shape)} elements, but {len(data)} were sent", name)
    if datatype == "BYTES":
        if not all(isinstance(x, str) for x in data):
            raise bad_request(f"input {name!r} is BYTES: its elements have to be text", name)
        array = np.empty(len(data), np.object_)
        array[:] = data
        return array.reshape(shape)
    is_bool = datatype == "BOOL"
    is_number = all(type(x) is bool if is_bool else type(x) in (int, float) for x in data)
    if not is_number or datatype in ("FP16", "BF16"):
        why = "its elements have to be sent as binary data" if is_number else f"an element is no {datatype}"
        raise bad_request(f"input {name!r}: {why}", name)
    dtype = np.dtype(DATATYPES[datatype])
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        if not all(type(x) is int and info.min <= x <= info.max for x in data):
            raise bad_request(f"input {name!r}: an element is no {datatype}", name)
    try:
        return np.array(data, dtype).reshape(shape)
    except OverflowError:  # an integer that no float is near
        raise bad_request(f"input {name!r}: an element is beyond {datatype}", name) from None


def _array_of_bytes(raw: memoryview, datatype: str, shape: list[int], name: str) -> np.ndarray:
    if datatype == "BYTES":
        items, at = [], 0
        while at + 4 <= len(raw):
            n = int.from_bytes(raw[at : at + 4], "little")
            items.append(bytes(raw[at + 4 : at + 4 + n]))
            at += 4 + n
        if at != len(raw) or len(items) != _count(shape):
            raise bad_request(f"the binary data of input {name!r} is not {_count(shape)} texts with their lengths", name)
        array = np.empty(len(items), np.object_)
        array[:] = items
        return array.reshape(shape)
    dtype = np.dtype(DATATYPES[datatype])
    if len(raw) != _count(shape) * dtype.itemsize:
        raise bad_request(f"input {name!r} has {len(raw)} bytes of binary data, shape {shape} of {datatype} has "
                          f"{_count(shape) * dtype.itemsize}", name)  # fmt: skip
    return np.frombuffer(raw, dtype).reshape(shape)


def parse_inputs(header: dict, binary: memoryview) -> dict[str, np.ndarray]:
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise bad_request("`inputs` has to be a list of at least one tensor", "inputs")
    arrays, at = {}, 0
    for tensor in inputs:
        if not isinstance(tensor, dict) or not isinstance(name := tensor.get("name"), str):
            raise bad_request("each input needs a name, a shape, a datatype and data", "inputs")
        shape, datatype = tensor.get("shape"), tensor.get("datatype")
        if not isinstance(shape, list) or len(shape) > 12 or any(type(d) is not int or not 0 <= d < 2**31 for d in shape):
            raise bad_request(f"the shape of input {name!r} has to be a list of lengths", name)
        if not isinstance(datatype, str) or datatype not in DATATYPES:
            raise bad_request(f"input {name!r}: there is no datatype {datatype!r}; there are {', '.join(DATATYPES)}", name)
        if name in arrays:
            raise bad_request(f"input {name!r} was sent twice", name)
        size = _parameters(tensor).get("binary_data_size")
        if size is not None:
            if type(size) is not int or size < 0 or at + size > len(binary):
                raise bad_request(f"input {name!r}: {size} bytes of binary data are announced, {len(binary) - at} are left", name)  # fmt: skip
            arrays[name] = _array_of_bytes(binary[at : at + size], datatype, shape, name)
            at += size
        elif "data" in tensor:
            arrays[name] = _array_of_json(tensor["data"], datatype, shape, name)
        else:
            raise bad_request(f"input {name!r} has no data", name)
    if at != len(binary):
        raise bad_request(f"{len(binary) - at} bytes of binary data belong to no input")
    return arrays


def _json_data(array: np.ndarray) -> list:
    if array.dtype == np.object_:
        return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in array.reshape(-1)]
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    return array.reshape(-1).tolist()


def answer_of(batcher: Batcher, header: dict, answer: Answer, about: dict) -> Response:
    model = batcher.model
    arrays, specs = model.outputs_of(answer.rows), {s.name: s for s in model.outputs}
    all_binary = bool(_parameters(header).get("binary_data_output"))
    wanted = header.get("outputs") or [{"name": s.name} for s in model.outputs]
    outputs, parts = [], []
    for asked in wanted:
        name = asked["name"]
        array = arrays[name]
        tensor = {"name": name, "datatype": specs[name].datatype, "shape": list(array.shape)}
        if _parameters(asked).get("binary_data", all_binary):
            raw = np.ascontiguousarray(array).tobytes()
            tensor["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            tensor["data"] = _json_data(array)
        outputs.append(tensor)
    body = {"model_name": model.name, "model_version": model.version, "outputs": outputs,
            "parameters": {**answer.parameters, **about}}  # fmt: skip
    if "id" in header:
        body["id"] = header["id"]
    if not parts:
        return json_response(body)
    text = json.dumps(body).encode()
    return Response(b"".join([text, *parts]), media_type="application/octet-stream",
                    headers={"Inference-Header-Content-Length": str(len(text))})  # fmt: skip


def batcher_of(host: Host, name: str, version: str | None = None) -> Batcher:
    if name not in host.batchers:
        raise RequestError(404, f"there is no model {name!r}; there are {', '.join(host.batchers) or 'none'}")
    if version not in (None, host.batchers[name].model.version):
        raise RequestError(404, f"model {name!r} has no version {version}; it has {host.batchers[name].model.version}")
    return host.batchers[name]


def check_outputs(batcher: Batcher, header: dict) -> None:
    known = [s.name for s in batcher.model.outputs]
    outputs = header.get("outputs")
    if outputs is not None and not isinstance(outputs, list):
        raise bad_request("`outputs` has to be a list", "outputs")
    for asked in outputs or []:
        if not isinstance(asked, dict) or asked.get("name") not in known:
            name = asked.get("name") if isinstance(asked, dict) else asked
            raise bad_request(f"{batcher.model.name} has no output {name!r}; its outputs are {', '.join(known)}", "outputs")


async def call(batcher: Batcher, rows: list) -> Answer:
    """Waits without blocking the event loop; a client that disconnects withdraws its request."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(answer, error):
        if not future.done():
            future.set_exception(error) if error else future.set_result(answer)

    cancel = batcher.submit(rows, lambda answer, error: loop.call_soon_threadsafe(settle, answer, error))
    try:
        return await future
    except asyncio.CancelledError:
        cancel()
        raise


def split_body(request: Request, body: bytes) -> tuple[dict, memoryview]:
    length = request.headers.get(HEADER_LENGTH)
    if length is None:
        return parsed_json(body), memoryview(b"")
    if not length.isdigit() or int(length) > len(body):
        raise bad_request(f"Inference-Header-Content-Length is {length}, the body has {len(body)} bytes")
    return parsed_json(body[: int(length)]), memoryview(body)[int(length) :]


def router(host: Host, read_body) -> APIRouter:
    routes = APIRouter()

    @routes.get("/v2")
    async def server():
        return json_response({"name": "vtrn", "version": vtrn.__version__, "extensions": ["binary_tensor_data"]})

    @routes.get("/v2/health/live")
    async def live():
        return json_response({"live": True})

    @routes.get("/v2/health/ready")
    async def ready():
        return json_response({"ready": not host.is_closing}, 503 if host.is_closing else 200)

    @routes.get("/v2/models/{name}")
    @routes.get("/v2/models/{name}/versions/{version}")
    async def metadata(name: str, version: str | None = None):
        model = batcher_of(host, name, version).model
        tensors = [[{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in specs]
                   for specs in (model.inputs, model.outputs)]  # fmt: skip
        about = {"parameters": {"about": model.about}} if model.about else {}
        return json_response({"name": name, "versions": [model.version], "platform": model.platform,
                              "inputs": tensors[0], "outputs": tensors[1], **about})  # fmt: skip

    @routes.get("/v2/models/{name}/ready")
    @routes.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None):
        batcher_of(host, name, version)
        return json_response({"name": name, "ready": not host.is_closing}, 503 if host.is_closing else 200)

    @routes.get("/v2/models/{name}/stats")
    async def stats(name: str):
        batcher = batcher_of(host, name)
        m = batcher.meters
        return json_response({"model_stats": [{
            "name": name, "version": batcher.model.version, "inference_count": m.n_rows, "execution_count": m.n_steps,
            "inference_stats": {
                "success": {"count": m.n_success, "ns": int(m.latency.total * 1e9)},
                "fail": {"count": m.n_failure, "ns": 0}, "queue": {"count": m.n_success, "ns": int(m.queue.total * 1e9)},
                "compute_infer": {"count": m.n_steps, "ns": int(m.chip_ns)},
            },
        }]})  # fmt: skip

    @routes.post("/v2/models/{name}/infer")
    @routes.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(name: str, request: Request, version: str | None = None):
        batcher = batcher_of(host, name, version)
        header, binary = split_body(request, await read_body(request))
        check_outputs(batcher, header)
        rows = batcher.model.rows_of(parse_inputs(header, binary))
        return answer_of(batcher, header, await call(batcher, rows), host.about)

    return routes
