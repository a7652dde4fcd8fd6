# SPDX-License-Identifier: Apache-2.0
"""A receiver of records from LOG 2 alone: it checks, numbers and keeps them in memory, over real HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from arx_caps.audit.ingest.entries import Reader
from arx_caps.audit.shipping.batch import HEADER, PATH, Batch, hold_statement, open_statement
from arx_caps.credentials.keyfile import PublicKey, SigningKey
from arx_caps.service.fetch import KEYS_PATH
from arx_verifier.errors import ArxError
from arx_verifier.journal.record import OpenedRecord, read_sealed
from arx_verifier.token.wire import text_of
from tests.mint.harness import now_ms

REALM = "acme"


class Receiver:
    """What a mint does with batches, as far as their sender can see.

    Attributes:
        key: The service's key.
        records: What was taken, by run.
        gaps: What was declared lost, by run: first and last sequence.
        closed: Runs that ended in order.
        posts: How many batches came.
        refuse: A status to answer with instead, or None.
    """

    def __init__(self, audience: str = "orders") -> None:
        self.key, self.audience = SigningKey.generate(), audience
        self.records: dict[str, list[OpenedRecord]] = {}
        self.gaps: dict[str, list[tuple[int, int]]] = {}
        self.closed: set[str] = set()
        self.high_water: dict[str, int] = {}
        self.posts = 0
        self.refuse: int | None = None
        self.poison: str | None = None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def take(self, batch: Batch) -> int:
        """Number a batch; return the high-water mark."""
        Reader().read(batch)
        records = [read_sealed(*sealed) for sealed in batch.records]
        with self._lock:
            mark = self.high_water.get(batch.boot, 0)
            if batch.lost_from is not None and batch.lost_from <= mark + 1 < batch.first:
                self.gaps.setdefault(batch.boot, []).append((mark + 1, batch.first - 1))
                mark = batch.first - 1
            for record in records:
                if record.sequence == mark + 1:
                    self.records.setdefault(batch.boot, []).append(record)
                    mark += 1
            self.high_water[batch.boot] = mark
            if batch.closed and mark == batch.last:
                self.closed.add(batch.boot)
            return mark

    def forget(self, boot: str, mark: int) -> None:
        """Do as if an older state was restored."""
        with self._lock:
            self.records[boot] = self.records[boot][:mark]
            self.high_water[boot] = mark

    @property
    def tools(self) -> list[str]:
        """The tools of all that was allowed, in order."""
        with self._lock:
            return [record.call.tool for run in self.records.values() for record in run if record.call.code == "ok"]

    def answer(self, path: str, statement: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Answer one request."""
        self.posts += 1
        if self.refuse is not None:
            return self.refuse, {"code": "internal", "detail": "refuses by order"}
        try:
            assert path == PATH
            batch = Batch.decode(body)
            answer = open_statement(statement, self._find_key, now=now_ms())
            hold_statement(answer, batch, body, realm=REALM, issuer=self.issuer)
            if batch.boot == self.poison:
                return 400, {"code": "malformed_request", "detail": "refuses this run by order"}
            return 200, {"verifier": batch.verifier, "boot": batch.boot, "high_water": self.take(batch)}
        except ArxError as error:
            return error.status_hint, {"code": error.code, "detail": str(error)}

    def _find_key(self, holder: str, kid: str) -> PublicKey | None:
        return self.key.public if (holder, kid) == (f"service:{self.audience}", self.key.kid) else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                assert self.path == KEYS_PATH
                keys = [{"kid": "k1.0", "key": text_of(bytes(32))}]
                values = {"realm": REALM, "audience": receiver.audience, "keys": keys}
                self._send(receiver.refuse or 200, values | {"max_ttl_ms": 600_000, "refresh_ms": 60_000})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._send(*receiver.answer(self.path, self.headers[HEADER], body))

            def _send(self, status: int, value: dict[str, Any]) -> None:
                raw = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler
