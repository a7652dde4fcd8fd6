# SPDX-License-Identifier: Apache-2.0
"""Links for people as elicitations by URL: which client gets one, what it sends back, and where their end comes."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from arx_caps.credentials.account_token import TokenAnswer
from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.mcp.exchange import ResourceCall
from arx_caps.gateway.upstream.person_credential import _refuse
from arx_caps.service.access_tokens import link_digest
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, signed

pytestmark = pytest.mark.spec("CONTROL 9.6")
LINK = "https://mint.example/connect/x"
URL: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
TEXT = "An agent needs your account at tracker: connect it."
CALL = {"name": "get", "arguments": {"path": "a"}}
META = "io.modelcontextprotocol/"
Json = dict[str, Any]


class Person:
    """An upstream that needs a person's account, and whether the person has connected one."""

    name, base, serves_one_holder = "files", "http://127.0.0.1:1", False

    def __init__(self, is_open: bool = True) -> None:
        self.is_open, self.connected, self.opened = is_open, False, 0
        self.got: list[Json] = []
        self.tokens: list[str] = []
        self.looked: list[str] = []
        self.ended = asyncio.Event()

    async def is_connected(self, link: str) -> bool:
        self.looked.append(link)
        return self.connected

    @contextlib.asynccontextmanager
    async def send(self, method: str, headers: Any, body: bytes, owner: str, *, call: Any) -> Any:
        message = json.loads(body) if body else {}
        if method == "GET":
            yield Stream(self.ended)
            return
        is_opening = message["method"] == "initialize" and self.is_open
        if not (self.connected or is_opening):
            answer = TokenAnswer("connection_missing", "Ann", ("repo.read",), (), LINK)
            _refuse("tracker", answer)
        self.got.append(message)
        self.tokens.append(call.token)
        result: Json = {"content": [], "capabilities": {}, "protocolVersion": "2025-11-25"}
        reply = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.opened += is_opening
        yield Answer(reply, *([(b"mcp-session-id", b"s-%d" % self.opened)] if is_opening else []))

    async def end_work(self, headers: Any, note: bytes, owner: str, *, call: Any) -> None:
        """Nothing runs on."""


class Stream:
    """The stream of a session, until an event."""

    status, content_type, raw_headers = 200, "text/event-stream", ()

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended, self.content = ended, self

    async def iter_any(self) -> Any:
        yield b": open\n\n"
        await self._ended.wait()


class Client:
    """A client of the door."""

    def __init__(self, person: Person, realm: UnsafeTestRealm, door: McpDoor) -> None:
        self.person, self.realm, self.door, self.session = person, realm, door, b""
        self.caller = realm.caller(Rule(tool="files.*"))
        self.call: ResourceCall | None = None
        self.sent: list[Any] = []

    async def ask(self, method: str, params: Json, version: str = "2025-11-25", **declared: Any) -> Json:
        """Send a request, and return the message that answers it."""
        if version == "2026-07-28":
            meta = {f"{META}protocolVersion": version, f"{META}clientCapabilities": declared}
            params = {**params, "_meta": meta}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        headers = [(b"mcp-protocol-version", version.encode())] if method != "initialize" else []
        headers += [(b"mcp-session-id", self.session)] if self.session else []
        if version == "2026-07-28":
            headers += [(b"mcp-method", method.encode()), (b"mcp-name", str(params.get("name", "")).encode())]
        sent = await self.request("POST", body, headers)
        heads = dict(sent[0]["headers"])
        self.session = heads.get(b"mcp-session-id", self.session)
        found: Json = json.loads(b"".join(each.get("body", b"") for each in sent[1:]))
        return found

    async def open(self, version: str = "2025-11-25", **declared: Any) -> Json:
        """Open a session."""
        about = {"protocolVersion": version, "capabilities": declared, "clientInfo": {"name": "c", "version": "1"}}
        return await self.ask("initialize", about)

    async def request(
        self, method: str, body: bytes, headers: Any, send: Callable[[Any], None] | None = None
    ) -> list[Any]:
        scope = {"type": "http", "method": method, "client": None, "path": "/files", "raw_path": b"/files"}
        scope |= {"query_string": b"", "headers": [signed(self.caller, body, method), *headers]}
        sent: list[Any] = []
        came: list[bool] = []

        async def receive() -> Json:
            if came:
                await asyncio.Event().wait()
            came.append(True)
            return {"type": "http.request", "body": body}

        async def keep(message: Any) -> None:
            (send or sent.append)(message)

        await self.door(scope, receive, keep, self.call)
        return sent


def world(is_open: bool = True, *, has_links: bool = True) -> Client:
    realm = UnsafeTestRealm("files")
    person = Person(is_open)
    terms = UpstreamTerms(audience="files", url="http://127.0.0.1:1")
    links = person.is_connected if has_links else None
    door = McpDoor(realm.verifier, terms, person, is_connected=links)  # type: ignore[arg-type]
    return Client(person, realm, door)


def refused(answer: Json) -> bool:
    """Whether an answer is the result that a model reads, with the link, and asks its client for nothing."""
    result: Json = answer["result"]
    refusal: Json = result["_meta"]["dev.arx/refusal"]
    assert (refusal["code"], refusal["connect_url"]) == ("connection_missing", LINK)
    assert f"Ask Ann to open {LINK}, then repeat this call once." in result["content"][0]["text"]
    return result["isError"] is True and not {"inputRequests", "requestState"} & result.keys()


@pytest.mark.parametrize(
    ("declared", "opened", "later"),
    [
        ({}, "2025-11-25", "2025-11-25"),
        ({"elicitation": {}}, "2025-11-25", "2025-11-25"),
        ({"elicitation": {"form": {}}}, "2025-11-25", "2025-11-25"),
        ({"elicitation": {"url": True}}, "2025-11-25", "2025-11-25"),
        (URL, "2025-06-18", "2025-06-18"),
        (URL, "2025-06-18", "2025-11-25"),
        (URL, "2025-11-25", "2025-06-18"),
    ],
)
def test_a_session_that_declares_none_gets_the_result(declared: Json, opened: str, later: str) -> None:
    """Also one that declares it in a revision that has no such elicitation, in each of its messages."""

    async def run() -> None:
        client = world()
        await client.open(opened, **declared)
        assert refused(await client.ask("tools/call", CALL, later))

    asyncio.run(run())


@pytest.mark.parametrize("declared", [{}, {"elicitation": {}}, {"elicitation": {"form": {}}}, {"elicitation": []}])
def test_a_call_that_declares_none_gets_the_result(declared: Json) -> None:
    """In 2026-07-28 each message declares; a session of before declares nothing for it."""

    async def run() -> None:
        client = world()
        await client.open(**URL)
        assert refused(await client.ask("tools/call", CALL, "2026-07-28", **declared))

    asyncio.run(run())


def test_a_session_that_declares_it_gets_the_link_as_an_error() -> None:
    """Each request of it, and its opening; another session of the same caller gets none of it."""

    async def run() -> None:
        client = world()
        await client.open(**URL)
        for method, params in (("tools/call", CALL), ("tools/list", {})):
            error = (await client.ask(method, params))["error"]
            assert (error["code"], error["data"]["code"]) == (-32042, "connection_missing")
            [asked] = error["data"]["elicitations"]
            assert asked == {
                "mode": "url",
                "url": LINK,
                "elicitationId": link_digest(LINK),
                "message": TEXT,
            }
        client.session = b""
        await client.open()
        assert refused(await client.ask("tools/call", CALL))
        closed = world(is_open=False)
        assert (await closed.open(**URL))["error"]["code"] == -32042
        assert "elicitations" not in json.dumps(await closed.open())
        await client.door.close()

    asyncio.run(run())


@pytest.mark.parametrize(("asked", "given"), [("2025-06-18", "2025-06-18"), ("2026-07-28", "2025-11-25")])
def test_the_model_of_a_client_that_opens_no_link_reads_it(asked: str, given: str) -> None:
    """Its session opens at the gateway alone; each other message is refused with the link."""

    async def run() -> None:
        client = world(is_open=False)
        result = (await client.open(asked))["result"]
        assert (result["protocolVersion"], result["capabilities"]) == (given, {"tools": {}})
        assert f"Ask Ann to open {LINK}," in result["instructions"]
        assert client.session == b""
        opened = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        [start, _] = await client.request("POST", opened, [(b"mcp-protocol-version", given.encode())])
        assert start["status"] == 202
        assert (await client.ask("tools/list", {}))["error"]["data"]["connect_url"] == LINK
        assert refused(await client.ask("tools/call", CALL))

    asyncio.run(run())


def test_an_upstream_without_accounts_of_people_asks_for_no_link() -> None:
    """Its sessions are as before."""

    async def run() -> None:
        client = world(has_links=False)
        await client.open(**URL)
        assert refused(await client.ask("tools/call", CALL))
        assert refused(await client.ask("tools/call", CALL, "2026-07-28", **URL))

    asyncio.run(run())


