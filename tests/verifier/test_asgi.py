# SPDX-License-Identifier: Apache-2.0
"""The middleware: nothing reaches the application without a grant, and no request ends in an error of ours."""

import asyncio
import json
import time
from hashlib import sha256
from typing import Any

import httpx
import pytest

from arx_verifier.constraints.rule import Rule
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.base.enforcement import MOST_UNMAPPED
from arx_verifier.enforcement.base.problems import answer
from arx_verifier.errors import RequestError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import HttpCall
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.call_proof import CallSigner, http_fields
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, bind, issue_discharge, join, require_discharge
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.verifier.serving import KEY, RULES, TOOLS, Realm, Slow, answered, application, ask

pytestmark = pytest.mark.spec("8.4")


@pytest.fixture
def realm() -> Realm:
    return Realm()


@pytest.mark.parametrize("sink", [InMemoryDecisions, Slow])
def test_an_allowed_request_reaches_the_application_with_its_grant(sink: type[InMemoryDecisions]) -> None:
    """The application sees the grant and exactly the bytes that were checked, in the loop or past a thread."""
    realm = Realm(sink())
    body = b'{ "amount": 5 }'
    kind = [(b"content-type", b"application/json; charset=utf-8")]
    text = realm.token().encode()
    result = answered(realm, "/orders/A-1/refund", text, method="POST", parts=[body[:4], b"", body[4:]], headers=kind)
    assert result.status == 200
    assert json.loads(result.body) == ["orders.refund", "acme/support", body.decode()]
    assert realm.codes[0] == "ok"


def test_a_refused_argument_is_shown_in_full(realm: Realm) -> None:
    """A denial says what was expected and what came, names the recorded decision, and is RFC 6750 in its header."""
    result = answered(realm, "/orders/B-1/refund", realm.token().encode(), method="POST", body=b'{"amount":50}')
    assert result.status == 403
    problem = result.problem
    assert (problem["code"], problem["status"], problem["retry"]) == ("argument_not_allowed", 403, "no")
    assert problem["decision"] == realm.sink.decisions[-1].id
    assert {failure["came"] for failure in problem["failures"]} == {'"B-1"', "50"}
    assert problem["detail"] == (
        'argument not allowed: amount must be between 1 and 20, got 50; order_id must match "A-*", got "B-1"'
    )
    assert result.headers["cache-control"] == "no-store"
    assert result.headers["www-authenticate"] == (
        'Bearer realm="acme", error="insufficient_scope", error_description="the token does not allow these arguments"'
    )


