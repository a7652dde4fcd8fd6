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

from arx_caps.cli.access.mint_session import Caller
from arx_caps.cli.access.place import Place
from arx_caps.cli.resources import AGENTS, FREEZES, OPERATORS, POLICIES, SESSIONS, TASKS, Resource

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
                rows = _rows(mint, FREEZES, kind=kind)
                return [(row["target"].partition(":")[2], row["reason"]) for row in rows]
            if kind == "agent":
                under = incomplete.rpartition("/")[0] or None
                return [(row["path"], row["state"]) for row in _rows(mint, AGENTS, under=under)]
            if kind in ("session", "task"):
                rows = _rows(mint, SESSIONS if kind == "session" else TASKS, state="open")
                return [(row["id"], row["agent"]) for row in rows]
            if kind == "template":
                text = mint.call("GET", POLICIES.path_of("in-force"), repeats=False)["policy"]
                return [
                    (name, ", ".join(task.get("audience", ()))) for name, task in tomllib.loads(text)["task"].items()
                ]
            if kind == "operator":
                return [(row["name"], row["role"]) for row in _rows(mint, OPERATORS)]
    except Exception:  # noqa: S110 - a message would be printed into the line that a person types
        pass
    return []


def _rows(mint: Caller, resource: Resource, **query: str | None) -> list[dict[str, Any]]:
    answer = mint.call("GET", resource.path, query={**query, "limit": MOST}, repeats=False)
    return list(answer[resource.member])
