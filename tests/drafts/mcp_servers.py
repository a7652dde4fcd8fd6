# SPDX-License-Identifier: Apache-2.0
"""An MCP server of PyPI and one of npm behind the gateway: the calls of a stock client are drafted and tried."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arx_caps.demo.gateway import SERVERS, install_programs, write_files
from arx_caps.demo.realm import DemoRealm, free_addresses
from tests.drafts.broad import record_arguments, write_broad_policy
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.install]
HERE = Path(__file__).resolve().parent
AGENT = "acme/desk/report"
Call = tuple[str, dict[str, Any]]


def report(n: int) -> list[Call]:
    """Make a workbook, fill it and read it back."""
    file = {"path": f"report-{n}.xlsx"}
    rows = {"sheet": "Sheet1", "at": "A1", "rows": [["name", "pieces"], ["kettle", n]]}
    return [("create_workbook", file), ("write_range", file | rows), ("read_range", file | {"sheet": "Sheet1"})]


def sums(n: int) -> list[Call]:
    """Add, ask for the weather, and echo."""
    city = ("New York", "Chicago", "Los Angeles")[n % 3]
    return [
        ("get-sum", {"a": n, "b": 10 * n}),
        ("get-structured-content", {"location": city}),
        ("echo", {"message": f"sum {n}"}),
    ]


class Tried(NamedTuple):
    """What a client does with a server of the demo, and calls that it never made."""

    calls: Callable[[int], list[Call]]
    params: Callable[[int], dict[str, str]]
    odd: list[Call]


TRIED = {
    "pypi": Tried(
        report,
        lambda n: {"path": f"report-{n}.xlsx"},
        [
            ("read_range", {"path": "report-1.xlsx", "sheet": "Sheet1"}),
            ("delete_sheet", {"path": "report-0.xlsx", "sheet": "Sheet1"}),
        ],
    ),
    "npm": Tried(sums, lambda _: {}, [("get-sum", {"a": 2, "b": 3000}), ("get-env", {})]),
}
SESSIONS = 4


@pytest.mark.parametrize("source", TRIED)
def test_the_draft_of_a_server_lets_its_client_work(source: str, tmp_path: Path) -> None:
    """
    The same calls are allowed under the draft, and no other file, argument or tool.
    """
    server, tried = SERVERS[source], TRIED[source]
    programs = install_programs(source, print)
    with contextlib.ExitStack() as stack:
        realm = DemoRealm(tmp_path / "realm", stack)
        realm.environment["PATH"] = ":".join([*map(str, programs), realm.environment["PATH"]])
        realm.arx("init", realm.folder, "--name", "acme", "--issuer", *free_addresses(1))
        files = write_files(realm.folder, server, print)
        origin = files["audience"][server.name]["origins"][0]
        write_broad_policy(realm.folder / "policy.toml", server.name, origin)
        begin(realm)
        record_arguments(realm.folder / f"{server.name}.json", server.name)
        realm.processes["up"].terminate()
        realm.processes["up"].wait(30)
        begin(realm)
        realm.arx("agent", "enrol", AGENT, "--key-out", realm.folder / "report.key")
        url = f"{origin}/{server.name}"
        answers = [work(realm, programs, url, tried.calls(n), "all") for n in range(SESSIONS)]
        assert [each for answer in answers for each in answer["done"] if not each[1]] == []
        (tmp_path / "tools.json").write_text(json.dumps(answers[0]["listed"]))
        words = ["policy", "draft", "--from", "1h", "--document", f"{server.name}={tmp_path / 'tools.json'}", "--json"]
        made = SESSIONS * len(tried.calls(0))
        until(lambda: seen(realm, words) >= made)
        output = json.loads(realm.arx(*words, "--out", tmp_path / "draft.toml", "--questions", tmp_path / "asked.toml"))
        print(output["policy"])
        assert (output["kept"], output["refused"]) == (output["calls"], 0)
        realm.arx("policy", "check", tmp_path / "draft.toml")
        realm.arx("policy", "test", tmp_path / "draft.toml", tmp_path / "asked.toml")
        realm.arx("policy", "load", tmp_path / "draft.toml", "--yes")
        [template] = output["templates"]
        for n in range(SESSIONS):
            params = tried.params(n)
            assert set(params) == set(template["params"])
            given = [word for name, value in params.items() for word in ("--param", f"{name}={value}")]
            calls = [each for each in tried.calls(n) if each[0] != "create_workbook"] + (tried.odd if n == 0 else [])
            done = work(realm, programs, url, calls, template["name"], *given)["done"]
            assert [each[1] for each in done] == [True] * (len(done) - 2 * (n == 0)) + [False] * (2 * (n == 0)), done


def begin(realm: DemoRealm) -> None:
    """Start the mint and the gateway, and wait until they are ready."""
    up = realm.start("-m", "arx_caps.cli", "up", "--quiet", "--gateway", realm.folder / "gateway.toml", name="up")
    next(line for line in up if line.startswith("ready: the gateway"))


def seen(realm: DemoRealm, words: list[str]) -> int:
    """Return how many recorded calls the log has."""
    try:
        return int(json.loads(realm.arx(*words))["calls"])
    except subprocess.CalledProcessError:
        return 0


def work(
    realm: DemoRealm, programs: list[Path], url: str, calls: list[Call], task: str, *params: str
) -> dict[str, Any]:
    """Make calls in a session of their own, with a stock client by ``arx connect``."""
    session, bundle = realm.folder / "session.json", realm.folder / "task.bundle"
    realm.arx("session", "open", "--key", realm.folder / "report.key", "--purpose", "a report", "--out", session)
    realm.arx("task", "start", task, *params, "--session", session, "--out", bundle)
    command = [programs[0] / "python", HERE / "mcp_agent.py", json.dumps(calls)]
    bridge = [sys.executable, "-m", "arx_caps.cli", "connect", "--task", bundle, url]
    ran = subprocess.run([*command, *bridge], stdout=subprocess.PIPE, check=True, env=realm.environment, timeout=120)
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer
