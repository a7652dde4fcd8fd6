# SPDX-License-Identifier: Apache-2.0
"""An MCP server that the gateway starts and speaks to over stdio, as if it were one over HTTP.

Each session has a process of its own.  Messages of a revision without sessions go to a process of their caller.  Ids
and progress tokens get new values on their way, so that two clients cannot meet in one.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import secrets
import shutil
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from arx_caps.gateway.bound_ids import agent_of
from arx_caps.gateway.credentials import Secret, read_secret
from arx_caps.gateway.leaks import Leaks
from arx_caps.gateway.mcp_wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    STATELESS,
    UNKNOWN_SESSION,
    status_of,
    written,
)
from arx_caps.gateway.settings import SOURCES, UpstreamTerms
from arx_caps.gateway.upstream_answer import UpstreamError
from arx_verifier.errors import SettingsError

_INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "USER")  # what a program needs, no secret
_STOP_S: Final = 3.0
_PROCESSES: Final = 32  # of one agent at once: each `initialize` starts one
_WAITING_BYTES: Final = 256 * 1024  # of messages that a client has not read; more stay in the server's pipe
_CHUNK_BYTES: Final = 64 * 1024
_STREAM: Final = "text/event-stream"
_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"  # of MCP 2026-07-28: the id of `subscriptions/listen`
# What each request of MCP 2026-07-28 says of its client.
_ENVELOPE: Final = {
    "io.modelcontextprotocol/protocolVersion": str,
    "io.modelcontextprotocol/clientCapabilities": dict,
}

_log = logging.getLogger(__name__)


class StdioAnswer:
    """An answer of a process, with the members of an HTTP answer that the gateway reads.

    Args:
        status: Its status.
        session: The id of the session that it begins, or None.
        content_type: JSON for one message, a stream for several.
        is_stateless: Whether an error has a status of its own, as from MCP 2026-07-28 on.

    Attributes:
        status: Its status.
        session: The id of the session that it begins, or None.
        content_type: JSON for one message, a stream for several.
    """

    def __init__(
        self,
        status: int,
        session: str | None = None,
        content_type: str = "application/json",
        is_stateless: bool = False,
    ) -> None:
        self.status: int = status
        self.content_type: str = content_type
        self.session, self._is_stateless = session, is_stateless
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._first: list[bytes | None] = []
        self._waiting, self._has_begun, self._is_open, self._room = 0, False, True, asyncio.Event()

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Its headers."""
        session = ((b"mcp-session-id", self.session.encode()),) if self.session is not None else ()
        return ((b"content-type", self.content_type.encode()), *session)

    @property
    def content(self) -> "StdioAnswer":
        """What has ``iter_any``."""
        return self

    def put(self, *messages: dict[str, Any] | None) -> None:
        """Add messages; None is the end.  A first one that answers nothing makes it a stream."""
        for message in messages:
            if not self._has_begun and message and "method" in message:
                self.content_type = _STREAM
            elif not self._has_begun and message and self._is_stateless and isinstance(message.get("error"), dict):
                self.status = status_of(message["error"].get("code"))
            self._has_begun = True
            text = None if message is None else written(message)
            self._waiting += len(text or b"")
            self._messages.put_nowait(text)

    async def put_slowly(self, message: dict[str, Any]) -> None:
        """Add a message once the client has read enough of those before, or reads no more."""
        while self._is_open and self._waiting > _WAITING_BYTES:
            self._room.clear()
            await self._room.wait()
        if self._is_open:
            self.put(message)

    def close(self) -> None:
        """Take no more messages of a stream: nothing waits for its client any longer."""
        self._is_open = False
        self._room.set()

    async def begin(self) -> None:
        """Wait for the first message: if it is the answer, it is the only one."""
        self._first.append(await self._messages.get())

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body in parts."""
        while (text := self._first.pop() if self._first else await self._messages.get()) is not None:
            self._waiting -= len(text)
            self._room.set()
            yield b"event: message\ndata: " + text + b"\n\n" if self.content_type == _STREAM else text


class _Process:
    """One running server, and the answers that wait for its messages."""

    def __init__(self, name: str, session: str, owner: str, leaks: Leaks, terms: UpstreamTerms) -> None:
        self.name, self.session, self.owner, self._leaks, self._terms = name, session, owner, leaks, terms
        self.used = asyncio.get_running_loop().time()
        self.listening: StdioAnswer | None = None  # the stream of the session
        self.waiting: dict[
            int | None, tuple[Any, Any, StdioAnswer]
        ] = {}  # by the new id: old id, old progress token, answer
        self._numbers = itertools.count(1)

    async def start(self, environment: dict[str, str]) -> None:
        """Start the program.

        Raises:
            UpstreamError: It cannot be started.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._terms.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
                limit=_CHUNK_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            text = f"upstream {self.name} cannot be started: {error.strerror}"
            raise UpstreamError(text, sent=False, why=self._terms.command[0]) from None
        self._reader = asyncio.ensure_future(self._read())

    @property
    def runs(self) -> bool:
        """Whether it takes messages."""
        return not self._reader.done()

    async def send(self, message: dict[str, Any], answer: StdioAnswer | None) -> int | None:
        """Send a message; its id and progress token are replaced.

        Returns:
            The new id of a request.

        Raises:
            UpstreamError: The process has ended.
        """
        number = None
        self.used = asyncio.get_running_loop().time()
        params = message.get("params")
        if answer is not None:
            number = next(self._numbers)
            meta = params.get("_meta") if isinstance(params, dict) else None
            progress = meta.get("progressToken") if isinstance(meta, dict) else None
            self.waiting[number] = (message["id"], progress, answer)
            message = {**message, "id": number}
            if progress is not None:
                message["params"] = {
                    **message["params"],
                    "_meta": {**message["params"]["_meta"], "progressToken": number},
                }
        elif message.get("method") == "notifications/cancelled" and isinstance(params, dict):
            ids = [new for new, (old, _, _) in self.waiting.items() if old == params.get("requestId")]
            if not ids:
                return None
            message = {**message, "params": {**params, "requestId": ids[-1]}}
        try:
            await self.write(message)
        except BaseException:
            self.waiting.pop(number, None)  # nothing is going to answer it
            raise
        return number

    async def write(self, message: dict[str, Any]) -> None:
        """Write a message; a process that does not read it in time is ended.

        Raises:
            UpstreamError: The process has ended.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(written(message) + b"\n")
            async with asyncio.timeout(self._terms.timeout_s):
                await stdin.drain()
        except TimeoutError:
            self._kill()  # later messages would fill the memory behind this one
            raise UpstreamError(f"upstream {self.name} did not read in time", sent=True, timed_out=True) from None
        except OSError:
            raise UpstreamError(f"upstream {self.name} has ended", sent=False) from None

    def notify(self, message: dict[str, Any]) -> None:
        """Write a short message without waiting for the process to read it."""
        stdin = self._process.stdin
        if self.runs and stdin is not None and not stdin.is_closing():
            stdin.write(written(message) + b"\n")

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            async for line in _lines(stdout, self._terms.max_answer):
                with contextlib.suppress(ValueError, RecursionError):  # what is no message is a program's own output
                    message = json.loads(line)
                    if isinstance(message, dict):
                        await self._deliver(self._without_secrets(message))
        except asyncio.LimitOverrunError:
            _log.error("upstream %s wrote a line that is longer than max_answer; it is ended", self.name)
        finally:
            self._kill()
            for number in list(self.waiting):
                error = {
                    "code": INTERNAL_ERROR,
                    "message": f"upstream {self.name} has ended",
                    "data": {"may_have_run": True},
                }
                await self._deliver({"jsonrpc": "2.0", "id": number, "error": error})
            if self.listening is not None:
                self.listening.put(None)

    def _without_secrets(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return a message, or an error in the place of one that has a secret of the environment in it."""
        if not self._leaks or not self._leaks.are_in(written(message)):
            return message
        error = {"code": INTERNAL_ERROR, "message": str(self._leaks.error()), "data": {"may_have_run": True}}
        # One that is no answer is dropped: its id is the server's own.
        return {"jsonrpc": "2.0", "id": None if "method" in message else message.get("id"), "error": error}

    async def _deliver(self, message: dict[str, Any]) -> None:
        number, params = message.get("id"), message.get("params")
        if "method" not in message:
            if type(number) is not int or number not in self.waiting:  # true is no 1
                return
            old, _, answer = self.waiting.pop(number)
            if _SUBSCRIPTION in _meta_of(result := message.get("result")):
                message = {**message, "result": _subscribed(result, old)}
            answer.put({**message, "id": old}, None)
            return
        if message["method"] == "notifications/progress" and isinstance(params, dict):
            progress = params.get("progressToken")
            if type(progress) is not int or progress not in self.waiting:
                return
            _, token, answer = self.waiting[progress]
            await answer.put_slowly({**message, "params": {**params, "progressToken": token}})
            return
        if (subscription := _meta_of(params).get(_SUBSCRIPTION)) is not None:
            if type(subscription) is int and subscription in self.waiting:
                old, _, answer = self.waiting[subscription]
                await answer.put_slowly({**message, "params": _subscribed(params, old)})
            return
        # Over a pipe a server does not say which request a message of its own is about.
        target = self.listening or next((answer for _, _, answer in reversed(self.waiting.values())), None)
        if target is not None:
            await target.put_slowly(message)

    async def stop(self) -> None:
        """End it: first by the end of its input, as the specification says."""
        answers = [answer for _, _, answer in self.waiting.values()]
        for answer in answers if self.listening is None else [*answers, self.listening]:
            answer.close()  # the reader would wait for its client
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _STOP_S)
        self._kill()
        # A child that has left the group may hold the pipe open for as long as it runs.
        await asyncio.wait({self._reader, asyncio.ensure_future(self._process.wait())}, timeout=_STOP_S)
        self._reader.cancel()
        self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way

    def _kill(self) -> None:
        # With its children: a launcher such as npx or a shell leaves the server itself behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class StdioUpstream:
    """Starts the processes of one upstream and speaks to them; stands where a ``Forwarder`` does.

    Args:
        name: The upstream's name.
        terms: Its table; it has a command.
        folder: The folder of the gateway's file.

    Attributes:
        serves_one_holder: As of ``Forwarder``.

    Raises:
        SettingsError: A secret cannot be read, or there is no such program.
    """

    serves_one_holder = True

    def __init__(self, name: str, terms: UpstreamTerms, folder: Path) -> None:
        self.name, self._terms = name, terms
        own = {
            variable: read_secret(value, folder, f"upstream.{name}: env: {variable}: ")
            if value.startswith(SOURCES)
            else value
            for variable, value in terms.env.items()
        }
        self._environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | own
        if shutil.which(terms.command[0], path=self._environment.get("PATH")) is None:
            raise SettingsError(f"upstream.{name}: command: {terms.command[0]}: expected a program, found none")
        self._leaks = Leaks(name, [value for value in own.values() if isinstance(value, Secret)])
        self._sessions: dict[str, _Process] = {}
        self._callers: dict[str, _Process] = {}
        self._starting = asyncio.Lock()

    def open(self) -> None:
        """Start ending processes without use for long; call it in the event loop."""
        self._sweeper = asyncio.ensure_future(self._sweep())

    async def close(self) -> None:
        """End all processes."""
        self._sweeper.cancel()
        processes = [*self._sessions.values(), *self._callers.values()]
        self._sessions.clear()
        self._callers.clear()
        await asyncio.gather(*(process.stop() for process in processes))

    @asynccontextmanager
    async def send(
        self, method: str, headers: Iterable[tuple[bytes, bytes]], body: bytes, owner: str
    ) -> AsyncIterator[StdioAnswer]:
        """Send a message to a process, as ``Forwarder.send`` sends a request.

        Args:
            method: The method of the HTTP request.
            headers: Its headers.
            body: Its body.
            owner: Who sends it.

        Raises:
            UpstreamError: No process takes it, or it does not answer in time.
        """
        found = dict(headers)
        session = found.get(b"mcp-session-id", b"").decode("latin-1")
        message = json.loads(body) if body else {}
        is_stateless = not session and found.get(b"mcp-protocol-version", b"").decode("latin-1") >= STATELESS
        if is_stateless and (fault := _fault(message)):
            yield _error(status_of(fault[0]), message, *fault)
            return
        process = await self._process(session, message, is_stateless, owner)
        if process is None:
            yield _error(404, message, UNKNOWN_SESSION, "expected a session that runs: initialize again")
        elif method == "DELETE":
            self._sessions.pop(session, None)
            await process.stop()
            yield _empty(200)
        elif method == "GET":
            process.listening = answer = StdioAnswer(200, content_type=_STREAM)
            try:
                yield answer
            finally:
                answer.close()
                if process.listening is answer:  # a later request may have taken its place
                    process.listening = None
        elif "method" not in message or "id" not in message:
            await process.send(message, None)
            yield _empty(202)
        else:
            async with self._request(process, message, session, is_stateless) as answer:
                yield answer

    @asynccontextmanager
    async def _request(
        self, process: _Process, message: dict[str, Any], session: str, is_stateless: bool
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

    async def _process(self, session: str, message: dict[str, Any], is_stateless: bool, owner: str) -> _Process | None:
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

    async def _start(self, owner: str) -> _Process:
        agent = agent_of(owner)
        processes = (*self._sessions.values(), *self._callers.values())
        if sum(process.runs and agent_of(process.owner) == agent for process in processes) >= _PROCESSES:
            raise UpstreamError(
                f"upstream {self.name} has {_PROCESSES} processes of this agent: end a session", sent=False
            )
        process = _Process(self.name, secrets.token_urlsafe(18), owner, self._leaks, self._terms)
        await process.start(self._environment)
        return process

    async def end_work(self, headers: Iterable[tuple[bytes, bytes]], note: bytes, owner: str) -> None:  # noqa: ARG002
        """End the process of a call that the gateway has ended: its result has no reader.

        Args:
            headers: Of the call.
            note: For an upstream over HTTP.
            owner: Who made the call.
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


def _meta_of(part: Any) -> dict[str, Any]:
    """Return `_meta` of the parameters of a message, or of its result."""
    meta = part.get("_meta") if isinstance(part, dict) else None
    return meta if isinstance(meta, dict) else {}


def _subscribed(part: Any, subscription: Any) -> dict[str, Any]:
    """Return parameters or a result that names its subscription as the client does."""
    return {**part, "_meta": {**part["_meta"], _SUBSCRIPTION: subscription}}


async def _lines(stream: asyncio.StreamReader, longest: int) -> AsyncIterator[bytes]:
    """Yield the lines of a stream.

    Raises:
        LimitOverrunError: One is longer than ``longest``.
    """
    # With the limit of a StreamReader, as much as twice the longest line would wait in memory.
    kept = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield bytes(kept + line)
            kept.clear()
        kept += rest
        if len(kept) > longest:
            raise asyncio.LimitOverrunError("a line is too long", len(kept))
    if kept:
        yield bytes(kept)


def _fault(message: dict[str, Any]) -> tuple[int, str] | None:
    """Return the code and the text of what MCP 2026-07-28 refuses of a request, whatever the server is.

    A process speaks the revision of its first request: one that names none would close it to all later ones.
    """
    if message.get("method") == "initialize":
        return METHOD_NOT_FOUND, "initialize: MCP 2026-07-28 has no sessions"
    if "method" in message and "id" in message:
        meta = _meta_of(message.get("params"))
        for member, kind in _ENVELOPE.items():
            if not isinstance(meta.get(member), kind):
                return INVALID_PARAMS, f"_meta: expected {member}"
    return None


def _error(status: int, message: dict[str, Any], code: int, text: str) -> StdioAnswer:
    answer = StdioAnswer(status)
    answer.put({"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": code, "message": text}}, None)
    return answer


def _empty(status: int) -> StdioAnswer:
    answer = StdioAnswer(status)
    answer.put(None)
    return answer