def test_the_end_is_announced_in_the_session_that_was_asked() -> None:
    """Once the account is stored, each link of the session; the stream of another session gets nothing."""

    async def run() -> None:
        client = world()
        streams: list[list[Any]] = [[], []]
        tasks = []
        for got in streams:
            client.session = b""
            await client.open(**URL)
            headers = [(b"mcp-protocol-version", b"2025-11-25"), (b"mcp-session-id", client.session)]
            tasks.append(asyncio.ensure_future(client.request("GET", b"", headers, got.append)))
        other, asked = streams
        assert "error" in await client.ask("tools/call", CALL)
        await happens(lambda: client.person.looked)
        assert b"elicitation" not in events(asked)
        client.person.connected = True
        await happens(lambda: b"elicitation" in events(asked))
        [note] = [line[6:] for line in events(asked).splitlines() if line.startswith(b"data: ")]
        assert json.loads(note) == {
            "jsonrpc": "2.0",
            "method": "notifications/elicitation/complete",
            "params": {"elicitationId": link_digest(LINK)},
        }
        assert b"elicitation" not in events(other)
        client.person.ended.set()
        await asyncio.gather(*tasks)
        await client.door.close()

    asyncio.run(run())


async def happens(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what a door does in the background gives no event
            await asyncio.sleep(0.01)


def events(sent: list[Any]) -> bytes:
    return b"".join(each.get("body", b"") for each in sent)


async def state_of(client: Client) -> str:
    """Make a call without an account, and return the state that the client keeps."""
    result = (await client.ask("tools/call", CALL, "2026-07-28", **URL))["result"]
    assert result.keys() == {"resultType", "inputRequests", "requestState"}
    asked = {"mode": "url", "message": TEXT, "url": LINK}
    assert result["inputRequests"] == {"connect": {"method": "elicitation/create", "params": asked}}
    return str(result["requestState"])


def again(state: str, action: str = "accept") -> Json:
    return CALL | {"requestState": state, "inputResponses": {"connect": {"action": action}}}


def test_a_call_goes_on_once_its_account_is_connected() -> None:
    """With a new signature where the gateway signs; the upstream gets the call as it was first."""

    async def run() -> None:
        client = world()
        client.call = ResourceCall()
        client.call.sign = lambda: "signed anew"
        calling = asyncio.ensure_future(client.ask("tools/call", again(await state_of(client)), "2026-07-28", **URL))
        await happens(lambda: client.person.looked)
        assert client.person.looked == [link_digest(LINK)]
        client.person.connected = True
        assert "content" in (await calling)["result"]
        [got], [token] = client.person.got, client.person.tokens
        assert (got["params"].keys(), token) == ({"name", "arguments", "_meta"}, "signed anew")

    asyncio.run(run())


def test_a_kill_ends_a_call_that_waits() -> None:
    """The account is connected after it, and the gateway may have a token of another call: nothing is forwarded."""

    async def run() -> None:
        client = world()
        calling = asyncio.ensure_future(client.ask("tools/call", again(await state_of(client)), "2026-07-28", **URL))
        await happens(lambda: client.person.looked)
        client.realm.epochs.kill("task:t-test")
        client.person.connected = True
        result = (await calling)["result"]
        assert (result["isError"], result["_meta"]["dev.arx/refusal"]["code"]) == (True, "revoked")
        assert not client.person.got

    asyncio.run(run())


def test_a_client_asks_again_until_the_account_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same state, without another link; after the person's no the model reads what to ask for."""
    monkeypatch.setattr("arx_caps.gateway.mcp.asked_links.HOLD_SIGNED_S", 0.0)

    async def run() -> None:
        client = world()
        state = await state_of(client)
        for params in (again(state), CALL | {"requestState": state}):
            waits = (await client.ask("tools/call", params, "2026-07-28", **URL))["result"]
            assert waits == {"resultType": "input_required", "requestState": state}
        for action in ("decline", "cancel"):
            assert refused(await client.ask("tools/call", again(state, action), "2026-07-28", **URL))
        assert not client.person.got

    asyncio.run(run())


def test_a_state_is_of_its_caller_and_call() -> None:
    """Not for other arguments, another tool, nor another caller."""

    async def run() -> None:
        client = world()
        state = await state_of(client)
        client.person.connected = True
        for other in ({"arguments": {"path": "b"}}, {"name": "put"}, {"requestState": state + "A"}):
            error = (await client.ask("tools/call", again(state) | other, "2026-07-28", **URL))["error"]
            assert error["code"] == -32602, other
        client.caller = client.realm.caller(Rule(tool="files.*"), session="s-other")
        assert (await client.ask("tools/call", again(state), "2026-07-28", **URL))["error"]["code"] == -32602
        assert not client.person.got

    asyncio.run(run())
