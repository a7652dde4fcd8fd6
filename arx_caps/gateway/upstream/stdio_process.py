# SPDX-License-Identifier: Apache-2.0
"""One process of an MCP server over stdio: its messages, and the requests that wait for them.

Ids and progress tokens get new values on their way, so that two clients cannot meet in one.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from typing import Any, Final

from arx_caps.gateway.base.leaks import Leaks
from arx_caps.gateway.base.settings import UpstreamTerms
from arx_caps.gateway.base.upstream_answer import UpstreamError
from arx_caps.gateway.upstream.stdio_answer import StdioAnswer
from arx_caps.gateway.upstream.stdio_log import StdioLog
from arx_caps.isolation.start import Isolation
from arx_caps.mcp.errors import INTERNAL_ERROR
from arx_caps.mcp.message import aside, object_in, object_of, written
from arx_verifier.errors import SettingsError

_STOP_S: Final = 3.0
_CHUNK_BYTES: Final = 64 * 1024
_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"  # of MCP 2026-07-28: the id of `subscriptions/listen`

# Of the command that ends a service of systemd: its result changes nothing here.
_QUIET: Final[dict[str, Any]] = {"check": False, "capture_output": True, "timeout": 10, "stdin": subprocess.DEVNULL}

_log = logging.getLogger(__name__)


class StdioProcess:
    """One running server, and the answers that wait for its messages.

    Args:
        name: The upstream's name, for errors.
        session: The id of its session.
        owner: Who has started it, as ``owner_of`` returns it.
        leaks: Finds secrets in what it writes.
        terms: The upstream's table.

    Attributes:
        name: As given.
        session: As given.
        owner: As given.
        used: When it last got a message, s of the event loop's clock.
        listening: The stream of the session, or None.
        waiting: The client's id, its progress token and the answer of each request, by the id that the process gets.
    """

    def __init__(self, name: str, session: str, owner: str, leaks: Leaks, terms: UpstreamTerms) -> None:
        self.name, self.session, self.owner, self._leaks, self._terms = name, session, owner, leaks, terms
        self.used = asyncio.get_running_loop().time()
        self.listening: StdioAnswer | None = None  # the stream of the session
        self.waiting: dict[
            int | None, tuple[Any, Any, StdioAnswer]
        ] = {}  # by the new id: old id, old progress token, answer
        self._numbers = itertools.count(1)

    async def start(self, isolation: Isolation) -> None:
        """Start the program.

        Args:
            isolation: How.

        Raises:
            UpstreamError: It cannot be started.
        """
        text = f"upstream {self.name} cannot be started"
        try:
            start = isolation.start()
            self._end = start.end
            self._process = await asyncio.create_subprocess_exec(
                *start.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=dict(isolation.environment),
                limit=_CHUNK_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            raise UpstreamError(f"{text}: {error.strerror}", sent=False, why=self._terms.command[0]) from None
        except SettingsError as error:
            raise UpstreamError(text, sent=False, why=str(error)) from None
        assert self._process.stderr is not None
        self._reader = asyncio.ensure_future(self._read())
        self._logger = asyncio.ensure_future(StdioLog(self.name, self._leaks).read(self._process.stderr))

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
            progress = object_in(params, "_meta").get("progressToken")
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
                message = await aside(len(line), object_of, line)
                if message is not None:  # what is no message is a program's own output
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
            if _SUBSCRIPTION in object_in(result := message.get("result"), "_meta"):
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
        if (subscription := object_in(params, "_meta").get(_SUBSCRIPTION)) is not None:
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
        self._logger.cancel()
        self._process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way

    def _kill(self) -> None:
        # With its children: a launcher such as npx or a shell leaves the server itself behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._end:
            end, self._end = self._end, ()
            asyncio.get_running_loop().run_in_executor(None, functools.partial(subprocess.run, end, **_QUIET))


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
