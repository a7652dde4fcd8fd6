# SPDX-License-Identifier: Apache-2.0
"""Reason codes and the errors that carry them.  SPEC 13.

``REASONS`` has every code of a refusal; a test compares it with the table in SPEC.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

NOT_GIVEN: Final = "given"  # expected of an argument that is missing
NOT_NAMED: Final = "left out"  # expected of an argument that no rule names
# How the sentence of a failure begins: by its rule, or by the last word of a rule about an argument.
_OF_RULE: Final = {
    "arguments": "the arguments must be",
    "approve": "the call must have",
    "after": "the session must not have",
    "aud": "the service must be",
    "delegate_to": "the next holder must match",
    "digest": "the call must have",
    "distinct": "the call must have",
    "entry": "each entry must be",
    "exp": "the token must be used",
    "hours": "the call must be made in",
    "iat": "the token must be issued",
    "issued_at": "the call must be signed",
    "member": "the caveat must have only",
    "nbf": "the token must be used",
    "net": "the caller's address must be in",
    "marks": "the call must be made",
    "nonce": "the call must have",
    "once": "the approval must be",
    "only_after": "the session must have",
    "require": "the token must be",
    "size of the arguments": "the request must have",
    "spend": "the budget must have",
    "start": "the call must be signed",
    "third-party caveat": "the call must come with",
    "tool": "the tool must be",
}
_OF_ARGUMENT: Final = {
    "equal": "must be",
    "one_of": "must be one of",
    "none_of": "must be none of",
    "range": "must be between",
    "min": "must be at least",
    "max": "must be at most",
    "glob": "must match",
    "subpath": "must be a path at or below",
    "url": "must be a URL with",
    "cidr": "must be an address in",
    "length": "must have a length of",
    "min_length": "must have a length of at least",
    "max_length": "must have a length of at most",
    "contains": "must contain all of",
    "subset": "must have only items of",
    "any": "must be given, which is",  # it fails an absent argument alone, which has a sentence of its own
    "all_of": "must satisfy all of",
    "any_of": "must satisfy one of",
    "not": "must not satisfy",
    "each": "must be a list whose items satisfy",
    "fields": "must be an object with the fields",
}
_WHOLE: Final = ("token", "call", "request", "service")  # places that the sentence names itself
_IN_TOKEN: Final = ("identifier", "caveat ")  # places that only a reader of the token can find
_LIMIT: Final = "delegate_to of "  # begins the rule of a next holder; the place of the limit follows


# Only the refusal of an authenticated token has failures: before that, they would answer an attacker's probes.
class Failure(NamedTuple):
    """One condition that did not hold.

    Attributes:
        place: Where the condition is: ``"identifier"``, ``"caveat 3"``, ``"request"``.
        rule: The condition in the caveat's own words, for example ``amount range``.
        expected: What would have been allowed.
        came: What the request had, shortened; never a secret.
    """

    place: str
    rule: str
    expected: str
    came: str

    def __str__(self) -> str:
        """Return the sentence without a place in the token, such as ``amount must be at most 20, got 50``.  SPEC 13."""
        place = self.place
        return self._sentence("" if place in _WHOLE or place.startswith(_IN_TOKEN) else f" ({place})")

    def located(self) -> str:
        """Return the sentence with the condition's place, such as ``(caveat 2)``, for a reader of the token."""
        place = self.rule if self.rule.startswith(_LIMIT) else self.place
        return self._sentence("" if place in _WHOLE else f" ({place})")

    def _sentence(self, at: str) -> str:
        _, rule, expected, came = self
        if rule.startswith(_LIMIT):
            rule = "delegate_to"
        if not expected and not came:  # an erased record keeps places and rules
            return f"{rule}: erased{at}"
        name, _, word = rule.rpartition(" ")
        if expected in (NOT_GIVEN, NOT_NAMED):  # first: an argument can have the name of a rule
            begins = f"{rule} must be"
        elif rule == "shape":
            return f"{came}{at}"
        elif rule in _OF_RULE:
            begins = _OF_RULE[rule]
        elif name and word in _OF_ARGUMENT:
            begins = f"{name} {_OF_ARGUMENT[word]}"
            if word == "range" and expected.startswith("["):
                expected = expected[1:-1].replace(",", " and ")
        else:
            begins = f"{rule} must be"
        return f"{begins} {expected}{at}, got {came}"


