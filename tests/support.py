# SPDX-License-Identifier: Apache-2.0
"""Small builders for the tests of tokens and verifiers: one realm, fixed keys, a clock that is passed in."""

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from msgspec import Struct, StructMeta

from arx_verifier.constraints.rule import Rule
from arx_verifier.errors import AuditError
from arx_verifier.journal.decision import Decision, DecisionSink, InMemoryDecisions
from arx_verifier.request import AccessRequest, HttpCall
from arx_verifier.revocation.epoch import Epochs, EpochTable, Lease, UnsafeLocalEpochs
from arx_verifier.token import call_proof, chain, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.nonces import MemoryNonces, NonceStore
from arx_verifier.verification.verifier import Verifier

AT = 1_800_000_000_000  # the tests' clock: ms since the Unix epoch
KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
REALM = "acme"
AUDIENCE = "orders"
INCARNATION = wire.text_of(b"\1" * 16)
TOKEN_ID = wire.text_of(b"\2" * 16)
SESSION = "s-aaaaaaaaaaaaaaaa"
TASK = "t-aaaaaaaaaaaaaaaa"
PEER = "192.0.2.7"
ANYTHING = Caveat(allow=(Rule(tool="*"),))

Made = TypeVar("Made", bound=Struct)

QUICK = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def spec_examples() -> dict[str, str]:
    """Return by reason code the vector that SPEC 13 names as its example."""
    spec = (Path(__file__).parents[1] / "verifier" / "SPEC.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(\w+)` \| \d+ \| \S+ \| .+? \| `([\w-]+)` \|$", spec, re.MULTILINE))


def unchecked(kind: type[Made], **members: Any) -> Made:
    """A rule, constraint or caveat as a holder with code of its own writes it: nothing of it is checked."""
    made: Made = StructMeta.__call__(kind, **members)
    return made


def identifier(**changes: Any) -> Identifier:
    """An ordinary identifier, valid for ten minutes from a minute ago."""
    fields: dict[str, Any] = {
        "agent": "acme/support",
        "aud": AUDIENCE,
        "born": (INCARNATION, 0),
        "depth": 4,
        "exp": AT + 540_000,
        "iat": AT - 60_000,
        "id": TOKEN_ID,
        "kid": "k1.0",
        "policy": "p" * 22,
        "session": SESSION,
        "task": TASK,
        "v": 1,
    }
    return Identifier(**(fields | changes))


def mint(*caveats: Caveat, key: bytes = KEY, realm: str = REALM, **changes: Any) -> Macaroon:
    """A token that allows anything, unless caveats say otherwise; ``changes`` go to the identifier."""
    return Macaroon.mint(identifier(**changes), key=key, realm=realm, caveats=caveats or (ANYTHING,))


def forge(raw_identifier: bytes, raw_caveats: Iterable[bytes], *, key: bytes = KEY, location: bytes = b"acme") -> str:
    """A token of these very bytes with a right signature: what a stolen key, or a mint's slip, could make."""
    raw_caveats = tuple(raw_caveats)
    signature = chain.fold(chain.derive(key), raw_identifier, raw_caveats)
    return wire.TOKEN_PREFIX + wire.text_of(wire.encode(wire.Packets(location, raw_identifier, raw_caveats, signature)))


def forge_caveats(*raw_caveats: bytes, **changes: Any) -> str:
    """A signed token with the usual identifier, a caveat that allows anything, and then these bytes."""
    raw = mint(**changes).identifier
    return forge(raw, (ANYTHING.encode(), *raw_caveats))


def access(
    tool: str = "orders.get",
    args: dict[str, Any] | None = None,
    *,
    at: int = AT,
    peer: str | None = PEER,
    http: HttpCall | None = None,
) -> AccessRequest:
    """A request for a tool."""
    return AccessRequest(tool, {} if args is None else args, at, peer, http)


def http_call(method: str = "POST", target: bytes = b"/orders/1?full=yes", body: bytes = b"{}") -> HttpCall:
    """An HTTP call with this body."""
    return HttpCall(method, target, hashlib.sha256(body).digest())


