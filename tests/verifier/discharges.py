# SPDX-License-Identifier: Apache-2.0
"""One approval and what goes with it, for tests: a token that requires it, and the discharge that answers."""

from collections.abc import Sequence
from typing import Any

from arx_verifier.constraints.rule import Rule
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, bind, caveat_key, issue_discharge, join, require_discharge
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from tests.support import AT, KEY, REALM, TASK, access, mint, sign, verifier

REFUND, ORDER = "payments.refund", {"order_id": "A-77", "amount": 50}
WANTED = ThirdPartyCaveat(f"k1.0:{TASK}", (REFUND,))
RAW = WANTED.encode()
CAVEAT_KEY = caveat_key(KEY, WANTED.id)
RULE = Rule(tool=REFUND, args={"order_id": "A-77", "amount": 50})
APPROVED = Caveat(allow=(RULE,), exp=AT + 60_000, once=("a-1", AT), task="a-1")


def requiring(
    token: Macaroon | None = None, raw: bytes = RAW, key: bytes = CAVEAT_KEY, location: bytes | None = None
) -> Macaroon:
    """A token, or a discharge, that requires a discharge."""
    return require_discharge(token or mint(), raw, key, location)


def answering(*caveats: Caveat, raw: bytes = RAW, key: bytes = CAVEAT_KEY, realm: str = REALM) -> Macaroon:
    """An unbound discharge."""
    return issue_discharge(raw, key, realm=realm, caveats=caveats)


def refund(args: dict[str, Any] | None = None, *, at: int = AT) -> Any:
    """The request that was approved, or another one of its tool."""
    return access(REFUND, ORDER if args is None else args, at=at)


def sent(token: Macaroon, made: Sequence[Macaroon], request: Any = None, nonce: bytes | None = None) -> str:
    """The credential of one call: discharges, bound, with a one-shot token."""
    bound = [bind(each, token) for each in made]
    return join(sign(token, refund() if request is None else request, nonce=nonce), bound)


def named(name: str) -> bytes:
    """A third-party caveat that binds every call."""
    return ThirdPartyCaveat(name).encode()


TOKEN = requiring()
ATTENUATED = TOKEN.attenuate(Caveat(task="x"))
GOOD = answering(APPROVED)
CALL = sign(TOKEN, refund())


def code(text: str, request: Any = None, checked: Verifier | None = None) -> str:
    """What a verifier, a new one unless said, decides of a refund."""
    return (checked or verifier()).decide(text, refund() if request is None else request).code