def test_a_route_without_a_tool_is_named_in_the_log_alone(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    """Method and path, each once and without the query; the answer has neither, and no caller fills the log."""
    app = ArxMiddleware(application, verifier=realm.verifier, tools=TOOLS)
    token = {"authorization": f"Bearer {realm.token().encode()}"}

    async def call() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            for headers, code in ((token, 403), (token, 403), ({}, 401)):
                answered = await client.get("/forgotten?key=s3cret", headers=headers)
                assert answered.status_code == code
                assert "forgotten" not in answered.text
            assert [line.getMessage() for line in caplog.records] == [
                'no tool for GET "/forgotten": its calls are refused (tool_not_allowed); name the route in `tools`, or '
                "correct the client"
            ]
            for number in range(2 * MOST_UNMAPPED):
                await client.get(f"/scan/{number}", headers=token)

    asyncio.run(call())
    assert len(caplog.records) == MOST_UNMAPPED
    assert caplog.records[-1].getMessage().endswith("further paths are not logged")


def test_without_a_token_no_error_is_named(realm: Realm) -> None:
    """RFC 6750 3.1: the challenge of a request that brought no token has no error; another scheme brings none."""
    for headers in ([], [(b"authorization", b"Basic YTpi")], [(b"Authorization", b"Bearer  ")]):
        result = answered(realm, "/orders/A-1", headers=headers)
        assert (result.status, result.problem["code"]) == (401, "missing_token")
        assert result.headers["www-authenticate"] == 'Bearer realm="acme"'
        assert "decision" not in result.problem
    assert set(realm.codes) == {"missing_token"}


def test_the_scheme_is_read_in_any_case(realm: Realm) -> None:
    """RFC 9110 11.1."""
    for scheme in (b"bearer ", b"BEARER  "):
        headers = [(b"authorization", scheme + realm.token().encode().encode())]
        assert answered(realm, "/orders/A-1", headers=headers).status == 200


def test_two_tokens_are_no_request(realm: Realm) -> None:
    """Which of two tokens counts is not guessed."""
    headers = [(b"authorization", b"Bearer " + realm.token().encode().encode())] * 2
    assert answered(realm, "/orders/A-1", headers=headers).status == 400


@pytest.mark.parametrize("twice", [[], [(b"accept", b"text/html"), (b"Accept", b"*/*")]])
def test_the_application_gets_every_header_but_the_token(realm: Realm, twice: list[tuple[bytes, bytes]]) -> None:
    """In their order, and each value of a name that the request has twice."""
    seen: list[tuple[bytes, bytes]] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await application(scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        pass

    token = (b"authorization", b"Bearer " + realm.token().encode().encode())
    scope = {"type": "http", "method": "GET", "path": "/orders/A-1", "raw_path": b"/orders/A-1", "query_string": b""}
    scope |= {"headers": [(b"host", b"orders"), *twice, token, (b"x-trace", b"1")], "client": ("10.0.0.7", 1)}
    asyncio.run(ArxMiddleware(noting, verifier=realm.verifier, tools=TOOLS)(scope, receive, send))
    assert seen == [(b"host", b"orders"), *twice, (b"x-trace", b"1")]


def test_an_unproven_token_gets_its_code_and_no_more(realm: Realm) -> None:
    """A broken signature and bytes of any kind end in 401 and a count."""
    text = realm.token().encode()
    for wrong in (text[:-3] + ("AAA" if text[-3:] != "AAA" else "BBB"), "arx1_", "x", "ü\x00", "arx1_" + "A" * 9000):
        result = answered(realm, "/orders/A-1", wrong)
        assert result.status == 401
        assert "failures" not in result.problem
        assert "decision" not in result.problem
        assert 'error="invalid_token"' in result.headers["www-authenticate"]
    assert "ok" not in realm.codes


@pytest.mark.parametrize("rules", [RULES, (Rule(tool="*"),)])
def test_a_request_that_is_no_tool_is_refused_whatever_the_token_says(realm: Realm, rules: tuple[Rule, ...]) -> None:
    """Unmapped is denied, even to a token that allows every tool; and only once the token is proven."""
    token = realm.token(rules=rules).encode()
    for target, method in (("/", "GET"), ("/orders", "GET"), ("/orders/A-1", "DELETE"), ("/orders/A-1/", "GET")):
        result = answered(realm, target, token, method=method)
        assert (result.status, result.problem["code"]) == (403, "tool_not_allowed")
    assert answered(realm, "/nowhere", "arx1_AAAA").status == 401
    assert "ok" not in realm.codes


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/orders/A-1/refund?amount=1", b'{"amount":5}'),
        ("/orders/A-1/refund?order_id=A-2", b'{"amount":5}'),
        ("/orders/A-1/refund", b'{"amount":5,"amount":50}'),
        ("/orders/A-1/refund", b'{"amount":5,"order_id":"A-2"}'),
        ("/orders/A-1/refund", b"[5]"),
        ("/orders/A-1/refund", b"amount=5"),
        ("/orders/A-1/refund?x=1&x=1", b'{"amount":5}'),
        ("/orders/A-1/refund?x=1&%78=1", b'{"amount":5}'),
        ("/orders/A-1/refund?x=%ff", b'{"amount":5}'),
        ("/orders/A-1/refund?x=%f", b'{"amount":5}'),
        ("/orders//refund", b""),
        ("/orders/../refund", b""),
        ("/orders/A%2f1/refund", b""),
        ("/orders/A%252f1/refund", b""),
        ("/orders/A;x=1/refund", b""),
        ("/orders/A\\1/refund", b""),
    ],
)
def test_a_request_with_two_meanings_is_refused(realm: Realm, target: str, body: bytes) -> None:
    """One name in two places, twice in one, or a path that two readers resolve differently: 400, counted."""
    result = answered(realm, target, realm.token().encode(), method="POST", body=body)
    assert (result.status, result.problem["code"]) == (400, "malformed_request")
    assert realm.codes == ["malformed_request"]


