# SPDX-License-Identifier: Apache-2.0
"""Count the bytecodes of a request, by folder of the verifier: a process of ``benchmarks.former``.

python benchmarks/counted_request.py SERVICE_FILE TARGET BODY.  It uses the verifier of ``PYTHONPATH``, prints a line
when it is ready for calls, reads one token a line, and prints what the middleware adds to the application of
``benchmarks.service_app``.
"""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import arx_verifier
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.service import open_verifier
from benchmarks.counting import count, count_by_file
from benchmarks.service_app import application

HERE = Path(arx_verifier.__file__).parent
OTHER = "the application"


class Caller:
    """A server that calls an application without a network.

    Args:
        path: The path of each request.
        body: Its body.
    """

    def __init__(self, path: str, body: bytes) -> None:
        self._path, self._body, self._sent = path, body, list[Any]()

    async def call(self, app: Any, token: str) -> None:
        """Call an application."""
        self._sent.clear()
        message = [{"type": "http.request", "body": self._body, "more_body": False}]

        async def receive() -> Any:
            return message.pop()

        async def send(message: Any) -> None:
            self._sent.append(message)

        await app(self._scope(token), receive, send)
        if self._sent[0]["status"] != 200:
            raise RuntimeError(f"expected a grant, got {self._sent}")

    def _scope(self, token: str) -> dict[str, Any]:
        headers = {
            "host": "127.0.0.1:8000",
            "content-type": "application/json",
            "authorization": f"Bearer {token}",
            "content-length": str(len(self._body)),
        }
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 40_000),
            "scheme": "http",
            "method": "POST",
            "root_path": "",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "state": {},
        }


def _folder(file: str) -> str:
    path = Path(file)
    if HERE not in path.parents:
        return OTHER
    inside = path.relative_to(HERE)
    return "/".join(inside.parts[: 2 if inside.parts[0] == "enforcement" and len(inside.parts) > 2 else 1])


def _step(call: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        call.send(None)
    except StopIteration:
        return
    raise RuntimeError("expected a request that waits for nothing, got one that waits")


async def _counted(caller: Caller, app: Any, tokens: list[str]) -> dict[str, Any]:
    for _ in range(20):  # what the first ones look up is kept
        await caller.call(app, tokens.pop())
    await asyncio.sleep(0.3)  # the next one begins the timer that those of the next moments share
    await caller.call(app, tokens.pop())
    await asyncio.sleep(0)
    first, second = (caller.call(app, tokens.pop()) for _ in range(2))
    folders: Counter[str] = Counter()
    for file, bytecodes in count_by_file(lambda: _step(first)).items():
        folders[_folder(file)] += bytecodes
    return {"by folder": dict(folders), "calls into C": count(lambda: _step(second)).calls}


async def main(service: str, path: str, body: str) -> None:
    """Count both, and print their difference."""
    verifier, caller = open_verifier(service), Caller(path, body.encode())
    guarded = ArxMiddleware(application(), verifier=verifier, tools={f"POST {path}": "orders.refund"})
    async with guarded.lifespan():
        await asyncio.to_thread(verifier.epochs.catch_up, 0, 0, 10)
        print("ready", flush=True)  # a call that was signed before is refused
        tokens = (await asyncio.to_thread(sys.stdin.read)).split()
        bare, full = [await _counted(caller, app, tokens) for app in (application(), guarded)]
    added = {name: bytecodes for name, bytecodes in full["by folder"].items() if name != OTHER}
    added[OTHER] = full["by folder"][OTHER] - bare["by folder"][OTHER]
    calls = full["calls into C"] - bare["calls into C"]
    print(json.dumps({"added": sum(added.values()), "calls into C": calls, **added}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
