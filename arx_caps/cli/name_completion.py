# SPDX-License-Identifier: Apache-2.0
"""Complete names in a shell: of agents, open sessions and tasks, templates, operators.

The mint lists them; without its answer within a second, nothing is completed.
"""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from arx_caps.cli.access.place import Place
from arx_caps.cli.resources import AGENTS, FREEZES, OPERATORS, POLICIES, SESSIONS, TASKS

ANSWER_S: Final = 1.0  # a person waits for each press of the key
MOST: Final = 200  # names of one kind
_PLACE: Final = ("realm_dir", "issuer", "operator_key", "store", "realm")


def complete_names(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return what completes a name.

    Args:
        kind: ``agent``, ``operator``, ``template``, or ``session`` or ``task`` for those that are open.
    """

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = find_names(ctx, kind, incomplete)
        return [CompletionItem(name, help=about) for name, about in found if name.startswith(incomplete)]

    return complete


def find_names(ctx: click.Context, kind: str, incomplete: str, *, frozen: bool = False) -> list[tuple[str, str]]:
    """Return names of a kind, each with a word about it; empty without an answer of the mint.

    Args:
        ctx: The command line so far.
        kind: The kind of names.
        incomplete: The word.
        frozen: Whether to return only names of what is frozen.
    """
    try:
        with ctx.scope():  # closes the connection
            place: dict[str, Any] = {name: ctx.params.get(name) for name in _PLACE}
            # A command of an agent has no option for it.  The default folder could be another user's: it is not used.
            if place["realm_dir"] is None:
                place["realm_dir"] = Path(os.environ["ARX_HOME"])
            mint = Place(**place).mint(ANSWER_S)
            if frozen:
                rows = mint.call("GET", FREEZES.path, query={"kind": kind, "limit": MOST}, repeats=False)["freezes"]
                return [(row["target"].partition(":")[2], row["reason"]) for row in rows]
            if kind == "agent":
                under = incomplete.rpartition("/")[0] or None
                rows = mint.call("GET", AGENTS.path, query={"under": under, "limit": MOST}, repeats=False)["agents"]
                return [(row["path"], row["state"]) for row in rows]
            if kind in ("session", "task"):
                query = {"state": "open", "limit": MOST}
                path = (SESSIONS if kind == "session" else TASKS).path
                rows = mint.call("GET", path, query=query, repeats=False)[f"{kind}s"]
                return [(row["id"], row["agent"]) for row in rows]
            if kind == "template":
                policies = mint.call("GET", POLICIES.path, query={"limit": 1}, repeats=False)["policies"]
                text = mint.call("GET", POLICIES.path_of(policies[0]["digest"]), repeats=False)["policy"]
                return [
                    (name, ", ".join(task.get("audience", ()))) for name, task in tomllib.loads(text)["task"].items()
                ]
            if kind == "operator":
                rows = mint.call("GET", OPERATORS.path, query={"limit": MOST}, repeats=False)["operators"]
                return [(row["name"], row["role"]) for row in rows]
    except Exception:  # noqa: S110 - a message would be printed into the line that a person types
        pass
    return []
