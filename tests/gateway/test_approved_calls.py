# SPDX-License-Identifier: Apache-2.0
"""Calls that wait for an approval, at a door and a mint in this process; ``test_approvals`` has them as processes."""

import asyncio
import json
import secrets
from typing import Any

import pytest

from arx_caps.credentials.account_token import TokenAnswer
from arx_caps.gateway.access_tokens.approved_calls import ApprovableCall, ApprovedCalls
from arx_caps.gateway.access_tokens.approved_tasks import KEPT_MS
from arx_caps.gateway.access_tokens.token_calls import TokenCaller
from arx_caps.gateway.base.asgi import replay_body
from arx_caps.gateway.base.handle_decisions import HandleDecisions
from arx_caps.gateway.base.sealed_calls import SealedCalls, WaitingCall
from arx_caps.gateway.base.settings import RateTerms, UpstreamTerms
from arx_caps.gateway.mcp.door import McpDoor
from arx_caps.gateway.upstream.person_credential import _refuse
from arx_caps.mint.db.repositories.work.approvals import MAX_WAITING
from arx_caps.service.access_tokens import open_access_token
from arx_caps.service.own_key import ServiceIdentity
from arx_verifier.enforcement.asgi.calls import http_call
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.token import call_proof
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.gateway.door import Answer, Upstream
from tests.gateway.gateway_realm import ENVELOPE
from tests.mint.harness import AGENT, ISSUER, Harness, now_ms
from tests.mint.oauth import Client
from tests.mint.test_handle_approvals import Service

pytestmark = [pytest.mark.spec("CONTROL 5.12"), pytest.mark.sqlite]
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
DONE = Answer(b'{"jsonrpc":"2.0","id":"arx-approved","result":{"content":[{"type":"text","text":"done"}]}}')
Json = dict[str, Any]


async def never(_: str) -> bool:
    """Whether a person has connected an account by a link."""
    return False


class Front:
    """A gateway's front before one upstream, and a client."""

    def __init__(self, harness: Harness) -> None:
        self.service = Service(harness)
        keys = harness.mint.key_schedule.audience_keys("orders")
        ring = KeyRing({kid: key for kid, (key, _) in keys.items()}, realm=harness.realm.name)
        self.decisions = InMemoryDecisions()
        self.verifier = Verifier(audience="orders", keys=ring, epochs=harness.mint.epochs, decisions=self.decisions)
        self.upstream = Upstream(lambda _: DONE)
        self.token = self.service.token()
        self.issued_at = 0
        self.principal = "p"
        self.open()

    def open(self, **rate: str) -> None:
        """Begin another gateway of the audience."""
        terms = UpstreamTerms(audience="orders", url="http://127.0.0.1:1", rate=RateTerms(**rate))
        self._door = McpDoor(self.verifier, terms, self.upstream, is_connected=never)  # type: ignore[arg-type]
        own = ServiceIdentity(None, ISSUER, self.service.key, None)  # type: ignore[arg-type]
        self.calls = ApprovedCalls(
            self._door,
            self.verifier,
            self.service.mint,
            own,
            HandleDecisions(self.decisions),
            challenge=lambda scope, _: [(b"www-authenticate", scope.encode())],
            longest=10_000,
        )

    async def send(
        self,
        method: str,
        params: Json,
        *,
        old: bool = False,
        tasks: bool = False,
        header: tuple[bytes, bytes] = (b"", b""),
    ) -> tuple[int, Json]:
        """Send one message as ``OAuthResource`` does, and return status and answer."""
        meta = {} if old else ENVELOPE | {"io.modelcontextprotocol/clientCapabilities": TASKS if tasks else {}}
        meta |= params.get("_meta", {})
        params = params | ({"_meta": meta} if meta else {})
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        name = str(params.get("name", params.get("taskId", ""))).encode()
        headers = [(b"mcp-protocol-version", b"2025-11-25" if old else b"2026-07-28")]
        headers += [] if old else [(b"mcp-method", method.encode()), (b"mcp-name", name)]
        headers += [header] if header[0] else []
        scope = {"type": "http", "method": "POST", "headers": headers, "client": None, "path": "/orders"}
        scope |= {"raw_path": b"/orders", "query_string": b""}
        sent: list[Any] = []

        async def gone() -> Any:
            await asyncio.Event().wait()

        async def keep(message: Any) -> None:
            sent.append(message)

        macaroon = open_access_token(self.service.mint, self.service.key, self.token).bundle.tokens["orders"]
        caller = TokenCaller(self.token, macaroon, self.principal, AGENT, "refund", self.issued_at)
        call = ApprovableCall(self.calls, caller, scope, body, gone, keep)
        if not await call.answer():
            signer = call_proof.CallSigner(macaroon, "orders")
            signed = signer.sign(call_proof.http_fields(http_call(scope, body)), now_ms())
            authorized = [*headers, (b"authorization", b"Bearer " + signed.encode())]
            await self._door({**scope, "headers": authorized}, replay_body(body, gone), keep, call)
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        return sent[0]["status"], json.loads(sent[1]["body"])

    async def result(self, method: str, params: Json, **how: Any) -> Json:
        """Send one message that is answered by a result."""
        status, answer = await self.send(method, params, **how)
        assert status == 200, answer
        found: Json = answer["result"]
        return found

    def waiting(self) -> str:
        """The id of the one request that waits."""
        [row] = self.service.harness.mint.db.approvals.list(statuses=("waiting",))
        return row.id

    async def ended(self, about: Json, **how: bool) -> Json:
        """Poll a task until it has ended."""
        while True:
            found = await self.result("tasks/get", about, **how)
            if found["status"] != "working":
                return found


