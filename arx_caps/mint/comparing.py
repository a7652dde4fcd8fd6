# SPDX-License-Identifier: Apache-2.0
"""Compare two policies by what they say, not by how it is written: what is newly granted, no longer granted, changed.

Both are taken apart into single statements.  One that only the new policy makes is a grant, or a restriction; which of
the two depends on the member it stands in, and ``_WORDS`` has them all.  Whether a changed rule allows more or less is
told only where that can be seen, and else left to whoever reads.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from arx_caps.durations import format_duration
from arx_caps.mint.approval_terms import ApprovalTerms, show_terms
from arx_caps.mint.explaining import as_data, exchanges
from arx_caps.mint.issuers import SubjectRule
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
    for name, origins in policy.audiences.items():
        yield f"audience {name}", {"origins": origins}
    for name, issuer in policy.issuers.items():
        yield f"issuer {name}", {"trusted": (as_data(issuer),)}
    workloads = tuple(as_data(workload) for workload in policy.workloads)
    yield "workloads", {"workload": workloads}
    for name, terms in policy.sessions.items():
        yield f"session {name}", _of_session(terms)
    for name, template in policy.templates.items():
        yield f"task {name}", _of_task(template)


def _of_session(terms: SessionTerms) -> dict[str, Any]:
    said = {"agents": terms.agents, "ttl": terms.ttl_ms, "idle": terms.idle_ms, "max_open": terms.max_open}
    return said | {
        "subject": terms.subject,
        "subjects": _subjects(terms.subjects),
        "subject_outlives": terms.outlives_ms,
    }


def _of_task(template: Template) -> dict[str, Any]:
    said: dict[str, Any] = {"agents": template.agents, "subjects": _subjects(template.subjects)}
    said |= {"audience": template.audiences, "exchange": tuple(exchanges(template.exchange))}
    said |= {"params": {name: as_data(each) for name, each in template.params.items()}}
    said |= {"allow": tuple(map(_of_rule, template.rules)), "ttl": template.ttl_ms, "depth": template.depth}
    hand_to = template.hand_to if template.hand_to is not None else ("(who shares the agent's first segment)",)
    said |= {"hand_to": hand_to, "require": template.require, "fresh": template.fresh, "net": template.net}
    said |= {"approvals": tuple(one for terms in template.approvals for one in _of_approvals(terms))}
    return said


def _of_approvals(terms: ApprovalTerms) -> Iterator[dict[str, Any]]:
    """Tell of each tool by itself: how entries are put together means nothing."""
    said = show_terms(terms)
    yield from ({"tool": tool, **said} for tool in said.pop("tools"))


def _of_rule(rule: TemplateRule) -> dict[str, Any]:
    args = {"any": True} if rule.args is None else {"args": _shown(rule.args)}
    return {"at": rule.at, "tool": rule.tool, **args}


def _subjects(rules: Sequence[SubjectRule]) -> tuple[Any, ...]:
    return tuple(as_data(rule) for rule in rules)


def _shown(data: Any) -> Any:
    """Write parameters as a policy does."""
    if isinstance(data, Parameter):
        return f"${data.name}"
    if isinstance(data, list):
        return [_shown(item) for item in data]
    if isinstance(data, dict):
        return {key: _shown(item) for key, item in data.items()}
    return data


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
    come, go = (GRANTED, GONE) if member in _GRANTING else (GONE, GRANTED)
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


# Members of which a further entry grants; of the other lists a further entry restricts.
_GRANTING: Final = (
    *("agents", "allow", "audience", "exchange", "hand_to"),
    *("net", "origins", "subjects", "trusted", "workload"),
)
_WIDER: Final[dict[str, Callable[[Any, Any], bool | None]]] = dict.fromkeys(
    ("ttl", "idle", "max_open", "subject_outlives", "depth", "fresh"), _longer
)


def _limit(member: str, value: Any) -> Any:
    if isinstance(value, int) and member in ("ttl", "idle", "subject_outlives", "fresh"):
        return format_duration(value)
    return value
