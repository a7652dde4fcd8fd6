# SPDX-License-Identifier: Apache-2.0
"""Tasks of an MCP server behind the gateway: a holder has its own, and no id of another one's."""

import asyncio
import base64
import json
from typing import Any

import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.door import Answer, Door, Upstream, signed

CALL = {"name": "get", "arguments": {}}
RELATED = "io.modelcontextprotocol/related-task"
RULES = (Rule(tool="files.get"), Rule(tool="files.subscriptions.listen", open=True))


def result(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": members}).encode()


CREATED = result(task={"taskId": "t 1é", "status": "working"})
STATUS = {"jsonrpc": "2.0", "method": "notifications/tasks/status", "params": {"taskId": "t 1é", "status": "working"}}


def test_a_task_is_of_its_caller_alone() -> None:
    """Its caller reads, answers and cancels it by the id that it got, which is none for another holder."""
    realm = UnsafeTestRealm("files")
    caller, other = realm.caller(*RULES), realm.caller(*RULES, session="s-2")
    upstream = Upstream(lambda method: Answer(CREATED if method == "tools/call" else result(taskId="t 1é", a=[1.0])))
    door = Door(realm, upstream)
    bound = door.message(caller, "tools/call", {**CALL, "task": {"ttl": 1}})["result"]["task"]["taskId"]
    assert bound != "t 1é"
    for method in ("tasks/get", "tasks/result", "tasks/cancel", "tasks/update"):
        answer = door.message(caller, method, {"taskId": bound})
        assert answer["result"] == {"taskId": bound, "a": [1.0]}
        assert (upstream.got[-1], upstream.bodies[-1]["params"]["taskId"]) == (method, "t 1é")
    named = door.message(caller, "tasks/get", {"taskId": bound}, (b"mcp-name", encoded(bound)))
    assert named["result"]["taskId"] == bound
    assert upstream.headers[-1][b"mcp-name"] == encoded("t 1é")
    sent = len(upstream.got)
    for stranger in (other, realm.caller(*RULES, agent="test/b"), caller.delegate("test/agent/x")):
        assert door.message(stranger, "tasks/get", {"taskId": bound})["error"]["code"] == -32602
    for params in (
        {"taskId": "t 1é"},
        {"taskId": 7},
        {"taskId": None},
        {"taskID": "t 1é"},
    ):
        assert door.message(caller, "tasks/get", params)["error"]["code"] == -32602
    assert door.message(caller, "tasks/get", {"taskId": bound, "TASKID": "t"})["status"] == 400
    related = {"_meta": {RELATED: {"taskId": "t 1é"}}}
    assert door.message(caller, "tools/call", {**CALL, **related})["error"]["code"] == -32602
    listen = {"notifications": {"taskIds": ["t 1é"]}}
    assert door.message(caller, "subscriptions/listen", listen)["error"]["code"] == -32602
    assert len(upstream.got) == sent
    door.message(caller, "subscriptions/listen", {"notifications": {"taskIds": [bound]}})
    assert upstream.bodies[-1]["params"]["notifications"] == {"taskIds": ["t 1é"]}


def encoded(text: str) -> bytes:
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


def test_ids_in_a_stream_are_bound() -> None:
    """In a status, in what relates to a task, and in the answer; other events pass byte for byte."""
    realm = UnsafeTestRealm("files")
    related = {"jsonrpc": "2.0", "id": 3, "method": "ping", "params": {"_meta": {RELATED: {"taskId": "t 1é"}}}}
    plain = b'event: message\ndata: {"jsonrpc": "2.0",  "method": "notifications/message", "params": {"a": 1.0}}\n\n'
    events = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (STATUS, related, json.loads(CREATED))]
    door = Door(realm, Upstream(lambda _: Answer(b"".join([plain, *events]), kind="text/event-stream")))
    caller = realm.caller(*RULES)
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CALL}).encode()
    _, data = door.ask(body, signed(caller, body))
    assert data.startswith(plain)
    status, ping, created = (json.loads(each[6:]) for each in data[len(plain) :].split(b"\n\n") if each)
    bound = created["result"]["task"]["taskId"]
    assert bound.startswith("t 1é~")
    assert (status["params"]["taskId"], ping["params"]["_meta"][RELATED]["taskId"]) == (bound, bound)


def test_all_tasks_are_listed_by_a_server_of_one_holder_alone() -> None:
    """To a server over HTTP all callers are the gateway: its list would have the tasks of all."""
    realm = UnsafeTestRealm("files")
    caller, listed = realm.caller(*RULES), result(tasks=[{"taskId": "t 1é"}, {"taskId": "t 2"}])
    shared = Upstream(lambda _: Answer(listed))
    assert Door(realm, shared).message(caller, "tasks/list")["error"]["code"] == -32601
    assert shared.got == []
    door = Door(realm, Upstream(lambda _: Answer(listed), serves_one_holder=True))
    first, _ = door.message(caller, "tasks/list")["result"]["tasks"]
    assert door.message(caller, "tasks/get", {"taskId": first["taskId"]})["result"]


@pytest.mark.parametrize("alone", [False, True])
def test_a_server_lists_tasks_where_it_may(alone: bool) -> None:
    """A client that reads the capability would else ask for what is refused."""
    realm = UnsafeTestRealm("files")
    tasks = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
    upstream = Upstream(lambda _: Answer(result(capabilities={"tasks": tasks, "tools": {}})), serves_one_holder=alone)
    shown = Door(realm, upstream).message(realm.caller(*RULES), "initialize")["result"]["capabilities"]
    assert ("list" in shown["tasks"]) == alone
    assert shown["tasks"].keys() - {"list"} == tasks.keys() - {"list"}
    assert shown["tools"] == {}


@pytest.mark.parametrize("streams", [False, True])
def test_a_kill_ends_the_wait_for_a_task_and_the_task(streams: bool) -> None:
    """Its result does not leave, and the upstream is asked to cancel it."""
    realm = UnsafeTestRealm("files")
    caller = realm.caller(*RULES)

    class Endless(Answer):
        async def iter_any(self) -> Any:
            realm.epochs.kill("agent:test/agent")
            yield b"data: " + json.dumps(STATUS).encode() + b"\n\n"
            await asyncio.Event().wait()

    kind = "text/event-stream" if streams else "application/json"
    upstream = Upstream(lambda method: Answer(CREATED) if method == "tools/call" else Endless(b"", kind=kind))
    door = Door(realm, upstream)
    bound = door.message(caller, "tools/call", CALL)["result"]["task"]["taskId"]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tasks/result", "params": {"taskId": bound}}).encode()
    _, data = door.ask(body, signed(caller, body))
    assert b'"code":"revoked"' in data
    note = json.loads(upstream.ended[0])
    assert (note["method"], note["params"]) == ("tasks/cancel", {"taskId": "t 1é"})
    assert door.message(caller, "tasks/get", {"taskId": bound})["error"]["data"]["code"] == "revoked"
