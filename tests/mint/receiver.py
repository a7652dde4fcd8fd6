# SPDX-License-Identifier: Apache-2.0
"""A receiver of notifications as a process of its own, which answers as the path of a request says.

``/<status>`` answers that status, ``/<status>/after`` with Retry-After, ``/fails/<n>`` 500 for the first n requests of
a notification, ``/hang`` never, ``/redirect`` with another place, and ``/drip`` a byte at a time.
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

import pytest

from tests.servers import child, until


class Received:
    """One request: the time of its arrival, its path, headers in small letters, and body."""

    def __init__(self, line: str) -> None:
        document = json.loads(line)
        self.at: float = document["at"]
        self.method: str = document["method"]
        self.path: str = document["path"]
        self.headers: dict[str, str] = document["headers"]
        self.raw: str = document["body"]

    @property
    def body(self) -> dict[str, Any]:
        """The body, parsed."""
        read: dict[str, Any] = json.loads(self.raw)
        return read

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class ReceiverProcess:
    """A receiver that runs.

    Attributes:
        netloc: Its host and port.
        got: What it has received, in order.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._process, self.got = process, list[Received]()
        self.netloc = f"127.0.0.1:{process.stdout.readline().strip()}"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    @contextmanager
    def run(cls) -> Iterator[Self]:
        """Run one."""
        with child([sys.executable, "-m", "tests.mint.receiver"], stdout=subprocess.PIPE, text=True) as process:
            receiver = cls(process)
            yield receiver
            process.kill()
            receiver._reader.join()

    def url(self, path: str = "/200") -> str:
        """Return the URL of a path."""
        return f"http://{self.netloc}{path}"

    def at(self, path: str) -> list[Received]:
        """Return what a path has received."""
        return [one for one in self.got if one.path == path]

    def wait(self, count: int = 1, path: str = "/200") -> list[Received]:
        """Wait until a path has received so many requests, and return them."""
        until(lambda: len(self.at(path)) >= count)
        return self.at(path)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.got.append(Received(line))


@pytest.fixture(scope="module")
def receiver() -> Iterator[ReceiverProcess]:
    """A receiver, which the tests of a module share: each names its own notifications."""
    with ReceiverProcess.run() as made:
        yield made


class _Handler(BaseHTTPRequestHandler):
    seen: ClassVar[Counter[str]] = Counter()
    lock: ClassVar = threading.Lock()

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        line = {"at": time.time(), "method": self.command, "path": self.path, "headers": headers, "body": body}
        with self.lock:
            self.seen[headers["webhook-id"]] += 1
            tries = self.seen[headers["webhook-id"]]
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        _, kind, *rest = self.path.partition("?")[0].split("/")
        if kind == "hang":
            threading.Event().wait()
        elif kind == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long:")
            while not threading.Event().wait(0.05):
                self.wfile.write(b" ")
        elif kind == "fails":
            self.answer(500 if tries <= int(rest[0]) else 200)
        elif kind == "redirect":
            self.answer(307, Location="/200")
        else:
            self.answer(int(kind), **({"Retry-After": "7200"} if rest else {}))

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
