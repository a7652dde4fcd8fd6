# SPDX-License-Identifier: Apache-2.0
"""A verifier before authentic tokens with any caveats, and before any discharges: a grant or a code.  SPEC 6, 11."""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from arx_verifier import Verifier
from arx_verifier.errors import REASONS
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import FOREVER_NS, EpochTable, Lease
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.wire import JOINT
from arx_verifier.verification.nonces import MemoryNonces
from tests.fuzz.corpus import vectors
from tests.vectors import second

MAX_BYTES = 8_000
CAVEATS: Final = b"\0"  # caveats, one a line, folded into a token; without it, the discharges of a token
CODES: Final = {*REASONS, "ok"}


def check(data: bytes) -> None:
    """Decide; a token without the last caveat is allowed what the token is allowed."""
    if not data.startswith(CAVEATS):
        _decide(_demanding() + JOINT + data.decode("latin-1"))
        return
    caveats = data.removeprefix(CAVEATS).split(b"\n")
    try:
        tokens = [second.mint(second.ANYTHING, *caveats[:end]).text() for end in (len(caveats), len(caveats) - 1)]
    except ValueError:  # longer than a packet can be
        return
    if _decide(tokens[0]).allowed:
        assert _decide(tokens[1]).allowed, "a caveat allowed what its parent is not"


def seeds() -> Iterator[bytes]:
    """Return the discharges of the vectors, and caveats that hold and that do not."""
    for vector in vectors():
        _, joint, rest = vector["token"].partition(JOINT)
        if joint:
            yield rest.encode("latin-1", "replace")
    for caveat in (
        {"exp": second.AT + 1_000},
        {"aud": ["orders"], "depth": 2},
        {"allow": [{"tool": "orders.*", "args": {"id": "7"}}]},
        {"to": "acme/worker", "hop": second.HOP},
        {"net": ["192.0.2.0/24"], "nbf": second.AT},
        {"fresh": 200, "exp": 1},
    ):
        yield CAVEATS + second.canonical(caveat)
        yield CAVEATS + second.canonical(caveat) + b"\n" + second.canonical({"depth": 1})


@cache
def _demanding() -> str:
    """Return a token of a vector that needs a discharge."""
    granted = [vector for vector in vectors() if JOINT in vector["token"] and vector["expect"] == "grant"]
    return str(granted[0]["token"]).partition(JOINT)[0]


def _decide(token: str) -> Decision:
    epochs = EpochTable()
    epochs.adopt(second.INCARNATION, 7, {}, {})
    epochs.renew(second.INCARNATION, 7, Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))
    verifier = Verifier(
        audience="orders",
        keys=KeyRing({"k1.0": second.KEY}, realm="acme", max_ttl_ms=86_400_000),
        epochs=epochs,
        decisions=InMemoryDecisions(clock=lambda: second.AT),
        nonces=MemoryNonces(now_ms=second.AT - 60_000),
    )
    args: dict[str, Any] = {"id": "7"}
    decision = verifier.decide(token, AccessRequest(tool="orders.get", args=args, at=second.AT, peer="192.0.2.7"))
    assert decision.code in CODES
    assert decision.allowed == (decision.code == "ok")
    return decision
