# SPDX-License-Identifier: Apache-2.0
"""What a verifier says of the token, the call or the request that it refuses.  SPEC 13.

Facts for people: what was expected and what came, never a key, a token or a signature.  When to refuse is decided in
``verifier``.
"""

from typing import Final

from arx_verifier.constraints.rule import MAX_TOLD
from arx_verifier.errors import Failure, shorten
from arx_verifier.request import AccessRequest
from arx_verifier.token.call_proof import MAX_AGE_MS, MAX_AHEAD_MS
from arx_verifier.token.macaroon import IAT_AHEAD_MS
from arx_verifier.verification.chain_state import ProvenChain, Refused
from arx_verifier.verification.prohibiting import place

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


def used_up(at: str, words: tuple[str, str]) -> Refused:
    """A ``once`` that cannot be known to be the first."""
    return Refused("already_used", (Failure(at, "once", *words),))


def ahead(at: str, by_ms: int) -> Refused:
    """A ``once`` of a time that has not come: no store remembers it surely."""
    came = f"one of {by_ms} ms from now: call again then, and set the clocks"
    return Refused("store_unavailable", (Failure(at, "once", "an approval given before now", came),))


def missing_discharge(proven: ProvenChain, tool: str) -> Refused | None:
    """What must be approved before a call of this tool and was not presented; None if nothing."""
    failures: list[Failure] = []
    for index, wanted in proven.unmet:
        if len(failures) < MAX_TOLD and wanted.binds(tool):
            failures.append(Failure(place(index), "third-party caveat", f"a discharge for {_shown(wanted.id)}", "none"))
    return Refused("missing_discharge", tuple(failures)) if failures else None


def _shown(name: str) -> str:
    return name if name.isprintable() else shorten(name)


def out_of_time(proven: ProvenChain, early: int, late: int) -> Refused:
    """The clock is outside; by the later reading for the end, by the earlier for the start."""
    if late >= proven.exp:
        return Refused("expired", (Failure("token", "exp", f"a time before {proven.exp}", str(late)),))
    if proven.nbf == proven.identifier.iat - IAT_AHEAD_MS:
        expected = f"a time at most {IAT_AHEAD_MS} ms after {early}"
        return Refused("not_yet_valid", (Failure("identifier", "iat", expected, str(proven.identifier.iat)),))
    return Refused("not_yet_valid", (Failure("token", "nbf", f"a time from {proven.nbf} on", str(early)),))


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
