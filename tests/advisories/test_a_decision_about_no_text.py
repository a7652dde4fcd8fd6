# SPDX-License-Identifier: Apache-2.0
"""A caller could make ``Verifier.decide`` raise an uncounted Python error, with a token that is not text.

A service that takes tokens out of messages passes on what stood there.  The exception is none that a caller who catches
``ArxError`` catches, nothing was counted, and in a worker of a queue it ended the worker.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from arx_verifier.constraints.constraint import read_constraint
from arx_verifier.constraints.rule import read_rule
from arx_verifier.errors import ArxError
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.token import call_proof
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat
from tests.support import ANYTHING, AT, access, mint, verifier

HALF = "\ud800"
TOKEN = mint(ANYTHING)


class Waiting(InMemoryDecisions):
    """Decisions that may wait for a disk, so that an event loop leaves them to a thread."""

    waits = True


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "in a thread"])
@pytest.mark.parametrize(
    ("token", "code"),
    [
        (None, "missing_token"),
        *((value, "malformed") for value in ("", 5, 1.5, True, b"arx1_x", ["arx1_x"], {"arx1_x": 1}, object(), HALF)),
    ],
    ids=lambda value: str(value)[:12] if not isinstance(value, str) else ascii(value),
)
def test_what_is_no_token_is_refused_and_counted(token: Any, code: str, waits: bool) -> None:
    """By each way to ask."""
    sink = Waiting() if waits else InMemoryDecisions()
    checked = verifier(decisions=sink)
    assert checked.decide(token, access()).code == code
    assert asyncio.run(checked.decide_async(token, access())).code == code
    with pytest.raises(ArxError) as refused:
        checked.verify(token, access())
    assert refused.value.code == code
    assert checked.screen(token) == code
    checked.close()
    assert sum(entry.times for each in sink.decisions for entry in each.counts if entry.code == code) == 3


@pytest.mark.parametrize("request_", [None, {}, "orders.get", ("orders.get", {}, AT)], ids=repr)
def test_what_is_no_request_is_named(request_: Any) -> None:
    """It is the service's own mistake, reported in its words and not in those of an attribute."""
    checked = verifier()
    for ask in (checked.decide, checked.try_decide, lambda t, r: asyncio.run(checked.decide_async(t, r))):
        with pytest.raises(TypeError, match="decides on an AccessRequest, not on"):
            ask(TOKEN.encode(), request_)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AccessRequest(None, {}, AT), "tool is text"),  # type: ignore[arg-type]
        (lambda: AccessRequest("orders.get", None, AT), "args are a mapping"),  # type: ignore[arg-type]
        (lambda: AccessRequest("orders.get", [("x", 1)], AT), "args are a mapping"),  # type: ignore[arg-type]
    ],
    ids=["no tool", "no args", "pairs"],
)
def test_a_wrong_part_of_a_request_is_named(make: Callable[[], AccessRequest], message: str) -> None:
    """Where it is made."""
    with pytest.raises(TypeError, match=message):
        make()


WRITTEN: dict[str, Callable[[], object]] = {
    "caveat": lambda: TOKEN.attenuate(Caveat(task=HALF)),
    "rule": lambda: read_rule({"tool": "a", "args": {"x": HALF}}),
    "name of an argument": lambda: read_rule({"tool": "a", "args": {HALF: 1}}),
    "constraint": lambda: read_constraint({"one_of": [HALF]}),
    "glob": lambda: read_constraint({"glob": HALF}),
    "holder": lambda: TOKEN.delegate(HALF),
    "identifier": lambda: mint(ANYTHING, subject=("a", HALF)),
    "third_party_caveat": lambda: ThirdPartyCaveat(HALF).encode(),
    "tool": lambda: call_proof.tool_fields(HALF, {}),
    "argument": lambda: call_proof.tool_fields("a", {"x": HALF}),
    "target": lambda: call_proof.http_fields(HttpCall("GET", f"/{HALF}", bytes(32))),
    "method": lambda: call_proof.http_fields(HttpCall(HALF, "/", bytes(32))),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_half_of_a_pair_is_an_error_of_arx(write: Callable[[], object]) -> None:
    """Wherever it is written."""
    with pytest.raises(ArxError):
        write()
