# SPDX-License-Identifier: Apache-2.0
"""One client: an agent in a process of its own that signs each call of an MCP server and waits for its answer.

It starts its own session and task at the mint, and then reads orders from standard input, a JSON text a line.
"""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from arx_caps.agent import Agent, StartedTask
from arx_caps.agent.tasks.origins import read_origin
from benchmarks.gateway.connection import Connection

REVISION = "2025-11-25"


class McpConnection:
    """A session of MCP over one connection.

    Args:
        task: Signs each request.
        url: The server.
        bearer: What the server takes for an identity in place of the token; the call is signed all the same.
    """

    def __init__(self, task: StartedTask, url: str, bearer: str = "") -> None:
        parts = urlsplit(url)
        self._origin = read_origin(f"http://{parts.netloc}")
        self._signer, self._target, self._bearer = task.request_signer("files"), parts.path.encode(), bearer
        self.connection = Connection(self._origin.host, self._origin.port)
        self._fixed = (
            f"Host: {parts.netloc}\r\nContent-Type: application/json\r\nMcp-Protocol-Version: {REVISION}\r\n"
            "Accept: application/json, text/event-stream\r\n"
        )
        self._open()

    def _open(self) -> None:
        about = {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": {"name": "client", "version": "1"}}
        head, _ = self.ask({"id": 0, "method": "initialize", "params": about})
        fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        for name, _, value in fields:
            if name.lower() == b"mcp-session-id":
                self._fixed += f"Mcp-Session-Id: {value.strip().decode()}\r\n"
        self.ask({"method": "notifications/initialized"})

    def request(self, method: str, body: bytes) -> bytes:
        """Return the bytes of one signed request."""
        header = str(self._signer.header(self._origin, method, self._target, body))
        signed = f"Authorization: {self._bearer}\r\nX-Signed: {header}" if self._bearer else f"Authorization: {header}"
        line = f"{method} {self._target.decode()} HTTP/1.1\r\n{self._fixed}{signed}\r\n"
        return f"{line}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def ask(self, message: dict[str, Any]) -> tuple[bytes, bytes]:
        """Send a message, and return head and body of its answer.

        Raises:
            RuntimeError: The answer is an error.
        """
        return self.connection.ask(self.request("POST", json.dumps({"jsonrpc": "2.0", **message}).encode()))

    def listen(self) -> None:
        """Open the session's stream, which stays silent, and wait for its head."""
        self.connection.open_stream(self.request("GET", b""))


def calls(connection: McpConnection, tool: str, seconds: float, numbers: Iterator[int]) -> list[float]:
    """Call the tool as often as there is time for, and return how long each call took, ms."""
    times, until = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < until or not times:
        note = f"n-{next(numbers)}"
        params = {"name": tool, "arguments": {"order_id": "o-1", "note": note}}
        _, body = connection.ask({"id": 1, "method": "tools/call", "params": params})
        times.append((time.perf_counter() - began) * 1000)
        if f"o-1: kettle, {note}".encode() not in body:
            raise RuntimeError(f"expected the order, got {body!r:.500}")
    return times


def main(key_file: str) -> None:
    """Follow orders until standard input ends."""
    numbers = iter(range(sys.maxsize))
    connections: dict[str, McpConnection] = {}
    with Agent.from_key_file(key_file) as agent, agent.open_session() as session:
        task = session.start_task("orders")
        streams = []
        for line in sys.stdin:
            order = json.loads(line)
            url, answer = order["url"], {}
            if "streams" in order:
                for _ in range(order["streams"]):
                    streams.append(McpConnection(task, url))
                    streams[-1].listen()
            else:
                if url not in connections:
                    connections[url] = McpConnection(task, url, order["bearer"])
                connections[url].connection.connect()
                answer = {"times": calls(connections[url], order["tool"], order["seconds"], numbers)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
