# SPDX-License-Identifier: Apache-2.0
"""An upload by a gateway lost parts where the service began its answer before the body's end, as git's server does.

The gateway looked for a client that goes by reading what the client sends, while it still read the body for the
service: each of the two took what the other one missed.
"""

import hashlib
import http.client
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import arx_caps.gateway.base.asgi as gateway_asgi
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import complete_lifespan, serving
from tests.gateway.served_door import open_door

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.7")]

PART, PARTS = bytes(range(256)) * 256, 800
KIND = "application/zip"


class Early:
    """Answers as `git http-backend` does: the head at once, and the digest of the body at its end."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if await complete_lifespan(scope, receive, send):
            return
        headers = [(b"content-type", b"application/octet-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        digest, more = hashlib.sha256(), True
        while more:
            message = await receive()
            digest.update(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": digest.hexdigest().encode()})


def test_a_service_that_answers_early_gets_the_whole_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The client sends the rest once the answer has begun; the service reads each byte of it.
    """
    watching = threading.Event()
    until_gone = gateway_asgi.until_gone

    async def noted(receive: Any) -> None:
        watching.set()
        await until_gone(receive)

    monkeypatch.setattr(gateway_asgi, "_UNWATCHED_S", 0.0)
    monkeypatch.setattr(gateway_asgi, "until_gone", noted)
    realm, size = UnsafeTestRealm("orders"), len(PART) * PARTS
    terms = {"routes": {"PUT /archives/{name}": "orders.archive"}, "bodies": {"PUT /archives/{name}": "stream"}}
    with (
        serving(Early(), log_level="critical") as behind,
        open_door(realm, tmp_path, url=f"http://127.0.0.1:{behind}", **terms) as url,
    ):
        about = {"content_type": KIND, "size": size}
        token = realm.caller(Rule(tool="orders.archive", open=True)).token("orders.archive", name="a", body=about)
        place = urlsplit(url)
        link = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        link.putrequest("PUT", f"{place.path}/archives/a")
        for name, value in (
            ("Authorization", f"Bearer {token}"),
            ("Content-Type", KIND),
            ("Content-Length", str(size)),
        ):
            link.putheader(name, value)
        link.endheaders()
        link.send(PART)
        assert watching.wait(60)
        for _ in range(PARTS - 1):
            link.send(PART)
        assert link.getresponse().read() == b"begun " + hashlib.sha256(PART * PARTS).hexdigest().encode()
        link.close()
