"""No network while a tiny part is built: an attempt is refused and remembered, so that one that is swallowed is found out."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


class NetworkUseError(OSError):
    """A component tried to reach the network."""


@contextmanager
def no_network() -> Iterator[list[str]]:
    """Refuse connections and look-ups of names; yields the list of what was tried.

    Sockets within the machine's own file system (between processes) are let through.
    """
    tried: list[str] = []

    def refuse(what: str) -> NetworkUseError:
        tried.append(what)
        return NetworkUseError(f"{what}: a tiny part is built offline")

    def connect(self: socket.socket, address: Any) -> Any:
        if self.family == socket.AF_UNIX:
            return original_connect(self, address)
        raise refuse(f"connection to {address!r}")

    def connect_ex(self: socket.socket, address: Any) -> Any:
        if self.family == socket.AF_UNIX:
            return original_connect_ex(self, address)
        raise refuse(f"connection to {address!r}")

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        raise refuse(f"look-up of host {host!r}")

    original_connect, original_connect_ex = socket.socket.connect, socket.socket.connect_ex
    with (
        patch.object(socket.socket, "connect", connect),
        patch.object(socket.socket, "connect_ex", connect_ex),
        patch.object(socket, "getaddrinfo", look_up),
        patch.object(socket, "gethostbyname", look_up),
    ):
        yield tried
