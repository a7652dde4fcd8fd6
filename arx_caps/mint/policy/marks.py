# SPDX-License-Identifier: Apache-2.0
"""``marks``, ``after``, ``only_after`` and ``distinct`` of a template: rules over what has happened.  SPEC 21."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, field
from msgspec.structs import replace

from arx_caps.mint.policy.approvals import ApprovalTerms
from arx_caps.mint.policy.members import EITHER, RESTRICTS
from arx_caps.mint.policy.templates import TemplateRule, ToolPattern, overlap
from arx_caps.settings.toml_file import UNWRITTEN, TomlEntry, TomlTable, duration, several, text_that
from arx_verifier import names
from arx_verifier.ledger.pools import KEEP_MS
from arx_verifier.limits import MAX_ROWS
from arx_verifier.token.caveats import MAX_ROW_ITEMS, MAX_ROW_NAMES, MAX_VALUES, Per

MEMBERS: Final = ("marks", "after", "only_after", "distinct")
UNTRUSTED: Final = "untrusted"
PRIVATE: Final = "private"
CARRY_MS: Final = 24 * 60 * 60 * 1000  # the default with a preset


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
    """An entry of ``after``: no call of the tools while all these marks are set, or none without an approval."""

    mark: MarkNames
    tools: Tools
    do: Literal["refuse", "approve"] = "refuse"

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


class ToolDescription(TomlTable, frozen=True, kw_only=True):
    """What the tools of this name or pattern return and do.  Of several that match a tool, all of it.

    Attributes:
        name: The tool's name, or a pattern.
        returns: ``untrusted``, what an attacker may have written; ``private``, what no stranger may read; or both.
        sends: Whether a call can send something to others.
    """

    name: Annotated[ToolPattern, UNWRITTEN]
    returns: Annotated[
        tuple[Literal["untrusted", "private"], ...], _one_or_more("text", 'for example "untrusted"')
    ] = ()
    sends: bool = False


class MarksTerms(TomlTable, frozen=True, kw_only=True):
    """What is common to the marks of all sessions.

    Attributes:
        carry_ms: A new session has the warnings of the agent's sessions of the same subject that are open, or that
            ended less than this ago, ms; None for a day if a template has a preset, else for none.
    """

    carry_ms: Annotated[int, duration(least=0, most=KEEP_MS)] | None = field(name="carry", default=None)


Descriptions: TypeAlias = Mapping[str, ToolDescription]

_EXAMPLE: Final = "leave it out for none"
Marks: TypeAlias = Annotated[tuple[MarkEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), EITHER]
After: TypeAlias = Annotated[tuple[AfterEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), RESTRICTS]
OnlyAfter: TypeAlias = Annotated[tuple[OnlyAfterEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), RESTRICTS]
Distinct: TypeAlias = Annotated[tuple[DistinctEntry, ...], several("entry", _EXAMPLE, MAX_ROWS), RESTRICTS]


def check_descriptions(entry: TomlEntry, tools: Descriptions) -> None:
    """Check every ``[tool.NAME]``.

    Raises:
        SettingsError: A pattern describes nothing.
    """
    for name, tool in tools.items():
        if name.endswith("*") and not tool.returns and not tool.sends:
            # It would describe tools that the author does not know.
            raise entry.at(name).error("expected `returns` or `sends`: a tool that does neither needs its own name")


def returning(what: str, rules: Sequence[TemplateRule], tools: Descriptions) -> list[str]:
    """Return the tools, as names or patterns, that rules allow and descriptions say to return ``untrusted`` or so."""
    return _met(rules, [name for name, tool in tools.items() if what in tool.returns])


def sending(rules: Sequence[TemplateRule], tools: Descriptions) -> list[str]:
    """Return the tools, as names or patterns, that rules allow and descriptions say to send."""
    return _met(rules, [name for name, tool in tools.items() if tool.sends])


def _met(rules: Sequence[TemplateRule], described: Sequence[str]) -> list[str]:
    # Of two patterns that overlap, one is within the other.
    pairs = [(name, rule.tool) for name in described for rule in rules if overlap(name, rule.tool)]
    return list(dict.fromkeys(tool if names.matches_tool(name, tool) else name for name, tool in pairs))


def with_preset(entry: TomlEntry, template: Any, rules: Sequence[TemplateRule], tools: Descriptions) -> Any:
    """Return a template with the rows of its preset, if it has one.

    Args:
        entry: The template, for errors.
        template: The template.
        rules: Its rules.
        tools: The descriptions of the policy.

    Raises:
        SettingsError: A tool that it allows has no description.
    """
    if template.preset is None:
        return template
    for index, rule in enumerate(rules):
        if not any(names.matches_tool(name, rule.tool) for name in tools):
            # Data would lose their mark in it: what it returns, and to whom it sends, is not known.
            wanted = f'preset = "{template.preset}" needs a description of each tool: add [tool."{rule.tool}"]'
            raise entry.at("allow", index).error(wanted)
    reads = [(what, part) for what in (UNTRUSTED, PRIVATE) for part in _parts(returning(what, rules, tools))]
    marks = [MarkEntry(tools=part, set=what) for what, part in reads]
    after = [AfterEntry(mark=(UNTRUSTED, PRIVATE), tools=part) for part in _parts(sending(rules, tools))]
    return replace(template, marks=(*template.marks, *marks), after=(*template.after, *after))


def _parts(tools: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for at in range(0, len(tools), MAX_ROW_ITEMS):
        yield tuple(tools[at : at + MAX_ROW_ITEMS])


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
    rows = {member: getattr(template, member) for member in MEMBERS}
    rows["after"] = [row for row in template.after if row.do == "refuse"]
    return {member: tuple(each.row for each in entries) for member, entries in rows.items() if entries}


def approvals_after(entries: Sequence[AfterEntry]) -> tuple[ApprovalTerms, ...]:
    """Return the terms of the approvals of ``after``: entries for the same tools are one."""
    by_tools: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for entry in entries:
        if entry.do == "approve":
            by_tools.setdefault(entry.tools, []).append(entry.mark)
    return tuple(ApprovalTerms(tools, when=tuple(when)) for tools, when in by_tools.items())


def warnings_of(templates: Collection[Any]) -> tuple[str, ...]:
    """Return the names of all warnings that rows of templates have."""
    found = [mark.set for template in templates for mark in template.marks if mark.set is not None]
    found += [name for template in templates for row in template.after for name in row.mark]
    return tuple(dict.fromkeys(found))


def show_marks(rows: Sequence[Any]) -> list[str]:
    """Return the rows of ``marks`` as statements, such as ``web.* sets untrusted``."""
    words = {"call": "sets {}", "done": "proves {} when done", "from": "may prove {}"}
    return [f"{', '.join(items)} {words[how].format(mark)} (per {of})" for how, mark, of, items in rows]
