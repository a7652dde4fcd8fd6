# SPDX-License-Identifier: Apache-2.0
"""The menu: the pages in their groups, each with the action that it needs."""

from typing import Final, NamedTuple

from arx_caps.mint.identity.operator_role import may


class Entry(NamedTuple):
    """A page of the menu.

    Attributes:
        path: Its address.
        label: What the menu calls it.
        action: The action that an operator needs to open it.
    """

    path: str
    label: str
    action: str


MENU: Final[tuple[tuple[str, tuple[Entry, ...]], ...]] = (
    (
        "Watch",
        (
            Entry("/console/now", "Now", "arx.status.read"),
            Entry("/console/decisions", "Decisions", "arx.audit.read"),
            Entry("/console/top", "Top", "arx.audit.read"),
            Entry("/console/search", "Audit search", "arx.audit.read"),
            Entry("/console/sessions", "Sessions", "arx.sessions.read"),
            Entry("/console/agents", "Agents", "arx.agents.read"),
            Entry("/console/budgets", "Budgets", "arx.tasks.read"),
        ),
    ),
    (
        "Act",
        (
            Entry("/console/approvals", "Approvals", "arx.approvals.read"),
            Entry("/console/kills", "Kills", "arx.kills.read"),
            Entry("/console/frozen", "Frozen", "arx.freezes.read"),
        ),
    ),
    (
        "Realm",
        (
            Entry("/console/verifiers", "Verifiers", "arx.services.read"),
            Entry("/console/policy", "Policy", "arx.policy.read"),
            Entry("/console/keys", "Keys", "arx.keys.read"),
            Entry("/console/sign-ins", "Sign-ins", "arx.operators.read"),
            Entry("/console/notifications", "Notifications", "arx.webhooks.read"),
        ),
    ),
)


def menu_for(actions: tuple[str, ...]) -> list[tuple[str, list[Entry]]]:
    """Return the groups with the pages that these actions open; a group without any is left out."""
    offered = [(name, [each for each in entries if may(actions, each.action)]) for name, entries in MENU]
    return [(name, entries) for name, entries in offered if entries]


def entry_of(menu: list[tuple[str, list[Entry]]], path: str) -> Entry | None:
    """Return the entry whose page has the page of a path below it; None if there is none."""
    entries = [entry for _, entries in menu for entry in entries]
    return next((entry for entry in entries if path.startswith(f"{entry.path}/")), None)
