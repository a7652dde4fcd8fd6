# SPDX-License-Identifier: Apache-2.0
"""Forward authentication: what a proxy asks is decided on and recorded, and what it does not show is not guessed.

``tests/gateway/proxies.py`` has nginx and Caddy before it.
"""

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from arx_caps.gateway.base.settings import DeciderTerms
from arx_caps.gateway.deciders.decider import Decider
from arx_caps.gateway.deciders.decider_runtime import UnspentCalls
from arx_caps.gateway.deciders.forward_auth import ForwardAuth
from arx_verifier import Rule
from arx_verifier.request import UNSEEN_BODY, HttpCall
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.token.call_proof import CallSigner, http_fields
from tests.agent.live import now_ms

pytestmark = pytest.mark.spec("8.5")
EMPTY = hashlib.sha256(b"").digest()
ROUTES = {
    "GET /orders/{order_id}?{limit:int}": "orders.get",
    "POST /orders/{order_id}/refund": "orders.refund",
    "POST /files/{name}": "orders.upload",
}
RULES = (
    Rule(tool="orders.get", args={"order_id": "o-1", "limit": {"max": 5, "optional": True}}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": {"max": 20, "optional": True}}),
    Rule(tool="orders.upload", args={"name": "a"}, open=True),
)


class Asked:
    """A decider, and what its proxy gets."""

    def __init__(self, body_header: str = "X-Arx-Body", hosts: tuple[str, ...] = ("127.0.0.1/32",)) -> None:
        self.realm = UnsafeTestRealm("orders")
        self.caller = self.realm.caller(*RULES)
        terms = DeciderTerms(kind="forward-auth", listen="", audience="orders", hosts=hosts, body_header=body_header)
        self.door = ForwardAuth(Decider(self.realm.verifier, ROUTES, hosts), terms)

    def ask(self, headers: list[tuple[str, str]], client: str = "127.0.0.1") -> httpx.Response:
        """Ask with these headers."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        scope = {"type": "http", "method": "GET", "headers": pairs, "client": (client, 9)}
        asyncio.run(self.door(scope, None, send))  # type: ignore[arg-type]
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=sent[1]["body"])

    def call(self, method: str, target: str, *more: tuple[str, str], body: bytes | None = None) -> httpx.Response:
        """Ask about a signed call, whose proxy says whether it has a body."""
        request = self.caller(httpx.Request(method, f"http://shop{target}", content=body))
        return self.ask([*described(request), ("X-Arx-Body", "some" if body else "none"), *more])


def described(request: httpx.Request) -> list[tuple[str, str]]:
    values = [("X-Forwarded-Method", request.method), ("X-Forwarded-Uri", request.url.raw_path.decode("ascii"))]
    return [*values, ("Authorization", request.headers["authorization"])]


def by_hand(caller: UnsafeCaller, method: str, target: str, digest: bytes) -> list[tuple[str, str]]:
    """A description whose proof is of another body."""
    token = CallSigner(caller.macaroon, "orders").sign(http_fields(HttpCall(method, target, digest)), now_ms())
    values = [("X-Forwarded-Method", method), ("X-Forwarded-Uri", target)]
    return [*values, ("Authorization", f"Bearer {token}")]


def code_of(answer: httpx.Response) -> str:
    return str(answer.json()["code"])


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_an_allowed_call_is_recorded_and_names_its_caller(asked: Asked) -> None:
    """The proxy passes the headers on; no cache may keep the answer, and the call works once."""
    request = asked.caller(httpx.Request("GET", "http://shop/orders/o-1?limit=5"))
    answer = asked.ask([*described(request), ("X-Arx-Body", "none")])
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    [decision] = asked.realm.decisions.decisions
    values = {name: value for name, value in answer.headers.items() if name.startswith("x-arx-")}
    assert values.pop("x-arx-session").startswith("s-")
    assert values.pop("x-arx-task").startswith("t-")
    assert values == {
        "x-arx-decision": decision.id,
        "x-arx-agent": "test/agent",
        "x-arx-tool": "orders.get",
        "x-arx-issuer": "",
        "x-arx-subject": "",
    }
    again = asked.ask([*described(request), ("X-Arx-Body", "none")])
    assert (again.status_code, code_of(again)) == (401, "replayed")


def test_a_refusal_says_why_in_headers_too(asked: Asked) -> None:
    """A proxy such as nginx passes no body of a decider on."""
    answer = asked.call("GET", "/orders/o-2")
    assert (answer.status_code, code_of(answer)) == (403, "argument_not_allowed")
    assert answer.headers["x-arx-reason"] == "argument_not_allowed"
    assert answer.headers["x-arx-decision"] == asked.realm.decisions.decisions[-1].id
    assert answer.headers["cache-control"] == "no-store"
    none = asked.ask([("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/orders/o-1")])
    assert (none.status_code, none.headers["x-arx-reason"]) == (401, "missing_token")
    assert none.headers["www-authenticate"].startswith("Bearer realm=")


def test_a_subject_cannot_write_another_header() -> None:
    """It is any text of the identity provider."""
    asked = Asked()
    asked.caller = asked.realm.caller(*RULES, subject=("https://idp.example", "ann\r\nX-Arx-Agent: acme/root é"))
    answer = asked.call("GET", "/orders/o-1")
    assert answer.headers["x-arx-issuer"] == "https://idp.example"
    assert answer.headers["x-arx-subject"] == "ann%0D%0AX-Arx-Agent: acme/root %C3%A9"


def test_a_kill_refuses_the_next_call(asked: Asked) -> None:
    """A decision is not kept."""
    assert asked.call("GET", "/orders/o-1").status_code == 200
    asked.realm.epochs.kill("agent:test/agent")
    assert code_of(asked.call("GET", "/orders/o-1")) == "revoked"


def test_a_body_that_is_not_seen_is_not_guessed(asked: Asked) -> None:
    """Neither its proof nor what a rule says about an argument could be checked."""
    assert asked.call("POST", "/orders/o-1/refund").status_code == 200
    body = b'{"amount": 50}'
    assert code_of(asked.call("POST", "/orders/o-1/refund", body=body)) == "request_unseen"
    assert code_of(asked.call("GET", "/orders/o-1", body=body)) == "request_unseen"
    # Its proof would be of the empty body that it does not send.
    lie = by_hand(asked.caller, "POST", "/orders/o-1/refund", EMPTY)
    assert code_of(asked.ask([*lie, ("X-Arx-Body", "some")])) == "request_unseen"
    refund = by_hand(asked.caller, "POST", "/orders/o-1/refund", UNSEEN_BODY)
    assert code_of(asked.ask([*refund, ("X-Arx-Body", "some")])) == "request_unseen"
    assert [each.code for each in asked.realm.decisions.decisions][1:] == ["request_unseen"] * 4


def test_a_rule_that_allows_any_body_allows_one_that_is_not_seen(asked: Asked) -> None:
    """The holder has to sign that the body is not covered; what is seen is judged."""
    signed = by_hand(asked.caller, "POST", "/files/a", UNSEEN_BODY)
    assert asked.ask([*signed, ("X-Arx-Body", "some")]).status_code == 200
    wrong = by_hand(asked.caller, "POST", "/files/b", UNSEEN_BODY)
    assert code_of(asked.ask([*wrong, ("X-Arx-Body", "some")])) == "argument_not_allowed"
    # Where the proxy says that there is no body, or none is possible, such a proof is of another call.
    other = by_hand(asked.caller, "POST", "/files/a", UNSEEN_BODY)
    assert code_of(asked.ask([*other, ("X-Arx-Body", "none")])) == "proof_invalid"


def test_a_client_cannot_say_that_it_has_no_body() -> None:
    """Without `body_header`, the header is one of the client; and any other value than one `none` is a body."""
    alone = Asked(body_header="")
    assert code_of(alone.call("POST", "/orders/o-1/refund")) == "request_unseen"
    assert alone.call("GET", "/orders/o-1").status_code == 200
    asked = Asked()
    request = asked.caller(httpx.Request("POST", "http://shop/orders/o-1/refund"))
    for more in ([], [("X-Arx-Body", "")], [("X-Arx-Body", "none"), ("X-Arx-Body", "none")]):
        assert code_of(asked.ask([*described(request), *more])) == "request_unseen"


@pytest.mark.parametrize(
    "target",
    [
        *("//orders/o-1", "/orders//o-1", "/orders/%2e%2e/orders/o-1", "/orders/./o-1", "/x/../orders/o-1"),
        *("/orders%2fo-1", "/orders/o-1%2f", "/orders/o-1;a=b", "/orders\\o-1", "/orders/o-1%00", "/orders/o-1#x"),
        *(
            "/orders/o-1?limit=5&limit=9",
            "/orders/o-1?limit=05",
            "/orders/%ff",
            "/orders/\xe9",
            "/orders/o-1?order_id=o-2",
        ),
    ],
)
def test_a_target_with_two_readings_is_refused(asked: Asked, target: str) -> None:
    """The upstream could run another one than the rules saw."""
    signed = by_hand(asked.caller, "GET", target, EMPTY)
    answer = asked.ask([*signed, ("X-Arx-Body", "none")])
    assert (answer.status_code, code_of(answer)) == (400, "malformed_request")


@pytest.mark.parametrize(
    "headers",
    [
        [("X-Forwarded-Uri", "/orders/o-1")],
        [("X-Forwarded-Method", "GET")],
        [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/orders/o-1"), ("X-Forwarded-Uri", "/orders/o-1")],
        [("X-Forwarded-Method", "GET"), ("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/orders/o-1")],
        [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "http://shop/orders/o-1")],
        [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "*")],
        [("X-Forwarded-Method", "G ET"), ("X-Forwarded-Uri", "/orders/o-1")],
        [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/orders/o-1 HTTP/1.1")],
    ],
)
def test_a_description_that_is_no_request_is_refused(asked: Asked, headers: list[tuple[str, str]]) -> None:
    """A proxy that forgets a header, or appends to that of its client, allows nothing."""
    signed = by_hand(asked.caller, "GET", "/orders/o-1", EMPTY)[2:]
    answer = asked.ask([*headers, *signed, ("X-Arx-Body", "none")])
    assert (answer.status_code, code_of(answer)) == (400, "malformed_request")
    assert [each.code for each in asked.realm.decisions.decisions] == ["counted"]


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-Method-Override", "X_HTTP_Method_Override", "X-Original-URL", "Upgrade"]
)
def test_a_header_that_makes_another_request_is_refused(asked: Asked, name: str) -> None:
    """A framework behind the proxy may read it."""
    assert code_of(asked.call("GET", "/orders/o-1", (name, "DELETE"))) == "malformed_request"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "get", "PURGE", "DELETE"])
def test_a_method_without_a_route_is_refused(asked: Asked, method: str) -> None:
    """Also one that another letter case would make known."""
    signed = by_hand(asked.caller, method, "/orders/o-1", EMPTY)
    assert code_of(asked.ask([*signed, ("X-Arx-Body", "none")])) == "tool_not_allowed"


def test_head_is_the_route_of_get(asked: Asked) -> None:
    """As in a guarded service; its proof is of HEAD."""
    assert asked.call("HEAD", "/orders/o-1").status_code == 200


def test_a_stranger_may_not_ask(asked: Asked) -> None:
    """Not with a good call either; and the address of the client is what a proxy in `hosts` says."""
    signed = by_hand(asked.caller, "GET", "/orders/o-1", EMPTY)
    for client in ("192.0.2.7", "testclient"):
        answer = asked.ask([*signed, ("X-Arx-Body", "none")], client)
        assert (answer.status_code, "hosts" in answer.json()["detail"]) == (400, True)
    assert asked.ask([*signed, ("X-Arx-Body", "none"), ("X-Forwarded-For", "192.0.2.9")]).status_code == 200
    assert asked.realm.decisions.decisions[-1].peer == "192.0.2.9"


def test_a_decider_that_does_not_spend_leaves_the_call_to_the_verifier_behind_it(asked: Asked) -> None:
    """With one store of used calls: the verifier would refuse what the decider has used up."""
    signed = [*by_hand(asked.caller, "GET", "/orders/o-1", EMPTY), ("X-Arx-Body", "none")]
    spent, asked.realm.verifier.nonces = asked.realm.verifier.nonces, UnspentCalls()
    assert [asked.ask(signed).status_code for _ in range(2)] == [200, 200]
    asked.realm.verifier.nonces = spent
    assert [asked.ask(signed).status_code for _ in range(2)] == [200, 401]
