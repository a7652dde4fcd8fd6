# SPDX-License-Identifier: Apache-2.0
"""Routes of webhooks and their notifications.  CONTROL 7."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from arx_caps.mint.api.endpoint import Body, Endpoint, Hidden, Query, RouteAnswer, RouteCall, collect
from arx_caps.mint.api.pagination import Paged, PageQuery, page_of
from arx_caps.mint.api.views import require_row, show_row
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import FAILED, HEARTBEAT, NOTIFIED, TEST, WAITING
from arx_caps.mint.db.repositories.events.notifications import NOTIFICATIONS_ORDER
from arx_caps.mint.db.tables import Format, NoticeRow, WebhookRow
from arx_caps.mint.notifications.receivers import (
    MAX_URL_CHARS,
    Receiver,
    check_url,
    new_secret,
    origin_of,
    seal_receiver,
)
from arx_caps.mint.tasks.token_factory import new_name
from arx_verifier.clock import now_ms
from arx_verifier.errors import GrantError, RequestError

READ: Final = "arx.webhooks.read"
WRITE: Final = "arx.webhooks.write"
HEARTBEAT_MS: Final = (1000, 86_400_000)  # between two heartbeats

Kinds = Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(min_length=1, max_length=64)]


class WebhookBody(Hidden, Body, frozen=True):
    """A receiver: its URL, the form of the bodies, and the kinds of events; all without ``events``, later ones too."""

    # A receiver with ``heartbeat_ms`` gets a heartbeat at this interval and no events; ``get`` is for heartbeats.
    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL_CHARS)]
    format: Format = "json"
    events: Kinds | None = None
    heartbeat_ms: Annotated[int, Meta(ge=HEARTBEAT_MS[0], le=HEARTBEAT_MS[1])] | None = None


class WebhookTestQuery(Query, frozen=True):
    """The kind of event that the test is to look like; that of a test if omitted."""

    event: Annotated[str, Meta(max_length=64)] | None = None


class WebhookShown(RouteAnswer, frozen=True):
    """A receiver; its path and secret are never shown.

    ``error`` is why the last attempt failed, and null after one that was taken.  ``state`` is ``gone`` after the
    receiver answered 410.  ``heartbeat_ms`` is the interval of one that gets heartbeats and no events.
    """

    id: str
    origin: str
    format: Format
    events: tuple[str, ...]
    state: Literal["active", "gone", "removed"]
    waiting: int
    failed: int
    delivered_at: int | None
    failed_at: int | None
    error: str | None
    created_at: int
    by: str
    heartbeat_ms: int | None


class WebhookAdded(Hidden, RouteAnswer, frozen=True):
    """A new receiver, and the secret that signs what it gets; the secret is shown here alone."""

    webhook: WebhookShown
    secret: str


class Webhooks(RouteAnswer, frozen=True):
    """All receivers, the oldest first, and the kinds of events that there are."""

    webhooks: list[WebhookShown]
    kinds: tuple[str, ...]


class WebhookTested(RouteAnswer, frozen=True):
    """Whether the receiver took a test, its status, and why it did not."""

    taken: bool
    status: int | None
    error: str | None


class NotificationShown(RouteAnswer, frozen=True):
    """A notification that its receiver has not taken; ``next_at`` is null once it has failed."""

    id: str
    webhook: str
    kind: str
    at: int
    facts: dict[str, Any]
    state: str
    tries: int
    next_at: int | None
    error: str | None


class Notifications(Paged, frozen=True):
    """A page of notifications, the newest first."""

    notifications: list[NotificationShown]


class NotificationQuery(PageQuery, frozen=True):
    """Which notifications: those that wait, or those that have failed; of one receiver."""

    state: Literal["waiting", "failed"] | None = None
    webhook: Annotated[str, Meta(max_length=32)] | None = None


ENDPOINTS, endpoint = collect(Endpoint)


@endpoint("POST", "/v1/webhooks", WRITE, WebhookBody, status=201, problems=("conflict",))
def add_webhook(call: RouteCall) -> WebhookAdded:
    """Add a receiver of notifications, with a new secret."""
    mint, body, by = call.mint, call.body, call.authenticated.actor
    kinds = tuple(dict.fromkeys(body.events or ()))
    if body.heartbeat_ms is not None and (kinds or body.format == "slack"):
        raise RequestError("invalid webhook: expected a heartbeat without events, in the format json or get")
    if body.heartbeat_ms is None and body.format == "get":
        raise RequestError("invalid format: expected json or slack; get is for a heartbeat")
    if unknown := [kind for kind in kinds if kind not in NOTIFIED]:
        raise RequestError(f"invalid events: expected some of {', '.join(NOTIFIED)}, got {', '.join(unknown)}")
    if set(kinds) == set(NOTIFIED):
        kinds = ()
    stored = kinds if body.heartbeat_ms is None else (HEARTBEAT,)
    receiver = Receiver(check_url(body.url, mint.realm.webhook_hosts), new_secret())
    name = new_name("w-")
    sealed = seal_receiver(mint.root_keys, name, receiver)
    row = WebhookRow(
        id=name,
        origin=origin_of(receiver.url),
        format=body.format,
        kinds=stored,
        created_at=now_ms(),
        by=by,
        nonce=sealed.nonce,
        sealed=sealed.sealed,
        heartbeat_ms=body.heartbeat_ms,
    )
    facts = {"origin": row.origin, "format": body.format, "events": stored or "all"}
    mint.db.webhooks.add(row, Event.of("webhook.added", by, webhook=row.id, **facts))
    return WebhookAdded(webhook=_show(_find(call, row.id)), secret=receiver.secret)


@endpoint("GET", "/v1/webhooks", READ)
def list_webhooks(call: RouteCall) -> Webhooks:
    """List the receivers of notifications."""
    webhooks = call.mint.db.webhooks
    counts = webhooks.counts()
    return Webhooks(webhooks=[_show(row, counts) for row in webhooks.list()], kinds=tuple(NOTIFIED))


@endpoint("DELETE", "/v1/webhooks/{webhook}", WRITE, problems=("not_found",))
def delete_webhook(call: RouteCall) -> WebhookShown:
    """Remove a receiver, and what waits for it."""
    mint, webhook = call.mint, _find(call, call.path["webhook"]).id
    mint.db.webhooks.remove(webhook, Event.of("webhook.removed", call.authenticated.actor, webhook=webhook))
    return _show(_find(call, webhook))


@endpoint("POST", "/v1/webhooks/{webhook}/test", WRITE, query=WebhookTestQuery, problems=("not_found", "conflict"))
def test_webhook(call: RouteCall) -> WebhookTested:
    """Send a test to a receiver, once, and return what it answered."""
    row = _find(call, call.path["webhook"])
    if row.ended_at is not None:
        raise GrantError(f"{row.id} is {row.ended_why}: add it again", code="conflict")
    kind = call.query.event
    if kind is not None and kind not in (*NOTIFIED, HEARTBEAT):
        raise RequestError(f"invalid event: expected one of {', '.join((*NOTIFIED, HEARTBEAT))}, got {kind}")
    outcome = call.mint.notifications.test(row, kind or TEST, call.authenticated.actor)
    return WebhookTested(taken=outcome.error is None, status=outcome.status, error=outcome.error)


@endpoint("GET", "/v1/notifications", READ, query=NotificationQuery)
def list_notifications(call: RouteCall) -> Notifications:
    """List the notifications that wait or have failed."""
    query: NotificationQuery = call.query
    rows = call.mint.db.notifications.page(
        status=query.state, webhook=query.webhook, after=query.after, limit=query.limit + 1
    )
    page = page_of(rows, NOTIFICATIONS_ORDER, _show_notification, limit=query.limit)
    return Notifications(notifications=page.shown, next=page.next)


@endpoint("POST", "/v1/notifications/{notification}/resend", WRITE, problems=("not_found", "conflict"))
def resend_notification(call: RouteCall) -> NotificationShown:
    """Send a notification again, with the same id and all attempts anew."""
    name, by = call.path["notification"], call.authenticated.actor
    return _show_notification(
        call.mint.db.notifications.resend(name, Event.of("webhook.resent", by, notification=name))
    )


def _find(call: RouteCall, webhook: str) -> WebhookRow:
    return require_row(call.mint.db.webhooks.find(webhook), "webhook")


def _show(row: WebhookRow, counts: Mapping[tuple[str, str], int] = {}) -> WebhookShown:
    return show_row(
        WebhookShown,
        row,
        events=row.kinds or tuple(NOTIFIED),
        state="active" if row.ended_at is None else row.ended_why,
        waiting=counts.get((row.id, WAITING), 0),
        failed=counts.get((row.id, FAILED), 0),
    )


def _show_notification(row: NoticeRow) -> NotificationShown:
    next_at = row.next_at if row.status == WAITING else None
    return show_row(NotificationShown, row, at=row.at_ms, state=row.status, next_at=next_at)
