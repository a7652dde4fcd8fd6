# SPDX-License-Identifier: Apache-2.0
"""Measure the mint: ``make bench-mint``, or ``python -m benchmarks.mint [--quick] [--json FILE] [--write]``.

A real mint process with its audit log, a real Valkey with ``appendfsync always``, and SQLite or PostgreSQL with
``fsync``.  Progress goes to stderr, tables to stdout; ``--write`` puts them, and the plot, into ``docs/``.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import insert

from arx_caps.credentials.jose import KeyFile, make_assertion
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.mint_database import MintDatabase
from arx_caps.mint.db.tables import SESSIONS
from arx_caps.settings.realm import Realm
from benchmarks import mint_report
from benchmarks.kill_stage import cpu_s, say, spread
from benchmarks.measure import about
from benchmarks.mint_agents import Agent, Wire, measure
from tests import postgres
from tests.mint.harness import ISSUER, make_realm, now_ms
from tests.mint.test_two_mints import MintProcess

MANY: Final = 100_000
CROWD: Final = 100  # agents that have them
COUNTS: Final = ((1, 300), (10, 60), (100, 12))  # agents at once, and how often each calls


class Stage:
    """A mint with a database.

    Attributes:
        realm: Its realm.
        mint: Its process.
        keys: Of the enrolled agents.
    """

    def __init__(self, realm: Realm, mint: MintProcess) -> None:
        self.realm, self.mint = realm, mint
        self._operator = KeyFile.load(realm.operator_key_path)
        self._wire, self._token = Wire(mint.url), ""
        self.keys = asyncio.run(self._enrol())

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, *, rounds: int = 1) -> tuple[Any, Any]:
        """Call as an operator, so often; return the last answer and how long they took."""
        return asyncio.run(self._call(method, path, body, rounds))

    async def _call(self, method: str, path: str, body: dict[str, Any] | None, rounds: int) -> tuple[Any, Any]:
        wire = await Wire(self.mint.url).open()
        for _ in range(rounds):
            told = await wire.call((method, path, self._operator.key, self._token, body))
        wire.close()
        return told, spread(wire.took_ms)

    async def _enrol(self) -> list[KeyFile]:
        wire = await self._wire.open()
        assertion = make_assertion(self._operator, audience=ISSUER, now=now_ms())
        said = await wire.call(("POST", "/v1/operators/token", self._operator.key, None, {"assertion": assertion}))
        self._token = said["token"]
        keys = [KeyFile.generate("agent", f"acme/support/a{number}", ISSUER) for number in range(CROWD)]
        for key in keys:
            path, jwk = key.subject.removeprefix("agent:"), key.key.public.jwk
            await wire.call(("POST", "/v1/agents", self._operator.key, self._token, {"path": path, "jwk": jwk}))
        wire.close()
        return keys


@contextlib.contextmanager
def stage(database: str | None) -> Iterator[Stage]:
    """Set a realm, a store and a mint up, and take them away."""
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        realm = make_realm(Path(folder) / "realm", database=database)
        with realm.folder.joinpath("realm.toml").open("a") as file:
            file.write("\nagent_rate = 0\naddress_rate = 0\n")  # the limits are not what is measured
        with EmbeddedValkey(Path(folder) / "valkey") as valkey:
            mint = MintProcess(Realm.open(realm.folder), valkey.url)
            try:
                yield Stage(realm, mint)
            finally:
                mint.kill()


@contextlib.contextmanager
def database(name: str) -> Iterator[str | None]:
    """Give a database: None for SQLite in the realm's folder."""
    if name == "SQLite":
        yield None
        return
    with postgres.running() as server:
        server.durable()
        yield server.database()


def run(*, quick: bool) -> dict[str, Any]:
    """Measure everything."""
    results: dict[str, Any] = about("sqlalchemy", "uvicorn") | {"calls": [], "many": []}
    for name in ("SQLite", "PostgreSQL"):
        with database(name) as url, stage(url) as on:
            measure(on.mint.url, on.keys[:1], 20, lambda: 0.0)  # what happens once is not what is measured
            for agents, rounds in COUNTS:
                for row in measure(on.mint.url, on.keys[:agents], rounds // (3 if quick else 1), on_cpu(on)):
                    facts = {"database": name, "agents": agents, "what": row["what"]}
                    facts |= {"ms": spread(row["times_ms"]), "cpu_ms": round(row["cpu_ms"], 2)}
                    facts |= {"a_second": round(len(row["times_ms"]) / row["took_s"])}
                    say(f"calls: {json.dumps(facts)}")
                    results["calls"].append(facts | {"times_ms": sorted(round(one, 2) for one in row["times_ms"])})
            results["many"].append({"database": name} | many(on, MANY // (10 if quick else 1)))
            say(f"many: {json.dumps(results['many'][-1])}")
    return results


def on_cpu(on: Stage) -> Any:
    """Return what reads the processor time of the mint, s."""
    return lambda: cpu_s(on.mint.pid)


def many(on: Stage, sessions: int) -> dict[str, Any]:
    """List and end beside so many live sessions, which are written as copies of one that was opened."""
    asyncio.run(_open_one(on))
    began = time.monotonic()
    with MintDatabase(on.realm.database_url) as db:
        with db.read() as connection:
            one = dict(connection.execute(SESSIONS.select().limit(1)).mappings().one())
        for first in range(0, sessions, 10_000):
            rows = [
                one | {"id": f"s-{number:016d}", "agent": f"acme/support/a{number % CROWD}"}
                for number in range(first, min(sessions, first + 10_000))
            ]
            with db.write() as connection:
                connection.execute(insert(SESSIONS), rows)
    facts: dict[str, Any] = {"sessions": sessions, "written_s": round(time.monotonic() - began, 1)}
    told, facts["first_page_ms"] = on.call("GET", "/v1/sessions?limit=100", rounds=30)
    path = f"/v1/sessions?limit=100&after={told['next']}"
    facts["next_page_ms"] = on.call("GET", path, rounds=30)[1]
    of_agent = "/v1/sessions?limit=100&state=open&agent=acme/support/a7"
    told, facts["open_of_agent_ms"] = on.call("GET", of_agent, rounds=30)
    assert len(told["sessions"]) == 100
    told, facts["end_agent_ms"] = on.call("DELETE", "/v1/agents/acme/support/a7")
    told, _ = on.call("GET", of_agent)
    assert told["sessions"] == [], "all of an agent's sessions are over"
    return facts


async def _open_one(on: Stage) -> None:
    wire = await Wire(on.mint.url).open()
    await Agent(wire, on.keys[0]).open()
    wire.close()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mint", description="Measure the mint.")
    parser.add_argument("--quick", action="store_true", help="a third of the calls, a tenth of the sessions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to this file")
    parser.add_argument("--write", action="store_true", help="put tables and plot into docs/")
    options = parser.parse_args()
    results = run(quick=options.quick)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if options.write:
        mint_report.write(results)
    sys.stdout.write(mint_report.figures(results) + "\n")


if __name__ == "__main__":
    main()
