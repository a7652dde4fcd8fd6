# SPDX-License-Identifier: Apache-2.0
"""Which tools of a task need an approval, and by how many: ``approvals`` of a template.  SPEC 20.7.

A call needs one approval or none, so no two entries may speak of one tool; and it is the agent that asks, so a tool at
an audience that services alone reach has nobody to ask for it.  Both are mistakes of a policy, told when it is loaded.
"""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from arx_caps.durations import format_duration
from arx_caps.mint.policy_text import Section
from arx_caps.mint.templates import TemplateRule, overlap
from arx_verifier import names
from arx_verifier.errors import SettingsError, shorten

DEFAULT_TTL_MS: Final = 10 * 60_000  # long enough to be used, too short to be kept for another day
MAX_TTL_MS: Final = 24 * 3_600_000
MAX_NEED: Final = 8
MAX_ENTRIES: Final = 8  # of one task: each is a caveat in its tokens, and as many discharges go with one call
_EXAMPLE: Final = '{ tools = ["payments.refund"] }'


class ApprovalTerms(Struct, frozen=True, omit_defaults=True):
    """What an approval takes.

    Attributes:
        tools: The tools that need one: names or patterns.
        need: How many different operators must say yes.
        ttl_ms: How long it is good.
        once: Whether it is good for one call.
    """

    tools: tuple[str, ...]
    need: int = 1
    ttl_ms: int = DEFAULT_TTL_MS
    once: bool = True

    def meets(self, rules: Sequence[TemplateRule], audience: str) -> bool:
        """Tell whether some call at an audience that a rule there allows needs such an approval."""
        return any(overlap(tool, rule.tool) for rule in rules if rule.at == audience for tool in self.tools)


def read_approvals(section: Section, rules: Sequence[TemplateRule], own: Sequence[str]) -> tuple[ApprovalTerms, ...]:
    """Read a template's ``approvals``.

    Args:
        section: The template's section.
        rules: Its rules.
        own: The audiences that the agent itself gets a token for.

    Raises:
        SettingsError: A mistake in one of them.
    """
    found: list[ApprovalTerms] = []
    entries = section.take_list("approvals", _EXAMPLE)
    if len(entries) > MAX_ENTRIES:
        raise section.error("approvals", f"at most {MAX_ENTRIES}; tools with the same terms stand in one")
    for entry in entries:
        tools = entry.take_texts("tools")
        if not tools:
            raise entry.error("tools", "needs at least one tool; to ask for no approval, take the entry out")
        for index, tool in enumerate(tools):
            _check(entry, index, tool, rules, own, [other for terms in found for other in terms.tools])
        need = entry.take_integer("need", 1, MAX_NEED, least=1)
        ttl_ms = entry.take_duration("ttl", DEFAULT_TTL_MS, most=MAX_TTL_MS)
        found.append(ApprovalTerms(tools, need, ttl_ms, entry.take_flag("once", default=True)))
        entry.finish()
    return tuple(found)


def _check(
    entry: Section, index: int, tool: str, rules: Sequence[TemplateRule], own: Sequence[str], others: Sequence[str]
) -> None:
    def wrong(message: str) -> SettingsError:
        return entry.inner(("tools",), {}).error(index, message)

    if not names.is_tool_pattern(tool):
        raise wrong(f"{shorten(tool)} is no tool's name, `prefix.*` or `*`")
    met = [rule for rule in rules if overlap(tool, rule.tool)]
    if not met:
        allowed = ", ".join(sorted({rule.tool for rule in rules}))
        raise wrong(f"no rule of `allow` is for {shorten(tool)}, so nothing would need it; there are: {allowed}")
    alone = [rule for rule in met if rule.at not in own]
    if alone:
        raise wrong(
            f"{shorten(tool)} meets {alone[0].tool} at {alone[0].at}, which services alone reach: an agent that has no "
            f"token for it cannot ask; add {alone[0].at} to `audience`, or name other tools"
        )
    twice = [other for other in others if overlap(tool, other)]
    if twice:
        raise wrong(
            f"{shorten(tool)} and {shorten(twice[0])}, of an entry before, speak of the same tool: a call needs one "
            "approval; for two operators say need = 2"
        )


def show_terms(terms: ApprovalTerms) -> dict[str, Any]:
    """Write terms as a policy does."""
    return {"tools": list(terms.tools), "need": terms.need, "ttl": format_duration(terms.ttl_ms), "once": terms.once}
