# SPDX-License-Identifier: Apache-2.0
"""Agents who call a real mint over HTTP, one request after the other each, all at the same time.

A connection each, and as little work of their own as can be: a request is signed before its time is taken.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion, make_dpop
from tests.mint.harness import ISSUER, LOOKUP, now_ms

Request = tuple[str, str, SigningKey, str | None, dict[str, Any] | None]


class Wire:
    """One connection.

    Args:
        url: Where the mint listens.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self.took_ms: list[float] = []

    async def open(self) -> "Wire":
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def call(self, request: Request) -> Any:
        """Make one call, note how long its answer took, and return it."""
        raw = write(request)
        began = time.perf_counter()
        self._writer.write(raw)
        head = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = await self._reader.readexactly(int(fields[b"content-length"]))
        self.took_ms.append((time.perf_counter() - began) * 1000)
        assert head.split(b" ", 2)[1] in (b"200", b"201"), body.decode()
        return json.loads(body)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def write(request: Request) -> bytes:
    """Sign a request and write it."""
    method, path, key, token, body = request
    proof = make_dpop(key, method=method, url=ISSUER + path, now=now_ms(), token=token)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(ISSUER).netloc}", f"DPoP: {proof}"]
    lines += [f"Authorization: DPoP {token}"] if token is not None else []
    said = json.dumps(body).encode() if body is not None else b""
    lines += ["Content-Type: application/json", f"Content-Length: {len(said)}"] if body is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + said


class Agent:
    """One agent, its newest session, and what it asks for next."""

    def __init__(self, wire: Wire, key: KeyFile) -> None:
        self.wire, self._key = wire, key
        self._session_key, self.session, self._token = SigningKey.generate(), "", ""

    async def open(self) -> None:
        """Open a session with a key of its own."""
        self._session_key = SigningKey.generate()
        assertion = make_assertion(self._key, audience=ISSUER, now=now_ms(), session_key=self._session_key.public)
        self._take(await self.wire.call(("POST", "/v1/sessions", self._session_key, None, {"assertion": assertion})))

    async def start(self) -> None:
        """Start a task."""
        told = await self.wire.call(("POST", "/v1/tasks", self._session_key, self._token, LOOKUP))
        assert told["bundle"]

    async def renew(self) -> None:
        """Renew the session."""
        self._take(
            await self.wire.call(("POST", f"/v1/sessions/{self.session}/renew", self._session_key, self._token, None))
        )

    def _take(self, told: Any) -> None:
        self.session, self._token = told["session"]["id"], told["token"]


STEPS: dict[str, Callable[[Agent], Any]] = {
    "open a session": Agent.open,
    "start a task": Agent.start,
    "renew a session": Agent.renew,
}


def measure(url: str, keys: Sequence[KeyFile], rounds: int, cpu_s: Callable[[], float]) -> list[dict[str, Any]]:
    """Let so many agents do each step so often.

    Returns:
        For each step all times (ms), how long it took altogether (s), and the mint's processor time for each call (ms).
    """
    return asyncio.run(_measure(url, keys, rounds, cpu_s))


async def _measure(url: str, keys: Sequence[KeyFile], rounds: int, cpu_s: Callable[[], float]) -> list[dict[str, Any]]:
    agents = [Agent(await Wire(url).open(), key) for key in keys]
    for agent in agents:
        await agent.open()
    rows = []
    for what, step in STEPS.items():
        for agent in agents:
            agent.wire.took_ms.clear()
        used, began = cpu_s(), time.perf_counter()
        await asyncio.gather(*(_repeat(agent, step, rounds) for agent in agents))
        took_s, used = time.perf_counter() - began, cpu_s() - used
        times = [one for agent in agents for one in agent.wire.took_ms]
        rows.append({"what": what, "took_s": took_s, "cpu_ms": used / len(times) * 1000, "times_ms": times})
    for agent in agents:
        agent.wire.close()
    return rows


async def _repeat(agent: Agent, step: Callable[[Agent], Any], rounds: int) -> None:
    for _ in range(rounds):
        await step(agent)
