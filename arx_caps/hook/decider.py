# SPDX-License-Identifier: Apache-2.0
"""The process that decides on the calls of hooks: a verifier behind a Unix socket.

A question is one line of JSON, ``{"token": …, "tool": …, "args": …}``.  The answer is ``{"code": "ok", "decision": …}``
or the problem of a refusal, and each decision is recorded before it is answered.
"""

import asyncio
import contextlib
import grp
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from arx_caps.hook.judges import MAX_LINE
from arx_caps.http.process import open_unix_listener
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.base.enforcement import Enforcement, RefusedCall
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.request import AccessRequest, read_json_object
from arx_verifier.service import open_verifier, read_service_file
from arx_verifier.verification.verifier import Verifier

_QUESTION_S: Final = 10.0  # from the connection to the end of the question
_MOST: Final = 64  # connections at once: each may hold a question of MAX_LINE


@contextlib.contextmanager
def bind_decider(path: Path, group: str | None = None) -> Iterator[socket.socket]:
    """Listen at a Unix socket, which is removed at the end.

    Args:
        path: The socket.
        group: The group whose users may connect besides this one; None for none.

    Raises:
        SettingsError: Another process has it, there is no such group, or it cannot be made.
    """
    try:
        gid = None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingsError(f"--group: expected a group of this machine, got {group}") from None
    with open_unix_listener(path, _MOST) as listener:
        try:
            made = path.stat()
            if gid is not None:
                os.chown(path, -1, gid)
                path.chmod(0o660)
        except OSError as error:
            raise SettingsError(f"{path}: cannot listen: {error.strerror or error}") from None
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):  # another process may have its own there by now
                if os.path.samestat(made, path.stat()):
                    path.unlink()


def serve_decider(service: Path, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Decide on calls until SIGINT or SIGTERM.

    Args:
        service: The service file of the audience.
        listener: The socket.
        on_ready: Called with the audience when calls can be decided on.

    Raises:
        ArxError: The service file, the store or the journal cannot be used.
    """
    file, verifier = read_service_file(service), open_verifier(service)
    try:
        verifier.start()
        asyncio.run(_serve(verifier, listener, lambda: on_ready(file.audience)))
    finally:
        verifier.close()


async def _serve(verifier: Verifier, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    stop, places = asyncio.Event(), asyncio.Semaphore(_MOST)
    loop, enforcement = asyncio.get_running_loop(), Enforcement(verifier)
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop.set)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with places, asyncio.timeout(_QUESTION_S):
                line = await reader.readuntil(b"\n")
            writer.write(await _answer(enforcement, line) + b"\n")
            await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # the hook refuses a call without an answer
        finally:
            writer.close()

    server = await asyncio.start_unix_server(handle, sock=listener, limit=MAX_LINE)
    on_ready()
    async with server:
        await stop.wait()


async def _answer(enforcement: Enforcement, line: bytes) -> bytes:
    try:
        question = read_json_object(line)
        token, tool, args = question.get("token"), question.get("tool"), question.get("args")
        if not isinstance(tool, str) or not isinstance(args, dict):
            raise RequestError("expected the text `tool` and the object `args`")
        request = AccessRequest(tool, args, now_ms())
        decision = await enforcement.decide_async(token, request)
        enforcement.require(decision, request)
        return json.dumps({"code": "ok", "decision": decision.id}).encode()
    except RefusedCall as refused:
        return enforcement.answer(refused).body
    except RequestError as error:
        return enforcement.answer(RefusedCall("malformed_request", str(error))).body
