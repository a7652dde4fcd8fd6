# SPDX-License-Identifier: Apache-2.0
"""Which refs recorded pushes of git changed, of the records of a log.  SPEC 8.7, 12.8."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, Final

from arx_caps.text.effects import KnownEffect

_ID: Final = "[0-9a-f]{40}(?:[0-9a-f]{24})?"
_UPDATE: Final = re.compile(f"({_ID}) ({_ID}) (.+)")
_FACTS: Final = ("at", "code", "agent", "named", "subject", "task", "tasks", "session", "service", "id", "leaf")


def updates_of(calls: Iterable[Mapping[str, Any]], effects: Iterable[KnownEffect]) -> Iterator[dict[str, Any]]:
    """Yield each update of a ref that a push asked for, in the order of the log.

    Its ``old`` and ``new`` are None where they are not recorded: of a refused push, of one whose process died, and of
    each update after the eighth.  ``repo`` is None if the record does not name it.

    Args:
        calls: The records of decisions about tools that push, as the log shows them.
        effects: The effects of those that were allowed.
    """
    known = {effect.allowed["id"]: effect for effect in effects}
    for shown in calls:
        arguments = _arguments(shown)
        if arguments is None:
            continue
        effect = known.get(shown["id"])
        record = (effect and effect.record) or {}
        ids = [_UPDATE.fullmatch(part) for part in (record.get("external_id") or "").split(", ") if part]
        push = {name: shown[name] for name in _FACTS}
        push |= {"repo": arguments.get("repo"), "result": effect.result if effect else "refused"}
        # Without their arguments the text of the effect has the refs, and may have cut them.
        for ref, its in zip_longest(arguments.get("refs") or [None], [each for each in ids if each]):
            yield push | {"ref": ref or (its and its[3]), "old": its and its[1], "new": its and its[2]}


def _arguments(shown: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments of a push, empty if the record has lost them; None for a tool that does not push to git."""
    if shown.get("arguments") == "" or shown["erased"]:  # too long for a record, or erased
        return {}
    found = json.loads(shown.get("arguments") or "{}")
    return found if isinstance(found.get("repo"), str) and isinstance(found.get("refs"), list) else None
