# SPDX-License-Identifier: Apache-2.0
"""A holder could satisfy a rule with an argument in a place where the application does not look for it.

A holder whose token allowed refunds of at most 20 called ``POST /refund?amount=5`` with an empty body.  The verifier
found the amount that the rule requires, in the query; the application looked for it in the body, found none, and took
its default: the whole sum.  A body of a ``GET``, and one of a ``DELETE`` that has its arguments in the query, did the
same.
"""

import json
from typing import Any

import pytest

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.errors import RequestError, SettingsError
from tests.verifier.serving import Realm, answered

RULES = (Rule(tool="orders.refund", args={"amount": Constraint(range=("0", "20"))}),)
TOOLS = {
    "POST /refund": "orders.refund",
    "POST /noted?{amount}&{note}": "orders.refund",
    "GET /refund": "orders.refund",
    "GET /strict?{amount}": "orders.refund",
    "DELETE /refund?{amount}": "orders.refund",
}
BODY = b'{"amount":5}'


def code(method: str, target: str, body: bytes = b"") -> str:
    """Return the answer to a request of this form."""
    realm = Realm()
    token = realm.token(rules=RULES).encode()
    headers = [(b"content-type", b"application/json")]
    answered(realm, target, token, method=method, body=body, headers=headers, tools=TOOLS)
    return str(realm.codes[-1])


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/refund?amount=5", b""),
        ("POST", "/refund?amount=5", b"{}"),
        ("POST", "/refund?x=1", BODY),
        ("POST", "/noted", BODY),
        ("POST", "/noted?amount=5&x=1", b""),
        ("GET", "/refund", BODY),
        ("GET", "/refund?amount=5", b"{}"),
        ("HEAD", "/refund", BODY),
        ("GET", "/strict?amount=5&x=1", b""),
        ("GET", "/strict", BODY),
        ("DELETE", "/refund", BODY),
    ],
)
def test_an_argument_in_another_place_is_refused(method: str, target: str, body: bytes) -> None:
    """It is not passed over either: which of two readers finds it is unknown."""
    assert code(method, target, body) == "malformed_request"


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/refund", BODY),
        ("POST", "/noted?amount=5", b""),
        ("GET", "/refund?amount=5", b""),
        ("HEAD", "/refund?amount=5", b""),
        ("GET", "/strict?amount=5", b""),
        ("DELETE", "/refund?amount=5", b""),
    ],
)
def test_an_argument_in_its_place_counts(method: str, target: str, body: bytes) -> None:
    """Of a GET in the query, else in the body, and in the query where the route declares it."""
    assert code(method, target, body) == "ok"
    assert code(method, target.replace("=5", "=50"), body.replace(b"5", b"50")) == "argument_not_allowed"


def test_path_query_and_body_stay_apart() -> None:
    """A route may have arguments in all three, in any names that queries have."""
    routes = RouteMap({"PUT /a/{x}?{page[size]}&{dry-run}": "a.put"})

    def meaning(query: bytes, body: Any) -> Any:
        headers = [(b"content-type", b"application/json")]
        scope = {"method": "PUT", "path": "/a/1", "query_string": query, "headers": headers}
        return routes(scope, json.dumps(body).encode())

    assert meaning(b"page%5Bsize%5D=2&dry-run=1", {"y": 3}) == (
        "a.put",
        {"x": "1", "page[size]": "2", "dry-run": "1", "y": 3},
    )
    for query, body in ((b"dry-run=1", {"dry-run": 2}), (b"", {"dry-run": 2}), (b"x=2", {}), (b"", {"x": 2})):
        with pytest.raises(RequestError):
            meaning(query, body)


@pytest.mark.parametrize(
    "route",
    ["POST /a?", "POST /a?b", "POST /a?{b}&", "POST /a?{b}&{b}", "POST /{b}?{b}", "POST /a?{b", "POST /a?{b}?{c}"],
)
def test_places_that_cannot_be_meant_are_refused_at_start(route: str) -> None:
    """Not at the first request."""
    with pytest.raises(SettingsError):
        RouteMap({route: "a.b"})
