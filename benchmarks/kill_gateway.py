# SPDX-License-Identifier: Apache-2.0
"""Kill while clients stream through a gateway: ``make bench-kill-gateway``.

A real gateway, a real store, MCP servers over HTTP and over stdio.  It fails if an event that left a server after the
lease L reaches a client, if one stream is open after it, or if one call after a stream's end is allowed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp

from arx_caps.embedded import EmbeddedValkey
from arx_caps.revocation.failover import Topology, attest
from arx_verifier import Rule
from arx_verifier.testing import UnsafeCaller
from benchmarks.kill_stage import freeze, say, spread, thaw
from benchmarks.measure import machine
from tests.gateway.gateway_realm import AUDIENCE, ENVELOPE, GatewayRealm, gateway, running
from tests.house.pages import ROOT
from tests.servers import free_ports, until

CLIENTS: Final = 20
LEASE_MS: Final = 500
LATE_MS: Final = 1_000  # until the process of the clients, on a busy machine, runs and sees the end of a stream
TRIALS: Final = 50
STOPPED: Final = "store stopped"
KILLED: Final = "store killed"
_PAUSE_S: Final = 0.05  # between two events of a stream
_WITHIN_S: Final = 60.0
_NS: Final = 1_000_000  # in a millisecond
_PULSE_S: Final = 0.005
_LATER: Final = b"Try this call again"  # in a refusal with another cause than a kill
_RULE: Final = Rule(tool=f"{AUDIENCE}.*")
_HEADERS: Final = {
    "accept": "application/json, text/event-stream",
    "mcp-method": "tools/call",
    "mcp-protocol-version": "2026-07-28",
}
_FILE: Final = """
[upstream.http]
audience = "orders"
url = "http://127.0.0.1:{port}/mcp"
[upstream.stdio]
audience = "orders"
service = "stdio.json"
command = ["{python}", "{script}", "{pause_s}"]
isolation = "none"
"""


class Stream:
    """One client's stream.

    Attributes:
        closed: When the client saw its end, monotonic clock, ns; 0 before.
        left: When its last event but the refusal left the server.
        last: Its last event.
        after: The answer to the call after it.
    """

    def __init__(self, session: aiohttp.ClientSession, caller: UnsafeCaller, url: str) -> None:
        self._session, self._caller, self._url = session, caller, url
        self.begun, self.closed, self.left, self.last, self.after = asyncio.Event(), 0, 0, b"", b""

    def _post(self, name: str) -> Any:
        token = self._caller.token(f"{AUDIENCE}.{name}")
        params = {"name": name, "arguments": {}, "_meta": {**ENVELOPE, "dev.arx/cap": token, "progressToken": "p"}}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return self._session.post(self._url, json=message, headers={**_HEADERS, "mcp-name": name})

    async def _read(self) -> bool:
        """Return whether there was a stream: used calls are lost with the store's process, and it has to sign anew."""
        async with self._post("watch") as answer:
            if answer.status == 401:
                return False
            async for line in answer.content:
                if line.startswith(b"data:"):
                    self.begun.set()
                    self.left = json.loads(line[5:]).get("params", {}).get("progress", self.left)
                if line.startswith((b"data:", b"{")):
                    self.last = line
        return True

    async def run(self, is_over: Callable[[bytes], bool]) -> None:
        """Read the stream to its end, and call once more.

        A stream that ends before, such as by a late answer of the store on a busy machine, is opened again.

        Args:
            is_over: Given the last event; whether it ended by what this trial does.
        """
        while not await self._read() or not is_over(self.last):
            pass
        self.closed = time.monotonic_ns()
        async with self._post("refund") as answer:
            self.after = await answer.read()


class Place:
    """The realm with its gateway, and what is done to its store.

    Args:
        folder: Keeps everything.
        server: The store.
        port: Where the gateway listens.
        realm: The realm.
    """

    def __init__(self, folder: Path, server: EmbeddedValkey, port: int, realm: GatewayRealm) -> None:
        self.folder, self._server, self._port, self.realm = folder, server, port, realm
        self._pid = server.server_pid  # a stopped server does not answer

    async def trial(self, upstream: str, end: Callable[[str], int], mend: Callable[[], object]) -> dict[str, Any]:
        """Open a stream for each client of one session, end them, and return what the clients saw.

        Args:
            upstream: ``http`` or ``stdio``.
            end: Given the session; returns when it had ended it, monotonic clock, ns.
            mend: Makes the store answer again.
        """
        session_id = "s-" + "".join(secrets.choice("abcdefgh") for _ in range(16))
        url = f"http://127.0.0.1:{self._port}"
        connector = aiohttp.TCPConnector(limit=0)
        ended, pauses = 0, [0.0]

        def is_over(last: bytes) -> bool:
            return _LATER not in last if end == self.kill else bool(ended)

        async with aiohttp.ClientSession(connector=connector) as session:
            await _ready(session, url)
            callers = [self.realm.caller(_RULE, session=session_id) for _ in range(CLIENTS)]
            streams = [Stream(session, caller, f"{url}/{upstream}") for caller in callers]
            tasks = [asyncio.ensure_future(stream.run(is_over)) for stream in streams]
            pulse = asyncio.ensure_future(_pulse(pauses))
            try:
                async with asyncio.timeout(_WITHIN_S):
                    await asyncio.gather(*(stream.begun.wait() for stream in streams))
                    pauses[:] = [0.0]
                    ended = await asyncio.to_thread(end, session_id)
                    await asyncio.gather(*tasks)
            finally:
                await asyncio.to_thread(mend)
                for task in (*tasks, pulse):
                    task.cancel()
        return {
            "paused_ms": max(pauses),
            "closed_ms": [max(0.0, (stream.closed - ended) / _NS) for stream in streams],
            "left_ms": [max(0.0, (stream.left - ended) / _NS) for stream in streams],
            "answers": [answer for stream in streams for answer in (stream.last, stream.after)],
        }

    def kill(self, session: str) -> int:
        """Kill the session."""
        self.realm.kill(session)
        return time.monotonic_ns()

    def stop(self, _: str) -> int:
        """Stop the store."""
        time.sleep(random.uniform(0, LEASE_MS / 4000))  # anywhere between two of its answers
        freeze(self._pid)
        return time.monotonic_ns()

    def proceed(self) -> None:
        """Let the store go on."""
        thaw(self._pid)

    def end_store(self, _: str) -> int:
        """Kill the store's process."""
        time.sleep(random.uniform(0, LEASE_MS / 4000))
        os.kill(self._pid, signal.SIGKILL)
        until(lambda: not self._server.running)
        return time.monotonic_ns()

    def restart(self) -> None:
        """Start the store again, with its file, and attest it, as the mint of a realm does."""
        self._server.stop()
        self._server.start()
        self._pid = self._server.server_pid
        assert attest(self.realm.store, Topology())[1] is None, "a new history"


