# SPDX-License-Identifier: Apache-2.0
"""Records of the audit log as rows of a page, and the filters that pages of records share."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from arx_caps.console.command import command
from arx_caps.console.render import badge
from arx_caps.settings.durations import parse_duration
from arx_caps.text.record_text import why_of
from arx_verifier.clock import now_ms
from arx_verifier.errors import REASONS, RequestError
from arx_verifier.token.targets import subject_target

TONES: Final = {
    "allow": "ok", "deny": "bad", "end": "bad", "would_refuse": "warn", "counted": "warn", "gap": "warn",
    "effect": "quiet", "event": "quiet",
}  # fmt: skip
# The filters by name, in the order of the form, with their labels and an example each.
FILTERS: Final = (
    ("session", "Session", "s-…"),
    ("agent", "Agent", "acme/support/**"),
    ("person", "Person", "subject:… or ISSUER SUBJECT"),
    ("task", "Task", "t-…"),
    ("link", "Delegation", "link"),
    ("tool", "Tool", "orders.*"),
)
OUTCOMES: Final = ("allow", "deny", "end", "would_refuse", "effect", "counted", "gap", "event")
_NAMES: Final = ("session", "agent", "task", "link", "tool", "reason")  # alike on a page, in the API and for ``arx``
_MAX_AGE_MS: Final = 36_525 * 86_400_000


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A record as a page shows it.

    Attributes:
        index: Its index in the log.
        at: Its time, ms since the Unix epoch; None if it cannot be read.
        outcome: The word of its outcome.
        tool: The tool, or the event's kind.
        service: The service that decided.
        chain: The agent and, after it, the holders that delegations name.
        session: Its session, or empty.
        why: A sentence: the reason of a refusal, or what an event names.
    """

    index: int
    at: int | None
    outcome: str
    tool: str
    service: str
    chain: tuple[str, ...]
    session: str
    why: str

    @property
    def detail(self) -> str:
        """The reason without its code, which a page shows beside it."""
        return self.why.partition(": ")[2] if self.outcome in ("deny", "end", "would_refuse") else self.why

    @property
    def badge(self) -> Any:
        """The outcome as a badge."""
        return badge(self.outcome, TONES.get(self.outcome, "warn"))


def row_of(shown: Mapping[str, Any]) -> RecordRow:
    """Return a record as a row.

    Args:
        shown: The record, as the API shows it.
    """
    index, service = shown["index"], shown["service"]
    if shown["type"] == "unreadable":
        return RecordRow(index, None, "unreadable", "-", service, (), "", shown["problem"])
    if shown["type"] == "event":
        named = shown["named"]
        who = named.get("agent") or shown["by"]
        about = ", ".join(
            f"{name} {value}" for name, value in named.items() if name not in ("agent", "session", "mint")
        )
        return RecordRow(index, shown["at"], "event", shown["kind"], "mint", (who,), named.get("session") or "", about)
    chain = tuple(filter(None, (shown["agent"], *shown["named"])))
    service = shown["audience"] or service
    tool = shown["tool"] or shown["code"]
    return RecordRow(index, shown["at"], shown["outcome"], tool, service, chain, shown["session"], why_of(shown))


def meaning_of(code: str) -> str:
    """Return what a reason code means, or an empty text."""
    reason = REASONS.get(code)
    return "" if reason is None else reason.meaning


def filters_of(query: Mapping[str, str]) -> dict[str, Any]:
    """Return the API's filters of a page's query.

    Args:
        query: The page's query: the names of ``FILTERS``, ``reason``, ``since`` and ``until``.

    Raises:
        RequestError: A time or a person is not readable.
    """
    asked: dict[str, Any] = {name: text for name in _NAMES if (text := query.get(name, "").strip())}
    if subject := _subject(query):
        asked["subject"] = subject
    for name in ("since", "until"):
        if text := query.get(name, "").strip():
            asked[name] = time_of(text)
    return asked


def command_of(words: str, query: Mapping[str, str]) -> str:
    """Return a command line of ``arx`` with the filters of a page's query."""
    options = {name: query.get(name, "").strip() for name in _NAMES}
    options |= {name: spell_time(query.get(name, "").strip()) for name in ("since", "until")}
    return command(words, options | {"subject": _subject(query)})


def spell_time(text: str) -> str:
    """Return a time of a page's query as ``arx`` takes it: a date alone is a whole time there, with its zone."""
    if "-" not in text:
        return text
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_of(text) / 1000))


def time_of(text: str) -> int:
    """Return a time, ms since the Unix epoch, of an age such as ``24h``, a UTC time, or a number of ms.

    Raises:
        RequestError: It is none of these.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        # From a whole minute on: the log keeps the totals of minutes.
        return (now_ms() - int(parse_duration(text, _MAX_AGE_MS))) // 60_000 * 60_000
    except ValueError:
        pass
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() * 1000)
        except ValueError:
            continue
    raise RequestError("invalid time: expected an age such as 24h, or a UTC time such as 2026-01-31T12:00:00Z")


def _subject(query: Mapping[str, str]) -> str:
    """Return the target of the person that a query names; empty if it names none."""
    person = query.get("person", "").strip()
    if not person or person.startswith("subject:"):
        return person
    issuer, _, subject = person.partition(" ")
    if not subject.strip():
        raise RequestError("invalid person: expected subject:…, or the issuer and the subject, with a space between")
    return subject_target(issuer, subject.strip())
