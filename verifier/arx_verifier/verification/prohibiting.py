# SPDX-License-Identifier: Apache-2.0
"""What in a chain prohibits every call, whatever is asked, and how that is told.  SPEC 6, 13.

Here stand the texts alone; where they apply is ``chain_state``'s to say.
"""

from collections.abc import Sequence
from typing import Final

from arx_verifier.errors import ArxError, Failure
from arx_verifier.token import wire

PLACES: Final = ("identifier", *[f"caveat {number}" for number in range(1, wire.MAX_CAVEATS + 1)])


def place(index: int) -> str:
    """Return how a caveat is called, counted from 0; -1 is the identifier."""
    return PLACES[index + 1]


def too_deep(index: int, to: str) -> ArxError:
    """A delegation where none may follow."""
    return _prohibits("too_deep", index, "depth", "no further delegation", f"a delegation to {to}")


def not_named(index: int, rule_index: int, patterns: Sequence[str], to: str) -> ArxError:
    """A delegation to somebody whom an earlier caveat does not name."""
    return _prohibits("name_not_allowed", index, f"delegate_to of {place(rule_index)}", " or ".join(patterns), to)


def wrong_audience(index: int, allowed: Sequence[str], audience: str) -> ArxError:
    """A caveat for other services."""
    return _prohibits("wrong_audience", index, "aud", " or ".join(allowed), audience)


def no_holder(index: int) -> ArxError:
    """A proof that this version does not know how to take."""
    return _prohibits("proof_missing", index, "require", "a holder's signature", "none: not in this version")


def failures_of(error: ArxError, index: int) -> tuple[Failure, ...]:
    """Say what does not hold in the caveat at *index*, of which *error* told."""
    return tuple(error.failures) or (Failure(place(index), "shape", "a caveat of SPEC 6", str(error)),)


def _prohibits(code: str, index: int, rule: str, expected: str, came: str) -> ArxError:
    return ArxError(rule, code=code, failures=(Failure(place(index), rule, expected, came),))
