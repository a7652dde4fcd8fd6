# SPDX-License-Identifier: Apache-2.0
"""A stranger could keep a gateway busy with one long message: it was parsed before its token was looked for.

One MiB took a fifth of a second of the event loop, which checks the streams of all others.  Now a message over 16 KiB
is parsed once its token is known to be of the audience.
"""

import json
from typing import Any

import pytest

from arx_caps.gateway import mcp_door
from arx_verifier import Rule
from arx_verifier.enforcement import META_KEY
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed

LONG = {"text": "x" * 20_000}


def body_of(**meta: str) -> bytes:
    params: dict[str, Any] = {"name": "get", "arguments": LONG, "_meta": meta}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


@pytest.mark.spec("11")
def test_it_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token, and with one that no key signed: in the header, in the message."""
    parsed: list[bytes] = []
    monkeypatch.setattr(mcp_door, "read_incoming", parsed.append)
    door = Door(UnsafeTestRealm("files"), Upstream(lambda _: Answer(b"{}")))
    other = UnsafeTestRealm("files").caller(Rule(tool="files.get"))
    body = body_of()
    assert (door.ask(body)[0], door.ask(body, signed(other, body))[0]) == (401, 401)
    assert door.ask(body_of(**{META_KEY: "nonsense"}))[0] == 401
    assert parsed == []


def test_a_long_call_of_a_holder_runs() -> None:
    """Its token is in the header, or in the message."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(Rule(tool="files.get", open=True))
    door = Door(realm, Upstream(lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}')))
    assert "result" in door.message(caller, "tools/call", {"name": "get", "arguments": LONG})
    body = body_of(**{META_KEY: caller.token("files.get", **LONG)})
    assert "isError" not in json.loads(door.ask(body)[1])["result"]
