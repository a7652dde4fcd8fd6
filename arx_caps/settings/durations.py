# SPDX-License-Identifier: Apache-2.0
"""Parse and format durations such as ``10m``, ``60s`` and ``500ms``, and format times for people.

A duration is one whole number and one unit.  In the code, durations and times are integers of milliseconds.
"""

import datetime as dt
import re
from typing import Any, Final

from arx_verifier.errors import RequestError, shorten

UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
MAX_MS: Final = 366 * UNITS["d"]  # longer than anything here lives; keeps sums of times within 2**53

# One number and one unit: "1h30m" or "1.5h" would give one duration several spellings.
_FORM: Final = re.compile(r"(0|[1-9][0-9]{0,14})(ms|s|m|h|d)")


def parse_duration(text: Any, most_ms: int = MAX_MS) -> int:
    """Parse a duration.

    Args:
        text: A whole number and a unit: ``ms``, ``s``, ``m``, ``h`` or ``d``.
        most_ms: The longest accepted duration, ms, in whole days; 366 days when omitted.

    Returns:
        Milliseconds, 0 to ``most_ms``.

    Raises:
        ValueError: ``text`` has another form, or is longer than ``most_ms``.
    """
    form = _FORM.fullmatch(text) if isinstance(text, str) else None
    if form is None:
        raise ValueError('a duration is a whole number and a unit, such as "500ms", "60s", "10m", "8h" or "2d"')
    length = int(form[1]) * UNITS[form[2]]
    if length > most_ms:
        raise ValueError(f"a duration is at most {most_ms // UNITS['d']}d")
    return length


def asked_duration(name: str, text: Any) -> str | None:
    """Return a duration that a caller asks the mint for, after checking its form.

    Args:
        name: Name of the caller's argument, for errors.
        text: The duration; None to leave it to the policy.

    Returns:
        The duration as text, or None.

    Raises:
        RequestError: ``text`` is no duration, or is 0 ms.
    """
    if text is None:
        return None
    try:
        length = parse_duration(text)
    except ValueError as error:
        raise RequestError(f"{name}: {error}; got {shorten(text)}") from error
    if length == 0:
        raise RequestError(f"{name}: expected more than 0 ms, got {text}; leave it out for the policy's limit")
    return str(text)


def duration_within(text: str | None, longest_ms: int) -> int | None:
    """Parse a requested duration that has an upper limit.

    Args:
        text: A duration, or None to ask for the longest.
        longest_ms: The longest duration that the caller may request, ms.

    Returns:
        Milliseconds, 1 to ``longest_ms``; None when ``text`` is no such duration.
    """
    if text is None:
        return longest_ms
    try:
        asked = parse_duration(text)
    except ValueError:
        return None
    return asked if 0 < asked <= longest_ms else None


def format_duration(ms: int) -> str:
    """Return milliseconds as text in the largest unit that divides them: 600000 is ``10m``."""
    for unit, size in reversed(UNITS.items()):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


def show_time(ms: int) -> str:
    """Return a time as text for people, in UTC, to the second.

    Args:
        ms: Milliseconds since the Unix epoch.
    """
    try:
        at = dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms after 1970"
    # By ``isoformat``, in half the time of ``strftime``: a page has hundreds of times.
    return f"{at.isoformat(' ')[:19]}Z"


def show_span(ms: int) -> str:
    """Return a duration in its two largest units, such as ``2h 5m``.

    Args:
        ms: The duration, ms.
    """
    if ms < 1000:
        return f"{ms} ms"
    parts = []
    left = ms // 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2])