def test_a_body_of_another_type_is_refused(realm: Realm) -> None:
    """A form's fields would be arguments that no rule saw; so would a body with two types."""
    two = [b"application/json; v=1", b"text/plain"]  # joined, the second would be taken for a part of the parameter
    for kinds in ([b"application/x-www-form-urlencoded"], [b"application/json", b"text/plain"], two, two[::-1], []):
        headers = [(b"content-type", kind) for kind in kinds] or [(b"content-type", b"")]
        result = answered(
            realm, "/orders/A-1/refund", realm.token().encode(), method="POST", body=b'{"amount":5}', headers=headers
        )
        assert result.status == 400


def test_a_body_too_long_is_not_read_to_its_end(realm: Realm) -> None:
    """413 by the declared length before reading, and by the bytes where none or a wrong one is declared."""
    token = realm.token().encode()
    for headers, parts in (([(b"content-length", b"101")], [b"x"]), ([], [b"x" * 60, b"x" * 60, b"never read"])):
        result = answered(realm, "/orders/A-1/refund", token, method="POST", headers=headers, parts=parts, max_body=100)
        assert (result.status, result.problem["status"]) == (413, 413)
    assert answered(realm, "/orders/A-1", token, headers=[(b"content-length", b"9" * 5000)]).status == 413


def test_a_client_that_goes_away_gets_no_answer(realm: Realm) -> None:
    """A disconnect while the body comes ends the request without a decision."""

    class Endless(list[bytes]):
        def __getitem__(self, _: Any) -> Any:
            return b"never"

    assert ask(realm, "/orders/A-1", realm.token().encode(), method="POST", parts=Endless([b"{"])) is None
    assert realm.codes == []


def test_head_means_get_and_its_refusal_has_no_body(realm: Realm) -> None:
    """A HEAD request needs what GET needs."""
    refused = answered(realm, "/orders/A-1", "arx1_x", method="HEAD")
    assert (refused.status, refused.body) == (401, b"")
    assert answered(realm, "/orders/A-1", realm.token().encode(), method="HEAD").status == 200


def test_a_killed_session_and_a_closed_verifier_refuse(realm: Realm) -> None:
    """A kill is 401; a verifier that cannot know is 503 with Retry-After and no challenge."""
    token = realm.token().encode()
    assert answered(realm, "/orders/A-1", token).status == 200
    realm.epochs.kill("session:s-aaaaaaaaaaaaaaaa")
    assert answered(realm, "/orders/A-1", token).problem["code"] == "revoked"
    reply = answer("stale", realm="acme")
    headers = dict(reply.headers)
    assert (reply.status, headers[b"retry-after"]) == (503, b"1")
    assert b"www-authenticate" not in headers


