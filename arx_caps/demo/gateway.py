# SPDX-License-Identifier: Apache-2.0
"""Put the gateway before an MCP server of another vendor, and let a stock MCP client call it by ``arx connect``.

Client and server are installed from PyPI or npm in a folder of the user's cache, once.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from arx_caps.demo.realm import DemoRealm, free_addresses, run_demo
from arx_caps.isolation.choice import HINT, kind_that_works
from arx_verifier.errors import SettingsError

HERE = Path(__file__).resolve().parent
CACHE = Path.home() / ".cache" / "arx-demo"
AGENT = "acme/desk/report"
PYPI = ("mcp>=2.3,<3", "excel-mcp-server==2.2.2")  # the stock client's SDK, and a server
NPM = ("@modelcontextprotocol/server-everything@2026.8.31",)
ENDED = "An operator ended this work, or its session did"

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Server:
    """A server of ``gateway.toml``, what the client does with it, and what must come of that."""

    name: str
    task: tuple[str, ...]  # of gateway_policy.toml, with its parameters
    allowed: Call
    refused: Call
    hidden: Call
    long: Call | None  # a call that streams, or None for a subscription
    expected: dict[str, str]


BOOKS = Server(
    name="books",
    task=("report", "--param", "file=report.xlsx"),
    allowed=("create_workbook", {"path": "report.xlsx"}),
    refused=("create_workbook", {"path": "salaries.xlsx"}),
    hidden=("delete_sheet", {"path": "report.xlsx", "sheet": "Sheet1"}),
    long=None,
    expected={
        "an unmodified MCP server has its tools": "46 tools",
        "a client goes to the gateway without a token": "initialize was refused: the request carries no token",
        "by arx connect, it is shown those of its task": "create_workbook, describe_workbook",
        "it calls one of them": '{"path":"report.xlsx"}',
        "it calls this one with another argument": "create_workbook was refused: "
        'path must be "report.xlsx", got "salaries.xlsx"',
        "it calls a tool that is hidden from it": "delete_sheet was refused: the tool must be books.create_workbook or "
        'books.describe_workbook or books.subscriptions.listen, got "books.delete_sheet"',
        "every verifier confirms the kill of its agent": "2 of 2 verifiers confirmed",
        "the kill ends its open stream": ENDED,
        "it calls the first tool again": ENDED,
        "the signed log has what the gateway decided": "allow, allow, end, deny",
    },
)
EVERYTHING = Server(
    name="everything",
    task=("sums",),
    allowed=("get-sum", {"a": 2, "b": 3}),
    refused=("get-sum", {"a": 2, "b": 3000}),
    hidden=("get-env", {}),
    long=("trigger-long-running-operation", {"duration": 600, "steps": 6000}),
    expected=BOOKS.expected
    | {
        "an unmodified MCP server has its tools": "13 tools",
        "by arx connect, it is shown those of its task": "get-sum, trigger-long-running-operation",
        "it calls one of them": "The sum of 2 and 3 is 5.",
        "it calls this one with another argument": "get-sum was refused: b must be between 0 and 100, got 3000",
        "it calls a tool that is hidden from it": "get-env was refused: the tool must be everything.get-sum or "
        'everything.trigger-long-running-operation, got "everything.get-env"',
    },
)
SERVERS = {"pypi": BOOKS, "npm": EVERYTHING}


class StockClient(NamedTuple):
    """What ``set_up`` has started: the arguments of the stock client, and the agent's session."""

    client: list[str | Path]
    session: str


def install(say: Callable[[str], None], source: str, packages: tuple[str, ...], *commands: list[str | Path]) -> None:
    """Run the commands that install packages in a folder of the cache, unless they are there."""
    folder = CACHE / source
    stamp, wanted = folder / "installed", f"{sys.version}\n{packages}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"installing {', '.join(packages)} in {folder}, once")
    folder.mkdir(parents=True, exist_ok=True)
    for command in commands:
        subprocess.run(command, stdout=sys.stderr, check=True)
    stamp.write_text(wanted)


