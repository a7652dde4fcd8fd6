# SPDX-License-Identifier: Apache-2.0
"""An upstream of a gateway could set what holds for the gateway's whole origin, or send clients past the gateway.

Headers such as `Clear-Site-Data` are of an origin, which is that of all upstreams.  A redirect of a plain HTTP service
showed its internal address.  Now such headers are dropped, and an address is the gateway's own, or the answer is a 502.
"""

import contextlib
from pathlib import Path
from typing import Any

import httpx

from arx_caps.gateway.upstream.forwarder import answer_headers
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.adapters.asgi_server import complete_lifespan, serving
from tests.gateway.served_door import open_door

DROPPED = """
Accept-CH Access-Control-Allow-Origin Access-Control-Allow-Credentials Alt-Svc Attribution-Reporting-Register-Source
Authentication-Info Clear-Site-Data Critical-CH Expect-CT NEL No-Vary-Search Origin-Agent-Cluster Origin-Trial
Proxy-Authenticate Public-Key-Pins Public-Key-Pins-Report-Only Refresh Report-To Reporting-Endpoints
Service-Worker-Allowed Set-Cookie Set-Login Strict-Transport-Security Use-As-Dictionary WWW-Authenticate
X-Accel-Redirect X-Reproxy-URL X-Sendfile
""".split()
KEPT = (
    "Content-Disposition Content-Security-Policy ETag Link Retry-After X-Accel-Buffering X-Content-Type-Options".split()
)


def test_headers_of_the_whole_origin_are_dropped() -> None:
    """Those of one answer pass."""
    names = [name.decode() for name, _ in answer_headers((each.encode(), b"1") for each in DROPPED + KEPT)]
    assert names == [*(each.lower() for each in KEPT), "cache-control", "vary"]


class Redirecting:
    """Answers with the status and the `Location` that the query names."""

    port = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if await complete_lifespan(scope, receive, send):
            return
        asked = httpx.QueryParams(scope["query_string"].decode())
        place = asked["to"].replace("SELF", f"http://127.0.0.1:{self.port}").encode()
        headers = [(b"location", place), (b"content-location", place), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": int(asked["status"]), "headers": headers})
        await send({"type": "http.response.body", "body": b""})


OWN = {
    "SELF/v1/orders/o-1?a=b": "/orders/orders/o-1?a=b",
    "/v1/orders#part": "/orders/orders#part",
    "SELF/v1": "/orders",
    "o-2": "/orders/o-2",
    "?page=2": "/orders/go?page=2",
    "/v1//evil.example/x": "/orders//evil.example/x",
}
ELSEWHERE = [
    "SELF/admin",
    "SELF/v1/../admin",
    "SELF/v1/x/%2e%2E/%2e./admin",
    "SELF/v1/..\\admin",
    "SELF/v10/x",
    "../admin",
    "//evil.example/v1/x",
    "https://evil.example/v1/x",
    "http://user@127.0.0.1/v1/x",
    "/",
    "javascript:alert(1)",
]


def test_a_redirect_stays_at_the_gateway(tmp_path: Path) -> None:
    """An address of the service itself is one of the gateway; another one is none that a client gets."""
    realm, upstream = UnsafeTestRealm("orders"), Redirecting()
    caller = realm.caller(Rule(tool="orders.go", open=True))
    routes = {"GET /go?{status}&{to}": "orders.go"}
    with contextlib.ExitStack() as running:
        upstream.port = running.enter_context(serving(upstream))
        url = running.enter_context(
            open_door(realm, tmp_path, url=f"http://127.0.0.1:{upstream.port}/v1", routes=routes)
        )

        def ask(status: int, place: str) -> httpx.Response:
            query = httpx.QueryParams({"status": status, "to": place})
            return httpx.get(f"{url}/go?{query}", auth=caller)

        for place, shown in OWN.items():
            for status in (201, 302):
                answer = ask(status, place)
                assert (answer.status_code, answer.headers.get("location")) == (status, shown), place
                assert answer.headers["content-location"] == shown
        for place in ELSEWHERE:
            answer = ask(302, place)
            assert (answer.status_code, answer.json()["may_have_run"]) == (502, True), place
            assert str(upstream.port) not in str(answer.headers) + answer.text
            answer = ask(201, place)
            assert (answer.status_code, "location" in answer.headers) == (201, False)
