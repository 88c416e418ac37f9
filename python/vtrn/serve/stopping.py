"""The end of a server: requests under way are answered, and no client can put the end off.

A client holds a connection in one of these states. No request is under way (idle, or half a header): the connection is
closed at once. The body is not complete, or the answer is not read: the client has `client_seconds` to go on. The server
computes the answer: it has `total_seconds`.
"""

import asyncio
import dataclasses

import uvicorn

from vtrn.serve.errors import RequestError
from vtrn.serve.host import Host

TICK_SECONDS = 0.1
LAST_SECONDS = 1.0  # for answers of requests that are given up


@dataclasses.dataclass(frozen=True)
class StopLimits:
    """Seconds from the signal on."""

    total_seconds: float = 60.0  # then requests under way are refused, too
    client_seconds: float = 5.0  # that a client may take to send the rest of a body, or go without reading of its answer


class StoppingServer(uvicorn.Server):
    """SIGTERM and ctrl-C: no new connections, requests under way are answered, then the end. Twice: they are refused.
    Three times: nobody is told anything."""

    def __init__(self, config: uvicorn.Config, host: Host, release_bodies, limits: StopLimits, stop_others=None):
        super().__init__(config)
        self._host, self._release_bodies, self._limits, self._stop_others = host, release_bodies, limits, stop_others
        self._n_signals = 0

    def handle_exit(self, sig: int, frame) -> None:
        self._host.is_closing = True
        self._n_signals += 1
        self.should_exit, self.force_exit = True, self._n_signals > 2

    async def shutdown(self, sockets=None) -> None:
        others = asyncio.ensure_future(asyncio.to_thread(self._stop_others)) if self._stop_others else None
        bound = asyncio.ensure_future(self._bound())
        try:
            await super().shutdown(sockets)
        finally:
            bound.cancel()
        if self.force_exit:
            self._give_up("signals came")
        if others:
            await others

    def _give_up(self, why: str) -> None:
        self._host.abandon(RequestError(503, f"the server stops and {why}; send the request to another server"))

    async def _bound(self) -> None:
        loop, limits = asyncio.get_running_loop(), self._limits
        start, given_up = loop.time(), None
        unsent: dict = {}  # bytes of a connection that wait for the client, and since when they do not become fewer
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            if given_up is None and (self._n_signals > 1 or now - start >= limits.total_seconds):
                given_up = now
                self._give_up("a second signal came" if self._n_signals > 1 else f"{limits.total_seconds:g} seconds are over")
            if now - start >= limits.client_seconds or given_up is not None:
                self._release_bodies()
            for connection in list(self.server_state.connections):
                n = connection.transport.get_write_buffer_size()
                before, since = unsent.get(connection, (0, now))
                unsent[connection] = (n, since if n and n >= before else now)
                is_over = given_up is not None and now - given_up >= LAST_SECONDS
                if is_over or now - unsent[connection][1] >= limits.client_seconds:
                    connection.transport.abort()
