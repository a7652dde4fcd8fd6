# SPDX-License-Identifier: Apache-2.0
"""A mint that answered a batch with thousands of brackets ended the shipper's attempt without a word of the cause."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.credentials.jose import SigningKey
from tests.audit.receiver import REALM
from tests.verifier.journals import allow, files, small

BRACKETS = b'{"verifier":' + b"[" * 5_000


@pytest.fixture(params=[200, 400, 503])
def issuer(request: pytest.FixtureRequest) -> Iterator[str]:
    """A mint whose answers are brackets, with each status that a shipper reads."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(request.param)
            self.send_header("Content-Length", str(len(BRACKETS)))
            self.end_headers()
            self.wfile.write(BRACKETS)

        def log_message(self, *args: Any) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.spec("LOG 2.4")
def test_the_shipper_says_what_is_wrong(
    issuer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The status names the answer, the records stay, and no thread ends with an error."""
    ended: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    journal = small(tmp_path)
    journal.append(allow(0))
    sender = Shipper(tmp_path, audience="orders", realm=REALM, issuer=issuer, key=SigningKey.generate())
    assert not sender.once()
    expected = {
        200: "malformed answer",
        400: "refuses the batch: status 400",
        503: "cannot take records now: status 503",
    }
    assert expected[request.node.callspec.params["issuer"]] in str(sender.status.error)
    assert ended == []
    assert len(files(tmp_path)) == 1
    sender.close()
    journal.close()
