# SPDX-License-Identifier: Apache-2.0
"""A caller without a token could make a service parse a megabyte of JSON before it verified anything.

The body was read and its JSON understood before the token was looked at.  A megabyte of empty objects took 0.7 s, so
that any client with ``Authorization: Bearer x`` and a slow line could keep a service busy.  Now a body
is read only for a token that the service's key made, and its numbers, depth and halves of surrogates are looked for
without a step of Python for each value.
"""

import pytest

from arx_verifier.enforcement.base import routes
from arx_verifier.errors import RequestError
from arx_verifier.request import read_json_object
from tests.verifier.serving import Realm, answered

BODY = b'{"amount":5,"note":"%b"}' % (b"x" * 4096)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "read_json_object", lambda raw: pytest.fail("a stranger's JSON was read"))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("kind", ["altered", "short", "junk"])
def test_a_strangers_long_body_is_not_read(kind: str) -> None:
    """Not parsed, and not received; the refusal is the token's."""
    realm = Realm()
    token = realm.token().encode()
    altered = token[:-10] + ("A" if token[-10] != "A" else "B") + token[-9:]
    text, code = {
        "altered": (altered, "bad_signature"),
        "short": ("arx1_AgE", "malformed"),
        "junk": ("x", "malformed"),
    }[kind]
    result = answered(realm, "/orders/A-1/refund", text, method="POST", parts=[BODY, b"never received"], body=BODY)
    assert (result.status, result.problem["code"]) == (401, code)
    assert realm.codes == [code]


def test_a_holders_long_body_is_judged_as_ever() -> None:
    """Seen or not; and a token screened is no token granted."""
    realm = Realm()
    token = realm.token().encode()
    for _ in range(2):
        result = answered(realm, "/orders/A-1/refund", token, method="POST", body=BODY)
        assert result.problem["code"] == "argument_not_allowed"
    tools = {"PUT /orders/{order_id}": "orders.get"}
    assert answered(realm, "/orders/A-1", token, method="PUT", body=BODY, tools=tools).status == 200
    realm.keys.replace({"k1.0": b"l" * 32})
    answer = answered(realm, "/orders/A-1", token, method="PUT", body=BODY, tools=tools)
    assert answer.problem["code"] == "bad_signature"


@pytest.mark.parametrize("digits", [15, 16, 17, 400])
def test_long_numbers_are_found_wherever_they_stand(digits: int) -> None:
    """The bytes are searched once; what is beyond 2^53-1 is refused, at any depth and of either sign."""
    for template in ('{"a":%s}', '{"a":-%s}', '{"a":[1,{"b":[%s]}]}'):
        raw = (template % ("9" * digits)).encode()
        if digits == 15:
            assert read_json_object(raw)
        else:
            with pytest.raises(RequestError, match="integer"):
                read_json_object(raw)
    assert read_json_object(b'{"a":9007199254740991}') == {"a": 2**53 - 1}
