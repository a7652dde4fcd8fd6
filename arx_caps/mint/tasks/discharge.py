# SPDX-License-Identifier: Apache-2.0
"""Require approvals in tokens, and make the discharges that answer them.  SPEC 6.4, CONTROL 2.7.

The key of a third-party caveat is derived from the audience key and from the caveat's name, which is the key id and the
task.  So no key is stored that could be stolen, and signing again requires the same in the same bytes.  ``approvals``
decides which call may have a discharge.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from arx_caps.mint.policy.parse import MISLEADING
from arx_verifier import jcs
from arx_verifier.constraints import Constraint, ConstraintLike, Rule
from arx_verifier.errors import ArxError, GrantError, shorten
from arx_verifier.jcs import MAX_INTEGER
from arx_verifier.token import Caveat, Macaroon, ThirdPartyCaveat, caveat_key, issue_discharge, require_discharge

MAX_ARGUMENT_BYTES: Final = 2048  # of what is approved, written as constraints: it travels with the call, in one header

# What is not seen at all, so that one account's number looks like another's.  Joiners and variants of signs belong to
# letters and emoji of other scripts, and are unseen beside ASCII.
_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|(?<=[\0-\x7f])[\u200c\u200d\ufe00-\ufe0f](?!\u20e3)|^[\u200c\u200d\ufe00-\ufe0f]|[\u200c\u200d](?=[\0-\x7f]|$)"
)

Tools = tuple[str, ...]
Shown = TypeVar("Shown")


class ApprovalCaveat(NamedTuple):
    """What a third-party caveat of the mint says: for which key and task, and of which tools' calls."""

    kid: str
    task: str
    tools: Tools


def require_approvals(made: Macaroon, kid: str, key: bytes, task: str, needs: Iterable[Sequence[str]]) -> Macaroon:
    """Return a token whose calls of some tools need an approval.

    Args:
        made: The token, with all that the mint says by itself.
        kid: The id of the key that it is signed with.
        key: That key.
        task: The task.
        needs: The tools of each approval.

    Raises:
        AttenuationError: It would be too large.
    """
    for tools in needs:
        third_party = third_party_of(kid, task, tools)
        made = require_discharge(made, third_party.encode(), caveat_key(key, third_party.id))
    return made


def third_party_of(kid: str, task: str, tools: Sequence[str]) -> ThirdPartyCaveat:
    """Return what a token of a task requires for some tools, by the id of its key."""
    return ThirdPartyCaveat(id=f"{kid}:{task}", tools=tuple(tools))


def read_third_party(text: str) -> ApprovalCaveat:
    """Read a third-party caveat as it stands in a token.

    Raises:
        GrantError: ``bad_parameters``: it is none of this mint's.
    """
    try:
        third_party = ThirdPartyCaveat.read(text.encode())
    except (ArxError, UnicodeEncodeError) as error:
        raise GrantError("caveat is what the token says it needs, byte for byte", code="bad_parameters") from error
    kid, _, task = third_party.id.partition(":")
    if third_party.tools is None:
        raise GrantError("caveat is not one of this mint's: its own name their tools", code="bad_parameters")
    return ApprovalCaveat(kid, task, third_party.tools)


def make_discharge(row: Mapping[str, Any], key: bytes, realm: str) -> str:
    """Make the discharge of an approval, the same one each time; a secret.

    Args:
        row: The approval's row, approved.
        key: The audience key that its third-party caveat names.
        realm: The realm's name.
    """
    args = constraints_of(msgspec.json.decode(row["args"], type=dict[str, Any]))
    caveat = Caveat(
        allow=(Rule(tool=row["tool"], args=args),),
        exp=row["expires_at"],
        once=(row["id"], row["approved_at"]) if row["once"] else None,
        task=row["id"],
    )
    third_party = row["caveat"].encode()
    return issue_discharge(
        third_party, caveat_key(key, ThirdPartyCaveat.read(third_party).id), realm=realm, caveats=(caveat,)
    ).encode()


def constraints_of(args: Mapping[str, Any]) -> dict[str, ConstraintLike]:
    """Write arguments as constraints that nothing but these arguments keep.

    Raises:
        GrantError: ``bad_parameters``: they are too long, or some cannot be fixed or shown as they are.
    """
    found = {_shown(name): _constraint_of(name, value) for name, value in args.items()}
    try:
        size = len(jcs.encode(Caveat(allow=(Rule(tool="*", args=found),))))
    except ArxError as error:
        raise GrantError(f"args: {error}", code="bad_parameters") from error
    if size > MAX_ARGUMENT_BYTES:
        raise GrantError(
            f"args: written as what is approved they have {size} bytes; at most {MAX_ARGUMENT_BYTES} go with a call",
            code="bad_parameters",
        )
    return found


def _constraint_of(name: str, value: Any) -> ConstraintLike:
    if isinstance(value, list):
        if not all(map(_is_scalar, value)):
            raise _nested(name)
        return Constraint(equal=tuple(map(_shown, value)))
    if not _is_scalar(value):
        raise _nested(name)
    scalar: ConstraintLike = _shown(value)
    return scalar


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bool)) or (isinstance(value, int) and abs(value) <= MAX_INTEGER)


def _nested(name: str) -> GrantError:
    return GrantError(
        f"args: {shorten(name)} cannot be approved: only texts, integers, true, false and lists of these can, nothing "
        "nested, no null and no fraction (write 10.5 as text)",
        code="bad_parameters",
    )


def _shown(value: Shown) -> Shown:
    """Refuse a text that would be shown to whoever approves otherwise than a service reads it."""
    misleading = MISLEADING.search(value) or _UNSEEN.search(value) if isinstance(value, str) else None
    if misleading is not None:
        raise GrantError(
            f"args: a text has U+{ord(misleading[0]):04X}, which would have it shown otherwise than it is read",
            code="bad_parameters",
        )
    return value
