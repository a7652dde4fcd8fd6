# SPDX-License-Identifier: Apache-2.0
"""Which tools of a task need an approval, and by how many operators: ``approvals`` of a template.  CONTROL 2.7.

A call needs one approval or none, so no two entries may name the same tool.  An agent asks for approvals, so no entry
may name a tool at an audience that only services reach.  Both are mistakes of a policy, refused when it is loaded.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from arx_caps.durations import format_duration
from arx_caps.mint.policy.parse import PolicyEntry, PolicyTable, duration, several
from arx_caps.mint.policy.templates import TemplateRule, ToolPattern, overlap
from arx_verifier.errors import shorten

DEFAULT_TTL_MS: Final = 10 * 60_000  # long enough to be used, too short to be kept for another day
MAX_TTL_MS: Final = 24 * 3_600_000
MAX_NEED: Final = 8
MAX_ENTRIES: Final = 8  # of one task: each is a caveat in its tokens, and as many discharges go with one call


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


class ApprovalEntry(PolicyTable, frozen=True, kw_only=True):
    """An entry of a template's ``approvals``.  Attributes as in ``ApprovalTerms``."""

    tools: Annotated[tuple[ToolPattern, ...], several("tool", "to ask for no approval, leave the entry out")]
    need: Annotated[int, Meta(ge=1, le=MAX_NEED)] = 1
    ttl_ms: Annotated[int, duration(most=MAX_TTL_MS)] = field(name="ttl", default=DEFAULT_TTL_MS)
    once: bool = True

    @property
    def terms(self) -> ApprovalTerms:
        """What an approval takes, as a grant keeps it."""
        return ApprovalTerms(**asdict(self))

    def meets(self, rules: Sequence[TemplateRule], audience: str) -> bool:
        """Tell whether some call at an audience that a rule there allows needs such an approval."""
        return any(overlap(tool, rule.tool) for rule in rules if rule.at == audience for tool in self.tools)


def check_approvals(
    entry: PolicyEntry, approvals: Sequence[ApprovalEntry], rules: Sequence[TemplateRule], own: Sequence[str]
) -> None:
    """Check that each tool of a template's ``approvals`` can be asked for, and stands in one entry.

    Args:
        entry: Where they are.
        approvals: The entries.
        rules: The template's rules.
        own: The audiences that the agent itself gets a token for.

    Raises:
        SettingsError: A mistake in one of them.
    """
    before: list[str] = []
    for index, approval in enumerate(approvals):
        for number, tool in enumerate(approval.tools):
            wrong = _mistake(tool, rules, own, before)
            if wrong is not None:
                raise entry.at(index, "tools", number).error(f"{shorten(tool)} {wrong}")
        before += approval.tools


def _mistake(tool: str, rules: Sequence[TemplateRule], own: Sequence[str], before: Sequence[str]) -> str | None:
    met = [rule for rule in rules if overlap(tool, rule.tool)]
    if not met:
        allowed = ", ".join(sorted({rule.tool for rule in rules}))
        return f"meets no rule of `allow`, so nothing would need it; there are: {allowed}"
    for rule in met:
        if rule.at not in own:
            return (
                f"meets {rule.tool} at {rule.at}, which services alone reach: an agent that has no token for it "
                f"cannot ask; add {rule.at} to `audience`, or name other tools"
            )
    for other in before:
        if overlap(tool, other):
            return (
                f"and {shorten(other)}, of an entry before, speak of the same tool: a call needs one approval; for two "
                "operators say need = 2"
            )
    return None


def show_terms(terms: ApprovalTerms) -> dict[str, Any]:
    """Write terms as a policy does."""
    shown = asdict(terms) | {"tools": list(terms.tools)}
    return shown | {"ttl": format_duration(shown.pop("ttl_ms"))}
