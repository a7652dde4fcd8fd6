# SPDX-License-Identifier: Apache-2.0
"""docs/typescript.md goes as it shows, with the package as npm packs it; the package's README has the same examples."""

import contextlib
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent import Agent
from tests.house.pages import ROOT, blocks
from tests.house.reader import Reader, reader, run_line
from tests.servers import child, until
from tests.typescript.node import PACKAGE, node

pytestmark = [pytest.mark.slow, pytest.mark.servers]

__all__ = ["reader"]  # fixtures

PAGE = (ROOT / "docs" / "typescript.md").read_text("utf-8")
CALL = """\
import { createInterface } from "node:readline";
import { lookup } from "./lookup.ts";
for await (const token of createInterface({ input: process.stdin })) {
  console.log(await lookup(token, { order_id: "o-1001" }, { peer: "10.0.0.7" }).catch(({ code }) => code));
}
process.exit();
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the package and those that its examples need into a folder, as npm does."""
    monkeypatch.setenv("PATH", f"{node().parent}:{os.environ['PATH']}")
    subprocess.run(["npm", "pack", "--silent", "--pack-destination", folder], cwd=PACKAGE, check=True)
    modules = folder / "node_modules"
    modules.mkdir()
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        packed.extractall(folder, filter="data")
    (folder / "package").rename(modules / "arx-verifier")
    for package in (PACKAGE / "node_modules").iterdir():
        (modules / package.name).symlink_to(package)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(
        (PACKAGE / "tsconfig.json").read_text().replace('["src", "test"]', '["*.ts"]')
    )


@contextlib.contextmanager
def answering(folder: Path, program: str) -> Iterator[Callable[[str], str]]:
    """Run a program that answers each line of its input by one line."""
    command = [str(node()), "--no-warnings", program]
    with child(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(line: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return str(process.stdout.readline()).strip()

        yield ask


def test_a_service_is_guarded_as_the_page_shows(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Express service, an MCP server and a function, with a realm, an agent and the types of the package."""
    install(reader.folder, monkeypatch)
    for block in blocks(PAGE):
        if block.language == "ts":
            [name] = re.findall(r"`(\w+\.ts)`:$", block.before)
            text = block.text.replace("listen(9001", f"listen({reader.here(':9001')[1:]}")
            (reader.folder / name).write_text(text, "utf-8")
        elif "not run" not in block.before:
            getattr(reader, block.language)(block if block.language == "python" else block.text)
    done = run_line("node_modules/.bin/tsc", reader.folder)
    assert done.returncode == 0, done.stdout
    (reader.folder / "call.ts").write_text(CALL)
    args = {"order_id": "o-1001"}
    with Agent.from_key_file(reader.folder / "triage.key.json") as agent, agent.open_session(purpose="x") as session:
        task = session.start_task("lookup", order_id="o-1001")
        with answering(reader.folder, "call.ts") as lookup:
            until(lambda: lookup(task.call_token("orders", "orders.get", args)) == "o-1001 for acme/support/triage")
        with answering(reader.folder, "orders_mcp.ts") as ask:

            def send(method: str, args: dict[str, Any], tool: str = "", **params: Any) -> dict[str, Any]:
                meta = {"dev.arx/cap": task.call_token("orders", tool, args)} if method != "initialize" else {}
                message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
                return dict(json.loads(ask(json.dumps(message))).get("result", {}))

            client = {"name": "agent", "version": "1"}
            send("initialize", {}, protocolVersion="2025-06-18", capabilities={}, clientInfo=client)
            until(lambda: "tools" in send("tools/list", {"method": "tools/list"}))
            [tool] = send("tools/list", {"method": "tools/list"})["tools"]
            assert tool["name"] == "get"
            answer = send("tools/call", args, "orders.get", name="get", arguments=args)
            assert answer["content"] == [{"type": "text", "text": "o-1001 is on its way"}]


def test_the_readme_of_the_package_has_the_examples_of_the_page() -> None:
    """Each of its examples is one that the test above runs, under the same name."""
    readme = (PACKAGE / "README.md").read_text("utf-8")
    shown = [block.text for block in blocks(readme)]
    assert shown == [block.text for block in blocks(PAGE) if block.language == "ts"]
    assert all(f"`{name}`" in readme for name in ("service.ts", "orders_mcp.ts", "lookup.ts"))
