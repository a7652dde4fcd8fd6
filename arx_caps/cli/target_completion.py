# SPDX-License-Identifier: Apache-2.0
"""Complete the targets of ``arx kill``, ``arx freeze`` and ``arx thaw`` in a shell.

The mint lists them; without its answer within a second, only the kinds are completed.
"""

from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from arx_caps.cli.name_completion import find_names
from arx_caps.revocation import KINDS


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
    found = find_names(ctx, kind, incomplete, frozen=verb == "thaw")
    return [CompletionItem(prefix + name, help=about) for name, about in found if name.startswith(incomplete)]
