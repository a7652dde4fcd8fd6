# SPDX-License-Identifier: Apache-2.0
"""The grammars of names, and which path a pattern covers.  SPEC 4.4.

One home for what a realm, an audience, an agent path, a tool and a key id look like, so that the mint, a holder and a
verifier cannot disagree.  Each ``is_…`` answers for any value, also for one that is no text.  Nothing here knows what
a name is used for, or raises.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

MAX_PATH_BYTES: Final = 64  # an agent path with ``agent:`` before it stays below the 96 bytes of a target
MAX_PATH_SEGMENTS: Final = 8  # each ancestor is one more target to look up on every check
MAX_TOOL_CHARS: Final = 96  # longer than any tool name seen in the wild; keeps a record's line readable

_SEGMENT: Final = r"[a-z0-9][a-z0-9._-]*"
_REALM: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_AUDIENCE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PATH: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_TOOL: Final = re.compile(r"[A-Za-z0-9_/:-]+(?:\.[A-Za-z0-9_/:-]+)*")
_ROOT_NAME: Final = re.compile(r"[a-z0-9]{1,16}")
# The same few names and patterns come with every call of a chain; short texts only, and few of them.
_remember: Final = lru_cache(maxsize=2048)
_MAX_REMEMBERED: Final = 8  # patterns in one list

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_IDS: Final = re.compile(r"[A-Za-z0-9._-]{1,64} [A-Za-z0-9._-]{1,64}")
_KID: Final = re.compile(r"[a-z0-9]{1,16}\.(?:0|[1-9][0-9]{0,8})")


def is_realm(text: Any) -> bool:
    """Tell whether *text* can name a realm: ``[a-z0-9][a-z0-9._-]{0,31}``."""
    return isinstance(text, str) and _REALM.fullmatch(text) is not None


def is_audience(text: Any) -> bool:
    """Tell whether *text* can name a tool service: at most 64 characters, not beginning with ``arx``.

    ``arx.mint``, the mint's own audience, is not one: a caller that takes it says so.
    """
    return isinstance(text, str) and _AUDIENCE.fullmatch(text) is not None and not text.startswith("arx")


def is_agent_path(text: Any) -> bool:
    """Tell whether *text* is an agent path: 1-8 segments ``[a-z0-9][a-z0-9._-]*`` joined by ``/``, 64 bytes."""
    return isinstance(text, str) and len(text) <= MAX_PATH_BYTES and _is_agent_path(text)


def is_path_pattern(text: Any) -> bool:
    """Tell whether *text* is a pattern of agent paths: ``*`` for one segment, ``**`` only as the last."""
    return isinstance(text, str) and len(text) <= MAX_PATH_BYTES and _is_path_pattern(text)


def is_tool(text: Any) -> bool:
    """Tell whether *text* can name a tool: dotted parts of ``[A-Za-z0-9_/:-]``, none empty, at most 96 characters."""
    return isinstance(text, str) and len(text) <= MAX_TOOL_CHARS and _TOOL.fullmatch(text) is not None


def is_tool_pattern(text: Any) -> bool:
    """Tell whether *text* is what a rule may name: a tool, ``prefix.*`` or ``*``."""
    return isinstance(text, str) and len(text) <= MAX_TOOL_CHARS and _is_tool_pattern(text)


def is_root_name(text: Any) -> bool:
    """Tell whether *text* can name a root key: ``[a-z0-9]{1,16}``."""
    return isinstance(text, str) and _ROOT_NAME.fullmatch(text) is not None


def is_kid(text: Any) -> bool:
    """Tell whether *text* is a key id, ``<root name>.<n>``, the number without leading zeros."""
    return isinstance(text, str) and _KID.fullmatch(text) is not None


def is_id(text: Any) -> bool:
    """Tell whether *text* can name a session, a task or a policy: 1 to 64 of ``[A-Za-z0-9._-]``."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def are_ids(one: str, other: str) -> bool:
    """Tell whether both texts are such names, in one look."""
    return _IDS.fullmatch(f"{one} {other}") is not None


@_remember
def can_grant(agent: str, policy: str | None) -> bool:
    """Tell whether an identifier may have this agent and this policy: a path; and a name, or none."""
    return is_agent_path(agent) and (policy is None or is_id(policy))


def ancestors(path: str) -> list[str]:
    """List *path* and every path above it, nearest first.

    ``acme`` is above ``acme/x`` and not above ``acme2``: paths are cut at ``/``, never compared as prefixes of text.
    """
    found = [path]
    while (cut := path.rfind("/")) >= 0:
        path = path[:cut]
        found.append(path)
    return found


def matches_path(pattern: str, path: str) -> bool:
    """Tell whether a pattern of agent paths covers *path*.

    Args:
        pattern: Segments are exact, ``*`` is any one segment, and a last ``**`` is any number of further segments,
            none included: ``acme/**`` covers ``acme`` and all below it.
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
    """Tell whether one of *patterns* covers *path*; an empty list covers nothing."""
    if len(patterns) > _MAX_REMEMBERED:  # a holder wrote them: what is remembered for all must stay small
        return any(matches_path(pattern, path) for pattern in patterns)
    return _matches_any_path(tuple(patterns), path)


def matches_tool(pattern: str, tool: str) -> bool:
    """Tell whether a tool pattern covers *tool*: exact, ``prefix.*`` (cut at a dot), or ``*``.

    The empty name, which is a request that means no tool, is covered by nothing.
    """
    if pattern == "*":
        return tool != ""
    if pattern.endswith(".*"):
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
