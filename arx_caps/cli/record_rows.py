# SPDX-License-Identifier: Apache-2.0
"""A record in one row of a table, whether it is of a journal or of the log."""

from collections.abc import Mapping
from typing import Any, Final

from arx_caps.cli.parse import show_json
from arx_caps.cli.terminal import plain
from arx_caps.durations import show_time

HEADS: Final = ("TIME", "OUTCOME", "SERVICE", "TOOL", "AGENT", "SESSION", "WHY")


def row_of(shown: Mapping[str, Any]) -> list[str]:
    """Return the cells of a record as ``Decision.to_dict`` or a mint's log shows it."""
    if "kind" in shown:
        named = {name: value for name, value in (shown["named"] or {}).items() if name not in ("agent", "session")}
        about, who = shown["named"].get("session"), shown["named"].get("agent") or shown["by"]
        cells = (show_time(shown["at"]), "event", "mint", shown["kind"], who, about, show_json(named) if named else "")
    elif "outcome" in shown:
        who = " -> ".join((shown["agent"], *shown["named"]))
        service = shown["audience"] or shown.get("service") or shown["verifier"]  # no token says what was only counted
        cells = (show_time(shown["at"]), shown["outcome"], service, shown["tool"], who, shown["session"], why_of(shown))
    else:
        cells = ("-", "unreadable", shown["service"], "-", "-", "-", shown["problem"])
    return [plain("" if cell is None else cell) or "-" for cell in cells]


def why_of(shown: Mapping[str, Any]) -> str:
    """Say why a decision was as it was; nothing for an allow."""
    gap = shown["gap"]
    if gap is not None:
        return f"{gap['times']} {gap['why']}, {show_time(gap['since'])} to {show_time(gap['until'])}"
    if shown["counts"]:
        return ", ".join(f"{counted['times']} {counted['code']}" for counted in shown["counts"])
    why = str(shown["code"]) if shown["outcome"] in ("deny", "end") else ""
    if shown["failures"]:
        first = shown["failures"][0]
        told = shown.get("erased") is not True
        why += f": {first['rule']}: " + (f"expected {first['expected']}, got {first['came']}" if told else "erased")
    return why
