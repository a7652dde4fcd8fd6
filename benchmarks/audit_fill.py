# SPDX-License-Identifier: Apache-2.0
"""A log as a busy realm has it, for the audit benchmark: sessions of about 200 records, and one whale.

A session has three tasks and delegates to five others, two of them deeper; one call in twenty is refused, of one
session in ten on behalf of a person.  The whale is one session with a hundredth of all records at two thousand places.
"""

import random
from collections.abc import Iterator
from itertools import islice

from arx_caps.audit.shipping.batch import Batch
from arx_verifier.errors import Failure
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import ChainFacts, Sealed, new_salt, seal

AUDIENCE = "orders"
VERIFIER = "orders-1"
BOOT = "0123456789ab"
START_MS = 1_800_000_000_000
A_SESSION = 200  # records
OPEN = 50  # sessions that are busy at one time
WHALE = "s-whale-00000000"
WHALE_PLACES = 2000
TOOLS = tuple(f"orders.{verb}" for verb in ("get", "list", "search", "update", "refund", "cancel"))
_REFUSED = (Failure("caveat 2", "amount range", "[1,20]", "50"),)
_CHAINS = ((), ("w1",), ("w2",), ("w1", "h1"), ("w1", "h2"))


def facts(session: str, number: int, task: int, chain: tuple[str, ...]) -> ChainFacts:
    """One token's chain."""
    links = tuple(f"{session[2:18]}{task}{'-'.join(chain[: depth + 1])}".ljust(22, "x") for depth in range(len(chain)))
    return ChainFacts(
        agent=f"acme/support/bot-{number % 40}",
        session=session,
        named=tuple(f"acme/worker/{name}" for name in chain),
        links=links,
        task=f"t-{session[2:]}-{task}",
        token="t" * 22,
        audience=AUDIENCE,
        policy="p" * 22,
        kid="k1.0",
        model="model-1",
        subject=("https://idp.example", f"person-{number % 1000}") if number % 10 == 0 else None,
    )


def whale(place: int) -> ChainFacts:
    """The chain of one of the whale's places."""
    link = f"whale{place:05d}".ljust(22, "w")
    whose = {"agent": "acme/support/bot-0", "session": WHALE, "task": "t-whale", "named": (f"acme/pod/{place}",)}
    return ChainFacts(links=(link,), token="t" * 22, audience=AUDIENCE, policy="p" * 22, kid="k1.0", **whose)  # type: ignore[arg-type]


def session_of(number: int) -> str:
    """The name of a session."""
    return f"s-{number:016d}"


def decisions(start_ms: int = START_MS, step_ms: float = 1.0, first: int = 0) -> Iterator[Decision]:
    """Yield decisions without end, of many sessions at a time.

    Args:
        start_ms: Time of decision 0, ms since the Unix epoch.
        step_ms: Time between two decisions, ms.
        first: Number of the first decision.
    """
    dice, started, count = random.Random(11 + first), first // A_SESSION, first
    open_: list[list[ChainFacts]] = []
    left: list[int] = []
    for place in range(OPEN):
        open_.append(_chains(started))
        left.append(A_SESSION * (place + 1) // OPEN)  # so that they do not all end at once
        started += 1
    while True:
        count += 1
        if count % 100 == 0:
            chain = whale(dice.randrange(WHALE_PLACES))
        else:
            place = dice.randrange(OPEN)
            chain = dice.choice(open_[place])
            left[place] -= 1
            if left[place] == 0:
                open_[place], left[place] = _chains(started), A_SESSION
                started += 1
        refused = dice.random() < 0.05
        code = "argument_not_allowed" if refused else "ok"
        at, tool = start_ms + int(count * step_ms), dice.choice(TOOLS)
        told = {"peer": "192.0.2.7", "request_id": "rq-1", "failures": _REFUSED if refused else ()}
        yield Decision(code, at, chain, tool, b"d" * 32, new_salt(), "incarnation", 7, 12, **told)  # type: ignore[arg-type]


def batches(
    records: int, size: int, start_ms: int = START_MS, step_ms: float = 1.0, after: int = 0, boot: str = BOOT
) -> Iterator[Batch]:
    """Yield records in batches of one run, so many with those that another run has sent before."""
    stream, first = decisions(start_ms, step_ms, after), 1
    records -= after
    while first <= records:
        some: list[Sealed] = [
            seal(each.pack(), VERIFIER, boot, sequence)
            for sequence, each in enumerate(islice(stream, min(size, records + 1 - first)), first)
        ]
        yield Batch(VERIFIER, AUDIENCE, boot, first, None, tuple(some), closed=False)
        first += len(some)


def _chains(number: int) -> list[ChainFacts]:
    session = session_of(number)
    return [facts(session, number, task, chain) for task in range(3) for chain in _CHAINS]
