# SPDX-License-Identifier: Apache-2.0
"""A client of ``benchmarks.run``: it follows orders of standard input, a JSON text a line, and answers with times.

In a box it has the standard library alone; only outside of one, beside the gateway, it signs its calls itself.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

HOST, TARGET = "api.example", "/items/a"


def connected(host: str, port: int) -> socket.socket:
    """Return a connection that waits for no further bytes."""
    made = socket.create_connection((host, port), 30)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def through_front() -> socket.socket:
    """Return a connection to the service, through the front that the environment names."""
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    made = connected(str(proxy.hostname), int(proxy.port or 0))
    login = f"Proxy-Authorization: Basic {basic(proxy.username, proxy.password)}\r\n" if proxy.username else ""
    made.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\n{login}\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += made.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"]).wrap_socket(made, server_hostname=HOST)


def basic(user: str, password: str | None) -> str:
    """Return the credential of HTTP Basic."""
    import base64

    return base64.b64encode(f"{user}:{password}".encode()).decode()


def signer(file: str, target: str) -> Callable[[], str]:
    """Return what makes the header of a call, with the task in a file."""
    from arx_caps.agent import Task

    task = Task.load(file)
    [audience] = task.audiences
    return lambda: f"Authorization: Bearer {task.http_token(audience, 'GET', target.encode())}\r\n"


def call(connection: socket.socket, request: bytes) -> bool:
    """Send a request, and read its answer, which comes in chunks; return False if the gateway's store was too slow."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        part = connection.recv(65_536)
        assert part, answer
        answer += part
        if answer.startswith(b"HTTP/1.1 503") and answer.endswith(b"}"):
            return False
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return True


def calls(order: dict[str, Any]) -> list[float]:
    """Call the service as often as ordered over one connection; return how long each call took, ms."""
    if gateway := order.get("gateway"):
        place = urlsplit(gateway)
        connection, target = connected(str(place.hostname), int(place.port or 80)), f"/app{TARGET}"
        sign, host = signer(order["task"], target), place.netloc
    else:
        connection, target, sign, host = through_front(), TARGET, lambda: "", HOST
    taken: list[float] = []
    while len(taken) < order["warm"] + order["count"]:
        begun = time.perf_counter()
        if call(connection, f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{sign()}\r\n".encode()):
            taken.append((time.perf_counter() - begun) * 1000)
    connection.close()
    return taken[order["warm"] :]


def main() -> None:
    """Follow orders until standard input ends."""
    print("begun", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "words" in order:
            begun = time.perf_counter()
            subprocess.run(order["words"], check=True, stdout=subprocess.DEVNULL)
            taken = [(time.perf_counter() - begun) * 1000]
        else:
            taken = calls(order)
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
