# SPDX-License-Identifier: Apache-2.0
"""*Notifications*: the receivers, what each has not taken, and the forms that add, test, remove and send again."""

import secrets
from typing import Any, Final

from starlette.responses import Response

from arx_caps.console.submissions import Submissions
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.events.webhooks import (
    WebhookAdded,
    add_webhook,
    delete_webhook,
    list_notifications,
    list_webhooks,
    resend_notification,
    test_webhook,
)

HOME: Final = "/console/notifications"
STATES: Final = ("failed", "waiting")
SHOWN: Final = 50
HEARTBEATS: Final = {"": "none: it gets events", "60000": "every minute", "300000": "every 5 minutes"}  # choices, ms
_EVENT: Final = "event:"  # of the names of the boxes: a form's field may be sent once
# With the secret, which is shown once: of a form that is sent twice, the browser shows the second answer alone.
_ADDED: Final = Submissions[WebhookAdded]()


def add(visit: Visit) -> Response:
    """Add a receiver, and show its secret this once."""
    events = [name.removeprefix(_EVENT) for name in visit.form if name.startswith(_EVENT)]
    body: dict[str, Any] = {
        "url": visit.form.get("url", "").strip(),
        "format": visit.form.get("format", "json"),
        "events": events,
    }
    if heartbeat := visit.form.get("heartbeat", ""):
        body |= {"heartbeat_ms": int(heartbeat) if heartbeat in HEARTBEATS else 0, "events": None}
    sent = (visit.operator.id, visit.form.get("form", ""), *map(str, body.values()))
    return show_notifications(visit, added=_ADDED.once(sent, lambda: visit.call(add_webhook, body=body)))


def test(visit: Visit) -> Response:
    """Send a test to a receiver, and show what it answered."""
    webhook = visit.request.path_params["webhook"]
    return show_notifications(visit, tested=(webhook, visit.call(test_webhook, path={"webhook": webhook})))


def remove(visit: Visit) -> Response:
    """Remove a receiver, and what waits for it."""
    visit.call(delete_webhook, path={"webhook": visit.request.path_params["webhook"]})
    return visit.redirect(HOME)


def resend(visit: Visit) -> Response:
    """Send a notification again."""
    visit.call(resend_notification, path={"notification": visit.form.get("notification", "")})
    return visit.redirect(HOME, state="waiting")


def show_notifications(visit: Visit, **values: Any) -> Response:
    """Show the receivers, and the notifications that failed, or wait."""
    state = visit.query.get("state", "failed")
    found = visit.call(list_notifications, query={"state": state, "limit": SHOWN, "after": visit.query.get("after")})
    return visit.render(
        "notifications.html",
        title="Notifications",
        command=f"arx webhook list; arx webhook failed --state {state}",
        receivers=visit.call(list_webhooks),
        found=found,
        state=state,
        states=STATES,
        heartbeats=HEARTBEATS,
        form=secrets.token_hex(8),
        **{"added": None, "tested": None, **values},
    )


PAGES: Final = (
    Page("GET", HOME, show_notifications),
    Page("POST", HOME, add),
    Page("POST", f"{HOME}/resend", resend),
    Page("POST", f"{HOME}/{{webhook}}/test", test),
    Page("POST", f"{HOME}/{{webhook}}/remove", remove),
)
