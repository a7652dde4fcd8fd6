# SPDX-License-Identifier: Apache-2.0
"""What it would take for the policy to grant what it refused: said to whoever asked, who may know whom to ask.

It names what the policy says of this agent's own templates, which its refusals name as well; nothing of others'.
"""

from collections.abc import Callable
from typing import Final

from arx_caps.mint.policy.model import Policy
from arx_verifier import names
from arx_verifier.errors import Failure, GrantError, shorten

MAX_OTHERS: Final = 3


def explain_refusal(
    policy: Policy, agent: str, template: str, error: GrantError, ask: Callable[[str], object]
) -> GrantError:
    """Return the same refusal with what it would take.

    Args:
        policy: The policy that refused.
        agent: Who asked.
        template: For which template.
        error: The refusal.
        ask: Asks for another template with the same parameters; raises ``GrantError`` if that is refused.
    """
    takes = [_take(template, failure) for failure in error.failures]
    if error.code == "unknown_task":
        takes = [f"a [task.NAME] called {shorten(template)} in the policy, with {agent} among its `agents`"]
    others = [name for name in _templates(policy, agent) if name != template and _grants(ask, name)][:MAX_OTHERS]
    if others:
        takes.append(f"or another template, which would grant it now: {', '.join(others)}")
    if not takes:
        return error
    return GrantError(f"{error}; it would take {'; '.join(takes)}", code=error.code, failures=error.failures)


def _take(template: str, failure: Failure) -> str:
    name, _, constraint = failure.rule.partition(" ")
    where = f"`params.{name}`" if constraint else f"`{name}`"
    return f"{where} of [task.{template}] in the policy to allow {failure.came}"


def _templates(policy: Policy, agent: str) -> list[str]:
    return [name for name, other in policy.templates.items() if names.matches_any_path(other.agents, agent)]


def _grants(ask: Callable[[str], object], template: str) -> bool:
    try:
        ask(template)
    except GrantError:
        return False
    return True
