# SPDX-License-Identifier: Apache-2.0
"""An MCP server that the gateway starts and speaks to over stdio, as if it were one over HTTP.

Each session has a process of its own.  Messages of a revision without sessions go to a process of their caller.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from arx_caps.credentials.secret_source import Secret, read_secret
from arx_caps.gateway.base.bound_ids import agent_of
from arx_caps.gateway.base.leaks import Leaks
from arx_caps.gateway.base.rates import has_room
from arx_caps.gateway.base.settings import SOURCES, UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.upstream.credentials import LiveCall
from arx_caps.gateway.upstream.stdio_answer import STREAM, StdioAnswer, empty_answer, error_answer
from arx_caps.gateway.upstream.stdio_process import StdioProcess
from arx_caps.isolation.choice import isolate
from arx_caps.isolation.program import Program, account_of
from arx_caps.mcp.errors import INVALID_PARAMS, METHOD_NOT_FOUND, UNKNOWN_SESSION, status_of
from arx_caps.mcp.message import object_in
from arx_caps.mcp.revision import STATELESS

_PROCESSES: Final = 32  # of one agent at once: each `initialize` starts one
# What each request of MCP 2026-07-28 says of its client.
_ENVELOPE: Final = {
    "io.modelcontextprotocol/protocolVersion": str,
    "io.modelcontextprotocol/clientCapabilities": dict,
}

_log = logging.getLogger(__name__)


class StdioUpstream:
    """Starts the processes of one upstream and speaks to them; stands where a ``Forwarder`` does.

    Args:
        name: The upstream's name.
        terms: Its table; it has a command.
        folder: The folder of the gateway's file.
        protected: Files and folders that the program must not reach.

    Attributes:
        serves_one_holder: As of ``Forwarder``.
        isolation: How its processes are started.

    Raises:
        SettingsError: A secret cannot be read, there is no such program, or its isolation does not work.
    """

    serves_one_holder = True

    def __init__(self, name: str, terms: UpstreamTerms, folder: Path, protected: tuple[Path, ...] = ()) -> None:
        self.name, self._terms = name, terms
        own = {
            variable: read_secret(value, folder, f"upstream.{name}: env: {variable}: ")
            if value.startswith(SOURCES)
            else value
            for variable, value in terms.env.items()
        }
        self.isolation = isolate(_program(name, terms, folder, own, protected), terms.isolation)
        self._leaks = Leaks(name, [value for value in own.values() if isinstance(value, Secret)])
        self._sessions: dict[str, StdioProcess] = {}
        self._callers: dict[str, StdioProcess] = {}
        self._starting = asyncio.Lock()

    def open(self) -> None:
        """Start ending processes without use for long; call it in the event loop."""
        if self.isolation.kind == "none":
            _log.warning(
                'upstream %s: isolation = "none": its program can read the keys and secrets of this gateway', self.name
            )
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def close(self) -> None:
        """End all processes."""
        self._sweeper.cancel()
        processes = [*self._sessions.values(), *self._callers.values()]
        self._sessions.clear()
        self._callers.clear()
        await asyncio.gather(*(process.stop() for process in processes))
        self.isolation.close()

    @asynccontextmanager
    async def send(
        self,
        method: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        owner: str,
        *,
        call: LiveCall | None,  # noqa: ARG002 - see ``_watch_mistakes`` of the settings
    ) -> AsyncIterator[StdioAnswer]:
        """Send a message to a process, as ``Forwarder.send`` sends a request.

        Args:
            method: The method of the HTTP request.
            headers: Its headers.
            body: Its body.
            owner: Who sends it.
            call: Not used: a program has its credentials for each call, so that no such upstream watches.

        Raises:
            UpstreamError: No process takes it, or it does not answer in time.
        """
        found = dict(headers)
        session = found.get(b"mcp-session-id", b"").decode("latin-1")
        message = json.loads(body) if body else {}
        is_stateless = not session and found.get(b"mcp-protocol-version", b"").decode("latin-1") >= STATELESS
        if is_stateless and (fault := _fault(message)):
            yield error_answer(status_of(fault[0]), message, *fault)
            return
        process = await self._process(session, message, is_stateless, owner)
        if process is None:
            yield error_answer(404, message, UNKNOWN_SESSION, "expected a session that runs: initialize again")
        elif method == "DELETE":
            self._sessions.pop(session, None)
            await process.stop()
            yield empty_answer(200)
        elif method == "GET":
            process.listening = answer = StdioAnswer(200, content_type=STREAM)
            try:
                yield answer
            finally:
                answer.close()
                if process.listening is answer:  # a later request may have taken its place
                    process.listening = None
        elif "method" not in message or "id" not in message:
            await process.send(message, None)
            yield empty_answer(202)
        else:
            async with self._request(process, message, session, is_stateless) as answer:
                yield answer

    @asynccontextmanager
    async def _request(
        self, process: StdioProcess, message: dict[str, Any], session: str, is_stateless: bool
    ) -> AsyncIterator[StdioAnswer]:
        begins = message["method"] == "initialize" and not session
        answer = StdioAnswer(200, process.session if begins else None, is_stateless=is_stateless)
        number = await process.send(message, answer)
        try:
            try:
                await asyncio.wait_for(answer.begin(), self._terms.timeout_s)
            except TimeoutError:
                raise UpstreamError(f"upstream {self.name} did not answer in time", sent=True, timed_out=True) from None
            yield answer
        finally:
            answer.close()
            if process.waiting.pop(number, None) is not None:
                params = {"requestId": number, "reason": "the caller is gone or may not go on"}
                note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
                process.notify(note)  # the end of a call must not wait for a process

    async def _process(
        self, session: str, message: dict[str, Any], is_stateless: bool, owner: str
    ) -> StdioProcess | None:
        """Return the process for a message; None for a session that does not run."""
        if session:
            process = self._sessions.get(session)
            if process is None or process.runs:
                return process
            del self._sessions[session]
            return None
        if message.get("method") == "initialize":
            async with self._starting:
                process = await self._start(owner)
                self._sessions[process.session] = process
            return process
        if not is_stateless:
            return None
        # Under the lock: of two that start at once, one would be in no table, and nothing would end it.
        async with self._starting:
            process = self._callers.get(owner)
            if process is None or not process.runs:
                process = self._callers[owner] = await self._start(owner)
        return process

    async def _start(self, owner: str) -> StdioProcess:
        agent, person = agent_of(owner)
        processes = (*self._sessions.values(), *self._callers.values())
        running = [agent_of(process.owner) for process in processes if process.runs]
        every, own = [each for each in running if each[0] == agent], running.count((agent, person))
        if not has_room(own, len(every), _PROCESSES, person):
            text = f"{own} processes of this person" if person else f"{own} processes of this agent"
            raise UpstreamError(f"upstream {self.name} has {text}: end a session", sent=False)
        process = StdioProcess(self.name, secrets.token_urlsafe(18), owner, self._leaks, self._terms)
        await process.start(self.isolation)
        return process

    async def end_work(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        note: bytes,  # noqa: ARG002
        owner: str,
        *,
        call: LiveCall | None,  # noqa: ARG002
    ) -> None:
        """End the process of a call that the gateway has ended: its result has no reader.

        Args:
            headers: Of the call.
            note: For an upstream over HTTP.
            owner: Who made the call.
            call: For an upstream over HTTP.
        """
        session = dict(headers).get(b"mcp-session-id", b"").decode("latin-1")
        process = self._sessions.pop(session, None) if session else self._callers.pop(owner, None)
        if process is not None:
            await process.stop()

    async def _sweep(self) -> None:
        idle_s = 10 * self._terms.timeout_s
        while True:
            await asyncio.sleep(self._terms.timeout_s)
            now = asyncio.get_running_loop().time()
            for table in (self._sessions, self._callers):
                for key, process in list(table.items()):
                    busy = process.waiting or process.listening is not None
                    if not process.runs or (not busy and now - process.used > idle_s):
                        del table[key]
                        await process.stop()

    def __repr__(self) -> str:
        return f"<StdioUpstream {self.name}>"


def _program(
    name: str, terms: UpstreamTerms, folder: Path, environment: dict[str, str], protected: tuple[Path, ...]
) -> Program:
    place = f"upstream.{name}"
    home = folder / (terms.home or f"servers/{name}")
    if terms.user and terms.home is None:
        home = Path(account_of(place, terms.user).pw_dir)  # it cannot use a folder of the gateway
    return Program(
        name=place,
        command=terms.command,
        environment=environment,
        home=home.absolute(),
        user=terms.user,
        reads=tuple((folder / path).absolute() for path in terms.reads),
        writes=tuple((folder / path).absolute() for path in terms.writes),
        protected=protected,
    )


def _fault(message: dict[str, Any]) -> tuple[int, str] | None:
    """Return the code and the text of what MCP 2026-07-28 refuses of a request, whatever the server is.

    A process speaks the revision of its first request: one that names none would close it to all later ones.
    """
    if message.get("method") == "initialize":
        return METHOD_NOT_FOUND, "initialize: MCP 2026-07-28 has no sessions"
    if "method" in message and "id" in message:
        meta = object_in(message.get("params"), "_meta")
        for member, kind in _ENVELOPE.items():
            if not isinstance(meta.get(member), kind):
                return INVALID_PARAMS, f"_meta: expected {member}"
    return None