class Shortfall(Failure):
    """A pool that has less than a call costs.

    Attributes:
        pool: The pool's name.
        hop: The agent that held the token when the pool was opened.
        unit: Its unit.
        remaining: What it has left, decimal text.
        required: What the call costs, decimal text.
    """

    pool: str
    hop: str
    unit: str
    remaining: str
    required: str

    @classmethod
    def of(
        cls, place: str, pool: str, hop: str, unit: str, remaining: str, required: str, *, lost_ms: int | None = None
    ) -> "Shortfall":
        """Return the failure of a call.

        Args:
            place: Where the pool is in the token.
            pool: Its name.
            hop: The agent that held the token when it was opened.
            unit: Its unit.
            remaining: What it has left, decimal text.
            required: What the call costs, decimal text.
            lost_ms: If the ledger may have lost what was drawn from it, the time in which new pools are lost too, ms;
                else None.
        """
        came = f"{remaining} {unit} left in {pool}, opened by {hop}"
        if lost_ms is not None:
            when = f"in {-(-lost_ms // 1000) + 1} s" if lost_ms else "now"
            came += f"; the ledger began anew since then: start another task {when}, or let an operator top it up"
        failure = cls(place, "spend", f"{required} {unit}", came)
        failure.pool, failure.hop, failure.unit = pool, hop, unit
        failure.remaining, failure.required = remaining, required
        return failure

    def budget(self) -> dict[str, str]:
        """Return the members for a program."""
        return {
            "pool": self.pool,
            "hop": self.hop,
            "unit": self.unit,
            "remaining": self.remaining,
            "required": self.required,
        }


class ArxError(Exception):
    """The base of all errors.  Catch ``TokenError``, ``AccessError``, ``UnavailableError`` or ``GrantError``.

    Its text and members never contain a key, a token or a signature.

    Attributes:
        code: The stable, public reason code.
        status_hint: The HTTP status that fits.
        failures: The conditions that did not hold, if the caller may know them.
        hint: What to do next, in the imperative; None if the text is enough.  A traceback shows it as a note.
    """

    code: str = "malformed"
    status_hint: int = 401
    failures: tuple[Failure, ...] = ()
    hint: str | None = None

    def __init__(
        self, message: str, *, code: str | None = None, failures: Sequence[Failure] = (), hint: str | None = None
    ) -> None:
        Exception.__init__(self, message)  # three times as fast as ``super()``, and every refusal comes here
        if failures:
            self.failures = tuple(failures)
        if code is not None:
            self.code = code
            reason = REASONS.get(code)
            if reason is not None:
                self.status_hint = reason.status
        if hint is not None:
            self.hint = hint
            self.add_note(f"hint: {hint}")


class TokenError(ArxError):
    """The presented token is not usable."""

    status_hint = 401


class MalformedTokenError(TokenError):
    """The bytes violate SPEC 2 or 3: size, version, shape or byte form."""

    code = "malformed"


class ValidityError(TokenError):
    """The token is authentic, but not for this audience or not at this time."""

    code = "expired"


class RevokedError(TokenError):
    """A target of this token was killed after the token's birth, or is frozen."""

    code = "revoked"


class UnknownCaveatError(TokenError):
    """The token has a caveat that this version does not know."""

    code = "unknown_caveat"


class ProofError(TokenError):
    """The call proof is missing, invalid, or was used before."""

    code = "proof_invalid"


class AccessError(ArxError):
    """The token is authentic, but does not allow the call."""

    code = "tool_not_allowed"
    status_hint = 403


class BudgetError(AccessError):
    """A budget of the token cannot take the call."""

    code = "insufficient_budget"


class UnavailableError(ArxError):
    """The decision is not possible now, so the call is refused."""

    code = "stale"
    status_hint = 503


class StaleEpochError(UnavailableError):
    """The view of the revocation epoch is too old, behind, fenced or closed."""


class AuditError(UnavailableError):
    """The decision could not be recorded.

    Attributes:
        counted: Whether the refusal that replaces it was counted already, and must not be recorded.
    """

    counted = False
    code = "audit_unavailable"


class StoreError(UnavailableError):
    """A store that the decision or the command needs did not answer."""

    code = "store_unavailable"


