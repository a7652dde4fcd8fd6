# SPDX-License-Identifier: Apache-2.0
"""The body of a notification, in JSON or in Slack's form, and its signature (Standard Webhooks). CONTROL 7.2."""

import base64
import hashlib
import hmac
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from arx_caps.mint.db.notices import (
    APPROVAL_ASKED,
    FROZEN,
    HEARTBEAT,
    KILLED,
    LOG_HALTED,
    LOG_RESUMED,
    REFUSALS_HIGH,
    REFUSALS_NORMAL,
    TEST,
    THAWED,
    VERIFIERS_BACK,
    VERIFIERS_LATE,
    WATCH_ENDS,
)
from arx_caps.mint.db.tables import Format
from arx_caps.settings.realm import Realm

VERSION: Final = 1
DISPUTES: Final = "arx audit trail --tool records.disputed"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - of each secret, by Standard Webhooks
SHOWN_CHARS: Final = 300  # of a fact in Slack's form, whose own limit is 2000
TITLE_CHARS: Final = 150  # Slack's limit for a header


class Notice(NamedTuple):
    """A notification to be sent.

    Attributes:
        id: The same in every attempt.
        kind: The kind of event.
        at_ms: When it was recorded, in ms since the Unix epoch.
        facts: What is sent of its facts.
    """

    id: str
    kind: str
    at_ms: int
    facts: Mapping[str, Any]


class _Form(NamedTuple):
    """How a kind of event is shown, where ``{name}`` is a fact: its title, and where console and command show more."""

    title: str
    page: str = ""  # below /console
    command: str = "arx doctor"


def _targets(verb: str) -> _Form:
    return _Form(f"{verb}: {{targets}}", "/kills/{seq}", "arx kills show {seq}")


def _verifiers(text: str) -> _Form:
    return _Form(f"{text}: {{verifiers}}", "/verifiers", "arx verifier list --all")


def _operator(text: str) -> _Form:
    return _Form(text, "/sign-ins", "arx operator show {operator}")


def _agents(text: str) -> _Form:
    return _Form(text, "/top", "arx audit top --by agent,reason --order refused --since 10m")


def _webhook(text: str) -> _Form:
    return _Form(text, "/notifications", "arx webhook list")


def _key(text: str) -> _Form:
    return _Form(text, "/keys", "arx key list")


_FORMS: Final[Mapping[str, _Form]] = MappingProxyType(
    {
        APPROVAL_ASKED: _Form("An approval waits: {tool}", "/approvals/{approval}", "arx approval show {approval}"),
        KILLED: _targets("Killed"),
        FROZEN: _targets("Frozen"),
        THAWED: _targets("Thawed"),
        LOG_HALTED: _Form("The audit log is halted"),
        LOG_RESUMED: _Form("The audit log is signed again"),
        VERIFIERS_LATE: _verifiers("Verifiers are late"),
        VERIFIERS_BACK: _verifiers("Verifiers are back"),
        WATCH_ENDS: _verifiers("Verifiers that watch enforce within three days"),
        REFUSALS_HIGH: _agents("Many refused calls of {agents}"),
        REFUSALS_NORMAL: _agents("No longer many refused calls of {agents}"),
        "records.disputed": _Form("Two different records at one position of a run", "/search", DISPUTES),
        "log.pruned": _Form("Records of the audit log were pruned", "/search", "arx audit check"),
        "log.erased": _Form("Bodies of the audit log were erased", "/search", "arx audit check"),
        "log.recovered": _Form("The audit log was written again from its files", "/search", "arx audit check"),
        "operator.enrolled": _operator("Operator added: {operator}, with the role {role}"),
        "operator.removed": _operator("Operator removed: {operator}"),
        "operator.role_changed": _operator("Operator {operator} has another role: {role}, before {before}"),
        "operator.keys_changed": _operator("Operator {operator} has other keys"),
        "operator.recovered": _operator("Break-glass: the mint's host made {operator} an admin with a new key"),
        "policy.loaded": _Form("A policy was loaded", "/policy", "arx policy show"),
        "key.rotated": _key("Root key rotated: {key}"),
        "key.retired": _key("Root key retired: {key}"),
        "key.resealed": _key("The root keys were sealed again"),
        "service.key_replaced": _key("Audience key replaced: {audience}"),
        "signing_key.created": _key("Signing key of access tokens made: {key}"),
        "epoch.rotated": _Form("Every older token is revoked: a new history of kills begins", command="arx status"),
        "mint.issuer_changed": _Form("The issuer of the realm is now {issuer}", command="arx status"),
        "webhook.added": _webhook("Webhook added: {origin}"),
        "webhook.removed": _webhook("Webhook removed: {webhook}"),
        "webhook.gone": _webhook("Webhook gone: {webhook} answered 410"),
        HEARTBEAT: _Form("The realm is ready"),
    }
)


