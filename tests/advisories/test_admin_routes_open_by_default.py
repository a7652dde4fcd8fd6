# SPDX-License-Identifier: Apache-2.0
"""In authgent, actenon-permit and agent-authority, a stranger could use admin routes by default.

ARx: a walk of every route the application serves, in every method, as a stranger and as a caller without the right.
"""

import re

import pytest
from starlette.routing import Route

from arx_caps.credentials.jose import KeyFile
from arx_caps.mint.api.app import ENDPOINTS
from arx_caps.mint.db.events import Event
from arx_verifier.errors import GrantError
from tests.mint.harness import AGENT, ISSUER, Harness, Holder

pytestmark = pytest.mark.sqlite

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
OPEN = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/problems/{code}", "/oauth/jwks")  # and /.well-known/…


def sample(path: str) -> str:
    for name, value in (("{path:path}", AGENT), ("{session}", "s-" + "a" * 16), ("{task}", "t-" + "a" * 16)):
        path = path.replace(name, value)
    return re.sub(r"\{[^}]*\}", "x", path)


def paths(harness: Harness) -> list[str]:
    """Every path that the application itself knows, not only those of the table."""
    app = harness.client.app
    found = [route.path for route in app.routes if isinstance(route, Route)]  # type: ignore[attr-defined]
    assert len(found) == len(app.routes)  # type: ignore[attr-defined]
    assert {endpoint.path for endpoint in ENDPOINTS} <= set(found)
    return [sample(path) for path in found if path not in OPEN and not path.startswith("/.well-known/")]


@pytest.mark.slow
def test_a_stranger_learns_nothing_from_any_route(unit: Harness) -> None:
    """
    No token, a scheme of another kind, junk, a proof without a token: 401, or 405 before anything is looked at.
    """
    agent = unit.enrol()
    junk = Holder(unit, agent.key, "arx1_AAAA")
    before, known = unit.events(), unit.mint.db.agents.list()
    for path in paths(unit):
        for method in METHODS:
            if path == "/v1/login" and method in ("GET", "HEAD"):  # says where people log in
                continue
            for headers, content in (
                ({}, None),
                ({}, b"{}"),
                ({}, b"\xff" * 100),
                ({"Authorization": "Bearer arx1_AAAA"}, b"{}"),
                ({"Authorization": "Basic cm9vdDpyb290"}, b"{}"),
                ({"Cookie": "session=root", "X-Forwarded-User": "root"}, b"{}"),
                (junk.headers(method, path), b"{}"),
            ):
                answer = unit.client.request(
                    method, path, headers={**headers, "Content-Type": "application/json"}, content=content
                )
                # RFC 6749 5.2: a request of OAuth that is no form, or has not what it needs, is 400.  Pages that an
                # issuer sends a browser to have no token either.
                refused = (400, 401, 405) if path.startswith(("/oauth/", "/connect/", "/connections")) else (401, 405)
                assert answer.status_code in refused, (method, path, headers, answer.status_code, answer.text)
    assert (unit.events(), unit.mint.db.agents.list()) == (before, known)


@pytest.mark.slow
def test_a_caller_without_the_right_does_nothing(unit: Harness) -> None:
    """An agent on operators' routes and an operator on agents' are refused, whatever they send."""
    agent, _ = unit.session()
    callers = {"agent": agent, "operator": unit.operator()}
    before = unit.mint.db.agents.list()
    for endpoint in ENDPOINTS:
        if endpoint.action is None:
            continue
        for kind, holder in callers.items():
            if kind not in endpoint.callers:
                answer = holder.call(endpoint.method, sample(endpoint.path), {})
                assert answer.status_code in (401, 403), (kind, endpoint.method, endpoint.path, answer.text)
    assert unit.mint.db.agents.list() == before


def test_the_data_of_another_is_not_found(unit: Harness) -> None:
    """To whom it is not for, a session or task that exists answers as one that does not, to the letter."""
    holder, own = unit.session()
    other, hidden = unit.open_session(unit.enrol("acme/support/other"))
    task = other.call("POST", "/v1/tasks", {"template": "lookup", "params": {"order_id": "o-1"}}).json()["task"]
    for method, there, gone in (
        ("GET", f"/v1/sessions/{hidden['id']}", "/v1/sessions/s-" + "a" * 16),
        ("DELETE", f"/v1/sessions/{hidden['id']}", "/v1/sessions/s-" + "a" * 16),
        ("DELETE", f"/v1/tasks/{task['id']}", "/v1/tasks/t-" + "a" * 16),
    ):
        answers = [holder.call(method, path) for path in (there, gone)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json() == answers[1].json()
    assert own["id"] != hidden["id"]
    assert other.call("GET", f"/v1/sessions/{hidden['id']}").status_code == 200


def test_no_key_is_known_before_an_operator_enrols_it(unit: Harness) -> None:
    """A fresh realm has one operator, made with it; a key of that name that was made elsewhere is a stranger's."""
    stranger = KeyFile.generate("operator", "root", ISSUER)
    holder = Holder(unit, stranger.key, None)
    answer = holder.call("POST", "/v1/operators/token", {"assertion": unit.assertion(stranger)})
    assert (answer.status_code, answer.json()["code"]) == (401, "bad_assertion")
    with pytest.raises(GrantError, match="exists"):
        unit.mint.db.operators.add(unit.mint.db.unit(), "root", stranger.key.public, _nothing(), role="admin")


def _nothing() -> Event:
    return Event.of("operator.enrolled", "test")
