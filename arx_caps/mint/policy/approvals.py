# SPDX-License-Identifier: Apache-2.0
"""``approvals`` of a template: the tools that need operators' approval.  CONTROL 2.7.

How an approval is requested, given and used is in ``tasks.approvals``.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from arx_caps.mint.policy.templates import TemplateRule, ToolPattern, overlap
from arx_caps.settings.durations import format_duration
from arx_caps.settings.toml_file import TomlEntry, TomlTable, duration, several
from arx_verifier.errors import shorten
from arx_verifier.token.discharge import ThirdPartyCaveat

DEFAULT_TTL_MS: Final = 10 * 60_000  # long enough to use it, too short to keep it for another day
MAX_TTL_MS: Final = 24 * 3_600_000
MAX_NEED: Final = 8
MAX_ENTRIES: Final = 8  # each is a third-party caveat in the task's tokens, and needs a discharge in each call


class ApprovalTerms(Struct, frozen=True, omit_defaults=True):
    """The terms of an approval.

    Attributes:
        tools: The tools that need one: names or patterns.
        need: The number of different operators that must approve.
        ttl_ms: How long an approval may be used, ms.
        once: Whether it may be used for one call only.
        when: Lists of marks: only calls while all of a list are set need it; empty for all calls.
        opened: When the session of these marks was opened, ms since the Unix epoch; in a grant.
    """

    tools: tuple[str, ...]
    need: int = 1
    ttl_ms: int = DEFAULT_TTL_MS
    once: bool = True
    when: tuple[tuple[str, ...], ...] = ()
    opened: int | None = None

    def third_party(self, kid: str, task: str) -> ThirdPartyCaveat:
        """Return the third-party caveat in a task's token, by the id of its key."""
        return ThirdPartyCaveat(f"{kid}:{task}", opened=self.opened, tools=self.tools, when=self.when or None)


class ApprovalEntry(TomlTable, frozen=True, kw_only=True):
    """An entry of a template's ``approvals``; its attributes are those of ``ApprovalTerms``."""

    tools: Annotated[tuple[ToolPattern, ...], several("tool", "to ask for no approval, leave the entry out")]
    need: Annotated[int, Meta(ge=1, le=MAX_NEED)] = 1
    ttl_ms: Annotated[int, duration(most=MAX_TTL_MS)] = field(name="ttl", default=DEFAULT_TTL_MS)
    once: bool = True

    @property
    def terms(self) -> ApprovalTerms:
        """The entry's terms, as a grant has them."""
        return ApprovalTerms(**asdict(self))

    def meets(self, rules: Sequence[TemplateRule], audience: str) -> bool:
        """Return whether a rule allows a call at this audience that needs this approval."""
        return any(overlap(tool, rule.tool) for rule in rules if rule.at == audience for tool in self.tools)


def check_approvals(entry: TomlEntry, template: Any, rules: Sequence[TemplateRule]) -> None:
    """Check that an agent can request each approval, and that no entries overlap.

    Args:
        entry: The template, for errors.
        template: The template.
        rules: Its rules.

    Raises:
        SettingsError: An entry has a mistake.
    """
    before: list[str] = []
    asking = [("approvals", index, entry.tools) for index, entry in enumerate(template.approvals)]
    after = {row.tools: index for index, row in enumerate(template.after) if row.do == "approve"}
    if len(after) > MAX_ENTRIES:
        raise entry.at("after").error(f'expected at most {MAX_ENTRIES} different `tools` with do = "approve"')
    for member, index, tools in (*asking, *[("after", index, tools) for tools, index in after.items()]):
        for number, tool in enumerate(tools):
            wrong = _mistake(tool, rules, template.audiences, before)
            if wrong is not None:
                raise entry.at(member, index, "tools", number).error(f"{shorten(tool)} {wrong}")
        before += tools


def _mistake(tool: str, rules: Sequence[TemplateRule], own: Sequence[str], before: Sequence[str]) -> str | None:
    met = [rule for rule in rules if overlap(tool, rule.tool)]
    if not met:
        allowed = ", ".join(sorted({rule.tool for rule in rules}))
        # A mistyped tool would leave the calls that were meant without an approval.
        return f"meets no rule of `allow`: expected a tool within {allowed}"
    for rule in met:
        # An agent requests the approval with its own token for that audience.
        if rule.at not in own:
            return (
                f"meets {rule.tool} at {rule.at}, which services alone reach: the agent cannot request an approval "
                f"there; add {rule.at} to `audience`, or name other tools"
            )
    for other in before:
        # A call takes one discharge for one approval, so that two entries could not both be satisfied.
        if overlap(tool, other):
            return (
                f"and {shorten(other)} of an earlier entry match the same tool: expected one entry for each tool; for "
                "two operators, write need = 2; for several marks, the same `tools` in each entry of `after`"
            )
    return None


def show_terms(terms: ApprovalTerms) -> dict[str, Any]:
    """Return terms as plain data, as a policy writes them."""
    shown = asdict(terms) | {"tools": list(terms.tools), "ttl": format_duration(terms.ttl_ms)}
    kept = ("tools", "need", "once", "ttl", *(("when",) if terms.when else ()))
    return {name: shown[name] for name in kept}
