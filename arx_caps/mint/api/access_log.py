# SPDX-License-Identifier: Apache-2.0
"""Give each request an id; count it and log one line when it is answered.  CONTROL 4.6.

A line names the kind of caller, the route and the outcome.  It has no path, query, header or body.
"""

import json
import logging
import secrets
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID: Final = "X-Request-Id"
UNKNOWN: Final = "(none)"  # the route of a path that no route serves
NOTES: Final = "arx.notes"  # the member of a request's scope with the facts for its line
# A client chooses the method: any other one counts as OTHER, or labels without end would fill the memory.
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

log: Final = logging.getLogger("arx.mint.requests")


def note(request: Request, **facts: Any) -> None:
    """Add facts about a request to its line and its count.

    Args:
        request: The request.
        **facts: ``route``, ``code`` or ``caller``; no secret and nothing that names an agent.
    """
    request.scope.setdefault(NOTES, {}).update(facts)


def id_of(request: Request) -> str | None:
    """Return a request's id, or None before it has one."""
    number: str | None = request.scope.get(NOTES, {}).get("request")
    return number


class AccessLog:
    """Middleware that counts and logs each request.

    Args:
        app: The application.
        count: Counts an answered request; see ``Metrics.count``.
    """

    def __init__(self, app: ASGIApp, count: Callable[[str, str, int, str | None, float], None]) -> None:
        self._app, self._count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and record its answer's status and duration."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        # Made here and not taken from a header, in which a client could repeat another request's id.
        notes: dict[str, Any] = {"request": secrets.token_hex(8)}
        scope[NOTES] = notes
        status = 500  # the status if the application fails before its answer

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID.lower().encode(), notes["request"].encode())]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            # Also when the application failed: a failure without a line could not be found.
            self._record(scope["method"], notes, status, time.perf_counter() - began)

    def _record(self, method: str, notes: dict[str, Any], status: int, seconds: float) -> None:
        method = method if method in METHODS else "OTHER"
        route, code = notes.pop("route", UNKNOWN), notes.get("code")
        self._count(method, route, status, code, seconds)
        level = logging.ERROR if status >= 500 else logging.INFO
        if log.isEnabledFor(level):
            facts = {**notes, "method": method, "route": route, "status": status, "ms": round(seconds * 1000, 2)}
            log.log(level, "request", extra={"facts": facts})


class JsonLines(logging.Formatter):
    """Formatter that writes a record as one line of JSON: time, level, event, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[1] is not None:
            # Places and the error's type, but not its text, which could quote a token or a key.
            frames = traceback.extract_tb(record.exc_info[2])
            line["error"] = type(record.exc_info[1]).__name__
            line["at"] = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        return json.dumps(line)


def log_lines(level: str) -> None:
    """Make the whole process log lines of JSON on stderr.

    Args:
        level: ``info`` for a line for each request, ``warning`` for failures only.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    # Other handlers are removed: they would write errors with their texts.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(level.upper())
