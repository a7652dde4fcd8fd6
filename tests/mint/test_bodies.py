# SPDX-License-Identifier: Apache-2.0
"""Requests that are none: whatever comes ends in a problem that says what was wrong."""

from typing import Any

import pytest

from arx_caps.credentials.jose import SigningKey
from tests.mint.harness import Harness

pytestmark = pytest.mark.spec("CONTROL 4.2")

JWK = SigningKey.generate().public.jwk


BAD_BODIES: dict[str, tuple[str, Any]] = {
    "agent: not a path": ("/v1/agents", {"path": "Acme", "jwk": JWK}),
    "agent: path up": ("/v1/agents", {"path": "acme/../x", "jwk": JWK}),
    "agent: path of 9": ("/v1/agents", {"path": "/".join("abcdefghi"), "jwk": JWK}),
    "agent: no key": ("/v1/agents", {"path": "acme/x"}),
    "agent: a private key": ("/v1/agents", {"path": "acme/x", "jwk": SigningKey.generate().private_jwk()}),
    "agent: another key": ("/v1/agents", {"path": "acme/x", "jwk": {"kty": "RSA"}}),
    "agent: key is text": ("/v1/agents", {"path": "acme/x", "jwk": "x"}),
    "agent: unknown member": ("/v1/agents", {"path": "acme/x", "jwk": JWK, "admin": True}),
    "agent: metadata of another type": ("/v1/agents", {"path": "acme/x", "jwk": JWK, "metadata": {"a": 1}}),
    "agent: too long an owner": ("/v1/agents", {"path": "acme/x", "jwk": JWK, "owner": "x" * 201}),
    "service: not a name": ("/v1/services/invitations", {"audience": "Orders"}),
    "service: the mint's": ("/v1/services/invitations", {"audience": "arx.mint"}),
    "service: nothing": ("/v1/services/invitations", {}),
    "kill: no target": ("/v1/kills", {"targets": [], "reason": "x"}),
    "kill: unknown kind": ("/v1/kills", {"targets": ["sesion:s-abcdefghijklmnop"], "reason": "x"}),
    "kill: half a target": ("/v1/kills", {"targets": ["session:"], "reason": "x"}),
    "kill: no reason": ("/v1/kills", {"targets": ["realm"]}),
    "kill: empty reason": ("/v1/kills", {"targets": ["realm"], "reason": ""}),
    "kill: wait is text": ("/v1/kills", {"targets": ["realm"], "reason": "x", "wait": "yes"}),
    "kill: targets is text": ("/v1/kills", {"targets": "realm", "reason": "x"}),
    "kill: a number in it": ("/v1/kills", {"targets": [1], "reason": "x"}),
    "freeze: a line break": ("/v1/freezes", {"targets": ["agent:acme\n"], "reason": "x"}),
    "thaw: a long target": ("/v1/freezes/thaw", {"targets": ["agent:" + "a" * 97], "reason": "x"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body_is_a_problem(unit: Harness, path: str, body: Any) -> None:
    """An operator's body that does not fit is 400 ``malformed_request``, and says what was wrong."""
    answer = unit.operator().call("POST", path, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 10


RAW_BODIES = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "a name twice": b'{"targets":["realm"],"targets":["realm"],"reason":"x"}',
    "not a number": b'{"targets":["realm"],"reason":"x","wait":NaN}',
    "huge number": b'{"targets":["realm"],"reason":"x","wait":' + b"9" * 5000 + b"}",
    "half a surrogate": b'{"targets":["realm"],"reason":"\\ud800"}',
    "not UTF-8": b'{"reason":"\xff"}',
    "deep": b'{"reason":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "after the end": b'{"targets":["realm"],"reason":"x"} x',
    "a mark before it": b'\xef\xbb\xbf{"targets":["realm"],"reason":"x"}',
}


@pytest.mark.parametrize("raw", RAW_BODIES.values(), ids=RAW_BODIES.keys())
def test_bytes_that_are_no_json_are_a_problem(unit: Harness, raw: bytes) -> None:
    """Whatever the bytes are, the answer is a 400 and never a 500."""
    operator = unit.operator()
    headers = {**operator.headers("POST", "/v1/kills"), "Content-Type": "application/json"}
    answer = unit.client.post("/v1/kills", content=raw, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_a_body_says_that_it_is_json(unit: Harness, kind: str | None) -> None:
    """Another content type is 415, so that no form of a web page is taken for a request."""
    operator = unit.operator()
    headers = operator.headers("POST", "/v1/kills") | ({"Content-Type": kind} if kind else {})
    answer = unit.client.post("/v1/kills", content=b'{"targets":["realm"],"reason":"x"}', headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.spec("CONTROL 4.5")
def test_a_large_body_is_refused_unread(unit: Harness) -> None:
    """More than 64 KiB is 413, with and without its length said before."""
    for content in (b"x" * 70_000, iter([b"x" * 40_000, b"x" * 40_000])):
        answer = unit.client.post("/v1/kills", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_unknown_paths_and_methods_are_problems(unit: Harness) -> None:
    """404 and 405 are problems like any other, and no path is redirected to another."""
    for path in ("/", "/v1", "/v1/agent", "/v1/tasks/", "/v2/tasks", "/V1/tasks", "/v1//tasks", "/docs"):
        answer = unit.client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    answer = unit.client.put("/v1/tasks")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_a_missing_one_is_not_found(unit: Harness) -> None:
    """Unknown ids, odd ids and ids of another kind are 404 for an operator."""
    operator = unit.operator()
    for path in ("/v1/agents/acme/none", "/v1/agents/", "/v1/agents/%00", "/v1/sessions/s-none", "/v1/sessions/%E2%82"):
        answer = operator.call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert operator.call("DELETE", "/v1/tasks/t-none").status_code == 404
    assert operator.call("GET", "/v1/sessions", state="asleep").status_code == 400
    assert operator.call("GET", "/v1/sessions", nonsense="1").status_code == 400


def test_a_bug_is_a_problem_without_its_traceback(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails inside is a 500 problem that says nothing of the inside."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("secret detail")

    holder, _ = unit.session()
    monkeypatch.setattr(unit.mint.db.tasks, "list", broken)
    answer = holder.call("GET", "/v1/tasks")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
