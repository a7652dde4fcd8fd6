# SPDX-License-Identifier: Apache-2.0
"""Values as text for people: durations, times, JSON, rows of the mint and of records."""

from collections.abc import Mapping
from typing import Any, Final

from arx_caps.caveat_text import show_json
from arx_caps.cli.terminal import Console, plain
from arx_caps.durations import show_span, show_time
from arx_caps.record_text import why_of


def show_until(ms: int, now_ms: int) -> str:
    """Return a time with its distance from now.

    Args:
        ms: The time, ms since the Unix epoch.
        now_ms: The current time, ms since the Unix epoch.
    """
    away = f"in {show_span(ms - now_ms)}" if ms > now_ms else f"{show_span(now_ms - ms)} ago"
    return f"{show_time(ms)} ({away})"


HEADS: Final = ("TIME", "OUTCOME", "SERVICE", "TOOL", "AGENT", "SESSION", "WHY")


def row_of(shown: Mapping[str, Any]) -> list[str]:
    """Return the cells of a record, given in the form of ``Decision.to_dict`` or of the mint's log."""
    if "kind" in shown:
        named = {name: value for name, value in (shown["named"] or {}).items() if name not in ("agent", "session")}
        about, who = shown["named"].get("session"), shown["named"].get("agent") or shown["by"]
        cells = (show_time(shown["at"]), "event", "mint", shown["kind"], who, about, show_json(named) if named else "")
    elif "outcome" in shown:
        who = " -> ".join((shown["agent"], *shown["named"]))
        # A record of counts has no token, so no audience.
        service = shown["audience"] or shown.get("service") or shown["verifier"]
        cells = (show_time(shown["at"]), shown["outcome"], service, shown["tool"], who, shown["session"], why_of(shown))
    else:
        cells = ("-", "unreadable", shown["service"], "-", "-", "-", shown["problem"])
    return [plain("" if cell is None else cell) or "-" for cell in cells]


def hint_audience(console: Console, answer: Mapping[str, Any]) -> None:
    """Hint that no task has a token for a service yet: a typing error, or a policy that is not active yet.

    Args:
        console: Gets the hint.
        answer: The mint's answer with the service, or with its invitation.
    """
    if not answer.get("in_policy", True):
        console.hint(
            f"add [audience.{answer['audience']}] to the policy: without it no task gets a token for this service"
        )


def facts_of(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return names and values of a row, with times, lists and objects as text."""
    return [(name.replace("_", " "), _in_words(name, value)) for name, value in row.items()]


def _in_words(name: str, value: Any) -> Any:
    if name.endswith("_at") and isinstance(value, int):
        return show_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_member(inner)}" for key, inner in value.items()) or None
    if isinstance(value, list):
        return ", ".join(map(_member, value)) or None
    return value


def _member(value: Any) -> str:
    """Return a member of a list or an object as text; an enrolled key as its id and its start."""
    if isinstance(value, dict) and value.keys() >= {"kid", "added_at"}:
        use = f", used {show_time(value['used_at'])}" if "used_at" in value else ""
        by = f" by version {value['version']}" if "version" in value else ""
        return f"{value['kid']} since {show_time(value['added_at'])}{use}{by}"
    return show_json(value) if isinstance(value, dict | list | bool) else str(value)
