# SPDX-License-Identifier: Apache-2.0
"""Refusals: the code and the facts of each, for a caveat, a call, a request.  SPEC 13.

Facts for people: what was expected and what came, never a key, a token or a signature.  The other modules here decide
when to refuse.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from arx_verifier.constraints import MAX_TOLD
from arx_verifier.errors import ArxError, Failure, shorten
from arx_verifier.request import AccessRequest
from arx_verifier.token import IAT_AHEAD_MS, MAX_AGE_MS, MAX_AHEAD_MS, wire

if TYPE_CHECKING:
    from arx_verifier.token import ThirdPartyCaveat

PLACES: Final = ("identifier", *[f"caveat {number}" for number in range(1, wire.MAX_CAVEATS + 1)])


class Refused(NamedTuple):
    """A refusal on its way to becoming a decision.

    Attributes:
        code: The reason.
        failures: What did not hold, for the record.
        untold: Puts all that did not hold into words, where ``failures`` are the first of them alone.
    """

    code: str
    failures: tuple[Failure, ...]
    untold: Callable[[], tuple[Failure, ...]] | None = None

    def all_failures(self) -> tuple[Failure, ...]:
        """Return all that did not hold, also what no record tells."""
        return self.failures if self.untold is None else self.untold()


BAD_SIGNATURE: Final = Refused("bad_signature", ())
NO_STORE: Final = Refused("store_unavailable", ())
PROOF_MISSING: Final = Refused(
    "proof_missing",
    (Failure("token", "require", "a one-shot token, signed for this call", "the task's token itself"),),
)
REPLAYED: Final = Refused("replayed", (Failure("call", "nonce", "one that was not used", "a used one"),))
BEFORE_START: Final = Refused(
    "proof_invalid",
    # The rule is what a client knows it by, which then signs anew by itself: SPEC 8.3.
    (Failure("call", "start", "a call signed after this service started; sign it anew", "an earlier one"),),
)
ONCE_USED: Final = ("the first call that this approval is used for", "a further one")
ONCE_AGE: Final = ("an approval of the last 24 h, given after this service's nonce store started", "another; ask anew")


def place(index: int) -> str:
    """Return the name of a caveat's place, counted from 0; -1 is the identifier."""
    return PLACES[index + 1]


def too_deep(index: int, to: str) -> ArxError:
    """A delegation where none may follow."""
    return _prohibits("too_deep", index, "depth", "no further delegation", f"a delegation to {to}")


def not_named(index: int, rule_index: int, patterns: Sequence[str], to: str) -> ArxError:
    """A delegation to an agent that an earlier caveat does not name."""
    return _prohibits("name_not_allowed", index, f"delegate_to of {place(rule_index)}", " or ".join(patterns), to)


def wrong_audience(index: int, allowed: Sequence[str], audience: str) -> ArxError:
    """A caveat for other services."""
    return _prohibits("wrong_audience", index, "aud", " or ".join(allowed), audience)


def no_holder(index: int) -> ArxError:
    """A proof that this version does not know how to take."""
    return _prohibits("proof_missing", index, "require", "a holder's signature", "none: not in this version")


def failures_of(error: ArxError, index: int) -> tuple[Failure, ...]:
    """Return the failures of *error*, raised by the caveat at *index*."""
    return tuple(error.failures) or (Failure(place(index), "shape", "a caveat of SPEC 6", str(error)),)


def _prohibits(code: str, index: int, rule: str, expected: str, came: str) -> ArxError:
    return ArxError(rule, code=code, failures=(Failure(place(index), rule, expected, came),))


def used_up(at: str, words: tuple[str, str]) -> Refused:
    """A ``once`` that cannot be known to be the first."""
    return Refused("already_used", (Failure(at, "once", *words),))


def ahead(at: str, by_ms: int) -> Refused:
    """A ``once`` of a time that has not come: no store remembers it surely."""
    came = f"one of {by_ms} ms from now: call again then, and set the clocks"
    return Refused("store_unavailable", (Failure(at, "once", "an approval given before now", came),))


def missing_discharge(unmet: Sequence[tuple[int, "ThirdPartyCaveat"]], tool: str) -> Refused | None:
    """What must be approved before a call of this tool and was not presented; None if nothing.

    Args:
        unmet: The third-party caveats without a discharge, each with its place.
        tool: What is asked for.
    """
    failures: list[Failure] = []
    for index, wanted in unmet:
        if len(failures) < MAX_TOLD and wanted.binds(tool):
            failures.append(Failure(place(index), "third-party caveat", f"a discharge for {_shown(wanted.id)}", "none"))
    return Refused("missing_discharge", tuple(failures)) if failures else None


def _shown(name: str) -> str:
    return name if name.isprintable() else shorten(name)


def out_of_time(nbf: int, exp: int, iat: int, early: int, late: int) -> Refused:
    """The clock is outside a token's time.

    Args:
        nbf: The latest start of validity, ms.
        exp: The earliest end.
        iat: When the mint issued it.
        early: The earliest time it can be, which the start is held to.
        late: The latest, which the end is held to.
    """
    if late >= exp:
        return Refused("expired", (Failure("token", "exp", f"a time before {exp}", str(late)),))
    if nbf == iat - IAT_AHEAD_MS:
        expected = f"a time at most {IAT_AHEAD_MS} ms after {early}"
        return Refused("not_yet_valid", (Failure("identifier", "iat", expected, str(iat)),))
    return Refused("not_yet_valid", (Failure("token", "nbf", f"a time from {nbf} on", str(early)),))


def out_of_age(age: int) -> Refused:
    """The call was signed too long ago, or too far ahead."""
    expected = f"an age of at most {MAX_AGE_MS} ms, at most {MAX_AHEAD_MS} ms ahead"
    off = f"{age} ms behind" if age >= 0 else f"{-age} ms ahead of"
    return Refused("proof_invalid", (Failure("call", "issued_at", expected, f"{off} this service's clock"),))


def no_form(error: Exception) -> Refused:
    """The request has no form that a proof could cover."""
    return Refused("malformed_request", (Failure("request", "arguments", "JSON as in RFC 8785", str(error)),))


def another_call(request: AccessRequest) -> Refused:
    """The proof is of another call."""
    what = "method, path, query and body" if request.http is not None else "tool and arguments"
    return Refused("proof_invalid", (Failure("call", "digest", f"the {what} that were signed", "others"),))


def code_of(token: object) -> str | None:
    """Return the code to refuse a token with that is no text, as it may come in a message; None for text."""
    if isinstance(token, str):
        return None
    return "missing_token" if token is None else "malformed"


def hold_request(request: object) -> None:
    """Name what was given in the place of a request.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(request, AccessRequest):
        raise TypeError(f"a verifier decides on an AccessRequest, not on {type(request).__name__}")