async def _pulse(pauses: list[float]) -> None:
    """Append how long this process did not run, ms: it sees the end of a stream that much later."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(_PULSE_S)
        pauses.append((time.monotonic() - began - _PULSE_S) * 1000)


async def _ready(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until the gateway can allow calls."""
    async with asyncio.timeout(_WITHIN_S):
        while True:
            async with session.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Start store, upstream and gateway."""
    with tempfile.TemporaryDirectory(prefix="arx") as name, EmbeddedValkey(Path(name) / "valkey") as server:
        folder = Path(name)
        realm = GatewayRealm(folder, server.url, lease_ms=LEASE_MS)
        realm.write_service("stdio.json", journal="stdio-journal")
        words = ["-m", "tests.gateway.upstream_streams", str(folder / "runs"), str(_PAUSE_S), "10"]
        with running(words, folder / "upstream.log", ready="") as upstream:
            script = ROOT / "tests" / "gateway" / "upstream_watch.py"
            [port] = free_ports(1)
            text = _FILE.format(port=upstream.first_line, python=sys.executable, script=script, pause_s=_PAUSE_S)
            with gateway(realm.write(text, port=port), folder / "gateway.log"):
                yield Place(folder, server, port, realm)


def measure(on: Place, what: str, upstream: str, trials: int, late_ms: int = LATE_MS) -> dict[str, Any]:
    """Measure one row, and raise if a stream outlived the lease.

    Args:
        on: Where.
        what: ``kill``, ``STOPPED`` or ``KILLED``.
        upstream: ``http`` or ``stdio``.
        trials: How many.
        late_ms: How long after the lease a client may see a stream's end, ms; its process ran all that time.

    Raises:
        AssertionError: A stream did, or a call after it was allowed.
    """
    ends = {"kill": on.kill, STOPPED: on.stop, KILLED: on.end_store}
    mends = {"kill": lambda: None, STOPPED: on.proceed, KILLED: on.restart}
    closed: list[float] = []
    left: list[float] = []
    for _ in range(trials):
        seen = asyncio.run(on.trial(upstream, ends[what], mends[what]))
        closed += seen["closed_ms"]
        left += seen["left_ms"]
        assert max(left) <= LEASE_MS, f"an event passed after the lease: {max(left):.1f} ms"
        late = max(seen["closed_ms"]) - seen["paused_ms"]
        assert late <= LEASE_MS + late_ms, f"a stream outlived the lease: {late:.1f} ms"
        assert all(_is_refusal(answer) for answer in seen["answers"]), seen["answers"]
    return {
        "what": what,
        "upstream": upstream,
        "trials": trials,
        "left_ms": spread(left),
        "closed_ms": spread(closed),
        "late": sum(each > LEASE_MS for each in closed),
    }


def _is_refusal(answer: bytes) -> bool:
    message = json.loads(answer.removeprefix(b"data:"))
    return "error" in message or message.get("result", {}).get("isError") is True


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_gateway", description="Kill streams of a gateway.")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help="trials of each row over HTTP")
    trials = parser.parse_args().trials
    rows = []
    with place() as on:
        for upstream, count in (("http", trials), ("stdio", max(1, trials // 5))):
            for what in ("kill", STOPPED, KILLED):
                began = time.monotonic()
                rows.append(measure(on, what, upstream, count))
                say(f"{json.dumps(rows[-1])} in {time.monotonic() - began:.0f} s")
    print(f"{machine()}; L = {LEASE_MS} ms, {CLIENTS} clients stream, times in milliseconds\n")
    print("| what | upstream | trials | last event left, max | streams closed, p50 | p99 | max | after L |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        closed = " | ".join(f"{row['closed_ms'][name]:.1f}" for name in ("p50", "p99", "max"))
        first = f"{row['what']} | MCP over {row['upstream']} | {row['trials']} | {row['left_ms']['max']:.1f}"
        print(f"| {first} | {closed} | {row['late']} |")


if __name__ == "__main__":
    main()
