"""The end of a server at SIGTERM: what a client can hold a connection in does not put it off, and others lose nothing."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

for package in ("jax", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason="pip install 'vtrn[serve]'")

from test_serve_http import chat, send, wait_for

CLIENT_SECONDS = 1.0
SLACK = 10.0  # a loaded machine takes seconds to end a process; without a limit the end is put off by 60 and more
SERVER = """
import sys, time
sys.path.insert(0, {tests!r})
from serve_models import make_host
from vtrn.serve import http, listeners
from vtrn.serve.stopping import StopLimits
host, limits = make_host(), StopLimits({total}, {client})
engine, run = host.texts["text"].worker.engine, host.texts["text"].worker.engine.decode
def slow(*a):
    time.sleep({step})
    return run(*a)
engine.decode = slow
door = None
if {grpc}:
    from vtrn.serve.grpc_door import GrpcDoor
    door = GrpcDoor(host, "127.0.0.1", 0)
stop = (lambda: door.stop(limits)) if door else None
http.serve(host, listeners.bound("127.0.0.1", 0), lambda port: print(port, door.port if door else 0, flush=True), limits, stop)
print("ended", flush=True)
"""


@contextlib.contextmanager
def server(total=30.0, client=CLIENT_SECONDS, step=0.0, grpc=False):
    """(process, port, gRPC's port); what it writes as errors is checked at the end: nothing."""
    script = SERVER.format(tests=os.path.dirname(__file__), total=total, client=client, step=step, grpc=grpc)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "JAX_PLATFORMS": "cpu"})  # fmt: skip
    try:
        ports = process.stdout.readline().split()
        assert ports, process.stderr.read()
        assert chat(int(ports[0]))[0] == 200  # the programs are made
        yield process, int(ports[0]), int(ports[1])
    finally:
        process.kill()
        process.communicate()


def stopped(process, seconds) -> float:
    """Seconds from SIGTERM to the end, which is no failure."""
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=seconds + 20)
    took = time.monotonic() - start
    assert process.returncode == 0 and out == "ended\n" and "Traceback" not in err, err
    return took


def raw(body, n=None, path="/v1/completions", more=""):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) if n is None else n}\r\n{more}\r\n{body}".encode()


