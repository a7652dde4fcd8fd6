# SPDX-License-Identifier: Apache-2.0
"""Walk through the house: which product files and rooms one call enters, ``python -m tests.house.walks [--json]``.

A room is a folder of modules.  Each walk runs in this process, once to warm its caches and once to be counted.
``make docs`` puts the table on a page of the site, so that no figure is written by hand.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self
from unittest.mock import patch

import httpx

from arx_caps.agent import Bundle, Task
from arx_caps.embedded import EmbeddedValkey
from arx_caps.run.authority import RunAuthority
from arx_caps.run.front import Front
from arx_caps.settings.realm import Login
from arx_verifier import Rule
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.testing import UnsafeCaller, UnsafeTestRealm
from arx_verifier.verification.verifier import Verifier
from arx_verifier.verification.watch import Watch
from tests.adapters.asgi_server import complete_lifespan, serving
from tests.gateway.door import Answer, Door, Upstream, signed
from tests.house.pages import ROOT
from tests.mint import harness, login

PRODUCT: Final = tuple(f"{folder}{os.sep}" for folder in (ROOT / "verifier" / "arx_verifier", ROOT / "arx_caps"))
TOOLS: Final = {"GET /orders/{order_id}": "orders.get", "POST /orders/{order_id}/refund": "orders.refund"}
RULES: Final = (Rule(tool="orders.get"), Rule(tool="orders.refund"))
MARKS: Final = {
    "marks": (("call", "untrusted", "session", ("orders.get",)),),
    "after": ((("untrusted",), ("orders.refund",)),),
}
_HEAD: Final = """# Walks through the house