def sign(macaroon: Macaroon, request: AccessRequest, *, nonce: bytes | None = None, audience: str = AUDIENCE) -> str:
    """The one-shot token for a request, signed at its time."""
    return call_proof.CallSigner(macaroon, audience).sign(call_proof.fields_of(request), request.at, nonce)


def verifier(
    *,
    audience: str = AUDIENCE,
    keys: KeyRing | None = None,
    epochs: Epochs | None = None,
    decisions: DecisionSink | None = None,
    nonces: NonceStore | None = None,
    **more: Any,
) -> Verifier:
    """A verifier of the realm whose parts are in memory."""
    return Verifier(
        audience=audience,
        keys=keys or KeyRing({"k1.0": KEY}, realm=REALM),
        epochs=epochs or UnsafeLocalEpochs(INCARNATION),
        decisions=decisions or InMemoryDecisions(clock=lambda: AT),
        nonces=MemoryNonces(now_ms=AT - 60_000) if nonces is None else nonces,  # an empty store is false
        **more,
    )


def code_of(token: str, request: AccessRequest | None = None, **parts: Any) -> str:
    """What a verifier that never saw anything says."""
    return verifier(**parts).decide(token, request or access()).code


def both_codes(parent: Macaroon, token: str, request: AccessRequest) -> tuple[str, str]:
    """What a fresh verifier says of a one-shot token, and what one says that met its parent before."""
    warm = verifier()
    first = access("warm.up", at=request.at)
    assert warm.decide(sign(parent, first), first).code == "ok", "the parent must be good for a first call"
    return code_of(token, request), warm.decide(token, request).code


def aligned_parents(*caveats: Caveat) -> list[Macaroon]:
    """Three parents, one for each way in which a call's tail can begin within a group of three bytes."""
    found: dict[int, Macaroon] = {}
    for length in range(3):
        parent = mint(*caveats, model="m" * (1 + length))
        found[len(parent.parts()[0]) % 3] = parent
    assert sorted(found) == [0, 1, 2]
    return [found[rest] for rest in sorted(found)]


class MovedEpochs(EpochTable):
    """A view with a clock moved by hand and a lease of one second, which asks a store that answers at once.

    Attributes:
        now_ns: Both clocks.
        asked: How often a caller waited for a probe.
        store: Sequence that the store would answer with.
    """

    def __init__(self, *, lease_ms: int = 1000) -> None:
        self.now_ns = AT * 1_000_000
        self.asked = 0
        self.store = 0
        self.answers = True
        self._lease_ns = lease_ms * 1_000_000
        super().__init__(boot=lambda: self.now_ns, wall=lambda: self.now_ns)
        self.adopt(INCARNATION, 0, {}, {})
        self.probe()

    def move(self, ms: int) -> None:
        """Move both clocks."""
        self.now_ns += ms * 1_000_000

    def probe(self) -> None:
        """Ask the store and be granted a lease."""
        for seq in range(self._state.applied + 1, self.store + 1):
            self.apply(seq, "kill", "session:of-another")
        until = self.now_ns + self._lease_ns
        self.renew(INCARNATION, self.store, Lease(until, until, self.now_ns))

    def catch_up(self, sent_after: int, born: int, timeout: float) -> bool:
        """Probe, if the store answers."""
        self.asked += 1
        if self.answers:
            self.probe()
        return super().catch_up(sent_after, born, timeout)


class SlowDecisions(InMemoryDecisions):
    """A sink that waits, and lets something happen meanwhile."""

    waits = True

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__(clock=lambda: AT)
        self._meanwhile = meanwhile

    def append(self, decision: Decision) -> int:
        """Keep it, and let a test act meanwhile."""
        kept = super().append(decision)
        self._meanwhile()
        return kept


class FullDecisions(InMemoryDecisions):
    """A sink without room."""

    def append(self, decision: Decision) -> int:
        """Refuse what is an allow."""
        if decision.allowed:
            raise AuditError("no room")
        return super().append(decision)
