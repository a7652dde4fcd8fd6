# SPDX-License-Identifier: Apache-2.0
"""Write records as text for people, in the console and on the command line alike.  SPEC 12, LOG 3."""

from collections.abc import Mapping
from typing import Any

from arx_caps.settings.durations import show_time
from arx_verifier.errors import Failure


def why_of(shown: Mapping[str, Any]) -> str:
    """Return why a decision is what it is, the marks that it has set, and `box: none`; empty for a plain allow.

    Args:
        shown: The decision, in the form of ``Decision.to_dict`` or of the mint's log.
    """
    gap = shown["gap"]
    if gap is not None:
        return f"{gap['times']} {gap['why']}, {show_time(gap['since'])} to {show_time(gap['until'])}"
    if shown["counts"]:
        return ", ".join(f"{counted['times']} {counted['code']}" for counted in shown["counts"])
    more = [f"sets {', '.join(shown['marks'])}"] if shown.get("marks") else []
    more += ["box: none"] if shown.get("box") == "none" else []
    if "effect" in shown:
        return "; ".join([effect_of(shown), *more])
    if shown["outcome"] not in ("deny", "end", "would_refuse"):
        return "; ".join(more)
    failures = [str(Failure(**failure)) for failure in shown["failures"][:1]]
    return "; ".join([": ".join([shown["code"], *failures]), *more])


def effect_of(shown: Mapping[str, Any]) -> str:
    """Return what is known of the effect of a call: its result, status, length, time and name; empty for none.

    Args:
        shown: The decision, in the form of ``Decision.to_dict`` or of the mint's log.
    """
    effect = shown.get("effect")
    if effect is None:
        return ""
    if effect["result"] == "awaited":
        return "its effect gets a record"
    more = [f"status {effect['status']}"] if effect["status"] else []
    more += [f"{effect['size']} bytes"] if effect["size"] >= 0 else []
    more += [f"{effect['took_ms']} ms"] if effect["took_ms"] >= 0 else []
    more += [f"id {shown['external_id']}"] if shown["external_id"] else []
    if (its := shown.get("credential")) is not None:
        more += [f"as {its['account'] or 'an erased account'} of {its['connection']}, {its['source']}"]
    return f"{', '.join([effect['result'], *more])}, of {effect['of']}"


def shorten_middle(text: str, longest: int) -> str:
    """Return a text, without its middle if it is longer than ``longest`` characters, as an id is shown."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - 1 - end]}…{text[len(text) - end :]}"
