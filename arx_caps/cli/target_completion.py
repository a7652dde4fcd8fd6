# SPDX-License-Identifier: Apache-2.0
"""Complete the targets of ``arx kill``, ``arx freeze`` and ``arx thaw`` in a shell.

The mint lists them; without its answer within a second, only the kinds are completed.
"""

from collections.abc import Sequence
from typing import Final

import click
from click.shell_completion import CompletionItem

from arx_caps.cli.place import Place
from arx_caps.revocation import KINDS

ANSWER_S: Final = 1.0  # a person waits for each press of the key
MOST: Final = 200  # names of one kind
_PLACE: Final = ("realm_dir", "issuer", "operator_key", "store", "realm")


def complete_targets(
    verb: str, kind: str | None, ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the targets that a word may become.

    Args:
        verb: ``kill``, ``freeze`` or ``thaw``; only what is frozen can be thawed.
        kind: The kind of targets that are named by their ids alone, or None.
        ctx: The command line so far.
        incomplete: The word.
    """
    typed: Sequence[str] = ctx.params.get("targets") or ()
    whole = False
    if kind is None:
        if ":" in incomplete.strip(":"):
            kind, incomplete = incomplete.split(":", 1)
            whole = True  # zsh and fish replace the whole word
        elif typed and (typed[0] in KINDS or typed[-1] in KINDS or typed[-1] == ":"):
            # `arx kill agent acme/…`; and bash, which takes a colon for a word of its own.
            kind = typed[-2] if typed[-1] == ":" and len(typed) > 1 else typed[-1] if typed[-1] in KINDS else typed[0]
            incomplete = incomplete.removeprefix(":")
        else:
            return [CompletionItem(name) for name in KINDS if name.startswith(incomplete)]
    prefix = f"{kind}:" if whole else ""
    found = _names(ctx, verb, kind, incomplete)
    return [CompletionItem(prefix + name, help=about) for name, about in found if name.startswith(incomplete)]


def _names(ctx: click.Context, verb: str, kind: str, incomplete: str) -> list[tuple[str, str]]:
    """Return names of a kind, each with a word about it; empty without an answer of the mint."""
    try:
        mint = Place(*(ctx.params.get(name) for name in _PLACE)).mint(ANSWER_S)  # type: ignore[arg-type]
        if verb == "thaw":
            rows = mint.call("GET", "/v1/freezes", query={"kind": kind, "limit": MOST}, repeats=False)["freezes"]
            return [(row["target"].partition(":")[2], row["reason"]) for row in rows]
        if kind == "agent":
            under = incomplete.rpartition("/")[0] or None
            rows = mint.call("GET", "/v1/agents", query={"under": under, "limit": MOST}, repeats=False)["agents"]
            return [(row["path"], row["state"]) for row in rows]
        if kind in ("session", "task"):
            query = {"state": "open", "limit": MOST}
            rows = mint.call("GET", f"/v1/{kind}s", query=query, repeats=False)[f"{kind}s"]
            return [(row["id"], row["agent"]) for row in rows]
        if kind == "operator":
            rows = mint.call("GET", "/v1/operators", query={"limit": MOST}, repeats=False)["operators"]
            return [(row["name"], row["role"]) for row in rows]
    except Exception:  # noqa: S110 - a message would be printed into the line that a person types
        pass
    return []
