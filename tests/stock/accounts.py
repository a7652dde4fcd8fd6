# SPDX-License-Identifier: Apache-2.0
"""Stock MCP clients whose person has to connect an account: ``python -m tests.stock.accounts``.

Each client calls a tool, calls it again after an operator has ended the account, and once more when its person has
opened the link that it got and has connected another account.  What it gets is compared with its file in
``transcripts``, without the parts that are others each time; ``--write`` writes the files.  A proxy signs its requests.
"""

import argparse
import functools
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from tests.adapters.asgi_server import serving
from tests.conformance.inspector import Inspector
from tests.conformance.packages import node_packages
from tests.conformance.signing_proxy import signing_proxy
from tests.gateway.people import PeopleWorld, Tracker, people
from tests.gateway.test_people import connections
from tests.stock.clients import Patient, PythonClient
from tests.stock.coding_agents import CLAUDE, claude, npm_program

TRANSCRIPTS: Final = Path(__file__).with_name("transcripts")
LINK: Final = re.compile(r"http://127\.0\.0\.1:\d+/connect/[\w-]+")
TOOL: Final = {"name": "get", "description": "Return whose account it is.", "inputSchema": {"type": "object"}}
LIST: Final = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
DONE: Final = (
    "- a call",
    "- a call after an operator has ended the account",
    "- a call after the person has opened the link and connected another account",
)
Step = Callable[[], str]  # makes a call, and returns what the client shows


class McpTracker(Tracker):
    """The tracker with an MCP server, whose one tool names the account of the call's token."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, if it has a person's token."""
        found = self.owner(dict(scope["headers"]).get(b"authorization", b"").decode())
        body, more = b"", scope["method"] == "POST"
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        message = json.loads(body) if found and body else {}
        status = 401 if not found else 200 if "id" in message else 202 if message else 405
        answer = b""
        if status == 200:
            shown = self._result(message["method"], found[0] if found else "")
            answer = json.dumps({"jsonrpc": "2.0", "id": message["id"], **shown}).encode()
        headers = [(b"content-type", b"application/json")] if answer else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    @staticmethod
    def _result(method: str, account: str) -> dict[str, Any]:
        about: dict[str, Any] = {"protocolVersion": "2025-11-25", "serverInfo": {"name": "tracker", "version": "1"}}
        results: dict[str, dict[str, Any]] = {
            "initialize": about | {"capabilities": {"tools": {}}},
            "tools/list": {"tools": [TOOL]},
            "tools/call": {"content": [{"type": "text", "text": f"the account of {account}"}]},
        }
        if method not in results:
            return {"error": {"code": -32601, "message": "method not found"}}
        return {"result": results[method] | {"resultType": "complete"}}


class Ann:
    """The person of one client, with an account of a number, another one each time."""

    def __init__(self, world: PeopleWorld, url: str, client: str) -> None:
        self.world, self.url, self.client, self.number = world, url, client, 0

    def connect(self, text: str) -> None:
        """Open the link that a text has, and connect an account."""
        found = LINK.search(text)
        assert found is not None, text
        self.number += 1
        page = self.world.connect(found[0], "ann", f"ann-{self.client}-{self.number}")
        assert "Connected" in page.text, page.text

    def connect_ahead(self) -> None:
        """Connect an account before the client opens a session."""
        self.leave()
        self.connect(httpx.post(self.url, json=LIST, timeout=60).text)

    def leave(self) -> None:
        """Have an operator end the account."""
        for each in connections(self.world):
            if each["state"] == "open":
                self.world.arx("connection", "end", each["id"], "--reason", "a test", "--yes")

    def transcript(self, call: Step) -> str:
        """Return what a client shows of three calls."""
        first = call()
        self.leave()
        ended = call()
        self.connect(ended)
        return shown_as(first, ended, call())


def shown_as(*texts: str) -> str:
    """Return the three texts of a transcript, each below what was done."""
    return "\n".join(f"{name}\n{text}" for name, text in zip(DONE, texts, strict=True))


def of_sdk(kind: str, ann: Ann, folder: Path) -> str:
    """Return the transcript of a client of the Python SDK: the texts of its results."""
    client = Patient(PythonClient(kind, ann.url, folder, {}))
    try:
        return ann.transcript(lambda: "{0[1]} (error: {0[0]})".format(client.call("get", {})))
    finally:
        client.close()


def of_inspector(ann: Ann, folder: Path) -> str:
    """Return the transcript of the inspector's command line, which opens a session for each call."""
    target = ("--transport", "http", "--server-url", ann.url)
    inspector = Inspector(node_packages(), target, "legacy", folder)
    return ann.transcript(lambda: json.dumps(inspector.ask("tools/call", "--tool-name=get"), indent=1))


class Reading(dict[str, str]):
    """What the model of Claude Code reads; between two results the operator and the person act."""

    def __init__(self, ann: Ann) -> None:
        super().__init__()
        self._ann = ann

    def __setitem__(self, name: str, text: str) -> None:
        if name not in self:
            {"toolu_0": lambda _: self._ann.leave(), "toolu_1": self._ann.connect}.get(name, lambda _: None)(text)
        super().__setitem__(name, text)


def of_claude(ann: Ann, folder: Path) -> str:
    """Return the transcript of Claude Code: what its model reads."""
    program = npm_program("@anthropic-ai/claude-code", CLAUDE[-1])
    config = {"mcpServers": {"tracker": {"type": "http", "url": ann.url}}}
    (folder / "mcp.json").write_text(json.dumps(config))
    words = ("--mcp-config", str(folder / "mcp.json"), "--strict-mcp-config", "--allowedTools", "mcp__tracker__get")
    steps: Any = [("mcp__tracker__get", {})] * 3
    read = claude(program, folder, {}, *steps, words=words, results=Reading(ann))
    return shown_as(*read)


def transcripts(world: PeopleWorld, url: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each client, and its transcript."""
    runs: dict[str, Callable[[Ann, Path], str]] = {
        "mcp-2.3.0": functools.partial(of_sdk, "mcp2"),
        "mcp-1.30.0": functools.partial(of_sdk, "mcp1"),
        "inspector-2.12.0": of_inspector,
        f"claude-code-{CLAUDE[-1]}": of_claude,
    }
    for name, run in runs.items():
        ann, folder = Ann(world, url, name), world.folder / name
        folder.mkdir()
        ann.connect_ahead()
        shown = LINK.sub("LINK", run(ann, folder)).replace(f":{world.gateway}", ":GATEWAY")
        for secret in world.tracker.secrets:
            assert secret not in shown
        yield name, f"{shown}\n"


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A client shows another thing than its transcript.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.stock.accounts", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the transcripts")
    is_written, wrong = parser.parse_args().write, []
    tracker = McpTracker()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(tracker, lifespan="off") as port,
        people(Path(folder), tracker=tracker, url=f"http://127.0.0.1:{port}/mcp", routes="") as world,
        world.task("ann") as task,
        serving(signing_proxy(task, {"tracker": f"http://127.0.0.1:{world.gateway}/tracker"}), lifespan="off") as own,
    ):
        for name, shown in transcripts(world, f"http://127.0.0.1:{own}/tracker"):
            file = TRANSCRIPTS / f"{name}.txt"
            if is_written:
                file.write_text(shown)
            if file.read_text() != shown:
                wrong.append(f"{name}: expected\n{file.read_text()}\ngot\n{shown}")
            sys.stdout.write(f"{name}: the link, another account, and on\n")
            sys.stdout.flush()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
