# SPDX-License-Identifier: Apache-2.0
"""A caller could choose a charset in which the application read other arguments than the verifier.

Django REST framework decodes a body, and Django a query, with the ``charset`` of the request's own ``Content-Type``.
An attacker whose token pinned ``to`` to ``acme`` sent ``charset=utf-7``: the verifier read one harmless text, the
application read that text's ``+ACI-`` as a quote, and with it a second ``to`` of the attacker's choice.  A
``Content-Encoding`` and a request target without its first slash are refused for the same reason: two readers.
"""

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from tests.verifier.serving import Realm, answered

BODY = b'{"to":"acme","note":"x+ACIALAAiAHQAbwAiADoAIgBtAGEAbABsAG8AcgB5-"}'
TOOLS = {"POST /pay": "orders.pay", "GET /pay": "orders.pay", "GET /{to}": "orders.pay"}
RULE = Rule(tool="orders.pay", args={"to": "acme", "note": Constraint(max_length=200)})


def status(kind: bytes, *more: tuple[bytes, bytes], target: str = "/pay", body: bytes = BODY) -> int:
    """What a request with this content type is answered."""
    realm = Realm()
    headers = [(b"content-type", kind), *more]
    method = "POST" if body else "GET"
    token = realm.token(rules=(RULE,)).encode()
    return answered(realm, target, token, method=method, body=body, headers=headers, tools=TOOLS).status


@pytest.mark.parametrize(
    "parameter",
    [
        b"charset=utf-7",
        b"charset=utf-8; charset=utf-7",
        b"charset=utf-7; charset=utf-8",
        b"charset*=us-ascii''utf-7",
        b'CHARSET="utf-7"',
        b"charset = utf-7",
        b'x="; charset=utf-8"; charset=utf-7',
        b"charset=utf-16",
        b"charset=",
    ],
)
def test_a_charset_other_than_utf_8_is_refused(parameter: bytes) -> None:
    """In the body, and for a query alone, which Django decodes with it too."""
    assert status(b"application/json; " + parameter) == 400
    assert status(b"text/plain;" + parameter, target="/pay?to=acme&note=x", body=b"") == 400


def test_utf_8_by_name_is_what_is_read_anyway() -> None:
    """Nothing changes for a caller that declares it, in any case, quoted, or behind another parameter."""
    for kind in (b"application/json", b'application/json;charset="UTF-8"', b"application/json; v=1; charset=utf8"):
        assert status(kind) == 200
    assert status(b"text/plain", target="/pay?to=acme&note=x", body=b"") == 200


def test_an_encoded_body_is_refused() -> None:
    """What an application would inflate was never checked."""
    for coding in (b"deflate", b"gzip", b"identity, br"):
        assert status(b"application/json", (b"content-encoding", coding)) == 400
    assert status(b"application/json", (b"content-encoding", b"identity")) == 200


def test_a_target_begins_with_a_slash() -> None:
    """What stands before the first slash would be left out of the route and still be seen by the application."""
    assert status(b"text/plain", target="other/acme?note=x", body=b"") == 400
    assert status(b"text/plain", target="/acme?note=x", body=b"") == 200
