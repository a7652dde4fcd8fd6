# SPDX-License-Identifier: Apache-2.0
"""Refusals of caveats, calls and requests: the code and the failures of each.  SPEC 13.

The other modules of this package decide when to refuse.
"""

# A failure has the expected and the received value, for people.  It never has a key, a token or a signature.

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
    (Failure("token", "require", "a one-shot token, signed for this call", "the task's token itself"),),
)
REPLAYED: Final = Refused("replayed", (Failure("call", "nonce", "one that was not used", "a used one"),))
BEFORE_START: Final = Refused(
    "proof_invalid",
    # A client recognizes the refusal by the rule `start`, and then signs anew by itself: SPEC 8.3.
    (Failure("call", "start", "a call signed after this service started; sign it anew", "an earlier one"),),
)
ONCE_USED: Final = ("the first call that this approval is used for", "a further one")
ONCE_AGE: Final = ("an approval of the last 24 h, given after this service's nonce store started", "another; ask anew")


def place(index: int) -> str:
    """Return the name of a caveat's place, counted from 0; -1 is the identifier."""
    return PLACES[index + 1]


def too_deep(index: int, to: str) -> ArxError:
    """A delegation after which the chain would be deeper than it allows."""
    return _prohibits("too_deep", index, "depth", "no further delegation", f"a delegation to {to}")


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
    """A required holder's signature, which this version cannot verify."""
    return _prohibits("proof_missing", index, "require", "a holder's signature", "none: not in this version")


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
    came = f"one of {by_ms} ms from now: call again then, and set the clocks"
    return Refused("store_unavailable", (Failure(at, "once", "an approval given before now", came),))


def missing_discharge(unmet: Sequence[tuple[int, "ThirdPartyCaveat"]], tool: str) -> Refused | None:
    """A call of this tool without the discharges that it needs; None if it needs none.

    Args:
        unmet: The third-party caveats without a discharge, each with its index.
        tool: The tool that the caller requests.
    """
    failures: list[Failure] = []
    for index, wanted in unmet:
        if len(failures) < MAX_TOLD and wanted.binds(tool):
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
        return Refused("expired", (Failure("token", "exp", f"a time before {exp}", str(late)),))
    if nbf == iat - IAT_AHEAD_MS:
        expected = f"a time at most {IAT_AHEAD_MS} ms after {early}"
        return Refused("not_yet_valid", (Failure("identifier", "iat", expected, str(iat)),))
    return Refused("not_yet_valid", (Failure("token", "nbf", f"a time from {nbf} on", str(early)),))


def out_of_age(age: int) -> Refused:
    """A call that was signed too long ago, or too far in the future.

    Args:
        age: Time since the signature, ms; negative in the future.
    """
    expected = f"an age of at most {MAX_AGE_MS} ms, at most {MAX_AHEAD_MS} ms ahead"
    off = f"{age} ms behind" if age >= 0 else f"{-age} ms ahead of"
    return Refused("proof_invalid", (Failure("call", "issued_at", expected, f"{off} this service's clock"),))


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
