# SPDX-License-Identifier: Apache-2.0
"""Measure the console: ``make bench-console``, or ``python -m benchmarks.console [--records N] [--realm DIR]``.

A mint with its console runs over a log of many records of the last thirty days, whose file the system has in memory.
Each page is asked for again and again by one browser; given are the milliseconds from the request to the whole answer,
with the connection and the parsing of both.  Then fifty viewers watch the live decisions while a service ships a
hundred a second; given is what that costs the mint beside the same load without viewers.  It fails if a page takes
longer than 100 ms (p95), or the viewers more than a fifth of a core.  ``benchmarks/results/console.json`` has
the figures.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
from sqlalchemy import create_engine, insert, select

from arx_caps.audit.shipping.shipper import Shipper
from arx_caps.audit.store.log_store import LogStore
from arx_caps.audit.store.publisher import Publisher
from arx_caps.mint.db.tables import AGENTS, SESSIONS
from arx_caps.mint.keys.log_key import open_log_key
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.service.own_key import read_own_key
from arx_caps.settings.realm import Realm
from arx_verifier.journal.writer import Journal
from arx_verifier.token.targets import subject_target
from benchmarks.audit_copies import multiply
from benchmarks.audit_fill import A_SESSION, AUDIENCE, OPEN, WHALE, batches, decisions, facts, session_of
from benchmarks.measure import about, percentiles, save, say
from tests.cli.live import Live, live_realm
from tests.servers import free_ports

REALM: Final = "acme"
SPAN_MS: Final = 30 * 86_400_000
TAKEN: Final = 1_000_000  # records that are taken in batches; more are copies of them
MOST_MS: Final = 100.0
MOST_OF_A_CORE: Final = 0.2
VIEWERS: Final = 50
OPENED: Final = 40  # sessions that the mint has opened
A_SECOND: Final = 100  # decisions, while viewers watch
# Every page of the console, with what it is asked for.  {session}, {link} and {record} are others at each request.
URLS: Final = (
    "/console/now",
    "/console/decisions",
    "/console/decisions?reason=deny",
    "/console/decisions?session={session}",
    "/console/decisions/{record}",
    "/console/decisions/{record}/proof",
    "/console/search",
    "/console/search?session={session}",
    "/console/search?session={whale}",
    "/console/search?link={link}",
    "/console/search?agent=acme/support/bot-3",
    "/console/search?agent=acme/worker/*",
    "/console/search?person={person}",
    "/console/search?tool=orders.get",
    "/console/search?tool=orders.*",
    "/console/search?reason=deny",
    "/console/search?reason=revoked",
    "/console/search?reason=event",
    "/console/search?since=1h",
    "/console/search?session={whale}&tool=orders.get",
    "/console/search?tool=orders.get&reason=deny",
    "/console/search?reason=deny&since=24h",
    "/console/search?agent=acme/**&reason=deny",
    "/console/search?agent=acme/worker/*&tool=orders.*&since=7d",
    "/console/search?agent=acme/support/bot-3&reason=deny&since=7d",
    "/console/search?agent=acme/support/bot-0&tool=orders.get&reason=deny",
    "/console/search?before={record}",
    "/console/top",
    "/console/top?since=24h",
    "/console/top?since=7d&order=refused",
    "/console/top?since=30d",
    "/console/sessions",
    "/console/sessions/{opened}",
    "/console/sessions/{opened}?zoom=all&outcome=deny",
    "/console/sessions/{whale}",
    "/console/agents",
    "/console/agents/acme/support/bot-3",
    "/console/agents/acme/support/bot-0",
)


def fill(folder: Path, records: int, seconds: float = 86_400.0) -> None:
    """Make a realm whose log has a number of records, or append to one that has too few.

    Args:
        folder: The realm's folder.
        records: Number of records.
        seconds: Time after which it stops; a later call continues.
    """
    if not folder.exists():
        words = ["init", str(folder), "--name", REALM, "--issuer", f"http://127.0.0.1:{free_ports(1)[0]}"]
        subprocess.run([sys.executable, "-m", "arx_caps.cli", *words], check=True, capture_output=True)
    realm, began = Realm.open(folder), time.monotonic()
    with LogStore(f"sqlite:///{realm.audit_path}") as store:
        store.create()
        roots = RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path)
        signer, memory = open_log_key(realm.log_key_path, roots), realm.log_key_path.with_suffix(".signed")
        publisher = Publisher(store, signer, realm.log_dir, memory=memory)
        had, row, base = store.size(), store.record(0), folder / "taken"
        wanted = int(base.read_text()) if base.exists() else max(had, min(records, TAKEN))
        start_ms = time.time_ns() // 1_000_000 - SPAN_MS if row is None else int(row.at_ms)
        stream = batches(wanted, 2000, start_ms, SPAN_MS / records, had, f"run{had:09d}")
        for number, batch in enumerate(stream if had < wanted else ()):
            store.take(batch, None)
            if number % 16 == 15:
                publisher.step()
            if number % 100 == 99:
                say(f"{had + batch.last:,} of {wanted:,}")
            if time.monotonic() - began > seconds:
                return
        publisher.step()
        base.write_text(str(wanted))
        multiply(store, wanted, records, SPAN_MS / records)
        store.settle()
        while (head := publisher.published()) is None or head.size < store.size():
            say(f"signed {0 if head is None else head.size:,}")
            publisher.step()
            if time.monotonic() - began > seconds:
                return
        store.settle()


class Browser:
    """A browser that is signed in."""

    def __init__(self, live: Live) -> None:
        url = live.ok("console", "open")["url"]
        self.client = httpx.Client(base_url=url.partition("/console")[0], follow_redirects=True, timeout=30)
        link = url.partition("link=")[2]
        answer = self.client.post("/console/open", data={"link": link}, headers={"Origin": str(self.client.base_url)})
        assert answer.status_code == 200, answer.text

    def took(self, path: str) -> float:
        """Return the milliseconds that a page takes."""
        began = time.perf_counter()
        answer = self.client.get(path)
        taken = (time.perf_counter() - began) * 1000
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
        return taken


def pages(browser: Browser, records: int, times: int) -> dict[str, dict[str, float]]:
    """Return what each page takes, ms, warm."""
    dice, whole = random.Random(3), whole_sessions(records)

    def path_of(url: str) -> str:
        number = dice.choice(whole)
        link = facts(session_of(number), number, 1, ("w1", "h1")).links[0]
        person = subject_target("https://idp.example", f"person-{dice.randrange(100) * 10}")
        names = {"session": session_of(number), "link": link, "record": str(dice.randrange(records)), "whale": WHALE}
        names["opened"] = session_of(dice.choice(whole[:OPENED]))
        return url.format(**names, person=person)

    found = {}
    for url in URLS:
        for _ in range(3):
            browser.took(path_of(url))
        found[url] = percentiles([browser.took(path_of(url)) for _ in range(times)])
        say(f"{url}: {found[url]['p50']:.1f} ms, p95 {found[url]['p95']:.1f} ms")
    return found


def whole_sessions(records: int) -> range:
    """Return the numbers of sessions all of whose records are in the log."""
    sessions = (records - records // 100) // A_SESSION
    return range(min(OPEN, sessions // 3), max(sessions - OPEN, sessions // 2))


def warm(folder: Path) -> None:
    """Read the log's file, so that the system has it in memory, as that of a mint that runs for long."""
    with Realm.open(folder).audit_path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def open_sessions(folder: Path, records: int) -> None:
    """Put some of the log's sessions and their agents into the mint's database, if they are not there."""
    engine, now = create_engine(Realm.open(folder).database_url), time.time_ns() // 1_000_000
    common = {"jkt": "x", "policy": "x", "born": 0, "incarnation": "x", "status": "open", "opened_at": now}
    numbers = whole_sessions(records)[:OPENED]
    named = [(session_of(number), f"acme/support/bot-{number % 40}") for number in numbers]
    with engine.begin() as c:
        if c.execute(select(SESSIONS.c.id).where(SESSIONS.c.id == WHALE)).first() is None:
            agents = [
                {"path": f"acme/support/bot-{number}", "status": "active", "metadata": "{}"} for number in range(40)
            ]
            c.execute(insert(AGENTS), [agent | {"created_at": now} for agent in agents])
            times = {"expires_at": now + SPAN_MS, "ends_at": now + SPAN_MS}
            rows = [{"id": name, "agent": agent} for name, agent in [(WHALE, "acme/support/bot-0"), *named]]
            c.execute(insert(SESSIONS), [common | times | row for row in rows])
    engine.dispose()


