# SPDX-License-Identifier: Apache-2.0
"""The beginning of a connection to the front: CONNECT and TLS, or plain HTTP at a Unix socket.  RFC 9110 9.3.6."""

import asyncio
import base64
import hmac
import re
import ssl
from collections.abc import Callable
from typing import Any, Final

from arx_caps.http.connections import BoundedProtocol

PLACE: Final = "arx.place"  # in the state of a request: host and port of its CONNECT
_MAX_HEAD: Final = 16 * 1024
_HEAD_S: Final = 30.0
_PLACE: Final = re.compile(r"([a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\]):([1-9][0-9]{0,4})")
_CONNECT: Final = re.compile(rb"CONNECT (\S+) HTTP/1\.[01]")
_PATH: Final = re.compile(rb"[A-Z]{1,20} /\S* HTTP/1\.[01]")
_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_LOCKED: Final = "This proxy is of one run of arx: send the password of its URL."
_PLAIN: Final = "arx run: plain HTTP is refused: use https. Do not retry."


class Tunnel(asyncio.Protocol):
    """One connection until its requests begin.

    Args:
        context_of: Returns the server's side of TLS for a host.
        protocol: Makes what reads its requests, of their state.
        password: What a client must send; None at a Unix socket, which only its owner can open.
    """

    def __init__(
        self,
        context_of: Callable[[str], ssl.SSLContext],
        protocol: Callable[[dict[str, Any]], BoundedProtocol],
        password: str | None = None,
    ) -> None:
        self._context_of, self._protocol = context_of, protocol
        wanted = base64.b64encode(f"arx:{password}".encode())
        self._wanted = None if password is None else b"Basic " + wanted
        self._read = bytearray()
        self._securing: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the head of the first request."""
        self._transport: asyncio.Transport = transport
        self._timer = asyncio.get_running_loop().call_later(_HEAD_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it so
        """Stop waiting."""
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read the head, or what comes within TLS before the tunnel is made."""
        self._read += data
        if self._securing is not None:
            return
        head, end, rest = bytes(self._read).partition(b"\r\n\r\n")
        if len(head) > _MAX_HEAD:
            self._transport.abort()
        elif end:
            self._timer.cancel()
            self._begin(head.split(b"\r\n"), rest)

    def _begin(self, lines: list[bytes], rest: bytes) -> None:
        line, fields = lines[0], [line.partition(b":") for line in lines[1:]]
        shown = [value.strip() for name, _, value in fields if name.lower() == b"proxy-authorization"]
        if self._wanted is not None and not (len(shown) == 1 and hmac.compare_digest(shown[0], self._wanted)):
            self._refuse(407, _LOCKED, "Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="arx"')
        elif found := _CONNECT.fullmatch(line):
            place = _PLACE.fullmatch(found[1].decode("latin-1").lower())
            if place is None or int(place[2]) > 65_535 or rest:
                self._refuse(400, "arx run: CONNECT: expected HOST:PORT, and nothing behind it", "Bad Request")
                return
            self._transport.pause_reading()
            self._transport.write(_ESTABLISHED)
            self._read.clear()
            self._securing = asyncio.ensure_future(self._secure(place[1].strip("[]"), int(place[2])))
        elif self._wanted is None and _PATH.fullmatch(line):
            self._serve(self._transport, {}, bytes(self._read))
        else:
            self._refuse(403, _PLAIN, "Forbidden")

    async def _secure(self, host: str, port: int) -> None:
        loop, lost = asyncio.get_running_loop(), self._transport
        try:
            made = await loop.start_tls(
                lost, self, self._context_of(host), server_side=True, ssl_handshake_timeout=_HEAD_S
            )
        except (OSError, ValueError):  # of TLS too: the client does not trust this authority, or has gone
            made = None
        if made is None:
            lost.abort()
            return
        # Requests may come in the last packet of the handshake, before this task goes on.
        self._serve(made, {PLACE: (host, port)}, bytes(self._read))

    def _serve(self, transport: asyncio.Transport, state: dict[str, Any], data: bytes) -> None:
        protocol = self._protocol(state)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if data:
            protocol.data_received(data)

    def _refuse(self, status: int, text: str, phrase: str, *more: str) -> None:
        body = f"{text}\n"
        lines = [f"HTTP/1.1 {status} {phrase}", *more, "Content-Type: text/plain", f"Content-Length: {len(body)}"]
        self._transport.write("\r\n".join([*lines, "Connection: close", "", body]).encode("ascii"))
        self._transport.close()
