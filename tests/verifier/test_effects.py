# SPDX-License-Identifier: Apache-2.0
"""Effects: what the answer of a call shows is recorded once, before its last byte leaves, for named tools alone."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from arx_verifier import Rule, SettingsError, current_grant, protect
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.grants.call_effect import CallEffect
from arx_verifier.enforcement.mcp.messages import META_KEY, McpMessage, Messages
from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI
from arx_verifier.errors import ArxError, AuditError, RevokedError
from arx_verifier.integrations.starlette import current_grant as grant_of
from arx_verifier.journal.decision import Decision, unpack_record
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.record import AWAITED, CredentialRecord, EffectRecord, seal
from arx_verifier.journal.writer import Journal
from arx_verifier.service import open_verifier
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.verification.verifier import Verifier
from tests.adapters.asgi_server import serving
from tests.verifier.test_watch import serving_wsgi

pytestmark = [pytest.mark.spec("12.8"), pytest.mark.servers]

NAMED = ["orders.refund", "orders.slow"]
TOOLS = {f"POST /{name}": f"orders.{name}" for name in ("refund", "get", "slow")}


class Case:
    """An answer, and what its record has to show.

    Args:
        status: The status that the tool answers; 0 for one that raises.
        result: The result.
    """

    def __init__(self, status: int, result: str) -> None:
        self.status, self.result = status, result


CASES = [Case(200, "done"), Case(204, "done"), Case(302, "done"), Case(404, "failed"), Case(500, "failed")]
CASES += [Case(503, "failed"), Case(502, "unknown"), Case(504, "unknown"), Case(0, "failed")]


def asgi_app(case: Case) -> Starlette:
    async def answer(request: Request) -> Response:
        grant_of(request).effect(external_id="re_7")
        if not case.status:
            raise RuntimeError("the tool broke")
        return Response(b"" if case.status == 204 else b"answer", case.status)

    async def slow(_: Request) -> Response:
        async def parts() -> Any:
            for _ in range(3):
                yield b"part"
                await asyncio.sleep(0)
            if case.result == "unknown":
                raise RuntimeError("the tool broke")

        return StreamingResponse(parts(), case.status)

    routes = [Route("/refund", answer, methods=["POST"]), Route("/get", answer, methods=["POST"])]
    return Starlette(routes=[*routes, Route("/slow", slow, methods=["POST"])])


def parts(case: Case) -> Iterator[bytes]:
    yield from (b"part", b"", b"part", b"part")
    if case.result == "unknown":
        raise RuntimeError("the tool broke")


def wsgi_app(case: Case) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["arx"].effect(external_id="re_7")
        if not case.status:
            raise RuntimeError("the tool broke")
        if environ["PATH_INFO"] == "/slow":
            start_response(f"{case.status} X", [])
            return parts(case)
        body = b"" if case.status == 204 else b"answer"
        start_response(f"{case.status} X", [] if case.status == 204 else [("Content-Length", str(len(body)))])
        return [body]

    return application


def call(
    kind: str, case: Case, path: str, realm: UnsafeTestRealm | None = None
) -> tuple[UnsafeTestRealm, httpx.Response]:
    realm = realm or UnsafeTestRealm("orders")
    options: dict[str, Any] = {"verifier": realm.verifier, "tools": TOOLS, "effects": NAMED}
    served = (
        serving(ArxMiddleware(asgi_app(case), **options))
        if kind == "asgi"
        else serving_wsgi(ArxWSGI(wsgi_app(case), **options))
    )
    with served as port, httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.post(f"http://127.0.0.1:{port}/{path}", auth=realm.caller(Rule(tool="*")))
    return realm, answer


def effects_in(realm: UnsafeTestRealm) -> list[tuple[Decision, Decision]]:
    """Return each record of an effect, with the decision that it names."""
    found = realm.decisions.decisions
    by_id = {each.id: each for each in found}
    return [(each, by_id[each.effect.of]) for each in found if each.outcome == "effect" and each.effect is not None]


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status}")
def test_the_answer_s_status_is_the_effect(kind: str, case: Case) -> None:
    """One record names the decision, and has result, status, length, digest and what the tool calls it."""
    realm, answer = call(kind, case, "refund")
    assert answer.status_code == (case.status or 500)
    [(record, decision)] = effects_in(realm)
    effect = record.effect
    assert effect is not None
    assert (effect.result, record.external_id) == (case.result, "re_7")
    assert (decision.outcome, decision.effect, decision.tool) == ("allow", AWAITED, "orders.refund")
    assert (record.session, record.tool, record.token) == (decision.session, decision.tool, decision.token)
    if case.status or effect.status:  # an application's own handler of errors may have answered
        assert effect.status == answer.status_code
        assert effect.size == len(answer.content)
        body = answer.content
        assert effect.digest == (hashlib.sha256(record.salt + body).digest() if body else b"")
    else:
        assert (effect.status, effect.size, effect.digest) == (0, -1, b"")
    assert 0 <= effect.took_ms < 60_000


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_stream_is_one_answer(kind: str) -> None:
    """All parts count, and there is one record."""
    realm, answer = call(kind, Case(200, "done"), "slow")
    assert answer.content == b"part" * 3
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.size) == ("done", 12)
    assert record.effect.digest == hashlib.sha256(record.salt + b"part" * 3).digest()


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_an_answer_that_breaks_off_has_an_unknown_effect(kind: str) -> None:
    """A part of it has left when the tool raises."""
    realm = UnsafeTestRealm("orders")
    # The server of WSGI here has HTTP/1.0, whose answer ends with its connection.
    with pytest.raises(httpx.RemoteProtocolError) if kind == "asgi" else contextlib.nullcontext():
        call(kind, Case(200, "unknown"), "slow", realm)
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.status, record.effect.size) == ("unknown", 200, -1)


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_another_tool_has_no_record(kind: str) -> None:
    """Its decision is of version 1, byte for byte as before."""
    realm, _ = call(kind, Case(200, "done"), "get")
    [decision] = realm.decisions.decisions
    assert (decision.effect, decision.pack()[:2]) == (None, b"\x94\x01")


def refund_of(realm: UnsafeTestRealm, fails: BaseException | None, *, is_async: bool) -> Callable[[], Any]:
    def work() -> str:
        grant = current_grant()
        assert grant is not None
        grant.effect(external_id="re_8")
        if fails is not None:
            raise fails
        return "done"

    async def work_async() -> str:
        return work()

    guarded: Any = protect(realm.verifier, "orders.refund", effects=NAMED)(work_async if is_async else work)
    token = realm.caller(Rule(tool="*")).token("orders.refund")
    return lambda: asyncio.run(guarded(arx_token=token)) if is_async else guarded(arx_token=token)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("fails", "result"), [(None, "done"), (ValueError(), "failed"), (KeyboardInterrupt(), "unknown")]
)
def test_a_function_s_end_is_the_effect(fails: BaseException | None, result: str, is_async: bool) -> None:
    """It returned, raised, or was stopped from outside."""
    realm = UnsafeTestRealm("orders")
    run = refund_of(realm, fails, is_async=is_async)
    if fails is None:
        run()
    else:
        with pytest.raises(type(fails)):
            run()
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.size, record.external_id) == (result, -1, "re_8")


class Result:
    """The result of a tool, as SDK 1 has it, or SDK 2."""

    def __init__(self, **members: Any) -> None:
        vars(self).update(members)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (Result(isError=False), "done"),
        (Result(isError=True), "failed"),
        (Result(is_error=True, result_type="complete"), "failed"),
        (Result(is_error=False, result_type="input_required"), "unknown"),
        (Result(root=Result(task=Result(taskId="t-1"))), "unknown"),
        ({"task": {"taskId": "t-1"}}, "unknown"),
        ({"resultType": "task", "taskId": "t-1"}, "unknown"),
        ({"resultType": "input_required", "requestState": "x"}, "unknown"),
        ({"resultType": "complete", "task": None, "content": []}, "done"),
        ({"isError": True, "content": []}, "failed"),
        ({"content": []}, "done"),
        (ValueError(), "failed"),
    ],
)
def test_a_result_of_mcp_is_the_effect(result: Any, expected: str) -> None:
    """A tool of an SDK answers, with an error or without one, or raises."""
    realm = UnsafeTestRealm("orders")
    messages = Messages(realm.verifier, effects=NAMED)
    meta = {META_KEY: realm.caller(Rule(tool="*")).token("orders.refund")}
    message = McpMessage("tools/call", {"name": "refund"}, meta)

    async def schema() -> Mapping[str, Any]:
        return {}

    async def handler() -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    if isinstance(result, Exception):
        with pytest.raises(ValueError):
            asyncio.run(messages.run(message, schema, handler))
    else:
        asyncio.run(messages.run(message, schema, handler))
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert record.effect.result == expected


def test_a_killed_call_has_an_unknown_effect() -> None:
    """The kill ends it; what it did before is not known, and its own later end writes nothing."""
    realm = UnsafeTestRealm("orders")
    messages = Messages(realm.verifier, effects=NAMED, recheck_ms=5)
    meta = {META_KEY: realm.caller(Rule(tool="*")).token("orders.refund")}

    async def schema() -> Mapping[str, Any]:
        return {}

    async def handler() -> Any:
        realm.epochs.kill("session:s-test")
        await asyncio.sleep(60)

    with pytest.raises(Exception, match="revoked"):
        asyncio.run(messages.run(McpMessage("tools/call", {"name": "refund"}, meta), schema, handler))
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.size) == ("unknown", -1)
    assert [each.outcome for each in realm.decisions.decisions].count("end") == 1


def test_a_call_that_is_refused_behind_its_record_has_failed() -> None:
    """It was recorded as allowed, and a kill came while that waited for a disk: the tool does not run."""
    realm = UnsafeTestRealm("orders")
    realm.verifier._waits, kept = True, realm.decisions.append

    def append(decision: Decision) -> int:
        sequence = kept(decision)
        if decision.allowed:
            realm.epochs.kill("session:s-test")
        return sequence

    realm.decisions.append = append  # type: ignore[method-assign]
    with pytest.raises(RevokedError):
        refund_of(realm, None, is_async=False)()
    assert [each.outcome for each in realm.decisions.decisions] == ["allow", "deny", "effect"]
    [(record, decision)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, decision.outcome) == ("failed", "allow")


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_journal_that_waits_for_the_disk_has_the_effect(kind: str, tmp_path: Path) -> None:
    """The event loop does not wait for it, and the record is there when the answer is."""
    realm = UnsafeTestRealm("orders")
    journal = Journal(tmp_path / "journal", "orders-1", "orders", mode="durable")
    realm.verifier = Verifier(
        audience="orders", keys=realm.verifier.keys, epochs=realm.epochs, decisions=journal, effects=NAMED
    )
    options: dict[str, Any] = {"verifier": realm.verifier, "tools": TOOLS}
    case = Case(200, "done")
    served = (
        serving(ArxMiddleware(asgi_app(case), **options))
        if kind == "asgi"
        else serving_wsgi(ArxWSGI(wsgi_app(case), **options))
    )
    with served as port, httpx.Client(trust_env=False, timeout=30) as client:
        assert client.post(f"http://127.0.0.1:{port}/refund", auth=realm.caller(Rule(tool="*"))).content == b"answer"
        found = list(read_journal(tmp_path / "journal"))
    assert [each.outcome for each in found] == ["allow", "effect"]
    assert [each.effect.result for each in found if each.effect is not None] == ["awaited", "done"]


def test_an_effect_without_a_record_keeps_no_answer_back(caplog: pytest.LogCaptureFixture) -> None:
    """The tool has run: a caller that got no answer would run it again.  The log shows that it is unknown."""
    realm = UnsafeTestRealm("orders")
    kept = realm.decisions.append

    def append(decision: Decision) -> int:
        if decision.outcome == "effect":
            raise AuditError("the journal is full")
        return kept(decision)

    realm.decisions.append = append  # type: ignore[method-assign]
    assert refund_of(realm, None, is_async=False)() == "done"
    assert [each.effect for each in realm.decisions.decisions] == [AWAITED]
    assert "has no record: the journal is full" in caplog.text


@pytest.mark.parametrize("wrong", ["orders.refund", ["orders refund"], [""]])
def test_wrong_patterns_stop_the_start(wrong: Any) -> None:
    """A name that matches nothing would record nothing."""
    with pytest.raises(SettingsError, match=r"effects are tools, such as orders\.get"):
        UnsafeTestRealm("orders").verifier.within(None, wrong)


def test_a_verifier_is_the_same_without_effects() -> None:
    """Those of a verifier and of its guard add up."""
    plain = UnsafeTestRealm("orders").verifier
    assert plain.within(None, ()) is plain
    both = plain.within(None, ["orders.get"]).within(None, ["orders.refund"])
    assert both._effects == ("orders.get", "orders.refund")


@pytest.mark.parametrize(("name", "shown"), [(7, "7"), ("x" * 500, "x" * 128), ("\ud800", "\\ud800")])
def test_a_name_of_an_effect_is_a_short_text(name: Any, shown: str) -> None:
    """A tool may hand over anything; the record stays one that a log can read."""
    realm = UnsafeTestRealm("orders")

    def refund() -> None:
        grant = current_grant()
        assert grant is not None
        grant.effect(external_id=name)

    guarded: Any = protect(realm.verifier, "orders.refund", effects=["orders.*"])(refund)
    guarded(arx_token=realm.caller(Rule(tool="*")).token("orders.refund"))
    assert unpack_record(*seal(realm.decisions.decisions[-1].pack(), "v", "b", 1)).external_id == shown


@pytest.mark.spec("15.2")
def test_a_service_file_with_effects_is_refused(tmp_path: Path) -> None:
    """The mint writes that file: it could have what a tool did go without a record."""
    path = tmp_path / "orders.json"
    file = {"v": 1, "realm": "acme", "audience": "orders", "max_ttl_ms": 1000, "keys": {}}
    path.write_text(json.dumps(file | {"effects": ["orders.refund"]}))
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=r"`effects`.*open_verifier\(effects=…\)"):
        open_verifier(path)


PERSON = CredentialRecord("person", "c-1", ("read",), "cached")
EFFECT = EffectRecord("done", "0123456789ab-7", 200, 6, bytes(32), 3)


@pytest.mark.spec("12.9")
def test_an_erasure_removes_the_account() -> None:
    """The record of an effect keeps the connection; its name upstream is in the body alone."""
    realm = UnsafeTestRealm("orders")
    refund_of(realm, None, is_async=False)()
    record = realm.decisions.decisions[-1]
    record.credential, record.account = PERSON, "ann-t"
    good = seal(record.pack(), "v", "b", 2)
    shown = unpack_record(*good).to_dict()
    assert shown["credential"] == {**PERSON._asdict(), "account": "ann-t"}
    assert b"ann-t" not in good.kept
    erased = unpack_record(good.kept, None).to_dict()
    assert erased["credential"] == {**PERSON._asdict(), "account": None}


@pytest.mark.spec("12.3")
@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "ok", "effect": EFFECT},
        {"code": "effect", "effect": AWAITED},
        {"code": "effect", "effect": None},
        {"code": "effect", "effect": EFFECT._replace(result="\x1b[31mdone")},
        {"code": "effect", "effect": EFFECT._replace(result="awaited")},
        {"code": "ok", "effect": AWAITED._replace(result="done")},
        {"code": "ok", "effect": AWAITED, "credential": PERSON, "account": "ann-t"},
        {"credential": PERSON},
        {"marks": ("saved",), "credential": PERSON},
        {"marks": ("saved",), "account": "ann-t"},
        {"marks": ("saved",), "effect": None},
    ],
)
def test_one_form_alone_is_read(wrong: dict[str, Any]) -> None:
    """Only a record of an effect names a decision, and it is of version 3."""
    realm = UnsafeTestRealm("orders")
    refund_of(realm, None, is_async=False)()
    record = realm.decisions.decisions[-1]
    good = seal(record.pack(), "v", "b", 2)
    read = unpack_record(*good)
    assert (read.effect, read.external_id, read.outcome) == (record.effect, "re_8", "effect")
    assert json.loads(json.dumps(read.to_dict()))["effect"]["result"] == "done"
    assert unpack_record(good.kept, None).external_id is None
    for name, value in wrong.items():
        setattr(record, name, value)
    with pytest.raises(ArxError):
        unpack_record(*seal(record.pack(), "v", "b", 2))


HEADS: list[tuple[str, int, list[tuple[str, str]]]] = [
    ("POST", 204, []),
    ("POST", 304, [("Content-Length", "2")]),
    ("POST", 200, [("Content-Length", "0")]),
    ("HEAD", 200, [("Content-Length", "2")]),
]


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
@pytest.mark.parametrize(("method", "status", "headers"), HEADS)
def test_a_head_without_a_body_is_the_whole_answer(
    kind: str, method: str, status: int, headers: list[tuple[str, str]]
) -> None:
    """The effect is recorded before it leaves: a client has its answer then, whatever the tool does afterwards."""
    realm, recorded = UnsafeTestRealm("orders"), list[int]()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        sent = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        recorded.append(len(effects_in(realm)))
        await send({"type": "http.response.body", "body": b""})

    def wsgi(_: dict[str, Any], start_response: Any) -> Any:
        write = start_response(f"{status} X", headers)
        write(b"")
        recorded.append(len(effects_in(realm)))
        return []

    options: dict[str, Any] = {"verifier": realm.verifier, "tools": {f"{method} /refund": "orders.refund"}}
    served = (
        serving(ArxMiddleware(asgi, **options, effects=NAMED))
        if kind == "asgi"
        else serving_wsgi(ArxWSGI(wsgi, **options, effects=NAMED))
    )
    with served as port, httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.request(method, f"http://127.0.0.1:{port}/refund", auth=realm.caller(Rule(tool="*")))
    assert (answer.status_code, answer.content, recorded) == (status, b"", [1])
    [(record, _)] = effects_in(realm)
    assert record.effect is not None
    assert (record.effect.result, record.effect.status, record.effect.size) == ("done", status, 0)


def test_a_websocket_that_a_kill_ended_is_unknown() -> None:
    """Its application takes the end for that of the client, and returns; one that ends by itself is done."""
    realm, kills = UnsafeTestRealm("orders"), False

    async def live(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, ConnectionError, asyncio.CancelledError):
            if kills:
                realm.epochs.kill("session:s-test")
            while kills:
                await socket.send_text("part")
                await asyncio.sleep(0)
            await socket.receive_text()

    app = ArxMiddleware(
        Starlette(routes=[WebSocketRoute("/live", live)]),
        verifier=realm.verifier,
        tools={"live": "orders.refund"},
        recheck_ms=5,
        effects=NAMED,
    )
    caller = realm.caller(Rule(tool="*"))

    def call_live() -> None:
        signed = caller(httpx.Request("GET", "http://127.0.0.1/live")).headers["authorization"].encode()
        scope = {"type": "websocket", "path": "/live", "raw_path": b"/live", "query_string": b"", "subprotocols": []}
        scope |= {"headers": [(b"authorization", signed)], "client": ("127.0.0.1", 1), "extensions": {}}
        came = [{"type": "websocket.connect"}]

        async def receive() -> dict[str, Any]:
            return came.pop() if came else {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Any) -> None:
            pass

        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]

    call_live()
    kills = True
    call_live()
    results = [record.effect.result for record, _ in effects_in(realm) if record.effect is not None]
    assert results == ["done", "unknown"]
    assert [each.outcome for each in realm.decisions.decisions].count("end") == 1


def test_a_settled_call_asks_for_no_thread(tmp_path: Path) -> None:
    """With a journal that waits for the disk, a call may be closed at the shutdown, when no thread takes a job."""
    realm = UnsafeTestRealm("orders")
    journal = Journal(tmp_path / "journal", "orders-1", "orders", mode="durable")
    verifier = Verifier(
        audience="orders", keys=realm.verifier.keys, epochs=realm.epochs, decisions=journal, effects=NAMED
    )
    messages = Messages(verifier)
    meta = {META_KEY: realm.caller(Rule(tool="*")).token("orders.refund")}

    async def schema() -> Mapping[str, Any]:
        return {}

    async def work() -> None:
        loop = asyncio.get_running_loop()
        settle = CallEffect.settle_async

        async def settle_last(effect: CallEffect, result: Any = None) -> None:
            await settle(effect, result)
            await loop.shutdown_default_executor()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CallEffect, "settle_async", settle_last)

            async def handler() -> Mapping[str, Any]:
                return {"content": []}

            await messages.run(McpMessage("tools/call", {"name": "refund"}, meta), schema, handler)

    asyncio.run(work())
    assert [each.effect.result for each in read_journal(tmp_path / "journal") if each.effect] == ["awaited", "done"]