class GrantError(ArxError):
    """The mint's policy does not allow the request."""

    code = "not_granted"
    status_hint = 403


class AttenuationError(ArxError):
    """A holder's mistake, such as a caveat added to a one-shot token."""

    code = "attenuation"
    status_hint = 400


class SettingsError(ArxError):
    """A setting, a file or a key is missing or invalid; start-up is refused."""

    code = "settings"
    status_hint = 500


class RequestError(ArxError):
    """The request itself, not its token, is malformed."""

    code = "malformed_request"
    status_hint = 400


class Reason(NamedTuple):
    """One reason code.

    Attributes:
        status: HTTP status of the answer.
        oauth_error: The RFC 6750 error of the answer, or None where that RFC has none.
        retry: What a client can do about it.
        error: The class of the error that carries the code.
        meaning: What the code means, for people.
    """

    status: int
    oauth_error: str | None
    retry: str
    error: type[ArxError]
    meaning: str


_NEW_TOKEN: Final = (401, "invalid_token", "with a new token")
_ENDED: Final = (401, "invalid_token", "no")
_NO: Final = (403, "insufficient_scope", "no")
_SIGN_ANEW: Final = (401, "invalid_token", "sign anew")
_LATER: Final = (503, None, "after Retry-After")

# A new code is one row here, one in SPEC 13, and the place that refuses with it.
REASONS: Final[dict[str, Reason]] = {
    "missing_token": Reason(401, None, "with a token", TokenError, "the request carries no token"),
    "malformed_request": Reason(
        400,
        "invalid_request",
        "with a well-formed request",
        RequestError,
        "the request cannot be read in exactly one way",
    ),
    "malformed": Reason(*_NEW_TOKEN, MalformedTokenError, "the token is not a canonical ARx token of this version"),
    "unknown_key": Reason(*_NEW_TOKEN, TokenError, "the token was made with a key that this service does not have"),
    "bad_signature": Reason(*_NEW_TOKEN, TokenError, "the token was altered, or was not made for this service's key"),
    "unknown_caveat": Reason(*_NEW_TOKEN, UnknownCaveatError, "the token has a caveat that this version does not know"),
    "wrong_audience": Reason(*_NEW_TOKEN, ValidityError, "the token is for another service"),
    "not_yet_valid": Reason(*_NEW_TOKEN, ValidityError, "the token is not valid yet"),
    "expired": Reason(*_NEW_TOKEN, ValidityError, "the token has expired"),
    "revoked": Reason(
        *_ENDED,
        RevokedError,
        "an operator ended this work, or its session did: stop, and report it; a thawed agent needs a new task",
    ),
    "frozen": Reason(
        *_ENDED,
        RevokedError,
        "an operator froze this work, or ended an agent or a person that it depends on: stop, and report it",
    ),
    "missing_discharge": Reason(
        403,
        "insufficient_scope",
        "after approval",
        AccessError,
        "the call needs an approval that was not presented: request it",
    ),
    "tool_not_allowed": Reason(*_NO, AccessError, "the token does not allow this tool"),
    "argument_not_allowed": Reason(*_NO, AccessError, "the token does not allow these arguments"),
    "request_unseen": Reason(
        403,
        None,
        "no",
        AccessError,
        "the decision needs the body of the request, which is not seen here: make the call at another address",
    ),
    "too_deep": Reason(*_NO, AccessError, "the token was delegated more often than it allows"),
    "name_not_allowed": Reason(*_NO, AccessError, "the token was delegated to an agent that it does not allow"),
    "network_not_allowed": Reason(*_NO, AccessError, "the token does not allow calls from this address"),
    "over_service_limit": Reason(
        *_NO, AccessError, "the service's own limits do not allow the call, whatever its token allows"
    ),
    "already_used": Reason(*_NO, AccessError, "a one-time approval is used up"),
    "insufficient_budget": Reason(*_NO, BudgetError, "a budget of the token has less left than the call costs"),
    "budget_exhausted": Reason(*_NO, BudgetError, "a budget of the token has nothing left"),
    "budget_unsupported": Reason(
        *_NO, BudgetError, "the token has a budget, and this service keeps none or declares no cost of the tool in it"
    ),
    "after_mark": Reason(*_NO, AccessError, "what this session has done before does not allow the call"),
    "mark_missing": Reason(*_NO, AccessError, "the call needs something that this session has not done yet"),
    "mark_unsupported": Reason(*_NO, AccessError, "the token has rules about marks that this service cannot keep"),
    "withheld": Reason(*_NO, AccessError, "entries of a memory were withheld, as they are not trusted"),
    "proof_missing": Reason(
        *_SIGN_ANEW, ProofError, "the token requires a signature of each call, and this call has none: sign it"
    ),
    "proof_invalid": Reason(
        *_SIGN_ANEW, ProofError, "the signature is for another call, or too old: sign this call anew"
    ),
    "replayed": Reason(*_SIGN_ANEW, ProofError, "this call was made before: sign it anew"),
    "syncing": Reason(*_LATER, StaleEpochError, "this verifier is still loading the revocation epoch"),
    "stale": Reason(*_LATER, StaleEpochError, "this verifier's view of the revocation epoch is too old"),
    "behind": Reason(*_LATER, StaleEpochError, "this verifier has not applied the revocation epoch of this token yet"),
    "fenced": Reason(*_LATER, StaleEpochError, "this verifier does not trust its revocation store"),
    "closed": Reason(*_LATER, StaleEpochError, "this verifier is shut down"),
    "store_unavailable": Reason(*_LATER, StoreError, "a store that the decision needs did not answer"),
    "audit_unavailable": Reason(*_LATER, AuditError, "the decision could not be recorded"),
}