def install_programs(source: str, say: Callable[[str], None]) -> list[Path]:
    """Install client and server, without anything of ARx, and return the folders of their programs."""
    own, node = CACHE / "pypi", CACHE / "npm"
    pip: list[str | Path] = [own / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install(say, "pypi", PYPI, [sys.executable, "-m", "venv", "--clear", own], [*pip, *PYPI])
    if source == "npm":
        install(say, "npm", NPM, ["npm", "install", "--silent", "--prefix", node, *NPM])
    return [own / "bin", node / "node_modules" / ".bin"]


def write_files(folder: Path, server: Server, say: Callable[[str], None]) -> dict[str, Any]:
    """Write policy and gateway's file as an operator does, with addresses and a folder of this machine; return both.

    The gateway's file has the upstream of this server alone: the other server is not installed.
    """
    data = folder.parent / "data"  # no folder of the realm, which no server may see
    data.mkdir()
    changes = {"/data": str(data)}
    if kind_that_works() is None:
        say(f'no isolation works on this machine: the demo says isolation = "none"; elsewhere {HINT}')
        changes["\ncommand ="] = '\nisolation = "none"\ncommand ='
        changes[f'\nwrites = ["{data}"]'] = ""
    for address, own in zip(("http://127.0.0.1:9011", "http://127.0.0.1:9012"), free_addresses(2), strict=True):
        changes |= {address: own, address.removeprefix("http://"): own.removeprefix("http://")}
    written: dict[str, Any] = {}
    for name, place in (("gateway_policy.toml", "policy.toml"), ("gateway.toml", "gateway.toml")):
        tables = (HERE / name).read_text().split("\n\n")
        text = "\n\n".join(
            table for table in tables if table.startswith(f"[upstream.{server.name}]") or "[upstream." not in table
        )
        for old, new in changes.items():
            text = text.replace(old, new)
        (folder / place).write_text(text)
        written |= tomllib.loads(text)
    return written


def set_up(realm: DemoRealm, server: Server, programs: list[Path], say: Callable[[str], None]) -> StockClient:
    """Start the mint and the gateway, and a task of the agent."""
    realm.environment["PATH"] = os.pathsep.join([*map(str, programs), realm.environment["PATH"]])
    realm.arx("init", realm.folder, "--name", "acme", "--issuer", *free_addresses(1))
    files = write_files(realm.folder, server, say)
    up = realm.start("-m", "arx_caps.cli", "up", "--quiet", "--gateway", realm.folder / "gateway.toml")
    next(line for line in up if line.startswith("ready: the gateway"))
    key, session, bundle = (realm.folder / name for name in ("report.key.json", "session.json", "task.bundle"))
    realm.arx("agent", "enrol", AGENT, "--key-out", key)
    opened = json.loads(realm.arx("session", "open", "--key", key, "--out", session, "--json"))
    realm.arx("task", "start", *server.task, "--session", session, "--out", bundle)
    url = f"{files['audience'][server.name]['origins'][0]}/{server.name}"
    plan = {
        "server": files["upstream"][server.name]["command"],
        "url": url,
        "bridge": [sys.executable, "-m", "arx_caps.cli", "connect", "--task", str(bundle), url],
        **{name: getattr(server, name) for name in ("allowed", "refused", "hidden", "long")},
    }
    return StockClient([HERE / "stock_client.py", json.dumps(plan)], opened["session"]["id"])


def play(realm: DemoRealm, started: StockClient, server: Server, python: Path) -> Iterator[dict[str, Any]]:
    """Run the client and act as the operator; yield what came of each step."""
    for line in realm.start(*started.client, python=python):
        step = json.loads(line)
        if step["step"] == "streaming":
            kill = realm.kill(f"agent:{AGENT}")
            came = f"{kill['confirmed']} of {kill['verifiers']} verifiers confirmed"
            yield {"step": "every verifier confirms the kill of its agent", "came": came, "why": [kill["summary"]]}
        else:
            if (at := step.pop("at_ms", None)) is not None:
                step["why"] = [f"the client read this {at - kill['at_ms']:+.1f} ms from the kill"]
            yield step
    outcomes: list[str] = []
    until = time.monotonic() + 30
    while outcomes[-1:] != ["deny"] and time.monotonic() < until:  # the last record is of the call after the kill
        trails = json.loads(realm.arx("audit", "trail", "--session", started.session, "--json"))["trails"]
        records = [record for trail in trails for task in trail["tasks"] for record in task["decisions"]]
        outcomes = [record["outcome"] for record in records if record["service"] == server.name]
    yield {"step": "the signed log has what the gateway decided", "came": ", ".join(outcomes)}


def run_gateway(say: Callable[[str], None], source: str) -> dict[str, Any]:
    """Play the demo and return its report.

    Args:
        say: Writes lines for people.
        source: Where the server comes from, of ``SERVERS``.

    Raises:
        SettingsError: There is no npm on PATH.
    """
    if source == "npm" and shutil.which("npm") is None:
        raise SettingsError("npm: expected this program, found none; install Node.js with npm, or use --source pypi")
    server, programs = SERVERS[source], install_programs(source, say)
    return run_demo(
        server.expected,
        f"Valkey, a mint and the gateway before an MCP server from {source}",
        lambda realm: set_up(realm, server, programs, say),
        lambda realm, started: play(realm, started, server, programs[0] / "python"),
        say,
    )
