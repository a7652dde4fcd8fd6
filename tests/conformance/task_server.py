# SPDX-License-Identifier: Apache-2.0
"""An MCP server of the extension ``io.modelcontextprotocol/tasks`` of 2026-07-28, which no SDK has yet.

It has what the suite's scenarios of that extension ask for, in the standard library and uvicorn.
"""

import asyncio
import itertools
import json
import sys
from datetime import UTC, datetime
from typing import Any, Final

import uvicorn

EXTENSION: Final = "io.modelcontextprotocol/tasks"
CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
NAMED: Final = {"tools/call": "name", "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId"}
QUESTIONS: Final = {"confirm_delete": ("confirm",), "multi_input": ("first", "second")}
TOOLS: Final = ("greet", "slow_compute", "failing_job", "protocol_error_job", "test_tool_with_task", *QUESTIONS)
QUESTION: Final = {
    "method": "elicitation/create",
    "params": {
        "mode": "form",
        "message": "Are you sure?",
        "requestedSchema": {"type": "object", "properties": {"confirm": {"type": "boolean"}}},
    },
}


class RpcError(Exception):
    """An error of JSON-RPC."""

    def __init__(self, code: int, text: str, status: int = 400, data: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.code, self.status, self.data = code, status, data


class Tasks:
    """The tasks, all of one server."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[str, Any]] = {}
        self._work: dict[str, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)

    def begin(self, tool: str, args: dict[str, Any]) -> dict[str, Any]:
        """Begin a task."""
        now, name = datetime.now(UTC).isoformat(), f"task {next(self._numbers)}"
        task = {"taskId": name, "status": "working", "createdAt": now, "lastUpdatedAt": now, "ttlMs": 60_000}
        self._tasks[name] = {**task, "pollIntervalMs": 50}
        self._work[name] = asyncio.ensure_future(self._run(self._tasks[name], tool, args))
        return {"resultType": "task", **self._tasks[name]}

    async def _run(self, task: dict[str, Any], tool: str, args: dict[str, Any]) -> None:
        if tool in QUESTIONS:
            task |= {"status": "input_required", "inputRequests": dict.fromkeys(QUESTIONS[tool], QUESTION)}
            return
        await asyncio.sleep(float(args.get("seconds", 0.1)))
        if tool == "protocol_error_job":
            task |= {"status": "failed", "error": {"code": -32603, "message": "the job broke"}}
        else:
            self._complete(task, tool == "failing_job", json.dumps(args.get("said")))

    def _complete(self, task: dict[str, Any], is_error: bool = False, text: str = "done") -> None:
        content = [{"type": "text", "text": text}]
        task |= {"status": "completed", "result": {"content": content, "isError": is_error}}

    def handle(self, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """Answer a message about a task."""
        task = self._tasks.get(str(params.get("taskId")))
        if task is None:
            raise RpcError(-32602, "unknown task")
        if verb == "cancel" and task["status"] in ("working", "input_required"):
            self._work[task["taskId"]].cancel()
            task.pop("inputRequests", None)
            task["status"] = "cancelled"
        if verb == "update" and task["status"] == "input_required":
            for key in params.get("inputResponses", {}):
                task["inputRequests"] = {name: each for name, each in task["inputRequests"].items() if name != key}
            if not task["inputRequests"]:
                del task["inputRequests"]
                self._complete(task)
        return {"resultType": "complete", **(task if verb == "get" else {})}


TASKS: Final = Tasks()


def missing() -> RpcError:
    """Return the error for a client that does not know tasks."""
    data = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    return RpcError(-32021, "expected a client with tasks", data=data)


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a request.

    Raises:
        RpcError: It has none.
    """
    declared = EXTENSION in params.get("_meta", {}).get(CAPABILITIES, {}).get("extensions", {})
    about = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}
    if method == "server/discover":
        capabilities = {"tools": {}, "extensions": {EXTENSION: {}}}
        return {**about, "supportedVersions": ["2026-07-28"], "capabilities": capabilities}
    if method == "tools/list":
        return {**about, "tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
    if method == "tools/call":
        name, args = str(params.get("name")), params.get("arguments") or {}
        if name == "failing_job" and not declared:
            raise missing()
        if name == "test_tool_with_task" and "inputResponses" not in params:
            return {"resultType": "input_required", "inputRequests": {"confirm": QUESTION}, "requestState": "asked"}
        if name != "greet" and declared:
            return TASKS.begin(name, {**args, "said": params.get("inputResponses")})
        return {"resultType": "complete", "content": [{"type": "text", "text": f"Hello, {args.get('name')}!"}]}
    if method in NAMED:
        if not declared:
            raise missing()
        return TASKS.handle(method.removeprefix("tasks/"), params)
    raise RpcError(-32601, "unknown method", 404)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
    headers, status, answer = dict(scope["headers"]), 200, b""
    message = json.loads(body) if body else {}
    if "id" in message:
        method, params = message["method"], message.get("params", {})
        try:
            for header, text in ((b"mcp-method", method), (b"mcp-name", params.get(NAMED.get(method, "")))):
                if text is not None and headers.get(header, b"").decode() != text:
                    raise RpcError(-32020, f"{header.decode()} is not that of the body")
            found: dict[str, Any] = {"result": result_of(method, params)}
        except RpcError as error:
            status, found = error.status, {"error": {"code": error.code, "message": str(error)}}
            if error.data:
                found["error"]["data"] = error.data
        answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], **found}).encode()
    else:
        status = 202 if body else 405
    start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
    await send(start)
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", lifespan="off")