CALL = {"name": "refund", "arguments": {"amount": 5}}


@pytest.fixture
def front(unit: Harness) -> Front:
    """A gateway's front."""
    return Front(unit)


def test_a_task_is_made_once_with_what_was_approved(front: Front) -> None:
    """Polls say how it stands; another gateway does not make it again."""

    async def run() -> None:
        created = await front.result("tools/call", CALL, tasks=True)
        about = {"taskId": created["taskId"]}
        assert (created["resultType"], created["status"]) == ("task", "working")
        assert (await front.result("tasks/get", about))["status"] == "working"
        front.service.answer(front.waiting())
        done = await front.ended(about)
        assert (done["status"], done["result"]["content"][0]["text"]) == ("completed", "done")
        assert await front.result("tasks/get", about) == done
        [body] = front.upstream.bodies
        assert (body["params"]["name"], body["params"]["arguments"]) == ("refund", {"amount": 5})
        assert await front.result("tasks/update", about) == {"resultType": "complete"}
        front.open()
        lost = await front.result("tasks/get", about)
        assert (lost["status"], lost["error"]["data"]["code"]) == ("failed", "already_used")
        assert len(front.upstream.bodies) == 1

    asyncio.run(run())


def test_a_task_whose_person_has_no_account_asks_for_no_link(front: Front) -> None:
    """Its result could not go on with what the client answers: the model reads the link."""

    def fail(_: str) -> Any:
        _refuse(
            "tracker", TokenAnswer("connection_missing", "Ann", (), (), connect_url="https://mint.example/connect/x")
        )

    async def run() -> None:
        front.upstream = Upstream(fail)
        front.open()
        created = await front.result("tools/call", CALL, tasks=True)
        front.service.answer(front.waiting())
        declared = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"url": {}}}}
        done = await front.ended({"taskId": created["taskId"], "_meta": declared})
        assert (done["status"], done["result"]["isError"]) == ("completed", True)
        assert "Ask Ann to open" in done["result"]["content"][0]["text"]
        assert "requestState" not in done["result"]

    asyncio.run(run())


@pytest.mark.parametrize("outcome", ["approve", "deny", "cancel"])
def test_a_task_of_the_older_revision_has_a_result(front: Front, outcome: str) -> None:
    """``tasks/result`` answers what the call would have."""

    async def run() -> None:
        created = (await front.result("tools/call", CALL | {"task": {}}, old=True))["task"]
        about = {"taskId": created["taskId"]}
        if outcome == "cancel":
            assert (await front.result("tasks/cancel", about, old=True))["status"] == "cancelled"
            assert (await front.result("tasks/get", about, old=True))["status"] == "cancelled"
            return
        front.service.answer(front.waiting(), outcome)
        _, answer = await front.send("tasks/result", about, old=True)
        status = (await front.result("tasks/get", about, old=True))["status"]
        if outcome == "approve":
            assert answer["result"]["_meta"] == {"io.modelcontextprotocol/related-task": about}
            assert (answer["result"]["content"][0]["text"], status) == ("done", "completed")
        else:
            assert (answer["error"]["data"]["code"], status) == ("approval_denied", "failed")
            assert "a test" in answer["error"]["message"]

    asyncio.run(run())


def test_a_kill_fails_a_task_that_waits(front: Front) -> None:
    """Also one that was approved: nothing reaches the upstream, and a model can read why."""

    async def run() -> None:
        about = {"taskId": (await front.result("tools/call", CALL, tasks=True))["taskId"]}
        approval = front.waiting()
        front.service.answer(approval)
        row = front.service.harness.mint.db.approvals.find(approval)
        assert row is not None
        front.token = front.service.token()
        front.service.harness.epochs.kill(f"task:{row.task}")
        failed = await front.ended(about)
        assert failed["status"] == "failed"
        assert "over" in failed["error"]["message"]
        assert front.upstream.bodies == []

    asyncio.run(run())


def test_a_client_without_either_learns_the_approval(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the status and by the text; the same call goes through after the approval, and the next one asks again."""
    monkeypatch.setattr("arx_caps.gateway.access_tokens.approved_calls.HOLD_FIRST_MS", 0)

    async def run() -> None:
        status, answer = await front.send("tools/call", CALL, old=True)
        approval = front.waiting()
        assert (status, answer["error"]["data"]) == (403, {"code": "missing_discharge", "approval": approval})
        assert approval in answer["error"]["message"]
        front.issued_at = now_ms()  # of the access token that the client has got for the scope
        waits = await front.result("tools/call", CALL, old=True)
        assert (waits["isError"], approval in waits["content"][0]["text"]) == (True, True)
        front.issued_at = 0
        front.service.answer(approval)
        front.upstream._answer = lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}')
        assert await front.result("tools/call", CALL, old=True) == {"content": []}
        status, _ = await front.send("tools/call", CALL, old=True)
        assert (status, front.waiting() != approval) == (403, True)
        assert len(front.upstream.bodies) == 1

    asyncio.run(run())


def test_a_client_that_looks_first_finds_tasks(front: Front) -> None:
    """In the form of its revision, at the tools that demand an approval; a task without approvals changes nothing."""
    tools = [{"name": "refund", "inputSchema": {}, "execution": {"taskSupport": "forbidden"}}]
    answers: Json = {
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}},
        "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": {"extensions": {"x": {}}}},
        "tools/list": {"tools": tools},
    }
    front.upstream._answer = lambda method: Answer(
        json.dumps({"jsonrpc": "2.0", "id": 1, "result": answers[method]}).encode()
    )

    async def run() -> None:
        capabilities = (await front.result("initialize", {}, old=True))["capabilities"]
        assert capabilities == {"tools": {}, "tasks": {"cancel": {}, "requests": {"tools": {"call": {}}}}}
        capabilities = (await front.result("server/discover", {}))["capabilities"]
        assert capabilities == {"extensions": {"x": {}, "io.modelcontextprotocol/tasks": {}}}
        [tool] = (await front.result("tools/list", {}, old=True))["tools"]
        assert tool["execution"] == {"taskSupport": "optional"}
        assert (await front.result("tools/list", {}))["tools"] == tools
        answers["initialize"]["protocolVersion"] = "2025-06-18"
        assert (await front.result("initialize", {}, old=True))["capabilities"] == {"tools": {}}
        front.token = front.service.token(Client(front.service.harness, scopes=["free"]))
        answers["initialize"]["protocolVersion"] = "2025-11-25"
        assert (await front.result("initialize", {}, old=True))["capabilities"] == {"tools": {}}

    asyncio.run(run())


def test_a_call_whose_arguments_are_in_headers_too_is_no_task(front: Front) -> None:
    """A poll does not repeat them; and what a poll has in such headers is not what operators saw."""

    async def run() -> None:
        header = (b"mcp-param-amount", b"5")
        assert (await front.result("tools/call", CALL, tasks=True, header=header))["resultType"] == "input_required"
        about = {"taskId": (await front.result("tools/call", CALL, tasks=True))["taskId"]}
        front.service.answer(front.waiting())
        poll = about | {"_meta": {"progressToken": "of the poll"}}
        polled = await front.result("tasks/get", poll, header=(b"mcp-param-amount", b"null"))
        done = polled if polled["status"] != "working" else await front.ended(about)
        assert done["status"] == "completed"
        [headers] = front.upstream.headers
        assert b"mcp-param-amount" not in headers
        [body] = front.upstream.bodies
        assert "progressToken" not in body["params"]["_meta"]

    asyncio.run(run())


@pytest.mark.slow
def test_a_sealed_text_is_of_its_gateways_kind_and_principal(front: Front) -> None:
    """Of another realm or key, of another audience, of the other kind, of another client, guessed: each is refused."""

    async def run() -> None:
        state = (await front.result("tools/call", CALL))["requestState"]
        task = (await front.result("tools/call", CALL, tasks=True))["taskId"]
        front.service.answer(front.waiting())
        call, kid = WaitingCall("a-x", "refund", "", 0, now_ms() + 60_000), state.split(".", 1)[1].rpartition(".")[0]
        stranger = KeyRing({kid: b"k" * 32}, realm=front.service.harness.realm.name)
        texts = [SealedCalls(stranger).seal(call, kind, "p", kid) for kind in ("state", "task")]
        texts += [f"arxw1.{kid}.{secrets.token_urlsafe(60)}" for _ in range(100)]
        for text in [*texts, f"{state[:-4]}AAAA", task]:
            status, answer = await front.send("tools/call", CALL | {"requestState": text})
            assert (status, answer["error"]["code"]) == (400, -32602)
        for text in [*texts, state]:
            for method in ("tasks/get", "tasks/cancel"):
                status, answer = await front.send(method, {"taskId": text})
                assert (status, answer["error"]["code"]) == (400, -32602)
        front.principal = "q"
        assert (await front.send("tools/call", CALL | {"requestState": state}))[0] == 400
        assert (await front.send("tasks/get", {"taskId": task}))[0] == 400
        assert front.upstream.bodies == []

    asyncio.run(run())


def test_a_state_is_of_its_call_for_its_time(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other arguments, of another tool or after its end it makes no call, and the approval is not used up."""

    async def run() -> None:
        state = (await front.result("tools/call", CALL))["requestState"]
        front.service.answer(front.waiting())
        wrong: list[Json] = [{"arguments": {"amount": 6}}, {"arguments": {}}, {"name": "other"}, {"inputResponses": {}}]
        for each in wrong:
            status, answer = await front.send("tools/call", CALL | {"requestState": state} | each)
            assert (status, answer["error"]["code"]) == (400, -32602)
        with monkeypatch.context() as later:
            later.setattr("arx_caps.gateway.base.sealed_calls.now_ms", lambda: now_ms() + 700_000)
            assert (await front.send("tools/call", CALL | {"requestState": state}))[0] == 400
        front.upstream._answer = lambda _: Answer(b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}')
        assert (await front.result("tools/call", CALL | {"requestState": state}))["content"] == []
        [body] = front.upstream.bodies
        assert "requestState" not in body["params"]
        status, answer = await front.send("tools/call", CALL | {"requestState": state})
        assert "was made" in answer["error"]["message"]
        assert len(front.upstream.bodies) == 1

    asyncio.run(run())


def test_of_polls_at_once_one_begins_the_call(front: Front) -> None:
    """At one gateway, and at two of them."""

    async def run() -> None:
        about = {"taskId": (await front.result("tools/call", CALL, tasks=True))["taskId"]}
        state = (await front.result("tools/call", CALL))["requestState"]
        front.service.answer(front.waiting())
        first = front.calls
        polls = [front.send("tasks/get", about) for _ in range(4)]
        polls += [front.send("tools/call", CALL | {"requestState": state}) for _ in range(2)]
        begun = [asyncio.ensure_future(each) for each in polls]
        await asyncio.sleep(0)
        front.open()
        assert front.calls is not first
        begun += [asyncio.ensure_future(front.send("tasks/get", about)) for _ in range(4)]
        await asyncio.gather(*begun)
        while not any(run.answer for calls in (first, front.calls) for run in calls._tasks._runs.values()):
            await front.ended(about)  # the other gateway knows of the call before it has an answer
        assert len(front.upstream.bodies) == 1

    asyncio.run(run())


def test_a_kill_between_approval_and_answer_ends_the_task(front: Front) -> None:
    """The call runs, and its upstream does not answer: the next poll ends it; a cancellation does too."""

    async def run() -> None:
        for end in ("kill", "cancel"):
            asked = asyncio.Event()

            async def never() -> Answer:
                asked.set()  # noqa: B023 - awaited in this turn
                await asyncio.Event().wait()
                raise AssertionError

            front.upstream._answer = lambda _: never()
            about = {"taskId": (await front.result("tools/call", CALL, tasks=True))["taskId"]}
            approval = front.waiting()
            front.service.answer(approval)
            await front.result("tasks/get", about)
            await asked.wait()
            assert (await front.result("tasks/get", about))["status"] == "working"
            if end == "cancel":
                assert await front.result("tasks/cancel", about) == {"resultType": "complete"}
                ended = await front.ended(about)
                assert ended["status"] == "cancelled"
                continue
            row = front.service.harness.mint.db.approvals.find(approval)
            assert row is not None
            front.token = front.service.token()
            front.service.harness.epochs.kill(f"task:{row.task}")
            ended = await front.ended(about)
            assert ended["result"]["isError"]
            assert "ended this work" in ended["result"]["content"][0]["text"]
        await front.calls.close()

    asyncio.run(run())


def test_running_calls_of_one_client_are_limited(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further task goes on once one has ended, whose result is then forgotten; another client has its own number."""
    monkeypatch.setattr("arx_caps.gateway.access_tokens.approved_tasks.MAX_RUNS", 2)

    async def run() -> None:
        until, begun = asyncio.Event(), asyncio.Semaphore(0)

        async def late() -> Answer:
            begun.release()
            await until.wait()
            return DONE

        front.upstream._answer = lambda _: late()
        abouts = []
        for amount in range(3):
            call = {"name": "refund", "arguments": {"amount": amount}}
            abouts.append({"taskId": (await front.result("tools/call", call, tasks=True))["taskId"]})
            front.service.answer(front.waiting())
        for about in abouts[:2]:
            await front.result("tasks/get", about)
            await begun.acquire()
        waits = await front.result("tasks/get", abouts[2])
        assert (waits["status"], len(front.upstream.bodies)) == ("working", 2)
        until.set()
        for about in abouts:
            assert (await front.ended(about))["status"] == "completed"
        assert len(front.upstream.bodies) == 3
        lost = await front.result("tasks/get", abouts[0])
        assert (lost["status"], lost["error"]["data"]["code"]) == ("failed", "already_used")

    asyncio.run(run())


def test_a_task_that_is_forgotten_while_it_is_cancelled(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll of another task needs its room while the cancellation waits for the mint: both are answered."""
    monkeypatch.setattr("arx_caps.gateway.access_tokens.approved_tasks.MAX_RUNS", 1)

    async def run() -> None:
        abouts = []
        for amount in range(2):
            call = {"name": "refund", "arguments": {"amount": amount}}
            abouts.append({"taskId": (await front.result("tools/call", call, tasks=True))["taskId"]})
            front.service.answer(front.waiting())
        assert (await front.ended(abouts[0]))["status"] == "completed"
        both = await asyncio.gather(front.result("tasks/cancel", abouts[0]), front.result("tasks/get", abouts[1]))
        assert [answer["resultType"] for answer in both] == ["complete", "complete"]
        assert (await front.ended(abouts[1]))["status"] == "completed"

    asyncio.run(run())


@pytest.mark.slow
def test_waiting_calls_are_limited_and_cost_the_gateway_nothing(front: Front) -> None:
    """The mint limits them for a session; a model reads it, and another client goes on."""

    async def run() -> None:
        for amount in range(-MAX_WAITING, 0):
            call = {"name": "refund", "arguments": {"amount": amount}}
            assert (await front.result("tools/call", call, tasks=amount % 2 == 0))["resultType"] != "complete"
        refused = await front.result("tools/call", CALL, tasks=True)
        assert refused["isError"]
        assert f"{MAX_WAITING} requests" in refused["content"][0]["text"]
        front.token, front.principal = front.service.token(front.service.other()), "q"
        assert (await front.result("tools/call", CALL))["resultType"] == "input_required"
        assert front.upstream.bodies == []

    asyncio.run(run())


def test_a_model_reads_why_a_call_was_denied_also_when_it_calls_again(front: Front) -> None:
    """In each revision; no operator is asked again."""

    async def run() -> None:
        await front.result("tools/call", CALL)
        front.service.answer(front.waiting(), "deny")
        for old in (False, True):
            refused = await front.result("tools/call", CALL, old=old)
            assert refused["isError"]
            assert "a test" in refused["content"][0]["text"]

    asyncio.run(run())


def test_a_task_is_forgotten_after_its_time(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither asked for nor begun: its client could have polled before."""

    async def run() -> None:
        about = {"taskId": (await front.result("tools/call", CALL, tasks=True))["taskId"]}
        front.service.answer(front.waiting())
        with monkeypatch.context() as later:
            later.setattr(
                "arx_caps.gateway.access_tokens.approved_tasks.now_ms", lambda: now_ms() + 2 * 600_000 + KEPT_MS
            )
            for method in ("tasks/get", "tasks/cancel"):
                assert (await front.send(method, about))[0] == 400
        assert front.upstream.bodies == []

    asyncio.run(run())


def test_a_client_with_many_calls_that_wait_is_not_asked_for_scopes(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway holds no further one: an access token that comes at once could be as old as the request."""
    monkeypatch.setattr("arx_caps.gateway.access_tokens.approved_calls.MAX_HELD", 0)

    async def run() -> None:
        assert (await front.result("tools/call", CALL, old=True))["isError"]

    asyncio.run(run())
