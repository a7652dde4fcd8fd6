# SPDX-License-Identifier: Apache-2.0
"""Bodies that go on while they come: what is judged of them, and what a kill cuts.  Real servers."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from arx_verifier import Constraint, Rule
from arx_verifier.errors import SettingsError
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from tests.adapters.asgi_server import complete_lifespan, serving
from tests.gateway.served_door import open_door

pytestmark = [pytest.mark.servers, pytest.mark.spec("8.7")]

ROUTES = {"PUT /archives/{name}": "orders.archive"}
BODIES = {"PUT /archives/{name}": "stream"}
KIND = "application/zip"


class Upstream:
    """Counts what comes, and notes when it has begun and how it ended."""

    def __init__(self) -> None:
        self.begun, self.over = threading.Event(), threading.Event()
        self.size, self.ended = 0, ""
        self.lengths: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with the count."""
        if await complete_lifespan(scope, receive, send):
            return
        self.lengths += [value for name, value in scope["headers"] if name == b"content-length"]
        more, self.ended = True, "whole"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.ended = "cut"
                break
            self.size += len(message.get("body", b""))
            more = message.get("more_body", False)
            self.begun.set()
        self.over.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % self.size})


class Place(NamedTuple):
    """A door before an upstream."""

    url: str
    realm: UnsafeTestRealm
    upstream: Upstream


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    realm, upstream = UnsafeTestRealm("orders"), Upstream()
    with (
        serving(upstream, log_level="critical") as port,
        open_door(
            realm,
            tmp_path,
            url=f"http://127.0.0.1:{port}",
            routes=ROUTES,
            bodies=BODIES,
            effects=["orders.archive"],
        ) as url,
    ):
        yield Place(url, realm, upstream)


def archiver(realm: UnsafeTestRealm) -> UnsafeCaller:
    about: Any = {"content_type": KIND, "size": Constraint(max=4_000_000, optional=True)}
    return realm.caller(Rule(tool="orders.archive", args={"name": "a", "body": Constraint(fields=about)}))


def send(url: str, token: str, content: Any, name: str = "a", **headers: str) -> httpx.Response:
    headers |= {"content-type": KIND, "authorization": f"Bearer {token}"}
    return httpx.put(f"{url}/archives/{name}", content=content, headers=headers, timeout=60)


def test_a_stream_passes_above_max_body(place: Place) -> None:
    """Its token proves tool and arguments; the upstream gets all bytes, and the length where one is declared."""
    caller, data = archiver(place.realm), bytes(3_000_000)
    about = {"content_type": KIND, "size": len(data)}
    answer = send(place.url, caller.token("orders.archive", name="a", body=about), data)
    assert (answer.status_code, answer.text) == (200, "3000000")
    answer = send(place.url, caller.token("orders.archive", name="a", body={"content_type": KIND}), iter([data, data]))
    assert (answer.status_code, answer.text) == (200, "9000000")
    assert place.upstream.lengths == [b"3000000"]


def test_a_stream_is_judged_before_it_goes_on(place: Place) -> None:
    """Another name, a size that no rule allows, a proof of the request: none of them reaches the upstream."""
    caller = archiver(place.realm)
    large = {"content_type": KIND, "size": 5_000_000}
    small = {"content_type": KIND, "size": 1}
    assert send(place.url, caller.token("orders.archive", name="b", body=small), b"x", "b").status_code == 403
    assert send(place.url, caller.token("orders.archive", name="a", body=large), bytes(5_000_000)).status_code == 403
    assert send(place.url, caller.token("orders.archive", name="b", body=small), b"x").status_code == 401
    proof: Any = caller
    answer = httpx.put(f"{place.url}/archives/a", content=b"x", headers={"content-type": KIND}, auth=proof, timeout=60)
    assert answer.json()["code"] == "proof_invalid"
    assert send(place.url, "arx_x", b"x").status_code == 401
    assert not place.upstream.begun.is_set()


def test_a_kill_cuts_a_stream_that_comes(place: Place) -> None:
    """The upstream sees that it broke off, and the record says that the effect is not known."""
    caller, at = archiver(place.realm), urlsplit(place.url)
    token = caller.token("orders.archive", name="a", body={"content_type": KIND})
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=60)
    connection.putrequest("PUT", f"{at.path}/archives/a")
    for name, value in (("authorization", f"Bearer {token}"), ("content-type", KIND), ("transfer-encoding", "chunked")):
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"4\r\nabcd\r\n")
    assert place.upstream.begun.wait(60)
    place.realm.epochs.kill("agent:test/agent")
    assert place.upstream.over.wait(60)
    assert place.upstream.ended == "cut"
    assert connection.getresponse().status == 401
    connection.close()
    decisions: Any = place.realm.decisions.decisions
    assert [each.effect.result for each in decisions if each.code == "effect"] == ["unknown"]


def test_a_stream_whose_client_goes_is_cut(place: Place) -> None:
    """It does not pass for a whole one."""
    caller, at = archiver(place.realm), urlsplit(place.url)
    token = caller.token("orders.archive", name="a", body={"content_type": KIND})
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=60)
    connection.putrequest("PUT", f"{at.path}/archives/a")
    for name, value in (("authorization", f"Bearer {token}"), ("content-type", KIND), ("transfer-encoding", "chunked")):
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"4\r\nabcd\r\n")
    assert place.upstream.begun.wait(60)
    connection.close()
    assert place.upstream.over.wait(60)
    assert place.upstream.ended == "cut"


@pytest.mark.parametrize("more", [{"watch": True, "until": "2026-12-31T00:00:00Z"}, {"resource": "http://a/orders"}])
def test_a_stream_needs_a_token_of_the_call(more: dict[str, Any], tmp_path: Path) -> None:
    """In watch mode, or with access tokens, nothing would be judged before it goes on."""
    realm = UnsafeTestRealm("orders")
    table: dict[str, Any] = {"url": "http://127.0.0.1:9", "routes": ROUTES, "bodies": BODIES}
    with (
        pytest.raises(SettingsError, match="a route that streams takes no"),
        open_door(realm, tmp_path, **table, **more),
    ):
        pass