class _Load:
    """A service that records and ships so many decisions a second."""

    def __init__(self, live: Live, folder: Path) -> None:
        file = folder / "orders.json"
        live.ok("service", "enrol", AUDIENCE, "--out", file)
        own = read_own_key(file)
        self._journal = Journal(folder / "journal", "orders-9", AUDIENCE)
        self._stream = decisions(time.time_ns() // 1_000_000, 1000 / A_SECOND)
        self._shipper = Shipper(folder / "journal", audience=AUDIENCE, realm=REALM, issuer=own.issuer, key=own.key)

    def send(self, count: int) -> None:
        """Record and ship so many decisions."""
        for _ in range(count):
            self._journal.append(next(self._stream))
        assert self._shipper.once(), self._shipper.status.error

    async def run(self, seconds: float) -> int:
        """Ship a hundred a second, ten times in each; return how many a busy machine had time for."""
        due, sent = time.monotonic(), 0
        end = due + seconds
        while time.monotonic() < end:
            await asyncio.to_thread(self.send, A_SECOND // 10)
            due, sent = due + 0.1, sent + A_SECOND // 10
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return sent


def viewers(live: Live, browser: Browser, folder: Path, seconds: float) -> dict[str, float]:
    """Return which part of a core the mint uses with the load alone, and with fifty viewers of it as well."""
    load = _Load(live, folder)
    load.send(A_SECOND)
    alone = asyncio.run(_used(live, load, browser, seconds, 0))
    watched = asyncio.run(_used(live, load, browser, seconds, VIEWERS))
    return {"viewers": VIEWERS, "a_second": A_SECOND, "alone": alone[0], "watched": watched[0], "rows": watched[1]}


async def _used(live: Live, load: _Load, browser: Browser, seconds: float, count: int) -> tuple[float, int]:
    """Return the mint's processor time per second, and the number of decisions whose rows each viewer got."""
    rows = [0] * count
    async with contextlib.AsyncExitStack() as left:
        client = httpx.AsyncClient(
            base_url=browser.client.base_url,
            cookies=browser.client.cookies,
            timeout=60,
            limits=httpx.Limits(max_connections=None),
        )
        await left.enter_async_context(client)
        tasks = [asyncio.create_task(_watch(client, rows, place)) for place in range(count)]
        deadline = time.monotonic() + 60
        while count and not all(rows):  # each has got the rows of a first batch
            assert time.monotonic() < deadline, "a viewer got nothing"
            await load.run(0.1)
        before, began, had = _processor_s(live.ready["pid"]), time.monotonic(), list(rows)
        sent = await load.run(seconds)
        used = (_processor_s(live.ready["pid"]) - before) / (time.monotonic() - began)
        deadline = time.monotonic() + 30
        while any(now - then < sent for now, then in zip(rows, had, strict=True)):
            assert time.monotonic() < deadline, f"of {sent} decisions a viewer got the rows of {min(rows) - min(had)}"
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sent >= 0.9 * A_SECOND * seconds, f"the machine is too busy: only {sent} decisions were shipped"
    return used, sent


async def _watch(client: httpx.AsyncClient, rows: list[int], place: int) -> None:
    async with client.stream("GET", "/console/decisions/live") as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            rows[place] += line.count('<tr class="new"')  # others say how many records the viewer missed


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def port_of(folder: Path) -> int:
    """Return the port of an existing realm."""
    found = re.search(r":(\d+)$", Realm.open(folder).listen)
    assert found is not None
    return int(found[1])


@contextlib.contextmanager
def filled_realm(given: Path | None, records: int, seconds: float) -> Iterator[Path]:
    """Yield the folder of a realm with a filled log: that of an earlier run if there is one."""
    with tempfile.TemporaryDirectory(prefix="arx-bench-") as folder:
        place = given or Path(folder) / "realm"
        fill(place, records, seconds)
        yield place


def main() -> None:
    """Measure, print, and fail where a page or the viewers take too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="records in the log [100 000]")
    parser.add_argument("--realm", type=Path, help="folder of the realm: filled if it is new, and kept")
    parser.add_argument("--times", type=int, default=40, help="requests of each page [40]")
    parser.add_argument("--seconds", type=float, default=20, help="how long the viewers watch [20]")
    parser.add_argument("--only-fill", type=float, metavar="SECONDS", help="fill the log for so long and stop")
    given = parser.parse_args()
    with filled_realm(given.realm, given.records, given.only_fill or 86_400.0) as folder:
        if given.only_fill:
            return
        open_sessions(folder, given.records)
        warm(folder)
        with live_realm(folder, port_of(folder)) as live, tempfile.TemporaryDirectory() as own:
            browser = Browser(live)
            found: dict[str, Any] = about("starlette", "jinja2") | {"records": given.records}
            found["pages"] = pages(browser, given.records, given.times)
            found["viewers"] = viewers(live, browser, Path(own), given.seconds)
    save("console", found)
    for url, taken in found["pages"].items():
        print(f"{taken['p50']:7.1f} {taken['p95']:7.1f}  {url}")
    seen = found["viewers"]
    cost = seen["watched"] - seen["alone"]
    print(f"{VIEWERS} viewers at {A_SECOND} a second: {cost:.3f} of a core; each got the {seen['rows']} decisions")
    slow = [url for url, taken in found["pages"].items() if taken["p95"] > MOST_MS]
    assert not slow, f"slower than {MOST_MS} ms: {slow}"
    assert cost <= MOST_OF_A_CORE, f"the viewers cost {cost:.2f} of a core"


if __name__ == "__main__":
    main()