Each row is one call in one process, with warm caches: the product files and rooms (folders of modules) that it enters,
how often it enters a function, how often it goes from one room into another, and how often that is a room where it was
before. `python -m tests.house.walks` makes the table, and `make docs` this page.
"""


_walking: Final[list["Walk"]] = []


@contextlib.contextmanager
def follow_threads() -> Iterator[None]:
    """Let threads that begin in this block note where they go during a walk."""

    def note(frame: FrameType, event: str, argument: object) -> None:
        for walk in _walking:
            walk.note(frame, event, argument)

    threading.setprofile(note)
    try:
        yield
    finally:
        threading.setprofile(None)


class Walk:
    """Notes where calls go, in the thread that enters it and in threads that began after ``follow_threads``.

    Attributes:
        files: The product files in which a function was entered.
        calls: How often a function was entered; a coroutine that goes on counts again.
        moves: How often a thread went from one room into another.
        again: How often a thread went into a room where it had been, by room.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.calls = self.moves = 0
        self.again: Counter[str] = Counter()
        self._ways: defaultdict[int, list[str]] = defaultdict(list)  # the rooms by thread, in the order of its moves

    @property
    def rooms(self) -> set[str]:
        """The rooms of the files."""
        return {room_of(path) for path in self.files}

    def __enter__(self) -> Self:
        _walking.append(self)
        sys.setprofile(self.note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        _walking.remove(self)
        for way in self._ways.values():
            self.moves += len(way) - 1
            self.again.update(room for number, room in enumerate(way) if room in way[:number])

    def note(self, frame: FrameType, event: str, _: object) -> None:
        """Note an event, as ``sys.setprofile`` passes it."""
        code = frame.f_code
        if event != "call" or code.co_name == "<module>" or not code.co_filename.startswith(PRODUCT):
            return
        self.files.add(code.co_filename)
        self.calls += 1
        way, room = self._ways[threading.get_ident()], room_of(code.co_filename)
        if way[-1:] != [room]:
            way.append(room)

    def figures(self) -> dict[str, Any]:
        """Return the row of this walk."""
        often = [room for room, _ in self.again.most_common(3)]
        counts = {"files": len(self.files), "calls": self.calls, "rooms": len(self.rooms), "moves": self.moves}
        return counts | {"returns": self.again.total(), "most returns": often}


def room_of(path: str) -> str:
    """Return the folder of a product file, as its imports name it."""
    return ".".join(Path(path).relative_to(ROOT).parent.parts).removeprefix("verifier.")


async def application(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer each call."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _guarded(verifier: Verifier, *calls: tuple[UnsafeCaller, str, str], status: int = 200) -> Walk:
    """Send signed requests to one guarded application, and return the walk of the last, which has this status."""
    app = ArxMiddleware(application, verifier=verifier, tools=TOOLS)

    async def send() -> Walk:
        for caller, method, path in calls:
            request = caller(httpx.Request(method, f"http://orders{path}"))
            with Walk() as walk:
                answer = await httpx.ASGITransport(app).handle_async_request(request)
        _require(answer.status_code == status, answer)
        return walk

    return asyncio.run(send())


def _require(holds: bool, answer: object) -> None:
    if not holds:
        raise AssertionError(f"the walk has another end than it should: {answer}")


def _get(realm: UnsafeTestRealm) -> tuple[UnsafeCaller, str, str]:
    return realm.caller(*RULES).delegate("test/worker"), "GET", "/orders/A-1"


def first_call(_: Path) -> Walk:
    """A guarded call, one delegation, first sight of its token."""
    realm = UnsafeTestRealm("orders")
    return _guarded(realm.verifier, *(_get(realm) for _number in range(3)))


def seen_call(_: Path) -> Walk:
    """A guarded call, one delegation, token seen before."""
    realm = UnsafeTestRealm("orders")
    return _guarded(realm.verifier, *[_get(realm)] * 3)


def watched_call(_: Path) -> Walk:
    """A call that watch mode lets pass, although no rule allows it."""
    realm = UnsafeTestRealm("orders")
    verifier = realm.verifier.watching(Watch(until_ms=now_ms() + 3_600_000))
    return _guarded(verifier, *[(realm.caller(Rule(tool="orders.get")), "POST", "/orders/A-1/refund")] * 3)


def marked_call(_: Path) -> Walk:
    """A call that is refused after a mark of the session."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(*RULES, marks=MARKS)
    refund = caller, "POST", "/orders/A-1/refund"
    walk = _guarded(realm.verifier, (caller, "GET", "/orders/A-1"), refund, refund, status=403)
    _require(realm.decisions.decisions[-1].code == "after_mark", realm.decisions.decisions[-1])
    return walk


def gateway_call(_: Path) -> Walk:
    """A call of an MCP tool through the gateway's door, signed by the agent."""
    realm = UnsafeTestRealm("files")
    result = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
    door = Door(realm, Upstream(lambda _: Answer(result)))
    caller = realm.caller(Rule(tool="files.get"))
    params = {"name": "get", "arguments": {}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    _require(door.ask(body, signed(caller, body)) == (200, result), "")
    header = signed(caller, body)
    with Walk() as walk:
        answer = door.ask(body, header)
    _require(answer == (200, result), answer)
    return walk


def task(folder: Path) -> Walk:
    """A task, at the mint's API on SQLite."""
    with harness.open_unit(folder / "task") as unit:
        holder, _session = unit.session()
        holder.call("POST", "/v1/tasks", harness.LOOKUP)
        headers = holder.headers("POST", "/v1/tasks")
        with Walk() as walk:
            answer = unit.client.post("/v1/tasks", json=harness.LOOKUP, headers=headers)
        _require(answer.status_code == 201, answer)
    return walk


def oauth(folder: Path) -> Walk:
    """An access token for a code, at the mint's token endpoint."""
    with patch.dict(os.environ, {"ARX_TEST_LOGIN_SECRET": login.MINT_SECRET}), login.issuer() as idp:
        about = Login(idp.url, login.MINT_CLIENT, "env:ARX_TEST_LOGIN_SECRET", "openid groups")
        with harness.open_unit(folder / "oauth", policy=login.POLICY.format(issuer=idp.url), login=about) as unit:
            unit.enrol()
            flow = login.Flow(unit)
            flow.token()
            code = flow.code()
            with Walk() as walk:
                answer = flow.redeem(code)
            _require(answer.status_code == 200, answer)
    return walk


def kill(folder: Path) -> Walk:
    """A kill, at the mint's API on a real store, until the mint answers."""
    body = {"targets": [f"agent:{harness.AGENT}"], "reason": "a walk", "wait": False}
    with (
        EmbeddedValkey(folder / "store") as store,
        harness.open_live(folder / "kill", store.url, name="walks") as live,
    ):
        live.enrol()
        # This client runs each request in a thread of its own, which begins with it; the other's has begun.
        unit = harness.Harness(live.mint, harness.client_of(live.mint))
        operator = unit.operator()
        operator.call("POST", "/v1/kills", body)
        headers = operator.headers("POST", "/v1/kills")
        with Walk() as walk:
            answer = unit.client.post("/v1/kills", json=body, headers=headers)
        _require(answer.status_code == 200, answer)
    return walk


async def _gateway(scope: Any, receive: Any, send: Any) -> None:
    """Answer as a gateway with one host."""
    if await complete_lifespan(scope, receive, send):
        return
    about = {"upstream": "shop", "audience": "orders", "routes": {"GET /{id}": {"tool": "get"}}, "max_body": 1 << 20}
    body = json.dumps({"hosts": {"api.example": about}} if scope["path"] == "/hosts" else {}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def run(folder: Path) -> Walk:
    """A request of a command under ``arx run``, at the front until the gateway's answer is passed on."""
    macaroon = UnsafeTestRealm("orders").caller(Rule(tool="orders.get")).macaroon

    async def ask(front: Front) -> Walk:
        scope = {"type": "http", "method": "GET", "path": "/A-1", "raw_path": b"/A-1", "query_string": b"", "state": {}}
        sent: list[Any] = []
        came: list[bool] = []

        async def receive() -> Any:
            if came:
                await asyncio.Event().wait()
            came.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        with Walk() as walk:
            await front({**scope, "headers": [(b"host", b"api.example")]}, receive, send)
        _require(sent[0]["status"] == 200, sent)
        return walk

    async def walk_through(url: str) -> Walk:
        held = Task(
            Bundle(
                agent="test/agent",
                issuer="https://mint.example",
                origins={"orders": (url,)},
                realm="test",
                task="t-test",
                tokens={"orders": macaroon},
            )
        )
        place = folder / "run"
        place.mkdir()
        async with Front(RunAuthority(lambda: held, lambda: None), place, has_port=False) as front:
            await ask(front)
            return await ask(front)

    with serving(_gateway) as port:
        return asyncio.run(walk_through(f"http://127.0.0.1:{port}"))


WALKS: Final[dict[str, Callable[[Path], Walk]]] = {
    "call, first sight": first_call,
    "call, seen": seen_call,
    "watch": watched_call,
    "mark": marked_call,
    "gateway": gateway_call,
    "run": run,
    "task": task,
    "OAuth": oauth,
    "kill": kill,
}


def rows() -> dict[str, dict[str, Any]]:
    """Return the figures of each walk."""
    with tempfile.TemporaryDirectory() as folder, follow_threads():
        return {name: walk(Path(folder)).figures() for name, walk in WALKS.items()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table of Markdown."""
    heads = ["walk", "what", *next(iter(found.values()))]
    lines = [heads, ["---"] * len(heads)]
    for name, figures in found.items():
        *counts, often = figures.values()
        what = (WALKS[name].__doc__ or "").rstrip(".").replace("``", "`")
        lines.append([name, what, *map(str, counts), ", ".join(f"`{room}`" for room in often)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    """Return the text of the site's page."""
    return f"{_HEAD}\n{table(rows())}"


if __name__ == "__main__":
    found = rows()
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if "--json" in sys.argv[1:] else table(found))
