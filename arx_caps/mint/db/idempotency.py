# SPDX-License-Identifier: Apache-2.0
"""What a call writes once, in the transaction of its change: its ``Idempotency-Key`` and its proof.  SPEC 16, 22.4.

The key is written in the transaction that makes the thing: no repeat makes the thing again, and no key is stored
without its thing.  The row has the facts of the thing and the recipe of its tokens; a repeat signs them again.

A proof is used before its call is answered, whatever the answer.  A call that changes the database in one transaction
uses its proof in that transaction: one write to the disk, not two.  A second call with the same proof fails it.  A
proof that no change took along, because the call was refused before, is written by itself.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import delete, insert
from sqlalchemy.engine import Connection

from arx_caps.mint.db.events import Event
from arx_caps.mint.db.tables import REPEATS, USED_JTI
from arx_verifier.errors import RequestError

HEADER: Final = "Idempotency-Key"
MAX_KEY_CHARS: Final = 64
KEPT_MS: Final = 24 * 3600 * 1000
# Good once, or for a short time: a repeat brings others, and they stand for the same caller.
_CREDENTIALS: Final = ("assertion", "workload_token", "subject_token")


@dataclass(slots=True)
class Claim:
    """One call that is to be done once.

    Attributes:
        caller: Whose key it is; one caller's keys are nothing to another.
        key: What the caller chose.
        digest: SHA-256 of what is asked for, in hex.
        now: The time, ms.
        makes: The kind of the event with which it is done.
        recipe: What the tokens of the thing say, once that is known.
    """

    caller: str
    key: str
    digest: str
    now: int
    makes: str
    recipe: Mapping[str, Any] | None = None


class Made(NamedTuple):
    """What a call made, when it was done.

    Attributes:
        facts: The facts of its event, which name it.
        recipe: What its tokens say; None where it has none.
    """

    facts: dict[str, Any]
    recipe: dict[str, Any] | None


_claim: ContextVar[Claim | None] = ContextVar("claim", default=None)


def read_key(text: str) -> str:
    """Read the header: 1 to 64 visible characters, in quotes or not.

    Raises:
        RequestError: It is none.
    """
    key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key or '"' in key:
        raise RequestError(f"{HEADER} is 1 to {MAX_KEY_CHARS} visible characters, a fresh random one for each thing")
    return key


def digest_of(method: str, path: str, members: Mapping[str, Any], *, opens: bool) -> str:
    """Return the digest of what is asked for, which a repeat must ask for again.

    Args:
        method: The HTTP method.
        path: The path.
        members: The body's members.
        opens: Whether credentials in the body say who asks, and not what is asked for.
    """
    asked = {name: value for name, value in members.items() if not (opens and name in _CREDENTIALS)}
    return hashlib.sha256(msgspec.json.encode([method, path, asked], order="sorted")).hexdigest()


@contextlib.contextmanager
def claiming(claim: Claim) -> Iterator[None]:
    """Have the change that is made meanwhile, in this thread, written down under the claim's key."""
    token = _claim.set(claim)
    try:
        yield
    finally:
        _claim.reset(token)


def claimed() -> Claim | None:
    """Return the claim of the call that is done now, in this thread; None where it has none."""
    return _claim.get()


def keep_recipe(recipe: Mapping[str, Any]) -> None:
    """Remember what the tokens say that are about to be given, should this call be one that may be repeated."""
    claim = _claim.get()
    if claim is not None:
        claim.recipe = recipe


def claim_in(c: Connection, what: Event) -> None:
    """Write a claim down in the transaction that makes the thing; a second one of that key fails it."""
    claim = _claim.get()
    if claim is None or what.kind != claim.makes:
        return
    c.execute(delete(REPEATS).where(REPEATS.c.until <= claim.now))
    recipe = None if claim.recipe is None else msgspec.json.encode(claim.recipe).decode()
    row = {"caller": claim.caller, "key": claim.key, "digest": claim.digest, "until": claim.now + KEPT_MS}
    c.execute(insert(REPEATS).values(**row, facts=what.body().decode(), recipe=recipe))


class Used(NamedTuple):
    """An id that is used now.

    Attributes:
        kind: What it belongs to.
        digest: Names it.
        until: From when on it would be refused as too old, ms.
    """

    kind: str
    digest: str
    until: int


_PENDING: Final[ContextVar[list[Used] | None]] = ContextVar("pending", default=None)


@contextlib.contextmanager
def spending_together(spend: Callable[[Used], None]) -> Iterator[None]:
    """Have the ids that are used meanwhile, in this thread, spent with the change that is made, and at the latest now.

    Args:
        spend: Spends one that no change took along; what it raises is the answer.
    """
    pending: list[Used] = []
    token = _PENDING.set(pending)
    try:
        yield
    finally:
        _PENDING.reset(token)
        for used in pending:
            spend(used)


def put_off(used: Used) -> bool:
    """Leave an id to the change that is to come; False when none is."""
    pending = _PENDING.get()
    if pending is None:
        return False
    pending.append(used)
    return True


def spend_in(c: Connection) -> None:
    """Spend what was put off, in the transaction that makes the change; one that was used before fails it."""
    for used in _PENDING.get() or ():
        c.execute(insert(USED_JTI).values(digest=used.digest, until=used.until))


def spent() -> None:
    """Note that the change was made."""
    pending = _PENDING.get()
    if pending:
        pending.clear()
