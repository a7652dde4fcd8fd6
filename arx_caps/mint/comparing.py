# SPDX-License-Identifier: Apache-2.0
"""Compare two policies by what they say, not by how it is written: what is newly granted, no longer granted, changed.

Both are taken apart into single statements.  One that only the new policy makes is a grant, or a restriction; which of
the two depends on the member it stands in, and ``_WORDS`` has them all.  Whether a changed rule allows more or less is
told only where that can be seen, and else left to whoever reads.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from arx_caps.durations import format_duration
from arx_caps.mint.approval_terms import ApprovalTerms, show_terms
from arx_caps.mint.explaining import as_data, exchanges
from arx_caps.mint.policy import Policy
from arx_caps.mint.policy_file import SessionTerms, Template
from arx_caps.mint.templates import Parameter, TemplateRule

Kind = Literal["granted", "no longer granted", "changed"]
GRANTED: Final[Kind] = "granted"
GONE: Final[Kind] = "no longer granted"
CHANGED: Final[Kind] = "changed"


class Difference(NamedTuple):
    """One difference.

    Attributes:
        kind: What it is: ``granted``, ``no longer granted`` or ``changed``.
        place: The table that it is in.
        member: The member of the table.
        before: What the old policy says; None for nothing.
        after: What the new one says.
    """

    kind: Kind
    place: str
    member: str
    before: Any
    after: Any


def compare(old: Policy, new: Policy) -> list[Difference]:
    """Return every difference in meaning, in the order of the new policy, what is gone last."""
    before, after = dict(_places(old)), dict(_places(new))
    found: list[Difference] = []
    for place in dict.fromkeys((*after, *before)):
        found += _compare(place, before.get(place, {}), after.get(place, {}))
    return found


def covers(wide: str, narrow: str) -> bool:
    """Tell whether every agent path that one pattern fits is fitted by another."""
    wanted, given = wide.split("/"), narrow.split("/")
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        given = given[:-1] if given[-1] == "**" else given
        return len(given) >= len(wanted) and all(map(_fits, wanted, given[: len(wanted)]))
    return given[-1] != "**" and len(wanted) == len(given) and all(map(_fits, wanted, given))


def _fits(wanted: str, given: str) -> bool:
    return wanted in ("*", given)


# Statements.  A list member is a tuple of plain data, one each; anything else is one limit.


def _places(policy: Policy) -> Iterator[tuple[str, dict[str, Any]]]:
    # What is read by nothing would differ unseen, so each attribute of a policy is named here, also those left out.
    parts = dict(vars(policy))
    for attribute in ("text", "digest", "subject_claims"):  # how it is written, and what follows from the rest
        parts.pop(attribute)
    for name, origins in parts.pop("audiences").items():
        yield f"audience {name}", {"origins": origins}
    for name, issuer in parts.pop("issuers").items():
        yield f"issuer {name}", {"trusted": (as_data(issuer),)}
    yield "workloads", {"workload": tuple(map(as_data, parts.pop("workloads")))}
    for name, terms in parts.pop("sessions").items():
        yield f"session {name}", _members(terms)
    for name, template in parts.pop("templates").items():
        yield f"task {name}", _members(template)
    if parts:
        raise NotImplementedError(f"a policy cannot be compared: nothing here reads {', '.join(parts)}")


def _members(terms: SessionTerms | Template) -> dict[str, Any]:
    """Return what a table of the policy says, by the names that the file has for it."""
    return {
        _NAMES.get(field, field): _WRITTEN.get(field, _as_it_is)(getattr(terms, field))
        for field in terms.__struct_fields__
        if field != "name"
    }


def _of_approvals(terms: ApprovalTerms) -> Iterator[dict[str, Any]]:
    """Tell of each tool by itself: how entries are put together means nothing."""
    said = show_terms(terms)
    yield from ({"tool": tool, **said} for tool in said.pop("tools"))


def _of_rule(rule: TemplateRule) -> dict[str, Any]:
    written = rule._asdict()
    args = written.pop("args")
    return written | ({"any": True} if args is None else {"args": _shown(args)})


def _as_it_is(value: Any) -> Any:
    return value


def _shown(data: Any) -> Any:
    """Write parameters as a policy does."""
    if isinstance(data, Parameter):
        return f"${data.name}"
    if isinstance(data, list):
        return [_shown(item) for item in data]
    if isinstance(data, dict):
        return {key: _shown(item) for key, item in data.items()}
    return data


# A field that is not here is called as the file calls it, and compared as it is.
_NAMES: Final = {
    "ttl_ms": "ttl",
    "idle_ms": "idle",
    "outlives_ms": "subject_outlives",
    "audiences": "audience",
    "rules": "allow",
}
_WRITTEN: Final[dict[str, Callable[[Any], Any]]] = {
    "subjects": lambda rules: tuple(map(as_data, rules)),
    "exchange": lambda services: tuple(exchanges(services)),
    "params": lambda params: {name: as_data(each) for name, each in params.items()},
    "rules": lambda rules: tuple(map(_of_rule, rules)),
    "hand_to": lambda patterns: ("(who shares the agent's first segment)",) if patterns is None else patterns,
    "approvals": lambda entries: tuple(one for terms in entries for one in _of_approvals(terms)),
}


# Comparison.


def _text(said: Any) -> bytes:
    """Write what is compared: to Python ``true`` and 1 are equal, and no constraint takes the one for the other."""
    return msgspec.json.encode(said, order="sorted")


def _compare(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    if not before or not after:
        yield from _of_table(place, GRANTED if after else GONE, after or before)
        return
    for member in after:
        old, new = before[member], after[member]
        if isinstance(new, tuple):
            yield from _of_lists(place, member, old, new)
        elif _text(old) != _text(new):
            wider = _WIDER.get(member, _unknown)(old, new)
            kind = CHANGED if wider is None else GRANTED if wider else GONE
            yield Difference(kind, place, member, _limit(member, old), _limit(member, new))


def _of_table(place: str, kind: Kind, said: Mapping[str, Any]) -> Iterator[Difference]:
    """Tell a whole table that came or went: what it grants, and its limits as they are."""
    for member, value in said.items():
        grants = member in _GRANTING
        parts = value if isinstance(value, tuple) else (value,) if value not in (None, {}, 0, "none") else ()
        for one in parts:
            shown = _limit(member, one)
            sides = (None, shown) if kind == GRANTED else (shown, None)
            yield Difference(kind if grants else CHANGED, place, member, *sides)


def _of_lists(place: str, member: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[Difference]:
    before, after = set(map(_text, old)), set(map(_text, new))
    added, gone = [one for one in new if _text(one) not in before], [one for one in old if _text(one) not in after]
    if member in ("agents", "hand_to"):
        added = [one for one in added if not any(covers(other, one) for other in old)]
        gone = [one for one in gone if not any(covers(other, one) for other in new)]
    if member in ("allow", "approvals"):
        yield from _changed_rules(place, member, added, gone)
    if member in ("net", "subjects") and bool(old) != bool(new):
        # An empty list is no restriction: with the first entry most is gone, with the last one all comes back.
        yield Difference(GONE if new else GRANTED, place, member, list(old) or "anyone", list(new) or "anyone")
        return
    come, go = CHANGED, CHANGED  # of a list that nobody has sorted in below
    if member in _GRANTING:
        come, go = GRANTED, GONE
    elif member in _RESTRICTING:
        come, go = GONE, GRANTED
    yield from (Difference(come, place, member, None, one) for one in added)
    yield from (Difference(go, place, member, one, None) for one in gone)


def _changed_rules(place: str, member: str, added: list[Any], gone: list[Any]) -> Iterator[Difference]:
    """Pair what is said of the same tool, and take it out of both lists."""

    def about(rule: Mapping[str, Any]) -> tuple[Any, Any]:
        return rule.get("at"), rule["tool"]

    for rule in tuple(added):
        twin = next((other for other in gone if about(other) == about(rule)), None)
        if twin is not None:
            added.remove(rule)
            gone.remove(twin)
            yield Difference(CHANGED, place, member, twin, rule)


def _unknown(_old: Any, _new: Any) -> bool | None:
    return None


def _longer(old: int | None, new: int | None) -> bool | None:
    """Tell whether a limit grew, where None is no limit."""
    return new is None or (old is not None and new > old)


# Lists of which a further entry grants, and those of which a further entry restricts.
_GRANTING: Final = (
    *("agents", "allow", "audience", "exchange", "hand_to"),
    *("net", "origins", "subjects", "trusted", "workload"),
)
_RESTRICTING: Final = ("require", "approvals")
_WIDER: Final[dict[str, Callable[[Any, Any], bool | None]]] = dict.fromkeys(
    ("ttl", "idle", "max_open", "subject_outlives", "depth", "fresh"), _longer
)


def _limit(member: str, value: Any) -> Any:
    if isinstance(value, int) and member in ("ttl", "idle", "subject_outlives", "fresh"):
        return format_duration(value)
    return value
