# SPDX-License-Identifier: Apache-2.0
"""Third-party caveats for approvals, and discharges that answer them. SPEC 6.4, CONTROL 2.7.

``approvals`` decides which call gets a discharge.
"""

# The key of a third-party caveat is derived from the audience key and the caveat's id, which is key id and task. So no
# key is stored that could be stolen, and a token that is signed again requires the same discharge, byte for byte.

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from arx_caps.mint.db.tables import ApprovalRow
from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.settings.toml_file import MISLEADING
from arx_verifier import jcs
from arx_verifier.constraints.constraint import Constraint, ConstraintLike
from arx_verifier.constraints.rule import Rule
from arx_verifier.constraints.scalars import is_integer
from arx_verifier.errors import ArxError, AttenuationError, GrantError, MalformedTokenError, shorten
from arx_verifier.limits import MAX_NESTING
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.discharge import ThirdPartyCaveat, caveat_key, issue_discharge, require_discharge
from arx_verifier.token.macaroon import Macaroon

MAX_ARGUMENT_BYTES: Final = 2048  # of approved arguments as constraints: they travel in one header of the call

# Invisible characters: with them, one account number could be shown as another one. Joiners and variation selectors
# belong to letters and emoji of other scripts, and are refused beside ASCII alone, where they are invisible.
_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<=[\0-\x7f])[\u200c\u200d\ufe00-\ufe0f](?!\u20e3)|^[\u200c\u200d\ufe00-\ufe0f]|[\u200c\u200d](?=[\0-\x7f]|$)"
)

Tools = tuple[str, ...]
Value = TypeVar("Value")


class ApprovalCaveat(NamedTuple):
    """The content of a third-party caveat of the mint: key id, task, tools, and marks."""

    kid: str
    task: str
    tools: Tools
    when: tuple[tuple[str, ...], ...]


def require_approvals(made: Macaroon, kid: str, key: bytes, task: str, needs: Iterable[Any]) -> Macaroon:
    """Return a token whose calls of some tools need a discharge.

    Args:
        made: The token, with all other caveats of the mint.
        kid: The id of the key that it is signed with.
        key: That key.
        task: The task.
        needs: The terms of each approval, ``ApprovalTerms``, or as a recipe has them; those of release 0.2.0 have tools
            alone.

    Raises:
        AttenuationError: It would be too large.
    """
    for each in needs:
        terms = msgspec.convert({"tools": each} if isinstance(each, list) else each, ApprovalTerms)
        third_party = terms.third_party(kid, task)
        made = require_discharge(made, third_party.encode(), caveat_key(key, third_party.id))
    return made


def read_third_party(text: str) -> ApprovalCaveat:
    """Parse a third-party caveat.

    Args:
        text: The caveat, with the bytes of the token.

    Raises:
        GrantError: ``bad_parameters``: it is not a caveat of this mint.
    """
    try:
        third_party = ThirdPartyCaveat.read(text.encode())
    except (ArxError, UnicodeEncodeError) as error:
        raise GrantError(
            "invalid caveat: expected a third-party caveat of the token, byte for byte", code="bad_parameters"
        ) from error
    kid, _, task = third_party.id.partition(":")
    if third_party.tools is None:
        raise GrantError("invalid caveat: expected one of this mint, with tools", code="bad_parameters")
    return ApprovalCaveat(kid, task, third_party.tools, third_party.when or ())


def make_discharge(row: ApprovalRow, key: bytes, realm: str) -> str:
    """Return the discharge of an approval, a secret; the same bytes for each call.

    Args:
        row: The approval's row, approved.
        key: The audience key of its third-party caveat.
        realm: The realm's name.
    """
    args = constraints_of(row.args)
    # Its own target, so that a withdrawal can revoke it, and those of its approvers, so that it ends with them; the
    # approval's times, so that it is alike each time it is made.
    caveat = Caveat(
        allow=(Rule(tool=row.tool, args=args),),
        exp=row.expires_at,
        once=(row.id, row.approved_at or 0) if row.once else None,
        task=row.id,
        operators=row.by,
        shown=None if row.marks is None else tuple([(each.mark, each.set_at) for each in row.marks]),
    )
    third_party = row.caveat.encode()
    return issue_discharge(
        third_party, caveat_key(key, ThirdPartyCaveat.read(third_party).id), realm=realm, caveats=(caveat,)
    ).encode()


def constraints_of(args: Mapping[str, Any]) -> dict[str, ConstraintLike]:
    """Return constraints that exactly these arguments satisfy.

    Raises:
        GrantError: ``bad_parameters``: the arguments are too long, or one cannot be fixed or shown as it is.
    """
    try:
        constraints = {_require_visible(name): _constraint_of(name, value) for name, value in args.items()}
        size = len(jcs.encode(Caveat(allow=(Rule(tool="*", args=constraints),))))
    except (AttenuationError, MalformedTokenError) as error:
        raise GrantError(f"args: {error}", code="bad_parameters") from error
    if size > MAX_ARGUMENT_BYTES:
        raise GrantError(
            f"args: too long for a header: expected at most {MAX_ARGUMENT_BYTES} bytes as constraints, got {size}",
            code="bad_parameters",
        )
    return constraints


def _constraint_of(name: str, value: Any, levels: int = MAX_NESTING) -> ConstraintLike:
    """Return the constraint of exactly this value, which is in the argument *name*."""
    if _is_scalar(value):
        scalar: ConstraintLike = int(value) if type(value) is float else _require_visible(value)
        return scalar
    if isinstance(value, list) and all(map(_is_scalar, value)):
        # In its order: in a list of payees and amounts, another order would be another payment.
        return Constraint(equal=tuple([_constraint_of(name, item) for item in value]))  # type: ignore[misc]  # scalars
    if levels and isinstance(value, list):
        return Constraint(each=tuple([_constraint_of(name, item, levels - 1) for item in value]))
    if levels and isinstance(value, dict):
        members = {_require_visible(key): _constraint_of(name, item, levels - 1) for key, item in value.items()}
        return Constraint(fields=members)
    raise GrantError(
        f"args: {shorten(name)} cannot be approved: only texts, integers, true, false, and lists and objects of these "
        f"up to {MAX_NESTING} deep can, no null and no fraction (write 10.5 as text)",
        code="bad_parameters",
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bool)) or is_integer(value)


def _require_visible(value: Value) -> Value:
    """Return a value, and refuse text that people see otherwise than a service reads it."""
    misleading = MISLEADING.search(value) or _UNSEEN.search(value) if isinstance(value, str) else None
    if misleading is not None:
        raise GrantError(
            f"args: a text has U+{ord(misleading[0]):04X}, so that operators would see another text than the service",
            code="bad_parameters",
        )
    return value