ASKED = {"model": "text", "prompt": [9, 8, 7], "max_tokens": 120, "ignore_eos": True}
STREAM = json.dumps({**ASKED, "stream": True, "n": 4, "temperature": 1})
# What a client has sent when the signal comes, how long the end may take then, and what it is told.
STATES = {
    "nothing": (b"", 0, b""),
    "half a header": (b"POST /v1/completions HTT", 0, b""),
    "a header but its end": (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n", 0, b""),
    "a header without its body": (raw("", 50), CLIENT_SECONDS, b"HTTP/1.1 408"),
    "half a body": (raw('{"model":', 50), CLIENT_SECONDS, b"HTTP/1.1 408"),
    "half a body of the other protocol": (raw('{"inputs":', 50, "/v2/models/encoder/infer"), CLIENT_SECONDS, b"HTTP/1.1 408"),
    "half a chunk": (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n{", CLIENT_SECONDS, b"HTTP/1.1 408"),
    "a header that waits for 100": (raw("", 50, more="Expect: 100-continue\r\n"), CLIENT_SECONDS, b"HTTP/1.1 100"),
    "half a body that is too large": (raw("{", 40 << 20), CLIENT_SECONDS, b"HTTP/1.1 408"),
    "half a body for a path that is not there": (raw("{", 50, "/nothing"), 0, b"HTTP/1.1 404"),
    "a request that is answered": (b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 0, b"HTTP/1.1 200"),
    "an upgrade": (b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 0, b"HTTP/1.1 200"),
    "one answered, half of the next": (b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\nPOST /v1/comp", 0, b"HTTP/1.1 200"),
    "a stream that is read": (raw(STREAM), 10, b"HTTP/1.1 200"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_client_that_holds_a_connection_puts_the_end_off_by_its_seconds(state):
    sent, seconds, told = STATES[state]
    with server() as (process, port, _), socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(sent)
        time.sleep(0.3)
        took = stopped(process, seconds)
        assert seconds == 10 or seconds - 0.2 <= took < seconds + SLACK
        with contextlib.suppress(ConnectionError):
            s.settimeout(5)
            assert s.recv(1 << 16).startswith(told)


def test_an_answer_that_is_not_read_puts_the_end_off_by_the_clients_seconds():
    """Of a body larger than what sockets hold: an embedding for each of many sentences."""
    with server() as (process, port, _), socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect(("127.0.0.1", port))
        many = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 4000
        s.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            s.sendall(many.encode())
        time.sleep(2)
        took = stopped(process, CLIENT_SECONDS)
        assert CLIENT_SECONDS - 0.2 <= took < CLIENT_SECONDS + SLACK


def test_others_lose_nothing_and_half_a_body_may_still_be_completed():
    """Generations that take longer than the client's seconds are answered whole beside a client that holds its body back, and one that
    sends the rest in time is answered, too."""
    with server(step=0.05) as (process, port, _):
        held, late = (socket.create_connection(("127.0.0.1", port)) for _ in range(2))
        body = json.dumps({**ASKED, "max_tokens": 3})
        held.sendall(raw(body[:10], len(body)))
        late.sendall(raw(body[:10], len(body)))
        answers, n = [], 4
        threads = [threading.Thread(target=lambda: answers.append(chat(port, max_tokens=60, ignore_eos=True))) for _ in range(n)]
        for t in threads:
            t.start()
        wait_for(lambda: send(port, "GET", "/state")[2]["models"][-1]["running"] == n)
        threading.Timer(0.5, lambda: late.sendall(body[10:].encode())).start()
        took = stopped(process, 20)
        for t in threads:
            t.join()
        assert [a[0] for a in answers] == [200] * n and took > 2 * CLIENT_SECONDS
        assert all(a[2]["usage"]["completion_tokens"] == 60 for a in answers)
        assert held.recv(1000).startswith(b"HTTP/1.1 408")
        assert late.recv(1000).startswith(b"HTTP/1.1 200")
        held.close()
        late.close()


def test_answers_that_take_longer_than_the_limit_are_refused():
    """A whole answer and a stream; a second signal does the same at once."""
    for total, n_signals in ((1.0, 1), (30.0, 2)):
        with server(total=total, step=0.3) as (process, port, _), socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(raw(json.dumps({**ASKED, "stream": True})))
            answers = []
            thread = threading.Thread(target=lambda: answers.append(chat(port, max_tokens=100, ignore_eos=True)))
            thread.start()
            wait_for(lambda: send(port, "GET", "/state")[2]["models"][-1]["running"] == 2)
            if n_signals == 2:
                process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            assert stopped(process, 3) < 3 + SLACK
            thread.join()
            why = "1 seconds are over" if n_signals == 1 else "a second signal came"
            assert answers[0][0] == 503 and why in answers[0][2]["error"]["message"]
            s.settimeout(5)
            got = b""
            while part := s.recv(1 << 16):
                got += part
            assert why.encode() in got


def test_half_a_message_of_grpc_puts_the_end_off_by_the_clients_seconds():
    pytest.importorskip("grpc")
    frame = lambda kind, flags, stream, data: len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data  # noqa: E731
    text = lambda s: bytes([len(s)]) + s.encode()  # noqa: E731
    fields = {":method": "POST", ":scheme": "http", ":path": "/inference.GRPCInferenceService/ModelInfer", ":authority": "x",
              "content-type": "application/grpc", "te": "trailers"}  # fmt: skip
    headers = b"".join(b"\0" + text(k) + text(v) for k, v in fields.items())
    with server(grpc=True) as (process, _, port), socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, headers) + frame(0, 0, 1, b"\0\0\0\0\x50abc"))
        time.sleep(0.5)
        took = stopped(process, CLIENT_SECONDS)
        assert CLIENT_SECONDS - 0.2 <= took < CLIENT_SECONDS + SLACK
