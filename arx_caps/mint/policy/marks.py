# SPDX-License-Identifier: Apache-2.0
"""``marks``, ``after``, ``only_after`` and ``distinct`` of a template: rules over what has happened.  SPEC 21."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, field

from arx_caps.mint.policy.members import EITHER, RESTRICTS
from arx_caps.mint.policy.templates import TemplateRule, ToolPattern, overlap
from arx_caps.settings.toml_file import TomlEntry, TomlTable, duration, several, text_that
from arx_verifier import names
from arx_verifier.limits import MAX_ROWS
from arx_verifier.token.caveats import MAX_ROW_ITEMS, MAX_ROW_NAMES, MAX_VALUES, Per

MEMBERS: Final = ("marks", "after", "only_after", "distinct")


def _one_or_more(what: str, hint: str) -> Meta:
    """Return the mark of a list that a file may write as one text."""
    of_list = several(what, hint, MAX_ROW_NAMES)
    parse = {"parse": lambda written: [written] if isinstance(written, str) else written}
    return Meta(min_length=1, max_length=MAX_ROW_NAMES, extra={**(of_list.extra or {}), **parse})


MarkName: TypeAlias = Annotated[str, text_that(names.is_id, "a mark's name: 1 to 64 of [A-Za-z0-9._-]")]
MarkNames: TypeAlias = Annotated[tuple[MarkName, ...], _one_or_more("mark", 'for example "untrusted"')]
Arguments: TypeAlias = Annotated[
    tuple[Annotated[str, Meta(min_length=1)], ...], _one_or_more("argument", 'for example "to"')
]
Tools: TypeAlias = Annotated[tuple[ToolPattern, ...], several("tool", 'for example ["web.*"]', MAX_ROW_ITEMS)]


class MarkEntry(TomlTable, frozen=True, kw_only=True):
    """An entry of ``marks``.

    Attributes:
        tools: The tools whose calls set the mark.
        services: The services that may prove the mark.
        set: A warning, set when a call is allowed.
        proof: A proof, set by a service of ``from``, or when the effect of a call is done.
        on: ``success``, with ``proof`` and ``tools``.
        per: Whether the mark is of the session or of the task.
    """

    tools: Tools | None = None
    services: Tools | None = field(name="from", default=None)
    set: MarkName | None = None
    proof: MarkName | None = None
    on: Literal["success"] | None = None
    per: Per = "session"

    @property
    def row(self) -> tuple[str, str, Per, tuple[str, ...]]:
        """The row of a caveat."""
        how = "call" if self.set is not None else "done" if self.on is not None else "from"
        return how, self.set or self.proof or "", self.per, self.tools or self.services or ()


class AfterEntry(TomlTable, frozen=True, kw_only=True):
    """An entry of ``after``: no call of the tools while all these marks are set."""

    mark: MarkNames
    tools: Tools
    do: Literal["refuse"] = "refuse"

    @property
    def row(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The row of a caveat."""
        return self.mark, self.tools


class OnlyAfterEntry(TomlTable, frozen=True, kw_only=True):
    """An entry of ``only_after``: no call of the tools without this proof, or one of this time."""

    mark: MarkName
    tools: Tools
    within: Annotated[int, duration()] | None = None

    @property
    def row(self) -> tuple[str, int, tuple[str, ...]]:
        """The row of a caveat."""
        return self.mark, self.within or 0, self.tools


class DistinctEntry(TomlTable, frozen=True, kw_only=True):
    """An entry of ``distinct``: so many different values of these arguments, and no further one."""

    tools: Tools
    arg: Arguments
    max: Annotated[int, Meta(ge=1, le=MAX_VALUES)]
    per: Per = "task"

    @property
    def row(self) -> tuple[tuple[str, ...], tuple[str, ...], int, Per]:
        """The row of a caveat."""
        return self.tools, self.arg, self.max, self.per


_EXAMPLE: Final = "leave it out for none"
Marks: TypeAlias = Annotated[tuple[MarkEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), EITHER]
After: TypeAlias = Annotated[tuple[AfterEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), RESTRICTS]
OnlyAfter: TypeAlias = Annotated[tuple[OnlyAfterEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), RESTRICTS]
Distinct: TypeAlias = Annotated[tuple[DistinctEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), RESTRICTS]


def check_marks(entry: TomlEntry, template: Any, rules: Sequence[TemplateRule], audiences: Mapping[str, Any]) -> None:
    """Check the entries about marks of a template.

    Args:
        entry: The template, for errors.
        template: The template.
        rules: Its rules.
        audiences: All audiences of the policy, by name.

    Raises:
        SettingsError: An entry has a mistake.
    """
    for index, mark in enumerate(template.marks):
        wrong = _mistake(mark, audiences)
        if wrong is not None:
            raise entry.at("marks", index).error(wrong)
    allowed = sorted({rule.tool for rule in rules})
    for member in MEMBERS:
        for index, each in enumerate(getattr(template, member)):
            for number, tool in enumerate(each.tools or ()):
                # A mistyped tool would leave the calls that were meant without the rule.
                if not any(overlap(tool, name) for name in allowed):
                    wanted = f"expected a tool within {', '.join(allowed)}"
                    raise entry.at(member, index, "tools", number).error(f"meets no rule of `allow`: {wanted}")
    if sum(len(getattr(template, member)) for member in MEMBERS) > MAX_ROWS:
        raise entry.at("marks").error(f"expected at most {MAX_ROWS} entries about marks together")
    proven = {mark.proof for mark in template.marks}
    for index, needed in enumerate(template.only_after):
        if needed.mark not in proven:
            raise entry.at("only_after", index, "mark").error("expected a `proof` of `marks`: nothing else can set it")


def _mistake(mark: MarkEntry, audiences: Mapping[str, Any]) -> str | None:
    if (mark.set is None) == (mark.proof is None):
        return "expected either `set`, a warning, or `proof`"
    if mark.set is not None:
        return None if mark.tools and not mark.services and not mark.on else "expected `tools` alone beside `set`"
    if (mark.tools is None) == (mark.services is None) or (mark.tools is None) != (mark.on is None):
        return 'expected beside `proof` either `from`, services, or `tools` with on = "success"'
    unknown = [name for name in mark.services or () if name not in audiences]
    return f"expected audiences of the policy in `from`; got {', '.join(unknown)}" if unknown else None


def rows_of(template: Any) -> dict[str, Any]:
    """Return the rows of a template by the member of a caveat; empty without one."""
    return {member: tuple(each.row for each in entries) for member in MEMBERS if (entries := getattr(template, member))}


def show_marks(rows: Sequence[Any]) -> list[str]:
    """Return the rows of ``marks`` as statements, such as ``web.* sets untrusted``."""
    words = {
        "call": "{items} sets {mark}",
        "done": "{items} proves {mark} when done",
        "from": "{items} may prove {mark}",
    }
    return [words[how].format(items=", ".join(items), mark=mark) + f" (per {of})" for how, mark, of, items in rows]
