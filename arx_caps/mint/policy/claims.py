# SPDX-License-Identifier: Apache-2.0
"""Rules of a policy for the claims of an issuer's token, and their evaluation.  CONTROL 1.4.

Which issuer's tokens they apply to is in ``issuers``.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias, Union

from arx_caps.settings.toml_file import TomlEntry, several
from arx_verifier.errors import shorten

MAX_PATTERN_CHARS: Final = 512
MAX_NESTING: Final = 4  # one more than the claims of Kubernetes

# Text, alternatives of text, a flag, a number, or rules for the members of an object.
ClaimRule: TypeAlias = Union[str, bool, int, list[str], "dict[str, ClaimRule]"]
Claims: TypeAlias = Annotated[dict[str, Any], several("claim", 'for example { sub = "…" }')]  # ClaimRules

# ``*`` matches one piece between separators.  Strangers choose the names of branches, repositories and accounts: such a
# name must not reach into the next part of a claim, nor be empty.
_SEPARATOR: Final = re.compile(r"([^A-Za-z0-9._-])")
_PATTERN_SEPARATOR: Final = re.compile(r"([^A-Za-z0-9._*-])")


def check_claims(entry: TomlEntry, claims: Mapping[str, Any], level: int = 1) -> None:
    """Check the rules for claims that an entry of a policy has.

    Args:
        entry: The entry, for errors.
        claims: The rules, as written.
        level: The depth of nesting, from 1.

    Raises:
        SettingsError: One is not a rule, or no claim can match it.
    """
    # An empty table would match every value, which its author can hardly mean.
    if not claims:
        raise entry.error('expected at least one claim, such as { sub = "…" }')
    if level > MAX_NESTING:
        raise entry.error(f"expected at most {MAX_NESTING} levels of nested claims, got more")
    for name, value in claims.items():
        claim = entry.at(name)
        if isinstance(value, dict):
            check_claims(claim, value, level + 1)
        elif isinstance(value, list):
            if not value or not all(isinstance(text, str) for text in value):
                raise claim.error('expected text, or a list of texts such as ["a", "b"], one of which must match')
            for index, text in enumerate(value):
                _check_text(claim.at(index), text)
        elif isinstance(value, str):
            _check_text(claim, value)
        elif not isinstance(value, int):  # a bool is an int as well
            raise claim.error(f"expected text, a list of texts, a number, true or false, got {shorten(value)}")


def keeps(rules: Mapping[str, ClaimRule], claims: Mapping[str, Any]) -> bool:
    """Return whether a token has every claim of the rules, each with a matching value."""
    # A missing claim never matches: rules only restrict.
    return all(name in claims and _fits(rule, claims[name]) for name, rule in rules.items())


def fits_text(pattern: str, text: str) -> bool:
    """Return whether a text matches a pattern, piece by piece between equal separators."""
    wanted, given = _PATTERN_SEPARATOR.split(pattern), _SEPARATOR.split(text)
    return len(wanted) == len(given) and all(map(_fits_piece, wanted, given))


def _fits_piece(wanted: str, given: str) -> bool:
    before, star, after = wanted.partition("*")
    if not star:
        return wanted == given
    # A piece of dots alone is a step to another directory where the claim is used as a path.
    long_enough = len(given) > len(before) + len(after) and given.strip(".") != ""
    return long_enough and given.startswith(before) and given.endswith(after) and _SEPARATOR.search(given) is None


def _fits(rule: ClaimRule, claim: Any) -> bool:
    if isinstance(rule, dict):
        return isinstance(claim, dict) and keeps(rule, claim)
    if isinstance(rule, list):
        return any(_fits(alternative, claim) for alternative in rule)
    if isinstance(rule, str):
        texts = claim if isinstance(claim, list) else [claim]
        return any(isinstance(text, str) and fits_text(rule, text) for text in texts)
    return type(claim) is type(rule) and claim == rule  # in Python, 1 equals True and 1.0


def _check_text(entry: TomlEntry, text: str) -> None:
    if not 0 < len(text) <= MAX_PATTERN_CHARS:
        raise entry.error(f"expected text of 1 to {MAX_PATTERN_CHARS} characters, got {shorten(text)}")
    if any(piece.count("*") > 1 for piece in _PATTERN_SEPARATOR.split(text)):
        # A second star would match in more than one way, and take time that grows with the text.
        raise entry.error("expected at most one `*` between separators, got more; `**` does not exist")
