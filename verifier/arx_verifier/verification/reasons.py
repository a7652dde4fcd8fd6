# SPDX-License-Identifier: Apache-2.0
"""Refusals of caveats, calls and requests: the code and the failures of each.  SPEC 13.

The other modules of this package decide when to refuse.
"""

# A failure has the expected and the received value, for people.  It never has a key, a token or a signature.

import datetime as dt
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from arx_verifier.constraints.rule import MAX_TOLD
from arx_verifier.errors import ArxError, Failure, shorten
from arx_verifier.request import AccessRequest
from arx_verifier.token import wire
from arx_verifier.token.call_proof import MAX_AGE_MS, MAX_AHEAD_MS
from arx_verifier.token.macaroon import IAT_AHEAD_MS

if TYPE_CHECKING:
    from arx_verifier.token.discharge import ThirdPartyCaveat

PLACES: Final = ("identifier", *[f"caveat {number}" for number in range(1, wire.MAX_CAVEATS + 1)])


class Refused(NamedTuple):
    """A refusal before it is recorded as a decision.

    Attributes:
        code: The reason code.
        failures: The failures for the record.
        untold: Returns all failures, if ``failures`` has only the first one; computed for the answer alone.
    """

    code: str
    failures: tuple[Failure, ...]
    untold: Callable[[], tuple[Failure, ...]] | None = None

    def all_failures(self) -> tuple[Failure, ...]:
        """Return all failures, including those that are not recorded."""
        return self.failures if self.untold is None else self.untold()


BAD_SIGNATURE: Final = Refused("bad_signature", ())
NO_STORE: Final = Refused("store_unavailable", ())
PROOF_MISSING: Final = Refused(
    "proof_missing",
    (Failure("token", "require", "a one-shot token, signed for this call", "the task's token itself: sign each call"),),
)
REPLAYED: Final = Refused("replayed", (Failure("call", "nonce", "an unused nonce", "a used one: sign the call anew"),))
BEFORE_START: Final = Refused(
    "proof_invalid",
    # A client recognizes the refusal by the rule `start`, and then signs anew by itself: SPEC 8.3.
    (Failure("call", "start", "after this service started", "an earlier signature: sign the call anew"),),
)
REQUEST_UNSEEN: Final = Refused(
    "request_unseen", (Failure("request", "body", "none, or one that is seen here", "one that may be there, unseen"),)
)
ONCE_USED: Final = ("used for one call only", "a further one")
_UNITS: Final = (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000))  # used from two of them on
ONCE_AGE: Final = ("given in the last 24 h and after this service's nonce store started", "another: request a new one")


def place(index: int) -> str:
    """Return the name of a caveat's place, counted from 0; -1 is the identifier."""
    return PLACES[index + 1]


def too_deep(index: int, to: str) -> ArxError:
    """A delegation after which the chain would be deeper than it allows."""
    return _prohibits("too_deep", index, "depth", "at least 1 for a further delegation", f"0 before {to}")


def not_named(index: int, rule_index: int, patterns: Sequence[str], to: str) -> ArxError:
    """A delegation to an agent that an earlier ``delegate_to`` does not match.

    Args:
        index: The delegation's index, from 0.
        rule_index: The index of the caveat with ``delegate_to``.
        patterns: Its patterns.
        to: The agent.
    """
    return _prohibits("name_not_allowed", index, f"delegate_to of {place(rule_index)}", " or ".join(patterns), to)


def wrong_audience(index: int, allowed: Sequence[str], audience: str) -> ArxError:
    """A caveat for other services."""
    return _prohibits("wrong_audience", index, "aud", " or ".join(allowed), audience)


def no_holder(index: int) -> ArxError:
    """A required proof by a holder's key, in a token that names none."""
    return _prohibits("proof_missing", index, "require", "a token that is bound to its holder's key", "a bearer token")


def failures_of(error: ArxError, index: int) -> tuple[Failure, ...]:
    """Return the failures of *error*, raised by the caveat at *index*."""
    return tuple(error.failures) or (Failure(place(index), "shape", "a caveat of SPEC 6", str(error)),)


def _prohibits(code: str, index: int, rule: str, expected: str, came: str) -> ArxError:
    return ArxError(rule, code=code, failures=(Failure(place(index), rule, expected, came),))


def used_up(at: str, words: tuple[str, str]) -> Refused:
    """A ``once`` that was used before, or that the store may have forgotten.

    Args:
        at: The caveat's place.
        words: The expected and the received value.
    """
    return Refused("already_used", (Failure(at, "once", *words),))


def ahead(at: str, by_ms: int) -> Refused:
    """A ``once`` whose time is in the future: a store that restarts before that time would forget its use.

    Args:
        at: The caveat's place.
        by_ms: How far in the future, ms.
    """
    came = f"one given {_span(by_ms)} from now: call again then, and set the clocks"
    return Refused("store_unavailable", (Failure(at, "once", "given before now", came),))


def pool_ahead(at: str, by_ms: int) -> Refused:
    """A pool that is opened in the future: a ledger that loses it before that time would take it for a full one.

    Args:
        at: The caveat's place.
        by_ms: How far in the future, by the ledger's clock, ms.
    """
    came = f"one opened {_span(by_ms)} from now: call again then, and set the clocks"
    return Refused("store_unavailable", (Failure(at, "spend", "a pool opened before now", came),))


