# SPDX-License-Identifier: Apache-2.0
"""Count the hot path's bytecodes and calls, and keep them from growing: ``python -m benchmarks.hot_path [--write]``.

No machine disturbs these counts; they differ from one minor version of Python to the next, so each has its own.  With
``--write`` those of the Python that runs it become its budgets in ``benchmarks/hot_path.json``: after a change that is
worth its price, or that saved some.
"""

import argparse
import asyncio
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from arx_verifier import proofs
from arx_verifier.access import AccessRequest, HttpCall
from arx_verifier.asgi import ArxMiddleware
from arx_verifier.caveats import Caveat
from arx_verifier.counters import MemoryNonces
from arx_verifier.macaroon import Macaroon
from arx_verifier.verify import Verifier
from benchmarks.counting import count
from benchmarks.world import ARGS, AT, FIELDS, REQUEST, TOOL, calls, five, handed, open_token, root, verifier

BODY: Final = json.dumps(ARGS).encode()
BUDGETS: Final = Path(__file__).with_suffix(".json")
TOLERANCE: Final = 0.05  # what a release of Python, or a function cut in two, may add
PYTHON: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"
WARM_UP, COUNTED = 3, 3


def counted() -> dict[str, list[int]]:
    """Return bytecodes and calls of each work."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        for name, works in _works(Path(folder)):
            for work in works[:WARM_UP]:
                work()
            # The least of several: now and then one draws salts for the next hundreds of them.
            counts = [count(work) for work in works[WARM_UP:]]
            found[name] = [min(one.bytecodes for one in counts), min(one.calls for one in counts)]
    return found


def budgets() -> dict[str, dict[str, list[int]]]:
    """Return what each work may take, by minor version of Python."""
    found: dict[str, dict[str, list[int]]] = json.loads(BUDGETS.read_text("utf-8"))
    return found


def _works(folder: Path) -> Iterator[tuple[str, list[Callable[[], Any]]]]:
    """Yield each work several times over, as most of it needs something new each time."""
    for hops in (1, 3, 5):
        parent = handed(hops)
        yield f"decide, {hops} hand-overs, parent seen", _decide(verifier(folder / f"seen-{hops}"), parent)
        new = verifier(folder / f"new-{hops}", cache_bytes=0)
        yield f"decide, {hops} hand-overs, first sight", _decide(new, parent)
    text = open_token().encode()
    for name, checked in (("seen", verifier(folder / "a")), ("first sight", verifier(folder / "b", cache_bytes=0))):
        yield f"decide, no proof, {name}", [functools.partial(_allow, checked, text, REQUEST)] * (WARM_UP + COUNTED)
    yield "decide, http, parent seen", _decide_http(verifier(folder / "http"), handed(3))
    loop = asyncio.new_event_loop()
    yield "a request through the middleware", _requests(verifier(folder / "asgi"), loop)
    loop.close()
    yield "refuse, bad_signature", _refuse(verifier(folder / "forged"), handed(3), REQUEST, "bad_signature")
    over = AccessRequest(TOOL, ARGS | {"amount": 901}, AT, "192.0.2.7")
    yield "refuse, argument_not_allowed", _refuse(verifier(folder / "over"), handed(3), over, "argument_not_allowed")
    token, narrow, short = root().encode(), five(900), Caveat(exp=AT + 300_000)
    for name, caveat in (("five constraints", narrow), ("`to` and `exp`", short)):
        yield f"hand over, {name}", [functools.partial(_hand_over, token, caveat)] * (WARM_UP + COUNTED)
    signer = proofs.CallSigner(handed(3), "orders")
    yield "make the per-call token", [functools.partial(signer.sign, FIELDS, AT)] * (WARM_UP + COUNTED)


def _allow(checked: Verifier, text: str, request: AccessRequest) -> None:
    assert checked.decide(text, request).code == "ok"


def _decide(checked: Verifier, parent: Macaroon) -> list[Callable[[], Any]]:
    return [functools.partial(_allow, checked, text, REQUEST) for text in calls(parent, count=WARM_UP + COUNTED)]


def _decide_http(checked: Verifier, parent: Macaroon) -> list[Callable[[], Any]]:
    request = AccessRequest(TOOL, ARGS, AT, "192.0.2.7", HttpCall("POST", b"/refunds", bytes(32)))
    signer, fields = proofs.CallSigner(parent, "orders"), proofs.fields_of(request)
    return [functools.partial(_allow, checked, signer.sign(fields, AT), request) for _ in range(WARM_UP + COUNTED)]


def _requests(checked: Verifier, loop: asyncio.AbstractEventLoop) -> list[Callable[[], Any]]:
    """Whole requests, as a server hands them over, to an application that answers at once; the clock is read."""
    at = time.time_ns() // 1_000_000
    checked.nonces = MemoryNonces(now_ms=at - 1000)
    signer = proofs.CallSigner(handed(3, at=at), "orders")
    fields = proofs.http_fields(HttpCall("POST", b"/refunds", sha256(BODY).digest()))
    guarded = ArxMiddleware(_answer, verifier=checked, tools={"POST /refunds": TOOL})

    def work(text: str) -> None:
        loop.run_until_complete(_request(guarded, text))

    return [functools.partial(work, signer.sign(fields, at)) for _ in range(WARM_UP + COUNTED)]


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def _request(guarded: ArxMiddleware, text: str) -> None:
    said = {"authorization": f"Bearer {text}", "content-type": "application/json", "content-length": str(len(BODY))}
    said |= {"host": "127.0.0.1:8000", "accept": "*/*", "user-agent": "bench", "accept-encoding": "gzip"}
    scope = {"type": "http", "method": "POST", "path": "/refunds", "raw_path": b"/refunds", "query_string": b""}
    scope |= {"headers": [(name.encode(), value.encode()) for name, value in said.items()]}
    statuses = []

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    await guarded(scope | {"client": ("192.0.2.7", 4711)}, receive, send)
    assert statuses == [200, None], statuses


def _refuse(checked: Verifier, parent: Macaroon, request: AccessRequest, code: str) -> list[Callable[[], Any]]:
    for text in calls(parent, count=2):
        _allow(checked, text, REQUEST)
    text = proofs.CallSigner(parent, "orders").sign(proofs.fields_of(request), AT, bytes(16))
    if code == "bad_signature":
        text = text[:-5] + ("A" if text[-5] != "A" else "B") + text[-4:]

    def work() -> None:
        assert checked.decide(text, request).code == code

    return [work] * (WARM_UP + COUNTED)


def _hand_over(text: str, caveat: Caveat) -> str:
    return Macaroon.parse(text).hand_over("acme/worker", caveat).encode()


def main() -> None:
    """Print counts and budgets, or write the counts as budgets."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description="Count the hot path's work.")
    parser.add_argument("--write", action="store_true", help=f"make these the budgets of Python {PYTHON}")
    options = parser.parse_args()
    found, known = counted(), budgets() if BUDGETS.exists() else {}
    for name, (bytecodes, made) in found.items():
        allowed = known.get(PYTHON, {}).get(name, ["-", "-"])
        print(f"{name:40} {bytecodes:6} bytecodes (budget {allowed[0]}), {made:4} calls (budget {allowed[1]})")
    if options.write:
        known[PYTHON] = found
        BUDGETS.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
