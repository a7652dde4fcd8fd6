# SPDX-License-Identifier: Apache-2.0
"""Rules of a policy for the claims of an issuer's token, and whether a token keeps them.

A rule only restricts: every claim that it names must be in the token and match.  A text matches when it is equal, or by
``*``, which matches one piece between separators and never crosses one.  So a name that a stranger may choose (a
branch, a repository, an account) can neither reach into the next part of a claim nor be empty.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias, Union

from arx_caps.mint.policy.parse import PolicyEntry, several
from arx_verifier.errors import shorten

MAX_PATTERN_CHARS: Final = 512
MAX_NESTING: Final = 4  # claims of Kubernetes go down three levels

# A text, one of several texts, a flag, a number, or the same for the members of an object.
ClaimRule: TypeAlias = Union[str, bool, int, list[str], "dict[str, ClaimRule]"]
Claims: TypeAlias = Annotated[dict[str, Any], several("claim", 'for example { sub = "…" }')]  # ClaimRules

_SEPARATOR: Final = re.compile(r"([^A-Za-z0-9._-])")
_PATTERN_SEPARATOR: Final = re.compile(r"([^A-Za-z0-9._*-])")


def check_claims(entry: PolicyEntry, claims: Mapping[str, Any], level: int = 1) -> None:
    """Check the claims that are required.

    Args:
        entry: Where they are.
        claims: What is written there.
        level: How deep this is.

    Raises:
        SettingsError: It is no rule, or one that nothing could keep.
    """
    if not claims:
        raise entry.error('name at least one claim, such as { sub = "…" }')
    if level > MAX_NESTING:
        raise entry.error(f"claims are nested at most {MAX_NESTING} levels deep")
    for name, value in claims.items():
        claim = entry.at(name)
        if isinstance(value, dict):
            check_claims(claim, value, level + 1)
        elif isinstance(value, list):
            if not value or not all(isinstance(text, str) for text in value):
                raise claim.error('expected text, or a list of texts such as ["a", "b"], of which one must fit')
            for index, text in enumerate(value):
                _check_text(claim.at(index), text)
        elif isinstance(value, str):
            _check_text(claim, value)
        elif not isinstance(value, int):  # nor true or false
            raise claim.error(f"expected text, a list of texts, a number, true or false, got {shorten(value)}")


def keeps(rules: Mapping[str, ClaimRule], claims: Mapping[str, Any]) -> bool:
    """Tell whether a token's claims keep every rule."""
    return all(name in claims and _fits(rule, claims[name]) for name, rule in rules.items())


def fits_text(pattern: str, text: str) -> bool:
    """Tell whether a text fits a pattern, piece by piece between the same separators."""
    wanted, came = _PATTERN_SEPARATOR.split(pattern), _SEPARATOR.split(text)
    return len(wanted) == len(came) and all(map(_fits_piece, wanted, came))


def _fits_piece(wanted: str, came: str) -> bool:
    before, star, after = wanted.partition("*")
    if not star:
        return wanted == came
    # A piece of dots alone would be another place in a path.
    long_enough = len(came) > len(before) + len(after) and came.strip(".") != ""
    return long_enough and came.startswith(before) and came.endswith(after) and _SEPARATOR.search(came) is None


def _fits(rule: ClaimRule, claim: Any) -> bool:
    if isinstance(rule, dict):
        return isinstance(claim, dict) and keeps(rule, claim)
    if isinstance(rule, list):
        return any(_fits(one, claim) for one in rule)
    if isinstance(rule, str):
        texts = claim if isinstance(claim, list) else [claim]
        return any(isinstance(text, str) and fits_text(rule, text) for text in texts)
    return type(claim) is type(rule) and claim == rule  # true is no 1, and 1.0 neither


def _check_text(entry: PolicyEntry, text: str) -> None:
    if not 0 < len(text) <= MAX_PATTERN_CHARS:
        raise entry.error(f"expected text of 1 to {MAX_PATTERN_CHARS} characters, got {shorten(text)}")
    if any(piece.count("*") > 1 for piece in _PATTERN_SEPARATOR.split(text)):
        raise entry.error("`*` stands for one piece between separators, once in each; there is no `**`")