def test_a_signed_call_is_for_these_bytes_once(realm: Realm) -> None:
    """The proof covers method, raw path and query, and body; a repeat and any change are refused."""
    body = b'{"amount":5}'
    target = "/orders/A-1/refund?memo=a%20b"

    rules = (Rule(tool="orders.refund"),)
    signer = CallSigner(realm.token(Caveat(require=("call",)), rules=rules), "orders")

    def sign() -> str:
        fields = http_fields(HttpCall("POST", target.encode(), sha256(body).digest()))
        return signer.sign(fields, time.time_ns() // 1_000_000)

    token = sign()
    assert answered(realm, target, token, method="POST", body=body).status == 200
    assert answered(realm, target, token, method="POST", body=body).problem["code"] == "replayed"
    for other, changed in ((target + "c", body), (target, body + b" ")):
        assert answered(realm, other, sign(), method="POST", body=changed).problem["code"] == "proof_invalid"
    bare = realm.token(Caveat(require=("call",)), rules=rules).encode()
    assert answered(realm, target, bare, method="POST", body=body).problem["code"] == "proof_missing"


def test_the_peer_is_the_socket_unless_a_trusted_proxy_says_otherwise(realm: Realm) -> None:
    """A ``net`` caveat is judged by an address that the client cannot choose."""
    token = realm.token(Caveat(net=("192.0.2.0/24",))).encode()
    forged = [(b"x-forwarded-for", b"192.0.2.1")]
    assert answered(realm, "/orders/A-1", token, headers=forged).problem["code"] == "network_not_allowed"
    proxied = {"trusted_proxies": ["10.0.0.0/8"]}
    assert answered(realm, "/orders/A-1", token, headers=forged, **proxied).status == 200
    other = [(b"X-Forwarded-For", b"198.51.100.1")]
    assert answered(realm, "/orders/A-1", token, headers=other + forged, **proxied).status == 200
    assert answered(realm, "/orders/A-1", token, headers=forged + other, **proxied).status == 403
    assert answered(realm, "/orders/A-1", token, client=None).problem["code"] == "network_not_allowed"


def test_a_function_may_say_what_a_request_means(realm: Realm) -> None:
    """For a JSON-RPC body or the like; what it raises as a ``RequestError`` is 400, and None is no tool."""

    def tools(scope: Any, body: bytes) -> tuple[str, dict[str, Any]] | None:
        if body == b"bad":
            raise RequestError("cannot be read")
        return ("orders.get", {}) if body == b"get" else None

    for body, status in ((b"get", 200), (b"bad", 400), (b"other", 403)):
        assert answered(realm, "/rpc", realm.token().encode(), method="POST", body=body, tools=tools).status == status


def test_websockets_are_refused(realm: Realm) -> None:
    """A grant is for one call: a connection is closed before it is accepted."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    app = ArxMiddleware(application, verifier=realm.verifier, tools=TOOLS)
    asyncio.run(app({"type": "websocket"}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
    with pytest.raises(NotImplementedError):
        asyncio.run(app({"type": "something"}, receive, send))
    before = len(realm.codes)
    app = ArxMiddleware(application, verifier=realm.verifier, tools=lambda _, __: ("orders.get", {}))
    scope = {"type": "websocket", "path": "/orders/A-1", "query_string": b""}
    scope["headers"] = [(b"authorization", b"Bearer " + realm.token().encode().encode())]
    asyncio.run(app(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"] * 2
    assert realm.codes[before:] == ["tool_not_allowed"]


class Watched(UnsafeLocalEpochs):
    """Counts starts and closes."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def start(self) -> None:
        super().start()
        self.log.append("start")

    def close(self) -> None:
        super().close()
        self.log.append("close")


@pytest.mark.parametrize("own", [True, False])
def test_the_verifier_lives_as_long_as_the_application(own: bool) -> None:
    """It is started before the application and closed after it, also when the application knows no lifespan."""
    log = Watched()
    verifier = Verifier(
        audience="orders", keys=KeyRing({"k1.0": KEY}, realm="acme"), epochs=log, decisions=InMemoryDecisions()
    )

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if not own:
            raise RuntimeError("only http")
        for phase in ("startup", "shutdown"):
            await receive()
            log.log.append(phase)
            await send({"type": f"lifespan.{phase}.complete"})

    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(ArxMiddleware(inner, verifier=verifier, tools=TOOLS)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert log.log == (["start", "startup", "shutdown", "close"] if own else ["start", "close"])


def test_an_approval_comes_with_its_call(realm: Realm) -> None:
    """In its header, behind the token: the application is reached once; without, a 403 that says what is needed."""
    raw, key = ThirdPartyCaveat("k1.0:t-1", ("orders.refund",)).encode(), bytes(32)
    token = require_discharge(realm.token(), raw, key)
    made = issue_discharge(
        raw, key, realm="acme", caveats=(Caveat(once=("a-1", time.time_ns() // 1_000_000), task="a-1"),)
    )
    body, signer = b'{"amount":5}', CallSigner(token, "orders")

    def signed() -> str:
        fields = http_fields(HttpCall("POST", "/orders/A-1/refund", sha256(body).digest()))
        return signer.sign(fields, time.time_ns() // 1_000_000)

    result = answered(realm, "/orders/A-1/refund", signed(), method="POST", body=body)
    assert (result.status, result.problem["code"]) == (403, "missing_discharge")
    assert "request it with task.ask_approval(tool, args).wait()" in result.problem["detail"]
    assert result.problem["failures"][0]["expected"] == "a discharge for k1.0:t-1"
    assert 'error="insufficient_scope"' in result.headers["www-authenticate"]
    text = join(signed(), [bind(made, token)])
    assert answered(realm, "/orders/A-1/refund", text, method="POST", body=body).status == 200
    text = join(signed(), [bind(made, token)])
    result = answered(realm, "/orders/A-1/refund", text, method="POST", body=body)
    assert (result.status, result.problem["code"]) == (403, "already_used")
    assert answered(realm, "/orders/A-1", token.encode()).status == 200
    assert [decision.code for decision in realm.sink.decisions][:3] == ["missing_discharge", "ok", "already_used"]