def body_of(notice: Notice, realm: Realm, form: Format) -> bytes:
    """Return the body of a notification.

    Args:
        notice: The notification.
        realm: The realm, whose issuer is the beginning of the link.
        form: ``json``, or ``slack`` for an incoming webhook of Slack; ``get`` has none.
    """
    if form == "get":
        return b""
    shown = _form_of(notice)
    time = datetime.fromtimestamp(notice.at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message = {
        "version": VERSION,
        "id": notice.id,
        "type": notice.kind,
        "timestamp": time,
        "realm": realm.name,
        "text": _filled(shown.title, notice.facts),
        "data": dict(notice.facts),
        "link": realm.issuer + quote(_filled(f"/console{shown.page}", notice.facts)),
        "command": _filled(shown.command, notice.facts),
    }
    return msgspec.json.encode(message if form == "json" else _for_slack(message))


def sign(secret: str, notice_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Return the headers that sign a body (https://www.standardwebhooks.com).

    Args:
        secret: The receiver's secret, ``whsec_`` and base64.
        notice_id: The notification's id.
        at_s: The time of this attempt, in s since the Unix epoch.
        body: The body.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = hmac.new(key, f"{notice_id}.{at_s}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(signed).decode()}"
    return {"webhook-id": notice_id, "webhook-timestamp": str(at_s), "webhook-signature": signature}


def _form_of(notice: Notice) -> _Form:
    # A test has the type of a kind and none of its facts: what it shows must not pass for an event.
    if "test" in notice.facts:
        return _webhook("A test of this webhook" if notice.kind == TEST else f"A test, no event: {notice.kind}")
    if notice.kind == HEARTBEAT and not notice.facts["ready"]:
        return _Form("The realm is not ready")
    # During an update, a newer mint may have queued a kind that this one does not know.
    return _FORMS.get(notice.kind) or _Form(notice.kind)


def _filled(text: str, facts: Mapping[str, Any]) -> str:
    """Return a text with its facts: of several names the first, and how many more there are."""
    more = facts.get("count", 1) - 1
    shown = {name: value[0] if isinstance(value, list) and value else value for name, value in facts.items()}
    if more:
        shown |= {
            name: f"{shown[name]} and {more} more" for name in ("targets", "verifiers", "agents") if name in shown
        }
    return text.format_map(defaultdict(lambda: "?", shown))  # a missing fact must not keep the rest from being sent


def _for_slack(message: Mapping[str, Any]) -> dict[str, Any]:
    # Facts are plain text and never Slack's markup: an agent or an operator's reason could otherwise write a link that
    # looks like this one, or call a whole channel.
    facts = {name: value for name, value in message["data"].items() if name != "count"}
    fields = [_plain(f"{name}: {_fact_text(value)}", SHOWN_CHARS) for name, value in facts.items()][:10]
    title = f"{message['realm']}: {message['text']}"
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain(title, TITLE_CHARS)}]
    blocks += [{"type": "section", "fields": fields}] if fields else []
    link = f"<{_escaped(message['link'])}|Open in the console>"
    blocks += [{"type": "section", "text": {"type": "mrkdwn", "text": link, "verbatim": True}}]
    blocks += [{"type": "context", "elements": [_plain(f"{message['command']} · {message['timestamp']}", SHOWN_CHARS)]}]
    return {"text": _escaped(_cut(title, SHOWN_CHARS)), "blocks": blocks}


def _plain(text: str, most: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": _cut(text, most), "emoji": False}


def _cut(text: str, most: int) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _escaped(text: str) -> str:
    """Return text without Slack's control characters (https://docs.slack.dev/messaging/formatting-message-text)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fact_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
