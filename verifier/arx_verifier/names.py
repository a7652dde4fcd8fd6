# SPDX-License-Identifier: Apache-2.0
"""The grammars of names, and the matching of path and tool patterns.  SPEC 4.4.

The mint, holders and verifiers all use this module, so that they cannot disagree.  Each ``is_…`` accepts a value of any
type.  No function raises.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

MAX_PATH_BYTES: Final = 64  # with `agent:` before it, an agent path stays below the 96 bytes of a target
MAX_PATH_SEGMENTS: Final = 8  # each ancestor is one more target to look up in every decision
MAX_TOOL_CHARS: Final = 96  # longer than any tool name seen in the wild; keeps a record's line readable

_SEGMENT: Final = r"[a-z0-9][a-z0-9._-]*"
_REALM: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_AUDIENCE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PATH: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_TOOL: Final = re.compile(r"[A-Za-z0-9_/:-]+(?:\.[A-Za-z0-9_/:-]+)*")
_ROOT_NAME: Final = re.compile(r"[a-z0-9]{1,16}")
# Every call of a chain has the same few names and patterns.  Only short texts are cached.
_remember: Final = lru_cache(maxsize=2048)
_MAX_REMEMBERED: Final = 8  # patterns in a list whose answer is cached

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_IDS: Final = re.compile(r"[A-Za-z0-9._-]{1,64} [A-Za-z0-9._-]{1,64}")  # no id has a space, so the join is unambiguous
_KID: Final = re.compile(r"[a-z0-9]{1,16}\.(?:0|[1-9][0-9]{0,8})")


def is_realm(text: Any) -> bool:
    """Return whether *text* can name a realm: ``[a-z0-9][a-z0-9._-]{0,31}``."""
    return isinstance(text, str) and _REALM.fullmatch(text) is not None


def is_audience(text: Any) -> bool:
    """Return whether *text* can name a tool service: at most 64 characters, not beginning with ``arx``.

    The mint's own audience ``arx.mint`` is not one; a caller that accepts it compares it separately.
    """
    return isinstance(text, str) and _AUDIENCE.fullmatch(text) is not None and not text.startswith("arx")


def is_agent_path(text: Any) -> bool:
    """Return whether *text* is an agent path: 1-8 segments ``[a-z0-9][a-z0-9._-]*`` joined by ``/``, 64 bytes."""
    return isinstance(text, str) and len(text) <= MAX_PATH_BYTES and _is_agent_path(text)


def is_path_pattern(text: Any) -> bool:
    """Return whether *text* is a pattern of agent paths: ``*`` for one segment, ``**`` only as the last."""
    return isinstance(text, str) and len(text) <= MAX_PATH_BYTES and _is_path_pattern(text)


def is_tool(text: Any) -> bool:
    """Return whether *text* can name a tool: dotted parts of ``[A-Za-z0-9_/:-]``, none empty, at most 96 characters."""
    return isinstance(text, str) and len(text) <= MAX_TOOL_CHARS and _TOOL.fullmatch(text) is not None


def is_tool_pattern(text: Any) -> bool:
    """Return whether *text* is a tool, ``prefix.*`` or ``*``, as a rule may name it."""
    return isinstance(text, str) and len(text) <= MAX_TOOL_CHARS and _is_tool_pattern(text)


def is_root_name(text: Any) -> bool:
    """Return whether *text* can name a root key: ``[a-z0-9]{1,16}``."""
    return isinstance(text, str) and _ROOT_NAME.fullmatch(text) is not None


def is_kid(text: Any) -> bool:
    """Return whether *text* is a key id, ``<root name>.<n>``, the number without leading zeros."""
    return isinstance(text, str) and _KID.fullmatch(text) is not None


def is_id(text: Any) -> bool:
    """Return whether *text* can name a session, a task or a policy: 1 to 64 of ``[A-Za-z0-9._-]``."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def are_ids(one: str, other: str) -> bool:
    """Return whether ``is_id`` holds for both texts, with one match instead of two."""
    return _IDS.fullmatch(f"{one} {other}") is not None


@_remember
def can_grant(agent: str, policy: str | None) -> bool:
    """Return whether *agent* is an agent path and *policy* an id or None."""
    return is_agent_path(agent) and (policy is None or is_id(policy))


def ancestors(path: str) -> list[str]:
    """Return *path* and every path above it, nearest first."""
    # Paths are cut at `/`, never compared as prefixes of text: `acme` is above `acme/x`, and not above `acme2`.
    paths = [path]
    while (cut := path.rfind("/")) >= 0:
        path = path[:cut]
        paths.append(path)
    return paths


def matches_path(pattern: str, path: str) -> bool:
    """Return whether a pattern of agent paths matches *path*.

    Args:
        pattern: Segments are exact, ``*`` is any one segment, and a last ``**`` is any number of further segments,
            none included: ``acme/**`` matches ``acme`` and all paths below it.
        path: An agent path.
    """
    wanted, segments = pattern.split("/"), path.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        segments = segments[: len(wanted)]
    if len(wanted) != len(segments):
        return False
    return all(want in ("*", segment) for want, segment in zip(wanted, segments, strict=True))


def matches_any_path(patterns: Sequence[str], path: str) -> bool:
    """Return whether one of *patterns* matches *path*; an empty list matches nothing."""
    if len(patterns) > _MAX_REMEMBERED:  # a holder wrote them: entries of the shared cache must stay small
        return any(matches_path(pattern, path) for pattern in patterns)
    return _matches_any_path(tuple(patterns), path)


def matches_tool(pattern: str, tool: str) -> bool:
    """Return whether a tool pattern matches *tool*: exact, ``prefix.*`` (cut at a dot), or ``*``.

    Nothing matches the empty name, which is that of a request without a tool.
    """
    if pattern == "*":
        return tool != ""
    if pattern.endswith(".*"):
        # The dot is compared and a character must follow: `orders.*` matches neither `orders`, `orders.` nor `ordersX`.
        return len(tool) >= len(pattern) and tool.startswith(pattern[:-1])
    return pattern == tool


@_remember
def _is_agent_path(text: str) -> bool:
    return text.count("/") < MAX_PATH_SEGMENTS and _PATH.fullmatch(text) is not None


@_remember
def _is_path_pattern(text: str) -> bool:
    segments = text.split("/")
    if len(segments) > MAX_PATH_SEGMENTS:
        return False
    if segments[-1] == "**":
        segments.pop()
    return all(segment == "*" or _PATH.fullmatch(segment) is not None for segment in segments)


@_remember
def _is_tool_pattern(text: str) -> bool:
    return text == "*" or is_tool(text.removesuffix(".*"))


@_remember
def _matches_any_path(patterns: tuple[str, ...], path: str) -> bool:
    return any(matches_path(pattern, path) for pattern in patterns)
