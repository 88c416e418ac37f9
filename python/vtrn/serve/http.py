"""The HTTP front: both protocols, /metrics and the live page, on one port."""

import asyncio
import pathlib
import socket

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vtrn.serve import metrics, oip, openai_api
from vtrn.serve.errors import RequestError
from vtrn.serve.host import Host
from vtrn.serve.listeners import BACKLOG
from vtrn.serve.stopping import StoppingServer, StopLimits

MAX_BODY_BYTES = 32 << 20
DRAINED = 2  # times the limit
PAGE = pathlib.Path(__file__).with_name("page.html")


class BodyReader:
    """Reads whole bodies of up to `limit` bytes."""

    def __init__(self, limit: int):
        self._limit = limit
        self._reading: set[asyncio.Timeout] = set()

    async def __call__(self, request: Request) -> bytes:
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self._reading.add(patience)
                return await self._read(request)
        except TimeoutError:
            raise RequestError(408, "the server stops and the body is not complete; send the request to another server") from None
        finally:
            self._reading.discard(patience)

    def release(self) -> None:
        """Refuses the requests whose bodies are not complete."""
        while self._reading:
            self._reading.pop().reschedule(0)

    async def _read(self, request: Request) -> bytes:
        limit, announced = self._limit, request.headers.get("content-length", "0")
        parts, n = [], 0
        n_announced = int(announced) if announced.isdigit() else 0
        too_large = RequestError(413, f"the body is larger than {limit} bytes; send less in a request")
        # A client that is still sending may not read an answer: a little too much is taken in and dropped.
        is_drained = limit < n_announced <= DRAINED * limit
        if n_announced > limit and not is_drained:
            raise too_large
        async for part in request.stream():
            n += len(part)
            if n > limit and not is_drained:
                raise too_large
            if not is_drained:
                parts.append(part)
        if is_drained:
            raise too_large
        return b"".join(parts)


def _protocol_error(request: Request, error: RequestError) -> Response:
    """In the form of the protocol that the path belongs to."""
    if request.url.path.startswith("/v1"):
        response = openai_api.error_response(error)
    else:
        response = oip.json_response({"error": error.message}, error.status)
    if error.status == 503:
        response.headers["Retry-After"] = "1"
    if error.status in (408, 413):
        response.headers["Connection"] = "close"
    return response


def make_app(host: Host, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    app = FastAPI(title="vtrn serve", docs_url=None, redoc_url=None, openapi_url=None)
    read_body = app.state.read_body = BodyReader(max_body_bytes)
    app.include_router(oip.router(host, read_body))
    app.include_router(openai_api.router(host, read_body))

    @app.get("/")
    async def page():
        return Response(PAGE.read_text(encoding="utf-8"), media_type="text/html")

    @app.get("/health")
    async def health():
        return Response(status_code=503 if host.is_closing else 200)

    @app.get("/state")
    async def state():
        return oip.json_response(metrics.state(host))

    @app.get("/metrics")
    async def prometheus():
        return Response(metrics.prometheus(host), media_type="text/plain; version=0.0.4")

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError):
        return _protocol_error(request, error)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException):
        what = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for {request.url.path}"}
        return _protocol_error(request, RequestError(error.status_code, what.get(error.status_code, str(error.detail))))

    @app.exception_handler(ClientDisconnect)
    async def hung_up(request: Request, error: ClientDisconnect):
        return Response(status_code=400)  # the client has closed: the server did not fail, and logs nothing

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception):
        return _protocol_error(request, RequestError(500, f"the call failed: {error}"))

    return app


def serve(host: Host, listeners: list[socket.socket], on_ready=None, limits: StopLimits = StopLimits(), stop_others=None) -> None:
    """Until a signal comes. The sockets are those of listeners.bound; stop_others() ends other doors and returns when they
    are shut: it is called when the signal has come, on a thread of its own."""
    app = make_app(host)
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", lifespan="off", backlog=BACKLOG)
    server = StoppingServer(config, host, app.state.read_body.release, limits, stop_others)

    async def run():
        task = asyncio.ensure_future(server.serve(listeners))
        while not server.started and not task.done():
            await asyncio.sleep(0.01)
        if server.started and on_ready:
            on_ready(server.servers[0].sockets[0].getsockname()[1])
        await task

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        pass
    finally:
        host.close()


__all__ = ["make_app", "serve"]
