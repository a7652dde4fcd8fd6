# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks have in common: one request, five constraints, and tokens delegated several times."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arx_verifier.constraints.constraint import Constraint, ConstraintLike
from arx_verifier.constraints.rule import Rule
from arx_verifier.journal.writer import Journal
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import call_proof, wire
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.keyring import KeyRing
from arx_verifier.token.macaroon import Identifier, Macaroon
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier

AT = 1_800_000_000_000
KEY = bytes(range(32))
INCARNATION = wire.text_of(b"\1" * 16)
TOOL = "orders.refund"
ARGS: dict[str, Any] = {
    "order": "o-4711",
    "amount": 50,
    "region": "eu",
    "path": "/data/reports",
    "note": "late delivery",
}
REQUEST = AccessRequest(TOOL, ARGS, AT, "192.0.2.7")
FIELDS = call_proof.fields_of(REQUEST)


def constraints(limit: int, order: str = "o-4711") -> dict[str, ConstraintLike]:
    """Five constraints, one an argument; the amount is what a hop attenuates."""
    return {
        "order": order,
        "amount": Constraint(range=(0, limit)),
        "region": Constraint(one_of=("eu", "us")),
        "path": Constraint(glob="/data/*"),
        "note": Constraint(max_length=100),
    }


def five(limit: int, order: str = "o-4711") -> Caveat:
    """All five constraints, as every hop restates them."""
    return Caveat(allow=(Rule(tool=TOOL, args=constraints(limit, order), open=True),))


def identifier(
    number: int = 0, *, depth: int = 6, at: int = AT, born: tuple[str, int] = (INCARNATION, 0), **more: Any
) -> Identifier:
    """Who, and the outer limits, of one token."""
    return Identifier(
        agent="acme/support",
        aud="orders",
        born=born,
        depth=depth,
        exp=at + 600_000,
        iat=at - 60_000,
        id=wire.text_of(number.to_bytes(16, "big")),
        kid="k1.0",
        policy="cG9saWN5LTAwMDAwMDAwMDE",
        session="s-aaaabbbbccccdddd",
        task="t-aaaabbbbccccdddd",
        v=1,
        **more,
    )


def root(number: int = 0, order: str = "o-4711", **more: Any) -> Macaroon:
    """A task's token from the mint."""
    first = Caveat(allow=(Rule(tool=TOOL, args=constraints(1000, order)),), delegate_to=("acme/**",), require=("call",))
    return Macaroon.mint(identifier(number, **more), key=KEY, realm="acme", caveats=(first,))


def open_token(*, apart: bool = False) -> Macaroon:
    """Five restrictions and no proof: tool target, audience, task, expiry, delegation; in two caveats, or in five."""
    task = "t-eeeeffffgggghhhh"
    said = [Caveat(allow=(Rule(tool=TOOL),))]
    if apart:
        said += [Caveat(aud=("orders",)), Caveat(task=task), Caveat(exp=AT + 300_000)]
    token = Macaroon.mint(identifier(), key=KEY, realm="acme", caveats=tuple(said))
    return token.delegate("acme/worker", None if apart else Caveat(aud=("orders",), exp=AT + 300_000, task=task))


def handed(hops: int, number: int = 0, *, order: str = "o-4711", restate: bool = True, **more: Any) -> Macaroon:
    """A token after so many delegations, each with five constraints, or with only what it attenuates."""
    token = root(number, order, **more)
    for hop in range(hops):
        attenuate = Caveat(allow=(Rule(tool=TOOL, args={"amount": Constraint(max=900 - hop)}, open=True),))
        token = token.delegate(f"acme/worker-{hop}", five(900 - hop, order) if restate else attenuate)
    return token


def verifier(folder: Path, **more: Any) -> Verifier:
    """A verifier as a service has one, with its journal on disk."""
    made: dict[str, Any] = {
        "keys": KeyRing({"k1.0": KEY}, realm="acme"),
        "epochs": UnsafeLocalEpochs(INCARNATION),
        "decisions": Journal(folder, "bench-1", "orders"),
        "nonces": MemoryNonces(now_ms=AT - 60_000),
    }
    return Verifier(audience="orders", **made | more)


def calls(*parents: Macaroon, count: int) -> Iterator[str]:
    """One-shot tokens of these parents in turn; each is good once."""
    signers = [call_proof.CallSigner(parent, "orders") for parent in parents]
    texts = [signer.sign(FIELDS, AT, os.urandom(16)) for signer in itertools.islice(itertools.cycle(signers), count)]
    return iter(texts)
