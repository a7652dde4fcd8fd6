# SPDX-License-Identifier: Apache-2.0
"""Mints that are killed in the middle of one request: ``python -m tests.mint.crashing``.

Reads an order a line, and for each forks a process that starts the realm's mint, hands it one request, and kills itself
(SIGKILL) before the n-th step of that request: a statement that writes or its commit on its way to the database, bytes
on their way to the store, bytes just sent there, the answer on its way to the client.  What only reads is no step: a
death before it leaves what a death before the next step does.  Writes what was answered, or null.
"""

import json
import os
import signal
import sys
import threading
from typing import Any

import anyio._backends._asyncio
import anyio.streams.tls  # noqa: F401  what a first request loads, once for all
from redis.connection import Connection
from sqlalchemy import event
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from arx_caps.database.commit_watch import URGENT
from arx_caps.mint.api.app import create_app
from arx_caps.mint.runtime import MintRuntime
from arx_caps.settings.realm import Realm

WRITES = ("INSERT", "UPDATE", "DELETE")
# The threads that answer requests, kills among them; what others do at the time is no step of a request.
WORKERS = ("arx-mint-call", URGENT)


class Steps:
    """Counts the steps of a request, and kills before the last one that is let be."""

    def __init__(self) -> None:
        self.left = 0  # not counting

    def take(self, *_: Any, **__: Any) -> None:
        """One more step."""
        if self.left and threading.current_thread().name.startswith(WORKERS):
            self.answering()

    def answering(self) -> None:
        """One more step, in whatever thread."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


STEPS = Steps()


def statement(connection: Any, cursor: Any, text: str, *_: Any) -> None:
    """A step where it writes."""
    if text.startswith(WRITES):
        connection.info["wrote"] = True
        STEPS.take()


def commit(connection: Any) -> None:
    """A step where there is anything to commit."""
    if connection.info.pop("wrote", False):
        STEPS.take()


def watch() -> None:
    """Have every step counted."""
    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)
    send = Connection.send_packed_command

    def counted(self: Connection, *args: Any, **kwargs: Any) -> None:
        STEPS.take()
        send(self, *args, **kwargs)
        STEPS.take()

    Connection.send_packed_command = counted  # type: ignore[method-assign]


def answer(order: dict[str, Any], out: int) -> None:
    """Serve one request in this process, which ends with it."""
    mint = MintRuntime.open(Realm.open(order["realm"]), store_url=order["store"])
    with TestClient(create_app(mint), base_url=mint.realm.issuer, raise_server_exceptions=False) as client:
        STEPS.left = order["step"]
        answered = client.request(order["method"], order["path"], json=order["body"], headers=order["headers"])
        STEPS.answering()
        os.write(out, json.dumps({"status": answered.status_code, "body": answered.json()}).encode())
        os._exit(0)


def main() -> None:
    """Take orders until there are no more."""
    watch()
    for line in sys.stdin:
        into, out = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(into)
            try:
                answer(json.loads(line), out)
            finally:
                os._exit(1)
        os.close(out)
        with os.fdopen(into) as output:
            text = output.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code, "said": json.loads(text) if text else None}), flush=True)


if __name__ == "__main__":
    main()