def refusal(code: str, failures: Sequence[Failure] = ()) -> ArxError:
    """Return the error of a reason code.

    Args:
        code: A key of ``REASONS``.
        failures: The conditions that did not hold.

    Returns:
        An instance of the class that callers catch for this code.

    Raises:
        KeyError: The code is not in ``REASONS``: a programmer's mistake.
    """
    return REASONS[code].error(sentence_of(code, failures), code=code, failures=failures)


# "discharge" names what is missing; a developer must know how to get it.
_APPROVAL_STEP: Final = (
    "; an operator must approve this call: request it with task.ask_approval(tool, args).wait(), and send the approval"
)


def sentence_of(code: str, failures: Sequence[Failure] = ()) -> str:
    """Return a refusal as text for people, such as ``argument not allowed: amount must be at most 20, got 50``.

    Args:
        code: A key of ``REASONS``.
        failures: The conditions that did not hold; without any, the text is what the code means.
    """
    if not failures:
        return REASONS[code].meaning
    next_step = _APPROVAL_STEP if code == "missing_discharge" else ""
    return f"{code.replace('_', ' ')}: {'; '.join(map(str, failures))}{next_step}"


_LONG: Final = 1 << 64  # integers below it are written in full
_WORDS: Final = {None: "null", True: "true", False: "false"}  # as in JSON, in which callers send them


def shorten(value: Any, limit: int = 80) -> str:
    """Return a value as text for a refusal: one line, bounded, with its type visible (``"5"`` is not ``5``).

    Args:
        value: Any value.
        limit: The longest text, characters.
    """
    # An attacker may have chosen the value: no method of its class is called, and the work does not grow with its size.
    kind = type(value)
    if kind is str and len(value) < limit - 1 and value.isprintable():
        return f'"{value}"'
    if kind is int and -_LONG < value < _LONG:
        return str(value)
    if isinstance(value, str):
        text = '"' + value[:limit] + '"' if len(value) <= limit else '"' + value[:limit]
    elif type(value) is int:
        text = str(value) if value.bit_length() < 256 else f"an integer of {value.bit_length()} bits"
    elif value is None or type(value) is bool:
        text = _WORDS[value]
    elif type(value) is float:
        text = str(value)
    elif type(value) in (list, dict):
        text = ascii(value) if _is_plain(value) else f"a {type(value).__name__} of {len(value)}"
    else:
        text = f"a {type(value).__name__}"
    if not text.isprintable():
        text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _is_plain(value: Any) -> bool:
    """Return whether a container is small and contains only short text and small numbers."""
    items = [*value, *value.values()] if isinstance(value, dict) else value
    return len(value) <= 8 and all(
        item is None
        or type(item) in (bool, float)
        or (type(item) is int and item.bit_length() < 64)
        or (type(item) is str and len(item) <= 40)
        for item in items
    )
