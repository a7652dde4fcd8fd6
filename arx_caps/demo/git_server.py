# SPDX-License-Identifier: Apache-2.0
"""Serve bare repositories by `git http-backend`: ``python -m arx_caps.demo.git_server FOLDER PORT FILE``.

FILE has the credentials (HTTP Basic) that each request needs.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

_PART: Final = 1 << 16


class HttpBackend:
    """The ASGI application.

    Args:
        folder: Has the repositories.
        basic: What the header `Authorization` has behind `Basic`; empty to let all clients read and write.
    """

    def __init__(self, folder: Path, basic: str = "") -> None:
        self._basic = basic
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self._environment |= {"GIT_PROJECT_ROOT": str(folder), "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": "gateway"}
        self._environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self._basic and headers.get("authorization") != f"Basic {self._basic}":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        variables = {"PATH_INFO": scope["path"], "REQUEST_METHOD": scope["method"]}
        variables["QUERY_STRING"] = scope["query_string"].decode()
        named = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
        named |= {"content-encoding": "HTTP_CONTENT_ENCODING", "git-protocol": "HTTP_GIT_PROTOCOL"}
        variables |= {variable: headers[name] for name, variable in named.items() if name in headers}
        program = await asyncio.create_subprocess_exec(
            *("git", "http-backend"),
            env=self._environment | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert program.stdout is not None
        feeding = asyncio.ensure_future(_feed(receive, program))
        head = (await program.stdout.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        found = [tuple(line.split(": ", 1)) for line in head]
        status = next((int(value.split()[0]) for name, value in found if name == "Status"), 200)
        sent = [(name.lower().encode(), value.encode()) for name, value in found if name != "Status"]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        while part := await program.stdout.read(_PART):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        feeding.cancel()
        await program.wait()


async def _feed(receive: Any, program: asyncio.subprocess.Process) -> None:
    assert program.stdin is not None
    more = True
    with contextlib.suppress(ConnectionError):
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                os.killpg(program.pid, signal.SIGKILL)  # git's program would look for the rest of the body for ever
                return
            more = message.get("more_body", False)
            program.stdin.write(message.get("body", b""))
            await program.stdin.drain()
        program.stdin.close()


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        HttpBackend(Path(sys.argv[1]), Path(sys.argv[3]).read_text()), port=int(sys.argv[2]), log_level="critical"
    )