def missing_discharge(unmet: Sequence[tuple[int, "ThirdPartyCaveat"]], tool: str) -> Refused | None:
    """A call of this tool without the discharges that it always needs; None if it needs none.

    Args:
        unmet: The third-party caveats without a discharge, each with its index.
        tool: The tool that the caller requests.
    """
    failures: list[Failure] = []
    for index, wanted in unmet:
        if len(failures) < MAX_TOLD and wanted.when is None and wanted.binds(tool):
            failures.append(Failure(place(index), "third-party caveat", f"a discharge for {_shown(wanted.id)}", "none"))
    return Refused("missing_discharge", tuple(failures)) if failures else None


def _shown(name: str) -> str:
    return name if name.isprintable() else shorten(name)


def out_of_time(nbf: int, exp: int, iat: int, early: int, late: int) -> Refused:
    """A request outside of the token's validity.  All times are ms since the Unix epoch.

    Args:
        nbf: The latest start of validity.
        exp: The earliest end of validity.
        iat: When the mint issued the token.
        early: The earliest possible time of the request, compared with the start.
        late: The latest possible time of the request, compared with the end.
    """
    if late >= exp:
        return Refused("expired", (too_late("token", exp, late),))
    if nbf == iat - IAT_AHEAD_MS:
        return Refused("not_yet_valid", (too_new(iat, early),))
    return Refused("not_yet_valid", (too_early("token", nbf, early),))


def too_late(at: str, exp: int, now: int) -> Failure:
    """A use at or after an end of validity.

    Args:
        at: The place of the end.
        exp: The end, ms since the Unix epoch.
        now: The time of the use, ms since the Unix epoch.
    """
    return Failure(at, "exp", f"before {show_time(exp)}", f"{show_time(now)}, {_span(now - exp)} later")


def too_early(at: str, nbf: int, now: int) -> Failure:
    """A use before a start of validity.

    Args:
        at: The place of the start.
        nbf: The start, ms since the Unix epoch.
        now: The time of the use, ms since the Unix epoch.
    """
    return Failure(at, "nbf", f"at {show_time(nbf)} or later", f"{show_time(now)}, {_span(nbf - now)} earlier")


def too_new(iat: int, now: int) -> Failure:
    """A token from the future.

    Args:
        iat: When the mint issued it, ms since the Unix epoch.
        now: The verifier's time, ms since the Unix epoch.
    """
    expected = f"at most {_span(IAT_AHEAD_MS)} after {show_time(now)}, the time here"
    return Failure("identifier", "iat", expected, f"{show_time(iat)}, {_span(iat - now)} later: set the clocks")


def show_time(ms: int) -> str:
    """Return a time in UTC, with milliseconds: refusals by a clock error are often that close."""
    try:
        second = dt.datetime.fromtimestamp(ms // 1000, dt.UTC)
    except (ValueError, OverflowError, OSError):  # a caveat's time can be beyond the year 9999
        return f"{ms} ms after 1970"
    # By ``isoformat``, in half the time of ``strftime``: an expired token may be presented again and again.
    return f"{second.isoformat(' ')[:19]}.{ms % 1000:03d}Z"


def _span(ms: int) -> str:
    """Return a length of time in a unit that a person reads at once."""
    if ms < 10_000 and ms % 1000:
        return f"{ms} ms"
    unit, size = next(((unit, size) for unit, size in _UNITS if ms >= 2 * size), ("s", 1000))
    return f"{ms / size:.0f} {unit}"


def out_of_age(age: int) -> Refused:
    """A call that was signed too long ago, or too far in the future.

    Args:
        age: Time since the signature, ms; negative in the future.
    """
    expected = f"at most {_span(MAX_AGE_MS)} before and {_span(MAX_AHEAD_MS)} after this service's time"
    came = f"{_span(age)} before it" if age >= 0 else f"{_span(-age)} after it"
    return Refused("proof_invalid", (Failure("call", "issued_at", expected, f"{came}: set the clocks"),))


def no_form(error: Exception) -> Refused:
    """A request whose arguments have no RFC 8785 form."""
    return Refused("malformed_request", (Failure("request", "arguments", "JSON as in RFC 8785", str(error)),))


def another_call(request: AccessRequest) -> Refused:
    """A call proof of another call."""
    what = "method, path, query and body" if request.http is not None else "tool and arguments"
    return Refused("proof_invalid", (Failure("call", "digest", f"the {what} that were signed", "others"),))


def code_of(token: object) -> str | None:
    """Return the reason code for a token that is not text, as a JSON message may have it; None for text."""
    if isinstance(token, str):
        return None
    return "missing_token" if token is None else "malformed"


def hold_request(request: object) -> None:
    """Raise if *request* is not an ``AccessRequest``.

    Raises:
        TypeError: It is of another class, which the text names.
    """
    if not isinstance(request, AccessRequest):
        raise TypeError(f"a verifier decides on an AccessRequest, not on {type(request).__name__}")
