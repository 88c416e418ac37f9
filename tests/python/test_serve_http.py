"""vtrn serve over HTTP: both protocols by clients of others, and what a server must take from the world."""

import asyncio
import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

for package in ("jax", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason="pip install 'vtrn[serve]'")

from serve_models import DECODER, make_host, running

from vtrn.serve import http as front
from vtrn.serve import listeners
from vtrn.serve.errors import RequestError
from vtrn.serve.runtime import VtrnError
from vtrn.serve.text import TextStream

ROW = list(range(16))


@pytest.fixture(scope="module")
def server():
    host = make_host()
    with running(host) as port:
        yield host, port


def send(port, method, path, body=None, headers=None):
    """(status, headers, JSON or text)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
    connection.request(method, path, data, headers or {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    kind = response.headers.get("content-type", "")
    return response.status, response.headers, json.loads(text) if kind.startswith("application/json") else text


def infer(port, data, shape=None, name="text", datatype="BYTES", model="encoder", **more):
    tensor = {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}
    return send(port, "POST", f"/v2/models/{model}/infer", {"inputs": [tensor], **more})


def chat(port, **more):
    body = {"model": "text", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 4}
    return send(port, "POST", "/v1/chat/completions", {**body, **more})


# --- the clients of others


def test_tritonclient_gets_the_embeddings_of_the_cpu(server):
    triton = pytest.importorskip("tritonclient.http")
    host, port = server
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("encoder")
    assert client.get_server_metadata()["name"] == "vtrn"
    assert client.get_model_metadata("encoder", "1")["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    texts = np.array([b"some words", "größer".encode(), b"x"], np.object_)
    results = []
    for is_binary in (True, False):
        tensor = triton.InferInput("text", [3], "BYTES")
        tensor.set_data_from_numpy(texts, binary_data=is_binary)
        wanted = triton.InferRequestedOutput("embedding", binary_data=is_binary)
        result = client.infer("encoder", [tensor], outputs=[wanted], request_id="abc")
        results.append(result.as_numpy("embedding"))
        response = result.get_response()
        assert response["id"] == "abc"
        p = response["parameters"]
        assert p["batch"] == 3 and p["bucket"] == "b4_s32" and p["instance"] == "inf2.xlarge"
        assert p["chip_time_us"] > 1 and p["queue_time_us"] >= 0 and 0 < p["padding_percent"] < 100
        assert p["dollars_per_million"] == pytest.approx(0.328 / 3600 / 2 * p["chip_time_us"] / 3, rel=1e-3)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    model = host.batchers["encoder"].model
    alone = [model.run(model.tokenize([t.decode()]), 0).rows[0] for t in texts]
    np.testing.assert_allclose(results[0], alone, atol=1e-5)
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(texts[:1])
    assert client.infer("encoder", [tensor]).as_numpy("embedding").shape == (1, 48)
    with pytest.raises(triton.InferenceServerException if hasattr(triton, "InferenceServerException") else Exception,
                       match="no model 'nobody'"):  # fmt: skip
        client.infer("nobody", [tensor])
    client.close()


def test_openais_client_completes_streams_and_embeds(server):
    openai = pytest.importorskip("openai")
    host, port = server
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    assert {m.id for m in client.models.list()} == {"text", "encoder"}
    messages = [{"role": "user", "content": "hello"}]
    whole = client.chat.completions.create(model="text", messages=messages, temperature=0, max_tokens=9)
    assert whole.usage.completion_tokens == 9 and whole.choices[0].finish_reason == "length"
    metrics = whole.metrics
    assert metrics["chip_time_us"] > 10 and metrics["bucket"].startswith("decode_b") and metrics["dollars_per_million_tokens"] > 0  # fmt: skip
    parts = client.chat.completions.create(model="text", messages=messages, temperature=0, max_tokens=9, stream=True,
                                           stream_options={"include_usage": True})  # fmt: skip
    chunks = list(parts)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 9
    done = client.completions.create(model="text", prompt=[5, 6, 7], max_tokens=3, temperature=1, seed=3, top_p=0.5)
    again = client.completions.create(model="text", prompt=[5, 6, 7], max_tokens=3, temperature=1, seed=3, top_p=0.5)
    assert done.choices[0].text == again.choices[0].text
    for encoding in ("float", "base64"):
        made = client.embeddings.create(model="encoder", input=["a", "bc"], encoding_format=encoding)
        assert len(made.data) == 2 and len(made.data[0].embedding if encoding == "float" else made.data[0].embedding) > 40
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.chat.completions.create(model="gpt", messages=messages)
    with pytest.raises(openai.BadRequestError, match="its longest bucket"):
        client.completions.create(model="text", prompt=[1] * 200, max_tokens=3)


def test_n_choices_are_those_of_their_seeds(server):
    """Choice i is the text of seed + i, streamed or whole; usage counts the prompt once."""
    openai = pytest.importorskip("openai")
    host, port = server
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    asked = {"model": "text", "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 1}
    alone = [client.completions.create(**asked, seed=20 + i).choices[0].text for i in range(5)]
    assert len(set(alone)) > 2
    whole = client.completions.create(**asked, seed=20, n=5)
    assert [c.text for c in whole.choices] == alone and [c.index for c in whole.choices] == list(range(5))
    assert whole.usage.prompt_tokens == 3 and whole.usage.completion_tokens == 30
    assert all(c.metrics["chip_time_us"] > 0 for c in whole.choices)
    texts = [""] * 5
    for chunk in client.completions.create(**asked, seed=20, n=5, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == alone
    before = host.texts["text"].worker.n_running
    with pytest.raises(openai.InternalServerError, match="full|waiting"):  # 4 slots and 8 places to wait
        client.completions.create(**{**asked, "max_tokens": 40}, seed=1, n=16)
    deadline = time.monotonic() + 30
    while host.texts["text"].worker.n_running + host.texts["text"].worker.n_waiting > before:
        assert time.monotonic() < deadline, "choices of a refused request run on"
        time.sleep(0.05)


def test_log_probabilities_stand_beside_their_tokens(server):
    openai = pytest.importorskip("openai")
    _, port = server
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    asked = {"model": "text", "prompt": [5, 6, 7], "max_tokens": 6, "temperature": 0}
    plain = client.completions.create(**asked).choices[0]
    for n in (0, 1):
        choice = client.completions.create(**asked, logprobs=n).choices[0]
        assert choice.text == plain.text and plain.logprobs is None
        known = choice.logprobs
        assert len(known.tokens) == len(known.token_logprobs) == 6 and all(-20 < v <= 0 for v in known.token_logprobs)
        assert known.text_offset == [sum(map(len, known.tokens[:i])) for i in range(6)]
        assert known.top_logprobs == ([{t: v} for t, v in zip(known.tokens, known.token_logprobs)] if n else None)
    messages = [{"role": "user", "content": "hello"}]
    asked = {"model": "text", "messages": messages, "max_tokens": 6, "temperature": 1, "seed": 4, "logprobs": True}
    content = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert len(content) == 6 and all(c.logprob <= 0 and c.top_logprobs == [] for c in content)
    assert all(c.bytes is None or bytes(c.bytes).decode() == c.token for c in content)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = [c for k in chunks if k.choices[0].logprobs for c in k.choices[0].logprobs.content]
    assert streamed == content and chunks[0].choices[0].logprobs is None
    for more in ({"logprobs": 5}, {"logprobs": 1, "temperature": 1}, {"logprobs": True}):
        with pytest.raises(openai.BadRequestError, match="logprobs is"):
            client.completions.create(**{"model": "text", "prompt": "a", "max_tokens": 2, **more})


def test_routes_of_health_metadata_and_metrics(server):
    _, port = server
    infer(port, ["a"])
    chat(port)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/encoder", "/v2/models/encoder/versions/1",
                 "/v2/models/encoder/ready", "/v2/models/encoder/stats", "/health", "/", "/state", "/v1/models",
                 "/v1/models/text"):  # fmt: skip
        assert send(port, "GET", path)[0] == 200, path
    status, _, text = send(port, "GET", "/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = {line.split("{")[0] for line in lines}
    assert names >= {
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:request_success_total",
        "vllm:e2e_request_latency_seconds_bucket", "vllm:time_to_first_token_seconds_sum",
        "vllm:time_per_output_token_seconds_count", "vllm:kv_cache_usage_perc", "vllm_neuron:neff_execution_count",
        "vllm_neuron:num_seqs_padding", "neuron_runtime_memory_used_bytes", "neuron_hardware_info",
        "execution_status_total", "execution_latency_seconds",
    }  # fmt: skip
    for line in lines:
        float(line.rsplit(" ", 1)[1])


# --- bad input, in the protocol's form

WRONG_V2 = {
    "JSON that breaks off": ('{"inputs": [', 400, "not JSON"),
    "no object": ("[1]", 400, "JSON object"),
    "deep nesting": ("[" * 100000, 400, "not JSON"),
    "no inputs": ({}, 400, "`inputs`"),
    "inputs that are no list": ({"inputs": 3}, 400, "`inputs`"),
    "an unknown name": ({"inputs": [{"name": "txt", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}, 400, "no input 'txt'"),
    "a wrong dtype": ({"inputs": [{"name": "text", "shape": [1], "datatype": "FP32", "data": [1]}]}, 400, "is BYTES, FP32 was sent"),
    "an unknown dtype": ({"inputs": [{"name": "text", "shape": [1], "datatype": "FP8", "data": [1]}]}, 400, "no datatype 'FP8'"),
    "a wrong rank": ({"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}]}, 400, "has shape"),
    "a shape without its data": ({"inputs": [{"name": "text", "shape": [3], "datatype": "BYTES", "data": ["a"]}]}, 400, "3 elements, but 1"),
    "a negative length": ({"inputs": [{"name": "text", "shape": [-1], "datatype": "BYTES", "data": []}]}, 400, "list of lengths"),
    "no rows": ({"inputs": [{"name": "text", "shape": [0], "datatype": "BYTES", "data": []}]}, 400, "no rows"),
    "no data": ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES"}]}, 400, "no data"),
    "data of another kind": ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [1]}]}, 400, "have to be text"),
    "ragged data": ({"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": [["a"], "b"]}]}, 400, "mixes lists"),
    "the same input twice": ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}] * 2}, 400, "sent twice"),
    "parameters that are no object": ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"], "parameters": 5}]}, 400, "parameters has to be"),
    "half a character": ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a\ud800"]}]}, 400, "character 1 of the text"),
    "an integer beyond all floats": ({"inputs": [{"name": "text", "shape": [1], "datatype": "FP32", "data": [10**400]}]}, 400, "beyond FP32"),
    "an unknown output": ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}], "outputs": [{"name": "y"}]}, 400, "no output 'y'"),
    "a text beyond the longest bucket": ({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a" * 33]}]}, 400, "33 tokens, the longest bucket"),
    "more rows than the queue holds": ({"inputs": [{"name": "text", "shape": [65], "datatype": "BYTES", "data": ["a"] * 65}]}, 413, "several requests"),
    "a body that is too large": ('{"inputs": "' + "x" * (1 << 20) + '"}', 413, "larger than"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_V2)
def test_a_wrong_infer_request_is_told_what_is_wrong(server, name):
    _, port = server
    body, status, text = WRONG_V2[name]
    got, headers, answer = send(port, "POST", "/v2/models/encoder/infer", body)
    assert (got, list(answer)) == (status, ["error"])
    assert text in answer["error"]
    assert infer(port, ["still there"])[0] == 200


WRONG_V1 = {
    "JSON that breaks off": ("{", "not JSON"),
    "no messages": ({"messages": []}, "at least one message"),
    "messages of another kind": ({"messages": ["hi"]}, "role and a content"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "has to be text"),
    "a temperature of text": ({"temperature": "hot"}, "temperature is"),
    "a negative temperature": ({"temperature": -1}, "temperature is"),
    "no tokens": ({"max_tokens": 0}, "max_tokens is 0"),
    "more tokens than the longest bucket": ({"max_tokens": 4000}, "its longest bucket"),
    "no choices": ({"n": 0}, "n is 0"),
    "half a choice": ({"n": 1.5}, "n is 1.5"),
    "the best of more": ({"n": 1, "best_of": 2}, "best_of other than n"),
    "what is not supported": ({"logit_bias": {"5": 1}}, "logit_bias is not supported"),
    "half a character": ({"messages": [{"role": "user", "content": "\udfff"}]}, "character"),
    "alternatives": ({"logprobs": True, "top_logprobs": 5}, "top_logprobs is 5"),
    "alternatives of nothing": ({"temperature": 0, "top_logprobs": 1}, "top_logprobs is 1"),
    "a stream of text": ({"stream": "yes"}, "stream is"),
    "a stream of one": ({"stream": 1}, "stream is 1"),
    "options of a stream that are no object": ({"stream": True, "stream_options": 5}, "stream_options has to be"),
    "a stop of numbers": ({"stop": [1]}, "stop has to be"),
}


@pytest.mark.parametrize("name", WRONG_V1)
def test_a_wrong_chat_request_is_told_what_is_wrong(server, name):
    _, port = server
    body, text = WRONG_V1[name]
    if isinstance(body, dict):
        status, _, answer = chat(port, **body)
    else:
        status, _, answer = send(port, "POST", "/v1/chat/completions", body)
    assert status == 400
    assert text in answer["error"]["message"] and answer["error"]["type"] == "invalid_request_error"


def test_paths_and_methods_that_are_not_there_are_said_so(server):
    _, port = server
    assert send(port, "GET", "/v2/models/nobody")[0] == 404
    assert send(port, "GET", "/v2/models/encoder/versions/2")[0] == 404
    status, _, answer = send(port, "GET", "/v1/nothing")
    assert status == 404 and "/v1/nothing" in answer["error"]["message"]
    assert send(port, "DELETE", "/v2/models/encoder/infer")[0] == 405


def test_a_body_of_100_mb_is_refused_before_it_is_read(server):
    _, port = server
    with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
        s.sendall(b"POST /v2/models/encoder/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n{")
        assert s.recv(64).startswith(b"HTTP/1.1 413")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as s:  # and when no length is announced
        s.sendall(b"POST /v2/models/encoder/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = b""
        try:
            for _ in range(100):
                s.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            answer = s.recv(64)
        except ConnectionError:
            answer = answer or b"HTTP/1.1 413"
        assert answer.startswith(b"HTTP/1.1 413")
    assert infer(port, ["still there"])[0] == 200


@pytest.mark.parametrize("path", ["/v2/models/encoder/infer", "/v1/completions"])
def test_a_client_that_hangs_up_before_its_body_is_complete_is_no_failure(server, path):
    """What the application raises, uvicorn writes into the log."""
    host, _ = server
    parts = iter([{"type": "http.request", "body": b'{"inp', "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(parts)

    async def send(message):
        pass

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
             "query_string": b"", "root_path": "", "scheme": "http", "headers": [(b"content-length", b"100")], "server": ("x", 80)}  # fmt: skip
    asyncio.run(front.make_app(host)(scope, receive, send))


def test_binary_data_that_does_not_fit_its_header_is_refused(server):
    _, port = server
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    head = json.dumps({"inputs": [tensor]}).encode()
    for tail, length, text in ((b"\1\0\0\0a", len(head), None), (b"\1\0\0\0", len(head), "5 bytes of binary data"),
                               (b"\2\0\0\0a", len(head), "not 1 texts"), (b"\1\0\0\0ab", len(head), "belong to no input"),
                               (b"", 10**9, "Inference-Header-Content-Length")):  # fmt: skip
        status, _, answer = send(port, "POST", "/v2/models/encoder/infer", head + tail,
                                 {"Inference-Header-Content-Length": str(length)})  # fmt: skip
        assert status == (400 if text else 200)
        if text:
            assert text in answer["error"]


# --- load


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_requests_at_once_share_batches_and_get_their_own_answers(server):
    host, port = server
    texts = [f"text {i}" for i in range(40)]
    alone = host.batchers["encoder"].model
    want = {t: alone.run(alone.tokenize([t]), 0).rows[0] for t in texts}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda t: infer(port, [t]), texts))
    for t, (status, _, answer) in zip(texts, answers):
        assert status == 200
        np.testing.assert_allclose(answer["outputs"][0]["data"], want[t], atol=1e-5)
    assert max(a[2]["parameters"]["batch"] for a in answers) > 1


def test_a_client_that_hangs_up_mid_stream_frees_its_slot(server):
    host, port = server
    worker = host.texts["text"].worker
    before = worker.meters.n_cancelled
    for stream in (True, False):
        body = json.dumps({"model": "text", "prompt": [9, 8, 7], "max_tokens": 120, "stream": stream, "ignore_eos": True})
        s = socket.create_connection(("127.0.0.1", port), timeout=30)
        s.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        if stream:
            s.recv(200)
        else:
            wait_for(lambda: worker.n_running)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
        wait_for(lambda: worker.n_running == 0)
    assert worker.meters.n_cancelled > before
    assert chat(port)[0] == 200


def test_more_generations_than_fit_are_refused_and_the_rest_lose_nothing(server):
    host, port = server
    n = 40  # 8 wait; how many of those before have a slot by then is the scheduler's
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        answers = list(pool.map(lambda i: chat(port, max_tokens=20, seed=i), range(n)))
    statuses = [a[0] for a in answers]
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 8
    texts = {a[2]["choices"][0]["message"]["content"] for a in answers if a[0] == 200}
    assert len(texts) == 1
    for status, headers, answer in answers:
        if status == 503:
            assert "is full" in answer["error"]["message"] and headers["retry-after"] == "1"
    assert chat(port)[0] == 200


def test_a_call_that_fails_is_an_error_of_its_requests_only(server, monkeypatch):
    host, port = server
    model = host.batchers["encoder"].model
    right = model.run

    def wrong(rows, core_i):
        if any(len(r) == 13 for r in rows):
            raise RuntimeError("the call went wrong")
        return right(rows, core_i)

    monkeypatch.setattr(model, "run", wrong)
    status, _, answer = infer(port, ["x" * 13])
    assert status == 500 and "the call went wrong" in answer["error"]
    assert infer(port, ["x"])[0] == 200


SERVER = """
import signal, sys, os
sys.path.insert(0, {tests!r})
from serve_models import make_host
from vtrn.serve import http, listeners
host = make_host()
http.serve(host, listeners.bound("127.0.0.1", 0), lambda port: print(port, flush=True))
print("ended", host.texts["text"].worker.meters.n_success, flush=True)
"""


def test_sigterm_under_load_answers_what_was_taken():
    """No new connection is taken, requests under way get their whole answers, then the process ends with 0."""
    script = SERVER.format(tests=os.path.dirname(__file__))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "JAX_PLATFORMS": "cpu"})  # fmt: skip
    try:
        port = int(process.stdout.readline())
        model_state = lambda: send(port, "GET", "/state")[2]["models"][-1]  # noqa: E731
        chat(port)  # the programs are made
        answers, n = [], 8
        threads = [threading.Thread(target=lambda: answers.append(chat(port, max_tokens=60, ignore_eos=True))) for _ in range(n)]  # fmt: skip
        for t in threads:
            t.start()
        wait_for(lambda: sum(map(model_state().get, ("running", "waiting", "answered"))) == n + 1)
        assert model_state()["running"] > 0
        process.send_signal(signal.SIGTERM)
        for t in threads:
            t.join(60)
        assert [a[0] for a in answers] == [200] * n
        assert all(a[2]["usage"]["completion_tokens"] == 60 for a in answers)
        assert process.wait(60) == 0
        with pytest.raises(OSError):
            send(port, "GET", "/v2")
        assert process.stdout.read().startswith("ended 9")
    finally:
        process.kill()
        process.wait()


def test_the_command_says_what_it_cannot_do():
    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "vtrn.serve", "serve", *arguments], capture_output=True, text=True)

    got = run("no_such_model")
    assert got.returncode == 1 and "there is no model no_such_model" in got.stderr and "Traceback" not in got.stderr
    got = run("minilm", "--cores", "minilm=7")
    assert got.returncode == 1 and "core 7" in got.stderr
    got = run("minilm", "--instance", "inf9.xlarge")
    assert got.returncode == 1 and "inf9" in got.stderr
    for option, text in (("--port", "70000"), ("--grpc-port", "-1")):
        got = run("minilm", option, text)
        assert got.returncode == 2 and f"{text} is no port" in got.stderr
    for option, text, words in (("--cores", "foo=0", "foo, which is not served"), ("--max-waiting", "0", "0 is too small"),
                                ("--max-waiting", "-1", "-1 is too small"), ("--max-queue", "0", "0 is too small"),
                                ("--max-batch", "0", "0 is too small"), ("--max-delay-us", "-1", "-1 is too small")):  # fmt: skip
        got = run("no_such_model", option, text)
        assert got.returncode == 2 and words in got.stderr, option
    got = run("minilm", "--cores", "minilm=0", "--cores", "minilm=1")
    assert got.returncode == 2 and "places minilm twice" in got.stderr
    got = run("minilm", "--draft", "128")
    assert got.returncode == 1 and "--draft is 128" in got.stderr


def test_a_port_that_is_taken_is_told_before_models_are_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--grpc-port"):
            free = [] if option == "--port" else ["--port", "0"]
            got = subprocess.run([sys.executable, "-m", "vtrn.serve", "serve", "no_such_model", option, str(port), *free],
                                 capture_output=True, text=True)  # fmt: skip
            want = f"vtrn serve: port {port} of 127.0.0.1 is taken; choose another with {option}\n"
            assert got.returncode == 1 and got.stderr == want


def test_of_two_servers_that_bind_a_port_the_second_to_listen_is_told():
    first = listeners.bound("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    second = listeners.bound("127.0.0.1", port)
    try:
        listeners.listen(first, "127.0.0.1")
        with pytest.raises(VtrnError, match=f"port {port} of 127.0.0.1 is taken"):
            listeners.listen(second, "127.0.0.1")
    finally:
        listeners.close(first + second)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(VtrnError, match="port 0 of 192.0.2.1 cannot be listened at"):
        listeners.bound("192.0.2.1", 0)


# --- pieces


def test_text_streams_hold_back_what_may_still_change():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode("utf-8", "replace")

    for stops, text in (([], "größe €uro"), (["STOP"], "ab STO cd STOP ef"), (["x", "yx"], "aayyx")):
        stream, got = TextStream(Bytes(), stops), ""
        for byte in text.encode():
            piece = stream.add(byte)
            assert "�" not in piece
            got += piece
            if stream.is_stopped:
                break
        got += stream.end()
        want = min((text.split(s)[0] for s in stops), key=len, default=text)
        assert got == want == stream.text


def test_queues_refuse_with_numbers():
    host = make_host(max_waiting=1)
    try:
        with pytest.raises(RequestError, match="token that is not in"):
            host.texts["text"].sequence([DECODER.vocabulary], 1, None, 0)
    finally:
        host.close()
