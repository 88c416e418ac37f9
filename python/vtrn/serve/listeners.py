"""Sockets of a server, bound before its models are loaded: a port that is taken is told at once."""

import errno
import socket

from vtrn.serve.runtime import VtrnError

BACKLOG = 2048


def _fault(address: str, port: int, option: str, error: OSError) -> VtrnError:
    if error.errno == errno.EADDRINUSE:
        return VtrnError(f"port {port} of {address} is taken; choose another with {option}")
    return VtrnError(f"port {port} of {address} cannot be listened at: {error.strerror or error}")


def close(sockets: list[socket.socket]) -> None:
    for s in sockets:
        s.close()


def bound(address: str, port: int, option: str = "--port") -> list[socket.socket]:
    """A socket for each address that the name stands for, all of one port; none listens yet, so that clients are
    refused until models are ready. option is the one that an error names."""
    sockets: list[socket.socket] = []
    error = None
    try:
        for family, kind, protocol, _, at in dict.fromkeys(
            socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            try:
                s = socket.socket(family, kind, protocol)
            except OSError as e:  # the machine has no such family
                error = e
                continue
            sockets.append(s)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                s.bind((at[0], sockets[0].getsockname()[1] or port, *at[2:]))
            except OSError as e:
                if e.errno != errno.EADDRNOTAVAIL:
                    raise
                sockets.pop().close()
                error = e
        if not sockets:
            raise error
    except OSError as e:
        close(sockets)
        raise _fault(address, port, option, e) from None
    return sockets


def listen(sockets: list[socket.socket], address: str, option: str = "--port") -> None:
    """Two servers may bind a port while neither listens; the second that begins to is refused here."""
    for s in sockets:
        try:
            s.listen(BACKLOG)
        except OSError as e:
            raise _fault(address, s.getsockname()[1], option, e) from None
