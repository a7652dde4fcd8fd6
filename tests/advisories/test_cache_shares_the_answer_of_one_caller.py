# SPDX-License-Identifier: Apache-2.0
"""In a gateway, a shared cache before it could give one caller's answer to all, where an upstream called it public.

RFC 9111 3.5 lets a cache keep an answer to a request with `Authorization` if the answer says `public` or `s-maxage`.
Now each answer that was decided on for one caller is `private`, whatever the upstream says to caches.
"""

import pytest

from arx_caps.gateway.upstream.forwarder import answer_headers
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed

CASES = {
    "": "private, no-cache",
    "public": "private, no-cache",
    "PUBLIC, max-age=60": "private, max-age=60",
    "s-maxage=600": "private, no-cache",
    'private="set-cookie", max-age=3': "private, max-age=3",
    "no-store": "private, no-store",
    "no-cache, no-transform": "private, no-cache, no-transform",
    'no-cache="a, public", public': 'private, no-cache="a, public"',
    'private="x': "private, no-cache",
    "public , s-maxage = 5,,max-age=1": "private, max-age=1",
}
FOR_CACHES = ["CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control", "Edge-Control", "Expires"]


def seen(*headers: tuple[bytes, bytes]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in answer_headers(headers):
        found.setdefault(name.decode(), []).append(value.decode())
    return found


@pytest.mark.parametrize("stated", CASES)
def test_an_answer_is_of_its_caller(stated: str) -> None:
    """Of what the upstream allows, the rest stays: it is for the caller's own cache."""
    headers = [(b"Cache-Control", stated.encode())] if stated else []
    assert seen(*headers)["cache-control"] == [CASES[stated]]
    assert "Authorization" in seen(*headers, (b"Vary", b"Accept"))["vary"]


def test_several_headers_are_one() -> None:
    """As a cache reads them; those for one kind of cache alone are gone."""
    several = [(b"cache-control", b"max-age=9"), (b"Cache-Control", b"public"), (b"etag", b'"1"')]
    several += [(name.encode(), b"max-age=600") for name in FOR_CACHES]
    assert seen(*several) == {
        "etag": ['"1"'],
        "cache-control": ["private, max-age=9"],
        "vary": ["Authorization"],
    }


def test_a_message_and_a_failure_are_too() -> None:
    """A list of one caller's tools, and the gateway's own error."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get"))
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    for data in (b'{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}', b"no message"):
        upstream = Upstream(lambda _, data=data: Answer(data, (b"cache-control", b"public")))
        heads: list[tuple[bytes, bytes]] = []
        Door(realm, upstream).ask(body, signed(caller, body), heads=heads)
        assert dict(heads)[b"cache-control"] in (b"private, no-cache", b"no-store")
